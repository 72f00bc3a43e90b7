# Bytes from outside against a safekeeper's replication connections: startup options, commands, positions and what a receiver may
# send while WAL is streamed.  Each ends in one clear error of that connection.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Hostile;
use NeonCluster;
use RawPg;
use Test::More;

my $c = NeonCluster->new(init => [ '--safekeepers', 1 ], conf => { 'safekeeper-1' => 'wal_sender_timeout = 3s' });
$c->start;
my $sk = 'safekeeper-1';
my $postmaster = $c->pid($sk);
$c->sql('main', 'CREATE TABLE t AS SELECT g AS a, repeat(md5(g::text), 10) AS b FROM generate_series(1, 20000) g');
my ($t, $tl, $start) = split /\|/, $c->node_sql($sk, 'SELECT tenant, timeline, start_lsn FROM neon_safekeeper.timelines');
my $me = [ $t, $c->node_sql('controller', 'SELECT node_password FROM neon_controller.tenants') ];
my $other = [ 'c' x 32, 'pw' ];
$c->node_sql($sk, "SELECT neon_safekeeper.create_tenant('$other->[0]', 'pw')");
ok($c->poll('all is committed', 30, sub { $c->node_sql($sk, "SELECT commit_lsn = flush_lsn FROM neon_safekeeper.timelines") eq 't' }), 'a log');
my $end = $c->node_sql($sk, 'SELECT commit_lsn FROM neon_safekeeper.timelines');

sub options { my ($tenant, $timeline, @more) = @_; return join ' ', map { "-c $_" } "neon.tenant_id=$tenant", "neon.timeline_id=$timeline", @more; }

sub replication
{
	my ($as, $options, %startup) = @_;
	return node_as($c, $sk, $as, startup => { replication => 'true', options => $options, %startup });
}

sub receiver
{
	my $s = replication($me, options($t, $tl));
	die $s->{error}{M} if $s->{error};
	return $s;
}

# ---- who, and for what
for my $bad (
	[ "another's credential", $other, options($t, $tl), '42501', qr/^permission denied for tenant $t$/ ],
	[ 'another tenant', $me, options($other->[0], $tl), '42501', qr/^permission denied for tenant c{32}$/ ],
	[ 'a tenant of nobody', $me, options('e' x 32, $tl), '42501', qr/^permission denied for tenant e{32}$/ ],
	[ 'a timeline of nobody', $me, options($t, 'e' x 32), '42704', qr/no such timeline/ ],
	[ 'no timeline', $me, "-c neon.tenant_id=$t", '22023', qr/names both/ ],
	[ 'no tenant', $me, "-c neon.timeline_id=$tl", '22023', qr/names both/ ],
	[ 'an empty tenant', $me, options('', $tl), '22023', qr/invalid tenant id: ""/ ],
	[ 'a short timeline', $me, options($t, 'abc'), '22023', qr/invalid timeline id: "abc"/ ],
	[ 'a long tenant', $me, options('a' x 9000, $tl), '22023', qr/invalid tenant id/ ],
	[ 'SQL in the tenant', $me, options("x';DROP\\ TABLE\\ neon_safekeeper.timeline;--", $tl), '22023', qr/invalid tenant id/ ],
	[ 'SQL in the timeline', $me, options($t, "'||(SELECT\\ 1)||'"), '22023', qr/invalid timeline id/ ],
	[ 'no UTF-8', $me, options("\xff\xfe", $tl), '22023', qr/invalid tenant id/ ],
	[ 'a format', $me, options('%s%n%s%n', $tl), '22023', qr/invalid tenant id: "%s%n%s%n"/ ],
	[ 'a term that is none', $me, options($t, $tl, 'neon.term=x'), '22023', qr/invalid term: "x"/ ],
	[ 'a negative term', $me, options($t, $tl, 'neon.term=-1'), '22023', qr/invalid term/ ],
	[ 'a term of 30 digits', $me, options($t, $tl, 'neon.term=' . '9' x 30), '22023', qr/invalid term/ ],
	[ 'no options', $me, '', '42501', qr/must be superuser or replication role/ ],
	[ 'other options', $me, '-c work_mem=1MB', '42501', qr/must be superuser or replication role/ ])
{
	my ($name, $as, $options, $code, $message) = @$bad;
	for my $mode ('true', 'database')
	{
		my $s = replication($as, $options, replication => $mode);
		refused($c, $s->{error}, "$name, replication=$mode", $code, $message, bare => $options !~ /tenant.*timeline/ || $code ne '42501');
	}
}
my $s = replication([ $t, 'wrong' ], options($t, $tl));
refused($c, $s->{error}, 'a wrong password', '28P01', qr/password authentication failed/, bare => 1);
for my $options ('-c', '-c =', '--', '-', '-c neon.tenant_id', "-c\0", '\\', ('-c neon.tenant_id=x ' x 400))
{
	$s = replication($me, $options);
	ok($s->{error} && $s->{error}{C} =~ /^(?:42501|22023|42601|08P01)$/, 'malformed options: ' . substr($options, 0, 20)) or diag explain $s->{error};
}
# the last one counts, whoever names another first gains nothing
$s = replication($me, options($t, $tl) . ' ' . options($other->[0], $tl));
refused($c, $s->{error}, 'options twice', '42501', qr/^permission denied for tenant c{32}$/);

