/*
 * sim_check.c - what must be true at every moment, checked by somebody who sees all nodes at once.
 *
 *	election safety		a term has one leader
 *	log matching		an acceptor whose last term is t holds a prefix of the log of t's leader
 *	completeness		the log of a new leader begins with everything committed in earlier terms
 *	durability			no acceptor cuts WAL below its commit_lsn; what is committed never changes
 *	record ends			commits, starts of terms and acknowledged ends are ends of records
 *	links				each record names the one before it (the last record of a sync election is right)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

void
sim_check_init(sim_check *k)
{
	memset(k, 0, sizeof(*k));
	k->committed_end = SIM_WAL_START;
}

void
sim_check_free(sim_check *k)
{
	for (int t = 0; t < SIM_MAX_TERMS; t++)
	{
		free(k->logs[t].bytes);
		free(k->logs[t].record_end);
	}
}

static bool
is_record_end(const sim_log *log, neon_lsn lsn)
{
	return lsn == SIM_WAL_START ||
		(lsn > SIM_WAL_START && lsn <= log->end && lsn % 8 == 0 && log->record_end[(lsn - SIM_WAL_START) / 8] != 0);
}

/* Mark the ends of the records in [begin, end); both are ends of records; check the links on the way. */
static void
mark_records(sim_world *w, sim_log *log, neon_lsn begin, neon_lsn end, neon_lsn last_start)
{
	neon_lsn	next;
	neon_lsn	prev;

	for (neon_lsn at = begin; at < end; at = next)
	{
		if (!sim_record_at(log->bytes, at, end, &next, &prev))
			sim_fail(w, "no record at %llu in a leader's log", (unsigned long long) at);
		if (prev != last_start)
			sim_fail(w, "record at %llu names %llu as the one before, which is %llu", (unsigned long long) at,
					 (unsigned long long) prev, (unsigned long long) last_start);
		last_start = at;
		log->record_end[(next - SIM_WAL_START) / 8] = 1;
	}
}

/*
 * Completeness.  Only what earlier terms committed: a leader may learn of its election late, when a higher term has
 * already committed more; it will commit nothing.
 */
static void
check_has_committed(sim_world *w, const sim_log *log, neon_term term)
{
	sim_check  *k = &w->check;
	neon_lsn	needed = SIM_WAL_START;

	for (neon_term t = 0; t < term; t++)
		if (k->logs[t].committed > needed)
			needed = k->logs[t].committed;
	if (log->end < needed)
		sim_fail(w, "the log of term %llu ends at %llu, but %llu is committed", (unsigned long long) term,
				 (unsigned long long) log->end, (unsigned long long) needed);
	if (memcmp(log->bytes, k->committed, needed - SIM_WAL_START) != 0)
		sim_fail(w, "the log of term %llu differs from what is committed", (unsigned long long) term);
}

void
sim_check_elected(sim_compute *c)
{
	sim_world  *w = c->w;
	sim_check  *k = &w->check;
	neon_term	term = c->p.term;
	neon_lsn	start = c->p.term_start;
	const neon_term_history *h = &c->p.history;
	neon_term	before = h->n > 1 ? h->e[h->n - 2].term : 0;
	neon_lsn	last_start = 0;
	neon_lsn	next;
	neon_lsn	prev;
	sim_log    *log;

	if (term >= SIM_MAX_TERMS)
		sim_fail(w, "too many terms");
	log = &k->logs[term];
	if (log->bytes != NULL)
		sim_fail(w, "term %llu has two leaders: compute %d and compute %d", (unsigned long long) term, log->compute, c->index);
	k->elections++;
	log->compute = c->index;
	log->end = start;
	log->bytes = calloc(1, SIM_WAL_BYTES + SIM_RECORD_MAX);
	log->record_end = calloc(1, (SIM_WAL_BYTES + SIM_RECORD_MAX) / 8 + 1);

	/* By log matching, the donor's log is a prefix of the log of its last term. */
	if (before == 0 ? start != SIM_WAL_START : start > k->logs[before].end)
		sim_fail(w, "term %llu starts at %llu, beyond the log of term %llu", (unsigned long long) term,
				 (unsigned long long) start, (unsigned long long) before);
	if (before != 0)
		memcpy(log->bytes, k->logs[before].bytes, start - SIM_WAL_START);
	mark_records(w, log, SIM_WAL_START, start, 0);
	for (neon_lsn at = SIM_WAL_START; at < start && sim_record_at(log->bytes, at, start, &next, &prev); at = next)
		last_start = at;
	if (c->p.last_record_start != last_start)
		sim_fail(w, "term %llu: the last record is said to start at %llu, it starts at %llu", (unsigned long long) term,
				 (unsigned long long) c->p.last_record_start, (unsigned long long) last_start);
	check_has_committed(w, log, term);
}

