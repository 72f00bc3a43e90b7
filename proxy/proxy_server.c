/*
 * proxy_server.c - connections to computes: connecting, logging in as the user, the requests in flight.
 *
 * The login uses the keys that the client's own SCRAM proof gave; the compute proves with its signature that it knows the role, too.
 * After it the compute is asked for its timeline, and LSN if it is static: an address that the controller gave to another endpoint meanwhile is refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "px.h"

#define MAX_WELCOME_BYTES 8192

/* ---------------------------------------------------------------- states */

static bool
is_starting(PxServerState s)
{
	return s <= PX_SV_CHECK;
}

void
px_server_state(PxServer *s, PxServerState state)
{
	PxPool	   *p = s->pool;

	s->state_ms = px.now_ms;
	if (is_starting(s->state) && is_starting(state))
	{
		s->state = state;
		return;
	}
	dlist_delete(&s->node);
	if (is_starting(s->state))
		p->nstarting--;
	if (s->state == PX_SV_IDLE)
		px_uncount(servers_idle);
	s->state = state;
	if (state == PX_SV_IDLE)
	{
		dlist_push_head(&p->idle, &s->node);
		px_count(servers_idle);
	}
	else if (state != PX_SV_CLOSED)
		dlist_push_tail(&p->busy, &s->node);
}

/* What is known of its endpoint's roles, by all workers, if a transaction that changed some is over. */
void
px_server_forget(PxServer *s)
{
	if (s->forget)
	{
		pg_atomic_fetch_add_u32(&px_shared->secrets_generation, 1);
		px_admin_tell_all("FORGET", s->pool->endpoint->id);
	}
	s->forget = false;
}

void
px_server_close(PxServer *s)
{
	static const uint8 terminate[] = {'X', 0, 0, 0, 4};
	PxPool	   *p = s->pool;

	if (s->state == PX_SV_CLOSED)
		return;
	if (s->client)
	{
		PxClient   *c = s->client;

		s->client = NULL;
		c->server = NULL;
		px_server_state(s, PX_SV_CLOSED);
		px_client_close(c);
	}
	else
		px_server_state(s, PX_SV_CLOSED);
	if (s->status == 'I' && s->queue_len == 0 && s->sock.out == NULL && s->sock.fd >= 0)
		send(s->sock.fd, terminate, sizeof(terminate), MSG_NOSIGNAL | MSG_DONTWAIT);
	px_sock_close(&s->sock);
	px_server_forget(s);
	if (s->cancels > 0)
		px_cancel_forget(s);
	px_prepared_free_server(s);
	px_vars_release(&s->vars);
	px_buf_free(&s->in);
	px_free(s->queue);
	px_free(s->scram);
	px_free(s->welcome);
	if (s->quota)
	{
		px_quota_give(PX_QUOTA_POOL, p->quota_key);
		p->ncounted--;
	}
	p->nservers--;
	p->used_ms = px.now_ms;
	px_uncount(servers);
	if (p->nwaiting > 0 || p->nlogins > 0)
		px_pool_want_run(p);
	s->queue = NULL;
	px_defer_free(s);
}

/* While it was being made. */
void
px_server_failed(PxServer *s, const px_error *error, bool definite)
{
	px_count(server_connect_failures_total);
	px_pool_server_gone(s, error, definite);
	px_server_close(s);
}

static void
failed(PxServer *s, const char *message, const char *detail)
{
	px_error	e = {"FATAL", "08006", message, detail, "Try again in a moment."};

	px_server_failed(s, &e, false);
}

/* ---------------------------------------------------------------- requests in flight */

bool
px_server_push(PxServer *s, PxRequestKind kind, uint64 statement)
{
	if (s->queue_len == s->queue_cap)
	{
		uint32		cap = s->queue_cap ? s->queue_cap * 2 : 4;
		PxRequest  *q = px_alloc(cap * sizeof(PxRequest));

		for (uint32 i = 0; i < s->queue_len; i++)
			q[i] = s->queue[(s->queue_head + i) & (s->queue_cap - 1)];
		px_free(s->queue);
		s->queue = q;
		s->queue_cap = cap;
		s->queue_head = 0;
	}
	s->queue[(s->queue_head + s->queue_len++) & (s->queue_cap - 1)] = (PxRequest) {.kind = kind,.segment = s->segment,.statement = statement};
	if (kind == PX_REQ_QUERY || kind == PX_REQ_SYNC)
		s->segment++;
	return s->queue_len < PX_MAX_QUEUE;
}

