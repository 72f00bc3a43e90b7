/*
 * neon_walproposer.c - start of the module: settings, shared memory, hooks.
 *
 * A compute's WAL is durable when a quorum of safekeepers has it.  This module sends it there (launcher.c, proposer.c,
 * libs/wal_push), makes commits wait for that (commit_wait.c), and stops the compute when it can no longer be right.
 * Without neon.safekeepers (replicas, static endpoints) it changes nothing in the server.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#include "neon_core.h"
#include "neon_wal.h"
#include "neon_warm.h"
#include "walproposer.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

#define DRAIN_TIMEOUT_MIN_MS		100
#define DRAIN_TIMEOUT_DEFAULT_MS	10000
#define DRAIN_TIMEOUT_MAX_MS		3600000

char	   *wp_safekeepers = NULL;
char	   *wp_start_lsn_text = NULL;
int			wp_drain_timeout_ms = DRAIN_TIMEOUT_DEFAULT_MS;
uint64		wp_start_lsn = 0;
neon_compute_shared *wp_compute = NULL;
WalProposerShared *wp_shared = NULL;

static char *tenant_id_setting = NULL;
static char *timeline_id_setting = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

const char *
wp_setting(const char *name)
{
	const char *value = GetConfigOption(name, true, false);

	return value ? value : "";
}

/* A setting that neon_smgr defines when it is loaded; a data directory without it (tests, tools) still needs it. */
static void
define_if_missing(const char *name, const char *description, char **variable)
{
	if (GetConfigOption(name, true, false) != NULL &&
		(GetConfigOptionFlags(name, true) & GUC_CUSTOM_PLACEHOLDER) == 0)
		return;
	DefineCustomStringVariable(name, description, NULL, variable, "", PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

static bool
check_start_lsn(char **newval, void **extra, GucSource source)
{
	neon_lsn	lsn;

	if (**newval == '\0' || neon_lsn_parse(*newval, &lsn))
		return true;
	GUC_check_errdetail("An LSN looks like \"16/B374D848\".");
	return false;
}

static void
define_settings(void)
{
	DefineCustomStringVariable("neon.safekeepers", "Safekeepers that keep this compute's WAL.",
							   "Entries id=connstring separated by semicolons.",
							   &wp_safekeepers, "", PGC_POSTMASTER, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("neon.start_lsn", "End of the WAL this compute was started from.", NULL,
							   &wp_start_lsn_text, "", PGC_POSTMASTER, 0, check_start_lsn, NULL, NULL);
	DefineCustomIntVariable("neon.drain_timeout", "How long a stop waits for the safekeepers to take the last WAL.", NULL,
							&wp_drain_timeout_ms, DRAIN_TIMEOUT_DEFAULT_MS, DRAIN_TIMEOUT_MIN_MS, DRAIN_TIMEOUT_MAX_MS,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	define_if_missing("neon.tenant_id", "Tenant of this compute.", &tenant_id_setting);
	define_if_missing("neon.timeline_id", "Timeline of this compute.", &timeline_id_setting);
	MarkGUCPrefixReserved("neon");
}

static Size
shared_bytes(void)
{
	return offsetof(WalProposerShared, want) + mul_size(sizeof(pg_atomic_uint64), wp_commit_wait_slots());
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(neon_compute_shared)));
	if (*wp_safekeepers)
		RequestAddinShmemSpace(MAXALIGN(shared_bytes()));
}

static void
make_secret(char text[WP_SECRET_TEXT])
{
	uint8		raw[WP_SECRET_BYTES];

	if (!pg_strong_random(raw, sizeof(raw)))
		ereport(FATAL, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not make a random key for the proposer")));
	for (int i = 0; i < WP_SECRET_BYTES; i++)
		snprintf(text + 2 * i, 3, "%02x", raw[i]);
}

/*
 * A directory may be started from two places only: its base backup, whose fabricated checkpoint begins at the first place after X
 * where a record can; or a clean stop whose shutdown checkpoint ends exactly at X.  What a server has written beyond X is in its
 * files, whether the quorum has it or not: a start would show it to clients before the quorum has it, if it ever gets it.
 * The same check ends a compute that would otherwise recover from the crash of one of its processes.
 */
static void
check_data_directory(void)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);

	if (!crc_ok)
		ereport(FATAL,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the control file has a wrong checksum")));
	if ((control->state != DB_SHUTDOWNED && control->state != DB_SHUTDOWNED_IN_RECOVERY) ||
		(control->checkPoint != neon_lsn_record_start(wp_start_lsn, control->xlog_seg_size) &&
		 neon_wal_record_end(control->checkPoint, NEON_SHUTDOWN_RECORD_BYTES, control->xlog_seg_size) != wp_start_lsn))
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this data directory cannot be started at %X/%X", LSN_FORMAT_ARGS(wp_start_lsn)),
				 errdetail("It has been used since its base backup, or is of another position: its last checkpoint is at %X/%X.",
						   LSN_FORMAT_ARGS(control->checkPoint)),
				 errhint("Start the endpoint again from a new base backup.")));
	pfree(control);
}

