/*
 * proxy_relay_server.c - bytes from a server connection to its client, and when the connection is free again.
 *
 * As in proxy_relay_client.c only heads are looked at, and the few short messages that pooling needs: ReadyForQuery takes its request from
 * the queue and tells the transaction status, ParameterStatus follows the client, errors may be the connection's end.
 *
 * Invariant: a server connection is given back only when no request is in flight, nothing is unsynced, no COPY runs, both sides are
 * between two messages and the server said 'I'.
 *
 * A Sync that comes while the server takes COPY data is ignored by it, and not if the COPY has failed; what the proxy sees of either may be late.  Then
 * the connection is uncertain: a ReadyForQuery more may come.  Before it is given back a query is sent whose answer no client
 * can bring about, since its column has a random name: when that comes nothing else is to come.
 *
 * Backpressure: while the client has bytes that its kernel did not take, the server is not read.  Crash rule: a connection that is lost
 * with requests in flight ends its client, who does not know whether they ran; nothing is sent a second time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "px.h"

#define MAX_PARSED_BYTES	32768	/* messages of the server that are looked into */
#define MARK_FORMAT			"neon_px_%016" INT64_MODIFIER "x"
#define MARK_ANSWER_BYTES	(PX_HEAD_BYTES + 2 + 25 + 18)	/* the RowDescription of its one column */

typedef struct Round
{
	PxServer   *s;
	PxOut		out;
	bool		to_client;		/* out is in use */
	bool		resume;			/* the client may go on */
} Round;

static bool
own_query(PxServer *s)
{
	PxRequest  *r = px_server_front(s);

	return r && (r->kind == PX_REQ_OWN || (r->kind == PX_REQ_MARK && s->marked));
}

static bool
is_mark(PxServer *s)
{
	PxRequest  *r = px_server_front(s);

	return r && r->kind == PX_REQ_MARK;
}

static bool
is_cancelled(const uint8 *p, const px_head *head)
{
	const char *code = px_error_field(p + PX_HEAD_BYTES, head->len - PX_HEAD_BYTES, 'C');

	return code && strcmp(code, "57014") == 0;
}

static void
forward(Round *r, const uint8 *p, size_t n)
{
	if (r->to_client && !r->s->release)
		px_out_add(&r->out, p, n);
}

/* Takes the request that this ReadyForQuery answers; what stands before it in the queue was not answered because of an error. */
static int
take_request(PxServer *s)
{
	PxRequest  *front;

	while ((front = px_server_front(s)) != NULL)
	{
		PxRequest	r = *front;

		px_server_pop(s);
		if (r.kind <= PX_REQ_OWN)
			return r.kind;
		px_prepared_failed(s, &r);
	}
	return -1;
}

static bool
own_query_done(Round *r)
{
	PxServer   *s = r->s;
	PxClient   *c = s->client;
	bool		failed = s->own_failed;

	s->own_failed = false;
	if (s->state == PX_SV_RESETTING)
	{
		s->close_after |= failed;
		s->release = true;
		return true;
	}
	if (s->state != PX_SV_SETTING)
		return true;
	if (c == NULL)				/* its query was cancelled meanwhile */
	{
		s->close_after |= failed;
		s->release = true;
		return true;
	}
	if (failed)
	{
		if (r->to_client)
			px_out_end(&r->out);
		r->to_client = false;
		s->close_after = true;
		px_client_fail(c, "22023", "a parameter of the connection has a value that the server does not accept", NULL,
					   "Look at client_encoding, DateStyle, IntervalStyle and TimeZone of the connection.");
		return false;
	}
	/* as the server spells them, so that they are the same the next time */
	for (int i = 0; i < PX_TRACKED; i++)
		if (c->vars.value[i] && s->vars.value[i])
			px_vars_set(&c->vars, i, s->vars.value[i]);
	px_server_state(s, PX_SV_LINKED);
	r->resume = true;
	return true;
}

/* The queue is shorter: a client that waits for that may go on. */
static void
answered(Round *r)
{
	if (r->s->client && r->s->client->blocked && r->s->queue_len < PX_MAX_QUEUE / 2)
		r->resume = true;
}

/*
 * An error in the extended protocol: what was sent up to the next Sync will not be answered.  (One that does not belong to it comes while
 * nothing of it is at the front of the queue, and nothing is unsynced.)
 */
static void
pass_over(Round *r)
{
	PxServer   *s = r->s;
	PxRequest  *front;

	while ((front = px_server_front(s)) != NULL && front->kind > PX_REQ_OWN)
	{
		PxRequest	q = *front;

		px_server_pop(s);
		px_prepared_failed(s, &q);
	}
	if (front == NULL && s->unsynced && !s->uncertain)
		s->to_sync = true;
	answered(r);
}

