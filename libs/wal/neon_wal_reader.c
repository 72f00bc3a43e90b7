/*
 * neon_wal_reader.c - reassembly: bytes of WAL in, complete records with checked CRC out.
 *
 * A state machine over the position of the next unconsumed byte.  That position alone says whether the byte belongs to a
 * page header or to a record, so that input can be cut anywhere.  Bytes that carry nothing (padding behind a record, the
 * rest of a switched segment with its page headers) are passed by moving skip_to.
 *
 * A record that lies in one page and wholly in the input, 8-byte aligned there, is handed out where it is; any other is
 * gathered in `rec`.  That buffer grows as bytes arrive, never by what a length field claims.
 *
 * Invariants: records begin at multiples of 8, as page ends do, hence xl_tot_len is never cut by a page end; and while a
 * record is being gathered at the beginning of a page, its length is known.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_wal_format.h"

#define MIN_RECORD_BUFFER	(2 * NEON_XLOG_BLCKSZ)
#define KEPT_RECORD_BUFFER	((size_t) 1024 * 1024)	/* that of a larger record goes with it */

const char *
neon_wal_status_text(neon_wal_status s)
{
	switch (s)
	{
		case NEON_WAL_OK:
			return "ok";
		case NEON_WAL_NEED_MORE:
			return "more bytes are needed";
		case NEON_WAL_BAD_PAGE:
			return "invalid WAL page header";
		case NEON_WAL_BAD_LENGTH:
			return "invalid record length";
		case NEON_WAL_BAD_CRC:
			return "incorrect record checksum";
		case NEON_WAL_BAD_LINK:
			return "record does not link to the record before";
		case NEON_WAL_BAD_BLOCK_REF:
			return "invalid block reference";
		case NEON_WAL_NO_SPACE:
			return "no memory for the record";
		case NEON_WAL_ZEROES:
			return "zeroes instead of a record";
		case NEON_WAL_BAD_CALL:
			return "fed before the bytes at hand were consumed";
	}
	return "unknown status";
}

void
neon_wal_reader_init(neon_wal_reader *r, uint32_t segment_bytes,
					 void *(*realloc_fn) (void *, size_t, void *), void *arg)
{
	memset(r, 0, sizeof(*r));
	r->segment_bytes = segment_bytes;
	r->realloc_fn = realloc_fn;
	r->realloc_arg = arg;
	neon_wal_reader_begin(r, 0);
}

void
neon_wal_reader_free(neon_wal_reader *r)
{
	if (r->rec != NULL)
		r->realloc_fn(r->rec, 0, r->realloc_arg);
	r->rec = NULL;
	r->rec_cap = 0;
}

void
neon_wal_reader_begin(neon_wal_reader *r, neon_lsn lsn)
{
	neon_lsn	page = lsn - lsn % NEON_XLOG_BLCKSZ;

	r->pos = lsn;
	r->record_end = lsn;
	r->record_start = NEON_LSN_INVALID;
	r->rec_have = 0;
	r->rec_need = 0;
	r->rec_start = NEON_LSN_INVALID;
	r->skip_to = wal_align8(lsn);
	r->hdr_have = 0;
	r->in = NULL;
	r->in_len = 0;
	r->delivered = false;
	/* no record ends inside a page header */
	r->failed = lsn > page && lsn < page + wal_header_bytes(page, r->segment_bytes) ? NEON_WAL_BAD_PAGE : NEON_WAL_OK;
}

void
neon_wal_reader_feed(neon_wal_reader *r, const void *bytes, size_t len)
{
	/* bytes still held would be lost: next must have said NEED_MORE */
	if (r->in_len > 0 && r->failed == NEON_WAL_OK)
		r->failed = NEON_WAL_BAD_CALL;
	r->in = bytes;
	r->in_len = len;
	r->pos += len;
}

/* LSN of the next unconsumed byte. */
static inline neon_lsn
current(const neon_wal_reader *r)
{
	return r->pos - r->in_len;
}

static inline void
consume(neon_wal_reader *r, size_t n)
{
	r->in += n;
	r->in_len -= n;
}

static inline neon_wal_status
fail(neon_wal_reader *r, neon_wal_status s)
{
	r->failed = s;
	r->in_len = 0;
	return s;
}

static bool
all_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != 0)
			return false;
	return true;
}

