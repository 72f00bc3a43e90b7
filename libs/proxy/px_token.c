/*
 * px_token.c - JSON web tokens: header, claims, signature.
 *
 * Invariant: px_token_signed() is true only when a key of the document that is of the algorithm's kind, large enough, and meant for it (use, alg,
 * kid where they are named) signed exactly these bytes.  Nothing of a token chooses how it is checked.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "px_token.h"

#include <stdlib.h>
#include <string.h>

/* ---- a token ---- */

static bool
take_header(cjose_header_t *header, const char *name, char *to, size_t size)
{
	cjose_err	err;
	const char *s = cjose_header_get(header, name, &err);

	to[0] = '\0';
	if (s && strlen(s) >= size)
		return false;
	if (s)
		strcpy(to, s);
	return true;
}

/*
 * Three parts in base64url, none of them empty.  libcjose asserts that what it decodes is base64: what it is given must be, or anybody could
 * end the process with a dot in the wrong place.
 */
static bool
well_formed(const char *text)
{
	int			parts = 0;

	for (const char *p = text;; p++)
	{
		size_t		n = strspn(p, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");

		if (n == 0 || n % 4 == 1)
			return false;
		p += n;
		parts++;
		if (*p != '.')
			return *p == '\0' && parts == 3;
	}
}

/* Whatever is in it: cjose hands out a copy of its own. */
static bool
has_header(cjose_header_t *header, const char *name)
{
	cjose_err	err;
	char	   *raw = cjose_header_get_raw(header, name, &err);

	if (raw)
		cjose_get_dealloc()(raw);
	return raw != NULL;
}

bool
px_token_open(const char *text, px_token *t, const char **why)
{
	cjose_err	err;
	uint8_t    *body;
	size_t		len;

	memset(t, 0, sizeof(*t));
	*why = "not a token";
	if (strlen(text) > PX_TOKEN_MAX_BYTES || !well_formed(text) || !(t->jws = cjose_jws_import(text, strlen(text), &err)))
		return false;
	if (!take_header(cjose_jws_get_protected(t->jws), CJOSE_HDR_ALG, t->alg, sizeof(t->alg)) ||
		!take_header(cjose_jws_get_protected(t->jws), CJOSE_HDR_KID, t->kid, sizeof(t->kid)))
		return false;
	*why = "with extensions that are not known here";
	if (has_header(cjose_jws_get_protected(t->jws), "crit"))
		return false;
	*why = "neither RS256 nor ES256";
	if (strcmp(t->alg, CJOSE_HDR_ALG_RS256) != 0 && strcmp(t->alg, CJOSE_HDR_ALG_ES256) != 0)
		return false;
	*why = "claims are not a JSON object";
	if (!cjose_jws_get_plaintext(t->jws, &body, &len, &err))
		return false;
	t->claims = json_loadb((const char *) body, len, JSON_REJECT_DUPLICATES, NULL);
	return json_is_object(t->claims);
}

void
px_token_close(px_token *t)
{
	json_decref(t->claims);
	if (t->jws)
		cjose_jws_release(t->jws);
}

/* Whether a key of the document signed it; `known`: there was one that could have. */
static bool
signed_by(const px_token *t, const json_t *key, bool *known)
{
	bool		rsa = strcmp(t->alg, CJOSE_HDR_ALG_RS256) == 0;
	const char *kty = json_string_value(json_object_get(key, "kty"));
	const char *kid = json_string_value(json_object_get(key, "kid"));
	const char *use = json_string_value(json_object_get(key, "use"));
	const char *alg = json_string_value(json_object_get(key, "alg"));
	const char *crv = json_string_value(json_object_get(key, "crv"));
	cjose_err	err;
	cjose_jwk_t *jwk;
	char	   *text;
	bool		ok = false;

	if (!kty || strcmp(kty, rsa ? "RSA" : "EC") != 0 || (!rsa && (!crv || strcmp(crv, "P-256") != 0)) || (use && strcmp(use, "sig") != 0) ||
		(alg && strcmp(alg, t->alg) != 0) || (t->kid[0] && (!kid || strcmp(kid, t->kid) != 0)))
		return false;
	*known = true;
	text = json_dumps(key, JSON_COMPACT);
	jwk = text ? cjose_jwk_import(text, strlen(text), &err) : NULL;
	if (jwk)
	{
		ok = cjose_jwk_get_keysize(jwk, &err) >= (rsa ? 2048 : 256) && cjose_jws_verify(t->jws, jwk, &err);
		cjose_jwk_release(jwk);
	}
	free(text);
	return ok;
}

bool
px_token_signed(const px_token *t, const char *document, bool *known)
{
	json_t	   *json = json_loads(document, 0, NULL);
	const json_t *list = json_object_get(json, "keys");
	bool		ok = false;

	*known = false;
	for (size_t i = 0; i < json_array_size(list) && !ok; i++)
		ok = signed_by(t, json_array_get(list, i), known);
	json_decref(json);
	return ok;
}

/* ---- claims ---- */

static bool
has_value(const json_t *claim, const char *want)
{
	if (json_is_string(claim))
		return strcmp(json_string_value(claim), want) == 0;
	for (size_t i = 0; i < json_array_size(claim); i++)
	{
		const char *s = json_string_value(json_array_get(claim, i));

		if (s && strcmp(s, want) == 0)
			return true;
	}
	return false;
}

const char *
px_token_wrong_claims(const px_token *t, const json_t *issuer, const char *role, int64_t now)
{
	const json_t *claims = t->claims;
	const json_t *exp = json_object_get(claims, "exp");
	const json_t *nbf = json_object_get(claims, "nbf");
	const char *want_iss = json_string_value(json_object_get(issuer, "issuer"));
	const char *want_aud = json_string_value(json_object_get(issuer, "audience"));
	const char *name = json_string_value(json_object_get(issuer, "claim"));
	const json_t *claim = name ? json_object_get(claims, name) : NULL;

	if (!json_is_number(exp) || json_number_value(exp) + PX_TOKEN_LEEWAY_SECONDS <= now)
		return "expired, or without exp";
	if (nbf && (!json_is_number(nbf) || json_number_value(nbf) - PX_TOKEN_LEEWAY_SECONDS > now))
		return "not valid yet";
	if (want_iss && !(json_is_string(json_object_get(claims, "iss")) && has_value(json_object_get(claims, "iss"), want_iss)))
		return "of another issuer";
	if (want_aud && !has_value(json_object_get(claims, "aud"), want_aud))
		return "for another audience";
	if (claim && !has_value(claim, role))
		return "for another role";
	return NULL;
}
