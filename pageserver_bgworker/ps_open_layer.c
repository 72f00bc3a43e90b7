/*
 * ps_open_layer.c - the newest versions of a timeline: a log of versions in shared memory with a hash trie over keys.
 *
 * A memory layer is a chain of segments filled from front to back: segment header, then keys, versions and their bytes in
 * the order of arrival.  Bytes may run on into the next segment.  A key is found through 4096 roots and then a trie with
 * four children a node, each step using two more bits of the key's hash: it never resizes, an insertion is one
 * pointer store, and a lookup of one key in a million visits about four nodes.  Each key points to its newest version and
 * each version to the one before.
 *
 * Invariant: versions of a key are in descending LSN order, at most one for an LSN.  A put at or below the LSN of the
 * newest version replaces what is there: this is how a batch that failed half-way is put again.  Versions above
 * last_record_lsn are invisible to readers, and to the flush of a layer that was frozen below them.
 *
 * Locks: one writer, which holds the timeline's write_lock from the first put to ps_commit.  Readers hold layers_lock
 * shared and follow pointers with acquire loads.  ps_freeze takes both.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_internal.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "utils/timestamp.h"

#define PS_ROOTS				4096
#define PS_ROOT_BITS			12
#define PS_SEGMENT_HEADER_BYTES	8
#define PS_MIN_CHUNK_BYTES		64	/* do not begin a value in a smaller rest of a segment */
#define PS_MIN_SHARED_BYTES		64	/* below this a second copy of a record is cheaper than finding the first */
#define PS_THROTTLE_WAIT_MS		1000

#define LOAD(x)			__atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define STORE(x, v)		__atomic_store_n(&(x), (v), __ATOMIC_RELEASE)

StaticAssertDecl(sizeof(neon_key) == 20, "neon_key has no padding of its own");
StaticAssertDecl(sizeof(PsMemKey) <= 48, "a key takes at most 48 bytes");

/* The last value this process put: a record that touches several blocks is stored once. */
static struct
{
	uint64		layer_serial;
	XLogRecPtr	lsn;
	uint32		len;
	uint32		data;
}			last_value;

/* ---- space in a layer ---- */

static inline uint32 *
segment_next(uint32 segment)
{
	return (uint32 *) (ps_pool + (Size) segment * PS_SEGMENT_BYTES);
}

static void
add_segment(PsMemLayer *layer)
{
	uint32		segment = ps_segment_take();

	if (layer->nsegments == 0)
		layer->first_segment = segment;
	else
		STORE(*segment_next(layer->last_segment), segment + 1);
	layer->last_segment = segment;
	layer->nsegments++;
	layer->used_bytes = PS_SEGMENT_HEADER_BYTES;
}

/* Pool offset of `bytes` bytes in one piece. */
static uint32
allocate(PsMemLayer *layer, uint32 bytes)
{
	uint32		at;

	bytes = (bytes + 7) & ~7u;
	if (layer->nsegments == 0 || layer->used_bytes + bytes > PS_SEGMENT_BYTES)
		add_segment(layer);
	at = (uint32) (((Size) layer->last_segment * PS_SEGMENT_BYTES + layer->used_bytes) >> 3);
	layer->used_bytes += bytes;
	return at;
}

/* Pool offset of a copy of the bytes, which may run on into following segments. */
static uint32
append_bytes(PsMemLayer *layer, const uint8 *bytes, uint32 len)
{
	uint32		at;

	if (layer->nsegments == 0 || PS_SEGMENT_BYTES - layer->used_bytes < Min(PS_MIN_CHUNK_BYTES, ((len + 7) & ~7u)))
		add_segment(layer);
	at = (uint32) (((Size) layer->last_segment * PS_SEGMENT_BYTES + layer->used_bytes) >> 3);
	for (;;)
	{
		uint32		chunk = Min(len, PS_SEGMENT_BYTES - layer->used_bytes);

		memcpy(ps_pool + (Size) layer->last_segment * PS_SEGMENT_BYTES + layer->used_bytes, bytes, chunk);
		layer->used_bytes += (chunk + 7) & ~7u;
		bytes += chunk;
		len -= chunk;
		if (len == 0)
			return at;
		add_segment(layer);
	}
}

uint64
ps_mem_layer_bytes(const PsMemLayer *layer)
{
	return (uint64) layer->nsegments * PS_SEGMENT_BYTES;
}

/* ---- reading ---- */

