/*
 * replica_store.c - pages, sizes and existence as of what a replica has replayed; see replica.h.
 *
 * An answer of the page source, as of an LSN that had been replayed when it was asked, may be overtaken by redo before it is remembered.
 * So redo notes, before it changes what is remembered, the LSN of the change in a table of atomics (by block for the page cache, by relation
 * for sizes and existence), and an answer is remembered only if no change above its LSN is noted, which is checked where the memory is
 * locked.  Entries of the table are shared by hash: too much is forgotten then, never too little.
 *
 * A page is read as of replay_lsn, or of its last change when that is above: then it left shared_buffers while its record was being redone.
 * That is told by the page's LSN, and where a change leaves the page's LSN alone (visibility map, all-visible flags, blocks made of zeros), by
 * redo_lsn.
 *
 * Nothing is kept that the page source does not have; what is written here is dropped, or copied to the page cache.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xlogutils.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/shmem.h"

#include "last_written.h"
#include "page_cache.h"
#include "relation_table.h"
#include "replica.h"

#define BLOCK_CHANGES		(64 * 1024) /* powers of two */
#define RELATION_CHANGES	(8 * 1024)

typedef struct ReplicaShared
{
	pg_atomic_uint64 replay_lsn;
	pg_atomic_uint64 redo_lsn;
	pg_atomic_uint64 redone,
				skipped,
				map_only;
	pg_atomic_uint64 all_changed;	/* a database was dropped */
	pg_atomic_uint64 relation_changed[RELATION_CHANGES];
	pg_atomic_uint64 block_changed[BLOCK_CHANGES];
} ReplicaShared;

bool		neon_replica;

static ReplicaShared *shared;

/* ---- shared memory, LSNs ---- */

Size
replica_shmem_bytes(void)
{
	return sizeof(ReplicaShared);
}

void
replica_init(XLogRecPtr start_lsn)
{
	bool		found;

	shared = ShmemInitStruct("neon replica", sizeof(ReplicaShared), &found);
	if (found)
		return;
	pg_atomic_init_u64(&shared->replay_lsn, start_lsn);
	pg_atomic_init_u64(&shared->redo_lsn, start_lsn);
	pg_atomic_init_u64(&shared->redone, 0);
	pg_atomic_init_u64(&shared->skipped, 0);
	pg_atomic_init_u64(&shared->map_only, 0);
	pg_atomic_init_u64(&shared->all_changed, 0);
	for (int i = 0; i < RELATION_CHANGES; i++)
		pg_atomic_init_u64(&shared->relation_changed[i], 0);
	for (int i = 0; i < BLOCK_CHANGES; i++)
		pg_atomic_init_u64(&shared->block_changed[i], 0);
}

XLogRecPtr
replica_replay_lsn(void)
{
	XLogRecPtr	lsn = pg_atomic_read_u64(&shared->replay_lsn);

	pg_memory_barrier();
	return lsn;
}

void
replica_begin_redo(XLogRecPtr end_lsn)
{
	pg_atomic_write_u64(&shared->redo_lsn, end_lsn);
	pg_memory_barrier();
}

void
replica_publish(XLogRecPtr end_lsn)
{
	pg_memory_barrier();
	pg_atomic_write_u64(&shared->replay_lsn, end_lsn);
}

ReplicaCounters
replica_counters(void)
{
	ReplicaCounters c = {
		.redone = pg_atomic_read_u64(&shared->redone),
		.skipped = pg_atomic_read_u64(&shared->skipped),
		.map_only = pg_atomic_read_u64(&shared->map_only),
	};

	return c;
}

void
replica_count(bool redone, bool map_only)
{
	pg_atomic_fetch_add_u64(redone ? &shared->redone : map_only ? &shared->map_only : &shared->skipped, 1);
}

/* ---- changes ---- */

static pg_atomic_uint64 *
relation_change(const NeonRel *rel)
{
	return &shared->relation_changed[hash_bytes((const unsigned char *) rel, sizeof(*rel)) & (RELATION_CHANGES - 1)];
}

static pg_atomic_uint64 *
block_change(const NeonRel *rel, int fork, BlockNumber block)
{
	uint32		words[5] = {rel->spc, rel->db, rel->rel, fork, block};

	return &shared->block_changed[hash_bytes((const unsigned char *) words, sizeof(words)) & (BLOCK_CHANGES - 1)];
}

/* By the startup process alone, so it never goes back. */
static void
note_change(pg_atomic_uint64 *change)
{
	pg_atomic_write_u64(change, pg_atomic_read_u64(&shared->redo_lsn));
	pg_memory_barrier();
}

static bool
relation_unchanged(const NeonRel *rel, XLogRecPtr as_of)
{
	pg_memory_barrier();
	return pg_atomic_read_u64(relation_change(rel)) <= as_of && pg_atomic_read_u64(&shared->all_changed) <= as_of;
}

/* Called with the relation's entry locked. */
static bool
may_remember(const NeonRel *rel, const void *as_of)
{
	/* What the startup process has changed itself, it has remembered before it asks again. */
	return AmStartupProcess() || relation_unchanged(rel, *(const XLogRecPtr *) as_of);
}

static bool
block_unchanged(const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr as_of)
{
	return relation_unchanged(rel, as_of) && pg_atomic_read_u64(block_change(rel, fork, block)) <= as_of;
}

