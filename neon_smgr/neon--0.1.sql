/* neon--0.1.sql - objects of the extension neon */

\echo Use "CREATE EXTENSION neon" to load this file. \quit

CREATE FUNCTION neon_version() RETURNS text
	AS 'MODULE_PATHNAME', 'neon_version' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION neon_version() IS 'version of the module and of the server it was built for';

CREATE FUNCTION neon_compute_info(
	OUT tenant_id text, OUT timeline_id text, OUT page_source text, OUT start_lsn pg_lsn, OUT commit_lsn pg_lsn,
	OUT replaced_tables int, OUT detours int, OUT replaced_functions int,
	OUT direct_calls_handled int, OUT direct_calls_unexpected int)
	AS 'MODULE_PATHNAME', 'neon_compute_info' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION neon_compute_info() IS
	'what this compute works on, what the quorum has, and what was changed in the server at its start';
REVOKE ALL ON FUNCTION neon_compute_info() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION neon_compute_info() TO pg_monitor;

CREATE VIEW neon_compute AS SELECT * FROM neon_compute_info();
COMMENT ON VIEW neon_compute IS 'what this compute works on';
REVOKE ALL ON neon_compute FROM PUBLIC;
GRANT SELECT ON neon_compute TO pg_monitor;

CREATE FUNCTION neon_page_cache_stats(
	OUT cache_bytes bigint, OUT used_bytes bigint, OUT relations bigint, OUT max_relations bigint,
	OUT reads_pinned bigint, OUT reads_zero bigint, OUT reads_cache bigint, OUT reads_pageserver bigint,
	OUT writes_cached bigint, OUT writes_dropped bigint, OUT writes_empty bigint,
	OUT pins_build bigint, OUT pins_xid bigint, OUT pins_vacuum bigint, OUT pins_sequence bigint, OUT pins_fsm bigint,
	OUT pins_quorum bigint, OUT pins_released bigint, OUT evictions bigint, OUT read_ahead_hits bigint)
	AS 'MODULE_PATHNAME', 'neon_page_cache_stats' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION neon_page_cache_stats() IS 'where pages were read from and kept since the compute was started';
REVOKE ALL ON FUNCTION neon_page_cache_stats() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION neon_page_cache_stats() TO pg_monitor;

CREATE VIEW pg_stat_neon_page_cache AS SELECT * FROM neon_page_cache_stats();
COMMENT ON VIEW pg_stat_neon_page_cache IS 'where pages were read from and kept since the compute was started';
REVOKE ALL ON pg_stat_neon_page_cache FROM PUBLIC;
GRANT SELECT ON pg_stat_neon_page_cache TO pg_monitor;

CREATE FUNCTION neon_replica_stats(OUT replay_lsn pg_lsn, OUT redone bigint, OUT skipped bigint, OUT map_only bigint)
	AS 'MODULE_PATHNAME', 'neon_replica_stats' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION neon_replica_stats() IS 'what a replica has done with the records of its branch''s log that name pages';
REVOKE ALL ON FUNCTION neon_replica_stats() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION neon_replica_stats() TO pg_monitor;

CREATE VIEW pg_stat_neon_replica AS SELECT * FROM neon_replica_stats() WHERE replay_lsn IS NOT NULL;
COMMENT ON VIEW pg_stat_neon_replica IS
	'on a replica: how far it has followed, and how many records changed pages in shared_buffers, or none, or only ones of the visibility map';
REVOKE ALL ON pg_stat_neon_replica FROM PUBLIC;
GRANT SELECT ON pg_stat_neon_replica TO pg_monitor;

CREATE FUNCTION neon_test_evict(relation regclass) RETURNS void
	AS 'MODULE_PATHNAME', 'neon_test_evict' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION neon_test_evict(regclass) IS 'for tests: write and drop the relation''s buffers';
REVOKE ALL ON FUNCTION neon_test_evict(regclass) FROM PUBLIC;

CREATE FUNCTION neon_test_compare(relation regclass) RETURNS bigint
	AS 'MODULE_PATHNAME', 'neon_test_compare' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION neon_test_compare(regclass) IS
	'for tests: number of the relation''s pages that differ from what the pageserver makes of the WAL';
