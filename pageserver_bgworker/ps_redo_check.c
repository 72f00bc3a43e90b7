/*
 * ps_redo_check.c - SQL function check_wal_directory: replay a directory of WAL in memory, compare with what the server did.
 *
 * It needs no store and no timeline.  See ps_redo_check_page.c and ps_redo_check_slru.c for what is compared.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo_check.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "common/file_perm.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

PG_FUNCTION_INFO_V1(neon_pageserver_check_wal_directory);

#define READ_BYTES		(1024 * 1024)
#define RESULT_COLUMNS	7

void
ps_check_mismatch(CheckState *state, uint8 rmid, const neon_key *key, XLogRecPtr lsn, const char *what)
{
	CheckCounters *c = &state->counters[rmid];

	c->mismatches++;
	if (c->first_mismatch == NULL)
		c->first_mismatch = MemoryContextStrdup(state->context,
												psprintf("kind %u %u/%u/%u fork %u block %u at %X/%X: %s",
														 key->kind, key->spc, key->db, key->rel, key->fork, key->blk,
														 LSN_FORMAT_ARGS(lsn), what));
}

/* ---- reading ---- */
typedef struct WalDirectory
{
	const char *path;
	uint32		segment_bytes;
	XLogRecPtr	pos;			/* next byte to read */
	int			fd;
	char	   *buffer;
} WalDirectory;

static void *
wal_realloc(void *p, size_t n, void *arg)
{
	if (n == 0)
	{
		if (p != NULL)
			pfree(p);
		return NULL;
	}
	if (p == NULL)
		return MemoryContextAllocHuge((MemoryContext) arg, n);
	return repalloc_huge(p, n);
}

/* The size of a segment stands in the long header of any segment; all segments have timeline 1. */
static uint32
segment_bytes_of(const char *path)
{
	DIR		   *dir = AllocateDir(path);
	struct dirent *de;
	uint32		result = 0;

	while (result == 0 && (de = ReadDir(dir, path)) != NULL)
	{
		XLogLongPageHeaderData header;
		char	   *file = psprintf("%s/%s", path, de->d_name);
		int			fd;

		if (!IsXLogFileName(de->d_name))
			continue;
		fd = OpenTransientFile(file, O_RDONLY | PG_BINARY);
		if (fd >= 0 && read(fd, &header, sizeof(header)) == sizeof(header) &&
			header.std.xlp_magic == XLOG_PAGE_MAGIC && IsValidWalSegSize(header.xlp_seg_size))
			result = header.xlp_seg_size;
		if (fd >= 0)
			CloseTransientFile(fd);
		pfree(file);
	}
	FreeDir(dir);
	if (result == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("no WAL segments in directory \"%s\"", path)));
	return result;
}

/* Reads up to READ_BYTES at w->pos, not across a segment's end; 0 when there is no such segment. */
static size_t
read_wal(WalDirectory *w)
{
	char		name[MAXFNAMELEN];
	char		path[MAXPGPATH];
	XLogSegNo	segno;
	uint32		offset = XLogSegmentOffset(w->pos, w->segment_bytes);
	ssize_t		n;

	if (w->fd >= 0 && offset == 0)
	{
		CloseTransientFile(w->fd);
		w->fd = -1;
	}
	if (w->fd < 0)
	{
		XLByteToSeg(w->pos, segno, w->segment_bytes);
		XLogFileName(name, 1, segno, w->segment_bytes);
		snprintf(path, sizeof(path), "%s/%s", w->path, name);
		w->fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
		if (w->fd < 0)
			return 0;
	}
	n = pg_pread(w->fd, w->buffer, Min(READ_BYTES, w->segment_bytes - offset), offset);
	if (n < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read WAL segment of \"%s\": %m", w->path)));
	w->pos += n;
	return n;
}

static void
check_record(CheckState *state, const neon_wal_record *rec)
{
	neon_wal_parsed parsed;
	neon_wal_status status = neon_wal_parse(rec->bytes, rec->len, &parsed);

	CHECK_FOR_INTERRUPTS();
	if (status != NEON_WAL_OK || !RmgrIdExists(rec->rmid))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not parse the WAL record at %X/%X: %s", LSN_FORMAT_ARGS(rec->start),
						neon_wal_status_text(status))));
	state->counters[rec->rmid].records++;
	ps_check_pages_record(state, rec, &parsed);
	if (state->slru_before != NULL)
		ps_check_slrus_record(state, rec, &parsed);
}

