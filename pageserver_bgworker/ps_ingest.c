/*
 * ps_ingest.c - from one WAL record to the versions it implies.
 *
 * Every record goes through the same steps: transaction ids in its header move the next xid, its block references
 * become versions of those blocks (ps_ingest_block.c), and record types that change something no block reference names
 * (commit status, sizes, databases, counters) have a function of their own.  docs/wal-ingest.md has the table.
 *
 * Invariant: a key gets at most one version per record, all with the record's end as LSN; so sizes, the next xid and
 * the checkpoint struct are gathered while the record is taken apart and put once at its end.  An ingest's own reads
 * see only what ps_commit published; what is newer is in the caches here (sizes, next_xid, checkpoint), and a record that
 * must read pages commits the records before it first.
 *
 * Locks: none; one process ingests a timeline at a time (its owner).  Crash rule: nothing here is durable; ingest begins
 * again at disk_consistent_lsn with ps_ingest_begin, which loads its state as of last_record_lsn.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlogrecord.h"
#include "utils/memutils.h"

#include "ps_ingest.h"

static void load_state(PsIngest *ing);
static HTAB *create_size_cache(PsIngest *ing);
static void dispatch(PsIngest *ing);
static void finish_record(PsIngest *ing);

PsIngest *
ps_ingest_begin(PsTimeline *tl)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "neon ingest", ALLOCSET_DEFAULT_SIZES);
	PsIngest   *ing = MemoryContextAllocZero(context, sizeof(PsIngest));

	ing->tl = tl;
	ing->context = context;
	ing->record_context = AllocSetContextCreate(context, "neon ingest record", ALLOCSET_DEFAULT_SIZES);
	ing->sizes = create_size_cache(ing);
	ing->dirty_sizes_cap = 64;
	ing->dirty_sizes = MemoryContextAlloc(context, ing->dirty_sizes_cap * sizeof(PsSizeEntry *));
	ing->last_end = ps_timeline_last_record_lsn(tl);
	ing->last_start = ps_timeline_prev_record_lsn(tl);
	load_state(ing);
	return ing;
}

void
ps_ingest_end(PsIngest *ing)
{
	ps_ingest_commit(ing);
	MemoryContextDelete(ing->context);
}

/* Forget records that were not committed; a later ingest puts their versions again. */
void
ps_ingest_abandon(PsIngest *ing)
{
	MemoryContextDelete(ing->context);
}

void
ps_ingest_commit(PsIngest *ing)
{
	if (!ing->pending)
		return;
	ps_commit(ing->tl, ing->last_end, ing->last_start);
	ing->pending = false;
}

void
ps_ingest_record(PsIngest *ing, const neon_wal_record *rec)
{
	MemoryContext old;
	neon_wal_status status;

	if (rec->end <= ing->last_end)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("WAL record at %X/%X ends at %X/%X, not after the last ingested one, %X/%X",
						LSN_FORMAT_ARGS((XLogRecPtr) rec->start), LSN_FORMAT_ARGS((XLogRecPtr) rec->end),
						LSN_FORMAT_ARGS(ing->last_end))));

	if (hash_get_num_entries(ing->sizes) > PS_SIZE_CACHE_MAX)
	{
		ps_ingest_commit(ing);
		hash_destroy(ing->sizes);
		ing->sizes = create_size_cache(ing);
	}

	old = MemoryContextSwitchTo(ing->record_context);
	ing->rec = rec;
	status = neon_wal_parse(rec->bytes, rec->len, &ing->parsed);
	if (status != NEON_WAL_OK)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not parse WAL record at %X/%X: %s",
						LSN_FORMAT_ARGS((XLogRecPtr) rec->start), neon_wal_status_text(status))));

	ps_ingest_note_xid(ing, rec->xid);
	ps_ingest_note_xid(ing, ing->parsed.toplevel_xid);
	dispatch(ing);
	finish_record(ing);

	ing->rec = NULL;
	ing->last_end = rec->end;
	ing->last_start = rec->start;
	ing->pending = true;
	MemoryContextSwitchTo(old);
	MemoryContextReset(ing->record_context);
}

