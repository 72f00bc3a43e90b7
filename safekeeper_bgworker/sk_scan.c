/*
 * sk_scan.c - where a log really ends.
 *
 * Only ends of complete, CRC-valid records count (rule 1).  The scan starts at a record before `from`, an end known
 * to be good, so that the start of the last record is found even when nothing follows `from`; it goes on
 * until the first byte that is not the continuation of the log.
 *
 * A place to start is the first record that begins in some page; the page's header tells where that is.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "miscadmin.h"

#include "neon_wal.h"
#include "sk.h"
#include "sk_walfile.h"

#define SCAN_CHUNK_BYTES	(256 * 1024)

void *
sk_realloc(void *p, size_t n, void *arg)
{
	if (n == 0)
	{
		free(p);
		return NULL;
	}
	return realloc(p, n);
}

/* Where the first record that begins in this page begins; invalid when none does. */
static XLogRecPtr
first_record_of_page(SkWal *w, XLogRecPtr page)
{
	XLogLongPageHeaderData hdr;
	XLogRecPtr	pos;

	if (sk_wal_read(w, page, (char *) &hdr, sizeof(hdr)) < sizeof(hdr))
		return InvalidXLogRecPtr;
	if (hdr.std.xlp_magic != XLOG_PAGE_MAGIC || hdr.std.xlp_pageaddr != page)
		return InvalidXLogRecPtr;
	pos = page + XLogPageHeaderSize(&hdr.std);
	if (hdr.std.xlp_info & XLP_FIRST_IS_CONTRECORD)
	{
		if (hdr.std.xlp_rem_len >= XLOG_BLCKSZ)
			return InvalidXLogRecPtr;
		pos += MAXALIGN(hdr.std.xlp_rem_len);
	}
	return pos < page + XLOG_BLCKSZ ? pos : InvalidXLogRecPtr;
}

static void
read_records(SkWal *w, neon_wal_reader *reader, char *chunk, XLogRecPtr until, SkScan *out)
{
	neon_wal_record rec;
	neon_wal_status status = NEON_WAL_NEED_MORE;
	XLogRecPtr	pos = out->end;

	while (status == NEON_WAL_NEED_MORE && pos < until)
	{
		size_t		n = sk_wal_read(w, pos, chunk, Min(SCAN_CHUNK_BYTES, until - pos));

		CHECK_FOR_INTERRUPTS();
		if (n == 0)
			break;
		pos += n;
		neon_wal_reader_feed(reader, chunk, n);
		while ((status = neon_wal_reader_next(reader, &rec)) == NEON_WAL_OK)
		{
			out->end = rec.end;
			out->last_record_start = rec.start;
		}
	}
	out->stopped = neon_wal_status_text(status);
}

/* Read records from `begin`, a record's start, to `until` or the end of what is valid. */
static void
scan_forward(SkWal *w, XLogRecPtr begin, XLogRecPtr until, SkScan *out)
{
	char	   *chunk = palloc(SCAN_CHUNK_BYTES);
	neon_wal_reader reader;

	out->end = begin;
	out->last_record_start = InvalidXLogRecPtr;
	neon_wal_reader_init(&reader, w->segment_bytes, sk_realloc, NULL);
	reader.check_link = true;
	neon_wal_reader_begin(&reader, begin);
	PG_TRY();
	{
		read_records(w, &reader, chunk, until, out);
	}
	PG_FINALLY();
	{
		neon_wal_reader_free(&reader);
	}
	PG_END_TRY();
	pfree(chunk);
}

/*
 * from: the log's start, or the end of a record.  Bytes from `until` on are not looked at.  When the log is shorter than `from`, out->end says so.
 */
void
sk_scan_tail(SkWal *w, XLogRecPtr start_lsn, XLogRecPtr from, XLogRecPtr until, SkScan *out)
{
	XLogRecPtr	page = from > start_lsn ? (from - 1) - (from - 1) % XLOG_BLCKSZ : 0;

	for (; page > start_lsn; page -= XLOG_BLCKSZ)
	{
		XLogRecPtr	begin = first_record_of_page(w, page);

		CHECK_FOR_INTERRUPTS();
		if (begin == InvalidXLogRecPtr || begin >= from)
			continue;
		scan_forward(w, begin, until, out);
		if (out->end >= from)
			return;
		/* An unreachable page of a switched segment, or damage: farther back is the truth. */
	}
	scan_forward(w, start_lsn, until, out);
}
