# A reader that opens its layer files when compaction has long removed them: time does not matter, it finds the same versions.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use StoreTest;

my $t = tenant();
my $timeline = timeline(1);
my $node = new_pageserver('slow', "neon_pageserver.compaction_threshold = 0\n");

sub sql { return $node->safe_psql('postgres', $_[0]); }

sql("SELECT neon_pageserver.create_timeline('$t', '$timeline', '{}')");
sql(join(';', map { "SELECT store_put('$t', '$timeline', 300, 7); SELECT neon_pageserver.checkpoint()" } 1 .. 6));
my $keys = sql("SELECT store_scan('$t', '$timeline')");
my $first = sql("SELECT file FROM neon_pageserver.layers WHERE timeline = '$timeline' AND level = 0 ORDER BY lsn_lo LIMIT 1");
my $first_path = $node->data_dir . "/neon_pageserver/$t/$timeline/$first";

# Two readers that have looked up their files and open none until they are told to: a scan, and searches for single keys.
my @readers;
for my $read ("store_scan('$t', '$timeline')", "store_check('$t', '$timeline', 50)")
{
	my %r = (go => $node->basedir . '/go' . @readers, out => '', err => '');
	$r{h} = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-q', '-d', $node->connstr('postgres'), '-c', "SELECT store_wait('$r{go}')", '-c', "SELECT $read" ],
		'<', '/dev/null', '>', \$r{out}, '2>', \$r{err});
	push @readers, \%r;
}
for my $r (@readers)
{
	for (1 .. 12000) { last if -e "$r->{go}.waiting"; select(undef, undef, undef, 0.01) }
	ok(-e "$r->{go}.waiting", 'a reader waits before it opens its files');
}

# Compaction meanwhile; it removes what it has replaced.
$node->append_conf('postgresql.conf', "neon_pageserver.compaction_threshold = 4\n");
$node->reload;
ok($node->poll_query_until('postgres',
	"SELECT coalesce(string_agg(f, ','), '') FROM pg_ls_dir('neon_pageserver/$t/$timeline') f WHERE f NOT IN (SELECT file FROM neon_pageserver.layers)
		UNION ALL SELECT 'not yet' FROM neon_pageserver.layers WHERE timeline = '$timeline' AND file = '$first'", ''),
	'compaction has replaced the files and removed them');
ok(!-e $first_path, 'among them the oldest');

for my $r (@readers)
{
	append_to_file($r->{go}, '');
	$r->{h}->finish;
	like($r->{out}, qr/^\n\d+\n$/, 'the reader finds the versions in the files that replaced them') or diag($r->{err});
}
is($readers[0]{out}, "\n$keys\n", 'all of them');
cmp_ok(sql("SELECT store_check('$t', '$timeline', 200)"), '>', 0, 'what others read is the same');

# A file that is missing though the newest map names it is an error, not a search without end.
my $new = sql("SELECT file FROM neon_pageserver.layers WHERE timeline = '$timeline' AND level = 1 LIMIT 1");
rename($node->data_dir . "/neon_pageserver/$t/$timeline/$new", $node->basedir . '/aside') or die $!;
my ($rc, $out, $err) = $node->psql('postgres', "SELECT store_scan('$t', '$timeline')");
like($err, qr/could not open layer file ".*\Q$new\E"/, 'a file that is lost is an error that names it');

$node->stop;
done_testing();
