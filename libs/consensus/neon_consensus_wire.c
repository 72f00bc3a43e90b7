/*
 * neon_consensus_wire.c - encoding and decoding of the messages between proposer and acceptors.
 *
 * Layouts are those of the structs, field by field, after the tag.  Every decoder ends with done(): no read went
 * past the end, and no byte is left over.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_consensus_internal.h"

#include <string.h>

const char *
neon_refusal_text(neon_refusal_reason r)
{
	switch (r)
	{
		case NEON_REFUSE_PROTOCOL:
			return "protocol violation";
		case NEON_REFUSE_VERSION:
			return "version not supported";
		case NEON_REFUSE_IDENTITY:
			return "identity does not match";
		case NEON_REFUSE_NOT_MEMBER:
			return "not a member of the configuration";
		case NEON_REFUSE_GENERATION:
			return "configuration generation does not match";
		case NEON_REFUSE_NOT_ELECTED:
			return "append before election";
		case NEON_REFUSE_MISMATCH:
			return "start of streaming is not where the logs part";
		case NEON_REFUSE_COMMITTED:
			return "committed WAL would be truncated";
		case NEON_REFUSE_POSITION:
			return "append does not begin at the end of the log";
		case NEON_REFUSE_NO_SPACE:
			return "no space left";
		case NEON_REFUSE_STORAGE:
			return "storage failure";
	}
	return "unknown reason";
}

static void
put_id(neon_writer *w, const neon_id *id)
{
	neon_put_bytes(w, id->b, NEON_ID_BYTES);
}

/* A flag is 0 or 1; anything else is damage. */
static bool
get_bool(neon_reader *r)
{
	uint8_t		v = neon_get_u8(r);

	if (v > 1)
		r->ok = false;
	return v == 1;
}

static bool
begin(neon_reader *r, const uint8_t *p, size_t len, neon_consensus_tag tag)
{
	neon_reader_init(r, p, len);
	return neon_get_u8(r) == tag && r->ok;
}

static bool
done(const neon_reader *r)
{
	return r->ok && neon_reader_left(r) == 0;
}

void
neon_encode_proposer_greeting(neon_writer *w, const neon_msg_proposer_greeting *m)
{
	neon_put_u8(w, NEON_MSG_PROPOSER_GREETING);
	neon_put_u32(w, m->version);
	put_id(w, &m->tenant);
	put_id(w, &m->timeline);
	neon_put_u64(w, m->system_id);
	neon_put_u32(w, m->wal_segment_bytes);
	neon_put_u32(w, m->pg_version_num);
	neon_put_configuration(w, &m->conf);
}

/* A greeting of another version decodes as far as its version, so that the answer can say so. */
bool
neon_decode_proposer_greeting(const uint8_t *p, size_t len, neon_msg_proposer_greeting *m)
{
	neon_reader r;

	memset(m, 0, sizeof(*m));
	if (!begin(&r, p, len, NEON_MSG_PROPOSER_GREETING))
		return false;
	m->version = neon_get_u32(&r);
	if (r.ok && m->version != NEON_CONSENSUS_VERSION)
		return true;
	neon_get_copy(&r, m->tenant.b, NEON_ID_BYTES);
	neon_get_copy(&r, m->timeline.b, NEON_ID_BYTES);
	m->system_id = neon_get_u64(&r);
	m->wal_segment_bytes = neon_get_u32(&r);
	m->pg_version_num = neon_get_u32(&r);
	return neon_get_configuration(&r, &m->conf) && done(&r);
}

void
neon_encode_acceptor_greeting(neon_writer *w, const neon_msg_acceptor_greeting *m)
{
	neon_put_u8(w, NEON_MSG_ACCEPTOR_GREETING);
	neon_put_u64(w, m->node_id);
	neon_put_u64(w, m->term);
	neon_put_u64(w, m->timeline_start_lsn);
	neon_put_configuration(w, &m->conf);
}

