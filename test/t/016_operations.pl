# Operations of the control plane end: the controller is killed at each step of each kind of operation, and every one is finished or undone;
# nothing stays on nodes, endpoints are as their rows say.  Also what can be seen of operations, by whom, and the state machines.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use NeonCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $rounds = $ENV{NEON_ROUNDS} // 1;
my $c = NeonCluster->new(init => [ '--safekeepers', 1 ], conf => { controller => "neon_controller.reconcile_interval = 300ms\nneon_controller.operations_kept = 1000" });
$c->start;

sub try_ctl { my ($sql) = @_; return $c->psql_uri($c->node_uri('controller'), $sql, timeout => 180); }
sub ctl { my ($sql) = @_; return $c->node_sql('controller', $sql); }
sub words { my ($s) = @_; return join ' ', sort split / /, $s // ''; }

# ---- kinds of operations.  tenant: each has one of its own where the operation locks it.  commits: the last step that can be undone.
my %kind = (
	create_tenant => { tenant => '', sql => q{SELECT neon_create_tenant('tn')}, again => q{SELECT neon_drop_tenant('tn')} },
	drop_tenant => { tenant => '', sql => q{SELECT neon_drop_tenant('tf')}, again => q{SELECT neon_create_tenant('tf')}, commits => 2 },
	create_branch => { tenant => 'default', sql => q{SELECT neon_create_branch('x', parent => 'main')}, again => q{SELECT neon_drop_branch('x')} },
	start_endpoint => { tenant => 'default', sql => q{SELECT neon_start_endpoint('s1')}, again => q{SELECT neon_suspend_endpoint('s1')} },
	suspend_endpoint => { tenant => 'default', sql => q{SELECT neon_suspend_endpoint('s2')}, again => q{SELECT neon_start_endpoint('s2')} },
	drop_endpoint => { tenant => 'default', sql => q{SELECT neon_drop_endpoint('s3')}, again => q{SELECT neon_create_endpoint('s3')} },
	drop_branch => { tenant => 'tb', sql => q{SELECT neon_drop_branch('b', cascade => true)}, commits => 2,
		again => q{SELECT neon_create_branch('b', parent => 'main'); SELECT neon_create_branch('b2', parent => 'b'); SELECT neon_create_endpoint('b')} },
	reset_branch => { tenant => 'tc', sql => q{SELECT neon_reset_branch('c')}, again => '', commits => 4, marks => 'c' },
	restore_branch => { tenant => 'td', again => '', commits => 4, marks => 'd',
		sql => q{SELECT neon_restore_branch('d', at_lsn => (SELECT start_lsn FROM neon_branches WHERE name = 'd'), keep_as => 'old' || txid_current())} },
	configure_endpoint => { tenant => 'default', again => '', sql => q{SELECT neon_configure_endpoint('main', '{"roles": [{"name": "configured"}]}')} },
	create_endpoint => { tenant => 'te', sql => q{SELECT neon_create_endpoint('e')}, again => q{SELECT neon_drop_endpoint('e')} },
);

ctl(q{
	SELECT neon_create_tenant(n) FROM unnest('{tb,tc,td,te,tf}'::text[]) n;
	SET neon.tenant = 'default';
	SELECT neon_create_branch(n, parent => 'main'), neon_create_endpoint(n) FROM unnest('{s1,s2,s3}'::text[]) n;
	SELECT neon_suspend_endpoint('s1');
	SET neon.tenant = 'tb'; SELECT neon_drop_endpoint('main');
	SELECT neon_create_branch('b', parent => 'main'); SELECT neon_create_branch('b2', parent => 'b'); SELECT neon_create_endpoint('b');
	SET neon.tenant = 'tc'; SELECT neon_create_branch('c', parent => 'main'), neon_create_endpoint('c');
	SET neon.tenant = 'td'; SELECT neon_create_branch('d', parent => 'main'), neon_create_endpoint('d'); SELECT neon_drop_endpoint('main');
	SET neon.tenant = 'te'; SELECT neon_create_branch('e', parent => 'main'); SELECT neon_drop_endpoint('main')});

sub in_tenant { my ($k) = @_; return $k->{tenant} ? "SET neon.tenant = '$k->{tenant}'; " : ''; }
# A table that a branch has, and what it was made of has not.
sub endpoint_uri
{
	my ($k) = @_;
	return $k->{uri} //= ctl("SELECT neon_controller.endpoint_uri(e) FROM neon_controller.endpoints e JOIN neon_controller.tenants t ON t.id = e.tenant
		WHERE t.name = '$k->{tenant}' AND e.name = '$k->{marks}'");
}
sub mark { my ($k) = @_; my ($rc, undef, $err) = $c->psql_uri(endpoint_uri($k), 'SET client_min_messages = error; CREATE TABLE IF NOT EXISTS mark (a int)'); die $err if $rc; return; }
sub is_marked { my ($k) = @_; return ($c->psql_uri(endpoint_uri($k), q{SELECT to_regclass('mark') IS NOT NULL}))[1]; }
mark($_) for grep { $_->{marks} } values %kind;

my %session;
sub ask
{
	my ($name, $step) = @_;
	my $k = $kind{$name};
	$session{$name} = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', (map { ('-c', $_) } "SET neon_controller.pause_at_step = $step",
			$k->{tenant} ? "SET neon.tenant = '$k->{tenant}'" : (), $k->{sql}), $c->node_uri('controller') ], '<', '/dev/null', '>', \my $out, '2>', \$k->{err}, IPC::Run::timeout(300));
	return;
}
sub answers { for my $n (keys %session) { $session{$n}->finish; $kind{$n}{rc} = $session{$n}->result(0) } %session = (); return; }

