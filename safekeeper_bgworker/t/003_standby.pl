# A stock standby follows a safekeeper.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SkTest;
use Test::More;

my $donor = new_donor();
my $sk = new_safekeeper('sk', 1);
my $from = $donor->safe_psql('postgres', 'SELECT redo_lsn FROM pg_control_checkpoint()');
$donor->safe_psql('postgres', "INSERT INTO t VALUES (1, 'before')");
$donor->backup('base', backup_options => ['-Xnone']);
$donor->safe_psql('postgres', "INSERT INTO t SELECT g, repeat('x', 300) FROM generate_series(1, 60000) g");
my @ends = record_bounds($donor, $from);
my ($start, $end) = ($ends[0], $ends[-1]);
create_timeline($sk, $donor, $start);
my @answers = proposer($sk, $donor, "greet\nvote 1\nelected 1 $start 1:$start\nappend 1 $start $end $start\nheartbeat 1 $end");
like($answers[4], qr/commit=$end/, 'committed');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($donor, 'base');
my $conninfo = $sk->connstr =~ s/'/''/gr . " user=neon_t_$TENANT options=''-c neon.tenant_id=$TENANT -c neon.timeline_id=$TIMELINE''";
$standby->append_conf('postgresql.conf', "primary_conninfo = '$conninfo'\n");
$standby->set_standby_mode;
$standby->start;
ok($standby->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$end'::pg_lsn"), 'the standby replays all of it');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM t'), '60001', 'and has the rows');

# What is appended but not committed does not reach it; what is committed does, without a new connection.
$donor->safe_psql('postgres', "INSERT INTO t VALUES (2, 'after')");
my @more = record_bounds($donor, $end);
my $last = $more[-1];
my $p = proposer_start($sk, $donor);
proposer_say($p, 'greet');
like(proposer_say($p, "append 1 $end $last $end"), qr/flush=$last commit=$end/, 'appended, not committed');
is($standby->safe_psql('postgres', "SELECT pg_last_wal_receive_lsn() <= '$end'::pg_lsn"), 't', 'is not served');
like(proposer_say($p, "heartbeat 1 $last"), qr/commit=$last/, 'committed');
ok($standby->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$last'::pg_lsn"), 'is served');
proposer_end($p);
is(state($sk, 'senders'), '1', 'one sender is shown');

# Rule 27: the connection outlives authentication_timeout, and holds no snapshot.
my $sender = "FROM pg_stat_activity WHERE backend_type = 'walsender'";
ok($sk->poll_query_until('postgres', "SELECT now() - backend_start > interval '2 s' $sender"), 'it lives longer than an authentication may take');
is($sk->safe_psql('postgres', "SELECT backend_xmin IS NULL AND backend_xid IS NULL AND xact_start IS NULL $sender"), 't', 'without a transaction');
is($standby->safe_psql('postgres', "SELECT status FROM pg_stat_wal_receiver"), 'streaming', 'and still streams');
$sk->safe_psql('postgres', 'CREATE DATABASE other');
$sk->safe_psql('postgres', 'DROP DATABASE other');
pass('it does not block what needs every process to answer');
$sk->safe_psql('postgres', "SELECT neon_safekeeper.drop_timeline('$TENANT', '$TIMELINE')");
ok($sk->poll_query_until('postgres', "SELECT count(*) = 0 $sender"), 'it ends when the timeline is dropped');

$standby->stop;
$sk->stop;
$donor->stop;
done_testing();