static void
dispatch(PsIngest *ing)
{
	switch (ing->rec->rmid)
	{
		case RM_XLOG_ID:
			ps_ingest_xlog(ing);
			break;
		case RM_XACT_ID:
			ps_ingest_xact(ing);
			break;
		case RM_SMGR_ID:
			ps_ingest_smgr(ing);
			break;
		case RM_CLOG_ID:
			ps_ingest_clog(ing);
			break;
		case RM_DBASE_ID:
			ps_ingest_dbase(ing);
			break;
		case RM_MULTIXACT_ID:
			ps_ingest_multixact(ing);
			break;
		case RM_RELMAP_ID:
			ps_ingest_relmap(ing);
			break;
		case RM_STANDBY_ID:
			ps_ingest_standby(ing);
			break;
		case RM_REPLORIGIN_ID:
			ps_ingest_replorigin(ing);
			break;
		case RM_LOGICALMSG_ID:
			ps_ingest_logicalmsg(ing);
			break;
		case RM_HEAP_ID:
		case RM_HEAP2_ID:
			ps_ingest_visibility(ing);
			ps_ingest_blocks(ing);
			break;
		case RM_TBLSPC_ID:
		case RM_COMMIT_TS_ID:
			/* Tablespaces are refused by the compute; commit timestamps are not kept. */
			break;
		default:
			ps_ingest_blocks(ing);
			break;
	}
}

/* Put what the record gathered. */
static void
finish_record(PsIngest *ing)
{
	for (int i = 0; i < ing->ndirty_sizes; i++)
	{
		PsSizeEntry *e = ing->dirty_sizes[i];

		if (e->key.kind == NEON_KEY_REL_SIZE)
			ps_put_size(ing->tl, e->key.spc, e->key.db, e->key.rel, e->key.fork, ing->rec->end, e->nblocks);
		else
		{
			uint8		value[4];

			ps_be32(value, e->nblocks);
			ps_ingest_put_image(ing, &e->key, value, sizeof(value));
		}
		e->dirty = false;
	}
	ing->ndirty_sizes = 0;

	if (ing->next_xid_dirty)
	{
		neon_key	key = ps_key(NEON_KEY_NEXT_XID, 0, 0, 0, 0, 0);

		ps_ingest_put_u64(ing, &key, U64FromFullTransactionId(ing->next_xid));
		ing->next_xid_dirty = false;
	}
	if (ing->checkpoint_dirty)
	{
		neon_key	key = ps_key(NEON_KEY_CHECKPOINT, 0, 0, 0, 0, 0);

		ing->checkpoint.nextXid = ing->next_xid;
		ps_ingest_put_image(ing, &key, &ing->checkpoint, sizeof(CheckPoint));
		ing->checkpoint_dirty = false;
	}
}

static void
load_state(PsIngest *ing)
{
	neon_key	key = ps_key(NEON_KEY_CHECKPOINT, 0, 0, 0, 0, 0);
	uint32		len;
	uint8	   *value = ps_get_value(ing->tl, &key, ing->last_end, &len, NULL);

	if (value == NULL || len != sizeof(CheckPoint))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("timeline has no checkpoint state at %X/%X", LSN_FORMAT_ARGS(ing->last_end)),
				 errdetail("Expected %zu bytes, found %u.", sizeof(CheckPoint), value ? len : 0)));
	memcpy(&ing->checkpoint, value, sizeof(CheckPoint));
	pfree(value);

	ing->next_xid = ing->checkpoint.nextXid;
	key.kind = NEON_KEY_NEXT_XID;
	value = ps_get_value(ing->tl, &key, ing->last_end, &len, NULL);
	if (value != NULL)
	{
		if (len != 8)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("next transaction id has %u bytes instead of 8", len)));
		ing->next_xid = FullTransactionIdFromU64(ps_get_be64(value));
		pfree(value);
	}
}

/* ---- sizes ---- */

