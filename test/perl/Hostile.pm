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
use RawPg;
use Test::More;

our @EXPORT = qw(node_as refused lines_of crashes max_lsn lsn_number lsn_text page_request page_answer);

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
