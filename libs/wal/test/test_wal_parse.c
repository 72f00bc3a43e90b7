/*
 * test_wal_parse.c - the fragments of a record: what is found, what is refused, and that nothing is read beyond its end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "neon_wal.h"

/* ---- a record being put together ---- */

typedef struct builder
{
	uint8_t		bytes[70000];
	uint32_t	len;
} builder;

static void
put(builder *b, uint64_t v, int n)
{
	for (int i = 0; i < n; i++)
		b->bytes[b->len++] = (uint8_t) (v >> (8 * i));
}

static void
begin(builder *b)
{
	memset(b, 0, sizeof(*b));
	b->len = 24;
}

static void
data(builder *b, uint8_t value, uint32_t n)
{
	memset(b->bytes + b->len, value, n);
	b->len += n;
}

/* Flags of a block: image 0x10, data 0x20, init 0x40, same relation 0x80. */
static void
block(builder *b, int id, int fork_flags, int data_len)
{
	put(b, id, 1);
	put(b, fork_flags, 1);
	put(b, data_len, 2);
}

static void
image(builder *b, int len, int hole_offset, int info)
{
	put(b, len, 2);
	put(b, hole_offset, 2);
	put(b, info, 1);
}

static void
relation(builder *b, uint32_t spc, uint32_t db, uint32_t rel)
{
	put(b, spc, 4);
	put(b, db, 4);
	put(b, rel, 4);
}

/* Parsed from memory of exactly its size, so that reading past it is seen. */
static neon_wal_status
parse(const builder *b, neon_wal_parsed *out, uint8_t **copy)
{
	uint8_t    *exact = malloc(b->len);
	neon_wal_status s;

	memcpy(exact, b->bytes, b->len);
	memcpy(exact, &b->len, 4);
	s = neon_wal_parse(exact, b->len, out);
	if (copy != NULL)
		*copy = exact;
	else
		free(exact);
	return s;
}

/* ---- a record with everything ---- */

static void
full_record(builder *b)
{
	begin(b);
	put(b, 253, 1);				/* origin */
	put(b, 0x1234, 2);
	put(b, 252, 1);				/* top-level xid */
	put(b, 777, 4);
	block(b, 0, 0x20, 10);		/* data only */
	relation(b, 1663, 5, 16384);
	put(b, 42, 4);
	block(b, 1, 0x10 | 0x20 | 0x80 | 2, 5);	/* image with a hole, and data, visibility map of the same relation */
	image(b, 8000, 100, 0x01 | 0x02);
	put(b, 43, 4);
	block(b, 7, 0x10 | 0x40, 0);	/* compressed image with a hole, not to be applied */
	image(b, 300, 200, 0x01 | 0x08);
	put(b, 4000, 2);
	relation(b, 1664, 0, 1262);
	put(b, 0xFFFFFFFE, 4);
	block(b, 32, 0x10 | 0x80, 0);	/* compressed, no hole */
	image(b, 301, 0, 0x02 | 0x10);
	put(b, 1, 4);
	put(b, 254, 1);				/* long main data */
	put(b, 1000, 4);
	data(b, 'a', 10);
	data(b, 'B', 8000);
	data(b, 'b', 5);
	data(b, 'C', 300);
	data(b, 'D', 301);
	data(b, 'm', 1000);
}

static void
assert_filled(const uint8_t *p, uint8_t value, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(p[i], value);
}

static void
everything_is_found(void **state)
{
	builder		b;
	neon_wal_parsed p;
	uint8_t    *copy;
	const neon_wal_block *k;

	full_record(&b);
	assert_int_equal(parse(&b, &p, &copy), NEON_WAL_OK);
	assert_int_equal(p.origin_id, 0x1234);
	assert_int_equal(p.toplevel_xid, 777);
	assert_int_equal(p.nblocks, 4);
	assert_int_equal(p.main_len, 1000);
	assert_filled(p.main_data, 'm', 1000);

	k = &p.blocks[0];
	assert_true(k->id == 0 && k->spc == 1663 && k->db == 5 && k->rel == 16384 && k->fork == 0 && k->blk == 42);
	assert_true(!k->has_image && k->has_data && !k->will_init && k->data_len == 10);
	assert_filled(k->data, 'a', 10);
	k = &p.blocks[1];
	assert_true(k->id == 1 && k->spc == 1663 && k->db == 5 && k->rel == 16384 && k->fork == 2 && k->blk == 43);
	assert_true(k->has_image && k->apply_image && k->has_data && k->image_len == 8000 && k->hole_offset == 100 && k->hole_length == 192);
	assert_filled(k->image, 'B', 8000);
	assert_filled(k->data, 'b', 5);
	k = &p.blocks[2];
	assert_true(k->id == 7 && k->spc == 1664 && k->db == 0 && k->rel == 1262 && k->blk == 0xFFFFFFFE);
	assert_true(k->has_image && !k->apply_image && k->will_init && !k->has_data && k->image_len == 300);
	assert_true(k->hole_offset == 200 && k->hole_length == 4000 && k->bimg_info == 0x09);
	assert_filled(k->image, 'C', 300);
	assert_null(k->data);
	k = &p.blocks[3];
	assert_true(k->id == 32 && k->rel == 1262 && k->blk == 1 && k->hole_offset == 0 && k->hole_length == 0);
	assert_filled(k->image, 'D', 301);
	free(copy);
}

