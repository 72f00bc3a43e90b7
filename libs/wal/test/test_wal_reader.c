/*
 * test_wal_reader.c - reassembly: every split of a record over pages, segments and pieces of input; damage; aborted records.
 *
 * Segments are 32 KB here, so that segment ends are frequent; the reader does not care.
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
#include "wal_generator.h"

#define SEGMENT	UINT32_C(32768)
#define BASE	(UINT64_C(0x100000000) + 5 * SEGMENT)
#define WHOLE	SIZE_MAX
#define RANDOM	0				/* pieces of random size */

static uint64_t seed = 3;

static uint32_t
rnd(uint32_t below)
{
	seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (uint32_t) (seed >> 33) % below;
}

static size_t largest_allocation;
static size_t allocation_limit = SIZE_MAX;

static void *
limited_realloc(void *p, size_t n, void *arg)
{
	if (n == 0)
	{
		free(p);
		return NULL;
	}
	if (n > largest_allocation)
		largest_allocation = n;
	return n > allocation_limit ? NULL : realloc(p, n);
}

/* What a run brought. */
typedef struct result
{
	neon_wal_status status;
	int			count;
	neon_wal_record last;
	uint32_t	digest;			/* over all fields and bytes of all records */
	neon_lsn	record_end;
	neon_lsn	record_start;
} result;

static void
note(result *res, const neon_wal_record *rec)
{
	uint64_t	fields[] = {rec->start, rec->end, rec->len, rec->xid, rec->prev, rec->info, rec->rmid};
	uint32_t	len;

	assert_int_equal((uintptr_t) rec->bytes % 8, 0);
	memcpy(&len, rec->bytes, 4);
	assert_int_equal(len, rec->len);
	res->digest = slow_crc32c(res->digest, (const uint8_t *) fields, sizeof(fields));
	res->digest = slow_crc32c(res->digest, rec->bytes, rec->len);
	res->last = *rec;
	res->last.bytes = NULL;
	res->count++;
}

/* Feeds bytes [from, to) in pieces; each piece is in memory of its own, so that reading past it is seen. */
static void
feed(neon_wal_reader *r, const uint8_t *bytes, size_t len, size_t piece, result *res)
{
	res->status = NEON_WAL_NEED_MORE;
	for (size_t at = 0; at < len && res->status == NEON_WAL_NEED_MORE;)
	{
		size_t		n = piece == RANDOM ? 1 + rnd(rnd(20) == 0 ? 9000 : 60) : piece;
		size_t		shift = rnd(2) * rnd(8);	/* input need not be aligned */
		uint8_t    *copy;
		neon_wal_record rec;

		if (n > len - at)
			n = len - at;
		copy = malloc(shift + n);
		memcpy(copy + shift, bytes + at, n);
		neon_wal_reader_feed(r, copy + shift, n);
		while ((res->status = neon_wal_reader_next(r, &rec)) == NEON_WAL_OK)
			note(res, &rec);
		free(copy);
		at += n;
		if (res->status == NEON_WAL_NEED_MORE)
			assert_int_equal(neon_wal_reader_next(r, &rec), NEON_WAL_NEED_MORE);
		else
			assert_int_equal(neon_wal_reader_next(r, &rec), res->status);
	}
}

/* Everything the generator wrote from `from` on. */
static result
run(const generator *g, neon_lsn from, size_t piece)
{
	neon_wal_reader r;
	result		res = {0};

	neon_wal_reader_init(&r, g->segment_bytes, limited_realloc, NULL);
	r.check_link = true;
	neon_wal_reader_begin(&r, from);
	feed(&r, g->bytes + (from - g->base), g->len - (from - g->base), piece, &res);
	if (res.status == NEON_WAL_NEED_MORE)
		assert_int_equal(r.pos, generator_lsn(g));
	res.record_end = r.record_end;
	res.record_start = r.record_start;
	neon_wal_reader_free(&r);
	return res;
}

static void
assert_same(const result *a, const result *b)
{
	assert_int_equal(a->status, b->status);
	assert_int_equal(a->count, b->count);
	assert_int_equal(a->digest, b->digest);
	assert_int_equal(a->record_end, b->record_end);
	assert_int_equal(a->record_start, b->record_start);
}

