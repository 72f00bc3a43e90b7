-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- endpoints that crash, and endpoints that nobody uses
--
-- The watcher of each compute host reports what its computes do (watch_report), and carries out what the answer says (watch_action),
-- each in a transaction of its own.  What is to be done is decided again there, under the endpoint's lock: between the report and the lock
-- somebody may have started, stopped or used it.

ALTER TABLE endpoints
	ADD COLUMN suspend_timeout interval,	-- without activity; 0 is never; null is the cluster's
	ADD COLUMN active_at timestamptz,		-- when it was last seen busy
	ADD COLUMN activity text,				-- with what, null when it is idle
	ADD COLUMN crashes int NOT NULL DEFAULT 0,	-- in a row, without staying up in between
	ADD COLUMN restart_after timestamptz,	-- not before this
	ADD COLUMN problem text;				-- why the last start by itself has failed

-- pg_authid's verifiers, so that clients can be authenticated while the endpoint sleeps.  They are there from its suspension until
-- its next start, so they are never older than what the endpoint itself would say.  Not dumped, for the same reason.
CREATE TABLE role_secrets (
	timeline text NOT NULL REFERENCES timelines ON DELETE CASCADE,
	lsn pg_lsn NOT NULL DEFAULT '0/0',	-- of a static endpoint
	role text NOT NULL,
	secret text NOT NULL,
	valid_until timestamptz,
	PRIMARY KEY (timeline, lsn, role)
);
COMMENT ON TABLE role_secrets IS 'password verifiers of the roles of a timeline whose endpoint is suspended; those as of an LSN for its static endpoints';

CREATE FUNCTION role_secrets_of(e endpoints) RETURNS SETOF role_secrets LANGUAGE sql STABLE AS $$
	SELECT * FROM @extschema@.role_secrets s WHERE s.timeline = e.timeline AND s.lsn = coalesce(e.lsn, '0/0');
$$;
COMMENT ON FUNCTION role_secrets_of(endpoints) IS 'the password verifiers that are kept for an endpoint';

CREATE FUNCTION forget_role_secrets(e endpoints) RETURNS void LANGUAGE sql AS $$
	DELETE FROM @extschema@.role_secrets s WHERE s.timeline = e.timeline AND s.lsn = coalesce(e.lsn, '0/0');
$$;
COMMENT ON FUNCTION forget_role_secrets(endpoints) IS 'keep no password verifiers for an endpoint any more';

-- There is a limit, as what is in there is up to the tenant: beyond it none is kept, and whoever logs in while the endpoint sleeps wakes it.
CREATE FUNCTION refresh_role_secrets(e endpoints) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	secrets jsonb;
	n int;
	longest int;
BEGIN
	IF e.mode = 'replica' THEN
		RETURN;		-- it may be behind, and the writer's are kept under the same name
	END IF;
	SELECT coalesce(jsonb_agg(r), '[]') INTO secrets FROM @extschema@.on_endpoint(e, 'postgres',
		'SELECT rolname AS role, pg_catalog.left(rolpassword, 1001) AS secret, rolvaliduntil AS valid_until FROM pg_catalog.pg_authid
		WHERE rolcanlogin AND rolpassword IS NOT NULL LIMIT 1001') r;
	SELECT count(*), max(greatest(octet_length(x.role), octet_length(x.secret))) INTO n, longest FROM jsonb_to_recordset(secrets) AS x (role text, secret text);
	IF n > 1000 OR longest > 1000 THEN
		RAISE EXCEPTION 'the password verifiers of endpoint "%" are not kept', e.name USING ERRCODE = 'program_limit_exceeded',
			DETAIL = 'It has more than 1000 roles with a password, or a verifier of more than 1000 bytes.',
			HINT = 'Clients that log in while it sleeps wake it.  Drop roles that nobody needs, or their passwords.';
	END IF;
	PERFORM @extschema@.forget_role_secrets(e);
	INSERT INTO @extschema@.role_secrets SELECT e.timeline, coalesce(e.lsn, '0/0'), x.role, x.secret, x.valid_until
	FROM jsonb_to_recordset(secrets) AS x (role text, secret text, valid_until timestamptz);
END $$;
COMMENT ON FUNCTION refresh_role_secrets(endpoints) IS 'copy the password verifiers of a running endpoint''s roles';

-- Setting neon_controller.suspend_timeout; without it nothing sleeps by itself.
CREATE FUNCTION default_suspend_timeout() RETURNS interval LANGUAGE sql STABLE AS $$
	SELECT coalesce(nullif(current_setting('neon_controller.suspend_timeout', true), ''), '0')::interval;
$$;
COMMENT ON FUNCTION default_suspend_timeout() IS 'after which time without activity endpoints are suspended that have no setting of their own';

-- A watcher of another host logs in as neon_compute, and may call these three functions and nothing else.
DO $$ BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'neon_compute') THEN
		CREATE ROLE neon_compute LOGIN;		-- without a password nobody logs in over the network
	END IF;
