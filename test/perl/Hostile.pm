# Hostile.pm - what the hostile tests share: connections as a tenant, and what is demanded after every bad input.
#
# Every input has to end in an error with a code and an explanation, in one line of the node's log, and the node's
# processes have to go on.
#
# SPDX-License-Identifier: Apache-2.0
package Hostile;
use strict;
use warnings;
use Exporter 'import';
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use RawPg;
use Socket qw(MSG_PEEK);
use Test::More;

our @EXPORT = qw(fake_server proxy stop_proxy log_text node_as refused lines_of crashes max_lsn lsn_number lsn_text page_request page_answer);

# A raw connection to a node.  as => 'admin', or [ tenant id, password ]; more: startup, no_auth.
sub node_as
{
	my ($c, $node, $as, %more) = @_;
	my %uri = RawPg::parse($c->node_uri($node));
	@uri{ 'user', 'password' } = ("neon_t_$as->[0]", $as->[1]) if ref $as;
	return RawPg->connect(%uri, %more);
}

sub log_text
{
	my ($c, $node) = @_;
	my $file = "$c->{dir}/logs/$node.log";
	$file = (glob "$c->{dir}/computes/*-$node/compute.log")[0] unless -f $file;
	open my $f, '<:raw', $file or die "$file: $!";
	local $/;
	return scalar <$f>;
}

# Lines that a process logged, without the details that follow a line.
sub lines_of
{
	my ($c, $node, $pid) = @_;
	return grep { /^\S+ \S+ \S+ \[$pid\] .*?(?:LOG|WARNING|ERROR|FATAL|PANIC):  / } split /\n/, log_text($c, $node);
}

# What must never happen.
sub crashes
{
	my ($c, @nodes) = @_;
	my @bad;
	for my $node (@nodes)
	{
		push @bad, map { "$node: $_" } grep { /was terminated by signal|PANIC:|TRAP:|terminating any other active server processes|database system was interrupted/ }
		  split /\n/, log_text($c, $node);
	}
	return join "\n", @bad;
}