/* A record of `len` bytes that begins `room` bytes before the end of a page, and one after it; read in all ways. */
static void
check_split(uint32_t fills, uint32_t room, uint32_t len)
{
	generator	g;
	uint64_t	from,
				start,
				end;
	result		whole,
				other;

	generator_init(&g, SEGMENT, BASE);
	for (uint32_t i = 1; i < fills; i++)
		fill_to(&g, 4096);
	fill_to(&g, 8192 - room);
	from = g.last_start;
	start = put_record(&g, len, 10, 0x20, 77);
	end = generator_lsn(&g);
	put_record(&g, 40, 10, 0, 78);

	whole = run(&g, start, WHOLE);
	assert_int_equal(whole.status, NEON_WAL_NEED_MORE);
	assert_int_equal(whole.count, 2);
	assert_int_equal(whole.record_start, g.last_start);
	assert_int_equal(whole.record_end, generator_lsn(&g));
	other = run(&g, start, 1);
	assert_same(&whole, &other);
	other = run(&g, start, RANDOM);
	assert_same(&whole, &other);
	/* from its end only the second is seen */
	other = run(&g, end, 1);
	assert_int_equal(other.count, 1);
	assert_int_equal(other.status, NEON_WAL_NEED_MORE);
	/* and from the record before, all three */
	other = run(&g, from, WHOLE);
	assert_int_equal(other.count, 3);
	generator_free(&g);
}

static void
every_split(void **state)
{
	/* record starts at each aligned place of the last bytes of a page; sizes so that each byte of it comes last on the page */
	for (uint32_t fills = 1; fills <= 2; fills++)	/* the second ends on the first page of the next segment */
		for (uint32_t room = 8; room <= 96; room += 8)
			for (uint32_t len = 24; len <= 112; len++)
				check_split(fills, room, len);
}

/* fill_to from a fresh generator ends on the third page of four; the record behind it comes to the segment's end. */
static void
split_at_segment_end(void **state)
{
	for (uint32_t room = 8; room <= 64; room += 8)
		for (uint32_t len = 24; len <= 96; len += 1)
		{
			generator	g;
			result		whole,
						other;

			generator_init(&g, SEGMENT, BASE);
			fill_to(&g, 8000);
			put_record(&g, 8192 - 24 + 192 - room, 1, 0, 5);
			assert_int_equal(generator_lsn(&g) % SEGMENT, SEGMENT - room);
			put_record(&g, len, 10, 0, 6);
			put_record(&g, 100, 10, 0, 7);
			assert_true(generator_lsn(&g) > BASE + SEGMENT);
			whole = run(&g, BASE, WHOLE);
			assert_int_equal(whole.count, 4);
			assert_int_equal(whole.status, NEON_WAL_NEED_MORE);
			other = run(&g, BASE, RANDOM);
			assert_same(&whole, &other);
			generator_free(&g);
		}
}

static void
long_random_log(void **state)
{
	for (int round = 0; round < 20; round++)
	{
		generator	g;
		int			records = 0;
		result		whole,
					other;

		generator_init(&g, SEGMENT, BASE);
		while (g.len < 20 * SEGMENT)
		{
			uint32_t	kind = rnd(100);

			if (kind == 0)
				put_switch(&g);
			else if (kind < 4)
				put_record(&g, 24 + rnd(3 * SEGMENT), 10, 0, rnd(1000));
			else
				put_record(&g, 24 + rnd(kind < 30 ? 9000 : 300), (uint8_t) (1 + rnd(20)), (uint8_t) rnd(256), rnd(1000));
			records++;
		}
		whole = run(&g, BASE, WHOLE);
		assert_int_equal(whole.status, NEON_WAL_NEED_MORE);
		assert_int_equal(whole.count, records);
		assert_int_equal(whole.record_start, g.last_start);
		other = run(&g, BASE, RANDOM);
		assert_same(&whole, &other);
		if (round == 0)
		{
			other = run(&g, BASE, 1);
			assert_same(&whole, &other);
		}
		generator_free(&g);
	}
}

