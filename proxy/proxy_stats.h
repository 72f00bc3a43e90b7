/*
 * proxy_stats.h - the counters of every worker, in shared memory; read by SHOW, by the SQL functions and by /metrics.
 *
 * Each worker writes only its own slot, without locks; readers add the slots up.  A counter never goes down except by a restart
 * of the instance; a gauge is what there is now, and a worker that restarts sets its own gauges to zero.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PROXY_STATS_H
#define PROXY_STATS_H

#include "port/atomics.h"

/* X(name, kind, help): kind is counter or gauge */
#define PX_STATS(X) \
	X(clients, gauge, "Client connections, in any state.") \
	X(clients_active, gauge, "Clients that hold a server connection.") \
	X(clients_waiting, gauge, "Clients that wait for a server connection.") \
	X(clients_login, gauge, "Clients that are not through with logging in.") \
	X(servers, gauge, "Connections to computes, in any state.") \
	X(servers_idle, gauge, "Connections to computes that nobody uses.") \
	X(pools, gauge, "Pools: endpoint, database and user.") \
	X(cached_endpoints, gauge, "Endpoints in the cache.") \
	X(controller_up, gauge, "Whether this worker is connected to the controller.") \
	X(connections_total, counter, "Client connections accepted.") \
	X(tls_total, counter, "Client connections that use TLS.") \
	X(logins_total, counter, "Clients that logged in.") \
	X(login_failures_total, counter, "Logins that failed by a wrong password or an unknown role or endpoint.") \
	X(limited_total, counter, "Connections refused by a limit.") \
	X(login_timeouts_total, counter, "Connections closed because they did not log in in time.") \
	X(clients_lost_total, counter, "Connections closed because the client did not acknowledge what was sent to it.") \
	X(protocol_errors_total, counter, "Connections closed because of bytes that are not the protocol.") \
	X(transactions_total, counter, "Transactions that ended.") \
	X(queries_total, counter, "Queries that ended.") \
	X(client_bytes_total, counter, "Bytes received from clients.") \
	X(server_bytes_total, counter, "Bytes received from computes.") \
	X(server_connects_total, counter, "Connections to computes that were opened.") \
	X(server_connect_failures_total, counter, "Connections to computes that failed.") \
	X(wakes_total, counter, "Times the controller was asked to wake an endpoint.") \
	X(wake_failures_total, counter, "Wakes that failed.") \
	X(controller_requests_total, counter, "Requests to the controller.") \
	X(controller_failures_total, counter, "Requests to the controller that failed.") \
	X(cache_hits_total, counter, "Lookups of endpoints and roles that the cache answered.") \
	X(cache_misses_total, counter, "Lookups that the controller had to answer.") \
	X(cancels_total, counter, "Cancel requests that were passed on to a compute.") \
	X(cancels_refused_total, counter, "Cancel requests with an unknown key, or too many.") \
	X(prepared_hits_total, counter, "Prepared statements that a server connection had already.") \
	X(prepared_parses_total, counter, "Prepared statements that were prepared again on a server connection.") \
	X(wait_us_total, counter, "Microseconds that clients waited for a server connection.") \
	X(query_us_total, counter, "Microseconds that transactions held a server connection.")

typedef enum PxStat
{
#define X(name, kind, help) PX_STAT_##name,
	PX_STATS(X)
#undef X
	PX_STAT_COUNT
} PxStat;

typedef struct PxStatInfo
{
	const char *name;
	const char *help;
	bool		is_gauge;
} PxStatInfo;

typedef struct PxWorkerSlot
{
	pg_atomic_uint64 stat[PX_STAT_COUNT];
	pg_atomic_uint32 pid;		/* 0: not running */
	pg_atomic_uint32 starts;
} PxWorkerSlot;

extern const PxStatInfo px_stat_info[PX_STAT_COUNT];

/* The slot of a worker, 0 .. px_workers - 1. */
extern PxWorkerSlot *px_worker_slot(int worker);

/* A figure over all workers. */
extern uint64 px_stat_sum(PxStat stat);

#endif							/* PROXY_STATS_H */
