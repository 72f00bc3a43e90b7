-- What becomes of branches: reset to the parent, restored to an earlier moment, protected, given settings.
\set VERBOSITY default
CREATE TABLE control_test (id int PRIMARY KEY, v text);
INSERT INTO control_test VALUES (1, 'parent');
SELECT current_database() AS here \gset
SELECT neon_create_branch('ctl') ~ '^[0-9a-f]{32}$' AS created;
SELECT neon_create_endpoint('ctl') LIKE 'postgresql://%' AS started;
SELECT regexp_replace(neon_connection_uri('ctl'), '/postgres$', '/' || :'here') AS there \gset
SELECT regexp_replace(neon_connection_uri('main'), '/postgres$', '/' || :'here') AS back \gset

-- reset: what the branch did is gone, what its parent did is there
\c :there
INSERT INTO control_test VALUES (2, 'branch');
SELECT * FROM control_test ORDER BY id;
SELECT neon_reset_branch('ctl');
\c :back
INSERT INTO control_test VALUES (3, 'parent, later');
SELECT neon_reset_branch('ctl');
SELECT name, branch, state FROM neon_endpoints WHERE name = 'ctl';
\c :there
SELECT * FROM control_test ORDER BY id;

-- restore: back to a moment, and nothing is lost
INSERT INTO control_test VALUES (4, 'good');
SELECT pg_current_wal_flush_lsn() AS good_lsn \gset
DELETE FROM control_test;
SELECT neon_restore_branch('ctl', at_lsn => :'good_lsn');
\c :back
SELECT neon_restore_branch('ctl', at_lsn => :'good_lsn', keep_as => 'ctl_emptied');
\c :there
SELECT * FROM control_test ORDER BY id;
INSERT INTO control_test VALUES (5, 'after the restore');
SELECT name, parent FROM neon_branches WHERE name LIKE 'ctl%' ORDER BY 1;
SELECT neon_create_endpoint('ctl_emptied') LIKE 'postgresql://%' AS started;
SELECT regexp_replace(neon_connection_uri('ctl_emptied'), '/postgres$', '/' || :'here') AS kept \gset
\c :kept
SELECT count(*) FROM control_test;
\c :back
-- a restored branch goes back to before the restore as well
SELECT neon_restore_branch('ctl', at_lsn => :'good_lsn', keep_as => 'ctl_second');
\c :there
SELECT * FROM control_test ORDER BY id;
\c :back

-- what is refused
SELECT neon_restore_branch('ctl');
SELECT neon_restore_branch('ctl', at_lsn => '0/1', at_time => now());
SELECT neon_restore_branch('ctl', at_lsn => :'good_lsn', keep_as => 'ctl_emptied');
SELECT neon_restore_branch('ctl', at_lsn => :'good_lsn', keep_as => 'Not a name');
SELECT neon_restore_branch('nobody', at_time => now());
SELECT neon_reset_branch('main');
SELECT neon_reset_branch('nobody');
SELECT neon_reset_branch('ctl_emptied');

-- protected
SELECT neon_protect_branch('ctl');
SELECT name FROM neon_branches WHERE protected;
SELECT neon_drop_branch('ctl');
SELECT neon_reset_branch('ctl');
SELECT neon_restore_branch('ctl', at_lsn => :'good_lsn');
SELECT neon_drop_branch('ctl_emptied', cascade => true);
SELECT count(*) FROM neon_branches WHERE name LIKE 'ctl%';
SELECT neon_protect_branch('nobody');
SELECT neon_protect_branch('ctl', false);

-- settings of a branch's servers
SELECT neon_set_branch('ctl', 'work_mem', '12MB');
SELECT neon_set_branch('ctl', 'max_connections', '61');
SELECT neon_set_branch('ctl', 'search_path', '"$user", public, pg_temp');
SELECT neon_set_branch('ctl_emptied', 'work_mem', '3MB');
SELECT jsonb_pretty(settings) FROM neon_branches WHERE name = 'ctl';
SELECT neon_suspend_endpoint('ctl');
SELECT neon_set_branch('ctl', 'maintenance_work_mem', '17MB');
SELECT neon_start_endpoint('ctl') IS NOT NULL AS started;
\c :there
SHOW work_mem;
SHOW max_connections;
SHOW search_path;
SHOW maintenance_work_mem;
SELECT neon_set_branch(NULL, 'work_mem', NULL);
\c :back
SELECT settings ? 'work_mem' AS still_there FROM neon_branches WHERE name = 'ctl';
SELECT neon_set_branch('ctl', 'work_mem', 'a lot');
SELECT neon_set_branch('ctl', 'work_memory', '1');
SELECT neon_set_branch('ctl', 'fsync', 'on');
SELECT neon_set_branch('ctl', 'neon.tenant_id', 'x');
SELECT neon_set_branch('ctl', 'a = 1', '1');
SELECT neon_set_branch('ctl', 'shared_buffers', '-1');
SELECT neon_set_branch('ctl', 'role', 'postgres');
SELECT neon_set_branch('nobody', 'work_mem', '1MB');

-- modes of endpoints
SELECT neon_create_branch('ctl_replica') IS NOT NULL AS created;
SELECT neon_create_endpoint('ctl_replica', mode => 'replica');
SELECT neon_create_endpoint('ctl_replica', mode => 'static', at_lsn => '0/8', at_time => now());
SELECT neon_create_endpoint('ctl_replica', mode => 'upside-down');
SELECT neon_create_endpoint('ctl_replica', at_time => now());

SELECT neon_checkpoint();
SELECT neon_checkpoint('nobody');
SELECT neon_drop_branch('ctl_replica');
SELECT neon_drop_branch('ctl_emptied', cascade => true);
SELECT name FROM neon_branches WHERE name LIKE 'ctl%';
DROP TABLE control_test;
