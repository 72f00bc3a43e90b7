-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- settings of a branch's servers

CREATE FUNCTION check_setting(name text, value text) RETURNS void AS 'MODULE_PATHNAME', 'nc_check_setting' LANGUAGE C STRICT;
COMMENT ON FUNCTION check_setting(text, text) IS 'an error, unless a server of this version would take the setting in its configuration';

-- What the system itself decides on a compute; a file or command of the host is nobody's business inside it.
CREATE FUNCTION setting_is_ours(name text) RETURNS bool LANGUAGE sql IMMUTABLE AS $$
	SELECT name IN ('port', 'listen_addresses', 'data_directory', 'config_file', 'hba_file', 'ident_file', 'external_pid_file',
			'shared_preload_libraries', 'fsync', 'wal_level', 'wal_log_hints', 'restart_after_crash', 'password_encryption',
			'logging_collector', 'log_line_prefix', 'log_directory', 'log_filename', 'max_prepared_transactions', 'max_wal_senders',
			'max_replication_slots', 'hot_standby', 'primary_conninfo', 'primary_slot_name', 'restore_command', 'recovery_end_command',
			'archive_cleanup_command', 'archive_mode', 'archive_command', 'archive_library', 'synchronous_standby_names', 'wal_init_zero',
			'wal_recycle', 'data_sync_retry', 'zero_damaged_pages', 'ignore_invalid_pages', 'ignore_checksum_failure', 'max_slot_wal_keep_size',
			'track_commit_timestamp', 'shared_memory_type', 'dynamic_shared_memory_type')
		OR name ~ '^(neon|neon_.*)\.' OR name ~ '^(unix_socket|ssl|recovery_|krb_)';
$$;
COMMENT ON FUNCTION setting_is_ours(text) IS 'a setting that the system itself decides';

