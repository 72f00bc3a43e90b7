/*
 * relation_table.c - sizes, persistence and floors of relations, in shared memory.
 *
 * Most extensions of a relation write zero pages of which WAL says nothing, so for a relation that was changed since the
 * start the local size is the truth and its entry is kept until the relation is dropped (`changed`).  Entries that only
 * remember answers of the page source may be evicted at any time.  When a partition is full of changed entries, relations
 * without one are still read, written and dropped: answers are not remembered, and of pins it is only known that the partition
 * has some (`pins_elsewhere`), so one looks for the file.  What makes a new size fails with a hint, before anything is done:
 * creation, growth, and truncation, which asks for the entry before its critical section.  A size is never guessed.
 *
 * NEON_RELATION_PARTITIONS small hash tables, each with its own LWLock, so that an eviction needs to scan one of them only.
 * The lock is held for a few instructions; nothing is read, written or allocated (but for hash_search) under it.
 *
 * Crash rule: all of it is lost with the instance; a compute that crashed starts from nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "neon_smgr.h"
#include "relation_table.h"

#define NEON_RELATION_PARTITIONS	16
#define NEON_RELATION_EVICT_BATCH	8
#define NEON_RELATION_FIRST			64	/* entries a partition begins with: touching all memory would be most of a start */
#define SETTLE_MS					1000	/* after which the page source is expected to have ingested a growth */

static HTAB *tables[NEON_RELATION_PARTITIONS];
static LWLockPadded *locks;
static bool *pins_elsewhere;	/* a partition's relations without an entry may have pins; never becomes false */

static long
partition_capacity(void)
{
	return Max(neon_max_relations / NEON_RELATION_PARTITIONS, 16);
}

Size
relation_table_shmem_bytes(void)
{
	return add_size(mul_size(NEON_RELATION_PARTITIONS, hash_estimate_size(partition_capacity(), sizeof(RelationInfo))),
					NEON_RELATION_PARTITIONS * sizeof(bool));
}

void
relation_table_request(void)
{
	RequestAddinShmemSpace(relation_table_shmem_bytes());
	RequestNamedLWLockTranche("neon_relation_table", NEON_RELATION_PARTITIONS);
}

void
relation_table_init(bool first)
{
	bool		found;

	pins_elsewhere = ShmemInitStruct("neon relation pins", NEON_RELATION_PARTITIONS * sizeof(bool), &found);
	if (!found)
		memset(pins_elsewhere, 0, NEON_RELATION_PARTITIONS * sizeof(bool));
	for (int i = 0; i < NEON_RELATION_PARTITIONS; i++)
	{
		HASHCTL		ctl = {.keysize = sizeof(NeonRel),.entrysize = sizeof(RelationInfo)};
		char		name[48];

		snprintf(name, sizeof(name), "neon relations %d", i);
		tables[i] = ShmemInitHash(name, NEON_RELATION_FIRST, partition_capacity(), &ctl, HASH_ELEM | HASH_BLOBS);
	}
	locks = GetNamedLWLockTranche("neon_relation_table");
}

static int
partition_of(const NeonRel *rel)
{
	/* not the bits the hash table itself uses */
	return (hash_bytes((const unsigned char *) rel, sizeof(*rel)) >> 24) % NEON_RELATION_PARTITIONS;
}

static LWLock *
lock_of(const NeonRel *rel)
{
	return &locks[partition_of(rel)].lock;
}

/* What is known of a relation without an entry; the caller holds the lock. */
static void
unknown_relation(const NeonRel *rel, RelationInfo *info)
{
	memset(info, 0, sizeof(*info));
	info->rel = *rel;
	for (int fork = 0; fork < NEON_FORKS; fork++)
		info->fork[fork].has_pins = pins_elsewhere[partition_of(rel)];
}

