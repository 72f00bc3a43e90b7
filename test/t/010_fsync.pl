# The machines of all safekeepers and of the pageserver crash at once, and their disks forget what was not synced (or a random part
# of it): nothing that was acknowledged is lost.  With a sync taken out, the same check finds the loss.
#
# NEON_SEED repeats the choices of a run (not its timing); NEON_FSYNC_ROUNDS makes it longer.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use CrashDisk;
use Ledger;
use NeonCluster;
use Digest::MD5;
use IPC::Run;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{NEON_SEED} // (time ^ ($$ << 8)) & 0x7fffffff;
my $rounds = $ENV{NEON_FSYNC_ROUNDS} // 4;
srand($seed);
diag("NEON_SEED=$seed");

my @SK = map { "safekeeper-$_" } 1 .. 3;
my @STORAGE = (@SK, 'pageserver-1');
my $t0 = time;
sub lap { diag(sprintf '%5.1f s %s', time - $t0, $_[0]) if $ENV{NEON_LAPS}; }

my $c = NeonCluster->new(conf => {
		(map { $_ => "checkpoint_timeout = 1h\n" } @SK),
		'pageserver-1' => "neon_pageserver.checkpoint_distance = 1MB\ncheckpoint_timeout = 1h\n" });
my $d = CrashDisk->new($c, @STORAGE);
lap('init');
$d->start($_) for @STORAGE;
$c->start;
lap('start');
is($c->node_sql($_, 'SHOW wal_sync_method'), 'fdatasync', "$_ syncs its WAL with a call that is watched") for @STORAGE;

my $l = Ledger->new(dir => "$c->{tmp}/ledger", writers => 4, dsn => [ Ledger::dsn_of_uri($c->uri('main')) ]);
$l->setup($c);
my ($out, $err);
IPC::Run::run([ 'pgbench', '-i', '-q', '-s', '1', $c->uri('main') ], '>', \$out, '2>', \$err) or die "pgbench -i: $err";
my $balance = q{SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
	AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
	AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)};
lap('data');

# Writers at work for a moment, then `during`, then the power fails everywhere.
sub work_and_die
{
	my ($seconds, $during) = @_;
	my ($bo, $be) = ('', '');
	my $bench = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-T', '60', $c->uri('main') ], '>', \$bo, '2>', \$be);
	$l->start;
	sleep($seconds);
	$during->() if $during;
	$d->kill9('main', @STORAGE);
	$l->stop;
	$bench->kill_kill(grace => 1);
	system('rm', '-rf', $c->status->{main}{dir});
}

sub position { my ($node, $which) = @_; return $c->node_sql($node, "SELECT $which - '0/0' FROM neon_safekeeper.timelines WHERE timeline = '@{[ $d->timeline ]}'"); }

# What is committed is the same in all of them, byte for byte.
sub committed_wal
{
	my ($node, $until) = @_;
	my $dir = $d->timeline_dir($node);
	my $start = position($node, 'start_lsn');
	my $md5 = Digest::MD5->new;
	for my $path (sort glob "$dir/0000*")
	{
		my $bytes = CrashDisk::slurp($path);
		my ($hi, $lo) = $path =~ /([0-9A-F]{8})([0-9A-F]{8})$/;
		my $at = (hex($hi) * 256 + hex($lo)) * length $bytes;
		my ($from, $to) = ($start > $at ? $start - $at : 0, $until - $at);
		$to = length $bytes if $to > length $bytes;
		$md5->add(substr $bytes, $from, $to - $from) if $to > $from;
	}
	return $md5->hexdigest;
}

my %lost;
for my $round (1 .. $rounds)
{
	work_and_die(1 + rand 1.5, sub {
		# what a checkpoint makes durable is not in WAL any more
		for my $n (grep { rand() < 0.3 } @STORAGE) { $c->node_sql($n, 'CHECKPOINT'); }
		$c->node_sql('pageserver-1', 'SELECT neon_pageserver.checkpoint()') if rand() < 0.3;
		$c->sql('main', 'SELECT pg_switch_wal()') if rand() < 0.5;
		sleep(rand 0.5);
		$c->sql('main', "SELECT neon_create_branch('branch-$round')");
	});
	lap("round $round: killed");
	my $random = $round % 2 ? undef : int rand 1e9;
	for my $n (@STORAGE)
	{
		my $r = $d->lose($n, defined $random ? $random++ : undef);
		$lost{$n}{$_} += $r->{$_} for keys %$r;
	}
	lap("round $round: lost");
	$d->start($_) for @STORAGE;
	lap("round $round: storage started");
	$c->start('main');
	lap("round $round: main started");
	my ($acked, $missing) = $l->check;
	is_deeply($missing, [], "round $round: all $acked acknowledged commits are there");
	is($c->sql('main', $balance), 't', "round $round: balances agree");
	is(join(' ', map { "$_->{state} $_->{wal} " . ($_->{term} - $_->{file_term}) } map { $d->safekeeper($_) } @SK), 'active t 0 active t 0 active t 0',
		"round $round: safekeepers vote; their catalogs and term files agree");
	is(join(' ', map { $c->node_sql($_, 'SELECT count(*) FROM neon_' . ($_ =~ /^page/ ? 'pageserver' : 'safekeeper') . '.timeline') } @STORAGE),
		join(' ', ($round + 1) x 4), "round $round: so are all branches");
	lap("round $round: checked");
}
for my $n (@STORAGE)
{
	my $r = $lost{$n};
	cmp_ok($r->{pages_lost}, '>', 0, "$n: " . join ' ', map { "$_=$r->{$_}" } sort keys %$r);
}
my $end = $c->sql('main', q{INSERT INTO ledger VALUES (0, 1); SELECT pg_current_wal_flush_lsn() - '0/0'});
ok($c->poll('all safekeepers know the commit', 30, sub {
	3 == grep { position($_, 'commit_lsn') >= $end } @SK }), 'all safekeepers know the commit');
my @sums = map { committed_wal($_, $end) } @SK;
is_deeply(\@sums, [ ($sums[0]) x 3 ], 'their logs are equal up to it');
$c->sql('main', q{CREATE EXTENSION amcheck});
is($c->sql('main', q{SELECT count(bt_index_check(indexrelid, true)) > 0 FROM pg_index JOIN pg_class c ON c.oid = indexrelid
	WHERE c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree') AND c.relpersistence = 'p' AND indisvalid}), 't', 'amcheck finds nothing');
lap('rounds');

done_testing();
