/*
 * neon_layer_writer.c - writes a layer file front to back, in one pass.
 *
 * The block being filled, the index and the hashes of the keys are in memory; nothing is written twice, so that the output
 * can be a file, a socket or a buffer.  Durability is the caller's: a file counts when the catalog names it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_layer_format.h"

#include <lz4.h>
#include <zstd.h>

#define ZSTD_LEVEL			1
#define EXACT_GROWTH_BYTES	(UINT32_C(4) * 1024 * 1024)	/* above this buffers stop doubling */
#define MAX_BLOCKS			(UINT32_MAX - 2)	/* the two largest numbers mean index and filter in checksums */

static neon_layer_status
fail(neon_layer_writer *w, neon_layer_status s)
{
	w->failed = s;
	return s;
}

/* Make room for `want` bytes in a buffer of *cap. */
static bool
reserve(neon_layer_writer *w, void **buf, size_t *cap, size_t want)
{
	size_t		n = *cap < 1024 ? 1024 : *cap;
	void	   *p;

	if (want <= *cap)
		return true;
	while (n < want && n < EXACT_GROWTH_BYTES)
		n *= 2;
	if (n < want)
		n = want + want / 8 < NEON_LAYER_MAX_VALUE ? want + want / 8 : want;
	p = w->realloc_fn(*buf, n, w->realloc_arg);
	if (p == NULL)
		return false;
	*buf = p;
	*cap = n;
	return true;
}

static bool
emit(neon_layer_writer *w, const void *bytes, size_t len)
{
	if (!w->write(w->write_arg, bytes, len))
		return false;
	w->info.file_bytes += len;
	return true;
}

static void
put_u32_at(uint8_t *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, sizeof(v));
}

static bool
arguments_fit(const neon_layer_info *what)
{
	if (what->kind != NEON_LAYER_DELTA && what->kind != NEON_LAYER_IMAGE)
		return false;
	if (what->codec != NEON_LAYER_PLAIN && what->codec != NEON_LAYER_LZ4 && what->codec != NEON_LAYER_ZSTD)
		return false;
	if (what->kind == NEON_LAYER_IMAGE && what->lsn_lo != what->lsn_hi)
		return false;
	return what->lsn_lo <= what->lsn_hi;
}

neon_layer_status
neon_layer_writer_begin(neon_layer_writer *w, const neon_layer_info *what,
						neon_layer_write write, void *write_arg,
						neon_layer_realloc realloc_fn, void *realloc_arg)
{
	uint8_t		header[LAYER_HEADER_BYTES];
	neon_writer p;

	memset(w, 0, sizeof(*w));
	w->write = write;
	w->write_arg = write_arg;
	w->realloc_fn = realloc_fn;
	w->realloc_arg = realloc_arg;
	if (!arguments_fit(what))
		return fail(w, NEON_LAYER_BAD_ARGUMENT);
	w->info.kind = what->kind;
	w->info.codec = what->codec;
	w->info.tenant = what->tenant;
	w->info.timeline = what->timeline;
	w->info.lsn_lo = what->lsn_lo;
	w->info.lsn_hi = what->lsn_hi;

	neon_writer_init(&p, header, sizeof(header));
	neon_put_bytes(&p, LAYER_MAGIC, LAYER_MAGIC_BYTES);
	neon_put_u16(&p, LAYER_VERSION);
	neon_put_u8(&p, (uint8_t) what->kind);
	neon_put_u8(&p, (uint8_t) what->codec);
	neon_put_u32(&p, NEON_LAYER_BLOCK_BYTES);
	neon_put_bytes(&p, what->tenant.b, NEON_ID_BYTES);
	neon_put_bytes(&p, what->timeline.b, NEON_ID_BYTES);
	neon_put_u64(&p, what->lsn_lo);
	neon_put_u64(&p, what->lsn_hi);
	w->header_crc = neon_crc32c(0, header, p.len);
	neon_put_u32(&p, w->header_crc);
	return emit(w, header, sizeof(header)) ? NEON_LAYER_OK : fail(w, NEON_LAYER_IO);
}

/* Compress `len` raw bytes to w->packed behind a block header; 0 when that does not make them smaller. */
static size_t
pack(neon_layer_writer *w, const uint8_t *raw, size_t len)
{
	static _Thread_local ZSTD_CCtx *zstd;	/* costly to make; one for all writers */
	uint8_t    *to = w->packed + BLOCK_HEADER_BYTES;
	size_t		room = w->packed_cap - BLOCK_HEADER_BYTES;
	size_t		n = 0;

	if (w->info.codec == NEON_LAYER_LZ4)
	{
		int			r = LZ4_compress_default((const char *) raw, (char *) to, (int) len, (int) room);

		n = r > 0 ? (size_t) r : 0;
	}
	else
	{
		if (zstd == NULL)
			zstd = ZSTD_createCCtx();
		if (zstd != NULL)
			n = ZSTD_compressCCtx(zstd, to, room, raw, len, ZSTD_LEVEL);
		if (ZSTD_isError(n))
			n = 0;
	}
	return n < len ? n : 0;
}

