/*
 * watch.c - background worker: looks after the computes of this host.
 *
 * Every neon_compute_tools.watch_interval it asks the controller which computes this host has, asks each of them, through its provider, what it
 * does (sample_computes(), SQL), and tells the controller, which answers with what is to be done: start a compute that has crashed, suspend one that has been idle for long enough.  Each of these may take long,
 * so it is done by a worker of its own, at most MAX_ACTIONS at a time; what finds no place is proposed again in the next round.
 * The decision is made again where it is carried out, under the endpoint's lock (neon_controller.watch_action()).
 *
 * The controller is this very server, where it has the extension neon_controller, or neon_compute_tools.controller_connstring.
 *
 * Nothing is kept here that matters: after a crash the worker begins anew.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compute_tools.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
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

#include "neon_pqcall.h"

#define MAX_ACTIONS				4
#define MAX_ARGS				3
#define WATCH_RETRY_S			5
#define OFF_MS					1000	/* how often a watcher that is switched off looks at its settings */
#define CONTROLLER_CONNECT_MS	10000
#define CONTROLLER_ANSWER_MS	600000

int			ct_watch_interval_ms;
char	   *ct_controller_connstring;
char	   *ct_node_name;

PGDLLEXPORT void neon_compute_watch_main(Datum arg);
PGDLLEXPORT void neon_compute_action_main(Datum arg);

static BackgroundWorkerHandle *actions[MAX_ACTIONS];
static char action_texts[MAX_ACTIONS][BGW_EXTRALEN];

/* ---- calls ---- */

/* One call of a function here, in the transaction that is open; NULL for SQL's null.  The result is palloc'd by the caller's context. */
static char *
call_here(const char *function, int nargs, const char **args)
{
	Oid			types[MAX_ARGS] = {TEXTOID, TEXTOID, TEXTOID};
	Datum		values[MAX_ARGS];
	MemoryContext caller = CurrentMemoryContext;
	char	   *result;
	const char *sql = psprintf("SELECT %s(%s)::text", function, nargs == 0 ? "" : nargs == 1 ? "$1" : nargs == 2 ? "$1, $2" : "$1, $2, $3");

	for (int i = 0; i < nargs; i++)
		values[i] = CStringGetTextDatum(args[i]);
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (SPI_execute_with_args(sql, nargs, types, values, NULL, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "unexpected result of %s", function);
	result = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (result)
		result = MemoryContextStrdup(caller, result);
	SPI_finish();
	PopActiveSnapshot();
	return result;
}

static char *
call_controller(const char *function, int nargs, const char **args)
{
	PGconn	   *conn;
	PGresult   *res;

	if (ct_controller_connstring[0] == '\0')
		return call_here(function, nargs, args);
	conn = neon_pq_connect(ct_controller_connstring, "the controller", CONTROLLER_CONNECT_MS);
	res = neon_pq_query(conn, "the controller",
						psprintf("SELECT %s(%s)::text", function, nargs == 0 ? "" : nargs == 1 ? "$1" : nargs == 2 ? "$1, $2" : "$1, $2, $3"),
						nargs, args, CONTROLLER_ANSWER_MS);
	return PQntuples(res) == 1 && !PQgetisnull(res, 0, 0) ? pstrdup(PQgetvalue(res, 0, 0)) : NULL;
}

/* Both extensions are made after the servers were started. */
static bool
installed(void)
{
	return OidIsValid(get_namespace_oid("neon_compute_tools", true)) &&
		(ct_controller_connstring[0] != '\0' || OidIsValid(get_namespace_oid("neon_controller", true)));
}

/* ---- actions ---- */

/* A place for an action; none if there is none, or if this very action is still being carried out: one that takes long must not take all. */
static int
free_place(const char *text)
{
	int			place = -1;

	for (int i = 0; i < MAX_ACTIONS; i++)
	{
		pid_t		pid;

		if (actions[i] != NULL && GetBackgroundWorkerPid(actions[i], &pid) == BGWH_STOPPED)
		{
			pfree(actions[i]);
			actions[i] = NULL;
		}
		if (actions[i] == NULL)
			place = i;
		else if (strcmp(action_texts[i], text) == 0)
			return -1;
	}
	return place;
}

/* "suspend <tenant> <endpoint>": at most 8 + 1 + 32 + 1 + 63 bytes */
static void
begin_action(const char *text)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_notify_pid = MyProcPid,
	};
	int			place = strlen(text) < BGW_EXTRALEN ? free_place(text) : -1;
	MemoryContext old;

	if (place < 0)
		return;
	strlcpy(action_texts[place], text, BGW_EXTRALEN);
	strlcpy(worker.bgw_library_name, "neon_compute_tools", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "neon_compute_action_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "neon compute: %s", text);
	strlcpy(worker.bgw_type, "neon compute action", BGW_MAXLEN);
	strlcpy(worker.bgw_extra, text, BGW_EXTRALEN);
	old = MemoryContextSwitchTo(TopMemoryContext);
	if (!RegisterDynamicBackgroundWorker(&worker, &actions[place]))
		actions[place] = NULL;	/* no worker to be had: the next round proposes it again */
	MemoryContextSwitchTo(old);
}

