/*
 * ps_redo_vm.c - visibility map pages: set by heap2 VISIBLE, cleared by flags of heap records, cut by truncation.
 *
 * The server changes these pages as a side effect: only VISIBLE refers to them as a block.  The others name heap blocks whose
 * map page follows by arithmetic, so that one record may clear bits of two heap blocks (an update) in one map page.
 * A map page that no record has touched is zero; it is initialised here by the first one.
 *
 * Deviation from the server on purpose: the page's LSN is set on every change (set by the caller), clears and truncations
 * included; and VISIBLE records with the same flags already there still raise it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo.h"

#include "access/heapam_xlog.h"
#include "access/rmgr.h"
#include "access/visibilitymapdefs.h"
#include "catalog/storage_xlog.h"

/* As in visibilitymap.c, where they are private. */
#define MAP_BYTES				(BLCKSZ - MAXALIGN(SizeOfPageHeaderData))
#define HEAP_BLOCKS_PER_BYTE	(8 / BITS_PER_HEAPBLOCK)
#define HEAP_BLOCKS_PER_PAGE	(MAP_BYTES * HEAP_BLOCKS_PER_BYTE)

static uint8 *
map_bytes(char *page)
{
	return (uint8 *) page + MAXALIGN(SizeOfPageHeaderData);
}

static void
clear_block(PsRedoOp *op, BlockNumber heap_block, uint8 flags)
{
	uint32		in_page = heap_block % HEAP_BLOCKS_PER_PAGE;

	if (heap_block / HEAP_BLOCKS_PER_PAGE != op->key->blk)
		return;
	map_bytes(op->page)[in_page / HEAP_BLOCKS_PER_BYTE] &=
		~(flags << (in_page % HEAP_BLOCKS_PER_BYTE * BITS_PER_HEAPBLOCK));
}

static PsRedoStatus
vm_visible(PsRedoOp *op)
{
	const neon_wal_parsed *p = op->parsed;
	xl_heap_visible rec;
	uint32		in_page;

	if (!ps_redo_main(op, &rec, SizeOfHeapVisible) || p->nblocks < 2 || p->blocks[1].id != 1)
		return ps_redo_corrupt(op, "heap visible is too short");
	if (op->block == NULL || op->block->id != 0 || p->blocks[1].blk / HEAP_BLOCKS_PER_PAGE != op->key->blk)
		return ps_redo_corrupt(op, "heap visible is for another map page");
	in_page = p->blocks[1].blk % HEAP_BLOCKS_PER_PAGE;
	map_bytes(op->page)[in_page / HEAP_BLOCKS_PER_BYTE] |=
		(rec.flags & VISIBILITYMAP_VALID_BITS) << (in_page % HEAP_BLOCKS_PER_BYTE * BITS_PER_HEAPBLOCK);
	return PS_REDO_DONE;
}

static PsRedoStatus
vm_update(PsRedoOp *op)
{
	const neon_wal_parsed *p = op->parsed;
	xl_heap_update rec;
	BlockNumber newblk = p->blocks[0].blk;
	BlockNumber oldblk = p->nblocks > 1 && p->blocks[1].id == 1 ? p->blocks[1].blk : newblk;

	if (!ps_redo_main(op, &rec, SizeOfHeapUpdate))
		return ps_redo_corrupt(op, "heap update is too short");
	if (rec.flags & XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED)
		clear_block(op, oldblk, VISIBILITYMAP_VALID_BITS);
	if (rec.flags & XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED)
		clear_block(op, newblk, VISIBILITYMAP_VALID_BITS);
	return PS_REDO_DONE;
}

static PsRedoStatus
vm_heap(PsRedoOp *op)
{
	BlockNumber heap_block = op->parsed->blocks[0].blk;
	xl_heap_insert insert;
	xl_heap_delete delete;
	xl_heap_lock lock;

	switch (op->info & XLOG_HEAP_OPMASK)
	{
		case XLOG_HEAP_INSERT:
			if (!ps_redo_main(op, &insert, SizeOfHeapInsert))
				return ps_redo_corrupt(op, "heap insert is too short");
			if (insert.flags & XLH_INSERT_ALL_VISIBLE_CLEARED)
				clear_block(op, heap_block, VISIBILITYMAP_VALID_BITS);
			return PS_REDO_DONE;
		case XLOG_HEAP_DELETE:
			if (!ps_redo_main(op, &delete, SizeOfHeapDelete))
				return ps_redo_corrupt(op, "heap delete is too short");
			if (delete.flags & XLH_DELETE_ALL_VISIBLE_CLEARED)
				clear_block(op, heap_block, VISIBILITYMAP_VALID_BITS);
			return PS_REDO_DONE;
		case XLOG_HEAP_UPDATE:
		case XLOG_HEAP_HOT_UPDATE:
			return vm_update(op);
		case XLOG_HEAP_LOCK:
			if (!ps_redo_main(op, &lock, SizeOfHeapLock))
				return ps_redo_corrupt(op, "heap lock is too short");
			if (lock.flags & XLH_LOCK_ALL_FROZEN_CLEARED)
				clear_block(op, heap_block, VISIBILITYMAP_ALL_FROZEN);
			return PS_REDO_DONE;
		default:
			return ps_redo_corrupt(op, "this heap record does not change the visibility map");
	}
}

