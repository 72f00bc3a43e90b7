# broker.pl - from a publisher's message to a subscriber, with 1,000 active timelines of three nodes, against one NOTIFY between two sessions.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use IO::Select;
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(time sleep);
use RawPg;
use Bench;

my $TIMELINES = 1000;
my $NODES = 3;

sub broker_tick
{
	my ($pub, $sk, $from, $to) = @_;
	my @e = map { [ pack('N N4 N4 Q>2', $sk, 7, 7, 7, 1 + $_ % 10, 9, 9, 9, 1 + $_, 3, 3), pack('Q>2 C/a', 0, 0, "10.0.0.$sk:5432") ] } $from .. $to;
	# the clock starts when the message is made, as NOTIFY's does
	my $us = pack('Q>2', (int(time * 1e6)) x 2);
	$pub->copy('P' . pack('n', $to - $from + 1) . join '', map { $_->[0] . $us . $_->[1] } @e);
}

# A process that publishes every timeline once a second, in batches spread over the second.
sub broker_publisher
{
	my ($uri, $sk, $seconds) = @_;
	my $pid = fork // die "fork: $!";
	return $pid if $pid;
	my $s = RawPg->connect(RawPg::parse($uri), password => '');
	$s->copy_both('CALL neon_broker.publish()') or POSIX::_exit(1);
	# as libpq does: nobody answers a publisher, so its next message could wait for the last one's delayed acknowledgement
	setsockopt($s->{sock}, IPPROTO_TCP, TCP_NODELAY, 1) or POSIX::_exit(1);
	my $batch = 50;
	my ($start, $n) = (time, 0);
	while (time < $start + $seconds)
	{
		my $from = $n * $batch % $TIMELINES;
		broker_tick($s, $sk, $from, $from + $batch - 1);
		$n++;
		my $left = $start + $n * $batch / $TIMELINES - time;
		sleep $left if $left > 0;
	}
	POSIX::_exit(0);
}

# Ages in ms of every state that comes; the snapshot's are none.
sub broker_latencies
{
	my ($uri, $seconds) = @_;
	my $s = RawPg->connect(RawPg::parse($uri), password => '');
	$s->copy_both('CALL neon_broker.subscribe()') or die $s->{error}{M};
	my ($live, @age) = (0);
	my $end = time + $seconds;
	while (time < $end)
	{
		my ($type, $body) = $s->message(timeout => 1);
		die 'the broker went away' if !defined $type || $type eq 'E';
		next if $type ne 'd';
		my $now = time * 1e6;
		my ($tag, $count) = unpack('a n', $body);
		$live = 1 if $tag eq 'S';
		next if !$live || $tag ne 'U';
		my $at = 3;
		for (1 .. $count)
		{
			push @age, ($now - unpack('Q>', substr($body, $at + 36 + 24, 8))) / 1000;
			$at += 85 + unpack('C', substr($body, $at + 84, 1));
		}
	}
	$s->close;
	return \@age;
}

# NOTIFY by one session until another one, which sleeps, has it; ms.
sub notify_latencies
{
	my ($uri, $n) = @_;
	my ($a, $b) = map { RawPg->connect(RawPg::parse($uri), password => '') } 1, 2;
	$b->query('LISTEN bench');
	my @ms;
	for my $i (1 .. $n)
	{
		my $t = time;
		$a->send('Q', "NOTIFY bench, '$i'\0");
		my ($type) = $b->message;
		die "expected a notification, got $type" if $type ne 'A';
		push @ms, (time - $t) * 1000;
		$a->finish;
		sleep 0.002;
	}
	return \@ms;
}

sub percentile { my ($p, @v) = @_; @v = sort { $a <=> $b } @v; return $v[ int($p * $#v) ]; }

sub bench_broker
{
	(my $bare = stock('broker', 28790, "shared_preload_libraries='neon_broker'\nfsync=on")) =~ s{postgres@}{postgres:\@};
	psql($bare, 'CREATE EXTENSION neon_broker');
	(my $stock = stock('notify', 28791, 'fsync=on')) =~ s{postgres@}{postgres:\@};
	my @pids = map { broker_publisher($bare, $_, $secs + 4) } 1 .. $NODES;
	sleep 2;
	my $ours = broker_latencies($bare, $secs);
	waitpid $_, 0 for @pids;
	my $known = psql($bare, 'SELECT count(*) FROM neon_broker.timelines');
	die "the broker knows $known states" if $known != $TIMELINES * $NODES;
	my $theirs = notify_latencies($stock, 1000);
	stop_stock();
	my $what = sprintf('one NOTIFY between two sessions of a stock server; ours: %d states of %d timelines on %d nodes, each once a second', scalar @$ours, $TIMELINES, $NODES);
	record('broker_p50', percentile(0.5, @$ours), percentile(0.5, @$theirs), 'ms', "$what; median of both");
	record('broker_p99', percentile(0.99, @$ours), percentile(0.99, @$theirs), 'ms', "$what; 99th percentile of both");
}

1;
