-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- generations of tenants on pageservers
--
-- Every attachment of a tenant to a pageserver has a number, and it gets a greater one when the pageserver was started anew.  The pageserver
-- keeps the greatest it has heard of and refuses work in the name of an older one: that comes from a controller that is a copy of
-- what was.

-- Called aside: the number is used by nobody before it is committed.  Whoever works under the present one has locked it (attach()).
CREATE FUNCTION next_generation(tenant_id text, node text, beyond bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE g bigint;
BEGIN
	PERFORM FROM @extschema@.attachments WHERE tenant = tenant_id AND pageserver = node FOR UPDATE NOWAIT;
	UPDATE @extschema@.attachments SET generation = greatest(generation, coalesce(beyond, 0)) + 1, attached_at = clock_timestamp()
	WHERE tenant = tenant_id AND pageserver = node RETURNING generation INTO g;
	RETURN g;
END $$;

-- The tenant on a pageserver, with its credential and its generation, which stays as it is until the end of this transaction.  A new attachment
-- begins with 1; it is a tenant's first, whose id nobody has used before.
CREATE FUNCTION attach(t tenants, node text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE g bigint;
BEGIN
	INSERT INTO @extschema@.attachments (tenant, pageserver, generation) VALUES (t.id, node, 1) ON CONFLICT DO NOTHING;
	SELECT generation INTO STRICT g FROM @extschema@.attachments WHERE tenant = t.id AND pageserver = node FOR SHARE;
	PERFORM @extschema@.on_node(node, 'SELECT neon_pageserver.create_tenant($1, $2), neon_pageserver.attach($1, $3::bigint)',
		t.id, t.node_password, g::text);
	RETURN g;
END $$;

-- A pageserver that was started anew gets new generations for all its tenants.  One that has heard of a greater one than ours proves that this
-- catalog is an older copy: ours jumps beyond it.
CREATE FUNCTION reattach(node text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	a @extschema@.attachments;
	g bigint;
	theirs bigint;
BEGIN
	FOR a IN SELECT * FROM @extschema@.attachments x WHERE x.pageserver = node ORDER BY x.tenant LOOP
		theirs := NULL;
		FOR try IN 1 .. 2 LOOP
			SELECT (r ->> 'g')::bigint INTO g FROM @extschema@.aside('SELECT @extschema@.next_generation($1, $2, $3::bigint) AS g', a.tenant, node,
				theirs::text) r;
			EXIT WHEN g IS NULL;
			SELECT (r ->> 'g')::bigint INTO STRICT theirs FROM @extschema@.on_node(node,
				'SELECT neon_pageserver.reattach($1, $2::bigint) AS g', a.tenant, g::text) r;
			EXIT WHEN theirs IS NULL OR theirs <= g;
		END LOOP;
	END LOOP;
END $$;
COMMENT ON FUNCTION reattach(text) IS 'new generations for everything on a pageserver';

CREATE FUNCTION after_restore() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	UPDATE @extschema@.attachments SET generation = generation + 1000;
	DELETE FROM @extschema@.leftovers;
	UPDATE @extschema@.nodes SET up_since = NULL;	-- the next heartbeat attaches anew
END $$;
COMMENT ON FUNCTION after_restore() IS
	'To be called once on a controller that was restored from a backup: what it has noted is old, and its generations jump beyond those given out since.';
