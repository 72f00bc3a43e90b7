/*
 * neon_peer.c - what a peer says is committed: whether it is so in the log that is here.  Pure: looks, and decides.
 *
 * A claim (last_log_term t, commit_lsn c) of a peer means: "the log of the leader of term t begins with [.., c), and that is committed".
 * Once true it is true for ever: the log of a term only grows, committed WAL never changes.  So a claim may come late, twice, out of order or
 * never; but its two halves must have been read commit_lsn first, so that t names a log that c is in.
 *
 * Invariant: commit_lsn here is taken from a claim only if the last term of the log here, clipped to what is durable, is t as well, and only
 * as far as the log here reaches.  Then by log matching both logs are prefixes of one log, the leader's of t, and everything below
 * min(c, flush_lsn here) is the same, byte for byte, in both: committed there is committed here.
 *
 * Nothing less will do.  A log that ends in an older term may end in a tail that the leaders after it threw away, though it is as long as c.  One
 * that ends in a newer term has c in it if c was committed, but only a leader's election knows that for certain.  A term that this history
 * has adopted without WAL of it is not the log's last one: the log is a prefix of that term's, but its own end is told by an older name.
 * Both wait for the next proposer, which tells: what a peer says saves time, never anything else.
 *
 * Claims of another timeline, of nobody's member, of ourselves, and those that contradict themselves are not looked at further.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_acceptor.h"

#include "neon_consensus_internal.h"

static bool
contradicts_itself(const neon_acceptor *a, const neon_peer_claim *p)
{
	return p->last_log_term == 0 || p->last_log_term > p->term || p->term > NEON_CONSENSUS_MAX_NUMBER ||
		p->commit_lsn < a->timeline_start_lsn || p->commit_lsn > p->flush_lsn;
}

neon_peer_verdict
neon_peer_commit(const neon_acceptor *a, neon_lsn flush_record_lsn, const neon_peer_claim *p, neon_lsn *commit_lsn)
{
	neon_term	ours = neon_history_last_term(&a->history, flush_record_lsn);

	*commit_lsn = a->commit_lsn;
	if (!neon_id_equal(&p->tenant, &a->tenant) || !neon_id_equal(&p->timeline, &a->timeline) ||
		p->node_id == a->node_id || !neon_configuration_has(&a->conf, p->node_id))
		return NEON_PEER_NOT_OURS;
	if (p->commit_lsn == NEON_LSN_INVALID)
		return NEON_PEER_NOTHING_NEW;
	if (contradicts_itself(a, p))
		return NEON_PEER_GARBAGE;
	/* a cut that has not ended well, a disk that forgot: this log's end proves nothing */
	if (a->truncation_pending || a->commit_lsn > flush_record_lsn)
		return NEON_PEER_OTHER_HISTORY;
#ifndef NEON_BREAK_PEER_WITHOUT_HISTORY
	if (p->last_log_term != ours)
		return NEON_PEER_OTHER_HISTORY;
#else
	(void) ours;
#endif
	if (neon_min_lsn(p->commit_lsn, flush_record_lsn) <= a->commit_lsn)
		return NEON_PEER_NOTHING_NEW;
	*commit_lsn = neon_min_lsn(p->commit_lsn, flush_record_lsn);
	return NEON_PEER_BELIEVED;
}
