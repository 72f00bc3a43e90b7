/*
 * neon_crc32c.c - CRC-32C with the processor's instruction (SSE 4.2, which every amd64 server since 2008 has).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_core.h"

#include <nmmintrin.h>
#include <string.h>

uint32_t
neon_crc32c(uint32_t crc, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t	c = (uint32_t) ~crc;

	for (; len >= 8; len -= 8, p += 8)
	{
		uint64_t	word;

		memcpy(&word, p, sizeof(word));
		c = _mm_crc32_u64(c, word);
	}
	for (; len > 0; len--, p++)
		c = _mm_crc32_u8((uint32_t) c, *p);
	return ~(uint32_t) c;
}
