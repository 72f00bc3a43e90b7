/*
 * neon_wal_parse.c - the fragments of one record: block references, images, block data, main data.
 *
 * The fragment headers come first, then all the data in the same order.  So the headers are walked once, adding up how much
 * data they announce; when that is exactly what is left of the record, pointers are handed out.  The server's decoder does
 * the same but believes hole_offset + hole_length; a page laid out by them must not be longer than a page, so it is checked.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_wal_format.h"

#define MAX_BLOCK_ID		32	/* XLR_MAX_BLOCK_ID */
#define MAX_FORK			3	/* INIT_FORKNUM */

/* fork_flags */
#define BLOCK_FORK_MASK		0x0F
#define BLOCK_HAS_IMAGE		0x10
#define BLOCK_HAS_DATA		0x20
#define BLOCK_WILL_INIT		0x40
#define BLOCK_SAME_REL		0x80

/* bimg_info */
#define IMAGE_HAS_HOLE		0x01
#define IMAGE_APPLY			0x02
#define IMAGE_COMPRESSED	(0x04 | 0x08 | 0x10)	/* pglz, lz4, zstd */

typedef struct cursor
{
	const uint8_t *p;
	const uint8_t *end;
} cursor;

/* n bytes of the headers, NULL when they are not there. */
static inline const uint8_t *
take(cursor *c, size_t n)
{
	const uint8_t *p = c->p;

	if ((size_t) (c->end - p) < n)
		return NULL;
	c->p += n;
	return p;
}

/* XLogRecordBlockImageHeader and, if the image is compressed and has a hole, the hole's length. */
static neon_wal_status
parse_image_header(cursor *c, neon_wal_block *b)
{
	const uint8_t *p = take(c, 5);
	bool		compressed,
				hole;

	if (p == NULL)
		return NEON_WAL_BAD_LENGTH;
	b->image_len = wal_get16(p);
	b->hole_offset = wal_get16(p + 2);
	b->bimg_info = p[4];
	b->apply_image = (b->bimg_info & IMAGE_APPLY) != 0;
	compressed = (b->bimg_info & IMAGE_COMPRESSED) != 0;
	hole = (b->bimg_info & IMAGE_HAS_HOLE) != 0;

	if (b->image_len > NEON_BLCKSZ)
		return NEON_WAL_BAD_BLOCK_REF;
	if (!compressed)
		b->hole_length = NEON_BLCKSZ - b->image_len;
	else if (hole)
	{
		p = take(c, 2);
		if (p == NULL)
			return NEON_WAL_BAD_LENGTH;
		b->hole_length = wal_get16(p);
	}

	if (hole && (b->hole_offset == 0 || b->hole_length == 0))
		return NEON_WAL_BAD_BLOCK_REF;
	if (!hole && (b->hole_offset != 0 || b->hole_length != 0))
		return NEON_WAL_BAD_BLOCK_REF;
	if (compressed && b->image_len == NEON_BLCKSZ)
		return NEON_WAL_BAD_BLOCK_REF;
	if ((uint32_t) b->hole_offset + b->hole_length > NEON_BLCKSZ)
		return NEON_WAL_BAD_BLOCK_REF;
	return NEON_WAL_OK;
}

/* The rest of an XLogRecordBlockHeader whose id was read.  `before`: the block before, whose relation may be shared. */
static neon_wal_status
parse_block_header(cursor *c, uint8_t id, const neon_wal_block *before, neon_wal_block *b)
{
	const uint8_t *p = take(c, 3);
	uint8_t		fork_flags;
	neon_wal_status s;

	if (p == NULL)
		return NEON_WAL_BAD_LENGTH;

	memset(b, 0, sizeof(*b));
	fork_flags = p[0];
	b->id = id;
	b->fork = fork_flags & BLOCK_FORK_MASK;
	b->has_image = (fork_flags & BLOCK_HAS_IMAGE) != 0;
	b->has_data = (fork_flags & BLOCK_HAS_DATA) != 0;
	b->will_init = (fork_flags & BLOCK_WILL_INIT) != 0;
	b->data_len = wal_get16(p + 1);
	if (b->fork > MAX_FORK || b->has_data != (b->data_len > 0))
		return NEON_WAL_BAD_BLOCK_REF;

	if (b->has_image && (s = parse_image_header(c, b)) != NEON_WAL_OK)
		return s;

	if (fork_flags & BLOCK_SAME_REL)
	{
		if (before == NULL)
			return NEON_WAL_BAD_BLOCK_REF;
		b->spc = before->spc;
		b->db = before->db;
		b->rel = before->rel;
	}
	else
	{
		p = take(c, 12);
		if (p == NULL)
			return NEON_WAL_BAD_LENGTH;
		b->spc = wal_get32(p);
		b->db = wal_get32(p + 4);
		b->rel = wal_get32(p + 8);
	}
	p = take(c, 4);
	if (p == NULL)
		return NEON_WAL_BAD_LENGTH;
	b->blk = wal_get32(p);
	return NEON_WAL_OK;
}

