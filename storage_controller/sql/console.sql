-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- the console page, and logins that it confirms
--
-- The proxy serves the page and passes each call on to console(session, fn, args), as role neon_proxy: it has no power of its own, what a
-- call may do comes from its session.  Secrets are random, and only their hashes are kept.
--
-- A token is for one login and made by someone who has a credential here; a login makes a session.  A tenant's token sees and
-- changes that tenant only, an administrator's all of them.

CREATE TABLE console_secrets (
	hash bytea PRIMARY KEY,
	kind text NOT NULL CHECK (kind IN ('token', 'session')),
	tenant text REFERENCES tenants ON DELETE CASCADE,		-- NULL: all of them
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	expires_at timestamptz NOT NULL
);
COMMENT ON TABLE console_secrets IS 'tokens and sessions of the console page';

-- Somebody waits at a terminal until a login is confirmed on the page.
CREATE TABLE console_logins (
	hash bytea PRIMARY KEY,
	code text NOT NULL UNIQUE,
	address text NOT NULL,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	expires_at timestamptz NOT NULL,
	answer jsonb			-- NULL: not confirmed
);
COMMENT ON TABLE console_logins IS 'connections without a password that wait until they are confirmed on the console page';

-- What running endpoints said of their size, so that a page that is looked at often does not ask them often.
CREATE TABLE console_sizes (
	timeline text PRIMARY KEY REFERENCES timelines ON DELETE CASCADE,
	logical_bytes bigint NOT NULL,
	seen_at timestamptz NOT NULL
);

