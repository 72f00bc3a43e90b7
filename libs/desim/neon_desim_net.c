/*
 * neon_desim_net.c - the simulated network: ordered streams that delay, stall and break.
 *
 * A direction of a connection is a queue of messages.  Each message has one event that delivers the head of its
 * queue, so that order is kept whatever the delays are; while the two nodes are partitioned the event comes again
 * later.  Connections live until the network is freed: events may still point to them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_desim.h"

#include <stdlib.h>
#include <string.h>

#define BLOCKED_RETRY_US	20000
#define STALL_LOW_US		20000
#define STALL_HIGH_US		1000000

typedef struct message
{
	struct message *next;
	size_t		len;
	bool		eof;
	uint8_t		bytes[];
} message;

typedef struct direction
{
	message    *head;
	message   **tail;
	uint64_t	arrival_us;		/* of the last one queued */
	bool		ended;			/* eof is queued: nothing more goes in */
} direction;

struct neon_sim_conn
{
	neon_sim_net *net;
	neon_sim_conn *next;
	uint64_t	id;
	int			node[2];
	bool		hears[2];		/* side still wants messages */
	direction	to[2];			/* towards side i */
	void	   *arg[2];
};

struct neon_sim_net
{
	neon_sim   *sim;
	neon_sim_net_handlers handlers;
	void	   *arg;
	neon_sim_conn *conns;
	uint64_t	n_conns;
	uint64_t	delay_low_us;
	uint64_t	delay_high_us;
	uint32_t	cut_per_10000;
	uint32_t	stall_per_10000;
	bool		blocked[NEON_SIM_MAX_NODES][NEON_SIM_MAX_NODES];
};

neon_sim_net *
neon_sim_net_new(neon_sim *sim, const neon_sim_net_handlers *handlers, void *arg)
{
	neon_sim_net *net = calloc(1, sizeof(*net));

	if (net == NULL)
		exit(2);
	net->sim = sim;
	net->handlers = *handlers;
	net->arg = arg;
	net->delay_low_us = 100;
	net->delay_high_us = 1000;
	return net;
}

static void
free_queue(direction *d)
{
	while (d->head != NULL)
	{
		message    *m = d->head;

		d->head = m->next;
		free(m);
	}
	d->tail = &d->head;
}

void
neon_sim_net_free(neon_sim_net *net)
{
	while (net->conns != NULL)
	{
		neon_sim_conn *conn = net->conns;

		net->conns = conn->next;
		free_queue(&conn->to[0]);
		free_queue(&conn->to[1]);
		free(conn);
	}
	free(net);
}

void
neon_sim_net_delays(neon_sim_net *net, uint64_t low_us, uint64_t high_us, uint32_t cut_per_10000)
{
	net->delay_low_us = low_us;
	net->delay_high_us = high_us;
	net->cut_per_10000 = cut_per_10000;
}

void
neon_sim_net_stalls(neon_sim_net *net, uint32_t stall_per_10000)
{
	net->stall_per_10000 = stall_per_10000;
}

void
neon_sim_net_block(neon_sim_net *net, int node_a, int node_b, bool blocked)
{
	net->blocked[node_a][node_b] = blocked;
	net->blocked[node_b][node_a] = blocked;
}

bool
neon_sim_net_blocked(const neon_sim_net *net, int node_a, int node_b)
{
	return net->blocked[node_a][node_b];
}

static void
deliver(void *arg, uint64_t side, uint64_t unused)
{
	neon_sim_conn *conn = arg;
	neon_sim_net *net = conn->net;
	direction  *d = &conn->to[side];
	message    *m = d->head;

	if (m == NULL)
		return;					/* lost by a cut */
	if (net->blocked[conn->node[0]][conn->node[1]])
	{
		neon_sim_after(net->sim, BLOCKED_RETRY_US, deliver, conn, side, 0);
		return;
	}
	d->head = m->next;
	if (d->head == NULL)
		d->tail = &d->head;
	if (conn->hears[side])
	{
		if (m->eof)
		{
			conn->hears[side] = false;
			net->handlers.closed(net->arg, conn, (int) side);
		}
		else
			net->handlers.message(net->arg, conn, (int) side, m->bytes, m->len);
	}
	free(m);
}

static void break_direction(neon_sim_conn *conn, int to_side);

static void
enqueue(neon_sim_conn *conn, int to_side, const void *bytes, size_t len, bool eof)
{
	direction  *d = &conn->to[to_side];
	neon_sim   *sim = conn->net->sim;
	uint64_t	now = neon_sim_now_us(sim);
	uint64_t	at = now + neon_sim_between(sim, conn->net->delay_low_us, conn->net->delay_high_us);
	bool		lost_patience = false;
	message    *m;

	if (d->ended)
		return;
	if (!eof && conn->net->stall_per_10000 > 0 && neon_sim_chance(sim, conn->net->stall_per_10000))
	{
		at += neon_sim_between(sim, STALL_LOW_US, STALL_HIGH_US);
		lost_patience = neon_sim_below(sim, 2) == 0;
	}
	m = malloc(sizeof(*m) + len);
	if (m == NULL)
		exit(2);
	m->next = NULL;
	m->len = len;
	m->eof = eof;
	if (len > 0)
		memcpy(m->bytes, bytes, len);
	*d->tail = m;
	d->tail = &m->next;
	d->ended = eof;
	if (at <= d->arrival_us)
		at = d->arrival_us + 1;
	d->arrival_us = at;
	neon_sim_after(sim, at - now, deliver, conn, (uint64_t) to_side, 0);
	if (lost_patience)
		break_direction(conn, 1 - to_side);
}

