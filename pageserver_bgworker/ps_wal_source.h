/*
 * ps_wal_source.h - what the readers of WAL share, whether it comes from a directory or from a safekeeper.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PS_WAL_SOURCE_H
#define NEON_PS_WAL_SOURCE_H

#include <stddef.h>

/* Memory of a neon_wal_reader; arg is the memory context. */
extern void *ps_wal_realloc(void *p, size_t n, void *arg);

#endif							/* NEON_PS_WAL_SOURCE_H */