# Everything is where it belongs, and nothing else is anywhere.
sub all_is_well
{
	my ($when) = @_;
	my $roles = q{(SELECT string_agg(substr(rolname, 8), ' ') FROM pg_roles WHERE rolname ~ '^neon_t_[0-9a-f]')};
	my ($timelines, $tenants, $controller, $computes, $wrong, $leftovers) = split /\|/, ctl(qq{SELECT (SELECT string_agg(id, ' ') FROM neon_controller.timelines),
		(SELECT string_agg(id, ' ') FROM neon_controller.tenants), $roles, (SELECT string_agg(directory, ' ') FROM neon_controller.endpoints),
		(SELECT string_agg(format('%s of %s', e.name, t.name), ', ') FROM neon_controller.endpoints e JOIN neon_controller.tenants t ON t.id = e.tenant
			WHERE (wanted = 'running') IS DISTINCT FROM (neon_controller.endpoint_pid(e) IS NOT NULL)),
		(SELECT count(*) FROM neon_controller.leftovers)});
	my ($ps_timelines, $ps) = split /\|/, $c->node_sql('pageserver-1', "SELECT (SELECT string_agg(timeline, ' ') FROM neon_pageserver.timelines), $roles");
	my ($sk_timelines, $sk) = split /\|/, $c->node_sql('safekeeper-1', "SELECT (SELECT string_agg(timeline, ' ') FROM neon_safekeeper.timelines), $roles");
	is(words($ps_timelines), words($timelines), "$when: the pageserver has the controller's timelines");
	is(words($sk_timelines), words($timelines), "$when: so does the safekeeper");
	is(join(' - ', map { words($_) } $controller, $ps, $sk), join(' - ', (words($tenants)) x 3), "$when: tenants have roles on all nodes, and nobody else has");
	is(words(join ' ', map { m{([^/]+)$} } glob("$c->{dir}/computes/*")), words($computes), "$when: computes are those of endpoints");
	is($wrong, '', "$when: those run that should");
	is($leftovers, '0', "$when: no leftovers");
	return;
}

