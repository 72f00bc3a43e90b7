# Disks that give errors: a failed fsync ends the server (what it promised is uncertain) and is not believed when it succeeds later; a
# full disk refuses writes and goes on when there is space.  Afterwards all machines crash, and what was acknowledged is there.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use CrashDisk;
use IPC::Run;
use NeonCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my @SK = map { "safekeeper-$_" } 1 .. 3;
my @STORAGE = (@SK, 'pageserver-1');
my $t0 = time;
sub lap { diag(sprintf '%5.1f s %s', time - $t0, $_[0]) if $ENV{NEON_LAPS}; }

my $c = NeonCluster->new(conf => {
		(map { $_ => "checkpoint_timeout = 1h\nneon_safekeeper.checkpoint_interval = 1h\n" } @SK), 'pageserver-1' => "checkpoint_timeout = 1h\n" });
my $d = CrashDisk->new($c, @STORAGE);
$d->start($_) for @STORAGE;
$c->start;
my $sk_dir = $d->timeline_dir('safekeeper-1');
$sk_dir =~ s{^.*/(neon_safekeeper/)}{$1};
lap('cluster');

# What a node has logged since the last call.
my %log_at;
sub peek_log { my ($node) = @_; return substr(CrashDisk::slurp("$c->{dir}/logs/$node.log"), $log_at{$node} // 0); }
sub new_log { my ($node) = @_; my $new = peek_log($node); $log_at{$node} += length $new; return $new; }

# Rows of a batch that is large enough to reach many pages of WAL, after as many switches of segments; the commit may have to wait.
my ($batch, $table) = (0, 0);
sub begin_batch
{
	my ($switches) = @_;
	my ($out, $err) = ('', '');
	$batch++;
	return IPC::Run::start([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1',
			(map { ('-c', 'SELECT pg_switch_wal()', '-c', 'CREATE TABLE t' . ++$table . ' ()') } 1 .. ($switches // 0)),
			'-c', "INSERT INTO batch SELECT $batch, g, repeat(md5(g::text), 20) FROM generate_series(1, 1000) g", $c->uri('main') ],
		'<', '/dev/null', '>', \$out, '2>', \$err, IPC::Run::timeout(120));
}

sub ends_well { my ($h, $what) = @_; is(eval { $h->finish; $h->result(0) } // $@, 0, $what); }

sub batches_are_there
{
	my ($what) = @_;
	is($c->sql('main', 'SELECT count(*), count(DISTINCT b) FROM batch'), $batch * 1000 . "|$batch", "$what: all batches are there");
}

sub crash_all
{
	my (@start) = @_;
	$d->kill9('main', @STORAGE);
	system('rm', '-rf', $c->status->{main}{dir});
	$d->lose($_) for @STORAGE;
	$d->start($_) for @start;
	$c->start('main');
	new_log($_) for @STORAGE;
}

$c->sql('main', 'CREATE TABLE batch (b int, g int, pad text)');
new_log($_) for @STORAGE;

# ---- fdatasync of WAL fails, and the kernel drops what it could not write ----
$c->stop('safekeeper-3');
$d->control('safekeeper-1', "drop fdatasync EIO $sk_dir/0000*");
my $h = begin_batch();
ok($c->poll('safekeeper 1 panics', 30, sub { peek_log('safekeeper-1') =~ /PANIC:  could not fdatasync a WAL segment/ }),
	'fdatasync of WAL fails: the server does not go on');
$d->control('safekeeper-1');
ends_well($h, 'it starts again, and the commit that waited ends');
# only it has what was acknowledged
crash_all('safekeeper-1', 'safekeeper-3', 'pageserver-1');
batches_are_there('a later fdatasync that succeeds is not believed');
$d->start('safekeeper-2');
lap('fdatasync');

# ---- names of new segments cannot be made durable ----
$d->control($_, "fail fsync EIO $sk_dir") for @SK;
$h = begin_batch(2);
ok($c->poll('safekeepers panic', 30, sub { 2 <= grep { peek_log($_) =~ /PANIC:  could not fsync file .*\Q$sk_dir\E"/ } @SK }),
	'fsync of the directory fails: the server does not go on');
$d->control($_) for @SK;
ends_well($h, 'they start again, and the commit that waited ends');
crash_all(@STORAGE);
batches_are_there('new segments');
lap('names');

# ---- the same while nobody can be told ----
$d->control($_, "fail fsync EIO $sk_dir") for @SK;
$h = begin_batch(2);
my $end = time + 6;
while (time < $end && $h->pumpable) { $h->pump_nb; sleep 0.1; }
ok($h->pumpable, 'no commit while the directories of a quorum cannot be synced');
$d->kill9('main', @STORAGE);
$h->kill_kill;
$batch--;
crash_all(@STORAGE);
batches_are_there('segments without durable names');
lap('names, crash');

# ---- no space for new segments ----
$d->control($_, 'fail write ENOSPC neon_safekeeper/*/new.*') for 'safekeeper-1', 'safekeeper-2';
$h = begin_batch(2);
ok($c->poll('safekeepers refuse', 30, sub { 2 == grep { peek_log($_) =~ /ERROR:  could not make a WAL segment .*No space left/ } 'safekeeper-1', 'safekeeper-2' }),
	'no space: WAL is refused');
$h->pump_nb;
ok($h->pumpable, 'the commit waits');
$d->control($_) for @SK;
ends_well($h, 'and ends when there is space');
unlike(new_log($_), qr/PANIC|terminated by signal/, "$_ has gone on") for @SK;
batches_are_there('no space for WAL');
is(`ls $c->{dir}/safekeeper-*/$sk_dir | grep -c '^new'`, "0\n", 'no half made segment is left');
lap('segments, no space');

# ---- the term file ----
my $term = $d->safekeeper('safekeeper-3')->{term};
$d->control('safekeeper-3', "fail fsync EIO $sk_dir/term.new");
$c->stop('main');
$c->start('main');
like(new_log('safekeeper-3'), qr/ERROR:  could not write file .*term\.new/, 'the term file cannot be written: no vote');
is($d->safekeeper('safekeeper-3')->{file_term}, $term, 'its old content is there');
$d->control('safekeeper-3');
ok($c->poll('it follows', 30, sub { my $s = $d->safekeeper('safekeeper-3'); $s->{term} > $term && $s->{term} == $s->{file_term} }), 'later it takes part again');
$term = $d->safekeeper('safekeeper-3')->{term};
$d->control('safekeeper-3', "fail fsync EIO $sk_dir");
$c->stop('main');
$c->start('main');
ok($c->poll('safekeeper 3 panics', 30, sub { peek_log('safekeeper-3') =~ /PANIC:  could not fsync file .*\Q$sk_dir\E"/ }), 'its name cannot be made durable: PANIC');
$d->control('safekeeper-3');
ok($c->poll('it follows', 30, sub { my $s = $d->safekeeper('safekeeper-3'); $s->{state} eq 'active' && $s->{term} > $term && $s->{term} == $s->{file_term} }),
	'later it takes part again');
lap('term file');

# ---- files of a dropped timeline do not come back when the note that they are to be removed is gone ----
my ($tenant) = $sk_dir =~ m{/([0-9a-f]{32})/};
my $dropped = 'd' x 32;
$c->node_sql('safekeeper-1', "SELECT neon_safekeeper.create_timeline('$tenant', '$dropped', '0/2000000', '1', 16777216, '1,2,3')");
$c->node_sql('safekeeper-1', "SELECT neon_safekeeper.drop_timeline('$tenant', '$dropped')");
ok($c->poll('its files are removed', 30, sub { $c->node_sql('safekeeper-1', 'SELECT count(*) FROM neon_safekeeper.dropped_timeline') eq '0' }),
	'files of a dropped timeline are removed');
$d->kill9('safekeeper-1');
$d->lose('safekeeper-1');
is(`find $c->{dir}/safekeeper-1/neon_safekeeper -name '$dropped*'`, '', 'and do not come back');
$d->start('safekeeper-1');
lap('drop');

# ---- layers ----
new_log('pageserver-1');
chomp(my $ps_dir = `find $c->{dir}/pageserver-1/neon_pageserver -name 'image-*' -printf '%h'`);
$ps_dir =~ s{^.*/(neon_pageserver/)}{$1};
sub delta_files { my @f = glob "$c->{dir}/pageserver-1/$ps_dir/delta*"; return scalar @f; }
sub delta_rows { return $c->node_sql('pageserver-1', q{SELECT count(*) FROM neon_pageserver.layer WHERE file LIKE 'delta%'}); }
sub checkpoint { my ($limit) = @_; return ($c->psql_uri($c->node_uri('pageserver-1'), "SET statement_timeout = '$limit'; SELECT neon_pageserver.checkpoint()"))[0]; }
is(checkpoint('30s'), 0, 'layers are written');
is(delta_files(), delta_rows(), 'each file has its row');

ends_well(begin_batch(), 'more WAL');
$d->control('pageserver-1', "fail write ENOSPC $ps_dir/delta*");
isnt(checkpoint('2s'), 0, 'no space for layers: they stay in memory');
like(new_log('pageserver-1'), qr/ERROR:  .*layer file.*No space left on device/, 'the log says so');
is(delta_files(), delta_rows(), 'what was begun is removed');
batches_are_there('no space for layers');
$d->control('pageserver-1');
is(checkpoint('30s'), 0, 'they are written when there is space');

ends_well(begin_batch(), 'more WAL');
$c->node_sql('pageserver-1', q{ALTER SYSTEM SET neon_pageserver.disk_reserve = '1000TB'});
$c->node_sql('pageserver-1', q{SELECT pg_reload_conf()});
isnt(checkpoint('2s'), 0, 'less space than the reserve: layers stay in memory');
like(new_log('pageserver-1'), qr/ERROR:  the pageserver's disk is full/, 'the log says so');
is(delta_files(), delta_rows(), 'nothing is begun');
$c->node_sql('pageserver-1', q{ALTER SYSTEM RESET neon_pageserver.disk_reserve});
$c->node_sql('pageserver-1', q{SELECT pg_reload_conf()});
is(checkpoint('30s'), 0, 'they are written when there is space');

ends_well(begin_batch(), 'more WAL');
$d->control('pageserver-1', "fail fsync EIO $ps_dir/delta*");
checkpoint('10s');
ok($c->poll('the pageserver panics', 30, sub { peek_log('pageserver-1') =~ /PANIC:  could not fsync layer file/ }), 'fsync of a layer fails: PANIC');
$d->control('pageserver-1');
ok($c->poll('it comes back', 30, sub { checkpoint('30s') == 0 }), 'it starts again and writes its layers');
crash_all(@STORAGE);
batches_are_there('layers');
is($c->sql('main', q{SELECT count(*) FROM batch WHERE pad = repeat(md5(g::text), 20)}), $batch * 1000, 'and say what they said');
is(delta_files(), delta_rows(), 'each file has its row');
lap('layers');

done_testing();
