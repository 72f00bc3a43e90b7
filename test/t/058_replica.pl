# Replicas: read-only endpoints that follow their branch without files of its relations.
#
# What a replica shows must be one moment of its branch, whatever the writer does meanwhile, with next to no shared_buffers (so that most
# records are not redone, and pages go to the page cache and come back) while readers run.  In the end every page that it can show is
# compared with the pageserver's.
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

my $c = NeonCluster->new(proxies => 1);
$c->start;
my $seconds = $ENV{NEON_SECONDS} // 10;

sub session
{
	my ($endpoint) = @_;
	return DBI->connect(Ledger::dsn_of_uri($c->uri($endpoint)), { RaiseError => 1, PrintError => 0, AutoCommit => 1 });
}

# The replica has replayed everything that the writer had committed.
sub follows
{
	my ($what) = @_;
	my $lsn = $c->sql('main', 'SELECT pg_current_wal_flush_lsn()');
	return ok($c->poll('the replica follows', 120, sub { $c->sql('eyes', "SELECT pg_last_wal_replay_lsn() >= '$lsn'") eq 't' }), $what);
}

# ---- what is refused ----
for my $t (
	[ q{SELECT neon_create_endpoint('r', 'main', mode => 'replica', at_lsn => '0/1')}, qr/a replica follows its branch.*HINT:.*static/s ],
	[ q{SELECT neon_create_branch('empty'); SELECT neon_create_endpoint('r', 'empty', mode => 'replica')}, qr/has no read-write endpoint.*HINT:/s ])
{
	my ($rc, $out, $err) = $c->psql_uri($c->uri('main'), $t->[0]);
	like($err, $t->[1], "refused: $t->[0]");
}

# ---- a replica, made while the writer works ----
$c->sql('main', <<'SQL');
CREATE EXTENSION amcheck;
CREATE TABLE account (id int PRIMARY KEY, branch int, balance bigint NOT NULL DEFAULT 0) WITH (fillfactor = 60);
CREATE INDEX ON account (branch, balance);
INSERT INTO account SELECT i, i % 20 FROM generate_series(1, 20000) i;
CREATE TABLE history (id bigserial, delta int, pad text);
CREATE TABLE many (id int, a int[], r int4range, p point, t text);
CREATE INDEX ON many USING hash (id);
CREATE INDEX ON many USING gin (a);
CREATE INDEX ON many USING gist (r);
CREATE INDEX ON many USING spgist (p);
CREATE INDEX ON many USING brin (id);
CREATE TABLE victim AS SELECT i AS id, repeat('v', 200) AS pad FROM generate_series(1, 2000) i;
CREATE TABLE locks (id int PRIMARY KEY); INSERT INTO locks VALUES (1);
VACUUM ANALYZE;
SQL
my $open = session('main');
$open->begin_work;
$open->do(q{INSERT INTO account VALUES (-1, 0, 1000)});
$open->do(q{SELECT txid_current()});
my $prepared = session('main');
$prepared->do($_) for 'BEGIN', 'INSERT INTO locks VALUES (2)', q{PREPARE TRANSACTION 'two'};

my $uri = $c->sql('main', q{SELECT neon_create_endpoint('eyes', 'main', mode => 'replica')});
like($uri, qr/^postgresql:/, 'a replica is made');
# next to no buffers: nearly every page leaves them again
$c->node_sql('controller', q{UPDATE neon_controller.endpoints SET settings = settings || '{"shared_buffers": "2MB", "max_standby_streaming_delay": "-1"}' WHERE name = 'eyes'});
$c->sql('main', q{SELECT neon_suspend_endpoint('eyes'); SELECT neon_start_endpoint('eyes')});
follows('and started again, it follows');
is($c->sql('main', q{SELECT mode, state FROM neon_endpoints WHERE name = 'eyes'}), 'replica|running', 'neon_endpoints shows it');
is($c->sql('eyes', 'SELECT pg_is_in_recovery(), (SELECT count(*) FROM account), (SELECT count(*) FROM locks)'), 't|20000|1',
	'what is open or prepared is not visible');
$open->commit;
$prepared->do(q{COMMIT PREPARED 'two'});
follows('committed');
is($c->sql('eyes', 'SELECT count(*), (SELECT count(*) FROM locks) FROM account'), '20001|2', 'it is visible');
$c->sql('main', 'DELETE FROM account WHERE id = -1');

# ---- it does not write ----
for my $t (
	[ 'INSERT INTO locks VALUES (3)', qr/read-only transaction/ ],
	[ 'SELECT pg_promote()', qr/a replica cannot be promoted.*HINT:/s ],
	[ 'CREATE TEMP TABLE x (i int)', qr/read-only transaction/ ])
{
	my ($rc, $out, $err) = $c->psql_uri($c->uri('eyes'), $t->[0]);
	like($err, $t->[1], "refused: $t->[0]");
}

