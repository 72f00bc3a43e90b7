/*
 * page_compare.c - page truth: is a relation in shared_buffers what the page source makes of its WAL?
 *
 * neon_test_compare(relation) reads every block of every logged fork through the buffer manager and, under its content lock,
 * copies it; then asks the page source for the block as of the end of WAL at the copy, and compares the two after masking with
 * the resource managers' own mask functions (what wal_consistency_checking uses: hint bits, unused space, command ids).
 * Pages that the WAL does not imply yet are skipped.  Each difference is a WARNING; the result is their number.
 *
 * Nobody may write to the relation meanwhile: it takes a lock against that.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/brin_xlog.h"
#include "access/bufmask.h"
#include "access/ginxlog.h"
#include "access/gistxlog.h"
#include "access/hash_xlog.h"
#include "access/heapam_xlog.h"
#include "access/nbtxlog.h"
#include "access/relation.h"
#include "access/spgist_private.h"
#include "access/spgxlog.h"
#include "access/xlog.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/smgr.h"
#include "utils/rel.h"

#include "neon_smgr.h"
#include "page_class.h"
#include "pagestore.h"

PG_FUNCTION_INFO_V1(neon_test_compare);

#define MAX_WARNINGS	10

/* The parts any resource manager may leave different: LSN, checksum, hint flags, the hole. */
static void
mask_plain(char *page, BlockNumber block)
{
	mask_page_lsn_and_checksum(page);
	mask_page_hint_bits(page);
	if (!PageIsNew((Page) page) && ((PageHeader) page)->pd_lower > SizeOfPageHeaderData)
		mask_unused_space(page);
}

/* The meta page caches the pages last used, which is not logged. */
static void
mask_spgist(char *page, BlockNumber block)
{
	spg_mask(page, block);
	if (block == SPGIST_METAPAGE_BLKNO)
		memset(PageGetContents((Page) page) + sizeof(uint32), 0, sizeof(SpGistMetaPageData) - sizeof(uint32));
}

typedef void (*mask_function) (char *page, BlockNumber block);

static mask_function
mask_of(Relation rel, ForkNumber fork)
{
	if (fork != MAIN_FORKNUM && fork != INIT_FORKNUM)
		return mask_plain;
	switch (rel->rd_rel->relam)
	{
		case BTREE_AM_OID:
			return btree_mask;
		case HASH_AM_OID:
			return hash_mask;
		case GIST_AM_OID:
			return gist_mask;
		case GIN_AM_OID:
			return gin_mask;
		case SPGIST_AM_OID:
			return mask_spgist;
		case BRIN_AM_OID:
			return brin_mask;
	}
	return rel->rd_rel->relkind == RELKIND_INDEX ? mask_plain : heap_mask;
}

/* -1 when equal, else the first byte that differs */
static int
first_difference(const char *a, const char *b)
{
	for (int i = 0; i < BLCKSZ; i++)
		if (a[i] != b[i])
			return i;
	return -1;
}

static bool
block_is_true(Relation rel, ForkNumber fork, BlockNumber block, BlockNumber source_blocks, bool warn)
{
	RelFileNode node = rel->rd_node;
	NeonRel		name = {.spc = node.spcNode,.db = node.dbNode,.rel = node.relNode};
	mask_function mask = mask_of(rel, fork);
	PGAlignedBlock ours,
				theirs;
	XLogRecPtr	lsn;
	PageClass	class;
	Buffer		buffer = ReadBufferExtended(rel, fork, block, RBM_NORMAL, NULL);
	int			at;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	memcpy(ours.data, BufferGetPage(buffer), BLCKSZ);
	lsn = neon_insert_lsn();
	UnlockReleaseBuffer(buffer);

	class = page_classify(fork, ours.data);
	if (class == PAGE_EMPTY)
		memset(ours.data, 0, BLCKSZ);
	else if (class == PAGE_PIN_BUILD || class == PAGE_PIN_FSM || class == PAGE_PIN_SEQUENCE)
		return true;
	if (block < source_blocks)
		page_source->read(&name, fork, block, lsn, theirs.data);
	else
		memset(theirs.data, 0, BLCKSZ);
	if (PageIsNew((Page) ours.data) || PageIsNew((Page) theirs.data))
	{
		/* An empty page that was never logged may still be initialised in one of the two. */
		if (class == PAGE_EMPTY && page_classify(fork, theirs.data) == PAGE_EMPTY)
			return true;
	}
	else
	{
		page_forget_unlogged(fork, ours.data);
		page_forget_unlogged(fork, theirs.data);
		mask(ours.data, block);
		mask(theirs.data, block);
	}
	/*
	 * CREATE DATABASE logs pages of the map as if they were standard pages, whose content between pd_lower and pd_upper is
	 * nothing: storage does not have those bits.  That is what a standby of a stock server has too, and harmless.  A bit
	 * that only storage has set is not.
	 */
	if (fork == VISIBILITYMAP_FORKNUM)
		for (int i = SizeOfPageHeaderData; i < BLCKSZ; i++)
			theirs.data[i] |= ours.data[i];
	at = first_difference(ours.data, theirs.data);
	if (at >= 0 && warn)
		ereport(WARNING,
				(errmsg("block %u of \"%s\" fork %d differs from the page source at byte %d: %02x, not %02x",
						block, RelationGetRelationName(rel), fork, at, (uint8) ours.data[at], (uint8) theirs.data[at]),
				 errdetail("Ours has LSN %X/%X, the page source's %X/%X, as of %X/%X.",
						   LSN_FORMAT_ARGS(PageGetLSN(ours.data)), LSN_FORMAT_ARGS(PageGetLSN(theirs.data)),
						   LSN_FORMAT_ARGS(lsn))));
	return at < 0;
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
	rel = relation_open(PG_GETARG_OID(0), ExclusiveLock);
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
