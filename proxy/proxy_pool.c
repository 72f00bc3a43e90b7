/*
 * proxy_pool.c - pools: server connections of one endpoint, database, user and set of startup parameters.
 *
 * A client that wants a server connection takes one that is idle (the one used last, so that the others can go to sleep), or waits, first
 * come first served.  What is free meets who waits at the end of a round of events (px_pool_run), never in the middle of one.
 *
 * The size of a pool holds for all workers together: each server connection takes one of the shared table's count.  A worker whose
 * clients wait and that gets no more says so there, and what it lacks of its fair share; one with more than that then closes some.
 *
 * A connection that fails is tried again, each time after asking the controller to wake the endpoint, with growing pauses; after
 * neon_proxy.connect_retries of them, or at once when the server says no for good, all who wait are told.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <sys/socket.h>

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "px.h"

#define BUCKETS			1024
#define MAX_STARTING	8		/* connections of a pool that are being made */
#define FIRST_PAUSE_MS	50
#define MAX_PAUSE_MS	2000
#define FORGET_MS		60000	/* a pool without anything is forgotten after that */
#define PEEK_MS			200		/* an idle connection older than that is looked at before it is used */
#define SPARE_MS		1000	/* one that nobody used for that long is not missed here when others need it */
#define TURN_MS			200		/* one that is given up for others was of some use here before */

typedef struct PoolEntry
{
	PxPool		p;				/* first */
	struct PoolEntry *next;
} PoolEntry;

static PoolEntry *pools[BUCKETS];
static dlist_head runnable = DLIST_STATIC_INIT(runnable);

uint32		px_reconnect_generation;

/* ---------------------------------------------------------------- finding one */

static uint64
pool_hash(const char *id, const char *database, const char *user, const char *extra, uint32 extra_len, int mode)
{
	uint64		h = hash_bytes_extended((const unsigned char *) id, (int) strlen(id), mode + 11);

	h = hash_bytes_extended((const unsigned char *) database, (int) strlen(database), h);
	h = hash_bytes_extended((const unsigned char *) user, (int) strlen(user), h);
	return hash_bytes_extended((const unsigned char *) extra, (int) extra_len, h);
}

static bool
pool_is(const PxPool *p, const PxEndpoint *e, const char *database, const char *user, const char *extra, uint32 extra_len, int mode, bool dedicated)
{
	return p->endpoint == e && p->mode == mode && p->dedicated == dedicated && p->extra_len == extra_len && strcmp(p->database, database) == 0 &&
		strcmp(p->user, user) == 0 && memcmp(p->extra, extra, extra_len) == 0;
}

PxPool *
px_pool_get(PxEndpoint *e, const char *database, const char *user, const char *extra, uint32 extra_len, int mode, bool dedicated)
{
	uint64		hash = pool_hash(e->id, database, user, extra, extra_len, mode);
	char		key[PX_NAME_BYTES + 64 + 64 + 8];
	PoolEntry  *x;

	for (x = pools[hash % BUCKETS]; x; x = x->next)
		if (x->p.hash == hash && pool_is(&x->p, e, database, user, extra, extra_len, mode, dedicated))
			return &x->p;
	x = px_alloc(sizeof(PoolEntry));
	x->p.hash = hash;
	x->p.endpoint = e;
	x->p.database = px_strdup(database);
	x->p.user = px_strdup(user);
	x->p.extra = px_alloc(extra_len + 1);
	memcpy(x->p.extra, extra, extra_len);
	x->p.extra_len = extra_len;
	x->p.mode = mode;
	x->p.dedicated = dedicated;
	snprintf(key, sizeof(key), "%s/%s/%s", e->id, database, user);
	x->p.quota_key = px_hash(PX_QUOTA_POOL, key, strlen(key));
	x->p.stats = px_db_stats_get(e->id, database);
	dlist_init(&x->p.idle);
	dlist_init(&x->p.busy);
	dlist_init(&x->p.starting);
	dlist_init(&x->p.waiting);
	dlist_init(&x->p.logins);
	dlist_push_tail(&px.pools, &x->p.node);
	dlist_push_tail(&e->pools, &x->p.by_endpoint);
	x->next = pools[hash % BUCKETS];
	pools[hash % BUCKETS] = x;
	x->p.used_ms = px.now_ms;
	x->p.paused = px_admin_is_paused(e->id);
	px_count(pools);
	return &x->p;
}

