/*
 * ps_read.c - finding versions: open layer, frozen layers, layer files, then the ancestor up to the branch point.
 *
 * Invariant: memory layers hold everything above the oldest one's start_lsn, layer files everything at or below
 * disk_consistent_lsn.  A flush inserts the file's row before it takes the memory layer off the list, so a reader
 * that bounds the files by the oldest memory layer it saw, and uses a layer map no older than the generation it saw under the
 * same lock, meets every version exactly once.
 *
 * Nothing holds a layer file for a reader.  Compaction removes what it has replaced as soon as the map's generation has moved,
 * so a file of the map at hand may be gone, after whatever time; then there is a newer map, in which other files hold the same versions,
 * and the files are searched again from the start by that.  A missing file of the newest map is an error.
 *
 * Locks: layers_lock shared while memory layers are looked at.  Bytes are copied out before it is released.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_layer_file.h"

#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#define PS_FIRST_VERSIONS	16
#define PS_MAX_SEARCHES		100	/* of the files, for one read: compactions that may overtake it */

uint64		ps_layers_visited;
void		(*ps_map_taken_hook) (void);

/* What is looked for, and what to do with each version, newest first.  false stops the walk. */
typedef struct PsWalk PsWalk;
typedef bool (*PsVisit) (PsWalk *walk, const PsVersion *v);

struct PsWalk
{
	const neon_key *key;
	XLogRecPtr	lo;				/* exclusive */
	PsVisit		visit;
	PsChain    *chain;
	bool		stop_at_init;
	uint32		cut_block;		/* for the look-up of cuts */
	XLogRecPtr	found_lsn;
};

/* ---- one timeline's memory layers ---- */

/* Memory layers newest first; the caller holds layers_lock.  Returns their number. */
static int
memory_layers(PsTimeline *tl, const PsMemLayer *layers[PS_MAX_FROZEN + 1])
{
	int			n = 0;

	if (tl->open_layer != PS_NO_LAYER)
		layers[n++] = &ps_mem_layers[tl->open_layer];
	for (int i = tl->nfrozen - 1; i >= 0; i--)
		layers[n++] = &ps_mem_layers[tl->frozen[i]];
	return n;
}

static inline XLogRecPtr
bound_in_layer(const PsMemLayer *layer, XLogRecPtr hi)
{
	return layer->end_lsn != InvalidXLogRecPtr && layer->end_lsn < hi ? layer->end_lsn : hi;
}

/* Readers see nothing above last_record_lsn; the writer sees what it has put. */
static XLogRecPtr
visible_bound(PsTimeline *tl, XLogRecPtr hi)
{
	if (LWLockHeldByMe(&tl->write_lock))
		return hi;
	return Min(hi, ps_timeline_last_record_lsn(tl));
}

static bool
visit_memory_version(PsWalk *walk, const PsMemVersion *mv)
{
	PsVersion	v = {.lsn = mv->lsn,.flags = mv->flags,.len = mv->len,.bytes = ps_mem_bytes(mv)};
	uint8	   *copy = NULL;
	bool		go_on;

	if (v.bytes == NULL)
	{
		copy = MemoryContextAllocHuge(CurrentMemoryContext, mv->len);
		ps_mem_copy(mv, copy);
		v.bytes = copy;
	}
	go_on = walk->visit(walk, &v);
	if (copy)
		pfree(copy);
	return go_on;
}

/* *hi becomes the bound for layer files.  false: the visitor has what it wants. */
static bool
walk_memory(PsTimeline *tl, PsWalk *walk, XLogRecPtr *hi, uint64 *generation)
{
	const PsMemLayer *layers[PS_MAX_FROZEN + 1];
	XLogRecPtr	bound = visible_bound(tl, *hi);
	bool		go_on = true;
	int			n;

	LWLockAcquire(&tl->layers_lock, LW_SHARED);
	n = memory_layers(tl, layers);
	*generation = pg_atomic_read_u64(&tl->map_generation);
	*hi = bound;
	for (int i = 0; i < n && go_on; i++)
	{
		const PsMemVersion *v = NULL;

		if (layers[i]->start_lsn < *hi)
			*hi = layers[i]->start_lsn;
		if (layers[i]->start_lsn < bound)
			v = ps_mem_find(layers[i], walk->key, bound_in_layer(layers[i], bound));
		for (; v != NULL && v->lsn > walk->lo && go_on; v = ps_mem_older(v))
			go_on = visit_memory_version(walk, v);
	}
	LWLockRelease(&tl->layers_lock);
	return go_on;
}

