/*
 * ps_redo_check_page.c - redo self-check, relation pages: native redo, the redo process and the server must agree.
 *
 * The log comes from a server that ran with wal_consistency_checking = all, so that each record carries an image of every page
 * as it is afterwards.  Pages are kept in memory from their first full image on.  Each record is applied
 * natively, or by the process when native redo does not know it, and the result compared with the image, after the
 * resource manager's own masking.  Records are also kept, and every few of them are given to the process in one request
 * and to ps_redo() as a history, starting from the page before them: all must give the same page.
 *
 * The server masks a visibility map page's bits away; here they are compared, only the LSN is not.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo_check.h"

#include "access/bufmask.h"
#include "access/heapam_xlog.h"
#include "access/xlog_internal.h"
#include "catalog/storage_xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "ps_redo_process.h"

/* Records of a page that are applied one by one before they are repeated all at once. */
#define BATCH_RECORDS	8

#define HEAP_BLOCKS_PER_MAP_PAGE	((BLCKSZ - MAXALIGN(SizeOfPageHeaderData)) * 4)

typedef struct CheckPage
{
	neon_key	key;			/* hash key: first */
	bool		known;			/* page is the page's content; false until its first image */
	int			nbatch;			/* records applied since `before` */
	uint8		batch_rmid;
	PsVersion	batch[BATCH_RECORDS];
	PGAlignedBlock page;
	PGAlignedBlock before;
} CheckPage;

