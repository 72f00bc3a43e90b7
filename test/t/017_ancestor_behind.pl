# After a crash of the pageserver a branch is not served from an ancestor that has not been ingested again up to the branch point.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use NeonCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = NeonCluster->new(init => [ '--safekeepers', 1 ]);
$c->start;
$c->sql('main', q{CREATE TABLE t AS SELECT 1 AS a FROM generate_series(1, 100) i});
$c->node_sql('controller', q{SELECT neon_create_branch('dev', parent => 'main'); SELECT neon_create_endpoint('dev'); SELECT neon_suspend_endpoint('dev')});
$c->sql('main', 'UPDATE t SET a = 2');
$c->node_sql('controller', q{SELECT neon_create_branch('dev2', parent => 'main')});
my ($main, $safekeepers) = split /\|/, $c->node_sql('pageserver-1', q{SELECT timeline, safekeepers FROM neon_pageserver.timelines WHERE ancestor IS NULL});

# the ancestor's log cannot be had for a while
$c->kill9('pageserver-1');
$c->start('pageserver-1');
$c->node_sql('pageserver-1', "SELECT neon_pageserver.set_safekeepers(tenant, timeline, '{host=127.0.0.1 port=1 user=nobody dbname=none}') FROM neon_pageserver.timelines WHERE timeline = '$main'");
$c->kill9('pageserver-1');
$c->start('pageserver-1');

my %asked;
for my $b (qw(dev dev2))
{
	$asked{$b} = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-c', $b eq 'dev' ? "SELECT neon_start_endpoint('dev')" : "SELECT neon_create_endpoint('dev2')",
		$c->node_uri('controller') ], '<', '/dev/null', '>', \my $out, '2>', \my $err, IPC::Run::timeout(300));
}
sleep 25;	# time enough to be served what should not be
$c->node_sql('pageserver-1', "SELECT neon_pageserver.set_safekeepers(tenant, timeline, '$safekeepers') FROM neon_pageserver.timelines WHERE timeline = '$main'");
for my $b (qw(dev dev2)) { $asked{$b}->finish; is($asked{$b}->result(0), 0, "endpoint $b starts when its ancestor is there"); }
is($c->sql('dev', 'SELECT sum(a), count(*) FROM t'), '100|100', 'a branch has what its ancestor had then');
is($c->sql('dev2', 'SELECT sum(a), count(*) FROM t'), '200|100', 'and so has a later one');
is($c->sql('main', 'SELECT sum(a) FROM t'), '200', 'the ancestor is as it was');
done_testing();
