# ingest.pl - the WAL of a stock server: decoded, ingested, and replayed by a stock server; what becomes of it on disk.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use IPC::Run qw(run);
use Time::HiRes qw(time sleep);
use Bench;

my $n_timelines = 0;
my $tenant = 'be' x 16;

# A data directory before a workload, its WAL, and where that begins and ends.
sub record_workload
{
	my ($name, $before, $workload) = @_;
	my $cl = cluster();
	my $conf = "shared_buffers=512MB\nfsync=off\nmax_wal_size=20GB\nwal_keep_size=20GB\ncheckpoint_timeout=1h\nautovacuum=off\nmax_connections=50";
	my $uri = stock($name, $cl->{port} + 77, $conf);
	$before->($uri);
	stop_stock();
	my $dir = "$work/$name";
	copy_dir($dir, "$dir.before");
	$uri = stock($name, $cl->{port} + 77, '');
	my $from = psql($uri, 'SELECT pg_current_wal_lsn()');
	$workload->($uri);
	stop_stock();
	return { name => $name, dir => $dir, before => "$dir.before", from => $from };
}

sub ps_uri { return cluster()->node_uri('pageserver-1'); }

# seconds and bytes of one ingest into a new timeline
sub ingest_once
{
	my ($w) = @_;
	my $ps = ps_uri();
	psql($ps, "SELECT neon_pageserver.create_tenant('$tenant', 'bench')") unless $n_timelines++;
	$w->{timeline} = sprintf('%032x', $n_timelines);
	my $start = psql($ps, "SELECT neon_pageserver.import_datadir('$tenant', '$w->{timeline}', '$w->{before}')");
	my $end;
	my $s = ms(sub { $end = psql($ps, "SELECT neon_pageserver.ingest_wal_directory('$tenant', '$w->{timeline}', '$w->{dir}/pg_wal')") }) / 1000;
	($w->{start}, $w->{end}) = ($start, $end);
	$w->{bytes} = psql($ps, "SELECT '$end'::pg_lsn - '$start'::pg_lsn");
	return $w->{bytes} / $s / 1e6;
}

# The same WAL by archive recovery of a stock server; how long redo took is what the server says.
sub replay_once
{
	my ($w) = @_;
	my $d = copy_dir($w->{before}, "$work/replay");
	sh('sh', '-c', "cp $w->{dir}/pg_wal/0* $d/pg_wal/");
	open my $f, '>', "$d/recovery.signal"; close $f;
	sh('rm', '-f', "$work/replay.log");
	my $uri = stock('replay', cluster()->{port} + 78, "restore_command='false'\nfsync=on\nautovacuum=off");
	# a hot standby answers before it has replayed anything
	for (1 .. 6000) { last if psql($uri, 'SELECT pg_is_in_recovery()') eq 'f'; sleep 0.1; }
	stop_stock();
	my ($elapsed) = `cat $work/replay.log` =~ /redo done at .* elapsed: ([\d.]+) s/ or die "no time of redo in the log:\n" . `cat $work/replay.log`;
	return $w->{bytes} / $elapsed / 1e6;
}

sub ingest_pair
{
	my ($measure, $w) = @_;
	my ($a, $b) = pair(sub { ingest_once($w) }, sub { replay_once($w) });
	record($measure, $a, $b, 'MB/s', sprintf('a stock server replaying the same %d MB of WAL', $w->{bytes} / 1e6));
}

sub bench_decode
{
	my ($w) = @_;
	my @segments = sort glob "$w->{dir}/pg_wal/0000*";
	my $ours = sub {
		my @s = grep { (split m{/})[-1] ge segment_name($w->{start}) } @segments;
		my $o = `$TOP/bench/build/wal_decode_bench 16777216 $w->{start} $w->{end} @s`;
		die 'wal_decode_bench failed' if $?;
		my (undef, $bytes, $seconds) = split ' ', $o;
		return $bytes / $seconds / 1e6;
	};
	my $theirs = sub {
		my $s = ms(sub { sh("$bin/pg_waldump", '-q', '-p', "$w->{dir}/pg_wal", '-s', $w->{start}, '-e', $w->{end}) }) / 1000;
		return $w->{bytes} / $s / 1e6;
	};
	my ($a, $b) = pair($ours, $theirs);
	record('wal_decode', $a, $b, 'MB/s', 'pg_waldump --quiet over the same WAL');
}

sub segment_name { my ($lsn) = @_; my ($hi, $lo) = map { hex } split m{/}, $lsn; return sprintf '%08X%08X%08X', 1, $hi, $lo >> 24; }

