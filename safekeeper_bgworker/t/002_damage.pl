# What a safekeeper does when its catalog and its files disagree, and when its disk is full.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SkTest;
use Test::More;

my $donor = new_donor();
my $sk = new_safekeeper('sk', 1);
my $from = $donor->safe_psql('postgres', 'SELECT redo_lsn FROM pg_control_checkpoint()');
$donor->safe_psql('postgres',
	"INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 200000) g; CHECKPOINT");
my @ends = record_bounds($donor, $from);
my $start = $ends[4];
my $n_start = lsn_number($start);
my @near = grep { lsn_number($_) < $n_start + 1000000 } @ends;
my @far = grep { lsn_number($_) > $n_start + 2 * $SEGMENT && lsn_number($_) % 8192 != 0 } @ends;
my ($p1, $end) = ($near[-1], $far[10]);
create_timeline($sk, $donor, $start);
my $dir = $sk->data_dir . "/neon_safekeeper/pgsql_tmp/$TENANT/$TIMELINE";

# ---- the next segment is made before it is needed ----
my ($half) = grep { lsn_number($_) % $SEGMENT > $SEGMENT * 6 / 10 && lsn_number($_) > $n_start } @ends;
proposer($sk, $donor, "greet\nvote 1\nelected 1 $start 1:$start\nappend 1 $start $half $start");
my $next = int(lsn_number($half) / $SEGMENT) + 1;
my $next_file = sprintf('%s/00000001%08X%08X', $dir, $next / 256, $next % 256);
ok($sk->poll_query_until('postgres', "SELECT (pg_stat_file('$next_file', true)).size IS NOT NULL"), 'the next segment is made ahead');
is(-s $next_file, $SEGMENT, 'whole');
$sk->safe_psql('postgres', "SELECT neon_safekeeper.drop_timeline('$TENANT', '$TIMELINE')");
create_timeline($sk, $donor, $start);
is(state($sk, 'flush_lsn'), $start, 'a timeline dropped and created at once is empty');
$sk->poll_query_until('postgres', 'SELECT count(*) = 0 FROM neon_safekeeper.dropped_timeline') or die;
my @old = glob "$dir.old.*";
is(scalar(@old), 0, 'and the old files are removed');

