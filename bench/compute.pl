# compute.pl - commits, queries on cached data, start, branches.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use IPC::Run qw(run);
use Time::HiRes qw(time sleep);
use Bench;

my $cached = "shared_buffers=512MB\nmax_connections=150\nmax_wal_size=8GB";

sub bench_commit
{
	my $cl = cluster();
	my $p = $cl->{port} + 70;
	my $uri = stock('primary', $p, "$cached\nmax_wal_senders=10");
	for my $i (1 .. 3)
	{
		sh("$bin/pg_basebackup", '-D', "$work/s$i", '-h', $work, '-p', $p, '-U', 'postgres', '-c', 'fast');
		open my $f, '>', "$work/s$i/standby.signal"; close $f;
		stock("s$i", $p + $i, "primary_conninfo='host=$work port=$p user=postgres application_name=s$i'\nhot_standby=on");
	}
	psql($uri, q{ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (s1, s2, s3)'});
	psql($uri, 'SELECT pg_reload_conf()');
	sleep 1;
	run [ 'pgbench', '-i', '-q', '-s', $scale, $uri ], '>', '/dev/null', '2>', '/dev/null' or die;
	for my $n (1, 16, 64)
	{
		next unless wanted("commit_c$n");
		my @args = ('-N', '-c', $n, '-j', 2);
		my ($a, $b) = pair(sub { pgbench($cl->uri('main'), @args) }, sub { pgbench($uri, @args) });
		record("commit_c$n", $a, $b, 'TPS', 'stock, synchronous to ANY 2 of 3 standbys');
	}
	stop_stock();
}

sub bench_cached
{
	my $cl = cluster();
	my $uri = stock('cached', $cl->{port} + 75, $cached);
	run [ 'pgbench', '-i', '-q', '-s', $scale, $uri ], '>', '/dev/null', '2>', '/dev/null' or die;
	for my $u ($uri, $cl->uri('main')) { psql($u, 'VACUUM ANALYZE'); psql($u, 'SELECT count(*), sum(abalance) FROM pgbench_accounts'); pgbench($u, '-S', '-c', 4, '-j', 2); }
	if (wanted('select_cached'))
	{
		my ($a, $b) = pair(sub { pgbench($cl->uri('main'), '-S', '-c', 8, '-j', 2) }, sub { pgbench($uri, '-S', '-c', 8, '-j', 2) });
		record('select_cached', $a, $b, 'TPS', 'stock, pgbench -S -c 8');
	}
	if (wanted('tpcb_cached'))
	{
		my ($a, $b) = pair(sub { pgbench($cl->uri('main'), '-c', 8, '-j', 2) }, sub { pgbench($uri, '-c', 8, '-j', 2) });
		record('tpcb_cached', $a, $b, 'TPS', 'stock, one server with fsync, pgbench -c 8');
	}
	stop_stock();
}

sub bench_start
{
	my $cl = cluster();
	my $uri = stock('start', $cl->{port} + 76, 'shared_buffers=512MB');
	psql($uri, 'SELECT 1');
	my (@a, @b);
	for (1 .. 7)
	{
		$cl->stop('main');
		push @a, ms(sub { psql($cl->node_uri('controller'), q{SELECT neon_start_endpoint('main')}); psql($cl->uri('main'), 'SELECT 1') });
		sh("$bin/pg_ctl", 'stop', '-w', '-m', 'fast', '-D', "$work/start");
		push @b, ms(sub { sh("$bin/pg_ctl", 'start', '-w', '-D', "$work/start", '-l', "$work/start.log"); psql($uri, 'SELECT 1') });
	}
	record('start_from_nothing', median(@a), median(@b), 'ms', 'pg_ctl start and connect');
	stop_stock();
}

# Branches of two projects of one cluster in turn, one with 10 MB and one with BENCH_BIG_MB: median of 50 each.
sub bench_branch
{
	my $cl = NeonCluster->new;
	$cl->start;
	my $ctl = $cl->node_uri('controller');
	my $fill = sub {
		my ($uri, $mb) = @_;
		psql($uri, 'CREATE TABLE big (i int, pad text)');
		for (my $left = $mb; $left > 0; $left -= 100)
		{
			my $rows = 950 * ($left < 100 ? $left : 100);
			psql($uri, "INSERT INTO big SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, $rows) i");
		}
		return psql($uri, q{SELECT pg_total_relation_size('big') >> 20});
	};
	psql($ctl, q{SELECT neon_create_tenant('small')});
	my $small_uri = psql($ctl, q{SET neon.tenant = 'small'; SELECT neon_start_endpoint('main')});
	my $small_mb = $fill->($small_uri, 10);
	my $mb = $fill->($cl->uri('main'), $big_mb);
	psql($_, 'CHECKPOINT') for $small_uri, $cl->uri('main');
	psql($cl->node_uri('pageserver-1'), 'SELECT neon_pageserver.checkpoint()');
	my %t;
	my $create = sub { my ($tenant, $name) = @_; push @{ $t{$tenant} }, ms(sub { psql($ctl, "SET neon.tenant = '$tenant'; SELECT neon_create_branch('$name', parent => 'main')") }); };
	my $main = psql($ctl, q{SELECT name FROM neon_tenants WHERE name <> 'small'});
	for my $i (1 .. 50) { $create->('small', "s$i"); $create->($main, "b$i"); }
	record('branch_size', median(@{ $t{$main} }), median(@{ $t{small} }), 'ms', "a branch of $small_mb MB; ours: of $mb MB; median of 50 in turn");
	$cl->destroy;
}

1;
