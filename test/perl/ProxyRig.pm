# ProxyRig.pm - a stock server that plays compute and controller, and a proxy in front of it: for tests of the wire, and for bench.
#
# The functions of the controller that a proxy asks are made in database ctl, over a table that the test fills.
#
# SPDX-License-Identifier: Apache-2.0
package ProxyRig;
use strict;
use warnings;
use IPC::Run qw(run timeout);
use NeonCluster;
use File::Temp qw(tempdir);

my $bin = `pg_config --bindir`; chomp $bin;

# what goes in front of commands, to run all of it in a network namespace
our @within;

sub as_pg { my @c = @_; return @within, $> == 0 ? ('runuser', '-u', 'postgres', '--', @c) : @c; }
sub sh { my @c = as_pg(@_); my ($o, $e) = ('', ''); run \@c, '<', '/dev/null', '>', \$o, '2>', \$e, timeout(120) or die "@c: $e$o"; chomp $o; return $o; }

sub new
{
	my ($class, %opt) = @_;
	my $self = bless { owner => $$ }, $class;
	($self->{base}, $self->{lock}) = NeonCluster::free_ports();
	$self->{tmp} = tempdir('proxyXXXXXX', DIR => '/tmp', CLEANUP => 0);
	chmod 0755, $self->{tmp};
	chown((getpwnam('postgres'))[2], -1, $self->{tmp}) if $> == 0;
	$self->{port} = $self->{base} + 30;
	$self->{server_port} = $self->{base} + 11;
	$self->make('server', $self->{server_port}, "listen_addresses = '127.0.0.1'\nmax_connections = 300\nfsync = off\n" . ($opt{server} // ''));
	$self->hba("local all all trust\nhost ctl all 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
	$self->go('server');
	$self->admin(q{CREATE DATABASE ctl; });
	$self->admin(q{CREATE SCHEMA neon_controller;
		CREATE TABLE neon_controller.ep (id text PRIMARY KEY, state text, host text, port int, settings jsonb DEFAULT '{}');
		CREATE TABLE neon_controller.wakes (id text);
		CREATE FUNCTION neon_controller.proxy_endpoint(name text) RETURNS jsonb LANGUAGE sql AS
			'SELECT to_jsonb(e) FROM neon_controller.ep e WHERE e.id = $1';
		CREATE FUNCTION neon_controller.proxy_role_secret(id text, r text) RETURNS text LANGUAGE sql AS
			'SELECT rolpassword FROM pg_authid WHERE rolname = r';
		CREATE FUNCTION neon_controller.proxy_wake(id text) RETURNS jsonb LANGUAGE sql AS
			'INSERT INTO neon_controller.wakes VALUES ($1); SELECT jsonb_build_object(''host'', e.host, ''port'', e.port) FROM neon_controller.ep e WHERE e.id = $1';
		}, 'ctl');
	$self->admin(sprintf(q{INSERT INTO neon_controller.ep VALUES ('main-1a2b3c4d', 'running', '127.0.0.1', %d, '{}'),
		('tx-1a2b3c4d', 'running', '127.0.0.1', %1$d, '{"neon_proxy.pool_mode": "transaction"}'), ('one-1a2b3c4d', 'running', '127.0.0.1', %1$d,
		'{"neon_proxy.pool_mode": "transaction", "neon_proxy.pool_size": 1}'), ('few-1a2b3c4d', 'running', '127.0.0.1', %1$d, '{"neon_proxy.max_clients": 2}'),
		('four-1a2b3c4d', 'running', '127.0.0.1', %1$d, '{"neon_proxy.pool_mode": "transaction", "neon_proxy.pool_size": 4}')},
		$self->{server_port}), 'ctl');
	$self->admin(q{CREATE ROLE ann LOGIN SUPERUSER PASSWORD 'secret'; CREATE ROLE bob LOGIN PASSWORD 'bob''s'});
	$self->admin(q{CREATE DATABASE app OWNER ann});
	mkdir "$self->{tmp}/certs"; chmod 0755, "$self->{tmp}/certs";
	$self->certificate('default', 'localhost', 'DNS:localhost,DNS:*.first.example');
	$self->certificate('second', 'second', 'DNS:*.second.example');
	$self->make('proxy', $self->{base} + 38, join "\n", "listen_addresses = ''", "shared_preload_libraries = 'neon_proxy'", 'shared_buffers = 1MB',
		"neon_proxy.port = $self->{port}", "neon_proxy.socket_directory = '$self->{tmp}'", "neon_proxy.certificates = '$self->{tmp}/certs'",
		"neon_proxy.controller_connstring = 'host=127.0.0.1 port=$self->{server_port} dbname=ctl user=postgres'", "neon_proxy.admin_secret = 'adminpw'",
		$opt{proxy} // '');
	$self->go('proxy');
	return $self;
}

sub make
{
	my ($self, $name, $port, $conf) = @_;
	my $d = "$self->{tmp}/$name";
	sh("$bin/initdb", '-D', $d, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C.UTF-8', '-N');
	$self->conf($name, "port = $port\nunix_socket_directories = '$self->{tmp}'\n$conf");
}

sub conf { my ($self, $name, $lines) = @_; open my $f, '>>', "$self->{tmp}/$name/postgresql.conf" or die $!; print $f "$lines\n"; close $f; }
sub hba { my ($self, $text) = @_; open my $f, '>', "$self->{tmp}/server/pg_hba.conf" or die $!; print $f $text; close $f; }
sub go { my ($self, $name) = @_; sh("$bin/pg_ctl", 'start', '-w', '-D', "$self->{tmp}/$name", '-l', "$self->{tmp}/$name.log"); }
sub halt { my ($self, $name, $mode) = @_; sh("$bin/pg_ctl", 'stop', '-w', '-m', $mode // 'fast', '-D', "$self->{tmp}/$name"); }

# The key stays readable: a proxy of another user could not use it, which is not the subject here.
sub certificate
{
	my ($self, $name, $cn, $san) = @_;
	my $f = "$self->{tmp}/certs/$name";
	my ($o, $e) = ('', '');
	run [ 'openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', 30, '-keyout', "$f.key", '-out', "$f.crt",
		'-subj', "/CN=$cn", '-addext', "subjectAltName=$san" ], '>', \$o, '2>', \$e or die $e;
	chmod 0644, "$f.key", "$f.crt";
}

sub admin { my ($self, $sql, $db) = @_; return sh('psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-h', $self->{tmp}, '-p', $self->{server_port}, '-U', 'postgres', '-d', $db // 'postgres', '-c', $sql); }
sub notify { my ($self, $what) = @_; $self->admin("NOTIFY neon_proxy, '$what'", 'ctl'); }
sub console { my ($self, $sql) = @_; return sh('psql', '-X', '-q', '-A', '-t', '-h', $self->{tmp}, '-p', $self->{port}, '-U', 'postgres', '-d', 'neon_proxy', '-c', $sql); }

# (exit code, stdout, stderr) of psql with a conninfo string that is completed; statements one after the other
sub psql
{
	my ($self, $conninfo, @sql) = @_;
	my ($o, $e) = ('', '');
	my $base = "host=127.0.0.1 port=$self->{port} user=ann password=secret dbname=app";
	my $h = IPC::Run::start([ @within, 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', "$base $conninfo", map { ('-c', $_) } @sql ], '<', '/dev/null', '>', \$o, '2>', \$e, timeout(180));
	$h->finish;
	chomp $o;
	return ($h->result(0), $o, $e);
}

sub logs { my ($self) = @_; return `tail -n 40 $self->{tmp}/proxy.log`; }

sub destroy
{
	my ($self) = @_;
	return if $self->{gone}++;
	for my $d (qw(proxy server)) { eval { $self->halt($d, 'immediate') } if -e "$self->{tmp}/$d/postmaster.pid"; }
	system('rm', '-rf', $self->{tmp});
}
sub DESTROY { my ($self) = @_; local ($?, $@); $self->destroy if $self->{owner} == $$; }

1;