/* Write the block being filled.  Its index entry was made with its first entry. */
static neon_layer_status
flush_block(neon_layer_writer *w)
{
	size_t		raw_len = w->block_len - BLOCK_HEADER_BYTES;
	uint8_t    *out = w->block;
	size_t		out_len = raw_len;
	uint8_t		codec = NEON_LAYER_PLAIN;
	neon_writer p;

	if (w->block_entries == 0)
		return NEON_LAYER_OK;
	if (w->info.codec != NEON_LAYER_PLAIN && raw_len <= MAX_PACKED_RAW)
	{
		size_t		n;

		/* no more room than raw: output that does not fit is of no use */
		if (!reserve(w, (void **) &w->packed, &w->packed_cap, BLOCK_HEADER_BYTES + raw_len))
			return fail(w, NEON_LAYER_NO_SPACE);
		n = pack(w, w->block + BLOCK_HEADER_BYTES, raw_len);
		if (n > 0)
		{
			out = w->packed;
			out_len = n;
			codec = (uint8_t) w->info.codec;
		}
	}

	neon_writer_init(&p, out + LAYER_CRC_BYTES, BLOCK_HEADER_BYTES - LAYER_CRC_BYTES);
	neon_put_u8(&p, codec);
	neon_put_u32(&p, (uint32_t) raw_len);
	neon_put_u32(&p, w->block_entries);
	out_len += BLOCK_HEADER_BYTES;
	put_u32_at(out, part_crc(w->header_crc, w->info.blocks, out + LAYER_CRC_BYTES, out_len - LAYER_CRC_BYTES));
	if (!emit(w, out, out_len))
		return fail(w, NEON_LAYER_IO);

	w->info.blocks++;
	w->info.raw_bytes += raw_len;
	w->block_entries = 0;
	w->block_len = 0;
	return NEON_LAYER_OK;
}

/* First entry of a block: it goes to the index. */
static neon_layer_status
begin_block(neon_layer_writer *w, const neon_key *key, neon_lsn lsn)
{
	uint64_t	offset = __builtin_bswap64(w->info.file_bytes);
	uint8_t    *p;

	if (w->info.blocks >= MAX_BLOCKS)
		return fail(w, NEON_LAYER_BAD_ARGUMENT);
	/* with room for the checksum that finish puts behind the index */
	if (!reserve(w, (void **) &w->index, &w->index_cap, w->index_len + INDEX_ENTRY_BYTES + LAYER_CRC_BYTES))
		return fail(w, NEON_LAYER_NO_SPACE);
	p = w->index + w->index_len;
	put_order(p, key, lsn);
	memcpy(p + INDEX_ORDER_BYTES, &offset, sizeof(offset));
	w->index_len += INDEX_ENTRY_BYTES;
	w->block_len = BLOCK_HEADER_BYTES;
	return NEON_LAYER_OK;
}

/* A key that was not there before: remember it for the filter. */
static neon_layer_status
count_key(neon_layer_writer *w, const neon_key *key)
{
	if (!reserve(w, (void **) &w->hashes, &w->hashes_cap, (w->info.keys + 1) * sizeof(uint64_t)))
		return fail(w, NEON_LAYER_NO_SPACE);
	w->hashes[w->info.keys++] = neon_key_hash(key);
	if (w->info.entries == 0)
		w->info.key_first = *key;
	w->info.key_last = *key;
	return NEON_LAYER_OK;
}

neon_layer_status
neon_layer_writer_add(neon_layer_writer *w, const neon_key *key, neon_lsn lsn,
					  uint32_t flags, const void *bytes, uint32_t len)
{
	int			order = w->info.entries == 0 ? 1 : neon_key_compare(key, &w->last_key);
	size_t		need = ENTRY_MAX_HEAD + (size_t) len;
	neon_layer_status s;
	neon_writer p;

	if (w->failed != NEON_LAYER_OK)
		return w->failed;
	if (order < 0 || (order == 0 && lsn >= w->last_lsn))
		return fail(w, NEON_LAYER_BAD_ORDER);
	if (len > NEON_LAYER_MAX_VALUE || lsn < w->info.lsn_lo || lsn > w->info.lsn_hi || !flags_fit(w->info.kind, flags) ||
		key->kind >= NEON_KEY_KIND_COUNT || key->fork > 3)
		return fail(w, NEON_LAYER_BAD_ARGUMENT);

	if (w->block_entries > 0 && w->block_len + need > BLOCK_HEADER_BYTES + NEON_LAYER_BLOCK_BYTES &&
		(s = flush_block(w)) != NEON_LAYER_OK)
		return s;
	if (w->block_entries == 0 && (s = begin_block(w, key, lsn)) != NEON_LAYER_OK)
		return s;
	if (order > 0 && (s = count_key(w, key)) != NEON_LAYER_OK)
		return s;
	if (!reserve(w, (void **) &w->block, &w->block_cap, w->block_len + need))
		return fail(w, NEON_LAYER_NO_SPACE);

	neon_writer_init(&p, w->block + w->block_len, need);
	if (order == 0 && w->block_entries > 0)
		neon_put_u8(&p, (uint8_t) flags | ENTRY_SAME_KEY);
	else
	{
		uint8_t		encoded[NEON_KEY_BYTES];

		neon_key_encode(key, encoded);
		neon_put_u8(&p, (uint8_t) flags);
		neon_put_bytes(&p, encoded, sizeof(encoded));
	}
	neon_put_u64(&p, lsn);
	neon_put_u32(&p, len);
	neon_put_bytes(&p, bytes, len);
	w->block_len += p.len;
	w->block_entries++;
	w->info.entries++;
	w->last_key = *key;
	w->last_lsn = lsn;
	return NEON_LAYER_OK;
}

