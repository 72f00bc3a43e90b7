/*
 * sim_compute.c - a compute of the simulation: what the walproposer's driver does, with a simulated network.
 *
 * Its life is the real one: a sync election gives X, then (the base backup) a pause, then an election that must
 * start at X, then WAL.  Local WAL becomes available in raw pieces that end anywhere.  WAL below X is read from a
 * donor, asynchronously.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

static const neon_proposer_output output;

static void
must_live(const sim_compute *c, const char *what)
{
	if (c->stage != SIM_SYNC && c->stage != SIM_RUN)
		sim_fail(c->w, "compute %d: output '%s' after its end", c->index, what);
}

/* ---- connections ---- */

static void
connect_to(void *arg, uint64_t i, uint64_t epoch)
{
	sim_compute *c = arg;

	if (epoch != c->epoch || c->conn[i] != NULL)
		return;
	c->conn[i] = neon_sim_connect(c->w->net, SIM_COMPUTE_NODE(c->index), (int) i);
	neon_sim_conn_set_arg(c->conn[i], 0, (void *) (uintptr_t) i);
}

static void
connect_later(sim_compute *c, int i)
{
	neon_sim_after(c->w->sim, neon_sim_between(c->w->sim, 5000, 300000), connect_to, c, (uint64_t) i, c->epoch);
}

static void
close_all(sim_compute *c)
{
	c->epoch++;
	for (int i = 0; i < c->w->n_nodes; i++)
	{
		if (c->conn[i] != NULL)
			neon_sim_close(c->conn[i], 0);
		c->conn[i] = NULL;
		c->fetch[i].underway = false;
		c->fetch[i].ready = false;
	}
}

void
sim_compute_connected(sim_compute *c, neon_sim_conn *conn)
{
	int			i = (int) (uintptr_t) neon_sim_conn_arg(conn, 0);

	if (c->conn[i] == conn)
		neon_proposer_connected(&c->p, i);
}

void
sim_compute_message(sim_compute *c, neon_sim_conn *conn, const uint8_t *bytes, size_t len)
{
	int			i = (int) (uintptr_t) neon_sim_conn_arg(conn, 0);

	if (c->conn[i] == conn)
		neon_proposer_message(&c->p, i, bytes, len);
}

void
sim_compute_closed(sim_compute *c, neon_sim_conn *conn)
{
	int			i = (int) (uintptr_t) neon_sim_conn_arg(conn, 0);

	if (c->conn[i] != conn)
		return;
	c->conn[i] = NULL;
	connect_later(c, i);
	neon_proposer_disconnected(&c->p, i);
}

/* ---- outputs of the proposer ---- */

static void
out_send(void *arg, int i, const uint8_t *bytes, size_t len)
{
	sim_compute *c = arg;

	must_live(c, "send");
	if (c->conn[i] != NULL)
		neon_sim_send(c->conn[i], 0, bytes, len);
}

static void
fetch_done(void *arg, uint64_t packed, uint64_t epoch)
{
	sim_compute *c = arg;
	int			i = (int) (packed & 0xff);
	int			donor = (int) (packed >> 8);
	sim_fetch  *f = &c->fetch[i];
	const sim_log *log = &c->w->check.logs[c->p.term];
	const uint8_t *bytes;

	if (epoch != c->epoch)
		return;
	f->underway = false;
	if (neon_sim_net_blocked(c->w->net, SIM_COMPUTE_NODE(c->index), donor))
		return;
	bytes = sim_node_read(c->w->nodes[donor], c->p.term, f->begin, f->end);
	if (bytes == NULL)
		return;
	if (f->end > log->end || memcmp(bytes, log->bytes + (f->begin - SIM_WAL_START), f->end - f->begin) != 0)
		sim_fail(c->w, "donor %d served WAL that is not of the log of term %llu", donor, (unsigned long long) c->p.term);
	memcpy(f->bytes, bytes, f->end - f->begin);
	f->ready = true;
	neon_proposer_poke(&c->p, i);
}

/* WAL below X: ask a donor for exactly this range; true once it has come. */
static const uint8_t *
donated(sim_compute *c, int i, const neon_msg_append *h)
{
	sim_fetch  *f = &c->fetch[i];
	int			donor;

	if (f->ready && f->begin == h->begin_lsn && f->end >= h->end_lsn)
	{
		f->ready = false;
		return f->bytes;
	}
	donor = neon_proposer_donor(&c->p, h->end_lsn);
	if (f->underway || donor < 0)
		return NULL;
	f->underway = true;
	f->ready = false;
	f->begin = h->begin_lsn;
	f->end = h->end_lsn;
	neon_sim_after(c->w->sim, neon_sim_between(c->w->sim, 200, c->w->tails ? 20000 : 5000), fetch_done, c,
				   (uint64_t) i | (uint64_t) donor << 8, c->epoch);
	return NULL;
}

