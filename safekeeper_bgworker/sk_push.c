/*
 * sk_push.c - CALL neon_safekeeper.wal_push(tenant, timeline): a proposer's connection.
 *
 * The acceptor of libs/consensus decides; this file gives it storage and messages.  What has arrived is handled as one
 * batch under the timeline's lock: every append is written, then one fdatasync, one acknowledgement; the answers leave
 * after the lock was released.  Between batches no lock and no transaction is held, so an old proposer and a new one
 * can be connected at once and each finds what the other did.
 *
 * Invariant: write_lsn counts raw bytes; flush_lsn is the end of the last record that is complete, has a valid CRC,
 * links to the record before and is durable.  A session knows where records end by feeding the bytes it writes to a
 * reader; when another session wrote in between, it begins anew from flush_lsn with the bytes in the files.
 *
 * Crash rule: bytes behind write_lsn may have been written (tail_dirty) when a write failed; they are zeroed before the
 * next write, as they are at start.  Errors leave by ereport: the connection ends, the slot stays consistent.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

#include "neon_wal.h"
#include "sk.h"
#include "neon_copy_stream.h"
#include "sk_walfile.h"

#define MAX_BATCH_BYTES		(4 * 1024 * 1024)	/* then others may have the lock, and the proposer its answer */
#define RESYNC_CHUNK_BYTES	(128 * 1024)

PG_FUNCTION_INFO_V1(neon_safekeeper_wal_push);

typedef struct Push
{
	SkSlot	   *slot;
	neon_acceptor *acceptor;
	uint64		generation;		/* of the slot, when we found it */
	uint64		session;
	neon_acceptor_session state;
	NeonStream	stream;
	SkWal		wal;
	neon_wal_reader reader;
	bool		locked;
	size_t		batch_bytes;
	bool		flush_due;
	neon_msg_refusal refusal;	/* what was answered before the stream ends */
	bool		refused;
	char	   *reply;			/* NEON_CONSENSUS_MAX_CONTROL_BYTES */

	/* the last record that is complete in the bytes up to write_lsn; durable at the next flush */
	XLogRecPtr	record_end;
	XLogRecPtr	record_start;
	/* a record whose padding or zero fill has not arrived yet; 0: none */
	XLogRecPtr	coming_end;
	XLogRecPtr	coming_start;
} Push;

static Push *current_push = NULL;	/* the storage functions below belong to it */

/* ---- where records end ---- */

static void
begin_reader(Push *p)
{
	p->record_end = pg_atomic_read_u64(&p->slot->flush_lsn);
	p->record_start = pg_atomic_read_u64(&p->slot->last_record_start);
	p->coming_end = InvalidXLogRecPtr;
	neon_wal_reader_begin(&p->reader, p->record_end);
	p->reader.check_link = true;
	p->reader.record_start = p->record_start;	/* the next record must link to it */
}

/* Bytes that end at write_lsn go through the reader.  What is not WAL is thrown away, and the proposer with it. */
static void
feed_reader(Push *p, const char *bytes, size_t len, XLogRecPtr write_lsn)
{
	neon_wal_record rec;
	neon_wal_status status;

	if (p->coming_end && p->coming_end <= write_lsn)
	{
		p->record_end = p->coming_end;
		p->record_start = p->coming_start;
		p->coming_end = InvalidXLogRecPtr;
	}
	neon_wal_reader_feed(&p->reader, bytes, len);
	while ((status = neon_wal_reader_next(&p->reader, &rec)) == NEON_WAL_OK)
	{
		if (rec.end <= write_lsn)
		{
			p->record_end = rec.end;
			p->record_start = rec.start;
		}
		else
		{
			p->coming_end = rec.end;
			p->coming_start = rec.start;
		}
	}
	if (status != NEON_WAL_NEED_MORE)
	{
		p->slot->tail_dirty = true;
		p->slot->last_writer = 0;
		pg_atomic_write_u64(&p->slot->write_lsn, pg_atomic_read_u64(&p->slot->flush_lsn));
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the WAL received is not valid after the record that ends at %X/%X: %s",
						LSN_FORMAT_ARGS(Max(p->record_end, p->coming_end)), neon_wal_status_text(status))));
	}
}

