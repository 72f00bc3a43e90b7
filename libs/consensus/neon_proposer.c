/*
 * neon_proposer.c - the compute's state machine, from the first greeting to the election.
 *
 *	COLLECT --quorum greeted--> CAMPAIGN --quorum voted--> ELECTED [--X committed--> FINISHED, in SYNC]
 *
 * Before the campaign the newest configuration any acceptor knows is adopted, and acceptors that are behind are
 * greeted again with it.  A newer one that appears later ends this proposer (the driver starts another), because
 * votes and acknowledgements of two configurations must not be added up.
 *
 * The log of the term is the log of the voter with the highest (last term, end of log): the donor.  Whatever any
 * earlier leader committed is in it, since that quorum and this one share an acceptor.
 *
 * A full history.  Each start of a compute adds two terms, and a history is bounded.  When it is full, entries
 * are thinned out whose absence nobody can notice: entries without WAL (they become visible together with the next
 * one), and those that end below truncate_lsn.  Every member has the WAL up to there, hence the entry of the last byte
 * before truncate_lsn, which stays, is common to all.  The first one stays, too: an empty log begins there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_proposer_internal.h"

#include <stdio.h>
#include <string.h>

const char *
neon_proposer_fatal_text(neon_proposer_fatal f)
{
	switch (f)
	{
		case NEON_FATAL_NEWER_PROPOSER:
			return "a newer proposer exists";
		case NEON_FATAL_OTHER_WROTE:
			return "the log does not end where this server began";
		case NEON_FATAL_CONFIGURATION:
			return "the configuration of safekeepers changed";
		case NEON_FATAL_IDENTITY:
			return "a safekeeper knows another timeline or version";
		case NEON_FATAL_CORRUPT:
			return "a safekeeper contradicts the others";
		case NEON_FATAL_HISTORY_FULL:
			return "the history of terms is full";
	}
	return "unknown reason";
}

bool
neon_proposer_init(neon_proposer *p, const neon_proposer_config *config,
				   const neon_proposer_output *out, void *out_arg)
{
	memset(p, 0, sizeof(*p));
	p->config = *config;
	p->out = out;
	p->out_arg = out_arg;
	p->conf = config->conf;
	p->donor = -1;
	if (p->config.max_append_bytes == 0)
		p->config.max_append_bytes = NEON_PROPOSER_APPEND_BYTES_DEFAULT;
	if (p->config.max_inflight_bytes == 0)
		p->config.max_inflight_bytes = NEON_PROPOSER_INFLIGHT_BYTES_DEFAULT;

	if (config->n_acceptors == 0 || config->n_acceptors > NEON_CONSENSUS_MAX_MEMBERS ||
		p->config.max_append_bytes > NEON_CONSENSUS_MAX_APPEND_BYTES)
		return false;
	if (config->mode == NEON_PROPOSER_NORMAL && config->expected_start_lsn == NEON_LSN_INVALID)
		return false;
	if (p->conf.generation == 0 && p->conf.n_members == 0)
	{
		p->conf.n_members = config->n_acceptors;
		memcpy(p->conf.members, config->acceptor_ids, config->n_acceptors * sizeof(uint64_t));
	}
	for (uint32_t i = 0; i < config->n_acceptors; i++)
	{
		if (config->acceptor_ids[i] == 0 || neon_proposer_find(p, config->acceptor_ids[i]) >= 0)
			return false;
		p->peers[i].node_id = config->acceptor_ids[i];
	}
	return neon_configuration_valid(&p->conf);
}

int
neon_proposer_find(const neon_proposer *p, uint64_t node_id)
{
	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
		if (p->peers[i].node_id == node_id)
			return (int) i;
	return -1;
}

static bool
over(const neon_proposer *p)
{
	return p->phase == NEON_PHASE_DEAD || p->phase == NEON_PHASE_FINISHED;
}

void
neon_proposer_die(neon_proposer *p, neon_proposer_fatal reason, const char *detail)
{
	if (over(p))
		return;
	p->phase = NEON_PHASE_DEAD;
	p->out->fatal(p->out_arg, reason, detail);
}

/* Give up this connection; the driver makes another. */
void
neon_proposer_drop(neon_proposer *p, int i, const char *why)
{
	p->peers[i].state = NEON_PEER_OFFLINE;
	p->out->disconnect(p->out_arg, i, why);
	neon_proposer_check_finished(p);
}

