# The page stream against a real pageserver, without safekeepers: what the compute writes never arrives there, so a read of a
# changed page waits, which shows that it does not take an old one; waits can be cancelled; errors say what is wrong.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SmgrTest;
use File::Spec;
use Test::More;

my ($tenant, $timeline) = ('a' x 32, 'b' x 32);

my $pageserver = PostgreSQL::Test::Cluster->new('pageserver');
$pageserver->init;
my $computes = File::Spec->rel2abs($pageserver->basedir . '/computes');
mkdir $computes, 0700 or die $!;
$pageserver->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'neon_pageserver'
fsync = on
neon_pageserver.wait_lsn_timeout = 60s
neon_compute_tools.base_directory = '$computes'
});
$pageserver->start;
$pageserver->safe_psql('postgres', 'CREATE EXTENSION neon_pageserver; CREATE EXTENSION neon_compute_tools');
$pageserver->safe_psql('postgres', "SELECT neon_pageserver.create_tenant('$tenant', 'secret')");
my $start = $pageserver->safe_psql('postgres', "SELECT start_lsn FROM neon_pageserver.create_timeline('$tenant', '$timeline', '{}')");
my $connstr = 'host=' . $pageserver->host . ' port=' . $pageserver->port . ' dbname=postgres';

# Only the port, the socket's directory and the log's name are used of this node: its data directory comes from a base backup.
my $compute = PostgreSQL::Test::Cluster->new('compute');
sub make_compute
{
	my ($name, $extra) = @_;
	my $port = $compute->port;
	my $host = $compute->host;
	my $conf = qq{
port = $port
listen_addresses = ''
unix_socket_directories = '$host'
shared_preload_libraries = 'neon_smgr'
fsync = off
restart_after_crash = off
wal_level = replica
autovacuum = off
shared_buffers = 64MB
max_connections = 20
neon.file_cache_size_limit = 0
neon.tenant_id = '$tenant'
neon.timeline_id = '$timeline'
neon.pageserver_connstring = '$connstr'
neon.pageserver_timeout = 3s
$extra
};
	my $lsn_args = "'$start', '0/0'";
	$pageserver->safe_psql('postgres', "SELECT neon_compute_tools.create_data_directory('$name', '$connstr', '$tenant', '$timeline', " .
		"$lsn_args, \$conf\$$conf\$conf\$, \$hba\$local all all trust\n\$hba\$)");
	return "$computes/$name";
}
sub start_compute { return run_log([ 'pg_ctl', '-w', '-D', $_[0], '-l', File::Spec->rel2abs($compute->logfile), 'start' ]); }
sub stop_compute { return run_log([ 'pg_ctl', '-w', '-D', $_[0], '-m', 'fast', 'stop' ]); }
# the role of the cluster that the pageserver made
sub sql
{
	my ($stdout, $stderr) = ('', '');
	my $rc = IPC::Run::run([ 'psql', '-X', '-A', '-t', '-q', '-U', 'postgres', '-h', $compute->host, '-p', $compute->port, '-d', 'postgres' ],
		'<', \$_[0], '>', \$stdout, '2>', \$stderr);
	chomp($stdout);
	return wantarray ? ($stdout, $stderr) : $stdout;
}

my $dir = make_compute('first', '');
ok(start_compute($dir), 'a compute starts from a base backup');
is(sql('SELECT count(*) > 300 FROM pg_class'), 't', 'catalogs are read from the pageserver');
sql('CREATE EXTENSION neon');
is(sql("SELECT page_source FROM neon_compute"), 'pageserver', 'pages come from the page stream');
is(sql("SELECT start_lsn = '$start' FROM neon_compute"), 't', 'its start is the LSN of the base backup');
is(sql("SELECT pg_database_size('template1') > 5000000"), 't', 'the pageserver knows the size of a database');

