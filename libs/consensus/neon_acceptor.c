/*
 * neon_acceptor.c - the safekeeper's state machine.
 *
 * Shape of every handler: decode, check against what is durable, ask storage, and only then change memory.  So a
 * storage function that fails or never returns leaves the acceptor as it was.  The one exception is a truncation,
 * which storage begins by forgetting the tail; truncation_pending stands from before it until it is known to be
 * complete, and no append is taken meanwhile.
 *
 * A term is the vote: an acceptor gives its vote once per term, to whoever first asks with a higher term than its
 * own, and the term is durable before the answer is composed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_acceptor.h"

#include "neon_consensus_internal.h"

#include <stdio.h>
#include <string.h>

/* The storage and where the answer goes: what every handler needs. */
typedef struct context
{
	neon_acceptor *a;
	neon_acceptor_session *s;
	const neon_acceptor_storage *io;
	void	   *arg;
	neon_writer *reply;
} context;

bool
neon_acceptor_init(neon_acceptor *a, const neon_acceptor *identity, const neon_acceptor_durable *loaded)
{
	memset(a, 0, sizeof(*a));
	a->tenant = identity->tenant;
	a->timeline = identity->timeline;
	a->node_id = identity->node_id;
	a->system_id = identity->system_id;
	a->wal_segment_bytes = identity->wal_segment_bytes;
	a->pg_version_num = identity->pg_version_num;
	a->timeline_start_lsn = identity->timeline_start_lsn;

	if (a->node_id == 0 || !neon_configuration_valid(loaded->conf) || !neon_history_valid(loaded->history))
		return false;
	/* a history is adopted in its own term or a later one */
	if (loaded->history->n > 0 && loaded->history->e[loaded->history->n - 1].term > loaded->term)
		return false;
	a->conf = *loaded->conf;
	a->term = loaded->term;
	neon_history_copy(&a->history, loaded->history);
	a->commit_lsn = loaded->commit_lsn;
	a->truncate_lsn = loaded->truncate_lsn;
	a->persisted_commit_lsn = loaded->commit_lsn;
	return true;
}

void
neon_acceptor_refuse(const neon_acceptor *a, neon_refusal_reason reason, const char *text, neon_writer *reply)
{
	neon_msg_refusal m;

	memset(&m, 0, sizeof(m));
	m.reason = reason;
	m.term = a->term;
	snprintf(m.text, sizeof(m.text), "%s", text);
	neon_encode_refusal(reply, &m);
}

static neon_acceptor_result
refuse(context *c, neon_refusal_reason reason, const char *text)
{
	neon_acceptor_refuse(c->a, reason, text, c->reply);
	return NEON_ACCEPTOR_REFUSED;
}

static neon_acceptor_result
refuse_lsns(context *c, neon_refusal_reason reason, const char *what, neon_lsn got, neon_lsn expected)
{
	char		text[NEON_CONSENSUS_REASON_BYTES];

	snprintf(text, sizeof(text), "%s: got " NEON_LSN_FMT ", expected " NEON_LSN_FMT,
			 what, NEON_LSN_ARGS(got), NEON_LSN_ARGS(expected));
	return refuse(c, reason, text);
}

/* Persist the acceptor's state with some of it replaced, then replace it in memory.  NULL, 0: as it is. */
static bool
persist(neon_acceptor *a, const neon_acceptor_storage *io, void *arg,
		const neon_configuration *conf, neon_term term, const neon_term_history *history, neon_lsn commit_lsn)
{
	neon_acceptor_durable next;

	next.conf = conf != NULL ? conf : &a->conf;
	next.term = term != 0 ? term : a->term;
	next.history = history != NULL ? history : &a->history;
	next.commit_lsn = neon_max_lsn(commit_lsn, a->commit_lsn);
	next.truncate_lsn = a->truncate_lsn;
#ifdef NEON_BREAK_TERM_AFTER_ANSWER
	if (conf != NULL || history != NULL || term == 0)
#endif
		if (!io->persist_state(arg, &next))
			return false;

	if (conf != NULL)
		a->conf = *conf;
	a->term = next.term;
	if (history != NULL)
		neon_history_copy(&a->history, history);
	a->commit_lsn = next.commit_lsn;
	a->persisted_commit_lsn = next.commit_lsn;
	return true;
}

/* ---- greeting ---- */

