# Servers that die in the middle of control operations: whatever was asked for is done or not done, can be asked for again,
# and in the end no node keeps anything that the controller does not know.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use NeonCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{NEON_SEED} // (time ^ ($$ << 8)) & 0x7fffffff;
my $rounds = $ENV{NEON_ROUNDS} // 6;
srand($seed);
diag("NEON_SEED=$seed");

my $c = NeonCluster->new;
$c->start;
$c->sql('main', 'CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 1000)');

sub control { my ($sql) = @_; return $c->psql_uri($c->node_uri('controller'), $sql, timeout => 120); }
sub branch_exists { my ($b) = @_; return (control("SELECT count(*) FROM neon_branches WHERE name = '$b'"))[1] eq '1'; }

# Ask, kill somebody meanwhile, start him again, ask until it is done.
sub ask_through_a_crash
{
	my ($what, $sql, $victim, $delay, $done) = @_;
	my ($out, $err) = ('', '');
	my $h = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-c', $sql, $c->node_uri('controller') ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(200));
	sleep $delay;
	$c->kill9($victim);
	$c->start($victim);
	$h->finish;
	my $why = $err;
	ok($c->poll("$what is done", 120, sub {
		return 1 if $done->();
		my ($rc, undef, $e) = control($sql);
		$why = $e;
		return $rc == 0;
	}), sprintf('%s, %s killed after %.2f s', $what, $victim, $delay)) or diag($why);
	return;
}

my @victims = qw(controller pageserver-1 safekeeper-2);
for my $round (1 .. $rounds)
{
	my $victim = $victims[ $round % @victims ];
	my $b = "b$round";
	ask_through_a_crash('a branch is created', "SELECT neon_create_branch('$b', parent => 'main')", $victim, rand 0.3, sub { branch_exists($b) });
	ask_through_a_crash('its endpoint is created', "SELECT neon_create_endpoint('$b')", $victim, rand 1,
		sub { (control("SELECT count(*) FROM neon_endpoints WHERE name = '$b' AND state = 'running'"))[1] eq '1' });
	my ($rc, $uri) = control("SELECT neon_start_endpoint('$b')");
	delete $c->{uri}{$b};
	is($c->sql($b, 'INSERT INTO t VALUES (0); SELECT count(*) FROM t'), '1001', 'it works');
	ask_through_a_crash('it is dropped', "SELECT neon_drop_branch('$b')", $victim, rand 0.5, sub { !branch_exists($b) });
}

# a transaction of the caller that is rolled back
control(q{BEGIN; SELECT neon_create_branch('never', parent => 'main'); ROLLBACK});
ok(!branch_exists('never'), 'a creation that is rolled back leaves no branch');

# nodes that are away do not keep a branch from being dropped
control(q{SELECT neon_create_branch('last', parent => 'main')});
control(q{SELECT neon_create_branch('child', parent => 'last')});
$c->stop($_) for qw(safekeeper-3 pageserver-1);
my ($rc, undef, $err) = control(q{SELECT neon_drop_branch('last', cascade => true)});
is($rc, 0, 'a branch is dropped while a safekeeper and the pageserver are away') or diag($err);
$c->start($_) for qw(safekeeper-3 pageserver-1);

# ---- nothing is left anywhere but main ----
my $main = (control('SELECT id FROM neon_controller.timelines'))[1];
like($main, qr/^[0-9a-f]{32}$/, 'the controller knows one timeline');
$c->poll('nothing is left', 120, sub { (control(q{SELECT neon_controller.clean_up(), count(*) FROM neon_controller.leftovers}))[1] =~ /\|0$/ });
for my $n (qw(pageserver-1 safekeeper-1 safekeeper-2 safekeeper-3))
{
	my $schema = $n =~ /page/ ? 'neon_pageserver' : 'neon_safekeeper';
	is($c->node_sql($n, "SELECT string_agg(timeline::text, ' ') FROM $schema.timelines"), $main, "$n has no other");
}
is((control('SELECT count(*) FROM neon_controller.leftovers'))[1], '0', 'the list of leftovers is empty');
is(join(' ', map { m{([^/]+)$} } glob("$c->{dir}/computes/*")), join(' ', grep { /main/ } map { m{([^/]+)$} } glob("$c->{dir}/computes/*")), 'no other data directory');
is($c->sql('main', 'SELECT count(*) FROM t'), '1000', 'main is as it was');

done_testing();
