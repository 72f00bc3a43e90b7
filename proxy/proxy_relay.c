/*
 * proxy_relay.c - bytes between a client and its server connection.
 *
 * Only heads of messages are looked at; bodies are passed on where they lie, in the worker's read buffer.  What is kept of the
 * protocol is what pooling needs: the requests in flight (each Query, Sync and FunctionCall is answered by one ReadyForQuery), whether
 * extended messages were sent after the last Sync, whether the server takes COPY data, and the transaction status.
 *
 * Invariant: a server connection is given back only when no request is in flight, nothing is unsynced, no COPY runs, both sides are
 * between two messages and the server said 'I'.
 *
 * Backpressure: while one side has bytes that its kernel did not take, the other side is not read.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "px.h"

#define MAX_PREPARED_BYTES	(1024 * 1024)	/* a Parse message that is kept */
#define MAX_PARSED_BYTES	32768	/* messages of the server that are looked into */

/* ---------------------------------------------------------------- client to server */

static bool
bad_message(PxClient *c)
{
	px_count(protocol_errors_total);
	return px_client_fail(c, "08P01", "invalid frontend message", NULL, NULL);
}

static void
note_request(PxServer *s, uint8 type)
{
	switch (type)
	{
		case 'Q':
		case 'F':
			px_server_push(s, PX_REQ_QUERY, 0);
			break;
		case 'S':
			if (!s->copy_in)	/* the server ignores it while it takes data */
			{
				px_server_push(s, PX_REQ_SYNC, 0);
				s->unsynced = false;
			}
			break;
		case 'c':
		case 'f':
			s->copy_in = false;
			break;
		case 'd':
			break;
		default:
			s->unsynced = true;
	}
}

static bool
is_prepared_type(uint8 type)
{
	return type == 'P' || type == 'B' || type == 'D' || type == 'C';
}

typedef enum Step
{
	STEP_ON,
	STEP_ENOUGH,				/* the rest has to wait */
	STEP_CLOSED
} Step;

/* The client has no server connection: most messages need one. */
static Step
without_server(PxClient *c, const px_head *head)
{
	uint8		buf[8];

	switch (head->type)
	{
		case 'd':				/* of a COPY that ended with an error */
		case 'c':
		case 'f':
		case 'H':
			c->drop_message = true;
			c->skip = head->len;
			return STEP_ON;
		case 'S':
			if (head->len != 5)
				break;
			c->drop_message = true;
			c->skip = head->len;
			px_put_ready(buf, sizeof(buf), 'I');
			if (px_sock_send(&c->sock, buf, 6))
				return STEP_ON;
			px_client_close(c);
			return STEP_CLOSED;
	}
	if (px.stopping)
	{
		px_client_fail(c, "57P01", "the proxy is shutting down", NULL, "Connect again.");
		return STEP_CLOSED;
	}
	if (px_pool_acquire(c))
		return STEP_ON;
	return c->state == PX_CL_CLOSED ? STEP_CLOSED : STEP_ENOUGH;
}

/* One message, or as much of it as there is, goes to the server. */
static Step
pass_on(PxClient *c, PxOut *out, const px_head *head, const uint8 *p, size_t have, size_t *used)
{
	PxServer   *s = c->server;
	size_t		n = Min(head->len, have);

	if (s->queue_len >= PX_MAX_QUEUE - 4)
	{
		c->blocked = true;
		return STEP_ENOUGH;
	}
	if (c->pool->mode == PX_POOL_TRANSACTION && px_max_prepared_statements > 0 && is_prepared_type(head->type))
	{
		uint32		took = 0;

		switch (px_prepared_client(c, out, head, p, have, &took))
		{
			case PX_PREP_PLAIN:
				break;
			case PX_PREP_DONE:
				note_request(s, head->type);
				*used += took;
				return STEP_ON;
			case PX_PREP_MORE:
				if (have < MAX_PREPARED_BYTES)
					return STEP_ENOUGH;
				px_client_fail(c, "54000", "prepared statement is too long for the proxy", NULL, "Use session pooling for it.");
				return STEP_CLOSED;
			case PX_PREP_BAD:
				bad_message(c);
				return STEP_CLOSED;
		}
	}
	note_request(s, head->type);
	px_out_add(out, p, n);
	*used += n;
	c->skip = head->len - n;
	c->drop_message = false;
	return STEP_ON;
}

