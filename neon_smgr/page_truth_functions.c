/*
 * page_truth_functions.c - page truth for people and tests: counters, waiting for the queue, spoiling a page.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/relation.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/rel.h"

#include "neon_smgr.h"
#include "page_truth.h"

#define CHECK_POLL_MS	5

PG_FUNCTION_INFO_V1(neon_page_truth_stats);
PG_FUNCTION_INFO_V1(neon_page_truth_check);
PG_FUNCTION_INFO_V1(neon_test_flip_bit);

static void
require_page_truth(void)
{
	if (page_truth == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server does not compare pages"),
				 errhint("Set \"neon.page_truth\" in the configuration of a compute and restart it.")));
}

/* pages in the queue, then the counters in their order */
Datum
neon_page_truth_stats(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[TRUTH_COUNTERS + 1];
	bool		nulls[TRUTH_COUNTERS + 1] = {false};
	uint64		tail;

	require_page_truth();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != TRUTH_COUNTERS + 1)
		elog(ERROR, "unexpected result type of neon_page_truth_stats");
	tail = pg_atomic_read_u64(&page_truth->tail);
	values[0] = Int64GetDatum(pg_atomic_read_u64(&page_truth->head) - tail);
	for (int i = 0; i < TRUTH_COUNTERS; i++)
		values[1 + i] = Int64GetDatum(pg_atomic_read_u64(&page_truth->counters[i]));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* Waits until all that has been put into the queue before now is compared. */
static void
wait_for_worker(void)
{
	uint64		head = pg_atomic_read_u64(&page_truth->head);

	while (pg_atomic_read_u64(&page_truth->tail) < head)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, CHECK_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* The number of pages that were compared and found right since the start; the first mismatch is an error. */
Datum
neon_page_truth_check(PG_FUNCTION_ARGS)
{
	TruthMismatch first;
	uint64		mismatches;
	uint64		verified = 0;

	require_page_truth();
	wait_for_worker();
	LWLockAcquire(page_truth_lock(), LW_SHARED);
	mismatches = pg_atomic_read_u64(&page_truth->counters[TRUTH_MISMATCHES]);
	first = page_truth->mismatches[0];
	LWLockRelease(page_truth_lock());
	if (mismatches > 0)
		page_truth_report(ERROR, &first, mismatches);
	for (int i = TRUTH_VERIFIED; i <= TRUTH_VERIFIED_BEHIND; i++)
		verified += pg_atomic_read_u64(&page_truth->counters[i]);
	PG_RETURN_INT64(verified);
}

/* Change one bit of a page in shared_buffers without a word to WAL. */
Datum
neon_test_flip_bit(PG_FUNCTION_ARGS)
{
	int32		fork = PG_GETARG_INT32(1);
	int64		block = PG_GETARG_INT64(2);
	int32		byte = PG_GETARG_INT32(3);
	int32		bit = PG_GETARG_INT32(4);
	Relation	rel;
	Buffer		buffer;

	if (!superuser())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("must be superuser to spoil pages")));
	if (fork < 0 || fork > MAX_FORKNUM || block < 0 || block > MaxBlockNumber || byte < 0 || byte >= BLCKSZ || bit < 0 || bit > 7)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no such bit: fork %d, block %lld, byte %d, bit %d", fork, (long long) block, byte, bit)));
	rel = relation_open(PG_GETARG_OID(0), ExclusiveLock);
	buffer = ReadBufferExtended(rel, fork, (BlockNumber) block, RBM_NORMAL, NULL);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	BufferGetPage(buffer)[byte] ^= 1 << bit;
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	relation_close(rel, NoLock);
	PG_RETURN_VOID();
}
