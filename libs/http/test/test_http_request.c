/*
 * test_http_request.c - what an HTTP client says before anybody knows who it is.
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
#include <jansson.h>

#include "neon_http_request.h"
#include "px_proxy2.h"

static void
sql_is(const char *body, const char *const *params, int n)
{
	NhSql		sql;

	assert_null(nh_sql_body(&sql, body, strlen(body)));
	assert_int_equal(sql.nstatements, 1);
	assert_int_equal(sql.statements[0].nparams, n);
	for (int i = 0; i < n; i++)
		if (params[i])
			assert_string_equal(sql.statements[0].params[i], params[i]);
		else
			assert_null(sql.statements[0].params[i]);
	nh_sql_free(&sql);
}

static void
parameters(void **state)
{
	static const char *const want[] = {"a\"b", NULL, "true", "7", "0.1", "1e+20", "100000", "{1,\"x\\\"y\",NULL,{}}", "{\"a\":[0.1,{\"b\":null}]}",
		"{\"{\\\"a\\\":1}\"}"};

	sql_is("{\"query\":\"q\",\"params\":[\"a\\\"b\",null,true,7,0.1,100000000000000000000,100000.0,[1,\"x\\\"y\",null,[]],{\"a\":[0.1,{\"b\":null}]},[{\"a\":1}]]}",
		   want, sizeof(want) / sizeof(want[0]));
}

static void
an_empty_parameter_first(void **state)
{
	static const char *const want[] = {""};

	sql_is("{\"query\":\"q\",\"params\":[\"\"]}", want, 1);
}

static void
wrong_bodies(void **state)
{
	static const char *const bodies[] = {"", "[]", "7", "{", "{}", "{\"query\":1}", "{\"query\":\"q\",\"params\":{}}", "{\"queries\":{}}",
		"{\"queries\":[7]}", "{\"query\":\"q\",\"query\":\"r\"}", "{\"query\":\"q\\u0000\"}"};
	NhSql		sql;

	for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
	{
		assert_non_null(nh_sql_body(&sql, bodies[i], strlen(bodies[i])));
		nh_sql_free(&sql);
	}
}

/* Ten megabytes of {} would be near a gigabyte of objects: refused before it is read. */
static void
few_bytes_many_values(void **state)
{
	size_t		n = 3 * (NH_MAX_VALUES + 10);
	char	   *body = malloc(n);
	const char *wrong;
	json_t	   *json;

	body[0] = '[';
	for (size_t i = 1; i + 2 < n; i += 3)
		memcpy(body + i, "{},", 3);
	body[n - 2] = '0';
	body[n - 1] = ']';
	assert_null(nh_json_load(body, n, &wrong));
	assert_non_null(strstr(wrong, "1000000 values"));
	/* in strings they are only bytes */
	memset(body, ',', n);
	memcpy(body, "[\"", 2);
	memcpy(body + n - 2, "\"]", 2);
	json = nh_json_load(body, n, &wrong);
	assert_int_equal(json_array_size(json), 1);
	json_decref(json);
	free(body);
}

static const char *uri;

static const char *
only_uri(void *arg, const char *name)
{
	return strcmp(name, "neon-connection-string") == 0 ? uri : NULL;
}

static const char *
value_of(const NhTarget *t, const char *keyword)
{
	for (int i = 0; i < t->n; i++)
		if (strcmp(t->keyword[i], keyword) == 0)
			return t->value[i];
	return NULL;
}

static void
targets(void **state)
{
	NhTarget	t = {.n = 0};
	char	   *bearer;
	char		endpoint[80];
	const char *role;

	uri = "postgresql://ann:p%40@main-1a2b3c4d.db.example.org:99/app?host=/etc&passfile=/etc/passwd&sslmode=require&application_name=x";
	assert_null(nh_sql_target(&t, &bearer, only_uri, NULL, "/sockets", 5430));
	assert_string_equal(value_of(&t, "host"), "/sockets");
	assert_string_equal(value_of(&t, "port"), "5430");
	assert_string_equal(value_of(&t, "passfile"), "/dev/null");
	assert_string_equal(value_of(&t, "password"), "p@");
	assert_false(nh_target_names(&t, endpoint, sizeof(endpoint), &role));	/* the host was /etc */
	nh_target_free(&t);
	uri = "postgresql://ann:p@main-1a2b3c4d-pooler.db.example.org/app";
	assert_null(nh_sql_target(&t, &bearer, only_uri, NULL, "/sockets", 5430));
	assert_true(nh_target_names(&t, endpoint, sizeof(endpoint), &role));
	assert_string_equal(endpoint, "main-1a2b3c4d");
	assert_string_equal(role, "ann");
	nh_target_free(&t);
	uri = "postgresql://ann:p@h/app?options=-c%20neon_proxy.x%3D1";
	assert_non_null(nh_sql_target(&t, &bearer, only_uri, NULL, "/sockets", 5430));
	nh_target_free(&t);
}

static void
cookies(void **state)
{
	char		session[NH_SESSION_CHARS + 1];
	char		good[NH_SESSION_CHARS + 1];
	char		text[300];

	memset(good, 'a', NH_SESSION_CHARS);
	good[NH_SESSION_CHARS] = 0;
	snprintf(text, sizeof(text), "x=y; s=%.63sG; s=%s; z", good, good);
	assert_true(nh_session_cookie(text, "s", session));
	assert_string_equal(session, good);
	snprintf(text, sizeof(text), "ss=%s; s=%s0", good, good);
	assert_false(nh_session_cookie(text, "s", session));
	assert_false(nh_session_cookie(NULL, "s", session));
}

static void
lengths(void **state)
{
	assert_int_equal(nh_content_length("0", 10), 0);
	assert_int_equal(nh_content_length("10", 10), 10);
	assert_int_equal(nh_content_length("11", 10), -1);
	assert_int_equal(nh_content_length("", 10), -1);
	assert_int_equal(nh_content_length("-1", 10), -1);
	assert_int_equal(nh_content_length("+1", 10), -1);
	assert_int_equal(nh_content_length(" 1", 10), -1);
	assert_int_equal(nh_content_length("1,1", 10), -1);
	assert_int_equal(nh_content_length("18446744073709551617", 10), -1);
}

static void *
grow(void *p, size_t n)
{
	return realloc(p, n);
}

static void
proxy_headers(void **state)
{
	NhBuf		b = {.realloc = grow,.limit_bytes = 4096};
	char		host[NH_MAX_HOST_BYTES] = "first";
	px_proxy2	p;

	nh_websocket_argument("address=main-1a2b3c4d.db:5432", host);
	nh_proxy_header(&b, "2001:db8::1", host);
	assert_int_equal(px_proxy2_parse((uint8_t *) b.data, b.len, &p), PX_PROXY2_OK);
	assert_string_equal(p.authority, "main-1a2b3c4d.db");
	assert_int_equal(p.address[0], 0x20);
	assert_true(p.ask_password);
	free(b.data);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parameters),
		cmocka_unit_test(an_empty_parameter_first),
		cmocka_unit_test(wrong_bodies),
		cmocka_unit_test(few_bytes_many_values),
		cmocka_unit_test(targets),
		cmocka_unit_test(cookies),
		cmocka_unit_test(lengths),
		cmocka_unit_test(proxy_headers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
