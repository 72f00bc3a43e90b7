/*
 * sk_broker.c - background worker: tells the broker what this safekeeper has, and hears from it what peers know.
 *
 * Out of the way of WAL: it reads the mirrors in shared memory without a lock, takes a timeline's lock only if that is free, and waits for
 * nobody but the broker.  Without a broker, or when it is away, nothing is missing but speed: connections are tried again with a
 * delay that grows to MAX_RETRY_MS.
 *
 * Publishing: every neon_safekeeper.broker_interval what has changed, and everything at least every REFRESH_MS, so that nothing expires.  What
 * the socket does not take is not piled up: nothing is read from shared memory while bytes wait in libpq, so at most one round
 * of states is in memory.
 *
 * Invariant of what is published: "the log of last_log_term begins with everything below commit_lsn, and that is committed".  So commit_lsn is
 * read before last_log_term: what was committed stays in the log, whatever that ends with afterwards; read the other way round, an old
 * last_log_term could be coupled with a newer term's commit_lsn.  A claim that was true once stays true, so it may come late and twice.
 *
 * Invariant of what is believed: a peer's commit_lsn is taken only if its last_log_term is the last term of the log here, and only as far as
 * the log here is durable (libs/consensus/neon_peer.c, which has the reasons; under the timeline's lock).  So readers of a safekeeper whose
 * proposer is gone are not held at what it was told last.  All else that a peer says is thrown away: the next proposer tells.
 *
 * A claim may come before the WAL that it is about, or while a proposer's process has the lock, and the broker says it only once: the last one of
 * each peer is kept (MAX_PEERS a timeline) and looked at again every interval as long as it says more than is known here.
 *
 * Crash rule: no state of its own; a start publishes everything, and hears everything.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <libpq-fe.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "neon_broker.h"
#include "sk.h"

#define REFRESH_MS			5000
#define MIN_RETRY_MS		200
#define MAX_RETRY_MS		10000
#define PATIENCE_MS			30000	/* to connect, to take bytes, to say that it is alive */
#define MESSAGES_A_TURN		64
#define MAX_PEERS			NEON_CONSENSUS_MAX_MEMBERS	/* remembered of a timeline */
#define NO_BROKER_MS		60000	/* a reload wakes us */
#define INTERVAL_MS_DEFAULT	500

typedef enum LinkState
{
	LINK_CLOSED,
	LINK_CONNECTING,
	LINK_CALLING,
	LINK_STREAMING
} LinkState;

/* One of the two streams. */
typedef struct Link
{
	const char *call;
	PGconn	   *conn;
	LinkState	state;
	TimestampTz since;			/* the last sign of life */
	TimestampTz retry_at;
	int			failures;
	bool		output_pending;
	PostgresPollingStatusType poll;
} Link;

/* What was published last of a slot. */
typedef struct Said
{
	uint64		generation;
	neon_broker_entry e;
	TimestampTz at;
} Said;

/* What was heard last of a slot's timeline, by peer. */
typedef struct Heard
{
	uint64		generation;
	int			n;
	int			next;			/* to be replaced when there are more */
	neon_peer_claim claims[MAX_PEERS];
} Heard;

static char *connstring;
static char *address;
static int	interval_ms = INTERVAL_MS_DEFAULT;

static Link publishing = {.call = "CALL neon_broker.publish()"};
static Link hearing = {.call = "CALL neon_broker.subscribe()"};
static Said *said;				/* by slot */
static Heard **heard;			/* by slot; NULL: nothing yet */
static bool input_left;			/* more is there than one turn takes */
static TimestampTz round_at;
static TimestampTz looked_at;
static TimestampTz complained_at;
static neon_broker_message message;