CREATE FUNCTION check_branch_setting(setting text, value text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF setting IS NULL OR setting !~ '^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$' THEN
		RAISE EXCEPTION 'invalid setting name "%"', setting USING ERRCODE = 'invalid_name', HINT = 'Use a name of pg_settings.';
	ELSIF @extschema@.setting_is_ours(setting) THEN
		RAISE EXCEPTION 'setting "%" cannot be changed', setting USING ERRCODE = 'insufficient_privilege',
			DETAIL = 'An endpoint works only with the value it has.', HINT = 'Leave it as it is.';
	END IF;
	IF value IS NOT NULL THEN
		PERFORM @extschema@.check_setting(setting, value);
	END IF;
	-- Its own workers are registered before others; without them no commit gets its quorum.
	IF setting = 'max_worker_processes' AND value ~ '^[0-9]{1,9}$' AND value::int < 11 THEN
		RAISE EXCEPTION 'max_worker_processes cannot be less than 11' USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'An endpoint needs some of them for its own work.', HINT = 'Limit max_parallel_workers or max_logical_replication_workers instead.';
	END IF;
END $$;
COMMENT ON FUNCTION check_branch_setting(text, text) IS 'refuse a setting that a branch cannot have';

-- Kept here for every branch and endpoint of every tenant: so there is a limit.
CREATE FUNCTION check_settings(settings jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	n bigint := (SELECT count(*) FROM jsonb_object_keys(settings));
	bytes int := octet_length(settings::text);
BEGIN
	IF n > 200 OR bytes > 65536 THEN
		RAISE EXCEPTION 'too many settings' USING ERRCODE = 'program_limit_exceeded',
			DETAIL = format('There would be %s with %s bytes in all; 200 with 65536 bytes are possible.', n, bytes),
			HINT = 'Take some back: neon_set_branch(branch, setting, NULL) does; or set them for a database or role, in the branch itself.';
	END IF;
	-- Each alone is right, together they keep the server from starting.
	IF coalesce(substring(settings ->> 'superuser_reserved_connections' FROM '^[0-9]{1,9}$')::int, 3)
			>= coalesce(substring(settings ->> 'max_connections' FROM '^[0-9]{1,9}$')::int, 100) THEN
		RAISE EXCEPTION 'superuser_reserved_connections must be less than max_connections' USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'A server with these settings would not start.', HINT = 'Give max_connections a larger value.';
	END IF;
END $$;
COMMENT ON FUNCTION check_settings(jsonb) IS 'refuse more settings than are kept';

CREATE FUNCTION settings_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM @extschema@.check_settings(NEW.settings);
	RETURN NULL;
END $$;
COMMENT ON FUNCTION settings_change() IS 'trigger: settings are within their limits';
CREATE TRIGGER settings_change AFTER INSERT OR UPDATE OF settings ON branches FOR EACH ROW EXECUTE FUNCTION settings_change();
CREATE TRIGGER settings_change AFTER INSERT OR UPDATE OF settings ON endpoints FOR EACH ROW EXECUTE FUNCTION settings_change();

CREATE FUNCTION set_branch(tenant_id text, branch text, setting text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	tl @extschema@.timelines;
	e @extschema@.endpoints;
	result text := 'at the next start of its endpoint';
BEGIN
	setting := lower(setting);
	PERFORM @extschema@.check_branch_setting(setting, value);
	PERFORM @extschema@.lock_tenant(tenant_id);
	tl := @extschema@.find_branch(tenant_id, branch);
	PERFORM @extschema@.lock_endpoints(tl.id);		-- one that is being started has it or not
	UPDATE @extschema@.branches b SET settings = CASE WHEN value IS NULL THEN b.settings - setting
			ELSE b.settings || jsonb_build_object(setting, value) END
	WHERE b.timeline = tl.id;
	FOR e IN UPDATE @extschema@.endpoints x SET settings = CASE WHEN value IS NULL THEN x.settings - setting
			ELSE x.settings || jsonb_build_object(setting, value) END
		WHERE x.timeline = tl.id RETURNING * LOOP
		CONTINUE WHEN @extschema@.endpoint_pid(e) IS NULL;
		IF @extschema@.apply_setting(e, setting, value) THEN
			result := 'applied';
		END IF;
	END LOOP;
	RETURN result;
END $$;
COMMENT ON FUNCTION set_branch(text, text, text, text) IS 'set, or with NULL reset, a setting of a branch; returns whether it waits for the endpoint''s next start';

-- On a server that runs.  False: it takes it only at its next start.
CREATE FUNCTION apply_setting(e endpoints, setting text, value text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
	known jsonb;
	as_written text;
BEGIN
	SELECT r INTO known FROM @extschema@.on_endpoint(e, 'postgres', 'SELECT context, boot_val FROM pg_settings WHERE name = $1', setting) r;
	IF known IS NULL THEN		-- of a module that is not loaded, or of nobody: the server learns it from its configuration file
		RETURN false;
	END IF;
	-- its configuration file still has the old value, so the default is written out
	as_written := coalesce(value, known ->> 'boot_val');
	IF setting IN ('search_path', 'temp_tablespaces', 'session_preload_libraries', 'local_preload_libraries') THEN
		SELECT string_agg(quote_literal(btrim(p, ' "')), ', ') INTO as_written FROM unnest(string_to_array(as_written, ',')) p;
	ELSE
		as_written := quote_literal(as_written);
	END IF;
	PERFORM @extschema@.on_endpoint(e, 'postgres', format('ALTER SYSTEM SET %s = %s', setting, coalesce(as_written, 'DEFAULT')));
	PERFORM @extschema@.on_endpoint(e, 'postgres', 'SELECT pg_reload_conf()');
	RETURN known ->> 'context' IS DISTINCT FROM 'postmaster';
END $$;
COMMENT ON FUNCTION apply_setting(endpoints, text, text) IS 'apply a setting to a server that runs; false when it takes it only at its next start';
