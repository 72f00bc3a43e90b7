# The console page: in headless Chromium, and what its calls allow.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use NeonCluster;
use Npm;
use Test::More;

my $c = NeonCluster->new(proxies => 1);
$c->start;
my $base = 'http://127.0.0.1:' . ($c->{port} + 31);
my $http = HTTP::Tiny->new(timeout => 120);

# (status, decoded answer) of a call
sub call
{
	my ($fn, $args, $cookie, %headers) = @_;
	my $r = $http->post("$base/console/api/$fn", { content => encode_json($args),
		headers => { 'content-type' => 'application/json', 'x-neon-console' => 1, ($cookie ? (cookie => "other=1; $cookie") : ()), %headers } });
	return ($r->{status}, JSON::PP->new->allow_nonref->decode($r->{content}), $r);
}

sub login
{
	my ($args) = @_;
	my ($status, $answer, $r) = call('login', $args);
	my ($cookie, $rest) = ($r->{headers}{'set-cookie'} // '') =~ /^(neon_console=[0-9a-f]{64}); (.*)/;
	return ($status, $cookie, $rest);
}

# ---- tokens and sessions
my $token = $c->node_sql('controller', 'SELECT neon_controller.console_token()');
my ($status, $admin, $flags) = login({ token => $token });
is($status, 200, 'a token logs in');
like($flags, qr/HttpOnly; SameSite=Strict/, 'the cookie is for the page alone');
is((login({ token => $token }))[0], 401, 'and is used up');
is((call('overview', {}))[0], 401, 'without a session nothing is shown');
is((call('overview', {}, 'neon_console=' . 'f' x 64))[0], 401, 'nor with one that is made up');
is((call('overview', {}, $admin, 'x-neon-console' => ''))[0], 403, 'a call without the mark of the page is refused');
is((call('overview', {}, $admin, origin => 'http://evil.test'))[0], 403, 'and one from another site');
is((call('overview', {}, $admin, 'sec-fetch-site' => 'cross-site'))[0], 403, 'whatever names it');
is($http->request('OPTIONS', "$base/console/api/overview")->{status}, 404, 'nobody answers a preflight for it');
is((call('drop_tenant', { tenant => 'x' }, $admin))[0], 400, 'what the page cannot do its calls cannot');
is((call('../sql', {}, $admin))[0], 404, 'a call has a plain name');
like($http->get("$base/")->{headers}{'content-security-policy'}, qr/script-src 'self'/, 'the page has a policy');

my $old = $c->node_sql('controller', "SELECT neon_controller.console_token(valid => '1 ms'), pg_sleep(0.05)");
is((login({ token => (split /\|/, $old)[0] }))[0], 401, 'a token ends');
is((login({ user => 'postgres', password => 'wrong' }))[0], 401, 'a wrong password is refused');
my ($password) = $c->node_uri('controller') =~ /:([0-9a-f]+)@/;
is((login({ user => 'postgres', password => $password }))[0], 200, 'a role of the controller logs in with its password');

# ---- a tenant sees its own
my $other = $c->node_sql('controller', "SELECT id FROM neon_controller.tenants");
my $mine = $c->node_sql('controller', "SET client_min_messages = warning; SELECT neon_create_tenant('mine')");
my $secret = $c->node_sql('controller', "SELECT node_password FROM neon_controller.tenants WHERE id = '$mine'");
my (undef, $tenant) = login({ user => "neon_t_$mine", password => $secret });
ok($tenant, "a tenant's credential logs in");
my (undef, $overview) = call('overview', {}, $tenant);
is_deeply([ map { $_->{id} } @{ $overview->{tenants} } ], [$mine], 'it sees its tenant');
is_deeply([ grep { $_->{tenant} ne $mine } @{ $overview->{branches} }, @{ $overview->{endpoints} } ], [], 'and branches and endpoints of no other');
is((call('connection_uri', { tenant => $other, branch => 'main' }, $tenant))[0], 400, 'it gets no connection string of another tenant');
is((call('create_branch', { tenant => $other, name => 'intruder', parent => 'main' }, $tenant))[0], 400, 'and makes no branch there');
is($c->node_sql('controller', "SELECT count(*) FROM neon_controller.branches WHERE name = 'intruder'"), 0, 'really');
(undef, $overview) = call('overview', {}, $admin);
is(scalar @{ $overview->{tenants} }, 2, 'an administrator sees all');
is(scalar @{ (call('storage', {}, $tenant))[1]{branches} }, 1, 'storage as well');

# ---- a login that waits at a terminal
my $waiting = decode_json($c->node_sql('controller', "SET ROLE neon_proxy; SELECT neon_controller.console_login_create('192.0.2.9')"));
is($c->node_sql('controller', "SET ROLE neon_proxy; SELECT neon_controller.console_login_poll('$waiting->{id}') IS NULL"), 't', 'it waits');
is((call('confirm_login', { code => $waiting->{code}, endpoint => 'main-' . substr($other, 0, 8) }, $tenant))[0], 400,
	'a tenant confirms for its own endpoints only');
is((call('confirm_login', { code => $waiting->{code}, endpoint => 'main-' . substr($mine, 0, 8) }, $tenant))[0], 200, 'and does');
my $answer = decode_json($c->node_sql('controller', "SET ROLE neon_proxy; SELECT neon_controller.console_login_poll('$waiting->{id}')"));
my $port = $c->{port} + 30;
is(join('|', ($c->psql_uri("postgresql://$answer->{user}:$answer->{password}\@127.0.0.1:$port/$answer->{database}?options=endpoint%3D$answer->{endpoint}",
	'SELECT current_user'))[0, 1]), '0|postgres', 'the answer is good for a connection');
like(($c->psql_uri($c->node_uri('controller'), "SET ROLE neon_proxy; SELECT neon_controller.console_login_poll('$waiting->{id}')"))[2],
	qr/not confirmed in time/, 'and is given once');
like(($c->psql_uri($c->node_uri('controller'), 'SET ROLE neon_proxy; SELECT * FROM neon_controller.console_secrets'))[2], qr/permission denied/,
	'a proxy reads no table');

# ---- the same as a user does it: psql without a password, a link, a click
{
	my ($out, $err) = ('', '');
	my $psql = IPC::Run::start([ 'psql', '-XAtq', "postgresql://127.0.0.1:$port/postgres?user=someone&options=auth%3Dconsole", '-c', 'SELECT current_user' ],
		'<', '/dev/null', '>', \$out, '2>', \$err, IPC::Run::timeout(240));
	ok($c->poll('the notice comes', 120, sub { $psql->pump_nb; $err =~ m{http://\S+#login=[0-9A-F-]+} }), 'psql gets a link') or diag($err);
	my ($code) = $err =~ /#login=([0-9A-F-]+)/;
	my (undef, $look) = call('waiting_login', { code => $code }, $tenant);
	is($look->{address}, '127.0.0.1', 'the page shows from where');
	is((call('confirm_login', { code => $code, endpoint => 'main-' . substr($mine, 0, 8) }, $tenant))[0], 200, 'it is confirmed');
	eval { $psql->finish };
	is($out, "postgres\n", 'and psql goes on') or diag($err . $c->tail_logs);
}

# ---- too many guesses
my @guesses = map { (login({ token => sprintf '%064x', $_ }))[0] } 1 .. 25;
ok((grep { $_ == 429 } @guesses) > 0 && !grep({ $_ != 429 && $_ != 401 } @guesses), 'guesses are limited');

# ---- in a browser
SKIP:
{
	my ($dir, $why) = Npm::directory();
	my ($browser) = grep { -x } $ENV{CHROMIUM} // (), '/usr/bin/chromium', '/usr/bin/chromium-browser';
	$why = 'there is no Chromium' if $dir && !$browser;
	skip "the page in a browser: $why", 1 unless $dir && $browser;
	$ENV{CHROMIUM} = $browser;
	my $code = $c->node_sql('controller', "SELECT neon_controller.console_login_create('192.0.2.7') ->> 'code'");
	$c->node_sql('controller', "UPDATE neon_controller.console_logins SET expires_at = now() + interval '1 hour'");
	$token = $c->node_sql('controller', "SELECT neon_controller.console_token('default')");
	# the guesses above count against this address until their minute is over
	ok($c->poll('guesses are forgotten', 150, sub { (login({ token => 'f' x 64 }))[0] == 401 }), 'guesses are forgotten after a minute');
	my $out = Npm::run_tap($dir, 'console_page.mjs', $base, $token, $code);
	my ($uri) = $out =~ /^# direct (\S+)/m;
	$c->node_sql('controller', "SET neon.tenant = 'default'; SELECT neon_start_endpoint('by-hand')");
	is(join('|', ($c->psql_uri($uri // 'none', 'SELECT neon_current_branch()'))[0, 1]), '0|by-hand', 'what was copied connects to the new branch');
}
$c->destroy;
done_testing();
