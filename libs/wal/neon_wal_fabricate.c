/*
 * neon_wal_fabricate.c - WAL made from nothing: page headers, and one record in otherwise empty segments.
 *
 * A compute starts from a fabricated shutdown checkpoint at exactly the end of its log; a safekeeper's first segment
 * begins in the middle.  Both need headers that stock readers accept.  Of the page on which the log begins, the bytes before
 * that are not known here.  Its header says that a record of an earlier page ends there: pg_waldump and all who look for the
 * first record of a page (XLogFindNextRecord) then pass over them to where the log begins.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_wal_format.h"

/* The server writes 64-bit and 32-bit fields as they are in memory. */
#define PUT(p, type, value) do { type v_ = (value); memcpy(p, &v_, sizeof(v_)); } while (0)

static size_t
put_page_header(uint8_t *h, neon_lsn page, uint32_t rem_len, uint64_t system_id, uint32_t timeline,
				uint32_t segment_bytes)
{
	size_t		size = wal_header_bytes(page, segment_bytes);
	uint16_t	info = 0;

	if (size == WAL_LONG_HEADER)
		info |= WAL_LONG_HEADER_FLAG;
	if (rem_len > 0)
		info |= WAL_FIRST_IS_CONTRECORD;
	memset(h, 0, size);
	PUT(h + PAGE_MAGIC, uint16_t, WAL_PAGE_MAGIC);
	PUT(h + PAGE_INFO, uint16_t, info);
	PUT(h + PAGE_TLI, uint32_t, timeline);
	PUT(h + PAGE_ADDR, uint64_t, page);
	PUT(h + PAGE_REM_LEN, uint32_t, rem_len);
	if (size == WAL_LONG_HEADER)
	{
		PUT(h + PAGE_SYSID, uint64_t, system_id);
		PUT(h + PAGE_SEG_SIZE, uint32_t, segment_bytes);
		PUT(h + PAGE_BLCKSZ, uint32_t, NEON_XLOG_BLCKSZ);
	}
	return size;
}

/* For the page on which a log begins at `start`: the length of what stands before it, as of the end of an older record. */
static uint32_t
bytes_before(neon_lsn start, uint32_t segment_bytes)
{
	neon_lsn	page = start - start % NEON_XLOG_BLCKSZ;
	neon_lsn	first = page + wal_header_bytes(page, segment_bytes);

	return start > first ? (uint32_t) (start - first) : 0;
}

/* Where the bytes of a fabricated record go. */
typedef struct target
{
	uint8_t    *out;
	neon_lsn	base;			/* LSN of out[0] */
	neon_lsn	at;				/* of the next byte */
	uint32_t	left;			/* bytes of the record still to come */
	uint64_t	system_id;
	uint32_t	timeline;
	uint32_t	segment_bytes;
} target;

static void
put_record_bytes(target *t, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	while (len > 0)
	{
		size_t		n = NEON_XLOG_BLCKSZ - t->at % NEON_XLOG_BLCKSZ;

		if (t->at % NEON_XLOG_BLCKSZ == 0)
		{
			size_t		header = put_page_header(t->out + (t->at - t->base), t->at, t->left, t->system_id,
												 t->timeline, t->segment_bytes);

			t->at += header;
			n -= header;
		}
		if (n > len)
			n = len;
		memcpy(t->out + (t->at - t->base), p, n);
		t->at += n;
		t->left -= (uint32_t) n;
		p += n;
		len -= n;
	}
}

neon_lsn
neon_wal_record_end(neon_lsn start, uint32_t len, uint32_t segment_bytes)
{
	neon_lsn	at = start;

	for (;;)
	{
		uint32_t	n = NEON_XLOG_BLCKSZ - at % NEON_XLOG_BLCKSZ;

		if (len <= n)
			return wal_align8(at + len);
		len -= n;
		at += n;
		at += wal_header_bytes(at, segment_bytes);
	}
}

/* Record header and the header of its main data; returns their length.  The CRC is still 0. */
static size_t
put_record_header(uint8_t *rec, neon_lsn prev, uint8_t rmid, uint8_t info, uint32_t payload_len)
{
	size_t		n = NEON_WAL_RECORD_HEADER;

	memset(rec, 0, n);
	if (payload_len <= 255)
	{
		rec[n++] = WAL_BLOCK_ID_DATA_SHORT;
		rec[n++] = (uint8_t) payload_len;
	}
	else
	{
		rec[n++] = WAL_BLOCK_ID_DATA_LONG;
		PUT(rec + n, uint32_t, payload_len);
		n += 4;
	}
	PUT(rec + REC_TOT_LEN, uint32_t, (uint32_t) n + payload_len);
	PUT(rec + REC_PREV, uint64_t, prev);
	rec[REC_INFO] = info;
	rec[REC_RMID] = rmid;
	return n;
}

neon_lsn
neon_wal_fabricate(neon_lsn at, neon_lsn prev, uint8_t rmid, uint8_t info,
				   const void *payload, uint32_t payload_len,
				   uint64_t system_id, uint32_t timeline, uint32_t segment_bytes,
				   uint8_t *out, size_t out_cap, uint32_t *segment_count)
{
	uint8_t		head[NEON_WAL_RECORD_HEADER + 5];
	neon_lsn	start = neon_lsn_record_start(at, segment_bytes);
	neon_lsn	page = start - start % NEON_XLOG_BLCKSZ;
	target		t = {out, start - start % segment_bytes, start, 0, system_id, timeline, segment_bytes};
	size_t		head_len;
	uint32_t	crc;
	neon_lsn	end;

	if (payload_len > NEON_WAL_MAX_RECORD - sizeof(head))
		return 0;
	head_len = put_record_header(head, prev, rmid, info, payload_len);
	t.left = (uint32_t) head_len + payload_len;
	end = neon_wal_record_end(start, t.left, segment_bytes);
	*segment_count = (uint32_t) ((end - t.base + segment_bytes - 1) / segment_bytes);
	if ((uint64_t) *segment_count * segment_bytes > out_cap)
		return 0;

	crc = neon_crc32c(0, head + NEON_WAL_RECORD_HEADER, head_len - NEON_WAL_RECORD_HEADER);
	crc = neon_crc32c(crc, payload, payload_len);
	crc = neon_crc32c(crc, head, REC_CRC);
	PUT(head + REC_CRC, uint32_t, crc);

	put_page_header(out, t.base, 0, system_id, timeline, segment_bytes);
	put_page_header(out + (page - t.base), page, bytes_before(start, segment_bytes), system_id, timeline, segment_bytes);
	put_record_bytes(&t, head, head_len);
	put_record_bytes(&t, payload, payload_len);
	return end;
}

void
neon_wal_leading_headers(neon_lsn at, uint64_t system_id, uint32_t timeline, uint32_t segment_bytes,
						 uint8_t first[40], size_t *first_len,
						 uint8_t own[40], size_t *own_len, uint32_t *page_offset)
{
	neon_lsn	segment = at - at % segment_bytes;
	neon_lsn	page = at - at % NEON_XLOG_BLCKSZ;

	*page_offset = (uint32_t) (page - segment);
	/* headers at or after `at` come with the log itself */
	*first_len = *own_len = 0;
	if (at != segment)
		*first_len = put_page_header(first, segment, page == segment ? bytes_before(at, segment_bytes) : 0,
									 system_id, timeline, segment_bytes);
	if (at != page && page != segment)
		*own_len = put_page_header(own, page, bytes_before(at, segment_bytes), system_id, timeline, segment_bytes);
}