# $error (as RawPg has it) is of this SQLSTATE, says what and why; with pid: one line was logged for it.
sub refused
{
	my ($c, $error, $name, $code, $message, %opt) = @_;
	my @wrong;
	if (!$error) { push @wrong, 'no error'; }
	else
	{
		push @wrong, "SQLSTATE $error->{C}" if $error->{C} ne $code;
		push @wrong, 'message' if ($error->{M} // '') !~ $message;
		push @wrong, 'neither detail nor hint' if !$opt{bare} && !$error->{D} && !$error->{H};
		push @wrong, 'hint' if $opt{hint} && ($error->{H} // '') !~ $opt{hint};
		push @wrong, 'detail' if $opt{detail} && ($error->{D} // '') !~ $opt{detail};
	}
	if ($opt{pid})
	{
		my $n = () = lines_of($c, $opt{node}, $opt{pid});
		push @wrong, "$n lines in the log" if $n != ($opt{lines} // 1);
	}
	ok(!@wrong, $name) or diag("@wrong: " . ($error ? join(' | ', map { "$_=$error->{$_}" } grep { defined $error->{$_} } qw(S C M D H)) : ''));
}

# A proxy in front of a port: after `cut` bytes from the server both sides are closed; one bit of the byte at `flip` is changed.
# Returns its port and pid; the number of bytes that passed in a whole connection is in the file `count`.
sub proxy
{
	my ($to_port, %opt) = @_;
	my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 5, ReuseAddr => 1) or die "proxy: $!";
	my $port = $listen->sockport;
	my $pid = fork // die "fork: $!";
	return ($port, $pid) if $pid;
	$SIG{PIPE} = 'IGNORE';
	$SIG{TERM} = sub { POSIX::_exit(0) };
	while (my $client = $listen->accept)
	{
		relay($client, $to_port, %opt);
		CORE::close($client);
	}
	POSIX::_exit(0);
}

sub relay
{
	my ($client, $to_port, %opt) = @_;
	my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $to_port) or return;
	my $both = IO::Select->new($client, $server);
	my $passed = 0;
	while (1)
	{
		for my $from ($both->can_read)
		{
			my $n = sysread($from, my $bytes, 65536);
			next if !$n;
			if ($from == $server)
			{
				substr($bytes, $opt{flip} - $passed, 1) ^= chr(1 << int rand 8)
				  if defined $opt{flip} && $opt{flip} >= $passed && $opt{flip} < $passed + $n;
				if (defined $opt{cut} && $passed + $n >= $opt{cut})
				{
					syswrite($client, substr($bytes, 0, $opt{cut} - $passed)) if $opt{cut} > $passed;
					return;
				}
				$passed += $n;
			}
			my $to = $from == $server ? $client : $server;
			while (length $bytes)
			{
				my $w = syswrite($to, $bytes) or return;
				substr($bytes, 0, $w, '');
			}
		}
		continue_or_end($both) or last;
	}
	if ($opt{count} && open my $f, '>', $opt{count}) { print $f $passed; CORE::close($f); }
}

# Has either side closed?
sub continue_or_end
{
	my ($both) = @_;
	for my $s ($both->can_read(0))
	{
		my $n = recv($s, my $peek, 1, MSG_PEEK);
		return 0 if !defined $n || !length $peek;
	}
	return 1;
}

# A server that lets everybody in and gives each query to `handler`->(socket, query); returns its port and pid.
sub fake_server
{
	my ($handler) = @_;
	my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 20, ReuseAddr => 1) or die "fake server: $!";
	my $port = $listen->sockport;
	my $pid = fork // die "fork: $!";
	return ($port, $pid) if $pid;
	@SIG{ 'PIPE', 'CHLD' } = ('IGNORE') x 2;
	$SIG{TERM} = sub { kill 'TERM', -$$; POSIX::_exit(0) };
	POSIX::setpgid(0, 0);
	while (my $s = $listen->accept)
	{
		my $child = fork;
		if (defined $child && $child == 0)
		{
			$SIG{TERM} = 'DEFAULT';
			eval { let_in($s); while (my ($type, $body) = read_message($s)) { $handler->($s, $body =~ s/\0$//r) if $type eq 'Q'; } };
			POSIX::_exit(0);
		}
		CORE::close($s);
	}
	POSIX::_exit(0);
}

sub read_exactly
{
	my ($s, $n) = @_;
	my $buf = '';
	while (length $buf < $n) { sysread($s, $buf, $n - length $buf, length $buf) or die 'closed'; }
	return $buf;
}

sub read_message
{
	my ($s) = @_;
	my ($type, $len) = unpack('aN', read_exactly($s, 5));
	return ($type, read_exactly($s, $len - 4));
}

sub let_in
{
	my ($s) = @_;
	while (1)
	{
		my $packet = read_exactly($s, unpack('N', read_exactly($s, 4)) - 4);
		my $code = unpack('N', $packet);
		last if $code == 196608;
		POSIX::_exit(0) if $code == 80877102;
		syswrite($s, 'N');
	}
	syswrite($s, RawPg::framed('R', pack('N', 0)) . RawPg::framed('K', pack('NN', 1, 1)) . RawPg::framed('Z', 'I'));
}

sub stop_proxy { my ($pid) = @_; kill 'TERM', $pid; waitpid($pid, 0); }

sub max_lsn { return 18446744073709551615; }
sub lsn_number { my ($hi, $lo) = split m{/}, $_[0]; return hex($hi) * 4294967296 + hex($lo); }
sub lsn_text { return sprintf '%X/%X', $_[0] >> 32, $_[0] & 0xffffffff; }

# 42 bytes; see libs/pagestream/neon_pagestream.h
sub page_request
{
	my (%r) = @_;
	return pack('C Q> Q> Q> N N N C N', $r{tag} // 2, $r{id} // 1, $r{lsn} // max_lsn, $r{since} // 1,
		$r{spc} // 1663, $r{db} // 1, $r{rel} // 1259, $r{fork} // 0, $r{blk} // 0);
}

# A CopyData of the server: tag, request id, and the payload or an error as RawPg has it.
sub page_answer
{
	my ($body) = @_;
	my ($tag, $request) = unpack('C a42', $body);
	my %a = (tag => $tag, request => $request, id => unpack('x Q>', $request), payload => substr($body, 43));
	if ($tag == 103)
	{
		my ($message, $detail, $hint) = split /\0/, substr($a{payload}, 5);
		$a{error} = { C => substr($a{payload}, 0, 5), M => $message, D => $detail, H => $hint };
	}
	return \%a;
}

1;
