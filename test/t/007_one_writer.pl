# Two computes on one timeline: from the moment the second is elected only it commits; the first stops and says why; and
# nothing that either has acknowledged is lost.  NEON_ROUNDS makes it longer, NEON_AT_ONCE the second half alone.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use DBI;
use Ledger;
use NeonCluster;
use Test::More;
use Time::HiRes qw(sleep);

my $seed = $ENV{NEON_SEED} // (time ^ ($$ << 8)) & 0x7fffffff;
my $rounds = $ENV{NEON_ROUNDS} // 8;
my $at_once = $ENV{NEON_AT_ONCE} // $ENV{NEON_ROUNDS} // 10;
srand($seed);
diag("NEON_SEED=$seed");

my $c = NeonCluster->new;
$c->start;
my @dsn_main = Ledger::dsn_of_uri($c->uri('main'));
my %port = ('one' => $c->{port} + 60, 'two' => $c->{port} + 61);
my %dsn = map { my @d = @dsn_main; $d[0] =~ s/port=\d+/port=$port{$_}/; ($_ => \@d) } keys %port;
my $l = Ledger->new(dir => "$c->{tmp}/ledger", writers => 6, dsns => [ $dsn{one}, $dsn{two} ]);
$l->setup($c);
$c->stop('main');

sub log_of { my ($name) = @_; return scalar `cat $c->{dir}/computes/$name/compute.log 2>/dev/null`; }

sub start_it
{
	my ($name) = @_;
	my ($ok, $err) = $c->start_compute($name, $port{$name});
	diag($err) unless $ok;
	open my $f, '>', "$c->{tmp}/start_error.$name" or die $!;
	print $f $err unless $ok;
	close $f;
	return $ok;
}

# Why it is not there any more: what its start said, or, had it started, its log (which is as new as its directory).
sub reason_of
{
	my ($name) = @_;
	my $err = `cat $c->{tmp}/start_error.$name`;
	return $err ne '' ? $err : log_of($name);
}

# A row of one's own, acknowledged within some seconds?
sub commits
{
	my ($name, $seconds) = @_;
	my $ok = eval {
		local $SIG{ALRM} = sub { die "no answer\n" };
		alarm $seconds;
		my $dbh = DBI->connect(@{ $dsn{$name} }, { RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1 });
		$dbh->do('INSERT INTO probe VALUES (DEFAULT)');
		alarm 0;
		1;
	};
	alarm 0;
	return $ok ? 1 : 0;
}

sub family { my ($pid) = @_; return ($pid, grep { /^\d+$/ } split /\s+/, `ps -o pid= --ppid $pid`); }

ok(start_it('one'), 'a compute starts');
ok($c->poll('it commits', 30, sub { DBI->connect(@{ $dsn{one} }, { RaiseError => 1, PrintError => 0, PrintWarn => 0 })->do('CREATE TABLE probe (i serial)') }), 'and commits');

my ($old, $new) = ('one', 'two');
for my $round (1 .. $rounds)
{
	# the old one writes, is idle, or is frozen while the other takes over and wakes up later
	my $how = (qw(writes frozen writes idle))[ $round % 4 ];
	my $pid = $c->compute_pid($old);
	$l->start unless $how eq 'idle';
	sleep(0.1 + rand 0.7);
	my @frozen = $how eq 'frozen' ? family($pid) : ();
	kill 'STOP', @frozen;
	my $started = start_it($new);
	ok($started, "round $round, the first $how: the second one starts");
	ok($c->poll('the second commits', 60, sub { commits($new, 10) }), "round $round: and commits");
	kill 'CONT', @frozen;
	is(commits($old, 3), 0, "round $round: the first does not any more");
	ok($c->poll('the first stops', 60, sub { !kill 0, $pid }), "round $round: it stops");
	like(log_of($old), qr/stopping this compute: a newer proposer exists/, "round $round: and says why");
	$l->stop unless $how eq 'idle';
	my ($acked, $missing) = $l->check($dsn{$new});
	is_deeply($missing, [], "round $round: all $acked acknowledged commits of both are there");
	($old, $new) = ($new, $old);
}

# ---- both at the very same moment ----
my $survivors = 0;
for my $round (1 .. $at_once)
{
	$c->node_sql('controller', "SELECT neon_compute_tools.stop_process('$_', 'immediate')") for qw(one two);
	$l->start;
	my @pids;
	for my $name (qw(one two))
	{
		my $pid = fork() // die;
		if ($pid == 0) { start_it($name); POSIX::_exit(0); }
		push @pids, $pid;
	}
	waitpid $_, 0 for @pids;
	# whoever lost learns of it from a message of a safekeeper, and stops.  Each election may end the other's: then
	# nobody is left, nobody is hurt, and the next start is undisturbed.
	my ($winner, $again, %why) = ('', 0);
	ok($c->poll('one of them commits', 90, sub {
		my @left = grep { $c->compute_pid($_) } qw(one two);
		if (!@left) { %why = map { $_ => reason_of($_) } qw(one two); $again++; start_it('one'); return 0; }
		return 0 if @left > 1;
		$winner = $left[0];
		return commits($winner, 10);
	}), "both at once, round $round: in the end one of them commits");
	$survivors++ unless $again;
	%why = map { $_ => reason_of($_) } grep { $_ ne $winner } qw(one two) unless $again;
	my @mute = grep { $why{$_} !~ /a newer proposer exists|the log does not end where this server began/ } keys %why;
	is("@mute", '', "round $round: who does not run says why") or diag(map { substr($why{$_}, -1500) } @mute);
	$l->stop;
	my ($acked, $missing) = $l->check($dsn{$winner});
	is_deeply($missing, [], "round $round: all $acked acknowledged commits are there");
}
note "a compute was left after $survivors rounds of both at once";

# what the sequence says: each probe's number is given out once
my ($left) = grep { $c->compute_pid($_) } qw(one two);
my $dbh = DBI->connect(@{ $dsn{$left} }, { RaiseError => 1, PrintError => 0, PrintWarn => 0 });
is($dbh->selectrow_array('SELECT count(*) - count(DISTINCT i) FROM probe'), 0, 'no number of a sequence was given out twice');
$dbh->disconnect;
$c->node_sql('controller', "SELECT neon_compute_tools.stop_process('$_')") for qw(one two);

# the endpoint takes over again
$c->start('main');
my ($acked, $missing) = $l->check(\@dsn_main);
is_deeply($missing, [], "all $acked acknowledged commits are there for the next");

done_testing();
