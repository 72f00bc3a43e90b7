/*
 * sk_walsender.c - serving one timeline's WAL in the server's own walsender format.
 *
 * 'w' messages carry WAL, 'k' messages say that there is none; status updates come back.  What is served ends at
 * commit_lsn.  A connection with neon.term=N (a proposer of term N that brings a laggard up to date) reads up to
 * flush_lsn, and only while this safekeeper's term is N and it accepted N's history.  That is looked at again after the
 * bytes were read and before they are sent: a truncation takes serving_term away before it touches a file.
 *
 * The segment the log begins in is served from its first byte, with page headers and zeroes before the log, because
 * receivers that keep files ask from a segment's start.
 *
 * No lock: commit_lsn only ascends, and what is below it is never changed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "libpq/libpq.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "sk.h"
#include "neon_copy_stream.h"
#include "sk_walfile.h"

#define MAX_SEND_BYTES		(16 * XLOG_BLCKSZ)
#define WAL_HEADER_BYTES	(1 + 8 + 8 + 8)
#define KEEPALIVE_BYTES		(1 + 8 + 8 + 1)
#define MAX_BEFORE_INPUT_BYTES	(2 * 1024 * 1024)	/* then look what the client says */

typedef struct Sender
{
	SkSlot	   *slot;
	uint64		generation;
	neon_term	term;			/* 0: committed WAL only */
	XLogRecPtr	sent_lsn;
	NeonStream	stream;
	SkWal		wal;
	TimestampTz last_reply;
	bool		keepalive_asked;	/* a reply was asked for and is awaited */
	bool		keepalive_wanted;	/* the client asked for one */
} Sender;

/* How far may be read?  Nothing, 0, while the log is empty.  ERROR when this client may not read any more. */
static XLogRecPtr
readable_end(Sender *s)
{
	SkSlot	   *slot = s->slot;
	XLogRecPtr	end;

	if (pg_atomic_read_u64(&slot->generation) != s->generation)
		ereport(FATAL,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the timeline was dropped")));
	if (s->term == 0)
	{
		end = pg_atomic_read_u64(&slot->commit_lsn);
		return end > slot->start_lsn ? end : 0;
	}
	if (pg_atomic_read_u64(&slot->serving_term) != s->term)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this safekeeper does not serve term " UINT64_FORMAT, s->term),
				 errdetail("Its term is " UINT64_FORMAT ".", pg_atomic_read_u64(&slot->term))));
	end = pg_atomic_read_u64(&slot->flush_lsn);
	return end > slot->start_lsn ? end : 0;
}

static XLogRecPtr
segment_start(const SkSlot *slot, XLogRecPtr lsn)
{
	return lsn - XLogSegmentOffset(lsn, slot->wal_segment_bytes);
}

static void
check_start(Sender *s, XLogRecPtr start)
{
	SkSlot	   *slot = s->slot;
	XLogRecPtr	first = segment_start(slot, slot->start_lsn);

	if (start < first)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("requested WAL at %X/%X is not here", LSN_FORMAT_ARGS(start)),
				 errdetail("The log begins at %X/%X.", LSN_FORMAT_ARGS(slot->start_lsn))));
	/* A receiver that is ahead of what we know to be committed waits here; a recovering proposer must not. */
	if (s->term != 0 && start > Max(readable_end(s), slot->start_lsn))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("requested starting point %X/%X is ahead of the end of the log %X/%X",
						LSN_FORMAT_ARGS(start), LSN_FORMAT_ARGS(readable_end(s)))));
}

static void
put_u64(char *to, uint64 value)
{
	value = pg_hton64(value);
	memcpy(to, &value, 8);
}

static void
send_keepalive(Sender *s, bool ask_reply)
{
	char	   *p = neon_stream_reserve(&s->stream, KEEPALIVE_BYTES);

	/* The walsender's keepalive says how far it sent; ours is never above what may be read, also if the client asked for more. */
	p[0] = 'k';
	put_u64(p + 1, Min(s->sent_lsn, Max(readable_end(s), s->slot->start_lsn)));
	put_u64(p + 9, GetCurrentTimestamp());
	p[17] = ask_reply ? 1 : 0;
	s->keepalive_wanted = false;
}

/* Queue one message of WAL. */
static void
send_wal(Sender *s, XLogRecPtr end)
{
	XLogRecPtr	begin = s->sent_lsn;
	size_t		want = Min(end - begin, MAX_SEND_BYTES);
	size_t		n;
	char	   *p;

	/* End at a page boundary when there is more, as the server does, and at segment ends always. */
	if (begin + want < end)
		want -= (begin + want) % XLOG_BLCKSZ;
	want = Min(want, s->wal.segment_bytes - XLogSegmentOffset(begin, s->wal.segment_bytes));
	p = neon_stream_reserve(&s->stream, WAL_HEADER_BYTES + (int) want);
	p[0] = 'w';
	put_u64(p + 1, begin);
	put_u64(p + 9, end);
	put_u64(p + 17, GetCurrentTimestamp());
	n = sk_wal_read(&s->wal, begin, p + WAL_HEADER_BYTES, want);
	if (n != want)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("requested WAL segment of %X/%X has already been removed", LSN_FORMAT_ARGS(begin))));
	s->sent_lsn = begin + n;
}

