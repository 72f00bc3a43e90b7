/*
 * wal_generator.h - writes WAL for tests: records with page headers between them, byte by byte.
 *
 * Shares nothing with the code under test: its own constants, its own CRC, and the slowest and plainest way to lay a record
 * over pages.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WAL_GENERATOR_H
#define WAL_GENERATOR_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct generator
{
	uint32_t	segment_bytes;
	uint64_t	base;			/* LSN of bytes[0]; a segment's first byte */
	uint8_t    *bytes;
	size_t		len;			/* base + len is where the next byte goes */
	size_t		cap;
	uint64_t	last_start;		/* of the last complete record: the next one's xl_prev */
	bool		overwrite;		/* the next page header says XLP_FIRST_IS_OVERWRITE_CONTRECORD */
} generator;

static inline uint32_t
slow_crc32c(uint32_t crc, const uint8_t *p, size_t n)
{
	static uint32_t table[256];

	if (table[1] == 0)
		for (uint32_t i = 0; i < 256; i++)
		{
			uint32_t	c = i;

			for (int bit = 0; bit < 8; bit++)
				c = c & 1 ? (c >> 1) ^ UINT32_C(0x82F63B78) : c >> 1;
			table[i] = c;
		}
	for (crc = ~crc; n > 0; n--, p++)
		crc = (crc >> 8) ^ table[(crc ^ *p) & 255];
	return ~crc;
}

static inline void
generator_init(generator *g, uint32_t segment_bytes, uint64_t base)
{
	memset(g, 0, sizeof(*g));
	g->segment_bytes = segment_bytes;
	g->base = base;
}

static inline void
generator_free(generator *g)
{
	free(g->bytes);
}

static inline uint64_t
generator_lsn(const generator *g)
{
	return g->base + g->len;
}

static inline void
raw_byte(generator *g, uint8_t b)
{
	if (g->len == g->cap)
		g->bytes = realloc(g->bytes, g->cap = g->cap * 2 + 65536);
	g->bytes[g->len++] = b;
}

static inline void
raw_little(generator *g, uint64_t v, int n)
{
	for (int i = 0; i < n; i++)
		raw_byte(g, (uint8_t) (v >> (8 * i)));
}

/* At the start of a page: its header.  rem: bytes of a record that continue here. */
static inline void
page_header(generator *g, uint32_t rem)
{
	uint64_t	at = generator_lsn(g);
	bool		is_long = at % g->segment_bytes == 0;
	unsigned	info = (is_long ? 2 : 0) | (rem > 0 ? 1 : 0) | (g->overwrite ? 8 : 0);

	g->overwrite = false;
	raw_little(g, 0xD110, 2);
	raw_little(g, info, 2);
	raw_little(g, 1, 4);
	raw_little(g, at, 8);
	raw_little(g, rem, 4);
	raw_little(g, 0, 4);
	if (is_long)
	{
		raw_little(g, UINT64_C(0x6D1234567890ABCD), 8);
		raw_little(g, g->segment_bytes, 4);
		raw_little(g, 8192, 4);
	}
}

/* One byte of a record of which `rem` bytes, this one counted, are still to come. */
static inline void
record_byte(generator *g, uint8_t b, uint32_t rem, bool first)
{
	if (generator_lsn(g) % 8192 == 0)
		page_header(g, first ? 0 : rem);
	raw_byte(g, b);
}

/* The bytes of a record; the caller frees them.  Data bytes follow from salt. */
static inline uint8_t *
make_record(uint32_t len, uint64_t prev, uint8_t rmid, uint8_t info, uint32_t salt)
{
	uint8_t    *r = calloc(1, len);
	uint32_t	crc;

	for (uint32_t i = 24; i < len; i++)
		r[i] = (uint8_t) (salt * 31 + i * 7 + i / 255);
	memcpy(r, &len, 4);
	memcpy(r + 4, &salt, 4);	/* xl_xid */
	memcpy(r + 8, &prev, 8);
	r[16] = info;
	r[17] = rmid;
	crc = slow_crc32c(0, r + 24, len - 24);
	crc = slow_crc32c(crc, r, 20);
	memcpy(r + 20, &crc, 4);
	return r;
}

/* Where the next record starts: its page's header is written if it is not there. */
static inline uint64_t
record_position(generator *g)
{
	if (generator_lsn(g) % 8192 == 0)
		page_header(g, 0);
	return generator_lsn(g);
}

/* The first `keep` bytes of a record, without padding; all of it when keep = len. */
static inline uint64_t
put_part(generator *g, const uint8_t *rec, uint32_t len, uint32_t keep)
{
	uint64_t	start = record_position(g);

	for (uint32_t i = 0; i < keep; i++)
		record_byte(g, rec[i], len - i, i == 0);
	return start;
}

/* A whole record and its padding; returns its start. */
static inline uint64_t
put_record(generator *g, uint32_t len, uint8_t rmid, uint8_t info, uint32_t salt)
{
	uint8_t    *rec = make_record(len, g->last_start, rmid, info, salt);

	g->last_start = put_part(g, rec, len, len);
	free(rec);
	while (g->len % 8 != 0)
		raw_byte(g, 0);
	return g->last_start;
}

/* XLOG_SWITCH: a record without data, then zeroes to the end of the segment; headers on its pages as the server leaves them. */
static inline uint64_t
put_switch(generator *g)
{
	uint64_t	start = put_record(g, 24, 0, 0x40, 9);

	while (generator_lsn(g) % g->segment_bytes != 0)
	{
		if (generator_lsn(g) % 8192 == 0)
			page_header(g, 0);
		else
			raw_byte(g, 0);
	}
	return start;
}

/* A record so long that the next byte after it and its padding stands at `offset` of a page (which must be a multiple of 8). */
static inline void
fill_to(generator *g, uint32_t offset)
{
	uint64_t	at = record_position(g);
	uint32_t	left = offset + 8192 * 2 - (uint32_t) (at % 8192);
	uint64_t	page = at / 8192 * 8192;

	/* over two more pages, so that it is always long enough; their headers take room */
	for (int i = 1; i <= 2; i++)
		left -= (page + 8192 * i) % g->segment_bytes == 0 ? 40 : 24;
	put_record(g, left, 11, 0, 3);
}

#endif							/* WAL_GENERATOR_H */
