-- Branches from an endpoint's own psql: made, listed, changed, dropped; what goes wrong says what to do.
\set VERBOSITY default
CREATE TABLE branch_test (id int PRIMARY KEY, v text);
INSERT INTO branch_test SELECT i, 'main ' || i FROM generate_series(1, 5) i;

SELECT neon_create_branch('regress_a') ~ '^[0-9a-f]{32}$' AS created;
SELECT neon_create_endpoint('regress_a') LIKE 'postgresql://%' AS started;
SELECT name, parent FROM neon_branches WHERE name LIKE 'regress%' ORDER BY 1;
SELECT name, branch, mode, state FROM neon_endpoints WHERE name LIKE 'regress%' ORDER BY 1;

-- the branch, from here
SELECT neon_connection_uri('regress_a') AS uri \gset
SELECT current_database() AS here \gset
SELECT format('%s', regexp_replace(:'uri', '/postgres$', '/' || :'here')) AS there \gset
\c :there
SELECT neon_current_branch();
SELECT * FROM branch_test ORDER BY id;
UPDATE branch_test SET v = 'branch ' || id WHERE id > 3;
DELETE FROM branch_test WHERE id = 1;
SELECT * FROM branch_test ORDER BY id;
SELECT neon_drop_branch('regress_a');
SELECT neon_create_branch('regress_b') ~ '^[0-9a-f]{32}$' AS created;
SELECT name, parent FROM neon_branches WHERE name LIKE 'regress%' ORDER BY 1;
SELECT regexp_replace(neon_connection_uri('main'), '/postgres$', '/' || :'here') AS back \gset
\c :back
SELECT * FROM branch_test ORDER BY id;

-- errors
SELECT neon_create_branch('regress_a');
SELECT neon_create_branch('No Such Name');
SELECT neon_create_branch('regress_c', parent => 'nobody');
SELECT neon_create_branch('regress_c', at_lsn => '0/1', at_time => now());
SELECT neon_create_endpoint('regress_a');
SELECT neon_create_endpoint('regress_c', 'regress_a');
SELECT neon_start_endpoint('nobody');
SELECT neon_connection_uri('regress_b');
SELECT neon_drop_branch('regress_a');
SELECT neon_drop_branch('nobody');
SELECT neon_create_tenant('other');

-- an ordinary role may only what it was granted
CREATE ROLE regress_ordinary;
SET ROLE regress_ordinary;
SELECT neon_create_branch('regress_d');
SELECT count(*) FROM neon_branches;
RESET ROLE;
DROP ROLE regress_ordinary;

SELECT neon_rename_branch('regress_b', 'regress_bb');
SELECT neon_drop_branch('regress_a', cascade => true);
SELECT name FROM neon_branches WHERE name LIKE 'regress%';
DROP TABLE branch_test;
