/*
 * proxy_cache.c - what the controller told about endpoints and roles.
 *
 * An answer to a question that was put before what is known was invalidated serves those who wait for it, and is not believed after that.
 *
 * An answer is believed for neon_proxy.cache_ttl (endpoints) or secret_ttl (roles), or until the controller notifies of a change; after
 * that the controller is asked again, and only when it cannot be reached what is known goes on to be used.  What does not exist is
 * remembered for a moment, too.  One question about a thing is under way at a time, whoever asks; so with waking.
 *
 * The workers tell each other what they were told, so that while the controller is away each knows what any of them knew.  What a worker
 * has from another it never believes without asking: a notification may have overtaken it.
 *
 * Bounded: neon_proxy.cache_entries of each kind; what was not used for longest goes first, what is in use stays.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <jansson.h>

#include "common/hashfn.h"

#include "px.h"

#define BUCKETS			4096
#define UNKNOWN_TTL_MS	2000
#define MAX_TOLD_BYTES	16384	/* what is longer the other workers ask for themselves */

typedef struct EndpointEntry
{
	PxEndpoint	e;				/* first */
	struct EndpointEntry *next;
} EndpointEntry;

typedef struct RoleEntry
{
	PxRole		r;				/* first */
	struct RoleEntry *next;
} RoleEntry;

static EndpointEntry *endpoints[BUCKETS];
static RoleEntry *roles[BUCKETS];
static dlist_head endpoint_lru = DLIST_STATIC_INIT(endpoint_lru);
static dlist_head role_lru = DLIST_STATIC_INIT(role_lru);
static int	nendpoints;
static int	nroles;

static void endpoint_told(const char *name, const char *value);
static void role_told(const char *id, const char *role, const char *value);

/* ---------------------------------------------------------------- tables */

static void
evict_endpoints(void)
{
	dlist_mutable_iter i;

	dlist_foreach_modify(i, &endpoint_lru)
	{
		EndpointEntry *x = dlist_container(EndpointEntry, e.lru, i.cur);
		EndpointEntry **at = &endpoints[x->e.hash % BUCKETS];

		if (nendpoints < px_cache_entries)
			return;
		if (x->e.asking || x->e.waking || x->e.users > 0 || !dlist_is_empty(&x->e.waiting) || !dlist_is_empty(&x->e.pools))
			continue;
		while (*at != x)
			at = &(*at)->next;
		*at = x->next;
		dlist_delete(&x->e.lru);
		nendpoints--;
		px_uncount(cached_endpoints);
		px_defer_free(x);
	}
}

static PxEndpoint *
endpoint_entry(const char *name)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) name, (int) strlen(name), 1);
	EndpointEntry *x;

	for (x = endpoints[hash % BUCKETS]; x; x = x->next)
		if (x->e.hash == hash && strcmp(x->e.name, name) == 0)
			break;
	if (x == NULL)
	{
		evict_endpoints();
		x = px_alloc(sizeof(EndpointEntry));
		x->e.hash = hash;
		strlcpy(x->e.name, name, sizeof(x->e.name));
		x->e.pool_mode = -1;
		dlist_init(&x->e.waiting);
		dlist_init(&x->e.pools);
		x->next = endpoints[hash % BUCKETS];
		endpoints[hash % BUCKETS] = x;
		dlist_push_tail(&endpoint_lru, &x->e.lru);
		nendpoints++;
		px_count(cached_endpoints);
	}
	dlist_delete(&x->e.lru);
	dlist_push_tail(&endpoint_lru, &x->e.lru);
	return &x->e;
}

/* A login holds a role only while it waits, or within one step: an entry that nobody waits for may go at the end of the round. */
static void
evict_roles(void)
{
	dlist_mutable_iter i;

	dlist_foreach_modify(i, &role_lru)
	{
		RoleEntry  *x = dlist_container(RoleEntry, r.lru, i.cur);
		RoleEntry **at = &roles[x->r.hash % BUCKETS];

		if (nroles < px_cache_entries)
			return;
		if (x->r.asking || !dlist_is_empty(&x->r.waiting) || x->r.users > 0)
			continue;
		while (*at != x)
			at = &(*at)->next;
		*at = x->next;
		dlist_delete(&x->r.lru);
		nroles--;
		explicit_bzero(&x->r.password_keys, sizeof(x->r.password_keys));
		px_defer_free(x);
	}
}

