/*
 * ps_redo_heap2.c - native redo of the heap2 resource manager: multi-insert, prune, vacuum, freeze, lock of updated tuples,
 * and the heap page's side of visible.
 *
 * See ps_redo_heap.c.  heap2 VISIBLE sets PD_ALL_VISIBLE; the page's LSN is set too, though a server without checksums and
 * wal_log_hints does not, see ps_redo_native.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo.h"

#include "access/heapam_xlog.h"

/* One tuple of a multi-insert; *pos is its place in the block's data, where it is 2-aligned. */
static PsRedoStatus
insert_one(PsRedoOp *op, uint32 *pos, OffsetNumber offset)
{
	const neon_wal_block *b = op->block;
	xl_multi_insert_tuple header;
	PsTupleBuffer tuple;
	uint32		at = SHORTALIGN(*pos);

	if (at + SizeOfMultiInsertTuple > b->data_len)
		return ps_redo_corrupt(op, "heap multi-insert ends inside a tuple header");
	memcpy(&header, b->data + at, SizeOfMultiInsertTuple);
	at += SizeOfMultiInsertTuple;
	if (at + header.datalen > b->data_len || header.datalen > MaxHeapTupleSize - SizeofHeapTupleHeader)
		return ps_redo_corrupt(op, "heap multi-insert ends inside a tuple");

	memset(&tuple.header, 0, SizeofHeapTupleHeader);
	memcpy(tuple.data + SizeofHeapTupleHeader, b->data + at, header.datalen);
	tuple.header.t_infomask2 = header.t_infomask2;
	tuple.header.t_infomask = header.t_infomask;
	tuple.header.t_hoff = header.t_hoff;
	HeapTupleHeaderSetXmin(&tuple.header, op->xid);
	HeapTupleHeaderSetCmin(&tuple.header, FirstCommandId);
	ItemPointerSet(&tuple.header.t_ctid, op->key->blk, offset);

	*pos = at + header.datalen;
	if (!ps_page_add_heap_item(op->page, tuple.data, SizeofHeapTupleHeader + header.datalen, offset))
		return ps_redo_corrupt(op, "tuple of heap multi-insert does not fit the page");
	return PS_REDO_DONE;
}

static PsRedoStatus
heap_multi_insert(PsRedoOp *op)
{
	xl_heap_multi_insert rec;
	bool		init = (op->info & XLOG_HEAP_INIT_PAGE) != 0;
	uint32		pos = 0;

	if (!ps_redo_main(op, &rec, SizeOfHeapMultiInsert) || op->block->id != 0 ||
		(!init && op->parsed->main_len < SizeOfHeapMultiInsert + rec.ntuples * sizeof(OffsetNumber)))
		return ps_redo_corrupt(op, "heap multi-insert is too short");
	if (init)
		ps_page_init(op->page, 0);

	for (uint32 i = 0; i < rec.ntuples; i++)
	{
		OffsetNumber offset = (OffsetNumber) (FirstOffsetNumber + i);
		PsRedoStatus status;

		if (!init)
			memcpy(&offset, op->parsed->main_data + SizeOfHeapMultiInsert + i * sizeof(OffsetNumber), sizeof(offset));
		status = insert_one(op, &pos, offset);
		if (status != PS_REDO_DONE)
			return status;
	}
	if (pos != op->block->data_len)
		return ps_redo_corrupt(op, "heap multi-insert has bytes after its last tuple");

	if (rec.flags & XLH_INSERT_ALL_VISIBLE_CLEARED)
		PageClearAllVisible(op->page);
	if (rec.flags & XLH_INSERT_ALL_FROZEN_SET)
		PageSetAllVisible(op->page);
	return PS_REDO_DONE;
}

/* The offsets in the block's data, each checked against the page; NULL when one is not there. */
static ItemId
nth_item(PsRedoOp *op, uint32 n, OffsetNumber *offset)
{
	memcpy(offset, op->block->data + n * sizeof(OffsetNumber), sizeof(OffsetNumber));
	return ps_page_item(op->page, *offset);
}

static PsRedoStatus
heap_prune(PsRedoOp *op)
{
	xl_heap_prune rec;
	uint32		total = op->block->data_len / sizeof(OffsetNumber);
	uint32		n = 0;
	OffsetNumber offset;
	OffsetNumber target;
	ItemId		lp;

	if (!ps_redo_main(op, &rec, SizeOfHeapPrune) || (uint32) rec.nredirected * 2 + rec.ndead > total)
		return ps_redo_corrupt(op, "heap prune is too short");

	while (n < total)
	{
		lp = nth_item(op, n, &offset);
		if (lp == NULL)
			return ps_redo_corrupt(op, "heap prune names a line pointer that is not there");
		if (n < (uint32) rec.nredirected * 2)
		{
			if (nth_item(op, n + 1, &target) == NULL)
				return ps_redo_corrupt(op, "heap prune redirects to a line pointer that is not there");
			ItemIdSetRedirect(lp, target);
			n += 2;
			continue;
		}
		if (n < (uint32) rec.nredirected * 2 + rec.ndead)
			ItemIdSetDead(lp);
		else
			ItemIdSetUnused(lp);
		n++;
	}
	if (!ps_page_repair_fragmentation(op->page))
		return ps_redo_corrupt(op, "line pointers of the pruned page do not fit the page");
	return PS_REDO_DONE;
}

