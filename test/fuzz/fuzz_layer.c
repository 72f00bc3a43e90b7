/*
 * fuzz_layer.c - the layer reader: any file opens with an error or gives entries in order that lie inside their block.
 *
 * The input is a file, and in front of it one byte that says which checksums to make right: so that fields behind them
 * are reached.  With all of them right only the reader's own checks stand between the bytes and the program.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_layer.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES	68
#define FOOTER_BYTES	96
#define INDEX_ENTRY		34
#define MEMORY_LIMIT	(UINT64_C(64) * 1024 * 1024)
#define MAX_SEEKS		16

#define CHECK(condition) do { if (!(condition)) abort(); } while (0)

typedef struct file
{
	uint8_t    *bytes;
	size_t		len;
} file;

static void *
limited_realloc(void *p, size_t n, void *arg)
{
	if (n == 0)
	{
		free(p);
		return NULL;
	}
	return n > MEMORY_LIMIT ? NULL : realloc(p, n);
}

static bool
file_read(void *arg, uint64_t offset, void *buf, size_t len)
{
	const file *f = arg;

	/* a reader that knows the file's size does not ask for more */
	CHECK(offset <= f->len && len <= f->len - offset);
	memcpy(buf, f->bytes + offset, len);
	return true;
}

static uint64_t
get(const uint8_t *p, int n)
{
	uint64_t	v = 0;

	while (n-- > 0)
		v = v << 8 | *p++;
	return v;
}

static void
put32(uint8_t *p, uint32_t v)
{
	for (int i = 3; i >= 0; i--, v >>= 8)
		p[i] = (uint8_t) v;
}

static uint32_t
part_crc(uint32_t header_crc, uint32_t part, const uint8_t *p, size_t n)
{
	uint8_t		seed[8];

	put32(seed, header_crc);
	put32(seed + 4, part);
	return neon_crc32c(neon_crc32c(0, seed, 8), p, n);
}

/* Blocks as far as the index names places inside the file. */
static void
fix_blocks(file *f, uint32_t header_crc, uint64_t index_offset, uint64_t blocks)
{
	for (uint64_t i = 0; i < blocks; i++)
	{
		const uint8_t *e = f->bytes + index_offset + i * INDEX_ENTRY;
		uint64_t	from = get(e + 26, 8);
		uint64_t	to = i + 1 < blocks ? get(e + INDEX_ENTRY + 26, 8) : index_offset;

		if (from < HEADER_BYTES || to > index_offset || from > to || to - from < 13)
			return;
		put32(f->bytes + from, part_crc(header_crc, (uint32_t) i, f->bytes + from + 4, to - from - 4));
	}
}

static void
fix_checksums(file *f, uint8_t which)
{
	uint8_t    *footer = f->bytes + f->len - FOOTER_BYTES;
	uint32_t	header_crc;
	uint64_t	index_offset,
				filter_offset,
				blocks;

	if (f->len < HEADER_BYTES + FOOTER_BYTES + 8)
		return;
	if (which & 1)
	{
		memcpy(f->bytes, "NEONLAYR\0\1", 10);
		put32(f->bytes + 64, neon_crc32c(0, f->bytes, 64));
		memcpy(footer + 88, "NEONLEND", 8);
	}
	header_crc = (uint32_t) get(f->bytes + 64, 4);
	index_offset = get(footer, 8);
	filter_offset = get(footer + 8, 8);
	blocks = get(footer + 16, 4);
	if (index_offset >= HEADER_BYTES && filter_offset > index_offset && filter_offset <= f->len - FOOTER_BYTES - 4 &&
		filter_offset - index_offset == blocks * INDEX_ENTRY + 4)
	{
		size_t		filter_len = f->len - FOOTER_BYTES - 4 - filter_offset;

		if (which & 8)
			fix_blocks(f, header_crc, index_offset, blocks);
		if (which & 4)
		{
			put32(f->bytes + filter_offset - 4, part_crc(header_crc, 0xFFFFFFFF, f->bytes + index_offset, blocks * INDEX_ENTRY));
			put32(f->bytes + filter_offset + filter_len, part_crc(header_crc, 0xFFFFFFFE, f->bytes + filter_offset, filter_len));
		}
	}
	if (which & 2)
	{
		put32(footer + 80, header_crc);
		put32(footer + 84, neon_crc32c(0, footer, 84));
	}
}

/* An entry, after the one before it. */
static void
check_entry(const neon_layer_reader *r, const neon_layer_entry *e, const neon_layer_entry *before)
{
	uint32_t	sum = 0;

	CHECK(e->lsn >= r->info.lsn_lo && e->lsn <= r->info.lsn_hi);
	CHECK(e->key.kind < NEON_KEY_KIND_COUNT && e->key.fork <= 3 && e->key.pad == 0);
	if (before != NULL)
	{
		int			c = neon_key_compare(&before->key, &e->key);

		CHECK(c < 0 || (c == 0 && before->lsn > e->lsn));
	}
	for (uint32_t i = 0; i < e->len; i++)
		sum += e->bytes[i];		/* touched, so that ASan sees it */
	CHECK(sum <= UINT32_C(255) * e->len);
}

static void
read_everything(const neon_layer_reader *r)
{
	neon_layer_iter it;
	neon_layer_entry e,
				before;
	neon_key	keys[MAX_SEEKS];
	int			nkeys = 0;
	uint64_t	entries = 0;
	neon_layer_status s;

	neon_layer_iter_init(&it, r);
	s = neon_layer_iter_first(&it);
	while (s == NEON_LAYER_OK && (s = neon_layer_iter_next(&it, &e)) == NEON_LAYER_OK)
	{
		check_entry(r, &e, entries > 0 ? &before : NULL);
		if (nkeys < MAX_SEEKS)
			keys[nkeys++] = e.key;
		before = e;
		entries++;
	}
	CHECK((it.error_block != NEON_LAYER_NO_BLOCK) == (s > NEON_LAYER_END));
	for (int i = 0; i < nkeys; i++)
	{
		neon_layer_may_contain(r, &keys[i]);
		keys[i].blk ^= (uint32_t) (i & 1);
		s = neon_layer_iter_seek(&it, &keys[i], r->info.lsn_hi);
		if (s == NEON_LAYER_OK && neon_layer_iter_next(&it, &e) == NEON_LAYER_OK)
			CHECK(neon_key_compare(&e.key, &keys[i]) >= 0);
	}
	neon_layer_iter_free(&it);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	neon_layer_reader r;
	file		f;

	if (size < 1)
		return 0;
	f.len = size - 1;
	f.bytes = malloc(f.len + 1);
	memcpy(f.bytes, data + 1, f.len);
	fix_checksums(&f, data[0]);
	if (neon_layer_reader_open(&r, f.len, file_read, &f, limited_realloc, NULL) == NEON_LAYER_OK)
	{
		CHECK(r.memory_bytes <= f.len);
		read_everything(&r);
		neon_layer_reader_close(&r);
	}
	free(f.bytes);
	return 0;
}
