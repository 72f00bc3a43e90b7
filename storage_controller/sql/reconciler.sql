-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- reconciler: what the background worker does
--
-- Every neon_controller.reconcile_interval the worker asks for jobs() and runs each in a transaction of its own; an error is that job's,
-- and it is tried again.  Everything here can be called by hand as well.

CREATE FUNCTION jobs() RETURNS TABLE (job text, object text) LANGUAGE sql AS $$
	SELECT 'heartbeat', name FROM @extschema@.nodes
	UNION ALL SELECT 'recover', o.id::text FROM @extschema@.operations o
		WHERE o.state = 'running' OR o.state IN ('failed', 'finishing') AND coalesce(o.next_try_at, o.started_at) <= clock_timestamp()
	UNION ALL SELECT 'clean_up', format('%s %s', l.kind, l.id) FROM @extschema@.leftovers l WHERE l.next_try_at <= clock_timestamp()
	UNION ALL SELECT 'watch', format('%s %s', e.tenant, e.name) FROM @extschema@.endpoints e WHERE e.wanted = 'running' OR e.state = 'starting'
	UNION ALL SELECT 'prune', '';
$$;
COMMENT ON FUNCTION jobs() IS 'what the reconciler would do now';

CREATE FUNCTION run_job(job text, object text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE job
		WHEN 'heartbeat' THEN PERFORM @extschema@.heartbeat(object);
		WHEN 'recover' THEN PERFORM @extschema@.recover_operation(object::bigint);
		WHEN 'clean_up' THEN PERFORM @extschema@.clean_up_one(split_part(object, ' ', 1), split_part(object, ' ', 2));
		WHEN 'watch' THEN PERFORM @extschema@.watch_endpoint(split_part(object, ' ', 1), split_part(object, ' ', 2));
		WHEN 'prune' THEN PERFORM @extschema@.prune_operations();
	END CASE;
END $$;

-- ---- nodes

CREATE FUNCTION heartbeat(node text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
	n @extschema@.nodes;
	r jsonb;
BEGIN
	SELECT * INTO n FROM @extschema@.nodes x WHERE x.name = node;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM set_config('neon_controller.connect_timeout', current_setting('neon_controller.heartbeat_timeout'), true);
	PERFORM set_config('neon_controller.statement_timeout', current_setting('neon_controller.heartbeat_timeout'), true);
	BEGIN
		SELECT x INTO STRICT r FROM @extschema@.remote(n.admin_connstring, format('%s "%s"', n.role, n.name),
			'SELECT pg_postmaster_start_time() AS up_since' || CASE n.role
				WHEN 'pageserver' THEN ', (SELECT count(*) FROM neon_pageserver.timelines) AS timelines'
				WHEN 'safekeeper' THEN ', (SELECT count(*) FROM neon_safekeeper.timeline_state()) AS timelines' ELSE '' END) x;
	EXCEPTION WHEN OTHERS THEN
		-- one lost answer is no absence
		UPDATE @extschema@.nodes x SET missed = x.missed + 1, error = SQLERRM,
			state = CASE WHEN x.missed >= 1 THEN 'offline' ELSE x.state END WHERE x.name = node;
		RETURN false;
	END;
	UPDATE @extschema@.nodes x SET missed = 0, error = NULL, state = 'online', last_seen = clock_timestamp(),
		up_since = (r ->> 'up_since')::timestamptz, timelines = (r ->> 'timelines')::int WHERE x.name = node;
	IF n.role = 'pageserver' AND n.up_since IS DISTINCT FROM (r ->> 'up_since')::timestamptz THEN
		PERFORM @extschema@.reattach(node);
	END IF;
	RETURN true;
END $$;
COMMENT ON FUNCTION heartbeat(text) IS 'ask a node whether it is there, and note the answer';

-- ---- endpoints

-- One that should run and has no process is marked; who watches computes starts it.
CREATE FUNCTION watch_endpoint(tenant_id text, endpoint text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	e @extschema@.endpoints;
	seen text;
BEGIN
	IF NOT pg_try_advisory_xact_lock(@extschema@.endpoint_key(tenant_id, endpoint)) THEN
		RETURN;		-- somebody is at it
	END IF;
	SELECT * INTO e FROM @extschema@.endpoints x WHERE x.tenant = tenant_id AND x.name = endpoint FOR UPDATE SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	seen := CASE WHEN @extschema@.endpoint_pid(e) IS NOT NULL THEN 'running' WHEN e.wanted = 'running' THEN 'stopped' ELSE 'suspended' END;
	IF seen <> e.state THEN
		UPDATE @extschema@.endpoints x SET state = seen WHERE x.tenant = e.tenant AND x.name = e.name;
	END IF;
END $$;

-- What one session does to an endpoint's server at a time; start_endpoint() takes the same key.
CREATE FUNCTION endpoint_key(tenant_id text, endpoint text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
	SELECT hashtextextended(format('neon endpoint %s %s', tenant_id, endpoint), 0);
$$;

-- ---- operations without a session

CREATE FUNCTION recover_operation(op bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	o @extschema@.operations;
	e @extschema@.endpoints;
BEGIN
	IF NOT pg_try_advisory_xact_lock(@extschema@.operation_lock(op)) THEN
		RETURN;		-- its session is at it
	END IF;
	SELECT * INTO o FROM @extschema@.operations x WHERE x.id = op FOR UPDATE SKIP LOCKED;
	IF NOT FOUND OR o.state NOT IN ('running', 'failed', 'finishing') THEN
		RETURN;
	END IF;
	IF o.state = 'running' THEN
		PERFORM @extschema@.fail_operation(op, '57P01', 'its session ended before the operation did');
		SELECT * INTO o FROM @extschema@.operations x WHERE x.id = op;
	END IF;
	-- a server that was stopped on the way, of a branch that is there
	FOR e IN SELECT x.* FROM @extschema@.endpoints x JOIN @extschema@.branches b ON b.timeline = x.timeline
			WHERE x.tenant = o.tenant AND o.object IN (b.name, x.name) AND x.wanted = 'running'
				AND o.kind IN ('reset_branch', 'restore_branch', 'suspend_endpoint', 'drop_endpoint') LOOP
		BEGIN
			IF @extschema@.endpoint_pid(e) IS NULL THEN
				PERFORM @extschema@.start_endpoint(e.tenant, e.name);
			END IF;
		EXCEPTION WHEN OTHERS THEN
			UPDATE @extschema@.operations x SET attempts = x.attempts + 1, error = SQLERRM, next_try_at = clock_timestamp() +
				least(interval '1 s' * 2 ^ least(x.attempts, 6), interval '60 s') WHERE x.id = op;
			RETURN;
		END;
	END LOOP;
	IF o.state = 'finishing' THEN
		UPDATE @extschema@.operations x SET state = 'done', attempts = x.attempts + 1, finished_at = clock_timestamp() WHERE x.id = op;
	ELSIF NOT EXISTS (SELECT FROM @extschema@.leftovers l WHERE l.operation = op) THEN
		UPDATE @extschema@.operations x SET state = 'undone' WHERE x.id = op;
	END IF;
END $$;
COMMENT ON FUNCTION recover_operation(bigint) IS 'bring an operation whose session is gone to its end: done or undone';

-- One note; its tries are an operation of their own once the first has failed.
CREATE FUNCTION clean_up_one(of_kind text, of_id text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	l @extschema@.leftovers;
	why text;
BEGIN
	SELECT * INTO l FROM @extschema@.leftovers x WHERE x.kind = of_kind AND x.id = of_id FOR UPDATE SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	why := CASE WHEN @extschema@.has_row(l) THEN NULL ELSE @extschema@.remove_leftover(l) END;
	IF why IS NULL THEN
		DELETE FROM @extschema@.leftovers x WHERE x.kind = of_kind AND x.id = of_id;
		UPDATE @extschema@.operations o SET state = 'done', attempts = o.attempts + 1, finished_at = clock_timestamp() WHERE o.id = l.cleaning;
		PERFORM @extschema@.end_steps(l.cleaning);
		RETURN;
	END IF;
	IF l.cleaning IS NULL THEN
		INSERT INTO @extschema@.operations (tenant, kind, object, state, who, committed, next_try_at)
		VALUES (l.tenant, 'remove_' || l.kind, l.id, 'finishing', 'reconciler', true, 'infinity') RETURNING id INTO l.cleaning;
		INSERT INTO @extschema@.operation_steps (operation, number, step) VALUES (l.cleaning, 1, 'remove from its nodes');
	ELSE
		UPDATE @extschema@.operations o SET attempts = o.attempts + 1 WHERE o.id = l.cleaning;
	END IF;
	UPDATE @extschema@.operations o SET error = why WHERE o.id = l.cleaning;
	UPDATE @extschema@.leftovers x SET state = 'dropping', cleaning = l.cleaning, attempts = x.attempts + 1, error = why,
		next_try_at = clock_timestamp() + least(interval '1 s' * 2 ^ least(x.attempts, 6), interval '60 s')
	WHERE x.kind = of_kind AND x.id = of_id;
END $$;

CREATE FUNCTION prune_operations() RETURNS void LANGUAGE sql AS $$
	DELETE FROM @extschema@.operations WHERE state IN ('done', 'undone') AND id <=
		(SELECT max(id) FROM @extschema@.operations) - current_setting('neon_controller.operations_kept')::bigint;
$$;
