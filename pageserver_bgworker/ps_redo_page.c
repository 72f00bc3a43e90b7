/*
 * ps_redo_page.c - the page operations that redo needs, on pages that may hold anything.
 *
 * They give the same bytes as bufpage.c's where that succeeds, and fail where bufpage.c fails or would read outside the page.
 * The server checks line pointers against the page only where it moves tuples; here every use is checked.
 *
 * Invariant: no function touches memory outside page[0 .. BLCKSZ).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo.h"

#include "access/transam.h"

bool
ps_page_header_ok(const char *page)
{
	const PageHeaderData *p = (const PageHeaderData *) page;

	return p->pd_lower >= SizeOfPageHeaderData &&
		p->pd_lower <= p->pd_upper &&
		p->pd_upper <= p->pd_special &&
		p->pd_special <= BLCKSZ &&
		p->pd_special == MAXALIGN(p->pd_special);
}

bool
ps_page_is_new(const char *page)
{
	return ((const PageHeaderData *) page)->pd_upper == 0;
}

void
ps_page_init(char *page, uint16 special_bytes)
{
	PageHeader	p = (PageHeader) page;

	memset(page, 0, BLCKSZ);
	p->pd_lower = SizeOfPageHeaderData;
	p->pd_upper = BLCKSZ - MAXALIGN(special_bytes);
	p->pd_special = p->pd_upper;
	PageSetPageSizeAndVersion(page, BLCKSZ, PG_PAGE_LAYOUT_VERSION);
}

void
ps_page_set_lsn(char *page, XLogRecPtr lsn)
{
	PageXLogRecPtrSet(((PageHeader) page)->pd_lsn, lsn);
}

/* Of a page whose header is valid: at most (BLCKSZ - header) / 4. */
uint32
ps_page_max_offset(const char *page)
{
	return (((const PageHeaderData *) page)->pd_lower - SizeOfPageHeaderData) / sizeof(ItemIdData);
}

ItemId
ps_page_item(char *page, uint32 offset)
{
	if (!ps_page_header_ok(page) || offset < FirstOffsetNumber || offset > ps_page_max_offset(page))
		return NULL;
	return &((PageHeader) page)->pd_linp[offset - 1];
}

char *
ps_page_normal_item(char *page, uint32 offset, uint32 min_len, uint32 *len)
{
	ItemId		lp = ps_page_item(page, offset);
	PageHeader	p = (PageHeader) page;
	uint32		start;

	if (lp == NULL || !ItemIdIsNormal(lp))
		return NULL;
	start = ItemIdGetOffset(lp);
	*len = ItemIdGetLength(lp);
	if (*len < min_len || start != MAXALIGN(start) || start < p->pd_upper || start + *len > p->pd_special)
		return NULL;
	return page + start;
}

HeapTupleHeader
ps_page_heap_tuple(char *page, uint32 offset, uint32 *len)
{
	HeapTupleHeader tuple = (HeapTupleHeader) ps_page_normal_item(page, offset, SizeofHeapTupleHeader, len);

	if (tuple != NULL && (tuple->t_hoff < SizeofHeapTupleHeader || tuple->t_hoff > *len))
		return NULL;
	return tuple;
}

static bool
add_item(char *page, const char *item, uint32 len, uint32 offset, bool shift)
{
	PageHeader	p = (PageHeader) page;
	uint32		limit;
	uint32		lower;
	uint32		aligned = MAXALIGN(len);
	ItemId		lp;

	if (!ps_page_header_ok(page) || len == 0 || len > BLCKSZ)
		return false;
	limit = ps_page_max_offset(page) + 1;
	if (offset < FirstOffsetNumber || offset > limit)
		return false;

	lower = p->pd_lower;
	if (shift || offset == limit)
		lower += sizeof(ItemIdData);
	if (lower + aligned > p->pd_upper)
		return false;

	lp = &p->pd_linp[offset - 1];
	if (shift)
		memmove(lp + 1, lp, (limit - offset) * sizeof(ItemIdData));
	p->pd_lower = lower;
	p->pd_upper -= aligned;
	ItemIdSetNormal(lp, p->pd_upper, len);
	memcpy(page + p->pd_upper, item, len);
	return true;
}

