/*
 * test_broker.c - the broker's messages: bytes, limits, what is refused.
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

#include "neon_broker.h"

static uint8_t buf[NEON_BROKER_MAX_MESSAGE_BYTES];
static neon_broker_message m;

static neon_broker_entry
sample(uint32_t n)
{
	neon_broker_entry e;

	memset(&e, 0, sizeof(e));
	e.node_id = n;
	memset(e.tenant.b, 0x11, NEON_ID_BYTES);
	memset(e.timeline.b, 0x22, NEON_ID_BYTES);
	e.term = 3;
	e.last_log_term = 2;
	e.flush_lsn = UINT64_C(0x0102030405060708);
	e.commit_lsn = 5;
	e.remote_consistent_lsn = 4;
	e.horizon_lsn = 6;
	strcpy(e.address, "h:1");
	return e;
}

static size_t
one(neon_broker_tag tag, const neon_broker_entry *e)
{
	neon_broker_builder b;

	neon_broker_start(&b, tag, buf);
	assert_true(neon_broker_add(&b, e));
	return neon_broker_finish(&b);
}

static void
bytes(void **state)
{
	static const uint8_t head[] = {'P', 0, 1, 0, 0, 0, 7, 0x11};
	static const uint8_t tail[] = {0, 0, 0, 0, 0, 0, 0, 6, 3, 'h', ':', '1'};
	neon_broker_entry e = sample(7);
	size_t		len = one(NEON_BROKER_PUBLISH, &e);

	assert_int_equal(len, NEON_BROKER_HEAD_BYTES + NEON_BROKER_NAME_BYTES + 48 + 4);
	assert_memory_equal(buf, head, sizeof(head));
	assert_memory_equal(buf + len - sizeof(tail), tail, sizeof(tail));
	assert_true(neon_broker_decode(buf, len, &m));
	assert_int_equal(m.count, 1);
	assert_memory_equal(&m.entries[0], &e, sizeof(e));
}

static void
gone_is_a_name(void **state)
{
	neon_broker_entry e = sample(7);
	size_t		len = one(NEON_BROKER_GONE, &e);

	assert_int_equal(len, NEON_BROKER_HEAD_BYTES + NEON_BROKER_NAME_BYTES);
	assert_true(neon_broker_decode(buf, len, &m));
	assert_true(neon_broker_same_name(&e, &m.entries[0]));
	assert_int_equal(m.entries[0].commit_lsn, 0);
}

static void
full(void **state)
{
	neon_broker_builder b;
	neon_broker_entry e = sample(1);
	size_t		len;

	memset(e.address, 'x', NEON_BROKER_ADDRESS_BYTES - 1);
	neon_broker_start(&b, NEON_BROKER_UPDATE, buf);
	for (uint32_t i = 1; i <= NEON_BROKER_MAX_ENTRIES; i++)
	{
		e.node_id = i;
		assert_true(neon_broker_add(&b, &e));
	}
	assert_false(neon_broker_add(&b, &e));
	len = neon_broker_finish(&b);
	assert_int_equal(len, NEON_BROKER_MAX_MESSAGE_BYTES);
	assert_true(neon_broker_decode(buf, len, &m));
	assert_int_equal(m.count, NEON_BROKER_MAX_ENTRIES);
	assert_int_equal(m.entries[255].node_id, 256);
	assert_false(neon_broker_decode(buf, len - 1, &m));
}

static void
cannot_be_sent(void **state)
{
	neon_broker_builder b;
	neon_broker_entry e = sample(0);

	neon_broker_start(&b, NEON_BROKER_PUBLISH, buf);
	assert_false(neon_broker_add(&b, &e));
	e = sample(1);
	memset(&e.tenant, 0, sizeof(e.tenant));
	assert_false(neon_broker_add(&b, &e));
	e = sample(1);
	strcpy(e.address, "a b");
	assert_false(neon_broker_add(&b, &e));
	memset(e.address, 'x', sizeof(e.address));
	assert_false(neon_broker_add(&b, &e));
	assert_int_equal(b.count, 0);
}

static void
refused(void **state)
{
	neon_broker_entry e = sample(7);
	size_t		len = one(NEON_BROKER_PUBLISH, &e);
	uint8_t		bad[sizeof(buf)];

	for (size_t n = 0; n < len; n++)
		assert_false(neon_broker_decode(buf, n, &m));
	assert_false(neon_broker_decode(buf, len + 1, &m));
	for (int tag = 0; tag < 256; tag++)
	{
		memcpy(bad, buf, len);
		bad[0] = (uint8_t) tag;
		assert_int_equal(neon_broker_decode(bad, len, &m), tag == 'P' || tag == 'U');
	}
	memcpy(bad, buf, len);
	bad[2] = 0;					/* no entry */
	assert_false(neon_broker_decode(bad, len, &m));
	bad[2] = 2;					/* one that is not there */
	assert_false(neon_broker_decode(bad, len, &m));
	bad[1] = 0xFF;
	assert_false(neon_broker_decode(bad, len, &m));
	memcpy(bad, buf, len);
	memset(bad + NEON_BROKER_HEAD_BYTES, 0, 4);	/* node 0 */
	assert_false(neon_broker_decode(bad, len, &m));
	for (int c = 0; c < 256; c++)
	{
		memcpy(bad, buf, len);
		bad[len - 1] = (uint8_t) c;
		assert_int_equal(neon_broker_decode(bad, len, &m), c > ' ' && c <= '~');
	}
	memcpy(bad, buf, len);
	bad[len - 4] = NEON_BROKER_ADDRESS_BYTES;
	assert_false(neon_broker_decode(bad, len, &m));
}

static void
bare(void **state)
{
	const char *tags = "RBSA";

	for (const char *t = tags; *t; t++)
	{
		assert_int_equal(neon_broker_encode_bare((neon_broker_tag) *t, 513, buf), 3);
		assert_true(neon_broker_decode(buf, 3, &m));
		assert_int_equal(m.count, 513);
		assert_false(neon_broker_decode(buf, 4, &m));
		assert_false(neon_broker_decode(buf, 2, &m));
	}
}

static void
comparison(void **state)
{
	neon_broker_entry a = sample(1),
				b = sample(1);
	neon_id		none = {{0}},
				other = {{9}};

	assert_true(neon_broker_same_name(&a, &b) && neon_broker_same_state(&a, &b));
	assert_int_equal(neon_broker_hash(&a), neon_broker_hash(&b));
	b.commit_lsn++;
	assert_true(neon_broker_same_name(&a, &b));
	assert_false(neon_broker_same_state(&a, &b));
	assert_int_equal(neon_broker_hash(&a), neon_broker_hash(&b));
	b = sample(2);
	assert_false(neon_broker_same_name(&a, &b));
	assert_true(neon_broker_matches(&a, &none, &none));
	assert_true(neon_broker_matches(&a, &a.tenant, &none));
	assert_true(neon_broker_matches(&a, &a.tenant, &a.timeline));
	assert_false(neon_broker_matches(&a, &other, &none));
	assert_false(neon_broker_matches(&a, &a.tenant, &other));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes), cmocka_unit_test(gone_is_a_name), cmocka_unit_test(full), cmocka_unit_test(cannot_be_sent),
		cmocka_unit_test(refused), cmocka_unit_test(bare), cmocka_unit_test(comparison),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
