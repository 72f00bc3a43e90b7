# A compute of a whole cluster, with next to no memory: it goes on without a quorum as long as nothing has to be committed, and
# what it shows is what the pageserver makes of its WAL.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../../test/perl";
use NeonCluster;
use Test::More;

my $c = NeonCluster->new;
$c->start;
$c->node_sql('controller', q{UPDATE neon_controller.endpoints SET settings =
	'{"shared_buffers": "1MB", "neon.file_cache_size_limit": "1MB", "max_connections": "30"}'});
$c->stop('main');
$c->start('main');

# ---- far more than shared_buffers and the page cache hold
$c->sql('main', q{
CREATE TABLE t (id int PRIMARY KEY, n int, f text) WITH (fillfactor = 80);
INSERT INTO t SELECT i, 0, repeat('x', 100) FROM generate_series(1, 100000) i;
CREATE INDEX ON t (n);
CREATE INDEX ON t USING gin ((ARRAY[id % 10]));
VACUUM t;
CREATE TABLE grows (a int, f text);
INSERT INTO grows SELECT i, repeat('y', 100) FROM generate_series(1, 20000) i;
});
$c->stop('safekeeper-2');
$c->stop('safekeeper-3');
my ($rc, $out, $err) = $c->psql_uri($c->uri('main'), q{
SET statement_timeout = '100s';
BEGIN;
UPDATE t SET n = n + 1 WHERE id <= 30000;
INSERT INTO grows SELECT i, repeat('z', 100) FROM generate_series(20001, 40000) i;
DELETE FROM t WHERE id > 99000;
SELECT sum(n), count(*) FROM t;
SELECT sum(a), count(*) FROM grows;
SELECT sum(n), count(*) FROM t;
ROLLBACK;
SELECT sum(n), count(*) FROM t;
});
is($out, "30000|99000\n800020000|40000\n30000|99000\n0|100000", 'a large transaction without a quorum reads its own pages')
  or diag($err);
cmp_ok($c->sql('main', 'SELECT pins_quorum FROM pg_stat_neon_page_cache'), '>', 100, 'which storage did not have');
$c->start('safekeeper-2');
$c->start('safekeeper-3');

# ---- page truth
$c->sql('main', q{
UPDATE t SET n = n + 1 WHERE id % 3 = 0;
DELETE FROM t WHERE id % 1000 = 0;
VACUUM t;
UPDATE t SET n = n + 1 WHERE id % 7 = 0;
});
my $compare = q{SELECT count(*) || '|' || coalesce(sum(neon_test_compare(oid)), 0) FROM pg_class
	WHERE relpersistence = 'p' AND relkind IN ('r', 'i', 't', 'm')};
my ($n, $differences) = split /\|/, $c->sql('main', $compare);
cmp_ok($n, '>', 100, 'all relations of the database compared with the pageserver');
is($differences, '0', 'no page differs');
my $sum = $c->sql('main', 'SELECT sum(n), count(*) FROM t');
ok($c->poll('pinned pages are released', 30, sub {
	$c->sql('main', 'SELECT pins_released > 100 FROM pg_stat_neon_page_cache') eq 't' }), 'pinned pages are released');

# ---- from nothing
my $fsm = $c->sql('main', "SELECT pg_relation_size('t', 'fsm') > 0");
$c->stop('main');
$c->start('main');
is($c->sql('main', 'SELECT sum(n), count(*) FROM t'), $sum, 'the same after a start from nothing');
is($c->sql('main', "SELECT pg_relation_size('t', 'fsm') > 0"), $fsm, 'the free space map is there');
cmp_ok($c->sql('main', 'SELECT read_ahead_hits FROM pg_stat_neon_page_cache'), '>', 500, 'a scan from nothing reads ahead');
done_testing();
