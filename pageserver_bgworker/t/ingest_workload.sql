-- Records that change something no block reference names; run after redo_workload.sql, in database postgres.
SET client_min_messages = warning;
SET lock_timeout = '20s';

-- subtransactions: more than one commit status page holds, committed and aborted
CREATE TABLE sub (id int, v int);
DO $$
BEGIN
	FOR i IN 1..3000 LOOP
		BEGIN
			INSERT INTO sub VALUES (i, 0);
			IF i % 3 = 0 THEN RAISE EXCEPTION 'undo'; END IF;
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
	END LOOP;
END $$;
BEGIN;
SAVEPOINT a;
INSERT INTO sub VALUES (-1, 1);
SAVEPOINT b;
INSERT INTO sub VALUES (-2, 2);
ROLLBACK TO a;
INSERT INTO sub VALUES (-3, 3);
ROLLBACK;

-- prepared transactions: committed, rolled back, and one that stays
CREATE TABLE prep (id int PRIMARY KEY, v text);
INSERT INTO prep SELECT g, 'x' FROM generate_series(1, 100) g;
BEGIN;
UPDATE prep SET v = 'committed' WHERE id < 10;
SAVEPOINT s;
INSERT INTO prep VALUES (1000, 'child');
RELEASE s;
CREATE TABLE made_in_prepared (a int);
PREPARE TRANSACTION 'one';
BEGIN;
UPDATE prep SET v = 'rolled back' WHERE id BETWEEN 20 AND 30;
CREATE TABLE never (a int);
INSERT INTO never SELECT generate_series(1, 1000);
PREPARE TRANSACTION 'two';
COMMIT PREPARED 'one';
ROLLBACK PREPARED 'two';
BEGIN;
UPDATE prep SET v = 'open' WHERE id BETWEEN 40 AND 50;
SAVEPOINT s;
INSERT INTO prep VALUES (2000, 'open child');
RELEASE s;
PREPARE TRANSACTION 'stays';

-- truncation: by vacuum, by command, and growth over what was cut
CREATE TABLE cut (id int, pad text);
CREATE INDEX cut_id ON cut (id);
INSERT INTO cut SELECT g, repeat('p', 200) FROM generate_series(1, 20000) g;
VACUUM (FREEZE) cut;
DELETE FROM cut WHERE id > 3000;
VACUUM (TRUNCATE) cut;
INSERT INTO cut SELECT g, repeat('q', 300) FROM generate_series(1, 5000) g;
VACUUM cut;
DELETE FROM cut;
VACUUM (TRUNCATE) cut;
INSERT INTO cut SELECT g, repeat('r', 30) FROM generate_series(1, 2000) g;
TRUNCATE cut;
INSERT INTO cut SELECT g, repeat('s', 30) FROM generate_series(1, 100) g;
BEGIN;
TRUNCATE cut;
INSERT INTO cut VALUES (1, 'gone');
ROLLBACK;

-- dropped, created and rewritten relations; relation maps
CREATE TABLE dropped (id int PRIMARY KEY, pad text);
INSERT INTO dropped SELECT g, repeat('d', 2000) FROM generate_series(1, 300) g;
DROP TABLE dropped;
BEGIN;
CREATE TABLE aborted (id int PRIMARY KEY, pad text);
INSERT INTO aborted SELECT g, repeat('d', 100) FROM generate_series(1, 300) g;
ROLLBACK;
CREATE TABLE moved (id int PRIMARY KEY, v text);
INSERT INTO moved SELECT g, md5(g::text) FROM generate_series(1, 2000) g ORDER BY md5(g::text);
VACUUM FULL pg_class;
VACUUM FULL pg_database;
REINDEX TABLE pg_type;
CLUSTER moved USING moved_pkey;
ALTER TABLE moved ADD COLUMN w int DEFAULT 7;
ALTER TABLE moved ALTER COLUMN w TYPE bigint;
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, t text, p point);
CREATE INDEX unlogged_gist ON unlogged USING gist (p);
INSERT INTO unlogged SELECT g, 'u', point(g, g) FROM generate_series(1, 1000) g;
ALTER TABLE unlogged SET LOGGED;
CREATE UNLOGGED TABLE unlogged2 (id int PRIMARY KEY, t text);
INSERT INTO unlogged2 SELECT g, 'u' FROM generate_series(1, 1000) g;

-- sequences, large objects, messages, notifications, object ids
CREATE SEQUENCE counted;
SELECT count(nextval('counted')) FROM generate_series(1, 500);
SELECT setval('counted', 10000);
SELECT lo_from_bytea(0, decode(repeat('ab', 20000), 'hex'));
SELECT pg_logical_emit_message(true, 'other', 'message');
SELECT pg_logical_emit_message(false, 'neon-file:pg_test/one/file', 'content');
SELECT pg_logical_emit_message(false, 'neon-file:pg_replslot/x/state', 'content');
SELECT pg_logical_emit_message(false, 'neon-file:standby.signal', 'x');
SELECT pg_logical_emit_message(false, 'neon-file:postgresql.auto.conf', 'fsync = off');
SELECT pg_logical_emit_message(false, 'neon-file:pg_xact/0000', 'x');
SELECT pg_logical_emit_message(false, 'neon-file:global/pg_control', 'x');
SELECT pg_logical_emit_message(false, 'neon-file:../escape', 'x');
SELECT pg_switch_wal();
DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('CREATE TYPE enum_%s AS ENUM (''a'')', i); END LOOP; END $$;
CHECKPOINT;
DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('DROP TYPE enum_%s', i); END LOOP; END $$;
