/*
 * commit_wait.c - commits, and readers of WAL, wait for the quorum.
 *
 * Two functions of the server are detoured here (a third in wal_keep.c):
 *
 *   SyncRepWaitForLSN  A synchronous commit is visible only after the quorum has it.  The stock wait ends early when it is
 *                      cancelled or terminated, and makes the commit visible; ours does not end before commit_lsn reaches
 *                      the commit's LSN.  PREPARE, COMMIT PREPARED and ROLLBACK PREPARED pass here too.
 *   GetFlushRecPtr     Everybody who reads WAL to send or decode it reads up to here.  What the quorum does not have may
 *                      vanish with this compute, so nobody is shown it.
 *
 * synchronous_commit: off keeps its stock meaning, it does not wait; every other value, also local, waits for the quorum.
 * remote_apply waits for the quorum too and for no standby's apply: the stock wait for it is what we have replaced.
 *
 * Protocol between a waiter and the proposer, without locks: the waiter stores want[pgprocno], a full barrier, reads
 * commit_lsn; the proposer stores commit_lsn, a full barrier, reads want[].  Whichever is second sees the other's store.
 * The waiter's own latch is what is set.  Only the proposer writes commit_lsn, and never lowers it.
 *
 * A crash of the proposer, or its end at the drain limit, takes the whole instance down without anybody being released.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/slot.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/proc.h"
#include "storage/spin.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/ps_status.h"
#include "utils/timeout.h"
#include "utils/wait_event.h"

#include "neon_pgpatch_server.h"
#include "walproposer.h"

static inline uint64
commit_lsn(void)
{
	return __atomic_load_n(&wp_compute->commit_lsn, __ATOMIC_ACQUIRE);
}

/* Only ordinary backends and workers commit; auxiliary processes are counted so that any pgprocno of a process fits. */
Size
wp_commit_wait_slots(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS;
}

/* "... waiting for 0/1234567" in ps; returns what to restore, NULL if titles are off. */
static char *
show_waiting(XLogRecPtr lsn, int *restore_len)
{
	const char *old;
	char	   *title;
	int			len;

	if (!update_process_title)
		return NULL;
	old = get_ps_display(&len);
	title = palloc(len + 32 + 1);
	memcpy(title, old, len);
	snprintf(title + len, 33, " waiting for %X/%X", LSN_FORMAT_ARGS(lsn));
	set_ps_display(title);
	title[len] = '\0';
	*restore_len = len;
	return title;
}

/* The commit is decided: an interrupt can be answered, not obeyed. */
static void
answer_interrupts(bool *terminated)
{
	if (QueryCancelPending)
	{
		QueryCancelPending = false;
		(void) get_timeout_indicator(STATEMENT_TIMEOUT, true);
		(void) get_timeout_indicator(LOCK_TIMEOUT, true);
		ereport(WARNING,
				(errmsg("this commit can no longer be cancelled and goes on waiting for the safekeepers"),
				 errdetail("The transaction is committed and becomes visible when a quorum of the safekeepers has it.")));
	}
	if (ProcDiePending && !*terminated)
	{
		*terminated = true;
		ereport(WARNING,
				(errcode(ERRCODE_ADMIN_SHUTDOWN),
				 errmsg("terminating connection while a commit waits for the safekeepers"),
				 errdetail("The transaction becomes visible if and when a quorum of the safekeepers has it; the server process stays until then.")));
		whereToSendOutput = DestNone;
	}
}

static void
wait_for_quorum(XLogRecPtr lsn)
{
	pg_atomic_uint64 *want = &wp_shared->want[MyProc->pgprocno];
	bool		terminated = false;
	int			title_len = 0;
	char	   *title = show_waiting(lsn, &title_len);

	pg_atomic_write_u64(want, lsn);
	pg_memory_barrier();
	for (;;)
	{
		int			rc;

		ResetLatch(MyLatch);
		if (commit_lsn() >= lsn)
			break;
		answer_interrupts(&terminated);
		rc = WaitLatch(MyLatch, WL_LATCH_SET | WL_POSTMASTER_DEATH, -1, WAIT_EVENT_SYNC_REP);
		/* Nobody is left who could show this commit to anybody; leave without releasing it. */
		if (rc & WL_POSTMASTER_DEATH)
			_exit(1);
	}
	pg_atomic_write_u64(want, 0);
	if (title)
	{
		set_ps_display(title);
		pfree(title);
	}
}

