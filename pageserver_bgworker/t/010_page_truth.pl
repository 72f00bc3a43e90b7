# Page truth: a stock cluster runs a workload, its WAL is ingested, and every page must come out as the cluster has it.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename;
use lib dirname(__FILE__);
use BaseBackup;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tenant = 'a' x 32;
my $timeline = 'd' x 32;
my $here = dirname(__FILE__);
my $user = getpwuid($<);

# ---- a stock cluster, as it was before the workload and after
my $stock = PostgreSQL::Test::Cluster->new('stock');
$stock->init(allows_streaming => 1, extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
$stock->append_conf('postgresql.conf', <<'CONF');
max_prepared_transactions = 10
wal_keep_size = 4GB
max_wal_size = 4GB
checkpoint_timeout = 1h
autovacuum = off
shared_buffers = 16MB
wal_level = logical
CONF
$stock->start;
$stock->stop;
my $before = abs_path($stock->basedir) . '/backup/before';
mkdir dirname($before);
my $pgdata = abs_path($stock->data_dir);
PostgreSQL::Test::RecursiveCopy::copypath($stock->data_dir, $before);

$stock->start;
my $copy_file = abs_path(PostgreSQL::Test::Utils::tempdir()) . '/copy.dat';
for my $file ('redo_workload.sql', 'ingest_workload.sql', 'ingest_workload_db.sql')
{
	$stock->command_ok(
		[
			'psql', '-XqAt', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-v', "copy_file=$copy_file",
			'-d', $stock->connstr('postgres'), '-f', "$here/$file"
		],
		"stock cluster runs $file");
}

# Multixacts need transactions side by side.
$stock->safe_psql('postgres',
	'CREATE TABLE locked (id int PRIMARY KEY, v int); INSERT INTO locked SELECT g, 0 FROM generate_series(1, 500) g');
my $script = PostgreSQL::Test::Utils::tempdir() . '/lock.sql';
PostgreSQL::Test::Utils::append_to_file($script, <<'SQL');
BEGIN;
SELECT id FROM locked WHERE id < 20 FOR SHARE;
SELECT id FROM locked WHERE id BETWEEN 20 AND 40 FOR KEY SHARE;
UPDATE locked SET v = v + 1 WHERE id = 100 + :client_id;
COMMIT;
SQL
$stock->command_ok([ 'pgbench', '-n', '-c', '4', '-t', '300', '-f', $script, $stock->connstr('postgres') ],
	'stock cluster makes multixacts');
$stock->command_ok([ 'pgbench', '-i', '-q', '-s', '1', $stock->connstr('postgres') ], 'pgbench -i');
$stock->command_ok([ 'pgbench', '-n', '-c', '4', '-t', '500', $stock->connstr('postgres') ], 'pgbench');
$stock->safe_psql('postgres', 'VACUUM');
my $mid_time = $stock->safe_psql('postgres', 'SELECT clock_timestamp()');
my $mid_lsn = $stock->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
$stock->safe_psql('postgres', 'CREATE TABLE after_mid (id int); INSERT INTO after_mid SELECT generate_series(1, 100)');
my $after_lsn = $stock->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
my $logged_db = $stock->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'logged'});
$stock->stop;

sub control
{
	my ($dir) = @_;
	my ($out) = run_command([ 'pg_controldata', $dir ]);
	my %c = map { /^([^:]+):\s*(.*)$/ ? ($1 => $2) : () } split(/\n/, $out);
	return \%c;
}

# ---- the pageserver
my $ps = PostgreSQL::Test::Cluster->new('pageserver');
$ps->init;
$ps->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'neon_pageserver'
fsync = on
CONF
$ps->start;
$ps->safe_psql('postgres', 'CREATE EXTENSION neon_pageserver');
$ps->safe_psql('postgres', "SELECT neon_pageserver.create_tenant('$tenant', 'secret')");
my $start_lsn = $ps->safe_psql('postgres',
	"SELECT neon_pageserver.import_datadir('$tenant', '$timeline', '$before')");

