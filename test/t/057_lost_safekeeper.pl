# A safekeeper that has lost a timeline has lost what it acknowledged and whom it voted for: it must not make up a majority before the others have elected
# without it.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use Test::More;

my $c = NeonCluster->new;
$c->start;
my ($tenant, $timeline) = split /\|/, $c->node_sql('controller', q{SELECT tenant, id FROM neon_controller.timelines});
sub knows { my ($n) = @_; return $c->node_sql("safekeeper-$n", "SELECT count(*) FROM neon_safekeeper.timelines WHERE timeline = '$timeline'"); }
sub start_main { return $c->psql_uri($c->node_uri('controller'), q{SET neon.tenant = 'default'; SELECT neon_start_endpoint('main')}); }

$c->sql('main', 'CREATE TABLE t (a int); INSERT INTO t VALUES (1)');
is($c->node_sql('controller', "SELECT string_agg(safekeeper, ' ' ORDER BY safekeeper) FROM neon_controller.acceptors WHERE timeline = '$timeline'"),
	'safekeeper-1 safekeeper-2 safekeeper-3', 'who has a timeline is known before a compute of it starts');

# acknowledged by 1 and 3; then 3 loses it
$c->stop('safekeeper-2');
$c->sql('main', 'INSERT INTO t VALUES (2)');
$c->stop('main');
$c->node_sql('safekeeper-3', "SELECT neon_safekeeper.drop_timeline('$tenant', '$timeline')");
$c->stop('safekeeper-1');
$c->start('safekeeper-2');
for my $how ('as it was stopped', 'again')
{
	my ($rc, $out, $err) = start_main();
	$c->node_sql('controller', 'UPDATE neon_controller.endpoints SET told = NULL');	# the second time they are asked first
	isnt($rc, 0, "the endpoint does not start with one that is behind and one that has lost everything: $how");
	like($err, qr/only 1 of 3 safekeepers.*DETAIL:.*safekeeper-3 has lost the timeline.*HINT:/s, 'and it is said why');
	is(knows(3), 0, 'nothing is made there');
}
my ($rc, $out, $err) = $c->psql_uri($c->node_uri('controller'), q{SET neon.tenant = 'default'; SELECT neon_create_branch('b', parent => 'main')});
isnt($rc, 0, 'nor is a branch made of what is left');

$c->start('safekeeper-1');
($rc, $out, $err) = start_main();
is($rc, 0, 'with the others it starts') or diag $err;
is($c->sql('main', 'SELECT count(*) FROM t'), '2', 'and has everything');
# the proposer's quorum was enough; the next start that has to look makes it anew
$c->stop('main');
$c->node_sql('controller', q{UPDATE neon_controller.endpoints SET told = NULL});
($rc, $out, $err) = start_main();
is($rc, 0, 'it starts again') or diag $err;
is(knows(3), 1, 'the one that had lost it has it again');
$c->sql('main', 'INSERT INTO t VALUES (3)');
ok($c->poll('it has everything', 120, sub { $c->node_sql('safekeeper-3', "SELECT flush_lsn FROM neon_safekeeper.timelines WHERE timeline = '$timeline'")
	eq $c->node_sql('safekeeper-1', "SELECT flush_lsn FROM neon_safekeeper.timelines WHERE timeline = '$timeline'") }), 'and gets what the others have');
# from now on it counts
$c->stop('main');
$c->stop('safekeeper-1');
($rc, $out, $err) = start_main();
is($rc, 0, 'then it makes up a majority') or diag $err;
is($c->sql('main', 'SELECT count(*) FROM t'), '3', 'and nothing is lost');
done_testing();