bool
relation_lookup(const NeonRel *rel, RelationInfo *info)
{
	LWLock	   *lock = lock_of(rel);
	RelationInfo *entry;

	LWLockAcquire(lock, LW_SHARED);
	entry = hash_search(tables[partition_of(rel)], rel, HASH_FIND, NULL);
	if (entry != NULL)
		*info = *entry;
	else
		unknown_relation(rel, info);
	LWLockRelease(lock);
	return entry != NULL;
}

/* Make room in a full partition: forget some answers of the page source.  Returns the number of entries removed. */
static int
evict_unchanged(HTAB *table)
{
	HASH_SEQ_STATUS seq;
	RelationInfo *entry;
	int			evicted = 0;

	hash_seq_init(&seq, table);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		if (entry->changed)
			continue;
		hash_search(table, &entry->rel, HASH_REMOVE, NULL);
		if (++evicted == NEON_RELATION_EVICT_BATCH)
		{
			hash_seq_term(&seq);
			break;
		}
	}
	return evicted;
}

/* The entry, made if there is none; NULL if there is no room.  The caller holds the lock exclusively. */
static RelationInfo *
get_entry(const NeonRel *rel)
{
	HTAB	   *table = tables[partition_of(rel)];
	RelationInfo *entry = hash_search(table, rel, HASH_FIND, NULL);

	if (entry != NULL)
		return entry;
	/* The table could grow further than was asked for, into memory that others count on. */
	if (hash_get_num_entries(table) < partition_capacity() || evict_unchanged(table) > 0)
		entry = hash_search(table, rel, HASH_ENTER_NULL, NULL);
	if (entry == NULL && evict_unchanged(table) > 0)
		entry = hash_search(table, rel, HASH_ENTER_NULL, NULL);
	if (entry != NULL)
		unknown_relation(rel, entry);
	return entry;
}

/* To remember an answer, or what can be found out without it: NULL when there is no room.  Never an error. */
static RelationInfo *
lock_entry_if_room(const NeonRel *rel)
{
	LWLockAcquire(lock_of(rel), LW_EXCLUSIVE);
	return get_entry(rel);
}

/* For what only the entry will know. */
static RelationInfo *
lock_entry(const NeonRel *rel)
{
	RelationInfo *entry = lock_entry_if_room(rel);

	if (entry == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("too many relations have been changed since this compute was started"),
				 errhint("Increase \"neon.max_relations\" (now %d) and restart the compute.", neon_max_relations)));
	return entry;
}

static void
unlock_entry(const NeonRel *rel)
{
	LWLockRelease(lock_of(rel));
}

void
relation_learn_persistence(const NeonRel *rel, NeonPersistence persistence)
{
	RelationInfo *entry = lock_entry_if_room(rel);

	if (entry != NULL && entry->persistence == NEON_PERSISTENCE_UNKNOWN)
		entry->persistence = persistence;
	unlock_entry(rel);
}

void
relation_learn_existence(const NeonRel *rel, int fork, bool exists)
{
	RelationInfo *entry = lock_entry_if_room(rel);

	if (entry != NULL && entry->fork[fork].existence == NEON_EXISTS_UNKNOWN)
		entry->fork[fork].existence = exists ? NEON_EXISTS_YES : NEON_EXISTS_NO;
	unlock_entry(rel);
}

static void
learn_size(RelationFork *f, BlockNumber nblocks)
{
	if (f->size_known)
		return;
	f->size_known = true;
	f->nblocks = nblocks;
	/* Blocks may have been written before anybody asked for the size; they are below it. */
	f->written_end = Max(f->written_end, nblocks);
	f->growth[GROWTH_SETTLED].end = nblocks;	/* nothing more than the relation's LSN is needed for these */
	if (nblocks > 0)
		f->existence = NEON_EXISTS_YES;
}

BlockNumber
relation_learn_size(const NeonRel *rel, int fork, BlockNumber nblocks)
{
	RelationInfo *entry = lock_entry_if_room(rel);

	if (entry != NULL)
	{
		learn_size(&entry->fork[fork], nblocks);
		nblocks = entry->fork[fork].nblocks;
	}
	unlock_entry(rel);
	return nblocks;
}

