/*
 * pagestore.c - reads, writes and sizes of permanent relations; see pagestore.h for the design.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/procarray.h"

#include "last_written.h"
#include "neon_smgr.h"
#include "page_cache.h"
#include "page_class.h"
#include "page_truth.h"
#include "pagestore.h"
#include "pinned_pages.h"
#include "relation_table.h"
#include "replica.h"

#define READ_RUNS		4		/* ascending scans followed at a time, in a process */
#define READ_RUN_GAP	16		/* blocks that may be missing in a run: they were in shared_buffers */
#define READ_AHEAD_MIN	4
#define READ_AHEAD_MAX	32

typedef struct ReadRun
{
	NeonRel		rel;
	BlockNumber next;			/* the block expected next */
	BlockNumber asked_to;		/* blocks below this have been asked for */
	BlockNumber window;
} ReadRun;

const PageSource *page_source;

/* What the page source must have seen to know a fork's size or existence: nothing happened to it since the start but this. */
static XLogRecPtr
relation_lsn(const RelationInfo *info)
{
	return Max(info->floor, neon_smgr_shared->start_lsn);
}

NeonPersistence
pagestore_known_persistence(const NeonRel *rel)
{
	RelationInfo info;

	relation_lookup(rel, &info);
	return info.persistence;
}

void
pagestore_set_persistence(const NeonRel *rel, NeonPersistence persistence)
{
	relation_learn_persistence(rel, persistence);
}

void
pagestore_create(const NeonRel *rel, int fork, NeonPersistence persistence)
{
	TransactionId creator = fork == NEON_FORK_MAIN ? GetTopTransactionIdIfAny() : InvalidTransactionId;

	if (neon_replica)
	{
		replica_create(rel, fork, persistence);
		return;
	}
	if (neon_static_lsn != InvalidXLogRecPtr)
		static_endpoint_refuse();
	if (!relation_create_fork(rel, fork, persistence, creator, neon_insert_lsn()))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_FILE),
				 errmsg("could not create relation %u/%u/%u fork %d: it exists already", rel->spc, rel->db, rel->rel, fork)));
	if (page_source->note_create && !(fork == NEON_FORK_MAIN && persistence == NEON_PERSISTENCE_UNLOGGED))
		page_source->note_create(rel, fork);
}

bool
pagestore_exists(const NeonRel *rel, int fork)
{
	RelationInfo info;
	bool		exists;

	if (neon_replica)
		return replica_exists(rel, fork);
	relation_lookup(rel, &info);
	if (info.fork[fork].existence != NEON_EXISTS_UNKNOWN)
		return info.fork[fork].existence == NEON_EXISTS_YES;
	exists = page_source->exists(rel, fork, relation_lsn(&info));

	/*
	 * Names that do not exist at all are asked for once, by whoever looks for a free one; they would only fill the table.
	 */
	if (exists || fork != NEON_FORK_MAIN)
		relation_learn_existence(rel, fork, exists);
	return exists;
}

/* The fork's size and the relation's entry with it. */
static BlockNumber
known_size(const NeonRel *rel, int fork, RelationInfo *info)
{
	relation_lookup(rel, info);
	if (!info->fork[fork].size_known)
	{
		BlockNumber nblocks = page_source->nblocks(rel, fork, relation_lsn(info));

		relation_learn_size(rel, fork, nblocks);
		relation_lookup(rel, info);
		if (!info->fork[fork].size_known)
		{
			/* evicted at once by others; nothing but the answer itself is known then */
			info->fork[fork].size_known = true;
			info->fork[fork].nblocks = info->fork[fork].written_end = nblocks;
		}
	}
	return info->fork[fork].nblocks;
}

BlockNumber
pagestore_nblocks(const NeonRel *rel, int fork)
{
	RelationInfo info;

	return neon_replica ? replica_nblocks(rel, fork) : known_size(rel, fork, &info);
}

static void
read_past_end(const NeonRel *rel, int fork, BlockNumber block, BlockNumber nblocks, char *page)
{
	if (!zero_damaged_pages && !InRecovery)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read block %u of relation %u/%u/%u fork %d: it has %u blocks",
						block, rel->spc, rel->db, rel->rel, fork, nblocks)));
	memset(page, 0, BLCKSZ);
}

/* not_modified_since of a block that is in none of the local places */
static XLogRecPtr
block_lsn(const NeonRel *rel, int fork, BlockNumber block, const RelationInfo *info)
{
	XLogRecPtr	written = last_written_get(rel, fork, block);

	/*
	 * A cleared bit of the visibility map is in the record of the tuple's change, which may be inserted after the map's page
	 * was written.  The one who clears keeps the page in shared_buffers until that record is inserted, so it is below the
	 * end of WAL now.
	 */
	if (fork == NEON_FORK_VM && written != InvalidXLogRecPtr)
		written = Max(written, neon_insert_lsn());
	written = Max(written, relation_growth_lsn(&info->fork[fork], block));
	return Max(written, relation_lsn(info));
}

