/*
 * replica.h - a compute that follows its timeline: hot standby without relation files.
 *
 * The startup process replays the log that it streams from safekeepers (replica_redo.c); pages come from the pageserver as of what has been
 * replayed (replica_store.c, which pagestore.c hands its calls to).
 *
 * Two LSNs in shared memory: replay_lsn is the end of the last record whose redo is over, redo_lsn the end of the one that is being redone;
 * they are the same between records.
 *
 * Invariant: what is in shared_buffers, in the page cache and in the relation table is true as of replay_lsn, or as of redo_lsn where the record
 * being redone has changed it.
 *
 * Lock order: buffer mapping partitions in ascending order (shared, startup process only), then relation table or page cache partitions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_REPLICA_H
#define NEON_REPLICA_H

#include "neon_smgr.h"
#include "pagestore.h"

extern bool neon_replica;		/* this server follows its timeline */

extern void replica_install(void);
/* Where redo begins, if this data directory is that of a replica; FATAL otherwise. */
extern XLogRecPtr replica_start_lsn(void);
extern void pg_attribute_noreturn() replica_refuse(void);

/* ---- replica_store.c ---- */
extern Size replica_shmem_bytes(void);
extern void replica_init(XLogRecPtr start_lsn);

extern XLogRecPtr replica_replay_lsn(void);
extern void replica_begin_redo(XLogRecPtr end_lsn);
extern void replica_publish(XLogRecPtr end_lsn);

/* The record being redone changes the block; may_extend: it need not have existed.  What is being read meanwhile is not remembered. */
extern void replica_note_change(const NeonRel *rel, int fork, BlockNumber block, bool may_extend);
/* After that, if it is not redone: forget what was remembered.  true if the server's own idea of the fork's size may be wrong now. */
extern bool replica_note_skipped(const NeonRel *rel, int fork, BlockNumber block, bool may_extend);
extern void replica_drop_database(uint32 db);

extern void replica_create(const NeonRel *rel, int fork, NeonPersistence persistence);
extern bool replica_exists(const NeonRel *rel, int fork);
extern BlockNumber replica_nblocks(const NeonRel *rel, int fork);
extern void replica_read(const NeonRel *rel, int fork, BlockNumber block, char *page);
extern void replica_write(const NeonRel *rel, int fork, BlockNumber block, const char *page);
extern void replica_extend(const NeonRel *rel, int fork, BlockNumber block);
extern void replica_truncate(const NeonRel *rel, int fork, BlockNumber old_blocks, BlockNumber nblocks);
extern void replica_drop(const NeonRel *rel);

/* Counters: records redone, records skipped because none of their pages was in shared_buffers, skipped after a look at the visibility map. */
typedef struct ReplicaCounters
{
	uint64		redone,
				skipped,
				map_only;
} ReplicaCounters;

extern ReplicaCounters replica_counters(void);
extern void replica_count(bool redone, bool map_only);

#endif							/* NEON_REPLICA_H */
