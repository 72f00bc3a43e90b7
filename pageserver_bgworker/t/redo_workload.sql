-- Something of every record type that redo must know.  Run with wal_consistency_checking = all.
SET client_min_messages = warning;

-- heap and btree: inserts in order and at random, splits, duplicates, hot updates, pruning, vacuum, freezing
CREATE TABLE heap1 (id int PRIMARY KEY, a int, b text, c int);
CREATE INDEX heap1_a ON heap1 (a);
CREATE INDEX heap1_b ON heap1 (b);
INSERT INTO heap1 SELECT g, g % 20, md5(g::text), 0 FROM generate_series(1, 2500) g;
INSERT INTO heap1 SELECT g, g % 20, md5(g::text), 0 FROM (SELECT g FROM generate_series(2501, 4000) g ORDER BY md5(g::text)) s;
UPDATE heap1 SET c = c + 1 WHERE id % 3 = 0;
UPDATE heap1 SET c = c + 1 WHERE id % 3 = 0;
VACUUM heap1;
DELETE FROM heap1 WHERE id % 4 = 0;
VACUUM heap1;
UPDATE heap1 SET c = c + 1 WHERE id % 7 = 0;
UPDATE heap1 SET a = a + 1 WHERE id % 9 = 0;
DELETE FROM heap1 WHERE id BETWEEN 1000 AND 2500;
VACUUM (FREEZE) heap1;
INSERT INTO heap1 SELECT g, g % 20, md5(g::text), 0 FROM generate_series(10001, 10600) g;
CREATE TABLE hot (id int PRIMARY KEY, n int, pad text) WITH (fillfactor = 50);
INSERT INTO hot SELECT g, 0, repeat('p', g % 50) FROM generate_series(1, 300) g;
DO $$ BEGIN FOR i IN 1..12 LOOP UPDATE hot SET n = n + 1; END LOOP; END $$;
UPDATE hot SET n = n + 1;
SELECT sum(n) FROM hot;
VACUUM hot;

SET wal_compression = pglz;

-- all-visible and all-frozen pages that lose their bits to each kind of record
VACUUM (FREEZE) hot;
SELECT count(*) FROM (SELECT id FROM hot WHERE id < 100 FOR UPDATE) s;
SELECT count(*) FROM (SELECT id FROM hot WHERE id BETWEEN 100 AND 200 FOR KEY SHARE) s;
VACUUM (FREEZE) hot;
UPDATE hot SET n = n + 1, pad = repeat('q', 300) WHERE id % 11 = 0;
DELETE FROM hot WHERE id % 13 = 0;
INSERT INTO hot SELECT g, 0, '' FROM generate_series(1001, 1100) g;
VACUUM hot;

-- truncation of the tail, then growth again
CREATE TABLE tail (id int, x text);
INSERT INTO tail SELECT g, repeat('x', 100) FROM generate_series(1, 8000) g;
VACUUM tail;
DELETE FROM tail WHERE id > 2000;
VACUUM tail;
INSERT INTO tail SELECT g, repeat('y', 100) FROM generate_series(1, 500) g;
VACUUM tail;

-- multi-insert, with and without FREEZE; speculative insertion; rolled back work; in-place updates come with VACUUM
CREATE TABLE copied (id int, a text, b int);
COPY (SELECT g, md5(g::text), g FROM generate_series(1, 2000) g) TO :'copy_file';
COPY copied FROM :'copy_file';
VACUUM copied;
COPY copied FROM :'copy_file';
CREATE TABLE frozen (id int, a text, b int);
BEGIN; TRUNCATE frozen; COPY frozen FROM :'copy_file' WITH (FREEZE); COMMIT;
DELETE FROM frozen WHERE id % 100 = 0;
UPDATE frozen SET b = b + 1 WHERE id % 90 = 0;
INSERT INTO heap1 SELECT g, 1, 'c', 1 FROM generate_series(1, 300) g ON CONFLICT (id) DO UPDATE SET c = heap1.c + 1;
BEGIN; INSERT INTO copied SELECT g, 'abort', g FROM generate_series(1, 300) g; ROLLBACK;
CREATE TABLE part (id int, v int) PARTITION BY LIST (v);
CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part2 PARTITION OF part FOR VALUES IN (2);
INSERT INTO part SELECT g, 1 FROM generate_series(1, 50) g;
UPDATE part SET v = 2 WHERE id % 2 = 0;

