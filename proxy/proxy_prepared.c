/*
 * proxy_prepared.c - prepared statements of the extended protocol over connections that change with each transaction.
 *
 * A client's named statement is its text, kept once however many clients prepare it, under an id that is never used again.
 * On a server connection it is called neon_px_<id>.  Where a connection does not have it yet, it is prepared there in front of the message
 * that needs it, and that answer is swallowed.  Where a client prepares what the connection has already, the server is asked to close a
 * statement that does not exist, which it always does; its answer, in its place among the others, is handed on as ParseComplete.
 * So the proxy never makes up an answer, and order and errors are the server's.
 *
 * A connection keeps neon_proxy.max_prepared_statements; the one used longest ago is closed for a new one.
 *
 * Statements prepared in SQL (PREPARE) are the server connection's, as with other poolers, and the unnamed statement lives until the
 * transaction ends.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "px.h"

#define BUCKETS			4096
#define MAX_CLIENT_STATEMENTS 10000
#define MAX_CLIENT_BYTES (16 * 1024 * 1024)	/* of their texts */
#define NAME_FORMAT		PX_STATEMENT_PREFIX UINT64_FORMAT
#define NO_STATEMENT	PX_STATEMENT_PREFIX "none"
#define MAX_NAMES_BYTES	4096

typedef struct Named			/* a client's name for a statement */
{
	struct Named *next;
	PxStatement *st;
	uint64		number;			/* never used again, and rising */
	uint32		hash;
	char		name[FLEXIBLE_ARRAY_MEMBER];
} Named;

struct PxPrepared
{
	uint32		n;
	uint32		nbuckets;
	size_t		bytes;			/* of the statements' texts */
	Named	  **bucket;
};

typedef struct Held				/* a statement that a connection has */
{
	dlist_node	lru;
	struct Held *next;
	uint64		id;
	uint32		segment;		/* in which it was prepared last */
	bool		proved;			/* the server said so */
	bool		keep;			/* see px_prepared_discarded() */
} Held;

struct PxServerStatements
{
	uint32		n;
	dlist_head	lru;
	Held	   *bucket[64];
};

static PxStatement *statements[BUCKETS];
static uint64 last_id;
static uint64 last_number;

/* ---------------------------------------------------------------- statements */

static PxStatement *
statement_get(const uint8 *body, uint32 len)
{
	uint64		hash = hash_bytes_extended(body, (int) len, 7);
	PxStatement *st;

	for (st = statements[hash % BUCKETS]; st; st = st->next)
		if (st->hash == hash && st->len == len && memcmp(st->body, body, len) == 0)
		{
			st->refs++;
			return st;
		}
	st = px_alloc(offsetof(PxStatement, body) + len);
	st->hash = hash;
	st->id = ++last_id;
	st->refs = 1;
	st->len = len;
	memcpy(st->body, body, len);
	st->next = statements[hash % BUCKETS];
	statements[hash % BUCKETS] = st;
	return st;
}

static void
statement_release(PxStatement *st)
{
	PxStatement **at;

	if (--st->refs > 0)
		return;
	for (at = &statements[st->hash % BUCKETS]; *at != st; at = &(*at)->next)
		;
	*at = st->next;
	px_defer_free(st);			/* its bytes may be in a gathered write */
}

/* ---------------------------------------------------------------- a client's */

static Named **
find_name(PxPrepared *m, const char *name)
{
	uint32		hash = hash_bytes((const unsigned char *) name, (int) strlen(name));
	Named	  **at;

	for (at = &m->bucket[hash & (m->nbuckets - 1)]; *at; at = &(*at)->next)
		if ((*at)->hash == hash && strcmp((*at)->name, name) == 0)
			break;
	return at;
}

static void
remove_named(PxPrepared *m, Named **at)
{
	Named	   *n = *at;

	*at = n->next;
	m->n--;
	m->bytes -= n->st->len;
	statement_release(n->st);
	px_free(n);
}

