/*
 * last_written.h - for every block, an LSN at or above its last change before it left shared_buffers.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_LAST_WRITTEN_H
#define NEON_LAST_WRITTEN_H

#include "pagestore.h"

extern Size last_written_shmem_bytes(void);
extern void last_written_init(void);
extern void last_written_raise(const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr lsn);
/* 0 when the block, and those it is not told apart from, were not written since the start. */
extern XLogRecPtr last_written_get(const NeonRel *rel, int fork, BlockNumber block);

#endif							/* NEON_LAST_WRITTEN_H */
