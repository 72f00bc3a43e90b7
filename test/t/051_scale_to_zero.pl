# Crashed endpoints come back and idle ones sleep without anybody asking; whoever needs one wakes it.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use IPC::Run;
use Test::More;
use Time::HiRes qw(sleep);

my $c = NeonCluster->new(init => [ '--safekeepers', 1 ], watch => '500ms', conf => { controller => 'max_connections = 300' });
$c->start;
my $dir = $c->status->{main}{dir};

sub ctl { my ($sql) = @_; return $c->node_sql('controller', "SET neon.tenant = 'default'; $sql"); }
sub row { my ($columns) = @_; return ctl("SELECT $columns FROM neon_controller.endpoints WHERE name = 'main'"); }
sub pid { my ($name) = $dir =~ m{([^/]+)$}; return $c->compute_pid($name); }
sub starts { my $n = 0; open my $f, '<', "$dir/compute.log" or return 0; while (<$f>) { $n++ if /starting PostgreSQL/ } return $n; }
# The endpoint is busy with something like this, as the watcher has seen after now.
sub busy_with { my ($like) = @_; my $since = ctl('SELECT clock_timestamp()'); return $c->poll("it is busy: $like", 90, sub { row("activity || ' ' || (active_at > '$since')") =~ /$like.* true/ }); }
sub sleeps { return $c->poll('the endpoint sleeps', 120, sub { row('wanted') eq 'suspended' && pid() == 0 }); }
sub wake { ctl(q{SELECT neon_start_endpoint('main')}); return; }
# A psql that lives on: a code that gives it SQL and returns what it has said since, up to a line "done".
sub session
{
	my ($in, $out) = ('', '');
	my $h = IPC::Run::start([ 'psql', '-XAtq', $c->uri('main') ], '<', \$in, '>', \$out, '2>&1', IPC::Run::timeout(240));
	return ($h, sub {
		my ($sql) = @_;
		$out = '';
		$in .= "$sql\n\\echo done\n";
		eval { $h->pump until $out =~ /^done$/m; 1 } or eval { $h->finish };	# psql ends when its connection does
		return $out;
	});
}

$c->sql('main', q{CREATE TABLE t (a int); INSERT INTO t VALUES (1); CREATE ROLE alice LOGIN PASSWORD 'secret'});

