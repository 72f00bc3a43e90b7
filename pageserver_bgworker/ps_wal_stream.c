/*
 * ps_wal_stream.c - a timeline's WAL from its safekeepers: connect, check, stream, ingest, report, change over.
 *
 * A stream is a state machine without waits of its own; the worker waits for all of its streams at once.  It speaks the
 * standard replication protocol: IDENTIFY_SYSTEM (whose position is the safekeeper's commit_lsn), then START_REPLICATION
 * from last_record_lsn.  Safekeepers serve only what a quorum has, so what one sent another sends as well, and going to
 * another one needs no more than starting again where ingest stopped.  While nothing arrives, the others are asked for
 * their position, one at a time over a second connection, and the stream moves to one that is ahead.
 *
 * Errors: a failure of the network closes the connection and tries the next safekeeper after a delay.  An error inside a
 * record abandons the batch, which is put again later; if the data is at fault the attempt is counted
 * (ps_ingest_status.c).  No error leaves ps_wal_stream_work, so one timeline does not stop the others.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <libpq-fe.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "ps_ingest.h"
#include "ps_ingest_status.h"
#include "ps_layer_file.h"
#include "ps_wal_source.h"
#include "ps_wal_stream.h"

#define MIN_RETRY_MS			100
#define MAX_RETRY_MS			5000
#define CONNECT_TIMEOUT_MS		10000
#define STATUS_INTERVAL_MS		1000
#define SILENCE_TIMEOUT_MS		60000	/* not even a keepalive: the connection is dead */
#define MIN_PROBE_MS			1000
#define MAX_PROBE_MS			5000
#define BATCH_RECORDS			500
#define MESSAGES_A_TURN			32	/* then the worker looks after its other streams */
#define WAL_MESSAGE_HEADER		25	/* 'w', start, end, time */
#define KEEPALIVE_BYTES			18	/* 'k', end, time, reply requested */
#define STATUS_UPDATE_BYTES		34	/* 'r', written, flushed, applied, time, reply requested */

typedef enum LinkState
{
	LINK_CLOSED,
	LINK_CONNECTING,
	LINK_IDENTIFYING,
	LINK_STARTING,
	LINK_STREAMING
} LinkState;

/* One connection to one safekeeper. */
typedef struct Link
{
	LinkState	state;
	int			safekeeper;		/* index in the list */
	PGconn	   *conn;
	PostgresPollingStatusType poll;
	TimestampTz since;			/* of the state; of the last message while streaming */
	bool		output_pending;
} Link;

struct PsWalStream
{
	PsTimeline *tl;
	uint32		incarnation;
	MemoryContext context;
	MemoryContext batch_context;
	MemoryContext list_context;	/* of safekeepers */
	char	  **safekeepers;
	int			nsafekeepers;
	PsIngestStatus *status;

	Link		link;			/* the stream */
	Link		probe;			/* asks another safekeeper for its position */
	TimestampTz retry_at;
	int			failures;
	TimestampTz probe_at;
	int			probe_delay_ms;
	TimestampTz status_sent_at;
	bool		more;			/* stopped in the middle of what has arrived */

	PsIngest   *ing;			/* NULL until WAL arrives */
	neon_wal_reader reader;
	bool		reader_open;
};

static void start_link(PsWalStream *s, Link *l, int safekeeper);
static void close_link(Link *l);
static void fail_link(PsWalStream *s, const char *what);

/* ---- opening and closing ---- */

static void
read_safekeepers(PsWalStream *s)
{
	MemoryContext old;
	MemoryContext context = AllocSetContextCreate(s->context, "neon WAL stream safekeepers", ALLOCSET_SMALL_SIZES);
	List	   *list;
	ListCell   *lc;
	int			n = 0;

	old = MemoryContextSwitchTo(context);
	list = ps_timeline_safekeepers(s->tl);
	s->safekeepers = palloc(Max(list_length(list), 1) * sizeof(char *));
	foreach(lc, list)
		s->safekeepers[n++] = lfirst(lc);
	s->nsafekeepers = n;
	s->list_context = context;
	MemoryContextSwitchTo(old);
}

