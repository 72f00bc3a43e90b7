# Pages, sizes and forks, without a page cache and with a tiny one, and with little shared memory: nearly every access goes
# through the page store.
# The directory behind it forgets what WAL does not say, so each part fails when its pin or floor is taken out.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SmgrTest;
use Test::More;

my $node;
for my $cache ('0', '1MB')
{
	note("page cache: $cache");
	$node = new_compute("compute_$cache", cache => $cache, conf => "shared_buffers = 512kB\nmax_connections = 10\n");
	$node->start;
	check_pages();
	$node->stop;
}
done_testing();

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub stat_of { return sql("SELECT $_[0] FROM pg_stat_neon_page_cache"); }

sub check_pages
{
	sql('CREATE EXTENSION neon; CREATE EXTENSION amcheck; CREATE EXTENSION pageinspect; CREATE EXTENSION pg_visibility; CREATE EXTENSION bloom');

	# ---- no relation file below the data directory
	sql("CREATE TABLE big (id int PRIMARY KEY, t text); INSERT INTO big SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i");
	is(sql('SELECT count(*), sum(id) FROM big'), '20000|200010000', 'a table far larger than all caches');
	is(scalar(relation_files($node->data_dir)), 0, 'no relation file in the data directory');
	cmp_ok(stat_of('reads_pageserver'), '>', 300, 'pages did come from the page source');
	cmp_ok(sql("SELECT pg_relation_size('big')"), '>=', 20000 * 100, 'pg_relation_size');
	cmp_ok(sql("SELECT pg_total_relation_size('big') - pg_indexes_size('big') - pg_table_size('big')"), '==', 0, 'sizes add up');
	cmp_ok(sql("SELECT pg_database_size(current_database())"), '>', 7000000, 'pg_database_size');

	# ---- command ids of a running transaction survive eviction
	my $out = sql(q{
	CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 500); CHECKPOINT;
	BEGIN;
	CREATE TABLE dummy (a int); INSERT INTO dummy VALUES (1); INSERT INTO dummy VALUES (2);
	DECLARE c CURSOR FOR SELECT a FROM t;
	INSERT INTO t SELECT generate_series(1001, 1500);
	DELETE FROM t WHERE a <= 100;
	DELETE FROM t WHERE a BETWEEN 1001 AND 1100;
	SELECT 'before ' || count(*) FROM t;
	SELECT neon_test_evict('t');
	SELECT 'after ' || count(*) FROM t;
	FETCH ALL FROM c;
	ROLLBACK;
	});
	like($out, qr/^before 800$/m, 'a transaction sees its own changes');
	like($out, qr/^after 800$/m, 'also after its pages were evicted (combo command ids)');
	is(scalar(() = $out =~ /^\d+$/mg), 500, 'a cursor does not see what was done after it was opened');

	$out = sql(q{
	CREATE TABLE h (a int); INSERT INTO h SELECT generate_series(1, 10);
	BEGIN;
	CREATE TABLE dummy (a int); INSERT INTO dummy VALUES (1); INSERT INTO dummy VALUES (2);
	DECLARE c CURSOR FOR SELECT a FROM h;
	UPDATE h SET a = a + 100;
	SELECT neon_test_evict('h');
	FETCH ALL FROM c;
	COMMIT;
	});
	is(scalar(() = $out =~ /^\d+$/mg), 10, 'rows updated by the same transaction keep their old versions for its cursor');
	cmp_ok(stat_of('pins_xid'), '>', 0, 'such pages were pinned');
	ok($node->poll_query_until('postgres', 'SELECT pins_released > 0 FROM pg_stat_neon_page_cache'), 'and are released when the transaction is over');
	is(sql('SELECT count(*), min(a), max(a) FROM h'), '10|101|110', 'what was committed is there');

	# ---- sequences count without WAL
	is(sql("CREATE SEQUENCE s; SELECT nextval('s'); SELECT nextval('s'); SELECT neon_test_evict('s'); SELECT nextval('s')"), "1\n2\n\n3",
		'an evicted sequence loses no values');

	# ---- visibility map: set, evicted, cleared, evicted
	sql('CREATE TABLE v (a int PRIMARY KEY, b int); INSERT INTO v SELECT i, i FROM generate_series(1, 5000) i');
	sql('VACUUM v');
	sql("SELECT neon_test_evict('v')");
	is(sql("SELECT count(*) FROM pg_visibility_map('v') WHERE NOT all_visible"), '0', 'all visible after VACUUM');
	is(sql("SELECT count(*) FROM pg_check_visible('v')"), '0', 'and it is true');
	sql('DELETE FROM v WHERE a % 100 = 0');
	sql("SELECT neon_test_evict('v')");
	is(sql("SELECT count(*) FROM pg_check_visible('v')"), '0', 'no stale bit after deletes and eviction');
	is(sql('SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(a) FROM v WHERE a > 0'), '4950', 'an index-only scan counts right');

	# ---- truncation by VACUUM, growth again: old rows must not come back
	sql('CREATE TABLE shrink (a int, f text); ' .
		"INSERT INTO shrink SELECT i, repeat('y', 500) FROM generate_series(1, 2000) i; DELETE FROM shrink WHERE a > 10");
	my $before = sql("SELECT pg_relation_size('shrink')");
	sql('VACUUM (TRUNCATE) shrink');
	cmp_ok(sql("SELECT pg_relation_size('shrink')"), '<', $before / 10, 'VACUUM truncates');
	sql("INSERT INTO shrink SELECT i, repeat('z', 500) FROM generate_series(3001, 3500) i");
	sql("SELECT neon_test_evict('shrink')");
	is(sql('SELECT count(*), min(a), max(a) FROM shrink'), '510|1|3500', 'growing again brings no old row back');
	is(sql("SELECT count(*) FROM heap_page_items(get_raw_page('shrink', (pg_relation_size('shrink') / 8192)::int - 1)) WHERE t_data IS NULL"), '0',
		'the last page is of this time');
	sql('TRUNCATE shrink');
	is(sql('SELECT count(*) FROM shrink'), '0', 'TRUNCATE');

	# ---- every index access method, built and used with pages leaving all the time
	sql(q{CREATE TABLE ix AS SELECT i AS id, md5(i::text) AS m, point(i % 100, i / 100) AS p, ARRAY[i % 17, i % 29] AS arr,
		to_tsvector('simple', 'w' || (i % 50)) AS ts FROM generate_series(1, 8000) i});
	my %index = (
		btree => 'CREATE INDEX ON ix USING btree (m)',
		hash => 'CREATE INDEX ON ix USING hash (m)',
		gist_sorted => 'CREATE INDEX ON ix USING gist (p)',
		gist_buffered => 'CREATE INDEX ON ix USING gist (p) WITH (buffering = on)',
		spgist => 'CREATE INDEX ON ix USING spgist (p)',
		gin => 'CREATE INDEX ON ix USING gin (arr)',
		gin_ts => 'CREATE INDEX ON ix USING gin (ts)',
		brin => 'CREATE INDEX ON ix USING brin (id) WITH (pages_per_range = 4)',
		bloom => 'CREATE INDEX ON ix USING bloom (id)',
		concurrently => 'CREATE INDEX CONCURRENTLY ON ix USING btree (id)');
	my @query = (
		"SELECT count(*) FROM ix WHERE m = md5('77')", '1',
		"SELECT count(*) FROM ix WHERE p <@ box '((10,10),(20,20))'", '121',
		'SELECT count(*) FROM ix WHERE arr @> ARRAY[3]', sql('SELECT count(*) FROM ix WHERE 3 = ANY (arr)'),
		"SELECT count(*) FROM ix WHERE ts @@ 'w7'::tsquery", '160',
		'SELECT count(*) FROM ix WHERE id = 4711', '1');
	for my $name (sort keys %index)
	{
		sql("SET maintenance_work_mem = '1MB'; $index{$name}");
		my $oid = sql("SELECT max(indexrelid) FROM pg_index WHERE indrelid = 'ix'::regclass");
		# after the build's transaction: what was pinned for it has gone or will go
		$node->poll_query_until('postgres', "SELECT neon_test_evict($oid) IS NOT NULL");
		my $wrong = 0;
		for (my $i = 0; $i < @query; $i += 2)
		{
			my $got = sql("SET enable_seqscan = off; $query[$i]");
			$wrong++, diag("$name: $query[$i]: $got") if $got ne $query[ $i + 1 ];
		}
		is($wrong, 0, "$name: queries are right with the new index");
		sql("SELECT bt_index_parent_check($oid, true)") if $name =~ /^(btree|concurrently)$/;
		# changed afterwards
		sql('UPDATE ix SET id = id WHERE id % 50 = 0');
		is(sql("SET enable_seqscan = off; $query[0]"), '1', "$name: and after updates");
		sql('DROP INDEX ' . sql("SELECT $oid\::regclass"));
	}
	cmp_ok(stat_of('pins_build'), '>', 0, 'pages of index builds were pinned');

	# ---- unlogged: local files, empty after a start from nothing
	sql('CREATE UNLOGGED TABLE u (a int PRIMARY KEY, s serial); CREATE INDEX ON u USING gist (point(a, a)); INSERT INTO u SELECT generate_series(1, 1000)');
	is(sql('SELECT count(*) FROM u'), '1000', 'an unlogged table');
	my @local = relation_files($node->data_dir);
	cmp_ok(scalar(@local), '>=', 3, 'is in local files');
	my $rel = sql("SELECT pg_relation_filenode('u')");
	ok(!(grep { $_->[4] == 3 } @local), 'but its init forks are not');
	$node->stop;
	unlink($_->[0]) or die $! for relation_files($node->data_dir);
	$node->start;
	is(sql('SELECT count(*) FROM u'), '0', 'without local files it is empty');
	sql('INSERT INTO u SELECT generate_series(1, 100)');
	is(sql('SET enable_seqscan = off; SELECT count(*) FROM u WHERE a BETWEEN 1 AND 50'), '50', 'and its indexes work');
	is(sql('SELECT count(*) FROM big'), '20000', 'permanent tables kept everything');
	is(sql("SELECT nextval('s') > 3"), 't', 'sequences did not go back');
	$node->restart;
	is(sql('SELECT count(*) FROM u'), '100', 'with its local files an unlogged table survives a clean restart');

	# ---- databases
	sql('CREATE DATABASE other TEMPLATE template0');
	$node->safe_psql('other', 'CREATE TABLE o AS SELECT generate_series(1, 3000) AS a; CREATE UNLOGGED TABLE un (a int PRIMARY KEY); ' .
		'INSERT INTO un SELECT generate_series(1, 500)');
	sql('CREATE DATABASE copy TEMPLATE other');
	is($node->safe_psql('copy', 'SELECT count(*) FROM o'), '3000', 'a database made from another');
	is(scalar(grep { $_->[2] > 16000 && $_->[3] < 16000 } relation_files($node->data_dir)), 0, 'no file was copied');
	is($node->safe_psql('copy', 'SELECT count(*) FROM un'), '500', 'with an unlogged table');
	$node->stop;
	unlink($_->[0]) or die $! for relation_files($node->data_dir);
	$node->start;
	is($node->safe_psql('copy', 'INSERT INTO un VALUES (1), (2); SET enable_seqscan = off; SELECT count(*) FROM un WHERE a > 0'), '2',
		'which is empty after a start from nothing and has its index');
	$node->safe_psql('other', 'SELECT count(*) FROM o');
	my $relations = stat_of('relations');
	sql('DROP DATABASE copy');
	cmp_ok(stat_of('relations'), '<', $relations, 'a dropped database leaves the relation table');
	my ($rc, $o, $err) = $node->psql('postgres', 'CREATE DATABASE f STRATEGY file_copy');
	like($err, qr/FILE_COPY is not supported.*HINT:  Use STRATEGY WAL_LOG/s, 'STRATEGY FILE_COPY is refused with a hint');
	($rc, $o, $err) = $node->psql('postgres', "CREATE TABLESPACE ts LOCATION '/tmp'");
	like($err, qr/tablespaces are not supported/, 'tablespaces are refused');

	# ---- a relation file number in use is not given again
	my $max = sql('SELECT max(relfilenode)::int8 + 20 FROM pg_class');
	$node->stop;
	my $taken = store_of($node) . "/1663/5/$max.0";
	append_to_file($taken, "\0" x 8192);
	system_or_bail('pg_resetwal', '-o', $max, $node->data_dir);
	$node->start;
	isnt(sql("CREATE TABLE reuse (a int); SELECT pg_relation_filenode('reuse')"), "$max", 'a number that storage knows is passed over');

	# ---- transactions that fail leave nothing
	sql('CREATE TABLE keep (a int)');
	my $fails = 'BEGIN; CREATE TABLE gone AS SELECT generate_series(1, 5000) a; CREATE INDEX ON gone (a); SELECT 1/0';
	$node->psql('postgres', $fails);	# brings the catalogs into the table
	$relations = stat_of('relations');
	$node->psql('postgres', $fails);
	is(stat_of('relations'), $relations, 'a rolled back creation leaves no entry');
	sql("BEGIN; CREATE TABLE prepared AS SELECT generate_series(1, 100) a; PREPARE TRANSACTION 'p'");
	sql("COMMIT PREPARED 'p'");
	is(sql('SELECT count(*) FROM prepared'), '100', 'a relation of a prepared transaction');

	return;
}
