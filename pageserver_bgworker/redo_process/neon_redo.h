/*
 * neon_redo.h - the four files of the redo process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_REDO_H
#define NEON_REDO_H

#include "postgres.h"

#include "access/xlogrecord.h"
#include "storage/block.h"
#include "storage/relfilenode.h"

/* ---- neon_redo_smgr.c: the storage manager that has one page ---- */
typedef struct NeonRedoTarget
{
	RelFileNode rnode;
	ForkNumber	fork;
	BlockNumber blk;
	PGAlignedBlock page;
} NeonRedoTarget;

extern NeonRedoTarget neon_redo_target;

extern void neon_redo_smgr_install(void);
/* A page that no record changes: initialised, empty, with an LSN above all. */
extern const char *neon_redo_dummy_page(void);
extern void neon_redo_make_dummy(char *page);

/* ---- neon_redo_apply.c ---- */
extern void neon_redo_apply_init(void);
extern void neon_redo_begin(const RelFileNode *rnode, ForkNumber fork, BlockNumber blk, const char *base);
extern void neon_redo_apply(XLogRecPtr end_lsn, const char *record, uint32 len);
extern void neon_redo_finish(char *page);

/* ---- neon_redo_sandbox.c ---- */
extern void neon_redo_die_with_parent(void);
extern void neon_redo_forget_files(void);
extern void neon_redo_enter_sandbox(void);

#endif							/* NEON_REDO_H */
