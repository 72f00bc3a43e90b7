/*
 * ps_flush_image.c - images that a flush puts into long chains of records: the cap on how many records a read applies.
 *
 * A page that is changed often and never logged whole (full_page_writes off) gathers tens of thousands of records in one
 * layer.  When a layer is flushed, every PS_IMAGE_EVERY records of a block, and its newest version if at least PS_IMAGE_LAST
 * records came since the last image, are written as the page they lead to.  The image takes the place of the record at the same
 * LSN, so a reader meets it like any other.  Their cost depends on how much was written, not on the database's size.
 *
 * The first image of a key in a layer is an ordinary read of the page; later ones are made from the one before.  A page that
 * cannot be rebuilt must not stop the flush: the attempt runs in a subtransaction, and the records are kept as they are.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_flush_image.h"

#include "access/xact.h"
#include "common/relpath.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define PS_IMAGE_EVERY	256
#define PS_IMAGE_LAST	64

static bool
may_have_images(const neon_key *key)
{
	return key->kind == NEON_KEY_SLRU_BLOCK ||
		(key->kind == NEON_KEY_REL_BLOCK && (key->fork == MAIN_FORKNUM || key->fork == INIT_FORKNUM));
}

static void
to_version(const PsMemVersion *mv, PsVersion *v)
{
	v->lsn = mv->lsn;
	v->flags = mv->flags;
	v->len = mv->len;
	v->bytes = ps_mem_bytes(mv);
	if (v->bytes == NULL)
	{
		uint8	   *copy = MemoryContextAllocHuge(CurrentMemoryContext, mv->len);

		ps_mem_copy(mv, copy);
		v->bytes = copy;
	}
}

/* versions[newest..oldest] (newest first) on top of the base, which is NULL when the oldest needs none. */
static void
redo_range(const neon_key *key, const PsMemVersion **versions, long newest, long oldest, const PsFlushImage *base,
		   uint8 *page)
{
	PsChain		chain = {.complete = true,.context = CurrentMemoryContext};

	chain.capacity = (int) (oldest - newest + 2);
	chain.versions = palloc(sizeof(PsVersion) * chain.capacity);
	for (long i = newest; i <= oldest; i++)
		to_version(versions[i], &chain.versions[chain.nversions++]);
	if (base)
		chain.versions[chain.nversions++] = (PsVersion) {.lsn = base->lsn,.flags = PS_VALUE_IMAGE | PS_VALUE_WILL_INIT,
			.len = BLCKSZ,.bytes = base->page};
	ps_redo(key, &chain, (char *) page);
}

static PsFlushImage *
make_images(PsTimeline *tl, const neon_key *key, const PsMemVersion **versions, long n, MemoryContext result)
{
	PsFlushImage *newest = NULL;
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "flush image", ALLOCSET_DEFAULT_SIZES);
	const PsFlushImage *base = NULL;
	long		since = n - 1;	/* oldest version that is not in the base */
	bool		known_base = false; /* versions up to `since` lead to the page on top of `base` (or of nothing) */

	for (long i = n - 1; i >= 0; i--)
	{
		PsFlushImage *image;
		MemoryContext old;

		if (versions[i]->flags & PS_VALUE_WILL_INIT)
		{
			base = NULL;
			since = i;
			known_base = true;
		}
		if (since - i + 1 < (i == 0 ? PS_IMAGE_LAST : PS_IMAGE_EVERY))
			continue;
		image = MemoryContextAlloc(result, sizeof(PsFlushImage));
		old = MemoryContextSwitchTo(scratch);
		if (known_base)
			redo_range(key, versions, i, since, base, image->page);
		else
			ps_get_page(tl, key, versions[i]->lsn, (char *) image->page);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
		image->lsn = versions[i]->lsn;
		image->older = newest;
		newest = image;
		base = image;
		since = i - 1;
		known_base = true;
	}
	MemoryContextDelete(scratch);
	return newest;
}

/* Runs fn in a subtransaction; false, and a line in the log, when it fails. */
typedef void (*AttemptFn) (void *arg);

static bool
attempt(const neon_key *key, AttemptFn fn, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool ok = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		fn(arg);
		ReleaseCurrentSubTransaction();
		ok = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("no image for block %u of %u/%u/%u fork %u: %s", key->blk, key->spc, key->db, key->rel, key->fork,
						error->message)));
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return ok;
}

typedef struct MakeImages
{
	PsTimeline *tl;
	const neon_key *key;
	const PsMemVersion **versions;
	long		n;
	MemoryContext result;
	PsFlushImage *images;
} MakeImages;

static void
do_make_images(void *arg)
{
	MakeImages *m = arg;

	m->images = make_images(m->tl, m->key, m->versions, m->n, m->result);
}

PsFlushImage *
ps_flush_images(PsTimeline *tl, const PsMemLayer *layer, const PsMemKey *key)
{
	const PsMemVersion *newest = ps_mem_newest(key, layer->end_lsn);
	const PsMemVersion **versions;
	MakeImages	m = {.tl = tl,.key = &key->key,.result = CurrentMemoryContext};
	bool		ok;
	long		n = 0;

	if (newest == NULL || !may_have_images(&key->key))
		return NULL;
	for (const PsMemVersion *v = newest; v != NULL; v = ps_mem_older(v))
		n++;
	if (n < PS_IMAGE_LAST)
		return NULL;
	versions = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(PsMemVersion *) * n);
	n = 0;
	for (const PsMemVersion *v = newest; v != NULL; v = ps_mem_older(v))
		versions[n++] = v;
	m.versions = versions;
	m.n = n;
	ok = attempt(&key->key, do_make_images, &m);
	pfree(versions);
	return ok ? m.images : NULL;
}

/* ---- one image, for compaction ---- */

bool
ps_may_have_images(const neon_key *key)
{
	return may_have_images(key) || (key->kind == NEON_KEY_REL_BLOCK && key->fork == VISIBILITYMAP_FORKNUM);
}

typedef struct ImageAt
{
	PsTimeline *tl;
	const neon_key *key;
	XLogRecPtr	lsn;
	uint8	   *page;
} ImageAt;

static void
do_image_at(void *arg)
{
	ImageAt    *m = arg;

	ps_get_page(m->tl, m->key, m->lsn, (char *) m->page);
}

bool
ps_image_at(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, uint8 page[BLCKSZ])
{
	ImageAt		m = {.tl = tl,.key = key,.lsn = lsn,.page = page};

	return attempt(key, do_image_at, &m);
}