/* The server's EndRecPtr of a switch is the next segment, also when the record ends exactly there. */
static void
switches(void **state)
{
	for (uint32_t room = 24; room <= 200; room += 8)
	{
		generator	g;
		uint64_t	start;
		result		res;

		generator_init(&g, SEGMENT, BASE);
		fill_to(&g, 8000);
		put_record(&g, 8192 - 24 + 192 - room, 1, 0, 5);
		start = put_switch(&g);
		assert_int_equal(generator_lsn(&g), BASE + SEGMENT);
		res = run(&g, start, 1);
		assert_int_equal(res.status, NEON_WAL_NEED_MORE);
		assert_int_equal(res.count, 1);
		assert_int_equal(res.last.end, BASE + SEGMENT);
		put_record(&g, 50, 3, 0, 1);
		for (int i = 0; i < 3; i++)
		{
			res = run(&g, start, i == 0 ? 1 : i == 1 ? RANDOM : WHOLE);
			assert_int_equal(res.count, 2);
			assert_int_equal(res.last.start, BASE + SEGMENT + 40);
			assert_int_equal(res.status, NEON_WAL_NEED_MORE);
		}
		generator_free(&g);
	}
}

/* The rest of a switched segment is skipped whatever it holds: no reader looks at it. */
static void
rest_of_switched_segment_is_ignored(void **state)
{
	generator	g;
	uint64_t	start,
				end;
	result		res;

	generator_init(&g, SEGMENT, BASE);
	start = put_switch(&g);
	end = generator_lsn(&g);
	put_record(&g, 50, 3, 0, 1);
	memset(g.bytes + (start - BASE) + 24, 0xAB, end - start - 24);
	res = run(&g, BASE, RANDOM);
	assert_int_equal(res.count, 2);
	generator_free(&g);
}

static void
where_one_can_begin(void **state)
{
	generator	g;
	uint64_t	second;
	result		res;
	neon_wal_reader r;
	neon_wal_record rec;

	generator_init(&g, SEGMENT, BASE);
	put_record(&g, 8192 - 40, 3, 0, 1);	/* fills the first page exactly */
	assert_int_equal(generator_lsn(&g) % 8192, 0);
	second = put_record(&g, 45, 3, 0, 1);
	put_record(&g, 50, 3, 0, 2);

	res = run(&g, BASE, 1);
	assert_int_equal(res.count, 3);
	res = run(&g, BASE + 40, 1);	/* right behind a page header */
	assert_int_equal(res.count, 3);
	res = run(&g, BASE + 8192, 1);	/* a page boundary */
	assert_int_equal(res.count, 2);
	res = run(&g, second, 1);
	assert_int_equal(res.count, 2);
	res = run(&g, second + 45, 1);	/* a record's end before its padding */
	assert_int_equal(res.count, 1);
	assert_int_equal(res.last.start, second + 48);

	/* inside a page header nothing ends */
	neon_wal_reader_init(&r, SEGMENT, limited_realloc, NULL);
	for (uint64_t at = 1; at < 40; at++)
	{
		neon_wal_reader_begin(&r, BASE + at);
		assert_int_equal(neon_wal_reader_next(&r, &rec), NEON_WAL_BAD_PAGE);
	}
	neon_wal_reader_begin(&r, BASE + 8192 + 23);
	assert_int_equal(neon_wal_reader_next(&r, &rec), NEON_WAL_BAD_PAGE);
	/* begin makes a failed reader usable again */
	neon_wal_reader_begin(&r, BASE);
	neon_wal_reader_feed(&r, g.bytes, g.len);
	assert_int_equal(neon_wal_reader_next(&r, &rec), NEON_WAL_OK);
	/* ... in the middle of anything */
	neon_wal_reader_begin(&r, BASE + 8192);
	neon_wal_reader_feed(&r, g.bytes + 8192, 30);
	assert_int_equal(neon_wal_reader_next(&r, &rec), NEON_WAL_NEED_MORE);
	neon_wal_reader_begin(&r, BASE + 8192);
	neon_wal_reader_feed(&r, g.bytes + 8192, g.len - 8192);
	assert_int_equal(neon_wal_reader_next(&r, &rec), NEON_WAL_OK);
	assert_int_equal(rec.start, second);
	neon_wal_reader_free(&r);
	generator_free(&g);
}

/* A page that begins in the middle of a record is no place to begin. */
static void
begin_inside_a_record(void **state)
{
	generator	g;
	result		res;

	generator_init(&g, SEGMENT, BASE);
	put_record(&g, 20000, 3, 0, 1);
	res = run(&g, BASE + 8192, WHOLE);
	assert_int_equal(res.status, NEON_WAL_BAD_PAGE);
	assert_int_equal(res.count, 0);
	assert_int_equal(res.record_end, BASE + 8192);
	generator_free(&g);
}

