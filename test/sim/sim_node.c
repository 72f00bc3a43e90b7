/*
 * sim_node.c - a safekeeper of the simulation: the acceptor, its life and death, several connections at once.
 *
 * Appends are flushed later, by an event of their own, so that votes and elections of other connections come in
 * between.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

typedef struct session
{
	sim_node   *node;
	uint64_t	incarnation;
	neon_sim_conn *conn;
	neon_acceptor_session s;
	bool		flush_scheduled;
	bool		open;
	struct session *next;
} session;

/* ---- life ---- */

void
sim_node_init(sim_node *n, sim_world *w, int index, const neon_configuration *conf)
{
	memset(n, 0, sizeof(*n));
	n->w = w;
	n->index = index;
	n->conf = *conf;
	n->exists = neon_configuration_has(conf, (uint64_t) index + 1);
	neon_sim_disk_init(&n->wal, w->sim, SIM_WAL_BYTES + 2 * SIM_RECORD_MAX);
}

void
sim_node_free(sim_node *n)
{
	neon_sim_disk_free(&n->wal);
	while (n->sessions != NULL)
	{
		session    *s = n->sessions;

		n->sessions = s->next;
		free(s);
	}
}

void
sim_node_start(sim_node *n)
{
	neon_acceptor_durable loaded = {&n->conf, n->term, &n->history, n->commit_lsn, n->truncate_lsn};
	neon_acceptor *identity = calloc(1, sizeof(*identity));
	bool		ok;

	if (n->up || !n->exists)
	{
		free(identity);
		return;
	}
	identity->node_id = (uint64_t) n->index + 1;
	identity->wal_segment_bytes = SIM_SEGMENT_BYTES;
	identity->pg_version_num = 150000;
	identity->timeline_start_lsn = SIM_WAL_START;
	ok = neon_acceptor_init(&n->acceptor, identity, &loaded);
	free(identity);
	if (!ok)
		sim_fail(n->w, "node %d cannot load its own state", n->index);

	/* The end of WAL is found by scanning; what follows it is durably removed (rule 2). */
	sim_storage_position(n, SIM_WAL_END + SIM_RECORD_MAX);
	neon_sim_disk_write(&n->wal, n->write_lsn - SIM_WAL_START, NULL, n->wal.bytes - (n->write_lsn - SIM_WAL_START));
	neon_sim_disk_sync(&n->wal);
	n->up = true;
	n->crash_now = false;
	n->incarnation++;
	neon_sim_trace(n->w->sim, "node %d: starts, term %llu, %u terms in history, flush %llu, commit %llu", n->index,
				   (unsigned long long) n->term, n->history.n, (unsigned long long) n->flush_record_lsn,
				   (unsigned long long) n->commit_lsn);
	sim_check_node(n);
}

static void
start_again(void *arg, uint64_t a, uint64_t b)
{
	sim_node_start(arg);
}

void
sim_node_crash(sim_node *n, const char *why)
{
	uint64_t	pause_ms = neon_sim_between(n->w->sim, n->w->restart_low_ms, n->w->restart_low_ms +
											(neon_sim_chance(n->w->sim, 3000) ? 3000 : 100));

	if (!n->up)
		return;
	neon_sim_trace(n->w->sim, "node %d: crashes (%s), write %llu, flush %llu", n->index, why,
				   (unsigned long long) n->write_lsn, (unsigned long long) n->flush_record_lsn);
	n->w->check.torn += n->write_lsn != n->flush_record_lsn;
	n->up = false;
	n->incarnation++;
	neon_sim_disk_crash(&n->wal);
	neon_sim_net_node_died(n->w->net, n->index);
	neon_sim_after(n->w->sim, pause_ms * 1000, start_again, n, 0, 0);
}

bool
sim_node_accept(sim_node *n, neon_sim_conn *conn)
{
	session    *s;

	if (!n->up)
		return false;
	s = calloc(1, sizeof(*s));
	s->node = n;
	s->incarnation = n->incarnation;
	s->conn = conn;
	s->open = true;
	s->next = n->sessions;
	n->sessions = s;
	neon_sim_conn_set_arg(conn, 1, s);
	return true;
}

/* Whatever the acceptor answered. */
static void
after(session *s, neon_acceptor_result result, const neon_writer *reply)
{
	sim_node   *n = s->node;

	if (n->crash_now)
	{
		sim_node_crash(n, "in storage");
		return;
	}
	if (result == NEON_ACCEPTOR_REPLY || result == NEON_ACCEPTOR_REFUSED)
	{
		if (!reply->ok)
			sim_fail(n->w, "a reply did not fit");
		neon_sim_send(s->conn, 1, reply->buf, reply->len);
	}
	if (result == NEON_ACCEPTOR_REFUSED)
	{
		neon_msg_refusal m;

		if (neon_decode_refusal(reply->buf, reply->len, &m))
			neon_sim_trace(n->w->sim, "node %d: refuses compute %d: %s", n->index,
						   neon_sim_conn_node(s->conn, 0) - SIM_MAX_ACCEPTORS, m.text);
		if (m.reason == NEON_REFUSE_COMMITTED)
			sim_fail(n->w, "node %d was asked to cut committed WAL: %s", n->index, m.text);
		if (m.reason == NEON_REFUSE_STORAGE)
			sim_fail(n->w, "node %d lost committed WAL: %s", n->index, m.text);
	}
	if (result == NEON_ACCEPTOR_REFUSED || result == NEON_ACCEPTOR_FAILED)
	{
		s->open = false;
		neon_sim_close(s->conn, 1);
	}
	sim_check_node(n);
}

