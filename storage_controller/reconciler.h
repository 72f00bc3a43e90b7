/*
 * reconciler.h - the controller's background worker.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_RECONCILER_H
#define NEON_RECONCILER_H

/* Its settings, and the worker itself. */
extern void nc_reconciler_init(void);

#endif							/* NEON_RECONCILER_H */
