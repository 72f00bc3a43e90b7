/*
 * proxy_shmem.h - what the workers share: counters, limits, secrets of this start.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PROXY_SHMEM_H
#define PROXY_SHMEM_H

#include "storage/s_lock.h"
#include "storage/spin.h"

#include "proxy_settings.h"
#include "proxy_stats.h"

/* ---- quotas: counts by name over all workers; see proxy_shmem.c ---- */
typedef enum PxQuotaKind
{
	PX_QUOTA_ENDPOINT = 1,		/* clients of an endpoint */
	PX_QUOTA_ADDRESS = 2,		/* clients of an address */
	PX_QUOTA_POOL = 3,			/* server connections of a pool */
	PX_QUOTA_FAILURES = 4,		/* failed logins of an address in this minute */
	PX_QUOTA_CANCELS = 5		/* cancel requests of an address in this minute */
} PxQuotaKind;

#define PX_QUOTA_SLOTS 32768	/* a power of two */
#define PX_QUOTA_PROBES 64

typedef struct PxQuota
{
	uint64		key;			/* 0: free */
	int32		count;
	int32		waiting;		/* pools: clients that wait for a server connection */
	int64		window;			/* failures: the minute that is counted */
} PxQuota;

#define PX_MAX_PAUSED 64

typedef struct PxShared
{
	uint8		secret[32];		/* random, of this start: fake salts, hash keys */
	PxWorkerSlot worker[PX_MAX_WORKERS];
	slock_t		quota_lock;
	char		paused[PX_MAX_PAUSED][80];	/* endpoints, "*" is all; empty: free */
	PxQuota		quota[PX_QUOTA_SLOTS];
} PxShared;

extern PxShared *px_shared;

extern void px_shmem_register(void);

/* 64-bit keyed hash of this start; never 0 */
extern uint64 px_hash(int kind, const void *data, size_t len);

/* Takes one of what is allowed; false when the limit (0: none) is reached or the table is full. */
extern bool px_quota_take(PxQuotaKind kind, uint64 key, int limit);
extern void px_quota_give(PxQuotaKind kind, uint64 key);
extern int	px_quota_count(uint64 key);

/* Pools: whether clients of other workers wait; adds to that number. */
extern int	px_quota_waiting(uint64 key, int add);

/* Failed logins: counts one, and tells how many there were in this minute. */
extern int	px_failures(uint64 key, int64 now_ms, int add);

#endif							/* PROXY_SHMEM_H */
