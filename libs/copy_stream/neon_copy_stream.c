/*
 * neon_copy_stream.c - CopyData messages over the client's connection, with buffers of our own.
 *
 * The server's own pq_getbyte and pq_putmessage copy each message through 8 kB buffers.  Here whole batches of
 * messages are read with one secure_read and written with one secure_write, so TLS works as usual.
 *
 * Invariant: nothing behind CopyDone may be in our buffer, since what we have read the server's loop can no longer
 * see.  A client does not send anything there before it has our CommandComplete, Terminate excepted.
 * Writes wait for the client (interruptibly): never write while a timeline's lock is held.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "libpq/libpq.h"
#include "libpq/libpq-be.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "port/pg_bswap.h"
#include "postmaster/interrupt.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/sinval.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "neon_copy_stream.h"

#define HEADER_BYTES 5			/* type, int32 length that includes itself */

void
neon_stream_leave_transaction(FunctionCallInfo fcinfo, const char *name)
{
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) || castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", name),
				 errhint("Send CALL by itself.")));
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	SPI_commit();
	SPI_finish();
	if (get_timeout_active(STATEMENT_TIMEOUT))
		disable_timeout(STATEMENT_TIMEOUT, false);
	CommitTransactionCommand();
	pgstat_report_stat(true);
}

void
neon_stream_begin(NeonStream *s)
{
	StringInfoData b;

	memset(s, 0, sizeof(*s));
	s->context = AllocSetContextCreate(TopMemoryContext, "stream of copy data", ALLOCSET_DEFAULT_SIZES);
	s->in_cap = s->out_cap = NEON_STREAM_BUFFER_BYTES;
	s->in = MemoryContextAlloc(s->context, s->in_cap);
	s->out = MemoryContextAlloc(s->context, s->out_cap);

	pq_beginmessage(&b, 'W');
	pq_sendbyte(&b, 0);
	pq_sendint16(&b, 0);
	pq_endmessage(&b);
	pq_flush();
}

void
neon_stream_free(NeonStream *s)
{
	if (s->context)
		MemoryContextDelete(s->context);
	memset(s, 0, sizeof(*s));
}

/* Sleep until the client sent something, our latch is set or the time is over; serve interrupts. */
void
neon_stream_wait(long timeout_ms)
{
	WaitEvent	ev;
	int			n;

	CHECK_FOR_INTERRUPTS();
	ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, WL_SOCKET_READABLE, NULL);
	n = WaitEventSetWait(FeBeWaitSet, timeout_ms, &ev, 1, WAIT_EVENT_CLIENT_READ);
	if (n == 1 && (ev.events & WL_POSTMASTER_DEATH))
		ereport(FATAL,
				(errcode(ERRCODE_ADMIN_SHUTDOWN),
				 errmsg("terminating connection due to unexpected postmaster exit")));
	if (n == 1 && (ev.events & WL_LATCH_SET))
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* Move what is left to the buffer's start and make it hold need_bytes. */
static void
make_room(NeonStream *s, int need_bytes)
{
	if (s->in_start > 0)
	{
		memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
		s->in_end -= s->in_start;
		s->in_start = 0;
	}
	if (need_bytes > s->in_cap)
	{
		s->in = repalloc(s->in, need_bytes);
		s->in_cap = need_bytes;
	}
}

/* Read what is there, limit bytes at most, without waiting: 1 something came, 0 nothing, -1 closed. */
static int
read_some(NeonStream *s, int limit)
{
	ssize_t		n;

	/* Bytes that the server read ahead before the stream began. */
	if (pq_buffer_has_data())
	{
		pq_startmsgread();
		while (limit-- > 0 && pq_buffer_has_data())
			s->in[s->in_end++] = (char) pq_getbyte();
		pq_endmsgread();
		return 1;
	}

	MyProcPort->noblock = true;
	do
	{
		errno = 0;
		n = secure_read(MyProcPort, s->in + s->in_end, limit);
	} while (n < 0 && errno == EINTR);
	MyProcPort->noblock = false;
	if (n > 0)
	{
		s->in_end += (int) n;
		return 1;
	}
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	return -1;
}

/*
 * The next message, if one has arrived completely.  *data stays valid until the next call.  Never waits.
 */
NeonStreamResult
neon_stream_next(NeonStream *s, char **data, int *len)
{
	for (;;)
	{
		int			have = s->in_end - s->in_start;
		int			need = HEADER_BYTES;

		if (have >= HEADER_BYTES)
		{
			char	   *msg = s->in + s->in_start;
			uint32		msg_len;

			memcpy(&msg_len, msg + 1, 4);
			msg_len = pg_ntoh32(msg_len);
			if (msg_len < 4 || msg_len > NEON_STREAM_MAX_MESSAGE_BYTES)
				ereport(FATAL,
						(errcode(ERRCODE_PROTOCOL_VIOLATION),
						 errmsg("message of %u bytes on the stream, expected 4 to %d",
								msg_len, NEON_STREAM_MAX_MESSAGE_BYTES)));
			need = (int) msg_len + 1;
			if (have >= need)
			{
				s->in_start += need;
				*data = msg + HEADER_BYTES;
				*len = (int) msg_len - 4;
				switch (msg[0])
				{
					case 'd':
						return NEON_STREAM_DATA;
					case 'c':
						return NEON_STREAM_DONE;
					case 'X':
						return NEON_STREAM_CLOSED;
					case 'f':
						ereport(ERROR,
								(errcode(ERRCODE_QUERY_CANCELED),
								 errmsg("the client ended the stream with an error: %.*s", *len, *data)));
						break;
					case 'H':	/* Flush and Sync mean nothing inside COPY */
					case 'S':
						continue;
					default:
						ereport(FATAL,
								(errcode(ERRCODE_PROTOCOL_VIOLATION),
								 errmsg("unexpected message type 0x%02X on the stream", (unsigned char) msg[0])));
				}
			}
		}
		if (have == 0)
			s->in_start = s->in_end = 0;
		if (s->in_start + need > s->in_cap || s->in_end == s->in_cap)
			make_room(s, need);
		switch (read_some(s, s->in_cap - s->in_end))
		{
			case 0:
				return NEON_STREAM_NOTHING;
			case -1:
				return NEON_STREAM_CLOSED;
		}
	}
}

