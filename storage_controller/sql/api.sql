-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- one door for the neon extension

-- Which tenant a caller means: a tenant's credential is its tenant; an administrator names one, or there is only one.
CREATE FUNCTION callers_tenant(args jsonb) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
	id_found text;
	n int;
BEGIN
	IF session_user LIKE 'neon\_t\_%' THEN
		RETURN substr(session_user, 8);
	END IF;
	IF nullif(current_setting('neon.tenant', true), '') IS NOT NULL THEN
		SELECT id INTO id_found FROM @extschema@.tenants WHERE name = current_setting('neon.tenant') OR id = current_setting('neon.tenant');
		IF NOT FOUND THEN
			RAISE EXCEPTION 'tenant "%" does not exist', current_setting('neon.tenant') USING ERRCODE = 'NE010',
				HINT = 'See neon_tenants for those there are.';
		END IF;
		RETURN id_found;
	END IF;
	SELECT count(*), min(id) INTO n, id_found FROM @extschema@.tenants;
	IF n <> 1 THEN
		RAISE EXCEPTION 'there are % tenants, and none was named', n USING ERRCODE = 'NE010',
			HINT = 'SET neon.tenant = ''name'' first.';
	END IF;
	RETURN id_found;
END $$;
COMMENT ON FUNCTION callers_tenant(jsonb) IS 'the tenant that a caller means: that of its credential, or the one that an administrator names';

