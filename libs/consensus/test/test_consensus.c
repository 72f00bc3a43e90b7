/*
 * test_consensus.c - acceptor and proposer together, message by message, with storage in memory.
 *
 * The storage counts a record as complete at every multiple of 10.  Messages lie in queues until a test delivers
 * them, so that each rule can be tried at the very moment where it matters; the simulator tries the rest.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "neon_acceptor.h"
#include "neon_proposer.h"

#define START	1000
#define CAP		4096
#define MAX_QUEUED 64

/* ---- an acceptor with its storage ---- */

typedef struct node
{
	neon_acceptor a;
	neon_acceptor_session s;
	uint8_t		wal[CAP];
	neon_lsn	write_lsn;
	neon_lsn	flushed;
	neon_term	durable_term;
	uint32_t	durable_history_n;
	neon_lsn	durable_commit;
	int			flushes;
	int			fail_persist;	/* fail this many times */
	int			fail_truncate;
	char		order[64];		/* P persist, F flush, T truncate, W write */
} node;

static void
note(node *n, char c)
{
	size_t		len = strlen(n->order);

	if (len < sizeof(n->order) - 1)
		n->order[len] = c;
}

static bool
st_persist(void *arg, const neon_acceptor_durable *next)
{
	node	   *n = arg;

	if (n->fail_persist > 0)
	{
		n->fail_persist--;
		return false;
	}
	note(n, 'P');
	n->durable_term = next->term;
	n->durable_history_n = next->history->n;
	n->durable_commit = next->commit_lsn;
	return true;
}

static bool
st_write(void *arg, neon_lsn begin, const uint8_t *bytes, size_t len)
{
	node	   *n = arg;

	assert_int_equal(begin, n->write_lsn);
	memcpy(n->wal + (begin - START), bytes, len);
	n->write_lsn += len;
	note(n, 'W');
	return true;
}

static bool
st_flush(void *arg)
{
	node	   *n = arg;

	n->flushed = n->write_lsn;
	n->flushes++;
	note(n, 'F');
	return true;
}

static bool
st_truncate(void *arg, neon_lsn to)
{
	node	   *n = arg;

	assert_true(to <= n->flushed);
	n->write_lsn = n->flushed = to;
	if (n->fail_truncate > 0)
	{
		n->fail_truncate--;
		return false;
	}
	note(n, 'T');
	return true;
}

static neon_lsn
st_write_lsn(void *arg)
{
	return ((node *) arg)->write_lsn;
}

static neon_lsn
st_flush_record(void *arg)
{
	return ((node *) arg)->flushed / 10 * 10;
}

static neon_lsn
st_last_start(void *arg)
{
	neon_lsn	end = st_flush_record(arg);

	return end > START ? end - 10 : 0;
}

static const neon_acceptor_storage storage = {
	st_persist, st_write, st_flush, st_truncate, st_write_lsn, st_flush_record, st_last_start
};

static void
node_init(node *n, uint64_t id, neon_lsn log_end, const char *history, neon_term term)
{
	static neon_acceptor identity;
	static neon_term_history h;
	neon_configuration conf;
	neon_acceptor_durable d = {&conf, term, &h, 0, 0};

	memset(n, 0, sizeof(*n));
	memset(&identity, 0, sizeof(identity));
	assert_true(neon_history_parse(history, &h));
	assert_true(neon_configuration_parse("1,2,3", 1, &conf));
	identity.node_id = id;
	identity.pg_version_num = 150020;
	identity.wal_segment_bytes = 1 << 24;
	identity.timeline_start_lsn = START;
	n->write_lsn = n->flushed = log_end;
	assert_true(neon_acceptor_init(&n->a, &identity, &d));
}

/* ---- speaking to one acceptor by hand ---- */

static uint8_t out_buf[NEON_CONSENSUS_MAX_CONTROL_BYTES];
static size_t out_len;
static neon_term_history answer_history;

static neon_acceptor_result
give(node *n, const uint8_t *p, size_t len)
{
	neon_writer w;
	neon_acceptor_result r;

	neon_writer_init(&w, out_buf, sizeof(out_buf));
	r = neon_acceptor_message(&n->a, &n->s, &storage, n, p, len, &w);
	assert_true(w.ok);
	out_len = w.len;
	return r;
}

static neon_acceptor_result
flush(node *n)
{
	neon_writer w;
	neon_acceptor_result r;

	neon_writer_init(&w, out_buf, sizeof(out_buf));
	r = neon_acceptor_flush_and_reply(&n->a, &n->s, &storage, n, &w);
	out_len = w.len;
	return r;
}

static neon_acceptor_result
greet(node *n, uint32_t pg_version, const char *members, uint32_t generation)
{
	uint8_t		buf[1024];
	neon_msg_proposer_greeting g = {.version = NEON_CONSENSUS_VERSION, .wal_segment_bytes = 1 << 24, .pg_version_num = pg_version};
	neon_writer w;

	assert_true(neon_configuration_parse(members, generation, &g.conf));
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_proposer_greeting(&w, &g);
	return give(n, buf, w.len);
}

static neon_msg_vote
ask_vote(node *n, neon_term term)
{
	uint8_t		buf[64];
	neon_msg_vote_request q = {1, term};
	neon_msg_vote v = {.history = &answer_history};
	neon_writer w;

	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_vote_request(&w, &q);
	assert_int_equal(give(n, buf, w.len), NEON_ACCEPTOR_REPLY);
	assert_true(neon_decode_vote(out_buf, out_len, &v));
	return v;
}

