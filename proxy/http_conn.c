/*
 * http_conn.c - one database connection of the pool: opened, watched by the loop, closed; cancelling what runs on it.
 *
 * Invariant: a connection is in hp_connections from hp_open() to hp_close(), and hp_figures counts it for as long.  The descriptor that poll
 * watches is libpq's; it is closed (PQfinish) only after the loop has been told to forget it.
 *
 * Cancelling: PQcancel waits, hence a thread of the loop's pool.  The connection is closed after it, not before: the key is good
 * for as long as the session is there.  When the process is killed, the server notices that the client is gone.
 *
 * Bounds: MAX_CANCELS threads' work at once; the number of connections is the pool's concern.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <signal.h>

#include "http_pool.h"

#define MAX_CANCELS 64			/* on their way at once; one more is only closed */

HpConn	   *hp_connections;

static int	cancels;

/* ---- watching ---- */

static void
free_handle(uv_handle_t *handle)
{
	free(handle);
}

static void
unwatch(HpConn *c)
{
	if (c->poll)
	{
		c->poll->data = NULL;
		uv_close((uv_handle_t *) c->poll, free_handle);
		c->poll = NULL;
	}
}

/* False: it cannot be watched. */
bool
hp_watch(HpConn *c, int events)
{
	int			fd = PQsocket(c->pg);

	if (fd < 0)
		return false;
	if (c->poll && c->fd != fd)
		unwatch(c);
	if (!c->poll)
	{
		c->poll = calloc(1, sizeof(uv_poll_t));
		if (!c->poll)
			return false;
		if (uv_poll_init(&ht_worker.loop, c->poll, fd) != 0)
		{
			free(c->poll);
			c->poll = NULL;
			return false;
		}
		c->poll->data = c;
		c->fd = fd;
	}
	return uv_poll_start(c->poll, events, hp_on_event) == 0;
}

void
hp_set_state(HpConn *c, ConnState state)
{
	hp_figures.idle += (state == CONN_IDLE) - (c->state == CONN_IDLE);
	c->state = state;
	c->since_ms = ht_now_ms();
}

/* ---- opening and closing ---- */

/* HTTP has no place for notices */
static void
ignore_notice(void *arg, const char *message)
{
}

/* NULL: no memory */
HpConn *
hp_open(HpJob *job)
{
	HpConn	   *c = calloc(1, sizeof(HpConn));

	if (!c)
		return NULL;
	c->pg = PQconnectStartParams(job->target.keyword, (const char *const *) job->target.value, 0);
	if (!c->pg)
	{
		free(c);
		return NULL;
	}
	PQsetNoticeProcessor(c->pg, ignore_notice, NULL);
	/* so that a refused login comes with its SQLSTATE */
	PQsetErrorVerbosity(c->pg, PQERRORS_VERBOSE);
	memcpy(c->key, job->key, sizeof(c->key));
	c->pooled = job->pooled;
	c->secrets_generation = pg_atomic_read_u32(&px_shared->secrets_generation);
	c->born_ms = c->since_ms = ht_now_ms();
	c->state = CONN_CONNECTING;
	c->next = hp_connections;
	hp_connections = c;
	hp_figures.connections++;
	hp_figures.connects++;
	return c;
}

void
hp_close(HpConn *c)
{
	for (HpConn **p = &hp_connections; *p; p = &(*p)->next)
		if (*p == c)
		{
			*p = c->next;
			break;
		}
	hp_figures.connections--;
	hp_figures.idle -= c->state == CONN_IDLE;
	unwatch(c);
	PQfinish(c->pg);
	free(c);
}

/* ---- cancelling ---- */

typedef struct Cancel
{
	uv_work_t	work;
	PGcancel   *cancel;
	HpConn	   *conn;
} Cancel;

static void
cancel_thread(uv_work_t *work)
{
	char		error[256];

	PQcancel(((Cancel *) work)->cancel, error, sizeof(error));
}

static void
cancel_done(uv_work_t *work, int status)
{
	Cancel	   *c = (Cancel *) work;

	PQfreeCancel(c->cancel);
	hp_close(c->conn);
	free(c);
	cancels--;
	hp_assign();
}

/* False: it cannot be cancelled, only closed. */
static bool
start_cancel(HpConn *c)
{
	Cancel	   *cancel = cancels < MAX_CANCELS ? calloc(1, sizeof(Cancel)) : NULL;
	sigset_t	all,
				before;
	int			rc;

	if (!cancel || !(cancel->cancel = PQgetCancel(c->pg)))
	{
		free(cancel);
		return false;
	}
	cancel->conn = c;
	/* threads inherit the mask: signals are for the main thread alone */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = uv_queue_work(&ht_worker.loop, &cancel->work, cancel_thread, cancel_done);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0)
	{
		PQfreeCancel(cancel->cancel);
		free(cancel);
		return false;
	}
	cancels++;
	hp_figures.cancels++;
	return true;
}

/* What runs on it is of interest to nobody any more. */
void
hp_abandon(HpConn *c)
{
	if (c->state == CONN_BUSY && start_cancel(c))
	{
		unwatch(c);
		hp_set_state(c, CONN_CANCELLING);
	}
	else
		hp_close(c);
}
