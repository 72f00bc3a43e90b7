-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- endpoints

-- What this file keeps of an endpoint beside catalog.sql.
ALTER TABLE endpoints
	ADD COLUMN memory_mb int NOT NULL DEFAULT 0,	-- limits of its host for it, 0 for none; from the next start on
	ADD COLUMN cpu_percent int NOT NULL DEFAULT 0,	-- of one processor
	ADD COLUMN last_start jsonb,		-- how the last start went: where it began, warm or why not, how long its parts took
	ADD COLUMN told jsonb;				-- the timeline and safekeepers that have all confirmed to have it: a start need not tell them again

-- What is done to an endpoint's server is done by one session at a time, which holds this.  The order of locks is: the tenant's row, ports_lock,
-- endpoint_lock, the endpoint's row (for others between them see operations.sql); who has a later one asks for no earlier one.  Starts and stops do without the tenant's: a wake does not
-- wait for what else happens to its tenant.  What stops or starts endpoints while it changes the tenant (reset, restore, drops) takes both.
-- What runs aside for the holder of an endpoint's lock may want that endpoint's row: so whoever changes the row holds the lock
-- (watch_report() only for a moment).
CREATE FUNCTION endpoint_key(tenant_id text, endpoint text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
	SELECT hashtextextended(format('neon endpoint %s %s', tenant_id, endpoint), 0);
$$;
COMMENT ON FUNCTION endpoint_key(text, text) IS 'key of the advisory lock of an endpoint';

CREATE FUNCTION endpoint_lock(tenant_id text, endpoint text) RETURNS void LANGUAGE sql AS $$
	SELECT pg_advisory_xact_lock(@extschema@.endpoint_key(tenant_id, endpoint));
$$;
COMMENT ON FUNCTION endpoint_lock(text, text) IS 'until the end of the transaction nobody else starts, stops or changes this endpoint';

-- The start of a replica needs its writer, whose lock comes first.  Nothing else that is done to a replica keeps anybody from its writer.
CREATE FUNCTION start_lock(tenant_id text, endpoint text) RETURNS void LANGUAGE sql AS $$
	SELECT pg_advisory_xact_lock(@extschema@.endpoint_key(w.tenant, w.name)) FROM @extschema@.endpoints e
	JOIN @extschema@.endpoints w ON w.timeline = e.timeline AND w.mode = 'read-write'
	WHERE e.tenant = tenant_id AND e.name = endpoint AND e.mode = 'replica';
	SELECT @extschema@.endpoint_lock(tenant_id, endpoint);
$$;
COMMENT ON FUNCTION start_lock(text, text) IS 'endpoint_lock() of whoever may start the endpoint';

-- Those of a timeline; under the tenant's lock, so that no others come.  The writer first: who starts a replica has that one's, too.
CREATE FUNCTION lock_endpoints(timeline_id text, but_mode text = NULL) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM @extschema@.endpoint_lock(e.tenant, e.name)
	FROM (SELECT x.tenant, x.name FROM @extschema@.endpoints x
		WHERE x.timeline = timeline_id AND x.mode IS DISTINCT FROM but_mode ORDER BY x.mode <> 'read-write', x.name) e;
END $$;
COMMENT ON FUNCTION lock_endpoints(text, text) IS 'endpoint_lock() for all endpoints of a timeline, but those of one mode';

CREATE FUNCTION ports_lock(address text) RETURNS void LANGUAGE sql AS $$
	SELECT pg_advisory_xact_lock(hashtextextended('neon ports of ' || address, 0));
$$;
COMMENT ON FUNCTION ports_lock(text) IS 'until the end of the transaction nobody else chooses a port at this address';

-- Called aside, under leftover_lock of the directory: a free port is noted together with what will have it, until that has a row.
CREATE FUNCTION reserve_port(compute_node text, provider text, new_directory text, tenant_id text, op bigint) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	free_port int;
	address text := (SELECT n.host FROM @extschema@.nodes n WHERE n.name = compute_node);
	neighbours text[] := ARRAY(SELECT n.name FROM @extschema@.nodes n WHERE n.role = 'compute' AND n.host = address);	-- servers of one machine
BEGIN
	PERFORM @extschema@.ports_lock(address);
	SELECT min(p) INTO free_port
	FROM generate_series(coalesce(nullif(current_setting('neon_controller.endpoint_port_base', true), ''), '55440')::int, 65535) p
	WHERE NOT EXISTS (SELECT FROM @extschema@.endpoints e WHERE e.compute = ANY (neighbours) AND e.port = p)
		AND NOT EXISTS (SELECT FROM @extschema@.leftovers l WHERE l.kind = 'compute' AND l.nodes && neighbours AND l.port = p AND l.id <> new_directory);
	PERFORM @extschema@.write_leftover('compute', new_directory, tenant_id, ARRAY[compute_node], free_port, op, provider);
	RETURN free_port;
END $$;
COMMENT ON FUNCTION reserve_port(text, text, text, text, bigint) IS 'a free port of a host, noted together with the endpoint that will have it';

-- The endpoint's own server, as its administrator: its host asks it, which alone can.  In a database of the tenant's write pg_catalog. before a function that takes any type: one of public with just these types would come first.
CREATE FUNCTION on_endpoint(e endpoints, db text, sql text, VARIADIC args text[] = '{}') RETURNS SETOF jsonb LANGUAGE sql AS $$
	SELECT r -> 'r' FROM @extschema@.on_node(e.compute, 'SELECT r FROM neon_compute_tools.compute_query($1, $2, $3, $4, $5, VARIADIC $6::text[]) r',
		e.directory, e.provider, db, format('endpoint "%s"', e.name), sql, args::text) r;
$$;
COMMENT ON FUNCTION on_endpoint(endpoints, text, text, text[]) IS 'run a statement on an endpoint''s server as its administrator; rows of a SELECT as jsonb';

CREATE FUNCTION endpoint_pid(e endpoints) RETURNS int LANGUAGE sql AS $$
	SELECT (r #>> '{s,pid}')::int FROM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.compute_status($1, $2) AS s', e.directory, e.provider) r;
$$;
COMMENT ON FUNCTION endpoint_pid(endpoints) IS 'pid of an endpoint''s server on its host; NULL when it does not run';

-- Of one whose host is away nothing is known; it may run.
CREATE FUNCTION endpoint_seen(e endpoints, OUT pid int, OUT state text) LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM @extschema@.nodes n WHERE n.name = e.compute AND n.state LIKE '%offline') THEN
		state := 'unreachable';
		RETURN;
	END IF;
	pid := @extschema@.endpoint_pid(e);
	state := CASE WHEN pid IS NOT NULL THEN 'running' WHEN e.wanted = 'running' THEN 'stopped' ELSE 'suspended' END;
EXCEPTION WHEN connection_exception OR sqlclient_unable_to_establish_sqlconnection OR connection_failure
		OR cannot_connect_now OR admin_shutdown OR crash_shutdown THEN
	state := 'unreachable';
END $$;
COMMENT ON FUNCTION endpoint_seen(endpoints) IS 'pid and state of an endpoint''s server, for those who look; unreachable when its host is';

CREATE FUNCTION endpoint_uri(e endpoints) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT format('postgresql://postgres:%s@%s:%s/postgres', t.role_password, e.host, e.port)
	FROM @extschema@.tenants t WHERE t.id = e.tenant;
$$;
COMMENT ON FUNCTION endpoint_uri(endpoints) IS 'URI of an endpoint for its tenant';

CREATE FUNCTION look_up_endpoint(tenant_id text, endpoint text) RETURNS endpoints LANGUAGE plpgsql AS $$
DECLARE e @extschema@.endpoints;
BEGIN
	SELECT * INTO e FROM @extschema@.endpoints WHERE tenant = tenant_id AND name = endpoint;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'endpoint "%" does not exist', endpoint USING ERRCODE = 'NE004', HINT = 'See neon_endpoints for those there are.';
	END IF;
	RETURN e;
END $$;
COMMENT ON FUNCTION look_up_endpoint(text, text) IS 'the endpoint of that name, or an error';

-- What a compute host is told to start.
CREATE FUNCTION compute_spec(e endpoints, tl timelines) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_build_object(
		'static_lsn', e.lsn, 'static_timeline', CASE WHEN e.mode = 'static' THEN (@extschema@.timeline_that_holds(tl, e.lsn)).id END,
		'provider', e.provider, 'name', e.directory, 'tenant', tl.tenant, 'timeline', tl.id, 'start_lsn', tl.start_lsn, 'system_id', tl.system_id,
		'wal_seg_size', tl.wal_seg_size, 'safekeepers', @extschema@.safekeepers_setting(tl),
		'pageserver', @extschema@.tenant_connstring(ps, t), 'controller', @extschema@.tenant_connstring(ctl, t),
		'host', (SELECT c.host FROM @extschema@.nodes c WHERE c.name = e.compute), 'port', e.port, 'settings', e.settings, 'memory_mb', e.memory_mb, 'cpu_percent', e.cpu_percent)
	FROM @extschema@.tenants t, @extschema@.nodes ps,
		(SELECT * FROM @extschema@.nodes WHERE role = 'controller' ORDER BY node_id LIMIT 1) ctl
	WHERE t.id = e.tenant AND ps.name = tl.pageserver;
$$;
COMMENT ON FUNCTION compute_spec(endpoints, timelines) IS 'what the host is told to start for an endpoint';

CREATE FUNCTION start_on_host(e endpoints, tl timelines, more jsonb = '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT x -> 'r' FROM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.start_compute($1) AS r',
		(@extschema@.compute_spec(e, tl) || more)::text) x;
$$;
COMMENT ON FUNCTION start_on_host(endpoints, timelines, jsonb) IS 'have an endpoint''s host start its server';

-- A replica streams from the safekeepers, whichever of them answers.
CREATE FUNCTION replica_source(tl timelines) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT format('host=%s port=%s user=neon_t_%s password=%s connect_timeout=10 options=''-c neon.tenant_id=%s -c neon.timeline_id=%s''',
		string_agg(n.host, ',' ORDER BY n.node_id), string_agg(n.port::text, ',' ORDER BY n.node_id), tl.tenant, min(t.node_password), tl.tenant, tl.id)
	FROM @extschema@.nodes n, @extschema@.tenants t WHERE n.name = ANY (tl.safekeepers) AND t.id = tl.tenant;
$$;
COMMENT ON FUNCTION replica_source(timelines) IS 'where the log of a timeline is streamed from';

CREATE FUNCTION replicas_writer(replica text, timeline_id text) RETURNS endpoints LANGUAGE plpgsql STABLE AS $$
DECLARE w @extschema@.endpoints := @extschema@.writer_of(timeline_id);
BEGIN
	IF w.name IS NULL THEN
		RAISE EXCEPTION 'the branch of replica "%" has no read-write endpoint', replica USING ERRCODE = 'NE004',
			DETAIL = 'A replica begins at a checkpoint of its branch''s writer.',
			HINT = 'Create one with neon_create_endpoint().';
	END IF;
	RETURN w;
END $$;
COMMENT ON FUNCTION replicas_writer(text, text) IS 'the read-write endpoint of a replica''s branch';

-- Where a replica begins: the redo of the writer's last checkpoint, a recent one.  What ran there, and what is prepared, the log says.  A hot
-- standby does not start with less room for these than its writer has.
CREATE FUNCTION replica_start(e endpoints, tl timelines) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	w @extschema@.endpoints := @extschema@.replicas_writer(e.name, e.timeline);
	point jsonb;
BEGIN
	FOR try IN 1 .. 2 LOOP
		SELECT r INTO point FROM @extschema@.on_endpoint(w, 'postgres', 'SELECT redo_lsn, checkpoint_lsn, pg_current_wal_lsn() - redo_lsn AS behind,
			(SELECT pg_catalog.jsonb_object_agg(name, setting) FROM pg_catalog.pg_settings WHERE name IN (''max_connections'', ''max_worker_processes'', ''max_wal_senders'',
				''max_prepared_transactions'', ''max_locks_per_transaction'')) AS room FROM pg_control_checkpoint()') r;
		EXIT WHEN (point ->> 'behind')::numeric < 64 * 1024 * 1024;
		PERFORM FROM @extschema@.on_endpoint(w, 'postgres', 'CHECKPOINT');
	END LOOP;
	PERFORM @extschema@.ask_current_lsn(w);		-- a commit behind the checkpoint: when it has its quorum, the checkpoint's record has, and will not change
	RETURN point - 'behind' - 'room' || jsonb_build_object('replica_source', @extschema@.replica_source(tl), 'settings', e.settings ||
		(SELECT jsonb_object_agg(x.key, CASE WHEN e.settings ->> x.key ~ '^[0-9]{1,9}$' THEN greatest((e.settings ->> x.key)::int, x.value::int) ELSE x.value::int END::text)
		FROM jsonb_each_text(point -> 'room') x));
END $$;
COMMENT ON FUNCTION replica_start(endpoints, timelines) IS 'what a replica''s host is told beside the rest: the checkpoint it begins at, and where its log comes from';

-- Any number of callers cause one start: they queue at the endpoint's lock, and see that it was started meanwhile.  A start is an operation;
-- finding that it runs is none.
CREATE FUNCTION start_endpoint(tenant_id text, endpoint text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	before @extschema@.endpoints := @extschema@.look_up_endpoint(tenant_id, endpoint);
	e @extschema@.endpoints;
BEGIN
	IF before.mode = 'replica' THEN
		PERFORM @extschema@.start_endpoint(tenant_id, (@extschema@.replicas_writer(before.name, before.timeline)).name);
	END IF;
	PERFORM @extschema@.start_lock(tenant_id, endpoint);
	e := @extschema@.look_up_endpoint(tenant_id, endpoint);
	IF e.wanted = 'running' AND e.started_at IS DISTINCT FROM before.started_at THEN
		RETURN @extschema@.endpoint_uri(e);
	ELSIF @extschema@.current_operation() IS NULL AND (e.wanted = 'suspended' OR @extschema@.endpoint_pid(e) IS NULL) THEN
		RETURN @extschema@.operate('start_endpoint', tenant_id, jsonb_build_object('name', endpoint)) #>> '{}';
	END IF;
	RETURN @extschema@.start_server(tenant_id, endpoint);
END $$;
COMMENT ON FUNCTION start_endpoint(text, text) IS 'start an endpoint if it does not run; returns its URI when it takes connections';

-- Under the endpoint's lock.
CREATE FUNCTION start_server(tenant_id text, endpoint text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	e @extschema@.endpoints := @extschema@.find_endpoint(tenant_id, endpoint);
	tl @extschema@.timelines;
	known jsonb;
	have text[];
	r jsonb;
BEGIN
	SELECT * INTO STRICT tl FROM @extschema@.timelines WHERE id = e.timeline;
	PERFORM @extschema@.step('start the server', e.compute, e.name);
	known := jsonb_build_object('timeline', tl.id, 'safekeepers', tl.safekeepers);
	IF e.mode = 'static' THEN		-- no safekeeper hears of it
		known := NULL;
		r := @extschema@.start_on_host(e, tl);
	ELSIF e.mode = 'replica' THEN
		known := NULL;
		r := @extschema@.start_on_host(e, tl, @extschema@.replica_start(e, tl));
	ELSIF e.told = known THEN
		BEGIN
			r := @extschema@.start_on_host(e, tl);
		EXCEPTION WHEN connection_failure OR object_not_in_prerequisite_state THEN
			NULL;		-- perhaps a safekeeper has lost its disk, and does not know the timeline any more
		END;
	END IF;
	IF r IS NULL THEN
		have := @extschema@.ensure_on_safekeepers(tl);
		IF cardinality(have) < cardinality(tl.safekeepers) THEN
			known := NULL;
		END IF;
		PERFORM @extschema@.aside('SELECT @extschema@.note_acceptors($1, $2::text[])', tl.id, have::text);
		r := @extschema@.start_on_host(e, tl);
	END IF;
	UPDATE @extschema@.endpoints x SET wanted = 'running', told = known, started_at = CASE WHEN (r ->> 'started')::bool THEN clock_timestamp() ELSE x.started_at END,
		last_start = CASE WHEN (r ->> 'started')::bool THEN r ELSE x.last_start END, crashes = 0, restart_after = NULL, problem = NULL,
		host = coalesce(r ->> 'host', CASE WHEN (r ->> 'started')::bool THEN (SELECT n.host FROM @extschema@.nodes n WHERE n.name = x.compute) END, x.host)
	WHERE x.tenant = e.tenant AND x.name = e.name RETURNING x.* INTO e;
	IF e.mode = 'read-write' THEN
		PERFORM @extschema@.forget_role_secrets(e);		-- from now on it is asked itself
	END IF;
	RETURN @extschema@.endpoint_uri(e);
END $$;
COMMENT ON FUNCTION start_server(text, text) IS 'start an endpoint''s server, under the endpoint''s lock; returns its URI';

CREATE FUNCTION suspend_endpoint(tenant_id text, endpoint text, mode text = 'fast') RETURNS void LANGUAGE plpgsql AS $$
DECLARE e @extschema@.endpoints := @extschema@.look_up_endpoint(tenant_id, endpoint);
BEGIN
	PERFORM @extschema@.endpoint_lock(tenant_id, endpoint);
	e := @extschema@.look_up_endpoint(tenant_id, endpoint);
	PERFORM @extschema@.operate('suspend_endpoint', tenant_id, jsonb_build_object('name', endpoint, 'mode', mode));
END $$;
COMMENT ON FUNCTION suspend_endpoint(text, text, text) IS 'stop an endpoint''s server; its branch stays, and the next start finds everything';

-- Under the endpoint's lock.
CREATE FUNCTION stop_server(tenant_id text, endpoint text, mode text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE e @extschema@.endpoints := @extschema@.find_endpoint(tenant_id, endpoint);
BEGIN
	PERFORM @extschema@.step('stop the server', e.compute, e.name);
	BEGIN
		PERFORM @extschema@.refresh_role_secrets(e);
	EXCEPTION WHEN program_limit_exceeded THEN
		RAISE LOG '%', SQLERRM;
	WHEN OTHERS THEN
		RAISE DEBUG 'verifiers of endpoint "%" stay as they were: %', endpoint, SQLERRM;	-- it does not run, or cannot be asked
	END;
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.stop_compute($1, $2, $3)', e.directory, mode, e.provider);
	UPDATE @extschema@.endpoints SET wanted = 'suspended' WHERE tenant = e.tenant AND name = e.name;
END $$;
COMMENT ON FUNCTION stop_server(text, text, text) IS 'stop an endpoint''s server, under the endpoint''s lock';

CREATE FUNCTION refuse_left_server(endpoint text, directory text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE away text := (SELECT n.name FROM @extschema@.leftovers l JOIN @extschema@.nodes n ON n.name = ANY (l.nodes)
	WHERE l.kind = 'compute' AND l.id = directory AND n.state LIKE '%offline' LIMIT 1);
BEGIN
	IF away IS NOT NULL THEN
		RAISE EXCEPTION 'host "%", which is away, may still have a server of another endpoint "%"', away, endpoint USING ERRCODE = 'object_in_use',
			HINT = format('Give this one another name (neon_create_endpoint(''other'', branch => %L)), or try again when the host is back.', endpoint);
	END IF;
END $$;
COMMENT ON FUNCTION refuse_left_server(text, text) IS 'refuse a name of an endpoint whose last server cannot be removed now';

-- Where a static endpoint stands: as a branch would begin there, or at the end of what is committed now.  Its pageserver has everything up to there.
CREATE FUNCTION read_point(tl timelines, branch text, at_lsn pg_lsn, at_time timestamptz) RETURNS pg_lsn LANGUAGE plpgsql AS $$
DECLARE point record := @extschema@.branch_point(tl, branch, at_lsn, at_time);
BEGIN
	RETURN (SELECT (r ->> 'lsn')::pg_lsn FROM @extschema@.on_node((point.origin).pageserver,
		'SELECT neon_pageserver.read_point($1, $2, $3::pg_lsn) AS lsn', tl.tenant, (point.origin).id, point.lsn::text) r);
END $$;
COMMENT ON FUNCTION read_point(timelines, text, pg_lsn, timestamptz) IS 'the LSN that a static endpoint of a branch shows';

CREATE FUNCTION create_endpoint(tenant_id text, endpoint text, branch text = NULL, settings jsonb = '{}', mode text = 'read-write',
	at_lsn pg_lsn = NULL, at_time timestamptz = NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	tl @extschema@.timelines;
	c @extschema@.nodes;
	other text;
	lsn pg_lsn;
	new_port int;
	new_directory text := format('%s-%s', left(tenant_id, 8), endpoint);
BEGIN
	PERFORM @extschema@.check_endpoint_name(endpoint);
	PERFORM @extschema@.lock_tenant(tenant_id);
	tl := @extschema@.find_branch(tenant_id, coalesce(branch, endpoint));
	IF EXISTS (SELECT FROM @extschema@.endpoints e WHERE e.tenant = tenant_id AND e.name = endpoint) THEN
		RAISE EXCEPTION 'endpoint "%" already exists', endpoint USING ERRCODE = 'duplicate_object',
			HINT = 'Start it with neon_start_endpoint().';
	END IF;
	other := (@extschema@.writer_of(tl.id)).name;
	IF mode = 'static' THEN
		lsn := @extschema@.read_point(tl, coalesce(branch, endpoint), at_lsn, at_time);
	ELSIF mode = 'replica' THEN
		PERFORM @extschema@.replicas_writer(endpoint, tl.id);
	ELSIF other IS NOT NULL THEN
		RAISE EXCEPTION 'branch "%" already has the read-write endpoint "%"', coalesce(branch, endpoint), other
			USING ERRCODE = 'NE005', HINT = 'A branch has one writer at a time; create a branch for another one, or an endpoint of mode "replica" or "static", which only reads.';
	END IF;
	c := @extschema@.choose_host();
	-- what an interrupted creation has left, perhaps on another host, perhaps running on another branch
	PERFORM pg_advisory_xact_lock(@extschema@.leftover_lock('compute', new_directory));
	PERFORM @extschema@.refuse_left_server(endpoint, new_directory);
	PERFORM @extschema@.on_node(n.name, 'SELECT neon_compute_tools.drop_compute($1, $2)', new_directory, l.provider)
	FROM @extschema@.leftovers l JOIN @extschema@.nodes n ON n.name = ANY (l.nodes) WHERE l.kind = 'compute' AND l.id = new_directory;
	SELECT (r ->> 'port')::int INTO STRICT new_port FROM @extschema@.aside('SELECT @extschema@.reserve_port($1, $2, $3, $4, $5::bigint) AS port',
		c.name, c.provider, new_directory, tenant_id, @extschema@.current_operation()::text) r;
	INSERT INTO @extschema@.endpoints (tenant, name, timeline, mode, lsn, compute, provider, directory, host, port, settings)
	VALUES (tenant_id, endpoint, tl.id, mode, lsn, c.name, c.provider, new_directory, c.host, new_port, settings);
	PERFORM @extschema@.keep_leftover('compute', new_directory);
	RETURN @extschema@.start_endpoint(tenant_id, endpoint);
END $$;
COMMENT ON FUNCTION create_endpoint(text, text, text, jsonb, text, pg_lsn, timestamptz) IS 'make and start an endpoint for a branch; returns its URI';

CREATE FUNCTION drop_endpoint(tenant_id text, endpoint text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE e @extschema@.endpoints := @extschema@.look_up_endpoint(tenant_id, endpoint);
BEGIN
	PERFORM @extschema@.endpoint_lock(tenant_id, endpoint);
	e := @extschema@.find_endpoint(tenant_id, endpoint);
	PERFORM @extschema@.step('stop the server', e.compute, e.name);
	BEGIN
		PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.drop_compute($1, $2)', e.directory, e.provider);
	EXCEPTION WHEN connection_exception OR sqlclient_unable_to_establish_sqlconnection OR connection_failure
			OR cannot_connect_now OR admin_shutdown OR crash_shutdown THEN
		-- A host that is gone keeps nobody: its branch is not there.  When it comes back, what it has goes; a server that still runs there commits
		-- only until another one of its branch is started.
		IF NOT EXISTS (SELECT FROM @extschema@.nodes n WHERE n.name = e.compute AND n.state LIKE '%offline') THEN
			RAISE;
		END IF;
		PERFORM @extschema@.write_leftover('compute', e.directory, e.tenant, ARRAY[e.compute], e.port, @extschema@.current_operation(), e.provider);
	END;
	DELETE FROM @extschema@.endpoints WHERE tenant = e.tenant AND name = e.name;
	-- a replica has none of its own, static endpoints of one LSN have the same
	IF e.mode <> 'replica' AND NOT EXISTS (SELECT FROM @extschema@.endpoints x WHERE x.timeline = e.timeline AND x.mode = e.mode AND x.lsn IS NOT DISTINCT FROM e.lsn) THEN
		PERFORM @extschema@.forget_role_secrets(e);
	END IF;
END $$;
COMMENT ON FUNCTION drop_endpoint(text, text) IS 'stop and drop an endpoint';
