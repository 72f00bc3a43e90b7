# WalTools.pm - positions in WAL to the byte: crafting records that end where a test wants them, cutting logs, reading them.
#
# Position arithmetic is that of the server: a record takes its length rounded up to 8, and page headers (24 bytes, 40 at the
# start of a segment) are stepped over.  An end that falls on a page's end is the next page's first byte.
#
# SPDX-License-Identifier: Apache-2.0
package WalTools;
use strict;
use warnings;
use Digest::MD5;
use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);
use IPC::Run qw(run timeout);
use Test::More;

our @EXPORT = qw($SEGMENT $PAGE lsn_number lsn_text segment_file next_record_start commit_ending_at emit_ending_at
  records_of timeline_of sk_client sk_append sk_states tail_is_zero receive_log log_sum elect);

our $SEGMENT = 16 * 1024 * 1024;
our $PAGE = 8192;
# pg_waldump is not on everybody's path
chomp(my $BIN = `"\${PG_CONFIG:-pg_config}" --bindir`);
$ENV{PATH} = "$BIN:$ENV{PATH}";

my $CLIENT = abs_path(dirname(__FILE__) . '/../../safekeeper_bgworker/test/sk_client');

sub lsn_number { my ($hi, $lo) = split m{/}, $_[0]; return hex($hi) * 4294967296 + hex($lo); }
sub lsn_text { return sprintf('%X/%X', int($_[0] / 4294967296), $_[0] % 4294967296); }

sub segment_file
{
	my ($dir, $n) = @_;
	my $s = int($n / $SEGMENT);
	return sprintf('%s/00000001%08X%08X', $dir, int($s / 256), $s % 256);
}

sub header_bytes { return $_[0] % $SEGMENT == 0 ? 40 : 24; }

# Bytes of records that fit below a position.
sub byte_position
{
	my ($n) = @_;
	my $page_start = $n - $n % $PAGE;
	my $in_page = $n % $PAGE - header_bytes($page_start);
	my $in_segment = $page_start % $SEGMENT;
	my $pos = int($n / $SEGMENT) * ($SEGMENT / $PAGE * ($PAGE - 24) - 16);
	$pos += $in_segment / $PAGE * ($PAGE - 24) - 16 if $in_segment > 0;
	return $pos + ($in_page > 0 ? $in_page : 0);
}

# Where the next record begins after one that ends at n.
sub next_record_start { my ($n) = @_; return $n % $PAGE == 0 ? $n + header_bytes($n) : $n; }

my $MESSAGE_OVERHEAD = 24 + 5 + 24 + 2;	# record header, main data header, xl_logical_message, prefix 'x'
my $MIN_MESSAGE = 400;						# so that the long form of the data header is used
my $MAX_PIECE = 4 * 1024 * 1024;

sub insert_lsn { return lsn_number($_[0]->selectrow_array('SELECT pg_current_wal_insert_lsn()')); }

# One message whose record takes exactly so many bytes; returns where it ends.
sub emit_bytes
{
	my ($dbh, $transactional, $bytes) = @_;
	my $len = $bytes - $MESSAGE_OVERHEAD;
	return lsn_number($dbh->selectrow_array('SELECT pg_logical_emit_message(?, ?, repeat(?, ?))', undef,
		$transactional, 'x', 'm', $len));
}

