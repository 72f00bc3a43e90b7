/*
 * test_px_scram.c - SCRAM-SHA-256: the RFC's own example, both sides against each other, keys in place of a password, what is refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "px_scram.h"

static const uint8_t nonce[PX_SCRAM_NONCE_BYTES] = "abcdefghijklmnopq";

/* RFC 7677, section 3: user "user", password "pencil". */
static void
rfc_example(void **state)
{
	static const char first[] = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
	static const char server_first[] = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
	static const char final[] = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
	uint8_t		salt[16];
	size_t		n;
	px_secret	secret;
	px_scram_server s;
	px_keys		keys;
	char		answer[96];

	assert_true(px_base64_decode("W22ZaJ0SNY7soEsUEjb6gQ==", 24, salt, sizeof(salt), &n) && n == 16);
	assert_true(px_secret_make("pencil", salt, n, 4096, &secret, NULL));
	assert_int_equal(px_scram_server_first(&s, first, sizeof(first) - 1, false, false, &secret, nonce), PX_SCRAM_OK);
	/* the example's nonce in place of ours */
	snprintf(s.nonce, sizeof(s.nonce), "rOprNGfwEbeRWgbNEkqO%%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
	snprintf(s.server_first, sizeof(s.server_first), "%s", server_first);
	assert_int_equal(px_scram_server_final(&s, final, sizeof(final) - 1, &secret, NULL, 0, &keys, answer, sizeof(answer)), PX_SCRAM_OK);
	assert_string_equal(answer, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

static px_secret
secret_of(const char *password, px_keys *keys)
{
	px_secret	s;

	assert_true(px_secret_make(password, (const uint8_t *) "0123456789abcdef", 16, 64, &s, keys));
	return s;
}

/* A client that has keys only, against our server. */
static px_scram_result
exchange(const px_secret *secret, const px_keys *client, px_keys *found, bool check_server)
{
	px_scram_client c;
	px_scram_server s;
	char		msg[PX_SCRAM_MAX_MESSAGE];
	char		answer[96];
	size_t		n = px_scram_client_first(&c, nonce, msg, sizeof(msg));
	px_scram_result r = px_scram_server_first(&s, msg, n, false, false, secret, (const uint8_t *) "server-nonce-12345");

	assert_int_equal(r, PX_SCRAM_OK);
	n = px_scram_client_final(&c, client, s.server_first, strlen(s.server_first), msg, sizeof(msg));
	assert_true(n > 0);
	r = px_scram_server_final(&s, msg, n, secret, NULL, 0, found, answer, sizeof(answer));
	if (r == PX_SCRAM_OK)
		assert_int_equal(px_scram_client_check(&c, answer, strlen(answer)), check_server);
	return r;
}

static void
keys_are_enough(void **state)
{
	px_keys		keys;
	px_keys		found;
	px_keys		other;
	px_secret	secret = secret_of("correct horse", &keys);
	px_secret	same;
	char		text[256];

	assert_int_equal(exchange(&secret, &keys, &found, true), PX_SCRAM_OK);
	assert_memory_equal(&found, &keys, sizeof(keys));	/* what the proxy goes on with */
	assert_int_equal(exchange(&secret, &found, &other, true), PX_SCRAM_OK);
	found.server_key[0] ^= 1;	/* the server's own proof is looked at */
	assert_int_equal(exchange(&secret, &found, &other, false), PX_SCRAM_OK);
	secret_of("wrong", &other);
	assert_int_equal(exchange(&secret, &other, &found, false), PX_SCRAM_NO_MATCH);
	for (int i = 0; i < PX_KEY_BYTES; i++)
		assert_int_equal(found.client_key[i], 0);
	assert_true(px_secret_check(&secret, "correct horse", &found) && memcmp(&found, &keys, sizeof(keys)) == 0);
	assert_false(px_secret_check(&secret, "correct horsf", &found));
	assert_true(px_secret_print(&secret, text, sizeof(text)) && px_secret_parse(text, &same));
	assert_memory_equal(&same, &secret, sizeof(same));
}

static void
fake_secrets(void **state)
{
	uint8_t		seed[32] = {1};
	px_secret	a,
				b;

	px_secret_fake(seed, "main", "ann", &a);
	px_secret_fake(seed, "main", "ann", &b);
	assert_memory_equal(&a, &b, sizeof(a));
	px_secret_fake(seed, "main", "bob", &b);
	assert_memory_not_equal(a.salt, b.salt, 16);
	px_secret_fake(seed, "mai", "nann", &b);
	assert_memory_not_equal(a.salt, b.salt, 16);
	assert_int_equal(a.iterations, 4096);
	assert_int_equal(a.salt_len, 16);
}

static void
bad_secrets(void **state)
{
	px_secret	s;
	static const char *const bad[] = {
		"", "md5abc", "SCRAM-SHA-256$", "SCRAM-SHA-256$4096", "SCRAM-SHA-256$4096:", "SCRAM-SHA-256$0:AAAA$AAAA:AAAA",
		"SCRAM-SHA-256$-1:AAAA$", "SCRAM-SHA-256$999999999:AAAA$AAAA:AAAA", "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA",
		"SCRAM-SHA-256$4096:AAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(px_secret_parse(bad[i], &s));
	assert_true(px_secret_parse("SCRAM-SHA-256$4096:AAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", &s));
}

static void
channel_binding(void **state)
{
	px_keys		keys,
				found;
	px_secret	secret = secret_of("x", &keys);
	px_scram_server s;
	char		answer[96];
	char		msg[512];
	const uint8_t hash[32] = {7};

	/* a client that could bind and was not offered it, when we did offer it */
	assert_int_equal(px_scram_server_first(&s, "y,,n=,r=abc", 11, false, true, &secret, nonce), PX_SCRAM_BINDING);
	assert_int_equal(px_scram_server_first(&s, "y,,n=,r=abc", 11, false, false, &secret, nonce), PX_SCRAM_OK);
	assert_int_equal(px_scram_server_first(&s, "p=tls-unique,,n=,r=abc", 22, true, true, &secret, nonce), PX_SCRAM_MALFORMED);
	assert_int_equal(px_scram_server_first(&s, "n,,n=,r=abc", 11, true, true, &secret, nonce), PX_SCRAM_MALFORMED);
	assert_int_equal(px_scram_server_first(&s, "p=tls-server-end-point,,n=,r=abc", 32, true, true, &secret, nonce), PX_SCRAM_OK);
	snprintf(msg, sizeof(msg), "c=biws,r=%s,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", s.nonce);
	assert_int_equal(px_scram_server_final(&s, msg, strlen(msg), &secret, hash, sizeof(hash), &found, answer, sizeof(answer)), PX_SCRAM_BINDING);
}

static void
malformed(void **state)
{
	px_secret	secret = secret_of("x", NULL);
	px_scram_server s;
	px_scram_client c;
	px_keys		keys = {{0}};
	char		out[PX_SCRAM_MAX_MESSAGE];
	char		answer[96];
	static const char *const firsts[] = {
		"", "n", "n,", "n,,", "n,,n=", "n,,n=,", "n,,n=,r=", "n,a=x,n=,r=abc", "x,,n=,r=abc", "n,,n=,r=a b", "n,,n=,r=abc,x=1", "n,,m=1,n=,r=abc",
	};
	static const char *const finals[] = {"", "c=biws", "c=biws,r=", "r=x,c=biws,p=", "c=biws,r=abc,p=AAAA", "c=biws,r=abc,x=1,p=AAAA"};
	static const char *const servers[] = {"", "r=", "r=abc", "e=other-error", "r=zzz,s=AAAA,i=4096"};

	for (size_t i = 0; i < sizeof(firsts) / sizeof(firsts[0]); i++)
		assert_int_equal(px_scram_server_first(&s, firsts[i], strlen(firsts[i]), false, false, &secret, nonce), PX_SCRAM_MALFORMED);
	assert_int_equal(px_scram_server_first(&s, "n,,n=,r=abc", 11, false, false, &secret, nonce), PX_SCRAM_OK);
	for (size_t i = 0; i < sizeof(finals) / sizeof(finals[0]); i++)
		assert_int_equal(px_scram_server_final(&s, finals[i], strlen(finals[i]), &secret, NULL, 0, &keys, answer, sizeof(answer)), PX_SCRAM_MALFORMED);
	px_scram_client_first(&c, nonce, out, sizeof(out));
	for (size_t i = 0; i < sizeof(servers) / sizeof(servers[0]); i++)
		assert_int_equal(px_scram_client_final(&c, &keys, servers[i], strlen(servers[i]), out, sizeof(out)), 0);
	assert_false(px_scram_client_check(&c, "v=", 2) || px_scram_client_check(&c, "e=no", 4));
}

static void
base64(void **state)
{
	uint8_t		raw[8];
	size_t		n;

	assert_true(px_base64_decode("AA==", 4, raw, 8, &n) && n == 1);
	assert_false(px_base64_decode("AB==", 4, raw, 8, &n));	/* bits that are not zero */
	assert_false(px_base64_decode("A===", 4, raw, 8, &n) || px_base64_decode("AA=A", 4, raw, 8, &n) || px_base64_decode("AAA", 3, raw, 8, &n));
	assert_false(px_base64_decode("AA==AAAA", 8, raw, 8, &n) || px_base64_decode("AAAAAAAAAAAA", 12, raw, 8, &n));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rfc_example), cmocka_unit_test(keys_are_enough), cmocka_unit_test(fake_secrets), cmocka_unit_test(bad_secrets),
		cmocka_unit_test(channel_binding), cmocka_unit_test(malformed), cmocka_unit_test(base64),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
