-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- generations of tenants on pageservers
--
-- Every attachment of a tenant to a pageserver has a number, and each new attachment a greater one: the first, and one after each start of the
-- pageserver.  It is committed here, durably, before the pageserver hears of it.  The pageserver keeps the greatest it has heard of, and
-- refuses what comes with an older one (NE014): that comes from a controller that is a copy of what was.  What a pageserver
-- writes for others to read (object storage, later) has the number in its name, so that two that both believe to have a
-- tenant never write the same name.
--
-- A crash between the commit and the attachment leaves a number that nobody has used: the next attachment has a greater one.

-- Nobody will want it any more: its tenant was dropped, or not made after all.  While a tenant is being made it has a leftover, which is
-- committed before and goes in the transaction that makes the tenant's row.
CREATE FUNCTION is_stale(a attachments) RETURNS bool LANGUAGE sql STABLE AS $$
	SELECT NOT EXISTS (SELECT FROM @extschema@.tenants t WHERE t.id = a.tenant) AND NOT EXISTS (SELECT FROM @extschema@.leftovers l WHERE l.tenant = a.tenant);
$$;
COMMENT ON FUNCTION is_stale(attachments) IS 'an attachment whose tenant is gone';

-- Called aside: a number that nobody has used.  For a pageserver that has not had the tenant when first_of is given, the start of the
-- pageserver; else NULL when there is none.
CREATE FUNCTION next_generation(tenant_id text, node text, beyond bigint, first_of timestamptz) RETURNS bigint LANGUAGE plpgsql
SET lock_timeout = '10s' AS $$
DECLARE g bigint;
BEGIN
	PERFORM set_config('synchronous_commit', 'on', true);
	IF first_of IS NOT NULL THEN
		INSERT INTO @extschema@.attachments AS a (tenant, pageserver, generation, up_since) VALUES (tenant_id, node, 1, first_of)
		ON CONFLICT (tenant, pageserver) DO UPDATE SET generation = a.generation + 1 RETURNING generation INTO g;
	ELSE
		UPDATE @extschema@.attachments SET generation = greatest(generation, coalesce(beyond, 0)) + 1, attached_at = clock_timestamp()
		WHERE tenant = tenant_id AND pageserver = node RETURNING generation INTO g;
	END IF;
	RETURN g;
END $$;
COMMENT ON FUNCTION next_generation(text, text, bigint, timestamptz) IS 'the number for a tenant''s next attachment to a node';

