# Poison WAL: three failures at one record quarantine the timeline, and the others go on.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tenant = 'a' x 32;
my ($sick, $well) = ('d' x 32, 'e' x 32);
my $here = dirname(__FILE__);

# A module that writes the record; no compiler, no test.
my $tmp = abs_path(PostgreSQL::Test::Utils::tempdir());
chomp(my $include = `pg_config --includedir-server`);
plan skip_all => 'no C compiler'
  if system("gcc -std=gnu11 -shared -fPIC -I$include -o $tmp/poison.so $here/poison.c") != 0;

sub primary
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(allows_streaming => 1);
	$node->append_conf('postgresql.conf', 'wal_keep_size = 1GB');	# as safekeepers keep what nobody has on disk
	$node->start;
	$node->stop;
	my $before = abs_path($node->basedir) . '/backup/before';
	mkdir dirname($before);
	PostgreSQL::Test::RecursiveCopy::copypath($node->data_dir, $before);
	$node->start;
	return ($node, $before);
}
my ($primary1, $before1) = primary('primary1');
my ($primary2, $before2) = primary('primary2');

my $ps = PostgreSQL::Test::Cluster->new('pageserver');
$ps->init;
$ps->append_conf('postgresql.conf', "shared_preload_libraries = 'neon_pageserver'\nfsync = on\n");
$ps->start;
sub sql { return $ps->safe_psql('postgres', $_[0]); }
sql('CREATE EXTENSION neon_pageserver');
sql("SELECT neon_pageserver.create_tenant('$tenant', 'secret')");
for ([ $sick, $before1, $primary1 ], [ $well, $before2, $primary2 ])
{
	my ($timeline, $before, $primary) = @$_;
	my $connstr = $primary->connstr =~ s/'/''/gr;
	sql("SELECT neon_pageserver.import_datadir('$tenant', '$timeline', '$before')");
	sql("SELECT neon_pageserver.set_safekeepers('$tenant', '$timeline', ARRAY['$connstr'])");
}

sub follows
{
	my ($timeline, $primary, $what) = @_;
	my $lsn = $primary->safe_psql('postgres',
		q{SELECT pg_logical_emit_message(false, 'other', 'x'); SELECT pg_switch_wal()});
	my ($message) = split /\n/, $lsn;
	ok( $ps->poll_query_until('postgres',
			"SELECT neon_pageserver.last_record_lsn('$tenant', '$timeline') >= '$message'"), $what);
}
follows($sick, $primary1, 'first timeline follows');
follows($well, $primary2, 'second timeline follows');

$primary1->safe_psql('postgres', "CREATE FUNCTION write_poison() RETURNS pg_lsn LANGUAGE c AS '$tmp/poison'");
my $poison_end = $primary1->safe_psql('postgres', 'SELECT write_poison()');
ok($ps->poll_query_until('postgres',
		"SELECT state = 'quarantined' FROM neon_pageserver.ingest WHERE timeline = '$sick'"),
	'timeline with poison is quarantined');
is(sql("SELECT attempts FROM neon_pageserver.ingest WHERE timeline = '$sick'"), 3, 'after three attempts');
is(sql("SELECT attempts_lsn < '$poison_end' AND last_record_lsn <= attempts_lsn FROM neon_pageserver.ingest WHERE timeline = '$sick'"),
	't', 'at the record');
like(sql("SELECT message FROM neon_pageserver.ingest WHERE timeline = '$sick'"),
	qr/cannot be ingested/, 'with the reason');
follows($well, $primary2, 'the other timeline goes on');

$ps->restart;
is(sql("SELECT state FROM neon_pageserver.ingest WHERE timeline = '$sick'"), 'quarantined', 'also after a restart');
follows($well, $primary2, 'the other timeline goes on after a restart');

sql("SELECT neon_pageserver.resume_ingest('$tenant', '$sick')");
ok($ps->poll_query_until('postgres',
		"SELECT state = 'quarantined' AND attempts = 3 FROM neon_pageserver.ingest WHERE timeline = '$sick'"),
	'resumed, it fails three times again');

# Crashes count like errors: what a process leaves that dies within a record is the record's LSN in the status file.
my $file = $ps->data_dir . "/neon_pageserver/$tenant/$well/.ingest";
my ($lsn, $attempts);
for my $crash (1 .. 3)
{
	$ps->stop('immediate');
	open(my $f, '+<:raw', $file) or die "$file: $!";
	seek($f, 8, 0);
	print $f pack('Q<', 0x1234560);
	close($f);
	$ps->start;
	ok( $ps->poll_query_until('postgres',
			"SELECT attempts = $crash AND attempts_lsn = '0/1234560' AND state <> 'stopped' FROM neon_pageserver.ingest WHERE timeline = '$well'"),
		"crash $crash within a record is counted");
}
is(sql("SELECT state FROM neon_pageserver.ingest WHERE timeline = '$well'"), 'quarantined', 'three crashes quarantine');
sql("SELECT neon_pageserver.resume_ingest('$tenant', '$well')");
follows($well, $primary2, 'and it goes on when it is told to');

# Whoever looks at a stream that does not go on is told what the other side said.
$ps->stop;
$primary2->adjust_conf('postgresql.conf', 'wal_keep_size', '0');
$primary2->append_conf('postgresql.conf', "min_wal_size = 32MB\n");
$primary2->reload;
$primary2->safe_psql('postgres', q{SELECT pg_logical_emit_message(false, 'other', 'x'); SELECT pg_switch_wal()}) for 1 .. 4;
$primary2->safe_psql('postgres', 'CHECKPOINT');
$ps->start;
ok( $ps->poll_query_until('postgres',
		"SELECT message ~ 'has already been removed' FROM neon_pageserver.ingest WHERE timeline = '$well'"),
	'WAL that the source does not have any more is named');

# The poison cannot be replayed either: no shutdown checkpoint for this one.
$primary1->stop('immediate');
$primary2->stop('immediate');
done_testing();
