# With acknowledgements held back nothing that was done to a waiting commit makes anybody see it: not cancel, timeout, terminate,
# a client that leaves, a stop; and no walsender of the compute sends more than the quorum has.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use DBI;
use IPC::Run;
use Ledger;
use NeonCluster;
use Test::More;
use WalTools;

my $c = NeonCluster->new;
$c->start;
$c->node_sql('controller', q{UPDATE neon_controller.endpoints SET settings =
	'{"autovacuum": "off", "neon.drain_timeout": "3s", "client_connection_check_interval": "100ms"}'});
$c->stop('main');
$c->start('main');
$c->sql('main', q{
	CREATE TABLE t (i int PRIMARY KEY);
	CREATE TABLE u (i int PRIMARY KEY, v int);
	CREATE TABLE p (i int);
	INSERT INTO u VALUES (1, 0);
});

sub connect_main { return DBI->connect(Ledger::dsn_of_uri($c->uri('main')), { RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1 }); }

# psql in the background, named so that it can be found in pg_stat_activity
my %query;
sub begin_query
{
	my ($name, @sql) = @_;
	my $q = $query{$name} = { out => '', err => '' };
	$q->{h} = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-q', '-v', 'ON_ERROR_STOP=1', (map { ('-c', $_) } @sql), $c->uri('main') . "?application_name=$name" ],
		'<', \undef, '>', \$q->{out}, '2>', \$q->{err}, IPC::Run::timeout(240));
	return;
}

sub end_query { my ($name) = @_; eval { $query{$name}{h}->finish }; return $query{$name}{h}->result(0) == 0; }

sub waiters
{
	return $c->sql('main', q{SELECT coalesce(string_agg(application_name, ' ' ORDER BY application_name), '') FROM pg_stat_activity
		WHERE wait_event = 'SyncRep' AND application_name LIKE 'w\_%'});
}

sub pid_of { my ($name) = @_; return $c->sql('main', "SELECT pid FROM pg_stat_activity WHERE application_name = '$name'"); }
sub quorum_lsn { return lsn_number($c->sql('main', 'SELECT pg_current_wal_flush_lsn()')); }

# ---- readers of WAL, before anything waits ----
$c->sql('main', q{SELECT pg_create_logical_replication_slot('logical', 'test_decoding'); SELECT pg_create_logical_replication_slot('peek', 'test_decoding');
	SELECT pg_create_logical_replication_slot('get', 'test_decoding'); SELECT pg_create_physical_replication_slot('physical', true)});
$c->sql('main', q{BEGIN; INSERT INTO p VALUES (1); PREPARE TRANSACTION 'before'});
my $decoded = "$c->{tmp}/decoded";
my $received = "$c->{tmp}/received";
mkdir $received;
my @readers = map { IPC::Run::start($_, '<', \undef, '>', "$c->{tmp}/reader.out", '2>', "$c->{tmp}/reader.err") }
	([ 'pg_recvlogical', '-d', $c->uri('main'), '-S', 'logical', '--start', '-o', 'skip-empty-xacts=1', '-f', $decoded, '--no-loop', '-F', '0', '-s', '1' ],
	 [ 'pg_receivewal', '-d', $c->uri('main'), '-S', 'physical', '-D', $received, '--no-loop', '-s', '1' ]);
my $listener = connect_main();
$listener->do('LISTEN channel');
my $old_snapshot = connect_main();
$c->sql('main', q{INSERT INTO t VALUES (0); NOTIFY channel, 'first'});

