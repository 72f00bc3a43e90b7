-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- operations: what was asked for, step by step, to its end
--
-- An operation runs in its caller's session and transaction (operate()).  Its row is written aside before it does anything, and each step
-- before that begins: so they can be seen meanwhile, and are there after a crash.  Its end is written by its own transaction: it becomes true
-- together with what it has done.  What has an effect that the transaction cannot take back is a commit of its own, aside, that also marks
-- the operation (commit_point); from then on it can only be finished.
--
-- As long as an operation runs, its transaction holds operation_lock.  An operation that is not at its end and whose lock is free has lost its
-- session, or was rolled back: then the reconciler brings it to its end (recover.sql), undone or finished.
--
-- Before something is made on a node, it is noted in leftovers, aside and under leftover_lock; the note goes in the transaction that makes the
-- row it is for.  What was dropped is noted by the transaction that deletes its row, and the note goes when the nodes have dropped it.
-- So whatever a crash leaves on a node is noted, and what has a row is never removed.
--
-- Locks: operation_lock comes first of all, and nobody waits for it.  leftover_lock comes after the tenant's row and before ports_lock, which is
-- only taken aside; only the creator waits for it.  What runs aside must not want rows that its caller has changed.

-- It outlives what it is about, so it refers to nothing.  Not dumped: a controller that was restored from a copy has nothing to finish.
CREATE TABLE operations (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	tenant text,
	kind text NOT NULL,
	object text,
	state text NOT NULL DEFAULT 'running',
	attempts int NOT NULL DEFAULT 1,
	who text NOT NULL,
	started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	finished_at timestamptz,
	next_try_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	sqlstate text,
	error text
);
CREATE INDEX ON operations (next_try_at) WHERE state NOT IN ('done', 'undone');
CREATE INDEX ON operations (tenant, id);
COMMENT ON TABLE operations IS 'what was asked of the control plane; see state_machine(''operation'')';

CREATE TABLE operation_steps (
	operation bigint NOT NULL REFERENCES operations ON DELETE CASCADE,
	number int NOT NULL,
	step text NOT NULL,
	node text,
	endpoint text,						-- whose server the step starts or stops
	attempts int NOT NULL DEFAULT 1,
	started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	finished_at timestamptz,
	error text,
	PRIMARY KEY (operation, number)
);
COMMENT ON TABLE operation_steps IS 'steps of operations; one that is tried again has one row';

