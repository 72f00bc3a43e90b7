/*
 * test_consensus_wire.c - messages, histories and configurations: round trips, and refusal of everything damaged.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "neon_consensus_wire.h"

static uint8_t buf[NEON_CONSENSUS_MAX_CONTROL_BYTES];
static neon_term_history h1;
static neon_term_history h2;

static void
set_history(neon_term_history *h, int n, ...)
{
	va_list		args;

	h->n = 0;
	h->pad = 0;
	va_start(args, n);
	for (int i = 0; i < n; i++)
	{
		h->e[h->n].term = (neon_term) va_arg(args, int);
		h->e[h->n++].lsn = (neon_lsn) va_arg(args, int);
	}
	va_end(args);
}

/* Which decoder a message belongs to; every shorter or longer message must be refused by it. */
static bool
decode(const uint8_t *p, size_t len)
{
	neon_msg_proposer_greeting pg;
	neon_msg_acceptor_greeting ag;
	neon_msg_vote_request vr;
	neon_msg_vote v = {.history = &h2};
	neon_msg_elected e = {.history = &h2};
	neon_msg_append a;
	neon_msg_append_response ar;
	neon_msg_refusal r;
	const uint8_t *wal;

	switch (len > 0 ? p[0] : 0)
	{
		case NEON_MSG_PROPOSER_GREETING:
			return neon_decode_proposer_greeting(p, len, &pg);
		case NEON_MSG_ACCEPTOR_GREETING:
			return neon_decode_acceptor_greeting(p, len, &ag);
		case NEON_MSG_VOTE_REQUEST:
			return neon_decode_vote_request(p, len, &vr);
		case NEON_MSG_VOTE:
			return neon_decode_vote(p, len, &v);
		case NEON_MSG_ELECTED:
			return neon_decode_elected(p, len, &e);
		case NEON_MSG_APPEND:
			return neon_decode_append(p, len, &a, &wal);
		case NEON_MSG_APPEND_RESPONSE:
			return neon_decode_append_response(p, len, &ar);
		case NEON_MSG_REFUSAL:
			return neon_decode_refusal(p, len, &r);
	}
	return false;
}

/* The message in buf decodes; cut anywhere, or with a byte more, it does not.  Exact allocations let ASan watch. */
static void
only_whole(size_t len)
{
	for (size_t n = 0; n <= len + 1; n++)
	{
		uint8_t    *copy = malloc(n > 0 ? n : 1);

		memcpy(copy, buf, n < len ? n : len);
		if (n > len)
			copy[len] = 0;
		assert_int_equal(decode(copy, n), n == len);
		free(copy);
	}
}

static neon_configuration
three(void)
{
	neon_configuration c;

	assert_true(neon_configuration_parse("1,2,3", 7, &c));
	return c;
}

static void
test_greetings(void **state)
{
	neon_msg_proposer_greeting g = {.version = NEON_CONSENSUS_VERSION, .system_id = 99,
	.wal_segment_bytes = 1 << 24, .pg_version_num = 150020, .conf = three()};
	neon_msg_proposer_greeting g2;
	neon_msg_acceptor_greeting a = {.node_id = 2, .term = 5, .timeline_start_lsn = 0x1500028, .conf = three()};
	neon_msg_acceptor_greeting a2;
	neon_writer w;

	memset(g.tenant.b, 0x11, NEON_ID_BYTES);
	memset(g.timeline.b, 0x22, NEON_ID_BYTES);
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_proposer_greeting(&w, &g);
	assert_true(w.ok && neon_decode_proposer_greeting(buf, w.len, &g2));
	assert_true(neon_id_equal(&g.tenant, &g2.tenant) && neon_id_equal(&g.timeline, &g2.timeline));
	assert_true(g2.system_id == 99 && g2.wal_segment_bytes == 1 << 24 && g2.pg_version_num == 150020);
	assert_true(neon_configuration_equal(&g.conf, &g2.conf));
	only_whole(w.len);

	/* another version is decoded no further */
	buf[4] = 9;
	assert_true(neon_decode_proposer_greeting(buf, w.len, &g2) && g2.version == 9);

	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_acceptor_greeting(&w, &a);
	assert_true(w.ok && neon_decode_acceptor_greeting(buf, w.len, &a2));
	assert_true(a2.node_id == 2 && a2.term == 5 && a2.timeline_start_lsn == 0x1500028 && a2.conf.n_members == 3);
	only_whole(w.len);
}