static void
grow(PxPrepared *m)
{
	uint32		old_n = m->nbuckets;
	Named	  **old = m->bucket;

	m->nbuckets = old_n ? old_n * 4 : 8;
	m->bucket = px_alloc(m->nbuckets * sizeof(Named *));
	for (uint32 i = 0; i < old_n; i++)
		while (old[i])
		{
			Named	   *n = old[i];

			old[i] = n->next;
			n->next = m->bucket[n->hash & (m->nbuckets - 1)];
			m->bucket[n->hash & (m->nbuckets - 1)] = n;
		}
	px_free(old);
}

static Named *
add_name(PxClient *c, const char *name, PxStatement *st)
{
	PxPrepared *m = c->prepared;
	size_t		len = strlen(name) + 1;
	Named	   *n = px_alloc(offsetof(Named, name) + len);

	if (m == NULL)
		m = c->prepared = px_alloc(sizeof(PxPrepared));
	if (m->n >= m->nbuckets)
		grow(m);
	memcpy(n->name, name, len);
	n->hash = hash_bytes((const unsigned char *) name, (int) strlen(name));
	n->st = st;
	n->number = ++last_number;
	n->next = m->bucket[n->hash & (m->nbuckets - 1)];
	m->bucket[n->hash & (m->nbuckets - 1)] = n;
	m->n++;
	m->bytes += st->len;
	return n;
}

/* Names with numbers below this. */
static void
forget_names(PxPrepared *m, uint64 number)
{
	for (uint32 i = 0; m && i < m->nbuckets; i++)
		for (Named **at = &m->bucket[i]; *at;)
			if ((*at)->number < number)
				remove_named(m, at);
			else
				at = &(*at)->next;
}

void
px_prepared_free_client(PxClient *c)
{
	forget_names(c->prepared, PG_UINT64_MAX);
	if (c->prepared)
		px_free(c->prepared->bucket);
	px_free(c->prepared);
	c->prepared = NULL;
}

int
px_prepared_count(const PxClient *c)
{
	return c->prepared ? (int) c->prepared->n : 0;
}

/* ---------------------------------------------------------------- a connection's */

static Held **
find_held(PxServerStatements *m, uint64 id)
{
	Held	  **at = &m->bucket[id % lengthof(m->bucket)];

	while (*at && (*at)->id != id)
		at = &(*at)->next;
	return at;
}

static void
drop_held(PxServerStatements *m, Held **at)
{
	Held	   *h = *at;

	*at = h->next;
	dlist_delete(&h->lru);
	m->n--;
	px_free(h);
}

void
px_prepared_free_server(PxServer *s)
{
	PxServerStatements *m = s->statements;

	if (m == NULL)
		return;
	for (int i = 0; i < lengthof(m->bucket); i++)
		while (m->bucket[i])
			drop_held(m, &m->bucket[i]);
	px_free(m);
	s->statements = NULL;
}

/*
 * The server has forgotten all its statements, and the client's session all its names; not those that were sent behind that and are still to be
 * answered.
 */
void
px_prepared_discarded(PxServer *s)
{
	PxServerStatements *m = s->statements;
	uint64		first_pending = PG_UINT64_MAX;

	for (uint32 i = 0; i < s->queue_len; i++)
	{
		PxRequest  *r = &s->queue[(s->queue_head + i) & (s->queue_cap - 1)];
		Held	   *h = m && (r->kind == PX_REQ_PARSE || r->kind == PX_REQ_PARSE_OWN) ? *find_held(m, r->statement) : NULL;

		if (h)
			h->keep = true;
		if (r->name)
			first_pending = Min(first_pending, r->name);
	}
	for (int i = 0; m && i < lengthof(m->bucket); i++)
		for (Held **at = &m->bucket[i]; *at;)
			if ((*at)->keep)
			{
				(*at)->keep = false;
				at = &(*at)->next;
			}
			else
				drop_held(m, at);
	if (s->client)
		forget_names(s->client->prepared, first_pending);
}

/* ---------------------------------------------------------------- messages */

static void
put_close(PxServer *s, PxOut *out, const char *name, PxRequestKind kind, uint64 id)
{
	uint8		body[64];
	uint8		buf[80];
	size_t		n = strlen(name) + 1;

	body[0] = 'S';
	memcpy(body + 1, name, n);
	n = px_put_message(buf, sizeof(buf), 'C', body, n + 1);
	px_out_copy(out, buf, n);
	px_server_push(s, kind, id);
}

