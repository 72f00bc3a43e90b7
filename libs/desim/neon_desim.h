/*
 * neon_desim.h - a deterministic simulator: virtual clock, random numbers, network, disk, all from one seed.
 *
 * One thread, one queue of events ordered by (time, order of creation): the same seed gives the same run, event by
 * event.  The network carries ordered streams, as TCP does: a connection delays, stalls while its two nodes are
 * partitioned, and may break with any suffix of what was underway lost; what the other side sent before that may
 * still arrive.  The disk keeps sectors: a crash keeps or loses each unsynced sector by itself.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_DESIM_H
#define NEON_DESIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- clock, events, random numbers, trace ---- */

typedef struct neon_sim neon_sim;
typedef void (*neon_sim_fn) (void *arg, uint64_t a, uint64_t b);

extern neon_sim *neon_sim_new(uint64_t seed, bool verbose);
extern void neon_sim_free(neon_sim *sim);

extern uint64_t neon_sim_now_us(const neon_sim *sim);
extern uint64_t neon_sim_events(const neon_sim *sim);	/* handled so far */
extern uint64_t neon_sim_random(neon_sim *sim);
extern uint64_t neon_sim_below(neon_sim *sim, uint64_t n);	/* 0 .. n-1 */
extern uint64_t neon_sim_between(neon_sim *sim, uint64_t low, uint64_t high);	/* inclusive */
extern bool neon_sim_chance(neon_sim *sim, uint32_t per_10000);

/* Call fn(arg, a, b) after delay_us. */
extern void neon_sim_after(neon_sim *sim, uint64_t delay_us, neon_sim_fn fn, void *arg, uint64_t a, uint64_t b);
/* Handle the next event; false when there is none. */
extern bool neon_sim_step(neon_sim *sim);

/* A line of the story: printed at once when verbose; the last few hundred are kept for neon_sim_print_tail. */
extern void neon_sim_trace(neon_sim *sim, const char *fmt,...) __attribute__((format(printf, 2, 3)));
extern void neon_sim_print_tail(const neon_sim *sim);
/* Hash over every trace line and every event: equal for equal runs. */
extern uint64_t neon_sim_fingerprint(const neon_sim *sim);

/* ---- network ---- */

#define NEON_SIM_MAX_NODES	64

typedef struct neon_sim_net neon_sim_net;
typedef struct neon_sim_conn neon_sim_conn;

typedef struct neon_sim_net_handlers
{
	/* side 1 (the one connected to) hears of a new connection; false refuses it */
	bool		(*accept) (void *arg, neon_sim_conn *conn);
	void		(*connected) (void *arg, neon_sim_conn *conn);	/* side 0 */
	void		(*message) (void *arg, neon_sim_conn *conn, int side, const uint8_t *bytes, size_t len);
	void		(*closed) (void *arg, neon_sim_conn *conn, int side);	/* the other side closed, or it broke */
} neon_sim_net_handlers;

extern neon_sim_net *neon_sim_net_new(neon_sim *sim, const neon_sim_net_handlers *handlers, void *arg);
extern void neon_sim_net_free(neon_sim_net *net);
extern void neon_sim_net_delays(neon_sim_net *net, uint64_t low_us, uint64_t high_us, uint32_t cut_per_10000);
/*
 * Now and then a message, and what is sent behind it, comes much later, as after a lost packet, and half of the senders do not wait
 * for that but see the connection end.  Other connections overtake it.
 */
extern void neon_sim_net_stalls(neon_sim_net *net, uint32_t stall_per_10000);
extern void neon_sim_net_block(neon_sim_net *net, int node_a, int node_b, bool blocked);
extern bool neon_sim_net_blocked(const neon_sim_net *net, int node_a, int node_b);

extern neon_sim_conn *neon_sim_connect(neon_sim_net *net, int from_node, int to_node);
extern void neon_sim_send(neon_sim_conn *conn, int side, const void *bytes, size_t len);
/* This side closes: it hears nothing more; the other side hears what was sent, then `closed`. */
extern void neon_sim_close(neon_sim_conn *conn, int side);
/* Breaks: both sides hear `closed`, after a random part of what was underway. */
extern void neon_sim_cut(neon_sim_conn *conn);
extern void neon_sim_cut_random(neon_sim_net *net);
/* A node died: its side hears nothing, the others that it closed. */
extern void neon_sim_net_node_died(neon_sim_net *net, int node);

extern int	neon_sim_conn_node(const neon_sim_conn *conn, int side);
extern uint64_t neon_sim_conn_id(const neon_sim_conn *conn);
extern void neon_sim_conn_set_arg(neon_sim_conn *conn, int side, void *arg);
extern void *neon_sim_conn_arg(const neon_sim_conn *conn, int side);

/* ---- disk: one file of fixed size ---- */

#define NEON_SIM_SECTOR_BYTES	64	/* small, so that small runs tear often */

typedef struct neon_sim_disk
{
	neon_sim   *sim;
	size_t		bytes;
	uint8_t    *now;			/* what reads see */
	uint8_t    *durable;		/* what a crash leaves, at least */
	uint8_t    *dirty;			/* a byte a sector */
} neon_sim_disk;

extern void neon_sim_disk_init(neon_sim_disk *d, neon_sim *sim, size_t bytes);
extern void neon_sim_disk_free(neon_sim_disk *d);
extern void neon_sim_disk_write(neon_sim_disk *d, size_t at, const void *bytes, size_t len);	/* NULL: zeroes */
extern void neon_sim_disk_sync(neon_sim_disk *d);
extern void neon_sim_disk_crash(neon_sim_disk *d);

#endif							/* NEON_DESIM_H */