static void
small_records(void **state)
{
	builder		b;
	neon_wal_parsed p;

	begin(&b);					/* XLOG_SWITCH has a header only */
	assert_int_equal(parse(&b, &p, NULL), NEON_WAL_OK);
	assert_int_equal(p.nblocks, 0);
	assert_int_equal(p.main_len, 0);
	assert_null(p.main_data);
	assert_int_equal(p.toplevel_xid, 0);
	assert_int_equal(p.origin_id, 0);

	begin(&b);
	put(&b, 255, 1);
	put(&b, 3, 1);
	data(&b, 'x', 3);
	assert_int_equal(parse(&b, &p, NULL), NEON_WAL_OK);
	assert_int_equal(p.main_len, 3);
}

static void
cut_anywhere(void **state)
{
	builder		b;
	neon_wal_parsed p;
	uint32_t	len;
	int			fitting = 0;

	full_record(&b);
	len = b.len;
	for (b.len = 24; b.len < len; b.len++)
	{
		neon_wal_status s = parse(&b, &p, NULL);

		/*
		 * Behind the header and each fragment but the last there is one length that fits: exactly the data announced so far,
		 * whose place the next fragment's bytes take.  Only the CRC can tell.
		 */
		assert_true(s == NEON_WAL_OK || s == NEON_WAL_BAD_LENGTH);
		fitting += s == NEON_WAL_OK;
	}
	assert_int_equal(fitting, 7);
	data(&b, 0, 1);				/* nor may there be more than announced */
	assert_int_equal(parse(&b, &p, NULL), NEON_WAL_BAD_LENGTH);
}

static void
length_must_match(void **state)
{
	uint8_t		bytes[64] = {0};
	neon_wal_parsed p;

	bytes[0] = 32;
	assert_int_equal(neon_wal_parse(bytes, 24, &p), NEON_WAL_BAD_LENGTH);
	bytes[0] = 23;
	assert_int_equal(neon_wal_parse(bytes, 23, &p), NEON_WAL_BAD_LENGTH);
	assert_int_equal(neon_wal_parse(bytes, 0, &p), NEON_WAL_BAD_LENGTH);
}

/* One block with an image of these properties; `stored` bytes of it. */
static neon_wal_status
try_image(int len, int hole_offset, int info, int hole_length, uint32_t stored)
{
	builder		b;
	neon_wal_parsed p;

	begin(&b);
	block(&b, 0, 0x10, 0);
	image(&b, len, hole_offset, info);
	if (hole_length >= 0)
		put(&b, hole_length, 2);
	relation(&b, 1, 2, 3);
	put(&b, 4, 4);
	data(&b, 'i', stored);
	return parse(&b, &p, NULL);
}

static void
images(void **state)
{
	assert_int_equal(try_image(8192, 0, 0x02, -1, 8192), NEON_WAL_OK);
	assert_int_equal(try_image(8191, 0, 0x02, -1, 8191), NEON_WAL_BAD_BLOCK_REF);	/* shorter, but no hole */
	assert_int_equal(try_image(8193, 0, 0x02, -1, 8193), NEON_WAL_BAD_BLOCK_REF);
	assert_int_equal(try_image(65535, 0, 0x02, -1, 65535), NEON_WAL_BAD_BLOCK_REF);
	assert_int_equal(try_image(8000, 8000, 0x03, -1, 8000), NEON_WAL_OK);	/* the hole ends the page */
	assert_int_equal(try_image(8000, 8001, 0x03, -1, 8000), NEON_WAL_BAD_BLOCK_REF);	/* the hole leaves the page */
	assert_int_equal(try_image(8000, 65535, 0x03, -1, 8000), NEON_WAL_BAD_BLOCK_REF);
	assert_int_equal(try_image(8000, 0, 0x03, -1, 8000), NEON_WAL_BAD_BLOCK_REF);
	assert_int_equal(try_image(8192, 10, 0x03, -1, 8192), NEON_WAL_BAD_BLOCK_REF);	/* a hole of nothing */
	for (int method = 0x04; method <= 0x10; method *= 2)
	{
		assert_int_equal(try_image(500, 0, 0x02 | method, -1, 500), NEON_WAL_OK);
		assert_int_equal(try_image(500, 1, 0x02 | method, -1, 500), NEON_WAL_BAD_BLOCK_REF);
		assert_int_equal(try_image(8192, 0, 0x02 | method, -1, 8192), NEON_WAL_BAD_BLOCK_REF);
		assert_int_equal(try_image(500, 192, 0x03 | method, 8000, 500), NEON_WAL_OK);
		assert_int_equal(try_image(500, 193, 0x03 | method, 8000, 500), NEON_WAL_BAD_BLOCK_REF);	/* the server accepts it */
		assert_int_equal(try_image(500, 65535, 0x03 | method, 65535, 500), NEON_WAL_BAD_BLOCK_REF);
		assert_int_equal(try_image(500, 192, 0x03 | method, 0, 500), NEON_WAL_BAD_BLOCK_REF);
	}
}