/* ---- of a replica ---- */

void
relation_learn_existence_if(const NeonRel *rel, int fork, bool exists, relation_still_fn still, const void *arg)
{
	RelationInfo *entry = lock_entry_if_room(rel);

	if (entry != NULL && entry->fork[fork].existence == NEON_EXISTS_UNKNOWN && still(rel, arg))
		entry->fork[fork].existence = exists ? NEON_EXISTS_YES : NEON_EXISTS_NO;
	unlock_entry(rel);
}

void
relation_learn_size_if(const NeonRel *rel, int fork, BlockNumber nblocks, relation_still_fn still, const void *arg)
{
	RelationInfo *entry = lock_entry_if_room(rel);

	if (entry != NULL && still(rel, arg))
		learn_size(&entry->fork[fork], nblocks);
	unlock_entry(rel);
}

/* A relation is new with its main fork: what was known is of another one, that was dropped. */
static void
learn_created(RelationInfo *entry, int fork, NeonPersistence persistence)
{
	RelationFork *f = &entry->fork[fork];

	if (fork == NEON_FORK_MAIN)
	{
		entry->persistence = persistence;
		for (int i = 0; i < NEON_FORKS; i++)
		{
			memset(&entry->fork[i], 0, sizeof(RelationFork));
			entry->fork[i].existence = NEON_EXISTS_NO;
		}
	}
	memset(f, 0, sizeof(*f));
	f->existence = NEON_EXISTS_YES;
	f->size_known = true;
}

void
relation_learn_created(const NeonRel *rel, int fork, NeonPersistence persistence)
{
	RelationInfo *entry = lock_entry_if_room(rel);

	if (entry != NULL)
		learn_created(entry, fork, persistence);
	unlock_entry(rel);
}

bool
relation_grow_if_known(const NeonRel *rel, int fork, BlockNumber nblocks)
{
	RelationInfo *entry;
	bool		grown = true;

	LWLockAcquire(lock_of(rel), LW_EXCLUSIVE);
	entry = hash_search(tables[partition_of(rel)], rel, HASH_FIND, NULL);
	if (entry != NULL)
	{
		RelationFork *f = &entry->fork[fork];

		/* A fork that was known not to exist begins with this block. */
		f->size_known |= f->existence == NEON_EXISTS_NO;
		f->existence = NEON_EXISTS_YES;
		grown = !f->size_known || f->nblocks < nblocks;
		if (grown && f->size_known)
			f->nblocks = nblocks;
	}
	LWLockRelease(lock_of(rel));
	return grown;
}

void
relation_learn_changed_size(const NeonRel *rel, int fork, BlockNumber nblocks)
{
	RelationInfo *entry = lock_entry_if_room(rel);

	if (entry != NULL)
	{
		entry->fork[fork].existence = NEON_EXISTS_YES;
		entry->fork[fork].size_known = true;
		entry->fork[fork].nblocks = nblocks;
	}
	unlock_entry(rel);
}

/* ---- of a compute that writes ---- */

void
relation_keep(const NeonRel *rel, int fork, BlockNumber nblocks)
{
	RelationInfo *entry = lock_entry(rel);

	learn_size(&entry->fork[fork], nblocks);
	entry->changed = true;
	unlock_entry(rel);
}

void
relation_reserve(const NeonRel *rel)
{
	RelationInfo *entry = lock_entry(rel);

	entry->changed = true;
	unlock_entry(rel);
}

