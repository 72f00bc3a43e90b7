/*
 * fuzz_token.c - JSON web tokens: only what a key of the document signed is good, whatever header, claims, text or document say.
 *
 * The harness makes an RSA and an EC key when it starts, publishes both, and keeps a third that it does not publish.  It signs with OpenSSL, so
 * that what libcjose accepts is judged by somebody else.  The first byte says what the others are:
 *
 *	   0  the text of a token
 *	   1  how it is signed, header, zero, claims
 *	   2  which good token is changed, then offset (2 bytes) and byte, again and again
 *	   3  a document of keys, for good tokens
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "px_name.h"
#include "px_token.h"

#define CHECK(condition) do { if (!(condition)) abort(); } while (0)
#define NOW 1800000000

enum
{
	BY_RSA, BY_EC, BY_STRANGER, BY_HMAC, BY_NOBODY, BY_RSA_OF_CLAIMS, WAYS
};

static EVP_PKEY *rsa;
static EVP_PKEY *ec;
static EVP_PKEY *stranger;
static char document[4096];
static char *good[2];
static json_t *issuer;

static const char *const good_header[2] = {"{\"alg\":\"RS256\",\"kid\":\"r\"}", "{\"alg\":\"ES256\",\"kid\":\"e\"}"};
static const char good_claims[] = "{\"exp\":1800000100,\"iss\":\"i\",\"aud\":[\"a\",\"b\"],\"role\":\"ann\"}";

static char *
base64url(const uint8_t *p, size_t len)
{
	char	   *out = calloc(1, len * 4 / 3 + 8);
	size_t		n = (size_t) EVP_EncodeBlock((unsigned char *) out, p, (int) len);

	while (n > 0 && out[n - 1] == '=')
		out[--n] = 0;
	for (size_t i = 0; i < n; i++)
		out[i] = out[i] == '+' ? '-' : out[i] == '/' ? '_' : out[i];
	return out;
}

static char *
number_of(EVP_PKEY *key, const char *name)
{
	BIGNUM	   *n = NULL;
	uint8_t		bytes[256];
	char	   *text;

	CHECK(EVP_PKEY_get_bn_param(key, name, &n));
	text = base64url(bytes, (size_t) BN_bn2binpad(n, bytes, strcmp(name, OSSL_PKEY_PARAM_RSA_N) == 0 ? 256 : strcmp(name, OSSL_PKEY_PARAM_RSA_E) == 0 ? 3 : 32));
	BN_free(n);
	return text;
}

/* As JWS wants it: of ECDSA the two numbers, one behind the other. */
static size_t
sign(EVP_PKEY *key, const char *text, size_t len, uint8_t *out)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	uint8_t		der[512];
	const uint8_t *p = der;
	size_t		n = sizeof(der);

	CHECK(EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 && EVP_DigestSign(ctx, der, &n, (const uint8_t *) text, len) == 1);
	EVP_MD_CTX_free(ctx);
	if (EVP_PKEY_base_id(key) == EVP_PKEY_EC)
	{
		ECDSA_SIG  *s = d2i_ECDSA_SIG(NULL, &p, (long) n);

		CHECK(s && BN_bn2binpad(ECDSA_SIG_get0_r(s), out, 32) == 32 && BN_bn2binpad(ECDSA_SIG_get0_s(s), out + 32, 32) == 32);
		ECDSA_SIG_free(s);
		return 64;
	}
	memcpy(out, der, n);
	return n;
}

static char *
make(int way, const char *header, size_t header_len, const char *claims, size_t claims_len)
{
	char	   *h = base64url((const uint8_t *) header, header_len);
	char	   *c = base64url((const uint8_t *) claims, claims_len);
	char	   *token = malloc(strlen(h) + strlen(c) + 1024);
	char	   *s;
	uint8_t		signature[512];
	unsigned int n = 0;
	size_t		len = (size_t) sprintf(token, "%s.%s", h, c);

	if (way == BY_HMAC)			/* with what everybody knows as the secret */
		HMAC(EVP_sha256(), document, (int) strlen(document), (uint8_t *) token, len, signature, &n);
	else if (way == BY_RSA_OF_CLAIMS)
		n = (unsigned int) sign(rsa, c, strlen(c), signature);
	else if (way != BY_NOBODY)
		n = (unsigned int) sign(way == BY_RSA ? rsa : way == BY_EC ? ec : stranger, token, len, signature);
	s = base64url(signature, n);
	sprintf(token + len, ".%s", s);
	free(h);
	free(c);
	free(s);
	return token;
}

