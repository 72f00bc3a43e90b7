/*
 * neon_layer_reader.c - opens a layer file: header, footer, index and filter, checked against each other.
 *
 * The size of the file, which the caller knows, bounds everything: the parts must lie behind one another without gaps, and
 * the filter must have exactly the size that its number of keys calls for.  Afterwards the index can be trusted: its
 * offsets ascend inside the area of blocks, and its keys ascend.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_layer_format.h"

const char *
neon_layer_status_text(neon_layer_status s)
{
	switch (s)
	{
		case NEON_LAYER_OK:
			return "ok";
		case NEON_LAYER_END:
			return "no more entries";
		case NEON_LAYER_IO:
			return "read or write failed";
		case NEON_LAYER_NO_SPACE:
			return "out of memory";
		case NEON_LAYER_BAD_ORDER:
			return "entry out of order";
		case NEON_LAYER_BAD_ARGUMENT:
			return "entry does not fit the layer";
		case NEON_LAYER_BAD_MAGIC:
			return "not a layer file, or cut short";
		case NEON_LAYER_BAD_VERSION:
			return "layer file has an unknown version";
		case NEON_LAYER_BAD_HEADER:
			return "header or footer is damaged";
		case NEON_LAYER_BAD_INDEX:
			return "index or filter is damaged";
		case NEON_LAYER_BAD_BLOCK:
			return "block is damaged";
	}
	return "unknown status";
}

/* Where the parts are, as the footer says. */
typedef struct parts
{
	uint64_t	index_offset;
	uint64_t	filter_offset;
	uint64_t	footer_offset;
	uint32_t	header_crc;
} parts;

static neon_layer_status
read_header(neon_layer_reader *r)
{
	uint8_t		bytes[LAYER_HEADER_BYTES];
	neon_layer_info *info = &r->info;
	neon_reader p;
	uint32_t	block_bytes;
	uint16_t	version;

	if (!r->read(r->read_arg, 0, bytes, sizeof(bytes)))
		return NEON_LAYER_IO;
	if (memcmp(bytes, LAYER_MAGIC, LAYER_MAGIC_BYTES) != 0)
		return NEON_LAYER_BAD_MAGIC;
	neon_reader_init(&p, bytes, sizeof(bytes));
	neon_get_bytes(&p, LAYER_MAGIC_BYTES);
	version = neon_get_u16(&p);
	if (version != LAYER_VERSION)
		return NEON_LAYER_BAD_VERSION;
	info->kind = neon_get_u8(&p);
	info->codec = neon_get_u8(&p);
	block_bytes = neon_get_u32(&p);
	neon_get_copy(&p, info->tenant.b, NEON_ID_BYTES);
	neon_get_copy(&p, info->timeline.b, NEON_ID_BYTES);
	info->lsn_lo = neon_get_u64(&p);
	info->lsn_hi = neon_get_u64(&p);
	r->header_crc = neon_crc32c(0, bytes, p.pos);

	if (neon_get_u32(&p) != r->header_crc || block_bytes != NEON_LAYER_BLOCK_BYTES)
		return NEON_LAYER_BAD_HEADER;
	if ((info->kind != NEON_LAYER_DELTA && info->kind != NEON_LAYER_IMAGE) || info->codec > NEON_LAYER_ZSTD)
		return NEON_LAYER_BAD_HEADER;
	if (info->lsn_lo > info->lsn_hi || (info->kind == NEON_LAYER_IMAGE && info->lsn_lo != info->lsn_hi))
		return NEON_LAYER_BAD_HEADER;
	return NEON_LAYER_OK;
}