static neon_acceptor_result
elect(node *n, neon_term term, neon_lsn start, const char *history)
{
	static uint8_t buf[NEON_CONSENSUS_MAX_CONTROL_BYTES];
	static neon_term_history h;
	neon_msg_elected e = {1, term, start, &h};
	neon_writer w;

	assert_true(neon_history_parse(history, &h));
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_elected(&w, &e);
	return give(n, buf, w.len);
}

static neon_acceptor_result
append(node *n, neon_term term, neon_lsn begin, neon_lsn end, neon_lsn commit)
{
	uint8_t		buf[1024];
	neon_msg_append a = {.generation = 1, .term = term, .begin_lsn = begin, .end_lsn = end, .commit_lsn = commit};
	neon_writer w;

	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_append(&w, &a);
	for (neon_lsn at = begin; at < end; at++)
		neon_put_u8(&w, (uint8_t) term);
	return give(n, buf, w.len);
}

static neon_msg_append_response
response(void)
{
	neon_msg_append_response r;

	assert_true(neon_decode_append_response(out_buf, out_len, &r));
	return r;
}

static neon_msg_refusal
refusal(void)
{
	neon_msg_refusal r;

	assert_true(neon_decode_refusal(out_buf, out_len, &r));
	return r;
}

/* ---- acceptor ---- */

static node n1;

static void
test_greeting_refusals(void **state)
{
	neon_term	before;

	node_init(&n1, 1, START, "", 0);
	before = n1.a.term;
	assert_int_equal(append(&n1, 1, START, START + 10, 0), NEON_ACCEPTOR_REFUSED);
	assert_int_equal(refusal().reason, NEON_REFUSE_PROTOCOL);
	assert_int_equal(greet(&n1, 140000, "1,2,3", 1), NEON_ACCEPTOR_REFUSED);
	assert_int_equal(refusal().reason, NEON_REFUSE_VERSION);
	assert_int_equal(greet(&n1, 150000, "2,3,4", 2), NEON_ACCEPTOR_REFUSED);
	assert_int_equal(refusal().reason, NEON_REFUSE_NOT_MEMBER);
	assert_int_equal(greet(&n1, 150000, "1,2", 1), NEON_ACCEPTOR_REFUSED);
	assert_int_equal(refusal().reason, NEON_REFUSE_GENERATION);
	assert_int_equal(n1.a.term, before);

	/* a newer configuration with us in it is taken, an older one answered with ours */
	assert_int_equal(greet(&n1, 150000, "1,2,4", 3), NEON_ACCEPTOR_REPLY);
	assert_int_equal(n1.a.conf.generation, 3);
	assert_int_equal(greet(&n1, 150000, "1,2,3", 1), NEON_ACCEPTOR_REPLY);
	assert_int_equal(n1.a.conf.generation, 3);
}

static void
test_vote_rules(void **state)
{
	neon_msg_vote v;

	node_init(&n1, 1, START + 100, "1:0/3E8", 1);
	n1.write_lsn = START + 125; /* not flushed */
	greet(&n1, 150000, "1,2,3", 1);
	n1.order[0] = '\0';
	v = ask_vote(&n1, 5);
	assert_true(v.given && v.term == 5);
	assert_int_equal(v.flush_lsn, START + 120);	/* flushed first, and only whole records */
	assert_int_equal(v.last_record_start, START + 110);
	assert_string_equal(n1.order, "FP");
	assert_int_equal(n1.durable_term, 5);

	/* once per term */
	v = ask_vote(&n1, 5);
	assert_true(!v.given && v.term == 5);
	v = ask_vote(&n1, 4);
	assert_true(!v.given && v.term == 5);
}

static void
test_vote_is_not_given_when_it_cannot_be_kept(void **state)
{
	uint8_t		buf[64];
	neon_msg_vote_request q = {1, 5};
	neon_writer w;

	node_init(&n1, 1, START, "", 0);
	greet(&n1, 150000, "1,2,3", 1);
	n1.fail_persist = 1;
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_vote_request(&w, &q);
	assert_int_equal(give(&n1, buf, w.len), NEON_ACCEPTOR_FAILED);
	assert_int_equal(out_len, 0);
	assert_int_equal(n1.a.term, 0);
	assert_true(ask_vote(&n1, 5).given);
}

static void
test_vote_of_a_disk_that_forgot(void **state)
{
	uint8_t		buf[64];
	neon_msg_vote_request q = {1, 5};
	neon_writer w;

	node_init(&n1, 1, START + 100, "1:0/3E8", 1);
	n1.a.commit_lsn = START + 200;
	greet(&n1, 150000, "1,2,3", 1);
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_vote_request(&w, &q);
	assert_int_equal(give(&n1, buf, w.len), NEON_ACCEPTOR_REFUSED);
	assert_int_equal(refusal().reason, NEON_REFUSE_STORAGE);
}

static void
test_history_is_clipped(void **state)
{
	neon_msg_vote v;

	/* term 3 was adopted at 1100, but the WAL ends at 1050 */
	node_init(&n1, 1, START + 50, "1:0/3E8,3:0/44C", 3);
	greet(&n1, 150000, "1,2,3", 1);
	v = ask_vote(&n1, 4);
	assert_int_equal(answer_history.n, 1);
	assert_int_equal(v.flush_lsn, START + 50);
	assert_int_equal(neon_acceptor_last_log_term(&n1.a, &storage, &n1), 1);
}