static const PsMemKey *
find_key(const PsMemLayer *layer, const neon_key *key)
{
	uint64		hash = neon_key_hash(key);
	uint32		roots = LOAD(layer->roots);
	const uint32 *slot;

	if (roots == 0)
		return NULL;
	slot = (const uint32 *) PS_POOL_PTR(roots) + (hash >> (64 - PS_ROOT_BITS));
	hash <<= PS_ROOT_BITS;
	for (;;)
	{
		uint32		off = LOAD(*slot);
		const PsMemKey *node;

		if (off == 0)
			return NULL;
		node = PS_POOL_PTR(off);
		if (memcmp(&node->key, key, sizeof(neon_key)) == 0)
			return node;
		slot = &node->child[hash >> 62];
		hash <<= 2;
	}
}

const PsMemVersion *
ps_mem_newest(const PsMemKey *key, XLogRecPtr lsn)
{
	uint32		off = LOAD(key->head);

	while (off != 0)
	{
		const PsMemVersion *v = PS_POOL_PTR(off);

		if (v->lsn <= lsn)
			return v;
		off = v->prev;
	}
	return NULL;
}

const PsMemVersion *
ps_mem_find(const PsMemLayer *layer, const neon_key *key, XLogRecPtr lsn)
{
	const PsMemKey *node = find_key(layer, key);

	return node ? ps_mem_newest(node, lsn) : NULL;
}

const PsMemVersion *
ps_mem_older(const PsMemVersion *v)
{
	return v->prev ? PS_POOL_PTR(v->prev) : NULL;
}

void
ps_mem_copy(const PsMemVersion *v, uint8 *to)
{
	Size		at = (Size) v->data << 3;
	uint32		left = v->len;

	while (left > 0)
	{
		uint32		segment = (uint32) (at / PS_SEGMENT_BYTES);
		uint32		chunk = Min(left, PS_SEGMENT_BYTES - (uint32) (at % PS_SEGMENT_BYTES));

		memcpy(to, ps_pool + at, chunk);
		to += chunk;
		left -= chunk;
		if (left > 0)
			at = (Size) (LOAD(*segment_next(segment)) - 1) * PS_SEGMENT_BYTES + PS_SEGMENT_HEADER_BYTES;
	}
}

const uint8 *
ps_mem_bytes(const PsMemVersion *v)
{
	Size		at = (Size) v->data << 3;

	if (v->len > PS_SEGMENT_BYTES - at % PS_SEGMENT_BYTES)
		return NULL;
	return (const uint8 *) ps_pool + at;
}

const PsMemKey *
ps_mem_first_key(const PsMemLayer *layer, neon_key_kind kind)
{
	uint32		off = LOAD(layer->kind_heads[kind]);

	return off ? PS_POOL_PTR(off) : NULL;
}

const PsMemKey *
ps_mem_next_key(const PsMemKey *key)
{
	return key->kind_next ? PS_POOL_PTR(key->kind_next) : NULL;
}

/* ---- writing ---- */

/* An empty layer is put on the timeline before it gets memory: should that fail, the next put finds it there. */
static PsMemLayer *
open_layer_of(PsTimeline *tl)
{
	PsMemLayer *layer;

	if (tl->open_layer == PS_NO_LAYER)
	{
		int			index = ps_layer_take();

		if (index == PS_NO_LAYER)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("all %d memory layers are in use", ps_shared->nlayers),
					 errhint("Raise neon_pageserver.open_layer_memory.")));
		ps_mem_layers[index].start_lsn = pg_atomic_read_u64(&tl->last_record_lsn);
		tl->open_since = GetCurrentTimestamp();
		LWLockAcquire(&tl->layers_lock, LW_EXCLUSIVE);
		tl->open_layer = index;
		LWLockRelease(&tl->layers_lock);
	}
	layer = &ps_mem_layers[tl->open_layer];
	if (layer->roots == 0)
	{
		uint32		roots = allocate(layer, PS_ROOTS * sizeof(uint32));

		memset(PS_POOL_PTR(roots), 0, PS_ROOTS * sizeof(uint32));
		STORE(layer->roots, roots);
	}
	return layer;
}

static PsMemKey *
find_or_add_key(PsMemLayer *layer, const neon_key *key)
{
	uint64		hash = neon_key_hash(key);
	uint32	   *slot = (uint32 *) PS_POOL_PTR(layer->roots) + (hash >> (64 - PS_ROOT_BITS));
	PsMemKey   *node;
	uint32		off;

	hash <<= PS_ROOT_BITS;
	while ((off = *slot) != 0)
	{
		node = PS_POOL_PTR(off);
		if (memcmp(&node->key, key, sizeof(neon_key)) == 0)
			return node;
		slot = &node->child[hash >> 62];
		hash <<= 2;
	}
	off = allocate(layer, sizeof(PsMemKey));
	node = PS_POOL_PTR(off);
	memset(node, 0, sizeof(PsMemKey));
	node->key = *key;
	node->kind_next = layer->kind_heads[key->kind];
	STORE(*slot, off);
	STORE(layer->kind_heads[key->kind], off);
	layer->nkeys++;
	return node;
}

