# Damaged layer files: flipped bits, cut, emptied, missing, swapped.  A page is either right or an error that names the file; other
# pages and other timelines are served, ingest and compaction wait without losing anything, and a restored file is good at once.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Digest::MD5 qw(md5);
use File::Copy qw(copy move);
use Hostile;
use NeonCluster;
use RawPg;
use Test::More;

my $FLIPS = $ENV{NEON_FLIPS} || 5;	# a file
srand($ENV{NEON_SEED} || 11);
my $c = NeonCluster->new(init => [ '--safekeepers', 1 ], conf => { 'pageserver-1' => <<'EOC' });
neon_pageserver.compaction_threshold = 0
neon_pageserver.page_cache_size = 1MB
neon_pageserver.wait_lsn_timeout = 20s
EOC
$c->start;
my $ps = 'pageserver-1';
my $postmaster = $c->pid($ps);

# ---- layers: the fresh cluster's images, and one delta for each round
$c->sql('main', 'CREATE TABLE t (id int PRIMARY KEY, v int, pad text) WITH (fillfactor = 50); INSERT INTO t SELECT g, 0, repeat(md5(g::text), 6) FROM generate_series(1, 2000) g');
for my $round (1 .. 4)
{
	$c->sql('main', "UPDATE t SET v = $round WHERE id % 4 = $round % 4; CREATE TABLE r$round AS SELECT * FROM t WHERE id < 100");
	$c->sql('main', 'SELECT neon_checkpoint()');
}
my ($t, $tl) = split /\|/, $c->node_sql($ps, 'SELECT tenant, timeline FROM neon_pageserver.timelines');
my $me = [ $t, $c->node_sql('controller', 'SELECT node_password FROM neon_controller.tenants') ];
my $other = 'd' x 32;
$c->node_sql($ps, "SELECT neon_pageserver.create_timeline('$t', '$other', '{}')");
my $sum = $c->sql('main', 'SELECT count(*), sum(v), md5(string_agg(pad, NULL ORDER BY id)) FROM t');
my @relations = map { [ split /\|/ ] } split /\n/, $c->sql('main', q{
	SELECT CASE WHEN reltablespace = 0 THEN 1663 ELSE reltablespace END, CASE WHEN relisshared THEN 0 ELSE (SELECT oid FROM pg_database WHERE datname = current_database()) END,
		pg_relation_filenode(oid), pg_relation_size(oid) / 8192
	FROM pg_class WHERE relname IN ('t', 't_pkey', 'r2', 'r4', 'pg_class', 'pg_attribute', 'pg_authid')});
$c->stop('main');
$c->node_sql($ps, 'SELECT neon_pageserver.checkpoint()');
my $lsn = lsn_number($c->node_sql($ps, "SELECT last_record_lsn FROM neon_pageserver.timelines WHERE timeline = '$tl'"));
my @requests;
for my $r (@relations)
{
	my ($spc, $db, $rel, $blocks) = @$r;
	for my $blk (0 .. $blocks - 1)
	{
		push @requests, page_request(id => scalar @requests, lsn => $lsn, since => 1, spc => $spc, db => $db, rel => $rel, blk => $blk);
	}
}
my $dir = "$c->{dir}/$ps/neon_pageserver/$t/$tl";
my @files = map { "$dir/$_" } split /\n/, $c->node_sql($ps, "SELECT file FROM neon_pageserver.layers WHERE timeline = '$tl' ORDER BY lsn_lo");
cmp_ok(scalar @files, '>=', 5, scalar(@files) . ' layer files, ' . scalar(@requests) . ' pages');
copy($_, "$c->{tmp}/" . (split m{/}, $_)[-1]) or die for @files;
restore($_) for @files;		# fresh clusters share the file of their images

sub stream
{
	my ($timeline) = @_;
	my $s = node_as($c, $ps, $me);
	$s->copy_both("CALL neon_pageserver.pagestream('$t', '$timeline')") or die $s->{error}{M};
	return $s;
}

# All pages: their md5, or the error.
sub read_all
{
	my ($s) = @_;
	$s->copy(@requests);
	my @got;
	for (@requests)
	{
		my ($type, $body) = $s->message(timeout => 60);
		die "the stream ended: " . ($type eq 'E' ? RawPg::error_fields($body)->{M} : $type) if $type ne 'd';
		my $a = page_answer($body);
		push @got, $a->{error} ? $a->{error} : md5($a->{payload});
	}
	return \@got;
}
my $whole = read_all(stream($tl));
is(scalar(grep { ref } @$whole), 0, 'whole files: every page is served');

sub name_of { return (split m{/}, $_[0])[-1]; }

