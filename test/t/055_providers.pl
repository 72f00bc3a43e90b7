# Computes are run through a provider: one that is written in SQL, counts what it is asked and keeps its computes under names of its own, has an endpoint
# created, woken, watched, configured, suspended and dropped.  Who went by it would find nothing under the name it knows.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use Test::More;

my $c = NeonCluster->new(init => [ '--safekeepers', 1 ], watch => '500ms', conf => { controller => 'neon_controller.reconcile_interval = 500ms' });
$c->start;
sub ctl { my ($sql) = @_; return $c->node_sql('controller', "SET neon.tenant = 'default'; $sql"); }
sub refused
{
	my ($sql, $like, $name) = @_;
	my ($rc, undef, $err) = $c->psql_uri($c->node_uri('controller'), "\\set VERBOSITY verbose\n$sql");
	like($rc . $err, qr/^3.*$like/s, $name);
	return;
}
# How often the provider was asked for each of these.
sub asked { my (@what) = @_; return ctl("SELECT string_agg((SELECT count(*) FROM host.calls c WHERE c.what = w)::text, ' ' ORDER BY n) FROM unnest('{" . join(',', @what) . "}'::text[]) WITH ORDINALITY u (w, n)"); }
sub asks_more { my ($before, @what) = @_; my @b = split / /, $before; return !grep { $_ <= shift @b } split / /, asked(@what); }
sub row { my ($name, $columns) = @_; return ctl("SELECT $columns FROM neon_controller.endpoints WHERE name = '$name'"); }
sub pid { my ($name) = @_; return ctl("SELECT coalesce(pid, 0) FROM neon_endpoints WHERE name = '$name'"); }
sub on { my ($name, $sql) = @_; my ($rc, $out, $err) = $c->psql_uri(row($name, 'neon_controller.endpoint_uri(endpoints)'), $sql); diag $err if $rc; return $out; }

