# A proxy is replaced by another one on the same port: nobody is refused, nobody is cut off.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run qw(run timeout);
use Time::HiRes qw(sleep time);
use Test::More;
use ProxyRig;

my $shared = "neon_proxy.share_port = on\nneon_proxy.drain_timeout = 10min\nneon_proxy.max_address_failures = 0\n";
my $p = ProxyRig->new(proxy => $shared);
my $pg_ctl = `pg_config --bindir`; chomp $pg_ctl; $pg_ctl .= '/pg_ctl';
my $tx = 'options=endpoint=tx-1a2b3c4d';
sub until_true { my ($what, $code) = @_; my $end = time + 120; while (time < $end) { return pass($what) if $code->(); sleep 0.1; } fail($what); diag($p->logs); }
sub session
{
	my ($endpoint) = @_;
	my $s = { in => '', out => '', err => '' };
	my $uri = "host=127.0.0.1 port=$p->{port} user=ann password=secret dbname=app options=endpoint=$endpoint-1a2b3c4d";
	$s->{h} = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', $uri ], '<', \$s->{in}, '>', \$s->{out}, '2>', \$s->{err}, timeout(300));
	return $s;
}
sub says
{
	my ($s, $sql, $want) = @_;
	$s->{in} .= "$sql\n";
	$s->{h}->pump until $s->{out} =~ /$want/ || $s->{err} ne '' || !$s->{h}->pumpable;
	return $s->{out} =~ /$want/ && $s->{err} eq '';
}

# ---- who does not say so has a port alone, and so has whoever comes beside one that does not
my $second = sub {
	my ($name, $conf) = @_;
	mkdir "$p->{tmp}/$name.run"; chown((getpwnam('postgres'))[2], -1, "$p->{tmp}/$name.run") if $> == 0;
	$p->make($name, $p->{base} + 39, join "\n", "listen_addresses = ''", "shared_preload_libraries = 'neon_proxy'", 'shared_buffers = 1MB',
		"neon_proxy.port = $p->{port}", "neon_proxy.socket_directory = '$p->{tmp}/$name.run'", "neon_proxy.certificates = '$p->{tmp}/certs'",
		"neon_proxy.controller_connstring = 'host=127.0.0.1 port=$p->{server_port} dbname=ctl user=postgres'", "neon_proxy.admin_secret = 'adminpw'", $conf);
};
$second->('alone', '');
ok(!eval { $p->go('alone'); 1 }, 'a proxy that does not share the port does not start beside one that has it');
like(`tail -n 20 $p->{tmp}/alone.log`, qr/could not bind.*Address already in use/, 'and says why');

# ---- the other one comes, the first leaves
my ($in_transaction, $idle) = (session('tx'), session('main'));
ok(says($in_transaction, "BEGIN; SELECT 'begun';", 'begun'), 'a transaction has begun');
ok(says($idle, "SET work_mem = '77MB'; SELECT 'there';", 'there'), 'a session is there');
$second->('second', $shared);
$p->go('second');
my ($load_out, $load_err) = ('', '');
open my $f, '>', "$p->{tmp}/one.sql" or die $!; print $f "SELECT 1;\n"; close $f;
chmod 0644, "$p->{tmp}/one.sql";
my $load = IPC::Run::start([ 'pgbench', '-n', '-C', '-c', 4, '-t', 150, '-f', "$p->{tmp}/one.sql", "host=127.0.0.1 port=$p->{port} user=ann password=secret dbname=app $tx" ],
	'<', '/dev/null', '>', \$load_out, '2>', \$load_err, timeout(300));
my $connections = sub { my ($where) = @_; my ($o, $e) = ('', '');
	run [ ProxyRig::as_pg('psql', '-X', '-q', '-A', '-t', '-h', $where, '-p', $p->{port}, '-U', 'postgres', '-d', 'neon_proxy', '-c', 'SHOW COUNTERS') ], '>', \$o, '2>', \$e or return 0;
	return $o =~ /^connections_total\|(\d+)/m ? $1 : 0; };
until_true('both have clients', sub { $connections->($p->{tmp}) > 10 && $connections->("$p->{tmp}/second.run") > 10 });
my $stop = IPC::Run::start([ ProxyRig::as_pg($pg_ctl, 'stop', '-w', '-t', 600, '-m', 'fast', '-D', "$p->{tmp}/proxy") ], '<', '/dev/null', '>', \my $so, '2>', \my $se, timeout(300));
ok($load->finish, 'clients that connect all the time meanwhile are all served') or diag($load_err . $p->logs);
like($load_out, qr{600/600}, 'all of them');
ok(says($in_transaction, "SELECT 'still'; COMMIT; SELECT 'ended';", 'still\nended'), 'a transaction goes on') or diag($in_transaction->{err});
ok(says($in_transaction, "SELECT 'after';", 'after'), 'and its session after it');
ok(says($idle, 'SHOW work_mem;', '77MB'), 'a session that was idle is as it was');
ok(-e "$p->{tmp}/proxy/postmaster.pid", 'the first one waits for them');
for my $s ($in_transaction, $idle) { $s->{in} .= "\\q\n"; eval { $s->{h}->finish }; }
$stop->finish;
ok(!-e "$p->{tmp}/proxy/postmaster.pid", 'and ends when they have left');
is(($p->psql($tx, q{SELECT 'served'}))[1], 'served', 'the second one goes on');

# ---- a worker that is ended alone comes back and has its part of the clients
my $workers = sub { my ($o, $e) = ('', ''); run [ ProxyRig::as_pg('psql', '-X', '-q', '-A', '-t', '-h', "$p->{tmp}/second.run", '-p', $p->{port}, '-U', 'postgres', '-d', 'neon_proxy', '-c', 'SHOW WORKERS') ], '>', \$o, '2>', \$e;
	return map { [ split /\|/ ] } split /\n/, $o; };
my ($pid) = map { $_->[1] } $workers->();
kill 'TERM', $pid;
until_true('a worker that was ended is started again', sub { my ($w) = $workers->(); $w && $w->[1] && $w->[1] ne $pid && $w->[2] == 2 });
my $queries = ($workers->())[0][5];
until_true('and has its part of the clients', sub { $p->psql($tx, 'SELECT 1'); ($workers->())[0][5] > $queries });
eval { $p->halt('second', 'immediate') };
done_testing();
