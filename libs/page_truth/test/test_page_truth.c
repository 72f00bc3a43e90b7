/*
 * test_page_truth.c - what two copies of a page may differ in, bit by bit.
 *
 * For every kind of page: a sample is made, each of its 65536 bits is changed in turn, and the set of changes that go
 * undetected must be exactly the set the test names, one entry a mask.  So a bit beside a mask is detected, whichever it is.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "neon_page_truth.h"

#define PAGE_LSN	UINT64_C(0x300000010)
#define AS_OF		UINT64_C(0x300000090)

/* Bits that may differ: from bit `first` of byte `byte`, `bits` of them. */
typedef struct Free
{
	unsigned	byte;
	unsigned	first;
	unsigned	bits;
} Free;

static void
put(uint8_t *p, uint64_t v, int bytes)
{
	memcpy(p, &v, bytes);
}

static void
set_lsn(uint8_t *page, uint64_t lsn)
{
	put(page, lsn >> 32, 4);
	put(page + 4, lsn, 4);
}

static void
make_page(uint8_t *page, unsigned items, unsigned upper, unsigned special_bytes)
{
	memset(page, 0, NEON_BLCKSZ);
	set_lsn(page, PAGE_LSN);
	put(page + 12, 24 + 4 * items, 2);
	put(page + 14, upper, 2);
	put(page + 16, NEON_BLCKSZ - special_bytes, 2);
	put(page + 18, 0x2004, 2);
	for (unsigned i = upper; i < NEON_BLCKSZ - special_bytes; i++)
		page[i] = (uint8_t) (i * 31 + 7);
}

static void
line_pointer(uint8_t *page, unsigned number, unsigned offset, unsigned state, unsigned bytes)
{
	put(page + 24 + 4 * (number - 1), offset | state << 15 | bytes << 17, 4);
}

static neon_page_context
context_of(uint8_t fork, uint32_t block, unsigned flags)
{
	return (neon_page_context) {.fork = fork, .block = block, .as_of = AS_OF, .flags = flags};
}

static bool
same(const uint8_t *ours, const uint8_t *theirs, neon_page_context context)
{
	neon_page_difference d;

	return neon_page_same(ours, theirs, &context, &d);
}

/* Exactly the bits of `free` may be changed in the pageserver's copy.  The LSN is tested apart. */
static void
check_bits(const uint8_t *page, neon_page_context context, const Free *free, size_t nfree)
{
	static uint8_t changed[NEON_BLCKSZ];
	static uint8_t expected[NEON_BLCKSZ];
	neon_page_difference d;

	memset(expected, 0, sizeof(expected));
	for (size_t i = 0; i < nfree; i++)
		for (unsigned b = 0; b < free[i].bits; b++)
			expected[free[i].byte + (free[i].first + b) / 8] |= 1 << (free[i].first + b) % 8;

	assert_true(same(page, page, context));
	memcpy(changed, page, NEON_BLCKSZ);
	for (unsigned i = 8; i < NEON_BLCKSZ; i++)
		for (unsigned b = 0; b < 8; b++)
		{
			bool		may_differ = (expected[i] >> b) & 1;

			changed[i] ^= 1 << b;
			if (neon_page_same(page, changed, &context, &d) != may_differ)
				fail_msg("bit %u of byte %u is %s", b, i, may_differ ? "compared" : "not compared");
			if (!may_differ && (d.offset != (int) i || d.ours != page[i] || d.theirs != changed[i]))
				fail_msg("bit %u of byte %u is reported at %d", b, i, d.offset);
			/* the other way round too, but for what is said of the compute's copy alone */
			if (!may_differ && neon_page_same(changed, page, &context, &d) && (context.flags & NEON_TRUTH_AS_OF_OWN_LSN) == 0)
				fail_msg("bit %u of byte %u is not compared in the compute's copy", b, i);
			changed[i] ^= 1 << b;
		}
}

#define CHECK_BITS(page, context, ...) \
	do { \
		static const Free list_[] = {__VA_ARGS__}; \
		check_bits(page, context, list_, sizeof(list_) / sizeof(list_[0])); \
	} while (0)

/* ---- heap ---- */

