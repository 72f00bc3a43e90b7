-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- timelines on the nodes

-- Ends a writer that runs.
CREATE FUNCTION elect(tl timelines) RETURNS pg_lsn LANGUAGE plpgsql AS $$
DECLARE c text;
BEGIN
	SELECT n.name INTO STRICT c FROM @extschema@.nodes n WHERE n.role = 'compute' ORDER BY n.state LIKE '%offline', n.node_id LIMIT 1;
	RETURN (SELECT (r ->> 'lsn')::pg_lsn FROM @extschema@.on_node(c,
		'SELECT lsn FROM neon_compute_tools.sync_safekeepers($1, $2, $3, $4, $5, $6, 30000)',
		tl.tenant, tl.id, @extschema@.safekeepers_setting(tl), tl.start_lsn::text, tl.system_id, tl.wal_seg_size::text) r);
END $$;
COMMENT ON FUNCTION elect(timelines) IS 'elect on a timeline''s safekeepers; the end of the quorum''s log';

-- End of everything that is committed on a timeline at this moment.
CREATE FUNCTION current_lsn(tl timelines) RETURNS pg_lsn LANGUAGE plpgsql AS $$
DECLARE
	e @extschema@.endpoints;
	none_is_made bool := false;		-- no endpoint is created while we hold the tenant
	locked bool := false;			-- the endpoint there is neither started nor stopped
	give_up timestamptz;
BEGIN
	-- A running endpoint is asked.  One that cannot be is perhaps being started or stopped: we wait for that, and keep it from being
	-- started while we ask the safekeepers, as an election would end it.
	LOOP
		SELECT * INTO e FROM @extschema@.endpoints WHERE timeline = tl.id AND mode = 'read-write';
		IF NOT FOUND AND NOT locked AND NOT none_is_made THEN
			PERFORM @extschema@.lock_tenant(tl.tenant);		-- or one could be created meanwhile; the tenant before the endpoint
			none_is_made := true;
			CONTINUE;
		END IF;
		EXIT WHEN e.name IS NULL;
		IF @extschema@.endpoint_pid(e) IS NOT NULL THEN
			BEGIN
				RETURN @extschema@.ask_current_lsn(e);
			EXCEPTION WHEN connection_exception OR sqlclient_unable_to_establish_sqlconnection OR connection_failure
					OR cannot_connect_now OR admin_shutdown OR crash_shutdown THEN
				IF locked AND clock_timestamp() > give_up THEN
					RAISE;
				END IF;
			END;
		END IF;
		IF locked THEN
			EXIT WHEN @extschema@.endpoint_pid(e) IS NULL;
			PERFORM pg_sleep(0.1);
		ELSE
			PERFORM @extschema@.endpoint_lock(e.tenant, e.name);
			locked := true;
			give_up := clock_timestamp() + interval '20 s';
		END IF;
	END LOOP;
	-- nobody writes: the end of the quorum's log
	PERFORM @extschema@.step('find the end of the log');
	PERFORM @extschema@.ensure_on_safekeepers(tl);
	RETURN @extschema@.elect(tl);
END $$;
COMMENT ON FUNCTION current_lsn(timelines) IS 'the end of everything that is committed on a timeline at this moment';

-- A commit of our own: when it has its quorum, everything before it has.
CREATE FUNCTION ask_current_lsn(e endpoints) RETURNS pg_lsn LANGUAGE plpgsql AS $$
DECLARE lsn pg_lsn;
BEGIN
	PERFORM @extschema@.on_endpoint(e, 'postgres', 'SELECT pg_logical_emit_message(true, ''neon'', ''branch point'')');
	SELECT (r ->> 'lsn')::pg_lsn INTO STRICT lsn FROM @extschema@.on_endpoint(e, 'postgres', 'SELECT pg_current_wal_flush_lsn() AS lsn') r;
	RETURN lsn;
END $$;
COMMENT ON FUNCTION ask_current_lsn(endpoints) IS 'current_lsn() of a timeline whose endpoint runs';

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
		'SELECT neon_pageserver.lsn_at($1, $2, $3) AS lsn', tl.tenant, tl.id, to_jsonb(at_time) #>> '{}') r;	-- ISO, whatever this session's DateStyle is
	RETURN lsn;
END $$;
COMMENT ON FUNCTION lsn_at(timelines, timestamptz) IS 'the end of what was committed on a timeline at a time';

CREATE FUNCTION timeline_that_holds(tl timelines, lsn pg_lsn) RETURNS timelines LANGUAGE plpgsql STABLE AS $$
BEGIN
	WHILE lsn < tl.start_lsn AND tl.ancestor IS NOT NULL LOOP
		SELECT * INTO STRICT tl FROM @extschema@.timelines l WHERE l.id = tl.ancestor;
	END LOOP;
	RETURN tl;
END $$;
COMMENT ON FUNCTION timeline_that_holds(timelines, pg_lsn) IS 'the timeline, or the ancestor of it, whose log an LSN of its history is in';

