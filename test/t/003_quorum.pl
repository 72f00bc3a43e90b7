# Commits need two of three safekeepers: one away changes nothing, two away make commits wait, unseen by others.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use IPC::Run;
use Test::More;

my $c = NeonCluster->new;
$c->start;
$c->sql('main', 'CREATE TABLE t (a int)');

$c->kill9('safekeeper-3');
$c->sql('main', 'INSERT INTO t VALUES (1)', timeout => 60);
is($c->sql('main', 'SELECT count(*) FROM t'), '1', 'one safekeeper down: commits go on');

$c->kill9('safekeeper-2');
my ($out, $err) = ('', '');
my $h = IPC::Run::start([ 'psql', '-X', '-q', '-c', 'INSERT INTO t VALUES (2)', $c->uri('main') ], '<', '/dev/null', '>', \$out, '2>', \$err,
	IPC::Run::timeout(300));
ok($c->poll('a commit waits', 30, sub {
	$c->sql('main', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'INSERT%'}) eq '1' }),
	'two down: the commit can be seen waiting');
is($c->sql('main', 'SELECT count(*) FROM t'), '1', 'and nobody sees its row');

$c->start('safekeeper-2');
$h->finish;
is($h->result(0), 0, 'it finishes when one returns');
is($c->sql('main', 'SELECT count(*) FROM t'), '2', 'and its row is there');

$c->sql('main', 'INSERT INTO t SELECT generate_series(1, 50000)');
my $lsn = $c->sql('main', 'SELECT pg_current_wal_flush_lsn()');
$c->start('safekeeper-3');
ok($c->poll('the safekeeper that was away catches up', 60, sub {
	$c->node_sql('safekeeper-3', qq{SELECT count(*) FROM neon_safekeeper.timelines WHERE commit_lsn >= '$lsn'}) eq '1' }),
	'a safekeeper that was away catches up');

# away over a restart of the compute: what it lacks is older than the compute's own WAL
$c->stop('safekeeper-3');
$c->sql('main', 'INSERT INTO t SELECT generate_series(1, 50000)');
$c->stop('main');
$c->start('main');
$c->sql('main', 'INSERT INTO t SELECT generate_series(1, 10)');
$lsn = $c->sql('main', 'SELECT pg_current_wal_flush_lsn()');
$c->start('safekeeper-3');
ok($c->poll('it catches up from another safekeeper', 60, sub {
	$c->node_sql('safekeeper-3', qq{SELECT count(*) FROM neon_safekeeper.timelines WHERE commit_lsn >= '$lsn'}) eq '1' }),
	'it catches up from another safekeeper below the compute\'s first WAL');
$c->kill9('safekeeper-1');
is($c->sql('main', 'INSERT INTO t VALUES (3) RETURNING a', timeout => 60), '3', 'and counts for the quorum again');
is($c->sql('main', 'SELECT count(*) FROM t'), '100013', 'nothing was lost');

done_testing();
