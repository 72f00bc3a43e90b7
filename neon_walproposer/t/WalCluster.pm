# WalCluster.pm - three safekeepers and stock data directories that run as computes, for the tests of neon_walproposer.
#
# SPDX-License-Identifier: Apache-2.0
package WalCluster;

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IPC::Run;
use Test::More;

our $TENANT = '0123456789abcdef0123456789abcdef';
our $TIMELINE = 'fedcba9876543210fedcba9876543210';

# n safekeepers, running, with the extension
sub new
{
	my ($class, $n) = @_;
	my $self = bless { safekeepers => [] }, $class;

	for my $id (1 .. $n)
	{
		my $node = PostgreSQL::Test::Cluster->new("safekeeper_$id");
		$node->init;
		$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'neon_safekeeper'
neon_safekeeper.node_id = $id
neon_safekeeper.disk_reserve = 0
fsync = on
full_page_writes = on
max_connections = 30
wal_level = replica
max_wal_senders = 10
});
		$node->start;
		$node->safe_psql('postgres', 'CREATE EXTENSION neon_safekeeper');
		$node->safe_psql('postgres', "SELECT neon_safekeeper.create_tenant('$TENANT', 'secret')");
		push @{ $self->{safekeepers} }, $node;
	}
	return $self;
}

sub safekeeper { my ($self, $id) = @_; return $self->{safekeepers}[ $id - 1 ]; }

# id=connstring;... as the tenant's role: what a compute is given
sub list
{
	my ($self) = @_;
	my $id = 0;
	return join(';', map { $id++; "$id=" . $_->connstr('postgres') . " user=neon_t_$TENANT" } @{ $self->{safekeepers} });
}

sub control_value
{
	my ($dir, $name) = @_;
	my ($out) = run_command([ 'pg_controldata', $dir ]);
	return $out =~ /^\Q$name\E:\s+(\S+)/m ? $1 : die "no $name in pg_controldata";
}

# End of the WAL of a stopped data directory: where pg_waldump finds no further record.
sub end_of_wal
{
	my ($dir) = @_;
	my $start = control_value($dir, 'Latest checkpoint location');
	my ($out, $err) = run_command([ 'pg_waldump', '-p', "$dir/pg_wal", '-s', $start ]);
	return $err =~ m{.* at ([0-9A-F]+/[0-9A-F]+)} ? $1 : die "no end of WAL: $err";
}

# A stopped stock server, and its timeline on the safekeepers, which begins where its WAL ends.
sub prepare_compute
{
	my ($self, $name, %args) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	# as a compute has them; a change later would be logged in WAL when it starts
	my $conf = $args{conf} // '';
	$node->init(allows_streaming => 'logical');
	$node->append_conf('postgresql.conf', "wal_log_hints = off\nautovacuum = off\n$conf\n");
	$node->start;
	$node->safe_psql('postgres', $args{sql}) if $args{sql};
	$node->stop('fast');
	$self->{start_lsn} = end_of_wal($node->data_dir);
	$self->{system_id} = control_value($node->data_dir, 'Database system identifier');
	my $members = join(',', 1 .. scalar @{ $self->{safekeepers} });
	$_->safe_psql('postgres', "SELECT neon_safekeeper.create_timeline('$TENANT', '$TIMELINE', '$self->{start_lsn}', '$self->{system_id}', 16777216, '$members')")
	  for @{ $self->{safekeepers} };
	$self->configure($node);
	return $node;
}

# Another stopped server with the same content, as a second compute started from the same base backup.
sub copy_compute
{
	my ($self, $from, $name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$from->backup_fs_cold("for_$name");
	$node->init_from_backup($from, "for_$name");
	$self->configure($node);
	return $node;
}

sub configure
{
	my ($self, $node) = @_;
	my $list = $self->list;
	$list =~ s/'/''/g;
	$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'neon_walproposer'
neon.tenant_id = '$TENANT'
neon.timeline_id = '$TIMELINE'
neon.safekeepers = '$list'
neon.start_lsn = '$self->{start_lsn}'
neon.drain_timeout = '3s'
restart_after_crash = off
});
	return;
}

# psql in the background
sub start_query
{
	my ($node, @sql) = @_;
	my $q = { out => '', err => '' };
	$q->{harness} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'VERBOSITY=terse', '-d', $node->connstr('postgres'), map { ('-c', $_) } @sql ],
		'<', \undef, '>', \$q->{out}, '2>', \$q->{err},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return $q;
}

sub finish_query
{
	my ($q) = @_;
	$q->{harness}->finish;
	return $q->{harness}->result(0) == 0;
}

# A backend waits for the quorum while it runs a statement like this.
sub wait_for_waiter
{
	my ($node, $like) = @_;
	return $node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'IPC' AND wait_event = 'SyncRep' AND query LIKE '$like'");
}

sub timeline_value
{
	my ($self, $id, $column) = @_;
	return $self->safekeeper($id)->safe_psql('postgres',
		"SELECT $column FROM neon_safekeeper.timelines WHERE tenant = '$TENANT' AND timeline = '$TIMELINE'");
}

# The log of a safekeeper has reached the LSN, durably.
sub wait_for_flush
{
	my ($self, $id, $lsn) = @_;
	return $self->safekeeper($id)->poll_query_until('postgres',
		"SELECT flush_lsn >= '$lsn' FROM neon_safekeeper.timelines WHERE tenant = '$TENANT' AND timeline = '$TIMELINE'");
}

# A compute that stops by itself: wait until its postmaster is gone.
sub wait_until_gone
{
	my ($node) = @_;
	my $pidfile = $node->data_dir . '/postmaster.pid';
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		if (!-e $pidfile)
		{
			$node->{_pid} = undef;	# the node must not think it runs
			return 1;
		}
		select(undef, undef, undef, 0.1);
	}
	return 0;
}

1;
