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

-- At a new address it has to be seen anew.  A provider is asked for on the host; endpoints keep the one they were made with.
CREATE FUNCTION register_node(name text, role text, node_id int, host text, port int, admin_connstring text, provider text = NULL) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	IF provider IS NOT NULL AND role <> 'compute' THEN
		RAISE EXCEPTION 'node "%" is no host of endpoints, and has no provider', name USING ERRCODE = 'wrong_object_type',
			DETAIL = format('Its role is "%s".', role), HINT = 'Leave the provider out.';
	ELSIF provider IS NOT NULL THEN
		PERFORM @extschema@.remote(admin_connstring, format('%s "%s"', role, name), 'SELECT neon_compute_tools.find_provider($1)', provider);
	END IF;
	INSERT INTO @extschema@.nodes AS n (name, role, node_id, host, port, admin_connstring, provider) VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, 'local'))
	ON CONFLICT ON CONSTRAINT nodes_pkey DO UPDATE SET role = $2, node_id = $3, host = $4, port = $5, admin_connstring = $6, provider = coalesce($7, n.provider),
		state = CASE WHEN n.admin_connstring = $6 THEN n.state ELSE @extschema@.next_state('node', n.state, 'has a new address') END,
		missed = CASE WHEN n.admin_connstring = $6 THEN n.missed ELSE 0 END,
		error = CASE WHEN n.admin_connstring = $6 THEN n.error END;
END $$;
COMMENT ON FUNCTION register_node(text, text, int, text, int, text, text) IS
	'make a server known, or change its address; of a host of endpoints also what runs the new ones there, "local" if nothing was ever said';

-- ---------------------------------------------------------------- what operators say of nodes
--
-- The states are those of state_machine('node').  Nothing is moved off a node yet: one that is drained gets nothing new, and is empty when what it
-- has was dropped.

CREATE FUNCTION lock_node(node text) RETURNS nodes LANGUAGE plpgsql AS $$
DECLARE n @extschema@.nodes;
BEGIN
	SELECT * INTO n FROM @extschema@.nodes x WHERE x.name = node FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'node "%" is not registered', node USING ERRCODE = 'NE001', HINT = 'See neon_nodes.';
	ELSIF n.role = 'controller' THEN
		RAISE EXCEPTION 'node "%" is a controller', node USING ERRCODE = 'wrong_object_type',
			DETAIL = 'Only pageservers, safekeepers and hosts of endpoints are given something.', HINT = 'See neon_nodes.';
	END IF;
	RETURN n;
END $$;
COMMENT ON FUNCTION lock_node(text) IS 'the row of a node that can be drained, locked';