static Step
one_step(PxClient *c, PxOut *out, bool *gathering, const uint8 *p, size_t have, size_t *used)
{
	px_head		head;
	Step		step;

	if (c->skip > 0)
	{
		size_t		n = Min(c->skip, have);

		if (!c->drop_message)
			px_out_add(out, p, n);
		c->skip -= n;
		*used += n;
		return STEP_ON;
	}
	if (have < PX_HEAD_BYTES)
		return STEP_ENOUGH;
	if (!px_head_parse(p, &head) || !px_client_type(head.type))
	{
		bad_message(c);
		return STEP_CLOSED;
	}
	if (head.type == 'X')
	{
		/* what was asked before is answered before it goes */
		if (c->server && c->server->queue_len > 0 && !c->server->copy_in)
		{
			c->blocked = true;
			return STEP_ENOUGH;
		}
		if (*gathering)
			px_out_end(out);
		*gathering = false;
		px_client_close(c);
		return STEP_CLOSED;
	}
	if (c->server == NULL)
	{
		step = without_server(c, &head);
		if (step != STEP_ON || c->skip > 0)
			return step;
	}
	if (c->server->state == PX_SV_SETTING)
		return STEP_ENOUGH;
	if (!*gathering)
		px_out_begin(out, &c->server->sock);
	*gathering = true;
	return pass_on(c, out, &head, p, have, used);
}

/* false: closed.  What is not used has to come again, with more behind it. */
static bool
client_bytes(PxClient *c, const uint8 *p, size_t len, size_t *used)
{
	PxOut		out;
	bool		gathering = false;
	Step		step = STEP_ON;

	c->blocked = false;
	if (c->skip > 0 && !c->drop_message)
	{
		px_out_begin(&out, &c->server->sock);
		gathering = true;
	}
	while (step == STEP_ON && *used < len)
		step = one_step(c, &out, &gathering, p + *used, len - *used, used);
	if (gathering)
		px_out_end(&out);		/* a broken connection is noticed when it is read */
	if (step == STEP_CLOSED)
		return false;
	if (c->server && c->server->sock.out)
		px_sock_watch(&c->sock, false);
	return true;
}

/* From the client's own buffer; what is left is kept. */
static bool
kept_bytes(PxClient *c)
{
	PxBuf	   *b = c->in;
	size_t		used = 0;
	size_t		len = b->end - b->start;
	bool		open;

	c->in = NULL;
	open = client_bytes(c, b->data + b->start, len, &used);
	if (open && used < len)
	{
		if (used == 0)
		{
			c->in = b;
			return true;
		}
		open = px_buf_append(&c->in, b->data + b->start + used, len - used);
		if (!open)
			px_client_close(c);
	}
	px_buf_free(&b);
	return open;
}

/* Whether its bytes have to wait: for a server connection, for its parameters, for room. */
static bool
must_wait(const PxClient *c)
{
	return c->state == PX_CL_WAITING || c->state == PX_CL_WELCOME || c->blocked || (c->server && c->server->state == PX_SV_SETTING);
}

void
px_relay_client(PxClient *c)
{
	size_t		used = 0;
	int			n;

	n = px_sock_read(&c->sock, px.rbuf, PX_READ_BYTES);
	if (n < 0)
	{
		px_client_close(c);
		return;
	}
	if (n == 0)
		return;
	px_add(client_bytes_total, n);
	if (c->in || must_wait(c))
	{
		if (!px_buf_append(&c->in, px.rbuf, n))
			px_client_close(c);
		else if (must_wait(c))
		{
			if (c->in->end - c->in->start >= PX_MAX_SAVED_BYTES)
				px_sock_watch(&c->sock, false);
		}
		else
			kept_bytes(c);
		return;
	}
	if (client_bytes(c, px.rbuf, n, &used) && used < n && !px_buf_append(&c->in, px.rbuf + used, n - used))
		px_client_close(c);
}