static void
test_elected_cuts_then_adopts(void **state)
{
	node_init(&n1, 1, START + 100, "1:0/3E8", 1);
	greet(&n1, 150000, "1,2,3", 1);
	ask_vote(&n1, 5);
	n1.order[0] = '\0';
	memset(n1.order, 0, sizeof(n1.order));

	/* the leader left term 1 at 1060 */
	assert_int_equal(elect(&n1, 5, START + 60, "1:0/3E8,5:0/424"), NEON_ACCEPTOR_NOTHING);
	assert_string_equal(n1.order, "TP");
	assert_int_equal(n1.write_lsn, START + 60);
	assert_int_equal(n1.durable_history_n, 2);

	/* again, as after a reconnect: nothing to do */
	assert_int_equal(elect(&n1, 5, START + 60, "1:0/3E8,5:0/424"), NEON_ACCEPTOR_NOTHING);
	assert_string_equal(n1.order, "TP");
}

static void
test_elected_refusals(void **state)
{
	node_init(&n1, 1, START + 100, "1:0/3E8", 1);
	n1.a.commit_lsn = START + 80;
	greet(&n1, 150000, "1,2,3", 1);
	ask_vote(&n1, 5);

	/* a start that is not where the logs part */
	assert_int_equal(elect(&n1, 5, START + 90, "1:0/3E8,5:0/448"), NEON_ACCEPTOR_REFUSED);
	assert_int_equal(refusal().reason, NEON_REFUSE_MISMATCH);
	/* committed WAL stays */
	assert_int_equal(elect(&n1, 5, START + 60, "1:0/3E8,5:0/424"), NEON_ACCEPTOR_REFUSED);
	assert_int_equal(refusal().reason, NEON_REFUSE_COMMITTED);
	assert_int_equal(n1.write_lsn, START + 100);
	/* an older leader is ignored */
	assert_int_equal(elect(&n1, 4, START + 100, "1:0/3E8,4:0/44C"), NEON_ACCEPTOR_NOTHING);
	assert_int_equal(n1.a.history.n, 1);
	/* a newer one raises the term even without a vote */
	assert_int_equal(elect(&n1, 6, START + 100, "1:0/3E8,6:0/44C"), NEON_ACCEPTOR_NOTHING);
	assert_int_equal(n1.durable_term, 6);
}

static void
test_failed_truncation_blocks_appends(void **state)
{
	node_init(&n1, 1, START + 100, "1:0/3E8", 1);
	greet(&n1, 150000, "1,2,3", 1);
	ask_vote(&n1, 5);
	n1.fail_truncate = 1;
	assert_int_equal(elect(&n1, 5, START + 60, "1:0/3E8,5:0/424"), NEON_ACCEPTOR_FAILED);
	assert_int_equal(n1.a.history.n, 1);
	assert_int_equal(append(&n1, 5, START + 60, START + 70, 0), NEON_ACCEPTOR_REFUSED);
	assert_false(neon_acceptor_serves_term(&n1.a, 5));

	/* although the positions look right, the truncation is done again */
	memset(n1.order, 0, sizeof(n1.order));
	assert_int_equal(elect(&n1, 5, START + 60, "1:0/3E8,5:0/424"), NEON_ACCEPTOR_NOTHING);
	assert_string_equal(n1.order, "TP");
	assert_int_equal(append(&n1, 5, START + 60, START + 70, 0), NEON_ACCEPTOR_FLUSH);
	assert_true(neon_acceptor_serves_term(&n1.a, 5));
	assert_false(neon_acceptor_serves_term(&n1.a, 4));
}

static void
test_append_rules(void **state)
{
	neon_msg_append_response r;

	node_init(&n1, 1, START, "", 0);
	greet(&n1, 150000, "1,2,3", 1);
	ask_vote(&n1, 5);

	/* the vote is not the election */
	assert_int_equal(append(&n1, 5, START, START + 10, 0), NEON_ACCEPTOR_REFUSED);
	assert_int_equal(refusal().reason, NEON_REFUSE_NOT_ELECTED);
	assert_int_equal(elect(&n1, 5, START, "5:0/3E8"), NEON_ACCEPTOR_NOTHING);

	/* several appends, one flush, one answer; raw bytes may end anywhere, only records are acknowledged */
	n1.flushes = 0;
	assert_int_equal(append(&n1, 5, START, START + 23, START + 500), NEON_ACCEPTOR_FLUSH);
	assert_int_equal(append(&n1, 5, START + 23, START + 48, START + 500), NEON_ACCEPTOR_FLUSH);
	assert_int_equal(flush(&n1), NEON_ACCEPTOR_REPLY);
	assert_int_equal(n1.flushes, 1);
	r = response();
	assert_true(r.term == 5 && r.write_lsn == START + 48 && r.flush_lsn == START + 40);
	assert_int_equal(r.commit_lsn, START + 40);	/* no further than what is here */
	assert_int_equal(flush(&n1), NEON_ACCEPTOR_NOTHING);

	/* gap, overlap */
	assert_int_equal(append(&n1, 5, START + 50, START + 60, 0), NEON_ACCEPTOR_REFUSED);
	assert_int_equal(refusal().reason, NEON_REFUSE_POSITION);
	assert_int_equal(append(&n1, 5, START + 40, START + 60, 0), NEON_ACCEPTOR_REFUSED);
	assert_int_equal(refusal().reason, NEON_REFUSE_POSITION);

	/* commit never goes back */
	assert_int_equal(append(&n1, 5, START + 48, START + 48, START + 10), NEON_ACCEPTOR_FLUSH);
	flush(&n1);
	assert_int_equal(response().commit_lsn, START + 40);

	/* an old leader hears the term, and nothing else */
	assert_int_equal(append(&n1, 4, START + 48, START + 58, START + 50), NEON_ACCEPTOR_REPLY);
	r = response();
	assert_true(r.term == 5 && r.flush_lsn == 0 && n1.write_lsn == START + 48);
	assert_int_equal(append(&n1, 7, START + 48, START + 58, 0), NEON_ACCEPTOR_REFUSED);
}

