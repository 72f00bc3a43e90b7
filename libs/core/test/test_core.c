/*
 * test_core.c - LSN and id text, record starts, key order and codec, byte codec, CRC.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "neon_core.h"
#include "neon_warm.h"

#define SEGMENT	(UINT32_C(1024) * 1024)

static void
lsn_text(void **state)
{
	neon_lsn	lsn;
	char		text[32];
	static const char *const bad[] = {"", "/", "1/", "/1", "1", "1/2 ", " 1/2", "1/2/3", "g/1", "1/g", "123456789/0", "0/123456789"};

	assert_true(neon_lsn_parse("16/B374D848", &lsn));
	assert_int_equal(lsn, UINT64_C(0x16B374D848));
	snprintf(text, sizeof(text), NEON_LSN_FMT, NEON_LSN_ARGS(lsn));
	assert_string_equal(text, "16/B374D848");
	assert_true(neon_lsn_parse("ffffffff/00000001", &lsn));
	assert_int_equal(lsn, UINT64_C(0xFFFFFFFF00000001));
	assert_true(neon_lsn_parse("0/0", &lsn));
	assert_int_equal(lsn, 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(neon_lsn_parse(bad[i], &lsn));
}

static void
record_start(void **state)
{
	assert_int_equal(neon_lsn_record_start(SEGMENT, SEGMENT), SEGMENT + 40);
	assert_int_equal(neon_lsn_record_start(SEGMENT + 8, SEGMENT), SEGMENT + 40);
	assert_int_equal(neon_lsn_record_start(SEGMENT + 40, SEGMENT), SEGMENT + 40);
	assert_int_equal(neon_lsn_record_start(SEGMENT + 41, SEGMENT), SEGMENT + 48);
	assert_int_equal(neon_lsn_record_start(SEGMENT + 8192, SEGMENT), SEGMENT + 8192 + 24);
	assert_int_equal(neon_lsn_record_start(SEGMENT + 8192 + 24, SEGMENT), SEGMENT + 8192 + 24);
	/* alignment carries it over a page and a segment end */
	assert_int_equal(neon_lsn_record_start(SEGMENT + 8191, SEGMENT), SEGMENT + 8192 + 24);
	assert_int_equal(neon_lsn_record_start(2 * SEGMENT - 1, SEGMENT), 2 * SEGMENT + 40);
	assert_int_equal(neon_lsn_record_start(2 * SEGMENT - 8, SEGMENT), 2 * SEGMENT - 8);
}

static void
id_text(void **state)
{
	const char *text = "0123456789abcdef00ff102030405060";
	char		back[NEON_ID_TEXT];
	neon_id		id,
				other;

	assert_true(neon_id_parse(text, &id));
	neon_id_print(&id, back);
	assert_string_equal(text, back);
	assert_true(neon_id_parse("0123456789ABCDEF00FF102030405060", &other));
	assert_true(neon_id_equal(&id, &other));
	other.b[15] ^= 1;
	assert_false(neon_id_equal(&id, &other));
	assert_false(neon_id_is_zero(&id));
	assert_true(neon_id_parse("00000000000000000000000000000000", &id));
	assert_true(neon_id_is_zero(&id));
	assert_false(neon_id_parse("0123456789abcdef00ff10203040506", &id));
	assert_false(neon_id_parse("0123456789abcdef00ff1020304050600", &id));
	assert_false(neon_id_parse("0123456789abcdef00ff10203040506x", &id));
	assert_false(neon_id_parse("", &id));
}

/* Keys in their order: each field outweighs all fields behind it. */
static const neon_key ordered[] = {
	{.kind = NEON_KEY_REL_BLOCK},
	{.kind = NEON_KEY_REL_BLOCK,.blk = 1},
	{.kind = NEON_KEY_REL_BLOCK,.blk = 256},
	{.kind = NEON_KEY_REL_BLOCK,.blk = UINT32_MAX},
	{.kind = NEON_KEY_REL_BLOCK,.fork = 1},
	{.kind = NEON_KEY_REL_BLOCK,.fork = 3,.blk = 7},
	{.kind = NEON_KEY_REL_BLOCK,.rel = 1},
	{.kind = NEON_KEY_REL_BLOCK,.rel = 0x01020304,.blk = 9},
	{.kind = NEON_KEY_REL_BLOCK,.db = 1},
	{.kind = NEON_KEY_REL_BLOCK,.spc = 1},
	{.kind = NEON_KEY_REL_BLOCK,.spc = 1663,.db = 5,.rel = 16384,.blk = 3},
	{.kind = NEON_KEY_REL_BLOCK,.spc = UINT32_MAX,.db = UINT32_MAX,.rel = UINT32_MAX,.fork = 3,.blk = UINT32_MAX},
	{.kind = NEON_KEY_REL_SIZE},
	{.kind = NEON_KEY_REPL_ORIGIN,.rel = 1},
};

