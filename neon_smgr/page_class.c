/*
 * page_class.c - does the WAL imply this page?
 *
 * The rules, and why (PostgreSQL 15):
 *
 * FSM            changes are hints that are not logged; losing them is bloat, reading them back from storage would be worse
 * visibility map a clear sets no LSN; bits are logged.  The page is implied, its last change is the end of WAL
 * never logged   LSN 0 or 1 (GistBuildLSN) and not new.  Without content (heap pages of a bulk extension, extended maps) it is
 *                what every reader makes of a zero page.  With content it is a page of an index build that logs itself at
 *                its end
 * sequence       32 values are logged at a time; the page counts them
 * heap           redo sets the command id to 0 and does not know combo command ids and speculative tokens.  They matter to
 *                the transaction that wrote them only, so until it ends.  A command id of 0 is what redo writes anyway
 * btree          redo clears btpo_cycleid; the vacuum with this id would miss a split and leave dead entries
 * anything else  implied
 *
 * Index and heap pages are told apart by the special area: heap pages have none; btree's is 16 bytes and ends with a cycle
 * id, below the numbers with which the other access methods mark their 16 bytes; a sequence's has a magic number.
 *
 * A page may be pinned without need (a stale answer costs local space), never the other way round: transactions and vacuums
 * that the page speaks of have begun before the page was changed, so they are seen here if they still run.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/multixact.h"
#include "access/nbtree.h"
#include "access/transam.h"
#include "access/visibilitymap.h"
#include "access/xlog.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/shmem.h"

#include "neon_smgr.h"
#include "page_class.h"

#define SEQUENCE_MAGIC	0x1717	/* sequence.c's SEQ_MAGIC */

/*
 * nbtutils.c's private table of running vacuums, found by its name in shared memory.  The layout is checked when it is
 * attached: max_vacuums is MaxBackends, and the size is what BTreeShmemSize says.
 */
typedef struct BtreeVacuum
{
	LockRelId	relid;
	BTCycleId	cycleid;
} BtreeVacuum;

typedef struct BtreeVacuums
{
	BTCycleId	cycle_ctr;
	int			num_vacuums;
	int			max_vacuums;
	BtreeVacuum vacuums[FLEXIBLE_ARRAY_MEMBER];
} BtreeVacuums;

static BtreeVacuums *btree_vacuums;

void
page_class_init(void)
{
	bool		found;
	Size		expected = add_size(offsetof(BtreeVacuums, vacuums), mul_size(MaxBackends, sizeof(BtreeVacuum)));

	btree_vacuums = ShmemInitStruct("BTree Vacuum State", BTreeShmemSize(), &found);
	if (!found || BTreeShmemSize() != expected || btree_vacuums->max_vacuums != MaxBackends)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot read the server's table of running btree vacuums"),
				 errdetail("Expected %zu bytes for %d vacuums, found %zu bytes.", expected, MaxBackends, BTreeShmemSize()),
				 errhint(NEON_PGPATCH_HINT)));
}

static bool
btree_vacuum_runs(BTCycleId cycleid)
{
	bool		runs = false;

	LWLockAcquire(BtreeVacuumLock, LW_SHARED);
	for (int i = 0; i < btree_vacuums->num_vacuums && !runs; i++)
		runs = btree_vacuums->vacuums[i].cycleid == cycleid;
	LWLockRelease(BtreeVacuumLock);
	return runs;
}

/* May redo's version of this tuple's header differ where a running transaction would see it? */
static bool
tuple_has_unlogged_state(HeapTupleHeader tup, TransactionId horizon, MultiXactId multi_horizon)
{
	uint16		info = tup->t_infomask;
	bool		xmin_open;
	bool		xmax_open = false;

	if (info & HEAP_MOVED)
		return false;
	xmin_open = !HeapTupleHeaderXminCommitted(tup) && !HeapTupleHeaderXminInvalid(tup) &&
		TransactionIdFollowsOrEquals(HeapTupleHeaderGetRawXmin(tup), horizon);
	if (!(info & (HEAP_XMAX_INVALID | HEAP_XMAX_COMMITTED)) && !HEAP_XMAX_IS_LOCKED_ONLY(info))
	{
		TransactionId xmax = HeapTupleHeaderGetRawXmax(tup);

		if (info & HEAP_XMAX_IS_MULTI)
			xmax_open = !MultiXactIdPrecedes(xmax, multi_horizon);
		else
			xmax_open = TransactionIdIsNormal(xmax) && TransactionIdFollowsOrEquals(xmax, horizon);
	}
	if (!xmin_open && !xmax_open)
		return false;
	return (info & HEAP_COMBOCID) != 0 ||
		HeapTupleHeaderGetRawCommandId(tup) != FirstCommandId ||
		HeapTupleHeaderIsSpeculative(tup);
}