REVOKE ALL ON FUNCTION neon_test_compare(regclass) FROM PUBLIC;

CREATE FUNCTION neon_page_truth_stats(
	OUT waiting bigint, OUT verified bigint, OUT verified_empty bigint, OUT verified_released bigint, OUT verified_behind bigint,
	OUT mismatches bigint, OUT skipped_fsm bigint, OUT skipped_build bigint, OUT skipped_newer bigint, OUT skipped_map bigint,
	OUT skipped_proposer bigint, OUT skipped_stopping bigint, OUT skipped_no_history bigint, OUT waits bigint)
	AS 'MODULE_PATHNAME', 'neon_page_truth_stats' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION neon_page_truth_stats() IS 'pages compared with the pageserver''s since the compute was started (neon.page_truth)';
REVOKE ALL ON FUNCTION neon_page_truth_stats() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION neon_page_truth_stats() TO pg_monitor;

CREATE VIEW pg_stat_neon_page_truth AS SELECT * FROM neon_page_truth_stats();
COMMENT ON VIEW pg_stat_neon_page_truth IS 'pages compared with the pageserver''s since the compute was started (neon.page_truth)';
REVOKE ALL ON pg_stat_neon_page_truth FROM PUBLIC;
GRANT SELECT ON pg_stat_neon_page_truth TO pg_monitor;

CREATE FUNCTION neon_page_truth_check() RETURNS bigint
	AS 'MODULE_PATHNAME', 'neon_page_truth_check' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION neon_page_truth_check() IS
	'waits until every page written so far is compared; returns how many were right, a mismatch is an error';
REVOKE ALL ON FUNCTION neon_page_truth_check() FROM PUBLIC;

CREATE FUNCTION neon_test_flip_bit(relation regclass, fork int, block bigint, byte_no int, bit_no int) RETURNS void
	AS 'MODULE_PATHNAME', 'neon_test_flip_bit' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION neon_test_flip_bit(regclass, int, bigint, int, int) IS 'for tests: spoil a page in shared_buffers';
REVOKE ALL ON FUNCTION neon_test_flip_bit(regclass, int, bigint, int, int) FROM PUBLIC;

-- ---------------------------------------------------------------- control plane: branches, endpoints, tenants
--
-- Each function is a name for a call of the controller.  They run with their owner's rights, so that one of them can be granted
-- without the others: GRANT EXECUTE ON FUNCTION neon_create_branch TO somebody.  Nobody has them at first but superusers.
-- Views are granted as views are: GRANT SELECT ON neon_branches TO somebody.

CREATE FUNCTION neon_control(fn text, args jsonb) RETURNS jsonb
AS 'MODULE_PATHNAME', 'neon_control' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION neon_control(text, jsonb) IS 'Calls the control plane. The functions neon_... are its names; use those.';
REVOKE ALL ON FUNCTION neon_control(text, jsonb) FROM PUBLIC;

CREATE FUNCTION neon_list(what text) RETURNS jsonb
AS 'MODULE_PATHNAME', 'neon_list' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION neon_list(text) IS
	'Rows of a control plane view (branches, endpoints, ...) for callers who may read it. The views are made of it; use those.';
GRANT EXECUTE ON FUNCTION neon_list(text) TO PUBLIC;	-- it checks SELECT on the view itself


-- To be granted the start of a server is not to be granted its administrator's password.  Functions run with their owner's rights: who calls is the session's user.
CREATE FUNCTION neon_shown_uri(uri text) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS
$$ SELECT CASE WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN uri ELSE regexp_replace(uri, '^([a-z]+://[^:@/]+):[^@/]*@', '\1@') END $$;
COMMENT ON FUNCTION neon_shown_uri(text) IS 'a URI as this session''s user may see it: with its password for superusers only';

CREATE FUNCTION neon_create_tenant(name text) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('create_tenant', jsonb_build_object('name', name)) #>> '{}' $$;
COMMENT ON FUNCTION neon_create_tenant(text) IS
	'Makes a tenant: a database cluster of its own, with a branch main and a running endpoint main. Returns its id. Only on the controller. name: a name no other tenant has. See neon_tenants.';
