/*
 * proxy_controller.c - questions to the controller, over a few libpq connections that never block.
 *
 * Three lanes: the first connection answers what is quick and hears notifications (LISTEN neon_proxy), a few ask for role secrets, a
 * few wake endpoints, which may take seconds.  A question that finds no connection waits; when the controller cannot be reached
 * all that wait fail, and for a while (doubling up to 5 s) new ones fail at once, so that logins go on with what is cached.
 * A question whose connection broke is put once more.
 *
 * Answers are always given from the loop's end or from an event, never from within px_controller_ask().
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <sys/epoll.h>

#include "libpq-fe.h"

#include "px.h"

#define QUICK_CONNECTIONS	1
#define SECRET_CONNECTIONS	3
#define WAKE_CONNECTIONS	8
#define CONNECTIONS			(QUICK_CONNECTIONS + SECRET_CONNECTIONS + WAKE_CONNECTIONS)
#define MAX_ARGS			2
#define MAX_QUESTIONS		20000
#define MIN_BACKOFF_MS		100
#define MAX_BACKOFF_MS		5000
#define IDLE_MS				30000	/* a connection of the other lanes is closed after that */

typedef struct Question
{
	dlist_node	node;
	const char *sql;
	int			nargs;
	char	   *args[MAX_ARGS];
	int64		deadline_ms;
	bool		again;			/* it was put once already */
	PxAnswer	answer;
	void	   *arg;
} Question;

typedef enum LinkState
{
	LINK_OFF,
	LINK_CONNECTING,
	LINK_LISTENING,				/* LISTEN was sent */
	LINK_IDLE,
	LINK_BUSY
} LinkState;

typedef struct Link
{
	PxSock		sock;			/* first */
	PGconn	   *conn;
	LinkState	state;
	int64		since_ms;
	Question   *question;
	char	   *value;			/* of the answer so far */
	bool		is_null;
	PGresult   *error;
} Link;

typedef struct Lane
{
	int			first;
	int			n;
	dlist_head	waiting;
} Lane;

static Link links[CONNECTIONS];
static Lane lanes[3] = {
	{0, QUICK_CONNECTIONS},
	{QUICK_CONNECTIONS, SECRET_CONNECTIONS},
	{QUICK_CONNECTIONS + SECRET_CONNECTIONS, WAKE_CONNECTIONS}
};
static int	nquestions;
static int64 retry_ms;
static int	backoff_ms = MIN_BACKOFF_MS;
static char down_message[512] = "no connection was tried yet";

static void
question_done(Question *q, const char *value, const px_error *error)
{
	px_count(controller_requests_total);
	if (error)
		px_count(controller_failures_total);
	nquestions--;
	q->answer(q->arg, value, error);
	for (int i = 0; i < q->nargs; i++)
		px_free(q->args[i]);
	px_free(q);
}

static void
question_failed(Question *q, const char *message)
{
	px_error	e = {"ERROR", "08006", message, NULL, NULL};

	question_done(q, NULL, &e);
}

static Lane *
lane_of(const Link *l)
{
	int			i = (int) (l - links);

	return &lanes[i < lanes[1].first ? 0 : i < lanes[2].first ? 1 : 2];
}

bool
px_controller_connected(void)
{
	return links[0].state == LINK_IDLE || links[0].state == LINK_BUSY;
}

/* ---------------------------------------------------------------- connections */

static void
link_off(Link *l)
{
	if (l == &links[0])
		pg_atomic_write_u64(&px.slot->stat[PX_STAT_controller_up], 0);
	if (l->conn)
		PQfinish(l->conn);		/* takes its socket out of the loop */
	if (l->error)
		PQclear(l->error);
	px_free(l->value);
	l->conn = NULL;
	l->error = NULL;
	l->value = NULL;
	l->sock.fd = -1;
	l->state = LINK_OFF;
}

static void
controller_down(const char *message)
{
	int			n = (int) strlen(message);
	static int64 said_ms;

	while (n > 0 && (message[n - 1] == '\n' || message[n - 1] == ' '))
		n--;
	snprintf(down_message, sizeof(down_message), "%.*s", n, message);
	if (said_ms == 0 || px.now_ms - said_ms > 10000)
	{
		said_ms = px.now_ms;
		ereport(LOG, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("the controller cannot be reached: %s", down_message)));
	}
	retry_ms = px.now_ms + backoff_ms;
	backoff_ms = Min(backoff_ms * 2, MAX_BACKOFF_MS);
}

/* The connection is no more; its question is put again, or fails. */
static void
link_lost(Link *l)
{
	Question   *q = l->question;
	Lane	   *lane = lane_of(l);
	bool		was_up = l->state != LINK_CONNECTING;
	char		message[512];

	strlcpy(message, l->conn ? PQerrorMessage(l->conn) : "out of memory", sizeof(message));
	l->question = NULL;
	link_off(l);
	if (!was_up || l == &links[0])
		controller_down(message);
	if (q && !q->again && was_up)
	{
		q->again = true;
		dlist_push_head(&lane->waiting, &q->node);
	}
	else if (q)
		question_failed(q, down_message);
}