/* ---- one timeline's layer files ---- */

/* Looks into files of a map; starts from the beginning whenever it is called. */
typedef bool (*PsSearch) (neon_layer_map *map, void *arg);

/* One search; 'done' is not set when a file is gone and there is a newer map than the one that named it. */
static bool
search_once(PsTimeline *tl, uint64 *generation, PsSearch search, void *arg, volatile bool *done)
{
	neon_layer_map *map = ps_layer_map_of(tl, generation);
	MemoryContext caller = CurrentMemoryContext;
	uint64		errors = ps_layer_file_errors;
	uint32		save_holdoff = InterruptHoldoffCount;
	uint32		save_cancel_holdoff = QueryCancelHoldoffCount;
	volatile bool go_on = false;

	if (ps_map_taken_hook)
		ps_map_taken_hook();
	PG_TRY();
	{
		go_on = search(map, arg);
		*done = true;
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_UNDEFINED_FILE || pg_atomic_read_u64(&tl->map_generation) == *generation)
			PG_RE_THROW();
		/* Nothing but memory was taken since; what an ERROR resets is the caller's, who may hold LWLocks. */
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		InterruptHoldoffCount = save_holdoff;
		QueryCancelHoldoffCount = save_cancel_holdoff;
		ps_layer_file_errors = errors;
		(*generation)++;
	}
	PG_END_TRY();
	return go_on;
}

static bool
search_files(PsTimeline *tl, uint64 generation, PsSearch search, void *arg)
{
	volatile bool done = false;
	bool		go_on = false;

	for (int i = 0; i < PS_MAX_SEARCHES && !done; i++)
		go_on = search_once(tl, &generation, search, arg, &done);
	if (!done)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("layer files were replaced %d times while they were read", PS_MAX_SEARCHES),
				 errhint("Try again.")));
	return go_on;
}

static bool
walk_step(PsWalk *walk, const neon_layer_step *step)
{
	PsLayerFile *file = step->layer->opaque;
	neon_layer_entry e;

	if (!ps_layer_file_may_contain(file, walk->key))
		return true;
	ps_layers_visited++;
	ps_layer_file_seek(file, walk->key, step->lsn_to);
	while (ps_layer_file_next(file, &e) && neon_key_compare(&e.key, walk->key) == 0 && e.lsn >= step->lsn_from)
	{
		PsVersion	v = {.lsn = e.lsn,.flags = e.flags,.len = e.len,.bytes = e.bytes};

		if (!walk->visit(walk, &v))
			return false;
	}
	return true;
}

typedef struct FileWalk
{
	PsWalk	   *walk;
	XLogRecPtr	hi;
	int			nversions;		/* of the chain, from memory */
} FileWalk;

static bool
walk_map(neon_layer_map *map, void *arg)
{
	FileWalk   *files = arg;
	PsWalk	   *walk = files->walk;
	neon_layer_search search;
	neon_layer_step step;

	if (walk->chain)
		walk->chain->nversions = files->nversions;
	neon_layer_search_begin(&search, map, walk->key, files->hi, walk->lo + 1);
	while (neon_layer_search_next(&search, &step))
	{
		CHECK_FOR_INTERRUPTS();
		if (!walk_step(walk, &step))
			return false;
	}
	return true;
}

static bool
walk_files(PsTimeline *tl, PsWalk *walk, XLogRecPtr hi, uint64 generation)
{
	FileWalk	files = {.walk = walk,.hi = hi,.nversions = walk->chain ? walk->chain->nversions : 0};

	return hi <= walk->lo || search_files(tl, generation, walk_map, &files);
}