# ---- crashes
my $pid = pid();
$c->kill9('main');
ok($c->poll('it runs again', 120, sub { my $p = pid(); $p != 0 && $p != $pid }), 'a killed endpoint is started again');
ok($c->poll('it answers', 60, sub { $c->sql('main', 'SELECT count(*) FROM t') eq '1' }), 'and has everything');
ok($c->poll('it is noted', 60, sub { row('crashes > 0') eq 't' }), 'which can be seen');
ok($c->poll('it may run', 60, sub { row('restart_after < clock_timestamp()') eq 't' }), 'the pause after it ends');
$pid = pid();
kill 'KILL', $c->sql('main', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'});
ok($c->poll('it runs again', 120, sub { my $p = pid(); $p != 0 && $p != $pid && $c->sql('main', 'SELECT count(*) FROM t') eq '1' }), 'so is one that a process of its own has taken down');

# one that cannot start: tried again, and said why
$c->stop('pageserver-1');
$c->kill9('main');
ok($c->poll('it is tried', 120, sub { row(q{problem LIKE 'could not connect to pageserver%'}) eq 't' }), 'why a start fails can be seen') or diag row('crashes, problem');
$c->start('pageserver-1');
ok($c->poll('it runs again', 180, sub { pid() != 0 }), 'it is tried again until it works');
ok($c->poll('it answers', 60, sub { $c->sql('main', 'SELECT count(*) FROM t') eq '1' }), 'and has everything');

# one that somebody has stopped
$c->stop('main', '-m', $_) for 'immediate';
my $now = ctl('SELECT clock_timestamp()');
sleep 3;
is(pid(), 0, 'an endpoint stopped by hand stays stopped');
wake();
$c->stop('main');
sleep 3;
is(pid(), 0, 'in any mode');
wake();
ok(row('crashes = 0') eq 't', 'a start by hand begins to count anew');

# ---- settings
is(ctl(q{SELECT neon_set_endpoint('main', 'suspend_timeout', '0')}), '00:00:00', '0: it never sleeps');
for my $bad ([ 'suspend_timeout', '-1 s' ], [ 'suspend_timeout', '10 years' ], [ 'suspend_timeout', 'soon' ], [ 'suspend_timeout', '1 ms' ], [ 'no_such', '1' ])
{
	my ($rc, undef, $err) = $c->psql_uri($c->node_uri('controller'), "SELECT neon_set_endpoint('main', '$bad->[0]', '$bad->[1]')");
	isnt($rc, 0, "refused: @$bad");
	like($err, qr/HINT:/, 'with a hint');
}

# ---- what counts as activity
# it may have been idle for longer than that already: the session comes first
my ($h, $ask) = session();
$ask->('BEGIN; SELECT 1;');
is(ctl(q{SELECT neon_set_endpoint('main', 'suspend_timeout', '4 s')}), '00:00:04', 'it sleeps after 4 s');
ok(busy_with(qr/session \d+ is idle in transaction/), 'an open transaction, even idle');
sleep 6;
isnt(pid(), 0, 'keeps it awake');
$ask->('COMMIT;');
my $since = ctl('SELECT clock_timestamp()');
$ask->('SELECT 1;');
ok($c->poll('seen', 60, sub { row("active_at > '$since'") eq 't' || row('wanted') eq 'suspended' }), 'a statement of a session that stays counts');
$h->kill_kill;
wake();
$since = ctl('SELECT clock_timestamp()');
$c->sql('main', 'SELECT 1');
ok($c->poll('seen', 60, sub { row("active_at > '$since'") eq 't' || row('wanted') eq 'suspended' }), 'a short session counts, though it is over');
wake();

my $recv = IPC::Run::start([ 'pg_recvlogical', '-d', $c->uri('main'), '--slot', 's', '--create-slot', '--start', '-f', '-', '--no-loop' ], '<', '/dev/null', '>', \my $out, '2>', \my $err, IPC::Run::timeout(300));
ok(busy_with(qr/pg_recvlogical receives the log/), 'a logical subscriber') or diag $err;
sleep 6;
isnt(pid(), 0, 'keeps it awake');
$recv->kill_kill;
wake();
$c->poll('the slot is free', 60, sub { $c->sql('main', q{SELECT pg_drop_replication_slot('s') FROM pg_replication_slots WHERE slot_name = 's'}); 1 });

my $job = IPC::Run::start([ 'psql', '-XAtq', $c->uri('main'), '-c', 'SELECT pg_sleep(8)' ], '<', '/dev/null', '>', \my $slept, '2>&1', IPC::Run::timeout(240));
ok(busy_with(qr/session \d+ is active/), 'a running statement');
$job->finish;
is($job->result(0), 0, 'is not interrupted') or diag $slept;

# ---- jobs, each in an endpoint of its own: a subscription, a VACUUM, an autovacuum, a CREATE INDEX.  While they run nobody sleeps, when they are over all do.
wake();
ctl(q{SELECT neon_set_endpoint('main', 'suspend_timeout', '0')});
$c->sql('main', q{CREATE TABLE wide (a int, filler text) WITH (fillfactor = 10); INSERT INTO wide SELECT i, repeat('x', 500) FROM generate_series(1, 2000) i;
	CREATE FUNCTION waits(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1); RETURN $1; END';
	CREATE PUBLICATION p FOR TABLE t});
my @jobs = (
	{ name => 'subscribes', like => qr/subscription s is applied/, end => 'ALTER SUBSCRIPTION s DISABLE' },
	{ name => 'vacuums', like => qr/session \d+ is active/, run => [ 'SET vacuum_cost_delay = 100', 'SET vacuum_cost_limit = 1', 'VACUUM wide' ],
		end => q{SELECT pg_cancel_backend(pid) FROM pg_stat_progress_vacuum}, says => qr/canceling statement/ },
	{ name => 'autovacuums', like => qr/VACUUM is running/, end => 'ALTER TABLE wide SET (autovacuum_enabled = off)' },
	{ name => 'indexes', like => qr/session \d+ is active/, run => [ 'CREATE INDEX i ON t (waits(a))' ], end => q{SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted}, says => qr/^$/ });
ctl(join ';', map { "SELECT neon_create_branch('$_->{name}', parent => 'main'), neon_create_endpoint('$_->{name}')" } @jobs);
my ($publisher) = $c->uri('main') =~ s/'/''/gr;
$c->sql('subscribes', "CREATE SUBSCRIPTION s CONNECTION '$publisher' PUBLICATION p WITH (copy_data = false)");
# no ANALYZE: one that waits while the ALTER TABLE at the end has the table goes on after it, as slowly as the VACUUM
$c->sql('autovacuums', q{ALTER TABLE wide SET (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
		autovacuum_analyze_threshold = 1000000);
	ALTER SYSTEM SET autovacuum_naptime = '1s'; SELECT pg_reload_conf(); UPDATE wide SET a = -a});
my $lock_in = "SELECT pg_advisory_lock(1); SELECT 'locked';\n";
my $lock = IPC::Run::start([ 'psql', '-XAtq', $c->uri('indexes') ], '<', \$lock_in, '>', \my $lock_out, '2>&1', IPC::Run::timeout(600));
$lock->pump until $lock_out =~ /locked/ || !$lock->pumpable;
for my $j (grep { $_->{run} } @jobs)
{
	$j->{h} = IPC::Run::start([ 'psql', '-XAtq', (map { ('-c', $_) } @{ $j->{run} }), $c->uri($j->{name}) ], '<', '/dev/null', '>', \my $job_out, '2>', \$j->{err}, IPC::Run::timeout(600));
}
sub doing { my ($j, $columns) = @_; return ctl("SELECT $columns FROM neon_controller.endpoints WHERE name = '$j->{name}'"); }
for my $j (@jobs)
{
	ok($c->poll("it is busy: $j->{like}", 120, sub { doing($j, 'activity') =~ $j->{like} }), "one that $j->{name} is busy") or diag doing($j, 'activity, active_at, clock_timestamp()');
	ctl(qq{SELECT neon_set_endpoint('$j->{name}', 'suspend_timeout', '2 s')});
	$j->{since} = ctl('SELECT clock_timestamp()');
}
for my $j (@jobs)
{
	ok($c->poll("it goes on: $j->{like}", 120, sub { doing($j, "active_at > '$j->{since}'::timestamptz + interval '4 s'") eq 't' }), 'and stays busy for longer than its time to sleep');
	like(doing($j, q{wanted || ' ' || activity}), qr/^running .*$j->{like}/, 'awake');
}
for my $j (@jobs)
{
	$c->sql($j->{name}, $j->{end});
	if ($j->{h}) { $j->{h}->finish; like($j->{err}, $j->{says}, "one that $j->{name} was at it until then"); }
}
for my $j (@jobs) { ok($c->poll('it sleeps', 120, sub { doing($j, 'wanted') eq 'suspended' }), "when it is over, one that $j->{name} sleeps") or diag doing($j, 'activity'); }
$lock->kill_kill;
ctl(join ';', q{SELECT neon_set_endpoint('main', 'suspend_timeout', '4 s')}, map { "SELECT neon_drop_endpoint('$_->{name}')" } @jobs);

# ---- sleep and wake
wake();
my $verifier = $c->sql('main', q{SELECT rolpassword FROM pg_authid WHERE rolname = 'alice'});
ok($c->poll('the endpoint sleeps', 120, sub { ctl('DELETE FROM neon_controller.console_sizes; SELECT neon_controller.console_refresh_sizes(NULL)'); row('wanted') eq 'suspended' && pid() == 0 }),
	'an endpoint that nobody uses sleeps, though somebody looks at the console');
is(ctl(q{SELECT secret FROM neon_controller.role_secrets s JOIN neon_controller.endpoints e USING (timeline) WHERE e.name = 'main' AND role = 'alice'}), $verifier,
	'the verifiers of its roles are with the controller');
ctl(q{SELECT neon_set_endpoint('main', 'suspend_timeout', '0')});

my $before = starts();
my $script = "$c->{tmp}/wake.sql";
open my $f, '>', $script or die $!;
print $f "SELECT neon_start_endpoint('main');\n";
close $f;
my $rc = IPC::Run::run([ 'env', "PGOPTIONS=-c neon.tenant=default", 'pgbench', '-n', '-c', 200, '-j', 4, '-t', 1, '-f', $script, $c->node_uri('controller') ], '<', '/dev/null', '>', \$out, '2>', \$err, IPC::Run::timeout(300));
ok($rc, '200 callers at once: all succeed') or diag "$out$err";
like($out, qr{number of transactions actually processed: 200/200}, 'all of them');
is(starts() - $before, 1, 'and cause one start');
is(row(q{last_start ->> 'warm'}), 'true', 'which was warm');
is($c->sql('main', 'SELECT count(*) FROM t'), '1', 'everything is there');

# a session that is there when it is suspended hears why, and one that comes meanwhile too
($h, $ask) = session();
$ask->(q{\\set VERBOSITY sqlstate
SELECT 1;});
my $suspend = IPC::Run::start([ 'psql', '-XAtq', $c->node_uri('controller'), '-c', q{SET neon.tenant = 'default'}, '-c', q{SELECT neon_suspend_endpoint('main')} ], '<', '/dev/null', '>', \my $s_out, '2>', \my $s_err, IPC::Run::timeout(240));
my @said;
while (1)
{
	my ($code, undef, $text) = $c->psql_uri($c->uri('main'), 'SELECT 1', timeout => 60);
	last if $code != 0 && $text =~ /Connection refused|No such file/;
	push @said, $text if $code != 0;
	sleep 0.05;
}
$suspend->finish;
is($suspend->result(0), 0, 'it is suspended while clients come') or diag $s_err;
like($ask->('SELECT 1;'), qr/57P01|terminating connection due to administrator command/, 'a session that was there is told');
is(join('', grep { !/the database system is (shutting down|starting up)|terminating connection due to administrator command|server closed the connection|Connection reset/ } @said), '',
	'those that come are told');
$h->kill_kill;
wake();
is($c->sql('main', 'SELECT count(*) FROM t'), '1', 'and after a wake they get in');

done_testing();
