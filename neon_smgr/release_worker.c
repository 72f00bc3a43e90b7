/*
 * release_worker.c - lets go of pinned pages that storage can rebuild by now.
 *
 * Every round it looks at the pinned pages of every relation that has some, a bounded number at a time, under the fork's pin
 * lock, and classifies them again.  A page goes when its reason is gone (the transaction or vacuum has ended) and the quorum
 * has its WAL.  A page of an index build goes when the transaction that created the relation has ended: it has logged it by
 * then, perhaps without writing it again (sorted GiST builds), so the page's last change is taken to be the end of WAL.
 * Nothing is logged from here: a pinned page may be older than the same page in shared_buffers.
 *
 * Sequences stay pinned.  So does the FSM, of which a clean stop logs images, or a compute that starts from nothing would
 * not know where there is room.  FSM pages are hints: an old one does no harm.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "last_written.h"
#include "neon_smgr.h"
#include "page_class.h"
#include "page_truth.h"
#include "pagestore.h"
#include "pinned_pages.h"
#include "relation_table.h"

#define ROUND_MS			1000
#define PAGES_PER_LOCK		64

typedef struct ReleaseRound
{
	bool		build_over;		/* the relation's creator has ended */
	XLogRecPtr	commit_lsn;
} ReleaseRound;

static bool
has_pins(const RelationInfo *info, const void *arg)
{
	for (int fork = 0; fork < NEON_FORKS; fork++)
		if (info->fork[fork].has_pins)
			return true;
	return false;
}

static bool
may_go(const NeonRel *rel, int fork, BlockNumber block, const char *page, void *arg)
{
	const ReleaseRound *round = arg;
	PageClass	class = page_classify(fork, page);
	bool		goes = false;

	/* Not the page's own LSN: its last change may not have set it (page_last_change), and a read would wait for that. */
	if (class == PAGE_IMPLIED)
		goes = last_written_get(rel, fork, block) <= round->commit_lsn &&
			page_truth_note_release(rel, fork, block, page, false);
	else if (class == PAGE_PIN_BUILD && round->build_over && page_truth_note_release(rel, fork, block, page, true))
	{
		XLogRecPtr	lsn = neon_insert_lsn();

		goes = true;
		last_written_raise(rel, fork, block, lsn);
		(void) relation_note_written(rel, fork, block, lsn, true);
		if (page_source->note_write)
			page_source->note_write(rel, fork, block, page);
	}
	if (goes)
		neon_count(NEON_CNT_PIN_RELEASED);
	return goes;
}

static void
release_fork(const RelationInfo *info, int fork)
{
	ReleaseRound round = {.commit_lsn = neon_commit_lsn()};
	BlockNumber block = 0;

	if (fork == NEON_FORK_FSM)
		return;
	round.build_over = TransactionIdIsValid(info->creator) && !info->keep_unlogged &&
		TransactionIdPrecedes(info->creator, GetOldestActiveTransactionId());
	while (pinned_scan(&info->rel, fork, &block, PAGES_PER_LOCK, may_go, &round))
		CHECK_FOR_INTERRUPTS();
	pinned_tidy(&info->rel, fork);
}

static void
release_round(void)
{
	int			count;
	RelationInfo *list = relation_list(has_pins, NULL, &count);

	for (int i = 0; i < count; i++)
		for (int fork = 0; fork < NEON_FORKS; fork++)
		{
			if (list[i].fork[fork].has_pins)
				release_fork(&list[i], fork);
		}
}

static bool
log_fsm_page(const NeonRel *rel, int fork, BlockNumber block, const char *page, void *arg)
{
	RelFileNode node = {.spcNode = rel->spc,.dbNode = rel->db,.relNode = rel->rel};
	PGAlignedBlock copy;

	memcpy(copy.data, page, BLCKSZ);
	(void) log_newpage(&node, fork, block, copy.data, false);
	return false;
}

static void
log_all_fsm_pages(void)
{
	int			count;
	RelationInfo *list = relation_list(has_pins, NULL, &count);

	for (int i = 0; i < count; i++)
	{
		BlockNumber block = 0;

		if (list[i].fork[NEON_FORK_FSM].has_pins)
			while (pinned_scan(&list[i].rel, NEON_FORK_FSM, &block, PAGES_PER_LOCK, log_fsm_page, NULL))
				;
	}
}

/* The block of a dirty FSM page in shared_buffers; false if the buffer is something else. */
static bool
dirty_fsm_buffer(int i, BufferTag *tag)
{
	BufferDesc *desc = GetBufferDescriptor(i);
	uint32		wanted = BM_VALID | BM_DIRTY | BM_PERMANENT;
	uint32		state;

	if (desc->tag.forkNum != FSM_FORKNUM)	/* unlocked look; what matters is looked at again */
		return false;
	state = LockBufHdr(desc);
	*tag = desc->tag;
	UnlockBufHdr(desc, state);
	return tag->forkNum == FSM_FORKNUM && (state & wanted) == wanted;
}

/*
 * As above for pages that have not left shared_buffers.  No lock is held on the relations, so one may be dropped at this very
 * moment; storage is then left with a page of a relation that no longer exists, which nobody asks for.
 */
static void
log_fsm_buffers(void)
{
	StartTransactionCommand();
	for (int i = 0; i < NBuffers; i++)
	{
		BufferTag	tag;
		RelationInfo info;
		NeonRel		rel;
		Buffer		buffer;

		if (!dirty_fsm_buffer(i, &tag))
			continue;
		rel = (NeonRel) {.spc = tag.rnode.spcNode,.db = tag.rnode.dbNode,.rel = tag.rnode.relNode};
		if (!relation_lookup(&rel, &info) || tag.blockNum >= info.fork[NEON_FORK_FSM].nblocks)
			continue;
		buffer = ReadBufferWithoutRelcache(tag.rnode, FSM_FORKNUM, tag.blockNum, RBM_NORMAL, NULL, true);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		if (!PageIsNew(BufferGetPage(buffer)))
		{
			START_CRIT_SECTION();
			MarkBufferDirty(buffer);
			log_newpage_buffer(buffer, false);
			END_CRIT_SECTION();
		}
		UnlockReleaseBuffer(buffer);
	}
	CommitTransactionCommand();
}

void
neon_release_worker_main(Datum arg)
{
	MemoryContext context;

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	context = AllocSetContextCreate(TopMemoryContext, "neon release worker", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	while (!ShutdownRequestPending)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ROUND_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		release_round();
		MemoryContextReset(context);
	}
	release_round();
	log_all_fsm_pages();
	log_fsm_buffers();
	proc_exit(1);				/* started again, unless the server is stopping */
}

void
release_worker_register(void)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = 1,
	};

	strlcpy(worker.bgw_library_name, "neon_smgr", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "neon_release_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "neon pinned page release", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "neon pinned page release", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