CREATE FUNCTION console_hash(secret text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT sha256(convert_to(secret, 'UTF8')) $$;
COMMENT ON FUNCTION console_hash(text) IS 'what is kept of a secret of the console';

CREATE FUNCTION console_random() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT @extschema@.new_id() || @extschema@.new_id() $$;
COMMENT ON FUNCTION console_random() IS 'a secret for the console';

CREATE FUNCTION console_keep(kind text, tenant_id text, valid interval) RETURNS text LANGUAGE plpgsql AS $$
DECLARE secret text := @extschema@.console_random();
BEGIN
	DELETE FROM @extschema@.console_secrets WHERE expires_at < clock_timestamp();
	IF (SELECT count(*) FROM @extschema@.console_secrets s WHERE s.kind = console_keep.kind AND s.tenant IS NOT DISTINCT FROM tenant_id) >= 1000 THEN
		RAISE EXCEPTION 'there are too many %s of the console', kind USING ERRCODE = 'program_limit_exceeded',
			DETAIL = 'A tenant can have 1000, and so can administrators.', HINT = 'Use one that there is, or wait until one has expired.';
	END IF;
	INSERT INTO @extschema@.console_secrets VALUES (@extschema@.console_hash(secret), kind, tenant_id, DEFAULT, clock_timestamp() + valid);
	RETURN secret;
END $$;
COMMENT ON FUNCTION console_keep(text, text, interval) IS 'make a secret of the console that is good for a tenant and a time';

CREATE FUNCTION console_token(tenant text = NULL, valid interval = '1 hour') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	is_admin bool := (SELECT rolsuper FROM pg_roles WHERE rolname = session_user);
	t text := CASE WHEN session_user LIKE 'neon\_t\_%' THEN substr(session_user, 8) END;
BEGIN
	IF NOT is_admin AND (t IS NULL OR console_token.tenant NOT IN (t, (SELECT name FROM @extschema@.tenants x WHERE x.id = t))) THEN
		RAISE EXCEPTION 'permission denied to log in to the console' USING ERRCODE = 'insufficient_privilege',
			HINT = 'Use the credential of the tenant, or of an administrator.';
	END IF;
	IF valid <= interval '0' OR valid > interval '30 days' THEN
		RAISE EXCEPTION 'a token must be valid for some time, at most 30 days' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'A token is used up by its login; an hour is enough.';
	END IF;
	IF is_admin AND tenant IS NOT NULL THEN
		SELECT x.id INTO t FROM @extschema@.tenants x WHERE x.name = console_token.tenant OR x.id = console_token.tenant;
		IF NOT FOUND THEN
			RAISE EXCEPTION 'tenant "%" does not exist', tenant USING ERRCODE = 'NE010', HINT = 'See neon_tenants for those there are.';
		END IF;
	END IF;
	RETURN @extschema@.console_keep('token', t, valid);
END $$;
COMMENT ON FUNCTION console_token(text, interval) IS
	'a secret for one login to the console page: of the caller''s tenant, of one tenant, or (administrators) of all';

CREATE FUNCTION console_login(token text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE s @extschema@.console_secrets;
BEGIN
	DELETE FROM @extschema@.console_secrets WHERE hash = @extschema@.console_hash(token) AND kind = 'token' AND expires_at > clock_timestamp()
	RETURNING * INTO s;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'the token is not valid' USING ERRCODE = 'invalid_authorization_specification',
			HINT = 'Tokens are for one login and end after a while: SELECT neon_controller.console_token(); on the controller.';
	END IF;
	RETURN @extschema@.console_keep('session', s.tenant, '12 hours');
END $$;
COMMENT ON FUNCTION console_login(text) IS 'a session of the console page for a token, which is used up';

-- ---------------------------------------------------------------- what the page shows

CREATE FUNCTION console_overview(only_tenant text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object(
		'now', clock_timestamp(),
		'admin', only_tenant IS NULL,
		'tenants', (SELECT coalesce(jsonb_agg(t), '[]') FROM jsonb_array_elements(@extschema@.api('tenants', '{}')) t
			WHERE only_tenant IS NULL OR t ->> 'id' = only_tenant),
		'branches', (SELECT coalesce(jsonb_agg(b), '[]') FROM jsonb_array_elements(@extschema@.api('branches', '{}')) b
			WHERE only_tenant IS NULL OR b ->> 'tenant' = only_tenant),
		'endpoints', (SELECT coalesce(jsonb_agg((e - 'data_directory' - 'pid')
				|| jsonb_build_object('id', format('%s-%s', e ->> 'name', left(e ->> 'tenant', 8)))), '[]')
			FROM jsonb_array_elements(@extschema@.api('endpoints', jsonb_build_object('tenant', only_tenant))) e
			WHERE only_tenant IS NULL OR e ->> 'tenant' = only_tenant));
$$;
COMMENT ON FUNCTION console_overview(text) IS 'what the console page shows: tenants, branches, endpoints; of one tenant, or of all';

-- Size of the databases of a running endpoint.  NULL: it does not run, or does not say.
CREATE FUNCTION console_ask_size(tl timelines) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	e @extschema@.endpoints;
BEGIN
	e := @extschema@.writer_of(tl.id);
	IF e.name IS NOT NULL AND @extschema@.endpoint_pid(e) IS NOT NULL THEN
		RETURN (SELECT (r ->> 'size')::bigint FROM @extschema@.on_endpoint(e, 'template1',		-- where it keeps nobody awake
			'SELECT sum(pg_database_size(oid))::bigint AS size FROM pg_database WHERE datallowconn') r);
	END IF;
	RETURN NULL;
EXCEPTION WHEN connection_exception OR sqlclient_unable_to_establish_sqlconnection OR connection_failure
		OR cannot_connect_now OR admin_shutdown OR crash_shutdown THEN
	RETURN NULL;				-- it went to sleep meanwhile: what it said the last time
END $$;
COMMENT ON FUNCTION console_ask_size(timelines) IS 'size of the databases of a running endpoint; NULL when it does not run, or does not say';

-- Those that were not asked within the last minute.  All are asked before anything is written: a row that is written here holds its timeline's
-- row (foreign key), and whoever drops a branch would wait for an endpoint that does not answer.  In one order, so that two pages do not wait for each other.
CREATE FUNCTION console_refresh_sizes(only_tenant text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	tl @extschema@.timelines;
	sizes jsonb := '{}';
BEGIN
	FOR tl IN SELECT l.* FROM @extschema@.branches b JOIN @extschema@.timelines l ON l.id = b.timeline
			WHERE (only_tenant IS NULL OR b.tenant = only_tenant) AND NOT EXISTS (SELECT FROM @extschema@.console_sizes s
				WHERE s.timeline = l.id AND s.seen_at > clock_timestamp() - interval '1 minute') ORDER BY l.id LOOP
		sizes := sizes || jsonb_build_object(tl.id, @extschema@.console_ask_size(tl));
	END LOOP;
	INSERT INTO @extschema@.console_sizes
	SELECT l.id, (sizes ->> l.id)::bigint, clock_timestamp()
	FROM (SELECT x.id FROM @extschema@.timelines x WHERE sizes ->> x.id IS NOT NULL ORDER BY x.id FOR KEY SHARE SKIP LOCKED) l
	ON CONFLICT (timeline) DO UPDATE SET logical_bytes = excluded.logical_bytes, seen_at = excluded.seen_at;
END $$;
COMMENT ON FUNCTION console_refresh_sizes(text) IS 'ask running endpoints for the sizes that the console shows';

CREATE FUNCTION console_storage(only_tenant text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	n @extschema@.nodes;
	parts jsonb := '[]';
	away jsonb := '[]';
BEGIN
	FOR n IN SELECT * FROM @extschema@.nodes WHERE role = 'pageserver' ORDER BY node_id LOOP
		BEGIN
			parts := parts || coalesce((SELECT jsonb_agg(r) FROM @extschema@.on_node(n.name,
				'SELECT t.timeline, t.last_record_lsn, coalesce(t.open_bytes, 0) AS open_bytes, count(l.file) AS layers,
					coalesce(sum(l.file_bytes) FILTER (WHERE l.kind = ''delta''), 0)::int8 AS delta_bytes,
					coalesce(sum(l.file_bytes) FILTER (WHERE l.kind = ''image''), 0)::int8 AS image_bytes
				FROM neon_pageserver.timelines t LEFT JOIN neon_pageserver.layers l USING (tenant, timeline)
				WHERE $1 = '''' OR t.tenant = $1 GROUP BY 1, 2, 3', coalesce(only_tenant, '')) r), '[]');
		EXCEPTION WHEN connection_exception OR sqlclient_unable_to_establish_sqlconnection OR connection_failure
				OR cannot_connect_now OR admin_shutdown OR crash_shutdown THEN
			away := away || to_jsonb(n.name);
		END;
	END LOOP;
	PERFORM @extschema@.console_refresh_sizes(only_tenant);
	RETURN jsonb_build_object('away', away, 'branches', (
		SELECT coalesce(jsonb_agg(jsonb_build_object('tenant', b.tenant, 'name', b.name, 'timeline_id', l.id,
			'logical_bytes', s.logical_bytes, 'layers', p -> 'layers', 'delta_bytes', p -> 'delta_bytes',
			'image_bytes', p -> 'image_bytes', 'open_bytes', p -> 'open_bytes', 'last_record_lsn', p -> 'last_record_lsn')), '[]')
		FROM @extschema@.branches b JOIN @extschema@.timelines l ON l.id = b.timeline
		LEFT JOIN @extschema@.console_sizes s ON s.timeline = l.id
		LEFT JOIN jsonb_array_elements(parts) p ON p ->> 'timeline' = l.id
		WHERE only_tenant IS NULL OR b.tenant = only_tenant));
END $$;
COMMENT ON FUNCTION console_storage(text) IS 'bytes by branch: what its databases hold now, and the layers that hold its history';

-- ---------------------------------------------------------------- logins that the page confirms

CREATE FUNCTION console_login_create(address text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	id text := @extschema@.console_random();
	code text := upper(substr(@extschema@.new_id(), 1, 4) || '-' || substr(@extschema@.new_id(), 1, 4) || '-' || substr(@extschema@.new_id(), 1, 4));
BEGIN
	DELETE FROM @extschema@.console_logins WHERE expires_at < clock_timestamp();
	IF (SELECT count(*) FROM @extschema@.console_logins) >= 10000 THEN
		RAISE EXCEPTION 'too many logins wait to be confirmed' USING ERRCODE = 'too_many_connections', HINT = 'Try again in two minutes.';
	END IF;
	INSERT INTO @extschema@.console_logins VALUES (@extschema@.console_hash(id), code, address, DEFAULT, clock_timestamp() + interval '2 minutes');
	RETURN jsonb_build_object('id', id, 'code', code);
END $$;
COMMENT ON FUNCTION console_login_create(text) IS 'a client without a password waits: a secret to ask with, and a code for the page';

CREATE FUNCTION console_login_poll(id text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE l @extschema@.console_logins;
BEGIN
	DELETE FROM @extschema@.console_logins x WHERE x.hash = @extschema@.console_hash(id) AND (x.answer IS NOT NULL OR x.expires_at < clock_timestamp())
	RETURNING * INTO l;
	IF NOT FOUND THEN
		IF EXISTS (SELECT FROM @extschema@.console_logins x WHERE x.hash = @extschema@.console_hash(id)) THEN
			RETURN NULL;		-- still waiting
		END IF;
	ELSIF l.answer IS NOT NULL AND l.expires_at >= clock_timestamp() THEN
		RETURN l.answer;
	END IF;
	RAISE EXCEPTION 'the login was not confirmed in time' USING ERRCODE = 'invalid_authorization_specification',
		HINT = 'Connect again, and confirm within two minutes.';
END $$;
COMMENT ON FUNCTION console_login_poll(text) IS
	'{endpoint, user, password, database} once a login is confirmed, NULL while it is not; an answer is given once';

CREATE FUNCTION console_login_look(code_given text) RETURNS console_logins LANGUAGE plpgsql AS $$
DECLARE l @extschema@.console_logins;
BEGIN
	SELECT * INTO l FROM @extschema@.console_logins WHERE code = upper(code_given) AND expires_at > clock_timestamp() AND answer IS NULL FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'no connection waits with the code "%"', code_given USING ERRCODE = 'no_data_found', HINT = 'Connect again: a code is good for two minutes.';
	END IF;
	RETURN l;
END $$;
COMMENT ON FUNCTION console_login_look(text) IS 'the login that waits under a code, or an error';

-- The endpoint's role postgres: whoever may confirm could copy its connection string from the page as well.
CREATE FUNCTION console_login_confirm(only_tenant text, code_given text, endpoint_id text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	l @extschema@.console_logins := @extschema@.console_login_look(code_given);
	found_there jsonb;
BEGIN
	SELECT jsonb_build_object('endpoint', endpoint_id, 'user', 'postgres', 'password', t.role_password, 'database', 'postgres') INTO found_there
	FROM @extschema@.endpoint_by_id(endpoint_id) e JOIN @extschema@.tenants t ON t.id = e.tenant
	WHERE only_tenant IS NULL OR e.tenant = only_tenant;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'endpoint "%" does not exist', endpoint_id USING ERRCODE = 'NE004', HINT = 'See neon_endpoints for those there are.';
	END IF;
	UPDATE @extschema@.console_logins x SET answer = found_there WHERE x.hash = l.hash;
END $$;
COMMENT ON FUNCTION console_login_confirm(text, text, text) IS 'let the login that waits under a code into an endpoint';

-- ---------------------------------------------------------------- the one door

-- What a session may do, done by the same functions that SQL calls.
CREATE FUNCTION console_call(only_tenant text, fn text, args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	t text := args ->> 'tenant';
	l @extschema@.console_logins;
BEGIN
	CASE fn
		WHEN 'overview' THEN RETURN @extschema@.console_overview(only_tenant);
		WHEN 'storage' THEN RETURN @extschema@.console_storage(only_tenant);
		WHEN 'waiting_login' THEN
			l := @extschema@.console_login_look(args ->> 'code');
			RETURN jsonb_build_object('code', l.code, 'address', l.address, 'created_at', l.created_at);
		WHEN 'confirm_login' THEN
			PERFORM @extschema@.console_login_confirm(only_tenant, args ->> 'code', args ->> 'endpoint');
			RETURN 'true';
		ELSE NULL;
	END CASE;
	IF fn NOT IN ('create_branch', 'create_endpoint', 'start_endpoint', 'suspend_endpoint', 'connection_uri') THEN
		RAISE EXCEPTION 'the console has no function "%"', fn USING ERRCODE = 'undefined_function';
	END IF;
	IF NOT EXISTS (SELECT FROM @extschema@.tenants x WHERE x.id = t AND (only_tenant IS NULL OR x.id = only_tenant)) THEN
		RAISE EXCEPTION 'tenant "%" does not exist', t USING ERRCODE = 'NE010', HINT = 'See neon_tenants for those there are.';
	END IF;
	IF fn = 'create_branch' AND args ->> 'parent' IS NULL THEN
		RAISE EXCEPTION 'the parent of the new branch is not named' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM set_config('neon.tenant', t, true);
	RETURN @extschema@.api(fn, args || CASE fn WHEN 'create_endpoint' THEN '{"mode": "read-write"}'::jsonb ELSE '{}' END);
END $$;
COMMENT ON FUNCTION console_call(text, text, jsonb) IS 'call for a session of the console what SQL would call';

CREATE FUNCTION console(session text, fn text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE s @extschema@.console_secrets;
BEGIN
	SELECT * INTO s FROM @extschema@.console_secrets
	WHERE hash = @extschema@.console_hash(session) AND kind = 'session' AND expires_at > clock_timestamp();
	IF NOT FOUND THEN
		RAISE EXCEPTION 'not logged in' USING ERRCODE = 'invalid_authorization_specification', HINT = 'Log in to the console.';
	END IF;
	IF fn = 'logout' THEN
		DELETE FROM @extschema@.console_secrets WHERE hash = s.hash;
		RETURN 'true';
	END IF;
	RETURN @extschema@.console_call(s.tenant, fn, args);
END $$;
COMMENT ON FUNCTION console(text, text, jsonb) IS 'what the console page calls, through the proxy: a function and its arguments, as the session may';

GRANT EXECUTE ON FUNCTION console_login(text), console(text, text, jsonb), console_login_create(text), console_login_poll(text) TO neon_proxy;