/* It may go on with what it sent before. */
void
px_relay_resume(PxClient *c)
{
	c->blocked = false;
	if (c->in && !kept_bytes(c))
		return;
	if (!must_wait(c) && (c->server == NULL || c->server->sock.out == NULL) && (c->server || c->sock.out == NULL))
		px_sock_watch(&c->sock, true);
}

/* ---------------------------------------------------------------- server to client */

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

	return r && r->kind == PX_REQ_OWN;
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

static bool
ready_for_query(Round *r, const uint8 *p)
{
	PxServer   *s = r->s;
	int			kind = take_request(s);

	s->status = p[PX_HEAD_BYTES];
	if (kind < 0)
		return false;
	if (kind == PX_REQ_OWN)
		return own_query_done(r);
	forward(r, p, 6);
	s->copy_in = false;
	px_count(queries_total);
	if (s->client)
		s->client->queries++;
	if (s->status == 'I')
		px_count(transactions_total);
	if (s->client && s->client->blocked && s->queue_len < PX_MAX_QUEUE / 2)
		r->resume = true;
	if (s->status == 'T' || s->status == 'E')
		s->state_ms = px.now_ms;	/* idle in transaction since now */
	if (s->status == 'I' && s->queue_len == 0 && !s->unsynced && s->pool->mode == PX_POOL_TRANSACTION && s->client && s->client->skip == 0)
		s->release = true;
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

static void
server_error(Round *r, const uint8 *p, const px_head *head, bool own)
{
	PxServer   *s = r->s;
	const char *severity = px_error_field(p + PX_HEAD_BYTES, head->len - PX_HEAD_BYTES, 'V');
	const char *sqlstate = px_error_field(p + PX_HEAD_BYTES, head->len - PX_HEAD_BYTES, 'C');

	s->copy_in = false;
	if (severity && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0))
		s->fatal = s->close_after = true;
	/* "cached plan must not change result type": a fresh connection has fresh plans */
	if (sqlstate && strcmp(sqlstate, "0A000") == 0 && s->statements)
		s->close_after = true;
	if (own)
		s->own_failed = true;
	else
		forward(r, p, head->len);
}

static void
complete_of_extended(Round *r, const uint8 *p, const px_head *head)
{
	static const uint8 parse_complete[] = {'1', 0, 0, 0, 4};
	PxRequest  *front = px_server_front(r->s);
	uint8		kind = front ? front->kind : PX_REQ_SYNC;

	if (kind > PX_REQ_OWN)
		px_server_pop(r->s);
	if (kind == PX_REQ_PARSE_OWN || kind == PX_REQ_CLOSE_OWN)
		return;
	if (kind == PX_REQ_CLOSE_AS_PARSE)
		forward(r, parse_complete, sizeof(parse_complete));
	else
		forward(r, p, head->len);
}

static void
copy_in(PxServer *s)
{
	PxRequest  *front = px_server_front(s);

	s->copy_in = true;
	if (front && front->kind == PX_REQ_SYNC)
	{
		/* extended protocol: the Sync that was sent behind Execute is ignored by the server */
		s->queue_len = 0;
		s->unsynced = true;
	}
}

static void
command_complete(PxServer *s, const uint8 *p, const px_head *head)
{
	const char *tag = (const char *) p + PX_HEAD_BYTES;

	if (p[head->len - 1] != 0)
		return;
	/* ALTER, CREATE, DROP: passwords may have changed */
	if ((tag[0] == 'A' || tag[0] == 'C' || tag[0] == 'D') && strstr(tag, " ROLE"))
		px_admin_tell_all("FORGET", s->pool->endpoint->id);
	if (s->statements == NULL)
		return;
	if (strcmp(tag, "DISCARD ALL") == 0 || strcmp(tag, "DEALLOCATE ALL") == 0)
	{
		px_prepared_free_server(s);
		if (s->client)
			px_prepared_forget_client(s->client);
	}
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
				server_error(r, p, head, own);
				return true;
			case '1':
			case '3':
				complete_of_extended(r, p, head);
				return true;
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
			px_add(query_us_total, (int64) (px.now_us - s->linked_us));
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
