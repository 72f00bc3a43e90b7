/* neon_safekeeper--1.0.sql - SPDX-License-Identifier: Apache-2.0 */

\echo Use "CREATE EXTENSION neon_safekeeper" to load this file. \quit

GRANT USAGE ON SCHEMA neon_safekeeper TO PUBLIC;

-- Tables: nobody but the safekeeper reads or writes them.

CREATE TABLE neon_safekeeper.tenant (
	tenant text PRIMARY KEY CHECK (tenant ~ '^[0-9a-f]{32}$'),
	created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE neon_safekeeper.tenant IS 'tenants that have WAL here; each has the login role neon_t_<tenant>';
REVOKE ALL ON neon_safekeeper.tenant FROM PUBLIC;

CREATE TABLE neon_safekeeper.timeline (
	tenant text NOT NULL REFERENCES neon_safekeeper.tenant,
	timeline text NOT NULL CHECK (timeline ~ '^[0-9a-f]{32}$'),
	start_lsn pg_lsn NOT NULL,
	system_id text NOT NULL,
	wal_segment_bytes integer NOT NULL,
	incarnation bigint NOT NULL,
	generation bigint NOT NULL,
	members text NOT NULL,
	term bigint NOT NULL DEFAULT 0,
	history text NOT NULL DEFAULT '',
	commit_lsn pg_lsn NOT NULL DEFAULT '0/0',
	truncate_lsn pg_lsn NOT NULL DEFAULT '0/0',
	created_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (tenant, timeline)
);
COMMENT ON TABLE neon_safekeeper.timeline IS 'timelines: identity, membership, vote (term), term history';
COMMENT ON COLUMN neon_safekeeper.timeline.incarnation IS 'random number that the term file beside the WAL has as well';
COMMENT ON COLUMN neon_safekeeper.timeline.commit_lsn IS 'written now and then: where the scan for the end of WAL begins';
REVOKE ALL ON neon_safekeeper.timeline FROM PUBLIC;

CREATE TABLE neon_safekeeper.dropped_timeline (
	tenant text NOT NULL,
	timeline text NOT NULL,
	incarnation bigint NOT NULL,
	dropped_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (tenant, timeline, incarnation)
);
COMMENT ON TABLE neon_safekeeper.dropped_timeline IS 'timelines whose files are still to be removed';
REVOKE ALL ON neon_safekeeper.dropped_timeline FROM PUBLIC;

-- Control: for superusers, and for roles that are granted it.

CREATE FUNCTION neon_safekeeper.create_tenant(tenant text, password text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	role_name text;
BEGIN
	IF tenant IS NULL OR tenant !~ '^[0-9a-f]{32}$' THEN
		RAISE EXCEPTION 'invalid tenant id: "%"', tenant
			USING ERRCODE = 'invalid_parameter_value', HINT = 'An id has 32 hexadecimal digits.';
	END IF;
	role_name := 'neon_t_' || tenant;
	INSERT INTO neon_safekeeper.tenant (tenant) VALUES (create_tenant.tenant) ON CONFLICT DO NOTHING;
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role_name) THEN
		EXECUTE format('CREATE ROLE %I LOGIN NOINHERIT', role_name);
	END IF;
	IF password IS NULL THEN
		EXECUTE format('ALTER ROLE %I PASSWORD NULL', role_name);
	ELSE
		EXECUTE format('ALTER ROLE %I PASSWORD %L', role_name, password);
	END IF;
END
$$;
COMMENT ON FUNCTION neon_safekeeper.create_tenant(text, text) IS 'make a tenant and its login role, or set its password';
REVOKE ALL ON FUNCTION neon_safekeeper.create_tenant(text, text) FROM PUBLIC;

CREATE FUNCTION neon_safekeeper.create_timeline(tenant text, timeline text, start_lsn pg_lsn, system_id text,
	wal_seg_size integer, members text) RETURNS void
LANGUAGE C STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'neon_safekeeper_create_timeline';
COMMENT ON FUNCTION neon_safekeeper.create_timeline(text, text, pg_lsn, text, integer, text) IS
	'make a timeline with an empty log that begins at start_lsn; members are node ids like 1,2,3';
REVOKE ALL ON FUNCTION neon_safekeeper.create_timeline(text, text, pg_lsn, text, integer, text) FROM PUBLIC;

CREATE FUNCTION neon_safekeeper.drop_timeline(tenant text, timeline text) RETURNS void
LANGUAGE C STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'neon_safekeeper_drop_timeline';
COMMENT ON FUNCTION neon_safekeeper.drop_timeline(text, text) IS 'forget a timeline and remove its WAL';
REVOKE ALL ON FUNCTION neon_safekeeper.drop_timeline(text, text) FROM PUBLIC;

CREATE FUNCTION neon_safekeeper.drop_tenant(tenant text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	role_name text := 'neon_t_' || tenant;
BEGIN
	PERFORM neon_safekeeper.drop_timeline(t.tenant, t.timeline)
		FROM neon_safekeeper.timeline t WHERE t.tenant = drop_tenant.tenant;
	DELETE FROM neon_safekeeper.tenant t WHERE t.tenant = drop_tenant.tenant;
	IF FOUND AND EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role_name) THEN
		PERFORM pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a WHERE a.usename = role_name;
		EXECUTE format('DROP ROLE %I', role_name);
	END IF;
END
$$;
COMMENT ON FUNCTION neon_safekeeper.drop_tenant(text) IS 'drop a tenant: its timelines, their WAL, its role';
REVOKE ALL ON FUNCTION neon_safekeeper.drop_tenant(text) FROM PUBLIC;

-- The stream from a compute.  It checks by itself that the caller is the tenant's role or a superuser.

CREATE PROCEDURE neon_safekeeper.wal_push(tenant text, timeline text)
LANGUAGE C AS 'MODULE_PATHNAME', 'neon_safekeeper_wal_push';
COMMENT ON PROCEDURE neon_safekeeper.wal_push(text, text) IS 'stream of the consensus protocol: votes and WAL';
GRANT EXECUTE ON PROCEDURE neon_safekeeper.wal_push(text, text) TO PUBLIC;

-- What people and tests look at.

CREATE FUNCTION neon_safekeeper.timeline_state(OUT tenant text, OUT timeline text, OUT term bigint,
	OUT last_log_term bigint, OUT start_lsn pg_lsn, OUT write_lsn pg_lsn, OUT flush_lsn pg_lsn, OUT commit_lsn pg_lsn,
	OUT state text, OUT problem text, OUT senders integer) RETURNS SETOF record
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'neon_safekeeper_timeline_state';
COMMENT ON FUNCTION neon_safekeeper.timeline_state() IS 'timelines in shared memory';
REVOKE ALL ON FUNCTION neon_safekeeper.timeline_state() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION neon_safekeeper.timeline_state() TO pg_monitor;

CREATE FUNCTION neon_safekeeper.visible_history(history text, flush_lsn pg_lsn) RETURNS text
LANGUAGE C STRICT IMMUTABLE AS 'MODULE_PATHNAME', 'neon_safekeeper_visible_history';
COMMENT ON FUNCTION neon_safekeeper.visible_history(text, pg_lsn) IS 'the part of a term history that the log has';
REVOKE ALL ON FUNCTION neon_safekeeper.visible_history(text, pg_lsn) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION neon_safekeeper.visible_history(text, pg_lsn) TO pg_monitor;

CREATE VIEW neon_safekeeper.timelines AS
	SELECT s.tenant, s.timeline, s.term, s.last_log_term, s.start_lsn, s.write_lsn, s.flush_lsn, s.commit_lsn,
		neon_safekeeper.visible_history(t.history, s.flush_lsn) AS history,
		s.state, s.problem, t.generation, t.members, s.senders
	FROM neon_safekeeper.timeline_state() s
	LEFT JOIN neon_safekeeper.timeline t ON t.tenant = s.tenant AND t.timeline = s.timeline;
COMMENT ON VIEW neon_safekeeper.timelines IS 'every timeline of this safekeeper: term, positions of its log, problems';
REVOKE ALL ON neon_safekeeper.timelines FROM PUBLIC;
GRANT SELECT ON neon_safekeeper.timelines TO pg_monitor;
