\echo Use "CREATE EXTENSION neon_controller" to load this file. \quit

-- SPDX-License-Identifier: Apache-2.0
--
-- What must last is in tables: nodes, tenants, timelines, branches, endpoints.  Whatever a node or a process can
-- tell about itself is asked when it is needed.
--
-- Order of every change: what is created is created on the nodes first, idempotently and under a new id, then comes the row that
-- makes it real; what is dropped loses its row first.  A crash between the two leaves something on a node that no row names,
-- and never a row that names nothing.  For timelines it is noted before (leftovers), and cleaned up later.
--
-- Locks: functions that change a tenant take its row FOR UPDATE, so that changes of one tenant are one after another.

CREATE TABLE nodes (
	name text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
	role text NOT NULL CHECK (role IN ('controller', 'pageserver', 'safekeeper', 'compute')),
	node_id int NOT NULL,
	host text NOT NULL,
	port int NOT NULL,
	admin_connstring text NOT NULL,		-- superuser, database postgres
	registered_at timestamptz NOT NULL DEFAULT now(),
	UNIQUE (role, node_id)
);
COMMENT ON TABLE nodes IS 'servers of the cluster; the compute role marks a host that can run endpoints';

CREATE TABLE tenants (
	id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{32}$'),
	name text NOT NULL UNIQUE,
	node_password text NOT NULL,		-- of role neon_t_<id> on every node
	role_password text NOT NULL,		-- of role postgres inside the tenant's databases, as it was created
	created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE timelines (
	id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{32}$'),
	tenant text NOT NULL REFERENCES tenants,
	ancestor text REFERENCES timelines,
	start_lsn pg_lsn NOT NULL,			-- the branch point, or the end of a new cluster's log
	system_id text NOT NULL,
	wal_seg_size int NOT NULL,
	pageserver text NOT NULL REFERENCES nodes,
	safekeepers text[] NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON timelines (tenant);
CREATE INDEX ON timelines (ancestor);

CREATE TABLE branches (
	tenant text NOT NULL REFERENCES tenants,
	name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
	timeline text NOT NULL UNIQUE REFERENCES timelines,
	created_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (tenant, name)
);

CREATE TABLE endpoints (
	tenant text NOT NULL REFERENCES tenants,
	name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
	timeline text NOT NULL UNIQUE REFERENCES timelines,		-- one writer a timeline
	compute text NOT NULL REFERENCES nodes,
	directory text NOT NULL UNIQUE,
	host text NOT NULL,
	port int NOT NULL,
	wanted text NOT NULL DEFAULT 'running' CHECK (wanted IN ('running', 'suspended')),
	settings jsonb NOT NULL DEFAULT '{}',
	created_at timestamptz NOT NULL DEFAULT now(),
	started_at timestamptz,
	PRIMARY KEY (tenant, name),
	UNIQUE (compute, port)
);

-- Timelines that nodes may have and nobody wants: being created, or dropped and not yet gone everywhere.  Written by transactions
-- of their own (see aside), so that it outlives the failure of what it is about.  Not dumped: old notes about timelines that
-- were finished later would be dangerous, and a timeline that has a row is never cleaned up.
CREATE TABLE leftovers (
	timeline text PRIMARY KEY,
	tenant text NOT NULL,
	pageserver text NOT NULL,
	safekeepers text[] NOT NULL,
	noted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

SELECT pg_catalog.pg_extension_config_dump('nodes', '');
SELECT pg_catalog.pg_extension_config_dump('tenants', '');
SELECT pg_catalog.pg_extension_config_dump('timelines', '');
SELECT pg_catalog.pg_extension_config_dump('branches', '');
SELECT pg_catalog.pg_extension_config_dump('endpoints', '');

-- ---------------------------------------------------------------- other nodes

CREATE FUNCTION remote(conninfo text, who text, sql text, VARIADIC args text[] = '{}') RETURNS SETOF jsonb
AS 'MODULE_PATHNAME', 'nc_remote' LANGUAGE C STRICT;
COMMENT ON FUNCTION remote(text, text, text, text[]) IS 'run one statement on another server; rows of a SELECT as jsonb';

CREATE FUNCTION on_node(node text, sql text, VARIADIC args text[] = '{}') RETURNS SETOF jsonb LANGUAGE plpgsql AS $$
DECLARE n @extschema@.nodes;
BEGIN
	SELECT * INTO n FROM @extschema@.nodes WHERE name = node;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'node "%" is not registered', node USING ERRCODE = 'NE001', HINT = 'See neon_nodes.';
	END IF;
	RETURN QUERY SELECT * FROM @extschema@.remote(n.admin_connstring, format('%s "%s"', n.role, n.name), sql, VARIADIC args);
END $$;
COMMENT ON FUNCTION on_node(text, text, text[]) IS 'remote() on a registered node, as its administrator';

CREATE FUNCTION register_node(name text, role text, node_id int, host text, port int, admin_connstring text) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO @extschema@.nodes VALUES ($1, $2, $3, $4, $5, $6)
	ON CONFLICT ON CONSTRAINT nodes_pkey DO UPDATE SET role = $2, node_id = $3, host = $4, port = $5, admin_connstring = $6;
$$;
COMMENT ON FUNCTION register_node(text, text, int, text, int, text) IS 'make a server known, or change its address';

-- A transaction of its own in this database: its effect stays whatever becomes of ours.  It must not want rows that we have locked.
CREATE FUNCTION aside(sql text, VARIADIC args text[] = '{}') RETURNS SETOF jsonb LANGUAGE sql AS $$
	SELECT r FROM (SELECT name FROM @extschema@.nodes WHERE role = 'controller' ORDER BY node_id LIMIT 1) n,
		@extschema@.on_node(n.name, sql, VARIADIC args) r;
$$;

-- What a compute of the tenant uses to reach a node.
CREATE FUNCTION tenant_connstring(n nodes, t tenants) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT format('host=%s port=%s dbname=postgres user=neon_t_%s password=%s', n.host, n.port, t.id, t.node_password);
$$;

CREATE FUNCTION safekeepers_setting(tl timelines) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT string_agg(format('%s=%s', n.node_id, @extschema@.tenant_connstring(n, t)), ';' ORDER BY n.node_id)
	FROM @extschema@.nodes n, @extschema@.tenants t WHERE n.name = ANY (tl.safekeepers) AND t.id = tl.tenant;
$$;

-- The timeline on its safekeepers; a quorum must answer, one that is away is told at the endpoint's next start.
CREATE FUNCTION ensure_on_safekeepers(tl timelines) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	sk text;
	ok int := 0;
	why text;
	t @extschema@.tenants;
	members text;
BEGIN
	SELECT * INTO STRICT t FROM @extschema@.tenants WHERE id = tl.tenant;
	SELECT string_agg(node_id::text, ',' ORDER BY node_id) INTO members FROM @extschema@.nodes WHERE name = ANY (tl.safekeepers);
	FOREACH sk IN ARRAY tl.safekeepers LOOP
		BEGIN
			PERFORM @extschema@.on_node(sk, 'SELECT neon_safekeeper.create_tenant($1, $2)', t.id, t.node_password);
			PERFORM @extschema@.on_node(sk, 'SELECT neon_safekeeper.create_timeline($1, $2, $3, $4, $5, $6)',
				tl.tenant, tl.id, tl.start_lsn::text, tl.system_id, tl.wal_seg_size::text, members);
			ok := ok + 1;
		EXCEPTION WHEN connection_exception OR sqlclient_unable_to_establish_sqlconnection OR connection_failure
				OR cannot_connect_now OR admin_shutdown OR crash_shutdown THEN
			why := format('%s: %s', sk, SQLERRM);
		END;
	END LOOP;
	IF ok <= array_length(tl.safekeepers, 1) / 2 THEN
		RAISE EXCEPTION 'only % of % safekeepers can be reached', ok, array_length(tl.safekeepers, 1)
			USING ERRCODE = 'NE002', DETAIL = why, HINT = 'Start the safekeepers and try again.';
	END IF;
END $$;

-- ---------------------------------------------------------------- names to rows

CREATE FUNCTION check_name(name text, what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF name IS NULL OR name !~ '^[a-z0-9][a-z0-9_-]{0,62}$' THEN
		RAISE EXCEPTION 'invalid % name "%"', what, name USING ERRCODE = 'invalid_name',
			HINT = 'Names have up to 63 lower-case letters, digits, "_" and "-", and begin with a letter or digit.';
	END IF;
END $$;

CREATE FUNCTION find_branch(tenant_id text, branch text) RETURNS timelines LANGUAGE plpgsql STABLE AS $$
DECLARE tl @extschema@.timelines;
BEGIN
	SELECT l.* INTO tl FROM @extschema@.branches b JOIN @extschema@.timelines l ON l.id = b.timeline
	WHERE b.tenant = tenant_id AND b.name = branch;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'branch "%" does not exist', branch USING ERRCODE = 'NE003', HINT = 'See neon_branches for those there are.';
	END IF;
	RETURN tl;
END $$;

CREATE FUNCTION find_endpoint(tenant_id text, endpoint text) RETURNS endpoints LANGUAGE plpgsql AS $$
DECLARE e @extschema@.endpoints;
BEGIN
	SELECT * INTO e FROM @extschema@.endpoints WHERE tenant = tenant_id AND name = endpoint FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'endpoint "%" does not exist', endpoint USING ERRCODE = 'NE004', HINT = 'See neon_endpoints for those there are.';
	END IF;
	RETURN e;
END $$;

CREATE FUNCTION lock_tenant(tenant_id text) RETURNS tenants LANGUAGE sql AS $$
	SELECT * FROM @extschema@.tenants WHERE id = tenant_id FOR UPDATE;
$$;

CREATE FUNCTION new_id() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT replace(gen_random_uuid()::text, '-', '') $$;

-- ---------------------------------------------------------------- endpoints

-- The endpoint's own server, as its administrator: over the socket that only this host's owner can open.
CREATE FUNCTION endpoint_admin(e endpoints) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT format('host=%s port=%s user=postgres dbname=postgres',
		@extschema@.on_node(e.compute, 'SELECT current_setting(''neon_compute_tools.base_directory'') AS dir') ->> 'dir', e.port);
$$;

CREATE FUNCTION endpoint_pid(e endpoints) RETURNS int LANGUAGE sql AS $$
	SELECT (@extschema@.on_node(e.compute, 'SELECT neon_compute_tools.process_pid($1) AS pid', e.directory) ->> 'pid')::int;
$$;

CREATE FUNCTION endpoint_uri(e endpoints) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT format('postgresql://postgres:%s@%s:%s/postgres', t.role_password, e.host, e.port)
	FROM @extschema@.tenants t WHERE t.id = e.tenant;
$$;

CREATE FUNCTION start_endpoint(tenant_id text, endpoint text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	t @extschema@.tenants := @extschema@.lock_tenant(tenant_id);
	e @extschema@.endpoints := @extschema@.find_endpoint(tenant_id, endpoint);
	tl @extschema@.timelines;
	ps @extschema@.nodes;
	c @extschema@.nodes;
	ctl @extschema@.nodes;
BEGIN
	IF @extschema@.endpoint_pid(e) IS NOT NULL THEN
		UPDATE @extschema@.endpoints SET wanted = 'running' WHERE tenant = e.tenant AND name = e.name;
		RETURN @extschema@.endpoint_uri(e);
	END IF;
	SELECT * INTO STRICT tl FROM @extschema@.timelines WHERE id = e.timeline;
	SELECT * INTO STRICT ps FROM @extschema@.nodes WHERE name = tl.pageserver;
	SELECT * INTO STRICT ctl FROM @extschema@.nodes WHERE role = 'controller' ORDER BY node_id LIMIT 1;
	PERFORM @extschema@.ensure_on_safekeepers(tl);
	-- a killed server leaves its pid file; the directory is made anew anyway
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.forget_dead_process($1)', e.directory);
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.start_compute($1)', jsonb_build_object(
		'name', e.directory, 'tenant', tl.tenant, 'timeline', tl.id, 'start_lsn', tl.start_lsn, 'system_id', tl.system_id,
		'wal_seg_size', tl.wal_seg_size, 'safekeepers', @extschema@.safekeepers_setting(tl),
		'pageserver', @extschema@.tenant_connstring(ps, t), 'controller', @extschema@.tenant_connstring(ctl, t),
		'host', e.host, 'port', e.port, 'settings', e.settings)::text);
	UPDATE @extschema@.endpoints SET wanted = 'running', started_at = clock_timestamp() WHERE tenant = e.tenant AND name = e.name;
	RETURN @extschema@.endpoint_uri(e);
END $$;
COMMENT ON FUNCTION start_endpoint(text, text) IS 'start an endpoint from nothing, if it does not run';

CREATE FUNCTION suspend_endpoint(tenant_id text, endpoint text, mode text = 'fast') RETURNS void LANGUAGE plpgsql AS $$
DECLARE e @extschema@.endpoints := @extschema@.find_endpoint(tenant_id, endpoint);
BEGIN
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.stop_process($1, $2)', e.directory, mode);
	UPDATE @extschema@.endpoints SET wanted = 'suspended' WHERE tenant = e.tenant AND name = e.name;
END $$;

CREATE FUNCTION create_endpoint(tenant_id text, endpoint text, branch text = NULL, settings jsonb = '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	tl @extschema@.timelines;
	c @extschema@.nodes;
	other text;
	new_port int;
BEGIN
	PERFORM @extschema@.check_name(endpoint, 'endpoint');
	PERFORM @extschema@.lock_tenant(tenant_id);
	tl := @extschema@.find_branch(tenant_id, coalesce(branch, endpoint));
	IF EXISTS (SELECT FROM @extschema@.endpoints e WHERE e.tenant = tenant_id AND e.name = endpoint) THEN
		RAISE EXCEPTION 'endpoint "%" already exists', endpoint USING ERRCODE = 'duplicate_object',
			HINT = 'Start it with neon_start_endpoint().';
	END IF;
	SELECT e.name INTO other FROM @extschema@.endpoints e WHERE e.timeline = tl.id;
	IF FOUND THEN
		RAISE EXCEPTION 'branch "%" already has the read-write endpoint "%"', coalesce(branch, endpoint), other
			USING ERRCODE = 'NE005', HINT = 'A branch has one writer at a time; create a branch for another one.';
	END IF;
	SELECT * INTO c FROM @extschema@.nodes WHERE role = 'compute' ORDER BY node_id LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'no compute host is registered' USING ERRCODE = 'NE006',
			HINT = 'Register one with neon_controller.register_node().';
	END IF;
	LOCK TABLE @extschema@.endpoints IN SHARE ROW EXCLUSIVE MODE;	-- ports are given out one at a time
	SELECT min(p) INTO new_port
	FROM generate_series(coalesce(nullif(current_setting('neon_controller.endpoint_port_base', true), ''), '55440')::int,
		65535) p
	WHERE NOT EXISTS (SELECT FROM @extschema@.endpoints e WHERE e.compute = c.name AND e.port = p);
	INSERT INTO @extschema@.endpoints (tenant, name, timeline, compute, directory, host, port, settings)
	VALUES (tenant_id, endpoint, tl.id, c.name, format('%s-%s', left(tenant_id, 8), endpoint), c.host, new_port, settings);
	RETURN @extschema@.start_endpoint(tenant_id, endpoint);
END $$;

CREATE FUNCTION drop_endpoint(tenant_id text, endpoint text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE e @extschema@.endpoints := @extschema@.find_endpoint(tenant_id, endpoint);
BEGIN
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.stop_process($1, $2)', e.directory, 'fast');
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.forget_dead_process($1)', e.directory);
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.drop_data_directory($1)', e.directory);
	DELETE FROM @extschema@.endpoints WHERE tenant = e.tenant AND name = e.name;
END $$;

-- ---------------------------------------------------------------- branches

-- End of everything that is committed on a timeline at this moment.
CREATE FUNCTION current_lsn(tl timelines) RETURNS pg_lsn LANGUAGE plpgsql AS $$
DECLARE
	e @extschema@.endpoints;
	admin text;
	c text;
	lsn pg_lsn;
BEGIN
	SELECT * INTO e FROM @extschema@.endpoints WHERE timeline = tl.id;
	IF FOUND AND @extschema@.endpoint_pid(e) IS NOT NULL THEN
		admin := @extschema@.endpoint_admin(e);
		-- a commit of our own: when it has its quorum, everything before it has
		PERFORM @extschema@.remote(admin, format('endpoint "%s"', e.name),
			'SELECT pg_logical_emit_message(true, ''neon'', ''branch point'')');
		SELECT (r ->> 'lsn')::pg_lsn INTO STRICT lsn FROM @extschema@.remote(admin, format('endpoint "%s"', e.name),
			'SELECT pg_current_wal_flush_lsn() AS lsn') r;
		RETURN lsn;
	END IF;
	-- nobody writes: the end of the quorum's log
	SELECT name INTO STRICT c FROM @extschema@.nodes WHERE role = 'compute' ORDER BY node_id LIMIT 1;
	PERFORM @extschema@.ensure_on_safekeepers(tl);
	SELECT (r ->> 'lsn')::pg_lsn INTO STRICT lsn FROM @extschema@.on_node(c,
		'SELECT lsn FROM neon_compute_tools.sync_safekeepers($1, $2, $3, $4, $5, $6, 30000)',
		tl.tenant, tl.id, @extschema@.safekeepers_setting(tl), tl.start_lsn::text, tl.system_id, tl.wal_seg_size::text) r;
	RETURN lsn;
END $$;

CREATE FUNCTION lsn_at(tl timelines, at_time timestamptz) RETURNS pg_lsn LANGUAGE plpgsql AS $$
DECLARE
	head pg_lsn := @extschema@.current_lsn(tl);
	seen pg_lsn;
	lsn pg_lsn;
	give_up timestamptz := clock_timestamp() + interval '60 s';
BEGIN
	IF at_time > clock_timestamp() THEN
		RAISE EXCEPTION 'time % is in the future', at_time USING ERRCODE = 'NE007',
			HINT = 'Leave the time out to branch from now.';
	END IF;
	LOOP
		SELECT (r ->> 'lsn')::pg_lsn INTO seen FROM @extschema@.on_node(tl.pageserver,
			'SELECT neon_pageserver.last_record_lsn($1, $2) AS lsn', tl.tenant, tl.id) r;
		EXIT WHEN seen >= head;
		IF clock_timestamp() > give_up THEN
			RAISE EXCEPTION 'pageserver "%" has ingested only up to %, not %', tl.pageserver, seen, head USING ERRCODE = 'NE008',
				HINT = 'Look at its log and at neon_pageserver.timelines.';
		END IF;
		PERFORM pg_sleep(0.02);
	END LOOP;
	SELECT (r ->> 'lsn')::pg_lsn INTO STRICT lsn FROM @extschema@.on_node(tl.pageserver,
		'SELECT neon_pageserver.lsn_at($1, $2, $3) AS lsn', tl.tenant, tl.id, at_time::text) r;
	RETURN lsn;
END $$;

-- Held while a timeline is created or removed: its leftover note is not to be acted on by others.
CREATE FUNCTION timeline_lock(id text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT hashtextextended('neon timeline ' || id, 0) $$;

-- One note.  False: a node is away, or has branches of it that go first.
CREATE FUNCTION clean_up_timeline(l leftovers) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
	node text;
	done bool := true;
BEGIN
	FOREACH node IN ARRAY l.pageserver || l.safekeepers LOOP
		BEGIN
			PERFORM @extschema@.on_node(node, CASE node WHEN l.pageserver
				THEN 'SELECT neon_pageserver.drop_timeline(tenant, timeline) FROM neon_pageserver.timelines WHERE tenant = $1 AND timeline = $2'
				ELSE 'SELECT neon_safekeeper.drop_timeline($1, $2)' END, l.tenant, l.timeline);
		EXCEPTION WHEN connection_exception OR sqlclient_unable_to_establish_sqlconnection OR connection_failure
				OR cannot_connect_now OR admin_shutdown OR crash_shutdown OR dependent_objects_still_exist THEN
			done := false;
		END;
	END LOOP;
	RETURN done;
END $$;

-- Remove what the notes say; a node that is away is asked again the next time.  A timeline that has a row is left alone: the look
-- at the rows must be newer than the lock, hence no older snapshots.
CREATE FUNCTION clean_up() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	l @extschema@.leftovers;
	progress bool := current_setting('transaction_isolation') LIKE 'read %';
BEGIN
	WHILE progress LOOP
		progress := false;
		FOR l IN SELECT * FROM @extschema@.leftovers ORDER BY noted_at DESC LOOP
			CONTINUE WHEN NOT pg_try_advisory_xact_lock(@extschema@.timeline_lock(l.timeline));
			IF EXISTS (SELECT FROM @extschema@.timelines t WHERE t.id = l.timeline) OR @extschema@.clean_up_timeline(l) THEN
				DELETE FROM @extschema@.leftovers x WHERE x.timeline = l.timeline;
				progress := true;
			END IF;
		END LOOP;
	END LOOP;
END $$;
COMMENT ON FUNCTION clean_up() IS 'remove from the nodes what interrupted creations and drops have left there';

-- A new timeline on the nodes and its rows; ancestor NULL makes a fresh cluster.
CREATE FUNCTION create_timeline(t tenants, branch text, ancestor timelines, at_lsn pg_lsn) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	tl @extschema@.timelines;
	r jsonb;
BEGIN
	tl.id := @extschema@.new_id();
	tl.tenant := t.id;
	tl.ancestor := ancestor.id;
	tl.created_at := clock_timestamp();
	IF ancestor.id IS NOT NULL THEN
		tl.pageserver := ancestor.pageserver;
		tl.safekeepers := ancestor.safekeepers;
	ELSE
		SELECT name INTO tl.pageserver FROM @extschema@.nodes n WHERE role = 'pageserver'
		ORDER BY (SELECT count(*) FROM @extschema@.timelines l WHERE l.pageserver = n.name), node_id LIMIT 1;
		SELECT array_agg(name ORDER BY node_id) INTO tl.safekeepers FROM @extschema@.nodes WHERE role = 'safekeeper';
		IF tl.pageserver IS NULL OR coalesce(array_length(tl.safekeepers, 1), 0) = 0 THEN
			RAISE EXCEPTION 'the cluster has no pageserver or no safekeeper' USING ERRCODE = 'NE006',
				HINT = 'Register them with neon_controller.register_node().';
		END IF;
	END IF;
	PERFORM pg_advisory_xact_lock(@extschema@.timeline_lock(tl.id));
	PERFORM @extschema@.aside('INSERT INTO @extschema@.leftovers VALUES ($1, $2, $3, $4::text[])', tl.id, t.id, tl.pageserver, tl.safekeepers::text);
	PERFORM @extschema@.on_node(tl.pageserver, 'SELECT neon_pageserver.create_tenant($1, $2)', t.id, t.node_password);
	SELECT q INTO STRICT r FROM @extschema@.on_node(tl.pageserver,
		'SELECT * FROM neon_pageserver.create_timeline($1, $2, $3::text[], $4, $5::pg_lsn)', t.id, tl.id,
		(SELECT array_agg(@extschema@.tenant_connstring(n, t) ORDER BY node_id)::text FROM @extschema@.nodes n WHERE n.name = ANY (tl.safekeepers)),
		ancestor.id, at_lsn::text) q;
	tl.start_lsn := r ->> 'start_lsn';
	tl.system_id := r ->> 'system_id';
	tl.wal_seg_size := r ->> 'wal_seg_size';
	PERFORM @extschema@.ensure_on_safekeepers(tl);
	INSERT INTO @extschema@.timelines SELECT tl.*;
	INSERT INTO @extschema@.branches (tenant, name, timeline) VALUES (t.id, branch, tl.id);
	DELETE FROM @extschema@.leftovers WHERE timeline = tl.id;
	RETURN tl.id;
END $$;

CREATE FUNCTION create_branch(tenant_id text, branch text, parent text, at_lsn pg_lsn = NULL, at_time timestamptz = NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	t @extschema@.tenants;
	p @extschema@.timelines;
	lsn pg_lsn := at_lsn;
BEGIN
	PERFORM @extschema@.check_name(branch, 'branch');
	IF at_lsn IS NOT NULL AND at_time IS NOT NULL THEN
		RAISE EXCEPTION 'at_lsn and at_time exclude each other' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give one of them, or none to branch from now.';
	END IF;
	t := @extschema@.lock_tenant(tenant_id);
	PERFORM @extschema@.clean_up();
	IF EXISTS (SELECT FROM @extschema@.branches b WHERE b.tenant = tenant_id AND b.name = branch) THEN
		RAISE EXCEPTION 'branch "%" already exists', branch USING ERRCODE = 'duplicate_object',
			HINT = 'Choose another name, or drop it with neon_drop_branch().';
	END IF;
	p := @extschema@.find_branch(tenant_id, parent);
	IF at_time IS NOT NULL THEN
		lsn := @extschema@.lsn_at(p, at_time);
	ELSIF at_lsn IS NULL THEN
		lsn := @extschema@.current_lsn(p);
	ELSIF at_lsn < p.start_lsn THEN
		RAISE EXCEPTION 'LSN % is before branch "%" began (%)', at_lsn, parent, p.start_lsn USING ERRCODE = 'NE009',
			HINT = 'Branch from its parent instead.';
	ELSIF at_lsn > @extschema@.current_lsn(p) THEN
		RAISE EXCEPTION 'LSN % is beyond the end of branch "%"', at_lsn, parent USING ERRCODE = 'NE009',
			HINT = 'Leave it out to branch from now.';
	END IF;
	RETURN @extschema@.create_timeline(t, branch, p, lsn);
END $$;

-- The rows of a branch, called aside: from then on it is a leftover.  False: there was none.
CREATE FUNCTION drop_branch_rows(timeline_id text) RETURNS bool LANGUAGE plpgsql SET lock_timeout = '10s' AS $$
DECLARE tl @extschema@.timelines;
BEGIN
	DELETE FROM @extschema@.endpoints e WHERE e.timeline = timeline_id;
	DELETE FROM @extschema@.branches b WHERE b.timeline = timeline_id;
	DELETE FROM @extschema@.timelines l WHERE l.id = timeline_id RETURNING * INTO tl;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	INSERT INTO @extschema@.leftovers VALUES (tl.id, tl.tenant, tl.pageserver, tl.safekeepers) ON CONFLICT DO NOTHING;
	RETURN true;
END $$;

CREATE FUNCTION drop_branch(tenant_id text, branch text, cascade bool = false) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	tl @extschema@.timelines;
	child text;
	e @extschema@.endpoints;
BEGIN
	PERFORM @extschema@.lock_tenant(tenant_id);
	tl := @extschema@.find_branch(tenant_id, branch);
	FOR child IN SELECT b.name FROM @extschema@.branches b JOIN @extschema@.timelines l ON l.id = b.timeline WHERE l.ancestor = tl.id LOOP
		IF NOT cascade THEN
			RAISE EXCEPTION 'branch "%" has children, among them "%"', branch, child USING ERRCODE = 'dependent_objects_still_exist',
				HINT = 'Drop them first, or use cascade => true.';
		END IF;
		PERFORM @extschema@.drop_branch(tenant_id, child, true);
	END LOOP;
	FOR e IN SELECT * FROM @extschema@.endpoints x WHERE x.timeline = tl.id LOOP
		PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.stop_process($1, $2)', e.directory, 'fast');
		PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.forget_dead_process($1)', e.directory);
		PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.drop_data_directory($1)', e.directory);
	END LOOP;
	IF NOT (SELECT (r ->> 'done')::bool FROM @extschema@.aside('SELECT @extschema@.drop_branch_rows($1) AS done', tl.id) r) THEN
		RAISE EXCEPTION 'branch "%" was created by this transaction', branch USING ERRCODE = 'object_in_use', HINT = 'Commit first.';
	END IF;
	PERFORM @extschema@.clean_up();
END $$;

CREATE FUNCTION rename_branch(tenant_id text, branch text, new_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM @extschema@.check_name(new_name, 'branch');
	PERFORM @extschema@.lock_tenant(tenant_id);
	PERFORM @extschema@.find_branch(tenant_id, branch);
	UPDATE @extschema@.branches b SET name = new_name WHERE b.tenant = tenant_id AND b.name = branch;
EXCEPTION WHEN unique_violation THEN
	RAISE EXCEPTION 'branch "%" already exists', new_name USING ERRCODE = 'duplicate_object';
END $$;

CREATE FUNCTION connection_uri(tenant_id text, branch text) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
	tl @extschema@.timelines := @extschema@.find_branch(tenant_id, branch);
	e @extschema@.endpoints;
BEGIN
	SELECT * INTO e FROM @extschema@.endpoints WHERE timeline = tl.id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'branch "%" has no endpoint', branch USING ERRCODE = 'NE004',
			HINT = format('SELECT neon_create_endpoint(%L);', branch);
	END IF;
	RETURN @extschema@.endpoint_uri(e);
END $$;

-- ---------------------------------------------------------------- tenants

CREATE FUNCTION create_tenant(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	t @extschema@.tenants;
	e @extschema@.endpoints;
BEGIN
	PERFORM @extschema@.check_name(name, 'tenant');
	IF EXISTS (SELECT FROM @extschema@.tenants x WHERE x.name = create_tenant.name) THEN
		RAISE EXCEPTION 'tenant "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
	t.id := @extschema@.new_id();
	t.name := name;
	t.node_password := @extschema@.new_id();
	t.role_password := @extschema@.new_id();
	t.created_at := clock_timestamp();
	EXECUTE format('CREATE ROLE %I LOGIN PASSWORD %L IN ROLE neon_tenant', 'neon_t_' || t.id, t.node_password);
	INSERT INTO @extschema@.tenants SELECT t.*;
	PERFORM @extschema@.create_timeline(t, 'main', NULL, NULL);
	PERFORM @extschema@.create_endpoint(t.id, 'main');
	SELECT * INTO STRICT e FROM @extschema@.endpoints WHERE tenant = t.id;
	PERFORM @extschema@.remote(@extschema@.endpoint_admin(e), 'endpoint "main"',
		format('ALTER ROLE postgres PASSWORD %L', t.role_password));
	PERFORM @extschema@.remote(@extschema@.endpoint_admin(e), 'endpoint "main"', 'CREATE EXTENSION IF NOT EXISTS neon');
	RETURN t.id;
END $$;

CREATE FUNCTION drop_tenant(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	t @extschema@.tenants;
	b text;
	n @extschema@.nodes;
BEGIN
	SELECT * INTO t FROM @extschema@.tenants x WHERE x.name = drop_tenant.name FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'tenant "%" does not exist', name USING ERRCODE = 'NE010', HINT = 'See neon_tenants for those there are.';
	END IF;
	LOOP
		SELECT x.name INTO b FROM @extschema@.branches x JOIN @extschema@.timelines l ON l.id = x.timeline
		WHERE x.tenant = t.id AND NOT EXISTS (SELECT FROM @extschema@.timelines c WHERE c.ancestor = l.id) LIMIT 1;
		EXIT WHEN NOT FOUND;
		PERFORM @extschema@.drop_branch(t.id, b);
	END LOOP;
	FOR n IN SELECT * FROM @extschema@.nodes WHERE role IN ('pageserver', 'safekeeper') LOOP
		PERFORM @extschema@.on_node(n.name, format('SELECT neon_%s.drop_tenant($1)', n.role), t.id);
	END LOOP;
	DELETE FROM @extschema@.tenants WHERE id = t.id;
	EXECUTE format('DROP ROLE %I', 'neon_t_' || t.id);
END $$;

CREATE FUNCTION checkpoint(tenant_id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM @extschema@.on_node(n.name, 'SELECT neon_pageserver.checkpoint($1)', tenant_id)
	FROM @extschema@.nodes n WHERE n.role = 'pageserver';
END $$;

-- ---------------------------------------------------------------- one door for the neon extension

-- Which tenant a caller means: a tenant's credential is its tenant; an administrator names one, or there is only one.
CREATE FUNCTION callers_tenant(args jsonb) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
	id_found text;
	n int;
BEGIN
	IF session_user LIKE 'neon\_t\_%' THEN
		RETURN substr(session_user, 8);
	END IF;
	IF nullif(current_setting('neon.tenant', true), '') IS NOT NULL THEN
		SELECT id INTO id_found FROM @extschema@.tenants WHERE name = current_setting('neon.tenant') OR id = current_setting('neon.tenant');
		IF NOT FOUND THEN
			RAISE EXCEPTION 'tenant "%" does not exist', current_setting('neon.tenant') USING ERRCODE = 'NE010',
				HINT = 'See neon_tenants for those there are.';
		END IF;
		RETURN id_found;
	END IF;
	SELECT count(*), min(id) INTO n, id_found FROM @extschema@.tenants;
	IF n <> 1 THEN
		RAISE EXCEPTION 'there are % tenants, and none was named', n USING ERRCODE = 'NE010',
			HINT = 'SET neon.tenant = ''name'' first.';
	END IF;
	RETURN id_found;
END $$;

CREATE FUNCTION api(fn text, args jsonb, timeline_id text = NULL) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	is_admin bool := session_user NOT LIKE 'neon\_t\_%';
	t text;
	here text;
BEGIN
	IF fn IN ('create_tenant', 'drop_tenant', 'nodes') AND NOT is_admin THEN
		RAISE EXCEPTION 'only the cluster''s administrator may do that' USING ERRCODE = 'insufficient_privilege',
			HINT = 'Connect to the controller as a superuser.';
	END IF;
	CASE fn
		WHEN 'create_tenant' THEN RETURN to_jsonb(@extschema@.create_tenant(args ->> 'name'));
		WHEN 'drop_tenant' THEN PERFORM @extschema@.drop_tenant(args ->> 'name'); RETURN NULL;
		WHEN 'nodes' THEN
			RETURN (SELECT coalesce(jsonb_agg(to_jsonb(n) - 'admin_connstring' ORDER BY role, node_id), '[]') FROM @extschema@.nodes n);
		WHEN 'tenants' THEN
			RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('id', id, 'name', name, 'created_at', created_at) ORDER BY name), '[]')
				FROM @extschema@.tenants WHERE is_admin OR id = substr(session_user, 8));
		WHEN 'branches' THEN
			RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('tenant', b.tenant, 'name', b.name, 'timeline_id', l.id,
					'parent', pb.name, 'start_lsn', l.start_lsn, 'created_at', b.created_at) ORDER BY b.created_at), '[]')
				FROM @extschema@.branches b JOIN @extschema@.timelines l ON l.id = b.timeline
				LEFT JOIN @extschema@.branches pb ON pb.timeline = l.ancestor
				WHERE is_admin OR b.tenant = substr(session_user, 8));
		WHEN 'endpoints' THEN
			RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('tenant', e.tenant, 'name', e.name, 'branch', b.name, 'mode', 'read-write',
					'state', CASE WHEN @extschema@.endpoint_pid(e) IS NOT NULL THEN 'running' WHEN e.wanted = 'running' THEN 'stopped' ELSE 'suspended' END,
					'pid', @extschema@.endpoint_pid(e), 'host', e.host, 'port', e.port,
					'data_directory', CASE WHEN is_admin THEN e.directory END, 'started_at', e.started_at) ORDER BY e.created_at), '[]')
				FROM @extschema@.endpoints e JOIN @extschema@.branches b ON b.timeline = e.timeline
				WHERE is_admin OR e.tenant = substr(session_user, 8));
		ELSE NULL;
	END CASE;

	t := @extschema@.callers_tenant(args);
	SELECT b.name INTO here FROM @extschema@.branches b WHERE b.tenant = t AND b.timeline = timeline_id;
	CASE fn
		WHEN 'create_branch' THEN
			RETURN to_jsonb(@extschema@.create_branch(t, args ->> 'name', coalesce(args ->> 'parent', here, 'main'),
				(args ->> 'at_lsn')::pg_lsn, (args ->> 'at_time')::timestamptz));
		WHEN 'drop_branch' THEN
			IF args ->> 'name' = here THEN
				RAISE EXCEPTION 'cannot drop the branch this session is connected to' USING ERRCODE = 'object_in_use',
					HINT = 'Do it from another branch or from the controller.';
			END IF;
			PERFORM @extschema@.drop_branch(t, args ->> 'name', (args ->> 'cascade')::bool);
		WHEN 'rename_branch' THEN PERFORM @extschema@.rename_branch(t, args ->> 'name', args ->> 'new_name');
		WHEN 'create_endpoint' THEN
			RETURN to_jsonb(@extschema@.create_endpoint(t, args ->> 'name', args ->> 'branch'));
		WHEN 'start_endpoint' THEN RETURN to_jsonb(@extschema@.start_endpoint(t, args ->> 'name'));
		WHEN 'suspend_endpoint' THEN PERFORM @extschema@.suspend_endpoint(t, args ->> 'name');
		WHEN 'drop_endpoint' THEN PERFORM @extschema@.drop_endpoint(t, args ->> 'name');
		WHEN 'connection_uri' THEN RETURN to_jsonb(@extschema@.connection_uri(t, coalesce(args ->> 'branch', here, 'main')));
		WHEN 'current_branch' THEN RETURN to_jsonb(here);
		WHEN 'lsn_at' THEN
			RETURN to_jsonb(@extschema@.lsn_at(@extschema@.find_branch(t, coalesce(here, 'main')), (args ->> 'at')::timestamptz));
		WHEN 'checkpoint' THEN PERFORM @extschema@.checkpoint(t);
		ELSE
			RAISE EXCEPTION 'unknown controller function "%"', fn USING ERRCODE = 'undefined_function',
				HINT = 'The neon extension here is newer than the controller.';
	END CASE;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION api(text, jsonb, text) IS 'what the neon extension calls, here or from an endpoint';

-- ---------------------------------------------------------------- who may what

DO $$ BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'neon_tenant') THEN
		CREATE ROLE neon_tenant NOLOGIN;
	END IF;
END $$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA @extschema@ FROM PUBLIC;
GRANT USAGE ON SCHEMA @extschema@ TO neon_tenant;
GRANT EXECUTE ON FUNCTION api(text, jsonb, text) TO neon_tenant;