void
neon_compute_action_main(Datum arg)
{
	char		text[BGW_EXTRALEN];
	const char *args[MAX_ARGS];
	char	   *rest;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection("postgres", NULL, 0);
	strlcpy(text, MyBgworkerEntry->bgw_extra, sizeof(text));
	args[0] = strtok_r(text, " ", &rest);
	args[1] = strtok_r(NULL, " ", &rest);
	args[2] = strtok_r(NULL, " ", &rest);
	if (args[0] == NULL || args[1] == NULL || args[2] == NULL)
		elog(ERROR, "action \"%s\" has not three words", MyBgworkerEntry->bgw_extra);
	StartTransactionCommand();
	pgstat_report_activity(STATE_RUNNING, MyBgworkerEntry->bgw_name);
	(void) call_controller("neon_controller.watch_action", 3, args);
	CommitTransactionCommand();
	proc_exit(0);
}

/* ---- rounds ---- */

static void
begin_actions(const char *lines)
{
	char	   *copy = pstrdup(lines);
	char	   *rest;

	for (char *line = strtok_r(copy, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest))
		begin_action(line);
}

static void
watch_round(MemoryContext context)
{
	char	   *computes = NULL;
	char	   *report;
	char	   *proposed;
	const char *args[2];

	args[0] = ct_node_name;
	StartTransactionCommand();
	if (installed())
	{
		pgstat_report_activity(STATE_RUNNING, "looking at computes");
		MemoryContextSwitchTo(context);
		computes = call_controller("neon_controller.watch_list", 1, args);
	}
	CommitTransactionCommand();
	if (computes == NULL)
		return;
	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	args[1] = computes;
	report = call_here("neon_compute_tools.sample_computes", 1, &args[1]);
	CommitTransactionCommand();
	/* another transaction: the controller's rows are locked for a moment only */
	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	args[1] = report;
	proposed = call_controller("neon_controller.watch_report", 2, args);
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
	if (proposed != NULL)
		begin_actions(proposed);
}

void
neon_compute_watch_main(Datum arg)
{
	MemoryContext context;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection("postgres", NULL, 0);
	context = AllocSetContextCreate(TopMemoryContext, "neon compute watcher", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 ct_watch_interval_ms > 0 ? ct_watch_interval_ms : OFF_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (ct_watch_interval_ms > 0)
			watch_round(context);
		MemoryContextReset(context);
	}
}

void
ct_register_watcher(void)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = WATCH_RETRY_S,
	};

	strlcpy(worker.bgw_library_name, "neon_compute_tools", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "neon_compute_watch_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "neon compute watcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "neon compute watcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