/* The server crashed inside a record and went on at the next page. */
static void
aborted_records(void **state)
{
	for (uint32_t pages = 1; pages <= 5; pages++)
		for (uint32_t room = 8; room <= 104; room += 16)
		{
			generator	g;
			uint8_t    *aborted;
			uint32_t	kept = room;
			uint64_t	before;
			result		whole,
						other;

			generator_init(&g, SEGMENT, BASE);
			fill_to(&g, 8192 - room);
			before = g.last_start;
			aborted = make_record(100000, before, 10, 0, 8);
			for (uint32_t i = 1; i < pages; i++)
				kept += 8192 - ((2 + i) % 4 == 0 ? 40 : 24);
			put_part(&g, aborted, 100000, kept);
			assert_int_equal(generator_lsn(&g) % 8192, 0);
			free(aborted);
			g.overwrite = true;
			put_record(&g, 42, 0, 0xD0, 9);	/* XLOG_OVERWRITE_CONTRECORD links to the last complete record */
			put_record(&g, 9000, 10, 0, 10);

			whole = run(&g, BASE, WHOLE);
			assert_int_equal(whole.status, NEON_WAL_NEED_MORE);
			assert_int_equal(whole.count, 3);
			other = run(&g, BASE, 1);
			assert_same(&whole, &other);
			other = run(&g, BASE, RANDOM);
			assert_same(&whole, &other);
			generator_free(&g);
		}
}

/* Any changed bit of a record is noticed; what was complete before stays known. */
static void
damaged_records(void **state)
{
	generator	g;
	uint64_t	start,
				end;

	generator_init(&g, SEGMENT, BASE);
	fill_to(&g, 8192 - 56);
	start = put_record(&g, 300, 10, 0, 77);
	end = generator_lsn(&g);
	put_record(&g, 64, 10, 0, 78);
	for (uint64_t at = start; at < end - 4; at++)	/* without the padding, which nothing covers */
		for (int bit = 0; bit < 8; bit++)
		{
			bool		reserved = at >= BASE + 3 * 8192 + 20 && at < BASE + 3 * 8192 + 24;
			bool		tli = at >= BASE + 3 * 8192 + 4 && at < BASE + 3 * 8192 + 8;
			bool		removable = at == BASE + 3 * 8192 + 2 && bit == 2;
			result		res;

			g.bytes[at - BASE] ^= (uint8_t) (1 << bit);
			res = run(&g, BASE, bit == 0 ? RANDOM : WHOLE);
			g.bytes[at - BASE] ^= (uint8_t) (1 << bit);
			if (reserved || tli || removable)
			{
				/* of the page header: padding, timeline, a hint for tools */
				assert_int_equal(res.count, 3);
				continue;
			}
			assert_int_equal(res.count, 1);
			assert_int_equal(res.record_end, start);
			/* a larger length waits for bytes that do not come, but not past a page header that disagrees */
			assert_true(res.status != NEON_WAL_OK && res.status != NEON_WAL_NEED_MORE);
		}
	generator_free(&g);
}

static result
run_with(const generator *g, uint64_t at, uint64_t value, int bytes)
{
	generator	copy = *g;
	result		res,
				again;

	copy.bytes = malloc(g->len);
	memcpy(copy.bytes, g->bytes, g->len);
	for (int i = 0; i < bytes; i++)
		copy.bytes[at - g->base + i] = (uint8_t) (value >> (8 * i));
	res = run(&copy, g->base, WHOLE);
	again = run(&copy, g->base, 1);
	assert_same(&res, &again);
	free(copy.bytes);
	return res;
}

