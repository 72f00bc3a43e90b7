# A static endpoint shows its branch as of one LSN, for ever, and can never write: what was recorded at some moments of a branch's life must be what
# its static endpoints say, cold and warm, after crashes, through the proxy, and while the branch goes on.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use IPC::Run;
use Test::More;
use Time::HiRes qw(sleep);

my $c = NeonCluster->new(init => [ '--safekeepers', 1 ], proxies => 1, watch => '500ms');
$c->start;
sub ctl { my ($sql) = @_; return $c->node_sql('controller', "SET neon.tenant = 'default'; $sql"); }
sub try_ctl { my ($sql) = @_; return $c->psql_uri($c->node_uri('controller'), "\\set VERBOSITY verbose\nSET neon.tenant = 'default'; $sql"); }
# A psql that lives on: a code that gives it SQL and returns what it has said since.
sub session
{
	my ($uri) = @_;
	my ($in, $out) = ('', '');
	my $h = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', $uri ], '<', \$in, '>', \$out, '2>&1', IPC::Run::timeout(600));
	return sub {
		my ($sql) = @_;
		return $h->kill_kill if !defined $sql;
		$out = '';
		$in .= "$sql;\n\\echo :done\n";
		eval { $h->pump until $out =~ /^:done\n/m; 1 } or die "psql has ended: $out";
		$out =~ s/^:done\n//m;
		chomp $out;
		return $out;
	};
}

# ---- a life in steps, with what there was after each
# All that can be read of all tables of schema s: rows by scans of tables and of indexes, sizes (not of free space maps, which are hints and not in the
# log), and what the catalog says.
my $main = session($c->uri('main'));
$main->(q{
CREATE SCHEMA s;
CREATE FUNCTION state() RETURNS text LANGUAGE plpgsql SET search_path = s, public, pg_catalog AS $$
DECLARE
	r record;
	one text;
	result text := '';
BEGIN
	FOR r IN SELECT c.oid::regclass AS rel FROM pg_class c WHERE c.relnamespace = 's'::regnamespace AND c.relkind IN ('r', 'm') AND c.relpersistence = 'p' ORDER BY 1::text LOOP
		PERFORM set_config('enable_seqscan', 'on', true), set_config('enable_indexscan', 'off', true), set_config('enable_bitmapscan', 'off', true);
		EXECUTE format('SELECT count(*) || '' '' || md5(string_agg(x::text, ''|'' ORDER BY x::text)) FROM %s x', r.rel) INTO one;
		result := result || format('%s: %s in %s and %s bytes', r.rel, one, pg_relation_size(r.rel),
			(SELECT pg_relation_size(c.reltoastrelid) FROM pg_class c WHERE c.oid = r.rel AND c.reltoastrelid <> 0));
		IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = r.rel AND a.attname = 'id') THEN
			PERFORM set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'on', true);
			EXECUTE format('SELECT count(*) || '' '' || md5(string_agg(x::text, ''|'' ORDER BY x::text)) FROM %s x WHERE id > -1', r.rel) INTO one;
			result := result || format(', by index: %s in %s bytes', one, pg_indexes_size(r.rel));
		END IF;
		result := result || E'\n';
	END LOOP;
	RETURN result || (SELECT md5(string_agg(c::text, '|' ORDER BY relname)) FROM (SELECT relname, relfilenode, relkind FROM pg_class WHERE relnamespace = 's'::regnamespace) c);
END $$;
CREATE TABLE s.a (id int PRIMARY KEY, v text);
CREATE TABLE s.big (id int PRIMARY KEY, v text);
ALTER TABLE s.big ALTER v SET STORAGE EXTERNAL;
CREATE TABLE s.cut (id int PRIMARY KEY, v text);
CREATE TABLE s.goes (id int PRIMARY KEY, v text);
CREATE TABLE s.empty (id int PRIMARY KEY);
CREATE UNLOGGED TABLE s.unlogged (id int);
CREATE SEQUENCE s.seq;
CREATE TABLE public.written (n int);
INSERT INTO s.a SELECT g, 'a' || g FROM generate_series(1, 3000) g;
INSERT INTO s.big SELECT g, repeat(md5(g::text), 3000) FROM generate_series(1, 8) g;
INSERT INTO s.cut SELECT g, repeat('c', 500) FROM generate_series(1, 2000) g;
INSERT INTO s.goes SELECT g, 'goes' FROM generate_series(1, 500) g;
INSERT INTO s.unlogged VALUES (1);
CREATE ROLE alice LOGIN PASSWORD 'first';
SELECT nextval('s.seq') FROM generate_series(1, 5)});

