# Bytes from outside against the page stream: wrong names and credentials, garbage, lengths, nonsense requests, clients that do not
# read, go away, or cancel.  Each ends in one clear error of that client; the pageserver goes on.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Hostile;
use NeonCluster;
use RawPg;
use Test::More;

my $c = NeonCluster->new(init => [ '--safekeepers', 1 ], conf => { 'pageserver-1' => 'neon_pageserver.wait_lsn_timeout = 1s' });
$c->start;
my $ps = 'pageserver-1';
my ($t, $tl, $start) = split /\|/, $c->node_sql($ps, 'SELECT tenant, timeline, start_lsn FROM neon_pageserver.timelines');
my ($password) = $c->node_sql('controller', 'SELECT node_password FROM neon_controller.tenants');
my $me = [ $t, $password ];
my $none = 'e' x 32;
my $postmaster = $c->pid($ps);

# another tenant, with a timeline of its own
my $other = [ 'c' x 32, 'pw' ];
$c->node_sql($ps, "SELECT neon_pageserver.create_tenant('$other->[0]', 'pw');"
	. "SELECT neon_pageserver.create_timeline('$other->[0]', '" . 'd' x 32 . "', '{}')");

sub stream
{
	my ($as) = @_;
	my $s = node_as($c, $ps, $as // $me);
	die "connect: $s->{error}{M}" if $s->{error};
	$s->copy_both("CALL neon_pageserver.pagestream('$t', '$tl')") or die "CALL: $s->{error}{M}";
	return $s;
}

# One request: its answer.
sub ask
{
	my ($s, %r) = @_;
	$s->copy(page_request(%r));
	my ($type, $body) = $s->message;
	die 'no answer' if !defined $type || $type ne 'd';
	return page_answer($body);
}

sub served
{
	my ($s, $name) = @_;
	my $a = ask($s, id => 77);
	is("$a->{tag} $a->{id} " . length $a->{payload}, '102 77 8192', $name) or diag($a->{error}{M});
	return $a->{payload};
}

# ---- who asks for what
for my $bad (
	[ 'another tenant',        $me,    $other->[0], 'd' x 32, '42501', qr/^permission denied for tenant "c{32}"$/ ],
	[ 'a tenant of nobody',    $me,    $none,       $tl,      '42501', qr/^permission denied for tenant "e{32}"$/ ],
	[ 'no id at all',          $me,    "'' OR 1=1", $tl,      '42501', qr/^permission denied for tenant/ ],
	[ 'another timeline',      $me,    $t,          'd' x 32, '42704', qr/^timeline "d{32}" of tenant "$t" does not exist/ ],
	[ 'a timeline of nobody',  $me,    $t,          $none,    '42704', qr/does not exist/ ],
	[ 'an empty timeline',     $me,    $t,          '',       '42704', qr/does not exist/ ],
	[ 'a long timeline',       $me,    $t,          'a' x 100_000, '42704', qr/does not exist/ ],
	[ "another's credential",  $other, $t,          $tl,      '42501', qr/^permission denied for tenant "$t"$/ ])
{
	my ($name, $as, $tenant, $timeline, $code, $message) = @$bad;
	s/'/''/g for $tenant, $timeline;
	for my $proc ("pagestream('$tenant', '$timeline')", "basebackup('$tenant', '$timeline', '$start', '0/0')")
	{
		my $s = node_as($c, $ps, $as);
		ok(!$s->copy_both("CALL neon_pageserver.$proc"), "$name: no stream");
		refused($c, $s->{error}, "$name: " . substr($proc, 0, 10), $code, $message, node => $ps, pid => $s->{pid});
		is($s->query('SELECT 1')->{rows}[0][0], '1', "$name: the connection goes on");
	}
}
my $s = node_as($c, $ps, [ $t, 'wrong' ]);
refused($c, $s->{error}, 'a wrong password', '28P01', qr/password authentication failed/, bare => 1);
$s = node_as($c, $ps, [ $none, 'x' ]);
refused($c, $s->{error}, 'a user of nobody', '28P01', qr/password authentication failed/, bare => 1);

# ---- the CALL itself
for my $args ('NULL, NULL', "'$t', NULL", "NULL, '$tl'")
{
	for my $proc ("pagestream($args)", "basebackup($args, NULL, NULL)")
	{
		$s = node_as($c, $ps, $me);
		$s->copy_both("CALL neon_pageserver.$proc");
		refused($c, $s->{error}, $proc, '22004', qr/must not be null/, bare => 1, node => $ps, pid => $s->{pid});
	}
}
$s = node_as($c, $ps, 'admin');	# tenants cannot begin one
$s->query('BEGIN');
$s->copy_both("CALL neon_pageserver.pagestream('$t', '$tl')");
refused($c, $s->{error}, 'CALL inside BEGIN', '25001', qr/cannot run inside a transaction block/, hint => qr/by itself/);
is($s->query('ROLLBACK')->{tag}, 'ROLLBACK', 'the transaction can be ended');
$s->query("CALL neon_pageserver.pagestream('$t', '$tl'); SELECT 1");
ok(!$s->{copy_both}, 'CALL among other statements opens no stream');
$s = node_as($c, $ps, 'admin');
ok(!$s->copy_both("DO \$\$ BEGIN CALL neon_pageserver.pagestream('$t', '$tl'); END \$\$; SELECT 1"), 'nor does CALL in a function, in a transaction');
refused($c, $s->{error}, 'CALL in a function', '25001', qr/cannot run inside a transaction block/, node => $ps, pid => $s->{pid});
# the extended protocol
$s = node_as($c, $ps, $me);
$s->raw(RawPg::framed('P', "\0CALL neon_pageserver.pagestream('$t', '$tl')\0\0\0") . RawPg::framed('B', "\0\0\0\0\0\0\0\0") . RawPg::framed('E', "\0\0\0\0\0") . RawPg::framed('S', ''));
{
	my ($seen, $type, $body) = ('');
	while (($type, $body) = $s->message(timeout => 5)) { $seen .= $type; last if $type =~ /^(?:W|E|timeout)$/; }
	like($seen, qr/W$|E$/, "the extended protocol gives a stream or an error ($seen)");
	served($s, 'and is served') if $seen =~ /W/;
	$s->close;
}

# ---- requests that make no sense are answered with an error, and the stream goes on
$s = stream();
my $page = served($s, 'a page');
my $last = lsn_number($c->node_sql($ps, "SELECT last_record_lsn FROM neon_pageserver.timelines WHERE timeline = '$tl'"));
my $requests = 1;
for my $bad (
	[ 'fork 4', { fork => 4 }, '08P01', qr/there is no such fork/ ],
	[ 'fork 200', { fork => 200 }, '08P01', qr/there is no such fork/, qr/fork 200/ ],
	[ 'tag 6', { tag => 6 }, '08P01', qr/unknown tag/, qr/tag 6/ ],
	[ 'a filler that is too long', { tag => 5, blk => 32 * 8192 + 1 }, '08P01', qr/filler is too long/, qr/tag 5/ ],
	[ 'tag 255', { tag => 255 }, '08P01', qr/unknown tag/ ],
	[ 'the answer\'s tag', { tag => 102 }, '08P01', qr/unknown tag/ ],
	[ 'request_lsn below not_modified_since', { lsn => 5, since => 6 }, '08P01', qr/request_lsn is below not_modified_since/, qr!0/00000005.*0/00000006! ],
	[ 'block 2^32 - 1', { blk => 0xffffffff }, '22023', qr/block 4294967295 is behind the end of relation/ ],
	[ 'block 2^31', { blk => 0x80000000 }, '22023', qr/block 2147483648 is behind the end/ ],
	[ 'no such relation', { rel => 0xffffffff }, '42704', qr/does not exist/ ],
	[ 'no such database', { db => 0xffffffff }, '42704', qr/does not exist/ ],
	[ 'no such tablespace', { spc => 0xffffffff }, '42704', qr/does not exist/ ],
	[ 'relation 0', { spc => 0, db => 0, rel => 0 }, '42704', qr/does not exist/ ],
	[ 'the init fork of a table', { fork => 3 }, '42704', qr/does not exist/ ],
	[ 'LSN 0', { lsn => 0, since => 0 }, 'NE002', qr/below the timeline's start/ ],
	[ 'an LSN before the start', { lsn => lsn_number($start) - 8, since => 0 }, 'NE002', qr/below the timeline's start/ ],
	[ 'an LSN beyond the end', { since => $last + 1_000_000, lsn => $last + 1_000_000 }, 'NE001', qr/timed out waiting for WAL/, qr/has WAL up to/ ],
	[ 'LSN 2^64 - 1', { since => max_lsn }, 'NE001', qr/timed out waiting for WAL/ ])
{
	my ($name, $r, $code, $message, $detail) = @$bad;
	my $a = ask($s, %$r, id => 4711);
	is("$a->{tag} $a->{id}", '103 4711', "$name: an error that echoes the request");
	ok($a->{request} eq page_request(%$r, id => 4711), "$name: to the byte");
	refused($c, $a->{error}, $name, $code, $message, detail => $detail, bare => !$detail && $code !~ /^NE/, node => $ps, pid => $s->{pid}, lines => $requests++);
	like($a->{error}{H}, qr/safekeepers/, "$name: with a hint") if $code eq 'NE001';
}
is(ask($s, tag => 1, rel => 0xffffffff)->{payload}, "\0\0\0\0", 'a relation that does not exist has no blocks');
is(ask($s, tag => 0, rel => 0xffffffff)->{payload}, "\0", 'and does not exist');
is(ask($s, tag => 3, db => 0xffffffff)->{payload}, "\0" x 8, 'a database that does not exist has no size');
is(ask($s, tag => 5, blk => 0)->{payload}, '', 'an empty filler');
is(ask($s, tag => 5, blk => 32 * 8192)->{payload}, "\0" x (32 * 8192), 'a filler is as long as asked for');
is(ask($s, tag => 4, spc => 200)->{payload}, '', 'an SLRU that does not exist is empty');
is(ask($s, tag => 4, spc => 0, rel => 0xffffffff)->{payload}, '', 'a segment that does not exist is empty');
ok(ask($s, fork => 1, blk => 0xffffffff)->{payload} eq "\0" x 8192, 'the free space map ends in zeros');
ok(ask($s, fork => 2, blk => 0xffffffff)->{payload} eq "\0" x 8192, 'the visibility map as well');
ok(served($s, 'the stream goes on') eq $page, 'with the same page');

# a branch does not answer for the time before it began
my $branch = 'a' x 31 . '1';
my $branch_start = $c->node_sql($ps, "SELECT start_lsn FROM neon_pageserver.create_timeline('$t', '$branch', '{}', '$tl', NULL)");
my $b = node_as($c, $ps, $me);
$b->copy_both("CALL neon_pageserver.pagestream('$t', '$branch')") or die;
refused($c, ask($b, lsn => lsn_number($branch_start) - 1, since => 0)->{error}, 'an LSN before the branch began', 'NE002', qr/below the timeline's start/, hint => qr/branch it began from/);
ok(ask($b, lsn => lsn_number($branch_start), since => 0)->{payload} eq $page, 'a branch at its first LSN');
$b->close;

# ---- messages that are no requests: FATAL, for that client
for my $bad (
	[ 'an empty CopyData',   RawPg::framed('d', ''), qr/malformed page stream request of 0 bytes/ ],
	[ 'a cut request',       RawPg::framed('d', substr(page_request(), 0, 41)), qr/malformed page stream request of 41 bytes/ ],
	[ 'a longer request',    RawPg::framed('d', page_request() . 'x'), qr/malformed page stream request of 43 bytes/ ],
	[ 'two requests in one', RawPg::framed('d', page_request() x 2), qr/malformed page stream request of 84 bytes/ ],
	[ '60 kB of garbage',    RawPg::framed('d', join '', map { chr int rand 256 } 1 .. 60_000), qr/malformed page stream request of 60000 bytes/ ],
	[ 'length 0',            'd' . pack('N', 0), qr/invalid message length 0/ ],
	[ 'length 3',            'd' . pack('N', 3), qr/invalid message length 3/ ],
	[ 'length 2^32 - 1',     'd' . pack('N', 0xffffffff), qr/invalid message length 4294967295/ ],
	[ 'length 2^31',         'd' . pack('N', 0x80000000), qr/invalid message length 2147483648/ ],
	[ '64 MB announced',     'd' . pack('N', 64 * 1024 * 1024), qr/invalid message length 67108864/ ],
	[ 'a query',             RawPg::framed('Q', "SELECT 1\0"), qr/unexpected message type 0x51/ ],
	[ 'a password',          RawPg::framed('p', "x\0"), qr/unexpected message type 0x70/ ],
	[ 'a startup packet',    pack('NN', 8, 80877103), qr/unexpected message type 0x00|invalid message length/ ],
	[ 'type 0xFF',           "\xff" . pack('N', 4), qr/unexpected message type 0xFF/ ],
	[ 'CopyFail',            RawPg::framed('f', "no\0"), qr/gave up the stream/ ])
{
	my ($name, $bytes, $message) = @$bad;
	my $s = stream();
	$s->raw($bytes);
	my $r = $s->finish;
	is(scalar @{ $r->{copy} }, 0, "$name: no answer");
	refused($c, $r->{error}, $name, $name eq 'CopyFail' ? '57014' : '08P01', $message, bare => 1, node => $ps, pid => $s->{pid});
	ok(!$r->{open}, "$name: the connection is closed");
}

# requests before the garbage are answered
$s = stream();
$s->copy((map { page_request(id => $_) } 1 .. 5), 'garbage');
my $r = $s->finish;
is(join(' ', map { page_answer($_)->{id} } @{ $r->{copy} }), '1 2 3 4 5', 'requests before garbage are answered');
like($r->{error}{M}, qr/malformed/, 'and then the error');

# byte by byte
$s = stream();
$s->raw($_) for split //, RawPg::framed('d', page_request(id => 9));
my ($type, $body) = $s->message;
is(page_answer($body)->{id}, 9, 'a request may come byte by byte');
# Flush and Sync between them, an orderly end, the connection as before
$s->raw(RawPg::framed('H', '') . RawPg::framed('S', '') . RawPg::framed('d', page_request(id => 10)) . RawPg::framed('c', ''));
$r = $s->finish;
is(page_answer($r->{copy}[0])->{id}, 10, 'Flush and Sync are passed over');
is($r->{tag}, 'CALL', 'CopyDone ends the stream');
is($s->query('SELECT 2')->{rows}[0][0], '2', 'and queries may follow');
$s = stream();
$s->raw(RawPg::framed('c', '') . RawPg::framed('d', page_request()) . RawPg::framed('Q', "SELECT 3\0"));
$r = $s->finish;
refused($c, $r->{error}, 'data behind CopyDone', '08P01', qr/before the stream's end was confirmed/, bare => 1, node => $ps, pid => $s->{pid})
  if $r->{error};

# ---- a client that does not read
$s = stream();
my $sent = 0;
my $pipelined = join '', map { RawPg::framed('d', page_request(id => $_)) } 1 .. 10_000;
$s->raw($pipelined, timeout => 3);
note "sent $s->{sent} of " . length $pipelined;
served(stream(), 'others are served while a client does not read');
is($c->sql('main', 'SELECT count(*) > 0 FROM pg_class', timeout => 30), 't', 'computes too');
my $rest = substr($pipelined, $s->{sent});
my $n = 0;
while ($n < 10_000)
{
	if (length $rest) { $s->raw($rest, timeout => 0.05); substr($rest, 0, $s->{sent}, ''); }
	my ($type, $body) = $s->message(timeout => 10);
	last if $type ne 'd';
	my $a = page_answer($body);
	last if $a->{id} != ++$n || $a->{tag} != 102;
}
is($n, 10_000, '10,000 pipelined requests are all answered, in order');

# the same, and it goes away
$s = stream();
$s->raw($pipelined, timeout => 2);
my $pid = $s->{pid};
$s->close;
ok($c->poll('it is gone', 30, sub { $c->node_sql($ps, "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") eq '0' }),
	'a client that goes away without reading leaves nothing behind');

# one that is told to go while it does not read
$s = stream();
$s->raw($pipelined, timeout => 2);
$c->node_sql($ps, "SELECT pg_terminate_backend($s->{pid})");
ok($c->poll('it is gone', 30, sub { $c->node_sql($ps, "SELECT count(*) FROM pg_stat_activity WHERE pid = $s->{pid}") eq '0' }),
	'a client that does not read can be terminated');
$s->close;

# ---- connections cut in the middle
for my $cut (1, 4, 5, 20, 46)
{
	my $s = stream();
	$s->raw(RawPg::framed('d', page_request()) . substr(RawPg::framed('d', page_request()), 0, $cut));
	my ($type, $body) = $s->message;
	is(page_answer($body)->{tag}, 102, "cut after $cut bytes: the request before is answered");
	$s->close;
	ok($c->poll('it is gone', 30, sub { $c->node_sql($ps, "SELECT count(*) FROM pg_stat_activity WHERE pid = $s->{pid}") eq '0' }), 'and the process ends');
	is(scalar(lines_of($c, $ps, $s->{pid})), 0, 'which is no event');
}

# ---- cancel
$c->node_sql($ps, q{ALTER SYSTEM SET neon_pageserver.wait_lsn_timeout = '300s'; SELECT pg_reload_conf()});
$s = stream();
$s->copy(page_request(id => 1, since => $last + 1_000_000_000));
ok($c->poll('it waits', 30, sub { $c->node_sql($ps, "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $s->{pid}") eq 'Extension' }), 'a request waits');
$s->cancel;
($type, $body) = $s->message(timeout => 20);
my $a = page_answer($body);
refused($c, $a->{error}, 'cancel during a wait', '57014', qr/canceling statement due to user request/, bare => 1, node => $ps, pid => $s->{pid});
served($s, 'the stream goes on after it');
$s->copy(page_request(id => 1, since => $last + 1_000_000_000));
$c->poll('it waits', 30, sub { $c->node_sql($ps, "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $s->{pid}") eq 'Extension' });
$s->close;
ok($c->poll('it is gone', 30, sub { $c->node_sql($ps, "SELECT count(*) FROM pg_stat_activity WHERE pid = $s->{pid}") eq '0' }),
	'a client that goes away while its request waits is noticed');

# ---- nothing else happened
is($c->pid($ps), $postmaster, 'the pageserver is the one that was started');
is(crashes($c, $ps, 'main'), '', 'no process crashed');
is($c->node_sql($ps, q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL %' AND state = 'active' AND xact_start IS NOT NULL}), '0', 'no stream holds a transaction');
is($c->sql('main', 'CREATE TABLE after_all (a int); INSERT INTO after_all VALUES (1); SELECT a FROM after_all'), '1', 'and the endpoint works');

done_testing();
