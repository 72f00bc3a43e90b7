/*
 * ps_redo_btree.c - native redo of the commonest index records (btree insertions) and of sequences.
 *
 * Insertions are most of what an index page sees between two splits.  Splits, deletions, deduplication and page deletion
 * go to the redo process.  Follows btree_xlog_insert and seq_redo of PostgreSQL 15.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo.h"

#include "access/nbtree.h"
#include "access/nbtxlog.h"
#include "commands/sequence.h"

#define SEQ_MAGIC	0x1717		/* private to sequence.c */

/* The special space of an initialised btree page; NULL if it is not one. */
static BTPageOpaque
btree_opaque(char *page)
{
	PageHeader	p = (PageHeader) page;

	if (!ps_page_header_ok(page) || p->pd_special != BLCKSZ - MAXALIGN(sizeof(BTPageOpaqueData)))
		return NULL;
	return (BTPageOpaque) (page + p->pd_special);
}

static PsRedoStatus
btree_clear_incomplete_split(PsRedoOp *op)
{
	BTPageOpaque opaque = btree_opaque(op->page);

	if (opaque == NULL)
		return ps_redo_corrupt(op, "page whose split is finished is not a btree page");
	opaque->btpo_flags &= ~BTP_INCOMPLETE_SPLIT;
	return PS_REDO_DONE;
}

static PsRedoStatus
btree_restore_meta(PsRedoOp *op)
{
	xl_btree_metadata rec;
	BTMetaPageData *meta;
	BTPageOpaque opaque;

	if (op->block->data_len != sizeof(rec))
		return ps_redo_corrupt(op, "btree metadata has another length than expected");
	memcpy(&rec, op->block->data, sizeof(rec));

	ps_page_init(op->page, sizeof(BTPageOpaqueData));
	meta = BTPageGetMeta(op->page);
	meta->btm_magic = BTREE_MAGIC;
	meta->btm_version = rec.version;
	meta->btm_root = rec.root;
	meta->btm_level = rec.level;
	meta->btm_fastroot = rec.fastroot;
	meta->btm_fastlevel = rec.fastlevel;
	meta->btm_last_cleanup_num_delpages = rec.last_cleanup_num_delpages;
	meta->btm_last_cleanup_num_heap_tuples = -1.0;
	meta->btm_allequalimage = rec.allequalimage;
	((PageHeader) op->page)->pd_lower = ((char *) meta + sizeof(BTMetaPageData)) - op->page;
	opaque = btree_opaque(op->page);
	opaque->btpo_flags = BTP_META;
	return PS_REDO_DONE;
}

/* The heap TIDs of a posting list tuple; NULL when it is none or they are not inside it. */
static ItemPointerData *
posting_tids(IndexTuple tuple, uint32 item_len, uint32 *ntids)
{
	uint32		size = IndexTupleSize(tuple);
	uint32		at;

	if (size > item_len || (tuple->t_info & INDEX_ALT_TID_MASK) == 0 ||
		(ItemPointerGetOffsetNumberNoCheck(&tuple->t_tid) & BT_IS_POSTING) == 0)
		return NULL;
	at = ItemPointerGetBlockNumberNoCheck(&tuple->t_tid);
	*ntids = ItemPointerGetOffsetNumberNoCheck(&tuple->t_tid) & BT_OFFSET_MASK;
	if (at < sizeof(IndexTupleData) || at > size || at % sizeof(uint16) != 0 ||
		*ntids > (size - at) / sizeof(ItemPointerData))
		return NULL;
	return (ItemPointerData *) ((char *) tuple + at);
}

/*
 * The new tuple falls into an existing posting list: it takes that list's last TID, and its own TID takes a place inside
 * the list (_bt_swap_posting).
 */
