/*
 * proxy_client.c - clients: accepting, their lists, their keys, their end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "px_keytab.h"

#include "px.h"

#define ACCEPTS_A_ROUND 64

/* ---------------------------------------------------------------- cancel keys */

static px_keytab keyed;
static uint32 next_id;

PxClient *
px_client_by_key(uint64 key)
{
	return px_keytab_find(&keyed, key);
}

static void
key_make(PxClient *c)
{
	if (px_keytab_full(&keyed))
	{
		uint32		cap = keyed.cap ? keyed.cap * 2 : 256;

		px_free(px_keytab_move(&keyed, px_alloc(cap * sizeof(px_keyed)), cap));
	}
	do
	{
		if (!pg_strong_random(&c->key, sizeof(c->key)))
			ereport(FATAL, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not get random bytes")));
		c->key = px_key_of_worker(c->key, px.me);
	} while (c->key == 0 || px_client_by_key(c->key));
	px_keytab_add(&keyed, c->key, c);
}

/* ---------------------------------------------------------------- accepting */

static bool
peer_is_ours(int fd)
{
	struct ucred cred;
	socklen_t	n = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) == 0 && cred.uid == geteuid();
}

static void
take_address(PxClient *c, const struct sockaddr_storage *a)
{
	if (a->ss_family == AF_INET)
	{
		const struct sockaddr_in *in = (const struct sockaddr_in *) a;

		c->address[10] = c->address[11] = 0xff;
		memcpy(c->address + 12, &in->sin_addr, 4);
		c->port = ntohs(in->sin_port);
	}
	else if (a->ss_family == AF_INET6)
	{
		const struct sockaddr_in6 *in = (const struct sockaddr_in6 *) a;

		memcpy(c->address, &in->sin6_addr, 16);
		c->port = ntohs(in->sin6_port);
	}
}