# ---- a snapshot that needs what a vacuum removes: the record of a page that nobody has in buffers conflicts as well ----
my $reader = session('eyes');
$reader->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($reader->selectrow_array('SELECT count(*) FROM locks'), 2, 'a snapshot is taken');
$c->sql('main', 'DELETE FROM victim; VACUUM victim');
$c->sql('main', 'CREATE TABLE after_vacuum ()');
sleep 1;
is($reader->selectrow_array('SELECT count(*) FROM victim'), 2000, 'it still sees what was deleted and vacuumed after it');
$reader->do('COMMIT');
follows('redo waits for it, and goes on');
is($c->sql('eyes', 'SELECT count(*) FROM victim'), 0, 'the next one does not see it');

# ---- everything at once ----
my $writer_sql = <<'SQL';
\set id random(1, 20000)
\set id2 random(1, 20000)
\set delta random(-100, 100)
BEGIN;
UPDATE account SET balance = balance + :delta WHERE id = :id;
UPDATE account SET balance = balance - :delta WHERE id = :id2;
INSERT INTO history (delta, pad) VALUES (:delta, repeat('h', 300));
END;
SQL
my $chores_sql = <<'SQL';
\set n random(1, 1000000)
INSERT INTO many SELECT i, ARRAY[i % 100, i % 7], int4range(i, i + 10), point(i % 97, i % 89), repeat('m', i % 500) FROM generate_series(:n, :n + 300) i;
DELETE FROM many WHERE id % 3 = 0;
VACUUM many;
VACUUM account;
DELETE FROM history WHERE id < (SELECT max(id) - 2000 FROM history);
VACUUM history;
BEGIN; CREATE TABLE fresh_:client_id AS SELECT i, repeat('f', 100) AS f FROM generate_series(1, 3000) i; CREATE INDEX ON fresh_:client_id (i); COMMIT;
TRUNCATE fresh_:client_id;
DROP TABLE fresh_:client_id;
SELECT 1 FROM locks WHERE id = 1 FOR SHARE;
SQL
# In one snapshot: no money is made, an index knows what the table knows, the visibility map tells no lies.
my $reader_sql = <<'SQL';
DO $$
DECLARE by_table bigint; by_index bigint; n1 bigint; n2 bigint; m1 bigint; m2 bigint;
BEGIN
	SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off;
	SELECT sum(balance), count(*) INTO by_table, n1 FROM account;
	SELECT count(*) INTO m1 FROM many WHERE a @> ARRAY[3];
	SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = on; SET LOCAL enable_indexonlyscan = on; SET LOCAL enable_bitmapscan = on;
	SELECT sum(balance), count(*) INTO by_index, n2 FROM account WHERE branch >= 0;
	SELECT count(*) INTO m2 FROM many WHERE a @> ARRAY[3];
	IF by_table <> 0 OR by_index <> 0 OR n1 <> 20000 OR n2 <> 20000 OR m1 <> m2 THEN
		RAISE EXCEPTION 'wrong: % % % % % %', by_table, by_index, n1, n2, m1, m2;
	END IF;