# ---- a provider that is not whole is none
ctl(q{
	CREATE SCHEMA host;
	CREATE TABLE host.calls (what text, name text);
	CREATE FUNCTION host.note(what text, name text) RETURNS text LANGUAGE sql AS $$ INSERT INTO host.calls VALUES (what, name) RETURNING 'via-' || name $$;
	CREATE FUNCTION host.start(spec jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN
		RETURN neon_compute_tools.local_start(spec || jsonb_build_object('name', host.note('start', spec ->> 'name'), 'host', '127.0.0.2')) || '{"host": "127.0.0.2"}';
	END $$;
	CREATE FUNCTION host.stop(name text, mode text) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RETURN neon_compute_tools.local_stop(host.note('stop', name), mode); END $$;
	CREATE FUNCTION host.status(name text) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN
		IF to_regclass('host.is_broken') IS NOT NULL THEN RAISE 'out of order'; END IF;
		RETURN neon_compute_tools.local_status(host.note('status', name));
	END $$;
	CREATE FUNCTION host.conninfo(name text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN neon_compute_tools.local_conninfo(host.note('conninfo', name)); END $$});
my $register = q{SELECT neon_compute_tools.register_provider('test', 'host.start', 'host.stop', 'host.status', 'host.conninfo', 'host.drop')};
refused($register, qr/42883: provider "test" has no function to drop a compute\nDETAIL:  There is no function host\.drop\(text\)\.\nHINT:/, 'a provider without a function is refused');
ctl(q{CREATE FUNCTION host.drop(name text) RETURNS bool LANGUAGE sql AS 'SELECT true'});
refused($register, qr/42804: provider "test" has no function to drop a compute\nDETAIL:  host\.drop\(text\) does not return one value of type jsonb\.\nHINT:/, 'also when it returns something else');
refused($register =~ s/SELECT neon_compute_tools.register_provider\((.*)\)/INSERT INTO neon_compute_tools.providers VALUES ($1)/r, qr/42804:.*HINT:/s, 'by whatever way');
refused($register =~ s/'test'/'local'/r, qr/42939: provider "local" cannot be changed.*HINT:/s, '"local" stays what it is');
ctl(q{DROP FUNCTION host.drop;
	CREATE FUNCTION host.drop(name text) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RETURN neon_compute_tools.local_drop(host.note('drop', name)); END $$});
my $node = q{SELECT neon_controller.register_node(name, role, node_id, host, port, admin_connstring, provider => 'test') FROM neon_controller.nodes};
refused("$node WHERE role = 'compute'", qr/42704: there is no provider "test" on this host\nDETAIL:  There are: local\.\nHINT:/, 'a host whose provider is not there is refused');
refused("$node WHERE role = 'pageserver'", qr/42809: node "pageserver-1" is no host of endpoints.*HINT:/s, 'a pageserver has no provider');
ctl($register);
ctl("$node WHERE role = 'compute'");
is(ctl(q{SELECT name || ' ' || provider FROM neon_controller.nodes WHERE role = 'compute'}), 'compute-1 test', 'a host has a provider');
ctl(q{SELECT neon_controller.register_node(name, role, node_id, host, port, admin_connstring) FROM neon_controller.nodes WHERE role = 'compute'});
is(ctl(q{SELECT provider FROM neon_controller.nodes WHERE role = 'compute'}), 'test', 'and keeps it when it is registered again');

# ---- create
is(row('main', 'provider'), 'local', 'an endpoint that was there stays with its provider');
ctl(q{SELECT neon_create_branch('dev', parent => 'main'); SELECT neon_create_endpoint('dev')});
is(row('dev', 'provider, host'), 'test|127.0.0.2', 'a new one is made by its provider, which says where it is');
is(on('dev', 'CREATE TABLE t (a int); INSERT INTO t VALUES (1); SELECT a FROM t'), '1', 'it works');
my @computes = sort map { s/^(via-)?[0-9a-f]{8}/$1 \/\/ ''/er } map { m{([^/]+)$} } glob("$c->{dir}/computes/*");
is("@computes", '-main via--dev', 'its directory is what its provider calls it');

# ---- ask, configure
my $before = asked('conninfo', 'status');
like(ctl(q{SELECT neon_configure_endpoint('dev', '{"roles": [{"name": "alice", "password": "secret"}], "settings": {"work_mem": "5MB"}}')}), qr/role alice/, 'it is configured');
is(on('dev', q{SELECT current_setting('work_mem') || ' ' || rolname FROM pg_roles WHERE rolname = 'alice'}), '5MB alice', 'and has what it was told');
is(ctl(q{SELECT neon_set_branch('dev', 'work_mem', '6MB')}), 'applied', 'a setting is applied');
ok(length ctl(q{SELECT neon_create_branch('of_dev', parent => 'dev')}), 'a branch of it is made, from now');
ok(asks_more($before, 'conninfo', 'status'), 'all by way of the provider');

# ---- one that does not say what it has to
ctl(q{CREATE FUNCTION host.nothing(spec jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb'; CREATE FUNCTION host.nothing(name text) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"state": "asleep"}'::jsonb $$;
	CREATE FUNCTION host.nowhere(name text) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
	SELECT neon_compute_tools.register_provider('mute', 'host.nothing', 'host.stop', 'host.nothing', 'host.nowhere', 'host.drop')});
refused(q{SELECT neon_compute_tools.start_compute('{"provider": "mute", "name": "x"}')}, qr/22023: provider "mute" does not say whether it has started.*\nHINT:/s, 'a provider that does not say what it did');
refused(q{SELECT neon_compute_tools.compute_status('x', 'mute')}, qr/22023: provider "mute" does not say what compute "x" does\nDETAIL:  It says: .*asleep.*\nHINT:/s, 'nor what there is');
refused(q{SELECT neon_compute_tools.compute_conninfo('x', 'mute')}, qr/22023: provider "mute" does not say where compute "x" is\nHINT:/, 'nor where');

# ---- suspend, wake
$before = asked('stop', 'conninfo');
ctl(q{SELECT neon_suspend_endpoint('dev')});
ok(asks_more($before, 'stop', 'conninfo'), 'it is suspended by its provider');
is(pid('dev'), 0, 'and does not run');
is(ctl(q{SELECT count(*) FROM neon_controller.role_secrets WHERE role = 'alice'}), '1', 'the verifiers of its roles are kept');
$before = asked('start');
ctl(q{SELECT neon_controller.proxy_wake('dev')});
ok(asks_more($before, 'start'), 'it is woken by its provider');
is(row('dev', q{last_start ->> 'warm'}) . on('dev', 'SELECT a FROM t'), 'true1', 'warm, with all it had');

# ---- watch: a crash is repaired, also while another provider is out of order
$before = asked('start', 'status');
my $pid = pid('dev');
kill 'KILL', $pid;
ok($c->poll('it runs again', 120, sub { my $p = pid('dev'); $p != 0 && $p != $pid && on('dev', 'SELECT a FROM t') eq '1' }), 'a killed endpoint is started again');
ok(asks_more($before, 'start', 'status'), 'by its provider');
ctl('CREATE TABLE host.is_broken ()');
$c->kill9('main');
ok($c->poll('it runs again', 120, sub { $c->pid('main') ne '-' && $c->sql('main', 'SELECT 1') eq '1' }), 'a provider that is out of order keeps nobody from looking after the others');
ctl('DROP TABLE host.is_broken');

# ---- watch: an idle one is suspended
$before = asked('stop', 'conninfo');
ctl(q{SELECT neon_set_endpoint('dev', 'suspend_timeout', '2 s')});
ok($c->poll('it sleeps', 120, sub { row('dev', 'wanted') eq 'suspended' && pid('dev') == 0 }), 'an endpoint that nobody uses is suspended');
ok(asks_more($before, 'stop', 'conninfo'), 'by its provider');
ctl(q{SELECT neon_set_endpoint('dev', 'suspend_timeout', '0')});

# ---- an interrupted creation is taken back
$before = asked('drop');
ctl(q{BEGIN; SELECT neon_create_endpoint('of_dev'); ROLLBACK});
ok($c->poll('nothing is left', 120, sub { ctl('SELECT count(*) FROM neon_controller.leftovers') eq '0' }), 'what an interrupted creation has left goes');
ok(asks_more($before, 'drop'), 'by its provider');
is(scalar(grep { /of_dev/ } glob("$c->{dir}/computes/*")), 0, 'and is gone');

# ---- the host gets another provider: what is there stays with its own; drop
ctl(q{SELECT neon_controller.register_node(name, role, node_id, host, port, admin_connstring, 'local') FROM neon_controller.nodes WHERE role = 'compute'});
ctl(q{SELECT neon_create_endpoint('of_dev')});
is(row('of_dev', 'provider'), 'local', 'a new endpoint is made by the new one');
$before = asked('start', 'drop');
ctl(q{SELECT neon_start_endpoint('dev')});
is(on('dev', 'SELECT a FROM t'), '1', 'one that is there works as before');
ctl(q{SELECT neon_drop_endpoint('dev')});
ok(asks_more($before, 'start', 'drop'), 'by its provider');
is(scalar(grep { /via-/ } glob("$c->{dir}/computes/*")), 0, 'it is dropped');
done_testing();
