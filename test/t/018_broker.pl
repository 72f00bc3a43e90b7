# Safekeepers tell the broker what they have, and learn from it what their peers know to be committed when no proposer tells them any more:
# after a compute was killed -9, and for certain on timelines of a scripted proposer that tells one safekeeper alone.  A liar with
# another history is not believed.  Without the broker nothing is lost, and the next proposer tells.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use NeonCluster;
use RawPg;
use Test::More;
use WalTools;

$RawPg::TIMEOUT = 120;
my $c = NeonCluster->new;
$c->start;
my ($tenant, $tl) = timeline_of($c);

sub broker { my ($what, $where) = @_; return $c->node_sql('controller', "SELECT $what FROM neon_broker.timelines WHERE timeline = '$tl'" . ($where ? " AND $where" : '')); }
sub commits_of { my ($n, @timelines) = @_; return $c->node_sql("safekeeper-$n", "SELECT string_agg(commit_lsn::text, ' ' ORDER BY timeline) FROM neon_safekeeper.timelines WHERE timeline IN (" . join(',', map { "'$_'" } @timelines) . ") AND tenant = '$tenant'"); }
sub commit_of { return commits_of(@_); }
sub all_known
{
	my $known = commit_of(1, $tl);
	return $c->poll('the broker knows what safekeepers know', 120, sub { broker('count(*)', "commit_lsn >= '$known'") eq '3' });
}

# ---- what safekeepers have is known where the broker is
ok($c->poll('three safekeepers are heard', 120, sub { broker("string_agg(node_id::text, ',' ORDER BY node_id)") eq '1,2,3' }), 'the broker hears of the timeline from three safekeepers');
is(broker("string_agg(address, ',' ORDER BY node_id)"), join(',', map { '127.0.0.1:' . ($c->{port} + 10 + $_) } 1 .. 3), 'and where they are');
$c->sql('main', 'CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)');
ok(all_known(), 'commits arrive from all of them');

