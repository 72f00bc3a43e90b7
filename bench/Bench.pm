# Bench.pm - what the benches share: stock servers, a cluster of ours, alternation, the table.
# SPDX-License-Identifier: Apache-2.0
package Bench;
use strict;
use warnings;
use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);
use IPC::Run qw(run);
use Time::HiRes qw(time sleep);
our $TOP; BEGIN { $TOP = abs_path(dirname(__FILE__) . '/..') }
use lib "$TOP/test/perl";
use NeonCluster;

our $only = $ENV{ONLY} // '';
our $secs = $ENV{BENCH_SECONDS} // 10;
our $scale = $ENV{BENCH_SCALE} // 20;
our $rounds = $ENV{BENCH_ROUNDS} // 3;
our $big_mb = $ENV{BENCH_BIG_MB} // 5000;
our $bin = `pg_config --bindir`; chomp $bin;
our $work = "/tmp/neon_bench.$$";
our @EXPORT = qw($TOP $secs $scale $rounds $big_mb $bin $work median sh wanted record stock stop_stock psql pgbench pair ms cluster datadir copy_dir);
my @servers;
my %rows;
my $c;
my $owner = $$;

# the figures of a run that another one at the same time would spoil are its own fault; servers are not
mkdir $work; chmod 0777, $work;

sub median { my @s = sort { $a <=> $b } @_; return $s[ $#s / 2 ]; }
sub as_pg { my @c = @_; return $> == 0 ? ('runuser', '-u', 'postgres', '--', @c) : @c; }
sub sh { my @c = as_pg(@_); my ($o, $e) = ('', ''); run \@c, '<', '/dev/null', '>', \$o, '2>', \$e or die "@c: $e$o"; chomp $o; return $o; }

# ONLY names one measure, or the beginning of several
sub wanted { my ($name) = @_; return $only eq '' || $name =~ /^\Q$only\E/; }

sub record
{
	my ($name, $ours, $theirs, $unit, $what) = @_;
	my $line = sprintf("%s\t%.4g\t%.4g\t%s\t%.3f\t%s", $name, $ours, $theirs, $unit, $theirs ? $ours / $theirs : 0, $what);
	print "$line\n";
	$rows{$name} = $line;
}

sub header { return "name\tours\ttheirs\tunit\tratio\ttheirs is\n"; }

sub write_results
{
	mkdir "$TOP/bench/results";
	open my $f, '>', "$TOP/bench/results/latest.tsv" or die $!;
	print $f header(), map { "$rows{$_}\n" } sort keys %rows;
	close $f;
}

# ---- stock servers ----
sub datadir
{
	my ($name) = @_;
	my $d = "$work/$name";
	sh("$bin/initdb", '-D', $d, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C.UTF-8', '-N') unless -d $d;
	return $d;
}

sub copy_dir { my ($from, $to) = @_; sh('rm', '-rf', $to); sh('cp', '-a', $from, $to); return $to; }

sub stock
{
	my ($name, $port, $conf) = @_;
	my $d = datadir($name);
	open my $f, '>>', "$d/postgresql.conf"; print $f "port=$port\nlisten_addresses='127.0.0.1'\nunix_socket_directories='$work'\n$conf\n"; close $f;
	sh("$bin/pg_ctl", 'start', '-w', '-t', '600', '-D', $d, '-l', "$work/$name.log");
	push @servers, $d;
	return "postgresql://postgres\@127.0.0.1:$port/postgres";
}
sub stop_stock { sh("$bin/pg_ctl", 'stop', '-w', '-t', '600', '-m', 'fast', '-D', $_) for reverse @servers; @servers = (); }

sub psql { my ($uri, $sql) = @_; my ($o, $e) = ('', ''); run [ 'env', 'PGOPTIONS=-c client_min_messages=warning', 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', $uri, '-c', $sql ], '>', \$o, '2>', \$e or die "$sql: $e"; chomp $o; return $o; }

sub pgbench
{
	my ($uri, @args) = @_;
	my ($o, $e) = ('', '');
	my @time = grep({ $_ eq '-t' } @args) ? () : ('-T', $secs);
	run [ 'pgbench', '-n', @time, @args, $uri ], '>', \$o, '2>', \$e or die "pgbench: $e$o";
	my ($tps) = $o =~ /^tps = ([\d.]+)/m or die $o;
	return $tps;
}

# ours and theirs in turn: medians
sub pair { my ($ours, $theirs) = @_; my (@a, @b); for (1 .. $rounds) { push @a, $ours->(); push @b, $theirs->(); } return (median(@a), median(@b)); }

sub ms { my ($code) = @_; my $t = time; $code->(); return (time - $t) * 1000; }

# ---- our cluster, the same for all benches ----
my $settings = '{"shared_buffers": "512MB", "max_connections": "150", "neon.file_cache_size_limit": "2GB", "max_wal_size": "8GB"}';

sub cluster
{
	return $c if $c;
	$c = NeonCluster->new;
	$c->start;
	$c->node_sql('controller', "UPDATE neon_controller.endpoints SET settings = '$settings'");
	$c->stop('main');
	$c->start('main');
	run [ 'pgbench', '-i', '-q', '-s', $scale, $c->uri('main') ], '>', '/dev/null', '2>', '/dev/null' or die 'pgbench -i';
	return $c;
}

END
{
	local $?;
	if ($$ == $owner)
	{
		eval { stop_stock() };
		$c->destroy if $c;
		system('rm', '-rf', $work) if $work && -d $work;
	}
}

1;