my @moments;
# Everything so far, by another session than those that are in transactions.
sub remember
{
	my ($what) = @_;
	my $state = $main->('SELECT state()');
	my ($lsn, $time, $seq) = split /\|/, $main->(q{SELECT pg_current_wal_flush_lsn(), clock_timestamp(), (SELECT last_value FROM s.seq)});
	push @moments, { what => $what, state => $state, lsn => $lsn, time => $time, seq => $seq };
	# the next commit is later than the time by any clock
	$main->('SELECT pg_sleep(0.05); CREATE TABLE public.tick (); DROP TABLE public.tick');
	return $moments[-1];
}
remember('filled');

# transactions at that moment: running ones, one with savepoints; two that share a lock on a row, which one of them then changes; one that is prepared
my ($running, $locks, $prepares) = map { session($c->uri('main')) } 1 .. 3;
$running->(q{BEGIN; INSERT INTO s.a SELECT g, 'running' FROM generate_series(10001, 11000) g; SAVEPOINT x; UPDATE s.a SET v = 'running' WHERE id <= 100;
	DELETE FROM s.goes WHERE id < 10; RELEASE x; SAVEPOINT y; INSERT INTO s.empty VALUES (1); SELECT 1 FROM s.a WHERE id BETWEEN 200 AND 300 FOR KEY SHARE});
$locks->(q{BEGIN; SELECT 1 FROM s.a WHERE id BETWEEN 200 AND 300 FOR KEY SHARE; UPDATE s.a SET v = 'locked' WHERE id BETWEEN 200 AND 250; SELECT nextval('s.seq')});
$prepares->(q{BEGIN; INSERT INTO s.a SELECT g, 'prepared' FROM generate_series(20001, 20100) g; SAVEPOINT z; UPDATE s.a SET v = 'prepared' WHERE id BETWEEN 400 AND 450;
	RELEASE z; INSERT INTO s.empty VALUES (2); PREPARE TRANSACTION 'p'});
$main->(q{UPDATE s.a SET v = 'committed' WHERE id BETWEEN 500 AND 600; INSERT INTO s.big VALUES (9, repeat('nine', 20000)); CREATE INDEX ON s.cut (v)});
my $open = remember('with open transactions');
$running->('COMMIT');
$locks->('COMMIT');
$prepares->(q{COMMIT PREPARED 'p'});
remember('they have committed');
$main->(q{DELETE FROM s.cut WHERE id > 50});
$main->('VACUUM (TRUNCATE, FREEZE) s.cut');
$main->('VACUUM FULL s.a');
$main->(q{TRUNCATE s.big; DROP TABLE s.goes; ALTER TABLE s.empty ADD w text DEFAULT 'w'; CREATE MATERIALIZED VIEW s.m AS SELECT * FROM s.a; DROP TABLE s.unlogged;
	CREATE TABLE s.fresh (id int PRIMARY KEY); INSERT INTO s.fresh SELECT generate_series(1, 1000); ALTER ROLE alice PASSWORD 'second'; SELECT nextval('s.seq') FROM generate_series(1, 100)});
remember('turned over');
$_->(undef) for $running, $locks, $prepares;
ctl(q{SELECT neon_create_branch('dev', parent => 'main')});
$main->(q{INSERT INTO s.fresh SELECT generate_series(1001, 2000); UPDATE s.a SET v = 'later'; DROP MATERIALIZED VIEW s.m; VACUUM s.a});
remember('gone on');
isnt($moments[$_]{state}, $moments[ $_ - 1 ]{state}, "$moments[$_]{what}: something has changed") for 1 .. $#moments;

# ---- the branch is written all the time from here on
my $writer = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', $c->uri('main'), '-c',
	"DO \$\$ BEGIN FOR i IN 1 .. 1000000 LOOP INSERT INTO public.written VALUES (i); UPDATE s.a SET v = 'w' || i WHERE id % 50 = i % 50; COMMIT; PERFORM pg_sleep(0.02); END LOOP; END \$\$" ],
	'<', '/dev/null', '>', \my $w_out, '2>', \my $w_err, IPC::Run::timeout(1200));