static void
link_watch(Link *l, uint32 events)
{
	l->sock.kind = PX_SOCK_CONTROLLER;
	l->sock.fd = PQsocket(l->conn);
	px_sock_mask(&l->sock, events);
}

static void
link_connect(Link *l)
{
	const char *keys[] = {"dbname", "application_name", "connect_timeout", "keepalives_idle", NULL};
	const char *values[] = {px_controller_connstring, "neon_proxy", "10", "30", NULL};

	l->conn = PQconnectStartParams(keys, values, 1);
	l->since_ms = px.now_ms;
	l->state = LINK_CONNECTING;
	if (l->conn == NULL || PQstatus(l->conn) == CONNECTION_BAD)
		link_lost(l);
	else
		link_watch(l, EPOLLOUT);
}

static void
link_flush(Link *l)
{
	int			rc = PQflush(l->conn);

	if (rc < 0)
		link_lost(l);
	else
		px_sock_mask(&l->sock, EPOLLIN | (rc > 0 ? EPOLLOUT : 0));
}

static void
link_up(Link *l)
{
	PQsetnonblocking(l->conn, 1);
	backoff_ms = MIN_BACKOFF_MS;
	retry_ms = 0;
	l->since_ms = px.now_ms;
	if (l != &links[0])
	{
		l->state = LINK_IDLE;
		link_watch(l, EPOLLIN);
		return;
	}
	l->state = LINK_LISTENING;
	link_watch(l, EPOLLIN);
	if (!PQsendQuery(l->conn, "LISTEN neon_proxy"))
		link_lost(l);
	else
		link_flush(l);
}

static void
link_connecting(Link *l)
{
	switch (PQconnectPoll(l->conn))
	{
		case PGRES_POLLING_OK:
			link_up(l);
			break;
		case PGRES_POLLING_FAILED:
			link_lost(l);
			break;
		case PGRES_POLLING_READING:
			link_watch(l, EPOLLIN);
			break;
		default:
			link_watch(l, EPOLLOUT);
			break;
	}
}

/* ---------------------------------------------------------------- answers */

static void
link_answer(Link *l)
{
	Question   *q = l->question;
	PGresult   *bad = l->error;
	char	   *value = l->value;

	l->question = NULL;
	l->error = NULL;
	l->value = NULL;
	l->since_ms = px.now_ms;
	if (l->state == LINK_LISTENING)
	{
		if (bad)
			ereport(LOG, (errmsg("could not listen to the controller: %s", PQresultErrorMessage(bad))));
		pg_atomic_write_u64(&px.slot->stat[PX_STAT_controller_up], 1);
		px_cache_invalidate(NULL);	/* what was told before is not known */
	}
	l->state = LINK_IDLE;
	if (q && bad)
	{
		px_error	e = {"ERROR", PQresultErrorField(bad, PG_DIAG_SQLSTATE), PQresultErrorField(bad, PG_DIAG_MESSAGE_PRIMARY),
		PQresultErrorField(bad, PG_DIAG_MESSAGE_DETAIL), PQresultErrorField(bad, PG_DIAG_MESSAGE_HINT)};

		if (e.sqlstate == NULL)
			e.sqlstate = "08006";
		if (e.message == NULL)
			e.message = "the controller failed without a message";
		question_done(q, NULL, &e);
	}
	else if (q)
		question_done(q, value, NULL);
	PQclear(bad);
	px_free(value);
}

static void
notifications(Link *l)
{
	PGnotify   *n;

	while ((n = PQnotifies(l->conn)) != NULL)
	{
		if (strcmp(n->extra, "all") == 0)
			px_cache_invalidate(NULL);
		else if (strncmp(n->extra, "endpoint ", 9) == 0)
			px_cache_invalidate(n->extra + 9);
		PQfreemem(n);
	}
}

static void
link_input(Link *l)
{
	PGresult   *r;

	if (!PQconsumeInput(l->conn))
	{
		link_lost(l);
		return;
	}
	notifications(l);
	while (l->state >= LINK_LISTENING && !PQisBusy(l->conn))
	{
		r = PQgetResult(l->conn);
		if (r == NULL)
		{
			if (l->state == LINK_BUSY || l->state == LINK_LISTENING)
				link_answer(l);
			break;
		}
		if (PQresultStatus(r) == PGRES_TUPLES_OK && PQntuples(r) > 0 && !PQgetisnull(r, 0, 0) && l->value == NULL)
			l->value = px_strdup(PQgetvalue(r, 0, 0));
		if (PQresultStatus(r) == PGRES_FATAL_ERROR && l->error == NULL)
			l->error = r;
		else
			PQclear(r);
	}
	if (l->state != LINK_OFF && PQstatus(l->conn) == CONNECTION_BAD)
		link_lost(l);
}

