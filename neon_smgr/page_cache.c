/*
 * page_cache.c - the local page cache: one file, indexed in shared memory.
 *
 * The file has one page a slot.  Slots are divided into partitions by the hash of the block's name; each partition has its
 * lock, a chained hash over its own slots and a clock hand.  A page is read and written under the partition's lock (the file
 * is in the kernel's cache, so this is a copy, not a wait for a disk).
 *
 * A slot whose page the quorum does not have yet (keep_until above the quorum's commit_lsn) is not reused: storage could not
 * give the page back.  When a partition has only such slots, page_cache_put says so and the caller keeps the page elsewhere.
 *
 * Invariant: a block's copy is its content as last written by the server or as last read from the page source; whoever
 * writes a block elsewhere removes it here first.
 *
 * Each slot has the checksum of its page.  A copy that does not fit it is never handed out: it is forgotten where the quorum has the
 * page's WAL, and an error where it is the only one.
 *
 * Crash rule: after a crash the file is worthless and removed.  After a clean stop it may be used again (warm_cache.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "neon_smgr.h"
#include "page_cache.h"

#define CACHE_MAX_PARTITIONS	128
#define CACHE_MIN_PART_SLOTS	16
#define CACHE_MAX_USAGE			3
#define NO_SLOT					(-1)

typedef struct CacheSlot
{
	NeonRel		rel;
	BlockNumber block;
	uint8		fork;
	bool		used;
	uint8		usage;			/* clock */
	int32		next;			/* in its bucket's chain */
	uint32		crc;			/* of the page */
	XLogRecPtr	keep_until;
} CacheSlot;

typedef struct CachePartition
{
	int32		hand;			/* next slot the clock looks at, relative to the partition's first */
	int32		used;
} CachePartition;

static CacheSlot *slots;
static int32 *buckets;			/* heads of chains: as many as slots; slot numbers are global */
static CachePartition *partitions;
static LWLockPadded *locks;
static int	npartitions;
static int	part_slots;

static int	cache_fd = -1;		/* this process's */

static void
compute_geometry(void)
{
	int64		total = (int64) neon_file_cache_size_limit_mb * 1024 * 1024 / BLCKSZ;

	total = Min(total, PG_INT32_MAX / 2);
	npartitions = Min(Max(total / CACHE_MIN_PART_SLOTS, 1), CACHE_MAX_PARTITIONS);
	part_slots = total / npartitions;
}

Size
page_cache_shmem_bytes(void)
{
	compute_geometry();
	return add_size(mul_size((Size) npartitions * part_slots, sizeof(CacheSlot) + sizeof(int32)),
					CACHE_MAX_PARTITIONS * sizeof(CachePartition) + 3 * PG_CACHE_LINE_SIZE);
}

void
page_cache_request(void)
{
	RequestAddinShmemSpace(page_cache_shmem_bytes());
	RequestNamedLWLockTranche("neon_page_cache", CACHE_MAX_PARTITIONS);
}

void
page_cache_reset(void)
{
	Size		nslots = (Size) npartitions * part_slots;

	memset(slots, 0, nslots * sizeof(CacheSlot));
	memset(partitions, 0, CACHE_MAX_PARTITIONS * sizeof(CachePartition));
	for (Size i = 0; i < nslots; i++)
		buckets[i] = NO_SLOT;
}

void
page_cache_init(void)
{
	bool		found;
	Size		nslots;

	compute_geometry();
	nslots = (Size) npartitions * part_slots;
	slots = ShmemInitStruct("neon page cache slots", Max(nslots * sizeof(CacheSlot), 1), &found);
	buckets = ShmemInitStruct("neon page cache buckets", Max(nslots * sizeof(int32), 1), &found);
	partitions = ShmemInitStruct("neon page cache partitions", CACHE_MAX_PARTITIONS * sizeof(CachePartition), &found);
	if (!found)
		page_cache_reset();
	locks = GetNamedLWLockTranche("neon_page_cache");
}

/* Where a block's name leads to. */
typedef struct CachePlace
{
	int			part;
	int32	   *bucket;
	LWLock	   *lock;
} CachePlace;

static CachePlace
place_of(const NeonRel *rel, int fork, BlockNumber block)
{
	uint32		words[5] = {rel->spc, rel->db, rel->rel, fork, block};
	uint64		hash = hash_bytes_extended((const unsigned char *) words, sizeof(words), 0);
	CachePlace	p;

	p.part = hash % npartitions;
	p.bucket = &buckets[(int64) p.part * part_slots + (hash >> 32) % part_slots];
	p.lock = &locks[p.part].lock;
	return p;
}

