/*
 * test_px_wire.c - startup packets, options, names, PROXY headers, heads of messages.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "px_name.h"
#include "px_proxy2.h"
#include "px_wire.h"

/* A startup packet from pairs of strings, in a heap block of exactly its size. */
static uint8_t *
packet(uint32_t code, const char *pairs, size_t n, size_t *len)
{
	uint8_t    *p = malloc(8 + n);

	*len = 8 + n;
	p[0] = p[1] = 0;
	p[2] = (uint8_t) (*len >> 8);
	p[3] = (uint8_t) *len;
	for (int i = 0; i < 4; i++)
		p[4 + i] = (uint8_t) (code >> (24 - 8 * i));
	memcpy(p + 8, pairs, n);
	return p;
}

static px_first
parse(uint32_t code, const char *pairs, size_t n, px_startup *s)
{
	size_t		len;
	static uint8_t *p;

	free(p);
	p = packet(code, pairs, n, &len);
	for (size_t i = 4; i < len; i++)	/* every prefix is "more" */
		if (code >> 16 == 3)
			assert_int_equal(px_startup_parse(p, i, s), PX_FIRST_MORE);
	return px_startup_parse(p, len, s);
}

#define PAIRS(s) s, sizeof(s)	/* the literal's own zero is the terminator */

static void
startup(void **state)
{
	px_startup	s;

	assert_int_equal(parse(3 << 16, PAIRS("user\0ann\0database\0shop\0options\0endpoint=x\0"), &s), PX_FIRST_STARTUP);
	assert_string_equal(s.user, "ann");
	assert_string_equal(s.database, "shop");
	assert_string_equal(s.options, "endpoint=x");
	assert_int_equal(s.npairs, 3);
	assert_int_equal(parse(3 << 16, PAIRS("user\0ann\0"), &s), PX_FIRST_STARTUP);
	assert_string_equal(s.database, "ann");
	assert_null(s.options);
	assert_int_equal(parse(3 << 16 | 2, PAIRS("user\0ann\0_pq_.x\0y\0"), &s), PX_FIRST_STARTUP);
	assert_int_equal(s.minor, 2);
	assert_int_equal(s.nextensions, 1);
	assert_int_equal(s.npairs, 1);
	assert_int_equal(parse(3 << 16, PAIRS("user\0ann\0replication\0off\0"), &s), PX_FIRST_STARTUP);
	assert_null(s.replication);
	assert_int_equal(parse(3 << 16, PAIRS("user\0ann\0replication\0database\0"), &s), PX_FIRST_STARTUP);
	assert_non_null(s.replication);
}

static void
bad_startup(void **state)
{
	px_startup	s;
	char		many[2000] = "user\0a";
	size_t		n = 7;

	assert_int_equal(parse(3 << 16, "", 0, &s), PX_FIRST_BAD);
	assert_int_equal(parse(3 << 16, "\0", 1, &s), PX_FIRST_BAD);	/* no user */
	assert_int_equal(parse(3 << 16, "user\0\0", 7, &s), PX_FIRST_BAD);	/* an empty one */
	assert_int_equal(parse(3 << 16, "user\0ann\0", 9, &s), PX_FIRST_BAD);	/* no terminator */
	assert_int_equal(parse(3 << 16, "user\0ann", 8, &s), PX_FIRST_BAD);
	assert_int_equal(parse(3 << 16, "user\0", 5, &s), PX_FIRST_BAD);	/* a name without a value */
	assert_int_equal(parse(3 << 16, "user\0ann\0\0x\0", 12, &s), PX_FIRST_BAD); /* bytes behind the end */
	assert_int_equal(parse(2 << 16, PAIRS("user\0ann\0"), &s), PX_FIRST_BAD);
	for (int i = 0; i < PX_MAX_STARTUP_PAIRS + 1; i++)
	{
		memcpy(many + n, "a\0b", 4);
		n += 4;
	}
	many[n++] = 0;
	assert_int_equal(parse(3 << 16, many, n, &s), PX_FIRST_BAD);
}