static void
forget_pool(PxPool *p)
{
	PoolEntry  *x = (PoolEntry *) p;
	PoolEntry **at = &pools[p->hash % BUCKETS];

	while (*at != x)
		at = &(*at)->next;
	*at = x->next;
	dlist_delete(&p->node);
	dlist_delete(&p->by_endpoint);
	if (p->runnable)
		dlist_delete(&p->run);
	px_db_stats_release(p->stats);
	px_free(p->database);
	px_free(p->user);
	px_free(p->extra);
	px_free(p->welcome);
	px_vars_release(&p->vars);
	explicit_bzero(&p->keys, sizeof(p->keys));
	px_uncount(pools);
	px_defer_free(x);
}

void
px_pool_want_run(PxPool *p)
{
	if (p->runnable)
		return;
	p->runnable = true;
	dlist_push_tail(&runnable, &p->run);
}

/* ---------------------------------------------------------------- clients */

void
px_pool_wait_login(PxClient *c)
{
	px_client_state(c, PX_CL_WELCOME);
	c->wait_us = px.now_us;
	px_pool_want_run(c->pool);
}

void
px_pool_leave(PxClient *c)
{
	PxPool	   *p = c->pool;

	if (p == NULL)
		return;
	if (c->endpoint_quota)
		px_quota_give(PX_QUOTA_ENDPOINT, px_hash(PX_QUOTA_ENDPOINT, p->endpoint->id, strlen(p->endpoint->id)));
	c->endpoint_quota = false;
	p->nclients--;
	p->used_ms = px.now_ms;
	c->pool = NULL;
}

/* Adds a literal that means the same whatever standard_conforming_strings is. */
static size_t
put_literal(char *to, size_t cap, size_t at, const char *value)
{
	to[at++] = ' ';
	to[at++] = 'E';
	to[at++] = '\'';
	for (; *value && at + 8 < cap; value++)
	{
		if (*value == '\'' || *value == '\\')
			to[at++] = *value == '\'' ? '\'' : '\\';
		to[at++] = *value;
	}
	to[at++] = '\'';
	to[at++] = ';';
	return at;
}

/* The client's parameters on this server connection; true: nothing had to be set. */
static bool
set_parameters(PxClient *c, PxServer *s)
{
	char	   *sql = NULL;
	size_t		cap = 16;
	size_t		n = 0;

	if (memcmp(&c->vars, &s->vars, sizeof(PxVars)) == 0)
		return true;
	for (int i = 0; i < PX_TRACKED; i++)
		if (c->vars.value[i] && c->vars.value[i] != s->vars.value[i])
			cap += 2 * strlen(c->vars.value[i]) + 64;
	if (cap == 16)
		return true;
	sql = px_alloc(cap);
	for (int i = 0; i < PX_TRACKED; i++)
		if (c->vars.value[i] && c->vars.value[i] != s->vars.value[i])
		{
			n += snprintf(sql + n, cap - n, "SET %s TO", px_var_names[i]);
			n = put_literal(sql, cap, n, c->vars.value[i]);
		}
	sql[n] = '\0';
	px_server_state(s, PX_SV_SETTING);
	px_server_query(s, sql);
	px_free(sql);
	return false;
}

/* true: the client may go on at once */
static bool
link_up(PxClient *c, PxServer *s)
{
	s->client = c;
	c->server = s;
	s->linked_us = px.now_us;
	px_server_state(s, PX_SV_LINKED);
	px_client_state(c, PX_CL_LINKED);
	return set_parameters(c, s);
}

