/*
 * test_wal_fabricate.c - fabricated segments: read back, byte for byte where nothing should be, at every place of a page.
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
#define BASE	(UINT64_C(0x700000000) + 3 * SEGMENT)
#define SYSID	UINT64_C(0x6D1234567890ABCD)	/* the generator's */

static void *
std_realloc(void *p, size_t n, void *arg)
{
	if (n == 0)
	{
		free(p);
		return NULL;
	}
	return realloc(p, n);
}

/* Zeroes a record, its padding excluded, and all page headers that are where they must be; then all must be zero. */
static void
assert_nothing_else(uint8_t *out, uint32_t segments, neon_lsn start, uint32_t record_len)
{
	size_t		at = (size_t) (start - BASE);
	size_t		page = at / 8192 * 8192;

	memset(out, 0, 40);
	if (page > 0)
		memset(out + page, 0, page % SEGMENT == 0 ? 40 : 24);
	while (record_len > 0)
	{
		if (at % 8192 == 0)
		{
			size_t		header = at % SEGMENT == 0 ? 40 : 24;

			memset(out + at, 0, header);
			at += header;
		}
		out[at++] = 0;
		record_len--;
	}
	for (size_t i = 0; i < (size_t) segments * SEGMENT; i++)
		assert_int_equal(out[i], 0);
}

static void
check(neon_lsn at, uint32_t payload_len)
{
	uint8_t    *out = calloc(2, SEGMENT);
	uint8_t    *payload = malloc(payload_len);
	uint32_t	head = payload_len <= 255 ? 26 : 29;
	uint32_t	segments = 0;
	neon_lsn	end,
				from;
	neon_wal_reader r;
	neon_wal_record rec;
	neon_wal_parsed parsed;

	for (uint32_t i = 0; i < payload_len; i++)
		payload[i] = (uint8_t) (i * 3 + 1);
	end = neon_wal_fabricate(at, at - 1000, 0, 0, payload, payload_len, SYSID, 1, SEGMENT, out, 2 * SEGMENT, &segments);
	assert_true(end > at);
	assert_int_equal(segments, (end - BASE + SEGMENT - 1) / SEGMENT);

	neon_wal_reader_init(&r, SEGMENT, std_realloc, NULL);
	/* no record ends inside a page header, so a reader cannot begin there */
	from = at % 8192 != 0 && neon_lsn_record_start(at, SEGMENT) % 8192 <= 40 ? neon_lsn_record_start(at, SEGMENT) : at;
	neon_wal_reader_begin(&r, from);
	neon_wal_reader_feed(&r, out + (from - BASE), (size_t) segments * SEGMENT - (size_t) (from - BASE));
	assert_int_equal(neon_wal_reader_next(&r, &rec), NEON_WAL_OK);
	assert_int_equal(rec.start, neon_lsn_record_start(at, SEGMENT));
	assert_int_equal(rec.end, end);
	assert_int_equal(rec.prev, at - 1000);
	assert_int_equal(rec.rmid, 0);
	assert_int_equal(rec.info, 0);
	assert_int_equal(rec.xid, 0);
	assert_int_equal(rec.len, head + payload_len);
	assert_int_equal(neon_wal_parse(rec.bytes, rec.len, &parsed), NEON_WAL_OK);
	assert_int_equal(parsed.main_len, payload_len);
	assert_memory_equal(parsed.main_data, payload, payload_len);
	if (end % SEGMENT != 0)
		assert_int_equal(neon_wal_reader_next(&r, &rec), NEON_WAL_ZEROES);
	neon_wal_reader_free(&r);

	/* the same segment's first page header as a server writes it */
	{
		neon_lsn	start = neon_lsn_record_start(at, SEGMENT);
		generator	g;

		/* what stands before the record on its page passes for the end of an older one */
		generator_init(&g, SEGMENT, BASE);
		page_header(&g, start < BASE + 8192 ? (uint32_t) (start - BASE) - 40 : 0);
		assert_memory_equal(out, g.bytes, 40);
		generator_free(&g);
		if (start >= BASE + 8192)
		{
			generator_init(&g, SEGMENT, start / 8192 * 8192);
			page_header(&g, (uint32_t) (start % 8192) - 24);
			assert_memory_equal(out + (g.base - BASE), g.bytes, 24);
			generator_free(&g);
		}
	}
	assert_nothing_else(out, segments, neon_lsn_record_start(at, SEGMENT), head + payload_len);
	free(payload);
	free(out);
}

