-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- state machines, as data
--
-- What is written here is what happens: next_state() is how operations move, the reconciler calls the action of the state it finds, and
-- a change of state that is no row here is refused by a trigger on the table that has the state.

CREATE TABLE states (
	machine text NOT NULL,
	state text NOT NULL,
	kind text NOT NULL CHECK (kind IN ('start', 'passing', 'steady', 'final')),
	meaning text NOT NULL,
	PRIMARY KEY (machine, state)
);
COMMENT ON TABLE states IS 'of state machines: a thing begins in the start state, may stay in a steady one, leaves a passing one, and ends in a final one';

CREATE TABLE transitions (
	machine text NOT NULL,
	state text NOT NULL,
	event text NOT NULL,
	next text NOT NULL,
	action text,				-- function of the reconciler that brings it about: true when it has
	PRIMARY KEY (machine, state, event),
	FOREIGN KEY (machine, state) REFERENCES states,
	FOREIGN KEY (machine, next) REFERENCES states (machine, state)
);
COMMENT ON TABLE transitions IS 'of state machines: what can happen in a state, what it becomes, and what the reconciler does for it';

INSERT INTO states VALUES
	('operation', 'running', 'start', 'its session is at it; it can be undone'),
	('operation', 'committed', 'passing', 'its session is at it; it can only be finished'),
	('operation', 'undoing', 'passing', 'it did not happen, and what it has begun is taken back'),
	('operation', 'finishing', 'passing', 'it has happened, and what is left of it is done'),
	('operation', 'done', 'final', 'it has happened'),
	('operation', 'undone', 'final', 'it did not happen, and has left nothing'),
	('endpoint', 'new', 'start', 'has an address, was never started'),
	('endpoint', 'running', 'steady', 'is to take connections'),
	('endpoint', 'crashed', 'passing', 'has crashed lately, and is started again'),
	('endpoint', 'given up', 'steady', 'has crashed too often in a row to be started again by itself'),
	('endpoint', 'suspended', 'steady', 'has no server until somebody needs it'),
	('endpoint', 'dropped', 'final', 'is no more'),
	('node', 'registered', 'start', 'was not asked yet, and is taken to be there'),
	('node', 'online', 'steady', 'answers, and gets what is new'),
	('node', 'offline', 'steady', 'does not answer; what it has stays where it is'),
	('node', 'draining', 'steady', 'answers, and gets nothing new: somebody has said so'),
	('node', 'draining offline', 'steady', 'does not answer, and gets nothing new when it does again'),
	('node', 'removed', 'final', 'is known no more');

