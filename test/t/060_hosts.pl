# A cluster across hosts: each node in a network namespace with an address of its own.  Cables are pulled; what has a quorum goes on, what has
# none waits, and everything heals; nothing that was acknowledged is lost.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Hosts;
use NeonCluster;
use Test::More;
use Time::HiRes qw(sleep);

plan skip_all => 'network namespaces cannot be made here' unless Hosts::possible();

my @nodes = qw(controller pageserver-1 safekeeper-1 safekeeper-2 safekeeper-3 proxy-1 compute-2);
my $h = Hosts->new(@nodes, 'client');
my $c = NeonCluster->new(within => [ $h->within('controller') ], proxies => 1, init => [ '--computes', 2, map { ('--host', "$_=" . $h->address($_)) } @nodes ],
	conf => { 'compute-2' => 'neon_compute_tools.watch_interval = 1s', controller => "neon_controller.heartbeat_interval = 1s\nneon_controller.heartbeat_timeout = 5s\nneon_controller.connect_timeout = 5s" });
my %acked;

END { undef $c if $c && $$ == $c->{owner}; }

# ---- every node is started on its host
for my $n (@nodes) { $h->in($n, $NeonCluster::NEON_LOCAL, 'start', '-D', $c->{dir}, $n); }
$c->start;
my $through = $c->local('uri', '-D', $c->{dir}, '--node', 'proxy-1', '--endpoint', 'main');
like($c->uri('main'), qr/\@\Q@{[ $h->address('controller') ]}\E:/, "the endpoint's address is its host's");
like($through, qr/\@\Q@{[ $h->address('proxy-1') ]}\E:/, "the proxy's is its own");
is($c->node_sql('controller', q{SELECT count(*) FROM neon_nodes WHERE host = '127.0.0.1'}), '0', 'no node is known by a loopback address');

