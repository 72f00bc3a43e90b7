# A compute that is started wrongly: with a safekeeper that talks nonsense (two others are enough), with a tenant, timeline or
# position that is not its own, without a pageserver.  It says why, writes nothing, and the right one starts afterwards.
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
use Time::HiRes qw(time sleep);

my $c = NeonCluster->new;
$c->start;
my $ps = 'pageserver-1';
$c->node_sql('controller', q{UPDATE neon_controller.endpoints SET settings = '{"neon.pageserver_timeout": "1s", "autovacuum": "off"}'});
$c->sql('main', q{CREATE TABLE t AS SELECT g AS a, md5(g::text) AS b FROM generate_series(1, 3000) g; CREATE TABLE small (a int); SELECT neon_create_branch('dev')});
my $query = q{SELECT count(*), md5(string_agg(b, NULL ORDER BY a)) FROM t};
my $sum = $c->sql('main', $query);
my $dir = $c->status->{main}{dir};
my $conf = do { open my $f, '<', "$dir/postgresql.conf" or die; local $/; <$f> };
my ($real) = $conf =~ /^neon.pageserver_connstring = '(.*)'$/m;
sub d { return RawPg::framed('d', $_[0]); }

# ---- a safekeeper that talks nonsense: two others are enough
my @nonsense = (
	[ 'garbage', sub { my ($sock) = @_; syswrite($sock, RawPg::framed('W', "\0\0\0") . d("\xff" x 1000)) } ],
	[ 'empty messages', sub { my ($sock) = @_; syswrite($sock, RawPg::framed('W', "\0\0\0") . d('') x 1000) } ],
	[ 'a greeting of another node', sub { my ($sock) = @_; syswrite($sock, RawPg::framed('W', "\0\0\0") . d('G' . pack('Q> Q> Q> N C C Q>*', 99, 9e18, 1, 1, 1, 0, 1))) } ],
	[ 'votes for nobody', sub { my ($sock) = @_; syswrite($sock, RawPg::framed('W', "\0\0\0") . d('V' . pack('N Q> C Q>5 N', 1, 1, 1, (max_lsn) x 5, 0)) x 10) } ],
	[ 'acknowledgements of everything', sub { my ($sock) = @_; syswrite($sock, RawPg::framed('W', "\0\0\0") . d('A' . pack('N Q> Q> Q> Q>', 1, 2, (max_lsn) x 3)) x 10) } ],
	[ 'refusals', sub { my ($sock) = @_; syswrite($sock, RawPg::framed('W', "\0\0\0") . d('R' . pack('C Q> C', 200, 1, 255) . 'x' x 255)) } ],
	[ 'rows', sub { my ($sock) = @_; syswrite($sock, RawPg::framed('T', pack('n', 0)) . RawPg::framed('C', "CALL\0") . RawPg::framed('Z', 'I')) } ],
	[ 'a message of 2 GB', sub { my ($sock) = @_; syswrite($sock, RawPg::framed('W', "\0\0\0") . 'd' . pack('N', 0x7fffffff)) } ]);
# each connection to the fake one gets the next of them
my ($port, $pid) = fake_server(sub {
	my ($sock) = @_;
	open my $f, '+>>', "$c->{tmp}/connections" or return;
	flock $f, 2;
	syswrite $f, '.';
	my $n = -s $f;
	close $f;
	$nonsense[ ($n - 1) % @nonsense ][1]->($sock);
	sleep 0.3;
	POSIX::_exit(0);
});
my $node_port = $c->status->{'safekeeper-3'}{port};
$c->stop('main');
$c->node_sql('controller', "UPDATE neon_controller.nodes SET port = $port WHERE name = 'safekeeper-3'");
my ($rc, $out, $err) = $c->psql_uri($c->node_uri('controller'), q{SELECT neon_start_endpoint('main')}, timeout => 90);
is($rc, 0, 'with one safekeeper that talks nonsense an endpoint starts') or diag $err;
my $started = $c->pid('main');
ok($c->poll('it has talked all of it', 60, sub {
	$c->sql('main', 'INSERT INTO small VALUES (2)', timeout => 30);
	return -s "$c->{tmp}/connections" >= @nonsense;
}), 'and commits, while that one says ' . join(', ', map { $_->[0] } @nonsense));
is($c->pid('main'), $started, 'without a restart');
$c->node_sql('controller', "UPDATE neon_controller.nodes SET port = $node_port WHERE name = 'safekeeper-3'");
stop_proxy($pid);
$c->stop('main');
$c->start('main');
is($c->sql('main', $query), $sum, 'everything is there afterwards');