# ---- once without a crash: how many steps there are
my $before = ctl('SELECT max(id) FROM neon_controller.operations');
ask($_, -1) for keys %kind;
answers();
is($kind{$_}{rc}, 0, "$_ succeeds") or diag $kind{$_}{err} for sort keys %kind;
# kind => state and number of steps of its first operation since
sub did { my ($since) = @_; return map { split /=/ } split /\n/, ctl("SELECT DISTINCT ON (kind) kind || '=' || state || ' ' ||
	(SELECT count(*) FROM neon_controller.operation_steps s WHERE s.operation = o.id) FROM neon_controller.operations o WHERE id > $since ORDER BY kind, id"); }
my %did = did($before);
for my $n (sort keys %kind)
{
	($kind{$n}{state}, $kind{$n}{steps}) = split / /, $did{$n};
	is($kind{$n}{state}, 'done', "and is done, in $kind{$n}{steps} steps");
}
is(is_marked($kind{reset_branch}), 'f', 'what was reset is gone');
all_is_well('after all operations');

# What the next round needs.
sub prepare
{
	my %of_tenant;
	for my $k (grep { $_->{state} eq 'done' } values %kind) { push @{ $of_tenant{ $k->{tenant} } }, $k->{again} . ';' }
	my @all = map { IPC::Run::start([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', $c->node_uri('controller') ], '<',
		\(in_tenant({ tenant => $_ }) . join ' ', @{ $of_tenant{$_} }), '>', \my $out, '2>', \my $err, IPC::Run::timeout(300)) } keys %of_tenant;
	for my $h (@all) { $h->finish; is($h->result(0), 0, 'what was done is taken back') }
	mark($_) for grep { $_->{marks} } values %kind;
	return;
}

# ---- the controller dies while each kind is at one of its steps; 0 is the end, when only the commit is missing
for my $round (1 .. $rounds)
{
	$_->{stops} = [ 1 .. $_->{steps}, 0 ] for values %kind;
	# in short: what is there after the first step of the longest is there after its second, and more
	shift @{ $kind{reset_branch}{stops} } if $rounds == 1;
	while (my @kinds = grep { @{ $kind{$_}{stops} } } sort keys %kind)
	{
		prepare();
		$before = ctl('SELECT max(id) FROM neon_controller.operations');
		$kind{$_}{at} = shift @{ $kind{$_}{stops} } for @kinds;
		my $when = join ', ', map { "$_ at $kind{$_}{at}" } @kinds;
		ask($_, $kind{$_}{at}) for @kinds;
		ok($c->poll($when, 180, sub { ctl(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}) == @kinds }), $when)
			or diag ctl("SELECT pid, wait_event_type, wait_event, query FROM pg_stat_activity WHERE backend_type = 'client backend'");
		$c->kill9('controller');
		$c->start('controller');
		answers();
		ok($c->poll('all have ended', 180, sub { ctl(q{SELECT count(*) FROM neon_controller.operations WHERE state NOT IN ('done', 'undone')}) eq '0' }), 'all come to an end')
			or diag ctl(q{SELECT * FROM neon_operations WHERE state NOT IN ('done', 'undone')});
		$_->{state} = 'undone' for values %kind;
		%did = did($before);
		for my $n (@kinds)
		{
			my $k = $kind{$n};
			my $should = $k->{commits} && ($k->{at} == 0 || $k->{at} > $k->{commits}) ? 'done' : 'undone';
			isnt($k->{rc}, 0, "$n is killed at step $k->{at}");
			($k->{state}) = split / /, $did{$n};
			is($k->{state}, $should, "and is $should");
			is(is_marked($k), $should eq 'done' ? 'f' : 't', 'which can be seen in its branch') if $k->{marks};
		}
		all_is_well('after the crash');
	}
}
prepare();
ask($_, -1) for keys %kind;
answers();
is($kind{$_}{rc}, 0, "$_ succeeds in the end") or diag $kind{$_}{err} for sort keys %kind;
$kind{$_}{state} = 'done' for keys %kind;
prepare();

# ---- sessions that end, alone
sub last_of { my ($n) = @_; return ctl("SELECT state FROM neon_controller.operations WHERE kind = '$n' ORDER BY id DESC LIMIT 1"); }
ask('restore_branch', 5);
ok($c->poll('it is there', 120, sub { ctl(q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}) == 1 }), 'a session is ended that has moved a branch');
answers();
ok($c->poll('it is done', 120, sub { last_of('restore_branch') eq 'done' }), 'what it began is finished');
is(is_marked($kind{restore_branch}), 'f', 'the endpoint runs on the restored branch');
ctl(q{SET neon.tenant = 'default'; BEGIN; SELECT neon_suspend_endpoint('s2'); ROLLBACK});
ok($c->poll('it is undone', 120, sub { last_of('suspend_endpoint') eq 'undone' }), 'a suspension that is rolled back is undone');
my ($rc, undef, $err) = try_ctl(q{SET neon.tenant = 'default'; SELECT neon_create_branch('x', parent => 'nowhere')});
isnt($rc, 0, 'an operation fails');
is(ctl(q{SELECT state, sqlstate, error FROM neon_controller.operations ORDER BY id DESC LIMIT 1}), 'undone|NE003|branch "nowhere" does not exist', 'and is there with its error');
ask('create_branch', 2);
ok($c->poll('it is there', 120, sub { ctl(q{SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}) == 1 }), 'one is cancelled');
answers();
ok($c->poll('it is undone', 120, sub { last_of('create_branch') eq 'undone' }), 'and is undone');
like(ctl(q{SELECT error FROM neon_controller.operations WHERE kind = 'create_branch' ORDER BY id DESC LIMIT 1}), qr/canceling statement/, 'with its error');

# its transaction aside may have waited for a lock, and go on only now
($rc, undef, $err) = try_ctl(q{SELECT neon_controller.drop_branch_rows(ARRAY[(SELECT timeline FROM neon_controller.branches WHERE name = 'b2')],
	(SELECT max(id) FROM neon_controller.operations WHERE state = 'undone'))});
like($err, qr/"passes its commit point" cannot happen/, 'what was undone does not happen after all');
($rc, undef, $err) = try_ctl(q{SET neon.tenant = 'default'; SELECT neon_create_branch(repeat('x', 100000))});
isnt($rc, 0, 'a name of any length is refused');
is(ctl(q{SELECT length(object) <= 100 AND length(error) <= 1000 FROM neon_controller.operations ORDER BY id DESC LIMIT 1}), 't', 'and not kept');

# ---- what is one transaction leaves a row with one step, and none when it does not happen
$before = ctl('SELECT max(id) FROM neon_controller.operations');
ctl(q{SET neon.tenant = 'tc'; SELECT neon_protect_branch('c'); SELECT neon_protect_branch('c', false); SELECT neon_set_branch('c', 'work_mem', '5MB');
	SELECT neon_set_endpoint('c', 'suspend_timeout', '0'); SELECT neon_rename_branch('c', 'f'); SELECT neon_rename_branch('f', 'c');
	BEGIN; SELECT neon_rename_branch('c', 'f'); ROLLBACK});
($rc) = try_ctl(q{SET neon.tenant = 'tc'; SELECT neon_rename_branch('c', 'main')});
isnt($rc, 0, 'a rename fails');
is(ctl(qq{SELECT string_agg(format('%s %s %s %s', operation, object, state, steps), ', ' ORDER BY id) FROM (SELECT o.id, operation, v.object, v.state, count(*) AS steps
	FROM neon_operations v JOIN neon_controller.operations o USING (id) WHERE o.id > $before GROUP BY 1, 2, 3, 4) x}),
	'protect_branch c done 1, protect_branch c done 1, set_branch c done 1, set_endpoint c done 1, rename_branch c done 1, rename_branch f done 1',
	'what is one transaction leaves a row with one step, and none when it does not happen');

# ---- two sessions make something of one name: the later one waits, and is told as if it had come afterwards
my $first_in = qq{BEGIN; SET neon.tenant = 'te'; SELECT neon_create_branch('same', parent => 'main'); SELECT neon_create_endpoint('same'); SELECT neon_create_tenant('same'); SELECT 'made';\n};
my $first = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', $c->node_uri('controller') ], '<', \$first_in, '>', \my $first_out, '2>', \my $first_err, IPC::Run::timeout(300));
$first->pump until $first_out =~ /made/ || !$first->pumpable;
my @later = map { { sql => $_ } } q{SELECT neon_create_branch('same', parent => 'main')}, q{SELECT neon_create_endpoint('same')}, q{SELECT neon_create_tenant('same')};
$_->{h} = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-v', 'VERBOSITY=verbose', '-c', q{SET neon.tenant = 'te'}, '-c', $_->{sql}, $c->node_uri('controller') ], '<', '/dev/null', '>', \my $later_out,
	'2>', \$_->{err}, IPC::Run::timeout(300)) for @later;
