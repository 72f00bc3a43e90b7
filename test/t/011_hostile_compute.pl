# What reaches a running compute from outside: a pageserver that is not there, is another server, does not answer or answers
# nonsense.  Statements that need a page fail with a clear error or can be cancelled, everything else goes on, and when the
# pageserver is right again so is the compute.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Hostile;
use NeonCluster;
use RawPg;
use Test::More;
use Time::HiRes qw(time sleep);

my $c = NeonCluster->new(init => [ '--safekeepers', 1 ]);
$c->start;
my $ps = 'pageserver-1';
$c->node_sql('controller', q{UPDATE neon_controller.endpoints SET settings =
	'{"shared_buffers": "2MB", "neon.file_cache_size_limit": "2MB", "neon.pageserver_timeout": "500ms", "autovacuum": "off"}'});
$c->stop('main');
$c->start('main');
$c->sql('main', q{CREATE TABLE big AS SELECT g AS a, repeat(md5(g::text), 20) AS b FROM generate_series(1, 30000) g; CREATE TABLE small (a int);
	CREATE ROLE plain LOGIN PASSWORD 'plain'; GRANT SELECT ON big TO plain});
my $status = $c->status->{main};
my $dir = $status->{dir};
my $conf = do { open my $f, '<', "$dir/postgresql.conf" or die; local $/; <$f> };
my ($real) = $conf =~ /^neon.pageserver_connstring = '(.*)'$/m;
my $query = q{SELECT count(*), md5(string_agg(b, NULL ORDER BY a)) FROM big};
my $sum = $c->sql('main', $query);