INSERT INTO transitions VALUES
	('operation', 'running', 'passes its commit point', 'committed', NULL),
	('operation', 'running', 'ends', 'done', NULL),
	('operation', 'running', 'ends, and a node is behind', 'finishing', NULL),
	('operation', 'running', 'fails before its first step', 'undone', NULL),
	('operation', 'running', 'fails', 'undoing', NULL),
	('operation', 'running', 'its session is gone', 'undoing', 'session_is_gone'),
	('operation', 'committed', 'ends', 'done', NULL),
	('operation', 'committed', 'ends, and a node is behind', 'finishing', NULL),
	('operation', 'committed', 'fails', 'finishing', NULL),
	('operation', 'committed', 'its session is gone', 'finishing', 'session_is_gone'),
	('operation', 'undoing', 'nothing is left of it', 'undone', 'undo_operation'),
	('operation', 'finishing', 'nothing is left to do', 'done', 'finish_operation'),
	('endpoint', 'new', 'was started', 'running', NULL),
	('endpoint', 'new', 'was suspended', 'suspended', NULL),
	('endpoint', 'new', 'was dropped', 'dropped', NULL),
	('endpoint', 'running', 'was suspended', 'suspended', NULL),
	('endpoint', 'running', 'has crashed', 'crashed', NULL),
	('endpoint', 'running', 'has crashed again and again', 'given up', NULL),
	('endpoint', 'running', 'was dropped', 'dropped', NULL),
	('endpoint', 'crashed', 'stays up, or was started by somebody', 'running', NULL),
	('endpoint', 'crashed', 'has crashed again and again', 'given up', NULL),
	('endpoint', 'crashed', 'was suspended', 'suspended', NULL),
	('endpoint', 'crashed', 'was dropped', 'dropped', NULL),
	('endpoint', 'given up', 'was started by somebody', 'running', NULL),
	('endpoint', 'given up', 'was suspended', 'suspended', NULL),
	('endpoint', 'given up', 'was dropped', 'dropped', NULL),
	('endpoint', 'suspended', 'was started', 'running', NULL),
	('endpoint', 'suspended', 'was dropped', 'dropped', NULL),
	('node', 'registered', 'answers', 'online', NULL),
	('node', 'registered', 'does not answer twice', 'offline', NULL),
	('node', 'registered', 'is drained', 'draining', NULL),
	('node', 'registered', 'is activated', 'registered', NULL),
	('node', 'registered', 'has a new address', 'registered', NULL),
	('node', 'registered', 'is removed', 'removed', NULL),
	('node', 'online', 'answers', 'online', NULL),
	('node', 'online', 'does not answer twice', 'offline', NULL),
	('node', 'online', 'is drained', 'draining', NULL),
	('node', 'online', 'is activated', 'online', NULL),
	('node', 'online', 'has a new address', 'registered', NULL),
	('node', 'offline', 'answers', 'online', NULL),
	('node', 'offline', 'does not answer twice', 'offline', NULL),
	('node', 'offline', 'is drained', 'draining offline', NULL),
	('node', 'offline', 'is activated', 'offline', NULL),
	('node', 'offline', 'has a new address', 'registered', NULL),
	('node', 'offline', 'is removed', 'removed', NULL),
	('node', 'draining', 'answers', 'draining', NULL),
	('node', 'draining', 'does not answer twice', 'draining offline', NULL),
	('node', 'draining', 'is drained', 'draining', NULL),
	('node', 'draining', 'is activated', 'registered', NULL),
	('node', 'draining', 'has a new address', 'draining', NULL),
	('node', 'draining', 'is removed', 'removed', NULL),
	('node', 'draining offline', 'answers', 'draining', NULL),
	('node', 'draining offline', 'does not answer twice', 'draining offline', NULL),
	('node', 'draining offline', 'is drained', 'draining offline', NULL),
	('node', 'draining offline', 'is activated', 'offline', NULL),
	('node', 'draining offline', 'has a new address', 'draining', NULL),
	('node', 'draining offline', 'is removed', 'removed', NULL);

CREATE FUNCTION state_machine(name text = NULL, OUT machine text, OUT state text, OUT kind text, OUT event text, OUT next text, OUT action text, OUT meaning text)
RETURNS SETOF record LANGUAGE sql STABLE AS $$
	SELECT s.machine, s.state, s.kind, t.event, t.next, t.action, s.meaning
	FROM @extschema@.states s LEFT JOIN @extschema@.transitions t ON t.machine = s.machine AND t.state = s.state
	WHERE name IS NULL OR s.machine = name ORDER BY s.machine, array_position('{start,passing,steady,final}', s.kind), s.state, t.event;
$$;
COMMENT ON FUNCTION state_machine(text) IS
	'the state machine of that name, or all: what can happen in each state, what comes after, and which function of the reconciler brings it about';

-- What is wrong with a machine: no rows if every state can be reached from the start, and an end or rest from every state.
CREATE FUNCTION state_machine_problems(OUT machine text, OUT state text, OUT problem text) RETURNS SETOF record LANGUAGE sql STABLE AS $$
	WITH RECURSIVE reach AS (
		SELECT s.machine, s.state FROM @extschema@.states s WHERE s.kind = 'start'
		UNION SELECT t.machine, t.next FROM reach r JOIN @extschema@.transitions t ON t.machine = r.machine AND t.state = r.state
	), rest AS (
		SELECT s.machine, s.state FROM @extschema@.states s WHERE s.kind IN ('steady', 'final')
		UNION SELECT t.machine, t.state FROM rest r JOIN @extschema@.transitions t ON t.machine = r.machine AND t.next = r.state
	)
	SELECT s.machine, s.state, 'cannot be reached' FROM @extschema@.states s
	WHERE NOT EXISTS (SELECT FROM reach r WHERE (r.machine, r.state) = (s.machine, s.state))
	UNION ALL SELECT s.machine, s.state, 'leads to no end and no rest' FROM @extschema@.states s
	WHERE NOT EXISTS (SELECT FROM rest r WHERE (r.machine, r.state) = (s.machine, s.state))
	UNION ALL SELECT t.machine, t.state, 'is final, and goes on' FROM @extschema@.transitions t JOIN @extschema@.states s USING (machine, state)
	WHERE s.kind = 'final'
	UNION ALL SELECT s.machine, min(s.state), 'not one start state' FROM @extschema@.states s GROUP BY s.machine HAVING count(*) FILTER (WHERE s.kind = 'start') <> 1
	UNION ALL SELECT t.machine, t.state, format('there is no function %s(bigint)', t.action) FROM @extschema@.transitions t
	WHERE t.action IS NOT NULL AND to_regprocedure(format('@extschema@.%I(bigint)', t.action)) IS NULL;