sub differences
{
	my ($dir, $lsn, $of) = @_;
	$of //= $timeline;
	# WAL of CREATE DATABASE with WAL_LOG has no visibility bits: its images leave the hole of a page out, and all of
	# the map is one.  Bits that are missing only cost time.
	return $ps->safe_psql('postgres',
			"SELECT * FROM neon_pageserver.compare_directory('$tenant', '$of', '$dir', '$lsn') "
		  . "WHERE NOT (path LIKE 'base/$logged_db/%_vm' AND problem LIKE 'visibility map lacks%') LIMIT 50");
}

is(differences($before, $start_lsn), '', 'imported pages are those of the directory');

my $end_lsn = $ps->safe_psql('postgres',
	"SELECT neon_pageserver.ingest_wal_directory('$tenant', '$timeline', '$pgdata/pg_wal')");
is(differences($pgdata, $end_lsn), '', 'all pages are right after ingest, from the open layer');
is(differences($before, $start_lsn), '', 'pages of the start are still there');

$ps->safe_psql('postgres', 'SELECT neon_pageserver.checkpoint()');
is(differences($pgdata, $end_lsn), '', 'all pages are right from layer files');
$ps->stop('immediate');
$ps->start;
is($ps->safe_psql('postgres', "SELECT neon_pageserver.last_record_lsn('$tenant', '$timeline')"),
	$end_lsn, 'nothing is lost in a crash after a checkpoint');
is(differences($pgdata, $end_lsn), '', 'all pages are right after a crash');

# ---- a timeline that crashes in the middle goes on exactly
my $second = 'e' x 32;
$ps->safe_psql('postgres', "SELECT neon_pageserver.import_datadir('$tenant', '$second', '$before')");
my $half = $ps->safe_psql('postgres',
	"SELECT neon_pageserver.ingest_wal_directory('$tenant', '$second', '" . $pgdata
	  . "/pg_wal', '$start_lsn'::pg_lsn + ('$end_lsn'::pg_lsn - '$start_lsn'::pg_lsn) / 2)");
$ps->safe_psql('postgres', 'SELECT neon_pageserver.checkpoint()');
$ps->safe_psql('postgres',
	"SELECT neon_pageserver.ingest_wal_directory('$tenant', '$second', '" . $pgdata
	  . "/pg_wal', '$start_lsn'::pg_lsn + ('$end_lsn'::pg_lsn - '$start_lsn'::pg_lsn) / 4 * 3)");
$ps->stop('immediate');
$ps->start;
is($ps->safe_psql('postgres', "SELECT neon_pageserver.last_record_lsn('$tenant', '$second')"),
	$half, 'after a crash ingest begins at disk_consistent_lsn');
$ps->safe_psql('postgres',
	"SELECT neon_pageserver.ingest_wal_directory('$tenant', '$second', '" . $pgdata . "/pg_wal')");
is(differences($pgdata, $end_lsn, $second), '', 'all pages are right after a crash in the middle of ingest');

# ---- time to LSN
my $at = $ps->safe_psql('postgres', "SELECT neon_pageserver.lsn_at('$tenant', '$timeline', '$mid_time')");
is($ps->safe_psql('postgres', "SELECT '$at'::pg_lsn >= '$mid_lsn' AND '$at'::pg_lsn < '$after_lsn'"),
	't', "lsn_at is behind the last commit before ($mid_lsn) and in front of the next ($at)");
is($ps->safe_psql('postgres', "SELECT neon_pageserver.lsn_at('$tenant', '$timeline', now())"),
	$end_lsn, 'lsn_at of now gives all there is');

# ---- base backup
my $tmp = PostgreSQL::Test::Utils::tempdir();
my $prev = control($stock->data_dir)->{'Latest checkpoint location'};
is(BaseBackup::take($ps, $user, $tenant, $timeline, $end_lsn, $prev, "$tmp/base.tar"),
	undef, 'base backup is taken');
