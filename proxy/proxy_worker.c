/*
 * proxy_worker.c - a worker's life: start, event loop, stop.
 *
 * One epoll loop.  A round: events, input that TLS has in memory already, the tick (every 50 ms at most), memory of what was closed.
 * Signals only write to an eventfd.  The loop never waits for anything but epoll_wait, at most a second.
 *
 * Stop (SIGTERM): no new clients; who is between transactions is sent away with 57P01; transactions may end within
 * neon_proxy.drain_timeout.  With neon_proxy.share_port clients may stay as long as that: another proxy has the new ones.
 * The exit code is 1, so that a worker that was terminated alone is started again.
 *
 * Crash rule: what the worker holds in shared memory is given back on exit; when it is killed the postmaster makes everything anew.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/postmaster.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "utils/guc.h"

#include "proxy_listen.h"
#include "proxy_worker.h"
#include "px.h"

#define MAX_EVENTS	256
#define TICK_MS		50
#define UNANSWERED_MS	2000
#define MAX_LAST_ACCEPTS 4096
#define EXTERNAL_LOGIN_MS (120 * 1000)	/* a person confirms a login */

PxWorker	px;

static volatile sig_atomic_t got_stop;
static volatile sig_atomic_t got_reload;
static int	signal_fd = -1;
static PxSock listeners[PX_MAX_ADDRESSES + 1];
static int	nlisteners;
static PxSock signal_sock;
static PxSock postmaster_sock;
static PxSock inbox_sock;

static void
wake_loop(void)
{
	uint64		one = 1;
	int			save = errno;

	if (signal_fd >= 0 && write(signal_fd, &one, sizeof(one)) < 0)
	{
		/* it is full: the loop wakes */
	}
	errno = save;
}

static void
on_sigterm(SIGNAL_ARGS)
{
	got_stop = true;
	wake_loop();
}

static void
on_sighup(SIGNAL_ARGS)
{
	got_reload = true;
	wake_loop();
}

static void
read_clock(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	px.now_us = (uint64) t.tv_sec * 1000000 + t.tv_nsec / 1000;
	px.now_ms = (int64) (px.now_us / 1000);
}

/* Every client is a descriptor, and so is every server connection. */
static void
raise_file_limit(void)
{
	struct rlimit r;
	rlim_t		wanted = (rlim_t) px_max_clients + px_max_clients / 2 + 256;

	if (getrlimit(RLIMIT_NOFILE, &r) != 0)
		return;
	if (r.rlim_cur < wanted)
	{
		r.rlim_cur = Min(wanted, r.rlim_max);
		setrlimit(RLIMIT_NOFILE, &r);
	}
	if (r.rlim_cur < (rlim_t) px_max_clients + 256)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("the limit of open files, %lu, does not allow neon_proxy.max_clients = %d", (unsigned long) r.rlim_cur, px_max_clients),
				 errhint("Raise the limit (ulimit -n) of the server, or lower neon_proxy.max_clients.")));
}

static void
give_back(dlist_head *list)
{
	dlist_iter	i;

	dlist_foreach(i, list)
	{
		PxClient   *c = dlist_container(PxClient, node, i.cur);

		if (c->address_quota)
			px_quota_give(PX_QUOTA_ADDRESS, px_address_key(PX_QUOTA_ADDRESS, c));
		if (c->endpoint_quota)
			px_quota_give(PX_QUOTA_ENDPOINT, px_hash(PX_QUOTA_ENDPOINT, c->pool->endpoint->id, strlen(c->pool->endpoint->id)));
	}
}

/* What other workers count of ours. */
static void
give_back_all(int code, Datum arg)
{
	dlist_iter	i;

	pg_atomic_write_u32(&px.slot->pid, 0);
	give_back(&px.logging_in);
	give_back(&px.idle);
	give_back(&px.linked);
	dlist_foreach(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);

		give_back(&p->waiting);
		give_back(&p->logins);
		px_quota_want(p->quota_key, &p->told, &(PxWant) {0, 0, 0});
		for (int n = p->ncounted; n > 0; n--)
			px_quota_give(PX_QUOTA_POOL, p->quota_key);
	}
	for (int s = 0; s < PX_STAT_COUNT; s++)
		if (px_stat_info[s].is_gauge)
			pg_atomic_write_u64(&px.slot->stat[s], 0);
}

static void
watch_listener(PxSock *s)
{
	struct epoll_event ev = {.events = EPOLLIN | (s->is_unix ? EPOLLEXCLUSIVE : 0),.data.ptr = s};

	if (epoll_ctl(px.epoll, EPOLL_CTL_ADD, s->fd, &ev) != 0)
		ereport(FATAL, (errcode_for_socket_access(), errmsg("could not watch a listening socket: %m")));
	s->reading = true;
}

/* Those that rested while no file was free. */
static void
watch_listeners_again(void)
{
	for (int l = 0; l < nlisteners && !px.stopping && !px.leaving; l++)
		if (!listeners[l].reading)
			watch_listener(&listeners[l]);
}

static void
accept_some(PxSock *s)
{
	px_client_accept(s);
	if (!s->reading)
		epoll_ctl(px.epoll, EPOLL_CTL_DEL, s->fd, NULL);
}