static bool
split_posting(PsRedoOp *op, OffsetNumber offnum, uint16 postingoff, IndexTuple newitem)
{
	uint32		len;
	uint32		ntids;
	IndexTuple	posting;
	ItemPointerData *tids;
	ItemPointerData last;

	if (offnum <= FirstOffsetNumber)
		return false;
	posting = (IndexTuple) ps_page_normal_item(op->page, OffsetNumberPrev(offnum), sizeof(IndexTupleData), &len);
	if (posting == NULL)
		return false;
	tids = posting_tids(posting, len, &ntids);
	if (tids == NULL || postingoff == 0 || postingoff >= ntids)
		return false;

	last = tids[ntids - 1];
	memmove(&tids[postingoff + 1], &tids[postingoff], (ntids - postingoff - 1) * sizeof(ItemPointerData));
	tids[postingoff] = newitem->t_tid;
	newitem->t_tid = last;
	return true;
}

static PsRedoStatus
btree_insert(PsRedoOp *op, bool posting)
{
	xl_btree_insert rec;
	const uint8 *data = op->block->data;
	uint32		len = op->block->data_len;
	uint16		postingoff = 0;
	union
	{
		IndexTupleData header;
		char		bytes[BLCKSZ];
	}			tuple;

	if (!ps_redo_main(op, &rec, SizeOfBtreeInsert))
		return ps_redo_corrupt(op, "btree insert is too short");
	if (posting)
	{
		if (len < sizeof(postingoff))
			return ps_redo_corrupt(op, "btree posting insert is too short");
		memcpy(&postingoff, data, sizeof(postingoff));
		data += sizeof(postingoff);
		len -= sizeof(postingoff);
	}
	if (len < sizeof(IndexTupleData) || len > BLCKSZ)
		return ps_redo_corrupt(op, "tuple of btree insert has an impossible length");
	if (btree_opaque(op->page) == NULL)
		return ps_redo_corrupt(op, "page of btree insert is not a btree page");

	memcpy(tuple.bytes, data, len);
	if (posting && !split_posting(op, rec.offnum, postingoff, &tuple.header))
		return ps_redo_corrupt(op, "posting list of btree insert is not as expected");
	if (!ps_page_add_index_item(op->page, tuple.bytes, len, rec.offnum))
		return ps_redo_corrupt(op, "btree insert does not fit the page");
	return PS_REDO_DONE;
}

PsRedoStatus
ps_redo_btree(PsRedoOp *op)
{
	uint8		info = op->info & ~XLR_INFO_MASK;

	if (op->key->fork != MAIN_FORKNUM)
		return PS_REDO_UNSUPPORTED;
	switch (info)
	{
		case XLOG_BTREE_INSERT_LEAF:
		case XLOG_BTREE_INSERT_POST:
			if (op->block->id != 0)
				return PS_REDO_UNSUPPORTED;
			return btree_insert(op, info == XLOG_BTREE_INSERT_POST);
		case XLOG_BTREE_INSERT_UPPER:
		case XLOG_BTREE_INSERT_META:
			if (op->block->id == 0)
				return btree_insert(op, false);
			if (op->block->id == 1)
				return btree_clear_incomplete_split(op);
			if (op->block->id == 2 && info == XLOG_BTREE_INSERT_META)
				return btree_restore_meta(op);
			return PS_REDO_UNSUPPORTED;
		default:
			return PS_REDO_UNSUPPORTED;
	}
}

/* A sequence's only page is written anew by each record. */
PsRedoStatus
ps_redo_seq(PsRedoOp *op)
{
	const uint32 tuple_at = sizeof(xl_seq_rec);
	uint32		magic = SEQ_MAGIC;
	uint32		len = op->parsed->main_len;

	if ((op->info & ~XLR_INFO_MASK) != XLOG_SEQ_LOG || op->key->fork != MAIN_FORKNUM)
		return PS_REDO_UNSUPPORTED;
	if (len <= tuple_at)
		return ps_redo_corrupt(op, "sequence record is too short");

	ps_page_init(op->page, sizeof(magic));
	memcpy(op->page + ((PageHeader) op->page)->pd_special, &magic, sizeof(magic));
	if (!ps_page_add_index_item(op->page, (const char *) op->parsed->main_data + tuple_at, len - tuple_at,
								FirstOffsetNumber))
		return ps_redo_corrupt(op, "tuple of the sequence does not fit its page");
	return PS_REDO_DONE;
}
