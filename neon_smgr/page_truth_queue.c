/*
 * page_truth_queue.c - page truth: what leaves shared_buffers is copied here and compared later.
 *
 * With neon.page_truth on, every page this process writes is compared with the page the pageserver makes of the WAL, as of the
 * end of WAL at the moment of writing.  The writer holds the page's content lock, so no record between the page's LSN and
 * that moment changes the page: a pageserver that has applied too little, or too much, is found out.  (Pages whose content
 * changes without an LSN, rule 11, need that moment anyway.)
 *
 * Why a queue and a worker.  The writer cannot compare: the pageserver gets the page's WAL through the quorum, and whoever
 * writes may be the one the quorum waits for, hold buffer and extension locks, be the checkpointer, or be in the middle of
 * a statement that cannot fail.  It copies page and LSN to a ring: descriptions in shared memory, pages in a file.
 * The worker takes them in order, waits until the quorum has the LSN, asks, and compares (page_truth_worker.c).
 *
 * When the ring is full the writer waits; nothing is left out.  That cannot be a deadlock: the worker needs WAL flushed and
 * shipped, and the network; it reads no relation, has no buffer of its own, and takes no lock that a writer holds here.
 * WAL is flushed without data buffers, and the proposer needs none to go on (rule 7).  It is excepted all the same: what it
 * writes while the ring is full is counted as skipped.  So is what is written when the server is stopping and the worker has gone,
 * the last checkpoint that is: run CHECKPOINT and neon_page_truth_check() before, and nothing is.
 * Without a quorum a compute stands still when the ring is full.
 *
 * What is not compared at once: the free space map (no claim); pages of an index build, which are not logged yet.  Pinned pages
 * are compared when they are written, since the masks know of command ids, and again when the release worker lets go of
 * them, as of their own LSN: WAL must imply them by then.  A page of an index build is compared then only if shared_buffers does not
 * have the block: if it does, that is what will be compared.  Nor is it when its relation's drop is in WAL and waits for the quorum at
 * that moment: storage has nothing of it then.
 *
 * Lock: one LWLock over head and the file's slots, held for a write of 8 KB; taken last.
 * Crash rule: the ring is lost with the instance; the file is below neon/, removed at every start.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/transam.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/bufpage.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#include "neon_smgr.h"
#include "page_truth.h"
#include "relation_table.h"

#define QUEUE_PATH			NEON_LOCAL_DIR "/page_truth_queue"
#define DEFAULT_QUEUE		4096
#define MAX_QUEUE			(1024 * 1024)
#define RELEASE_ROOM		128		/* the release worker leaves so many places to others */
#define WAIT_MS				2

int			neon_page_truth;
int			neon_page_truth_queue;
TruthShared *page_truth;

static int	queue_fd = -1;
static bool prepared;			/* settings of the start have room for a queue */

/* ---- settings ---- */

static const struct config_enum_entry modes[] = {
	{"off", PAGE_TRUTH_OFF, false},
	{"on", PAGE_TRUTH_ON, false},
	{"panic", PAGE_TRUTH_PANIC, false},
	{"false", PAGE_TRUTH_OFF, true},
	{"true", PAGE_TRUTH_ON, true},
	{NULL, 0, false}
};

static bool
check_mode(int *newval, void **extra, GucSource source)
{
	if (*newval == PAGE_TRUTH_OFF || process_shared_preload_libraries_in_progress || prepared || !neon_smgr_active)
		return true;
	GUC_check_errdetail("The server was started without a queue of pages to compare.");
	GUC_check_errhint("Set \"neon.page_truth_queue\", or \"neon.page_truth\" in the configuration, and restart.");
	return false;
}

