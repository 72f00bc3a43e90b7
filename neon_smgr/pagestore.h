/*
 * pagestore.h - where the pages of permanent relations are, without a word about the server's version.
 *
 * The storage manager of one server version (smgr_abi_15.c) turns the server's calls into these.  Temporary relations and
 * the main, FSM and visibility map forks of unlogged ones never come here: they are ordinary local files.
 *
 * A page is in one of these places, looked up in this order:
 *
 *   pinned page     a local file per relation fork (pinned_pages.c): content the WAL does not imply (page_class.c)
 *   nowhere         at or past the fork's written_end: zeros, whatever the local size says
 *   page cache      one local file (page_cache.c): a copy, or the only one until the quorum has its WAL
 *   page source     the pageserver (page_stream.c), or a directory that stands in for it (page_directory.c)
 *
 * Invariant: what a read returns is the page as it was when it last left shared_buffers.  For the page source this means
 * to ask with a not_modified_since at or above the page's last change (last_written.c and the relation's floor).
 *
 * The buffer manager allows one process at a time to read or write a given block; the only other actor on a block is the
 * release worker (release_worker.c), which synchronises on the fork's pin lock.
 * Lock order: pin lock, relation table partition, page cache partition.  No network while any of them is held.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PAGESTORE_H
#define NEON_PAGESTORE_H

#include "access/xlogdefs.h"
#include "storage/block.h"

#include "neon_core.h"

#define NEON_FORKS		4		/* main, FSM, visibility map, init: numbers as in the server and on the wire */
#define NEON_FORK_MAIN	0
#define NEON_FORK_FSM	1
#define NEON_FORK_VM	2
#define NEON_FORK_INIT	3

typedef struct NeonRel
{
	uint32		spc,
				db,
				rel;
} NeonRel;

typedef enum NeonPersistence
{
	NEON_PERSISTENCE_UNKNOWN = 0,
	NEON_PERSISTENCE_PERMANENT,
	NEON_PERSISTENCE_UNLOGGED
} NeonPersistence;

/* What is known already; never asks the page source. */
extern NeonPersistence pagestore_known_persistence(const NeonRel *rel);
extern void pagestore_set_persistence(const NeonRel *rel, NeonPersistence persistence);

extern void pagestore_create(const NeonRel *rel, int fork, NeonPersistence persistence);
extern bool pagestore_exists(const NeonRel *rel, int fork);
extern BlockNumber pagestore_nblocks(const NeonRel *rel, int fork);
/* Start reading early; no errors. */
extern void pagestore_prefetch(const NeonRel *rel, int fork, BlockNumber block);
extern void pagestore_read(const NeonRel *rel, int fork, BlockNumber block, char *page);
extern void pagestore_write(const NeonRel *rel, int fork, BlockNumber block, const char *page);
extern void pagestore_extend(const NeonRel *rel, int fork, BlockNumber block, const char *page);
/* Before the critical section of a truncation; raises what would be raised there. */
extern void pagestore_reserve(const NeonRel *rel);
/* Called in a critical section: no network, no allocation. */
extern void pagestore_truncate(const NeonRel *rel, int fork, BlockNumber old_blocks, BlockNumber nblocks);
/* All forks at once.  Called after commit: no network, no errors. */
extern void pagestore_drop(const NeonRel *rel);
extern void pagestore_drop_database(uint32 db);
extern int64 pagestore_database_bytes(uint32 db);

/* ---- the page source ---- */
typedef struct PageSource
{
	const char *name;
	bool		(*exists) (const NeonRel *rel, int fork, XLogRecPtr not_modified_since);
	BlockNumber (*nblocks) (const NeonRel *rel, int fork, XLogRecPtr not_modified_since);
	void		(*read) (const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr not_modified_since, char *page);
	/* May be NULL.  Asks for a page early; does not wait and does not fail. */
	void		(*prefetch) (const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr not_modified_since);
	int64		(*database_bytes) (uint32 db, XLogRecPtr not_modified_since);

	/* The version as of an LSN rather than the newest; NULL where there is no history.  For page truth. */
	BlockNumber (*nblocks_as_of) (const NeonRel *rel, int fork, XLogRecPtr as_of);
	void		(*read_as_of) (const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr as_of, char *page);
	void		(*prefetch_as_of) (const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr as_of);

	/* A directory has to be told what a pageserver learns from WAL; NULL in the page stream. */
	void		(*note_create) (const NeonRel *rel, int fork);
	void		(*note_write) (const NeonRel *rel, int fork, BlockNumber block, const char *page);
	void		(*note_truncate) (const NeonRel *rel, int fork, BlockNumber nblocks);
	void		(*note_drop) (const NeonRel *rel);
} PageSource;

extern const PageSource page_stream_source;
extern const PageSource page_directory_source;
extern const PageSource *page_source;	/* set once, before any child process exists */

#endif							/* NEON_PAGESTORE_H */