/*
 * The quorum has everything up to start_lsn before a compute may start, so commit_lsn begins there; without a
 * proposer there is nothing to wait for, ever.
 */
static void
shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	if (*wp_safekeepers)
		check_data_directory();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	wp_compute = ShmemInitStruct(NEON_COMPUTE_SHMEM, sizeof(neon_compute_shared), &found);
	if (!found)
		memset(wp_compute, 0, sizeof(*wp_compute));
	__atomic_store_n(&wp_compute->start_lsn, wp_start_lsn, __ATOMIC_RELEASE);
	__atomic_store_n(&wp_compute->commit_lsn, *wp_safekeepers ? wp_start_lsn : PG_UINT64_MAX, __ATOMIC_RELEASE);
	if (*wp_safekeepers)
	{
		wp_shared = ShmemInitStruct("neon walproposer", shared_bytes(), &found);
		if (!found)
		{
			memset(wp_shared, 0, shared_bytes());
			wp_shared->slots = wp_commit_wait_slots();
			for (uint32 i = 0; i < wp_shared->slots; i++)
				pg_atomic_init_u64(&wp_shared->want[i], 0);
			make_secret(wp_shared->secret);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Everything that would make a started compute wrong is found before it starts. */
static void
check_settings(void)
{
	neon_id		id;

	if (!IsPostmasterEnvironment)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a compute with safekeepers cannot run in single-user mode"),
				 errdetail("Nothing would send its WAL to the safekeepers.")));
	if (wp_start_lsn == 0)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("neon.start_lsn must be set when neon.safekeepers is"),
				 errhint("It is the LSN of the base backup, as the election before it has returned.")));
	if (!neon_id_parse(wp_setting("neon.tenant_id"), &id) || !neon_id_parse(wp_setting("neon.timeline_id"), &id))
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("neon.tenant_id and neon.timeline_id must be set when neon.safekeepers is"),
				 errdetail("Each is 32 hexadecimal digits.")));
	if (max_wal_senders < 1)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_wal_senders must be at least 1 when neon.safekeepers is set"),
				 errdetail("The process that sends WAL to the safekeepers needs a walsender's place.")));
}

void
_PG_init(void)
{
	neon_pgpatch_report report;

	/* Elsewhere only neon_sync_safekeepers() is used. */
	if (!process_shared_preload_libraries_in_progress)
		return;

	define_settings();
	if (*wp_start_lsn_text && !neon_lsn_parse(wp_start_lsn_text, &wp_start_lsn))
		elog(FATAL, "neon.start_lsn is not valid");	/* its check function has looked */
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	if (*wp_safekeepers == '\0')
		return;

	check_settings();
	/* see wal_keep.c; no configuration changes a value of this source */
	SetConfigOption("max_slot_wal_keep_size", "-1", PGC_POSTMASTER, PGC_S_OVERRIDE);
	if (!wp_install_detours(&report))
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot make commits wait for the safekeepers in this server"),
				 errdetail_internal("%s", report.error),
				 errhint(NEON_PGPATCH_HINT)));
	wp_install_takeover();
	wp_register_launcher();
}