ok($c->poll('they wait', 120, sub { ctl(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'neon_create_.*same'}) == 3 }), 'who comes later waits');
$first_in .= "COMMIT;\n";
$first->finish;
is($first->result(0), 0, 'the first one has made them') or diag $first_err;
for my $l (@later)
{
	$l->{h}->finish;
	like($l->{err}, qr/42710: \w+ "same" already exists\nHINT:/, "the later one is told: $l->{sql}");
}
ctl(q{SELECT neon_drop_tenant('same'); SET neon.tenant = 'te'; SELECT neon_drop_branch('same')});
ok($c->poll('nothing is left', 120, sub { ctl('SELECT count(*) FROM neon_controller.leftovers') eq '0' }), 'nothing is left of what it began');
all_is_well('after that');

# ---- leftovers
# a creation that was cut off is about to commit on the pageserver
my $late = 'a' x 32;
my ($parent, $tenant) = split /\|/, ctl(q{SELECT timeline, tenant FROM neon_controller.branches WHERE name = 's1'});
my $late_in = qq{BEGIN; SELECT neon_pageserver.create_timeline('$tenant', '$late', safekeepers, '$parent', NULL) FROM neon_pageserver.timelines WHERE timeline = '$parent';\n};
my $creation = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', $c->node_uri('pageserver-1') ], '<', \$late_in, '>', \my $late_out, '2>', \my $late_err, IPC::Run::timeout(300));
$creation->pump until $late_out =~ /\n/;
ctl(qq{INSERT INTO neon_controller.leftovers (kind, id, tenant, nodes) VALUES ('timeline', '$late', '$tenant', '{pageserver-1}')});
my $left = sub { return ctl(q{SELECT count(*) FROM neon_controller.leftovers}) > 0 };
ok($c->poll('it is to be dropped', 120, sub { !$left->() || $c->node_sql('pageserver-1', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) > 0 }),
	'a timeline is to be dropped that is not committed yet');
