# proxy - the proxy beside PgBouncer, both before the same stock server, with pools of the same size; part of bench/run.
#
# Memory is what the processes have for themselves and their share of what they have in common (PSS), with and without idle clients that logged in.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use Bench;
use IPC::Run qw(run);
use ProxyRig;
use Time::HiRes qw(sleep);

my $pool = 20;
my $idle = $ENV{BENCH_IDLE_CLIENTS} // 5000;

sub children { my ($pid) = @_; my %of; for (split /\n/, `ps -eo pid=,ppid=`) { my ($p, $pp) = split; push @{ $of{$pp} }, $p; } my @all = ($pid); for (my $i = 0; $i < @all; $i++) { push @all, @{ $of{ $all[$i] } // [] } } return @all; }

# KB of a process and its children
sub memory_kb
{
	my ($pid) = @_;
	my $kb = 0;
	for my $p (children($pid))
	{
		open my $f, '<', "/proc/$p/smaps_rollup" or next;
		/^Pss:\s+(\d+)/ and $kb += $1 while <$f>;
	}
	return $kb;
}

sub first_line { my ($file) = @_; open my $f, '<', $file or die "$file: $!"; my $l = <$f>; chomp $l; return $l; }

# (conninfo, pid) of a PgBouncer with the same users and pools
sub bouncer
{
	my ($rig) = @_;
	my $d = "$rig->{tmp}/bouncer";
	my $port = $rig->{base} + 12;
	mkdir $d;
	my $secret = $rig->admin(q{SELECT rolpassword FROM pg_authid WHERE rolname = 'ann'});
	open my $u, '>', "$d/users" or die $!; print $u qq{"ann" "$secret"\n}; close $u;
	open my $f, '>', "$d/ini" or die $!;
	print $f "[databases]\n* = host=127.0.0.1 port=$rig->{server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = $port\nauth_type = scram-sha-256\n",
		"auth_file = $d/users\npool_mode = transaction\ndefault_pool_size = $pool\nmax_client_conn = 10000\nlogfile = $d/log\npidfile = $d/pid\nunix_socket_dir =\nlog_connections = 0\nlog_disconnections = 0\n";
	close $f;
	system('chown', '-R', 'postgres', $d) if $> == 0;
	-x '/usr/sbin/pgbouncer' or die "PgBouncer is not here: apt-get install pgbouncer\n";
	sh('prlimit', '--nofile=20000', '/usr/sbin/pgbouncer', '-q', '-d', "$d/ini");
	for (1 .. 600) { last if -s "$d/pid"; sleep 0.1; }
	return ("host=127.0.0.1 port=$port user=ann password=secret dbname=app", first_line("$d/pid"));
}

# KB for each of the idle clients
sub idle_kb
{
	my ($conninfo, $pid) = @_;
	my ($in, $out, $err) = ('', '', '');
	my $before = memory_kb($pid);
	my $h = IPC::Run::start([ "$TOP/bench/build/idle_clients", $conninfo, $idle ], '<', \$in, '>', \$out, '2>', \$err);
	$h->pump until $out =~ /connected/ || !$h->pumpable;
	die "idle clients: $err" unless $out =~ /^$idle connected/;
	sleep 2;
	my $after = memory_kb($pid);
	$h->finish;
	return ($after - $before) / $idle;
}

sub bench_proxy
{
	my $rig = ProxyRig->new(proxy => "neon_proxy.default_pool_size = $pool\nmax_files_per_process = 12000");
	my $uri = "host=127.0.0.1 port=$rig->{port} user=ann password=secret dbname=app options=endpoint=tx-1a2b3c4d sslmode=disable";
	my ($bouncer, $pid) = bouncer($rig);

	run [ 'pgbench', '-i', '-q', '-s', 5, "host=127.0.0.1 port=$rig->{server_port} user=ann password=secret dbname=app" ], '>', '/dev/null', '2>', '/dev/null' or die 'pgbench -i';
	if (wanted('proxy_tps_c64'))
	{
		my @how = qw(-S -c 64 -j 2);
		record('proxy_tps_c64', pair(sub { pgbench($uri, @how) }, sub { pgbench($bouncer, @how) }), 'TPS', "PgBouncer, transaction mode, pools of $pool");
	}
	if (wanted('proxy_idle_kb'))
	{
		record('proxy_idle_kb', idle_kb($uri, first_line("$rig->{tmp}/proxy/postmaster.pid")), idle_kb($bouncer, $pid), 'KB a client', "PgBouncer with $idle idle clients");
	}
	kill 'TERM', $pid;
	$rig->destroy;
}
1;