static int32
find_slot(const CachePlace *p, const NeonRel *rel, int fork, BlockNumber block)
{
	int32		i;

	for (i = *p->bucket; i != NO_SLOT; i = slots[i].next)
	{
		const CacheSlot *s = &slots[i];

		if (s->block == block && s->fork == fork && memcmp(&s->rel, rel, sizeof(*rel)) == 0)
			return i;
	}
	return NO_SLOT;
}

static void
unlink_slot(int32 slot)
{
	CacheSlot  *s = &slots[slot];
	CachePlace	p = place_of(&s->rel, s->fork, s->block);
	int32	   *link = p.bucket;

	while (*link != slot)
		link = &slots[*link].next;
	*link = s->next;
	s->used = false;
	s->keep_until = InvalidXLogRecPtr;
	partitions[p.part].used--;
}

/* A free slot of the partition, its lock held exclusively; NO_SLOT when every page in it must stay. */
static int32
free_slot(int part)
{
	CachePartition *cp = &partitions[part];
	int32		first = part * part_slots;
	XLogRecPtr	commit_lsn = neon_commit_lsn();

	for (int step = 0; step < (CACHE_MAX_USAGE + 1) * part_slots; step++)
	{
		int32		slot = first + cp->hand;
		CacheSlot  *s = &slots[slot];

		cp->hand = (cp->hand + 1) % part_slots;
		if (!s->used)
			return slot;
		if (s->keep_until > commit_lsn)
			continue;
		if (s->usage > 0)
		{
			s->usage--;
			continue;
		}
		unlink_slot(slot);
		neon_count(NEON_CNT_CACHE_EVICTIONS);
		return slot;
	}
	return NO_SLOT;
}

/* The file; errors of opening it are the operator's to fix, so they are not hidden. */
static int
cache_file(void)
{
	if (cache_fd < 0)
	{
		cache_fd = BasicOpenFile(PAGE_CACHE_PATH, O_RDWR | O_CREAT | PG_BINARY);
		if (cache_fd < 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not open file \"%s\": %m", PAGE_CACHE_PATH)));
	}
	return cache_fd;
}

bool
page_cache_has(const NeonRel *rel, int fork, BlockNumber block)
{
	CachePlace	p;
	bool		found;

	if (part_slots == 0)
		return false;
	p = place_of(rel, fork, block);
	LWLockAcquire(p.lock, LW_SHARED);
	found = find_slot(&p, rel, fork, block) != NO_SLOT;
	LWLockRelease(p.lock);
	return found;
}

/* ERROR where there is no other copy, or where the file cannot be read at all. */
static void
report_bad_copy(const NeonRel *rel, BlockNumber block, ssize_t n, bool only_copy)
{
	if (n < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read block %u of relation %u/%u/%u from file \"%s\": %m",
						block, rel->spc, rel->db, rel->rel, PAGE_CACHE_PATH)));
	ereport(only_copy ? ERROR : LOG,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("the copy of block %u of relation %u/%u/%u in file \"%s\" is damaged",
					block, rel->spc, rel->db, rel->rel, PAGE_CACHE_PATH),
			 only_copy ? errhint("Stop the compute in immediate mode and start the endpoint again.") :
			 errdetail("It is read from the pageserver instead.")));
}

bool
page_cache_get(const NeonRel *rel, int fork, BlockNumber block, char *page)
{
	CachePlace	p;
	int32		slot;
	int			fd;

	if (part_slots == 0)
		return false;
	fd = cache_file();
	p = place_of(rel, fork, block);
	LWLockAcquire(p.lock, LW_SHARED);
	slot = find_slot(&p, rel, fork, block);
	if (slot != NO_SLOT)
	{
		ssize_t		n = pread(fd, page, BLCKSZ, (off_t) slot * BLCKSZ);

		if (n != BLCKSZ || neon_crc32c(0, page, BLCKSZ) != slots[slot].crc)
		{
			bool		only_copy = slots[slot].keep_until > neon_commit_lsn();
			int			save_errno = errno;

			LWLockRelease(p.lock);
			errno = save_errno;
			report_bad_copy(rel, block, n, only_copy);
			page_cache_remove(rel, fork, block);
			return false;
		}
		/* A lost increment does no harm. */
		if (slots[slot].usage < CACHE_MAX_USAGE)
			slots[slot].usage++;
	}
	LWLockRelease(p.lock);
	return slot != NO_SLOT;
}

