/*
 * sk_module.c - the safekeeper's settings, its checks at start, its hooks.
 *
 * Rule 3: votes survive everything the instance survives.  An instance that runs with fsync=off, full_page_writes=off, data_sync_retry=on
 * or a weaker synchronous_commit than on does not start as a safekeeper.  fsync and full_page_writes can be changed by
 * a reload, so every write of a term looks at them again; a session's synchronous_commit does not matter, since
 * those writes use ForceSyncCommit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/fd.h"
#include "utils/guc.h"

#include "neon_tenant_guard.h"
#include "sk.h"

PG_MODULE_MAGIC;

int			sk_node_id = 0;
int			sk_max_timelines = SK_MAX_TIMELINES_DEFAULT;
int			sk_disk_reserve_mb = SK_DISK_RESERVE_MB_DEFAULT;
int			sk_checkpoint_s = SK_CHECKPOINT_S_DEFAULT;
char	   *sk_database = NULL;

/* What tenants may call; each checks the tenant itself. */
static const char *const tenant_functions[] = {"wal_push", NULL};

PGDLLEXPORT void _PG_init(void);

void
sk_check_durable_settings(int elevel)
{
	const char *name = NULL;
	bool		wanted = true;

	if (!enableFsync)
		name = "fsync";
	else if (!fullPageWrites)
		name = "full_page_writes";
	else if (data_sync_retry)
	{
		name = "data_sync_retry";	/* an fsync that failed once says nothing afterwards */
		wanted = false;
	}
	if (name)
		ereport(elevel,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("a safekeeper cannot run with %s=%s", name, wanted ? "off" : "on"),
				 errdetail("Its votes and its WAL must survive a crash of the machine."),
				 errhint("Set %s to %s.", name, wanted ? "on" : "off")));
}

static void
define_settings(void)
{
	DefineCustomIntVariable("neon_safekeeper.node_id",
							"Number of this safekeeper, unique among all safekeepers.", NULL,
							&sk_node_id, 0, 0, INT_MAX, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_safekeeper.max_timelines",
							"Timelines that this safekeeper can hold.", NULL,
							&sk_max_timelines, SK_MAX_TIMELINES_DEFAULT, SK_MAX_TIMELINES_MIN, SK_MAX_TIMELINES_MAX,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_safekeeper.disk_reserve",
							"Space that is kept free: with less of it WAL is refused.", NULL,
							&sk_disk_reserve_mb, SK_DISK_RESERVE_MB_DEFAULT, 0, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_safekeeper.checkpoint_interval",
							"How often commit positions are written to the catalog.", NULL,
							&sk_checkpoint_s, SK_CHECKPOINT_S_DEFAULT, 1, 3600,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomStringVariable("neon_safekeeper.database",
							   "Database that has the extension neon_safekeeper.", NULL,
							   &sk_database, "postgres", PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

static void
check_start(void)
{
	sk_check_durable_settings(FATAL);
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		ereport(FATAL,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("a safekeeper cannot run with synchronous_commit below on"),
				 errdetail("Its votes must survive a crash of the machine."),
				 errhint("Set synchronous_commit to on.")));
	if (sk_node_id == 0)
		ereport(FATAL,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("neon_safekeeper.node_id is not set"),
				 errhint("Give each safekeeper a number of its own, from 1 on.")));
}

void
_PG_init(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_safekeeper must be loaded with shared_preload_libraries"),
				 errhint("Add neon_safekeeper to shared_preload_libraries and restart the server.")));

	define_settings();
	sk_broker_init();
	MarkGUCPrefixReserved("neon_safekeeper");
	check_start();
	sk_shmem_init();
	sk_replication_init();
	neon_tenant_guard_init("neon_safekeeper", tenant_functions, &sk_database);

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 2;
	strlcpy(worker.bgw_library_name, "neon_safekeeper", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "sk_worker_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "neon safekeeper", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "neon safekeeper", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}
