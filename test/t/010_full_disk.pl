# Full disks: a safekeeper refuses WAL and keeps its votes, two make commits wait, a pageserver stops writing layers; with space
# again everything goes on by itself, and nothing acknowledged was lost.  Needs root, to mount small file systems.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use Ledger;
use NeonCluster;
use Test::More;
use Time::HiRes qw(sleep);
use WalTools;

my %disk;
my $c;

sub run_quietly { return system("$_[0] >/dev/null 2>&1") == 0; }

sub make_disk
{
	my ($node, $mb) = @_;
	my $at = "/tmp/neon_disk_${$}_$node";
	mkdir $at;
	run_quietly("mount -t tmpfs -o size=${mb}M,mode=755 neon_test $at") or do { rmdir $at; return; };
	$disk{$node} = $at;
	return $at;
}

sub resize { my ($node, $mb) = @_; return run_quietly("mount -o remount,size=${mb}M $disk{$node}"); }

END
{
	local $?;
	$c->destroy if $c;
	for (values %disk) { run_quietly("umount -l $_"); rmdir $_; }
}

plan skip_all => 'only root can mount' if $> != 0;
plan skip_all => 'cannot mount a tmpfs here' unless make_disk('probe', 1);

$c = NeonCluster->new(conf => {
	(map { ("safekeeper-$_" => "min_wal_size = 32MB\nmax_wal_size = 48MB\nneon_safekeeper.disk_reserve = 64MB") } 1, 2),
	'pageserver-1' => "min_wal_size = 32MB\nmax_wal_size = 48MB\nneon_pageserver.checkpoint_distance = 4MB\nneon_pageserver.open_layer_memory = 64MB\n"
	  . "neon_pageserver.disk_reserve = 64MB" });
my %size = ('safekeeper-1' => 256, 'safekeeper-2' => 336, 'pageserver-1' => 320);
for my $node (sort keys %size)
{
	my $at = make_disk($node, $size{$node}) or die "mount: $!";
	system("mv $c->{dir}/$node $at/data && ln -s $at/data $c->{dir}/$node && chown -h postgres $c->{dir}/$node") == 0 or die;
}
$c->start;
my $l = Ledger->new(dir => "$c->{tmp}/ledger", writers => 2, dsn => [ Ledger::dsn_of_uri($c->uri('main')) ]);
$l->setup($c);

sub log_of { return $c->local('logs', '-D', $c->{dir}, $_[0]); }
sub acked { my $n = 0; for my $w (1, 2) { open my $f, '<', "$c->{tmp}/ledger/w$w" or next; $n++ while <$f>; } return $n; }
sub goes_on { my $before = acked(); return $c->poll('commits go on', 60, sub { acked() > $before + 10 }); }
sub write_wal { my ($mb) = @_; $c->sql('main', "SELECT count(pg_logical_emit_message(false, 'x', repeat('y', 1000000))) FROM generate_series(1, $mb)"); return; }
sub free_mb { my ($node) = @_; my ($line) = (split /\n/, `df -m --output=avail $disk{$node}`)[1]; return $line + 0; }

my %pid = map { $_ => $c->pid($_) } keys %size;