bool
relation_create_fork(const NeonRel *rel, int fork, NeonPersistence persistence, TransactionId creator, XLogRecPtr floor)
{
	RelationInfo *entry = lock_entry(rel);
	RelationFork *f = &entry->fork[fork];
	bool		fresh = f->existence != NEON_EXISTS_YES;

	if (fresh)
	{
		entry->changed = true;
		entry->floor = Max(entry->floor, floor);
		if (fork == NEON_FORK_MAIN)
		{
			entry->persistence = persistence;
			entry->creator = creator;
			entry->origin = OidIsValid(rel->db) && rel->db != MyDatabaseId ? RELATION_COPIED : RELATION_CREATED;
			/* A new relation has no other fork yet. */
			for (int i = 0; i < NEON_FORKS; i++)
			{
				memset(&entry->fork[i], 0, sizeof(RelationFork));
				entry->fork[i].existence = NEON_EXISTS_NO;
				entry->fork[i].size_known = true;
			}
		}
		f->existence = NEON_EXISTS_YES;
		f->size_known = true;
		f->nblocks = 0;
		f->written_end = 0;
		memset(f->growth, 0, sizeof(f->growth));
	}
	unlock_entry(rel);
	return fresh;
}

void
relation_extend(const NeonRel *rel, int fork, BlockNumber nblocks)
{
	RelationInfo *entry = lock_entry(rel);
	RelationFork *f = &entry->fork[fork];

	Assert(f->size_known);
	entry->changed = true;
	f->existence = NEON_EXISTS_YES;
	f->nblocks = Max(f->nblocks, nblocks);
	unlock_entry(rel);
}

/* The fork grows to end blocks; a fork that grows all the time never has an old growth, but an old candidate. */
static void
note_growth(RelationFork *f, BlockNumber end, XLogRecPtr lsn, TimestampTz now)
{
	Growth	   *g = f->growth;
	XLogRecPtr	commit_lsn = neon_commit_lsn();

	if (g[GROWTH_NEWEST].end > 0 && g[GROWTH_NEWEST].lsn <= commit_lsn)
	{
		if (lsn > commit_lsn)
			g[GROWTH_COMMITTED] = g[GROWTH_NEWEST];
		if (TimestampDifferenceExceeds(g[GROWTH_NEWEST].time, now, SETTLE_MS))
			g[GROWTH_SETTLED] = g[GROWTH_CANDIDATE] = g[GROWTH_NEWEST];
	}
	if (TimestampDifferenceExceeds(g[GROWTH_CANDIDATE].time, now, SETTLE_MS))
	{
		if (g[GROWTH_CANDIDATE].end > 0 && g[GROWTH_CANDIDATE].lsn <= commit_lsn)
			g[GROWTH_SETTLED] = g[GROWTH_CANDIDATE];
		g[GROWTH_CANDIDATE] = g[GROWTH_NEWEST];
	}
	g[GROWTH_NEWEST].end = end;
	g[GROWTH_NEWEST].lsn = Max(g[GROWTH_NEWEST].lsn, lsn);
	g[GROWTH_NEWEST].time = now;
}

XLogRecPtr
relation_growth_lsn(const RelationFork *f, BlockNumber block)
{
	XLogRecPtr	lsn = f->growth[GROWTH_NEWEST].lsn;

	for (int i = 0; i < GROWTHS; i++)
		if (block < f->growth[i].end)
			lsn = Min(lsn, f->growth[i].lsn);
	return lsn;
}

bool
relation_note_written(const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr lsn, bool logged)
{
	LWLock	   *lock = lock_of(rel);
	RelationInfo *entry;
	RelationFork *f;
	TimestampTz now;
	bool		pins = false;
	bool		done = false;

	/* Mostly there is nothing to change. */
	LWLockAcquire(lock, LW_SHARED);
	entry = hash_search(tables[partition_of(rel)], rel, HASH_FIND, NULL);
	if (entry == NULL)
	{
		done = true;			/* evicted, hence unchanged: the block is within what the page source has */
		pins = pins_elsewhere[partition_of(rel)];
	}
	else
	{
		f = &entry->fork[fork];
		pins = f->has_pins;
		done = !f->size_known || (block < f->nblocks && (block < f->written_end || !logged));
	}
	LWLockRelease(lock);
	if (done)
		return pins;

	now = GetCurrentTimestamp();
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = hash_search(tables[partition_of(rel)], rel, HASH_FIND, NULL);
	if (entry != NULL)
	{
		f = &entry->fork[fork];
		entry->changed = true;
		if (logged && block >= f->written_end)
		{
			/*
			 * Blocks below that were never written are zeros, which the page source knows only once it has the WAL that
			 * made it extend the fork to this block.
			 */
			note_growth(f, block + 1, lsn, now);
			f->written_end = block + 1;
		}
		/* Init forks are written without being extended. */
		if (f->size_known && block >= f->nblocks)
			f->nblocks = block + 1;
		pins = f->has_pins;
	}
	LWLockRelease(lock);
	return pins;
}

