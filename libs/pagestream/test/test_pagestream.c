/*
 * test_pagestream.c - the wire codec: bytes, what is refused, echoes.
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

#include "neon_pagestream.h"

static neon_ps_request
sample(uint8_t tag)
{
	neon_ps_request req = {
		.tag = tag,.request_id = UINT64_C(0x0102030405060708),.request_lsn = UINT64_C(0x1112131415161718),
		.not_modified_since = UINT64_C(0x1112131415161710),.spc = 1663,.db = 5,.rel = 0x21222324,.fork = 2,.blk = 0x31323334,
	};

	return req;
}

static void
request_bytes(void **state)
{
	static const uint8_t expected[NEON_PS_REQUEST_BYTES] = {
		2, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x10,
		0, 0, 0x06, 0x7F, 0, 0, 0, 5, 0x21, 0x22, 0x23, 0x24, 2, 0x31, 0x32, 0x33, 0x34
	};
	uint8_t		bytes[NEON_PS_REQUEST_BYTES];
	neon_ps_request req = sample(NEON_PS_GETPAGE),
				back;

	neon_ps_encode_request(&req, bytes);
	assert_memory_equal(bytes, expected, sizeof(bytes));
	assert_true(neon_ps_decode_request(bytes, sizeof(bytes), &back));
	assert_true(neon_ps_request_equal(&req, &back));
}

static bool
decodes(const neon_ps_request *req, size_t len)
{
	uint8_t		bytes[NEON_PS_REQUEST_BYTES];
	neon_ps_request back;

	neon_ps_encode_request(req, bytes);
	return neon_ps_decode_request(bytes, len, &back);
}

static void
bad_requests(void **state)
{
	neon_ps_request req;

	for (int tag = 0; tag < 256; tag++)
	{
		req = sample((uint8_t) tag);
		assert_int_equal(decodes(&req, NEON_PS_REQUEST_BYTES), tag < NEON_PS_FILLER);
	}
	req = sample(NEON_PS_FILLER);
	req.blk = NEON_PS_MAX_FILLER;
	assert_true(decodes(&req, NEON_PS_REQUEST_BYTES));
	req.blk++;
	assert_false(decodes(&req, NEON_PS_REQUEST_BYTES));
	req = sample(NEON_PS_GETPAGE);
	assert_false(decodes(&req, NEON_PS_REQUEST_BYTES - 1));
	assert_false(decodes(&req, 0));
	req.fork = 4;
	assert_false(decodes(&req, NEON_PS_REQUEST_BYTES));
	req = sample(NEON_PS_GETPAGE);
	req.not_modified_since = req.request_lsn;
	assert_true(decodes(&req, NEON_PS_REQUEST_BYTES));
	req.not_modified_since++;
	assert_false(decodes(&req, NEON_PS_REQUEST_BYTES));
	req.request_lsn = NEON_LSN_MAX;
	assert_true(decodes(&req, NEON_PS_REQUEST_BYTES));
}

static void
equality_sees_every_field(void **state)
{
	uint8_t		bytes[NEON_PS_REQUEST_BYTES];
	neon_ps_request req = sample(NEON_PS_EXISTS),
				other;

	for (int i = 0; i < NEON_PS_REQUEST_BYTES; i++)
	{
		neon_ps_response res;
		uint8_t		error[NEON_PS_RESPONSE_HEAD + 5] = {NEON_PS_ERROR_RESPONSE};

		neon_ps_encode_request(&req, bytes);
		bytes[i] ^= 1;
		/* through an error response, whose echo may be anything */
		memcpy(error + 1, bytes, sizeof(bytes));
		assert_true(neon_ps_decode_response(error, sizeof(error), &res));
		other = res.request;
		assert_false(neon_ps_request_equal(&req, &other));
	}
}

