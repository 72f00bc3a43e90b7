/*
 * fuzz_proxy.c - every byte a client can send before authentication: PROXY header, startup packet, options, names, passwords, SCRAM messages, keys of
 * cancel requests; and the names in extended messages.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "px_keytab.h"
#include "px_name.h"
#include "px_proxy2.h"
#include "px_scram.h"
#include "px_wire.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(condition) do { if (!(condition)) abort(); } while (0)

static bool
inside(const char *s, const uint8_t *p, size_t len)
{
	return s == NULL || ((const uint8_t *) s >= p && (const uint8_t *) s + strlen(s) < p + len);
}

static void
startup(const uint8_t *p, size_t len)
{
	px_startup	s;
	px_options	o;
	char		rest[PX_MAX_STARTUP_BYTES];

	if (px_startup_parse(p, len, &s) != PX_FIRST_STARTUP)
		return;
	CHECK(s.len <= len && s.len <= PX_MAX_STARTUP_BYTES && s.npairs <= PX_MAX_STARTUP_PAIRS && s.nextensions <= PX_MAX_EXTENSIONS);
	CHECK(s.user && s.user[0] && s.database[0]);
	for (int i = 0; i < s.npairs; i++)
		CHECK(inside(s.pair[i].name, p, s.len) && inside(s.pair[i].value, p, s.len));
	CHECK(inside(s.user, p, s.len) && inside(s.database, p, s.len) && inside(s.options, p, s.len));
	px_options_parse(s.options, &o, rest, sizeof(rest));
	if (o.ok)
		CHECK(strlen(o.endpoint) < sizeof(o.endpoint) && strlen(rest) == o.rest_len);
}

static void
proxy_header(const uint8_t *p, size_t len)
{
	px_proxy2	h;

	if (px_proxy2_parse(p, len, &h) == PX_PROXY2_OK)
		CHECK(h.len <= len && strlen(h.authority) < sizeof(h.authority));
}

static void
names(const uint8_t *p, size_t len)
{
	char	   *text = malloc(len + 1);
	char		name[PX_NAME_BYTES];
	size_t		skip;

	memcpy(text, p, len);
	text[len] = 0;
	skip = px_password_prefix(text, name);
	CHECK(skip <= strlen(text));
	if (skip)
		CHECK(px_name_valid(name));
	if (px_host_endpoint(text, "*.db.example.org", name))
		CHECK(px_name_valid(name));
	px_looks_like_jwt(text);
	if (strlen(text) < sizeof(name))
	{
		strcpy(name, text);
		px_name_strip_pooler(name);
	}
	free(text);
}

static void
scram(const uint8_t *p, size_t len)
{
	px_secret	secret;
	px_secret	parsed;
	px_scram_server s;
	px_scram_client c;
	px_keys		keys;
	char		out[PX_SCRAM_MAX_MESSAGE];
	char		text[512];
	size_t		half = len / 2;
	static const uint8_t seed[32] = {1};
	bool		plus = len & 1;

	px_secret_fake(seed, "e", "r", &secret);
	if (px_scram_server_first(&s, (const char *) p, half, plus, true, &secret, seed) == PX_SCRAM_OK)
	{
		CHECK(strlen(s.server_first) < sizeof(s.server_first));
		CHECK(px_scram_server_final(&s, (const char *) p + half, len - half, &secret, seed, 32, &keys, out, sizeof(out)) != PX_SCRAM_OK);
	}
	CHECK(px_scram_server_first(&s, "n,,n=,r=abc", 11, false, false, &secret, seed) == PX_SCRAM_OK);
	CHECK(px_scram_server_final(&s, (const char *) p, len, &secret, NULL, 0, &keys, out, sizeof(out)) != PX_SCRAM_OK);
	px_scram_client_first(&c, seed, out, sizeof(out));
	px_scram_client_final(&c, &keys, (const char *) p, len, out, sizeof(out));
	px_scram_client_check(&c, (const char *) p, len);
	if (len < sizeof(text))
	{
		memcpy(text, p, len);
		text[len] = 0;
		if (px_secret_parse(text, &parsed))
			CHECK(px_secret_print(&parsed, text, sizeof(text)));
	}
}

static void
messages(const uint8_t *p, size_t len)
{
	px_head		h;
	px_named	n;
	px_pair		pair;
	bool		to_sync;
	size_t		first = px_first_request(p, len, &to_sync);

	CHECK(first <= len && (first > 0 || !to_sync));
	for (size_t at = 0; at < first; at += h.len)	/* whole messages */
		CHECK(first - at >= PX_HEAD_BYTES && px_head_parse(p + at, &h) && h.len <= first - at);
	if (len < PX_HEAD_BYTES || !px_head_parse(p, &h))
		return;
	px_client_type(h.type);
	px_server_type(h.type);
	if (px_named_parse(p, len, &h, &n) == PX_NAMED_OK)
		CHECK(n.rest <= len && n.rest <= h.len && inside(n.portal, p, len) && inside(n.statement, p, len));
	px_error_field(p + PX_HEAD_BYTES, len - PX_HEAD_BYTES, 'C');
	if (px_parse_pair(p + PX_HEAD_BYTES, len - PX_HEAD_BYTES, &pair))
		CHECK(inside(pair.name, p, len) && inside(pair.value, p, len));
}

