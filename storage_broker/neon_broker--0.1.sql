/* neon_broker--0.1.sql - SPDX-License-Identifier: Apache-2.0 */

\echo Use "CREATE EXTENSION neon_broker" to load this file. \quit

-- The role of nodes that publish and subscribe.  Roles are the instance's, not the extension's: one that is there is taken.
DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'neon_broker') THEN
		CREATE ROLE neon_broker LOGIN;		-- without a password nobody logs in over the network
	END IF;
END $$;
GRANT USAGE ON SCHEMA neon_broker TO neon_broker, pg_monitor;

CREATE PROCEDURE neon_broker.publish()
LANGUAGE C AS 'MODULE_PATHNAME', 'nb_publish_stream';
COMMENT ON PROCEDURE neon_broker.publish() IS 'stream from a node: the states of its timelines';
REVOKE ALL ON PROCEDURE neon_broker.publish() FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE neon_broker.publish() TO neon_broker;

CREATE PROCEDURE neon_broker.subscribe(tenant text DEFAULT NULL, timeline text DEFAULT NULL)
LANGUAGE C AS 'MODULE_PATHNAME', 'nb_subscribe_stream';
COMMENT ON PROCEDURE neon_broker.subscribe(text, text) IS 'stream to a node: all states there are, then every change; NULL means all tenants, all timelines';
REVOKE ALL ON PROCEDURE neon_broker.subscribe(text, text) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE neon_broker.subscribe(text, text) TO neon_broker;

CREATE FUNCTION neon_broker.timeline_states(OUT node_id bigint, OUT tenant text, OUT timeline text, OUT term bigint, OUT last_log_term bigint,
	OUT flush_lsn pg_lsn, OUT commit_lsn pg_lsn, OUT remote_consistent_lsn pg_lsn, OUT horizon_lsn pg_lsn, OUT address text, OUT age_ms bigint)
RETURNS SETOF record LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'nb_timelines';
COMMENT ON FUNCTION neon_broker.timeline_states() IS 'what nodes last said of their timelines';
REVOKE ALL ON FUNCTION neon_broker.timeline_states() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION neon_broker.timeline_states() TO pg_monitor;

CREATE VIEW neon_broker.timelines AS SELECT * FROM neon_broker.timeline_states();
COMMENT ON VIEW neon_broker.timelines IS 'what nodes last said of their timelines; age_ms is the time since';
REVOKE ALL ON neon_broker.timelines FROM PUBLIC;
GRANT SELECT ON neon_broker.timelines TO pg_monitor;

CREATE FUNCTION neon_broker.statistics(OUT entries int, OUT subscribers int, OUT publishers bigint, OUT published bigint, OUT changes bigint,
	OUT refused bigint, OUT expired bigint)
RETURNS record LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'nb_stat';
COMMENT ON FUNCTION neon_broker.statistics() IS
	'entries held, subscribers now; since the start: publishers that came, states they sent, of them changes, refused for want of room, expired';
REVOKE ALL ON FUNCTION neon_broker.statistics() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION neon_broker.statistics() TO pg_monitor;
