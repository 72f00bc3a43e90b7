# The consensus code in the simulator, and every deliberately broken rule caught.
# NEON_SIM_SEEDS: how many seeds (500).
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use Test::More;

my $sim = "$FindBin::RealBin/../sim";
my $n = $ENV{NEON_SIM_SEEDS} // 500;
system("make -s -C $sim build/sim build/sim_short >/dev/null") == 0 or die 'the simulator does not build';
my $out = `$sim/build/sim --many $n 2>&1`;
is($?, 0, "$n seeds keep every invariant") or diag($out);
$out = `$sim/build/sim_short --many 100 2>&1`;
is($?, 0, '100 seeds with histories that fill up') or diag($out);
my ($one, $two) = map { my $o = `$sim/build/sim 17 2>&1`; $o } 1, 2;
ok(length($one) > 1000 && $one eq $two, 'a seed replays exactly');
$out = `make -s -C $sim faults FAULT_SEEDS=3000 2>&1`;
is($?, 0, 'every broken rule is caught') or diag($out);
is(scalar(() = $out =~ /^caught: /mg) >= 6, 1, 'and there are at least six of them');
done_testing();
