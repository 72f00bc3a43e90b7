# 003_sync_and_lag.pl - neon_sync_safekeepers(), and a safekeeper that needs WAL which the compute no longer has.
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
my $compute = $cluster->prepare_compute('compute', sql => 'CREATE TABLE t (i int, filler text)',
	conf => "wal_keep_size = 0\nmin_wal_size = '32MB'\nmax_wal_size = '64MB'");

# A server that is not a compute: the module is loaded by the function only.
my $controller = PostgreSQL::Test::Cluster->new('controller');
$controller->init;
$controller->start;
$controller->safe_psql('postgres', q{
CREATE FUNCTION sync_safekeepers(tenant text, timeline text, safekeepers text, start_lsn pg_lsn, system_id text,
	wal_seg_size int, timeout_ms int, OUT lsn pg_lsn, OUT prev_lsn pg_lsn)
AS '$libdir/neon_walproposer', 'neon_sync_safekeepers' LANGUAGE C STRICT});

sub sync_sql
{
	my ($timeout_ms) = @_;
	my $list = $cluster->list;
	$list =~ s/'/''/g;
	return "SELECT lsn, prev_lsn FROM sync_safekeepers('$WalCluster::TENANT', '$WalCluster::TIMELINE', '$list', "
	  . "'$cluster->{start_lsn}', '$cluster->{system_id}', 16777216, $timeout_ms)";
}

is($controller->safe_psql('postgres', sync_sql(60000)), "$cluster->{start_lsn}|0/0", 'an empty log ends where the timeline starts, and has no record');

# ---- a laggard ----
$compute->start;
$compute->safe_psql('postgres', "INSERT INTO t VALUES (0, 'first')");
$cluster->safekeeper(3)->stop('fast');
for my $i (1 .. 8)
{
	$compute->safe_psql('postgres', "INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 10000) g; SELECT pg_switch_wal()");
	$compute->safe_psql('postgres', 'CHECKPOINT');
}
is($compute->safe_psql('postgres', "SELECT min(name) > pg_walfile_name('$cluster->{start_lsn}') FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}\$'"), 't',
	'the compute has recycled WAL that the third safekeeper lacks');
$cluster->safekeeper(3)->start;
my $lsn = $compute->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
ok($cluster->wait_for_flush(3, $lsn), 'the third safekeeper gets it from another one');
is($compute->safe_psql('postgres', "INSERT INTO t VALUES (-1, 'last') RETURNING i"), -1, 'the compute goes on');

# ---- WAL that no quorum has is kept ----
$cluster->safekeeper($_)->stop('fast') for 1, 3;
my $commit = $compute->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
for my $i (1 .. 6)
{
	$compute->safe_psql('postgres', "SET synchronous_commit = off; INSERT INTO t SELECT g, repeat('y', 500) FROM generate_series(1, 10000) g; SELECT pg_switch_wal()");
	$compute->safe_psql('postgres', 'CHECKPOINT');
}
is($compute->safe_psql('postgres', "SELECT count(*) FROM pg_ls_waldir() WHERE name = pg_walfile_name('$commit')"), 1,
	'checkpoints leave the WAL alone that the quorum does not have');
$cluster->safekeeper($_)->start for 1, 3;
is($compute->safe_psql('postgres', "INSERT INTO t VALUES (-2, 'last') RETURNING i"), -2, 'and it goes to the safekeepers when they return');
$lsn = $compute->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
ok($cluster->wait_for_flush($_, $lsn), "safekeeper $_ has all") for 1 .. 3;

# ---- the end of the log ----
$compute->stop('fast');
my $end = WalCluster::end_of_wal($compute->data_dir);
my $checkpoint = WalCluster::control_value($compute->data_dir, 'Latest checkpoint location');
is($controller->safe_psql('postgres', sync_sql(60000)), "$end|$checkpoint", 'the election finds the end of the log and its last record');
is($controller->safe_psql('postgres', sync_sql(60000)), "$end|$checkpoint", '... again');
$cluster->safekeeper(2)->stop('fast');
is($controller->safe_psql('postgres', sync_sql(60000)), "$end|$checkpoint", '... with one away');

# without a quorum it ends in time, and can be cancelled
$cluster->safekeeper(3)->stop('fast');
my ($rc, $out, $err) = $controller->psql('postgres', sync_sql(2000));
like($err, qr/no quorum of safekeepers within 2000 ms/, 'without a quorum it gives up');
like($err, qr/safekeeper 1: connected; safekeeper 2: /, '... and says who is away');
($rc, $out, $err) = $controller->psql('postgres', 'SET statement_timeout = 500;' . sync_sql(600000));
like($err, qr/statement timeout/, 'it can be cancelled');
is($controller->safe_psql('postgres', 'SELECT 1'), 1, 'the server goes on');
($rc, $out, $err) = $controller->psql('postgres', "SELECT sync_safekeepers('x', '$WalCluster::TIMELINE', '', '0/0', '', 16777216, 1000)");
like($err, qr/invalid tenant id "x"/, 'ids are checked');
($rc, $out, $err) = $controller->psql('postgres', "SELECT sync_safekeepers('$WalCluster::TENANT', '$WalCluster::TIMELINE', '1=a;1=b', '0/0', '', 16777216, 1000)");
like($err, qr/each id is a different number/, 'the list is checked');

$cluster->safekeeper(1)->stop('fast');
$controller->stop('fast');
done_testing();