#define TUPLE	8000			/* 37 bytes: 3 of padding */
#define HEAP_HOLE	{24 + 4, 0, (TUPLE - 24 - 4) * 8}
#define HEAP_HEADER	{10, 0, 2}, {20, 0, 32}
#define HEAP_PADDING {TUPLE + 37, 0, 3 * 8}

static void
make_heap(uint8_t *page, unsigned infomask)
{
	make_page(page, 1, TUPLE, 0);
	line_pointer(page, 1, TUPLE, 1, 37);
	put(page + TUPLE + 0, 1000, 4);
	put(page + TUPLE + 4, 1001, 4);
	put(page + TUPLE + 8, 3, 4);
	put(page + TUPLE + 12, 0, 4);
	put(page + TUPLE + 16, 1, 2);
	put(page + TUPLE + 18, 2, 2);
	put(page + TUPLE + 20, infomask, 2);
	page[TUPLE + 22] = 24;
	/* only one tuple: what is behind it is compared */
}

static void
heap_page(void **state)
{
	uint8_t		page[NEON_BLCKSZ];

	/* command id; COMBOCID is bit 5; XMIN hints are bits 8 and 9, XMAX hints 10 and 11 */
	make_heap(page, 0x0002);
	CHECK_BITS(page, context_of(0, 5, 0), HEAP_HEADER, HEAP_HOLE, HEAP_PADDING, {TUPLE + 8, 0, 32}, {TUPLE + 20, 5, 1}, {TUPLE + 20, 8, 1},
			   {TUPLE + 20, 9, 1}, {TUPLE + 20, 10, 2});
	/* with one hint of xmin set, the other one makes it frozen, which is logged */
	make_heap(page, 0x0102);
	CHECK_BITS(page, context_of(0, 5, 0), HEAP_HEADER, HEAP_HOLE, HEAP_PADDING, {TUPLE + 8, 0, 32}, {TUPLE + 20, 5, 1}, {TUPLE + 20, 8, 1},
			   {TUPLE + 20, 10, 2});
	/* frozen: both bits count */
	make_heap(page, 0x0302);
	CHECK_BITS(page, context_of(0, 5, 0), HEAP_HEADER, HEAP_HOLE, HEAP_PADDING, {TUPLE + 8, 0, 32}, {TUPLE + 20, 5, 1}, {TUPLE + 20, 10, 2});
	/* moved by an old VACUUM FULL: not a command id */
	make_heap(page, 0x4002);
	CHECK_BITS(page, context_of(0, 5, 0), HEAP_HEADER, HEAP_HOLE, HEAP_PADDING, {TUPLE + 20, 8, 2}, {TUPLE + 20, 10, 2});
	/* as of the page's own LSN the pageserver may not know that it is all-visible */
	make_heap(page, 0x0002);
	CHECK_BITS(page, context_of(0, 5, NEON_TRUTH_AS_OF_OWN_LSN), {10, 0, 3}, {20, 0, 32}, HEAP_HOLE, HEAP_PADDING, {TUPLE + 8, 0, 32},
			   {TUPLE + 20, 5, 1}, {TUPLE + 20, 8, 2}, {TUPLE + 20, 10, 2});
}

static void
heap_frozen_in_one(void **state)
{
	uint8_t		ours[NEON_BLCKSZ],
				theirs[NEON_BLCKSZ];

	make_heap(ours, 0x0302);
	make_heap(theirs, 0x0102);
	assert_false(same(ours, theirs, context_of(0, 5, 0)));
	assert_false(same(theirs, ours, context_of(0, 5, 0)));
	make_heap(ours, 0x0202);
	assert_true(same(ours, theirs, context_of(0, 5, 0)));
}

static void
heap_speculative(void **state)
{
	uint8_t		ours[NEON_BLCKSZ],
				theirs[NEON_BLCKSZ];

	make_heap(ours, 0x0002);
	make_heap(theirs, 0x0002);
	put(ours + TUPLE + 12, 12345, 4);
	put(ours + TUPLE + 16, 0xFFFE, 2);
	assert_true(same(ours, theirs, context_of(0, 5, 0)));
	/* a token in storage is nothing that redo could have written */
	assert_false(same(theirs, ours, context_of(0, 5, 0)));
	/* the bits beside the token */
	theirs[TUPLE + 11] ^= 0x80;	/* still the command id */
	assert_true(same(ours, theirs, context_of(0, 5, 0)));
	theirs[TUPLE + 18] ^= 1;
	assert_false(same(ours, theirs, context_of(0, 5, 0)));
}

