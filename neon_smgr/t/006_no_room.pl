# The table of relations is full of relations that changed: what is there is read, written, dropped and checkpointed all the same,
# what would make a new size is refused with a hint, and nothing stops the server.  And what failed leaves nothing behind.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SmgrTest;
use Test::More;

my $node = new_compute('compute', cache => '0',
	conf => "shared_buffers = 2MB\nmax_connections = 10\nmax_locks_per_transaction = 1024\nneon.max_relations = 1024\n");
$node->start;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub error_of { my ($rc, $out, $err) = $node->psql('postgres', $_[0]); return $err; }
my $too_many = qr/ERROR:  too many relations have been changed.*HINT:  Increase "neon.max_relations"/s;

sql(q{CREATE EXTENSION neon;
CREATE TABLE keep (a int PRIMARY KEY, b int) WITH (fillfactor = 50); INSERT INTO keep SELECT i, 0 FROM generate_series(1, 1000) i;
CREATE TABLE gone AS SELECT generate_series(1, 5000) AS a;
CREATE TABLE shrink (a int, f text); INSERT INTO shrink SELECT i, repeat('y', 500) FROM generate_series(1, 2000) i;
DELETE FROM shrink WHERE a > 10});
sql('VACUUM (TRUNCATE off) shrink');
sql('VACUUM keep');
my $before = sql("SELECT pg_relation_size('shrink')");
my $shrink = sql("SELECT pg_relation_filenode('shrink')");
$node->stop;
# The directory forgets free space maps; there must be one, or VACUUM fails before it comes to the truncation.
truncate(store_of($node) . "/1663/5/$shrink.1", 3 * 8192) or die $!;
$node->start;

# ---- fill it
sql(q{DO $$ BEGIN
	FOR i IN 1 .. 2000 LOOP
		BEGIN EXECUTE format('CREATE TABLE fill_%s ()', i); EXCEPTION WHEN out_of_memory THEN NULL; END;
	END LOOP;
END $$});
is(sql('SELECT relations FROM pg_stat_neon_page_cache'), '1024', 'the table is full');
like(error_of('CREATE TABLE one_more ()'), $too_many, 'a relation more is refused');

# ---- what was not changed before
is(sql('SELECT count(*), sum(b) FROM keep'), '1000|0', 'a relation without an entry is read');
my $out = sql(q{BEGIN; UPDATE keep SET b = 1 WHERE a = 1; UPDATE keep SET b = 2 WHERE a = 2;
	SELECT neon_test_evict('keep'); SELECT 'own ' || sum(b) FROM keep; UPDATE keep SET b = 4 WHERE a = 1; COMMIT});
like($out, qr/^own 3$/m, 'its pages that must stay here do');
sql("SELECT neon_test_evict('keep')");
is(sql('SELECT count(*), sum(b) FROM keep'), '1000|6', 'and no change is lost');
sql('CHECKPOINT');
like(error_of('VACUUM (TRUNCATE, DISABLE_PAGE_SKIPPING) shrink'), $too_many, 'a truncation is refused before it has begun');
is(sql("SELECT count(*), pg_relation_size('shrink') FROM shrink"), "10|$before", 'and has changed nothing');
like(error_of('TRUNCATE keep'), $too_many, 'so is TRUNCATE, which makes a new file');
sql('DROP TABLE gone');
is(sql("SELECT to_regclass('gone') IS NULL"), 't', 'a relation without an entry is dropped');
$node->stop;
$node->start;
is(sql('SELECT count(*), sum(b) FROM keep'), '1000|6', 'the server stops cleanly, and starts with everything');
sql('VACUUM (TRUNCATE, DISABLE_PAGE_SKIPPING) shrink');
cmp_ok(sql("SELECT pg_relation_size('shrink')"), '<', $before / 10, 'where there is room again the truncation is done');
sql("DO \$\$ BEGIN FOR i IN 1 .. 2000 LOOP EXECUTE format('DROP TABLE IF EXISTS fill_%s', i); END LOOP; END \$\$");

# ---- a CREATE DATABASE that fails in the middle
sql('CREATE DATABASE template');
my $path = $node->safe_psql('template', 'CREATE TABLE t AS SELECT generate_series(1, 10000) AS a; SELECT pg_relation_filepath(\'t\')');
$path =~ m{^base/(\d+)/(\d+)$} or die $path;
my $file = store_of($node) . "/1663/$1/$2.0";
$node->restart;
chmod(0, $file) or die $!;
like(error_of('CREATE DATABASE copy OID 77777 TEMPLATE template'), qr/ERROR:  could not open/, 'a database cannot be copied');
chmod(0600, $file) or die $!;
sql('CREATE DATABASE copy OID 77777 TEMPLATE template');
is($node->safe_psql('copy', 'SELECT count(*), sum(a) FROM t'), '10000|50005000', 'the next one of that name and OID can');
sql('DROP DATABASE copy');
sql('CREATE DATABASE copy OID 77777 TEMPLATE template0');
is($node->safe_psql('copy', "SELECT to_regclass('t') IS NULL"), 't', 'and one after a dropped one');

$node->stop;
done_testing();