static neon_acceptor_result
on_greeting(context *c, const uint8_t *msg, size_t len)
{
	neon_acceptor *a = c->a;
	neon_msg_proposer_greeting m;
	neon_msg_acceptor_greeting answer;

	if (!neon_decode_proposer_greeting(msg, len, &m))
		return refuse(c, NEON_REFUSE_PROTOCOL, "malformed greeting");
	if (m.version != NEON_CONSENSUS_VERSION)
		return refuse(c, NEON_REFUSE_VERSION, "message format version is not supported");
	if (m.pg_version_num / 10000 != a->pg_version_num / 10000)
		return refuse(c, NEON_REFUSE_VERSION, "PostgreSQL major version differs from the timeline's");
	if (!neon_id_equal(&m.tenant, &a->tenant) || !neon_id_equal(&m.timeline, &a->timeline))
		return refuse(c, NEON_REFUSE_IDENTITY, "tenant or timeline is another one");
	if (m.wal_segment_bytes != a->wal_segment_bytes)
		return refuse(c, NEON_REFUSE_IDENTITY, "WAL segment size differs from the timeline's");
	if (m.system_id != 0 && a->system_id != 0 && m.system_id != a->system_id)
		return refuse(c, NEON_REFUSE_IDENTITY, "system identifier differs from the timeline's");

	if (m.conf.generation > a->conf.generation)
	{
		if (!neon_configuration_has(&m.conf, a->node_id))
			return refuse(c, NEON_REFUSE_NOT_MEMBER, "this safekeeper is not in the proposer's configuration");
		if (!persist(a, c->io, c->arg, &m.conf, 0, NULL, 0))
			return NEON_ACCEPTOR_FAILED;
	}
	else if (m.conf.generation == a->conf.generation && m.conf.generation != 0 &&
			 !neon_configuration_equal(&m.conf, &a->conf))
		return refuse(c, NEON_REFUSE_GENERATION, "two configurations have the same generation");

	c->s->greeted = true;
	memset(&answer, 0, sizeof(answer));
	answer.node_id = a->node_id;
	answer.term = a->term;
	answer.timeline_start_lsn = a->timeline_start_lsn;
	answer.conf = a->conf;
	neon_encode_acceptor_greeting(c->reply, &answer);
	return NEON_ACCEPTOR_REPLY;
}

/* ---- vote ---- */

static neon_acceptor_result
on_vote_request(context *c, const uint8_t *msg, size_t len)
{
	neon_acceptor *a = c->a;
	neon_msg_vote_request m;
	neon_msg_vote answer;
	bool		given;

	if (!neon_decode_vote_request(msg, len, &m))
		return refuse(c, NEON_REFUSE_PROTOCOL, "malformed vote request");
	if (neon_other_generation(m.generation, a->conf.generation))
		return refuse(c, NEON_REFUSE_GENERATION, "vote request for another configuration");

	/*
	 * First make durable what is written, so that the vote speaks of all WAL an older leader may still be told about.
	 * (Second defence: append_reply acknowledges nothing once the term has moved.)
	 */
#ifndef NEON_BREAK_VOTE_BEFORE_FLUSH
	if (!c->io->wal_flush(c->arg))
		return NEON_ACCEPTOR_FAILED;
#endif

	given = a->term < m.term;
	if (given && !persist(a, c->io, c->arg, NULL, m.term, NULL, 0))
		return NEON_ACCEPTOR_FAILED;

	memset(&answer, 0, sizeof(answer));
	answer.generation = a->conf.generation;
	answer.term = a->term;
	answer.given = given;
	answer.flush_lsn = c->io->flush_record_lsn(c->arg);
	answer.last_record_start = c->io->last_record_start(c->arg);
	answer.truncate_lsn = a->truncate_lsn;
	answer.commit_lsn = a->commit_lsn;
	answer.timeline_start_lsn = a->timeline_start_lsn;
	answer.history = &a->history;

	/* Committed WAL is missing: this disk forgot what it promised, its vote would be worth nothing. */
	if (a->commit_lsn > answer.flush_lsn)
		return refuse_lsns(c, NEON_REFUSE_STORAGE, "WAL ends below commit_lsn", answer.flush_lsn, a->commit_lsn);
	neon_encode_vote(c->reply, &answer);
	return NEON_ACCEPTOR_REPLY;
}

/* ---- elected ---- */

static bool
history_equal(const neon_term_history *x, const neon_term_history *y)
{
	return x->n == y->n && memcmp(x->e, y->e, x->n * sizeof(neon_term_entry)) == 0;
}