static PsRedoStatus
heap_vacuum(PsRedoOp *op)
{
	xl_heap_vacuum rec;

	if (!ps_redo_main(op, &rec, SizeOfHeapVacuum) || op->block->data_len < rec.nunused * sizeof(OffsetNumber))
		return ps_redo_corrupt(op, "heap vacuum is too short");
	if (!ps_page_header_ok(op->page))
		return ps_redo_corrupt(op, "header of the vacuumed page is not valid");
	for (uint32 i = 0; i < rec.nunused; i++)
	{
		OffsetNumber offset;
		ItemId		lp = nth_item(op, i, &offset);

		if (lp == NULL)
			return ps_redo_corrupt(op, "heap vacuum names a line pointer that is not there");
		ItemIdSetUnused(lp);
	}
	ps_page_truncate_line_pointers(op->page);
	return PS_REDO_DONE;
}

static PsRedoStatus
heap_freeze_page(PsRedoOp *op)
{
	xl_heap_freeze_page rec;

	if (!ps_redo_main(op, &rec, SizeOfHeapFreezePage) ||
		op->block->data_len < rec.ntuples * sizeof(xl_heap_freeze_tuple))
		return ps_redo_corrupt(op, "heap freeze is too short");
	for (uint32 i = 0; i < rec.ntuples; i++)
	{
		xl_heap_freeze_tuple plan;
		HeapTupleHeader tuple;
		uint32		len;

		memcpy(&plan, op->block->data + i * sizeof(plan), sizeof(plan));
		tuple = ps_page_heap_tuple(op->page, plan.offset, &len);
		if (tuple == NULL)
			return ps_redo_corrupt(op, "heap freeze names a tuple that is not there");
		HeapTupleHeaderSetXmax(tuple, plan.xmax);
		if (plan.frzflags & XLH_FREEZE_XVAC)
			tuple->t_choice.t_heap.t_field3.t_xvac = FrozenTransactionId;
		if (plan.frzflags & XLH_INVALID_XVAC)
			tuple->t_choice.t_heap.t_field3.t_xvac = InvalidTransactionId;
		tuple->t_infomask = plan.t_infomask;
		tuple->t_infomask2 = plan.t_infomask2;
	}
	return PS_REDO_DONE;
}

static PsRedoStatus
heap_lock_updated(PsRedoOp *op)
{
	xl_heap_lock_updated rec;
	HeapTupleHeader tuple;
	uint32		len;

	if (!ps_redo_main(op, &rec, SizeOfHeapLockUpdated))
		return ps_redo_corrupt(op, "heap lock of an updated tuple is too short");
	tuple = ps_page_heap_tuple(op->page, rec.offnum, &len);
	if (tuple == NULL)
		return ps_redo_corrupt(op, "heap lock of an updated tuple names a tuple that is not there");
	ps_heap_set_infobits(tuple, rec.infobits_set);
	HeapTupleHeaderSetXmax(tuple, rec.xmax);
	return PS_REDO_DONE;
}

/* Block 0 is the visibility map page (ps_redo_vm.c), block 1 the heap page. */
static PsRedoStatus
heap_visible(PsRedoOp *op)
{
	if (op->block->id != 1)
		return ps_redo_corrupt(op, "heap visible has an unexpected block reference");
	if (!ps_page_header_ok(op->page))
		return ps_redo_corrupt(op, "page that became all-visible is not initialised");
	PageSetAllVisible(op->page);
	return PS_REDO_DONE;
}

PsRedoStatus
ps_redo_heap2(PsRedoOp *op)
{
	if (op->key->fork != MAIN_FORKNUM)
		return PS_REDO_UNSUPPORTED;
	switch (op->info & XLOG_HEAP_OPMASK)
	{
		case XLOG_HEAP2_MULTI_INSERT:
			return heap_multi_insert(op);
		case XLOG_HEAP2_PRUNE:
			return heap_prune(op);
		case XLOG_HEAP2_VACUUM:
			return heap_vacuum(op);
		case XLOG_HEAP2_FREEZE_PAGE:
			return heap_freeze_page(op);
		case XLOG_HEAP2_LOCK_UPDATED:
			return heap_lock_updated(op);
		case XLOG_HEAP2_VISIBLE:
			return heap_visible(op);
		default:
			return PS_REDO_UNSUPPORTED;
	}
}
