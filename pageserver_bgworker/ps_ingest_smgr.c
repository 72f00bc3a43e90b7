/*
 * ps_ingest_smgr.c - files as a whole: creation and truncation of relations, databases, relation maps.
 *
 * A truncation leaves a cut: versions of blocks at or above it that are not newer than the record do not count, so that
 * a relation that grows again starts with zeros.  A drop is a cut at 0 and an absent size.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/visibilitymapdefs.h"
#include "access/xlogrecord.h"
#include "catalog/pg_tablespace_d.h"
#include "catalog/storage_xlog.h"
#include "commands/dbcommands_xlog.h"
#include "storage/bufpage.h"
#include "storage/fsm_internals.h"
#include "utils/relmapper.h"

#include "ps_ingest.h"

#define HEAP_BLOCKS_PER_VM_PAGE \
	((BLCKSZ - MAXALIGN(SizeOfPageHeaderData)) * (BITS_PER_BYTE / BITS_PER_HEAPBLOCK))

/* Levels of free space map pages above the leaves (freespace.c keeps them to itself). */
#define FSM_UPPER_LEVELS	((SlotsPerFSMPage >= 1626) ? 2 : 3)

/* ---- truncation ---- */

static void
shrink(PsIngest *ing, const RelFileNode *rn, ForkNumber fork, uint32 nblocks)
{
	uint32		size = ps_ingest_size(ing, NEON_KEY_REL_SIZE, rn->spcNode, rn->dbNode, rn->relNode, fork);

	if (size == NEON_SIZE_ABSENT || size <= nblocks)
		return;
	ps_ingest_cut(ing, rn->spcNode, rn->dbNode, rn->relNode, fork, nblocks);
	ps_ingest_set_size(ing, NEON_KEY_REL_SIZE, rn->spcNode, rn->dbNode, rn->relNode, fork, nblocks);
}

/* Physical block of the free space map's leaf page number `leaf`: upper pages stand before their first child. */
static uint32
fsm_leaf_block(uint32 leaf)
{
	uint32		pages = 0;

	for (int level = 0; level <= FSM_UPPER_LEVELS; level++)
	{
		pages += leaf + 1;
		leaf /= SlotsPerFSMPage;
	}
	return pages - 1;
}

static void
truncate_fsm(PsIngest *ing, const RelFileNode *rn, uint32 heap_blocks)
{
	uint32		leaf = heap_blocks / SlotsPerFSMPage;
	uint32		block = fsm_leaf_block(leaf);
	uint32		size = ps_ingest_size(ing, NEON_KEY_REL_SIZE, rn->spcNode, rn->dbNode, rn->relNode, FSM_FORKNUM);

	if (size == NEON_SIZE_ABSENT)
		return;
	if (heap_blocks % SlotsPerFSMPage != 0)
	{
		static const char zeros[BLCKSZ];
		neon_key	key = ps_key(NEON_KEY_REL_BLOCK, rn->spcNode, rn->dbNode, rn->relNode, FSM_FORKNUM, block);

		/* The page that keeps a part forgets all of it: free space is a hint. */
		if (block < size)
			ps_ingest_put_image(ing, &key, zeros, BLCKSZ);
		block++;
	}
	shrink(ing, rn, FSM_FORKNUM, block);
}

static void
truncate_vm(PsIngest *ing, const RelFileNode *rn, uint32 heap_blocks)
{
	uint32		block = heap_blocks / HEAP_BLOCKS_PER_VM_PAGE;
	uint32		size = ps_ingest_size(ing, NEON_KEY_REL_SIZE, rn->spcNode, rn->dbNode, rn->relNode,
									  VISIBILITYMAP_FORKNUM);

	if (size == NEON_SIZE_ABSENT)
		return;
	if (heap_blocks % HEAP_BLOCKS_PER_VM_PAGE != 0)
	{
		neon_key	key = ps_key(NEON_KEY_REL_BLOCK, rn->spcNode, rn->dbNode, rn->relNode, VISIBILITYMAP_FORKNUM, block);

		/* Redo clears the bits of the blocks that are gone. */
		if (block < size)
			ps_ingest_put_record(ing, &key, false);
		block++;
	}
	shrink(ing, rn, VISIBILITYMAP_FORKNUM, block);
}

