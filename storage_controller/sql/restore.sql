-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- reset and restore: a branch's name moves to a new timeline
--
-- The new timeline is made beside the old one while the endpoint still runs; then the endpoint is stopped, the name and the endpoint
-- move over in a transaction of its own, and the endpoint starts again.  That move is the commit point: after a crash before it the new
-- timeline goes and the endpoint is started as it was, after a crash behind it the endpoint is started on the new timeline (recover.sql).  The move must be committed before the start: what
-- clients commit on the new timeline must not depend on the fate of the caller's transaction.

-- Called aside.  The old timeline gets the name keep_as, or goes.
CREATE FUNCTION switch_branch(tenant_id text, branch text, old_timeline text, new_timeline jsonb, keep_as text, op bigint) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '10s' AS $$
DECLARE
	fresh @extschema@.timelines := jsonb_populate_record(NULL::@extschema@.timelines, new_timeline);
	old @extschema@.timelines;
	since timestamptz;
BEGIN
	INSERT INTO @extschema@.timelines SELECT fresh.*;
	SELECT b.created_at INTO STRICT since FROM @extschema@.branches b WHERE b.tenant = tenant_id AND b.name = branch AND b.timeline = old_timeline;
	UPDATE @extschema@.branches b SET timeline = fresh.id WHERE b.tenant = tenant_id AND b.name = branch;
	UPDATE @extschema@.endpoints e SET timeline = fresh.id WHERE e.timeline = old_timeline AND e.mode <> 'static';
	IF keep_as IS NOT NULL THEN
		INSERT INTO @extschema@.branches (tenant, name, timeline, created_at) VALUES (tenant_id, keep_as, old_timeline, since);
	ELSE
		DELETE FROM @extschema@.timelines l WHERE l.id = old_timeline RETURNING * INTO STRICT old;
		PERFORM @extschema@.write_leftover('timeline', old.id, old.tenant, old.pageserver || old.safekeepers, NULL, op);
	END IF;
	PERFORM @extschema@.keep_leftover('timeline', fresh.id);
	PERFORM @extschema@.commit_point(op);
END $$;
COMMENT ON FUNCTION switch_branch(text, text, text, jsonb, text, bigint) IS 'give a branch''s name to a new timeline; the old one gets another name, or goes';

CREATE FUNCTION move_branch(t tenants, branch text, old timelines, fresh timelines, keep_as text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE e @extschema@.endpoints;
BEGIN
	PERFORM @extschema@.remove_computes(old.id, 'static');
	PERFORM @extschema@.step('move the name');
	PERFORM @extschema@.aside('SELECT @extschema@.switch_branch($1, $2, $3, $4::jsonb, $5, $6::bigint)', t.id, branch, old.id, to_jsonb(fresh)::text, keep_as,
		@extschema@.current_operation()::text);
	FOR e IN SELECT * FROM @extschema@.endpoints x WHERE x.timeline = fresh.id AND x.wanted = 'running' ORDER BY x.mode <> 'read-write', x.name LOOP
		PERFORM @extschema@.start_endpoint(t.id, e.name);
	END LOOP;
END $$;
COMMENT ON FUNCTION move_branch(tenants, text, timelines, timelines, text) IS 'let a branch go on with a new timeline';

CREATE FUNCTION reset_branch(tenant_id text, branch text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	t @extschema@.tenants := @extschema@.lock_tenant(tenant_id);
	tl @extschema@.timelines := @extschema@.find_branch(tenant_id, branch);
	parent @extschema@.timelines;
	child text;
BEGIN
	PERFORM @extschema@.check_not_protected(tenant_id, branch, 'reset');
	SELECT * INTO parent FROM @extschema@.timelines l WHERE l.id = tl.ancestor;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'branch "%" has no parent to be reset to', branch USING ERRCODE = 'NE012',
			HINT = 'neon_restore_branch() takes it back to a time of its own history.';
	END IF;
	SELECT b.name INTO child FROM @extschema@.branches b JOIN @extschema@.timelines l ON l.id = b.timeline WHERE l.ancestor = tl.id LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'branch "%" has children, among them "%"', branch, child USING ERRCODE = 'dependent_objects_still_exist',
			DETAIL = 'A reset drops what the branch holds, and they need it.',
			HINT = 'Drop them first, or take another branch of the parent with neon_create_branch().';
	END IF;
	SELECT e.name INTO child FROM @extschema@.endpoints e WHERE e.timeline = tl.id AND e.mode = 'static' LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'branch "%" has static endpoints, among them "%"', branch, child USING ERRCODE = 'dependent_objects_still_exist',
			DETAIL = 'A reset drops what the branch holds, and they show it.',
			HINT = 'Drop them first, or take another branch of the parent with neon_create_branch().';
	END IF;
	PERFORM @extschema@.move_branch(t, branch, tl, @extschema@.make_timeline(t, parent, @extschema@.current_lsn(parent)), NULL);
	PERFORM @extschema@.step('remove what it was');
	PERFORM @extschema@.clean_leftover('timeline', tl.id);
END $$;
COMMENT ON FUNCTION reset_branch(text, text) IS 'make a branch what its parent is now';

CREATE FUNCTION restore_branch(tenant_id text, branch text, at_lsn pg_lsn, at_time timestamptz, keep_as text = NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	t @extschema@.tenants := @extschema@.lock_tenant(tenant_id);
	tl @extschema@.timelines := @extschema@.find_branch(tenant_id, branch);
	kept text := coalesce(keep_as, left(branch, 44) || to_char(clock_timestamp() AT TIME ZONE 'UTC', '"_old_"YYYYMMDDHH24MISS'));
	point record;
BEGIN
	PERFORM @extschema@.check_not_protected(tenant_id, branch, 'restored');
	IF at_lsn IS NULL AND at_time IS NULL THEN
		RAISE EXCEPTION 'restore to when?' USING ERRCODE = 'null_value_not_allowed', HINT = 'Give at_time or at_lsn.';
	END IF;
	PERFORM @extschema@.check_new_branch(tenant_id, kept);
	point := @extschema@.branch_point(tl, branch, at_lsn, at_time);
	PERFORM @extschema@.move_branch(t, branch, tl, @extschema@.make_timeline(t, point.origin, point.lsn), kept);
	RETURN kept;
END $$;
COMMENT ON FUNCTION restore_branch(text, text, pg_lsn, timestamptz, text) IS
	'make a branch what it was at an LSN or a time; the old one is kept under the name that is returned';