static PxRole *
role_entry(const char *id, const char *role)
{
	char		both[PX_NAME_BYTES + 64];
	uint64		hash;
	RoleEntry  *x;

	snprintf(both, sizeof(both), "%s/%s", id, role);
	hash = hash_bytes_extended((const unsigned char *) both, (int) strlen(both), 2);
	for (x = roles[hash % BUCKETS]; x; x = x->next)
		if (x->r.hash == hash && strcmp(x->r.id, id) == 0 && strcmp(x->r.role, role) == 0)
			break;
	if (x == NULL)
	{
		evict_roles();
		x = px_alloc(sizeof(RoleEntry));
		x->r.hash = hash;
		strlcpy(x->r.id, id, sizeof(x->r.id));
		strlcpy(x->r.role, role, sizeof(x->r.role));
		dlist_init(&x->r.waiting);
		x->next = roles[hash % BUCKETS];
		roles[hash % BUCKETS] = x;
		dlist_push_tail(&role_lru, &x->r.lru);
		nroles++;
	}
	dlist_delete(&x->r.lru);
	dlist_push_tail(&role_lru, &x->r.lru);
	return &x->r;
}

int
px_cache_count(void)
{
	return nendpoints;
}

/* ---------------------------------------------------------------- waiting for an answer */

static void
wait_for(PxLookup *l, PxClient *c, dlist_head *list)
{
	l->client = c;
	l->active = true;
	dlist_push_tail(list, &l->node);
}

void
px_cache_cancel(PxLookup *l)
{
	if (l->active)
		dlist_delete(&l->node);
	l->active = false;
}

static PxClient *
next_waiting(dlist_head *list)
{
	PxLookup   *l;

	if (dlist_is_empty(list))
		return NULL;
	l = dlist_container(PxLookup, node, dlist_pop_head_node(list));
	l->active = false;
	return l->client;
}

/* Whether an error says that the controller is away, and not that it refuses. */
static bool
is_away(const px_error *e)
{
	return strncmp(e->sqlstate, "08", 2) == 0 || strncmp(e->sqlstate, "57", 2) == 0 || strncmp(e->sqlstate, "53", 2) == 0;
}

/* ---------------------------------------------------------------- what the other workers know */

static void
tell_others(PxMessageKind kind, const char *name, const char *role, const char *value)
{
	char		text[MAX_TOLD_BYTES];
	size_t		name_len = strlen(name) + 1;
	size_t		role_len = strlen(role) + 1;
	size_t		len = name_len + role_len + strlen(value) + 1;

	if (len > sizeof(text))
		return;
	memcpy(text, name, name_len);
	memcpy(text + name_len, role, role_len);
	memcpy(text + name_len + role_len, value, len - name_len - role_len);
	for (int w = 0; w < px_workers; w++)
		if (w != px.me)
			px_ipc_send(w, kind, 0, text, len);
}

/* What tell_others() sent, ended by a zero byte. */
void
px_cache_told(PxMessageKind kind, const char *text, size_t len)
{
	const char *name = text;
	size_t		at = strlen(name) + 1;
	const char *role = text + at;
	const char *value;

	if (at >= len || (at += strlen(role) + 1) >= len)
		return;
	value = text + at;
	if (kind == PX_MSG_ENDPOINT)
		endpoint_told(name, value);
	else
		role_told(name, role, value);
}

/* ---------------------------------------------------------------- endpoints */

bool
px_endpoint_stale(const PxEndpoint *e)
{
	int			ttl_ms = e->state == PX_ENDPOINT_UNKNOWN ? Min(UNKNOWN_TTL_MS, px_cache_ttl_ms) : px_cache_ttl_ms;

	return !e->known || e->fetched_ms == 0 || px.now_ms - e->fetched_ms >= ttl_ms;
}

