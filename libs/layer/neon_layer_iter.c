/*
 * neon_layer_iter.c - reads entries of a layer file, from a key and LSN on, block by block.
 *
 * A block is read with one call, its checksum verified, decompressed if need be, and kept: looking the next key up in the
 * same block reads nothing.  What a block says is checked even though its checksum fits: lengths, flags, the LSN's range, the
 * order of entries, and that the first entry is the one the index names.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_layer_format.h"

#include <lz4.h>
#include <zstd.h>

void
neon_layer_iter_init(neon_layer_iter *it, const neon_layer_reader *r)
{
	memset(it, 0, sizeof(*it));
	it->reader = r;
	it->error_block = NEON_LAYER_NO_BLOCK;
	it->cached_block = NEON_LAYER_NO_BLOCK;
	it->failed = NEON_LAYER_END;	/* until seek or first */
}

void
neon_layer_iter_free(neon_layer_iter *it)
{
	const neon_layer_reader *r = it->reader;

	if (it->stored != NULL)
		r->realloc_fn(it->stored, 0, r->realloc_arg);
	if (it->raw != NULL)
		r->realloc_fn(it->raw, 0, r->realloc_arg);
	neon_layer_iter_init(it, r);
}

static neon_layer_status
fail(neon_layer_iter *it, neon_layer_status s, uint32_t block)
{
	it->failed = s;
	it->error_block = block;
	it->pending = false;
	it->entries_left = 0;
	it->cached_block = NEON_LAYER_NO_BLOCK;
	return s;
}

/* A buffer of at least n bytes; its content is not kept. */
static bool
reserve(const neon_layer_reader *r, uint8_t **buf, size_t *cap, size_t n)
{
	if (n <= *cap)
		return true;
	if (*buf != NULL)
		r->realloc_fn(*buf, 0, r->realloc_arg);
	*cap = 0;
	if (n < 2 * NEON_LAYER_BLOCK_BYTES)
		n = 2 * NEON_LAYER_BLOCK_BYTES;
	*buf = r->realloc_fn(NULL, n, r->realloc_arg);
	if (*buf != NULL)
		*cap = n;
	return *buf != NULL;
}

static const uint8_t *
index_entry(const neon_layer_reader *r, uint32_t block)
{
	return r->index + (size_t) block * INDEX_ENTRY_BYTES;
}

static uint64_t
block_offset(const neon_layer_reader *r, uint32_t block)
{
	uint64_t	offset;

	if (block == r->info.blocks)
		return r->blocks_end;
	memcpy(&offset, index_entry(r, block) + INDEX_ORDER_BYTES, sizeof(offset));
	return __builtin_bswap64(offset);
}

static bool
unpack(uint8_t codec, const uint8_t *from, size_t from_len, uint8_t *to, size_t to_len)
{
	static _Thread_local ZSTD_DCtx *zstd;	/* costly to make; one for all iterators */

	if (codec == NEON_LAYER_LZ4)
		return LZ4_decompress_safe((const char *) from, (char *) to, (int) from_len, (int) to_len) == (int) to_len;
	if (zstd == NULL)
		zstd = ZSTD_createDCtx();
	return zstd != NULL && ZSTD_decompressDCtx(zstd, to, to_len, from, from_len) == to_len;
}

/* Reads a block's bytes and verifies their checksum; *len is how many. */
static neon_layer_status
read_stored(neon_layer_iter *it, uint32_t block, size_t *len)
{
	const neon_layer_reader *r = it->reader;
	uint64_t	offset = block_offset(r, block);
	uint32_t	crc;

	*len = (size_t) (block_offset(r, block + 1) - offset);
	if (!reserve(r, &it->stored, &it->stored_cap, *len))
		return NEON_LAYER_NO_SPACE;
	if (!r->read(r->read_arg, offset, it->stored, *len))
		return NEON_LAYER_IO;
	memcpy(&crc, it->stored, sizeof(crc));
	if (__builtin_bswap32(crc) != part_crc(r->header_crc, block, it->stored + LAYER_CRC_BYTES, *len - LAYER_CRC_BYTES))
		return NEON_LAYER_BAD_BLOCK;
	return NEON_LAYER_OK;
}

/* Lays the block's raw entries open in it->data. */
static neon_layer_status
open_block(neon_layer_iter *it, size_t stored_len)
{
	const neon_layer_reader *r = it->reader;
	const uint8_t *payload = it->stored + BLOCK_HEADER_BYTES;
	size_t		payload_len = stored_len - BLOCK_HEADER_BYTES;
	neon_reader p;
	uint8_t		codec;
	uint32_t	raw_len;

	neon_reader_init(&p, it->stored + LAYER_CRC_BYTES, BLOCK_HEADER_BYTES - LAYER_CRC_BYTES);
	codec = neon_get_u8(&p);
	raw_len = neon_get_u32(&p);
	it->cached_entries = neon_get_u32(&p);
	it->data_len = raw_len;
	if (it->cached_entries == 0 || it->cached_entries > raw_len / ENTRY_MIN_BYTES)
		return NEON_LAYER_BAD_BLOCK;

	if (codec == NEON_LAYER_PLAIN)
	{
		it->data = payload;
		return raw_len == payload_len ? NEON_LAYER_OK : NEON_LAYER_BAD_BLOCK;
	}
	if (codec != r->info.codec || raw_len > MAX_PACKED_RAW || payload_len > MAX_PACKED_RAW)
		return NEON_LAYER_BAD_BLOCK;
	if (!reserve(r, &it->raw, &it->raw_cap, raw_len))
		return NEON_LAYER_NO_SPACE;
	it->data = it->raw;
	return unpack(codec, payload, payload_len, it->raw, raw_len) ? NEON_LAYER_OK : NEON_LAYER_BAD_BLOCK;
}

