/*
 * sim_controller.c - changes of membership while everything else goes on.
 *
 * The procedure is the storage controller's.  Old members to new members by way of a joint configuration:
 *
 *	OLD		a majority of the old members takes the joint configuration.  From here on nothing can be committed without
 *			a majority of the new ones.  The furthest log among that majority contains all that was committed before.
 *	PULL	members that have nothing yet become copies of the node with that log.
 *	NEW		a majority of the new members has the joint configuration, that log or more, and a term as high as any voted.
 *	FINAL	the new members alone.
 *
 * Every step is tried until it works; nodes may be down.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sim.h"

#include <string.h>

static neon_term
last_term(const sim_node *n)
{
	return neon_history_last_term(&n->acceptor.history, n->flush_record_lsn);
}

/* Is (term, flush) at least as far as what was found on the old majority? */
static bool
far_enough(const sim_controller *t, const sim_node *n)
{
	return last_term(n) > t->sync_last_term || (last_term(n) == t->sync_last_term && n->flush_record_lsn >= t->sync_flush);
}

static sim_node *
node_of(const sim_controller *t, uint64_t id)
{
	return t->w->nodes[id - 1];
}

static void
begin_change(sim_controller *t)
{
	sim_world  *w = t->w;
	neon_configuration *c = &t->conf;
	uint32_t	want = neon_sim_below(w->sim, 4) == 0 ? 5 : 3;
	uint32_t	left = (uint32_t) w->n_nodes;
	char		text[NEON_CONFIGURATION_TEXT];

	c->generation++;
	c->n_new_members = 0;
	for (int i = 0; i < w->n_nodes && c->n_new_members < want; i++, left--)
		if (neon_sim_below(w->sim, left) < want - c->n_new_members)
			c->new_members[c->n_new_members++] = (uint64_t) i + 1;
	t->got_old = 0;
	t->sync_last_term = 0;
	t->sync_flush = 0;
	t->sync_term = 0;
	t->step = SIM_CHANGE_OLD;
	t->changes++;
	neon_configuration_print(c, text);
	neon_sim_trace(w->sim, "controller: generation %u, members %s", c->generation, text);
}

static void
step_old(sim_controller *t)
{
	uint32_t	n = 0;

	for (uint32_t m = 0; m < t->conf.n_members; m++)
	{
		sim_node   *node = node_of(t, t->conf.members[m]);

		if ((t->got_old >> node->index & 1) == 0 && sim_node_configure(node, &t->conf) && node->up)
		{
			t->got_old |= UINT64_C(1) << node->index;
			if (far_enough(t, node))
			{
				t->sync_last_term = last_term(node);
				t->sync_flush = node->flush_record_lsn;
			}
			if (node->acceptor.term > t->sync_term)
				t->sync_term = node->acceptor.term;
		}
		n += t->got_old >> node->index & 1;
	}
	if (n >= t->conf.n_members / 2 + 1)
	{
		neon_sim_trace(t->w->sim, "controller: committed WAL is in (term %llu, %llu), terms up to %llu",
					   (unsigned long long) t->sync_last_term, (unsigned long long) t->sync_flush,
					   (unsigned long long) t->sync_term);
		t->step = SIM_CHANGE_PULL;
	}
}

/* Any node with the newest configuration whose log is far enough will do as the source. */
static sim_node *
find_source(const sim_controller *t)
{
	for (int i = 0; i < t->w->n_nodes; i++)
	{
		sim_node   *n = t->w->nodes[i];

		if (n->up && n->acceptor.conf.generation == t->conf.generation && far_enough(t, n))
			return n;
	}
	return NULL;
}