# ---- a compute is killed in the middle of commits: what one safekeeper knows to be committed all know, as far as their logs are the same
my ($in, $out, $err) = (join('', map { "INSERT INTO t VALUES ($_) RETURNING a;\n" } 1001 .. 9000), '', '');
my $load = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', $c->uri('main') ], '<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(300));
ok($c->poll('commits go on', 120, sub { $load->pump_nb; ($out =~ tr/\n//) > 100 }), 'commits go on');
$c->kill9('main');
eval { $load->finish };
my @acknowledged = $out =~ /^(\d+)$/mg;
ok($c->poll('commit positions are the same', 120, sub {
	my @s = values %{ sk_states($c) };
	for my $x (@s) { for my $y (@s) {
		my $known = $x->{commit} < $y->{flush} ? $x->{commit} : $y->{flush};
		return 0 if $x->{last_term} == $y->{last_term} && $y->{commit} < $known; } }
	return 1;
}), 'after kill -9 of the compute all know what one of them knows to be committed');
$c->start('main');
is($c->sql('main', 'SELECT count(*) FROM t WHERE a = ANY (ARRAY[' . join(',', @acknowledged) . '])'), scalar @acknowledged, 'nothing that was acknowledged is lost');

# ---- timelines of a scripted proposer: its WAL is a piece of main's
my $s1 = sk_states($c)->{'safekeeper-1'};
my @starts = map { lsn_text(lsn_number((split /:/)[1])) } split /,/, $s1->{history};
my $begin = $starts[0];
my ($end) = grep { lsn_number($_) > lsn_number($begin) && lsn_number($_) <= $s1->{commit} } reverse @starts;
my $wal = WalTools::log_dir($c, 'safekeeper-1');
my $system_id = $c->node_sql('controller', "SELECT system_id FROM neon_controller.timelines WHERE id = '$tl'");
note "from $begin to $end";
sub name_of { my ($n) = @_; return sprintf('%032x', 0xb0 + $n); }
sub script { my ($node, $n, @lines) = @_; local $c->{main_timeline} = [ $tenant, name_of($n) ]; return join "\n", sk_client($c, "safekeeper-$node", $wal, join("\n", 'greet', @lines, 'quit')); }

# The whole log in term 1, on these nodes; only the node that is named is told that it is committed.
sub make_log
{
	my ($n, $nodes, $told) = @_;
	for my $node (@$nodes)
	{
		my $said = script($node, $n, 'vote 1', "elected 1 $begin 1:$begin", "append 1 $begin $end 0/0", $node == $told ? "heartbeat 1 $end" : ());
		like($said, qr/^ack term=1 write=\Q$end\E flush=\Q$end\E/m, "timeline $n: safekeeper $node has the log");
	}
	return;
}
for my $node (1 .. 3)
{
	$c->node_sql("safekeeper-$node", join ' ', map { "SELECT neon_safekeeper.create_timeline('$tenant', '" . name_of($_) . "', '$begin', '$system_id', $SEGMENT, '1,2,3');" }
		grep { $node != 1 || $_ == 1 || $_ == 10 } 1 .. 10);
}
sub knows { my ($node, $n) = @_; return commit_of($node, name_of($n)) eq $end; }

make_log(1, [ 3, 2, 1 ], 1);
ok($c->poll("safekeeper $_ learns", 120, sub { knows($_, 1) }), "safekeeper $_ has the WAL, is told by no proposer, and learns from a peer that it is committed") for 2, 3;

# ---- liars: node 1 has nothing of these timelines, so that what the test says in its name is all that is heard of it
make_log($_, [ 2, 3 ], 0) for 2 .. 8;
my $before = commit_of(2, name_of(2));
isnt($before, $end, 'they do not know that it is committed');
sub state_of
{
	my ($n, %o) = @_;
	return pack('N', $o{node} // 1) . pack('H*', $o{tenant} // $tenant) . pack('H*', name_of($n)) .
		pack('Q>6 C/a', $o{term} // 9, $o{last} // 1, $o{flush} // lsn_number($end), $o{commit} // lsn_number($end), 0, 0, '');
}
my @said = (state_of(2, last => 2), state_of(3, last => 9, flush => 2**50), state_of(4, flush => lsn_number($end) - 8), state_of(5, commit => 2**62), state_of(6, node => 9),
	state_of(7, tenant => 'f' x 32), state_of(8, last => 0), state_of(8, term => 0, node => 2**31));
(my $as_broker) = $c->node_sql('safekeeper-2', 'SHOW neon_safekeeper.broker_connstring');
my %at = map { split /=/, $_, 2 } split / /, $as_broker;
my $liar = RawPg->connect(host => $at{host}, port => $at{port}, user => $at{user}, password => $at{password}, dbname => $at{dbname});
$liar->copy_both('CALL neon_broker.publish()') or die $liar->{error}{M};
$liar->copy('P' . pack('n', scalar @said) . join '', @said);
# what was said before is heard before
make_log(9, [ 2, 3 ], 0);
$liar->copy('P' . pack('n', 1) . state_of(9));
ok($c->poll("safekeeper $_ believes", 120, sub { knows($_, 9) }), "safekeeper $_ believes one that tells of the same history") for 2, 3;
for my $node (2, 3)
{
	is(commits_of($node, map { name_of($_) } 2 .. 8), join(' ', ($before) x 7), "safekeeper $node: none with a newer or older last term, without a history, with a position beyond its log, of a stranger, of another tenant");
}
$liar->close;

# ---- without the broker: commits go on, and the next proposer tells
$c->kill9('controller');
$c->sql('main', 'INSERT INTO t SELECT generate_series(10001, 10100)');
is($c->sql('main', 'SELECT count(*) FROM t WHERE a > 10000'), '100', 'commits go on without the broker');
make_log(10, [ 3, 2, 1 ], 1);
ok(knows(1, 10) && !knows(2, 10), 'without the broker a safekeeper that was not told does not know');
like(script(2, 10, 'vote 2', "elected 2 $end 1:$begin,2:$end", "heartbeat 2 $end"), qr/^ack term=2 .*commit=\Q$end\E/m, 'the next proposer tells it');
ok(!knows(3, 10), 'one that it does not reach goes on without');
$c->start('controller');
ok($c->poll('safekeeper 3 learns', 120, sub { knows(3, 10) }), 'and learns when the broker is back');
ok(all_known(), 'which knows everything again by itself');
is($c->sql('main', 'SELECT count(*) FROM t WHERE a <= 1000 OR a > 10000'), '1100', 'nothing is lost');
$c->destroy;
done_testing();
