# kill -9 of every kind of process, one at a time, under load: a safekeeper or pageserver comes back by itself and no session
# of the compute sees an error; a compute stops, and its next start has everything that was acknowledged.
# A pageserver that sleeps for a while is only slow.  NEON_ROUNDS makes that while longer.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use DBI;
use IPC::Run;
use Ledger;
use NeonCluster;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $c = NeonCluster->new;
$c->start;
# small caches: pages come from the pageserver
$c->node_sql('controller', q{UPDATE neon_controller.endpoints SET settings = '{"shared_buffers": "2MB", "neon.file_cache_size_limit": "1MB"}'});
$c->stop('main');
$c->start('main');
$c->sql('main', q{
	CREATE TABLE account (id int PRIMARY KEY, v int NOT NULL, pad text);
	INSERT INTO account SELECT i, 100, repeat('a', 300) FROM generate_series(1, 6000) i;
	CREATE TABLE tag (id int PRIMARY KEY, words text[], place point, h int);
	INSERT INTO tag SELECT i, ARRAY['w' || i % 100, 'x' || i % 7], point(i, i), i FROM generate_series(1, 3000) i;
	-- kinds of records that only the redo process knows
	CREATE INDEX ON tag USING gin (words);
	CREATE INDEX ON tag USING gist (place);
	CREATE INDEX ON tag USING hash (h);
});
my @dsn = Ledger::dsn_of_uri($c->uri('main'));
my $l = Ledger->new(dir => "$c->{tmp}/ledger", writers => 2, dsn => \@dsn);
$l->setup($c);

# ---- load whose every answer is checked; each process notes how far it is, and what went wrong ----
my @clients;
sub client
{
	my ($name, $code) = @_;
	my $parent = $$;
	my $pid = fork() // die;
	if (!$pid)
	{
		my $n = count_of("$c->{tmp}/n-$name");
		$SIG{TERM} = sub { POSIX::_exit(0) };
		while (getppid() == $parent)
		{
			my $dbh = eval { DBI->connect(@dsn, { RaiseError => 1, PrintError => 0, PrintWarn => 0, Warn => 0, AutoCommit => 1 }) };
			if (!$dbh) { note_error($name, "connect: $DBI::errstr"); sleep 0.1; next; }
			eval {
				while (getppid() == $parent)
				{
					my $wrong = $code->($dbh);
					note_error($name, "wrong answer: $wrong") if $wrong;
					open my $f, '>', "$c->{tmp}/n-$name.new" or die; print $f ++$n; close $f;
					rename "$c->{tmp}/n-$name.new", "$c->{tmp}/n-$name";
				}
			};
			note_error($name, $@) if $@;
			sleep 0.1;
		}
		POSIX::_exit(0);
	}
	push @clients, $pid;
	return;
}

