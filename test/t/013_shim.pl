# The disk that forgets (test/shim) forgets what it should, and nothing else.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use CrashDisk;
use File::Temp qw(tempdir);
use Test::More;

my $build = CrashDisk::build();
my $dir = tempdir('neonXXXXXX', DIR => '/tmp', CLEANUP => 1);
my $data = "$dir/d";

sub crash { system("$build/shim_crash @_ $data >/dev/null") == 0 or die; }
sub control { system("$build/shim_crash", '--control', $data, @_) == 0 or die; }
sub under { return system("cd $data && NEON_SHIM_DATA=$data LD_PRELOAD=$build/shim.so @_ 2>/dev/null") == 0; }
sub put { my ($file, $bytes) = @_; open my $f, '>:raw', "$data/$file" or die "$file: $!"; print $f $bytes; close $f; }
# over what is there, by a process that the shim sees
sub over { my ($file, $bytes) = @_; CrashDisk::slurp("$data/$file"); open my $f, '|-:raw', "cd $data && NEON_SHIM_DATA=$data LD_PRELOAD=$build/shim.so dd of=$file conv=notrunc bs=1M status=none"; print $f $bytes; close $f; return $? == 0; }
sub get { my ($file) = @_; return -e "$data/$file" ? CrashDisk::slurp("$data/$file") : undef; }
sub fresh
{
	my (%files) = @_;
	system('rm', '-rf', $data);
	mkdir $data;
	mkdir "$data/$_" for 'sub', 'base';
	put($_, $files{$_}) for keys %files;
	system("$build/shim_crash", '--snapshot', $data) == 0 or die;
}

# ---- content
fresh(a => 'old', b => 'old', c => 'old');
put($_, 'new') for 'a', 'b', 'c';
ok(under('sync b') && under('sync -d c'), 'fsync and fdatasync');
crash();
is_deeply([ map { get($_) } 'a', 'b', 'c' ], [ 'old', 'new', 'new' ], 'content that was not synced is lost');
crash();
is_deeply([ map { get($_) } 'a', 'b', 'c' ], [ 'old', 'new', 'new' ], 'once');

# ---- names
fresh('sub/a' => 'a', 'sub/b' => 'b', a => 'a');
put('sub/new', 'new');
under('sync sub/new');
rename "$data/sub/a", "$data/sub/moved";
unlink "$data/sub/b";
crash();
is_deeply([ map { get("sub/$_") } 'new', 'a', 'moved', 'b' ], [ undef, 'a', undef, 'b' ], 'names are lost while their directory is not synced');
put('sub/new', 'new');
put('sub/empty', 'never synced');
rename "$data/sub/a", "$data/sub/moved";
unlink "$data/sub/b";
under('sync sub/new sub');
crash();
is_deeply([ map { get("sub/$_") } 'new', 'empty', 'a', 'moved', 'b' ], [ 'new', '', undef, 'a', undef ], 'and kept when it is');
put('base/rel', 'relation');
under('sync base/rel');
crash();
is(get('base/rel'), 'relation', 'below base the name comes with the content');

# ---- errors and lies
my $pages = join '', map { chr(64 + $_) x 4096 } 1 .. 8;
fresh(f => "\0" x 32768, g => 'old');
control('ignore sync f');
over('f', $pages);
ok(under('sync f'), 'a sync that is ignored says that all is well');
crash();
is(get('f'), "\0" x 32768, 'and nothing is durable');
control('fail fsync EIO f');
over('f', $pages);
ok(!under('sync f'), 'a sync that fails');
ok(under('sync -d f'), 'the other call does not');
crash();
is(get('f'), $pages, 'and is durable');
control('drop fdatasync EIO f');
over('f', "\0" x 32768);
ok(!under('sync -d f'), 'a sync that fails and drops pages');
control();
ok(under('sync -d f'), 'succeeds the next time');
over('f', "\1" x 4096);
ok(under('sync -d f'), 'also for a page that is written again');
crash();
is(get('f'), "\1" x 4096 . substr($pages, 4096), 'only that page is durable');
control('fail write ENOSPC f');
ok(!over('f', 'x') && over('g', 'new'), 'writing to a full disk fails');

# ---- random
my (%pages, %names, $torn);
for my $seed (1 .. 40)
{
	fresh(f => "\0" x 32768, a => 'a', 'sub/link' => 'linked');
	link "$data/sub/link", "$data/base/link";
	under('sync base sub');
	over('f', $pages);
	rename "$data/a", "$data/b";
	crash("--seed $seed");
	my $got = get('f');
	for my $p (0 .. 7)
	{
		my $page = substr $got, 4096 * $p, 4096;
		my @sectors = map { substr($page, 512 * $_, 512) } 0 .. 7;
		my $ok = !grep { $_ ne "\0" x 512 && $_ ne chr(65 + $p) x 512 } @sectors;
		my $kept = grep { $_ ne "\0" x 512 } @sectors;
		$pages{ !$ok ? 'garbage' : $kept == 8 ? 'kept' : $kept ? 'torn' : 'lost' }++;
	}
	$names{ join ' ', map { get($_) // '-' } 'a', 'b', 'sub/link', 'base/link' }++;
}
is_deeply([ sort keys %pages ], [ 'kept', 'lost', 'torn' ], 'pages are kept, lost or torn at sectors: ' . join ' ', map { "$_=$pages{$_}" } sort keys %pages);
is_deeply([ sort keys %names ], [ '- a linked linked', 'a - linked linked' ], 'a rename happens or does not; a file of two names keeps both');

done_testing();
