# replica.pl - how fast a replica replays what it has streamed already, against a stock standby after the same work of its primary.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use IPC::Run qw(run);
use Time::HiRes qw(time sleep);
use Bench;

# Redo is held while pgbench works and the log is streamed; then it is let go.  MB/s
sub catch_up
{
	my ($primary, $standby) = @_;
	my $wait = sub { my ($sql) = @_; for (1 .. 6000) { return if psql($standby, $sql) eq 't'; sleep 0.05; } die "not true: $sql"; };
	my $caught_up = sub { my $end = psql($primary, 'SELECT pg_current_wal_flush_lsn()'); $wait->("SELECT pg_last_wal_replay_lsn() >= '$end'"); };
	$caught_up->();
	psql($standby, 'SELECT pg_wal_replay_pause()');
	$wait->(q{SELECT pg_get_wal_replay_pause_state() = 'paused'});
	pgbench($primary, '-c', 8, '-j', 2);
	my $end = psql($primary, 'SELECT pg_current_wal_flush_lsn()');
	$wait->("SELECT pg_last_wal_receive_lsn() >= '$end'");
	my $bytes = psql($standby, "SELECT '$end'::pg_lsn - pg_last_wal_replay_lsn()");
	my $s = ms(sub {
		psql($standby, 'SELECT pg_wal_replay_resume()');
		$wait->("SELECT pg_last_wal_replay_lsn() >= '$end'");
	}) / 1000;
	return $bytes / $s / 1e6;
}

sub bench_replica
{
	my $cl = cluster();
	psql($cl->uri('main'), q{SELECT neon_create_endpoint('eyes', 'main', mode => 'replica')});
	# who asks how far it is has a snapshot: redo waits for that moment instead of ending it
	psql($cl->uri('main'), q{SELECT neon_configure_endpoint('eyes', '{"settings": {"max_standby_streaming_delay": "-1"}}')});
	my $conf = "shared_buffers=512MB\nmax_wal_size=8GB\nwal_keep_size=8GB\nhot_standby=on\nfsync=off\nmax_standby_streaming_delay=-1\n";
	my $primary = stock('rp_primary', $cl->{port} + 77, $conf);
	run [ 'pgbench', '-i', '-q', '-s', $scale, $primary ], '>', '/dev/null', '2>', '/dev/null' or die 'pgbench -i';
	sh("$bin/pg_basebackup", '-D', "$work/rp_standby", '-R', '-c', 'fast', '-d', $primary);
	my $standby = stock('rp_standby', $cl->{port} + 78, $conf);
	my ($a, $b) = pair(sub { catch_up($cl->uri('main'), $cl->uri('eyes')) }, sub { catch_up($primary, $standby) });
	record('replica_catchup', $a, $b, 'MB/s', 'a stock standby (fsync off) after the same pgbench on its primary');
	print STDERR '# records redone, skipped, of the visibility map: ', psql($cl->uri('eyes'), 'SELECT redone, skipped, map_only FROM pg_stat_neon_replica'), "\n";
	stop_stock();
	psql($cl->uri('main'), q{SELECT neon_drop_endpoint('eyes')});
}

1;