/* The log ends at write_lsn and nothing is behind it; finds the last record's start again. */
static void
cut_log(Push *p, XLogRecPtr to)
{
	SkSlot	   *slot = p->slot;
	XLogRecPtr	flush_lsn = pg_atomic_read_u64(&slot->flush_lsn);
	SkScan		scan;

	slot->tail_dirty = true;
	sk_wal_truncate(&p->wal, to);
	sk_scan_tail(&p->wal, slot->start_lsn, flush_lsn, flush_lsn, &scan);
	if (scan.end != flush_lsn)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the log has its last record end at %X/%X, expected %X/%X", LSN_FORMAT_ARGS(scan.end),
						LSN_FORMAT_ARGS(flush_lsn))));
	pg_atomic_write_u64(&slot->last_record_start, scan.last_record_start);
	slot->tail_dirty = false;
}

/* Another session wrote last, or a write failed: trust nothing we remember of the files. */
static void
resync(Push *p)
{
	SkSlot	   *slot = p->slot;
	XLogRecPtr	pos = pg_atomic_read_u64(&slot->flush_lsn);
	XLogRecPtr	end = pg_atomic_read_u64(&slot->write_lsn);
	char	   *chunk;

	sk_wal_close(&p->wal);
	if (slot->tail_dirty)
		cut_log(p, end);
	begin_reader(p);
	if (pos < end)
	{
		sk_wal_sync_range(&p->wal, pos, end);
		chunk = palloc(RESYNC_CHUNK_BYTES);
		while (pos < end)
		{
			size_t		n = sk_wal_read(&p->wal, pos, chunk, Min(RESYNC_CHUNK_BYTES, end - pos));

			if (n == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("WAL segment of %X/%X is missing", LSN_FORMAT_ARGS(pos))));
			pos += n;
			feed_reader(p, chunk, n, pos);
		}
		pfree(chunk);
	}
	slot->last_writer = p->session;
}

/* ---- the acceptor's storage ---- */

static bool
storage_persist_state(void *arg, const neon_acceptor_durable *next)
{
	sk_catalog_persist((SkSlot *) arg, next);
	return true;
}

/* In the second half of a segment the worker is asked for the next one. */
static void
want_next_segment(SkSlot *slot, XLogRecPtr write_lsn)
{
	uint64		next;

	if (XLogSegmentOffset(write_lsn, slot->wal_segment_bytes) < slot->wal_segment_bytes / 2)
		return;
	next = write_lsn / slot->wal_segment_bytes + 1;
	if (pg_atomic_read_u64(&slot->wanted_segment) == next)
		return;
	pg_atomic_write_u64(&slot->wanted_segment, next);
	sk_wake_worker();
}

static bool
storage_wal_write(void *arg, neon_lsn begin, const uint8_t *bytes, size_t len)
{
	Push	   *p = current_push;
	SkSlot	   *slot = arg;

	slot->tail_dirty = true;
	if (begin == slot->start_lsn)
		sk_wal_begin_log(&p->wal, begin, slot->system_id);
	sk_wal_write(&p->wal, begin, (const char *) bytes, len);
	pg_atomic_write_u64(&slot->write_lsn, begin + len);
	slot->tail_dirty = false;
	feed_reader(p, (const char *) bytes, len, begin + len);
	want_next_segment(slot, begin + len);
	return true;
}

static bool
storage_wal_flush(void *arg)
{
	Push	   *p = current_push;
	SkSlot	   *slot = arg;

	sk_wal_sync(&p->wal);
	pg_atomic_write_u64(&slot->last_record_start, p->record_start);
	pg_atomic_write_u64(&slot->flush_lsn, p->record_end);
	return true;
}

