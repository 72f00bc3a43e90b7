/*
 * proxy_sockets.c - the console's tables of connections: CLIENTS, SERVERS, SOCKETS, ACTIVE_SOCKETS, FDS.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "pgtime.h"

#include "proxy_show.h"

static const char *
client_state(const PxClient *c)
{
	switch (c->state)
	{
		case PX_CL_IDLE:
			return "idle";
		case PX_CL_WAITING:
		case PX_CL_WELCOME:
			return "waiting";
		case PX_CL_LINKED:
			return "active";
		case PX_CL_ADMIN:
			return "admin";
		default:
			return "login";
	}
}

/* What is common to sockets, as text. */
typedef struct SockText
{
	char		local[INET6_ADDRSTRLEN];
	int			local_port;
	char		connected[32];
	char		requested[32];
	char		ptr[32];
	char		link[32];
} SockText;

static void
put_time(char *buf, size_t cap, int64 at_ms)
{
	pg_time_t	t = (pg_time_t) time(NULL) - (px.now_ms - at_ms) / 1000;

	pg_strftime(buf, cap, "%Y-%m-%d %H:%M:%S UTC", pg_gmtime(&t));
}

static void
describe_sock(SockText *t, const PxSock *sock, int64 connected_ms, int64 state_ms, const void *self, const void *link)
{
	struct sockaddr_storage a = {0};
	socklen_t	n = sizeof(a);

	strlcpy(t->local, "unix", sizeof(t->local));
	t->local_port = px_port;
	if (getsockname(sock->fd, (struct sockaddr *) &a, &n) == 0 && a.ss_family == AF_INET)
	{
		inet_ntop(AF_INET, &((struct sockaddr_in *) &a)->sin_addr, t->local, sizeof(t->local));
		t->local_port = ntohs(((struct sockaddr_in *) &a)->sin_port);
	}
	else if (a.ss_family == AF_INET6)
	{
		inet_ntop(AF_INET6, &((struct sockaddr_in6 *) &a)->sin6_addr, t->local, sizeof(t->local));
		t->local_port = ntohs(((struct sockaddr_in6 *) &a)->sin6_port);
	}
	put_time(t->connected, sizeof(t->connected), connected_ms);
	put_time(t->requested, sizeof(t->requested), state_ms);
	snprintf(t->ptr, sizeof(t->ptr), "%p", self);
	t->link[0] = '\0';
	if (link)
		snprintf(t->link, sizeof(t->link), "%p", link);
}

static const char *
variable_of(const PxVars *v, const char *name)
{
	const char *value = v->value[px_var_index(name)];

	return value ? value : "";
}

static const char *
application_of(const PxVars *v)
{
	return variable_of(v, "application_name");
}

/* What each of the walks below does with a connection. */
typedef void (*ClientRow) (PxRows *r, PxClient *c);
typedef void (*ServerRow) (PxRows *r, PxServer *s);

/* Columns that SOCKETS has besides: what of a message is still to come, what was not sent yet, what waits here. */
static void
buffers_of(const PxSock *sock, const PxBuf *in, uint32 skip, int buffers[3])
{
	buffers[0] = (int) skip;
	buffers[1] = sock->out ? (int) (sock->out->end - sock->out->start) : 0;
	buffers[2] = in ? (int) (in->end - in->start) : 0;
}

static void
client_row(PxRows *r, PxClient *c)
{
	char		address[64];
	SockText	t;
	bool		waits = c->state == PX_CL_WAITING || c->state == PX_CL_WELCOME;
	int64		wait = waits ? (int64) (px.now_us - c->wait_us) : 0;

	px_client_name(c, address, sizeof(address));
	describe_sock(&t, &c->sock, c->connected_ms, c->state_ms, c, c->server);
	px_row(r, "sssssdsdsslldssdssdlsd", "C", c->pool ? c->pool->user : NULL, c->pool ? c->pool->database : c->state == PX_CL_ADMIN ? "neon_proxy" : NULL,
		client_state(c), address, (int) c->port, t.local, t.local_port, t.connected, t.requested, wait / 1000000, wait % 1000000, 0, t.ptr, t.link, 0,
		c->sock.ssl ? SSL_get_version(c->sock.ssl) : "", application_of(&c->vars), px_prepared_count(c), (int64) c->queries,
		c->pool ? c->pool->endpoint->id : NULL, px.me + 1);
}

static void
client_socket_row(PxRows *r, PxClient *c)
{
	char		address[64];
	SockText	t;
	int			b[3];

	px_client_name(c, address, sizeof(address));
	describe_sock(&t, &c->sock, c->connected_ms, c->state_ms, c, c->server);
	buffers_of(&c->sock, c->in, c->skip, b);
	px_row(r, "sssssdsdssdddssdssdddddddsd", "C", c->pool ? c->pool->user : NULL, c->pool ? c->pool->database : c->state == PX_CL_ADMIN ? "neon_proxy" : NULL,
		client_state(c), address, (int) c->port, t.local, t.local_port, t.connected, t.requested, 0, 0, 0, t.ptr, t.link, 0,
		c->sock.ssl ? SSL_get_version(c->sock.ssl) : "", application_of(&c->vars), 0, 0, b[0], 0, b[1], b[2], b[1],
		c->pool ? c->pool->endpoint->id : NULL, px.me + 1);
}

