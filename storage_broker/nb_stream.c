/*
 * nb_stream.c - CALL neon_broker.publish() and subscribe(), and what people can see.
 *
 * Both streams live outside of transactions and may stay for months.  Publishing: every message is applied as a whole or ends the stream.
 * Subscribing: the process sleeps on its latch, which nb_publish sets, and sends what the table says has changed since it last
 * looked; what changes while a client does not read is sent once, in its newest state.
 *
 * Nothing is sent under the table's lock.  A client that takes nothing for wal_sender_timeout is disconnected.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "nb.h"
#include "neon_copy_stream.h"

#define ALIVE_EVERY_MS		5000
#define LOOK_EVERY_MS		1000	/* for what has expired */
#define COMPLAIN_EVERY_MS	60000

PG_FUNCTION_INFO_V1(nb_publish_stream);
PG_FUNCTION_INFO_V1(nb_subscribe_stream);
PG_FUNCTION_INFO_V1(nb_timelines);
PG_FUNCTION_INFO_V1(nb_stat);
PGDLLEXPORT Datum nb_publish_stream(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum nb_subscribe_stream(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum nb_timelines(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum nb_stat(PG_FUNCTION_ARGS);

typedef struct Session
{
	MemoryContext context;
	NeonStream	stream;
	NbFilter	filter;
	NbCursor	cursor;
	bool		in_snapshot;	/* SNAPSHOT is still to be sent */
	TimestampTz sent_at;
	uint64		publisher;
	TimestampTz complained_at;
	neon_broker_message message;
	NbChanges	changes;
} Session;

static void
send_bare(Session *s, neon_broker_tag tag, int count)
{
	uint8		head[NEON_BROKER_HEAD_BYTES];

	(void) neon_broker_encode_bare(tag, (uint16_t) Min(count, PG_UINT16_MAX), head);
	memcpy(neon_stream_reserve(&s->stream, sizeof(head)), head, sizeof(head));
}

/* ---- publishing ---- */

static void
take_states(Session *s, const char *data, int len)
{
	int			refused;

	if (!neon_broker_decode(data, len, &s->message) || s->message.tag != NEON_BROKER_PUBLISH)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("malformed message of %d bytes from a publisher", len),
				 errhint("The publisher's version may differ from the broker's.")));
	nb_expire();
	refused = nb_publish(s->message.entries, s->message.count, s->publisher);
	if (refused == 0)
		return;
	send_bare(s, NEON_BROKER_REFUSED, refused);
	if (s->complained_at == 0 || TimestampDifferenceExceeds(s->complained_at, GetCurrentTimestamp(), COMPLAIN_EVERY_MS))
	{
		s->complained_at = GetCurrentTimestamp();
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("the broker's table is full: %d of %d states were not taken", refused, s->message.count),
				 errhint("Raise neon_broker.max_entries, now %d.", nb_max_entries)));
	}
}

static void
serve_publisher(Session *s)
{
	char	   *data;
	int			len;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		switch (neon_stream_next(&s->stream, &data, &len))
		{
			case NEON_STREAM_NOTHING:
				(void) neon_stream_flush(&s->stream);
				neon_stream_wait(-1);
				break;
			case NEON_STREAM_DATA:
				take_states(s, data, len);
				break;
			case NEON_STREAM_DONE:
				return;
			case NEON_STREAM_CLOSED:
				proc_exit(0);
		}
	}
}

/* ---- subscribing ---- */

static void
send_entries(Session *s, neon_broker_tag tag, const neon_broker_entry *list, int n)
{
	neon_broker_builder b;
	static uint8 buf[NEON_BROKER_MAX_MESSAGE_BYTES];
	size_t		len;

	if (n == 0)
		return;
	neon_broker_start(&b, tag, buf);
	for (int i = 0; i < n; i++)
		if (!neon_broker_add(&b, &list[i]))
			elog(ERROR, "entry does not fit a message of the broker");
	len = neon_broker_finish(&b);
	memcpy(neon_stream_reserve(&s->stream, (int) len), buf, len);
	s->sent_at = GetCurrentTimestamp();
}

static void
begin_snapshot(Session *s)
{
	send_bare(s, NEON_BROKER_BEGIN, 0);
	s->in_snapshot = true;
}

/* True: the subscriber has seen every change there is. */
static bool
send_changes(Session *s)
{
	nb_read(&s->filter, &s->cursor, &s->changes);
	if (s->changes.restart)
	{
		nb_restart(&s->cursor);
		begin_snapshot(s);
		return false;
	}
	send_entries(s, NEON_BROKER_GONE, s->changes.gone, s->changes.ngone);
	send_entries(s, NEON_BROKER_UPDATE, s->changes.live, s->changes.nlive);
	if (s->in_snapshot && (s->changes.exhausted || s->cursor.seen >= s->cursor.snapshot_end))
	{
		send_bare(s, NEON_BROKER_SNAPSHOT, 0);
		s->in_snapshot = false;
	}
	return s->changes.exhausted;
}

