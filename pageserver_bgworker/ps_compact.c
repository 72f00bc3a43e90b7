/*
 * ps_compact.c - the compaction worker: the oldest L0 files of a timeline become L1 files split by key.
 *
 * An L0 file has all keys of a stretch of WAL, so a read has to ask each of them.  When a timeline has
 * neon_pageserver.compaction_threshold of them, the oldest (a contiguous range of LSNs, at most MAX_INPUTS) are merged in
 * one streaming pass into files that each hold a range of keys, compressed harder.  Where a key gathered many records, its
 * newest version becomes an image, so that a read ends there: what that costs depends on the WAL, not on the database.
 *
 * Invariant: inputs and outputs hold the same versions (an image stands for the record at its LSN).  New rows and the removal of
 * the old ones are one transaction.  Old files are removed after it, once the map's generation has moved: a reader that knows
 * them by an older map and finds them gone takes a newer one (ps_read.c).  After a crash the next start removes them, as they
 * have no row.
 *
 * Memory is bounded by the inputs' indexes and filters, a block each, and the outputs' index.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_flush_image.h"
#include "ps_layer_file.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define MAX_INPUTS			16
#define IMAGE_RECORDS		64	/* a key with as many records gets an image */
#define NAP_MS				5000
#define RETRY_MS			60000
#define LOAD_RETRY_MS		1000
#define RESTART_S			5

PGDLLEXPORT void ps_compact_main(Datum arg);

int			ps_compaction_threshold;
int			ps_compaction_target_kb;

void
ps_compact_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_S;
	snprintf(worker.bgw_library_name, BGW_MAXLEN, "neon_pageserver");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "ps_compact_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "neon pageserver compaction");
	snprintf(worker.bgw_type, BGW_MAXLEN, "neon pageserver compaction");
	RegisterBackgroundWorker(&worker);
}

/* ---- merging ---- */

typedef struct Input
{
	PsLayerFile *file;
	neon_layer_entry entry;
	bool		at_end;
} Input;

typedef struct Compaction
{
	PsTimeline *tl;
	char		tenant[NEON_ID_TEXT];
	char		timeline[NEON_ID_TEXT];
	char		directory[MAXPGPATH];
	List	   *inputs;			/* PsLayerRow *, oldest first */
	List	   *outputs;		/* PsLayerRow * */
	XLogRecPtr	lsn_lo;
	XLogRecPtr	lsn_hi;
	PsLayerWriter *writer;
	PsLayerRow *row;			/* of the file being written */

	/* the key being copied */
	neon_key	key;
	bool		holding;		/* its first versions are held back until it is known whether it gets an image */
	int			nheld;
	neon_layer_entry held[IMAGE_RECORDS];
	MemoryContext held_context;
} Compaction;

static void
finish_output(Compaction *c)
{
	neon_layer_info info;

	if (c->writer == NULL)
		return;
	ps_layer_writer_finish(c->writer, &info);
	c->writer = NULL;
	c->row->key_first = info.key_first;
	c->row->key_last = info.key_last;
	c->row->file_bytes = info.file_bytes;
	c->outputs = lappend(c->outputs, c->row);
}

static void
begin_output(Compaction *c)
{
	neon_layer_info what = {.kind = NEON_LAYER_DELTA,.codec = NEON_LAYER_ZSTD,.tenant = c->tl->tenant,
		.timeline = c->tl->id,.lsn_lo = c->lsn_lo,.lsn_hi = c->lsn_hi};
	char		path[MAXPGPATH * 2];

	c->row = palloc0(sizeof(PsLayerRow));
	c->row->kind = NEON_LAYER_DELTA;
	c->row->level = 1;
	c->row->lsn_lo = c->lsn_lo;
	c->row->lsn_hi = c->lsn_hi;
	snprintf(c->row->file, sizeof(c->row->file), "delta1-%016llX-%016llX-%04d", (unsigned long long) c->lsn_lo,
			 (unsigned long long) c->lsn_hi, list_length(c->outputs));
	snprintf(path, sizeof(path), "%s/%s", c->directory, c->row->file);
	c->writer = ps_layer_writer_begin(path, &what);
}

static void
write_entry(Compaction *c, const neon_layer_entry *e)
{
	ps_layer_writer_add(c->writer, &e->key, e->lsn, e->flags, e->bytes, e->len);
}

