/*
 * jwt.c - JSON web tokens: keys in shared memory, and what they say of a token (libs/proxy/px_token.h).
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

#include <jansson.h>
#include <time.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "jwt.h"
#include "jwt_fetch.h"
#include "px_token.h"

#define SLOTS 128
#define FRESH_SECONDS 600
#define MAX_AGE_SECONDS (24 * 3600)
#define MIN_FETCH_SECONDS 10

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

/* Who has it next would fetch at once: then a fetch is under way, or was less than MIN_FETCH_SECONDS ago. */
static bool
may_go(const Slot *s, int64 now)
{
	return !s->wanted && now - s->tried_at >= MIN_FETCH_SECONDS;
}

/*
 * The URL's slot, else the one that has not been used for the longest, made its own; NULL while none may go, so that URLs without number are not
 * fetched more often than few.  Under the lock.
 */
static Slot *
slot_of(const char *url, int64 now)
{
	Slot	   *oldest = NULL;

	for (int i = 0; i < SLOTS; i++)
	{
		Slot	   *s = &keys->slot[i];

		if (strcmp(s->url, url) == 0)
		{
			s->used_at = now;
			return s;
		}
		if (may_go(s, now) && (oldest == NULL || s->used_at < oldest->used_at))
			oldest = s;
	}
	if (oldest == NULL)
		return NULL;
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
	if (s == NULL)
	{
		SpinLockRelease(&keys->lock);
		free(copy);
		*coming = true;			/* there will be room */
		return NULL;
	}
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

/* ---- verification ---- */

static PxJwtResult
verify_with(const px_token *t, const json_t *issuer, const char *role, const char **why)
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
	*why = px_token_wrong_claims(t, issuer, role, now);
	if (*why)
		return PX_JWT_BAD;
	document = take_document(url, now, false, &coming);
	*why = "the issuer's keys could not be fetched";
	if (!document)
		return coming ? PX_JWT_WAIT : PX_JWT_BAD;
	ok = px_token_signed(t, document, &known);
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
	px_token	t;

	if (px_token_open(token, &t, why))
	{
		*why = "tokens do not log in to this role";
		for (size_t i = 0; i < json_array_size(issuers) && result != PX_JWT_OK; i++)
		{
			PxJwtResult r = verify_with(&t, json_array_get(issuers, i), role, why);

			if (r != PX_JWT_BAD)
				result = r;
		}
	}
	px_token_close(&t);
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