static bool
storage_wal_truncate(void *arg, neon_lsn to)
{
	Push	   *p = current_push;
	SkSlot	   *slot = arg;

	/* Nobody reads above commit_lsn from now on. */
	pg_atomic_write_u64(&slot->serving_term, 0);
	slot->tail_dirty = true;
	pg_atomic_write_u64(&slot->write_lsn, to);
	pg_atomic_write_u64(&slot->flush_lsn, to);
	cut_log(p, to);
	begin_reader(p);
	return true;
}

static neon_lsn
storage_write_lsn(void *arg)
{
	return pg_atomic_read_u64(&((SkSlot *) arg)->write_lsn);
}

static neon_lsn
storage_flush_record_lsn(void *arg)
{
	return pg_atomic_read_u64(&((SkSlot *) arg)->flush_lsn);
}

static neon_lsn
storage_last_record_start(void *arg)
{
	return pg_atomic_read_u64(&((SkSlot *) arg)->last_record_start);
}

const neon_acceptor_storage sk_storage = {
	.persist_state = storage_persist_state,
	.wal_write = storage_wal_write,
	.wal_flush = storage_wal_flush,
	.wal_truncate = storage_wal_truncate,
	.write_lsn = storage_write_lsn,
	.flush_record_lsn = storage_flush_record_lsn,
	.last_record_start = storage_last_record_start
};

/* ---- batches ---- */

static void
begin_batch(Push *p)
{
	SkSlot	   *slot = p->slot;

	if (p->locked)
		return;
	(void) sk_slot_lock(slot, true, true);
	p->locked = true;
	p->batch_bytes = 0;
	if (pg_atomic_read_u64(&slot->generation) != p->generation)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the timeline was dropped")));
	if (slot->last_writer != p->session)
		resync(p);
}

static void
queue_reply(Push *p, neon_writer *w)
{
	if (!w->ok)
		elog(ERROR, "consensus message does not fit its buffer");
	memcpy(neon_stream_reserve(&p->stream, (int) w->len), w->buf, w->len);
}

/* Flush, acknowledge, let others in, send. */
static void
end_batch(Push *p)
{
	neon_writer w;

	if (p->locked)
	{
		neon_writer_init(&w, p->reply, NEON_CONSENSUS_MAX_CONTROL_BYTES);
		if (p->flush_due &&
			neon_acceptor_flush_and_reply(p->acceptor, &p->state, &sk_storage, p->slot, &w) == NEON_ACCEPTOR_REPLY)
			queue_reply(p, &w);
		p->flush_due = false;
		sk_slot_publish(p->slot);
		sk_slot_unlock(p->slot);
		p->locked = false;
	}
	(void) neon_stream_flush(&p->stream);
	if (p->refused)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the proposer was refused: %s", neon_refusal_text(p->refusal.reason)),
				 errdetail("%s", p->refusal.text)));
}

static void
handle_message(Push *p, const char *data, int len)
{
	neon_writer w;

	/* An answer must not have to be sent while the lock is held. */
	if (p->batch_bytes >= MAX_BATCH_BYTES ||
		p->stream.out_cap - p->stream.out_len < 2 * (NEON_CONSENSUS_MAX_CONTROL_BYTES + 5))
		end_batch(p);
	begin_batch(p);
	p->batch_bytes += len;
	neon_writer_init(&w, p->reply, NEON_CONSENSUS_MAX_CONTROL_BYTES);
	switch (neon_acceptor_message(p->acceptor, &p->state, &sk_storage, p->slot, (const uint8_t *) data, len, &w))
	{
		case NEON_ACCEPTOR_REPLY:
			queue_reply(p, &w);
			break;
		case NEON_ACCEPTOR_NOTHING:
			break;
		case NEON_ACCEPTOR_FLUSH:
			p->flush_due = true;
			break;
		case NEON_ACCEPTOR_REFUSED:
			queue_reply(p, &w);
			(void) neon_decode_refusal(w.buf, w.len, &p->refusal);
			p->refused = true;
			end_batch(p);
			break;
		case NEON_ACCEPTOR_FAILED:
			ereport(ERROR,
					(errcode(ERRCODE_IO_ERROR),
					 errmsg("the safekeeper could not store what the proposer sent")));
	}
}

