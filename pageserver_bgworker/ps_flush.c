/*
 * ps_flush.c - the flush worker: frozen layers become L0 files, old or large open layers are frozen, dropped slots freed.
 *
 * One flush: write and fsync the file; one transaction inserts its row and moves disk_consistent_lsn; then, in shared
 * memory, the layer leaves the timeline's list.  A crash before the commit leaves a file without a row, which the next
 * start removes, and the WAL is ingested again; a crash after it finds the layer in the file.  Readers meet the
 * versions in exactly one place, see ps_read.c.
 *
 * Each worker owns the slots whose number modulo the number of workers is its own, so that nothing else takes a
 * frozen layer away while it is being written.  A timeline that fails (disk full, damaged catalog) is retried after a pause
 * and does not stop the others.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_flush_image.h"
#include "ps_layer_file.h"

#include <sys/stat.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define PS_FLUSH_NAP_MS			1000
#define PS_FLUSH_RETRY_MS		5000
#define PS_LOAD_RETRY_MS		1000
#define PS_WORKER_RESTART_S		1

PGDLLEXPORT void ps_flush_main(Datum arg);

static TimestampTz *retry_at;	/* by slot: not before */

void
ps_flush_register(void)
{
	for (int i = 0; i < ps_flush_workers; i++)
	{
		BackgroundWorker worker = {0};

		worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
		worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
		worker.bgw_restart_time = PS_WORKER_RESTART_S;
		worker.bgw_main_arg = Int32GetDatum(i);
		snprintf(worker.bgw_library_name, BGW_MAXLEN, "neon_pageserver");
		snprintf(worker.bgw_function_name, BGW_MAXLEN, "ps_flush_main");
		snprintf(worker.bgw_name, BGW_MAXLEN, "neon pageserver flush %d", i);
		snprintf(worker.bgw_type, BGW_MAXLEN, "neon pageserver flush");
		RegisterBackgroundWorker(&worker);
	}
}

/* ---- writing one layer ---- */

static int
compare_keys(const void *a, const void *b)
{
	return neon_key_compare(&(*(const PsMemKey *const *) a)->key, &(*(const PsMemKey *const *) b)->key);
}

static const PsMemKey **
sorted_keys(const PsMemLayer *layer, uint64 *count)
{
	const PsMemKey **keys = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(PsMemKey *) * (layer->nkeys + 1));
	uint64		n = 0;

	for (int kind = 0; kind < NEON_KEY_KIND_COUNT; kind++)
	{
		uint64		first = n;

		for (const PsMemKey *k = ps_mem_first_key(layer, kind); k != NULL; k = ps_mem_next_key(k))
		{
			if (n >= layer->nkeys)
				elog(ERROR, "memory layer has more than its %llu keys", (unsigned long long) layer->nkeys);
			keys[n++] = k;
		}
		qsort(keys + first, n - first, sizeof(PsMemKey *), compare_keys);
	}
	*count = n;
	return keys;
}

/* The version's bytes in one piece; *copy is reused. */
static const uint8 *
contiguous(const PsMemVersion *v, uint8 **copy, uint32 *copy_bytes)
{
	const uint8 *bytes = ps_mem_bytes(v);

	if (bytes)
		return bytes;
	if (v->len > *copy_bytes)
	{
		if (*copy)
			pfree(*copy);
		*copy_bytes = v->len;
		*copy = MemoryContextAllocHuge(CurrentMemoryContext, v->len);
	}
	ps_mem_copy(v, *copy);
	return *copy;
}

static void
write_versions(PsTimeline *tl, PsLayerWriter *writer, const PsMemLayer *layer)
{
	uint64		n;
	const PsMemKey **keys = sorted_keys(layer, &n);
	uint8	   *copy = NULL;
	uint32		copy_bytes = 0;

	for (uint64 i = 0; i < n; i++)
	{
		PsFlushImage *image = ps_flush_images(tl, layer, keys[i]);

		CHECK_FOR_INTERRUPTS();
		for (const PsMemVersion *v = ps_mem_newest(keys[i], layer->end_lsn); v != NULL; v = ps_mem_older(v))
		{
			if (image && image->lsn == v->lsn)
			{
				PsFlushImage *used = image;

				ps_layer_writer_add(writer, &keys[i]->key, v->lsn, PS_VALUE_IMAGE | PS_VALUE_WILL_INIT, image->page, BLCKSZ);
				image = image->older;
				pfree(used);
			}
			else
				ps_layer_writer_add(writer, &keys[i]->key, v->lsn, v->flags, contiguous(v, &copy, &copy_bytes), v->len);
		}
	}
	if (copy)
		pfree(copy);
	pfree(keys);
}

