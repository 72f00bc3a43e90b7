/*
 * proxy_show.c - the tables of the console: SHOW POOLS, CLIENTS, SERVERS, and so on, with the columns that PgBouncer's users know.
 *
 * The columns of PgBouncer 1.18 come first, in its order, then ours.  Each worker has its own clients, servers and pools: these tables have the
 * rows of all workers, and a column that says whose each is.  Tables about all workers together are in proxy_show_all.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "miscadmin.h"
#include "pgtime.h"

#include "proxy_show.h"

static const char *
mode_name(int mode)
{
	return mode == PX_POOL_TRANSACTION ? "transaction" : "session";
}

/* ---------------------------------------------------------------- pools */

static int
count_state(dlist_head *list, PxServerState state)
{
	dlist_iter	i;
	int			n = 0;

	dlist_foreach(i, list)
		if (dlist_container(PxServer, node, i.cur)->state == state)
			n++;
	return n;
}

/* Cancel requests on their way to this pool's servers. */
static int
count_cancels(PxPool *p)
{
	dlist_iter	i;
	int			n = 0;

	dlist_foreach(i, &p->busy)
		n += dlist_container(PxServer, node, i.cur)->cancels;
	return n;
}

static int64
longest_wait_us(PxPool *p)
{
	PxClient   *c;

	if (dlist_is_empty(&p->waiting))
		return 0;
	c = dlist_head_element(PxClient, node, &p->waiting);
	return (int64) (px.now_us - c->wait_us);
}

static void
show_pools(PxRows *r)
{
	dlist_iter	i;

	dlist_foreach(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);
		int			linked = count_state(&p->busy, PX_SV_LINKED) + count_state(&p->busy, PX_SV_SETTING);
		int			tested = count_state(&p->busy, PX_SV_RESETTING);
		int			canceling = count_state(&p->busy, PX_SV_CANCELLING);
		int			cancels = count_cancels(p);
		int			idle = count_state(&p->idle, PX_SV_IDLE);
		int64		wait = longest_wait_us(p);

		/* a cancel waits for nobody, and a connection that was used is idle when it is clean */
		px_row(r, "ssdddddddddddllssd", p->database, p->user, linked, p->nwaiting + p->nlogins, cancels, 0, linked, cancels, canceling, idle, 0,
			tested, p->nstarting, wait / 1000000, wait % 1000000, mode_name(p->mode), p->endpoint->id, px.me + 1);
	}
}

/* ---------------------------------------------------------------- clients and servers */

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
application_of(const PxVars *v)
{
	const char *name = v->value[px_var_index("application_name")];

	return name ? name : "";
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
client_rows(PxRows *r, dlist_head *list)
{
	dlist_iter	i;

	dlist_foreach(i, list)
		client_row(r, dlist_container(PxClient, node, i.cur));
}

static void
show_clients(PxRows *r)
{
	dlist_iter	i;

	client_rows(r, &px.logging_in);
	client_rows(r, &px.idle);
	client_rows(r, &px.linked);
	dlist_foreach(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);

		client_rows(r, &p->logins);
		client_rows(r, &p->waiting);
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
server_rows(PxRows *r, dlist_head *list)
{
	dlist_iter	i;

	dlist_foreach(i, list)
	{
		PxServer   *s = dlist_container(PxServer, node, i.cur);
		SockText	t;

		describe_sock(&t, &s->sock, s->created_ms, s->state_ms, s, s->client);
		px_row(r, "sssssdsdssdddssdsssd", "S", s->pool->user, s->pool->database, server_state(s), s->pool->endpoint->host, s->pool->endpoint->port,
			t.local, t.local_port, t.connected, t.requested, 0, 0, s->close_after ? 1 : 0, t.ptr, t.link, (int) (s->key >> 32), "",
			application_of(&s->vars), s->pool->endpoint->id, px.me + 1);
	}
}

static void
show_servers(PxRows *r)
{
	dlist_iter	i;

	dlist_foreach(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);

		server_rows(r, &p->busy);
		server_rows(r, &p->idle);
		server_rows(r, &p->starting);
	}
}

/* ---------------------------------------------------------------- what the cache knows */

static void
show_databases(PxRows *r)
{
	dlist_iter	i;

	/* an endpoint appears once for each database that is used */
	dlist_foreach(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);
		PxEndpoint *e = p->endpoint;
		const char *state = e->state == PX_ENDPOINT_RUNNING ? "running" : e->state == PX_ENDPOINT_ASLEEP ? "asleep" : "unknown";

		px_row(r, "ssdsndddsddddssd", e->name, e->host, e->port, p->database, e->pool_size > 0 ? e->pool_size : px_pool_size, 0, 0, mode_name(p->mode),
			e->max_clients, p->nservers, p->paused ? 1 : 0, 0, p->user, state, px.me + 1);
	}
}

static void
show_users(PxRows *r)
{
	dlist_iter	i;

	dlist_foreach(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);

		px_row(r, "ssssd", p->user, mode_name(p->mode), p->endpoint->id, p->database, px.me + 1);
	}
}

#define SOCKET_COLUMNS "type user database state addr port local_addr local_port connect_time request_time wait wait_us close_needed ptr link remote_pid tls" \
	" application_name"
#define SEVEN_COLUMNS "database xact_count query_count bytes_received bytes_sent xact_time query_time wait_time"

static const PxShow shows[] = {
	{"POOLS", "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel sv_being_canceled sv_idle sv_used"
		" sv_tested sv_login maxwait maxwait_us pool_mode endpoint worker", show_pools, true},
	{"CLIENTS", SOCKET_COLUMNS " prepared_statements queries endpoint worker", show_clients, true},
	{"SERVERS", SOCKET_COLUMNS " endpoint worker", show_servers, true},
	{"DATABASES", "name host port database force_user pool_size min_pool_size reserve_pool pool_mode max_connections current_connections paused disabled"
		" user state worker", show_databases, true},
	{"USERS", "name pool_mode endpoint database worker", show_users, true},
	{"STATS", "database total_xact_count total_query_count total_received total_sent total_xact_time total_query_time total_wait_time avg_xact_count"
		" avg_query_count avg_recv avg_sent avg_xact_time avg_query_time avg_wait_time", px_show_stats, false},
	{"STATS_TOTALS", SEVEN_COLUMNS, px_show_stats_totals, false},
	{"STATS_AVERAGES", SEVEN_COLUMNS, px_show_stats_averages, false},
	{"TOTALS", "name value", px_show_totals, false},
	{"LISTS", "list items", px_show_lists, false},
	{"MEM", "name size used free memtotal", px_show_mem, false},
	{"WORKERS", "worker pid starts clients servers queries controller", px_show_workers, false},
	{"COUNTERS", "name value kind help", px_show_counters, false},
	{"CONFIG", "key value default changeable help", px_show_config, false},
	{"VERSION", "version", px_show_version, false},
	{"HELP", "command", px_show_help, false},
};

const PxShow *
px_show_find(const char *name)
{
	for (int i = 0; i < lengthof(shows); i++)
		if (pg_strcasecmp(name, shows[i].name) == 0)
			return &shows[i];
	return NULL;
}
