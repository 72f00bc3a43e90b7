# Hosts.pm - hosts for a test: network namespaces on one switch, each with an address of its own, whose cables can be pulled.
#
# A namespace lives as long as the process that holds it; nothing is left behind when that is ended.
#
# SPDX-License-Identifier: Apache-2.0
package Hosts;
use strict;
use warnings;
use IPC::Run qw(run timeout);
use Time::HiRes qw(sleep);

my $net = '10.77.0';

# Can namespaces be made here?
sub possible { return $> == 0 && system('unshare -n true 2>/dev/null') == 0 && system('unshare -n ip link add name sw0 type bridge 2>/dev/null') == 0; }

sub holder
{
	my $own = readlink '/proc/self/ns/net';
	my $pid = fork // die "fork: $!";
	if ($pid == 0) { close STDIN; close STDOUT; exec 'unshare', '-n', 'sleep', '7200' or POSIX::_exit(127); }
	for (1 .. 600)
	{
		my $ns = readlink "/proc/$pid/ns/net";
		return $pid if defined $ns && $ns ne $own;
		sleep 0.05;
	}
	die 'no namespace';
}

sub new
{
	my ($class, @names) = @_;
	my $self = bless { owner => $$, switch => holder() }, $class;
	$self->in('switch', 'ip', 'link', 'add', 'name', 'sw0', 'type', 'bridge');
	$self->in('switch', 'ip', 'link', 'set', 'sw0', 'up');
	my $n = 0;
	for my $name (@names)
	{
		$n++;
		my $pid = $self->{host}{$name} = holder();
		$self->{address}{$name} = "$net.$n";
		$self->{port}{$name} = "port$n";
		$self->in('switch', 'ip', 'link', 'add', 'name', "port$n", 'type', 'veth', 'peer', 'name', 'eth0', 'netns', $pid);
		$self->in('switch', 'ip', 'link', 'set', "port$n", 'master', 'sw0', 'up');
		$self->in($name, @$_) for [ 'ip', 'link', 'set', 'lo', 'up' ], [ 'ip', 'addr', 'add', "$net.$n/24", 'dev', 'eth0' ], [ 'ip', 'link', 'set', 'eth0', 'up' ];
	}
	return $self;
}

sub address { my ($self, $name) = @_; return $self->{address}{$name}; }
# what goes in front of a command to run it on a host
sub within { my ($self, $name) = @_; return ('nsenter', '-t', $name eq 'switch' ? $self->{switch} : $self->{host}{$name}, '-n', '--'); }

sub in
{
	my ($self, $name, @command) = @_;
	my ($out, $err) = ('', '');
	run [ $self->within($name), @command ], '<', '/dev/null', '>', \$out, '2>', \$err, timeout(300) or die "@command on $name: $err";
	return $out;
}

# Nothing comes or goes; neither side is told.
sub cut { my ($self, @names) = @_; $self->in('switch', 'ip', 'link', 'set', $self->{port}{$_}, 'nomaster') for @names; return; }
sub heal { my ($self, @names) = @_; $self->in('switch', 'ip', 'link', 'set', $self->{port}{$_}, 'master', 'sw0') for @names; return; }

sub DESTROY
{
	my ($self) = @_;
	return if $self->{owner} != $$;
	local ($?, $@);
	kill 'KILL', $_ for $self->{switch}, values %{ $self->{host} || {} };
	waitpid $_, 0 for $self->{switch}, values %{ $self->{host} || {} };
}

1;
