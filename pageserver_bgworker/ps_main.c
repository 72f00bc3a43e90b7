/*
 * ps_main.c - start of the module: settings, shared memory, workers.
 *
 * The module must be in shared_preload_libraries: the timeline table and the pool of the open layers live in the main
 * shared memory segment, and the workers are registered before the postmaster starts anything.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_internal.h"
#include "ps_page_cache.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#include "neon_tenant_guard.h"

PG_MODULE_MAGIC;

#define MIN_MAX_TIMELINES				1
#define DEFAULT_MAX_TIMELINES			1000
#define MAX_MAX_TIMELINES				100000
#define MIN_OPEN_LAYER_MEMORY_MB		16
#define DEFAULT_OPEN_LAYER_MEMORY_MB	256
#define MAX_OPEN_LAYER_MEMORY_MB		(32 * 1024 - 1) /* offsets are 32 bits in units of 8 bytes */
#define MIN_CHECKPOINT_DISTANCE_KB		256
#define DEFAULT_CHECKPOINT_DISTANCE_KB	(128 * 1024)
#define MIN_CHECKPOINT_TIMEOUT_S		1
#define DEFAULT_CHECKPOINT_TIMEOUT_S	600
#define MAX_CHECKPOINT_TIMEOUT_S		86400
#define DEFAULT_WAIT_LSN_TIMEOUT_MS		300000
#define DEFAULT_FLUSH_WORKERS			1
#define DEFAULT_DISK_RESERVE_MB			256
#define DEFAULT_COMPACTION_THRESHOLD	8
#define MAX_COMPACTION_THRESHOLD		1000
#define MIN_COMPACTION_TARGET_KB		64
#define DEFAULT_COMPACTION_TARGET_KB	(64 * 1024)
#define MAX_COMPACTION_TARGET_KB		(16 * 1024 * 1024)
#define DEFAULT_PAGE_CACHE_MB			64
#define MAX_PAGE_CACHE_MB				(1024 * 1024)

int			ps_max_timelines = DEFAULT_MAX_TIMELINES;
int			ps_open_layer_memory_mb = DEFAULT_OPEN_LAYER_MEMORY_MB;
int			ps_checkpoint_distance_kb = DEFAULT_CHECKPOINT_DISTANCE_KB;
int			ps_checkpoint_timeout_s = DEFAULT_CHECKPOINT_TIMEOUT_S;
int			ps_wait_lsn_timeout_ms = DEFAULT_WAIT_LSN_TIMEOUT_MS;
int			ps_flush_workers = DEFAULT_FLUSH_WORKERS;
int			ps_disk_reserve_mb = DEFAULT_DISK_RESERVE_MB;

PsShared   *ps_shared;
PsTimeline *ps_timelines;
PsMemLayer *ps_mem_layers;
char	   *ps_pool;

static shmem_request_hook_type prev_shmem_request_hook;
static shmem_startup_hook_type prev_shmem_startup_hook;

/* What tenants may call; each checks the tenant itself. */
static const char *const tenant_functions[] = {"pagestream", "basebackup", "last_record_lsn", "lsn_at", NULL};
static char *const tenant_database = "postgres";

void		_PG_init(void);

