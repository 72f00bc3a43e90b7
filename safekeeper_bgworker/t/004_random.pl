# Pieces of any length, new terms that truncate, other sessions, crashes: the log is always what the model says.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SkTest;
use Test::More;

my $seed = $ENV{SK_SEED} // 20240607;
srand $seed;
note "seed $seed";

my $donor = new_donor();
my $sk = new_safekeeper('sk', 1);
my $from = $donor->safe_psql('postgres', 'SELECT redo_lsn FROM pg_control_checkpoint()');
for (1 .. 4)
{
	$donor->safe_psql('postgres',
		"INSERT INTO t SELECT g, repeat('x', (random() * 3000)::int) FROM generate_series(1, 4000) g; SELECT pg_switch_wal()");
}
$donor->safe_psql('postgres', "INSERT INTO t SELECT g, 'x' FROM generate_series(1, 1000) g; CHECKPOINT");
my @ends = map { lsn_number($_) } record_bounds($donor, $from);
my $start = $ends[3];
my $last = $ends[-1];
sub lsn { return sprintf '%X/%X', int($_[0] / 4294967296), $_[0] % 4294967296 }
create_timeline($sk, $donor, lsn($start));
my $dir = $sk->data_dir . "/neon_safekeeper/pgsql_tmp/$TENANT/$TIMELINE";

# the model
my ($term, $write, $flush, $commit) = (0, $start, $start, $start);
my @history;

# the last record end at or below an LSN, by bisection
sub record_end
{
	my ($lsn) = @_;
	my ($lo, $hi) = (3, $#ends);
	while ($lo < $hi)
	{
		my $mid = int(($lo + $hi + 1) / 2);
		if ($ends[$mid] <= $lsn) { $lo = $mid }
		else { $hi = $mid - 1 }
	}
	return $ends[$lo];
}

sub history_text { return join ',', map { "$_->[0]:" . lsn($_->[1]) } @history }

# A campaign: a new term that begins at a record end not below commit.
sub campaign
{
	my $at = record_end($commit + int(rand($flush - $commit + 1)));
	$at = $start if $at < $start;
	$term++;
	@history = grep { $_->[1] <= $at } @history;
	my $streaming_at = $at;
	push @history, [ $term, $at ];
	my @a = proposer($sk, $donor,
		"greet\nvote $term\nelected $term " . lsn($streaming_at) . ' ' . history_text() . "\nheartbeat $term " . lsn($commit));
	($write, $flush) = ($at, $at);
	return $a[3] // 'nothing';
}

sub check
{
	my ($what, $answer) = @_;
	my $want = "ack term=$term write=" . lsn($write) . ' flush=' . lsn($flush) . ' commit=' . lsn($commit);
	is($answer, $want, "$what at " . lsn($write)) or BAIL_OUT("seed $seed");
}

check('first term', campaign());
for my $round (1 .. 40)
{
	my $dice = rand;
	if ($dice < 0.6)
	{
		my $to = $write + 1 + int(rand(rand() < 0.3 ? 9_000_000 : 30_000));
		$to = $last if $to > $last;
		next if $to == $write;
		$commit = record_end($commit + int(rand($flush - $commit + 1))) if rand() < 0.5;
		my @a = proposer($sk, $donor, "greet\nappend $term " . lsn($write) . ' ' . lsn($to) . ' ' . lsn($commit));
		($write, $flush) = ($to, record_end($to));
		check('append', $a[2] // 'nothing');
	}
	elsif ($dice < 0.8)
	{
		check('new term', campaign());
	}
	else
	{
		$dice < 0.9 ? crash_and_start($sk) : $sk->restart;
		$sk->poll_query_until('postgres', "SELECT count(*) = 1 FROM neon_safekeeper.timelines WHERE state = 'active'") or die;
		# a record whose switch ends the segment is complete on disk without its zero fill
		my $found = lsn_number(state($sk, 'flush_lsn'));
		cmp_ok($found, '>=', $flush, 'after a crash the log is not shorter');
		is($found, record_end($found), 'and ends with a record');
		cmp_ok($found, '<=', (grep { $_ >= $write } @ends)[0], 'nor longer');
		($write, $flush) = ($found, $found);
		my @a = proposer($sk, $donor, "greet\nheartbeat $term " . lsn($commit));
		check('after start', $a[2] // 'nothing');
	}
}

# What is on disk is the donor's, and nothing follows it.
my ($differ, $behind) = (0, 0);
for (my $pos = $start; $pos < $write;)
{
	my $segment = int($pos / $SEGMENT);
	my $name = sprintf '00000001%08X%08X', $segment / 256, $segment % 256;
	my ($ours, $theirs) = (slurp_file("$dir/$name"), slurp_file($donor->data_dir . "/pg_wal/$name"));
	my $end = ($segment + 1) * $SEGMENT;
	my $n = ($end < $write ? $end : $write) - $pos;
	$differ++ if substr($ours, $pos % $SEGMENT, $n) ne substr($theirs, $pos % $SEGMENT, $n);
	$behind++ if $end > $write && substr($ours, $write % $SEGMENT) !~ /\A\0*\z/;
	$pos += $n;
}
is($differ, 0, 'the log has the bytes that were sent');
is($behind, 0, 'nothing is behind it');

$sk->stop;
$donor->stop;
done_testing();