static void
test_votes(void **state)
{
	neon_msg_vote v = {.generation = 7, .term = 9, .given = true, .flush_lsn = 500, .last_record_start = 450,
	.truncate_lsn = 100, .commit_lsn = 400, .timeline_start_lsn = 50, .history = &h1};
	neon_msg_vote v2 = {.history = &h2};
	neon_msg_vote_request q = {7, 9};
	neon_writer w;

	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_vote_request(&w, &q);
	only_whole(w.len);

	/* entries beyond the end of the log are not shown */
	set_history(&h1, 3, 1, 50, 4, 300, 8, 600);
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_vote(&w, &v);
	assert_true(w.ok && neon_decode_vote(buf, w.len, &v2));
	assert_true(v2.given && v2.term == 9 && v2.flush_lsn == 500 && v2.last_record_start == 450 && v2.commit_lsn == 400);
	assert_int_equal(h2.n, 2);
	assert_true(h2.e[1].term == 4 && h2.e[1].lsn == 300);
	only_whole(w.len);

	/* a commit above the log, a history of the future, a flag that is none */
	v.commit_lsn = 501;
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_vote(&w, &v);
	assert_false(neon_decode_vote(buf, w.len, &v2));
	v.commit_lsn = 400;
	v.term = 3;
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_vote(&w, &v);
	assert_false(neon_decode_vote(buf, w.len, &v2));
	v.term = 9;
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_vote(&w, &v);
	buf[1 + 4 + 8] = 2;
	assert_false(neon_decode_vote(buf, w.len, &v2));
}

static void
test_elected(void **state)
{
	neon_msg_elected e = {.generation = 7, .term = 9, .start_streaming_at = 300, .history = &h1};
	neon_msg_elected e2 = {.history = &h2};
	neon_writer w;

	set_history(&h1, 3, 1, 50, 4, 300, 9, 600);
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_elected(&w, &e);
	assert_true(neon_decode_elected(buf, w.len, &e2));
	only_whole(w.len);

	/* terms must ascend, LSNs must not descend, the last term is the leader's */
	set_history(&h1, 3, 4, 50, 4, 300, 9, 600);
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_elected(&w, &e);
	assert_false(neon_decode_elected(buf, w.len, &e2));
	set_history(&h1, 3, 1, 50, 4, 40, 9, 600);
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_elected(&w, &e);
	assert_false(neon_decode_elected(buf, w.len, &e2));
	set_history(&h1, 2, 1, 50, 8, 300);
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_elected(&w, &e);
	assert_false(neon_decode_elected(buf, w.len, &e2));

	/* the largest history fits the buffer everybody has */
	h1.n = NEON_CONSENSUS_MAX_HISTORY;
	for (uint32_t i = 0; i < h1.n; i++)
		h1.e[i] = (neon_term_entry) {i + 1, 50 + i};
	e.term = h1.n;
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_elected(&w, &e);
	assert_true(w.ok && neon_decode_elected(buf, w.len, &e2));

	/* and a count beyond it is refused before anything is read */
	buf[1 + 4 + 8 + 8] = 0xff;
	assert_false(neon_decode_elected(buf, w.len, &e2));
}

static void
test_append(void **state)
{
	neon_msg_append a = {.generation = 7, .term = 9, .begin_lsn = 1000, .end_lsn = 1005, .commit_lsn = 900, .truncate_lsn = 800};
	neon_msg_append a2;
	neon_msg_append_response r = {7, 9, 1005, 1000, 900};
	neon_msg_append_response r2;
	const uint8_t *wal;
	neon_writer w;

	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_append(&w, &a);
	assert_int_equal(w.len, NEON_CONSENSUS_APPEND_HEADER_BYTES);
	neon_put_bytes(&w, "hello", 5);
	assert_true(neon_decode_append(buf, w.len, &a2, &wal));
	assert_true(a2.begin_lsn == 1000 && a2.end_lsn == 1005 && memcmp(wal, "hello", 5) == 0 && !a2.quiet);
	only_whole(w.len);

	/* an end before the begin; quiet with WAL; more WAL than may be in one */
	a.end_lsn = 999;
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_append(&w, &a);
	assert_false(neon_decode_append(buf, w.len, &a2, &wal));
	a.end_lsn = 1001;
	a.quiet = true;
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_append(&w, &a);
	neon_put_u8(&w, 1);
	assert_false(neon_decode_append(buf, w.len, &a2, &wal));
	a.end_lsn = a.begin_lsn + NEON_CONSENSUS_MAX_APPEND_BYTES + 1;
	a.quiet = false;
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_append(&w, &a);
	assert_false(neon_decode_append(buf, w.len, &a2, &wal));

	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_append_response(&w, &r);
	assert_true(neon_decode_append_response(buf, w.len, &r2) && r2.write_lsn == 1005 && r2.flush_lsn == 1000);
	only_whole(w.len);
	r.flush_lsn = 1006;
	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_append_response(&w, &r);
	assert_false(neon_decode_append_response(buf, w.len, &r2));
}

static void
test_refusal(void **state)
{
	neon_msg_refusal r = {.reason = NEON_REFUSE_MISMATCH, .term = 4, .text = "not\nhere"};
	neon_msg_refusal r2;
	neon_writer w;

	neon_writer_init(&w, buf, sizeof(buf));
	neon_encode_refusal(&w, &r);
	assert_true(neon_decode_refusal(buf, w.len, &r2) && r2.reason == NEON_REFUSE_MISMATCH && r2.term == 4);
	assert_string_equal(r2.text, "not?here");
	only_whole(w.len);
	buf[1] = NEON_REFUSE_LAST + 1;
	assert_false(neon_decode_refusal(buf, w.len, &r2));
}