static PsRedoStatus
vm_heap2(PsRedoOp *op)
{
	BlockNumber heap_block = op->parsed->blocks[0].blk;
	xl_heap_multi_insert insert;
	xl_heap_lock_updated lock;

	switch (op->info & XLOG_HEAP_OPMASK)
	{
		case XLOG_HEAP2_VISIBLE:
			return vm_visible(op);
		case XLOG_HEAP2_MULTI_INSERT:
			if (!ps_redo_main(op, &insert, SizeOfHeapMultiInsert))
				return ps_redo_corrupt(op, "heap multi-insert is too short");
			if (insert.flags & XLH_INSERT_ALL_VISIBLE_CLEARED)
				clear_block(op, heap_block, VISIBILITYMAP_VALID_BITS);
			return PS_REDO_DONE;
		case XLOG_HEAP2_LOCK_UPDATED:
			if (!ps_redo_main(op, &lock, SizeOfHeapLockUpdated))
				return ps_redo_corrupt(op, "heap lock of an updated tuple is too short");
			if (lock.flags & XLH_LOCK_ALL_FROZEN_CLEARED)
				clear_block(op, heap_block, VISIBILITYMAP_ALL_FROZEN);
			return PS_REDO_DONE;
		default:
			return ps_redo_corrupt(op, "this heap2 record does not change the visibility map");
	}
}

/* Bits of heap blocks from the new end on are cleared; the page stays only if it has bits below the end. */
static PsRedoStatus
vm_truncate(PsRedoOp *op)
{
	xl_smgr_truncate rec;
	uint64		first = (uint64) op->key->blk * HEAP_BLOCKS_PER_PAGE;
	uint8	   *map = map_bytes(op->page);
	uint32		keep;

	if ((op->info & ~XLR_INFO_MASK) != XLOG_SMGR_TRUNCATE || !ps_redo_main(op, &rec, sizeof(rec)))
		return ps_redo_corrupt(op, "storage record on a visibility map page is no truncation");
	if (rec.rnode.spcNode != op->key->spc || rec.rnode.dbNode != op->key->db || rec.rnode.relNode != op->key->rel)
		return ps_redo_corrupt(op, "truncation is of another relation");
	if ((rec.flags & SMGR_TRUNCATE_VM) == 0 || rec.blkno >= first + HEAP_BLOCKS_PER_PAGE)
		return PS_REDO_DONE;

	keep = rec.blkno > first ? (uint32) (rec.blkno - first) : 0;
	if (keep % HEAP_BLOCKS_PER_BYTE != 0)
	{
		map[keep / HEAP_BLOCKS_PER_BYTE] &= (1 << (keep % HEAP_BLOCKS_PER_BYTE * BITS_PER_HEAPBLOCK)) - 1;
		keep += HEAP_BLOCKS_PER_BYTE - keep % HEAP_BLOCKS_PER_BYTE;
	}
	memset(map + keep / HEAP_BLOCKS_PER_BYTE, 0, MAP_BYTES - keep / HEAP_BLOCKS_PER_BYTE);
	return PS_REDO_DONE;
}

PsRedoStatus
ps_redo_vm(PsRedoOp *op)
{
	if (ps_page_is_new(op->page))
		ps_page_init(op->page, 0);
	if (op->rmid == RM_SMGR_ID)
		return vm_truncate(op);

	if (op->parsed->nblocks == 0 || op->parsed->blocks[0].id != 0 || !ps_redo_block_is_rel(&op->parsed->blocks[0], op->key))
		return ps_redo_corrupt(op, "record is of another relation than the visibility map page");
	if (op->rmid == RM_HEAP_ID)
		return vm_heap(op);
	if (op->rmid == RM_HEAP2_ID)
		return vm_heap2(op);
	return ps_redo_corrupt(op, "this resource manager does not change the visibility map");
}