void
replica_note_change(const NeonRel *rel, int fork, BlockNumber block, bool may_extend)
{
	if (may_extend)
		note_change(relation_change(rel));
	note_change(block_change(rel, fork, block));
}

bool
replica_note_skipped(const NeonRel *rel, int fork, BlockNumber block, bool may_extend)
{
	page_cache_remove(rel, fork, block);
	return may_extend && relation_grow_if_known(rel, fork, block + 1);
}

/* ---- what the server asks ---- */

static void
startup_only(void)
{
	if (!AmStartupProcess())
		replica_refuse();
}

void
replica_create(const NeonRel *rel, int fork, NeonPersistence persistence)
{
	startup_only();
	note_change(relation_change(rel));
	relation_learn_created(rel, fork, persistence);
}

bool
replica_exists(const NeonRel *rel, int fork)
{
	RelationInfo info;
	XLogRecPtr	as_of = replica_replay_lsn();
	bool		exists;

	relation_lookup(rel, &info);
	if (info.fork[fork].existence != NEON_EXISTS_UNKNOWN)
		return info.fork[fork].existence == NEON_EXISTS_YES;
	exists = page_source->exists(rel, fork, as_of);
	if (exists || fork != NEON_FORK_MAIN)
		relation_learn_existence_if(rel, fork, exists, may_remember, &as_of);
	return exists;
}

BlockNumber
replica_nblocks(const NeonRel *rel, int fork)
{
	RelationInfo info;
	XLogRecPtr	as_of = replica_replay_lsn();
	BlockNumber nblocks;

	relation_lookup(rel, &info);
	if (info.fork[fork].size_known)
		return info.fork[fork].nblocks;
	nblocks = page_source->nblocks(rel, fork, as_of);
	relation_learn_size_if(rel, fork, nblocks, may_remember, &as_of);
	return nblocks;
}

/*
 * The buffer's tag is in the mapping table already, so that redo of a record that touches the block finds it there; with what the caller reads
 * for itself (an init fork) there is no such tag, and no copy is kept.
 */
void
replica_read(const NeonRel *rel, int fork, BlockNumber block, char *page)
{
	XLogRecPtr	as_of;

	/* Redo only notes free space, which nobody asks a replica for. */
	if (fork == NEON_FORK_FSM && AmStartupProcess())
	{
		memset(page, 0, BLCKSZ);
		neon_count(NEON_CNT_READ_ZERO);
		return;
	}
	if (fork != NEON_FORK_INIT && page_cache_get(rel, fork, block, page))
	{
		neon_count(NEON_CNT_READ_CACHE);
		return;
	}
	as_of = Max(replica_replay_lsn(), last_written_get(rel, fork, block));
	page_source->read(rel, fork, block, as_of, page);
	neon_count(NEON_CNT_READ_SOURCE);
	if (fork == NEON_FORK_INIT || !block_unchanged(rel, fork, block, as_of))
		return;
	page_cache_put(rel, fork, block, page, InvalidXLogRecPtr);
	if (!block_unchanged(rel, fork, block, as_of))
		page_cache_remove(rel, fork, block);
}

/* Does something change this page without a word in its LSN? */
static bool
lsn_tells_all(int fork, Page page)
{
	if (fork != NEON_FORK_MAIN || PageIsNew(page) || PageGetLSN(page) <= 1)
		return false;
	return PageGetSpecialSize(page) != 0 || !PageIsAllVisible(page);
}

void
replica_write(const NeonRel *rel, int fork, BlockNumber block, const char *cpage)
{
	Page		page = (Page) cpage;
	XLogRecPtr	lsn = PageIsNew(page) ? InvalidXLogRecPtr : PageGetLSN(page);

	if (fork == NEON_FORK_FSM)
	{
		neon_count(NEON_CNT_WRITE_DROPPED);
		return;
	}
	if (!lsn_tells_all(fork, page))
		lsn = Max(lsn, pg_atomic_read_u64(&shared->redo_lsn));
	last_written_raise(rel, fork, block, lsn);
	if (!PageIsNew(page) && fork != NEON_FORK_INIT && page_cache_put(rel, fork, block, cpage, InvalidXLogRecPtr))
		neon_count(NEON_CNT_WRITE_CACHED);
	else
		neon_count(NEON_CNT_WRITE_DROPPED);
}

void
replica_extend(const NeonRel *rel, int fork, BlockNumber block)
{
	startup_only();
	replica_note_change(rel, fork, block, true);
	last_written_raise(rel, fork, block, pg_atomic_read_u64(&shared->redo_lsn));
	relation_learn_changed_size(rel, fork, block + 1);
}

void
replica_truncate(const NeonRel *rel, int fork, BlockNumber old_blocks, BlockNumber nblocks)
{
	startup_only();
	note_change(relation_change(rel));
	relation_learn_changed_size(rel, fork, nblocks);
	page_cache_remove_range(rel, fork, nblocks, old_blocks);
}

void
replica_drop(const NeonRel *rel)
{
	note_change(relation_change(rel));
	relation_forget(rel);
	page_cache_remove_relation(rel);
}

void
replica_drop_database(uint32 db)
{
	note_change(&shared->all_changed);
	pagestore_drop_database(db);
}
