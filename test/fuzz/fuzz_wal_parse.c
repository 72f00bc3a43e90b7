/*
 * fuzz_wal_parse.c - the block-reference parser: whatever a record says, what is handed out lies inside it.
 *
 * The input is a record; its length field is set to its size, since the reader guarantees that, and the CRC is not looked at.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_wal.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(condition) do { if (!(condition)) abort(); } while (0)

/* Is [p, p + n) inside the record, and behind what was handed out before? */
static const uint8_t *
check_range(const uint8_t *p, size_t n, const uint8_t *from, const uint8_t *end)
{
	CHECK(p >= from && n <= (size_t) (end - p));
	return p + n;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	neon_wal_parsed parsed;
	uint8_t    *record = malloc(size + 1);
	uint32_t	len = (uint32_t) size;
	const uint8_t *at = record + NEON_WAL_RECORD_HEADER,
			   *end = record + size;

	memcpy(record, data, size);
	if (size >= NEON_WAL_RECORD_HEADER)
		memcpy(record, &len, sizeof(len));
	if (neon_wal_parse(record, len, &parsed) == NEON_WAL_OK)
	{
		CHECK(size >= NEON_WAL_RECORD_HEADER);
		CHECK(parsed.nblocks >= 0 && parsed.nblocks <= NEON_WAL_MAX_BLOCKS);
		for (int i = 0; i < parsed.nblocks; i++)
		{
			const neon_wal_block *b = &parsed.blocks[i];

			CHECK(b->id < NEON_WAL_MAX_BLOCKS && (i == 0 || b->id > b[-1].id) && b->fork <= 3);
			CHECK((b->image != NULL) == b->has_image && (b->data != NULL) == b->has_data);
			if (b->has_image)
			{
				CHECK(b->image_len <= NEON_BLCKSZ && b->hole_offset + b->hole_length <= NEON_BLCKSZ);
				at = check_range(b->image, b->image_len, at, end);
			}
			if (b->has_data)
				at = check_range(b->data, b->data_len, at, end);
		}
		CHECK((parsed.main_data != NULL) == (parsed.main_len > 0));
		if (parsed.main_len > 0)
			at = check_range(parsed.main_data, parsed.main_len, at, end);
		/* the data ends where the record ends, unless there is none */
		CHECK(at == end || at == record + NEON_WAL_RECORD_HEADER);
	}
	free(record);
	return 0;
}
