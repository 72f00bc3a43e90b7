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
