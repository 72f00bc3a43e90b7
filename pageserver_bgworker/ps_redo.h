/*
 * ps_redo.h - interface among the ps_redo_*.c files: the native apply core, the redo process, the dispatcher.
 *
 * The native core (ps_redo_native.c, _page.c, _heap.c, _heap2.c, _btree.c, _vm.c, _slru.c, _image.c) calls no server function:
 * no palloc, no elog, no lock.  It reads a record and changes one page, both of which may hold anything, and never
 * touches a byte outside of them.  It reports a status and a sentence why.  A page it calls PS_REDO_CORRUPT on is half
 * changed and must be thrown away.  So the core also compiles alone for the fuzzer (test/fuzz/redo).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PS_REDO_H
#define NEON_PS_REDO_H

#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlogrecord.h"
#include "storage/bufpage.h"

#include "neon_core.h"
#include "neon_wal.h"

typedef enum PsRedoStatus
{
	PS_REDO_DONE,				/* applied */
	PS_REDO_UNSUPPORTED,		/* not one of ours: the redo process must do it; the page is unchanged */
	PS_REDO_CORRUPT				/* record and page do not fit each other */
} PsRedoStatus;

/* One application of one record to one object. */
typedef struct PsRedoOp
{
	const neon_key *key;
	XLogRecPtr	lsn;			/* EndRecPtr: what the page's LSN becomes */
	TransactionId xid;
	uint8		rmid;
	uint8		info;			/* xl_info as in the record */
	const neon_wal_parsed *parsed;
	const neon_wal_block *block;	/* the reference to the key's page; NULL where it is implicit */
	char	   *page;
	const char *reason;			/* set with PS_REDO_CORRUPT: a static string */
} PsRedoOp;

/* ---- ps_redo_native.c: entry of the core ---- */
extern PsRedoStatus ps_redo_native(const neon_key *key, XLogRecPtr lsn, const uint8 *record, uint32 len,
								   char *page, const char **reason);

/* True when the record can only change the object natively, never by the redo process (SLRUs, visibility map, FSM). */
extern bool ps_redo_native_only(const neon_key *key);

/* A heap tuple being put together; larger than any that fits a page. */
typedef union PsTupleBuffer
{
	HeapTupleHeaderData header;
	char		data[BLCKSZ];
} PsTupleBuffer;

/* Replaces a tuple's xmax bits by a record's XLHL_* bits. */
extern void ps_heap_set_infobits(HeapTupleHeader tuple, uint8 infobits);

/* The resource managers. */
extern PsRedoStatus ps_redo_heap(PsRedoOp *op);
extern PsRedoStatus ps_redo_heap2(PsRedoOp *op);
extern PsRedoStatus ps_redo_btree(PsRedoOp *op);
extern PsRedoStatus ps_redo_seq(PsRedoOp *op);
extern PsRedoStatus ps_redo_vm(PsRedoOp *op);
extern PsRedoStatus ps_redo_slru(PsRedoOp *op);

/* ---- ps_redo_image.c ---- */
/* Lays out a full-page image, decompressing it; false with a reason when it does not fit a page. */
extern bool ps_redo_restore_image(const neon_wal_block *block, char page[BLCKSZ], const char **reason);

/* ---- ps_redo_page.c: page primitives that trust nothing ---- */
extern bool ps_page_header_ok(const char *page);
extern bool ps_page_is_new(const char *page);
extern void ps_page_init(char *page, uint16 special_bytes);
extern void ps_page_set_lsn(char *page, XLogRecPtr lsn);
extern uint32 ps_page_max_offset(const char *page);
/* NULL unless the offset exists on a valid page. */
extern ItemId ps_page_item(char *page, uint32 offset);
/* The body of a normal item of at least min_len bytes; NULL otherwise. */
extern char *ps_page_normal_item(char *page, uint32 offset, uint32 min_len, uint32 *len);
extern HeapTupleHeader ps_page_heap_tuple(char *page, uint32 offset, uint32 *len);
/* PageAddItemExtended: heap replaces an unused line pointer and never moves others, an index shifts them. */
extern bool ps_page_add_heap_item(char *page, const char *item, uint32 len, uint32 offset);
extern bool ps_page_add_index_item(char *page, const char *item, uint32 len, uint32 offset);
extern bool ps_page_repair_fragmentation(char *page);
extern void ps_page_truncate_line_pointers(char *page);
extern void ps_page_set_prunable(char *page, TransactionId xid);

static inline PsRedoStatus
ps_redo_corrupt(PsRedoOp *op, const char *reason)
{
	op->reason = reason;
	return PS_REDO_CORRUPT;
}

/* Copies the fixed part of main data, which has no alignment of its own. */
static inline bool
ps_redo_main(const PsRedoOp *op, void *to, uint32 bytes)
{
	if (op->parsed->main_len < bytes)
		return false;
	memcpy(to, op->parsed->main_data, bytes);
	return true;
}

/* Does the record's block reference name the same page or, for the visibility map, the same relation? */
static inline bool
ps_redo_block_is_rel(const neon_wal_block *b, const neon_key *key)
{
	return b->spc == key->spc && b->db == key->db && b->rel == key->rel;
}

#endif							/* NEON_PS_REDO_H */
