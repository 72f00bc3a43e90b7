/*
 * relation_table.h - sizes, persistence and floors of relations, in shared memory.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_RELATION_TABLE_H
#define NEON_RELATION_TABLE_H

#include "access/transam.h"
#include "datatype/timestamp.h"

#include "pagestore.h"

typedef enum NeonExistence
{
	NEON_EXISTS_UNKNOWN = 0,
	NEON_EXISTS_NO,
	NEON_EXISTS_YES
} NeonExistence;

typedef enum RelationOrigin
{
	RELATION_FROM_BEFORE = 0,	/* it was there when this compute started */
	RELATION_CREATED,
	RELATION_COPIED				/* by CREATE DATABASE, from another database */
} RelationOrigin;

/* WAL up to lsn makes the fork at least `end` blocks long. */
typedef struct Growth
{
	BlockNumber end;
	XLogRecPtr	lsn;
	TimestampTz time;			/* when it was seen */
} Growth;

/*
 * A read of a block needs the page source to have seen the fork grow past it.  The newest growth would do for every block, but
 * reads of old blocks would then wait for the newest WAL, and for ever without a quorum; so some earlier ones are kept.
 */
typedef enum GrowthKind
{
	GROWTH_NEWEST,
	GROWTH_COMMITTED,			/* the last one the quorum had when the next one came */
	GROWTH_CANDIDATE,			/* waits until it is old enough to be settled */
	GROWTH_SETTLED,				/* the page source has very likely seen it */
	GROWTHS
} GrowthKind;

typedef struct RelationFork
{
	uint8		existence;		/* NeonExistence */
	bool		size_known;
	bool		has_pins;		/* a file of pinned pages exists */
	BlockNumber nblocks;		/* the size the server sees; valid if size_known */
	BlockNumber written_end;	/* no block at or past this has ever left shared_buffers with content */
	Growth		growth[GROWTHS];	/* ... and what made it that long, now and earlier */
} RelationFork;

typedef struct RelationInfo
{
	NeonRel		rel;			/* hash key; must be first */
	uint8		persistence;	/* NeonPersistence */
	uint8		origin;			/* RelationOrigin */
	bool		changed;		/* holds what no one else knows: never evicted */
	bool		keep_unlogged;	/* pages were written unlogged after the creator had ended: never let go of such pages */
	TransactionId creator;		/* top transaction that created it since the start, else invalid */
	XLogRecPtr	floor;			/* not_modified_since of every block is at least this */
	RelationFork fork[NEON_FORKS];
} RelationInfo;

extern Size relation_table_shmem_bytes(void);
extern void relation_table_request(void);
extern void relation_table_init(bool first);

/* A copy of what is known; all unknown, but whether there may be pins, when there is no entry. */
extern bool relation_lookup(const NeonRel *rel, RelationInfo *info);

/*
 * Room: what is learnt is not remembered where there is none.  ERROR: relation_create_fork, relation_keep, relation_reserve,
 * and relation_extend and relation_truncate without one of these before.  Nothing else fails.
 */
extern void relation_learn_persistence(const NeonRel *rel, NeonPersistence persistence);
extern void relation_learn_existence(const NeonRel *rel, int fork, bool exists);
/* The page source's answer; ignored if the size has become known meanwhile.  Returns the size that holds. */
extern BlockNumber relation_learn_size(const NeonRel *rel, int fork, BlockNumber nblocks);

/*
 * For a replica (replica.h), whose answers may be out of date when they come: remembered only if still() says so, which is asked with the entry
 * locked.  And what redo does, where anything is known that it makes wrong; nothing here needs room, or fails.
 */
typedef bool (*relation_still_fn) (const NeonRel *rel, const void *arg);
extern void relation_learn_existence_if(const NeonRel *rel, int fork, bool exists, relation_still_fn still, const void *arg);
extern void relation_learn_size_if(const NeonRel *rel, int fork, BlockNumber nblocks, relation_still_fn still, const void *arg);
extern void relation_learn_created(const NeonRel *rel, int fork, NeonPersistence persistence);
/* The fork has this size now: it was extended by one block, or truncated. */
extern void relation_learn_changed_size(const NeonRel *rel, int fork, BlockNumber nblocks);
/* true if the fork has grown, or its size is not known */
extern bool relation_grow_if_known(const NeonRel *rel, int fork, BlockNumber nblocks);

/* false if the fork exists already */
extern bool relation_create_fork(const NeonRel *rel, int fork, NeonPersistence persistence, TransactionId creator,
								 XLogRecPtr floor);
/* The fork is about to grow from nblocks, which the caller knows: from now on the entry stays. */
extern void relation_keep(const NeonRel *rel, int fork, BlockNumber nblocks);
extern void relation_extend(const NeonRel *rel, int fork, BlockNumber nblocks);
/* The entry exists and stays: what follows, in a critical section, cannot fail for lack of room. */
extern void relation_reserve(const NeonRel *rel);
/*
 * A block leaves shared_buffers.  logged: with content that WAL up to lsn implies, so that the page source is the one to be
 * asked for it from now on.  Returns has_pins.
 */
extern bool relation_note_written(const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr lsn, bool logged);
/* WAL that makes the fork long enough to have the block; 0 when it had it at the start. */
extern XLogRecPtr relation_growth_lsn(const RelationFork *f, BlockNumber block);
extern void relation_truncate(const NeonRel *rel, int fork, BlockNumber nblocks, XLogRecPtr floor);
extern void relation_set_pins(const NeonRel *rel, int fork, bool has_pins);
extern void relation_keep_unlogged(const NeonRel *rel);
extern void relation_forget(const NeonRel *rel);

/* Copies of all entries for which the filter holds, palloc'd. */
extern RelationInfo *relation_list(bool (*filter) (const RelationInfo *info, const void *arg), const void *arg, int *count);
extern int	relation_table_used(void);

#endif							/* NEON_RELATION_TABLE_H */
