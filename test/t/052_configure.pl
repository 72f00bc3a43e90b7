# An endpoint's inside from a specification: roles, databases, extensions, settings; and the limits its host sets it.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use Test::More;

# Control groups of version 1 that this test may make, if the machine has them.
my @groups;
if ($> == 0)
{
	for my $kind (qw(memory cpu))
	{
		my $d = "/sys/fs/cgroup/$kind/neon_test_$$";
		next unless -e "/sys/fs/cgroup/$kind/cgroup.procs" && mkdir $d;
		chown scalar getpwnam('postgres'), -1, $d, glob("$d/*");
		push @groups, $d;
	}
}
END { my $rc = $?; rmdir $_ for map { (glob("$_/*-main"), $_) } @groups; $? = $rc; }

my $c = NeonCluster->new(init => [ '--safekeepers', 1 ],
	conf => { controller => "neon_compute_tools.cgroup_directories = '" . join(',', @groups, '/nonexistent') . "'" });
$c->start;
sub ctl { my ($sql) = @_; return $c->node_sql('controller', "SET neon.tenant = 'default'; $sql"); }
sub try_ctl { my ($sql) = @_; return $c->psql_uri($c->node_uri('controller'), "SET neon.tenant = 'default'; $sql"); }
sub configure { my ($spec) = @_; return ctl("SELECT neon_configure_endpoint('main', '$spec')"); }

# our own background workers take none of those that queries have on a stock server
like($c->sql('main', q{CREATE TABLE wide AS SELECT i FROM generate_series(1, 100000) i; ALTER TABLE wide SET (parallel_workers = 7);
	SET max_parallel_workers_per_gather = 7; SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0; EXPLAIN (ANALYZE, COSTS off, TIMING off) SELECT sum(i) FROM wide; DROP TABLE wide}),
	qr/Workers Launched: 7/, 'a query gets as many workers as on a stock server');

my $spec = q({"roles": [{"name": "owner", "password": "secret", "createdb": true}, {"name": "Ann''s", "login": false, "member_of": ["pg_monitor"]}],
	"databases": [{"name": "app", "owner": "owner"}, {"name": "it''s \"x\""}],
	"extensions": [{"name": "pgcrypto", "database": "app"}, {"name": "earthdistance", "database": "app"}],
	"settings": {"work_mem": "7MB", "max_connections": "77", "cluster_name": "a\\\\b''s", "app.path": "C:\\\\dir\\\\new"}});
is(configure($spec), q({"created": ["role owner", "role Ann's", "database app", "database it's \"x\"", "extension pgcrypto", "extension earthdistance"], "pending_restart": ["app.path", "cluster_name", "max_connections"]}),
	'everything is created, and it is said what wants a restart');
