# wake.pl - a sleeping endpoint to its first row, against pg_ctl start and connect of a stock cluster; part of bench/run, which has the helpers.
#
# start_warm: neon_start_endpoint() on the controller, then a connection to the endpoint.  wake_*: what a client sees that connects through the
# proxy, with its password, and wakes the endpoint by that.  start_from_nothing is in compute.pl.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use Bench;

# Make the next start one from nothing: without the directory there is nothing to be warm with.
sub forget_directory { my ($cl) = @_; sh('rm', '-rf', $cl->status->{main}{dir}); return; }

sub bench_wake
{
	my ($bin, $work) = @_;
	my $cl = NeonCluster->new(proxies => 1);
	$cl->start;
	my $uri = stock('wake', $cl->{port} + 77, 'shared_buffers=512MB');
	psql($uri, 'SELECT 1');
	my $ctl = $cl->node_uri('controller');
	psql($ctl, q{UPDATE neon_controller.endpoints SET settings = '{"shared_buffers": "512MB"}'});
	my $through = $cl->local('uri', '-D', $cl->{dir}, '--node', 'proxy-1', '--endpoint', 'main');
	psql($through, 'CREATE TABLE w AS SELECT i FROM generate_series(1, 100000) i');
	my $ours = {
		start_warm => [ 0, sub { psql($ctl, q{SELECT neon_start_endpoint('main')}); psql($cl->uri('main'), 'SELECT 1') } ],
		wake_warm => [ 0, sub { psql($through, 'SELECT 1') } ],
		wake_from_nothing => [ 1, sub { psql($through, 'SELECT 1') } ],
	};
	for my $name (grep { wanted($_) } sort keys %$ours)
	{
		my ($nothing, $code) = @{ $ours->{$name} };
		my (@a, @b, @parts);
		for (1 .. $ENV{BENCH_WAKES} // 11)
		{
			psql($ctl, q{SELECT neon_suspend_endpoint('main')});
			forget_directory($cl) if $nothing;
			push @a, ms($code);
			my ($warm, @part) = split /\|/, psql($ctl, q{SELECT last_start ->> 'warm', last_start ->> 'sync_ms', last_start ->> 'fetch_ms', last_start ->> 'start_ms' FROM neon_controller.endpoints WHERE name = 'main'});
			die "$name: warm is $warm" if $warm ne ($nothing ? 'false' : 'true');
			push @{ $parts[$_] }, $part[$_] for 0 .. $#part;
			sh("$bin/pg_ctl", 'stop', '-w', '-m', 'fast', '-D', "$work/wake");
			push @b, ms(sub { sh("$bin/pg_ctl", 'start', '-w', '-D', "$work/wake", '-l', "$work/wake.log"); psql($uri, 'SELECT 1') });
		}
		record($name, median(@a), median(@b), 'ms', 'pg_ctl start and connect');
		print STDERR sprintf("# %s: election %.0f, base backup %.0f, server %.0f ms\n", $name, map { median(@$_) } @parts);
	}
	stop_stock();
	$cl->destroy;
}
1;
