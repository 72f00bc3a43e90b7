/*
 * ps_redo_heap.c - native redo of the heap resource manager: insert, delete, update, hot update, confirm, lock, in-place.
 *
 * Follows heap_xlog_* of PostgreSQL 15's heapam.c, one page at a time: an update of two pages is applied to each of them on
 * its own, the old page being block 1 and the new one block 0.  Visibility map bits that these records clear are
 * ps_redo_vm.c's.  The page's LSN is set by the caller.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo.h"

#include "access/heapam_xlog.h"

void
ps_heap_set_infobits(HeapTupleHeader tuple, uint8 infobits)
{
	tuple->t_infomask &= ~(HEAP_XMAX_BITS | HEAP_MOVED);
	tuple->t_infomask2 &= ~HEAP_KEYS_UPDATED;

	if (infobits & XLHL_XMAX_IS_MULTI)
		tuple->t_infomask |= HEAP_XMAX_IS_MULTI;
	if (infobits & XLHL_XMAX_LOCK_ONLY)
		tuple->t_infomask |= HEAP_XMAX_LOCK_ONLY;
	if (infobits & XLHL_XMAX_EXCL_LOCK)
		tuple->t_infomask |= HEAP_XMAX_EXCL_LOCK;
	if (infobits & XLHL_XMAX_KEYSHR_LOCK)
		tuple->t_infomask |= HEAP_XMAX_KEYSHR_LOCK;
	if (infobits & XLHL_KEYS_UPDATED)
		tuple->t_infomask2 |= HEAP_KEYS_UPDATED;
}

static PsRedoStatus
heap_insert(PsRedoOp *op)
{
	const neon_wal_block *b = op->block;
	xl_heap_insert rec;
	xl_heap_header header;
	PsTupleBuffer tuple;
	uint32		body;

	if (!ps_redo_main(op, &rec, SizeOfHeapInsert) || b->id != 0 || b->data_len < SizeOfHeapHeader)
		return ps_redo_corrupt(op, "heap insert is too short");
	body = b->data_len - SizeOfHeapHeader;
	if (body > MaxHeapTupleSize - SizeofHeapTupleHeader)
		return ps_redo_corrupt(op, "tuple of heap insert is too long");

	if (op->info & XLOG_HEAP_INIT_PAGE)
		ps_page_init(op->page, 0);

	memcpy(&header, b->data, SizeOfHeapHeader);
	memset(&tuple.header, 0, SizeofHeapTupleHeader);
	memcpy(tuple.data + SizeofHeapTupleHeader, b->data + SizeOfHeapHeader, body);
	tuple.header.t_infomask2 = header.t_infomask2;
	tuple.header.t_infomask = header.t_infomask;
	tuple.header.t_hoff = header.t_hoff;
	HeapTupleHeaderSetXmin(&tuple.header, op->xid);
	HeapTupleHeaderSetCmin(&tuple.header, FirstCommandId);
	ItemPointerSet(&tuple.header.t_ctid, op->key->blk, rec.offnum);

	if (!ps_page_add_heap_item(op->page, tuple.data, SizeofHeapTupleHeader + body, rec.offnum))
		return ps_redo_corrupt(op, "heap insert does not fit the page");
	if (rec.flags & XLH_INSERT_ALL_VISIBLE_CLEARED)
		PageClearAllVisible(op->page);
	return PS_REDO_DONE;
}

static PsRedoStatus
heap_delete(PsRedoOp *op)
{
	xl_heap_delete rec;
	HeapTupleHeader tuple;
	uint32		len;

	if (!ps_redo_main(op, &rec, SizeOfHeapDelete))
		return ps_redo_corrupt(op, "heap delete is too short");
	tuple = ps_page_heap_tuple(op->page, rec.offnum, &len);
	if (tuple == NULL)
		return ps_redo_corrupt(op, "heap delete names a tuple that is not there");

	HeapTupleHeaderClearHotUpdated(tuple);
	ps_heap_set_infobits(tuple, rec.infobits_set);
	if (rec.flags & XLH_DELETE_IS_SUPER)
		HeapTupleHeaderSetXmin(tuple, InvalidTransactionId);
	else
		HeapTupleHeaderSetXmax(tuple, rec.xmax);
	HeapTupleHeaderSetCmax(tuple, FirstCommandId, false);

	ps_page_set_prunable(op->page, op->xid);
	if (rec.flags & XLH_DELETE_ALL_VISIBLE_CLEARED)
		PageClearAllVisible(op->page);
	if (rec.flags & XLH_DELETE_IS_PARTITION_MOVE)
		HeapTupleHeaderSetMovedPartitions(tuple);
	else
		ItemPointerSet(&tuple->t_ctid, op->key->blk, rec.offnum);
	return PS_REDO_DONE;
}

/* The tuple as it was before the update: prefix and suffix of the new one come from it. */
typedef struct OldTuple
{
	bool		known;
	uint32		len;
	uint32		hoff;
	char		data[BLCKSZ];
} OldTuple;

