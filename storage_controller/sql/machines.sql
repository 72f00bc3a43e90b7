-- SPDX-License-Identifier: Apache-2.0
-- ---------------------------------------------------------------- state machines, as data
--
-- What is written here is what happens: a change of state that is not a row is refused by a trigger of the table that has the state.
-- A row that is inserted begins in a state of the machine; a row that is deleted goes to the state the trigger names.

CREATE TABLE states (
	machine text NOT NULL,
	state text NOT NULL,
	begins bool NOT NULL DEFAULT false,
	final bool NOT NULL DEFAULT false,
	comment text NOT NULL,
	PRIMARY KEY (machine, state)
);

CREATE TABLE transitions (
	machine text NOT NULL,
	state text NOT NULL,
	event text NOT NULL,
	next text NOT NULL,
	action text NOT NULL,
	PRIMARY KEY (machine, state, event),
	FOREIGN KEY (machine, state) REFERENCES states,
	FOREIGN KEY (machine, next) REFERENCES states (machine, state)
);

INSERT INTO states VALUES
	('node', 'registered', true, false, 'made known, has not answered yet'),
	('node', 'online', false, false, 'answers'),
	('node', 'offline', false, false, 'does not answer; gets nothing new'),
	('node', 'removed', false, true, 'not known any more'),
	('timeline', 'creating', true, false, 'on some of its nodes; noted in leftovers'),
	('timeline', 'active', false, false, 'on its nodes, and has a row'),
	('timeline', 'dropping', false, false, 'has no row any more, is still on a node; noted in leftovers'),
	('timeline', 'gone', false, true, 'on no node'),
	('branch', 'open', true, false, 'can be changed and dropped'),
	('branch', 'protected', false, false, 'cannot be dropped, reset or restored'),
	('branch', 'dropped', false, true, 'has no name any more'),
	('endpoint', 'new', true, false, 'has an address, was never started'),
	('endpoint', 'starting', false, false, 'a start is under way'),
	('endpoint', 'running', false, false, 'takes connections'),
	('endpoint', 'stopped', false, false, 'should run and does not'),
	('endpoint', 'suspended', false, false, 'does not run, and is to be started when it is wanted'),
	('endpoint', 'dropped', false, true, 'has no address any more'),
	('operation', 'running', true, false, 'a session is at it'),
	('operation', 'finishing', false, false, 'cannot be undone any more; the reconciler finishes it'),
	('operation', 'failed', false, false, 'did not happen; what it left is being removed'),
	('operation', 'done', false, true, 'has happened'),
	('operation', 'undone', false, true, 'did not happen, and has left nothing');

