# SQL over HTTP and over WebSockets with the npm package @neondatabase/serverless itself, through the proxy to an endpoint.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use HTTP::Tiny;
use NeonCluster;
use Npm;
use Test::More;

my ($dir, $why) = Npm::directory();
plan skip_all => "SQL over HTTP with its driver: $why" unless $dir;

my $c = NeonCluster->new(proxies => 1, conf => { 'proxy-1' => 'neon_proxy.max_address_failures = 0' });
$c->start;
my $base = '127.0.0.1:' . ($c->{port} + 31);
my $uri = $c->local('uri', '-D', $c->{dir}, '--node', 'proxy-1', '--endpoint', 'main');

Npm::run_tap($dir, 'serverless_sql.mjs', "http://$base", $uri);
Npm::run_tap($dir, 'serverless_ws.mjs', $base, $uri);
Npm::run_tap($dir, 'serverless_jwt.mjs', "http://$base", $uri, $c->node_uri('controller'));

# ---- guesses are limited by address
$c->conf('proxy-1', 'neon_proxy.max_address_failures = 5');
kill 'HUP', $c->pid('proxy-1');
my $http = HTTP::Tiny->new(timeout => 120);
my $guess = sub { my ($u) = @_; return $http->post("http://$base/sql", { content => '{"query":"SELECT 1"}', headers => { 'neon-connection-string' => $u } })->{content} };
(my $wrong = $uri) =~ s/:[^:@]*@/:guess@/;
ok($c->poll('guesses are limited', 120, sub { $guess->($wrong) =~ /too many failed logins/ }), 'guesses of passwords are limited');
ok($c->poll('they are forgotten', 150, sub { sleep 1; $guess->($uri) =~ /"rowCount":1/ }), 'for a minute');
$c->destroy;
done_testing();
