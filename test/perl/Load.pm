# Load.pm - clients whose every answer is checked: each notes how far it is, and what went wrong.
#
# A client is a process.  What is wrong is an answer that cannot be, or an error that is not the loss of the connection; where
# the server is not expected to stop, also the loss is.
#
# SPDX-License-Identifier: Apache-2.0
package Load;
use strict;
use warnings;
use DBI;
use POSIX ();
use Time::HiRes qw(sleep time);

my $ACCOUNTS = 6000;
my $TAGS = 3000;

# dir, dsn; lost_is_wrong: the loss of a connection counts as an error
sub new
{
	my ($class, %a) = @_;
	my $self = bless { %a, pids => [], owner => $$ }, $class;
	mkdir $self->{dir};
	return $self;
}

sub setup
{
	my ($self, $cluster) = @_;
	$cluster->sql('main', qq{
		CREATE TABLE account (id int PRIMARY KEY, v int NOT NULL, pad text);
		INSERT INTO account SELECT i, 100, repeat('a', 300) FROM generate_series(1, $ACCOUNTS) i;
		CREATE TABLE tag (id int PRIMARY KEY, words text[], place point, h int);
		INSERT INTO tag SELECT i, ARRAY['w' || i % 100, 'x' || i % 7], point(i, i), i FROM generate_series(1, $TAGS) i;
		-- kinds of records that only the redo process knows
		CREATE INDEX ON tag USING gin (words);
		CREATE INDEX ON tag USING gist (place);
		CREATE INDEX ON tag USING hash (h);
		CREATE INDEX ON tag USING brin (id);
	});
	return;
}

sub total { return $ACCOUNTS . '|' . 100 * $ACCOUNTS; }

my %client = (
	reader => sub {
		my ($dbh) = @_;
		my ($n, $sum) = $dbh->selectrow_array('SELECT count(*), sum(v) FROM account');
		return "$n|$sum" eq total() ? '' : "account: $n, $sum";
	},
	updater => sub {
		my ($dbh) = @_;
		my ($a, $b) = sort { $a <=> $b } map { 1 + int rand $ACCOUNTS } 1 .. 2;
		$dbh->begin_work;
		$dbh->do('UPDATE account SET v = v - 1 WHERE id = ?', undef, $a);
		$dbh->do('UPDATE account SET v = v + 1 WHERE id = ?', undef, $b);
		$dbh->commit;
		return '';
	},
	tagger => sub {
		my ($dbh) = @_;
		my $i = 1 + int rand $TAGS;
		$dbh->do(qq{UPDATE tag SET words = words || ('y' || (random() * 50)::int), place = point(id, random()), h = h + $TAGS WHERE id = ?}, undef, $i);
		$dbh->do('SET enable_seqscan = off');
		my ($n) = $dbh->selectrow_array(q{SELECT count(*) FROM tag WHERE words @> ARRAY['w7']});
		my ($m) = $dbh->selectrow_array(qq{SELECT count(*) FROM tag WHERE h % $TAGS = 7 AND h = ANY (ARRAY(SELECT 7 + $TAGS * g FROM generate_series(0, 50) g))});
		return $n == $TAGS / 100 && $m == 1 ? '' : "tag: $n, $m";
	},
	# relations that come and go, in this session's own table
	churner => sub {
		my ($dbh) = @_;
		my $rows = 100 + int rand 3000;
		my $t = "churn$$";
		$dbh->do("CREATE TABLE IF NOT EXISTS $t (i int, s text)");
		$dbh->do("INSERT INTO $t SELECT g, repeat('c', 100) FROM generate_series(1, $rows) g");
		$dbh->do("CREATE INDEX ON $t (i)");
		my ($n) = $dbh->selectrow_array("SELECT count(*) FROM $t");
		return "$t: $n rows, not $rows" if $n < $rows;
		$dbh->do("DELETE FROM $t WHERE i % 3 = 0");
		$dbh->do("VACUUM $t");
		$dbh->do("TRUNCATE $t");
		($n) = $dbh->selectrow_array("SELECT count(*) FROM $t");
		return "$t: $n rows after TRUNCATE" if $n != 0;
		$dbh->begin_work;
		$dbh->do("INSERT INTO $t VALUES (1)");
		$dbh->rollback;
		($n) = $dbh->selectrow_array("SELECT count(*) FROM $t");
		return "$t: $n rows after a rollback" if $n != 0;
		$dbh->do("DROP TABLE $t");
		return '';
	});

