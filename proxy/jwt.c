/*
 * jwt.c - JSON web tokens: keys in shared memory, signatures by libcjose, claims.
 *
 * Each URL of keys (JWKS) has a slot.  A worker that wants keys which are not there, are old, or do not have the token's key id marks the
 * slot; the HTTP worker fetches (jwt_fetch.c) and writes the document, at most once in MIN_FETCH_SECONDS whatever tokens ask for.
 * Documents are used for MAX_AGE_SECONDS when they cannot be fetched again: an issuer that is away does not lock
 * everybody out at once, and a withdrawn key is not good for ever.
 *
 * Only RS256 and ES256, each with a key of its own kind: a token cannot choose to be checked in another way.  exp must be there, and
 * iss and aud where the issuer's row names them; a token that has the claim for roles is for the roles it names there, one
 * without it for any role of the row.
 *
 * Lock: one spinlock, held for a copy of at most PX_JWT_DOCUMENT bytes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <cjose/cjose.h>
#include <jansson.h>
#include <time.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "jwt.h"
#include "jwt_fetch.h"

#define SLOTS 32
#define FRESH_SECONDS 600
#define MAX_AGE_SECONDS (24 * 3600)
#define MIN_FETCH_SECONDS 10
#define LEEWAY_SECONDS 30
#define MAX_TOKEN 8192

typedef struct Slot
{
	char		url[PX_JWT_URL];
	bool		wanted;
	int64		fetched_at;		/* 0: never */
	int64		tried_at;
	int64		used_at;
	int			len;
	char		document[PX_JWT_DOCUMENT];
} Slot;

typedef struct Keys
{
	slock_t		lock;
	Slot		slot[SLOTS];
} Keys;

static Keys *keys;
static shmem_request_hook_type prev_request_hook = NULL;
static shmem_startup_hook_type prev_startup_hook = NULL;

static void
request_shmem(void)
{
	if (prev_request_hook)
		prev_request_hook();
	RequestAddinShmemSpace(sizeof(Keys));
}

static void
startup_shmem(void)
{
	bool		found;

	if (prev_startup_hook)
		prev_startup_hook();
	keys = ShmemInitStruct("neon_proxy jwt", sizeof(Keys), &found);
	if (found)
		return;
	memset(keys, 0, sizeof(Keys));
	SpinLockInit(&keys->lock);
}

