/*
 * neon_smgr.c - the compute's storage manager: settings, checks at start, shared memory.
 *
 * Preloaded with neon.timeline_id (or neon.page_store_directory) set, the module replaces the server's storage manager before
 * any other process exists.  Loaded in any other way it changes nothing and only offers its SQL functions.
 *
 * It refuses to start where it would lose data: with another minor version than it was built for or a server that does not
 * look as expected (libs/pgpatch), with data checksums (they are computed on copies the classification does not see), with
 * wal_level=minimal (bulk loads would leave no WAL), after anything but a clean shutdown (local state is gone then; a new
 * data directory comes from a base backup).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "common/file_perm.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#include "last_written.h"
#include "neon_core.h"
#include "neon_smgr.h"
#include "page_cache.h"
#include "page_class.h"
#include "page_stream.h"
#include "page_truth.h"
#include "pagestore.h"
#include "pinned_pages.h"
#include "relation_table.h"
#include "replica.h"
#include "warm_cache.h"

PG_MODULE_MAGIC;

#define DEFAULT_FILE_CACHE_MB	64
#define MAX_FILE_CACHE_MB		(4 * 1024 * 1024)
#define MIN_RELATIONS			1024
#define DEFAULT_RELATIONS		65536
#define MAX_RELATIONS			(16 * 1024 * 1024)
#define MIN_TIMEOUT_MS			100
#define DEFAULT_TIMEOUT_MS		120000
#define MAX_TIMEOUT_MS			(24 * 3600 * 1000)

PGDLLEXPORT void _PG_init(void);

char	   *neon_tenant_id;
char	   *neon_timeline_id;
char	   *neon_pageserver_connstring;
char	   *neon_controller_connstring;
char	   *neon_page_store_directory;
char	   *neon_static_timeline_id;
XLogRecPtr	neon_static_lsn;
int			neon_file_cache_size_limit_mb;
int			neon_max_relations;
int			neon_pageserver_timeout_ms;

bool		neon_smgr_active;
NeonSmgrShared *neon_smgr_shared;
neon_compute_shared *neon_compute;

static char *static_lsn_text;
static neon_pgpatch_report self_check;
static shmem_request_hook_type prev_shmem_request;
static shmem_startup_hook_type prev_shmem_startup;

/* ---- settings ---- */

static bool
check_id(char **newval, void **extra, GucSource source)
{
	neon_id		id;

	if ((*newval)[0] == '\0' || neon_id_parse(*newval, &id))
		return true;
	GUC_check_errdetail("An id is 32 hexadecimal digits.");
	return false;
}

static bool
check_static_lsn(char **newval, void **extra, GucSource source)
{
	neon_lsn	lsn;

	if ((*newval)[0] == '\0' || neon_lsn_parse(*newval, &lsn))
		return true;
	GUC_check_errdetail("An LSN is two hexadecimal numbers with a slash between them.");
	return false;
}

static void
assign_static_lsn(const char *newval, void *extra)
{
	neon_lsn	lsn;

	neon_static_lsn = newval[0] != '\0' && neon_lsn_parse(newval, &lsn) ? lsn : InvalidXLogRecPtr;
}

static void
assign_connstring(const char *newval, void *extra)
{
	page_stream_settings_changed();
}

