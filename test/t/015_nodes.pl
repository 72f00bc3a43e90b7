# Nodes answer heartbeats and get what is new; generations are in every attachment, and one that is old is refused.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use Test::More;

my $c = NeonCluster->new(init => [ '--pageservers', 2, '--safekeepers', 5 ],
	conf => { controller => "neon_controller.reconcile_interval = 500ms\nneon_controller.heartbeat_timeout = 20s" });
$c->start;

sub control { my ($sql) = @_; return $c->psql_uri($c->node_uri('controller'), $sql, timeout => 200); }

# One value; dies on an error.
sub ask { my ($sql) = @_; return $c->node_sql('controller', $sql); }

sub state_becomes
{
	my ($node, $state) = @_;
	ok($c->poll("$node is $state", 120, sub { ask("SELECT state FROM neon_nodes WHERE name = '$node'") eq $state }), "$node is seen $state");
	return;
}

sub placed { my ($tenant) = @_; return split /\|/, ask("SELECT l.pageserver, array_to_string(l.safekeepers, ' ') FROM neon_controller.timelines l
	JOIN neon_controller.tenants t ON t.id = l.tenant WHERE t.name = '$tenant' AND l.ancestor IS NULL"); }

sub works
{
	my ($tenant) = @_;
	my ($rc, $out, $err) = $c->psql_uri(ask("SET neon.tenant = '$tenant'; SELECT neon_start_endpoint('main')"),
		'CREATE TABLE IF NOT EXISTS t (a int); INSERT INTO t VALUES (1); SELECT count(*) > 0 FROM t');
	is("$rc $out", '0 t', "$tenant takes commits") or diag($err);
	return;
}

# ---- all answer ----
ok($c->poll('all nodes are online', 120, sub { ask("SELECT count(*) FILTER (WHERE state <> 'online') FROM neon_nodes") eq '0' }), 'all nodes are seen online');
is(ask("SELECT string_agg(role || n, ' ' ORDER BY role) FROM (SELECT role, count(*) AS n FROM neon_nodes GROUP BY role) x"),
	'compute1 controller1 pageserver2 safekeeper5', 'all nodes are registered');
is(ask('SELECT count(*) FROM neon_nodes WHERE last_seen IS NULL OR up_since > last_seen OR error IS NOT NULL'), '0', 'and seen since they came up');

# ---- tenants are spread ----
my ($ps1, $sk1) = placed('default');
is("$ps1: $sk1", 'pageserver-1: safekeeper-1 safekeeper-2 safekeeper-3', 'the first tenant is on the first nodes');
ask(q{SELECT neon_create_tenant('second')});
my ($ps2, $sk2) = placed('second');
is("$ps2: $sk2", 'pageserver-2: safekeeper-1 safekeeper-4 safekeeper-5', 'the second one on those that have less to do');
works($_) for qw(default second);
ok($c->poll('a heartbeat counts them', 120, sub { ask(q{SELECT string_agg(timelines::text, ' ' ORDER BY name) FROM neon_nodes WHERE role = 'pageserver'}) eq '1 1' }),
	'the nodes tell how many timelines they have');

# A branch stays with its ancestor's layers; its log may be elsewhere.
ask(q{SET neon.tenant = 'second'; SELECT neon_create_branch('dev', parent => 'main')});
is(ask(q{SELECT l.pageserver || ': ' || array_to_string(l.safekeepers, ' ') FROM neon_controller.branches b JOIN neon_controller.timelines l ON l.id = b.timeline
	WHERE b.name = 'dev'}), 'pageserver-2: safekeeper-2 safekeeper-3 safekeeper-4', q{a branch is on its parent's pageserver, and on the safekeepers with the least to do});
my ($rc, $out, $err) = $c->psql_uri(ask(q{SET neon.tenant = 'second'; SELECT neon_create_endpoint('dev')}), 'INSERT INTO t VALUES (2); SELECT sum(a) FROM t');
is("$rc $out", '0 3', 'it works there') or diag($err);

# ---- nodes that are away get nothing new ----
$c->kill9('pageserver-2');
$c->kill9('safekeeper-5');
state_becomes('pageserver-2', 'offline');
state_becomes('safekeeper-5', 'offline');
like(ask(q{SELECT error FROM neon_nodes WHERE name = 'safekeeper-5'}), qr/could not connect to safekeeper "safekeeper-5".*(refused|No such file)/s, 'neon_nodes says why');
ask(q{SELECT neon_create_tenant('third')});
my ($ps3, $sk3) = placed('third');
is($ps3, 'pageserver-1', 'a new tenant does not go to a pageserver that is away');
unlike($sk3, qr/safekeeper-5/, 'nor to a safekeeper that is');
works('third');

# ---- generations ----
my $tenant = ask(q{SELECT id FROM neon_controller.tenants WHERE name = 'second'});
my $mine = "FROM neon_controller.attachments WHERE tenant = '$tenant'";
my $theirs = "SELECT generation FROM neon_pageserver.tenant WHERE tenant = '$tenant'";
is(ask("SELECT pageserver || ' ' || generation $mine"), 'pageserver-2 1', 'a tenant is attached with a generation');
$c->start('pageserver-2');
$c->start('safekeeper-5');
state_becomes('pageserver-2', 'online');
state_becomes('safekeeper-5', 'online');
ok($c->poll('it has a new generation', 120, sub { ask("SELECT generation $mine") eq '2' && $c->node_sql('pageserver-2', $theirs) eq '2' }), 'a pageserver that was restarted is attached anew');
is(ask(q{SELECT max(generation) FROM neon_controller.attachments WHERE pageserver = 'pageserver-1'}), '1', 'the other one is not');
works('second');
my $before = $c->node_sql('pageserver-2', 'SELECT count(*) FROM neon_pageserver.timelines');
($rc, undef, $err) = $c->psql_uri($c->node_uri('pageserver-2'), "\\set VERBOSITY verbose\nSELECT * FROM neon_pageserver.create_timeline('$tenant', '" . 'a' x 32 . "', '{}', NULL, NULL, 1)");
like($err, qr/NE014: generation 1 of tenant "$tenant" is old/, 'an older generation is refused');
is($c->node_sql('pageserver-2', 'SELECT count(*) FROM neon_pageserver.timelines'), $before, 'and has made nothing');
($rc, undef, $err) = $c->psql_uri($c->node_uri('pageserver-2'), "SELECT neon_pageserver.attach('" . 'b' x 32 . "', 1)");
like($err, qr/is not on this pageserver/, 'a tenant that is not there is not attached');

# a controller that is an older copy
ask("UPDATE neon_controller.attachments SET generation = 1 WHERE tenant = '$tenant'");
($rc, undef, $err) = control(q{SET neon.tenant = 'second'; SELECT neon_create_branch('late', parent => 'main')});
like($err, qr/generation 1 of tenant .* is old.*HINT:.*after_restore/s, 'an older copy of the controller makes no branch');
ask('SELECT neon_controller.after_restore()');
ok($c->poll('its generations are beyond those given out', 120, sub { $c->node_sql('pageserver-2', $theirs) >= 1001 }), 'after_restore() lets its generations jump');
ok($c->poll('a branch is made', 120, sub { (control(q{SET neon.tenant = 'second'; SELECT neon_create_branch('late', parent => 'main')}))[0] == 0 }), 'and it works again');
# without being told so, at the pageserver's next start
ask("UPDATE neon_controller.attachments SET generation = 1 WHERE tenant = '$tenant'");
my $newest = $c->node_sql('pageserver-2', $theirs);
$c->stop('pageserver-2');
$c->start('pageserver-2');
ok($c->poll('the copy has found out', 120, sub { ask("SELECT generation $mine") > $newest && ask("SELECT generation $mine") == $c->node_sql('pageserver-2', $theirs) }),
	'a pageserver that comes up tells an older copy of the controller');

# ---- the worker ends, and comes back ----
my $worker = q{SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'neon reconciler'};
my $pid = ask($worker);
cmp_ok($pid, '>', 0, 'the reconciler runs');
ask("SELECT pg_terminate_backend($pid)");
ok($c->poll('another one runs', 120, sub { my $p = ask($worker); $p && $p ne $pid }), 'one that was ended comes back');
my $seen = ask(q{SELECT max(last_seen) FROM neon_nodes});
ok($c->poll('it works', 120, sub { ask(qq{SELECT min(last_seen) > '$seen' FROM neon_nodes}) eq 't' }), 'and goes on');
$c->kill9('controller');
$c->start('controller');
$seen = ask('SELECT now()');
ok($c->poll('it works', 120, sub { ask(qq{SELECT min(last_seen) > '$seen' FROM neon_nodes}) eq 't' }), 'also after the controller was killed');
works($_) for qw(default second third);

done_testing();
