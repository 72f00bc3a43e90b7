# NeonCluster.pm - a whole cluster for a TAP test, made by bin/neon_local below a temporary directory.
#
# Kills only processes it started, by pid.  A test that dies leaves no server behind: DESTROY removes everything.
#
# SPDX-License-Identifier: Apache-2.0
package NeonCluster;
use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use Fcntl qw(:flock);
use IO::Socket::INET;
use IPC::Run qw(run timeout);
use Time::HiRes qw(sleep time);
use Test::More;

my $TOP = abs_path(dirname(__FILE__) . '/../..');
our $NEON_LOCAL = "$TOP/bin/neon_local";
chomp($ENV{NEON_LOCAL_BINDIR} = `"\${PG_CONFIG:-pg_config}" --bindir`) unless $ENV{NEON_LOCAL_BINDIR};
# A psql that cannot connect has ended before it reads what it is told: that is an error of the write, not our end.
$SIG{PIPE} = sub { };

# 100 free ports in a row; the lock file keeps two tests from taking the same ones.
sub free_ports
{
	for my $base (map { 21000 + 100 * $_ } 0 .. 90)
	{
		open my $lock, '>>', "/tmp/neon_test_ports_$base" or next;
		next unless flock($lock, LOCK_EX | LOCK_NB);
		my $busy = grep { my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $base + $_, Listen => 1, ReuseAddr => 1); !$s } 0, 1, 11, 12, 13, 22, 30, 31, 38, 40, 41, 42, 43;
		next if $busy;
		return ($base, $lock);
	}
	die "no free ports";
}