/* Cut the log to `to`, durably; nothing is written before that has worked. */
static bool
truncate_log(context *c, neon_lsn to)
{
	neon_acceptor *a = c->a;

	if (c->io->write_lsn(c->arg) == to && !a->truncation_pending)
		return true;
	a->truncation_pending = true;
	if (!c->io->wal_truncate(c->arg, to))
		return false;
	if (c->io->write_lsn(c->arg) != to || c->io->flush_record_lsn(c->arg) != to)
		return false;
	a->truncation_pending = false;
	return true;
}

/* Where the leader may begin to stream: recomputed from what is here now, because the proposer's view may be old. */
static neon_acceptor_result
check_start(context *c, const neon_msg_elected *m)
{
	neon_acceptor *a = c->a;
	neon_lsn	flush = c->io->flush_record_lsn(c->arg);
	neon_lsn	point;

	switch (neon_history_common(m->history, &a->history, flush, &point))
	{
		case NEON_COMMON_FOUND:
			break;
		case NEON_COMMON_NONE:
			if (point > flush)
				return refuse_lsns(c, NEON_REFUSE_MISMATCH, "the leader's log begins beyond the end of this one",
								   point, flush);
			break;
		case NEON_COMMON_BROKEN:
			return refuse(c, NEON_REFUSE_MISMATCH, "one term begins at different LSNs");
	}
	if (m->start_streaming_at != point)
		return refuse_lsns(c, NEON_REFUSE_MISMATCH, "start of streaming", m->start_streaming_at, point);
	if (point < a->timeline_start_lsn)
		return refuse_lsns(c, NEON_REFUSE_IDENTITY, "the leader's log begins before the timeline",
						   point, a->timeline_start_lsn);
#ifndef NEON_BREAK_HISTORY_NOT_CLIPPED
	if (point > flush)
		return refuse_lsns(c, NEON_REFUSE_MISMATCH, "start of streaming beyond the log", point, flush);
#endif
#ifndef NEON_BREAK_TRUNCATE_BELOW_COMMIT
	if (point < a->commit_lsn)
		return refuse_lsns(c, NEON_REFUSE_COMMITTED, "committed WAL would be truncated", point, a->commit_lsn);
#endif
	return NEON_ACCEPTOR_NOTHING;
}

static neon_acceptor_result
on_elected(context *c, const uint8_t *msg, size_t len)
{
	neon_acceptor *a = c->a;
	neon_msg_elected m;
	neon_acceptor_result checked;

	m.history = &a->scratch;
	if (!neon_decode_elected(msg, len, &m))
		return refuse(c, NEON_REFUSE_PROTOCOL, "malformed announcement of an election");
	if (neon_other_generation(m.generation, a->conf.generation))
		return refuse(c, NEON_REFUSE_GENERATION, "election in another configuration");
	if (m.term < a->term)
		return NEON_ACCEPTOR_NOTHING;	/* the answer to its first append will tell */

	/* The term first: no older leader may append while, or after, its log is cut. */
	if (m.term > a->term && !persist(a, c->io, c->arg, NULL, m.term, NULL, 0))
		return NEON_ACCEPTOR_FAILED;

	checked = check_start(c, &m);
	if (checked != NEON_ACCEPTOR_NOTHING)
		return checked;

	/*
	 * Cut, then adopt.  The other way round, a crash in between would show old WAL under the new leader's history.
	 */
#ifdef NEON_BREAK_ADOPT_BEFORE_TRUNCATE
	if (!persist(a, c->io, c->arg, NULL, 0, m.history, a->timeline_start_lsn))
		return NEON_ACCEPTOR_FAILED;
#endif
	if (!truncate_log(c, m.start_streaming_at))
		return NEON_ACCEPTOR_FAILED;
	if (!history_equal(&a->history, m.history) &&
		!persist(a, c->io, c->arg, NULL, 0, m.history, a->timeline_start_lsn))
		return NEON_ACCEPTOR_FAILED;
	return NEON_ACCEPTOR_NOTHING;
}

/* ---- append ---- */