PsWalStream *
ps_wal_stream_open(PsTimeline *tl)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "neon WAL stream", ALLOCSET_SMALL_SIZES);
	PsWalStream *s = MemoryContextAllocZero(context, sizeof(PsWalStream));

	s->tl = tl;
	s->incarnation = ps_timeline_incarnation(tl);
	s->context = context;
	s->batch_context = AllocSetContextCreate(context, "neon WAL stream batch", ALLOCSET_DEFAULT_SIZES);
	PG_TRY();
	{
		read_safekeepers(s);
	}
	PG_CATCH();
	{
		MemoryContextDelete(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (s->nsafekeepers == 0 || !ps_writer_attach(tl))
	{
		MemoryContextDelete(context);
		return NULL;
	}
	PG_TRY();
	{
		s->status = ps_ingest_status_open(tl);
	}
	PG_CATCH();
	{
		ps_writer_detach(tl);
		MemoryContextDelete(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	s->probe_delay_ms = MIN_PROBE_MS;
	/* Not all timelines begin with the same safekeeper. */
	s->link.safekeeper = ps_timeline_id(tl)->b[0] % s->nsafekeepers;
	return s;
}

/* Forget what was ingested but not committed. */
static void
reset_ingest(PsWalStream *s)
{
	if (s->ing != NULL)
		ps_ingest_abandon(s->ing);
	s->ing = NULL;
	if (s->reader_open)
		neon_wal_reader_free(&s->reader);
	s->reader_open = false;
	s->more = false;
	MemoryContextReset(s->batch_context);
}

void
ps_wal_stream_close(PsWalStream *s)
{
	close_link(&s->link);
	close_link(&s->probe);
	reset_ingest(s);
	ps_ingest_status_close(s->status);
	ps_writer_detach(s->tl);
	MemoryContextDelete(s->context);
}

bool
ps_wal_stream_is_live(PsWalStream *s)
{
	return ps_timeline_is_live(s->tl, s->incarnation) && s->nsafekeepers > 0;
}

PsTimeline *
ps_wal_stream_timeline(PsWalStream *s)
{
	return s->tl;
}

void
ps_wal_stream_refresh(PsWalStream *s)
{
	char	   *current = s->nsafekeepers > 0 ? s->safekeepers[s->link.safekeeper] : NULL;
	MemoryContext before = s->list_context;

	read_safekeepers(s);
	close_link(&s->probe);
	for (int i = 0; i < s->nsafekeepers; i++)
		if (current != NULL && strcmp(s->safekeepers[i], current) == 0)
		{
			s->link.safekeeper = i;
			current = NULL;
		}
	if (current != NULL || s->nsafekeepers == 0)
	{
		close_link(&s->link);
		s->link.safekeeper = 0;
	}

	MemoryContextDelete(before);

	/* resume_ingest() removes the status file; a new one has no quarantine. */
	if (s->status->state == PS_INGEST_QUARANTINED)
	{
		PsIngestStatus *fresh = ps_ingest_status_open(s->tl);

		ps_ingest_status_close(s->status);
		fresh->worker_pid = MyProcPid;	/* it may have been the same file */
		s->status = fresh;
	}
}

void
ps_wal_stream_forgive(PsWalStream *s)
{
	if (s->status != NULL)
		s->status->in_progress = InvalidXLogRecPtr;
}

/* ---- links ---- */

/* Host and port of a connection string, for people. */
static void
describe_source(PsWalStream *s, const Link *l)
{
	const char *host = PQhost(l->conn);
	const char *port = PQport(l->conn);

	snprintf(s->status->source, sizeof(s->status->source), "%s:%s", host ? host : "", port ? port : "");
}

static void
start_link(PsWalStream *s, Link *l, int safekeeper)
{
	char		tenant[NEON_ID_TEXT];
	char		timeline[NEON_ID_TEXT];
	char		options[200];
	const char *keywords[] = {"dbname", "replication", "options", "fallback_application_name", NULL};
	const char *values[] = {s->safekeepers[safekeeper], "true", options, "neon_pageserver", NULL};

	neon_id_print(ps_timeline_tenant_id(s->tl), tenant);
	neon_id_print(ps_timeline_id(s->tl), timeline);
	snprintf(options, sizeof(options), "-c neon.tenant_id=%s -c neon.timeline_id=%s", tenant, timeline);
	close_link(l);
	l->safekeeper = safekeeper;
	l->conn = PQconnectStartParams(keywords, values, 1);
	l->since = GetCurrentTimestamp();
	l->poll = PGRES_POLLING_WRITING;
	l->state = LINK_CONNECTING;
	l->output_pending = false;
}

static void
close_link(Link *l)
{
	if (l->conn != NULL)
		PQfinish(l->conn);
	l->conn = NULL;
	l->state = LINK_CLOSED;
}

/* The stream's link failed: the next safekeeper, after a delay that grows. */
static void
fail_link(PsWalStream *s, const char *what)
{
	char	   *detail = s->link.conn ? pchomp(PQerrorMessage(s->link.conn)) : pstrdup("");
	int			delay_ms = Min(MIN_RETRY_MS << Min(s->failures, 6), MAX_RETRY_MS);
	char		message[PS_STATUS_TEXT_BYTES];

	snprintf(message, sizeof(message), "%s%s%s", what, detail[0] ? ": " : "", detail);
	if (s->failures == 0)
		ereport(LOG, (errmsg("WAL stream from safekeeper %s ended: %s", s->status->source, message)));
	ps_ingest_status_message(s->status, message);
	close_link(&s->link);
	reset_ingest(s);
	s->failures++;
	s->retry_at = GetCurrentTimestamp() + delay_ms * INT64CONST(1000);
	s->status->state = PS_INGEST_WAITING;
	if (s->nsafekeepers > 0)
		s->link.safekeeper = (s->link.safekeeper + 1) % s->nsafekeepers;
}

/* Moves a connection attempt on; false when it failed. */
static bool
poll_connection(Link *l)
{
	if (l->conn == NULL || PQstatus(l->conn) == CONNECTION_BAD)
		return false;
	l->poll = PQconnectPoll(l->conn);
	if (l->poll == PGRES_POLLING_FAILED)
		return false;
	if (l->poll != PGRES_POLLING_OK)
		return true;
	if (PQsetnonblocking(l->conn, 1) != 0 || !PQsendQuery(l->conn, "IDENTIFY_SYSTEM"))
		return false;
	l->output_pending = PQflush(l->conn) > 0;
	l->state = LINK_IDENTIFYING;
	l->since = GetCurrentTimestamp();
	return true;
}

/* The answer to IDENTIFY_SYSTEM: 1 and its position, 0 not yet there, -1 failed. */
static int
poll_identity(PsWalStream *s, Link *l, XLogRecPtr *position)
{
	PGresult   *res;
	bool		ok;
	char		expected[32];

	if (!PQconsumeInput(l->conn))
		return -1;
	if (PQisBusy(l->conn))
		return 0;
	res = PQgetResult(l->conn);
	ok = PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1 && PQnfields(res) >= 3 &&
		neon_lsn_parse(PQgetvalue(res, 0, 2), position);
	snprintf(expected, sizeof(expected), UINT64_FORMAT, ps_timeline_system_id(s->tl));
	if (ok && strcmp(PQgetvalue(res, 0, 0), expected) != 0)
	{
		char		message[200];

		snprintf(message, sizeof(message), "safekeeper has system identifier %.30s, timeline has %s",
				 PQgetvalue(res, 0, 0), expected);
		ps_ingest_status_message(s->status, message);
		ok = false;
	}
	PQclear(res);
	while ((res = PQgetResult(l->conn)) != NULL)
		PQclear(res);
	return ok ? 1 : -1;
}

static bool
start_streaming(PsWalStream *s)
{
	char		command[100];

	snprintf(command, sizeof(command), "START_REPLICATION PHYSICAL %X/%X",
			 LSN_FORMAT_ARGS(ps_timeline_last_record_lsn(s->tl)));
	if (!PQsendQuery(s->link.conn, command))
		return false;
	s->link.output_pending = PQflush(s->link.conn) > 0;
	s->link.state = LINK_STARTING;
	s->link.since = GetCurrentTimestamp();
	return true;
}

/* 1 streaming, 0 not yet, -1 failed */
static int
poll_start(PsWalStream *s)
{
	PGresult   *res;
	bool		ok;

	if (!PQconsumeInput(s->link.conn))
		return -1;
	if (PQisBusy(s->link.conn))
		return 0;
	res = PQgetResult(s->link.conn);
	ok = PQresultStatus(res) == PGRES_COPY_BOTH;
	PQclear(res);
	if (!ok)
		return -1;
	s->link.state = LINK_STREAMING;
	s->link.since = GetCurrentTimestamp();
	s->status->state = PS_INGEST_STREAMING;
	s->probe_at = GetCurrentTimestamp() + MIN_PROBE_MS * INT64CONST(1000);
	describe_source(s, &s->link);
	ereport(LOG,
			(errmsg("streaming WAL from safekeeper %s at %X/%X", s->status->source,
					LSN_FORMAT_ARGS(ps_timeline_last_record_lsn(s->tl)))));
	return 1;
}

/* ---- WAL ---- */

static void
open_ingest(PsWalStream *s)
{
	MemoryContext old = MemoryContextSwitchTo(s->batch_context);

	s->ing = ps_ingest_begin(s->tl);
	neon_wal_reader_init(&s->reader, ps_timeline_wal_segment_bytes(s->tl), ps_wal_realloc, s->batch_context);
	neon_wal_reader_begin(&s->reader, ps_timeline_last_record_lsn(s->tl));
	s->reader_open = true;
	MemoryContextSwitchTo(old);
}

static void
commit_batch(PsWalStream *s)
{
	if (s->ing == NULL)
		return;
	ps_ingest_commit(s->ing);
	ps_throttle(s->tl);
	CHECK_FOR_INTERRUPTS();
}

static void
ingest_bytes(PsWalStream *s, XLogRecPtr start, const char *bytes, int len)
{
	neon_wal_record rec;
	neon_wal_status status;
	int			batch = 0;

	if (s->ing == NULL)
		open_ingest(s);
	if (start != s->reader.pos)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("safekeeper sent WAL from %X/%X instead of %X/%X", LSN_FORMAT_ARGS(start),
						LSN_FORMAT_ARGS((XLogRecPtr) s->reader.pos))));
	neon_wal_reader_feed(&s->reader, bytes, len);
	while ((status = neon_wal_reader_next(&s->reader, &rec)) == NEON_WAL_OK)
	{
		s->status->in_progress = rec.start;
		ps_ingest_record(s->ing, &rec);
		s->status->in_progress = InvalidXLogRecPtr;
		if (++batch % BATCH_RECORDS == 0)
			commit_batch(s);
	}
	if (status != NEON_WAL_NEED_MORE)
	{
		s->status->in_progress = s->reader.record_end;
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("WAL from safekeeper %s is damaged after %X/%X: %s", s->status->source,
						LSN_FORMAT_ARGS((XLogRecPtr) s->reader.record_end), neon_wal_status_text(status))));
	}
}

