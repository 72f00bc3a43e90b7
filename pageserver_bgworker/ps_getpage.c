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
#include "ps_page_cache.h"

#include "common/relpath.h"
#include "utils/memutils.h"

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

/* Size at lsn; `before` if it did not change above the floor. */
static uint32
rel_size_above(PsTimeline *tl, const neon_key *block, XLogRecPtr lsn, XLogRecPtr floor, uint32 before)
{
	neon_key	key = {.spc = block->spc,.db = block->db,.rel = block->rel,.kind = NEON_KEY_REL_SIZE,.fork = block->fork};
	uint32		len;
	uint32		size = before;
	uint8	   *value = ps_get_image(tl, &key, lsn, floor, &len, NULL);

	if (value)
	{
		size = decode_size("relation size", value, len);
		pfree(value);
	}
	return size;
}

uint32
ps_rel_size(PsTimeline *tl, uint32 spc, uint32 db, uint32 rel, uint8 fork, XLogRecPtr lsn)
{
	neon_key	key = {.spc = spc,.db = db,.rel = rel,.fork = fork};

	return rel_size_above(tl, &key, lsn, InvalidXLogRecPtr, NEON_SIZE_ABSENT);
}

/* ---- size and newest cut of relations, remembered by this process ---- */

/*
 * As of an LSN the timeline has reached both are history and never change; for a later LSN only what is above it is looked for, which
 * is in memory.  An entry is replaced as a whole, so an ERROR on the way leaves it as it was.
 */
typedef struct RelState
{
	uint32		slot;			/* of the timeline, + 1; 0: free */
	uint32		incarnation;
	uint32		spc;
	uint32		db;
	uint32		rel;
	uint8		fork;
	XLogRecPtr	as_of;
	uint32		size;
	uint32		cut_left;
	XLogRecPtr	cut_lsn;
} RelState;

#define REL_STATES	64

static RelState rel_states[REL_STATES];

static bool
is_state_of(const RelState *r, PsTimeline *tl, const neon_key *key)
{
	return r->slot == (uint32) (tl - ps_timelines) + 1 && r->incarnation == ps_timeline_incarnation(tl) &&
		r->rel == key->rel && r->db == key->db && r->spc == key->spc && r->fork == key->fork;
}

static RelState
rel_state(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn)
{
	RelState   *entry = &rel_states[(key->rel * 4 + key->fork + key->db * 31 + (tl - ps_timelines) * 7) % REL_STATES];
	bool		mine = is_state_of(entry, tl, key);
	RelState	r = {.slot = (uint32) (tl - ps_timelines) + 1,.incarnation = ps_timeline_incarnation(tl),.spc = key->spc,
		.db = key->db,.rel = key->rel,.fork = key->fork,.size = NEON_SIZE_ABSENT};
	XLogRecPtr	cut;
	uint32		left;

	if (mine && entry->as_of <= lsn)
		r = *entry;
	if (r.as_of == lsn)
		return r;
	r.size = rel_size_above(tl, key, lsn, r.as_of, r.size);
	cut = ps_newest_cut(tl, key, lsn, r.as_of, &left);
	if (cut != InvalidXLogRecPtr)
	{
		r.cut_lsn = cut;
		r.cut_left = left;
	}
	r.as_of = lsn;
	/* the writer sees what is not committed; a reader of the past does not spoil it for the others */
	if (!LWLockHeldByMe(&tl->write_lock) && (!mine || entry->as_of <= lsn))
		*entry = r;
	return r;
}

