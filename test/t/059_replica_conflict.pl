# While redo on a replica waits for a query, no page is shown as of the record that waits: not even one that has left the buffers meanwhile.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use DBI;
use Ledger;
use NeonCluster;
use Test::More;

my $c = NeonCluster->new(init => [ '--safekeepers', 1 ]);
$c->start;
my $rows = 5000;
$c->sql('main', qq{CREATE EXTENSION pg_buffercache;
	CREATE TABLE t (id int PRIMARY KEY) WITH (autovacuum_enabled = off); INSERT INTO t SELECT generate_series(1, $rows); VACUUM t});
# small enough not to be read through a ring, together more than the buffers
$c->sql('main', join ';', map { "CREATE TABLE other_$_ WITH (autovacuum_enabled = off) AS SELECT i, repeat('x', 800) AS pad FROM generate_series(1, 180) i" } 1 .. 40);
$c->sql('main', q{SELECT neon_create_endpoint('eyes', 'main', mode => 'replica')});
$c->node_sql('controller', q{UPDATE neon_controller.endpoints SET settings = settings ||
	'{"shared_buffers": "2MB", "max_standby_streaming_delay": "-1", "neon.file_cache_size_limit": "0", "bgwriter_lru_maxpages": "0"}' WHERE name = 'eyes'});
$c->sql('main', q{SELECT neon_suspend_endpoint('eyes'); SELECT neon_start_endpoint('eyes')});

# what new sessions read would drive the map out of the buffers at another time
my ($eyes, $looks) = map { DBI->connect(Ledger::dsn_of_uri($c->uri('eyes')), { RaiseError => 1, PrintError => 0, AutoCommit => 1 }) } 1 .. 2;
sub look { my ($sql) = @_; return scalar $looks->selectrow_array($sql); }
my $map = q{SELECT count(*) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('t') AND relforknumber = 2};
look("$map AND isdirty");
look('SELECT count(*) FROM pg_stat_activity');
$eyes->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
$eyes->do("SET LOCAL $_ = off") for qw(enable_seqscan enable_bitmapscan);
my $count = 'SELECT count(*) FROM t WHERE id > 0';
like(join("\n", map { $_->[0] } @{ $eyes->selectall_arrayref("EXPLAIN $count") }), qr/Index Only Scan/, 'it asks the visibility map');
is($eyes->selectrow_array($count), $rows, 'a snapshot is taken');

# The insert takes the last block's bit from the map, which so is changed in the buffers; VACUUM's record that sets it has to wait.
$c->sql('main', qq{INSERT INTO t VALUES ($rows + 1), ($rows + 2)});
my $lsn = $c->sql('main', 'SELECT pg_current_wal_flush_lsn()');
ok($c->poll('the replica follows', 120, sub { look("SELECT pg_last_wal_replay_lsn() >= '$lsn'") }), 'rows are inserted');
$c->sql('main', 'VACUUM t');
ok($c->poll('redo waits', 120, sub { look(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event = 'RecoveryConflictSnapshot'}) }),
	'redo waits for the snapshot');
is(look("$map AND isdirty"), 1, 'the map is changed, and in the buffers');
ok($c->poll('the map leaves the buffers', 120, sub { look("SELECT count(*) FROM other_$_") for 1 .. 40; look($map) == 0 }),
	'the map leaves the buffers');
is($eyes->selectrow_array($count), $rows, 'the snapshot sees what it saw');
$eyes->do('COMMIT');
$lsn = $c->sql('main', 'SELECT pg_current_wal_flush_lsn()');
ok($c->poll('the replica follows', 120, sub { $c->sql('eyes', "SELECT pg_last_wal_replay_lsn() >= '$lsn'") eq 't' }), 'redo goes on');
is($c->sql('eyes', "SET enable_seqscan = off; $count"), $rows + 2, 'the next one sees the rest');
done_testing();