static void
send_mark(PxServer *s)
{
	char		sql[64];
	uint8		buf[80];
	size_t		n;

	if (!pg_strong_random(&s->mark, sizeof(s->mark)))
	{
		s->close_after = true;	/* it stays the client's until that leaves */
		return;
	}
	n = snprintf(sql, sizeof(sql), "SELECT 1 AS \"" MARK_FORMAT "\"", s->mark) + 1;
	n = px_put_message(buf, sizeof(buf), 'Q', sql, n);
	px_server_push(s, PX_REQ_MARK, 0);
	px_sock_send(&s->sock, buf, n);
}

/* RowDescription: the number of columns, the name of the first. */
static bool
answers_mark(PxServer *s, const uint8 *p)
{
	char		name[32];
	int			n = snprintf(name, sizeof(name), MARK_FORMAT, s->mark);

	return is_mark(s) && memcmp(p + PX_HEAD_BYTES + 2, name, n + 1) == 0;
}

static void
release_if_free(Round *r)
{
	PxServer   *s = r->s;

	if (s->status != 'I' || s->queue_len > 0 || s->unsynced || s->client == NULL || s->client->skip > 0)
		return;
	if (s->uncertain && !s->pool->dedicated)
		send_mark(s);
	else if (s->pool->mode == PX_POOL_TRANSACTION)
		s->release = true;
}

/* What was queued for a COPY that did not come. */
static void
forget_copy_end(PxServer *s)
{
	PxRequest  *front = px_server_front(s);

	if (front == NULL || front->kind != PX_REQ_COPY_END)
		return;
	if (s->queue_len == 1 ? !s->unsynced : s->queue[(s->queue_head + 1) & (s->queue_cap - 1)].kind == PX_REQ_QUERY)
		px_server_pop(s);
}

static bool
ready_for_query(Round *r, const uint8 *p)
{
	PxServer   *s = r->s;
	int			kind;

	s->status = p[PX_HEAD_BYTES];
	if (is_mark(s) && !s->marked)
	{
		forward(r, p, 6);		/* of a Sync that the server did not ignore */
		return true;
	}
	kind = take_request(s);
	if (kind < 0 && !s->uncertain)
		return false;
	if (kind == PX_REQ_OWN)
		return own_query_done(r);
	if (kind == PX_REQ_MARK)
	{
		s->uncertain = s->marked = false;
		answered(r);
		release_if_free(r);
		return true;
	}
	forget_copy_end(s);
	forward(r, p, 6);
	s->copy_in = false;
	px_count(queries_total);
	s->pool->stats->value[PX_DB_QUERIES]++;
	if (s->client)
		s->client->queries++;
	if (s->status == 'I')
	{
		px_server_forget(s);
		px_count(transactions_total);
		s->pool->stats->value[PX_DB_TRANSACTIONS]++;
	}
	answered(r);
	if (s->status == 'T' || s->status == 'E')
		s->state_ms = px.now_ms;	/* idle in transaction since now */
	release_if_free(r);
	return true;
}

static void
parameter_status(Round *r, const uint8 *p, const px_head *head, bool own)
{
	px_pair		pair;
	int			var;

	if (!px_parse_pair(p + PX_HEAD_BYTES, head->len - PX_HEAD_BYTES, &pair))
		return;
	var = px_var_index(pair.name);
	if (var >= 0)
	{
		px_vars_set(&r->s->vars, var, pair.value);
		if (!own && r->s->client && !r->s->release)
			px_vars_set(&r->s->client->vars, var, pair.value);
	}
	if (!own)
		forward(r, p, head->len);
}

/* Whether an error says that the connection's prepared statements are not what they should be: another one will have them right. */
static bool
is_astray(PxServer *s, const char *sqlstate, const char *message)
{
	PxRequest  *front = px_server_front(s);

	/* "cached plan must not change result type": a fresh connection has fresh plans */
	if (strcmp(sqlstate, "0A000") == 0)
		return true;
	/* one of ours is missing; or is there already, though the client did not prepare it twice */
	if (message == NULL || strstr(message, PX_STATEMENT_PREFIX) == NULL)
		return false;
	return strcmp(sqlstate, "26000") == 0 || (strcmp(sqlstate, "42P05") == 0 && !(front && front->kind == PX_REQ_PARSE && front->statement == 0));
}

