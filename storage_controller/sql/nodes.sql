-- SPDX-License-Identifier: Apache-2.0
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
	INSERT INTO @extschema@.nodes (name, role, node_id, host, port, admin_connstring) VALUES ($1, $2, $3, $4, $5, $6)
	ON CONFLICT ON CONSTRAINT nodes_pkey DO UPDATE SET role = $2, node_id = $3, host = $4, port = $5, admin_connstring = $6;
$$;
COMMENT ON FUNCTION register_node(text, text, int, text, int, text) IS 'make a server known, or change its address';

CREATE FUNCTION kept(conninfo text, who text, sql text, VARIADIC args text[] = '{}') RETURNS SETOF jsonb
AS 'MODULE_PATHNAME', 'nc_kept' LANGUAGE C STRICT;
COMMENT ON FUNCTION kept(text, text, text, text[]) IS 'remote() over a connection that this session keeps';

-- A transaction of its own in this database: its effect stays whatever becomes of ours.  It must not want rows that we have locked:
-- it would fail after its lock_timeout.
CREATE FUNCTION aside(sql text, VARIADIC args text[] = '{}') RETURNS SETOF jsonb LANGUAGE plpgsql AS $$
DECLARE conninfo text;
BEGIN
	SELECT admin_connstring INTO STRICT conninfo FROM @extschema@.nodes WHERE role = 'controller' ORDER BY node_id LIMIT 1;
	RETURN QUERY SELECT * FROM @extschema@.kept(conninfo, 'the controller itself', sql, VARIADIC args);
END $$;

-- Nodes for a new timeline: those that are there, and of them those with the least to do.
CREATE FUNCTION choose_pageserver() RETURNS text LANGUAGE sql AS $$
	SELECT name FROM @extschema@.nodes n WHERE role = 'pageserver' AND state <> 'offline'
	ORDER BY (SELECT count(*) FROM @extschema@.timelines l WHERE l.pageserver = n.name), node_id LIMIT 1;
$$;
COMMENT ON FUNCTION choose_pageserver() IS 'the pageserver for a new tenant';

-- An odd number; a node that is away is taken only when there are too few others.
CREATE FUNCTION choose_safekeepers() RETURNS text[] LANGUAGE sql AS $$
	WITH ranked AS (SELECT name, node_id, row_number() OVER (ORDER BY state = 'offline',
			(SELECT count(*) FROM @extschema@.timelines l WHERE n.name = ANY (l.safekeepers)), node_id) AS r, count(*) OVER () AS n
		FROM @extschema@.nodes n WHERE role = 'safekeeper')
	SELECT array_agg(name ORDER BY node_id) FROM ranked
	WHERE r <= (SELECT m - (m + 1) % 2 FROM (SELECT least(n, current_setting('neon_controller.safekeepers_per_timeline')::int) AS m) x);
$$;
COMMENT ON FUNCTION choose_safekeepers() IS 'the safekeepers for a new tenant';

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

-- ---------------------------------------------------------------- generations

-- Called aside: the number is used by nobody before it is committed.
CREATE FUNCTION next_generation(tenant_id text, node text, beyond bigint) RETURNS bigint LANGUAGE sql AS $$
	UPDATE @extschema@.attachments SET generation = greatest(generation, coalesce(beyond, 0)) + 1, attached_at = clock_timestamp()
	WHERE tenant = tenant_id AND pageserver = node RETURNING generation;
$$;

-- The tenant on a pageserver, with its credential and its generation; a new attachment begins with 1.
CREATE FUNCTION attach(t tenants, node text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE g bigint;
BEGIN
	INSERT INTO @extschema@.attachments (tenant, pageserver, generation) VALUES (t.id, node, 1) ON CONFLICT DO NOTHING;
	SELECT generation INTO STRICT g FROM @extschema@.attachments WHERE tenant = t.id AND pageserver = node;
	PERFORM @extschema@.on_node(node, 'SELECT neon_pageserver.create_tenant($1, $2), neon_pageserver.attach($1, $3::bigint)',
		t.id, t.node_password, g::text);
	RETURN g;
END $$;

-- A pageserver that was started anew gets new generations for all its tenants.  One that has heard of a newer one than ours proves that this
-- catalog is an older copy: ours jumps beyond it.
CREATE FUNCTION reattach(node text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	a @extschema@.attachments;
	g bigint;
	theirs bigint;
BEGIN
	FOR a IN SELECT * FROM @extschema@.attachments x WHERE x.pageserver = node ORDER BY x.tenant LOOP
		FOR try IN 1 .. 2 LOOP
			SELECT (r ->> 'g')::bigint INTO g FROM @extschema@.aside('SELECT @extschema@.next_generation($1, $2, $3::bigint) AS g', a.tenant, node, theirs::text) r;
			EXIT WHEN g IS NULL;
			SELECT (r ->> 'g')::bigint INTO STRICT theirs FROM @extschema@.on_node(node,
				'SELECT neon_pageserver.reattach($1, $2::bigint) AS g', a.tenant, g::text) r;
			EXIT WHEN theirs IS NULL OR theirs <= g;
		END LOOP;
	END LOOP;
END $$;
COMMENT ON FUNCTION reattach(text) IS 'new generations for everything on a pageserver';

CREATE FUNCTION after_restore() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	UPDATE @extschema@.attachments SET generation = generation + 1000;
	DELETE FROM @extschema@.leftovers;
	UPDATE @extschema@.operations SET state = CASE state WHEN 'finishing' THEN 'done' ELSE 'failed' END,
		error = 'the controller was restored from a copy' WHERE state IN ('running', 'finishing');
	UPDATE @extschema@.nodes SET up_since = NULL;	-- the next heartbeat attaches anew
END $$;
COMMENT ON FUNCTION after_restore() IS
	'To be called once on a controller that was restored from a backup: what it has noted is old, and its generations jump beyond those given out since.';
