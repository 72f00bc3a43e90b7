# The consensus code in the simulator: it runs the objects that ship, keeps every invariant, and every deliberately broken rule is
# caught by three seeds.  NEON_SIM_SEEDS: how many seeds (500).
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use File::Basename qw(basename);
use FindBin;
use Test::More;

my $sim = "$FindBin::RealBin/../sim";
my $libs = "$FindBin::RealBin/../../libs";
my $n = $ENV{NEON_SIM_SEEDS} // 500;
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
chomp(my $pkglibdir = `$pg_config --pkglibdir`);
system("make -s -C $sim build/sim build/sim_short >/dev/null") == 0 or die 'the simulator does not build';

# ---- the very objects ----
my $all = join ' ', sort map { basename($_, '.c') . '.o' } glob "$libs/consensus/*.c";
my @found = split /\n/, `$sim/same_objects $libs/build/libneon.a $sim/build/sim $pkglibdir/neon_walproposer.so $pkglibdir/neon_safekeeper.so 2>&1`;
is($?, 0, 'simulator and installed modules contain the objects of libneon.a') or diag("@found");
is($found[0], $all, 'the simulator: all objects of consensus');
like($found[1] // '', qr/\bneon_proposer\.o neon_proposer_stream\.o\b/, 'neon_walproposer: those of the proposer');
like($found[2] // '', qr/\bneon_acceptor\.o\b/, 'neon_safekeeper: those of the acceptor');
my %shipped = map { $_ => 1 } map { split / / } @found[1, 2];
is(join(' ', sort keys %shipped), $all, 'and none of them ships that the simulator does not run');
# a simulator whose acceptor was compiled by itself is found out
my $include = join ' ', map { "-I$libs/$_" } qw(core consensus desim);
my $out = `cd $sim && gcc -std=gnu11 -O2 -g -msse4.2 -fPIC -fvisibility=hidden $include -c $libs/consensus/neon_acceptor.c -o build/apart.o && gcc build/std/*.o build/apart.o $libs/build/libneon.a -o build/sim_apart 2>&1`;
is($?, 0, 'a simulator with an acceptor of its own can be built') or diag($out);
isnt(`$sim/same_objects $libs/build/libneon.a $sim/build/sim_apart 2>&1`, "$all\n", 'and would be noticed');

# ---- invariants ----
$out = `$sim/build/sim --many $n 2>&1`;
is($?, 0, "$n seeds keep every invariant") or diag($out);
$out = `$sim/build/sim_short --many 100 2>&1`;
is($?, 0, '100 seeds with histories that fill up') or diag($out);
my ($one, $two) = map { my $o = `$sim/build/sim 17 2>&1`; $o } 1, 2;
ok(length($one) > 1000 && $one eq $two, 'a seed replays exactly');

# ---- broken rules ----
$out = `make -s -C $sim -j2 faults 2>&1`;
is($?, 0, 'every broken rule is caught, and the same seeds pass with the rule kept') or diag($out);
for my $rule (qw(VOTE_BEFORE_FLUSH COMMIT_WITHOUT_FIGURE8 HISTORY_NOT_CLIPPED TRUNCATE_BELOW_COMMIT ACK_BEFORE_FDATASYNC TERM_AFTER_ANSWER
	APPEND_WITH_GAP TAIL_NOT_ZEROED ADOPT_BEFORE_TRUNCATE ACK_MID_RECORD JOINT_QUORUM GENERATION PEER_WITHOUT_HISTORY))
{
	my %seed = map { $_ => 1 } $out =~ /^caught: $rule: FAILED seed (\d+) /mg;
	cmp_ok(scalar(keys %seed), '>=', 3, "$rule: three different seeds");
}
# who looks for violations knows nothing of what was broken: no flag outside of what keeps the rules
my @knowing = map { basename($_) } grep { `grep -l NEON_BREAK $_` ne '' } glob "$sim/*.c $sim/*.h $libs/desim/*.c";
is("@knowing", 'sim_storage.c', 'the checker does not know the flags');
done_testing();
