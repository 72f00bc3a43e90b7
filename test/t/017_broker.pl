# Safekeepers tell the broker what they have and learn from it what their peers know to be committed.  Its loss, kill -9 of its instance under
# load, costs no commit; when it is back, it knows everything again by itself.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use IPC::Run;
use Test::More;
use Time::HiRes qw(sleep);

my $c = NeonCluster->new;
$c->start;
my $tl = $c->node_sql('controller', "SELECT timeline FROM neon_controller.branches WHERE name = 'main'");
my $of_main = "FROM neon_broker.timelines WHERE timeline = '$tl'";

sub sk_state { my ($n, $what) = @_; return $c->node_sql("safekeeper-$n", "SELECT $what FROM neon_safekeeper.timelines WHERE timeline = '$tl'"); }
sub broker { my ($what) = @_; return $c->node_sql('controller', "SELECT $what $of_main"); }

ok($c->poll('three safekeepers are heard', 120, sub { broker("string_agg(node_id::text, ',' ORDER BY node_id)") eq '1,2,3' }), 'the broker hears of the timeline from three safekeepers');
is(broker("string_agg(address, ',' ORDER BY node_id)"), join(',', map { '127.0.0.1:' . ($c->{port} + 10 + $_) } 1 .. 3), 'and where they are');

$c->sql('main', 'CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)');
ok($c->poll('the broker knows what safekeepers know', 120, sub {
	for my $n (1 .. 3) { return 0 if sk_state($n, 'term, last_log_term, flush_lsn, commit_lsn') ne $c->node_sql('controller', "SELECT term, last_log_term, flush_lsn, commit_lsn $of_main AND node_id = $n"); }
	return 1;
}), 'terms and positions arrive as they are');

# a safekeeper that stops is forgotten and comes back
$c->node_sql('controller', 'ALTER SYSTEM SET neon_broker.expire_after = 8; SELECT pg_reload_conf()');
$c->stop('safekeeper-3');
ok($c->poll('a stopped safekeeper goes', 120, sub { broker('string_agg(node_id::text, \',\' ORDER BY node_id)') eq '1,2' }), 'a stopped safekeeper is forgotten, those that live are not');
$c->start('safekeeper-3');
ok($c->poll('and comes back', 120, sub { broker('count(*)') eq '3' }), 'and is back after its start');

# ---- the broker's instance dies under load
my ($in, $out, $err) = ('', '', '');
my $load = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', $c->uri('main') ], '<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(300));
my $sent = 1000;
sub insert { my ($n) = @_; for (1 .. $n) { $sent++; $in .= "INSERT INTO t VALUES ($sent) RETURNING a;\n"; } $load->pump while length $in; }
insert(300);
$c->kill9('controller');
insert(700);
$load->finish;
is($load->result(0), 0, 'commits go on without the broker') or diag($err);
my @acknowledged = split /\n/, $out;
is(scalar @acknowledged, 1000, 'all of them');
$c->start('controller');
ok($c->poll('the broker knows again', 120, sub { broker('count(*)') eq '3' && broker("count(*) FILTER (WHERE commit_lsn >= '" . sk_state(1, 'commit_lsn') . "')") eq '3' }),
	'the broker that was killed knows everything again');
is($c->sql('main', 'SELECT count(*), max(a) FROM t'), "2000|2000", 'nothing is lost');

# ---- the proposer dies: safekeepers agree on what is committed as far as their logs are the same
for my $round (1 .. 3)
{
	my $w = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-T', 60, '-f', '-', $c->uri('main') ], '<', \"INSERT INTO t SELECT max(a) + 1 + random() * 1000000 FROM t ON CONFLICT DO NOTHING;\n", '>', \my $o, '2>', \my $e);
	sleep 2;
	$c->kill9('main');
	eval { $w->finish };
	ok($c->poll('commit positions are the same', 120, sub {
		my @s = map { [ split /\|/, sk_state($_, "last_log_term, flush_lsn - '0/0', commit_lsn - '0/0'") ] } 1 .. 3;
		for my $x (@s) { for my $y (@s) { next if $x->[0] != $y->[0]; my $reach = $x->[2] < $y->[1] ? $x->[2] : $y->[1]; return 0 if $y->[2] < $reach; } }
		return 1;
	}), "round $round: what one knows to be committed all know, without a proposer");
	$c->start('main');
	is($c->sql('main', "SELECT count(*) FROM t WHERE a <= 2000"), '2000', 'nothing is lost');
}
$c->destroy;
done_testing();
