/*
 * proxy_memory.c - memory of a worker: allocation, what is freed at the end of a round, strings that many share.
 *
 * malloc and not palloc: objects live as long as connections do, and freed memory goes back to the system.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <malloc.h>

#include "common/hashfn.h"

#include "px.h"

#define INTERN_BUCKETS 4096

typedef struct Interned
{
	struct Interned *next;
	uint32		refs;
	uint32		hash;
	char		text[FLEXIBLE_ARRAY_MEMBER];
} Interned;

static Interned *interned[INTERN_BUCKETS];
static void **deferred;
static int	ndeferred;
static int	deferred_cap;

const char *const px_var_names[PX_TRACKED] = {
	"client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings", "application_name", "IntervalStyle"
};

void
px_out_of_memory(void)
{
	ereport(FATAL, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory in the proxy"),
					errhint("Lower neon_proxy.max_clients, or give the machine more.")));
}

void *
px_alloc(size_t n)
{
	void	   *p = calloc(1, n);

	if (p == NULL)
		px_out_of_memory();
	return p;
}

char *
px_strdup(const char *s)
{
	char	   *p = strdup(s);

	if (p == NULL)
		px_out_of_memory();
	return p;
}

void
px_free(void *p)
{
	free(p);
}

void
px_defer_free(void *p)
{
	if (ndeferred == deferred_cap)
	{
		deferred_cap = deferred_cap ? deferred_cap * 2 : 64;
		deferred = realloc(deferred, deferred_cap * sizeof(void *));
		if (deferred == NULL)
			px_out_of_memory();
	}
	deferred[ndeferred++] = p;
}

void
px_free_deferred(void)
{
	while (ndeferred > 0)
		free(deferred[--ndeferred]);
}

/* ---------------------------------------------------------------- shared strings */

static Interned *
interned_of(char *s)
{
	return (Interned *) (s - offsetof(Interned, text));
}

char *
px_intern(const char *s)
{
	size_t		len = strlen(s);
	uint32		hash = hash_bytes((const unsigned char *) s, (int) len);
	Interned  **bucket = &interned[hash % INTERN_BUCKETS];
	Interned   *i;

	for (i = *bucket; i; i = i->next)
		if (i->hash == hash && strcmp(i->text, s) == 0)
		{
			i->refs++;
			return i->text;
		}
	i = px_alloc(offsetof(Interned, text) + len + 1);
	i->refs = 1;
	i->hash = hash;
	memcpy(i->text, s, len + 1);
	i->next = *bucket;
	*bucket = i;
	return i->text;
}

char *
px_intern_ref(char *s)
{
	if (s)
		interned_of(s)->refs++;
	return s;
}

void
px_intern_release(char *s)
{
	Interned   *i;
	Interned  **at;

	if (s == NULL)
		return;
	i = interned_of(s);
	if (--i->refs > 0)
		return;
	for (at = &interned[i->hash % INTERN_BUCKETS]; *at != i; at = &(*at)->next)
		;
	*at = i->next;
	free(i);
}

/* ---------------------------------------------------------------- tracked parameters */

int
px_var_index(const char *name)
{
	for (int i = 0; i < PX_TRACKED; i++)
		if (pg_strcasecmp(name, px_var_names[i]) == 0)
			return i;
	return -1;
}

bool
px_vars_set(PxVars *v, int i, const char *value)
{
	if (v->value[i] && strcmp(v->value[i], value) == 0)
		return false;
	px_intern_release(v->value[i]);
	v->value[i] = px_intern(value);
	return true;
}

void
px_vars_release(PxVars *v)
{
	for (int i = 0; i < PX_TRACKED; i++)
	{
		px_intern_release(v->value[i]);
		v->value[i] = NULL;
	}
}

void
px_vars_copy(PxVars *to, const PxVars *from)
{
	for (int i = 0; i < PX_TRACKED; i++)
	{
		char	   *old = to->value[i];

		to->value[i] = px_intern_ref(from->value[i]);
		px_intern_release(old);
	}
}