static void
define_settings(void)
{
	DefineCustomIntVariable("neon_pageserver.max_timelines",
							"Number of timelines this pageserver can hold.",
							NULL, &ps_max_timelines,
							DEFAULT_MAX_TIMELINES, MIN_MAX_TIMELINES, MAX_MAX_TIMELINES,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.open_layer_memory",
							"Shared memory for versions that are not yet in layer files.",
							NULL, &ps_open_layer_memory_mb,
							DEFAULT_OPEN_LAYER_MEMORY_MB, MIN_OPEN_LAYER_MEMORY_MB, MAX_OPEN_LAYER_MEMORY_MB,
							PGC_POSTMASTER, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.checkpoint_distance",
							"Size at which a timeline's open layer is frozen and flushed.",
							NULL, &ps_checkpoint_distance_kb,
							DEFAULT_CHECKPOINT_DISTANCE_KB, MIN_CHECKPOINT_DISTANCE_KB, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.checkpoint_timeout",
							"Age at which a timeline's open layer is frozen and flushed.",
							NULL, &ps_checkpoint_timeout_s,
							DEFAULT_CHECKPOINT_TIMEOUT_S, MIN_CHECKPOINT_TIMEOUT_S, MAX_CHECKPOINT_TIMEOUT_S,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.wait_lsn_timeout",
							"How long a request waits for WAL that has not arrived.",
							NULL, &ps_wait_lsn_timeout_ms,
							DEFAULT_WAIT_LSN_TIMEOUT_MS, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.compaction_threshold",
							"Number of L0 layer files of a timeline that are merged; 0 turns compaction off.",
							NULL, &ps_compaction_threshold,
							DEFAULT_COMPACTION_THRESHOLD, 0, MAX_COMPACTION_THRESHOLD,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.compaction_target_size",
							"Size of the files that compaction writes.",
							NULL, &ps_compaction_target_kb,
							DEFAULT_COMPACTION_TARGET_KB, MIN_COMPACTION_TARGET_KB, MAX_COMPACTION_TARGET_KB,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.page_cache_size",
							"Shared memory for rebuilt pages, from which later versions of them are rebuilt.",
							NULL, &ps_page_cache_mb,
							DEFAULT_PAGE_CACHE_MB, 0, MAX_PAGE_CACHE_MB,
							PGC_POSTMASTER, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.disk_reserve",
							"Space that is kept free: with less of it no layer file is written.",
							NULL, &ps_disk_reserve_mb,
							DEFAULT_DISK_RESERVE_MB, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.flush_workers",
							"Number of processes that write open layers to files.",
							NULL, &ps_flush_workers,
							DEFAULT_FLUSH_WORKERS, 1, PS_MAX_FLUSH_WORKERS,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

/*
 * disk_consistent_lsn says that layers are on disk, and rows name files: neither may be said without fsync.  fsync and
 * full_page_writes can be changed by a reload, so they are looked at before each file.
 */
void
ps_check_durable_settings(int elevel)
{
	const char *name = !enableFsync ? "fsync" : !fullPageWrites ? "full_page_writes" : data_sync_retry ? "data_sync_retry" : NULL;

	if (name)
		ereport(elevel,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("a pageserver cannot run with %s=%s", name, data_sync_retry && enableFsync && fullPageWrites ? "on" : "off"),
				 errdetail("Its layers and its catalog must survive a crash of the machine."),
				 errhint("Remove the setting: the default is right.")));
}

static Size
table_shmem_bytes(void)
{
	return add_size(MAXALIGN(sizeof(PsShared)), mul_size(ps_max_timelines, sizeof(PsTimeline)));
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(table_shmem_bytes());
	RequestAddinShmemSpace(ps_pool_shmem_bytes());
	RequestAddinShmemSpace(ps_page_cache_shmem_bytes());
	RequestNamedLWLockTranche("neon_pageserver", 1);
}

static void
init_table(int tranche)
{
	memset(ps_shared, 0, table_shmem_bytes());
	LWLockInitialize(&ps_shared->table_lock, tranche);
	LWLockInitialize(&ps_shared->load_lock, tranche);
	pg_atomic_init_u64(&ps_shared->table_generation, 1);
	SpinLockInit(&ps_shared->pool_mutex);
	ConditionVariableInit(&ps_shared->pool_cv);
	for (int i = 0; i < ps_max_timelines; i++)
	{
		PsTimeline *tl = &ps_timelines[i];

		LWLockInitialize(&tl->write_lock, tranche);
		LWLockInitialize(&tl->layers_lock, tranche);
		pg_atomic_init_u64(&tl->last_record_lsn, 0);
		pg_atomic_init_u64(&tl->prev_record_lsn, 0);
		pg_atomic_init_u64(&tl->disk_consistent_lsn, 0);
		pg_atomic_init_u64(&tl->map_generation, 0);
		ConditionVariableInit(&tl->lsn_cv);
		ConditionVariableInit(&tl->flush_cv);
		tl->open_layer = PS_NO_LAYER;
		tl->ancestor = -1;
	}
}

static void
shmem_startup(void)
{
	bool		found;
	int			tranche = GetNamedLWLockTranche("neon_pageserver")[0].lock.tranche;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	ps_shared = ShmemInitStruct("neon_pageserver table", table_shmem_bytes(), &found);
	ps_timelines = (PsTimeline *) ((char *) ps_shared + MAXALIGN(sizeof(PsShared)));
	if (!found)
		init_table(tranche);
	ps_pool_init();
	ps_page_cache_init();
	LWLockRelease(AddinShmemInitLock);
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_pageserver must be loaded via shared_preload_libraries"),
				 errhint("Add neon_pageserver to shared_preload_libraries and restart the server.")));

	define_settings();
	ps_check_durable_settings(FATAL);
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;

	ps_flush_register();
	ps_compact_register();
	ps_redo_init();
	ps_ingest_init();
	neon_tenant_guard_init("neon_pageserver", tenant_functions, &tenant_database);
	MarkGUCPrefixReserved("neon_pageserver");
}
