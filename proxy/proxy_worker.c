/*
 * proxy_worker.c - a worker's life: start, event loop, stop.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/wait_event.h"

#include "proxy_listen.h"
#include "proxy_shmem.h"
#include "proxy_worker.h"

void
px_worker_main(Datum arg)
{
	int			me = DatumGetInt32(arg);
	int			fds[PX_MAX_ADDRESSES + 1];
	bool		is_unix[PX_MAX_ADDRESSES + 1];

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	px_listen_take(me, fds, is_unix);
	pg_atomic_write_u32(&px_worker_slot(me)->pid, MyProcPid);
	while (!ShutdownRequestPending)
	{
		WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1000, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	proc_exit(0);
}