$late_in .= "COMMIT;\n";
$creation->finish;
is($creation->result(0), 0, 'it is committed') or diag $late_err;
ok($c->poll('it is gone', 120, sub { !$left->() }), 'and dropped');
is($c->node_sql('pageserver-1', "SELECT count(*) FROM neon_pageserver.timelines WHERE timeline = '$late'"), '0', 'from the pageserver');
ctl(q{INSERT INTO neon_controller.leftovers (kind, id, tenant, nodes, next_try_at) VALUES ('compute', 'none', 'none', '{}', now() + interval '1 day')});
ok($c->poll('it is tried', 120, sub { !$left->() }), 'what was tried before the clock was turned back is tried again');

# ---- a node that is away: tried again, and seen
ctl(q{SET neon.tenant = 'tb'; SELECT neon_drop_endpoint('b')});
$c->stop('pageserver-1');
ctl(q{SET neon.tenant = 'tb'; SELECT neon_drop_branch('b', cascade => true)});
ok($c->poll('it is tried again', 120, sub {
	ctl(q{SELECT count(*) FROM neon_operations WHERE operation = 'drop_branch' AND state = 'finishing' AND attempts > 1 AND error LIKE 'pageserver-1: could not connect%'}) > 0 }),
	'what a node that is away has to drop is tried again');
$c->start('pageserver-1');
ok($c->poll('it is done', 180, sub { last_of('drop_branch') eq 'done' }), 'until it is done');
all_is_well('at the end');

