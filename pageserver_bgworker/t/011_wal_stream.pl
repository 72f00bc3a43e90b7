# WAL streams: a stock primary and its standby stand in for safekeepers, since both speak the replication protocol.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $tenant = 'a' x 32;
my $timeline = 'd' x 32;
my $here = dirname(__FILE__);

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1, extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
$primary->append_conf('postgresql.conf', <<'CONF');
max_prepared_transactions = 10
wal_keep_size = 4GB
max_wal_size = 4GB
checkpoint_timeout = 1h
autovacuum = off
wal_level = logical
CONF
$primary->start;
$primary->stop;
my $before = abs_path($primary->basedir) . '/backup/before';
mkdir dirname($before);
PostgreSQL::Test::RecursiveCopy::copypath($primary->data_dir, $before);
$primary->start;
$primary->backup('standby');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'standby', has_streaming => 1);
$standby->start;

my $ps = PostgreSQL::Test::Cluster->new('pageserver');
$ps->init;
$ps->append_conf('postgresql.conf', "shared_preload_libraries = 'neon_pageserver'\nfsync = on\n");
$ps->start;
$ps->safe_psql('postgres', 'CREATE EXTENSION neon_pageserver');
$ps->safe_psql('postgres', "SELECT neon_pageserver.create_tenant('$tenant', 'secret')");
$ps->safe_psql('postgres', "SELECT neon_pageserver.import_datadir('$tenant', '$timeline', '$before')");

sub sql { return $ps->safe_psql('postgres', $_[0]); }

sub set_safekeepers
{
	my $list = join(', ', map { "'" . $_ . "'" } map { s/'/''/gr } @_);
	sql("SELECT neon_pageserver.set_safekeepers('$tenant', '$timeline', ARRAY[$list])");
}

sub caught_up
{
	my ($what) = @_;
	my $lsn = $primary->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	my $of = "'$tenant', '$timeline'";
	ok( $ps->poll_query_until('postgres',
			"SELECT neon_pageserver.last_record_lsn($of) >= '$lsn'::pg_lsn - 8192 "),
		$what);
	return $lsn;
}

# ---- noticed without a restart, and followed
set_safekeepers($primary->connstr, $standby->connstr);
for my $file ('redo_workload.sql', 'ingest_workload.sql', 'ingest_workload_db.sql')
{
	$primary->command_ok(
		[
			'psql', '-XqAt', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1',
			'-v', 'copy_file=' . abs_path(PostgreSQL::Test::Utils::tempdir()) . '/copy.dat',
			'-d', $primary->connstr('postgres'), '-f', "$here/$file"
		],
		"primary runs $file");
}
caught_up('the stream follows');
is(sql('SELECT state FROM neon_pageserver.ingest'), 'streaming', 'state is shown');

# ---- an operator who takes the source away: the other one is used
my $source = sql('SELECT safekeeper FROM neon_pageserver.ingest');
$primary->wait_for_catchup($standby);
set_safekeepers($standby->connstr);
$primary->safe_psql('postgres', 'CREATE TABLE via_standby AS SELECT generate_series(1, 1000) g; SELECT pg_switch_wal()');
caught_up('streams from the standby alone');
like(sql('SELECT safekeeper FROM neon_pageserver.ingest'), qr/@{[$standby->port]}/, 'source is shown');

# ---- the source dies: the next one
set_safekeepers($standby->connstr, $primary->connstr);
$standby->stop('immediate');
$primary->safe_psql('postgres', 'CREATE TABLE via_primary AS SELECT generate_series(1, 1000) g');
caught_up('changes over when a safekeeper dies');
like(sql('SELECT safekeeper FROM neon_pageserver.ingest'), qr/@{[$primary->port]}/, 'new source is shown');

# ---- a source that lags is left for one that is ahead
$standby->append_conf('postgresql.conf', "primary_conninfo = ''\n");
$standby->start;
set_safekeepers($standby->connstr);
ok($ps->poll_query_until('postgres', "SELECT message LIKE 'safekeeper is behind%' FROM neon_pageserver.ingest"),
	'a safekeeper that is behind is said to be');
set_safekeepers($standby->connstr, $primary->connstr);
$primary->safe_psql('postgres', 'CREATE TABLE ahead AS SELECT generate_series(1, 1000) g');
caught_up('goes to the one that is ahead');

# ---- crash of the pageserver: exactly once, and every page is right
$primary->command_ok([ 'pgbench', '-i', '-q', '-s', '1', $primary->connstr('postgres') ], 'pgbench -i');
sql('SELECT neon_pageserver.checkpoint()');
$primary->command_ok([ 'pgbench', '-n', '-c', '2', '-t', '200', $primary->connstr('postgres') ], 'pgbench');
$ps->stop('immediate');
$ps->start;
caught_up('catches up after a crash');
my $logged_db = $primary->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'logged'});
$primary->safe_psql('postgres', 'CHECKPOINT');

# A stopping primary waits until its receivers have flushed everything; ours says so when its layers are files.
system('pg_ctl', '-D', $primary->data_dir, '-m', 'fast', '-W', 'stop');
my $tries = 300;
while (-e $primary->data_dir . '/postmaster.pid' && $tries-- > 0)
{
	sql('SELECT neon_pageserver.checkpoint()');
	usleep(100_000);
}
ok(!-e $primary->data_dir . '/postmaster.pid', 'primary has stopped');
$primary->_update_pid(0);
my ($control) = run_command([ 'pg_controldata', $primary->data_dir ]);
my ($checkpoint) = $control =~ /^Latest checkpoint location:\s*(\S+)/m;
ok($ps->poll_query_until('postgres',
		"SELECT neon_pageserver.last_record_lsn('$tenant', '$timeline') > '$checkpoint'"),
	'has the shutdown checkpoint of the primary');
my $pgdata = abs_path($primary->data_dir);
is( sql("SELECT * FROM neon_pageserver.compare_directory('$tenant', '$timeline', '$pgdata', "
		  . "neon_pageserver.last_record_lsn('$tenant', '$timeline')) "
		  . "WHERE NOT (path LIKE 'base/$logged_db/%_vm' AND problem LIKE 'visibility map lacks%') LIMIT 50"),
	'', 'all pages are right');

# ---- a dropped timeline is let go
sql("SELECT neon_pageserver.drop_timeline('$tenant', '$timeline')");
ok($ps->poll_query_until('postgres', 'SELECT count(*) = 0 FROM neon_pageserver.ingest'), 'dropped timeline is gone');

$standby->stop('immediate');
done_testing();
