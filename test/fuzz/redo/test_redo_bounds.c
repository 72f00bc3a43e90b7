/*
 * test_redo_bounds.c - native redo under sanitizers: known corner cases, and many random cases from a fixed seed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>

#include "ps_redo.h"

#include <cmocka.h>

#include "access/heapam_xlog.h"
#include "access/rmgr.h"

#include "redo_case.h"

#define RANDOM_CASES	300000
#define MAX_CASE_BYTES	2048

static uint64
next_random(uint64 *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Of the random cases a good part must get through, else they test nothing but the first check. */
static void
test_random_cases(void **context)
{
	uint64		state = UINT64CONST(0x9e3779b97f4a7c15);
	int			seen[3] = {0};
	static uint8 bytes[MAX_CASE_BYTES];

	for (int i = 0; i < RANDOM_CASES; i++)
	{
		size_t		len = next_random(&state) % MAX_CASE_BYTES;

		for (size_t k = 0; k < len; k++)
		{
			uint64		r = next_random(&state);

			bytes[k] = r & 0x300 ? (uint8) r & 0x0f : (uint8) r;	/* small numbers reach further */
		}
		seen[redo_case(bytes, len)]++;
	}
	assert_true(seen[PS_REDO_DONE] > RANDOM_CASES / 100);
	assert_true(seen[PS_REDO_CORRUPT] > RANDOM_CASES / 100);
}

static void
test_items_outside_the_page(void **context)
{
	char	   *page = aligned_alloc(MAXIMUM_ALIGNOF, BLCKSZ);
	PageHeader	p = (PageHeader) page;
	char		item[64] = {0};
	uint32		len;

	((HeapTupleHeader) item)->t_hoff = SizeofHeapTupleHeader;
	ps_page_init(page, 0);
	assert_true(ps_page_add_heap_item(page, item, sizeof(item), 1));
	assert_non_null(ps_page_heap_tuple(page, 1, &len));
	assert_null(ps_page_heap_tuple(page, 0, &len));
	assert_null(ps_page_heap_tuple(page, 2, &len));
	assert_false(ps_page_add_heap_item(page, item, sizeof(item), 1));
	assert_false(ps_page_add_heap_item(page, item, sizeof(item), 3));

	p->pd_linp[0].lp_off = BLCKSZ - 32;
	assert_null(ps_page_heap_tuple(page, 1, &len));
	assert_false(ps_page_repair_fragmentation(page));
	p->pd_linp[0].lp_off = p->pd_upper;
	p->pd_linp[0].lp_len = 10;
	assert_null(ps_page_heap_tuple(page, 1, &len));
	p->pd_lower = BLCKSZ;
	assert_null(ps_page_item(page, 1));
	p->pd_lower = 0;
	assert_null(ps_page_item(page, 1));
	assert_false(ps_page_add_index_item(page, item, sizeof(item), 1));
	free(page);
}

static void
test_page_fills_up(void **context)
{
	char	   *page = aligned_alloc(MAXIMUM_ALIGNOF, BLCKSZ);
	char		item[40] = {0};
	uint32		n = 0;

	ps_page_init(page, 16);
	while (ps_page_add_index_item(page, item, sizeof(item), 1))
		n++;
	assert_int_equal(n, (BLCKSZ - SizeOfPageHeaderData - 16) / (sizeof(item) + sizeof(ItemIdData)));
	free(page);
}

/* The hole and the image must fill the page exactly. */
static void
test_images(void **context)
{
	char	   *page = aligned_alloc(MAXIMUM_ALIGNOF, BLCKSZ);
	uint8	   *image = malloc(BLCKSZ);
	neon_wal_block b = {.has_image = true, .image = image, .image_len = BLCKSZ - 100, .hole_offset = 50, .hole_length = 100};
	const char *reason;

	memset(image, 7, BLCKSZ);
	assert_true(ps_redo_restore_image(&b, page, &reason));
	assert_int_equal(page[49], 7);
	assert_int_equal(page[50], 0);
	assert_int_equal(page[149], 0);
	assert_int_equal(page[150], 7);
	b.hole_length = 99;
	assert_false(ps_redo_restore_image(&b, page, &reason));
	b.hole_length = 100;
	b.hole_offset = BLCKSZ - 99;
	assert_false(ps_redo_restore_image(&b, page, &reason));
	b.hole_offset = 50;
	for (uint8 method = BKPIMAGE_COMPRESS_PGLZ; method <= BKPIMAGE_COMPRESS_ZSTD; method <<= 1)
	{
		b.bimg_info = method;
		assert_false(ps_redo_restore_image(&b, page, &reason));
	}
	free(image);
	free(page);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_items_outside_the_page),
		cmocka_unit_test(test_page_fills_up),
		cmocka_unit_test(test_images),
		cmocka_unit_test(test_random_cases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
