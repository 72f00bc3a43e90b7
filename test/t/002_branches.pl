# Branches from now, from a past LSN, from a past time, of branches; each writes on its own and the parent does not change.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use Test::More;

my $c = NeonCluster->new;
$c->start;

sub checksums
{
	my ($ep) = @_;
	return $c->sql($ep, q{
		SELECT string_agg(format('%s %s', n, h), E'\n' ORDER BY n) FROM (
			SELECT c.oid::regclass::text AS n, (xpath('/row/h/text()', query_to_xml(
				format('SELECT md5(string_agg(t::text, E''\n'' ORDER BY t::text)) AS h FROM %s t', c.oid::regclass), true, true, '')))[1]::text AS h
			FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace) s});
}

$c->sql('main', q{
	CREATE TABLE acct (id int PRIMARY KEY, v int);
	INSERT INTO acct SELECT i, 0 FROM generate_series(1, 1000) i;
	CREATE TABLE log (at timestamptz DEFAULT clock_timestamp(), step text);
	INSERT INTO log (step) VALUES ('one');
});
my $lsn1 = $c->sql('main', 'SELECT pg_current_wal_lsn()');
my $sum1 = checksums('main');
my $time1 = $c->sql('main', q{SELECT pg_sleep(0.2); SELECT clock_timestamp(); SELECT pg_sleep(0.2)});
$time1 =~ s/^\n|\n$//g;
($time1) = grep { /\d/ } split /\n/, $time1;
$c->sql('main', q{
	UPDATE acct SET v = v + 1;
	INSERT INTO log (step) VALUES ('two');
	DROP TABLE IF EXISTS gone;
	CREATE TABLE later (a int);
	INSERT INTO later VALUES (1);
});
my $sum2 = checksums('main');

# from inside the endpoint's own psql
like($c->sql('main', q{SELECT neon_create_branch('dev')}), qr/^[0-9a-f]{32}$/, 'branch from now, in SQL on the endpoint');
like($c->sql('main', q{SELECT neon_create_endpoint('dev')}), qr/^postgresql:/, 'its endpoint');
is(checksums('dev'), $sum2, 'branch has what was committed before');
$c->sql('dev', q{DELETE FROM acct WHERE id <= 500; DROP TABLE later; CREATE TABLE only_dev AS SELECT 1 AS a; VACUUM acct});
is(checksums('main'), $sum2, 'parent is unchanged by the branch');
$c->sql('main', q{INSERT INTO log (step) VALUES ('three'); UPDATE acct SET v = 7 WHERE id = 900});
is($c->sql('dev', q{SELECT count(*), max(v) FROM acct}), '500|1', 'branch is unchanged by the parent');

# from the controller, at an LSN
$c->node_sql('controller', qq{SELECT neon_create_branch('at_lsn', parent => 'main', at_lsn => '$lsn1')});
$c->node_sql('controller', q{SELECT neon_create_endpoint('at_lsn')});
is(checksums('at_lsn'), $sum1, 'branch from a past LSN');

# at a time
$c->sql('main', qq{SELECT neon_create_branch('at_time', at_time => '$time1')});
$c->sql('main', q{SELECT neon_create_endpoint('at_time')});
is(checksums('at_time'), $sum1, 'branch from a past time');

# a branch of a branch
$c->sql('dev', q{SELECT neon_create_branch('dev2')});
$c->sql('dev', q{SELECT neon_create_endpoint('dev2')});
is(checksums('dev2'), checksums('dev'), 'branch of a branch');
$c->sql('dev2', q{INSERT INTO only_dev VALUES (2)});
is($c->sql('dev', 'SELECT count(*) FROM only_dev'), '1', 'its parent is unchanged');
is($c->sql('dev2', 'SELECT neon_current_branch()'), 'dev2', 'an endpoint knows its branch');

# an uncommitted transaction is not in a branch
my $h_out = '';
$c->sql('main', q{BEGIN; INSERT INTO log (step) VALUES ('open'); SELECT neon_create_branch('no_open'); COMMIT});
$c->sql('main', q{SELECT neon_create_endpoint('no_open')});
is($c->sql('no_open', q{SELECT count(*) FROM log WHERE step = 'open'}), '0', 'a branch holds nothing of the calling transaction');
is($c->sql('main', q{SELECT count(*) FROM log WHERE step = 'open'}), '1', 'which itself commits');

