-- SPDX-License-Identifier: Apache-2.0
\echo Use "CREATE EXTENSION neon_proxy" to load this file. \quit

CREATE FUNCTION stats(OUT worker int, OUT name text, OUT value int8, OUT kind text, OUT help text) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'px_stats' LANGUAGE C STRICT;
COMMENT ON FUNCTION stats() IS 'counters of every worker of the proxy';
REVOKE ALL ON FUNCTION stats() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION stats() TO pg_monitor;

CREATE VIEW pg_stat_neon_proxy AS
	SELECT name, sum(value)::int8 AS value, kind, help FROM stats() GROUP BY name, kind, help ORDER BY name;
COMMENT ON VIEW pg_stat_neon_proxy IS 'counters of the proxy, all workers together';
GRANT USAGE ON SCHEMA neon_proxy TO pg_monitor;
GRANT SELECT ON pg_stat_neon_proxy TO pg_monitor;
