# A pageserver refuses settings under which its layers or rows could be lost; what its functions did is durable when they return.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use StoreTest;

my $t = tenant();
my $node = new_pageserver('durable');

# ---- in a session that does not wait for its own commits
sub durable
{
	my ($call, $what) = @_;
	my $answer = $node->safe_psql('postgres', qq{
SET synchronous_commit = off;
BEGIN;
DO \$\$ BEGIN PERFORM $call; END \$\$;
SELECT pg_current_wal_insert_lsn() AS inserted \\gset
COMMIT;
SELECT pg_current_wal_flush_lsn() > :'inserted'});
	is($answer, 't', "$what is durable when the call returns");
}
durable("neon_pageserver.create_tenant('" . ('b' x 32) . "', 'secret')", 'create_tenant');
durable("neon_pageserver.create_timeline('$t', '" . timeline(1) . "', '{}')", 'create_timeline');
durable("neon_pageserver.set_safekeepers('$t', '" . timeline(1) . "', '{x}')", 'set_safekeepers');
durable("neon_pageserver.drop_timeline('$t', '" . timeline(1) . "')", 'drop_timeline');
durable("neon_pageserver.drop_tenant('" . ('b' x 32) . "')", 'drop_tenant');

# ---- a reload that takes durability away stops layers, not the server
my $timeline = timeline(2);
$node->safe_psql('postgres', "SELECT neon_pageserver.create_timeline('$t', '$timeline', '{}')");
$node->safe_psql('postgres', "SELECT store_put('$t', '$timeline', 100, 7)");
for my $name ('fsync', 'full_page_writes')
{
	$node->append_conf('postgresql.conf', "$name = off");
	$node->reload;
	poll_true($node, "SELECT current_setting('$name') = 'off'") or die;
	my ($rc) = $node->psql('postgres', "SET statement_timeout = '1s'; SELECT neon_pageserver.checkpoint()");
	isnt($rc, 0, "$name=off: no layer is written");
	$node->append_conf('postgresql.conf', "$name = on");
	$node->reload;
	poll_true($node, "SELECT current_setting('$name') = 'on'") or die;
}
$node->safe_psql('postgres', "SET statement_timeout = '60s'; SELECT neon_pageserver.checkpoint()");
is($node->safe_psql('postgres', "SELECT count(*) FROM neon_pageserver.layers WHERE timeline = '$timeline' AND kind = 'delta'"), '1', 'later it is');
$node->stop;

for my $setting ([ 'fsync', 'off', 'on' ], [ 'full_page_writes', 'off', 'on' ], [ 'data_sync_retry', 'on', 'off' ])
{
	my ($name, $bad, $good) = @$setting;
	$node->append_conf('postgresql.conf', "$name = $bad");
	ok(!$node->start(fail_ok => 1), "$name=$bad: does not start");
	like(slurp_file($node->logfile), qr/FATAL:  a pageserver cannot run with $name=$bad/, 'and says why');
	$node->append_conf('postgresql.conf', "$name = $good");
}

done_testing();
