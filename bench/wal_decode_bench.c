/*
 * wal_decode_bench.c - how fast WAL is reassembled, checked and parsed.
 *
 * wal_decode_bench SEGMENT_BYTES START_LSN END_LSN SEGMENT...: reads the segments in pieces, decodes them up to END_LSN; prints
 * records, bytes, seconds.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "neon_wal.h"

#define READ_BYTES	(128 * 1024)	/* as much as a message of a WAL stream brings */

static double
now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void *
std_realloc(void *p, size_t n, void *arg __attribute__((unused)))
{
	if (n == 0)
	{
		free(p);
		return NULL;
	}
	return realloc(p, n);
}

int
main(int argc, char **argv)
{
	neon_wal_reader r;
	neon_wal_record rec;
	neon_wal_parsed parsed;
	neon_wal_status s = NEON_WAL_NEED_MORE;
	uint32_t	segment_bytes;
	neon_lsn	start,
				end,
				at = 0;
	uint64_t	records = 0,
				blocks = 0;
	static uint8_t buf[READ_BYTES];
	double		t;

	if (argc < 5 || !neon_lsn_parse(argv[2], &start) || !neon_lsn_parse(argv[3], &end))
		return 2;
	t = now_s();
	segment_bytes = (uint32_t) strtoul(argv[1], NULL, 10);
	neon_wal_reader_init(&r, segment_bytes, std_realloc, NULL);
	r.check_link = true;
	neon_wal_reader_begin(&r, start);
	for (int i = 4; i < argc && at < end; i++)
	{
		int			fd = open(argv[i], O_RDONLY);
		ssize_t		n;

		if (fd < 0 || (i == 4 && lseek(fd, start % segment_bytes, SEEK_SET) < 0))
		{
			perror(argv[i]);
			return 1;
		}
		while (at < end && (n = read(fd, buf, sizeof(buf))) > 0)
		{
			neon_wal_reader_feed(&r, buf, n);
			while (at < end && (s = neon_wal_reader_next(&r, &rec)) == NEON_WAL_OK)
			{
				if (neon_wal_parse(rec.bytes, rec.len, &parsed) != NEON_WAL_OK)
					return 1;
				records++;
				blocks += parsed.nblocks;
				at = rec.end;
			}
		}
		close(fd);
	}
	t = now_s() - t;
	if (at < end)
	{
		fprintf(stderr, "stopped at " NEON_LSN_FMT ": %s\n", NEON_LSN_ARGS(at), neon_wal_status_text(s));
		return 1;
	}
	printf("%" PRIu64 " %" PRIu64 " %.6f %" PRIu64 "\n", records, (uint64_t) (end - start), t, blocks);
	neon_wal_reader_free(&r);
	return 0;
}
