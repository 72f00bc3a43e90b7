/*
 * ps_ingest_block.c - block references: images restored, records kept, visibility map bits cleared by heap records.
 *
 * A heap record that clears all-visible or all-frozen bits does not name the visibility map block it changes; the same
 * record is kept as a version of that block too, and redo clears the bits of the heap blocks it names.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/heapam_xlog.h"
#include "access/rmgr.h"
#include "access/visibilitymapdefs.h"
#include "access/xlogrecord.h"
#include "storage/bufpage.h"

#include "ps_ingest.h"
#include "ps_redo.h"

/* Heap blocks one visibility map page covers; visibilitymap.c keeps it to itself. */
#define HEAP_BLOCKS_PER_VM_PAGE \
	((BLCKSZ - MAXALIGN(SizeOfPageHeaderData)) * (BITS_PER_BYTE / BITS_PER_HEAPBLOCK))

/* The page as it is after the record: with the record's LSN, unless it is new. */
static void
restore_image(PsIngest *ing, const neon_wal_block *b, char page[BLCKSZ])
{
	const char *reason;

	if (!ps_redo_restore_image(b, page, &reason))
		ps_ingest_corrupt(ing, reason);
	if (!PageIsNew((Page) page))
		PageSetLSN((Page) page, ing->rec->end);
}

void
ps_ingest_blocks(PsIngest *ing)
{
	uint8		info = ing->rec->info & ~XLR_INFO_MASK;
	bool		is_fpi = ing->rec->rmid == RM_XLOG_ID && (info == XLOG_FPI || info == XLOG_FPI_FOR_HINT);

	for (int i = 0; i < ing->parsed.nblocks; i++)
	{
		const neon_wal_block *b = &ing->parsed.blocks[i];
		neon_key	key = ps_key(NEON_KEY_REL_BLOCK, b->spc, b->db, b->rel, b->fork, b->blk);

		if (b->fork > MAX_FORKNUM || b->blk == InvalidBlockNumber)
			ps_ingest_corrupt(ing, "block reference names no possible block");
		if (is_fpi && !b->has_image)
		{
			if (info == XLOG_FPI)
				ps_ingest_corrupt(ing, "full-page image record without an image");
			continue;			/* a hint with full_page_writes off changes nothing */
		}

		ps_ingest_extend(ing, NEON_KEY_REL_SIZE, b->spc, b->db, b->rel, b->fork, b->blk);
		if (b->has_image && (b->apply_image || is_fpi))
		{
			char		page[BLCKSZ];

			restore_image(ing, b, page);
			ps_ingest_put_image(ing, &key, page, BLCKSZ);
		}
		else
			ps_ingest_put_record(ing, &key, b->will_init);
	}
}

/* ---- visibility map ---- */

static const neon_wal_block *
block_by_id(PsIngest *ing, uint8 id)
{
	for (int i = 0; i < ing->parsed.nblocks; i++)
		if (ing->parsed.blocks[i].id == id)
			return &ing->parsed.blocks[i];
	return NULL;
}

static void
clear_bits(PsIngest *ing, const neon_wal_block *heap, uint32 map_block)
{
	neon_key	key = ps_key(NEON_KEY_REL_BLOCK, heap->spc, heap->db, heap->rel, VISIBILITYMAP_FORKNUM, map_block);
	uint32		size = ps_ingest_size(ing, NEON_KEY_REL_SIZE, heap->spc, heap->db, heap->rel, VISIBILITYMAP_FORKNUM);

	if (size == NEON_SIZE_ABSENT || map_block >= size)
	{
		/* Nothing to clear in a page that does not exist; a sign of trouble elsewhere, but no reason to stop. */
		ereport(LOG,
				(errmsg("WAL record at %X/%X clears visibility of block %u of relation %u/%u/%u, beyond its visibility map",
						LSN_FORMAT_ARGS((XLogRecPtr) ing->rec->start), heap->blk, heap->spc, heap->db, heap->rel)));
		return;
	}
	ps_ingest_put_record(ing, &key, false);
}

/* Which of the record's heap blocks (block ids 0 and 1) lose visibility bits. */
static void
cleared_blocks(PsIngest *ing, bool *block0, bool *block1)
{
	uint8		op = ing->rec->info & XLOG_HEAP_OPMASK;
	const uint8 *data;

	*block0 = *block1 = false;
	if (ing->rec->rmid == RM_HEAP2_ID)
	{
		if (op == XLOG_HEAP2_MULTI_INSERT)
		{
			data = ps_ingest_main_data(ing, SizeOfHeapMultiInsert);
			*block0 = (((const xl_heap_multi_insert *) data)->flags & XLH_INSERT_ALL_VISIBLE_CLEARED) != 0;
		}
		else if (op == XLOG_HEAP2_LOCK_UPDATED)
		{
			data = ps_ingest_main_data(ing, SizeOfHeapLockUpdated);
			*block0 = (((const xl_heap_lock_updated *) data)->flags & XLH_LOCK_ALL_FROZEN_CLEARED) != 0;
		}
		return;
	}

	switch (op)
	{
		case XLOG_HEAP_INSERT:
			data = ps_ingest_main_data(ing, SizeOfHeapInsert);
			*block0 = (((const xl_heap_insert *) data)->flags & XLH_INSERT_ALL_VISIBLE_CLEARED) != 0;
			break;
		case XLOG_HEAP_DELETE:
			data = ps_ingest_main_data(ing, SizeOfHeapDelete);
			*block0 = (((const xl_heap_delete *) data)->flags & XLH_DELETE_ALL_VISIBLE_CLEARED) != 0;
			break;
		case XLOG_HEAP_LOCK:
			data = ps_ingest_main_data(ing, SizeOfHeapLock);
			*block0 = (((const xl_heap_lock *) data)->flags & XLH_LOCK_ALL_FROZEN_CLEARED) != 0;
			break;
		case XLOG_HEAP_UPDATE:
		case XLOG_HEAP_HOT_UPDATE:
			{
				const xl_heap_update *upd;

				data = ps_ingest_main_data(ing, SizeOfHeapUpdate);
				upd = (const xl_heap_update *) data;
				*block0 = (upd->flags & XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED) != 0;
				/* Without a block 1 the old tuple is on block 0 as well. */
				if (upd->flags & XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED)
				{
					if (block_by_id(ing, 1) != NULL)
						*block1 = true;
					else
						*block0 = true;
				}
			}
			break;
		default:
			break;
	}
}

void
ps_ingest_visibility(PsIngest *ing)
{
	bool		clear[2];
	uint32		done = InvalidBlockNumber;

	cleared_blocks(ing, &clear[0], &clear[1]);
	for (uint8 id = 0; id < 2; id++)
	{
		const neon_wal_block *heap;
		uint32		map_block;

		if (!clear[id])
			continue;
		heap = block_by_id(ing, id);
		if (heap == NULL)
			ps_ingest_corrupt(ing, "heap record has no block reference");
		map_block = heap->blk / HEAP_BLOCKS_PER_VM_PAGE;
		if (map_block != done)
			clear_bits(ing, heap, map_block);
		done = map_block;
	}
}
