# Page truth as a mode: every page the compute writes is fetched back from the pageserver as of that moment and compared.  Over
# pgbench, every access method, the demo's data; and a difference of one bit is found, wherever a mask does not cover it.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use NeonCluster;
use Test::More;

my $c = NeonCluster->new;
$c->start;
sub settings
{
	my ($json) = @_;
	$c->node_sql('controller', "UPDATE neon_controller.endpoints SET settings = '$json'");
	$c->stop('main');
	$c->start('main');
	return;
}

my ($rc, $out, $err) = $c->psql_uri($c->uri('main'), 'SELECT * FROM pg_stat_neon_page_truth');
like($err, qr/this server does not compare pages/, 'off by default');
($rc, $out, $err) = $c->psql_uri($c->uri('main'), 'SET neon.page_truth = on');
like($err, qr/without a queue of pages to compare/, 'it has to be prepared for at the start');

settings('{"shared_buffers": "1MB", "neon.file_cache_size_limit": "1MB", "max_connections": "30", "neon.page_truth": "on", "autovacuum_naptime": "1s"}');
my $uri = $c->uri('main');

# Everything that is dirty leaves, and is compared.
sub check
{
	my ($what) = @_;
	my ($r, $o, $e) = $c->psql_uri($uri, 'CHECKPOINT; SELECT neon_page_truth_check()', timeout => 600);
	is($r, 0, "$what: every page is what the pageserver makes of its WAL") or diag($e);
	return $o;
}
sub stat_of { return $c->sql('main', "SELECT $_[0] FROM pg_stat_neon_page_truth"); }

# ---- all access methods
$c->sql('main', q{
CREATE EXTENSION bloom;
CREATE TABLE t (id int PRIMARY KEY, n int, words text[], p point, s text, ts timestamptz DEFAULT now()) WITH (fillfactor = 80);
CREATE INDEX t_hash ON t USING hash (n);
CREATE INDEX t_gin ON t USING gin (words);
CREATE INDEX t_gist ON t USING gist (p);
CREATE INDEX t_spgist ON t USING spgist (s);
CREATE INDEX t_brin ON t USING brin (ts) WITH (pages_per_range = 4, autosummarize = on);
CREATE INDEX t_bloom ON t USING bloom (id, n);
CREATE SEQUENCE up; CREATE SEQUENCE down INCREMENT -3; CREATE SEQUENCE cached CACHE 10;
CREATE TABLE inherits_nothing (a serial, f text);
CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY);
INSERT INTO t SELECT i, i % 50, ARRAY['w' || i % 100, 'x' || i % 7], point(i % 1000, i / 1000), repeat(chr(97 + i % 26), i % 40) || i FROM generate_series(1, 8000) i;
});
for my $round (1 .. 3)
{
	$c->sql('main', qq{
	SELECT nextval('up'), nextval('down'), nextval('cached') FROM generate_series(1, 50);
	SELECT setval('up', 1000, false);
	UPDATE t SET n = n + 1, p = point(p[1], p[0]), words = words || ARRAY['y$round'] WHERE id % 5 = $round;
	DELETE FROM t WHERE id % 50 = $round;
	SET enable_seqscan = off;
	SELECT count(*) FROM t WHERE n = $round;
	SELECT count(*) FROM t WHERE p <@ box '(0,0),(500,5)';
	VACUUM (INDEX_CLEANUP on) t;
	INSERT INTO t SELECT i, i % 50, ARRAY['w' || i % 100], point(i % 1000, i / 1000), 's' || i FROM generate_series(8000 + $round * 500, 8400 + $round * 500) i
		ON CONFLICT (id) DO UPDATE SET n = t.n + 100;
	INSERT INTO inherits_nothing (f) SELECT repeat('z', 200) FROM generate_series(1, 2000);
	DELETE FROM inherits_nothing WHERE a % 2 = 0 OR a > 1000 * $round;
	VACUUM (FREEZE) inherits_nothing;
	BEGIN; SAVEPOINT a; UPDATE t SET n = -1 WHERE id % 11 = 0; ROLLBACK TO a; UPDATE t SET n = -2 WHERE id % 13 = 0;
	CREATE INDEX built ON t (s, n); DROP INDEX built; COMMIT;
	});
}
check('all access methods');
$c->sql('main', q{
REINDEX TABLE t; CLUSTER t USING t_pkey; VACUUM FULL inherits_nothing;
BEGIN; CREATE TABLE frozen (a int); COPY frozen FROM PROGRAM 'seq 1 20000' (FREEZE); COMMIT;
DELETE FROM frozen WHERE a % 100 = 0;
TRUNCATE inherits_nothing; DROP TABLE frozen;
CREATE DATABASE source; });
sub in_database
{
	my ($name, $sql) = @_;
	(my $u = $uri) =~ s{/postgres$}{/$name};
	my ($r, undef, $e) = $c->psql_uri($u, $sql);
	is($r, 0, "work in database $name") or diag($e);
	return;
}
in_database('source', 'CREATE TABLE s (id int PRIMARY KEY, f text); INSERT INTO s SELECT i, i FROM generate_series(1, 5000) i; VACUUM s;');
$c->sql('main', 'CREATE DATABASE copied TEMPLATE source');
in_database('copied', 'UPDATE s SET f = 0 WHERE id < 500; VACUUM s; VACUUM pg_class; CREATE TABLE here (a int); INSERT INTO here SELECT generate_series(1, 3000); VACUUM here;');
check('rewrites, COPY FREEZE, truncation, a copied database');