static void
test_no_ack_across_a_vote(void **state)
{
	neon_acceptor_session old;
	neon_msg_vote v;

	node_init(&n1, 1, START, "", 0);
	greet(&n1, 150000, "1,2,3", 1);
	ask_vote(&n1, 5);
	elect(&n1, 5, START, "5:0/3E8");
	append(&n1, 5, START, START + 30, 0);

	/* another proposer comes over another connection before the flush */
	old = n1.s;
	memset(&n1.s, 0, sizeof(n1.s));
	greet(&n1, 150000, "1,2,3", 1);
	v = ask_vote(&n1, 6);
	assert_true(v.given && v.flush_lsn == START + 30);	/* it hears of all that was taken */
	n1.s = old;
	assert_int_equal(flush(&n1), NEON_ACCEPTOR_REPLY);
	assert_true(response().term == 6 && response().flush_lsn == 0);
}

static void
test_commit_is_persisted_at_the_start_of_a_term(void **state)
{
	node_init(&n1, 1, START + 50, "1:0/3E8", 1);
	greet(&n1, 150000, "1,2,3", 1);
	ask_vote(&n1, 5);
	elect(&n1, 5, START + 50, "1:0/3E8,5:0/41A");
	append(&n1, 5, START + 50, START + 50, START + 50);
	flush(&n1);
	assert_int_equal(n1.durable_commit, START + 50);
	append(&n1, 5, START + 50, START + 70, START + 60);
	flush(&n1);
	assert_int_equal(n1.a.commit_lsn, START + 60);
	assert_int_equal(n1.durable_commit, START + 50);	/* lazily from here on */
	assert_true(neon_acceptor_checkpoint(&n1.a, &storage, &n1));
	assert_int_equal(n1.durable_commit, START + 60);
}

/* Node 2 says of a log that has WAL up to START + flush: */
static neon_peer_claim
claim(neon_term last_log_term, neon_lsn flush_lsn, neon_lsn commit_lsn)
{
	neon_peer_claim p = {.node_id = 2, .term = last_log_term + 1, .last_log_term = last_log_term,
	.flush_lsn = START + flush_lsn, .commit_lsn = START + commit_lsn};

	return p;
}

/* Node 1 has START .. START + 50: term 1 up to START + 20, then term 3. */
static neon_peer_verdict
hears(neon_peer_claim p)
{
	neon_lsn	commit;
	neon_peer_verdict verdict;

	node_init(&n1, 1, START + 50, "1:0/3E8,3:0/3FC", 3);
	verdict = neon_peer_commit(&n1.a, START + 50, &p, &commit);
	assert_int_equal(n1.a.commit_lsn, 0);	/* it only decides */
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), verdict);
	assert_int_equal(n1.a.commit_lsn, commit);
	if (verdict != NEON_PEER_BELIEVED)
		assert_int_equal(commit, 0);
	assert_string_equal(n1.order, "");	/* without storage */
	return verdict;
}

static void
test_learn_commit_from_a_peer(void **state)
{
	neon_peer_claim p = claim(3, 90, 30);

	assert_int_equal(hears(p), NEON_PEER_BELIEVED);
	assert_int_equal(n1.a.commit_lsn, START + 30);
	/* again, older, and no more than there is here */
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_NOTHING_NEW);
	p.commit_lsn = START + 20;
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_NOTHING_NEW);
	assert_int_equal(n1.a.commit_lsn, START + 30);
	p.commit_lsn = START + 90;
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_BELIEVED);
	assert_int_equal(n1.a.commit_lsn, START + 50);
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_NOTHING_NEW);
	/* of an older term's part of the same log, and by a peer whose log is shorter */
	assert_int_equal(hears(claim(3, 40, 10)), NEON_PEER_BELIEVED);
	assert_int_equal(n1.a.commit_lsn, START + 10);
	/* a thinned history: the last term is what counts */
	node_init(&n1, 1, START + 50, "3:0/3FC", 3);
	p = claim(3, 90, 40);
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_BELIEVED);
}

static void
test_peers_of_other_histories(void **state)
{
	neon_peer_claim p;

	assert_int_equal(hears(claim(1, 50, 50)), NEON_PEER_OTHER_HISTORY);	/* an older term: its tail may be gone */
	assert_int_equal(hears(claim(2, 50, 40)), NEON_PEER_OTHER_HISTORY);	/* a term that is not in this log */
	assert_int_equal(hears(claim(4, 90, 60)), NEON_PEER_OTHER_HISTORY);	/* a newer one: ours may be the divergent tail */
	assert_int_equal(hears(claim(4, 90, 10)), NEON_PEER_OTHER_HISTORY);
	/* adopted, but there is no WAL of it yet: history is clipped */
	node_init(&n1, 1, START + 50, "1:0/3E8,3:0/3FC,7:0/44C", 7);
	p = claim(7, 200, 40);
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_OTHER_HISTORY);
	p = claim(3, 200, 40);
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_BELIEVED);
	/* an empty log; a peer's as well */
	node_init(&n1, 1, START, "", 0);
	p = claim(3, 90, 40);
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_OTHER_HISTORY);
	p = claim(0, 90, 40);
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_GARBAGE);
	/* while a cut is not known to be complete */
	node_init(&n1, 1, START + 50, "1:0/3E8,3:0/3FC", 3);
	n1.a.truncation_pending = true;
	p = claim(3, 90, 40);
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_OTHER_HISTORY);
	/* a disk that forgot what it had promised */
	n1.a.truncation_pending = false;
	n1.a.commit_lsn = START + 60;
	p = claim(3, 90, 70);
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_OTHER_HISTORY);
	assert_int_equal(n1.a.commit_lsn, START + 60);
}