/* Is hdr the header that belongs at `page`, whatever record comes there? */
static neon_wal_status
check_page_header(const neon_wal_reader *r, neon_lsn page, size_t size)
{
	const uint8_t *h = r->hdr;
	uint16_t	info = wal_get16(h + PAGE_INFO);

	if (all_zero(h, size))
		return NEON_WAL_ZEROES;
	if (wal_get16(h + PAGE_MAGIC) != WAL_PAGE_MAGIC || (info & ~WAL_ALL_FLAGS) != 0 ||
		wal_get64(h + PAGE_ADDR) != page ||
		((info & WAL_LONG_HEADER_FLAG) != 0) != (size == WAL_LONG_HEADER))
		return NEON_WAL_BAD_PAGE;
	if (size == WAL_LONG_HEADER &&
		(wal_get32(h + PAGE_SEG_SIZE) != r->segment_bytes || wal_get32(h + PAGE_BLCKSZ) != NEON_XLOG_BLCKSZ))
		return NEON_WAL_BAD_PAGE;
	return NEON_WAL_OK;
}

/* A page header is complete: does it continue what we have? */
static neon_wal_status
page_header_done(neon_wal_reader *r, neon_lsn page, size_t size)
{
	neon_wal_status s = check_page_header(r, page, size);
	uint16_t	info = wal_get16(r->hdr + PAGE_INFO);
	uint32_t	rem_len = wal_get32(r->hdr + PAGE_REM_LEN);

	r->hdr_have = 0;
	if (s != NEON_WAL_OK)
		return s;
	if (r->rec_have == 0)
		return info & WAL_FIRST_IS_CONTRECORD ? NEON_WAL_BAD_PAGE : NEON_WAL_OK;

	if (info & WAL_FIRST_IS_OVERWRITE_CONTRECORD)
	{
		/* the server crashed inside this record and went on without its rest: it never was */
		r->rec_have = 0;
		r->rec_need = 0;
		return NEON_WAL_OK;
	}
	if (!(info & WAL_FIRST_IS_CONTRECORD) || rem_len != r->rec_need - r->rec_have)
		return NEON_WAL_BAD_PAGE;
	return NEON_WAL_OK;
}

/* Take bytes of the header of the present page; its position tells how many we have. */
static neon_wal_status
gather_page_header(neon_wal_reader *r, neon_lsn page, size_t size)
{
	size_t		n = size - r->hdr_have;

	if (n > r->in_len)
		n = r->in_len;
	memcpy(r->hdr + r->hdr_have, r->in, n);
	r->hdr_have += n;
	consume(r, n);
	return r->hdr_have == size ? page_header_done(r, page, size) : NEON_WAL_OK;
}

static neon_wal_status
check_length(uint32_t len)
{
	if (len == 0)
		return NEON_WAL_ZEROES;
	if (len < NEON_WAL_RECORD_HEADER || len > NEON_WAL_MAX_RECORD)
		return NEON_WAL_BAD_LENGTH;
	return NEON_WAL_OK;
}

/* The record's header is there: check its link before waiting for, and storing, the rest. */
static neon_wal_status
check_link(const neon_wal_reader *r, const uint8_t *rec, neon_lsn start)
{
	neon_lsn	prev = wal_get64(rec + REC_PREV);

	if (prev >= start)
		return NEON_WAL_BAD_LINK;
	if (r->check_link && r->record_start != NEON_LSN_INVALID && prev != r->record_start)
		return NEON_WAL_BAD_LINK;
	return NEON_WAL_OK;
}

/* All bytes of a record are at `bytes` and consumed: check it, hand it out. */
static neon_wal_status
deliver(neon_wal_reader *r, const uint8_t *bytes, uint32_t len, neon_wal_record *rec)
{
	if (wal_record_crc(bytes, len) != wal_get32(bytes + REC_CRC))
		return fail(r, NEON_WAL_BAD_CRC);

	rec->start = r->rec_start;
	rec->end = wal_align8(current(r));
	rec->len = len;
	rec->bytes = bytes;
	rec->xid = wal_get32(bytes + REC_XID);
	rec->prev = wal_get64(bytes + REC_PREV);
	rec->info = bytes[REC_INFO];
	rec->rmid = bytes[REC_RMID];
	if (rec->rmid == WAL_RMGR_XLOG && (rec->info & WAL_RMGR_INFO_MASK) == WAL_XLOG_SWITCH)
		rec->end = (rec->end + r->segment_bytes - 1) / r->segment_bytes * r->segment_bytes;

	r->record_start = rec->start;
	r->record_end = rec->end;
	r->skip_to = rec->end;
	r->delivered = true;
	return NEON_WAL_OK;
}