/* Are these the bytes that were put last?  Compared, not guessed from the pointer. */
static bool
same_as_last(const PsMemLayer *layer, XLogRecPtr lsn, const uint8 *bytes, uint32 len)
{
	PsMemVersion v = {.len = len,.data = last_value.data};
	const uint8 *there;

	if (len < PS_MIN_SHARED_BYTES || last_value.layer_serial != layer->serial ||
		last_value.lsn != lsn || last_value.len != len)
		return false;
	there = ps_mem_bytes(&v);
	return there != NULL && memcmp(there, bytes, len) == 0;
}

void
ps_put(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, uint32 flags, const void *bytes, uint32 len)
{
	PsMemLayer *layer;
	PsMemKey   *node;
	PsMemVersion *v;
	uint32		prev,
				data,
				off;

	if (!LWLockHeldByMe(&tl->write_lock))
		LWLockAcquire(&tl->write_lock, LW_EXCLUSIVE);
	if (lsn <= pg_atomic_read_u64(&tl->last_record_lsn))
		elog(ERROR, "version at %X/%08X put after the timeline reached %X/%08X", LSN_FORMAT_ARGS(lsn),
			 LSN_FORMAT_ARGS(pg_atomic_read_u64(&tl->last_record_lsn)));
	if (key->kind >= NEON_KEY_KIND_COUNT || key->pad != 0)
		elog(ERROR, "malformed key of kind %d", key->kind);
	if ((uint64) len > (uint64) ps_shared->nsegments * PS_SEGMENT_BYTES / 4)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a version of %u bytes at %X/%08X does not fit in the open layers", len, LSN_FORMAT_ARGS(lsn)),
				 errhint("Raise neon_pageserver.open_layer_memory.")));

	layer = open_layer_of(tl);
	node = find_or_add_key(layer, key);
	for (prev = node->head; prev != 0; prev = ((PsMemVersion *) PS_POOL_PTR(prev))->prev)
	{
		if (((PsMemVersion *) PS_POOL_PTR(prev))->lsn < lsn)
			break;
	}
	if (same_as_last(layer, lsn, bytes, len))
		data = last_value.data;
	else
		data = append_bytes(layer, bytes, len);
	off = allocate(layer, sizeof(PsMemVersion));
	v = PS_POOL_PTR(off);
	v->lsn = lsn;
	v->flags = flags;
	v->len = len;
	v->data = data;
	v->prev = prev;
	STORE(node->head, off);
	layer->nversions++;

	last_value.layer_serial = layer->serial;
	last_value.lsn = lsn;
	last_value.len = len;
	last_value.data = data;
}

void
ps_put_size(PsTimeline *tl, uint32 spc, uint32 db, uint32 rel, uint8 fork, XLogRecPtr lsn, uint32 nblocks)
{
	neon_key	key = {.spc = spc,.db = db,.rel = rel,.kind = NEON_KEY_REL_SIZE,.fork = fork};
	uint8		value[4];
	neon_writer w;

	neon_writer_init(&w, value, sizeof(value));
	neon_put_u32(&w, nblocks);
	ps_put(tl, &key, lsn, PS_VALUE_IMAGE | PS_VALUE_WILL_INIT, value, sizeof(value));
}

void
ps_commit(PsTimeline *tl, XLogRecPtr last_record_lsn, XLogRecPtr prev_record_lsn)
{
	int			open_layer;

	if (last_record_lsn < pg_atomic_read_u64(&tl->last_record_lsn))
		elog(ERROR, "last_record_lsn would move back to %X/%08X", LSN_FORMAT_ARGS(last_record_lsn));
	if (!LWLockHeldByMe(&tl->write_lock))
		LWLockAcquire(&tl->write_lock, LW_EXCLUSIVE);
	pg_atomic_write_u64(&tl->prev_record_lsn, prev_record_lsn);
	pg_write_barrier();
	pg_atomic_write_u64(&tl->last_record_lsn, last_record_lsn);
	open_layer = tl->open_layer;
	LWLockRelease(&tl->write_lock);
	ConditionVariableBroadcast(&tl->lsn_cv);

	if (open_layer != PS_NO_LAYER &&
		ps_mem_layer_bytes(&ps_mem_layers[open_layer]) >= (uint64) ps_checkpoint_distance_kb * 1024)
		(void) ps_freeze(tl);
}

