/*
 * ps_walreceiver.c - the ingest workers: each multiplexes the WAL streams of its share of the timelines.
 *
 * A timeline belongs to the worker numbered slot modulo the number of workers.  Workers notice timelines that come and
 * go by the table's generation; ps_wake_ingest sets their latches.  A worker that dies takes the instance with it, as
 * any process with shared memory does; after the restart every timeline goes on at disk_consistent_lsn.
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
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"

#include "ps_internal.h"
#include "ps_wal_stream.h"

#define DEFAULT_INGEST_WORKERS	1
#define MAX_WAIT_MS				1000
#define EXTENSION_WAIT_MS		1000	/* until CREATE EXTENSION */
#define RESTART_SECONDS			1

static int	ingest_workers = DEFAULT_INGEST_WORKERS;

static int	worker_number;
static PsWalStream **streams;	/* one a slot; NULL where there is none */
static uint64 seen_generation;

PGDLLEXPORT void ps_ingest_worker_main(Datum arg);

void
ps_ingest_init(void)
{
	BackgroundWorker worker = {0};

	DefineCustomIntVariable("neon_pageserver.ingest_workers",
							"Number of processes that ingest WAL.",
							NULL, &ingest_workers, DEFAULT_INGEST_WORKERS, 0, PS_MAX_INGEST_WORKERS,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, "neon_pageserver", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "ps_ingest_worker_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_type, "neon ingest", sizeof(worker.bgw_type));
	for (int i = 0; i < ingest_workers; i++)
	{
		snprintf(worker.bgw_name, sizeof(worker.bgw_name), "neon ingest %d", i);
		worker.bgw_main_arg = Int32GetDatum(i);
		RegisterBackgroundWorker(&worker);
	}
}

/* An orderly exit, with or without an error: records in progress were not poisonous. */
static void
at_exit(int code, Datum arg)
{
	ps_register_ingest_latch(worker_number, NULL);
	if (streams == NULL)
		return;
	for (int slot = 0; slot < ps_max_timelines; slot++)
		if (streams[slot] != NULL)
			ps_wal_stream_forgive(streams[slot]);
}

/* Open, refresh or close the stream of one slot. */
static void
follow_slot(int slot)
{
	PsTimeline *tl = ps_timeline_by_slot(slot);

	if (streams[slot] != NULL && ps_wal_stream_is_live(streams[slot]))
		ps_wal_stream_refresh(streams[slot]);
	if (streams[slot] != NULL && !ps_wal_stream_is_live(streams[slot]))
	{
		PsWalStream *s = streams[slot];

		streams[slot] = NULL;
		ps_wal_stream_close(s);
	}
	if (streams[slot] == NULL && tl != NULL)
		streams[slot] = ps_wal_stream_open(tl);
}

/* One timeline whose catalog row or files are in trouble must not stop the others. */
static bool
follow_slot_safely(int slot)
{
	MemoryContext old = CurrentMemoryContext;
	volatile bool ok = true;

	PG_TRY();
	{
		follow_slot(slot);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		EmitErrorReport();
		FlushErrorState();
		LWLockReleaseAll();
		if (IsTransactionState())
			AbortCurrentTransaction();
		MemoryContextSwitchTo(old);
		ok = false;
	}
	PG_END_TRY();
	return ok;
}

/* Streams of timelines that came, went, or whose safekeepers changed. */
static void
follow_table(void)
{
	uint64		generation = pg_atomic_read_u64(&ps_shared->table_generation);
	bool		all_ok = true;

	if (generation == seen_generation)
		return;
	for (int slot = worker_number; slot < ps_max_timelines; slot += ingest_workers)
		all_ok &= follow_slot_safely(slot);
	if (all_ok)
		seen_generation = generation;
}

static void
wait_for_work(void)
{
	long		timeout_ms = MAX_WAIT_MS;
	int			nstreams = 0;
	int			fired;
	WaitEventSet *set;
	WaitEvent	event;

	for (int slot = worker_number; slot < ps_max_timelines; slot += ingest_workers)
		if (streams[slot] != NULL)
			nstreams++;
	set = CreateWaitEventSet(CurrentMemoryContext, 2 + nstreams * PS_STREAM_MAX_SOCKETS);
	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int slot = worker_number; slot < ps_max_timelines; slot += ingest_workers)
	{
		PsStreamSocket sockets[PS_STREAM_MAX_SOCKETS];
		int			n = 0;

		if (streams[slot] != NULL)
			n = ps_wal_stream_sockets(streams[slot], sockets, &timeout_ms);
		for (int i = 0; i < n; i++)
			AddWaitEventToSet(set, sockets[i].events, sockets[i].fd, NULL, NULL);
	}
	fired = WaitEventSetWait(set, timeout_ms, &event, 1, PG_WAIT_EXTENSION);
	FreeWaitEventSet(set);
	if (fired > 0 && (event.events & WL_LATCH_SET))
		ResetLatch(MyLatch);
}

static void
wait_for_extension(void)
{
	while (!ps_catalog_load())
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, EXTENSION_WAIT_MS,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
ps_ingest_worker_main(Datum arg)
{
	MemoryContext turn;

	worker_number = DatumGetInt32(arg);
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(PS_DATABASE, NULL, 0);

	streams = MemoryContextAllocZero(TopMemoryContext, ps_max_timelines * sizeof(PsWalStream *));
	before_shmem_exit(at_exit, 0);
	ps_register_ingest_latch(worker_number, MyLatch);
	turn = AllocSetContextCreate(TopMemoryContext, "neon ingest turn", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(turn);
	wait_for_extension();
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		follow_table();
		for (int slot = worker_number; slot < ps_max_timelines; slot += ingest_workers)
			if (streams[slot] != NULL)
				ps_wal_stream_work(streams[slot]);
		wait_for_work();
		MemoryContextSwitchTo(turn);
		MemoryContextReset(turn);
	}
}