/*
 * One fragment header.  *data grows by the data it announces; *last is set by main data, which by convention ends the
 * headers.
 */
static neon_wal_status
parse_fragment(cursor *c, neon_wal_parsed *out, uint64_t *data, bool *last)
{
	uint8_t		id = *take(c, 1);
	const uint8_t *p;
	neon_wal_block *b;
	neon_wal_status s;

	switch (id)
	{
		case WAL_BLOCK_ID_DATA_SHORT:
			if ((p = take(c, 1)) == NULL)
				return NEON_WAL_BAD_LENGTH;
			out->main_len = *p;
			*data += out->main_len;
			*last = true;
			return NEON_WAL_OK;
		case WAL_BLOCK_ID_DATA_LONG:
			if ((p = take(c, 4)) == NULL)
				return NEON_WAL_BAD_LENGTH;
			out->main_len = wal_get32(p);
			*data += out->main_len;
			*last = true;
			return NEON_WAL_OK;
		case WAL_BLOCK_ID_ORIGIN:
			if ((p = take(c, 2)) == NULL)
				return NEON_WAL_BAD_LENGTH;
			out->origin_id = wal_get16(p);
			return NEON_WAL_OK;
		case WAL_BLOCK_ID_TOPLEVEL_XID:
			if ((p = take(c, 4)) == NULL)
				return NEON_WAL_BAD_LENGTH;
			out->toplevel_xid = wal_get32(p);
			return NEON_WAL_OK;
		default:
			break;
	}

	/* ids ascend, so that there cannot be more blocks than ids */
	if (id > MAX_BLOCK_ID)
		return NEON_WAL_BAD_BLOCK_REF;
	b = &out->blocks[out->nblocks];
	if (out->nblocks > 0 && id <= b[-1].id)
		return NEON_WAL_BAD_BLOCK_REF;
	s = parse_block_header(c, id, out->nblocks > 0 ? b - 1 : NULL, b);
	if (s != NEON_WAL_OK)
		return s;
	out->nblocks++;
	*data += (uint64_t) b->image_len + b->data_len;
	return NEON_WAL_OK;
}

neon_wal_status
neon_wal_parse(const uint8_t *bytes, uint32_t len, neon_wal_parsed *out)
{
	cursor		c;
	uint64_t	data = 0;		/* announced so far */
	bool		last = false;

	out->nblocks = 0;
	out->main_data = NULL;
	out->main_len = 0;
	out->toplevel_xid = 0;
	out->origin_id = 0;
	if (len < NEON_WAL_RECORD_HEADER || wal_get32(bytes + REC_TOT_LEN) != len)
		return NEON_WAL_BAD_LENGTH;

	c.p = bytes + NEON_WAL_RECORD_HEADER;
	c.end = bytes + len;
	while (!last && (uint64_t) (c.end - c.p) > data)
	{
		neon_wal_status s = parse_fragment(&c, out, &data, &last);

		if (s != NEON_WAL_OK)
			return s;
	}
	if ((uint64_t) (c.end - c.p) != data)
		return NEON_WAL_BAD_LENGTH;

	for (int i = 0; i < out->nblocks; i++)
	{
		neon_wal_block *b = &out->blocks[i];

		if (b->has_image)
			b->image = take(&c, b->image_len);
		if (b->has_data)
			b->data = take(&c, b->data_len);
	}
	if (out->main_len > 0)
		out->main_data = take(&c, out->main_len);
	return NEON_WAL_OK;
}