bool
neon_decode_acceptor_greeting(const uint8_t *p, size_t len, neon_msg_acceptor_greeting *m)
{
	neon_reader r;

	memset(m, 0, sizeof(*m));
	if (!begin(&r, p, len, NEON_MSG_ACCEPTOR_GREETING))
		return false;
	m->node_id = neon_get_u64(&r);
	m->term = neon_get_u64(&r);
	m->timeline_start_lsn = neon_get_u64(&r);
	return neon_get_configuration(&r, &m->conf) && done(&r);
}

void
neon_encode_vote_request(neon_writer *w, const neon_msg_vote_request *m)
{
	neon_put_u8(w, NEON_MSG_VOTE_REQUEST);
	neon_put_u32(w, m->generation);
	neon_put_u64(w, m->term);
}

bool
neon_decode_vote_request(const uint8_t *p, size_t len, neon_msg_vote_request *m)
{
	neon_reader r;

	memset(m, 0, sizeof(*m));
	if (!begin(&r, p, len, NEON_MSG_VOTE_REQUEST))
		return false;
	m->generation = neon_get_u32(&r);
	m->term = neon_get_u64(&r);
	return done(&r) && m->term > 0 && m->term <= NEON_CONSENSUS_MAX_NUMBER;
}

void
neon_encode_vote(neon_writer *w, const neon_msg_vote *m)
{
	neon_put_u8(w, NEON_MSG_VOTE);
	neon_put_u32(w, m->generation);
	neon_put_u64(w, m->term);
	neon_put_u8(w, m->given ? 1 : 0);
	neon_put_u64(w, m->flush_lsn);
	neon_put_u64(w, m->last_record_start);
	neon_put_u64(w, m->truncate_lsn);
	neon_put_u64(w, m->commit_lsn);
	neon_put_u64(w, m->timeline_start_lsn);
	neon_put_history(w, m->history, neon_history_visible(m->history, m->flush_lsn));
}

bool
neon_decode_vote(const uint8_t *p, size_t len, neon_msg_vote *m)
{
	neon_term_history *history = m->history;
	neon_reader r;

	memset(m, 0, sizeof(*m));
	m->history = history;
	history->n = 0;
	if (!begin(&r, p, len, NEON_MSG_VOTE))
		return false;
	m->generation = neon_get_u32(&r);
	m->term = neon_get_u64(&r);
	m->given = get_bool(&r);
	m->flush_lsn = neon_get_u64(&r);
	m->last_record_start = neon_get_u64(&r);
	m->truncate_lsn = neon_get_u64(&r);
	m->commit_lsn = neon_get_u64(&r);
	m->timeline_start_lsn = neon_get_u64(&r);
	if (!neon_get_history(&r, history) || !done(&r))
		return false;

	/* what is shown must be there */
	return history->n == neon_history_visible(history, m->flush_lsn) &&
		(history->n == 0 || history->e[history->n - 1].term <= m->term) &&
		m->commit_lsn <= m->flush_lsn &&
		(m->last_record_start < m->flush_lsn || m->last_record_start == 0);
}

void
neon_encode_elected(neon_writer *w, const neon_msg_elected *m)
{
	neon_put_u8(w, NEON_MSG_ELECTED);
	neon_put_u32(w, m->generation);
	neon_put_u64(w, m->term);
	neon_put_u64(w, m->start_streaming_at);
	neon_put_history(w, m->history, m->history->n);
}

bool
neon_decode_elected(const uint8_t *p, size_t len, neon_msg_elected *m)
{
	neon_term_history *history = m->history;
	neon_reader r;

	memset(m, 0, sizeof(*m));
	m->history = history;
	history->n = 0;
	if (!begin(&r, p, len, NEON_MSG_ELECTED))
		return false;
	m->generation = neon_get_u32(&r);
	m->term = neon_get_u64(&r);
	m->start_streaming_at = neon_get_u64(&r);
	if (!neon_get_history(&r, history) || !done(&r))
		return false;

	/* a leader's history ends with its own term */
	return history->n > 0 && history->e[history->n - 1].term == m->term &&
		m->start_streaming_at != NEON_LSN_INVALID;
}