static PsRedoStatus
update_old(PsRedoOp *op, const xl_heap_update *rec, BlockNumber newblk, bool hot, OldTuple *keep)
{
	HeapTupleHeader tuple;
	uint32		len;

	tuple = ps_page_heap_tuple(op->page, rec->old_offnum, &len);
	if (tuple == NULL)
		return ps_redo_corrupt(op, "heap update names an old tuple that is not there");
	if (keep != NULL)
	{
		keep->known = true;
		keep->len = len;
		keep->hoff = tuple->t_hoff;
		memcpy(keep->data, tuple, len);
	}

	ps_heap_set_infobits(tuple, rec->old_infobits_set);
	if (hot)
		HeapTupleHeaderSetHotUpdated(tuple);
	else
		HeapTupleHeaderClearHotUpdated(tuple);
	HeapTupleHeaderSetXmax(tuple, rec->old_xmax);
	HeapTupleHeaderSetCmax(tuple, FirstCommandId, false);
	ItemPointerSet(&tuple->t_ctid, newblk, rec->new_offnum);

	ps_page_set_prunable(op->page, op->xid);
	if (rec->flags & XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED)
		PageClearAllVisible(op->page);
	return PS_REDO_DONE;
}

/* Reads prefix and suffix lengths and the tuple header; what is left in `r` is the tuple's own bytes. */
static bool
read_new_tuple(neon_reader *r, const xl_heap_update *rec, uint16 *prefix, uint16 *suffix, xl_heap_header *header)
{
	*prefix = *suffix = 0;
	if (rec->flags & XLH_UPDATE_PREFIX_FROM_OLD)
		neon_get_copy(r, prefix, sizeof(uint16));
	if (rec->flags & XLH_UPDATE_SUFFIX_FROM_OLD)
		neon_get_copy(r, suffix, sizeof(uint16));
	neon_get_copy(r, header, SizeOfHeapHeader);
	return r->ok && header->t_hoff >= SizeofHeapTupleHeader;
}

static PsRedoStatus
update_new(PsRedoOp *op, const xl_heap_update *rec, const OldTuple *old)
{
	neon_reader r;
	uint16		prefix;
	uint16		suffix;
	xl_heap_header header;
	PsTupleBuffer tuple;
	char	   *to = tuple.data + SizeofHeapTupleHeader;
	uint32		left;

	neon_reader_init(&r, op->block->data, op->block->data_len);
	if (!read_new_tuple(&r, rec, &prefix, &suffix, &header))
		return ps_redo_corrupt(op, "new tuple of heap update is too short");
	left = (uint32) neon_reader_left(&r);
	if (SizeofHeapTupleHeader + left + prefix + suffix > MaxHeapTupleSize)
		return ps_redo_corrupt(op, "new tuple of heap update is too long");
	if ((prefix > 0 || suffix > 0) && (old == NULL || !old->known || old->hoff + prefix > old->len || suffix > old->len))
		return ps_redo_corrupt(op, "heap update takes more from the old tuple than there is");

	memset(&tuple.header, 0, SizeofHeapTupleHeader);
	if (prefix > 0)
	{
		/* The null bitmap comes before the data that the prefix starts. */
		uint32		bitmap = header.t_hoff - SizeofHeapTupleHeader;

		if (bitmap > left)
			return ps_redo_corrupt(op, "header of the new tuple is longer than the tuple");
		neon_get_copy(&r, to, bitmap);
		to += bitmap;
		left -= bitmap;
		memcpy(to, old->data + old->hoff, prefix);
		to += prefix;
	}
	neon_get_copy(&r, to, left);
	to += left;
	if (suffix > 0)
	{
		memcpy(to, old->data + old->len - suffix, suffix);
		to += suffix;
	}

	tuple.header.t_infomask2 = header.t_infomask2;
	tuple.header.t_infomask = header.t_infomask;
	tuple.header.t_hoff = header.t_hoff;
	HeapTupleHeaderSetXmin(&tuple.header, op->xid);
	HeapTupleHeaderSetCmin(&tuple.header, FirstCommandId);
	HeapTupleHeaderSetXmax(&tuple.header, rec->new_xmax);
	ItemPointerSet(&tuple.header.t_ctid, op->key->blk, rec->new_offnum);

	if (!ps_page_add_heap_item(op->page, tuple.data, (uint32) (to - tuple.data), rec->new_offnum))
		return ps_redo_corrupt(op, "new tuple of heap update does not fit the page");
	if (rec->flags & XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED)
		PageClearAllVisible(op->page);
	return PS_REDO_DONE;
}