/* Too many: the error goes out before any question, which clients understand. */
static void
refuse(int fd)
{
	uint8		buf[512];
	px_error	e = {"FATAL", "53300", "sorry, too many clients at the proxy already", NULL, "Try again later, or close connections that are idle."};
	size_t		n = px_put_error(buf, sizeof(buf), &e);

	if (send(fd, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
	{
		/* then without a word */
	}
	close(fd);
	px_count(limited_total);
}

bool
px_client_accept(PxSock *listener)
{
	for (int i = 0; i < ACCEPTS_A_ROUND; i++)
	{
		struct sockaddr_storage a;
		socklen_t	n = sizeof(a);
		int			fd = accept4(listener->fd, (struct sockaddr *) &a, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
		PxClient   *c;

		if (fd < 0)
		{
			static int64 said_ms;

			/* no file is free: the socket would call for it at once again */
			listener->reading = errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM;
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED && px.now_ms - said_ms > 10000)
			{
				said_ms = px.now_ms;
				ereport(LOG, (errcode_for_socket_access(), errmsg("could not accept a connection: %m"),
							  errhint("Is the limit of open files reached?")));
			}
			return false;
		}
		px_count(connections_total);
		if (px_stat_sum(PX_STAT_clients) >= px_max_clients)
		{
			refuse(fd);
			continue;
		}
		c = px_alloc(sizeof(PxClient));
		px_sock_init(&c->sock, PX_SOCK_CLIENT, fd);
		c->id = ++next_id;
		c->is_unix = c->secure = listener->is_unix;
		c->connected_ms = c->state_ms = px.now_ms;
		if (listener->is_unix)
			c->same_user = peer_is_ours(fd);
		else
		{
			take_address(c, &a);
			px_sock_tcp_options(fd, &px_client_keepalive);
		}
		key_make(c);
		c->state = PX_CL_FIRST;
		dlist_push_tail(&px.logging_in, &c->node);
		px_count(clients);
		px_count(clients_login);
		if (listener->is_unix)
			return true;		/* one a round: the other workers are to have theirs */
	}
	return true;
}

/* ---------------------------------------------------------------- states */

static bool
is_login(PxClientState s)
{
	return s < PX_CL_WELCOME;
}

static void
leave_list(PxClient *c)
{
	dlist_delete(&c->node);
	if (is_login(c->state))
		px_uncount(clients_login);
	else if (c->state == PX_CL_LINKED)
		px_uncount(clients_active);
	else if (c->state == PX_CL_WAITING || c->state == PX_CL_WELCOME)
	{
		px_uncount(clients_waiting);
		if (c->state == PX_CL_WAITING)
			c->pool->nwaiting--;
		else
			c->pool->nlogins--;
	}
}

void
px_client_state(PxClient *c, PxClientState state)
{
	if (is_login(c->state) && is_login(state))
	{
		c->state = state;
		return;
	}
	leave_list(c);
	c->state = state;
	c->state_ms = px.now_ms;
	switch (state)
	{
		case PX_CL_WELCOME:
			dlist_push_tail(&c->pool->logins, &c->node);
			c->pool->nlogins++;
			px_count(clients_waiting);
			break;
		case PX_CL_WAITING:
			dlist_push_tail(&c->pool->waiting, &c->node);
			c->pool->nwaiting++;
			px_count(clients_waiting);
			break;
		case PX_CL_IDLE:
		case PX_CL_ADMIN:
			dlist_push_tail(&px.idle, &c->node);
			break;
		case PX_CL_LINKED:
			dlist_push_tail(&px.linked, &c->node);
			px_count(clients_active);
			break;
		default:
			break;
	}
}

void
px_client_close(PxClient *c)
{
	if (c->state == PX_CL_CLOSED)
		return;
	if (c->server)
	{
		PxServer   *s = c->server;

		if (c->skip > 0 && !c->drop_message)
			s->close_after = true;	/* it waits for the rest of a message */
		c->server = NULL;
		s->client = NULL;
		px_pool_release(s);
	}
	if (c->state == PX_CL_ADMIN)
		px_admin_closed(c);
	leave_list(c);
	c->state = PX_CL_CLOSED;
	if (c->address_quota)
		px_quota_give(PX_QUOTA_ADDRESS, px_address_key(PX_QUOTA_ADDRESS, c));
	px_pool_leave(c);
	px_login_free(c);
	px_keytab_drop(&keyed, c->key);
	px_prepared_free_client(c);
	px_vars_release(&c->vars);
	px_buf_free(&c->in);
	px_sock_close(&c->sock);
	px_uncount(clients);
	px_defer_free(c);
}

bool
px_client_fail(PxClient *c, const char *sqlstate, const char *message, const char *detail, const char *hint)
{
	uint8		buf[2048];
	px_error	e = {"FATAL", sqlstate, message, detail, hint};
	size_t		n;

	if (c->state == PX_CL_CLOSED)
		return false;
	n = px_put_error(buf, sizeof(buf), &e);
	if (n == 0)
	{
		e.detail = e.hint = NULL;
		e.message = "connection refused by the proxy";
		n = px_put_error(buf, sizeof(buf), &e);
	}
	/* one try: who does not read does not get it */
	if (c->sock.out == NULL && (c->state != PX_CL_TLS))
		px_sock_send(&c->sock, buf, n);
	px_client_close(c);
	return false;
}

/* For logs and SHOW: address:port */
void
px_client_name(const PxClient *c, char *buf, size_t cap)
{
	static const uint8 v4[12] = {[10] = 0xff,[11] = 0xff};
	char		text[INET6_ADDRSTRLEN] = "unix";

	if (memcmp(c->address, v4, 12) == 0)
		inet_ntop(AF_INET, c->address + 12, text, sizeof(text));
	else if (!c->is_unix || c->port)
		inet_ntop(AF_INET6, c->address, text, sizeof(text));
	snprintf(buf, cap, "%s", text);
}

/* ---------------------------------------------------------------- events */

/* Reads into the worker's buffer, behind what was kept; what is not used is kept again. */
static void
login_input(PxClient *c)
{
	size_t		kept = c->in ? c->in->end - c->in->start : 0;
	size_t		limit = 32768;
	size_t		used = 0;
	int			n;

	if (kept >= limit)
	{
		px_count(protocol_errors_total);
		px_client_fail(c, "08P01", "too much data before authentication", NULL, NULL);
		return;
	}
	if (kept)
		memcpy(px.rbuf, c->in->data + c->in->start, kept);
	n = px_sock_read(&c->sock, px.rbuf + kept, limit - kept);
	if (n < 0)
	{
		px_client_close(c);
		return;
	}
	if (n == 0 && !(c->login && c->login->unready))
		return;
	px_buf_free(&c->in);
	if (!(c->state == PX_CL_ADMIN ? px_admin_input : px_login_input) (c, px.rbuf, kept + n, &used))
		return;					/* closed */
	if (used < kept + n && !px_buf_append(&c->in, px.rbuf + used, kept + n - used))
	{
		px_client_close(c);
		return;
	}
	if (c->state == PX_CL_IDLE && c->in)
		px_relay_resume(c);		/* it did not wait for the answer to its login */
}

static void
tls_input(PxClient *c)
{
	bool		done;

	if (!px_sock_handshake(&c->sock, &done))
	{
		px_count(protocol_errors_total);
		px_client_close(c);
		return;
	}
	if (!done)
		return;
	c->secure = true;
	px_count(tls_total);
	px_client_state(c, PX_CL_FIRST);
	login_input(c);
}

void
px_client_event(PxClient *c, uint32 events)
{
	if ((events & EPOLLOUT) && c->sock.out)
	{
		if (!px_sock_flush(&c->sock))
		{
			px_client_close(c);
			return;
		}
		if (c->sock.out == NULL && c->server)
			px_sock_watch(&c->server->sock, true);
		else if (c->sock.out == NULL && c->state == PX_CL_IDLE)
			px_relay_resume(c);
	}
	if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return;
	if ((events & (EPOLLHUP | EPOLLERR)) && !c->sock.reading)
	{
		px_client_close(c);
		return;
	}
	if (c->state == PX_CL_TLS)
		tls_input(c);
	else if (c->state < PX_CL_WELCOME || c->state == PX_CL_ADMIN)
		login_input(c);
	else
		px_relay_client(c);
}
