/*
 * ps_redo_slru.c - pages of the commit log and of the multixact logs, which carry no LSN.
 *
 * A page's number is segment * 32 + block.  Records name transactions, not pages: one record may change several pages and is
 * in the history of each; what concerns another page is skipped.  A commit sets its whole tree at once: the server's
 * intermediate state "sub-committed" protects readers between two page writes and never shows at the end of a record.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo.h"

#include "access/clog.h"
#include "access/multixact.h"
#include "access/rmgr.h"
#include "access/slru.h"
#include "access/xact.h"

/* Private to clog.c and multixact.c. */
#define XACT_BITS				2
#define XACTS_PER_BYTE			4
#define XACTS_PER_PAGE			(BLCKSZ * XACTS_PER_BYTE)
#define OFFSETS_PER_PAGE		(BLCKSZ / sizeof(MultiXactOffset))
#define MEMBERS_PER_GROUP		4
#define MEMBER_GROUP_BYTES		(MEMBERS_PER_GROUP * sizeof(TransactionId) + MEMBERS_PER_GROUP)
#define MEMBER_GROUPS_PER_PAGE	(BLCKSZ / MEMBER_GROUP_BYTES)
#define MEMBERS_PER_PAGE		(MEMBER_GROUPS_PER_PAGE * MEMBERS_PER_GROUP)

static uint32
page_number(const PsRedoOp *op)
{
	return op->key->rel * SLRU_PAGES_PER_SEGMENT + op->key->blk;
}

static PsRedoStatus
zero_page(PsRedoOp *op)
{
	int			pageno;

	if (!ps_redo_main(op, &pageno, sizeof(pageno)))
		return ps_redo_corrupt(op, "record that zeroes a page is too short");
	if ((uint32) pageno != page_number(op))
		return ps_redo_corrupt(op, "record zeroes another page");
	memset(op->page, 0, BLCKSZ);
	return PS_REDO_DONE;
}

/* ---- commit log ---- */
static void
set_xact(PsRedoOp *op, TransactionId xid, uint8 status)
{
	uint32		in_page = xid % XACTS_PER_PAGE;
	int			shift = (in_page % XACTS_PER_BYTE) * XACT_BITS;
	uint8	   *byte = (uint8 *) op->page + in_page / XACTS_PER_BYTE;

	if (xid / XACTS_PER_PAGE != page_number(op))
		return;
	*byte = (*byte & ~(3 << shift)) | (status << shift);
}

/* Skips one counted array of a commit or abort record; false when it does not fit. */
static bool
skip_array(neon_reader *r, uint32 element_bytes)
{
	int32		n = 0;

	neon_get_copy(r, &n, sizeof(n));
	return r->ok && n >= 0 && neon_get_bytes(r, (size_t) n * element_bytes) != NULL;
}

/*
 * Commit, abort and their prepared forms differ only in what follows; all start with a time, then xinfo if announced, then the
 * parts in the order of the flags.  Follows ParseCommitRecord and ParseAbortRecord.
 */
static PsRedoStatus
xact_end(PsRedoOp *op, bool commit, bool prepared)
{
	neon_reader r;
	uint32		xinfo = 0;
	TransactionId xid = op->xid;
	const uint8 *subxacts = NULL;
	int32		nsubxacts = 0;
	uint8		status = commit ? TRANSACTION_STATUS_COMMITTED : TRANSACTION_STATUS_ABORTED;
	bool		ok = true;

	neon_reader_init(&r, op->parsed->main_data, op->parsed->main_len);
	neon_get_bytes(&r, sizeof(TimestampTz));
	if (op->info & XLOG_XACT_HAS_INFO)
		neon_get_copy(&r, &xinfo, sizeof(xinfo));
	if (xinfo & XACT_XINFO_HAS_DBINFO)
		neon_get_bytes(&r, sizeof(xl_xact_dbinfo));
	if (xinfo & XACT_XINFO_HAS_SUBXACTS)
	{
		neon_get_copy(&r, &nsubxacts, sizeof(nsubxacts));
		if (!r.ok || nsubxacts < 0)
			return ps_redo_corrupt(op, "transaction record has a negative number of subtransactions");
		subxacts = neon_get_bytes(&r, (size_t) nsubxacts * sizeof(TransactionId));
	}
	if (xinfo & XACT_XINFO_HAS_RELFILENODES)
		ok = ok && skip_array(&r, sizeof(RelFileNode));
	if (xinfo & XACT_XINFO_HAS_DROPPED_STATS)
		ok = ok && skip_array(&r, sizeof(xl_xact_stats_item));
	if (commit && (xinfo & XACT_XINFO_HAS_INVALS))
		ok = ok && skip_array(&r, sizeof(SharedInvalidationMessage));
	if (xinfo & XACT_XINFO_HAS_TWOPHASE)
		neon_get_copy(&r, &xid, sizeof(xid));
	if (!ok || !r.ok || (prepared && !(xinfo & XACT_XINFO_HAS_TWOPHASE)) || !TransactionIdIsNormal(xid))
		return ps_redo_corrupt(op, "transaction record is too short");

	set_xact(op, xid, status);
	for (int32 i = 0; i < nsubxacts; i++)
	{
		TransactionId sub;

		memcpy(&sub, subxacts + (size_t) i * sizeof(sub), sizeof(sub));
		set_xact(op, sub, status);
	}
	return PS_REDO_DONE;
}