/* Keys of cancel requests: which worker, whose; against a plain list. */
static void
cancel_keys(const uint8_t *p, size_t len)
{
	px_keytab	t = {.cap = 0};
	uint64_t	in[256];
	int			n = 0;
	px_startup	s;
	uint8_t		packet[16];

	for (size_t i = 0; i + 2 <= len && n < 250; i += 2)
	{
		/* few different keys, so that they come again, and crowd */
		uint64_t	key = px_key_of_worker(p[i] % 64 + ((uint64_t) (p[i + 1] % 3) << 40), p[i + 1] % 32);
		int			at = 0;

		CHECK(px_key_worker(key) == p[i + 1] % 32);
		CHECK(px_put_cancel(packet, sizeof(packet), key) == 16 && px_startup_parse(packet, 16, &s) == PX_FIRST_CANCEL && s.cancel_key == key);
		while (at < n && in[at] != key)
			at++;
		CHECK((px_keytab_find(&t, key) != NULL) == (at < n));
		if (p[i + 1] & 0x80)
		{
			CHECK(px_keytab_drop(&t, key) == (at < n));
			if (at < n)
				in[at] = in[--n];
		}
		else if (at == n && key != 0)
		{
			if (px_keytab_full(&t))
			{
				uint32_t	cap = t.cap ? t.cap * 2 : 2;

				free(px_keytab_move(&t, calloc(cap, sizeof(px_keyed)), cap));
			}
			in[n++] = key;
			px_keytab_add(&t, key, &t);
		}
	}
	for (int i = 0; i < n; i++)
		CHECK(px_keytab_find(&t, in[i]) == &t);
	CHECK(t.used == (uint32_t) n);
	free(t.slot);
}

/* Bodies of messages that answer a request for authentication. */
static void
answers(const uint8_t *p, size_t len)
{
	px_sasl_initial first;
	char	   *text = malloc(len + 1);

	if (px_sasl_initial_parse(p, len, &first))
		CHECK(inside(first.mechanism, p, len) && first.response + first.response_len == (const char *) p + len);
	if (px_password_parse(p, len))
		CHECK(strlen((const char *) p) == len - 1 && len <= PX_MAX_PASSWORD_BYTES);
	memcpy(text, p, len);
	text[len] = 0;
	CHECK(px_in_list("ann, bob,,  eve ", text) == (strcmp(text, "ann") == 0 || strcmp(text, "bob") == 0 || strcmp(text, "eve") == 0));
	px_in_list(text, "ann");
	free(text);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t    *exact = malloc(size + 1);

	memcpy(exact, data, size);
	exact = realloc(exact, size ? size : 1);
	startup(exact, size);
	proxy_header(exact, size);
	names(exact, size);
	scram(exact, size);
	messages(exact, size);
	cancel_keys(exact, size);
	answers(exact, size);
	free(exact);
	return 0;
}