-- The tenant on a pageserver, with its credential, under the generation it has there or, for the first time, a new one.
CREATE FUNCTION attach(t tenants, node text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE g bigint;
BEGIN
	SELECT generation INTO g FROM @extschema@.attachments WHERE tenant = t.id AND pageserver = node;
	IF NOT FOUND THEN
		SELECT (r ->> 'g')::bigint INTO STRICT g FROM @extschema@.on_node(node, 'SELECT pg_postmaster_start_time() AS up_since') q,
			@extschema@.aside('SELECT @extschema@.next_generation($1, $2, NULL, $3::timestamptz) AS g', t.id, node, q ->> 'up_since') r;
	END IF;
	PERFORM @extschema@.on_node(node, 'SELECT neon_pageserver.create_tenant($1, $2), neon_pageserver.attach($1, $3::bigint)',
		t.id, t.node_password, g::text);
	RETURN g;
END $$;
COMMENT ON FUNCTION attach(tenants, text) IS 'attach a tenant to a pageserver with its credential; returns the generation';

-- Held by whoever attaches a tenant anew, shared by those who need its number to last; to the end of the transaction.
CREATE FUNCTION attachment_lock(tenant_id text, node text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
	SELECT hashtextextended('neon attachment of ' || tenant_id || ' to ' || node, 0);
$$;
COMMENT ON FUNCTION attachment_lock(text, text) IS 'key of the lock that whoever attaches a tenant anew holds';

-- A timeline on a pageserver.  When the pageserver is attached anew meanwhile, the number we had is old: then once more, and nobody attaches
-- it anew until we are through.
CREATE FUNCTION create_on_pageserver(t tenants, tl timelines, at_lsn pg_lsn) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	safekeepers text := (SELECT array_agg(@extschema@.tenant_connstring(n, t) ORDER BY n.node_id) FROM @extschema@.nodes n WHERE n.name = ANY (tl.safekeepers));
	r jsonb;
BEGIN
	FOR try IN 1 .. 3 LOOP
		IF try > 1 THEN
			PERFORM pg_advisory_xact_lock_shared(@extschema@.attachment_lock(t.id, tl.pageserver));
		END IF;
		BEGIN
			SELECT q INTO STRICT r FROM @extschema@.on_node(tl.pageserver,
				'SELECT * FROM neon_pageserver.create_timeline($1, $2, $3::text[], $4, $5::pg_lsn, $6::bigint)', t.id, tl.id, safekeepers,
				tl.ancestor, at_lsn::text, @extschema@.attach(t, tl.pageserver)::text) q;
			RETURN r;
		EXCEPTION WHEN SQLSTATE 'NE014' THEN
			IF try = 3 THEN
				RAISE;
			END IF;
		END;
	END LOOP;
END $$;
COMMENT ON FUNCTION create_on_pageserver(tenants, timelines, pg_lsn) IS 'make a timeline on its pageserver';

-- A job of the reconciler: a pageserver that was started anew has each of its tenants attached anew.  One that has heard of a greater number
-- than ours proves that this catalog is an older copy: ours jumps beyond it.  While a timeline is being made under the number we have it is left for
-- the next round: the reconciler waits for nobody.
CREATE FUNCTION reattach(tenant_id text, node text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	up timestamptz;
	g bigint;
	theirs bigint;
BEGIN
	IF NOT pg_try_advisory_xact_lock(@extschema@.attachment_lock(tenant_id, node)) THEN
		RETURN;
	END IF;
	SELECT (r ->> 'up_since')::timestamptz INTO STRICT up FROM @extschema@.on_node(node, 'SELECT pg_postmaster_start_time() AS up_since') r;
	FOR try IN 1 .. 2 LOOP
		SELECT (r ->> 'g')::bigint INTO g FROM @extschema@.aside('SELECT @extschema@.next_generation($1, $2, $3::bigint, NULL) AS g',
			tenant_id, node, theirs::text) r;
		EXIT WHEN g IS NULL;
		SELECT (r ->> 'g')::bigint INTO theirs FROM @extschema@.on_node(node, 'SELECT neon_pageserver.reattach($1, $2::bigint) AS g', tenant_id, g::text) r;
		EXIT WHEN theirs IS NULL OR theirs <= g;
	END LOOP;
	IF theirs > g THEN
		RETURN;		-- another controller is at it: not attached
	END IF;
	UPDATE @extschema@.attachments a SET up_since = up WHERE a.tenant = tenant_id AND a.pageserver = node;
END $$;
COMMENT ON FUNCTION reattach(text, text) IS 'attach a tenant to its pageserver anew, with a new generation';

CREATE FUNCTION forget_attachment(tenant_id text, node text) RETURNS void LANGUAGE sql AS $$
	DELETE FROM @extschema@.attachments a WHERE a.tenant = tenant_id AND a.pageserver = node AND @extschema@.is_stale(a);
$$;
COMMENT ON FUNCTION forget_attachment(text, text) IS 'forget an attachment whose tenant is gone';

CREATE FUNCTION attachment_jobs() RETURNS TABLE (job text, object text) LANGUAGE sql AS $$
	(SELECT 'reattach', format('%s %s', a.tenant, a.pageserver) FROM @extschema@.attachments a JOIN @extschema@.nodes n ON n.name = a.pageserver
		WHERE n.state IN ('online', 'draining') AND a.up_since IS DISTINCT FROM n.up_since AND EXISTS (SELECT FROM @extschema@.tenants t WHERE t.id = a.tenant)
		ORDER BY a.attached_at, a.tenant LIMIT 100)
	UNION ALL (SELECT 'forget_attachment', format('%s %s', a.tenant, a.pageserver) FROM @extschema@.attachments a WHERE @extschema@.is_stale(a)
		ORDER BY a.tenant LIMIT 100);
$$;
COMMENT ON FUNCTION attachment_jobs() IS 'what the reconciler would do now for attachments';

CREATE FUNCTION after_restore() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	UPDATE @extschema@.attachments SET generation = generation + 1000, up_since = NULL;		-- the reconciler attaches anew
	DELETE FROM @extschema@.leftovers;
END $$;
COMMENT ON FUNCTION after_restore() IS
	'To be called once on a controller that was restored from a backup: what it has noted is old, and its generations jump beyond those given out since.';
