# Ledger.pm - what was acknowledged, remembered outside the database.
#
# Each writer is a process of its own that inserts (writer, seq) in autocommit and appends seq to its file only after the
# server has said that the commit is done.  check() then finds every seq of every file in the database.
# With several servers (dsns) the writers are spread over them; check() asks the one it is told of.
# A statement whose answer was lost may or may not be there; its seq is never used again.
#
# SPDX-License-Identifier: Apache-2.0
package Ledger;
use strict;
use warnings;
use DBI;
use IO::Handle;
use POSIX ();
use Time::HiRes qw(sleep);

sub new
{
	my ($class, %a) = @_;
	my $self = bless { dir => $a{dir}, writers => $a{writers} || 4, dsn => $a{dsn}, dsns => $a{dsns}, pids => [] }, $class;
	mkdir $self->{dir};
	return $self;
}

sub dsn_of_uri
{
	my ($uri) = @_;
	my ($user, $pw, $host, $port, $db) = $uri =~ m{^postgresql://([^:]+):([^@]+)@([^:]+):(\d+)/(.+)$} or die $uri;
	return ("dbi:Pg:host=$host;port=$port;dbname=$db;connect_timeout=5", $user, $pw);
}

sub setup
{
	my ($self, $cluster) = @_;
	$cluster->sql('main', 'CREATE TABLE IF NOT EXISTS ledger (w int, seq int, pad text, PRIMARY KEY (w, seq))');
}

sub start
{
	my ($self) = @_;
	for my $w (1 .. $self->{writers})
	{
		my $pid = fork();
		die "fork: $!" unless defined $pid;
		if ($pid == 0) { $self->writer($w); POSIX::_exit(0); }
		push @{ $self->{pids} }, $pid;
	}
}

sub writer
{
	my ($self, $w) = @_;
	my $stop = 0;
	$SIG{TERM} = sub { POSIX::_exit(0) };
	open my $f, '>>', "$self->{dir}/w$w" or die $!;
	$f->autoflush(1);
	my $seq = $self->{base}{$w} // 0;
	if (open my $n, '<', "$self->{dir}/next$w") { $seq = <$n>; close $n; }
	my $parent = getppid();
	my @dsn = $self->{dsns} ? @{ $self->{dsns}[ $w % @{ $self->{dsns} } ] } : @{ $self->{dsn} };
	while (getppid() == $parent)
	{
		my $dbh = eval { DBI->connect(@dsn, { RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1 }) };
		if (!$dbh) { sleep 0.05; next; }
		eval {
			while (getppid() == $parent)
			{
				$seq++;
				# the number is burnt before it is used: an unknown outcome is never retried
				open my $o, '>', "$self->{dir}/next$w.new" or die; print $o $seq; close $o;
				rename "$self->{dir}/next$w.new", "$self->{dir}/next$w" or die;
				$dbh->do('INSERT INTO ledger VALUES (?, ?, ?)', undef, $w, $seq, 'x' x (10 + $seq % 300));
				print $f "$seq\n";
			}
		};
		eval { $dbh->disconnect };
	}
}

sub stop
{
	my ($self) = @_;
	kill 'TERM', @{ $self->{pids} };
	waitpid $_, 0 for @{ $self->{pids} };
	$self->{pids} = [];
}

# (acknowledged, missing)
sub check
{
	my ($self, $dsn) = @_;
	my $dbh = DBI->connect(@{ $dsn // $self->{dsn} }, { RaiseError => 1, PrintError => 0, PrintWarn => 0 });
	my (@acked, @missing);
	# the files first: writers may go on meanwhile
	for my $w (1 .. $self->{writers})
	{
		open my $f, '<', "$self->{dir}/w$w" or next;
		push @acked, map { chomp; [ $w, $_ ] } grep { /\n/ } <$f>;
	}
	for my $w (1 .. $self->{writers})
	{
		my %have = map { $_ => 1 } @{ $dbh->selectcol_arrayref('SELECT seq FROM ledger WHERE w = ?', undef, $w) };
		push @missing, map { "$w:$_->[1]" } grep { $_->[0] == $w && !$have{ $_->[1] } } @acked;
	}
	$dbh->disconnect;
	return (scalar(@acked), \@missing);
}

sub DESTROY { my ($self) = @_; local ($?, $@); kill 'KILL', @{ $self->{pids} } if @{ $self->{pids} || [] }; }

1;
