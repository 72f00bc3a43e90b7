/*
 * data_directory.c - make a compute's data directory from a base backup.
 *
 * Everything is written under NAME.new and renamed at the end: a directory NAME is always whole.  Nothing in
 * it is worth an fsync now: after a crash of the host the compute starts from a new base backup (warm.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compute_tools.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlogdefs.h"
#include "fmgr.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "neon_core.h"
#include "neon_pqcall.h"

PG_FUNCTION_INFO_V1(ct_create_data_directory);
PG_FUNCTION_INFO_V1(ct_drop_data_directory);
PG_FUNCTION_INFO_V1(ct_write_configuration);

#define BASE_BACKUP_TIMEOUT_MS	600000

static void
write_file(const char *dir, const char *name, const char *content)
{
	char		path[MAXPGPATH];
	int			fd;
	size_t		len = strlen(content);

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = OpenTransientFilePerm(path, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY, S_IRUSR | S_IWUSR);
	if (fd < 0 || write(fd, content, len) != (ssize_t) len || CloseTransientFile(fd) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not write file \"%s\": %m", path)));
}

/* As above for a file that a server may be reading. */
static void
replace_file(const char *dir, const char *name, const char *content)
{
	char	   *fresh = psprintf("%s.new", name);
	char	   *from = psprintf("%s/%s", dir, fresh);
	char	   *to = psprintf("%s/%s", dir, name);

	write_file(dir, fresh, content);
	if (rename(from, to) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not rename \"%s\" to \"%s\": %m", from, to)));
}

static void
remove_tree(const char *path)
{
	struct stat st;

	if (lstat(path, &st) == 0 && !rmtree(path, true))
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not remove directory \"%s\"", path)));
}

static void
fetch_base_backup(const char *conninfo, const char *tenant, const char *timeline,
				  XLogRecPtr lsn, XLogRecPtr prev_lsn, XLogRecPtr checkpoint, const char *dir)
{
	PGconn	   *conn = neon_pq_connect(conninfo, "pageserver", 10000);
	TarReader  *tar = tar_reader_begin(dir);
	char	   *buf;
	int			len;

	PQclear(neon_pq_query(conn, "pageserver",
						  psprintf("CALL neon_pageserver.basebackup('%s', '%s', '%X/%X', '%X/%X', '%X/%X')",
								   tenant, timeline, LSN_FORMAT_ARGS(lsn), LSN_FORMAT_ARGS(prev_lsn), LSN_FORMAT_ARGS(checkpoint)),
						  0, NULL, BASE_BACKUP_TIMEOUT_MS));
	while ((buf = neon_pq_get_copy(conn, "pageserver", &len, BASE_BACKUP_TIMEOUT_MS)) != NULL)
	{
		tar_reader_feed(tar, buf, len);
		PQfreemem(buf);
	}
	neon_pq_finish_copy(conn, "pageserver", 10000);
	tar_reader_end(tar);
}

/* After an error, or when the session is terminated: half a directory is no use to anybody. */
static void
remove_fresh(int code, Datum path)
{
	(void) rmtree((const char *) DatumGetPointer(path), true);
}

/* (name, pageserver, tenant, timeline, lsn, prev_lsn, conf, hba, standby, checkpoint): replaces what stood there */
Datum
ct_create_data_directory(PG_FUNCTION_ARGS)
{
	char	   *dir = ct_compute_path(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char	   *conninfo = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *tenant = text_to_cstring(PG_GETARG_TEXT_PP(2));
	char	   *timeline = text_to_cstring(PG_GETARG_TEXT_PP(3));
	XLogRecPtr	lsn = PG_GETARG_LSN(4);
	XLogRecPtr	prev_lsn = PG_GETARG_LSN(5);
	char	   *conf = text_to_cstring(PG_GETARG_TEXT_PP(6));
	char	   *hba = text_to_cstring(PG_GETARG_TEXT_PP(7));
	bool		standby = PG_GETARG_BOOL(8);
	char	   *fresh = psprintf("%s.new", dir);
	neon_id		id;
	struct stat st;

	if (!neon_id_parse(tenant, &id) || !neon_id_parse(timeline, &id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tenant and timeline must be 32 hexadecimal digits")));
	if (stat(psprintf("%s/postmaster.pid", dir), &st) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("data directory \"%s\" belongs to a server that may still run", dir),
				 errhint("Stop it first.")));
	remove_tree(fresh);
	if (mkdir(fresh, S_IRWXU) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not create directory \"%s\": %m", fresh)));
	PG_ENSURE_ERROR_CLEANUP(remove_fresh, CStringGetDatum(fresh));
	{
		fetch_base_backup(conninfo, tenant, timeline, lsn, prev_lsn, PG_GETARG_LSN(9), fresh);
		write_file(fresh, "postgresql.conf", conf);
		write_file(fresh, "pg_hba.conf", hba);
		write_file(fresh, "pg_ident.conf", "");
		if (standby)
			write_file(fresh, "standby.signal", "");
	}
	PG_END_ENSURE_ERROR_CLEANUP(remove_fresh, CStringGetDatum(fresh));
	remove_tree(dir);
	if (rename(fresh, dir) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not rename \"%s\" to \"%s\": %m", fresh, dir)));
	PG_RETURN_VOID();
}

/*
 * (name, conf, hba): the configuration of a directory that is started again.  Settings made with ALTER SYSTEM go, as in a start from
 * nothing: what an endpoint is set to must not depend on how it was started.
 */
Datum
ct_write_configuration(PG_FUNCTION_ARGS)
{
	char	   *dir = ct_compute_path(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	replace_file(dir, "postgresql.conf", text_to_cstring(PG_GETARG_TEXT_PP(1)));
	replace_file(dir, "pg_hba.conf", text_to_cstring(PG_GETARG_TEXT_PP(2)));
	replace_file(dir, "postgresql.auto.conf", "");
	PG_RETURN_VOID();
}

Datum
ct_drop_data_directory(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *dir = ct_compute_path(name);
	struct stat st;

	if (stat(psprintf("%s/postmaster.pid", dir), &st) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("data directory \"%s\" belongs to a server that may still run", dir),
				 errhint("Stop it first.")));
	remove_tree(psprintf("%s.new", dir));
	remove_tree(dir);
	ct_remove_groups(name);		/* of a server that crashed */
	PG_RETURN_VOID();
}
