/*
 * proxy_cancel.c - cancel requests.
 *
 * A client's key names the worker it is with; a request that arrives elsewhere is passed on.  The worker that has the client opens a
 * connection to its compute and sends the server's own key.  A server connection that becomes free meanwhile is not used before that is
 * over: the cancel would hit somebody else's query.  A query that was not sent to a server yet is taken back here.
 *
 * Bounded: a number of connections at a time, a number of requests a minute from one address.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "px_keytab.h"

#include "px.h"

#define MAX_CANCELS			128
#define MAX_A_MINUTE		600
#define CANCEL_TIMEOUT_MS	5000

typedef struct Cancel
{
	PxSock		sock;			/* first */
	dlist_node	node;
	PxServer   *server;			/* NULL: it was closed meanwhile */
	uint64		key;
	bool		sent;
	int64		since_ms;
} Cancel;

static dlist_head cancels = DLIST_STATIC_INIT(cancels);
static int	ncancels;

static void
done(Cancel *x)
{
	PxServer   *s = x->server;

	dlist_delete(&x->node);
	ncancels--;
	px_sock_close(&x->sock);
	px_defer_free(x);
	if (s && --s->cancels == 0 && s->state == PX_SV_CANCELLING)
	{
		px_server_state(s, PX_SV_IDLE);
		px_pool_want_run(s->pool);
	}
}

void
px_cancel_forget(PxServer *s)
{
	dlist_iter	i;

	dlist_foreach(i, &cancels)
	{
		Cancel	   *x = dlist_container(Cancel, node, i.cur);

		if (x->server == s)
			x->server = NULL;
	}
	s->cancels = 0;
}

static void
start(PxServer *s)
{
	int			fd = socket(s->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	Cancel	   *x;

	if (fd < 0)
		return;
	if (connect(fd, (struct sockaddr *) &s->address, s->address_len) != 0 && errno != EINPROGRESS)
	{
		close(fd);
		return;
	}
	x = px_alloc(sizeof(Cancel));
	px_sock_init(&x->sock, PX_SOCK_CANCEL, fd);
	px_sock_mask(&x->sock, EPOLLOUT);
	x->server = s;
	x->key = s->key;
	x->since_ms = px.now_ms;
	s->cancels++;
	dlist_push_tail(&cancels, &x->node);
	ncancels++;
	px_count(cancels_total);
}

void
px_cancel_event(PxSock *sock, uint32 events)
{
	Cancel	   *x = (Cancel *) sock;
	uint8		buf[16];

	if (!x->sent && (events & EPOLLOUT))
	{
		px_put_cancel(buf, sizeof(buf), x->key);
		x->sent = true;
		if (send(sock->fd, buf, sizeof(buf), MSG_NOSIGNAL) != sizeof(buf))
			done(x);
		else
			px_sock_mask(sock, EPOLLIN);
	}
	else if (px_sock_read(sock, buf, sizeof(buf)) != 0)
		done(x);				/* the server closes it when the signal is sent */
}

void
px_cancel_tick(void)
{
	while (!dlist_is_empty(&cancels))
	{
		Cancel	   *x = dlist_head_element(Cancel, node, &cancels);

		if (px.now_ms - x->since_ms < CANCEL_TIMEOUT_MS)
			return;
		/* it may be waiting to be taken by the server, and hit whoever has the connection then */
		if (x->sent && x->server)
			x->server->close_after = true;
		done(x);
	}
}

/*
 * Its query has not been sent to a server: it waits for a connection, or for its parameters to be set on one.  The first request is taken back, as
 * after an error; what it sent behind that goes on.  The connection whose parameters are being set goes back to the pool when they are.
 */
static void
take_back(PxClient *c)
{
	uint8		buf[256];
	px_error	e = {"ERROR", "57014", "canceling statement due to user request", NULL, NULL};
	bool		to_sync;
	size_t		taken = c->in ? px_first_request(c->in->data + c->in->start, c->in->end - c->in->start, &to_sync) : 0;
	size_t		n;

	if (taken == 0)
		return;
	c->in->start += taken;
	if (c->in->start == c->in->end)
		px_buf_free(&c->in);
	c->to_sync = to_sync;
	if (c->server)
	{
		c->server->client = NULL;
		c->server = NULL;
	}
	px_client_state(c, PX_CL_IDLE);
	px_count(cancels_total);
	n = px_put_error(buf, sizeof(buf), &e);
	if (!to_sync)
		n += px_put_ready(buf + n, sizeof(buf) - n, 'I');
	if (!px_sock_send(&c->sock, buf, n))
		px_client_close(c);
	else
		px_relay_resume(c);
}

void
px_cancel_local(uint64 key)
{
	PxClient   *c = px_client_by_key(key);

	if (c == NULL || ncancels >= MAX_CANCELS)
		px_count(cancels_refused_total);
	else if (c->state == PX_CL_ADMIN)
		px_admin_cancel(c);
	else if (c->server && c->server->state == PX_SV_LINKED)
	{
		PxRequest  *front = px_server_front(c->server);

		/* what runs now, if anything, is the proxy's own question whether the client's is over */
		if (front == NULL || front->kind != PX_REQ_MARK)
			start(c->server);
	}
	else if (c->state == PX_CL_WAITING || (c->server && c->server->state == PX_SV_SETTING))
		take_back(c);
}

void
px_cancel_request(PxClient *c, uint64 key)
{
	int			worker = px_key_worker(key);

	if (px_failures(px_address_key(PX_QUOTA_CANCELS, c), px.now_ms, 1) > MAX_A_MINUTE || worker >= px_workers)
		px_count(cancels_refused_total);
	else if (worker == px.me)
		px_cancel_local(key);
	else
		px_ipc_send(worker, PX_MSG_CANCEL, 0, &key, sizeof(key));
}