-- subtransactions, locks by several transactions
BEGIN;
SAVEPOINT a;
SELECT count(*) FROM (SELECT * FROM hot WHERE id < 60 FOR SHARE) q;
SAVEPOINT b;
UPDATE hot SET n = n + 1 WHERE id < 30;
ROLLBACK TO b;
COMMIT;
DO $$ BEGIN FOR i IN 1..200 LOOP BEGIN INSERT INTO tail VALUES (i, 'sub'); IF i % 3 = 0 THEN RAISE EXCEPTION 'x'; END IF; EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$;
CREATE TABLE parent (id int PRIMARY KEY, v int);
INSERT INTO parent SELECT g, 0 FROM generate_series(1, 40) g;
CREATE TABLE child (id int PRIMARY KEY, r int REFERENCES parent, v int);
INSERT INTO child SELECT g, 1 + g % 40, 0 FROM generate_series(1, 120) g;
-- enough multixacts for two pages of members, enough subtransactions for two pages of the commit log
DO $$ BEGIN FOR i IN 1..900 LOOP
	PERFORM 1 FROM parent WHERE id = 1 + i % 40 FOR KEY SHARE;
	BEGIN UPDATE parent SET v = v WHERE id = 1 + i % 40; EXCEPTION WHEN OTHERS THEN NULL; END;
END LOOP; END $$;
CREATE UNLOGGED TABLE burn (id int);
DO $$ BEGIN FOR i IN 1..33000 LOOP
	BEGIN INSERT INTO burn VALUES (1); IF i % 100 = 0 THEN RAISE EXCEPTION 'x'; END IF; EXCEPTION WHEN OTHERS THEN NULL; END;
END LOOP; END $$;
BEGIN; UPDATE parent SET v = 1 WHERE id < 10; PREPARE TRANSACTION 'p1';
COMMIT PREPARED 'p1';
BEGIN; UPDATE parent SET v = 2 WHERE id < 10; SAVEPOINT s; UPDATE parent SET v = 3 WHERE id = 20; RELEASE s; PREPARE TRANSACTION 'p2';
ROLLBACK PREPARED 'p2';

SET wal_compression = lz4;

-- btree: deletion of whole pages, deduplication, posting list splits
CREATE TABLE dup (id int, k int);
CREATE INDEX dup_k ON dup (k);
INSERT INTO dup SELECT g, g % 5 FROM generate_series(1, 3000) g;
UPDATE dup SET id = id + 1, k = k WHERE id % 2 = 0;
DELETE FROM dup WHERE id % 3 = 0;
VACUUM dup;
INSERT INTO dup SELECT g, g % 5 FROM generate_series(1, 1500) g;
CREATE TABLE gone (id int PRIMARY KEY);
INSERT INTO gone SELECT g FROM generate_series(1, 4000) g;
DELETE FROM gone WHERE id BETWEEN 300 AND 3700;
VACUUM gone;
VACUUM gone;
INSERT INTO gone SELECT g FROM generate_series(300, 1500) g;

-- hash
CREATE TABLE hash1 (id int, k int);
CREATE INDEX hash1_k ON hash1 USING hash (k);
INSERT INTO hash1 SELECT g, g % 500 FROM generate_series(1, 4000) g;
DELETE FROM hash1 WHERE id % 2 = 0;
VACUUM hash1;
INSERT INTO hash1 SELECT g, g % 5 FROM generate_series(1, 2500) g;
DELETE FROM hash1 WHERE id % 3 = 0;
VACUUM hash1;

