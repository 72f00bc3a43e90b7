# Transaction ids, multixact ids and member offsets that wrap around, and truncation of their logs across the wrap.
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
my $user = getpwuid($<);

# ---- a cluster a few hundred transactions before the wrap
my $stock = PostgreSQL::Test::Cluster->new('stock');
$stock->init(allows_streaming => 1);
$stock->append_conf('postgresql.conf', "autovacuum = off\nwal_keep_size = 1GB\n");
my $pgdata = abs_path($stock->data_dir);

sub freeze
{
	$stock->command_ok([ 'vacuumdb', '-a', '-F', '-q', '--maintenance-db=postgres' ], 'freeze');
}
$stock->start;
$stock->safe_psql('postgres', 'UPDATE pg_database SET datallowconn = true');
freeze();
$stock->stop;
command_ok(
	[
		'pg_resetwal', '-x', '4294967000', '-u', '4294900000', '-m', '4294967000,4294960000', '-O', '4294967200',
		$pgdata
	],
	'counters are moved');
sub zeros
{
	my ($name, $pages) = @_;
	open(my $f, '>:raw', "$pgdata/$name") or die "$name: $!";
	print $f "\0" x (8192 * $pages);
	close($f);
}
zeros('pg_xact/0FFF', 32);
zeros('pg_multixact/offsets/FFFF', 32);
zeros('pg_multixact/members/14078', 21);
$stock->start;
freeze();
$stock->safe_psql('postgres', 'CREATE TABLE locked (id int PRIMARY KEY, v int); INSERT INTO locked SELECT g, 0 FROM generate_series(1, 500) g');
$stock->stop;
my $before = abs_path($stock->basedir) . '/backup/before';
mkdir dirname($before);
PostgreSQL::Test::RecursiveCopy::copypath($pgdata, $before);

# ---- over it
my $script = PostgreSQL::Test::Utils::tempdir() . '/lock.sql';
append_to_file($script, <<'SQL');
BEGIN;
SELECT id FROM locked WHERE id < 20 FOR SHARE;
SAVEPOINT s;
SELECT id FROM locked WHERE id BETWEEN 20 AND 40 FOR KEY SHARE;
UPDATE locked SET v = v + 1 WHERE id = 100 + :client_id;
COMMIT;
SQL
$stock->start;
$stock->command_ok([ 'pgbench', '-n', '-c', '4', '-t', '500', '-f', $script, $stock->connstr('postgres') ],
	'multixacts over the wrap');
my $mid_lsn = $stock->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
freeze();
freeze();
$stock->safe_psql('postgres', 'CHECKPOINT');
$stock->safe_psql('postgres', 'INSERT INTO locked SELECT g, 0 FROM generate_series(501, 600) g');
$stock->stop;
ok(!-e "$pgdata/pg_xact/0FFF", 'commit status was truncated across the wrap');
ok(!-e "$pgdata/pg_multixact/offsets/FFFF", 'multixact offsets were truncated');
ok(!-e "$pgdata/pg_multixact/members/14078", 'multixact members were truncated');

# ---- the pageserver
my $ps = PostgreSQL::Test::Cluster->new('pageserver');
$ps->init;
$ps->append_conf('postgresql.conf', "shared_preload_libraries = 'neon_pageserver'\nfsync = on\n");
$ps->start;
sub sql { return $ps->safe_psql('postgres', $_[0]); }
sql('CREATE EXTENSION neon_pageserver');
sql("SELECT neon_pageserver.create_tenant('$tenant', 'secret')");
sql("SELECT neon_pageserver.import_datadir('$tenant', '$timeline', '$before')");
my $end_lsn = sql("SELECT neon_pageserver.ingest_wal_directory('$tenant', '$timeline', '$pgdata/pg_wal')");
is(sql("SELECT * FROM neon_pageserver.compare_directory('$tenant', '$timeline', '$pgdata', '$end_lsn') LIMIT 50"),
	'', 'all pages are right');

sub control
{
	my ($dir) = @_;
	my ($out) = run_command([ 'pg_controldata', $dir ]);
	my %c = map { /^([^:]+):\s*(.*)$/ ? ($1 => $2) : () } split(/\n/, $out);
	return \%c;
}

sub backup
{
	my ($lsn, $name) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir() . "/$name";
	is(BaseBackup::take($ps, $user, $tenant, $timeline, $lsn, '0/0', "$dir.tar"), undef, "base backup: $name");
	mkdir $dir;
	system_or_bail('tar', '-xf', "$dir.tar", '-C', $dir);
	return $dir;
}

sub segments
{
	my ($dir) = @_;
	return join(' ', map { substr($_, length($dir) + 1) } sort glob("$dir/pg_xact/*"), glob("$dir/pg_multixact/*/*"));
}
my $base = backup($end_lsn, 'end');
is(segments($base), segments($pgdata), 'same SLRU segments');
for my $segment (split ' ', segments($pgdata))
{
	ok(slurp_file("$base/$segment") eq slurp_file("$pgdata/$segment"), "same content: $segment");
}
my ($ours, $theirs) = (control($base), control($pgdata));
like($ours->{"Latest checkpoint's NextXID"}, qr/^1:/, 'epoch is 1');
for my $field ("Latest checkpoint's NextXID", "Latest checkpoint's NextMultiXactId",
	"Latest checkpoint's NextMultiOffset", "Latest checkpoint's oldestXID", "Latest checkpoint's oldestMultiXid")
{
	is($ours->{$field}, $theirs->{$field}, "control file: $field");
}

# Before the truncation the old segments are there.
like(segments(backup($mid_lsn, 'middle')), qr{members/14078.*offsets/FFFF.*pg_xact/0FFF}, 'segments of the past');

done_testing();
