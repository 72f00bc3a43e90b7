# Base backups: positions that make no sense, streams that are cut or changed on their way.  A compute's directory is whole or not
# there, and an archive that was cut short does not start when it is unpacked by hand.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Hostile;
use IPC::Run;
use NeonCluster;
use RawPg;
use Test::More;

my $c = NeonCluster->new(init => [ '--safekeepers', 1 ], conf => { 'pageserver-1' => 'neon_pageserver.wait_lsn_timeout = 1s' });
$c->start;
my $ps = 'pageserver-1';
my $postmaster = $c->pid($ps);
$c->sql('main', q{CREATE TABLE t AS SELECT 1 AS a; SELECT neon_create_branch('dev')});
my ($t, $tl, $start) = split /\|/, $c->node_sql($ps, 'SELECT tenant, timeline, start_lsn FROM neon_pageserver.timelines WHERE ancestor IS NULL');
my ($branch, $branch_start) = split /\|/, $c->node_sql($ps, 'SELECT timeline, start_lsn FROM neon_pageserver.timelines WHERE ancestor IS NOT NULL');
my $password = $c->node_sql('controller', 'SELECT node_password FROM neon_controller.tenants');
my $me = [ $t, $password ];
$c->stop('main');
$c->poll('all is ingested', 30, sub { $c->node_sql($ps, "SELECT last_record_lsn FROM neon_pageserver.timelines WHERE timeline = '$tl'")
	eq $c->node_sql('safekeeper-1', "SELECT commit_lsn FROM neon_safekeeper.timelines WHERE timeline = '$tl'") });
my ($end, $prev) = split /\|/, $c->node_sql($ps, "SELECT last_record_lsn, prev_record_lsn FROM neon_pageserver.timelines WHERE timeline = '$tl'");
my $n_end = lsn_number($end);

sub backup
{
	my ($timeline, $lsn, $before) = @_;
	my $s = node_as($c, $ps, $me);
	$s->copy_both("CALL neon_pageserver.basebackup('$t', '$timeline', '$lsn', '$before')") or return ($s, undef);
	my ($tar, $type, $body) = ('');
	while (($type, $body) = $s->message(timeout => 60))
	{
		last if $type ne 'd';
		$tar .= $body;
	}
	$s->{error} = RawPg::error_fields($body) if $type eq 'E';
	$s->raw(RawPg::framed('c', '')) if $type eq 'c';
	return ($s, $type eq 'c' ? $tar : undef);
}