# Messages up to a record that ends at the target, or so many bytes of records before it.  False if somebody wrote in between.
sub emit_ending_at
{
	my ($dbh, $transactional, $target, $before) = @_;
	for (1 .. 100)
	{
		my $left = byte_position($target) - byte_position(insert_lsn($dbh)) - ($before // 0);
		return 0 if $left < $MIN_MESSAGE;
		my $piece = $left > $MAX_PIECE + $MIN_MESSAGE ? $MAX_PIECE : $left;
		my $end = emit_bytes($dbh, $transactional, $piece);
		return byte_position($end) + ($before // 0) == byte_position($target) if $piece == $left;
	}
	return 0;
}

my $COMMIT_BYTES = 48;	# of a transaction with nothing special, wal_level = logical

# A transaction (its first statement is given) whose commit record ends exactly at a place that pick->(lower bound) names.
# The place, or undef when another process wrote WAL in between: the transaction is committed all the same.
sub commit_ending_at
{
	my ($dbh, $sql, $pick) = @_;
	$dbh->begin_work;
	$dbh->do($sql);
	my $target = $pick->(insert_lsn($dbh) + 2 * $MIN_MESSAGE + $COMMIT_BYTES);
	my $ok = emit_ending_at($dbh, 1, $target, $COMMIT_BYTES);
	$dbh->commit;
	my $end = insert_lsn($dbh);
	return $ok && $end == next_record_start($target) ? $target : undef;
}

# [start, end, prev, resource manager, description] of every record from a record's start; and where reading stopped, and why.
sub records_of
{
	my ($dir, $from) = @_;
	my ($out, $err) = ('', '');
	run [ 'pg_waldump', '-p', $dir, '-s', lsn_text($from) ], '>', \$out, '2>', \$err, timeout(120);
	my @r;
	for (split /\n/, $out)
	{
		my ($rmgr, $total, $lsn, $prev, $desc) =
		  m{^rmgr: (\S+)\s+len \(rec/tot\):\s+\d+/\s*(\d+), tx:\s+\d+, lsn: ([0-9A-F]+/[0-9A-F]+), prev ([0-9A-F]+/[0-9A-F]+), desc: (.*)}
		  or die "pg_waldump: $_";
		push @r, { start => lsn_number($lsn), prev => lsn_number($prev), rmgr => $rmgr, len => $total, desc => $desc };
		$r[-1]{end} = end_of($r[-1]);
	}
	return (\@r, $err);
}

sub end_of
{
	my ($r) = @_;
	return $r->{start} - $r->{start} % $SEGMENT + $SEGMENT if $r->{rmgr} eq 'XLOG' && $r->{desc} =~ /^SWITCH/;
	my $left = $r->{len} + (8 - $r->{len} % 8) % 8;
	my $at = $r->{start};
	while (1)
	{
		my $room = $PAGE - $at % $PAGE;
		return $at + $left if $left <= $room;
		$left -= $room;
		$at += $room;
		$at += header_bytes($at);
	}
}

# ---- safekeepers of a NeonCluster ----

# (tenant, timeline) of branch main
sub timeline_of
{
	my ($c) = @_;
	return split /\|/, $c->node_sql('controller', q{SELECT tl.tenant, tl.id FROM neon_controller.branches b
		JOIN neon_controller.timelines tl ON tl.id = b.timeline WHERE b.name = 'main'});
}

# Lines that the scripted proposer prints.
sub sk_client
{
	my ($c, $node, $wal_dir, $script) = @_;
	my ($tenant, $timeline) = @{ $c->{main_timeline} //= [ timeline_of($c) ] };
	my ($out, $err) = ('', '');
	run [ $CLIENT, $c->node_uri($node), $tenant, $timeline, $SEGMENT, 0, $wal_dir ], '<', \"$script\n", '>', \$out, '2>', \$err, timeout(60);
	note "$node: " . join(' <- ', reverse split /\n/, "$script$out$err") if $ENV{NEON_VERBOSE};
	return split /\n/, $out;
}

# As one proposer of a new term, give each safekeeper bytes up to some place: {node => place}, for all three.  All logs are
# beginnings of the longest; the WAL directory has what they lack.
sub sk_append
{
	my ($c, $wal_dir, $to) = @_;
	my $states = sk_states($c);
	my ($term) = sort { $b <=> $a } map { $_->{term} } values %$states;
	my ($donor) = sort { $b->{last_term} <=> $a->{last_term} || $b->{flush} <=> $a->{flush} } values %$states;
	$term++;
	my $history = "$donor->{history},$term:" . lsn_text($donor->{flush});
	my %has;
	for my $node (sort keys %$states)
	{
		my $flush = $states->{$node}{flush};
		my $until = $to->{$node} > $flush ? $to->{$node} : $flush;
		my $start = lsn_text($flush);
		my @a = sk_client($c, $node, $wal_dir, join("\n", 'greet', "vote $term", "elected $term $start $history",
			$until > $flush ? "append $term $start " . lsn_text($until) . ' 0/0' : "heartbeat $term 0/0"));
		my $want = lsn_text($until);
		die "$node: @a" unless $a[-1] =~ /^ack term=$term write=\Q$want\E /;
	}
	return;
}

# What each safekeeper says of the timeline; flush is 0 while one that was started has not loaded it.
sub sk_states
{
	my ($c, @nodes) = @_;
	my %s;
	@nodes = map { "safekeeper-$_" } 1 .. 3 unless @nodes;
	my (undef, $timeline) = @{ $c->{main_timeline} //= [ timeline_of($c) ] };
	for my $n (@nodes)
	{
		my @v = split /\|/, $c->node_sql($n, "SELECT term, write_lsn, flush_lsn, commit_lsn, history, last_log_term FROM neon_safekeeper.timelines WHERE timeline = '$timeline'");
		@v = (0, '0/0', '0/0', '0/0', '', 0) unless @v;
		$s{$n} = { term => $v[0], write => lsn_number($v[1]), flush => lsn_number($v[2]), commit => lsn_number($v[3]),
			history => $v[4], last_term => $v[5] };
	}
	return \%s;
}

sub log_dir
{
	my ($c, $node) = @_;
	my ($tenant, $timeline) = @{ $c->{main_timeline} //= [ timeline_of($c) ] };
	return "$c->{dir}/$node/neon_safekeeper/pgsql_tmp/$tenant/$timeline";
}

# Nothing but zeroes behind n; the next segment may have been made ahead of time.
sub tail_is_zero
{
	my ($c, $node, $n) = @_;
	my $dir = log_dir($c, $node);
	my $file = segment_file($dir, $n);
	for my $s (grep { $_ ge $file } glob("$dir/00000001*"))
	{
		open my $f, '<:raw', $s or next;
		seek $f, $n % $SEGMENT, 0 if $s eq $file;
		local $/;
		my $rest = <$f>;
		return 0 unless $rest =~ /\A\0*\z/;
	}
	return 1;
}

# The election that precedes a base backup: (X, start of the last record).
sub elect
{
	my ($c) = @_;
	return map { lsn_number($_) } split /\|/, $c->node_sql('controller', q{
		SELECT s.lsn, s.prev_lsn FROM neon_controller.branches b JOIN neon_controller.timelines tl ON tl.id = b.timeline,
			neon_compute_tools.sync_safekeepers(tl.tenant, tl.id, neon_controller.safekeepers_setting(tl), tl.start_lsn, tl.system_id, tl.wal_seg_size, 30000) s
		WHERE b.name = 'main'});
}

# The log from its first byte as stock pg_receivewal gets it; its directory.
sub receive_log
{
	my ($c, $node, $from, $to) = @_;
	my ($tenant, $timeline) = @{ $c->{main_timeline} //= [ timeline_of($c) ] };
	my $dir = "$c->{tmp}/received-$node-" . $c->{received}++;
	mkdir $dir;
	# it begins with a segment that it has in part
	open my $f, '>:raw', segment_file($dir, $from) . '.partial' or die $!;
	close $f;
	my ($out, $err) = ('', '');
	my $ok = run [ 'pg_receivewal', '-d', $c->node_uri($node) . "?options=-c%20neon.tenant_id%3D$tenant%20-c%20neon.timeline_id%3D$timeline",
		'-D', $dir, '--endpos', lsn_text($to), '--no-loop' ], '>', \$out, '2>', \$err, timeout(120);
	diag $err unless $ok;
	rename $_, $_ =~ s/\.partial$//r for glob "$dir/*.partial";
	return $ok ? $dir : undef;
}

# Of the bytes between two places.
sub log_sum
{
	my ($dir, $from, $to) = @_;
	my $md5 = Digest::MD5->new;
	while ($from < $to)
	{
		my $n = $SEGMENT - $from % $SEGMENT;
		$n = $to - $from if $n > $to - $from;
		open my $f, '<:raw', segment_file($dir, $from) or die "$dir: $!";
		seek $f, $from % $SEGMENT, 0;
		read($f, my $bytes, $n) == $n or die "$dir: short";
		$md5->add($bytes);
		$from += $n;
	}
	return $md5->hexdigest;
}

1;