# ---- who sees what
my $mine = ctl(q{SELECT id FROM neon_controller.tenants WHERE name = 'default'});
is($c->sql('main', q{SELECT count(*) > 0, bool_and(tenant = (SELECT tenant_id FROM neon_compute)), count(node) FROM neon_operations}), 't|t|0',
	'an endpoint shows the operations of its tenant, without nodes');
is(ctl(q{SELECT count(DISTINCT tenant) > 1, count(node) > 0, bool_and(duration >= '0') FROM neon_operations}), 't|t|t', 'the controller shows all');
($rc, undef, $err) = $c->psql_uri($c->uri('main'), 'CREATE ROLE nobody; SET ROLE nobody; SELECT * FROM neon_operations');
like($err, qr/permission denied for view neon_operations/, 'an ordinary role sees none');
my $credential = ctl(q{SELECT neon_controller.tenant_connstring(n, t) FROM neon_controller.nodes n, neon_controller.tenants t WHERE n.role = 'controller' AND t.name = 'default'});
for my $no (q{SET neon_controller.pause_at_step = 1}, q{SET neon_controller.operation = '1'}, q{SELECT * FROM neon_controller.operations}, q{SELECT neon_controller.perform('drop_tenant', NULL, '{"name": "tf"}')})
{
	($rc, undef, $err) = $c->psql_uri($credential, $no);
	like($err, qr/permission denied/, "a tenant cannot $no");
}
($rc, undef, $err) = try_ctl(q{SET neon.tenant = 'default'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT neon_create_branch('x', parent => 'main')});
like($err, qr/need isolation level "read committed".*HINT:/s, 'a transaction that would not see what was done aside is refused');

# ---- state machines
is(ctl('SELECT string_agg(p::text, E\'\n\') FROM neon_controller.state_machine_problems() p'), '', 'every state is reached, and leads to an end or rest');
is(ctl(q{SELECT string_agg(p.oid::regprocedure::text, ' ') FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
	JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
	WHERE e.extname LIKE 'neon%' AND obj_description(p.oid, 'pg_proc') IS NULL}), '', 'every function of the control plane says what it is for');
is(ctl(q{SELECT string_agg(DISTINCT machine, ' ') FROM neon_controller.state_machine()}), 'endpoint node operation', 'there are machines');
like(ctl(q{BEGIN; INSERT INTO neon_controller.states VALUES ('operation', 'lost', 'passing', ''), ('operation', 'stuck', 'passing', '');
	INSERT INTO neon_controller.transitions VALUES ('operation', 'running', 'sticks', 'stuck', NULL), ('operation', 'undoing', 'acts', 'undone', 'no_such');
	SELECT state, problem FROM neon_controller.state_machine_problems() ORDER BY 1, 2; ROLLBACK}),
	qr/lost\|cannot be reached\nlost\|leads to no end.*\nstuck\|leads to no end.*\nundoing\|there is no function no_such/, 'what is wrong with one is found');
for my $no (q{UPDATE neon_controller.operations SET state = 'running' WHERE state = 'done'}, q{UPDATE neon_controller.operations SET state = 'asleep' WHERE state = 'done'},
	q{UPDATE neon_controller.endpoints SET started_at = NULL WHERE name = 's2'}, q{SELECT neon_controller.next_state('operation', 'done', 'fails')})
{
	($rc, undef, $err) = try_ctl("\\set VERBOSITY verbose\n$no");
	like($err, qr/NE013/, "refused: $no");
}
is(ctl(q{SELECT DISTINCT neon_controller.endpoint_state(e) FROM neon_controller.endpoints e WHERE name IN ('s1', 's2') ORDER BY 1}), "running\nsuspended", 'endpoints have states');

# ---- what pg_dump has: all tables but these, for the reasons that docs/control.md gives
is(ctl(q{SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_extension x JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.oid
	AND d.classid = 'pg_class'::regclass AND d.deptype = 'e' JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'r'
	WHERE x.extname = 'neon_controller' AND c.oid <> ALL (x.extconfig)}),
	'console_logins console_secrets console_sizes leftovers operation_steps operations role_secrets states transitions', 'tables that a dump leaves out');
