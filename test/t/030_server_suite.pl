# The server's own regression suite with small caches and page truth on: nothing that passes on a stock server fails here, and
# every page that leaves is what the pageserver makes of its WAL.  `make server-suites` does it with shared_buffers of 1 MB, which
# means three times as many pages, again with pinned pages only, and runs the isolation suite too.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use Test::More;

$ENV{NEON_SUITES} //= 'cached';
$ENV{NEON_SETTINGS} //= '{"shared_buffers": "8MB"}';
my $out = `$FindBin::RealBin/../server_suites 2>&1`;
my $rc = $?;
is($rc, 0, 'regression suite as on the stock server');
diag($out);
like($out, qr/stock: (1[5-9]\d|2\d\d) of/, 'and the stock server ran it');
like($out, qr/page truth: [1-9]\d{4,} pages compared and right/, 'and its pages were compared');
done_testing();
