# What happens to a page while it leaves shared_buffers, or its pin: others set hint bits in it, or read it, at that moment.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SmgrTest;
use Test::More;

my $rounds = $ENV{NEON_ROUNDS} // 4;
my $node = new_compute('compute', cache => '64MB', conf => "shared_buffers = 48MB\nmax_connections = 20\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION neon');

# Runs lists of statements at the same time; what psql has to say against them.
sub together
{
	my @runs = map { my %r = (err => ''); $r{h} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), map { ('-c', $_) } @$_ ],
		'<', '/dev/null', '>', \$r{out}, '2>', \$r{err}); \%r } @_;
	$_->{h}->finish for @runs;
	return join('', map { $_->{err} } @runs);
}

# ---- a page is written while others set hint bits in it: the copy that is kept must fit its checksum
# (an index scan in random order sets them one by one, all over the table).
my $errors = '';
$node->safe_psql('postgres', 'CREATE TABLE hints (a int, b int); CREATE INDEX ON hints (a)');
for my $round (1 .. $rounds)
{
	$node->safe_psql('postgres', 'TRUNCATE hints; INSERT INTO hints SELECT i * 7919::int8 % 200000, i FROM generate_series(1, 200000) i');
	my @scans = map { [ 'SET enable_seqscan = off', 'SET enable_bitmapscan = off', "SELECT count(b) FROM hints WHERE a % 2 = $_ AND a >= 0" ] } 0 .. 1;
	$errors .= together(@scans, [ map { ("SELECT neon_test_evict('hints')", 'SELECT pg_sleep(0.01)') } 1 .. 8 ]);
	$errors .= together(['SELECT count(b) FROM hints']);
}
is($errors, '', 'no errors');
is(scalar(() = slurp_file($node->logfile) =~ /is damaged/g), 0, 'a copy is what its checksum was made of');

# ---- a page of an index build is read while its pin is let go of
$node->append_conf('postgresql.conf', "shared_buffers = 512kB\n");
$node->restart;
$node->safe_psql('postgres', 'CREATE TABLE points AS SELECT point(random() * 1000, random() * 1000) AS p FROM generate_series(1, 200000)');
my @lookup = ('SET enable_seqscan = off', 'SET enable_bitmapscan = off', q{DO $$
DECLARE x float8; y float8; until timestamptz := clock_timestamp() + interval '3 s';
BEGIN
	WHILE clock_timestamp() < until LOOP
		x := random() * 1000; y := random() * 1000;
		PERFORM 1 FROM points WHERE p <@ box(point(x, y), point(x + 5, y + 5));
	END LOOP;
END $$});
$errors = '';
for my $round (1 .. $rounds)
{
	$node->safe_psql('postgres', 'DROP INDEX IF EXISTS points_p; CREATE INDEX points_p ON points USING gist (p)');
	$errors .= together((\@lookup) x 4);
}
is($errors, '', 'an index is read right while its pages are let go of');
$node->stop;
done_testing();
