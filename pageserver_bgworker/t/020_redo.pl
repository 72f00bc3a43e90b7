# Redo: native, by the process, and as the server did it, for every kind of record; and how the redo process lives and dies.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

# ---- a stock server writes the log that is checked, with an image of every page after every record
my $source = PostgreSQL::Test::Cluster->new('source');
$source->init;
$source->append_conf('postgresql.conf', q{
fsync = off
autovacuum = off
wal_consistency_checking = 'all'
max_prepared_transactions = 4
max_wal_size = 8GB
wal_keep_size = 8GB
checkpoint_timeout = 1h
});
$source->start;
$source->safe_psql('postgres', 'CHECKPOINT');
my $logs = PostgreSQL::Test::Utils::tempdir;
PostgreSQL::Test::Utils::system_or_bail('cp', '-r', $source->data_dir . '/pg_xact', $source->data_dir . '/pg_multixact', $logs);
my $from = $source->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
$source->run_log([ 'psql', '-X', '-q', '-o', '/dev/null', '-d', $source->connstr('postgres'), '-v', 'ON_ERROR_STOP=1',
	'-v', "copy_file=$logs/copy.dat", '-f', "$FindBin::RealBin/redo_workload.sql" ]) or BAIL_OUT('workload failed');
my $to = $source->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
$source->stop;

my $ps = PostgreSQL::Test::Cluster->new('pageserver');
$ps->init;
$ps->append_conf('postgresql.conf', "shared_preload_libraries = 'neon_pageserver'\nfsync = on\nrestart_after_crash = on\n");
$ps->start;
$ps->safe_psql('postgres', 'CREATE EXTENSION neon_pageserver');

# a prefix of the log, for tests that only need some work to be done
my $wal = $source->data_dir . '/pg_wal';
my $check = "neon_pageserver.check_wal_directory('$wal', '$from', '$to', '$logs', '" . $source->data_dir . "')";

# ---- pages
my %rows = map { my @f = split /\|/; $f[0] => \@f } split /\n/, $ps->safe_psql('postgres', "SELECT * FROM $check");
is($rows{$_}[5], 0, "$_: no page differs") or diag($rows{$_}[6]) for sort keys %rows;
for my $name (qw(Heap Heap2 Btree Sequence))
{
	cmp_ok($rows{$name}[2], '>', 0, "$name: applied natively");
	cmp_ok($rows{$name}[3], '>', 0, "$name: applied by the process too");
	cmp_ok($rows{$name}[4], '>', 0, "$name: compared");
}
for my $name (qw(Hash Gin Gist SPGist BRIN Generic))
{
	cmp_ok($rows{$name}[3], '>', 0, "$name: applied by the process");
	cmp_ok($rows{$name}[4], '>', 0, "$name: compared");
}
cmp_ok($rows{Transaction}[4], '>', 1, 'pages of the commit log compared');
cmp_ok($rows{MultiXact}[4], '>', 2, 'pages of multixacts compared');
is($ps->safe_psql('postgres', "SET neon_pageserver.redo_method = process; SELECT sum(mismatches) FROM $check"),
	'0', 'no page differs when the process does all it can');

# ---- a log that ends too early is an error, not a success
my ($rc, $out, $err) = $ps->psql('postgres', "SELECT * FROM neon_pageserver.check_wal_directory('$wal', '$from', 'F/0')");
isnt($rc, 0, 'the end of the log is checked');
like($err, qr/WAL in .* ends at/, 'the error says where it ends');

# ---- the process
sub children
{
	my ($pid) = @_;
	open my $f, '<', "/proc/$pid/task/$pid/children" or return ();
	return split ' ', (<$f> // '');
}

sub wait_until_gone
{
	my ($pid) = @_;
	for (1 .. 1000)
	{
		return 1 unless kill 0, $pid;
		usleep(10_000);
	}
	return 0;
}

# some records that need the process
my $some = "SELECT 'mismatches ' || sum(mismatches) FROM neon_pageserver.check_wal_directory('$wal', '$from', '$from'::pg_lsn + 3000000)";
my $session = $ps->background_psql('postgres', on_error_stop => 0);
my $backend = $session->query('SELECT pg_backend_pid()');
is_deeply([ children($backend) ], [], 'no redo process before it is needed');
is($session->query($some), 'mismatches 0', 'a session used redo');
my @children = children($backend);
is(scalar @children, 1, 'it has one redo process');
my $child = $children[0];
is((split ' ', slurp_file("/proc/$child/stat"))[5], $child, 'in a session of its own: signals to the backend do not reach it');
like(slurp_file("/proc/$child/status"), qr/^Seccomp:\s+2$/m, 'the process is in a sandbox');
opendir my $leftovers, $ps->data_dir . '/neon_pageserver/redo';
is_deeply([ grep { !/^\./ } readdir $leftovers ], [], 'its directory is gone');
is($session->query($some), 'mismatches 0', 'again');
is_deeply([ children($backend) ], \@children, 'the process is used again');

kill 'KILL', $child;
is($session->query($some), 'mismatches 0', 'a process that was killed while idle is replaced');
isnt((children($backend))[0], $child, 'by another one');

# a process that does not answer
$child = (children($backend))[0];
kill 'STOP', $child;
like($session->query("SET neon_pageserver.redo_timeout = '200ms'; $some") . $session->{stderr},
	qr/redo process did not answer within 200 ms/, 'redo_timeout');
$session->{stderr} = '';
ok(wait_until_gone($child), 'a process that did not answer is killed');
is($session->query("RESET neon_pageserver.redo_timeout; $some"), 'mismatches 0', 'and replaced');
$child = (children($backend))[0];
kill 'STOP', $child;
like($session->query("SET statement_timeout = '300ms'; $some") . $session->{stderr},
	qr/canceling statement due to statement timeout/, 'a cancel is honoured while waiting');
$session->{stderr} = '';
is($session->query("RESET statement_timeout; $some"), 'mismatches 0', 'after a cancel a new process is used');
ok(wait_until_gone($child), 'the old one is gone');

# ends of the backend
$child = (children($backend))[0];
$session->quit;
ok(wait_until_gone($child), 'the process ends with its session');
$session = $ps->background_psql('postgres', on_error_stop => 0);
$backend = $session->query('SELECT pg_backend_pid()');
$session->query($some);
$child = (children($backend))[0];
ok($child, 'another session, another process');
kill 'KILL', $backend;
ok(wait_until_gone($child), 'the process dies when its backend is killed');
eval { $session->quit };
$ps->poll_query_until('postgres', 'SELECT true') or diag('server did not come back');
is($ps->safe_psql('postgres', $some), 'mismatches 0', 'the server works on');

# ---- the library refuses ordinary servers
$ps->stop;
$ps->append_conf('postgresql.conf', "shared_preload_libraries = 'neon_redo'\n");
is($ps->start(fail_ok => 1), 0, 'a server with neon_redo preloaded does not start');
like(slurp_file($ps->logfile), qr/neon_redo is loaded only by the redo processes/, 'and says why');

done_testing();
