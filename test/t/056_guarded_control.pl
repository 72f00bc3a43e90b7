# What a session's settings, a role, a server or a file says does not become an order to what works for everybody.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use Test::More;

my $c = NeonCluster->new(init => [ '--safekeepers', 1 ]);
$c->start;
sub ctl { my ($sql) = @_; return $c->node_sql('controller', "SET neon.tenant = 'default'; $sql"); }
sub refused { my ($uri, $sql, $like, $name) = @_; my ($rc, $out, $err) = $c->psql_uri($uri, $sql); like($err, $like, $name) or diag "$rc: $out"; }
$c->sql('main', q{CREATE TABLE t (a int); INSERT INTO t VALUES (1); CREATE ROLE plain LOGIN PASSWORD 'plain'; CREATE ROLE starter LOGIN PASSWORD 'starter';
	GRANT EXECUTE ON FUNCTION neon_start_endpoint, neon_create_endpoint TO starter; GRANT CREATE ON SCHEMA public TO plain});
sub as { my ($role) = @_; return $c->uri('main') =~ s{//[^@]*@}{//$role:$role@}r; }

# ---- a time means the same in every DateStyle
my $time = $c->sql('main', 'SELECT clock_timestamp()');
my $then = ctl("SELECT neon_lsn_at('$time')");
$c->sql('main', 'INSERT INTO t VALUES (2)');
is(ctl("SET datestyle = '$_'; SELECT neon_lsn_at('$time')"), $then, "a moment is the same with DateStyle $_") for 'SQL, DMY', 'German', 'Postgres, MDY';
is(ctl("SET timezone = 'Asia/Kolkata'; SET datestyle = 'SQL, DMY'; SELECT neon_lsn_at('$time')"), $then, 'and in another time zone');

# ---- an error of a server that is asked is caught like any other
for my $code (qw(57014 P0004))
{
	is(ctl(qq{DO \$\$ BEGIN
		PERFORM neon_compute_tools.query(neon_compute_tools.compute_conninfo(directory, provider, 'template1'), \$q\$DO \$x\$ BEGIN RAISE 'no' USING ERRCODE = '$code'; END \$x\$ \$q\$)
			FROM neon_controller.endpoints;
		EXCEPTION WHEN OTHERS THEN PERFORM set_config('test.said', SQLSTATE || SQLERRM, false); END \$\$; SHOW test.said}), '57000no', "$code of another server ends nobody here");
}

# ---- who may start a server does not get its administrator's password
my ($rc, $out, $err) = $c->psql_uri(as('starter'), q{SELECT neon_start_endpoint('main')});
is($rc, 0, 'a role may start an endpoint') or diag $err;
like($out, qr{^postgresql://postgres\@127\.0\.0\.1:\d+/postgres$}, 'and sees its address without the password');
like($c->sql('main', q{SELECT neon_start_endpoint('main')}), qr{^postgresql://postgres:[0-9a-f]+\@}, 'a superuser sees all of it');

# ---- messages that anybody may send are no files
my $long = 'a' x 200;
($rc, $out, $err) = $c->psql_uri(as('plain'), join ';', map { "SELECT pg_logical_emit_message(false, 'neon-file:$_->[0]', '$_->[1]')" }
	[ 'postgresql.auto.conf', "neon.safekeepers = ''''" ], [ 'standby.signal', 'x' ], [ 'pg_xact/0000', 'x' ], [ 'global/pg_control', 'x' ], [ $long, 'x' ], [ 'pg_replslot/x/state', 'x' ]);
is($rc, 0, 'a plain role may send messages') or diag $err;
my $dir = $c->status->{main}{dir};
$c->stop('main');
system('rm', '-rf', $dir);
$c->start('main');
is($c->sql('main', q{SELECT count(*), pg_is_in_recovery(), current_setting('neon.safekeepers') <> '' FROM t}), '2|f|t', 'none of them is in the next data directory');
is(-s "$dir/postgresql.auto.conf", 0, 'settings are not') and ok(!-e "$dir/pg_replslot/x", 'slots are not');

# ---- nor is a function of theirs called by those who administer
$c->psql_uri(as('plain'), q{CREATE FUNCTION public.evil(jsonb, text, text) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'evil was called by %', current_user; END $$;
	CREATE AGGREGATE public.jsonb_object_agg(text, text) (SFUNC = public.evil, STYPE = jsonb)});
like($c->sql('main', q{SELECT neon_create_endpoint('eyes', 'main', mode => 'replica')}), qr/^postgresql:/, 'a replica is started');

# ---- a dropped replica leaves what its writer needs
$c->sql('eyes', 'SELECT 1');
ctl(q{SELECT neon_suspend_endpoint('main')});
my $kept = ctl('SELECT count(*) FROM neon_controller.role_secrets');
cmp_ok($kept, '>', 1, 'verifiers of a sleeping endpoint are kept');
ctl(q{SELECT neon_drop_endpoint('eyes')});
is(ctl('SELECT count(*) FROM neon_controller.role_secrets'), $kept, 'and stay when its replica is dropped');
ctl(q{SELECT neon_start_endpoint('main')});

# ---- settings that would end the branch's only server for good
for my $s ([ max_slot_wal_keep_size => '64MB', qr/cannot be changed.*HINT:/s ], [ max_worker_processes => '1', qr/cannot be less than.*HINT:/s ],
	[ max_connections => '3', qr/must be less than max_connections.*HINT:/s ], [ superuser_reserved_connections => '500', qr/must be less than max_connections.*HINT:/s ])
{
	refused($c->node_uri('controller'), "SET neon.tenant = 'default'; SELECT neon_set_branch('main', '$s->[0]', '$s->[1]')", $s->[2], "refused: $s->[0] = $s->[1]");
}
$c->sql('main', q{ALTER SYSTEM SET max_slot_wal_keep_size = '64MB'; SELECT pg_reload_conf()});
$c->sql('main', 'SELECT pg_sleep(0.5)');
is($c->sql('main', 'SHOW max_slot_wal_keep_size'), '-1', 'WAL that no quorum has is kept whatever is configured');

# ---- the cluster's own file is read, not run
ctl(q{SELECT neon_create_tenant('second')});
my $conf = "$c->{dir}/neon_local.conf";
open my $f, '<', $conf or die $!;
my $good = do { local $/; <$f> };
close $f;
sub write_conf { my ($text) = @_; open my $w, '>', $conf or die $!; print $w $text; close $w; return; }
for my $bad ("touch $c->{tmp}/run", "PASSWORD=\$(touch $c->{tmp}/run)", "BASE_PORT=a[\$(touch $c->{tmp}/run)]", "PATH=$c->{tmp}")
{
	write_conf("$good$bad\n");
	ok(!eval { $c->status; 1 }, "refused: $bad");
	like($@, qr/a line that neon_local has not written.*hint:/s, 'with a hint');
}
ok(!-e "$c->{tmp}/run", 'nothing of it was run');
write_conf($good);

# ---- a cluster that is started again has the endpoints that ran, of all tenants
$c->stop;
$c->start;
is(ctl(q{SELECT string_agg(t.name || ' ' || s.state, ', ' ORDER BY t.name) FROM neon_controller.endpoints e JOIN neon_controller.tenants t ON t.id = e.tenant, neon_controller.endpoint_seen(e) s}),
	'default running, second running', 'endpoints of all tenants run again');
done_testing();
