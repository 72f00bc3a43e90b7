# Bytes on the HTTP port that no friend would send: each costs a bounded time and memory, and the others do not notice.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use HTTP::Tiny;
use IO::Select;
use IO::Socket::INET;
use File::Temp;
use IPC::Run qw(run);
use NeonCluster;
use Test::More;
use Time::HiRes qw(sleep time);

# no cluster is needed: a proxy alone, whose controller is away
my ($port, $lock) = NeonCluster::free_ports();
my $dir = File::Temp::tempdir('neonXXXXXX', DIR => '/tmp', CLEANUP => 1);
my @as = $> == 0 ? ('runuser', '-u', 'postgres', '--') : ();
chmod 0755, $dir;
chown((getpwnam('postgres'))[2], -1, $dir) if $> == 0;
my $bin = `pg_config --bindir`;
chomp $bin;
my ($out, $err) = ('', '');
run [ @as, "$bin/initdb", '-N', '-A', 'trust', '-U', 'postgres', '-D', "$dir/data" ], '>', \$out, '2>', \$err or die $err;
open my $f, '>>', "$dir/data/postgresql.conf" or die;
print $f "listen_addresses = ''\nunix_socket_directories = '$dir'\nport = ", $port + 38, "\nfsync = off\nshared_preload_libraries = 'neon_proxy'\n",
  "neon_proxy.port = ", $port + 30, "\nneon_proxy.socket_directory = '$dir'\nneon_proxy.http_port = ", $port + 31, "\nneon_proxy.http_max_connections = 60\n",
  "neon_proxy.http_request_timeout = '20s'\nneon_proxy.controller_connstring = 'host=127.0.0.1 port=1 dbname=postgres user=neon_proxy password=x'\n";
close $f;
my $log = "$dir/log";
run [ @as, "$bin/pg_ctl", '-w', '-D', "$dir/data", '-l', $log, 'start' ], '>', \$out, '2>', \$err or die "$err" . `cat $log`;
END { local $?; run [ @as, "$bin/pg_ctl", '-m', 'immediate', '-D', "$dir/data", 'stop' ], '>', \$out, '2>', \$err if $dir && $bin; }

my $http = HTTP::Tiny->new(timeout => 60, keep_alive => 0);
my $health = sub { $http->get('http://127.0.0.1:' . ($port + 31) . '/health')->{content} eq "ok\n" };
sub poll { my ($limit, $code) = @_; my $end = time + $limit; while (time < $end) { return 1 if $code->(); sleep 0.2; } return 0; }
ok(poll(60, $health), 'it answers');
my ($pid) = `ps -o pid=,args= --ppid \$(head -1 $dir/data/postmaster.pid)` =~ /^\s*(\d+).*neon proxy HTTP worker/m;
ok($pid, 'one process serves HTTP');

sub connection { return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port + 31, Timeout => 60); }

# Everything that comes until the other side closes; undef when it does not within the limit.
sub read_all
{
	my ($s, $limit) = @_;
	my ($got, $end) = ('', time + $limit);
	while (time < $end)
	{
		next unless IO::Select->new($s)->can_read(1);
		my $n = sysread $s, $got, 65536, length $got;
		return $got if !$n;
	}
	return undef;
}

