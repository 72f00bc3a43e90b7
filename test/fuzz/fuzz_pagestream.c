/*
 * fuzz_pagestream.c - the page stream's codec: what is accepted is inside the message and encodes to the same bytes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_pagestream.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(condition) do { if (!(condition)) abort(); } while (0)

static void
request(const uint8_t *data, size_t size)
{
	neon_ps_request req;
	uint8_t		again[NEON_PS_REQUEST_BYTES];

	if (!neon_ps_decode_request(data, size, &req))
		return;
	CHECK(size == NEON_PS_REQUEST_BYTES && req.tag <= NEON_PS_SLRU_SEGMENT && req.fork <= 3);
	CHECK(req.request_lsn >= req.not_modified_since);
	neon_ps_encode_request(&req, again);
	CHECK(memcmp(again, data, size) == 0);
}

static void
response(const uint8_t *data, size_t size)
{
	neon_ps_response res;
	uint8_t		head[NEON_PS_RESPONSE_HEAD];

	if (!neon_ps_decode_response(data, size, &res))
		return;
	CHECK(size <= NEON_PS_MAX_RESPONSE && res.payload == data + NEON_PS_RESPONSE_HEAD);
	CHECK(res.payload_len == size - NEON_PS_RESPONSE_HEAD);
	CHECK(neon_ps_request_equal(&res.request, &res.request));
	CHECK(neon_ps_encode_response_head(res.tag, &res.request, head) == NEON_PS_RESPONSE_HEAD);
	CHECK(memcmp(head, data, sizeof(head)) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t    *exact = malloc(size + 1);

	memcpy(exact, data, size);
	request(exact, size);
	response(exact, size);
	/* payloads of a fixed length are long: stretch what is there */
	if (size >= NEON_PS_RESPONSE_HEAD)
	{
		uint8_t    *page = calloc(1, NEON_PS_RESPONSE_HEAD + NEON_BLCKSZ);

		memcpy(page, data, NEON_PS_RESPONSE_HEAD);
		response(page, NEON_PS_RESPONSE_HEAD + NEON_BLCKSZ);
		response(page, NEON_PS_RESPONSE_HEAD + 8);
		response(page, NEON_PS_RESPONSE_HEAD + 4);
		free(page);
	}
	free(exact);
	return 0;
}