sub note_error { my ($name, $text) = @_; open my $f, '>>', "$c->{tmp}/errors" or return; print $f "$name: $text\n"; close $f; return; }
sub errors { open my $f, '<', "$c->{tmp}/errors" or return ''; local $/; my $e = <$f>; close $f; unlink "$c->{tmp}/errors"; return $e // ''; }

my @names = qw(reader updater tagger);
sub start_load
{
	$l->start;
	client(reader => sub {
		my ($dbh) = @_;
		my ($n, $sum) = $dbh->selectrow_array('SELECT count(*), sum(v) FROM account');
		return $n == 6000 && $sum == 600000 ? '' : "account: $n, $sum";
	});
	client(updater => sub {
		my ($dbh) = @_;
		$dbh->begin_work;
		my ($a, $b) = sort { $a <=> $b } map { 1 + int rand 6000 } 1 .. 2;
		$dbh->do('UPDATE account SET v = v - 1 WHERE id = ?', undef, $a);
		$dbh->do('UPDATE account SET v = v + 1 WHERE id = ?', undef, $b);
		$dbh->commit;
		return '';
	});
	client(tagger => sub {
		my ($dbh) = @_;
		my $i = 1 + int rand 3000;
		$dbh->do(q{UPDATE tag SET words = words || ('y' || (random() * 50)::int), place = point(id, random()), h = h + 3000 WHERE id = ?}, undef, $i);
		my ($n) = $dbh->selectrow_array(q{SET enable_seqscan = off; SELECT count(*) FROM tag WHERE words @> ARRAY['w7']});
		my ($m) = $dbh->selectrow_array(q{SELECT count(*) FROM tag WHERE h % 3000 = 7 AND h = ANY (ARRAY(SELECT 7 + 3000 * g FROM generate_series(0, 20) g))});
		return $n == 30 && $m == 1 ? '' : "tag: $n, $m";
	});
	return;
}

sub stop_load
{
	kill 'TERM', @clients;
	# those that wait inside libpq for a server do not listen
	my $end = time + 5;
	my @left = @clients;
	while (@left && time < $end) { @left = grep { waitpid($_, POSIX::WNOHANG()) == 0 } @left; sleep 0.05; }
	kill 'KILL', @left;
	waitpid $_, 0 for @left;
	@clients = ();
	$l->stop;
	return;
}

END { local $?; kill 'KILL', @clients if @clients; }

sub count_of { my ($f) = @_; open my $h, '<', $f or return 0; local $/; my $n = <$h>; return $n || 0; }
sub progress { return (map({ count_of("$c->{tmp}/n-$_") } @names), map({ my $n = () = count_of("$c->{tmp}/ledger/w$_") =~ /\n/g; $n } 1 .. 2)); }

# Every client finishes something that it began after now.
sub all_go_on
{
	my @before = progress();
	return $c->poll('every client goes on', 90, sub { my @now = progress(); !grep { $now[$_] < $before[$_] + 2 } 0 .. $#now });
}

# Children of a server by what ps calls them.
sub find_process
{
	my ($node, $pattern) = @_;
	my $parent = $c->pid($node);
	for (split /\n/, `ps -o pid=,ppid=,args= -e`)
	{
		my ($pid, $ppid, $args) = /^\s*(\d+)\s+(\d+)\s+(.*)/ or next;
		return $pid if $ppid == $parent && $args =~ $pattern;
	}
	return 0;
}

sub find_redo_process
{
	my $parent = $c->pid('pageserver-1');
	my (%parent_of, %args);
	for (split /\n/, `ps -o pid=,ppid=,args= -e`) { my ($pid, $ppid, $args) = /^\s*(\d+)\s+(\d+)\s+(.*)/ or next; $parent_of{$pid} = $ppid; $args{$pid} = $args; }
	my ($redo) = grep { $args{$_} =~ /--single/ && ($parent_of{ $parent_of{$_} } // 0) == $parent } keys %args;
	return $redo // 0;
}

start_load();
ok(all_go_on(), 'load runs');

# ---- safekeeper and pageserver ----
my @victims = (
	(map { [ 'safekeeper-1', @$_ ] } [ 'a wal_push backend', qr/^postgres: neon_t_\w+ postgres/ ], [ 'worker', qr/^postgres: neon safekeeper/ ],
		[ 'checkpointer', qr/^postgres: checkpointer/ ], [ 'background writer', qr/^postgres: background writer/ ], [ 'walwriter', qr/^postgres: walwriter/ ],
		[ 'autovacuum launcher', qr/^postgres: autovacuum launcher/ ]),
	(map { [ 'pageserver-1', @$_ ] } [ 'ingest worker', qr/^postgres: neon ingest/ ], [ 'flush worker', qr/^postgres: neon pageserver flush/ ],
		[ 'a page stream backend', qr/^postgres: neon_t_\w+ postgres/ ], [ 'redo process', undef ], [ 'checkpointer', qr/^postgres: checkpointer/ ],
		[ 'walwriter', qr/^postgres: walwriter/ ]));
for my $v (@victims)
{
	my ($node, $what, $pattern) = @$v;
	my $pid = 0;
	$c->poll("$node has a $what", 60, sub { $pid = $pattern ? find_process($node, $pattern) : find_redo_process() });
	my $postmaster = $c->pid($node);
	is(kill('KILL', $pid), $pid ? 1 : 0, "kill -9: $node, $what");
	ok(all_go_on(), 'the load goes on');
	is(errors(), '', 'without an error');
	is($c->pid($node), $postmaster, 'the server is there');
}
# whoever was killed counts for the quorum again
$c->kill9('safekeeper-2');
ok(all_go_on(), 'the safekeeper whose processes were killed makes a quorum with another');
$c->start('safekeeper-2');
is(errors(), '', 'without an error');

# whole servers that the compute does not need all the time
for my $node (qw(pageserver-1 controller safekeeper-3))
{
	$c->kill9($node);
	sleep 0.5;
	$c->start($node);
	ok(all_go_on(), "kill -9: all of $node, and its start: the load goes on");
	is(errors(), '', 'without an error');
}

# ---- a pageserver that sleeps ----
my @frozen = $c->freeze('pageserver-1');
my $sleep_s = $ENV{NEON_ROUNDS} ? 40 : 8;
my @before = progress();
sleep $sleep_s;
my @after = progress();
cmp_ok($after[3] + $after[4], '>', $before[3] + $before[4], "the pageserver sleeps for $sleep_s s: commits go on");
$c->thaw(@frozen);
ok(all_go_on(), 'it wakes up: everything goes on');
is(errors(), '', 'without an error');

# two safekeepers that sleep: everything waits
@frozen = $c->freeze('safekeeper-1', 'safekeeper-3');
sleep($ENV{NEON_ROUNDS} ? 40 : 4);
$c->thaw(@frozen);
ok(all_go_on(), 'two safekeepers sleep and wake up: everything goes on');
is(errors(), '', 'without an error');
stop_load();

sub check_all
{
	my ($what) = @_;
	my ($acked, $missing) = $l->check;
	is_deeply($missing, [], "$what: all $acked acknowledged commits are there");
	is($c->sql('main', 'SELECT count(*), sum(v) FROM account'), '6000|600000', "$what: the sum is right");
	return;
}
check_all('after all that');

# ---- compute: any process that dies takes it down; the next start has everything ----
for my $v ([ 'a backend', qr/^postgres: postgres postgres .*(UPDATE|INSERT|COMMIT|SELECT)/ ], [ 'checkpointer', qr/^postgres: checkpointer/ ],
	[ 'background writer', qr/^postgres: background writer/ ], [ 'walwriter', qr/^postgres: walwriter/ ],
	[ 'the proposer', qr/streaming to safekeepers/ ], [ 'the proposer\'s launcher', qr/^postgres: walproposer launcher/ ],
	[ 'release worker', qr/^postgres: neon pinned page release/ ], [ 'autovacuum launcher', qr/^postgres: autovacuum launcher/ ])
{
	my ($what, $pattern) = @$v;
	start_load();
	all_go_on();
	my ($postmaster, $pid) = ($c->pid('main'), 0);
	$c->poll("main has $what", 30, sub { $pid = find_process('main', $pattern) });
	is(kill('KILL', $pid), $pid ? 1 : 0, "kill -9: compute, $what");
	ok($c->poll('the compute ends', 30, sub { !kill 0, $postmaster }), 'the compute ends');
	stop_load();
	$c->start('main');
	check_all($what);
}
errors();
$c->sql('main', 'CREATE EXTENSION amcheck');
is($c->sql('main', q{SELECT count(bt_index_check(indexrelid, true)) > 0 FROM pg_index JOIN pg_class c ON c.oid = indexrelid
	WHERE c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree') AND c.relpersistence = 'p' AND indisvalid}), 't', 'amcheck finds nothing');

done_testing();