mkdir "$tmp/base";
is(system('tar', '-xf', "$tmp/base.tar", '-C', "$tmp/base"), 0, 'base backup is a tar archive');
my $theirs = control($stock->data_dir);
my $ours = control("$tmp/base");
is($ours->{'Database cluster state'}, 'shut down', 'control file says shut down');
for my $field (
	'Database system identifier', "Latest checkpoint's NextXID", "Latest checkpoint's NextOID",
	"Latest checkpoint's NextMultiXactId", "Latest checkpoint's NextMultiOffset", "Latest checkpoint's oldestXID",
	"Latest checkpoint's oldestMultiXid", "Latest checkpoint's oldestXID's DB", 'wal_level setting',
	'max_prepared_xacts setting', 'Mock authentication nonce')
{
	is($ours->{$field}, $theirs->{$field}, "control file: $field");
}
my ($segment) = $ours->{"Latest checkpoint's REDO WAL file"};
my ($dump) = run_command([ 'pg_waldump', "$tmp/base/pg_wal/$segment", '-s', $ours->{'Latest checkpoint location'} ]);
like($dump, qr/CHECKPOINT_SHUTDOWN/, 'the segment holds a shutdown checkpoint');
(my $padded = $prev) =~ s{/([0-9A-F]+)$}{sprintf('/%08X', hex($1))}e;
like($dump, qr{prev \Q$padded\E\b}i, 'whose predecessor is the last record');
for my $file (glob($stock->data_dir . '/pg_twophase/*'), glob($stock->data_dir . '/pg_xact/*'),
	glob($stock->data_dir . '/pg_multixact/*/*'))
{
	my $relative = substr($file, length($stock->data_dir) + 1);
	is(slurp_file("$tmp/base/$relative"), slurp_file($file), "base backup: $relative");
}
is(scalar(my @prepared = glob("$tmp/base/pg_twophase/*")), 1, 'one prepared transaction is left');
ok(!-e "$tmp/base/$_", "no message of a session makes a file: $_") for qw(pg_test standby.signal ../escape pg_replslot/x);
is(slurp_file("$tmp/base/postgresql.auto.conf"), '', 'nor changes one');

# Just before the shutdown checkpoint the counters come from ordinary records, and must be right as well.
my $third = 'f' x 32;
my $crash_lsn;
$ps->safe_psql('postgres', "SELECT neon_pageserver.import_datadir('$tenant', '$third', '$before')");
$crash_lsn = $ps->safe_psql('postgres',
	"SELECT neon_pageserver.ingest_wal_directory('$tenant', '$third', '" . $pgdata . "/pg_wal', '$prev')");
is(BaseBackup::take($ps, $user, $tenant, $third, $crash_lsn, '0/0', "$tmp/crash.tar"),
	undef, 'base backup before the shutdown checkpoint');
mkdir "$tmp/crash";
system('tar', '-xf', "$tmp/crash.tar", '-C', "$tmp/crash");
$ours = control("$tmp/crash");
for my $field (
	"Latest checkpoint's NextXID", "Latest checkpoint's NextMultiXactId", "Latest checkpoint's NextMultiOffset",
	"Latest checkpoint's oldestXID", "Latest checkpoint's oldestMultiXid")
{
	is($ours->{$field}, $theirs->{$field}, "before the shutdown checkpoint: $field");
}
my $next_oid = $ours->{"Latest checkpoint's NextOID"};
my $their_oid = $theirs->{"Latest checkpoint's NextOID"};
ok($next_oid >= $their_oid && $next_oid < $their_oid + 8192, "before the shutdown checkpoint: next OID ($next_oid)");

like(BaseBackup::take($ps, $user, $tenant, '0' x 32, $end_lsn, '0/0', "$tmp/none.tar"),
	qr/^42704/, 'no base backup of a timeline that does not exist');

done_testing();