static void
special_requests(void **state)
{
	px_startup	s;
	static const uint8_t long_one[8] = {0, 0, 0x27, 0x11, 0, 3, 0, 0};	/* 10001 */
	static const uint8_t short_one[8] = {0, 0, 0, 7, 0, 3, 0, 0};

	assert_int_equal(parse(80877103, "", 0, &s), PX_FIRST_SSL);
	assert_int_equal(parse(80877104, "", 0, &s), PX_FIRST_GSS);
	assert_int_equal(parse(80877103, "x", 1, &s), PX_FIRST_BAD);
	assert_int_equal(parse(80877102, "\1\2\3\4\5\6\7\10", 8, &s), PX_FIRST_CANCEL);
	assert_true(s.cancel_key == UINT64_C(0x0102030405060708));
	assert_int_equal(parse(80877102, "\1\2\3\4", 4, &s), PX_FIRST_BAD);
	assert_int_equal(px_startup_parse(long_one, 8, &s), PX_FIRST_BAD);
	assert_int_equal(px_startup_parse(short_one, 8, &s), PX_FIRST_BAD);
	assert_int_equal(px_startup_parse((const uint8_t *) "GET ", 4, &s), PX_FIRST_BAD);	/* HTTP at the wrong door */
}

static void
options(void **state)
{
	px_options	o;
	char		rest[64];

	px_options_parse("  endpoint=main-1a2b3c4d -c  work_mem=1MB auth=password ", &o, rest, sizeof(rest));
	assert_true(o.ok && o.ask_password && !o.ask_redirect);
	assert_string_equal(o.endpoint, "main-1a2b3c4d");
	assert_string_equal(rest, "-c work_mem=1MB");
	px_options_parse("project=a endpoint=a", &o, rest, sizeof(rest));
	assert_true(o.ok);
	px_options_parse("endpoint=a endpoint=b", &o, rest, sizeof(rest));
	assert_false(o.ok);
	px_options_parse("endpoint=", &o, rest, sizeof(rest));
	assert_false(o.ok);
	px_options_parse("-c search_path=a\\ endpoint=b", &o, rest, sizeof(rest));
	assert_true(o.ok);
	assert_string_equal(o.endpoint, "");
	assert_string_equal(rest, "-c search_path=a\\ endpoint=b");
	px_options_parse("-c a=01234567890123456789012345678901234567890123456789012345678901", &o, rest, sizeof(rest));
	assert_false(o.ok);
	px_options_parse(NULL, &o, rest, sizeof(rest));
	assert_true(o.ok && rest[0] == '\0');
	px_options_parse("endpoint=012345678901234567890123456789012345678901234567890123456789012345678901234567890", &o, rest, sizeof(rest));
	assert_false(o.ok);
}

static void
names(void **state)
{
	char		name[PX_NAME_BYTES];
	char		pooled[PX_NAME_BYTES] = "main-1a2b3c4d-pooler";
	char		not_pooled[PX_NAME_BYTES] = "my-pooler";

	assert_true(px_name_valid("a") && px_name_valid("main-1a2b3c4d") && px_name_valid("0_x"));
	assert_false(px_name_valid("") || px_name_valid("-a") || px_name_valid("A") || px_name_valid("a.b") || px_name_valid("a\xc3\xa4"));
	assert_true(px_name_strip_pooler(pooled));
	assert_string_equal(pooled, "main-1a2b3c4d");
	assert_false(px_name_strip_pooler(not_pooled) || px_name_strip_pooler(pooled));
	assert_true(px_host_endpoint("Main.DB.example.org", "*.db.example.org", name));
	assert_string_equal(name, "main");
	assert_false(px_host_endpoint("main.other.org", "*.db.example.org", name));
	assert_false(px_host_endpoint("main.x.db.example.org", "*.db.example.org", name));
	assert_false(px_host_endpoint("db.example.org", "db.example.org", name));	/* no wildcard, no endpoint */
	assert_false(px_host_endpoint(".db.example.org", "*.db.example.org", name));
	assert_false(px_host_endpoint("localhost", "*.localhost", name));
	assert_true(px_host_matches("LOCALHOST", "localhost"));
}

