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

/*
 * What a pool of a worker has to say to those that count with it: of other workers, and of its own for clients with other startup
 * parameters.  A fair share is the size divided by how many of them have clients.
 */
typedef struct PxWant
{
	int32		lacking;		/* server connections that its waiting clients could use and that it lacks of its fair share */
	int32		more;			/* 1: clients wait though it has its share */
	int32		pools;			/* 1: it has clients */
} PxWant;

typedef struct PxQuota
{
	uint64		key;			/* 0: free */
	int32		count;
	PxWant		want;			/* pools: of all together */
	int64		window;			/* failures: the minute that is counted */
} PxQuota;

#define PX_MAX_PAUSED 64

typedef struct PxShared
{
	uint8		secret[32];		/* random, of this start: fake salts, hash keys */
	PxWorkerSlot worker[PX_MAX_WORKERS];
	pg_atomic_uint32 secrets_generation;	/* raised when a role's secret may have changed: logins before that may be with an old one */
	slock_t		quota_lock;
	char		paused[PX_MAX_PAUSED][80];	/* endpoints, "*" is all; empty: free */
	char		disabled[PX_MAX_PAUSED][80];	/* endpoints that nobody may log in to */
	PxQuota		quota[PX_QUOTA_SLOTS];
} PxShared;

extern PxShared *px_shared;

extern void px_shmem_register(void);

/* 64-bit keyed hash of this start; never 0 */
extern uint64 px_hash(int kind, const void *data, size_t len);

/* Takes one of what is allowed; false when the limit (0: none) is reached.  One that is not counted, since the table is full, is not to be given back. */
extern bool px_quota_take(PxQuotaKind kind, uint64 key, int limit, bool *counted);
extern void px_quota_give(PxQuotaKind kind, uint64 key);
extern int	px_quota_count(uint64 key);

/* Pools: says what this one wants now instead of before; and what the others want, given what this one said. */
extern void px_quota_want(uint64 key, const PxWant *before, const PxWant *now);
extern PxWant px_quota_others_want(uint64 key, const PxWant *mine);

/* Failed logins: counts one, and tells how many there were in this minute. */
extern int	px_failures(uint64 key, int64 now_ms, int add);

#endif							/* PROXY_SHMEM_H */