/* True: the client has ended the stream. */
static bool
look_at_input(Session *s)
{
	char	   *data;
	int			len;

	switch (neon_stream_next(&s->stream, &data, &len))
	{
		case NEON_STREAM_NOTHING:
			return false;
		case NEON_STREAM_DATA:
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("unexpected message of %d bytes from a subscriber", len),
					 errhint("States are published with CALL neon_broker.publish().")));
			break;
		case NEON_STREAM_DONE:
			return true;
		case NEON_STREAM_CLOSED:
			proc_exit(0);
	}
	return false;
}

static void
serve_subscriber(Session *s)
{
	begin_snapshot(s);
	s->sent_at = GetCurrentTimestamp();
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (look_at_input(s))
			return;
		nb_expire();
		if (!send_changes(s))
			continue;
		if (TimestampDifferenceExceeds(s->sent_at, GetCurrentTimestamp(), ALIVE_EVERY_MS))
		{
			send_bare(s, NEON_BROKER_ALIVE, 0);
			s->sent_at = GetCurrentTimestamp();
		}
		(void) neon_stream_flush(&s->stream);
		neon_stream_wait(LOOK_EVERY_MS);
	}
}

/* ---- the procedures ---- */

static void
run(FunctionCallInfo fcinfo, const char *name, Session *s, void (*serve) (Session *))
{
	PG_TRY();
	{
		neon_stream_leave_transaction(fcinfo, name);
		MemoryContextSwitchTo(s->context);
		neon_stream_begin(&s->stream);
		serve(s);
		if (!neon_stream_end(&s->stream))
			proc_exit(0);
		nb_unsubscribe();
		StartTransactionCommand();
	}
	PG_CATCH();
	{
		/* What a transaction's abort would do: there may be none. */
		MyProcPort->noblock = false;
		LWLockReleaseAll();
		nb_unsubscribe();
		neon_stream_abandon(&s->stream);
		neon_stream_free(&s->stream);
		if (!IsTransactionState())
			StartTransactionCommand();
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextDelete(s->context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	neon_stream_free(&s->stream);
	MemoryContextDelete(s->context);
}

static Session *
new_session(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "neon broker", ALLOCSET_DEFAULT_SIZES);
	Session    *s = MemoryContextAllocZero(context, sizeof(Session));

	s->context = context;
	return s;
}

Datum
nb_publish_stream(PG_FUNCTION_ARGS)
{
	Session    *s = new_session();

	s->publisher = nb_publisher_number();
	run(fcinfo, "publish", s, serve_publisher);
	PG_RETURN_NULL();
}

static void
id_argument(FunctionCallInfo fcinfo, int n, const char *what, neon_id *id)
{
	if (PG_ARGISNULL(n))
		memset(id, 0, sizeof(*id));
	else if (!neon_id_parse(text_to_cstring(PG_GETARG_TEXT_PP(n)), id) || neon_id_is_zero(id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s id: \"%s\"", what, text_to_cstring(PG_GETARG_TEXT_PP(n))),
				 errhint("An id has 32 hexadecimal digits; NULL subscribes to all.")));
}

Datum
nb_subscribe_stream(PG_FUNCTION_ARGS)
{
	NbFilter	filter;
	Session    *s;

	id_argument(fcinfo, 0, "tenant", &filter.tenant);
	id_argument(fcinfo, 1, "timeline", &filter.timeline);
	s = new_session();
	s->filter = filter;
	PG_TRY();
	{
		nb_expire();
		nb_subscribe(&filter, &s->cursor);
	}
	PG_CATCH();
	{
		MemoryContextDelete(s->context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	run(fcinfo, "subscribe", s, serve_subscriber);
	PG_RETURN_NULL();
}

/* ---- for people ---- */

Datum
nb_timelines(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	neon_broker_entry e;
	uint64		age_ms;

	nb_expire();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < nb_max_entries; i++)
	{
		char		tenant[NEON_ID_TEXT];
		char		timeline[NEON_ID_TEXT];
		Datum		values[11];
		bool		nulls[11] = {false};

		CHECK_FOR_INTERRUPTS();
		if (nb_copy_entry(i, &e, &age_ms) == NULL)
			continue;
		neon_id_print(&e.tenant, tenant);
		neon_id_print(&e.timeline, timeline);
		values[0] = Int64GetDatum(e.node_id);
		values[1] = CStringGetTextDatum(tenant);
		values[2] = CStringGetTextDatum(timeline);
		values[3] = Int64GetDatum(e.term);
		values[4] = Int64GetDatum(e.last_log_term);
		values[5] = LSNGetDatum(e.flush_lsn);
		values[6] = LSNGetDatum(e.commit_lsn);
		values[7] = LSNGetDatum(e.remote_consistent_lsn);
		values[8] = LSNGetDatum(e.horizon_lsn);
		values[9] = CStringGetTextDatum(e.address);
		values[10] = Int64GetDatum(age_ms);
		nulls[7] = e.remote_consistent_lsn == 0;
		nulls[8] = e.horizon_lsn == 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
nb_stat(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	NbStatistics s;
	Datum		values[7];
	bool		nulls[7] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	nb_statistics(&s);
	values[0] = Int32GetDatum(s.entries);
	values[1] = Int32GetDatum(s.subscribers);
	values[2] = Int64GetDatum(s.publishers);
	values[3] = Int64GetDatum(s.published);
	values[4] = Int64GetDatum(s.changes);
	values[5] = Int64GetDatum(s.refused);
	values[6] = Int64GetDatum(s.expired);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