/* Does the set of peers in `mask` hold a majority of one list of members? */
static bool
majority(const neon_proposer *p, const uint64_t *ids, uint32_t n, uint32_t mask)
{
	uint32_t	count = 0;

	for (uint32_t m = 0; m < n; m++)
	{
		int			i = neon_proposer_find(p, ids[m]);

		if (i >= 0 && (mask & (UINT32_C(1) << i)) != 0)
			count++;
	}
	return count >= n / 2 + 1;
}

static bool
quorum(const neon_proposer *p, uint32_t mask)
{
#ifdef NEON_BREAK_JOINT_QUORUM
	return majority(p, p->conf.members, p->conf.n_members, mask);
#endif
	return majority(p, p->conf.members, p->conf.n_members, mask) &&
		(p->conf.n_new_members == 0 || majority(p, p->conf.new_members, p->conf.n_new_members, mask));
}

/* ---- greetings and the campaign ---- */

static void
send_greeting(neon_proposer *p, int i)
{
	neon_msg_proposer_greeting m;
	neon_writer w;

	memset(&m, 0, sizeof(m));
	m.version = NEON_CONSENSUS_VERSION;
	m.tenant = p->config.tenant;
	m.timeline = p->config.timeline;
	m.system_id = p->config.system_id;
	m.wal_segment_bytes = p->config.wal_segment_bytes;
	m.pg_version_num = p->config.pg_version_num;
	m.conf = p->conf;
	p->peers[i].state = NEON_PEER_GREETING;
	p->peers[i].greeted_generation = p->conf.generation;
	neon_writer_init(&w, p->buf, sizeof(p->buf));
	neon_encode_proposer_greeting(&w, &m);
	p->out->send(p->out_arg, i, p->buf, w.len);
}

static void
send_vote_request(neon_proposer *p, int i)
{
	neon_msg_vote_request m = {p->conf.generation, p->term};
	neon_writer w;

	p->peers[i].state = NEON_PEER_VOTING;
	neon_writer_init(&w, p->buf, sizeof(p->buf));
	neon_encode_vote_request(&w, &m);
	p->out->send(p->out_arg, i, p->buf, w.len);
}

static void
campaign(neon_proposer *p)
{
	p->phase = NEON_PHASE_CAMPAIGN;
	p->term = p->max_term_seen + 1;
	p->max_term_seen = p->term;
	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
		if (neon_peer_campaigns(&p->peers[i]))
			send_vote_request(p, (int) i);
}

static void
campaign_if_quorum(neon_proposer *p)
{
	uint32_t	mask = 0;

	if (p->phase != NEON_PHASE_COLLECT)
		return;
	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
		if (p->peers[i].state == NEON_PEER_GREETED)
			mask |= UINT32_C(1) << i;
	if (quorum(p, mask))
		campaign(p);
}

/*
 * While a quorum is missing, the configuration may change under us, even so that those who are here are a quorum of the
 * next one.
 */
void
neon_proposer_greet_again(neon_proposer *p)
{
	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
		if (p->peers[i].state == NEON_PEER_GREETED || p->peers[i].state == NEON_PEER_OUTSIDE)
			send_greeting(p, (int) i);
}

/* An acceptor knows a newer configuration: take it, and greet those again that agreed to the old one. */
static void
adopt_configuration(neon_proposer *p, const neon_configuration *conf)
{
	if (p->phase != NEON_PHASE_COLLECT)
	{
		neon_proposer_die(p, NEON_FATAL_CONFIGURATION, "a safekeeper has a newer configuration");
		return;
	}
	p->conf = *conf;
	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
		if (p->peers[i].state == NEON_PEER_GREETED || p->peers[i].state == NEON_PEER_OUTSIDE)
			send_greeting(p, (int) i);
}