sub slurp { my ($f) = @_; open my $h, '<:raw', $f or return ''; local $/; return scalar <$h>; }
sub notified { my @n; while (my $n = $listener->pg_notifies) { push @n, $n->[2]; } return "@n"; }
# bytes of WAL that pg_receivewal has got behind a place
sub received_behind
{
	my ($n) = @_;
	my ($file) = grep { -e } map { segment_file($received, $n) . $_ } '', '.partial';
	my $bytes = substr(slurp($file // ''), $n % $SEGMENT);
	$bytes =~ s/\0+\z//;
	return length $bytes;
}
my $got = '';
ok($c->poll('the readers have the first commit', 60, sub {
	slurp($decoded) =~ /table public.t: INSERT: i\[integer\]:0/ && glob("$received/*") && ($got .= notified()) eq 'first' }), 'decoding, WAL and notifications flow');

# ---- held back: two safekeepers sleep ----
my @frozen = $c->freeze('safekeeper-2', 'safekeeper-3');
my %statement = (
	w_cancel => [ 'INSERT INTO t VALUES (1)' ],
	w_terminate => [ 'INSERT INTO t VALUES (2)' ],
	w_sigterm => [ 'INSERT INTO t VALUES (3)' ],
	w_timeout => [ q{SET statement_timeout = '10s'}, 'DO $$ BEGIN INSERT INTO t VALUES (4); COMMIT; END $$' ],
	w_local => [ 'SET synchronous_commit = local', 'INSERT INTO t VALUES (5)' ],
	w_gone => [ 'INSERT INTO t VALUES (6)' ],
	w_update => [ 'UPDATE u SET v = 1 WHERE i = 1' ],
	w_ddl => [ 'CREATE TABLE made (i int)' ],
	w_prepare => [ q{BEGIN; INSERT INTO p VALUES (2); PREPARE TRANSACTION 'now'} ],
	w_commit_prepared => [ q{COMMIT PREPARED 'before'} ],
	w_notify => [ q{BEGIN; INSERT INTO t VALUES (7); NOTIFY channel, 'second'; COMMIT} ]);
begin_query($_, @{ $statement{$_} }) for sort keys %statement;
my $all = join ' ', sort keys %statement;
ok($c->poll('all commits wait', 60, sub { waiters() eq $all }), 'with two safekeepers asleep every commit waits') or diag(waiters());
my $lsn = quorum_lsn();

my %pid = map { $_ => pid_of($_) } keys %statement;
$c->sql('main', "SELECT pg_cancel_backend($pid{w_cancel}), pg_terminate_backend($pid{w_terminate})");
kill 'TERM', $pid{w_sigterm};
$query{w_gone}{h}->kill_kill;
ok($c->poll('cancel, timeout and terminate are answered', 120, sub {
	my $log = $c->local('logs', '-D', $c->{dir}, 'main');
	my $cancelled = () = $log =~ /this commit can no longer be cancelled/g;
	my $terminated = () = $log =~ /terminating connection while a commit waits/g;
	$cancelled >= 2 && $terminated >= 2 }), 'cancel, statement_timeout and terminate are answered with a warning');
# somebody who conflicts with what nobody may see
begin_query('blocked_update', 'SET lock_timeout = 0', 'UPDATE u SET v = v + 10 WHERE i = 1');
begin_query('blocked_insert', 'INSERT INTO t VALUES (1) ON CONFLICT (i) DO NOTHING RETURNING 9');
ok($c->poll('they are blocked', 60, sub {
	$c->sql('main', q{SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'blocked%' AND wait_event_type = 'Lock'}) eq '2' }),
	'who conflicts with a waiting commit is blocked');
# they might have gone on only now
is(waiters(), $all, 'all of them wait on');

sub nothing_is_seen
{
	my ($when) = @_;
	my $sql = q{SELECT (SELECT count(*) FROM t), (SELECT v FROM u), (SELECT count(*) FROM p), to_regclass('made') IS NOT NULL,
		(SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'now' AND prepared IS NULL)};
	is(join('|', $old_snapshot->selectrow_array($sql)), '1|0|0|0|0', "$when: nothing is seen in an old session");
	is($c->sql('main', $sql), '1|0|0|f|0', "$when: nor in a new one");
	is(notified(), '', "$when: no notification came");
	unlike(slurp($decoded), qr/INSERT: i\[integer\]:[1-9]|UPDATE/, "$when: no row was decoded");
	is($c->sql('main', q{SELECT count(*) FROM pg_logical_slot_peek_changes('peek', NULL, NULL) WHERE data LIKE 'table%' AND data NOT LIKE '%i[integer]:0'}),
		'0', "$when: nor by pg_logical_slot_peek_changes");
	is($c->sql('main', q{SELECT count(*) FROM pg_logical_slot_get_changes('get', NULL, NULL) WHERE data LIKE 'table%' AND data NOT LIKE '%i[integer]:0'}),
		'0', "$when: nor by pg_logical_slot_get_changes");
	is($c->sql('main', q{SELECT string_agg(slot_name, ' ') FROM pg_replication_slots WHERE greatest(confirmed_flush_lsn, restart_lsn) > '} . lsn_text($lsn) . q{'}),
		'', "$when: no slot's position is behind the quorum's");
	is(received_behind($lsn), 0, "$when: pg_receivewal got nothing behind the quorum's position");
	is($c->sql('main', q{SELECT count(*) FROM pg_stat_replication WHERE application_name IN ('pg_recvlogical', 'pg_receivewal') AND sent_lsn > '} . lsn_text($lsn) . q{'}),
		'0', "$when: and no walsender has sent more");
}
cmp_ok(lsn_number($c->sql('main', 'SELECT pg_current_wal_lsn()')), '>', $lsn, 'there is WAL that the quorum does not have');
nothing_is_seen('asleep');
is(quorum_lsn(), $lsn, 'the quorum stands where it stood');
is($c->sql('main', "SELECT string_agg(pg_xact_status(backend_xid::text::xid8), ' ') FROM pg_stat_activity WHERE pid IN ($pid{w_cancel}, $pid{w_terminate})"),
	'in progress in progress', 'pg_xact_status says: in progress');

# more sessions than one come and go meanwhile, and a checkpoint
$c->sql('main', 'CHECKPOINT', timeout => 100);
nothing_is_seen('after a checkpoint');

$c->thaw(@frozen);
ok(end_query($_), "$_ ends well when they wake up") or diag($query{$_}{err}) for qw(w_cancel w_timeout w_local w_update w_ddl w_prepare w_commit_prepared w_notify blocked_update blocked_insert);
ok(!end_query($_), "$_ was cut off") for qw(w_terminate w_sigterm);
like($query{$_}{err}, qr/this commit can no longer be cancelled/, "$_: its client was warned") for qw(w_cancel w_timeout);
is($query{blocked_insert}{out}, '', 'the conflicting insert found the row that it could not see');
ok($c->poll('everything is visible', 60, sub {
	$c->sql('main', q{SELECT (SELECT string_agg(i::text, ',' ORDER BY i) FROM t), (SELECT v FROM u), (SELECT count(*) FROM p), to_regclass('made') IS NOT NULL}) eq '0,1,2,3,4,5,6,7|11|1|t' }),
	'everything is visible then, also what was terminated or left alone');
$c->sql('main', q{COMMIT PREPARED 'now'});
is($c->sql('main', 'SELECT count(*) FROM p'), '2', 'and the prepared transaction is there');
ok($c->poll('readers have all', 60, sub {
	my $d = slurp($decoded);
	(grep { $d =~ /table public.t: INSERT: i\[integer\]:$_/ } 1 .. 7) == 7 && received_behind($lsn) > 0 && ($got .= notified()) eq 'firstsecond' }),
	'decoded, received and notified then');

is($c->sql('main', q{SELECT count(*) FROM pg_logical_slot_get_changes('get', NULL, NULL) WHERE data LIKE 'table public.t%'}), '7', 'and by pg_logical_slot_get_changes: each row once');

# ---- a stop while two are dead, with walsenders that still stream ----
$listener->disconnect;
$old_snapshot->disconnect;

# Commit a row that only safekeeper $with can get; a fast stop; it is never acknowledged.
sub stop_without_quorum
{
	my ($value, $with) = @_;
	my @dead = grep { $_ != $with } 1 .. 3;
	$c->kill9("safekeeper-$_") for @dead;
	my $quorum = quorum_lsn();
	begin_query("w_stop$value", "INSERT INTO t VALUES ($value)");
	ok($c->poll('it waits', 60, sub { waiters() eq "w_stop$value" }), 'with two safekeepers dead a commit waits');
	my $end = $c->sql('main', 'SELECT pg_current_wal_lsn()');
	ok($c->poll('the third has it', 60, sub { sk_states($c, "safekeeper-$with")->{"safekeeper-$with"}{flush} >= lsn_number($end) }), 'one safekeeper has its WAL');
	my $ended = eval { $c->stop('main'); 1 };
	is($c->status->{main}{pid}, '-', 'a fast stop ends');
	like($c->local('logs', '-D', $c->{dir}, 'main'), qr/did not take the last WAL within neon.drain_timeout/, 'when neon.drain_timeout is over');
	like(`pg_controldata @{[ $c->status->{main}{dir} ]}`, qr{Database cluster state:\s+in production}, "without a shutdown checkpoint that says all is well");
	ok(!end_query("w_stop$value"), 'the commit was not acknowledged');
	is($query{"w_stop$value"}{out}, '', 'in no way');
	unlike(slurp($decoded), qr/INSERT: i\[integer\]:$value/, 'its row was not decoded');
	is(received_behind($quorum), 0, 'nothing behind the quorum was received');
	return @dead;
}

my @dead = stop_without_quorum(20, 1);
$_->kill_kill for @readers;
$c->kill9('safekeeper-1');
$c->start("safekeeper-$_") for @dead;
$c->start('main');
is($c->sql('main', 'SELECT count(*) FROM t WHERE i = 20'), '0', 'a quorum that does not have it: it is not there');
$c->sql('main', 'INSERT INTO t VALUES (21)');
$c->start('safekeeper-1');
$lsn = quorum_lsn();
ok($c->poll('the one that had it adopts the quorum\'s log', 60, sub { sk_states($c, 'safekeeper-1')->{'safekeeper-1'}{commit} >= $lsn }), 'the one that had it adopts the quorum\'s log');
is($c->sql('main', 'SELECT string_agg(i::text, $$,$$ ORDER BY i) FROM t WHERE i >= 20'), '21', 'and it never comes back');

@dead = stop_without_quorum(30, 2);
$c->start("safekeeper-$dead[0]");
$c->start('main');
is($c->sql('main', 'SELECT count(*) FROM t WHERE i = 30'), '1', 'a quorum of which one has it: it is committed by the next election');
$c->start("safekeeper-$dead[1]");
$c->stop('main');
$c->start('main');
is($c->sql('main', 'SELECT string_agg(i::text, $$,$$ ORDER BY i) FROM t WHERE i >= 20'), '21,30', 'and stays');

done_testing();