void
px_jwt_register(void)
{
	prev_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

/* ---- slots ---- */

/* The URL's slot, else the one that has not been used for the longest, made its own.  Under the lock. */
static Slot *
slot_of(const char *url, int64 now)
{
	Slot	   *oldest = &keys->slot[0];

	for (int i = 0; i < SLOTS; i++)
	{
		Slot	   *s = &keys->slot[i];

		if (strcmp(s->url, url) == 0)
		{
			s->used_at = now;
			return s;
		}
		if (s->used_at < oldest->used_at)
			oldest = s;
	}
	memset(oldest, 0, offsetof(Slot, document));
	strlcpy(oldest->url, url, sizeof(oldest->url));
	oldest->used_at = now;
	oldest->wanted = true;
	return oldest;
}

/* The keys of a URL (to be freed), or NULL; `coming`: they are wanted and it is worth while to wait. */
static char *
take_document(const char *url, int64 now, bool unknown_key, bool *coming)
{
	char	   *copy = malloc(PX_JWT_DOCUMENT + 1);
	Slot	   *s;
	bool		have;

	if (!copy)
		return NULL;
	SpinLockAcquire(&keys->lock);
	s = slot_of(url, now);
	have = s->fetched_at > 0 && now - s->fetched_at < MAX_AGE_SECONDS;
	if ((!have || unknown_key || now - s->fetched_at > FRESH_SECONDS) && now - s->tried_at >= MIN_FETCH_SECONDS)
		s->wanted = true;
	*coming = s->wanted;
	if (have)
	{
		memcpy(copy, s->document, s->len);
		copy[s->len] = '\0';
	}
	SpinLockRelease(&keys->lock);
	if (have)
		return copy;
	free(copy);
	return NULL;
}

bool
px_jwt_next_wanted(char url[PX_JWT_URL], int64 now)
{
	bool		found = false;

	SpinLockAcquire(&keys->lock);
	for (int i = 0; i < SLOTS && !found; i++)
	{
		Slot	   *s = &keys->slot[i];

		if (s->url[0] && s->wanted && now - s->tried_at >= MIN_FETCH_SECONDS)
		{
			s->tried_at = now;
			strlcpy(url, s->url, PX_JWT_URL);
			found = true;
		}
	}
	SpinLockRelease(&keys->lock);
	return found;
}

void
px_jwt_fetched(const char *url, const char *document, int len, int64 now)
{
	SpinLockAcquire(&keys->lock);
	for (int i = 0; i < SLOTS; i++)
	{
		Slot	   *s = &keys->slot[i];

		if (strcmp(s->url, url) != 0)
			continue;
		s->wanted = false;
		if (!document)
			continue;
		memcpy(s->document, document, len);
		s->len = len;
		s->fetched_at = now;
	}
	SpinLockRelease(&keys->lock);
}

/* ---- a token ---- */

typedef struct Token
{
	cjose_jws_t *jws;
	char		alg[16];
	char		kid[256];		/* empty: none */
	json_t	   *claims;			/* to be believed after the signature */
} Token;

static bool
take_header(cjose_header_t *header, const char *name, char *to, size_t size)
{
	cjose_err	err;
	const char *s = cjose_header_get(header, name, &err);

	to[0] = '\0';
	return !s || strlcpy(to, s, size) < size;
}

static bool
open_token(const char *text, Token *t, const char **why)
{
	cjose_err	err;
	uint8_t    *body;
	size_t		len;

	memset(t, 0, sizeof(*t));
	*why = "not a token";
	if (strlen(text) > MAX_TOKEN || !(t->jws = cjose_jws_import(text, strlen(text), &err)))
		return false;
	if (!take_header(cjose_jws_get_protected(t->jws), CJOSE_HDR_ALG, t->alg, sizeof(t->alg)) ||
		!take_header(cjose_jws_get_protected(t->jws), CJOSE_HDR_KID, t->kid, sizeof(t->kid)))
		return false;
	*why = "with extensions that are not known here";
	if (cjose_header_get_raw(cjose_jws_get_protected(t->jws), "crit", &err) != NULL)
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

static void
close_token(Token *t)
{
	json_decref(t->claims);
	if (t->jws)
		cjose_jws_release(t->jws);
}

/* Whether a key of the document signed it; `known`: there was one that could have. */
static bool
signed_by(const Token *t, const json_t *key, bool *known)
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

static bool
check_signature(const Token *t, const char *document, bool *known)
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

static const char *
wrong_claims(const json_t *claims, const json_t *issuer, const char *role, int64 now)
{
	const json_t *exp = json_object_get(claims, "exp");
	const json_t *nbf = json_object_get(claims, "nbf");
	const char *want_iss = json_string_value(json_object_get(issuer, "issuer"));
	const char *want_aud = json_string_value(json_object_get(issuer, "audience"));
	const char *name = json_string_value(json_object_get(issuer, "claim"));
	const json_t *claim = name ? json_object_get(claims, name) : NULL;

	if (!json_is_number(exp) || json_number_value(exp) + LEEWAY_SECONDS <= now)
		return "expired, or without exp";
	if (nbf && (!json_is_number(nbf) || json_number_value(nbf) - LEEWAY_SECONDS > now))
		return "not valid yet";
	if (want_iss && !(json_is_string(json_object_get(claims, "iss")) && has_value(json_object_get(claims, "iss"), want_iss)))
		return "of another issuer";
	if (want_aud && !has_value(json_object_get(claims, "aud"), want_aud))
		return "for another audience";
	if (claim && !has_value(claim, role))
		return "for another role";
	return NULL;
}

/* ---- verification ---- */

static PxJwtResult
verify_with(const Token *t, const json_t *issuer, const char *role, const char **why)
{
	const char *url = json_string_value(json_object_get(issuer, "url"));
	int64		now = time(NULL);
	bool		coming,
				known,
				ok;
	char	   *document;

	*why = "the controller names no keys";
	if (!url || strlen(url) >= PX_JWT_URL)
		return PX_JWT_BAD;
	/* what does not depend on keys: a token that cannot be good fetches nothing */
	*why = wrong_claims(t->claims, issuer, role, now);
	if (*why)
		return PX_JWT_BAD;
	document = take_document(url, now, false, &coming);
	*why = "the issuer's keys could not be fetched";
	if (!document)
		return coming ? PX_JWT_WAIT : PX_JWT_BAD;
	ok = check_signature(t, document, &known);
	free(document);
	if (ok)
		return PX_JWT_OK;
	*why = known ? "the signature is wrong" : "signed with an unknown key";
	if (known)
		return PX_JWT_BAD;
	/* a new key, perhaps */
	free(take_document(url, now, true, &coming));
	return coming ? PX_JWT_WAIT : PX_JWT_BAD;
}

PxJwtResult
px_jwt_verify(const char *token, const char *answer, const char *role, const char **why)
{
	json_t	   *json = json_loads(answer, 0, NULL);
	const json_t *issuers = json_object_get(json, "issuers");
	PxJwtResult result = PX_JWT_BAD;
	Token		t;

	if (open_token(token, &t, why))
	{
		*why = "tokens do not log in to this role";
		for (size_t i = 0; i < json_array_size(issuers) && result != PX_JWT_OK; i++)
		{
			PxJwtResult r = verify_with(&t, json_array_get(issuers, i), role, why);

			if (r != PX_JWT_BAD)
				result = r;
		}
	}
	close_token(&t);
	json_decref(json);
	return result;
}

bool
px_jwt_password(const char *answer, char *password, size_t size)
{
	json_t	   *json = json_loads(answer, 0, NULL);
	const char *s = json_string_value(json_object_get(json, "password"));
	bool		ok = s && s[0] && strlcpy(password, s, size) < size;

	json_decref(json);
	return ok;
}