void
page_truth_define_settings(void)
{
	DefineCustomEnumVariable("neon.page_truth", "Compares every page this process writes with what the pageserver makes of its WAL.",
							 "For tests: on reports differences in the log and by neon_page_truth_check(), panic stops the server.",
							 &neon_page_truth, PAGE_TRUTH_OFF, modes, PGC_SUSET, 0, check_mode, NULL, NULL);
	DefineCustomIntVariable("neon.page_truth_queue", "Pages that may wait to be compared.",
							"Who writes when there are as many waits. -1: 4096 if neon.page_truth is on at the start, else none.",
							&neon_page_truth_queue, -1, -1, MAX_QUEUE, PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

static uint32
capacity(void)
{
	if (neon_page_truth_queue >= 0)
		return neon_page_truth_queue;
	return neon_page_truth != PAGE_TRUTH_OFF ? DEFAULT_QUEUE : 0;
}

/* ---- shared memory ---- */

static Size
shared_bytes(void)
{
	return add_size(offsetof(TruthShared, entries), mul_size(capacity(), sizeof(TruthEntry)));
}

void
page_truth_request(void)
{
	prepared = capacity() > 0;
	if (!prepared)
		return;
	RequestAddinShmemSpace(shared_bytes());
	RequestNamedLWLockTranche("neon_page_truth", 1);
}

void
page_truth_init(void)
{
	bool		found;

	if (!prepared)
		return;
	page_truth = ShmemInitStruct("neon page truth", shared_bytes(), &found);
	if (found)
		return;
	memset(page_truth, 0, shared_bytes());
	page_truth->capacity = capacity();
	pg_atomic_init_u64(&page_truth->head, 0);
	pg_atomic_init_u64(&page_truth->tail, 0);
	pg_atomic_init_u32(&page_truth->worker_pid, 0);
	for (int i = 0; i < TRUTH_COUNTERS; i++)
		pg_atomic_init_u64(&page_truth->counters[i], 0);
}

LWLock *
page_truth_lock(void)
{
	return &GetNamedLWLockTranche("neon_page_truth")->lock;
}

/* ---- the file ---- */

static int
queue_file(void)
{
	if (queue_fd < 0)
	{
		queue_fd = BasicOpenFile(QUEUE_PATH, O_RDWR | O_CREAT | PG_BINARY);
		if (queue_fd < 0)
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", QUEUE_PATH)));
	}
	return queue_fd;
}

void
page_truth_read_slot(uint64 number, char *page)
{
	ssize_t		n = pread(queue_file(), page, BLCKSZ, (off_t) (number % page_truth->capacity) * BLCKSZ);

	if (n != BLCKSZ)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": read %zd of %d bytes", QUEUE_PATH, n, BLCKSZ)));
}

/* ---- putting ---- */

static bool
server_stops(void)
{
	return pg_atomic_read_u32(&page_truth->worker_pid) == 0 && (ProcDiePending || ShutdownRequestPending);
}

static bool
is_full(uint32 reserve)
{
	return pg_atomic_read_u64(&page_truth->head) - pg_atomic_read_u64(&page_truth->tail) + reserve >= page_truth->capacity;
}

/* Waits for room and returns with the lock held; false where this process may not wait. */
static bool
lock_when_room(void)
{
	bool		waited = false;

	for (;;)
	{
		if (server_stops())
		{
			page_truth_count(TRUTH_SKIPPED_STOPPING);
			return false;
		}
		LWLockAcquire(page_truth_lock(), LW_EXCLUSIVE);
		if (!is_full(0))
			return true;
		LWLockRelease(page_truth_lock());
		if (__atomic_load_n(&neon_compute->proposer_pid, __ATOMIC_RELAXED) == (uint32) MyProcPid)
		{
			page_truth_count(TRUTH_SKIPPED_PROPOSER);
			return false;
		}
		if (!waited)
			page_truth_count(TRUTH_WAITS);
		waited = true;
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, WAIT_MS, PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
put(const TruthEntry *entry, const char *page)
{
	uint64		head;
	int			fd = queue_file();
	ssize_t		n;

	if (!lock_when_room())
		return;
	head = pg_atomic_read_u64(&page_truth->head);
	n = pwrite(fd, page, BLCKSZ, (off_t) (head % page_truth->capacity) * BLCKSZ);
	if (n != BLCKSZ)
	{
		int			save_errno = n < 0 ? errno : ENOSPC;

		LWLockRelease(page_truth_lock());
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write to file \"%s\": %m", QUEUE_PATH),
				 errhint("Pages to be compared need local disk space; \"neon.page_truth\" switches this off.")));
	}
	page_truth->entries[head % page_truth->capacity] = *entry;
	pg_atomic_write_u64(&page_truth->head, head + 1);
	if (page_truth->worker_latch != NULL)
		SetLatch(page_truth->worker_latch);
	LWLockRelease(page_truth_lock());
}

