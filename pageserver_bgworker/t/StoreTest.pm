# StoreTest.pm - a pageserver node with the test functions of store_test, for the TAP tests of the store.
# SPDX-License-Identifier: Apache-2.0
package StoreTest;

use strict;
use warnings;
use Exporter 'import';
use FindBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(new_pageserver tenant timeline stream poll_true kill_all);

my $store_test = "$FindBin::RealBin/../store_test";

sub tenant { return 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'; }
sub timeline { return sprintf('%032x', $_[0]); }

# A started pageserver with the extension, one tenant and the test functions.
sub new_pageserver
{
	my ($name, $conf) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init;
	$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'neon_pageserver'
neon_pageserver.open_layer_memory = 64MB
fsync = on
) . ($conf // ''));
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION neon_pageserver');
	$node->safe_psql('postgres', "SELECT neon_pageserver.create_tenant('" . tenant() . "', 'secret')");
	my $module = "$store_test/ps_store_test";
	$node->safe_psql('postgres', qq(
CREATE FUNCTION store_put(text, text, int, int) RETURNS pg_lsn LANGUAGE c AS '$module';
CREATE FUNCTION store_put_failing(text, text, int) RETURNS void LANGUAGE c AS '$module';
CREATE FUNCTION store_check(text, text, int) RETURNS bigint LANGUAGE c AS '$module';
CREATE FUNCTION store_scan(text, text) RETURNS bigint LANGUAGE c AS '$module';
CREATE FUNCTION store_freeze(text, text) RETURNS int LANGUAGE c AS '$module';
CREATE FUNCTION store_wait(text) RETURNS void LANGUAGE c AS '$module';
));
	return $node;
}

# Sends page stream requests (lines, see stream_client.c); returns the answers' lines and standard error.
sub stream
{
	my ($connstr, $timeline, @requests) = @_;
	my $in = join('', map { "$_\n" } @requests);
	my ($out, $err);
	IPC::Run::run([ "$store_test/stream_client", $connstr, tenant(), $timeline ], '<', \$in, '>', \$out, '2>', \$err);
	return ([ split /\n/, $out ], $err);
}

sub poll_true
{
	my ($node, $query) = @_;
	return $node->poll_query_until('postgres', $query);
}

# kill -9 of the whole node: postmaster first, so that nothing is restarted.
sub kill_all
{
	my ($node) = @_;
	my $postmaster = $node->{_pid};
	open(my $ps, '-|', 'ps', '-o', 'pid=', '--ppid', $postmaster) or die $!;
	my @children = map { s/\s//gr } <$ps>;
	close $ps;
	kill 'KILL', $postmaster;
	kill 'KILL', $_ for @children;
	$node->{_pid} = undef;
	for (1 .. 1000)
	{
		last if !grep { kill 0, $_ } ($postmaster, @children);
		select(undef, undef, undef, 0.01);
	}
	unlink $node->data_dir . '/postmaster.pid';
}

1;
