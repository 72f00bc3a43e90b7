/*
 * proxy_relay_client.c - bytes from a client to its server connection.
 *
 * Only heads of messages are looked at; bodies are passed on where they lie, in the worker's read buffer.  What is kept of the
 * protocol is what pooling needs: the requests in flight (each Query, Sync and FunctionCall is answered by one ReadyForQuery), whether
 * extended messages were sent after the last Sync, whether the server takes COPY data.
 *
 * Invariant: a request stands in the server's queue before its first byte is sent.
 *
 * Backpressure: while the server has bytes that its kernel did not take, the client is not read; what it had sent already is kept, up to
 * PX_MAX_SAVED_BYTES and a read more, and nothing of it is made into more for the server than px_out_full() allows.
 * Crash rule: nothing is kept for longer than the connection; a request without an answer may have run.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "px.h"

#define MAX_PREPARED_BYTES	(1024 * 1024)	/* a Parse message that is kept */

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
			if (s->copy_in)
				s->uncertain = true;	/* the server ignores it, unless the COPY has failed meanwhile */
			else
			{
				px_server_push(s, PX_REQ_SYNC, 0);
				s->unsynced = false;
			}
			s->to_sync = false;
			break;
		case 'c':
		case 'f':
			if (!s->copy_in && (s->queue_len > 0 || s->unsynced) && (s->queue_len == 0 || px_server_back(s)->kind != PX_REQ_COPY_END))
				px_server_push(s, PX_REQ_COPY_END, 0);
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

/* Its request was taken back, and the rest of it is nobody's: the Sync is answered here. */
static Step
until_sync(PxClient *c, const px_head *head)
{
	uint8		buf[8];

	c->drop_message = true;
	c->skip = head->len;
	if (head->type != 'S')
		return STEP_ON;
	c->to_sync = false;
	px_put_ready(buf, sizeof(buf), 'I');
	if (px_sock_send(&c->sock, buf, 6))
		return STEP_ON;
	px_client_close(c);
	return STEP_CLOSED;
}

/* One message, or as much of it as there is, goes to the server. */
static Step
pass_on(PxClient *c, PxOut *out, const px_head *head, const uint8 *p, size_t have, size_t *used)
{
	PxServer   *s = c->server;
	size_t		n = Min(head->len, have);

	if (s->to_sync && head->type != 'S')
	{
		/* the server would not answer it, and what is never answered fills the queue */
		c->drop_message = true;
		c->skip = head->len;
		return STEP_ON;
	}
	/* a short message about a statement can be a long one for the server */
	if (s->queue_len >= PX_MAX_QUEUE - 4 || px_out_full(out))
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
			case PX_PREP_TOO_MANY:
				px_client_fail(c, "54000", "too many prepared statements for the proxy", "Their number and their bytes together are limited.",
							   "Close those that are not needed any more, or use session pooling.");
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

/* What was asked before is answered before it goes. */
static Step
terminate(PxClient *c, PxOut *out, bool *gathering)
{
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
		return terminate(c, out, gathering);
	if (c->to_sync)
		return until_sync(c, &head);
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
		px_out_end(&out);		/* a broken connection is noticed when it is read: it may have said why */
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
	c->pool->stats->value[PX_DB_RECEIVED] += n;
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