static void
put_parse(PxServer *s, PxOut *out, PxStatement *st, PxRequestKind kind, uint64 id)
{
	char		name[32];
	uint8		head[48];
	uint32		n;

	snprintf(name, sizeof(name), NAME_FORMAT, st->id);
	n = (uint32) px_put_message(head, sizeof(head), 'P', name, strlen(name) + 1);
	n += st->len;
	for (int i = 0; i < 4; i++)
		head[1 + i] = (uint8) ((n - 1) >> (24 - 8 * i));
	px_out_copy(out, head, n - st->len);
	px_out_add(out, st->body, st->len);
	px_server_push(s, kind, id);
	px_count(prepared_parses_total);
}

static void
hold(PxServer *s, PxOut *out, uint64 id)
{
	PxServerStatements *m = s->statements;
	Held	   *h;

	if (m == NULL)
	{
		m = s->statements = px_alloc(sizeof(PxServerStatements));
		dlist_init(&m->lru);
	}
	while (m->n >= px_max_prepared_statements)
	{
		char		name[32];
		uint64		oldest = dlist_head_element(Held, lru, &m->lru)->id;

		snprintf(name, sizeof(name), NAME_FORMAT, oldest);
		put_close(s, out, name, PX_REQ_CLOSE_OWN, 0);
		drop_held(m, find_held(m, oldest));
	}
	h = px_alloc(sizeof(Held));
	h->id = id;
	h->segment = s->segment;
	h->next = m->bucket[id % lengthof(m->bucket)];
	m->bucket[id % lengthof(m->bucket)] = h;
	dlist_push_tail(&m->lru, &h->lru);
	m->n++;
}

static Held *
has(PxServer *s, uint64 id)
{
	Held	   *h = s->statements ? *find_held(s->statements, id) : NULL;

	if (h == NULL)
		return NULL;
	dlist_delete(&h->lru);
	dlist_push_tail(&s->statements->lru, &h->lru);
	px_count(prepared_hits_total);
	return h;
}

/*
 * The connection has the statement, before what comes now.  One that was sent in front of an earlier Sync, and not answered yet, may have been passed
 * over because of an error there: it is sent again, after it was closed if it is there.
 */
static void
provide(PxServer *s, PxOut *out, PxStatement *st)
{
	Held	   *h = has(s, st->id);
	char		name[32];

	if (h && (h->proved || h->segment == s->segment))
		return;
	if (h)
	{
		snprintf(name, sizeof(name), NAME_FORMAT, st->id);
		put_close(s, out, name, PX_REQ_CLOSE_OWN, st->id);
		h->segment = s->segment;
	}
	else
		hold(s, out, st->id);
	put_parse(s, out, st, PX_REQ_PARSE_OWN, st->id);
}

static PxPreparedResult
parse(PxClient *c, PxOut *out, const px_head *head, const px_named *n, const uint8 *p, uint32 *used)
{
	PxServer   *s = c->server;
	PxStatement *st;
	Named	   *name;
	Named	   *old = c->prepared ? *find_name(c->prepared, n->statement) : NULL;

	*used = head->len;
	if (old)
	{
		/* the server's own error: it has that one already */
		provide(s, out, old->st);
		put_parse(s, out, old->st, PX_REQ_PARSE, 0);
		return PX_PREP_DONE;
	}
	if (c->prepared && (c->prepared->n >= MAX_CLIENT_STATEMENTS || c->prepared->bytes + head->len > MAX_CLIENT_BYTES))
		return PX_PREP_TOO_MANY;
	st = statement_get(p + n->rest, head->len - n->rest);
	name = add_name(c, n->statement, st);
	if (has(s, st->id))
		put_close(s, out, NO_STATEMENT, PX_REQ_CLOSE_AS_PARSE, st->id);
	else
	{
		hold(s, out, st->id);
		put_parse(s, out, st, PX_REQ_PARSE, st->id);
	}
	px_server_back(s)->name = name->number;
	px_server_back(s)->name_hash = name->hash;
	return PX_PREP_DONE;
}