static HTAB *
create_size_cache(PsIngest *ing)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(neon_key);
	ctl.entrysize = sizeof(PsSizeEntry);
	ctl.hcxt = ing->context;
	return hash_create("neon ingest sizes", 1024, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static PsSizeEntry *
size_entry(PsIngest *ing, const neon_key *key)
{
	bool		found;
	PsSizeEntry *e = hash_search(ing->sizes, key, HASH_ENTER, &found);

	if (found)
		return e;
	e->dirty = false;
	e->nblocks = NEON_SIZE_ABSENT;
	/* Changes since the last commit are all in the cache, so the last published LSN is as good as the newest. */
	if (key->kind == NEON_KEY_REL_SIZE)
		e->nblocks = ps_rel_size(ing->tl, key->spc, key->db, key->rel, key->fork,
								 ps_timeline_last_record_lsn(ing->tl));
	else
	{
		uint32		len;
		uint8	   *value = ps_get_value(ing->tl, key, ps_timeline_last_record_lsn(ing->tl), &len, NULL);

		if (value != NULL && len == 4)
			e->nblocks = ps_get_be32(value);
	}
	return e;
}

uint32
ps_ingest_size(PsIngest *ing, neon_key_kind kind, uint32 spc, uint32 db, uint32 rel, uint8 fork)
{
	neon_key	key = ps_key(kind, spc, db, rel, fork, 0);

	return size_entry(ing, &key)->nblocks;
}

static void
set_entry(PsIngest *ing, PsSizeEntry *e, uint32 nblocks)
{
	if (e->nblocks == nblocks)
		return;
	e->nblocks = nblocks;
	if (e->dirty)
		return;
	if (ing->ndirty_sizes == ing->dirty_sizes_cap)
	{
		ing->dirty_sizes_cap *= 2;
		ing->dirty_sizes = repalloc(ing->dirty_sizes, ing->dirty_sizes_cap * sizeof(PsSizeEntry *));
	}
	e->dirty = true;
	ing->dirty_sizes[ing->ndirty_sizes++] = e;
}

void
ps_ingest_set_size(PsIngest *ing, neon_key_kind kind, uint32 spc, uint32 db, uint32 rel, uint8 fork, uint32 nblocks)
{
	neon_key	key = ps_key(kind, spc, db, rel, fork, 0);

	set_entry(ing, size_entry(ing, &key), nblocks);
}

void
ps_ingest_extend(PsIngest *ing, neon_key_kind kind, uint32 spc, uint32 db, uint32 rel, uint8 fork, uint32 blk)
{
	neon_key	key = ps_key(kind, spc, db, rel, fork, 0);
	PsSizeEntry *e = size_entry(ing, &key);

	if (e->nblocks == NEON_SIZE_ABSENT || e->nblocks <= blk)
		set_entry(ing, e, blk + 1);
}

void
ps_ingest_cut(PsIngest *ing, uint32 spc, uint32 db, uint32 rel, uint8 fork, uint32 nblocks)
{
	neon_key	key = ps_key(NEON_KEY_REL_CUT, spc, db, rel, fork, 0);
	uint8		value[4];

	ps_be32(value, nblocks);
	ps_ingest_put_image(ing, &key, value, sizeof(value));
}

void
ps_ingest_drop_rel(PsIngest *ing, uint32 spc, uint32 db, uint32 rel)
{
	for (int fork = 0; fork <= MAX_FORKNUM; fork++)
	{
		if (ps_ingest_size(ing, NEON_KEY_REL_SIZE, spc, db, rel, fork) == NEON_SIZE_ABSENT)
			continue;
		ps_ingest_cut(ing, spc, db, rel, fork, 0);
		ps_ingest_set_size(ing, NEON_KEY_REL_SIZE, spc, db, rel, fork, NEON_SIZE_ABSENT);
	}
}

/* ---- puts ---- */

/* The next xid is beyond every xid that any record mentions; exactly so, never rounded. */
void
ps_ingest_note_xid(PsIngest *ing, TransactionId xid)
{
	TransactionId next = XidFromFullTransactionId(ing->next_xid);
	uint32		epoch = EpochFromFullTransactionId(ing->next_xid);

	if (!TransactionIdIsNormal(xid) || TransactionIdPrecedes(xid, next))
		return;
	TransactionIdAdvance(xid);
	if (xid < next)
		epoch++;
	ing->next_xid = FullTransactionIdFromEpochAndXid(epoch, xid);
	ing->next_xid_dirty = true;
}

void
ps_ingest_put_image(PsIngest *ing, const neon_key *key, const void *bytes, uint32 len)
{
	ps_put(ing->tl, key, ing->rec->end, PS_VALUE_IMAGE | PS_VALUE_WILL_INIT, bytes, len);
}

void
ps_ingest_put_record(PsIngest *ing, const neon_key *key, bool will_init)
{
	ps_put(ing->tl, key, ing->rec->end, PS_VALUE_RECORD | (will_init ? PS_VALUE_WILL_INIT : 0),
		   ing->rec->bytes, ing->rec->len);
}

void
ps_ingest_put_u64(PsIngest *ing, const neon_key *key, uint64 value)
{
	uint8		bytes[8];

	ps_be64(bytes, value);
	ps_ingest_put_image(ing, key, bytes, sizeof(bytes));
}

const uint8 *
ps_ingest_main_data(PsIngest *ing, uint32 need)
{
	if (ing->parsed.main_len < need)
		ps_ingest_corrupt(ing, "main data is too short");
	/* Main data is unaligned inside the record; callers look at it as structs. */
	if (((uintptr_t) ing->parsed.main_data & (MAXIMUM_ALIGNOF - 1)) != 0)
	{
		uint8	   *copy = MemoryContextAllocHuge(ing->record_context, Max(ing->parsed.main_len, 1));

		memcpy(copy, ing->parsed.main_data, ing->parsed.main_len);
		ing->parsed.main_data = copy;
	}
	return ing->parsed.main_data;
}

void
ps_ingest_corrupt(PsIngest *ing, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("WAL record at %X/%X of resource manager %u, info 0x%02X, cannot be ingested: %s",
					LSN_FORMAT_ARGS((XLogRecPtr) ing->rec->start), ing->rec->rmid, ing->rec->info, what)));
}
