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

CREATE FUNCTION neon_control(fn text, args jsonb) RETURNS jsonb
AS 'MODULE_PATHNAME', 'neon_control' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION neon_control(text, jsonb) IS 'call the control plane; the functions below are its names';

CREATE FUNCTION neon_create_tenant(name text) RETURNS text LANGUAGE sql AS
$$ SELECT @extschema@.neon_control('create_tenant', jsonb_build_object('name', name)) #>> '{}' $$;
COMMENT ON FUNCTION neon_create_tenant(text) IS 'make a tenant with a branch and an endpoint "main" (on the controller); returns its id';

CREATE FUNCTION neon_drop_tenant(name text) RETURNS void LANGUAGE sql AS
$$ SELECT @extschema@.neon_control('drop_tenant', jsonb_build_object('name', name)) $$;
COMMENT ON FUNCTION neon_drop_tenant(text) IS 'drop a tenant with all its branches, endpoints and data (on the controller)';

CREATE FUNCTION neon_create_branch(name text, parent text = NULL, at_lsn pg_lsn = NULL, at_time timestamptz = NULL) RETURNS text
LANGUAGE sql AS $$ SELECT @extschema@.neon_control('create_branch', jsonb_build_object('name', name, 'parent', parent,
	'at_lsn', at_lsn, 'at_time', at_time)) #>> '{}' $$;
COMMENT ON FUNCTION neon_create_branch(text, text, pg_lsn, timestamptz) IS
	'make a branch of this branch (or of parent) with everything committed before the call, or as it was at an LSN or a time; returns its id';

CREATE FUNCTION neon_drop_branch(name text, cascade bool = false) RETURNS void LANGUAGE sql AS
$$ SELECT @extschema@.neon_control('drop_branch', jsonb_build_object('name', name, 'cascade', cascade)) $$;
COMMENT ON FUNCTION neon_drop_branch(text, bool) IS 'drop a branch with its endpoint and data; cascade drops its children too';

CREATE FUNCTION neon_rename_branch(name text, new_name text) RETURNS void LANGUAGE sql AS
$$ SELECT @extschema@.neon_control('rename_branch', jsonb_build_object('name', name, 'new_name', new_name)) $$;
COMMENT ON FUNCTION neon_rename_branch(text, text) IS 'give a branch another name';

CREATE FUNCTION neon_create_endpoint(name text, branch text = NULL) RETURNS text LANGUAGE sql AS
$$ SELECT @extschema@.neon_control('create_endpoint', jsonb_build_object('name', name, 'branch', branch)) #>> '{}' $$;
COMMENT ON FUNCTION neon_create_endpoint(text, text) IS 'make and start a server for a branch (of the same name, unless given); returns its URI';

CREATE FUNCTION neon_start_endpoint(name text) RETURNS text LANGUAGE sql AS
$$ SELECT @extschema@.neon_control('start_endpoint', jsonb_build_object('name', name)) #>> '{}' $$;
COMMENT ON FUNCTION neon_start_endpoint(text) IS 'start an endpoint if it does not run; returns its URI';

CREATE FUNCTION neon_suspend_endpoint(name text) RETURNS void LANGUAGE sql AS
$$ SELECT @extschema@.neon_control('suspend_endpoint', jsonb_build_object('name', name)) $$;
COMMENT ON FUNCTION neon_suspend_endpoint(text) IS 'stop an endpoint; its branch stays';

CREATE FUNCTION neon_drop_endpoint(name text) RETURNS void LANGUAGE sql AS
$$ SELECT @extschema@.neon_control('drop_endpoint', jsonb_build_object('name', name)) $$;
COMMENT ON FUNCTION neon_drop_endpoint(text) IS 'stop and forget an endpoint; its branch stays';

CREATE FUNCTION neon_connection_uri(branch text = NULL) RETURNS text LANGUAGE sql AS
$$ SELECT @extschema@.neon_control('connection_uri', jsonb_build_object('branch', branch)) #>> '{}' $$;
COMMENT ON FUNCTION neon_connection_uri(text) IS 'URI of a branch''s endpoint, password included';

CREATE FUNCTION neon_lsn_at(at timestamptz) RETURNS pg_lsn LANGUAGE sql AS
$$ SELECT (@extschema@.neon_control('lsn_at', jsonb_build_object('at', at)) #>> '{}')::pg_lsn $$;
COMMENT ON FUNCTION neon_lsn_at(timestamptz) IS 'the LSN at which this branch held what was committed at a time';

CREATE FUNCTION neon_checkpoint() RETURNS void LANGUAGE sql AS
$$ SELECT @extschema@.neon_control('checkpoint', '{}') $$;
COMMENT ON FUNCTION neon_checkpoint() IS 'make the pageserver write everything of the tenant to layer files now';

CREATE FUNCTION neon_current_branch() RETURNS text LANGUAGE sql AS
$$ SELECT @extschema@.neon_control('current_branch', '{}') #>> '{}' $$;
COMMENT ON FUNCTION neon_current_branch() IS 'name of the branch this session is connected to';

CREATE VIEW neon_tenants AS
	SELECT * FROM jsonb_to_recordset(neon_control('tenants', '{}')) AS t (id text, name text, created_at timestamptz);
COMMENT ON VIEW neon_tenants IS 'tenants (from an endpoint: its own)';
CREATE VIEW neon_branches AS
	SELECT * FROM jsonb_to_recordset(neon_control('branches', '{}')) AS b (name text, parent text, start_lsn pg_lsn,
		created_at timestamptz, timeline_id text, tenant text);
COMMENT ON VIEW neon_branches IS 'branches, their parents and the LSN they began at';
CREATE VIEW neon_endpoints AS
	SELECT * FROM jsonb_to_recordset(neon_control('endpoints', '{}')) AS e (name text, branch text, mode text, state text, pid int,
		host text, port int, started_at timestamptz, tenant text);
COMMENT ON VIEW neon_endpoints IS 'endpoints and whether they run';
CREATE VIEW neon_nodes AS
	SELECT * FROM jsonb_to_recordset(neon_control('nodes', '{}')) AS n (name text, role text, node_id int, host text, port int,
		registered_at timestamptz);
COMMENT ON VIEW neon_nodes IS 'servers of the cluster (on the controller)';

REVOKE ALL ON FUNCTION neon_control(text, jsonb), neon_create_tenant(text), neon_drop_tenant(text),
	neon_create_branch(text, text, pg_lsn, timestamptz), neon_drop_branch(text, bool), neon_rename_branch(text, text),
	neon_create_endpoint(text, text), neon_start_endpoint(text), neon_suspend_endpoint(text), neon_drop_endpoint(text),
	neon_connection_uri(text), neon_lsn_at(timestamptz), neon_checkpoint(), neon_current_branch() FROM PUBLIC;
