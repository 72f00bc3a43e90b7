-- What the storage manager refuses, and what it says.
\set VERBOSITY default
CREATE TABLESPACE nowhere LOCATION '/tmp';
CREATE DATABASE regress_copy STRATEGY file_copy;
CREATE DATABASE regress_log;
SELECT pg_database_size('regress_log') > 1000000 AS has_size;
DROP DATABASE regress_log;

-- sizes come from the page store
CREATE TABLE storage_test (a int, b text);
SELECT pg_relation_size('storage_test');
INSERT INTO storage_test SELECT i, repeat('x', 100) FROM generate_series(1, 1000) i;
SELECT pg_relation_size('storage_test') / 8192 AS pages;
SELECT pg_table_size('storage_test') >= pg_relation_size('storage_test') AS table_size;
TRUNCATE storage_test;
SELECT pg_relation_size('storage_test');
DROP TABLE storage_test;