static void
send_available(Sender *s)
{
	size_t		budget = MAX_BEFORE_INPUT_BYTES;
	XLogRecPtr	end = readable_end(s);

	while (s->sent_lsn < end && budget > 0)
	{
		XLogRecPtr	before = s->sent_lsn;

		send_wal(s, end);
		/* Read first, then make sure that it was allowed: the order that a truncation cannot slip through. */
		if (s->term != 0)
		{
			pg_read_barrier();
			if (pg_atomic_read_u64(&s->slot->serving_term) != s->term)
			{
				s->stream.out_len = 0;
				(void) readable_end(s);
			}
		}
		(void) neon_stream_flush(&s->stream);
		budget -= Min(budget, s->sent_lsn - before);
		CHECK_FOR_INTERRUPTS();
	}
}

/* 'r': positions and a flag; 'h' (hot standby feedback) has no use here. */
static void
handle_reply(Sender *s, const char *data, int len)
{
	s->last_reply = GetCurrentTimestamp();
	s->keepalive_asked = false;
	if (len == 1 + 8 + 8 + 8 + 8 + 1 && data[0] == 'r')
		s->keepalive_wanted |= data[len - 1] != 0;
	else if (len < 1 || data[0] != 'h')
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected message of %d bytes from a receiver", len)));
}

/* True: the client has ended the stream. */
static bool
handle_input(Sender *s)
{
	char	   *data;
	int			len;

	for (;;)
	{
		switch (neon_stream_next(&s->stream, &data, &len))
		{
			case NEON_STREAM_NOTHING:
				return false;
			case NEON_STREAM_DATA:
				handle_reply(s, data, len);
				break;
			case NEON_STREAM_DONE:
				return true;
			case NEON_STREAM_CLOSED:
				proc_exit(0);
		}
	}
}

/* Ask for a sign of life at half of wal_sender_timeout; end the connection at all of it. */
static long
check_timeout(Sender *s)
{
	long		silent_ms;

	if (wal_sender_timeout <= 0)
		return -1;
	silent_ms = (long) ((GetCurrentTimestamp() - s->last_reply) / 1000);
	if (silent_ms >= wal_sender_timeout)
		ereport(FATAL,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("terminating a timeline sender that heard nothing for %ld ms", silent_ms)));
	if (silent_ms >= wal_sender_timeout / 2 && !s->keepalive_asked)
	{
		send_keepalive(s, true);
		s->keepalive_asked = true;
	}
	return s->keepalive_asked ? wal_sender_timeout - silent_ms : Max(wal_sender_timeout / 2 - silent_ms, 1);
}

static void
stream(Sender *s)
{
	for (;;)
	{
		long		timeout_ms;

		if (handle_input(s))
			return;
		send_available(s);
		timeout_ms = check_timeout(s);
		if (s->keepalive_wanted)
			send_keepalive(s, false);
		(void) neon_stream_flush(&s->stream);
		if (s->sent_lsn < readable_end(s))
			continue;
		neon_stream_wait(timeout_ms);
	}
}

/*
 * The body of START_REPLICATION.  An ERROR ends the stream; the connection's loop reports it.
 */
void
sk_send_wal(SkSlot *slot, uint64 generation, XLogRecPtr start, neon_term term)
{
	Sender		s;

	memset(&s, 0, sizeof(s));
	s.slot = slot;
	s.generation = generation;
	s.term = term;
	s.sent_lsn = start;
	s.last_reply = GetCurrentTimestamp();
	(void) readable_end(&s);
	check_start(&s, start);
	sk_wal_init(&s.wal, &slot->tenant, &slot->timeline, slot->wal_segment_bytes);

	sk_sender_register(slot, term != 0);
	PG_TRY();
	{
		neon_stream_begin(&s.stream);
		stream(&s);
		if (!neon_stream_end(&s.stream))
			proc_exit(0);
	}
	PG_CATCH();
	{
		MyProcPort->noblock = false;
		LWLockReleaseAll();
		sk_sender_unregister();
		sk_wal_close(&s.wal);
		neon_stream_abandon(&s.stream);
		neon_stream_free(&s.stream);
		PG_RE_THROW();
	}
	PG_END_TRY();
	sk_sender_unregister();
	sk_wal_close(&s.wal);
	neon_stream_free(&s.stream);
}