static void
step_pull(sim_controller *t)
{
	sim_node   *source;

	for (uint32_t m = 0; m < t->conf.n_members; m++)
		(void) sim_node_configure(node_of(t, t->conf.members[m]), &t->conf);
	source = find_source(t);
	if (source == NULL)
		return;
	for (uint32_t m = 0; m < t->conf.n_new_members; m++)
	{
		sim_node   *n = node_of(t, t->conf.new_members[m]);
		bool		was_member = false;

		for (uint32_t o = 0; o < t->conf.n_members; o++)
			was_member |= t->conf.members[o] == t->conf.new_members[m];
		if (!was_member && n->conf.generation < t->conf.generation)
			sim_node_pull(n, source, &t->conf, t->sync_term);
	}
	t->step = SIM_CHANGE_NEW;
}

/*
 * Members that are none any more: the controller drops their timeline.  Some are forgotten here, because the protocol must
 * stand that; but not where histories are short, since a thinned one cannot be compared with a log that old.
 */
static void
exclude_old(sim_controller *t)
{
	for (uint32_t o = 0; o < t->conf.n_members; o++)
	{
		sim_node   *n = node_of(t, t->conf.members[o]);
		bool		stays = false;

		for (uint32_t m = 0; m < t->conf.n_new_members; m++)
			stays |= t->conf.new_members[m] == t->conf.members[o];
		if (stays || (NEON_CONSENSUS_MAX_HISTORY > 100 && neon_sim_below(t->w->sim, 2) == 0))
			continue;
		if (n->up)
			sim_node_crash(n, "its timeline is dropped");
		n->exists = false;
		n->conf.generation = 0;
	}
}

static void
step_new(sim_controller *t)
{
	uint32_t	ready = 0;

	for (uint32_t m = 0; m < t->conf.n_new_members; m++)
	{
		sim_node   *n = node_of(t, t->conf.new_members[m]);

		if (!n->exists || !sim_node_configure(n, &t->conf) || !sim_node_raise_term(n, t->sync_term) || !n->up)
			continue;
		ready += far_enough(t, n);
	}
	if (ready < t->conf.n_new_members / 2 + 1)
	{
		/* no proposer may be there to bring a lagging old member forward, and a pull may have failed */
		t->step = SIM_CHANGE_PULL;
		return;
	}
	exclude_old(t);
	t->conf.generation++;
	t->conf.n_members = t->conf.n_new_members;
	memcpy(t->conf.members, t->conf.new_members, sizeof(t->conf.members));
	t->conf.n_new_members = 0;
	memset(t->conf.new_members, 0, sizeof(t->conf.new_members));
	t->step = SIM_CHANGE_FINAL;
}

static void
step_final(sim_controller *t)
{
	bool		all = true;

	for (uint32_t m = 0; m < t->conf.n_members; m++)
	{
		sim_node   *n = node_of(t, t->conf.members[m]);

		if (n->exists)
			all &= sim_node_configure(n, &t->conf);
		else
		{
			/* one that could not be copied in time, because a majority was enough */
			sim_node   *source = find_source(t);

			all = source != NULL && sim_node_pull(n, source, &t->conf, t->sync_term) && all;
		}
	}
	if (!all)
		return;
	neon_sim_trace(t->w->sim, "controller: generation %u is everywhere", t->conf.generation);
	t->step = SIM_CHANGE_NONE;
}

static void
work(void *arg, uint64_t a, uint64_t b)
{
	sim_controller *t = arg;

	neon_sim_after(t->w->sim, neon_sim_between(t->w->sim, 10000, 200000), work, t, 0, 0);
	switch (t->step)
	{
		case SIM_CHANGE_NONE:
			if (t->w->faults && neon_sim_below(t->w->sim, 10) == 0)
				begin_change(t);
			break;
		case SIM_CHANGE_OLD:
			step_old(t);
			break;
		case SIM_CHANGE_PULL:
			step_pull(t);
			break;
		case SIM_CHANGE_NEW:
			step_new(t);
			break;
		case SIM_CHANGE_FINAL:
			step_final(t);
			break;
	}
}

void
sim_controller_start(sim_world *w, const neon_configuration *conf)
{
	w->controller.w = w;
	w->controller.conf = *conf;
	if (w->membership)
		work(&w->controller, 0, 0);
}

bool
sim_controller_idle(const sim_controller *t)
{
	return t->step == SIM_CHANGE_NONE;
}
