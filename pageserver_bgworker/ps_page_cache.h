/*
 * ps_page_cache.h - materialised pages in shared memory, as bases for later versions of the same page.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PS_PAGE_CACHE_H
#define PS_PAGE_CACHE_H

#include "ps_internal.h"

extern int	ps_page_cache_mb;

extern Size ps_page_cache_shmem_bytes(void);
extern void ps_page_cache_init(void);	/* at shared memory creation */

/*
 * The incarnation is the one the timeline had before its versions were read: should the slot have come to mean another timeline
 * meanwhile, what is put is of no use to anybody.
 */

/* The newest cached state of the page in [floor, lsn]; *as_of is the LSN it is the state of. */
extern bool ps_page_cache_get(PsTimeline *tl, uint32 incarnation, const neon_key *key, XLogRecPtr floor,
							  XLogRecPtr lsn, char page[BLCKSZ], XLogRecPtr *as_of);
/* The state as of `was` is also the one as of a later LSN, which the timeline has reached: there is no version in between. */
extern void ps_page_cache_touch(PsTimeline *tl, uint32 incarnation, const neon_key *key, XLogRecPtr was,
								XLogRecPtr as_of);
/* The page as of an LSN the timeline has reached. */
extern void ps_page_cache_put(PsTimeline *tl, uint32 incarnation, const neon_key *key, XLogRecPtr as_of,
							  const char page[BLCKSZ]);

#endif							/* PS_PAGE_CACHE_H */
