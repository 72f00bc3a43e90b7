# A database whose relations are nowhere in PGDATA: made, used, stopped, started again from nothing.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use Test::More;

delete $ENV{NEON_LOCAL_TEMPLATE};	# its nodes are made as a user's are
my $c = NeonCluster->new;
$c->start;
my $st = $c->status;
is(scalar(grep { $_->{state} eq 'running' } values %$st), 6, 'three safekeepers, pageserver, controller and endpoint main run');

$c->sql('main', q{
	CREATE TABLE t (id int PRIMARY KEY, s text);
	INSERT INTO t SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, 20000) i;
	CREATE INDEX ON t (s);
	CREATE UNLOGGED TABLE u (a int);
	INSERT INTO u SELECT generate_series(1, 100);
	CREATE SEQUENCE seq;
	SELECT nextval('seq') FROM generate_series(1, 10);
});
is($c->sql('main', 'SELECT count(*), sum(id) FROM t'), '20000|200010000', 'rows are there');

# No relation file: names of digits below base/ and global/, unless they are of unlogged or temporary relations.
sub relation_files
{
	my $dir = $c->status->{main}{dir};
	my %unlogged = map { $_ => 1 } split /\n/,
	  $c->sql('main', q{SELECT relfilenode FROM pg_class WHERE relpersistence = 'u'});
	return grep { my ($n) = m{/(\d+)[^/]*$}; !$unlogged{$n} }
	  split /\n/, `find $dir/base $dir/global -type f -regextype posix-extended -regex '.*/[0-9]+(_[a-z]+)?(\\.[0-9]+)?'`;
}
is_deeply([ relation_files() ], [], 'no permanent relation has a file in PGDATA');

my $sum = $c->sql('main', q{SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t});
my $dir = $c->status->{main}{dir};
$c->stop('main');
is($c->status->{main}{state}, 'stopped', 'endpoint stopped');
system('rm', '-rf', $dir);
$c->start('main');
is($c->sql('main', q{SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t}), $sum, 'same rows after a start from nothing');
is($c->sql('main', q{SET enable_seqscan = off; SELECT count(*) FROM t WHERE s = repeat(md5('777'), 3)}), '1', 'index works');
is($c->sql('main', 'SELECT count(*) FROM u'), '0', 'an unlogged table is empty after a start from nothing');
cmp_ok($c->sql('main', q{SELECT nextval('seq')}), '>', 10, 'sequence goes on');
is_deeply([ relation_files() ], [], 'still no relation file');

# as README says: kill -9 of the postmaster alone, the directory deleted at once, started at once
my $pid = $c->pid('main');
$dir = $c->status->{main}{dir};
kill 'KILL', $pid;
system('rm', '-rf', $dir);
$c->start('main');
is($c->sql('main', 'SELECT count(*) FROM t'), '20000', 'started at once after a kill');
# the directory deleted under a server that lives on: the new compute takes over
$dir = $c->status->{main}{dir};
system('rm', '-rf', $dir);
$c->start('main');
is($c->sql('main', 'SELECT count(*) FROM t'), '20000', 'started although the old server lived on in a deleted directory');

# the whole cluster
$c->stop;
is(scalar(grep { $_->{state} eq 'running' } values %{ $c->status }), 0, 'everything stopped');
$c->start;
is($c->sql('main', q{SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t}), $sum, 'same rows after a restart of the whole cluster');

done_testing();
