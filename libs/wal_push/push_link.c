/*
 * push_link.c - one asynchronous libpq connection: connect, send a command, be in COPY BOTH, or wait and try again.
 *
 * Nothing here blocks, except that libpq resolves host names in place: give addresses, or names the local resolver knows.
 * Every step has a limit in time; every failure leads to LINK_DOWN with a pause that doubles up to a limit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <string.h>

#include "push_internal.h"

void
push_link_init(push_link *link)
{
	memset(link, 0, sizeof(*link));
	link->state = LINK_DOWN;
	link->backoff_ms = PUSH_BACKOFF_MIN_MS;
	link->slot = -1;
}

void
push_link_close(push_link *link)
{
	if (link->conn)
		PQfinish(link->conn);
	link->conn = NULL;
	link->state = LINK_DOWN;
	link->out_pending = false;
	link->force_read = false;
	link->slot = -1;
}

/* One line: libpq's texts have newlines and tabs. */
static void
copy_line(char to[NEON_PUSH_TEXT_BYTES], const char *from)
{
	size_t		n = 0;

	for (; *from && n < NEON_PUSH_TEXT_BYTES - 1; from++)
	{
		char		c = *from == '\n' || *from == '\t' ? ' ' : *from;

		if (c != ' ' || (n > 0 && to[n - 1] != ' '))
			to[n++] = c;
	}
	while (n > 0 && to[n - 1] == ' ')
		n--;
	to[n] = '\0';
}

void
push_link_down(neon_wal_push *push, push_link *link, const char *why)
{
	copy_line(link->error, why);
	push_link_close(link);
	link->retry_at_ms = push->env->now_ms(push->env_arg) + link->backoff_ms;
	link->backoff_ms = link->backoff_ms * 2 > PUSH_BACKOFF_MAX_MS ? PUSH_BACKOFF_MAX_MS : link->backoff_ms * 2;
}

static void
begin_connect(neon_wal_push *push, push_link *link, const push_link_target *target)
{
	const char *keywords[6] = {"dbname", "application_name"};
	const char *values[6] = {target->conninfo, "walproposer"};
	int			n = 2;

	if (target->replication)
	{
		keywords[n] = "replication";
		values[n++] = "true";
	}
	if (target->options)
	{
		keywords[n] = "options";
		values[n++] = target->options;
	}
	keywords[n] = NULL;
	values[n] = NULL;

	link->conn = PQconnectStartParams(keywords, values, 1);
	link->serial = ++push->next_serial;
	link->deadline_ms = push->env->now_ms(push->env_arg) + PUSH_CONNECT_TIMEOUT_MS;
	link->poll = PGRES_POLLING_WRITING;
	link->state = LINK_CONNECTING;
	link->sent = false;
	if (link->conn == NULL)
		push_link_down(push, link, "out of memory");
	else if (PQstatus(link->conn) == CONNECTION_BAD)
		push_link_down(push, link, PQerrorMessage(link->conn));
}

static void
ignore_notice(void *arg, const PGresult *res)
{
}

static void
advance_connecting(neon_wal_push *push, push_link *link)
{
	const neon_push_socket *ready = push_link_ready(push, link);

	if (ready == NULL || !(ready->readable || ready->writable))
		return;
	link->poll = PQconnectPoll(link->conn);
	link->serial = ++push->next_serial; /* it may have gone on to another address */
	link->slot = -1;
	if (link->poll == PGRES_POLLING_FAILED)
		push_link_down(push, link, PQerrorMessage(link->conn));
	else if (link->poll == PGRES_POLLING_OK)
	{
		PQsetNoticeReceiver(link->conn, ignore_notice, NULL);
		link->state = LINK_CALLING;
	}
}

