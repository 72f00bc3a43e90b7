/*
 * sim_gossip.c - the broker of the simulation: nodes say now and then what they have, peers hear of it late, twice, in any order or never.
 *
 * As in the safekeeper (sk_broker.c), commit_lsn is read first and the rest of the claim a while later, when the node may have another leader's
 * log.  Claims are not held up by what parts computes from nodes.  Chance comes from a generator of its own: what else happens in
 * a run is decided by the same numbers as without gossip.  Two runs of three have it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#define EVERY_US		40000	/* a node speaks, on average */
#define LATE_US			4000000

typedef struct sim_claim
{
	sim_node   *from;
	uint64_t	incarnation;
	neon_peer_claim p;
	struct sim_claim *next;		/* all there ever were: events may still point to them */
} sim_claim;

static uint64_t
below(sim_world *w, uint64_t n)
{
	/* xorshift64* */
	w->gossip_state ^= w->gossip_state >> 12;
	w->gossip_state ^= w->gossip_state << 25;
	w->gossip_state ^= w->gossip_state >> 27;
	return (w->gossip_state * UINT64_C(0x2545F4914F6CDD1D) >> 16) % n;
}

static void
hear(void *arg, uint64_t index, uint64_t unused)
{
	sim_claim  *g = arg;
	sim_world  *w = g->from->w;
	sim_node   *n = w->nodes[index];
	neon_lsn	before = n->acceptor.commit_lsn;

	if (!n->up)
		return;
	if (neon_acceptor_learn_commit(&n->acceptor, &sim_storage, n, &g->p) == NEON_PEER_BELIEVED)
	{
		w->check.learnt++;
		neon_sim_trace(w->sim, "node %d: learns from node %d, whose last term is %llu, that %llu is committed, not only %llu", n->index,
					   g->from->index, (unsigned long long) g->p.last_log_term, (unsigned long long) n->acceptor.commit_lsn,
					   (unsigned long long) before);
	}
	sim_check_node(n);
}

static void
tell(sim_claim *g, int index)
{
	sim_world  *w = g->from->w;
	int			copies = below(w, 10) == 0 ? 2 : 1;

	if (below(w, 5) == 0)
		return;					/* lost */
	while (copies-- > 0)
		neon_sim_after(w->sim, below(w, below(w, 4) == 0 ? LATE_US : 20000), hear, g, (uint64_t) index, 0);
}

/* The second half of the claim. */
static void
publish(void *arg, uint64_t a, uint64_t b)
{
	sim_claim  *g = arg;
	sim_node   *n = g->from;

	if (!n->up || n->incarnation != g->incarnation)
		return;
	g->p.last_log_term = neon_acceptor_last_log_term(&n->acceptor, &sim_storage, n);
	g->p.term = n->acceptor.term;
	g->p.flush_lsn = n->flush_record_lsn;
	for (int i = 0; i < n->w->n_nodes; i++)
		if (i != n->index)
			tell(g, i);
}

static void
speak(void *arg, uint64_t index, uint64_t unused)
{
	sim_world  *w = arg;
	sim_node   *n = w->nodes[index];

	if (!w->faults)
		return;					/* the last compute has to tell by itself */
	neon_sim_after(w->sim, below(w, 2 * EVERY_US), speak, w, index, 0);
	if (n->up)
	{
		sim_claim  *g = calloc(1, sizeof(*g));

		g->from = n;
		g->incarnation = n->incarnation;
		g->p.node_id = n->acceptor.node_id;
		g->p.tenant = n->acceptor.tenant;
		g->p.timeline = n->acceptor.timeline;
		g->p.commit_lsn = n->acceptor.commit_lsn;
		g->next = w->claims;
		w->claims = g;
		neon_sim_after(w->sim, below(w, 4) == 0 ? below(w, 50000) : 0, publish, g, 0, 0);
	}
}

void
sim_gossip_start(sim_world *w)
{
	w->gossip_state = w->seed * UINT64_C(0x9E3779B97F4A7C15) | 1;
	if (w->seed % 3 == 0)
		return;
	for (int i = 0; i < w->n_nodes; i++)
		neon_sim_after(w->sim, below(w, EVERY_US), speak, w, (uint64_t) i, 0);
}

void
sim_gossip_free(sim_world *w)
{
	while (w->claims != NULL)
	{
		sim_claim  *g = w->claims;

		w->claims = g->next;
		free(g);
	}
}