my $s = RawPg->connect(RawPg::parse($c->uri('main')));
sub ask { my ($sql) = @_; my $r = $s->query($sql); return $r->{error} ? $r->{error} : join '|', map { $_ // '' } @{ $r->{rows}[0] || [] }; }
# what must go on without any page from outside: warmed, and pinned by use
my $commit = 'INSERT INTO small VALUES (1)';
is(ask($query), $sum, 'the content');
ask($commit);

sub reload
{
	my (%set) = @_;
	open my $f, '>', "$dir/postgresql.auto.conf" or die $!;
	print $f "$_ = '$set{$_}'\n" for keys %set;
	close $f;
	kill 'HUP', $status->{pid};
	sleep 0.2;
}
my $mark = 0;
sub reload_and_wait
{
	my (%set) = @_;
	my $n = ++$mark;
	reload(%set, 'neon_test.mark' => $n);
	# a session takes the new settings before its next statement
	for (1 .. 100) { my $r = $s->query('SHOW neon_test.mark'); last if ($r->{rows}[0][0] // '') eq $n; sleep 0.05; }
}

# ---- where the pageserver is said to be
my ($silent, $silent_pid) = fake_server(sub { sleep 600 });
my $garbage_listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 50) or die;
my $deaf = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 50) or die;
my $garbage_pid = fork // die;
if ($garbage_pid == 0)
{
	$SIG{PIPE} = 'IGNORE';
	while (my $x = $garbage_listener->accept) { syswrite($x, "HTTP/1.1 400 Bad Request\r\n\r\n" . "\0\xff" x 1000); close $x; }
	POSIX::_exit(0);
}
my $controller = $c->status->{controller}{port};
for my $bad (
	[ 'nobody listens', 'host=127.0.0.1 port=1 dbname=postgres user=x', '08001', qr/could not connect to the pageserver/ ],
	[ 'no connection string', 'garbage', '08001', qr/could not connect to the pageserver/ ],
	[ 'an empty one', '', '55000', qr/does not know its pageserver/ ],
	[ 'no such host', 'host=no-such-host.invalid port=5432 dbname=postgres user=x', '08001', qr/could not connect to the pageserver/ ],
	[ 'a wrong password', $real =~ s/password=\S+/password=wrong/r, '08001', qr/could not connect to the pageserver/ ],
	[ 'no such database', $real =~ s/dbname=\S+/dbname=nope/r, '08001', qr/could not connect to the pageserver/ ],
	[ 'the controller', $real =~ s/port=\d+/port=$controller/r, '42501', qr/a tenant's session on this server can only call/ ],
	[ 'itself', "host=127.0.0.1 port=$status->{port} dbname=postgres user=plain password=plain", undef, qr/\w/ ],
	[ 'a server that is none', 'host=127.0.0.1 port=' . $garbage_listener->sockport . ' dbname=postgres user=x', '08001', qr/could not connect to the pageserver/ ],
	[ 'one that says nothing', 'host=127.0.0.1 port=' . $deaf->sockport . ' dbname=postgres user=x', '08006', qr/the pageserver did not answer within 500 ms/ ],
	[ 'one that answers no query', "host=127.0.0.1 port=$silent dbname=postgres user=x", '08006', qr/the pageserver did not answer within 500 ms/ ])
{
	my ($name, $connstring, $code, $message) = @$bad;
	reload_and_wait('neon.pageserver_connstring' => $connstring);
	my $start = time;
	my $e = ask($query);
	ok(ref $e, "$name: a statement that needs pages fails") or diag $e;
	refused($c, $e, $name, $code // $e->{C}, $message, bare => !$code || $code eq '3F000') if ref $e;
	cmp_ok(time - $start, '<', 20, "$name: in time");
	is(ref(ask($commit)) || 'committed', 'committed', "$name: commits go on");
}
kill 'TERM', $garbage_pid;
waitpid $garbage_pid, 0;
stop_proxy($silent_pid);
reload_and_wait('neon.pageserver_connstring' => $real);
is(ask($query), $sum, 'with the right one all is well again');

# ---- a pageserver that answers nonsense
sub fake_pageserver
{
	my ($answer) = @_;
	return fake_server(sub {
		my ($sock, $sql) = @_;
		syswrite($sock, RawPg::framed('W', "\0\0\0"));
		while (my ($type, $body) = Hostile::read_message($sock))
		{
			next if $type ne 'd';
			my $out = $answer->($body);
			return if !defined $out;
			syswrite($sock, $out);
		}
	});
}
my $page = "\0" x 8192;
sub d { return RawPg::framed('d', $_[0]); }
# the request with its answer's tag and a payload of the right length
sub fitting
{
	my ($request) = @_;
	my $tag = unpack('C', $request);
	return $tag == 0 ? (100, "\1") : $tag == 1 ? (101, pack('N', 2)) : $tag == 2 ? (102, $page) : $tag == 3 ? (104, "\0" x 8) : (105, '');
}
for my $bad (
	[ 'an unknown tag', sub { d("\xff" . $_[0]) }, 'XX001', qr/malformed response from the pageserver: tag 255/ ],
	[ 'one byte', sub { d('x') }, 'XX001', qr/malformed response from the pageserver/ ],
	[ 'a short answer', sub { my ($t, $p) = fitting($_[0]); d(chr($t) . substr($_[0], 0, 20)) }, 'XX001', qr/malformed response/ ],
	[ 'a long answer', sub { my ($t, $p) = fitting($_[0]); d(chr($t) . $_[0] . $p . 'x') }, 'XX001', qr/malformed response/ ],
	[ '10 MB', sub { my ($t, $p) = fitting($_[0]); d(chr($t) . $_[0] . 'x' x 10_000_000) }, 'XX001', qr/malformed response/ ],
	[ 'the answer to another request', sub { my ($t, $p) = fitting($_[0]); my $r = $_[0]; substr($r, 8, 1) ^= "\1"; d(chr($t) . $r . $p) }, 'XX001', qr/answered another request/ ],
	[ 'of another block', sub { my ($t, $p) = fitting($_[0]); my $r = $_[0]; substr($r, 41, 1) ^= "\1"; d(chr($t) . $r . $p) }, 'XX001', qr/answered another request/ ],
	[ 'a tag that does not fit', sub { d("\x66" . substr($_[0], 0, 42) . "\1") }, 'XX001', qr/malformed response/ ],
	[ 'an error without text', sub { d("\x67" . $_[0] . 'XX000') }, 'XX000', qr/the pageserver could not answer: $/ ],
	[ 'an error whose SQLSTATE is none', sub { d("\x67" . $_[0] . "\0\1\2\3\4bad") }, '08P01', qr/could not answer: bad/ ],
	[ 'an error of success', sub { d("\x67" . $_[0] . '00000fine') }, '08P01', qr/could not answer: fine/ ],
	[ 'an error that is no text', sub { d("\x67" . $_[0] . "XX000\xff\xfe\x80") }, 'XX000', qr/could not answer: \?\?\?/ ],
	[ 'a format for an error', sub { d("\x67" . $_[0] . "XX000%s%n%s\0%s%n\0%s%n") }, 'XX000', qr/could not answer: %s%n%s/ ],
	[ 'an error of 1 MB', sub { d("\x67" . $_[0] . 'XX000' . 'x' x 200_000) }, 'XX000', qr/could not answer: x+/ ],
	[ 'a page that is none', sub { my ($t, $p) = fitting($_[0]); d(chr($t) . $_[0] . ($t == 102 ? "\xee" x 8192 : $p)) }, 'XX001', qr/invalid page/ ],
	[ '2^32 - 1 blocks', sub { my ($t, $p) = fitting($_[0]); d(chr($t) . $_[0] . ($t == 101 ? "\xff" x 4 : $t == 102 ? "\xee" x 8192 : $p)) }, 'XX001', qr/4294967295 blocks|invalid page/ ],
	[ 'the end of the stream', sub { RawPg::framed('c', '') . RawPg::framed('C', "CALL\0") . RawPg::framed('Z', 'I') }, '08006', qr/closed the page stream|lost the connection/ ],
	[ 'an ErrorResponse', sub { RawPg::framed('E', "SERROR\0C42501\0Mgo away\0\0") . RawPg::framed('Z', 'I') }, '42501', qr/go away/ ],
	[ 'a message of 2 GB', sub { 'd' . pack('N', 0x7fffffff) . 'x' x 100 }, '08006', qr/did not answer|lost the connection/ ],
	[ 'a message of length 1', sub { 'd' . pack('N', 1) }, '08006', qr/did not answer|lost the connection|closed/ ],
	[ 'an unknown message', sub { "\x7f" . pack('N', 20) . 'x' x 16 }, '08006', qr/did not answer|lost the connection|closed|unexpected response/ ],
	[ 'notices and nothing else', sub { RawPg::framed('N', "SNOTICE\0C00000\0Mnoise\0\0") x 1000 }, '08006', qr/did not answer/ ],
	[ 'nothing', sub { '' }, '08006', qr/did not answer/ ],
	[ 'a closed connection', sub { undef }, '08006', qr/lost the connection|closed|could not connect|did not answer/ ])
{
	my ($name, $answer, $code, $message) = @$bad;
	my ($port, $pid) = fake_pageserver($answer);
	reload_and_wait('neon.pageserver_connstring' => "host=127.0.0.1 port=$port dbname=postgres user=x");
	my $e = ask($query);
	ok(ref $e, "$name: an error") or diag $e;
	refused($c, $e, "$name", $code, $message, bare => 1) if ref $e;
	is(ref(ask($commit)) || 'committed', 'committed', "$name: commits go on");
	stop_proxy($pid);
}
reload_and_wait('neon.pageserver_connstring' => $real);
is(ask($query), $sum, 'nothing of it stayed');
is($c->pid('main'), $status->{pid}, 'the compute was not restarted');
unlike(log_text($c, 'main'), qr/noise/, 'notices from outside are not in its log');

# ---- a pageserver that stops in the middle
sub processes_of
{
	my $postmaster = $c->pid($ps);
	return ($postmaster, grep { /^\d+$/ } split /\s+/, `ps -o pid= --ppid $postmaster`);
}
reload_and_wait('neon.pageserver_connstring' => $real, 'neon.pageserver_timeout' => '600s');
my @stopped = processes_of();
kill 'STOP', @stopped;
my $waiting = RawPg->connect(RawPg::parse($c->uri('main')), no_auth => 1);	# even a new session may have to wait; it does no harm
$s->send('Q', "$query\0");
my ($type) = $s->message(timeout => 2);
is($type, 'timeout', 'a statement waits for a pageserver that does not answer');
my $start = time;
$s->cancel;
my $r = $s->finish;
refused($c, $r->{error}, 'it can be cancelled', '57014', qr/canceling statement due to user request/, bare => 1);
cmp_ok(time - $start, '<', 10, 'at once');
is(ref(ask($commit)) || 'committed', 'committed', 'commits go on');
my $e = ask(q{SET statement_timeout = '1s'});
$e = ask($query);
is(ref $e ? $e->{C} : $e, '57014', 'statement_timeout ends it as well');
kill 'CONT', @stopped;
$waiting->close;
ask('SET statement_timeout = 0');
is(ask($query), $sum, 'when the pageserver goes on so does the compute');
@stopped = processes_of();
kill 'STOP', @stopped;
$s->send('Q', "$query\0");
($type) = $s->message(timeout => 2);
kill 'CONT', @stopped;
$r = $s->finish;
is(join('|', @{ $r->{rows}[0] || [] }), $sum, 'a statement that waits gets its answer when the pageserver goes on');
# one that is terminated while it waits
kill 'STOP', @stopped;
my $pid = $s->{pid};
$s->send('Q', "$query\0");
($type) = $s->message(timeout => 1);
kill 'TERM', $pid;
$r = $s->finish;
is($r->{error} ? $r->{error}{C} : 'none', '57P01', 'a session that waits can be terminated');
# killed and started again in the middle of a statement
kill 'CONT', @stopped;
$s = RawPg->connect(RawPg::parse($c->uri('main')));
$c->kill9($ps);
$s->send('Q', "$query\0");
$c->start($ps);
$r = $s->finish;
is(join('|', @{ $r->{rows}[0] || [] }), $sum, 'a pageserver that is killed and comes back is waited for') or diag explain $r->{error};

is(crashes($c, 'main', 'controller', 'safekeeper-1'), '', 'no process crashed');
done_testing();
