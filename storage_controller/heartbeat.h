/*
 * heartbeat.h - questions to many servers at the same time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_HEARTBEAT_H
#define NEON_HEARTBEAT_H

/* Its settings. */
extern void nc_heartbeat_init(void);

#endif							/* NEON_HEARTBEAT_H */