static void
heap_line_pointers(void **state)
{
	uint8_t		page[NEON_BLCKSZ];

	/* redirected, dead and unused ones: nothing of them is left out, and nothing is read through them */
	make_page(page, 3, NEON_BLCKSZ, 0);
	line_pointer(page, 1, 3, 2, 0);
	line_pointer(page, 2, 0, 3, 0);
	CHECK_BITS(page, context_of(0, 0, 0), HEAP_HEADER, {36, 0, (NEON_BLCKSZ - 36) * 8});
	/* one that points outside */
	make_page(page, 1, TUPLE, 0);
	line_pointer(page, 1, NEON_BLCKSZ - 8, 1, 100);
	CHECK_BITS(page, context_of(0, 0, 0), HEAP_HEADER, HEAP_HOLE);
}

/* ---- indexes ---- */

#define ITEM	8000
#define INDEX_HOLE {24 + 8, 0, (ITEM - 24 - 8) * 8}
/* bit 16 of a line pointer: normal or dead */
#define DEAD_BITS {24 + 2, 0, 1}, {28 + 2, 0, 1}

static void
make_index(uint8_t *page, unsigned special_bytes)
{
	make_page(page, 2, ITEM, special_bytes);
	line_pointer(page, 1, ITEM, 1, 16);
	line_pointer(page, 2, ITEM + 16, 3, 16);
}

static void
btree_page(void **state)
{
	uint8_t		page[NEON_BLCKSZ];

	make_index(page, 16);
	put(page + 8188, 0x0001, 2);	/* leaf */
	put(page + 8190, 0x1234, 2);	/* cycle id */
	/* a cycle id so large would name another access method */
	CHECK_BITS(page, context_of(0, 1, 0), INDEX_HOLE, DEAD_BITS, {8188, 5, 2}, {8190, 0, 16});
	put(page + 8188, 0x0000, 2);	/* not a leaf: scans kill nothing there */
	CHECK_BITS(page, context_of(0, 1, 0), INDEX_HOLE, {8188, 5, 2}, {8190, 0, 16});
}

static void
hash_page(void **state)
{
	uint8_t		page[NEON_BLCKSZ];

	make_index(page, 16);
	put(page + 8190, 0xFF80, 2);
	put(page + 8188, 0x0002, 2);
	CHECK_BITS(page, context_of(0, 1, 0), INDEX_HOLE, DEAD_BITS, {8188, 7, 1});
	put(page + 8188, 0x0004, 2);	/* bitmap */
	CHECK_BITS(page, context_of(0, 1, 0), INDEX_HOLE);
	put(page + 8188, 0x0000, 2);	/* unused */
	CHECK_BITS(page, context_of(0, 1, 0), INDEX_HOLE);
}

static void
gist_page(void **state)
{
	uint8_t		page[NEON_BLCKSZ];

	make_index(page, 16);
	put(page + 8190, 0xFF81, 2);
	put(page + 8188, 0x0001, 2);
	CHECK_BITS(page, context_of(0, 1, 0), INDEX_HOLE, DEAD_BITS, {8188, 4, 1});
	put(page + 8188, 0x0000, 2);
	CHECK_BITS(page, context_of(0, 1, 0), INDEX_HOLE, {8188, 4, 1});
}

static void
gin_page(void **state)
{
	uint8_t		page[NEON_BLCKSZ];

	make_index(page, 8);
	put(page + 8190, 0x0002, 2);
	CHECK_BITS(page, context_of(0, 1, 0), INDEX_HOLE);
	put(page + 8190, 0x0007, 2);	/* deleted from a posting tree: its content is compared, unlike in the server's mask */
	CHECK_BITS(page, context_of(0, 1, 0), INDEX_HOLE);
}