/* Writes what was held back; the newest as an image, if it came to that many records. */
static void
release_held(Compaction *c)
{
	uint8		page[BLCKSZ];

	if (c->nheld == IMAGE_RECORDS && ps_timeline_has_history(c->tl) && ps_image_at(c->tl, &c->key, c->held[0].lsn, page))
	{
		c->held[0].flags = PS_VALUE_IMAGE | PS_VALUE_WILL_INIT;
		c->held[0].len = BLCKSZ;
		c->held[0].bytes = page;
	}
	for (int i = 0; i < c->nheld; i++)
		write_entry(c, &c->held[i]);
	c->nheld = 0;
	c->holding = false;
	MemoryContextReset(c->held_context);
}

static void
next_key(Compaction *c, const neon_key *key)
{
	release_held(c);
	if (c->writer && ps_layer_writer_bytes(c->writer) >= (uint64) ps_compaction_target_kb * 1024)
		finish_output(c);
	if (c->writer == NULL)
		begin_output(c);
	c->key = *key;
	c->holding = ps_may_have_images(key);
}

static void
take_entry(Compaction *c, const neon_layer_entry *e)
{
	if (c->writer == NULL || neon_key_compare(&c->key, &e->key) != 0)
		next_key(c, &e->key);
	if (c->holding && (e->flags & PS_VALUE_WILL_INIT))
		release_held(c);
	if (!c->holding)
	{
		write_entry(c, e);
		return;
	}
	c->held[c->nheld] = *e;
	c->held[c->nheld].bytes = MemoryContextAllocHuge(c->held_context, Max(e->len, 1));
	memcpy((void *) c->held[c->nheld].bytes, e->bytes, e->len);
	if (++c->nheld == IMAGE_RECORDS)
		release_held(c);
}

static inline bool
comes_before(const Input *a, const Input *b)
{
	int			order = neon_key_compare(&a->entry.key, &b->entry.key);

	return order < 0 || (order == 0 && a->entry.lsn > b->entry.lsn);
}

static void
merge(Compaction *c)
{
	Input		inputs[MAX_INPUTS];
	int			n = 0;
	ListCell   *lc;

	foreach(lc, c->inputs)
	{
		Input	   *in = &inputs[n++];

		in->file = ps_layer_file_open_pinned(CurrentMemoryContext, c->directory, lfirst(lc));
		in->at_end = !ps_layer_file_next(in->file, &in->entry);
	}
	for (;;)
	{
		Input	   *first = NULL;

		for (int i = 0; i < n; i++)
		{
			if (!inputs[i].at_end && (first == NULL || comes_before(&inputs[i], first)))
				first = &inputs[i];
		}
		if (first == NULL)
			break;
		CHECK_FOR_INTERRUPTS();
		take_entry(c, &first->entry);
		first->at_end = !ps_layer_file_next(first->file, &first->entry);
	}
	release_held(c);
	finish_output(c);
	for (int i = 0; i < n; i++)
		ps_layer_file_free(inputs[i].file);
}

/* ---- rows ---- */

static void
replace_rows(Compaction *c)
{
	ListCell   *lc;

	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, c->inputs)
	{
		Oid			types[1] = {INT8OID};
		Datum		values[1] = {Int64GetDatum((int64) ((PsLayerRow *) lfirst(lc))->id)};

		if (SPI_execute_with_args("DELETE FROM neon_pageserver.layer WHERE id = $1", 1, types, values, NULL, false, 0) !=
			SPI_OK_DELETE || SPI_processed != 1)
			ereport(ERROR,
					(errcode(PS_ERR_TIMELINE_GONE),
					 errmsg("a layer vanished while it was compacted")));
	}
	foreach(lc, c->outputs)
		ps_catalog_insert_layer(c->tenant, c->timeline, lfirst(lc));
	PopActiveSnapshot();
	SPI_finish();
}

/* Paths of the inputs, which outlive the transaction. */
static List *
input_paths(const Compaction *c, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *paths = NIL;
	ListCell   *lc;

	foreach(lc, c->inputs)
		paths = lappend(paths, psprintf("%s/%s", c->directory, ((PsLayerRow *) lfirst(lc))->file));
	MemoryContextSwitchTo(old);
	return paths;
}

