/*
 * neon_wal.h - reading WAL as bytes: record reassembly, bounded block-reference parser, fabricated checkpoint.
 *
 * Facts about the format are those of PostgreSQL 15: xlogrecord.h, xlog_internal.h, xlogreader.c.
 * Nothing here allocates except through the caller's buffers, and nothing trusts a length it has not bounded.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_WAL_H
#define NEON_WAL_H

#include "neon_core.h"

#define NEON_WAL_MAX_BLOCKS		33	/* XLR_MAX_BLOCK_ID + 1 */
#define NEON_WAL_RECORD_HEADER	24	/* SizeOfXLogRecord */
#define NEON_WAL_MAX_RECORD		(UINT32_C(1020) * 1024 * 1024)	/* above this xl_tot_len is damage */

typedef enum neon_wal_status
{
	NEON_WAL_OK = 0,
	NEON_WAL_NEED_MORE,			/* the bytes given end inside a record or a page header */
	NEON_WAL_BAD_PAGE,			/* page header: magic, address, info bits or remaining length do not fit */
	NEON_WAL_BAD_LENGTH,
	NEON_WAL_BAD_CRC,
	NEON_WAL_BAD_LINK,			/* xl_prev is not the start of the record before */
	NEON_WAL_BAD_BLOCK_REF,
	NEON_WAL_NO_SPACE,			/* the caller's buffer cannot grow to hold the record */
	NEON_WAL_ZEROES,			/* xl_tot_len or a whole page header is 0: the end of what was ever written here */
	NEON_WAL_BAD_CALL			/* fed although not everything fed before was consumed */
} neon_wal_status;

extern const char *neon_wal_status_text(neon_wal_status s);

/*
 * Reassembly.  Feed consecutive bytes of WAL; take complete records out.
 *
 * The reader is positioned at a record boundary (neon_wal_reader_begin) and is then fed the bytes from that
 * very LSN on, in pieces of any size (page headers included).  neon_wal_reader_next returns NEON_WAL_OK with a
 * record, or NEED_MORE when everything fed is consumed.  A record's CRC is always checked.  `end` is what the
 * server calls EndRecPtr: the LSN its pages get; after XLOG_SWITCH it is the start of the next segment and
 * the reader skips the zero fill itself.  A record cut off by a crash and overwritten (XLP_FIRST_IS_OVERWRITE_CONTRECORD) is
 * passed over.  Feed again only after NEED_MORE.  Any status but OK and NEED_MORE is final until begin is called again.
 */
typedef struct neon_wal_record
{
	neon_lsn	start;			/* first byte of the record's header */
	neon_lsn	end;			/* EndRecPtr */
	uint32_t	len;			/* xl_tot_len */
	const uint8_t *bytes;		/* the whole record, 8-byte aligned, valid until the next call on this reader */
	uint32_t	xid;
	neon_lsn	prev;
	uint8_t		info;
	uint8_t		rmid;
} neon_wal_record;

typedef struct neon_wal_reader
{
	uint32_t	segment_bytes;
	bool		check_link;		/* compare xl_prev with the record before (not for the first one) */
	neon_lsn	pos;			/* LSN of the next byte to be fed */
	neon_lsn	record_end;		/* end of the last complete record, or where begin was called */
	neon_lsn	record_start;	/* start of the last complete record, 0 if none */
	/* private */
	void	   *(*realloc_fn) (void *p, size_t n, void *arg);	/* n = 0 frees; NULL means no space */
	void	   *realloc_arg;
	uint8_t    *rec;			/* the record being assembled */
	size_t		rec_cap;
	size_t		rec_have;
	uint32_t	rec_need;		/* 0 until the first 4 bytes are known */
	neon_lsn	rec_start;
	neon_lsn	skip_to;		/* rest of a switched segment */
	uint8_t		hdr[40];		/* page header being assembled */
	size_t		hdr_have;
	neon_wal_status failed;
	const uint8_t *in;			/* unconsumed input: must stay valid until NEED_MORE is returned */
	size_t		in_len;
	bool		delivered;
} neon_wal_reader;

