# A transaction with hundreds of thousands of subtransactions is one record that belongs to many pages of the commit log.  It must fit the memory of a
# pageserver, keep no other timeline from going on, and be right when the commit log is all that knows who committed.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use Test::More;

my $n = 350_000;
my $c = NeonCluster->new(init => [ '--safekeepers', 1 ]);
$c->conf('pageserver-1', "neon_pageserver.open_layer_memory = '16MB'");
$c->start;
$c->sql('main', 'CREATE TABLE t (a int)');
$c->node_sql('controller', q{SELECT neon_create_branch('other', parent => 'main'); SELECT neon_create_endpoint('other')});
sub loop { my ($table) = @_; return qq{DO \$\$ BEGIN FOR i IN 1..$n LOOP BEGIN INSERT INTO $table VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END \$\$}; }
# every second id is one that aborts
sub log_of { open my $f, '<', "$c->{dir}/logs/pageserver-1.log" or die $!; local $/; return <$f>; }
my $lsn;
for my $run ([ 'COMMIT', 't' ], [ 'ROLLBACK', 't' ])
{
	$c->sql('main', "BEGIN; SET LOCAL synchronous_commit = off; " . loop($run->[1]) . "; $run->[0]");
}
$c->sql('main', 'INSERT INTO t VALUES (0)');
$lsn = $c->sql('main', 'SELECT pg_current_wal_flush_lsn()');
ok($c->poll('it is ingested', 180, sub { $c->node_sql('pageserver-1', "SELECT max(last_record_lsn) >= '$lsn' FROM neon_pageserver.timelines") eq 't' }), 'the pageserver takes them')
	or diag $c->node_sql('pageserver-1', 'SELECT * FROM neon_pageserver.ingest');
unlike(log_of(), qr/no memory is left for open layers/, 'without running out of memory');
$c->sql('other', 'INSERT INTO t VALUES (1)');
is($c->sql('other', 'SELECT count(*) FROM t'), '1', 'another branch goes on');
# from nothing: no hint bits of this server's
$c->kill9('main');
$c->start('main');
is($c->sql('main', 'SELECT count(*), sum(a) FROM t'), ($n + 1) . '|' . ($n * ($n + 1) / 2), 'what committed is there, what did not is not');
done_testing();