# ---- one safekeeper's disk is full ----
$l->start;
write_wal(20) for 1 .. 8;
ok($c->poll('it refuses WAL', 60, sub { log_of('safekeeper-1') =~ /the safekeeper's disk is full: WAL is refused/ }), 'a safekeeper with a full disk refuses WAL');
ok(goes_on(), 'the two others go on');
cmp_ok(free_mb('safekeeper-1'), '>=', 48, 'it keeps a reserve for itself');
is($c->pid('safekeeper-1'), $pid{'safekeeper-1'}, 'its server has not crashed');
unlike(log_of('safekeeper-1'), qr/PANIC|terminated by signal/, 'nor any process of it');

# ---- a second one ----
my ($out, $err) = ('', '');
my $h = IPC::Run::start([ 'psql', '-X', '-q', '-c', "SELECT count(pg_logical_emit_message(false, 'x', repeat('y', 1000000))) FROM generate_series(1, 120)", $c->uri('main') ],
	'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(300));
ok($c->poll('it refuses WAL', 120, sub { log_of('safekeeper-2') =~ /the safekeeper's disk is full: WAL is refused/ }), 'so does a second one');
ok($c->poll('commits wait', 60, sub {
	$c->sql('main', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'}) >= 2 }), 'and commits wait');
# what has just been acknowledged may not be noted yet
my $stuck = -1;
$c->poll('what was acknowledged is noted', 60, sub { my $before = $stuck; $stuck = acked(); sleep 1; $stuck == $before });
sleep 2;
is(acked(), $stuck, 'none is acknowledged');
# an election is possible with full disks: votes need no new segment
$c->kill9('main');
$h->kill_kill;
my $start = IPC::Run::start([ $NeonCluster::NEON_LOCAL, 'start', '-D', $c->{dir}, 'main' ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(240));
sleep 2;
resize('safekeeper-1', 512);
$start->finish;
is($start->result(0), 0, 'a compute that is started meanwhile comes up when one of them has space again') or diag($err);
ok(goes_on(), 'commits go on');
resize('safekeeper-2', 600);
my $lsn = $c->sql('main', 'SELECT pg_current_wal_flush_lsn()');
ok($c->poll('both catch up', 120, sub { my $s = sk_states($c); !grep { $_->{commit} < lsn_number($lsn) } values %$s }), 'with space again both catch up, by themselves');
is($c->pid($_), $pid{$_}, "$_ was never restarted") for qw(safekeeper-1 safekeeper-2);
my ($acked, $missing) = $l->check;
is_deeply($missing, [], "all $acked acknowledged commits are there");

# ---- not one byte is left, and the safekeeper crashes ----
system("dd if=/dev/zero of=$disk{'safekeeper-1'}/junk bs=1M >/dev/null 2>&1");
is(free_mb('safekeeper-1'), 0, 'not one byte is left');
write_wal(30);
for my $n (1 .. 3)
{
	$c->kill9('main');
	$c->start('main');
}
ok(goes_on(), 'three elections, and commits go on');
$c->kill9('safekeeper-1');
# it may or may not come up like this: its own server has nowhere to write to
eval { $c->start('safekeeper-1') };
unlink "$disk{'safekeeper-1'}/junk";
ok($c->poll('it starts', 60, sub { $c->start('safekeeper-1'); 1 }), 'with space again it starts');
$c->kill9('safekeeper-3');
ok(goes_on(), 'and makes a quorum with another');
$c->start('safekeeper-3');
is($c->node_sql('safekeeper-1', q{SELECT string_agg(state, ' ') FROM neon_safekeeper.timelines}), 'active', 'its log is whole');
$l->stop;
($acked, $missing) = $l->check;
is_deeply($missing, [], "all $acked acknowledged commits are there");

# ---- the pageserver's ----
$c->sql('main', 'CREATE TABLE big (id int PRIMARY KEY, v int, pad text); INSERT INTO big SELECT i, 0, md5(i::text) || md5((-i)::text) FROM generate_series(1, 60000) i');
my $sum = 0;
for (1 .. 30)
{
	last if log_of('pageserver-1') =~ /disk is full|No space left/;
	$c->sql('main', "UPDATE big SET v = v + 1, pad = md5(pad || v) || md5(v || pad)");
	$sum++;
}
ok($c->poll('it says so', 60, sub { log_of('pageserver-1') =~ /disk is full|No space left/ }), "a pageserver's disk is full after $sum rounds of updates");
$c->sql('main', q{UPDATE big SET v = v + 1}), $sum++ for 1 .. 2;
is($c->sql('main', 'INSERT INTO ledger VALUES (100, 1) RETURNING seq'), '1', 'commits go on');
is($c->pid('pageserver-1'), $pid{'pageserver-1'}, 'its server has not crashed');
unlike(log_of('pageserver-1'), qr/PANIC|terminated by signal/, 'nor any process of it');
resize('pageserver-1', 1500);
is($c->sql('main', 'SELECT count(*), min(v), max(v) FROM big'), "60000|$sum|$sum", 'with space again reads are right');
$c->stop('main');
$c->start('main');
is($c->sql('main', 'SELECT count(*), min(v), max(v) FROM big'), "60000|$sum|$sum", 'after a start of the compute, too');
$c->node_sql('pageserver-1', 'SELECT neon_pageserver.checkpoint()');
$c->kill9('pageserver-1');
$c->start('pageserver-1');
$c->stop('main');
$c->start('main');
is($c->sql('main', 'SELECT count(*), min(v), max(v) FROM big'), "60000|$sum|$sum", 'and after a crash of the pageserver');
is($c->sql('main', 'SELECT count(*) FROM ledger WHERE w = 100'), '1', 'the commit of the full hour is there');

done_testing();
