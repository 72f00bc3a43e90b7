/*
 * reconciler.c - the controller's background workers: every few seconds they run what is to be done.
 *
 * The reconciler runs what neon_controller.jobs() lists: all that is to be done, and how often it is tried, is in SQL (sql/reconciler.sql).
 * Heartbeats have a worker of their own, so that no job, however long, makes nodes look as if they were away.
 *
 * Each job has a transaction of its own, and its error is logged, so that one that fails holds up nobody else; neither does one that wants a
 * lock which somebody keeps: it fails after LOCK_TIMEOUT_MS.  A server that does not answer costs a round one wait, however many jobs want
 * it (neon_links.c).  The workers keep nothing between two rounds: killed at any moment they begin again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "neon_links.h"
#include "reconciler.h"

#define DEFAULT_INTERVAL_MS		5000
#define MAX_INTERVAL_MS			3600000
#define RESTART_SECONDS			2
#define MAX_JOBS_A_ROUND		10000
#define LOCK_TIMEOUT_MS			"10000"

/* bgw_main_arg */
#define RECONCILER				0
#define HEARTBEAT				1

typedef struct Job
{
	char	   *job;
	char	   *object;
} Job;

static int	interval_ms[2] = {DEFAULT_INTERVAL_MS, DEFAULT_INTERVAL_MS};
static char *database = NULL;
static const char *const worker_name[2] = {"neon reconciler", "neon heartbeat"};
static const char *const list_of_jobs[2] = {"SELECT job, object FROM neon_controller.jobs()", "SELECT 'heartbeat', ''"};
static int	me;

PGDLLEXPORT void nc_reconciler_main(Datum arg);

static void
register_worker(int which)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	worker.bgw_main_arg = Int32GetDatum(which);
	strlcpy(worker.bgw_library_name, "neon_controller", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "nc_reconciler_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, worker_name[which], sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, worker_name[which], sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}

void
nc_reconciler_init(void)
{
	DefineCustomIntVariable("neon_controller.reconcile_interval", "Time between two rounds of the reconciler; 0 stops it.", NULL,
							&interval_ms[RECONCILER], DEFAULT_INTERVAL_MS, 0, MAX_INTERVAL_MS, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_controller.heartbeat_interval", "Time between two heartbeats; 0 stops them.", NULL,
							&interval_ms[HEARTBEAT], DEFAULT_INTERVAL_MS, 0, MAX_INTERVAL_MS, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomStringVariable("neon_controller.database", "Database that has the extension neon_controller.", NULL,
							   &database, "postgres", PGC_SIGHUP, 0, NULL, NULL, NULL);
	register_worker(RECONCILER);
	register_worker(HEARTBEAT);
}

static void
begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
commit(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* The jobs of this round, in `context`. */
static int
list_jobs(Job **jobs, MemoryContext context)
{
	int			n = 0;
	bool		isnull;

	begin();
	pgstat_report_activity(STATE_RUNNING, "looking for work");
	if (SPI_execute("SELECT pg_catalog.to_regproc('neon_controller.jobs') IS NOT NULL", true, 1) == SPI_OK_SELECT && SPI_processed == 1 &&
		DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)) &&
		SPI_execute(list_of_jobs[me], false, MAX_JOBS_A_ROUND) == SPI_OK_SELECT)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		*jobs = palloc(sizeof(Job) * Max(SPI_processed, 1));
		for (n = 0; n < SPI_processed; n++)
		{
			(*jobs)[n].job = SPI_getvalue(SPI_tuptable->vals[n], SPI_tuptable->tupdesc, 1);
			(*jobs)[n].object = SPI_getvalue(SPI_tuptable->vals[n], SPI_tuptable->tupdesc, 2);
		}
		MemoryContextSwitchTo(old);
	}
	commit();
	return n;
}

static void
run_job(const Job *job)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];

	begin();
	pgstat_report_activity(STATE_RUNNING, job->job);
	values[0] = CStringGetTextDatum(job->job);
	values[1] = CStringGetTextDatum(job->object);
	if (SPI_execute_with_args("SELECT neon_controller.run_job($1, $2)", 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not run job %s %s", job->job, job->object);
	commit();
}

/* jobs NULL: list them */
static int
safely(Job **jobs, const Job *job, MemoryContext context)
{
	volatile int n = 0;

	PG_TRY();
	{
		if (job)
			run_job(job);
		else
			n = list_jobs(jobs, context);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		errcontext("%s, %s %s", worker_name[me], job ? job->job : "list", job ? job->object : "of jobs");
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return n;
}

void
nc_reconciler_main(Datum arg)
{
	MemoryContext turn;

	me = DatumGetInt32(arg);
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(database, NULL, 0);
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", LOCK_TIMEOUT_MS, PGC_SUSET, PGC_S_OVERRIDE);
	turn = AllocSetContextCreate(TopMemoryContext, "neon controller's round", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		Job		   *jobs = NULL;
		int			n;

		neon_begin_round(turn);
		n = interval_ms[me] > 0 ? safely(&jobs, NULL, turn) : 0;

		for (int i = 0; i < n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			(void) safely(NULL, &jobs[i], turn);
		}
		pgstat_report_stat(true);	/* or autovacuum does not hear of what we change */
		pgstat_report_activity(STATE_IDLE, NULL);
		MemoryContextReset(turn);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, interval_ms[me] > 0 ? interval_ms[me] : 10000, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}
