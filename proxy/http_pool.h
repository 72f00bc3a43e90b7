/*
 * http_pool.h - between the files of the pool: http_job.c, http_conn.c, http_pg.c, http_pool.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_POOL_H
#define HTTP_POOL_H

#include "port/atomics.h"

#include "http_pg.h"
#include "proxy_shmem.h"

typedef enum ConnState
{
	CONN_CONNECTING,
	CONN_BUSY,
	CONN_RESETTING,
	CONN_CANCELLING,			/* without a job and unwatched; closed when the cancel request is through */
	CONN_IDLE
} ConnState;

struct HpConn
{
	HpConn	   *next;
	PGconn	   *pg;
	uv_poll_t  *poll;
	int			fd;				/* that poll watches */
	ConnState	state;
	HpJob	   *job;
	bool		pooled;
	bool		rollback_sent;
	uint8_t		key[32];
	uint32_t	secrets_generation;	/* when it logged in */
	uint64_t	born_ms;
	uint64_t	since_ms;		/* in this state */
};

extern HpConn *hp_connections;

/* ---- http_job.c ---- */
extern bool hp_target_key(const HpTarget *target, uint8_t key[32]);	/* false: no memory */
extern void hp_free_statements(HpJob *job);
extern void hp_finish(HpJob *job);	/* tells the outcome, and frees it */

/* ---- http_conn.c ---- */
extern HpConn *hp_open(HpJob *job); /* NULL: no memory */
extern bool hp_watch(HpConn *c, int events);	/* false: it cannot be watched */
extern void hp_set_state(HpConn *c, ConnState state);
extern void hp_close(HpConn *c);
extern void hp_abandon(HpConn *c);	/* what runs on it is of interest to nobody any more */

/* ---- http_pg.c ---- */
extern void hp_start(HpConn *c, HpJob *job);
extern void hp_end_both(HpConn *c); /* the job is over, and so is the connection */
extern void hp_on_event(uv_poll_t *handle, int status, int events);

/* ---- http_pool.c ---- */
extern void hp_assign(void);	/* a connection or room for one has become free */

#endif							/* HTTP_POOL_H */
