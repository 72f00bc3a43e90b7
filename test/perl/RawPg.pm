# RawPg.pm - a client that speaks the server's protocol byte by byte, so that tests can break it anywhere.
#
# Nothing is buffered that was not asked for: what the test sends leaves at once, what it does not read stays in the
# socket.  Every read has a time limit.
#
# SPDX-License-Identifier: Apache-2.0
package RawPg;
use strict;
use warnings;
use Digest::SHA qw(sha256 hmac_sha256);
use Carp;
use Errno qw(EAGAIN EWOULDBLOCK EINTR);
use IO::Select;
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64 decode_base64);
use Time::HiRes qw(time);

our $TIMEOUT = 30;

# host, port, user, password, dbname, plus any startup parameters in `startup`.  The handle's {error} says why it failed.
sub connect
{
	my ($class, %opt) = @_;
	my $self = bless { in => '', opt => {%opt} }, $class;
	$self->{sock} = IO::Socket::INET->new(PeerAddr => $opt{host} || '127.0.0.1', PeerPort => $opt{port}, Timeout => $TIMEOUT)
	  or return $self->failed("connect: $!");
	$self->{sock}->blocking(0);
	my %startup = (user => $opt{user}, database => $opt{dbname} || 'postgres', %{ $opt{startup} || {} });
	my $packet = pack('N', 196608) . join('', map { "$_\0$startup{$_}\0" } sort keys %startup) . "\0";
	$self->raw(pack('N', 4 + length $packet) . $packet);
	return $self if $opt{no_auth};
	$self->authenticate;
	return $self;
}

