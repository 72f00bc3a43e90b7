/*
 * ps_page_cache.c - materialised pages in shared memory, as bases for later versions of the same page.
 *
 * A page that is changed often and logged whole rarely has a chain of thousands of records.  Its state as of some LSN is kept
 * here, so that the next read applies only the records since.  An entry says: this is the page's content as of this
 * LSN; it is right for ever, being history, but of use only to reads at or above that LSN and above the last cut.
 *
 * The cache is set-associative: a key's hash gives a set of eight entries, in which the least recently used one is
 * replaced.  A key has at most one entry, the newest.  An entry of a timeline that was dropped is known by its incarnation.
 * A reader that found nothing newer than an entry moves its LSN up, so that the next read at that LSN need not look again.
 *
 * Locks: a set belongs to one of PS_CACHE_LOCKS LWLocks, held while a page is copied.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_page_cache.h"

#include "storage/shmem.h"

#define PS_CACHE_WAYS	8
#define PS_CACHE_LOCKS	64

typedef struct CacheEntry
{
	uint32		slot;			/* of the timeline, + 1; 0: free */
	uint32		incarnation;
	neon_key	key;
	XLogRecPtr	as_of;
	uint64		used;			/* tick of the last use */
} CacheEntry;

typedef struct PageCache
{
	LWLock		locks[PS_CACHE_LOCKS];
	pg_atomic_uint64 tick;
	uint32		nsets;
} PageCache;

int			ps_page_cache_mb;

static PageCache *cache;
static CacheEntry *entries;
static char *pages;

static uint32
cache_sets(void)
{
	return (uint32) ((Size) ps_page_cache_mb * 1024 * 1024 / (PS_CACHE_WAYS * BLCKSZ));
}

Size
ps_page_cache_shmem_bytes(void)
{
	Size		n = (Size) cache_sets() * PS_CACHE_WAYS;

	return MAXALIGN(sizeof(PageCache)) + MAXALIGN(n * sizeof(CacheEntry)) + n * BLCKSZ + BLCKSZ;
}

void
ps_page_cache_init(void)
{
	bool		found;
	Size		n = (Size) cache_sets() * PS_CACHE_WAYS;
	char	   *base = ShmemInitStruct("neon_pageserver pages", ps_page_cache_shmem_bytes(), &found);

	cache = (PageCache *) base;
	entries = (CacheEntry *) (base + MAXALIGN(sizeof(PageCache)));
	pages = (char *) TYPEALIGN(BLCKSZ, (char *) entries + MAXALIGN(n * sizeof(CacheEntry)));
	if (found)
		return;
	for (int i = 0; i < PS_CACHE_LOCKS; i++)
		LWLockInitialize(&cache->locks[i], ps_shared->table_lock.tranche);
	pg_atomic_init_u64(&cache->tick, 1);
	cache->nsets = cache_sets();
	memset(entries, 0, n * sizeof(CacheEntry));
}

static uint32
set_of(PsTimeline *tl, const neon_key *key)
{
	uint64		hash = neon_key_hash(key) ^ ((uint64) (tl - ps_timelines) * UINT64CONST(0x9E3779B97F4A7C15));

	return (uint32) ((hash >> 32) % cache->nsets);
}

static inline LWLock *
lock_of(uint32 set)
{
	return &cache->locks[set % PS_CACHE_LOCKS];
}

static inline bool
is_entry_of(const CacheEntry *e, PsTimeline *tl, uint32 incarnation, const neon_key *key)
{
	return e->slot == (uint32) (tl - ps_timelines) + 1 && e->incarnation == incarnation &&
		memcmp(&e->key, key, sizeof(neon_key)) == 0;
}

bool
ps_page_cache_get(PsTimeline *tl, uint32 incarnation, const neon_key *key, XLogRecPtr floor, XLogRecPtr lsn,
				  char page[BLCKSZ], XLogRecPtr *as_of)
{
	uint32		set;
	bool		found = false;

	if (cache->nsets == 0)
		return false;
	set = set_of(tl, key);
	LWLockAcquire(lock_of(set), LW_SHARED);
	for (uint32 i = set * PS_CACHE_WAYS; i < (set + 1) * PS_CACHE_WAYS; i++)
	{
		if (!is_entry_of(&entries[i], tl, incarnation, key))
			continue;
		if (entries[i].as_of >= floor && entries[i].as_of <= lsn)
		{
			memcpy(page, pages + (Size) i * BLCKSZ, BLCKSZ);
			*as_of = entries[i].as_of;
			entries[i].used = pg_atomic_fetch_add_u64(&cache->tick, 1);	/* a lost update is harmless */
			found = true;
		}
		break;
	}
	LWLockRelease(lock_of(set));
	return found;
}

/* Nobody waits for what only saves a later look. */
void
ps_page_cache_touch(PsTimeline *tl, uint32 incarnation, const neon_key *key, XLogRecPtr was, XLogRecPtr as_of)
{
	uint32		set;

	if (cache->nsets == 0)
		return;
	set = set_of(tl, key);
	if (!LWLockConditionalAcquire(lock_of(set), LW_EXCLUSIVE))
		return;
	for (uint32 i = set * PS_CACHE_WAYS; i < (set + 1) * PS_CACHE_WAYS; i++)
	{
		if (!is_entry_of(&entries[i], tl, incarnation, key))
			continue;
		/* another reader may have put a later state, or moved it further */
		if (entries[i].as_of == was)
			entries[i].as_of = as_of;
		break;
	}
	LWLockRelease(lock_of(set));
}

void
ps_page_cache_put(PsTimeline *tl, uint32 incarnation, const neon_key *key, XLogRecPtr as_of,
				  const char page[BLCKSZ])
{
	uint32		set;
	uint32		victim;

	if (cache->nsets == 0)
		return;
	set = set_of(tl, key);
	victim = set * PS_CACHE_WAYS;
	LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
	for (uint32 i = set * PS_CACHE_WAYS; i < (set + 1) * PS_CACHE_WAYS; i++)
	{
		if (is_entry_of(&entries[i], tl, incarnation, key))
		{
			victim = i;
			break;
		}
		if (entries[i].used < entries[victim].used)
			victim = i;
	}
	if (!is_entry_of(&entries[victim], tl, incarnation, key) || entries[victim].as_of < as_of)
	{
		entries[victim].slot = (uint32) (tl - ps_timelines) + 1;
		entries[victim].incarnation = incarnation;
		entries[victim].key = *key;
		entries[victim].as_of = as_of;
		entries[victim].used = pg_atomic_fetch_add_u64(&cache->tick, 1);
		memcpy(pages + (Size) victim * BLCKSZ, page, BLCKSZ);
	}
	LWLockRelease(lock_of(set));
}
