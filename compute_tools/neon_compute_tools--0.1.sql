\echo Use "CREATE EXTENSION neon_compute_tools" to load this file. \quit

-- SPDX-License-Identifier: Apache-2.0
-- Everything here acts on this host's files and processes: for superusers (the controller) only.

CREATE FUNCTION sync_safekeepers(tenant text, timeline text, safekeepers text, start_lsn pg_lsn, system_id text,
	wal_seg_size int, timeout_ms int, OUT lsn pg_lsn, OUT prev_lsn pg_lsn)
AS '$libdir/neon_walproposer', 'neon_sync_safekeepers' LANGUAGE C STRICT;
COMMENT ON FUNCTION sync_safekeepers(text, text, text, pg_lsn, text, int, int) IS
	'elect on the safekeepers without new WAL: the end of log that their quorum has, and the start of its last record';

CREATE FUNCTION create_data_directory(name text, pageserver text, tenant text, timeline text, lsn pg_lsn, prev_lsn pg_lsn,
	conf text, hba text) RETURNS void
AS 'MODULE_PATHNAME', 'ct_create_data_directory' LANGUAGE C STRICT;
COMMENT ON FUNCTION create_data_directory(text, text, text, text, pg_lsn, pg_lsn, text, text) IS
	'make a compute''s data directory from a base backup at lsn';

CREATE FUNCTION drop_data_directory(name text) RETURNS void
AS 'MODULE_PATHNAME', 'ct_drop_data_directory' LANGUAGE C STRICT;
COMMENT ON FUNCTION drop_data_directory(text) IS 'remove the data directory of a stopped compute';

CREATE FUNCTION start_process(name text, timeout_ms int = 60000) RETURNS void
AS 'MODULE_PATHNAME', 'ct_start_process' LANGUAGE C STRICT;
COMMENT ON FUNCTION start_process(text, int) IS 'start the server in a compute''s data directory and wait until it takes connections';

CREATE FUNCTION stop_process(name text, mode text = 'fast', timeout_ms int = 60000) RETURNS bool
AS 'MODULE_PATHNAME', 'ct_stop_process' LANGUAGE C STRICT;
COMMENT ON FUNCTION stop_process(text, text, int) IS 'stop a compute; false when none was running';

CREATE FUNCTION process_pid(name text) RETURNS int
AS 'MODULE_PATHNAME', 'ct_process_pid' LANGUAGE C STRICT;
COMMENT ON FUNCTION process_pid(text) IS 'pid of a compute''s postmaster, NULL when none runs';

CREATE FUNCTION forget_dead_process(name text) RETURNS bool
AS 'MODULE_PATHNAME', 'ct_forget_dead_process' LANGUAGE C STRICT;
COMMENT ON FUNCTION forget_dead_process(text) IS 'remove the pid file a killed compute left';

CREATE FUNCTION clear_port(port int) RETURNS bool
AS 'MODULE_PATHNAME', 'ct_clear_port' LANGUAGE C STRICT;
COMMENT ON FUNCTION clear_port(int) IS 'wait for, or end, the processes that a killed compute left at a port';

-- One call from the controller starts a compute: elect, fetch, start (docs/protocols.md, "Starting a compute").
CREATE FUNCTION start_compute(spec jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	x record;
	sockets text := current_setting('neon_compute_tools.base_directory');
	conf text;
	setting record;
BEGIN
	SELECT * INTO STRICT x FROM @extschema@.sync_safekeepers(spec->>'tenant', spec->>'timeline', spec->>'safekeepers',
		(spec->>'start_lsn')::pg_lsn, spec->>'system_id', (spec->>'wal_seg_size')::int, 30000);
	conf := format($c$
# Written at every start of this compute.
port = %s
listen_addresses = %L
unix_socket_directories = %L
shared_preload_libraries = 'neon_smgr,neon_walproposer'
fsync = off                        # durability is the safekeepers'
restart_after_crash = off          # a crashed compute starts from nothing
wal_level = logical
wal_log_hints = off
max_prepared_transactions = 100
max_wal_senders = 12
max_replication_slots = 10
password_encryption = 'scram-sha-256'
log_line_prefix = '%%m [%%p] %%b '
logging_collector = off
$c$, (spec->>'port')::int, spec->>'host', sockets);
	FOR setting IN SELECT key, value FROM jsonb_each_text(coalesce(spec->'settings', '{}')) LOOP
		IF setting.key !~ '^[a-z_][a-z0-9_.]*$' THEN
			RAISE EXCEPTION 'invalid setting name "%"', setting.key USING ERRCODE = 'invalid_name';
		END IF;
		conf := conf || format(E'%s = %L\n', setting.key, setting.value);
	END LOOP;
	conf := conf || format($c$neon.tenant_id = %L
neon.timeline_id = %L
neon.pageserver_connstring = %L
neon.safekeepers = %L
neon.start_lsn = %L
neon.controller_connstring = %L
$c$, spec->>'tenant', spec->>'timeline', spec->>'pageserver', spec->>'safekeepers', x.lsn::text, spec->>'controller');
	PERFORM @extschema@.create_data_directory(spec->>'name', spec->>'pageserver', spec->>'tenant', spec->>'timeline',
		x.lsn, coalesce(x.prev_lsn, '0/0'), conf, E'local all all trust\nlocal replication all trust\n'
		'host all all 0.0.0.0/0 scram-sha-256\nhost all all ::/0 scram-sha-256\n'
		'host replication all 0.0.0.0/0 scram-sha-256\nhost replication all ::/0 scram-sha-256\n');
	PERFORM @extschema@.clear_port((spec->>'port')::int);
	PERFORM @extschema@.start_process(spec->>'name');
	RETURN jsonb_build_object('lsn', x.lsn, 'pid', @extschema@.process_pid(spec->>'name'));
END $$;
COMMENT ON FUNCTION start_compute(jsonb) IS 'start a compute from nothing: elect, base backup, start';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @extschema@ FROM PUBLIC;