is(ctl(q{SELECT string_agg(c::regclass::text, ' ' ORDER BY c::regclass::text) FROM pg_extension, unnest(extconfig) c WHERE extname = 'neon_controller'}),
	join(' ', map { "neon_controller.$_" } qw(acceptors attachments branches endpoints jwks jwt_roles nodes tenants timelines)), 'and those it has');

# ---- names of endpoints, outside the cluster a DNS label
my ($long, $longest) = ('n' x 55, 'n' x 54);
ctl(qq{SET neon.tenant = 'default'; SELECT neon_create_branch('$long', parent => 'main')});
($rc, undef, $err) = try_ctl(qq{\\set VERBOSITY verbose\nSET neon.tenant = 'default'; SELECT neon_create_endpoint('$long')});
like($err, qr/42622: endpoint name "n+" is too long\nDETAIL:  It has 55 characters, and 54 .*\nHINT:  .*branch => /, 'one that would be too long is refused, also when it is the name of a branch');
ctl(qq{SET neon.tenant = 'default'; SELECT neon_create_endpoint('$longest', branch => '$long')});
is(ctl(qq{SELECT length(neon_controller.endpoint_id(e)) FROM neon_controller.endpoints e WHERE name = '$longest'}), '63', 'the longest fits');
ctl(qq{SET neon.tenant = 'default'; SELECT neon_drop_endpoint('$longest'); SELECT neon_drop_branch('$long')});

# ---- a tenant cannot fill the controller's disk
for my $no ([ qq{SELECT neon_set_branch('s2', 'my.one', repeat('x', 65536))}, 'a setting that is too long' ],
	[ q{BEGIN; UPDATE neon_controller.branches SET settings = (SELECT jsonb_object_agg('my.s' || i, 'x') FROM generate_series(1, 200) i) WHERE name = 's1'; SELECT neon_set_branch('s1', 'my.more', 'x')},
		'too many settings' ],
	[ q{SELECT neon_configure_endpoint('s2', jsonb_build_object('settings', (SELECT jsonb_object_agg('my.s' || i, 'x') FROM generate_series(1, 201) i)))}, 'too many in one go' ])
{
	($rc, undef, $err) = try_ctl("\\set VERBOSITY verbose\nSET neon.tenant = 'default'; $no->[0]");
	like($err, qr/54000: too many settings\nDETAIL:  There would be .*\nHINT:/, "refused: $no->[1]");
}
is(ctl(q{SET neon.tenant = 'default'; SELECT settings FROM neon_branches WHERE name IN ('s1', 's2')}), "{}\n{}", 'they have changed nothing');
my $s2 = ctl(q{SELECT neon_controller.endpoint_uri(e) FROM neon_controller.endpoints e WHERE name = 's2'});
for my $no ([ q{DO $$ BEGIN FOR i IN 1 .. 1001 LOOP EXECUTE format('CREATE ROLE r%s LOGIN PASSWORD %L', i, 'md5' || repeat('0', 32)); END LOOP; END $$}, 'too many roles' ],
	[ q{DO $$ BEGIN FOR i IN 2 .. 1001 LOOP EXECUTE format('DROP ROLE r%s', i); END LOOP; END $$; UPDATE pg_authid SET rolpassword = repeat('0', 2000) WHERE rolname = 'r1'},
		'a verifier that is too long' ])
{
	($rc, undef, $err) = $c->psql_uri($s2, $no->[0], timeout => 180);
	is($rc, 0, $no->[1]) or diag $err;
	($rc, undef, $err) = try_ctl(qq{\\set VERBOSITY verbose\nSELECT neon_controller.refresh_role_secrets(e) FROM neon_controller.endpoints e WHERE name = 's2'});
	like($err, qr/54000: the password verifiers of endpoint "s2" are not kept\nDETAIL:.*\nHINT:/, 'are not kept');
}
ctl(q{SET neon.tenant = 'default'; SELECT neon_suspend_endpoint('s2')});
my $secret = q{SELECT neon_controller.proxy_role_secret(neon_controller.endpoint_id(e), 'r1') FROM neon_controller.endpoints e WHERE name = 's2'};
is(ctl(q{SELECT count(*) FROM neon_controller.role_secrets s JOIN neon_controller.endpoints e ON e.timeline = s.timeline WHERE e.name = 's2'}), '0', 'the endpoint is suspended, and none is kept');
is(ctl($secret), '0' x 2000, 'a login wakes it');
$c->psql_uri($s2, q{ALTER ROLE r1 PASSWORD 'short'});
ctl(q{SET neon.tenant = 'default'; SELECT neon_suspend_endpoint('s2')});
like(ctl($secret), qr/^SCRAM-SHA-256\$/, 'those within the limit are kept');
is(ctl(q{SELECT wanted FROM neon_controller.endpoints WHERE name = 's2'}), 'suspended', 'and a login does not wake it');
($rc, undef, $err) = try_ctl(q{\set VERBOSITY verbose
	INSERT INTO neon_controller.console_secrets SELECT sha256(i::text::bytea), 'token', id, now(), now() + interval '1 hour'
		FROM generate_series(1, 1000) i, neon_controller.tenants WHERE name = 'default';
	SELECT length(neon_controller.console_token('tb')); SELECT neon_controller.console_token('default')});
