/*
 * sk_shmem.c - the table of timelines in shared memory.
 *
 * The catalog is the truth; this table is what a process without a database (a replication connection) can see, and
 * holds each timeline's acceptor.  The worker fills it at start; until then nobody can tell "does not exist" from "not
 * loaded", and everybody is told that the safekeeper is starting up.
 *
 * Locks, in this order: the timeline's lock (a heavyweight lock on the slot's number), row locks of the catalog,
 * SkShared->lock (an LWLock, held for a few instructions only).  Mirrors in a slot are atomics that only the holder
 * of the timeline's lock writes.
 *
 * An acceptor is big (two term histories); untouched slots cost address space only.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "sk.h"

#define LOCK_CLASS	0x4e45		/* tells our locks from users' advisory locks, which have 1 or 2 here */

SkShared   *sk_shared = NULL;

static neon_acceptor *acceptors = NULL;
static pg_atomic_uint32 *sender_slot = NULL;	/* by pgprocno: slot number + 1 this process sends from, or 0 */
static int	my_sender_slot = 0;
static bool my_sender_above_commit = false;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static Size
shared_bytes(void)
{
	return add_size(offsetof(SkShared, slots), mul_size(sk_max_timelines, sizeof(SkSlot)));
}

static int
proc_count(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS;
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shared_bytes());
	RequestAddinShmemSpace(mul_size(sk_max_timelines, sizeof(neon_acceptor)));
	RequestAddinShmemSpace(mul_size(proc_count(), sizeof(pg_atomic_uint32)));
	RequestNamedLWLockTranche("neon_safekeeper", 1);
}

static void
init_slot(SkSlot *slot)
{
	pg_atomic_init_u32(&slot->state, SK_SLOT_FREE);
	pg_atomic_init_u64(&slot->generation, 0);
	pg_atomic_init_u64(&slot->term, 0);
	pg_atomic_init_u64(&slot->last_log_term, 0);
	pg_atomic_init_u64(&slot->serving_term, 0);
	pg_atomic_init_u64(&slot->write_lsn, 0);
	pg_atomic_init_u64(&slot->flush_lsn, 0);
	pg_atomic_init_u64(&slot->last_record_start, 0);
	pg_atomic_init_u64(&slot->commit_lsn, 0);
	pg_atomic_init_u64(&slot->persisted_commit_lsn, 0);
	pg_atomic_init_u64(&slot->wanted_segment, 0);
	pg_atomic_init_u32(&slot->senders, 0);
	pg_atomic_init_u32(&slot->term_senders, 0);
}

static void
shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	sk_shared = ShmemInitStruct("neon_safekeeper timelines", shared_bytes(), &found);
	if (!found)
	{
		memset(sk_shared, 0, shared_bytes());
		sk_shared->lock = &GetNamedLWLockTranche("neon_safekeeper")->lock;
		pg_atomic_init_u32(&sk_shared->ready, 0);
		pg_atomic_init_u64(&sk_shared->next_session, 1);
		sk_shared->nprocs = proc_count();
		for (int i = 0; i < sk_max_timelines; i++)
			init_slot(&sk_shared->slots[i]);
	}
	acceptors = ShmemInitStruct("neon_safekeeper acceptors", mul_size(sk_max_timelines, sizeof(neon_acceptor)), &found);
	sender_slot = ShmemInitStruct("neon_safekeeper senders", mul_size(proc_count(), sizeof(pg_atomic_uint32)), &found);
	if (!found)
		for (int i = 0; i < proc_count(); i++)
			pg_atomic_init_u32(&sender_slot[i], 0);
	LWLockRelease(AddinShmemInitLock);
}

void
sk_shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

neon_acceptor *
sk_slot_acceptor(SkSlot *slot)
{
	return &acceptors[slot - sk_shared->slots];
}

bool
sk_ready(void)
{
	return pg_atomic_read_u32(&sk_shared->ready) != 0;
}

