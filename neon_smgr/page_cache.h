/*
 * page_cache.h - the local page cache: one file, indexed in shared memory.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PAGE_CACHE_H
#define NEON_PAGE_CACHE_H

#include "pagestore.h"

extern Size page_cache_shmem_bytes(void);
extern void page_cache_request(void);
extern void page_cache_init(void);

extern bool page_cache_has(const NeonRel *rel, int fork, BlockNumber block);
extern bool page_cache_get(const NeonRel *rel, int fork, BlockNumber block, char *page);

/*
 * Keep a copy.  keep_until: the slot is not reused before the quorum has WAL up to this LSN.  false when there was no room
 * (or the file could not be written): then no copy of this block is in the cache.
 */
extern bool page_cache_put(const NeonRel *rel, int fork, BlockNumber block, const char *page, XLogRecPtr keep_until);

extern void page_cache_remove(const NeonRel *rel, int fork, BlockNumber block);
/* All blocks of the fork in [from, to). */
extern void page_cache_remove_range(const NeonRel *rel, int fork, BlockNumber from, BlockNumber to);
/* All blocks of all forks. */
extern void page_cache_remove_relation(const NeonRel *rel);

extern void page_cache_usage(int64 *slots, int64 *used);

#endif							/* NEON_PAGE_CACHE_H */