void
sim_check_written(sim_compute *c, neon_lsn begin, neon_lsn end, neon_lsn last_record_start)
{
	sim_log    *log = &c->w->check.logs[c->p.term];

	if (begin >= end)
		return;
	if (begin != log->end)
		sim_fail(c->w, "the simulated leader of term %llu wrote with a gap", (unsigned long long) c->p.term);
	memcpy(log->bytes + (begin - SIM_WAL_START), c->wal + (begin - SIM_WAL_START), end - begin);
	log->end = end;
	mark_records(c->w, log, begin, end, last_record_start);
}

void
sim_check_committed(sim_compute *c, neon_lsn lsn)
{
	sim_world  *w = c->w;
	sim_check  *k = &w->check;
	sim_log    *log = &k->logs[c->p.term];
	neon_lsn	common;

	k->commits++;
	log->committed = lsn;
	if (lsn <= c->committed)
		sim_fail(w, "commit_lsn of compute %d went from %llu to %llu", c->index,
				 (unsigned long long) c->committed, (unsigned long long) lsn);
	if (!is_record_end(log, lsn))
		sim_fail(w, "commit_lsn %llu is not the end of a record of term %llu", (unsigned long long) lsn,
				 (unsigned long long) c->p.term);
	common = lsn < k->committed_end ? lsn : k->committed_end;
	if (memcmp(log->bytes, k->committed, common - SIM_WAL_START) != 0)
		sim_fail(w, "term %llu commits %llu over other WAL that was committed before", (unsigned long long) c->p.term,
				 (unsigned long long) lsn);
	if (lsn > k->committed_end)
	{
		memcpy(k->committed + (common - SIM_WAL_START), log->bytes + (common - SIM_WAL_START), lsn - common);
		k->committed_end = lsn;
	}
}

void
sim_check_finished(sim_compute *c, neon_lsn x, neon_lsn last_record_start)
{
	if (x > c->w->check.committed_end)
		sim_fail(c->w, "the sync election returned X %llu, but only %llu is committed", (unsigned long long) x,
				 (unsigned long long) c->w->check.committed_end);
}

void
sim_check_truncate(sim_node *n, neon_lsn to)
{
	n->w->check.truncations++;
	if (to < n->acceptor.commit_lsn)
		sim_fail(n->w, "node %d cuts its log to %llu, below its commit_lsn %llu", n->index,
				 (unsigned long long) to, (unsigned long long) n->acceptor.commit_lsn);
	if (to > n->flush_record_lsn)
		sim_fail(n->w, "node %d is told to cut its log to %llu, it ends at %llu", n->index,
				 (unsigned long long) to, (unsigned long long) n->flush_record_lsn);
}

void
sim_check_node(sim_node *n)
{
	sim_world  *w = n->w;
	const neon_acceptor *a = &n->acceptor;
	neon_lsn	flush = n->flush_record_lsn;
	uint32_t	visible = a->history.n;
	neon_term	term;
	const sim_log *log;

	if (!n->up)
		return;
	/* not neon_history_last_term: the checker must not share a fault with what it checks */
	while (visible > 0 && a->history.e[visible - 1].lsn > flush)
		visible--;
	term = visible > 0 ? a->history.e[visible - 1].term : 0;
	log = &w->check.logs[term];
	if (term == 0)
	{
		if (flush != SIM_WAL_START)
			sim_fail(w, "node %d has WAL but no history", n->index);
		return;
	}
	if (log->bytes == NULL || flush > log->end)
		sim_fail(w, "node %d has more WAL (%llu) than the leader of its last term %llu", n->index,
				 (unsigned long long) flush, (unsigned long long) term);
	if (memcmp(log->bytes, n->wal.now, flush - SIM_WAL_START) != 0)
		sim_fail(w, "node %d differs from the log of its last term %llu", n->index, (unsigned long long) term);
	if (!is_record_end(log, flush))
		sim_fail(w, "node %d: flush_lsn %llu is not the end of a record", n->index, (unsigned long long) flush);
	if (a->commit_lsn > w->check.committed_end || a->commit_lsn > flush)
		sim_fail(w, "node %d: commit_lsn %llu is above what is committed", n->index, (unsigned long long) a->commit_lsn);
	if (a->commit_lsn > SIM_WAL_START &&
		memcmp(w->check.committed, n->wal.now, a->commit_lsn - SIM_WAL_START) != 0)
		sim_fail(w, "node %d: its WAL below commit_lsn is not what was committed", n->index);
}