void
sk_require_ready(void)
{
	if (!sk_ready())
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("the safekeeper is starting up"),
				 errdetail("The ends of the logs are being looked for."),
				 errhint("Try again in a moment.")));
}

void
sk_wake_worker(void)
{
	LWLockAcquire(sk_shared->lock, LW_SHARED);
	if (sk_shared->worker_latch)
		SetLatch(sk_shared->worker_latch);
	LWLockRelease(sk_shared->lock);
}

/* NULL: there is no such timeline.  A reserved slot is not there yet. */
SkSlot *
sk_slot_find(const neon_id *tenant, const neon_id *timeline, uint64 *generation)
{
	SkSlot	   *found = NULL;

	LWLockAcquire(sk_shared->lock, LW_SHARED);
	for (int i = 0; i < sk_max_timelines && !found; i++)
	{
		SkSlot	   *slot = &sk_shared->slots[i];
		uint32		state = pg_atomic_read_u32(&slot->state);

		if ((state == SK_SLOT_ACTIVE || state == SK_SLOT_BROKEN) &&
			neon_id_equal(&slot->timeline, timeline) && neon_id_equal(&slot->tenant, tenant))
			found = slot;
	}
	if (found)
		*generation = pg_atomic_read_u64(&found->generation);
	LWLockRelease(sk_shared->lock);
	return found;
}

/* The counts of senders stay: senders of the timeline that had the slot before leave by themselves. */
static void
clear_slot(SkSlot *slot)
{
	pg_atomic_write_u64(&slot->term, 0);
	pg_atomic_write_u64(&slot->last_log_term, 0);
	pg_atomic_write_u64(&slot->serving_term, 0);
	pg_atomic_write_u64(&slot->write_lsn, 0);
	pg_atomic_write_u64(&slot->flush_lsn, 0);
	pg_atomic_write_u64(&slot->last_record_start, 0);
	pg_atomic_write_u64(&slot->commit_lsn, 0);
	pg_atomic_write_u64(&slot->persisted_commit_lsn, 0);
	pg_atomic_write_u64(&slot->wanted_segment, 0);
}

/* A load that began again: nobody was served from what it had filled. */
void
sk_slots_reset(void)
{
	for (int i = 0; i < sk_max_timelines; i++)
		if (pg_atomic_read_u32(&sk_shared->slots[i].state) != SK_SLOT_FREE)
			sk_slot_free(&sk_shared->slots[i]);
}

SkSlot *
sk_slot_reserve(const neon_id *tenant, const neon_id *timeline)
{
	SkSlot	   *found = NULL;

	LWLockAcquire(sk_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sk_max_timelines && !found; i++)
		if (pg_atomic_read_u32(&sk_shared->slots[i].state) == SK_SLOT_FREE)
			found = &sk_shared->slots[i];
	if (found)
	{
		uint64		generation = pg_atomic_read_u64(&found->generation);

		clear_slot(found);
		pg_atomic_write_u64(&found->generation, generation + 1);
		found->tenant = *tenant;
		found->timeline = *timeline;
		found->problem[0] = '\0';
		found->last_writer = 0;
		found->tail_dirty = false;
		pg_atomic_write_u32(&found->state, SK_SLOT_RESERVED);
	}
	LWLockRelease(sk_shared->lock);
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("this safekeeper holds %d timelines and has no room for more", sk_max_timelines),
				 errhint("Raise neon_safekeeper.max_timelines, or use another safekeeper.")));
	return found;
}

void
sk_slot_set_state(SkSlot *slot, SkSlotState state)
{
	LWLockAcquire(sk_shared->lock, LW_EXCLUSIVE);
	pg_atomic_write_u32(&slot->state, state);
	LWLockRelease(sk_shared->lock);
}

/* The timeline is gone: everybody who works with it finds another generation. */
void
sk_slot_free(SkSlot *slot)
{
	sk_wake_senders(slot);
	LWLockAcquire(sk_shared->lock, LW_EXCLUSIVE);
	pg_atomic_fetch_add_u64(&slot->generation, 1);
	pg_atomic_write_u32(&slot->state, SK_SLOT_FREE);
	LWLockRelease(sk_shared->lock);
}