like($err, qr/54000: there are too many tokens of the console\nDETAIL:.*\nHINT:/, 'a tenant cannot have any number of tokens');

# ---- the console holds no lock while it waits for an endpoint: here one of two does not answer, whichever is asked first
for my $name (qw(main s3))
{
	ctl('DELETE FROM neon_controller.console_sizes');
	my $in = "BEGIN; LOCK TABLE pg_catalog.pg_proc IN ACCESS EXCLUSIVE MODE; SELECT 'locked';\n";
	my $slow = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', ctl(qq{SELECT neon_controller.endpoint_uri(e) FROM neon_controller.endpoints e JOIN neon_controller.tenants t ON t.id = e.tenant
		WHERE t.name = 'default' AND e.name = '$name'}) =~ s{/postgres$}{/template1}r ], '<', \$in, '>', \my $slow_out, '2>', \my $slow_err, IPC::Run::timeout(300));
	$slow->pump until $slow_out =~ /locked/;
	my $page = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-c', q{SELECT jsonb_array_length(neon_controller.console_storage(id) -> 'branches') FROM neon_controller.tenants WHERE name = 'default'},
		$c->node_uri('controller') ], '<', \undef, '>', \my $page_out, '2>', \my $page_err, IPC::Run::timeout(300));
	$in .= q{DO $$ BEGIN FOR i IN 1 .. 1200 LOOP EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE relation = 'pg_catalog.pg_proc'::regclass AND NOT granted
		AND pid IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend')); PERFORM pg_sleep(0.05); END LOOP; END $$; SELECT 'waits';} . "\n";
	$slow->pump until $slow_out =~ /waits/;
	is(ctl(q{SELECT (SELECT count(*) FROM neon_controller.timelines) - count(*) FROM (SELECT FROM neon_controller.timelines FOR UPDATE SKIP LOCKED) x}), '0', "no branch is held while $name does not answer");
	$in .= "COMMIT;\n";
	$slow->finish;
	$page->finish;
	cmp_ok($page_out, '>', 3, 'the page is shown') or diag $page_err;
	cmp_ok(ctl('SELECT count(*) FROM neon_controller.console_sizes'), '>', 0, 'with what others have said');
}

is(ctl('SELECT count(*) FROM neon_controller.acceptors a WHERE NOT EXISTS (SELECT FROM neon_controller.timelines t WHERE t.id = a.timeline)'), '0',
	'nothing is kept of timelines that are gone');

# ---- the log is bounded
ctl(q{INSERT INTO neon_controller.operations (kind, state, who) SELECT 'test', 'done', 'test' FROM generate_series(1, 2500)});
ok($c->poll('the oldest are forgotten', 60, sub { ctl('SELECT count(*) FROM neon_controller.operations') <= 1000 }), 'the log forgets the oldest');

done_testing();