# ---- commands
$s = receiver();
my $lines = 0;
for my $bad (
	[ 'an unknown command', 'SELECT 1', '0A000', qr/does not know the command "SELECT"/ ],
	[ 'two commands', 'IDENTIFY_SYSTEM; DROP TABLE neon_safekeeper.timeline', '42601', qr/syntax error/ ],
	[ 'BASE_BACKUP', 'BASE_BACKUP', '0A000', qr/does not know the command "BASE_BACKUP"/ ],
	[ 'CREATE_REPLICATION_SLOT', 'CREATE_REPLICATION_SLOT x PHYSICAL', '0A000', qr/does not know the command/ ],
	[ 'a command of 60,000 letters', 'x' x 60_000, '0A000', qr/does not know the command "x{64}"$/ ],
	[ 'a command of 10,000 words', 'x ' x 10_000, '0A000', qr/does not know the command "x"/ ],
	[ 'an open string', "START_REPLICATION '", '42601', qr/syntax error/ ],
	[ 'SHOW of nothing', 'SHOW', '42601', qr/syntax error/ ],
	[ 'SHOW of a secret', 'SHOW neon_safekeeper.database', '42704', qr/unrecognized configuration parameter/ ],
	[ 'SHOW with SQL', "SHOW \"x'; DROP TABLE t\"", '42704', qr/unrecognized configuration parameter/ ],
	[ 'SHOW of a format', 'SHOW %s%n', '42704', qr/"%s%n"/ ],
	[ 'TIMELINE_HISTORY', 'TIMELINE_HISTORY 1', '42704', qr/no timeline history/ ],
	[ 'no position', 'START_REPLICATION', '42601', qr/syntax error in START_REPLICATION/ ],
	[ 'a position that is none', 'START_REPLICATION PHYSICAL x/y', '42601', qr/syntax error in START_REPLICATION/ ],
	[ 'a position too long', 'START_REPLICATION PHYSICAL 123456789/0', '42601', qr/syntax error in START_REPLICATION/ ],
	[ 'a position with more behind', "START_REPLICATION PHYSICAL $start' OR 1", '42601', qr/syntax error in START_REPLICATION/ ],
	[ 'timeline 2', "START_REPLICATION PHYSICAL $start TIMELINE 2", '42704', qr/timeline 2 does not exist/ ],
	[ 'LOGICAL', "START_REPLICATION SLOT x LOGICAL $start (proto_version '1')", '42601', qr/syntax error in START_REPLICATION/ ],
	[ 'LSN 0', 'START_REPLICATION PHYSICAL 0/0', '58P01', qr/requested WAL at 0\/0 is not here/ ],
	[ 'before the log', 'START_REPLICATION PHYSICAL 0/FFFFF8', '58P01', qr/is not here/ ])
{
	my ($name, $command, $code, $message) = @$bad;
	my $r = $s->query($command);
	refused($c, $r->{error}, $name, $code, $message, bare => 1, node => $sk, pid => $s->{pid}, lines => ++$lines);
	ok($r->{open}, "$name: the connection goes on");
}
for my $odd ("\xff\xfe\xfd", "SHOW \xc3", "START_REPLICATION \xe2\x82")
{
	my $r = $s->query($odd);
	refused($c, $r->{error}, 'no UTF-8', '22021', qr/invalid byte sequence/, bare => 1, node => $sk, pid => $s->{pid}, lines => ++$lines);
	# nobody who looks at the activity gets bytes that are no text
	my ($rc, $out, $err) = $c->psql_uri($c->node_uri($sk), "SELECT convert_to(query, 'UTF8') FROM pg_stat_activity WHERE pid = $s->{pid}");
	is($rc, 0, 'activity can be shown') or diag($err);
}
is($s->query('')->{open}, 1, 'an empty command');
is($s->query(' ; ;')->{open}, 1, 'a command of semicolons');
is($s->query('SHOW wal_segment_size')->{rows}[0][0], '16MB', 'a good one after all of them');
is($s->query('IDENTIFY_SYSTEM')->{rows}[0][2], $end, 'IDENTIFY_SYSTEM shows the committed end');
is($c->node_sql($sk, 'SELECT count(*) FROM neon_safekeeper.timeline'), '1', 'no SQL was run');
$s->close;

