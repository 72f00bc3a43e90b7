/*
 * proxy_admin.c - the console: the databases neon_proxy and pgbouncer, which hold no data but answer SHOW and take commands.
 *
 * Only the simple query protocol, as psql speaks it.  Who may: neon_proxy.admin_users, with the password neon_proxy.admin_secret, or over the
 * unix socket as the operating system user of the proxy.
 *
 * A SHOW of what each worker has waits for the rows of the others, a second at most.  Commands are in proxy_command.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <ctype.h>

#include "proxy_admin.h"
#include "proxy_show.h"

#define CHUNK_BYTES		32768
#define SHOW_WAIT_MS	1000
#define MAX_WORDS		3

typedef struct Asked			/* a SHOW whose rows are not all there */
{
	dlist_node	node;
	PxClient   *client;
	uint64		tag;
	int			missing;		/* workers */
	int64		since_ms;
	const PxShow *show;
	PxRows		rows;
} Asked;

static dlist_head asked = DLIST_STATIC_INIT(asked);
static uint64 last_tag;

bool
px_admin_database(const char *name)
{
	return strcmp(name, "neon_proxy") == 0 || strcmp(name, "pgbouncer") == 0;
}

bool
px_admin_user(const char *name)
{
	return px_admin_users && px_in_list(px_admin_users, name);
}

bool
px_admin_welcome(PxClient *c)
{
	static const char *const status[][2] = {
		{"server_version", PG_VERSION}, {"server_encoding", "UTF8"}, {"client_encoding", "UTF8"}, {"DateStyle", "ISO, MDY"},
		{"TimeZone", "GMT"}, {"standard_conforming_strings", "on"}, {"is_superuser", "on"}, {"integer_datetimes", "on"}
	};
	uint8		buf[2048];
	size_t		n = 0;

	if (c->login->final[0])
		n += px_put_auth(buf, sizeof(buf), 12, c->login->final, strlen(c->login->final));
	n += px_put_auth(buf + n, sizeof(buf) - n, 0, NULL, 0);
	for (int i = 0; i < lengthof(status); i++)
		n += px_put_pair(buf + n, sizeof(buf) - n, status[i][0], status[i][1]);
	n += px_put_key(buf + n, sizeof(buf) - n, c->key);
	n += px_put_ready(buf + n, sizeof(buf) - n, 'I');
	px_login_free(c);
	px_client_state(c, PX_CL_ADMIN);
	if (px_sock_send(&c->sock, buf, n))
		return true;
	px_client_close(c);
	return false;
}

/* ---------------------------------------------------------------- answers */

static bool
send_or_close(PxClient *c, const void *data, size_t n)
{
	if (px_sock_send(&c->sock, data, n))
		return true;
	px_client_close(c);
	return false;
}

bool
px_admin_complain(PxClient *c, const char *sqlstate, const char *message, const char *hint, bool ready)
{
	uint8		buf[1024];
	px_error	e = {"ERROR", sqlstate, message, NULL, hint};
	size_t		n = px_put_error(buf, sizeof(buf), &e);

	if (ready)
		n += px_put_ready(buf + n, sizeof(buf) - n, 'I');
	return send_or_close(c, buf, n);
}

bool
px_admin_complete(PxClient *c, const char *tag)
{
	uint8		buf[128];
	size_t		n = px_put_message(buf, sizeof(buf), 'C', tag, strlen(tag) + 1);

	n += px_put_ready(buf + n, sizeof(buf) - n, 'I');
	return send_or_close(c, buf, n);
}

/* RowDescription: every column is text */
static bool
describe(PxClient *c, const char *columns)
{
	uint8		body[4096];
	uint8		buf[4200];
	neon_writer w;
	uint16		count = 1;

	for (const char *p = columns; *p; p++)
		count += *p == ' ';
	neon_writer_init(&w, body, sizeof(body));
	neon_put_u16(&w, count);
	while (*columns)
	{
		size_t		n = strcspn(columns, " ");

		neon_put_bytes(&w, columns, n);
		neon_put_u8(&w, 0);
		neon_put_u32(&w, 0);	/* no table */
		neon_put_u16(&w, 0);
		neon_put_u32(&w, 25);	/* text */
		neon_put_u16(&w, 0xffff);
		neon_put_u32(&w, ~0u);
		neon_put_u16(&w, 0);
		columns += n + (columns[n] == ' ');
	}
	return send_or_close(c, buf, px_put_message(buf, sizeof(buf), 'T', body, w.len));
}

