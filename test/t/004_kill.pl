# kill -9 at random moments: the compute's directory deleted, safekeepers and pageserver killed too; nothing acknowledged is lost.
#
# NEON_SEED repeats the choices of a run (not its timing); NEON_ROUNDS makes it longer.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Ledger;
use NeonCluster;
use IPC::Run;
use Test::More;
use Time::HiRes qw(sleep);

my $seed = $ENV{NEON_SEED} // (time ^ ($$ << 8)) & 0x7fffffff;
my $rounds = $ENV{NEON_ROUNDS} // 10;
srand($seed);
diag("NEON_SEED=$seed");

my $c = NeonCluster->new;
$c->start;
my ($out, $err);
IPC::Run::run([ 'pgbench', '-i', '-q', '-s', '2', $c->uri('main') ], '>', \$out, '2>', \$err) or die "pgbench -i: $err";
my $l = Ledger->new(dir => "$c->{tmp}/ledger", writers => 4, dsn => [ Ledger::dsn_of_uri($c->uri('main')) ]);
$l->setup($c);

my $balance = q{SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
	AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
	AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)};

for my $round (1 .. $rounds)
{
	my ($bo, $be) = ('', '');
	my $bench = IPC::Run::start([ 'pgbench', '-n', '-c', '8', '-j', '2', '-T', '60', $c->uri('main') ], '>', \$bo, '2>', \$be);
	$l->start;
	sleep(0.5 + rand 2.5);
	my @down;
	if (rand() < 0.5) { push @down, 'safekeeper-' . (1 + int rand 3); }
	if (rand() < 0.4) { push @down, 'pageserver-1'; }
	if (rand() < 0.5) { $c->kill9($_) for @down; sleep(rand 1); $c->kill9('main'); }
	else { $c->kill9('main'); $c->kill9($_) for @down; }
	$l->stop;
	$bench->kill_kill(grace => 1);
	system('rm', '-rf', $c->status->{main}{dir});
	# the pageserver and a quorum are needed to start; a killed safekeeper sometimes stays away for one more round
	for my $n (@down) { $c->start($n) if $n =~ /page/ || rand() < 0.5; }
	$c->start('main');
	$c->start($_) for @down;
	my ($acked, $missing) = $l->check;
	is_deeply($missing, [], "round $round (main @down): all $acked acknowledged commits are there");
	is($c->sql('main', $balance), 't', "round $round: balances agree");
}

# the whole cluster at once
$l->start;
sleep 1;
$c->kill9($_) for qw(safekeeper-1 safekeeper-2 safekeeper-3 pageserver-1 controller main);
$l->stop;
$c->start;
my ($acked, $missing) = $l->check;
is_deeply($missing, [], "everything killed at once: all $acked acknowledged commits are there");
is($c->sql('main', $balance), 't', 'balances agree');

# the indexes say what the tables say
$c->sql('main', q{CREATE EXTENSION amcheck});
is($c->sql('main', q{SELECT count(bt_index_check(indexrelid, true)) > 0 FROM pg_index JOIN pg_class c ON c.oid = indexrelid
	WHERE c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree') AND c.relpersistence = 'p' AND indisvalid}), 't', 'amcheck finds nothing');

done_testing();