static void
passwords(void **state)
{
	char		name[PX_NAME_BYTES];

	assert_int_equal(px_password_prefix("endpoint=main;a$b;c", name), 14);
	assert_string_equal(name, "main");
	assert_int_equal(px_password_prefix("endpoint=main$a", name), 14);
	assert_int_equal(px_password_prefix("main-1a2b3c4d$s", name), 14);
	assert_string_equal(name, "main-1a2b3c4d");
	assert_int_equal(px_password_prefix("plain", name), 0);
	assert_int_equal(px_password_prefix("$x", name), 0);
	assert_int_equal(px_password_prefix("Not Valid$x", name), 0);
	assert_int_equal(px_password_prefix("endpoint=;x", name), 0);
	assert_true(px_looks_like_jwt("eyJhbGciOiJFUzI1NiJ9.e30.c2ln"));
	assert_false(px_looks_like_jwt("eyJ.e30") || px_looks_like_jwt("eyJ.e30.") || px_looks_like_jwt("secret.with.dots") || px_looks_like_jwt("ey a.b.c"));
}

static void
proxy_headers(void **state)
{
	static const uint8_t head[] = "\r\n\r\n\0\r\nQUIT\n";
	uint8_t		p[64];
	px_proxy2	h;

	memcpy(p, head, 12);
	memcpy(p + 12, "\x21\x11\x00\x1d\xc0\x00\x02\x01\x7f\x00\x00\x01\x1f\x90\x15\x36\x02\x00\x03" "a.b\xe0\x00\x08password", 33);
	for (size_t i = 1; i < 45; i++)
		assert_int_equal(px_proxy2_parse(p, i, &h), PX_PROXY2_MORE);
	assert_int_equal(px_proxy2_parse(p, 45, &h), PX_PROXY2_OK);
	assert_int_equal(h.len, 45);
	assert_true(h.has_address && h.ask_password && h.port == 8080);
	assert_memory_equal(h.address + 10, "\xff\xff\xc0\x00\x02\x01", 6);
	assert_string_equal(h.authority, "a.b");
	p[30] = 0x09;				/* a TLV longer than the header */
	assert_int_equal(px_proxy2_parse(p, 45, &h), PX_PROXY2_BAD);
	p[14] = 0xff;
	assert_int_equal(px_proxy2_parse(p, 45, &h), PX_PROXY2_BAD);
	p[12] = 0x11;				/* another version */
	assert_int_equal(px_proxy2_parse(p, 45, &h), PX_PROXY2_BAD);
	assert_int_equal(px_proxy2_parse((const uint8_t *) "\0\0\0\x08", 4, &h), PX_PROXY2_NONE);
	memcpy(p + 12, "\x20\x00\x00\x00", 4);
	assert_int_equal(px_proxy2_parse(p, 16, &h), PX_PROXY2_OK);
	assert_false(h.has_address);
}

static void
heads(void **state)
{
	px_head		h;

	assert_true(px_head_parse((const uint8_t *) "Q\0\0\0\x04", &h));
	assert_int_equal(h.len, 5);
	assert_false(px_head_parse((const uint8_t *) "Q\0\0\0\x03", &h));
	assert_false(px_head_parse((const uint8_t *) "Q\xff\xff\xff\xff", &h));
	assert_true(px_client_type('Q') && px_server_type('Z'));
	assert_false(px_client_type(0) || px_client_type('Z') || px_server_type(0) || px_server_type('Q'));
}