-- gin, with and without a pending list
CREATE TABLE gin1 (id int, a int[], b int[]);
CREATE INDEX gin1_a ON gin1 USING gin (a) WITH (fastupdate = off);
CREATE INDEX gin1_b ON gin1 USING gin (b);
INSERT INTO gin1 SELECT g, ARRAY[g % 10, g % 100, g], ARRAY[g % 7, g] FROM generate_series(1, 1500) g;
DELETE FROM gin1 WHERE id % 3 = 0;
VACUUM gin1;
INSERT INTO gin1 SELECT g, ARRAY[g % 7, g], ARRAY[g % 7] FROM generate_series(1500, 2200) g;
SELECT gin_clean_pending_list('gin1_b');
DELETE FROM gin1 WHERE id < 1200;
VACUUM gin1;

SET wal_compression = zstd;

-- gist, sp-gist
CREATE TABLE geo (id int, p point, t text);
CREATE INDEX geo_gist ON geo USING gist (p);
CREATE INDEX geo_sp ON geo USING spgist (p);
CREATE INDEX geo_text ON geo USING spgist (t);
INSERT INTO geo SELECT g, point(g * 7919 % 1000, g * 104729 % 1000), md5(g::text) FROM generate_series(1, 2500) g;
DELETE FROM geo WHERE id % 2 = 0;
VACUUM geo;
DELETE FROM geo WHERE id < 2200;
VACUUM geo;
INSERT INTO geo SELECT g, point(g * 31 % 1000, g * 17 % 1000), repeat('a', g % 100) || g FROM generate_series(1, 800) g;

-- bloom: generic records
CREATE EXTENSION bloom;
CREATE TABLE bloom1 (id int, a int, b int);
CREATE INDEX bloom1_ab ON bloom1 USING bloom (a, b);
INSERT INTO bloom1 SELECT g, g % 100, g % 77 FROM generate_series(1, 2000) g;
DELETE FROM bloom1 WHERE id % 2 = 0;
VACUUM bloom1;
INSERT INTO bloom1 SELECT g, g % 100, g % 77 FROM generate_series(1, 300) g;

-- brin
CREATE TABLE brin1 (id int, v int, w text);
CREATE INDEX brin1_v ON brin1 USING brin (v) WITH (pages_per_range = 2);
CREATE INDEX brin1_w ON brin1 USING brin (w) WITH (pages_per_range = 1);
INSERT INTO brin1 SELECT g, g, repeat('z', g % 400) FROM generate_series(1, 2000) g;
SELECT brin_summarize_new_values('brin1_v'), brin_summarize_new_values('brin1_w');
UPDATE brin1 SET v = v + 100000, w = repeat('q', 200) WHERE id % 50 = 0;
SELECT brin_desummarize_range('brin1_v', 0);
VACUUM brin1;

-- sequences, toast, rewrites, index builds, unlogged
CREATE SEQUENCE seq1;
SELECT count(nextval('seq1')) FROM generate_series(1, 200);
ALTER SEQUENCE seq1 RESTART 77;
SELECT nextval('seq1');
CREATE TABLE toasted (id int PRIMARY KEY, big text);
ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
INSERT INTO toasted SELECT g, repeat(md5(g::text), 300) FROM generate_series(1, 60) g;
UPDATE toasted SET big = big || 'x' WHERE id % 3 = 0;
DELETE FROM toasted WHERE id % 5 = 0;
VACUUM toasted;
CREATE UNLOGGED TABLE unlogged1 (id int);
INSERT INTO unlogged1 SELECT g FROM generate_series(1, 100) g;
CREATE INDEX unlogged1_id ON unlogged1 (id);
ANALYZE;
CREATE INDEX heap1_c ON heap1 (c);
REINDEX INDEX heap1_b;
CLUSTER hot USING hot_pkey;
CREATE MATERIALIZED VIEW mv AS SELECT * FROM heap1 LIMIT 100;
REFRESH MATERIALIZED VIEW mv;
DROP TABLE copied;