/* Drop a random suffix of one direction, then its end. */
static void
break_direction(neon_sim_conn *conn, int to_side)
{
	direction  *d = &conn->to[to_side];
	uint64_t	n = 0;
	uint64_t	keep;
	message   **at = &d->head;

	if (d->ended)
		return;
	for (message *m = d->head; m != NULL; m = m->next)
		n++;
	for (keep = neon_sim_below(conn->net->sim, n + 1); keep > 0; keep--)
		at = &(*at)->next;
	while (*at != NULL)
	{
		message    *m = *at;

		*at = m->next;
		free(m);
	}
	d->tail = at;
	enqueue(conn, to_side, NULL, 0, true);
}

static void
open_conn(void *arg, uint64_t tries, uint64_t unused)
{
	neon_sim_conn *conn = arg;
	neon_sim_net *net = conn->net;

	if (!conn->hears[0])
		return;					/* given up meanwhile */
	if (net->blocked[conn->node[0]][conn->node[1]] && tries < 20)
	{
		neon_sim_after(net->sim, BLOCKED_RETRY_US, open_conn, conn, tries + 1, 0);
		return;
	}
	if (tries >= 20 || !net->handlers.accept(net->arg, conn))
	{
		conn->hears[0] = false;
		conn->hears[1] = false;
		net->handlers.closed(net->arg, conn, 0);
		return;
	}
	conn->hears[1] = true;
	net->handlers.connected(net->arg, conn);
}

neon_sim_conn *
neon_sim_connect(neon_sim_net *net, int from_node, int to_node)
{
	neon_sim_conn *conn = calloc(1, sizeof(*conn));

	if (conn == NULL)
		exit(2);
	conn->net = net;
	conn->id = ++net->n_conns;
	conn->node[0] = from_node;
	conn->node[1] = to_node;
	conn->hears[0] = true;
	conn->to[0].tail = &conn->to[0].head;
	conn->to[1].tail = &conn->to[1].head;
	conn->next = net->conns;
	net->conns = conn;
	neon_sim_after(net->sim, neon_sim_between(net->sim, net->delay_low_us, net->delay_high_us), open_conn, conn, 0, 0);
	return conn;
}

void
neon_sim_send(neon_sim_conn *conn, int side, const void *bytes, size_t len)
{
	if (!conn->hears[side])
		return;
	enqueue(conn, 1 - side, bytes, len, false);
	if (conn->net->cut_per_10000 > 0 && neon_sim_chance(conn->net->sim, conn->net->cut_per_10000))
		neon_sim_cut(conn);
}

void
neon_sim_close(neon_sim_conn *conn, int side)
{
	if (!conn->hears[side])
		return;
	conn->hears[side] = false;
	enqueue(conn, 1 - side, NULL, 0, true);
}

void
neon_sim_cut(neon_sim_conn *conn)
{
	if (!conn->hears[1])
		return;					/* not open yet, or over */
	break_direction(conn, 0);
	break_direction(conn, 1);
}

void
neon_sim_cut_random(neon_sim_net *net)
{
	uint64_t	n = 0;

	for (neon_sim_conn *c = net->conns; c != NULL; c = c->next)
		n += c->hears[0] && c->hears[1];
	n = neon_sim_below(net->sim, n);
	for (neon_sim_conn *c = net->conns; c != NULL; c = c->next)
	{
		if (!c->hears[0] || !c->hears[1])
			continue;
		if (n-- == 0)
		{
			neon_sim_trace(net->sim, "network: connection %llu breaks", (unsigned long long) c->id);
			neon_sim_cut(c);
			return;
		}
	}
}

void
neon_sim_net_node_died(neon_sim_net *net, int node)
{
	for (neon_sim_conn *c = net->conns; c != NULL; c = c->next)
		for (int side = 0; side < 2; side++)
			if (c->node[side] == node && c->hears[side])
			{
				if (!c->hears[1 - side] && side == 0)
					c->hears[0] = false;	/* still opening */
				else
					neon_sim_close(c, side);
			}
}

int
neon_sim_conn_node(const neon_sim_conn *conn, int side)
{
	return conn->node[side];
}

uint64_t
neon_sim_conn_id(const neon_sim_conn *conn)
{
	return conn->id;
}

void
neon_sim_conn_set_arg(neon_sim_conn *conn, int side, void *arg)
{
	conn->arg[side] = arg;
}

void *
neon_sim_conn_arg(const neon_sim_conn *conn, int side)
{
	return conn->arg[side];
}