/*
 * Readers wait until ancestors have been ingested up to where their branches begin (ps_timeline_wait_lsn); whoever forgets to must not get
 * what is older than the branch.
 */
static PsTimeline *
ancestor_with_history(PsTimeline *tl)
{
	PsTimeline *ancestor = ps_timeline_ancestor(tl);

	if (ancestor != NULL && ps_timeline_last_record_lsn(ancestor) < tl->start_lsn)
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("the ancestor of the timeline is at %X/%08X and has yet to be ingested again up to %X/%08X, where the branch begins",
						LSN_FORMAT_ARGS(ps_timeline_last_record_lsn(ancestor)), LSN_FORMAT_ARGS(tl->start_lsn)),
				 errhint("Try again; see neon_pageserver.timelines for its progress.")));
	return ancestor;
}

static void
walk_versions(PsTimeline *tl, PsWalk *walk, XLogRecPtr hi)
{
	while (tl != NULL && hi > walk->lo)
	{
		XLogRecPtr	files_hi = hi;
		uint64		generation;

		if (!walk_memory(tl, walk, &files_hi, &generation) ||
			!walk_files(tl, walk, files_hi, generation))
			return;
		hi = Min(hi, tl->start_lsn);
		tl = hi > walk->lo ? ancestor_with_history(tl) : NULL;
	}
}

/* ---- chains ---- */

static void
chain_init(PsChain *chain)
{
	chain->nversions = 0;
	chain->capacity = PS_FIRST_VERSIONS;
	chain->context = CurrentMemoryContext;
	chain->versions = palloc(sizeof(PsVersion) * chain->capacity);
	chain->complete = false;
}

static bool
visit_append(PsWalk *walk, const PsVersion *v)
{
	PsChain    *chain = walk->chain;
	uint8	   *bytes;

	if (chain->nversions == chain->capacity)
	{
		chain->capacity *= 2;
		chain->versions = repalloc_huge(chain->versions, sizeof(PsVersion) * chain->capacity);
	}
	bytes = MemoryContextAllocHuge(chain->context, Max(v->len, 1));
	memcpy(bytes, v->bytes, v->len);
	chain->versions[chain->nversions] = *v;
	chain->versions[chain->nversions].bytes = bytes;
	chain->nversions++;
	if (walk->stop_at_init && (v->flags & PS_VALUE_WILL_INIT))
	{
		chain->complete = true;
		return false;
	}
	return true;
}

void
ps_get_chain(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, XLogRecPtr floor, PsChain *chain)
{
	PsWalk		walk = {.key = key,.lo = floor,.visit = visit_append,.chain = chain,.stop_at_init = true};

	chain_init(chain);
	walk_versions(tl, &walk, lsn);
}

void
ps_get_versions(PsTimeline *tl, const neon_key *key, XLogRecPtr lo, XLogRecPtr hi, PsChain *chain)
{
	PsWalk		walk = {.key = key,.lo = lo,.visit = visit_append,.chain = chain,.stop_at_init = false};

	chain_init(chain);
	walk_versions(tl, &walk, hi);
}

static bool
visit_newest_image(PsWalk *walk, const PsVersion *v)
{
	if (!(v->flags & PS_VALUE_IMAGE))
		return true;
	return visit_append(walk, v) && false;
}

/* The newest image above the floor; *lsn is set when there is one. */
uint8 *
ps_get_image(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, XLogRecPtr floor, uint32 *len, XLogRecPtr *version_lsn)
{
	PsChain		chain;
	PsWalk		walk = {.key = key,.lo = floor,.visit = visit_newest_image,.chain = &chain};
	uint8	   *bytes = NULL;

	chain_init(&chain);
	walk_versions(tl, &walk, lsn);
	if (chain.nversions > 0)
	{
		bytes = (uint8 *) chain.versions[0].bytes;
		*len = chain.versions[0].len;
		if (version_lsn)
			*version_lsn = chain.versions[0].lsn;
	}
	pfree(chain.versions);
	return bytes;
}

uint8 *
ps_get_value(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, uint32 *len, XLogRecPtr *version_lsn)
{
	return ps_get_image(tl, key, lsn, InvalidXLogRecPtr, len, version_lsn);
}