bool
ps_page_add_heap_item(char *page, const char *item, uint32 len, uint32 offset)
{
	ItemId		old = ps_page_item(page, offset);

	if (offset > MaxHeapTuplesPerPage)
		return false;
	if (old != NULL && (ItemIdIsUsed(old) || ItemIdHasStorage(old)))
		return false;
	return add_item(page, item, len, offset, false);
}

bool
ps_page_add_index_item(char *page, const char *item, uint32 len, uint32 offset)
{
	return add_item(page, item, len, offset, true);
}

typedef struct LiveItem
{
	uint16		offset;			/* line pointer number */
	uint16		start;
	uint16		aligned_len;
} LiveItem;

/* Moves the tuples to the end of the page, in line pointer order, as compactify_tuples does. */
static void
compact(char *page, const LiveItem *items, int nitems)
{
	PageHeader	p = (PageHeader) page;
	uint16		upper = p->pd_special;
	PGAlignedBlock scratch;

	memcpy(scratch.data + p->pd_upper, page + p->pd_upper, p->pd_special - p->pd_upper);
	for (int i = 0; i < nitems; i++)
	{
		upper -= items[i].aligned_len;
		memcpy(page + upper, scratch.data + items[i].start, items[i].aligned_len);
		p->pd_linp[items[i].offset - 1].lp_off = upper;
	}
	p->pd_upper = upper;
}

bool
ps_page_repair_fragmentation(char *page)
{
	PageHeader	p = (PageHeader) page;
	LiveItem	items[MaxHeapTuplesPerPage];
	uint32		nline;
	uint32		last_used = 0;
	uint32		total = 0;
	int			nitems = 0;
	int			nunused = 0;

	if (!ps_page_header_ok(page))
		return false;
	nline = ps_page_max_offset(page);
	if (nline > MaxHeapTuplesPerPage)
		return false;

	for (uint32 i = FirstOffsetNumber; i <= nline; i++)
	{
		ItemId		lp = &p->pd_linp[i - 1];

		if (!ItemIdIsUsed(lp))
		{
			ItemIdSetUnused(lp);
			nunused++;
			continue;
		}
		last_used = i;
		if (ItemIdHasStorage(lp))
		{
			uint32		start = ItemIdGetOffset(lp);
			uint32		aligned = MAXALIGN(ItemIdGetLength(lp));

			if (start < p->pd_upper || start + aligned > p->pd_special)
				return false;
			items[nitems].offset = i;
			items[nitems].start = start;
			items[nitems].aligned_len = aligned;
			nitems++;
			total += aligned;
		}
	}

	/* Overlapping tuples could add up to more than there is. */
	if (total > (uint32) (p->pd_special - p->pd_lower))
		return false;
	if (nitems == 0)
		p->pd_upper = p->pd_special;
	else
		compact(page, items, nitems);

	if (last_used != nline)
	{
		nunused -= nline - last_used;
		p->pd_lower -= sizeof(ItemIdData) * (nline - last_used);
	}
	if (nunused > 0)
		PageSetHasFreeLinePointers(page);
	else
		PageClearHasFreeLinePointers(page);
	return true;
}

/* The caller has checked the header.  Always leaves one line pointer, as the server does. */
void
ps_page_truncate_line_pointers(char *page)
{
	PageHeader	p = (PageHeader) page;
	uint32		keep = ps_page_max_offset(page);
	bool		unused_left = false;

	while (keep > FirstOffsetNumber && !ItemIdIsUsed(&p->pd_linp[keep - 1]))
		keep--;
	for (uint32 i = FirstOffsetNumber; i <= keep && !unused_left; i++)
		unused_left = !ItemIdIsUsed(&p->pd_linp[i - 1]);

	p->pd_lower = SizeOfPageHeaderData + sizeof(ItemIdData) * keep;
	if (unused_left)
		PageSetHasFreeLinePointers(page);
	else
		PageClearHasFreeLinePointers(page);
}

/* TransactionIdPrecedes, without the server's function. */
static bool
xid_precedes(TransactionId a, TransactionId b)
{
	if (!TransactionIdIsNormal(a) || !TransactionIdIsNormal(b))
		return a < b;
	return (int32) (a - b) < 0;
}

void
ps_page_set_prunable(char *page, TransactionId xid)
{
	PageHeader	p = (PageHeader) page;

	if (!TransactionIdIsValid(p->pd_prune_xid) || xid_precedes(xid, p->pd_prune_xid))
		p->pd_prune_xid = xid;
}