static void
test_random_bytes(void **state)
{
	static const char tags[] = "gveaGVAR";
	uint64_t	x = 88172645463325252ULL;

	for (int round = 0; round < 20000; round++)
	{
		size_t		n = (size_t) (round % 200) + 1;
		uint8_t    *p = malloc(n);

		for (size_t i = 0; i < n; i++)
		{
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			p[i] = (x >> 8) % 3 == 0 ? (uint8_t) x : 0;
		}
		p[0] = (uint8_t) tags[round % 8];
		(void) decode(p, n);
		free(p);
	}
}

static void
test_configuration(void **state)
{
	neon_configuration c;
	char		text[NEON_CONFIGURATION_TEXT];

	assert_true(neon_configuration_parse("1, 2,3/3,4,5", 2, &c));
	assert_true(c.n_members == 3 && c.n_new_members == 3 && c.new_members[2] == 5);
	neon_configuration_print(&c, text);
	assert_string_equal(text, "1,2,3/3,4,5");
	assert_true(neon_configuration_has(&c, 5));
	assert_false(neon_configuration_has(&c, 6));
	assert_false(neon_configuration_parse("1,1", 2, &c));
	assert_false(neon_configuration_parse("0", 2, &c));
	assert_false(neon_configuration_parse("", 2, &c));
	assert_false(neon_configuration_parse("1,2,", 2, &c));
	assert_false(neon_configuration_parse("1;2", 2, &c));
	assert_false(neon_configuration_parse("1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", 2, &c));
}

static void
test_common_point(void **state)
{
	neon_lsn	point;

	/* the leader left term 2 at 200, the acceptor wrote on in it up to 250 */
	set_history(&h1, 3, 1, 100, 2, 150, 5, 200);
	set_history(&h2, 2, 1, 100, 2, 150);
	assert_int_equal(neon_history_common(&h1, &h2, 250, &point), NEON_COMMON_FOUND);
	assert_int_equal(point, 200);

	/* the acceptor is behind */
	assert_int_equal(neon_history_common(&h1, &h2, 170, &point), NEON_COMMON_FOUND);
	assert_int_equal(point, 170);

	/* its last entry is ahead of its WAL: clipped, term 1 is what it has */
	assert_int_equal(neon_history_common(&h1, &h2, 140, &point), NEON_COMMON_FOUND);
	assert_int_equal(point, 140);

	/* another term took over there: parts where term 1 ends on either side */
	set_history(&h2, 2, 1, 100, 3, 180);
	assert_int_equal(neon_history_common(&h1, &h2, 300, &point), NEON_COMMON_FOUND);
	assert_int_equal(point, 150);

	/* empty acceptor */
	set_history(&h2, 0);
	assert_int_equal(neon_history_common(&h1, &h2, 100, &point), NEON_COMMON_NONE);
	assert_int_equal(point, 100);

	/* same term again: the acceptor's end */
	set_history(&h2, 3, 1, 100, 2, 150, 5, 200);
	assert_int_equal(neon_history_common(&h1, &h2, 230, &point), NEON_COMMON_FOUND);
	assert_int_equal(point, 230);

	/* a term that begins at two places */
	set_history(&h2, 2, 1, 100, 2, 160);
	assert_int_equal(neon_history_common(&h1, &h2, 230, &point), NEON_COMMON_BROKEN);
}

static void
test_history_text(void **state)
{
	char		text[200];
	size_t		need;

	set_history(&h1, 3, 1, 0x1500028, 4, 0x1600000, 9, 0x1600000);
	need = neon_history_print(&h1, h1.n, text, sizeof(text));
	assert_int_equal(need, strlen(text));
	assert_true(neon_history_parse(text, &h2));
	assert_int_equal(h2.n, 3);
	assert_memory_equal(h1.e, h2.e, 3 * sizeof(h1.e[0]));
	assert_true(neon_history_print(&h1, h1.n, text, 10) > 10);
	assert_int_equal(strlen(text), 9);
	assert_true(neon_history_parse("", &h2) && h2.n == 0);
	assert_false(neon_history_parse("1:0/10,", &h2));
	assert_false(neon_history_parse("2:0/10,1:0/20", &h2));
	assert_false(neon_history_parse("x", &h2));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_greetings),
		cmocka_unit_test(test_votes),
		cmocka_unit_test(test_elected),
		cmocka_unit_test(test_append),
		cmocka_unit_test(test_refusal),
		cmocka_unit_test(test_random_bytes),
		cmocka_unit_test(test_configuration),
		cmocka_unit_test(test_common_point),
		cmocka_unit_test(test_history_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