/* Room for one CopyData's payload in the output buffer; the header is filled in.  Flushes when the buffer is full. */
char *
neon_stream_reserve(NeonStream *s, int payload_bytes)
{
	int			need = payload_bytes + HEADER_BYTES;
	uint32		n;
	char	   *p;

	if (s->out_len + need > s->out_cap)
	{
		(void) neon_stream_flush(s);
		if (need > s->out_cap)
		{
			s->out = repalloc(s->out, need);
			s->out_cap = need;
		}
	}
	p = s->out + s->out_len;
	n = pg_hton32((uint32) payload_bytes + 4);
	p[0] = 'd';
	memcpy(p + 1, &n, 4);
	s->out_len += need;
	return p + HEADER_BYTES;
}

/*
 * Sleep until the client takes more bytes; interrupts are served, a cancel excepted: its error message would land in the
 * middle of a message.  A client that takes nothing for wal_sender_timeout is gone.
 */
static void
wait_writeable(TimestampTz since)
{
	WaitEvent	ev;
	int			n;

	if (ProcDiePending && whereToSendOutput == DestRemote)
		whereToSendOutput = DestNone;	/* there is no place for a last message */
	HOLD_CANCEL_INTERRUPTS();
	CHECK_FOR_INTERRUPTS();
	ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, WL_SOCKET_WRITEABLE, NULL);
	n = WaitEventSetWait(FeBeWaitSet, 1000, &ev, 1, WAIT_EVENT_CLIENT_WRITE);
	if (n == 1 && (ev.events & WL_POSTMASTER_DEATH))
		proc_exit(1);
	if (n == 1 && (ev.events & WL_LATCH_SET))
		ResetLatch(MyLatch);
	RESUME_CANCEL_INTERRUPTS();
	if (wal_sender_timeout > 0 && TimestampDifferenceExceeds(since, GetCurrentTimestamp(), wal_sender_timeout))
	{
		whereToSendOutput = DestNone;
		ereport(FATAL,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("terminating a stream whose client took nothing for %d ms", wal_sender_timeout)));
	}
}

/* Send all of it.  False: the connection is gone, which the next read will say again. */
bool
neon_stream_flush(NeonStream *s)
{
	TimestampTz since = 0;
	int			off = 0;
	bool		ok = true;

	while (off < s->out_len && ok)
	{
		ssize_t		n;

		MyProcPort->noblock = true;
		errno = 0;
		n = secure_write(MyProcPort, s->out + off, s->out_len - off);
		MyProcPort->noblock = false;
		if (n > 0)
		{
			off += (int) n;
			since = 0;
		}
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		{
			if (since == 0)
				since = GetCurrentTimestamp();
			wait_writeable(since);
		}
		else if (!(n < 0 && errno == EINTR))
			ok = false;
	}
	s->out_len = 0;
	return ok;
}

/* Answer CopyDone with CopyDone.  False: the client has gone; the caller ends the process. */
bool
neon_stream_end(NeonStream *s)
{
	int			left = s->in_end - s->in_start;

	if (!neon_stream_flush(s))
		return false;
	if (left > 0 && s->in[s->in_start] == 'X')
		return false;
	if (left > 0)
		ereport(FATAL,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the client went on before its stream was closed"),
				 errhint("Start streams with the simple query protocol and wait for CommandComplete.")));
	pq_putemptymessage('c');
	return true;
}

/*
 * The stream ends with an error.  The server's loop goes on reading from the socket, so the message that we have a part
 * of is read to its end and thrown away; whole messages that the client sends after it the server ignores by itself.
 */
void
neon_stream_abandon(NeonStream *s)
{
	if (s->in == NULL)
		return;
	s->out_len = 0;
	for (;;)
	{
		int			have = s->in_end - s->in_start;
		int			need = HEADER_BYTES;

		if (have == 0)
			return;
		if (have >= HEADER_BYTES)
		{
			uint32		msg_len;

			memcpy(&msg_len, s->in + s->in_start + 1, 4);
			msg_len = pg_ntoh32(msg_len);
			if (msg_len < 4 || msg_len > NEON_STREAM_MAX_MESSAGE_BYTES || s->in[s->in_start] == 'X')
				proc_exit(0);
			need = (int) msg_len + 1;
			if (have >= need)
			{
				s->in_start += need;
				continue;
			}
		}
		make_room(s, need);
		switch (read_some(s, need - have))
		{
			case 0:
				/* A cancel has nothing left to cancel, and no error may be thrown out of the handler of another. */
				HOLD_CANCEL_INTERRUPTS();
				neon_stream_wait(-1);
				RESUME_CANCEL_INTERRUPTS();
				break;
			case -1:
				return;
		}
	}
}
