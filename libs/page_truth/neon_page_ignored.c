/*
 * neon_page_ignored.c - which bits of a page of PostgreSQL 15 does the WAL not determine?
 *
 * The server's own mask functions (wal_consistency_checking) compare a page with an image that was taken before its record had
 * an LSN, on a standby that may have applied more, and take out much that replay at an exact LSN does determine.
 * Here the other page is as of an LSN between this page's last change and its next one, so less is left out.  This is all:
 *
 * every page   pd_lsn: compared as numbers, see neon_page_truth.c
 * every page   between pd_lower and pd_upper: full-page images leave it out, and deleted items stay there on the server but
 *              not where the page was rebuilt from an image.  Not on BRIN's revmap and the visibility map, which
 *              are logged whole and have their content there
 * heap         pd_prune_xid: pruning moves it without WAL.  (On GIN pages it is the xid of the deletion, and logged.)
 * heap         PD_HAS_FREE_LINES, PD_PAGE_FULL: set and cleared without WAL.  PD_ALL_VISIBLE is logged
 * heap tuple   t_cid: redo sets it to the first command, see page_class.c; and HEAP_COMBOCID, which says how to read it.  Not where
 *              HEAP_MOVED makes of it an old VACUUM FULL's xid
 * heap tuple   HEAP_XMIN_COMMITTED, HEAP_XMIN_INVALID: hints.  Not both together, which is "frozen" and logged
 * heap tuple   HEAP_XMAX_COMMITTED, HEAP_XMAX_INVALID: hints.  The other bits about xmax (multixact, locks, keys) are logged,
 *              while the server's mask leaves all of them out
 * heap tuple   t_ctid of a tuple whose insertion was speculative and never confirmed: the token is not in WAL
 * heap item    the bytes between a tuple's length and the next multiple of 8: whatever was in the hole
 * btree        btpo_cycleid, BTP_SPLIT_END: a split's redo sets neither; they matter to a running vacuum only
 * btree        BTP_HAS_GARBAGE: a hint
 * hash         LH_PAGE_HAS_DEAD_TUPLES: a hint
 * gist         F_HAS_GARBAGE: a hint.  NSN and F_FOLLOW_RIGHT are logged exactly, while the server's mask leaves them out
 * leaf items   of btree, hash and gist: dead or normal, one bit: set by scans without WAL.  Offsets and lengths are logged
 * spgist       the meta page's cache of pages last used
 * brin         BRIN_EVACUATE_PAGE: set without WAL, cleared by nobody
 * sequence     last_value and log_cnt, where values have been taken since they were logged, within what was logged
 *              (neon_page_truth.c)
 *
 * gin          a page deleted from the pending list (GIN_DELETED and nothing else): redo makes an empty page of it, the server sets
 *              the flag only.  So pd_lower, pd_upper, the content, and rightlink and maxoff of the special area; the flags count.
 *              Pages deleted from posting trees, which the server's mask leaves out too, are compared
 *
 * Content of unused hash pages, which the server masks whole, is compared.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "neon_page_layout.h"
#include "neon_page_truth.h"

static void
ignore(uint8_t *ignored, unsigned offset, unsigned bytes)
{
	memset(ignored + offset, 0xFF, bytes);
}

neon_page_kind
neon_page_kind_of(const uint8_t *page, uint8_t fork)
{
	unsigned	special = page_special_bytes(page);
	unsigned	id = get16(page + NEON_BLCKSZ - 2);	/* of most access methods */

	if (fork == 2)
		return NEON_PAGE_VM;
	if (special == 0)
		return NEON_PAGE_HEAP;
	if (special == BTREE_SPECIAL_BYTES)
		return id == HASH_PAGE_ID ? NEON_PAGE_HASH : id == GIST_PAGE_ID ? NEON_PAGE_GIST :
			id <= BTREE_MAX_CYCLE_ID ? NEON_PAGE_BTREE : NEON_PAGE_OTHER;
	if (special != 8)
		return NEON_PAGE_OTHER;
	if (get32(page + NEON_BLCKSZ - 8) == SEQUENCE_MAGIC)
		return NEON_PAGE_SEQUENCE;
	if (id == SPGIST_PAGE_ID)
		return NEON_PAGE_SPGIST;
	if (id == BRIN_REVMAP_ID)
		return NEON_PAGE_BRIN_REVMAP;
	if (id == BRIN_META_ID || id == BRIN_REGULAR_ID)
		return NEON_PAGE_BRIN;
	/* GIN has no number; its flags are the last word and small. */
	return id < GIN_FLAGS_END ? NEON_PAGE_GIN : NEON_PAGE_OTHER;
}