# ---- a page that the pageserver cannot have yet
sql('CREATE TABLE t AS SELECT generate_series(1, 1000) AS a');
my ($out, $err) = sql("SET statement_timeout = '1s'; SELECT neon_test_evict('t'); SELECT count(*) FROM t");
like($err, qr/canceling statement due to statement timeout/, 'a read of a changed page waits, and the wait can be cancelled');
($out, $err) = sql("SELECT count(*) FROM t");
like($err, qr/the pageserver did not answer within 3000 ms/, 'the wait has a limit');
is(sql("SELECT count(*) > 0 FROM pg_proc"), 't', 'unchanged pages are still read');
my $script = "SET statement_timeout = '500ms';\nSELECT count(*) FROM t;\nRESET statement_timeout;\nSELECT count(*) > 0 FROM pg_description;\n";
($out, $err) = sql($script);
is($out, 't', 'the same session goes on after a cancelled read');

# ---- errors that say what is wrong
my $unreachable = "host=" . $compute->host . " port=1 dbname=postgres";
stop_compute($dir);
$dir = make_compute('unreachable', "neon.pageserver_connstring = '$unreachable'");
start_compute($dir);
($out, $err) = sql('SELECT 1');
like($err, qr/could not connect to the pageserver/, 'an unreachable pageserver is named');
like($err, qr/Check that it runs/, 'with a hint');
append_to_file("$dir/postgresql.conf", "neon.pageserver_connstring = '$connstr'\n");
run_log([ 'pg_ctl', '-D', $dir, 'reload' ]);
my $tries = 0;
until (sql('SELECT 1') eq '1' || ++$tries == 10) { }	# each try that fails takes seconds
is(sql('SELECT 1'), '1', 'after a reload with the right connection string it works');
stop_compute($dir);

$dir = make_compute('timeline', "neon.timeline_id = '" . 'c' x 32 . "'");
start_compute($dir);
($out, $err) = sql('SELECT 1');
like($err, qr/timeline/i, 'a timeline the pageserver does not have');
unlike($err, qr/lost the connection/, 'is not taken for a network problem');
stop_compute($dir);

$dir = make_compute('tenant', "neon.tenant_id = '" . 'd' x 32 . "'");
start_compute($dir);
($out, $err) = sql('SELECT 1');
like($err, qr/FATAL/, 'a wrong tenant is refused');
unlike($err, qr/lost the connection/, 'and is not taken for a network problem');
stop_compute($dir);

# ---- a CREATE DATABASE that waits for the pageserver is terminated: its OID and file names are free again
$dir = make_compute('databases', 'neon.pageserver_timeout = 120s');
start_compute($dir);
sql("CREATE DATABASE template OID 70000;\n\\c template\nCREATE EXTENSION neon; CREATE TABLE t AS SELECT generate_series(1, 1000) AS a; " .
	"SELECT neon_test_evict('t')");
my $waits = q{FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE copy%' AND wait_event = 'Extension' AND state_change < clock_timestamp() - interval '1 s'};
for my $time ('the first time', 'the second time')
{
	my ($create_out, $create_err);
	my $create = IPC::Run::start([ 'psql', '-X', '-U', 'postgres', '-h', $compute->host, '-p', $compute->port, '-d', 'postgres',
		'-c', 'CREATE DATABASE copy OID 70001 TEMPLATE template' ], '<', '/dev/null', '>', \$create_out, '2>', \$create_err);
	for (1 .. 600) { last if sql("SELECT count(*) $waits") eq '1' || !$create->pumpable; select(undef, undef, undef, 0.1) }
	sql("SELECT pg_terminate_backend(pid, 60000) $waits");
	$create->finish;
	like($create_err, qr/terminating connection due to administrator command/, "a CREATE DATABASE is terminated in the middle $time");
}
($out, $err) = sql("CREATE DATABASE copy OID 70001 TEMPLATE template0;\n\\c copy\nSELECT count(*) > 300 FROM pg_class");
is("$out$err", 't', 'its OID can be used again');

# ---- DROP TABLE of a relation nobody has looked at, with no pageserver: after its commit nothing may fail
stop_compute($dir);
$dir = make_compute('alone', '');
start_compute($dir);
sql('BEGIN; DROP TABLE information_schema.sql_parts; ROLLBACK') for 1 .. 2;	# what it reads is in shared_buffers now, up to its commit
$pageserver->stop;
($out, $err) = sql('DROP TABLE information_schema.sql_parts');
is("$out$err", '', 'DROP TABLE works without the pageserver');
stop_compute($dir);
done_testing();