/* Whether it is taken; what its claims say is looked at, too. */
static bool
passes(const char *token, const char *keys, char alg[16])
{
	px_token	t;
	const char *why = NULL;
	bool		known = false;
	bool		ok = px_token_open(token, &t, &why);

	CHECK(why != NULL);
	if (ok)
	{
		CHECK(strlen(token) <= PX_TOKEN_MAX_BYTES && (strcmp(t.alg, "RS256") == 0 || strcmp(t.alg, "ES256") == 0));
		if (px_token_wrong_claims(&t, issuer, "ann", NOW) == NULL)
		{
			const json_t *role = json_object_get(t.claims, "role");

			CHECK(json_number_value(json_object_get(t.claims, "exp")) + PX_TOKEN_LEEWAY_SECONDS > NOW);
			CHECK(strcmp(json_string_value(json_object_get(t.claims, "iss")), "i") == 0);
			CHECK(!role || json_is_array(role) || strcmp(json_string_value(role), "ann") == 0);
		}
		strcpy(alg, t.alg);
		ok = px_token_signed(&t, keys, &known);
		CHECK(known || !ok);
	}
	px_token_close(&t);
	return ok;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char	   *n,
			   *e,
			   *x,
			   *y;
	char		alg[16];
	char	   *bad;

	rsa = EVP_RSA_gen(2048);
	stranger = EVP_RSA_gen(2048);
	ec = EVP_EC_gen("P-256");
	CHECK(rsa && stranger && ec);
	n = number_of(rsa, OSSL_PKEY_PARAM_RSA_N);
	e = number_of(rsa, OSSL_PKEY_PARAM_RSA_E);
	x = number_of(ec, OSSL_PKEY_PARAM_EC_PUB_X);
	y = number_of(ec, OSSL_PKEY_PARAM_EC_PUB_Y);
	snprintf(document, sizeof(document), "{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"r\",\"n\":\"%s\",\"e\":\"%s\"},{\"kty\":\"EC\",\"kid\":\"e\",\"crv\":\"P-256\","
			 "\"x\":\"%s\",\"y\":\"%s\"}]}", n, e, x, y);
	free(n);
	free(e);
	free(x);
	free(y);
	issuer = json_pack("{s:s, s:s, s:s}", "issuer", "i", "audience", "a", "claim", "role");
	for (int i = 0; i < 2; i++)
	{
		good[i] = make(i == 0 ? BY_RSA : BY_EC, good_header[i], strlen(good_header[i]), good_claims, strlen(good_claims));
		CHECK(px_looks_like_jwt(good[i]) && passes(good[i], document, alg));
		bad = make(i == 0 ? BY_EC : BY_RSA, good_header[i], strlen(good_header[i]), good_claims, strlen(good_claims));
		CHECK(!passes(bad, document, alg));
		free(bad);
	}
	return 0;
}

static void
signed_somehow(const char *p, size_t len)
{
	int			way = len > 0 ? (unsigned char) p[0] % WAYS : 0;
	const char *header = p + (len > 0);
	const char *zero = len > 1 ? memchr(header, 0, len - 1) : NULL;
	size_t		header_len = zero ? (size_t) (zero - header) : len - (len > 0);
	const char *claims = zero ? zero + 1 : "{}";
	size_t		claims_len = zero ? (size_t) (p + len - claims) : 2;
	char	   *token = make(way, header, header_len, claims, claims_len);
	char		alg[16];

	if (passes(token, document, alg))
		CHECK((way == BY_RSA && strcmp(alg, "RS256") == 0) || (way == BY_EC && strcmp(alg, "ES256") == 0));
	free(token);
}

static void
changed(const uint8_t *p, size_t len)
{
	const char *from = good[len > 0 ? p[0] & 1 : 0];
	size_t		n = strlen(from);
	size_t		said = (size_t) (strrchr(from, '.') - from);	/* what was signed */
	char	   *token = strdup(from);
	char		alg[16];

	for (size_t i = 1; i + 3 <= len; i += 3)
		token[(p[i] << 8 | p[i + 1]) % n] = (char) p[i + 2];
	if (passes(token, document, alg))
		CHECK(memcmp(token, from, said + 1) == 0);
	free(token);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *text;
	char		alg[16];

	if (size < 1 || size > 16384)
		return 0;
	text = malloc(size);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = 0;
	switch (data[0] % 4)
	{
		case 0:
			CHECK(!passes(text, document, alg));	/* nobody can have signed it */
			break;
		case 1:
			signed_somehow(text, size - 1);
			break;
		case 2:
			changed(data + 1, size - 1);
			break;
		case 3:
			passes(good[0], text, alg);
			passes(good[1], text, alg);
			break;
	}
	free(text);
	return 0;
}