/* Deleted from the pending list: redo makes an empty page of it. */
static void
gin_deleted_page(void **state)
{
	uint8_t		ours[NEON_BLCKSZ],
				theirs[NEON_BLCKSZ];

	make_index(ours, 8);
	put(ours + 8184, 77, 4);	/* rightlink */
	put(ours + 8188, 2, 2);		/* maxoff */
	put(ours + 8190, 0x0004, 2);
	make_page(theirs, 0, 8184, 8);
	put(theirs + 8184, 0xFFFFFFFF, 4);
	put(theirs + 8190, 0x0004, 2);
	assert_true(same(ours, theirs, context_of(0, 1, 0)));
	/* every bit of the header but pd_lower and pd_upper, and the flags, count */
	for (unsigned i = 8; i < NEON_BLCKSZ; i = i == 11 ? 16 : i == 23 ? 8190 : i + 1)
		for (unsigned b = 0; b < 8; b++)
		{
			theirs[i] ^= 1 << b;
			assert_false(same(ours, theirs, context_of(0, 1, 0)));
			theirs[i] ^= 1 << b;
		}
	/* deleted in one of the two only */
	put(theirs + 8190, 0x0010, 2);
	assert_false(same(ours, theirs, context_of(0, 1, 0)));
}

static void
spgist_page(void **state)
{
	uint8_t		page[NEON_BLCKSZ];

	make_page(page, 0, 8184, 8);
	put(page + 12, 24 + 68, 2);
	put(page + 8190, 0xFF82, 2);
	put(page + 8184, 0x0001, 2);
	/* behind the magic number */
	CHECK_BITS(page, context_of(0, 0, 0), {28, 0, 64 * 8}, {92, 0, (8184 - 92) * 8});
	make_index(page, 8);
	put(page + 8190, 0xFF82, 2);
	CHECK_BITS(page, context_of(0, 1, 0), INDEX_HOLE);
}

static void
brin_page(void **state)
{
	uint8_t		page[NEON_BLCKSZ];

	make_index(page, 8);
	put(page + 8190, 0xF093, 2);
	CHECK_BITS(page, context_of(0, 2, 0), INDEX_HOLE, {8188, 0, 1});
	/* the revmap has its content where others have a hole */
	make_page(page, 0, 8184, 8);
	put(page + 8190, 0xF092, 2);
	check_bits(page, context_of(0, 1, 0), NULL, 0);
}

static void
other_page(void **state)
{
	uint8_t		page[NEON_BLCKSZ];

	make_index(page, 8);
	put(page + 8190, 0xFF83, 2);	/* bloom */
	CHECK_BITS(page, context_of(0, 1, 0), INDEX_HOLE);
	make_index(page, 24);
	CHECK_BITS(page, context_of(0, 1, 0), INDEX_HOLE);
	/* a header that makes no sense: everything counts */
	make_index(page, 8);
	put(page + 14, 20, 2);
	check_bits(page, context_of(0, 1, 0), NULL, 0);
}

/* ---- sequence ---- */

#define SEQ		8136
#define SEQ_DATA (SEQ + 24)

static void
make_sequence(uint8_t *page, int64_t last_value, int64_t log_cnt)
{
	make_page(page, 1, SEQ, 8);
	line_pointer(page, 1, SEQ, 1, 24 + 17);
	page[SEQ + 22] = 24;
	put(page + SEQ_DATA, (uint64_t) last_value, 8);
	put(page + SEQ_DATA + 8, (uint64_t) log_cnt, 8);
	page[SEQ_DATA + 16] = 1;
	put(page + 8184, 0x1717, 4);
}

static void
sequence_page(void **state)
{
	uint8_t		page[NEON_BLCKSZ],
				theirs[NEON_BLCKSZ];

	/* nothing taken ahead: nothing may differ but the hole */
	make_sequence(page, 7, 0);
	CHECK_BITS(page, context_of(0, 0, 0), {28, 0, (SEQ - 28) * 8});

	/* logged up to 39; 7 was given out, steps of 1 */
	make_sequence(page, 7, 32);
	make_sequence(theirs, 39, 0);
	assert_true(same(page, theirs, context_of(0, 0, 0)));
	make_sequence(theirs, 39, 1);
	assert_false(same(page, theirs, context_of(0, 0, 0)));
	make_sequence(theirs, 38, 0);
	assert_false(same(page, theirs, context_of(0, 0, 0)));
	make_sequence(theirs, 7, 0);
	assert_false(same(page, theirs, context_of(0, 0, 0)));
	/* steps of -5 */
	make_sequence(theirs, 7 - 160, 0);
	assert_true(same(page, theirs, context_of(0, 0, 0)));
	/* beside it: is_called, and the tuple's header */
	make_sequence(theirs, 39, 0);
	theirs[SEQ_DATA + 16] = 0;
	assert_false(same(page, theirs, context_of(0, 0, 0)));
	make_sequence(theirs, 39, 0);
	theirs[SEQ_DATA - 1] ^= 0x80;
	assert_false(same(page, theirs, context_of(0, 0, 0)));
}