# ---- a compute that is told a tenant, a timeline or a position that is not its own: it does not come up, and says why
my ($t, $tl) = $conf =~ /^neon.tenant_id = '(\w+)'.*^neon.timeline_id = '(\w+)'/ms;
my $branch = $c->node_sql('controller', "SELECT id FROM neon_controller.timelines WHERE id <> '$tl'");
$c->node_sql('controller', q{SELECT neon_create_tenant('other')});
my ($other, $other_tl) = split /\|/, $c->node_sql('controller', "SELECT t.id, l.id FROM neon_controller.tenants t JOIN neon_controller.timelines l ON l.tenant = t.id WHERE t.name = 'other'");
$c->stop('main');
$conf = do { open my $f, '<', "$dir/postgresql.conf" or die; local $/; <$f> };
my ($x) = $conf =~ /^neon.start_lsn = '(.*)'$/m;
my ($lsn, $prev) = split /\|/, $c->node_sql($ps, "SELECT last_record_lsn, prev_record_lsn FROM neon_pageserver.timelines WHERE timeline = '$tl'");
# A compute made by hand: what it says until it stops, or until it has said what it should and is stopped.
sub start_with
{
	my ($name, $at, $before, $edit, $message) = @_;
	my $text = $conf;
	$text =~ s/^neon.start_lsn = .*$/neon.start_lsn = '$at'/m;
	$edit->(\$text);
	$text =~ s/'/''/g;
	my ($rc, $out, $err) = $c->psql_uri($c->node_uri('controller'), "SELECT neon_compute_tools.create_data_directory('$name', '" . ($real =~ s/'/''/gr) . "', '$t', '$tl', '$at', '$before', '$text', E'local all all trust\\nlocal replication all trust\\n')");
	return ('no directory', $err) if $rc != 0;
	($rc, $out, $err) = $c->psql_uri($c->node_uri('controller'), "SELECT neon_compute_tools.start_process('$name', 20000)", timeout => 60);
	my $log;
	$c->poll("$name says why", 30, sub {
		$log = do { local $/; open my $f, '<', "$c->{dir}/computes/$name/compute.log" or die; <$f> };
		return $log =~ $message;
	});
	# nobody gets in, or nothing that is written is committed
	my $commit = '';
	# (a commit that waits for its quorum cannot be cancelled: the server is stopped under it)
	my $psql = IPC::Run::start([ 'psql', '-XAt', "host=$c->{dir}/computes port=" . $c->status->{main}{port} . ' user=postgres dbname=postgres', '-c', "SET statement_timeout = '2s'", '-c', 'INSERT INTO small VALUES (666)' ],
		'<', '/dev/null', '>', \$commit, '2>', \my $e, IPC::Run::timeout(60));
	for (1 .. 20) { last if !eval { $psql->pump_nb; 1 }; sleep 0.1; }
	$c->node_sql('controller', "SELECT neon_compute_tools.stop_process('$name', 'immediate')");
	$psql->finish;
	$c->node_sql('controller', "SELECT neon_compute_tools.forget_dead_process('$name'); SELECT neon_compute_tools.drop_data_directory('$name')");
	return ($commit =~ /INSERT/ ? 'committed' : 'no commit', "$err$log");
}
for my $bad (
	[ 'another timeline of the tenant', $lsn, $prev, sub { ${ $_[0] } =~ s/^neon.timeline_id = .*$/neon.timeline_id = '$branch'/m }, qr/the pageserver did not answer|timed out waiting for WAL/ ],
	[ 'a timeline of nobody', $lsn, $prev, sub { ${ $_[0] } =~ s/^neon.timeline_id = .*$/neon.timeline_id = '@{[ 'e' x 32 ]}'/m }, qr/timeline "e{32}" of tenant "$t" does not exist on this pageserver/ ],
	[ 'a timeline of another tenant', $lsn, $prev, sub { ${ $_[0] } =~ s/^neon.timeline_id = .*$/neon.timeline_id = '$other_tl'/m }, qr/timeline "$other_tl" of tenant "$t" does not exist on this pageserver/ ],
	[ 'another tenant', $lsn, $prev, sub { ${ $_[0] } =~ s/^neon.tenant_id = .*$/neon.tenant_id = '$other'/m }, qr/permission denied for tenant "$other"/ ],
	[ 'an id that is none', $lsn, $prev, sub { ${ $_[0] } =~ s/^neon.tenant_id = .*$/neon.tenant_id = 'xyz'/m }, qr/invalid value for parameter "neon.tenant_id": "xyz"/ ],
	[ 'no timeline', $lsn, $prev, sub { ${ $_[0] } =~ s/^neon.timeline_id = .*$/neon.timeline_id = ''/m }, qr/FATAL|PANIC|ERROR/ ],
	[ 'a position in the past', lsn_text(lsn_number($prev)), '0/0', sub { }, qr/stopping this compute: the log does not end where this server began/ ],
	[ 'a start_lsn that is not where the directory starts', $lsn, $prev, sub { ${ $_[0] } =~ s/^neon.start_lsn = .*$/neon.start_lsn = '0\/5000028'/m }, qr/this data directory cannot be started at 0\/5000028/ ])
{
	my ($name, $at, $before, $edit, $message) = @$bad;
	my ($result, $said) = start_with('wrong', $at, $before, $edit, $message);
	like($said, $message, "$name: the compute says why");
	isnt($result, 'committed', "$name: and nothing is committed");
	note join "\n", $name, grep { /FATAL|PANIC|ERROR/ } split /\n/, $said;
}
is($c->node_sql($ps, "SELECT last_record_lsn FROM neon_pageserver.timelines WHERE timeline = '$tl'"), $lsn, 'nothing was written by them');
$c->start('main');
is($c->sql('main', $query), $sum, 'the endpoint itself starts and has everything');

# ---- no pageserver at the start
$c->stop('main');
$c->stop($ps);
($rc, $out, $err) = $c->psql_uri($c->node_uri('controller'), q{SET neon.tenant = 'default'; SELECT neon_start_endpoint('main')}, timeout => 90);
isnt($rc, 0, 'without a pageserver an endpoint does not start');
like($err, qr/could not connect to pageserver.*HINT:/s, 'which is said, with a hint') or diag $err;
is(join(' ', glob "$c->{dir}/computes/*.new"), '', 'and leaves no half directory');
$c->start($ps);
my $postmaster = $c->pid($ps);
my @stopped = ($postmaster, grep { /^\d+$/ } split /\s+/, `ps -o pid= --ppid $postmaster`);
kill 'STOP', @stopped;
my $start = time;
($rc, $out, $err) = $c->psql_uri($c->node_uri('controller'), q{SET neon.tenant = 'default'; SET statement_timeout = '5s'; SELECT neon_start_endpoint('main')}, timeout => 90);
kill 'CONT', @stopped;
isnt($rc, 0, 'with one that does not answer neither');
cmp_ok(time - $start, '<', 40, 'the start can be cancelled');
ok($c->poll('it starts', 60, sub { $c->node_sql('controller', q{SET neon.tenant = 'default'; SELECT neon_start_endpoint('main')}) }), 'it can be tried again at once');
is($c->sql('main', $query), $sum, 'and starts when it answers');

is(crashes($c, 'main', 'controller', map { "safekeeper-$_" } 1 .. 3), '', 'no process crashed');
done_testing();
