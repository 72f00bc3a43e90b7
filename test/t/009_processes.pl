# kill -9 of every kind of process, one at a time, under load: a safekeeper or pageserver comes back by itself and no session
# of the compute sees an error; a compute stops, and its next start has everything that was acknowledged.
# A pageserver that sleeps for a while is only slow.  NEON_ROUNDS makes that while longer.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use Ledger;
use Load;
use NeonCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = NeonCluster->new;
$c->start;
# small caches: pages come from the pageserver
$c->node_sql('controller', q{UPDATE neon_controller.endpoints SET settings = '{"shared_buffers": "2MB", "neon.file_cache_size_limit": "1MB"}'});
$c->stop('main');
$c->start('main');
my @dsn = Ledger::dsn_of_uri($c->uri('main'));
my $l = Ledger->new(dir => "$c->{tmp}/ledger", writers => 2, dsn => \@dsn);
my $load = Load->new(dir => "$c->{tmp}/load", dsn => \@dsn, lost_is_wrong => 1);
$l->setup($c);
$load->setup($c);

sub start_load { $l->start; $load->start; return; }
sub stop_load { $load->stop; $l->stop; return; }
sub errors { return $load->errors; }
sub acked { my $n = 0; for my $w (1, 2) { open my $f, '<', "$c->{tmp}/ledger/w$w" or next; $n++ while <$f>; } return $n; }

# Every client finishes something that it began after now.
sub all_go_on
{
	my $before = acked();
	return $load->all_go_on($c) && $c->poll('commits go on', 60, sub { acked() > $before + 2 });
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
my $before = acked();
sleep $sleep_s;
cmp_ok(acked(), '>', $before, "the pageserver sleeps for $sleep_s s: commits go on");
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
	is($c->sql('main', 'SELECT count(*), sum(v) FROM account'), Load::total(), "$what: the sum is right");
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