static PsRedoStatus
redo_xact(PsRedoOp *op)
{
	if (op->rmid == RM_CLOG_ID && (op->info & ~XLR_INFO_MASK) == CLOG_ZEROPAGE)
		return zero_page(op);
	if (op->rmid != RM_XACT_ID)
		return ps_redo_corrupt(op, "record does not change the commit log");
	switch (op->info & XLOG_XACT_OPMASK)
	{
		case XLOG_XACT_COMMIT:
			return xact_end(op, true, false);
		case XLOG_XACT_COMMIT_PREPARED:
			return xact_end(op, true, true);
		case XLOG_XACT_ABORT:
			return xact_end(op, false, false);
		case XLOG_XACT_ABORT_PREPARED:
			return xact_end(op, false, true);
		default:
			return ps_redo_corrupt(op, "transaction record does not change the commit log");
	}
}

/* ---- multixacts ---- */
static void
set_offset(PsRedoOp *op, MultiXactId multi, MultiXactOffset offset)
{
	if (multi / OFFSETS_PER_PAGE == page_number(op))
		memcpy(op->page + multi % OFFSETS_PER_PAGE * sizeof(offset), &offset, sizeof(offset));
}

static void
set_member(PsRedoOp *op, MultiXactOffset offset, const MultiXactMember *member)
{
	uint32		in_group = offset % MEMBERS_PER_GROUP;
	uint32		group = offset / MEMBERS_PER_GROUP % MEMBER_GROUPS_PER_PAGE * MEMBER_GROUP_BYTES;

	if (offset / MEMBERS_PER_PAGE != page_number(op))
		return;
	/* A group is four bytes of status, little-endian, then four transaction ids. */
	op->page[group + in_group] = (char) member->status;
	memcpy(op->page + group + MEMBERS_PER_GROUP + in_group * sizeof(TransactionId), &member->xid, sizeof(TransactionId));
}

/* The record sets where its own members start and where the next multixact's will. */
static PsRedoStatus
multixact_create(PsRedoOp *op)
{
	xl_multixact_create rec;
	MultiXactId next;
	MultiXactOffset next_offset;

	if (!ps_redo_main(op, &rec, SizeOfMultiXactCreate) || rec.nmembers < 0 ||
		(op->parsed->main_len - SizeOfMultiXactCreate) / sizeof(MultiXactMember) < (uint32) rec.nmembers)
		return ps_redo_corrupt(op, "multixact record is too short");

	if (op->key->spc == NEON_SLRU_MULTIXACT_OFFSETS)
	{
		next = rec.mid + 1 < FirstMultiXactId ? FirstMultiXactId : rec.mid + 1;
		next_offset = rec.moff + rec.nmembers == 0 ? 1 : rec.moff + rec.nmembers;
		set_offset(op, rec.mid, rec.moff);
		set_offset(op, next, next_offset);
		return PS_REDO_DONE;
	}
	for (int32 i = 0; i < rec.nmembers; i++)
	{
		MultiXactMember member;

		memcpy(&member, op->parsed->main_data + SizeOfMultiXactCreate + (size_t) i * sizeof(member), sizeof(member));
		set_member(op, rec.moff + i, &member);
	}
	return PS_REDO_DONE;
}

static PsRedoStatus
redo_multixact(PsRedoOp *op)
{
	uint8		info = op->info & ~XLR_INFO_MASK;
	bool		offsets = op->key->spc == NEON_SLRU_MULTIXACT_OFFSETS;

	if (op->rmid != RM_MULTIXACT_ID)
		return ps_redo_corrupt(op, "record does not change multixacts");
	if (info == XLOG_MULTIXACT_CREATE_ID)
		return multixact_create(op);
	if (info == (offsets ? XLOG_MULTIXACT_ZERO_OFF_PAGE : XLOG_MULTIXACT_ZERO_MEM_PAGE))
		return zero_page(op);
	return ps_redo_corrupt(op, "multixact record does not change the page");
}

PsRedoStatus
ps_redo_slru(PsRedoOp *op)
{
	switch (op->key->spc)
	{
		case NEON_SLRU_XACT:
			return redo_xact(op);
		case NEON_SLRU_MULTIXACT_OFFSETS:
		case NEON_SLRU_MULTIXACT_MEMBERS:
			return redo_multixact(op);
		default:
			return ps_redo_corrupt(op, "no such log of transactions");
	}
}
