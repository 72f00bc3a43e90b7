\echo Use "CREATE EXTENSION neon_controller" to load this file. \quit

-- SPDX-License-Identifier: Apache-2.0
--
-- What must last is in tables: nodes, tenants, timelines, branches, endpoints.  Whatever a node or a process can
-- tell about itself is asked when it is needed.
--
-- Order of every change: what is created is created on the nodes first, idempotently and under a new id, then comes the row that
-- makes it real; what is dropped loses its row first.  A crash between the two leaves something on a node that no row names,
-- and never a row that names nothing.  For timelines it is noted before (leftovers), and cleaned up later.
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
	registered_at timestamptz NOT NULL DEFAULT now(),
	state text NOT NULL DEFAULT 'registered',
	last_seen timestamptz,
	up_since timestamptz,
	missed int NOT NULL DEFAULT 0,		-- heartbeats without an answer, one after another
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
	state text NOT NULL DEFAULT 'open',
	protected bool NOT NULL GENERATED ALWAYS AS (state = 'protected') STORED,
	settings jsonb NOT NULL DEFAULT '{}',	-- of the servers of its endpoints
	created_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (tenant, name)
);
COMMENT ON TABLE branches IS 'names of timelines; a restore gives the name to another timeline';

CREATE TABLE endpoints (
	tenant text NOT NULL REFERENCES tenants,
	name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
	timeline text NOT NULL UNIQUE REFERENCES timelines,		-- one writer a timeline
	compute text NOT NULL REFERENCES nodes,
	directory text NOT NULL UNIQUE,
	host text NOT NULL,
	port int NOT NULL,
	wanted text NOT NULL DEFAULT 'running' CHECK (wanted IN ('running', 'suspended')),
	state text NOT NULL DEFAULT 'new',	-- as it was last seen; see state_machine('endpoint')
	settings jsonb NOT NULL DEFAULT '{}',
	created_at timestamptz NOT NULL DEFAULT now(),
	started_at timestamptz,
	PRIMARY KEY (tenant, name),
	UNIQUE (compute, port)
);

-- A tenant is attached to a pageserver under a generation; a node refuses what comes with an older one than it has heard of.  Numbers
-- only grow, and are committed before they are used.
CREATE TABLE attachments (
	tenant text NOT NULL REFERENCES tenants ON DELETE CASCADE,
	pageserver text NOT NULL REFERENCES nodes,
	generation bigint NOT NULL,
	attached_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (tenant, pageserver)
);
COMMENT ON TABLE attachments IS 'generations of tenants on pageservers';

-- What was asked for; see operations.sql.  It outlives what it is about, so it refers to nothing.
CREATE TABLE operations (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	tenant text,
	kind text NOT NULL,
	object text,
	args jsonb NOT NULL DEFAULT '{}',
	state text NOT NULL DEFAULT 'running',
	committed bool NOT NULL DEFAULT false,		-- it has passed the point after which it can only be finished
	attempts int NOT NULL DEFAULT 1,
	who text NOT NULL,
	started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	finished_at timestamptz,
	next_try_at timestamptz,
	sqlstate text,
	error text
);
CREATE INDEX ON operations (state) WHERE state IN ('running', 'failed', 'finishing');
COMMENT ON TABLE operations IS 'log of control operations';

CREATE TABLE operation_steps (
	operation bigint NOT NULL REFERENCES operations ON DELETE CASCADE,
	number int NOT NULL,
	step text NOT NULL,
	node text,
	started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	finished_at timestamptz,
	error text,
	PRIMARY KEY (operation, number)
);
COMMENT ON TABLE operation_steps IS 'steps of control operations';

-- What nodes may have and nobody wants: timelines, data directories of computes, tenants.  Being created, or dropped and not yet gone
-- everywhere.  Not dumped: an old note about what was finished later would be dangerous.  What has a row is never removed.
CREATE TABLE leftovers (
	kind text NOT NULL CHECK (kind IN ('timeline', 'compute', 'tenant')),
	id text NOT NULL,
	state text NOT NULL,
	tenant text NOT NULL,
	nodes text[] NOT NULL,
	operation bigint,					-- that it is from
	cleaning bigint,					-- the operation that removes it, once that was tried in vain
	noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	attempts int NOT NULL DEFAULT 0,
	next_try_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	error text,
	PRIMARY KEY (kind, id)
);
COMMENT ON TABLE leftovers IS 'what is to be removed from nodes unless it gets a row';

SELECT pg_catalog.pg_extension_config_dump('nodes', '');
SELECT pg_catalog.pg_extension_config_dump('tenants', '');
SELECT pg_catalog.pg_extension_config_dump('timelines', '');
SELECT pg_catalog.pg_extension_config_dump('branches', '');
SELECT pg_catalog.pg_extension_config_dump('endpoints', '');
SELECT pg_catalog.pg_extension_config_dump('attachments', '');