-- Where a branch of a branch begins: the timeline that holds that moment (of a branch that was made, reset or restored after it: one
-- of its ancestors) and the LSN there.
CREATE FUNCTION branch_point(tl timelines, branch text, at_lsn pg_lsn, at_time timestamptz, OUT origin timelines, OUT lsn pg_lsn)
LANGUAGE plpgsql AS $$
DECLARE since timestamptz;
BEGIN
	origin := tl;
	IF at_lsn IS NOT NULL AND at_time IS NOT NULL THEN
		RAISE EXCEPTION 'at_lsn and at_time exclude each other' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give one of them, or none to branch from now.';
	END IF;
	IF at_time IS NOT NULL THEN
		lsn := @extschema@.lsn_at(tl, at_time);
	ELSIF at_lsn IS NULL OR at_lsn >= tl.start_lsn THEN
		lsn := @extschema@.current_lsn(tl);
		IF at_lsn > lsn THEN
			RAISE EXCEPTION 'LSN % is beyond the end of branch "%"', at_lsn, branch USING ERRCODE = 'NE009',
				DETAIL = format('The branch ends at %s.', lsn), HINT = 'Leave it out to branch from now.';
		END IF;
		lsn := coalesce(at_lsn, lsn);
	ELSE
		lsn := at_lsn;
	END IF;
	origin := @extschema@.timeline_that_holds(tl, lsn);
	WITH RECURSIVE up AS (SELECT tl.ancestor, tl.created_at UNION ALL
		SELECT l.ancestor, l.created_at FROM up JOIN @extschema@.timelines l ON l.id = up.ancestor)
	SELECT created_at INTO since FROM up WHERE ancestor IS NULL;
	IF lsn < origin.start_lsn THEN
		RAISE EXCEPTION 'LSN % is before branch "%" began (%)', lsn, branch, origin.start_lsn USING ERRCODE = 'NE009',
			HINT = format('Its history begins at LSN %s.', origin.start_lsn);
	ELSIF at_time < since THEN
		RAISE EXCEPTION 'time % is before branch "%" began', at_time, branch USING ERRCODE = 'NE009',
			HINT = format('Its history begins at %s.', since);
	END IF;
END $$;
COMMENT ON FUNCTION branch_point(timelines, text, pg_lsn, timestamptz) IS 'the timeline and LSN that a branch begins at';

-- A new timeline on the nodes; ancestor NULL makes a fresh cluster.  It is a leftover until it has rows: add_timeline() in this
-- transaction, or switch_branch() in one of its own.
CREATE FUNCTION make_timeline(t tenants, ancestor timelines, at_lsn pg_lsn) RETURNS timelines LANGUAGE plpgsql AS $$
DECLARE
	tl @extschema@.timelines;
	r jsonb;
BEGIN
	tl.id := @extschema@.new_id();
	tl.tenant := t.id;
	tl.ancestor := ancestor.id;
	tl.created_at := clock_timestamp();
	-- a branch reads its ancestor's layers, and is where its ancestor is
	tl.pageserver := coalesce(ancestor.pageserver, @extschema@.choose_pageserver());
	tl.safekeepers := coalesce(ancestor.safekeepers, @extschema@.choose_safekeepers());
	PERFORM @extschema@.note_leftover('timeline', tl.id, t.id, tl.pageserver || tl.safekeepers);
	PERFORM @extschema@.step('make the timeline', tl.pageserver);
	r := @extschema@.create_on_pageserver(t, tl, at_lsn);
	tl.start_lsn := r ->> 'start_lsn';
	tl.system_id := r ->> 'system_id';
	tl.wal_seg_size := r ->> 'wal_seg_size';
	PERFORM @extschema@.step('make its log', array_to_string(tl.safekeepers, ', '));
	PERFORM @extschema@.ensure_on_safekeepers(tl);
	RETURN tl;
END $$;
COMMENT ON FUNCTION make_timeline(tenants, timelines, pg_lsn) IS 'make a timeline on its nodes';

CREATE FUNCTION add_timeline(tl timelines, branch text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO @extschema@.timelines SELECT tl.*;
	INSERT INTO @extschema@.branches (tenant, name, timeline) VALUES (tl.tenant, branch, tl.id);
	PERFORM @extschema@.keep_leftover('timeline', tl.id);
	RETURN tl.id;
END $$;
COMMENT ON FUNCTION add_timeline(timelines, text) IS 'give a timeline that the nodes have its row, as a branch';

-- The servers of a timeline, if there are any: stopped, and nothing of their directories kept.  Until the end of our transaction nobody else
-- starts them.
CREATE FUNCTION remove_computes(timeline_id text, but_mode text = NULL) RETURNS void LANGUAGE plpgsql AS $$
DECLARE e @extschema@.endpoints;
BEGIN
	PERFORM @extschema@.lock_endpoints(timeline_id, but_mode);
	FOR e IN SELECT * FROM @extschema@.endpoints x WHERE x.timeline = timeline_id AND x.mode IS DISTINCT FROM but_mode LOOP
		PERFORM @extschema@.step('stop the server', e.compute, e.name);
		PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.drop_compute($1, $2)', e.directory, e.provider);
	END LOOP;
END $$;
COMMENT ON FUNCTION remove_computes(text, text) IS 'stop a timeline''s endpoints, but those of one mode, and remove what their hosts have of them';
