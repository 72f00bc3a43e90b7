# The page stream: LSN rules, errors that answer one request, pipelining, who may call, no transaction while idle.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use StoreTest;

my $t = tenant();
my $root = timeline(1);
my $node = new_pageserver('pages', "neon_pageserver.wait_lsn_timeout = 1s\nlog_min_messages = log\n");
my $connstr = $node->connstr('postgres');

my ($start) = split /\|/, $node->safe_psql('postgres', "SELECT (c).start_lsn FROM neon_pageserver.create_timeline('$t', '$root', '{}') c");

# ---- sizes, existence and pages of the imported cluster
my ($answers, $err) = stream($connstr, $root,
	'exists max 0/0 1663 1 1259 0 0',
	'exists max 0/0 1663 1 99999999 0 0',
	'nblocks max 0/0 1663 1 1259 0 0',
	'nblocks max 0/0 1663 1 99999999 0 0',
	'getpage max 0/0 1663 1 1259 0 0',
	'getpage max 0/0 1663 1 1259 0 100000',
	'getpage max 0/0 1663 1 99999999 0 0',
	'getpage max 0/0 1663 1 1259 1 100000',
	'getpage max 0/0 1663 1 1259 2 100000',
	'dbsize max 0/0 1663 1 0 0 0',
	'slru max 0/0 0 0 0 0 0',
	'slru max 0/0 0 0 99 0 0',
	"getpage $start 0/0 1663 1 1259 0 0",
	'getpage 0/1 0/0 1663 1 1259 0 0',
	'getpage max 0/0 1663 1 1259 0 1');
is($err, '', 'a stream ends without error');
is($answers->[0], '1', 'a relation exists');
is($answers->[1], '0', 'another does not');
cmp_ok($answers->[2], '>', 5, 'blocks of pg_class');
is($answers->[3], '0', 'no blocks where no relation is');
like($answers->[4], qr/^page [0-9a-f]{8} \S+$/, 'a page');
unlike($answers->[4], qr/ 0\/00000000$/, 'that has an LSN');
like($answers->[5], qr/^error 22023 block 100000 is behind the end/, 'behind the end is an error for the main fork');
like($answers->[6], qr/^error 42704 relation .* does not exist/, 'so is a missing relation');
like($answers->[7], qr/^page \S+ 0\/00000000/, 'but zeros for the free space map');
is($answers->[8], $answers->[7], 'and for the visibility map');
cmp_ok($answers->[9], '>', 1024 * 1024, 'size of a database');
like($answers->[10], qr/^slru 8192 /, 'a segment of the commit log');
like($answers->[11], qr/^slru 0 /, 'a segment that does not exist');
is($answers->[12], $answers->[4], 'the page at the start LSN');
like($answers->[13], qr/^error NE002 /, 'before the start is an error');
like($answers->[14], qr/^page /, 'the stream went on after errors');
is($answers->[15], 'still usable', 'and the connection after the stream');

# ---- waiting for an LSN
my $ahead = $node->safe_psql('postgres', "SELECT '$start'::pg_lsn + 8 * 100");
($answers) = stream($connstr, $root, "getpage max $ahead 1663 1 1259 0 0", 'exists max 0/0 1663 1 1259 0 0');
like($answers->[0], qr/^error NE001 timed out waiting for WAL/, 'WAL that does not come is an error in the end');
is($answers->[1], '1', 'of that request only');

$node->append_conf('postgresql.conf', 'neon_pageserver.wait_lsn_timeout = 60s');
$node->reload;
my ($out, $serr) = ('', '');
my $client = "$FindBin::RealBin/../store_test/stream_client";
my $waiting = IPC::Run::start([ $client, $connstr, $t, $root ], '<pipe', \*WAITING, '>', \$out, '2>', \$serr);
print WAITING "getpage max $ahead 1663 1 1259 0 0\n";
close WAITING;
poll_true($node, "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'CALL neon_pageserver.pagestream%' AND wait_event_type = 'Extension'");
$node->safe_psql('postgres', "SELECT store_put('$t', '$root', 100, 10)");
$waiting->finish;
like($out, qr/^page /, 'a waiting request is answered when its WAL arrives');

# ---- many requests at once, more than any buffer holds
($answers, $err) = stream($connstr, $root, map { "getpage max 0/0 1663 1 1259 0 " . ($_ % 5) } 1 .. 3000);
is(scalar(@$answers), 3001, 'pipelined requests are all answered, in order');
is($answers->[0], $answers->[5], 'the same page is the same');

# ---- an idle stream holds no transaction, and DROP DATABASE does not wait for it
my $idle = IPC::Run::start([ $client, $connstr, $t, $root ], '<pipe', \*IDLE, '>', \my $idle_out, '2>', \my $idle_err);
poll_true($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'CALL neon_pageserver.pagestream%' AND wait_event = 'ClientRead'");
is($node->safe_psql('postgres', "SELECT xact_start IS NULL AND backend_xmin IS NULL FROM pg_stat_activity WHERE query LIKE 'CALL neon_pageserver.pagestream%'"),
	't', 'no transaction in an idle stream');
$node->safe_psql('postgres', 'CREATE DATABASE doomed');
$node->safe_psql('postgres', 'DROP DATABASE doomed');
pass('DROP DATABASE passes');

# ---- a dropped timeline answers with an error
$node->safe_psql('postgres', "SELECT neon_pageserver.drop_timeline('$t', '$root')");
print IDLE "exists max 0/0 1663 1 1259 0 0\n";
close IDLE;
$idle->finish;
like($idle_out, qr/^error NE003 /, 'a stream of a dropped timeline answers with an error');

# ---- protocol violations end the connection, not the server
$node->safe_psql('postgres', "SELECT neon_pageserver.create_timeline('$t', '$root', '{}')");
($answers, $err) = stream($connstr, $root, 'raw 02aabb');
like($err, qr/malformed page stream request of 3 bytes/, 'a malformed request is FATAL');
($answers) = stream($connstr, $root, 'exists max 0/0 1663 1 1259 0 0');
is($answers->[0], '1', 'others are served');

# ---- who may call
my ($rc, $o, $e) = $node->psql('postgres', "BEGIN; CALL neon_pageserver.pagestream('$t', '$root')");
like($e, qr/cannot run inside a transaction block/, 'not inside a transaction');
my $other = 'b' x 32;
$node->safe_psql('postgres', "SELECT neon_pageserver.create_tenant('$other', 'secret')");
my $denied = qr/permission denied for tenant/;
($answers, $err) = stream("$connstr user=neon_t_$other", $root, 'exists max 0/0 1663 1 1259 0 0');
like($err, $denied, "another tenant's role is refused");
($rc, $o, $e) = $node->psql('postgres', "SET ROLE neon_t_$other; SELECT neon_pageserver.last_record_lsn('" . 'c' x 32 . "', '$root')");
like($e, $denied, 'with the same message when the tenant does not exist');
($answers) = stream("$connstr user=neon_t_$t", $root, 'exists max 0/0 1663 1 1259 0 0', 'getpage max 0/0 1663 1 1259 0 0');
is($answers->[0], '1', "the tenant's role may");
like($answers->[1], qr/^page/, 'and reads pages, which needs the catalog');
for my $call ("create_tenant('$t', 'x')", "drop_timeline('$t', '$root')", 'checkpoint()')
{
	($rc, $o, $e) = $node->psql('postgres', "SET ROLE neon_t_$t; SELECT neon_pageserver.$call");
	like($e, qr/permission denied for function/, "$call is for operators");
}

done_testing();
