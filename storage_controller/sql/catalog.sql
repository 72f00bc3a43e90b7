\echo Use "CREATE EXTENSION neon_controller" to load this file. \quit

-- SPDX-License-Identifier: Apache-2.0
--
-- What must last is in tables: nodes, tenants, timelines, branches, endpoints.  Whatever a node or a process can
-- tell about itself is asked when it is needed.
--
-- Order of every change: what is created is created on the nodes first, idempotently and under a new id, then comes the row that
-- makes it real; what is dropped loses its row first.  A crash between the two leaves something on a node that no row names,
-- and never a row that names nothing.  It is noted before (operations.sql), and removed later.
--
-- Locks: functions that change a tenant take its row FOR NO KEY UPDATE, so that changes of one tenant are one after another.  What
-- they do aside meanwhile may refer to the tenant (foreign keys take KEY SHARE), but not touch other rows they have locked.

CREATE TABLE nodes (
	name text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
	role text NOT NULL CHECK (role IN ('controller', 'pageserver', 'safekeeper', 'compute')),
	node_id int NOT NULL,
	host text NOT NULL,
	port int NOT NULL,
	admin_connstring text NOT NULL,		-- superuser, database postgres
	provider text NOT NULL DEFAULT 'local',		-- what runs the new endpoints of a compute host (neon_compute_tools.providers there)
	registered_at timestamptz NOT NULL DEFAULT now(),
	state text NOT NULL DEFAULT 'registered'	-- see state_machine('node')
		CHECK (state IN ('registered', 'online', 'offline', 'draining', 'draining offline')),
	last_seen timestamptz,				-- what heartbeats have brought, from here on
	up_since timestamptz,
	missed int NOT NULL DEFAULT 0,		-- without an answer, one after another
	timelines int,
	error text,
	UNIQUE (role, node_id)
);
COMMENT ON TABLE nodes IS 'servers of the cluster; the compute role marks a host that can run endpoints';

CREATE TABLE tenants (
	id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{32}$'),
	name text NOT NULL UNIQUE,
	node_password text NOT NULL,		-- of role neon_t_<id> on every node
	role_password text NOT NULL,		-- of role postgres inside the tenant's databases, as it was created
	created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE timelines (
	id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{32}$'),
	tenant text NOT NULL REFERENCES tenants,
	ancestor text REFERENCES timelines,
	start_lsn pg_lsn NOT NULL,			-- the branch point, or the end of a new cluster's log
	system_id text NOT NULL,
	wal_seg_size int NOT NULL,
	pageserver text NOT NULL REFERENCES nodes,
	safekeepers text[] NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON timelines (tenant);
CREATE INDEX ON timelines (ancestor);

CREATE TABLE branches (
	tenant text NOT NULL REFERENCES tenants,
	name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
	timeline text NOT NULL UNIQUE REFERENCES timelines,
	protected bool NOT NULL DEFAULT false,
	settings jsonb NOT NULL DEFAULT '{}',	-- of the servers of its endpoints
	created_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (tenant, name)
);
COMMENT ON TABLE branches IS 'names of timelines; a restore gives the name to another timeline';

CREATE TABLE endpoints (
	tenant text NOT NULL REFERENCES tenants,
	name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
	timeline text NOT NULL REFERENCES timelines,
	mode text NOT NULL DEFAULT 'read-write' CHECK (mode IN ('read-write', 'replica', 'static')),
	lsn pg_lsn,							-- what a static endpoint shows: its timeline, or that of an ancestor, as of this LSN, for ever
	compute text NOT NULL REFERENCES nodes,
	provider text NOT NULL DEFAULT 'local',		-- the one that has made it
	directory text NOT NULL UNIQUE,
	host text NOT NULL,
	port int NOT NULL,
	wanted text NOT NULL DEFAULT 'running' CHECK (wanted IN ('running', 'suspended')),
	settings jsonb NOT NULL DEFAULT '{}',
	created_at timestamptz NOT NULL DEFAULT now(),
	started_at timestamptz,
	PRIMARY KEY (tenant, name),
	UNIQUE (compute, port),
	CHECK ((mode = 'static') = (lsn IS NOT NULL))
);
CREATE UNIQUE INDEX one_writer ON endpoints (timeline) WHERE mode = 'read-write';
CREATE INDEX ON endpoints (timeline);

-- A tenant is attached to a pageserver under a generation; see generations.sql.  A row is committed before the pageserver hears of it: it may be
-- there before the tenant's own, and stay for a moment when that is gone.
CREATE TABLE attachments (
	tenant text NOT NULL,
	pageserver text NOT NULL REFERENCES nodes,
	generation bigint NOT NULL,
	up_since timestamptz,				-- the start of the pageserver it was last attached after
	attached_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (tenant, pageserver)
);
COMMENT ON TABLE attachments IS 'generations of tenants on pageservers';

-- Which safekeepers had a timeline when one of its computes was started: they may have voted, and acknowledged.  Written aside, before the start.
CREATE TABLE acceptors (
	timeline text,
	safekeeper text,
	PRIMARY KEY (timeline, safekeeper)
);
COMMENT ON TABLE acceptors IS 'safekeepers that had a timeline when a compute of it was started; one that does not know it any more has lost its disk';

SELECT pg_catalog.pg_extension_config_dump('nodes', '');
SELECT pg_catalog.pg_extension_config_dump('tenants', '');
SELECT pg_catalog.pg_extension_config_dump('timelines', '');
SELECT pg_catalog.pg_extension_config_dump('branches', '');
SELECT pg_catalog.pg_extension_config_dump('endpoints', '');
SELECT pg_catalog.pg_extension_config_dump('attachments', '');
SELECT pg_catalog.pg_extension_config_dump('acceptors', '');
