/*
 * fuzz_consensus.c - the messages of consensus, and a safekeeper's state machine that gets whatever a connection may carry.
 *
 * A message that decodes encodes to the same bytes.  The acceptor runs over storage in memory whose records are RECORD bytes long;
 * input is a script of steps: raw bytes, messages of small numbers, failures of storage, crashes that lose what was not flushed.
 * Whatever comes: the term never falls and is durable before an answer, committed WAL is never cut, WAL is appended only at its end,
 * only whole flushed records are acknowledged, and every answer decodes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_acceptor.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(condition) do { if (!(condition)) abort(); } while (0)
#define RECORD 8
#define START 64				/* where the timeline begins */
#define END (START + 4096)		/* appends beyond it fail as a full disk does */

static uint8_t answer[NEON_CONSENSUS_MAX_CONTROL_BYTES];
static neon_term_history history;

/* ---- codec ---- */

static void
same_again(const uint8_t *p, size_t len)
{
	static uint8_t again[NEON_CONSENSUS_MAX_CONTROL_BYTES];
	neon_msg_proposer_greeting pg;
	neon_msg_acceptor_greeting ag;
	neon_msg_vote_request vr;
	neon_msg_vote v = {.history = &history};
	neon_msg_elected e = {.history = &history};
	neon_msg_append a;
	neon_msg_append_response ar;
	neon_msg_refusal r;
	const uint8_t *wal;
	size_t		wal_len = 0;
	neon_writer w;

	neon_writer_init(&w, again, sizeof(again));
	if (len == 0)
		return;
	if (p[0] == NEON_MSG_PROPOSER_GREETING && neon_decode_proposer_greeting(p, len, &pg))
	{
		if (pg.version != NEON_CONSENSUS_VERSION)
			return;				/* decoded no further */
		neon_encode_proposer_greeting(&w, &pg);
	}
	else if (p[0] == NEON_MSG_ACCEPTOR_GREETING && neon_decode_acceptor_greeting(p, len, &ag))
		neon_encode_acceptor_greeting(&w, &ag);
	else if (p[0] == NEON_MSG_VOTE_REQUEST && neon_decode_vote_request(p, len, &vr))
		neon_encode_vote_request(&w, &vr);
	else if (p[0] == NEON_MSG_VOTE && neon_decode_vote(p, len, &v))
		neon_encode_vote(&w, &v);
	else if (p[0] == NEON_MSG_ELECTED && neon_decode_elected(p, len, &e))
		neon_encode_elected(&w, &e);
	else if (p[0] == NEON_MSG_APPEND && neon_decode_append(p, len, &a, &wal))
	{
		neon_encode_append(&w, &a);
		wal_len = (size_t) (a.end_lsn - a.begin_lsn);
		CHECK(wal == p + w.len && w.len + wal_len == len);
	}
	else if (p[0] == NEON_MSG_APPEND_RESPONSE && neon_decode_append_response(p, len, &ar))
		neon_encode_append_response(&w, &ar);
	else if (p[0] == NEON_MSG_REFUSAL && neon_decode_refusal(p, len, &r))
	{
		CHECK(memchr(r.text, 0, sizeof(r.text)) != NULL && neon_refusal_text(r.reason) != NULL);
		return;
	}
	else
		return;
	CHECK(w.ok && w.len + wal_len == len && memcmp(again, p, w.len) == 0);
}

/* ---- storage in memory ---- */

typedef struct store
{
	neon_configuration conf;
	neon_term	term;
	neon_term_history history;
	neon_lsn	commit_lsn;
	neon_lsn	truncate_lsn;
	neon_lsn	written;		/* end of raw bytes */
	neon_lsn	flushed;		/* end of durable bytes */
	bool		fails;
	uint8_t		wal[END - START];
	const neon_acceptor *acceptor;
} store;

static neon_lsn
record_end(neon_lsn lsn)
{
	return lsn - lsn % RECORD;
}

static bool
store_persist(void *arg, const neon_acceptor_durable *next)
{
	store	   *s = arg;

	CHECK(next->term >= s->term && next->commit_lsn >= s->commit_lsn && next->truncate_lsn >= s->truncate_lsn);
	CHECK(next->conf->generation >= s->conf.generation && neon_configuration_valid(next->conf));
	CHECK(neon_history_valid(next->history));
	CHECK(next->history->n == 0 || next->history->e[next->history->n - 1].term <= next->term);
	if (s->fails)
		return false;
	s->conf = *next->conf;
	s->term = next->term;
	s->history = *next->history;
	s->commit_lsn = next->commit_lsn;
	s->truncate_lsn = next->truncate_lsn;
	return true;
}

