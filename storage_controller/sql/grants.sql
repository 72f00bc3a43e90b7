-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- who may what

DO $$ BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'neon_tenant') THEN
		CREATE ROLE neon_tenant NOLOGIN;
	END IF;
END $$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA @extschema@ FROM PUBLIC;
GRANT USAGE ON SCHEMA @extschema@ TO neon_tenant;
GRANT EXECUTE ON FUNCTION api(text, jsonb, text) TO neon_tenant;
GRANT EXECUTE ON FUNCTION console_token(text, interval) TO neon_tenant;
GRANT EXECUTE ON FUNCTION watch_list(text), watch_report(text, text), watch_action(text, text, text) TO neon_compute;
