# With one sync taken out, the crash of 010_fsync.pl is noticed: commits are lost, or the node says what it misses.
#
# The servers are the same; the disk (test/shim) says of some files that they are durable when they are not.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use CrashDisk;
use IPC::Run;
use Ledger;
use NeonCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my @SK = map { "safekeeper-$_" } 1 .. 3;
my @STORAGE = (@SK, 'pageserver-1');
my $t0 = time;
sub lap { diag(sprintf '%5.1f s %s', time - $t0, $_[0]) if $ENV{NEON_LAPS}; }

my $c = NeonCluster->new(conf => {
		(map { $_ => "checkpoint_timeout = 1h\nneon_safekeeper.checkpoint_interval = 1h\n" } @SK), 'pageserver-1' => "checkpoint_timeout = 1h\n" });
my $d = CrashDisk->new($c, @STORAGE);
$d->start($_) for @STORAGE;
$c->start;
my $main = $c->status->{main}{dir};
my $sk_dir = $d->timeline_dir('safekeeper-1');
$sk_dir =~ s{^.*/(neon_safekeeper/)}{$1};
$c->sql('main', 'CREATE TABLE ledger (w int, seq int, pad text, PRIMARY KEY (w, seq)); CREATE EXTENSION amcheck');
$c->stop('main');
$c->stop($_) for @STORAGE;
$d->save($_) for @STORAGE;
lap('cluster');

# The nodes as they were saved.  A pageserver alone may be older than the safekeepers: they have all WAL.
sub go_back
{
	my (@nodes) = @_;
	$d->kill9('main', @nodes);
	system('rm', '-rf', $main);
	$d->restore($_) for @nodes;
	$d->start($_) for @nodes;
	$c->start('main');
	lap('back');
}

# Commits for a moment, with the disks of the nodes as they are told; then the crash of all.  What is missing afterwards, or why it does not start.
my $ledgers = 0;
sub lost_after_crash
{
	my ($before, %control) = @_;
	my $l = Ledger->new(dir => "$c->{tmp}/ledger" . ++$ledgers, writers => 2, dsn => [ Ledger::dsn_of_uri($c->uri('main')) ]);
	$l->{base} = { map { $_ => $ledgers * 1000000 } 1, 2 };
	$c->sql('main', "INSERT INTO ledger VALUES (0, -$ledgers)");
	$d->control($_, @{ $control{$_} }) for grep { $_ ne 'wait_for' } keys %control;
	$c->sql('main', $before) if $before;
	$l->start;
	sleep 1;
	$c->poll('commits are acknowledged', 60, sub { -s "$c->{tmp}/ledger$ledgers/w1" > 100 && -s "$c->{tmp}/ledger$ledgers/w2" > 100 });
	if (my $honest = delete $control{wait_for})
	{
		$l->stop;
		my $end = $c->sql('main', 'SELECT pg_current_wal_flush_lsn()');
		$c->poll("$_ has all that was acknowledged", 30, sub {
			$c->node_sql($_, "SELECT flush_lsn >= '$end' FROM neon_safekeeper.timelines WHERE timeline = '@{[ $d->timeline ]}'") eq 't' }) or return "$_ is behind"
			for @$honest;
	}
	$d->kill9('main', @STORAGE);
	$l->stop;
	system('rm', '-rf', $main);
	$d->lose($_) for @STORAGE;
	$d->start($_) for @STORAGE;
	my ($acked, $missing) = eval { $c->start('main'); $l->check };
	return $@ || { acked => $acked, missing => scalar @$missing };
}

sub lost_is
{
	my ($lost, $what) = @_;
	my $ok = ref $lost && $lost->{missing} > 0;
	ok($ok, $what . (ref $lost ? ": $lost->{missing} of $lost->{acked} are lost" : '')) or diag(ref $lost ? '' : $lost);
}

# ---- nothing taken out: what follows is the mutants' doing ----
$d->start($_) for @STORAGE;
$c->start('main');
lap('started');
my $lost = lost_after_crash('SELECT pg_switch_wal()');
is(ref $lost ? $lost->{missing} : $lost, 0, 'with all syncs nothing is lost');
lap('control');

# ---- one liar loses nothing that two others have synced ----
# (Without the wait it may: an acknowledgement by the liar and one other is no quorum once the liar has forgotten.)
$lost = lost_after_crash(undef, 'safekeeper-2' => ["ignore fdatasync $sk_dir/0000*"], wait_for => [ 'safekeeper-1', 'safekeeper-3' ]);
is(ref $lost ? $lost->{missing} : $lost, 0, 'one safekeeper that does not sync: nothing is lost');
lap('one');

