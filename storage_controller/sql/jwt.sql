-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- logins with JSON web tokens
--
-- A token's signature is checked by the proxy, with keys that its issuer publishes (JWKS).  A session that logs in so is the role itself, with
-- nothing to escape from: the role has a random password that only the controller knows and hands to the proxy, which logs
-- in with it as any client does.  Hence a role for tokens has no password of its own, is made by allow_jwt_role(), and may
-- not be one that could become another: superusers and the like are refused.

CREATE TABLE jwks (
	tenant text NOT NULL REFERENCES tenants ON DELETE CASCADE,
	name text NOT NULL,
	url text NOT NULL CHECK (url ~ '^https?://[^\s]+$' AND length(url) < 500),
	issuer text,			-- of claim iss; NULL: any
	audience text,			-- one of claim aud; NULL: any
	claim text NOT NULL DEFAULT 'role',	-- a token that has this claim is for that role only
	roles text[] NOT NULL CHECK (cardinality(roles) BETWEEN 1 AND 100),
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (tenant, name)
);
COMMENT ON TABLE jwks IS 'who may sign tokens for which roles of a tenant; see add_jwks()';

CREATE TABLE jwt_roles (
	tenant text NOT NULL REFERENCES tenants ON DELETE CASCADE,
	role text NOT NULL,
	password text NOT NULL,
	PRIMARY KEY (tenant, role)
);
COMMENT ON TABLE jwt_roles IS 'roles that tokens log in to, and the passwords that only proxies are told; the same in all branches';

SELECT pg_catalog.pg_extension_config_dump('jwks', '');
SELECT pg_catalog.pg_extension_config_dump('jwt_roles', '');

CREATE FUNCTION jwt_tenant(tenant text) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE t text;
BEGIN
	SELECT x.id INTO t FROM @extschema@.tenants x WHERE x.name = jwt_tenant.tenant OR x.id = jwt_tenant.tenant;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'tenant "%" does not exist', tenant USING ERRCODE = 'NE010', HINT = 'See neon_tenants for those there are.';
	END IF;
	RETURN t;
END $$;
COMMENT ON FUNCTION jwt_tenant(text) IS 'the id of a tenant for which tokens are allowed, or an error';

CREATE FUNCTION add_jwks(tenant text, name text, url text, roles text[], issuer text = NULL, audience text = NULL, claim text = 'role') RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO @extschema@.jwks VALUES (@extschema@.jwt_tenant(tenant), name, url, issuer, audience, claim, roles);
END $$;
COMMENT ON FUNCTION add_jwks(text, text, text, text[], text, text, text) IS
	'let an issuer''s tokens log in to roles of a tenant: its keys are at the URL; issuer and audience must match when they are given';

CREATE FUNCTION drop_jwks(tenant text, name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM @extschema@.jwks j WHERE j.tenant = @extschema@.jwt_tenant(drop_jwks.tenant) AND j.name = drop_jwks.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'tenant "%" has no JWKS "%"', tenant, name USING ERRCODE = 'undefined_object', HINT = 'See neon_controller.jwks.';
	END IF;
END $$;
COMMENT ON FUNCTION drop_jwks(text, text) IS 'an issuer''s tokens are good for nothing any more';

-- On the endpoint: the role is made, or is a harmless one.
CREATE FUNCTION allow_jwt_role(tenant text, role text, branch text = 'main') RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	t text := @extschema@.jwt_tenant(tenant);
	tl @extschema@.timelines := @extschema@.find_branch(t, branch);
	e @extschema@.endpoints;
	secret text;
	there jsonb;
BEGIN
	e := @extschema@.writer_of(tl.id);
	IF e.name IS NULL OR @extschema@.endpoint_pid(e) IS NULL THEN
		RAISE EXCEPTION 'branch "%" has no running endpoint', branch USING ERRCODE = 'NE004',
			HINT = 'Create or start one: the role is made in the branch''s databases.';
	END IF;
	SELECT r INTO there FROM @extschema@.on_endpoint(e, 'postgres',
		'SELECT EXISTS (SELECT FROM pg_authid s WHERE pg_has_role(r.oid, s.oid, ''MEMBER'') AND (s.rolsuper OR s.rolcreaterole OR s.rolcreatedb
			OR s.rolreplication OR s.rolbypassrls OR s.rolname IN (''pg_execute_server_program'', ''pg_read_server_files'', ''pg_write_server_files''))) AS strong,
			r.rolpassword IS NOT NULL AS has_password FROM pg_authid r WHERE r.rolname = $1', role) r;
	IF (there ->> 'strong')::bool THEN
		RAISE EXCEPTION 'role "%" is too powerful to log in with a token', role USING ERRCODE = 'insufficient_privilege',
			HINT = 'Make a role without attributes, and grant it what it needs.';
	END IF;
	SELECT password INTO secret FROM @extschema@.jwt_roles j WHERE j.tenant = t AND j.role = allow_jwt_role.role;
	IF secret IS NULL THEN
		IF (there ->> 'has_password')::bool THEN
			RAISE EXCEPTION 'role "%" has a password', role USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'A role for tokens has none of its own: ALTER ROLE ... PASSWORD NULL, or choose another one.';
		END IF;
		secret := @extschema@.console_random();
		INSERT INTO @extschema@.jwt_roles VALUES (t, role, secret);
	END IF;
	PERFORM @extschema@.on_endpoint(e, 'postgres', format('%s ROLE %I LOGIN PASSWORD %L', CASE WHEN there IS NULL THEN 'CREATE' ELSE 'ALTER' END, role, secret));
END $$;
COMMENT ON FUNCTION allow_jwt_role(text, text, text) IS
	'make a role of a branch one that tokens log in to (add_jwks names the issuers); branches made from it later have it too';

-- For the proxy: who may sign for this role of this endpoint's tenant, and how to log in to it.  NULL: tokens are not for it.
CREATE FUNCTION proxy_jwt(id text, role text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_build_object('password', r.password, 'issuers',
		jsonb_agg(jsonb_build_object('url', j.url, 'issuer', j.issuer, 'audience', j.audience, 'claim', j.claim)))
	FROM @extschema@.endpoint_by_id(proxy_jwt.id) e JOIN @extschema@.jwt_roles r ON r.tenant = e.tenant AND r.role = proxy_jwt.role
	JOIN @extschema@.jwks j ON j.tenant = e.tenant AND proxy_jwt.role = ANY (j.roles)
	GROUP BY r.password;
$$;
COMMENT ON FUNCTION proxy_jwt(text, text) IS 'for proxies: issuers of tokens for a role, and its password';

GRANT EXECUTE ON FUNCTION proxy_jwt(text, text) TO neon_proxy;
