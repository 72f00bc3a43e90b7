/*
 * neon_proposer_stream.c - the elected proposer: bring every acceptor to our log, count acknowledgements, commit.
 *
 * An acceptor's acknowledgement is the end of its log in our term: it answers appends only after it has adopted our
 * history, so that its log is a prefix of ours.  A vote says nothing of that kind and never counts as one.
 *
 * Commit rule (figure 8 of the Raft paper): WAL of earlier terms is committed only together with the beginning of
 * our own.  A majority that holds old WAL without our term could still be outvoted by one longer old log.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_proposer_internal.h"

#include <stdio.h>
#include <string.h>

#define MAX_RECORD_BYTES	(UINT32_C(1) << 30)

/* How far WAL can be sent: below expected_start_lsn from a donor, above it what is flushed locally. */
static neon_lsn
stream_limit(const neon_proposer *p)
{
	if (p->config.mode == NEON_PROPOSER_SYNC)
		return p->term_start;
	return neon_max_lsn(p->config.expected_start_lsn, p->available_lsn);
}

/*
 * May an acceptor have WAL up to here?  It may be ahead of what can be sent, by the zeroes at the end of one record:
 * an acceptor that restarts scans a pre-zeroed file, where a record that ends in zeroes is complete, checksum and
 * all, before its last bytes were sent.  The longest such end is the fill after a segment switch.
 */
static bool
plausible_end(const neon_proposer *p, neon_lsn lsn)
{
	neon_lsn	limit = stream_limit(p);

	return lsn <= limit || lsn - limit <= (neon_lsn) MAX_RECORD_BYTES + p->config.wal_segment_bytes;
}

static neon_msg_append
make_append(const neon_proposer *p, neon_lsn begin, neon_lsn end, bool quiet)
{
	neon_msg_append m;

	memset(&m, 0, sizeof(m));
	m.generation = p->conf.generation;
	m.term = p->term;
	m.begin_lsn = begin;
	m.end_lsn = end;
	m.commit_lsn = p->commit_lsn;
	m.truncate_lsn = p->truncate_lsn;
	m.quiet = quiet;
	return m;
}

static void
send_heartbeat(neon_proposer *p, int i, bool quiet)
{
	neon_proposer_peer *peer = &p->peers[i];
	neon_msg_append m = make_append(p, peer->sent_lsn, peer->sent_lsn, quiet);

	peer->commit_sent_lsn = p->commit_lsn;
	(void) p->out->send_append(p->out_arg, i, &m, true);
}

/* Send what acceptor i lacks, as far as its window and the driver allow. */
static void
pump(neon_proposer *p, int i)
{
	neon_proposer_peer *peer = &p->peers[i];
	neon_lsn	limit = stream_limit(p);
	neon_lsn	border = p->config.mode == NEON_PROPOSER_NORMAL ? p->config.expected_start_lsn : NEON_LSN_MAX;

	while (peer->state == NEON_PEER_STREAMING && peer->sent_lsn < limit)
	{
		neon_lsn	window_end = peer->write_lsn + p->config.max_inflight_bytes;
		neon_lsn	end = neon_min_lsn(limit, peer->sent_lsn + p->config.max_append_bytes);
		neon_msg_append m;

		if (peer->sent_lsn >= window_end)
			break;
		end = neon_min_lsn(end, window_end);
		if (peer->sent_lsn < border)
			end = neon_min_lsn(end, border);
		m = make_append(p, peer->sent_lsn, end, false);
		if (!p->out->send_append(p->out_arg, i, &m, peer->sent_lsn >= border))
			break;
		peer->sent_lsn = end;
		peer->commit_sent_lsn = p->commit_lsn;
	}
}

static void
send_elected(neon_proposer *p, int i, neon_lsn start)
{
	neon_msg_elected m;
	neon_writer w;

	memset(&m, 0, sizeof(m));
	m.generation = p->conf.generation;
	m.term = p->term;
	m.start_streaming_at = start;
	m.history = &p->history;
	neon_writer_init(&w, p->buf, sizeof(p->buf));
	neon_encode_elected(&w, &m);
	p->out->send(p->out_arg, i, p->buf, w.len);
}