# Bytes of every layer file that flush and compaction write, until they have nothing more to do.
sub bench_disk
{
	my ($w) = @_;
	my $ps = ps_uri();
	psql($ps, q{CREATE TABLE bench_written (timeline text, bytes bigint);
		CREATE FUNCTION bench_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.bench_written VALUES (NEW.timeline, NEW.file_bytes); RETURN NULL; END $$;
		CREATE TRIGGER bench_note AFTER INSERT ON neon_pageserver.layer FOR EACH ROW EXECUTE FUNCTION bench_note()});
	# the image of the imported directory is no WAL
	ingest_once($w);
	psql($ps, "DELETE FROM bench_written WHERE timeline = '$w->{timeline}' AND bytes IN (SELECT file_bytes FROM neon_pageserver.layers WHERE timeline = '$w->{timeline}' AND kind = 'image')");
	psql($ps, 'SELECT neon_pageserver.checkpoint()');
	my ($last, $same) = ('', 0);
	for (1 .. 600)
	{
		my $now = psql($ps, "SELECT count(*), sum(bytes) FROM bench_written WHERE timeline = '$w->{timeline}'");
		$same = $now eq $last ? $same + 1 : 0;
		$last = $now;
		last if $same >= 10;
		sleep 1;
	}
	my $written = psql($ps, "SELECT sum(bytes) FROM bench_written WHERE timeline = '$w->{timeline}'");
	my $what = sprintf('the %d MB of WAL that they hold', $w->{bytes} / 1e6);
	record('write_amplification', $written / 1e6, $w->{bytes} / 1e6, 'MB', $what) if wanted('write_amplification');
	my $held = psql($ps, "SELECT sum(file_bytes) FROM neon_pageserver.layers WHERE timeline = '$w->{timeline}'");
	my ($dir_kb) = split ' ', sh('du', '-sk', '--exclude=pg_wal', $w->{dir});
	record('space', $held / 1e6, $dir_kb * 1024 / 1e6, 'MB', 'the data directory after the same work, without WAL; ours: with all history') if wanted('space');
	visited($w) if wanted('layers_p99');
	psql($ps, 'DROP TRIGGER bench_note ON neon_pageserver.layer; DROP FUNCTION bench_note; DROP TABLE bench_written');
}

# Random pages of the largest table, and how many layer files each of the reads has searched.
sub visited
{
	my ($w) = @_;
	my $uri = stock($w->{name}, cluster()->{port} + 77, '');
	my ($rel, $db, $pages) = split /\|/, psql($uri, q{SELECT pg_relation_filenode(c.oid), d.oid, pg_relation_size(c.oid) / 8192
		FROM pg_class c, pg_database d WHERE datname = current_database() AND relkind = 'r' ORDER BY 3 DESC LIMIT 1});
	stop_stock();
	my $p99 = psql(ps_uri(), "SELECT setseed(0.5); CREATE TEMP TABLE visits (n bigint);
		DO \$\$ DECLARE before bigint; BEGIN
			FOR i IN 1 .. 2000 LOOP
				before := neon_pageserver.layers_visited();
				PERFORM neon_pageserver.page_at('$tenant', '$w->{timeline}', 1663, $db, $rel, 0, (random() * ($pages - 1))::bigint, '$w->{end}');
				INSERT INTO visits VALUES (neon_pageserver.layers_visited() - before);
			END LOOP; END \$\$;
		SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY n) FROM visits");
	($p99) = (split /\n/, $p99)[-1];
	record('layers_p99', $p99, 1, 'layers', 'one layer; 2000 random pages after compaction');
}

sub bench_ingest
{
	my @of_pgbench = grep { wanted($_) } qw(ingest_pgbench wal_decode write_amplification space layers_p99);
	if (@of_pgbench)
	{
		my $transactions = $secs * 1000;
		my $w = record_workload('w_pgbench', sub { run [ 'pgbench', '-i', '-q', '-s', $scale, $_[0] ], '>', '/dev/null', '2>', '/dev/null' or die },
			sub { pgbench($_[0], '-c', 8, '-j', 2, '-t', $transactions) });
		wanted('ingest_pgbench') ? ingest_pair('ingest_pgbench', $w) : ingest_once($w);
		bench_decode($w) if wanted('wal_decode');
		bench_disk($w) if grep { wanted($_) } qw(write_amplification space layers_p99);
	}
	if (wanted('ingest_copy'))
	{
		my $rows = $secs * 200_000;
		my $w = record_workload('w_copy', sub { psql($_[0], 'CREATE TABLE t (a int PRIMARY KEY, b text)') },
			sub { psql($_[0], "COPY t FROM PROGRAM 'seq -f \"%.0f\tsome text to fill a row with, as one does\" 1 $rows'") });
		ingest_pair('ingest_copy', $w);
	}
}

1;
