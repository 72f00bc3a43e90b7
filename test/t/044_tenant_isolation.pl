# A credential of one tenant reads nothing of another, anywhere, and does not learn whether there is one; on nodes it runs nothing but
# the calls meant for tenants.  When a tenant is dropped, so are its credential and its sessions.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use RawPg;
use Hostile;
use Test::More;

my $c = NeonCluster->new(proxies => 1);
$c->start;
my @nodes = ('controller', 'pageserver-1', 'safekeeper-1');
my ($ps, $sk) = @nodes[ 1, 2 ];
$c->node_sql('controller', q{SET client_min_messages = warning; SELECT neon_create_tenant('other');
	SET neon.tenant = 'other'; SELECT neon_create_branch('hidden')});

my @t;	# ours and the other
for my $name ('default', 'other')
{
	my ($id, $tl, $password, $role_password, $uri) = split /\|/, $c->node_sql('controller', qq{
		SELECT t.id, b.timeline, t.node_password, t.role_password, neon_controller.endpoint_uri(e)
		FROM neon_controller.tenants t JOIN neon_controller.branches b ON b.tenant = t.id AND b.name = 'main'
			JOIN neon_controller.endpoints e ON e.timeline = b.timeline WHERE t.name = '$name'});
	push @t, { id => $id, tl => $tl, as => [ $id, $password ], role_password => $role_password, uri => $uri };
}
my ($me, $other) = @t;
my $nobody = { id => 'e' x 32, tl => 'd' x 32 };
my ($rc, $out, $err) = $c->psql_uri($other->{uri}, q{CREATE TABLE secret AS SELECT 'of the other' AS a});
is($rc, 0, 'the other tenant has data') or diag($err);

