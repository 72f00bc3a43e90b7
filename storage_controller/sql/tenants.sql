-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- tenants

CREATE FUNCTION create_tenant(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	t @extschema@.tenants;
	e @extschema@.endpoints;
BEGIN
	PERFORM @extschema@.check_name(name, 'tenant');
	IF EXISTS (SELECT FROM @extschema@.tenants x WHERE x.name = create_tenant.name) THEN
		RAISE EXCEPTION 'tenant "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
	t.id := @extschema@.new_id();
	t.name := name;
	t.node_password := @extschema@.new_id();
	t.role_password := @extschema@.new_id();
	t.created_at := clock_timestamp();
	EXECUTE format('CREATE ROLE %I LOGIN PASSWORD %L IN ROLE neon_tenant', 'neon_t_' || t.id, t.node_password);
	INSERT INTO @extschema@.tenants SELECT t.*;
	PERFORM @extschema@.create_timeline(t, 'main', NULL, NULL);
	PERFORM @extschema@.create_endpoint(t.id, 'main');
	SELECT * INTO STRICT e FROM @extschema@.endpoints WHERE tenant = t.id;
	PERFORM @extschema@.remote(@extschema@.endpoint_admin(e), 'endpoint "main"',
		format('ALTER ROLE postgres PASSWORD %L', t.role_password));
	PERFORM @extschema@.remote(@extschema@.endpoint_admin(e), 'endpoint "main"', 'CREATE EXTENSION IF NOT EXISTS neon');
	RETURN t.id;
END $$;

CREATE FUNCTION drop_tenant(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	t @extschema@.tenants;
	b text;
	n @extschema@.nodes;
BEGIN
	SELECT * INTO t FROM @extschema@.tenants x WHERE x.name = drop_tenant.name FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'tenant "%" does not exist', name USING ERRCODE = 'NE010', HINT = 'See neon_tenants for those there are.';
	END IF;
	LOOP
		SELECT x.name INTO b FROM @extschema@.branches x JOIN @extschema@.timelines l ON l.id = x.timeline
		WHERE x.tenant = t.id AND NOT EXISTS (SELECT FROM @extschema@.timelines c WHERE c.ancestor = l.id) LIMIT 1;
		EXIT WHEN NOT FOUND;
		PERFORM @extschema@.drop_branch(t.id, b);
	END LOOP;
	FOR n IN SELECT * FROM @extschema@.nodes WHERE role IN ('pageserver', 'safekeeper') LOOP
		PERFORM @extschema@.on_node(n.name, format('SELECT neon_%s.drop_tenant($1)', n.role), t.id);
	END LOOP;
	DELETE FROM @extschema@.tenants WHERE id = t.id;
	EXECUTE format('DROP ROLE %I', 'neon_t_' || t.id);
END $$;

CREATE FUNCTION checkpoint(tenant_id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM @extschema@.on_node(n.name, 'SELECT neon_pageserver.checkpoint($1)', tenant_id)
	FROM @extschema@.nodes n WHERE n.role = 'pageserver';
END $$;
