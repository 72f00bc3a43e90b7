/*
 * sim.c - runs of the simulated cluster: faults for a while, then peace and a proof of progress.
 *
 *	sim SEED			one run, the story printed
 *	sim --many N [FROM]	N runs; the first failing one ends it with its story's end and exit status 1
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sim.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAULTS_US	(12 * UINT64_C(1000000))
#define PEACE_US	(60 * UINT64_C(1000000))

void
sim_fail(sim_world *w, const char *fmt,...)
{
	va_list		args;

	neon_sim_print_tail(w->sim);
	printf("FAILED seed %llu at %.3f ms: ", (unsigned long long) w->seed, (double) neon_sim_now_us(w->sim) / 1000);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\nreplay with: sim %llu\n", (unsigned long long) w->seed);
	exit(1);
}

/* ---- the network's handlers: side 0 is a compute, side 1 a node ---- */

static sim_compute *
compute_of(sim_world *w, const neon_sim_conn *conn)
{
	return w->computes[neon_sim_conn_node(conn, 0) - SIM_MAX_ACCEPTORS];
}

static bool
on_accept(void *arg, neon_sim_conn *conn)
{
	sim_world  *w = arg;

	return sim_node_accept(w->nodes[neon_sim_conn_node(conn, 1)], conn);
}

static void
on_connected(void *arg, neon_sim_conn *conn)
{
	sim_compute_connected(compute_of(arg, conn), conn);
}

static void
on_message(void *arg, neon_sim_conn *conn, int side, const uint8_t *bytes, size_t len)
{
	sim_world  *w = arg;

	if (side == 1)
		sim_node_message(w->nodes[neon_sim_conn_node(conn, 1)], conn, bytes, len);
	else
		sim_compute_message(compute_of(w, conn), conn, bytes, len);
}

static void
on_closed(void *arg, neon_sim_conn *conn, int side)
{
	sim_world  *w = arg;

	if (side == 1)
		sim_node_closed(w->nodes[neon_sim_conn_node(conn, 1)], conn);
	else
		sim_compute_closed(compute_of(w, conn), conn);
}

static const neon_sim_net_handlers handlers = {on_accept, on_connected, on_message, on_closed};

/* ---- faults ---- */

static int
living_computes(const sim_world *w)
{
	int			n = 0;

	for (int i = 0; i < w->n_computes; i++)
		n += w->computes[i]->stage != SIM_DEAD;
	return n;
}

static sim_compute *
some_compute(sim_world *w)
{
	int			n = living_computes(w);

	if (n == 0)
		return NULL;
	n = (int) neon_sim_below(w->sim, (uint64_t) n);
	for (int i = 0; i < w->n_computes; i++)
		if (w->computes[i]->stage != SIM_DEAD && n-- == 0)
			return w->computes[i];
	return NULL;
}

static void
unblock(void *arg, uint64_t a, uint64_t b)
{
	sim_world  *w = arg;

	neon_sim_net_block(w->net, (int) a, (int) b, false);
}

static void
block_for(sim_world *w, int a, int b, uint64_t us)
{
	neon_sim_trace(w->sim, "network: compute %d and node %d are parted for %llu ms", a - SIM_MAX_ACCEPTORS, b,
				   (unsigned long long) us / 1000);
	neon_sim_net_block(w->net, a, b, true);
	neon_sim_after(w->sim, us, unblock, w, (uint64_t) a, (uint64_t) b);
}

static void
part(sim_world *w)
{
	sim_compute *c = some_compute(w);
	uint64_t	us = neon_sim_between(w->sim, 10000, neon_sim_chance(w->sim, 5000) ? 3000000 : 300000);

	if (c == NULL)
		return;
	if (neon_sim_below(w->sim, 3) == 0)
	{
		for (int i = 0; i < w->n_nodes; i++)
			if (neon_sim_below(w->sim, 3) != 0)
				block_for(w, SIM_COMPUTE_NODE(c->index), i, us);
	}
	else
		block_for(w, SIM_COMPUTE_NODE(c->index), (int) neon_sim_below(w->sim, (uint64_t) w->n_nodes), us);
}

/*
 * A new compute sees two nodes, then only one of them, whose log grows alone; or dies while it brings the other forward.
 * Logs differ in length and in terms, and what an old term left is copied by a newer one: figure 8 of the Raft paper.
 */
