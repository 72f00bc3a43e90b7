/*
 * neon_pgpatch_server.h - the parts of neon_pgpatch that speak of PostgreSQL's own tables.  Include postgres.h first.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PGPATCH_SERVER_H
#define NEON_PGPATCH_SERVER_H

#include "fmgr.h"
#include "storage/smgr.h"

#include "neon_pgpatch.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 160000
#error "the storage manager's table is described for PostgreSQL 15 only"
#endif

/* The slots of smgrsw[0] in PostgreSQL 15, in order.  Assigning md.h's functions makes the compiler check the signatures. */
typedef struct neon_f_smgr
{
	void		(*smgr_init) (void);
	void		(*smgr_shutdown) (void);
	void		(*smgr_open) (SMgrRelation reln);
	void		(*smgr_close) (SMgrRelation reln, ForkNumber forknum);
	void		(*smgr_create) (SMgrRelation reln, ForkNumber forknum, bool isRedo);
	bool		(*smgr_exists) (SMgrRelation reln, ForkNumber forknum);
	void		(*smgr_unlink) (RelFileNodeBackend rnode, ForkNumber forknum, bool isRedo);
	void		(*smgr_extend) (SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer, bool skipFsync);
	bool		(*smgr_prefetch) (SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum);
	void		(*smgr_read) (SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer);
	void		(*smgr_write) (SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer, bool skipFsync);
	void		(*smgr_writeback) (SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, BlockNumber nblocks);
	BlockNumber (*smgr_nblocks) (SMgrRelation reln, ForkNumber forknum);
	void		(*smgr_truncate) (SMgrRelation reln, ForkNumber forknum, BlockNumber old_blocks, BlockNumber nblocks);
	void		(*smgr_immedsync) (SMgrRelation reln, ForkNumber forknum);
} neon_f_smgr;

#define NEON_F_SMGR_SLOTS	(sizeof(neon_f_smgr) / sizeof(void *))

/* The table as the server is built with it: what is searched for. */
extern const neon_f_smgr neon_pgpatch_md_table;

/*
 * The running server must be exactly the version this library was compiled for; finds the executable.  built_version_num:
 * pass PG_VERSION_NUM, so that the caller's own headers are checked too.
 */
extern bool neon_pgpatch_begin(int built_version_num, neon_pgpatch_image *image, neon_pgpatch_report *report);

/* Verify that the table is there once and that no code but the known places bypasses it.  Changes nothing. */
extern bool neon_pgpatch_check_smgr(const neon_pgpatch_image *image, neon_pgpatch_report *report);

/*
 * Check and replace the table; detours mdimmedsync, which the compiler calls directly instead of through the table, to the
 * new smgr_immedsync (NULL slots of the new table are refused, except smgr_init and smgr_shutdown).
 */
extern bool neon_pgpatch_replace_smgr(const neon_pgpatch_image *image, const neon_f_smgr *table, neon_pgpatch_report *report);

/* Replaces a built-in SQL function; *old (may be NULL) gets what it was. */
extern bool neon_pgpatch_builtin(const neon_pgpatch_image *image, Oid function, PGFunction replacement, PGFunction *old,
								 neon_pgpatch_report *report);

#endif							/* NEON_PGPATCH_SERVER_H */
