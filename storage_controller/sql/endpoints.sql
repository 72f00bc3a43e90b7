-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- endpoints

-- The endpoint's own server, as its administrator: over the socket that only this host's owner can open.
CREATE FUNCTION endpoint_admin(e endpoints) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT format('host=%s port=%s user=postgres dbname=postgres',
		@extschema@.on_node(e.compute, 'SELECT current_setting(''neon_compute_tools.base_directory'') AS dir') ->> 'dir', e.port);
$$;

CREATE FUNCTION endpoint_pid(e endpoints) RETURNS int LANGUAGE sql AS $$
	SELECT (@extschema@.on_node(e.compute, 'SELECT neon_compute_tools.process_pid($1) AS pid', e.directory) ->> 'pid')::int;
$$;

CREATE FUNCTION endpoint_uri(e endpoints) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT format('postgresql://postgres:%s@%s:%s/postgres', t.role_password, e.host, e.port)
	FROM @extschema@.tenants t WHERE t.id = e.tenant;
$$;

CREATE FUNCTION start_endpoint(tenant_id text, endpoint text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	t @extschema@.tenants := @extschema@.lock_tenant(tenant_id);
	e @extschema@.endpoints := @extschema@.find_endpoint(tenant_id, endpoint);
	tl @extschema@.timelines;
	ps @extschema@.nodes;
	c @extschema@.nodes;
	ctl @extschema@.nodes;
BEGIN
	IF @extschema@.endpoint_pid(e) IS NOT NULL THEN
		UPDATE @extschema@.endpoints SET wanted = 'running' WHERE tenant = e.tenant AND name = e.name;
		RETURN @extschema@.endpoint_uri(e);
	END IF;
	SELECT * INTO STRICT tl FROM @extschema@.timelines WHERE id = e.timeline;
	SELECT * INTO STRICT ps FROM @extschema@.nodes WHERE name = tl.pageserver;
	SELECT * INTO STRICT ctl FROM @extschema@.nodes WHERE role = 'controller' ORDER BY node_id LIMIT 1;
	PERFORM @extschema@.ensure_on_safekeepers(tl);
	-- a killed server leaves its pid file; the directory is made anew anyway
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.forget_dead_process($1)', e.directory);
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.start_compute($1)', jsonb_build_object(
		'name', e.directory, 'tenant', tl.tenant, 'timeline', tl.id, 'start_lsn', tl.start_lsn, 'system_id', tl.system_id,
		'wal_seg_size', tl.wal_seg_size, 'safekeepers', @extschema@.safekeepers_setting(tl),
		'pageserver', @extschema@.tenant_connstring(ps, t), 'controller', @extschema@.tenant_connstring(ctl, t),
		'host', e.host, 'port', e.port, 'settings', e.settings)::text);
	UPDATE @extschema@.endpoints SET wanted = 'running', started_at = clock_timestamp() WHERE tenant = e.tenant AND name = e.name;
	RETURN @extschema@.endpoint_uri(e);
END $$;
COMMENT ON FUNCTION start_endpoint(text, text) IS 'start an endpoint from nothing, if it does not run';

CREATE FUNCTION suspend_endpoint(tenant_id text, endpoint text, mode text = 'fast') RETURNS void LANGUAGE plpgsql AS $$
DECLARE e @extschema@.endpoints := @extschema@.find_endpoint(tenant_id, endpoint);
BEGIN
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.stop_process($1, $2)', e.directory, mode);
	UPDATE @extschema@.endpoints SET wanted = 'suspended' WHERE tenant = e.tenant AND name = e.name;
END $$;

CREATE FUNCTION create_endpoint(tenant_id text, endpoint text, branch text = NULL, settings jsonb = '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	tl @extschema@.timelines;
	c @extschema@.nodes;
	other text;
	new_port int;
BEGIN
	PERFORM @extschema@.check_name(endpoint, 'endpoint');
	PERFORM @extschema@.lock_tenant(tenant_id);
	tl := @extschema@.find_branch(tenant_id, coalesce(branch, endpoint));
	IF EXISTS (SELECT FROM @extschema@.endpoints e WHERE e.tenant = tenant_id AND e.name = endpoint) THEN
		RAISE EXCEPTION 'endpoint "%" already exists', endpoint USING ERRCODE = 'duplicate_object',
			HINT = 'Start it with neon_start_endpoint().';
	END IF;
	SELECT e.name INTO other FROM @extschema@.endpoints e WHERE e.timeline = tl.id;
	IF FOUND THEN
		RAISE EXCEPTION 'branch "%" already has the read-write endpoint "%"', coalesce(branch, endpoint), other
			USING ERRCODE = 'NE005', HINT = 'A branch has one writer at a time; create a branch for another one.';
	END IF;
	SELECT * INTO c FROM @extschema@.nodes WHERE role = 'compute' ORDER BY node_id LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'no compute host is registered' USING ERRCODE = 'NE006',
			HINT = 'Register one with neon_controller.register_node().';
	END IF;
	LOCK TABLE @extschema@.endpoints IN SHARE ROW EXCLUSIVE MODE;	-- ports are given out one at a time
	SELECT min(p) INTO new_port
	FROM generate_series(coalesce(nullif(current_setting('neon_controller.endpoint_port_base', true), ''), '55440')::int,
		65535) p
	WHERE NOT EXISTS (SELECT FROM @extschema@.endpoints e WHERE e.compute = c.name AND e.port = p);
	INSERT INTO @extschema@.endpoints (tenant, name, timeline, compute, directory, host, port, settings)
	VALUES (tenant_id, endpoint, tl.id, c.name, format('%s-%s', left(tenant_id, 8), endpoint), c.host, new_port, settings);
	RETURN @extschema@.start_endpoint(tenant_id, endpoint);
END $$;

CREATE FUNCTION drop_endpoint(tenant_id text, endpoint text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE e @extschema@.endpoints := @extschema@.find_endpoint(tenant_id, endpoint);
BEGIN
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.stop_process($1, $2)', e.directory, 'fast');
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.forget_dead_process($1)', e.directory);
	PERFORM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.drop_data_directory($1)', e.directory);
	DELETE FROM @extschema@.endpoints WHERE tenant = e.tenant AND name = e.name;
END $$;