/* A tail that a newer leader threw away, learnt about in every order. */
static void
test_divergent_tail_learns_nothing(void **state)
{
	neon_peer_claim p = claim(5, 80, 60);

	node_init(&n1, 1, START + 70, "1:0/3E8,3:0/3FC", 3);	/* term 3 wrote up to START + 70 here only */
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_OTHER_HISTORY);
	greet(&n1, 150000, "1,2,3", 1);
	ask_vote(&n1, 6);
	elect(&n1, 6, START + 40, "1:0/3E8,3:0/3FC,5:0/410,6:0/438");	/* term 5 began at START + 40 */
	assert_int_equal(n1.flushed, START + 40);
	p = claim(3, 70, 70);		/* somebody who still has that tail cannot have it committed, but says so */
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_OTHER_HISTORY);
	p = claim(5, 80, 60);
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_BELIEVED);
	assert_int_equal(n1.a.commit_lsn, START + 40);
}

static void
test_peers_that_are_none(void **state)
{
	neon_peer_claim p = claim(3, 90, 30);

	p.node_id = 4;				/* not a member */
	assert_int_equal(hears(p), NEON_PEER_NOT_OURS);
	p.node_id = 1;				/* ourselves */
	assert_int_equal(hears(p), NEON_PEER_NOT_OURS);
	p = claim(3, 90, 30);
	p.tenant.b[15] = 1;
	assert_int_equal(hears(p), NEON_PEER_NOT_OURS);
	p = claim(3, 90, 30);
	p.timeline.b[0] = 1;
	assert_int_equal(hears(p), NEON_PEER_NOT_OURS);
}

static void
test_peers_that_contradict_themselves(void **state)
{
	neon_peer_claim p = claim(3, 90, 30);

	p.commit_lsn = 0;
	assert_int_equal(hears(p), NEON_PEER_NOTHING_NEW);
	p.commit_lsn = START - 1;
	assert_int_equal(hears(p), NEON_PEER_GARBAGE);
	p.commit_lsn = UINT64_MAX;
	assert_int_equal(hears(p), NEON_PEER_GARBAGE);
	assert_int_equal(hears(claim(3, 30, 31)), NEON_PEER_GARBAGE);	/* beyond its own log */
	p = claim(3, 0, 30);
	p.flush_lsn = 0;
	assert_int_equal(hears(p), NEON_PEER_GARBAGE);
	p = claim(3, 90, 30);
	p.term = 2;					/* a log of a term it has not heard of */
	assert_int_equal(hears(p), NEON_PEER_GARBAGE);
	p.term = UINT64_MAX;
	assert_int_equal(hears(p), NEON_PEER_GARBAGE);
}

/* What a peer told first is made durable when the leader tells it as well. */
static void
test_learnt_commit_is_persisted_at_the_start_of_a_term(void **state)
{
	neon_peer_claim p = claim(5, 50, 50);

	node_init(&n1, 1, START + 50, "1:0/3E8", 1);
	greet(&n1, 150000, "1,2,3", 1);
	ask_vote(&n1, 5);
	elect(&n1, 5, START + 50, "1:0/3E8,5:0/41A");
	assert_int_equal(neon_acceptor_learn_commit(&n1.a, &storage, &n1, &p), NEON_PEER_BELIEVED);
	assert_int_equal(n1.a.commit_lsn, START + 50);
	assert_int_equal(n1.durable_commit, START);
	append(&n1, 5, START + 50, START + 50, START + 50);
	flush(&n1);
	assert_int_equal(n1.durable_commit, START + 50);
}

/* ---- a proposer with three acceptors ---- */

typedef struct queued
{
	int			to;
	size_t		len;
	uint8_t	   *bytes;
} queued;

static struct
{
	node		nodes[3];
	neon_proposer p;
	queued		queue[MAX_QUEUED];
	int			n_queued;
	bool		cut[3];
	int			fatal;
	bool		finished;
	bool		elected;
	neon_lsn	x;
	neon_lsn	last_record_start;
	neon_lsn	committed;
	bool		no_donor;
}			t;

static void
enqueue(int to, const uint8_t *bytes, size_t len)
{
	assert_true(t.n_queued < MAX_QUEUED);
	t.queue[t.n_queued].to = to;
	t.queue[t.n_queued].len = len;
	t.queue[t.n_queued].bytes = memcpy(malloc(len), bytes, len);
	t.n_queued++;
}

static void
o_send(void *arg, int i, const uint8_t *bytes, size_t len)
{
	enqueue(i, bytes, len);
}