static neon_layer_status
read_footer(neon_layer_reader *r, parts *at)
{
	uint8_t		bytes[LAYER_FOOTER_BYTES];
	neon_layer_info *info = &r->info;
	neon_reader p;
	bool		keys_ok;

	at->footer_offset = info->file_bytes - LAYER_FOOTER_BYTES;
	if (!r->read(r->read_arg, at->footer_offset, bytes, sizeof(bytes)))
		return NEON_LAYER_IO;
	if (memcmp(bytes + LAYER_FOOTER_BYTES - LAYER_MAGIC_BYTES, LAYER_END_MAGIC, LAYER_MAGIC_BYTES) != 0)
		return NEON_LAYER_BAD_MAGIC;
	neon_reader_init(&p, bytes, sizeof(bytes));
	at->index_offset = neon_get_u64(&p);
	at->filter_offset = neon_get_u64(&p);
	info->blocks = neon_get_u32(&p);
	info->entries = neon_get_u64(&p);
	info->keys = neon_get_u64(&p);
	info->raw_bytes = neon_get_u64(&p);
	keys_ok = neon_key_decode(neon_get_bytes(&p, NEON_KEY_BYTES), &info->key_first);
	keys_ok = neon_key_decode(neon_get_bytes(&p, NEON_KEY_BYTES), &info->key_last) && keys_ok;
	at->header_crc = neon_get_u32(&p);

	if (neon_crc32c(0, bytes, p.pos) != neon_get_u32(&p) || at->header_crc != r->header_crc || !keys_ok)
		return NEON_LAYER_BAD_HEADER;
	if (info->keys > info->entries || info->blocks > info->entries || (info->blocks == 0) != (info->keys == 0) ||
		(info->keys == 0) != (info->entries == 0) || neon_key_compare(&info->key_first, &info->key_last) > 0)
		return NEON_LAYER_BAD_HEADER;
	if (info->keys == 0 && neon_key_compare(&info->key_last, &(neon_key) {0}) != 0)
		return NEON_LAYER_BAD_HEADER;
	return NEON_LAYER_OK;
}

/* Do the parts lie one behind the other and fill the file?  Sizes are compared, never offsets added that could wrap. */
static bool
parts_fit(const neon_layer_reader *r, const parts *at)
{
	uint64_t	index_bytes = (uint64_t) r->info.blocks * INDEX_ENTRY_BYTES + LAYER_CRC_BYTES;

	if (at->index_offset < LAYER_HEADER_BYTES || at->filter_offset < at->index_offset ||
		at->footer_offset < at->filter_offset || at->filter_offset - at->index_offset != index_bytes)
		return false;
	if (r->info.blocks == 0 && at->index_offset != LAYER_HEADER_BYTES)
		return false;
	/* a key takes more than a byte of filter, so keys beyond the file's size cannot be true (and would overflow) */
	if (r->info.keys > r->info.file_bytes)
		return false;
	return at->footer_offset - at->filter_offset == filter_bytes_for(r->info.keys) + LAYER_CRC_BYTES;
}

/* Reads `len` bytes and a checksum behind them into new memory. */
static neon_layer_status
load_part(neon_layer_reader *r, uint64_t offset, size_t len, uint32_t part, uint8_t **out)
{
	uint8_t    *p = r->realloc_fn(NULL, len + LAYER_CRC_BYTES, r->realloc_arg);
	uint32_t	crc;

	if (p == NULL)
		return NEON_LAYER_NO_SPACE;
	*out = p;
	r->memory_bytes += len + LAYER_CRC_BYTES;
	if (!r->read(r->read_arg, offset, p, len + LAYER_CRC_BYTES))
		return NEON_LAYER_IO;
	memcpy(&crc, p + len, sizeof(crc));
	return __builtin_bswap32(crc) == part_crc(r->header_crc, part, p, len) ? NEON_LAYER_OK : NEON_LAYER_BAD_INDEX;
}

static uint64_t
block_offset(const uint8_t *entry)
{
	uint64_t	offset;

	memcpy(&offset, entry + INDEX_ORDER_BYTES, sizeof(offset));
	return __builtin_bswap64(offset);
}