static void
extended(void **state)
{
	px_head		h;
	px_named	n;
	static const uint8_t bind[] = "B\0\0\0\x0dp\0st\0rest";
	static const uint8_t describe[] = "D\0\0\0\x07Sx\0";
	static const uint8_t portal[] = "C\0\0\0\x07Px\0";

	px_head_parse(bind, &h);
	assert_int_equal(h.len, 14);
	for (size_t i = 5; i < 10; i++)
		assert_int_equal(px_named_parse(bind, i, &h, &n), PX_NAMED_MORE);
	assert_int_equal(px_named_parse(bind, 10, &h, &n), PX_NAMED_OK);
	assert_string_equal(n.portal, "p");
	assert_string_equal(n.statement, "st");
	assert_int_equal(n.rest, 10);
	px_head_parse(describe, &h);
	assert_int_equal(px_named_parse(describe, 8, &h, &n), PX_NAMED_OK);
	assert_string_equal(n.statement, "x");
	px_head_parse(portal, &h);
	assert_int_equal(px_named_parse(portal, 8, &h, &n), PX_NAMED_OK);
	assert_null(n.statement);
	px_head_parse((const uint8_t *) "B\0\0\0\x06p\0x", &h);
	assert_int_equal(px_named_parse((const uint8_t *) "B\0\0\0\x06p\0x", 7, &h, &n), PX_NAMED_BAD);
	px_head_parse((const uint8_t *) "D\0\0\0\x06Qx\0", &h);
	assert_int_equal(px_named_parse((const uint8_t *) "D\0\0\0\x06Qx", 7, &h, &n), PX_NAMED_BAD);
}

static void
errors(void **state)
{
	uint8_t		buf[256];
	px_error	e = {"FATAL", "28P01", "no", NULL, "Try."};
	size_t		n = px_put_error(buf, sizeof(buf), &e);

	assert_true(n > 0 && buf[0] == 'E');
	assert_string_equal(px_error_field(buf + 5, n - 5, 'C'), "28P01");
	assert_string_equal(px_error_field(buf + 5, n - 5, 'H'), "Try.");
	assert_null(px_error_field(buf + 5, n - 5, 'D'));
	assert_int_equal(px_put_error(buf, 20, &e), 0);
	assert_null(px_error_field((const uint8_t *) "Cabc", 4, 'C'));	/* no end */
}

static void
first_request(void **state)
{
#define Q "Q\0\0\0\x06" "a\0"
#define P "P\0\0\0\x08" "\0a\0\0"
#define E "E\0\0\0\x09" "\0\0\0\0\0"
#define S "S\0\0\0\x04"
#define H "H\0\0\0\x04"
#define X "X\0\0\0\x04"
	static const struct
	{
		const char *bytes;
		size_t		len;
		size_t		first;
		bool		to_sync;
	}			cases[] = {
		{"", 0, 0, false}, {Q, 7, 7, false}, {Q, 6, 0, false}, {Q Q, 14, 7, false}, {Q P E S, 31, 7, false}, {P E S, 24, 24, false}, {P E S Q, 31, 24, false},
		{P E H, 24, 24, true}, {P E, 18, 9, true}, {P, 8, 0, false}, {P Q S, 21, 21, false}, {P X, 14, 9, true}, {S, 5, 0, false}, {X, 5, 0, false},
		{P "E\0\0\0\0", 14, 9, true}
	};
	bool		to_sync;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		uint8_t    *exact = malloc(cases[i].len + 1);

		exact = realloc(memcpy(exact, cases[i].bytes, cases[i].len), cases[i].len ? cases[i].len : 1);
		assert_int_equal(px_first_request(exact, cases[i].len, &to_sync), cases[i].first);
		assert_int_equal(to_sync, cases[i].to_sync);
		free(exact);
	}
#undef Q
#undef P
#undef E
#undef S
#undef H
#undef X
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(startup), cmocka_unit_test(bad_startup), cmocka_unit_test(special_requests), cmocka_unit_test(options),
		cmocka_unit_test(names), cmocka_unit_test(passwords), cmocka_unit_test(proxy_headers), cmocka_unit_test(heads),
		cmocka_unit_test(extended), cmocka_unit_test(errors), cmocka_unit_test(first_request),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