/* Two blocks with these ids and flags of the second; data as long as they say. */
static neon_wal_status
try_blocks(int id1, int flags1, int id2, int flags2)
{
	builder		b;
	neon_wal_parsed p;

	begin(&b);
	block(&b, id1, flags1, flags1 & 0x20 ? 1 : 0);
	if (!(flags1 & 0x80))
		relation(&b, 1, 2, 3);
	put(&b, 4, 4);
	block(&b, id2, flags2, 1);
	if (!(flags2 & 0x80))
		relation(&b, 1, 2, 3);
	put(&b, 5, 4);
	data(&b, 'd', flags1 & 0x20 ? 2 : 1);
	return parse(&b, &p, NULL);
}

static void
block_headers(void **state)
{
	assert_int_equal(try_blocks(0, 0, 1, 0x20), NEON_WAL_OK);
	assert_int_equal(try_blocks(5, 0x20, 32, 0xA0), NEON_WAL_OK);
	assert_int_equal(try_blocks(0, 0, 0, 0x20), NEON_WAL_BAD_BLOCK_REF);	/* ids ascend */
	assert_int_equal(try_blocks(1, 0, 0, 0x20), NEON_WAL_BAD_BLOCK_REF);
	assert_int_equal(try_blocks(0, 0, 33, 0x20), NEON_WAL_BAD_BLOCK_REF);
	assert_int_equal(try_blocks(251, 0, 1, 0x20), NEON_WAL_BAD_BLOCK_REF);
	assert_int_equal(try_blocks(0, 0x80, 1, 0x20), NEON_WAL_BAD_BLOCK_REF);	/* same relation as none */
	assert_int_equal(try_blocks(0, 0, 1, 0), NEON_WAL_BAD_BLOCK_REF);	/* data without the flag */
	assert_int_equal(try_blocks(0, 3, 1, 0x20), NEON_WAL_OK);
	assert_int_equal(try_blocks(0, 4, 1, 0x20), NEON_WAL_BAD_BLOCK_REF);	/* no such fork */
}

static void
flag_without_data(void **state)
{
	builder		b;
	neon_wal_parsed p;

	begin(&b);
	block(&b, 0, 0x20, 0);
	relation(&b, 1, 2, 3);
	put(&b, 4, 4);
	/* some main data, since the server stops looking at headers when no bytes are left */
	put(&b, 255, 1);
	put(&b, 1, 1);
	data(&b, 'm', 1);
	assert_int_equal(parse(&b, &p, NULL), NEON_WAL_BAD_BLOCK_REF);
}

/* All 33 blocks: the array is full, no more can be named. */
static void
most_blocks(void **state)
{
	builder		b;
	neon_wal_parsed p;

	begin(&b);
	for (int id = 0; id <= 32; id++)
	{
		block(&b, id, id == 0 ? 0 : 0x80, 0);
		if (id == 0)
			relation(&b, 1, 2, 3);
		put(&b, id * 10, 4);
	}
	assert_int_equal(parse(&b, &p, NULL), NEON_WAL_OK);
	assert_int_equal(p.nblocks, NEON_WAL_MAX_BLOCKS);
	assert_int_equal(p.blocks[32].blk, 320);
	assert_int_equal(p.blocks[32].rel, 3);
}

/* Lengths that add up to more than the record, or around 2^32. */
static void
huge_main_data(void **state)
{
	static const uint32_t lengths[] = {1, 2, 0x7FFFFFFF, 0xFFFFFFFF};

	for (int i = 0; i < 4; i++)
	{
		builder		b;
		neon_wal_parsed p;

		begin(&b);
		block(&b, 0, 0x20, 1);
		relation(&b, 1, 2, 3);
		put(&b, 4, 4);
		put(&b, 254, 1);
		put(&b, lengths[i], 4);
		data(&b, 'x', 2);
		assert_int_equal(parse(&b, &p, NULL), i == 0 ? NEON_WAL_OK : NEON_WAL_BAD_LENGTH);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_is_found),
		cmocka_unit_test(small_records),
		cmocka_unit_test(cut_anywhere),
		cmocka_unit_test(length_must_match),
		cmocka_unit_test(images),
		cmocka_unit_test(block_headers),
		cmocka_unit_test(flag_without_data),
		cmocka_unit_test(most_blocks),
		cmocka_unit_test(huge_main_data),
	};

	return cmocka_run_group_tests_name("WAL parser", tests, NULL, NULL);
}
