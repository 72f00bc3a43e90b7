/*
 * neon_core.h - the words every component shares: LSN, tenant and timeline id, page key, byte codec.
 *
 * Pure C: no allocation, no clock, no I/O, no PostgreSQL header.  Integers on a wire or in a file are
 * big-endian unless a format says otherwise, so that memcmp orders encoded keys.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_CORE_H
#define NEON_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NEON_BLCKSZ			8192	/* bytes in a page; the server's default, checked at build */
#define NEON_XLOG_BLCKSZ	8192	/* bytes in a WAL page */

/* ---- LSN: a byte position in WAL; 0 is invalid ---- */
typedef uint64_t neon_lsn;

#define NEON_LSN_INVALID	((neon_lsn) 0)
#define NEON_LSN_MAX		(~(neon_lsn) 0)	/* in a request: the newest there is */
#define NEON_LSN_FMT		"%X/%08X"
#define NEON_LSN_ARGS(l)	((uint32_t) ((l) >> 32)), ((uint32_t) (l))

/* "16/B374D848" to LSN; false when the text is not an LSN. */
extern bool neon_lsn_parse(const char *text, neon_lsn *lsn);

/* First byte at or after lsn where a record can start: skips alignment and the WAL page's header. */
extern neon_lsn neon_lsn_record_start(neon_lsn lsn, uint32_t wal_segment_bytes);

/* ---- ids: 16 random bytes, written as 32 lower-case hex digits ---- */
#define NEON_ID_BYTES	16
#define NEON_ID_TEXT	33			/* with the terminating zero */

typedef struct neon_id
{
	uint8_t		b[NEON_ID_BYTES];
} neon_id;

extern bool neon_id_parse(const char *text, neon_id *id);
extern void neon_id_print(const neon_id *id, char text[NEON_ID_TEXT]);
extern bool neon_id_equal(const neon_id *a, const neon_id *b);
extern bool neon_id_is_zero(const neon_id *a);

/* ---- page key: names one versioned object of a timeline ---- */
typedef enum neon_key_kind
{
	NEON_KEY_REL_BLOCK = 0,		/* spc db rel fork blk: a page; image or WAL records */
	NEON_KEY_REL_SIZE = 1,		/* spc db rel fork: be32 blocks, NEON_SIZE_ABSENT when dropped or not created */
	NEON_KEY_REL_CUT = 2,		/* spc db rel fork: be32 blocks left by a truncation, 0 by a drop or (re)creation */
	NEON_KEY_DB = 3,			/* spc db: one byte, 1 exists, 0 dropped */
	NEON_KEY_RELMAP = 4,		/* spc db: the relation map file; db 0 is the shared one */
	NEON_KEY_SLRU_BLOCK = 5,	/* spc = neon_slru_kind, rel = segment, blk = block in the segment (0..31) */
	NEON_KEY_SLRU_SIZE = 6,		/* spc = neon_slru_kind, rel = segment: be32 blocks, NEON_SIZE_ABSENT when removed */
	NEON_KEY_CHECKPOINT = 7,	/* the CheckPoint struct in the server's byte order; nextXid comes from NEXT_XID */
	NEON_KEY_NEXT_XID = 8,		/* be64 full transaction id, exact: a version for every change */
	NEON_KEY_TWOPHASE = 9,		/* rel = xid: content of the two-phase state file, empty when removed */
	NEON_KEY_AUX_FILE = 10,		/* spc db rel blk = 128-bit hash of the path: path, NUL, content; path, NUL when removed */
	NEON_KEY_COMMIT_TIME = 11,	/* blk = second since 2000-01-01 of a commit: be64 TimestampTz, be64 end of the record before; a version a commit */
	NEON_KEY_REPL_ORIGIN = 12,	/* rel = origin id: be64 remote LSN, 0 when dropped */
	NEON_KEY_KIND_COUNT
} neon_key_kind;

typedef enum neon_slru_kind
{
	NEON_SLRU_XACT = 0,
	NEON_SLRU_MULTIXACT_OFFSETS = 1,
	NEON_SLRU_MULTIXACT_MEMBERS = 2
} neon_slru_kind;

#define NEON_SIZE_ABSENT	UINT32_C(0xFFFFFFFF)
#define NEON_KEY_BYTES		18

typedef struct neon_key
{
	uint32_t	spc;
	uint32_t	db;
	uint32_t	rel;
	uint32_t	blk;
	uint8_t		kind;			/* neon_key_kind */
	uint8_t		fork;			/* ForkNumber; 0 where it means nothing */
	uint16_t	pad;			/* always 0, so that memcmp and hashing of the struct are safe */
} neon_key;

/* Encoded order: kind spc db rel fork blk, big-endian: all blocks of a fork are adjacent. */
extern void neon_key_encode(const neon_key *key, uint8_t out[NEON_KEY_BYTES]);
extern bool neon_key_decode(const uint8_t in[NEON_KEY_BYTES], neon_key *key);
extern int	neon_key_compare(const neon_key *a, const neon_key *b);
extern uint64_t neon_key_hash(const neon_key *key);

/* ---- byte codec: bounded writer and reader; overflow latches `ok = false` and stops writing ---- */
typedef struct neon_writer
{
	uint8_t    *buf;
	size_t		cap;
	size_t		len;
	bool		ok;
} neon_writer;

typedef struct neon_reader
{
	const uint8_t *buf;
	size_t		len;
	size_t		pos;
	bool		ok;				/* false after a read past the end: everything read since is zero */
} neon_reader;

extern void neon_writer_init(neon_writer *w, void *buf, size_t cap);
extern void neon_put_u8(neon_writer *w, uint8_t v);
extern void neon_put_u16(neon_writer *w, uint16_t v);
extern void neon_put_u32(neon_writer *w, uint32_t v);
extern void neon_put_u64(neon_writer *w, uint64_t v);
extern void neon_put_bytes(neon_writer *w, const void *p, size_t n);

extern void neon_reader_init(neon_reader *r, const void *buf, size_t len);
extern uint8_t neon_get_u8(neon_reader *r);
extern uint16_t neon_get_u16(neon_reader *r);
extern uint32_t neon_get_u32(neon_reader *r);
extern uint64_t neon_get_u64(neon_reader *r);
extern const uint8_t *neon_get_bytes(neon_reader *r, size_t n);	/* NULL past the end */
extern void neon_get_copy(neon_reader *r, void *to, size_t n);
extern size_t neon_reader_left(const neon_reader *r);

/* CRC-32C (Castagnoli), as the server's WAL uses.  Start with 0; pass the result on to continue. */
extern uint32_t neon_crc32c(uint32_t crc, const void *data, size_t len);

#endif							/* NEON_CORE_H */
