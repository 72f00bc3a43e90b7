# The server's own regression suite with shared_buffers and page cache at 1 MB: nothing that passes on a stock server fails here.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use Test::More;

my $out = `$FindBin::RealBin/../server_suites 2>&1`;
my $rc = $?;
is($rc, 0, 'regression suite as on the stock server');
diag($out);
like($out, qr/stock: (1[5-9]\d|2\d\d) of/, 'and the stock server ran it');
done_testing();