# errors lose nothing and say what to do
for my $bad (
	[ q{SELECT neon_create_branch('dev')}, qr/already exists/ ],
	[ q{SELECT neon_create_branch('Bad Name')}, qr/invalid branch name/ ],
	[ q{SELECT neon_create_branch('x', parent => 'nope')}, qr/branch "nope" does not exist/ ],
	[ q{SELECT neon_create_branch('x', at_lsn => '0/10')}, qr/before branch/ ],
	[ q{SELECT neon_create_branch('x', at_lsn => 'FF/10')}, qr/beyond the end/ ],
	[ q{SELECT neon_create_branch('x', at_time => now() + interval '1 day')}, qr/in the future/ ],
	[ q{SELECT neon_create_branch('x', at_time => '2001-01-01')}, qr/before branch "main" began/ ],
	[ q{SELECT neon_drop_branch('dev')}, qr/has children/ ],
	[ q{SELECT neon_reset_branch('dev')}, qr/has children/ ],
	[ q{SELECT neon_restore_branch('dev', at_time => '2001-01-01')}, qr/before branch "dev" began/ ],
	[ q{SELECT neon_restore_branch('dev', at_time => now() + interval '1 day')}, qr/in the future/ ],
	[ q{SELECT neon_create_endpoint('again', 'dev')}, qr/already has the read-write endpoint/ ])
{
	my ($rc, $out, $err) = $c->psql_uri($c->uri('main'), $bad->[0]);
	ok($rc != 0 && $err =~ $bad->[1] && $err =~ /HINT/, $bad->[0]) or diag($err);
}

# restored in place to a time; the calling transaction, the other branches and what the branch was stay as they are
my $dev2 = checksums('dev2');
$c->sql('dev', q{INSERT INTO only_dev VALUES (3); SELECT pg_sleep(0.2)});
my $good = $c->sql('dev', 'SELECT clock_timestamp()');
$c->sql('dev', q{SELECT pg_sleep(0.2); DROP TABLE acct});
my $kept = $c->sql('main', qq{SELECT neon_restore_branch('dev', at_time => '$good')});
like($kept, qr/^dev_old_\d{14}$/, 'a restore keeps the old head under a name');
is($c->sql('dev', 'SELECT (SELECT count(*) FROM acct), (SELECT count(*) FROM only_dev)'), '500|2', 'the branch is what it was at that time');
is($c->sql('main', q{SELECT string_agg(name || ' of ' || parent, ', ' ORDER BY name) FROM neon_branches WHERE name LIKE 'dev%'}),
	"dev of $kept, dev2 of $kept, $kept of main", 'its children belong to the old head');
is(checksums('dev2'), $dev2, 'and are as they were');
$c->sql('main', qq{SELECT neon_create_endpoint('$kept')});
is($c->sql($kept, q{SELECT to_regclass('acct') IS NULL, (SELECT count(*) FROM only_dev)}), 't|2', 'the old head has everything up to the restore');
$c->sql('dev', q{INSERT INTO only_dev VALUES (4)});
is($c->sql($kept, 'SELECT count(*) FROM only_dev'), '2', 'and nothing of afterwards');
# to before it was made: as its parent was then
$c->sql('main', qq{SELECT neon_restore_branch('dev', at_time => '$time1', keep_as => 'dev_second')});
is(checksums('dev'), $sum1, 'a branch is restored to a time before it was made');
$c->sql('main', q{SELECT neon_restore_branch('dev', at_time => now(), keep_as => 'dev_third')});
is(checksums('dev'), $sum1, 'and to now');
# a suspended one stays suspended
$c->sql('main', q{SELECT neon_suspend_endpoint('dev'); SELECT neon_reset_branch('dev')});
is($c->sql('main', q{SELECT state FROM neon_endpoints WHERE name = 'dev'}), 'suspended', 'reset of a branch whose endpoint sleeps');
$c->sql('main', q{SELECT neon_start_endpoint('dev')});
is(checksums('dev'), $sum1, 'its parent is the old head of before');
$c->sql('dev', q{DELETE FROM acct WHERE id <= 500; UPDATE acct SET v = 1});

# restart of the branch's endpoint, then drop
$c->sql('main', q{SELECT neon_suspend_endpoint('dev')});
$c->sql('main', q{SELECT neon_start_endpoint('dev')});
is($c->sql('dev', q{SELECT count(*), max(v) FROM acct}), '500|1', 'branch survives a restart of its endpoint');
$c->sql('main', qq{SELECT neon_drop_branch('$kept', cascade => true); SELECT neon_drop_branch('dev_third', cascade => true)});
is($c->sql('main', q{SELECT string_agg(name, ' ' ORDER BY name) FROM neon_branches}), 'at_lsn at_time main no_open', 'branches and their children are gone');
is($c->sql('main', 'SELECT count(*), max(v) FROM acct'), '1000|7', 'parent is whole');

done_testing();