static void
flush_later(void *arg, uint64_t a, uint64_t b)
{
	session    *s = arg;
	uint8_t		buf[256];
	neon_writer reply;
	neon_acceptor_result result;

	s->flush_scheduled = false;
	if (!s->node->up || s->incarnation != s->node->incarnation || !s->open)
		return;
	neon_writer_init(&reply, buf, sizeof(buf));
	result = neon_acceptor_flush_and_reply(&s->node->acceptor, &s->s, &sim_storage, s->node, &reply);
	after(s, result, &reply);
}

static void
story(sim_node *n, const uint8_t *bytes, size_t len, int compute)
{
	neon_msg_vote_request v;

	if (bytes[0] == NEON_MSG_VOTE_REQUEST && neon_decode_vote_request(bytes, len, &v))
		neon_sim_trace(n->w->sim, "node %d: compute %d asks for its vote in term %llu (own term %llu, flush %llu, write %llu)",
					   n->index, compute, (unsigned long long) v.term, (unsigned long long) n->acceptor.term,
					   (unsigned long long) n->flush_record_lsn, (unsigned long long) n->write_lsn);
	else if (bytes[0] == NEON_MSG_ELECTED)
		neon_sim_trace(n->w->sim, "node %d: compute %d says it is elected (own term %llu, flush %llu, write %llu)",
					   n->index, compute, (unsigned long long) n->acceptor.term,
					   (unsigned long long) n->flush_record_lsn, (unsigned long long) n->write_lsn);
}

void
sim_node_message(sim_node *n, neon_sim_conn *conn, const uint8_t *bytes, size_t len)
{
	static uint8_t buf[NEON_CONSENSUS_MAX_CONTROL_BYTES];
	session    *s = neon_sim_conn_arg(conn, 1);
	neon_writer reply;
	neon_acceptor_result result;

	if (!n->up || s->incarnation != n->incarnation || !s->open)
		return;
	if (len > 0)
		story(n, bytes, len, neon_sim_conn_node(conn, 0) - SIM_MAX_ACCEPTORS);
	neon_writer_init(&reply, buf, sizeof(buf));
	result = neon_acceptor_message(&n->acceptor, &s->s, &sim_storage, n, bytes, len, &reply);
	if (result == NEON_ACCEPTOR_FLUSH && !s->flush_scheduled)
	{
		s->flush_scheduled = true;
		neon_sim_after(n->w->sim, neon_sim_between(n->w->sim, 0, neon_sim_chance(n->w->sim, 500) ? 50000 : 1000),
					   flush_later, s, 0, 0);
	}
	after(s, result, &reply);
}

void
sim_node_closed(sim_node *n, neon_sim_conn *conn)
{
	session    *s = neon_sim_conn_arg(conn, 1);

	s->open = false;
}

bool
sim_node_configure(sim_node *n, const neon_configuration *conf)
{
	const char *why = NULL;
	bool		ok;

	if (!n->up)
		return false;
	if (n->acceptor.conf.generation > conf->generation)
		return true;
	ok = neon_acceptor_switch_configuration(&n->acceptor, &sim_storage, n, conf, &why);
	if (n->crash_now)
		sim_node_crash(n, "in storage");
	return ok;
}

bool
sim_node_raise_term(sim_node *n, neon_term term)
{
	bool		ok = n->up && neon_acceptor_raise_term(&n->acceptor, &sim_storage, n, term);

	if (n->crash_now)
		sim_node_crash(n, "in storage");
	return ok;
}

/* The copy appears at once, as a directory that is renamed into place does.  Its own old vote is not forgotten. */
bool
sim_node_pull(sim_node *n, const sim_node *from, const neon_configuration *conf, neon_term term)
{
	size_t		len = from->flush_record_lsn - SIM_WAL_START;

	/* what stands below a cut that has not ended well is sound, too */
	if (!from->up)
		return false;
	if (n->up)
		sim_node_crash(n, "replaced by a copy");
	n->exists = true;
	n->conf = *conf;
	n->history = from->acceptor.history;
	n->commit_lsn = from->acceptor.commit_lsn;
	n->truncate_lsn = from->acceptor.truncate_lsn;
	if (n->term < from->acceptor.term)
		n->term = from->acceptor.term;
	if (n->term < term)
		n->term = term;
	neon_sim_disk_write(&n->wal, 0, from->wal.now, len);
	neon_sim_disk_write(&n->wal, len, NULL, n->wal.bytes - len);
	neon_sim_disk_sync(&n->wal);
	neon_sim_trace(n->w->sim, "node %d: becomes a copy of node %d up to %llu", n->index, from->index,
				   (unsigned long long) from->flush_record_lsn);
	sim_node_start(n);
	return true;
}

const uint8_t *
sim_node_read(sim_node *n, neon_term term, neon_lsn begin, neon_lsn end)
{
	if (!n->up || !neon_acceptor_serves_term(&n->acceptor, term) || n->flush_record_lsn < end)
		return NULL;
	return n->wal.now + (begin - SIM_WAL_START);
}