void
ps_ingest_smgr(PsIngest *ing)
{
	uint8		info = ing->rec->info & ~XLR_INFO_MASK;

	if (info == XLOG_SMGR_CREATE)
	{
		xl_smgr_create create;
		RelFileNode *rn = &create.rnode;

		memcpy(&create, ps_ingest_main_data(ing, sizeof(create)), sizeof(create));
		if (create.forkNum < 0 || create.forkNum > MAX_FORKNUM)
			ps_ingest_corrupt(ing, "file creation names no possible fork");
		if (ps_ingest_size(ing, NEON_KEY_REL_SIZE, rn->spcNode, rn->dbNode, rn->relNode,
						   create.forkNum) == NEON_SIZE_ABSENT)
			ps_ingest_set_size(ing, NEON_KEY_REL_SIZE, rn->spcNode, rn->dbNode, rn->relNode, create.forkNum, 0);
	}
	else if (info == XLOG_SMGR_TRUNCATE)
	{
		xl_smgr_truncate trunc;
		RelFileNode *rn = &trunc.rnode;

		memcpy(&trunc, ps_ingest_main_data(ing, sizeof(trunc)), sizeof(trunc));
		if (trunc.flags & SMGR_TRUNCATE_HEAP)
			shrink(ing, rn, MAIN_FORKNUM, trunc.blkno);
		if (trunc.flags & SMGR_TRUNCATE_FSM)
			truncate_fsm(ing, rn, trunc.blkno);
		if (trunc.flags & SMGR_TRUNCATE_VM)
			truncate_vm(ing, rn, trunc.blkno);
	}
	else
		ps_ingest_corrupt(ing, "unknown storage record");
}

/* ---- databases ---- */

typedef struct ForkSize
{
	neon_key	key;
	uint32		nblocks;
} ForkSize;

typedef struct ForkList
{
	ForkSize   *forks;
	int			n;
	int			cap;
} ForkList;

static bool
collect_fork(const neon_key *key, const PsVersion *v, void *arg)
{
	ForkList   *list = arg;

	if (v->len != 4 || ps_get_be32(v->bytes) == NEON_SIZE_ABSENT)
		return true;
	if (list->n == list->cap)
	{
		list->cap *= 2;
		list->forks = repalloc_huge(list->forks, list->cap * sizeof(ForkSize));
	}
	list->forks[list->n].key = *key;
	list->forks[list->n++].nblocks = ps_get_be32(v->bytes);
	return true;
}

/* Relation forks of a database as of the record before. */
static ForkList
list_forks(PsIngest *ing, uint32 spc, uint32 db)
{
	neon_key	from = ps_key(NEON_KEY_REL_SIZE, spc, db, 0, 0, 0);
	neon_key	to = ps_key(NEON_KEY_REL_SIZE, spc, db, PG_UINT32_MAX, MAX_FORKNUM, PG_UINT32_MAX);
	ForkList	list = {.cap = 512};

	list.forks = palloc(list.cap * sizeof(ForkSize));
	ps_scan(ing->tl, &from, &to, ps_timeline_last_record_lsn(ing->tl), collect_fork, &list);
	return list;
}

static void
put_database(PsIngest *ing, uint32 spc, uint32 db, uint8 exists)
{
	neon_key	key = ps_key(NEON_KEY_DB, spc, db, 0, 0, 0);

	ps_ingest_put_image(ing, &key, &exists, 1);
}

static void
drop_forks(PsIngest *ing, uint32 spc, uint32 db)
{
	ForkList	list = list_forks(ing, spc, db);

	for (int i = 0; i < list.n; i++)
	{
		const neon_key *k = &list.forks[i].key;

		ps_ingest_cut(ing, spc, db, k->rel, k->fork, 0);
		ps_ingest_set_size(ing, NEON_KEY_REL_SIZE, spc, db, k->rel, k->fork, NEON_SIZE_ABSENT);
	}
	pfree(list.forks);
}

static bool
is_zero_page(const char *page)
{
	const uint64 *words = (const uint64 *) page;

	for (int i = 0; i < BLCKSZ / sizeof(uint64); i++)
		if (words[i] != 0)
			return false;
	return true;
}

