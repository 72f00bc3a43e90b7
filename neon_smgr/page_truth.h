/*
 * page_truth.h - every page that leaves shared_buffers is compared with what the pageserver makes of its WAL.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PAGE_TRUTH_SMGR_H
#define NEON_PAGE_TRUTH_SMGR_H

#include "port/atomics.h"
#include "storage/latch.h"

#include "neon_page_truth.h"
#include "page_class.h"
#include "pagestore.h"

typedef enum PageTruthMode
{
	PAGE_TRUTH_OFF,
	PAGE_TRUTH_ON,				/* a mismatch is an error in the worker's log and of neon_page_truth_check() */
	PAGE_TRUTH_PANIC			/* a mismatch stops the compute */
} PageTruthMode;

extern int	neon_page_truth;		/* PageTruthMode; of this process */
extern int	neon_page_truth_queue;	/* setting, -1 as it needs */

/* ---- counters: columns of pg_stat_neon_page_truth in their order ---- */
typedef enum TruthCounter
{
	TRUTH_VERIFIED,				/* pages with content, as they left shared_buffers */
	TRUTH_VERIFIED_EMPTY,		/* pages without: nor has the pageserver anything */
	TRUTH_VERIFIED_RELEASED,	/* once more, when they ceased to be pinned */
	TRUTH_VERIFIED_BEHIND,		/* as of their own LSN, since they were truncated or dropped meanwhile */
	TRUTH_MISMATCHES,
	TRUTH_SKIPPED_FSM,			/* no claim is made of the free space map */
	TRUTH_SKIPPED_BUILD,		/* not logged yet: compared when it is written again or released, unless its relation is dropped then */
	TRUTH_SKIPPED_NEWER,		/* released, but shared_buffers has it: compared when it leaves */
	TRUTH_SKIPPED_MAP,			/* pinned visibility map page released: was compared when it was written */
	TRUTH_SKIPPED_PROPOSER,		/* written by the proposer with the queue full: it must not wait for itself */
	TRUTH_SKIPPED_STOPPING,		/* the server stops and the worker has gone */
	TRUTH_SKIPPED_NO_HISTORY,	/* the page source is a directory, which knows no LSNs */
	TRUTH_WAITS,				/* times that a writer waited for room in the queue */
	TRUTH_COUNTERS
} TruthCounter;

typedef enum TruthKind
{
	TRUTH_KIND_WRITTEN,
	TRUTH_KIND_EMPTY,
	TRUTH_KIND_RELEASED,
	TRUTH_KIND_RELEASED_BUILD
} TruthKind;

typedef struct TruthEntry
{
	NeonRel		rel;
	BlockNumber block;
	XLogRecPtr	as_of;
	int32		writer;			/* pid */
	uint8		fork;
	uint8		kind;			/* TruthKind */
	uint8		mode;			/* PageTruthMode of the writer */
	uint8		flags;			/* NEON_TRUTH_... */
} TruthEntry;

typedef struct TruthMismatch
{
	TruthEntry	entry;
	XLogRecPtr	our_lsn;
	XLogRecPtr	their_lsn;
	int			offset;
	uint8		ours;
	uint8		theirs;
	char		what[200];
} TruthMismatch;

#define TRUTH_MAX_MISMATCHES	16	/* that are remembered; all are counted and logged */

typedef struct TruthShared
{
	pg_atomic_uint64 head;		/* entries ever put; written under the lock */
	pg_atomic_uint64 tail;		/* entries ever done; written by the worker only */
	pg_atomic_uint32 worker_pid;	/* 0: none runs */
	Latch	   *worker_latch;	/* under the lock */
	pg_atomic_uint64 counters[TRUTH_COUNTERS];
	uint32		capacity;
	uint32		nmismatches;	/* remembered; under the lock */
	TruthMismatch mismatches[TRUTH_MAX_MISMATCHES];
	TruthEntry	entries[FLEXIBLE_ARRAY_MEMBER];
} TruthShared;

extern TruthShared *page_truth;		/* NULL: not prepared for at the start */

extern void page_truth_define_settings(void);
extern void page_truth_request(void);
extern void page_truth_init(void);
extern void page_truth_register_worker(void);
extern PGDLLEXPORT void neon_page_truth_worker_main(Datum arg);

static inline void
page_truth_count(TruthCounter c)
{
	pg_atomic_fetch_add_u64(&page_truth->counters[c], 1);
}

/* ---- for those who write ---- */

/* A page leaves shared_buffers.  May wait for room in the queue. */
extern void page_truth_note_write(const NeonRel *rel, int fork, BlockNumber block, const char *page, PageClass class);
/* A pinned page is about to be let go of.  false: not now. */
extern bool page_truth_note_release(const NeonRel *rel, int fork, BlockNumber block, const char *page, bool was_built);

/* May storage lack bits of the relation's visibility map? */
extern bool page_truth_map_may_be_copy(const NeonRel *rel);

/* ---- for the worker ---- */
extern LWLock *page_truth_lock(void);
extern void page_truth_read_slot(uint64 number, char *page);
extern void page_truth_report(int elevel, const TruthMismatch *m, uint64 mismatches);

#endif							/* NEON_PAGE_TRUTH_SMGR_H */