/* Show the acceptor's state to those without the lock.  By the holder of the timeline's lock. */
void
sk_slot_publish(SkSlot *slot)
{
	neon_acceptor *a = sk_slot_acceptor(slot);
	bool		wake = pg_atomic_read_u64(&slot->commit_lsn) != a->commit_lsn ||
		pg_atomic_read_u64(&slot->term) != a->term ||
		pg_atomic_read_u32(&slot->term_senders) != 0;

	/* Who reads commit_lsn, then last_log_term, then term has of each what belongs to the one before, or something later (sk_broker.c). */
	pg_atomic_write_u64(&slot->term, a->term);
	pg_write_barrier();
	pg_atomic_write_u64(&slot->last_log_term,
						neon_history_last_term(&a->history, pg_atomic_read_u64(&slot->flush_lsn)));
	pg_atomic_write_u64(&slot->serving_term, neon_acceptor_serves_term(a, a->term) ? a->term : 0);
	pg_write_barrier();
	pg_atomic_write_u64(&slot->commit_lsn, a->commit_lsn);
	pg_atomic_write_u64(&slot->persisted_commit_lsn, a->persisted_commit_lsn);
	if (wake)
		sk_wake_senders(slot);
}

static void
slot_locktag(SkSlot *slot, LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, 0, (uint32) (slot - sk_shared->slots), 0, LOCK_CLASS);
}

/* session: held until sk_slot_unlock, outside of transactions too; else until the transaction ends. */
bool
sk_slot_lock(SkSlot *slot, bool session, bool wait)
{
	LOCKTAG		tag;

	slot_locktag(slot, &tag);
	return LockAcquire(&tag, ExclusiveLock, session, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

void
sk_slot_unlock(SkSlot *slot)
{
	LOCKTAG		tag;

	slot_locktag(slot, &tag);
	LockRelease(&tag, ExclusiveLock, true);
}

/* One creator of timelines at a time. */
void
sk_creation_lock(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, 0, PG_UINT32_MAX, 0, LOCK_CLASS);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

static void
sender_exit(int code, Datum arg)
{
	sk_sender_unregister();
}

void
sk_sender_register(SkSlot *slot, bool above_commit)
{
	static bool exit_registered = false;

	if (!exit_registered)
	{
		before_shmem_exit(sender_exit, 0);
		exit_registered = true;
	}
	my_sender_slot = (int) (slot - sk_shared->slots) + 1;
	pg_atomic_write_u32(&sender_slot[MyProc->pgprocno], my_sender_slot);
	my_sender_above_commit = above_commit;
	if (above_commit)
		pg_atomic_fetch_add_u32(&slot->term_senders, 1);
	pg_atomic_fetch_add_u32(&slot->senders, 1);	/* a full barrier: what is committed after it wakes us */
}

void
sk_sender_unregister(void)
{
	SkSlot	   *slot;

	if (my_sender_slot == 0)
		return;
	slot = &sk_shared->slots[my_sender_slot - 1];
	pg_atomic_fetch_sub_u32(&slot->senders, 1);
	if (my_sender_above_commit)
		pg_atomic_fetch_sub_u32(&slot->term_senders, 1);
	pg_atomic_write_u32(&sender_slot[MyProc->pgprocno], 0);
	my_sender_slot = 0;
}

void
sk_wake_senders(SkSlot *slot)
{
	uint32		me = (uint32) (slot - sk_shared->slots) + 1;

	pg_memory_barrier();
	if (pg_atomic_read_u32(&slot->senders) == 0)
		return;
	for (int i = 0; i < sk_shared->nprocs; i++)
		if (pg_atomic_read_u32(&sender_slot[i]) == me)
			SetLatch(&ProcGlobal->allProcs[i].procLatch);
}