static void
send_status(PsWalStream *s, bool ask_reply)
{
	char		msg[STATUS_UPDATE_BYTES];
	uint64		fields[4];

	fields[0] = fields[2] = ps_timeline_last_record_lsn(s->tl);
	fields[1] = ps_timeline_disk_consistent_lsn(s->tl);	/* what need not be sent again, ever */
	fields[3] = GetCurrentTimestamp();
	msg[0] = 'r';
	for (int i = 0; i < 4; i++)
		ps_be64((uint8 *) msg + 1 + 8 * i, fields[i]);
	msg[33] = ask_reply;
	if (PQputCopyData(s->link.conn, msg, sizeof(msg)) > 0)
		s->link.output_pending = PQflush(s->link.conn) > 0;
	s->status_sent_at = GetCurrentTimestamp();
}

/* One CopyData message.  Not inlined: the caller has a PG_TRY. */
static pg_noinline void
handle_message(PsWalStream *s, const char *msg, int len)
{
	if (msg[0] == 'w' && len >= WAL_MESSAGE_HEADER)
	{
		s->probe_delay_ms = MIN_PROBE_MS;
		s->probe_at = GetCurrentTimestamp() + MIN_PROBE_MS * INT64CONST(1000);
		ingest_bytes(s, ps_get_be64((const uint8 *) msg + 1), msg + WAL_MESSAGE_HEADER, len - WAL_MESSAGE_HEADER);
		s->failures = 0;		/* not before: what fails again and again is tried ever less often */
	}
	else if (msg[0] == 'k' && len >= KEEPALIVE_BYTES)
	{
		s->failures = 0;
		if (msg[17])
			send_status(s, false);
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected message 0x%02X of %d bytes in the WAL stream", (uint8) msg[0], len)));
}

static pg_noinline void
handle_and_free(PsWalStream *s, char *msg, int len)
{
	PG_TRY();
	{
		handle_message(s, msg, len);
	}
	PG_CATCH();
	{
		PQfreemem(msg);
		PG_RE_THROW();
	}
	PG_END_TRY();
	PQfreemem(msg);
}

/* Takes messages that have arrived; false when the stream has ended. */
static bool
receive(PsWalStream *s)
{
	int			n = 0;
	int			handled = 0;
	char	   *msg;

	if (!PQconsumeInput(s->link.conn))
		return false;
	s->more = false;
	while (handled < MESSAGES_A_TURN && (n = PQgetCopyData(s->link.conn, &msg, 1)) > 0)
	{
		handle_and_free(s, msg, n);
		handled++;
	}
	if (handled > 0)
		s->link.since = GetCurrentTimestamp();
	commit_batch(s);
	s->more = handled == MESSAGES_A_TURN;
	if (n == -1)				/* libpq has the reason once the result is taken */
		PQclear(PQgetResult(s->link.conn));
	return n >= 0;
}

/* ---- the others ---- */

/* Nothing comes: is another safekeeper ahead? */
static void
work_probe(PsWalStream *s)
{
	XLogRecPtr	position;
	int			r;
	TimestampTz now = GetCurrentTimestamp();

	switch (s->probe.state)
	{
		case LINK_CLOSED:
			if (s->nsafekeepers < 2 || now < s->probe_at)
				return;
			s->probe.safekeeper = (s->probe.safekeeper + 1) % s->nsafekeepers;
			if (s->probe.safekeeper == s->link.safekeeper)
				s->probe.safekeeper = (s->probe.safekeeper + 1) % s->nsafekeepers;
			start_link(s, &s->probe, s->probe.safekeeper);
			return;
		case LINK_CONNECTING:
			if (poll_connection(&s->probe) && now - s->probe.since < CONNECT_TIMEOUT_MS * INT64CONST(1000))
				return;
			break;
		default:
			r = poll_identity(s, &s->probe, &position);
			if (r == 0 && now - s->probe.since < CONNECT_TIMEOUT_MS * INT64CONST(1000))
				return;
			if (r == 1 && position > ps_timeline_last_record_lsn(s->tl) && s->link.state == LINK_STREAMING &&
				now >= s->probe_at)
			{
				ereport(LOG,
						(errmsg("safekeeper %s:%s is ahead at %X/%X", PQhost(s->probe.conn), PQport(s->probe.conn),
								LSN_FORMAT_ARGS(position))));
				reset_ingest(s);
				start_link(s, &s->link, s->probe.safekeeper);
				s->status->state = PS_INGEST_CONNECTING;
			}
			break;
	}
	close_link(&s->probe);
	s->probe_delay_ms = Min(s->probe_delay_ms * 2, MAX_PROBE_MS);
	s->probe_at = now + s->probe_delay_ms * INT64CONST(1000);
}

/* ---- the machine ---- */

static void
work_link(PsWalStream *s)
{
	Link	   *l = &s->link;
	TimestampTz now = GetCurrentTimestamp();
	XLogRecPtr	position;
	int			r;

	if (l->conn != NULL && l->output_pending)
		l->output_pending = PQflush(l->conn) > 0;
	switch (l->state)
	{
		case LINK_CLOSED:
			if (s->nsafekeepers == 0 || now < s->retry_at)
				return;
			/* ingest reads what it changes, through the ancestor too */
			if (!ps_timeline_has_history(s->tl))
			{
				s->retry_at = now + MIN_RETRY_MS * INT64CONST(1000);
				return;
			}
			start_link(s, l, l->safekeeper);
			s->status->state = PS_INGEST_CONNECTING;
			break;
		case LINK_CONNECTING:
			if (!poll_connection(l))
				fail_link(s, "could not connect");
			else if (now - l->since > CONNECT_TIMEOUT_MS * INT64CONST(1000))
				fail_link(s, "connecting took too long");
			break;
		case LINK_IDENTIFYING:
			r = poll_identity(s, l, &position);
			if (r < 0)
				fail_link(s, "safekeeper did not identify itself");
			else if (r > 0 && position < ps_timeline_last_record_lsn(s->tl))
				fail_link(s, "safekeeper is behind");
			else if (r > 0 && !start_streaming(s))
				fail_link(s, "could not start replication");
			else if (r == 0 && now - l->since > CONNECT_TIMEOUT_MS * INT64CONST(1000))
				fail_link(s, "safekeeper took too long to identify itself");
			break;
		case LINK_STARTING:
			r = poll_start(s);
			if (r < 0)
				fail_link(s, "replication was refused");
			else if (r == 0 && now - l->since > CONNECT_TIMEOUT_MS * INT64CONST(1000))
				fail_link(s, "replication took too long to start");
			break;
		case LINK_STREAMING:
			if (!receive(s))
				fail_link(s, "stream closed");
			else if (now - l->since > SILENCE_TIMEOUT_MS * INT64CONST(1000))
				fail_link(s, "safekeeper is silent");
			else
			{
				if (now - s->status_sent_at > STATUS_INTERVAL_MS * INT64CONST(1000))
					send_status(s, now - l->since > SILENCE_TIMEOUT_MS / 4 * INT64CONST(1000));
				work_probe(s);
			}
			break;
	}
}

/* After an error in work_link: clean up as a backend would between transactions, and say what happened. */
static void
recover(PsWalStream *s, ErrorData *edata, uint64 layer_errors)
{
	bool		data_at_fault = edata->sqlerrcode == ERRCODE_DATA_CORRUPTED ||
		edata->sqlerrcode == ERRCODE_INTERNAL_ERROR || edata->sqlerrcode == ERRCODE_INDEX_CORRUPTED;

	/* A damaged layer is not the WAL's fault: go on trying until the file is restored. */
	if (layer_errors != ps_layer_file_errors)
		data_at_fault = false;

	LWLockReleaseAll();
	if (IsTransactionState())
		AbortCurrentTransaction();
	ps_ingest_status_message(s->status, edata->message ? edata->message : "");
	if (data_at_fault)
		ps_ingest_status_count_attempt(s->status);
	else
		s->status->in_progress = InvalidXLogRecPtr;
	close_link(&s->link);
	close_link(&s->probe);
	reset_ingest(s);
	ps_discard_uncommitted(s->tl);
	s->retry_at = GetCurrentTimestamp() + Min(MIN_RETRY_MS << Min(s->failures, 6), MAX_RETRY_MS) * INT64CONST(1000);
	s->failures++;
	if (s->nsafekeepers > 0)	/* what is damaged here may be whole elsewhere */
		s->link.safekeeper = (s->link.safekeeper + 1) % s->nsafekeepers;
	if (s->status->state != PS_INGEST_QUARANTINED)
		s->status->state = PS_INGEST_WAITING;
}

void
ps_wal_stream_work(PsWalStream *s)
{
	MemoryContext old = CurrentMemoryContext;
	MemoryContext turn = AllocSetContextCreate(s->context, "neon WAL stream turn", ALLOCSET_SMALL_SIZES);
	uint64		layer_errors = ps_layer_file_errors;

	if (s->status->state == PS_INGEST_QUARANTINED)
	{
		close_link(&s->link);
		close_link(&s->probe);
		MemoryContextDelete(turn);
		return;
	}
	MemoryContextSwitchTo(turn);
	PG_TRY();
	{
		work_link(s);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(turn);
		edata = CopyErrorData();
		EmitErrorReport();
		FlushErrorState();
		HOLD_INTERRUPTS();
		recover(s, edata, layer_errors);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(turn);
}

static void
add_socket(const Link *l, PsStreamSocket *sockets, int *n)
{
	if (l->conn == NULL || PQsocket(l->conn) < 0)
		return;
	sockets[*n].fd = PQsocket(l->conn);
	if (l->state == LINK_CONNECTING)
		sockets[*n].events = l->poll == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;
	else
		sockets[*n].events = WL_SOCKET_READABLE | (l->output_pending ? WL_SOCKET_WRITEABLE : 0);
	(*n)++;
}

int
ps_wal_stream_sockets(PsWalStream *s, PsStreamSocket sockets[PS_STREAM_MAX_SOCKETS], long *timeout_ms)
{
	int			n = 0;

	if (s->status->state == PS_INGEST_QUARANTINED)
		return 0;
	if (s->more)
		*timeout_ms = 0;
	else if (s->link.state == LINK_CLOSED)
	{
		long		wait_ms = (long) Max((s->retry_at - GetCurrentTimestamp()) / 1000, 0);

		*timeout_ms = Min(*timeout_ms, wait_ms);
	}
	add_socket(&s->link, sockets, &n);
	add_socket(&s->probe, sockets, &n);
	return n;
}
