/*
 * proxy_shmem.c - what the workers share: counters and quotas.
 *
 * A quota is a count by name over all workers: clients of an endpoint or an address, server connections of a pool, failed logins of
 * an address.  The table is open addressing on a keyed 64-bit hash of the name, with a bounded probe: a name that finds
 * no slot is not limited by address or endpoint, and not pooled across workers, which costs nothing but the limit.
 *
 * Anybody can make a slot that counts failures, from each address that is theirs.  Such a slot is free for others when its minute is over,
 * and at once for a name of the other kinds: that somebody may guess more often is a lesser evil than limits that do not hold.
 *
 * Locks: one spinlock, held for a probe.  Crash rule: a worker gives back what it holds in its exit callback; one that dies without
 * makes the postmaster start everything anew, this memory included.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "proxy_shmem.h"

#define ANY_MINUTE	INT64_MAX

PxShared   *px_shared = NULL;

const PxStatInfo px_stat_info[PX_STAT_COUNT] = {
#define X(name, kind, help) {#name, help, #kind[0] == 'g'},
	PX_STATS(X)
#undef X
};

static shmem_request_hook_type prev_request_hook = NULL;
static shmem_startup_hook_type prev_startup_hook = NULL;

static void
request_shmem(void)
{
	if (prev_request_hook)
		prev_request_hook();
	RequestAddinShmemSpace(sizeof(PxShared));
}

static void
startup_shmem(void)
{
	bool		found;

	if (prev_startup_hook)
		prev_startup_hook();
	px_shared = ShmemInitStruct("neon_proxy", sizeof(PxShared), &found);
	if (found)
		return;
	memset(px_shared, 0, sizeof(PxShared));
	if (!pg_strong_random(px_shared->secret, sizeof(px_shared->secret)))
		ereport(FATAL, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not get random bytes for the proxy")));
	SpinLockInit(&px_shared->quota_lock);
	pg_atomic_init_u32(&px_shared->secrets_generation, 0);
	for (int w = 0; w < PX_MAX_WORKERS; w++)
	{
		pg_atomic_init_u32(&px_shared->worker[w].pid, 0);
		pg_atomic_init_u32(&px_shared->worker[w].starts, 0);
		for (int i = 0; i < PX_STAT_COUNT; i++)
			pg_atomic_init_u64(&px_shared->worker[w].stat[i], 0);
	}
}

void
px_shmem_register(void)
{
	prev_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

PxWorkerSlot *
px_worker_slot(int worker)
{
	Assert(worker >= 0 && worker < PX_MAX_WORKERS);
	return &px_shared->worker[worker];
}

uint64
px_stat_sum(PxStat stat)
{
	uint64		sum = 0;

	for (int w = 0; w < px_workers; w++)
		sum += pg_atomic_read_u64(&px_shared->worker[w].stat[stat]);
	return sum;
}

uint64
px_hash(int kind, const void *data, size_t len)
{
	uint64		seed,
				h;

	memcpy(&seed, px_shared->secret, sizeof(seed));
	h = hash_bytes_extended(data, (int) len, seed + (uint64) kind);
	return h ? h : 1;
}

/*
 * The slot of a key, or one for it: a free one, or the oldest that counts failures of a minute before this one.  NULL when there is none within
 * the probes, or when none is to be made (minute 0).  The lock is held.
 */
static PxQuota *
find_slot(uint64 key, int64 minute)
{
	PxQuota    *usable = NULL;
	int64		usable_window = minute;

	for (int i = 0; i < PX_QUOTA_PROBES; i++)
	{
		PxQuota    *q = &px_shared->quota[(key + i) & (PX_QUOTA_SLOTS - 1)];
		int64		window = q->key == 0 ? 0 : q->window;

		if (q->key == key)
			return q;
		if ((q->key == 0 || q->window != 0) && window < usable_window)
		{
			usable = q;
			usable_window = window;
		}
	}
	if (usable)
	{
		memset(usable, 0, sizeof(*usable));
		usable->key = key;
	}
	return usable;
}

static void
forget_if_empty(PxQuota *q)
{
	if (q->count == 0 && q->want.lacking == 0 && q->want.more == 0 && q->want.pools == 0)
		q->key = 0;
}

bool
px_quota_take(PxQuotaKind kind, uint64 key, int limit, bool *counted)
{
	PxQuota    *q;
	bool		ok = true;

	SpinLockAcquire(&px_shared->quota_lock);
	q = find_slot(key, ANY_MINUTE);
	*counted = false;
	if (q && limit > 0 && q->count >= limit)
		ok = false;
	else if (q)
	{
		q->count++;
		*counted = true;
	}
	SpinLockRelease(&px_shared->quota_lock);
	return ok;
}

void
px_quota_give(PxQuotaKind kind, uint64 key)
{
	PxQuota    *q;

	SpinLockAcquire(&px_shared->quota_lock);
	q = find_slot(key, 0);
	if (q)
	{
		if (q->count > 0)
			q->count--;
		forget_if_empty(q);
	}
	SpinLockRelease(&px_shared->quota_lock);
}

int
px_quota_count(uint64 key)
{
	PxQuota    *q;
	int			n;

	SpinLockAcquire(&px_shared->quota_lock);
	q = find_slot(key, 0);
	n = q ? q->count : 0;
	SpinLockRelease(&px_shared->quota_lock);
	return n;
}

void
px_quota_want(uint64 key, const PxWant *before, const PxWant *now)
{
	PxQuota    *q;

	SpinLockAcquire(&px_shared->quota_lock);
	q = find_slot(key, now->pools > 0 || now->lacking > 0 || now->more > 0 ? ANY_MINUTE : 0);
	if (q)
	{
		q->want.lacking = Max(q->want.lacking - before->lacking, 0) + now->lacking;
		q->want.more = Max(q->want.more - before->more, 0) + now->more;
		q->want.pools = Max(q->want.pools - before->pools, 0) + now->pools;
		forget_if_empty(q);
	}
	SpinLockRelease(&px_shared->quota_lock);
}

PxWant
px_quota_others_want(uint64 key, const PxWant *mine)
{
	PxQuota    *q;
	PxWant		w = {0, 0, 0};

	SpinLockAcquire(&px_shared->quota_lock);
	q = find_slot(key, 0);
	if (q)
	{
		w.lacking = Max(q->want.lacking - mine->lacking, 0);
		w.more = Max(q->want.more - mine->more, 0);
		w.pools = Max(q->want.pools - mine->pools, 0);
	}
	SpinLockRelease(&px_shared->quota_lock);
	return w;
}

int
px_failures(uint64 key, int64 now_ms, int add)
{
	int64		minute = now_ms / 60000 + 1;
	PxQuota    *q;
	int			n = 0;

	SpinLockAcquire(&px_shared->quota_lock);
	q = find_slot(key, add > 0 ? minute : 0);
	if (q)
	{
		if (q->window != minute)
			q->count = 0;
		q->window = minute;
		q->count += add;
		n = q->count;
		if (n == 0)
			q->key = 0;
	}
	SpinLockRelease(&px_shared->quota_lock);
	return n;
}