static void
listen_on(void)
{
	int			fds[PX_MAX_ADDRESSES + 1];
	bool		is_unix[PX_MAX_ADDRESSES + 1];

	nlisteners = px_listen_take(px.me, fds, is_unix);
	for (int i = 0; i < nlisteners; i++)
	{
		PxSock	   *s = &listeners[i];

		s->fd = fds[i];
		s->kind = PX_SOCK_LISTEN;
		s->is_unix = is_unix[i];
		watch_listener(s);
	}
}

static void
start(int me)
{
	px.me = me;
	px.slot = px_worker_slot(me);
	for (int s = 0; s < PX_STAT_COUNT; s++)
		if (px_stat_info[s].is_gauge)
			pg_atomic_write_u64(&px.slot->stat[s], 0);
	pg_atomic_write_u32(&px.slot->pid, MyProcPid);
	pg_atomic_fetch_add_u32(&px.slot->starts, 1);
	dlist_init(&px.logging_in);
	dlist_init(&px.idle);
	dlist_init(&px.linked);
	dlist_init(&px.pools);
	before_shmem_exit(give_back_all, 0);
	px.epoll = epoll_create1(EPOLL_CLOEXEC);
	signal_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	px.rbuf = px_alloc(2 * PX_READ_BYTES + 1024);
	if (px.epoll < 0 || signal_fd < 0)
		ereport(FATAL, (errcode_for_socket_access(), errmsg("could not make an event loop: %m")));
	raise_file_limit();
	read_clock();
	px_sock_init(&signal_sock, PX_SOCK_SIGNAL, signal_fd);
	px_sock_init(&postmaster_sock, PX_SOCK_POSTMASTER, postmaster_alive_fds[POSTMASTER_FD_WATCH]);
	px_sock_init(&inbox_sock, PX_SOCK_INBOX, px_inbox(me));
	px_tls_load();
	px_controller_start();
	listen_on();
}

/* ---------------------------------------------------------------- stopping */

static void
send_away(dlist_head *list, const char *why)
{
	dlist_mutable_iter i;

	dlist_foreach_modify(i, list)
		px_client_fail(dlist_container(PxClient, node, i.cur), "57P01", why, NULL, "Connect again.");
}

static void
take_no_more(void)
{
	for (int l = 0; l < nlisteners; l++)
	{
		epoll_ctl(px.epoll, EPOLL_CTL_DEL, listeners[l].fd, NULL);
		if (listeners[l].is_unix)
			continue;			/* other workers have it, too */
		for (int i = 0; i < MAX_LAST_ACCEPTS && px_client_accept(&listeners[l]); i++)
		{
			/* what has come, bounded: others may never cease */
		}
		shutdown(listeners[l].fd, SHUT_RD);
	}
}

static void
send_clients_away(void)
{
	dlist_mutable_iter i;

	px.leaving = false;
	px.stopping = true;
	send_away(&px.logging_in, "the proxy is shutting down");
	send_away(&px.idle, "the proxy is shutting down");
	dlist_foreach_modify(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);

		send_away(&p->logins, "the proxy is shutting down");
		send_away(&p->waiting, "the proxy is shutting down");
	}
	dlist_foreach_modify(i, &px.linked)
	{
		PxClient   *c = dlist_container(PxClient, node, i.cur);

		/* session mode: between two transactions */
		if (c->server->queue_len == 0 && !c->server->unsynced && c->server->status == 'I')
			px_client_fail(c, "57P01", "the proxy is shutting down", NULL, "Connect again.");
	}
}

static void
begin_stop(void)
{
	px.stop_ms = px.now_ms + px_drain_timeout_ms;
	take_no_more();
	if (px_share_port)
		px.leaving = true;
	else
		send_clients_away();
}

static void
stop_if_drained(void)
{
	if (px.leaving)
	{
		if (px.now_ms < px.stop_ms && pg_atomic_read_u64(&px.slot->stat[PX_STAT_clients]) > 0)
			return;
		send_clients_away();
	}
	if (!dlist_is_empty(&px.linked) && px.now_ms < px.stop_ms)
		return;
	send_away(&px.linked, "terminating connection because the proxy is shutting down");
	proc_exit(1);
}

/* ---------------------------------------------------------------- timeouts */

static void
expire(dlist_head *list, int64 limit_ms, const char *sqlstate, const char *message, const char *hint)
{
	dlist_mutable_iter i;

	if (limit_ms <= 0)
		return;
	dlist_foreach_modify(i, list)
	{
		PxClient   *c = dlist_container(PxClient, node, i.cur);

		if (px.now_ms - c->state_ms < limit_ms)
			continue;
		px_client_fail(c, sqlstate, message, NULL, hint);
	}
}

static void
expire_logins(void)
{
	dlist_mutable_iter i;

	dlist_foreach_modify(i, &px.logging_in)
	{
		PxClient   *c = dlist_container(PxClient, node, i.cur);
		int64		age_ms = px.now_ms - c->connected_ms;

		if (age_ms < px_login_timeout_ms)
			break;				/* so are those behind it */
		if (c->state == PX_CL_EXTERNAL && age_ms < EXTERNAL_LOGIN_MS)
			continue;
		px_count(login_timeouts_total);
		px_client_fail(c, "08P01", "canceling authentication due to timeout", NULL, NULL);
	}
}