/* What the leader says is committed is so here as far as our log reaches: our log is a prefix of the leader's. */
static bool
advance_commit(context *c, neon_lsn leader_commit, neon_lsn leader_truncate)
{
	neon_acceptor *a = c->a;
	neon_lsn	commit = neon_min_lsn(leader_commit, c->io->flush_record_lsn(c->arg));
	neon_lsn	term_start = a->history.e[a->history.n - 1].lsn;

	/*
	 * Once a term, commit_lsn is made durable at once: when it reaches the term's start.  A sync election that has
	 * just finished is then remembered by every acceptor it told, also by one that heard of it from a peer before.
	 */
	if (commit >= term_start && a->persisted_commit_lsn < term_start)
	{
		if (!persist(a, c->io, c->arg, NULL, 0, NULL, commit))
			return false;
	}
	a->commit_lsn = neon_max_lsn(a->commit_lsn, commit);
	a->truncate_lsn = neon_max_lsn(a->truncate_lsn, neon_min_lsn(leader_truncate, a->commit_lsn));
	return true;
}

static void
encode_response(context *c, neon_lsn write_lsn, neon_lsn flush_lsn, neon_lsn commit_lsn, neon_term term)
{
	neon_msg_append_response answer;

	memset(&answer, 0, sizeof(answer));
	answer.generation = c->a->conf.generation;
	answer.term = term;
	answer.write_lsn = write_lsn;
	answer.flush_lsn = flush_lsn;
	answer.commit_lsn = commit_lsn;
	neon_encode_append_response(c->reply, &answer);
	c->s->response_due = false;
}

static neon_acceptor_result
on_append(context *c, const uint8_t *msg, size_t len)
{
	neon_acceptor *a = c->a;
	neon_acceptor_session *s = c->s;
	neon_msg_append m;
	const uint8_t *wal;

	if (!neon_decode_append(msg, len, &m, &wal))
		return refuse(c, NEON_REFUSE_PROTOCOL, "malformed append");
	if (neon_other_generation(m.generation, a->conf.generation))
		return refuse(c, NEON_REFUSE_GENERATION, "append in another configuration");
	if (m.term < a->term)
	{
		/* Nothing but the term: it tells the leader that it is none any more. */
		encode_response(c, 0, 0, 0, a->term);
		return NEON_ACCEPTOR_REPLY;
	}
	if (m.term > a->term || a->truncation_pending ||
		a->history.n == 0 || a->history.e[a->history.n - 1].term != m.term)
		return refuse(c, NEON_REFUSE_NOT_ELECTED, "append in a term whose election was not announced here");

	if (m.end_lsn > m.begin_lsn)
	{
		neon_lsn	write_lsn = c->io->write_lsn(c->arg);

#ifdef NEON_BREAK_APPEND_WITH_GAP
		if (m.begin_lsn < write_lsn)
#else
		if (m.begin_lsn != write_lsn)
#endif
			return refuse_lsns(c, NEON_REFUSE_POSITION, "append does not begin at the end of the log",
							   m.begin_lsn, write_lsn);
		if (!c->io->wal_write(c->arg, m.begin_lsn, wal, (size_t) (m.end_lsn - m.begin_lsn)))
			return NEON_ACCEPTOR_FAILED;
	}

	if (s->append_term != m.term)
	{
		s->append_term = m.term;
		s->append_commit_lsn = NEON_LSN_INVALID;
		s->append_truncate_lsn = NEON_LSN_INVALID;
	}
	s->append_commit_lsn = neon_max_lsn(s->append_commit_lsn, m.commit_lsn);
	s->append_truncate_lsn = neon_max_lsn(s->append_truncate_lsn, m.truncate_lsn);
	if (m.quiet)
		return advance_commit(c, m.commit_lsn, m.truncate_lsn) ? NEON_ACCEPTOR_NOTHING : NEON_ACCEPTOR_FAILED;
	s->response_due = true;
	return NEON_ACCEPTOR_FLUSH;
}

static neon_acceptor_result
append_reply(context *c)
{
	neon_acceptor *a = c->a;
	neon_acceptor_session *s = c->s;
	neon_lsn	flush;

	if (!s->response_due)
		return NEON_ACCEPTOR_NOTHING;

	/* Another leader came while we were flushing: an acknowledgement now would count for the wrong term. */
	if (a->term != s->append_term)
	{
#ifndef NEON_BREAK_VOTE_BEFORE_FLUSH
		encode_response(c, 0, 0, 0, a->term);
#else
		encode_response(c, c->io->write_lsn(c->arg), c->io->flush_record_lsn(c->arg), 0, s->append_term);
#endif
		return NEON_ACCEPTOR_REPLY;
	}
	if (!advance_commit(c, s->append_commit_lsn, s->append_truncate_lsn))
		return NEON_ACCEPTOR_FAILED;
	flush = c->io->flush_record_lsn(c->arg);
#ifdef NEON_BREAK_ACK_MID_RECORD
	flush = c->io->write_lsn(c->arg);
#endif
	encode_response(c, c->io->write_lsn(c->arg), flush, a->commit_lsn, a->term);
	return NEON_ACCEPTOR_REPLY;
}