static void
define_controller_setting(void)
{
	DefineCustomStringVariable("neon.controller_connstring",
							   "Connection string of the controller, for the functions of the extension.",
							   NULL, &neon_controller_connstring, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
}

static void
define_settings(void)
{
	DefineCustomStringVariable("neon.tenant_id", "The tenant this compute belongs to.", NULL,
							   &neon_tenant_id, "", PGC_POSTMASTER, 0, check_id, NULL, NULL);
	DefineCustomStringVariable("neon.timeline_id", "The timeline this compute works on.", NULL,
							   &neon_timeline_id, "", PGC_POSTMASTER, 0, check_id, NULL, NULL);
	DefineCustomStringVariable("neon.pageserver_connstring", "Connection string of the pageserver that has the timeline.", NULL,
							   &neon_pageserver_connstring, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, assign_connstring, NULL);
	DefineCustomIntVariable("neon.file_cache_size_limit", "Size of the local page cache.",
							"Pages that storage cannot rebuild are kept in addition. 0 keeps only those.",
							&neon_file_cache_size_limit_mb, DEFAULT_FILE_CACHE_MB, 0, MAX_FILE_CACHE_MB,
							PGC_POSTMASTER, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon.max_relations", "Relations whose sizes are kept in shared memory.",
							"Relations changed since the start are kept until they are dropped.",
							&neon_max_relations, DEFAULT_RELATIONS, MIN_RELATIONS, MAX_RELATIONS,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon.pageserver_timeout", "How long a request to the pageserver may take, reconnecting included.", NULL,
							&neon_pageserver_timeout_ms, DEFAULT_TIMEOUT_MS, MIN_TIMEOUT_MS, MAX_TIMEOUT_MS,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomStringVariable("neon.page_store_directory", "A directory that stands in for the pageserver.",
							   "For tests of the storage manager alone.",
							   &neon_page_store_directory, "", PGC_POSTMASTER, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomStringVariable("neon.static_lsn", "This server shows its timeline as of this LSN, read-only.", NULL,
							   &static_lsn_text, "", PGC_POSTMASTER, 0, check_static_lsn, assign_static_lsn, NULL);
	DefineCustomStringVariable("neon.static_timeline_id", "The timeline that holds neon.static_lsn: neon.timeline_id or one of its ancestors.",
							   NULL, &neon_static_timeline_id, "", PGC_POSTMASTER, 0, check_id, NULL, NULL);
	DefineCustomBoolVariable("neon.replica", "This server follows its timeline, read-only.", NULL,
							 &neon_replica, false, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	page_truth_define_settings();
	define_controller_setting();
}

/* ---- LSNs ---- */

XLogRecPtr
neon_pull_back_lsn(XLogRecPtr lsn)
{
	if (lsn % wal_segment_size == SizeOfXLogLongPHD)
		return lsn - SizeOfXLogLongPHD;
	if (lsn % XLOG_BLCKSZ == SizeOfXLogShortPHD && lsn % wal_segment_size > XLOG_BLCKSZ)
		return lsn - SizeOfXLogShortPHD;
	return lsn;
}

XLogRecPtr
neon_insert_lsn(void)
{
	if (neon_static_lsn != InvalidXLogRecPtr)
		return neon_static_lsn;
	if (neon_replica)
		return replica_replay_lsn();
	if (RecoveryInProgress())
		return GetXLogReplayRecPtr(NULL);
	return neon_pull_back_lsn(GetXLogInsertRecPtr());
}

/* Where the log ends that this server starts with: the place of the last checkpoint, which must be one of a clean stop. */
static XLogRecPtr
read_start_lsn(void)
{
	bool		crc_ok;
	ControlFileData *control;
	XLogRecPtr	lsn;
	struct stat st;

	if (neon_static_lsn != InvalidXLogRecPtr)
		return static_endpoint_start_lsn();
	if (neon_replica)
		return replica_start_lsn();
	control = get_controlfile(DataDir, &crc_ok);
	lsn = neon_pull_back_lsn(control->checkPoint);
	if (!crc_ok)
		ereport(FATAL, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("the control file is damaged: its checksum does not fit")));
	if (control->state != DB_SHUTDOWNED)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this data directory was not shut down cleanly"),
				 errdetail("A compute keeps pages locally that do not survive a crash."),
				 errhint("Start the compute with a new data directory from a base backup.")));
	if (stat("standby.signal", &st) == 0 || stat("recovery.signal", &st) == 0)
		ereport(FATAL,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("this compute cannot run as a standby or recover from an archive"),
				 errhint("Create a branch at the LSN or time you want instead.")));
	pfree(control);
	return lsn;
}

/* ---- shared memory ---- */

static void
shmem_request(void)
{
	if (prev_shmem_request)
		prev_shmem_request();
	RequestAddinShmemSpace(sizeof(NeonSmgrShared) + sizeof(neon_compute_shared));
	RequestAddinShmemSpace(last_written_shmem_bytes());
	if (neon_replica)
		RequestAddinShmemSpace(replica_shmem_bytes());
	relation_table_request();
	page_cache_request();
	pinned_pages_request();
	page_truth_request();
}

/* What the last run has left goes; the page cache's file stays if it was taken over. */
static void
clear_local_directory(bool keep_cache)
{
	DIR		   *dir = AllocateDir(NEON_LOCAL_DIR);
	struct dirent *entry;

	while (dir != NULL && (entry = ReadDir(dir, NEON_LOCAL_DIR)) != NULL)
	{
		char		path[MAXPGPATH * 2];
		struct stat st;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
			(keep_cache && strcmp(entry->d_name, PAGE_CACHE_NAME) == 0))
			continue;
		snprintf(path, sizeof(path), "%s/%s", NEON_LOCAL_DIR, entry->d_name);
		if (lstat(path, &st) != 0 || !(S_ISDIR(st.st_mode) ? rmtree(path, true) : unlink(path) == 0))
			ereport(FATAL, (errcode_for_file_access(), errmsg("could not remove \"%s\" of the last run: %m", path)));
	}
	if (dir != NULL)
		FreeDir(dir);
}

