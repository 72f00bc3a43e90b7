/*
 * page_cache.h - the local page cache: one file, indexed in shared memory.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PAGE_CACHE_H
#define NEON_PAGE_CACHE_H

#include "neon_smgr.h"
#include "pagestore.h"

#define PAGE_CACHE_NAME	"page_cache"
#define PAGE_CACHE_PATH	NEON_LOCAL_DIR "/" PAGE_CACHE_NAME

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
/* All blocks of all its relations: after a warm start the cache knows of some that the relation table does not. */
extern void page_cache_remove_database(uint32 db);

/* A copy as it is noted for another start (warm_cache.c). */
typedef struct CachedPage
{
	NeonRel		rel;
	BlockNumber block;
	int32		slot;
	uint32		fork;
	uint32		crc;
} CachedPage;

typedef struct CacheGeometry
{
	int32		partitions;
	int32		partition_slots;
} CacheGeometry;

extern CacheGeometry page_cache_geometry(void);
/* All only where this is the only process of the server. */
extern void page_cache_reset(void);
extern int64 page_cache_list(CachedPage *list, int64 max);
extern bool page_cache_adopt(const CachedPage *page);

extern void page_cache_usage(int64 *slots, int64 *used);

#endif							/* NEON_PAGE_CACHE_H */
