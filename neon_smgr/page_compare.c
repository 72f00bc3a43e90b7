/*
 * page_compare.c - page truth: is a relation in shared_buffers what the page source makes of its WAL?
 *
 * neon_test_compare(relation) reads every block of every logged fork through the buffer manager and, under its content lock,
 * copies it; then asks the page source for the block as of the end of WAL at the copy, and compares the two but for what WAL
 * does not carry (libs/page_truth).  Pages that are not logged yet are skipped.  Each difference is a WARNING; the
 * result is their number.  page_truth_queue.c does the same with every page that is written.
 *
 * Nobody may write to the relation meanwhile: it takes a lock against that.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/smgr.h"
#include "utils/rel.h"

#include "neon_smgr.h"
#include "page_class.h"
#include "page_truth.h"
#include "pagestore.h"

PG_FUNCTION_INFO_V1(neon_test_compare);

#define MAX_WARNINGS	10

static bool
block_is_true(Relation rel, ForkNumber fork, BlockNumber block, BlockNumber source_blocks, bool warn)
{
	RelFileNode node = rel->rd_node;
	NeonRel		name = {.spc = node.spcNode,.db = node.dbNode,.rel = node.relNode};
	neon_page_context context = {.fork = fork,.block = block,.as_of = NEON_LSN_MAX};
	neon_page_difference d;
	PGAlignedBlock ours,
				theirs;
	XLogRecPtr	lsn;
	PageClass	class;
	Buffer		buffer = ReadBufferExtended(rel, fork, block, RBM_NORMAL, NULL);

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	memcpy(ours.data, BufferGetPage(buffer), BLCKSZ);
	lsn = neon_insert_lsn();
	UnlockReleaseBuffer(buffer);

	class = page_classify(fork, ours.data);
	if (class == PAGE_PIN_BUILD || class == PAGE_PIN_FSM)
		return true;
	if (block < source_blocks)
		page_source->read(&name, fork, block, lsn, theirs.data);
	else
		memset(theirs.data, 0, BLCKSZ);
	if (fork == VISIBILITYMAP_FORKNUM && page_truth_map_may_be_copy(&name))
		context.flags = NEON_TRUTH_VM_COPIED;
	if (neon_page_same((uint8_t *) ours.data, (uint8_t *) theirs.data, &context, &d))
		return true;
	if (warn)
		ereport(WARNING,
				(errmsg("block %u of \"%s\" fork %d differs from the page source at byte %d: %02x, not %02x",
						block, RelationGetRelationName(rel), fork, d.offset, d.ours, d.theirs),
				 errdetail("Ours has LSN %X/%X, the page source's %X/%X, as of %X/%X: %s.",
						   LSN_FORMAT_ARGS(PageGetLSN(ours.data)), LSN_FORMAT_ARGS(PageGetLSN(theirs.data)),
						   LSN_FORMAT_ARGS(lsn), d.what)));
	return false;
}

Datum
neon_test_compare(PG_FUNCTION_ARGS)
{
	Relation	rel;
	int64		differences = 0;

	if (!superuser())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("must be superuser to compare pages")));
	if (!neon_smgr_active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("this server is not a compute")));
	/* nobody writes where redo is the only one who does, but redo */
	rel = relation_open(PG_GETARG_OID(0), RecoveryInProgress() ? AccessShareLock : ExclusiveLock);
	if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind) && RelationIsPermanent(rel))
	{
		for (ForkNumber fork = 0; fork <= MAX_FORKNUM; fork++)
		{
			NeonRel		name = {.spc = rel->rd_node.spcNode,.db = rel->rd_node.dbNode,.rel = rel->rd_node.relNode};
			BlockNumber nblocks,
						source_blocks;

			/* no claim is made of the FSM */
			if (fork == FSM_FORKNUM || !smgrexists(RelationGetSmgr(rel), fork))
				continue;
			nblocks = smgrnblocks(RelationGetSmgr(rel), fork);
			source_blocks = page_source->nblocks(&name, fork, neon_insert_lsn());
			if (source_blocks > nblocks)
			{
				ereport(WARNING,
						(errmsg("fork %d of \"%s\" has %u blocks, %u at the page source", fork,
								RelationGetRelationName(rel), nblocks, source_blocks)));
				differences++;
			}
			for (BlockNumber block = 0; block < nblocks; block++)
			{
				CHECK_FOR_INTERRUPTS();
				if (!block_is_true(rel, fork, block, source_blocks, differences < MAX_WARNINGS))
					differences++;
			}
		}
	}
	relation_close(rel, NoLock);
	PG_RETURN_INT64(differences);
}
