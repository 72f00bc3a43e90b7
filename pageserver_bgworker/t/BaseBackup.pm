# Takes a base backup the way a compute does: CALL, then CopyBoth, over a plain protocol-3 connection with trust.
# SPDX-License-Identifier: Apache-2.0
package BaseBackup;

use strict;
use warnings;

use IO::Socket::UNIX;

sub read_bytes
{
	my ($sock, $n) = @_;
	my $buf = '';
	while (length($buf) < $n)
	{
		my $got = sysread($sock, $buf, $n - length($buf), length($buf));
		die "server closed the connection" unless $got;
	}
	return $buf;
}

sub read_message
{
	my ($sock) = @_;
	my ($type, $len) = unpack('a N', read_bytes($sock, 5));
	return ($type, $len > 4 ? read_bytes($sock, $len - 4) : '');
}

# Fields of an ErrorResponse.
sub error_text
{
	my ($body) = @_;
	my %f = map { substr($_, 0, 1) => substr($_, 1) } grep { length } split(/\0/, $body);
	return "$f{C}: $f{M}";
}

# Writes the archive to $file; returns undef, or the error's SQLSTATE and text.
sub take
{
	my ($node, $user, $tenant, $timeline, $lsn, $prev_lsn, $file) = @_;
	my $sock = IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port) or die "connect: $!";
	my $startup = pack('N', 3 << 16) . "user\0$user\0database\0postgres\0\0";
	syswrite($sock, pack('N', length($startup) + 4) . $startup);
	while (1)
	{
		my ($type, $body) = read_message($sock);
		return error_text($body) if $type eq 'E';
		last if $type eq 'Z';
	}
	my $query = "CALL neon_pageserver.basebackup('$tenant', '$timeline', '$lsn', '$prev_lsn')\0";
	syswrite($sock, 'Q' . pack('N', length($query) + 4) . $query);
	open(my $out, '>:raw', $file) or die "$file: $!";
	while (1)
	{
		my ($type, $body) = read_message($sock);
		if ($type eq 'E') { close($out); return error_text($body); }
		if ($type eq 'd') { print $out $body; }
		elsif ($type eq 'c') { syswrite($sock, 'c' . pack('N', 4)); }
		elsif ($type eq 'Z') { last; }
	}
	close($out);
	return undef;
}

1;
