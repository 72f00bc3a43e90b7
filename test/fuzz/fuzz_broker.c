/*
 * fuzz_broker.c - the broker's messages: what is accepted encodes to the same bytes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_broker.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(condition) do { if (!(condition)) abort(); } while (0)

static neon_broker_message m;
static uint8_t again[NEON_BROKER_MAX_MESSAGE_BYTES];

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t    *exact = malloc(size + 1);

	memcpy(exact, data, size);
	if (neon_broker_decode(exact, size, &m))
	{
		neon_broker_builder b;

		CHECK(size <= NEON_BROKER_MAX_MESSAGE_BYTES);
		if (size == NEON_BROKER_HEAD_BYTES)
			CHECK(neon_broker_encode_bare(m.tag, m.count, again) == size);
		else
		{
			neon_broker_start(&b, m.tag, again);
			for (int i = 0; i < m.count; i++)
				CHECK(neon_broker_add(&b, &m.entries[i]));
			CHECK(neon_broker_finish(&b) == size);
		}
		CHECK(memcmp(again, data, size) == 0);
	}
	free(exact);
	return 0;
}
