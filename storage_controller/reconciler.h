/*
 * reconciler.h - the controller's background worker.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_RECONCILER_H
#define NEON_RECONCILER_H

/* Its settings, and the worker itself. */
extern void nc_reconciler_init(void);

/* remote.c: from now on servers that do not answer are remembered, in the round's memory. */
extern void nc_begin_round(MemoryContext round);

#endif							/* NEON_RECONCILER_H */