static void
damaged_headers(void **state)
{
	const uint64_t page = BASE + 8192;
	const uint64_t segment = BASE + SEGMENT;
	generator	g;

	generator_init(&g, SEGMENT, BASE);
	put_record(&g, 2 * SEGMENT, 3, 0, 1);
	assert_int_equal(run(&g, BASE, WHOLE).count, 1);
	assert_int_equal(run_with(&g, page, 0xD10D, 2).status, NEON_WAL_BAD_PAGE);	/* another version's magic */
	assert_int_equal(run_with(&g, page + 2, 0x11, 2).status, NEON_WAL_BAD_PAGE);	/* unknown flag */
	assert_int_equal(run_with(&g, page + 2, 3, 2).status, NEON_WAL_BAD_PAGE);	/* long header inside a segment */
	assert_int_equal(run_with(&g, page + 2, 0, 2).status, NEON_WAL_BAD_PAGE);	/* no continuation */
	assert_int_equal(run_with(&g, page + 8, page + SEGMENT, 8).status, NEON_WAL_BAD_PAGE);	/* a recycled page */
	assert_int_equal(run_with(&g, page + 16, 5, 4).status, NEON_WAL_BAD_PAGE);	/* remaining length */
	assert_int_equal(run_with(&g, page + 16, 0, 4).status, NEON_WAL_BAD_PAGE);
	assert_int_equal(run_with(&g, segment + 2, 1, 2).status, NEON_WAL_BAD_PAGE);	/* short header on a segment */
	assert_int_equal(run_with(&g, segment + 32, 2 * SEGMENT, 4).status, NEON_WAL_BAD_PAGE);
	assert_int_equal(run_with(&g, segment + 36, 4096, 4).status, NEON_WAL_BAD_PAGE);
	/* a first record cannot be continued from a page before */
	assert_int_equal(run_with(&g, BASE + 2, 3, 2).status, NEON_WAL_BAD_PAGE);
	generator_free(&g);
}

static void
zeroes(void **state)
{
	generator	g;
	uint64_t	end;
	result		res;

	/* behind a record, on its page */
	generator_init(&g, SEGMENT, BASE);
	put_record(&g, 100, 3, 0, 1);
	end = generator_lsn(&g);
	raw_little(&g, 0, 8);
	for (int i = 0; i < 2; i++)
	{
		res = run(&g, BASE, i == 0 ? WHOLE : 1);
		assert_int_equal(res.status, NEON_WAL_ZEROES);
		assert_int_equal(res.record_end, end);
	}
	generator_free(&g);

	/* a page that was never written */
	generator_init(&g, SEGMENT, BASE);
	put_record(&g, 8192 - 40, 3, 0, 1);
	end = generator_lsn(&g);
	for (int i = 0; i < 1024; i++)
		raw_little(&g, 0, 8);
	res = run(&g, BASE, 1);
	assert_int_equal(res.status, NEON_WAL_ZEROES);
	assert_int_equal(res.record_end, end);
	generator_free(&g);

	/* the same inside a record */
	generator_init(&g, SEGMENT, BASE);
	put_record(&g, 100, 3, 0, 1);
	end = generator_lsn(&g);
	put_record(&g, 30000, 3, 0, 1);
	memset(g.bytes + 8192, 0, 8192);
	res = run(&g, BASE, WHOLE);
	assert_int_equal(res.status, NEON_WAL_ZEROES);
	assert_int_equal(res.record_end, end);
	generator_free(&g);
}

static void
lengths(void **state)
{
	generator	g;
	uint64_t	start;

	generator_init(&g, SEGMENT, BASE);
	put_record(&g, 100, 3, 0, 1);
	start = put_record(&g, 100, 3, 0, 1);
	put_record(&g, 2 * SEGMENT, 3, 0, 1);
	assert_int_equal(run_with(&g, start, 23, 4).status, NEON_WAL_BAD_LENGTH);
	assert_int_equal(run_with(&g, start, 1, 4).status, NEON_WAL_BAD_LENGTH);
	assert_int_equal(run_with(&g, start, NEON_WAL_MAX_RECORD + 1, 4).status, NEON_WAL_BAD_LENGTH);
	assert_int_equal(run_with(&g, start, UINT32_MAX, 4).status, NEON_WAL_BAD_LENGTH);
	/* a length that could be true allocates no more than what arrives */
	largest_allocation = 0;
	assert_int_equal(run_with(&g, start, NEON_WAL_MAX_RECORD, 4).status, NEON_WAL_BAD_PAGE);
	assert_in_range(largest_allocation, 1, 65536);
	generator_free(&g);
}

