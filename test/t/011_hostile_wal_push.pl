# Bytes from outside against a safekeeper's WAL push: names and credentials, garbage, lengths, messages out of order, positions,
# terms and histories that make no sense, WAL that is none, two clients at once.  What was acknowledged stays, other timelines
# do not notice, and the safekeeper comes up again afterwards with everything.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Hostile;
use NeonCluster;
use RawPg;
use Test::More;

my $SEGMENT = 16 * 1024 * 1024;
my $MAX = max_lsn;
my $c = NeonCluster->new(init => [ '--safekeepers', 1 ]);
$c->start;
my $sk = 'safekeeper-1';
my $postmaster = $c->pid($sk);

# WAL to play with: the log of the endpoint, pushed again into timelines of another tenant
$c->sql('main', 'CREATE TABLE t AS SELECT g AS a, repeat(md5(g::text), 10) AS b FROM generate_series(1, 20000) g; SELECT pg_switch_wal(); CREATE TABLE u AS SELECT * FROM t');
my ($tenant, $timeline, $start) = split /\|/, $c->node_sql($sk, 'SELECT tenant, timeline, start_lsn FROM neon_safekeeper.timelines');
my $system_id = $c->node_sql($sk, 'SELECT system_id FROM neon_safekeeper.timeline');
ok($c->poll('all is committed', 30, sub { $c->node_sql($sk, "SELECT commit_lsn = flush_lsn FROM neon_safekeeper.timelines") eq 't' }), 'a log');
my $end = lsn_number($c->node_sql($sk, 'SELECT commit_lsn FROM neon_safekeeper.timelines'));
my $me = [ 'b' x 32, 'pw' ];
my $number = 0;
$start = lsn_number($start);
$c->node_sql($sk, "SELECT neon_safekeeper.create_tenant('$me->[0]', 'pw'), neon_safekeeper.create_tenant('" . 'c' x 32 . "', 'pw')");

sub wal
{
	my ($from, $to) = @_;
	my $bytes = '';
	while ($from < $to)
	{
		my $seg = int($from / $SEGMENT);
		my $n = $to - $from;
		$n = $SEGMENT - $from % $SEGMENT if $n > $SEGMENT - $from % $SEGMENT;
		my $file = sprintf("$c->{dir}/$sk/neon_safekeeper/pgsql_tmp/$tenant/$timeline/00000001%08X%08X", $seg / 256, $seg % 256);
		open my $f, '<:raw', $file or die "$file: $!";
		seek $f, $from % $SEGMENT, 0;
		read($f, my $piece, $n);
		$bytes .= $piece;
		$from += $n;
	}
	return $bytes;
}

sub new_timeline
{
	my $tl = sprintf '%032x', ++$number;
	$c->node_sql($sk, "SELECT neon_safekeeper.create_timeline('$me->[0]', '$tl', '" . lsn_text($start) . "', '$system_id', $SEGMENT, '1')");
	return $tl;
}

sub state { my ($tl, $what) = @_; return $c->node_sql($sk, "SELECT $what FROM neon_safekeeper.timelines WHERE timeline = '$tl'"); }