static void
serve(Push *p)
{
	char	   *data;
	int			len;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		switch (neon_stream_next(&p->stream, &data, &len))
		{
			case NEON_STREAM_NOTHING:
				end_batch(p);
				neon_stream_wait(-1);
				break;
			case NEON_STREAM_DATA:
				handle_message(p, data, len);
				break;
			case NEON_STREAM_DONE:
				end_batch(p);
				if (!neon_stream_end(&p->stream))
					proc_exit(0);
				return;
			case NEON_STREAM_CLOSED:
				/* What arrived is handled all the same: it costs nothing and may help a quorum. */
				end_batch(p);
				proc_exit(0);
		}
	}
}

static void
release_push(Push *p)
{
	current_push = NULL;
	MyProcPort->noblock = false;
	if (!p->locked)
		return;
	/* What the acceptor had decided before an error stands. */
	if (pg_atomic_read_u64(&p->slot->generation) == p->generation)
		sk_slot_publish(p->slot);
	p->locked = false;
	sk_slot_unlock(p->slot);
}

static void
close_push(Push *p)
{
	release_push(p);
	sk_wal_close(&p->wal);
	neon_wal_reader_free(&p->reader);
	neon_stream_free(&p->stream);
}

/* ---- the procedure ---- */

static SkSlot *
find_timeline(const neon_id *tenant, const neon_id *timeline, uint64 *generation)
{
	SkSlot	   *slot;

	sk_check_tenant_access(tenant, GetUserId(), superuser(), GetUserNameFromId(GetUserId(), false));
	sk_require_ready();
	slot = sk_slot_find(tenant, timeline, generation);
	if (slot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no such timeline on this safekeeper"),
				 errhint("Create it with neon_safekeeper.create_timeline().")));
	if (pg_atomic_read_u32(&slot->state) == SK_SLOT_BROKEN)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the timeline neither votes nor serves: %s", slot->problem),
				 errhint(SK_REJOIN_HINT)));
	return slot;
}

Datum
neon_safekeeper_wal_push(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	neon_id		tenant;
	neon_id		timeline;
	Push	   *p;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("tenant and timeline must be given")));
	sk_id_arg("tenant", PG_GETARG_TEXT_PP(0), &tenant);
	sk_id_arg("timeline", PG_GETARG_TEXT_PP(1), &timeline);

	context = AllocSetContextCreate(TopMemoryContext, "safekeeper wal_push", ALLOCSET_DEFAULT_SIZES);
	p = MemoryContextAllocZero(context, sizeof(Push));
	p->reply = MemoryContextAlloc(context, NEON_CONSENSUS_MAX_CONTROL_BYTES);
	p->wal.fd = -1;
	PG_TRY();
	{
		p->slot = find_timeline(&tenant, &timeline, &p->generation);
		p->acceptor = sk_slot_acceptor(p->slot);
		p->session = pg_atomic_fetch_add_u64(&sk_shared->next_session, 1);
		sk_wal_init(&p->wal, &tenant, &timeline, p->slot->wal_segment_bytes);
		neon_wal_reader_init(&p->reader, p->slot->wal_segment_bytes, sk_realloc, NULL);
		neon_stream_leave_transaction(fcinfo, "wal_push");
		MemoryContextSwitchTo(context);
		current_push = p;
		neon_stream_begin(&p->stream);
		serve(p);
		close_push(p);
		StartTransactionCommand();
	}
	PG_CATCH();
	{
		/* What a transaction's abort would do: there may be none. */
		LWLockReleaseAll();
		release_push(p);
		neon_stream_abandon(&p->stream);
		close_push(p);
		/* The error is handled by those who expect the CALL's transaction to be there. */
		if (!IsTransactionState())
			StartTransactionCommand();
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextDelete(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextDelete(context);
	PG_RETURN_NULL();
}