bool
page_cache_put(const NeonRel *rel, int fork, BlockNumber block, const char *page, XLogRecPtr keep_until)
{
	CachePlace	p;
	int32		slot;
	int			fd;
	bool		ok = false;
	PGAlignedBlock copy;

	if (part_slots == 0)
		return false;
	/* Others may set hint bits in a shared buffer while it is written: what is summed up must be what is in the file. */
	page = memcpy(copy.data, page, BLCKSZ);
	fd = cache_file();
	p = place_of(rel, fork, block);
	LWLockAcquire(p.lock, LW_EXCLUSIVE);
	slot = find_slot(&p, rel, fork, block);
	if (slot == NO_SLOT && (slot = free_slot(p.part)) != NO_SLOT)
	{
		CacheSlot  *s = &slots[slot];

		s->rel = *rel;
		s->fork = fork;
		s->block = block;
		s->used = true;
		s->usage = 1;
		s->next = *p.bucket;
		*p.bucket = slot;
		partitions[p.part].used++;
	}
	if (slot != NO_SLOT)
	{
		ok = pwrite(fd, page, BLCKSZ, (off_t) slot * BLCKSZ) == BLCKSZ;
		if (ok)
		{
			slots[slot].crc = neon_crc32c(0, page, BLCKSZ);
			slots[slot].keep_until = keep_until;
		}
		else
			unlink_slot(slot);
	}
	LWLockRelease(p.lock);
	return ok;
}

void
page_cache_remove(const NeonRel *rel, int fork, BlockNumber block)
{
	CachePlace	p;
	int32		slot;

	if (part_slots == 0)
		return;
	p = place_of(rel, fork, block);
	LWLockAcquire(p.lock, LW_EXCLUSIVE);
	slot = find_slot(&p, rel, fork, block);
	if (slot != NO_SLOT)
		unlink_slot(slot);
	LWLockRelease(p.lock);
}

static void
remove_matching(const NeonRel *rel, int fork, BlockNumber from)
{
	for (int part = 0; part < npartitions; part++)
	{
		LWLockAcquire(&locks[part].lock, LW_EXCLUSIVE);
		for (int32 i = part * part_slots; partitions[part].used > 0 && i < (part + 1) * part_slots; i++)
		{
			CacheSlot  *s = &slots[i];

			if (s->used && memcmp(&s->rel, rel, sizeof(*rel)) == 0 && (fork < 0 || s->fork == fork) && s->block >= from)
				unlink_slot(i);
		}
		LWLockRelease(&locks[part].lock);
	}
}

void
page_cache_remove_range(const NeonRel *rel, int fork, BlockNumber from, BlockNumber to)
{
	if (part_slots == 0 || from >= to)
		return;
	/* One by one while that is less than to look at every slot. */
	if (to - from < (BlockNumber) npartitions * part_slots / 8)
		for (BlockNumber b = from; b < to; b++)
			page_cache_remove(rel, fork, b);
	else
		remove_matching(rel, fork, from);
}

void
page_cache_remove_relation(const NeonRel *rel)
{
	if (part_slots > 0)
		remove_matching(rel, -1, 0);
}

void
page_cache_remove_database(uint32 db)
{
	for (int part = 0; part_slots > 0 && part < npartitions; part++)
	{
		LWLockAcquire(&locks[part].lock, LW_EXCLUSIVE);
		for (int32 i = part * part_slots; partitions[part].used > 0 && i < (part + 1) * part_slots; i++)
			if (slots[i].used && slots[i].rel.db == db)
				unlink_slot(i);
		LWLockRelease(&locks[part].lock);
	}
}

CacheGeometry
page_cache_geometry(void)
{
	return (CacheGeometry) {.partitions = npartitions,.partition_slots = part_slots};
}

int64
page_cache_list(CachedPage *list, int64 max)
{
	int64		n = 0;

	for (int32 i = 0; i < npartitions * part_slots && n < max; i++)
	{
		const CacheSlot *s = &slots[i];

		if (s->used)
			list[n++] = (CachedPage) {.rel = s->rel,.block = s->block,.slot = i,.fork = s->fork,.crc = s->crc};
	}
	return n;
}

bool
page_cache_adopt(const CachedPage *page)
{
	CachePlace	p = place_of(&page->rel, page->fork, page->block);
	CacheSlot  *s;

	if (page->slot < 0 || page->slot >= npartitions * part_slots || page->slot / part_slots != p.part || page->fork >= NEON_FORKS)
		return false;
	s = &slots[page->slot];
	if (s->used || find_slot(&p, &page->rel, page->fork, page->block) != NO_SLOT)
		return false;
	*s = (CacheSlot) {.rel = page->rel,.block = page->block,.fork = page->fork,.used = true,.usage = 1,.next = *p.bucket,.crc = page->crc};
	*p.bucket = page->slot;
	partitions[p.part].used++;
	return true;
}

void
page_cache_usage(int64 *nslots, int64 *used)
{
	*nslots = (int64) npartitions * part_slots;
	*used = 0;
	for (int part = 0; part < npartitions; part++)
		*used += partitions[part].used;
}