# ---- messages (libs/consensus/neon_consensus_wire.h)
my %OWN;
sub conf { my ($generation, @members) = @_; return pack('N C C Q>*', $generation, scalar @members, 0, @members); }
sub greeting
{
	my ($tl, %g) = @_;
	return 'g' . pack('N H32 H32 Q> N N', $g{version} // 1, $g{tenant} // $me->[0], $g{timeline} // $tl, $g{system_id} // $system_id,
		$g{segment} // $SEGMENT, $g{pg} // 150000) . ($g{conf} // conf(0));
}
sub vote { my ($term, $generation) = @_; return 'v' . pack('N Q>', $generation // 1, $term); }
sub elected { my ($term, $at, @history) = @_; return 'e' . pack('N Q> Q> N Q>*', 1, $term, $at, scalar(@history) / 2, @history); }
sub append_wal
{
	my ($term, $begin, $bytes, %a) = @_;
	return 'a' . pack('N Q> Q> Q> Q> Q> C', $a{generation} // 1, $term, $begin, $a{end} // $begin + length $bytes, $a{commit} // 0,
		$a{truncate} // 0, $a{quiet} // 0) . $bytes;
}

sub push_stream
{
	my ($tl, $as) = @_;
	my $s = node_as($c, $sk, $as // $me);
	die $s->{error}{M} if $s->{error};
	$s->copy_both("CALL neon_safekeeper.wal_push('" . ($as ? $tenant : $me->[0]) . "', '$tl')") or die $s->{error}{M};
	return $s;
}

# The next answer, as text.
sub answer
{
	my ($s) = @_;
	my ($type, $body) = $s->message;
	return 'closed' if !defined $type;
	if ($type ne 'd')
	{
		$s->{error} = RawPg::error_fields($body) if $type eq 'E';
		return $type eq 'E' ? "error $s->{error}{C} $s->{error}{M}" : $type;
	}
	my $tag = substr($body, 0, 1);
	return sprintf 'greeting node=%d term=%s', unpack('x Q> Q>', $body) if $tag eq 'G';
	if ($tag eq 'V')
	{
		my ($generation, $term, $given, $flush) = unpack('x N Q> C Q>', $body);
		return sprintf 'vote term=%s given=%d flush=%s', $term, $given, lsn_text($flush);
	}
	if ($tag eq 'A')
	{
		my ($generation, $term, $write, $flush, $commit) = unpack('x N Q> Q> Q> Q>', $body);
		return sprintf 'ack term=%s write=%s flush=%s commit=%s', $term, map { lsn_text($_) } $write, $flush, $commit;
	}
	my ($reason, $term, $text) = unpack('x C Q> C/a', $body);
	return "refused $reason $text";
}

sub say_ { my ($s, @messages) = @_; $s->copy(@messages); return answer($s); }

# After a refusal comes the error; the connection can be used again.
sub ended
{
	my ($s, $name, $code, $message, %opt) = @_;
	my $r = $s->finish;
	refused($c, $r->{error}, $name, $code, $message, node => $sk, pid => $s->{pid}, %opt);
	is($s->query('SELECT 1')->{rows}[0][0], '1', "$name: the connection goes on");
	$s->close;
}

sub leader
{
	my ($tl, $term, $at, @history) = @_;
	my $s = push_stream($tl);
	like(say_($s, greeting($tl)), qr/^greeting/, "greeted");
	like(say_($s, vote($term)), qr/given=1/, "voted for in term $term");
	$s->copy(elected($term, $at, @history, $term, $at));
	return $s;
}

# ---- who
my $main_state = "SELECT term, start_lsn, commit_lsn <= flush_lsn FROM neon_safekeeper.timelines WHERE timeline = '$timeline'";
my $main_before = $c->node_sql($sk, $main_state);
for my $bad (
	[ 'another tenant', $me, $tenant, $timeline, '42501', qr/^permission denied for tenant $tenant$/ ],
	[ 'a tenant of nobody', $me, 'e' x 32, $timeline, '42501', qr/^permission denied for tenant e{32}$/ ],
	[ 'another timeline', $me, $me->[0], $timeline, '42704', qr/no such timeline/ ],
	[ 'no id', $me, "x' OR 'a'='a", $timeline, '22023', qr/invalid tenant id/ ],
	[ 'an empty id', $me, $me->[0], '', '22023', qr/invalid timeline id/ ],
	[ "another's credential", [ 'c' x 32, 'pw' ], $me->[0], '1' x 32, '42501', qr/^permission denied for tenant b{32}$/ ])
{
	my ($name, $as, $ten, $tl, $code, $message) = @$bad;
	s/'/''/g for $ten, $tl;
	my $s = node_as($c, $sk, $as);
	ok(!$s->copy_both("CALL neon_safekeeper.wal_push('$ten', '$tl')"), "$name: no stream");
	refused($c, $s->{error}, $name, $code, $message, node => $sk, pid => $s->{pid});
}
for my $args ('NULL, NULL', "'$me->[0]', NULL", "NULL, '$timeline'")
{
	my $s = node_as($c, $sk, $me);
	$s->copy_both("CALL neon_safekeeper.wal_push($args)");
	refused($c, $s->{error}, "wal_push($args)", '22004', qr/must be given/, bare => 1, node => $sk, pid => $s->{pid});
}
my $tl = new_timeline();
my $s = node_as($c, $sk, 'admin');	# tenants cannot begin one
$s->query('BEGIN');
$s->copy_both("CALL neon_safekeeper.wal_push('$me->[0]', '$tl')");
refused($c, $s->{error}, 'CALL inside BEGIN', '25001', qr/cannot run inside a transaction block/);

# ---- greetings
for my $bad (
	[ 'another timeline in the greeting', { timeline => 'f' x 32 }, 3 ], [ 'another tenant in the greeting', { tenant => $tenant }, 3 ],
	[ 'a wrong system id', { system_id => 12345 }, 3 ], [ 'a wrong segment size', { segment => 1024 * 1024 }, 3 ],
	[ 'segment size 0', { segment => 0 }, 3 ], [ 'version 2', { version => 2 }, 2 ], [ 'version 2^32 - 1', { version => 0xffffffff }, 2 ],
	[ 'PostgreSQL 16', { pg => 160000 }, 2 ], [ 'PostgreSQL 2^32 - 1', { pg => 0xffffffff }, 2 ],
	[ 'a configuration of 200 members', { conf => conf(7, (1) x 200) }, 1 ], [ 'the same member twice', { conf => conf(7, 1, 1) }, 1 ],
	[ 'member 0', { conf => conf(7, 0) }, 1 ], [ 'member 2^64 - 1', { conf => conf(7, 1, $MAX) }, 1 ],
	[ 'a configuration without us', { conf => conf(7, 2, 3) }, 4 ], [ 'no members', { conf => conf(7) }, 1 ],
	[ 'another configuration of this generation', { conf => conf(1, 1, 2) }, 5 ])
{
	my ($name, $g, $reason) = @$bad;
	my $s = push_stream($tl);
	like(say_($s, greeting($tl, %$g)), qr/^refused $reason \w/, $name);
	ended($s, $name, '55000', qr/the proposer was refused/);
}

# ---- messages that are none, or come out of order
my @garbage = (
	[ 'an empty message', '' ], [ 'tag 0', "\0" ], [ 'tag 255', "\xff" x 10 ], [ 'a message of ours', 'G' . pack('Q> Q> Q>', 1, 1, 1) ],
	[ 'a vote before the greeting', vote(1) ], [ 'an election before the greeting', elected(1, $start, 1, $start) ],
	[ 'an append before the greeting', append_wal(1, $start, 'x' x 100) ], [ 'a cut greeting', substr(greeting($tl), 0, 40) ],
	[ 'a long greeting', greeting($tl) . 'x' ], [ '1 MB of garbage', join('', map { chr int rand 256 } 1 .. 1024 * 1024) ]);
for my $bad (@garbage)
{
	my $s = push_stream($tl);
	like(say_($s, $bad->[1]), qr/^refused 1 \w/, $bad->[0]);
	ended($s, $bad->[0], '55000', qr/the proposer was refused/);
}
for my $bad (
	[ 'length 0', 'd' . pack('N', 0), qr/expected 4 to/ ], [ 'length 3', 'd' . pack('N', 3), qr/expected 4 to/ ],
	[ 'length 2^32 - 1', 'd' . pack('N', 0xffffffff), qr/expected 4 to/ ], [ 'length 2^31', 'd' . pack('N', 0x80000000), qr/expected 4 to/ ],
	[ '9 MB announced', 'd' . pack('N', 9 * 1024 * 1024), qr/expected 4 to/ ], [ 'a query', RawPg::framed('Q', "SELECT 1\0"), qr/message type/ ],
	[ 'type 0', "\0" . pack('N', 8) . 'xxxx', qr/message type/ ], [ 'CopyFail', RawPg::framed('f', "no\0"), qr// ])
{
	my ($name, $bytes, $message) = @$bad;
	my $s = push_stream($tl);
	like(say_($s, greeting($tl)), qr/^greeting/, "$name: first a greeting");
	$s->raw($bytes);
	my $r = $s->finish;
	refused($c, $r->{error}, $name, $name eq 'CopyFail' ? '57014' : '08P01', $message, bare => 1, node => $sk, pid => $s->{pid});
	$s->close;
}
is(state($tl, 'term, write_lsn, flush_lsn, commit_lsn, history'), join('|', 0, (lsn_text($start)) x 2, '0/0', ''), 'all that changed nothing')
  or is(state($tl, 'term'), 0);

# ---- votes and elections after a greeting
for my $bad (
	[ 'term 0', vote(0), 1 ], [ 'term 2^64 - 1', vote($MAX), 1 ], [ 'term 2^63', vote(9223372036854775808), 1 ],
	[ 'a cut vote request', substr(vote(1), 0, 12), 1 ], [ 'a vote of another generation', vote(1, 99), 5 ],
	[ 'an election without history', elected(1, $start), 1 ], [ 'a history that does not end with its term', elected(2, $start, 1, $start), 1 ],
	[ 'a history with term 0', elected(2, $start, 0, $start, 2, $start), 1 ], [ 'a history with equal terms', elected(2, $start, 2, $start, 2, $start), 1 ],
	[ 'a history that goes back in terms', elected(2, $start, 3, $start, 2, $start), 1 ],
	[ 'a history that goes back in LSNs', elected(2, $start, 1, $start + 100, 2, $start), 1 ],
	[ 'a history with LSN 0', elected(2, $start, 1, 0, 2, $start), 1 ],
	[ 'a history of 100,000 terms', elected(100_000, $start, map { ($_, $start) } 1 .. 100_000), 1 ],
	[ 'a history of 4,097 terms', elected(4097, $start, map { ($_, $start) } 1 .. 4097), 1 ],
	[ 'a history that claims 2^32 - 1 terms', 'e' . pack('N Q> Q> N Q> Q>', 1, 1, $start, 0xffffffff, 1, $start), 1 ],
	[ 'a history of term 2^64 - 1', elected($MAX, $start, $MAX, $start), 1 ],
	[ 'streaming from LSN 0', elected(1, 0, 1, $start), 1 ], [ 'an append before any election', append_wal(1, $start, 'x'), 6 ],
	[ 'an append of term 0', append_wal(0, $start, 'x'), 1 ], [ 'an append that ends before it begins', append_wal(1, $start, '', end => $start - 1), 1 ],
	[ 'an append longer than its bytes', append_wal(1, $start, 'x', end => $start + 2), 1 ],
	[ 'an append shorter than its bytes', append_wal(1, $start, 'xx', end => $start + 1), 1 ],
	[ 'an append of 2^64 bytes', append_wal(1, 1, 'x', end => $MAX), 1 ],
	[ 'an append of 2 MB', append_wal(1, $start, 'x' x (2 * 1024 * 1024)), 1 ],
	[ 'flags that are none', append_wal(1, $start, 'x', quiet => 2), 1 ], [ 'a quiet append with bytes', append_wal(1, $start, 'x', quiet => 1), 1 ],
	[ 'an append of another generation', append_wal(1, $start, 'x', generation => 9), 5 ])
{
	my ($name, $bytes, $reason) = @$bad;
	my $s = push_stream($tl);
	say_($s, greeting($tl));
	like(say_($s, $bytes), qr/^refused $reason \w/, $name);
	ended($s, $name, '55000', qr/the proposer was refused/, detail => qr/\w/);
}
is(state($tl, 'term, write_lsn, flush_lsn'), join('|', 0, (lsn_text($start)) x 2), 'no vote was given, nothing was written');

# ---- positions, terms backwards, WAL that is none
my $third = $start + int(($end - $start) / 3);
my $two = $start + int(($end - $start) / 3 * 2);
$s = leader($tl, 5, $start);
my $pos = $start;
while ($pos < $third)
{
	my $n = $third - $pos < 500_000 ? $third - $pos : 500_000;
	$s->copy(append_wal(5, $pos, wal($pos, $pos + $n)));
	$pos += $n;
	last if answer($s) !~ /^ack/;
}
my ($write, $flush) = split /\|/, state($tl, 'write_lsn, flush_lsn');
is($write, lsn_text($third), 'raw bytes are taken');
cmp_ok(lsn_number($flush), '<=', $third, 'acknowledged up to a record end');
my $acknowledged = lsn_number($flush);
for my $bad ([ 'a gap', $third + 8 ], [ 'an overlap', $third - 8 ], [ 'the beginning once more', $start ], [ 'LSN 0', 0 ], [ 'the end of all LSNs', $MAX - 100 ])
{
	my $s = push_stream($tl);
	say_($s, greeting($tl));
	like(say_($s, append_wal(5, $bad->[1], 'x' x 64)), qr/^refused 9 append does not begin at the end of the log/, $bad->[0]);
	ended($s, $bad->[0], '55000', qr/the proposer was refused/);
}
for my $bad ([ 4, $start ], [ 1, $start ])
{
	my $s = push_stream($tl);
	say_($s, greeting($tl));
	like(say_($s, vote($bad->[0])), qr/^vote term=5 given=0/, "no vote for term $bad->[0]");
	$s->copy(elected(@$bad, @$bad));
	is(say_($s, append_wal($bad->[0], $third, 'x' x 64)), 'ack term=5 write=0/0 flush=0/0 commit=0/0', "a leader of term $bad->[0] is told of the higher one");
	$s->close;
}
is(state($tl, 'write_lsn, flush_lsn'), "$write|$flush", 'nothing of it was written');

# commit and truncate positions beyond everything are cut to what is there
is(say_($s, append_wal(5, $third, '', commit => $MAX, truncate => $MAX)), 'ack term=5 write=' . lsn_text($third) . " flush=$flush commit=$flush",
	'a commit position is never beyond the acknowledged');
$s->close;

# elections that would cut what is committed, or begin where nothing is
for my $bad (
	[ 'committed WAL would be cut', elected(6, $start, 6, $start), qr/^refused (?:7|8) / ],
	[ 'streaming from beyond the end', elected(6, $end, 5, $start, 6, $end), qr/^refused 7 / ],
	[ 'a history that contradicts ours', elected(6, $acknowledged, 5, $start + 8, 6, $acknowledged), qr/^refused 7 / ])
{
	my $s = push_stream($tl);
	say_($s, greeting($tl));
	like(say_($s, $bad->[1]), $bad->[2], $bad->[0]);
	ended($s, $bad->[0], '55000', qr/the proposer was refused/);
}

# WAL that is none: zeroes, noise, records whose bytes were changed; never acknowledged, gone with the next election
my $term = 6;
for my $bad (
	[ 'noise', join('', map { chr int rand 256 } 1 .. 30_000) ],
	[ 'WAL of another place', wal($start, $start + 30_000) ],
	[ 'WAL with a flipped byte', do { my $w = wal($acknowledged, $acknowledged + 60_000); substr($w, 5_000, 1) ^= "\x10"; $w } ])
{
	my ($name, $bytes) = @$bad;
	++$term;
	my $s = leader($tl, $term, $acknowledged, 5, $start, map { ($_, $acknowledged) } 7 .. $term - 1);
	my $a = say_($s, append_wal($term, $acknowledged, $bytes));
	like($a, qr/^(?:error XX001 the WAL received is not valid after the record that ends at|ack)/, "$name: $a");
	if ($a =~ /^error/)
	{
		my $r = $s->finish;
		refused($c, $s->{error}, $name, 'XX001', qr/not valid after the record/, node => $sk, pid => $s->{pid}, bare => 1);
	}
	my ($w, $f) = map { lsn_number($_) } split /\|/, state($tl, 'write_lsn, flush_lsn');
	cmp_ok($f, '<', $acknowledged + 5_100, "$name: nothing behind the damage is acknowledged");
	cmp_ok($f, '>=', $acknowledged, "$name: nothing that was acknowledged is lost");
	$s->close;
}

# A record that claims to be 1 GB: its bytes are taken, but no end is seen.
++$term;
$s = leader($tl, $term, $acknowledged, 5, $start, map { ($_, $acknowledged) } 7 .. $term - 1);
my $prev = unpack('Q<', substr(wal($acknowledged, $acknowledged + 16), 8, 8));
my $huge = pack('V V Q< C C x2 V', 1_000_000_000, 0, $prev, 0, 0, 0);
my $offset = $acknowledged % 8192;
my $head = $huge . ("\1" x 40);
my $a = $offset + 64 < 8192 ? say_($s, append_wal($term, $acknowledged, $head)) : 'ack write=' . lsn_text($acknowledged + 64) . ' flush=' . lsn_text($acknowledged);
like($a, qr/^ack .* flush=@{[lsn_text($acknowledged)]} /, "a record of 1 GB is not acknowledged before its end ($a)");
$s->close;
++$term;
$s = leader($tl, $term, $acknowledged, 5, $start, map { ($_, $acknowledged) } 7 .. $term - 1);
like(say_($s, append_wal($term, $acknowledged, '')), qr/^ack term=$term write=@{[lsn_text($acknowledged)]} flush=@{[lsn_text($acknowledged)]} /, 'the next election cuts it');
$pos = $acknowledged;
while ($pos < $end)
{
	my $n = $end - $pos < 1_000_000 ? $end - $pos : 1_000_000;
	$s->copy(append_wal($term, $pos, wal($pos, $pos + $n)));
	$pos += $n;
	$a = answer($s);
	last if $a !~ /^ack/;
}
like($a, qr/^ack term=$term write=(\S+) flush=\1 /, "the real log goes on after all that, to its end");
is($write = state($tl, 'flush_lsn'), lsn_text($end), 'which is acknowledged');
$s->close;

# ---- two at once, and one that goes away in the middle
my $tl2 = new_timeline();
my $s1 = leader($tl2, 1, $start);
my $s2 = push_stream($tl2);
say_($s2, greeting($tl2));
my $piece = wal($start, $start + 200_000);
for my $i (0 .. 19)
{
	$s1->copy(append_wal(1, $start + $i * 10_000, substr($piece, $i * 10_000, 10_000)));
	$s2->copy(append_wal(1, $start + $i * 10_000 + 3, substr($piece, 0, 1_000))) if $i == 5;
	like(answer($s1), qr/^ack term=1 write=@{[lsn_text($start + ($i + 1) * 10_000)]} /, "piece $i of the leader") if $i % 5 == 4;
	answer($s1) if $i % 5 != 4;
}
like(answer($s2), qr/^refused 9 /, 'another client of the same term does not get between');
$s2->close;
$s2 = push_stream($tl2);
say_($s2, greeting($tl2));
like(say_($s2, vote(2)), qr/given=1/, 'a second leader is voted for');
like(say_($s1, append_wal(1, $start + 200_000, 'x' x 100)), qr/^ack term=2 write=0\/0/, 'the first one is told');
my $cut = substr(RawPg::framed('d', append_wal(2, $start, 'x' x 10_000)), 0, 5_000);
$s1->raw($cut);
$s1->close;
$s2->raw(RawPg::framed('d', vote(3)) . $cut);
like(answer($s2), qr/^vote term=3/, 'a message before a cut one is handled');
$s2->close;
ok($c->poll('they are gone', 30, sub { $c->node_sql($sk, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'neon_t_$me->[0]'") eq '0' }),
	'clients that were cut off leave no process');

# An error while half of the next message is there, then cancel: the connection waits for the rest, and can be stopped.
$s = push_stream($tl2);
say_($s, greeting($tl2));
$s->raw(RawPg::framed('d', "\xff") . $cut);
like(answer($s), qr/^refused 1/, 'refused, with half a message behind');
$s->cancel;
$s->raw(substr(RawPg::framed('d', append_wal(2, $start, 'x' x 10_000)), 5_000)) or 1;
my $r = $s->finish;
like($r->{error}{M}, qr/^the proposer was refused/, 'the error is that of the message, not of the cancel');
is(($s->query('SELECT 5')->{rows} || [])->[0][0] // 'closed', '5', 'and the connection goes on');
$s->close;
for my $round (1 .. 5)
{
	$s = push_stream($tl2);
	say_($s, greeting($tl2));
	$s->raw(RawPg::framed('d', "\xff") . $cut);
	answer($s);
	$s->cancel for 1 .. $round;
	$s->close;
}

# ---- a client that does not read
$s = push_stream($tl2);
say_($s, greeting($tl2));
$s->raw(join('', map { RawPg::framed('d', vote(1)) } 1 .. 200_000), timeout => 3);
note "sent $s->{sent}";
is($c->sql('main', 'INSERT INTO t VALUES (-1) RETURNING a', timeout => 30), '-1', 'commits of others go on while a client does not read');
my $other = push_stream($tl2);
like(say_($other, greeting($tl2)), qr/^greeting/, 'others reach the same timeline');
like(say_($other, vote(1)), qr/^vote/, 'and its lock');
$other->close;
$s->close;

# ---- the end: everything is there, also after a restart
is(crashes($c, $sk, 'main'), '', 'no process crashed');
is($c->pid($sk), $postmaster, 'the safekeeper is the one that was started');
is($c->node_sql($sk, $main_state), $main_before, 'the endpoint\'s timeline has the same term');
my $before = state($tl, 'term, flush_lsn, commit_lsn, history');
# the highest term there can be, and a history that has it
my $tl3 = new_timeline();
$s = leader($tl3, 9223372036854775806, $start);
like(say_($s, append_wal(9223372036854775806, $start, wal($start, $start + 5000))), qr/^ack/, 'the last terms work');
$s->close;
my $before3 = state($tl3, 'term, flush_lsn');
is(scalar(() = $before3 =~ /^9223372036854775806\|/), 1, 'and are shown as they are');
$c->stop($sk);
$c->start($sk);
ok($c->poll('it is ready', 30, sub { $c->node_sql($sk, "SELECT count(*) FROM neon_safekeeper.timelines WHERE state = 'active'") == $number + 1 }),
	'after a restart every timeline is active');
is(state($tl, 'term, flush_lsn, commit_lsn, history'), $before, 'what was acknowledged is there');
is(state($tl3, 'term, flush_lsn'), $before3, 'the last term too');
is($c->sql('main', 'INSERT INTO t VALUES (-2) RETURNING a', timeout => 60), '-2', 'and the endpoint goes on');

# One row that is damaged takes one timeline out, not the safekeeper.
$c->node_sql($sk, "UPDATE neon_safekeeper.timeline SET history = 'nonsense' WHERE timeline = '$tl3'");
$c->stop($sk);
$c->start($sk);
ok($c->poll('it is ready', 30, sub { $c->node_sql($sk, "SELECT count(*) FROM neon_safekeeper.timelines WHERE state = 'active'") == $number }),
	'a damaged row takes one timeline out');
like(state($tl3, 'state, problem'), qr/^broken\|.*row/, 'which says why');
is($c->sql('main', 'INSERT INTO t VALUES (-3) RETURNING a', timeout => 60), '-3', 'and the endpoint goes on');

done_testing();
