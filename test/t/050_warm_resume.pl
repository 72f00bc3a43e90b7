# A suspended endpoint starts again in its own directory, with its page cache, only where that is certain to be right.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use NeonCluster;
use IPC::Run;
use Test::More;
use Time::HiRes qw(sleep);

my $c = NeonCluster->new;
$c->start;
my $port = $c->status->{main}{port};

sub ctl { my ($sql) = @_; return $c->node_sql('controller', "SET neon.tenant = 'default'; $sql"); }
sub suspend { ctl(q{SELECT neon_suspend_endpoint('main')}); return; }
sub wake { ctl(q{SELECT neon_start_endpoint('main')}); return last_start(); }
sub last_start { return ctl(q{SELECT (last_start ->> 'warm') || coalesce(': ' || (last_start ->> 'not_warm'), '') FROM neon_controller.endpoints WHERE name = 'main'}); }
my $dir = $c->status->{main}{dir};
sub dir { return $dir; }
sub sealed { return dir() . "/neon/warm.sealed"; }
sub log_text { local $/; open my $f, '<', dir() . '/compute.log' or die; return <$f>; }
sub cache { my ($column) = @_; return $c->sql('main', "SELECT $column FROM pg_stat_neon_page_cache"); }

# Page truth of every permanent relation of every database, through pages that are read again.
sub differences
{
	my $n = 0;
	for my $db (split /\n/, $c->sql('main', q{SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1}))
	{
		my ($rc, $out, $err) = $c->psql_uri($c->uri('main') =~ s{/postgres$}{/$db}r, q{
			SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS neon;
			SELECT count(*) > 100, coalesce(sum(neon_test_compare(oid)), 0) FROM pg_class WHERE relkind IN ('r', 'i', 'm', 't', 'S') AND relpersistence = 'p'});
		die $err if $rc != 0;
		diag $err if $err ne '';
		return "$db: $out" if $out ne 't|0';
	}
	return 0;
}

# Everything that was committed, in an order of its own.
sub content { return $c->sql('main', q{SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t}) . $c->sql('main', q{SELECT count(*), sum(abalance) FROM pgbench_accounts}); }

# A file's bytes, changed.
sub edit_file
{
	my ($path, $code) = @_;
	open my $f, '+<:raw', $path or die "$path: $!";
	my $text = do { local $/; <$f> };
	$code->(\$text);
	seek $f, 0, 0;
	truncate $f, 0;
	print $f $text;
	close $f;
}
sub flip { my ($path, $at) = @_; edit_file($path, sub { my ($t) = @_; substr($$t, $at, 1) = chr(ord(substr($$t, $at, 1)) ^ 1) }); }

# ---- relations of every kind, in small caches so that pages come and go
ctl(q{UPDATE neon_controller.endpoints SET settings = '{"shared_buffers": "2MB", "neon.file_cache_size_limit": "32MB"}'});
$c->stop('main');
$c->start('main');
is(last_start(), 'false: it was not stopped cleanly by the controller', 'stopped by hand: from nothing');
$c->sql('main', q{
	CREATE TABLE t (id int PRIMARY KEY, s text, p point, a int[], big text);
	INSERT INTO t SELECT i, md5(i::text), point(i, i), ARRAY[i, i % 10], CASE WHEN i % 500 = 0 THEN (SELECT string_agg(md5((i + k)::text), '') FROM generate_series(1, 300) k) END
		FROM generate_series(1, 4000) i;
	CREATE INDEX t_hash ON t USING hash (s);
	CREATE INDEX t_gist ON t USING gist (p);
	CREATE INDEX t_spgist ON t USING spgist (p);
	CREATE INDEX t_gin ON t USING gin (a);
	CREATE INDEX t_brin ON t USING brin (id);
	CREATE UNLOGGED TABLE u (a int PRIMARY KEY);
	INSERT INTO u SELECT generate_series(1, 3000);
	CREATE SEQUENCE seq;
	SELECT nextval('seq') FROM generate_series(1, 10);
	CREATE TABLE two_phase (a int);
	BEGIN; INSERT INTO two_phase VALUES (1); PREPARE TRANSACTION 'prepared';
});
IPC::Run::run([ 'pgbench', '-i', '-q', '-s', 1, $c->uri('main') ], '>', '/dev/null', '2>', '/dev/null') or die 'pgbench -i';
sub load { IPC::Run::run([ 'pgbench', '-n', '-c', 4, '-j', 2, '-t', 60, $c->uri('main') ], '>', '/dev/null', '2>', '/dev/null') or die 'pgbench'; return; }
load();
$c->sql('main', 'VACUUM t; DELETE FROM t WHERE id % 7 = 0; UPDATE t SET s = s WHERE id % 11 = 0');