END $$;
SQL
my %file = (writer => $writer_sql, chores => $chores_sql, reader => "BEGIN ISOLATION LEVEL REPEATABLE READ;\n$reader_sql\nCOMMIT;\n");
for my $name (keys %file)
{
	open my $f, '>', "$c->{tmp}/$name.sql" or die $!;
	# pgbench does not know dollar quotes over lines
	my $text = $file{$name};
	$text =~ s/(DO \$\$.*?\$\$;)/my $s = $1; $s =~ s{\s+}{ }g; $s/es;
	print $f $text;
	close $f;
}
my %h;
for my $run ([ 'writer', 'main', 2 ], [ 'chores', 'main', 1 ], [ 'reader', 'eyes', 2 ])
{
	my ($name, $endpoint, $clients) = @$run;
	$h{$name}{h} = IPC::Run::start([ 'pgbench', '-n', '-M', 'simple', '-c', $clients, '-T', $seconds, '-f', "$c->{tmp}/$name.sql", $c->uri($endpoint) ],
		'<', '/dev/null', '>', \$h{$name}{out}, '2>', \$h{$name}{err}, IPC::Run::timeout(300));
}
for my $name (sort keys %h)
{
	$h{$name}{h}->finish;
	is($h{$name}{h}->result(0), 0, "the $name has no error") or diag($h{$name}{err}, $c->tail_logs);
	my ($n) = $h{$name}{out} =~ /actually processed: (\d+)/;
	cmp_ok($n // 0, '>', 0, 'and has done something: ' . ($n // 'nothing'));
}
follows('it follows to the end');
my $stat = $c->sql('eyes', 'SELECT redone > 0, skipped > 0 FROM pg_stat_neon_replica');
is($stat, 't|t', 'some records were redone, some were not');
note $c->sql('eyes', 'SELECT * FROM pg_stat_neon_replica');

# ---- page by page ----
my $everything = q{SELECT string_agg(c.oid::regclass || ' ' || neon_test_compare(c.oid::regclass), ', ') FROM pg_class c
	WHERE relkind IN ('r', 'i', 't', 'm', 'S') AND relpersistence = 'p' AND neon_test_compare(c.oid::regclass) > 0};
is($c->sql('eyes', $everything), '', 'every page it shows is the pageserver\'s');
is($c->sql('eyes', q{SELECT count(*) FROM (SELECT bt_index_check(i.indexrelid, true) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
	JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND i.indisvalid AND c.relpersistence = 'p') x}) > 50 ? 1 : 0, 1, 'its btrees are in order');
my $sum = 'SELECT md5(string_agg(x::text, $$,$$ ORDER BY x::text)) FROM %s x';
is($c->sql('eyes', sprintf($sum, $_)), $c->sql('main', sprintf($sum, $_)), "$_ is the same on both") for qw(account history many locks);

# ---- databases come and go ----
$c->sql('main', 'CREATE DATABASE other');
follows('a database is made');
my $other = $c->uri('eyes') =~ s{/postgres$}{/other}r;
is(($c->psql_uri($other, 'SELECT count(*) > 100 FROM pg_class'))[1], 't', 'and read');
$c->sql('main', 'DROP DATABASE other');
follows('dropped');
is($c->sql('eyes', q{SELECT count(*) FROM pg_database WHERE datname = 'other'}), 0, 'and gone');

# ---- it sleeps and wakes, and goes where its branch goes ----
$c->sql('main', q{SELECT neon_suspend_endpoint('eyes')});
my $through = $c->local('uri', '-D', $c->{dir}, '--node', 'proxy-1', '--endpoint', 'eyes');
is(($c->psql_uri($through, 'SELECT pg_is_in_recovery(), count(*) FROM locks'))[1], 't|2', 'a connection through the proxy wakes it');
$c->sql('main', q{SELECT neon_create_branch('dev'); SELECT neon_create_endpoint('dev'); SELECT neon_create_endpoint('dev-eyes', 'dev', mode => 'replica')});
$c->sql('dev', 'INSERT INTO locks VALUES (100)');
ok($c->poll('a replica of a branch follows', 120, sub { $c->sql('dev-eyes', 'SELECT count(*) FROM locks') eq '3' }), 'a replica of a branch');
$c->sql('main', q{INSERT INTO locks VALUES (50), (51); SELECT neon_reset_branch('dev')});
is($c->sql('dev', 'SELECT max(id) FROM locks'), 51, 'the branch is reset');
ok($c->poll('its replica shows that', 120, sub { $c->sql('dev-eyes', 'SELECT count(*), max(id) FROM locks') eq '4|51' }), 'its replica goes with it');
$c->sql('dev', 'DELETE FROM locks WHERE id >= 50');
ok($c->poll('and follows', 120, sub { $c->sql('dev-eyes', 'SELECT count(*) FROM locks') eq '2' }), 'and follows it there');
$c->sql('main', q{DELETE FROM locks WHERE id >= 50; SELECT neon_drop_branch('dev', cascade => true)});
is($c->sql('main', q{SELECT count(*) FROM neon_endpoints WHERE branch = 'dev'}), 0, 'the branch is dropped with it');

# ---- whoever dies ----
$c->kill9('main');
is($c->sql('eyes', 'SELECT count(*) FROM locks'), 2, 'it answers while the writer is dead');
$c->start('main');
$c->sql('main', 'INSERT INTO locks VALUES (3)');
follows('it follows the writer\'s next life');
is($c->sql('eyes', 'SELECT count(*) FROM locks'), 3, 'and shows what it writes');
$c->kill9('safekeeper-1');
$c->sql('main', 'INSERT INTO locks VALUES (4)');
follows('it follows with a safekeeper away');
$c->start('safekeeper-1');
$c->kill9('pageserver-1');
$c->sql('main', 'INSERT INTO locks VALUES (5)');
$c->start('pageserver-1');
follows('it follows after its pageserver died');
is($c->sql('eyes', 'SELECT count(*) FROM locks'), 5, 'and shows everything');
# more than a replica would want to replay at its start: the writer makes a checkpoint for it
$c->sql('main', q{SELECT pg_logical_emit_message(false, 'x', 'x'); SELECT pg_switch_wal()}) for 1 .. 5;
my $before = $c->sql('main', 'SELECT redo_lsn FROM pg_control_checkpoint()');
$c->kill9('eyes');
$c->start('eyes');
isnt($c->sql('main', 'SELECT redo_lsn FROM pg_control_checkpoint()'), $before, 'the writer makes a checkpoint for a replica that would have much to replay');
follows('killed itself, it is started and follows');
is($c->sql('eyes', $everything), '', 'every page it shows is the pageserver\'s');
# more room in the writer than the branch's settings say
$c->sql('main', q{SELECT neon_suspend_endpoint('eyes')});
$c->node_sql('controller', q{UPDATE neon_controller.endpoints SET settings = settings || '{"max_connections": "130"}' WHERE name = 'main'});
$c->stop('main');
$c->start('main');
$c->start('eyes');
follows('it has at least the room that its writer has');
is($c->sql('eyes', 'SHOW max_connections'), '130', 'the same number of connections');
is($c->sql('main', q{SELECT neon_drop_endpoint('eyes'); SELECT count(*) FROM neon_endpoints WHERE name = 'eyes'}) =~ s/^\n//r, '0', 'it is dropped');
done_testing();