# ---- positions
for my $bad (
	[ 'before the start', $tl, lsn_text(lsn_number($start) - 8), '0/0', 'NE002', qr/before the timeline's start/, qr/\w/ ],
	[ 'LSN 0', $tl, '0/0', '0/0', 'NE002', qr/before the timeline's start/, qr/\w/ ],
	[ 'before the branch began', $branch, lsn_text(lsn_number($branch_start) - 8), '0/0', 'NE002', qr/before the timeline's start/, qr/branch it began from/ ],
	[ 'beyond the end', $tl, lsn_text($n_end + 8), $end, 'NE001', qr/timed out waiting for WAL/, qr/safekeepers/ ],
	[ 'the end of all LSNs', $tl, 'FFFFFFFF/FFFFFFF8', '0/0', 'NE001', qr/timed out waiting for WAL/, qr/safekeepers/ ],
	[ 'no place for a record: not aligned', $tl, lsn_text($n_end - 1), '0/0', '22023', qr/cannot be the end of a record/, qr/\w/ ],
	[ 'no place for a record: in a page header', $tl, lsn_text($n_end - $n_end % 8192 + 8), '0/0', '22023', qr/cannot be the end of a record/, qr/\w/ ],
	[ 'the record before is behind', $tl, $end, lsn_text($n_end + 8), '22023', qr/is not before/, qr/\w/ ],
	[ 'the record before is at the same place', $tl, $end, $end, '22023', qr/is not before/, qr/\w/ ],
	[ 'the record before is at the end of all LSNs', $tl, $end, 'FFFFFFFF/FFFFFFFF', '22023', qr/is not before/, qr/\w/ ])
{
	my ($name, $timeline, $lsn, $before, $code, $message, $hint) = @$bad;
	my ($s, $tar) = backup($timeline, $lsn, $before);
	ok(!defined $tar, "$name: no archive");
	refused($c, $s->{error}, $name, $code, $message, hint => $hint, node => $ps, pid => $s->{pid});
	is($s->query('SELECT 1')->{rows}[0][0], '1', "$name: the connection goes on");
}
for my $text ('x', '0/G', '1234567890/0', '')
{
	my ($s, $tar) = backup($tl, $text, '0/0');
	# what is wrong with a literal is for the log: a tenant's session hears no more than that it was refused
	refused($c, $s->{error}, "LSN \"$text\"", '42501', qr/a tenant's session on this server can only call/);
}
my ($s, $tar) = backup($tl, $end, $prev);
cmp_ok(length $tar, '>', 16 * 1024 * 1024, 'an archive of the end');
is(length($tar) % 512, 0, 'in whole blocks');
my $control = rindex($tar, "global/pg_control\0");
cmp_ok($control, '>', length($tar) - 16 * 1024, 'the control file is last');
is(backup_names($tar)->[-1], 'global/pg_control', 'of all');
# not the end of a record, but a place where one could be: the consensus decides whether a compute may start there
($s, my $middle) = backup($tl, lsn_text($n_end - 16), '0/0');
ok(defined $middle, 'an archive of a place in the middle of a record') or diag explain $s->{error};

sub backup_names
{
	my ($tar) = @_;
	my ($at, @names) = (0);
	while ($at + 512 <= length $tar)
	{
		my ($name, $size) = unpack('Z100 x24 A12', substr($tar, $at, 512));
		last if $name eq '';
		push @names, $name;
		$at += 512 + int((oct($size) + 511) / 512) * 512;
	}
	return \@names;
}

# ---- cut by hand: unpacked, it does not start
sub unpack_tar
{
	my ($name, $bytes) = @_;
	my $dir = "$c->{tmp}/$name";
	mkdir $dir, 0700;
	open my $f, '>:raw', "$dir.tar" or die $!;
	print $f $bytes;
	close $f;
	IPC::Run::run([ 'tar', '-xf', "$dir.tar", '-C', $dir ], '>', \my $o, '2>', \my $e);
	unlink "$dir.tar";
	open $f, '>', "$dir/postgresql.conf";
	print $f "listen_addresses = ''\nunix_socket_directories = '$dir'\nport = 1\n";
	close $f;
	system('chown', '-R', 'postgres', $dir) if $> == 0;
	return $dir;
}

sub starts
{
	my ($dir) = @_;
	my @as = $> == 0 ? ('runuser', '-u', 'postgres', '--') : ();
	chomp(my $bin = `\${PG_CONFIG:-pg_config} --bindir`);
	IPC::Run::run([ @as, "$bin/postgres", '-D', $dir, '-c', 'logging_collector=off' ], '<', '/dev/null', '>', \my $o, '2>', \my $e, IPC::Run::timeout(30));
	return $e;
}
for my $bytes (512, 100_000, length($tar) - 20_000, $control - 1, $control + 511)
{
	my $dir = unpack_tar("cut$bytes", substr($tar, 0, $bytes));
	ok(!-s "$dir/global/pg_control", "cut after $bytes bytes: no control file");
	like(starts($dir), qr/could not (?:find the database system|open file "global\/pg_control"|read file "global\/pg_control")|is not a valid data directory|incorrect checksum in control file|pg_control/, 'and it does not start');
	system('rm', '-rf', $dir);
}
{
	# the control file itself cut: its checksum is wrong, or it is too short
	my $dir = unpack_tar('cutcontrol', substr($tar, 0, $control + 512 + 100));
	like(starts($dir), qr/could not read file "global\/pg_control"|incorrect checksum in control file|could not read/, 'a control file of 100 bytes: it does not start');
	system('rm', '-rf', $dir);
}

# ---- cut on its way to compute_tools
my $ps_port = $c->status->{$ps}{port};
sub fetch
{
	my ($port, $name) = @_;
	my ($rc, $out, $err) = $c->psql_uri($c->node_uri('controller'), "SELECT neon_compute_tools.create_data_directory('$name',
		'host=127.0.0.1 port=$port dbname=postgres user=neon_t_$t password=$password', '$t', '$tl', '$end', '$prev', '', '')");
	return ($rc, $err);
}
sub left_of { my ($name) = @_; return join ' ', glob "$c->{dir}/computes/$name*"; }

my ($port, $pid) = proxy($ps_port, count => "$c->{tmp}/count");
my ($rc, $err) = fetch($port, 'whole');
is($rc, 0, 'through a proxy that changes nothing') or diag $err;
is(left_of('whole'), "$c->{dir}/computes/whole", 'a directory is made');
stop_proxy($pid);
open my $f, '<', "$c->{tmp}/count" or die 'no count';
my $total = <$f>;
cmp_ok($total, '>', length $tar, "$total bytes passed");
for my $cut (0, 1, 50, 400, 600, 1_000, 5_000, 100_000, int($total / 2), $total - 30_000, $total - 9_000, $total - 1_100, $total - 600, $total - 40, $total - 12)
{
	my ($port, $pid) = proxy($ps_port, cut => $cut);
	my ($rc, $err) = fetch($port, "cut$cut");
	stop_proxy($pid);
	isnt($rc, 0, "cut after $cut bytes: an error");
	like($err, qr/^ERROR:  .*(?:connect|closed|lost|cut short|server|terminated)/m, 'that says what happened') or diag $err;
	is(left_of("cut$cut"), '', 'and no directory');
}
is(left_of('whole'), "$c->{dir}/computes/whole", 'the one that was whole is there');
# the old directory stays when a new one cannot be fetched
($port, $pid) = proxy($ps_port, cut => 100_000);
($rc, $err) = fetch($port, 'whole');
stop_proxy($pid);
isnt($rc, 0, 'fetching again is cut');
is(left_of('whole'), "$c->{dir}/computes/whole", 'the old directory stays, alone');
ok(-s "$c->{dir}/computes/whole/global/pg_control", 'and is whole');

# ---- changed on its way: refused, or a directory; never half of one
srand 42;
my ($refused, $made) = (0, 0);
for my $i (1 .. 12)
{
	my $flip = $i < 9 ? 900 + int rand 40_000 : int rand $total;
	my ($port, $pid) = proxy($ps_port, flip => $flip);
	my ($rc, $err) = fetch($port, "flip$i");
	stop_proxy($pid);
	$rc == 0 ? $made++ : $refused++;
	is(left_of("flip$i"), $rc == 0 ? "$c->{dir}/computes/flip$i" : '', "byte $flip changed: " . ($rc == 0 ? 'a directory' : ($err =~ /^(ERROR:.*)/m)[0] // $err));
	$c->node_sql('controller', "SELECT neon_compute_tools.drop_data_directory('flip$i')");
}
cmp_ok($refused, '>', 0, "changed bytes: $refused refused, $made in the content of files");

# ---- a client that goes away, or does not read, in the middle
for my $read (1, 200_000)
{
	my $s = node_as($c, $ps, $me);
	$s->copy_both("CALL neon_pageserver.basebackup('$t', '$tl', '$end', '$prev')");
	sysread($s->{sock}, my $some, $read);
	my $pid = $s->{pid};
	$s->close;
	ok($c->poll('it is gone', 30, sub { $c->node_sql($ps, "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") eq '0' }), "gone after $read bytes");
}
$s = node_as($c, $ps, $me);
$s->copy_both("CALL neon_pageserver.basebackup('$t', '$tl', '$end', '$prev')");
$s->cancel;
my $r = $s->finish;
ok($r->{error} && $r->{error}{C} eq '57014' || $r->{copy_done}, 'cancel in the middle') or diag explain $r->{error};

is(crashes($c, $ps, 'controller'), '', 'no process crashed');
is($c->pid($ps), $postmaster, 'the pageserver is the one that was started');
$c->node_sql('controller', "SELECT neon_compute_tools.drop_data_directory('whole')");
$c->start('main');
is($c->sql('main', 'SELECT a FROM t'), '1', 'the endpoint starts again');
done_testing();