# ---- a full disk: nothing is lost, and it goes on when there is space ----
my @answers = proposer($sk, $donor, "greet\nvote 1\nelected 1 $start 1:$start\nappend 1 $start $p1 $start\nheartbeat 1 $p1");
like($answers[4], qr/flush=$p1 commit=$p1/, 'some WAL is committed');
$sk->safe_psql('postgres', "ALTER SYSTEM SET neon_safekeeper.disk_reserve = '1048576MB'");
$sk->reload;
$sk->poll_query_until('postgres', "SELECT current_setting('neon_safekeeper.disk_reserve') = '1TB'") or die;
@answers = proposer($sk, $donor, "greet\nappend 1 $p1 $end $p1");
like($answers[2], qr/^error 53100 the safekeeper's disk is full: WAL is refused/, 'WAL is refused when the reserve is reached');
is(state($sk, 'term, commit_lsn'), "1|$p1", 'what was acknowledged stays');
cmp_ok(lsn_number(state($sk, 'flush_lsn')), '>=', lsn_number($p1), 'and what was flushed');
$sk->safe_psql('postgres', 'ALTER SYSTEM RESET neon_safekeeper.disk_reserve');
$sk->reload;
$sk->poll_query_until('postgres', "SELECT current_setting('neon_safekeeper.disk_reserve') <> '1TB'") or die;
my $write = state($sk, 'write_lsn');
@answers = proposer($sk, $donor, "greet\nappend 1 $write $end $p1\nheartbeat 1 $end");
like($answers[2], qr/^ack term=1 write=$end flush=$end/, 'with space it goes on where it was');
like($answers[3], qr/commit=$end/, 'and commits');

sub restart
{
	$sk->restart;
	$sk->poll_query_until('postgres', 'SELECT count(*) = 1 FROM neon_safekeeper.timelines') or die;
	return state($sk, 'state, problem');
}

# ---- a catalog that was restored from a backup has forgotten votes ----
proposer($sk, $donor, "greet\nvote 7");
$sk->safe_psql('postgres', 'UPDATE neon_safekeeper.timeline SET term = 6');
like(restart(), qr/^broken\|the catalog has forgotten votes: it has term 6, the term file 7$/, 'a catalog behind the term file');
like((proposer($sk, $donor, "greet\nvote 7"))[0], qr/^error 55000 the timeline neither votes nor serves/, 'does not vote');
$sk->safe_psql('postgres', 'UPDATE neon_safekeeper.timeline SET term = 7');
is(restart(), 'active|', 'with the row as it was it works again');
like((proposer($sk, $donor, "greet\nvote 7"))[2], qr/given=0/, 'and remembers its vote');

$sk->safe_psql('postgres', 'UPDATE neon_safekeeper.timeline SET incarnation = incarnation + 1');
like(restart(), qr/^broken\|the WAL belongs to another incarnation/, 'files of another incarnation');
$sk->safe_psql('postgres', 'UPDATE neon_safekeeper.timeline SET incarnation = incarnation - 1');

# ---- a base backup of a safekeeper is not that safekeeper ----
is(restart(), 'active|', 'the incarnation is right again');
$sk->backup('copy');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($sk, 'copy');
$copy->start;
$copy->poll_query_until('postgres', 'SELECT count(*) = 1 FROM neon_safekeeper.timelines') or die;
is(state($copy, 'state, problem'), 'broken|the term file beside the WAL is missing', 'it does not vote');
$copy->stop;

# ---- committed WAL that is gone ----
$sk->safe_psql('postgres', "UPDATE neon_safekeeper.timeline SET commit_lsn = '$end'");
is(restart(), 'active|', 'the log is whole');
$sk->stop;
my ($last) = reverse sort glob "$dir/00000001*";
unlink $last or die $!;
$sk->start;
$sk->poll_query_until('postgres', 'SELECT count(*) = 1 FROM neon_safekeeper.timelines') or die;
like(state($sk, 'state, problem'), qr/^broken\|committed WAL is missing/, 'committed WAL is missing');

# ---- a flipped bit in what was not committed yet ends the log there ----
$sk->safe_psql('postgres', "SELECT neon_safekeeper.drop_timeline('$TENANT', '$TIMELINE')");
$sk->poll_query_until('postgres', 'SELECT count(*) = 0 FROM neon_safekeeper.dropped_timeline') or die;
create_timeline($sk, $donor, $start);
is(state($sk, 'state, term, flush_lsn'), "active|0|$start", 'drop and create make an empty member of it');
proposer($sk, $donor, "greet\nvote 1\nelected 1 $start 1:$start\nappend 1 $start $end $start");
$sk->stop;
my ($victim, $after) = ($near[-3], $near[-2]);
my $n = lsn_number($after) - 3;
my $file = sprintf('%s/00000001%08X%08X', $dir, int($n / $SEGMENT) / 256, int($n / $SEGMENT) % 256);
open my $fh, '+<:raw', $file or die $!;
seek $fh, $n % $SEGMENT - 8, 0;
read $fh, my $byte, 1;
seek $fh, $n % $SEGMENT - 8, 0;
print $fh chr(ord($byte) ^ 1);
close $fh;
$sk->start;
$sk->poll_query_until('postgres', 'SELECT count(*) = 1 FROM neon_safekeeper.timelines') or die;
is(state($sk, 'state, write_lsn, flush_lsn'), "active|$victim|$victim", 'the log ends before the damaged record');
my $segments = () = glob "$dir/00000001*";
is($segments, 1, 'and nothing of it is left behind that');
@answers = proposer($sk, $donor, "greet\nappend 1 $victim $end $start");
like($answers[2], qr/flush=$end/, 'the rest is received again');

# ---- a directory without a row: its term is remembered ----
proposer($sk, $donor, "greet\nvote 9");
$sk->safe_psql('postgres', 'DELETE FROM neon_safekeeper.timeline');
$sk->restart;
$sk->poll_query_until('postgres', "SELECT neon_safekeeper.create_tenant('$TENANT', 'x') IS NOT NULL") or die;
for (1 .. 100)
{
	last if ($sk->psql('postgres', "SELECT neon_safekeeper.drop_timeline('$TENANT', '$TIMELINE')"))[0] == 0;
}
create_timeline($sk, $donor, $start);
like((proposer($sk, $donor, "greet\nvote 9"))[2], qr/term=9 given=0 flush=$start/, 'a vote is not given twice even then');
my @aside = glob "$dir.old.*";
is(scalar(@aside), 1, 'the old files were put aside');

$sk->stop;
$donor->stop;
done_testing();
