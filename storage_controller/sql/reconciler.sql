-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- reconciler: what the background worker does
--
-- Every neon_controller.reconcile_interval the worker asks for jobs() and runs each in a transaction of its own; an error is that job's,
-- and it is tried again.  Everything here can be called by hand as well.

CREATE FUNCTION jobs() RETURNS TABLE (job text, object text) LANGUAGE sql AS $$
	SELECT 'heartbeat', name FROM @extschema@.nodes
	UNION ALL SELECT 'clean_up', '' WHERE EXISTS (SELECT FROM @extschema@.leftovers);
$$;
COMMENT ON FUNCTION jobs() IS 'what the reconciler would do now';

CREATE FUNCTION run_job(job text, object text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE job
		WHEN 'heartbeat' THEN PERFORM @extschema@.heartbeat(object);
		WHEN 'clean_up' THEN PERFORM @extschema@.clean_up();
	END CASE;
END $$;
COMMENT ON FUNCTION run_job(text, text) IS 'one job of jobs()';

-- The row is written last: it is locked for a moment only.
CREATE FUNCTION heartbeat(node text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
	n @extschema@.nodes;
	r jsonb;
	up timestamptz;
	why text;
BEGIN
	SELECT * INTO n FROM @extschema@.nodes x WHERE x.name = node;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM set_config('neon_controller.connect_timeout', current_setting('neon_controller.heartbeat_timeout'), true),
		set_config('neon_controller.statement_timeout', current_setting('neon_controller.heartbeat_timeout'), true);
	BEGIN
		SELECT x INTO STRICT r FROM @extschema@.remote(n.admin_connstring, format('%s "%s"', n.role, n.name),
			'SELECT pg_postmaster_start_time() AS up_since' || CASE n.role
				WHEN 'pageserver' THEN ', (SELECT count(*) FROM neon_pageserver.timeline) AS timelines'
				WHEN 'safekeeper' THEN ', (SELECT count(*) FROM neon_safekeeper.timelines) AS timelines' ELSE '' END) x;
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
		-- one lost answer is no absence
		UPDATE @extschema@.nodes x SET missed = x.missed + 1, error = SQLERRM || coalesce(': ' || nullif(why, ''), ''),
			state = CASE WHEN x.missed >= 1 THEN 'offline' ELSE x.state END WHERE x.name = node;
		RETURN false;
	END;
	up := r ->> 'up_since';
	IF n.role = 'pageserver' AND n.up_since IS DISTINCT FROM up THEN
		BEGIN
			PERFORM @extschema@.reattach(node);
		EXCEPTION WHEN OTHERS THEN		-- perhaps a branch is being made under the present one: the next heartbeat
			why := SQLERRM;
			up := n.up_since;
		END;
	END IF;
	UPDATE @extschema@.nodes x SET missed = 0, error = why, state = 'online', last_seen = clock_timestamp(), up_since = up,
		timelines = (r ->> 'timelines')::int WHERE x.name = node;
	RETURN true;
END $$;
COMMENT ON FUNCTION heartbeat(text) IS 'ask a node whether it is there, and note the answer';
