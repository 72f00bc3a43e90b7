-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- branches

CREATE FUNCTION check_new_branch(tenant_id text, branch text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM @extschema@.check_name(branch, 'branch');
	IF EXISTS (SELECT FROM @extschema@.branches b WHERE b.tenant = tenant_id AND b.name = branch) THEN
		RAISE EXCEPTION 'branch "%" already exists', branch USING ERRCODE = 'duplicate_object',
			HINT = 'Choose another name, or drop it with neon_drop_branch().';
	END IF;
END $$;
COMMENT ON FUNCTION check_new_branch(text, text) IS 'refuse a name for a branch that is not one, or is taken';

-- What would take something away from a protected branch asks this first.
CREATE FUNCTION check_not_protected(tenant_id text, branch text, what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF (SELECT b.protected FROM @extschema@.branches b WHERE b.tenant = tenant_id AND b.name = branch) THEN
		RAISE EXCEPTION 'branch "%" is protected: it cannot be %', branch, what USING ERRCODE = 'NE011',
			HINT = format('SELECT neon_protect_branch(%L, false) first, if you mean it.', branch);
	END IF;
END $$;
COMMENT ON FUNCTION check_not_protected(text, text, text) IS 'refuse what would take something away from a protected branch';

CREATE FUNCTION create_branch(tenant_id text, branch text, parent text, at_lsn pg_lsn = NULL, at_time timestamptz = NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	t @extschema@.tenants;
	point record;
BEGIN
	PERFORM @extschema@.check_name(branch, 'branch');
	t := @extschema@.lock_tenant(tenant_id);
	PERFORM @extschema@.check_new_branch(tenant_id, branch);
	point := @extschema@.branch_point(@extschema@.find_branch(tenant_id, parent), parent, at_lsn, at_time);
	RETURN @extschema@.add_timeline(@extschema@.make_timeline(t, point.origin, point.lsn), branch);
END $$;
COMMENT ON FUNCTION create_branch(text, text, text, pg_lsn, timestamptz) IS
	'make a branch of another, from now, an LSN or a time, with its endpoint; returns the id of its timeline';

-- The rows of branches, all or none, called aside: from then on they are leftovers.
CREATE FUNCTION drop_branch_rows(timeline_ids text[], op bigint) RETURNS void LANGUAGE plpgsql SET lock_timeout = '10s' AS $$
DECLARE
	tl @extschema@.timelines;
	n int := 0;
BEGIN
	DELETE FROM @extschema@.endpoints e WHERE e.timeline = ANY (timeline_ids);
	DELETE FROM @extschema@.branches b WHERE b.timeline = ANY (timeline_ids);
	FOR tl IN DELETE FROM @extschema@.timelines l WHERE l.id = ANY (timeline_ids) RETURNING * LOOP
		PERFORM @extschema@.write_leftover('timeline', tl.id, tl.tenant, tl.pageserver || tl.safekeepers, NULL, op);
		n := n + 1;
	END LOOP;
	DELETE FROM @extschema@.acceptors a WHERE a.timeline = ANY (timeline_ids);
	IF n < array_length(timeline_ids, 1) THEN
		RAISE EXCEPTION 'the branch was created by this transaction' USING ERRCODE = 'object_in_use', HINT = 'Commit first.';
	END IF;
	PERFORM @extschema@.commit_point(op);
END $$;
COMMENT ON FUNCTION drop_branch_rows(text[], bigint) IS 'take away the rows of branches, all or none; what nodes have of them is left over from then on';

-- A branch and all that was made of it.
CREATE FUNCTION descendants(timeline_id text) RETURNS TABLE (timeline text, name text, depth int) LANGUAGE sql STABLE AS $$
	WITH RECURSIVE down AS (SELECT timeline_id AS id, 0 AS depth UNION ALL
		SELECT l.id, down.depth + 1 FROM down JOIN @extschema@.timelines l ON l.ancestor = down.id)
	SELECT d.id, b.name, d.depth FROM down d JOIN @extschema@.branches b ON b.timeline = d.id;
$$;
COMMENT ON FUNCTION descendants(text) IS 'a branch and all that was made of it';

CREATE FUNCTION drop_branch(tenant_id text, branch text, cascade bool = false) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	tl @extschema@.timelines;
	child text;
	doomed text[];
BEGIN
	PERFORM @extschema@.lock_tenant(tenant_id);
	tl := @extschema@.find_branch(tenant_id, branch);
	PERFORM @extschema@.check_not_protected(tenant_id, branch, 'dropped');
	SELECT b.name INTO child FROM @extschema@.branches b JOIN @extschema@.timelines l ON l.id = b.timeline WHERE l.ancestor = tl.id LIMIT 1;
	IF FOUND AND NOT coalesce(cascade, false) THEN
		RAISE EXCEPTION 'branch "%" has children, among them "%"', branch, child USING ERRCODE = 'dependent_objects_still_exist',
			HINT = 'Drop them first, or use cascade => true.';
	END IF;
	PERFORM @extschema@.check_not_protected(tenant_id, d.name, 'dropped') FROM @extschema@.descendants(tl.id) d;
	SELECT array_agg(d.timeline ORDER BY d.depth DESC) INTO STRICT doomed FROM @extschema@.descendants(tl.id) d;
	PERFORM @extschema@.remove_computes(id) FROM unnest(doomed) id;
	PERFORM @extschema@.step('forget it');
	PERFORM @extschema@.aside('SELECT @extschema@.drop_branch_rows($1::text[], $2::bigint)', doomed::text, @extschema@.current_operation()::text);
	PERFORM @extschema@.step('remove it from its nodes');
	PERFORM @extschema@.clean_leftover('timeline', id) FROM unnest(doomed) id;
END $$;
COMMENT ON FUNCTION drop_branch(text, text, bool) IS 'drop a branch, with those made of it if cascade';

CREATE FUNCTION rename_branch(tenant_id text, branch text, new_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM @extschema@.check_name(new_name, 'branch');
	PERFORM @extschema@.lock_tenant(tenant_id);
	PERFORM @extschema@.find_branch(tenant_id, branch);
	UPDATE @extschema@.branches b SET name = new_name WHERE b.tenant = tenant_id AND b.name = branch;
EXCEPTION WHEN unique_violation THEN
	RAISE EXCEPTION 'branch "%" already exists', new_name USING ERRCODE = 'duplicate_object',
		HINT = 'Choose another name, or drop it with neon_drop_branch().';
END $$;
COMMENT ON FUNCTION rename_branch(text, text, text) IS 'give a branch another name; its endpoint keeps its own';

CREATE FUNCTION protect_branch(tenant_id text, branch text, protected bool) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM @extschema@.lock_tenant(tenant_id);
	PERFORM @extschema@.find_branch(tenant_id, branch);
	UPDATE @extschema@.branches b SET protected = coalesce(protect_branch.protected, true) WHERE b.tenant = tenant_id AND b.name = branch;
END $$;
COMMENT ON FUNCTION protect_branch(text, text, bool) IS 'protect a branch from being dropped, reset and restored, or no longer';

CREATE FUNCTION connection_uri(tenant_id text, branch text) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
	tl @extschema@.timelines := @extschema@.find_branch(tenant_id, branch);
	e @extschema@.endpoints := @extschema@.writer_of(tl.id);
BEGIN
	IF e.name IS NULL THEN
		RAISE EXCEPTION 'branch "%" has no endpoint', branch USING ERRCODE = 'NE004',
			HINT = format('SELECT neon_create_endpoint(%L);', branch);
	END IF;
	RETURN @extschema@.endpoint_uri(e);
END $$;
COMMENT ON FUNCTION connection_uri(text, text) IS 'the URI of a branch''s read-write endpoint';