static const char *
text_of(json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static int
number_of(json_t *object, const char *key)
{
	json_t	   *j = json_object_get(object, key);

	if (json_is_integer(j))
		return (int) json_integer_value(j);
	return json_is_string(j) ? atoi(json_string_value(j)) : 0;
}

static void
set_address(PxEndpoint *e, json_t *j)
{
	if (text_of(j, "host") && number_of(j, "port") > 0)
	{
		strlcpy(e->host, text_of(j, "host"), sizeof(e->host));
		e->port = number_of(j, "port");
	}
	if (text_of(j, "timeline"))
		strlcpy(e->timeline, text_of(j, "timeline"), sizeof(e->timeline));
}

static void
set_endpoint(PxEndpoint *e, const char *value)
{
	json_t	   *j = value ? json_loads(value, 0, NULL) : NULL;
	json_t	   *settings;
	const char *mode;
	const char *state = text_of(j, "state");

	e->known = true;
	e->fetched_ms = px.now_ms;
	if (!json_is_object(j) || text_of(j, "id") == NULL || strlen(text_of(j, "id")) >= PX_NAME_BYTES)
	{
		e->state = PX_ENDPOINT_UNKNOWN;
		json_decref(j);
		return;
	}
	strlcpy(e->id, text_of(j, "id"), sizeof(e->id));
	set_address(e, j);
	e->state = state && strcmp(state, "running") == 0 && e->port > 0 ? PX_ENDPOINT_RUNNING : PX_ENDPOINT_ASLEEP;
	settings = json_object_get(j, "settings");
	mode = text_of(settings, "neon_proxy.pool_mode");
	e->pool_mode = mode == NULL ? -1 : strcmp(mode, "transaction") == 0 ? PX_POOL_TRANSACTION : PX_POOL_SESSION;
	e->pool_size = number_of(settings, "neon_proxy.pool_size");
	e->max_clients = number_of(settings, "neon_proxy.max_clients");
	json_decref(j);
}

static void
endpoint_answer(void *arg, const char *value, const px_error *error)
{
	PxEndpoint *e = arg;
	PxClient   *c;

	e->asking = false;
	if (error == NULL)
	{
		set_endpoint(e, value);
		if (e->state != PX_ENDPOINT_UNKNOWN)
			tell_others(PX_MSG_ENDPOINT, e->name, "", value);
	}
	else if (e->known)			/* better than nothing; asked again in a second */
		e->fetched_ms = Max(px.now_ms - px_cache_ttl_ms + 1000, 1);
	if (e->outdated)
		e->fetched_ms = 0;
	while ((c = next_waiting(&e->waiting)) != NULL)
		px_login_endpoint_ready(c, e, error && !e->known ? error : NULL);
}

static void
endpoint_told(const char *name, const char *value)
{
	PxEndpoint *e;

	if (!px_name_valid(name))
		return;
	e = endpoint_entry(name);
	if (!px_endpoint_stale(e) || e->asking || e->waking)
		return;
	set_endpoint(e, value);
	e->fetched_ms = 0;
}

static void
ask_endpoint(PxEndpoint *e)
{
	const char *args[] = {e->name};

	if (e->asking)
		return;
	e->asking = true;
	e->outdated &= e->waking;
	px_controller_ask("SELECT neon_controller.proxy_endpoint($1)", 1, args, px_controller_timeout_ms, false, endpoint_answer, e);
}

PxEndpoint *
px_cache_endpoint(PxClient *c, const char *name)
{
	static PxEndpoint nobody = {.name = "",.state = PX_ENDPOINT_UNKNOWN,.known = true};
	PxEndpoint *e;

	if (!px_name_valid(name))
		return &nobody;
	e = endpoint_entry(name);
	if (!px_endpoint_stale(e))
	{
		px_count(cache_hits_total);
		return e;
	}
	px_count(cache_misses_total);
	wait_for(&c->login->endpoint_lookup, c, &e->waiting);
	ask_endpoint(e);
	return NULL;
}

void
px_cache_endpoint_bad(PxEndpoint *e)
{
	e->fetched_ms = 0;
	if (e->state == PX_ENDPOINT_RUNNING)
		e->state = PX_ENDPOINT_ASLEEP;
}

/* ---------------------------------------------------------------- waking */

static void
wake_answer(void *arg, const char *value, const px_error *error)
{
	PxEndpoint *e = arg;
	json_t	   *j = value ? json_loads(value, 0, NULL) : NULL;
	dlist_mutable_iter i;
	px_error	gone = {"FATAL", "08004", "the endpoint does not exist any more", NULL, NULL};
	px_error	failed;

	e->waking = false;
	if (error)
		px_count(wake_failures_total);
	if (error && is_away(error) && e->host[0])
		e->state = PX_ENDPOINT_RUNNING; /* where it was when it was last heard of */
	else if (error == NULL && json_is_object(j))
	{
		set_address(e, j);
		e->state = PX_ENDPOINT_RUNNING;
		e->fetched_ms = e->outdated ? 0 : px.now_ms;
	}
	else
	{
		if (error)
			failed = (px_error) {"FATAL", error->sqlstate, error->message, error->detail, error->hint ? error->hint : "Try again in a moment."};
		dlist_foreach_modify(i, &e->pools)
			px_pool_fail(dlist_container(PxPool, by_endpoint, i.cur), error ? &failed : &gone);
		json_decref(j);
		return;
	}
	json_decref(j);
	dlist_foreach_modify(i, &e->pools)
		px_pool_launch(dlist_container(PxPool, by_endpoint, i.cur));
}

void
px_cache_wake(PxEndpoint *e)
{
	const char *args[] = {e->id};

	if (e->waking)
		return;
	e->waking = true;
	e->outdated &= e->asking;
	px_count(wakes_total);
	px_controller_ask("SELECT neon_controller.proxy_wake($1)", 1, args, px_wake_timeout_ms, true, wake_answer, e);
}

/* ---------------------------------------------------------------- roles */

static bool
role_stale(const PxRole *r)
{
	return !r->known || r->fetched_ms == 0 || px.now_ms - r->fetched_ms >= px_secret_ttl_ms;
}

static void
set_role(PxRole *r, const char *value)
{
	px_secret	fresh;
	bool		exists = value != NULL && px_secret_parse(value, &fresh);

	if (exists != r->exists || (exists && memcmp(&fresh, &r->secret, sizeof(fresh)) != 0))
	{
		r->has_password = false;
		if (r->exists)
			pg_atomic_fetch_add_u32(&px_shared->secrets_generation, 1);
	}
	r->exists = exists;
	if (exists)
		r->secret = fresh;
	r->known = true;
	r->fetched_ms = px.now_ms;
}

static void
role_told(const char *id, const char *role, const char *value)
{
	PxRole	   *r = role_entry(id, role);

	if (!role_stale(r) || r->asking)
		return;
	set_role(r, value);
	r->fetched_ms = 0;
}

static void
role_answer(void *arg, const char *value, const px_error *error)
{
	PxRole	   *r = arg;
	PxClient   *c;

	r->asking = false;
	if (error == NULL)
	{
		set_role(r, value);
		if (r->exists)
			tell_others(PX_MSG_ROLE, r->id, r->role, value);
	}
	else if (r->known)
		r->fetched_ms = Max(px.now_ms - px_secret_ttl_ms + 1000, 1);
	if (r->outdated)
		r->fetched_ms = 0;
	while ((c = next_waiting(&r->waiting)) != NULL)
		px_login_role_ready(c, r, error && !r->known ? error : NULL);
}

PxRole *
px_cache_role(PxClient *c, PxEndpoint *e, const char *role)
{
	PxRole	   *r = role_entry(e->id, role);
	const char *args[] = {r->id, r->role};

	if (!role_stale(r))
	{
		px_count(cache_hits_total);
		return r;
	}
	px_count(cache_misses_total);
	wait_for(&c->login->role_lookup, c, &r->waiting);
	if (!r->asking)
	{
		r->asking = true;
		r->outdated = false;
		px_controller_ask("SELECT neon_controller.proxy_role_secret($1, $2)", 2, args, px_controller_timeout_ms, false, role_answer, r);
	}
	return NULL;
}

void
px_cache_role_bad(const char *id, const char *role)
{
	role_entry(id, role)->fetched_ms = 0;
}

/* ---------------------------------------------------------------- what has changed */

void
px_cache_invalidate(const char *id)
{
	dlist_iter	i;

	dlist_foreach(i, &endpoint_lru)
	{
		PxEndpoint *e = dlist_container(PxEndpoint, lru, i.cur);

		/* one that did not exist may exist now, under any name */
		if (id == NULL || strcmp(e->id, id) == 0 || e->state == PX_ENDPOINT_UNKNOWN)
		{
			e->fetched_ms = 0;
			e->outdated = true;
		}
	}
	dlist_foreach(i, &role_lru)
	{
		PxRole	   *r = dlist_container(PxRole, lru, i.cur);

		if (id == NULL || strcmp(r->id, id) == 0)
		{
			r->fetched_ms = 0;
			r->outdated = true;
		}
	}
}
