# Nodes answer heartbeats and get what is new; generations are in every attachment, and one that is old is refused.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use NeonCluster;
use Test::More;

my $c = NeonCluster->new(init => [ '--pageservers', 2, '--safekeepers', 4 ],
	conf => { controller => "neon_controller.reconcile_interval = 500ms\nneon_controller.heartbeat_interval = 500ms" });
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
	'compute1 controller1 pageserver2 safekeeper4', 'all nodes are registered');
is(ask('SELECT count(*) FROM neon_nodes WHERE last_seen IS NULL OR up_since > last_seen OR error IS NOT NULL'), '0', 'and seen since they came up');

# ---- tenants are spread ----
my ($ps1, $sk1) = placed('default');
is("$ps1: $sk1", 'pageserver-1: safekeeper-1 safekeeper-2 safekeeper-3', 'the first tenant is on the first nodes');
ask(q{SELECT neon_create_tenant('second')});
my ($ps2, $sk2) = placed('second');
is("$ps2: $sk2", 'pageserver-2: safekeeper-1 safekeeper-2 safekeeper-4', 'the second one on those that have less to do');
works($_) for qw(default second);
ok($c->poll('a heartbeat counts them', 120, sub { ask(q{SELECT string_agg(timelines::text, ' ' ORDER BY name) FROM neon_nodes WHERE role = 'pageserver'}) eq '1 1' }),
	'the nodes tell how many timelines they have');

