-- SPDX-License-Identifier: Apache-2.0
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
