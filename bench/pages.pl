# pages.pl - pages from the pageserver, redo.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use Time::HiRes qw(time sleep);
use Bench;

sub floor_of { my ($depth) = @_; my $o = `$TOP/bench/build/floor_bench 3 $depth`; return split ' ', $o; }

sub timeline { my ($cl) = @_; return split /\|/, $cl->sql('main', q{SELECT current_setting('neon.tenant_id'), current_setting('neon.timeline_id')}); }

# filenode, database, pages
sub relation { my ($cl, $name) = @_; return split /\|/, $cl->sql('main', "SELECT pg_relation_filenode('$name'), oid, pg_relation_size('$name') / 8192 FROM pg_database WHERE datname = current_database()"); }

sub bench_getpage
{
	my $cl = cluster();
	my ($tenant, $timeline) = timeline($cl);
	psql($cl->uri('main'), 'DROP TABLE IF EXISTS img; CREATE TABLE img (a int, pad text) WITH (fillfactor = 90);
		INSERT INTO img SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 100000) i');
	# rewritten, so that WAL has each page whole; half of what the pageserver's cache of pages holds
	psql($cl->uri('main'), 'VACUUM (FULL, FREEZE) img');
	psql($cl->uri('main'), 'DROP TABLE IF EXISTS rec; CREATE TABLE rec (a int, v int, pad text) WITH (fillfactor = 50);
		INSERT INTO rec SELECT i, 0, repeat(md5(i::text), 8) FROM generate_series(1, 20000) i');
	psql($cl->uri('main'), 'CHECKPOINT');
	psql($cl->uri('main'), 'UPDATE rec SET v = v + 1 WHERE a % 2 = 0');
	my ($rel, $db, $n) = relation($cl, 'img');
	my ($rrel, undef, $rn) = relation($cl, 'rec');
	my $ask = sub {
		my ($r, $blocks, $depth) = @_;
		my $o = `$TOP/bench/build/getpage_bench '@{[ $cl->node_uri('pageserver-1') ]}' $tenant $timeline 1663 $db $r $blocks 3 $depth`;
		die "getpage_bench failed" if $?;
		return split ' ', $o;
	};
	# the first read of a page rebuilds it from WAL; what is measured is a pageserver that runs
	$ask->($rel, $n, 32);
	$ask->($rrel, $rn, 32);
	if (wanted('getpage_p50_image'))
	{
		my ($a, $b) = pair(sub { ($ask->($rel, $n, 1))[0] }, sub { (floor_of(1))[0] });
		record('getpage_p50_image', $a, $b, 'us', 'bare socket ping-pong of the same sizes');
	}
	if (wanted('getpage_p50_10rec'))
	{
		my ($a, $b) = pair(sub { ($ask->($rrel, $rn, 1))[0] }, sub { (floor_of(1))[0] });
		record('getpage_p50_10rec', $a, $b, 'us', 'bare socket ping-pong of the same sizes');
	}
	if (wanted('getpage_depth32'))
	{
		my ($a, $b) = pair(sub { ($ask->($rel, $n, 32))[1] }, sub { (floor_of(32))[1] });
		record('getpage_depth32', $a, $b, 'pages/s', 'bare socket, 32 in flight');
	}
}

# Pages of 226 inserts each, rebuilt natively and by the server's own redo functions in the redo process.
sub bench_redo
{
	my $cl = cluster();
	my ($tenant, $timeline) = timeline($cl);
	my $pages = 1000;
	psql($cl->uri('main'), "DROP TABLE IF EXISTS chain; CREATE TABLE chain (a int); INSERT INTO chain SELECT generate_series(1, $pages * 226)");
	my $lsn = $cl->sql('main', 'SELECT pg_current_wal_lsn()');
	psql($cl->uri('main'), 'CHECKPOINT');
	my ($rel, $db) = relation($cl, 'chain');
	my $last = $cl->sql('main', 'SELECT pg_current_wal_lsn()');
	my $ps = $cl->node_uri('pageserver-1');
	$cl->poll('ingest', 60, sub { psql($ps, "SELECT neon_pageserver.last_record_lsn('$tenant', '$timeline') >= '$last'") eq 't' });
	my $rate = sub {
		my ($method, $at) = @_;
		my $ms = psql($ps, "SET neon_pageserver.redo_method = $method; CREATE TEMP TABLE took AS SELECT clock_timestamp() AS t;
			SELECT count(neon_pageserver.page_at('$tenant', '$timeline', 1663, $db, $rel, 0, b, '$at')) FROM generate_series(0, $pages - 1) b;
			SELECT extract(epoch FROM clock_timestamp() - t) * 1000 FROM took");
		($ms) = (split /\n/, $ms)[-1];
		return $pages * 226 / ($ms / 1000);
	};
	# states of a later LSN are what is cached then, and of no use to reads below it
	$rate->('auto', $last);
	my ($a, $b) = pair(sub { $rate->('auto', $lsn) }, sub { $rate->('process', $lsn) });
	record('redo_native', $a, $b, 'records/s', "the same pages by the server's own redo functions in the redo process; chains of 226 inserts, reading them included");
}

1;
