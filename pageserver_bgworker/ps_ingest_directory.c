/*
 * ps_ingest_directory.c - SQL for tests and repair: ingest WAL segments from a directory, look at single pages.
 *
 * ingest_wal_directory does what an ingest worker does, with files in the place of a safekeeper, so that a timeline can be
 * fed from a stock cluster's pg_wal or from an archive.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

#include "ps_ingest.h"
#include "ps_internal.h"
#include "ps_wal_source.h"

#define READ_BYTES		(1024 * 1024)
#define BATCH_RECORDS	1000

/* ---- reassembly's memory ---- */

void *
ps_wal_realloc(void *p, size_t n, void *arg)
{
	MemoryContext context = arg;

	if (n == 0)
	{
		if (p)
			pfree(p);
		return NULL;
	}
	return p ? repalloc_huge(p, n) : MemoryContextAllocHuge(context, n);
}

/* ---- a directory of segments ---- */

typedef struct WalDirectory
{
	const char *path;
	uint32		segment_bytes;
	XLogRecPtr	pos;			/* of the next byte to read */
	int			fd;				/* -1 between segments */
} WalDirectory;

/* Reads the next piece of WAL; 0 when there is no more. */
static size_t
read_wal(WalDirectory *d, char *buf, size_t cap)
{
	uint32		offset = XLogSegmentOffset(d->pos, d->segment_bytes);
	char		name[MAXFNAMELEN];
	char		file[MAXPGPATH];
	ssize_t		n;

	XLogFileName(name, 1, d->pos / d->segment_bytes, d->segment_bytes);
	snprintf(file, sizeof(file), "%s/%s", d->path, name);
	if (d->fd < 0)
	{
		d->fd = OpenTransientFile(file, O_RDONLY | PG_BINARY);
		if (d->fd < 0 && errno == ENOENT)
			return 0;
		if (d->fd < 0)
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", file)));
	}
	n = pg_pread(d->fd, buf, Min(cap, d->segment_bytes - offset), offset);
	if (n < 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not read file \"%s\": %m", file)));
	d->pos += n;
	if (d->pos % d->segment_bytes == 0 || n == 0)
	{
		CloseTransientFile(d->fd);
		d->fd = -1;
	}
	return n;
}

/* Records until upto or the end of what was written; true when there may be more. */
static bool
ingest_fed(PsIngest *ing, PsTimeline *tl, neon_wal_reader *reader, XLogRecPtr upto, int *batch)
{
	neon_wal_record rec;
	neon_wal_status status;

	while ((status = neon_wal_reader_next(reader, &rec)) == NEON_WAL_OK)
	{
		if (upto != InvalidXLogRecPtr && rec.end > upto)
			return false;
		ps_ingest_record(ing, &rec);
		if (++*batch >= BATCH_RECORDS)
		{
			ps_ingest_commit(ing);
			ps_throttle(tl);
			*batch = 0;
			CHECK_FOR_INTERRUPTS();
		}
	}
	if (status == NEON_WAL_NEED_MORE)
		return true;

	/* The rest of the last segment is zeros, or an older, recycled segment: whatever it is, records end here. */
	ereport(DEBUG1,
			(errmsg_internal("WAL of the directory ends at %X/%X: %s", LSN_FORMAT_ARGS((XLogRecPtr) reader->record_end),
							 neon_wal_status_text(status))));
	return false;
}

static void
ingest_directory(PsTimeline *tl, const char *path, XLogRecPtr upto)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "neon WAL directory", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	WalDirectory dir = {.path = path,.segment_bytes = ps_timeline_wal_segment_bytes(tl),.fd = -1};
	neon_wal_reader reader;
	PsIngest   *ing = ps_ingest_begin(tl);
	char	   *buf = palloc(READ_BYTES);
	int			batch = 0;
	size_t		n;

	dir.pos = ps_timeline_last_record_lsn(tl);
	neon_wal_reader_init(&reader, dir.segment_bytes, ps_wal_realloc, context);
	neon_wal_reader_begin(&reader, dir.pos);
	while ((n = read_wal(&dir, buf, READ_BYTES)) > 0)
	{
		neon_wal_reader_feed(&reader, buf, n);
		if (!ingest_fed(ing, tl, &reader, upto, &batch))
			break;
	}
	ps_ingest_end(ing);
	neon_wal_reader_free(&reader);
	if (dir.fd >= 0)
		CloseTransientFile(dir.fd);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

