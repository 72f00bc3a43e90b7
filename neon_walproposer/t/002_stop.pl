# 002_stop.pl - a stop without a quorum is bounded and reveals nothing; two computes: the second wins, the first stops.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use WalCluster;

my $cluster = WalCluster->new(3);
my $first = $cluster->prepare_compute('first', sql => 'CREATE TABLE t (i int)');
my $second = $cluster->copy_compute($first, 'second');
my $third = $cluster->copy_compute($first, 'third');

# ---- two computes from the same base backup ----
$first->start;
ok($first->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = 'walproposer' AND state = 'streaming'"),
	'the first compute is elected');
$second->start;
$second->safe_psql('postgres', 'INSERT INTO t VALUES (2)');
is($second->safe_psql('postgres', 'SELECT count(*) FROM t'), 1, 'the second compute commits');
ok(WalCluster::wait_until_gone($first), 'the first one stops');
like(slurp_file($first->logfile), qr/stopping this compute: a newer proposer/, '... and names the reason');

# ---- a compute from an old base backup ----
ok($third->start(fail_ok => 1) || 1, 'a third one is started from the same base backup');
ok(WalCluster::wait_until_gone($third), '... and stops');
like(slurp_file($third->logfile), qr/stopping this compute: the log does not end where this server began/, '... naming the reason');
ok(WalCluster::wait_until_gone($second), 'its election has ended the second one');

# ---- a stop while the quorum is away ----
my $other = WalCluster->new(0);
$other->{safekeepers} = $cluster->{safekeepers};
{
	no warnings 'once';
	$WalCluster::TIMELINE = '00112233445566778899aabbccddeeff';
}
my $lonely = $other->prepare_compute('lonely', sql => 'CREATE TABLE t (i int)');
$lonely->start;
$lonely->safe_psql('postgres', 'INSERT INTO t VALUES (1)');
$cluster->safekeeper($_)->stop('fast') for 1, 2;
my $waiting = WalCluster::start_query($lonely, 'INSERT INTO t VALUES (2)');
ok(WalCluster::wait_for_waiter($lonely, 'INSERT%(2)'), 'a commit waits');
$lonely->stop('fast', fail_ok => 1);
ok(WalCluster::wait_until_gone($lonely), 'a fast stop ends although a commit waits');
like(slurp_file($lonely->logfile), qr/did not take the last WAL within neon.drain_timeout/, '... when the time is over');
ok(!WalCluster::finish_query($waiting), 'the commit was not acknowledged');
is($waiting->{out}, '', '... in no way');
is(WalCluster::control_value($lonely->data_dir, 'Database cluster state'), 'in', 'no shutdown checkpoint pretends that all is well');
ok(!$lonely->start(fail_ok => 1), 'its data directory does not start again');

# ---- a stop without any proposer ----
$other->{safekeepers} = $cluster->{safekeepers};
$cluster->safekeeper($_)->start for 1, 2;
$WalCluster::TIMELINE = '00112233445566778899aabbccddee00';
my $barred = $other->prepare_compute('barred', sql => 'CREATE TABLE t (i int)');
my $hba = $barred->data_dir . '/pg_hba.conf';
my $rules = slurp_file($hba);
$rules =~ s/^local\s+replication.*$//mg;
unlink $hba;
append_to_file($hba, $rules);
$barred->start;
$barred->wait_for_log(qr/could not start the proposer/);
my $hopeless = WalCluster::start_query($barred, 'INSERT INTO t VALUES (2)');
ok(WalCluster::wait_for_waiter($barred, 'INSERT%(2)'), 'without a proposer a commit waits');
$barred->stop('fast', fail_ok => 1);
ok(WalCluster::wait_until_gone($barred), 'a fast stop ends all the same');
ok(!WalCluster::finish_query($hopeless), 'the commit was not acknowledged');

$_->stop('fast') for @{ $cluster->{safekeepers} };
done_testing();
