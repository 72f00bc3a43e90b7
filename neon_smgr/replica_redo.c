/*
 * replica_redo.c - redo in a replica: only what somebody has in shared_buffers is redone; and what a replica is not asked to do.
 *
 * Every resource manager's redo function is wrapped.  For a record with block references, in the startup process:
 *
 *  1. conflicts with snapshots are resolved as the record's own redo would (it may do it once more: that changes nothing);
 *  2. the mapping partitions of all its pages are locked (shared), those of the visibility map pages whose bits it clears without naming
 *     them included, and the pages are looked up;
 *  3. a page of the record is there: the locks go, the stock redo function runs, replay_lsn is published afterwards.  It reads the pages that
 *     are missing as they were before the record;
 *  4. none is there, but a page of the visibility map is: the locks go, its bits are cleared, and back to 2;
 *  5. none is there: what is remembered of them is corrected and replay_lsn is published while the locks are held.
 *
 * A backend that wants a page enters it into the mapping before it reads it.  So it is either seen in 2, or waits for the locks and reads the
 * page as of the new replay_lsn.
 *
 * Records without block references, and those of resource managers that are not PostgreSQL's own, are redone as ever.
 *
 * It does not leave recovery (standby.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/gistxlog.h"
#include "access/hash_xlog.h"
#include "access/heapam_xlog.h"
#include "access/nbtxlog.h"
#include "access/rmgr.h"
#include "access/spgxlog.h"
#include "access/visibilitymap.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "catalog/pg_control.h"
#include "commands/dbcommands_xlog.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "storage/buf_internals.h"
#include "storage/standby.h"
#include "utils/rel.h"

#include "replica.h"

#define MAX_MAP_PAGES	2		/* an update clears bits of two heap pages */
#define MAX_PAGES		(XLR_MAX_BLOCK_ID + 1 + MAX_MAP_PAGES)
#define HEAP_PAGES_A_MAP_PAGE	((BLCKSZ - MAXALIGN(SizeOfPageHeaderData)) * (BITS_PER_BYTE / BITS_PER_HEAPBLOCK))

/* A page that the record changes. */
typedef struct Touched
{
	BufferTag	tag;
	uint32		hash;
	bool		may_extend;
} Touched;

/* A heap page whose bits in the visibility map the record clears without naming the map's page. */
typedef struct MapClear
{
	BlockNumber heap_block;
	uint8		bits;
	bool		done;
} MapClear;

typedef struct Record
{
	XLogReaderState *reader;
	int			npages;			/* named by the record; the map's follow */
	int			nclears;
	Touched		pages[MAX_PAGES];
	MapClear	clears[MAX_MAP_PAGES];
	int			npartitions;
	int			partitions[MAX_PAGES];
} Record;

static void (*original_redo[RM_MAX_ID + 1]) (XLogReaderState *reader);

static NeonRel
rel_of(RelFileNode node)
{
	NeonRel		rel = {.spc = node.spcNode,.db = node.dbNode,.rel = node.relNode};

	return rel;
}

/* ---- what a record touches ---- */

static void
add_page(Record *r, RelFileNode node, ForkNumber fork, BlockNumber block, bool may_extend)
{
	Touched    *t = &r->pages[r->npages + r->nclears];
	int			partition;

	INIT_BUFFERTAG(t->tag, node, fork, block);
	t->hash = BufTableHashCode(&t->tag);
	/* The server makes pages of these two forks as it needs them. */
	t->may_extend = may_extend || fork == FSM_FORKNUM || fork == VISIBILITYMAP_FORKNUM;
	partition = BufTableHashPartition(t->hash);
	for (int i = 0; i < r->npartitions; i++)
		if (r->partitions[i] == partition)
			return;
	r->partitions[r->npartitions++] = partition;
}

