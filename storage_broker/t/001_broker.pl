# The broker: everything there is on connect and then every change, filters, 1,000 timelines of three nodes, what is not refreshed goes,
# limits, hostile bytes, who may, and a crash that forgets everything and nothing else.
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use lib "$ENV{NEON_TOP}/test/perl";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RawPg;
use Test::More;
use Time::HiRes qw(sleep time);

$RawPg::TIMEOUT = 120;
my $node = PostgreSQL::Test::Cluster->new('broker');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'neon_broker'\nlisten_addresses = '127.0.0.1'\nmax_connections = 30
neon_broker.max_entries = 3300\nneon_broker.max_subscribers = 5\nneon_broker.expire_after = 1h\nrestart_after_crash = on");
$node->start;
my $super = getpwuid($>);
$node->safe_psql('postgres', "CREATE EXTENSION neon_broker; CREATE ROLE somebody LOGIN; CREATE ROLE neon_t_" . 'a' x 32 . ' LOGIN');

sub session { my ($user) = @_; return RawPg->connect(port => $node->port, user => $user // 'neon_broker'); }
sub tenant { return pack('N4', 7, 7, 7, 1 + $_[0] % 10); }
sub timeline { return pack('N4', 9, 9, 9, 1 + $_[0]); }

# node, number of the timeline, commit
sub state_of
{
	my ($sk, $n, $commit, %o) = @_;
	return pack('N', $sk) . ($o{tenant} // tenant($n)) . timeline($n) . pack('Q>6 C/a', 3, 2, $commit + 8, $commit, 0, 0, $o{address} // "10.0.0.$sk:5432");
}
sub message { my ($tag, @entries) = @_; return $tag . pack('n', scalar @entries) . join '', @entries; }

sub publisher { my $s = session(@_); $s->copy_both('CALL neon_broker.publish()') or die $s->{error}{M}; return $s; }
sub subscriber { my ($args, $user) = @_; my $s = session($user); $s->copy_both("CALL neon_broker.subscribe($args)") or return $s; return $s; }

# Takes what comes into $s->{known}{node/timeline} until $code->() is true; ALIVE aside.
sub follow
{
	my ($s, $code) = @_;
	while (!$code->())
	{
		my ($type, $body) = $s->message;
		die 'the broker went away' if !defined $type;
		die RawPg::error_fields($body)->{M} if $type eq 'E';
		my ($tag, $count) = unpack('a n', $body);
		push @{ $s->{tags} }, $tag if $tag ne 'A';
		if ($tag eq 'B') { $s->{known} = {}; next; }
		$s->{snapshots}++ if $tag eq 'S';
		my $at = 3;
		for (1 .. ($tag eq 'U' || $tag eq 'G' ? $count : 0))
		{
			my ($sk, $tenant, $timeline) = unpack('N a16 a16', substr($body, $at, 36));
			$at += 36;
			my $key = "$sk/" . (unpack('N4', $timeline))[3];
			if ($tag eq 'G') { delete $s->{known}{$key}; $s->{gone}++; next; }
			my ($term, $llt, $flush, $commit, $rc, $horizon, $address) = unpack('Q>6 C/a', substr($body, $at));
			$at += 49 + length $address;
			$s->{known}{$key} = { commit => $commit, llt => $llt, flush => $flush, address => $address, tenant => $tenant };
			$s->{states}++;
		}
		die 'bytes left over' if $at != length $body;
	}
}
sub snapshot { my ($s) = @_; follow($s, sub { $s->{snapshots} }); return scalar keys %{ $s->{known} }; }
sub refused_as { my ($e, $code, $m, $name) = @_; ok($e && ($e->{C} // '') eq $code && ($e->{M} // '') =~ $m, $name) or diag(explain($e)); }
sub count { return $node->safe_psql('postgres', 'SELECT count(*) FROM neon_broker.timelines'); }

# ---- 1,000 timelines of three nodes
my @pub = map { publisher() } 0 .. 2;
for my $sk (1 .. 3)
{
	for my $part (0 .. 3) { $pub[ $sk - 1 ]->copy(message('P', map { state_of($sk, $_, 1000 + $_) } map { $part * 250 + $_ } 0 .. 249)); }
}
ok($node->poll_query_until('postgres', 'SELECT count(*) = 3000 FROM neon_broker.timelines'), 'all states arrive');
is($node->safe_psql('postgres', "SELECT node_id, term, last_log_term, flush_lsn, commit_lsn, remote_consistent_lsn IS NULL, address FROM neon_broker.timelines
	WHERE node_id = 2 AND timeline = '" . unpack('H*', timeline(5)) . "'"), '2|3|2|0/3F5|0/3ED|t|10.0.0.2:5432', 'a state as SQL shows it');
my $all = subscriber('');
is(snapshot($all), 3000, 'a subscriber hears all of them on connect');
is(join('', @{ $all->{tags} }) =~ s/U+/U/gr, 'BUS', 'between the snapshot\'s begin and end');
is_deeply($all->{known}{'3/1000'}, { commit => 1999, llt => 2, flush => 2007, address => '10.0.0.3:5432', tenant => tenant(999) }, 'as they were sent');

# ---- changes
my $heard = $all->{states};
$pub[0]->copy(message('P', state_of(1, 0, 1000), state_of(1, 1, 5000)));
follow($all, sub { $all->{known}{'1/2'}{commit} == 5000 });
is($all->{states}, $heard + 1, 'a change is delivered, and what has not changed is not');
for my $i (1 .. 200) { $pub[0]->copy(message('P', state_of(1, 2, 10_000 + $i))); }
follow($all, sub { $all->{known}{'1/3'}{commit} == 10_200 });
ok($all->{states} <= $heard + 201, 'who is slow hears the newest');

# ---- filters
my $of_tenant = subscriber("'" . unpack('H*', tenant(3)) . "'");
is(snapshot($of_tenant), 300, 'subscribed to a tenant');
my $of_timeline = subscriber("timeline => '" . unpack('H*', timeline(3)) . "'");
is(snapshot($of_timeline), 3, 'subscribed to a timeline');
$pub[2]->copy(message('P', map { state_of(3, $_, 20_000) } 0 .. 19));
follow($of_timeline, sub { $of_timeline->{known}{'3/4'}{commit} == 20_000 });
is($of_timeline->{states}, 4, 'and hears of that one only');
follow($of_tenant, sub { $of_tenant->{known}{'3/14'}{commit} == 20_000 });
is($of_tenant->{states}, 302, 'and of the tenant\'s only');
is(scalar(grep { $_->{tenant} ne tenant(3) } values %{ $of_tenant->{known} }), 0, 'nothing of others');
refused_as(subscriber("'xyz'")->{error}, '22023', qr/invalid tenant id/, 'a bad filter');

# ---- a connection that has a successor
my $later = publisher();
$later->copy(message('P', state_of(2, 0, 777)));
follow($all, sub { $all->{known}{'2/1'}{commit} == 777 });
$pub[1]->copy(message('P', state_of(2, 0, 666), state_of(2, 1, 888)));
follow($all, sub { $all->{known}{'2/2'}{commit} == 888 });
is($all->{known}{'2/1'}{commit}, 777, 'what an older connection still says of the same is ignored');

# ---- limits
$later->copy(message('P', map { state_of(9, $_, 1) } 0 .. 249), message('P', map { state_of(9, $_, 1) } 250 .. 399));
my ($type, $body) = $later->message;
is(unpack('H*', $body), unpack('H*', 'R' . pack('n', 100)), 'a full table: the publisher is told how many were not taken');
ok($node->poll_query_until('postgres', 'SELECT refused = 100 AND entries = 3300 FROM neon_broker.statistics()'), 'and all others were');
like(slurp_file($node->logfile), qr/table is full: 100 of 150 states were not taken.*\n.*HINT:  Raise neon_broker\.max_entries, now 3300/, 'with a hint in the log');
my @more = map { subscriber('') } 1 .. 2;
is(snapshot($_), 3300, 'one more subscriber') for @more;
my $e = subscriber('')->{error};
refused_as($e, '53400', qr/has 5 subscribers and takes no more/, 'no more than there may be');
like($e->{H}, qr/max_subscribers/, 'with a hint');
$_->close for @more;
ok($node->poll_query_until('postgres', 'SELECT subscribers = 3 FROM neon_broker.statistics()'), 'places of those who left are free');

# ---- hostile bytes: an error, the connection lives, nothing of the message is used
my $good = message('P', state_of(4, 1, 1), state_of(4, 2, 1));
my %bad = (
	'empty' => '', 'unknown tag' => 'X' . substr($good, 1), 'a message of the broker' => message('U', state_of(4, 1, 1)), 'without entries' => message('P'), 'cut' => substr($good, 0, -1),
	'bytes behind' => $good . 'x', 'too many announced' => "P\xFF\xFF" . substr($good, 3), 'node 0' => message('P', state_of(4, 1, 1), state_of(0, 1, 1)),
	'no tenant' => message('P', state_of(4, 1, 1, tenant => "\0" x 16)), 'a space in an address' => message('P', state_of(4, 1, 1, address => 'a b')),
	'a long address' => message('P', state_of(4, 1, 1, address => 'a' x 64)), 'more than a message may have' => message('P', map { state_of(4, $_, 1) } 1 .. 257));
my $h = session();
for my $name (sort keys %bad)
{
	$h->copy_both('CALL neon_broker.publish()') or die;
	$h->copy($bad{$name});
	my $r = $h->finish;
	refused_as($r->{error}, '08P01', qr/^malformed message of \d+ bytes from a publisher/, "malformed: $name");
}
srand 1;
for (1 .. 50)
{
	my $b = $good;
	substr($b, int rand length $b, 1) = chr int rand 256 for 1 .. 1 + rand 3;
	$h->copy_both('CALL neon_broker.publish()') or die;
	$h->copy($b, 'again');
	$h->finish;
}
is($h->query('SELECT 1')->{rows}[0][0], '1', 'the connection lives through damaged messages');
is($node->safe_psql('postgres', q{SELECT count(*) FROM neon_broker.timelines WHERE node_id = 9}), '300', 'the table as well');
$h->copy_both('CALL neon_broker.subscribe()') or die;
$h->copy($good);
refused_as($h->finish->{error}, '08P01', qr/^unexpected message of \d+ bytes from a subscriber/, 'a subscriber that publishes');
$h->query('BEGIN');
refused_as($h->query('CALL neon_broker.publish()')->{error}, '25001', qr/^publish cannot run inside a transaction block/, 'in a transaction');
$h->query('ROLLBACK');
for my $raw ("d\xFF\xFF\xFF\xFF", "d\0\0\0\1", "Q\0\0\0\5\0")
{
	my $s = publisher();
	$s->raw($raw);
	refused_as($s->finish->{error}, '08P01', qr/on the stream/, 'framing ' . unpack('H*', $raw));
}

# ---- who may
refused_as(session('somebody')->query('CALL neon_broker.publish()')->{error}, '42501', qr/permission denied/, 'an ordinary role publishes nothing');
refused_as(session('somebody')->query('CALL neon_broker.subscribe()')->{error}, '42501', qr/permission denied/, 'and hears nothing');
refused_as(session('somebody')->query('TABLE neon_broker.timelines')->{error}, '42501', qr/permission denied/, 'and sees nothing');
for my $sql ('CALL neon_broker.publish()', 'CALL neon_broker.subscribe()', 'TABLE neon_broker.timelines')
{
	refused_as(session('neon_t_' . 'a' x 32)->query($sql)->{error}, '42501', qr/a tenant's session on this server/, "a tenant: $sql");
}

# ---- a stream ends in order
$later->send('c');
my $r = $later->finish;
ok($r->{copy_done} && $r->{open} && !$r->{error}, 'CopyDone is answered');

# ---- what nobody refreshes goes; who refreshes stays
$node->safe_psql('postgres', 'ALTER SYSTEM SET neon_broker.expire_after = 3');
$node->reload;
my $deadline = time + 120;
my $stays = publisher();
my $others = "SELECT count(*) FROM neon_broker.timelines WHERE node_id <> 1 OR timeline <> '" . unpack('H*', timeline(0)) . "'";
while (time < $deadline && $node->safe_psql('postgres', $others) ne '0') { $stays->copy(message('P', state_of(1, 0, 31337))); sleep 0.2; }
is($node->safe_psql('postgres', $others), '0', 'what is not refreshed goes');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET neon_broker.expire_after');
$node->reload;
# on a slow machine it may have gone meanwhile: it comes back
follow($all, sub { $stays->copy(message('P', state_of(1, 0, 31338))); my $k = $all->{known}; keys %$k == 1 && $k->{'1/1'} && $k->{'1/1'}{commit} == 31338 });
ok($all->{gone} >= 3299, 'subscribers are told');
is(snapshot(subscriber('')), 1, 'new ones do not hear of what has gone');

# ---- kill -9 of a process: all start from nothing, and go on
kill 'KILL', $all->{pid};
ok($node->poll_query_until('postgres', 'SELECT entries = 0 AND publishers = 0 FROM neon_broker.statistics()'), 'after a crash the broker knows nothing');
@pub = (publisher());
$pub[0]->copy(message('P', state_of(1, 0, 1)));
ok($node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM neon_broker.timelines'), 'and learns it again');
is(snapshot(subscriber('')), 1, 'and tells');
unlike(slurp_file($node->logfile), qr/TRAP:|PANIC:/, 'no other crash');
$node->stop('fast');
done_testing();
