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

-- Nodes for a new timeline: those with the least to do, and before them no node that is away.
CREATE FUNCTION choose_pageserver() RETURNS text LANGUAGE sql AS $$
	SELECT name FROM @extschema@.nodes n WHERE role = 'pageserver'
	ORDER BY state = 'offline', (SELECT count(*) FROM @extschema@.timelines l WHERE l.pageserver = n.name), node_id LIMIT 1;
$$;
COMMENT ON FUNCTION choose_pageserver() IS 'the pageserver for a new tenant';

CREATE FUNCTION choose_safekeepers() RETURNS text[] LANGUAGE sql AS $$
	SELECT array_agg(name ORDER BY node_id) FROM (SELECT name, node_id FROM @extschema@.nodes n WHERE role = 'safekeeper'
		ORDER BY state = 'offline', (SELECT count(*) FROM @extschema@.timelines l WHERE n.name = ANY (l.safekeepers)), node_id
		LIMIT coalesce(current_setting('neon_controller.safekeepers_per_timeline', true), '3')::int) chosen;
$$;
COMMENT ON FUNCTION choose_safekeepers() IS 'the safekeepers for a new timeline';

-- What a compute of the tenant uses to reach a node.
CREATE FUNCTION tenant_connstring(n nodes, t tenants) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT format('host=%s port=%s dbname=postgres user=neon_t_%s password=%s', n.host, n.port, t.id, t.node_password);
$$;

CREATE FUNCTION safekeepers_setting(tl timelines) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT string_agg(format('%s=%s', n.node_id, @extschema@.tenant_connstring(n, t)), ';' ORDER BY n.node_id)
	FROM @extschema@.nodes n, @extschema@.tenants t WHERE n.name = ANY (tl.safekeepers) AND t.id = tl.tenant;
$$;

-- The timeline on its safekeepers; a quorum must answer, one that is away is told at the endpoint's next start.  True: all have it.
CREATE FUNCTION ensure_on_safekeepers(tl timelines) RETURNS bool LANGUAGE plpgsql AS $$
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
	RETURN ok = array_length(tl.safekeepers, 1);
END $$;