const char *
neon_page_kind_name(neon_page_kind kind)
{
	static const char *const names[] = {"heap", "btree", "hash", "gist", "gin", "spgist", "brin", "brin revmap", "sequence",
	"visibility map", "other"};

	return names[kind];
}

bool
neon_page_is_empty(const uint8_t *page)
{
	bool		bare = page_header_is_sane(page) && get16(page + PD_LOWER) == PAGE_HEADER_BYTES && page_lsn(page) <= 1;

	for (unsigned i = bare ? PAGE_HEADER_BYTES : 0; i < NEON_BLCKSZ; i++)
		if (page[i] != 0)
			return false;
	return true;
}

/* ---- items ---- */

typedef struct Item
{
	unsigned	at;				/* of the line pointer */
	unsigned	number;			/* from 1 */
	unsigned	state;
	unsigned	offset;
	unsigned	bytes;
} Item;

/* The item behind a line pointer; false where it has no storage inside the page. */
static bool
get_item(const uint8_t *page, unsigned number, Item *item)
{
	uint32_t	word;

	item->at = PAGE_HEADER_BYTES + 4 * (number - 1);
	item->number = number;
	word = get32(page + item->at);
	item->offset = word & 0x7FFF;
	item->state = (word >> 15) & 3;
	item->bytes = word >> 17;
	return item->bytes > 0 && item->offset >= get16(page + PD_UPPER) && item->offset + item->bytes <= NEON_BLCKSZ;
}

static unsigned
item_count(const uint8_t *page)
{
	return (get16(page + PD_LOWER) - PAGE_HEADER_BYTES) / 4;
}

static void
ignore_in_tuple(const uint8_t *page, const Item *item, bool of_compute, uint8_t *ignored)
{
	const uint8_t *tuple = page + item->offset;
	uint8_t    *out = ignored + item->offset;
	unsigned	info;

	if (item->bytes < TUPLE_HEADER_BYTES)
		return;
	info = get16(tuple + T_INFOMASK);
	if ((info & HEAP_MOVED) == 0)
	{
		ignore(out, T_CID, 4);
		put16(out + T_INFOMASK, get16(out + T_INFOMASK) | HEAP_COMBOCID);
	}
	if ((info & HEAP_XMIN_FROZEN) != HEAP_XMIN_FROZEN)
		put16(out + T_INFOMASK, get16(out + T_INFOMASK) | HEAP_XMIN_FROZEN);
	put16(out + T_INFOMASK, get16(out + T_INFOMASK) | HEAP_XMAX_COMMITTED | HEAP_XMAX_INVALID);
	/* Redo knows no token, so the pageserver's copy has none. */
	if (!of_compute || get16(tuple + T_CTID + 4) == SPECULATIVE_TOKEN)
		ignore(out, T_CTID, 6);
}

static void
ignore_in_heap(const uint8_t *page, bool of_compute, uint8_t *ignored)
{
	ignored[PD_FLAGS] |= PD_HAS_FREE_LINES | PD_PAGE_FULL;
	ignore(ignored, PD_PRUNE_XID, 4);
	for (unsigned i = 1; i <= item_count(page); i++)
	{
		Item		item;
		unsigned	end;

		if (!get_item(page, i, &item))
			continue;
		if (item.state == LP_NORMAL)
			ignore_in_tuple(page, &item, of_compute, ignored);
		end = item.offset + item.bytes;
		for (; end % 8 != 0 && end < NEON_BLCKSZ; end++)
			ignore(ignored, end, 1);
	}
}