static void
key_order(void **state)
{
	const int	n = sizeof(ordered) / sizeof(ordered[0]);

	for (int i = 0; i < n; i++)
		for (int j = 0; j < n; j++)
		{
			uint8_t		a[NEON_KEY_BYTES],
						b[NEON_KEY_BYTES];
			int			expected = (i > j) - (i < j);
			int			c;

			neon_key_encode(&ordered[i], a);
			neon_key_encode(&ordered[j], b);
			c = memcmp(a, b, sizeof(a));
			assert_int_equal((c > 0) - (c < 0), expected);
			assert_int_equal(neon_key_compare(&ordered[i], &ordered[j]), expected);
			assert_int_equal(neon_key_hash(&ordered[i]) == neon_key_hash(&ordered[j]), i == j);
		}
}

static void
key_codec(void **state)
{
	uint8_t		bytes[NEON_KEY_BYTES];
	neon_key	back;

	for (size_t i = 0; i < sizeof(ordered) / sizeof(ordered[0]); i++)
	{
		neon_key_encode(&ordered[i], bytes);
		assert_true(neon_key_decode(bytes, &back));
		assert_memory_equal(&back, &ordered[i], sizeof(back));
	}
	bytes[0] = NEON_KEY_KIND_COUNT;
	assert_false(neon_key_decode(bytes, &back));
	bytes[0] = NEON_KEY_REL_BLOCK;
	bytes[13] = 4;				/* fork */
	assert_false(neon_key_decode(bytes, &back));
}

/* The hash is in files: these values must never change. */
static void
key_hash_is_stable(void **state)
{
	assert_int_equal(neon_key_hash(&ordered[0]), UINT64_C(0x4E17CF67001B3979));
	assert_int_equal(neon_key_hash(&ordered[10]), UINT64_C(0x4DD31DEBDF3559E1));
}

static void
writer_bounds(void **state)
{
	uint8_t		buf[16];
	neon_writer w;

	memset(buf, 0xEE, sizeof(buf));
	neon_writer_init(&w, buf, 15);
	neon_put_u8(&w, 1);
	neon_put_u16(&w, 0x0203);
	neon_put_u32(&w, 0x04050607);
	neon_put_u64(&w, UINT64_C(0x08090A0B0C0D0E0F));
	assert_true(w.ok);
	assert_int_equal(w.len, 15);
	for (int i = 0; i < 15; i++)
		assert_int_equal(buf[i], i + 1);
	neon_put_bytes(&w, NULL, 0);
	assert_true(w.ok);
	neon_put_u8(&w, 9);
	assert_false(w.ok);
	assert_int_equal(buf[15], 0xEE);
	/* once failed, it writes nothing more, even what would fit */
	neon_writer_init(&w, buf, 4);
	neon_put_u64(&w, 1);
	neon_put_u8(&w, 0x77);
	assert_false(w.ok);
	assert_int_equal(w.len, 0);
	assert_int_equal(buf[0], 1);
}