static void
server_error(Round *r, const uint8 *p, const px_head *head, bool own)
{
	PxServer   *s = r->s;
	const char *severity = px_error_field(p + PX_HEAD_BYTES, head->len - PX_HEAD_BYTES, 'V');
	const char *sqlstate = px_error_field(p + PX_HEAD_BYTES, head->len - PX_HEAD_BYTES, 'C');

	s->copy_in = false;
	if (severity && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0))
		s->fatal = s->close_after = true;
	if (sqlstate && s->statements && is_astray(s, sqlstate, px_error_field(p + PX_HEAD_BYTES, head->len - PX_HEAD_BYTES, 'M')))
		s->close_after = true;
	if (own)
		s->own_failed = true;
	else
	{
		forward(r, p, head->len);
		pass_over(r);
	}
}

/* The server gathers up to 8 kB of these before it sends them, of five bytes each: those of PX_MAX_QUEUE / 2 requests do not fit. */
static void
complete_of_extended(Round *r, const uint8 *p, const px_head *head)
{
	static const uint8 parse_complete[] = {'1', 0, 0, 0, 4};
	PxRequest  *front;
	uint8		kind;

	while ((front = px_server_front(r->s)) != NULL && front->kind == PX_REQ_COPY_END)
		px_server_pop(r->s);
	kind = front ? front->kind : PX_REQ_SYNC;
	if (kind > PX_REQ_OWN)
	{
		px_prepared_answered(r->s, front);
		px_server_pop(r->s);
	}
	answered(r);
	if (kind == PX_REQ_PARSE_OWN || kind == PX_REQ_CLOSE_OWN)
		return;
	if (kind == PX_REQ_CLOSE_AS_PARSE)
		forward(r, parse_complete, sizeof(parse_complete));
	else
		forward(r, p, head->len);
}

/* The server takes data; what was sent before it said so it reads as part of that, up to the end of the data. */
static void
copy_in(PxServer *s)
{
	PxRequest  *front = px_server_front(s);
	bool		simple = front && front->kind == PX_REQ_QUERY;
	PxRequest	query = simple ? *front : (PxRequest) {0};

	s->copy_in = true;
	if (simple)
		px_server_pop(s);
	while (s->copy_in && (front = px_server_front(s)) != NULL && (front->kind == PX_REQ_SYNC || front->kind == PX_REQ_COPY_END))
	{
		if (front->kind == PX_REQ_SYNC)
			s->uncertain = true;	/* it is ignored, unless the COPY fails before */
		else
			s->copy_in = false;
		px_server_pop(s);
	}
	if (simple)
		px_server_push_front(s, query);
	else if (s->queue_len == 0)
		s->unsynced = true;
}

static void
command_complete(PxServer *s, const uint8 *p, const px_head *head)
{
	const char *tag = (const char *) p + PX_HEAD_BYTES;

	if (p[head->len - 1] != 0)
		return;
	/* ALTER, CREATE, DROP: passwords may have changed, for others when it is committed */
	if ((tag[0] == 'A' || tag[0] == 'C' || tag[0] == 'D') && strstr(tag, " ROLE"))
		s->forget = true;
	if (strcmp(tag, "DISCARD ALL") == 0 || strcmp(tag, "DEALLOCATE ALL") == 0)
		px_prepared_discarded(s);
}

static bool
needs_all(const px_head *head)
{
	switch (head->type)
	{
		case 'Z':
		case 'S':
		case 'E':
		case '1':
		case '3':
			return head->len <= MAX_PARSED_BYTES;
		case 'C':
			return head->len <= 32;
		case 'T':
			return head->len == MARK_ANSWER_BYTES;
		default:
			return false;
	}
}

/* A message of a connection that is in use or idle; as much of it as there is.  false: the server broke the protocol, or it is closed. */
static bool
server_message(Round *r, const uint8 *p, const px_head *head, size_t n)
{
	PxServer   *s = r->s;
	bool		own = own_query(s);

	if (needs_all(head))
		switch (head->type)
		{
			case 'Z':
				return head->len == 6 && ready_for_query(r, p);
			case 'S':
				parameter_status(r, p, head, own);
				return true;
			case 'E':
				if (is_mark(s) && is_cancelled(p, head))
					return false;		/* by a cancel that came late: the mark will not be answered */
				server_error(r, p, head, own);
				return true;
			case '1':
			case '3':
				complete_of_extended(r, p, head);
				return true;
			case 'T':
				if (answers_mark(s, p))
					s->marked = own = true;
				break;
			case 'C':
				if (!own)
					command_complete(s, p, head);
				break;
		}
	if (head->type == 'G' && !own)
		copy_in(s);
	if (head->type == 'W')
		s->close_after = true;	/* replication does not end in a state to go on from */
	if (s->client == NULL && !own && head->type != 'N' && head->type != 'A' && !s->release && s->state != PX_SV_RESETTING)
		return false;			/* nobody asked */
	s->skip = head->len - n;
	s->skip_drop = own || s->client == NULL || s->release;
	if (!s->skip_drop)
		forward(r, p, n);
	return true;
}

