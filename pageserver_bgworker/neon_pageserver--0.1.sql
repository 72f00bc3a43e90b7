/* neon_pageserver: versioned pages from WAL.  SPDX-License-Identifier: Apache-2.0 */
\echo Use "CREATE EXTENSION neon_pageserver" in database postgres to load this file. \quit

-- ---------------------------------------------------------------- catalog: the truth about what this node holds

GRANT USAGE ON SCHEMA neon_pageserver TO PUBLIC;

CREATE TABLE neon_pageserver.tenant (
	tenant text PRIMARY KEY CHECK (tenant ~ '^[0-9a-f]{32}$'),
	generation bigint NOT NULL DEFAULT 0,
	created timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN neon_pageserver.tenant.generation IS 'newest generation the controller has attached the tenant with; older ones are refused';
COMMENT ON TABLE neon_pageserver.tenant IS 'tenants of this pageserver';

CREATE TABLE neon_pageserver.timeline (
	tenant text NOT NULL REFERENCES neon_pageserver.tenant,
	timeline text NOT NULL CHECK (timeline ~ '^[0-9a-f]{32}$'),
	ancestor text,
	start_lsn pg_lsn NOT NULL,
	system_id text NOT NULL,
	wal_seg_size int NOT NULL,
	safekeepers text[] NOT NULL,
	disk_consistent_lsn pg_lsn NOT NULL,
	disk_prev_lsn pg_lsn NOT NULL,
	created timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (tenant, timeline),
	CONSTRAINT timeline_ancestor FOREIGN KEY (tenant, ancestor) REFERENCES neon_pageserver.timeline (tenant, timeline)
);
CREATE INDEX timeline_ancestor ON neon_pageserver.timeline (tenant, ancestor);
COMMENT ON TABLE neon_pageserver.timeline IS
	'timelines (branches) of this pageserver; everything up to disk_consistent_lsn is in files that have a row in layer';

CREATE TABLE neon_pageserver.layer (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	tenant text NOT NULL,
	timeline text NOT NULL,
	file text NOT NULL,
	kind smallint NOT NULL CHECK (kind IN (1, 2)),
	level smallint NOT NULL,
	key_first bytea NOT NULL CHECK (length(key_first) = 18),
	key_last bytea NOT NULL CHECK (length(key_last) = 18),
	lsn_lo pg_lsn NOT NULL,
	lsn_hi pg_lsn NOT NULL CHECK (lsn_lo <= lsn_hi),
	file_bytes bigint NOT NULL,
	created timestamptz NOT NULL DEFAULT now(),
	UNIQUE (tenant, timeline, file),
	FOREIGN KEY (tenant, timeline) REFERENCES neon_pageserver.timeline ON DELETE CASCADE
);
COMMENT ON TABLE neon_pageserver.layer IS
	'immutable files of versions: kind 1 delta, 2 images; a file without a row does not count';

REVOKE ALL ON neon_pageserver.tenant, neon_pageserver.timeline, neon_pageserver.layer FROM PUBLIC;

-- ---------------------------------------------------------------- tenants and timelines (operators)

CREATE FUNCTION neon_pageserver.create_tenant(tenant text, password text) RETURNS void
	LANGUAGE c AS 'MODULE_PATHNAME', 'neon_ps_create_tenant';
COMMENT ON FUNCTION neon_pageserver.create_tenant(text, text) IS
	'make a tenant and its login role; sets the password if they exist';

CREATE FUNCTION neon_pageserver.drop_tenant(tenant text) RETURNS void
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'neon_ps_drop_tenant';
COMMENT ON FUNCTION neon_pageserver.drop_tenant(text) IS 'drop a tenant with its timelines and its role';

CREATE FUNCTION neon_pageserver.create_timeline(tenant text, timeline text, safekeepers text[],
	ancestor_timeline text DEFAULT NULL, ancestor_lsn pg_lsn DEFAULT NULL,
	OUT start_lsn pg_lsn, OUT system_id text, OUT wal_seg_size int) RETURNS record
	LANGUAGE c AS 'MODULE_PATHNAME', 'neon_ps_create_timeline';
COMMENT ON FUNCTION neon_pageserver.create_timeline(text, text, text[], text, pg_lsn) IS
	'make a timeline: a fresh cluster, or a branch of another timeline at an LSN';

CREATE FUNCTION neon_pageserver.attach(tenant text, generation bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE newest bigint;
BEGIN
	PERFORM set_config('synchronous_commit', 'on', true);		-- it must not be forgotten
	SELECT t.generation INTO newest FROM neon_pageserver.tenant t WHERE t.tenant = attach.tenant FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'tenant "%" is not on this pageserver', tenant USING ERRCODE = 'undefined_object', HINT = 'See create_tenant().';
	ELSIF newest > generation THEN
		RAISE EXCEPTION 'generation % of tenant "%" is old', generation, tenant USING ERRCODE = 'NE014',
			DETAIL = format('This pageserver has heard of generation %s.', newest),
			HINT = 'A controller that was restored from a backup calls neon_controller.after_restore().';
	END IF;
	UPDATE neon_pageserver.tenant t SET generation = attach.generation WHERE t.tenant = attach.tenant AND t.generation < attach.generation;
	RETURN generation;
END $$;
COMMENT ON FUNCTION neon_pageserver.attach(text, bigint) IS 'take a tenant under a generation; an older one than the newest heard of is refused';

CREATE FUNCTION neon_pageserver.reattach(tenant text, generation bigint) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT set_config('synchronous_commit', 'on', true);
	UPDATE neon_pageserver.tenant t SET generation = greatest(t.generation, $2) WHERE t.tenant = $1 RETURNING t.generation;
$$;
COMMENT ON FUNCTION neon_pageserver.reattach(text, bigint) IS
	'take a tenant under a new generation, or tell a newer one that was heard of; NULL when the tenant is not here';

CREATE FUNCTION neon_pageserver.create_timeline(tenant text, timeline text, safekeepers text[], ancestor_timeline text,
	ancestor_lsn pg_lsn, generation bigint, OUT start_lsn pg_lsn, OUT system_id text, OUT wal_seg_size int) RETURNS record
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM neon_pageserver.attach(tenant, generation);
	SELECT c.start_lsn, c.system_id, c.wal_seg_size INTO STRICT start_lsn, system_id, wal_seg_size
	FROM neon_pageserver.create_timeline(tenant, timeline, safekeepers, ancestor_timeline, ancestor_lsn) c;
END $$;
COMMENT ON FUNCTION neon_pageserver.create_timeline(text, text, text[], text, pg_lsn, bigint) IS
	'make a timeline, for a controller that holds this generation of the tenant';

CREATE FUNCTION neon_pageserver.drop_timeline(tenant text, timeline text) RETURNS void
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'neon_ps_drop_timeline';
COMMENT ON FUNCTION neon_pageserver.drop_timeline(text, text) IS 'drop a timeline that has no branches';

CREATE FUNCTION neon_pageserver.set_safekeepers(tenant text, timeline text, safekeepers text[]) RETURNS void
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'neon_ps_set_safekeepers';
COMMENT ON FUNCTION neon_pageserver.set_safekeepers(text, text, text[]) IS
	'the connection strings WAL of a timeline is read from';

CREATE FUNCTION neon_pageserver.checkpoint(tenant text DEFAULT NULL) RETURNS void
	LANGUAGE c AS 'MODULE_PATHNAME', 'neon_ps_checkpoint';
COMMENT ON FUNCTION neon_pageserver.checkpoint(text) IS 'write all open layers to files, now';

CREATE FUNCTION neon_pageserver.timeline_state(OUT tenant text, OUT timeline text, OUT last_record_lsn pg_lsn,
	OUT prev_record_lsn pg_lsn, OUT disk_consistent_lsn pg_lsn, OUT open_bytes bigint, OUT frozen_layers int,
	OUT writer_pid int) RETURNS SETOF record
	LANGUAGE c AS 'MODULE_PATHNAME', 'neon_ps_timeline_state';
COMMENT ON FUNCTION neon_pageserver.timeline_state() IS 'the timeline table in shared memory';

REVOKE EXECUTE ON FUNCTION neon_pageserver.create_tenant(text, text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.drop_tenant(text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.create_timeline(text, text, text[], text, pg_lsn) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.create_timeline(text, text, text[], text, pg_lsn, bigint) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.attach(text, bigint) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.reattach(text, bigint) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.drop_timeline(text, text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.set_safekeepers(text, text, text[]) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.checkpoint(text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.timeline_state() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION neon_pageserver.timeline_state() TO pg_monitor;

CREATE VIEW neon_pageserver.timelines AS
	SELECT t.tenant, t.timeline, t.ancestor, t.start_lsn, t.system_id, t.wal_seg_size, t.safekeepers,
		s.last_record_lsn, s.prev_record_lsn, s.disk_consistent_lsn, s.open_bytes, s.frozen_layers, s.writer_pid
	FROM neon_pageserver.timeline t LEFT JOIN neon_pageserver.timeline_state() s USING (tenant, timeline);
COMMENT ON VIEW neon_pageserver.timelines IS 'timelines and how far they have got';

CREATE VIEW neon_pageserver.layers AS
	SELECT l.tenant, l.timeline, l.file, CASE l.kind WHEN 1 THEN 'delta' ELSE 'image' END AS kind, l.level,
		l.key_first, l.key_last, l.lsn_lo, l.lsn_hi, l.file_bytes, l.created
	FROM neon_pageserver.layer l;
COMMENT ON VIEW neon_pageserver.layers IS 'layer files';

GRANT SELECT ON neon_pageserver.timelines, neon_pageserver.layers TO pg_monitor;

-- ---------------------------------------------------------------- for computes: each checks the tenant's role itself

CREATE FUNCTION neon_pageserver.last_record_lsn(tenant text, timeline text) RETURNS pg_lsn
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'neon_ps_last_record_lsn';
COMMENT ON FUNCTION neon_pageserver.last_record_lsn(text, text) IS 'end of the last WAL record the timeline has';

CREATE FUNCTION neon_pageserver.read_point(tenant text, timeline text, lsn pg_lsn) RETURNS pg_lsn
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'neon_ps_read_point';
COMMENT ON FUNCTION neon_pageserver.read_point(text, text, pg_lsn) IS
	'the place at or before an LSN where a branch, or an endpoint that only reads, can begin; returns when everything up to there is here';

CREATE PROCEDURE neon_pageserver.pagestream(tenant text, timeline text)
	LANGUAGE c AS 'MODULE_PATHNAME', 'neon_ps_pagestream';
COMMENT ON PROCEDURE neon_pageserver.pagestream(text, text) IS 'stream of page requests and answers in CopyBoth';

-- ---------------------------------------------------------------- ingest, base backup (begin)

CREATE PROCEDURE neon_pageserver.basebackup(tenant text, timeline text, lsn pg_lsn, prev_lsn pg_lsn, checkpoint pg_lsn = '0/0')
	LANGUAGE c AS 'MODULE_PATHNAME', 'neon_ps_basebackup';
COMMENT ON PROCEDURE neon_pageserver.basebackup(text, text, pg_lsn, pg_lsn, pg_lsn) IS
	'tar archive in CopyBoth: a data directory without relations that starts at an LSN without recovery';

CREATE FUNCTION neon_pageserver.lsn_at(tenant text, timeline text, at timestamptz) RETURNS pg_lsn
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'neon_ps_lsn_at';
COMMENT ON FUNCTION neon_pageserver.lsn_at(text, text, timestamptz) IS
	'end of the last WAL record before the first commit later than a time';

CREATE FUNCTION neon_pageserver.ingest_status(OUT tenant text, OUT timeline text, OUT state text, OUT worker_pid int,
	OUT safekeeper text, OUT last_record_lsn pg_lsn, OUT attempts_lsn pg_lsn, OUT attempts int, OUT message text)
	RETURNS SETOF record
	LANGUAGE c AS 'MODULE_PATHNAME', 'neon_ps_ingest_status';
COMMENT ON FUNCTION neon_pageserver.ingest_status() IS 'how ingest of each timeline fares';

CREATE VIEW neon_pageserver.ingest AS SELECT * FROM neon_pageserver.ingest_status();
COMMENT ON VIEW neon_pageserver.ingest IS
	'ingest of each timeline: where its WAL comes from, and failed attempts at a record; three quarantine the timeline';

CREATE FUNCTION neon_pageserver.resume_ingest(tenant text, timeline text) RETURNS void
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'neon_ps_resume_ingest';
COMMENT ON FUNCTION neon_pageserver.resume_ingest(text, text) IS 'end the quarantine of a timeline';

CREATE FUNCTION neon_pageserver.import_datadir(tenant text, timeline text, directory text) RETURNS pg_lsn
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'neon_ps_import_datadir';
COMMENT ON FUNCTION neon_pageserver.import_datadir(text, text, text) IS
	'make a timeline from a data directory that was stopped cleanly; returns where its WAL goes on';

CREATE FUNCTION neon_pageserver.ingest_wal_directory(tenant text, timeline text, directory text,
	upto pg_lsn DEFAULT NULL) RETURNS pg_lsn
	LANGUAGE c AS 'MODULE_PATHNAME', 'neon_ps_ingest_wal_directory';
COMMENT ON FUNCTION neon_pageserver.ingest_wal_directory(text, text, text, pg_lsn) IS
	'ingest WAL segments of a directory into a timeline without safekeepers; returns the last record''s end';

CREATE FUNCTION neon_pageserver.page_at(tenant text, timeline text, spc oid, db oid, rel oid, fork int, blk bigint,
	lsn pg_lsn) RETURNS bytea
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'neon_ps_page_at';
COMMENT ON FUNCTION neon_pageserver.page_at(text, text, oid, oid, oid, int, bigint, pg_lsn) IS
	'one page of a relation fork at an LSN';

CREATE FUNCTION neon_pageserver.rel_size_at(tenant text, timeline text, spc oid, db oid, rel oid, fork int, lsn pg_lsn)
	RETURNS bigint
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'neon_ps_rel_size_at';
COMMENT ON FUNCTION neon_pageserver.rel_size_at(text, text, oid, oid, oid, int, pg_lsn) IS
	'blocks of a relation fork at an LSN; NULL when it does not exist';

CREATE FUNCTION neon_pageserver.slru_segment_at(tenant text, timeline text, kind int, segment bigint, lsn pg_lsn)
	RETURNS bytea
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'neon_ps_slru_segment_at';
COMMENT ON FUNCTION neon_pageserver.slru_segment_at(text, text, int, bigint, pg_lsn) IS
	'an SLRU segment at an LSN (kind 0 pg_xact, 1 multixact offsets, 2 members); NULL when it does not exist';

CREATE FUNCTION neon_pageserver.layers_visited() RETURNS bigint
	LANGUAGE c AS 'MODULE_PATHNAME', 'neon_ps_layers_visited';
COMMENT ON FUNCTION neon_pageserver.layers_visited() IS
	'how many layer files the functions of this session have searched: what a read costs is the difference';

CREATE FUNCTION neon_pageserver.compare_directory(tenant text, timeline text, directory text, lsn pg_lsn,
	OUT path text, OUT block bigint, OUT problem text) RETURNS SETOF record
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'neon_ps_compare_directory';
COMMENT ON FUNCTION neon_pageserver.compare_directory(text, text, text, pg_lsn) IS
	'differences between a data directory that was stopped at an LSN and the timeline at that LSN';

REVOKE EXECUTE ON FUNCTION neon_pageserver.layers_visited() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.compare_directory(text, text, text, pg_lsn) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.ingest_status() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.resume_ingest(text, text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.import_datadir(text, text, text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.ingest_wal_directory(text, text, text, pg_lsn) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.page_at(text, text, oid, oid, oid, int, bigint, pg_lsn) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.rel_size_at(text, text, oid, oid, oid, int, pg_lsn) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION neon_pageserver.slru_segment_at(text, text, int, bigint, pg_lsn) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION neon_pageserver.ingest_status() TO pg_monitor;
GRANT SELECT ON neon_pageserver.ingest TO pg_monitor;

-- ---------------------------------------------------------------- ingest, base backup (end)

-- ---------------------------------------------------------------- redo (begin)

CREATE FUNCTION neon_pageserver.check_wal_directory(directory text, from_lsn pg_lsn, to_lsn pg_lsn DEFAULT NULL,
	logs_before text DEFAULT NULL, logs_after text DEFAULT NULL, OUT resource_manager text, OUT records bigint,
	OUT native bigint, OUT by_process bigint, OUT compared bigint, OUT mismatches bigint, OUT first_mismatch text)
	RETURNS SETOF record
	LANGUAGE c AS 'MODULE_PATHNAME', 'neon_pageserver_check_wal_directory';
COMMENT ON FUNCTION neon_pageserver.check_wal_directory(text, pg_lsn, pg_lsn, text, text) IS
	'replay WAL made with wal_consistency_checking in memory and compare every page, natively and by the redo process';
REVOKE EXECUTE ON FUNCTION neon_pageserver.check_wal_directory(text, pg_lsn, pg_lsn, text, text) FROM PUBLIC;

-- ---------------------------------------------------------------- redo (end)