static bool
send_rows(PxClient *c, const PxShow *s, PxRows *r)
{
	if (s->combine)
		s->combine(r);
	return (r->len == 0 || send_or_close(c, r->data, r->len)) && px_admin_complete(c, "SHOW");
}

/* ---------------------------------------------------------------- SHOW */

static bool
show(PxClient *c, const char *what)
{
	const PxShow *s = px_show_find(what);
	PxRows		r = {0};
	Asked	   *a;
	bool		ok;

	if (s && s->rows == NULL)
		return px_admin_complain(c, "0A000", s->columns, s->hint, true);
	if (s == NULL)
		return px_admin_complain(c, "42704", "there is no such table", "SHOW HELP lists what there is.", true);
	if (!describe(c, s->columns))
		return false;
	s->rows(&r);
	if (!s->every_worker || px_workers == 1)
	{
		ok = send_rows(c, s, &r);
		px_rows_free(&r);
		return ok;
	}
	a = px_alloc(sizeof(Asked));
	a->client = c;
	a->tag = ++last_tag;
	a->since_ms = px.now_ms;
	a->rows = r;
	a->show = s;
	dlist_push_tail(&asked, &a->node);
	for (int w = 0; w < px_workers; w++)
		if (w != px.me && pg_atomic_read_u32(&px_worker_slot(w)->pid) != 0)
		{
			a->missing++;
			px_ipc_send(w, PX_MSG_SHOW, a->tag, s->name, strlen(s->name));
		}
	return true;
}

/* Whole rows in each message, the last one says so. */
void
px_admin_show(int from, uint64 tag, const char *what)
{
	const PxShow *s = px_show_find(what);
	PxRows		r = {0};
	size_t		at = 0;
	uint8		chunk[CHUNK_BYTES + 1];

	if (s == NULL || s->rows == NULL || from < 0 || from >= px_workers)
		return;
	s->rows(&r);
	do
	{
		size_t		n = 0;

		while (at + n < r.len)
		{
			px_head		h;

			px_head_parse(r.data + at + n, &h);
			if (n + h.len > CHUNK_BYTES)
				break;
			n += h.len;
		}
		chunk[0] = at + n >= r.len || n == 0;
		if (n > 0)
			memcpy(chunk + 1, r.data + at, n);
		px_ipc_send(from, PX_MSG_ROWS, tag, chunk, n + 1);
		at += n;
		if (n == 0)
			break;
	} while (at < r.len);
	px_rows_free(&r);
}

static void
finish(Asked *a)
{
	PxClient   *c = a->client;

	dlist_delete(&a->node);
	send_rows(c, a->show, &a->rows);
	px_rows_free(&a->rows);
	px_free(a);
}