static PsRedoStatus
heap_update(PsRedoOp *op, bool hot)
{
	const neon_wal_parsed *p = op->parsed;
	xl_heap_update rec;
	OldTuple	old;
	bool		one_page = true;
	PsRedoStatus status;

	old.known = false;
	if (!ps_redo_main(op, &rec, SizeOfHeapUpdate))
		return ps_redo_corrupt(op, "heap update is too short");
	for (int i = 0; i < p->nblocks; i++)
		if (p->blocks[i].id == 1)
			one_page = false;

	if (op->block->id == 1)
	{
		if (p->nblocks < 2 || p->blocks[0].id != 0)
			return ps_redo_corrupt(op, "heap update of two pages names one");
		return update_old(op, &rec, p->blocks[0].blk, hot, NULL);
	}
	if (op->block->id != 0)
		return ps_redo_corrupt(op, "heap update has an unexpected block reference");

	if (one_page)
	{
		bool		partial = (rec.flags & (XLH_UPDATE_PREFIX_FROM_OLD | XLH_UPDATE_SUFFIX_FROM_OLD)) != 0;

		status = update_old(op, &rec, op->key->blk, hot, partial ? &old : NULL);
		if (status != PS_REDO_DONE)
			return status;
	}
	else if (op->info & XLOG_HEAP_INIT_PAGE)
		ps_page_init(op->page, 0);
	return update_new(op, &rec, &old);
}

static PsRedoStatus
heap_confirm(PsRedoOp *op)
{
	xl_heap_confirm rec;
	HeapTupleHeader tuple;
	uint32		len;

	if (!ps_redo_main(op, &rec, SizeOfHeapConfirm))
		return ps_redo_corrupt(op, "heap confirm is too short");
	tuple = ps_page_heap_tuple(op->page, rec.offnum, &len);
	if (tuple == NULL)
		return ps_redo_corrupt(op, "heap confirm names a tuple that is not there");
	ItemPointerSet(&tuple->t_ctid, op->key->blk, rec.offnum);
	return PS_REDO_DONE;
}

static PsRedoStatus
heap_lock(PsRedoOp *op)
{
	xl_heap_lock rec;
	HeapTupleHeader tuple;
	uint32		len;

	if (!ps_redo_main(op, &rec, SizeOfHeapLock))
		return ps_redo_corrupt(op, "heap lock is too short");
	tuple = ps_page_heap_tuple(op->page, rec.offnum, &len);
	if (tuple == NULL)
		return ps_redo_corrupt(op, "heap lock names a tuple that is not there");

	ps_heap_set_infobits(tuple, rec.infobits_set);
	if (HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_infomask))
	{
		HeapTupleHeaderClearHotUpdated(tuple);
		ItemPointerSet(&tuple->t_ctid, op->key->blk, rec.offnum);
	}
	HeapTupleHeaderSetXmax(tuple, rec.locking_xid);
	HeapTupleHeaderSetCmax(tuple, FirstCommandId, false);
	return PS_REDO_DONE;
}

static PsRedoStatus
heap_inplace(PsRedoOp *op)
{
	xl_heap_inplace rec;
	HeapTupleHeader tuple;
	uint32		len;

	if (!ps_redo_main(op, &rec, SizeOfHeapInplace))
		return ps_redo_corrupt(op, "heap in-place update is too short");
	tuple = ps_page_heap_tuple(op->page, rec.offnum, &len);
	if (tuple == NULL)
		return ps_redo_corrupt(op, "heap in-place update names a tuple that is not there");
	if (len - tuple->t_hoff != op->block->data_len)
		return ps_redo_corrupt(op, "heap in-place update has another length than the tuple");
	memcpy((char *) tuple + tuple->t_hoff, op->block->data, op->block->data_len);
	return PS_REDO_DONE;
}

PsRedoStatus
ps_redo_heap(PsRedoOp *op)
{
	if (op->key->fork != MAIN_FORKNUM)
		return PS_REDO_UNSUPPORTED;
	switch (op->info & XLOG_HEAP_OPMASK)
	{
		case XLOG_HEAP_INSERT:
			return heap_insert(op);
		case XLOG_HEAP_DELETE:
			return heap_delete(op);
		case XLOG_HEAP_UPDATE:
			return heap_update(op, false);
		case XLOG_HEAP_HOT_UPDATE:
			return heap_update(op, true);
		case XLOG_HEAP_CONFIRM:
			return heap_confirm(op);
		case XLOG_HEAP_LOCK:
			return heap_lock(op);
		case XLOG_HEAP_INPLACE:
			return heap_inplace(op);
		default:
			return PS_REDO_UNSUPPORTED;
	}
}
