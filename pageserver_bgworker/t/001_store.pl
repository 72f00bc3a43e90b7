# Reads of the versioned store against a model: open layer, frozen layers, files, branches, crashes.
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
my $branch = timeline(2);
my $node = new_pageserver('store', "neon_pageserver.open_layer_memory = 16MB\nneon_pageserver.compaction_threshold = 0\n");

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub put { return sql("SELECT store_put('$t', '$_[0]', $_[1], " . ($_[2] // 7) . ")"); }
sub check { return sql("SELECT store_check('$t', '$_[0]', 500)"); }
sub state_of
{
	my ($timeline, $column) = @_;
	return sql("SELECT $column FROM neon_pageserver.timelines WHERE timeline = '$timeline'");
}

# ---- one timeline, in memory and in files
my $created = sql("SELECT neon_pageserver.create_timeline('$t', '$root', '{}')");
is(sql("SELECT neon_pageserver.create_timeline('$t', '$root', '{}')"), $created, 'creation is idempotent');
put($root, 1000);
cmp_ok(check($root), '>', 0, 'open layer reads as the model');
is(state_of($root, 'disk_consistent_lsn = start_lsn'), 't', 'nothing flushed yet');
sql("SELECT neon_pageserver.checkpoint('$t')");
is(state_of($root, 'disk_consistent_lsn = last_record_lsn AND open_bytes = 0'), 't', 'checkpoint flushes');
is(sql("SELECT count(*) FROM neon_pageserver.layers WHERE kind = 'delta'"), '1', 'as one delta layer');
check($root);
put($root, 500);
check($root);
pass('file and open layer together read as the model');

# ---- a batch that fails half-way is invisible and can be put again
my ($rc, $out, $err) = $node->psql('postgres', "SELECT store_put_failing('$t', '$root', 30)");
like($err, qr/failed as asked/, 'a batch fails');
check($root);
is(sql("SELECT store_freeze('$t', '$root')"), '1', 'its layer can be frozen');
poll_true($node, "SELECT disk_consistent_lsn = last_record_lsn FROM neon_pageserver.timelines WHERE timeline = '$root'");
check($root);
put($root, 100);
check($root);
pass('a failed batch left nothing behind');

# ---- more than the pool holds: layers are frozen and flushed while a reader checks
put($root, 12000, 50);
check($root);
cmp_ok(sql("SELECT count(*) FROM neon_pageserver.layers WHERE kind = 'delta'"), '>', 3, 'a full pool is flushed');

my @readers;
for my $i (1 .. 2)
{
	my $script = "SELECT sum(store_check('$t', '$root', 50)) FROM generate_series(1, 15) g";
	my ($o, $e) = ('', '');
	push @readers, [ IPC::Run::start([ 'psql', '-X', '-A', '-t', '-d', $node->connstr('postgres'), '-c', $script ], '>', \$o, '2>', \$e), \$o, \$e ];
}
put($root, 6000, 3);
for my $r (@readers)
{
	$r->[0]->finish;
	like(${ $r->[1] }, qr/^\d+$/, 'a reader beside the writer sees the model') or diag(${ $r->[2] });
}

# ---- branches
my $lsn = sql("SELECT start_lsn + 8 * 7000 FROM neon_pageserver.timeline WHERE timeline = '$root'");
sql("SELECT neon_pageserver.create_timeline('$t', '$branch', '{}', '$root', '$lsn')");
check($branch);
put($branch, 3000);
put($root, 500);
check($branch);
check($root);
sql("SELECT neon_pageserver.checkpoint()");
check($branch);
check($root);
pass('a branch sees its ancestor up to the branch point, and its own');
my $grandchild = timeline(3);
sql("SELECT neon_pageserver.create_timeline('$t', '$grandchild', '{}', '$branch')");
put($grandchild, 200);
check($grandchild);
pass('a branch of a branch');
($rc, $out, $err) = $node->psql('postgres', "SELECT neon_pageserver.drop_timeline('$t', '$root')");
like($err, qr/has 1 branches/, 'a timeline with branches is not dropped');

# ---- restart and crash
my $durable = state_of($branch, 'disk_consistent_lsn');
put($branch, 1000);
$node->restart;
is(state_of($branch, 'last_record_lsn'), $durable, 'after a restart the timeline is at what was durable');
check($branch);
put($branch, 2000);
check($branch);
kill_all($node);
$node->start;
is(state_of($branch, 'last_record_lsn'), $durable, 'the same after kill -9');
check($_) for ($root, $branch, $grandchild);
put($branch, 1500);
check($branch);
pass('and goes on from there');

# ---- kill -9 between the file and its row
my $blocker = IPC::Run::start([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-c',
	"BEGIN; LOCK TABLE neon_pageserver.timeline IN SHARE MODE; SELECT pg_sleep(600)" ], '>', \my $bo, '2>', \my $be);
poll_true($node, "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'neon_pageserver.timeline'::regclass AND mode = 'ShareLock' AND granted");
my $files_before = sql("SELECT count(*) FROM pg_ls_dir('neon_pageserver/$t/$branch')");
sql("SELECT store_freeze('$t', '$branch')");
poll_true($node, "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'neon_pageserver.timeline'::regclass AND NOT granted");
is(sql("SELECT count(*) FROM pg_ls_dir('neon_pageserver/$t/$branch')"), $files_before + 1, 'the file is written, its row is not');
check($branch);
kill_all($node);
$blocker->kill_kill;
$node->start;
is(state_of($branch, 'last_record_lsn'), $durable, 'the flush did not happen');
is(sql("SELECT count(*) FROM pg_ls_dir('neon_pageserver/$t/$branch')"), $files_before, 'the file without a row is gone');
check($branch);
put($branch, 1500);
sql("SELECT neon_pageserver.checkpoint()");
check($branch);

# ---- compaction
sql("SELECT store_put('$t', '$root', 300, 7)"), sql('SELECT neon_pageserver.checkpoint()') for 1 .. 4;
my $level0 = sql("SELECT count(*) FROM neon_pageserver.layers WHERE timeline = '$root' AND level = 0");
cmp_ok($level0, '>', 8, 'there are L0 files to compact');
$node->append_conf('postgresql.conf', "neon_pageserver.compaction_threshold = 4\nneon_pageserver.compaction_target_size = 1MB\n");
$node->reload;
ok(poll_true($node, "SELECT count(*) < 4 FROM neon_pageserver.layers WHERE timeline = '$root' AND level = 0"), 'they are compacted');
cmp_ok(sql("SELECT count(*) FROM neon_pageserver.layers WHERE timeline = '$root' AND level = 1 AND kind = 'delta'"), '>', 1, 'into several files');
check($_) for ($root, $branch, $grandchild);
put($root, 200);
check($root);
$node->append_conf('postgresql.conf', "neon_pageserver.compaction_threshold = 0\n");
$node->restart;
is(sql("SELECT string_agg(f, ',') FROM pg_ls_dir('neon_pageserver/$t/$root') f WHERE f NOT IN (SELECT file FROM neon_pageserver.layers)"),
	'', 'the files that were replaced are gone after a restart');
check($_) for ($root, $branch, $grandchild);
pass('compacted timelines read as the model');

# ---- a damaged block is an error that names it; other keys are read
cmp_ok(sql("SELECT store_scan('$t', '$branch')"), '>', 1000, 'everything can be read');
my ($file) = split /\n/, sql("SELECT file FROM neon_pageserver.layers WHERE timeline = '$branch' AND kind = 'delta'");
my $path = $node->data_dir . "/neon_pageserver/$t/$branch/$file";
open(my $fh, '+<:raw', $path) or die $!;
seek($fh, 5000, 0);
read($fh, my $byte, 1);
seek($fh, 5000, 0);
print $fh chr(ord($byte) ^ 0x55);
close $fh;
($rc, $out, $err) = $node->psql('postgres', "SELECT store_scan('$t', '$branch')");
like($err, qr/layer file ".*\Q$file\E" is damaged in block \d+/, 'damage is found and located');
check($root);
pass('other timelines are read');

# ---- drops
sql("SELECT neon_pageserver.drop_timeline('$t', '$grandchild')");
sql("SELECT neon_pageserver.drop_timeline('$t', '$branch')");
ok(poll_true($node, "SELECT count(*) = 0 FROM pg_ls_dir('neon_pageserver/$t') d WHERE d = '$branch'"), 'files of a dropped timeline go');
($rc, $out, $err) = $node->psql('postgres', "SELECT store_check('$t', '$branch', 1)");
like($err, qr/does not exist on this pageserver/, 'a dropped timeline is gone');
$node->psql('postgres', "BEGIN; SELECT neon_pageserver.create_timeline('$t', '$branch', '{}', '$root'); ROLLBACK");
($rc, $out, $err) = $node->psql('postgres', "SELECT store_check('$t', '$branch', 1)");
like($err, qr/does not exist on this pageserver/, 'a creation that rolled back leaves nothing');
sql("SELECT neon_pageserver.create_timeline('$t', '$branch', '{}', '$root', '$lsn')");
put($branch, 100);
check($branch);
pass('its id can be used again');
sql("SELECT neon_pageserver.drop_tenant('$t')");
is(sql("SELECT count(*) FROM neon_pageserver.timelines"), '0', 'a dropped tenant has no timelines');

done_testing();