$c->poll('it writes', 60, sub { $main->('SELECT count(*) > 0 FROM public.written') eq 't' });

my $term = $c->node_sql('safekeeper-1', 'SELECT string_agg(timeline || term, chr(32) ORDER BY timeline) FROM neon_safekeeper.timelines');
my (%uri, %static);
$static{"at$_"} = $moments[$_] for 0 .. $#moments;
my @how = map { $_ % 2 ? "at_time => '$moments[$_]{time}'" : "at_lsn => '$moments[$_]{lsn}'" } 0 .. $#moments;
my @made = split /\n/, ctl(join ';', map { "SELECT neon_create_endpoint('at$_', branch => 'main', mode => 'static', $how[$_])" } 0 .. $#moments);
$uri{"at$_"} = $made[$_] for 0 .. $#moments;
# of a branch that began later: its history is its parent's
$static{past} = $open;
$uri{past} = ctl("SELECT neon_create_endpoint('past', branch => 'dev', mode => 'static', at_lsn => '$open->{lsn}')");
my $acknowledged = $main->('SELECT max(n) FROM public.written');
$uri{now} = ctl(q{SELECT neon_create_endpoint('now', branch => 'main', mode => 'static')});
is($c->node_sql('safekeeper-1', 'SELECT string_agg(timeline || term, chr(32) ORDER BY timeline) FROM neon_safekeeper.timelines'), $term, 'nobody was elected for them');

# What each shows is what there was; sequences as after a crash: at most 32 values ahead.
sub all_show
{
	my ($when, @names) = @_;
	for my $name (@names ? @names : sort keys %static)
	{
		my ($rc, $out, $err) = $c->psql_uri($uri{$name}, q{SELECT state(); SELECT last_value FROM s.seq});
		my ($state, $seq) = $out =~ /(.*)\n(\d+)$/s or diag $err;
		is($state, $static{$name}{state}, "$when, $name: what there was ($static{$name}{what})");
		ok(defined $seq && $seq >= $static{$name}{seq} && $seq <= $static{$name}{seq} + 32, 'and the sequence') or diag "$seq, $static{$name}{seq}";
	}
	return;
}
all_show('at first');
all_show('a second time', 'at1');
my $now = ($c->psql_uri($uri{now}, 'SELECT 1'))[0] == 0 ? ($c->psql_uri($uri{now}, 'SELECT count(*), max(n) FROM public.written'))[1] : 'no answer';
like($now, qr/^(\d+)\|\1$/, 'without at_: as it was at the call');
ok(($now =~ /(\d+)$/)[0] >= $acknowledged, 'with everything that was committed before') or diag "$now, $acknowledged";
sleep 0.5;
is(($c->psql_uri($uri{now}, 'SELECT count(*), max(n) FROM public.written'))[1], $now, 'and it stays there');

# ---- they are seen
is(ctl(q{SELECT string_agg(format('%s %s %s %s', name, branch, mode, lsn IS NOT NULL), ', ' ORDER BY name) FROM neon_endpoints}),
	'at0 main static t, at1 main static t, at2 main static t, at3 main static t, at4 main static t, main main read-write f, now main static t, past dev static t', 'neon_endpoints has them');
is(ctl(q{SELECT string_agg(lsn::text, ' ' ORDER BY name) FROM neon_endpoints WHERE name IN ('at0', 'at2', 'at4')}), join(' ', map { $moments[$_]{lsn} } 0, 2, 4), 'with their LSNs');
is(ctl(q{SELECT neon_connection_uri('main')}), $c->uri('main'), 'the URI of the branch is that of its read-write endpoint');
is(($c->psql_uri($uri{past}, 'SELECT neon_current_branch()'))[1], 'dev', 'the extension works there: neon_current_branch()');
like(($c->psql_uri($uri{past}, q{SELECT neon_list('endpoints')}))[1], qr/"past"/, 'neon_list()');

# ---- nothing writes, and nothing makes it a server that does
for my $no ([ q{INSERT INTO s.a VALUES (-5)}, qr/25006: cannot execute INSERT in a read-only transaction/ ], [ q{CREATE TABLE x ()}, qr/25006/ ],
	[ q{SELECT nextval('s.seq')}, qr/25006/ ], [ q{CREATE TEMP TABLE x (a int)}, qr/25006/ ], [ q{SET transaction_read_only = off; DELETE FROM s.a}, qr/cannot set transaction read-write mode during recovery/ ],
	[ q{SELECT 1 FROM s.a FOR UPDATE}, qr/25006/ ], [ q{VACUUM s.a}, qr/25006|during recovery/ ], [ q{SELECT * FROM s.unlogged}, qr/cannot access temporary or unlogged relations during recovery/ ],
	[ q{SELECT pg_promote()}, qr/0A000: a static endpoint cannot be promoted\nDETAIL:  .*LSN.*\nHINT:  Create a branch/ ], [ q{SELECT pg_logical_emit_message(true, 'a', 'b')}, qr/during recovery/ ])
{
	my ($rc, $out, $err) = $c->psql_uri($uri{at0}, "\\set VERBOSITY verbose\n$no->[0]");
	like($err, $no->[1], "refused: $no->[0]");
}
my $dir = $c->status->{at0}{dir};
for my $file ('promote', 'fallback_promote', 'trigger')
{
	open my $f, '>', "$dir/$file" or die $!;
	close $f;
	chown((stat $dir)[ 4, 5 ], "$dir/$file") if $> == 0;
}
$c->psql_uri($uri{at0}, qq{ALTER SYSTEM SET promote_trigger_file = '$dir/trigger'});
$c->psql_uri($uri{at0}, qq{ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'; SELECT pg_reload_conf()});
kill 'USR1', $c->pid('at0');
sleep 1;
is(($c->psql_uri($uri{at0}, q{SELECT pg_is_in_recovery(), current_setting('promote_trigger_file'), current_setting('primary_conninfo'), current_setting('neon.safekeepers', true) IS NULL,
	current_setting('shared_preload_libraries'), pg_last_wal_replay_lsn() - current_setting('neon.static_lsn')::pg_lsn < 200, (SELECT count(*) FROM pg_stat_wal_receiver)}))[1],
	't|||t|neon_smgr|t|0', 'it stays in recovery, without a source, and without safekeepers') or diag $c->tail_logs;
my ($rc, $out, $err) = $c->psql_uri("$uri{at0}?replication=true", 'IDENTIFY_SYSTEM');
like($err, qr/no pg_hba.conf entry for replication/, 'nobody receives a log from it');

# ---- what is asked for wrongly
my ($first) = ctl(q{SELECT start_lsn FROM neon_branches WHERE name = 'main'});
for my $no ([ q{'x', branch => 'main', mode => 'static', at_lsn => 'FFFF/0'}, qr/NE009: LSN FFFF\/0 is beyond the end of branch "main"\nDETAIL:  .*\nHINT:/ ],
	[ q{'x', branch => 'main', mode => 'static', at_lsn => '0/28'}, qr/NE009: LSN 0\/28 is before branch "main" began.*\nHINT:/ ],
	[ q{'x', branch => 'main', mode => 'static', at_time => now() + interval '1 hour'}, qr/NE007: time .* is in the future\nHINT:/ ],
	[ q{'x', branch => 'main', mode => 'static', at_time => '2001-01-01'}, qr/NE009: time .* is before branch "main" began\nHINT:/ ],
	[ qq{'x', branch => 'main', mode => 'static', at_lsn => '$first', at_time => now()}, qr/22023: at_lsn and at_time exclude each other\nHINT:/ ],
	[ qq{'x', branch => 'main', at_lsn => '$first'}, qr/22023: a read-write endpoint is always at the end of its branch\nHINT:  .*static/ ],
	[ qq{'x', branch => 'main', mode => 'replica', at_lsn => '$first'}, qr/22023: a replica follows its branch\nHINT:  .*static/ ],
	[ q{'x', branch => 'main', mode => 'mirror'}, qr/22023: invalid endpoint mode "mirror"\nHINT:/ ],
	[ q{'x', branch => 'main', mode => NULL}, qr/22023: invalid endpoint mode.*\nHINT:/ ],
	[ q{'at0', branch => 'main', mode => 'static'}, qr/42710: endpoint "at0" already exists\nHINT:/ ],
	[ q{'second', branch => 'main'}, qr/NE005: branch "main" already has the read-write endpoint "main"\nHINT:  .*static/ ],
	[ q{'x', branch => 'nobody', mode => 'static'}, qr/NE003: branch "nobody" does not exist\nHINT:/ ])
{
	($rc, $out, $err) = try_ctl("SELECT neon_create_endpoint($no->[0])");
	like($err, $no->[1], "refused: neon_create_endpoint($no->[0])");
}
ok($c->poll('nothing is left', 120, sub { ctl(q{SELECT count(*) FROM neon_controller.leftovers}) eq '0' }), 'what was refused has left nothing');
($rc, $out, $err) = try_ctl(q{SELECT neon_configure_endpoint('at0', '{"roles": [{"name": "bob"}]}')});
like($err, qr/25006: the roles, databases and extensions of static endpoint "at0" cannot be changed\nDETAIL:  .*\nHINT:/, 'nor can roles be made');
ctl(q{SELECT neon_configure_endpoint('at0', '{"settings": {"work_mem": "7MB"}}')});
ok($c->poll('applied', 60, sub { ($c->psql_uri($uri{at0}, 'SHOW work_mem'))[1] eq '7MB' }), 'a setting is changed');
is(ctl(q{SELECT settings FROM neon_branches WHERE name = 'main'}), '{}', 'there and not in the branch');

# ---- sleep and wake, warm; a crash, from nothing; nothing that runs there may change what is seen
ctl(join ';', map { "SELECT neon_suspend_endpoint('$_')" } qw(at0 at4 past));
is(ctl(q{SELECT string_agg(name || ' ' || state, ', ' ORDER BY name) FROM neon_endpoints WHERE name IN ('at0', 'at4', 'past')}), 'at0 suspended, at4 suspended, past suspended', 'they sleep');
is(ctl(q{SELECT count(DISTINCT s.secret) FROM neon_controller.role_secrets s JOIN neon_controller.endpoints e USING (timeline, lsn) WHERE e.name IN ('at0', 'at4') AND s.role = 'alice'}), '2',
	'the controller has the verifiers of roles as of their LSNs');
# through the proxy, which wakes it
my $proxy = $c->local('uri', '-D', $c->{dir}, '--node', 'proxy-1', '--endpoint', 'past');
is(($c->psql_uri($proxy, 'SELECT state()'))[1], $open->{state}, 'the proxy wakes one');
($rc, $out, $err) = $c->psql_uri($proxy =~ s{//[^@]*@}{//alice:first\@}r, 'SELECT current_user');
is($out, 'alice', 'its passwords are those of then') or diag $err;
$proxy = $c->local('uri', '-D', $c->{dir}, '--node', 'proxy-1', '--endpoint', 'at4');
is(($c->psql_uri($proxy, 'SELECT state()'))[1], $moments[4]{state}, 'and another one');
isnt(($c->psql_uri($proxy =~ s{//[^@]*@}{//alice:first\@}r, 'SELECT 1'))[0], 0, 'which does not have the old password');
ctl(join ';', map { "SELECT neon_start_endpoint('$_')" } qw(at0 at4 past));
is(ctl(q{SELECT string_agg(coalesce(last_start ->> 'not_warm', 'warm'), ' ') FROM neon_controller.endpoints WHERE name IN ('at0', 'at4', 'past')}), 'warm warm warm', 'they were started warm');
all_show('warm', qw(at0 at4 past));
my %pid = map { $_ => $c->pid($_) } qw(at1 past);
$c->kill9($_) for keys %pid;
for my $name (sort keys %pid)
{
	ok($c->poll("$name runs again", 180, sub { my $p = $c->pid($name); $p ne '-' && $p ne $pid{$name} && ($c->psql_uri($uri{$name}, 'SELECT 1'))[0] == 0 }), "$name was killed and is started again");
}
ok($c->poll('noted', 60, sub { ctl(q{SELECT string_agg(DISTINCT last_start ->> 'warm', ' ') FROM neon_controller.endpoints WHERE name IN ('at1', 'past')}) eq 'false' }), 'from nothing');
all_show('after a crash', sort keys %pid);
ctl(q{SELECT neon_set_endpoint('now', 'suspend_timeout', '2 s')});
ok($c->poll('it sleeps', 180, sub { ctl(q{SELECT wanted FROM neon_controller.endpoints WHERE name = 'now'}) eq 'suspended' }), 'one that nobody uses is put to sleep');

# ---- a branch of what one sees
is(ctl("SELECT count(*) FROM neon_branches WHERE name = 'seen'"), '0', 'not yet');
($rc, $out, $err) = $c->psql_uri($uri{past}, q{SELECT neon_create_branch('seen')});
is($rc, 0, 'from a static endpoint a branch can be made') or diag $err;
is(ctl(q{SELECT start_lsn FROM neon_branches WHERE name = 'seen'}), ctl(q{SELECT lsn FROM neon_endpoints WHERE name = 'past'}), 'of what it shows');

# ---- creation is interrupted
my $cut = IPC::Run::start([ 'psql', '-XAtq', (map { ('-c', $_) } 'SET neon_controller.pause_at_step = 0', q{SET neon.tenant = 'default'},
	q{SELECT neon_create_endpoint('cut', branch => 'main', mode => 'static')}), $c->node_uri('controller') ], '<', '/dev/null', '>', \my $c_out, '2>', \my $c_err, IPC::Run::timeout(600));
ok($c->poll('it waits at its end', 120, sub { ctl(q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%''cut''%' AND wait_event = 'PgSleep'}) eq '1' }), 'one is made, and not committed');
my ($cut_dir) = glob "$c->{dir}/computes/*-cut";
ok(-e "$cut_dir/postmaster.pid", 'its server runs');
kill 'KILL', ctl(q{SELECT pid FROM pg_stat_activity WHERE query LIKE '%''cut''%' AND wait_event = 'PgSleep'});
$cut->finish;
ok($c->poll('the controller is back', 120, sub { ctl('SELECT 1') eq '1' }), 'the controller crashes there');
ok($c->poll('it is undone', 180, sub { ctl(q{SELECT count(*) FROM neon_controller.operations WHERE state NOT IN ('done', 'undone')}) eq '0' && ctl('SELECT count(*) FROM neon_controller.leftovers') eq '0' }),
	'what it has begun is undone') or diag ctl('SELECT * FROM neon_controller.operations WHERE object = \'cut\'; SELECT * FROM neon_controller.leftovers');
ok(!-e $cut_dir, 'nothing is left of it');

# ---- the branch goes on without them, or they without it
my $pids = join ' ', map { $c->pid($_) } qw(at0 at1 at2 at3 at4);
$main->(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DO %'});
$writer->finish;
like($w_err, qr/canceling statement due to user request/, 'the writer was never disturbed') or diag $w_err;
like($main->('SELECT count(*), max(n) FROM public.written'), qr/^(\d{2,})\|\1$/, 'and has written');
($rc, $out, $err) = try_ctl(q{SELECT neon_reset_branch('dev')});
like($err, qr/2BP01: branch "dev" has static endpoints, among them "past"\nDETAIL:  .*\nHINT:/, 'a branch that a static endpoint shows is not reset');
ctl("SELECT neon_restore_branch('main', at_lsn => '$moments[3]{lsn}', keep_as => 'main_old'); SELECT neon_rename_branch('main_old', 'old')");
is(ctl(q{SELECT string_agg(name || ' ' || branch, ', ' ORDER BY name) FROM neon_endpoints WHERE name LIKE 'at%' OR name = 'main'}),
	'at0 old, at1 old, at2 old, at3 old, at4 old, main main', 'a restore leaves static endpoints with the history they show');
is(join(' ', map { $c->pid($_) } qw(at0 at1 at2 at3 at4)), $pids, 'which run on');
is($c->sql('main', 'SELECT state()'), $moments[3]{state}, 'and the branch is what one of them shows');
all_show('after a restore', qw(at0 at1 at3));
my ($past_dir, $at0_dir) = ($c->status->{past}{dir}, $dir);
ctl(q{SELECT neon_drop_branch('dev'); SELECT neon_drop_endpoint('at0')});
is(ctl(q{SELECT string_agg(name, ' ' ORDER BY name) FROM neon_endpoints WHERE mode = 'static'}), 'at1 at2 at3 at4 now', 'a branch is dropped with them; one can be dropped alone');
ok(!-e $past_dir && !-e $at0_dir, 'and nothing stays of them');
isnt(($c->psql_uri($uri{$_}, 'SELECT 1'))[0], 0, "$_ does not answer") for qw(past at0);
$main->(undef);

done_testing();
