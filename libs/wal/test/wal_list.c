/*
 * wal_list.c - lists the records of WAL segments, for comparison with pg_waldump.
 *
 *		wal_list SEGMENT_BYTES START_LSN PIECE_BYTES SEGMENT...
 *
 * One line a record: start, end, length, xid, prev, resource manager, info, blocks as spc/db/rel/fork/blk.  The last line
 * is the status that ended the run.  PIECE_BYTES is how much is fed at a time, 0 for whole segments.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_wal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

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

static void
print_record(const neon_wal_record *rec)
{
	neon_wal_parsed parsed;
	neon_wal_status s = neon_wal_parse(rec->bytes, rec->len, &parsed);

	printf(NEON_LSN_FMT " " NEON_LSN_FMT " %u %u " NEON_LSN_FMT " %u %u", NEON_LSN_ARGS(rec->start), NEON_LSN_ARGS(rec->end),
		   rec->len, rec->xid, NEON_LSN_ARGS(rec->prev), rec->rmid, rec->info);
	if (s != NEON_WAL_OK)
		printf(" %s", neon_wal_status_text(s));
	else
		for (int i = 0; i < parsed.nblocks; i++)
		{
			const neon_wal_block *b = &parsed.blocks[i];

			printf(" %u/%u/%u/%u/%u%s", b->spc, b->db, b->rel, b->fork, b->blk, b->has_image ? "F" : "");
		}
	putchar('\n');
}

/* Lists what the bytes complete; NEED_MORE when they are used up. */
static neon_wal_status
list_piece(neon_wal_reader *r, const uint8_t *bytes, size_t len)
{
	neon_wal_record rec;
	neon_wal_status s;

	neon_wal_reader_feed(r, bytes, len);
	while ((s = neon_wal_reader_next(r, &rec)) == NEON_WAL_OK)
		print_record(&rec);
	return s;
}

static neon_wal_status
list_segment(neon_wal_reader *r, const char *path, uint32_t segment_bytes, size_t offset, size_t piece)
{
	uint8_t    *buf = malloc(segment_bytes);
	FILE	   *f = fopen(path, "rb");
	neon_wal_status s = NEON_WAL_NEED_MORE;

	if (buf == NULL || f == NULL || fread(buf, 1, segment_bytes, f) != segment_bytes)
	{
		perror(path);
		exit(1);
	}
	fclose(f);
	while (offset < segment_bytes && s == NEON_WAL_NEED_MORE)
	{
		size_t		n = segment_bytes - offset;

		if (piece > 0 && n > piece)
			n = piece;
		s = list_piece(r, buf + offset, n);
		offset += n;
	}
	free(buf);
	return s;
}

int
main(int argc, char **argv)
{
	neon_wal_reader r;
	neon_wal_status s = NEON_WAL_NEED_MORE;
	uint32_t	segment_bytes;
	neon_lsn	start;
	size_t		piece;

	if (argc < 5 || !neon_lsn_parse(argv[2], &start))
	{
		fprintf(stderr, "usage: wal_list SEGMENT_BYTES START_LSN PIECE_BYTES SEGMENT...\n");
		return 1;
	}
	segment_bytes = (uint32_t) strtoul(argv[1], NULL, 10);
	piece = strtoul(argv[3], NULL, 10);
	neon_wal_reader_init(&r, segment_bytes, std_realloc, NULL);
	r.check_link = true;
	neon_wal_reader_begin(&r, start);
	for (int i = 4; i < argc && s == NEON_WAL_NEED_MORE; i++)
		s = list_segment(&r, argv[i], segment_bytes, i == 4 ? start % segment_bytes : 0, piece);
	printf("%s at " NEON_LSN_FMT "\n", neon_wal_status_text(s), NEON_LSN_ARGS(r.record_end));
	neon_wal_reader_free(&r);
	return 0;
}