static void
remove_files(List *paths)
{
	ListCell   *lc;

	foreach(lc, paths)
	{
		const char *path = lfirst(lc);

		if (unlink(path) < 0 && errno != ENOENT)
			ereport(WARNING, (errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", path)));
	}
}

/* ---- one timeline ---- */

static int
compare_lsn(const ListCell *a, const ListCell *b)
{
	XLogRecPtr	x = ((PsLayerRow *) lfirst(a))->lsn_lo;
	XLogRecPtr	y = ((PsLayerRow *) lfirst(b))->lsn_lo;

	return x < y ? -1 : x > y;
}

/* The oldest L0 files, oldest first; NIL when there are too few. */
static List *
choose_inputs(PsTimeline *tl)
{
	List	   *level0 = NIL;
	ListCell   *lc;

	foreach(lc, ps_catalog_layers(tl))
	{
		PsLayerRow *row = lfirst(lc);

		if (row->kind == NEON_LAYER_DELTA && row->level == 0)
			level0 = lappend(level0, row);
	}
	if (list_length(level0) < ps_compaction_threshold)
		return NIL;
	list_sort(level0, compare_lsn);
	return list_truncate(level0, MAX_INPUTS);
}

/* true when there may be more to do. */
static bool
compact_timeline(PsTimeline *tl)
{
	Compaction *c;
	uint32		incarnation = ps_timeline_incarnation(tl);
	MemoryContext round = CurrentMemoryContext;
	List	   *old_files;

	StartTransactionCommand();
	MemoryContextSwitchTo(TopTransactionContext);
	c = palloc0(sizeof(Compaction));
	c->tl = tl;
	c->inputs = choose_inputs(tl);
	if (c->inputs == NIL)
	{
		CommitTransactionCommand();
		return false;
	}
	c->held_context = AllocSetContextCreate(CurrentMemoryContext, "held versions", ALLOCSET_DEFAULT_SIZES);
	neon_id_print(&tl->tenant, c->tenant);
	neon_id_print(&tl->id, c->timeline);
	ps_timeline_directory(tl, c->directory, sizeof(c->directory));
	c->lsn_lo = ((PsLayerRow *) linitial(c->inputs))->lsn_lo;
	c->lsn_hi = ((PsLayerRow *) llast(c->inputs))->lsn_hi;
	merge(c);
	if (!ps_timeline_is_live(tl, incarnation))
		ereport(ERROR, (errcode(PS_ERR_TIMELINE_GONE), errmsg("the timeline was dropped while it was compacted")));
	replace_rows(c);
	old_files = input_paths(c, round);
	ForceSyncCommit();
	ereport(LOG,
			(errmsg("compacted %d layers of timeline \"%s\" into %d", list_length(c->inputs), c->timeline,
					list_length(c->outputs))));
	CommitTransactionCommand();

	LWLockAcquire(&tl->layers_lock, LW_EXCLUSIVE);
	pg_atomic_fetch_add_u64(&tl->map_generation, 1);
	LWLockRelease(&tl->layers_lock);
	/* A timeline made anew under the same id may have files of the same names. */
	if (ps_timeline_is_live(tl, incarnation))
		remove_files(old_files);
	return true;
}

static bool
compact_safely(PsTimeline *tl, TimestampTz *retry_at)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool more = false;

	PG_TRY();
	{
		more = compact_timeline(tl);
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
		*retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_MS);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	MemoryContextReset(context);
	return more;
}

/* ---- the worker ---- */

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
ps_compact_main(Datum arg)
{
	uint64	   *generation;		/* of the layer map when the timeline was last looked at */
	TimestampTz *retry_at;
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(PS_DATABASE, NULL, 0);

	generation = MemoryContextAllocZero(TopMemoryContext, sizeof(uint64) * ps_max_timelines);
	retry_at = MemoryContextAllocZero(TopMemoryContext, sizeof(TimestampTz) * ps_max_timelines);
	context = AllocSetContextCreate(TopMemoryContext, "compaction", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	while (!ps_shared->loaded)
		nap(LOAD_RETRY_MS);
	for (;;)
	{
		bool		more = false;

		for (int slot = 0; slot < ps_max_timelines && ps_compaction_threshold > 0; slot++)
		{
			PsTimeline *tl = ps_timeline_by_slot(slot);
			uint64		now;

			CHECK_FOR_INTERRUPTS();
			if (tl == NULL || retry_at[slot] > GetCurrentTimestamp())
				continue;
			now = pg_atomic_read_u64(&tl->map_generation) + ((uint64) ps_timeline_incarnation(tl) << 40);
			if (now == generation[slot])
				continue;		/* no layer has come since */
			if (compact_safely(tl, &retry_at[slot]))
				more = true;
			else if (retry_at[slot] <= GetCurrentTimestamp())
				generation[slot] = now;
		}
		if (!more)
			nap(NAP_MS);
	}
}
