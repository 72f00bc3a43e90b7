# Fuzz targets over their seeds and a few thousand inputs that are always the same.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use Test::More;

my $out = `make -s -C $FindBin::RealBin/../fuzz check 2>&1`;
is($?, 0, 'fuzz targets over fixed inputs') or diag($out);
$out = `make -s -C $FindBin::RealBin/../fuzz/redo check 2>&1`;
is($?, 0, 'native redo over fixed inputs') or diag($out);
done_testing();
