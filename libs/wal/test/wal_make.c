/*
 * wal_make.c - writes the fabricated segments of one record, for pg_waldump to read.
 *
 *		wal_make SEGMENT_BYTES AT_LSN PREV_LSN SYSTEM_ID DIRECTORY
 *
 * The record is an XLOG_CHECKPOINT_SHUTDOWN with a payload of zeroes.  Prints its start and its end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_wal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECKPOINT_BYTES	88	/* sizeof(CheckPoint) of PostgreSQL 15 */

static void
write_segment(const char *directory, uint64_t number, const uint8_t *bytes, uint32_t segment_bytes)
{
	uint64_t	per_id = (UINT64_C(1) << 32) / segment_bytes;
	char		path[1024];
	FILE	   *f;

	snprintf(path, sizeof(path), "%s/%08X%08X%08X", directory, 1, (uint32_t) (number / per_id), (uint32_t) (number % per_id));
	f = fopen(path, "wb");
	if (f == NULL || fwrite(bytes, 1, segment_bytes, f) != segment_bytes || fclose(f) != 0)
	{
		perror(path);
		exit(1);
	}
}

int
main(int argc, char **argv)
{
	uint8_t		payload[CHECKPOINT_BYTES] = {0};
	neon_lsn	at,
				prev,
				start,
				end;
	uint32_t	segment_bytes,
				count;
	uint8_t    *out;

	if (argc != 6 || !neon_lsn_parse(argv[2], &at) || !neon_lsn_parse(argv[3], &prev))
	{
		fprintf(stderr, "usage: wal_make SEGMENT_BYTES AT_LSN PREV_LSN SYSTEM_ID DIRECTORY\n");
		return 1;
	}
	segment_bytes = (uint32_t) strtoul(argv[1], NULL, 10);
	out = calloc(2, segment_bytes);
	start = neon_lsn_record_start(at, segment_bytes);
	end = neon_wal_fabricate(at, prev, 0, 0, payload, sizeof(payload), strtoull(argv[4], NULL, 10), 1, segment_bytes,
							 out, (size_t) segment_bytes * 2, &count);
	if (end == NEON_LSN_INVALID)
		return 1;
	for (uint32_t i = 0; i < count; i++)
		write_segment(argv[5], start / segment_bytes + i, out + (size_t) i * segment_bytes, segment_bytes);
	printf(NEON_LSN_FMT " " NEON_LSN_FMT "\n", NEON_LSN_ARGS(start), NEON_LSN_ARGS(end));
	free(out);
	return 0;
}