static void
links(void **state)
{
	generator	g;
	uint64_t	start;
	uint64_t	truth;
	result		res;
	neon_wal_reader r;

	generator_init(&g, SEGMENT, BASE);
	start = put_record(&g, 100, 3, 0, 1);
	truth = g.last_start;
	g.last_start = start - 8;
	put_record(&g, 100, 3, 0, 1);	/* its CRC fits, its link does not */
	for (int i = 0; i < 2; i++)
	{
		res = run(&g, BASE, i == 0 ? WHOLE : 1);
		assert_int_equal(res.status, NEON_WAL_BAD_LINK);
		assert_int_equal(res.count, 1);
		assert_int_equal(res.record_start, truth);
	}
	/* of the first record after begin nothing is known, except that it cannot link forward */
	res = run(&g, start + 104, 1);
	assert_int_equal(res.count, 1);
	g.last_start = generator_lsn(&g);
	start = put_record(&g, 100, 3, 0, 1);
	res = run(&g, start, 1);
	assert_int_equal(res.status, NEON_WAL_BAD_LINK);

	/* without check_link a wrong link passes */
	neon_wal_reader_init(&r, SEGMENT, limited_realloc, NULL);
	neon_wal_reader_begin(&r, BASE);
	memset(&res, 0, sizeof(res));
	feed(&r, g.bytes, (size_t) (start - BASE), RANDOM, &res);
	assert_int_equal(res.count, 2);
	neon_wal_reader_free(&r);
	generator_free(&g);
}

static void
no_memory(void **state)
{
	generator	g;
	result		res;

	generator_init(&g, SEGMENT, BASE);
	put_record(&g, 100, 3, 0, 1);
	put_record(&g, 100000, 3, 0, 1);
	allocation_limit = 70000;
	res = run(&g, BASE, WHOLE);
	allocation_limit = SIZE_MAX;
	assert_int_equal(res.status, NEON_WAL_NO_SPACE);
	assert_int_equal(res.count, 1);
	generator_free(&g);
}

/* A record within a page and the input, aligned, is not copied. */
static void
in_place(void **state)
{
	generator	g;
	neon_wal_reader r;
	neon_wal_record rec;

	generator_init(&g, SEGMENT, BASE);
	for (int i = 0; i < 20; i++)
		put_record(&g, 100, 3, 0, 1);
	neon_wal_reader_init(&r, SEGMENT, limited_realloc, NULL);
	neon_wal_reader_begin(&r, BASE);
	largest_allocation = 0;
	neon_wal_reader_feed(&r, g.bytes, g.len);
	for (int i = 0; i < 20; i++)
	{
		assert_int_equal(neon_wal_reader_next(&r, &rec), NEON_WAL_OK);
		assert_ptr_equal(rec.bytes, g.bytes + (rec.start - BASE));
	}
	assert_int_equal(largest_allocation, 0);
	neon_wal_reader_free(&r);
	generator_free(&g);
}

/* Bytes that nobody took out are not lost silently. */
static void
fed_too_early(void **state)
{
	generator	g;
	neon_wal_reader r;
	neon_wal_record rec;

	generator_init(&g, SEGMENT, BASE);
	put_record(&g, 100, 3, 0, 1);
	put_record(&g, 100, 3, 0, 1);
	neon_wal_reader_init(&r, SEGMENT, limited_realloc, NULL);
	neon_wal_reader_begin(&r, BASE);
	neon_wal_reader_feed(&r, g.bytes, 200);
	assert_int_equal(neon_wal_reader_next(&r, &rec), NEON_WAL_OK);
	neon_wal_reader_feed(&r, g.bytes + 200, g.len - 200);
	assert_int_equal(neon_wal_reader_next(&r, &rec), NEON_WAL_BAD_CALL);
	assert_int_equal(neon_wal_reader_next(&r, &rec), NEON_WAL_BAD_CALL);
	neon_wal_reader_begin(&r, BASE);
	neon_wal_reader_feed(&r, g.bytes, g.len);
	assert_int_equal(neon_wal_reader_next(&r, &rec), NEON_WAL_OK);
	neon_wal_reader_free(&r);
	generator_free(&g);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_split),
		cmocka_unit_test(split_at_segment_end),
		cmocka_unit_test(long_random_log),
		cmocka_unit_test(switches),
		cmocka_unit_test(rest_of_switched_segment_is_ignored),
		cmocka_unit_test(where_one_can_begin),
		cmocka_unit_test(begin_inside_a_record),
		cmocka_unit_test(aborted_records),
		cmocka_unit_test(damaged_records),
		cmocka_unit_test(damaged_headers),
		cmocka_unit_test(zeroes),
		cmocka_unit_test(lengths),
		cmocka_unit_test(links),
		cmocka_unit_test(no_memory),
		cmocka_unit_test(in_place),
		cmocka_unit_test(fed_too_early),
	};

	return cmocka_run_group_tests_name("WAL reader", tests, NULL, NULL);
}
