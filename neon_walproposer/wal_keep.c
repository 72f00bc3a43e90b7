/*
 * wal_keep.c - local WAL that the quorum does not have is never recycled.
 *
 * A safekeeper that needs WAL which is gone here gets it from another one, so nothing is kept for laggards.  But what no
 * quorum has is nowhere else: while the quorum is away, checkpoints must leave it alone.  The server asks one function for
 * the oldest WAL that replication slots need; it is detoured, and the quorum counts as one more slot.
 *
 * max_slot_wal_keep_size would cap this, too: it is held at -1.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "walproposer.h"

/* Instead of ReplicationSlotsComputeRequiredLSN. */
void
wp_compute_required_lsn(void)
{
	XLogRecPtr	required = __atomic_load_n(&wp_compute->commit_lsn, __ATOMIC_ACQUIRE);

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];
		XLogRecPtr	restart_lsn;

		if (!slot->in_use)
			continue;
		SpinLockAcquire(&slot->mutex);
		restart_lsn = slot->data.restart_lsn;
		SpinLockRelease(&slot->mutex);
		if (restart_lsn != InvalidXLogRecPtr && restart_lsn < required)
			required = restart_lsn;
	}
	LWLockRelease(ReplicationSlotControlLock);
	XLogSetReplicationSlotMinimumLSN(required);
}

/* The proposer, after commit_lsn has moved: only another segment makes a difference. */
void
wp_keep_wal_from(uint64 commit_lsn)
{
	static XLogSegNo last = 0;
	XLogSegNo	segno;

	XLByteToSeg(commit_lsn, segno, wal_segment_size);
	if (segno == last)
		return;
	last = segno;
	wp_compute_required_lsn();
}
