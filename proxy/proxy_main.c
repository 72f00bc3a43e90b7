/*
 * proxy_main.c - module entry: settings, shared memory, sockets, workers; the SQL function that shows the counters.
 *
 * The instance is stateless: nothing of the proxy is in its database but the extension's functions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "http_main.h"
#include "proxy_listen.h"
#include "proxy_shmem.h"
#include "proxy_worker.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);
PG_FUNCTION_INFO_V1(px_stats);

static shmem_startup_hook_type prev_startup_hook = NULL;

/* Sockets are opened once it is certain that this is a postmaster that will serve. */
static void
open_sockets(void)
{
	if (prev_startup_hook)
		prev_startup_hook();
	if (IsPostmasterEnvironment && !IsUnderPostmaster)
		px_listen_open();
}

static void
register_workers(void)
{
	for (int i = 0; i < px_workers; i++)
	{
		BackgroundWorker worker = {0};

		worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
		worker.bgw_start_time = BgWorkerStart_PostmasterStart;
		worker.bgw_restart_time = 1;
		worker.bgw_main_arg = Int32GetDatum(i);
		strlcpy(worker.bgw_library_name, "neon_proxy", BGW_MAXLEN);
		strlcpy(worker.bgw_function_name, "px_worker_main", BGW_MAXLEN);
		snprintf(worker.bgw_name, BGW_MAXLEN, "neon proxy worker %d", i + 1);
		strlcpy(worker.bgw_type, "neon proxy worker", BGW_MAXLEN);
		RegisterBackgroundWorker(&worker);
	}
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;					/* the SQL functions need nothing but the shared memory */
	px_define_settings();
	px_shmem_register();
	prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = open_sockets;
	register_workers();
	px_http_register_worker();
	MarkGUCPrefixReserved("neon_proxy");
}

/* stats() returns setof (worker int, name text, value int8, kind text, help text) */
Datum
px_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (px_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no proxy runs in this server"),
				 errhint("Add neon_proxy to shared_preload_libraries and restart.")));
	for (int w = 0; w < px_workers; w++)
		for (int i = 0; i < PX_STAT_COUNT; i++)
		{
			const PxStatInfo *info = &px_stat_info[i];
			Datum		values[5];
			bool		nulls[5] = {0};

			values[0] = Int32GetDatum(w + 1);
			values[1] = CStringGetTextDatum(info->name);
			values[2] = Int64GetDatum((int64) pg_atomic_read_u64(&px_worker_slot(w)->stat[i]));
			values[3] = CStringGetTextDatum(info->is_gauge ? "gauge" : "counter");
			values[4] = CStringGetTextDatum(info->help);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	return (Datum) 0;
}