/* ---- visibility map, empty pages, LSNs ---- */

static void
visibility_map(void **state)
{
	uint8_t		ours[NEON_BLCKSZ],
				theirs[NEON_BLCKSZ],
				zeros[NEON_BLCKSZ] = {0};

	make_page(ours, 0, NEON_BLCKSZ, 0);
	for (unsigned i = 24; i < NEON_BLCKSZ; i++)
		ours[i] = (uint8_t) (i * 5);
	check_bits(ours, context_of(2, 0, 0), NULL, 0);

	/* a bit too few and one too many in storage */
	memcpy(theirs, ours, NEON_BLCKSZ);
	theirs[100] |= 0x08;
	theirs[100] &= (uint8_t) ~0x10;
	ours[100] &= (uint8_t) ~0x08;
	ours[100] |= 0x10;
	assert_false(same(ours, theirs, context_of(2, 0, NEON_TRUTH_VM_CLEARING)));
	assert_false(same(ours, theirs, context_of(2, 0, NEON_TRUTH_VM_COPIED)));
	assert_true(same(ours, theirs, context_of(2, 0, NEON_TRUTH_VM_COPIED | NEON_TRUTH_VM_CLEARING)));
	theirs[100] |= 0x10;
	assert_true(same(ours, theirs, context_of(2, 0, NEON_TRUTH_VM_CLEARING)));
	theirs[100] &= (uint8_t) ~0x18;
	assert_true(same(ours, theirs, context_of(2, 0, NEON_TRUTH_VM_COPIED)));

	/* a map page that has a header, but no bit */
	make_page(ours, 0, NEON_BLCKSZ, 0);
	memset(ours + 24, 0, NEON_BLCKSZ - 24);
	set_lsn(ours, 0);
	assert_true(same(ours, zeros, context_of(2, 0, 0)));
	set_lsn(ours, PAGE_LSN);
	assert_false(same(ours, zeros, context_of(2, 0, 0)));	/* its last change is missing in storage */
}

static void
empty_pages(void **state)
{
	uint8_t		zeros[NEON_BLCKSZ] = {0},
				bare[NEON_BLCKSZ],
				page[NEON_BLCKSZ];

	make_page(bare, 0, NEON_BLCKSZ, 0);
	set_lsn(bare, 1);
	make_heap(page, 0);
	assert_true(neon_page_is_empty(zeros));
	assert_true(neon_page_is_empty(bare));
	assert_false(neon_page_is_empty(page));
	assert_true(same(zeros, bare, context_of(0, 0, 0)));
	assert_true(same(bare, zeros, context_of(0, 0, 0)));
	assert_false(same(page, zeros, context_of(0, 0, 0)));
	assert_false(same(zeros, page, context_of(0, 0, 0)));
	assert_false(same(bare, page, context_of(0, 0, 0)));
	for (unsigned i = 0; i < NEON_BLCKSZ; i++)
	{
		zeros[i] = 0x40;
		assert_false(neon_page_is_empty(zeros));
		zeros[i] = 0;
	}
	for (unsigned i = 24; i < NEON_BLCKSZ; i++)
	{
		bare[i] = 1;
		assert_false(neon_page_is_empty(bare));
		bare[i] = 0;
	}
	set_lsn(bare, 2);
	assert_false(neon_page_is_empty(bare));
}

static bool
same_with_lsns(void (*make) (uint8_t *page), uint8_t fork, uint64_t our_lsn, uint64_t their_lsn, unsigned flags)
{
	uint8_t		ours[NEON_BLCKSZ],
				theirs[NEON_BLCKSZ];

	make(ours);
	make(theirs);
	set_lsn(ours, our_lsn);
	set_lsn(theirs, their_lsn);
	return same(ours, theirs, context_of(fork, 1, flags));
}

