# Native redo under sanitizers, on garbage: builds and runs test/fuzz/redo's program.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

my $build = PostgreSQL::Test::Utils::tempdir;
my $out = `make -s -C "$FindBin::RealBin/../../test/fuzz/redo" check BUILD=$build 2>&1`;
is($?, 0, 'program builds and runs');
like($out, qr/^ok \d+ - test_random_cases/m, 'random cases stay inside page and record') or diag($out);
unlike($out, qr/^not ok/m, 'no test failed');

done_testing();