# ---- messages that do not belong here
for my $bad (
	[ 'Parse', RawPg::framed('P', "\0SELECT 1\0\0\0"), '08P01', qr/message type 0x50/ ],
	[ 'type 0', "\0" . pack('N', 8) . 'xxxx', '08P01', qr/message type 0x00/ ],
	[ 'length 2', 'Q' . pack('N', 2), '08P01', qr/length/ ],
	[ 'length 2^32 - 1', 'Q' . pack('N', 0xffffffff), '08P01', qr/length/ ],
	[ '1 MB', 'Q' . pack('N', 1024 * 1024), '08P01', qr/length/ ])
{
	my ($name, $bytes, $code, $message) = @$bad;
	my $s = receiver();
	$s->raw($bytes);
	my $r = $s->finish;
	ok(!$r->{open}, "$name: the connection ends");
	refused($c, $r->{error}, $name, $code, $message, bare => 1, node => $sk, pid => $s->{pid}) if $r->{error};
	is(scalar(() = lines_of($c, $sk, $s->{pid})), 1, "$name: one line in the log");
}
$s = receiver();
$s->raw(RawPg::framed('d', 'x') . RawPg::framed('c', '') . RawPg::framed('H', '') . RawPg::framed('Q', "SHOW wal_segment_size\0"));
is($s->finish->{rows}[0][0], '16MB', 'what is left of a stream is passed over');
$s->close;

# ---- while WAL is streamed
sub streaming
{
	my $s = receiver();
	$s->copy_both("START_REPLICATION PHYSICAL $start") or die $s->{error}{M};
	return $s;
}

