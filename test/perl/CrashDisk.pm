# CrashDisk.pm - nodes of a cluster on disks that forget what was not synced (test/shim).
#
#   my $d = CrashDisk->new($cluster, 'safekeeper-1', ...);    the nodes are stopped
#   $d->start($node);                       under the shim
#   $d->kill9($node, ..., 'main');          all processes of all of them at the same moment
#   my $lost = $d->lose($node, $seed);      the machine's crash; seed undef: everything that was not synced
#   $d->control($node, 'ignore fdatasync PATTERN', ...);      what goes wrong from now on
#
# SPDX-License-Identifier: Apache-2.0
package CrashDisk;
use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IPC::Run qw(run timeout);
use Time::HiRes qw(sleep time);

my $SHIM = abs_path(dirname(__FILE__) . '/../shim');

sub build
{
	my ($out, $err) = ('', '');
	run([ 'make', '-s', '-C', $SHIM ], '>', \$out, '2>', \$err) or die "make -C $SHIM: $err";
	return "$SHIM/build";
}

sub new
{
	my ($class, $cluster, @nodes) = @_;
	chomp(my $bin = `pg_config --bindir`);
	my $self = bless { c => $cluster, bin => $bin, build => "$cluster->{tmp}/shim" }, $class;
	# the servers' user may not be able to read the checkout
	system('cp', '-r', build(), $self->{build}) == 0 && chmod(0755, $self->{build}) or die "cp: $!";
	$self->as_owner("$self->{build}/shim_crash", '--snapshot', $self->data($_)) for @nodes;
	return $self;
}

sub data { my ($self, $node) = @_; return "$self->{c}{dir}/$node"; }

sub as_owner
{
	my ($self, @command) = @_;
	my ($out, $err) = ('', '');
	unshift @command, 'runuser', '-u', 'postgres', '--' if $> == 0;
	run(\@command, '<', '/dev/null', '>', \$out, '2>', \$err, timeout(180)) or die "@command: $err$out" . $self->{c}->tail_logs;
	return $out;
}

sub start
{
	my ($self, $node) = @_;
	my $data = abs_path($self->data($node));
	$self->as_owner('env', 'LC_ALL=C', "NEON_SHIM_DATA=$data", "LD_PRELOAD=$self->{build}/shim.so", "$self->{bin}/pg_ctl", 'start', '-w',
		'-t', '120', '-D', $data, '-l', "$self->{c}{dir}/logs/$node.log");
}

sub control { my ($self, $node, @lines) = @_; $self->as_owner("$self->{build}/shim_crash", '--control', $self->data($node), @lines); }

# A postmaster that is stopped starts nobody; then all are killed in one go.
sub kill9
{
	my ($self, @names) = @_;
	my $st = $self->{c}->status;
	my @masters = grep { $_ ne '-' } map { ($st->{$_} or die "no $_")->{pid} } @names;
	return unless @masters;
	kill 'STOP', @masters;
	my @all = (@masters, grep { /^\d+$/ } split /\s+/, `ps -o pid= --ppid @{[ join ',', @masters ]}`);
	kill 'KILL', @all;
	my $end = time + 30;
	while (grep { alive($_) } @all) { die "@all do not die" if time > $end; sleep 0.02; }
	# a number that init has not heard of yet looks like a server that lives
	unlink map { ("$self->{c}{dir}/run/.s.PGSQL.$st->{$_}{port}.lock", "$self->{c}{dir}/computes/.s.PGSQL.$st->{$_}{port}.lock") } @names;
}

# A process that only waits for init to hear of its end is dead.
sub alive
{
	my ($pid) = @_;
	open my $f, '<', "/proc/$pid/stat" or return 0;
	return (<$f> // '') =~ /\) [^ZX] /;
}

sub lose
{
	my ($self, $node, $seed) = @_;
	my $out = $self->as_owner("$self->{build}/shim_crash", (defined $seed ? ('--seed', $seed) : ()), $self->data($node));
	return { $out =~ /(\w+)=(\d+)/g };
}

# ---- looking at nodes ----

sub slurp { my ($path) = @_; open my $f, "<:raw", $path or die "$path: $!"; local $/; return scalar <$f>; }

# Of branch main, as it was first.
sub timeline
{
	my ($self) = @_;
	return $self->{timeline} //= $self->{c}->node_sql('controller', q{SELECT timeline FROM neon_controller.branches WHERE name = 'main'});
}

sub timeline_dir
{
	my ($self, $node) = @_;
	my $timeline = $self->timeline;
	chomp(my $dir = `find @{[ $self->data($node) ]}/neon_safekeeper -name $timeline`);
	return $dir;
}

# That timeline on a safekeeper: state, problem, whether its WAL has all that it calls committed, terms of the catalog and beside the WAL.
sub safekeeper
{
	my ($self, $node) = @_;
	my $timeline = $self->timeline;
	my @r = split /\|/, $self->{c}->node_sql($node, qq{SELECT state, coalesce(problem, ''), v.flush_lsn >= v.commit_lsn, t.term
		FROM neon_safekeeper.timelines v JOIN neon_safekeeper.timeline t USING (tenant, timeline) WHERE timeline = '$timeline'});
	my $file_term = unpack 'x16 Q>', slurp($self->timeline_dir($node) . '/term');
	return { state => $r[0], problem => $r[1], wal => $r[2], term => $r[3], file_term => $file_term };
}

# ---- going back: nodes must be stopped or killed ----

sub save { my ($self, $node) = @_; $self->as_owner('cp', '-a', $self->data($node), $self->data($node) . '.saved'); }

sub restore
{
	my ($self, $node) = @_;
	my $data = $self->data($node);
	$self->as_owner('rm', '-rf', $data);
	$self->as_owner('cp', '-a', "$data.saved", $data);
	$self->as_owner("$self->{build}/shim_crash", '--snapshot', $data);
}

1;