static void
write_layer_file(PsTimeline *tl, const PsMemLayer *layer, const char *path, neon_layer_info *info)
{
	neon_layer_info what = {.kind = NEON_LAYER_DELTA,.codec = NEON_LAYER_LZ4,.tenant = tl->tenant,.timeline = tl->id,
		.lsn_lo = layer->start_lsn + 1,.lsn_hi = layer->end_lsn};
	PsLayerWriter *writer = ps_layer_writer_begin(path, &what);

	write_versions(tl, writer, layer);
	ps_layer_writer_finish(writer, info);
}

static void
insert_rows(const char *tenant, const char *timeline, const PsMemLayer *layer, PsLayerRow *row)
{
	Oid			types[4] = {TEXTOID, TEXTOID, LSNOID, LSNOID};
	Datum		values[4];
	int			rc;

	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	values[0] = CStringGetTextDatum(tenant);
	values[1] = CStringGetTextDatum(timeline);
	values[2] = LSNGetDatum(layer->end_lsn);
	values[3] = LSNGetDatum(layer->end_prev_lsn);
	rc = SPI_execute_with_args("UPDATE neon_pageserver.timeline SET disk_consistent_lsn = $3, disk_prev_lsn = $4 "
							   "WHERE tenant = $1 AND timeline = $2", 4, types, values, NULL, false, 0);
	if (rc != SPI_OK_UPDATE || SPI_processed != 1)
		ereport(ERROR,
				(errcode(PS_ERR_TIMELINE_GONE),
				 errmsg("timeline \"%s\" of tenant \"%s\" has no row", timeline, tenant)));
	if (row)
		ps_catalog_insert_layer(tenant, timeline, row);
	PopActiveSnapshot();
	SPI_finish();
}

