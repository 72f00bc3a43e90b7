/*
 * test_px_token.c - JSON web tokens: which are good, and that a refused one leaves nothing behind (the leak check of the sanitizer).
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

#include "px_token.h"

#define NOW 1000000

static cjose_jwk_t *key[2];		/* RSA, EC */
static char *document;

static int
make_keys(void **state)
{
	cjose_err	err;
	char	   *text[2];

	key[0] = cjose_jwk_create_RSA_random(2048, (const uint8_t *) "\x01\x00\x01", 3, &err);
	key[1] = cjose_jwk_create_EC_random(CJOSE_JWK_EC_P_256, &err);
	assert_non_null(key[0]);
	assert_non_null(key[1]);
	document = calloc(1, 8192);
	strcpy(document, "{\"keys\":[");
	for (int i = 0; i < 2; i++)
	{
		assert_true(cjose_jwk_set_kid(key[i], i == 0 ? "r" : "e", 1, &err));
		text[i] = cjose_jwk_to_json(key[i], false, &err);
		strcat(document, i == 0 ? "" : ",");
		strcat(document, text[i]);
		free(text[i]);
	}
	strcat(document, "]}");
	return 0;
}

static int
drop_keys(void **state)
{
	cjose_jwk_release(key[0]);
	cjose_jwk_release(key[1]);
	free(document);
	return 0;
}

/* The header as JSON. */
static char *
token_of(int k, const char *header_text, const char *claims)
{
	cjose_err	err;
	json_t	   *json = json_loads(header_text, 0, NULL);
	cjose_header_t *header = cjose_header_new(&err);
	const char *name;
	json_t	   *value;
	cjose_jws_t *jws;
	const char *text;
	char	   *copy;

	json_object_foreach(json, name, value)
	{
		char	   *raw = json_dumps(value, JSON_ENCODE_ANY);

		assert_true(json_is_string(value) ? cjose_header_set(header, name, json_string_value(value), &err) : cjose_header_set_raw(header, name, raw, &err));
		free(raw);
	}
	jws = cjose_jws_sign(key[k], header, (const uint8_t *) claims, strlen(claims), &err);
	assert_non_null(jws);
	assert_true(cjose_jws_export(jws, &text, &err));
	copy = strdup(text);
	cjose_jws_release(jws);
	cjose_header_release(header);
	json_decref(json);
	return copy;
}

/* NULL: it is good; otherwise what is wrong. */
static const char *
verdict(char *token, const char *issuer_text, const char *role)
{
	json_t	   *issuer = json_loads(issuer_text, 0, NULL);
	px_token	t;
	const char *why;
	bool		known;

	if (px_token_open(token, &t, &why))
	{
		why = px_token_wrong_claims(&t, issuer, role, NOW);
		if (!why && !px_token_signed(&t, document, &known))
			why = known ? "signature" : "key";
	}
	px_token_close(&t);
	json_decref(issuer);
	free(token);
	return why;
}

static void
good_ones(void **state)
{
	const char *issuer = "{\"issuer\":\"i\",\"audience\":\"a\",\"claim\":\"role\"}";

	assert_null(verdict(token_of(0, "{\"alg\":\"RS256\",\"kid\":\"r\"}", "{\"exp\":1000100,\"iss\":\"i\",\"aud\":\"a\"}"), issuer, "ann"));
	assert_null(verdict(token_of(1, "{\"alg\":\"ES256\"}", "{\"exp\":999980,\"iss\":\"i\",\"aud\":[\"b\",\"a\"],\"role\":[\"bob\",\"ann\"]}"), issuer, "ann"));
	assert_null(verdict(token_of(1, "{\"alg\":\"ES256\"}", "{\"exp\":1000100.5,\"nbf\":1000020}"), "{}", "ann"));
}

