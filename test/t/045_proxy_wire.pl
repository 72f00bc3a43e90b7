# The proxy's wire: routing, passwords, pooling, prepared statements, cancel, limits, hostile bytes, stop; against a stock server that plays compute
# and controller.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use lib dirname(abs_path(__FILE__)) . '/../perl';
use IO::Socket::INET;
use IO::Socket::UNIX;
use IPC::Run qw(run timeout);
use Socket qw(AF_UNIX SOCK_STREAM pack_sockaddr_un);
use Time::HiRes qw(sleep time);
use Test::More;
use ProxyRig;
use RawPg;

my $top = abs_path(dirname(__FILE__) . '/../..');
my $p = ProxyRig->new(proxy => "neon_proxy.login_timeout = 3s\nneon_proxy.max_address_failures = 0\nneon_proxy.secret_ttl = 0\n"
	# idle connections of one worker go to clients of another who wait, not after this time
	. "neon_proxy.server_idle_timeout = 1h");
my ($main, $tx, $one) = map { "options=endpoint=$_-1a2b3c4d" } qw(main tx one);

sub good { my ($conninfo, $sql, $want, $what) = @_; my ($rc, $o, $e) = $p->psql($conninfo, ref $sql ? @$sql : $sql); is("$rc|$o", "0|$want", $what) or diag($e . $p->logs); }
sub bad { my ($conninfo, $like, $what) = @_; my ($rc, $o, $e) = $p->psql($conninfo, 'SELECT 1'); ok($rc != 0 && $e =~ $like, $what) or diag("$o$e" . $p->logs); }
sub until_true { my ($what, $code) = @_; my $end = time + 90; while (time < $end) { return pass($what) if $code->(); sleep 0.1; } fail($what); diag($p->logs); }
sub counter { my ($name) = @_; my ($v) = $p->console('SHOW COUNTERS') =~ /^\Q$name\E\|(\d+)/m; return $v; }

