\echo Use "CREATE EXTENSION neon_compute_tools" to load this file. \quit

-- SPDX-License-Identifier: Apache-2.0
-- Everything here acts on this host's files and processes: for superusers (the controller) only.
--
-- First the provider "local", computes as processes of this host; one is started or stopped by one session at a time (compute_lock).  Then
-- providers, and what a controller asks for through them (start_compute, stop_compute, compute_status, compute_query, drop_compute); then what
-- is the same with every provider: how busy a compute is, and its roles, databases, extensions and settings.

-- ---------------------------------------------------------------- parts of a start

CREATE FUNCTION sync_safekeepers(tenant text, timeline text, safekeepers text, start_lsn pg_lsn, system_id text,
	wal_seg_size int, timeout_ms int, OUT lsn pg_lsn, OUT prev_lsn pg_lsn)
AS '$libdir/neon_walproposer', 'neon_sync_safekeepers' LANGUAGE C STRICT;
COMMENT ON FUNCTION sync_safekeepers(text, text, text, pg_lsn, text, int, int) IS
	'elect on the safekeepers without new WAL: the end of log that their quorum has, and the start of its last record';

CREATE FUNCTION create_data_directory(name text, pageserver text, tenant text, timeline text, lsn pg_lsn, prev_lsn pg_lsn,
	conf text, hba text, standby bool = false, checkpoint pg_lsn = '0/0') RETURNS void
AS 'MODULE_PATHNAME', 'ct_create_data_directory' LANGUAGE C STRICT;
COMMENT ON FUNCTION create_data_directory(text, text, text, text, pg_lsn, pg_lsn, text, text, bool, pg_lsn) IS
	'make a compute''s data directory from a base backup at lsn; standby: of a server that stays there, or follows the log from the redo of a checkpoint on';

CREATE FUNCTION drop_data_directory(name text) RETURNS void
AS 'MODULE_PATHNAME', 'ct_drop_data_directory' LANGUAGE C STRICT;
COMMENT ON FUNCTION drop_data_directory(text) IS 'remove the data directory of a stopped compute';

CREATE FUNCTION write_configuration(name text, conf text, hba text) RETURNS void
AS 'MODULE_PATHNAME', 'ct_write_configuration' LANGUAGE C STRICT;
COMMENT ON FUNCTION write_configuration(text, text, text) IS 'replace the configuration files of a compute''s data directory';

CREATE FUNCTION seal_directory(name text) RETURNS bool
AS 'MODULE_PATHNAME', 'ct_seal_directory' LANGUAGE C STRICT;
COMMENT ON FUNCTION seal_directory(text) IS
	'after a clean stop: make the directory durable, so that the next start may use it; false when it is of no use';

CREATE FUNCTION open_directory(name text, tenant text, timeline text, lsn pg_lsn, prev_lsn pg_lsn, standby bool = false) RETURNS text
AS 'MODULE_PATHNAME', 'ct_open_directory' LANGUAGE C STRICT;
COMMENT ON FUNCTION open_directory(text, text, text, pg_lsn, pg_lsn, bool) IS
	'NULL if the directory is what the log ends with (standby: of a static endpoint at lsn) and is to be started once as it is; else why it is of no use';

CREATE FUNCTION wait_for_process(name text, timeout_ms int) RETURNS int
AS 'MODULE_PATHNAME', 'ct_wait_for_process' LANGUAGE C STRICT;
COMMENT ON FUNCTION wait_for_process(text, int) IS 'wait until the server of a compute, if it has one, takes connections; its pid';

CREATE FUNCTION start_process(name text, timeout_ms int = 60000, memory_mb int = 0, cpu_percent int = 0) RETURNS int
AS 'MODULE_PATHNAME', 'ct_start_process' LANGUAGE C STRICT;
COMMENT ON FUNCTION start_process(text, int, int, int) IS
	'start the server in a compute''s data directory and wait until it takes connections; returns its pid.  Limits of 0 are none';

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

CREATE FUNCTION compute_lock(name text) RETURNS void LANGUAGE sql AS $$
	SELECT pg_advisory_xact_lock(hashtextextended('neon compute ' || name, 0));
$$;
COMMENT ON FUNCTION compute_lock(text) IS 'until the end of the transaction nobody else starts, stops or removes this compute';

