/*
 * ps_getpage.c - sizes and pages at an LSN.
 *
 * A page is rebuilt from its versions above the last cut (truncation, drop, creation: rule 21), because the versions of a
 * single block do not tell that the block was taken away in between.  Zero pages are never in WAL: a block inside
 * the relation without versions is zeros.  The free space map is never replayed, it is its newest image or zeros.  Bits of a
 * visibility map page may be set before the page was ever logged, so its history starts from zeros.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_internal.h"

#include "common/relpath.h"

#define REL_FORMAT	"%u/%u/%u fork %u"

static uint32
decode_size(const char *what, const uint8 *bytes, uint32 len)
{
	neon_reader r;
	uint32		size;

	neon_reader_init(&r, bytes, len);
	size = neon_get_u32(&r);
	if (!r.ok || neon_reader_left(&r) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a %s has %u bytes instead of 4", what, len)));
	return size;
}

uint32
ps_rel_size(PsTimeline *tl, uint32 spc, uint32 db, uint32 rel, uint8 fork, XLogRecPtr lsn)
{
	neon_key	key = {.spc = spc,.db = db,.rel = rel,.kind = NEON_KEY_REL_SIZE,.fork = fork};
	uint32		len;
	uint32		size = NEON_SIZE_ABSENT;
	uint8	   *value = ps_get_value(tl, &key, lsn, &len, NULL);

	if (value)
	{
		size = decode_size("relation size", value, len);
		pfree(value);
	}
	return size;
}

uint32
ps_slru_size(PsTimeline *tl, uint32 slru_kind, uint32 segment, XLogRecPtr lsn)
{
	neon_key	key = {.spc = slru_kind,.rel = segment,.kind = NEON_KEY_SLRU_SIZE};
	uint32		len;
	uint32		size = NEON_SIZE_ABSENT;
	uint8	   *value = ps_get_value(tl, &key, lsn, &len, NULL);

	if (value)
	{
		size = decode_size("SLRU segment size", value, len);
		pfree(value);
	}
	return size;
}

/* A bitmap's page starts as zeros: give the chain that base. */
static void
add_zero_base(PsChain *chain)
{
	PsVersion  *v;

	if (chain->complete)
		return;
	if (chain->nversions == chain->capacity)
	{
		chain->capacity++;
		chain->versions = repalloc_huge(chain->versions, sizeof(PsVersion) * chain->capacity);
	}
	v = &chain->versions[chain->nversions++];
	v->lsn = InvalidXLogRecPtr;
	v->flags = PS_VALUE_IMAGE | PS_VALUE_WILL_INIT;
	v->len = BLCKSZ;
	v->bytes = MemoryContextAllocZero(chain->context, BLCKSZ);
	chain->complete = true;
}

static void
get_fsm_page(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, XLogRecPtr cut, char *page)
{
	uint32		len;
	uint8	   *image = ps_get_image(tl, key, lsn, cut, &len, NULL);

	if (image == NULL)
	{
		memset(page, 0, BLCKSZ);
		return;
	}
	if (len != BLCKSZ)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("an image of block %u of relation " REL_FORMAT " has %u bytes instead of %d", key->blk,
						key->spc, key->db, key->rel, key->fork, len, BLCKSZ)));
	memcpy(page, image, BLCKSZ);
	pfree(image);
}

/* false when the block lies behind the end of its fork and that is not an error. */
static bool
inside_relation(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn)
{
	bool		map = key->fork == FSM_FORKNUM || key->fork == VISIBILITYMAP_FORKNUM;
	uint32		size = ps_rel_size(tl, key->spc, key->db, key->rel, key->fork, lsn);

	if (size != NEON_SIZE_ABSENT && key->blk < size)
		return true;
	if (map)
		return false;
	if (size == NEON_SIZE_ABSENT)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("relation " REL_FORMAT " does not exist at %X/%08X", key->spc, key->db, key->rel, key->fork,
						LSN_FORMAT_ARGS(lsn))));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("block %u is behind the end of relation " REL_FORMAT ", which has %u blocks at %X/%08X", key->blk,
					key->spc, key->db, key->rel, key->fork, size, LSN_FORMAT_ARGS(lsn))));
	return false;				/* not reached */
}

void
ps_get_page(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, char page[BLCKSZ])
{
	XLogRecPtr	cut;
	PsChain		chain;

	if (!inside_relation(tl, key, lsn))
	{
		memset(page, 0, BLCKSZ);
		return;
	}
	cut = ps_last_cut(tl, key, lsn);
	if (key->fork == FSM_FORKNUM)
	{
		get_fsm_page(tl, key, lsn, cut, page);
		return;
	}
	ps_get_chain(tl, key, lsn, cut, &chain);
	if (chain.nversions == 0)
	{
		memset(page, 0, BLCKSZ);
		return;
	}
	if (key->fork == VISIBILITYMAP_FORKNUM)
		add_zero_base(&chain);
	if (!chain.complete)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("block %u of relation " REL_FORMAT " at %X/%08X has %d records but no base", key->blk,
						key->spc, key->db, key->rel, key->fork, LSN_FORMAT_ARGS(lsn), chain.nversions),
				 errdetail("The oldest record ends at %X/%08X; the block was last cut at %X/%08X.",
						   LSN_FORMAT_ARGS(chain.versions[chain.nversions - 1].lsn), LSN_FORMAT_ARGS(cut))));
	ps_redo(key, &chain, page);
}

/* Blocks of an SLRU segment, `max_blocks` at most, into `to`.  Returns their number; 0 when the segment does not exist. */
uint32
ps_get_slru_segment(PsTimeline *tl, uint32 slru_kind, uint32 segment, XLogRecPtr lsn, char *to, uint32 max_blocks)
{
	uint32		size = ps_slru_size(tl, slru_kind, segment, lsn);

	if (size == NEON_SIZE_ABSENT)
		return 0;
	size = Min(size, max_blocks);
	for (uint32 blk = 0; blk < size; blk++)
	{
		neon_key	key = {.spc = slru_kind,.rel = segment,.blk = blk,.kind = NEON_KEY_SLRU_BLOCK};
		PsChain		chain;

		ps_get_chain(tl, &key, lsn, InvalidXLogRecPtr, &chain);
		if (chain.nversions == 0)
			memset(to, 0, BLCKSZ);
		else
		{
			add_zero_base(&chain);
			ps_redo(&key, &chain, to);
		}
		to += BLCKSZ;
	}
	return size;
}

/* ---- size of a database ---- */

typedef struct SizeSum
{
	uint32		spc;
	uint32		db;
	uint64		blocks;
} SizeSum;

static bool
add_size_of(const neon_key *key, const PsVersion *v, void *arg)
{
	SizeSum    *sum = arg;
	uint32		size = decode_size("relation size", v->bytes, v->len);

	if (key->spc == sum->spc && key->db == sum->db && size != NEON_SIZE_ABSENT)
		sum->blocks += size;
	return true;
}

uint64
ps_database_bytes(PsTimeline *tl, uint32 spc, uint32 db, XLogRecPtr lsn)
{
	neon_key	from = {.spc = spc,.db = db,.kind = NEON_KEY_REL_SIZE};
	neon_key	to = {.spc = spc,.db = db,.rel = UINT32_MAX,.blk = UINT32_MAX,.kind = NEON_KEY_REL_SIZE,.fork = UINT8_MAX};
	SizeSum		sum = {.spc = spc,.db = db};

	ps_scan(tl, &from, &to, lsn, add_size_of, &sum);
	return sum.blocks * BLCKSZ;
}