static void
on_greeting(neon_proposer *p, int i, const uint8_t *bytes, size_t len)
{
	neon_proposer_peer *peer = &p->peers[i];
	neon_msg_acceptor_greeting m;

	if (!neon_decode_acceptor_greeting(bytes, len, &m))
	{
		neon_proposer_drop(p, i, "malformed greeting");
		return;
	}
	if (m.node_id != peer->node_id)
	{
		neon_proposer_drop(p, i, "another node answers at this address");
		return;
	}
	if (p->config.timeline_start_lsn != NEON_LSN_INVALID && m.timeline_start_lsn != p->config.timeline_start_lsn)
	{
		neon_proposer_drop(p, i, "the safekeeper's timeline begins at another LSN");
		return;
	}
	peer->timeline_start_lsn = m.timeline_start_lsn;
	p->max_term_seen = neon_max_lsn(p->max_term_seen, m.term);
	if (m.term > p->term && p->phase == NEON_PHASE_ELECTED)
	{
		neon_proposer_die(p, NEON_FATAL_NEWER_PROPOSER, "a safekeeper greeted with a higher term");
		return;
	}

	if (m.conf.generation > p->conf.generation)
	{
		adopt_configuration(p, &m.conf);
		if (p->phase == NEON_PHASE_DEAD)
			return;
	}
	else if (m.conf.generation < p->conf.generation)
	{
		/* the answer to a greeting that is already outdated is followed by another answer */
		if (peer->greeted_generation < p->conf.generation)
			send_greeting(p, i);
		return;
	}
	if (peer->state != NEON_PEER_GREETING)
		return;
	if (!neon_configuration_has(&p->conf, peer->node_id))
	{
		peer->state = NEON_PEER_OUTSIDE;
		neon_proposer_check_finished(p);
		return;
	}
	peer->state = NEON_PEER_GREETED;
	if (p->phase == NEON_PHASE_COLLECT)
		campaign_if_quorum(p);
	else
		send_vote_request(p, i);	/* at our term: late voter, or only to learn its history */
}

/* ---- votes ---- */

static neon_term
vote_last_term(const neon_proposer_peer *peer)
{
	return peer->vote_history.n > 0 ? peer->vote_history.e[peer->vote_history.n - 1].term : 0;
}

static int
choose_donor(const neon_proposer *p)
{
	int			best = -1;

	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
	{
		const neon_proposer_peer *peer = &p->peers[i];

		if (peer->voted_term != p->term)
			continue;
		if (best < 0 ||
			vote_last_term(peer) > vote_last_term(&p->peers[best]) ||
			(vote_last_term(peer) == vote_last_term(&p->peers[best]) &&
			 peer->vote_flush_lsn > p->peers[best].vote_flush_lsn))
			best = (int) i;
	}
	return best;
}

/* See "A full history" above.  term_start: where the entry of our own term is going to be added. */
static void
thin_history(neon_term_history *h, neon_lsn truncate_lsn, neon_lsn term_start)
{
	uint32_t	kept = 1;

	for (uint32_t i = 1; i < h->n; i++)
	{
		neon_lsn	next = i + 1 < h->n ? h->e[i + 1].lsn : term_start;

		if (next == h->e[i].lsn || next < truncate_lsn)
			continue;
		h->e[kept++] = h->e[i];
	}
	h->n = kept;
}

/*
 * Up to where do the logs of all members agree with the donor's?  False while a member's vote is missing.  What all
 * agree on stays so under any later leader: truncate_lsn by other means, when no leader comes to compute it.
 */
static bool
all_agree_upto(const neon_proposer *p, neon_lsn *lsn)
{
	const neon_configuration *c = &p->conf;

	*lsn = p->term_start;
	for (uint32_t m = 0; m < c->n_members + c->n_new_members; m++)
	{
		int			i = neon_proposer_find(p, m < c->n_members ? c->members[m] : c->new_members[m - c->n_members]);
		neon_lsn	point;

		if (i < 0 || p->peers[i].voted_term != p->term)
			return false;
		if (neon_history_common(&p->peers[p->donor].vote_history, &p->peers[i].vote_history,
								p->peers[i].vote_flush_lsn, &point) != NEON_COMMON_FOUND)
			return false;
		*lsn = neon_min_lsn(*lsn, point);
	}
	return true;
}

