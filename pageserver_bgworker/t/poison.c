/*
 * poison.c - test module: writes a WAL record that is whole and has a right CRC but cannot be ingested (nor replayed).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "fmgr.h"
#include "utils/pg_lsn.h"
#include "utils/relmapper.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(write_poison);

Datum
write_poison(PG_FUNCTION_ARGS)
{
	xl_relmap_update rec = {.dbid = 1,.tsid = 1663,.nbytes = 100000};	/* of which none follow */
	XLogRecPtr	end;

	XLogBeginInsert();
	XLogRegisterData((char *) &rec, MinSizeOfRelmapUpdate);
	end = XLogInsert(RM_RELMAP_ID, XLOG_RELMAP_UPDATE);
	XLogFlush(end);
	PG_RETURN_LSN(end);
}