/* ---- cuts ---- */

static uint32
decode_cut(PsWalk *walk, const PsVersion *v)
{
	neon_reader r;
	uint32		left;

	neon_reader_init(&r, v->bytes, v->len);
	left = neon_get_u32(&r);
	if (!r.ok || neon_reader_left(&r) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a cut of relation %u/%u/%u fork %u at %X/%08X has %u bytes instead of 4", walk->key->spc,
						walk->key->db, walk->key->rel, walk->key->fork, LSN_FORMAT_ARGS(v->lsn), v->len)));
	return left;
}

static bool
visit_cut(PsWalk *walk, const PsVersion *v)
{
	if (decode_cut(walk, v) > walk->cut_block)
		return true;
	walk->found_lsn = v->lsn;
	return false;
}

static bool
visit_newest_cut(PsWalk *walk, const PsVersion *v)
{
	walk->cut_block = decode_cut(walk, v);
	walk->found_lsn = v->lsn;
	return false;
}

/* LSN of the last truncation, drop or creation at or below lsn that took the block away; 0 if none. */
XLogRecPtr
ps_last_cut(PsTimeline *tl, const neon_key *block, XLogRecPtr lsn)
{
	neon_key	key = {.spc = block->spc,.db = block->db,.rel = block->rel,.kind = NEON_KEY_REL_CUT,.fork = block->fork};
	PsWalk		walk = {.key = &key,.visit = visit_cut,.cut_block = block->blk};

	walk_versions(tl, &walk, lsn);
	return walk.found_lsn;
}

/* The newest cut of the block's relation above the floor, and how many blocks it left; 0 if none. */
XLogRecPtr
ps_newest_cut(PsTimeline *tl, const neon_key *block, XLogRecPtr lsn, XLogRecPtr floor, uint32 *left)
{
	neon_key	key = {.spc = block->spc,.db = block->db,.rel = block->rel,.kind = NEON_KEY_REL_CUT,.fork = block->fork};
	PsWalk		walk = {.key = &key,.lo = floor,.visit = visit_newest_cut};

	walk_versions(tl, &walk, lsn);
	*left = walk.cut_block;
	return walk.found_lsn;
}

/* ---- scans ---- */

typedef struct ScanEntry
{
	neon_key	key;			/* hash key */
	PsVersion	v;
} ScanEntry;

/* The first version of a key that is met at or below the bound need not be the newest: sources overlap. */
static void
scan_remember(HTAB *found, MemoryContext context, const neon_key *key, const PsVersion *v)
{
	bool		exists;
	ScanEntry  *entry = hash_search(found, key, HASH_ENTER, &exists);
	uint8	   *bytes;

	if (exists && entry->v.lsn >= v->lsn)
		return;
	if (exists)
		pfree((void *) entry->v.bytes);
	entry->v = *v;
	entry->v.bytes = NULL;
	bytes = MemoryContextAllocHuge(context, Max(v->len, 1));
	memcpy(bytes, v->bytes, v->len);
	entry->v.bytes = bytes;
}

static void
scan_memory_layer(const PsMemLayer *layer, const neon_key *from, const neon_key *to, XLogRecPtr bound,
				  HTAB *found, MemoryContext context)
{
	for (int kind = from->kind; kind <= to->kind; kind++)
	{
		for (const PsMemKey *k = ps_mem_first_key(layer, kind); k != NULL; k = ps_mem_next_key(k))
		{
			const PsMemVersion *mv;
			PsVersion	v;
			uint8	   *copy;

			if (neon_key_compare(&k->key, from) < 0 || neon_key_compare(&k->key, to) > 0)
				continue;
			mv = ps_mem_newest(k, bound_in_layer(layer, bound));
			if (mv == NULL)
				continue;
			copy = MemoryContextAllocHuge(context, Max(mv->len, 1));
			ps_mem_copy(mv, copy);
			v = (PsVersion) {.lsn = mv->lsn,.flags = mv->flags,.len = mv->len,.bytes = copy};
			scan_remember(found, context, &k->key, &v);
			pfree(copy);
		}
	}
}