static void
leave_tail(sim_world *w, sim_compute *c)
{
	int			first = (int) neon_sim_below(w->sim, (uint64_t) w->n_nodes);
	int			second = (first + 1 + (int) neon_sim_below(w->sim, (uint64_t) w->n_nodes - 1)) % w->n_nodes;

	if (c->stage == SIM_RUN && neon_sim_below(w->sim, 2) == 0)
	{
		/* alone with one node */
		for (int i = 0; i < w->n_nodes; i++)
			if (i != first)
				block_for(w, SIM_COMPUTE_NODE(c->index), i, 10000000);
		return;
	}
	sim_compute_kill(c, "replaced");
	sim_compute_start(w);
	c = w->computes[w->n_computes - 1];
	for (int i = 0; i < w->n_nodes; i++)
		if (i != first && i != second)
			block_for(w, SIM_COMPUTE_NODE(c->index), i, 10000000);
}

static void
trouble(void *arg, uint64_t period_us, uint64_t unused)
{
	sim_world  *w = arg;
	sim_compute *c = some_compute(w);

	if (!w->faults)
		return;
	neon_sim_after(w->sim, neon_sim_between(w->sim, 1000, period_us), trouble, w, period_us, 0);
	if (c == NULL)
	{
		sim_compute_start(w);
		return;
	}
	if (w->narrow && neon_sim_below(w->sim, 2) == 0)
	{
		/* a new compute that sees part of the nodes, for as long as it lives: logs differ in length and in terms */
		sim_compute_kill(c, "replaced");
		sim_compute_start(w);
		c = w->computes[w->n_computes - 1];
		for (int i = 0; i < w->n_nodes; i++)
			if (neon_sim_below(w->sim, 3) == 0)
				block_for(w, SIM_COMPUTE_NODE(c->index), i, neon_sim_between(w->sim, 10000, 1000000));
		return;
	}
	if (w->tails && neon_sim_below(w->sim, 4) != 0)
	{
		leave_tail(w, c);
		return;
	}
	switch (neon_sim_below(w->sim, 16))
	{
		case 0:
		case 1:
			sim_node_crash(w->nodes[neon_sim_below(w->sim, (uint64_t) w->n_nodes)], "kill");
			break;
		case 2:
			for (int i = 0; i < w->n_nodes; i++)
				if (neon_sim_below(w->sim, 2) == 0)
					sim_node_crash(w->nodes[i], "power cut");
			break;
		case 3:
		case 4:
		case 5:
		case 6:
			part(w);
			break;
		case 7:
		case 8:
		case 9:
			neon_sim_cut_random(w->net);
			break;
		case 10:
		case 11:
			sim_compute_kill(c, "kill");
			break;
		case 12:
			if (living_computes(w) < 3)
				sim_compute_start(w);
			break;
		case 13:
			sim_compute_restart_proposer(c);
			break;
		default:
			break;
	}
}

/* ---- one run ---- */

static sim_world *
world_new(uint64_t seed, bool verbose)
{
	sim_world  *w = calloc(1, sizeof(*w));
	neon_configuration conf;

	w->seed = seed;
	w->sim = neon_sim_new(seed, verbose);
	w->net = neon_sim_net_new(w->sim, &handlers, w);
	w->membership = neon_sim_below(w->sim, 2) == 0;
	w->n_nodes = w->membership || neon_sim_below(w->sim, 4) == 0 ? 5 : 3;
	w->narrow = neon_sim_below(w->sim, 3) == 0;
	w->tails = w->n_nodes == 3 && neon_sim_below(w->sim, 2) == 0;
	w->faults = true;
	w->write_limit = SIM_WAL_END - SIM_WAL_RESERVE;
	w->storage_fault_per_10000 = neon_sim_below(w->sim, 2) == 0 ? 0 : 30;
	w->restart_low_ms = 1;
	sim_check_init(&w->check);
	memset(&conf, 0, sizeof(conf));
	conf.generation = 1;
	conf.n_members = w->membership ? 3 : (uint32_t) w->n_nodes;
	for (uint32_t i = 0; i < conf.n_members; i++)
		conf.members[i] = (uint64_t) i + 1;
	for (int i = 0; i < w->n_nodes; i++)
	{
		w->nodes[i] = malloc(sizeof(sim_node));
		sim_node_init(w->nodes[i], w, i, &conf);
		sim_node_start(w->nodes[i]);
	}
	sim_controller_start(w, &conf);
	sim_gossip_start(w);
	return w;
}

static void
world_free(sim_world *w)
{
	for (int i = 0; i < w->n_nodes; i++)
	{
		sim_node_free(w->nodes[i]);
		free(w->nodes[i]);
	}
	for (int i = 0; i < w->n_computes; i++)
		free(w->computes[i]);
	sim_check_free(&w->check);
	sim_gossip_free(w);
	neon_sim_net_free(w->net);
	neon_sim_free(w->sim);
	free(w);
}

static void
run_until(sim_world *w, uint64_t us)
{
	while (neon_sim_now_us(w->sim) < us && neon_sim_step(w->sim))
		;
}