static void
client_rows(PxRows *r, dlist_head *list, ClientRow row)
{
	dlist_iter	i;

	dlist_foreach(i, list)
		row(r, dlist_container(PxClient, node, i.cur));
}

static void
all_clients(PxRows *r, ClientRow row)
{
	dlist_iter	i;

	client_rows(r, &px.logging_in, row);
	client_rows(r, &px.idle, row);
	client_rows(r, &px.linked, row);
	dlist_foreach(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);

		client_rows(r, &p->logins, row);
		client_rows(r, &p->waiting, row);
	}
}

static const char *
server_state(const PxServer *s)
{
	switch (s->state)
	{
		case PX_SV_CONNECTING:
		case PX_SV_LOGIN:
		case PX_SV_CHECK:
			return "login";
		case PX_SV_IDLE:
			return "idle";
		case PX_SV_RESETTING:
			return "tested";
		case PX_SV_CANCELLING:
			return "being_canceled";
		default:
			return "active";
	}
}

static void
server_row(PxRows *r, PxServer *s)
{
	SockText	t;

	describe_sock(&t, &s->sock, s->created_ms, s->state_ms, s, s->client);
	px_row(r, "sssssdsdssdddssdsssd", "S", s->pool->user, s->pool->database, server_state(s), s->pool->endpoint->host, s->pool->endpoint->port,
		t.local, t.local_port, t.connected, t.requested, 0, 0, s->close_after ? 1 : 0, t.ptr, t.link, (int) (s->key >> 32), "",
		application_of(&s->vars), s->pool->endpoint->id, px.me + 1);
}

static void
server_socket_row(PxRows *r, PxServer *s)
{
	SockText	t;
	int			b[3];

	describe_sock(&t, &s->sock, s->created_ms, s->state_ms, s, s->client);
	buffers_of(&s->sock, s->in, s->skip, b);
	px_row(r, "sssssdsdssdddssdssdddddddsd", "S", s->pool->user, s->pool->database, server_state(s), s->pool->endpoint->host, s->pool->endpoint->port,
		t.local, t.local_port, t.connected, t.requested, 0, 0, s->close_after ? 1 : 0, t.ptr, t.link, (int) (s->key >> 32), "",
		application_of(&s->vars), 0, 0, b[0], 0, b[1], b[2], b[1], s->pool->endpoint->id, px.me + 1);
}

static void
server_rows(PxRows *r, dlist_head *list, ServerRow row)
{
	dlist_iter	i;

	dlist_foreach(i, list)
		row(r, dlist_container(PxServer, node, i.cur));
}

static void
all_servers(PxRows *r, ServerRow row)
{
	dlist_iter	i;

	dlist_foreach(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);

		server_rows(r, &p->busy, row);
		server_rows(r, &p->idle, row);
		server_rows(r, &p->starting, row);
	}
}

static void
client_fd_row(PxRows *r, PxClient *c)
{
	char		address[64];

	px_client_name(c, address, sizeof(address));
	px_row(r, "dssssddd" "ssss" "nnn" "d", c->sock.fd, "client", c->pool ? c->pool->user : NULL, c->pool ? c->pool->database : NULL, address, (int) c->port, 0,
		c->server ? c->server->sock.fd : 0, variable_of(&c->vars, "client_encoding"), variable_of(&c->vars, "standard_conforming_strings"),
		variable_of(&c->vars, "DateStyle"), variable_of(&c->vars, "TimeZone"), px.me + 1);
}

static void
server_fd_row(PxRows *r, PxServer *s)
{
	px_row(r, "dssssddd" "ssss" "nnn" "d", s->sock.fd, "server", s->pool->user, s->pool->database, s->pool->endpoint->host, s->pool->endpoint->port, 0,
		s->client ? s->client->sock.fd : 0, variable_of(&s->vars, "client_encoding"), variable_of(&s->vars, "standard_conforming_strings"),
		variable_of(&s->vars, "DateStyle"), variable_of(&s->vars, "TimeZone"), px.me + 1);
}

/* ---------------------------------------------------------------- tables */

void
px_show_clients(PxRows *r)
{
	all_clients(r, client_row);
}

void
px_show_servers(PxRows *r)
{
	all_servers(r, server_row);
}

void
px_show_sockets(PxRows *r)
{
	all_clients(r, client_socket_row);
	all_servers(r, server_socket_row);
}

/* Those that are in the middle of something. */
void
px_show_active_sockets(PxRows *r)
{
	dlist_iter	i;

	client_rows(r, &px.logging_in, client_socket_row);
	client_rows(r, &px.linked, client_socket_row);
	dlist_foreach(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);

		client_rows(r, &p->logins, client_socket_row);
		client_rows(r, &p->waiting, client_socket_row);
		server_rows(r, &p->busy, server_socket_row);
		server_rows(r, &p->starting, server_socket_row);
	}
}

/* What is secret is not told; nothing is handed over. */
void
px_show_fds(PxRows *r)
{
	all_clients(r, client_fd_row);
	all_servers(r, server_fd_row);
}