static bool
server_step(Round *r, const uint8 *p, size_t have, size_t *used, bool *more)
{
	PxServer   *s = r->s;
	px_head		head;
	size_t		n;

	if (s->skip > 0)
	{
		n = Min(s->skip, have);
		if (!s->skip_drop)
			forward(r, p, n);
		s->skip -= n;
		*used += n;
		return true;
	}
	if (have < PX_HEAD_BYTES)
	{
		*more = true;
		return true;
	}
	if (!px_head_parse(p, &head) || !px_server_type(head.type))
		return false;
	n = Min(head.len, have);
	if (s->state < PX_SV_IDLE)
	{
		if (head.len > MAX_PARSED_BYTES)
			return false;
		if (n < head.len)
			*more = true;
		else
		{
			*used += n;
			return px_server_login_message(s, &head, p);
		}
		return true;
	}
	if (n < head.len && needs_all(&head))
	{
		*more = true;
		return true;
	}
	*used += n;
	return server_message(r, p, &head, n);
}

/* The end of the connection, or of our patience with it. */
static void
server_lost(PxServer *s, const char *why)
{
	PxClient   *c = s->client;
	px_error	e = {"FATAL", "08006", why, NULL, "Try again in a moment."};

	if (s->state == PX_SV_CLOSED)
		return;
	s->close_after = true;
	if (s->state < PX_SV_IDLE)
		px_server_failed(s, &e, false);
	else if (c && s->fatal)
		px_client_close(c);
	else if (c)
		px_client_fail(c, e.sqlstate, why, NULL, e.hint);
	px_server_close(s);
}

/* After a round: what the client is owed, and whether the connection is free. */
static void
end_round(Round *r)
{
	PxServer   *s = r->s;
	PxClient   *c = s->client;

	if (r->to_client && !px_out_end(&r->out))
	{
		s->release = false;
		px_client_close(c);
		return;
	}
	if (c && c->sock.out)
		px_sock_watch(s->release ? &c->sock : &s->sock, false);
	if (s->release)
	{
		s->release = false;
		if (c)
		{
			px_add(query_us_total, (int64) (px.now_us - s->linked_us));
			s->pool->stats->value[PX_DB_TRANSACTION_US] += (int64) (px.now_us - s->linked_us);
			s->pool->stats->value[PX_DB_QUERY_US] += (int64) (px.now_us - s->linked_us);
		}
		px_pool_release(s);
		if (c && px.stopping)
			px_client_fail(c, "57P01", "the proxy is shutting down", NULL, "Connect again.");
		else if (c && c->in && c->sock.out == NULL)
			px_relay_resume(c);
	}
	else if (c && px.stopping && s->status == 'I' && s->queue_len == 0 && !s->unsynced)
		px_client_fail(c, "57P01", "the proxy is shutting down", NULL, "Connect again.");
	else if (c && r->resume)
		px_relay_resume(c);
}

/* false: closed */
static bool
server_bytes(PxServer *s, const uint8 *p, size_t len, size_t *used)
{
	Round		r = {.s = s};
	bool		more = false;
	bool		ok = true;

	if (s->client)
	{
		px_out_begin(&r.out, &s->client->sock);
		r.to_client = true;
	}
	while (ok && !more && *used < len)
		ok = server_step(&r, p + *used, len - *used, used, &more);
	if (!ok)
	{
		if (r.to_client)
			px_out_end(&r.out);
		server_lost(s, "the server sent what is not the protocol");
		return false;
	}
	if (*used < len && !px_buf_append(&s->in, p + *used, len - *used))
		s->close_after = true;
	end_round(&r);
	return s->state != PX_SV_CLOSED;
}

void
px_relay_server(PxServer *s)
{
	size_t		used = 0;
	int			n = px_sock_read(&s->sock, px.rbuf, PX_READ_BYTES);
	PxBuf	   *b;

	if (n < 0)
	{
		server_lost(s, s->state < PX_SV_IDLE ? "the server closed the connection while logging in" : "server closed the connection unexpectedly");
		return;
	}
	if (n == 0)
		return;
	px_add(server_bytes_total, n);
	s->pool->stats->value[PX_DB_SENT] += n;
	if (s->in == NULL)
	{
		server_bytes(s, px.rbuf, n, &used);
		return;
	}
	if (!px_buf_append(&s->in, px.rbuf, n))
	{
		server_lost(s, "out of memory in the proxy");
		return;
	}
	b = s->in;
	s->in = NULL;
	server_bytes(s, b->data + b->start, b->end - b->start, &used);
	px_buf_free(&b);
}