PxRequest *
px_server_front(PxServer *s)
{
	return s->queue_len ? &s->queue[s->queue_head] : NULL;
}

PxRequest *
px_server_back(PxServer *s)
{
	return s->queue_len ? &s->queue[(s->queue_head + s->queue_len - 1) & (s->queue_cap - 1)] : NULL;
}

void
px_server_pop(PxServer *s)
{
	s->queue_head = (s->queue_head + 1) & (s->queue_cap - 1);
	s->queue_len--;
}

/* Back to where it was taken from. */
void
px_server_push_front(PxServer *s, PxRequest r)
{
	s->queue_head = (s->queue_head + s->queue_cap - 1) & (s->queue_cap - 1);
	s->queue[s->queue_head] = r;
	s->queue_len++;
}

/* A query of our own; its answer is swallowed. */
bool
px_server_query(PxServer *s, const char *sql)
{
	size_t		n = strlen(sql) + 1;
	uint8	   *buf = px_alloc(n + PX_HEAD_BYTES);
	bool		ok;

	px_put_message(buf, n + PX_HEAD_BYTES, 'Q', sql, n);
	px_server_push(s, PX_REQ_OWN, 0);
	ok = px_sock_send(&s->sock, buf, n + PX_HEAD_BYTES);
	px_free(buf);
	return ok;					/* when it failed the socket says so soon */
}

/* ---------------------------------------------------------------- connecting */

static bool
find_address(PxServer *s)
{
	const PxEndpoint *e = s->pool->endpoint;
	struct addrinfo hints = {.ai_family = AF_UNSPEC,.ai_socktype = SOCK_STREAM};
	struct addrinfo *a;
	char		port[16];

	if (e->host[0] == '/')
	{
		struct sockaddr_un *un = (struct sockaddr_un *) &s->address;

		un->sun_family = AF_UNIX;
		s->address_len = sizeof(*un);
		return snprintf(un->sun_path, sizeof(un->sun_path), "%s/.s.PGSQL.%d", e->host, e->port) < sizeof(un->sun_path);
	}
	snprintf(port, sizeof(port), "%d", e->port);
	if (getaddrinfo(e->host, port, &hints, &a) != 0)
		return false;
	memcpy(&s->address, a->ai_addr, a->ai_addrlen);
	s->address_len = a->ai_addrlen;
	freeaddrinfo(a);
	return true;
}