# psql on the host of clients, who know the proxy only
sub client
{
	my ($sql, $limit, $to) = @_;
	my ($out, $err) = ('', '');
	my $run = IPC::Run::start([ $h->within('client'), 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', $to // $through ], '<', \$sql, '>', \$out, '2>', \$err,
		IPC::Run::timeout($limit || 120));
	my $ended = eval { $run->finish; 1 };
	$run->kill_kill unless $ended;
	chomp $out;
	return ($ended && $run->result(0) == 0, $out, $err);
}

sub insert
{
	my ($i, $limit) = @_;
	my ($ok, undef, $err) = client("INSERT INTO ledger VALUES ($i)", $limit);
	$acked{$i} = 1 if $ok;
	diag("insert $i: $err") unless $ok;
	return $ok;
}

# administrators look from the node's own host
sub on_node { my ($n, $sql) = @_; chomp(my $o = $h->in($n, 'psql', '-X', '-q', '-A', '-t', $c->node_uri($n), '-c', $sql)); return $o; }

my ($ok, undef, $err) = client('CREATE TABLE ledger (i int PRIMARY KEY)');
ok($ok, 'a client creates a table through the proxy') or diag($err);
ok(insert(1), 'and writes');

# ---- an endpoint on a host of its own, which the controller and clients reach over the network only
$c->node_sql('controller', q{SELECT neon_create_branch('far', parent => 'main'); SELECT neon_create_endpoint('far')});
my $far = $c->local('uri', '-D', $c->{dir}, '--node', 'proxy-1', '--endpoint', 'far');
like($c->uri('far'), qr/\@\Q@{[ $h->address('compute-2') ]}\E:/, 'the next endpoint is on the host that has none');
is(join(' ', map { m{/(computes[^/]*)/[^/]*$} } glob("$c->{dir}/computes*/*-far")), 'computes-2', 'its files are there');
($ok, undef, $err) = client('INSERT INTO ledger VALUES (100)', 120, $far);
ok($ok, 'a client writes there through the proxy') or diag($err);
is($c->node_sql('controller', q{SELECT neon_set_branch('far', 'work_mem', '7MB')}), 'applied', 'the controller sets something there');
is((client('SHOW work_mem', 120, $far))[1], '7MB', 'which can be seen');
$c->node_sql('controller', q{SELECT neon_suspend_endpoint('far')});
is($c->pid('far'), '-', 'it is suspended');
is((client('SELECT count(*) FROM ledger', 120, $far))[1], '2', 'and a client wakes it');
my $pid = $c->pid('far');
$c->kill9('far');
ok($c->poll('it runs again', 180, sub { my $p = $c->pid('far'); $p ne '-' && $p ne $pid }), 'the watcher of its host starts it again when it has crashed');
ok($c->poll('it answers', 120, sub { (client('SELECT count(*) FROM ledger', 30, $far))[1] eq '2' }), 'and it has everything');
$h->cut('compute-2');
my $state = sub { my ($name) = @_; return $c->node_sql('controller', "SELECT state FROM neon_endpoints WHERE name = '$name'") };
ok($c->poll('it is away', 180, sub { $state->('far') eq 'unreachable' }), 'when its host is cut off nothing is known of it');
ok($c->poll('it is there', 180, sub { $state->('main') eq 'running' }), 'but of the others');
ok(insert(101), 'which go on');
$h->heal('compute-2');
ok($c->poll('it is back', 180, sub { $state->('far') eq 'running' }), 'when its cable is back it is there');
ok($c->poll('it takes commits', 180, sub { (client('INSERT INTO ledger VALUES (102)', 30, $far))[0] }), 'and takes commits');

# ---- one safekeeper of three
my $timeline = $c->node_sql('controller', q{SELECT timeline FROM neon_controller.branches WHERE name = 'main'});
my $flushed = "SELECT flush_lsn FROM neon_safekeeper.timelines WHERE timeline = '$timeline'";
$h->cut('safekeeper-3');
ok(insert(2), 'with one safekeeper cut off, commits go on');
ok(insert(3), 'and on');
$h->heal('safekeeper-3');
ok($c->poll('it catches up', 180, sub { on_node('safekeeper-3', $flushed) eq on_node('safekeeper-1', $flushed) }),
	'it catches up when its cable is back');

# ---- two of three: no quorum
$h->cut('safekeeper-1', 'safekeeper-2');
my ($out, $errors) = ('', '');
my $waiting = IPC::Run::start([ $h->within('client'), 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', $through, '-c', 'INSERT INTO ledger VALUES (4)' ], '<', '/dev/null', '>', \$out, '2>', \$errors,
	IPC::Run::timeout(300));
ok($c->poll('it waits', 60, sub { $c->sql('main', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'}) eq '1' }), 'without a quorum a commit waits');
is($c->sql('main', 'SELECT count(*) FROM ledger WHERE i = 4'), '0', 'and nobody sees it');
$h->heal('safekeeper-2');
ok($waiting->finish, 'with one of them back it ends') or diag($errors);
$acked{4} = 1;
$h->heal('safekeeper-1');
ok(insert(5), 'commits go on');

# ---- the pageserver.  Sessions that are there go on with the pages they have; a new one may need others.
my $end = $c->sql('main', 'SELECT pg_current_wal_flush_lsn()');
my $reached = sub { on_node('pageserver-1', "SELECT last_record_lsn >= '$end' FROM neon_pageserver.timelines WHERE timeline = '$timeline'") eq 't' };
ok($c->poll('it has everything', 180, $reached), 'the pageserver has everything');
my ($in, $said, $wrong) = ("SELECT 'ready';\n", '', '');
my $session = IPC::Run::start([ $h->within('controller'), 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', $c->uri('main') ], '<', \$in, '>', \$said, '2>', \$wrong,
	IPC::Run::timeout(300));
$in .= "INSERT INTO ledger VALUES (-1) RETURNING 'written'; SELECT pg_current_wal_flush_lsn();\n";
$session->pump until $said =~ m{written\n[0-9A-F]+/[0-9A-F]+\n} || !$session->pumpable;
$h->cut('pageserver-1');
$said = '';
$in .= "INSERT INTO ledger VALUES (6) RETURNING 'written'; SELECT pg_current_wal_flush_lsn();\n";
$session->pump until $said =~ m{written\n[0-9A-F]+/[0-9A-F]+\n} || !$session->pumpable;
ok((($end) = $said =~ m{written\n([0-9A-F]+/[0-9A-F]+)\n}), 'with the pageserver cut off, commits go on') or diag("$said $wrong");
$acked{6} = 1;
$session->finish;
ok(!$reached->(), 'which it does not see');
$h->heal('pageserver-1');
ok($c->poll('it has everything', 180, $reached), 'it catches up when its cable is back');

# ---- the proxy
$h->cut('proxy-1');
my ($answered) = client('SELECT 1', 5);
ok(!$answered, 'nobody reaches a proxy that is cut off');
$h->heal('proxy-1');
ok($c->poll('clients reach it', 180, sub { (client('SELECT 1', 30))[0] }), 'when its cable is back they do');
ok(insert(7), 'and write');

# ---- the host of the controller and the endpoint
$h->cut('controller');
my ($written) = client('INSERT INTO ledger VALUES (8)', 10);
ok(!$written, "nobody reaches an endpoint whose host is cut off");
($ok, undef, $err) = client('INSERT INTO ledger VALUES (103)', 120, $c->uri('far'));
ok($ok, 'an endpoint of another host goes on') or diag($err);
$h->heal('controller');
ok($c->poll('commits go on', 180, sub { insert(9, 30) }), 'when its cable is back commits go on');

# ---- the controller itself
$c->stop('controller', '-m', 'immediate');
ok(insert(10), 'while the controller is down, a client writes through the proxy');
is($c->sql('main', 'SELECT count(*) FROM ledger WHERE i = 10'), '1', 'and others connect to the endpoint and read');
$c->start('controller');
like($c->sql('main', q{SELECT neon_create_branch('later')}), qr/./, 'when it is back, branches are made again');

# ---- a host that is gone keeps nobody: its branch has an endpoint on another one, while the old server still runs
$h->cut('compute-2');
ok($c->poll('it is away', 180, sub { $state->('far') eq 'unreachable' }), 'the host of an endpoint is gone');
$c->node_sql('controller', q{SELECT neon_drop_endpoint('far')});
my (undef, undef, $why) = $c->psql_uri($c->node_uri('controller'), q{SELECT neon_create_endpoint('far')});
like($why, qr/ERROR:  host "compute-2", which is away, may still have a server.*HINT:/s, 'its name is kept for the server that may be there');
ok($c->poll('it is there', 180, sub { $state->('main') eq 'running' }), 'another host is there');
$c->node_sql('controller', q{SELECT neon_create_endpoint('near', branch => 'far')});
like($c->uri('near'), qr/\@\Q@{[ $h->address('controller') ]}\E:/, 'its branch has another endpoint on a host that is there');
is($c->sql('near', 'INSERT INTO ledger VALUES (104); SELECT count(*) FROM ledger WHERE i > 99'), '4', 'which has all that was written, and writes');
is(scalar(() = glob("$c->{dir}/computes-2/*-far")), 1, 'the old server is still there');
$h->heal('compute-2');
ok($c->poll('it is removed', 180, sub { !(() = glob("$c->{dir}/computes-2/*-far")) }), 'when the host is back it is removed');
ok($c->poll('it is done', 120, sub { $c->node_sql('controller', q{SELECT string_agg(DISTINCT state, ' ') FROM neon_operations WHERE operation = 'drop_endpoint'}) eq 'done' }), 'and so its drop is done');
is($c->sql('near', 'SELECT count(*) FROM ledger WHERE i > 99'), '4', 'the new one goes on');

# ---- everything that was acknowledged, from nothing
$c->node_sql('controller', q{SELECT neon_suspend_endpoint('main')});
system('rm', '-rf', $c->status->{main}{dir});
$c->node_sql('controller', q{SELECT neon_start_endpoint('main')});
my %there = map { $_ => 1 } split /\n/, $c->sql('main', 'SELECT i FROM ledger ORDER BY i');
is(join(' ', grep { !$there{$_} } sort { $a <=> $b } keys %acked), '', 'nothing that was acknowledged is missing');
delete $there{-1};
cmp_ok(scalar(keys %there), '<=', 1 + keys %acked, 'and at most the one that was cut off is there besides');
$c->destroy;
done_testing();
