/*
 * neon_layer.h - immutable layer files: versions of keys, sorted, compressed in blocks, checksummed.
 *
 * A layer file holds entries (key, lsn, flags, bytes) ordered by key ascending, then LSN descending, so that a search
 * for "the newest version of key at or below lsn" lands on it and reads on towards older versions, mostly inside one
 * block.  Entries are packed into blocks of about 8 KB, each compressed and checksummed on its own; an entry larger than
 * that has a block to itself.  Behind the blocks stand a sparse index (first key and LSN of each block), a small
 * filter over keys and a footer.  docs/formats.md gives the bytes.
 *
 * Delta and image layers have the same format; all entries of an image layer have one LSN.
 *
 * Pure C: output, input and memory go through the caller's functions.  Every length read is bounded before it is used,
 * and an error names the block it was found in.  A reader is immutable after open, so that several iterators can use it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_LAYER_H
#define NEON_LAYER_H

#include "neon_core.h"

#define NEON_LAYER_BLOCK_BYTES	8192	/* a block is closed before it grows past this, unless one entry is larger */
#define NEON_LAYER_MAX_VALUE	(UINT32_C(1020) * 1024 * 1024)	/* bytes of one entry; the largest WAL record */
#define NEON_LAYER_NO_BLOCK		UINT32_MAX	/* an error's position when it is not in a data block */

typedef enum neon_layer_status
{
	NEON_LAYER_OK = 0,
	NEON_LAYER_END,				/* no more entries; not an error */
	NEON_LAYER_IO,				/* the caller's read or write function failed */
	NEON_LAYER_NO_SPACE,		/* the caller's realloc function failed */
	NEON_LAYER_BAD_ORDER,		/* writer: entry not after the one before */
	NEON_LAYER_BAD_ARGUMENT,	/* writer: value too long, LSN outside the layer's range, flags that do not fit */
	NEON_LAYER_BAD_MAGIC,		/* not a layer file, or cut short */
	NEON_LAYER_BAD_VERSION,
	NEON_LAYER_BAD_HEADER,		/* header, footer: checksum or a field */
	NEON_LAYER_BAD_INDEX,		/* index or filter: checksum, order or an offset */
	NEON_LAYER_BAD_BLOCK		/* a data block: checksum, length, compression or an entry */
} neon_layer_status;

extern const char *neon_layer_status_text(neon_layer_status s);

typedef enum neon_layer_kind
{
	NEON_LAYER_DELTA = 1,
	NEON_LAYER_IMAGE = 2
} neon_layer_kind;

typedef enum neon_layer_codec
{
	NEON_LAYER_PLAIN = 0,
	NEON_LAYER_LZ4 = 1,			/* L0: written often, read once or twice */
	NEON_LAYER_ZSTD = 2			/* L1 and images; level 1 */
} neon_layer_codec;

/* Flags of an entry.  The values are those of PS_VALUE_* in the pageserver. */
#define NEON_LAYER_VALUE_IMAGE		0x01
#define NEON_LAYER_VALUE_WILL_INIT	0x02	/* needs nothing older; every image has it */
#define NEON_LAYER_VALUE_RECORD		0x04

typedef struct neon_layer_entry
{
	neon_key	key;
	neon_lsn	lsn;
	uint32_t	flags;
	uint32_t	len;
	const uint8_t *bytes;		/* from an iterator: valid until its next call */
} neon_layer_entry;

typedef struct neon_layer_info
{
	/* given to the writer */
	neon_layer_kind kind;
	neon_layer_codec codec;
	neon_id		tenant;
	neon_id		timeline;
	neon_lsn	lsn_lo;			/* every version has lsn_lo <= lsn <= lsn_hi; equal for an image layer */
	neon_lsn	lsn_hi;
	/* found by the writer */
	neon_key	key_first;		/* inclusive; both zero in a layer without entries */
	neon_key	key_last;		/* inclusive */
	uint64_t	entries;
	uint64_t	keys;			/* distinct */
	uint64_t	raw_bytes;		/* entries before compression */
	uint64_t	file_bytes;
	uint32_t	blocks;
} neon_layer_info;

/* Memory: n = 0 frees; NULL means no space (a function that throws instead is fine). */
typedef void *(*neon_layer_realloc) (void *p, size_t n, void *arg);

/* ---- writing ---- */

/* Appends; false is an I/O error.  The caller makes the file durable after neon_layer_writer_finish. */
typedef bool (*neon_layer_write) (void *arg, const void *bytes, size_t len);