static void
expire_transactions(void)
{
	dlist_mutable_iter i;

	if (px_idle_transaction_timeout_ms == 0)
		return;
	dlist_foreach_modify(i, &px.linked)
	{
		PxClient   *c = dlist_container(PxClient, node, i.cur);
		PxServer   *s = c->server;

		if (s->state == PX_SV_LINKED && s->status == 'T' && s->queue_len == 0 && px.now_ms - s->state_ms >= px_idle_transaction_timeout_ms)
			px_client_fail(c, "25P03", "terminating connection due to idle-in-transaction timeout", NULL, NULL);
	}
}

/* Clients whose network has gone while an answer was on its way to them: those that hold a server connection. */
static void
expire_unanswered(void)
{
	dlist_mutable_iter i;

	dlist_foreach_modify(i, &px.linked)
	{
		PxClient   *c = dlist_container(PxClient, node, i.cur);

		if (c->is_unix || !px_sock_unanswered(&c->sock, &px_client_keepalive))
			continue;
		px_count(clients_lost_total);
		px_client_close(c);
	}
}

static void
tick(void)
{
	static int64 last_ms;
	static int64 slow_ms;
	static int64 slower_ms;

	if (px.now_ms - last_ms < TICK_MS)
		return;
	last_ms = px.now_ms;
	watch_listeners_again();
	px_controller_tick();
	px_pool_tick();
	px_ipc_tick();
	px_cancel_tick();
	px_admin_tick();
	px_external_tick();
	if (px.now_ms - slow_ms < 500)
		return;
	slow_ms = px.now_ms;
	expire_logins();
	expire_transactions();
	if (px.now_ms - slower_ms >= UNANSWERED_MS)
	{
		slower_ms = px.now_ms;
		expire_unanswered();
	}
	expire(&px.idle, px_client_idle_timeout_ms, "57P05", "terminating connection due to idle timeout", NULL);
}

/* ---------------------------------------------------------------- the loop */

static void
reload(void)
{
	got_reload = false;
	ProcessConfigFile(PGC_SIGHUP);
	px_tls_load();
	px_controller_reload();
}

static void
signalled(void)
{
	uint64		n;

	if (read(signal_fd, &n, sizeof(n)) < 0)
	{
		/* nothing was there */
	}
	if (got_reload)
		reload();
	if (got_stop && !px.stopping && !px.leaving)
		begin_stop();
}

static void
dispatch(PxSock *s, uint32 events)
{
	if (s->fd < 0)
		return;					/* closed in this round */
	switch ((PxSockKind) s->kind)
	{
		case PX_SOCK_LISTEN:
			accept_some(s);
			break;
		case PX_SOCK_SIGNAL:
			signalled();
			break;
		case PX_SOCK_POSTMASTER:
			if (!PostmasterIsAlive())
				proc_exit(1);
			break;
		case PX_SOCK_INBOX:
			px_ipc_event();
			break;
		case PX_SOCK_CONTROLLER:
			px_controller_event(s, events);
			break;
		case PX_SOCK_CLIENT:
			px_client_event((PxClient *) s, events);
			break;
		case PX_SOCK_SERVER:
			px_server_event((PxServer *) s, events);
			break;
		case PX_SOCK_CANCEL:
			px_cancel_event(s, events);
			break;
	}
}

static bool
somebody_waits(void)
{
	return pg_atomic_read_u64(&px.slot->stat[PX_STAT_clients_waiting]) > 0 ||
		pg_atomic_read_u64(&px.slot->stat[PX_STAT_clients_login]) > 0 || px.stopping || px.leaving;
}

static void
round_of_events(void)
{
	static bool more;
	struct epoll_event events[MAX_EVENTS];
	PxSock	   *s;
	int			n;

	n = epoll_wait(px.epoll, events, MAX_EVENTS, more ? 0 : somebody_waits() ? TICK_MS : 500);
	if (n < 0 && errno != EINTR)
		ereport(FATAL, (errcode_for_socket_access(), errmsg("could not wait for events: %m")));
	read_clock();
	for (int i = 0; i < n; i++)
		dispatch(events[i].data.ptr, events[i].events);
	for (int budget = 64; budget > 0 && (s = px_sock_next_again()) != NULL; budget--)
		dispatch(s, EPOLLIN);
	more = false;
	if ((s = px_sock_next_again()) != NULL)
	{
		px_sock_again(s);
		more = true;
	}
	tick();
	px_controller_run();
	px_pool_run();
	px_free_deferred();
}

void
px_worker_main(Datum arg)
{
	pqsignal(SIGTERM, on_sigterm);
	pqsignal(SIGHUP, on_sighup);
	BackgroundWorkerUnblockSignals();
	start(DatumGetInt32(arg));
	for (;;)
	{
		round_of_events();
		if (px.stopping || px.leaving)
			stop_if_drained();
	}
}