/* May storage lack bits of this map?  CREATE DATABASE logs the maps it copies without their content. */
bool
page_truth_map_may_be_copy(const NeonRel *rel)
{
	RelationInfo info;

	relation_lookup(rel, &info);
	if (info.origin == RELATION_FROM_BEFORE)
		return rel->db >= FirstNormalObjectId;	/* the databases that initdb made are no copies */
	return info.origin == RELATION_COPIED;
}

static uint8
flags_of_write(const NeonRel *rel, int fork, const char *page)
{
	uint8		flags = 0;

	if (fork != NEON_FORK_VM)
		return 0;
	/* Who clears a bit keeps the map page pinned until the record is inserted.  We have it pinned, too. */
	if (smgr_abi_buffer_pins(page) > 1)
		flags |= NEON_TRUTH_VM_CLEARING;
	if (page_truth_map_may_be_copy(rel))
		flags |= NEON_TRUTH_VM_COPIED;
	return flags;
}

void
page_truth_note_write(const NeonRel *rel, int fork, BlockNumber block, const char *page, PageClass class)
{
	TruthEntry	entry = {.rel = *rel,.block = block,.fork = fork,.writer = MyProcPid,.mode = neon_page_truth};

	if (neon_page_truth == PAGE_TRUTH_OFF || page_truth == NULL)
		return;
	if (fork == NEON_FORK_FSM)
		page_truth_count(TRUTH_SKIPPED_FSM);
	else if (class == PAGE_PIN_BUILD)
		page_truth_count(TRUTH_SKIPPED_BUILD);
	else if (page_source->read_as_of == NULL)
		page_truth_count(TRUTH_SKIPPED_NO_HISTORY);
	else
	{
		entry.kind = class == PAGE_EMPTY ? TRUTH_KIND_EMPTY : TRUTH_KIND_WRITTEN;
		/* before the end of WAL is looked at */
		entry.flags = flags_of_write(rel, fork, page);
		entry.as_of = neon_insert_lsn();
		put(&entry, page);
	}
}

bool
page_truth_note_release(const NeonRel *rel, int fork, BlockNumber block, const char *page, bool was_built)
{
	TruthEntry	entry = {.rel = *rel,.block = block,.fork = fork,.writer = MyProcPid,.mode = neon_page_truth};

	if (neon_page_truth == PAGE_TRUTH_OFF || page_truth == NULL)
		return true;
	if (is_full(RELEASE_ROOM))
		return false;
	if (page_source->read_as_of == NULL)
		page_truth_count(TRUTH_SKIPPED_NO_HISTORY);
	else if (fork == NEON_FORK_VM)
		page_truth_count(TRUTH_SKIPPED_MAP);
	else
	{
		if (was_built)
		{
			/*
			 * Whatever was changed before this moment was changed in shared_buffers, and would have replaced the pinned page when
			 * it left them; so if the block is not there, the pinned page is as of this moment.
			 */
			entry.kind = TRUTH_KIND_RELEASED_BUILD;
			entry.flags = NEON_TRUTH_NEVER_LOGGED;
			entry.as_of = neon_insert_lsn();
			if (smgr_abi_block_in_buffers(rel, fork, block))
			{
				page_truth_count(TRUTH_SKIPPED_NEWER);
				return true;
			}
		}
		else
		{
			entry.kind = TRUTH_KIND_RELEASED;
			entry.flags = NEON_TRUTH_AS_OF_OWN_LSN;
			entry.as_of = Max(PageGetLSN((Page) page), neon_smgr_shared->start_lsn);
		}
		put(&entry, page);
	}
	return true;
}