static void
scan_file(const neon_layer_desc *d, const neon_key *from, const neon_key *to, XLogRecPtr bound,
		  HTAB *found, MemoryContext context)
{
	neon_layer_entry e;
	neon_key	taken = {.pad = 1}; /* the key whose newest version we have: older ones follow */

	if (d->lsn_lo > bound || neon_key_compare(&d->key_last, from) < 0 || neon_key_compare(&d->key_first, to) > 0)
		return;
	(void) ps_layer_file_may_contain(d->opaque, from);	/* opens it */
	ps_layer_file_seek(d->opaque, from, NEON_LSN_MAX);
	while (ps_layer_file_next(d->opaque, &e) && neon_key_compare(&e.key, to) <= 0)
	{
		PsVersion	v = {.lsn = e.lsn,.flags = e.flags,.len = e.len,.bytes = e.bytes};

		CHECK_FOR_INTERRUPTS();
		if (e.lsn > bound || memcmp(&e.key, &taken, sizeof(neon_key)) == 0)
			continue;
		taken = e.key;
		scan_remember(found, context, &e.key, &v);
	}
}

typedef struct FileScan
{
	const neon_key *from;
	const neon_key *to;
	XLogRecPtr	hi;
	HTAB	   *found;
	MemoryContext context;
} FileScan;

/* What an earlier search has found is found again. */
static bool
scan_map(neon_layer_map *map, void *arg)
{
	FileScan   *scan = arg;

	for (uint32 i = 0; i < map->count; i++)
		scan_file(&map->layers[i], scan->from, scan->to, scan->hi, scan->found, scan->context);
	return true;
}

static void
scan_timeline(PsTimeline *tl, const neon_key *from, const neon_key *to, XLogRecPtr hi,
			  HTAB *found, MemoryContext context)
{
	const PsMemLayer *layers[PS_MAX_FROZEN + 1];
	XLogRecPtr	bound = visible_bound(tl, hi);
	FileScan	scan = {.from = from,.to = to,.hi = bound,.found = found,.context = context};
	uint64		generation;
	int			n;

	LWLockAcquire(&tl->layers_lock, LW_SHARED);
	n = memory_layers(tl, layers);
	generation = pg_atomic_read_u64(&tl->map_generation);
	for (int i = 0; i < n; i++)
	{
		scan.hi = Min(scan.hi, layers[i]->start_lsn);
		if (layers[i]->start_lsn < bound)
			scan_memory_layer(layers[i], from, to, bound, found, context);
	}
	LWLockRelease(&tl->layers_lock);

	(void) search_files(tl, generation, scan_map, &scan);
}

static int
compare_entries(const void *a, const void *b)
{
	return neon_key_compare(&(*(ScanEntry *const *) a)->key, &(*(ScanEntry *const *) b)->key);
}

void
ps_scan(PsTimeline *tl, const neon_key *from, const neon_key *to, XLogRecPtr lsn, ps_scan_fn fn, void *arg)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "scan", ALLOCSET_DEFAULT_SIZES);
	HASHCTL		ctl = {.keysize = sizeof(neon_key),.entrysize = sizeof(ScanEntry),.hcxt = context};
	HTAB	   *found = hash_create("scan", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	HASH_SEQ_STATUS seq;
	ScanEntry **entries;
	ScanEntry  *entry;
	long		n;
	long		i = 0;

	for (; tl != NULL; tl = ancestor_with_history(tl))
	{
		scan_timeline(tl, from, to, lsn, found, context);
		lsn = Min(lsn, tl->start_lsn);
	}

	n = hash_get_num_entries(found);
	entries = MemoryContextAllocHuge(context, sizeof(ScanEntry *) * (n + 1));
	hash_seq_init(&seq, found);
	while ((entry = hash_seq_search(&seq)) != NULL)
		entries[i++] = entry;
	qsort(entries, n, sizeof(ScanEntry *), compare_entries);
	for (i = 0; i < n; i++)
	{
		if (!fn(&entries[i]->key, &entries[i]->v, arg))
			break;
	}
	MemoryContextDelete(context);
}