/* Bind, Describe: the same message with the connection's name for the statement. */
static PxPreparedResult
rename_statement(PxClient *c, PxOut *out, const px_head *head, const px_named *n, const uint8 *p, size_t have, uint32 *used, PxStatement *st)
{
	char		name[32];
	uint8		first[PX_HEAD_BYTES];
	uint32		before = (uint32) ((const uint8 *) n->statement - p);
	uint32		len;
	int			name_len = snprintf(name, sizeof(name), NAME_FORMAT, st->id) + 1;

	provide(c->server, out, st);
	len = before + name_len + (head->len - n->rest) - 1;
	first[0] = head->type;
	for (int i = 0; i < 4; i++)
		first[1 + i] = (uint8) (len >> (24 - 8 * i));
	px_out_copy(out, first, sizeof(first));
	px_out_add(out, p + PX_HEAD_BYTES, before - PX_HEAD_BYTES);
	px_out_copy(out, name, name_len);
	*used = (uint32) Min(have, head->len);
	px_out_add(out, p + n->rest, *used - n->rest);
	c->skip = head->len - *used;
	c->drop_message = false;
	return PX_PREP_DONE;
}

PxPreparedResult
px_prepared_client(PxClient *c, PxOut *out, const px_head *head, const uint8 *p, size_t have, uint32 *used)
{
	px_named	n;
	Named	  **at;

	switch (px_named_parse(p, have, head, &n))
	{
		case PX_NAMED_BAD:
			return PX_PREP_BAD;
		case PX_NAMED_MORE:
			return have > MAX_NAMES_BYTES ? PX_PREP_BAD : PX_PREP_MORE;
		case PX_NAMED_OK:
			break;
	}
	if (n.statement == NULL || n.statement[0] == '\0')
	{
		if (head->type == 'P' || head->type == 'C')
			px_server_push(c->server, head->type == 'P' ? PX_REQ_PARSE : PX_REQ_CLOSE, 0);
		return PX_PREP_PLAIN;
	}
	if (head->type == 'P')
		return have < head->len ? PX_PREP_MORE : parse(c, out, head, &n, p, used);
	at = c->prepared && c->prepared->nbuckets ? find_name(c->prepared, n.statement) : NULL;
	if (head->type == 'C')
	{
		*used = head->len;
		if (have < head->len)
			return PX_PREP_MORE;
		if (at && *at)
			remove_named(c->prepared, at);
		put_close(c->server, out, NO_STATEMENT, PX_REQ_CLOSE, 0);
		return PX_PREP_DONE;
	}
	if (at == NULL || *at == NULL)
		return PX_PREP_PLAIN;	/* the server does not have it either, and says so */
	return rename_statement(c, out, head, &n, p, have, used, (*at)->st);
}

static Held **
held_of(PxServer *s, const PxRequest *r)
{
	return s->statements && r->statement && r->kind != PX_REQ_CLOSE_AS_PARSE ? find_held(s->statements, r->statement) : NULL;
}

/* ParseComplete or CloseComplete came for it. */
void
px_prepared_answered(PxServer *s, const PxRequest *r)
{
	Held	  **h = held_of(s, r);

	if (h && *h)
		(*h)->proved = r->kind != PX_REQ_CLOSE_OWN;
}

/* A request that was not answered: an error came before it. */
void
px_prepared_failed(PxServer *s, const PxRequest *r)
{
	PxPrepared *m = s->client ? s->client->prepared : NULL;
	Held	  **h = held_of(s, r);

	if (r->kind == PX_REQ_CLOSE_OWN)
	{
		if (r->statement == 0)
			s->close_after = true;	/* it still has a statement that we think is gone */
		return;
	}
	if (h && *h && !(*h)->proved && (*h)->segment == r->segment)
		drop_held(s->statements, h);
	if (r->name == 0 || m == NULL)
		return;
	for (Named **at = &m->bucket[r->name_hash & (m->nbuckets - 1)]; *at; at = &(*at)->next)
		if ((*at)->number == r->name)
		{
			remove_named(m, at);
			return;
		}
}
