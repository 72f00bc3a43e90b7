/*
 * fuzz_wal_reader.c - reassembly: WAL fed in one piece and in many gives the same records and the same end.
 *
 * The input is a script: it writes records, switches and aborted records with the tests' generator (so that CRCs fit), then
 * damages bytes, then says in which pieces to feed.  Without damage every record must come out.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_wal.h"
#include "wal_generator.h"

#define SEGMENT		UINT32_C(16384)
#define MAX_LOG		(SEGMENT * 6)

#define CHECK(condition) do { if (!(condition)) abort(); } while (0)

typedef struct outcome
{
	neon_wal_status status;
	int			count;
	uint32_t	digest;
	neon_lsn	record_end;
	neon_lsn	record_start;
} outcome;

static void *
std_realloc(void *p, size_t n, void *arg)
{
	if (n == 0)
	{
		free(p);
		return NULL;
	}
	return realloc(p, n);
}

static void
read_piece(neon_wal_reader *r, const uint8_t *bytes, size_t n, outcome *o)
{
	uint8_t    *copy = malloc(n + 1);
	neon_wal_record rec;

	memcpy(copy, bytes, n);
	neon_wal_reader_feed(r, copy, n);
	while ((o->status = neon_wal_reader_next(r, &rec)) == NEON_WAL_OK)
	{
		uint64_t	fields[] = {rec.start, rec.end, rec.len, rec.xid, rec.prev, rec.info, rec.rmid};

		CHECK(rec.start < rec.end && rec.end % 8 == 0 && rec.len >= NEON_WAL_RECORD_HEADER);
		o->digest = neon_crc32c(o->digest, fields, sizeof(fields));
		o->digest = neon_crc32c(o->digest, rec.bytes, rec.len);
		o->count++;
	}
	free(copy);
}

/* pieces: sizes to feed, used round and round; none means everything at once. */
static outcome
read_all(const generator *g, const uint8_t *pieces, size_t npieces)
{
	neon_wal_reader r;
	outcome		o = {NEON_WAL_NEED_MORE};
	size_t		at = 0;

	neon_wal_reader_init(&r, SEGMENT, std_realloc, NULL);
	r.check_link = true;
	neon_wal_reader_begin(&r, g->base);
	for (size_t i = 0; at < g->len && o.status == NEON_WAL_NEED_MORE; i++)
	{
		/* many small pieces and some large ones */
		size_t		n = npieces == 0 ? g->len : pieces[i % npieces] < 200 ? 1u + pieces[i % npieces] : pieces[i % npieces] * 40u;

		if (n > g->len - at)
			n = g->len - at;
		read_piece(&r, g->bytes + at, n, &o);
		at += n;
	}
	o.record_end = r.record_end;
	o.record_start = r.record_start;
	neon_wal_reader_free(&r);
	return o;
}

/* The server died inside a record; the next one takes its place on the next page. */
static bool
put_aborted(generator *g, uint32_t len)
{
	uint64_t	start = record_position(g);
	uint32_t	keep = 8192 - (uint32_t) (start % 8192);
	uint8_t    *rec;

	if (len <= keep)
		return false;
	rec = make_record(len, g->last_start, 10, 0, 1);
	put_part(g, rec, len, keep);
	free(rec);
	g->overwrite = true;
	put_record(g, 42, 0, 0xD0, 2);
	return true;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	generator	g;
	int			records = 0;
	size_t		i = 0;
	bool		damaged = false;
	uint64_t	end = UINT64_C(0x300000000);
	outcome		whole,
				cut;

	generator_init(&g, SEGMENT, end);
	while (i + 3 <= size && g.len < MAX_LOG)
	{
		uint8_t		what = data[i];
		uint32_t	n = 24 + (data[i + 1] | (uint32_t) (data[i + 2] & 0x7F) << 8);

		i += 3;
		if (what == 255)
			break;
		if (what == 254)
			put_switch(&g);
		else if (what == 253)
		{
			if (!put_aborted(&g, n))
				continue;
		}
		else
			put_record(&g, what < 128 ? 24 + n % 256 : n, (uint8_t) (1 + what % 20), what, what);
		records++;
		end = generator_lsn(&g);
	}
	/* damage: count, then positions and bits */
	for (uint32_t n = i < size ? data[i++] % 8 : 0; n > 0 && i + 4 <= size && g.len > 0; n--, i += 4)
	{
		uint32_t	at = data[i] | (uint32_t) data[i + 1] << 8 | (uint32_t) data[i + 2] << 16;

		g.bytes[at % g.len] ^= data[i + 3];
		damaged = true;
	}

	whole = read_all(&g, NULL, 0);
	if (!damaged)
		CHECK(whole.status == NEON_WAL_NEED_MORE && whole.count == records && whole.record_end == end);
	if (i < size)
	{
		cut = read_all(&g, data + i, size - i);
		CHECK(cut.status == whole.status && cut.count == whole.count && cut.digest == whole.digest &&
			  cut.record_end == whole.record_end && cut.record_start == whole.record_start);
	}
	generator_free(&g);
	return 0;
}