# A branch is where its parent is.
ask(q{SET neon.tenant = 'second'; SELECT neon_create_branch('dev', parent => 'main')});
is(ask(q{SELECT l.pageserver || ': ' || array_to_string(l.safekeepers, ' ') FROM neon_controller.branches b JOIN neon_controller.timelines l ON l.id = b.timeline
	WHERE b.name = 'dev'}), "$ps2: $sk2", q{a branch is on its parent's nodes});
my ($rc, $out, $err) = $c->psql_uri(ask(q{SET neon.tenant = 'second'; SELECT neon_create_endpoint('dev')}), 'INSERT INTO t VALUES (2); SELECT sum(a) FROM t');
is("$rc $out", '0 3', 'it works there') or diag($err);

# ---- nodes that are drained get nothing new, and what they have works ----
# (a node that is slow may look offline for a moment)
is(ask(q{SELECT count(*) FILTER (WHERE neon_controller.drain_node(n) LIKE 'draining%') FROM unnest('{pageserver-1,safekeeper-3,safekeeper-3}'::text[]) n}), '3', 'nodes are drained');
is(ask(q{SELECT string_agg(name, ' ' ORDER BY name) FROM neon_nodes WHERE state LIKE 'draining%'}), 'pageserver-1 safekeeper-3', 'neon_nodes shows it');
is(ask(q{SELECT neon_controller.choose_pageserver(), neon_controller.choose_safekeepers()}), 'pageserver-2|{safekeeper-1,safekeeper-2,safekeeper-4}', 'others get what is new');
is(ask(q{SET neon.tenant = 'default'; SELECT length(neon_create_branch('dev', parent => 'main'))}), '32', 'a branch is made where its parent is, drained or not');
ask(q{SET neon.tenant = 'default'; SELECT neon_drop_branch('dev')});
works('default');
my $drained = q{SELECT last_seen FROM neon_nodes WHERE name = 'pageserver-1'};
my $drained_at = ask($drained);
ok($c->poll('it is seen', 120, sub { ask("SELECT ($drained) > '$drained_at'") eq 't' }), 'heartbeats go on');
like(ask(q{SELECT state FROM neon_nodes WHERE name = 'pageserver-1'}), qr/^draining/, 'and do not end it');
# what is drained, refused
for my $no ([ q{drain_node('pageserver-2'), neon_controller.choose_pageserver()}, qr/NE006: no pageserver is there.*DETAIL:  .*Draining: pageserver-1, pageserver-2\.\nHINT:  .*activate/s, 'no pageserver is left' ],
	[ q{drain_node('safekeeper-4'), neon_controller.choose_safekeepers()}, qr/NE006: too few safekeepers.*: \d\nDETAIL:  .*Draining: safekeeper-3, safekeeper-4\.\nHINT:/s, 'fewer safekeepers than a timeline should have' ],
	[ q{drain_node('compute-1'), neon_controller.choose_host()}, qr/NE006: no compute host is there.*DETAIL:  .*Draining: compute-1\.\nHINT:/s, 'no host is left' ],
	[ q{drain_node('nobody')}, qr/NE001: node "nobody" is not registered\nHINT:/, 'a node that is none' ],
	[ q{drain_node('controller')}, qr/42809: node "controller" is a controller\nDETAIL:.*\nHINT:/, 'a controller' ],
	[ q{register_node('fake', 'safekeeper', 99, '127.0.0.1', 1, 'port=1'); UPDATE neon_controller.nodes SET state = 'online' WHERE name = 'fake'; SELECT neon_controller.remove_node('fake')},
		qr/NE013: node in state "online": "is removed" cannot happen\nHINT:/, 'removing one that is online' ],
	[ q{remove_node('safekeeper-3')}, qr/2BP01: node "safekeeper-3" cannot be removed.*\nDETAIL:  It has 1 timelines, 0 attached tenants and 0 endpoints\.\nHINT:/s, 'removing one that timelines have' ],
	[ q{register_node('fake', 'safekeeper', 99, '127.0.0.1', 1, 'port=1'); UPDATE neon_controller.nodes SET state = 'draining offline' WHERE name = 'fake'},
		qr/NE013: node: there is no way from state "registered" to "draining offline"\nHINT:/, 'a state that does not follow' ],
	[ q{register_node('fake', 'safekeeper', 99, '127.0.0.1', 1, 'port=1'); UPDATE neon_controller.nodes SET state = 'online' WHERE name = 'fake'; DELETE FROM neon_controller.nodes WHERE name = 'fake'},
		qr/NE013: node: there is no way from state "online" to "removed"\nHINT:/, 'deleting one that is online' ],
	[ q{drain_node('safekeeper-1'); DELETE FROM neon_controller.nodes WHERE name = 'safekeeper-1'}, qr/2BP01: node "safekeeper-1" cannot be removed/, 'deleting one that timelines have' ])
{
	($rc, undef, $err) = control("\\set VERBOSITY verbose\nBEGIN; SELECT neon_controller.$no->[0]");
	like($err, $no->[1], "refused: $no->[2]");
}
is(ask(q{BEGIN; SELECT neon_controller.register_node('fake', 'safekeeper', 99, '127.0.0.1', 1, 'port=1'); SELECT neon_controller.drain_node('fake');
	SELECT neon_controller.register_node('fake', 'safekeeper', 99, '127.0.0.1', 2, 'port=2'); SELECT state FROM neon_nodes WHERE name = 'fake';
	SELECT neon_controller.remove_node('fake'); SELECT count(*) FROM neon_nodes WHERE name = 'fake'; COMMIT}), "\ndraining\n\ndraining\n\n0", 'a node that has nothing is drained, moved and removed');
# who writes a timeline's row holds its safekeepers, or finds that one is gone
($rc, undef, $err) = control(q{BEGIN; INSERT INTO neon_controller.timelines SELECT repeat('c', 32), tenant, NULL, start_lsn, system_id, wal_seg_size, pageserver, safekeepers || 'gone'::text FROM neon_controller.timelines LIMIT 1});
like($err, qr/a safekeeper of timeline "c{32}" is not registered\nDETAIL:.*gone\.\nHINT:/, 'no timeline is on a safekeeper that was removed');
is(ask(q{SELECT count(*) FILTER (WHERE neon_controller.activate_node(n) NOT LIKE 'draining%') FROM unnest('{pageserver-1,safekeeper-3,safekeeper-3}'::text[]) n}), '3', 'nodes are activated');
state_becomes($_, 'online') for qw(pageserver-1 safekeeper-3);
isnt(ask(q{SELECT neon_controller.activate_node('safekeeper-3')}), 'registered', 'one that was not drained stays what it is');
is(ask(q{SELECT string_agg(p::text, E'\n') FROM neon_controller.state_machine_problems() p}), '', 'every state is reached, and leads to an end or rest');
for my $no (qw(drain_node activate_node remove_node))
{
	is(ask(qq{SELECT has_function_privilege('neon_tenant', 'neon_controller.$no(text)', 'EXECUTE'), has_function_privilege('neon_proxy', 'neon_controller.$no(text)', 'EXECUTE')}), 'f|f', "$no() is not for tenants and proxies");
}

# ---- nodes that are away get nothing new, and make nobody else wait ----
my @frozen = $c->freeze('pageserver-2');
# four things that it has to drop
ask(q{INSERT INTO neon_controller.leftovers (kind, id, tenant, nodes) SELECT 'timeline', repeat(d, 32), repeat('0', 32), '{pageserver-2}' FROM unnest('{a,b,c,d}'::text[]) d});
$c->kill9('safekeeper-4');
state_becomes('pageserver-2', 'offline');
state_becomes('safekeeper-4', 'offline');
is(ask(q{SELECT error FROM neon_nodes WHERE name = 'pageserver-2'}), 'no answer within 3000 ms', 'neon_nodes says why: one is silent');
like(ask(q{SELECT error FROM neon_nodes WHERE name = 'safekeeper-4'}), qr/refused|No such file/, 'one is not there');
is(ask(q{SELECT string_agg(name, ' ' ORDER BY name) FROM neon_nodes WHERE state <> 'online'}), 'pageserver-2 safekeeper-4', 'nobody else is away');
my $others = q{SELECT min(last_seen) FROM neon_nodes WHERE state = 'online'};
my $then = ask($others);
ok($c->poll('others are seen', 120, sub { ask("SELECT ($others) > '$then'") eq 't' }), 'the others are seen meanwhile');
ask(q{SELECT neon_create_tenant('third')});
ok($c->poll('all were tried', 120, sub { ask('SELECT count(*) FROM neon_controller.leftovers WHERE attempts > 0') eq '4' }), 'what it has to drop was tried');
cmp_ok(ask(q{SELECT count(*) FROM neon_controller.leftovers WHERE error = 'pageserver-2: pageserver "pageserver-2" is not asked again in this round'}), '>', 0,
	'and was put off, after the first had waited for it');
ask('DELETE FROM neon_controller.leftovers');
my ($ps3, $sk3) = placed('third');
is("$ps3: $sk3", 'pageserver-1: safekeeper-1 safekeeper-2 safekeeper-3', 'a new tenant does not go to those that are away');
works('third');

# too few
$c->kill9($_) for qw(safekeeper-2 safekeeper-3);
state_becomes($_, 'offline') for qw(safekeeper-2 safekeeper-3);
($rc, undef, $err) = control(q{SELECT neon_create_tenant('fourth')});
like($err, qr/too few safekeepers are there for a new tenant: 1\n.*DETAIL: .*Offline: safekeeper-2 \(.*HINT: .*register_node/s, 'without a majority of safekeepers there is no new tenant');
$c->start('safekeeper-2');
state_becomes('safekeeper-2', 'online');
is(ask(q{SELECT array_to_string(neon_controller.choose_safekeepers(), ' ')}), 'safekeeper-1 safekeeper-2 safekeeper-4', 'with a majority there is: the third is told when it comes back');
$c->start('safekeeper-3');
my @frozen_too = $c->freeze('pageserver-1');
state_becomes('pageserver-1', 'offline');
($rc, undef, $err) = control(q{SELECT neon_create_tenant('fourth')});
like($err, qr/no pageserver is there for a new tenant\n.*DETAIL: .*pageserver-1 \(.*HINT: .*register_node/s, 'nor without a pageserver');
is(ask(q{SELECT neon_controller.drain_node('pageserver-1')}), 'draining offline', 'one that is away can be drained');
$c->thaw(@frozen_too);
state_becomes('pageserver-1', 'draining');
unlike(ask(q{SELECT neon_controller.activate_node('pageserver-1')}), qr/^draining/, 'it is drained when it comes back, until it is activated');
state_becomes('pageserver-1', 'online');
$c->thaw(@frozen);
state_becomes('pageserver-2', 'online');
is(ask('SELECT max(generation) FROM neon_controller.attachments'), '1', 'what was only silent is not attached anew');
$c->kill9('pageserver-2');
state_becomes('pageserver-2', 'offline');

# ---- generations ----
my $tenant = ask(q{SELECT id FROM neon_controller.tenants WHERE name = 'second'});
my $mine = "FROM neon_controller.attachments WHERE tenant = '$tenant'";
my $theirs = "SELECT generation FROM neon_pageserver.tenant WHERE tenant = '$tenant'";
is(ask("SELECT pageserver || ' ' || generation $mine"), 'pageserver-2 1', 'a tenant is attached with a generation');
$c->start($_) for qw(pageserver-2 safekeeper-4);
state_becomes('pageserver-2', 'online');
state_becomes('safekeeper-4', 'online');
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

# ---- crashes of the controller ----
# between a number that is committed and the attachment: as if it had died there
ask(qq{SELECT neon_controller.next_generation('$tenant', 'pageserver-2', NULL, NULL)});
my $skipped = ask("SELECT generation $mine");
is($skipped - $c->node_sql('pageserver-2', $theirs), 1, 'a number is committed before the pageserver hears of it');
is((control(q{SET neon.tenant = 'second'; SELECT neon_create_branch('after', parent => 'main')}))[0], 0, 'a number that was not used is no harm');
is($c->node_sql('pageserver-2', $theirs), $skipped, 'the next work brings it');

# While branches are made, their pageserver is attached anew again and again.
my @attach = ('-c', "SELECT neon_controller.reattach('$tenant', 'pageserver-2')") x 15;
my $racer = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', @attach, $c->node_uri('controller') ], '<', \undef, '>', \my $race_out, '2>', \my $race_err);
for (1 .. 3)
{
	($rc, undef, $err) = control(qq{SET neon.tenant = 'second'; SELECT neon_create_branch('race$_', parent => 'main')});
	is($rc, 0, "a branch is made while its pageserver is attached anew, $_") or diag($err);
}
$racer->finish;
is($racer->result(0), 0, 'who attaches it anew meanwhile does so, or leaves it') or diag($race_err);
is(ask("SELECT generation $mine"), $c->node_sql('pageserver-2', $theirs), 'both know the same generation');

# While somebody makes one under the number it has, the pageserver is not attached anew, and the reconciler goes on.
my $hold = "BEGIN; SELECT 'held' FROM pg_advisory_xact_lock_shared(neon_controller.attachment_lock('$tenant', 'pageserver-2'));\n";
my $holder = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', $c->node_uri('controller') ], '<', \$hold, '>', \my $held, '2>', \my $hold_err, IPC::Run::timeout(600));
$holder->pump until $held =~ /held/;
ask("UPDATE neon_controller.attachments SET up_since = NULL WHERE tenant = '$tenant'");
for (1 .. 3)
{
	ask(q{INSERT INTO neon_controller.leftovers (kind, id, tenant, nodes) VALUES ('compute', 'none', 'none', '{}')});
	ok($c->poll('it is removed', 60, sub { ask('SELECT count(*) FROM neon_controller.leftovers') eq '0' }), "the reconciler works meanwhile, $_");
}
is(ask("SELECT up_since IS NULL $mine"), 't', 'it waits for its turn');
$hold .= "COMMIT;\n";
$holder->finish;
ok($c->poll('it is attached', 120, sub { ask("SELECT up_since IS NOT NULL $mine") eq 't' }), 'and then it is attached anew');

# What the workers change is counted, or autovacuum would not hear of it.
my $counted = q{SELECT n_tup_upd FROM pg_stat_all_tables WHERE relid = 'neon_controller.nodes'::regclass};
my $count = ask($counted);
ok($c->poll('heartbeats are counted', 120, sub { ask($counted) > $count }), 'what heartbeats write is counted');

# A tenant whose creation dies with the controller leaves no attachment.
my $h = IPC::Run::start([ 'psql', '-X', '-q', '-c', q{SELECT neon_create_tenant('lost')}, $c->node_uri('controller') ], '<', \undef, '>', \my $lost_out, '2>', \my $lost_err);
my $unmade = 'SELECT count(*) FROM neon_controller.attachments a WHERE NOT EXISTS (SELECT FROM neon_controller.tenants t WHERE t.id = a.tenant)';
ok($c->poll('it is attached', 120, sub { ask($unmade) eq '1' }), 'a tenant that is being made has its number');
my $uri = ask(q{SET neon.tenant = 'second'; SELECT neon_connection_uri('main')});
$c->kill9('controller');
is(($c->psql_uri($uri, 'INSERT INTO t VALUES (3); SELECT count(*) > 1 FROM t'))[1], 't', 'an endpoint works while there is no controller');
$c->start('controller');
$h->finish;
SKIP:
{
	skip 'it was made before the controller was killed', 1 if ask(q{SELECT count(*) FROM neon_tenants WHERE name = 'lost'}) eq '1';
	ask('SELECT neon_controller.clean_up()');
	ok($c->poll('it is forgotten', 120, sub { ask($unmade) eq '0' }), 'and none when it was not made after all');
}

# ---- the worker ends, and comes back ----
my $worker = q{SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'neon reconciler'};
my $pid = ask($worker);
cmp_ok($pid, '>', 0, 'the reconciler runs');
ask("SELECT pg_terminate_backend($pid)");
ok($c->poll('another one runs', 120, sub { my $p = ask($worker); $p && $p ne $pid }), 'one that was ended comes back');
my $seen = ask(q{SELECT max(last_seen) FROM neon_nodes});
ok($c->poll('it works', 120, sub { ask(qq{SELECT min(last_seen) > '$seen' FROM neon_nodes}) eq 't' }), 'and goes on');
my $last_controller = ask('SELECT pg_postmaster_start_time()');
ok($c->poll('it works after the crash', 120, sub { ask(qq{SELECT min(last_seen) > '$last_controller' FROM neon_nodes}) eq 't' }), 'also after the controller was killed');
works($_) for qw(default second third);

done_testing();