END $$;
GRANT USAGE ON SCHEMA @extschema@ TO neon_compute;

CREATE FUNCTION watch_list(node text) RETURNS jsonb LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_object_agg(e.directory, e.provider) FROM @extschema@.endpoints e WHERE e.compute = node;
$$;
COMMENT ON FUNCTION watch_list(text) IS 'what a host''s watcher is to look at: computes and their providers; NULL when it has none';

-- One line an action: "restart|suspend|stop <tenant> <endpoint>".
CREATE FUNCTION watch_report(node text, seen text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	e @extschema@.endpoints;
	report jsonb := seen;
	s jsonb;
	what text;
	stays bool;
	restarts text;			-- these first: stops that take long must not take all places for actions
	others text;
BEGIN
	FOR e IN SELECT * FROM @extschema@.endpoints x WHERE x.compute = node LOOP
		s := coalesce(report -> e.directory, '{"state": "unknown"}');
		what := @extschema@.what_to_do(e, s);
		stays := e.crashes > 0 AND e.started_at < clock_timestamp() - interval '1 min';
		CONTINUE WHEN what IS NULL AND (s ->> 'state' <> 'running'
			OR (e.active_at, e.activity, stays) IS NOT DISTINCT FROM ((s ->> 'active_at')::timestamptz, s ->> 'activity', false));
		-- somebody is at it: the next report
		CONTINUE WHEN NOT pg_try_advisory_xact_lock(@extschema@.endpoint_key(e.tenant, e.name));
		IF s ->> 'state' = 'running' THEN
			UPDATE @extschema@.endpoints x SET active_at = (s ->> 'active_at')::timestamptz, activity = s ->> 'activity',
				crashes = CASE WHEN stays THEN 0 ELSE x.crashes END
			WHERE x.tenant = e.tenant AND x.name = e.name;
		END IF;
		IF what = 'restart' THEN
			restarts := concat_ws(E'\n', restarts, format('%s %s %s', what, e.tenant, e.name));
		ELSIF what IS NOT NULL THEN
			others := concat_ws(E'\n', others, format('%s %s %s', what, e.tenant, e.name));
		END IF;
	END LOOP;
	RETURN nullif(concat_ws(E'\n', restarts, others), '');
END $$;
COMMENT ON FUNCTION watch_report(text, text) IS 'what a host''s watcher has seen; the answer says what it is to do';

CREATE FUNCTION is_idle(e endpoints, sample jsonb) RETURNS bool LANGUAGE sql VOLATILE AS $$
	SELECT sample ->> 'state' = 'running' AND t > '0' AND sample ->> 'activity' IS NULL
		AND clock_timestamp() - greatest((sample ->> 'active_at')::timestamptz, e.started_at) > t
	FROM coalesce(e.suspend_timeout, @extschema@.default_suspend_timeout()) t;
$$;
COMMENT ON FUNCTION is_idle(endpoints, jsonb) IS 'an endpoint that has done nothing for its suspend_timeout';

-- Ten times in a row, after 1, 2, 4, ... 60 s; then somebody has to look.
CREATE FUNCTION wants_restart(e endpoints, sample jsonb) RETURNS bool LANGUAGE sql VOLATILE AS $$
	SELECT e.wanted = 'running' AND sample ->> 'state' IN ('crashed', 'absent') AND e.crashes < 10
		AND coalesce(@extschema@.is_due(e.restart_after), true);
$$;
COMMENT ON FUNCTION wants_restart(endpoints, jsonb) IS 'an endpoint that has crashed and whose next try is due';

-- One that runs and should not: a start, or a stop, that was not finished.
CREATE FUNCTION what_to_do(e endpoints, sample jsonb) RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT CASE WHEN @extschema@.wants_restart(e, sample) THEN 'restart'
		WHEN sample ->> 'state' = 'running' AND e.wanted = 'suspended' THEN 'stop'
		WHEN e.wanted = 'running' AND @extschema@.is_idle(e, sample) THEN 'suspend' END;
$$;
COMMENT ON FUNCTION what_to_do(endpoints, jsonb) IS 'what is to be done with an endpoint after a look at its server: suspend, start, stop, or NULL';

-- Somebody who holds an endpoint for long does not hold one of the few places for actions as well.
CREATE FUNCTION watch_action(what text, tenant_id text, endpoint text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s' AS $$
DECLARE
	e @extschema@.endpoints;
	s jsonb;
	why text;
BEGIN
	IF what = 'restart' THEN
		PERFORM @extschema@.start_lock(tenant_id, endpoint);
	ELSE
		PERFORM @extschema@.endpoint_lock(tenant_id, endpoint);
	END IF;
	PERFORM set_config('lock_timeout', '0', true);		-- what else a start may wait for is no crash
	SELECT * INTO e FROM @extschema@.endpoints x WHERE x.tenant = tenant_id AND x.name = endpoint FOR UPDATE;
	IF NOT FOUND THEN
		RETURN 'gone';
	END IF;
	SELECT r -> 's' INTO s FROM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.sample_compute($1, $2) AS s', e.directory, e.provider) r;
	IF what IS DISTINCT FROM @extschema@.what_to_do(e, s) THEN
		RETURN 'nothing to do';
	ELSIF what <> 'restart' THEN
		RAISE LOG 'stopping endpoint "%" of tenant %: %', endpoint, tenant_id,
			CASE what WHEN 'suspend' THEN 'nobody has used it since ' || (s ->> 'active_at') ELSE 'it runs, and should not' END;
		PERFORM @extschema@.suspend_endpoint(tenant_id, endpoint);
		RETURN 'suspended';
	END IF;
	RAISE LOG 'starting endpoint "%" of tenant % again: it is %', endpoint, tenant_id, s ->> 'state';
	BEGIN
		PERFORM @extschema@.start_endpoint(tenant_id, endpoint);
	EXCEPTION WHEN OTHERS THEN
		why := SQLERRM;
		RAISE LOG 'endpoint "%" of tenant % could not be started again: %', endpoint, tenant_id, why;
	END;
	UPDATE @extschema@.endpoints x SET crashes = e.crashes + 1, problem = why,
		restart_after = clock_timestamp() + least(interval '1 s' * 2 ^ e.crashes, interval '60 s')
	WHERE x.tenant = e.tenant AND x.name = e.name;
	RETURN coalesce(why, 'restarted');
END $$;
COMMENT ON FUNCTION watch_action(text, text, text) IS 'carry out what watch_report() has proposed, if it still holds';

-- ---------------------------------------------------------------- settings and configuration of endpoints

CREATE FUNCTION parse_suspend_timeout(value text) RETURNS interval LANGUAGE plpgsql AS $$
DECLARE span interval;
BEGIN
	span := value::interval;
	IF span < '0' OR span > interval '365 days' OR span > '0' AND span < interval '1 s' THEN
		RAISE EXCEPTION 'suspend_timeout is out of range: "%"', value USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give 0, which is never, or between one second and a year.';
	END IF;
	RETURN span;
EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow THEN
	RAISE EXCEPTION 'invalid value for suspend_timeout: "%"', value USING ERRCODE = 'invalid_parameter_value',
		HINT = 'Give an interval like "5 min"; 0 is never.';
END $$;
COMMENT ON FUNCTION parse_suspend_timeout(text) IS 'a suspend_timeout as an interval, or an error that says what it may be';

CREATE FUNCTION parse_limit(setting text, value text, lowest int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF coalesce(value, '0') !~ '^[0-9]{1,8}$' OR value::int > 0 AND value::int < lowest THEN
		RAISE EXCEPTION 'invalid value for %: "%"', setting, value USING ERRCODE = 'invalid_parameter_value',
			HINT = format('Give 0, which is no limit, or a number from %s on.', lowest);
	END IF;
	RETURN coalesce(value, '0')::int;
END $$;
COMMENT ON FUNCTION parse_limit(text, text, int) IS 'a limit as a number, or an error that says what it may be';

CREATE FUNCTION set_endpoint(tenant_id text, endpoint text, setting text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	e @extschema@.endpoints := @extschema@.look_up_endpoint(tenant_id, endpoint);
BEGIN
	PERFORM @extschema@.endpoint_lock(tenant_id, endpoint);
	CASE setting
		WHEN 'suspend_timeout' THEN
			e.suspend_timeout := @extschema@.parse_suspend_timeout(value);
			UPDATE @extschema@.endpoints x SET suspend_timeout = e.suspend_timeout WHERE x.tenant = tenant_id AND x.name = endpoint;
			RETURN coalesce(e.suspend_timeout, @extschema@.default_suspend_timeout())::text;
		WHEN 'memory_mb' THEN
			e.memory_mb := @extschema@.parse_limit(setting, value, 64);
			UPDATE @extschema@.endpoints x SET memory_mb = e.memory_mb WHERE x.tenant = tenant_id AND x.name = endpoint;
			RETURN e.memory_mb::text;
		WHEN 'cpu_percent' THEN
			e.cpu_percent := @extschema@.parse_limit(setting, value, 1);
			UPDATE @extschema@.endpoints x SET cpu_percent = e.cpu_percent WHERE x.tenant = tenant_id AND x.name = endpoint;
			RETURN e.cpu_percent::text;
		ELSE
			RAISE EXCEPTION 'unknown setting "%" of an endpoint', setting USING ERRCODE = 'undefined_object',
				HINT = 'There are suspend_timeout, memory_mb and cpu_percent.  The server''s own settings are changed with neon_configure_endpoint().';
	END CASE;
END $$;
COMMENT ON FUNCTION set_endpoint(text, text, text, text) IS 'change a setting of an endpoint; value NULL is the default';

-- Roles, databases and extensions are in the branch; its settings are kept here, as neon_set_branch() does.
CREATE FUNCTION configure_endpoint(tenant_id text, endpoint text, spec jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	e @extschema@.endpoints;
	changes jsonb := coalesce(spec -> 'settings', '{}');
	r jsonb;
BEGIN
	e := @extschema@.look_up_endpoint(tenant_id, endpoint);
	IF e.mode = 'replica' AND spec - 'settings' <> '{}' THEN
		RAISE EXCEPTION 'the roles, databases and extensions of replica "%" are those of its branch', endpoint USING ERRCODE = 'read_only_sql_transaction',
			HINT = 'Settings can be changed.  Configure the branch''s read-write endpoint for the rest.';
	ELSIF e.mode = 'static' AND spec - 'settings' <> '{}' THEN
		RAISE EXCEPTION 'the roles, databases and extensions of static endpoint "%" cannot be changed', endpoint USING ERRCODE = 'read_only_sql_transaction',
			DETAIL = format('It shows its branch as of LSN %s.', e.lsn), HINT = 'Settings can be changed.  For the rest create a branch at that LSN.';
	END IF;
	IF jsonb_typeof(changes) <> 'object' THEN
		RAISE EXCEPTION 'malformed parts of a configuration: settings' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'settings is an object of names and values.';
	ELSIF changes <> '{}' THEN
		PERFORM @extschema@.check_branch_setting(s.key, s.value) FROM jsonb_each_text(changes) s;
		PERFORM @extschema@.lock_tenant(tenant_id);
		-- before its server has them
		PERFORM @extschema@.check_settings(jsonb_strip_nulls(x.settings || changes)), @extschema@.check_settings(jsonb_strip_nulls(b.settings || changes))
		FROM @extschema@.endpoints x JOIN @extschema@.branches b ON b.timeline = x.timeline WHERE x.tenant = tenant_id AND x.name = endpoint;
	END IF;
	PERFORM @extschema@.start_endpoint(tenant_id, endpoint);
	e := @extschema@.find_endpoint(tenant_id, endpoint);
	PERFORM @extschema@.step('configure it', e.compute);
	SELECT x -> 'r' INTO STRICT r FROM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.configure_compute($1, $2::jsonb, $3) AS r',
		e.directory, spec::text, e.provider) x;
	IF changes <> '{}' THEN
		UPDATE @extschema@.endpoints x SET settings = jsonb_strip_nulls(x.settings || changes)
		WHERE x.tenant = tenant_id AND x.name = endpoint;
		UPDATE @extschema@.branches x SET settings = jsonb_strip_nulls(x.settings || changes) WHERE x.timeline = e.timeline AND e.mode = 'read-write';
	END IF;
	RETURN r;
END $$;
COMMENT ON FUNCTION configure_endpoint(text, text, jsonb) IS
	'start an endpoint and bring its roles, databases, extensions and settings to what the spec says';