# Every page is right, or its error names the file; how many were errors.
sub judge
{
	my ($what, $file, $got) = @_;
	my ($wrong, $errors, $bad, %said) = (0, 0, '');
	for my $i (0 .. $#$got)
	{
		if (!ref $got->[$i]) { $wrong++ if $got->[$i] ne $whole->[$i]; next; }
		$errors++;
		my $e = $got->[$i];
		$said{$e->{M}}++;
		$bad = "$e->{C} $e->{M}" if index($e->{M}, name_of($file)) < 0 || $e->{C} !~ /^(?:XX001|58P01|58030|42501|42809)$/ || !$e->{H};
	}
	is($wrong, 0, "$what: no page is wrong");
	is($bad, '', "$what: errors name the file");
	my ($first) = sort keys %said;
	note "$what: $errors errors" . (defined $first ? ", $first" : '');
	return ($errors, [ keys %said ]);
}

sub restore { my ($file) = @_; system('rm', '-rf', $file); system('cp', '-p', "$c->{tmp}/" . name_of($file), $file) == 0 or die; chown((stat $dir)[4, 5], $file); }

sub write_at
{
	my ($file, $at, $bytes) = @_;
	open my $f, '+<:raw', $file or die "$file: $!";
	seek $f, $at, 0;
	print $f $bytes;
	close $f;
}

sub spew
{
	my ($file, $bytes) = @_;
	open my $f, '>:raw', $file or die "$file: $!";
	print $f $bytes;
	close $f;
}

# ---- flipped bits, in place while streams are open
my $open = stream($tl);
read_all($open);
my $elsewhere = stream($other);
my ($in_blocks, $partly) = (0, 0);
for my $file (@files)
{
	my $size = -s $file;
	for my $i (1 .. $FLIPS)
	{
		# the first and last kilobyte are header, index and footer
		my $at = $i == 1 ? int rand 64 : $i == 2 ? $size - 1 - int rand 120 : int rand $size;
		open my $f, '<:raw', $file or die;
		seek $f, $at, 0;
		read $f, my $byte, 1;
		close $f;
		my $what = name_of($file) . " bit flipped at $at of $size";
		write_at($file, $at, $byte ^ chr(1 << int rand 8));
		my ($errors, $said) = judge($what, $file, read_all(stream($tl)));
		for my $m (@$said)
		{
			next if $m !~ /damaged in block \d+/;
			$in_blocks++;
			$partly++ if $errors < @requests;
		}
		judge("$what, in a stream that had it open", $file, read_all($open));
		$elsewhere->copy(page_request(since => 1));
		my ($type, $body) = $elsewhere->message;
		is(page_answer($body)->{tag}, 102, 'another timeline is served');
		write_at($file, $at, $byte);
		is(scalar(grep { ref } @{ read_all($open) }), 0, 'healed') if $errors;
	}
}
note "$in_blocks errors named a block, $partly of them while other pages were served";
cmp_ok($in_blocks, '>', 0, 'errors name the block');
is($partly, $in_blocks, 'and other pages of the file are served then');

# ---- cut, emptied, missing, swapped, something else
for my $file ($files[0], $files[2], $files[3])
{
	my $size = -s $file;
	my $another = $file eq $files[2] ? $files[3] : $files[2];
	for my $damage (
		[ 'cut in half', sub { truncate $file, int($size / 2) } ], [ 'cut by one byte', sub { truncate $file, $size - 1 } ],
		[ 'cut to 10 bytes', sub { truncate $file, 10 } ], [ 'empty', sub { truncate $file, 0 } ],
		[ 'longer by one byte', sub { write_at($file, $size, 'x') } ], [ 'zeroes', sub { spew($file, "\0" x $size) } ],
		[ 'zeroes in all but its ends', sub { write_at($file, 4096, "\0" x ($size - 8192)) } ],
		[ 'missing', sub { unlink $file } ], [ 'a directory', sub { unlink $file; mkdir $file } ],
		[ 'not readable', sub { chmod 0, $file } ],
		[ 'another whole layer', sub { unlink $file; copy($another, $file); chown((stat $dir)[4, 5], $file) } ])
	{
		my ($name, $do) = @$damage;
		read_all($open);
		$do->();
		my ($errors) = judge(name_of($file) . " $name", $file, read_all(stream($tl)));
		cmp_ok($errors, '>', 0, "$name: pages need it");
		judge(name_of($file) . " $name, in a stream that had it open", $file, read_all($open));
		restore($file);
		is(scalar(grep { ref } @{ read_all($open) }), 0, "$name: healed in the open stream, by a new file of that name");
	}
}

# ---- one line in the log for a failed request
truncate $files[2], 100;
my $s = stream($tl);
$s->copy($requests[0]);
my ($type, $body) = $s->message;
my $failed = page_answer($body)->{error};
is(scalar(() = lines_of($c, $ps, $s->{pid})), $failed ? 1 : 0, 'a failed request is one line in the log');

# ---- start with a damaged file: the pageserver starts, the endpoint does not and says why
$c->stop($ps);
$c->start($ps);
$postmaster = $c->pid($ps);
judge('after a restart', $files[2], read_all(stream($tl)));
$elsewhere = stream($other);
$elsewhere->copy(page_request(since => 1));
($type, $body) = $elsewhere->message;
is(page_answer($body)->{tag}, 102, 'another timeline is served after a restart');
my ($rc, $out, $err) = $c->psql_uri($c->node_uri('controller'), q{SELECT neon_start_endpoint('main')});
if ($rc == 0)
{
	($rc, $out, $err) = $c->psql_uri($c->uri('main'), 'SELECT count(*), sum(v), md5(string_agg(pad, NULL ORDER BY id)) FROM t');
}
isnt($rc, 0, 'the endpoint cannot read it');
like($err, qr/layer file .*@{[ name_of($files[2]) ]}.* is damaged/, 'and says which file it is');
restore($files[2]);
$c->start('main');
is($c->sql('main', 'SELECT count(*), sum(v), md5(string_agg(pad, NULL ORDER BY id)) FROM t'), $sum, 'with the file restored everything is there');

# ---- damage while WAL comes in: ingest waits for the file, and goes on by itself
my $session = RawPg->connect(RawPg::parse($c->uri('main')));
my $update = 'UPDATE pg_ts_config SET cfgname = cfgname';	# ingest needs its size, which only the images have
my $commit = q{SELECT pg_logical_emit_message(true, 'test', 'x')};
$session->query($_) for $update, $commit;
$c->sql('main', 'SELECT neon_checkpoint()');
$c->stop($ps);
{
	# all blocks, but not the index behind them, whose place the footer says first
	open my $f, '<:raw', $files[0] or die $!;
	seek $f, -96, 2;
	read $f, my $index_offset, 8;
	close $f;
	write_at($files[0], 68, "\xff" x (unpack('Q>', $index_offset) - 68));
}
$c->start($ps);
$postmaster = $c->pid($ps);
$session->query($update);	# it may need a page itself
my $r = $session->query($commit);
ok(!$r->{error}, 'commits go on while the pageserver has a damaged file') or diag $r->{error}{M};
ok($c->poll('ingest stumbles', 40, sub { 5 <= (() = log_text($c, $ps) =~ /neon ingest ERROR:  layer file .*@{[ name_of($files[0]) ]}.* is damaged in block/g) }),
	'ingest meets the damage, several times');
my $status = $c->node_sql($ps, "SELECT state, attempts, message FROM neon_pageserver.ingest WHERE timeline = '$tl'");
like($status, qr/^(?:waiting|connecting|streaming)\|0\|layer file .*@{[ name_of($files[0]) ]}/, 'which is shown, and is not taken for damage of the WAL');
restore($files[0]);
my $written = $c->sql('main', 'SELECT pg_current_wal_flush_lsn()', timeout => 60);
ok($c->poll('ingest goes on', 30, sub { $c->node_sql($ps, "SELECT last_record_lsn >= '$written' FROM neon_pageserver.timelines WHERE timeline = '$tl'") eq 't' }),
	'ingest goes on when the file is restored, without help');
is($c->sql('main', 'SELECT count(*), sum(v), md5(string_agg(pad, NULL ORDER BY id)) FROM t'), $sum, 'and everything is there');

# ---- compaction of damaged files: nothing is replaced, nothing removed
$c->sql('main', 'SELECT neon_checkpoint()');
my @before = split /\n/, $c->node_sql($ps, "SELECT file FROM neon_pageserver.layers WHERE timeline = '$tl' ORDER BY file");
my $victim = (grep { /^delta-/ } map { name_of($_) } @files)[1];
my $size = -s "$dir/$victim";
write_at("$dir/$victim", int($size / 3), 'damage' x 10);
$c->node_sql($ps, q{ALTER SYSTEM SET neon_pageserver.compaction_threshold = 3; SELECT pg_reload_conf()});
ok($c->poll('compaction meets it', 40, sub { log_text($c, $ps) =~ /neon pageserver compaction ERROR:  layer file .*$victim.* is damaged/ }), 'compaction says which file is damaged');
is(join("\n", split /\n/, $c->node_sql($ps, "SELECT file FROM neon_pageserver.layers WHERE timeline = '$tl' ORDER BY file")), join("\n", @before), 'and replaces nothing');
is(scalar(grep { !-f "$dir/$_" } @before), 0, 'and removes nothing');
restore("$dir/$victim");
is($c->sql('main', 'SELECT count(*), sum(v), md5(string_agg(pad, NULL ORDER BY id)) FROM t'), $sum, 'all is there when it is restored');
if ($ENV{NEON_LONG})
{
	ok($c->poll('it is compacted', 120, sub { $c->node_sql($ps, "SELECT count(*) FROM neon_pageserver.layers WHERE timeline = '$tl' AND level = 1 AND kind = 'delta'") > 0 }),
		'compaction tries again and succeeds');
	is($c->sql('main', 'SELECT count(*), sum(v), md5(string_agg(pad, NULL ORDER BY id)) FROM t'), $sum, 'with the same content');
}

is(crashes($c, $ps, 'main'), '', 'no process crashed');
is($c->pid($ps), $postmaster, 'the pageserver was never restarted by itself');
done_testing();
