# pg_regress over sql/ against a running cluster, as `make installcheck` does.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use Test::More;

my $c = NeonCluster->new;
$c->start;
$c->sql('main', 'CREATE DATABASE neon_regression');
my $uri = $c->uri('main');
$uri =~ s{/postgres$}{/neon_regression};
my ($rc, undef, $err) = $c->psql_uri($uri, 'CREATE EXTENSION neon');
is($rc, 0, 'CREATE EXTENSION neon in a database of its own') or diag($err);
my $out = `$FindBin::RealBin/../installcheck $c->{dir} $c->{tmp}/regress 2>&1`;
is($?, 0, 'pg_regress over sql/') or diag($out, `cat $c->{tmp}/regress/regression.diffs 2>/dev/null`);
done_testing();