/* Start the compute of the end, which must commit new WAL on all nodes. */
static void
peace(sim_world *w)
{
	neon_sim_trace(w->sim, "--- peace: everything heals ---");
	w->faults = false;
	neon_sim_net_delays(w->net, 100, 1000, 0);
	neon_sim_net_stalls(w->net, 0);
	for (int a = 0; a < NEON_SIM_MAX_NODES; a++)
		for (int b = 0; b < w->n_nodes; b++)
			neon_sim_net_block(w->net, a, b, false);
	for (int i = 0; i < w->n_computes; i++)
		sim_compute_kill(w->computes[i], "the end of the faults");
	for (int i = 0; i < w->n_nodes; i++)
		sim_node_start(w->nodes[i]);
	w->write_limit = SIM_WAL_END;
	sim_compute_start(w);
}

/* The last compute may still be fenced off by a late message of an earlier one: then there is one more. */
static bool
progressed(sim_world *w, neon_lsn before)
{
	const sim_compute *last;

	if (w->computes[w->n_computes - 1]->stage == SIM_DEAD)
		sim_compute_start(w);
	last = w->computes[w->n_computes - 1];
	if (last->stage != SIM_RUN || last->committed < before + 4096)
		return false;
	if (!sim_controller_idle(&w->controller))
		return false;
	for (int i = 0; i < w->n_nodes; i++)
		if (neon_configuration_has(&w->controller.conf, (uint64_t) i + 1) &&
			w->nodes[i]->acceptor.commit_lsn < before + 4096)
			return false;
	return true;
}

static uint64_t
run(uint64_t seed, bool verbose)
{
	sim_world  *w = world_new(seed, verbose);
	neon_lsn	before;
	uint64_t	fingerprint;

	neon_sim_net_delays(w->net, 100, neon_sim_between(w->sim, 500, 30000), (uint32_t) neon_sim_below(w->sim, 20));
	neon_sim_net_stalls(w->net, (uint32_t) neon_sim_below(w->sim, 20));
	sim_compute_start(w);
	trouble(w, neon_sim_between(w->sim, 100000, 800000), 0);
	while (neon_sim_now_us(w->sim) < FAULTS_US && w->n_computes < SIM_MAX_COMPUTES - 8 && neon_sim_step(w->sim))
		;

	peace(w);
	before = w->check.committed_end;
	for (uint64_t t = neon_sim_now_us(w->sim), end = t + PEACE_US; !progressed(w, before); t += 100000)
	{
		if (t > end)
			sim_fail(w, "no progress after the faults: committed %llu, was %llu",
					 (unsigned long long) w->check.committed_end, (unsigned long long) before);
		run_until(w, t);
	}

	fingerprint = neon_sim_fingerprint(w->sim);
	if (verbose)
		printf("ok: seed %llu, %d nodes, %llu events, %d computes, %llu elections, %llu commits up to %llu, "
			   "%llu truncations, %llu torn ends, %llu commits learnt from peers, %llu changes of members, fingerprint %016llx\n",
			   (unsigned long long) seed, w->n_nodes, (unsigned long long) neon_sim_events(w->sim), w->n_computes,
			   (unsigned long long) w->check.elections, (unsigned long long) w->check.commits,
			   (unsigned long long) w->check.committed_end, (unsigned long long) w->check.truncations,
			   (unsigned long long) w->check.torn, (unsigned long long) w->check.learnt, (unsigned long long) w->controller.changes, (unsigned long long) fingerprint);
	world_free(w);
	return fingerprint;
}

int
main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* runs allocate the same large pieces again and again: keep them */
	mallopt(M_MMAP_THRESHOLD, 64 << 20);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	if (argc >= 3 && strcmp(argv[1], "--many") == 0)
	{
		uint64_t	n = strtoull(argv[2], NULL, 10);
		uint64_t	from = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;

		for (uint64_t seed = from; seed < from + n; seed++)
		{
			uint64_t	fingerprint = run(seed, false);

			/* now and then: the same seed is the same run */
			if (seed % 50 == 0 && run(seed, false) != fingerprint)
			{
				printf("FAILED seed %llu: a second run went differently\n", (unsigned long long) seed);
				return 1;
			}
		}
		printf("ok: %llu runs from seed %llu\n", (unsigned long long) n, (unsigned long long) from);
		return 0;
	}
	if (argc == 2 && argv[1][0] >= '0' && argv[1][0] <= '9')
	{
		(void) run(strtoull(argv[1], NULL, 10), true);
		return 0;
	}
	fputs("usage: sim SEED | sim --many N [FROM]\n", stderr);
	return 2;
}