/* ---- entry points ---- */

neon_acceptor_result
neon_acceptor_message(neon_acceptor *a, neon_acceptor_session *s, const neon_acceptor_storage *io, void *io_arg,
					  const uint8_t *msg, size_t len, neon_writer *reply)
{
	context		c = {a, s, io, io_arg, reply};

	if (len == 0)
		return refuse(&c, NEON_REFUSE_PROTOCOL, "empty message");
	if (msg[0] == NEON_MSG_PROPOSER_GREETING)
		return on_greeting(&c, msg, len);
	if (!s->greeted)
		return refuse(&c, NEON_REFUSE_PROTOCOL, "the first message must be a greeting");
	switch (msg[0])
	{
		case NEON_MSG_VOTE_REQUEST:
			return on_vote_request(&c, msg, len);
		case NEON_MSG_ELECTED:
			return on_elected(&c, msg, len);
		case NEON_MSG_APPEND:
			return on_append(&c, msg, len);
		default:
			return refuse(&c, NEON_REFUSE_PROTOCOL, "unknown message");
	}
}

neon_acceptor_result
neon_acceptor_flush_and_reply(neon_acceptor *a, neon_acceptor_session *s, const neon_acceptor_storage *io,
							  void *io_arg, neon_writer *reply)
{
	context		c = {a, s, io, io_arg, reply};

	if (!s->response_due)
		return NEON_ACCEPTOR_NOTHING;
	if (!io->wal_flush(io_arg))
		return NEON_ACCEPTOR_FAILED;
	return append_reply(&c);
}

neon_acceptor_result
neon_acceptor_append_reply(neon_acceptor *a, neon_acceptor_session *s, const neon_acceptor_storage *io,
						   void *io_arg, neon_writer *reply)
{
	context		c = {a, s, io, io_arg, reply};

	return append_reply(&c);
}

bool
neon_acceptor_switch_configuration(neon_acceptor *a, const neon_acceptor_storage *io, void *io_arg,
								   const neon_configuration *conf, const char **why_not)
{
	if (!neon_configuration_valid(conf))
		*why_not = "the configuration is not valid";
	else if (conf->generation < a->conf.generation)
		*why_not = "a newer configuration is in force";
	else if (conf->generation == a->conf.generation)
	{
		if (neon_configuration_equal(conf, &a->conf))
			return true;
		*why_not = "another configuration with this generation is in force";
	}
	else if (!neon_configuration_has(conf, a->node_id))
		*why_not = "this safekeeper is not a member of it";
	else if (!persist(a, io, io_arg, conf, 0, NULL, 0))
		*why_not = "it could not be made durable";
	else
		return true;
	return false;
}

bool
neon_acceptor_raise_term(neon_acceptor *a, const neon_acceptor_storage *io, void *io_arg, neon_term term)
{
	return term <= a->term || persist(a, io, io_arg, NULL, term, NULL, 0);
}

bool
neon_acceptor_checkpoint(neon_acceptor *a, const neon_acceptor_storage *io, void *io_arg)
{
	return persist(a, io, io_arg, NULL, 0, NULL, 0);
}

neon_peer_verdict
neon_acceptor_learn_commit(neon_acceptor *a, const neon_acceptor_storage *io, void *io_arg, const neon_peer_claim *p)
{
	neon_lsn	commit_lsn;
	neon_peer_verdict verdict = neon_peer_commit(a, io->flush_record_lsn(io_arg), p, &commit_lsn);

	if (verdict == NEON_PEER_BELIEVED)
		a->commit_lsn = commit_lsn;
	return verdict;
}

neon_term
neon_acceptor_last_log_term(const neon_acceptor *a, const neon_acceptor_storage *io, void *io_arg)
{
	return neon_history_last_term(&a->history, io->flush_record_lsn(io_arg));
}

bool
neon_acceptor_serves_term(const neon_acceptor *a, neon_term term)
{
	return a->term == term && !a->truncation_pending &&
		a->history.n > 0 && a->history.e[a->history.n - 1].term == term;
}