sub login { my ($node, $as, %startup) = @_; return node_as($c, $node, $as, startup => \%startup); }
sub error_of { my ($s, $sql) = @_; my $r = $s->query($sql); return $r->{error} || { C => 'none', M => join '|', map { map { $_ // '' } @$_ } @{ $r->{rows} } }; }
sub value { my ($s, $sql) = @_; my $r = $s->query($sql); return $r->{error} ? "error $r->{error}{C} $r->{error}{M}" : $r->{rows}[0][0]; }
sub name_of { my ($sql) = @_; return length $sql > 60 ? substr($sql, 0, 57) . '...' : $sql; }

# ---- SQL: one refusal for everything, that says nothing
my @statements = (
	'SELECT rolname FROM pg_roles', 'SELECT * FROM pg_stat_activity', 'TABLE pg_class', 'VALUES (1)', 'SELECT 1 + 1', 'SELECT 1 LIMIT 1', 'SELECT current_user',
	'SELECT 1 WHERE true', 'SELECT DISTINCT 1', 'SELECT 1 UNION SELECT 2', 'WITH w AS (SELECT 1) SELECT 1', 'SELECT 1 ORDER BY 1', 'SELECT count(*)', 'SELECT (SELECT 1)',
	'SELECT pg_sleep(100)', 'SELECT pg_advisory_lock(1)', 'SELECT lo_create(0)', 'SELECT pg_ls_dir(\'.\')', 'SELECT generate_series(1, 1000000000)',
	q{SELECT set_config('work_mem', '1GB', false)}, q{SELECT query_to_xml('SELECT 1', true, true, '')}, q{SELECT pg_notify('a', 'b')}, 'SELECT pg_export_snapshot()',
	'SELECT txid_current()', 'CREATE TEMP TABLE x (a int)', 'SELECT 1 INTO TEMP x', 'CREATE TEMP TABLE x AS SELECT 1', 'CREATE SCHEMA x', 'BEGIN', 'START TRANSACTION', 'COMMIT',
	'ROLLBACK', 'SAVEPOINT a', q{PREPARE TRANSACTION 'x'}, q{SET work_mem = '1GB'}, 'SET ROLE neon_tenant', 'SET SESSION AUTHORIZATION DEFAULT', 'RESET ALL', 'DISCARD ALL', 'SHOW data_directory',
	'SHOW ALL', 'LISTEN neon_proxy', 'NOTIFY neon_proxy', 'UNLISTEN *', q{DO $$ BEGIN PERFORM pg_sleep(100); END $$}, 'PREPARE p AS SELECT 1', 'EXECUTE p', 'DEALLOCATE ALL',
	'DECLARE c CURSOR WITH HOLD FOR SELECT 1', 'FETCH c', 'COPY (SELECT 1) TO STDOUT', 'COPY pg_roles TO STDOUT', q{COPY (SELECT 1) TO PROGRAM 'true'}, 'EXPLAIN ANALYZE SELECT 1',
	'LOCK TABLE pg_class', 'VACUUM', 'ANALYZE', 'CHECKPOINT', 'CLUSTER', 'REINDEX DATABASE postgres', 'ALTER ROLE CURRENT_USER SET work_mem = 1', q{COMMENT ON ROLE CURRENT_USER IS ''},
	q{LOAD 'plpgsql'}, 'SELECT 1; SELECT 1', ';SELECT 1;; BEGIN', 'SELECT 1; -- and then', 'SELECT nonsense', 'no SQL at all', q{SELECT 'x'::int}, q{SELECT '10'::regrole},
	"SELECT 'neon_t_$other->{id}'::regrole", "SELECT 'neon_t_$nobody->{id}'::regrole", "SELECT 'neon_t_$me->{id}'::regrole::text", "SELECT has_schema_privilege('neon_t_$other->{id}', 'pg_catalog', 'USAGE')",
	"DROP ROLE neon_t_$other->{id}", "GRANT neon_t_$other->{id} TO CURRENT_USER", "INSERT INTO neon_controller.tenants VALUES ('x')", 'DELETE FROM neon_pageserver.timeline',
	'SELECT * FROM neon_safekeeper.timelines', 'SELECT neon_pageserver.checkpoint()', 'SELECT neon_pageserver.timeline_state()', "SELECT neon_safekeeper.drop_tenant('$me->{id}')",
	q{SELECT neon_controller.api((SELECT 'branches'), '{}')}, q{SELECT neon_controller.api('branches', '{}') #>> '{}'}, q{SELECT neon_controller.api(pg_sleep(100)::text, '{}')},
	q{SELECT * FROM neon_controller.api('branches', '{}')}, q{SELECT neon_controller.remote('', '', '')}, q{SELECT neon_controller.proxy_endpoint('main')}, 'SELECT neon_branches()',
	'SELECT * FROM neon_branches', "CALL neon_pageserver.pagestream(pg_sleep(100)::text, '')", 'SELECT neon_control(\'branches\', \'{}\')');
for my $node (@nodes)
{
	my $s = login($node, $me->{as});
	my (%kinds, @let_through);
	for my $sql (@statements)
	{
		my $e = error_of($s, $sql);
		push @let_through, name_of($sql) . ": $e->{M}" if $e->{C} ne '42501';
		$kinds{ join '|', map { "$_=$e->{$_}" } sort keys %$e } = $sql;
	}
	is_deeply(\@let_through, [], "$node: " . @statements . ' statements are refused');
	is(scalar(keys %kinds), 1, "$node: all in the same words, without a position or a place in the source") or diag(join "\n", %kinds);
	my ($kind) = keys %kinds;
	like($kind, qr/^C=42501\|H=Run SQL on an endpoint of the tenant\..*\|M=permission denied: a tenant's session/, "$node: with a hint");
	unlike($kind, qr/$other->{id}|\|[PFLRD]=/, "$node: that names nobody");
	is(value($s, 'SELECT 1'), '1', "$node: a sign of life");
	ok(log_text($c, $node) =~ /DETAIL:  column "nonsense" does not exist/, "$node: the log knows more");

	# the fastpath protocol: pg_backend_pid, lo_creat
	for my $f ([ 2026 ], [ 957, -1 ])
	{
		my ($oid, @args) = @$f;
		$s->send('F', pack('N n n n', $oid, 1, 1, scalar @args) . join('', map { pack('N l>', 4, $_) } @args) . pack('n', 1));
		my $r = $s->finish;
		is($r->{error}{C}, '42501', "$node: function $oid by fastpath is refused");
	}
	# the extended protocol
	for my $sql ('SELECT rolname FROM pg_roles', "SELECT 'neon_t_$other->{id}'::regrole", 'BEGIN', 'LISTEN x', 'SELECT pg_sleep($1)')
	{
		$s->raw(RawPg::framed("P", "\0$sql\0\0\0") . RawPg::framed("B", "\0\0\0\0\0\0\0\0\0") . RawPg::framed('E', "\0\0\0\0\0") . RawPg::framed('S', ''));
		my $r = $s->finish;
		is(join('|', map { "$_=$r->{error}{$_}" } sort keys %{ $r->{error} }), $kind, "$node: $sql, prepared, is refused in those words");
	}
	# one that was accepted does not cover the next
	$s->raw(RawPg::framed('P', "\0SELECT 1\0\0\0") . RawPg::framed('P', "\0SELECT 'neon_t_$nobody->{id}'::regrole\0\0\0") . RawPg::framed('S', ''));
	my $r = $s->finish;
	is(join('|', map { "$_=$r->{error}{$_}" } sort keys %{ $r->{error} }), $kind, "$node: also behind a good one");
	$s->raw(RawPg::framed('P', "\0SELECT 1\0\0\0") . RawPg::framed('B', "\0\0\0\0\0\0\0\0") . RawPg::framed('E', "\0" . pack('N', 1)) . RawPg::framed('S', ''));
	is($s->finish->{error}{C}, '42501', "$node: rows are not fetched one by one");
	# no transaction is left open, though the client does not end it
	$s->raw(RawPg::framed('P', "\0SELECT 1\0\0\0") . RawPg::framed('B', "\0\0\0\0\0\0\0\0") . RawPg::framed('E', "\0\0\0\0\0") . RawPg::framed('H', ''));
	ok($c->poll('no transaction', 60, sub { $c->node_sql($node, "SELECT xact_start IS NULL FROM pg_stat_activity WHERE pid = $s->{pid}") eq 't' }),
		"$node: a statement's transaction ends with it");
	$s->close;

	for my $bad ([ 'a setting', options => '-c work_mem=1GB' ], [ 'a setting with --', options => '--work-mem=1GB' ], [ 'a switch', options => '-W 100' ], [ 'a name without a switch', options => 'timezone' ], [ 'a role', options => '-c role=neon_tenant' ],
		[ 'a setting of the packet', work_mem => '1GB' ], [ 'commits that are not waited for', options => '-c timezone=UTC -csynchronous_commit=off' ],
		[ 'another tenant', options => "-c neon.tenant=$other->{id}" ])
	{
		my ($name, %startup) = @$bad;
		refused($c, login($node, $me->{as}, %startup)->{error}, "$node: $name at login", '42501', qr/^permission denied to set parameter/);
	}
	ok(!login($node, $me->{as}, options => '-c TimeZone=UTC', application_name => 'x', client_encoding => 'UTF8')->{error}, "$node: harmless ones are let in");
	for my $database ('template1', 'nowhere')
	{
		refused($c, node_as($c, $node, $me->{as}, dbname => $database)->{error}, "$node: database $database", '42501', qr/^permission denied for this database/);
	}
	for my $bad ([ 'true' ], [ 'database' ])
	{
		refused($c, login($node, $me->{as}, replication => $bad->[0])->{error}, "$node: replication=$bad->[0]", '42501', qr/must be superuser or replication role/, bare => 1);
	}
}

# ---- page stream, base backup, functions, WAL push: own ones serve, others' do not, whether they exist or not
my $lsn = $c->node_sql($ps, "SELECT last_record_lsn FROM neon_pageserver.timelines WHERE timeline = '$other->{tl}'");
sub call_refused
{
	my ($node, $call, $who, $tenant, $timeline, $code) = @_;
	my $s = login($node, $who);
	$call =~ s/\(/('$tenant', '$timeline'/;
	my $e = error_of($s, $call);
	is($e->{C}, $code, "$call is refused");
	my $m = $e->{M};
	$s->close;
	return $m =~ s/$tenant|$timeline/X/gr;
}
my @calls = ([ $ps, 'CALL neon_pageserver.pagestream()' ], [ $ps, "CALL neon_pageserver.basebackup(, '$lsn', '0/0')" ], [ $ps, 'SELECT neon_pageserver.last_record_lsn()' ],
	[ $ps, 'SELECT neon_pageserver.lsn_at(, now_)' =~ s/now_/'2030-01-01'/r ], [ $sk, 'CALL neon_safekeeper.wal_push()' ]);
for my $call (@calls)
{
	my ($node, $sql) = @$call;
	for my $pair ([ $me, $other ], [ $other, $me ])
	{
		my ($who, $whose) = @$pair;
		is(call_refused($node, $sql, $who->{as}, $whose->{id}, $whose->{tl}, '42501'), call_refused($node, $sql, $who->{as}, $nobody->{id}, $nobody->{tl}, '42501'),
			'in the words of a tenant that does not exist');
		is(call_refused($node, $sql, $who->{as}, $who->{id}, $whose->{tl}, '42704'), call_refused($node, $sql, $who->{as}, $who->{id}, $nobody->{tl}, '42704'),
			"the other's timeline under one's own name does not exist either");
	}
}
for my $t (@t)
{
	my $s = login($ps, $t->{as});
	like(value($s, "SELECT neon_pageserver.last_record_lsn('$t->{id}', '$t->{tl}')"), qr/^\w+\/\w+$/, 'the own position can be asked');
	ok($s->copy_both("CALL neon_pageserver.pagestream('$t->{id}', '$t->{tl}')"), 'and the own stream opened');
	$s->copy(page_request(tag => 2, rel => 1259));
	my ($type, $body) = $s->message;
	is(page_answer($body)->{tag}, 102, 'for a page');
	$s->close;
	$s = login($sk, $t->{as});
	ok($s->copy_both("CALL neon_safekeeper.wal_push('$t->{id}', '$t->{tl}')"), 'and the own WAL');
	$s->close;
}

# ---- replication
sub options { my ($tenant, $timeline) = @_; return "-c neon.tenant_id=$tenant -c neon.timeline_id=$timeline"; }
for my $pair ([ $me, $other ], [ $other, $me ])
{
	my ($who, $whose) = @$pair;
	my %said;
	for my $x ([ 'other', $whose->{id}, $whose->{tl}, '42501' ], [ 'nobody', $nobody->{id}, $nobody->{tl}, '42501' ], [ 'timeline', $who->{id}, $whose->{tl}, '42704' ],
		[ 'no timeline', $who->{id}, $nobody->{tl}, '42704' ])
	{
		my ($name, $tenant, $timeline, $code) = @$x;
		my $e = login($sk, $who->{as}, replication => 'true', options => options($tenant, $timeline))->{error};
		is($e->{C}, $code, "replication of $name is refused");
		$said{$name} = $e->{M} =~ s/$tenant/X/gr;
	}
	is($said{other}, $said{nobody}, 'in the words of a tenant that does not exist');
	is($said{timeline}, $said{'no timeline'}, 'and of a timeline that does not');
	my $s = login($sk, $who->{as}, replication => 'true', options => options($who->{id}, $who->{tl}));
	my $system = $c->node_sql($sk, "SELECT system_id FROM neon_safekeeper.timeline WHERE timeline = '$who->{tl}'");
	is($s->query('IDENTIFY_SYSTEM')->{rows}[0][0], $system, 'one sees the own system');
	is(error_of($s, 'SELECT rolname FROM pg_roles')->{C}, '0A000', 'which speaks no SQL');
	ok($s->copy_both('START_REPLICATION 0/1000000'), 'and reads the own WAL');
	$s->close;
}

# ---- the controller
my $s = login('controller', $me->{as});
sub api { my ($fn, $args, $timeline) = @_; return value($s, "SELECT neon_controller.api('$fn', '$args', " . ($timeline ? "'$timeline'" : 'NULL') . ')'); }
for my $list ('tenants', 'branches', 'endpoints')
{
	my $text = api($list, '{}');
	like($text, qr/$me->{id}/, "$list: the own are seen");
	unlike($text, qr/$other->{id}|hidden|"other"/, 'and no others');
}
for my $fn ('nodes', 'create_tenant', 'drop_tenant')
{
	like(api($fn, '{"name": "other"}'), qr/^error 42501 only the cluster's administrator/, "$fn is not for tenants");
}
my @wrong = (
	[ 'connection_uri', '{"branch": "%s"}' ], [ 'create_branch', '{"name": "x", "parent": "%s"}' ], [ 'drop_branch', '{"name": "%s"}' ], [ 'reset_branch', '{"name": "%s"}' ],
	[ 'restore_branch', '{"name": "%s", "at_lsn": "0/1600000"}' ], [ 'protect_branch', '{"name": "%s"}' ], [ 'set_branch', '{"name": "%s", "setting": "work_mem", "value": "1MB"}' ],
	[ 'rename_branch', '{"name": "%s", "new_name": "y"}' ], [ 'create_endpoint', '{"name": "x", "branch": "%s", "mode": "read-write"}' ], [ 'start_endpoint', '{"name": "%s"}' ],
	[ 'suspend_endpoint', '{"name": "%s"}' ], [ 'drop_endpoint', '{"name": "%s"}' ], [ 'checkpoint', '{"tenant": "%s"}' ]);
for my $w (@wrong)
{
	my ($fn, $args) = @$w;
	my ($theirs, $none) = $fn eq 'checkpoint' ? ($other->{id}, $nobody->{id}) : ('hidden', 'not_there');
	my ($real, $unreal) = map { api($fn, sprintf $args, $_) =~ s/$_/X/gr } $theirs, $none;
	like($real, qr/^error NE\d\d\d .* does not exist$/, "$fn of the other's is refused");
	is($real, $unreal, 'as if it did not exist');
}
is(api('current_branch', '{}', $other->{tl}) // 'none', 'none', "the other's timeline is no branch of ours");
is(api('current_branch', '{}', $me->{tl}), '"main"', 'our own is');
my ($theirs, $none) = map { value($s, "SELECT neon_controller.console_token('$_')") } 'other', 'not_there';
like($theirs, qr/^error 42501/, "no token for the other's console");
is($theirs, $none, 'as for nobody');
like(value($s, 'SELECT neon_controller.console_token()'), qr/^[0-9a-f]{64}$/, 'but for the own');
$s->close;

# ---- an endpoint
is($c->sql('main', 'SELECT count(*), count(DISTINCT tenant), min(tenant) FROM neon_branches'), "1|1|$me->{id}", 'an endpoint shows its own branches');
is($c->sql('main', 'SELECT string_agg(id, $$ $$) FROM neon_tenants'), $me->{id}, 'its own tenant');
($rc, $out, $err) = $c->psql_uri($c->uri('main'), q{SELECT neon_connection_uri('hidden')});
like($err, qr/branch "hidden" does not exist/, 'and no way to the other');
$c->sql('main', q{CREATE ROLE ordinary LOGIN PASSWORD 'o'});
my $ordinary = RawPg->connect(RawPg::parse($c->uri('main')), user => 'ordinary', password => 'o');
for my $sql ('SELECT * FROM neon_branches', q{SELECT neon_create_branch('x')}, 'SHOW neon.controller_connstring', 'SHOW neon.safekeepers', 'SHOW neon.pageserver_connstring',
	q{SELECT neon_control('branches', '{}')}, 'SELECT neon_connection_uri()')
{
	like(value($ordinary, $sql), qr/^error 42501 (?:permission denied|must be superuser or (?:a member|have privileges) of)/, "an ordinary role may not: $sql");
}

# ---- the proxy
my $proxy_port = $c->{port} + 30;
sub through { my ($endpoint_of, $password) = @_; return $c->psql_uri("postgresql://postgres:$password\@127.0.0.1:$proxy_port/postgres?options=endpoint%3Dmain-" . substr($endpoint_of->{id}, 0, 8), 'SELECT a FROM secret'); }
($rc, $out, $err) = through($other, $other->{role_password});
is("$rc|$out", '0|of the other', 'the proxy lets the other tenant in') or diag($err);
($rc, undef, $err) = through($other, $me->{role_password});
like($err, qr/password authentication failed/, 'but not us');
($rc, undef, $err) = through($me, $other->{role_password});
like($err, qr/password authentication failed/, 'nor the other one here');
($rc, undef, $err) = through($me, $me->{role_password});
like($err, qr/relation "secret" does not exist/, 'and with our own password we see our own');

# ---- dropped: sessions end, the credential is refused like one that never was
my %open = map { $_ => login($_, $other->{as}) } @nodes;
my $stream = login($ps, $other->{as});
ok($stream->copy_both("CALL neon_pageserver.pagestream('$other->{id}', '$other->{tl}')"), 'a stream of the other is open');
my $replication = login($sk, $other->{as}, replication => 'true', options => options($other->{id}, $other->{tl}));
ok($replication->copy_both('START_REPLICATION 0/1000000'), 'and a replication connection');
$c->node_sql('controller', q{SET client_min_messages = warning; SELECT neon_drop_tenant('other')});
for my $node (@nodes)
{
	is($c->node_sql($node, "SELECT count(*) FROM pg_roles WHERE rolname = 'neon_t_$other->{id}'"), '0', "$node: the role is gone");
	ok($c->poll('sessions end', 60, sub { $c->node_sql($node, "SELECT count(*) FROM pg_stat_activity WHERE pid IN ($open{$node}{pid}, $stream->{pid}, $replication->{pid}) AND backend_type IN ('client backend', 'walsender')") eq '0' }),
		"$node: and its sessions");
	my $gone = login($node, $other->{as})->{error};
	my $never = login($node, [ $nobody->{id}, 'x' ])->{error};
	is($gone->{C}, '28P01', "$node: the credential is refused");
	is($gone->{M} =~ s/$other->{id}/X/r, $never->{M} =~ s/$nobody->{id}/X/r, 'like one that never was');
}
is(login($sk, $other->{as}, replication => 'true', options => options($other->{id}, $other->{tl}))->{error}{C}, '28P01', 'for replication as well');
ok($c->poll('the proxy knows', 60, sub { my ($r) = through($other, $other->{role_password}); $r != 0 }), 'the proxy lets nobody in there');
is(call_refused($ps, 'CALL neon_pageserver.pagestream()', $me->{as}, $other->{id}, $other->{tl}, '42501'),
	call_refused($ps, 'CALL neon_pageserver.pagestream()', $me->{as}, $nobody->{id}, $nobody->{tl}, '42501'), 'what was theirs is as if it had never been');
is($c->sql('main', 'CREATE TABLE after_all AS SELECT 1 AS a; SELECT a FROM after_all'), '1', 'we go on');
is(crashes($c, @nodes), '', 'and no process crashed');

done_testing();
