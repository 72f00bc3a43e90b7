/*
 * ps_ingest_slru.c - commit status and multixacts: which SLRU pages a record changes.
 *
 * A page that changes gets the record as a version; redo sets the bits.  A zeroed page is an image.  Segments have a size
 * version of their own, so that a base backup knows which files there are; truncation makes it absent.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/clog.h"
#include "access/multixact.h"
#include "access/xlogrecord.h"

#include "ps_ingest.h"
#include "ps_redo.h"

#define CLOG_XACTS_PER_PAGE			(BLCKSZ * 4)	/* two bits each */
#define OFFSETS_PER_PAGE			(BLCKSZ / sizeof(MultiXactOffset))
/* Members stand in groups of four: four flag bytes, then four xids. */
#define MEMBERS_PER_GROUP			4
#define MEMBER_GROUP_BYTES			(MEMBERS_PER_GROUP * (1 + sizeof(TransactionId)))
#define MEMBERS_PER_PAGE			(BLCKSZ / MEMBER_GROUP_BYTES * MEMBERS_PER_GROUP)
#define MAX_MEMBER_SEGMENT			(MaxMultiXactOffset / MEMBERS_PER_PAGE / PS_SLRU_PAGES_PER_SEGMENT)

typedef bool (*PagePrecedes) (uint32 page1, uint32 page2);

static void
zero_page(PsIngest *ing, neon_slru_kind kind)
{
	static const char zeros[BLCKSZ];
	uint32		pageno;
	neon_key	key;

	memcpy(&pageno, ps_ingest_main_data(ing, sizeof(pageno)), sizeof(pageno));
	key = ps_slru_block_key(kind, pageno);
	ps_ingest_extend(ing, NEON_KEY_SLRU_SIZE, kind, 0, key.rel, 0, key.blk);
	ps_ingest_put_image(ing, &key, zeros, BLCKSZ);
}

/*
 * A record of a million subtransactions belongs to dozens of pages, and would be kept for each: what is kept of it is the pages.  They are made of
 * what is committed, so begin_page_records() comes before anything of the record is put.
 */
static bool
is_larger_than_pages(const PsIngest *ing)
{
	return ing->rec->len > BLCKSZ;
}

static void
begin_page_records(PsIngest *ing)
{
	if (is_larger_than_pages(ing))
		ps_ingest_commit(ing);
}

static void
put_page_after(PsIngest *ing, const neon_key *key)
{
	PGAlignedBlock page;
	const char *reason = "its page cannot be made";

	ps_get_page(ing->tl, key, ps_timeline_last_record_lsn(ing->tl), page.data);
	if (ps_redo_native(key, ing->rec->end, ing->rec->bytes, ing->rec->len, page.data, &reason) != PS_REDO_DONE)
		ps_ingest_corrupt(ing, reason);
	ps_ingest_put_image(ing, key, page.data, BLCKSZ);
}

static void
put_page_record(PsIngest *ing, neon_slru_kind kind, uint32 pageno)
{
	neon_key	key = ps_slru_block_key(kind, pageno);

	ps_ingest_extend(ing, NEON_KEY_SLRU_SIZE, kind, 0, key.rel, 0, key.blk);
	if (is_larger_than_pages(ing))
		put_page_after(ing, &key);
	else
		ps_ingest_put_record(ing, &key, false);
}

static void
remove_segment(PsIngest *ing, neon_slru_kind kind, uint32 segment)
{
	ps_ingest_set_size(ing, NEON_KEY_SLRU_SIZE, kind, 0, segment, 0, NEON_SIZE_ABSENT);
}

/* ---- truncation by a cutoff page ---- */

typedef struct SegmentList
{
	uint32	   *segments;
	int			n;
	int			cap;
} SegmentList;

static bool
collect_segment(const neon_key *key, const PsVersion *v, void *arg)
{
	SegmentList *list = arg;

	if (v->len != 4 || ps_get_be32(v->bytes) == NEON_SIZE_ABSENT)
		return true;
	if (list->n == list->cap)
	{
		list->cap *= 2;
		list->segments = repalloc(list->segments, list->cap * sizeof(uint32));
	}
	list->segments[list->n++] = key->rel;
	return true;
}

