# Votes, WAL, acknowledgements, crashes, truncation, refusals, and stock tools as receivers.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SkTest;
use Test::More;

my $options = "-c neon.tenant_id=$TENANT -c neon.timeline_id=$TIMELINE";

# A proposer that recovers a laggard, played by pg_receivewal; what it says.
sub read_with_term
{
	my ($term, $lsn) = @_;
	my $c = $main::sk->connstr('postgres') . " user=neon_t_$TENANT options='$options -c neon.term=$term'";
	IPC::Run::run([ 'pg_receivewal', '-d', $c, '-D', PostgreSQL::Test::Utils::tempdir(), '--endpos', $lsn, '--no-loop' ],
		'>', \my $o, '2>', \my $e, IPC::Run::timeout(60));
	return $e;
}

my $donor = new_donor();
our $sk = new_safekeeper('sk', 1);
my $from = $donor->safe_psql('postgres', 'SELECT redo_lsn FROM pg_control_checkpoint()');
$donor->safe_psql('postgres', <<EOC);
INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 20000) g;
SELECT pg_switch_wal();
INSERT INTO t SELECT g, repeat('y', 200) FROM generate_series(1, 80000) g;
SELECT pg_switch_wal();
INSERT INTO t SELECT g, repeat('z', 200) FROM generate_series(1, 10000) g;
CHECKPOINT;
EOC
my @ends = record_bounds($donor, $from);
my ($start, $p1, $p2, $end) = @ends[ 4, int(@ends / 3), int(@ends / 3) + 7, $#ends ];
$end = (grep { lsn_number($_) % 8192 != 0 && lsn_number($_) % $SEGMENT != 0 } @ends[ $#ends - 50 .. $#ends - 20 ])[0];
# pg_receivewal stops when it is beyond its end position
my $near = $ends[ $#ends - 60 ];
my $n_start = lsn_number($start);
note "start $start p1 $p1 p2 $p2 end $end";

# ---- rights and existence ----
create_timeline($sk, $donor, $start);
create_timeline($sk, $donor, $start);
is(state($sk, 'term, start_lsn, write_lsn, flush_lsn, history'), "0|$start|$start|$start|", 'a new timeline is empty; creating is idempotent');
my ($rc, $out, $err) = $sk->psql('postgres',
	"SELECT neon_safekeeper.create_timeline('$TENANT', '$TIMELINE', '0/1000028', '1', $SEGMENT, '1,2,3')");
like($err, qr/exists with other properties/, 'creating with other arguments is refused');

my $other = 'ffffffffffffffffffffffffffffffff';
$sk->safe_psql('postgres', "SELECT neon_safekeeper.create_tenant('$other', 'secret')");
my $denied = (proposer($sk, $donor, 'greet', user => "neon_t_$other"))[0];
like($denied, qr/^error 42501 permission denied for tenant $TENANT$/, 'another tenant is refused');
my $none = 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee';
is((proposer($sk, $donor, 'greet', user => "neon_t_$other", tenant => $none))[0],
	$denied =~ s/$TENANT/$none/r, 'in the same words when the tenant does not exist');
like((proposer($sk, $donor, 'greet', timeline => $other))[0], qr/^error 42704/, 'there is no such timeline');
($rc, $out, $err) = $sk->psql('postgres', "BEGIN; CALL neon_safekeeper.wal_push('$TENANT', '$TIMELINE')");
like($err, qr/cannot run inside a transaction block/, 'not inside a transaction block');
($rc, $out, $err) = $sk->psql('postgres', "SELECT * FROM neon_safekeeper.timeline", extra_params => [ '-U', "neon_t_$other" ]);
like($err, qr/permission denied/, 'tenants do not see the catalog');

# ---- votes and appends ----
my @answers = proposer($sk, $donor, <<EOS);
greet
vote 1
vote 1
elected 1 $start 1:$start
heartbeat 1 0/0
append 1 $start $p1 0/0
quit
EOS
like($answers[1], qr/^greeting node=1 term=0 start=$start/, 'greeting');
like($answers[2], qr/term=1 given=1 flush=$start last=0\/0/, 'the vote is given once');
like($answers[3], qr/term=1 given=0/, 'and not twice');
like($answers[5], qr/^ack term=1 write=$p1 flush=$p1 commit=$start/, 'WAL up to a record end is acknowledged');
is($answers[6], 'CALL', 'the stream ends in order');

# Rule 1: raw bytes beyond a record end are kept, not acknowledged.
my $mid = sprintf('%X/%X', int(lsn_number($p2) / 4294967296), (lsn_number($p2) + 9) % 4294967296);
@answers = proposer($sk, $donor, <<EOS);
greet
append 1 $p1 $mid $p1
EOS
like($answers[2], qr/^ack term=1 write=$mid flush=$p2 commit=$p1/, 'only ends of complete records are acknowledged');

# A new session continues in the middle of a record.
@answers = proposer($sk, $donor, <<EOS);
greet
append 1 $mid $end $end
append 1 $p2 $end $end
heartbeat 1 $end
EOS
like($answers[2], qr/^ack term=1 write=$end flush=$end commit=$end/, 'another session goes on in the middle of a record');
like($answers[3], qr/^refused 9 /, 'an overlap is refused');
like($answers[4], qr/^error 55000/, 'and the stream ends');

# ---- crash ----
ok($sk->poll_query_until('postgres', "SELECT commit_lsn = '$end' FROM neon_safekeeper.timeline"), 'the commit position gets into the catalog');
my $before = state($sk, 'term, last_log_term, write_lsn, flush_lsn, history');
crash_and_start($sk);
$sk->poll_query_until('postgres', "SELECT count(*) = 1 FROM neon_safekeeper.timelines WHERE state = 'active'");
is(state($sk, 'term, last_log_term, write_lsn, flush_lsn, history'), $before, 'kill -9 loses neither vote nor WAL');
my @vote = proposer($sk, $donor, "greet\nvote 1\nvote 2");
like($vote[2], qr/term=1 given=0 flush=$end/, 'a vote given before the crash is not given again');
like($vote[3], qr/term=2 given=1 flush=$end last=(?!0\/0)/, 'the last record is known after the crash');

like(read_with_term(2, $near), qr/does not serve term 2/, 'no reads above commit_lsn before the history is adopted');
@answers = proposer($sk, $donor, "greet\nelected 2 $end 1:$start,2:$end\nvote 2");
like(read_with_term(1, $near), qr/does not serve term 1/, 'no reads above commit_lsn for an old term');
unlike(read_with_term(2, $near), qr/does not serve/, 'but for the term in force');
@answers = proposer($sk, $donor, "greet\nheartbeat 2 $end");
like($answers[2], qr/^ack term=2 write=$end flush=$end commit=$end/, 'the new term starts at the end of the log');

# ---- another log that does not end there ----
my $sk2 = new_safekeeper('sk2', 2);
create_timeline($sk2, $donor, $start);
proposer($sk2, $donor, "greet\nvote 1\nelected 1 $start 1:$start\nappend 1 $start $end $p1");
is(state($sk2, 'flush_lsn, commit_lsn'), "$end|$p1", 'a second safekeeper has uncommitted WAL');
my $dir = $sk2->data_dir . "/neon_safekeeper/pgsql_tmp/$TENANT/$TIMELINE";
my $segments = () = glob "$dir/00000001*";
@answers = proposer($sk2, $donor, <<EOS);
greet
vote 3
elected 3 $p2 1:$start,3:$p2
heartbeat 3 $p1
vote 3
EOS
like($answers[3], qr/^ack term=3 write=$p2 flush=$p2/, 'a new leader truncates');
like($answers[4], qr/history=1:\S+,3:/, 'and its history is adopted');
my $later = () = glob "$dir/00000001*";
cmp_ok($later, '<', $segments, 'later segments are gone');
my $tail = tail_after($dir, $p2);
ok($tail =~ /\A\0*\z/, 'what follows in the segment is zero');
crash_and_start($sk2);
$sk2->poll_query_until('postgres', "SELECT count(*) = 1 FROM neon_safekeeper.timelines WHERE state = 'active'");
is(state($sk2, 'term, write_lsn, flush_lsn'), "3|$p2|$p2", 'truncated WAL does not come back after a crash');
@answers = proposer($sk2, $donor, "greet\nvote 4\nelected 4 $start 4:$start\nheartbeat 4 $start");
like($answers[3], qr/^refused \d+ /, 'committed WAL is not truncated');
@answers = proposer($sk2, $donor, "greet\ngarbage 3 $p2 5000");
like($answers[2] // '', qr/^(refused 6|ack term=4)/, 'an old leader is told of the higher term');
@answers = proposer($sk2, $donor, "greet\nvote 5\nelected 5 $p2 1:$start,3:$p2,5:$p2\nheartbeat 5 $p1\ngarbage 5 $p2 5000");
like($answers[4], qr/^error XX001 the WAL received is not valid/, 'what is no WAL is not taken');
@answers = proposer($sk2, $donor, "greet\nappend 5 $p2 $end $p2");
like($answers[2], qr/^ack term=5 write=$end flush=$end commit=$p2/, 'and the log goes on from its end');

sub tail_after
{
	my ($d, $lsn) = @_;
	my $n = lsn_number($lsn);
	my $file = sprintf('%s/00000001%08X%08X', $d, int($n / $SEGMENT) / 256, int($n / $SEGMENT) % 256);
	open my $fh, '<:raw', $file or die "$file: $!";
	seek $fh, $n % $SEGMENT, 0;
	local $/;
	my $rest = <$fh>;
	return $rest;
}

# ---- two proposers at once ----
my $old = proposer_start($sk2, $donor);
my $new = proposer_start($sk2, $donor);
proposer_say($old, 'greet');
proposer_say($new, 'greet');
like(proposer_say($old, "heartbeat 5 $p2"), qr/^ack term=5/, 'the old proposer leads');
like(proposer_say($new, 'vote 6'), qr/given=1/, 'a new one is voted for');
like(proposer_say($old, "heartbeat 5 $p2"), qr/^ack term=6 write=0\/0 flush=0\/0/, 'the old one learns of it from its answer');
proposer_end($_) for ($old, $new);

# ---- drop ----
$sk2->safe_psql('postgres', "SELECT neon_safekeeper.drop_timeline('$TENANT', '$TIMELINE')");
is(state($sk2, 'count(*)'), '0', 'dropped');
$sk2->poll_query_until('postgres', 'SELECT count(*) = 0 FROM neon_safekeeper.dropped_timeline') or die;
ok(!-e $dir, 'its files are removed');
$sk2->safe_psql('postgres', "SELECT neon_safekeeper.drop_tenant('$TENANT')");
is($sk2->safe_psql('postgres', "SELECT count(*) FROM pg_roles WHERE rolname = 'neon_t_$TENANT'"), '0', 'the role as well');
$sk2->psql('postgres', "BEGIN; SELECT neon_safekeeper.create_tenant('$TENANT', 'x');"
	. "SELECT neon_safekeeper.create_timeline('$TENANT', '$TIMELINE', '$start', '1', $SEGMENT, '2'); ROLLBACK");
is(state($sk2, 'count(*)'), '0', 'a creation that is rolled back leaves nothing');
create_timeline($sk2, $donor, $start);
is(state($sk2, 'term, flush_lsn, state'), "0|$start|active", 'and can be made again');
$sk2->stop;

# ---- stock receivers ----
my $connstr = $sk->connstr('postgres') . " user=neon_t_$TENANT options='$options'";
is(IPC::Run::run([ 'psql', '-XAt', "$connstr replication=true", '-c', 'SHOW wal_segment_size', '-c', 'IDENTIFY_SYSTEM' ],
	'>', \my $show, '2>', \my $show_err), 1, 'psql speaks to a timeline');
like($show, qr/^16MB\n\d+\|1\|$end\|$/m, 'IDENTIFY_SYSTEM shows the commit position');
IPC::Run::run([ 'psql', '-XAt', "$connstr replication=true", '-c', 'TIMELINE_HISTORY 2', '-c', 'SHOW wal_segment_size' ],
	'>', \$show, '2>', \$show_err);
like($show_err, qr/there is no timeline history/, 'there is no timeline history');
is($show, "16MB\n", 'an error does not end the connection');
my $wrong = $sk->connstr('postgres') . " user=neon_t_$other options='$options' replication=true";
IPC::Run::run([ 'psql', '-XAt', $wrong, '-c', 'IDENTIFY_SYSTEM' ], '>', \$show, '2>', \$show_err);
like($show_err, qr/permission denied for tenant $TENANT/, 'another tenant is refused');

# pg_receivewal begins with the segment of the commit position unless it has files: give it the one before the log.
my $receive = PostgreSQL::Test::Utils::tempdir();
my $first = int($n_start / $SEGMENT);
my $dummy = sprintf('%s/00000001%08X%08X', $receive, ($first - 1) / 256, ($first - 1) % 256);
open my $fh, '>:raw', $dummy or die $!;
truncate $fh, $SEGMENT;
close $fh;
command_ok([ 'pg_receivewal', '-d', $connstr, '-D', $receive, '--endpos', $near, '--no-loop' ], 'pg_receivewal');
unlink $dummy;
for my $partial (glob "$receive/*.partial")
{
	rename $partial, $partial =~ s/\.partial$//r;
}
my ($theirs, $ours);
IPC::Run::run([ 'pg_waldump', '-p', $donor->data_dir . '/pg_wal', '-s', $start, '-e', $near ], '>', \$theirs, '2>', \my $e1);
IPC::Run::run([ 'pg_waldump', '-p', $receive, '-s', $start, '-e', $near ], '>', \$ours, '2>', \my $e2);
cmp_ok(length($ours), '>', 100000, 'pg_waldump reads what was received');
ok($ours eq $theirs, 'and it is what the donor wrote') or diag $e2;

$sk->stop;
$donor->stop;

# ---- rule 3: settings ----
for my $setting ([ 'fsync', 'off', 'on' ], [ 'full_page_writes', 'off', 'on' ], [ 'synchronous_commit', 'off', 'on' ],
	[ 'data_sync_retry', 'on', 'off' ])
{
	my ($name, $bad, $good) = @$setting;
	$sk->append_conf('postgresql.conf', "$name = $bad");
	ok(!$sk->start(fail_ok => 1), "$name=$bad: does not start");
	like(slurp_file($sk->logfile), qr/a safekeeper cannot run with $name/, 'and says why');
	$sk->append_conf('postgresql.conf', "$name = $good");
}
done_testing();