/* The log of our term: the donor's, and from its end on ours.  False: not now, or never. */
static bool
make_history(neon_proposer *p)
{
	/* the last place is kept for SYNC: it brings laggards forward, so that entries become superfluous */
	uint32_t	room = NEON_CONSENSUS_MAX_HISTORY - (p->config.mode == NEON_PROPOSER_SYNC ? 1 : 2);
	neon_lsn	agreed;

	neon_history_copy(&p->history, &p->peers[p->donor].vote_history);
	if (p->history.n > room)
		thin_history(&p->history, p->truncate_lsn, p->term_start);
	if (p->history.n > room)
	{
		if (!all_agree_upto(p, &agreed))
			return false;		/* some member's vote is missing: stay in the campaign until it comes */
		thin_history(&p->history, agreed, p->term_start);
	}
	if (p->history.n > room)
	{
		neon_proposer_die(p, NEON_FATAL_HISTORY_FULL, "too many terms that a safekeeper has not caught up with");
		return false;
	}
	p->history.e[p->history.n].term = p->term;
	p->history.e[p->history.n].lsn = p->term_start;
	p->history.n++;
	return true;
}

/* NORMAL: the log must end where this server began to write, or in its own earlier writing. */
static bool
start_is_expected(const neon_proposer *p, neon_term donor_last_term)
{
	if (p->config.mode == NEON_PROPOSER_SYNC || p->term_start == p->config.expected_start_lsn)
		return true;
	return p->config.previous_term != 0 && donor_last_term == p->config.previous_term &&
		p->term_start > p->config.expected_start_lsn;
}

static void
become_elected(neon_proposer *p)
{
	const neon_proposer_peer *donor;
	char		detail[120];

	p->donor = choose_donor(p);
	donor = &p->peers[p->donor];
	p->term_start = donor->vote_flush_lsn;
	p->last_record_start = donor->vote_last_record_start;
	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
	{
		if (p->peers[i].voted_term != p->term)
			continue;
		p->commit_lsn = neon_max_lsn(p->commit_lsn, p->peers[i].vote_commit_lsn);
		p->truncate_lsn = neon_max_lsn(p->truncate_lsn, p->peers[i].vote_truncate_lsn);
	}
	if (p->term_start == NEON_LSN_INVALID || p->commit_lsn > p->term_start)
	{
		snprintf(detail, sizeof(detail), "commit_lsn " NEON_LSN_FMT " is above the end of every log, " NEON_LSN_FMT,
				 NEON_LSN_ARGS(p->commit_lsn), NEON_LSN_ARGS(p->term_start));
		neon_proposer_die(p, NEON_FATAL_CORRUPT, detail);
		return;
	}
	if (!start_is_expected(p, vote_last_term(donor)))
	{
		snprintf(detail, sizeof(detail), "the log ends at " NEON_LSN_FMT ", this server began at " NEON_LSN_FMT,
				 NEON_LSN_ARGS(p->term_start), NEON_LSN_ARGS(p->config.expected_start_lsn));
		neon_proposer_die(p, NEON_FATAL_OTHER_WROTE, detail);
		return;
	}
	if (!make_history(p))
		return;

	p->phase = NEON_PHASE_ELECTED;
	p->out->elected(p->out_arg, p->term, p->term_start, p->donor, p->last_record_start);
	for (uint32_t i = 0; i < p->config.n_acceptors && p->phase == NEON_PHASE_ELECTED; i++)
		if (p->peers[i].state == NEON_PEER_VOTED)
			neon_proposer_announce(p, (int) i);
}

static void
elect_if_quorum(neon_proposer *p)
{
	uint32_t	mask = 0;

	for (uint32_t i = 0; i < p->config.n_acceptors; i++)
		if (p->peers[i].voted_term == p->term)
			mask |= UINT32_C(1) << i;

	/*
	 * An acceptor that has moved on to a higher term would never take our WAL: rather campaign again above it, when
	 * the driver's random pause is over, than rule without it.
	 */
	if (p->max_term_seen == p->term && quorum(p, mask))
		become_elected(p);
}

