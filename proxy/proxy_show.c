/*
 * proxy_show.c - the tables of the console: SHOW POOLS, CLIENTS, SERVERS, and so on, with the columns that PgBouncer's users know.
 *
 * The columns of PgBouncer 1.18 come first, in its order, then ours.  Each worker has its own clients, servers and pools: these tables have the
 * rows of all workers, and a column that says whose each is.  Counters are not kept by database: STATS has one row for all of them, and a
 * transaction's time stands for its queries' too.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "miscadmin.h"
#include "pgtime.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"

#include "proxy_show.h"

#define MAX_COLUMNS 24
#define PERIOD_MS	60000		/* that averages are of */

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
		row(r, "ssdddddddddddllssd", p->database, p->user, linked, p->nwaiting + p->nlogins, cancels, 0, linked, cancels, canceling, idle, 0,
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
	row(r, "sssssdsdsslldssdssdlsd", "C", c->pool ? c->pool->user : NULL, c->pool ? c->pool->database : c->state == PX_CL_ADMIN ? "neon_proxy" : NULL,
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
		row(r, "sssssdsdssdddssdsssd", "S", s->pool->user, s->pool->database, server_state(s), s->pool->endpoint->host, s->pool->endpoint->port,
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

		row(r, "ssdsndddsddddssd", e->name, e->host, e->port, p->database, e->pool_size > 0 ? e->pool_size : px_pool_size, 0, 0, mode_name(p->mode),
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

		row(r, "ssssd", p->user, mode_name(p->mode), p->endpoint->id, p->database, px.me + 1);
	}
}

/* ---------------------------------------------------------------- all workers together */

typedef struct Totals
{
	int64		at_ms;
	int64		value[7];		/* in the order of total_names */
} Totals;

static const char *const total_names[] = {"xact_count", "query_count", "bytes_received", "bytes_sent", "xact_time", "query_time", "wait_time"};
static Totals period_begin;
static Totals period_end;

static Totals
totals_now(void)
{
	return (Totals) {px.now_ms, {
		px_stat_sum(PX_STAT_transactions_total), px_stat_sum(PX_STAT_queries_total), px_stat_sum(PX_STAT_client_bytes_total),
		px_stat_sum(PX_STAT_server_bytes_total), px_stat_sum(PX_STAT_query_us_total), px_stat_sum(PX_STAT_query_us_total),
		px_stat_sum(PX_STAT_wait_us_total)}};
}

void
px_show_tick(void)
{
	if (period_end.at_ms != 0 && px.now_ms - period_end.at_ms < PERIOD_MS)
		return;
	period_begin = period_end;
	period_end = totals_now();
}

/* Of the last full period: counts and bytes a second, times (us) a transaction and a query, waiting (us) a second; 0 before it is over. */
static Totals
averages(void)
{
	Totals		a = {0};
	int64		ms = period_end.at_ms - period_begin.at_ms;

	if (period_begin.at_ms == 0 || ms <= 0)
		return a;
	for (int i = 0; i < lengthof(a.value); i++)
	{
		int64		d = period_end.value[i] - period_begin.value[i];
		int64		count = i == 4 || i == 5 ? period_end.value[i - 4] - period_begin.value[i - 4] : 0;

		a.value[i] = i == 4 || i == 5 ? (count > 0 ? d / count : 0) : d * 1000 / ms;
	}
	return a;
}

static void
show_stats(PxRows *r)
{
	Totals		now = totals_now();
	Totals		avg = averages();
	const int64 *t = now.value;
	const int64 *a = avg.value;

	row(r, "sllllllllllllll", "*", t[0], t[1], t[2], t[3], t[4], t[5], t[6], a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
}

static void
seven(PxRows *r, Totals t)
{
	row(r, "slllllll", "*", t.value[0], t.value[1], t.value[2], t.value[3], t.value[4], t.value[5], t.value[6]);
}

static void
show_stats_totals(PxRows *r)
{
	seven(r, totals_now());
}

static void
show_stats_averages(PxRows *r)
{
	seven(r, averages());
}

static void
show_totals(PxRows *r)
{
	Totals		t[2] = {totals_now(), averages()};
	char		name[64];

	for (int avg = 0; avg <= 1; avg++)
		for (int i = 0; i < lengthof(total_names); i++)
		{
			snprintf(name, sizeof(name), "%s_%s", avg ? "avg" : "total", total_names[i]);
			row(r, "sl", name, t[avg].value[i]);
		}
}

static void
show_lists(PxRows *r)
{
	row(r, "sl", "databases", (int64) px_stat_sum(PX_STAT_cached_endpoints));
	row(r, "sl", "pools", (int64) px_stat_sum(PX_STAT_pools));
	row(r, "sl", "free_clients", (int64) 0);
	row(r, "sl", "used_clients", (int64) px_stat_sum(PX_STAT_clients));
	row(r, "sl", "login_clients", (int64) px_stat_sum(PX_STAT_clients_login));
	row(r, "sl", "free_servers", (int64) px_stat_sum(PX_STAT_servers_idle));
	row(r, "sl", "used_servers", (int64) (px_stat_sum(PX_STAT_servers) - px_stat_sum(PX_STAT_servers_idle)));
	row(r, "sl", "waiting_clients", (int64) px_stat_sum(PX_STAT_clients_waiting));
	row(r, "sd", "workers", px_workers);
}

/* malloc's own: what there is of each kind, and its size without what hangs on it */
static void
show_mem(PxRows *r)
{
	const struct
	{
		const char *name;
		int64		size;
		int64		used;
	}			kinds[] = {
		{"client", sizeof(PxClient), px_stat_sum(PX_STAT_clients)},
		{"login", sizeof(PxLogin), px_stat_sum(PX_STAT_clients_login)},
		{"server", sizeof(PxServer), px_stat_sum(PX_STAT_servers)},
		{"pool", sizeof(PxPool), px_stat_sum(PX_STAT_pools)},
		{"endpoint", sizeof(PxEndpoint), px_stat_sum(PX_STAT_cached_endpoints)}
	};

	for (int i = 0; i < lengthof(kinds); i++)
		row(r, "sllll", kinds[i].name, kinds[i].size, kinds[i].used, (int64) 0, kinds[i].size * kinds[i].used);
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
default_of(struct config_generic *g, char *buf, size_t cap)
{
	const char *text = "";

	switch (g->vartype)
	{
		case PGC_BOOL:
			text = ((struct config_bool *) g)->boot_val ? "on" : "off";
			break;
		case PGC_INT:
			snprintf(buf, cap, "%d", ((struct config_int *) g)->boot_val);
			return;
		case PGC_REAL:
			snprintf(buf, cap, "%g", ((struct config_real *) g)->boot_val);
			return;
		case PGC_STRING:
			text = ((struct config_string *) g)->boot_val;
			break;
		case PGC_ENUM:
			text = config_enum_lookup_by_value((struct config_enum *) g, ((struct config_enum *) g)->boot_val);
			break;
	}
	strlcpy(buf, text ? text : "", cap);
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
		char		def[64];

		if (strncmp(name, "neon_proxy.", 11) != 0)
			continue;
		value = secret ? "********" : GetConfigOptionByName(name, NULL, true);
		default_of(all[i], def, sizeof(def));
		row(r, "sssss", name + 11, value ? value : "", def, all[i]->context == PGC_POSTMASTER ? "no" : "yes", all[i]->short_desc);
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
		"SHOW POOLS | CLIENTS | SERVERS | DATABASES | USERS", "SHOW STATS | STATS_TOTALS | STATS_AVERAGES | TOTALS", "SHOW LISTS | MEM | WORKERS | COUNTERS",
		"SHOW CONFIG | VERSION | HELP", "RELOAD", "RECONNECT", "PAUSE [endpoint]", "RESUME [endpoint]", "KILL endpoint", "SHUTDOWN"
	};

	for (int i = 0; i < lengthof(lines); i++)
		row(r, "s", lines[i]);
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
		" avg_query_count avg_recv avg_sent avg_xact_time avg_query_time avg_wait_time", show_stats, false},
	{"STATS_TOTALS", SEVEN_COLUMNS, show_stats_totals, false},
	{"STATS_AVERAGES", SEVEN_COLUMNS, show_stats_averages, false},
	{"TOTALS", "name value", show_totals, false},
	{"LISTS", "list items", show_lists, false},
	{"MEM", "name size used free memtotal", show_mem, false},
	{"WORKERS", "worker pid starts clients servers queries controller", show_workers, false},
	{"COUNTERS", "name value kind help", show_counters, false},
	{"CONFIG", "key value default changeable help", show_config, false},
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