static bool
o_send_append(void *arg, int i, const neon_msg_append *h, bool local)
{
	uint8_t		buf[2048];
	neon_writer w;

	assert_true(h->end_lsn - h->begin_lsn <= 100);
	if (h->end_lsn > h->begin_lsn && !local)
	{
		int			donor = neon_proposer_donor(&t.p, h->end_lsn);

		if (donor < 0)
			return false;
		assert_true(neon_acceptor_serves_term(&t.nodes[donor].a, h->term));
	}
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_append(&w, h);
	for (neon_lsn at = h->begin_lsn; at < h->end_lsn; at++)
		neon_put_u8(&w, (uint8_t) h->term);
	enqueue(i, buf, w.len);
	return true;
}

static void
o_disconnect(void *arg, int i, const char *why)
{
	t.cut[i] = true;
}

static void
o_elected(void *arg, neon_term term, neon_lsn term_start, int donor, neon_lsn last_record_start)
{
	t.elected = true;
}

static void
o_committed(void *arg, neon_lsn lsn)
{
	assert_true(lsn > t.committed);
	t.committed = lsn;
}

static void
o_finished(void *arg, neon_lsn x, neon_lsn last_record_start)
{
	t.finished = true;
	t.x = x;
	t.last_record_start = last_record_start;
}

static void
o_fatal(void *arg, neon_proposer_fatal reason, const char *detail)
{
	assert_int_equal(t.fatal, 0);
	t.fatal = (int) reason;
}

static const neon_proposer_output output = {
	o_send, o_send_append, o_disconnect, o_elected, o_committed, o_finished, o_fatal
};

static void
reset_nodes(void)
{
	memset(&t, 0, sizeof(t));
	for (int i = 0; i < 3; i++)
		node_init(&t.nodes[i], (uint64_t) i + 1, START, "", 0);
}

static void
start(neon_proposer_mode mode, neon_lsn x, neon_term previous_term)
{
	neon_proposer_config c = {.mode = mode, .wal_segment_bytes = 1 << 24, .pg_version_num = 150020, .n_acceptors = 3,
	.acceptor_ids = {1, 2, 3}, .expected_start_lsn = x, .previous_term = previous_term,
	.max_append_bytes = 100, .max_inflight_bytes = 250};

	for (int i = 0; i < t.n_queued; i++)
		free(t.queue[i].bytes);
	t.n_queued = 0;
	t.finished = t.elected = false;
	t.fatal = 0;
	t.committed = 0;
	for (int i = 0; i < 3; i++)
	{
		memset(&t.nodes[i].s, 0, sizeof(t.nodes[i].s));
		t.cut[i] = false;
	}
	assert_true(neon_proposer_init(&t.p, &c, &output, NULL));
}

/* Deliver the first message in the queue for a node that is reachable, and its answers; false when none is left. */
static bool
deliver_one(void)
{
	queued		q;
	node	   *n;

	if (t.n_queued == 0)
		return false;
	q = t.queue[0];
	memmove(&t.queue[0], &t.queue[1], (size_t) --t.n_queued * sizeof(queued));
	n = &t.nodes[q.to];
	if (!t.cut[q.to])
	{
		neon_acceptor_result r = give(n, q.bytes, q.len);

		if (r == NEON_ACCEPTOR_FLUSH)
			r = flush(n);
		if (r == NEON_ACCEPTOR_REPLY || r == NEON_ACCEPTOR_REFUSED)
			neon_proposer_message(&t.p, q.to, out_buf, out_len);
	}
	free(q.bytes);
	return true;
}

static void
deliver_all(void)
{
	for (int i = 0; deliver_one(); i++)
		assert_true(i < 1000);
}

static void
connect(int i)
{
	memset(&t.nodes[i].s, 0, sizeof(t.nodes[i].s));
	t.cut[i] = false;
	neon_proposer_connected(&t.p, i);
	deliver_all();
}

static void
disconnect(int i)
{
	t.cut[i] = true;
	neon_proposer_disconnected(&t.p, i);
}

static void
test_bootstrap_and_stream(void **state)
{
	reset_nodes();
	start(NEON_PROPOSER_SYNC, 0, 0);
	for (int i = 0; i < 3; i++)
		neon_proposer_connected(&t.p, i);
	deliver_all();
	assert_true(t.finished && t.x == START && t.last_record_start == 0);

	start(NEON_PROPOSER_NORMAL, START, 0);
	connect(0);
	assert_false(t.elected);
	connect(1);
	assert_true(t.elected && t.p.term == 2 && t.p.term_start == START);
	neon_proposer_wal_available(&t.p, START + 333);
	deliver_all();
	assert_int_equal(t.committed, START + 330);
	assert_int_equal(t.nodes[0].write_lsn, START + 333);
	assert_int_equal(t.nodes[0].a.commit_lsn, START + 330);	/* told at once */
	assert_int_equal(t.p.truncate_lsn, 0);	/* node 3 was never seen */

	/* a late one catches up, without a vote */
	connect(2);
	assert_int_equal(t.nodes[2].write_lsn, START + 333);
	assert_int_equal(t.nodes[2].a.term, 2);
	neon_proposer_heartbeat(&t.p);
	deliver_all();
	assert_int_equal(t.nodes[2].a.commit_lsn, START + 330);
	assert_int_equal(t.p.truncate_lsn, START + 330);
	assert_memory_equal(t.nodes[0].wal, t.nodes[2].wal, 333);
}

