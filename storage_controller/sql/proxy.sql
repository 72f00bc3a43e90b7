-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- what proxies ask
--
-- Outside the cluster an endpoint is known by its id, "<name>-<first 8 digits of its tenant>"; a bare name is good where only one endpoint has it.
-- A proxy logs in as neon_proxy, which may call these functions and nothing else, and listens to the channel neon_proxy:
-- "endpoint <id>" when an endpoint has changed, "all" when everything is to be asked again.

CREATE INDEX ON endpoints (name);

CREATE FUNCTION endpoint_id(e endpoints) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT format('%s-%s', e.name, left(e.tenant, 8));
$$;
COMMENT ON FUNCTION endpoint_id(endpoints) IS 'the name of an endpoint outside the cluster: a DNS label, the value of options=endpoint=...';

-- No row when there is none or the name is not unique.
CREATE FUNCTION endpoint_by_id(id text) RETURNS SETOF endpoints LANGUAGE sql STABLE AS $$
	WITH found AS (
		SELECT e, true AS exact FROM @extschema@.endpoints e
		WHERE e.name = left(endpoint_by_id.id, -9) AND endpoint_by_id.id = format('%s-%s', e.name, left(e.tenant, 8))
		UNION ALL
		SELECT e, false FROM @extschema@.endpoints e WHERE e.name = endpoint_by_id.id
	), best AS (SELECT e FROM found WHERE exact = (SELECT bool_or(exact) FROM found))
	SELECT (e).* FROM best WHERE (SELECT count(*) FROM best) = 1;
$$;
COMMENT ON FUNCTION endpoint_by_id(text) IS 'the endpoint that an external id, or a unique name, stands for';

-- What a proxy checks a server by that answers at an endpoint's address.
CREATE FUNCTION endpoint_shows(e endpoints) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT e.timeline || coalesce('@' || e.lsn::text, '');
$$;
COMMENT ON FUNCTION endpoint_shows(endpoints) IS 'what an endpoint''s server shows: its timeline, and the LSN of a static one';

CREATE FUNCTION proxy_endpoint(name text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_build_object('id', @extschema@.endpoint_id(e), 'tenant', e.tenant, 'endpoint', e.name, 'timeline', @extschema@.endpoint_shows(e),
		'branch', (SELECT b.name FROM @extschema@.branches b WHERE b.timeline = e.timeline),
		'state', CASE WHEN e.wanted = 'running' AND e.started_at IS NOT NULL THEN 'running' WHEN e.wanted = 'running' THEN 'starting' ELSE 'suspended' END,
		'host', e.host, 'port', e.port, 'settings', e.settings)
	FROM @extschema@.endpoint_by_id(proxy_endpoint.name) e;
$$;
COMMENT ON FUNCTION proxy_endpoint(text) IS 'for proxies: where an endpoint is and whether it runs; NULL when there is none';

-- A running endpoint knows best; of one that sleeps the controller has kept the secrets; one that never slept, or crashed, is started.
CREATE FUNCTION proxy_role_secret(id text, role text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	e @extschema@.endpoints;
	ask constant text := 'SELECT (SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin
		AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())) AS secret';
	kept bool := false;
	answer text;
BEGIN
	SELECT * INTO e FROM @extschema@.endpoint_by_id(proxy_role_secret.id);
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	IF e.wanted = 'running' AND e.started_at IS NOT NULL THEN
		BEGIN
			-- in template1, where the watcher asks too: somebody who tries passwords does not keep an endpoint awake
			RETURN (SELECT r ->> 'secret' FROM @extschema@.on_endpoint(e, 'template1', ask, role) r);
		EXCEPTION WHEN connection_exception OR sqlclient_unable_to_establish_sqlconnection OR connection_failure
				OR cannot_connect_now OR admin_shutdown OR crash_shutdown THEN
			NULL;
		END;
	END IF;
	SELECT count(*) > 0, max(s.secret) FILTER (WHERE s.role = proxy_role_secret.role AND (s.valid_until IS NULL OR s.valid_until > clock_timestamp()))
		INTO kept, answer FROM @extschema@.role_secrets_of(e) s;
	IF kept THEN
		RETURN answer;
	END IF;
	PERFORM @extschema@.start_endpoint(e.tenant, e.name);
	RETURN (SELECT r ->> 'secret' FROM @extschema@.on_endpoint(e, 'postgres', ask, role) r);
END $$;
COMMENT ON FUNCTION proxy_role_secret(text, text) IS 'for proxies: the SCRAM secret of a role of an endpoint; NULL when it has none or may not log in';

CREATE FUNCTION proxy_wake(id text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE e @extschema@.endpoints;
BEGIN
	SELECT * INTO e FROM @extschema@.endpoint_by_id(proxy_wake.id);
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	PERFORM @extschema@.start_endpoint(e.tenant, e.name);
	SELECT * INTO e FROM @extschema@.endpoint_by_id(proxy_wake.id);
	RETURN jsonb_build_object('host', e.host, 'port', e.port, 'timeline', @extschema@.endpoint_shows(e));
END $$;
COMMENT ON FUNCTION proxy_wake(text) IS 'for proxies: start an endpoint if it does not run; returns where it takes connections';

-- Only what proxies look at: what watchers note of an endpoint now and then is not news.
CREATE FUNCTION endpoint_changed() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' THEN
		PERFORM pg_notify('neon_proxy', 'endpoint ' || @extschema@.endpoint_id(OLD));
	END IF;
	IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' THEN
		PERFORM pg_notify('neon_proxy', 'endpoint ' || @extschema@.endpoint_id(NEW));
	END IF;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION endpoint_changed() IS 'trigger: tell proxies that an endpoint has changed';
CREATE TRIGGER endpoint_comes_or_goes AFTER INSERT OR DELETE ON endpoints FOR EACH ROW EXECUTE FUNCTION endpoint_changed();
CREATE TRIGGER endpoint_changes AFTER UPDATE ON endpoints FOR EACH ROW
	WHEN ((OLD.name, OLD.timeline, OLD.host, OLD.port, OLD.wanted, OLD.settings, OLD.started_at)
		IS DISTINCT FROM (NEW.name, NEW.timeline, NEW.host, NEW.port, NEW.wanted, NEW.settings, NEW.started_at))
	EXECUTE FUNCTION endpoint_changed();

DO $$ BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'neon_proxy') THEN
		CREATE ROLE neon_proxy LOGIN;		-- without a password nobody logs in over the network
	END IF;
END $$;
GRANT USAGE ON SCHEMA @extschema@ TO neon_proxy;
GRANT EXECUTE ON FUNCTION proxy_endpoint(text), proxy_role_secret(text, text), proxy_wake(text) TO neon_proxy;
