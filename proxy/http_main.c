/*
 * http_main.c - the HTTP side: its settings, its worker, its loop.
 *
 * One process, one loop (libuv) in which libwebsockets serves HTTP and WebSockets, libpq talks to the proxy's own PostgreSQL port and to the
 * controller.  The worker holds nothing that must last: killed at any moment, its clients see a closed connection, and a
 * transaction that was not committed is not.
 *
 * Signals only set flags and wake the loop, which looks at them between callbacks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <limits.h>
#include <sys/resource.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "postmaster/postmaster.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "storage/procsignal.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "http_main.h"
#include "http_tls.h"
#include "http_worker.h"
#include "jwt.h"
#include "jwt_fetch.h"
#include "proxy_settings.h"

#define TICK_MS 250
#define MINUTE (60 * 1000)

PGDLLEXPORT void px_http_main(Datum arg);

int			ht_port = 0;
char	   *ht_listen_addresses;
bool		ht_tls = false;
int			ht_max_connections = 1000;
int			ht_pool_size = 20;
int			ht_pool_total = 200;
int			ht_pool_idle_timeout_ms = MINUTE;
int			ht_pool_lifetime_ms = MINUTE;
int			ht_request_timeout_ms = 5 * MINUTE;

HtWorker	ht_worker;

static uv_async_t wake;
static uv_timer_t ticker;
static uv_poll_t postmaster_watch;
static volatile sig_atomic_t ready_to_wake = false;

uint64_t
ht_now_ms(void)
{
	return uv_now(&ht_worker.loop);
}

void *
ht_realloc(void *p, size_t n)
{
	if (n == 0)
	{
		free(p);
		return NULL;
	}
	return realloc(p, n);
}

NhBuf
ht_buf(size_t limit_bytes)
{
	NhBuf		b = {.realloc = ht_realloc,.limit_bytes = limit_bytes};

	return b;
}

void
ht_buf_free(NhBuf *b)
{
	free(b->data);
	b->data = NULL;
	b->len = b->size = 0;
}

/* ---- signals ---- */

static void
wake_loop(void)
{
	if (ready_to_wake)
		uv_async_send(&wake);
}

static void
on_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	ShutdownRequestPending = true;
	wake_loop();
	errno = save_errno;
}

static void
on_sighup(SIGNAL_ARGS)
{
	int			save_errno = errno;

	ConfigReloadPending = true;
	wake_loop();
	errno = save_errno;
}

static void
on_sigusr1(SIGNAL_ARGS)
{
	procsignal_sigusr1_handler(postgres_signal_arg);
	wake_loop();
}

/* Between callbacks: nothing of the loop is on the stack above us that an exit would leave half done. */
static void
handle_flags(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		ht_tls_reload();
	}
	if (ShutdownRequestPending || !PostmasterIsAlive())
		uv_stop(&ht_worker.loop);
}

static void
on_wake(uv_async_t *handle)
{
	handle_flags();
}

static void
on_tick(uv_timer_t *handle)
{
	handle_flags();
	ht_listen_tick();
	ht_pg_tick();
	px_jwt_tick();
	ht_sql_tick();
}

static void
on_postmaster(uv_poll_t *handle, int status, int events)
{
	_exit(1);					/* readable means closed: it is dead */
}

/* ---- the process ---- */

/* Descriptors: a client and the connection behind it, and some for the rest. */
static void
raise_descriptor_limit(void)
{
	struct rlimit limit;
	rlim_t		want = 2 * (rlim_t) ht_max_connections + 512;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return;
	if (limit.rlim_cur != want)
	{
		limit.rlim_cur = limit.rlim_max < want ? limit.rlim_max : want;
		if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
			ereport(WARNING, (errmsg("could not set the limit of open files to %d: %m", (int) want)));
		if (limit.rlim_cur < want)
			ereport(WARNING,
					(errmsg("neon_proxy.http_max_connections would need %d open files, the system allows %d", (int) want, (int) limit.rlim_cur),
					 errhint("Raise the limit of open files of the server, or lower neon_proxy.http_max_connections.")));
	}
}

