# SQL over HTTP and over WebSockets with the npm package @neondatabase/serverless itself, through the proxy to an endpoint.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use NeonCluster;
use Npm;
use Test::More;

my ($dir, $why) = Npm::directory();
plan skip_all => "SQL over HTTP with its driver: $why" unless $dir;

my $c = NeonCluster->new(proxies => 1);
$c->start;
my $base = '127.0.0.1:' . ($c->{port} + 31);
my $uri = $c->local('uri', '-D', $c->{dir}, '--node', 'proxy-1', '--endpoint', 'main');

Npm::run_tap($dir, 'serverless_sql.mjs', "http://$base", $uri);
Npm::run_tap($dir, 'serverless_ws.mjs', $base, $uri);
$c->destroy;
done_testing();