static void
make_local_directory(bool keep_cache)
{
	struct stat st;

	if (stat(NEON_LOCAL_DIR, &st) == 0)
		clear_local_directory(keep_cache);
	else if (MakePGDirectory(NEON_LOCAL_DIR) < 0)
		ereport(FATAL, (errcode_for_file_access(), errmsg("could not create directory \"%s\": %m", NEON_LOCAL_DIR)));
	if (MakePGDirectory(NEON_LOCAL_DIR "/pinned") < 0)
		ereport(FATAL, (errcode_for_file_access(), errmsg("could not create directory \"%s\": %m", NEON_LOCAL_DIR "/pinned")));
}

static void
shmem_startup(void)
{
	static bool started;
	bool		found;

	if (prev_shmem_startup)
		prev_shmem_startup();
	if (started)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a compute does not restart after a crash of one of its processes"),
				 errhint("Start the compute with a new data directory from a base backup; set \"restart_after_crash\" to off.")));
	started = true;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	neon_compute = ShmemInitStruct(NEON_COMPUTE_SHMEM, sizeof(neon_compute_shared), &found);
	if (!found)
	{
		memset(neon_compute, 0, sizeof(*neon_compute));
		neon_compute->commit_lsn = UINT64_MAX;	/* until a proposer says otherwise */
	}
	neon_smgr_shared = ShmemInitStruct("neon_smgr", sizeof(NeonSmgrShared), &found);
	if (!found)
	{
		memset(neon_smgr_shared, 0, sizeof(*neon_smgr_shared));
		for (int i = 0; i < NEON_CNT_LAST; i++)
			pg_atomic_init_u64(&neon_smgr_shared->counters[i], 0);
		neon_smgr_shared->report = self_check;
		neon_smgr_shared->start_lsn = read_start_lsn();
	}
	last_written_init();
	if (neon_replica)
		replica_init(neon_smgr_shared->start_lsn);
	relation_table_init(!found);
	page_cache_init();
	if (!IsUnderPostmaster)
	{
		make_local_directory(!neon_replica && warm_cache_load());
		if (!neon_replica)
			warm_cache_register();
	}
	pinned_pages_init();
	page_class_init();
	page_truth_init();
	LWLockRelease(AddinShmemInitLock);
}

/* ---- start ---- */

static void
check_server_settings(void)
{
	if (DataChecksumsEnabled())
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a compute cannot use a data directory with data checksums"),
				 errhint("Pages are checked by storage; use a base backup of a timeline made without them.")));
	if (wal_level == WAL_LEVEL_MINIMAL)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a compute needs \"wal_level\" to be replica or logical"),
				 errhint("With wal_level=minimal bulk loads are not logged, and storage would not have them.")));
	if (neon_static_lsn != InvalidXLogRecPtr && neon_replica)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"neon.static_lsn\" and \"neon.replica\" exclude each other"),
				 errhint("Set one of them.")));
	if (neon_page_store_directory[0] == '\0' && neon_tenant_id[0] == '\0')
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"neon.timeline_id\" is set but \"neon.tenant_id\" is not"),
				 errhint("Set both, or neither.")));
}

static void
take_over_storage_manager(void)
{
	neon_pgpatch_image image;

	neon_pgpatch_report_init(&self_check);
	if (!neon_pgpatch_begin(PG_VERSION_NUM, &image, &self_check) ||
		!smgr_abi_install(&image, &self_check) ||
		!size_functions_install(&image, &self_check) ||
		((neon_static_lsn != InvalidXLogRecPtr || neon_replica) && !standby_install(&image, &self_check)))
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_smgr cannot work in this server"),
				 errdetail_internal("%s", self_check.error),
				 errhint(NEON_PGPATCH_HINT)));
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
	{
		/* Loaded for its SQL functions only. */
		if (GetConfigOption("neon.controller_connstring", true, false) == NULL)
			define_controller_setting();
		return;
	}
	define_settings();
	if (neon_timeline_id[0] == '\0' && neon_page_store_directory[0] == '\0')
		return;

	check_server_settings();
	page_source = neon_page_store_directory[0] != '\0' ? &page_directory_source : &page_stream_source;
	take_over_storage_manager();
	neon_smgr_active = true;

	prev_shmem_request = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	utility_hook_install();
	if (neon_replica)
		replica_install();
	if (neon_static_lsn != InvalidXLogRecPtr || neon_replica)
	{
		standby_settings();
		return;					/* no page is kept or compared: whatever is written here is dropped, or a copy */
	}
	release_worker_register();
	page_truth_register_worker();
}