static void
wrong_claims(void **state)
{
	const char *issuer = "{\"issuer\":\"i\",\"audience\":\"a\",\"claim\":\"role\"}";
	static const char *const claims[] = {
		"{\"exp\":999970,\"iss\":\"i\",\"aud\":\"a\"}", "{\"iss\":\"i\",\"aud\":\"a\"}", "{\"exp\":\"1000100\",\"iss\":\"i\",\"aud\":\"a\"}",
		"{\"exp\":1000100,\"nbf\":1000031,\"iss\":\"i\",\"aud\":\"a\"}", "{\"exp\":1000100,\"iss\":[\"i\"],\"aud\":\"a\"}",
		"{\"exp\":1000100,\"iss\":\"i\",\"aud\":\"b\"}", "{\"exp\":1000100,\"iss\":\"i\",\"aud\":\"a\",\"role\":\"bob\"}",
		"{\"exp\":1000100,\"iss\":\"i\",\"aud\":\"a\",\"role\":7}", "[]", "", "{\"exp\":1,\"exp\":1000100}"
	};

	for (size_t i = 0; i < sizeof(claims) / sizeof(claims[0]); i++)
		assert_non_null(verdict(token_of(1, "{\"alg\":\"ES256\"}", claims[i]), issuer, "ann"));
}

/* None of them may be good, and none may leave memory behind: anybody may send them, for ever. */
static void
refused_without_a_trace(void **state)
{
	const char *claims = "{\"exp\":1000100}";

	assert_string_equal(verdict(token_of(0, "{\"alg\":\"RS256\",\"kid\":\"other\"}", claims), "{}", "ann"), "key");
	assert_string_equal(verdict(token_of(0, "{\"alg\":\"RS256\",\"kid\":\"e\"}", claims), "{}", "ann"), "key");
	assert_non_null(verdict(token_of(0, "{\"alg\":\"RS384\"}", claims), "{}", "ann"));
	assert_non_null(verdict(token_of(0, "{\"alg\":\"PS256\"}", claims), "{}", "ann"));
	assert_non_null(verdict(token_of(0, "{\"alg\":\"RS256\",\"crit\":[\"b64\"]}", claims), "{}", "ann"));
	assert_non_null(verdict(strdup("eyJhbGciOiJub25lIn0.eyJleHAiOjEwMDAxMDB9."), "{}", "ann"));
	assert_non_null(verdict(strdup("eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjEwMDAxMDB9.AAAA"), "{}", "ann"));
	assert_non_null(verdict(strdup("eyJhbGciOiJSUzI1NiJ9..AAAA"), "{}", "ann"));
	assert_non_null(verdict(strdup(".."), "{}", "ann"));
	assert_non_null(verdict(strdup(""), "{}", "ann"));
}

/* libcjose ends the process at some of these. */
static void
not_base64(void **state)
{
	static const char *const texts[] = {"=.=.=", "eyJhbGciOiJSUzI1NiJ9.e30=.AAAA", "eyJhbGciOiJSUzI1NiJ9.e.AAAA", "eyJhbGciOiJSUzI1NiJ9.e30.A", "e=JhbGciOiJSUzI1NiJ9.e30.AAAA",
		"eyJhbGciOiJSUzI1NiJ9.e30.AAAA.", "eyJhbGciOiJSUzI1NiJ9.e30", "eyJhbGciOiJSUzI1NiJ9.e30.AA A", "eyJhbGciOiJSUzI1NiJ9.e3+.AAAA", "a.b.c"};
	char	   *token;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		assert_string_equal(verdict(strdup(texts[i]), "{}", "ann"), "not a token");
	/* a byte of a good one changed, everywhere, into everything that may have a meaning */
	token = token_of(1, "{\"alg\":\"ES256\"}", "{\"exp\":1000100}");
	for (size_t i = 0; token[i]; i++)
		for (const char *c = "=.-_A+/ \x80"; *c; c++)
		{
			char	   *changed = strdup(token);

			changed[i] = *c;
			if (i < (size_t) (strrchr(token, '.') - token) && *c != token[i])
				assert_non_null(verdict(changed, "{}", "ann"));
			else
				verdict(changed, "{}", "ann");
		}
	free(token);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_ones),
		cmocka_unit_test(wrong_claims),
		cmocka_unit_test(refused_without_a_trace),
		cmocka_unit_test(not_base64),
	};

	return cmocka_run_group_tests(tests, make_keys, drop_keys);
}