typedef struct neon_layer_writer
{
	neon_layer_info info;
	neon_layer_status failed;	/* sticky */
	/* private */
	neon_layer_write write;
	void	   *write_arg;
	neon_layer_realloc realloc_fn;
	void	   *realloc_arg;
	uint32_t	header_crc;
	uint8_t    *block;			/* raw bytes of the block being filled */
	size_t		block_len,
				block_cap;
	uint8_t    *packed;			/* its compressed form */
	size_t		packed_cap;
	uint32_t	block_entries;
	uint8_t    *index;			/* encoded index so far */
	size_t		index_len,
				index_cap;
	uint64_t   *hashes;			/* of distinct keys, for the filter */
	size_t		hashes_cap;
	neon_key	last_key;
	neon_lsn	last_lsn;
} neon_layer_writer;

/*
 * `what`: the fields "given to the writer".  Writes the header.  The writer keeps 34 bytes a block and 8 bytes a distinct
 * key in memory until finish.
 */
extern neon_layer_status neon_layer_writer_begin(neon_layer_writer *w, const neon_layer_info *what,
												 neon_layer_write write, void *write_arg,
												 neon_layer_realloc realloc_fn, void *realloc_arg);
/* In order: key ascending, LSN descending within a key, no duplicates; else BAD_ORDER. */
extern neon_layer_status neon_layer_writer_add(neon_layer_writer *w, const neon_key *key, neon_lsn lsn,
											   uint32_t flags, const void *bytes, uint32_t len);
/* Bytes handed to `write` so far, plus those of the block being filled: to decide when a file is large enough. */
extern uint64_t neon_layer_writer_bytes(const neon_layer_writer *w);
/* Writes the rest.  w->info is complete afterwards; *file_bytes may be NULL. */
extern neon_layer_status neon_layer_writer_finish(neon_layer_writer *w, uint64_t *file_bytes);
/* Frees memory; to be called after finish, or instead of it to give up. */
extern void neon_layer_writer_free(neon_layer_writer *w);

/* ---- reading ---- */

/* Reads exactly len bytes at offset; false is an I/O error, a short file included. */
typedef bool (*neon_layer_read) (void *arg, uint64_t offset, void *buf, size_t len);

typedef struct neon_layer_reader
{
	neon_layer_info info;
	/* private */
	neon_layer_read read;
	void	   *read_arg;
	neon_layer_realloc realloc_fn;
	void	   *realloc_arg;
	uint32_t	header_crc;
	uint64_t	blocks_end;		/* offset behind the last block */
	uint8_t    *index;			/* encoded */
	uint8_t    *filter;
	size_t		filter_bytes;
	size_t		memory_bytes;	/* index and filter, to account for caches */
} neon_layer_reader;

/* Loads header, footer, index and filter and checks them against each other.  After a failure nothing needs freeing. */
extern neon_layer_status neon_layer_reader_open(neon_layer_reader *r, uint64_t file_bytes,
												neon_layer_read read, void *read_arg,
												neon_layer_realloc realloc_fn, void *realloc_arg);
extern void neon_layer_reader_close(neon_layer_reader *r);

/* false: the layer certainly has no version of the key.  True is wrong in about 1 of 100 cases. */
extern bool neon_layer_may_contain(const neon_layer_reader *r, const neon_key *key);

typedef struct neon_layer_iter
{
	const neon_layer_reader *reader;
	uint32_t	error_block;	/* where an error was found; NEON_LAYER_NO_BLOCK when not in a block */
	/* private */
	neon_layer_status failed;
	uint32_t	next_block;		/* the one to load when the present one is used up */
	uint8_t    *stored;			/* as read */
	size_t		stored_cap;
	uint8_t    *raw;			/* decompressed */
	size_t		raw_cap;
	const uint8_t *data;		/* the present block's entries: in stored or raw */
	size_t		data_len,
				data_pos;
	uint32_t	entries_left;
	uint32_t	cached_block;	/* the block that data holds, NEON_LAYER_NO_BLOCK if none */
	uint32_t	cached_entries;
	neon_key	key;			/* of the entry last decoded */
	neon_lsn	lsn;
	bool		have_prev;
	bool		pending;		/* seek decoded the entry that next returns */
	neon_layer_entry found;
} neon_layer_iter;

extern void neon_layer_iter_init(neon_layer_iter *it, const neon_layer_reader *r);
extern void neon_layer_iter_free(neon_layer_iter *it);

/* To the first entry of the file: scans, compaction. */
extern neon_layer_status neon_layer_iter_first(neon_layer_iter *it);

/*
 * To the newest version of `key` at or below lsn, or, if there is none, to the first entry of the next key there is
 * (from its newest version on, whatever its LSN).  OK also when nothing follows: next then says END.
 */
extern neon_layer_status neon_layer_iter_seek(neon_layer_iter *it, const neon_key *key, neon_lsn lsn);

/* OK with an entry, END, or an error that is repeated until the next seek or first. */
extern neon_layer_status neon_layer_iter_next(neon_layer_iter *it, neon_layer_entry *entry);

#endif							/* NEON_LAYER_H */
