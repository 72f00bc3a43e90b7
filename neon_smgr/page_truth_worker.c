/*
 * page_truth_worker.c - page truth: takes pages from the queue, asks the pageserver for the same, and compares.
 *
 * In order.  A page waits until the quorum has its LSN; the requests of a batch are sent ahead.  An error of the connection
 * is tried again for ever: nothing is left out.  An error the pageserver answers with is a mismatch: it could not
 * rebuild a page that was there.
 *
 * Two changes reach shared_buffers, or leave them, after their record was inserted, and a page written in between is as of before
 * it: a truncation (or drop), whose pages may still be written until the buffers are dropped; and the bits of the visibility
 * map that a truncation clears before its record.  In both cases the relation's floor is raised above as_of, or the
 * relation is forgotten, moments later.  Only then is the page compared as of its own LSN (or the map as of the floor).
 *
 * Differences are errors in this worker's log, counted, remembered (the first few) and kept as files, both pages of
 * each; neon_page_truth_check() raises the first.
 *
 * The worker has no database and no transaction: it takes no lock but the queue's, so that writers may wait for it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xlog.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/bufpage.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "neon_smgr.h"
#include "page_truth.h"
#include "relation_table.h"

#define BATCH_PAGES			32
#define COMMIT_POLL_MS		5
#define RETRY_MS			500
#define SETTLE_ROUNDS		20		/* looks at a relation that may have been truncated, before a difference is one */
#define SETTLE_PAUSE_MS		250

typedef enum ReadResult
{
	READ_PAGE,
	READ_ABSENT,				/* no such block, or no such relation: read as zeros */
	READ_REFUSED				/* the pageserver could not rebuild it; error_text says why */
} ReadResult;

static MemoryContext worker_context;
static char error_text[sizeof(((TruthMismatch *) NULL)->what)];

static void
pause_ms(long ms)
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

/* ---- asking ---- */

/* What an answered error means; true when it is an answer, false when the question is worth repeating. */
static bool
understand_error(const ErrorData *error, ReadResult *result)
{
	switch (error->sqlerrcode)
	{
		case ERRCODE_UNDEFINED_OBJECT:
		case ERRCODE_INVALID_PARAMETER_VALUE:
			*result = READ_ABSENT;
			return true;
		case ERRCODE_DATA_CORRUPTED:
			*result = READ_REFUSED;
			strlcpy(error_text, error->message, sizeof(error_text));
			return true;
		default:
			return false;
	}
}

static bool
try_read(const TruthEntry *e, XLogRecPtr as_of, char *page, ReadResult *result)
{
	volatile bool answered = true;
	BlockNumber nblocks;

	*result = READ_PAGE;
	PG_TRY();
	{
		/* Nothing is the usual answer for an empty page: not one that the pageserver should log as an error. */
		nblocks = e->kind == TRUTH_KIND_EMPTY && e->fork != NEON_FORK_VM ?
			page_source->nblocks_as_of(&e->rel, e->fork, as_of) : MaxBlockNumber;
		if (e->block < nblocks)
			page_source->read_as_of(&e->rel, e->fork, e->block, as_of, page);
		else
			*result = READ_ABSENT;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(worker_context);
		error = CopyErrorData();
		FlushErrorState();
		answered = understand_error(error, result);
		if (!answered)
			ereport(LOG,
					(errcode(error->sqlerrcode),
					 errmsg("page truth: will ask again for block %u of relation %u/%u/%u: %s", e->block, e->rel.spc, e->rel.db,
							e->rel.rel, error->message)));
		FreeErrorData(error);
	}
	PG_END_TRY();
	return answered;
}

static ReadResult
read_as_of(const TruthEntry *e, XLogRecPtr as_of, char *page)
{
	ReadResult	result;

	while (!try_read(e, as_of, page, &result))
		pause_ms(RETRY_MS);
	if (result != READ_PAGE)
		memset(page, 0, BLCKSZ);
	return result;
}

/* ---- comparing ---- */

static bool
same(const TruthEntry *e, uint8 flags, XLogRecPtr as_of, const char *ours, const char *theirs, neon_page_difference *d)
{
	neon_page_context context = {.fork = e->fork,.block = e->block,.as_of = as_of,.flags = flags};

	return neon_page_same((const uint8_t *) ours, (const uint8_t *) theirs, &context, d);
}