INSERT INTO transitions VALUES
	('node', 'registered', 'answers a heartbeat', 'online', 'may get timelines and endpoints'),
	('node', 'registered', 'does not answer', 'offline', 'none'),
	('node', 'registered', 'is removed', 'removed', 'none'),
	('node', 'online', 'does not answer', 'offline', 'nothing new is placed on it'),
	('node', 'offline', 'answers a heartbeat', 'online', 'a pageserver that was restarted gets new generations'),
	('node', 'online', 'is removed', 'removed', 'none'),
	('node', 'offline', 'is removed', 'removed', 'none'),
	('timeline', 'creating', 'its row is committed', 'active', 'the note goes'),
	('timeline', 'creating', 'its operation fails', 'dropping', 'nodes are told to drop it'),
	('timeline', 'active', 'its row is deleted', 'dropping', 'nodes are told to drop it'),
	('timeline', 'dropping', 'all nodes have dropped it', 'gone', 'the note goes'),
	('branch', 'open', 'is protected', 'protected', 'none'),
	('branch', 'protected', 'is not protected any more', 'open', 'none'),
	('branch', 'open', 'is dropped', 'dropped', 'its timeline goes'),
	('endpoint', 'new', 'is being started', 'starting', 'elect, fetch, start'),
	('endpoint', 'new', 'takes connections', 'running', 'none'),
	('endpoint', 'new', 'is suspended', 'suspended', 'none'),
	('endpoint', 'new', 'has no process', 'stopped', 'none'),
	('endpoint', 'new', 'is dropped', 'dropped', 'directory removed'),
	('endpoint', 'starting', 'takes connections', 'running', 'none'),
	('endpoint', 'starting', 'has no process', 'stopped', 'none'),
	('endpoint', 'starting', 'is suspended', 'suspended', 'stop'),
	('endpoint', 'starting', 'is dropped', 'dropped', 'stop, directory removed'),
	('endpoint', 'running', 'has no process', 'stopped', 'none'),
	('endpoint', 'running', 'is suspended', 'suspended', 'stop'),
	('endpoint', 'running', 'is dropped', 'dropped', 'stop, directory removed'),
	('endpoint', 'stopped', 'is being started', 'starting', 'elect, fetch, start'),
	('endpoint', 'stopped', 'takes connections', 'running', 'none'),
	('endpoint', 'stopped', 'is suspended', 'suspended', 'none'),
	('endpoint', 'stopped', 'is dropped', 'dropped', 'directory removed'),
	('endpoint', 'suspended', 'is being started', 'starting', 'elect, fetch, start'),
	('endpoint', 'suspended', 'takes connections', 'running', 'none'),
	('endpoint', 'suspended', 'is dropped', 'dropped', 'directory removed'),
	('operation', 'running', 'ends', 'done', 'none'),
	('operation', 'running', 'error or its session is gone', 'failed', 'leftovers are removed'),
	('operation', 'running', 'error or its session is gone, after its commit', 'finishing', 'the rest is done'),
	('operation', 'finishing', 'the rest is done', 'done', 'none'),
	('operation', 'failed', 'no leftovers of it are there', 'undone', 'none');

CREATE FUNCTION state_machine(name text, OUT state text, OUT event text, OUT next text, OUT action text, OUT comment text)
RETURNS SETOF record LANGUAGE sql STABLE AS $$
	SELECT s.state, t.event, t.next, t.action, s.comment
	FROM @extschema@.states s LEFT JOIN @extschema@.transitions t ON t.machine = s.machine AND t.state = s.state
	WHERE s.machine = name ORDER BY s.begins DESC, s.final, s.state, t.event;
$$;
COMMENT ON FUNCTION state_machine(text) IS
	'The state machine of a node, timeline, branch, endpoint or operation: what can happen in each state, and what comes after. Final states have no event.';

-- TG_ARGV: machine, expression column, state of a deleted row
CREATE FUNCTION check_transition() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	old_state text;
	new_state text := TG_ARGV[2];
	allowed bool;
BEGIN
	IF TG_OP <> 'DELETE' THEN
		new_state := to_jsonb(NEW) ->> TG_ARGV[1];
	END IF;
	IF TG_OP <> 'INSERT' THEN
		old_state := to_jsonb(OLD) ->> TG_ARGV[1];
	END IF;
	IF old_state IS NULL THEN
		allowed := EXISTS (SELECT FROM @extschema@.states s WHERE s.machine = TG_ARGV[0] AND s.state = new_state);
	ELSE
		allowed := old_state = new_state OR EXISTS (SELECT FROM @extschema@.transitions t
			WHERE t.machine = TG_ARGV[0] AND t.state = old_state AND t.next = new_state);
	END IF;
	IF NOT allowed THEN
		RAISE EXCEPTION 'state machine "%" has no way from "%" to "%"', TG_ARGV[0], old_state, new_state USING ERRCODE = 'NE013',
			HINT = format('See neon_controller.state_machine(%L).', TG_ARGV[0]);
	END IF;
	IF TG_OP = 'DELETE' THEN
		RETURN OLD;
	END IF;
	RETURN NEW;
END $$;

CREATE TRIGGER check_transition BEFORE INSERT OR UPDATE OR DELETE ON nodes
	FOR EACH ROW EXECUTE FUNCTION check_transition('node', 'state', 'removed');
CREATE TRIGGER check_transition BEFORE INSERT OR UPDATE OR DELETE ON branches
	FOR EACH ROW EXECUTE FUNCTION check_transition('branch', 'state', 'dropped');
CREATE TRIGGER check_transition BEFORE INSERT OR UPDATE ON operations
	FOR EACH ROW EXECUTE FUNCTION check_transition('operation', 'state');