static bool
advance_calling(neon_wal_push *push, push_link *link, const char *command)
{
	PGresult   *res;
	bool		open;

	if (!link->sent)
	{
		if (PQsetnonblocking(link->conn, 1) != 0 || !PQsendQuery(link->conn, command))
		{
			push_link_down(push, link, PQerrorMessage(link->conn));
			return false;
		}
		link->sent = true;
	}
	if (!push_link_flush(link) || !PQconsumeInput(link->conn))
	{
		push_link_down(push, link, PQerrorMessage(link->conn));
		return false;
	}
	if (PQisBusy(link->conn))
		return false;
	res = PQgetResult(link->conn);
	open = PQresultStatus(res) == PGRES_COPY_BOTH;
	if (open)
	{
		link->state = LINK_OPEN;
		link->force_read = true;	/* messages may have come along */
	}
	else
		push_link_down(push, link, res && *PQresultErrorMessage(res) ? PQresultErrorMessage(res) : "the command ended without a stream");
	PQclear(res);
	return open;
}

bool
push_link_advance(neon_wal_push *push, push_link *link, const push_link_target *target)
{
	int64_t		now = push->env->now_ms(push->env_arg);

	if (link->state == LINK_DOWN)
	{
		if (now < link->retry_at_ms)
			return false;
		begin_connect(push, link, target);
		return false;
	}
	if (link->state == LINK_CONNECTING)
		advance_connecting(push, link);
	if (link->state == LINK_CALLING && advance_calling(push, link, target->command))
		return true;
	if ((link->state == LINK_CONNECTING || link->state == LINK_CALLING) && now >= link->deadline_ms)
		push_link_down(push, link, "timeout while connecting");
	return false;
}

bool
push_link_consume(neon_wal_push *push, push_link *link)
{
	const neon_push_socket *ready = push_link_ready(push, link);
	bool		readable = ready && ready->readable;

	if (!readable && !link->force_read)
		return true;

	/*
	 * One read leaves at most the rest of one TLS record inside the TLS library, and one more read, next turn, takes all of
	 * that.
	 */
	link->force_read = readable && PQsslInUse(link->conn);
	if (PQconsumeInput(link->conn))
		return true;
	push_link_down(push, link, PQerrorMessage(link->conn));
	return false;
}

int
push_link_next(neon_wal_push *push, push_link *link, char **bytes)
{
	int			len = PQgetCopyData(link->conn, bytes, 1);
	PGresult   *res;

	if (len >= 0)
		return len;
	if (len == -2)
	{
		push_link_down(push, link, PQerrorMessage(link->conn));
		return -1;
	}
	res = PQgetResult(link->conn);
	push_link_down(push, link, res && *PQresultErrorMessage(res) ? PQresultErrorMessage(res) : "the other side has ended the stream");
	PQclear(res);
	return -1;
}

bool
push_link_flush(push_link *link)
{
	int			rc = PQflush(link->conn);

	link->out_pending = rc > 0;
	return rc >= 0;
}

bool
push_link_send(push_link *link, const void *bytes, size_t len)
{
	return PQputCopyData(link->conn, bytes, (int) len) == 1 && push_link_flush(link);
}

/* Puts the link among the sockets of this turn. */
void
push_link_want(neon_wal_push *push, push_link *link, bool read)
{
	neon_push_socket *s;
	int			fd = link->conn ? PQsocket(link->conn) : -1;

	link->slot = -1;
	if (link->state == LINK_DOWN || fd < 0)
		return;
	link->slot = push->n_sockets++;
	s = &push->sockets[link->slot];
	memset(s, 0, sizeof(*s));
	s->fd = fd;
	s->serial = link->serial;
	if (link->state == LINK_CONNECTING)
	{
		s->want_read = link->poll == PGRES_POLLING_READING;
		s->want_write = !s->want_read;
	}
	else
	{
		s->want_read = read;
		s->want_write = link->out_pending || (link->state == LINK_CALLING && !link->sent);
	}
}

const neon_push_socket *
push_link_ready(const neon_wal_push *push, const push_link *link)
{
	return link->slot >= 0 ? &push->sockets[link->slot] : NULL;
}
