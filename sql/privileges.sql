-- Nobody but a superuser may do anything until it is granted; what is granted is one thing and not the others.
\set VERBOSITY default
CREATE ROLE regress_nobody;
CREATE ROLE regress_brancher;
CREATE ROLE regress_reader;
CREATE ROLE regress_monitor IN ROLE pg_monitor;
GRANT EXECUTE ON FUNCTION neon_create_branch, neon_drop_branch TO regress_brancher;
GRANT SELECT ON neon_branches TO regress_reader;

-- every function and view of the control plane, and who may use it without being a superuser
SELECT p.proname, p.prosecdef AS as_owner, has_function_privilege('regress_nobody', p.oid, 'EXECUTE') AS everybody
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'neon'
WHERE p.prosrc ~ 'neon_(control|list)' ORDER BY 1;
SELECT c.relname, has_table_privilege('regress_nobody', c.oid, 'SELECT') AS everybody,
	has_table_privilege('regress_monitor', c.oid, 'SELECT') AS monitor
FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
	JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'neon'
WHERE c.relkind = 'v' AND pg_get_viewdef(c.oid) ~ 'neon_list' ORDER BY 1;
-- everything of the extension says what it is for
SELECT d.classid::regclass, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'neon'
WHERE d.deptype = 'e' AND d.classid IN ('pg_proc'::regclass, 'pg_class'::regclass) AND obj_description(d.objid, d.classid::regclass::name) IS NULL;

SET ROLE regress_nobody;
SELECT neon_create_branch('priv');
SELECT neon_restore_branch('main', at_time => now());
SELECT neon_control('create_branch', '{"name": "priv"}');
SELECT neon_connection_uri();
SELECT count(*) FROM neon_branches;
SELECT neon_list('branches');
SELECT neon_list('create_branch');
SHOW neon.controller_connstring;

SET ROLE regress_brancher;
SELECT neon_create_branch('priv') ~ '^[0-9a-f]{32}$' AS created;
SELECT neon_create_endpoint('priv');
SELECT neon_protect_branch('priv');
SELECT neon_control('create_endpoint', '{"name": "priv"}');
SELECT count(*) FROM neon_branches;
SELECT neon_drop_branch('priv');

SET ROLE regress_reader;
SELECT name FROM neon_branches WHERE name = 'main';
SELECT count(*) FROM neon_endpoints;
SELECT neon_create_branch('priv');

SET ROLE regress_monitor;
SELECT name FROM neon_endpoints WHERE name = 'main';
SELECT neon_suspend_endpoint('main');
-- the nodes are the operator's
SELECT count(*) FROM neon_nodes;

-- a view that somebody makes opens no door
RESET ROLE;
GRANT CREATE ON SCHEMA public TO regress_reader;
SET ROLE regress_reader;
CREATE VIEW neon_drop_branch AS SELECT 1;
SELECT neon_list('drop_branch');
-- nor does a search_path
CREATE FUNCTION public.jsonb_build_object(VARIADIC text[]) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"name": "main"}'::jsonb $$;
RESET ROLE;
SET ROLE regress_brancher;
SET search_path = public, pg_catalog;
SELECT neon_drop_branch('nobody');
RESET ROLE;
RESET search_path;
DROP VIEW neon_drop_branch;
DROP FUNCTION public.jsonb_build_object(VARIADIC text[]);
REVOKE CREATE ON SCHEMA public FROM regress_reader;
REVOKE ALL ON FUNCTION neon_create_branch, neon_drop_branch FROM regress_brancher;
REVOKE ALL ON neon_branches FROM regress_reader;
DROP ROLE regress_nobody, regress_brancher, regress_reader, regress_monitor;