static void
open_loop(void)
{
	if (uv_loop_init(&ht_worker.loop) != 0 || uv_async_init(&ht_worker.loop, &wake, on_wake) != 0 ||
		uv_timer_init(&ht_worker.loop, &ticker) != 0 || uv_timer_start(&ticker, on_tick, TICK_MS, TICK_MS) != 0 ||
		uv_poll_init(&ht_worker.loop, &postmaster_watch, postmaster_alive_fds[POSTMASTER_FD_WATCH]) != 0 ||
		uv_poll_start(&postmaster_watch, UV_READABLE, on_postmaster) != 0)
		ereport(FATAL, (errcode(ERRCODE_SYSTEM_ERROR), errmsg("could not start the event loop of the HTTP worker: %m")));
	ready_to_wake = true;
}

void
px_http_main(Datum arg)
{
	pqsignal(SIGTERM, on_sigterm);
	pqsignal(SIGHUP, on_sighup);
	pqsignal(SIGUSR1, on_sigusr1);
	BackgroundWorkerUnblockSignals();
	if (px_socket_directory[0] == '\0')
		ereport(FATAL,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("neon_proxy.http_port is set, and neon_proxy.socket_directory is not"),
				 errhint("The HTTP side reaches databases through the proxy's unix socket: set neon_proxy.socket_directory.")));
	raise_descriptor_limit();
	open_loop();
	ht_server_open();
	ereport(LOG, (errmsg("neon proxy serves HTTP on \"%s\", port %d", ht_listen_addresses, ht_port)));
	while (!ShutdownRequestPending)
		uv_run(&ht_worker.loop, UV_RUN_DEFAULT);
	proc_exit(1);				/* not 0: the postmaster starts it again unless it goes down itself */
}

static void
define_int(const char *name, const char *what, int *variable, int min, int max, GucContext context, int flags)
{
	DefineCustomIntVariable(name, what, NULL, variable, *variable, min, max, context, flags, NULL, NULL, NULL);
}

static void
define_settings(void)
{
	define_int("neon_proxy.http_port", "Port for HTTP and WebSockets; 0 is none.", &ht_port, 0, 65535, PGC_POSTMASTER, 0);
	define_int("neon_proxy.http_max_connections", "Connections of HTTP clients, WebSockets included.", &ht_max_connections, 1, 100000,
			   PGC_POSTMASTER, 0);
	define_int("neon_proxy.http_pool_size", "Database connections for each endpoint, database and user.", &ht_pool_size, 1, 1000, PGC_SIGHUP, 0);
	define_int("neon_proxy.http_pool_total", "Database connections of all HTTP clients together.", &ht_pool_total, 1, 100000, PGC_SIGHUP, 0);
	define_int("neon_proxy.http_pool_idle_timeout", "A database connection that was not used for so long is closed.",
			   &ht_pool_idle_timeout_ms, 10, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("neon_proxy.http_pool_lifetime", "A database connection of that age is not used again.", &ht_pool_lifetime_ms, 10, INT_MAX,
			   PGC_SIGHUP, GUC_UNIT_MS);
	define_int("neon_proxy.http_request_timeout", "Limit for a request from its arrival to its answer.", &ht_request_timeout_ms, 100, INT_MAX,
			   PGC_SIGHUP, GUC_UNIT_MS);
	DefineCustomStringVariable("neon_proxy.http_listen_addresses", "Addresses to serve HTTP on, separated by commas.", NULL, &ht_listen_addresses,
							   "127.0.0.1", PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("neon_proxy.http_tls", "Serve HTTPS with the certificates of neon_proxy.certificates.", NULL, &ht_tls, false,
							 PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

void
px_http_register_worker(void)
{
	BackgroundWorker worker = {0};

	define_settings();
	px_jwt_register();
	if (ht_port == 0)
		return;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_PostmasterStart;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "neon_proxy", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "px_http_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "neon proxy HTTP worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "neon proxy HTTP worker", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