static void
add_rows(PxRows *r, const uint8 *data, size_t len)
{
	if (r->cap - r->len < len)
	{
		r->cap = r->len + len + CHUNK_BYTES;
		r->data = realloc(r->data, r->cap);
		if (r->data == NULL)
			ereport(FATAL, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory in the proxy")));
	}
	memcpy(r->data + r->len, data, len);
	r->len += len;
}

void
px_admin_rows(uint64 tag, const uint8 *data, size_t len)
{
	dlist_iter	i;

	dlist_foreach(i, &asked)
	{
		Asked	   *a = dlist_container(Asked, node, i.cur);

		if (a->tag != tag || len == 0)
			continue;
		if (len > 1)
			add_rows(&a->rows, data + 1, len - 1);
		if (data[0] && --a->missing == 0)
			finish(a);
		return;
	}
}

/* What need not wait any longer, or NULL. */
static Asked *
next_due(void)
{
	dlist_iter	i;

	dlist_foreach(i, &asked)
	{
		Asked	   *a = dlist_container(Asked, node, i.cur);

		if (a->missing == 0 || px.now_ms - a->since_ms > SHOW_WAIT_MS)
			return a;
	}
	return NULL;
}

void
px_admin_tick(void)
{
	Asked	   *a;

	px_show_tick();
	px_command_tick();
	/* each time from the front: a client that is gone takes all it asked for with it */
	while ((a = next_due()) != NULL)
		finish(a);
}

void
px_admin_closed(PxClient *c)
{
	dlist_mutable_iter i;

	px_command_closed(c);
	dlist_foreach_modify(i, &asked)
	{
		Asked	   *a = dlist_container(Asked, node, i.cur);

		if (a->client != c)
			continue;
		dlist_delete(&a->node);
		px_rows_free(&a->rows);
		px_free(a);
	}
}

/* ---------------------------------------------------------------- what is asked */

/* Up to three words; quotes around one are taken off. */
static void
split(const char *sql, char words[MAX_WORDS][PX_NAME_BYTES])
{
	memset(words, 0, MAX_WORDS * PX_NAME_BYTES);
	for (int i = 0; i < MAX_WORDS; i++)
	{
		int			n = 0;

		while (*sql && (isspace((unsigned char) *sql) || *sql == ';'))
			sql++;
		for (; *sql && !isspace((unsigned char) *sql) && *sql != ';'; sql++)
			if (*sql != '"' && *sql != '\'' && n < PX_NAME_BYTES - 1)
				words[i][n++] = *sql;
	}
}

static bool
query(PxClient *c, const char *sql)
{
	char		words[MAX_WORDS][PX_NAME_BYTES];
	static const uint8 empty[] = {'I', 0, 0, 0, 4, 'Z', 0, 0, 0, 5, 'I'};

	split(sql, words);
	if (words[0][0] == '\0')
		return send_or_close(c, empty, sizeof(empty));
	if (words[2][0])
		return px_admin_complain(c, "42601", "unknown command", "SHOW HELP lists the commands.", true);
	if (pg_strcasecmp(words[0], "SHOW") == 0)
		return show(c, words[1]);
	return px_command(c, words[0], words[1]);
}

bool
px_admin_input(PxClient *c, const uint8 *p, size_t len, size_t *used)
{
	while (len - *used >= PX_HEAD_BYTES && !px_command_waits(c))
	{
		px_head		h;
		const uint8 *m = p + *used;
		uint8		buf[8];

		if (!px_head_parse(m, &h) || h.len > 8192)
			return px_client_fail(c, "08P01", "invalid frontend message", NULL, NULL);
		if (len - *used < h.len)
			break;
		*used += h.len;
		switch (h.type)
		{
			case 'Q':
				if (h.len == PX_HEAD_BYTES || m[h.len - 1] != 0)
					return px_client_fail(c, "08P01", "invalid frontend message", NULL, NULL);
				if (!query(c, (const char *) m + PX_HEAD_BYTES))
					return false;
				break;
			case 'X':
				px_client_close(c);
				return false;
			case 'S':
				px_put_ready(buf, sizeof(buf), 'I');
				if (!send_or_close(c, buf, 6))
					return false;
				break;
			case 'P':
				/* what follows is passed over until the Sync, which is answered */
				if (!px_admin_complain(c, "0A000", "the console takes simple queries only", "Use psql.", false))
					return false;
				break;
			default:
				break;
		}
	}
	return true;
}

void
px_admin_resume(PxClient *c)
{
	PxBuf	   *b = c->in;
	size_t		used = 0;

	if (b == NULL)
		return;
	c->in = NULL;
	if (px_admin_input(c, b->data + b->start, b->end - b->start, &used) && !px_buf_append(&c->in, b->data + b->start + used, b->end - b->start - used))
		px_client_close(c);
	px_buf_free(&b);
}