CREATE TRIGGER check_transition BEFORE INSERT OR UPDATE ON leftovers
	FOR EACH ROW WHEN (NEW.kind = 'timeline') EXECUTE FUNCTION check_transition('timeline', 'state');
CREATE TRIGGER zz_check_transition BEFORE INSERT OR UPDATE OR DELETE ON endpoints
	FOR EACH ROW EXECUTE FUNCTION check_transition('endpoint', 'state', 'dropped');

-- An endpoint's state follows from what is written about it.  (Named to fire before the check.)
CREATE FUNCTION endpoint_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.state IS DISTINCT FROM OLD.state THEN
		NULL;
	ELSIF NEW.wanted = 'suspended' THEN
		NEW.state := 'suspended';
	ELSIF NEW.started_at IS DISTINCT FROM OLD.started_at OR OLD.wanted = 'suspended' THEN
		NEW.state := 'running';
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER endpoint_state BEFORE UPDATE ON endpoints FOR EACH ROW EXECUTE FUNCTION endpoint_state();

-- A timeline is noted again when its row goes.
CREATE FUNCTION timeline_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO @extschema@.leftovers (kind, id, state, tenant, nodes, operation)
	VALUES ('timeline', OLD.id, 'dropping', OLD.tenant, OLD.pageserver || OLD.safekeepers, @extschema@.current_operation())
	ON CONFLICT (kind, id) DO UPDATE SET state = 'dropping';
	RETURN OLD;
END $$;
CREATE TRIGGER timeline_row AFTER DELETE ON timelines FOR EACH ROW EXECUTE FUNCTION timeline_row();

-- A server's directory and a tenant's roles on nodes are noted before there are any, and when their row goes.
CREATE FUNCTION endpoint_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	l @extschema@.leftovers;
	why text;
BEGIN
	IF TG_OP = 'INSERT' THEN
		SELECT * INTO l FROM @extschema@.leftovers x WHERE x.kind = 'compute' AND x.id = NEW.directory FOR UPDATE;
		IF FOUND THEN
			why := @extschema@.remove_leftover(l);
			IF why IS NOT NULL THEN
				RAISE EXCEPTION 'the server of an endpoint of that name that was dropped is still there' USING ERRCODE = 'object_in_use',
					DETAIL = why, HINT = 'Choose another name, or try again when its host is back.';
			END IF;
			DELETE FROM @extschema@.leftovers x WHERE x.kind = 'compute' AND x.id = NEW.directory;
			RETURN NEW;
		END IF;
		PERFORM @extschema@.note_leftover('compute', NEW.directory, NEW.tenant, ARRAY[NEW.compute]);
		RETURN NEW;
	END IF;
	INSERT INTO @extschema@.leftovers (kind, id, state, tenant, nodes, operation)
	VALUES ('compute', OLD.directory, 'dropping', OLD.tenant, ARRAY[OLD.compute], @extschema@.current_operation())
	ON CONFLICT (kind, id) DO UPDATE SET state = 'dropping';
	RETURN OLD;
END $$;
CREATE TRIGGER endpoint_row AFTER INSERT OR DELETE ON endpoints FOR EACH ROW EXECUTE FUNCTION endpoint_row();

CREATE FUNCTION tenant_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE all_nodes text[] := ARRAY(SELECT n.name FROM @extschema@.nodes n WHERE n.role IN ('pageserver', 'safekeeper'));
BEGIN
	IF TG_OP = 'INSERT' THEN
		PERFORM @extschema@.note_leftover('tenant', NEW.id, NEW.id, all_nodes);
		RETURN NEW;
	END IF;
	INSERT INTO @extschema@.leftovers (kind, id, state, tenant, nodes, operation)
	VALUES ('tenant', OLD.id, 'dropping', OLD.id, all_nodes, @extschema@.current_operation())
	ON CONFLICT (kind, id) DO UPDATE SET state = 'dropping';
	RETURN OLD;
END $$;
CREATE TRIGGER tenant_row AFTER INSERT OR DELETE ON tenants FOR EACH ROW EXECUTE FUNCTION tenant_row();