void
px_controller_event(PxSock *s, uint32 events)
{
	Link	   *l = (Link *) s;

	if (l->state == LINK_CONNECTING)
		link_connecting(l);
	else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		link_input(l);
	if ((l->state == LINK_BUSY || l->state == LINK_LISTENING) && (events & EPOLLOUT))
		link_flush(l);
}

/* ---------------------------------------------------------------- questions */

void
px_controller_ask(const char *sql, int nargs, const char *const *args, int timeout_ms, bool slow, PxAnswer answer, void *arg)
{
	Question   *q = px_alloc(sizeof(Question));
	/* what may wake a server waits in the last lane; what asks a running one for a secret in the second */
	Lane	   *lane = &lanes[slow ? 2 : nargs == 2 ? 1 : 0];

	q->sql = sql;
	q->nargs = nargs;
	for (int i = 0; i < nargs; i++)
		q->args[i] = px_strdup(args[i]);
	q->deadline_ms = px.now_ms + timeout_ms;
	q->answer = answer;
	q->arg = arg;
	nquestions++;
	dlist_push_tail(&lane->waiting, &q->node);
}

static void
put(Link *l, Question *q)
{
	l->question = q;
	l->state = LINK_BUSY;
	l->since_ms = px.now_ms;
	if (!PQsendQueryParams(l->conn, q->sql, q->nargs, NULL, (const char *const *) q->args, NULL, NULL, 0))
		link_lost(l);
	else
		link_flush(l);
}

static void
fail_waiting(Lane *lane, const char *message)
{
	while (!dlist_is_empty(&lane->waiting))
		question_failed(dlist_container(Question, node, dlist_pop_head_node(&lane->waiting)), message);
}

static void
run_lane(Lane *lane)
{
	for (int i = lane->first; i < lane->first + lane->n && !dlist_is_empty(&lane->waiting); i++)
		if (links[i].state == LINK_IDLE)
			put(&links[i], dlist_container(Question, node, dlist_pop_head_node(&lane->waiting)));
	for (int i = lane->first; i < lane->first + lane->n && !dlist_is_empty(&lane->waiting); i++)
	{
		if (links[i].state == LINK_CONNECTING || links[i].state == LINK_LISTENING)
			return;				/* soon */
		if (links[i].state == LINK_OFF && px.now_ms >= retry_ms)
		{
			link_connect(&links[i]);
			if (links[i].state != LINK_OFF)
				return;
		}
	}
	for (int i = lane->first; i < lane->first + lane->n; i++)
		if (links[i].state != LINK_OFF)
			return;
	fail_waiting(lane, down_message);
}

void
px_controller_run(void)
{
	for (int i = 0; i < lengthof(lanes); i++)
		if (!dlist_is_empty(&lanes[i].waiting))
		{
			if (px_controller_connstring[0] == '\0')
				fail_waiting(&lanes[i], "neon_proxy.controller_connstring is not set");
			else
				run_lane(&lanes[i]);
		}
}

void
px_controller_start(void)
{
	for (int i = 0; i < lengthof(lanes); i++)
		dlist_init(&lanes[i].waiting);
	for (int i = 0; i < CONNECTIONS; i++)
		links[i].sock.fd = -1;
}

/* Too old questions, too old connections, and the one that must always be there. */
void
px_controller_tick(void)
{
	for (int i = 0; i < CONNECTIONS; i++)
	{
		Link	   *l = &links[i];

		if ((l->state == LINK_CONNECTING || l->state == LINK_LISTENING) && px.now_ms - l->since_ms > px_controller_timeout_ms)
		{
			link_off(l);
			controller_down("timeout while connecting");
		}
		else if (l->state == LINK_BUSY && px.now_ms > l->question->deadline_ms)
		{
			Question   *q = l->question;

			l->question = NULL;
			link_off(l);
			question_failed(q, "the controller did not answer in time");
		}
		else if (i > 0 && l->state == LINK_IDLE && px.now_ms - l->since_ms > IDLE_MS)
			link_off(l);
	}
	for (int i = 0; i < lengthof(lanes); i++)
	{
		dlist_mutable_iter q;

		dlist_foreach_modify(q, &lanes[i].waiting)
		{
			Question   *late = dlist_container(Question, node, q.cur);

			if (px.now_ms <= late->deadline_ms && nquestions < MAX_QUESTIONS)
				break;
			dlist_delete(&late->node);
			question_failed(late, "the controller did not answer in time");
		}
	}
	if (links[0].state == LINK_OFF && px.now_ms >= retry_ms && px_controller_connstring[0] && !px.stopping)
		link_connect(&links[0]);
}

/* After a reload: the new address is used from the next connection on. */
void
px_controller_reload(void)
{
	static char *old = NULL;

	if (old && strcmp(old, px_controller_connstring) == 0)
		return;
	px_free(old);
	old = px_strdup(px_controller_connstring);
	retry_ms = 0;
	for (int i = 0; i < CONNECTIONS; i++)
		if (links[i].state == LINK_IDLE)
			link_off(&links[i]);
}