void
sk_broker_init(void)
{
	BackgroundWorker worker = {0};

	DefineCustomStringVariable("neon_safekeeper.broker_connstring",
							   "Where the broker is; empty: there is none.", NULL,
							   &connstring, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("neon_safekeeper.broker_address",
							   "Address of this safekeeper that is told to others.", NULL,
							   &address, "", PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_safekeeper.broker_interval",
							"How often the broker is told what has changed.", NULL,
							&interval_ms, INTERVAL_MS_DEFAULT, 10, 60000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 2;
	strlcpy(worker.bgw_library_name, "neon_safekeeper", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "sk_broker_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "neon safekeeper broker client", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "neon safekeeper broker client", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}

static bool
passed(TimestampTz since, int ms)
{
	return TimestampDifferenceExceeds(since, GetCurrentTimestamp(), ms);
}

/* ---- connections ---- */

static void
close_link(Link *l)
{
	if (l->conn)
		PQfinish(l->conn);
	l->conn = NULL;
	l->state = LINK_CLOSED;
	l->output_pending = false;
}

/* Said once; then again when it had worked in between. */
static void
fail(Link *l, const char *what)
{
	if (l->failures == 0)
		ereport(LOG,
				(errmsg("the broker is not there: %s", what),
				 errdetail_internal("%s", l->conn ? pchomp(PQerrorMessage(l->conn)) : ""),
				 errhint("Commits and pages do not need it. It is tried again.")));
	close_link(l);
	l->retry_at = GetCurrentTimestamp() + INT64CONST(1000) * Min(MIN_RETRY_MS << Min(l->failures, 6), MAX_RETRY_MS);
	l->failures++;
}

static void
ignore_notice(void *arg, const PGresult *res)
{
}

static void
open_link(Link *l)
{
	const char *keywords[] = {"dbname", "fallback_application_name", NULL};
	const char *values[] = {connstring, "neon_safekeeper", NULL};

	l->conn = PQconnectStartParams(keywords, values, 1);
	l->since = GetCurrentTimestamp();
	l->poll = PGRES_POLLING_WRITING;
	l->state = LINK_CONNECTING;
	if (l->conn == NULL || PQstatus(l->conn) == CONNECTION_BAD)
		fail(l, "could not connect");
	else
		PQsetNoticeReceiver(l->conn, ignore_notice, NULL);
}

static void
streaming_begins(Link *l)
{
	l->state = LINK_STREAMING;
	l->failures = 0;
	l->since = GetCurrentTimestamp();
	if (l == &publishing)
	{
		memset(said, 0, sk_max_timelines * sizeof(Said));	/* it may know nothing */
		round_at = 0;
	}
}

static void
work_on_connection(Link *l)
{
	if (l->state == LINK_CONNECTING)
	{
		l->poll = PQconnectPoll(l->conn);
		if (l->poll == PGRES_POLLING_FAILED)
			return fail(l, "could not connect");
		if (l->poll != PGRES_POLLING_OK)
			return;
		if (PQsetnonblocking(l->conn, 1) != 0 || !PQsendQuery(l->conn, l->call))
			return fail(l, "could not call");
		l->state = LINK_CALLING;
	}
	if (!PQconsumeInput(l->conn))
		return fail(l, "connection lost");
	if (PQflush(l->conn) < 0)
		return fail(l, "connection lost");
	if (!PQisBusy(l->conn))
	{
		PGresult   *res = PQgetResult(l->conn);
		bool		ok = res && PQresultStatus(res) == PGRES_COPY_BOTH;

		PQclear(res);
		if (!ok)
			return fail(l, "the call was refused");
		streaming_begins(l);
	}
}

/* ---- publishing ---- */

static void
read_slot(SkSlot *slot, neon_broker_entry *e)
{
	memset(e, 0, sizeof(*e));
	e->node_id = sk_node_id;
	e->tenant = slot->tenant;
	e->timeline = slot->timeline;
	e->commit_lsn = pg_atomic_read_u64(&slot->commit_lsn);	/* first: see above */
	pg_read_barrier();
	e->last_log_term = pg_atomic_read_u64(&slot->last_log_term);
	pg_read_barrier();
	e->term = pg_atomic_read_u64(&slot->term);
	e->flush_lsn = pg_atomic_read_u64(&slot->flush_lsn);
	if (neon_broker_address_valid(address))
		strlcpy(e->address, address, sizeof(e->address));
}

/* True: it is to be said. */
static bool
has_news(int i, neon_broker_entry *e)
{
	SkSlot	   *slot = &sk_shared->slots[i];
	uint64		generation = pg_atomic_read_u64(&slot->generation);

	if (pg_atomic_read_u32(&slot->state) != SK_SLOT_ACTIVE)
		return false;
	pg_read_barrier();
	read_slot(slot, e);
	pg_read_barrier();
	/* the slot may have been given to another timeline while it was read */
	if (pg_atomic_read_u64(&slot->generation) != generation)
		return false;
	if (said[i].generation == generation && neon_broker_same_name(&said[i].e, e) && neon_broker_same_state(&said[i].e, e) &&
		!passed(said[i].at, REFRESH_MS))
		return false;
	said[i].generation = generation;
	said[i].e = *e;
	said[i].at = GetCurrentTimestamp();
	return true;
}

static void
send_message(Link *l, neon_broker_builder *b)
{
	size_t		len = neon_broker_finish(b);

	if (l->conn && PQputCopyData(l->conn, (char *) b->w.buf, (int) len) != 1)
		fail(l, "connection lost");
}

static void
publish_round(Link *l)
{
	static uint8 buf[NEON_BROKER_MAX_MESSAGE_BYTES];
	neon_broker_builder b;
	neon_broker_entry e;

	round_at = GetCurrentTimestamp();
	neon_broker_start(&b, NEON_BROKER_PUBLISH, buf);
	for (int i = 0; i < sk_max_timelines && l->conn; i++)
	{
		if (!has_news(i, &e))
			continue;
		if (b.count == NEON_BROKER_MAX_ENTRIES)
		{
			send_message(l, &b);
			neon_broker_start(&b, NEON_BROKER_PUBLISH, buf);
		}
		(void) neon_broker_add(&b, &e);
	}
	if (b.count > 0)
		send_message(l, &b);
}

static void
flush_output(Link *l)
{
	int			r;

	if (l->conn == NULL)
		return;
	r = PQflush(l->conn);
	if (r < 0)
		return fail(l, "connection lost");
	if (r == 0)
		l->since = GetCurrentTimestamp();
	l->output_pending = r > 0;
}

/* ---- hearing ---- */

/* What a peer says is committed becomes so here, if the rule allows it.  Nobody is waited for. */
static void
learn(SkSlot *slot, const neon_peer_claim *p, uint64 generation)
{
	uint64		known = pg_atomic_read_u64(&slot->commit_lsn);

	if (p->commit_lsn <= known || pg_atomic_read_u64(&slot->flush_lsn) <= known || !sk_slot_lock(slot, true, false))
		return;
	if (pg_atomic_read_u64(&slot->generation) == generation && pg_atomic_read_u32(&slot->state) == SK_SLOT_ACTIVE &&
		neon_acceptor_learn_commit(sk_slot_acceptor(slot), &sk_storage, slot, p) == NEON_PEER_BELIEVED)
		sk_slot_publish(slot);
	sk_slot_unlock(slot);
}

/* The place of a peer's claim: the one it had, a free one, or that of another. */
static neon_peer_claim *
claim_of(Heard *h, uint64 node_id)
{
	for (int i = 0; i < h->n; i++)
		if (h->claims[i].node_id == node_id)
			return &h->claims[i];
	if (h->n < MAX_PEERS)
		return &h->claims[h->n++];
	h->next = (h->next + 1) % MAX_PEERS;
	return &h->claims[h->next];
}

static void
hear(const neon_broker_entry *e)
{
	uint64		generation;
	SkSlot	   *slot;
	Heard	   *h;
	neon_peer_claim *p;
	int			i;

	if (e->node_id == sk_node_id)
		return;
	slot = sk_slot_find(&e->tenant, &e->timeline, &generation);
	if (slot == NULL)
		return;
	i = (int) (slot - sk_shared->slots);
	if (heard[i] == NULL)
		heard[i] = MemoryContextAllocZero(TopMemoryContext, sizeof(Heard));
	h = heard[i];
	if (h->generation != generation)
	{
		h->n = h->next = 0;
		h->generation = generation;
	}
	p = claim_of(h, e->node_id);
	p->node_id = e->node_id;
	p->tenant = e->tenant;
	p->timeline = e->timeline;
	p->term = e->term;
	p->last_log_term = e->last_log_term;
	p->flush_lsn = e->flush_lsn;
	p->commit_lsn = e->commit_lsn;
	learn(slot, p, generation);
}

/* What could not be taken when it came. */
static void
look_again(void)
{
	if (!passed(looked_at, interval_ms))
		return;
	looked_at = GetCurrentTimestamp();
	for (int i = 0; i < sk_max_timelines; i++)
	{
		SkSlot	   *slot = &sk_shared->slots[i];
		Heard	   *h = heard[i];

		if (h == NULL || pg_atomic_read_u64(&slot->generation) != h->generation)
			continue;
		for (int j = 0; j < h->n; j++)
			learn(slot, &h->claims[j], h->generation);
	}
}

static void
complain_of_room(int refused)
{
	if (complained_at != 0 && !passed(complained_at, 60000))
		return;
	complained_at = GetCurrentTimestamp();
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("the broker has no room for %d timelines of this safekeeper", refused),
			 errhint("Raise neon_broker.max_entries where the broker is.")));
}

static void
handle(Link *l, const char *data, int len)
{
	if (!neon_broker_decode(data, len, &message))
		return fail(l, "it sent a malformed message");
	if (l == &publishing && message.tag == NEON_BROKER_REFUSED)
		complain_of_room(message.count);
	if (l == &hearing && message.tag == NEON_BROKER_UPDATE)
		for (int i = 0; i < message.count; i++)
			hear(&message.entries[i]);
}

static void
take_input(Link *l)
{
	char	   *data;
	int			n = 0;

	if (!PQconsumeInput(l->conn))
		return fail(l, "connection lost");
	for (int i = 0; i < MESSAGES_A_TURN && l->conn && (n = PQgetCopyData(l->conn, &data, 1)) > 0; i++)
	{
		l->since = GetCurrentTimestamp();
		handle(l, data, n);
		PQfreemem(data);
	}
	if (l->conn && n > 0)
		input_left = true;
	if (l->conn && n < 0)
		fail(l, "it ended the stream");
}

/* ---- the loop ---- */

static void
work_on(Link *l)
{
	if (connstring[0] == '\0')
		return close_link(l);
	if (l->state == LINK_CLOSED)
	{
		if (GetCurrentTimestamp() < l->retry_at)
			return;
		open_link(l);
	}
	if (l->state == LINK_CONNECTING || l->state == LINK_CALLING)
		work_on_connection(l);
	if (l->state == LINK_STREAMING)
		take_input(l);
	if (l->state == LINK_STREAMING && l == &publishing)
	{
		flush_output(l);
		if (l->conn && !l->output_pending && passed(round_at, interval_ms))
		{
			publish_round(l);
			flush_output(l);
		}
	}
	if (l->conn && passed(l->since, PATIENCE_MS))
	{
		fail(l, "it does not answer");
		/* who only sends notices that very late */
		if (l == &hearing && publishing.conn)
			fail(&publishing, "it does not answer");
	}
}

static void
wait_for_work(void)
{
	WaitEventSet *set = CreateWaitEventSet(CurrentMemoryContext, 4);
	Link	   *links[] = {&publishing, &hearing};
	WaitEvent	event;
	long		timeout_ms = input_left ? 0 : connstring[0] == '\0' ? NO_BROKER_MS : interval_ms;

	input_left = false;
	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < lengthof(links); i++)
	{
		Link	   *l = links[i];
		int			events = WL_SOCKET_READABLE;

		if (l->conn == NULL || PQsocket(l->conn) < 0)
			continue;
		if (l->state == LINK_CONNECTING && l->poll == PGRES_POLLING_WRITING)
			events = WL_SOCKET_WRITEABLE;
		else if (l->output_pending)
			events |= WL_SOCKET_WRITEABLE;
		AddWaitEventToSet(set, events, PQsocket(l->conn), NULL, NULL);
	}
	if (WaitEventSetWait(set, timeout_ms, &event, 1, PG_WAIT_EXTENSION) > 0 && (event.events & WL_LATCH_SET))
		ResetLatch(MyLatch);
	FreeWaitEventSet(set);
}

static void
reload(void)
{
	char	   *before = pstrdup(connstring);

	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	if (strcmp(before, connstring) == 0)
		return;
	close_link(&publishing);
	close_link(&hearing);
	publishing.retry_at = hearing.retry_at = 0;
	publishing.failures = hearing.failures = 0;
}

void
sk_broker_main(Datum arg)
{
	MemoryContext turn;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	said = MemoryContextAllocZero(TopMemoryContext, sk_max_timelines * sizeof(Said));
	heard = MemoryContextAllocZero(TopMemoryContext, sk_max_timelines * sizeof(Heard *));
	turn = AllocSetContextCreate(TopMemoryContext, "safekeeper broker client", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(turn);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload();
		if (sk_ready())
		{
			work_on(&publishing);
			work_on(&hearing);
			look_again();
		}
		wait_for_work();
		MemoryContextReset(turn);
	}
}