static bool
store_write(void *arg, neon_lsn begin, const uint8_t *bytes, size_t len)
{
	store	   *s = arg;
	CHECK(begin == s->written && len > 0 && len <= NEON_CONSENSUS_MAX_APPEND_BYTES);
	CHECK(!s->acceptor->truncation_pending);
	memcpy(s->wal + (begin - START), bytes, begin + len > END ? END - begin : len);
	if (s->fails || begin + len > END)
		return false;
	s->written += len;
	return true;
}

static bool
store_flush(void *arg)
{
	store	   *s = arg;

	if (s->fails)
		return false;
	s->flushed = s->written;
	return true;
}

static bool
store_truncate(void *arg, neon_lsn to)
{
	store	   *s = arg;

	CHECK(to <= record_end(s->flushed) && to >= START && to >= s->acceptor->commit_lsn);
	if (s->fails)
		return false;
	s->written = s->flushed = to;
	return true;
}

static neon_lsn
store_write_lsn(void *arg)
{
	return ((store *) arg)->written;
}

static neon_lsn
store_flush_record_lsn(void *arg)
{
	return record_end(((store *) arg)->flushed);
}

static neon_lsn
store_last_record_start(void *arg)
{
	neon_lsn	end = store_flush_record_lsn(arg);

	return end > START ? end - RECORD : 0;
}

static const neon_acceptor_storage storage = {
	store_persist, store_write, store_flush, store_truncate, store_write_lsn, store_flush_record_lsn, store_last_record_start
};

/* ---- the acceptor under a script ---- */

typedef struct script
{
	const uint8_t *p;
	size_t		left;
} script;

static uint8_t
next(script *s)
{
	if (s->left == 0)
		return 0;
	s->left--;
	return *s->p++;
}

static void
life(neon_acceptor *a, store *s)
{
	neon_acceptor identity = {.node_id = 1,.system_id = 99,.wal_segment_bytes = 1 << 24,.pg_version_num = 150020,.timeline_start_lsn = START};
	neon_acceptor_durable loaded = {&s->conf, s->term, &s->history, s->commit_lsn, s->truncate_lsn};

	s->written = s->flushed = record_end(s->flushed);
	CHECK(neon_acceptor_init(a, &identity, &loaded));
}

/* An answer decodes, and says nothing that is not durable. */
static void
check_answer(const store *s, neon_acceptor_result result, const neon_writer *w)
{
	neon_msg_vote v = {.history = &history};
	neon_msg_append_response r;
	neon_msg_acceptor_greeting g;
	neon_msg_refusal refusal;

	if (result != NEON_ACCEPTOR_REPLY && result != NEON_ACCEPTOR_REFUSED)
		return;
	CHECK(w->ok && w->len > 0);
	same_again(w->buf, w->len);
	switch (w->buf[0])
	{
		case NEON_MSG_VOTE:
			CHECK(neon_decode_vote(w->buf, w->len, &v));
			CHECK(v.term == s->term && v.flush_lsn == record_end(s->flushed) && s->flushed == s->written);
			break;
		case NEON_MSG_APPEND_RESPONSE:
			CHECK(neon_decode_append_response(w->buf, w->len, &r));
			CHECK(r.term == s->term && r.flush_lsn <= record_end(s->flushed) && r.commit_lsn <= r.flush_lsn);
			break;
		case NEON_MSG_ACCEPTOR_GREETING:
			CHECK(neon_decode_acceptor_greeting(w->buf, w->len, &g) && g.term == s->term);
			break;
		default:
			CHECK(result == NEON_ACCEPTOR_REFUSED && neon_decode_refusal(w->buf, w->len, &refusal));
	}
}

static neon_acceptor_result
give(neon_acceptor *a, neon_acceptor_session *session, store *s, const uint8_t *p, size_t len)
{
	neon_term	term = a->term;
	neon_lsn	commit = a->commit_lsn;
	uint8_t    *exact = malloc(len > 0 ? len : 1);
	neon_acceptor_result result;
	neon_writer w;

	memcpy(exact, p, len);
	neon_writer_init(&w, answer, sizeof(answer));
	result = neon_acceptor_message(a, session, &storage, s, exact, len, &w);
	free(exact);
	check_answer(s, result, &w);
	CHECK(a->term >= term && a->term == s->term && a->commit_lsn >= commit);
	if (result == NEON_ACCEPTOR_REFUSED || result == NEON_ACCEPTOR_FAILED)
		memset(session, 0, sizeof(*session));	/* the connection is closed */
	return result;
}