/* Do the bits that only storage has at as_of go with the relation's truncation? */
static bool
map_was_truncated(const TruthEntry *e, XLogRecPtr floor, const char *ours, const char *theirs)
{
	PGAlignedBlock later;
	neon_page_difference d;

	if (!same(e, e->flags | NEON_TRUTH_VM_CLEARING, e->as_of, ours, theirs, &d) ||
		read_as_of(e, floor, later.data) == READ_REFUSED)
		return false;
	for (int i = MAXALIGN(SizeOfPageHeaderData); i < BLCKSZ; i++)
		if (theirs[i] & ~ours[i] & later.data[i])
			return false;
	return true;
}

/* Was the block truncated or dropped by a record before as_of whose effect on the compute came after it? */
static bool
was_cut(const TruthEntry *e, const char *ours, const char *theirs, bool absent)
{
	RelationInfo info;
	XLogRecPtr	own = Max(PageGetLSN((Page) ours), neon_smgr_shared->start_lsn);
	PGAlignedBlock page;
	neon_page_difference d;

	if (e->kind != TRUTH_KIND_WRITTEN && e->kind != TRUTH_KIND_RELEASED_BUILD)
		return false;
	if (relation_lookup(&e->rel, &info) && info.floor < e->as_of)
		return false;
	if (e->kind == TRUTH_KIND_RELEASED_BUILD)
		return absent;			/* it has no LSN as of which storage could be asked: its record came after it was written */
	if (e->fork == NEON_FORK_VM && !absent && info.floor >= e->as_of && map_was_truncated(e, info.floor, ours, theirs))
		return true;
	if (!absent && !neon_page_is_empty((const uint8_t *) theirs))
		return false;
	return read_as_of(e, own, page.data) == READ_PAGE &&
		same(e, e->flags | NEON_TRUTH_AS_OF_OWN_LSN | NEON_TRUTH_VM_CLEARING, own, ours, page.data, &d);
}

static void
keep_page(int number, const char *whose, const char *page)
{
	char		path[MAXPGPATH];
	int			fd;

	snprintf(path, sizeof(path), NEON_LOCAL_DIR "/page_truth_%d.%s", number, whose);
	fd = BasicOpenFile(path, O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd < 0 || write(fd, page, BLCKSZ) != BLCKSZ)
		ereport(LOG, (errcode_for_file_access(), errmsg("could not write file \"%s\": %m", path)));
	if (fd >= 0)
		close(fd);
}

void
page_truth_report(int elevel, const TruthMismatch *m, uint64 mismatches)
{
	const TruthEntry *e = &m->entry;

	ereport(elevel,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("block %u of relation %u/%u/%u fork %u is not what the pageserver makes of its WAL: byte %d is %02X, not %02X",
					e->block, e->rel.spc, e->rel.db, e->rel.rel, e->fork, m->offset, m->ours, m->theirs),
			 errdetail("The compute's page has LSN %X/%X, the pageserver's %X/%X, both as of %X/%X (%s; written by process %d). "
					   "It is mismatch %llu of this compute.",
					   LSN_FORMAT_ARGS(m->our_lsn), LSN_FORMAT_ARGS(m->their_lsn), LSN_FORMAT_ARGS(e->as_of), m->what, e->writer,
					   (unsigned long long) mismatches),
			 errhint("The first pages that differ are in \"%s/page_truth_*\" in the data directory.", NEON_LOCAL_DIR)));
}

static void
note_mismatch(const TruthEntry *e, const char *ours, const char *theirs, const neon_page_difference *d)
{
	TruthMismatch m = {.entry = *e,.our_lsn = PageGetLSN((Page) ours),.their_lsn = PageGetLSN((Page) theirs),
	.offset = d->offset,.ours = d->ours,.theirs = d->theirs};
	uint64		number;

	strlcpy(m.what, d->what, sizeof(m.what));
	LWLockAcquire(page_truth_lock(), LW_EXCLUSIVE);
	number = pg_atomic_fetch_add_u64(&page_truth->counters[TRUTH_MISMATCHES], 1) + 1;
	if (page_truth->nmismatches < TRUTH_MAX_MISMATCHES)
		page_truth->mismatches[page_truth->nmismatches++] = m;
	LWLockRelease(page_truth_lock());
	if (number <= TRUTH_MAX_MISMATCHES)
	{
		keep_page((int) number, "compute", ours);
		keep_page((int) number, "pageserver", theirs);
	}
	PG_TRY();
	{
		page_truth_report(e->mode == PAGE_TRUTH_PANIC ? PANIC : ERROR, &m, number);
	}
	PG_CATCH();
	{
		EmitErrorReport();
		MemoryContextSwitchTo(worker_context);
		FlushErrorState();
	}
	PG_END_TRY();
}

static void
count_verified(const TruthEntry *e)
{
	page_truth_count(e->kind == TRUTH_KIND_EMPTY ? TRUTH_VERIFIED_EMPTY :
					 e->kind == TRUTH_KIND_WRITTEN ? TRUTH_VERIFIED : TRUTH_VERIFIED_RELEASED);
}

