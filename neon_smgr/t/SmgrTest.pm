# SmgrTest.pm - a compute over a directory that stands in for a pageserver.
#
# SPDX-License-Identifier: Apache-2.0
package SmgrTest;

use strict;
use warnings;
use Exporter 'import';
use File::Copy qw(move);
use File::Path qw(make_path);
use File::Spec;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(new_compute move_relations store_of relation_files start_fails);

my %FORK = ('' => 0, _fsm => 1, _vm => 2, _init => 3);

# Relation files below a data directory: [path, spc, db, name, fork]
sub relation_files
{
	my ($dir) = @_;
	my @found;
	for my $place ([ 'global', 1664, 0 ], map { [ "base/$_", 1663, $_ ] } map { m{/(\d+)$} ? $1 : () } glob("$dir/base/*"))
	{
		for my $path (glob("$dir/$place->[0]/*"))
		{
			push @found, [ $path, $place->[1], $place->[2], $1, $FORK{ $2 // '' } ]
			  if $path =~ m{/(\d+)(_fsm|_vm|_init)?$};
		}
	}
	return @found;
}

# What initdb made becomes what a pageserver would have.
sub move_relations
{
	my ($node, $store) = @_;
	for my $f (relation_files($node->data_dir))
	{
		my ($path, $spc, $db, $rel, $fork) = @$f;
		make_path("$store/$spc/$db");
		move($path, "$store/$spc/$db/$rel.$fork") or die "move $path: $!";
	}
	return;
}

sub store_of { return File::Spec->rel2abs($_[0]->basedir . '/store'); }

sub new_compute
{
	my ($name, %args) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $store = store_of($node);

	$node->init(extra => $args{initdb} // []);
	move_relations($node, $store);
	my $cache = $args{cache} // '1MB';
	my $conf = $args{conf} // '';
	$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'neon_smgr'
neon.page_store_directory = '$store'
neon.file_cache_size_limit = $cache
wal_level = replica
max_wal_senders = 2
restart_after_crash = off
max_prepared_transactions = 4
autovacuum = off
$conf
});
	return $node;
}

# The server must refuse to start and say so.
sub start_fails
{
	my ($node) = @_;
	my $from = -s $node->logfile // 0;
	my $started = $node->start(fail_ok => 1);
	my $log = -e $node->logfile ? slurp_file($node->logfile, $from) : '';
	$node->stop('immediate') if $started;
	return $started ? 'started' : $log;
}

1;
