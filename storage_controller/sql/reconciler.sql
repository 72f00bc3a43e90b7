-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- what the background workers do
--
-- Every neon_controller.reconcile_interval the reconciler asks for jobs() and runs each in a transaction of its own; an error is that job's,
-- and it is tried again in the next round.  Another worker runs the job "heartbeat" every neon_controller.heartbeat_interval.  Everything here can
-- be called by hand as well.  Whoever has something to be done adds a line to each of the two functions.

-- Attachments first: a pageserver that was restarted serves nobody before, while bringing an operation to its end can take minutes.
CREATE FUNCTION jobs() RETURNS TABLE (job text, object text) LANGUAGE sql AS $$
	SELECT * FROM @extschema@.attachment_jobs() UNION ALL SELECT * FROM @extschema@.recovery_jobs();
$$;
COMMENT ON FUNCTION jobs() IS 'what the reconciler would do now';

CREATE FUNCTION run_job(job text, object text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE job
		WHEN 'heartbeat' THEN PERFORM @extschema@.heartbeats();
		WHEN 'reattach' THEN PERFORM @extschema@.reattach(split_part(object, ' ', 1), split_part(object, ' ', 2));
		WHEN 'forget_attachment' THEN PERFORM @extschema@.forget_attachment(split_part(object, ' ', 1), split_part(object, ' ', 2));
		WHEN 'recover' THEN PERFORM @extschema@.recover_operation(object::bigint);
		WHEN 'clean_up' THEN PERFORM @extschema@.clean_leftover(split_part(object, ' ', 1), split_part(object, ' ', 2));
		WHEN 'prune' THEN PERFORM @extschema@.prune_operations();
	END CASE;
END $$;
COMMENT ON FUNCTION run_job(text, text) IS 'one job of jobs(), or the heartbeat';