static void
every_place(void **state)
{
	for (int page = 0; page < 4; page++)
		for (int offset = 0; offset < 8192; offset += offset < 64 || offset >= 8000 ? 1 : 504)
		{
			if (page == 3 && offset > 8184)
				continue;		/* aligned, that is the next segment, whose base differs */
			check(BASE + page * 8192 + offset, 88);
		}
	check(BASE + 100, 255);
	check(BASE + 100, 256);
	check(BASE + 100, 20000);
}

/* What the server's own writer would have laid down. */
static void
same_as_a_server(void **state)
{
	for (uint32_t room = 8; room <= 160; room += 8)
	{
		generator	g;
		uint8_t		out[2 * SEGMENT] = {0};
		uint8_t    *rec;
		uint8_t		payload[88];
		uint32_t	segments,
					len = 114,
					crc;
		uint64_t	start;

		generator_init(&g, SEGMENT, BASE);
		fill_to(&g, 8000);
		put_record(&g, 8192 - 24 + 192 - room, 1, 0, 5);
		for (int i = 0; i < 88; i++)
			payload[i] = (uint8_t) i;
		rec = make_record(len, g.last_start, 0, 0x10, 0);
		rec[24] = 255;
		rec[25] = 88;
		memcpy(rec + 26, payload, 88);
		crc = slow_crc32c(slow_crc32c(0, rec + 24, len - 24), rec, 20);
		memcpy(rec + 20, &crc, 4);
		start = put_part(&g, rec, len, len);
		free(rec);

		assert_int_not_equal(neon_wal_fabricate(start, g.last_start, 0, 0x10, payload, 88, SYSID, 1, SEGMENT,
												out, sizeof(out), &segments), 0);
		assert_int_equal(segments, room < 114 ? 2 : 1);
		assert_memory_equal(out + (start - BASE), g.bytes + (start - BASE), g.len - (size_t) (start - BASE));
		generator_free(&g);
	}
}

static void
too_small(void **state)
{
	uint8_t		out[SEGMENT] = {0};
	uint8_t		payload[88] = {0};
	uint32_t	segments;

	assert_int_equal(neon_wal_fabricate(BASE, 0, 0, 0, payload, 88, SYSID, 1, SEGMENT, out, SEGMENT - 1, &segments), 0);
	assert_int_not_equal(neon_wal_fabricate(BASE, 0, 0, 0, payload, 88, SYSID, 1, SEGMENT, out, SEGMENT, &segments), 0);
	assert_int_equal(neon_wal_fabricate(BASE + SEGMENT - 16, 0, 0, 0, payload, 88, SYSID, 1, SEGMENT, out, SEGMENT, &segments), 0);
	assert_int_equal(segments, 2);
}

static void
leading_headers(void **state)
{
	uint8_t		first[40],
				own[40];
	size_t		first_len,
				own_len;
	uint32_t	offset;
	generator	g;

	generator_init(&g, SEGMENT, BASE);
	put_record(&g, 8192 - 40, 3, 0, 1);
	page_header(&g, 80);

	neon_wal_leading_headers(BASE + 8192 + 104, SYSID, 1, SEGMENT, first, &first_len, own, &own_len, &offset);
	assert_int_equal(first_len, 40);
	assert_memory_equal(first, g.bytes, 40);
	assert_int_equal(own_len, 24);
	assert_int_equal(offset, 8192);
	assert_memory_equal(own, g.bytes + 8192, 24);

	/* the first page is its own page */
	neon_wal_leading_headers(BASE + 104, SYSID, 1, SEGMENT, first, &first_len, own, &own_len, &offset);
	assert_int_equal(first_len, 40);
	assert_int_equal(first[16], 64);	/* xlp_rem_len */
	assert_int_equal(own_len, 0);
	assert_int_equal(offset, 0);

	/* at a page boundary the log brings the header itself */
	neon_wal_leading_headers(BASE + 8192, SYSID, 1, SEGMENT, first, &first_len, own, &own_len, &offset);
	assert_int_equal(first_len, 40);
	assert_int_equal(own_len, 0);
	neon_wal_leading_headers(BASE, SYSID, 1, SEGMENT, first, &first_len, own, &own_len, &offset);
	assert_int_equal(first_len, 0);
	assert_int_equal(own_len, 0);
	generator_free(&g);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_place),
		cmocka_unit_test(same_as_a_server),
		cmocka_unit_test(too_small),
		cmocka_unit_test(leading_headers),
	};

	return cmocka_run_group_tests_name("fabricated WAL", tests, NULL, NULL);
}