/* NORMAL is 01, DEAD is 11. */
static void
ignore_dead_items(const uint8_t *page, uint8_t *ignored)
{
	for (unsigned i = 1; i <= item_count(page); i++)
	{
		Item		item;

		if (get_item(page, i, &item) && (item.state == LP_NORMAL || item.state == LP_DEAD))
			put32(ignored + item.at, LP_DEAD_BIT);
	}
}

static void
ignore_flags(uint8_t *ignored, unsigned offset, unsigned bits)
{
	put16(ignored + offset, bits);
}

static void
ignore_in_sequence(const uint8_t *page, uint8_t *ignored)
{
	Item		item;
	unsigned	data;

	if (item_count(page) != 1 || !get_item(page, 1, &item) || item.bytes < TUPLE_HEADER_BYTES + SEQUENCE_DATA_BYTES)
		return;
	data = page[item.offset + T_HOFF];
	if (data + SEQUENCE_DATA_BYTES == item.bytes)
		ignore(ignored, item.offset + data, SEQUENCE_IS_CALLED);
}

void
neon_page_ignored_bits(const uint8_t page[NEON_BLCKSZ], const neon_page_context *context, bool of_compute,
					   uint8_t ignored[NEON_BLCKSZ])
{
	neon_page_kind kind = neon_page_kind_of(page, context->fork);
	unsigned	special = get16(page + PD_SPECIAL);

	memset(ignored, 0, NEON_BLCKSZ);
	ignore(ignored, PD_LSN, 8);
	if (!page_header_is_sane(page))
		return;					/* then everything else counts */
	if (kind != NEON_PAGE_VM && kind != NEON_PAGE_BRIN_REVMAP)
		ignore(ignored, get16(page + PD_LOWER), get16(page + PD_UPPER) - get16(page + PD_LOWER));
	switch (kind)
	{
		case NEON_PAGE_HEAP:
			ignore_in_heap(page, of_compute, ignored);
			/* The record that sets it leaves the page's LSN alone. */
			if (context->flags & NEON_TRUTH_AS_OF_OWN_LSN)
				ignored[PD_FLAGS] |= PD_ALL_VISIBLE;
			break;
		case NEON_PAGE_BTREE:
			if (get16(page + special + BTPO_FLAGS) & BTP_LEAF)
				ignore_dead_items(page, ignored);
			ignore_flags(ignored, special + BTPO_FLAGS, BTP_HAS_GARBAGE | BTP_SPLIT_END);
			ignore(ignored, special + BTPO_CYCLEID, 2);
			break;
		case NEON_PAGE_HASH:
			if (get16(page + special + HASHO_FLAG) & (LH_OVERFLOW_PAGE | LH_BUCKET_PAGE))
			{
				ignore_dead_items(page, ignored);
				ignore_flags(ignored, special + HASHO_FLAG, LH_PAGE_HAS_DEAD_TUPLES);
			}
			break;
		case NEON_PAGE_GIST:
			if (get16(page + special + GIST_FLAGS) & GIST_LEAF)
				ignore_dead_items(page, ignored);
			ignore_flags(ignored, special + GIST_FLAGS, GIST_HAS_GARBAGE);
			break;
		case NEON_PAGE_SPGIST:
			if (context->block == 0 && (get16(page + special) & SPGIST_META))
				ignore(ignored, PAGE_HEADER_BYTES + 4, SPGIST_CACHE_BYTES);
			break;
		case NEON_PAGE_BRIN:
			ignore_flags(ignored, special + BRIN_FLAGS, BRIN_EVACUATE_PAGE);
			break;
		case NEON_PAGE_SEQUENCE:
			ignore_in_sequence(page, ignored);
			break;
		case NEON_PAGE_GIN:
			if (get16(page + special + GIN_FLAGS) == GIN_DELETED)
			{
				ignore(ignored, PD_LOWER, 4);
				ignore(ignored, PAGE_HEADER_BYTES, special + GIN_FLAGS - PAGE_HEADER_BYTES);
			}
			break;
		case NEON_PAGE_BRIN_REVMAP:
		case NEON_PAGE_VM:
		case NEON_PAGE_OTHER:
			break;
	}
}