/* Whether an idle connection is silent and open; one that says something was closed by the server, or its report comes first. */
static bool
still_good(PxServer *s)
{
	char		byte;

	if (px.now_ms - s->state_ms < PEEK_MS)
		return true;
	return recv(s->sock.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

static PxServer *
take_idle(PxPool *p)
{
	while (!dlist_is_empty(&p->idle))
	{
		PxServer   *s = dlist_head_element(PxServer, node, &p->idle);

		if (!s->close_after && still_good(s))
			return s;
		px_server_close(s);
	}
	return NULL;
}

bool
px_pool_acquire(PxClient *c)
{
	PxPool	   *p = c->pool;
	PxServer   *s;

	if (!p->paused && dlist_is_empty(&p->waiting) && (s = take_idle(p)) != NULL)
		return link_up(c, s);
	px_client_state(c, PX_CL_WAITING);
	c->wait_us = px.now_us;
	px_pool_want_run(p);
	return false;
}

/* ---------------------------------------------------------------- servers */

static void
make_idle(PxServer *s)
{
	PxPool	   *p = s->pool;

	px_server_state(s, s->cancels > 0 ? PX_SV_CANCELLING : PX_SV_IDLE);
	if (p->nwaiting > 0 || p->nlogins > 0)
		px_pool_want_run(p);
}

static bool
reusable(PxServer *s)
{
	PxPool	   *p = s->pool;

	return !s->close_after && !p->dedicated && s->status == 'I' && s->queue_len == 0 && !s->unsynced && !s->copy_in && !s->uncertain && s->skip == 0 && s->in == NULL &&
		s->sock.out == NULL && s->generation == px_reconnect_generation && px.now_ms - s->created_ms < px_server_lifetime_ms && !px.stopping;
}

void
px_pool_release(PxServer *s)
{
	PxPool	   *p = s->pool;

	p->used_ms = px.now_ms;
	if (s->client)
	{
		PxClient   *c = s->client;

		s->client = NULL;
		c->server = NULL;
		px_client_state(c, PX_CL_IDLE);
	}
	if (!reusable(s))
		px_server_close(s);
	else if (p->give_back > 0 && px.now_ms - s->created_ms >= TURN_MS)
	{
		p->give_back--;
		px_server_close(s);
		if (p->nservers == 0)
			p->retry_ms = px.now_ms + TURN_MS;	/* it was the last: the others' turn */
	}
	else if (p->mode == PX_POOL_SESSION && s->state != PX_SV_RESETTING && s->state != PX_SV_CANCELLING)
	{
		px_server_state(s, PX_SV_RESETTING);
		px_prepared_free_server(s);
		px_server_query(s, "DISCARD ALL");
	}
	else
		make_idle(s);
}

/* It logged in. */
void
px_pool_server_ready(PxServer *s)
{
	PxPool	   *p = s->pool;

	p->failures = 0;
	p->retry_ms = 0;
	px_free(p->welcome);
	p->welcome = s->welcome;
	p->welcome_len = s->welcome_len;
	s->welcome = NULL;
	px_vars_copy(&p->vars, &s->vars);
	p->used_ms = px.now_ms;
	make_idle(s);
	px_pool_want_run(p);
}

/* ---------------------------------------------------------------- making connections */

static int
pool_size(const PxPool *p)
{
	return p->endpoint->pool_size > 0 ? p->endpoint->pool_size : px_pool_size;
}

/* Server connections that each pool that counts with this one can have at the same time; 0: there are not enough, and they take turns. */
static int
fair_share(const PxPool *p, const PxWant *others)
{
	return pool_size(p) / (others->pools + 1);
}

/* Tells the others what clients here wait for. */
static void
tell(PxPool *p, int lacking, int more)
{
	PxWant		now = {lacking, more, p->nclients > 0};

	if (memcmp(&p->told, &now, sizeof(now)) != 0)
		px_quota_want(p->quota_key, &p->told, &now);
	p->told = now;
}

/* One of the pool's count, of `wanted`, unless another worker has first claim to it. */
static bool
take_quota(PxPool *p, int wanted, bool *counted)
{
	PxWant		others = px_quota_others_want(p->quota_key, &p->told);
	int			lacking = Max(fair_share(p, &others), 1) - p->nservers;

	if ((lacking > 0 || others.lacking == 0) && px_quota_take(PX_QUOTA_POOL, p->quota_key, pool_size(p), counted))
		return true;
	if (lacking > 0)
		tell(p, Min(lacking, wanted), 0);
	else
		tell(p, 0, 1);
	return false;
}

void
px_pool_launch(PxPool *p)
{
	int			want = p->nwaiting + (p->nlogins > 0 ? 1 : 0) - p->nstarting;
	bool		counted;
	PxServer   *s;

	if (!dlist_is_empty(&p->idle))
		want = p->welcome ? 0 : want;
	if (want <= 0 || p->paused || px.now_ms < p->retry_ms)
		return;
	if (p->endpoint->state != PX_ENDPOINT_RUNNING)
	{
		px_cache_wake(p->endpoint);
		return;
	}
	for (; want > 0 && p->nstarting < MAX_STARTING; want--)
	{
		if (!take_quota(p, want, &counted))
			return;
		s = px_server_connect(p, counted);
		if (s == NULL)
			return;				/* it was told */
	}
	tell(p, 0, 0);
}

static void
fail_list(dlist_head *list, const px_error *e)
{
	while (!dlist_is_empty(list))
		px_client_fail(dlist_head_element(PxClient, node, list), e->sqlstate, e->message, e->detail, e->hint);
}

void
px_pool_fail(PxPool *p, const px_error *error)
{
	p->failures = 0;
	p->retry_ms = 0;
	tell(p, 0, 0);
	fail_list(&p->logins, error);
	fail_list(&p->waiting, error);
}

/* A connection that was being made failed. */
void
px_pool_server_gone(PxServer *s, const px_error *error, bool definite)
{
	PxPool	   *p = s->pool;
	bool		full = strcmp(error->sqlstate, "53300") == 0;

	if (full && (p->nservers > 1 || !dlist_is_empty(&p->busy)))
	{
		p->retry_ms = px.now_ms + 200;	/* those there are come free */
		return;
	}
	if (definite && !full)
	{
		px_pool_fail(p, error);
		return;
	}
	if (px.now_ms < p->retry_ms)
		return;					/* one of several that failed together */
	if (p->failures++ >= px_connect_retries)
	{
		px_pool_fail(p, error);
		return;
	}
	px_cache_endpoint_bad(p->endpoint);
	p->retry_ms = px.now_ms + Min(FIRST_PAUSE_MS << Min(p->failures, 10), MAX_PAUSE_MS);
}

/* ---------------------------------------------------------------- the end of a round, the tick */

static void
run(PxPool *p)
{
	PxServer   *s;

	while (p->welcome && !dlist_is_empty(&p->logins))
		px_login_done_and_go_on(dlist_head_element(PxClient, node, &p->logins));
	while (!p->paused && !dlist_is_empty(&p->waiting) && (s = take_idle(p)) != NULL)
	{
		PxClient   *c = dlist_head_element(PxClient, node, &p->waiting);

		px_add(wait_us_total, (int64) (px.now_us - c->wait_us));
		p->stats->value[PX_DB_WAIT_US] += (int64) (px.now_us - c->wait_us);
		if (link_up(c, s))
			px_relay_resume(c);
	}
	px_pool_launch(p);
}

void
px_pool_run(void)
{
	/* what becomes runnable meanwhile has its turn in the next round */
	dlist_head	now;

	if (dlist_is_empty(&runnable))
		return;
	dlist_init(&now);
	while (!dlist_is_empty(&runnable))
		dlist_push_tail(&now, dlist_pop_head_node(&runnable));
	while (!dlist_is_empty(&now))
	{
		PxPool	   *p = dlist_container(PxPool, run, dlist_pop_head_node(&now));

		p->runnable = false;
		run(p);
	}
}

/*
 * Connections that have done nothing for long, and those that another worker's clients wait for: at once what is beyond our share, as far as
 * the other lacks it of its own; of the rest only what nobody here has used for a while, one in each tick.  A new connection costs the
 * compute a process, which is far more than a query: between two workers that are both busy none may go back and forth.
 */
static void
close_idle(PxPool *p)
{
	dlist_mutable_iter i;
	PxWant		others = px_quota_others_want(p->quota_key, &p->told);
	int			due = Max(Min(others.lacking, p->nservers - fair_share(p, &others)), 0);

	dlist_foreach_modify(i, &p->idle)
	{
		PxServer   *s = dlist_container(PxServer, node, i.cur);

		if (px.now_ms - s->state_ms >= px_server_idle_timeout_ms || px.now_ms - s->created_ms >= px_server_lifetime_ms || p->paused || s->close_after ||
			s->generation != px_reconnect_generation)
			px_server_close(s);
	}
	p->give_back = p->nwaiting > 0 ? due : 0;
	if (p->nwaiting > 0 || (others.lacking == 0 && others.more == 0))
		return;
	for (; due > 0 && !dlist_is_empty(&p->idle); due--)
		px_server_close(dlist_tail_element(PxServer, node, &p->idle));
	if (!dlist_is_empty(&p->idle))
	{
		PxServer   *s = dlist_tail_element(PxServer, node, &p->idle);

		if (px.now_ms - s->state_ms >= SPARE_MS)
			px_server_close(s);
	}
}

static void
expire_starting(PxPool *p)
{
	dlist_mutable_iter i;
	px_error	e = {"FATAL", "08006", "timeout while connecting to the endpoint", NULL, "Try again in a moment."};

	dlist_foreach_modify(i, &p->starting)
	{
		PxServer   *s = dlist_container(PxServer, node, i.cur);

		if (px.now_ms - s->created_ms >= px_connect_timeout_ms)
			px_server_failed(s, &e, false);
	}
}

static void
expire_waiting(dlist_head *list)
{
	while (!dlist_is_empty(list))
	{
		PxClient   *c = dlist_head_element(PxClient, node, list);

		if (px.now_ms - c->state_ms < px_query_wait_timeout_ms)
			return;
		px_client_fail(c, "57014", "timeout while waiting for a server connection", NULL,
					   "All connections of the pool are in use; make transactions shorter or the pool larger.");
	}
}

void
px_pool_tick(void)
{
	dlist_mutable_iter i;

	dlist_foreach_modify(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);

		if (p->nservers > 0)
		{
			expire_starting(p);
			close_idle(p);
		}
		if (p->nwaiting > 0 || p->nlogins > 0)
		{
			expire_waiting(&p->logins);
			expire_waiting(&p->waiting);
			px_pool_want_run(p);
		}
		else
			tell(p, 0, 0);
		if (p->nclients == 0 && p->nservers == 0 && !p->runnable && px.now_ms - p->used_ms > FORGET_MS)
			forget_pool(p);
	}
}
