# The compute dies with its log ending at awkward places: at a page's and a segment's end, just before them, after a segment
# switch; and with safekeepers that have raw bytes up to the middle of a record, of a page header, of padding.
#
# After each: X is the end of a record, nothing acknowledged is missing, the bytes behind X are durably gone from every
# safekeeper, and new commits go on.  In the end stock tools read the whole log through all those places.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use DBI;
use IPC::Run;
use Ledger;
use NeonCluster;
use Test::More;
use Time::HiRes qw(sleep);
use WalTools;

my $c = NeonCluster->new;
$c->start;
# nobody but the test writes WAL
$c->node_sql('controller', q{UPDATE neon_controller.endpoints SET settings = '{"autovacuum": "off", "bgwriter_delay": "10s", "checkpoint_timeout": "1h"}'});
$c->stop('main');
$c->start('main');
$c->sql('main', 'CREATE TABLE mark (id int PRIMARY KEY); CREATE TABLE filler (a text)');
# also no session that reads a catalog, by pruning a page of it
$c->sql('main', 'VACUUM (FREEZE)');

my ($id, @acked) = (0);
my $log_start = lsn_number($c->node_sql('safekeeper-1', 'SELECT start_lsn FROM neon_safekeeper.timelines'));
my @places;		# ends of records at which the log was resumed

sub connect_main
{
	return DBI->connect(Ledger::dsn_of_uri($c->uri('main')), { RaiseError => 1, PrintError => 0, AutoCommit => 1 });
}

sub x_of_main { return lsn_number($c->sql('main', 'SHOW neon.start_lsn')); }

sub die_and_start
{
	my $dir = $c->status->{main}{dir};
	$c->kill9('main');
	system('rm', '-rf', $dir);
	$c->start('main');
	return x_of_main();
}

sub acked_are_there
{
	my ($what) = @_;
	my $have = $c->sql('main', 'SELECT string_agg(id::text, $$,$$ ORDER BY id) FROM mark');
	my %have = map { $_ => 1 } split /,/, $have;
	my @missing = grep { !$have{$_} } @acked;
	is("@missing", '', "$what: all " . @acked . ' acknowledged commits are there');
}

# ---- ends that the compute itself makes ----
my $page_end = sub { my ($n) = @_; return $n - $n % $PAGE + 2 * $PAGE; };
my $segment_end = sub { my ($n) = @_; return $n - $n % $SEGMENT + $SEGMENT; };
my @ends = (
	[ 'a page end', $page_end ],
	(map { my $k = $_; [ "$k bytes before a page end", sub { $page_end->(@_) - $k } ] } 8, 16, 24),
	[ 'a segment end', $segment_end ],
	(map { my $k = $_; [ "$k bytes before a segment end", sub { $segment_end->($_[0] + $k) - $k } ] } 8, 24));

