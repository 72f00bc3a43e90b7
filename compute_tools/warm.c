/*
 * warm.c - may a compute be started again in the directory it was stopped in?
 *
 * After a clean stop the compute has left neon/warm.written (libs/core/neon_warm.h says what stands in it).  seal_directory() makes every
 * file of the directory durable and gives it the name warm.sealed; open_directory() at the next start looks whether the directory
 * is what the quorum's log ends with, and gives it the name warm.start.  From then on no other start can use it, whatever happens.
 *
 * Invariant: a directory is used only if the quorum's log ends where its shutdown checkpoint ends, that checkpoint being the log's last
 * record; the quorum had it when the note was written, and committed WAL never changes, so nobody else has written since.
 * A static endpoint's directory (standby) ends with the checkpoint it was made with, which begins at its LSN: nobody writes there.
 *
 * A compute runs with fsync=off: after a crash of the host its files may be anything, hence the boot id, and hence the fsyncs: they are what
 * shows an error of the disk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compute_tools.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "neon_wal.h"
#include "neon_warm.h"

#define MAX_DEPTH	16

PG_FUNCTION_INFO_V1(ct_seal_directory);
PG_FUNCTION_INFO_V1(ct_open_directory);

static bool
read_bytes(const char *path, void *to, size_t len)
{
	int			fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t		n = fd < 0 ? -1 : read(fd, to, len);

	if (fd >= 0)
		close(fd);
	return n == (ssize_t) len;
}

static void
sync_path(const char *path, bool directory)
{
	int			fd = open(path, (directory ? O_RDONLY | O_DIRECTORY : O_RDWR) | O_CLOEXEC);
	int			rc = fd < 0 ? -1 : fsync(fd);
	int			save_errno = errno;

	if (fd >= 0)
		close(fd);
	errno = save_errno;
	if (rc != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not fsync \"%s\": %m", path)));
}

/* All files below, then the directory itself.  There are no symbolic links in a compute's directory: tablespaces are refused. */
static void
sync_tree(const char *path, int depth)
{
	DIR		   *dir = AllocateDir(path);
	struct dirent *entry;

	if (depth > MAX_DEPTH)
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("\"%s\" is nested too deeply", path)));
	while ((entry = ReadDir(dir, path)) != NULL)
	{
		char		child[MAXPGPATH * 2];
		struct stat st;

		CHECK_FOR_INTERRUPTS();
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(child, sizeof(child), "%s/%s", path, entry->d_name);
		if (lstat(child, &st) != 0)
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not stat \"%s\": %m", child)));
		if (S_ISDIR(st.st_mode))
			sync_tree(child, depth + 1);
		else if (S_ISREG(st.st_mode))
			sync_path(child, false);
	}
	FreeDir(dir);
	sync_path(path, true);
}

static void
rename_note(const char *dir, const char *from, const char *to)
{
	char	   *old = psprintf("%s/%s", dir, from);
	char	   *new = psprintf("%s/%s", dir, to);

	if (rename(old, new) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not rename \"%s\" to \"%s\": %m", old, new)));
	sync_path(psprintf("%s/neon", dir), true);
}

/* (name) returns bool: it can be started again where it was stopped, if nobody else writes meanwhile */
Datum
ct_seal_directory(PG_FUNCTION_ARGS)
{
	char	   *dir = ct_compute_path(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	struct stat st;

	if (ct_running_pid(dir) != 0 || stat(psprintf("%s/postmaster.pid", dir), &st) == 0 ||
		stat(psprintf("%s/%s", dir, NEON_WARM_WRITTEN), &st) != 0)
		PG_RETURN_BOOL(false);
	sync_tree(dir, 0);
	rename_note(dir, NEON_WARM_WRITTEN, NEON_WARM_SEALED);
	PG_RETURN_BOOL(true);
}

/* NULL when the directory may be started at [prev_lsn, lsn), or, of a static endpoint, at lsn; else why not. */
static const char *
why_not(const char *dir, const char *tenant, const char *timeline, XLogRecPtr lsn, XLogRecPtr prev_lsn, bool standby)
{
	neon_warm_header h;
	char		boot_id[NEON_BOOT_ID_TEXT] = "";
	struct stat st;
	ControlFileData *control;
	bool		crc_ok;

	if (stat(psprintf("%s/%s", dir, NEON_WARM_SEALED), &st) != 0)
		return "it was not stopped cleanly by the controller";
	if (stat(psprintf("%s/postmaster.pid", dir), &st) == 0)
		return "it has been started since";
	if (!read_bytes(psprintf("%s/%s", dir, NEON_WARM_SEALED), &h, sizeof(h)) || !neon_warm_valid(&h))
		return "its note of the stop is damaged";
	if (!read_bytes(NEON_BOOT_ID_PATH, boot_id, NEON_BOOT_ID_TEXT - 1) || !neon_warm_matches(&h, tenant, timeline, boot_id))
		return "it is of another timeline, or the host has been started again";
	if (!standby && (h.end_lsn != lsn || h.checkpoint_lsn != prev_lsn))
		return "the timeline has moved";
	if (stat(psprintf("%s/%s", dir, XLOG_CONTROL_FILE), &st) != 0 || st.st_size != PG_CONTROL_FILE_SIZE)
		return "its control file is damaged";
	control = get_controlfile(dir, &crc_ok);
	if (!crc_ok || control->pg_control_version != PG_CONTROL_VERSION ||
		control->state != (standby ? DB_SHUTDOWNED_IN_RECOVERY : DB_SHUTDOWNED) ||
		control->checkPoint != h.checkpoint_lsn ||
		neon_wal_record_end(control->checkPoint, NEON_SHUTDOWN_RECORD_BYTES, control->xlog_seg_size) != h.end_lsn)
		return "its control file is of another stop";
	if (standby && control->checkPoint != neon_lsn_record_start(lsn, control->xlog_seg_size))
		return "it is of another LSN";
	return NULL;
}

/* (name, tenant, timeline, lsn, prev_lsn, standby) returns text: NULL if the directory is to be started as it is, else why it is not */
Datum
ct_open_directory(PG_FUNCTION_ARGS)
{
	char	   *dir = ct_compute_path(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char	   *tenant = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *timeline = text_to_cstring(PG_GETARG_TEXT_PP(2));
	const char *problem = why_not(dir, tenant, timeline, PG_GETARG_LSN(3), PG_GETARG_LSN(4), PG_GETARG_BOOL(5));

	if (problem != NULL)
		PG_RETURN_TEXT_P(cstring_to_text(problem));
	(void) unlink(psprintf("%s/stopped_by_hand", dir));	/* bin/neon_local's mark is of an earlier stop */
	rename_note(dir, NEON_WARM_SEALED, NEON_WARM_START);
	PG_RETURN_NULL();
}