/* Ask for a block early if the page source will be the one to be asked for it. */
static void
prefetch_block(const NeonRel *rel, int fork, BlockNumber block, const RelationInfo *info)
{
	if (block < info->fork[fork].written_end && !page_cache_has(rel, fork, block))
		page_source->prefetch(rel, fork, block, block_lsn(rel, fork, block, info));
}

void
pagestore_prefetch(const NeonRel *rel, int fork, BlockNumber block)
{
	RelationInfo info;

	/* What a replica gets now may be out of date when it is wanted. */
	if (page_source->prefetch == NULL || neon_replica)
		return;
	relation_lookup(rel, &info);
	if (info.fork[fork].size_known)
		prefetch_block(rel, fork, block, &info);
}

/*
 * The server announces only what bitmap scans will read, so reads of ascending blocks are recognised here and what comes
 * next is asked for, a window at a time that doubles as the run goes on.  The page at hand is asked for first.
 */
static void
read_ahead(const NeonRel *rel, int fork, BlockNumber block, const RelationInfo *info, bool from_source)
{
	static ReadRun runs[READ_RUNS];
	static int	oldest;
	ReadRun    *run = NULL;

	if (fork != NEON_FORK_MAIN || page_source->prefetch == NULL)
		return;
	for (int i = 0; i < READ_RUNS && run == NULL; i++)
		if (memcmp(&runs[i].rel, rel, sizeof(*rel)) == 0 && block >= runs[i].next && block - runs[i].next <= READ_RUN_GAP)
			run = &runs[i];
	if (run == NULL)
	{
		run = &runs[oldest];
		oldest = (oldest + 1) % READ_RUNS;
		memset(run, 0, sizeof(*run));
		run->rel = *rel;
		run->next = run->asked_to = block + 1;
		return;
	}
	run->next = block + 1;
	run->asked_to = Max(run->asked_to, block + 1);
	if (!from_source || run->asked_to - run->next > run->window / 2)
		return;
	prefetch_block(rel, fork, block, info);
	run->window = Min(Max(run->window * 2, READ_AHEAD_MIN), READ_AHEAD_MAX);
	while (run->asked_to < run->next + run->window && run->asked_to < info->fork[fork].written_end)
		prefetch_block(rel, fork, run->asked_to++, info);
}

void
pagestore_read(const NeonRel *rel, int fork, BlockNumber block, char *page)
{
	RelationInfo info;
	BlockNumber nblocks;
	const RelationFork *f = &info.fork[fork];

	if (neon_replica)
	{
		replica_read(rel, fork, block, page);
		return;
	}
	nblocks = known_size(rel, fork, &info);
	if (block >= nblocks)
	{
		read_past_end(rel, fork, block, nblocks, page);
		return;
	}
	if (f->has_pins)
	{
		if (pinned_get(rel, fork, block, page))
		{
			neon_count(NEON_CNT_READ_PINNED);
			return;
		}
		/* The release worker may have let go of it just now: what it noted before it did says who has the page instead. */
		(void) known_size(rel, fork, &info);
	}
	if (block >= f->written_end)
	{
		memset(page, 0, BLCKSZ);
		neon_count(NEON_CNT_READ_ZERO);
	}
	else if (page_cache_get(rel, fork, block, page))
	{
		read_ahead(rel, fork, block, &info, false);
		neon_count(NEON_CNT_READ_CACHE);
	}
	else
	{
		read_ahead(rel, fork, block, &info, true);
		page_source->read(rel, fork, block, block_lsn(rel, fork, block, &info), page);
		page_cache_put(rel, fork, block, page, InvalidXLogRecPtr);
		neon_count(NEON_CNT_READ_SOURCE);
	}
}

static NeonCounter
counter_of_pin(PageClass class)
{
	switch (class)
	{
		case PAGE_PIN_BUILD:
			return NEON_CNT_PIN_BUILD;
		case PAGE_PIN_XID:
			return NEON_CNT_PIN_XID;
		case PAGE_PIN_CYCLE:
			return NEON_CNT_PIN_CYCLE;
		case PAGE_PIN_SEQUENCE:
			return NEON_CNT_PIN_SEQUENCE;
		default:
			return NEON_CNT_PIN_FSM;
	}
}

/*
 * A page that was never logged is kept until the transaction that created its relation has ended, since that has logged it by
 * then.  If it has ended already, we do not know who will log the page, so it is kept for good.
 */
static void
check_unlogged_page(const NeonRel *rel)
{
	RelationInfo info;

	relation_lookup(rel, &info);
	if (!info.keep_unlogged &&
		(!TransactionIdIsValid(info.creator) || TransactionIdPrecedes(info.creator, GetOldestActiveTransactionId())))
		relation_keep_unlogged(rel);
}

/* Tell a directory that stands in for a pageserver what the page's WAL would tell it. */
static void
note_write(const NeonRel *rel, int fork, BlockNumber block, const char *page, PageClass class)
{
	PGAlignedBlock copy;

	if (page_source->note_write == NULL || class == PAGE_PIN_BUILD || class == PAGE_PIN_FSM)
		return;
	memcpy(copy.data, page, BLCKSZ);
	page_forget_unlogged(fork, copy.data);
	page_source->note_write(rel, fork, block, copy.data);
}

