# The proxy in front of a cluster: endpoints that sleep wake for their clients, once; passwords, branches, the controller being away.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use lib dirname(abs_path(__FILE__)) . '/../perl';
use IPC::Run qw(run timeout);
use Test::More;
use NeonCluster;

my $top = abs_path(dirname(__FILE__) . '/../..');
my $c = NeonCluster->new(proxies => 1);
$c->start;

my $st = $c->status->{'proxy-1'};
is($st->{state}, 'running', 'the proxy runs');
is($st->{port}, $c->{port} + 30, 'its port');

sub through { my ($ep) = @_; return $c->local('uri', '-D', $c->{dir}, '--node', 'proxy-1', '--endpoint', $ep); }
my $main = through('main');
my ($id) = $main =~ /endpoint%3D(main-[0-9a-f]{8})$/;
ok($id, 'the endpoint has an external id');

sub ok_sql
{
	my ($uri, $sql, $want, $what) = @_;
	my ($rc, $out, $err) = $c->psql_uri($uri, $sql);
	is("$rc|$out", "0|$want", $what) or diag($err . $c->tail_logs);
}
sub as_role { my ($user, $password, $endpoint) = @_; return "postgresql://$user:$password\@127.0.0.1:$st->{port}/postgres?options=endpoint%3D$endpoint"; }

