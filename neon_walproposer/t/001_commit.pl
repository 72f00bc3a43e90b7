# 001_commit.pl - a synchronous commit is visible only after its quorum, whatever is done to it; what is off is off.
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
my $compute = $cluster->prepare_compute('compute', sql => 'CREATE TABLE t (i int); CREATE TABLE tx (i int)',
	conf => "max_prepared_transactions = 5");
my $count = 'SELECT count(*) FROM t';

$compute->start;
$compute->safe_psql('postgres', 'INSERT INTO t VALUES (1)');
is($compute->safe_psql('postgres', $count), 1, 'a commit returns when all safekeepers are there');
ok($compute->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walproposer' AND state = 'streaming'"),
	'the proposer is seen in pg_stat_replication');
is($cluster->timeline_value($_, 'term'), 1, "safekeeper $_ is in the first term") for 1 .. 3;

# one away: nothing to notice
$cluster->safekeeper(3)->stop('immediate');
$compute->safe_psql('postgres', 'INSERT INTO t VALUES (2)');
is($compute->safe_psql('postgres', $count), 2, 'one safekeeper may be away');

# two away: a commit waits, and is seen waiting
$cluster->safekeeper(2)->stop('immediate');
my $waiting = WalCluster::start_query($compute, 'INSERT INTO t VALUES (3)');
ok(WalCluster::wait_for_waiter($compute, 'INSERT%(3)'), 'with two away a commit is seen waiting in pg_stat_activity');
my $pid = $compute->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE query LIKE 'INSERT%(3)'");
my ($ps) = run_command([ 'ps', '-o', 'args=', '-p', $pid ]);
like($ps, qr{waiting for [0-9A-F]+/[0-9A-F]+}, '... and in ps');
is($compute->safe_psql('postgres', $count), 2, '... and is not visible');

# cancel
$compute->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
$compute->wait_for_log(qr/this commit can no longer be cancelled/);
ok(WalCluster::wait_for_waiter($compute, 'INSERT%(3)'), 'a cancelled commit goes on waiting');
is($compute->safe_psql('postgres', $count), 2, '... and is not visible');

# terminate
my $killed = WalCluster::start_query($compute, 'INSERT INTO t VALUES (4)');
ok(WalCluster::wait_for_waiter($compute, 'INSERT%(4)'), 'another commit waits');
$compute->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'INSERT%(4)'");
$compute->wait_for_log(qr/terminating connection while a commit waits/);
ok(WalCluster::wait_for_waiter($compute, 'INSERT%(4)'), 'a terminated commit goes on waiting');
is($compute->safe_psql('postgres', $count), 2, '... and is not visible');

# statement_timeout (it runs inside a procedure's commit only), synchronous_commit = local, and PREPARE
my $log_so_far = -s $compute->logfile;
my $timed = WalCluster::start_query($compute, 'SET statement_timeout = 8000', 'DO $$ BEGIN INSERT INTO t VALUES (5); COMMIT; END $$');
ok(WalCluster::wait_for_waiter($compute, 'DO%(5)%'), 'the commit of a procedure waits');
my $local = WalCluster::start_query($compute, "SET synchronous_commit = local", "INSERT INTO t VALUES (9)");
ok(WalCluster::wait_for_waiter($compute, '%(9)'), 'synchronous_commit = local waits for the quorum, too');
my $prepared = WalCluster::start_query($compute, "BEGIN; INSERT INTO tx VALUES (6); PREPARE TRANSACTION 'p'");
ok(WalCluster::wait_for_waiter($compute, '%tx VALUES (6)%'), 'PREPARE TRANSACTION waits');
my $prepared_off = WalCluster::start_query($compute, 'SET synchronous_commit = off', "BEGIN; INSERT INTO tx VALUES (7); PREPARE TRANSACTION 'q'");
ok(WalCluster::wait_for_waiter($compute, '%tx VALUES (7)%'), '... also with synchronous_commit = off');

# off is off
$compute->safe_psql('postgres', 'SET synchronous_commit = off; INSERT INTO t VALUES (7)');
is($compute->safe_psql('postgres', $count), 3, 'synchronous_commit = off does not wait');

