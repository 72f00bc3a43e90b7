/*
 * ps_redo_check.h - parts of the redo self-check: pages in memory, logs of transactions, counters.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PS_REDO_CHECK_H
#define NEON_PS_REDO_CHECK_H

#include "ps_redo.h"

#include "access/rmgr.h"
#include "utils/hsearch.h"

/* One row of the result. */
typedef struct CheckCounters
{
	int64		records;
	int64		native;			/* applications of a record to a page by native redo */
	int64		by_process;		/* by the redo process */
	int64		compared;		/* pages compared with an image in WAL, a file, or the other method's page */
	int64		mismatches;
	char	   *first_mismatch;
} CheckCounters;

typedef struct CheckState
{
	MemoryContext context;		/* lives as long as the check */
	HTAB	   *pages;			/* CheckPage by neon_key */
	HTAB	   *slrus;			/* SLRU pages by neon_key */
	const char *slru_before;	/* directories that hold pg_xact and pg_multixact; NULL: not checked */
	const char *slru_after;
	CheckCounters counters[RM_MAX_ID + 1];
} CheckState;

/* Counts a comparison that failed, and keeps the first one's description. */
extern void ps_check_mismatch(CheckState *state, uint8 rmid, const neon_key *key, XLogRecPtr lsn, const char *what);

/* ---- ps_redo_check_page.c ---- */
extern void ps_check_pages_init(CheckState *state);
extern void ps_check_pages_record(CheckState *state, const neon_wal_record *rec, const neon_wal_parsed *parsed);
extern void ps_check_pages_finish(CheckState *state);

/* ---- ps_redo_check_slru.c ---- */
extern void ps_check_slrus_init(CheckState *state);
extern void ps_check_slrus_record(CheckState *state, const neon_wal_record *rec, const neon_wal_parsed *parsed);
extern void ps_check_slrus_finish(CheckState *state);

#endif							/* NEON_PS_REDO_CHECK_H */