# ---- pgbench
sub pgbench
{
	my (@args) = @_;
	my ($o, $e) = ('', '');
	my $ok = IPC::Run::run([ 'pgbench', @args, $uri ], '>', \$o, '2>', \$e);
	ok($ok, "pgbench @args") or diag($e);
	return;
}
pgbench('-i', '-q', '-s', '2');
pgbench('-n', '-c', '4', '-t', '400');
check('pgbench');

# ---- the demo's data
$c->sql('main', 'CREATE TABLE unicode (code text PRIMARY KEY, name text, category text, combining int, bidi text, decomposition text, decimal text,
	digit text, "numeric" text, mirrored text, old_name text, comment text, upper text, lower text, title text)');
my ($copy_out, $copy_err) = ('', '');
ok(IPC::Run::run([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-c', q{\copy unicode FROM '/usr/share/unicode/UnicodeData.txt' (DELIMITER ';', FORMAT text)}, $uri ],
	'>', \$copy_out, '2>', \$copy_err), 'the Unicode character database') or diag($copy_err);
$c->sql('main', q{UPDATE unicode SET name = 'MINE NOW' WHERE category = 'Lu'; DELETE FROM unicode WHERE category = 'Lo'; VACUUM unicode;});
check('the demo\'s data');

cmp_ok(stat_of('verified'), '>', 3000, 'thousands of pages with content were compared');
cmp_ok(stat_of('verified_empty'), '>', 50, 'and empty ones');
ok($c->poll('released pages are compared', 60, sub { stat_of('verified_released') > 0 }), 'and pages that ceased to be pinned');
is(stat_of('skipped_proposer + skipped_stopping + skipped_no_history'), '0', 'none was left out');

# ---- a page of an index build is let go of while the drop of its relation is in WAL and waits for the quorum
my ($in, $old) = ("BEGIN; SELECT txid_current();\n", '');
my $holder = IPC::Run::start([ 'psql', '-XAtq', $uri ], '<', \$in, '>', \$old, '2>&1', IPC::Run::timeout(240));
$holder->pump until $old =~ /\d+\n/;		# older than the index: its build is not over as long as this runs
$c->sql('main', 'CREATE UNLOGGED TABLE gone (a int PRIMARY KEY)');
$c->stop($_, '-m', 'immediate') for qw(safekeeper-2 safekeeper-3);
my $drop = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-c', 'DROP TABLE gone', $uri ], '>', \my $dropped, '2>', \my $drop_error, IPC::Run::timeout(240));
ok($c->poll('it waits', 90, sub { $c->sql('main', q{SELECT count(*) FROM pg_stat_activity WHERE query = 'DROP TABLE gone' AND wait_event = 'SyncRep'}) eq '1' }), 'a drop waits for the quorum');
my $released = $c->sql('main', 'SELECT pins_released FROM pg_stat_neon_page_cache');
$in .= "ROLLBACK;\n\\q\n";
$holder->finish;
ok($c->poll('it goes', 90, sub { $c->sql('main', 'SELECT pins_released FROM pg_stat_neon_page_cache') > $released }), 'meanwhile its pages cease to be pinned');
$c->start($_) for qw(safekeeper-2 safekeeper-3);
$drop->finish;
is($drop->result(0), 0, 'the drop ends') or diag($drop_error);
check('a dropped relation');

# ---- with a queue of 16 pages writers wait, and nothing is left out
settings('{"shared_buffers": "1MB", "neon.file_cache_size_limit": "0", "max_connections": "30", "neon.page_truth": "on", "neon.page_truth_queue": "16"}');
$c->sql('main', "INSERT INTO t SELECT i, 1, ARRAY['q'], point(i, i), 'q' FROM generate_series(20000, 26000) i; UPDATE t SET n = 5");
check('a small queue');
cmp_ok(stat_of('waits'), '>', 0, 'writers waited for room');
is(stat_of('skipped_proposer + skipped_stopping + skipped_no_history'), '0', 'none was left out');

# ---- the pageserver is away: writers wait, and go on
$c->stop('pageserver-1', '-m', 'immediate');
my $h = IPC::Run::start([ 'psql', '-X', '-q', '-c', 'CHECKPOINT; CHECKPOINT', $uri ], '>', \my $o, '2>', \my $e);
$c->start('pageserver-1');
$h->finish;
is($h->result(0), 0, 'a checkpoint waits for the pageserver') or diag($e);
check('after a pageserver\'s crash');

# ---- one bit
sub flipped
{
	my ($rel, $fork, $block, $byte, $bit) = @_;
	$c->sql('main', "CHECKPOINT; SELECT neon_page_truth_check(); SELECT neon_test_flip_bit('$rel', $fork, $block, $byte, $bit)");
	my ($r, undef, $e) = $c->psql_uri($uri, "SELECT neon_test_evict('$rel'); SELECT neon_page_truth_check()");
	return $r == 0 ? '' : $e;
}
$c->sql('main', q{CREATE TABLE bits (a int); INSERT INTO bits SELECT generate_series(1, 100); VACUUM bits; CREATE INDEX bits_a ON bits (a);
	CREATE EXTENSION pageinspect;});
my $off = $c->sql('main', "SELECT lp_off FROM heap_page_items(get_raw_page('bits', 0)) WHERE lp = 1");
# what a mask covers
is(flipped('bits', 0, 0, $off + 8, 0), '', 'a command id is not compared');
is(flipped('bits', 0, 0, $off + 21, 0), '', 'a hint bit is not compared');
is(flipped('bits', 0, 0, 20, 0), '', 'pd_prune_xid is not compared');
is(flipped('bits_a', 0, 1, 24 + 2, 0), '', 'an index item that is marked dead is not compared');
is(stat_of('mismatches'), '0', 'no mismatch so far');
# what is beside it
$err = flipped('bits', 0, 0, $off + 7, 7);
like($err, qr{block 0 of relation 1663/\d+/\d+ fork 0 is not what the pageserver makes of its WAL: byte @{[$off + 7]} is 80, not 00}, 'a bit of xmax is found');
like($err, qr{LSN [0-9A-F]+/[0-9A-F]+, the pageserver's [0-9A-F]+/[0-9A-F]+, both as of [0-9A-F]+/[0-9A-F]+ \(heap; written by process \d+\)}, 'with all LSNs');
is(stat_of('mismatches'), '1', 'it is counted');
my $data = $c->status->{main}{dir};
ok(-s "$data/neon/page_truth_1.compute" == 8192 && -s "$data/neon/page_truth_1.pageserver" == 8192, 'both pages are kept');
my $log = do { local $/; open my $f, '<', (glob("$c->{dir}/computes/*/compute.log"))[0] or die; <$f> };
like($log, qr/ERROR:.*is not what the pageserver makes of its WAL/, 'it is an error in the log');
# a second one is counted, the first is what is raised
$c->sql('main', "SELECT neon_test_flip_bit('bits', 2, 0, 24, 0); SELECT neon_test_evict('bits')");
ok($c->poll('a visibility bit that the pageserver has', 60, sub { stat_of('mismatches') eq '2' }), 'a visibility bit that was cleared without WAL is found');
like($log = `grep -h 'visibility bit' $c->{dir}/computes/*/compute.log`, qr/the pageserver has a visibility bit that was cleared/, 'and named');
($rc, undef, $err) = $c->psql_uri($uri, 'SELECT neon_page_truth_check()');
like($err, qr/mismatch 2 of this compute/, 'both are counted in the error');

# ---- panic stops the compute
settings('{"neon.page_truth": "panic"}');
my $pid = $c->pid('main');
$c->psql_uri($uri, "SELECT neon_test_flip_bit('bits', 0, 0, @{[$off + 7]}, 7); SELECT neon_test_evict('bits')");
ok($c->poll('the compute stops', 60, sub { !kill 0, $pid }), 'with neon.page_truth = panic a mismatch stops the compute');
done_testing();
