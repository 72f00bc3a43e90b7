# HTTPS and WebSockets over TLS on the proxy's HTTP port: certificates by name, renewed ones, and who does not speak TLS.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use lib dirname(abs_path(__FILE__)) . '/../perl';
use IO::Select;
use IO::Socket::INET;
use IPC::Run qw(run timeout);
use Time::HiRes qw(sleep time);
use Test::More;
use Npm;
use ProxyRig;

my $limit = 20;
my $p = ProxyRig->new;
my $port = $p->{base} + 31;
my $crt = "$p->{tmp}/certs/default.crt";
$p->certificate('default', 'localhost', 'DNS:localhost,DNS:*.first.example,IP:127.0.0.1');
$p->halt('proxy');
$p->conf('proxy', "neon_proxy.http_port = $port\nneon_proxy.http_tls = on\nneon_proxy.http_max_connections = $limit\nneon_proxy.max_address_failures = 0");
$p->go('proxy');

# (exit code, what came) of curl, for a host name that is at 127.0.0.1
sub curl
{
	my ($host, $ca, $path, @more) = @_;
	my ($o, $e) = ('', '');
	my $h = IPC::Run::start([ 'curl', '-sS', '--noproxy', '*', '--max-time', 60, '--cacert', $ca, '--resolve', "$host:$port:127.0.0.1", @more, "https://$host:$port$path" ],
		'<', '/dev/null', '>', \$o, '2>', \$e, timeout(120));
	$h->finish;
	return ($h->result(0), $o . $e);
}
sub healthy { my ($host, $ca) = @_; my ($rc, $o) = curl($host, $ca, '/health'); return "$rc|$o" eq "0|ok\n"; }
sub until_true { my ($what, $code) = @_; my $end = time + 90; while (time < $end) { return pass($what) if $code->(); sleep 0.2; } fail($what); diag($p->logs); }
sub worker { my ($pid) = `ps -o pid=,args= --ppid \$(head -1 $p->{tmp}/proxy/postmaster.pid)` =~ /^\s*(\d+).*neon proxy HTTP worker/m; return $pid; }

until_true('it serves HTTPS', sub { healthy('localhost', $crt) });
my $pid = worker();
ok($pid, 'one process serves HTTP');

# ---- rows
my $uri = "postgresql://ann:secret\@main-1a2b3c4d.first.example:$p->{port}/app";
my ($rc, $out) = curl('localhost', $crt, '/sql', '-d', '{"query":"SELECT $1::int AS n","params":["7"]}', '-H', "Neon-Connection-String: $uri");
is($rc, 0, 'SQL over HTTPS') or diag($out);
like($out, qr/"rows":\[\{"n":7\}\]/, 'gives rows');
($rc, $out) = curl('localhost', $crt, '/sql', '-d', '{"query":"SELECT repeat(\'x\', 1000000) AS t FROM generate_series(1, 5)"}', '-H', "Neon-Connection-String: $uri");
ok($rc == 0 && length $out > 5_000_000, 'and five megabytes of them');

# ---- a password that is changed: pooled connections do not go on with the old one
{
	my $as = sub { my ($password) = @_; my (undef, $o) = curl('localhost', $crt, '/sql', '-d', '{"query":"SELECT current_user AS u"}', '-H',
		"Neon-Connection-String: postgresql://dora:$password\@main-1a2b3c4d.first.example:$p->{port}/app"); return $o };
	$p->admin(q{CREATE ROLE dora LOGIN PASSWORD 'first'});
	like($as->('first'), qr/"u":"dora"/, 'a pooled connection');
	my ($failed) = $p->psql('options=endpoint=main-1a2b3c4d', q{ALTER ROLE dora PASSWORD 'second'});
	is($failed, 0, 'the password is changed');
	until_true('the old one is refused', sub { $as->('first') =~ /password authentication failed/ });
	like($as->('second'), qr/"u":"dora"/, 'the new one is good');
}

for my $version ([ '1.2', 0 ], [ '1.1', 1 ])
{
	($rc) = curl('localhost', $crt, '/health', "--tlsv$version->[0]", '--tls-max', $version->[0], $version->[1] ? ('--ciphers', 'DEFAULT@SECLEVEL=0') : ());
	is($rc != 0, !!$version->[1], "TLS $version->[0] is " . ($version->[1] ? 'refused' : 'taken'));
}

# ---- certificates by name: those of the files, as on the database side
ok(healthy('main-1a2b3c4d.second.example', "$p->{tmp}/certs/second.crt"), 'another certificate by host name');
ok(healthy('main-1a2b3c4d.first.example', $crt), 'and the first one by its other name');
($rc) = curl('main-1a2b3c4d.third.example', $crt, '/health');
is($rc, 60, 'a name that no certificate covers gets the default one, which does not fit') or diag($rc);

# ---- who does not speak TLS, more often than there may be connections
sub plain
{
	my ($bytes) = @_;
	my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 60) or return;
	local $SIG{PIPE} = 'IGNORE';
	$s->syswrite($bytes);
	my ($got, $end) = ('', time + 90);
	while (time < $end)
	{
		next unless IO::Select->new($s)->can_read(1);
		return $got unless sysread $s, $got, 65536, length $got;
	}
	return;
}
my @answers = map { plain($_) } ("GET /health HTTP/1.1\r\nHost: x\r\n\r\n", "\x00\x00\x00\x08\x04\xd2\x16\x2f", "\x16\x03\x01\x00\x05xxxxx") x $limit;
is(scalar(grep { defined } @answers), 3 * $limit, 'plain requests and broken handshakes are closed');
is(scalar(grep { /200 OK/ } @answers), 0, 'without an answer to what was asked');
my @silent = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 60) } 1 .. $limit / 2;
ok(healthy('localhost', $crt), 'others do not notice, nor those who say nothing');
undef @silent;

# ---- the driver's WebSockets
my ($npm, $why) = Npm::directory();
SKIP:
{
	skip "WebSockets over TLS with the driver: $why", 1 unless $npm;
	local $ENV{NODE_EXTRA_CA_CERTS} = $crt;
	Npm::run_tap($npm, 'serverless_ws.mjs', "127.0.0.1:$port", $uri, 'tls');
}

# ---- a renewed certificate
rename $crt, "$p->{tmp}/old.crt" or die $!;
$p->certificate('default', 'localhost', 'DNS:localhost');
ok(healthy('localhost', "$p->{tmp}/old.crt"), 'a new file changes nothing before the reload');
kill 'HUP', `head -1 $p->{tmp}/proxy/postmaster.pid` or die $!;
until_true('after it the new certificate is shown', sub { healthy('localhost', $crt) });
ok(!healthy('localhost', "$p->{tmp}/old.crt"), 'and not the old one');
ok(healthy('x.second.example', "$p->{tmp}/certs/second.crt"), 'the other one is as it was');
is(worker(), $pid, 'all that in the same process');
$p->destroy;
done_testing();