sub new
{
	my ($class, %opt) = @_;
	my $self = bless { within => $opt{within} || [] }, $class;	# within: command in front of those that need the cluster's network
	($self->{port}, $self->{lock}) = free_ports();
	$self->{tmp} = tempdir('neonXXXXXX', DIR => '/tmp', CLEANUP => 0);
	chmod 0755, $self->{tmp};
	if ($> == 0)
	{
		my $uid = getpwnam('postgres');
		chown $uid, -1, $self->{tmp};
	}
	$self->{dir} = "$self->{tmp}/c";
	$self->{owner} = $$;
	$self->local('init', '-D', $self->{dir}, '--base-port', $self->{port}, '--proxies', $opt{proxies} // 0, @{ $opt{init} || [] });
	$self->take_fresh_cluster;
	# tests kill and stop endpoints themselves; only those of the watcher want it
	$self->conf($_, 'neon_compute_tools.watch_interval = ' . ($opt{watch} // 0)) for 'controller', map { m{([^/]+)$} } glob("$self->{dir}/compute-*");
	$self->conf($_, $opt{conf}{$_}) for keys %{ $opt{conf} || {} };
	return $self;
}

# Output of neon_local; dies when it fails.
sub local
{
	my ($self, @args) = @_;
	my ($out, $err) = ('', '');
	local $ENV{NEON_LOCAL_NO_SYNC} = 1;
	run [ @{ $self->{within} }, $NEON_LOCAL, @args ], '<', '/dev/null', '>', \$out, '2>', \$err, timeout(300)
	  or die "neon_local @args: $err$out" . $self->tail_logs;
	chomp $out;
	return $out;
}

sub start
{
	my ($self, @n) = @_;
	my $out = $self->local('start', '-D', $self->{dir}, @n);
	$self->give_fresh_cluster unless @n;
	return $out;
}

# Each pageserver makes the image of a fresh cluster once, with an initdb; a run of many tests (NEON_LOCAL_TEMPLATE is set) makes it once for all.
sub give_fresh_cluster
{
	my ($self) = @_;
	my $template = $ENV{NEON_LOCAL_TEMPLATE} or return;
	my $made = "$self->{dir}/pageserver-1/neon_pageserver/_bootstrap";
	return if -e "$template.bootstrap" || !-e "$made/state";
	my $copy = "$template.bootstrap.$$";
	if (system('cp', '-a', $made, $copy) != 0 || !rename $copy, "$template.bootstrap") { system('rm', '-rf', $copy); }
	return;
}

sub take_fresh_cluster
{
	my ($self) = @_;
	my $template = $ENV{NEON_LOCAL_TEMPLATE} or return;
	return unless -e "$template.bootstrap/state";
	for my $node (glob "$self->{dir}/pageserver-*")
	{
		my ($uid, $gid) = (stat $node)[ 4, 5 ];
		mkdir "$node/neon_pageserver", 0700 or die "$node: $!";
		chown $uid, $gid, "$node/neon_pageserver" if $> == 0;
		system('cp', '-a', "$template.bootstrap", "$node/neon_pageserver/_bootstrap") == 0 or die 'cp';
	}
	return;
}

sub stop { my ($self, @n) = @_; $self->local('stop', '-D', $self->{dir}, @n); }

# Lines for a node's postgresql.conf (before its start).
sub conf
{
	my ($self, $node, $lines) = @_;
	open my $f, '>>', "$self->{dir}/$node/postgresql.conf" or die "$node: $!";
	print $f "$lines\n";
	close $f;
}

sub status
{
	my ($self) = @_;
	my %s;
	for (split /\n/, $self->local('status', '-D', $self->{dir}))
	{
		my ($name, $role, $pid, $port, $state, $dir) = split / /;
		$s{$name} = { role => $role, pid => $pid, port => $port, state => $state, dir => $dir };
	}
	return \%s;
}

sub uri { my ($self, $ep) = @_; return $self->{uri}{$ep} //= $self->local('uri', '-D', $self->{dir}, '--endpoint', $ep); }

sub node_uri { my ($self, $node) = @_; return $self->{nuri}{$node} //= $self->local('uri', '-D', $self->{dir}, '--node', $node); }

# (exit code, stdout, stderr) of psql on a URI.
sub psql_uri
{
	my ($self, $uri, $sql, %opt) = @_;
	my ($out, $err) = ('', '');
	my $h = IPC::Run::start([ @{ $self->{within} }, 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', $uri ], '<', \$sql, '>', \$out, '2>', \$err,
		timeout($opt{timeout} || 300));
	my $ok = eval { $h->finish; 1 };
	$h->kill_kill unless $ok;
	chomp $out;
	return ($ok ? $h->result(0) : 99, $out, $err);
}

# stdout; dies on an error
sub sql
{
	my ($self, $ep, $sql, %opt) = @_;
	my ($rc, $out, $err) = $self->psql_uri($self->uri($ep), $sql, %opt);
	die "psql on $ep: $err" . $self->tail_logs if $rc != 0;
	return $out;
}

sub node_sql
{
	my ($self, $node, $sql) = @_;
	my ($rc, $out, $err) = $self->psql_uri($self->node_uri($node), $sql);
	die "psql on $node: $err" . $self->tail_logs if $rc != 0;
	return $out;
}

# A machine that is busy with something else is no failure: no limit is shorter than this.
my $LEAST_LIMIT = 120;

sub poll
{
	my ($self, $what, $limit, $code) = @_;
	my $end = time + ($limit < $LEAST_LIMIT ? $LEAST_LIMIT : $limit);
	while (time < $end)
	{
		my $asked = time;
		my $r = eval { $code->() };
		return $r if $r;
		# what is dear to ask (a psql) is asked less often: who waits is not to keep the others from going on
		my $took = time - $asked;
		sleep($took < 0.03 ? 0.1 : $took > 0.2 ? 0.4 : 0.2);
	}
	diag("timed out waiting until $what" . $self->tail_logs);
	return 0;
}

# Of a node or endpoint, '-' when it does not run: what neon_local says, without a psql for each question.
sub pid
{
	my ($self, $name) = @_;
	my $dir = $name =~ /^(controller|(safekeeper|pageserver|compute|proxy)-\d+)$/ ? "$self->{dir}/$name"
	  : ($self->{endpoint_dir}{$name} //= ($self->status->{$name} // die "no $name")->{dir});
	open my $f, '<', "$dir/postmaster.pid" or return '-';
	my ($pid) = (<$f> // '') =~ /^([1-9]\d*)$/ or return '-';
	open my $c, '<', "/proc/$pid/comm" or return '-';
	my $comm = <$c> // '';
	my ($ours, $theirs) = map { join '/', (stat $_)[ 0, 1 ] } $dir, "/proc/$pid/cwd";
	return $pid if $ours eq $theirs || ($comm eq "postgres\n" && $theirs eq '');
	return '-';
}

# SIGSTOP of a server and all its processes; what thaw() wants.
sub freeze
{
	my ($self, @names) = @_;
	my @all;
	for my $name (@names)
	{
		my $pid = $self->pid($name);
		kill 'STOP', $pid;
		push @all, $pid, grep { /^\d+$/ } split /\s+/, `ps -o pid= --ppid $pid`;
	}
	kill 'STOP', @all;
	return @all;
}

sub thaw { my ($self, @pids) = @_; kill 'CONT', @pids; }

# kill -9 of a server: postmaster and all its processes at once.
sub kill9
{
	my ($self, $name) = @_;
	my $pid = $self->pid($name);
	return 0 if $pid eq '-';
	kill 'STOP', $pid;
	my @kids = split /\s+/, `ps -o pid= --ppid $pid`;
	kill 'KILL', $pid, grep { /^\d+$/ } @kids;
	my $end = time + 30;
	while (time < $end && grep { kill 0, $_ } $pid, grep { /^\d+$/ } @kids) { sleep 0.02; }
	return 1;
}

# A compute on branch main's timeline that the controller's catalog does not know, made by the same function; forced when its
# predecessor of that name was killed.  Returns (ok, error).
sub start_compute
{
	my ($self, $name, $port) = @_;
	my ($rc, undef, $err) = $self->psql_uri($self->node_uri('controller'), qq{
		SELECT neon_compute_tools.forget_dead_process('$name');
		SELECT neon_compute_tools.start_compute(jsonb_build_object('name', '$name', 'tenant', tl.tenant, 'timeline', tl.id,
			'start_lsn', tl.start_lsn, 'system_id', tl.system_id, 'wal_seg_size', tl.wal_seg_size,
			'safekeepers', neon_controller.safekeepers_setting(tl), 'pageserver', neon_controller.tenant_connstring(ps, t),
			'controller', neon_controller.tenant_connstring(ctl, t), 'host', '127.0.0.1', 'port', $port))
		FROM neon_controller.branches b JOIN neon_controller.timelines tl ON tl.id = b.timeline
			JOIN neon_controller.tenants t ON t.id = tl.tenant JOIN neon_controller.nodes ps ON ps.name = tl.pageserver
			JOIN neon_controller.nodes ctl ON ctl.role = 'controller'
		WHERE b.name = 'main'});
	return ($rc == 0, $err);
}

# Pid of its postmaster, or 0.
sub compute_pid { my ($self, $name) = @_; return $self->node_sql('controller', "SELECT coalesce(neon_compute_tools.process_pid('$name'), 0)"); }

sub tail_logs
{
	my ($self) = @_;
	my $out = "\n";
	for my $f (glob("$self->{dir}/logs/*.log $self->{dir}/computes*/*/compute.log"))
	{
		my $t = `tail -n 25 $f 2>/dev/null`;
		$out .= "==== $f\n$t";
	}
	return $out;
}

sub destroy
{
	my ($self) = @_;
	return if $self->{gone}++;
	if ($ENV{NEON_KEEP}) { system("$NEON_LOCAL stop -D $self->{dir} -m immediate >/dev/null 2>&1"); return; }
	system("$NEON_LOCAL destroy -D $self->{dir} >/dev/null 2>&1") if -e "$self->{dir}/neon_local.conf";
	system('rm', '-rf', $self->{tmp});
}

sub DESTROY { my ($self) = @_; local ($?, $@); $self->destroy if $self->{owner} == $$; }

1;