sub names { my ($self) = @_; return @{ $self->{clients} // [ qw(reader updater tagger) ] }; }

sub count_of { my ($f) = @_; open my $h, '<', $f or return 0; local $/; my $n = <$h>; return $n || 0; }

sub note_error
{
	my ($self, $name, $text) = @_;
	open my $f, '>>', "$self->{dir}/errors" or return;
	print $f "$name: $text\n";
	close $f;
	return;
}

# What has gone wrong since the last call.
sub errors
{
	my ($self) = @_;
	rename "$self->{dir}/errors", "$self->{dir}/errors.read" or return '';
	open my $f, '<', "$self->{dir}/errors.read" or return '';
	local $/;
	return scalar <$f>;
}

sub is_loss
{
	my ($state) = @_;
	return $state =~ /^(08|57P0|$|00000|22000|S8006|S1000)/;
}

sub run_client
{
	my ($self, $name) = @_;
	my $parent = $self->{owner};
	my $file = "$self->{dir}/n-$name";
	my $n = count_of($file);
	srand($$ ^ time);
	$SIG{TERM} = sub { POSIX::_exit(0) };
	while (getppid() == $parent)
	{
		my $dbh = eval { DBI->connect(@{ $self->{dsn} }, { RaiseError => 1, PrintError => 0, PrintWarn => 0, Warn => 0, AutoCommit => 1 }) };
		if (!$dbh)
		{
			$self->note_error($name, "connect: $DBI::errstr") if $self->{lost_is_wrong};
			sleep 0.1;
			next;
		}
		eval {
			while (getppid() == $parent)
			{
				my $wrong = $client{$name}->($dbh);
				$self->note_error($name, "wrong answer: $wrong") if $wrong;
				open my $f, '>', "$file.new" or die;
				print $f ++$n;
				close $f;
				rename "$file.new", $file;
			}
		};
		if (my $error = $@)
		{
			my $state = $dbh->state // '';
			$self->note_error($name, "[$state] $error") if $self->{lost_is_wrong} || (!is_loss($state) && $error !~ /connection|server closed/);
		}
		sleep 0.1;
	}
	return;
}

sub start
{
	my ($self) = @_;
	for my $name ($self->names)
	{
		my $pid = fork() // die "fork: $!";
		if (!$pid) { $self->run_client($name); POSIX::_exit(0); }
		push @{ $self->{pids} }, $pid;
	}
	return;
}

# Those that wait inside libpq for a server do not listen to TERM.
sub stop
{
	my ($self) = @_;
	my @left = @{ $self->{pids} };
	my $end = time + 5;
	kill 'TERM', @left;
	while (@left && time < $end) { @left = grep { waitpid($_, POSIX::WNOHANG()) == 0 } @left; sleep 0.05; }
	kill 'KILL', @left;
	waitpid $_, 0 for @left;
	$self->{pids} = [];
	return;
}

sub progress { my ($self) = @_; return map { count_of("$self->{dir}/n-$_") } $self->names; }

# Every client has finished something that it began after the call.
sub all_go_on
{
	my ($self, $cluster, $limit_s) = @_;
	my @before = $self->progress;
	return $cluster->poll('every client goes on', $limit_s // 90, sub { my @now = $self->progress; !grep { $now[$_] < $before[$_] + 2 } 0 .. $#now });
}

sub DESTROY { my ($self) = @_; local ($?, $@); kill 'KILL', @{ $self->{pids} } if $self->{owner} == $$ && @{ $self->{pids} }; }

1;
