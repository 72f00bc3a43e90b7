/*
 * ps_ingest_xact.c - ends of transactions, and prepared ones.
 *
 * A commit or abort record changes the status of a transaction and its children, drops relations, may end a prepared
 * transaction and may move a replication origin.  Its time is kept, so that a point in time can be turned into an LSN.
 * A prepared transaction's state file is the main data of its PREPARE record followed by a CRC, as twophase.c writes it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xact.h"
#include "port/pg_crc32c.h"
#include "replication/origin.h"
#include "utils/timestamp.h"

#include "ps_ingest.h"

/* What commit and abort records have in common, bounded by the record. */
typedef struct XactEnd
{
	TimestampTz time;
	uint32		xinfo;
	int			nsubxids;
	const TransactionId *subxids;
	int			nrels;
	const RelFileNode *rels;
	TransactionId prepared_xid; /* invalid unless a prepared transaction ends */
	xl_xact_origin origin;
} XactEnd;

/* Takes `count` items of `size` bytes off the record's data. */
static const void *
take(PsIngest *ing, const uint8 **data, const uint8 *end, int64 count, size_t size)
{
	const void *from = *data;

	if (count < 0 || (uint64) count > (uint64) (end - *data) / size)
		ps_ingest_corrupt(ing, "transaction record is too short for what it announces");
	*data += count * size;
	return from;
}

static int32
take_count(PsIngest *ing, const uint8 **data, const uint8 *end)
{
	int32		count;

	memcpy(&count, take(ing, data, end, 1, sizeof(count)), sizeof(count));
	return count;
}

/* Commit and abort records have one layout, except that abort records have no invalidations. */
static void
parse_end(PsIngest *ing, XactEnd *x)
{
	const uint8 *data = ps_ingest_main_data(ing, MinSizeOfXactCommit);
	const uint8 *end = data + ing->parsed.main_len;

	StaticAssertStmt(MinSizeOfXactCommit == MinSizeOfXactAbort, "commit and abort records begin alike");
	memset(x, 0, sizeof(*x));
	memcpy(&x->time, take(ing, &data, end, 1, sizeof(TimestampTz)), sizeof(TimestampTz));
	if (ing->rec->info & XLOG_XACT_HAS_INFO)
		memcpy(&x->xinfo, take(ing, &data, end, 1, sizeof(uint32)), sizeof(uint32));
	if (x->xinfo & XACT_XINFO_HAS_DBINFO)
		take(ing, &data, end, 1, sizeof(xl_xact_dbinfo));
	if (x->xinfo & XACT_XINFO_HAS_SUBXACTS)
	{
		x->nsubxids = take_count(ing, &data, end);
		x->subxids = take(ing, &data, end, x->nsubxids, sizeof(TransactionId));
	}
	if (x->xinfo & XACT_XINFO_HAS_RELFILENODES)
	{
		x->nrels = take_count(ing, &data, end);
		x->rels = take(ing, &data, end, x->nrels, sizeof(RelFileNode));
	}
	if (x->xinfo & XACT_XINFO_HAS_DROPPED_STATS)
		take(ing, &data, end, take_count(ing, &data, end), sizeof(xl_xact_stats_item));
	if (x->xinfo & XACT_XINFO_HAS_INVALS)
		take(ing, &data, end, take_count(ing, &data, end), sizeof(SharedInvalidationMessage));
	if (x->xinfo & XACT_XINFO_HAS_TWOPHASE)
	{
		memcpy(&x->prepared_xid, take(ing, &data, end, 1, sizeof(TransactionId)), sizeof(TransactionId));
		if (x->xinfo & XACT_XINFO_HAS_GID)
			take(ing, &data, end, 1, strnlen((const char *) data, end - data) + 1);
	}
	if (x->xinfo & XACT_XINFO_HAS_ORIGIN)
		memcpy(&x->origin, take(ing, &data, end, 1, sizeof(xl_xact_origin)), sizeof(xl_xact_origin));
}

static void
put_origin(PsIngest *ing, XLogRecPtr remote_lsn)
{
	neon_key	key = ps_key(NEON_KEY_REPL_ORIGIN, 0, 0, ing->parsed.origin_id, 0, 0);

	if (ing->parsed.origin_id == InvalidRepOriginId || ing->parsed.origin_id == DoNotReplicateId)
		return;
	ps_ingest_put_u64(ing, &key, remote_lsn);
}

/*
 * The commit's time, by second.  The value also has the end of the record before, so that "just before this commit"
 * is an LSN where a branch can begin.
 */
