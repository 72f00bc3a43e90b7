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

my @nodes = qw(controller pageserver-1 safekeeper-1 safekeeper-2 safekeeper-3 proxy-1);
my $h = Hosts->new(@nodes, 'client');
my $c = NeonCluster->new(within => [ $h->within('controller') ], proxies => 1, init => [ map { ('--host', "$_=" . $h->address($_)) } @nodes ]);
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
	my ($sql, $limit) = @_;
	my ($out, $err) = ('', '');
	my $run = IPC::Run::start([ $h->within('client'), 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', $through ], '<', \$sql, '>', \$out, '2>', \$err,
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

sub flushed { my ($n) = @_; return $c->node_sql("safekeeper-$n", 'SELECT max(flush_lsn) FROM neon_safekeeper.timelines'); }
# administrators look from the node's own host
sub on_node { my ($n, $sql) = @_; chomp(my $o = $h->in($n, 'psql', '-X', '-q', '-A', '-t', $c->node_uri($n), '-c', $sql)); return $o; }

my ($ok, undef, $err) = client('CREATE TABLE ledger (i int PRIMARY KEY)');
ok($ok, 'a client creates a table through the proxy') or diag($err);
ok(insert(1), 'and writes');

# ---- one safekeeper of three
$h->cut('safekeeper-3');
ok(insert(2), 'with one safekeeper cut off, commits go on');
ok(insert(3), 'and on');
$h->heal('safekeeper-3');
ok($c->poll('it catches up', 180, sub { on_node('safekeeper-3', 'SELECT max(flush_lsn) FROM neon_safekeeper.timelines') eq on_node('safekeeper-1', 'SELECT max(flush_lsn) FROM neon_safekeeper.timelines') }),
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
my $reached = sub { on_node('pageserver-1', "SELECT max(last_record_lsn) >= '$end' FROM neon_pageserver.timelines") eq 't' };
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
$h->heal('controller');
ok($c->poll('commits go on', 180, sub { insert(9, 30) }), 'when its cable is back commits go on');

# ---- the controller itself
$c->stop('controller', '-m', 'immediate');
ok(insert(10), 'while the controller is down, a client writes through the proxy');
is($c->sql('main', 'SELECT count(*) FROM ledger WHERE i = 10'), '1', 'and others connect to the endpoint and read');
$c->start('controller');
like($c->sql('main', q{SELECT neon_create_branch('later')}), qr/./, 'when it is back, branches are made again');

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