for my $e (@ends)
{
	my ($what, $pick) = @$e;
	my $dbh = connect_main();
	my $target;
	for (1 .. 20)
	{
		my $i = ++$id;
		$target = commit_ending_at($dbh, "INSERT INTO mark VALUES ($i)", $pick);
		push @acked, $i;
		last if $target;
	}
	$dbh->disconnect;
	my $x = die_and_start();
	is(lsn_text($x), lsn_text($target // 0), "the last commit ends at $what: the compute starts there");
	acked_are_there($what);
	push @places, $x;
}

# ---- segment switches ----
for my $e (
	[ 'a switch', sub { undef } ],
	[ 'a switch whose record ends a segment', sub { my ($dbh) = @_; emit_ending_at($dbh, 0, $segment_end->(WalTools::insert_lsn($dbh) + 2000) - 24) } ],
	[ 'a switch whose record is cut by a page', sub { my ($dbh) = @_; emit_ending_at($dbh, 0, $page_end->(WalTools::insert_lsn($dbh)) - 8) } ])
{
	my ($what, $before) = @$e;
	my $dbh = connect_main();
	my $i = ++$id;
	$dbh->do("INSERT INTO mark VALUES ($i)");
	push @acked, $i;
	$before->($dbh);
	my $end = lsn_number($dbh->selectrow_array('SELECT pg_switch_wal()'));
	# the server returns a place behind the header when the record ends the segment
	$end = $end % $SEGMENT <= 40 ? $end - $end % $SEGMENT : $segment_end->($end);
	$dbh->disconnect;
	ok($c->poll('the quorum has the switch', 30, sub { $c->sql('main', q{SELECT pg_current_wal_flush_lsn() >= '} . lsn_text($end) . q{'}) eq 't' }), "$what reaches the quorum");
	my $x = die_and_start();
	is(lsn_text($x), lsn_text($end), "$what: the compute starts at the next segment");
	acked_are_there($what);
	push @places, $x;
}

# ---- safekeepers that have only a part of a record ----

# WAL that the compute wrote and nobody else has: the proposer sleeps, commits wait, the compute dies.  (directory, X)
sub unsent_wal
{
	my ($craft) = @_;
	my $dbh = connect_main();
	my $i = ++$id;
	$dbh->do("INSERT INTO mark VALUES ($i)");
	push @acked, $i;
	my $from = lsn_number($dbh->selectrow_array('SELECT pg_current_wal_flush_lsn()'));
	$c->poll('all have it', 60, sub { !grep { $_->{flush} < $from } values %{ sk_states($c) } });
	my ($proposer) = $dbh->selectrow_array(q{SELECT pid FROM pg_stat_replication WHERE application_name = 'walproposer'});
	kill 'STOP', $proposer;
	$craft->($dbh);
	$dbh->disconnect;
	# a commit flushes it all, and waits
	my $lsn = $c->sql('main', 'SET synchronous_commit = off; INSERT INTO filler VALUES (1); SELECT pg_current_wal_insert_lsn()');
	my $h = IPC::Run::start([ 'psql', '-X', '-q', '-c', 'INSERT INTO filler VALUES (2)', $c->uri('main') ], '<', '/dev/null', '>', \my $o, '2>', \my $e2, IPC::Run::timeout(120));
	ok($c->poll('the WAL is in the file', 30, sub { $c->sql('main', "SELECT pg_current_wal_lsn() >= '$lsn'") eq 't' }), 'WAL that no safekeeper has');
	my $dir = $c->status->{main}{dir};
	$c->kill9('main');
	$h->kill_kill;
	my $copy = "$c->{tmp}/unsent-" . $c->{unsent}++;
	mkdir $copy;
	system("cp $dir/pg_wal/0* $copy/");
	system('rm', '-rf', $dir);
	return ($copy, $from);
}

my @nodes = map { "safekeeper-$_" } 1 .. 3;

# Each of two safekeepers gets the log up to a cut, the third one less; then an election without new WAL.
sub cut_and_elect
{
	my ($what, $wal, $records, $cut, %opt) = @_;
	my @whole = grep { $_->{end} <= $cut } @$records;
	my @allowed = ($whole[-1]{end});
	# what is missing may be zeroes: after a restart the record is whole
	push @allowed, map { $_->{end} } grep { $_->{start} < $cut && $_->{end} > $cut } @$records if $opt{zeroes};
	my $behind = $whole[ -1 - ($opt{behind} // 1) ]{end};
	my ($a, $b, $late) = @nodes[ map { ($_ + ($opt{late} // 0)) % 3 } 0 .. 2 ];
	sk_append($c, $wal, { $a => $cut, $b => $cut, $late => $behind });
	if ($opt{restart})
	{
		$c->kill9($a);
		$c->start($a);
		$c->poll('it is ready', 60, sub { sk_states($c, $a)->{$a}{flush} });
	}
	my ($x, $prev) = elect($c);
	ok((grep { $_ == $x } @allowed), "$what: X is the end of a record") or diag(lsn_text($x), ' of ', join(' ', map { lsn_text($_) } @allowed));
	is(lsn_text($prev), lsn_text((grep { $_->{end} == $x } @$records)[0]{start}), "$what: and the last record's start is known");
	# a quorum was brought to X; the third one is when it answers
	my $s = sk_states($c);
	my @at_x = grep { $s->{$_}{flush} == $x && $s->{$_}{write} == $x } @nodes;
	cmp_ok(scalar(@at_x), '>=', 2, "$what: a quorum ends there");
	# numbers are seen before the truncation that they announce is over
	ok($c->poll('tails are cleared', 20, sub { !grep { !tail_is_zero($c, $_, $x) } @at_x }), "$what: nothing is behind it");
	if ($opt{crash})
	{
		$c->kill9($at_x[0]);
		$c->start($at_x[0]);
		my $after;
		$c->poll('it is ready', 60, sub { ($after = sk_states($c, $at_x[0])->{ $at_x[0] })->{flush} });
		is(lsn_text($after->{flush}) . ' ' . lsn_text($after->{write}), lsn_text($x) . ' ' . lsn_text($x), "$what: nor comes back after a crash");
	}
	return $x;
}

sub go_on
{
	my ($what, $x) = @_;
	$c->start('main');
	is(lsn_text(x_of_main()), lsn_text($x), "$what: the compute starts there");
	my $i = ++$id;
	$c->sql('main', "INSERT INTO mark VALUES ($i)");
	push @acked, $i;
	acked_are_there($what);
	push @places, $x;
}

# records whose bodies cross pages; small ones between them
my ($wal, $from) = unsent_wal(sub {
	my ($dbh) = @_;
	for my $len (13, 5000, 20000, 77, 300, 30000, 11)
	{
		$dbh->do('SELECT pg_logical_emit_message(false, $$x$$, repeat($$y$$, ?))', undef, $len);
	}
	# a record whose header begins 8 bytes before a page's end
	emit_ending_at($dbh, 0, $page_end->(WalTools::insert_lsn($dbh)) - 8) or die 'another process wrote WAL';
	$dbh->do('SELECT pg_logical_emit_message(false, $$x$$, repeat($$z$$, 12345))');
});
my ($records) = records_of($wal, next_record_start($from));
my ($long) = grep { $_->{len} > 20000 } @$records;
my ($longer) = grep { $_->{len} > 30000 } @$records;
my ($split) = grep { $_->{start} % $PAGE == $PAGE - 8 } @$records;
my ($padded) = grep { $_->{len} % 8 != 0 && $_->{start} > $longer->{start} } @$records;
my $in_long = $long->{start} - $long->{start} % $PAGE + $PAGE;
my $in_longer = $longer->{start} - $longer->{start} % $PAGE + 2 * $PAGE;
my $x;
$x = cut_and_elect('inside a record header', $wal, $records, $long->{start} + 9);
$x = cut_and_elect('at a page end inside a record', $wal, $records, $in_long, late => 1);
$x = cut_and_elect('inside the page header after it', $wal, $records, $in_long + 5, late => 2, crash => 1);
$x = cut_and_elect('behind that page header', $wal, $records, $in_long + 24, restart => 1);
$x = cut_and_elect('in the middle of a page', $wal, $records, $in_longer + 4711, late => 1);
$x = cut_and_elect('8 bytes before a record ends', $wal, $records, $longer->{end} - 8, late => 2);
$x = cut_and_elect('in the padding of a record', $wal, $records, $padded->{end} - 1);
$x = cut_and_elect('in the padding of a record, with a restart', $wal, $records, $padded->{end} - 1, restart => 1, zeroes => 1);
$x = cut_and_elect('in a record header that a page cuts', $wal, $records, $split->{start} + 8, late => 1);
$x = cut_and_elect('in the second part of such a header', $wal, $records, $split->{start} + 8 + 24 + 7, late => 2, crash => 1);
go_on('a cut in a record header over two pages', $x);

# a record across a segment's end; a switch and its zero fill
($wal, $from) = unsent_wal(sub {
	my ($dbh) = @_;
	emit_ending_at($dbh, 0, $segment_end->(WalTools::insert_lsn($dbh) + 20000) - 5000) or die 'another process wrote WAL';
	$dbh->do('SELECT pg_logical_emit_message(false, $$x$$, repeat($$z$$, 12345))');
	$dbh->do('SELECT pg_switch_wal()');
	$dbh->do('SELECT pg_logical_emit_message(false, $$x$$, repeat($$z$$, 100))');
});
($records) = records_of($wal, next_record_start($from));
my ($across) = grep { int($_->{start} / $SEGMENT) != int(($_->{end} - 1) / $SEGMENT) && $_->{len} > 10000 } @$records;
my $boundary = $across->{end} - $across->{end} % $SEGMENT;
my ($switch) = grep { $_->{desc} =~ /^SWITCH/ } @$records;
$x = cut_and_elect('at a segment end inside a record', $wal, $records, $boundary);
$x = cut_and_elect('inside the segment header after it', $wal, $records, $boundary + 17, late => 1, crash => 1);
$x = cut_and_elect('behind that segment header', $wal, $records, $boundary + 40, late => 2, restart => 1);
$x = cut_and_elect('in the next segment', $wal, $records, $boundary + 4000);
$x = cut_and_elect('inside the record of a switch', $wal, $records, $switch->{start} + 16, late => 1);
$x = cut_and_elect('in the zeroes after a switch', $wal, $records, $switch->{start} + 3 * $PAGE, late => 2);
$x = cut_and_elect('in the zeroes after a switch, with a restart', $wal, $records, $switch->{start} + 3 * $PAGE, restart => 1, zeroes => 1);
go_on('a cut in a switch', $x);

# The compute dies while it writes, with safekeepers dying too: places by chance.
for my $round (1 .. ($ENV{NEON_ROUNDS} // 3))
{
	my $h = IPC::Run::start([ 'psql', '-X', '-q', '-c', 'INSERT INTO filler SELECT repeat(md5(i::text), 200) FROM generate_series(1, 20000) i', $c->uri('main') ],
		'<', '/dev/null', '>', \my $o, '2>', \my $e, IPC::Run::timeout(120));
	sleep(0.2 + rand 0.5);
	$c->kill9('safekeeper-' . (1 + $round % 3));
	sleep(rand 0.2);
	my $place = die_and_start();
	$h->kill_kill;
	$c->start('safekeeper-' . (1 + $round % 3));
	my $i = ++$id;
	$c->sql('main', "INSERT INTO mark VALUES ($i)");
	push @acked, $i;
	acked_are_there("killed while writing, round $round");
	push @places, $place;
}

# ---- the whole log, read by stock tools ----
my $stop = lsn_number($c->sql('main', 'INSERT INTO mark VALUES (0); SELECT pg_current_wal_flush_lsn()'));
$c->sql('main', 'INSERT INTO filler VALUES (3)') for 1 .. 3;
my %copy;
for my $n (@nodes)
{
	ok($c->poll("$n has it all", 60, sub { sk_states($c, $n)->{$n}{commit} > $stop }), "$n has the whole log");
	$copy{$n} = receive_log($c, $n, $log_start, $stop);
	ok($copy{$n}, 'pg_receivewal takes it from there') or BAIL_OUT('no log');
}
my ($all, $why) = records_of($copy{$nodes[0]}, next_record_start($log_start));
my ($last, @bad) = (0);
for my $r (@$all)
{
	push @bad, lsn_text($r->{start}) if $last && ($r->{prev} != $last->{start} || $r->{start} != next_record_start($last->{end}));
	$last = $r;
}
is("@bad", '', 'each of ' . @$all . ' records follows the one before and links to it');
cmp_ok($last ? $last->{end} : 0, '>=', $stop, 'pg_waldump reads it to the end') or diag $why;
my %first = map { next_record_start($_) => 1 } @places;
is(scalar(grep { $first{ $_->{start} } && $_->{desc} =~ /^CHECKPOINT_SHUTDOWN/ } @$all), scalar(keys %first),
	'every place the log was resumed at has a checkpoint as its first record');
my @sums = map { log_sum($copy{$_}, $log_start, $stop) } @nodes;
is_deeply(\@sums, [ ($sums[0]) x 3 ], 'the three logs are the same bytes');
ok($c->poll('the pageserver has it all', 60, sub {
	lsn_number($c->node_sql('pageserver-1', "SELECT neon_pageserver.last_record_lsn('$c->{main_timeline}[0]', '$c->{main_timeline}[1]')")) >= $stop }),
	'the pageserver ingests through all of them');

done_testing();
