-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- endpoints that crash, and endpoints that nobody uses
--
-- The watcher of each compute host reports what its computes do (watch_report), and carries out what the answer says (watch_action),
-- each in a transaction of its own.  What is to be done is decided again there, under the endpoint's lock: between the report and the lock
-- somebody may have started, stopped or used it.

ALTER TABLE endpoints
	ADD COLUMN suspend_timeout interval NOT NULL DEFAULT '5 min',	-- without activity; 0 is never
	ADD COLUMN active_at timestamptz,		-- when it was last seen busy
	ADD COLUMN activity text,				-- with what, null when it is idle
	ADD COLUMN crashes int NOT NULL DEFAULT 0,	-- in a row, without staying up in between
	ADD COLUMN restart_after timestamptz,	-- not before this
	ADD COLUMN problem text;				-- why the last start by itself has failed

-- pg_authid's verifiers, so that clients can be authenticated while the endpoint sleeps.
CREATE TABLE role_secrets (
	timeline text NOT NULL,
	role text NOT NULL,
	secret text NOT NULL,
	PRIMARY KEY (timeline, role)
);
COMMENT ON TABLE role_secrets IS 'password verifiers of the roles of a timeline, as of its endpoint''s last suspension';

CREATE FUNCTION refresh_role_secrets(e endpoints) RETURNS void LANGUAGE plpgsql AS $$
DECLARE secrets jsonb;
BEGIN
	SELECT coalesce(jsonb_agg(r), '[]') INTO secrets FROM @extschema@.remote(@extschema@.endpoint_admin(e), format('endpoint "%s"', e.name),
		'SELECT rolname AS role, rolpassword AS secret FROM pg_catalog.pg_authid WHERE rolcanlogin AND rolpassword IS NOT NULL
			AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())') r;
	DELETE FROM @extschema@.role_secrets s WHERE s.timeline = e.timeline
		OR NOT EXISTS (SELECT FROM @extschema@.timelines l WHERE l.id = s.timeline);
	INSERT INTO @extschema@.role_secrets SELECT e.timeline, x.role, x.secret FROM jsonb_to_recordset(secrets) AS x (role text, secret text);
END $$;
COMMENT ON FUNCTION refresh_role_secrets(endpoints) IS 'copy the password verifiers of a running endpoint''s roles';