# WAL up to the end, checked for gaps; replies are the caller's
sub take
{
	my ($s) = @_;
	my $at = lsn_number($start);
	while ($at < lsn_number($end))
	{
		my ($type, $body) = $s->message(timeout => 20);
		return "at $at: $type" if !defined $type || $type ne 'd';
		my ($kind, $from) = unpack('a Q>', $body);
		next if $kind eq 'k';
		return "at $at: $kind $from" if $kind ne 'w' || $from != $at;
		$at += length($body) - 25;
	}
	return 'all';
}
sub reply { my ($at, $want) = @_; return 'r' . pack('Q> Q> Q> Q> C', $at, $at, $at, 0, $want // 0); }

for my $bad (
	[ 'an empty reply', '' ], [ 'a short reply', 'r123' ], [ 'a long reply', reply(1) . 'x' ], [ 'an unknown reply', "\xff" x 34 ],
	[ 'WAL', 'w' . pack('Q> Q> Q>', 1, 2, 3) . 'x' x 1000 ], [ 'a large one', 'z' x 1_000_000 ])
{
	my ($name, $bytes) = @$bad;
	my $s = streaming();
	is(take($s), 'all', "$name: all of it comes");
	$s->copy($bytes);
	my $r = $s->finish;
	refused($c, $r->{error}, $name, '08P01', qr/unexpected message of \d+ bytes from a receiver/, bare => 1, node => $sk, pid => $s->{pid});
	is($s->query('SHOW wal_segment_size')->{rows}[0][0], '16MB', "$name: commands are answered afterwards");
	$s->close;
}
$s = streaming();
take($s);
$s->copy(reply(0), reply(max_lsn), reply(5, 1));
my ($type, $body) = $s->message(timeout => 20);
is(substr($body, 0, 1), 'k', 'replies with positions out of all reason change nothing');
cmp_ok(unpack('x Q>', $body), '<=', lsn_number($end) + 1_000_000, 'a keepalive names a real position');
$s->raw(RawPg::framed('c', ''));
is($s->finish->{tag}, 'START_REPLICATION', 'CopyDone ends the stream');
for my $bad ([ 'length 2^32 - 1', 'd' . pack('N', 0xffffffff) ], [ 'length 1', 'd' . pack('N', 1) ], [ 'a query', RawPg::framed('Q', "SHOW x\0") ], [ 'type 0xFF', "\xff" . pack('N', 4) ])
{
	my ($name, $bytes) = @$bad;
	my $s = streaming();
	take($s);
	$s->raw($bytes);
	my $r = $s->finish;
	refused($c, $r->{error}, "streaming: $name", '08P01', qr/stream/, bare => 1, node => $sk, pid => $s->{pid});
	$s->close;
}
for my $from (lsn_text(lsn_number($start) + 1), lsn_text(lsn_number($start) + 4097), $end)
{
	my $s = receiver();
	ok($s->copy_both("START_REPLICATION PHYSICAL $from"), "WAL from $from, in the middle of a record") or diag $s->{error}{M};
	$s->close;
}
# a receiver that is ahead (this safekeeper may lag) waits, and is never told of a position that is not there
for my $from (lsn_text(lsn_number($end) + 0x10000000), 'FFFFFFFF/FFFFFFFF')
{
	my $s = receiver();
	ok($s->copy_both("START_REPLICATION PHYSICAL $from"), "from $from, beyond the end") or diag $s->{error}{M};
	$s->copy(reply(1, 1));
	my ($type, $body) = $s->message(timeout => 10);
	is(substr($body, 0, 1), 'k', 'nothing comes but keepalives');
	cmp_ok(unpack('x Q>', $body), '<=', lsn_number($end) + 1_000_000, 'with a position that is there');
	$s->close;
}

# ---- terms
for my $term (0, 1, 999, '18446744073709551615')
{
	my $s = replication($me, options($t, $tl, "neon.term=$term"));
	my $r = $s->query("START_REPLICATION PHYSICAL $start") if $term > 100;
	refused($c, $r->{error}, "term $term", '55000', qr/does not serve term $term/, detail => qr/Its term is/, node => $sk, pid => $s->{pid}) if $term > 100;
	$s->close;
}

# ---- receivers that do not read, say nothing, or are cut off
$s = streaming();
my $s2 = streaming();
is(take($s2), 'all', 'a receiver that does not read is of no matter to another');
is($c->sql('main', 'INSERT INTO t VALUES (-1) RETURNING a', timeout => 30), '-1', 'nor to commits');
ok($c->poll('they are thrown out', 30, sub { $c->node_sql($sk, "SELECT count(*) FROM pg_stat_activity WHERE pid IN ($s->{pid}, $s2->{pid})") eq '0' }),
	'receivers that say nothing are thrown out after wal_sender_timeout');
for my $cut (1, 5, 20)
{
	my $s = streaming();
	$s->raw(substr(RawPg::framed('d', reply(1)), 0, $cut));
	$s->close;
	ok($c->poll('it is gone', 30, sub { $c->node_sql($sk, "SELECT count(*) FROM pg_stat_activity WHERE pid = $s->{pid}") eq '0' }), "cut after $cut bytes of a reply");
}
$s = streaming();
take($s);
$s->cancel;
my $r = $s->finish;
refused($c, $r->{error}, 'cancel', '57014', qr/canceling statement/, bare => 1, node => $sk, pid => $s->{pid});
is($s->query('SHOW wal_segment_size')->{rows}[0][0], '16MB', 'the connection goes on after a cancel');
for (1 .. 3)
{
	$s->cancel;
	select undef, undef, undef, 0.2;
	is($s->query('SHOW wal_segment_size')->{rows}[0][0], '16MB', 'a cancel while nothing runs is for nobody');
}

is(crashes($c, $sk, 'main'), '', 'no process crashed');
is($c->pid($sk), $postmaster, 'the safekeeper is the one that was started');
is($c->node_sql($sk, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND backend_xmin IS NOT NULL}), '0', 'no snapshot is held');
done_testing();