void
pagestore_write(const NeonRel *rel, int fork, BlockNumber block, const char *page)
{
	PageClass	class;
	XLogRecPtr	lsn;
	bool		had_pins;

	if (neon_replica)
	{
		replica_write(rel, fork, block, page);
		return;
	}
	if (neon_static_lsn != InvalidXLogRecPtr)
	{
		/* Only hints were set in it: what the page source has, or the cache, is as good. */
		neon_count(NEON_CNT_WRITE_DROPPED);
		return;
	}
	class = page_classify(fork, page);
	page_truth_note_write(rel, fork, block, page, class);
	if (class == PAGE_EMPTY)
	{
		(void) relation_note_written(rel, fork, block, InvalidXLogRecPtr, false);
		neon_count(NEON_CNT_WRITE_ZERO);
		return;
	}
	lsn = page_last_change(fork, page);
	last_written_raise(rel, fork, block, lsn);
	/* What was never logged is nothing the page source knows of: its block, and those below, are still ours alone. */
	had_pins = relation_note_written(rel, fork, block, lsn, class != PAGE_PIN_BUILD && class != PAGE_PIN_FSM);
	note_write(rel, fork, block, page, class);

	if (class == PAGE_PIN_BUILD)
		check_unlogged_page(rel);
	if (class != PAGE_IMPLIED)
	{
		pinned_put(rel, fork, block, page);
		page_cache_remove(rel, fork, block);
		neon_count(counter_of_pin(class));
		return;
	}
	if (page_cache_put(rel, fork, block, page, lsn))
		neon_count(NEON_CNT_WRITE_CACHED);
	else if (lsn > neon_commit_lsn())
	{
		pinned_put(rel, fork, block, page);
		neon_count(NEON_CNT_PIN_QUORUM);
		return;
	}
	else
		neon_count(NEON_CNT_WRITE_DROPPED);
	if (had_pins)
		pinned_erase(rel, fork, block);
}

void
pagestore_extend(const NeonRel *rel, int fork, BlockNumber block, const char *page)
{
	RelationInfo info;

	if (neon_replica)
	{
		replica_extend(rel, fork, block);
		return;
	}
	if (neon_static_lsn != InvalidXLogRecPtr)
		static_endpoint_refuse();
	if (block == InvalidBlockNumber)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cannot extend relation %u/%u/%u beyond %u blocks", rel->spc, rel->db, rel->rel, InvalidBlockNumber)));
	/* The entry must not be evicted on the way: the next one to ask would get the page source's size. */
	relation_keep(rel, fork, known_size(rel, fork, &info));
	pagestore_write(rel, fork, block, page);
	relation_extend(rel, fork, block + 1);
}

void
pagestore_reserve(const NeonRel *rel)
{
	relation_reserve(rel);
}

void
pagestore_truncate(const NeonRel *rel, int fork, BlockNumber old_blocks, BlockNumber nblocks)
{
	RelationInfo info;

	/* as in md.c: the last of several truncations that are replayed may come first */
	if (nblocks >= old_blocks)
		return;
	if (neon_replica)
	{
		replica_truncate(rel, fork, old_blocks, nblocks);
		return;
	}
	relation_lookup(rel, &info);

	/* The truncation's record has been inserted, so the end of WAL covers it. */
	relation_truncate(rel, fork, nblocks, neon_insert_lsn());
	page_cache_remove_range(rel, fork, nblocks, old_blocks);
	if (info.fork[fork].has_pins)
		pinned_truncate(rel, fork, nblocks);
	if (page_source->note_truncate)
		page_source->note_truncate(rel, fork, nblocks);
}

void
pagestore_drop(const NeonRel *rel)
{
	RelationInfo info;

	if (neon_replica)
	{
		replica_drop(rel);
		return;
	}
	relation_lookup(rel, &info);
	for (int fork = 0; fork < NEON_FORKS; fork++)
		if (info.fork[fork].has_pins)
			pinned_drop(rel, fork);
	page_cache_remove_relation(rel);
	relation_forget(rel);
	if (page_source->note_drop)
		page_source->note_drop(rel);
}

static bool
in_database(const RelationInfo *info, const void *arg)
{
	return info->rel.db == *(const uint32 *) arg;
}

void
pagestore_drop_database(uint32 db)
{
	int			count;
	RelationInfo *list = relation_list(in_database, &db, &count);

	for (int i = 0; i < count; i++)
		pagestore_drop(&list[i].rel);
	pfree(list);
	pinned_drop_database(db);	/* of relations without an entry */
	page_cache_remove_database(db);
}

int64
pagestore_database_bytes(uint32 db)
{
	int			count;
	RelationInfo *list = relation_list(in_database, &db, &count);
	int64		bytes = page_source->database_bytes(db, neon_replica ? replica_replay_lsn() : neon_smgr_shared->start_lsn);

	pfree(list);
	return bytes;
}