static void
flush(neon_acceptor *a, neon_acceptor_session *session, store *s)
{
	neon_acceptor_result result;
	neon_writer w;

	neon_writer_init(&w, answer, sizeof(answer));
	result = neon_acceptor_flush_and_reply(a, session, &storage, s, &w);
	check_answer(s, result, &w);
	CHECK(a->commit_lsn <= record_end(s->flushed) || result == NEON_ACCEPTOR_FAILED);
	if (result == NEON_ACCEPTOR_FAILED)
		memset(session, 0, sizeof(*session));
}

/* A message whose numbers are small, so that terms, generations and positions meet. */
static size_t
small_message(script *in, const neon_acceptor *a, const store *s, uint8_t *to, size_t cap)
{
	static neon_term_history h;
	neon_writer w;

	neon_writer_init(&w, to, cap);
	switch (next(in) % 4)
	{
		case 0:
			{
				neon_msg_proposer_greeting m = {.version = NEON_CONSENSUS_VERSION,.wal_segment_bytes = 1 << 24,.pg_version_num = 150000};

				neon_configuration_parse(next(in) % 2 ? "1,2,3" : "1,2/1,4", next(in) % 4, &m.conf);
				neon_encode_proposer_greeting(&w, &m);
				break;
			}
		case 1:
			{
				neon_msg_vote_request m = {a->conf.generation, a->term + next(in) % 3};

				neon_encode_vote_request(&w, &m);
				break;
			}
		case 2:
			{
				uint8_t		how = next(in);
				neon_msg_elected m = {a->conf.generation, a->term + how % 2, 0, &h};
				uint32_t	keep = a->history.n > 0 ? next(in) % (a->history.n + 1) : 0;

				h = a->history;
				h.n = keep < NEON_CONSENSUS_MAX_HISTORY ? keep : NEON_CONSENSUS_MAX_HISTORY - 1;
				if (h.n > 0 && h.e[h.n - 1].term >= m.term)
					h.n--;
				h.e[h.n].term = m.term;
				h.e[h.n++].lsn = how & 2 ? record_end(s->flushed) : START + RECORD * (next(in) % 16);
				if (neon_history_common(&h, &a->history, record_end(s->flushed), &m.start_streaming_at) == NEON_COMMON_BROKEN || how & 4)
					m.start_streaming_at = START + next(in);
				neon_encode_elected(&w, &m);
				break;
			}
		case 3:
			{
				uint8_t		how = next(in);
				neon_msg_append m = {a->conf.generation, a->term, s->written, s->written, 0, 0, false};

				m.end_lsn += how % 32;
				m.quiet = how >= 192 && how % 32 == 0;
				if ((how & 96) == 32)
					m.begin_lsn -= m.begin_lsn > START ? 1 : 0;
				else if ((how & 96) == 96)
				{
					m.begin_lsn += 1;	/* a gap */
					m.end_lsn += 1;
				}
				m.commit_lsn = START + next(in) * RECORD;
				m.truncate_lsn = START + next(in);
				if ((how & 96) == 64)
					m.term += 1;
				neon_encode_append(&w, &m);
				for (neon_lsn i = m.begin_lsn; i < m.end_lsn; i++)
					neon_put_u8(&w, 'w');
				break;
			}
	}
	return w.ok ? w.len : 0;
}

static void
run(const uint8_t *data, size_t size)
{
	static uint8_t message[NEON_CONSENSUS_MAX_CONTROL_BYTES];
	static neon_acceptor a;
	static store s;
	neon_acceptor_session session[2] = {{0}};
	script		in = {data, size};
	const char *why;

	memset(&s, 0, sizeof(s));
	s.acceptor = &a;
	s.written = s.flushed = START;
	neon_configuration_parse("1,2,3", 0, &s.conf);
	life(&a, &s);
	while (in.left > 0)
	{
		uint8_t		step = next(&in);
		neon_acceptor_session *who = &session[step >> 7];

		switch (step % 8)
		{
			case 0:				/* raw bytes */
				{
					size_t		len = next(&in);

					len = len < in.left ? len : in.left;
					give(&a, who, &s, in.p, len);
					in.p += len;
					in.left -= len;
					break;
				}
			case 1:
				flush(&a, who, &s);
				break;
			case 2:				/* it dies: what was not flushed is gone */
				memset(session, 0, sizeof(session));
				life(&a, &s);
				break;
			case 3:
				s.fails = step & 8;
				break;
			case 4:
				{
					neon_configuration conf;

					neon_configuration_parse("1,5", next(&in) % 8, &conf);
					(void) neon_acceptor_switch_configuration(&a, &storage, &s, &conf, &why);
					break;
				}
			default:
				give(&a, who, &s, message, small_message(&in, &a, &s, message, sizeof(message)));
		}
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t    *exact = malloc(size + 1);

	memcpy(exact, data, size);
	same_again(exact, size);
	run(exact, size);
	free(exact);
	return 0;
}