ok_sql($main, 'SELECT current_user', 'postgres', 'a query through the proxy');
ok_sql($main . '&sslmode=require&channel_binding=require', 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()', 'f', 'TLS with channel binding towards the client');

# roles and passwords
ok_sql($main, q{CREATE ROLE app LOGIN PASSWORD 'one'; CREATE TABLE t (a int); GRANT SELECT ON t TO app; INSERT INTO t VALUES (1)}, '', 'a role is made');
ok_sql(as_role('app', 'one', $id), 'SELECT current_user, a FROM t', 'app|1', 'it logs in');
ok_sql($main, q{ALTER ROLE app PASSWORD 'two'}, '', 'its password is changed');
ok_sql(as_role('app', 'two', 'main'), 'SELECT 1', '1', 'the new one is good at once, and a bare name where it is unique');
for my $wrong (as_role('app', 'one', $id), as_role('nobody', 'one', $id), as_role('app', 'one', 'nowhere'), as_role('app', 'one', 'main-00000000'))
{
	my ($rc, $out, $err) = $c->psql_uri("$wrong&sslmode=require", 'SELECT 1');
	like($err, qr/FATAL:  password authentication failed for user/, 'a wrong password, an unknown role, an unknown endpoint: all look the same');
}

# sleeping and waking
my $ctl = sub { $c->node_sql('controller', @_) };
$ctl->(q{CREATE TABLE starts (at timestamptz DEFAULT clock_timestamp());
	CREATE FUNCTION note_start() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.starts DEFAULT VALUES; RETURN NULL; END';
	CREATE TRIGGER t AFTER UPDATE ON neon_controller.endpoints FOR EACH ROW
	WHEN (OLD.started_at IS DISTINCT FROM NEW.started_at) EXECUTE FUNCTION note_start()});
$ctl->(q{SELECT neon_suspend_endpoint('main')});
is($c->status->{main}{state}, 'suspended', 'the endpoint sleeps');
ok_sql(as_role('app', 'two', $id), 'SELECT a FROM t', '1', 'a connection wakes it');
is($ctl->('SELECT count(*) FROM starts'), 1, 'one start');

# a password is checked before anything is started; who sleeps may have got another one, a limit, or be new since the last time
ok_sql($main, q{CREATE ROLE late LOGIN PASSWORD 'one' VALID UNTIL '2001-01-01'; CREATE ROLE fresh LOGIN PASSWORD 'one'; ALTER ROLE app PASSWORD 'three'}, '', 'roles change');
$ctl->(q{TRUNCATE starts; SELECT neon_suspend_endpoint('main')});
for my $wrong (as_role('app', 'two', $id), as_role('app', 'nonsense', $id . '-pooler'), as_role('nobody', 'one', 'main'), as_role('late', 'one', $id))
{
	like(($c->psql_uri("$wrong&sslmode=require", 'SELECT 1'))[2], qr/FATAL:  password authentication failed for user/, 'a wrong password at one that sleeps');
}
is($c->status->{main}{state} . $ctl->('SELECT count(*) FROM starts'), 'suspended0', 'starts nothing');
ok_sql(as_role('fresh', 'one', $id), 'SELECT 1', '1', 'a right one does');
is($ctl->('SELECT count(*) FROM starts'), 1, 'once');
ok_sql($main, q{ALTER ROLE app PASSWORD 'two'}, '', 'a password is changed while it runs');
$c->kill9('main');
ok_sql(as_role('app', 'two', $id), 'SELECT 1', '1', 'and the new one is known after a crash');

# a client that stays connected while its endpoint sleeps
my ($in, $out, $err) = ("SELECT 'first';\n", '', '');
my $h = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', $main . '-pooler' ], '<', \$in, '>', \$out, '2>', \$err, timeout(300));
$h->pump until $out =~ /first/;
$ctl->(q{SELECT neon_suspend_endpoint('main')});
is($c->status->{main}{state}, 'suspended', 'a pooled connection does not keep it awake');
$in .= "SELECT 'second';\n";
$h->pump until $out =~ /second/ || $err ne '';
like($out, qr/second/, 'its next transaction wakes the endpoint') or diag($err);
$in .= "\\q\n";
$h->finish;

$ctl->(q{TRUNCATE starts; SELECT neon_suspend_endpoint('main')});
my $storm = "$top/proxy/test/px_storm";
run [ $storm, $main . '-pooler', 200, 'SELECT count(*) FROM t' ], '>', \$out, '2>', \$err, timeout(300);
like($out, qr/^ok=200 failed=0/, '200 clients at once at a sleeping endpoint all succeed') or diag("$out$err" . $c->tail_logs);
is($ctl->('SELECT count(*) FROM starts'), 1, 'and cause one start');

# branches
$ctl->(q{SELECT neon_create_branch('dev', parent => 'main'); SELECT neon_create_endpoint('dev')});
my $dev = through('dev');
ok_sql($dev, q{INSERT INTO t VALUES (2); SELECT count(*) FROM t}, '2', 'another endpoint on the same port');
ok_sql($main, q{SELECT count(*) FROM t}, '1', 'is another database');
$ctl->(q{SELECT neon_drop_endpoint('dev')});
my ($rc, undef, $gone) = $c->psql_uri($dev, 'SELECT 1');
like($gone, qr/password authentication failed/, 'a dropped endpoint is unknown at once');

# the controller away; chance says which worker a connection gets, and each knows what any of them was asked for
ok_sql($main, q{CREATE ROLE third LOGIN PASSWORD 'three'; GRANT SELECT ON t TO third; SELECT 1}, '1', 'a role that no client has used');
my $as_third = as_role('third', 'three', $id);
ok_sql($as_third, 'SELECT 1', '1', 'one client uses it');
$c->stop('controller');
is(scalar(grep { ($c->psql_uri($as_third, 'SELECT a FROM t'))[1] eq '1' } 1 .. 16), 16, 'with the controller away a known endpoint goes on, whichever worker has the connection');
($rc, undef, $err) = $c->psql_uri(as_role('app', 'two', 'other-12345678'), 'SELECT 1');
like($err, qr/the control plane cannot be reached/, 'an unknown one gets a clear error');
$c->start('controller');
ok($c->poll('the proxy is connected again', 60, sub { my (undef, $o) = $c->psql_uri(as_role('app', 'two', 'other-12345678'), 'SELECT 1'); my (undef, undef, $e) = $c->psql_uri(as_role('app', 'two', 'other-12345678'), 'SELECT 1'); $e =~ /password authentication failed/ }),
	'the controller is back');

# neon_proxy may nothing else
my $pw = `grep PROXY_PASSWORD $c->{dir}/neon_local.conf`; chomp $pw; $pw =~ s/.*=//;
my $ask = "postgresql://neon_proxy:$pw\@127.0.0.1:$c->{port}/postgres";
is(($c->psql_uri($ask, "SELECT neon_controller.proxy_endpoint('main') ->> 'id'"))[1], $id, 'the role of the proxy asks its questions');
for my $no (q{SELECT * FROM neon_controller.tenants}, q{SELECT neon_controller.suspend_endpoint('x', 'main')}, q{SELECT neon_drop_branch('main')})
{
	isnt(($c->psql_uri($ask, $no))[0], 0, "and may not: $no");
}

# console
my $console = $c->local('uri', '-D', $c->{dir}, '--node', 'proxy-1');
like(($c->psql_uri($console, 'SHOW POOLS'))[1], qr/postgres\|app\|.*\|\Q$id\E\|/, 'SHOW POOLS');
$c->stop('proxy-1');
is($c->status->{'proxy-1'}{state}, 'stopped', 'the proxy stops');
done_testing();