void
neon_proposer_announce(neon_proposer *p, int i)
{
	neon_proposer_peer *peer = &p->peers[i];
	neon_lsn	start;
	neon_common_result common = neon_history_common(&p->history, &peer->vote_history, peer->vote_flush_lsn, &start);
	char		detail[160];

	/*
	 * One acceptor that contradicts the rest is left alone; the others may be a quorum.  It may be damaged, or a former
	 * member that was added again without being made anew.
	 */
#ifdef NEON_BREAK_TRUNCATE_BELOW_COMMIT
	peer->vote_commit_lsn = peer->flush_lsn = NEON_LSN_INVALID;
#endif
	if (common == NEON_COMMON_BROKEN || (common == NEON_COMMON_FOUND && start < peer->vote_commit_lsn))
	{
		snprintf(detail, sizeof(detail), "its log contradicts ours: they part at " NEON_LSN_FMT
				 ", its commit_lsn is " NEON_LSN_FMT, NEON_LSN_ARGS(start), NEON_LSN_ARGS(peer->vote_commit_lsn));
		neon_proposer_drop(p, i, detail);
		return;
	}
	if (common == NEON_COMMON_NONE && start > peer->vote_flush_lsn)
	{
		neon_proposer_drop(p, i, "its log ends before ours begins: it must recover from a peer");
		return;
	}
	if (start < peer->flush_lsn)
	{
		neon_proposer_drop(p, i, "it lost WAL it had acknowledged");
		return;
	}

	peer->state = NEON_PEER_STREAMING;
	peer->start_lsn = start;
	peer->sent_lsn = start;
	peer->write_lsn = start;
	peer->commit_lsn = NEON_LSN_INVALID;
	peer->commit_sent_lsn = NEON_LSN_INVALID;
	peer->answered = false;
	send_elected(p, i, start);
	send_heartbeat(p, i, false);	/* its answer says that our history is adopted: even without WAL to send it counts */
	pump(p, i);
}

/* ---- commit ---- */

/* What a member counts for.  An end that we ourselves do not have yet does not count before we have it. */
static neon_lsn
member_flush(const neon_proposer *p, uint64_t node_id)
{
	int			i = neon_proposer_find(p, node_id);

	if (i < 0)
		return NEON_LSN_INVALID;
	return p->peers[i].ahead_lsn <= stream_limit(p) ?
		neon_max_lsn(p->peers[i].flush_lsn, p->peers[i].ahead_lsn) : p->peers[i].flush_lsn;
}

/* The highest LSN that a majority of one list of members has, in our term. */
static neon_lsn
majority_lsn(const neon_proposer *p, const uint64_t *ids, uint32_t n)
{
	neon_lsn	sorted[NEON_CONSENSUS_MAX_MEMBERS];

	for (uint32_t m = 0; m < n; m++)
	{
		neon_lsn	lsn = member_flush(p, ids[m]);
		uint32_t	at = m;

#ifndef NEON_BREAK_COMMIT_WITHOUT_FIGURE8
		if (lsn < p->term_start)
			lsn = NEON_LSN_INVALID;
#endif
		for (; at > 0 && sorted[at - 1] > lsn; at--)
			sorted[at] = sorted[at - 1];
		sorted[at] = lsn;
	}
	return sorted[n - (n / 2 + 1)];
}

/* Every member has everything below. */
static neon_lsn
everybody_lsn(const neon_proposer *p)
{
	neon_lsn	lsn = p->commit_lsn;

	for (uint32_t m = 0; m < p->conf.n_members; m++)
		lsn = neon_min_lsn(lsn, member_flush(p, p->conf.members[m]));
	for (uint32_t m = 0; m < p->conf.n_new_members; m++)
		lsn = neon_min_lsn(lsn, member_flush(p, p->conf.new_members[m]));
	return lsn;
}

/* The same for the configuration; with a joint one, both lists must have it. */
static neon_lsn
quorum_lsn(const neon_proposer *p)
{
	neon_lsn	lsn = majority_lsn(p, p->conf.members, p->conf.n_members);

#ifdef NEON_BREAK_JOINT_QUORUM
	return lsn;
#endif
	if (p->conf.n_new_members > 0)
		lsn = neon_min_lsn(lsn, majority_lsn(p, p->conf.new_members, p->conf.n_new_members));
	return lsn;
}

static void
update_commit(neon_proposer *p)
{
	neon_lsn	commit = quorum_lsn(p);

	if (commit > p->commit_lsn)
	{
		p->commit_lsn = commit;
		p->out->committed(p->out_arg, commit);
	}
	p->truncate_lsn = neon_max_lsn(p->truncate_lsn, everybody_lsn(p));
}

/*
 * Readers of WAL wait for commit_lsn at the acceptors: tell those at once that have no append underway that says it.
 * SYNC wants to hear that they know.
 */
static void
tell_commit(neon_proposer *p)
{
	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
		if (p->peers[i].state == NEON_PEER_STREAMING && p->peers[i].answered &&
			p->peers[i].commit_sent_lsn < p->commit_lsn)
			send_heartbeat(p, (int) i, p->config.mode == NEON_PROPOSER_NORMAL);
}

