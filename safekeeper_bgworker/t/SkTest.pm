# SkTest.pm - what the safekeeper's tests share: a donor of real WAL, a safekeeper, a scripted proposer.
# SPDX-License-Identifier: Apache-2.0
package SkTest;

use strict;
use warnings;
use Exporter 'import';
use FindBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw($TENANT $TIMELINE $SEGMENT new_donor new_safekeeper create_timeline proposer proposer_start
  proposer_say proposer_end state lsn_number record_bounds crash_and_start);

our $TENANT = 'aaaaaaaabbbbbbbbccccccccdddddddd';
our $TIMELINE = '00000000111111112222222233333333';
our $SEGMENT = 16 * 1024 * 1024;
my $client = "$FindBin::Bin/../test/sk_client";

# A stock server whose pg_wal is where WAL comes from.
sub new_donor
{
	my $donor = PostgreSQL::Test::Cluster->new('donor');
	$donor->init(allows_streaming => 1);
	$donor->append_conf('postgresql.conf', "wal_keep_size = 1GB\nautovacuum = off\n");
	$donor->start;
	$donor->safe_psql('postgres', 'CREATE EXTENSION pg_walinspect; CREATE TABLE t (a int, b text); SELECT pg_switch_wal(); CHECKPOINT');
	return $donor;
}

sub new_safekeeper
{
	my ($name, $id) = @_;
	my $sk = PostgreSQL::Test::Cluster->new($name);
	$sk->init(allows_streaming => 1);
	$sk->append_conf('postgresql.conf', <<EOC);
shared_preload_libraries = 'neon_safekeeper'
neon_safekeeper.node_id = $id
fsync = on
full_page_writes = on
synchronous_commit = on
max_wal_senders = 10
authentication_timeout = 1s
neon_safekeeper.checkpoint_interval = 1s
wal_level = replica
EOC
	$sk->start;
	$sk->safe_psql('postgres', 'CREATE EXTENSION neon_safekeeper');
	return $sk;
}

sub create_timeline
{
	my ($sk, $donor, $start) = @_;
	my $system_id = $donor->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()');
	$sk->safe_psql('postgres',
		"SELECT neon_safekeeper.create_tenant('$TENANT', 'secret');"
		  . "SELECT neon_safekeeper.create_timeline('$TENANT', '$TIMELINE', '$start', '$system_id', $SEGMENT, '1,2,3')");
	return $system_id;
}

# Ends of the donor's records after an LSN, in order.
sub record_bounds
{
	my ($donor, $from) = @_;
	return split /\n/,
	  $donor->safe_psql('postgres',
		"SELECT end_lsn FROM pg_get_wal_records_info_till_end_of_wal('$from') ORDER BY end_lsn");
}

sub lsn_number
{
	my ($hi, $lo) = split m{/}, $_[0];
	return hex($hi) * 4294967296 + hex($lo);
}

sub client_command
{
	my ($sk, $donor, %opt) = @_;
	my $user = $opt{user} // "neon_t_$TENANT";
	return [
		$client, $sk->connstr('postgres') . " user=$user",
		$opt{tenant} // $TENANT, $opt{timeline} // $TIMELINE,
		$SEGMENT, 0, $donor->data_dir . '/pg_wal'
	];
}

# Run a script to its end; the lines of answers.
sub proposer
{
	my ($sk, $donor, $script, %opt) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run(client_command($sk, $donor, %opt), '<', \"$script\n", '>', \$out, '2>', \$err,
		IPC::Run::timeout(120));
	note "proposer: $out$err";
	return split /\n/, $out;
}

sub proposer_start
{
	my ($sk, $donor) = @_;
	my %p = (in => '', out => '', err => '');
	$p{h} = IPC::Run::start(client_command($sk, $donor), '<', \$p{in}, '>', \$p{out}, '2>', \$p{err},
		IPC::Run::timeout(120));
	$p{h}->pump until $p{out} =~ /streaming\n/;
	return \%p;
}

# One command that has an answer.
sub proposer_say
{
	my ($p, $line) = @_;
	$p->{out} = '';
	$p->{in} .= "$line\n";
	$p->{h}->pump until $p->{out} =~ /\n/;
	chomp(my $answer = $p->{out});
	note "$line -> $answer";
	return $answer;
}

sub proposer_end
{
	my ($p) = @_;
	$p->{h}->finish;
}

sub state
{
	my ($sk, $columns) = @_;
	return $sk->safe_psql('postgres',
		"SELECT $columns FROM neon_safekeeper.timelines WHERE timeline = '$TIMELINE'");
}

# kill -9 of the postmaster; its children notice and go; then start.
sub crash_and_start
{
	my ($sk) = @_;
	my $pid = $sk->{_pid};
	$sk->kill9;
	for (1 .. 600)
	{
		last unless kill 0, $pid;
		usleep(100_000);
	}
	for (1 .. 100)
	{
		return if $sk->start(fail_ok => 1);
		usleep(100_000);
	}
	die 'the safekeeper did not start again';
}

1;
