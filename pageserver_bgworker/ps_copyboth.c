/*
 * ps_copyboth.c - CopyBoth out of a CALL: own buffers over the connection, no transaction while idle.
 *
 * Bytes are read with secure_read into a buffer of our own and written from one: half a megabyte moved at once is several
 * times faster than the server's message functions.  What the server's input buffer already held is taken over first.
 *
 * An ERROR may leave half a message in our buffer, after which the connection cannot be used for queries: callers turn
 * errors that end the stream into FATAL.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_copyboth.h"

#include "access/xact.h"
#include "libpq/libpq.h"
#include "libpq/libpq-be.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_bswap.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "neon_copy_stream.h"

#define BUFFER_BYTES		(512 * 1024)
#define MIN_READ_BYTES		(64 * 1024)
#define MAX_MESSAGE_BYTES	(64 * 1024)	/* from the client; requests are much smaller */
#define SEND_BYTES			(64 * 1024)	/* what was answered is sent, so that the client works on it meanwhile */
#define HEADER_BYTES		5		/* type, and length that counts itself */

void
ps_copyboth_begin(PsCopyBoth *cb, FunctionCallInfo fcinfo)
{
	StringInfoData b;

	neon_stream_leave_transaction(fcinfo, "this procedure");
	memset(cb, 0, sizeof(*cb));
	cb->in_bytes = cb->out_bytes = BUFFER_BYTES;
	cb->in = MemoryContextAlloc(TopMemoryContext, cb->in_bytes);
	cb->out = MemoryContextAlloc(TopMemoryContext, cb->out_bytes);

	pq_beginmessage(&b, 'W');
	pq_sendbyte(&b, 0);			/* overall format; no columns */
	pq_sendint16(&b, 0);
	pq_endmessage(&b);
	pq_flush();
}

/* ---- reading ---- */

static void
client_is_gone(void)
{
	/* As the server does: a client may go at any time, nobody is listening for an error. */
	ereport(DEBUG1, (errmsg_internal("client left the stream")));
	proc_exit(0);
}

static void
wait_for_input(void)
{
	WaitEvent	event;
	int			n;

	ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, WL_SOCKET_READABLE, NULL);
	n = WaitEventSetWait(FeBeWaitSet, -1, &event, 1, WAIT_EVENT_CLIENT_READ);
	if (n == 1 && (event.events & WL_POSTMASTER_DEATH))
		proc_exit(1);
	if (n == 1 && (event.events & WL_LATCH_SET))
		ResetLatch(MyLatch);
	QueryCancelPending = false;	/* for what is over: the postmaster sends every cancel twice */
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* Length of the message at in_start including its header, which is checked; 0 while the header is incomplete. */
static size_t
message_bytes(PsCopyBoth *cb)
{
	uint32		len;

	if (cb->in_end - cb->in_start < HEADER_BYTES)
		return 0;
	if (strchr("dcfHSX", cb->in[cb->in_start]) == NULL || cb->in[cb->in_start] == '\0')
	{
		ps_copyboth_flush(cb);	/* what was answered before it */
		ereport(FATAL,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected message type 0x%02X in a stream", (unsigned char) cb->in[cb->in_start])));
	}
	memcpy(&len, cb->in + cb->in_start + 1, sizeof(len));
	len = pg_ntoh32(len);
	if (len < 4 || len > MAX_MESSAGE_BYTES)
	{
		ps_copyboth_flush(cb);
		ereport(FATAL,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("invalid message length %u in a stream", len)));
	}
	return (size_t) len + 1;
}

bool
ps_copyboth_pending(PsCopyBoth *cb)
{
	size_t		need = message_bytes(cb);

	return pq_buffer_has_data() || (need > 0 && cb->in_end - cb->in_start >= need);
}

static void
make_room(PsCopyBoth *cb, size_t need)
{
	size_t		have = cb->in_end - cb->in_start;

	if (have == 0)
		cb->in_start = cb->in_end = 0;
	else if (cb->in_start > 0 && (cb->in_bytes - cb->in_end < MIN_READ_BYTES || cb->in_bytes - cb->in_start < need))
	{
		memmove(cb->in, cb->in + cb->in_start, have);
		cb->in_start = 0;
		cb->in_end = have;
	}
	if (need > cb->in_bytes)
	{
		cb->in_bytes = need + MIN_READ_BYTES;
		cb->in = repalloc(cb->in, cb->in_bytes);
	}
}

