/*
 * static_endpoint.c - a server that shows a timeline as of one LSN (neon.static_lsn) and can never write.
 *
 * It is a hot standby without a source: its data directory comes from a base backup at the LSN, whose only record is a shutdown
 * checkpoint, and standby.signal keeps it in recovery behind that record.  So the server itself refuses to write, and writes no WAL.
 * Transactions that ran at the LSN are aborted ones to it, prepared ones are still prepared.
 *
 * Invariant: every page, size and name is asked for as of neon.static_lsn (page_stream.c); nothing that is written goes anywhere
 * (pagestore.c): only hint bits can make a page dirty here.  The LSN never changes, so the page cache and a warm start are right for
 * ever, for this timeline and LSN, which neon/warm.* and the control file name.
 *
 * It does not leave recovery (standby.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"

#include "neon_smgr.h"

void
static_endpoint_refuse(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
			 errmsg("a static endpoint cannot write"),
			 errdetail("It shows its branch as of LSN %X/%X.", LSN_FORMAT_ARGS(neon_static_lsn)),
			 errhint("Create a branch at that LSN and a read-write endpoint for it.")));
}

/* neon.static_lsn, if that is where the checkpoint of this data directory is. */
XLogRecPtr
static_endpoint_start_lsn(void)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);
	struct stat st;

	if (!crc_ok)
		ereport(FATAL, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("the control file is damaged: its checksum does not fit")));
	if ((control->state != DB_SHUTDOWNED && control->state != DB_SHUTDOWNED_IN_RECOVERY) ||
		neon_pull_back_lsn(control->checkPoint) != neon_pull_back_lsn(neon_static_lsn) ||
		stat("standby.signal", &st) != 0 || stat("recovery.signal", &st) == 0)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this data directory is not one of a static endpoint at %X/%X", LSN_FORMAT_ARGS(neon_static_lsn)),
				 errdetail("Its checkpoint is at %X/%X.", LSN_FORMAT_ARGS(control->checkPoint)),
				 errhint("Start the endpoint with a new data directory from a base backup.")));
	pfree(control);
	return neon_static_lsn;
}
