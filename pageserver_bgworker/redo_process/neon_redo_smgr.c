/*
 * neon_redo_smgr.c - the storage manager of the redo process: one real page, every other page is a dummy.
 *
 * Relations exist and have every block.  Reading the target gives the page being rebuilt; reading anything else gives an
 * initialised empty page whose LSN is above all records', so that redo routines find nothing to do there.  Writing the target
 * (an eviction) keeps it, writing anything else forgets it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_redo.h"

#include "miscadmin.h"
#include "storage/bufpage.h"

#include "neon_pgpatch_server.h"

/* Above every real LSN, but not so high that arithmetic on it wraps. */
#define DUMMY_LSN	(PG_UINT64_MAX - BLCKSZ)

NeonRedoTarget neon_redo_target;

static PGAlignedBlock dummy;

static bool
is_target(SMgrRelation reln, ForkNumber fork, BlockNumber blk)
{
	return blk == neon_redo_target.blk && fork == neon_redo_target.fork &&
		RelFileNodeEquals(reln->smgr_rnode.node, neon_redo_target.rnode);
}

static void
redo_init(void)
{
}

static void
redo_open(SMgrRelation reln)
{
}

static void
redo_close(SMgrRelation reln, ForkNumber fork)
{
}

static void
redo_create(SMgrRelation reln, ForkNumber fork, bool is_redo)
{
}

static bool
redo_exists(SMgrRelation reln, ForkNumber fork)
{
	return true;
}

static void
redo_unlink(RelFileNodeBackend rnode, ForkNumber fork, bool is_redo)
{
}

static void
redo_write(SMgrRelation reln, ForkNumber fork, BlockNumber blk, char *buffer, bool skip_fsync)
{
	if (is_target(reln, fork, blk))
		memcpy(neon_redo_target.page.data, buffer, BLCKSZ);
}

static bool
redo_prefetch(SMgrRelation reln, ForkNumber fork, BlockNumber blk)
{
	return true;
}

static void
redo_read(SMgrRelation reln, ForkNumber fork, BlockNumber blk, char *buffer)
{
	memcpy(buffer, is_target(reln, fork, blk) ? neon_redo_target.page.data : dummy.data, BLCKSZ);
}

static void
redo_writeback(SMgrRelation reln, ForkNumber fork, BlockNumber blk, BlockNumber nblocks)
{
}

static BlockNumber
redo_nblocks(SMgrRelation reln, ForkNumber fork)
{
	return MaxBlockNumber;
}

static void
redo_truncate(SMgrRelation reln, ForkNumber fork, BlockNumber old_blocks, BlockNumber nblocks)
{
}

static void
redo_immedsync(SMgrRelation reln, ForkNumber fork)
{
}

static const neon_f_smgr redo_table = {
	.smgr_init = redo_init,
	.smgr_shutdown = NULL,
	.smgr_open = redo_open,
	.smgr_close = redo_close,
	.smgr_create = redo_create,
	.smgr_exists = redo_exists,
	.smgr_unlink = redo_unlink,
	.smgr_extend = redo_write,
	.smgr_prefetch = redo_prefetch,
	.smgr_read = redo_read,
	.smgr_write = redo_write,
	.smgr_writeback = redo_writeback,
	.smgr_nblocks = redo_nblocks,
	.smgr_truncate = redo_truncate,
	.smgr_immedsync = redo_immedsync,
};

/* pd_upper is not zero, so that the page does not count as new. */
void
neon_redo_make_dummy(char *page)
{
	PageInit(page, BLCKSZ, 0);
	PageSetLSN(page, DUMMY_LSN);
}

const char *
neon_redo_dummy_page(void)
{
	return dummy.data;
}

void
neon_redo_smgr_install(void)
{
	neon_pgpatch_image image;
	neon_pgpatch_report report;

	neon_redo_make_dummy(dummy.data);
	neon_pgpatch_report_init(&report);
	if (!neon_pgpatch_begin(PG_VERSION_NUM, &image, &report) ||
		!neon_pgpatch_replace_smgr(&image, &redo_table, &report))
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot replace the storage manager of this server: %s", report.error),
				 errhint(NEON_PGPATCH_HINT)));
}
