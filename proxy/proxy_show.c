/*
 * proxy_show.c - the tables of the console: SHOW POOLS, CLIENTS, SERVERS, and so on, with the columns that PgBouncer's users know.
 *
 * Each worker has its own clients, servers and pools: these tables have the rows of all workers, and a column that says whose each is.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"

#include "proxy_show.h"

#define MAX_COLUMNS 24

void
px_rows_free(PxRows *r)
{
	px_free(r->data);
	memset(r, 0, sizeof(*r));
}

/* One DataRow; a NULL value is null. */
void
px_row_text(PxRows *r, int ncolumns, const char *const *values)
{
	size_t		need = 7;
	neon_writer w;

	for (int i = 0; i < ncolumns; i++)
		need += 4 + (values[i] ? strlen(values[i]) : 0);
	if (r->cap - r->len < need)
	{
		r->cap = Max(r->cap * 2, r->len + need + 4096);
		r->data = realloc(r->data, r->cap);
		if (r->data == NULL)
			ereport(FATAL, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory in the proxy")));
	}
	neon_writer_init(&w, r->data + r->len, need);
	neon_put_u8(&w, 'D');
	neon_put_u32(&w, (uint32) need - 1);
	neon_put_u16(&w, (uint16) ncolumns);
	for (int i = 0; i < ncolumns; i++)
	{
		neon_put_u32(&w, values[i] ? (uint32) strlen(values[i]) : ~0u);
		if (values[i])
			neon_put_bytes(&w, values[i], strlen(values[i]));
	}
	r->len += need;
	r->n++;
}

/* printf-like: s text, d int, l int64, n null */
static void
row(PxRows *r, const char *types,...)
{
	const char *values[MAX_COLUMNS];
	char		number[MAX_COLUMNS][24];
	int			n = (int) strlen(types);
	va_list		args;

	Assert(n <= MAX_COLUMNS);
	va_start(args, types);
	for (int i = 0; i < n; i++)
	{
		values[i] = number[i];
		if (types[i] == 's')
			values[i] = va_arg(args, const char *);
		else if (types[i] == 'd')
			snprintf(number[i], sizeof(number[i]), "%d", va_arg(args, int));
		else if (types[i] == 'l')
			snprintf(number[i], sizeof(number[i]), INT64_FORMAT, va_arg(args, int64));
		else
			values[i] = NULL;
	}
	va_end(args);
	px_row_text(r, n, values);
}

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
		int			idle = count_state(&p->idle, PX_SV_IDLE);
		int64		wait = longest_wait_us(p);

		row(r, "ssddddddllssd", p->database, p->user, linked, p->nwaiting + p->nlogins, linked, canceling, idle, tested + p->nstarting,
			wait / 1000000, wait % 1000000, mode_name(p->mode), p->endpoint->id, px.me + 1);
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

static void
client_row(PxRows *r, PxClient *c)
{
	char		address[64];
	char		link[32] = "";
	bool		waits = c->state == PX_CL_WAITING || c->state == PX_CL_WELCOME;
	int64		wait = waits ? (int64) (px.now_us - c->wait_us) : 0;

	px_client_name(c, address, sizeof(address));
	if (c->server)
		snprintf(link, sizeof(link), "%p", (void *) c->server);
	row(r, "sssssdlllsdslsd", "C", c->pool ? c->pool->user : NULL, c->pool ? c->pool->database : c->state == PX_CL_ADMIN ? "neon_proxy" : NULL,
		client_state(c), address, (int) c->port, (px.now_ms - c->connected_ms) / 1000, wait / 1000000, wait % 1000000, link,
		px_prepared_count(c), c->sock.ssl ? SSL_get_version(c->sock.ssl) : "", (int64) c->queries,
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
		char		link[32] = "";

		if (s->client)
			snprintf(link, sizeof(link), "%p", (void *) s->client);
		row(r, "sssssdlldssd", "S", s->pool->user, s->pool->database, server_state(s), s->pool->endpoint->host, s->pool->endpoint->port,
			(px.now_ms - s->created_ms) / 1000, (px.now_ms - s->state_ms) / 1000, (int) (s->key >> 32), link, s->pool->endpoint->id, px.me + 1);
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

		row(r, "ssdssdsdddsd", e->name, e->host, e->port, p->database, p->user, e->pool_size > 0 ? e->pool_size : px_pool_size, mode_name(p->mode),
			e->max_clients, p->nservers, p->paused ? 1 : 0, state, px.me + 1);
	}
}

/* ---------------------------------------------------------------- all workers together */

static void
show_stats(PxRows *r)
{
	int64		xacts = px_stat_sum(PX_STAT_transactions_total);
	int64		queries = px_stat_sum(PX_STAT_queries_total);
	int64		query_us = px_stat_sum(PX_STAT_query_us_total);
	int64		wait_us = px_stat_sum(PX_STAT_wait_us_total);

	row(r, "slllllllll", "*", xacts, queries, (int64) px_stat_sum(PX_STAT_client_bytes_total), (int64) px_stat_sum(PX_STAT_server_bytes_total),
		query_us, query_us, wait_us, xacts ? query_us / xacts : (int64) 0, queries ? query_us / queries : (int64) 0);
}

static void
show_lists(PxRows *r)
{
	row(r, "sl", "databases", (int64) px_stat_sum(PX_STAT_cached_endpoints));
	row(r, "sl", "pools", (int64) px_stat_sum(PX_STAT_pools));
	row(r, "sl", "used_clients", (int64) px_stat_sum(PX_STAT_clients));
	row(r, "sl", "login_clients", (int64) px_stat_sum(PX_STAT_clients_login));
	row(r, "sl", "waiting_clients", (int64) px_stat_sum(PX_STAT_clients_waiting));
	row(r, "sl", "free_servers", (int64) px_stat_sum(PX_STAT_servers_idle));
	row(r, "sl", "used_servers", (int64) (px_stat_sum(PX_STAT_servers) - px_stat_sum(PX_STAT_servers_idle)));
	row(r, "sd", "workers", px_workers);
}

static void
show_workers(PxRows *r)
{
	for (int w = 0; w < px_workers; w++)
	{
		PxWorkerSlot *s = px_worker_slot(w);

		row(r, "dddllll", w + 1, (int) pg_atomic_read_u32(&s->pid), (int) pg_atomic_read_u32(&s->starts),
			(int64) pg_atomic_read_u64(&s->stat[PX_STAT_clients]), (int64) pg_atomic_read_u64(&s->stat[PX_STAT_servers]),
			(int64) pg_atomic_read_u64(&s->stat[PX_STAT_queries_total]), (int64) pg_atomic_read_u64(&s->stat[PX_STAT_controller_up]));
	}
}

static void
show_counters(PxRows *r)
{
	for (int i = 0; i < PX_STAT_COUNT; i++)
		row(r, "slss", px_stat_info[i].name, (int64) px_stat_sum(i), px_stat_info[i].is_gauge ? "gauge" : "counter", px_stat_info[i].help);
}

static void
show_config(PxRows *r)
{
	struct config_generic **all = get_guc_variables();
	int			n = GetNumConfigOptions();

	for (int i = 0; i < n; i++)
	{
		const char *name = all[i]->name;
		bool		secret = all[i]->flags & GUC_SUPERUSER_ONLY;
		const char *value;

		if (strncmp(name, "neon_proxy.", 11) != 0)
			continue;
		value = secret ? "********" : GetConfigOptionByName(name, NULL, true);
		row(r, "ssss", name + 11, value ? value : "", all[i]->context == PGC_POSTMASTER ? "no" : "yes", all[i]->short_desc);
	}
}

static void
show_version(PxRows *r)
{
	row(r, "s", "neon_proxy 0.1 on PostgreSQL " PG_VERSION);
}

static void
show_help(PxRows *r)
{
	static const char *const lines[] = {
		"SHOW POOLS | CLIENTS | SERVERS | DATABASES", "SHOW STATS | LISTS | WORKERS | COUNTERS", "SHOW CONFIG | VERSION | HELP",
		"RELOAD", "RECONNECT", "PAUSE [endpoint]", "RESUME [endpoint]", "KILL endpoint"
	};

	for (int i = 0; i < lengthof(lines); i++)
		row(r, "s", lines[i]);
}

static const PxShow shows[] = {
	{"POOLS", "database user cl_active cl_waiting sv_active sv_being_canceled sv_idle sv_login maxwait maxwait_us pool_mode endpoint worker",
	show_pools, true},
	{"CLIENTS", "type user database state addr port connected_s wait wait_us link prepared_statements tls queries endpoint worker", show_clients, true},
	{"SERVERS", "type user database state addr port connected_s state_s remote_pid link endpoint worker", show_servers, true},
	{"DATABASES", "name host port database user pool_size pool_mode max_connections current_connections paused state worker", show_databases, true},
	{"STATS", "database total_xact_count total_query_count total_received total_sent total_xact_time total_query_time total_wait_time avg_xact_time avg_query_time",
	show_stats, false},
	{"LISTS", "list items", show_lists, false},
	{"WORKERS", "worker pid starts clients servers queries controller", show_workers, false},
	{"COUNTERS", "name value kind help", show_counters, false},
	{"CONFIG", "key value changeable help", show_config, false},
	{"VERSION", "version", show_version, false},
	{"HELP", "command", show_help, false},
};

const PxShow *
px_show_find(const char *name)
{
	for (int i = 0; i < lengthof(shows); i++)
		if (pg_strcasecmp(name, shows[i].name) == 0)
			return &shows[i];
	return NULL;
}