static void
check_all(CheckState *state, const char *path, XLogRecPtr from, XLogRecPtr to)
{
	WalDirectory w = {.path = path, .segment_bytes = segment_bytes_of(path), .pos = from, .fd = -1};
	MemoryContext record_context = AllocSetContextCreate(CurrentMemoryContext, "redo check record", ALLOCSET_DEFAULT_SIZES);
	MemoryContext outer = CurrentMemoryContext;
	neon_wal_reader reader;
	neon_wal_record rec;
	neon_wal_status status;
	size_t		n;

	w.buffer = palloc(READ_BYTES);
	neon_wal_reader_init(&reader, w.segment_bytes, wal_realloc, outer);
	neon_wal_reader_begin(&reader, from);
	do
	{
		n = read_wal(&w);
		neon_wal_reader_feed(&reader, w.buffer, n);
		while ((status = neon_wal_reader_next(&reader, &rec)) == NEON_WAL_OK && (to == 0 || rec.end <= to))
		{
			MemoryContextSwitchTo(record_context);
			check_record(state, &rec);
			MemoryContextSwitchTo(outer);
			MemoryContextReset(record_context);
		}
	} while (n > 0 && status == NEON_WAL_NEED_MORE);

	if (to != 0 && reader.record_end < to)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("WAL in \"%s\" ends at %X/%X, expected %X/%X: %s", path,
						LSN_FORMAT_ARGS(reader.record_end), LSN_FORMAT_ARGS(to), neon_wal_status_text(status))));
	if (w.fd >= 0)
		CloseTransientFile(w.fd);
	neon_wal_reader_free(&reader);
}

static void
return_counters(const CheckState *state, ReturnSetInfo *result)
{
	for (int rmid = 0; rmid <= RM_MAX_ID; rmid++)
	{
		const CheckCounters *c = &state->counters[rmid];
		Datum		values[RESULT_COLUMNS];
		bool		nulls[RESULT_COLUMNS] = {false};

		if (c->records == 0)
			continue;
		values[0] = CStringGetTextDatum(RmgrTable[rmid].rm_name);
		values[1] = Int64GetDatum(c->records);
		values[2] = Int64GetDatum(c->native);
		values[3] = Int64GetDatum(c->by_process);
		values[4] = Int64GetDatum(c->compared);
		values[5] = Int64GetDatum(c->mismatches);
		nulls[6] = c->first_mismatch == NULL;
		values[6] = nulls[6] ? (Datum) 0 : CStringGetTextDatum(c->first_mismatch);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

/* check_wal_directory(directory text, from_lsn pg_lsn, to_lsn pg_lsn, logs_before text, logs_after text) */
Datum
neon_pageserver_check_wal_directory(PG_FUNCTION_ARGS)
{
	CheckState *state;
	MemoryContext context;
	MemoryContext old;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to check a directory of WAL")));
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("directory and from_lsn must not be null")));

	InitMaterializedSRF(fcinfo, 0);
	context = AllocSetContextCreate(CurrentMemoryContext, "redo check", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	state = palloc0(sizeof(*state));
	state->context = context;
	ps_check_pages_init(state);
	if (!PG_ARGISNULL(3) && !PG_ARGISNULL(4))
	{
		state->slru_before = text_to_cstring(PG_GETARG_TEXT_PP(3));
		state->slru_after = text_to_cstring(PG_GETARG_TEXT_PP(4));
		ps_check_slrus_init(state);
	}
	check_all(state, text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_LSN(1), PG_ARGISNULL(2) ? 0 : PG_GETARG_LSN(2));
	ps_check_pages_finish(state);
	if (state->slru_before != NULL)
		ps_check_slrus_finish(state);
	MemoryContextSwitchTo(old);

	return_counters(state, (ReturnSetInfo *) fcinfo->resultinfo);
	MemoryContextDelete(context);
	return (Datum) 0;
}