static void
on_vote(neon_proposer *p, int i, const uint8_t *bytes, size_t len)
{
	neon_proposer_peer *peer = &p->peers[i];
	neon_msg_vote m;

	m.history = &p->scratch;
	if (!neon_decode_vote(bytes, len, &m) || neon_other_generation(m.generation, p->conf.generation))
	{
		neon_proposer_drop(p, i, "malformed vote");
		return;
	}
	p->max_term_seen = neon_max_lsn(p->max_term_seen, m.term);
	if (m.term > p->term)
	{
		peer->refused_term = p->term;
		if (peer->state == NEON_PEER_VOTING)
			peer->state = NEON_PEER_GREETED;
		if (p->phase == NEON_PHASE_ELECTED)
			neon_proposer_die(p, NEON_FATAL_NEWER_PROPOSER, "a safekeeper has voted in a higher term");
		return;
	}
	if (m.term < p->term || peer->state != NEON_PEER_VOTING)
		return;					/* the answer to an earlier campaign; ours follows */

	peer->state = NEON_PEER_VOTED;
	peer->vote_flush_lsn = m.flush_lsn;
	peer->vote_last_record_start = m.last_record_start;
	peer->vote_truncate_lsn = m.truncate_lsn;
	peer->vote_commit_lsn = m.commit_lsn;
	neon_history_copy(&peer->vote_history, m.history);
	if (m.given)
		peer->voted_term = p->term;
	else if (peer->voted_term != p->term)
		peer->refused_term = p->term;

	if (p->phase == NEON_PHASE_CAMPAIGN)
		elect_if_quorum(p);
	else if (p->phase == NEON_PHASE_ELECTED)
		neon_proposer_announce(p, i);
}

static void
on_refusal(neon_proposer *p, int i, const uint8_t *bytes, size_t len)
{
	neon_msg_refusal m;

	if (!neon_decode_refusal(bytes, len, &m))
	{
		neon_proposer_drop(p, i, "malformed refusal");
		return;
	}
	p->max_term_seen = neon_max_lsn(p->max_term_seen, m.term);
	if (m.term > p->term && p->phase == NEON_PHASE_ELECTED)
		neon_proposer_die(p, NEON_FATAL_NEWER_PROPOSER, m.text);
	else if (m.reason == NEON_REFUSE_COMMITTED)
		neon_proposer_die(p, NEON_FATAL_CORRUPT, m.text);
	else if ((m.reason == NEON_REFUSE_VERSION || m.reason == NEON_REFUSE_IDENTITY) && p->phase != NEON_PHASE_ELECTED)
		neon_proposer_die(p, NEON_FATAL_IDENTITY, m.text);
	else
		neon_proposer_drop(p, i, m.text);
}

/* ---- inputs ---- */

void
neon_proposer_connected(neon_proposer *p, int i)
{
	if (over(p))
		return;
	send_greeting(p, i);
}

void
neon_proposer_disconnected(neon_proposer *p, int i)
{
	if (over(p))
		return;
	p->peers[i].state = NEON_PEER_OFFLINE;
	neon_proposer_check_finished(p);
}

void
neon_proposer_message(neon_proposer *p, int i, const uint8_t *bytes, size_t len)
{
	if (over(p) || p->peers[i].state == NEON_PEER_OFFLINE)
		return;
	switch (len > 0 ? bytes[0] : 0)
	{
		case NEON_MSG_ACCEPTOR_GREETING:
			on_greeting(p, i, bytes, len);
			break;
		case NEON_MSG_VOTE:
			on_vote(p, i, bytes, len);
			break;
		case NEON_MSG_APPEND_RESPONSE:
			neon_proposer_on_response(p, i, bytes, len);
			break;
		case NEON_MSG_REFUSAL:
			on_refusal(p, i, bytes, len);
			break;
		default:
			neon_proposer_drop(p, i, "unknown message");
	}
}

void
neon_proposer_retry_campaign(neon_proposer *p)
{
	if (p->phase == NEON_PHASE_CAMPAIGN)
		campaign(p);
}
