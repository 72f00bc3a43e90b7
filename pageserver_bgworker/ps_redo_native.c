/*
 * ps_redo_native.c - entry of the native apply core: parse the record, find the reference to the page, choose the routine.
 *
 * Rules kept here for all of them: an image that is there for consistency checks only (no BKPIMAGE_APPLY) is ignored; an image
 * to apply replaces the page whatever the resource manager; the page's LSN is always set to the record's end, on visibility
 * map pages and for heap2 VISIBLE on heap pages too, where the server (checksums and wal_log_hints off) leaves it: an LSN that
 * is too old would let a reader believe that it has a version it has not.  All-zero pages stay all-zero.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo.h"

#include "access/rmgr.h"
#include "common/relpath.h"

bool
ps_redo_native_only(const neon_key *key)
{
	return key->kind != NEON_KEY_REL_BLOCK || key->fork == VISIBILITYMAP_FORKNUM || key->fork == FSM_FORKNUM;
}

static const neon_wal_block *
find_block(const neon_wal_parsed *parsed, const neon_key *key)
{
	for (int i = 0; i < parsed->nblocks; i++)
	{
		const neon_wal_block *b = &parsed->blocks[i];

		if (b->blk == key->blk && b->fork == key->fork && ps_redo_block_is_rel(b, key))
			return b;
	}
	return NULL;
}

static PsRedoStatus
apply_image(PsRedoOp *op)
{
	const char *reason;

	if (!ps_redo_restore_image(op->block, op->page, &reason))
		return ps_redo_corrupt(op, reason);
	return PS_REDO_DONE;
}

/* The FSM is a hint that redo of heap records would change too; it is rebuilt from images only and is zero before the first. */
static PsRedoStatus
apply_fsm(PsRedoOp *op)
{
	memset(op->page, 0, BLCKSZ);
	return PS_REDO_DONE;
}

static PsRedoStatus
apply(PsRedoOp *op)
{
	if (op->key->kind == NEON_KEY_SLRU_BLOCK)
		return ps_redo_slru(op);
	if (op->key->kind != NEON_KEY_REL_BLOCK)
		return ps_redo_corrupt(op, "this kind of object has no records");

	op->block = find_block(op->parsed, op->key);
	if (op->block != NULL && op->block->has_image && (op->block->apply_image || op->rmid == RM_XLOG_ID))
		return apply_image(op);
	if (op->key->fork == FSM_FORKNUM)
		return apply_fsm(op);
	if (op->key->fork == VISIBILITYMAP_FORKNUM)
		return ps_redo_vm(op);
	if (op->block == NULL)
		return ps_redo_corrupt(op, "record does not refer to the page");

	switch (op->rmid)
	{
		case RM_HEAP_ID:
			return ps_redo_heap(op);
		case RM_HEAP2_ID:
			return ps_redo_heap2(op);
		case RM_BTREE_ID:
			return ps_redo_btree(op);
		case RM_SEQ_ID:
			return ps_redo_seq(op);
		case RM_XLOG_ID:
			return ps_redo_corrupt(op, "full-page image record without an image");
		default:
			return PS_REDO_UNSUPPORTED;
	}
}

PsRedoStatus
ps_redo_native(const neon_key *key, XLogRecPtr lsn, const uint8 *record, uint32 len, char *page, const char **reason)
{
	XLogRecord	header;
	neon_wal_parsed parsed;
	PsRedoOp	op;
	PsRedoStatus status;

	*reason = NULL;
	if (len < SizeOfXLogRecord)
	{
		*reason = "record is shorter than its header";
		return PS_REDO_CORRUPT;
	}
	memcpy(&header, record, SizeOfXLogRecord);
	if (header.xl_tot_len != len || neon_wal_parse(record, len, &parsed) != NEON_WAL_OK)
	{
		*reason = "record does not parse";
		return PS_REDO_CORRUPT;
	}

	op = (PsRedoOp) {
		.key = key,
		.lsn = lsn,
		.xid = header.xl_xid,
		.rmid = header.xl_rmid,
		.info = header.xl_info,
		.parsed = &parsed,
		.page = page
	};
	status = apply(&op);
	*reason = op.reason;
	if (status == PS_REDO_DONE && key->kind == NEON_KEY_REL_BLOCK && !ps_page_is_new(page))
		ps_page_set_lsn(page, lsn);
	return status;
}