static void
lsn_heap(uint8_t *page)
{
	make_heap(page, 0);
}

static void
lsn_btree(uint8_t *page)
{
	make_index(page, 16);
}

static void
lsns(void **state)
{
	assert_true(same_with_lsns(lsn_heap, 0, PAGE_LSN, PAGE_LSN, 0));
	assert_true(same_with_lsns(lsn_btree, 0, PAGE_LSN, PAGE_LSN, 0));
	/* lower: a record is missing */
	assert_false(same_with_lsns(lsn_heap, 0, PAGE_LSN, PAGE_LSN - 1, 0));
	assert_false(same_with_lsns(lsn_btree, 0, PAGE_LSN, PAGE_LSN - 1, 0));
	/* higher: only where records leave the page's LSN alone, and never above what was asked for */
	assert_true(same_with_lsns(lsn_heap, 0, PAGE_LSN, AS_OF, 0));
	assert_false(same_with_lsns(lsn_heap, 0, PAGE_LSN, AS_OF + 1, 0));
	assert_false(same_with_lsns(lsn_btree, 0, PAGE_LSN, PAGE_LSN + 1, 0));
	/* a page that was written before it was logged */
	assert_true(same_with_lsns(lsn_btree, 0, 1, PAGE_LSN, NEON_TRUTH_NEVER_LOGGED));
	assert_false(same_with_lsns(lsn_btree, 0, 1, AS_OF + 1, NEON_TRUTH_NEVER_LOGGED));
	assert_false(same_with_lsns(lsn_btree, 0, 1, PAGE_LSN, 0));
}

static void
kinds(void **state)
{
	for (neon_page_kind k = NEON_PAGE_HEAP; k <= NEON_PAGE_OTHER; k++)
		assert_non_null(neon_page_kind_name(k));
	assert_string_equal(neon_page_kind_name(NEON_PAGE_OTHER), "other");
	assert_string_equal(neon_page_kind_name(NEON_PAGE_SEQUENCE), "sequence");
}

/* Garbage in either copy: an answer, and nothing read outside (the sanitizers watch). */
static void
garbage(void **state)
{
	uint8_t		ours[NEON_BLCKSZ],
				theirs[NEON_BLCKSZ];
	uint32_t	seed = 12345;

	for (int round = 0; round < 3000; round++)
	{
		neon_page_context context = context_of(round % 2 ? 0 : round % 8, round % 3, round % 16);

		for (unsigned i = 0; i < NEON_BLCKSZ; i++)
		{
			seed = seed * 1664525 + 1013904223;
			ours[i] = (uint8_t) (seed >> 24);
		}
		/* headers that pass the first checks, most of the time */
		put(ours + 12, 24 + (seed >> 8) % 2000, 2);
		put(ours + 14, 2024 + (seed >> 4) % 6000, 2);
		put(ours + 16, NEON_BLCKSZ - 8 * ((seed >> 6) % 4), 2);
		memcpy(theirs, ours, NEON_BLCKSZ);
		set_lsn(ours, PAGE_LSN);
		set_lsn(theirs, PAGE_LSN);
		if (neon_page_kind_of(ours, context.fork) != NEON_PAGE_SEQUENCE)
			assert_true(same(ours, theirs, context));
		theirs[(seed >> 3) % NEON_BLCKSZ] ^= 1;
		(void) same(ours, theirs, context);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(heap_page),
		cmocka_unit_test(heap_frozen_in_one),
		cmocka_unit_test(heap_speculative),
		cmocka_unit_test(heap_line_pointers),
		cmocka_unit_test(btree_page),
		cmocka_unit_test(hash_page),
		cmocka_unit_test(gist_page),
		cmocka_unit_test(gin_page),
		cmocka_unit_test(gin_deleted_page),
		cmocka_unit_test(spgist_page),
		cmocka_unit_test(brin_page),
		cmocka_unit_test(other_page),
		cmocka_unit_test(sequence_page),
		cmocka_unit_test(visibility_map),
		cmocka_unit_test(empty_pages),
		cmocka_unit_test(lsns),
		cmocka_unit_test(kinds),
		cmocka_unit_test(garbage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
