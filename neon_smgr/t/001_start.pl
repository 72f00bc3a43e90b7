# What the module refuses to start with, and that it changes nothing where it is not wanted.
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;
use File::Spec;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SmgrTest;
use Test::More;

# ---- preloaded without a timeline: an ordinary server
my $plain = PostgreSQL::Test::Cluster->new('plain');
$plain->init;
$plain->append_conf('postgresql.conf', "shared_preload_libraries = 'neon_smgr'\n");
$plain->start;
$plain->safe_psql('postgres', 'CREATE EXTENSION neon; CREATE TABLE t AS SELECT 1 AS a');
my $path = $plain->safe_psql('postgres', "SELECT pg_relation_filepath('t')");
ok(-e $plain->data_dir . "/$path", 'without neon.timeline_id relations are ordinary files');
like($plain->safe_psql('postgres', 'SELECT neon_version()'), qr/not a compute/, 'and the server says that it is no compute');
my ($rc, $out, $err) = $plain->psql('postgres', 'SELECT * FROM neon_compute');
like($err, qr/not a compute/, 'views of a compute fail with a reason');
# what looks like a controller to the functions that run with their owner's rights
$plain->safe_psql('postgres', q{CREATE ROLE mallory LOGIN; GRANT pg_monitor TO mallory; GRANT CREATE ON DATABASE postgres TO mallory});
($rc, $out, $err) = $plain->psql('postgres', q{SET SESSION AUTHORIZATION mallory; CREATE SCHEMA neon_controller;
	CREATE FUNCTION neon_controller.api(text, jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE 'called as %', current_user; END $$;
	SELECT * FROM neon_branches});
like($err, qr/neither a controller nor an endpoint/, 'a schema that somebody made is no controller');
unlike($err, qr/called as/, 'and nothing in it is called');
$plain->stop;

# ---- an extension's library loaded later changes nothing either
$plain->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$plain->start;
like($plain->safe_psql('postgres', 'SELECT neon_version()'), qr/not a compute/, 'loaded by a function call only');
is($plain->safe_psql('postgres', 'SELECT a FROM t'), '1', 'and relations are read as before');
$plain->stop;

# ---- settings that would lose data
$plain->append_conf('postgresql.conf', "shared_preload_libraries = 'neon_smgr'\nwal_level = replica\nneon.timeline_id = '" . '1' x 32 . "'\n");
like(start_fails($plain), qr/"neon.timeline_id" is set but "neon.tenant_id" is not/, 'a timeline without its tenant');
$plain->append_conf('postgresql.conf', "neon.tenant_id = 'xyz'\n");
like(start_fails($plain), qr/An id is 32 hexadecimal digits/, 'a tenant that is no id');

my $minimal = new_compute('minimal', conf => "wal_level = minimal\nmax_wal_senders = 0");
like(start_fails($minimal), qr/needs "wal_level" to be replica or logical/, 'wal_level=minimal is refused');

my $checksums = new_compute('checksums', initdb => ['-k']);
like(start_fails($checksums), qr/data checksums/, 'data checksums are refused');

# ---- a server that does not look as expected
my $doctored = new_compute('doctored');
my $top = "$FindBin::RealBin/../..";
my $lib = File::Spec->rel2abs($doctored->basedir . '/doctor.so');
my ($includes) = run_command([ 'pg_config', '--includedir-server' ]);
system_or_bail('cc', '-shared', '-fPIC', '-O2', "-I$includes", "-I$top/libs/pgpatch", "$FindBin::RealBin/doctor.c",
	"$top/libs/build/libneon.a", '-o', $lib);
$doctored->append_conf('postgresql.conf', "shared_preload_libraries = '$lib,neon_smgr'\n");
my $log = start_fails($doctored);
like($log, qr/neon_smgr cannot work in this server/, 'a doctored table is refused');
like($log, qr/table was found 0 times, expected once/, 'with what was found');
like($log, qr/HINT:.*Build the module again/, 'and what to do');
$doctored->append_conf('postgresql.conf', "shared_preload_libraries = 'neon_smgr'\n");
$doctored->start;
$doctored->safe_psql('postgres', 'CREATE EXTENSION neon');
is($doctored->safe_psql('postgres', 'SELECT replaced_tables, detours, direct_calls_handled, direct_calls_unexpected FROM neon_compute'),
	'1|5|2|0', 'the same server undoctored is accepted');

# ---- local state does not survive a crash
$doctored->safe_psql('postgres', 'CREATE TABLE t AS SELECT 1 AS a');
$doctored->stop('immediate');
like(start_fails($doctored), qr/was not shut down cleanly/, 'a data directory that was not shut down is refused');

done_testing();