static void
add_clear(Record *r, RelFileNode node, BlockNumber heap_block, uint8 bits)
{
	add_page(r, node, VISIBILITYMAP_FORKNUM, heap_block / HEAP_PAGES_A_MAP_PAGE, false);
	r->clears[r->nclears++] = (MapClear)
	{
		.heap_block = heap_block,
			.bits = bits
	};
}

static void
add_named_pages(Record *r)
{
	for (int i = 0; i <= XLogRecMaxBlockId(r->reader); i++)
	{
		RelFileNode node;
		ForkNumber	fork;
		BlockNumber block;

		if (!XLogRecGetBlockTagExtended(r->reader, i, &node, &fork, &block, NULL))
			continue;
		add_page(r, node, fork, block,
				 XLogRecHasBlockImage(r->reader, i) || (XLogRecGetBlock(r->reader, i)->flags & BKPBLOCK_WILL_INIT) != 0);
		r->npages++;
	}
}

static void
add_heap_clears(Record *r)
{
	XLogReaderState *reader = r->reader;
	const char *data = XLogRecGetData(reader);
	RelFileNode node;
	BlockNumber block,
				old_block;

	XLogRecGetBlockTag(reader, 0, &node, NULL, &block);
	switch (XLogRecGetInfo(reader) & XLOG_HEAP_OPMASK)
	{
		case XLOG_HEAP_INSERT:
			if (((const xl_heap_insert *) data)->flags & XLH_INSERT_ALL_VISIBLE_CLEARED)
				add_clear(r, node, block, VISIBILITYMAP_VALID_BITS);
			break;
		case XLOG_HEAP_DELETE:
			if (((const xl_heap_delete *) data)->flags & XLH_DELETE_ALL_VISIBLE_CLEARED)
				add_clear(r, node, block, VISIBILITYMAP_VALID_BITS);
			break;
		case XLOG_HEAP_UPDATE:
		case XLOG_HEAP_HOT_UPDATE:
			old_block = block;
			if (XLogRecHasBlockRef(reader, 1))
				XLogRecGetBlockTag(reader, 1, NULL, NULL, &old_block);
			if (((const xl_heap_update *) data)->flags & XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED)
				add_clear(r, node, old_block, VISIBILITYMAP_VALID_BITS);
			if (((const xl_heap_update *) data)->flags & XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED)
				add_clear(r, node, block, VISIBILITYMAP_VALID_BITS);
			break;
		case XLOG_HEAP_LOCK:
			if (((const xl_heap_lock *) data)->flags & XLH_LOCK_ALL_FROZEN_CLEARED)
				add_clear(r, node, block, VISIBILITYMAP_ALL_FROZEN);
			break;
	}
}

static void
add_heap2_clears(Record *r)
{
	XLogReaderState *reader = r->reader;
	const char *data = XLogRecGetData(reader);
	RelFileNode node;
	BlockNumber block;

	XLogRecGetBlockTag(reader, 0, &node, NULL, &block);
	switch (XLogRecGetInfo(reader) & XLOG_HEAP_OPMASK)
	{
		case XLOG_HEAP2_MULTI_INSERT:
			if (((const xl_heap_multi_insert *) data)->flags & XLH_INSERT_ALL_VISIBLE_CLEARED)
				add_clear(r, node, block, VISIBILITYMAP_VALID_BITS);
			break;
		case XLOG_HEAP2_LOCK_UPDATED:
			if (((const xl_heap_lock_updated *) data)->flags & XLH_LOCK_ALL_FROZEN_CLEARED)
				add_clear(r, node, block, VISIBILITYMAP_ALL_FROZEN);
			break;
	}
}

static int
compare_ints(const void *a, const void *b)
{
	return *(const int *) a - *(const int *) b;
}

static void
read_record(Record *r, XLogReaderState *reader)
{
	r->reader = reader;
	r->npages = r->nclears = r->npartitions = 0;
	add_named_pages(r);
	if (r->npages > 0 && XLogRecHasBlockRef(reader, 0))
	{
		if (XLogRecGetRmid(reader) == RM_HEAP_ID)
			add_heap_clears(r);
		else if (XLogRecGetRmid(reader) == RM_HEAP2_ID)
			add_heap2_clears(r);
	}
	qsort(r->partitions, r->npartitions, sizeof(int), compare_ints);
}

