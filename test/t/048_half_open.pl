# Clients whose network vanishes: the proxy closes them within its bound, whether it waits for them or sends to them, and their server connection goes
# back to the pool; one that only does not read stays.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use lib dirname(abs_path(__FILE__)) . '/../perl';
use IPC::Run qw(run timeout);
use Time::HiRes qw(sleep time);
use Test::More;
use Hosts;
use ProxyRig;

plan skip_all => 'network namespaces need root' unless Hosts::possible();

my $hosts = Hosts->new(qw(proxy client));
@ProxyRig::within = $hosts->within('proxy');
my $p = ProxyRig->new(proxy => join "\n", 'neon_proxy.listen_addresses = \'127.0.0.1,' . $hosts->address('proxy') . "'", 'neon_proxy.server_idle_timeout = 1h',
	'neon_proxy.tcp_keepalives_idle = 2s', 'neon_proxy.tcp_keepalives_interval = 1s', 'neon_proxy.tcp_keepalives_count = 2');
my $uri = sub { 'host=' . $hosts->address('proxy') . " port=$p->{port} user=ann password=secret dbname=app application_name=$_[0] options=endpoint=one-1a2b3c4d" };

sub until_true { my ($what, $code) = @_; my $end = time + 120; while (time < $end) { return pass($what) if $code->(); sleep 0.2; } fail($what); diag($p->logs); }
sub there { my ($name) = @_; return $p->console('SHOW CLIENTS') =~ /^C\|ann\|app\|.*\|$name\|/m; }
sub begin
{
	my ($name, $sql, $out) = @_;
	return IPC::Run::start([ $hosts->within('client'), 'psql', '-X', '-A', '-t', $uri->($name) ], '<', $sql, '>', $out, '2>', \my $err, timeout(600));
}
sub pool_is_free { my ($what) = @_; my ($rc, $o, $e) = $p->psql('options=endpoint=one-1a2b3c4d', "SELECT 'free'"); is("$rc|$o", '0|free', $what) or diag($e . $p->logs); }

# ---- it is silent in a transaction
{
	my ($in, $out) = ("BEGIN; SELECT 'has';\n", '');
	my $h = begin('silent', \$in, \$out);
	$h->pump until $out =~ /has/ || !$h->pumpable;
	ok(there('silent'), 'a client holds the only connection of its pool');
	$hosts->cut('client');
	until_true('its cable is pulled: it is closed', sub { !there('silent') });
	pool_is_free('and the connection is free for others');
	is($p->admin(q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' AND state LIKE 'idle in%'}), '0', 'its transaction is over');
	$h->kill_kill;
	$hosts->heal('client');
}

# ---- an answer is on its way to it: the kernel would send that for a quarter of an hour
{
	my ($in, $out, $lock, $has) = ("BEGIN;\nSELECT 'sent', pg_advisory_xact_lock(7);\n", '', "SELECT pg_advisory_lock(7), 'locked';\n", '');
	my $lost = sub { $p->console('SHOW COUNTERS') =~ /^clients_lost_total\|(\d+)/m; $1 };
	my $before = $lost->();
	my $holder = IPC::Run::start([ ProxyRig::as_pg('psql', '-X', '-A', '-t', '-h', $p->{tmp}, '-p', $p->{server_port}, '-U', 'postgres', '-d', 'app') ], '<', \$lock, '>', \$has,
		'2>', \my $err, timeout(600));
	$holder->pump until $has =~ /locked/ || !$holder->pumpable;
	my $h = begin('told', \$in, \$out);
	$h->pump until $out =~ /BEGIN/ || !$h->pumpable;
	until_true('a query waits for a lock', sub { $p->admin(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'SELECT ''sent''%'}) > 0 });
	$hosts->cut('client');
	$lock .= "\\q\n";
	$holder->finish;
	until_true('its cable is pulled before the answer: it is closed', sub { !there('told') });
	cmp_ok($lost->(), '>', $before, 'because it acknowledged nothing');
	pool_is_free('and the connection is free for others');
	$h->kill_kill;
	$hosts->heal('client');
}

# ---- it is there, and does not read
{
	my ($in, $out) = ("SELECT 'in';\n", '');
	my $h = begin('slow', \$in, \$out);
	$h->pump until $out =~ /in/ || !$h->pumpable;
	my $pid = $h->{KIDS}[0]{PID};
	$in .= "SELECT pg_sleep(1), repeat('y', 30000000);\n\\q\n";
	$h->pump_nb;
	until_true('a client asks for 30 MB', sub { $h->pump_nb; $p->admin(q{SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%30000000%' AND pid <> pg_backend_pid()}) > 0 });
	kill 'STOP', $pid;
	until_true('and reads no more', sub { $p->admin(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'}) > 0 });
	sleep 15;
	ok(there('slow'), 'it stays for several times the bound');
	kill 'CONT', $pid;
	$h->finish;
	is(length $out, length("in\n|") + 30000001, 'and gets all of it');
}
done_testing();