# the proposer cannot be shot down by SQL
$compute->safe_psql('postgres', "SELECT pg_cancel_backend(pid), pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'walproposer'");
is($compute->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walproposer'"), 1,
	'the proposer survives pg_terminate_backend');

# readers of WAL see what the quorum has (rule 6)
is($compute->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn() < pg_current_wal_lsn()'), 't', 'the flush position stands still at the quorum');

# nobody else may become the proposer
my ($out, $err) = run_command([ 'psql', '-XAt', '-d', $compute->connstr() . " replication=true options='-c neon.proposer_key=x'", '-c', 'IDENTIFY_SYSTEM' ]);
like($err, qr/may not become the proposer/, 'the takeover needs the key');

$compute->wait_for_log(qr/this commit can no longer be cancelled/, $log_so_far);

# one comes back
$cluster->safekeeper(2)->start;
ok(WalCluster::finish_query($waiting), 'the cancelled commit ends well when one safekeeper returns');
like($waiting->{err}, qr/WARNING:  this commit can no longer be cancelled/, '... its client was warned');
ok(WalCluster::finish_query($timed), 'the timed out commit ends well');
like($timed->{err}, qr/WARNING:  this commit can no longer be cancelled/, '... its client was warned');
ok(WalCluster::finish_query($local), 'the local commit ends well');
ok(WalCluster::finish_query($prepared), 'PREPARE ends well');
ok(WalCluster::finish_query($prepared_off), 'the other one too');
ok(!WalCluster::finish_query($killed), 'the terminated session is gone');
ok($compute->poll_query_until('postgres', "SELECT count(*) = 7 FROM t"), 'everything is visible: also what was terminated');
$compute->safe_psql('postgres', "COMMIT PREPARED 'p'");
$cluster->safekeeper(2)->stop('immediate');
my $commit_prepared = WalCluster::start_query($compute, 'SET synchronous_commit = off', "COMMIT PREPARED 'q'");
ok(WalCluster::wait_for_waiter($compute, 'COMMIT PREPARED%'), 'COMMIT PREPARED waits with synchronous_commit = off');
$cluster->safekeeper(2)->start;
ok(WalCluster::finish_query($commit_prepared), 'and ends well');

# logical decoding does not run ahead of the quorum (rule 6)
$compute->safe_psql('postgres', "SELECT pg_create_logical_replication_slot('s', 'test_decoding')");
$cluster->safekeeper(2)->stop('immediate');
$compute->safe_psql('postgres', 'SET synchronous_commit = off; INSERT INTO t VALUES (8)');
$compute->poll_query_until('postgres', 'SELECT pg_current_wal_lsn() > pg_current_wal_flush_lsn()');
is($compute->safe_psql('postgres', "SELECT count(*) FROM pg_logical_slot_peek_changes('s', NULL, NULL)"), 0, 'a slot shows nothing that the quorum does not have');
$cluster->safekeeper(2)->start;
ok($compute->poll_query_until('postgres', "SELECT count(*) = 3 FROM pg_logical_slot_peek_changes('s', NULL, NULL)"), '... and shows it when it has');

# the last one comes back and catches up
$cluster->safekeeper(3)->start;
my $lsn = $compute->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
ok($cluster->wait_for_flush(3, $lsn), 'a safekeeper that was away catches up');

# a good stop
$compute->stop('fast');
like(slurp_file($compute->logfile), qr/the safekeepers have all WAL up to/, 'a stop sends the shutdown checkpoint');
unlike(slurp_file($compute->logfile), qr/FATAL:  (?!this connection may not become|terminating connection)/, '... and nothing goes wrong on the way');
is(WalCluster::control_value($compute->data_dir, 'Database cluster state'), 'shut', 'the server is shut down in order');
my $end = WalCluster::end_of_wal($compute->data_dir);
cmp_ok(scalar(grep { $cluster->timeline_value($_, "flush_lsn = '$end'") eq 't' } 1 .. 3), '>=', 2, 'its end is the end of the log on a quorum');

ok(!$compute->start(fail_ok => 1), 'a used data directory does not start again');
like(slurp_file($compute->logfile), qr/has been used since its base backup/, '... and says why');

$_->stop('fast') for @{ $cluster->{safekeepers} };
done_testing();
