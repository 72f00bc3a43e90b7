-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- operations: the log of what was asked for, and its end
--
-- An operation runs in its caller's transaction; its row and its steps are written aside, so that they can be seen meanwhile and outlive
-- a failure.  "done" is written by the operation's own transaction: it becomes true with its effect.  While it runs its
-- session holds an advisory lock; a running operation whose lock is free has lost its session, and the reconciler takes over:
-- what was not committed has left at most leftovers, which are removed (undone); what has passed its own commit (a branch
-- that has lost or changed its timeline, see commit_point) is finished.

CREATE FUNCTION operation_lock(id bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT hashtextextended('neon operation ' || id, 0) $$;

CREATE FUNCTION current_operation() RETURNS bigint LANGUAGE sql STABLE AS $$
	SELECT nullif(current_setting('neon_controller.operation', true), '')::bigint;
$$;

-- Called aside.
CREATE FUNCTION note_operation(id bigint, tenant text, kind text, object text, args jsonb, state text, who text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO @extschema@.operations (id, tenant, kind, object, args, state, who)
	OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6, $7);
$$;

-- Called aside: the next step begins, and so the one before has ended.  A step that is lost with a crash is no loss.
CREATE FUNCTION note_step(op bigint, what text, on_node text) RETURNS void LANGUAGE plpgsql SET synchronous_commit = off AS $$
BEGIN
	UPDATE @extschema@.operation_steps s SET finished_at = clock_timestamp() WHERE s.operation = op AND s.finished_at IS NULL;
	INSERT INTO @extschema@.operation_steps (operation, number, step, node)
	SELECT op, 1 + count(*), what, on_node FROM @extschema@.operation_steps s WHERE s.operation = op;
END $$;

CREATE FUNCTION step(what text, on_node text = NULL) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF @extschema@.current_operation() IS NOT NULL THEN
		PERFORM @extschema@.aside('SELECT @extschema@.note_step($1, $2, $3)', @extschema@.current_operation()::text, what, on_node);
	END IF;
END $$;

-- Called aside, by a transaction that makes an operation's effect lasting: from here on it can only be finished.
CREATE FUNCTION commit_point(op bigint) RETURNS void LANGUAGE sql AS $$
	UPDATE @extschema@.operations SET committed = true WHERE id = op;
$$;

CREATE FUNCTION end_steps(op bigint, why text = NULL) RETURNS void LANGUAGE sql AS $$
	UPDATE @extschema@.operation_steps SET finished_at = clock_timestamp(), error = why WHERE operation = op AND finished_at IS NULL;
$$;

-- Called aside.  Out of retries comes none: the caller knows, and asks again if he wants.
CREATE FUNCTION fail_operation(op bigint, code text, why text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	UPDATE @extschema@.operations o SET state = CASE WHEN o.committed THEN 'finishing' ELSE 'failed' END, sqlstate = code, error = why,
		finished_at = clock_timestamp()
	WHERE o.id = op AND o.state = 'running';
	PERFORM @extschema@.end_steps(op, why);
END $$;

CREATE FUNCTION operate(what text, tenant_id text, args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	op bigint := nextval(pg_get_serial_sequence('@extschema@.operations', 'id'));
	result jsonb;
BEGIN
	IF current_setting('transaction_isolation') NOT LIKE 'read %' THEN
		RAISE EXCEPTION 'control operations need isolation level "read committed"' USING ERRCODE = 'invalid_transaction_state',
			HINT = 'Call it outside of the transaction, or begin that with READ COMMITTED.';
	ELSIF current_setting('transaction_read_only') = 'on' THEN
		RAISE EXCEPTION 'cannot change the cluster in a read-only transaction' USING ERRCODE = 'read_only_sql_transaction',
			HINT = 'Begin the transaction with READ WRITE.';
	END IF;
	PERFORM pg_advisory_xact_lock(@extschema@.operation_lock(op));
	PERFORM @extschema@.aside('SELECT @extschema@.note_operation($1::bigint, $2, $3, $4, $5::jsonb, $6, $7)', op::text, tenant_id, what,
		args ->> 'name', jsonb_strip_nulls(args)::text, 'running', session_user);
	PERFORM set_config('neon_controller.operation', op::text, true);
	BEGIN
		result := @extschema@.perform(what, tenant_id, args);
	EXCEPTION WHEN query_canceled OR OTHERS THEN
		PERFORM @extschema@.aside('SELECT @extschema@.fail_operation($1::bigint, $2, $3)', op::text, SQLSTATE, SQLERRM);
		RAISE;
	END;
	UPDATE @extschema@.operations o SET state = 'done', finished_at = clock_timestamp(),
		tenant = coalesce(o.tenant, CASE what WHEN 'create_tenant' THEN result #>> '{}' END) WHERE o.id = op;
	PERFORM @extschema@.end_steps(op);
	PERFORM set_config('neon_controller.operation', '', true);
	RETURN result;
END $$;
COMMENT ON FUNCTION operate(text, text, jsonb) IS 'perform(), with its entry in the log of operations';

-- ---------------------------------------------------------------- leftovers

-- Called aside.
CREATE FUNCTION write_leftover(kind text, id text, tenant text, nodes text[], op bigint) RETURNS void LANGUAGE sql AS $$
	INSERT INTO @extschema@.leftovers (kind, id, state, tenant, nodes, operation) VALUES ($1, $2, 'creating', $3, $4, $5)
	ON CONFLICT DO NOTHING;
$$;

-- What is about to be made on nodes.  The note is written aside and deleted here: it is gone if this transaction commits, there if it
-- does not, and locked until then.
CREATE FUNCTION note_leftover(kind text, id text, tenant text, nodes text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM @extschema@.aside('SELECT @extschema@.write_leftover($1, $2, $3, $4::text[], $5::bigint)', kind, id, tenant, nodes::text,
		@extschema@.current_operation()::text);
	DELETE FROM @extschema@.leftovers l WHERE l.kind = note_leftover.kind AND l.id = note_leftover.id;
END $$;

CREATE FUNCTION has_row(l leftovers) RETURNS bool LANGUAGE sql VOLATILE AS $$
	SELECT CASE l.kind WHEN 'timeline' THEN EXISTS (SELECT FROM @extschema@.timelines t WHERE t.id = l.id)
		WHEN 'compute' THEN EXISTS (SELECT FROM @extschema@.endpoints e WHERE e.directory = l.id)
		ELSE EXISTS (SELECT FROM @extschema@.tenants t WHERE t.id = l.id) END;
$$;

CREATE FUNCTION removal(l leftovers, node_role text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE l.kind
		WHEN 'timeline' THEN CASE node_role
			WHEN 'pageserver' THEN 'SELECT neon_pageserver.drop_timeline(tenant, timeline) FROM neon_pageserver.timelines WHERE tenant = $1 AND timeline = $2'
			ELSE 'SELECT neon_safekeeper.drop_timeline($1, $2)' END
		WHEN 'tenant' THEN format('SELECT neon_%s.drop_tenant($1) WHERE $2::text IS NOT NULL', node_role)
		ELSE 'SELECT neon_compute_tools.stop_process($2, ''fast''), neon_compute_tools.forget_dead_process($2), neon_compute_tools.drop_data_directory($2)
			WHERE $1::text IS NOT NULL' END;
$$;

-- Removes one from its nodes; NULL when nothing is left, otherwise why not.
CREATE FUNCTION remove_leftover(l leftovers) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	n @extschema@.nodes;
	why text;
BEGIN
	IF l.kind = 'tenant' AND EXISTS (SELECT FROM @extschema@.leftovers x WHERE x.tenant = l.id AND x.kind <> 'tenant') THEN
		RETURN 'its timelines go first';
	END IF;
	FOR n IN SELECT * FROM @extschema@.nodes x WHERE x.name = ANY (l.nodes) ORDER BY x.role, x.node_id LOOP
		BEGIN
			PERFORM @extschema@.on_node(n.name, @extschema@.removal(l, n.role), l.tenant, l.id);
		EXCEPTION WHEN OTHERS THEN
			why := format('%s: %s', n.name, SQLERRM);
		END;
	END LOOP;
	RETURN why;
END $$;

-- All leftovers, or those of one operation; what a node refuses or is away for stays noted, and the reconciler tries again.  A
-- note that is locked belongs to an operation that runs.  What has a row was finished.
CREATE FUNCTION clean_up(of_operation bigint = NULL) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	l @extschema@.leftovers;
	why text;
	progress bool := current_setting('transaction_isolation') LIKE 'read %';
BEGIN
	WHILE progress LOOP
		progress := false;
		FOR l IN SELECT * FROM @extschema@.leftovers x WHERE of_operation IS NULL OR x.operation = of_operation
				ORDER BY array_position('{compute,timeline,tenant}', x.kind), x.noted_at DESC LOOP
			SELECT * INTO l FROM @extschema@.leftovers x WHERE x.kind = l.kind AND x.id = l.id FOR UPDATE SKIP LOCKED;
			CONTINUE WHEN NOT FOUND;
			why := CASE WHEN @extschema@.has_row(l) THEN NULL ELSE @extschema@.remove_leftover(l) END;
			IF why IS NULL THEN
				DELETE FROM @extschema@.leftovers x WHERE x.kind = l.kind AND x.id = l.id;
				progress := true;
			ELSE
				UPDATE @extschema@.leftovers x SET state = 'dropping', attempts = x.attempts + 1, error = why,
					next_try_at = clock_timestamp() + least(interval '1 s' * 2 ^ least(x.attempts, 6), interval '60 s')
				WHERE x.kind = l.kind AND x.id = l.id;
			END IF;
		END LOOP;
	END LOOP;
END $$;
COMMENT ON FUNCTION clean_up(bigint) IS 'remove from the nodes what interrupted creations and drops have left there';
