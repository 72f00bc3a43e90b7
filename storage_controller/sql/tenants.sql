-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- tenants

CREATE FUNCTION check_new_tenant(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM @extschema@.tenants x WHERE x.name = check_new_tenant.name) THEN
		RAISE EXCEPTION 'tenant "%" already exists', name USING ERRCODE = 'duplicate_object',
			HINT = 'Choose another name, or drop it with neon_drop_tenant().';
	END IF;
END $$;
COMMENT ON FUNCTION check_new_tenant(text) IS 'refuse a name for a tenant that is taken';

CREATE FUNCTION create_tenant(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	t @extschema@.tenants;
	e @extschema@.endpoints;
BEGIN
	PERFORM @extschema@.check_name(name, 'tenant');
	PERFORM @extschema@.check_new_tenant(name);
	t.id := @extschema@.new_id();
	t.name := name;
	t.node_password := @extschema@.new_id();
	t.role_password := @extschema@.new_id();
	t.created_at := clock_timestamp();
	PERFORM @extschema@.note_leftover('tenant', t.id, t.id, ARRAY(SELECT n.name FROM @extschema@.nodes n WHERE n.role IN ('pageserver', 'safekeeper')));
	EXECUTE format('CREATE ROLE %I LOGIN PASSWORD %L IN ROLE neon_tenant', 'neon_t_' || t.id, t.node_password);
	BEGIN
		INSERT INTO @extschema@.tenants SELECT t.*;
	EXCEPTION WHEN unique_violation THEN		-- another session was at it, and we have waited for its end
		PERFORM @extschema@.check_new_tenant(name);
		RAISE;
	END;
	PERFORM @extschema@.keep_leftover('tenant', t.id);
	PERFORM @extschema@.add_timeline(@extschema@.make_timeline(t, NULL, NULL), 'main');
	PERFORM @extschema@.create_endpoint(t.id, 'main');
	SELECT * INTO STRICT e FROM @extschema@.endpoints WHERE tenant = t.id;
	PERFORM @extschema@.step('set it up');
	PERFORM @extschema@.on_endpoint(e, 'postgres', format('ALTER ROLE postgres PASSWORD %L', t.role_password));
	PERFORM @extschema@.on_endpoint(e, 'postgres', 'CREATE EXTENSION IF NOT EXISTS neon');
	RETURN t.id;
END $$;
COMMENT ON FUNCTION create_tenant(text) IS 'make a tenant with its branch and endpoint "main"; returns its id';

-- The last of it, when it has no branches any more; nothing if it is gone.  The note about the nodes and the row change together.
CREATE FUNCTION forget_tenant(tenant_id text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE t @extschema@.tenants := @extschema@.lock_tenant(tenant_id);
BEGIN
	IF t.id IS NULL THEN
		RETURN;
	END IF;
	PERFORM @extschema@.write_leftover('tenant', t.id, t.id, ARRAY(SELECT n.name FROM @extschema@.nodes n WHERE n.role IN ('pageserver', 'safekeeper')),
		NULL, @extschema@.current_operation());
	DELETE FROM @extschema@.tenants WHERE id = t.id;
	PERFORM pg_terminate_backend(a.pid) FROM pg_stat_activity a WHERE a.usename = 'neon_t_' || t.id;
	EXECUTE format('DROP ROLE IF EXISTS %I', 'neon_t_' || t.id);
	PERFORM @extschema@.clean_leftover('tenant', t.id);
END $$;
COMMENT ON FUNCTION forget_tenant(text) IS 'take away the last of a tenant that has no branches any more';

CREATE FUNCTION drop_tenant(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	t @extschema@.tenants;
	doomed text[];
BEGIN
	SELECT * INTO t FROM @extschema@.tenants x WHERE x.name = drop_tenant.name FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'tenant "%" does not exist', name USING ERRCODE = 'NE010', HINT = 'See neon_tenants for those there are.';
	END IF;
	PERFORM @extschema@.check_not_protected(t.id, x.name, 'dropped') FROM @extschema@.branches x WHERE x.tenant = t.id;
	SELECT array_agg(l.id) INTO doomed FROM @extschema@.timelines l WHERE l.tenant = t.id;
	PERFORM @extschema@.remove_computes(id) FROM unnest(doomed) id;
	PERFORM @extschema@.step('forget its branches');
	IF doomed IS NOT NULL THEN
		PERFORM @extschema@.aside('SELECT @extschema@.drop_branch_rows($1::text[], $2::bigint)', doomed::text, @extschema@.current_operation()::text);
	END IF;
	PERFORM @extschema@.step('remove it from its nodes');
	PERFORM @extschema@.clean_leftover('timeline', id) FROM unnest(doomed) id;
	PERFORM @extschema@.forget_tenant(t.id);
END $$;
COMMENT ON FUNCTION drop_tenant(text) IS 'drop a tenant with all it has';

-- Of one tenant; NULL from an administrator: of all.
CREATE FUNCTION checkpoint(tenant_name text, is_admin bool) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	mine text := CASE WHEN NOT is_admin THEN substr(session_user, 8) END;
	id_found text := mine;
BEGIN
	IF tenant_name IS NOT NULL THEN
		SELECT id INTO id_found FROM @extschema@.tenants WHERE tenant_name IN (name, id) AND (is_admin OR id = mine);
		IF NOT FOUND THEN
			RAISE EXCEPTION 'tenant "%" does not exist', tenant_name USING ERRCODE = 'NE010', HINT = 'See neon_tenants for those there are.';
		END IF;
	END IF;
	PERFORM @extschema@.on_node(n.name, 'SELECT neon_pageserver.checkpoint($1)', id_found)
	FROM @extschema@.nodes n WHERE n.role = 'pageserver' AND EXISTS (
		SELECT FROM @extschema@.timelines l WHERE l.pageserver = n.name AND (id_found IS NULL OR l.tenant = id_found));
END $$;
COMMENT ON FUNCTION checkpoint(text, bool) IS 'have pageservers write down everything they have of a tenant, or of all';
