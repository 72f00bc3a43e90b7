# Many branches: the pageserver follows the WAL of each, and safekeepers still have room for others, as one that has to catch up.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use Test::More;

my $branches = 45;
my @SK = map { "safekeeper-$_" } 1 .. 3;
my $c = NeonCluster->new;
$c->start;
$c->sql('main', 'CREATE TABLE t (a int)');
$c->sql('main', join '', map { "SELECT neon_create_branch('b$_');" } 1 .. $branches);
sub senders { my $n = 0; $n += $c->node_sql($_, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'}) for @_; return $n; }
ok($c->poll('all branches are followed', 60, sub { senders(@SK) >= $branches + 1 }), 'the pageserver follows all branches');

# what it lacks is older than the compute's own WAL, so it comes from another safekeeper
$c->stop('safekeeper-3');
$c->sql('main', 'INSERT INTO t SELECT generate_series(1, 20000)');
$c->stop('main');
$c->start('main');
my $lsn = $c->sql('main', 'SELECT pg_current_wal_flush_lsn()');
ok($c->poll('all branches are followed', 60, sub { senders(@SK[0, 1]) >= $branches + 1 }), 'also by two safekeepers');
$c->start('safekeeper-3');
my $timeline = $c->node_sql('controller', q{SELECT timeline FROM neon_controller.branches WHERE name = 'main'});
ok($c->poll('it catches up', 60, sub {
	$c->node_sql('safekeeper-3', qq{SELECT commit_lsn >= '$lsn' FROM neon_safekeeper.timelines WHERE timeline = '$timeline'}) eq 't' }),
	'a safekeeper that was away catches up');
is($c->sql('main', 'SELECT count(*) FROM t'), '20000', 'and nothing is lost');

done_testing();