/* LSN of the last cut that took the block away; 0 if none. */
static XLogRecPtr
last_cut_of(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, const RelState *r)
{
	if (r->cut_lsn == InvalidXLogRecPtr || key->blk >= r->cut_left)
		return r->cut_lsn;
	return ps_last_cut(tl, key, lsn);
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

/* Puts an image under the chain. */
static void
add_base(PsChain *chain, XLogRecPtr lsn, const uint8 *image)
{
	PsVersion  *v;

	if (chain->nversions == chain->capacity)
	{
		chain->capacity++;
		chain->versions = repalloc_huge(chain->versions, sizeof(PsVersion) * chain->capacity);
	}
	v = &chain->versions[chain->nversions++];
	v->lsn = lsn;
	v->flags = PS_VALUE_IMAGE | PS_VALUE_WILL_INIT;
	v->len = BLCKSZ;
	v->bytes = image;
	chain->complete = true;
}

/*
 * Rebuilds a page from its versions above the cut, on top of its cached state if there is one.  from_zeros: the page may be
 * changed before it was ever logged whole.  lsn is one the timeline has reached: a cached page must be as of exactly that.
 */
static void
rebuild_page(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, XLogRecPtr cut, bool from_zeros, char *page)
{
	uint32		incarnation = ps_timeline_incarnation(tl);
	bool		use_cache = !LWLockHeldByMe(&tl->write_lock);	/* the writer reads what is not committed */
	XLogRecPtr	cached_as_of = InvalidXLogRecPtr;
	bool		have_cached = use_cache && ps_page_cache_get(tl, incarnation, key, cut, lsn, page, &cached_as_of);
	PsChain		chain;

	if (have_cached && cached_as_of == lsn)
		return;
	ps_get_chain(tl, key, lsn, have_cached ? cached_as_of : cut, &chain);
	if (chain.nversions == 0)
	{
		if (have_cached)
			ps_page_cache_touch(tl, incarnation, key, cached_as_of, lsn);
		else
			memset(page, 0, BLCKSZ);
		return;
	}
	if (!chain.complete && have_cached)
		add_base(&chain, cached_as_of, memcpy(palloc(BLCKSZ), page, BLCKSZ));
	else if (!chain.complete && from_zeros)
		add_base(&chain, InvalidXLogRecPtr, palloc0(BLCKSZ));
	if (!chain.complete)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("block %u of relation " REL_FORMAT " at %X/%08X has %d records but no base", key->blk,
						key->spc, key->db, key->rel, key->fork, LSN_FORMAT_ARGS(lsn), chain.nversions),
				 errdetail("The oldest record ends at %X/%08X; the block was last cut at %X/%08X.",
						   LSN_FORMAT_ARGS(chain.versions[chain.nversions - 1].lsn), LSN_FORMAT_ARGS(cut))));
	ps_redo(key, &chain, page);
	if (use_cache && chain.nversions > 1)
		ps_page_cache_put(tl, incarnation, key, lsn, page);
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
inside_relation(const neon_key *key, XLogRecPtr lsn, uint32 size)
{
	bool		map = key->fork == FSM_FORKNUM || key->fork == VISIBILITYMAP_FORKNUM;

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

/* What has not arrived is not looked for, so that all parts of an answer are of one LSN; the writer sees what it put. */
static XLogRecPtr
reached_lsn(PsTimeline *tl, XLogRecPtr lsn)
{
	return LWLockHeldByMe(&tl->write_lock) ? lsn : Min(lsn, ps_timeline_last_record_lsn(tl));
}

static void
get_page(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, char *page)
{
	RelState	r;
	XLogRecPtr	cut;

	lsn = reached_lsn(tl, lsn);
	if (key->kind == NEON_KEY_SLRU_BLOCK)
	{
		rebuild_page(tl, key, lsn, InvalidXLogRecPtr, true, page);
		return;
	}
	r = rel_state(tl, key, lsn);
	if (!inside_relation(key, lsn, r.size))
	{
		memset(page, 0, BLCKSZ);
		return;
	}
	cut = last_cut_of(tl, key, lsn, &r);
	if (key->fork == FSM_FORKNUM)
		get_fsm_page(tl, key, lsn, cut, page);
	else
		rebuild_page(tl, key, lsn, cut, key->fork == VISIBILITYMAP_FORKNUM, page);
}

void
ps_get_page(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, char page[BLCKSZ])
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "page", ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);

	get_page(tl, key, lsn, page);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

/* Blocks of an SLRU segment, `max_blocks` at most, into `to`.  Returns their number; 0 when the segment does not exist. */
uint32
ps_get_slru_segment(PsTimeline *tl, uint32 slru_kind, uint32 segment, XLogRecPtr lsn, char *to, uint32 max_blocks)
{
	uint32		size;

	lsn = reached_lsn(tl, lsn);
	size = ps_slru_size(tl, slru_kind, segment, lsn);
	if (size == NEON_SIZE_ABSENT)
		return 0;
	size = Min(size, max_blocks);
	for (uint32 blk = 0; blk < size; blk++)
	{
		neon_key	key = {.spc = slru_kind,.rel = segment,.blk = blk,.kind = NEON_KEY_SLRU_BLOCK};

		ps_get_page(tl, &key, lsn, to);
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
