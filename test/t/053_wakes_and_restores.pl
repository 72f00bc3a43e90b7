# Endpoints are woken, put to sleep, reset, restored, branched from and configured by several sessions at once: nobody waits for ever, nobody fails, no
# server is ended by somebody else's election, and what was acknowledged is there.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use POSIX qw(WNOHANG);
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{NEON_SEED} // (time ^ ($$ << 8)) & 0x7fffffff;
my $rounds = $ENV{NEON_ROUNDS} // 6;
srand($seed);
diag("NEON_SEED=$seed");

# the watcher is one more that starts and stops
my $c = NeonCluster->new(init => [ '--safekeepers', 1 ], watch => '500ms');
$c->start;
sub ctl { my ($sql) = @_; return $c->node_sql('controller', "SET neon.tenant = 'default'; $sql"); }
$c->sql('main', 'CREATE TABLE t (a int); INSERT INTO t VALUES (0)');
ctl(q{SELECT neon_create_branch('dev', parent => 'main'); SELECT neon_create_endpoint('dev')});
$c->sql('dev', 'INSERT INTO t VALUES (-1)');

my @sessions;
# One psql that says all of it, with pauses; an error does not end it.
sub session
{
	my ($what, @statements) = @_;
	my $file = "$c->{tmp}/session" . @sessions;
	open my $f, '>', $file or die "$file: $!";
	print $f map { sprintf("SELECT pg_sleep(%.3f);\n%s;\n", rand 0.6, $_) } @statements;
	close $f;
	my $uri = $c->node_uri('controller');
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		$ENV{PGOPTIONS} = '-c neon.tenant=default -c statement_timeout=180s';
		open STDOUT, '>', '/dev/null' and open STDERR, '>', "$file.err" and exec 'psql', '-XAtq', '-f', $file, $uri;
		POSIX::_exit(127);
	}
	push @sessions, { what => $what, pid => $pid, file => $file };
	return;
}
# How many are not done yet.
sub busy
{
	for my $s (grep { !defined $_->{rc} } @sessions) { $s->{rc} = $? if waitpid($s->{pid}, WNOHANG) == $s->{pid} }
	return scalar grep { !defined $_->{rc} } @sessions;
}
session('wakes dev', map { $_ % 2 ? q{SELECT neon_start_endpoint('dev')} : q{SELECT neon_controller.proxy_wake('dev')} } 1 .. 3 * $rounds) for 1 .. 3;
session('puts dev to sleep', map { q{SELECT neon_suspend_endpoint('dev')} } 1 .. 2 * $rounds);
session('resets and restores dev', map { $_ % 2 ? q{SELECT neon_reset_branch('dev')}
	: "SELECT neon_restore_branch('dev', at_lsn => (SELECT start_lsn FROM neon_branches WHERE name = 'dev'), keep_as => 'dev_$_')" } 1 .. $rounds);
session('configures dev', map { $_ % 2 ? "SELECT neon_set_branch('dev', 'work_mem', '${_}MB')" : "SELECT neon_set_endpoint('dev', 'suspend_timeout', '1 h')" } 1 .. 2 * $rounds);
session('main sleeps and wakes', map { $_ % 3 ? q{SELECT neon_start_endpoint('main')} : q{SELECT neon_suspend_endpoint('main')} } 1 .. 5 * $rounds);
session('branches from main', map { ("SELECT neon_create_branch('b$_', parent => 'main')", q{SELECT neon_lsn_at(now())}, "SELECT neon_drop_branch('b$_')") } 1 .. $rounds);

# commits on main, as a client that tries again
my @acknowledged;
my $uri = $c->uri('main');
my $end = time + 900;
for (my $n = 1; busy() && time < $end; $n++)
{
	my ($rc) = $c->psql_uri($uri, "INSERT INTO t VALUES ($n)", timeout => 120);
	push @acknowledged, $n if $rc == 0;
	sleep 0.1;
}
for my $s (@sessions)
{
	kill 'TERM', $s->{pid} unless defined $s->{rc};
	is($s->{rc}, 0, "one that $s->{what} comes to its end");
	is(do { local $/; open my $f, '<', "$s->{file}.err" or die; <$f> // '' }, '', 'without an error');
}
ok(@acknowledged > 0, @acknowledged . ' commits on main meanwhile');

ctl(q{SELECT neon_start_endpoint('main'); SELECT neon_start_endpoint('dev')});
my %there = map { $_ => 1 } split /\n/, $c->sql('main', 'SELECT a FROM t');
is(join(' ', grep { !$there{$_} } @acknowledged), '', 'all of them are there');
is($c->sql('dev', 'INSERT INTO t VALUES (-2); SELECT count(*) FROM t WHERE a = -2'), '1', 'dev works');
is($c->sql('dev', 'SHOW work_mem'), (2 * $rounds - 1) . 'MB', 'with the setting it was given last');
is(ctl(q{SELECT count(*) FROM neon_branches WHERE name ~ '^dev_'}), int($rounds / 2), 'each restore has kept what was before');
my $logs = join '', map { my $f = $_; local $/; open my $fh, '<', $f or die "$f: $!"; <$fh> } glob("$c->{dir}/logs/controller.log $c->{dir}/computes/*/compute.log");
unlike($logs, qr/deadlock detected|due to lock timeout|due to statement timeout/, 'nobody has waited for ever');
unlike($logs, qr/stopping this compute/, 'no server was ended by an election');

done_testing();