/* Remove segments that lie wholly before the cutoff, in the order of a space that wraps around. */
static void
truncate_before(PsIngest *ing, neon_slru_kind kind, uint32 cutoff_page, PagePrecedes precedes)
{
	neon_key	from = ps_key(NEON_KEY_SLRU_SIZE, kind, 0, 0, 0, 0);
	neon_key	to = ps_key(NEON_KEY_SLRU_SIZE, kind, 0, PG_UINT32_MAX, 0, PG_UINT32_MAX);
	SegmentList list = {.cap = 16};

	ps_ingest_commit(ing);
	list.segments = palloc(list.cap * sizeof(uint32));
	ps_scan(ing->tl, &from, &to, ps_timeline_last_record_lsn(ing->tl), collect_segment, &list);
	for (int i = 0; i < list.n; i++)
	{
		uint32		first = list.segments[i] * PS_SLRU_PAGES_PER_SEGMENT;
		uint32		last = first + PS_SLRU_PAGES_PER_SEGMENT - 1;

		if (precedes(first, cutoff_page) && precedes(last, cutoff_page))
			remove_segment(ing, kind, list.segments[i]);
	}
	pfree(list.segments);
}

/* ---- commit status ---- */

static bool
clog_page_precedes(uint32 page1, uint32 page2)
{
	TransactionId xid1 = page1 * CLOG_XACTS_PER_PAGE + FirstNormalTransactionId + 1;
	TransactionId xid2 = page2 * CLOG_XACTS_PER_PAGE + FirstNormalTransactionId + 1;

	return TransactionIdPrecedes(xid1, xid2) && TransactionIdPrecedes(xid1, xid2 + CLOG_XACTS_PER_PAGE - 1);
}

static int
compare_uint32(const void *a, const void *b)
{
	uint32		x = *(const uint32 *) a;
	uint32		y = *(const uint32 *) b;

	return (x > y) - (x < y);
}

/* A transaction and its children ended: the record belongs to every commit status page that holds one of them. */
void
ps_ingest_xid_status(PsIngest *ing, TransactionId xid, int nsubxids, const TransactionId *subxids)
{
	uint32	   *pages = MemoryContextAllocHuge(ing->record_context, (nsubxids + 1) * sizeof(uint32));
	int			npages = 0;

	begin_page_records(ing);
	ps_ingest_note_xid(ing, xid);
	pages[npages++] = xid / CLOG_XACTS_PER_PAGE;
	for (int i = 0; i < nsubxids; i++)
	{
		uint32		pageno = subxids[i] / CLOG_XACTS_PER_PAGE;

		ps_ingest_note_xid(ing, subxids[i]);
		if (pages[npages - 1] != pageno)
			pages[npages++] = pageno;
	}
	qsort(pages, npages, sizeof(uint32), compare_uint32);
	for (int i = 0; i < npages; i++)
		if (i == 0 || pages[i] != pages[i - 1])
			put_page_record(ing, NEON_SLRU_XACT, pages[i]);
	pfree(pages);
}

void
ps_ingest_clog(PsIngest *ing)
{
	uint8		info = ing->rec->info & ~XLR_INFO_MASK;

	if (info == CLOG_ZEROPAGE)
		zero_page(ing, NEON_SLRU_XACT);
	else if (info == CLOG_TRUNCATE)
	{
		xl_clog_truncate trunc;

		memcpy(&trunc, ps_ingest_main_data(ing, sizeof(trunc)), sizeof(trunc));
		truncate_before(ing, NEON_SLRU_XACT, trunc.pageno, clog_page_precedes);
		if (TransactionIdPrecedes(ing->checkpoint.oldestXid, trunc.oldestXact))
		{
			ing->checkpoint.oldestXid = trunc.oldestXact;
			ing->checkpoint.oldestXidDB = trunc.oldestXactDb;
			ing->checkpoint_dirty = true;
		}
	}
	else
		ps_ingest_corrupt(ing, "unknown commit status record");
}

/* ---- multixacts ---- */

static bool
multi_precedes(uint32 a, uint32 b)
{
	return (int32) (a - b) < 0;
}

static bool
offset_page_precedes(uint32 page1, uint32 page2)
{
	MultiXactId multi1 = page1 * OFFSETS_PER_PAGE + FirstMultiXactId + 1;
	MultiXactId multi2 = page2 * OFFSETS_PER_PAGE + FirstMultiXactId + 1;

	return multi_precedes(multi1, multi2) && multi_precedes(multi1, multi2 + OFFSETS_PER_PAGE - 1);
}

