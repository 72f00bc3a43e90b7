/*
 * proxy_show_all.c - the tables of the console that are about all workers together: statistics, settings, versions.
 *
 * A transaction's time stands for its queries' too.  Averages are of the last full period, which each worker keeps for itself (px_show_tick).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"

#include "proxy_show.h"

#define PERIOD_MS	60000		/* that averages are of */

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
	px_db_stats_tick();
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

void
px_show_totals(PxRows *r)
{
	Totals		t[2] = {totals_now(), averages()};
	char		name[64];

	for (int avg = 0; avg <= 1; avg++)
		for (int i = 0; i < lengthof(total_names); i++)
		{
			snprintf(name, sizeof(name), "%s_%s", avg ? "avg" : "total", total_names[i]);
			px_row(r, "sl", name, t[avg].value[i]);
		}
}

void
px_show_lists(PxRows *r)
{
	px_row(r, "sl", "databases", (int64) px_stat_sum(PX_STAT_cached_endpoints));
	px_row(r, "sl", "pools", (int64) px_stat_sum(PX_STAT_pools));
	px_row(r, "sl", "free_clients", (int64) 0);
	px_row(r, "sl", "used_clients", (int64) px_stat_sum(PX_STAT_clients));
	px_row(r, "sl", "login_clients", (int64) px_stat_sum(PX_STAT_clients_login));
	px_row(r, "sl", "free_servers", (int64) px_stat_sum(PX_STAT_servers_idle));
	px_row(r, "sl", "used_servers", (int64) (px_stat_sum(PX_STAT_servers) - px_stat_sum(PX_STAT_servers_idle)));
	px_row(r, "sl", "waiting_clients", (int64) px_stat_sum(PX_STAT_clients_waiting));
	for (int i = 0; i < 3; i++)
		px_row(r, "sd", i == 0 ? "dns_names" : i == 1 ? "dns_zones" : "dns_queries", 0);
	px_row(r, "sd", "workers", px_workers);
}

/* malloc's own: what there is of each kind, and its size without what hangs on it */
void
px_show_mem(PxRows *r)
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
		px_row(r, "sllll", kinds[i].name, kinds[i].size, kinds[i].used, (int64) 0, kinds[i].size * kinds[i].used);
}

void
px_show_workers(PxRows *r)
{
	for (int w = 0; w < px_workers; w++)
	{
		PxWorkerSlot *s = px_worker_slot(w);

		px_row(r, "dddllll", w + 1, (int) pg_atomic_read_u32(&s->pid), (int) pg_atomic_read_u32(&s->starts),
			(int64) pg_atomic_read_u64(&s->stat[PX_STAT_clients]), (int64) pg_atomic_read_u64(&s->stat[PX_STAT_servers]),
			(int64) pg_atomic_read_u64(&s->stat[PX_STAT_queries_total]), (int64) pg_atomic_read_u64(&s->stat[PX_STAT_controller_up]));
	}
}

void
px_show_counters(PxRows *r)
{
	for (int i = 0; i < PX_STAT_COUNT; i++)
		px_row(r, "slss", px_stat_info[i].name, (int64) px_stat_sum(i), px_stat_info[i].is_gauge ? "gauge" : "counter", px_stat_info[i].help);
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

void
px_show_config(PxRows *r)
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
		px_row(r, "sssss", name + 11, value ? value : "", def, all[i]->context == PGC_POSTMASTER ? "no" : "yes", all[i]->short_desc);
	}
}

void
px_show_version(PxRows *r)
{
	px_row(r, "s", "neon_proxy 0.1 on PostgreSQL " PG_VERSION);
}

void
px_show_help(PxRows *r)
{
	static const char *const lines[] = {
		"SHOW POOLS | CLIENTS | SERVERS | DATABASES | USERS", "SHOW STATS | STATS_TOTALS | STATS_AVERAGES | TOTALS", "SHOW SOCKETS | ACTIVE_SOCKETS | FDS",
		"SHOW LISTS | MEM | WORKERS | COUNTERS", "SHOW CONFIG | VERSION | HELP", "RELOAD", "RECONNECT [endpoint]", "PAUSE [endpoint]", "RESUME [endpoint]",
		"WAIT_CLOSE [endpoint]", "DISABLE endpoint", "ENABLE endpoint", "KILL endpoint", "SHUTDOWN"
	};

	for (int i = 0; i < lengthof(lines); i++)
		px_row(r, "s", lines[i]);
}