CREATE FUNCTION drain_node(node text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE n @extschema@.nodes := @extschema@.lock_node(node);
BEGIN
	UPDATE @extschema@.nodes x SET state = @extschema@.next_state('node', x.state, 'is drained') WHERE x.name = n.name RETURNING x.state INTO n.state;
	RETURN n.state;
END $$;
COMMENT ON FUNCTION drain_node(text) IS
	'a node gets no new tenants and endpoints from now on; what it has stays, and works as before.  Returns its state; activate_node() takes it back';

CREATE FUNCTION activate_node(node text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE n @extschema@.nodes := @extschema@.lock_node(node);
BEGIN
	UPDATE @extschema@.nodes x SET state = @extschema@.next_state('node', x.state, 'is activated') WHERE x.name = n.name RETURNING x.state INTO n.state;
	RETURN n.state;
END $$;
COMMENT ON FUNCTION activate_node(text) IS 'a node that was drained gets what is new again, if it answers; returns its state';

-- Safekeepers: whoever writes a timeline's row holds theirs, or finds that they are gone (hold_safekeepers).
CREATE FUNCTION check_node_is_empty(n nodes) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	timelines bigint := (SELECT count(*) FROM @extschema@.timelines l WHERE l.pageserver = n.name OR n.name = ANY (l.safekeepers));
	tenants bigint := (SELECT count(*) FROM @extschema@.attachments a WHERE a.pageserver = n.name);
	endpoints bigint := (SELECT count(*) FROM @extschema@.endpoints e WHERE e.compute = n.name);
BEGIN
	IF timelines + tenants + endpoints > 0 THEN
		RAISE EXCEPTION 'node "%" cannot be removed: something is on it', n.name USING ERRCODE = 'dependent_objects_still_exist',
			DETAIL = format('It has %s timelines, %s attached tenants and %s endpoints.', timelines, tenants, endpoints),
			HINT = 'Keep it drained until what it has was dropped.';
	END IF;
END $$;
COMMENT ON FUNCTION check_node_is_empty(nodes) IS 'refuse to let a node go that something is on';

CREATE FUNCTION remove_node(node text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE n @extschema@.nodes := @extschema@.lock_node(node);
BEGIN
	PERFORM @extschema@.next_state('node', n.state, 'is removed');
	PERFORM @extschema@.check_node_is_empty(n);
	DELETE FROM @extschema@.nodes x WHERE x.name = n.name;
END $$;
COMMENT ON FUNCTION remove_node(text) IS 'forget a node that has nothing; one that is online is drained before';

-- Before the pageserver's row is held (foreign key), and then the host's of an endpoint: in this order neon_local registers them, in one transaction.
CREATE FUNCTION hold_safekeepers() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE there int;
BEGIN
	SELECT count(*) INTO there FROM (SELECT FROM @extschema@.nodes n WHERE n.name = ANY (NEW.safekeepers) ORDER BY n.node_id FOR KEY SHARE) x;
	IF there < cardinality(NEW.safekeepers) THEN
		RAISE EXCEPTION 'a safekeeper of timeline "%" is not registered', NEW.id USING ERRCODE = 'foreign_key_violation',
			DETAIL = format('It has %s.', array_to_string(NEW.safekeepers, ', ')), HINT = 'See neon_nodes, and try again.';
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION hold_safekeepers() IS 'trigger: the safekeepers of a timeline are registered, and stay so until the transaction ends';
CREATE TRIGGER hold_safekeepers BEFORE INSERT OR UPDATE OF safekeepers ON timelines FOR EACH ROW EXECUTE FUNCTION hold_safekeepers();

CREATE FUNCTION kept(conninfo text, who text, sql text, VARIADIC args text[] = '{}') RETURNS SETOF jsonb
AS 'MODULE_PATHNAME', 'nc_kept' LANGUAGE C STRICT;
COMMENT ON FUNCTION kept(text, text, text, text[]) IS 'remote() over a connection that this session keeps';

-- A transaction of its own in this database: its effect stays whatever becomes of ours.  It must not want rows that we have locked.
CREATE FUNCTION aside(sql text, VARIADIC args text[] = '{}') RETURNS SETOF jsonb LANGUAGE plpgsql AS $$
DECLARE conninfo text;
BEGIN
	SELECT admin_connstring INTO conninfo FROM @extschema@.nodes WHERE role = 'controller' ORDER BY node_id LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'the controller itself is not registered' USING ERRCODE = 'NE006', HINT = 'Register it with neon_controller.register_node().';
	END IF;
	RETURN QUERY SELECT * FROM @extschema@.kept(conninfo, 'the controller itself', sql, VARIADIC args);
END $$;
COMMENT ON FUNCTION aside(text, VARIADIC text[]) IS 'run a statement in a transaction of its own, whose effect stays whatever becomes of the caller''s';

-- ---------------------------------------------------------------- heartbeats
--
-- A worker of its own asks every node every neon_controller.heartbeat_interval whether it is there, all at the same time.  One lost answer
-- is no absence; after two the node is offline, and gets nothing new.  What it has stays where it is.  The states, and what comes after which, are
-- those of state_machine('node').

CREATE FUNCTION ask_all(conninfos text[], questions text[], OUT number int, OUT answer text, OUT error text) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'nc_ask_all' LANGUAGE C STRICT;
COMMENT ON FUNCTION ask_all(text[], text[]) IS
	'ask each of many servers for one value, all at the same time and within neon_controller.heartbeat_timeout; what did not answer has an error';

CREATE FUNCTION heartbeat_question(role text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT format('SELECT json_build_object(''up_since'', pg_postmaster_start_time(), ''timelines'', %s)', CASE role
		WHEN 'pageserver' THEN '(SELECT count(*) FROM neon_pageserver.timeline)'
		WHEN 'safekeeper' THEN '(SELECT count(*) FROM neon_safekeeper.timelines)' ELSE 'NULL' END);
$$;
COMMENT ON FUNCTION heartbeat_question(text) IS 'what a node of a role is asked in a heartbeat';

-- The rows are written when all have answered: they are locked for a moment only.  One that somebody else has locked, as register_node() does,
-- is left out this time: whoever locks several waits for us, and never we for him.
CREATE FUNCTION heartbeats() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	asked @extschema@.nodes[];
	a record;
	n @extschema@.nodes;
	r jsonb;
BEGIN
	IF NOT pg_try_advisory_xact_lock(hashtextextended('neon heartbeats', 0)) THEN
		RETURN;		-- somebody is at it
	END IF;
	SELECT array_agg(x ORDER BY x.name) INTO asked FROM @extschema@.nodes x;
	FOR a IN SELECT * FROM @extschema@.ask_all(ARRAY(SELECT x.admin_connstring FROM unnest(asked) WITH ORDINALITY x ORDER BY x.ordinality),
			ARRAY(SELECT @extschema@.heartbeat_question(x.role) FROM unnest(asked) WITH ORDINALITY x ORDER BY x.ordinality)) LOOP
		n := asked[a.number];
		r := a.answer;
		PERFORM FROM @extschema@.nodes x WHERE x.name = n.name FOR NO KEY UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		IF a.error IS NULL THEN
			UPDATE @extschema@.nodes x SET missed = 0, error = NULL, state = @extschema@.next_state('node', x.state, 'answers'), last_seen = clock_timestamp(),
				up_since = (r ->> 'up_since')::timestamptz, timelines = (r ->> 'timelines')::int
			WHERE x.name = n.name AND x.admin_connstring = n.admin_connstring;
		ELSE
			UPDATE @extschema@.nodes x SET missed = x.missed + 1, error = a.error,
				state = CASE WHEN x.missed >= 1 THEN @extschema@.next_state('node', x.state, 'does not answer twice') ELSE x.state END
			WHERE x.name = n.name AND x.admin_connstring = n.admin_connstring;
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION heartbeats() IS 'ask all nodes whether they are there, and note the answers';

-- ---------------------------------------------------------------- placement

-- What was chosen before a node was drained still goes there.

CREATE FUNCTION takes_new(n nodes) RETURNS bool LANGUAGE sql IMMUTABLE AS $$ SELECT n.state IN ('registered', 'online') $$;
COMMENT ON FUNCTION takes_new(nodes) IS 'neither offline nor draining; one that was never asked may be as good as any';

CREATE FUNCTION is_draining(n nodes) RETURNS bool LANGUAGE sql IMMUTABLE AS $$ SELECT n.state IN ('draining', 'draining offline') $$;
COMMENT ON FUNCTION is_draining(nodes) IS 'a node that somebody has said gets nothing new';

-- The one with the least to do, of the lowest number among equals.
CREATE FUNCTION choose_pageserver() RETURNS text LANGUAGE plpgsql AS $$
DECLARE chosen text;
BEGIN
	SELECT n.name INTO chosen FROM @extschema@.nodes n WHERE n.role = 'pageserver' AND @extschema@.takes_new(n)
	ORDER BY (SELECT count(*) FROM @extschema@.attachments a WHERE a.pageserver = n.name AND NOT @extschema@.is_stale(a)), n.node_id LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'no pageserver is there for a new tenant' USING ERRCODE = 'NE006',
			DETAIL = @extschema@.those_away('pageserver'),
			HINT = 'Start or activate one, or register another with neon_controller.register_node().  neon_nodes shows them.';
	END IF;
	RETURN chosen;
END $$;
COMMENT ON FUNCTION choose_pageserver() IS 'the pageserver for a new tenant';

-- As many as neon_controller.safekeepers_per_timeline, or all there are.  Those that are offline are taken only to make up the number: the
-- majority has to be there, and they are told when they come back.  Those that are draining are not taken, and do not make the number smaller:
-- a timeline keeps its safekeepers, and would have too few for good.
CREATE FUNCTION choose_safekeepers() RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
	wanted int := least(current_setting('neon_controller.safekeepers_per_timeline')::bigint, (SELECT count(*) FROM @extschema@.nodes n WHERE n.role = 'safekeeper'));
	chosen text[];
	live int;
BEGIN
	SELECT array_agg(c.name ORDER BY c.node_id), count(*) FILTER (WHERE c.state <> 'offline') INTO chosen, live
	FROM (SELECT n.name, n.node_id, n.state FROM @extschema@.nodes n WHERE n.role = 'safekeeper' AND NOT @extschema@.is_draining(n)
		ORDER BY n.state = 'offline', (SELECT count(DISTINCT l.tenant) FROM @extschema@.timelines l WHERE n.name = ANY (l.safekeepers)), n.node_id
		LIMIT wanted) c;
	IF live <= wanted / 2 OR cardinality(chosen) < wanted THEN
		RAISE EXCEPTION 'too few safekeepers are there for a new tenant: %', live USING ERRCODE = 'NE006',
			DETAIL = @extschema@.those_away('safekeeper'),
			HINT = 'Start or activate them, or register others with neon_controller.register_node().  neon_nodes shows them.';
	END IF;
	RETURN chosen;
END $$;
COMMENT ON FUNCTION choose_safekeepers() IS 'the safekeepers for a new tenant''s first timeline; its branches have them too';

-- One that is offline is tried when there is no other: the endpoint is started there at once, which says what is wrong with it, or that nothing is.
CREATE FUNCTION choose_host() RETURNS nodes LANGUAGE plpgsql AS $$
DECLARE chosen @extschema@.nodes;
BEGIN
	SELECT * INTO chosen FROM @extschema@.nodes n WHERE n.role = 'compute' AND NOT @extschema@.is_draining(n)
	ORDER BY n.state = 'offline', (SELECT count(*) FROM @extschema@.endpoints e WHERE e.compute = n.name), n.node_id LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'no compute host is there for a new endpoint' USING ERRCODE = 'NE006',
			DETAIL = @extschema@.those_away('compute'),
			HINT = 'Activate one, or register another with neon_controller.register_node().  neon_nodes shows them.';
	END IF;
	RETURN chosen;
END $$;
COMMENT ON FUNCTION choose_host() IS 'the host for a new endpoint: of those that are not draining, and better not offline, the one with the fewest';

CREATE FUNCTION those_away(role text) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT coalesce(concat_ws('  ', 'Offline: ' || string_agg(format('%s (%s)', n.name, n.error), ', ' ORDER BY n.node_id) FILTER (WHERE n.state = 'offline') || '.',
		'Draining: ' || string_agg(n.name, ', ' ORDER BY n.node_id) FILTER (WHERE @extschema@.is_draining(n)) || '.',
		CASE WHEN count(*) = 0 THEN 'None is registered.' END), '')
	FROM @extschema@.nodes n WHERE n.role = those_away.role;
$$;
COMMENT ON FUNCTION those_away(text) IS 'which nodes of a role get nothing new, and why; for messages';

-- What a compute of the tenant uses to reach a node.
CREATE FUNCTION tenant_connstring(n nodes, t tenants) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT format('host=%s port=%s dbname=postgres user=neon_t_%s password=%s', n.host, n.port, t.id, t.node_password);
$$;
COMMENT ON FUNCTION tenant_connstring(nodes, tenants) IS 'what a compute of a tenant uses to reach a node';

CREATE FUNCTION safekeepers_setting(tl timelines) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT string_agg(format('%s=%s', n.node_id, @extschema@.tenant_connstring(n, t)), ';' ORDER BY n.node_id)
	FROM @extschema@.nodes n, @extschema@.tenants t WHERE n.name = ANY (tl.safekeepers) AND t.id = tl.tenant;
$$;
COMMENT ON FUNCTION safekeepers_setting(timelines) IS 'neon.safekeepers of a timeline''s computes';

CREATE FUNCTION note_acceptors(timeline_id text, names text[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO @extschema@.acceptors SELECT timeline_id, n FROM unnest(names) n ON CONFLICT DO NOTHING;
$$;
COMMENT ON FUNCTION note_acceptors(text, text[]) IS 'these safekeepers have the timeline, and a compute of it will be started';

CREATE FUNCTION create_on_safekeeper(sk text, tl timelines) RETURNS void LANGUAGE sql AS $$
	SELECT @extschema@.on_node(sk, 'SELECT neon_safekeeper.create_timeline($1, $2, $3, $4, $5, $6)', tl.tenant, tl.id, tl.start_lsn::text, tl.system_id,
		tl.wal_seg_size::text, (SELECT string_agg(n.node_id::text, ',' ORDER BY n.node_id) FROM @extschema@.nodes n WHERE n.name = ANY (tl.safekeepers)));
$$;
COMMENT ON FUNCTION create_on_safekeeper(text, timelines) IS 'have a safekeeper make a timeline, if it has not';

-- One that has had it and knows it no more has lost what it acknowledged and what it promised: it must not be counted before the others, without it,
-- have elected.  What was acknowledged is on a majority of them from then on, and no promise to an older proposer can matter.
CREATE FUNCTION rejoin_safekeepers(tl timelines, lost text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE w @extschema@.endpoints := @extschema@.writer_of(tl.id);
BEGIN
	IF w.name IS NOT NULL AND @extschema@.endpoint_pid(w) IS NOT NULL THEN
		RETURN;		-- that would end it; it has its quorum
	END IF;
	PERFORM @extschema@.step('elect without those that have lost it', array_to_string(lost, ', '));
	BEGIN
		PERFORM @extschema@.elect(tl);
	EXCEPTION WHEN connection_failure OR sqlclient_unable_to_establish_sqlconnection OR object_not_in_prerequisite_state THEN
		RAISE EXCEPTION 'safekeeper "%" has lost a timeline, and the others are not enough without it', lost[1]
			USING ERRCODE = 'NE002', DETAIL = SQLERRM, HINT = 'Start the other safekeepers: it is made anew when a majority of all is there besides it.';
	END;
	PERFORM @extschema@.create_on_safekeeper(l, tl) FROM unnest(lost) l;
END $$;
COMMENT ON FUNCTION rejoin_safekeepers(timelines, text[]) IS 'a timeline anew, and empty, on safekeepers that have lost it';

-- The timeline on its safekeepers; a quorum must answer, one that is away is told at the endpoint's next start.  Returns those that have it.
CREATE FUNCTION ensure_on_safekeepers(tl timelines) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
	sk text;
	have text[] := '{}';
	lost text[] := '{}';
	why text;
	t @extschema@.tenants;
BEGIN
	SELECT * INTO STRICT t FROM @extschema@.tenants WHERE id = tl.tenant;
	FOREACH sk IN ARRAY tl.safekeepers LOOP
		BEGIN
			PERFORM @extschema@.on_node(sk, 'SELECT neon_safekeeper.create_tenant($1, $2)', t.id, t.node_password);
			IF EXISTS (SELECT FROM @extschema@.acceptors a WHERE a.timeline = tl.id AND a.safekeeper = sk)
					AND NOT EXISTS (SELECT FROM @extschema@.on_node(sk, 'SELECT 1 FROM neon_safekeeper.timeline WHERE tenant = $1 AND timeline = $2', tl.tenant, tl.id)) THEN
				lost := lost || sk;
				CONTINUE;
			END IF;
			PERFORM @extschema@.create_on_safekeeper(sk, tl);
			have := have || sk;
		EXCEPTION WHEN connection_exception OR sqlclient_unable_to_establish_sqlconnection OR connection_failure
				OR cannot_connect_now OR admin_shutdown OR crash_shutdown THEN
			why := format('%s: %s', sk, SQLERRM);
		END;
	END LOOP;
	IF cardinality(have) <= cardinality(tl.safekeepers) / 2 THEN
		RAISE EXCEPTION 'only % of % safekeepers can be reached', cardinality(have), cardinality(tl.safekeepers)
			USING ERRCODE = 'NE002', DETAIL = concat_ws('; ', why, (SELECT string_agg(l || ' has lost the timeline', '; ') FROM unnest(lost) l)),
			HINT = 'Start the safekeepers and try again.';
	ELSIF cardinality(lost) > 0 THEN
		PERFORM @extschema@.rejoin_safekeepers(tl, lost);
	END IF;
	RETURN have;
END $$;
COMMENT ON FUNCTION ensure_on_safekeepers(timelines) IS 'make a timeline on its safekeepers, a quorum at least; those that had it before or have it now';
