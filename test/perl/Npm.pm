# Npm.pm - programs in JavaScript as tests: installs what test/js/package.json names, once, and counts their TAP as ours.
#
# Without node, or where the npm registry cannot be reached, the tests that need it are skipped, and say so.
#
# SPDX-License-Identifier: Apache-2.0
package Npm;
use strict;
use warnings;
use Cwd qw(abs_path);
use Fcntl qw(:flock);
use File::Basename qw(dirname);
use File::Copy qw(copy);
use IPC::Run qw(run timeout);
use Test::More;

my $JS = abs_path(dirname(__FILE__) . '/../js');

# The directory with node_modules, or undef and why.
sub directory
{
	my $dir = ($ENV{NEON_NPM_DIR} // "/tmp/neon_npm_$>");
	return (undef, 'there is no node') unless `node --version 2>/dev/null`;
	return (undef, 'there is no npm') unless `npm --version 2>/dev/null`;
	mkdir $dir;
	open my $lock, '>', "$dir/lock" or return (undef, "$dir: $!");
	flock $lock, LOCK_EX;
	copy("$JS/package.json", "$dir/package.json") or return (undef, "$dir/package.json: $!");
	return ($dir) if -e "$dir/installed" && !system('cmp', '-s', "$dir/package.json", "$dir/installed");
	my $out = '';
	for my $try (1 .. 3)
	{
		my $ok = eval {
			run [ 'npm', 'install', '--prefix', $dir, '--no-audit', '--no-fund', '--no-package-lock', '--ignore-scripts' ], '<', '/dev/null',
			  '>&', \$out, timeout(300);
		};
		if ($ok)
		{
			copy("$dir/package.json", "$dir/installed");
			return ($dir);
		}
		sleep 5 * $try;
	}
	return (undef, "npm could not install the packages: $out");
}

# Runs test/js/PROGRAM, its lines as our tests.
sub run_tap
{
	my ($dir, $program, @args) = @_;
	my ($out, $err) = ('', '');
	my $h = IPC::Run::start([ 'node', "$JS/$program", @args ], '<', '/dev/null', '>', \$out, '2>', \$err, init => sub { chdir $dir }, timeout(1200));
	my $ended = eval { $h->finish; 1 };
	$h->kill_kill unless $ended;
	for my $line (split /\n/, $out)
	{
		if ($line =~ /^(not )?ok \d+ - (.*)/) { ok(!$1, $2); }
		elsif ($line =~ /^# /) { note($line); }
	}
	ok($ended && $out =~ /^1\.\.\d+$/m, "$program ran to its end") or diag($err);
	return $out;
}

1;