REVOKE ALL ON FUNCTION neon_create_tenant(text) FROM PUBLIC;

CREATE FUNCTION neon_drop_tenant(name text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('drop_tenant', jsonb_build_object('name', name)) $$;
COMMENT ON FUNCTION neon_drop_tenant(text) IS
	'Drops a tenant with all its branches, endpoints and data. Only on the controller. Refused while one of its branches is protected. It cannot be undone.';
REVOKE ALL ON FUNCTION neon_drop_tenant(text) FROM PUBLIC;

CREATE FUNCTION neon_create_branch(name text, parent text = NULL, at_lsn pg_lsn = NULL, at_time timestamptz = NULL) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('create_branch', jsonb_build_object('name', name, 'parent', parent, 'at_lsn', at_lsn, 'at_time', at_time)) #>> '{}' $$;
COMMENT ON FUNCTION neon_create_branch(text, text, pg_lsn, timestamptz) IS
	'Makes a branch: a copy of another branch that takes no space until one of them changes. Returns its id. It holds everything that was committed before the call (nothing of the calling transaction). parent: the branch to copy; default the one this session is connected to. at_lsn or at_time: as it was then. A branch has no server yet: see neon_create_endpoint.';
REVOKE ALL ON FUNCTION neon_create_branch(text, text, pg_lsn, timestamptz) FROM PUBLIC;

CREATE FUNCTION neon_drop_branch(name text, cascade bool = false) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('drop_branch', jsonb_build_object('name', name, 'cascade', cascade)) $$;
COMMENT ON FUNCTION neon_drop_branch(text, bool) IS
	'Drops a branch with its endpoint and its data. Refused while it is protected or has branches of its own; cascade => true drops those as well. It cannot be undone.';
REVOKE ALL ON FUNCTION neon_drop_branch(text, bool) FROM PUBLIC;

CREATE FUNCTION neon_rename_branch(name text, new_name text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('rename_branch', jsonb_build_object('name', name, 'new_name', new_name)) $$;
COMMENT ON FUNCTION neon_rename_branch(text, text) IS
	'Gives a branch another name. Its endpoint keeps its own name and goes on running.';
REVOKE ALL ON FUNCTION neon_rename_branch(text, text) FROM PUBLIC;

CREATE FUNCTION neon_reset_branch(name text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('reset_branch', jsonb_build_object('name', name)) $$;
COMMENT ON FUNCTION neon_reset_branch(text) IS
	'Makes a branch what its parent is now. What was changed in the branch is lost. Its endpoint keeps its name, address and settings and is restarted if it ran. Refused while the branch is protected or has branches of its own.';
REVOKE ALL ON FUNCTION neon_reset_branch(text) FROM PUBLIC;

CREATE FUNCTION neon_restore_branch(name text, at_lsn pg_lsn = NULL, at_time timestamptz = NULL, keep_as text = NULL) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('restore_branch', jsonb_build_object('name', name, 'at_lsn', at_lsn, 'at_time', at_time, 'keep_as', keep_as)) #>> '{}' $$;
COMMENT ON FUNCTION neon_restore_branch(text, pg_lsn, timestamptz, text) IS
	'Takes a branch back to what it was at a time (at_time) or an LSN (at_lsn). Nothing is lost: what it was before the call is kept as another branch, whose name is returned, and branches that were made of it belong to that one. keep_as: that name; default <name>_old_<time>. The endpoint keeps its name, address and settings and is restarted if it ran. Refused while the branch is protected.';
REVOKE ALL ON FUNCTION neon_restore_branch(text, pg_lsn, timestamptz, text) FROM PUBLIC;

CREATE FUNCTION neon_protect_branch(name text, protected bool = true) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('protect_branch', jsonb_build_object('name', name, 'protected', protected)) $$;
COMMENT ON FUNCTION neon_protect_branch(text, bool) IS
	'Protects a branch: it cannot be dropped, reset or restored until neon_protect_branch(name, false).';
REVOKE ALL ON FUNCTION neon_protect_branch(text, bool) FROM PUBLIC;

CREATE FUNCTION neon_set_branch(name text, setting text, value text) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('set_branch', jsonb_build_object('name', name, 'setting', setting, 'value', value)) #>> '{}' $$;
COMMENT ON FUNCTION neon_set_branch(text, text, text) IS
	'Sets a configuration parameter (see pg_settings) for the servers of a branch. value NULL takes it back to the default. name NULL: the branch this session is connected to. Returns when it counts: applied, or at the next start of its endpoint.';
REVOKE ALL ON FUNCTION neon_set_branch(text, text, text) FROM PUBLIC;

CREATE FUNCTION neon_create_endpoint(name text, branch text = NULL, mode text = 'read-write', at_lsn pg_lsn = NULL, at_time timestamptz = NULL) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_shown_uri(@extschema@.neon_control('create_endpoint', jsonb_build_object('name', name, 'branch', branch, 'mode', mode, 'at_lsn', at_lsn, 'at_time', at_time)) #>> '{}') $$;
COMMENT ON FUNCTION neon_create_endpoint(text, text, text, pg_lsn, timestamptz) IS
	'Makes and starts a server for a branch; returns its URI (without the password, if the caller is no superuser: see neon_connection_uri) when it takes connections. branch: default the branch of the same name. mode: read-write (a branch has one of these); static (any number) only reads, and shows the branch as of at_lsn or at_time, by default now, for as long as it exists; replica (any number) only reads, and follows the branch.';
REVOKE ALL ON FUNCTION neon_create_endpoint(text, text, text, pg_lsn, timestamptz) FROM PUBLIC;

CREATE FUNCTION neon_start_endpoint(name text) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_shown_uri(@extschema@.neon_control('start_endpoint', jsonb_build_object('name', name)) #>> '{}') $$;
COMMENT ON FUNCTION neon_start_endpoint(text) IS
	'Starts an endpoint if it does not run; returns its URI (without the password, if the caller is no superuser) when it takes connections.';
REVOKE ALL ON FUNCTION neon_start_endpoint(text) FROM PUBLIC;

CREATE FUNCTION neon_suspend_endpoint(name text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('suspend_endpoint', jsonb_build_object('name', name)) $$;
COMMENT ON FUNCTION neon_suspend_endpoint(text) IS
	'Stops an endpoint. Its branch stays, and so do its name, address and settings: neon_start_endpoint starts it again.';
REVOKE ALL ON FUNCTION neon_suspend_endpoint(text) FROM PUBLIC;

CREATE FUNCTION neon_set_endpoint(name text, setting text, value text) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('set_endpoint', jsonb_build_object('name', name, 'setting', setting, 'value', value)) #>> '{}' $$;
COMMENT ON FUNCTION neon_set_endpoint(text, text, text) IS
	'Changes how an endpoint is run. suspend_timeout: it sleeps after this time without activity, and wakes with the next connection through the proxy; 0 is never, the default is the controller''s setting neon_controller.suspend_timeout. memory_mb, cpu_percent: limits, where its host can set them; 0 is none; from its next start on. value NULL is the default. Returns the value.';
REVOKE ALL ON FUNCTION neon_set_endpoint(text, text, text) FROM PUBLIC;

CREATE FUNCTION neon_configure_endpoint(name text, spec jsonb) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('configure_endpoint', jsonb_build_object('name', name, 'spec', spec)) $$;
COMMENT ON FUNCTION neon_configure_endpoint(text, jsonb) IS
	'Brings what is inside an endpoint to what the specification says: roles, databases, extensions (arrays of objects with a name) and settings (an object). What is there already stays, so it can be repeated. Returns what was created, and the settings that count from the next start on. Whoever may call it can do whatever a superuser of the endpoint can.';
REVOKE ALL ON FUNCTION neon_configure_endpoint(text, jsonb) FROM PUBLIC;

CREATE FUNCTION neon_drop_endpoint(name text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('drop_endpoint', jsonb_build_object('name', name)) $$;
COMMENT ON FUNCTION neon_drop_endpoint(text) IS
	'Stops and forgets an endpoint. Its branch stays, with all its data.';
REVOKE ALL ON FUNCTION neon_drop_endpoint(text) FROM PUBLIC;

CREATE FUNCTION neon_connection_uri(branch text = NULL) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('connection_uri', jsonb_build_object('branch', branch)) #>> '{}' $$;
COMMENT ON FUNCTION neon_connection_uri(text) IS
	'The URI of a branch''s endpoint, with the password the tenant was created with: whoever may call it is as good as a superuser there. branch: default the one this session is connected to.';
REVOKE ALL ON FUNCTION neon_connection_uri(text) FROM PUBLIC;

CREATE FUNCTION neon_lsn_at(at timestamptz) RETURNS pg_lsn
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT (@extschema@.neon_control('lsn_at', jsonb_build_object('at', at)) #>> '{}')::pg_lsn $$;
COMMENT ON FUNCTION neon_lsn_at(timestamptz) IS
	'The LSN at which this branch held what was committed at a time. For at_lsn of other functions.';
REVOKE ALL ON FUNCTION neon_lsn_at(timestamptz) FROM PUBLIC;

CREATE FUNCTION neon_checkpoint(tenant text = NULL) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('checkpoint', jsonb_build_object('tenant', tenant)) $$;
COMMENT ON FUNCTION neon_checkpoint(text) IS
	'Makes the pageservers write everything of a tenant to layer files, now. tenant: default this one; on the controller: all.';
REVOKE ALL ON FUNCTION neon_checkpoint(text) FROM PUBLIC;

CREATE FUNCTION neon_current_branch() RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT @extschema@.neon_control('current_branch', '{}') #>> '{}' $$;
COMMENT ON FUNCTION neon_current_branch() IS
	'The name of the branch this session is connected to.';
REVOKE ALL ON FUNCTION neon_current_branch() FROM PUBLIC;

-- ---------------------------------------------------------------- what there is

CREATE VIEW neon_tenants AS
	SELECT * FROM jsonb_to_recordset(neon_list('tenants')) AS t (id text, name text, created_at timestamptz);
COMMENT ON VIEW neon_tenants IS 'Tenants; from an endpoint: its own.';
CREATE VIEW neon_branches AS
	SELECT * FROM jsonb_to_recordset(neon_list('branches')) AS b (name text, parent text, start_lsn pg_lsn,
		created_at timestamptz, protected bool, settings jsonb, timeline_id text, tenant text);
COMMENT ON VIEW neon_branches IS 'Branches: their parents, the LSN they began at, protection, and settings of their servers.';
CREATE VIEW neon_endpoints AS
	SELECT * FROM jsonb_to_recordset(neon_list('endpoints')) AS e (name text, branch text, mode text, state text, pid int,
		host text, port int, started_at timestamptz, warm_start bool, active_at timestamptz, activity text, suspend_timeout interval,
		problem text, tenant text, lsn pg_lsn);
COMMENT ON VIEW neon_endpoints IS 'Endpoints: their branches, what a static one shows (lsn), addresses, whether they run and how they were started, when they were last seen busy and with what, the time without activity after which they sleep (0 is never), and why one that has crashed could not be started again.';
CREATE VIEW neon_nodes AS
	SELECT * FROM jsonb_to_recordset(neon_list('nodes')) AS n (name text, role text, node_id int, host text, port int, state text,
		last_seen timestamptz, up_since timestamptz, timelines int, error text, registered_at timestamptz);
COMMENT ON VIEW neon_nodes IS 'Servers of the cluster: where they are, whether they answer to heartbeats, when they last did, since when they are up, and why one that is offline does not answer (only on the controller).';

CREATE VIEW neon_operations AS
	SELECT * FROM jsonb_to_recordset(neon_list('operations')) AS o (id bigint, operation text, object text, state text, attempts int, error text,
		number int, step text, node text, step_attempts int, started_at timestamptz, duration interval, step_error text, finished_at timestamptz,
		next_try_at timestamptz, who text, tenant text);
COMMENT ON VIEW neon_operations IS 'What was asked of the control plane, the latest 1000: a row for each step, how long it took, how often it was tried, and what went wrong. state: running; committed (it can only be finished now); undoing and finishing (without its session, tried again until it is undone or done); done; undone.';

REVOKE ALL ON neon_tenants, neon_branches, neon_endpoints, neon_nodes, neon_operations FROM PUBLIC;
GRANT SELECT ON neon_tenants, neon_branches, neon_endpoints, neon_nodes, neon_operations TO pg_monitor;