is(configure($spec), q({"created": [], "pending_restart": ["app.path", "cluster_name", "max_connections"]}), 'the second time there is nothing to create');
my $app = $c->uri('main') =~ s{postgres:[^@]*@}{owner:secret\@}r =~ s{/postgres$}{/app}r;
is(($c->psql_uri($app, 'SELECT current_user, count(*) FROM pg_extension WHERE extname IN (\'pgcrypto\', \'earthdistance\', \'cube\')'))[1], 'owner|3', 'the role logs in, and has its extensions with what they need');
is($c->sql('main', q{SELECT string_agg(rolname || rolcanlogin || rolcreatedb, ',' ORDER BY rolname COLLATE "C") FROM pg_roles WHERE rolname IN ('owner', 'Ann''s')}), "Ann'sfalsefalse,ownertruetrue", 'roles are as told');
is($c->sql('main', q{SELECT pg_has_role('Ann''s', 'pg_monitor', 'member')}), 't', 'memberships too');
ok($c->poll('the setting applies', 60, sub { $c->sql('main', 'SHOW work_mem') eq '7MB' }), 'a setting is changed without a restart');
isnt($c->sql('main', 'SHOW max_connections'), '77', 'one that wants a restart waits for it');
ctl(q{SELECT neon_suspend_endpoint('main')});
ctl(q{SELECT neon_start_endpoint('main')});
is($c->sql('main', 'SHOW max_connections') . $c->sql('main', 'SHOW work_mem'), '777MB', 'after it both hold');
is($c->sql('main', 'SHOW cluster_name') . ' ' . $c->sql('main', 'SHOW app.path'), q{a\b's C:\dir\new}, 'backslashes and quotes come as they are, and settings that no module knows');
configure(q({"settings": {"work_mem": null}}));
ok($c->poll('the setting is reset', 60, sub { $c->sql('main', q{SELECT setting FROM pg_settings WHERE name = 'work_mem'}) eq '4096' }), 'a setting is taken back');
$c->stop('main');
$c->start('main');
is($c->sql('main', 'SHOW work_mem'), '4MB', 'and stays so');

# what users set for their sessions does not shut the control plane out, which can take it back
ctl(q{SELECT neon_set_branch('main', 'statement_timeout', '1ms'), neon_set_branch('main', 'default_transaction_read_only', 'on'), neon_set_branch('main', 'session_preload_libraries', 'not_there')});
ok($c->poll('nobody gets in', 60, sub { my (undef, undef, $err) = $c->psql_uri($c->uri('main'), 'SELECT 1'); $err =~ /could not access file "not_there"/ }), 'a library that is not there shuts everybody out');
is(configure(q({"roles": [{"name": "late"}]})), q({"created": ["role late"], "pending_restart": []}), 'but not the control plane');
ctl(q{SELECT neon_set_branch('main', 'statement_timeout', NULL), neon_set_branch('main', 'default_transaction_read_only', NULL), neon_set_branch('main', 'session_preload_libraries', NULL)});
ok($c->poll('they get in', 60, sub { my ($rc) = $c->psql_uri($c->uri('main'), 'SELECT 1'); $rc == 0 }), 'and it is taken back');

for my $bad (
	[ q({"extensions": [{"name": "no_such_thing"}], "databases": [{"name": "never"}]}), qr/this host does not have the extension: no_such_thing.*DETAIL.*HINT:.*package/s, 'an extension that is not installed' ],
	[ q({"settings": {"no_such_setting": "1"}}), qr/unrecognized configuration parameter "no_such_setting"/, 'an unknown setting' ],
	[ q({"settings": {"fsync": "on"}}), qr/setting "fsync" cannot be changed/, 'a setting of the system' ],
	[ q({"settings": {"neon.safekeepers": "x"}}), qr/setting "neon.safekeepers" cannot be changed/, 'one of ours' ],
	[ q({"settings": {"work_mem": "lots"}}), qr/invalid value for parameter "work_mem"/, 'a value that makes no sense' ],
	[ q({"settings": {"a b": "1"}}), qr/invalid setting name "a b"/, 'a name that makes no sense' ],
	[ q([]), qr/must be an object.*HINT/s, 'a configuration that is none' ],
	(map { [ $_, qr/malformed parts of a configuration: (?:roles|databases|settings).*HINT/s, 'a part of another shape' ] } q({"roles": {}}), q({"roles": [{}]}), q({"databases": ["x"]}),
		q({"settings": ["x"]}), q({"settings": {"app.list": ["x"]}})),
	[ q({"rolls": []}), qr/unknown parts of a configuration: rolls.*HINT/s, 'a part that makes no sense' ])
{
	my ($rc, undef, $err) = try_ctl("SELECT neon_configure_endpoint('main', '$bad->[0]')");
	isnt($rc, 0, "refused: $bad->[2]");
	like($err, $bad->[1], 'with the reason');
}
is($c->sql('main', q{SELECT count(*) FROM pg_database WHERE datname = 'never'}), '0', 'nothing was changed by them');

# ---- limits
is(ctl(q{SELECT neon_set_endpoint('main', 'memory_mb', '512')}), '512', 'a limit of memory');
is(ctl(q{SELECT neon_set_endpoint('main', 'cpu_percent', '150')}), '150', 'a limit of CPU');
isnt((try_ctl(qq{SELECT neon_set_endpoint('main', '$_->[0]', '$_->[1]')}))[0], 0, "refused: @$_") for [ 'memory_mb', 'x' ], [ 'memory_mb', '1' ], [ 'cpu_percent', '-5' ];
ctl(q{SELECT neon_suspend_endpoint('main')});
ctl(q{SELECT neon_start_endpoint('main')});
is($c->sql('main', 'SELECT 1'), '1', 'it starts, whether the host can limit it or not');
SKIP:
{
	skip 'no control groups of version 1 that this test may make', 4 unless @groups == 2;
	my ($name) = $c->status->{main}{dir} =~ m{([^/]+)$};
	my $read = sub { open my $f, '<', $_[0] or return "none: $_[0]"; local $/; return <$f> =~ s/\s+$//r; };
	is($read->("$groups[0]/$name/memory.limit_in_bytes"), 512 * 1024 * 1024, 'the limit of memory is set');
	is($read->("$groups[1]/$name/cpu.cfs_quota_us"), 150000, 'that of CPU too');
	my $pid = $c->pid('main');
	like($read->("$groups[0]/$name/cgroup.procs"), qr/^$pid$/m, 'the server is in the group');
	ctl(q{SELECT neon_suspend_endpoint('main')});
	ok(!-e "$groups[0]/$name", 'the group goes with it');
}

done_testing();