static void
reader_bounds(void **state)
{
	uint8_t		buf[15];
	uint8_t		copy[4];
	neon_reader r;

	for (int i = 0; i < 15; i++)
		buf[i] = (uint8_t) (i + 1);
	neon_reader_init(&r, buf, sizeof(buf));
	assert_int_equal(neon_get_u8(&r), 1);
	assert_int_equal(neon_get_u16(&r), 0x0203);
	assert_int_equal(neon_get_u32(&r), 0x04050607);
	assert_int_equal(neon_reader_left(&r), 8);
	assert_int_equal(neon_get_u64(&r), UINT64_C(0x08090A0B0C0D0E0F));
	assert_true(r.ok);
	assert_non_null(neon_get_bytes(&r, 0));
	assert_int_equal(neon_get_u8(&r), 0);
	assert_false(r.ok);
	assert_int_equal(neon_reader_left(&r), 0);

	/* everything after the first failure is zero */
	neon_reader_init(&r, buf, 7);
	assert_int_equal(neon_get_u64(&r), 0);
	assert_int_equal(neon_get_u8(&r), 0);
	assert_null(neon_get_bytes(&r, 1));
	memset(copy, 1, sizeof(copy));
	neon_get_copy(&r, copy, sizeof(copy));
	assert_int_equal(copy[3], 0);
	assert_false(r.ok);
	neon_reader_init(&r, buf, 7);
	assert_null(neon_get_bytes(&r, SIZE_MAX));
}

static void
crc(void **state)
{
	uint8_t		data[1000];

	/* RFC 3720, B.4 */
	assert_int_equal(neon_crc32c(0, "123456789", 9), 0xE3069283);
	memset(data, 0, 32);
	assert_int_equal(neon_crc32c(0, data, 32), 0x8A9136AA);
	memset(data, 0xFF, 32);
	assert_int_equal(neon_crc32c(0, data, 32), 0x62A8AB43);
	assert_int_equal(neon_crc32c(0, data, 0), 0);

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t) (i * 7 + i / 11);
	for (size_t cut = 0; cut <= sizeof(data); cut += 13)
		assert_int_equal(neon_crc32c(neon_crc32c(0, data, cut), data + cut, sizeof(data) - cut),
						 neon_crc32c(0, data, sizeof(data)));
}

static void
warm_header(void **state)
{
	const char *tenant = "00112233445566778899aabbccddeeff",
			   *timeline = "ffeeddccbbaa99887766554433221100",
			   *boot = "01234567-89ab-cdef-0123-456789abcdef";
	neon_warm_header h,
				bad;

	memset(&h, 0, sizeof(h));
	memcpy(h.tenant, tenant, sizeof(h.tenant));
	memcpy(h.timeline, timeline, sizeof(h.timeline));
	memcpy(h.boot_id, boot, sizeof(h.boot_id));
	h.checkpoint_lsn = 1000;
	h.end_lsn = 1120;
	neon_warm_finish(&h);
	assert_true(neon_warm_valid(&h));
	assert_true(neon_warm_matches(&h, tenant, timeline, boot));
	assert_false(neon_warm_matches(&h, timeline, timeline, boot));
	assert_false(neon_warm_matches(&h, tenant, tenant, boot));
	assert_false(neon_warm_matches(&h, tenant, timeline, "01234567-89ab-cdef-0123-456789abcdee"));

	/* no byte can change unnoticed */
	for (size_t i = 0; i < sizeof(h); i++)
		for (int bit = 0; bit < 8; bit++)
		{
			bad = h;
			((uint8_t *) &bad)[i] ^= (uint8_t) (1 << bit);
			assert_false(neon_warm_valid(&bad));
		}
	/* nor is one taken that makes no sense, whatever its checksum */
	bad = h;
	bad.end_lsn = bad.checkpoint_lsn;
	neon_warm_finish(&bad);
	assert_false(neon_warm_valid(&bad));
	bad = h;
	bad.tenant[32] = 'x';
	neon_warm_finish(&bad);
	assert_false(neon_warm_valid(&bad));
	bad = h;
	bad.boot_id[0] = '\0';
	neon_warm_finish(&bad);
	assert_false(neon_warm_valid(&bad));
	bad = h;
	bad.entries = -1;
	neon_warm_finish(&bad);
	assert_false(neon_warm_valid(&bad));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lsn_text),
		cmocka_unit_test(record_start),
		cmocka_unit_test(id_text),
		cmocka_unit_test(key_order),
		cmocka_unit_test(key_codec),
		cmocka_unit_test(key_hash_is_stable),
		cmocka_unit_test(writer_bounds),
		cmocka_unit_test(reader_bounds),
		cmocka_unit_test(crc),
		cmocka_unit_test(warm_header),
	};

	return cmocka_run_group_tests_name("core", tests, NULL, NULL);
}