/* Keys ascend, from the footer's first to no further than its last; offsets ascend from the header to the index. */
static bool
index_fits(const neon_layer_reader *r)
{
	uint8_t		first[NEON_KEY_BYTES],
				last[NEON_KEY_BYTES];
	const uint8_t *e = r->index;
	uint64_t	expected_min = LAYER_HEADER_BYTES;

	neon_key_encode(&r->info.key_first, first);
	neon_key_encode(&r->info.key_last, last);
	for (uint32_t i = 0; i < r->info.blocks; i++, e += INDEX_ENTRY_BYTES)
	{
		uint64_t	offset = block_offset(e);
		neon_key	key;

		if (!neon_key_decode(e, &key))
			return false;
		if (i == 0 ? offset != LAYER_HEADER_BYTES || memcmp(e, first, NEON_KEY_BYTES) != 0
			: memcmp(e - INDEX_ENTRY_BYTES, e, INDEX_ORDER_BYTES) >= 0)
			return false;
		if (offset < expected_min || offset > r->blocks_end || r->blocks_end - offset <= BLOCK_HEADER_BYTES ||
			memcmp(e, last, NEON_KEY_BYTES) > 0)
			return false;
		expected_min = offset + BLOCK_HEADER_BYTES + 1;
	}
	return true;
}

static neon_layer_status
load(neon_layer_reader *r)
{
	neon_layer_status s;
	parts		at;

	if (r->info.file_bytes < LAYER_HEADER_BYTES + 2 * LAYER_CRC_BYTES + LAYER_FOOTER_BYTES)
		return NEON_LAYER_BAD_MAGIC;
	if ((s = read_header(r)) != NEON_LAYER_OK || (s = read_footer(r, &at)) != NEON_LAYER_OK)
		return s;
	if (!parts_fit(r, &at))
		return NEON_LAYER_BAD_HEADER;
	r->blocks_end = at.index_offset;
	r->filter_bytes = filter_bytes_for(r->info.keys);
	s = load_part(r, at.index_offset, (size_t) r->info.blocks * INDEX_ENTRY_BYTES, CRC_OF_INDEX, &r->index);
	if (s == NEON_LAYER_OK)
		s = load_part(r, at.filter_offset, r->filter_bytes, CRC_OF_FILTER, &r->filter);
	if (s == NEON_LAYER_OK && !index_fits(r))
		s = NEON_LAYER_BAD_INDEX;
	return s;
}

neon_layer_status
neon_layer_reader_open(neon_layer_reader *r, uint64_t file_bytes,
					   neon_layer_read read, void *read_arg,
					   neon_layer_realloc realloc_fn, void *realloc_arg)
{
	neon_layer_status s;

	memset(r, 0, sizeof(*r));
	r->info.file_bytes = file_bytes;
	r->read = read;
	r->read_arg = read_arg;
	r->realloc_fn = realloc_fn;
	r->realloc_arg = realloc_arg;
	s = load(r);
	if (s != NEON_LAYER_OK)
		neon_layer_reader_close(r);
	return s;
}

void
neon_layer_reader_close(neon_layer_reader *r)
{
	if (r->index != NULL)
		r->realloc_fn(r->index, 0, r->realloc_arg);
	if (r->filter != NULL)
		r->realloc_fn(r->filter, 0, r->realloc_arg);
	r->index = NULL;
	r->filter = NULL;
	r->memory_bytes = 0;
}

bool
neon_layer_may_contain(const neon_layer_reader *r, const neon_key *key)
{
	uint64_t	hash,
				bits;
	const uint8_t *group;

	if (r->info.keys == 0 || neon_key_compare(key, &r->info.key_first) < 0 ||
		neon_key_compare(key, &r->info.key_last) > 0)
		return false;
	hash = neon_key_hash(key);
	group = r->filter + filter_group(hash, r->filter_bytes);
	bits = filter_bits(hash);
	for (int probe = 0; probe < FILTER_PROBES; probe++, bits >>= 9)
		if (!(group[(bits & 511) >> 3] & (1 << (bits & 7))))
			return false;
	return true;
}