/* ---- conflicts with snapshots, as each redo function resolves them ---- */

static TransactionId
heap2_horizon(XLogReaderState *reader)
{
	const char *data = XLogRecGetData(reader);
	TransactionId xid;

	switch (XLogRecGetInfo(reader) & XLOG_HEAP_OPMASK)
	{
		case XLOG_HEAP2_PRUNE:
			return ((const xl_heap_prune *) data)->latestRemovedXid;
		case XLOG_HEAP2_FREEZE_PAGE:
			xid = ((const xl_heap_freeze_page *) data)->cutoff_xid;
			TransactionIdRetreat(xid);
			return xid;
		case XLOG_HEAP2_VISIBLE:
			return ((const xl_heap_visible *) data)->cutoff_xid;
	}
	return InvalidTransactionId;
}

static TransactionId
snapshot_horizon(XLogReaderState *reader)
{
	uint8		info = XLogRecGetInfo(reader) & ~XLR_INFO_MASK;
	const char *data = XLogRecGetData(reader);

	switch (XLogRecGetRmid(reader))
	{
		case RM_HEAP2_ID:
			return heap2_horizon(reader);
		case RM_BTREE_ID:
			return info == XLOG_BTREE_DELETE ? ((const xl_btree_delete *) data)->latestRemovedXid : InvalidTransactionId;
		case RM_GIST_ID:
			return info == XLOG_GIST_DELETE ? ((const gistxlogDelete *) data)->latestRemovedXid : InvalidTransactionId;
		case RM_HASH_ID:
			return info == XLOG_HASH_VACUUM_ONE_PAGE ? ((const xl_hash_vacuum_one_page *) data)->latestRemovedXid :
				InvalidTransactionId;
		case RM_SPGIST_ID:
			return info == XLOG_SPGIST_VACUUM_REDIRECT ? ((const spgxlogVacuumRedirect *) data)->newestRedirectXid :
				InvalidTransactionId;
	}
	return InvalidTransactionId;
}

static void
resolve_conflicts(Record *r)
{
	TransactionId horizon = InHotStandby ? snapshot_horizon(r->reader) : InvalidTransactionId;

	/* All pages of these records are of one relation. */
	if (TransactionIdIsValid(horizon))
		ResolveRecoveryConflictWithSnapshot(horizon, r->pages[0].tag.rnode);
}

/* ---- redo ---- */

static void
note_changes(Record *r)
{
	for (int i = 0; i < r->npages + r->nclears; i++)
	{
		const Touched *t = &r->pages[i];
		NeonRel		rel = rel_of(t->tag.rnode);

		replica_note_change(&rel, t->tag.forkNum, t->tag.blockNum, t->may_extend);
	}
}

/* Nobody has these pages: they are read as of this record's end from now on. */
static void
note_skipped(Record *r)
{
	for (int i = 0; i < r->npages + r->nclears; i++)
	{
		const Touched *t = &r->pages[i];
		NeonRel		rel = rel_of(t->tag.rnode);

		/* In recovery the storage manager believes the size it has seen. */
		if (replica_note_skipped(&rel, t->tag.forkNum, t->tag.blockNum, t->may_extend))
			smgropen(t->tag.rnode, InvalidBackendId)->smgr_cached_nblocks[t->tag.forkNum] = InvalidBlockNumber;
	}
}

static void
clear_map_bits(Record *r, MapClear *c)
{
	Relation	rel = CreateFakeRelcacheEntry(r->pages[0].tag.rnode);
	Buffer		map = InvalidBuffer;

	visibilitymap_pin(rel, c->heap_block, &map);
	visibilitymap_clear(rel, c->heap_block, map, c->bits);
	ReleaseBuffer(map);
	FreeFakeRelcacheEntry(rel);
	c->done = true;
}