# ---- layers of the pageserver ----
my $log_at = 0;
sub new_log { my $log = CrashDisk::slurp("$c->{dir}/logs/pageserver-1.log"); my $new = substr $log, $log_at; $log_at = length $log; return $new; }

for my $m ([ 'content of layers', sub { "ignore sync $_[0]/delta-*" }, qr/is damaged|could not open|could not read/ ],
	[ 'names of layers', sub { "ignore fsync $_[0]" }, qr/could not open layer file/ ])
{
	my ($what, $line, $message) = @$m;
	chomp(my $dir = `find $c->{dir}/pageserver-1/neon_pageserver -name 'image-*' -printf '%h'`);
	$dir =~ s{^.*/(neon_pageserver/)}{$1};
	$d->control('pageserver-1', $line->($dir));
	$c->sql('main', q{INSERT INTO ledger SELECT 3, (SELECT coalesce(max(seq), 0) FROM ledger) + g, repeat('x', 100) FROM generate_series(1, 20000) g});
	$c->node_sql('pageserver-1', q{SELECT neon_pageserver.checkpoint()});
	my @files = split /\n/, $c->node_sql('pageserver-1', q{SELECT file FROM neon_pageserver.layer WHERE file LIKE 'delta-%'});
	cmp_ok(scalar @files, '>', 0, "$what are not synced: rows for " . @files . ' files');
	$d->kill9('main', 'pageserver-1');
	system('rm', '-rf', $main);
	$d->lose('pageserver-1');
	new_log();
	$d->start('pageserver-1');
	my ($log, $o, $e) = ('', '', '');
	my $start = IPC::Run::start([ $NeonCluster::NEON_LOCAL, 'start', '-D', $c->{dir}, 'main' ], '<', '/dev/null', '>', \$o, '2>', \$e);
	my $named = $c->poll('a layer is missed', 60, sub { $log .= new_log(); grep { $log =~ /ERROR:  .*$message/ && $log =~ /ERROR:  .*\Q$_\E/ } @files });
	ok($named, 'who reads them gets an error that names the layer') or diag($log);
	$start->kill_kill(grace => 1);
	$c->stop('main');
	lap($what);
	go_back('pageserver-1');
}

# ---- a safekeeper's term file, another one's catalog ----
sub vote
{
	my ($node, $line) = @_;
	my $before = $d->safekeeper($node);
	$d->control($node, $line);
	$c->stop('main');
	$c->start('main');
	ok($c->poll("$node votes", 30, sub { $d->safekeeper($node)->{term} > $before->{term} }), "$node takes part in an election");
	my $voted = $d->safekeeper($node);
	$d->kill9($node);
	$d->lose($node);
	$d->start($node);
	return ($before, $voted);
}

vote('safekeeper-2', "ignore sync $sk_dir/term*");
is($c->node_sql('safekeeper-2', q{SELECT state || ': ' || problem FROM neon_safekeeper.timelines}),
	'broken: the term file beside the WAL is damaged', 'its term file is not synced: it says so, and does not vote');

my ($before, $voted) = vote('safekeeper-3', 'ignore sync pg_wal/*');
my $after = $d->safekeeper('safekeeper-3');
is("$after->{term} $after->{file_term}", "$before->{term} $voted->{term}", 'its catalog is not synced: it has forgotten a vote');
is("$after->{state}: $after->{problem}",
	"broken: the catalog has forgotten votes: it has term $before->{term}, the term file $voted->{term}", 'it says so, and does not vote');
my ($rc, $out, $err) = $c->psql_uri($c->uri('main'), 'INSERT INTO ledger VALUES (0, 2)', timeout => 3);
isnt($rc, 0, 'one that votes is no quorum, though all run');
lap('votes');

# ---- the safekeepers' WAL ----
go_back(@STORAGE);
lost_is(lost_after_crash(undef, map { $_ => ["ignore fdatasync $sk_dir/0000*"] } @SK), 'WAL is not synced: acknowledged commits');
is(join(' ', map { $d->safekeeper($_)->{state} } @SK), 'active active active', 'and the safekeepers cannot know');
lap('wal');

go_back(@STORAGE);
lost_is(lost_after_crash('SELECT pg_switch_wal()', map { $_ => ["ignore fsync $sk_dir"] } @SK),
	'names of new segments are not synced: acknowledged commits');
lap('names');

done_testing();