static bool
out_send_append(void *arg, int i, const neon_msg_append *h, bool local)
{
	static uint8_t buf[NEON_CONSENSUS_APPEND_HEADER_BYTES + NEON_CONSENSUS_MAX_APPEND_BYTES];
	sim_compute *c = arg;
	neon_writer w;
	size_t		len = (size_t) (h->end_lsn - h->begin_lsn);

	must_live(c, "send_append");
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_append(&w, h);
	if (len > 0)
	{
		const uint8_t *from = local ? c->wal + (h->begin_lsn - SIM_WAL_START) : donated(c, i, h);

		if (local && (c->stage != SIM_RUN || h->begin_lsn < c->x || h->end_lsn > c->available))
			sim_fail(c->w, "compute %d is asked for WAL it does not have", c->index);
		if (!local && c->stage == SIM_RUN && h->end_lsn > c->x)
			sim_fail(c->w, "compute %d asks a donor for its own WAL", c->index);
		if (from == NULL)
			return false;
		neon_put_bytes(&w, from, len);
	}
	if (c->conn[i] != NULL)
		neon_sim_send(c->conn[i], 0, w.buf, w.len);
	return true;
}

static void
out_disconnect(void *arg, int i, const char *why)
{
	sim_compute *c = arg;

	must_live(c, "disconnect");
	neon_sim_trace(c->w->sim, "compute %d: drops node %d: %s", c->index, i, why);
	if (strncmp(why, "its log contradicts", 19) == 0 || strncmp(why, "it lost WAL", 11) == 0)
		sim_fail(c->w, "compute %d, node %d: %s", c->index, i, why);
	if (c->conn[i] != NULL)
		neon_sim_close(c->conn[i], 0);
	c->conn[i] = NULL;
	connect_later(c, i);
}

static void
out_elected(void *arg, neon_term term, neon_lsn term_start, int donor, neon_lsn last_record_start)
{
	sim_compute *c = arg;

	must_live(c, "elected");
	neon_sim_trace(c->w->sim, "compute %d: elected (%s) in term %llu at %llu, donor node %d, commit %llu", c->index,
				   c->stage == SIM_SYNC ? "sync" : "run", (unsigned long long) term,
				   (unsigned long long) term_start, donor, (unsigned long long) c->p.commit_lsn);
	sim_check_elected(c);
	if (c->stage == SIM_RUN)
		sim_check_written(c, term_start, c->record_end, last_record_start);
	c->won_term = term;
}

static void
out_committed(void *arg, neon_lsn commit_lsn)
{
	sim_compute *c = arg;

	must_live(c, "committed");
	neon_sim_trace(c->w->sim, "compute %d: commit %llu in term %llu", c->index,
				   (unsigned long long) commit_lsn, (unsigned long long) c->p.term);
	sim_check_committed(c, commit_lsn);
	c->committed = commit_lsn;
}

static void
begin_run(void *arg, uint64_t unused, uint64_t epoch);

static void
take_x(sim_compute *c, neon_lsn x, neon_lsn last_record_start)
{
	neon_sim_trace(c->w->sim, "compute %d: X is %llu", c->index, (unsigned long long) x);
	sim_check_finished(c, x, last_record_start);
	close_all(c);
	c->stage = SIM_BACKUP;
	c->won_term = 0;
	c->x = x;
	c->record_end = x;
	c->available = x;
	c->last_record_start = last_record_start;
	neon_sim_after(c->w->sim, neon_sim_between(c->w->sim, 1000, 100000), begin_run, c, 0, c->epoch);
}

static void
out_finished(void *arg, neon_lsn x, neon_lsn last_record_start)
{
	sim_compute *c = arg;

	must_live(c, "finished");
	take_x(c, x, last_record_start);
}

static void
start_again(void *arg, uint64_t unused, uint64_t epoch);

static void
out_fatal(void *arg, neon_proposer_fatal reason, const char *detail)
{
	sim_compute *c = arg;

	must_live(c, "fatal");
	neon_sim_trace(c->w->sim, "compute %d: fatal: %s: %s", c->index, neon_proposer_fatal_text(reason), detail);
	if (reason == NEON_FATAL_HISTORY_FULL && NEON_CONSENSUS_MAX_HISTORY > 100)
		sim_fail(c->w, "compute %d: the history is full", c->index);
	if (reason == NEON_FATAL_IDENTITY || reason == NEON_FATAL_CORRUPT)
		sim_fail(c->w, "compute %d: %s: %s", c->index, neon_proposer_fatal_text(reason), detail);
	if (reason == NEON_FATAL_CONFIGURATION && (c->stage == SIM_SYNC || c->won_term != 0))
	{
		close_all(c);
		neon_sim_after(c->w->sim, 1000, start_again, c, 0, c->epoch);
		return;
	}
	sim_compute_kill(c, "fatal");
}

static const neon_proposer_output output = {
	out_send, out_send_append, out_disconnect, out_elected, out_committed, out_finished, out_fatal
};

/* ---- stages ---- */