/* The record writes the offset of its own multixact and that of the next one, which may be on the next page. */
static void
put_offset_pages(PsIngest *ing, MultiXactId multi)
{
	MultiXactId next = multi + 1;
	uint32		page = multi / OFFSETS_PER_PAGE;
	uint32		next_page;
	neon_key	key;
	uint32		size;

	if (next < FirstMultiXactId)
		next = FirstMultiXactId;
	next_page = next / OFFSETS_PER_PAGE;
	put_page_record(ing, NEON_SLRU_MULTIXACT_OFFSETS, page);
	if (next_page == page)
		return;

	/*
	 * Servers zero the next page before they write this record; old minor versions did so only afterwards, and then
	 * the entry is set by the next multixact's record.
	 */
	key = ps_slru_block_key(NEON_SLRU_MULTIXACT_OFFSETS, next_page);
	size = ps_ingest_size(ing, NEON_KEY_SLRU_SIZE, NEON_SLRU_MULTIXACT_OFFSETS, 0, key.rel, 0);
	if (size != NEON_SIZE_ABSENT && key.blk < size)
		put_page_record(ing, NEON_SLRU_MULTIXACT_OFFSETS, next_page);
}

static void
create_multixact(PsIngest *ing)
{
	const xl_multixact_create *create = (const xl_multixact_create *) ps_ingest_main_data(ing, SizeOfMultiXactCreate);
	MultiXactOffset offset = create->moff;
	MultiXactId next_multi = create->mid + 1;
	MultiXactOffset next_offset = create->moff + create->nmembers;
	uint32		done_page = PG_UINT32_MAX;

	if (create->nmembers < 0 ||
		ing->parsed.main_len < SizeOfMultiXactCreate + (uint64) create->nmembers * sizeof(MultiXactMember))
		ps_ingest_corrupt(ing, "multixact record is too short for its members");

	begin_page_records(ing);
	put_offset_pages(ing, create->mid);
	for (int i = 0; i < create->nmembers; i++, offset++)
	{
		uint32		page = offset / MEMBERS_PER_PAGE;

		ps_ingest_note_xid(ing, create->members[i].xid);
		if (page != done_page)
			put_page_record(ing, NEON_SLRU_MULTIXACT_MEMBERS, page);
		done_page = page;
	}

	if (multi_precedes(ing->checkpoint.nextMulti, next_multi))
	{
		ing->checkpoint.nextMulti = next_multi;
		ing->checkpoint_dirty = true;
	}
	if (multi_precedes(ing->checkpoint.nextMultiOffset, next_offset))
	{
		ing->checkpoint.nextMultiOffset = next_offset;
		ing->checkpoint_dirty = true;
	}
}

static void
truncate_multixact(PsIngest *ing)
{
	xl_multixact_truncate trunc;
	uint32		segment;
	uint32		end_segment;
	MultiXactId last_removed;

	memcpy(&trunc, ps_ingest_main_data(ing, sizeof(trunc)), sizeof(trunc));
	last_removed = trunc.endTruncOff == FirstMultiXactId ? MaxMultiXactId : trunc.endTruncOff - 1;
	truncate_before(ing, NEON_SLRU_MULTIXACT_OFFSETS, last_removed / OFFSETS_PER_PAGE, offset_page_precedes);

	segment = trunc.startTruncMemb / MEMBERS_PER_PAGE / PS_SLRU_PAGES_PER_SEGMENT;
	end_segment = trunc.endTruncMemb / MEMBERS_PER_PAGE / PS_SLRU_PAGES_PER_SEGMENT;
	while (segment != end_segment)
	{
		remove_segment(ing, NEON_SLRU_MULTIXACT_MEMBERS, segment);
		segment = segment == MAX_MEMBER_SEGMENT ? 0 : segment + 1;
	}

	ing->checkpoint.oldestMulti = trunc.endTruncOff;
	ing->checkpoint.oldestMultiDB = trunc.oldestMultiDB;
	ing->checkpoint_dirty = true;
}

void
ps_ingest_multixact(PsIngest *ing)
{
	switch (ing->rec->info & ~XLR_INFO_MASK)
	{
		case XLOG_MULTIXACT_ZERO_OFF_PAGE:
			zero_page(ing, NEON_SLRU_MULTIXACT_OFFSETS);
			break;
		case XLOG_MULTIXACT_ZERO_MEM_PAGE:
			zero_page(ing, NEON_SLRU_MULTIXACT_MEMBERS);
			break;
		case XLOG_MULTIXACT_CREATE_ID:
			create_multixact(ing);
			break;
		case XLOG_MULTIXACT_TRUNCATE_ID:
			truncate_multixact(ing);
			break;
		default:
			ps_ingest_corrupt(ing, "unknown multixact record");
	}
}