void
neon_proposer_check_finished(neon_proposer *p)
{
	if (!neon_proposer_sync_committed(p) || p->phase != NEON_PHASE_ELECTED)
		return;
	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
	{
		const neon_proposer_peer *peer = &p->peers[i];

		if (peer->state != NEON_PEER_OFFLINE && peer->state != NEON_PEER_OUTSIDE && peer->commit_lsn < p->term_start)
			return;
	}
	p->phase = NEON_PHASE_FINISHED;
	p->out->finished(p->out_arg, p->term_start, p->last_record_start);
}

void
neon_proposer_on_response(neon_proposer *p, int i, const uint8_t *bytes, size_t len)
{
	neon_proposer_peer *peer = &p->peers[i];
	neon_msg_append_response m;

	if (!neon_decode_append_response(bytes, len, &m))
	{
		neon_proposer_drop(p, i, "malformed response to an append");
		return;
	}
	p->max_term_seen = neon_max_lsn(p->max_term_seen, m.term);
	if (m.term > p->term && p->phase == NEON_PHASE_ELECTED)
	{
		neon_proposer_die(p, NEON_FATAL_NEWER_PROPOSER, "an append was answered with a higher term");
		return;
	}
	if (m.term != p->term || neon_other_generation(m.generation, p->conf.generation) || peer->state != NEON_PEER_STREAMING)
	{
		neon_proposer_drop(p, i, "unexpected response to an append");
		return;
	}
	if (!plausible_end(p, m.flush_lsn))
	{
		neon_proposer_die(p, NEON_FATAL_CORRUPT, "a safekeeper acknowledged WAL that does not exist");
		return;
	}

	peer->answered = true;
	if (m.flush_lsn > stream_limit(p))
		peer->ahead_lsn = m.flush_lsn;
	else
		peer->flush_lsn = neon_max_lsn(peer->flush_lsn, m.flush_lsn);
	peer->commit_lsn = neon_max_lsn(peer->commit_lsn, m.commit_lsn);
	update_commit(p);
	if (m.write_lsn > peer->sent_lsn)
	{
		/* An older connection of ours still delivered: the same bytes, but our position is off. */
		neon_proposer_drop(p, i, "the safekeeper is ahead of this connection");
	}
	else
	{
		peer->write_lsn = neon_max_lsn(peer->write_lsn, m.write_lsn);
		pump(p, i);
	}
	if (p->phase == NEON_PHASE_ELECTED)
		tell_commit(p);
	neon_proposer_check_finished(p);
}

/* ---- inputs ---- */

void
neon_proposer_wal_available(neon_proposer *p, neon_lsn upto)
{
	bool		ahead = false;

	if (upto <= p->available_lsn)
		return;
	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
		ahead |= p->peers[i].ahead_lsn > p->available_lsn && p->peers[i].ahead_lsn <= upto;
	p->available_lsn = upto;
	if (p->phase != NEON_PHASE_ELECTED)
		return;
	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
		pump(p, (int) i);
	if (ahead)
	{
		update_commit(p);
		tell_commit(p);
	}
}

void
neon_proposer_poke(neon_proposer *p, int i)
{
	if (p->phase == NEON_PHASE_ELECTED)
		pump(p, i);
}

void
neon_proposer_heartbeat(neon_proposer *p)
{
	if (p->phase == NEON_PHASE_COLLECT)
		neon_proposer_greet_again(p);
	if (p->phase != NEON_PHASE_ELECTED)
		return;
	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
	{
		if (p->peers[i].state != NEON_PEER_STREAMING)
			continue;
		pump(p, (int) i);
		if (p->peers[i].state == NEON_PEER_STREAMING)
			send_heartbeat(p, (int) i, false);
	}
}

/* ---- questions ---- */

int
neon_proposer_donor(const neon_proposer *p, neon_lsn end_lsn)
{
	int			found = -1;

	if (p->phase != NEON_PHASE_ELECTED)
		return -1;
	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
	{
		const neon_proposer_peer *peer = &p->peers[i];

		/* an answer in our term: it adopted our history, so that what it has is our log */
		if (peer->state == NEON_PEER_STREAMING && peer->answered && peer->flush_lsn >= end_lsn &&
			(found < 0 || (int) i == p->donor))
			found = (int) i;
	}
	return found;
}

bool
neon_proposer_sync_committed(const neon_proposer *p)
{
	/* not commit_lsn: that may come from an earlier term, and X must be committed with our own term's beginning */
	return p->config.mode == NEON_PROPOSER_SYNC && p->phase == NEON_PHASE_ELECTED && quorum_lsn(p) >= p->term_start;
}