/* One of the shared count was taken for it, if `counted`.  NULL: it failed at once, and the pool was told. */
PxServer *
px_server_connect(PxPool *p, bool counted)
{
	PxServer   *s = px_alloc(sizeof(PxServer));
	int			fd;

	s->pool = p;
	s->state = PX_SV_CONNECTING;
	s->sock.fd = -1;
	s->sock.kind = PX_SOCK_SERVER;
	s->created_ms = s->state_ms = px.now_ms;
	s->generation = px_reconnect_generation;
	s->quota = counted;
	p->ncounted += counted;
	dlist_push_tail(&p->starting, &s->node);
	p->nstarting++;
	p->nservers++;
	px_count(servers);
	px_count(server_connects_total);
	if (!find_address(s))
	{
		failed(s, "could not resolve the endpoint's address", NULL);
		return NULL;
	}
	fd = socket(s->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
	{
		failed(s, "could not create a socket for the endpoint", strerror(errno));
		return NULL;
	}
	px_sock_init(&s->sock, PX_SOCK_SERVER, fd);
	if (s->address.ss_family != AF_UNIX)
		px_sock_tcp_options(fd, &px_server_keepalive);
	if (connect(fd, (struct sockaddr *) &s->address, s->address_len) != 0 && errno != EINPROGRESS)
	{
		failed(s, "could not connect to the endpoint", strerror(errno));
		return NULL;
	}
	px_sock_mask(&s->sock, EPOLLOUT);
	s->sock.mask = EPOLLOUT;
	return s;
}

static bool
send_startup(PxServer *s)
{
	PxPool	   *p = s->pool;
	size_t		cap = p->extra_len + strlen(p->user) + strlen(p->database) + 64;
	uint8	   *buf = px_alloc(cap);
	neon_writer w;
	bool		ok;

	neon_writer_init(&w, buf, cap);
	neon_put_u32(&w, 0);
	neon_put_u32(&w, 3 << 16);
	neon_put_bytes(&w, "user", 5);
	neon_put_bytes(&w, p->user, strlen(p->user) + 1);
	neon_put_bytes(&w, "database", 9);
	neon_put_bytes(&w, p->database, strlen(p->database) + 1);
	neon_put_bytes(&w, p->extra, p->extra_len);
	neon_put_u8(&w, 0);
	buf[2] = (uint8) (w.len >> 8);
	buf[3] = (uint8) w.len;
	ok = w.ok && px_sock_send(&s->sock, buf, w.len);
	px_free(buf);
	return ok;
}

static void
connected(PxServer *s)
{
	int			error = 0;
	socklen_t	n = sizeof(error);

	if (getsockopt(s->sock.fd, SOL_SOCKET, SO_ERROR, &error, &n) != 0 || error != 0)
	{
		failed(s, "could not connect to the endpoint", strerror(error));
		return;
	}
	px_sock_watch(&s->sock, true);
	px_server_state(s, PX_SV_LOGIN);
	if (!send_startup(s))
		failed(s, "could not connect to the endpoint", "The connection broke at once.");
}

/* ---------------------------------------------------------------- logging in */

static bool
scram_first(PxServer *s, const uint8 *body, size_t len)
{
	static const char mechanism[] = "SCRAM-SHA-256";
	uint8		nonce[PX_SCRAM_NONCE_BYTES];
	char		first[128];
	uint8		msg[256];
	uint8		buf[300];
	neon_writer w;
	size_t		n;

	if (memmem(body, len, "SCRAM-SHA-256", sizeof(mechanism)) == NULL || !pg_strong_random(nonce, sizeof(nonce)))
		return false;
	s->scram = px_alloc(sizeof(px_scram_client));
	n = px_scram_client_first(s->scram, nonce, first, sizeof(first));
	neon_writer_init(&w, msg, sizeof(msg));
	neon_put_bytes(&w, mechanism, sizeof(mechanism));
	neon_put_u32(&w, (uint32) n);
	neon_put_bytes(&w, first, n);
	n = px_put_message(buf, sizeof(buf), 'p', msg, w.len);
	return n > 0 && px_sock_send(&s->sock, buf, n);
}

static bool
scram_final(PxServer *s, const uint8 *body, size_t len)
{
	char		text[PX_SCRAM_MAX_MESSAGE];
	uint8		buf[PX_SCRAM_MAX_MESSAGE + 16];
	size_t		n;

	if (s->scram == NULL || !s->pool->has_keys)
		return false;
	n = px_scram_client_final(s->scram, &s->pool->keys, (const char *) body, len, text, sizeof(text));
	if (n == 0)
		return false;
	n = px_put_message(buf, sizeof(buf), 'p', text, n);
	return n > 0 && px_sock_send(&s->sock, buf, n);
}

static void
cannot_authenticate(PxServer *s, const char *detail)
{
	px_error	e = {"FATAL", "28000", "the proxy could not authenticate at the endpoint", detail,
		"The endpoint must ask its roles for SCRAM-SHA-256."};

	px_server_failed(s, &e, true);
}

static bool
authentication(PxServer *s, const uint8 *body, size_t len)
{
	uint32		code = len >= 4 ? (uint32) body[0] << 24 | body[1] << 16 | body[2] << 8 | body[3] : ~0u;
	bool		ok;

	switch (code)
	{
		case 0:
			ok = s->proved;
			code = 12;
			break;
		case 10:
			ok = scram_first(s, body + 4, len - 4);
			break;
		case 11:
			ok = scram_final(s, body + 4, len - 4);
			break;
		case 12:
			ok = s->proved = s->scram && px_scram_client_check(s->scram, (const char *) body + 4, len - 4);
			break;
		default:
			ok = false;
	}
	if (!ok)
		cannot_authenticate(s, code == 12 ? "It did not prove that it knows the role." : NULL);
	return ok;
}

static bool
login_error(PxServer *s, const uint8 *body, size_t len)
{
	px_error	e = {"FATAL", px_error_field(body, len, 'C'), px_error_field(body, len, 'M'), px_error_field(body, len, 'D'), px_error_field(body, len, 'H')};
	bool		definite;

	if (e.sqlstate == NULL || e.message == NULL)
	{
		e.sqlstate = "08P01";
		e.message = "the endpoint sent a malformed error";
	}
	definite = strncmp(e.sqlstate, "57P", 3) != 0 && strncmp(e.sqlstate, "08", 2) != 0 && strncmp(e.sqlstate, "53", 2) != 0;
	if (strncmp(e.sqlstate, "28", 2) == 0)
	{
		/* the password was changed after the secret was fetched */
		px_cache_role_bad(s->pool->endpoint->id, s->pool->user);
		s->pool->has_keys = false;
	}
	px_server_failed(s, &e, definite);
	return false;
}

static void
parameter(PxServer *s, const uint8 *msg, uint32 len)
{
	px_pair		pair;
	int			var;

	if (!px_parse_pair(msg + PX_HEAD_BYTES, len - PX_HEAD_BYTES, &pair))
		return;
	var = px_var_index(pair.name);
	if (var >= 0)
		px_vars_set(&s->vars, var, pair.value);
	else if (s->welcome_len + len <= MAX_WELCOME_BYTES)
	{
		if (s->welcome == NULL)
			s->welcome = px_alloc(MAX_WELCOME_BYTES);
		memcpy(s->welcome + s->welcome_len, msg, len);
		s->welcome_len += len;
	}
}

static void
logged_in(PxServer *s)
{
	px_free(s->scram);
	s->scram = NULL;
	if (s->welcome == NULL)
		s->welcome = px_alloc(1);
	else
		s->welcome = realloc(s->welcome, s->welcome_len);
	if (s->pool->endpoint->timeline[0] && !s->pool->dedicated)
	{
		px_server_state(s, PX_SV_CHECK);
		px_server_query(s, "SELECT pg_catalog.concat_ws('@', pg_catalog.current_setting('neon.timeline_id'), "
						"NULLIF(pg_catalog.current_setting('neon.static_lsn', true), ''))");
	}
	else
		px_pool_server_ready(s);
}

/* One column, one row: our timeline, and LSN? */
static void
check_row(PxServer *s, const uint8 *body, size_t len)
{
	const char *wanted = s->pool->endpoint->timeline;

	s->checked = len == 6 + strlen(wanted) && memcmp(body + 6, wanted, len - 6) == 0;
}

static bool
check_done(PxServer *s)
{
	if (!s->checked)
	{
		failed(s, "another server answers at the endpoint's address", NULL);
		return false;
	}
	px_server_pop(s);
	px_pool_server_ready(s);
	return true;
}

/* A whole message while it is being made; false: it is closed. */
bool
px_server_login_message(PxServer *s, const px_head *head, const uint8 *msg)
{
	const uint8 *body = msg + PX_HEAD_BYTES;
	size_t		len = head->len - PX_HEAD_BYTES;

	switch (head->type)
	{
		case 'R':
			return authentication(s, body, len);
		case 'E':
			return login_error(s, body, len);
		case 'S':
			parameter(s, msg, head->len);
			return true;
		case 'K':
			if (len == 8)
				s->key = (uint64) body[0] << 56 | (uint64) body[1] << 48 | (uint64) body[2] << 40 | (uint64) body[3] << 32 |
					(uint64) body[4] << 24 | (uint64) body[5] << 16 | (uint64) body[6] << 8 | body[7];
			return true;
		case 'Z':
			s->status = len == 1 ? body[0] : 'E';
			if (s->state == PX_SV_CHECK)
				return check_done(s);
			logged_in(s);
			return true;
		case 'D':
			if (s->state == PX_SV_CHECK)
				check_row(s, body, len);
			return true;
		case 'N':
		case 'v':
		case 'T':
		case 'C':
			return true;
		default:
			failed(s, "the endpoint sent an unexpected message", NULL);
			return false;
	}
}

void
px_server_event(PxServer *s, uint32 events)
{
	if (s->state == PX_SV_CONNECTING)
	{
		connected(s);
		return;
	}
	if ((events & EPOLLOUT) && s->sock.out)
	{
		if (!px_sock_flush(&s->sock))
		{
			px_relay_server(s);	/* what it said last, and its end */
			return;
		}
		if (s->sock.out == NULL && s->client)
			px_relay_resume(s->client);
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
	{
		if ((events & (EPOLLHUP | EPOLLERR)) && !s->sock.reading)
			px_sock_watch(&s->sock, true);
		px_relay_server(s);
	}
}