CREATE FUNCTION operation_lock(op bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT hashtextextended('neon operation ' || op, 0) $$;
COMMENT ON FUNCTION operation_lock(bigint) IS 'key of the lock that the session of an operation holds';

CREATE FUNCTION current_operation() RETURNS bigint LANGUAGE sql STABLE AS $$
	SELECT nullif(current_setting('neon_controller.operation', true), '')::bigint;
$$;
COMMENT ON FUNCTION current_operation() IS 'the operation that this transaction performs; NULL when there is none';

-- Called aside.  The name was not looked at yet, and may be of any length.
CREATE FUNCTION note_operation(op bigint, tenant_id text, what text, named text, by_whom text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO @extschema@.operations (id, tenant, kind, object, who) OVERRIDING SYSTEM VALUE VALUES (op, tenant_id, what, left(named, 100), by_whom);
$$;
COMMENT ON FUNCTION note_operation(bigint, text, text, text, text) IS 'begin the log of an operation';

-- Called aside: the next step begins, and so the one before has ended.
CREATE FUNCTION note_step(op bigint, what text, on_what text, of_endpoint text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE n int;
BEGIN
	UPDATE @extschema@.operation_steps s SET finished_at = clock_timestamp() WHERE s.operation = op AND s.finished_at IS NULL;
	UPDATE @extschema@.operation_steps s SET attempts = s.attempts + 1, started_at = clock_timestamp(), finished_at = NULL, error = NULL
	WHERE s.operation = op AND s.step = what AND (s.node, s.endpoint) IS NOT DISTINCT FROM (on_what, of_endpoint) RETURNING s.number INTO n;
	IF NOT FOUND THEN
		INSERT INTO @extschema@.operation_steps (operation, number, step, node, endpoint)
		SELECT op, 1 + count(*), what, on_what, of_endpoint FROM @extschema@.operation_steps s WHERE s.operation = op RETURNING number INTO n;
	END IF;
	RETURN n;
END $$;
COMMENT ON FUNCTION note_step(bigint, text, text, text) IS 'the next step of an operation begins; returns its number';

-- For tests: a superuser's session can be made to wait at a step (0: at the end), to be killed there.
CREATE FUNCTION pause_at(n int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('neon_controller.pause_at_step')::int = n THEN
		PERFORM pg_sleep(600);
	END IF;
END $$;
COMMENT ON FUNCTION pause_at(int) IS 'for tests: a superuser''s session waits at a step';

CREATE FUNCTION step(what text, on_what text = NULL, of_endpoint text = NULL) RETURNS void LANGUAGE plpgsql AS $$
DECLARE op bigint := @extschema@.current_operation();
BEGIN
	IF op IS NOT NULL THEN
		PERFORM @extschema@.pause_at((r ->> 'n')::int)
		FROM @extschema@.aside('SELECT @extschema@.note_step($1::bigint, $2, $3, $4) AS n', op::text, what, on_what, of_endpoint) r;
	END IF;
END $$;
COMMENT ON FUNCTION step(text, text, text) IS 'note that the current operation begins its next step';

-- Called aside, at the end of the transaction that makes an operation's effect lasting.  That transaction may have outlived its session, waiting
-- for a lock: an operation that is being undone by now is refused here, and with it the effect.
CREATE FUNCTION commit_point(op bigint) RETURNS void LANGUAGE sql AS $$
	UPDATE @extschema@.operations SET state = @extschema@.next_state('operation', state, 'passes its commit point') WHERE id = op;
$$;
COMMENT ON FUNCTION commit_point(bigint) IS 'from here on an operation can only be finished; an error when it is being undone';

CREATE FUNCTION end_steps(op bigint, why text = NULL) RETURNS void LANGUAGE sql AS $$
	UPDATE @extschema@.operation_steps SET finished_at = clock_timestamp(), error = why WHERE operation = op AND finished_at IS NULL;
$$;
COMMENT ON FUNCTION end_steps(bigint, text) IS 'the last step of an operation has ended';

-- Called aside.  The error may quote what was asked for, of any length.
CREATE FUNCTION fail_operation(op bigint, code text, why text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE began bool := EXISTS (SELECT FROM @extschema@.operation_steps s WHERE s.operation = op);
BEGIN
	why := left(why, 1000);
	PERFORM @extschema@.end_steps(op, why);
	-- what it had asked nodes for is cancelled there within a second (see remote.c)
	UPDATE @extschema@.operations SET state = @extschema@.next_state('operation', state, CASE WHEN began THEN 'fails' ELSE 'fails before its first step' END),
		sqlstate = code, error = why, finished_at = CASE WHEN NOT began THEN clock_timestamp() END, next_try_at = clock_timestamp() + interval '2 s'
	WHERE id = op;
END $$;
COMMENT ON FUNCTION fail_operation(bigint, text, text) IS 'an operation has failed: it is undone from now on, or finished when it had passed its commit point';

CREATE FUNCTION end_operation(op bigint, tenant_id text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE behind bool := EXISTS (SELECT FROM @extschema@.leftovers l WHERE l.operation = op);
BEGIN
	PERFORM @extschema@.end_steps(op);
	UPDATE @extschema@.operations o SET state = @extschema@.next_state('operation', o.state, CASE WHEN behind THEN 'ends, and a node is behind' ELSE 'ends' END),
		tenant = coalesce(o.tenant, tenant_id), finished_at = CASE WHEN NOT behind THEN clock_timestamp() END WHERE o.id = op;
END $$;
COMMENT ON FUNCTION end_operation(bigint, text) IS 'an operation has happened';

CREATE FUNCTION operate(what text, tenant_id text, args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	op bigint;
	result jsonb;
	code text;
	why text;
BEGIN
	IF @extschema@.current_operation() IS NOT NULL THEN
		RETURN @extschema@.perform(what, tenant_id, args);		-- part of another
	ELSIF current_setting('transaction_isolation') NOT LIKE 'read %' THEN
		RAISE EXCEPTION 'operations of the control plane need isolation level "read committed"' USING ERRCODE = 'invalid_transaction_state',
			DETAIL = 'They see what they have done on other connections only there.',
			HINT = 'Begin the transaction with READ COMMITTED, or call it outside of one.';
	END IF;
	op := nextval(pg_get_serial_sequence('@extschema@.operations', 'id'));
	PERFORM pg_advisory_xact_lock(@extschema@.operation_lock(op));
	PERFORM @extschema@.aside('SELECT @extschema@.note_operation($1::bigint, $2, $3, $4, $5)', op::text, tenant_id, what, args ->> 'name', session_user);
	PERFORM set_config('neon_controller.operation', op::text, true);
	BEGIN
		result := @extschema@.perform(what, tenant_id, args);
	EXCEPTION WHEN query_canceled OR OTHERS THEN
		BEGIN
			GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, why = MESSAGE_TEXT;
			PERFORM @extschema@.aside('SELECT @extschema@.fail_operation($1::bigint, $2, $3)', op::text, code, why);
		EXCEPTION WHEN OTHERS THEN
			RAISE LOG 'the error of operation % could not be noted: %', op, SQLERRM;
		END;
		RAISE;
	END;
	PERFORM @extschema@.pause_at(0);
	PERFORM @extschema@.end_operation(op, CASE what WHEN 'create_tenant' THEN result #>> '{}' END);
	PERFORM set_config('neon_controller.operation', '', true);
	RETURN result;
END $$;
COMMENT ON FUNCTION operate(text, text, jsonb) IS 'perform() with its row among the operations';

-- What changes only rows here, and perhaps settings of a server that runs, is one step, and all of it is written by its own transaction: nobody sees
-- it before it has happened, and there is nothing to undo.  Of one that fails there is no row.
CREATE FUNCTION operate_at_once(what text, tenant_id text, args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	op bigint := nextval(pg_get_serial_sequence('@extschema@.operations', 'id'));
	result jsonb;
BEGIN
	PERFORM @extschema@.note_operation(op, tenant_id, what, args ->> 'name', session_user);
	PERFORM @extschema@.note_step(op, 'change it', NULL, NULL);
	result := @extschema@.perform(what, tenant_id, args);
	PERFORM @extschema@.end_operation(op, tenant_id);
	RETURN result;
END $$;
COMMENT ON FUNCTION operate_at_once(text, text, jsonb) IS 'perform() of something that is one transaction, with a row among the operations';

-- ---------------------------------------------------------------- leftovers

-- Not dumped: old notes about what was finished later would be dangerous.
CREATE TABLE leftovers (
	kind text NOT NULL CHECK (kind IN ('compute', 'timeline', 'tenant')),
	id text NOT NULL,					-- a compute's is its directory
	tenant text NOT NULL,
	nodes text[] NOT NULL,
	port int,							-- that a compute may still have
	provider text,						-- of a compute
	operation bigint,
	noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	attempts int NOT NULL DEFAULT 0,
	next_try_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	error text,
	PRIMARY KEY (kind, id)
);
CREATE INDEX ON leftovers (operation);
COMMENT ON TABLE leftovers IS 'what nodes may have and nobody wants: being made, or dropped and not yet gone everywhere';

CREATE FUNCTION leftover_lock(kind text, id text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
	SELECT hashtextextended(format('neon leftover %s %s', kind, id), 0);
$$;
COMMENT ON FUNCTION leftover_lock(text, text) IS 'key of the lock of something that may be left over on nodes';

-- Also called aside.
CREATE FUNCTION write_leftover(kind text, id text, tenant_id text, nodes text[], port int, op bigint, provider text = NULL) RETURNS void LANGUAGE sql AS $$
	INSERT INTO @extschema@.leftovers (kind, id, tenant, nodes, port, operation, provider) VALUES ($1, $2, $3, $4, $5, $6, $7)
	ON CONFLICT ON CONSTRAINT leftovers_pkey DO UPDATE SET nodes = $4, port = $5, operation = $6, provider = $7, noted_at = clock_timestamp(), next_try_at = clock_timestamp();
$$;
COMMENT ON FUNCTION write_leftover(text, text, text, text[], int, bigint, text) IS 'note what is about to be made on nodes';

-- What this transaction is about to make on nodes, and gives a row: then it calls keep_leftover().
CREATE FUNCTION note_leftover(kind text, id text, tenant_id text, nodes text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock(@extschema@.leftover_lock(kind, id));
	PERFORM @extschema@.aside('SELECT @extschema@.write_leftover($1, $2, $3, $4::text[], NULL, $5::bigint)', kind, id, tenant_id, nodes::text,
		@extschema@.current_operation()::text);
END $$;
COMMENT ON FUNCTION note_leftover(text, text, text, text[]) IS 'note aside what this transaction is about to make on nodes';

CREATE FUNCTION keep_leftover(kind text, id text) RETURNS void LANGUAGE sql AS $$
	DELETE FROM @extschema@.leftovers l WHERE l.kind = keep_leftover.kind AND l.id = keep_leftover.id;
$$;
COMMENT ON FUNCTION keep_leftover(text, text) IS 'it has a row now';

CREATE FUNCTION leftover_has_row(l leftovers) RETURNS bool LANGUAGE sql VOLATILE AS $$
	SELECT CASE l.kind WHEN 'timeline' THEN EXISTS (SELECT FROM @extschema@.timelines t WHERE t.id = l.id)
		WHEN 'compute' THEN EXISTS (SELECT FROM @extschema@.endpoints e WHERE e.directory = l.id)
		ELSE EXISTS (SELECT FROM @extschema@.tenants t WHERE t.id = l.id) END;
$$;
COMMENT ON FUNCTION leftover_has_row(leftovers) IS 'what a note is about is in use';

-- A pageserver is not looked at before: a creation that was cut off may be about to commit there, and a drop waits for it.
CREATE FUNCTION leftover_removal(kind text, node_role text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE kind
		WHEN 'timeline' THEN CASE node_role
			WHEN 'pageserver' THEN 'SELECT pg_catalog.set_config(''lock_timeout'', ''10s'', true), neon_pageserver.drop_timeline($1, $2)'
			ELSE 'SELECT neon_safekeeper.drop_timeline($1, $2)' END
		WHEN 'tenant' THEN format('SELECT neon_%s.drop_tenant($1) WHERE $2::text IS NOT NULL', node_role)
		ELSE 'SELECT neon_compute_tools.drop_compute($2, $1)' END;
$$;
COMMENT ON FUNCTION leftover_removal(text, text) IS 'the statement that removes a thing of a kind from a node of a role';

-- NULL when nothing is left of it, otherwise why something is.  A node that is not registered any more is not asked.
CREATE FUNCTION remove_leftover(l leftovers) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	n @extschema@.nodes;
	why text;
BEGIN
	FOR n IN SELECT * FROM @extschema@.nodes x WHERE x.name = ANY (l.nodes) ORDER BY x.role, x.node_id LOOP
		BEGIN
			PERFORM @extschema@.on_node(n.name, @extschema@.leftover_removal(l.kind, n.role), CASE l.kind WHEN 'compute' THEN coalesce(l.provider, 'local') ELSE l.tenant END, l.id);
		EXCEPTION WHEN OTHERS THEN
			CONTINUE WHEN l.kind = 'timeline' AND SQLSTATE = '42704';		-- undefined_object: it is not there
			why := format('%s: %s', n.name, SQLERRM);
		END;
	END LOOP;
	RETURN why;
END $$;
COMMENT ON FUNCTION remove_leftover(leftovers) IS 'remove something from all nodes it may be on; NULL when nothing is left, else why something is';

-- Waits between tries: 1, 2, 4, ... 60 s.  Nothing is given up: what is left takes space.
CREATE FUNCTION backoff(attempts int) RETURNS interval LANGUAGE sql IMMUTABLE AS $$
	SELECT least(interval '1 s' * 2 ^ least(greatest(attempts, 0), 6), interval '60 s');
$$;
COMMENT ON FUNCTION backoff(int) IS 'how long to wait after so many tries';

-- A time that backoff() has set.  One that is further off than it ever sets was set before the clock was turned back.
CREATE FUNCTION is_due(next_try timestamptz) RETURNS bool LANGUAGE sql VOLATILE AS $$
	SELECT next_try NOT BETWEEN clock_timestamp() AND clock_timestamp() + interval '61 s';
$$;
COMMENT ON FUNCTION is_due(timestamptz) IS 'a time that backoff() has set has come, or cannot be one';

-- One note: NULL when it is done with.  The look at the rows must be newer than the lock, hence no older snapshots.
CREATE FUNCTION clean_leftover(of_kind text, of_id text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	l @extschema@.leftovers;
	why text;
BEGIN
	IF current_setting('transaction_isolation') NOT LIKE 'read %' OR NOT pg_try_advisory_xact_lock(@extschema@.leftover_lock(of_kind, of_id)) THEN
		RETURN 'somebody is at it';
	END IF;
	SELECT * INTO l FROM @extschema@.leftovers x WHERE x.kind = of_kind AND x.id = of_id;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	why := CASE WHEN @extschema@.leftover_has_row(l) THEN NULL ELSE @extschema@.remove_leftover(l) END;
	IF why IS NULL THEN
		DELETE FROM @extschema@.leftovers x WHERE x.kind = of_kind AND x.id = of_id;
		DELETE FROM @extschema@.acceptors a WHERE of_kind = 'timeline' AND a.timeline = of_id AND NOT EXISTS (SELECT FROM @extschema@.timelines t WHERE t.id = of_id);
	ELSE
		UPDATE @extschema@.leftovers x SET attempts = x.attempts + 1, error = why, next_try_at = clock_timestamp() + @extschema@.backoff(x.attempts)
		WHERE x.kind = of_kind AND x.id = of_id;
	END IF;
	RETURN why;
END $$;
COMMENT ON FUNCTION clean_leftover(text, text) IS 'settle one note; NULL when it is done with';

-- All notes, or those of one operation.  What depends on others goes after them, so it goes on as long as something goes.
CREATE FUNCTION clean_up(of_operation bigint = NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	l record;
	one text;
	why text;
	progress bool := true;
BEGIN
	WHILE progress LOOP
		progress := false;
		why := NULL;
		FOR l IN SELECT x.kind, x.id FROM @extschema@.leftovers x WHERE of_operation IS NULL OR x.operation = of_operation
				ORDER BY array_position('{compute,timeline,tenant}', x.kind), x.noted_at DESC LOOP
			one := @extschema@.clean_leftover(l.kind, l.id);
			progress := progress OR one IS NULL;
			why := coalesce(why, one);
		END LOOP;
		progress := progress AND why IS NOT NULL;
	END LOOP;
	RETURN why;
END $$;
COMMENT ON FUNCTION clean_up(bigint) IS
	'remove from the nodes, now, what interrupted creations and drops have left there; returns why something stays, NULL if nothing does';