static void
test_inflight_limit(void **state)
{
	reset_nodes();
	start(NEON_PROPOSER_NORMAL, START, 0);
	for (int i = 0; i < 3; i++)
		connect(i);
	neon_proposer_wal_available(&t.p, START + 1000);
	assert_int_equal(t.p.peers[0].sent_lsn, START + 250);
	assert_int_equal(t.n_queued, 9);
	deliver_all();
	assert_int_equal(t.committed, START + 1000);
}

static void
test_sync_recovers_from_the_donor(void **state)
{
	reset_nodes();
	node_init(&t.nodes[0], 1, START + 500, "1:0/3E8", 1);
	node_init(&t.nodes[1], 2, START + 100, "1:0/3E8", 1);
	start(NEON_PROPOSER_SYNC, 0, 0);
	neon_proposer_connected(&t.p, 0);
	neon_proposer_connected(&t.p, 1);
	while (!t.elected)
		assert_true(deliver_one());
	assert_false(neon_proposer_sync_committed(&t.p));
	deliver_all();
	if (!t.finished)
		neon_proposer_heartbeat(&t.p);	/* the donor had not answered when the laggard was to be sent WAL */
	deliver_all();
	assert_true(t.finished && t.x == START + 500 && t.last_record_start == START + 490);
	assert_int_equal(t.nodes[1].write_lsn, START + 500);
	assert_int_equal(t.nodes[1].a.commit_lsn, START + 500);
}

static void
test_higher_last_term_wins_over_longer_log(void **state)
{
	reset_nodes();
	node_init(&t.nodes[0], 1, START + 500, "1:0/3E8", 4);
	node_init(&t.nodes[1], 2, START + 120, "1:0/3E8,3:0/44C", 4);
	start(NEON_PROPOSER_SYNC, 0, 0);
	connect(0);
	connect(1);
	assert_true(t.elected && t.p.donor == 1 && t.p.term_start == START + 120 && t.p.term == 5);
	neon_proposer_heartbeat(&t.p);
	deliver_all();
	assert_int_equal(t.nodes[0].write_lsn, START + 120);
	assert_true(t.finished && t.x == START + 120);
}

static void
test_other_compute_wrote(void **state)
{
	reset_nodes();
	node_init(&t.nodes[0], 1, START + 500, "3:0/3E8", 3);
	start(NEON_PROPOSER_NORMAL, START, 0);
	connect(0);
	connect(1);
	assert_int_equal(t.fatal, NEON_FATAL_OTHER_WROTE);
	assert_int_equal(t.nodes[0].a.history.n, 1);	/* nobody was told of an election */

	/* our own earlier term is no other compute; somebody else's is */
	start(NEON_PROPOSER_NORMAL, START, 2);
	connect(0);
	connect(1);
	assert_int_equal(t.fatal, NEON_FATAL_OTHER_WROTE);
	start(NEON_PROPOSER_NORMAL, START, 3);
	neon_proposer_wal_available(&t.p, START + 600);
	connect(0);
	connect(1);
	assert_int_equal(t.fatal, 0);
	assert_int_equal(t.committed, START + 600);
}

static void
test_fenced_by_a_newer_proposer(void **state)
{
	reset_nodes();
	start(NEON_PROPOSER_NORMAL, START, 0);
	for (int i = 0; i < 3; i++)
		connect(i);
	t.nodes[1].a.term = 9;
	neon_proposer_wal_available(&t.p, START + 50);
	deliver_all();
	assert_int_equal(t.fatal, NEON_FATAL_NEWER_PROPOSER);
	assert_int_equal(t.nodes[1].write_lsn, START);
}

static void
test_campaign_is_tried_again_above(void **state)
{
	reset_nodes();
	start(NEON_PROPOSER_NORMAL, START, 0);
	neon_proposer_connected(&t.p, 0);
	neon_proposer_connected(&t.p, 1);
	assert_true(deliver_one() && deliver_one());
	assert_int_equal(t.p.phase, NEON_PHASE_CAMPAIGN);
	t.nodes[0].a.term = 7;		/* somebody else campaigned in between */
	deliver_all();
	assert_false(t.elected);
	neon_proposer_retry_campaign(&t.p);
	deliver_all();
	assert_true(t.elected && t.p.term == 8);
}

static void
test_figure_8(void **state)
{
	/* A leader of term 5 whose log has old WAL; a majority has some of it, but not the start of term 5. */
	reset_nodes();
	node_init(&t.nodes[0], 1, START + 400, "1:0/3E8", 1);
	node_init(&t.nodes[1], 2, START, "", 1);
	node_init(&t.nodes[2], 3, START, "", 1);
	start(NEON_PROPOSER_SYNC, 0, 0);
	connect(0);
	neon_proposer_connected(&t.p, 1);
	while (t.p.peers[1].flush_lsn < START + 100)
	{
		neon_proposer_poke(&t.p, 1);
		assert_true(deliver_one());
	}
	assert_true(t.p.peers[0].flush_lsn == START + 400 && t.p.peers[1].flush_lsn < START + 400);
	assert_int_equal(t.committed, 0);
	for (int i = 0; i < 10; i++)
	{
		neon_proposer_heartbeat(&t.p);
		deliver_all();
	}
	assert_int_equal(t.committed, START + 400);
}