-- Stops the server this session runs on, which then could not tell how it went.
CREATE FUNCTION not_from_inside(branch text, here text, what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF branch = here THEN
		RAISE EXCEPTION 'cannot % the branch this session is connected to', what USING ERRCODE = 'object_in_use',
			HINT = 'Do it from another branch or from the controller.';
	END IF;
END $$;
COMMENT ON FUNCTION not_from_inside(text, text, text) IS 'refuse what would stop the server that the session asking for it runs on';

CREATE FUNCTION check_mode(mode text, at_lsn text, at_time text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF mode IS NULL OR mode NOT IN ('read-write', 'replica', 'static') THEN
		RAISE EXCEPTION 'invalid endpoint mode "%"', mode USING ERRCODE = 'invalid_parameter_value',
			HINT = 'There are "read-write", "replica" and "static".';
	ELSIF mode = 'replica' AND (at_lsn IS NOT NULL OR at_time IS NOT NULL) THEN
		RAISE EXCEPTION 'a replica follows its branch' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'To read the branch as it was use mode => ''static''.';
	ELSIF mode = 'read-write' AND (at_lsn IS NOT NULL OR at_time IS NOT NULL) THEN
		RAISE EXCEPTION 'a read-write endpoint is always at the end of its branch' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'To read there use mode => ''static''; to write create a branch at_time or at_lsn, and an endpoint for it.';
	END IF;
END $$;
COMMENT ON FUNCTION check_mode(text, text, text) IS 'refuse modes of endpoints that there are not';

-- What an operation does; operate() calls it.
CREATE FUNCTION perform(kind text, t text, args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE name text := args ->> 'name';
BEGIN
	CASE kind
		WHEN 'create_tenant' THEN RETURN to_jsonb(@extschema@.create_tenant(name));
		WHEN 'drop_tenant' THEN PERFORM @extschema@.drop_tenant(name);
		WHEN 'create_branch' THEN
			RETURN to_jsonb(@extschema@.create_branch(t, name, args ->> 'parent', (args ->> 'at_lsn')::pg_lsn, (args ->> 'at_time')::timestamptz));
		WHEN 'drop_branch' THEN PERFORM @extschema@.drop_branch(t, name, (args ->> 'cascade')::bool);
		WHEN 'reset_branch' THEN PERFORM @extschema@.reset_branch(t, name);
		WHEN 'restore_branch' THEN
			RETURN to_jsonb(@extschema@.restore_branch(t, name, (args ->> 'at_lsn')::pg_lsn, (args ->> 'at_time')::timestamptz, args ->> 'keep_as'));
		WHEN 'create_endpoint' THEN
			PERFORM @extschema@.lock_tenant(t);		-- neon_set_branch() comes before, or finds it
			RETURN to_jsonb(@extschema@.create_endpoint(t, name, args ->> 'branch', coalesce(
				(SELECT b.settings FROM @extschema@.branches b WHERE b.tenant = t AND b.name = coalesce(args ->> 'branch', args ->> 'name')), '{}'),
				coalesce(args ->> 'mode', 'read-write'), (args ->> 'at_lsn')::pg_lsn, (args ->> 'at_time')::timestamptz));
		WHEN 'start_endpoint' THEN RETURN to_jsonb(@extschema@.start_server(t, name));
		WHEN 'suspend_endpoint' THEN PERFORM @extschema@.stop_server(t, name, args ->> 'mode');
		WHEN 'drop_endpoint' THEN PERFORM @extschema@.drop_endpoint(t, name);
		WHEN 'configure_endpoint' THEN RETURN @extschema@.configure_endpoint(t, name, args -> 'spec');
		WHEN 'rename_branch' THEN PERFORM @extschema@.rename_branch(t, name, args ->> 'new_name');
		WHEN 'protect_branch' THEN PERFORM @extschema@.protect_branch(t, name, (args ->> 'protected')::bool);
		WHEN 'set_branch' THEN RETURN to_jsonb(@extschema@.set_branch(t, name, args ->> 'setting', args ->> 'value'));
		WHEN 'set_endpoint' THEN RETURN to_jsonb(@extschema@.set_endpoint(t, name, args ->> 'setting', args ->> 'value'));
	END CASE;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION perform(text, text, jsonb) IS 'the function of an operation''s kind, with its arguments from an object';

CREATE FUNCTION api(fn text, args jsonb, timeline_id text = NULL) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	is_admin bool := session_user NOT LIKE 'neon\_t\_%';
	t text;
	here text;
	here_lsn pg_lsn := nullif(split_part(timeline_id, '@', 2), '');		-- of a static endpoint's session
BEGIN
	IF fn IN ('create_tenant', 'drop_tenant', 'nodes') AND NOT is_admin THEN
		RAISE EXCEPTION 'only the cluster''s administrator may do that' USING ERRCODE = 'insufficient_privilege',
			HINT = 'Connect to the controller as a superuser.';
	END IF;
	CASE fn
		WHEN 'create_tenant', 'drop_tenant' THEN
			RETURN @extschema@.operate(fn, (SELECT id FROM @extschema@.tenants x WHERE x.name = args ->> 'name'), args);
		WHEN 'nodes' THEN
			RETURN (SELECT coalesce(jsonb_agg(to_jsonb(n) - 'admin_connstring' ORDER BY role, node_id), '[]') FROM @extschema@.nodes n);
		WHEN 'tenants' THEN
			RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('id', id, 'name', name, 'created_at', created_at) ORDER BY name), '[]')
				FROM @extschema@.tenants WHERE is_admin OR id = substr(session_user, 8));
		WHEN 'branches' THEN
			RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('tenant', b.tenant, 'name', b.name, 'timeline_id', l.id,
					'parent', pb.name, 'start_lsn', l.start_lsn, 'created_at', b.created_at,
					'protected', b.protected, 'settings', b.settings) ORDER BY b.created_at), '[]')
				FROM @extschema@.branches b JOIN @extschema@.timelines l ON l.id = b.timeline
				LEFT JOIN @extschema@.branches pb ON pb.timeline = l.ancestor
				WHERE is_admin OR b.tenant = substr(session_user, 8));
		WHEN 'endpoints' THEN
			RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('tenant', e.tenant, 'name', e.name, 'branch', b.name, 'mode', e.mode, 'lsn', e.lsn,
					'state', p.state,
					'pid', p.pid, 'host', e.host, 'port', e.port,
					'data_directory', CASE WHEN is_admin THEN e.directory END, 'started_at', e.started_at,
					'warm_start', e.last_start -> 'warm', 'active_at', e.active_at, 'activity', e.activity,
					'suspend_timeout', coalesce(e.suspend_timeout, @extschema@.default_suspend_timeout()), 'problem', e.problem) ORDER BY e.created_at), '[]')
				FROM @extschema@.endpoints e JOIN @extschema@.branches b ON b.timeline = e.timeline
				CROSS JOIN LATERAL (SELECT s.pid, s.state FROM @extschema@.endpoint_seen(e) s OFFSET 0) p
				WHERE (is_admin OR e.tenant = substr(session_user, 8)) AND (args ->> 'tenant' IS NULL OR e.tenant = args ->> 'tenant'));
		WHEN 'operations' THEN
			RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('id', o.id, 'operation', o.kind, 'object', o.object, 'state', o.state,
					'attempts', o.attempts, 'number', s.number, 'step', s.step, 'node', CASE WHEN is_admin THEN s.node END, 'step_attempts', s.attempts,
					'started_at', coalesce(s.started_at, o.started_at), 'duration', coalesce(s.finished_at, o.finished_at,
						clock_timestamp()) - coalesce(s.started_at, o.started_at), 'step_error', s.error,
					'error', o.error, 'finished_at', o.finished_at, 'next_try_at', CASE WHEN o.attempts > 1 AND o.finished_at IS NULL THEN o.next_try_at END,
					'tenant', o.tenant, 'who', o.who) ORDER BY o.id, s.number), '[]')
				FROM (SELECT * FROM @extschema@.operations x WHERE is_admin OR x.tenant = substr(session_user, 8) ORDER BY x.id DESC LIMIT 1000) o
				LEFT JOIN @extschema@.operation_steps s ON s.operation = o.id);
		WHEN 'checkpoint' THEN PERFORM @extschema@.checkpoint(args ->> 'tenant', is_admin); RETURN NULL;
		ELSE NULL;
	END CASE;

	t := @extschema@.callers_tenant(args);
	SELECT b.name INTO here FROM @extschema@.branches b WHERE b.tenant = t AND b.timeline = split_part(timeline_id, '@', 1);
	CASE fn
		WHEN 'create_branch' THEN
			-- of what the session is connected to: on a static endpoint that is not the branch as it is now
			IF args ->> 'parent' IS NULL AND args ->> 'at_lsn' IS NULL AND args ->> 'at_time' IS NULL THEN
				args := args || jsonb_build_object('at_lsn', here_lsn);
			END IF;
			RETURN @extschema@.operate(fn, t, args || jsonb_build_object('parent', coalesce(args ->> 'parent', here, 'main')));
		WHEN 'drop_branch' THEN
			PERFORM @extschema@.not_from_inside(args ->> 'name', here, 'drop');
			RETURN @extschema@.operate(fn, t, args);
		WHEN 'reset_branch' THEN
			PERFORM @extschema@.not_from_inside(args ->> 'name', here, 'reset');
			RETURN @extschema@.operate(fn, t, args);
		WHEN 'restore_branch' THEN
			IF here_lsn IS NULL THEN		-- static endpoints stay
				PERFORM @extschema@.not_from_inside(args ->> 'name', here, 'restore');
			END IF;
			RETURN @extschema@.operate(fn, t, args);
		WHEN 'set_branch' THEN
			RETURN @extschema@.operate_at_once(fn, t, args || jsonb_build_object('name', coalesce(args ->> 'name', here, 'main')));
		WHEN 'protect_branch', 'rename_branch', 'set_endpoint' THEN RETURN @extschema@.operate_at_once(fn, t, args);
		WHEN 'create_endpoint' THEN
			PERFORM @extschema@.check_mode(args ->> 'mode', args ->> 'at_lsn', args ->> 'at_time');
			RETURN @extschema@.operate(fn, t, args);
		WHEN 'start_endpoint' THEN RETURN to_jsonb(@extschema@.start_endpoint(t, args ->> 'name'));
		WHEN 'suspend_endpoint' THEN PERFORM @extschema@.suspend_endpoint(t, args ->> 'name');
		WHEN 'configure_endpoint', 'drop_endpoint' THEN RETURN @extschema@.operate(fn, t, args);
		WHEN 'connection_uri' THEN RETURN to_jsonb(@extschema@.connection_uri(t, coalesce(args ->> 'branch', here, 'main')));
		WHEN 'current_branch' THEN RETURN to_jsonb(here);
		WHEN 'lsn_at' THEN
			RETURN to_jsonb(@extschema@.lsn_at(@extschema@.find_branch(t, coalesce(here, 'main')), (args ->> 'at')::timestamptz));
		ELSE
			RAISE EXCEPTION 'unknown controller function "%"', fn USING ERRCODE = 'undefined_function',
				HINT = 'The neon extension here is newer than the controller.';
	END CASE;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION api(text, jsonb, text) IS 'what the neon extension calls, here or from an endpoint';