sub ask { my ($bytes, $limit) = @_; my $s = connection(); local $SIG{PIPE} = 'IGNORE'; $s->print($bytes); $s->flush; return read_all($s, $limit // 90); }
my $head = "Host: x\r\nConnection: close\r\n";

# ---- not HTTP
srand 4;
for my $i (1 .. 30)
{
	my $s = connection();
	local $SIG{PIPE} = 'IGNORE';
	print $s join '', map { chr int rand 256 } 1 .. 1 + int rand 3000;
	$s->flush;
	close $s;
}
ok(poll(60, $health), 'random bytes');
ok(defined ask("\x00\x00\x00\x08\x04\xd2\x16\x2f"), 'a request for encryption of a database') or diag("not closed");
ok(defined ask("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" . 'x' x 300), 'a TLS greeting without TLS');
for my $bad ("GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "get / http/1.1\r\n\r\n", "/ / /\r\n\r\n", "\r\n" x 1000, "GET /\0\0 HTTP/1.1\r\n$head\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"GET /../../etc/passwd HTTP/1.1\r\n$head\r\n", "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n$head\r\n", "GET /console/../../x HTTP/1.1\r\n$head\r\n")
{
	my $got = ask($bad);
	(my $name = substr $bad, 0, 24) =~ s/[^ -~]/./g;
	ok(defined $got && $got !~ /root:/, "closed: $name");
}

# ---- too much
ok(defined(my $got = ask("GET / HTTP/1.1\r\nHost: x\r\n" . join('', map { "X-$_: " . 'y' x 1000 . "\r\n" } 1 .. 200) . "\r\n")), 'headers without end');
ok(defined ask('GET /' . 'a' x 100000 . " HTTP/1.1\r\n$head\r\n"), 'an address without end');
ok(defined ask("GET / HTTP/1.1\r\nHost: x\r\nNeon-Connection-String: " . 'a' x 200000 . "\r\n\r\n"), 'a header without end');
like(ask("POST /sql HTTP/1.1\r\n${head}Content-Length: 999999999999\r\n\r\nx"), qr{^HTTP/1.1 413}, 'a body that is announced as too large');
like(ask("POST /sql HTTP/1.1\r\n${head}Content-Length: -5\r\n\r\nx"), qr{^HTTP/1.1 41[13]}, 'a negative length');
like(ask("POST /sql HTTP/1.1\r\n${head}Content-Length: " . '0' x 40 . "20\r\n\r\n{\"query\":\"SELECT 1\"}"), qr{^HTTP/1.1 413(?!.*HTTP/1.1)}s, 'a length of many digits');
like(ask("POST /sql HTTP/1.1\r\n${head}Content-Length: 5x\r\n\r\nx"), qr{^HTTP/1.1 4}, 'a length that is no number');
like(ask("POST /sql HTTP/1.1\r\n${head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), qr{^HTTP/1.1 411}, 'a body in chunks');
like(ask("POST /sql HTTP/1.1\r\n${head}Neon-Connection-String: postgresql://u:p\@h/d\r\nContent-Length: 2\r\n\r\n{}"), qr{^HTTP/1.1 400.*query}s, 'a body that says nothing');
like(ask("POST /sql HTTP/1.1\r\n${head}Neon-Connection-String: postgresql://u:p\@h/d?options=-c%20neon_proxy.client_address%3D1.2.3.4\r\nContent-Length: 20\r\n\r\n{\"query\":\"SELECT 1\"}"),
	qr{^HTTP/1.1 400.*neon_proxy}s, 'options that pretend to be somebody');
like(ask("POST /sql HTTP/1.1\r\n${head}Neon-Connection-String: postgresql://u:p\@/d?host=/tmp&service=x&passfile=/etc/passwd\r\nContent-Length: 20\r\n\r\n{\"query\":\"SELECT 1\"}"),
	qr{^HTTP/1.1 400}, 'a connection string that names files');

# ---- too slow: headers, body, answer; all are given up, while others are served
my @slow = map { connection() } 1 .. 20;
print $_ "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: " for @slow[0 .. 9];
print $_ "POST /sql HTTP/1.1\r\n${head}Content-Length: 1000\r\n\r\n" for @slow[10 .. 19];
$_->flush for @slow;
my %open = map { $_ => $_ } @slow;
my $served = 1;
ok(poll(240, sub {
	local $SIG{PIPE} = 'IGNORE';
	for my $s (values %open)
	{
		syswrite $s, 'y';
		next unless IO::Select->new($s)->can_read(0);
		delete $open{$s} unless sysread $s, my $buf, 4096;
	}
	$served &&= $health->();
	sleep 0.5;
	return !%open;
}), 'twenty that send a byte now and then are closed') or diag(scalar(keys %open) . ' are open');
ok($served, 'and others are served meanwhile');

# ---- too many
my @many = map { connection() } 1 .. 100;
my $refused = 0;
for my $s (@many)
{
	next unless $s && IO::Select->new($s)->can_read(0.2);
	sysread $s, my $buf, 4096;
	$refused++ if ($buf // '') =~ /^HTTP\/1.1 503/ || !length($buf // '');
}
cmp_ok($refused, '>=', 30, "more connections than allowed are refused ($refused)");
cmp_ok(scalar(grep { /socket/ } map { readlink($_) // '' } glob "/proc/$pid/fd/*"), '<=', 120, 'descriptors are bounded') if $> == 0;
close $_ for grep { $_ } @many;
ok(poll(60, $health), 'when they have gone there is room again');

# ---- WebSockets
my $upgrade = "GET /v2 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
like(ask("$upgrade\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff" . 'x' x 100), qr{^HTTP/1.1 101}, 'a frame of 2^64 bytes');
like(ask("$upgrade\xff\xff" . 'x' x 100), qr{^HTTP/1.1 101}, 'a frame of no kind');
like(ask("$upgrade\x82\x84\0\0\0\0\xff\xff\xff\xff"), qr{^HTTP/1.1 101}, 'a startup packet of 4 GB');
my @idle = map { my $s = connection(); print $s $upgrade; $s->flush; $s } 1 .. 10;
ok(poll(200, sub { my $closed = 0; for my $s (@idle) { next unless $s && IO::Select->new($s)->can_read(0); $closed++ if !sysread($s, my $b, 4096) || eof_soon($s); } $closed }),
	'WebSockets that do not log in are closed');
sub eof_soon { my ($s) = @_; return IO::Select->new($s)->can_read(30) && !sysread $s, my $b, 4096; }
undef @idle;

# ---- a controller that is away is an error, not a wait without end
like($http->post('http://127.0.0.1:' . ($port + 31) . '/console/api/login', { content => '{"token":"' . 'f' x 64 . '"}',
	headers => { 'content-type' => 'application/json', 'x-neon-console' => 1 } })->{content}, qr/could not connect/, 'the controller is away');

ok(poll(60, $health), 'it answers still');
is((`ps -o pid=,args= --ppid \$(head -1 $dir/data/postmaster.pid)` =~ /^\s*(\d+).*neon proxy HTTP worker/m)[0], $pid, 'and is the same process');
my $rss = (grep { /VmRSS/ } do { open my $s, '<', "/proc/$pid/status"; <$s> })[0];
$rss =~ s/\D//g;
cmp_ok($rss, '<', 200000, "it has $rss kB");
done_testing();
