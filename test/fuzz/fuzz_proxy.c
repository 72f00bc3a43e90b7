/*
 * fuzz_proxy.c - every byte a client can send before authentication: PROXY header, startup packet, options, names, SCRAM messages; and the
 * names in extended messages.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
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
	free(exact);
	return 0;
}