static bool
in_buffers(const Touched *t)
{
	return BufTableLookup(unconstify(BufferTag *, &t->tag), t->hash) >= 0;
}

/* true: nothing is left to be done, and the record's end is published.  false: run the stock redo function. */
static bool
skip_record(Record *r, bool *map_only)
{
	*map_only = false;
	for (;;)
	{
		bool		run = false;
		MapClear   *clear = NULL;

		for (int i = 0; i < r->npartitions; i++)
			LWLockAcquire(BufMappingPartitionLockByIndex(r->partitions[i]), LW_SHARED);
		for (int i = 0; i < r->npages && !run; i++)
			run = in_buffers(&r->pages[i]);
		for (int i = 0; i < r->nclears && !run && clear == NULL; i++)
			if (!r->clears[i].done && in_buffers(&r->pages[r->npages + i]))
				clear = &r->clears[i];
		if (!run && clear == NULL)
		{
			note_skipped(r);
			replica_publish(r->reader->EndRecPtr);
		}
		for (int i = r->npartitions - 1; i >= 0; i--)
			LWLockRelease(BufMappingPartitionLockByIndex(r->partitions[i]));
		if (run)
			return false;
		if (clear == NULL)
			return true;
		*map_only = true;
		clear_map_bits(r, clear);
	}
}

static void
redo_without_pages(XLogReaderState *reader)
{
	uint8		rmid = XLogRecGetRmid(reader);

	original_redo[rmid] (reader);
	if (rmid == RM_DBASE_ID && (XLogRecGetInfo(reader) & ~XLR_INFO_MASK) == XLOG_DBASE_DROP)
		replica_drop_database(((const xl_dbase_drop_rec *) XLogRecGetData(reader))->db_id);
	replica_publish(reader->EndRecPtr);
}

static void
replica_redo(XLogReaderState *reader)
{
	static Record r;
	bool		map_only;

	read_record(&r, reader);
	/* It may wait for queries, which until then must see no page as of this record. */
	if (r.npages > 0)
		resolve_conflicts(&r);
	replica_begin_redo(reader->EndRecPtr);
	if (r.npages == 0)
	{
		redo_without_pages(reader);
		return;
	}
	note_changes(&r);
	if (XLogRecGetRmid(reader) <= RM_MAX_BUILTIN_ID && skip_record(&r, &map_only))
	{
		/* nothing to compare with the record's images */
		reader->record->header.xl_info &= ~XLR_CHECK_CONSISTENCY;
		replica_count(false, map_only);
		return;
	}
	original_redo[XLogRecGetRmid(reader)] (reader);
	replica_publish(reader->EndRecPtr);
	replica_count(true, false);
}

/* ---- start ---- */

void
replica_refuse(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
			 errmsg("a replica cannot write"),
			 errhint("Connect to the branch's read-write endpoint.")));
}

XLogRecPtr
replica_start_lsn(void)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);
	XLogRecPtr	lsn;
	struct stat st;

	if (!crc_ok)
		ereport(FATAL, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("the control file is damaged: its checksum does not fit")));
	/* After a stop, redo would go on behind the pages that this server remembered. */
	if (control->state != DB_SHUTDOWNED || stat("standby.signal", &st) != 0 || stat("recovery.signal", &st) == 0)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this data directory is not that of a new replica"),
				 errhint("Start the replica with a new data directory from a base backup.")));
	lsn = neon_pull_back_lsn(control->checkPointCopy.redo);
	pfree(control);
	return lsn;
}

/* The table is the server's to be extended, so there is nothing to be verified. */
void
replica_install(void)
{
	for (int i = 0; i <= RM_MAX_ID; i++)
	{
		if (RmgrTable[i].rm_name == NULL)
			continue;
		original_redo[i] = RmgrTable[i].rm_redo;
		RmgrTable[i].rm_redo = replica_redo;
	}
}