extern void neon_wal_reader_init(neon_wal_reader *r, uint32_t segment_bytes,
								 void *(*realloc_fn) (void *, size_t, void *), void *arg);
extern void neon_wal_reader_free(neon_wal_reader *r);
/* lsn: a record's end or start, or a page boundary where a record ends. */
extern void neon_wal_reader_begin(neon_wal_reader *r, neon_lsn lsn);
extern void neon_wal_reader_feed(neon_wal_reader *r, const void *bytes, size_t len);
extern neon_wal_status neon_wal_reader_next(neon_wal_reader *r, neon_wal_record *rec);

/* Block references, all bounded by the record's length; hole_offset + hole_length too, which the server's decoder leaves open. */
typedef struct neon_wal_block
{
	uint32_t	spc,
				db,
				rel,
				blk;
	uint8_t		fork;
	uint8_t		id;
	bool		has_image;
	bool		apply_image;	/* BKPIMAGE_APPLY; else it is there for consistency checks only */
	bool		will_init;
	bool		has_data;
	uint8_t		bimg_info;
	uint16_t	image_len;		/* as stored, maybe compressed */
	uint16_t	hole_offset;
	uint16_t	hole_length;
	uint16_t	data_len;
	const uint8_t *image;
	const uint8_t *data;
} neon_wal_block;

typedef struct neon_wal_parsed
{
	int			nblocks;
	neon_wal_block blocks[NEON_WAL_MAX_BLOCKS];
	const uint8_t *main_data;
	uint32_t	main_len;
	uint32_t	toplevel_xid;	/* 0 when absent */
	uint16_t	origin_id;		/* 0 when absent */
} neon_wal_parsed;

/* bytes: a record whose CRC was checked.  Returns OK, BAD_LENGTH or BAD_BLOCK_REF. */
extern neon_wal_status neon_wal_parse(const uint8_t *bytes, uint32_t len, neon_wal_parsed *out);

/* The four compression cases of an image are decided by the caller; this only lays the hole out. */

/*
 * Fabricated WAL: one record (XLOG_CHECKPOINT_SHUTDOWN) that starts at neon_lsn_record_start(at) in otherwise
 * empty WAL.  `payload` is the CheckPoint struct.  Writes the bytes of whole segments: segment_count (1, or 2
 * when the record crosses) * segment_bytes into `out`, which the caller zeroed.  Page headers are given from
 * the start of the first segment's first page, the record's own page(s); pages between stay zero.
 * Returns the record's end (EndRecPtr), 0 if out_cap is too small.
 */
extern neon_lsn neon_wal_fabricate(neon_lsn at, neon_lsn prev, uint8_t rmid, uint8_t info,
								   const void *payload, uint32_t payload_len,
								   uint64_t system_id, uint32_t timeline, uint32_t segment_bytes,
								   uint8_t *out, size_t out_cap, uint32_t *segment_count);

/* Where a record of len bytes that starts at `start` ends, headers of further pages counted. */
extern neon_lsn neon_wal_record_end(neon_lsn start, uint32_t len, uint32_t segment_bytes);

/*
 * The page headers that a log which begins at `at` needs before its first byte, so that stock readers accept
 * the segment: the long header of the segment's first page and the header of at's own page.  Offsets in the
 * segment are 0 and *page_offset; each header is at most 40 bytes; lengths are returned.  A length is 0 where there is
 * nothing to write: the log brings that header itself, or at's own page is the segment's first.  The header of at's page
 * says that an older record ends at `at`: begin reading at `at`, not at the page.
 */
extern void neon_wal_leading_headers(neon_lsn at, uint64_t system_id, uint32_t timeline, uint32_t segment_bytes,
									 uint8_t first[40], size_t *first_len,
									 uint8_t own[40], size_t *own_len, uint32_t *page_offset);

#endif							/* NEON_WAL_H */
