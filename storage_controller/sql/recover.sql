-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- operations without a session are brought to their end
--
-- The reconciler calls recovery_jobs() and runs each in a transaction of its own.  Whatever it does can be done again, and it
-- may be killed anywhere: the operation stays where it was.

-- Actions of the machine "operation".  They are called by recover_operation(), which holds operation_lock.

-- Its lock was free.
CREATE FUNCTION session_is_gone(op bigint) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
	PERFORM @extschema@.end_steps(op, 'its session has ended or was rolled back');
	-- What it had asked nodes for is cancelled there within a second (see remote.c).
	UPDATE @extschema@.operations SET error = coalesce(error, 'its session has ended or was rolled back'), next_try_at = clock_timestamp() + interval '2 s'
	WHERE id = op;
	RETURN true;
END $$;
COMMENT ON FUNCTION session_is_gone(bigint) IS 'the session of an operation has ended: it is undone or finished from now on';

-- The endpoint's server becomes what its row says; it is started only for an operation that has stopped it.  False: somebody else is at it.
CREATE FUNCTION settle_endpoint(tenant_id text, endpoint text, may_start bool) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
	e @extschema@.endpoints;
	pid int;
BEGIN
	-- as start_lock() does: a replica's writer first
	IF NOT coalesce((SELECT bool_and(pg_try_advisory_xact_lock(@extschema@.endpoint_key(w.tenant, w.name))) FROM @extschema@.endpoints x
				JOIN @extschema@.endpoints w ON w.timeline = x.timeline AND w.mode = 'read-write'
				WHERE x.tenant = tenant_id AND x.name = endpoint AND x.mode = 'replica'), true)
			OR NOT pg_try_advisory_xact_lock(@extschema@.endpoint_key(tenant_id, endpoint)) THEN
		RETURN false;
	END IF;
	SELECT * INTO e FROM @extschema@.endpoints x WHERE x.tenant = tenant_id AND x.name = endpoint;
	IF NOT FOUND THEN
		RETURN true;
	END IF;
	pid := @extschema@.endpoint_pid(e);
	IF e.wanted = 'running' AND pid IS NULL AND may_start THEN
		PERFORM @extschema@.start_endpoint(tenant_id, endpoint);
	ELSIF e.wanted = 'running' AND may_start THEN
		PERFORM @extschema@.on_endpoint(e, 'template1', 'SELECT 1');	-- or an error: a stop that took too long has still to end, then it is started
	ELSIF e.wanted = 'suspended' AND pid IS NOT NULL THEN
		PERFORM @extschema@.suspend_endpoint(tenant_id, endpoint);
	END IF;
	RETURN true;
END $$;
COMMENT ON FUNCTION settle_endpoint(text, text, bool) IS 'make an endpoint''s server what its row says';

-- The rows are as they should be: before the commit point nothing has changed, after it everything has.
CREATE FUNCTION undo_operation(op bigint) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
	s record;
	all_settled bool := true;
	why text;
BEGIN
	FOR s IN SELECT o.tenant, x.endpoint, bool_or(x.step = 'stop the server') AS was_stopped
			FROM @extschema@.operations o JOIN @extschema@.operation_steps x ON x.operation = o.id
			WHERE o.id = op AND x.endpoint IS NOT NULL GROUP BY 1, 2 ORDER BY 2 LOOP
		all_settled := @extschema@.settle_endpoint(s.tenant, s.endpoint, s.was_stopped) AND all_settled;
	END LOOP;
	why := @extschema@.clean_up(op);
	UPDATE @extschema@.operations SET error = why WHERE id = op AND why IS NOT NULL;
	RETURN why IS NULL AND all_settled;
END $$;
COMMENT ON FUNCTION undo_operation(bigint) IS 'take back what an operation has begun; true when nothing is left of it';

CREATE FUNCTION finish_operation(op bigint) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE o @extschema@.operations;
BEGIN
	SELECT * INTO STRICT o FROM @extschema@.operations WHERE id = op;
	IF o.kind = 'drop_tenant' THEN
		PERFORM @extschema@.forget_tenant(o.tenant);
	END IF;
	RETURN @extschema@.undo_operation(op);
END $$;
COMMENT ON FUNCTION finish_operation(bigint) IS 'do what is left of an operation; true when nothing is';

CREATE FUNCTION recover_operation(op bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	o @extschema@.operations;
	way @extschema@.transitions;
	done bool;
	why text;
BEGIN
	IF NOT pg_try_advisory_xact_lock(@extschema@.operation_lock(op)) THEN
		RETURN;		-- its session is at it
	END IF;
	SELECT * INTO o FROM @extschema@.operations WHERE id = op;
	SELECT * INTO way FROM @extschema@.transitions t WHERE t.machine = 'operation' AND t.state = o.state AND t.action IS NOT NULL;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	PERFORM set_config('neon_controller.operation', op::text, true);
	BEGIN
		EXECUTE format('SELECT @extschema@.%I($1)', way.action) INTO STRICT done USING op;
	EXCEPTION WHEN OTHERS THEN
		done := false;
		why := SQLERRM;
	END;
	PERFORM set_config('neon_controller.operation', '', true);
	PERFORM @extschema@.end_steps(op, why);
	IF done THEN
		UPDATE @extschema@.operations SET state = way.next, finished_at = CASE WHEN s.kind = 'final' THEN clock_timestamp() END
		FROM @extschema@.states s WHERE id = op AND s.machine = 'operation' AND s.state = way.next;
	ELSE
		UPDATE @extschema@.operations SET attempts = attempts + 1, error = coalesce(why, error), next_try_at = clock_timestamp() + @extschema@.backoff(attempts - 1)
		WHERE id = op;
	END IF;
END $$;
COMMENT ON FUNCTION recover_operation(bigint) IS 'one more step towards the end of an operation that has no session';

-- Notes of what was done without an operation.
CREATE FUNCTION leftovers_without_operation() RETURNS SETOF leftovers LANGUAGE sql STABLE AS $$
	SELECT * FROM @extschema@.leftovers l WHERE @extschema@.is_due(l.next_try_at)
		AND NOT EXISTS (SELECT FROM @extschema@.operations o WHERE o.id = l.operation AND o.state NOT IN ('done', 'undone'));
$$;
COMMENT ON FUNCTION leftovers_without_operation() IS 'notes that no operation answers for';

CREATE FUNCTION prune_operations() RETURNS void LANGUAGE sql AS $$
	DELETE FROM @extschema@.operations WHERE state IN ('done', 'undone') AND id <=
		(SELECT max(id) FROM @extschema@.operations) - current_setting('neon_controller.operations_kept')::bigint;
$$;
COMMENT ON FUNCTION prune_operations() IS 'forget the oldest operations beyond neon_controller.operations_kept';

CREATE FUNCTION recovery_jobs() RETURNS TABLE (job text, object text) LANGUAGE sql AS $$
	(SELECT 'recover', o.id::text FROM @extschema@.operations o WHERE o.state NOT IN ('done', 'undone') AND @extschema@.is_due(o.next_try_at)
		ORDER BY o.next_try_at LIMIT 100)
	UNION ALL (SELECT 'clean_up', format('%s %s', l.kind, l.id) FROM @extschema@.leftovers_without_operation() l
		ORDER BY array_position('{compute,timeline,tenant}', l.kind), l.noted_at DESC LIMIT 100)
	UNION ALL SELECT 'prune', '';
$$;
COMMENT ON FUNCTION recovery_jobs() IS 'what the reconciler would do now for operations that are not at their end';