/* Adds what there is to the buffer, waiting if there is nothing. */
static void
read_more(PsCopyBoth *cb)
{
	ssize_t		n;

	while (pq_buffer_has_data() && cb->in_end < cb->in_bytes)
	{
		pq_startmsgread();
		cb->in[cb->in_end++] = (char) pq_getbyte();
		pq_endmsgread();
		if (!pq_buffer_has_data())
			return;
	}
	MyProcPort->noblock = true;
	n = secure_read(MyProcPort, cb->in + cb->in_end, cb->in_bytes - cb->in_end);
	MyProcPort->noblock = false;
	if (n > 0)
		cb->in_end += n;
	else if (n == 0)
		client_is_gone();
	else if (errno == EAGAIN || errno == EWOULDBLOCK)
	{
		ps_copyboth_flush(cb);
		wait_for_input();
	}
	else if (errno != EINTR)
		client_is_gone();
}

bool
ps_copyboth_receive(PsCopyBoth *cb, const char **data, size_t *len)
{
	while (!cb->done)
	{
		size_t		need = message_bytes(cb);
		char	   *message = cb->in + cb->in_start;

		if (need == 0 || cb->in_end - cb->in_start < need)
		{
			make_room(cb, need);
			read_more(cb);
			continue;
		}
		cb->in_start += need;
		switch (message[0])
		{
			case 'd':
				*data = message + HEADER_BYTES;
				*len = need - HEADER_BYTES;
				return true;
			case 'c':
				cb->done = true;
				break;
			case 'X':
				proc_exit(0);
			case 'H':			/* Flush, Sync: as in any COPY */
			case 'S':
				break;
			case 'f':
				ereport(FATAL,
						(errcode(ERRCODE_QUERY_CANCELED),
						 errmsg("the client gave up the stream")));
				break;
		}
	}
	return false;
}

/* ---- writing ---- */

void
ps_copyboth_flush(PsCopyBoth *cb)
{
	size_t		sent = 0;

	MyProcPort->noblock = false;
	while (sent < cb->out_len)
	{
		ssize_t		n = secure_write(MyProcPort, cb->out + sent, cb->out_len - sent);

		if (n <= 0)
		{
			if (n < 0 && errno == EINTR)
				continue;
			client_is_gone();
		}
		sent += n;
	}
	cb->out_len = 0;
}

char *
ps_copyboth_reserve(PsCopyBoth *cb, size_t len)
{
	char	   *message;
	uint32		be_len = pg_hton32((uint32) len + 4);

	if (cb->out_len >= SEND_BYTES || cb->out_len + len + HEADER_BYTES > cb->out_bytes)
		ps_copyboth_flush(cb);
	if (len + HEADER_BYTES > cb->out_bytes)
	{
		cb->out_bytes = len + HEADER_BYTES;
		cb->out = repalloc(cb->out, cb->out_bytes);
	}
	cb->message_start = cb->out_len;
	message = cb->out + cb->out_len;
	message[0] = 'd';
	memcpy(message + 1, &be_len, sizeof(be_len));
	cb->out_len += len + HEADER_BYTES;
	return message + HEADER_BYTES;
}

void
ps_copyboth_end(PsCopyBoth *cb)
{
	const char *data;
	size_t		len;

	ps_copyboth_flush(cb);
	pq_putemptymessage('c');
	pq_flush();
	while (ps_copyboth_receive(cb, &data, &len))
		;						/* what the client had on its way */
	if (cb->in_end > cb->in_start && cb->in[cb->in_start] != 'X')
		ereport(FATAL,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the client sent a message before the stream's end was confirmed")));
	pfree(cb->in);
	pfree(cb->out);
	cb->in = cb->out = NULL;
	if (!IsTransactionState())
		StartTransactionCommand();
}
