/*
 * sk_worker.c - the safekeeper's background worker.
 *
 * At start it loads every timeline of the catalog into shared memory and finds the ends of their logs; nobody is served
 * before.  Afterwards it does what nobody should wait for: makes the segments that come next, writes commit positions to
 * the catalog now and then, removes the files of dropped timelines.
 *
 * Crash rule: when the worker alone dies, the table in shared memory is alive and is not loaded again; when any
 * process crashes, the postmaster makes shared memory anew and everything is loaded again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "sk.h"
#include "sk_walfile.h"

static MemoryContext work_context = NULL;
static uint64 *prepared = NULL; /* by slot: the wanted segment that was looked after */

static void
begin_work(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
end_work(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(work_context);
}

static void
load_all(void)
{
	List	   *rows = NIL;
	ListCell   *lc;

	sk_slots_reset();
	begin_work();
	if (sk_catalog_exists())
		rows = sk_catalog_load(work_context);
	end_work();

	foreach(lc, rows)
	{
		CHECK_FOR_INTERRUPTS();
		sk_timeline_load((SkTimelineRow *) lfirst(lc));
	}
	pg_atomic_write_u32(&sk_shared->ready, 1);
	ereport(LOG,
			(errmsg("safekeeper %d is ready with %d timelines", sk_node_id, list_length(rows))));
}

static void
remove_dropped(void)
{
	List	   *rows = NIL;
	ListCell   *lc;

	begin_work();
	if (sk_catalog_exists())
		rows = sk_catalog_dropped(work_context);
	end_work();
	foreach(lc, rows)
	{
		SkTimelineRow *row = lfirst(lc);

		sk_remove_dropped_files(row);
		begin_work();
		sk_catalog_forget_dropped(row);
		end_work();
	}
}

/* A commit position that a crash forgets costs a longer scan, nothing else. */
static void
persist_commit_positions(void)
{
	for (int i = 0; i < sk_max_timelines; i++)
	{
		SkSlot	   *slot = &sk_shared->slots[i];

		if (pg_atomic_read_u32(&slot->state) != SK_SLOT_ACTIVE ||
			pg_atomic_read_u64(&slot->commit_lsn) == pg_atomic_read_u64(&slot->persisted_commit_lsn))
			continue;
		if (!sk_slot_lock(slot, true, false))
			continue;
		if (pg_atomic_read_u32(&slot->state) == SK_SLOT_ACTIVE)
		{
			(void) neon_acceptor_checkpoint(sk_slot_acceptor(slot), &sk_storage, slot);
			sk_slot_publish(slot);
		}
		sk_slot_unlock(slot);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Without it the proposer's process makes its segment by itself, and says what is wrong. */
static void
prepare_segment(SkSlot *slot, uint64 segment)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		sk_wal_prepare_segment(slot, segment);
	}
	PG_CATCH();
	{
		if (ProcDiePending)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
}

/* Segments that will soon be needed. */
static void
prepare_segments(void)
{
	for (int i = 0; i < sk_max_timelines; i++)
	{
		SkSlot	   *slot = &sk_shared->slots[i];
		uint64		wanted = pg_atomic_read_u64(&slot->wanted_segment);

		if (wanted == prepared[i] || pg_atomic_read_u32(&slot->state) != SK_SLOT_ACTIVE)
			continue;
		prepared[i] = wanted;
		if (wanted != 0)
			prepare_segment(slot, wanted);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
announce_worker(Latch *latch)
{
	LWLockAcquire(sk_shared->lock, LW_EXCLUSIVE);
	sk_shared->worker_latch = latch;
	LWLockRelease(sk_shared->lock);
}

static void
worker_exit(int code, Datum arg)
{
	announce_worker(NULL);
}

void
sk_worker_main(Datum arg)
{
	TimestampTz last_checkpoint = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(sk_database, NULL, 0);
	before_shmem_exit(worker_exit, 0);
	announce_worker(MyLatch);

	work_context = AllocSetContextCreate(TopMemoryContext, "safekeeper worker", ALLOCSET_DEFAULT_SIZES);
	prepared = MemoryContextAllocZero(TopMemoryContext, sk_max_timelines * sizeof(uint64));
	MemoryContextSwitchTo(work_context);
	if (!sk_ready())
		load_all();
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();

		MemoryContextReset(work_context);
		prepare_segments();
		remove_dropped();
		if (TimestampDifferenceExceeds(last_checkpoint, now, sk_checkpoint_s * 1000))
		{
			persist_commit_positions();
			pgstat_report_stat(true);
			last_checkpoint = now;
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 sk_checkpoint_s * 1000L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			sk_check_durable_settings(WARNING);
		}
	}
}