void
relation_truncate(const NeonRel *rel, int fork, BlockNumber nblocks, XLogRecPtr floor)
{
	RelationInfo *entry = lock_entry(rel);
	RelationFork *f = &entry->fork[fork];

	entry->changed = true;
	entry->floor = Max(entry->floor, floor);
	f->existence = NEON_EXISTS_YES;
	f->size_known = true;
	f->nblocks = nblocks;
	f->written_end = Min(f->written_end, nblocks);
	for (int i = 0; i < GROWTHS; i++)
		f->growth[i].end = Min(f->growth[i].end, nblocks);
	unlock_entry(rel);
}

void
relation_set_pins(const NeonRel *rel, int fork, bool has_pins)
{
	RelationInfo *entry = lock_entry_if_room(rel);

	if (entry != NULL)
	{
		entry->fork[fork].has_pins = has_pins;
		if (has_pins)
			entry->changed = true;
	}
	else if (has_pins)
		pins_elsewhere[partition_of(rel)] = true;
	unlock_entry(rel);
}

void
relation_keep_unlogged(const NeonRel *rel)
{
	RelationInfo *entry = lock_entry_if_room(rel);

	/* Without one its creator is not known either, and nothing is let go of. */
	if (entry != NULL)
	{
		entry->keep_unlogged = true;
		entry->changed = true;
	}
	unlock_entry(rel);
}

void
relation_forget(const NeonRel *rel)
{
	LWLockAcquire(lock_of(rel), LW_EXCLUSIVE);
	hash_search(tables[partition_of(rel)], rel, HASH_REMOVE, NULL);
	LWLockRelease(lock_of(rel));
}

RelationInfo *
relation_list(bool (*filter) (const RelationInfo *info, const void *arg), const void *arg, int *count)
{
	int			capacity = 64;
	RelationInfo *list = palloc(capacity * sizeof(RelationInfo));

	*count = 0;
	for (int i = 0; i < NEON_RELATION_PARTITIONS; i++)
	{
		HASH_SEQ_STATUS seq;
		RelationInfo *entry;
		long		room;

		/* Allocate before taking the lock. */
		room = *count + hash_get_num_entries(tables[i]) + 64;
		if (room > capacity)
		{
			capacity = room;
			list = repalloc_huge(list, capacity * sizeof(RelationInfo));
		}
		LWLockAcquire(&locks[i].lock, LW_SHARED);
		hash_seq_init(&seq, tables[i]);
		while ((entry = hash_seq_search(&seq)) != NULL)
		{
			if (*count == capacity)
			{
				hash_seq_term(&seq);	/* grew meanwhile; the rest comes in the next call */
				break;
			}
			if (filter(entry, arg))
				list[(*count)++] = *entry;
		}
		LWLockRelease(&locks[i].lock);
	}
	return list;
}

int
relation_table_used(void)
{
	long		n = 0;

	for (int i = 0; i < NEON_RELATION_PARTITIONS; i++)
	{
		LWLockAcquire(&locks[i].lock, LW_SHARED);
		n += hash_get_num_entries(tables[i]);
		LWLockRelease(&locks[i].lock);
	}
	return n;
}