PG_FUNCTION_INFO_V1(neon_ps_ingest_wal_directory);

Datum
neon_ps_ingest_wal_directory(PG_FUNCTION_ARGS)
{
	char	   *tenant = ps_text_arg(fcinfo, 0, "tenant");
	char	   *timeline = ps_text_arg(fcinfo, 1, "timeline");
	char	   *path = ps_text_arg(fcinfo, 2, "directory");
	XLogRecPtr	upto = PG_ARGISNULL(3) ? InvalidXLogRecPtr : PG_GETARG_LSN(3);
	PsTimeline *tl;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to ingest WAL from a directory")));
	tl = ps_timeline_open(tenant, timeline);
	if (!ps_writer_attach(tl))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("timeline \"%s\" is being ingested by another process", timeline)));
	PG_TRY();
	{
		ingest_directory(tl, path, upto);
	}
	PG_CATCH();
	{
		LWLockReleaseAll();		/* a batch that failed holds the timeline's write lock */
		ps_writer_detach(tl);
		PG_RE_THROW();
	}
	PG_END_TRY();
	ps_writer_detach(tl);
	PG_RETURN_LSN(ps_timeline_last_record_lsn(tl));
}

/* ---- page_at(tenant, timeline, spc, db, rel, fork, blk, lsn) and relatives ---- */

static PsTimeline *
open_for_inspection(FunctionCallInfo fcinfo)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to read pages of a timeline")));
	return ps_timeline_open(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
}

PG_FUNCTION_INFO_V1(neon_ps_page_at);

Datum
neon_ps_page_at(PG_FUNCTION_ARGS)
{
	PsTimeline *tl = open_for_inspection(fcinfo);
	neon_key	key = ps_key(NEON_KEY_REL_BLOCK, PG_GETARG_OID(2), PG_GETARG_OID(3), PG_GETARG_OID(4),
							 (uint8) PG_GETARG_INT32(5), (uint32) PG_GETARG_INT64(6));
	bytea	   *result = palloc(VARHDRSZ + BLCKSZ);
	PGAlignedBlock page;

	ps_get_page(tl, &key, PG_GETARG_LSN(7), page.data);
	SET_VARSIZE(result, VARHDRSZ + BLCKSZ);
	memcpy(VARDATA(result), page.data, BLCKSZ);
	PG_RETURN_BYTEA_P(result);
}

PG_FUNCTION_INFO_V1(neon_ps_slru_segment_at);

/* (tenant, timeline, kind, segment, lsn): NULL when the segment does not exist */
Datum
neon_ps_slru_segment_at(PG_FUNCTION_ARGS)
{
	PsTimeline *tl = open_for_inspection(fcinfo);
	bytea	   *result = palloc(VARHDRSZ + PS_SLRU_PAGES_PER_SEGMENT * BLCKSZ);
	uint32		n = ps_get_slru_segment(tl, PG_GETARG_INT32(2), (uint32) PG_GETARG_INT64(3), PG_GETARG_LSN(4),
										VARDATA(result), PS_SLRU_PAGES_PER_SEGMENT);

	if (n == 0)
		PG_RETURN_NULL();
	SET_VARSIZE(result, VARHDRSZ + n * BLCKSZ);
	PG_RETURN_BYTEA_P(result);
}

PG_FUNCTION_INFO_V1(neon_ps_layers_visited);

Datum
neon_ps_layers_visited(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) ps_layers_visited);
}

PG_FUNCTION_INFO_V1(neon_ps_rel_size_at);

/* (tenant, timeline, spc, db, rel, fork, lsn): NULL when the fork does not exist */
Datum
neon_ps_rel_size_at(PG_FUNCTION_ARGS)
{
	PsTimeline *tl = open_for_inspection(fcinfo);
	uint32		size = ps_rel_size(tl, PG_GETARG_OID(2), PG_GETARG_OID(3), PG_GETARG_OID(4),
								   (uint8) PG_GETARG_INT32(5), PG_GETARG_LSN(6));

	if (size == NEON_SIZE_ABSENT)
		PG_RETURN_NULL();
	PG_RETURN_INT64((int64) size);
}