# ---- routing and passwords
good("$main sslmode=disable", 'SELECT current_user', 'ann', 'plain');
good("$main sslmode=require channel_binding=require", 'SELECT 1', '1', 'TLS with channel binding');
good("host=main-1a2b3c4d.first.example hostaddr=127.0.0.1 sslmode=verify-full sslrootcert=$p->{tmp}/certs/default.crt", 'SELECT 2', '2', 'by host name');
good("host=main-1a2b3c4d.second.example hostaddr=127.0.0.1 sslmode=verify-full sslrootcert=$p->{tmp}/certs/second.crt", 'SELECT 3', '3', 'another certificate by host name');
good("host=main-1a2b3c4d.second.example hostaddr=127.0.0.1 sslmode=require $main", 'SELECT 4', '4', 'host name and option agree');
bad("host=main-1a2b3c4d.second.example hostaddr=127.0.0.1 sslmode=require $tx", qr/names two endpoints.*do not agree/s, 'host name and option do not agree');
bad('sslmode=disable', qr/does not say which endpoint.*options=endpoint=NAME/s, 'no endpoint');
good(q{password='endpoint=main-1a2b3c4d;secret' sslmode=require}, 'SELECT 5', '5', 'endpoint in the password');
good(q{password='main-1a2b3c4d$secret' sslmode=require}, 'SELECT 6', '6', 'endpoint before a dollar sign');
bad(q{password='main-1a2b3c4d$wrong' sslmode=require}, qr/password authentication failed/, 'and a wrong password');
good(q{user=bob password='main-1a2b3c4d$bob\\'s' sslmode=require}, 'SELECT current_user', 'bob', 'a password with a quote');
for my $wrong ("$main password=nope", "$main user=nobody", 'options=endpoint=none-1a2b3c4d', 'options=endpoint=NotAName')
{
	bad("$wrong sslmode=require", qr/password authentication failed for user "(ann|nobody)"\nHINT:/, "refused like any other: $wrong");
}
bad("$main dbname=nothere", qr/database "nothere" does not exist/, 'the server\'s own error about its databases');
good("$main options='endpoint=main-1a2b3c4d -c work_mem=77MB'", 'SHOW work_mem', '77MB', 'options for the server');
$p->admin(q{ALTER ROLE bob PASSWORD 'new'});
bad(q{user=bob password='main-1a2b3c4d$bob\\'s' sslmode=require}, qr/password authentication failed/, 'an old password');
good("user=bob password=new $main", 'SELECT 1', '1', 'the new one');

# ---- an endpoint that lets everybody in has not proved that it is the role's
$p->admin(q{CREATE ROLE carl LOGIN PASSWORD 'carl'});
$p->hba("local all all trust\nhost ctl all 127.0.0.1/32 trust\nhost all carl 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
$p->admin('SELECT pg_reload_conf()');
until_true('a server that trusts', sub { system("psql -X -w -q -c '' 'host=127.0.0.1 port=$p->{server_port} user=carl dbname=app' 2>/dev/null") == 0 });
bad("user=carl password=carl $main", qr/could not authenticate at the endpoint.*did not prove/s, 'an endpoint that does not ask for SCRAM');

# ---- certificates that cannot be read anew stay in use
rename "$p->{tmp}/certs", "$p->{tmp}/away" or die $!;
$p->console('RELOAD');
until_true('a reload without certificates', sub { 2 <= (() = `cat $p->{tmp}/proxy.log` =~ /Those that were loaded before stay in use/g) });
good("$main sslmode=require", 'SELECT 1', '1', 'TLS goes on with those that were there');
rename "$p->{tmp}/away", "$p->{tmp}/certs" or die $!;
$p->console('RELOAD');

# ---- pooling
good($tx, [ 'CREATE TEMP TABLE x (a int)', 'SELECT 1' ], '1', 'a session over transactions');
good($one, [ 'BEGIN', 'SELECT 7', 'COMMIT' ], '7', 'a transaction');
{
	local %ENV = (%ENV, PGTZ => 'Asia/Tokyo', PGDATESTYLE => 'german', PGAPPNAME => q{o'b\\x});
	good($one, [ 'SHOW TimeZone', 'SHOW DateStyle', 'SHOW application_name' ], "Asia/Tokyo\nGerman, DMY\no'b\\x", 'its parameters come with a client');
}
good($one, [ 'SHOW DateStyle' ], 'ISO, MDY', 'and leave with it');
{
	local $ENV{PGTZ} = 'Nowhere/Land';
	bad($one, qr/a value that the server does not accept/, 'a parameter that the server refuses');
}
good($main, [ 'SET work_mem = 12345', 'PREPARE q AS SELECT 1', 'LISTEN x' ], '', 'a session leaves things behind');
good($main, [ 'SHOW work_mem', 'SELECT count(*) FROM pg_prepared_statements', 'SELECT count(*) FROM pg_listening_channels()' ], "4MB\n0\n0", 'the next one has none of it');
is((split /\n/, $p->console('SHOW SERVERS'))[0] =~ /\|one-|\|tx-|\|main-/ ? 1 : 0, 1, 'SHOW SERVERS');

my ($o, $e) = ('', '');
my $storm = "$top/proxy/test/px_storm";
my $uri = sub { "host=127.0.0.1 port=$p->{port} user=ann password=secret dbname=app options=endpoint=$_[0]-1a2b3c4d" };
run [ $storm, $uri->('one'), 40, 'SELECT pg_sleep(0.01)' ], '>', \$o, '2>', \$e, timeout(300);
like($o, qr/^ok=40 failed=0/, '40 clients of two workers share one server connection') or diag($o . $p->logs);
cmp_ok($p->admin(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'ann' AND datname = 'app' AND application_name LIKE '%'}), '<', 12, 'pools are small');

# ---- two busy workers share a pool: each has its part, and none goes back and forth
{
	open my $f, '>', "$p->{tmp}/one.sql" or die $!; print $f "SELECT 1;\n"; close $f;
	my $before = counter('server_connects_total');
	($o, $e) = ('', '');
	run [ 'pgbench', '-n', '-T', 6, '-c', 16, '-f', "$p->{tmp}/one.sql", $uri->('four') ], '>', \$o, '2>', \$e, timeout(300);
	like($o, qr/^number of failed transactions: 0 /m, '16 busy clients of two workers, four server connections') or diag("$o$e" . $p->logs);
	cmp_ok(counter('server_connects_total') - $before, '<=', 16, 'few server connections are made anew');
	is(scalar(() = $p->console('SHOW POOLS') =~ /^app\|ann\|.*\|four-1a2b3c4d\|/mg), 2, 'both workers have the pool');
	cmp_ok($p->admin(q{SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT 1;' AND application_name = 'pgbench'}), '<=', 4, 'within its size');
}

# ---- one connection for two busy workers: they take turns
{
	my ($out, $err) = ('', '');
	my $h = IPC::Run::start([ 'pgbench', '-n', '-T', 600, '-c', 12, '-f', "$p->{tmp}/one.sql", $uri->('one') ], '<', '/dev/null', '>', \$out, '2>', \$err, timeout(700));
	good($one, 'SELECT 1', '1', 'a client among busy ones has its turn') for 1 .. 6;
	ok($h->pumpable, 'while they are busy');
	$h->signal('TERM');
	$h->finish;
}

# ---- prepared statements over changing connections
run [ 'pgbench', '-i', '-q', '-s', 1, "host=127.0.0.1 port=$p->{server_port} user=ann password=secret dbname=app" ], '>', \$o, '2>', \$e, timeout(300) or die $e;
for my $mode (qw(simple extended prepared))
{
	for my $ep (qw(tx main))
	{
		run [ 'pgbench', '-n', '-M', $mode, '-c', 10, '-j', 2, '-t', 50, $uri->($ep) ], '>', \$o, '2>', \$e, timeout(300);
		like($o, qr/transactions actually processed: 500\/500/, "pgbench -M $mode, $ep") or diag("$o$e" . $p->logs);
	}
}
cmp_ok(counter('prepared_hits_total'), '>', 100, 'statements are found prepared');

# ---- pipelines: what the proxy makes of them is bounded, and none of them stops for ever
{
	local $RawPg::TIMEOUT = 120;
	my $client = sub { my ($ep) = @_; my $s = RawPg->connect(host => '127.0.0.1', port => $p->{port}, user => 'ann', password => 'secret', dbname => 'app',
		startup => { options => "endpoint=$ep-1a2b3c4d" }); die $s->{error}{M} if $s->{error}; return $s };
	my $memory_kb = sub { my $most = 0; for my $pid (map { (split /\|/)[1] } split /\n/, $p->console('SHOW WORKERS')) {
		open my $f, '<', "/proc/$pid/status" or next; my ($kb) = join('', <$f>) =~ /^VmHWM:\s+(\d+)/m; $most = $kb if $kb > $most; } return $most };
	my $sync = RawPg::framed('S', '');

	# short messages about long statements that the server connection has no room for
	$p->conf('proxy', 'neon_proxy.max_prepared_statements = 2');
	$p->console('RELOAD');
	until_true('two statements on a server connection', sub { $p->console('SHOW CONFIG') =~ /^max_prepared_statements\|2\|/m });
	my $s = $client->('tx');
	for my $name ('a' .. 'o') { $s->raw(RawPg::framed('P', "$name\0SELECT '" . $name x 1000000 . "'\0\0\0") . $sync); $s->finish; }
	my $before = $memory_kb->();
	$s->raw(join('', map { RawPg::framed('D', "S$_\0") } ('a' .. 'o') x 20) . $sync);
	my ($described, $type) = (0, '');
	while ((($type) = $s->message) && $type ne 'Z') { $described++ if $type eq 'T'; }
	is($described, 300, 'many short messages about long statements are answered');
	cmp_ok($memory_kb->() - $before, '<', 40000, 'and are not all made into long ones at once');
	for my $last ([ p => 'none' ], [ q => '54000' ])
	{
		$s->raw(RawPg::framed('P', "$last->[0]\0SELECT '" . $last->[0] x 1000000 . "'\0\0\0") . $sync);
		is($s->finish->{error}{C} // 'none', $last->[1], "the bytes of statements are limited: $last->[1]");
	}
	$p->conf('proxy', 'neon_proxy.max_prepared_statements = 200');
	$p->console('RELOAD');
	$s->close;

	# more requests than are remembered, before the Sync
	my $request = sub { my ($sql) = @_; return RawPg::framed('P', "\0$sql\0\0\0") . RawPg::framed('B', "\0\0\0\0\0\0\0\0") . RawPg::framed('E', "\0\0\0\0\0") };
	$s = $client->('tx');
	$s->raw(join('', map { $request->("SELECT $_") } 1 .. 6000) . $sync);
	is(scalar(@{ $s->finish->{rows} }), 6000, '6000 requests before one Sync');
	$s->raw($request->('SELECT 1/0') . join('', map { $request->("SELECT $_") } 1 .. 6000) . $sync);
	my $r = $s->finish;
	is(($r->{error}{C} // '') . scalar(@{ $r->{rows} }), '220120', 'and 6000 behind one that fails');
	is($s->query('SELECT 52')->{rows}[0][0], '52', 'the session goes on');
	$s->close;
}

# ---- COPY and Sync: whatever comes when, nobody gets what is another's
{
	local $RawPg::TIMEOUT = 120;
	my $client = sub { my $s = RawPg->connect(host => '127.0.0.1', port => $p->{port}, user => 'ann', password => 'secret', dbname => 'app',
		startup => { options => 'endpoint=one-1a2b3c4d' }); die $s->{error}{M} if $s->{error}; return $s };
	my $value = sub { my ($r) = @_; return $r->{error} ? $r->{error}{C} : ($r->{rows}[0] // ['none'])->[0] };
	my ($sync, $done, $row) = (RawPg::framed('S', ''), RawPg::framed('c', ''), RawPg::framed('d', "7\n"));
	my $copy = RawPg::framed('Q', "COPY slow FROM STDIN\0");
	my $extended = RawPg::framed('P', "\0COPY slow FROM STDIN\0\0\0") . RawPg::framed('B', "\0\0\0\0\0\0\0\0") . RawPg::framed('E', "\0\0\0\0\0");
	my $sent = sub { my ($s, $bytes) = @_; my $before = counter('client_bytes_total'); $s->raw($bytes);
		until_true('that is with the proxy', sub { counter('client_bytes_total') >= $before + length $bytes }) };
	my $answered = sub { my ($s, $n) = @_; return join ' ', map { my $r = $s->finish; $r->{error} ? $r->{error}{C} : $r->{open} ? 'ready' : 'closed' } 1 .. $n };
	my $until = sub { my ($s, $wanted) = @_; while (my ($type) = $s->message) { return 1 if $type eq $wanted } return 0 };
	$p->admin('CREATE TABLE slow (a int); CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(77); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER t AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait();
		CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION SQLSTATE \'P0077\'; END $$', 'app');
	# two clients of one worker: what a key says first
	my $one = $client->();
	my ($two, @more);
	for (1 .. 40) { $two = $client->(); last if $two->{pid} >> 24 == $one->{pid} >> 24; push @more, $two; }
	$_->close for @more;
	my $lock = RawPg->connect(host => '127.0.0.1', port => $p->{server_port}, user => 'ann', password => 'secret', dbname => 'app');

	# the end of the data went before the server took it; the Sync comes while the COPY is finishing
	$lock->query('SELECT pg_advisory_lock(77)');
	$one->raw($copy . $row . $done);
	ok($until->($one, 'G'), 'a COPY that is sent at once');
	$sent->($one, $sync);
	$sent->($two, RawPg::framed('Q', "SELECT 41\0"));
	$lock->query('SELECT pg_advisory_unlock(77)');
	is($answered->($one, 2), 'ready ready', 'a Sync behind it is answered');
	is($value->($two->finish), '41', 'and the next client has its own answer');

	# a Sync that the server ignores, and one that it does not, which only the server knows
	for my $data ([ "7\n", 'ready', $done ], [ "x\n", '22P02 ready', $done ], [ "x\n", '22P02 ready ready', RawPg::framed('Q', "\0") ],
		[ "x\n", '22P02 ready 22012', RawPg::framed('Q', "SELECT 1/0\0") ])
	{
		my $pid = $value->($one->query('SELECT pg_backend_pid()'));
		$one->raw($copy);
		ok($until->($one, 'G'), 'a COPY');
		system(ProxyRig::as_pg('kill', '-STOP', $pid)) == 0 or die "cannot stop $pid";
		$sent->($one, RawPg::framed('d', $data->[0]) . $sync . $data->[2]);
		$sent->($two, RawPg::framed('Q', "SELECT 42\0"));
		system(ProxyRig::as_pg('kill', '-CONT', $pid)) == 0 or die "cannot continue $pid";
		is($answered->($one, scalar(() = $data->[1] =~ /\w+/g)), $data->[1], "a Sync in the middle of it: $data->[1]");
		is($value->($two->finish), '42', 'the next client has its own answer');
		is($value->($one->query('SELECT pg_backend_pid()')), $pid, 'from the same server connection');
	}

	# the extended protocol, all at once
	$one->raw($extended . $row . $done . $sync);
	is($answered->($one, 1) . $value->($one->query('SELECT 43')), 'ready43', 'a pipelined COPY');
	$one->raw($extended . $sync . $row . $done . $sync);
	is($answered->($one, 1) . $value->($one->query('SELECT 44')), 'ready44', 'with a Sync before the data, which is ignored');
	$one->raw($extended . RawPg::framed('d', "x\n") . $done . $sync);
	is($answered->($one, 1) . $value->($one->query('SELECT 45')), '22P0245', 'one that fails');
	$p->admin('CREATE TRIGGER n BEFORE INSERT ON slow FOR EACH STATEMENT EXECUTE FUNCTION never()', 'app');
	$one->raw($extended . $sync . $row . $done . $sync);
	is($answered->($one, 2) . $value->($one->query('SELECT 46')), 'P0077 ready46', 'one that fails before its Sync, which is answered');
	is($value->($two->query('SELECT 47')), '47', 'and nothing is left for the next client');
	$_->close for $one, $two, $lock;
}

# ---- a server connection whose statements are not what the proxy thinks does not stay so
{
	local $RawPg::TIMEOUT = 120;
	my $client = sub { my $s = RawPg->connect(host => '127.0.0.1', port => $p->{port}, user => 'ann', password => 'secret', dbname => 'app',
		startup => { options => 'endpoint=one-1a2b3c4d' }); die $s->{error}{M} if $s->{error}; return $s };
	my $value = sub { my ($r) = @_; return $r->{error} ? $r->{error}{C} : ($r->{rows}[0] // ['none'])->[0] };
	my $parse = sub { RawPg::framed('P', "$_[0]\0SELECT $_[1]\0\0\0") };
	my $run = sub { RawPg::framed('B', "\0$_[0]\0\0\0\0\0\0\0") . RawPg::framed('E', "\0\0\0\0\0") . RawPg::framed('S', '') };
	# two clients of one worker: what a key says first
	my $one = $client->();
	my ($two, @more);
	for (1 .. 40) { $two = $client->(); last if $two->{pid} >> 24 == $one->{pid} >> 24; push @more, $two; }
	$_->close for @more;
	$one->raw($parse->('old', 61) . $run->('old'));
	is($value->($one->finish), '61', 'a statement');
	$one->raw(RawPg::framed('Q', "DISCARD ALL\0") . $parse->('new', 62) . $run->('new'));
	is($value->($one->finish) . $value->($one->finish), 'none62', 'one that is prepared behind DISCARD ALL');
	$one->raw($run->('new') . $run->('old'));
	is($value->($one->finish) . $value->($one->finish), '6226000', 'is there, and the one before it is not');
	$two->raw($parse->('x', 62) . $run->('x'));
	is($value->($two->finish), '62', 'another client has it, too');
	my $name = $value->($two->query(q{SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT 62'}));
	$two->query("DEALLOCATE $name");
	$two->raw($run->('x'));
	is($value->($two->finish), '26000', 'a statement that was deallocated behind the proxy\'s back');
	$two->raw($run->('x'));
	is($value->($two->finish), '62', 'is there again on another connection');
	# two names for one text, of which one is not prepared
	$two->raw($parse->('y', 63) . $run->('y') . RawPg::framed('P', "\0SELECT 1/0\0\0\0") . $run->('') =~ s/.{5}$//sr . $parse->('z', 63) . RawPg::framed('S', ''));
	is($value->($two->finish) . $value->($two->finish), '6322012', 'a statement behind an error');
	$two->raw($run->('y') . $run->('z'));
	is($value->($two->finish) . $value->($two->finish), '6326000', 'does not take another of the same text with it');
	$_->close for $one, $two;
}

# ---- a password that is changed in a transaction; what was asked in the middle of it is not remembered
{
	my $set = sub { my ($value) = @_; $p->conf('proxy', "neon_proxy.secret_ttl = $value"); $p->console('RELOAD');
		until_true("secret_ttl is $value", sub { $p->console('SHOW CONFIG') =~ /^secret_ttl\|$value\|/m }) };
	my $bob = "user=bob $main sslmode=disable";
	my ($i, $out, $err) = ("BEGIN; ALTER ROLE bob PASSWORD 'newer'; SELECT 'changed';\n", '', '');
	$set->('1h');
	my $h = IPC::Run::start([ 'psql', '-X', '-A', '-t', $uri->('main') ], '<', \$i, '>', \$out, '2>', \$err, timeout(180));
	$h->pump until $out =~ /changed/ || !$h->pumpable;
	good("$bob password=new", 'SELECT 1', '1', 'the old password before the commit') for 1 .. 8;
	$i .= "COMMIT;\n\\q\n";
	$h->finish;
	until_true('is refused after it', sub { ($p->psql("$bob password=new", 'SELECT 1'))[0] != 0 });
	good("$bob password=newer", 'SELECT 1', '1', 'and the new one is good');
	$set->('0');
}

# ---- replication: the connection is the client's own, and takes no SET
$p->hba("local all all trust\nhost ctl all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n");
$p->admin('SELECT pg_reload_conf()');
until_true('a physical replication connection', sub { (($p->psql("$main replication=true application_name=mine", 'IDENTIFY_SYSTEM'))[1] // '') =~ /^\d{10,}\|1\|/ });

# ---- a pipeline of several Syncs: what an error passes over is missed by nobody behind the next Sync
{
	local $RawPg::TIMEOUT = 120;
	my $s = RawPg->connect(host => '127.0.0.1', port => $p->{port}, user => 'ann', password => 'secret', dbname => 'app', startup => { options => 'endpoint=one-1a2b3c4d' });
	my $value = sub { my $r = $s->finish; return $r->{error} ? $r->{error}{C} : ($r->{rows}[0] // ['none'])->[0] };
	my $run = sub { RawPg::framed('B', "\0$_[0]\0\0\0\0\0\0\0") . RawPg::framed('E', "\0\0\0\0\0") };
	my $sync = RawPg::framed('S', '');
	$s->raw(RawPg::framed('P', "kept\0SELECT 71\0\0\0") . $run->('kept') . $sync);
	is($value->(), '71', 'a statement');
	$p->console('RECONNECT one-1a2b3c4d');
	until_true('its server connection is closed', sub { $p->console('SHOW SERVERS') !~ /\|one-1a2b3c4d\|/ });
	$s->raw(RawPg::framed('P', "\0SELECT 1/0\0\0\0") . $run->('') . $run->('kept') . $sync . $run->('kept') . $sync . $run->('kept') . $run->('kept') . $sync);
	is(join(' ', map { $value->() } 1 .. 3), '22012 71 71', 'is there behind the Sync after an error, on a connection that did not have it');
	$s->raw($run->('kept') . RawPg::framed('P', "\0SELECT 1/0\0\0\0") . $run->('') . $sync . $run->('kept') . $sync . RawPg::framed('Q', "SELECT 72\0"));
	is(join(' ', map { $value->() } 1 .. 3), '22012 71 72', 'and stays there');
	$s->close;
}

# ---- COPY, large rows, errors in the middle
good($tx, [ 'CREATE TABLE c (a int)', q{COPY c FROM PROGRAM 'seq 1 50000'}, q{SELECT count(*) FROM c} ], '50000', 'COPY on the server');
run [ 'psql', '-X', '-q', '-A', '-t', $uri->('tx'), '-c', q{\copy c FROM PROGRAM 'seq 1 200000'}, '-c', 'SELECT count(*) FROM c', '-c', q{\copy c TO PROGRAM 'wc -l'} ], '>', \$o, '2>', \$e, timeout(180);
like($o, qr/^250000\n\s*250000$/m, 'COPY both ways through the proxy') or diag("$o$e");
run [ 'psql', '-X', '-q', '-A', '-t', $uri->('tx'), '-c', q{\copy c FROM PROGRAM 'echo x; seq 1 200000'}, '-c', 'SELECT 8' ], '>', \$o, '2>', \$e, timeout(180);
like("$e$o", qr/invalid input syntax.*^8$/ms, 'COPY that fails, and the session goes on') or diag("$o$e");
good($tx, [ q{SELECT length(repeat('x', 40000000))}, q{SELECT md5(repeat('y', 10000000))} ], "40000000\n" . `perl -MDigest::MD5=md5_hex -e 'print md5_hex("y" x 10000000)'`, 'large values');

# ---- cancel, from any worker
for my $try (1 .. 6)
{
	my ($out, $err) = ('', '');
	my $h = IPC::Run::start([ 'psql', '-X', '-q', $uri->($try % 2 ? 'tx' : 'main'), '-c', "SELECT 'cancel$try', pg_sleep(600)" ], '<', '/dev/null', '>', \$out, '2>', \$err, timeout(120));
	until_true("query $try runs", sub { $p->admin("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%cancel$try%' AND pid <> pg_backend_pid()") > 0 });
	$h->signal('INT');
	$h->finish;
	like($err, qr/canceling statement due to user request/, "cancel $try reaches its backend");
}

# ---- and one that waits for a server connection is taken back
{
	local $RawPg::TIMEOUT = 120;
	my $s = RawPg->connect(host => '127.0.0.1', port => $p->{port}, user => 'ann', password => 'secret', dbname => 'app', startup => { options => 'endpoint=one-1a2b3c4d' });
	ok(!$s->{error}, 'a client of a pool of one') or diag($s->{error}{M});
	my ($i, $out, $err) = ("BEGIN; SELECT 'has';\n", '', '');
	my $h = IPC::Run::start([ 'psql', '-X', '-A', '-t', $uri->('one') ], '<', \$i, '>', \$out, '2>', \$err, timeout(300));
	$h->pump until $out =~ /has/ || !$h->pumpable;
	for my $q ([ 'a simple query', RawPg::framed('Q', "SELECT 1\0") ], [ 'one of the extended protocol',
		RawPg::framed('P', "\0SELECT 1\0\0\0") . RawPg::framed('B', "\0\0\0\0\0\0\0\0") . RawPg::framed('E', "\0\0\0\0\0") . RawPg::framed('S', '') ])
	{
		$s->raw($q->[1]);
		until_true('it waits', sub { $p->console('SHOW CLIENTS') =~ /ann\|app\|waiting/ });
		$s->cancel;
		is($s->finish->{error}{C} // 'none', '57014', "$q->[0] that waits is cancelled");
	}
	$i .= "COMMIT;\n\\q\n";
	$h->finish;
	is(($s->query('SELECT 11')->{rows}[0] // [])->[0], '11', 'and its session goes on');
	$s->close;
}

# ---- of several that wait the first is taken back; so is one whose parameters are being set, and nobody else's query is hit
{
	local $RawPg::TIMEOUT = 120;
	my $extended = sub { RawPg::framed('P', "\0SELECT $_[0]\0\0\0") . RawPg::framed('B', "\0\0\0\0\0\0\0\0") . RawPg::framed('E', "\0\0\0\0\0") };
	my $client = sub { my (%more) = @_; my $s = RawPg->connect(host => '127.0.0.1', port => $p->{port}, user => 'ann', password => 'secret', dbname => 'app',
		startup => { options => 'endpoint=one-1a2b3c4d', %more }); die $s->{error}{M} if $s->{error}; return $s };
	my $value = sub { my ($r) = @_; return $r->{error} ? $r->{error}{C} : ($r->{rows}[0] // ['none'])->[0] };
	my $waits = sub { my ($state, $name) = @_; until_true("$name is $state", sub { $p->console('SHOW CLIENTS') =~ /^C\|ann\|app\|$state\|.*\|$name\|/m }) };

	my $holder = $client->(application_name => 'holder');
	is($value->($holder->query("BEGIN; SELECT 'has'")), 'has', 'one has the only connection');
	my $several = $client->(application_name => 'several');
	$several->raw(RawPg::framed('Q', "SELECT 21\0") . $extended->(22) . RawPg::framed('S', '') . RawPg::framed('Q', "SELECT 23\0"));
	for my $what ('a simple query', 'one of the extended protocol')
	{
		$waits->('waiting', 'several');
		$several->cancel;
		is($value->($several->finish), '57014', "$what before others is cancelled");
	}
	$waits->('waiting', 'several');
	$holder->query('COMMIT');
	is($value->($several->finish), '23', 'and what came after it is answered');
	$holder->query('BEGIN');
	$several->raw($extended->(24) . RawPg::framed('H', ''));
	$waits->('waiting', 'several');
	$several->cancel;
	my ($type, $body) = $several->message;
	is($type eq 'E' && RawPg::error_fields($body)->{C}, '57014', 'a request that is not complete is cancelled');
	$several->raw($extended->(25) . RawPg::framed('S', ''));
	my $r = $several->finish;
	is(scalar(@{ $r->{rows} }) . ($r->{error} ? 'error' : ''), '0', 'up to its Sync, which is answered');
	$holder->query('COMMIT');
	is($value->($several->query('SELECT 26')), '26', 'and its session goes on');

	# two clients of one worker: what a key says first
	my ($setting, @more);
	for (1 .. 40) { $setting = $client->(application_name => 'setting', TimeZone => 'Asia/Tokyo'); last if $setting->{pid} >> 24 == $holder->{pid} >> 24; push @more, $setting; }
	my $pid = $value->($holder->query('SELECT pg_backend_pid()'));
	kill 'STOP', $pid or system(ProxyRig::as_pg('kill', '-STOP', $pid)) == 0 or die "cannot stop $pid";
	$setting->raw(RawPg::framed('Q', "SELECT 27\0") . RawPg::framed('Q', "SHOW TimeZone\0"));
	$waits->('active', 'setting');
	$setting->cancel;
	is($value->($setting->finish), '57014', 'a query whose parameters are being set is cancelled');
	$holder->raw(RawPg::framed('Q', "SELECT pg_sleep(0.3), 28\0"));
	$waits->('waiting', 'holder');
	kill 'CONT', $pid or system(ProxyRig::as_pg('kill', '-CONT', $pid)) == 0 or die "cannot continue $pid";
	$r = $holder->finish;
	is($r->{error}{C} // ($r->{rows}[0] // [])->[1], '28', 'nobody else\'s query is');
	is($value->($setting->finish), 'Asia/Tokyo', 'and what came after it is answered');
	is($value->($holder->query('SELECT pg_backend_pid()')), $pid, 'by the same server connection');
	$_->close for $holder, $several, $setting, @more;
}

# ---- a cancel request that the server takes late, when its connection could be another's already
{
	local $RawPg::TIMEOUT = 120;
	my $client = sub { my $s = RawPg->connect(host => '127.0.0.1', port => $p->{port}, user => 'ann', password => 'secret', dbname => 'app',
		startup => { options => 'endpoint=one-1a2b3c4d', application_name => $_[0] }); die $s->{error}{M} if $s->{error}; return $s };
	my $value = sub { my ($r) = @_; return $r->{error} ? $r->{error}{C} : ($r->{rows}[0] // ['none'])->[0] };
	my $lock = RawPg->connect(host => '127.0.0.1', port => $p->{server_port}, user => 'ann', password => 'secret', dbname => 'app');
	# two clients of one worker: what a key says first
	my $one = $client->('one');
	my ($two, @more);
	for (1 .. 40) { $two = $client->('two'); last if $two->{pid} >> 24 == $one->{pid} >> 24; push @more, $two; }
	$_->close for @more;
	$lock->query("SELECT pg_advisory_lock($_)") for 78, 79;
	$one->raw(RawPg::framed('Q', "SELECT pg_advisory_xact_lock(78)::text || 'one'\0"));
	until_true('a query that takes its time', sub { $p->admin(q{SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = 78}) == 1 });
	my ($before, $cancels) = (counter('server_connects_total'), counter('cancels_total'));
	my $postmaster = `head -1 $p->{tmp}/server/postmaster.pid`; chomp $postmaster;
	system(ProxyRig::as_pg('kill', '-STOP', $postmaster)) == 0 or die "cannot stop $postmaster";
	$one->cancel;
	until_true('is cancelled', sub { counter('cancels_total') > $cancels });
	$lock->query('SELECT pg_advisory_unlock(78)');
	is($value->($one->finish), 'one', 'and ends before that is heard');
	$two->raw(RawPg::framed('Q', "SELECT pg_advisory_xact_lock(79)::text || 'two'\0"));
	until_true('the next one has a server connection, or waits for a new one', sub { $p->console('SHOW CLIENTS') =~ /^C\|ann\|app\|active\|.*\|two\|/m || counter('server_connects_total') > $before });
	system(ProxyRig::as_pg('kill', '-CONT', $postmaster)) == 0 or die "cannot continue $postmaster";
	until_true('it is at work', sub { $p->admin(q{SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = 79}) == 1 });
	$lock->query('SELECT pg_advisory_unlock(79)');
	is($value->($two->finish), 'two', 'its query is not cancelled');
	$_->close for $one, $two, $lock;
}

# ---- limits
{
	my @held = map { my ($i, $out, $err) = ("SELECT 'in';\n", '', ''); my $h = IPC::Run::start([ 'psql', '-X', '-A', '-t', $uri->('few') ], '<', \$i, '>', \$out, '2>', \$err, timeout(120));
		$h->pump until $out =~ /in/; [ $h, \$i ] } 1, 2;
	bad('options=endpoint=few-1a2b3c4d', qr/too many connections for this endpoint/, 'clients of an endpoint are limited');
	for (@held) { ${ $_->[1] } = "\\q\n"; $_->[0]->finish; }
	until_true('and may come when others have gone', sub { ($p->psql('options=endpoint=few-1a2b3c4d', 'SELECT 1'))[0] == 0 });
}

{
	my $set = sub { my ($name, $value) = @_; $p->conf('proxy', "neon_proxy.$name = $value"); $p->console('RELOAD');
		until_true("$name is $value", sub { $p->console('SHOW CONFIG') =~ /^$name\|$value\|/m }) };
	my ($i, $out, $err) = ("SELECT 'in';\n", '', '');
	$set->('max_address_clients', 1);
	my $h = IPC::Run::start([ 'psql', '-X', '-A', '-t', $uri->('tx') ], '<', \$i, '>', \$out, '2>', \$err, timeout(180));
	$h->pump until $out =~ /in/ || !$h->pumpable;
	until_true('clients of an address are limited', sub { my (undef, undef, $e) = $p->psql($main, 'SELECT 1'); $e =~ /too many connections from this address/ });
	$i .= "\\q\n";
	$h->finish;
	until_true('and may come when others have gone', sub { ($p->psql($main, 'SELECT 1'))[0] == 0 });
	$set->('max_address_clients', 0);
	$set->('max_address_failures', 2);
	# what was guessed a minute ago does not count any more
	until_true('guesses from an address are limited, also for who has the password', sub { $p->psql("$main password=guess", 'SELECT 1') for 1 .. 2;
		my (undef, undef, $e) = $p->psql($main, 'SELECT 1'); $e =~ /too many failed logins from this address.*HINT:/s });
	$set->('max_address_failures', 0);
	good($main, 'SELECT 1', '1', 'until the limit is off');
}

# ---- what anybody can make the proxy count, cancel requests of more addresses than it has room for, does not take the room of limits
{
	my $before = counter('cancels_refused_total');
	for my $n (1 .. 60000)
	{
		socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
		connect($s, pack_sockaddr_un("$p->{tmp}/.s.PGSQL.$p->{port}")) or die "connect: $!";
		syswrite $s, "\r\n\r\n\0\r\nQUIT\n\x21\x11" . pack('nNNnn', 12, 0x0a000000 + $n, 0x7f000001, 5432, 5432) . pack('NNNN', 16, 80877102, 0xffffffff, 1);
	}
	until_true('cancel requests of 60000 addresses', sub { counter('cancels_refused_total') >= $before + 60000 });
	my @held = map { my $s = RawPg->connect(host => '127.0.0.1', port => $p->{port}, user => 'ann', password => 'secret', dbname => 'app', startup => { options => 'endpoint=few-1a2b3c4d' });
		die $s->{error}{M} if $s->{error}; $s } 1, 2;
	bad('options=endpoint=few-1a2b3c4d', qr/too many connections for this endpoint/, 'and clients of an endpoint are limited');
	$_->close for @held;
}

# ---- hostile bytes before authentication
sub raw
{
	my ($bytes, $unix) = @_;
	my $s = $unix ? IO::Socket::UNIX->new(Peer => "$p->{tmp}/.s.PGSQL.$p->{port}") : IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $p->{port});
	$s->syswrite($bytes);
	return $s;
}
sub answer_of { my ($s) = @_; my $all = ''; my $end = time + 60; while (time < $end) { my $n = $s->sysread(my $b, 65536); last if !$n; $all .= $b; } return $all; }
my $hello = sub { my $b = pack('N', 196608) . join('', map { "$_\0" } @_) . "\0"; return pack('N', 4 + length $b) . $b };
like(answer_of(raw("GET / HTTP/1.1\r\n\r\n")), qr/08P01/, 'HTTP at the wrong door');
like(answer_of(raw(pack('N', 2**31) . 'x' x 100)), qr/08P01/, 'an endless startup packet');
like(answer_of(raw(pack('NN', 8, 80877103) . 'more')), qr/after encryption request/, 'bytes slipped in behind the request for TLS');
like(answer_of(raw($hello->('user', 'ann', 'options', 'endpoint=main-1a2b3c4d') . 'Q' . pack('N', 13) . "SELECT 1\0")), qr/expected a password response/, 'a query before authentication');
like(answer_of(raw($hello->('user', 'ann', 'options', 'endpoint=main-1a2b3c4d') . 'p' . pack('N', 2**30))), qr/08P01/, 'an endless password');
like(answer_of(raw($hello->('user', 'ann', 'options', 'endpoint=main-1a2b3c4d') . 'p' . pack('N', 39) . "SCRAM-SHA-256\0" . pack('N', 17) . "n,,n=,r=\x01\x02rubbish")), qr/malformed SCRAM/, 'SCRAM that is none');
is(answer_of(raw("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" . "\xc0\0\2\1\x7f\0\0\1\x1f\x90\x15\x36", 0)) =~ /08P01/ ? 1 : 0, 1, 'a PROXY header over TCP is refused');
{
	my $before = counter('login_timeouts_total');
	my @slow = map { raw(substr($hello->('user', 'ann'), 0, $_)) } 0 .. 9;
	like(answer_of($slow[5]), qr/canceling authentication due to timeout/, 'who is slow to log in is sent away');
	until_true('all of them', sub { counter('login_timeouts_total') >= $before + 10 });
}
srand(42);
for (1 .. 100) { my $s = raw(join '', map { chr int rand 256 } 1 .. 1 + int rand 200); close $s; }
good($main, 'SELECT 9', '9', 'after all that it serves');

# ---- over the unix socket with a PROXY header: host name and address of the real client
{
	my $host = 'tx-1a2b3c4d.first.example';
	my $tlv = pack('Cn/a*', 2, $host) . pack('Cn/a*', 0xE0, 'password');
	my $addr = "\xc0\0\2\1\x7f\0\0\1\x1f\x90\x15\x36";
	my $h = "\r\n\r\n\0\r\nQUIT\n\x21\x11" . pack('n', length($addr) + length $tlv) . $addr . $tlv;
	my $q = "SELECT 'over', 'unix'\0";
	my $s = raw($h . $hello->('user', 'ann', 'database', 'app') . 'p' . pack('N', 4 + 7) . "secret\0" . 'Q' . pack('N', 4 + length $q) . $q . 'X' . pack('N', 4), 1);
	like(answer_of($s), qr/over.*unix/s, 'PROXY header, cleartext password and query in one go');
}

# ---- the cache hears of changes; the endpoint's address changes
$p->admin(q{INSERT INTO neon_controller.ep SELECT 'late-1a2b3c4d', state, host, port FROM neon_controller.ep WHERE id = 'main-1a2b3c4d'}, 'ctl');
$p->notify('endpoint late-1a2b3c4d');
until_true('a new endpoint is known', sub { ($p->psql('options=endpoint=late-1a2b3c4d', 'SELECT 1'))[0] == 0 });

# ---- console
like($p->console('SHOW POOLS'), qr/app\|ann\|/, 'SHOW POOLS');
like($p->console('SHOW CLIENTS'), qr/^C\|.*\|admin\|/m, 'SHOW CLIENTS');
# the columns of PgBouncer 1.18, in its order; ours come after them
{
	my $socket = 'type|user|database|state|addr|port|local_addr|local_port|connect_time|request_time|wait|wait_us|close_needed|ptr|link|remote_pid|tls|application_name';
	my $seven = 'database|xact_count|query_count|bytes_received|bytes_sent|xact_time|query_time|wait_time';
	my @want = ([ POOLS => 'database|user|cl_active|cl_waiting|cl_active_cancel_req|cl_waiting_cancel_req|sv_active|sv_active_cancel|sv_being_canceled|sv_idle|sv_used|sv_tested|sv_login|maxwait|maxwait_us|pool_mode' ],
		[ CLIENTS => $socket ], [ SERVERS => $socket ], [ USERS => 'name|pool_mode' ], [ STATS_TOTALS => $seven ], [ STATS_AVERAGES => $seven ], [ TOTALS => 'name|value' ], [ LISTS => 'list|items' ],
		[ DATABASES => 'name|host|port|database|force_user|pool_size|min_pool_size|reserve_pool|pool_mode|max_connections|current_connections|paused|disabled' ],
		[ STATS => 'database|total_xact_count|total_query_count|total_received|total_sent|total_xact_time|total_query_time|total_wait_time|avg_xact_count|avg_query_count|avg_recv|avg_sent|avg_xact_time|avg_query_time|avg_wait_time' ],
		[ SOCKETS => "$socket|recv_pos|pkt_pos|pkt_remain|send_pos|send_remain|pkt_avail|send_avail" ], [ ACTIVE_SOCKETS => "$socket|recv_pos|pkt_pos|pkt_remain|send_pos|send_remain|pkt_avail|send_avail" ],
		[ FDS => 'fd|task|user|database|addr|port|cancel|link|client_encoding|std_strings|datestyle|timezone|password|scram_client_key|scram_server_key' ],
		[ CONFIG => 'key|value|default|changeable' ], [ MEM => 'name|size|used|free|memtotal' ]);
	my ($all, $said) = ('', '');
	run [ ProxyRig::as_pg('psql', '-X', '-q', '-A', '-h', $p->{tmp}, '-p', $p->{port}, '-U', 'postgres', '-d', 'neon_proxy', map { ('-c', "SHOW $_->[0]") } @want) ], '>', \$all, '2>', \$said, timeout(180);
	for my $w (@want) { like($all, qr/^\Q$w->[1]\E(?:\||$)/m, "SHOW $w->[0] has PgBouncer's columns") or diag("$all$said"); }
	is(scalar(() = $all =~ /^\(\d+ rows?\)$/mg), scalar @want, 'and as many values in each row');
}
like($p->console('SHOW CONFIG'), qr/^admin_secret\|\*+\|/m, 'SHOW CONFIG hides secrets');
is(scalar(() = $p->console('SHOW WORKERS') =~ /^\d+\|\d+\|1\|/mg), 2, 'no worker was started twice');
bad("dbname=neon_proxy user=postgres password=wrong", qr/password authentication failed/, 'the console wants its password');
bad("dbname=neon_proxy user=ann password=adminpw", qr/password authentication failed/, 'and its users');
good("dbname=pgbouncer user=postgres password=adminpw", 'SHOW VERSION', 'neon_proxy 0.1 on PostgreSQL ' . `pg_config --version | sed 's/PostgreSQL //' | tr -d '\n'`, 'it answers under both names');
$p->console('PAUSE tx-1a2b3c4d');
{
	my ($out, $err) = ('', '');
	my $h = IPC::Run::start([ 'psql', '-X', '-A', '-t', $uri->('tx'), '-c', q{SELECT 'resumed'} ], '<', '/dev/null', '>', \$out, '2>', \$err, timeout(180));
	until_true('a paused endpoint\'s clients wait', sub { $p->console('SHOW CLIENTS') =~ /ann\|app\|waiting/ });
	$p->console('RESUME tx-1a2b3c4d');
	$h->finish;
	like($out, qr/resumed/, 'and go on') or diag($err);
}

# ---- what PgBouncer's users know besides: rows by database, commands that wait, endpoints that take no connections
{
	local $RawPg::TIMEOUT = 120;
	my $id = 'one-1a2b3c4d';
	my $client = sub { my ($name) = @_; my $s = RawPg->connect(host => '127.0.0.1', port => $p->{port}, user => 'ann', password => 'secret', dbname => 'app',
		startup => { options => "endpoint=$id", application_name => $name }); die $s->{error}{M} if $s->{error}; return $s };
	my $console = sub { my $s = RawPg->connect(host => '127.0.0.1', port => $p->{port}, user => 'postgres', password => 'adminpw', dbname => 'neon_proxy'); die $s->{error}{M} if $s->{error}; return $s };
	my $answer = sub { my ($r) = @_; return $r->{error} ? "$r->{error}{C} $r->{error}{M}" : $r->{tag} // '' };
	my $waits = sub { my ($con, $sql) = @_; $con->raw(RawPg::framed('Q', "$sql\0")); is(($con->message(timeout => 1))[0], 'timeout', "$sql waits") };
	my $con = $console->();

	for my $what ('SHOW DNS_HOSTS', 'SHOW DNS_ZONES', 'SUSPEND') { my $r = $con->query($what); ok(($r->{error}{C} // '') eq '0A000' && $r->{error}{H}, "$what says why not, and what to do"); }
	my @rows = grep { $_->[0] eq 'app' && $_->[-1] eq $id } @{ $con->query('SHOW STATS')->{rows} };
	is(scalar @rows, 1, 'STATS has one row for a database of an endpoint, of all workers');
	cmp_ok($rows[0][2], '>', 10, 'with its queries');
	is($con->query('SHOW STATS_TOTALS')->{rows}[0][-1] =~ /-1a2b3c4d$/ && $answer->($con->query('SHOW STATS_AVERAGES')), 'SHOW', 'so have its parts');

	# DISABLE: who is there stays
	my $s = $client->('there');
	is($answer->($con->query("DISABLE $id")), 'DISABLE', 'DISABLE');
	bad($one, qr/the endpoint takes no connections.*HINT:/s, 'nobody can log in to it');
	bad("$one password=wrong", qr/password authentication failed/, 'who has no password is not told');
	is($s->query('SELECT 31')->{rows}[0][0], '31', 'who is there stays');
	ok((grep { $_->[3] eq 'app' && $_->[0] eq $id && $_->[12] } @{ $con->query('SHOW DATABASES')->{rows} }), 'DATABASES says so');
	is($answer->($con->query("ENABLE $id")), 'ENABLE', 'ENABLE');
	good($one, 'SELECT 32', '32', 'and they can again');
	like($answer->($con->query($_)), qr/^42601 an endpoint is required/, "$_ of what?") for qw(DISABLE ENABLE KILL);

	# PAUSE returns when nothing runs any more
	$s->query('BEGIN');
	$waits->($con, "PAUSE $id");
	is($s->query('SELECT 33')->{rows}[0][0], '33', 'a transaction goes on meanwhile');
	$s->query('COMMIT');
	is($answer->($con->finish), 'PAUSE', 'PAUSE returns when it is over');
	unlike($p->console('SHOW SERVERS'), qr/\|$id\|/, 'and no server connection is left');
	$s->raw(RawPg::framed('Q', "SELECT 34\0"));
	until_true('the next query waits', sub { $p->console('SHOW CLIENTS') =~ /^C\|ann\|app\|waiting\|.*\|there\|/m });
	is($answer->($con->query("RESUME $id")), 'RESUME', 'RESUME');
	is($s->finish->{rows}[0][0], '34', 'and is answered');
	$s->query('BEGIN');
	$waits->($con, "PAUSE $id");
	$con->cancel;
	like($answer->($con->finish), qr/^57014/, 'a PAUSE that waits can be cancelled');
	$waits->($con, "PAUSE $id");
	is($p->console("RESUME $id"), '', 'or ended by RESUME');
	like($answer->($con->finish), qr/^55000/, 'and says so');

	# RECONNECT and WAIT_CLOSE
	is($answer->($con->query("RECONNECT $id")), 'RECONNECT', 'RECONNECT of one endpoint');
	$waits->($con, "WAIT_CLOSE $id");
	$s->query('COMMIT');
	is($answer->($con->finish), 'WAIT_CLOSE', 'WAIT_CLOSE returns when old connections are closed');
	is($answer->($con->query('WAIT_CLOSE')), 'WAIT_CLOSE', 'at once when there are none');

	# KILL: who is there is sent away, who comes waits
	$s->query('BEGIN');
	is($answer->($con->query("KILL $id")), 'KILL', 'KILL');
	like($answer->($s->query('SELECT 35')), qr/^57P01|^$/, 'ends its clients');
	is($answer->($con->query("RESUME $id")), 'RESUME', 'until RESUME');
	good($one, 'SELECT 36', '36', 'then it is served again');
	$_->close for $con, $s;
}

# ---- many idle clients
{
	my ($out, $err) = ('', '');
	my $n = $ENV{NEON_IDLE_CLIENTS} // 1000;
	run [ $storm, $uri->('tx'), $n, 'SELECT 1', 1, 50 ], '>', \$out, '2>', \$err, timeout(600);
	is(scalar(() = $out =~ /^ok=$n failed=0/mg), 2, "$n clients connect, are idle, and are served again") or diag("$out$err" . $p->logs);
}

# ---- the server goes and comes; idle connections are given up
$p->halt('server');
$p->go('server');
good($tx, 'SELECT 10', '10', 'a restarted server is found again');
$p->conf('proxy', 'neon_proxy.server_idle_timeout = 200ms');
$p->console('RELOAD');
until_true('connections that nobody uses are closed', sub { $p->admin(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'ann'}) == 0 });

# ---- the npm driver
SKIP:
{
	skip 'npm is not there', 1 if system('command -v npm >/dev/null 2>&1') != 0;
	my $d = "$p->{tmp}/npm";
	mkdir $d;
	system('cp', "$top/test/t/proxy_driver/package.json", "$top/test/t/proxy_driver/driver.mjs", $d);
	skip 'npm cannot install pg', 1 if system("cd $d && npm install --no-audit --no-fund >npm.log 2>&1") != 0;
	run [ 'node', "$d/driver.mjs", $p->{port} ], '>', \$o, '2>', \$e, timeout(180);
	is($o, "ok\n", 'the npm driver pg, with named statements in transaction mode') or diag("$o$e" . $p->logs);
}

# ---- stop: a transaction may end, then no more
{
	my ($i, $out, $err) = ("BEGIN; SELECT 'begun';\n", '', '');
	my $h = IPC::Run::start([ 'psql', '-X', '-A', '-t', $uri->('tx') ], '<', \$i, '>', \$out, '2>', \$err, timeout(180));
	$h->pump until $out =~ /begun/;
	my $stop = IPC::Run::start([ ProxyRig::as_pg(`pg_config --bindir | tr -d '\n'` . '/pg_ctl', 'stop', '-w', '-m', 'fast', '-D', "$p->{tmp}/proxy") ], '<', '/dev/null', '>', \my $so, '2>', \my $se, timeout(180));
	until_true('it takes no more clients', sub { my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $p->{port}); return 1 if !$s; $s->syswrite(pack('NN', 8, 80877103)); $s->timeout(1);
		my $r = ''; vec($r, fileno($s), 1) = 1; return !select($r, undef, undef, 0.5) });
	$i .= "SELECT 'still'; COMMIT;\n";
	$h->pump until $out =~ /COMMIT/ || $err ne '';
	like($out, qr/still\nCOMMIT/, 'a transaction may end while the proxy stops') or diag($err);
	$i .= "SELECT 1;\n\\q\n";
	eval { $h->finish };
	like($err, qr/the proxy is shutting down/, 'then the client is told');
	$stop->finish;
	ok(!-e "$p->{tmp}/proxy/postmaster.pid", 'and it has stopped');
}
done_testing();