-- Not SQL's: a backslash is one there in any string, and E'' is unknown.
CREATE FUNCTION conf_literal(value text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT '''' || replace(replace(value, '\', '\\'), '''', '''''') || '''';
$$;
COMMENT ON FUNCTION conf_literal(text) IS 'a value as a string of postgresql.conf';

-- postgresql.conf of a compute that begins at x
CREATE FUNCTION compute_conf(spec jsonb, x pg_lsn) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	conf text;
	setting record;
BEGIN
	conf := format($c$
# Written at every start of this compute.
port = %s
listen_addresses = %s
unix_socket_directories = %s
shared_preload_libraries = %s
fsync = off                        # durability is the safekeepers'
restart_after_crash = off          # a crashed compute starts from nothing
wal_level = logical
wal_log_hints = off
max_prepared_transactions = 100
max_worker_processes = 11          # the 8 of a stock server, and up to three of our own
max_wal_senders = 12
max_replication_slots = 10
password_encryption = 'scram-sha-256'
log_line_prefix = '%%m [%%p] %%b '
logging_collector = off
$c$, (spec->>'port')::int, @extschema@.conf_literal(spec->>'host'),
		@extschema@.conf_literal(current_setting('neon_compute_tools.base_directory')),
		@extschema@.conf_literal(CASE WHEN coalesce(spec->>'static_lsn', spec->>'replica_source') IS NULL THEN 'neon_smgr,neon_walproposer' ELSE 'neon_smgr' END));
	FOR setting IN SELECT key, value FROM jsonb_each_text(coalesce(spec->'settings', '{}')) LOOP
		IF setting.key !~ '^[a-z_][a-z0-9_.]*$' THEN
			RAISE EXCEPTION 'invalid setting name "%"', setting.key USING ERRCODE = 'invalid_name';
		END IF;
		conf := conf || format(E'%s = %s\n', setting.key, @extschema@.conf_literal(setting.value));
	END LOOP;
	conf := conf || format($c$neon.tenant_id = %L
neon.timeline_id = %L
neon.pageserver_connstring = %L
neon.controller_connstring = %L
$c$, spec->>'tenant', spec->>'timeline', spec->>'pageserver', spec->>'controller');
	IF spec->>'static_lsn' IS NOT NULL THEN
		RETURN conf || format($c$neon.static_lsn = %L
neon.static_timeline_id = %L
hot_standby = on
wal_retrieve_retry_interval = '1h'	# there is nothing to come
$c$, x::text, spec->>'static_timeline');
	END IF;
	IF spec->>'replica_source' IS NOT NULL THEN
		RETURN conf || format($c$neon.replica = on
hot_standby = on
primary_conninfo = %s
$c$, @extschema@.conf_literal(spec->>'replica_source'));
	END IF;
	RETURN conf || format($c$neon.safekeepers = %L
neon.start_lsn = %L
$c$, spec->>'safekeepers', x::text);
END $$;
COMMENT ON FUNCTION compute_conf(jsonb, pg_lsn) IS 'postgresql.conf of a compute whose WAL begins at x';

-- From a standby no log is received.
CREATE FUNCTION compute_hba(standby bool = false) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT E'local all all trust\nhost all all 0.0.0.0/0 scram-sha-256\nhost all all ::/0 scram-sha-256\n' || CASE WHEN standby THEN '' ELSE
		E'local replication all trust\nhost replication all 0.0.0.0/0 scram-sha-256\nhost replication all ::/0 scram-sha-256\n' END;
$$;
COMMENT ON FUNCTION compute_hba(bool) IS 'pg_hba.conf of every compute: passwords for connections over the network, trust for the host''s owner';

-- ---------------------------------------------------------------- the provider "local": processes of this host

-- The timeline of the compute whose directory this is, NULL when there is none.
CREATE FUNCTION local_timeline(name text) RETURNS text LANGUAGE sql AS $$
	SELECT substring(pg_read_file(format('%s/%s/postgresql.conf', current_setting('neon_compute_tools.base_directory'), name), 0, 1000000, true)
		FROM 'neon\.timeline_id = ''([0-9a-f]{32})''');
$$;
COMMENT ON FUNCTION local_timeline(text) IS 'the timeline of the compute whose directory this is; NULL when there is none';

-- What it shows, if it is a static endpoint's.
CREATE FUNCTION local_static_lsn(name text) RETURNS pg_lsn LANGUAGE sql AS $$
	SELECT substring(pg_read_file(format('%s/%s/postgresql.conf', current_setting('neon_compute_tools.base_directory'), name), 0, 1000000, true)
		FROM 'neon\.static_lsn = ''([0-9A-F]+/[0-9A-F]+)''')::pg_lsn;
$$;
COMMENT ON FUNCTION local_static_lsn(text) IS 'the LSN that the static endpoint whose directory this is shows; NULL when it is no such';

-- Elect on the safekeepers.
CREATE FUNCTION local_sync(spec jsonb, OUT lsn pg_lsn, OUT prev_lsn pg_lsn) LANGUAGE sql AS $$
	SELECT lsn, coalesce(prev_lsn, '0/0') FROM @extschema@.sync_safekeepers(spec->>'tenant', spec->>'timeline', spec->>'safekeepers',
		(spec->>'start_lsn')::pg_lsn, spec->>'system_id', (spec->>'wal_seg_size')::int, 30000);
$$;
COMMENT ON FUNCTION local_sync(jsonb) IS 'elect on the safekeepers of a specification: where the compute''s WAL begins, and the record before';

CREATE FUNCTION local_start_process(spec jsonb) RETURNS int LANGUAGE sql AS $$
	SELECT @extschema@.start_process(spec->>'name', 60000, coalesce((spec->>'memory_mb')::int, 0), coalesce((spec->>'cpu_percent')::int, 0));
$$;
COMMENT ON FUNCTION local_start_process(jsonb) IS 'start a server in the directory of a compute; returns when it takes connections';

-- The server's log goes on behind x, or, of a standby, begins there.
CREATE FUNCTION local_start_fresh(spec jsonb, timeline text, x pg_lsn, prev pg_lsn, standby bool = false, checkpoint pg_lsn = '0/0') RETURNS timestamptz
LANGUAGE plpgsql AS $$
DECLARE fetched timestamptz;
BEGIN
	PERFORM @extschema@.forget_dead_process(spec->>'name');
	PERFORM @extschema@.create_data_directory(spec->>'name', spec->>'pageserver', spec->>'tenant', timeline, x, prev,
		@extschema@.compute_conf(spec, x), @extschema@.compute_hba(standby), standby, checkpoint);
	fetched := clock_timestamp();
	PERFORM @extschema@.local_start_process(spec);
	RETURN fetched;
END $$;
COMMENT ON FUNCTION local_start_fresh(jsonb, text, pg_lsn, pg_lsn, bool, pg_lsn) IS 'start a compute from a base backup; returns when that was fetched';

CREATE FUNCTION milliseconds(since timestamptz, until timestamptz = clock_timestamp()) RETURNS numeric LANGUAGE sql AS $$
	SELECT round(extract(epoch FROM until - since) * 1000, 1);
$$;
COMMENT ON FUNCTION milliseconds(timestamptz, timestamptz) IS 'between two times';

-- In the directory it was stopped in.  why is NULL when it runs; tried: a server was started, and may have written.
CREATE FUNCTION local_start_warm(spec jsonb, x pg_lsn, prev pg_lsn, OUT why text, OUT tried bool) LANGUAGE plpgsql AS $$
DECLARE compute text := spec->>'name';
BEGIN
	tried := false;
	why := @extschema@.open_directory(compute, spec->>'tenant', spec->>'timeline', x, prev);
	IF why IS NULL THEN
		PERFORM @extschema@.write_configuration(compute, @extschema@.compute_conf(spec, x), @extschema@.compute_hba());
		tried := true;
		PERFORM @extschema@.local_start_process(spec);
	END IF;
EXCEPTION WHEN OTHERS THEN
	why := SQLERRM;
	RAISE LOG 'compute "%" did not start in the directory it was stopped in: %', compute, why;
	PERFORM @extschema@.stop_process(compute, 'immediate');
END $$;
COMMENT ON FUNCTION local_start_warm(jsonb, pg_lsn, pg_lsn) IS
	'start a compute in the directory it was stopped in; why is NULL when it runs, tried says whether a server was started and may have written';

-- A static endpoint: no safekeeper is asked.  Its LSN never changes, so whatever was cleanly stopped there is right.
CREATE FUNCTION local_start_static(spec jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	compute text := spec->>'name';
	x pg_lsn := spec->>'static_lsn';
	began timestamptz := clock_timestamp();
	fetched timestamptz := began;
	why text;
BEGIN
	PERFORM @extschema@.clear_port((spec->>'port')::int);
	why := @extschema@.open_directory(compute, spec->>'tenant', spec->>'timeline', x, x, true);
	IF why IS NULL THEN
		BEGIN
			PERFORM @extschema@.write_configuration(compute, @extschema@.compute_conf(spec, x), @extschema@.compute_hba(true));
			PERFORM @extschema@.local_start_process(spec);
		EXCEPTION WHEN OTHERS THEN
			why := SQLERRM;
			RAISE LOG 'compute "%" did not start in the directory it was stopped in: %', compute, why;
			PERFORM @extschema@.stop_process(compute, 'immediate');
		END;
	END IF;
	IF why IS NOT NULL THEN
		fetched := @extschema@.local_start_fresh(spec, spec->>'static_timeline', x, '0/0', true);
	END IF;
	RETURN jsonb_build_object('lsn', x, 'pid', @extschema@.process_pid(compute), 'started', true, 'warm', why IS NULL, 'not_warm', why,
		'fetch_ms', @extschema@.milliseconds(began, fetched), 'start_ms', @extschema@.milliseconds(fetched));
END $$;
COMMENT ON FUNCTION local_start_static(jsonb) IS 'start a static endpoint as a process of this host, where it was stopped or from nothing';

-- A replica: always from nothing, as what it remembers is true of where it was.
CREATE FUNCTION local_start_replica(spec jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz := clock_timestamp();
	fetched timestamptz;
BEGIN
	PERFORM @extschema@.clear_port((spec->>'port')::int);
	BEGIN
		fetched := @extschema@.local_start_fresh(spec, spec->>'timeline', (spec->>'redo_lsn')::pg_lsn, '0/0', true, (spec->>'checkpoint_lsn')::pg_lsn);
	EXCEPTION WHEN OTHERS THEN
		PERFORM @extschema@.stop_process(spec->>'name', 'immediate');	-- it may wait for a moment in the log that does not come
		RAISE;
	END;
	RETURN jsonb_build_object('lsn', spec->>'redo_lsn', 'pid', @extschema@.process_pid(spec->>'name'), 'started', true,
		'warm', false, 'not_warm', 'it is a replica',
		'fetch_ms', @extschema@.milliseconds(began, fetched), 'start_ms', @extschema@.milliseconds(fetched));
END $$;
COMMENT ON FUNCTION local_start_replica(jsonb) IS 'start a replica as a process of this host';

-- Elect; then start what is here if it is what the log ends with, else fetch and start (docs/protocols.md, "Starting a compute").
CREATE FUNCTION local_start(spec jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	compute text := spec->>'name';
	running int;
	x record;
	warm record;
	began timestamptz := clock_timestamp();
	synced timestamptz;
	fetched timestamptz;
BEGIN
	PERFORM @extschema@.compute_lock(compute);
	running := @extschema@.process_pid(compute);
	IF running IS NOT NULL THEN
		IF (@extschema@.local_timeline(compute), @extschema@.local_static_lsn(compute)) IS DISTINCT FROM (spec->>'timeline', (spec->>'static_lsn')::pg_lsn) THEN
			RAISE EXCEPTION 'compute "%" runs on another timeline or LSN', compute USING ERRCODE = 'object_in_use', HINT = 'Stop it first.';
		END IF;
		PERFORM @extschema@.wait_for_process(compute, 60000);		-- a start that was interrupted may still be going on
		RETURN jsonb_build_object('pid', running, 'started', false);
	END IF;
	IF spec->>'static_lsn' IS NOT NULL THEN
		RETURN @extschema@.local_start_static(spec);
	ELSIF spec->>'replica_source' IS NOT NULL THEN
		RETURN @extschema@.local_start_replica(spec);
	END IF;
	SELECT * INTO STRICT x FROM @extschema@.local_sync(spec);
	PERFORM @extschema@.clear_port((spec->>'port')::int);
	synced := clock_timestamp();
	fetched := synced;
	SELECT * INTO STRICT warm FROM @extschema@.local_start_warm(spec, x.lsn, x.prev_lsn);
	IF warm.why IS NOT NULL THEN
		IF warm.tried THEN
			SELECT * INTO STRICT x FROM @extschema@.local_sync(spec);
			synced := clock_timestamp();
		END IF;
		fetched := @extschema@.local_start_fresh(spec, spec->>'timeline', x.lsn, x.prev_lsn);
	END IF;
	RETURN jsonb_build_object('lsn', x.lsn, 'pid', @extschema@.process_pid(compute), 'started', true,
		'warm', warm.why IS NULL, 'not_warm', warm.why,
		'sync_ms', @extschema@.milliseconds(began, synced), 'fetch_ms', @extschema@.milliseconds(synced, fetched), 'start_ms', @extschema@.milliseconds(fetched));
END $$;
COMMENT ON FUNCTION local_start(jsonb) IS
	'start a compute as a process of this host, where it was stopped if the timeline has not moved, else from nothing; done if it runs';

CREATE FUNCTION local_stop(name text, mode text = 'fast') RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	stopped bool;
	warm bool := false;
BEGIN
	PERFORM @extschema@.compute_lock(name);
	stopped := @extschema@.stop_process(name, mode);
	BEGIN
		warm := @extschema@.seal_directory(name);
	EXCEPTION WHEN OTHERS THEN
		RAISE LOG 'compute "%" will start from nothing: %', name, SQLERRM;
	END;
	RETURN jsonb_build_object('stopped', stopped, 'warm', warm);
END $$;
COMMENT ON FUNCTION local_stop(text, text) IS 'stop a compute of this host';

-- running; stopped: it has ended as it was told to; crashed: it has not; absent
CREATE FUNCTION local_status(name text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('pid', pid, 'state', CASE WHEN pid IS NOT NULL THEN 'running'
		WHEN (pg_stat_file(dir, true)).isdir IS NULL THEN 'absent'
		WHEN (pg_stat_file(dir || 'neon/warm.written', true)).size IS NOT NULL OR (pg_stat_file(dir || 'neon/warm.sealed', true)).size IS NOT NULL
			OR (pg_stat_file(dir || 'stopped_by_hand', true)).size IS NOT NULL THEN 'stopped'
		ELSE 'crashed' END)
	FROM @extschema@.process_pid(name) pid, format('%s/%s/', current_setting('neon_compute_tools.base_directory'), name) dir;
$$;
COMMENT ON FUNCTION local_status(text) IS 'state and pid (null when it does not run) of a compute of this host';

CREATE FUNCTION local_drop(name text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	PERFORM @extschema@.local_stop(name, 'fast');
	PERFORM @extschema@.forget_dead_process(name);
	PERFORM @extschema@.drop_data_directory(name);
	RETURN '{}';
END $$;
COMMENT ON FUNCTION local_drop(text) IS 'stop a compute of this host and remove what it has here';

-- Over the socket that only this host's owner can open.
CREATE FUNCTION local_conninfo(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	base text := current_setting('neon_compute_tools.base_directory');
	port text := split_part(pg_read_file(format('%s/%s/postmaster.pid', base, name), 0, 10000, true), E'\n', 4);
BEGIN
	IF port IS NULL OR port !~ '^[0-9]+$' THEN
		RAISE EXCEPTION 'compute "%" does not run', name USING ERRCODE = 'sqlclient_unable_to_establish_sqlconnection', HINT = 'Start it first.';
	END IF;
	RETURN format('host=%s port=%s user=postgres', base, port);
END $$;
COMMENT ON FUNCTION local_conninfo(text) IS 'how this host reaches a compute of its own as its administrator';

-- ---------------------------------------------------------------- providers
--
-- All that a controller and the watcher do with a compute goes through these five functions of its provider; the README says what each has to do.

CREATE TABLE providers (
	name text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
	start_function text NOT NULL,		-- (spec jsonb) returns jsonb: started, and what else there is to say of the start
	stop_function text NOT NULL,		-- (name text, mode text) returns jsonb
	status_function text NOT NULL,		-- (name text) returns jsonb: state, and while it runs pid
	conninfo_function text NOT NULL,	-- (name text) returns text
	drop_function text NOT NULL			-- (name text) returns jsonb
);
COMMENT ON TABLE providers IS 'what can run a compute: functions that are called for it; a row more is a provider more';

CREATE FUNCTION check_provider_function(provider text, what text, function_name text, arguments text, result regtype) RETURNS void LANGUAGE plpgsql AS $$
DECLARE f regprocedure := to_regprocedure(format('%s(%s)', function_name, arguments));
BEGIN
	IF f IS NULL THEN
		RAISE EXCEPTION 'provider "%" has no function to % a compute', provider, what USING ERRCODE = 'undefined_function',
			DETAIL = format('There is no function %s(%s).', function_name, arguments),
			HINT = 'Create it before, and name it with its schema and without arguments.';
	ELSIF (SELECT p.prorettype <> result OR p.proretset OR p.prokind <> 'f' FROM pg_proc p WHERE p.oid = f) THEN
		RAISE EXCEPTION 'provider "%" has no function to % a compute', provider, what USING ERRCODE = 'datatype_mismatch',
			DETAIL = format('%s does not return one value of type %s.', f, result), HINT = 'See the README of compute_tools for what it has to return.';
	END IF;
END $$;
COMMENT ON FUNCTION check_provider_function(text, text, text, text, regtype) IS 'refuse a provider one of whose functions is not there';

CREATE FUNCTION check_provider() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM @extschema@.check_provider_function(NEW.name, 'start', NEW.start_function, 'jsonb', 'jsonb');
	PERFORM @extschema@.check_provider_function(NEW.name, 'stop', NEW.stop_function, 'text, text', 'jsonb');
	PERFORM @extschema@.check_provider_function(NEW.name, 'look at', NEW.status_function, 'text', 'jsonb');
	PERFORM @extschema@.check_provider_function(NEW.name, 'connect to', NEW.conninfo_function, 'text', 'text');
	PERFORM @extschema@.check_provider_function(NEW.name, 'drop', NEW.drop_function, 'text', 'jsonb');
	RETURN NEW;
END $$;
COMMENT ON FUNCTION check_provider() IS 'trigger: a provider has all its functions';
CREATE TRIGGER check_provider BEFORE INSERT OR UPDATE ON providers FOR EACH ROW EXECUTE FUNCTION check_provider();

INSERT INTO providers VALUES ('local', '@extschema@.local_start', '@extschema@.local_stop', '@extschema@.local_status',
	'@extschema@.local_conninfo', '@extschema@.local_drop');
SELECT pg_catalog.pg_extension_config_dump('providers', 'WHERE name <> ''local''');

CREATE FUNCTION register_provider(name text, start_function text, stop_function text, status_function text, conninfo_function text, drop_function text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF name = 'local' THEN
		RAISE EXCEPTION 'provider "local" cannot be changed' USING ERRCODE = 'reserved_name', HINT = 'Register yours under another name.';
	END IF;
	INSERT INTO @extschema@.providers VALUES ($1, $2, $3, $4, $5, $6)
	ON CONFLICT ON CONSTRAINT providers_pkey DO UPDATE SET start_function = $2, stop_function = $3, status_function = $4, conninfo_function = $5, drop_function = $6;
END $$;
COMMENT ON FUNCTION register_provider(text, text, text, text, text, text) IS
	'make a provider known to this host, or change one; its functions are named with their schema, and have to be there';

CREATE FUNCTION find_provider(name text) RETURNS providers LANGUAGE plpgsql STABLE AS $$
DECLARE p @extschema@.providers;
BEGIN
	SELECT * INTO p FROM @extschema@.providers x WHERE x.name = find_provider.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no provider "%" on this host', name USING ERRCODE = 'undefined_object',
			DETAIL = format('There are: %s.', (SELECT string_agg(x.name, ', ' ORDER BY x.name) FROM @extschema@.providers x)),
			HINT = 'Register it there with neon_compute_tools.register_provider().';
	END IF;
	RETURN p;
END $$;
COMMENT ON FUNCTION find_provider(text) IS 'the provider of that name, or an error';

CREATE FUNCTION start_compute(spec jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	p @extschema@.providers := @extschema@.find_provider(coalesce(spec ->> 'provider', 'local'));
	r jsonb;
BEGIN
	EXECUTE format('SELECT %s($1)', p.start_function) INTO r USING spec;
	IF jsonb_typeof(r -> 'started') = 'boolean' THEN
		RETURN r;
	END IF;
	RAISE EXCEPTION 'provider "%" does not say whether it has started compute "%"', p.name, spec ->> 'name' USING ERRCODE = 'invalid_parameter_value',
		DETAIL = format('It says: %s', coalesce(r::text, 'NULL')), HINT = 'See the README of compute_tools for what it has to return.';
END $$;
COMMENT ON FUNCTION start_compute(jsonb) IS 'start a compute and return when it takes connections; nothing to do if it runs';

CREATE FUNCTION stop_compute(name text, mode text = 'fast', provider text = 'local') RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	p @extschema@.providers := @extschema@.find_provider(provider);
	r jsonb;
BEGIN
	EXECUTE format('SELECT %s($1, $2)', p.stop_function) INTO r USING name, mode;
	RETURN r;
END $$;
COMMENT ON FUNCTION stop_compute(text, text, text) IS 'stop a compute and return when it has ended';

CREATE FUNCTION compute_status(name text, provider text = 'local') RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	p @extschema@.providers := @extschema@.find_provider(provider);
	r jsonb;
BEGIN
	EXECUTE format('SELECT %s($1)', p.status_function) INTO r USING name;
	IF r ->> 'state' IN ('running', 'stopped', 'crashed', 'absent') AND (r ->> 'state' = 'running') = (r ->> 'pid' IS NOT NULL) THEN
		RETURN r;
	END IF;
	RAISE EXCEPTION 'provider "%" does not say what compute "%" does', provider, name USING ERRCODE = 'invalid_parameter_value',
		DETAIL = format('It says: %s', coalesce(r::text, 'NULL')), HINT = 'See the README of compute_tools for what it has to return.';
END $$;
COMMENT ON FUNCTION compute_status(text, text) IS 'what a compute does: state is running, stopped, crashed or absent; pid is null when it does not run';

CREATE FUNCTION drop_compute(name text, provider text = 'local') RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	p @extschema@.providers := @extschema@.find_provider(provider);
	r jsonb;
BEGIN
	EXECUTE format('SELECT %s($1)', p.drop_function) INTO r USING name;
	RETURN r;
END $$;
COMMENT ON FUNCTION drop_compute(text, text) IS 'stop a compute and remove it from this host';

-- What users set for their sessions, a library that is not there or a limit of time among it, is not for these.
CREATE FUNCTION compute_conninfo(name text, provider text = 'local', db text = 'postgres') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	p @extschema@.providers := @extschema@.find_provider(provider);
	r text;
BEGIN
	EXECUTE format('SELECT %s($1)', p.conninfo_function) INTO r USING name;
	IF coalesce(r, '') = '' THEN		-- libpq would go somewhere else
		RAISE EXCEPTION 'provider "%" does not say where compute "%" is', provider, name USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Its function has to return a connection string, or fail when the compute does not run.';
	END IF;
	RETURN format('%s dbname=''%s'' options=''-c session_preload_libraries= -c local_preload_libraries= -c statement_timeout=0'
		' -c lock_timeout=0 -c default_transaction_read_only=off -c default_transaction_deferrable=off -c default_transaction_isolation=read\\ committed''',
		r, replace(replace(db, '\', '\\'), '''', '\'''));
END $$;
COMMENT ON FUNCTION compute_conninfo(text, text, text) IS 'connection string, good on this host, for the administrator of a running compute';

-- ---------------------------------------------------------------- what the computes of this host do

CREATE FUNCTION query(conninfo text, sql text, timeout_ms int = 5000) RETURNS text
AS 'MODULE_PATHNAME', 'ct_query' LANGUAGE C STRICT;
COMMENT ON FUNCTION query(text, text, int) IS 'first column of the first row of a query on a server that this host reaches';

CREATE FUNCTION query_rows(conninfo text, who text, sql text, VARIADIC args text[] = '{}') RETURNS SETOF jsonb
AS 'MODULE_PATHNAME', 'ct_query_rows' LANGUAGE C STRICT;
COMMENT ON FUNCTION query_rows(text, text, text, text[]) IS
	'one statement on a server that this host reaches, over a connection that this session keeps; rows of a SELECT as jsonb';

-- What a controller asks of the inside of a compute, which it does not reach itself.
CREATE FUNCTION compute_query(name text, provider text, db text, who text, sql text, VARIADIC args text[] = '{}') RETURNS SETOF jsonb LANGUAGE sql AS $$
	SELECT @extschema@.query_rows(@extschema@.compute_conninfo(name, provider, db), who, sql, VARIADIC args);
$$;
COMMENT ON FUNCTION compute_query(text, text, text, text, text, text[]) IS 'run a statement on a compute as its administrator; rows of a SELECT as jsonb';

-- What was seen of a running compute, to know what happened since.  Worth nothing after a crash.
CREATE UNLOGGED TABLE samples (
	name text PRIMARY KEY,
	pid int NOT NULL,
	active_at timestamptz NOT NULL,		-- when it was last busy
	sessions bigint NOT NULL,			-- that clients have begun since its start
	activity text						-- what it is busy with
);
COMMENT ON TABLE samples IS 'when each running compute was last busy, and with what';

-- Asked in template1, where nobody works, so that the question itself is not among the answers.  A session counts while it does something:
-- a transaction is activity even when it is idle, an idle session without one is none.  Autovacuum counts while it
-- vacuums something, not when it looks whether there is anything.  Standbys and subscribers count for as long as they are connected.
CREATE FUNCTION activity_query() RETURNS text LANGUAGE sql IMMUTABLE AS $f$ SELECT $q$
	SELECT jsonb_build_object(
		'activity', (SELECT what FROM (
			SELECT 1, format('session %s is %s', pid, state) FROM pg_stat_activity
				WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state IS DISTINCT FROM 'idle'
			UNION ALL SELECT 2, format('%s receives the log', coalesce(nullif(application_name, ''), 'a client')) FROM pg_stat_replication
				WHERE application_name <> 'walproposer'
			UNION ALL SELECT 3, format('subscription %s is applied', subname) FROM pg_stat_subscription WHERE pid IS NOT NULL
			UNION ALL SELECT 4, format('%s is running', command) FROM (
				SELECT 'VACUUM' FROM pg_stat_progress_vacuum UNION ALL SELECT 'ANALYZE' FROM pg_stat_progress_analyze
				UNION ALL SELECT command FROM pg_stat_progress_create_index UNION ALL SELECT command FROM pg_stat_progress_cluster
				UNION ALL SELECT command FROM pg_stat_progress_copy) p (command)
			UNION ALL SELECT 5, format('%s is working', backend_type) FROM pg_stat_activity
				WHERE backend_type NOT IN ('client backend', 'walsender', 'autovacuum launcher', 'autovacuum worker', 'background writer',
					'checkpointer', 'walwriter', 'startup', 'archiver', 'logical replication launcher', 'walproposer launcher',
					'neon pinned page release') AND (state <> 'idle' OR xact_start IS NOT NULL)
			) a (n, what) ORDER BY n LIMIT 1),
		'last', greatest(pg_postmaster_start_time(), (SELECT max(state_change) FROM pg_stat_activity WHERE backend_type = 'client backend'
			AND pid <> pg_backend_pid())),
		'sessions', (SELECT coalesce(sum(sessions), 0) FROM pg_stat_database WHERE datname IS DISTINCT FROM 'template1'),
		'now', clock_timestamp())
$q$ $f$;
COMMENT ON FUNCTION activity_query() IS 'what the watcher asks a compute: what is going on there, and how many sessions there are';

-- A compute of which nothing can be learnt is not idle.
CREATE FUNCTION sample_activity(name text, provider text, pid int) RETURNS samples LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
	old @extschema@.samples;
	new @extschema@.samples;
	r jsonb;
BEGIN
	SELECT * INTO old FROM @extschema@.samples s WHERE s.name = sample_activity.name AND s.pid = sample_activity.pid;
	new.name := name;
	new.pid := pid;
	BEGIN
		r := @extschema@.query(@extschema@.compute_conninfo(name, provider, 'template1') || ' application_name=neon_watch', @extschema@.activity_query());
		new.activity := r ->> 'activity';
		new.sessions := r ->> 'sessions';
	EXCEPTION WHEN OTHERS THEN
		new.activity := 'it cannot be asked: ' || SQLERRM;
		new.sessions := coalesce(old.sessions, 0);
	END;
	new.active_at := CASE WHEN new.activity IS NOT NULL OR new.sessions <> old.sessions THEN clock_timestamp()
		ELSE greatest(old.active_at, (r ->> 'last')::timestamptz) END;
	IF old IS DISTINCT FROM new THEN
		INSERT INTO @extschema@.samples SELECT new.*
		ON CONFLICT (name) DO UPDATE SET pid = excluded.pid, active_at = excluded.active_at, sessions = excluded.sessions, activity = excluded.activity;
	END IF;
	RETURN new;
END $$;
COMMENT ON FUNCTION sample_activity(text, text, int) IS 'what a compute does; one of which nothing can be learnt is not idle';

CREATE FUNCTION sample_compute(name text, provider text = 'local') RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	status jsonb := @extschema@.compute_status(name, provider);
	s @extschema@.samples;
BEGIN
	IF status ->> 'state' <> 'running' THEN
		DELETE FROM @extschema@.samples x WHERE x.name = sample_compute.name;
		RETURN status;
	END IF;
	s := @extschema@.sample_activity(name, provider, (status ->> 'pid')::int);
	RETURN status || jsonb_build_object('active_at', s.active_at, 'activity', s.activity);
END $$;
COMMENT ON FUNCTION sample_compute(text, text) IS 'what a compute does, and when it was last busy';

-- One that cannot be looked at is nothing that anything is done about, and keeps nobody from looking at the others.
CREATE FUNCTION sample_computes(computes text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	c record;
	seen jsonb := '{}';
BEGIN
	DELETE FROM @extschema@.samples s WHERE NOT computes::jsonb ? s.name;		-- those that were dropped
	FOR c IN SELECT key AS name, value AS provider FROM jsonb_each_text(computes::jsonb) LOOP
		BEGIN
			seen := seen || jsonb_build_object(c.name, @extschema@.sample_compute(c.name, c.provider));
		EXCEPTION WHEN OTHERS THEN
			RAISE LOG 'compute "%" cannot be looked at: %', c.name, SQLERRM;
			seen := seen || jsonb_build_object(c.name, '{"state": "unknown"}'::jsonb);
		END;
	END LOOP;
	RETURN seen;
END $$;
COMMENT ON FUNCTION sample_computes(text) IS 'sample_compute() of computes of this host: an object of names and providers, to one of names and samples';

-- ---------------------------------------------------------------- what is inside a compute: roles, databases, extensions, settings

CREATE FUNCTION compute_value(name text, provider text, db text, sql text) RETURNS text LANGUAGE sql AS $$
	SELECT @extschema@.query(@extschema@.compute_conninfo(name, provider, db), sql, 120000);
$$;
COMMENT ON FUNCTION compute_value(text, text, text, text) IS 'run a statement on a compute as its administrator; the first column of its first row';

-- Found before anything is changed: what this host does not have, and settings that are not the user's.
CREATE FUNCTION check_spec(name text, provider text, spec jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	missing text;
	bad text;
	s record;
	context text;
BEGIN
	IF jsonb_typeof(spec) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'a configuration must be an object' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'There are roles, databases, extensions (arrays of objects) and settings (an object).';
	END IF;
	SELECT string_agg(key, ', ') INTO bad FROM jsonb_object_keys(spec) key WHERE key NOT IN ('roles', 'databases', 'extensions', 'settings');
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'unknown parts of a configuration: %', bad USING ERRCODE = 'invalid_parameter_value',
			HINT = 'There are roles, databases, extensions (arrays of objects) and settings (an object).';
	END IF;
	SELECT string_agg(key, ', ') INTO bad FROM jsonb_each(spec) WHERE CASE
		WHEN key = 'settings' THEN jsonb_typeof(value) <> 'object' OR jsonb_path_exists(value, 'strict $.* ? (@.type() == "object" || @.type() == "array")', '{}', true)
		WHEN jsonb_typeof(value) <> 'array' THEN true
		ELSE EXISTS (SELECT FROM jsonb_array_elements(value) x WHERE jsonb_typeof(x -> 'name') IS DISTINCT FROM 'string' OR x ->> 'name' = '') END;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'malformed parts of a configuration: %', bad USING ERRCODE = 'invalid_parameter_value',
			HINT = 'roles, databases and extensions are arrays of objects that have a "name"; settings is an object of names and values.';
	END IF;
	SELECT string_agg(DISTINCT x ->> 'name', ', ') INTO missing FROM jsonb_array_elements(coalesce(spec -> 'extensions', '[]')) x
	WHERE @extschema@.compute_value(check_spec.name, provider, 'template1', format('SELECT 1 FROM pg_available_extensions WHERE name = %L', x ->> 'name')) IS NULL;
	IF missing IS NOT NULL THEN
		RAISE EXCEPTION 'this host does not have the extension: %', missing USING ERRCODE = 'undefined_object',
			DETAIL = 'Extensions come from the packages of the hosts that run computes.  Nothing was changed.',
			HINT = 'Install the package that has it, on Debian usually postgresql-15-<name>, and try again.';
	END IF;
	FOR s IN SELECT key, value FROM jsonb_each_text(coalesce(spec -> 'settings', '{}')) LOOP
		IF s.key !~ '^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$' THEN
			RAISE EXCEPTION 'invalid setting name "%"', s.key USING ERRCODE = 'invalid_name';
		END IF;
		context := @extschema@.compute_value(name, provider, 'template1', format('SELECT context FROM pg_settings WHERE name = %L', s.key));
		IF context IS NULL AND s.key NOT LIKE '%.%' THEN
			RAISE EXCEPTION 'unrecognized configuration parameter "%"', s.key USING ERRCODE = 'undefined_object', HINT = 'See pg_settings on the endpoint.';
		ELSIF context = 'internal' OR s.key ~ '^neon' OR s.key ~ '^(ssl|unix_socket|log_directory|archive_|restore_command|recovery_)'
				OR position(E'\n' || s.key || ' = ' IN @extschema@.compute_conf('{"port": 1}', '0/1')) > 0 THEN
			RAISE EXCEPTION 'setting "%" cannot be changed', s.key USING ERRCODE = 'cant_change_runtime_param',
				DETAIL = 'A compute works only with the value it has.';
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION check_spec(text, text, jsonb) IS 'refuse a configuration that this host cannot carry out, before anything is changed';

CREATE FUNCTION configure_role(name text, provider text, r jsonb) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
	fresh bool := @extschema@.compute_value(name, provider, 'template1', format('SELECT 1 FROM pg_roles WHERE rolname = %L', r ->> 'name')) IS NULL;
	g text;
BEGIN
	IF fresh THEN
		PERFORM @extschema@.compute_value(name, provider, 'template1', format('CREATE ROLE %I', r ->> 'name'));
	END IF;
	PERFORM @extschema@.compute_value(name, provider, 'template1', format('ALTER ROLE %I', r ->> 'name')
		|| CASE WHEN coalesce((r ->> 'login')::bool, true) THEN ' LOGIN' ELSE ' NOLOGIN' END
		|| CASE (r ->> 'createdb')::bool WHEN true THEN ' CREATEDB' WHEN false THEN ' NOCREATEDB' ELSE '' END
		|| CASE (r ->> 'createrole')::bool WHEN true THEN ' CREATEROLE' WHEN false THEN ' NOCREATEROLE' ELSE '' END
		|| CASE (r ->> 'replication')::bool WHEN true THEN ' REPLICATION' WHEN false THEN ' NOREPLICATION' ELSE '' END
		|| coalesce(' CONNECTION LIMIT ' || (r ->> 'connection_limit')::int, '')
		|| coalesce(' PASSWORD ' || quote_literal(r ->> 'password'), ''));
	FOR g IN SELECT jsonb_array_elements_text(coalesce(r -> 'member_of', '[]')) LOOP
		PERFORM @extschema@.compute_value(name, provider, 'template1', format('GRANT %I TO %I', g, r ->> 'name'));
	END LOOP;
	RETURN fresh;
END $$;
COMMENT ON FUNCTION configure_role(text, text, jsonb) IS 'make or alter a role as a configuration says; whether something was changed';

CREATE FUNCTION configure_database(name text, provider text, d jsonb) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
	owner text := @extschema@.compute_value(name, provider, 'template1', format('SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %L', d ->> 'name'));
BEGIN
	IF owner IS NULL THEN
		PERFORM @extschema@.compute_value(name, provider, 'template1', format('CREATE DATABASE %I', d ->> 'name') || coalesce(' OWNER ' || quote_ident(d ->> 'owner'), ''));
	ELSIF owner <> d ->> 'owner' THEN
		PERFORM @extschema@.compute_value(name, provider, 'template1', format('ALTER DATABASE %I OWNER TO %I', d ->> 'name', d ->> 'owner'));
	END IF;
	RETURN owner IS NULL;
END $$;
COMMENT ON FUNCTION configure_database(text, text, jsonb) IS 'make or alter a database as a configuration says; whether something was changed';

CREATE FUNCTION configure_extension(name text, provider text, x jsonb) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
	db text := coalesce(x ->> 'database', 'postgres');
	version text := @extschema@.compute_value(name, provider, db, format('SELECT extversion FROM pg_extension WHERE extname = %L', x ->> 'name'));
BEGIN
	IF version IS NULL THEN
		PERFORM @extschema@.compute_value(name, provider, db, format('CREATE EXTENSION %I', x ->> 'name')
			|| coalesce(' SCHEMA ' || quote_ident(x ->> 'schema'), '') || coalesce(' VERSION ' || quote_literal(x ->> 'version'), '') || ' CASCADE');
	ELSIF version <> x ->> 'version' THEN
		PERFORM @extschema@.compute_value(name, provider, db, format('ALTER EXTENSION %I UPDATE TO %L', x ->> 'name', x ->> 'version'));
	END IF;
	RETURN version IS NULL;
END $$;
COMMENT ON FUNCTION configure_extension(text, text, jsonb) IS 'make or update an extension as a configuration says; whether something was changed';

-- Those that PostgreSQL can change while it runs are changed by a reload; returns the others, which want a restart.  The configuration file
-- has the values of the last start, so one that is taken back is set to its default until the next.
CREATE FUNCTION configure_settings(name text, provider text, settings jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	s record;
	known jsonb;
	value text;
	restart jsonb := '[]';
BEGIN
	FOR s IN SELECT x.key, x.value FROM jsonb_each_text(settings) x LOOP
		known := @extschema@.compute_value(name, provider, 'template1', format(
			'SELECT jsonb_build_object(''context'', context, ''boot_val'', boot_val) FROM pg_settings WHERE name = %L', s.key));
		IF known IS NULL THEN		-- of a module that is not loaded, or of nobody: the server learns it from its configuration file
			restart := restart || to_jsonb(s.key);
			CONTINUE;
		END IF;
		value := coalesce(s.value, known ->> 'boot_val');
		IF s.key IN ('search_path', 'temp_tablespaces', 'session_preload_libraries', 'local_preload_libraries') THEN
			SELECT string_agg(quote_literal(btrim(p, ' "')), ', ') INTO value FROM unnest(string_to_array(value, ',')) p;
		ELSE
			value := quote_literal(value);
		END IF;
		PERFORM @extschema@.compute_value(name, provider, 'template1', format('ALTER SYSTEM SET %s = %s', s.key, coalesce(value, 'DEFAULT')));
		IF known ->> 'context' = 'postmaster' THEN
			restart := restart || to_jsonb(s.key);
		END IF;
	END LOOP;
	PERFORM @extschema@.compute_value(name, provider, 'template1', 'SELECT pg_reload_conf()');
	RETURN restart;
END $$;
COMMENT ON FUNCTION configure_settings(text, text, jsonb) IS 'apply settings to a running compute; those that wait for its next start are returned';

CREATE FUNCTION configure_compute(name text, spec jsonb, provider text = 'local') RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	x jsonb;
	created jsonb := '[]';
BEGIN
	PERFORM @extschema@.check_spec(name, provider, spec);
	FOR x IN SELECT jsonb_array_elements(coalesce(spec -> 'roles', '[]')) LOOP
		IF @extschema@.configure_role(name, provider, x) THEN
			created := created || to_jsonb('role ' || (x ->> 'name'));
		END IF;
	END LOOP;
	FOR x IN SELECT jsonb_array_elements(coalesce(spec -> 'databases', '[]')) LOOP
		IF @extschema@.configure_database(name, provider, x) THEN
			created := created || to_jsonb('database ' || (x ->> 'name'));
		END IF;
	END LOOP;
	FOR x IN SELECT jsonb_array_elements(coalesce(spec -> 'extensions', '[]')) LOOP
		IF @extschema@.configure_extension(name, provider, x) THEN
			created := created || to_jsonb('extension ' || (x ->> 'name'));
		END IF;
	END LOOP;
	RETURN jsonb_build_object('created', created, 'pending_restart', @extschema@.configure_settings(name, provider, coalesce(spec -> 'settings', '{}')));
END $$;
COMMENT ON FUNCTION configure_compute(text, jsonb, text) IS
	'bring a running compute''s roles, databases, extensions and settings to what the spec says; what is there already stays';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA @extschema@ FROM PUBLIC;
