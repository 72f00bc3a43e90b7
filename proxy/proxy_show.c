/*
 * proxy_show.c - the tables of the console: which there are, with the columns that PgBouncer's users know; POOLS, DATABASES, USERS.
 *
 * The columns of PgBouncer 1.18 come first, in its order, then ours.  Each worker has its own clients, servers and pools: these tables have the
 * rows of all workers, and a column that says whose each is.  Connections are in proxy_sockets.c, statistics by database in proxy_dbstats.c, tables about
 * all workers together in proxy_show_all.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

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
			e->max_clients, p->nservers, p->paused ? 1 : 0, px_admin_is_disabled(e->id) ? 1 : 0, p->user, state, px.me + 1);
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
#define BUFFER_COLUMNS " recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail"
#define SEVEN_COLUMNS "database xact_count query_count bytes_received bytes_sent xact_time query_time wait_time"

static const PxShow shows[] = {
	{"POOLS", "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel sv_being_canceled sv_idle sv_used"
		" sv_tested sv_login maxwait maxwait_us pool_mode endpoint worker", show_pools, true},
	{"CLIENTS", SOCKET_COLUMNS " prepared_statements queries endpoint worker", px_show_clients, true},
	{"SERVERS", SOCKET_COLUMNS " endpoint worker", px_show_servers, true},
	{"SOCKETS", SOCKET_COLUMNS BUFFER_COLUMNS " endpoint worker", px_show_sockets, true},
	{"ACTIVE_SOCKETS", SOCKET_COLUMNS BUFFER_COLUMNS " endpoint worker", px_show_active_sockets, true},
	{"FDS", "fd task user database addr port cancel link client_encoding std_strings datestyle timezone password scram_client_key scram_server_key worker",
		px_show_fds, true},
	{"DNS_HOSTS", "the proxy keeps no names of hosts", NULL, false, NULL, "SHOW DATABASES has the address of each endpoint, as the controller gave it."},
	{"DNS_ZONES", "the proxy keeps no zones of names", NULL, false, NULL, "SHOW DATABASES has the address of each endpoint, as the controller gave it."},
	{"DATABASES", "name host port database force_user pool_size min_pool_size reserve_pool pool_mode max_connections current_connections paused disabled"
		" user state worker", show_databases, true},
	{"USERS", "name pool_mode endpoint database worker", show_users, true},
	{"STATS", "database total_xact_count total_query_count total_received total_sent total_xact_time total_query_time total_wait_time avg_xact_count"
		" avg_query_count avg_recv avg_sent avg_xact_time avg_query_time avg_wait_time endpoint", px_db_stats_rows, true, px_db_stats_both},
	{"STATS_TOTALS", SEVEN_COLUMNS " endpoint", px_db_stats_rows, true, px_db_stats_totals},
	{"STATS_AVERAGES", SEVEN_COLUMNS " endpoint", px_db_stats_rows, true, px_db_stats_averages},
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