$$;
COMMENT ON FUNCTION state_machine_problems() IS 'states that cannot be reached, or lead to no end; none, if all is well';

CREATE FUNCTION next_state(of_machine text, from_state text, on_event text) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE found_next text;
BEGIN
	SELECT t.next INTO found_next FROM @extschema@.transitions t WHERE t.machine = of_machine AND t.state = from_state AND t.event = on_event;
	IF NOT FOUND THEN
		RAISE EXCEPTION '% in state "%": "%" cannot happen', of_machine, from_state, on_event USING ERRCODE = 'NE013',
			HINT = format('See neon_controller.state_machine(%L).', of_machine);
	END IF;
	RETURN found_next;
END $$;
COMMENT ON FUNCTION next_state(text, text, text) IS 'what a state becomes with an event; an error when that cannot happen in it';

CREATE FUNCTION check_way(of_machine text, from_state text, to_state text) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
	IF from_state IS DISTINCT FROM to_state AND NOT EXISTS (SELECT FROM @extschema@.transitions t
			WHERE t.machine = of_machine AND t.state = from_state AND t.next = to_state) THEN
		RAISE EXCEPTION '%: there is no way from state "%" to "%"', of_machine, from_state, to_state USING ERRCODE = 'NE013',
			HINT = format('See neon_controller.state_machine(%L).', of_machine);
	END IF;
END $$;
COMMENT ON FUNCTION check_way(text, text, text) IS 'refuse a change of state that is in no state machine';

-- An endpoint's state follows from what is written about it.
CREATE FUNCTION endpoint_state(e endpoints) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE WHEN e.wanted = 'suspended' THEN 'suspended' WHEN e.started_at IS NULL THEN 'new'
		WHEN e.crashes >= 10 THEN 'given up' WHEN e.crashes > 0 THEN 'crashed' ELSE 'running' END;
$$;
COMMENT ON FUNCTION endpoint_state(endpoints) IS 'the state of an endpoint in state_machine(''endpoint'')';

CREATE FUNCTION check_endpoint_state() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM @extschema@.check_way('endpoint', @extschema@.endpoint_state(OLD),
		CASE TG_OP WHEN 'DELETE' THEN 'dropped' ELSE @extschema@.endpoint_state(NEW) END);
	RETURN NULL;
END $$;
COMMENT ON FUNCTION check_endpoint_state() IS 'trigger: an endpoint changes as its state machine says';
CREATE TRIGGER check_state AFTER UPDATE OF wanted, started_at, crashes OR DELETE ON endpoints FOR EACH ROW EXECUTE FUNCTION check_endpoint_state();

CREATE FUNCTION check_operation_state() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM @extschema@.check_way('operation', OLD.state, NEW.state);
	RETURN NULL;
END $$;
COMMENT ON FUNCTION check_operation_state() IS 'trigger: an operation changes as its state machine says';
CREATE TRIGGER check_state AFTER UPDATE OF state ON operations FOR EACH ROW EXECUTE FUNCTION check_operation_state();

-- A node that something is on does not go: foreign keys keep those of pageservers and hosts, and safekeepers are in arrays.
CREATE FUNCTION check_node_state() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM @extschema@.check_way('node', OLD.state, CASE TG_OP WHEN 'DELETE' THEN 'removed' ELSE NEW.state END);
	IF TG_OP = 'DELETE' AND current_setting('transaction_isolation') NOT LIKE 'read %' THEN
		RAISE EXCEPTION 'removing a node needs isolation level "read committed"' USING ERRCODE = 'invalid_transaction_state',
			DETAIL = 'Only there it sees what was put on the node meanwhile.', HINT = 'Begin the transaction with READ COMMITTED, or do it outside of one.';
	ELSIF TG_OP = 'DELETE' THEN
		PERFORM @extschema@.check_node_is_empty(OLD);
	END IF;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION check_node_state() IS 'trigger: a node changes as its state machine says, and goes only when nothing is on it';
CREATE TRIGGER check_state AFTER UPDATE OF state OR DELETE ON nodes FOR EACH ROW EXECUTE FUNCTION check_node_state();
