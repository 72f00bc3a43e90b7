/*
 * http_metrics.c - GET /metrics: the shared counters of all workers, and this worker's own, in Prometheus' text format.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "http_pg.h"
#include "http_server.h"
#include "proxy_shmem.h"

#define MAX_METRICS_BYTES (1024 * 1024)

static void
put_head(NhBuf *b, const char *name, const char *help, bool is_gauge)
{
	nh_puts(b, "# HELP neon_proxy_");
	nh_puts(b, name);
	nh_putc(b, ' ');
	nh_puts(b, help);
	nh_puts(b, "\n# TYPE neon_proxy_");
	nh_puts(b, name);
	nh_puts(b, is_gauge ? " gauge\n" : " counter\n");
}

static void
put_own(NhBuf *b, const char *name, const char *help, bool is_gauge, uint64 value)
{
	put_head(b, name, help, is_gauge);
	nh_puts(b, "neon_proxy_");
	nh_puts(b, name);
	nh_putc(b, ' ');
	nh_put_int(b, (int64) value);
	nh_putc(b, '\n');
}

static void
put_shared(NhBuf *b)
{
	for (int i = 0; i < PX_STAT_COUNT; i++)
	{
		const PxStatInfo *info = &px_stat_info[i];

		put_head(b, info->name, info->help, info->is_gauge);
		for (int w = 0; w < px_workers; w++)
		{
			nh_puts(b, "neon_proxy_");
			nh_puts(b, info->name);
			nh_puts(b, "{worker=\"");
			nh_put_int(b, w + 1);
			nh_puts(b, "\"} ");
			nh_put_int(b, (int64) pg_atomic_read_u64(&px_worker_slot(w)->stat[i]));
			nh_putc(b, '\n');
		}
	}
}

void
ht_metrics_request(HtRequest *r)
{
	NhBuf		b = ht_buf(MAX_METRICS_BYTES);
	HpFigures  *f = &hp_figures;

	put_shared(&b);
	put_own(&b, "http_connections", "Connections of HTTP clients, WebSockets included.", true, ht_worker.connections);
	put_own(&b, "http_requests_total", "HTTP requests.", false, ht_worker.requests);
	put_own(&b, "http_websockets", "Open WebSockets.", true, ht_worker.websockets);
	put_own(&b, "http_database_connections", "Database connections of the HTTP side.", true, f->connections);
	put_own(&b, "http_database_connections_idle", "Database connections of the HTTP side that nobody uses.", true, f->idle);
	put_own(&b, "http_waiting", "Requests that wait for a database connection.", true, f->waiting);
	put_own(&b, "http_connects_total", "Database connections opened by the HTTP side.", false, f->connects);
	put_own(&b, "http_connect_failures_total", "Database connections that could not be opened.", false, f->connect_failures);
	put_own(&b, "http_reuses_total", "Requests that found a database connection in the pool.", false, f->reuses);
	put_own(&b, "http_statements_total", "Statements that ended well.", false, f->statements);
	put_own(&b, "http_errors_total", "Statements that ended with an error.", false, f->errors);
	put_own(&b, "http_timeouts_total", "Requests that took longer than neon_proxy.http_request_timeout.", false, f->timeouts);
	put_own(&b, "http_cancels_total", "Statements that were cancelled.", false, f->cancels);
	if (b.failed)
	{
		ht_buf_free(&b);
		ht_answer_error(r, 500, NULL, "out of memory");
		return;
	}
	ht_answer(r, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
}