# A URI as bin/neon_local prints it, or a libpq connection string.
sub parse
{
	my ($text) = @_;
	return (user => $1, password => $2, host => $3, port => $4, dbname => $5) if $text =~ m{^postgres(?:ql)?://([^:]+):([^@]*)@([^:]+):(\d+)/(\w+)$};
	my %o = $text =~ /(\w+)\s*=\s*('[^']*'|\S+)/g;
	s/^'|'$//g for values %o;
	return %o;
}

sub failed
{
	my ($self, $why) = @_;
	$self->{error} = ref $why ? $why : { M => $why, C => 'local' };
	return $self;
}

# ---- authentication ----

sub hi
{
	my ($password, $salt, $n) = @_;
	my $u = my $out = hmac_sha256($salt . pack('N', 1), $password);
	for (2 .. $n)
	{
		$u = hmac_sha256($u, $password);
		$out ^= $u;
	}
	return $out;
}

sub authenticate
{
	my ($self) = @_;
	my ($nonce, $first_bare, $state) = (encode_base64(join('', map { chr int rand 256 } 1 .. 18), ''), undef, undef);
	while (1)
	{
		my ($type, $body) = $self->message;
		return $self->failed('the server closed the connection') if !defined $type;
		return $self->failed(error_fields($body)) if $type eq 'E';
		@$self{qw(pid key)} = unpack('NN', $body) if $type eq 'K';
		return if $type eq 'Z';
		next if $type ne 'R';
		my $code = unpack('N', $body);
		if ($code == 10)
		{
			$first_bare = "n=,r=$nonce";
			my $first = "n,,$first_bare";
			$self->send('p', "SCRAM-SHA-256\0" . pack('N', length $first) . $first);
		}
		elsif ($code == 11)
		{
			my $server_first = substr($body, 4);
			my %a = map { /^(\w)=(.*)$/ ? ($1, $2) : () } split /,/, $server_first;
			my $salted = hi($self->{opt}{password} // '', decode_base64($a{s}), $a{i});
			my $client_key = hmac_sha256('Client Key', $salted);
			my $without_proof = "c=biws,r=$a{r}";
			my $signature = hmac_sha256("$first_bare,$server_first,$without_proof", sha256($client_key));
			$self->send('p', "$without_proof,p=" . encode_base64($client_key ^ $signature, ''));
		}
		elsif ($code != 12 && $code != 0)
		{
			return $self->failed("authentication method $code");
		}
	}
}

# ---- bytes and messages ----

# Bytes as they are; false when the server has closed, or takes none for `timeout` seconds.
sub raw
{
	my ($self, $bytes, %opt) = @_;
	my $end = time + ($opt{timeout} // $TIMEOUT);
	local $SIG{PIPE} = 'IGNORE';
	$self->{sent} = 0;
	while (length $bytes)
	{
		my $n = syswrite($self->{sock}, $bytes);
		if (defined $n) { $self->{sent} += $n; substr($bytes, 0, $n, ''); next; }
		return 0 unless $! == EAGAIN || $! == EWOULDBLOCK || $! == EINTR;
		return 0 if time > $end;
		IO::Select->new($self->{sock})->can_write(0.1);
	}
	return 1;
}

sub framed { my ($type, $body) = @_; return $type . pack('N', 4 + length $body) . $body; }

sub send { my ($self, $type, $body) = @_; return $self->raw(framed($type, $body // '')); }

# CopyData, each with one payload
sub copy { my ($self, @payloads) = @_; return $self->raw(join '', map { framed('d', $_) } @payloads); }

# The next message: (type, body); () when the connection is closed; dies when nothing comes.
sub message
{
	my ($self, %opt) = @_;
	my $limit = $opt{timeout} // $TIMEOUT;
	my $end = time + $limit;
	while (1)
	{
		if (length $self->{in} >= 5)
		{
			my ($type, $len) = unpack('aN', $self->{in});
			if (length $self->{in} >= 1 + $len)
			{
				my $body = substr($self->{in}, 5, $len - 4);
				substr($self->{in}, 0, 1 + $len, '');
				next if $type eq 'N' || $type eq 'S';
				return ($type, $body);
			}
		}
		my $left = $end - time;
		if ($left <= 0 || !IO::Select->new($self->{sock})->can_read($left))
		{
			return ('timeout', '') if exists $opt{timeout};
			Carp::confess("nothing came within $limit s");
		}
		my $n = sysread($self->{sock}, $self->{in}, 1 << 18, length $self->{in});
		return () if (defined $n && $n == 0) || (!defined $n && $! != EAGAIN && $! != EWOULDBLOCK && $! != EINTR);
	}
}

sub error_fields
{
	my ($body) = @_;
	return { map { /^(.)(.*)$/s ? ($1, $2) : () } split /\0/, $body };
}

# Reads until ReadyForQuery or the end of the connection: rows, copy data, the last error.
sub finish
{
	my ($self) = @_;
	my %r = (rows => [], copy => [], open => 0);
	while (my ($type, $body) = $self->message)
	{
		$r{error} = error_fields($body) if $type eq 'E';
		push @{ $r{copy} }, $body if $type eq 'd';
		$r{copy_both} = 1 if $type eq 'W';
		$r{copy_done} = 1 if $type eq 'c';
		$r{tag} = $body =~ s/\0$//r if $type eq 'C';
		if ($type eq 'D')
		{
			my ($n, @row) = (unpack('n', $body));
			my $at = 2;
			for (1 .. $n)
			{
				my $len = unpack('l>', substr($body, $at, 4));
				push @row, $len < 0 ? undef : substr($body, $at + 4, $len);
				$at += 4 + ($len > 0 ? $len : 0);
			}
			push @{ $r{rows} }, \@row;
		}
		if ($type eq 'Z') { $r{open} = 1; last; }
	}
	return \%r;
}

sub query { my ($self, $sql) = @_; $self->send('Q', "$sql\0"); return $self->finish; }

# A statement that answers with CopyBoth: 1, or 0 with {error}.
sub copy_both
{
	my ($self, $sql) = @_;
	$self->send('Q', "$sql\0");
	my ($type, $body) = $self->message;
	return 1 if defined $type && $type eq 'W';
	$self->{error} = defined $type && $type eq 'E' ? error_fields($body) : { M => 'no CopyBoth', C => 'local' };
	$self->finish if defined $type;
	return 0;
}

sub cancel
{
	my ($self) = @_;
	my $s = IO::Socket::INET->new(PeerAddr => $self->{opt}{host} || '127.0.0.1', PeerPort => $self->{opt}{port}) or die "cancel: $!";
	syswrite($s, pack('NNNN', 16, 80877102, $self->{pid}, $self->{key}));
	sysread($s, my $end, 1);
}

# Is the connection still there, as far as one can see without sending?
sub close { my ($self) = @_; close $self->{sock}; }

1;