static void
test_newer_configuration(void **state)
{
	neon_configuration c2;
	const char *why = NULL;

	/* before the campaign it is adopted, and given to those who lack it */
	reset_nodes();
	assert_true(neon_configuration_parse("1,2,3/1,2,9", 2, &c2));
	assert_true(neon_acceptor_switch_configuration(&t.nodes[1].a, &storage, &t.nodes[1], &c2, &why));
	start(NEON_PROPOSER_NORMAL, START, 0);
	connect(0);
	connect(1);
	assert_int_equal(t.p.conf.generation, 2);
	assert_int_equal(t.nodes[0].a.conf.generation, 2);
	assert_true(t.elected);		/* 1 and 2 are majorities of both lists */
	neon_proposer_wal_available(&t.p, START + 50);
	deliver_all();
	assert_int_equal(t.committed, START + 50);

	/* afterwards it ends the proposer */
	assert_true(neon_configuration_parse("1,2,9", 3, &c2));
	assert_true(neon_acceptor_switch_configuration(&t.nodes[0].a, &storage, &t.nodes[0], &c2, &why));
	neon_proposer_wal_available(&t.p, START + 60);
	deliver_all();
	assert_true(t.cut[0]);
	connect(0);
	assert_int_equal(t.fatal, NEON_FATAL_CONFIGURATION);
}

static void
test_joint_quorum(void **state)
{
	neon_configuration c2;
	const char *why = NULL;

	/* new set 3,8,9: of it only node 3 can be reached, so there is no majority of it */
	reset_nodes();
	assert_true(neon_configuration_parse("1,2,3/3,8,9", 2, &c2));
	for (int i = 0; i < 3; i++)
		assert_true(neon_acceptor_switch_configuration(&t.nodes[i].a, &storage, &t.nodes[i], &c2, &why));
	start(NEON_PROPOSER_NORMAL, START, 0);
	for (int i = 0; i < 3; i++)
		connect(i);
	assert_int_equal(t.p.phase, NEON_PHASE_COLLECT);
}

static void
test_full_history_is_thinned(void **state)
{
	/* each start of a compute adds two terms; go on well beyond the limit */
	reset_nodes();
	for (int round = 0; round < NEON_CONSENSUS_MAX_HISTORY / 2 + 50; round++)
	{
		neon_lsn	end = START + 10 * (neon_lsn) (round < 300 ? round : 300);

		start(NEON_PROPOSER_NORMAL, end, 0);
		for (int i = 0; i < 3; i++)
			neon_proposer_connected(&t.p, i);
		deliver_all();
		assert_true(t.elected && t.fatal == 0);
		if (round < 300)
			neon_proposer_wal_available(&t.p, end + 10);
		deliver_all();
		start(NEON_PROPOSER_SYNC, 0, 0);
		for (int i = 0; i < 3; i++)
			neon_proposer_connected(&t.p, i);
		deliver_all();
		assert_true(t.finished && t.fatal == 0);
	}
	assert_true(t.nodes[0].a.history.n <= NEON_CONSENSUS_MAX_HISTORY);
	assert_true(t.nodes[0].a.term > NEON_CONSENSUS_MAX_HISTORY);
	assert_int_equal(t.nodes[0].a.history.e[0].lsn, START);
}

static void
test_reconnect_in_the_middle(void **state)
{
	reset_nodes();
	start(NEON_PROPOSER_NORMAL, START, 0);
	for (int i = 0; i < 3; i++)
		connect(i);
	neon_proposer_wal_available(&t.p, START + 95);
	deliver_all();
	disconnect(0);
	neon_proposer_wal_available(&t.p, START + 200);
	deliver_all();
	assert_int_equal(t.committed, START + 200);
	assert_int_equal(t.nodes[0].write_lsn, START + 95);

	/* streaming begins again at the end of the last whole record */
	connect(0);
	assert_int_equal(t.p.peers[0].start_lsn, START + 90);
	assert_int_equal(t.nodes[0].write_lsn, START + 200);
	assert_int_equal(t.nodes[0].a.term, 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_greeting_refusals),
		cmocka_unit_test(test_vote_rules),
		cmocka_unit_test(test_vote_is_not_given_when_it_cannot_be_kept),
		cmocka_unit_test(test_vote_of_a_disk_that_forgot),
		cmocka_unit_test(test_history_is_clipped),
		cmocka_unit_test(test_elected_cuts_then_adopts),
		cmocka_unit_test(test_elected_refusals),
		cmocka_unit_test(test_failed_truncation_blocks_appends),
		cmocka_unit_test(test_append_rules),
		cmocka_unit_test(test_no_ack_across_a_vote),
		cmocka_unit_test(test_commit_is_persisted_at_the_start_of_a_term),
		cmocka_unit_test(test_learn_commit_from_a_peer),
		cmocka_unit_test(test_peers_of_other_histories),
		cmocka_unit_test(test_divergent_tail_learns_nothing),
		cmocka_unit_test(test_peers_that_are_none),
		cmocka_unit_test(test_peers_that_contradict_themselves),
		cmocka_unit_test(test_learnt_commit_is_persisted_at_the_start_of_a_term),
		cmocka_unit_test(test_bootstrap_and_stream),
		cmocka_unit_test(test_inflight_limit),
		cmocka_unit_test(test_sync_recovers_from_the_donor),
		cmocka_unit_test(test_higher_last_term_wins_over_longer_log),
		cmocka_unit_test(test_other_compute_wrote),
		cmocka_unit_test(test_fenced_by_a_newer_proposer),
		cmocka_unit_test(test_campaign_is_tried_again_above),
		cmocka_unit_test(test_figure_8),
		cmocka_unit_test(test_newer_configuration),
		cmocka_unit_test(test_joint_quorum),
		cmocka_unit_test(test_full_history_is_thinned),
		cmocka_unit_test(test_reconnect_in_the_middle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
