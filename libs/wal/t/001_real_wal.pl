# Real WAL: every record that pg_waldump sees is seen by the library, with the same start, length, xid, link and blocks; and
# pg_waldump reads what the library fabricates.
#
# SPDX-License-Identifier: Apache-2.0

use strict;
use warnings;

use File::Basename qw(dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $libs = File::Spec->rel2abs(dirname(__FILE__) . '/../..');
my $list = "$libs/build/wal/test/wal_list";
my $make = "$libs/build/wal/test/wal_make";
my $segment_bytes = 1024 * 1024;

foreach my $program ($list, $make)
{
	die "$program is missing: make -C libs build/wal/test/wal_list build/wal/test/wal_make" unless -x $program;
}

my $node = PostgreSQL::Test::Cluster->new('wal');
$node->init(extra => ['--wal-segsize=1'], allows_streaming => 1);
$node->append_conf('postgresql.conf', "wal_keep_size = 1GB\nautovacuum = off\nwal_compression = lz4");
$node->start;

# From the start of a segment, so that the first record is whole.
$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
my $first = $node->safe_psql('postgres', 'CHECKPOINT; SELECT pg_walfile_name(pg_current_wal_lsn())');

$node->safe_psql('postgres', q{
	CREATE TABLE t (a int, b text);
	INSERT INTO t SELECT i, repeat(md5(i::text), 1 + i % 20) FROM generate_series(1, 20000) i;
	CREATE INDEX ON t (b);
	CREATE INDEX ON t USING gin (string_to_array(b, 'a'));
});
$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
$node->safe_psql('postgres', q{UPDATE t SET a = a + 1 WHERE a % 3 = 0});
$node->safe_psql('postgres', q{SELECT pg_logical_emit_message(false, 'x', repeat('y', 3000000))});    # over segments
$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
$node->safe_psql('postgres', 'DELETE FROM t WHERE a % 7 = 0');
$node->safe_psql('postgres', 'VACUUM t');
$node->stop('immediate');
$node->start;    # crash recovery: an end-of-recovery checkpoint continues the log
$node->safe_psql('postgres', 'CREATE TABLE u AS SELECT * FROM t LIMIT 1000');
$node->stop;

my ($control) = run_command([ 'pg_controldata', $node->data_dir ]);
my ($last) = $control =~ /REDO WAL file:\s+(\S+)/;
my ($system_id) = $control =~ /system identifier:\s+(\S+)/;
my $wal = $node->data_dir . '/pg_wal';
my @segments = grep { $_ ge "$wal/$first" && $_ le "$wal/$last" } sort glob("$wal/0*[0-9A-F]");

my ($dump) = run_command([ 'pg_waldump', '-p', $wal, $first, $last ]);
my @expected;
foreach my $line (split /\n/, $dump)
{
	next unless $line =~ m{len \(rec/tot\):\s*\d+/\s*(\d+), tx:\s*(\d+), lsn: (\S+), prev (\S+), desc: (.*)};
	my ($len, $xid, $start, $prev, $desc) = ($1, $2, $3, $4, $5);
	my @blocks;
	push @blocks, "$1/$2/$3/$5" while $desc =~ m{blkref #\d+: rel (\d+)/(\d+)/(\d+)(?: fork (\w+))? blk (\d+)}g;
	push @expected, join(' ', $start, $len, $xid, $prev, @blocks);
}
cmp_ok(scalar(@expected), '>', 50000, 'pg_waldump has read ' . scalar(@expected) . ' records');
my ($start) = $expected[0] =~ /^(\S+)/;

foreach my $piece (0, 1, 777, 8192)
{
	my ($out, $err) = run_command([ $list, $segment_bytes, $start, $piece, @segments ]);
	my @lines = split /\n/, $out;
	my $status = pop @lines;
	my @found;
	my @ends;
	foreach my $line (@lines)
	{
		my ($begin, $end, $len, $xid, $prev, $rmid, $info, @blocks) = split / /, $line;
		my @plain = map { m{^(\d+)/(\d+)/(\d+)/\d+/(\d+)} ? "$1/$2/$3/$4" : $_ } @blocks;
		push @found, join(' ', $begin, $len, $xid, $prev, @plain);
		push @ends, $end;
	}
	is($err, '', "pieces of $piece: no complaints");
	ok(join("\n", @found) eq join("\n", @expected), "pieces of $piece: the same records");
	like($status, qr/^(zeroes instead of a record|invalid WAL page header|more bytes are needed) at \Q$ends[-1]\E$/, "pieces of $piece: ends behind the last record");
}

# What we fabricate, pg_waldump reads: in a page, over a page's end, over a segment's end.
foreach my $at ('3/00000028', '3/00000100', '3/00002000', '3/00003000', '3/00003FE8', '3/000FFF90', '3/000FFFF8', '3/00100000')
{
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my ($out) = run_command([ $make, $segment_bytes, $at, '2/00000100', $system_id, $dir ]);
	my ($begin, $end) = split ' ', $out;
	my ($text) = run_command([ 'pg_waldump', '-p', $dir, '-s', $begin, '-n', '1' ]);
	like($text, qr{lsn: \Q$begin\E, prev 2/00000100, desc: CHECKPOINT_SHUTDOWN}, "fabricated at $at");
	my @files = glob("$dir/*");
	is(scalar(@files), $at =~ /FFF/ ? 2 : 1, "segments for $at");
}

done_testing();