/*
 * Instead of SyncRepWaitForLSN.  Interrupts are held by the caller.
 *
 * synchronous_commit = off is for ordinary commits.  Two-phase commands are durable when they return, whatever it says, as in the stock server,
 * which flushes for them: here that is the quorum's business.  PREPARE and ROLLBACK PREPARED are no commits to the caller; COMMIT PREPARED runs in
 * a transaction that has no id of its own, which one that commits always has.
 */
static void
neon_wait_for_lsn(XLogRecPtr lsn, bool commit)
{
	if (commit_lsn() >= lsn)
		return;
	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF && commit && TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	if (MyProc->pgprocno >= wp_shared->slots)
		elog(PANIC, "process number %d is beyond the %u that may commit", MyProc->pgprocno, wp_shared->slots);
	wait_for_quorum(lsn);
}

/*
 * Instead of GetFlushRecPtr.  The checkpointer is shown everything: it reads WAL only to copy two-phase state into local
 * files, and must not hang when the quorum is away.
 *
 * The stock body cannot be called any more; the write pointer stands for the flush pointer,
 * which it never trails: bytes below it are in the file and final, and what makes them durable is the quorum, not this
 * machine (computes run with fsync=off, where both pointers move together).
 */
static XLogRecPtr
neon_get_flush_rec_ptr(TimeLineID *insert_tli)
{
	XLogRecPtr	written = GetXLogWriteRecPtr();
	uint64		committed = commit_lsn();

	if (insert_tli)
		*insert_tli = GetWALInsertionTimeLine();
	if (AmCheckpointerProcess())
		return written;
	return Min(written, committed);
}

bool
wp_install_detours(neon_pgpatch_report *report)
{
	neon_pgpatch_image image;

	neon_pgpatch_report_init(report);
	return neon_pgpatch_begin(PG_VERSION_NUM, &image, report) &&
		neon_pgpatch_detour(&image, "SyncRepWaitForLSN", (void *) SyncRepWaitForLSN, (void *) neon_wait_for_lsn, report) &&
		neon_pgpatch_detour(&image, "GetFlushRecPtr", (void *) GetFlushRecPtr, (void *) neon_get_flush_rec_ptr, report) &&
		neon_pgpatch_detour(&image, "ReplicationSlotsComputeRequiredLSN", (void *) ReplicationSlotsComputeRequiredLSN,
							(void *) wp_compute_required_lsn, report);
}

/* Does anybody wait for something the quorum does not have? */
bool
wp_commits_wait(void)
{
	uint64		committed = commit_lsn();

	for (uint32 i = 0; i < wp_shared->slots; i++)
		if (pg_atomic_read_u64(&wp_shared->want[i]) > committed)
			return true;
	return false;
}

/* Logical and physical walsenders may now read further; ourselves excepted. */
static void
wake_walsenders(void)
{
	for (int i = 0; i < max_wal_senders; i++)
	{
		WalSnd	   *walsnd = &WalSndCtl->walsnds[i];
		Latch	   *latch;

		if (walsnd == MyWalSnd)
			continue;
		SpinLockAcquire(&walsnd->mutex);
		latch = walsnd->latch;
		SpinLockRelease(&walsnd->mutex);
		if (latch)
			SetLatch(latch);
	}
}

/* The proposer only: publish, then wake whom it satisfies. */
void
wp_release_commits(uint64 lsn)
{
	if (lsn <= commit_lsn())
		return;
	__atomic_store_n(&wp_compute->commit_lsn, lsn, __ATOMIC_RELEASE);
	pg_memory_barrier();
	for (uint32 i = 0; i < wp_shared->slots; i++)
	{
		uint64		want = pg_atomic_read_u64(&wp_shared->want[i]);

		if (want != 0 && want <= lsn)
			SetLatch(&ProcGlobal->allProcs[i].procLatch);
	}
	wake_walsenders();
}
