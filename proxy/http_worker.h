/*
 * http_worker.h - the HTTP worker's process: its loop, its clock, memory, settings.
 *
 * Everything in this process but its start runs inside callbacks of libuv and libwebsockets.  No ERROR may be thrown there: memory is
 * malloc's, and a failure is an answer with a status.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_WORKER_H
#define HTTP_WORKER_H

#include <uv.h>

#include "neon_http_sql.h"

#define HT_MAX_BODY_BYTES NH_MAX_BODY_BYTES	/* a request's and a response's */
#define HT_MAX_HEADER_BYTES (32 * 1024)	/* all headers of a request together */
#define HT_MAX_ADDRESS 64		/* a client's address as text */

extern int	ht_port;
extern char *ht_listen_addresses;
extern bool ht_tls;
extern int	ht_max_connections;
extern int	ht_pool_size;
extern int	ht_pool_total;
extern int	ht_pool_idle_timeout_ms;
extern int	ht_pool_lifetime_ms;
extern int	ht_request_timeout_ms;

typedef struct HtWorker
{
	uv_loop_t	loop;
	struct lws_context *lws;
	int			connections;	/* of clients, WebSockets included */
	int			websockets;
	uint64_t	requests;
} HtWorker;

extern HtWorker ht_worker;

/* Milliseconds of the loop's clock. */
extern uint64_t ht_now_ms(void);

/* realloc for NhBuf: with 0 it frees. */
extern void *ht_realloc(void *p, size_t n);
extern NhBuf ht_buf(size_t limit_bytes);
extern void ht_buf_free(NhBuf *b);

extern void ht_server_open(void);	/* http_server.c: the listening sockets; FATAL when that fails */
extern void ht_pg_tick(void);	/* http_pool.c: deadlines; called a few times a second */

extern void ht_sql_tick(void);	/* http_sql.c: tokens whose keys are being fetched */
extern void ht_listen_tick(void);	/* http_listen.c */

#endif							/* HTTP_WORKER_H */