/*
 * After an error of the writer: versions above last_record_lsn will be put again, in a layer that has room.  A layer that holds no others goes
 * at once, another one is frozen, and loses them when it is flushed.  Otherwise every attempt would take memory that nobody gives back.
 */
void
ps_discard_uncommitted(PsTimeline *tl)
{
	int			index;

	LWLockAcquire(&tl->write_lock, LW_EXCLUSIVE);
	LWLockAcquire(&tl->layers_lock, LW_EXCLUSIVE);
	index = tl->open_layer;
	if (index != PS_NO_LAYER && ps_mem_layers[index].start_lsn >= pg_atomic_read_u64(&tl->last_record_lsn))
		tl->open_layer = PS_NO_LAYER;
	else
		index = PS_NO_LAYER;
	LWLockRelease(&tl->layers_lock);
	LWLockRelease(&tl->write_lock);
	if (index != PS_NO_LAYER)
		ps_mem_layer_free(index);
	else
		(void) ps_freeze(tl);
}

/*
 * Closes the open layer at last_record_lsn.  Without an open layer but with WAL that held nothing to store, a layer
 * without versions is frozen, so that disk_consistent_lsn follows.  The caller has the write_lock, which is released.
 */
static int
freeze_locked(PsTimeline *tl)
{
	XLogRecPtr	last;
	XLogRecPtr	start;
	int			index;
	int			result = 0;

	LWLockAcquire(&tl->layers_lock, LW_EXCLUSIVE);
	last = pg_atomic_read_u64(&tl->last_record_lsn);
	index = tl->open_layer;
	if (index != PS_NO_LAYER)
		start = ps_mem_layers[index].start_lsn;
	else if (tl->nfrozen > 0)
		start = ps_mem_layers[tl->frozen[tl->nfrozen - 1]].end_lsn;
	else
		start = pg_atomic_read_u64(&tl->disk_consistent_lsn);

	if (start < last)
	{
		if (tl->nfrozen == PS_MAX_FROZEN)
			result = -1;
		else if (index == PS_NO_LAYER && (index = ps_layer_take()) == PS_NO_LAYER)
			result = -1;
		else
		{
			ps_mem_layers[index].start_lsn = start;
			ps_mem_layers[index].end_lsn = last;
			ps_mem_layers[index].end_prev_lsn = pg_atomic_read_u64(&tl->prev_record_lsn);
			tl->frozen[tl->nfrozen++] = index;
			tl->open_layer = PS_NO_LAYER;
			result = 1;
		}
	}
	LWLockRelease(&tl->layers_lock);
	LWLockRelease(&tl->write_lock);
	if (result != 0)
		ps_wake_flush();
	return result;
}

int
ps_freeze(PsTimeline *tl)
{
	LWLockAcquire(&tl->write_lock, LW_EXCLUSIVE);
	return freeze_locked(tl);
}

bool
ps_freeze_unless_busy(PsTimeline *tl)
{
	return LWLockConditionalAcquire(&tl->write_lock, LW_EXCLUSIVE) && freeze_locked(tl) > 0;
}

void
ps_throttle(PsTimeline *tl)
{
	if (!ps_pool_scarce() && tl->nfrozen < PS_MAX_FROZEN - 1)
		return;
	ConditionVariablePrepareToSleep(&ps_shared->pool_cv);
	while (ps_pool_scarce() || tl->nfrozen >= PS_MAX_FROZEN - 1)
	{
		ps_wake_flush();
		(void) ConditionVariableTimedSleep(&ps_shared->pool_cv, PS_THROTTLE_WAIT_MS, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

void
ps_flush_now(PsTimeline *tl)
{
	XLogRecPtr	target = pg_atomic_read_u64(&tl->last_record_lsn);
	uint32		incarnation = ps_timeline_incarnation(tl);
	bool		frozen = false;

	ConditionVariablePrepareToSleep(&tl->flush_cv);
	while (pg_atomic_read_u64(&tl->disk_consistent_lsn) < target && ps_timeline_is_live(tl, incarnation))
	{
		if (!frozen)
			frozen = ps_freeze(tl) >= 0;
		(void) ConditionVariableTimedSleep(&tl->flush_cv, PS_THROTTLE_WAIT_MS, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}
