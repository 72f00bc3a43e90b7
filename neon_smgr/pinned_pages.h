/*
 * pinned_pages.h - pages the WAL does not imply, in local files.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PINNED_PAGES_H
#define NEON_PINNED_PAGES_H

#include "pagestore.h"

extern void pinned_pages_request(void);
extern void pinned_pages_init(void);

extern void pinned_put(const NeonRel *rel, int fork, BlockNumber block, const char *page);
/* false when the block is not pinned */
extern bool pinned_get(const NeonRel *rel, int fork, BlockNumber block, char *page);
extern void pinned_erase(const NeonRel *rel, int fork, BlockNumber block);
/* May be called in a critical section. */
extern void pinned_truncate(const NeonRel *rel, int fork, BlockNumber nblocks);
extern void pinned_drop_database(uint32 db);
extern void pinned_drop(const NeonRel *rel, int fork);

/*
 * Calls back for every pinned page, under the fork's lock, in ascending order from *block; true from the callback erases the
 * page.  Looks at no more than max_pages and returns false when the end was reached; else *block is where to go on.
 */
typedef bool (*pinned_callback) (const NeonRel *rel, int fork, BlockNumber block, const char *page, void *arg);
extern bool pinned_scan(const NeonRel *rel, int fork, BlockNumber *block, int max_pages, pinned_callback callback, void *arg);

/* Forget the file if it holds no page any more. */
extern void pinned_tidy(const NeonRel *rel, int fork);

#endif							/* NEON_PINNED_PAGES_H */