void
ps_check_pages_init(CheckState *state)
{
	HASHCTL		ctl = {.keysize = sizeof(neon_key), .entrysize = sizeof(CheckPage), .hcxt = CurrentMemoryContext};

	state->pages = hash_create("redo check pages", 1024, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
forget_batch(CheckPage *p)
{
	for (int i = 0; i < p->nbatch; i++)
		pfree(unconstify(uint8 *, p->batch[i].bytes));
	p->nbatch = 0;
}

static void
forget_page(CheckPage *p)
{
	forget_batch(p);
	p->known = false;
}

/* The server raises errors on pages that are beyond masking. */
static bool
mask(uint8 rmid, uint8 fork, BlockNumber blk, char *page)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool ok = true;

	if (fork == VISIBILITYMAP_FORKNUM)
	{
		mask_page_lsn_and_checksum(page);
		return true;
	}
	PG_TRY();
	{
		RmgrTable[rmid].rm_mask(page, blk);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		ok = false;
	}
	PG_END_TRY();
	return ok;
}

static bool
same_after_masking(uint8 rmid, const neon_key *key, const char *a, const char *b, int *offset)
{
	PGAlignedBlock x;
	PGAlignedBlock y;

	memcpy(x.data, a, BLCKSZ);
	memcpy(y.data, b, BLCKSZ);
	*offset = -1;
	if (ps_page_is_new(x.data) != ps_page_is_new(y.data))
		return false;
	if (!ps_page_is_new(x.data) &&
		(!mask(rmid, key->fork, key->blk, x.data) || !mask(rmid, key->fork, key->blk, y.data)))
		return false;
	for (int i = 0; i < BLCKSZ; i++)
		if (x.data[i] != y.data[i])
		{
			*offset = i;
			return false;
		}
	return true;
}

static void
compare(CheckState *state, uint8 rmid, const neon_key *key, XLogRecPtr lsn, const char *ours, const char *theirs,
		const char *what)
{
	int			offset;

	if (RmgrTable[rmid].rm_mask == NULL)
		return;
	state->counters[rmid].compared++;
	if (!same_after_masking(rmid, key, ours, theirs, &offset))
		ps_check_mismatch(state, rmid, key, lsn, psprintf("%s, at byte %d", what, offset));
}

/* ps_redo() over the same history: it mixes both methods, or uses only the process (neon_pageserver.redo_method). */
static void
check_chain(CheckState *state, CheckPage *p)
{
	PsVersion	versions[BATCH_RECORDS + 1];
	PsChain		chain = {.versions = versions, .complete = true};
	PGAlignedBlock page;

	for (int i = p->nbatch - 1; i >= 0; i--)
		versions[chain.nversions++] = p->batch[i];
	if (!ps_page_is_new(p->before.data))
		versions[chain.nversions++] = (PsVersion) {
			.lsn = PageGetLSN((Page) p->before.data),
			.flags = PS_VALUE_IMAGE | PS_VALUE_WILL_INIT,
			.len = BLCKSZ,
			.bytes = (const uint8 *) p->before.data
		};
	ps_redo(&p->key, &chain, page.data);
	compare(state, p->batch_rmid, &p->key, versions[0].lsn, p->page.data, page.data, "page differs from ps_redo's");
}

/* The process repeats what was done since `before`, in one request. */
static void
check_batch(CheckState *state, CheckPage *p)
{
	const PsVersion *records[BATCH_RECORDS];
	PGAlignedBlock page;
	const char *reason;
	XLogRecPtr	lsn;

	if (p->nbatch == 0)
		return;
	check_chain(state, p);
	if (!ps_redo_native_only(&p->key))
	{
		for (int i = 0; i < p->nbatch; i++)
			records[i] = &p->batch[i];
		lsn = p->batch[p->nbatch - 1].lsn;
		memcpy(page.data, p->before.data, BLCKSZ);
		state->counters[p->batch_rmid].by_process += p->nbatch;
		if (ps_redo_process_apply(&p->key, records, p->nbatch, page.data, &reason))
			compare(state, p->batch_rmid, &p->key, lsn, p->page.data, page.data, "page differs from the process's");
		else
			ps_check_mismatch(state, p->batch_rmid, &p->key, lsn, psprintf("process failed: %s", reason));
	}
	forget_batch(p);
}

static void
add_to_batch(CheckState *state, CheckPage *p, const neon_wal_record *rec, const char *before)
{
	PsVersion  *v;

	if (p->nbatch == 0)
		memcpy(p->before.data, before, BLCKSZ);
	v = &p->batch[p->nbatch++];
	v->lsn = rec->end;
	v->flags = PS_VALUE_RECORD;
	v->len = rec->len;
	v->bytes = memcpy(MemoryContextAllocHuge(state->context, rec->len), rec->bytes, rec->len);
	p->batch_rmid = rec->rmid;
}

static bool
apply_in_process(CheckState *state, CheckPage *p, const neon_wal_record *rec)
{
	PsVersion	v = {.lsn = rec->end, .flags = PS_VALUE_RECORD, .len = rec->len, .bytes = rec->bytes};
	const PsVersion *records[1] = {&v};
	const char *reason;

	state->counters[rec->rmid].by_process++;
	if (ps_redo_process_apply(&p->key, records, 1, p->page.data, &reason))
		return true;
	ps_check_mismatch(state, rec->rmid, &p->key, rec->end, psprintf("process failed: %s", reason));
	return false;
}

static void
apply(CheckState *state, CheckPage *p, const neon_wal_record *rec, const neon_wal_block *block)
{
	PGAlignedBlock before;
	const char *reason;

	memcpy(before.data, p->page.data, BLCKSZ);
	switch (ps_redo_native(&p->key, rec->end, rec->bytes, rec->len, p->page.data, &reason))
	{
		case PS_REDO_DONE:
			state->counters[rec->rmid].native++;
			add_to_batch(state, p, rec, before.data);
			break;
		case PS_REDO_UNSUPPORTED:
			if (apply_in_process(state, p, rec))
				add_to_batch(state, p, rec, before.data);
			else
				forget_page(p);
			break;
		case PS_REDO_CORRUPT:
			ps_check_mismatch(state, rec->rmid, &p->key, rec->end, psprintf("native redo failed: %s", reason));
			forget_page(p);
			break;
	}
	if (p->known && !ps_page_is_new(p->page.data) && PageGetLSN(p->page.data) != rec->end)
		ps_check_mismatch(state, rec->rmid, &p->key, rec->end, "page LSN is not the record's end");

	if (p->known && block != NULL && block->has_image)
	{
		PGAlignedBlock image;

		if (ps_redo_restore_image(block, image.data, &reason))
			compare(state, rec->rmid, &p->key, rec->end, p->page.data, image.data, "page differs from the server's");
		else
			ps_check_mismatch(state, rec->rmid, &p->key, rec->end, reason);
	}
	if (p->nbatch == BATCH_RECORDS)
		check_batch(state, p);
}

static void
visit(CheckState *state, const neon_key *key, const neon_wal_record *rec, const neon_wal_block *block)
{
	bool		image = block != NULL && block->has_image && (block->apply_image || rec->rmid == RM_XLOG_ID);
	bool		found;
	CheckPage  *p = hash_search(state->pages, key, HASH_ENTER, &found);
	const char *reason;

	if (!found)
	{
		p->known = false;
		p->nbatch = 0;
	}
	if (image)
	{
		check_batch(state, p);
		p->known = ps_redo_restore_image(block, p->page.data, &reason);
		if (!p->known)
			ps_check_mismatch(state, rec->rmid, key, rec->end, reason);
		else if (!ps_page_is_new(p->page.data))
			ps_page_set_lsn(p->page.data, rec->end);
		return;
	}
	if (block != NULL && block->will_init)
	{
		check_batch(state, p);
		memset(p->page.data, 0, BLCKSZ);
		p->known = true;
	}
	if (p->known && key->fork != FSM_FORKNUM)
		apply(state, p, rec, block);
}

/* ---- what records do beyond their block references ---- */
static neon_key
block_key(const neon_wal_block *b)
{
	return (neon_key) {.spc = b->spc, .db = b->db, .rel = b->rel, .blk = b->blk, .fork = b->fork, .kind = NEON_KEY_REL_BLOCK};
}

/* A heap record may have cleared bits of the map pages of its heap blocks: each map page once. */
static void
visit_map_pages(CheckState *state, const neon_wal_record *rec, const neon_wal_parsed *parsed)
{
	uint8		op = rec->info & XLOG_HEAP_OPMASK;
	BlockNumber last = InvalidBlockNumber;

	if (rec->rmid == RM_HEAP_ID ? (op == XLOG_HEAP_INPLACE || op == XLOG_HEAP_CONFIRM || op == XLOG_HEAP_TRUNCATE) :
		(op != XLOG_HEAP2_MULTI_INSERT && op != XLOG_HEAP2_LOCK_UPDATED))
		return;
	for (int i = 0; i < parsed->nblocks; i++)
	{
		neon_key	key = block_key(&parsed->blocks[i]);

		key.fork = VISIBILITYMAP_FORKNUM;
		key.blk /= HEAP_BLOCKS_PER_MAP_PAGE;
		if (key.blk != last && hash_search(state->pages, &key, HASH_FIND, NULL) != NULL)
			visit(state, &key, rec, NULL);
		last = key.blk;
	}
}

/* Forgets blocks from `blk` on of a fork, or all forks with InvalidForkNumber. */
static void
forget_blocks(CheckState *state, const RelFileNode *rnode, int fork, BlockNumber blk)
{
	HASH_SEQ_STATUS seq;
	CheckPage  *p;

	hash_seq_init(&seq, state->pages);
	while ((p = hash_seq_search(&seq)) != NULL)
	{
		if (p->key.spc != rnode->spcNode || p->key.db != rnode->dbNode || p->key.rel != rnode->relNode ||
			(fork != InvalidForkNumber && p->key.fork != fork) || p->key.blk < blk)
			continue;
		check_batch(state, p);
		forget_page(p);
	}
}

static void
storage_record(CheckState *state, const neon_wal_record *rec, const neon_wal_parsed *parsed)
{
	uint8		info = rec->info & ~XLR_INFO_MASK;

	if (info == XLOG_SMGR_CREATE && parsed->main_len >= sizeof(xl_smgr_create))
	{
		xl_smgr_create create;

		memcpy(&create, parsed->main_data, sizeof(create));
		forget_blocks(state, &create.rnode, create.forkNum, 0);
	}
	else if (info == XLOG_SMGR_TRUNCATE && parsed->main_len >= sizeof(xl_smgr_truncate))
	{
		xl_smgr_truncate cut;
		neon_key	key = {.kind = NEON_KEY_REL_BLOCK, .fork = VISIBILITYMAP_FORKNUM};

		memcpy(&cut, parsed->main_data, sizeof(cut));
		if (cut.flags & SMGR_TRUNCATE_HEAP)
			forget_blocks(state, &cut.rnode, MAIN_FORKNUM, cut.blkno);
		if ((cut.flags & SMGR_TRUNCATE_VM) == 0)
			return;
		forget_blocks(state, &cut.rnode, VISIBILITYMAP_FORKNUM,
					  (cut.blkno + HEAP_BLOCKS_PER_MAP_PAGE - 1) / HEAP_BLOCKS_PER_MAP_PAGE);
		key.spc = cut.rnode.spcNode;
		key.db = cut.rnode.dbNode;
		key.rel = cut.rnode.relNode;
		key.blk = cut.blkno / HEAP_BLOCKS_PER_MAP_PAGE;
		if (cut.blkno % HEAP_BLOCKS_PER_MAP_PAGE != 0)
			visit(state, &key, rec, NULL);
	}
}

void
ps_check_pages_record(CheckState *state, const neon_wal_record *rec, const neon_wal_parsed *parsed)
{
	for (int i = 0; i < parsed->nblocks; i++)
	{
		neon_key	key = block_key(&parsed->blocks[i]);

		visit(state, &key, rec, &parsed->blocks[i]);
	}
	if (rec->rmid == RM_HEAP_ID || rec->rmid == RM_HEAP2_ID)
		visit_map_pages(state, rec, parsed);
	else if (rec->rmid == RM_SMGR_ID)
		storage_record(state, rec, parsed);
}

void
ps_check_pages_finish(CheckState *state)
{
	HASH_SEQ_STATUS seq;
	CheckPage  *p;

	hash_seq_init(&seq, state->pages);
	while ((p = hash_seq_search(&seq)) != NULL)
		check_batch(state, p);
}