void
neon_encode_append(neon_writer *w, const neon_msg_append *m)
{
	neon_put_u8(w, NEON_MSG_APPEND);
	neon_put_u32(w, m->generation);
	neon_put_u64(w, m->term);
	neon_put_u64(w, m->begin_lsn);
	neon_put_u64(w, m->end_lsn);
	neon_put_u64(w, m->commit_lsn);
	neon_put_u64(w, m->truncate_lsn);
	neon_put_u8(w, m->quiet ? 1 : 0);
}

bool
neon_decode_append(const uint8_t *p, size_t len, neon_msg_append *m, const uint8_t **wal)
{
	neon_reader r;

	memset(m, 0, sizeof(*m));
	*wal = NULL;
	if (!begin(&r, p, len, NEON_MSG_APPEND))
		return false;
	m->generation = neon_get_u32(&r);
	m->term = neon_get_u64(&r);
	m->begin_lsn = neon_get_u64(&r);
	m->end_lsn = neon_get_u64(&r);
	m->commit_lsn = neon_get_u64(&r);
	m->truncate_lsn = neon_get_u64(&r);
	m->quiet = get_bool(&r);
	if (!r.ok || m->term == 0 || m->end_lsn < m->begin_lsn)
		return false;
	if (m->end_lsn - m->begin_lsn > NEON_CONSENSUS_MAX_APPEND_BYTES ||
		neon_reader_left(&r) != (size_t) (m->end_lsn - m->begin_lsn))
		return false;
	if (m->quiet && m->end_lsn != m->begin_lsn)
		return false;
	*wal = neon_get_bytes(&r, neon_reader_left(&r));
	return done(&r);
}

void
neon_encode_append_response(neon_writer *w, const neon_msg_append_response *m)
{
	neon_put_u8(w, NEON_MSG_APPEND_RESPONSE);
	neon_put_u32(w, m->generation);
	neon_put_u64(w, m->term);
	neon_put_u64(w, m->write_lsn);
	neon_put_u64(w, m->flush_lsn);
	neon_put_u64(w, m->commit_lsn);
}

bool
neon_decode_append_response(const uint8_t *p, size_t len, neon_msg_append_response *m)
{
	neon_reader r;

	memset(m, 0, sizeof(*m));
	if (!begin(&r, p, len, NEON_MSG_APPEND_RESPONSE))
		return false;
	m->generation = neon_get_u32(&r);
	m->term = neon_get_u64(&r);
	m->write_lsn = neon_get_u64(&r);
	m->flush_lsn = neon_get_u64(&r);
	m->commit_lsn = neon_get_u64(&r);
	return done(&r) && m->flush_lsn <= m->write_lsn && m->commit_lsn <= m->flush_lsn;
}

void
neon_encode_refusal(neon_writer *w, const neon_msg_refusal *m)
{
	size_t		n = strnlen(m->text, NEON_CONSENSUS_REASON_BYTES - 1);

	neon_put_u8(w, NEON_MSG_REFUSAL);
	neon_put_u8(w, (uint8_t) m->reason);
	neon_put_u64(w, m->term);
	neon_put_u8(w, (uint8_t) n);
	neon_put_bytes(w, m->text, n);
}

bool
neon_decode_refusal(const uint8_t *p, size_t len, neon_msg_refusal *m)
{
	neon_reader r;
	uint8_t		reason;
	size_t		n;

	memset(m, 0, sizeof(*m));
	if (!begin(&r, p, len, NEON_MSG_REFUSAL))
		return false;
	reason = neon_get_u8(&r);
	m->term = neon_get_u64(&r);
	n = neon_get_u8(&r);
	if (reason == 0 || reason > NEON_REFUSE_LAST || n >= NEON_CONSENSUS_REASON_BYTES)
		return false;
	m->reason = (neon_refusal_reason) reason;
	neon_get_copy(&r, m->text, n);
	if (!done(&r))
		return false;

	/* it goes into logs */
	for (size_t i = 0; i < n; i++)
		if ((unsigned char) m->text[i] < 0x20 || (unsigned char) m->text[i] > 0x7e)
			m->text[i] = '?';
	return true;
}