/* Goes to the first entry of a block, which is loaded unless it is the one at hand. */
static neon_layer_status
go_to_block(neon_layer_iter *it, uint32_t block)
{
	neon_layer_status s;
	size_t		stored_len;

	if (it->cached_block != block)
	{
		it->cached_block = NEON_LAYER_NO_BLOCK;
		s = read_stored(it, block, &stored_len);
		if (s == NEON_LAYER_OK)
			s = open_block(it, stored_len);
		if (s != NEON_LAYER_OK)
			return fail(it, s, block);
		it->cached_block = block;
	}
	it->data_pos = 0;
	it->entries_left = it->cached_entries;
	it->next_block = block + 1;
	return NEON_LAYER_OK;
}

/* Is the entry after the one before it, and if it is the block's first, the one that the index names? */
static bool
order_fits(const neon_layer_iter *it, const neon_layer_entry *e, bool first)
{
	int			c = it->have_prev ? neon_key_compare(&e->key, &it->key) : 1;
	uint8_t		order[INDEX_ORDER_BYTES];

	if (c < 0 || (c == 0 && e->lsn >= it->lsn))
		return false;
	if (!first)
		return true;
	put_order(order, &e->key, e->lsn);
	return memcmp(order, index_entry(it->reader, it->cached_block), INDEX_ORDER_BYTES) == 0;
}

/* Decodes the entry at data_pos; the block has entries left. */
static bool
decode_entry(neon_layer_iter *it, neon_layer_entry *e)
{
	const neon_layer_info *info = &it->reader->info;
	bool		first = it->data_pos == 0;
	neon_reader p;
	uint8_t		flags;

	neon_reader_init(&p, it->data + it->data_pos, it->data_len - it->data_pos);
	flags = neon_get_u8(&p);
	e->flags = flags & ~ENTRY_SAME_KEY;
	if (flags & ENTRY_SAME_KEY)
		e->key = it->key;
	else
	{
		const uint8_t *key = neon_get_bytes(&p, NEON_KEY_BYTES);

		if (key == NULL || !neon_key_decode(key, &e->key))
			return false;
	}
	e->lsn = neon_get_u64(&p);
	e->len = neon_get_u32(&p);
	e->bytes = neon_get_bytes(&p, e->len);
	if (!p.ok || (first && (flags & ENTRY_SAME_KEY)) || e->len > NEON_LAYER_MAX_VALUE ||
		!flags_fit(info->kind, e->flags) || e->lsn < info->lsn_lo || e->lsn > info->lsn_hi || !order_fits(it, e, first))
		return false;

	it->data_pos += p.pos;
	it->entries_left--;
	it->key = e->key;
	it->lsn = e->lsn;
	it->have_prev = true;
	/* the last entry ends where the block ends */
	return it->entries_left > 0 || it->data_pos == it->data_len;
}

neon_layer_status
neon_layer_iter_next(neon_layer_iter *it, neon_layer_entry *entry)
{
	neon_layer_status s;

	if (it->failed != NEON_LAYER_OK)
		return it->failed;
	if (it->pending)
	{
		it->pending = false;
		*entry = it->found;
		return NEON_LAYER_OK;
	}
	if (it->entries_left == 0)
	{
		if (it->next_block >= it->reader->info.blocks)
			return it->failed = NEON_LAYER_END;
		if ((s = go_to_block(it, it->next_block)) != NEON_LAYER_OK)
			return s;
	}
	if (!decode_entry(it, entry))
		return fail(it, NEON_LAYER_BAD_BLOCK, it->cached_block);
	return NEON_LAYER_OK;
}

static void
rewind_to(neon_layer_iter *it, uint32_t block)
{
	it->failed = NEON_LAYER_OK;
	it->error_block = NEON_LAYER_NO_BLOCK;
	it->pending = false;
	it->have_prev = false;
	it->entries_left = 0;
	it->next_block = block;
}

neon_layer_status
neon_layer_iter_first(neon_layer_iter *it)
{
	rewind_to(it, 0);
	return NEON_LAYER_OK;
}

/* The last block whose first entry is at or before `target`; the first block if there is none. */
static uint32_t
find_block(const neon_layer_reader *r, const uint8_t target[INDEX_ORDER_BYTES])
{
	uint32_t	lo = 0,
				hi = r->info.blocks;	/* blocks before lo begin at or before target, those from hi on after it */

	while (lo < hi)
	{
		uint32_t	mid = lo + (hi - lo) / 2;

		if (memcmp(index_entry(r, mid), target, INDEX_ORDER_BYTES) <= 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo > 0 ? lo - 1 : 0;
}

neon_layer_status
neon_layer_iter_seek(neon_layer_iter *it, const neon_key *key, neon_lsn lsn)
{
	uint8_t		target[INDEX_ORDER_BYTES];
	neon_layer_status s;

	put_order(target, key, lsn);
	rewind_to(it, find_block(it->reader, target));
	while ((s = neon_layer_iter_next(it, &it->found)) == NEON_LAYER_OK)
	{
		int			c = neon_key_compare(&it->found.key, key);

		if (c > 0 || (c == 0 && it->found.lsn <= lsn))
		{
			it->pending = true;
			return NEON_LAYER_OK;
		}
	}
	return s == NEON_LAYER_END ? NEON_LAYER_OK : s;
}