/* Room for n more bytes of a record; doubles, within what the record can need. */
static bool
reserve(neon_wal_reader *r, size_t n)
{
	size_t		want = r->rec_have + n;
	size_t		cap = r->rec_cap < MIN_RECORD_BUFFER ? MIN_RECORD_BUFFER : r->rec_cap;
	uint8_t    *p;

	if (want <= r->rec_cap)
		return true;
	while (cap < want)
		cap *= 2;
	if (cap > NEON_WAL_MAX_RECORD)
		cap = NEON_WAL_MAX_RECORD;
	p = r->realloc_fn(r->rec, cap, r->realloc_arg);
	if (p == NULL)
		return false;
	r->rec = p;
	r->rec_cap = cap;
	return true;
}

/* Take bytes of a record, up to the end of the page, the record or the input. */
static neon_wal_status
gather_record(neon_wal_reader *r, size_t page_left)
{
	size_t		had = r->rec_have;
	size_t		n = (r->rec_need != 0 ? r->rec_need : sizeof(uint32_t)) - had;
	neon_wal_status s = NEON_WAL_OK;

	if (n > page_left)
		n = page_left;
	if (n > r->in_len)
		n = r->in_len;
	if (!reserve(r, n))
		return NEON_WAL_NO_SPACE;
	memcpy(r->rec + had, r->in, n);
	r->rec_have += n;
	consume(r, n);

	if (r->rec_need == 0 && r->rec_have == sizeof(uint32_t))
	{
		r->rec_need = wal_get32(r->rec + REC_TOT_LEN);
		s = check_length(r->rec_need);
	}
	else if (had < NEON_WAL_RECORD_HEADER && r->rec_have >= NEON_WAL_RECORD_HEADER)
		s = check_link(r, r->rec, r->rec_start);
	return s;
}

/* A record that lies wholly in this page and in the input can stay where it is. */
static inline bool
in_place(const neon_wal_reader *r, size_t page_left, uint32_t *len)
{
	if (r->in_len < NEON_WAL_RECORD_HEADER || ((uintptr_t) r->in & 7) != 0)
		return false;
	*len = wal_get32(r->in + REC_TOT_LEN);
	return *len >= NEON_WAL_RECORD_HEADER && *len <= page_left && *len <= r->in_len;
}

neon_wal_status
neon_wal_reader_next(neon_wal_reader *r, neon_wal_record *rec)
{
	neon_wal_status s = r->failed;

	if (r->delivered)
	{
		r->rec_have = 0;
		r->rec_need = 0;
		r->delivered = false;
		if (r->rec_cap > KEPT_RECORD_BUFFER)
		{
			r->realloc_fn(r->rec, 0, r->realloc_arg);
			r->rec = NULL;
			r->rec_cap = 0;
		}
	}
	while (s == NEON_WAL_OK)
	{
		neon_lsn	at = current(r);
		size_t		offset = at % NEON_XLOG_BLCKSZ;
		size_t		header = wal_header_bytes(at - offset, r->segment_bytes);

		if (r->in_len == 0)
			return NEON_WAL_NEED_MORE;
		if (at < r->skip_to)
		{
			uint64_t	n = r->skip_to - at;

			consume(r, n < r->in_len ? (size_t) n : r->in_len);
		}
		else if (offset < header)
			s = gather_page_header(r, at - offset, header);
		else
		{
			size_t		page_left = NEON_XLOG_BLCKSZ - offset;
			uint32_t	len;

			if (r->rec_have == 0)
			{
				r->rec_start = at;
				if (in_place(r, page_left, &len))
				{
					const uint8_t *bytes = r->in;

					s = check_link(r, bytes, at);
					if (s != NEON_WAL_OK)
						break;
					consume(r, len);
					return deliver(r, bytes, len, rec);
				}
			}
			s = gather_record(r, page_left);
			if (s == NEON_WAL_OK && r->rec_need != 0 && r->rec_have == r->rec_need)
				return deliver(r, r->rec, r->rec_need, rec);
		}
	}
	return fail(r, s);
}