/* CREATE DATABASE with STRATEGY FILE_COPY: the files of the template as of this record. */
static void
copy_database(PsIngest *ing, const xl_dbase_create_file_copy_rec *rec)
{
	XLogRecPtr	lsn = ps_timeline_last_record_lsn(ing->tl);
	ForkList	list = list_forks(ing, rec->src_tablespace_id, rec->src_db_id);
	neon_key	key = ps_key(NEON_KEY_RELMAP, rec->src_tablespace_id, rec->src_db_id, 0, 0, 0);
	uint32		len;
	uint8	   *map = ps_get_value(ing->tl, &key, lsn, &len, NULL);
	PGAlignedBlock page;

	if (map != NULL)
	{
		key = ps_key(NEON_KEY_RELMAP, rec->tablespace_id, rec->db_id, 0, 0, 0);
		ps_ingest_put_image(ing, &key, map, len);
	}
	for (int i = 0; i < list.n; i++)
	{
		neon_key   *from = &list.forks[i].key;

		for (uint32 blk = 0; blk < list.forks[i].nblocks; blk++)
		{
			neon_key	src = ps_key(NEON_KEY_REL_BLOCK, from->spc, from->db, from->rel, from->fork, blk);
			neon_key	dst = ps_key(NEON_KEY_REL_BLOCK, rec->tablespace_id, rec->db_id, from->rel, from->fork, blk);

			ps_get_page(ing->tl, &src, lsn, page.data);
			if (!is_zero_page(page.data))
				ps_ingest_put_image(ing, &dst, page.data, BLCKSZ);
		}
		ps_ingest_set_size(ing, NEON_KEY_REL_SIZE, rec->tablespace_id, rec->db_id, from->rel, from->fork,
						   list.forks[i].nblocks);
	}
	pfree(list.forks);
}

void
ps_ingest_dbase(PsIngest *ing)
{
	uint8		info = ing->rec->info & ~XLR_INFO_MASK;

	if (info == XLOG_DBASE_CREATE_FILE_COPY)
	{
		xl_dbase_create_file_copy_rec rec;

		memcpy(&rec, ps_ingest_main_data(ing, sizeof(rec)), sizeof(rec));
		ps_ingest_commit(ing);
		copy_database(ing, &rec);
		put_database(ing, rec.tablespace_id, rec.db_id, 1);
	}
	else if (info == XLOG_DBASE_CREATE_WAL_LOG)
	{
		xl_dbase_create_wal_log_rec rec;

		memcpy(&rec, ps_ingest_main_data(ing, sizeof(rec)), sizeof(rec));
		put_database(ing, rec.tablespace_id, rec.db_id, 1);
	}
	else if (info == XLOG_DBASE_DROP)
	{
		const xl_dbase_drop_rec *rec = (const xl_dbase_drop_rec *) ps_ingest_main_data(ing, MinSizeOfDbaseDropRec);

		if (rec->ntablespaces < 0 ||
			MinSizeOfDbaseDropRec + (uint64) rec->ntablespaces * sizeof(Oid) > ing->parsed.main_len)
			ps_ingest_corrupt(ing, "drop of a database is too short for its tablespaces");
		ps_ingest_commit(ing);
		for (int i = 0; i < rec->ntablespaces; i++)
		{
			drop_forks(ing, rec->tablespace_ids[i], rec->db_id);
			put_database(ing, rec->tablespace_ids[i], rec->db_id, 0);
		}
	}
	else
		ps_ingest_corrupt(ing, "unknown database record");
}

/* ---- relation maps ---- */

void
ps_ingest_relmap(PsIngest *ing)
{
	const xl_relmap_update *rec = (const xl_relmap_update *) ps_ingest_main_data(ing, MinSizeOfRelmapUpdate);
	neon_key	key = ps_key(NEON_KEY_RELMAP, rec->tsid, rec->dbid, 0, 0, 0);

	if ((ing->rec->info & ~XLR_INFO_MASK) != XLOG_RELMAP_UPDATE)
		ps_ingest_corrupt(ing, "unknown relation map record");
	if (rec->nbytes <= 0 || MinSizeOfRelmapUpdate + (uint64) rec->nbytes > ing->parsed.main_len)
		ps_ingest_corrupt(ing, "relation map is cut short");
	ps_ingest_put_image(ing, &key, rec->data, rec->nbytes);
}