static void
verify(const TruthEntry *e, const char *ours)
{
	PGAlignedBlock theirs;
	neon_page_difference d = {0};
	ReadResult	result = read_as_of(e, e->as_of, theirs.data);

	if (result == READ_REFUSED)
	{
		d.what = error_text;
		note_mismatch(e, ours, theirs.data, &d);
		return;
	}
	if (same(e, e->flags, e->as_of, ours, theirs.data, &d))
	{
		count_verified(e);
		return;
	}
	for (int i = 0; i < SETTLE_ROUNDS; i++)
	{
		if (was_cut(e, ours, theirs.data, result == READ_ABSENT))
		{
			page_truth_count(e->kind == TRUTH_KIND_RELEASED_BUILD ? TRUTH_SKIPPED_BUILD : TRUTH_VERIFIED_BEHIND);
			return;
		}
		if (result != READ_ABSENT && e->fork != NEON_FORK_VM && !neon_page_is_empty((uint8_t *) theirs.data))
			break;				/* no truncation makes this of it */
		pause_ms(SETTLE_PAUSE_MS);
	}
	note_mismatch(e, ours, theirs.data, &d);
}

/* ---- the worker ---- */

static TruthEntry
entry_at(uint64 number)
{
	TruthEntry	e;

	/* Behind the head nobody writes; the lock orders us behind who wrote it. */
	LWLockAcquire(page_truth_lock(), LW_SHARED);
	e = page_truth->entries[number % page_truth->capacity];
	LWLockRelease(page_truth_lock());
	return e;
}

/* Until the quorum, and so the pageserver some time, has the WAL. */
static void
wait_for_quorum(XLogRecPtr lsn)
{
	while (neon_commit_lsn() < lsn)
	{
		XLogFlush(lsn);
		pause_ms(COMMIT_POLL_MS);
	}
}

static void
work(uint64 tail, uint64 head)
{
	uint64		end = Min(head, tail + BATCH_PAGES);

	for (uint64 i = tail; i < end; i++)
	{
		TruthEntry	e = entry_at(i);

		if (e.as_of <= neon_commit_lsn() && e.kind != TRUTH_KIND_EMPTY)
			page_source->prefetch_as_of(&e.rel, e.fork, e.block, e.as_of);
	}
	for (uint64 i = tail; i < end; i++)
	{
		TruthEntry	e = entry_at(i);
		PGAlignedBlock ours;

		CHECK_FOR_INTERRUPTS();
		wait_for_quorum(e.as_of);
		page_truth_read_slot(i, ours.data);
		verify(&e, ours.data);
		pg_atomic_write_u64(&page_truth->tail, i + 1);
		MemoryContextReset(worker_context);
	}
}

static void
worker_gone(int code, Datum arg)
{
	uint64		left = pg_atomic_read_u64(&page_truth->head) - pg_atomic_read_u64(&page_truth->tail);

	LWLockReleaseAll();
	LWLockAcquire(page_truth_lock(), LW_EXCLUSIVE);
	page_truth->worker_latch = NULL;
	pg_atomic_write_u32(&page_truth->worker_pid, 0);
	LWLockRelease(page_truth_lock());
	if (left > 0)
		ereport(LOG, (errmsg("page truth: %llu pages are not compared yet", (unsigned long long) left)));
}

void
neon_page_truth_worker_main(Datum arg)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	worker_context = AllocSetContextCreate(TopMemoryContext, "neon page truth", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(worker_context);
	(void) RecoveryInProgress();	/* lets this process flush WAL */

	before_shmem_exit(worker_gone, (Datum) 0);
	LWLockAcquire(page_truth_lock(), LW_EXCLUSIVE);
	page_truth->worker_latch = MyLatch;
	pg_atomic_write_u32(&page_truth->worker_pid, MyProcPid);
	LWLockRelease(page_truth_lock());

	for (;;)
	{
		uint64		tail = pg_atomic_read_u64(&page_truth->tail);
		uint64		head = pg_atomic_read_u64(&page_truth->head);

		if (head == tail)
			pause_ms(60 * 1000);
		else
			work(tail, head);
	}
}

void
page_truth_register_worker(void)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = 1,
	};

	/* Settings are final, but the memory is asked for later. */
	if (neon_page_truth_queue == 0 || (neon_page_truth_queue < 0 && neon_page_truth == PAGE_TRUTH_OFF))
		return;
	strlcpy(worker.bgw_library_name, "neon_smgr", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "neon_page_truth_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "neon page truth", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "neon page truth", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