static bool
heap_page_has_unlogged_state(Page page)
{
	OffsetNumber max = PageGetMaxOffsetNumber(page);
	TransactionId horizon = GetOldestActiveTransactionId();
	MultiXactId multi_horizon = InvalidMultiXactId;

	for (OffsetNumber o = FirstOffsetNumber; o <= max; o++)
	{
		ItemId		id = PageGetItemId(page, o);
		HeapTupleHeader tup;

		if (!ItemIdIsNormal(id))
			continue;
		tup = (HeapTupleHeader) PageGetItem(page, id);
		if ((tup->t_infomask & HEAP_XMAX_IS_MULTI) && multi_horizon == InvalidMultiXactId)
			multi_horizon = GetOldestMultiXactId();
		if (tuple_has_unlogged_state(tup, horizon, multi_horizon))
			return true;
	}
	return false;
}

/* Nothing but a page header. */
static bool
page_is_bare(Page page)
{
	PageHeader	ph = (PageHeader) page;
	const char *content = page + SizeOfPageHeaderData;

	if (ph->pd_lower > SizeOfPageHeaderData)
		return false;
	for (int i = 0; i < BLCKSZ - SizeOfPageHeaderData; i++)
		if (content[i] != 0)
			return false;
	return true;
}

static bool
is_sequence_page(Page page)
{
	return PageGetSpecialSize(page) == MAXALIGN(sizeof(uint32)) && *(uint32 *) PageGetSpecialPointer(page) == SEQUENCE_MAGIC;
}

PageClass
page_classify(int fork, const char *cpage)
{
	Page		page = (Page) cpage;
	uint16		special;

	if (PageIsNew(page))
		return PAGE_EMPTY;
	if (PageGetLSN(page) <= 1 && page_is_bare(page))
		return PAGE_EMPTY;
	if (fork == NEON_FORK_FSM)
		return PAGE_PIN_FSM;
	if (PageGetLSN(page) <= 1)
		return PAGE_PIN_BUILD;
	if (fork != NEON_FORK_MAIN)
		return PAGE_IMPLIED;

	special = PageGetSpecialSize(page);
	if (special == 0)
		return heap_page_has_unlogged_state(page) ? PAGE_PIN_XID : PAGE_IMPLIED;
	if (is_sequence_page(page))
		return PAGE_PIN_SEQUENCE;
	if (special == MAXALIGN(sizeof(BTPageOpaqueData)))
	{
		BTCycleId	cycleid = BTPageGetOpaque(page)->btpo_cycleid;

		if (cycleid != 0 && cycleid <= MAX_BT_CYCLE_ID && btree_vacuum_runs(cycleid))
			return PAGE_PIN_CYCLE;
	}
	return PAGE_IMPLIED;
}

XLogRecPtr
page_last_change(int fork, const char *cpage)
{
	Page		page = (Page) cpage;
	XLogRecPtr	lsn = PageGetLSN(page);

	if (fork == NEON_FORK_VM)
		return neon_insert_lsn();
	/* Setting a heap page all-visible is in WAL but leaves the page's LSN alone. */
	if (fork == NEON_FORK_MAIN && PageGetSpecialSize(page) == 0 && PageIsAllVisible(page))
		return neon_insert_lsn();
	return lsn <= 1 ? InvalidXLogRecPtr : lsn;
}

void
page_forget_unlogged(int fork, char *cpage)
{
	Page		page = (Page) cpage;
	OffsetNumber max;
	uint16		special;

	if (fork != NEON_FORK_MAIN || PageIsNew(page))
		return;
	special = PageGetSpecialSize(page);
	if (special == MAXALIGN(sizeof(BTPageOpaqueData)))
	{
		if (BTPageGetOpaque(page)->btpo_cycleid <= MAX_BT_CYCLE_ID)
			BTPageGetOpaque(page)->btpo_cycleid = 0;
		return;
	}
	if (is_sequence_page(page))
	{
		/* The log has the value that all prefetched ones lead up to (for an increment of 1). */
		HeapTupleHeader tup = (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, FirstOffsetNumber));
		Form_pg_sequence_data seq = (Form_pg_sequence_data) ((char *) tup + tup->t_hoff);

		seq->last_value += seq->log_cnt;
		seq->log_cnt = 0;
		return;
	}
	if (special != 0)
		return;
	max = PageGetMaxOffsetNumber(page);
	for (OffsetNumber o = FirstOffsetNumber; o <= max; o++)
	{
		ItemId		id = PageGetItemId(page, o);
		HeapTupleHeader tup;

		if (!ItemIdIsNormal(id))
			continue;
		tup = (HeapTupleHeader) PageGetItem(page, id);
		if (tup->t_infomask & HEAP_MOVED)
			continue;
		tup->t_choice.t_heap.t_field3.t_cid = FirstCommandId;
		tup->t_infomask &= ~HEAP_COMBOCID;
	}
}