static void
tick(void *arg, uint64_t phase, uint64_t epoch)
{
	sim_compute *c = arg;
	uint64_t	now = neon_sim_now_us(c->w->sim);

	if (epoch != c->epoch)
		return;
	if (c->p.phase != phase)
		c->phase_since_us = now;
	phase = c->p.phase;
	neon_sim_after(c->w->sim, neon_sim_between(c->w->sim, 40000, 60000), tick, c, phase, epoch);

	if (phase == NEON_PHASE_CAMPAIGN && now - c->phase_since_us > 200000 && neon_sim_below(c->w->sim, 10) == 0)
		neon_proposer_retry_campaign(&c->p);
	else if (++c->ticks % 4 == 0)
		neon_proposer_heartbeat(&c->p);
	if (c->epoch == epoch && c->stage == SIM_SYNC && neon_proposer_sync_committed(&c->p) && now - c->phase_since_us > 2000000)
		take_x(c, c->p.term_start, c->p.last_record_start);
}

static void
start_proposer(sim_compute *c, neon_term previous_term)
{
	sim_world  *w = c->w;
	neon_proposer_config config;

	close_all(c);
	memset(&config, 0, sizeof(config));
	config.mode = c->stage == SIM_SYNC ? NEON_PROPOSER_SYNC : NEON_PROPOSER_NORMAL;
	config.wal_segment_bytes = SIM_SEGMENT_BYTES;
	config.pg_version_num = 150004;
	config.n_acceptors = (uint32_t) w->n_nodes;
	for (int i = 0; i < w->n_nodes; i++)
		config.acceptor_ids[i] = (uint64_t) i + 1;
	config.expected_start_lsn = c->x;
	config.previous_term = previous_term;
	config.max_append_bytes = SIM_APPEND_BYTES;
	config.max_inflight_bytes = SIM_INFLIGHT_BYTES;
	if (!neon_proposer_init(&c->p, &config, &output, c))
		sim_fail(w, "the proposer does not start");
	c->committed = 0;
	c->phase_since_us = neon_sim_now_us(w->sim);
	neon_proposer_wal_available(&c->p, c->available);
	for (int i = 0; i < w->n_nodes; i++)
		connect_to(c, (uint64_t) i, c->epoch);
	tick(c, NEON_PHASE_COLLECT, c->epoch);
}

/* The same server, another proposer: it knows which term it won. */
static void
start_again(void *arg, uint64_t unused, uint64_t epoch)
{
	sim_compute *c = arg;

	if (epoch == c->epoch)
		start_proposer(c, c->stage == SIM_RUN ? c->won_term : 0);
}

/* One more record, or some more raw bytes of what is there. */
static void
write_wal(void *arg, uint64_t unused, uint64_t life)
{
	sim_compute *c = arg;
	neon_sim   *sim = c->w->sim;

	if (c->stage != SIM_RUN)
		return;
	if (c->record_end < c->w->write_limit)
	{
		neon_lsn	begin = c->record_end;
		size_t		len = sim_record_make(sim, begin, c->last_record_start,
										  (uint32_t) c->index, c->wal + (begin - SIM_WAL_START));

		c->record_end = begin + len;
		if (c->p.phase == NEON_PHASE_ELECTED)
			sim_check_written(c, begin, c->record_end, c->last_record_start);
		c->last_record_start = begin;
	}
	if (neon_sim_below(sim, 3) == 0)
		c->available = neon_sim_between(sim, c->available, c->record_end);
	else
		c->available = c->record_end;
	neon_sim_after(sim, neon_sim_between(sim, 500, neon_sim_chance(sim, 500) ? 500000 : 20000), write_wal, c, 0, 0);
	neon_proposer_wal_available(&c->p, c->available);
}

static void
begin_run(void *arg, uint64_t unused, uint64_t epoch)
{
	sim_compute *c = arg;

	if (epoch != c->epoch || c->stage != SIM_BACKUP)
		return;
	c->stage = SIM_RUN;
	start_proposer(c, 0);
	write_wal(c, 0, 0);
}

void
sim_compute_start(sim_world *w)
{
	sim_compute *c;

	if (w->n_computes == SIM_MAX_COMPUTES)
		return;
	c = calloc(1, sizeof(*c));
	c->w = w;
	c->index = w->n_computes;
	w->computes[w->n_computes++] = c;
	c->stage = SIM_SYNC;
	neon_sim_trace(w->sim, "compute %d: starts", c->index);
	start_proposer(c, 0);
}

void
sim_compute_kill(sim_compute *c, const char *why)
{
	if (c->stage == SIM_DEAD)
		return;
	neon_sim_trace(c->w->sim, "compute %d: ends (%s)", c->index, why);
	close_all(c);
	c->stage = SIM_DEAD;
}

void
sim_compute_restart_proposer(sim_compute *c)
{
	if (c->stage != SIM_RUN || c->won_term == 0)
		return;
	neon_sim_trace(c->w->sim, "compute %d: its proposer starts again", c->index);
	start_proposer(c, c->won_term);
}