static bool
response_fits(uint8_t tag, uint8_t request_tag, size_t payload_len)
{
	neon_ps_request req = sample(request_tag);
	neon_ps_response res;
	uint8_t    *bytes = calloc(1, NEON_PS_RESPONSE_HEAD + payload_len);
	bool		ok;

	assert_int_equal(neon_ps_encode_response_head(tag, &req, bytes), NEON_PS_RESPONSE_HEAD);
	ok = neon_ps_decode_response(bytes, NEON_PS_RESPONSE_HEAD + payload_len, &res);
	if (ok)
	{
		assert_int_equal(res.tag, tag);
		assert_true(neon_ps_request_equal(&req, &res.request));
		assert_ptr_equal(res.payload, bytes + NEON_PS_RESPONSE_HEAD);
		assert_int_equal(res.payload_len, payload_len);
	}
	free(bytes);
	return ok;
}

static void
responses(void **state)
{
	static const struct
	{
		uint8_t		tag;
		uint8_t		request;
		size_t		len;
	}			good[] = {
		{NEON_PS_EXISTS_RESPONSE, NEON_PS_EXISTS, 1},
		{NEON_PS_NBLOCKS_RESPONSE, NEON_PS_NBLOCKS, 4},
		{NEON_PS_GETPAGE_RESPONSE, NEON_PS_GETPAGE, NEON_BLCKSZ},
		{NEON_PS_DBSIZE_RESPONSE, NEON_PS_DBSIZE, 8},
	};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
	{
		assert_true(response_fits(good[i].tag, good[i].request, good[i].len));
		assert_false(response_fits(good[i].tag, good[i].request, good[i].len - 1));
		assert_false(response_fits(good[i].tag, good[i].request, good[i].len + 1));
		/* an answer to another question */
		assert_false(response_fits(good[i].tag, (good[i].request + 1) % 5, good[i].len));
	}
	for (int n = 0; n <= 32; n++)
		assert_true(response_fits(NEON_PS_SLRU_SEGMENT_RESPONSE, NEON_PS_SLRU_SEGMENT, n * NEON_BLCKSZ));
	assert_false(response_fits(NEON_PS_SLRU_SEGMENT_RESPONSE, NEON_PS_SLRU_SEGMENT, 33 * NEON_BLCKSZ));
	assert_false(response_fits(NEON_PS_SLRU_SEGMENT_RESPONSE, NEON_PS_SLRU_SEGMENT, NEON_BLCKSZ - 1));
	assert_false(response_fits(NEON_PS_ERROR_RESPONSE, NEON_PS_GETPAGE, 4));
	assert_true(response_fits(NEON_PS_ERROR_RESPONSE, NEON_PS_GETPAGE, 5));
	assert_true(response_fits(NEON_PS_ERROR_RESPONSE, 77, 500));
	assert_false(response_fits(NEON_PS_GETPAGE, NEON_PS_GETPAGE, NEON_BLCKSZ));
	assert_false(response_fits(106, NEON_PS_GETPAGE, NEON_BLCKSZ));
}

static void
short_responses(void **state)
{
	uint8_t		bytes[NEON_PS_RESPONSE_HEAD + 1] = {NEON_PS_EXISTS_RESPONSE};
	neon_ps_response res;

	for (size_t len = 0; len < sizeof(bytes); len++)
	{
		uint8_t    *exact = malloc(len + 1);

		memcpy(exact, bytes, len);
		assert_false(neon_ps_decode_response(exact, len, &res));
		free(exact);
	}
	assert_true(neon_ps_decode_response(bytes, sizeof(bytes), &res));
	bytes[NEON_PS_RESPONSE_HEAD] = 2;	/* neither true nor false */
	assert_false(neon_ps_decode_response(bytes, sizeof(bytes), &res));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(request_bytes),
		cmocka_unit_test(bad_requests),
		cmocka_unit_test(equality_sees_every_field),
		cmocka_unit_test(responses),
		cmocka_unit_test(short_responses),
	};

	return cmocka_run_group_tests_name("pagestream", tests, NULL, NULL);
}