static void
put_commit_time(PsIngest *ing, TimestampTz time)
{
	neon_key	key = ps_key(NEON_KEY_COMMIT_TIME, 0, 0, 0, 0, (uint32) Max(time / USECS_PER_SEC, 0));
	uint8		value[16];

	ps_be64(value, (uint64) time);
	ps_be64(value + 8, ing->last_end);
	ps_ingest_put_image(ing, &key, value, sizeof(value));
}

static void
end_transaction(PsIngest *ing, bool commit, bool prepared)
{
	XactEnd		x;

	parse_end(ing, &x);
	if (prepared && !TransactionIdIsValid(x.prepared_xid))
		ps_ingest_corrupt(ing, "end of a prepared transaction does not say which");
	ps_ingest_xid_status(ing, prepared ? x.prepared_xid : ing->rec->xid, x.nsubxids, x.subxids);
	for (int i = 0; i < x.nrels; i++)
		ps_ingest_drop_rel(ing, x.rels[i].spcNode, x.rels[i].dbNode, x.rels[i].relNode);
	if (commit)
		put_commit_time(ing, x.time);
	if (x.xinfo & XACT_XINFO_HAS_ORIGIN)
		put_origin(ing, x.origin.origin_lsn);
	if (prepared)
	{
		neon_key	key = ps_key(NEON_KEY_TWOPHASE, 0, 0, x.prepared_xid, 0, 0);

		ps_ingest_put_image(ing, &key, "", 0);
	}
}

static void
prepare_transaction(PsIngest *ing)
{
	const xl_xact_prepare *prepare = (const xl_xact_prepare *) ps_ingest_main_data(ing, sizeof(xl_xact_prepare));
	const uint8 *content = (const uint8 *) prepare;
	uint32		len = ing->parsed.main_len;
	neon_key	key = ps_key(NEON_KEY_TWOPHASE, 0, 0, prepare->xid, 0, 0);
	uint64		children = MAXALIGN(sizeof(xl_xact_prepare)) + MAXALIGN(prepare->gidlen);
	uint8	   *file;
	pg_crc32c	crc;

	if (prepare->total_len != len + sizeof(pg_crc32c))
		ps_ingest_corrupt(ing, "prepared transaction's length does not match");
	if (prepare->nsubxacts < 0 || children + (uint64) prepare->nsubxacts * sizeof(TransactionId) > len)
		ps_ingest_corrupt(ing, "prepared transaction is too short for its children");

	ps_ingest_note_xid(ing, prepare->xid);
	for (int i = 0; i < prepare->nsubxacts; i++)
		ps_ingest_note_xid(ing, ((const TransactionId *) (content + children))[i]);

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, content, len);
	FIN_CRC32C(crc);
	file = MemoryContextAllocHuge(ing->record_context, (Size) len + sizeof(crc));
	memcpy(file, content, len);
	memcpy(file + len, &crc, sizeof(crc));
	ps_ingest_put_image(ing, &key, file, len + sizeof(crc));
	pfree(file);

	if (ing->parsed.origin_id != InvalidRepOriginId)
		put_origin(ing, prepare->origin_lsn);
}

static void
assign_xids(PsIngest *ing)
{
	const xl_xact_assignment *a = (const xl_xact_assignment *) ps_ingest_main_data(ing, MinSizeOfXactAssignment);

	if (a->nsubxacts < 0 ||
		MinSizeOfXactAssignment + (uint64) a->nsubxacts * sizeof(TransactionId) > ing->parsed.main_len)
		ps_ingest_corrupt(ing, "assignment record is too short");
	ps_ingest_note_xid(ing, a->xtop);
	for (int i = 0; i < a->nsubxacts; i++)
		ps_ingest_note_xid(ing, a->xsub[i]);
}

void
ps_ingest_xact(PsIngest *ing)
{
	switch (ing->rec->info & XLOG_XACT_OPMASK)
	{
		case XLOG_XACT_COMMIT:
			end_transaction(ing, true, false);
			break;
		case XLOG_XACT_COMMIT_PREPARED:
			end_transaction(ing, true, true);
			break;
		case XLOG_XACT_ABORT:
			end_transaction(ing, false, false);
			break;
		case XLOG_XACT_ABORT_PREPARED:
			end_transaction(ing, false, true);
			break;
		case XLOG_XACT_PREPARE:
			prepare_transaction(ing);
			break;
		case XLOG_XACT_ASSIGNMENT:
			assign_xids(ing);
			break;
		case XLOG_XACT_INVALIDATIONS:
			break;
		default:
			ps_ingest_corrupt(ing, "unknown transaction record");
	}
}