-- One line an action: "restart|suspend <tenant> <endpoint>".
CREATE FUNCTION watch_report(node text, seen text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	e @extschema@.endpoints;
	report jsonb := seen;
	s jsonb;
	todo text;
BEGIN
	FOR e IN SELECT * FROM @extschema@.endpoints x WHERE x.compute = node FOR UPDATE SKIP LOCKED LOOP
		s := coalesce(report -> e.directory, '{"state": "absent"}');
		IF s ->> 'state' = 'running' THEN
			IF e.active_at IS DISTINCT FROM (s ->> 'active_at')::timestamptz OR e.activity IS DISTINCT FROM s ->> 'activity'
					OR e.crashes > 0 AND e.started_at < clock_timestamp() - interval '1 min' THEN
				UPDATE @extschema@.endpoints x SET active_at = (s ->> 'active_at')::timestamptz, activity = s ->> 'activity',
					crashes = CASE WHEN e.started_at < clock_timestamp() - interval '1 min' THEN 0 ELSE e.crashes END
				WHERE x.tenant = e.tenant AND x.name = e.name;
			END IF;
			IF e.wanted = 'running' AND @extschema@.is_idle(e, s) THEN
				todo := concat_ws(E'\n', todo, format('suspend %s %s', e.tenant, e.name));
			END IF;
		ELSIF @extschema@.wants_restart(e, s) THEN
			todo := concat_ws(E'\n', todo, format('restart %s %s', e.tenant, e.name));
		END IF;
	END LOOP;
	RETURN todo;
END $$;
COMMENT ON FUNCTION watch_report(text, text) IS 'what a host''s watcher has seen; the answer says what it is to do';

CREATE FUNCTION is_idle(e endpoints, sample jsonb) RETURNS bool LANGUAGE sql VOLATILE AS $$
	SELECT sample ->> 'state' = 'running' AND e.suspend_timeout > '0' AND sample ->> 'activity' IS NULL
		AND clock_timestamp() - greatest((sample ->> 'active_at')::timestamptz, e.started_at) > e.suspend_timeout;
$$;

-- Ten times in a row, after 1, 2, 4, ... 60 s; then somebody has to look.
CREATE FUNCTION wants_restart(e endpoints, sample jsonb) RETURNS bool LANGUAGE sql VOLATILE AS $$
	SELECT e.wanted = 'running' AND sample ->> 'state' IN ('crashed', 'absent') AND e.crashes < 10
		AND coalesce(e.restart_after <= clock_timestamp(), true);
$$;

CREATE FUNCTION watch_action(what text, tenant_id text, endpoint text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	e @extschema@.endpoints;
	s jsonb;
	why text;
BEGIN
	PERFORM @extschema@.endpoint_lock(tenant_id, endpoint);
	SELECT * INTO e FROM @extschema@.endpoints x WHERE x.tenant = tenant_id AND x.name = endpoint FOR UPDATE;
	IF NOT FOUND THEN
		RETURN 'gone';
	END IF;
	SELECT r -> 's' INTO s FROM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.sample_compute($1) AS s', e.directory) r;
	IF what = 'suspend' AND e.wanted = 'running' AND @extschema@.is_idle(e, s) THEN
		RAISE LOG 'suspending endpoint "%" of tenant %: nobody has used it since %', endpoint, tenant_id, s ->> 'active_at';
		PERFORM @extschema@.suspend_endpoint(tenant_id, endpoint);
		RETURN 'suspended';
	ELSIF what = 'restart' AND @extschema@.wants_restart(e, s) THEN
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
	END IF;
	RETURN 'nothing to do';
END $$;
COMMENT ON FUNCTION watch_action(text, text, text) IS 'carry out what watch_report() has proposed, if it still holds';

-- ---------------------------------------------------------------- settings and configuration of endpoints

CREATE FUNCTION parse_suspend_timeout(value text) RETURNS interval LANGUAGE plpgsql AS $$
DECLARE span interval;
BEGIN
	span := coalesce(value, '5 min')::interval;
	IF span < '0' OR span > interval '365 days' OR span > '0' AND span < interval '1 s' THEN
		RAISE EXCEPTION 'suspend_timeout is out of range: "%"', value USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give 0, which is never, or between one second and a year.';
	END IF;
	RETURN span;
EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow THEN
	RAISE EXCEPTION 'invalid value for suspend_timeout: "%"', value USING ERRCODE = 'invalid_parameter_value',
		HINT = 'Give an interval like "5 min"; 0 is never.';
END $$;

CREATE FUNCTION parse_limit(setting text, value text, lowest int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF coalesce(value, '0') !~ '^[0-9]{1,8}$' OR value::int > 0 AND value::int < lowest THEN
		RAISE EXCEPTION 'invalid value for %: "%"', setting, value USING ERRCODE = 'invalid_parameter_value',
			HINT = format('Give 0, which is no limit, or a number from %s on.', lowest);
	END IF;
	RETURN coalesce(value, '0')::int;
END $$;

CREATE FUNCTION set_endpoint(tenant_id text, endpoint text, setting text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	e @extschema@.endpoints := @extschema@.look_up_endpoint(tenant_id, endpoint);
BEGIN
	CASE setting
		WHEN 'suspend_timeout' THEN
			e.suspend_timeout := @extschema@.parse_suspend_timeout(value);
			UPDATE @extschema@.endpoints x SET suspend_timeout = e.suspend_timeout WHERE x.tenant = tenant_id AND x.name = endpoint;
			RETURN e.suspend_timeout::text;
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

-- Roles, databases and extensions are part of the branch; settings are the endpoint's, and kept here for its next starts.
CREATE FUNCTION configure_endpoint(tenant_id text, endpoint text, spec jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	e @extschema@.endpoints;
	r jsonb;
BEGIN
	PERFORM @extschema@.start_endpoint(tenant_id, endpoint);
	e := @extschema@.find_endpoint(tenant_id, endpoint);
	SELECT x -> 'r' INTO STRICT r FROM @extschema@.on_node(e.compute, 'SELECT neon_compute_tools.configure_compute($1, $2::jsonb) AS r',
		e.directory, spec::text) x;
	UPDATE @extschema@.endpoints x SET settings = jsonb_strip_nulls(x.settings || coalesce(spec -> 'settings', '{}'))
	WHERE x.tenant = tenant_id AND x.name = endpoint;
	RETURN r;
END $$;
COMMENT ON FUNCTION configure_endpoint(text, text, jsonb) IS
	'start an endpoint and bring its roles, databases, extensions and settings to what the spec says';