static void
flush_oldest(PsTimeline *tl)
{
	int			index = tl->frozen[0];	/* only this worker takes it away */
	PsMemLayer *layer = &ps_mem_layers[index];
	char		tenant[NEON_ID_TEXT];
	char		timeline[NEON_ID_TEXT];
	char		path[MAXPGPATH];
	PsLayerRow	row = {.kind = NEON_LAYER_DELTA};
	neon_layer_info info;
	bool		has_versions = layer->nkeys > 0;

	neon_id_print(&tl->tenant, tenant);
	neon_id_print(&tl->id, timeline);
	StartTransactionCommand();
	if (has_versions)
	{
		snprintf(row.file, sizeof(row.file), "delta-%016llX-%016llX", (unsigned long long) layer->start_lsn + 1,
				 (unsigned long long) layer->end_lsn);
		ps_make_timeline_directory(tenant, timeline);
		snprintf(path, sizeof(path), PS_DIRECTORY "/%s/%s/%s", tenant, timeline, row.file);
		write_layer_file(tl, layer, path, &info);
		row.key_first = info.key_first;
		row.key_last = info.key_last;
		row.lsn_lo = layer->start_lsn + 1;
		row.lsn_hi = layer->end_lsn;
		row.file_bytes = info.file_bytes;
		has_versions = info.entries > 0;
		if (!has_versions && unlink(path) < 0)
			ereport(WARNING, (errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", path)));
	}
	insert_rows(tenant, timeline, layer, has_versions ? &row : NULL);
	ForceSyncCommit();
	CommitTransactionCommand();

	LWLockAcquire(&tl->layers_lock, LW_EXCLUSIVE);
	Assert(tl->frozen[0] == index);
	tl->nfrozen--;
	memmove(&tl->frozen[0], &tl->frozen[1], sizeof(int) * tl->nfrozen);
	pg_atomic_fetch_add_u64(&tl->map_generation, 1);
	pg_atomic_write_u64(&tl->disk_consistent_lsn, layer->end_lsn);
	LWLockRelease(&tl->layers_lock);
	ps_mem_layer_free(index);
	ConditionVariableBroadcast(&tl->flush_cv);
	ps_wake_ingest();
}

/* ---- what is to be done ---- */

static void
release_dropped(PsTimeline *tl)
{
	char		path[MAXPGPATH];
	struct stat st;

	/* The files first: a timeline of the same id may be made as soon as the slot is free, with files of the same names. */
	ps_timeline_directory(tl, path, sizeof(path));
	if (stat(path, &st) == 0 && !rmtree(path, true))
		ereport(WARNING, (errmsg("could not remove directory \"%s\"", path)));
	ps_slot_release(tl);
}

/* true when the timeline has more to be flushed. */
static bool
serve_slot(PsTimeline *tl, TimestampTz now)
{
	int			open_layer = tl->open_layer;

	if (tl->state == PS_TIMELINE_DROPPING)
	{
		if (tl->writer_pid == 0)
			release_dropped(tl);
		return false;
	}
	if (tl->state != PS_TIMELINE_ACTIVE)
		return false;
	if (open_layer != PS_NO_LAYER && tl->nfrozen == 0 &&
		TimestampDifferenceExceeds(tl->open_since, now, ps_checkpoint_timeout_s * 1000))
		(void) ps_freeze(tl);
	if (tl->nfrozen == 0)
		return false;
	flush_oldest(tl);
	return tl->nfrozen > 0;
}

static bool
serve_slot_safely(int slot, TimestampTz now)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool more = false;

	if (retry_at[slot] > now)
		return false;
	PG_TRY();
	{
		more = serve_slot(&ps_timelines[slot], now);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		HOLD_INTERRUPTS();
		EmitErrorReport();
		AbortCurrentTransaction();
		LWLockReleaseAll();
		FlushErrorState();
		RESUME_INTERRUPTS();
		retry_at[slot] = TimestampTzPlusMilliseconds(now, PS_FLUSH_RETRY_MS);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	MemoryContextReset(context);
	return more;
}

/* The largest open layer of fewer segments than `below`. */
static PsTimeline *
largest_open_layer(uint32 below, uint32 *segments)
{
	PsTimeline *largest = NULL;

	*segments = 0;
	for (int slot = 0; slot < ps_max_timelines; slot++)
	{
		PsTimeline *tl = &ps_timelines[slot];
		int			layer = tl->open_layer;

		if (tl->state == PS_TIMELINE_ACTIVE && layer != PS_NO_LAYER && tl->nfrozen < PS_MAX_FROZEN &&
			ps_mem_layers[layer].nsegments > *segments && ps_mem_layers[layer].nsegments < below)
		{
			largest = tl;
			*segments = ps_mem_layers[layer].nsegments;
		}
	}
	return largest;
}

/*
 * When memory is short, the largest open layer goes first.  One whose writer is in the middle of a record may itself be waiting for the memory
 * that others free: it is not waited for.
 */
static void
freeze_largest(void)
{
	uint32		segments = PG_UINT32_MAX;
	PsTimeline *tl;

	while ((tl = largest_open_layer(segments, &segments)) != NULL && !ps_freeze_unless_busy(tl));
}

/* Bytes that are on their way out count as freed already, else every layer would be frozen at the first shortage. */
static bool
memory_needs_freeze(void)
{
	for (int slot = 0; slot < ps_max_timelines; slot++)
	{
		if (ps_timelines[slot].state == PS_TIMELINE_ACTIVE && ps_timelines[slot].nfrozen > 0)
			return false;
	}
	return ps_pool_short();
}

static bool
serve_all(int worker)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		more = false;

	if (memory_needs_freeze())
		freeze_largest();
	for (int slot = worker; slot < ps_max_timelines; slot += ps_flush_workers)
	{
		CHECK_FOR_INTERRUPTS();
		if (ps_timelines[slot].state != PS_TIMELINE_FREE)
			more |= serve_slot_safely(slot, now);
	}
	return more;
}

/* ---- the worker ---- */

static void
forget_latch(int code, Datum arg)
{
	ps_shared->flush_latch[DatumGetInt32(arg)] = NULL;
}

static void
nap(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

void
ps_flush_main(Datum arg)
{
	int			worker = DatumGetInt32(arg);
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(PS_DATABASE, NULL, 0);
	before_shmem_exit(forget_latch, arg);
	ps_shared->flush_latch[worker] = MyLatch;

	retry_at = MemoryContextAllocZero(TopMemoryContext, sizeof(TimestampTz) * ps_max_timelines);
	context = AllocSetContextCreate(TopMemoryContext, "flush", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	/* The extension may be created long after the server has started. */
	while (!ps_shared->loaded && !ps_catalog_load())
		nap(PS_LOAD_RETRY_MS);
	for (;;)
	{
		if (!serve_all(worker))
			nap(PS_FLUSH_NAP_MS);
		else
			CHECK_FOR_INTERRUPTS();
	}
}
