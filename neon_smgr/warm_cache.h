/*
 * warm_cache.h - the page cache outlives a clean stop.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_WARM_CACHE_H
#define NEON_WARM_CACHE_H

#include "pagestore.h"

/* In the postmaster, at start, after the page cache's shared memory is there: true if the file of the last run was taken over. */
extern bool warm_cache_load(void);
/* In the postmaster: write the index when it ends. */
extern void warm_cache_register(void);

#endif							/* NEON_WARM_CACHE_H */
