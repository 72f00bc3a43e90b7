-- Databases; statements that cannot run in a transaction or need others connected.
CREATE DATABASE copied STRATEGY file_copy;
CREATE DATABASE logged STRATEGY wal_log;
CREATE DATABASE gone STRATEGY file_copy;
CREATE DATABASE gone2 STRATEGY wal_log;
\c copied
CREATE TABLE t AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 1000) g;
CREATE INDEX ON t (id);
\c logged
CREATE TABLE t AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 1000) g;
\c gone
CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 1000) g;
\c gone2
CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 1000) g;
\c postgres
DROP DATABASE gone;
DROP DATABASE gone2;
CREATE DATABASE copied_again TEMPLATE copied STRATEGY file_copy;
VACUUM FREEZE;