uint64_t
neon_layer_writer_bytes(const neon_layer_writer *w)
{
	return w->info.file_bytes + w->block_len;
}

/* Index and its checksum. */
static neon_layer_status
write_index(neon_layer_writer *w)
{
	if (!reserve(w, (void **) &w->index, &w->index_cap, w->index_len + LAYER_CRC_BYTES))
		return fail(w, NEON_LAYER_NO_SPACE);
	put_u32_at(w->index + w->index_len, part_crc(w->header_crc, CRC_OF_INDEX, w->index, w->index_len));
	return emit(w, w->index, w->index_len + LAYER_CRC_BYTES) ? NEON_LAYER_OK : fail(w, NEON_LAYER_IO);
}

/* Filter and its checksum; the block buffer is free by now and holds them. */
static neon_layer_status
write_filter(neon_layer_writer *w)
{
	size_t		n = filter_bytes_for(w->info.keys);

	if (!reserve(w, (void **) &w->block, &w->block_cap, n + LAYER_CRC_BYTES))
		return fail(w, NEON_LAYER_NO_SPACE);
	memset(w->block, 0, n);
	for (uint64_t i = 0; i < w->info.keys; i++)
	{
		uint8_t    *group = w->block + filter_group(w->hashes[i], n);
		uint64_t	bits = filter_bits(w->hashes[i]);

		for (int probe = 0; probe < FILTER_PROBES; probe++, bits >>= 9)
			group[(bits & 511) >> 3] |= (uint8_t) (1 << (bits & 7));
	}
	put_u32_at(w->block + n, part_crc(w->header_crc, CRC_OF_FILTER, w->block, n));
	return emit(w, w->block, n + LAYER_CRC_BYTES) ? NEON_LAYER_OK : fail(w, NEON_LAYER_IO);
}

static neon_layer_status
write_footer(neon_layer_writer *w, uint64_t index_offset, uint64_t filter_offset)
{
	uint8_t		footer[LAYER_FOOTER_BYTES];
	uint8_t		key[NEON_KEY_BYTES];
	neon_writer p;

	neon_writer_init(&p, footer, sizeof(footer));
	neon_put_u64(&p, index_offset);
	neon_put_u64(&p, filter_offset);
	neon_put_u32(&p, w->info.blocks);
	neon_put_u64(&p, w->info.entries);
	neon_put_u64(&p, w->info.keys);
	neon_put_u64(&p, w->info.raw_bytes);
	neon_key_encode(&w->info.key_first, key);
	neon_put_bytes(&p, key, sizeof(key));
	neon_key_encode(&w->info.key_last, key);
	neon_put_bytes(&p, key, sizeof(key));
	neon_put_u32(&p, w->header_crc);
	neon_put_u32(&p, neon_crc32c(0, footer, p.len));
	neon_put_bytes(&p, LAYER_END_MAGIC, LAYER_MAGIC_BYTES);
	return emit(w, footer, sizeof(footer)) ? NEON_LAYER_OK : fail(w, NEON_LAYER_IO);
}

neon_layer_status
neon_layer_writer_finish(neon_layer_writer *w, uint64_t *file_bytes)
{
	neon_layer_status s = w->failed;
	uint64_t	index_offset,
				filter_offset;

	if (s != NEON_LAYER_OK || (s = flush_block(w)) != NEON_LAYER_OK)
		return s;
	index_offset = w->info.file_bytes;
	if ((s = write_index(w)) != NEON_LAYER_OK)
		return s;
	filter_offset = w->info.file_bytes;
	if ((s = write_filter(w)) != NEON_LAYER_OK || (s = write_footer(w, index_offset, filter_offset)) != NEON_LAYER_OK)
		return s;
	if (file_bytes != NULL)
		*file_bytes = w->info.file_bytes;
	return NEON_LAYER_OK;
}

void
neon_layer_writer_free(neon_layer_writer *w)
{
	if (w->block != NULL)
		w->realloc_fn(w->block, 0, w->realloc_arg);
	if (w->packed != NULL)
		w->realloc_fn(w->packed, 0, w->realloc_arg);
	if (w->index != NULL)
		w->realloc_fn(w->index, 0, w->realloc_arg);
	if (w->hashes != NULL)
		w->realloc_fn(w->hashes, 0, w->realloc_arg);
	w->block = w->packed = w->index = NULL;
	w->hashes = NULL;
	w->block_cap = w->packed_cap = w->index_cap = w->hashes_cap = 0;
}
