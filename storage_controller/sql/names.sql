-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- names to rows

CREATE FUNCTION check_name(name text, what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF name IS NULL OR name !~ '^[a-z0-9][a-z0-9_-]{0,62}$' THEN
		RAISE EXCEPTION 'invalid % name "%"', what, name USING ERRCODE = 'invalid_name',
			HINT = 'Names have up to 63 lower-case letters, digits, "_" and "-", and begin with a letter or digit.';
	END IF;
END $$;
COMMENT ON FUNCTION check_name(text, text) IS 'refuse what cannot be a name';

-- Outside the cluster an endpoint is "<name>-<8 digits of its tenant>" (endpoint_id), which is a DNS label and so has at most 63 characters.
CREATE FUNCTION check_endpoint_name(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM @extschema@.check_name(name, 'endpoint');
	IF length(name) > 54 THEN
		RAISE EXCEPTION 'endpoint name "%" is too long', name USING ERRCODE = 'name_too_long',
			DETAIL = format('It has %s characters, and 54 are possible: clients reach the endpoint under its name and 9 more characters, as a label of a host name.', length(name)),
			HINT = 'Give it a shorter name; its branch may have a longer one: neon_create_endpoint(''short'', branch => ''long'').';
	END IF;
END $$;
COMMENT ON FUNCTION check_endpoint_name(text) IS 'refuse a name of an endpoint that would be no DNS label with its tenant';

CREATE FUNCTION find_branch(tenant_id text, branch text) RETURNS timelines LANGUAGE plpgsql STABLE AS $$
DECLARE tl @extschema@.timelines;
BEGIN
	SELECT l.* INTO tl FROM @extschema@.branches b JOIN @extschema@.timelines l ON l.id = b.timeline
	WHERE b.tenant = tenant_id AND b.name = branch;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'branch "%" does not exist', branch USING ERRCODE = 'NE003', HINT = 'See neon_branches for those there are.';
	END IF;
	RETURN tl;
END $$;
COMMENT ON FUNCTION find_branch(text, text) IS 'the timeline of a branch, or an error';

CREATE FUNCTION find_endpoint(tenant_id text, endpoint text) RETURNS endpoints LANGUAGE plpgsql AS $$
DECLARE e @extschema@.endpoints;
BEGIN
	SELECT * INTO e FROM @extschema@.endpoints WHERE tenant = tenant_id AND name = endpoint FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'endpoint "%" does not exist', endpoint USING ERRCODE = 'NE004', HINT = 'See neon_endpoints for those there are.';
	END IF;
	RETURN e;
END $$;
COMMENT ON FUNCTION find_endpoint(text, text) IS 'the endpoint of that name, its row locked, or an error';

-- A row of NULLs when it has none.
CREATE FUNCTION writer_of(timeline_id text) RETURNS endpoints LANGUAGE sql STABLE AS $$
	SELECT * FROM @extschema@.endpoints e WHERE e.timeline = timeline_id AND e.mode = 'read-write';
$$;
COMMENT ON FUNCTION writer_of(text) IS 'the read-write endpoint of a timeline';

CREATE FUNCTION lock_tenant(tenant_id text) RETURNS tenants LANGUAGE sql AS $$
	SELECT * FROM @extschema@.tenants WHERE id = tenant_id FOR NO KEY UPDATE;
$$;
COMMENT ON FUNCTION lock_tenant(text) IS 'until the end of the transaction nobody else changes this tenant; its row';

CREATE FUNCTION new_id() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT replace(gen_random_uuid()::text, '-', '') $$;
COMMENT ON FUNCTION new_id() IS 'a new id of a tenant or timeline';