my $before = content();
suspend();
ok(-e sealed(), 'a suspended endpoint leaves a sealed note');
is(wake(), 'true', 'it starts where it was stopped');
ok(!-e $_, "no note is left: $_") for map { dir() . "/neon/warm.$_" } qw(written sealed start);
is(content(), $before, 'everything is there');
cmp_ok(cache('reads_cache'), '>', 100, 'pages are read from the cache of the last run');
cmp_ok(cache('reads_pageserver'), '<', 50, 'and hardly any from the pageserver');
$c->sql('main', q{COMMIT PREPARED 'prepared'});
is($c->sql('main', 'SELECT count(*) FROM two_phase'), '1', 'a prepared transaction can be committed');
is(differences(), 0, 'page truth after a warm start');
is($c->sql('main', 'SELECT count(*), sum(a) FROM u'), '3000|4501500', 'an unlogged table has its rows');
cmp_ok($c->sql('main', q{SELECT nextval('seq')}), '>', 10, 'a sequence goes on');
$c->sql('main', 'CREATE EXTENSION amcheck');
is($c->sql('main', q{SELECT bool_and(bt_index_check(indexrelid, true) IS NOT NULL) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
	WHERE c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree') AND c.relpersistence = 'p' AND indisvalid}), 't', 'amcheck finds nothing');

# ---- again and again, with changes in between
for my $round (1 .. 2)
{
	load();
	$c->sql('main', "DELETE FROM t WHERE id % 13 = $round; VACUUM t; CREATE TABLE r$round AS SELECT i FROM generate_series(1, 2000) i; DROP TABLE IF EXISTS r@{[ $round - 1 ]}; TRUNCATE pgbench_history");
	$before = content();
	suspend();
	is(wake(), 'true', "round $round: warm");
	is(content(), $before, 'everything is there');
	is(differences(), 0, 'page truth');
}

# ---- a database dropped whose pages only the cache knows of, and another one in its place
$c->sql('main', 'CREATE DATABASE d OID = 50000');
my $d = $c->uri('main') =~ s{/postgres$}{/d}r;
$c->psql_uri($d, 'CREATE TABLE x AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i; CREATE INDEX ON x (i)');
suspend();
is(wake(), 'true', 'warm, with another database');
$c->sql('main', 'DROP DATABASE d; ');
$c->sql('main', 'CREATE DATABASE d OID = 50000');
is(differences(), 0, 'page truth when a database has the number of a dropped one');

# ---- settings are the new ones; a cache of another size is not used
ctl(q{UPDATE neon_controller.endpoints SET settings = '{"shared_buffers": "2MB", "neon.file_cache_size_limit": "8MB", "work_mem": "5MB"}'});
suspend();
is(wake(), 'true', 'warm with other settings');
is($c->sql('main', 'SHOW work_mem'), '5MB', 'which apply');
like(log_text(), qr/the page cache had another size/, 'a page cache of another size is dropped');

# ---- somebody else wrote in between
$before = content();
suspend();
my ($ok, $err) = $c->start_compute('other', $port + 1);
ok($ok, 'another compute starts on the timeline') or diag $err;
my $other = $c->uri('main') =~ s/:$port\//:@{[ $port + 1 ]}\//r;
is(($c->psql_uri($other, q{INSERT INTO t (id, s) VALUES (1000001, 'other')}))[0], 0, 'it writes');
$c->node_sql('controller', q{SELECT neon_compute_tools.stop_compute('other'); SELECT neon_compute_tools.drop_compute('other')});
is(wake(), 'false: the timeline has moved', 'the endpoint starts from nothing');
is($c->sql('main', q{SELECT s FROM t WHERE id = 1000001}), 'other', 'and has what the other one wrote');
is($c->sql('main', 'SELECT count(*) FROM u'), '0', 'an unlogged table is empty');
suspend();
is(wake(), 'true', 'and it is warm the next time');
$c->sql('main', 'DELETE FROM t WHERE id = 1000001');

# ---- kill -9 before, after and in the middle of a stop
$before = content();
$c->kill9('main');
is(wake(), 'false: it was not stopped cleanly by the controller', 'killed: from nothing');
is(content(), $before, 'everything is there');
suspend();
wake();
$c->kill9('main');
is(wake(), 'false: it was not stopped cleanly by the controller', 'killed after a warm start: from nothing');
is(content(), $before, 'everything is there');
$c->stop('main');
ok(-e dir() . '/neon/warm.written' && !-e sealed(), 'stopped, but not sealed');
is(wake(), 'false: it was not stopped cleanly by the controller', 'from nothing');
is(content(), $before, 'everything is there');
{
	my @frozen = $c->freeze('safekeeper-1', 'safekeeper-2');
	my $h = IPC::Run::start([ 'psql', '-XAt', $c->node_uri('controller'), '-c', q{SET neon.tenant = 'default'}, '-c', q{SELECT neon_suspend_endpoint('main')} ], '<', '/dev/null', '>', \my $out, '2>', \my $e, IPC::Run::timeout(120));
	$c->poll('the stop waits for the quorum', 60, sub { log_text() =~ /checkpoint complete: .*\n(?!.*the safekeepers have all WAL)/ && log_text() =~ /shutdown immediate/ });
	$c->kill9('main');
	$c->thaw(@frozen);
	$h->finish;
	ok(!-e sealed(), 'killed while the quorum lacks the last WAL: not sealed');
}
like(wake(), qr/^false: it was not stopped cleanly/, 'from nothing');
is(content(), $before, 'everything is there');
{
	# the stop gives up: what the quorum lacks was written here
	ctl(q{UPDATE neon_controller.endpoints SET settings = settings || '{"neon.drain_timeout": "1s"}'});
	suspend();
	wake();
	my @frozen = $c->freeze('safekeeper-1', 'safekeeper-2');
	my $h = IPC::Run::start([ 'psql', '-XAt', $c->node_uri('controller'), '-c', q{SET neon.tenant = 'default'}, '-c', q{SELECT neon_suspend_endpoint('main')} ], '<', '/dev/null', '>', \my $out, '2>', \my $e, IPC::Run::timeout(120));
	$h->finish;
	$c->thaw(@frozen);
	like(log_text(), qr/stopping at once: the safekeepers did not take the last WAL/, 'a stop without a quorum gives up');
	ok(!-e sealed() && !-e dir() . '/neon/warm.written', 'and leaves no note');
}
like(wake(), qr/^false: it was not stopped cleanly/, 'from nothing');
is(content(), $before, 'everything is there');

# ---- damage
suspend();
flip(sealed(), 20);
is(wake(), 'false: its note of the stop is damaged', 'a damaged note: from nothing');
suspend();
edit_file(sealed(), sub { ${ $_[0] } = substr(${ $_[0] }, 0, 100) });
is(wake(), 'false: its note of the stop is damaged', 'a note cut short: from nothing');
suspend();
flip(sealed(), 160 + 5);
is(wake(), 'true', 'a damaged list of pages: warm');
like(log_text(), qr/the page cache of the last run is not used.*\n.*its list of pages is damaged/, 'without the cache');
is(content(), $before, 'everything is there');
suspend();
edit_file(sealed(), sub { ${ $_[0] } = substr(${ $_[0] }, 0, 160 + 100) });
is(wake(), 'true', 'a list of pages cut short: warm');
like(log_text(), qr/the page cache of the last run is not used.*\n.*it is cut short/, 'without the cache');
content();
suspend();
edit_file(dir() . '/neon/page_cache', sub { my ($t) = @_; for (my $at = 100; $at < length $$t; $at += 8192 * 2) { substr($$t, $at, 4) = 'oops' } });
is(wake(), 'true', 'a page cache with damaged pages: warm');
is(content(), $before, 'everything is there');
is(differences(), 0, 'page truth');
like(log_text(), qr/the copy of block \d+ of relation .* is damaged/, 'the damage is noticed');
suspend();
edit_file(dir() . '/neon/page_cache', sub { ${ $_[0] } = '' });
is(wake(), 'true', 'an empty page cache file: warm');
is(content(), $before, 'everything is there');
suspend();
flip(dir() . '/global/pg_control', 40);
is(wake(), 'false: its control file is of another stop', 'a damaged control file: from nothing');
is(content(), $before, 'everything is there');

# ---- the host was started again: another boot id, with a right checksum
sub crc32c
{
	my ($crc) = 0xffffffff;
	for my $byte (unpack 'C*', $_[0]) { $crc ^= $byte; $crc = $crc & 1 ? ($crc >> 1) ^ 0x82f63b78 : $crc >> 1 for 1 .. 8; }
	return $crc ^ 0xffffffff;
}
suspend();
edit_file(sealed(), sub {
	my ($t) = @_;
	is(unpack('V', substr($$t, 156, 4)), crc32c(substr($$t, 0, 156)), 'the note is what this test thinks it is');
	substr($$t, 74, 36) = '00000000-0000-0000-0000-000000000000';
	substr($$t, 156, 4) = pack 'V', crc32c(substr($$t, 0, 156));
});
is(wake(), 'false: it is of another timeline, or the host has been started again', 'another boot of the host: from nothing');
is(content(), $before, 'everything is there');

# ---- a start that fails in the old directory
suspend();
unlink glob(dir() . '/pg_wal/0*');
like(wake(), qr/^false: compute ".*" did not start/, 'a directory that does not start: from nothing');
is(content(), $before, 'everything is there');

# ---- nobody else can start it
suspend();
my $bin = `pg_config --bindir`; chomp $bin;
my @as = $> == 0 ? ('runuser', '-u', 'postgres', '--') : ();
ok(!IPC::Run::run([ @as, "$bin/pg_ctl", 'start', '-w', '-t', '30', '-D', dir(), '-l', dir() . '/by_hand.log' ], '<', '/dev/null', '>', '/dev/null', '2>', '/dev/null'),
	'pg_ctl start in the directory of a suspended endpoint fails');
is(wake(), 'false: it was not stopped cleanly by the controller', 'after which it is started from nothing');
is(content(), $before, 'everything is there');

done_testing();
