/*
 * proxy_login.c - a client's way in: PROXY header, TLS, startup packet, which endpoint, and at last the greeting.
 *
 * The endpoint comes from the host name (SNI, or the PROXY header's authority), from options=endpoint=NAME, or in front of a cleartext
 * password; where two name one they must agree.  What does not exist looks like a wrong password.
 *
 * Everything before authentication is bounded: bytes (32 KB), time (neon_proxy.login_timeout), connections and failures by address.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <sys/socket.h>

#include "px.h"
#include "px_proxy2.h"

#define GREETING_BYTES 16384

uint64
px_address_key(int kind, const PxClient *c)
{
	/* an IPv6 host has a /64 */
	static const uint8 v4[12] = {[10] = 0xff,[11] = 0xff};

	return px_hash(kind, c->address, memcmp(c->address, v4, 12) == 0 ? 16 : 8);
}

void
px_login_free(PxClient *c)
{
	PxLogin    *l = c->login;

	if (l == NULL)
		return;
	px_cache_cancel(&l->endpoint_lookup);
	px_cache_cancel(&l->role_lookup);
	px_auth_forget(c);
	px_external_forget(c);
	if (l->role)
		l->role->users--;
	if (l->endpoint)
		l->endpoint->users--;
	px_free(l->packet);
	px_free(l->rest);
	px_free(l->scram);
	explicit_bzero(&l->keys, sizeof(l->keys));
	c->login = NULL;
	px_defer_free(l);
}

static bool
protocol_error(PxClient *c, const char *why)
{
	px_count(protocol_errors_total);
	return px_client_fail(c, "08P01", why, NULL, "This is a proxy for the PostgreSQL protocol.");
}

/* ---------------------------------------------------------------- limits by address */

static bool
within_limits(PxClient *c)
{
	if (c->is_unix && c->port == 0)
		return true;			/* a local client */
	if (px_max_address_failures > 0 &&
		px_failures(px_address_key(PX_QUOTA_FAILURES, c), px.now_ms, 0) >= px_max_address_failures)
	{
		px_count(limited_total);
		return px_client_fail(c, "28000", "too many failed logins from this address", NULL, "Try again in a minute.");
	}
	if (px_max_address_clients > 0 &&
		!px_quota_take(PX_QUOTA_ADDRESS, px_address_key(PX_QUOTA_ADDRESS, c), px_max_address_clients, &c->address_quota))
	{
		px_count(limited_total);
		return px_client_fail(c, "53300", "too many connections from this address", NULL, "Close connections that are idle.");
	}
	return true;
}

/* ---------------------------------------------------------------- which endpoint */

static bool
conflicting(PxClient *c)
{
	return px_client_fail(c, "08004", "the connection names two endpoints",
						  "The host name and the option \"endpoint\" do not agree.", "Leave one of them out.");
}

/* "main-1a2b3c4d-pooler" asks for transaction pooling */
static bool
take_name(PxClient *c, const char *name)
{
	PxLogin    *l = c->login;
	char		copy[PX_NAME_BYTES];

	strlcpy(copy, name, sizeof(copy));
	if (px_name_strip_pooler(copy))
		l->pooler = true;
	if (l->name[0] && strcmp(l->name, copy) != 0)
		return conflicting(c);
	strlcpy(l->name, copy, sizeof(l->name));
	return true;
}

static bool
find_endpoint(PxClient *c)
{
	PxLogin    *l = c->login;
	char		name[PX_NAME_BYTES];

	px_options_parse(l->startup.options, &l->options, l->rest, PX_MAX_STARTUP_BYTES);
	if (!l->options.ok)
		return px_client_fail(c, "08004", "invalid endpoint in the startup options", NULL, "Give it once, as options=endpoint=NAME.");
	if (l->host[0] && px_tls_endpoint(l->host, name))
	{
		l->host_named = true;
		if (!take_name(c, name))
			return false;
	}
	if (l->options.endpoint[0] && !take_name(c, l->options.endpoint))
		return false;
	if (l->options.ask_password)
		l->ask_password = true;
	if (l->name[0] == '\0' && !c->secure && !l->options.ask_redirect)
		return px_client_fail(c, "08004", "the connection does not say which endpoint it is for", NULL,
							  "Add options=endpoint=NAME to the connection string, or connect with TLS to the endpoint's host name.");
	if (l->ask_password && !c->secure)
		return px_client_fail(c, "28000", "a cleartext password is not taken over a connection without encryption", NULL, "Use sslmode=require.");
	return true;
}

/* ---------------------------------------------------------------- startup */

static void
negotiate(PxClient *c)
{
	const px_startup *s = &c->login->startup;
	uint8		body[4096];
	uint8		buf[4200];
	neon_writer w;
	size_t		n;

	if (s->minor == 0 && s->nextensions == 0)
		return;
	neon_writer_init(&w, body, sizeof(body));
	neon_put_u32(&w, 3 << 16);
	neon_put_u32(&w, s->nextensions);
	for (int i = 0; i < s->nextensions; i++)
		neon_put_bytes(&w, s->extension[i], strlen(s->extension[i]) + 1);
	n = w.ok ? px_put_message(buf, sizeof(buf), 'v', body, w.len) : 0;
	if (n)
		px_sock_send(&c->sock, buf, n);
}

static bool
started(PxClient *c, const uint8 *p)
{
	PxLogin    *l = c->login;
	uint32		len = l->startup.len;

	if (px_require_tls && !c->secure)
		return px_client_fail(c, "28000", "connection is insecure", NULL, "Use sslmode=require.");
	l->packet = px_alloc(len);
	memcpy(l->packet, p, len);
	px_startup_parse(l->packet, len, &l->startup);
	l->rest = px_alloc(PX_MAX_STARTUP_BYTES);
	if (strlen(l->startup.user) >= 64 || strlen(l->startup.database) >= 64)
		return px_client_fail(c, "28000", "name of user or database is too long", NULL, NULL);
	negotiate(c);
	if (!within_limits(c))
		return false;
	if (px_admin_database(l->startup.database))
	{
		l->admin = true;
		return px_auth_begin(c);
	}
	if (!find_endpoint(c))
		return false;
	return px_auth_begin(c);
}

/* The server's word for encryption: TLS when we have a certificate. */
static bool
encryption_request(PxClient *c, bool is_ssl, bool more)
{
	bool		yes = is_ssl && px_tls_ready() && !c->is_unix;

	if (c->sock.ssl)
		return protocol_error(c, "encryption was asked for twice");
	if (more)					/* somebody in between could have put it there */
		return protocol_error(c, "received unencrypted data after encryption request");
	if (!px_sock_send(&c->sock, yes ? "S" : "N", 1))
	{
		px_client_close(c);
		return false;
	}
	if (yes)
	{
		c->sock.ssl = px_tls_accept(c->sock.fd);
		if (c->sock.ssl == NULL)
		{
			px_client_close(c);
			return false;
		}
		px_client_state(c, PX_CL_TLS);
	}
	return true;
}

static bool
proxy_header(PxClient *c, const uint8 *p, size_t len, size_t *used, bool *wait)
{
	px_proxy2	h;

	switch (px_proxy2_parse(p, len, &h))
	{
		case PX_PROXY2_MORE:
			*wait = true;
			return true;
		case PX_PROXY2_BAD:
			return protocol_error(c, "invalid PROXY header");
		case PX_PROXY2_NONE:
			break;
		case PX_PROXY2_OK:
			*used += h.len;
			if (h.has_address)
			{
				memcpy(c->address, h.address, sizeof(c->address));
				c->port = h.port ? h.port : 1;
			}
			c->same_user = false;
			strlcpy(c->login->host, h.authority, sizeof(c->login->host));
			c->login->ask_password = h.ask_password;
	}
	c->login->proxy_seen = true;
	return true;
}

static void
take_sni(PxClient *c)
{
	const char *sni = c->sock.ssl ? SSL_get_servername(c->sock.ssl, TLSEXT_NAMETYPE_host_name) : NULL;

	if (sni)
		strlcpy(c->login->host, sni, sizeof(c->login->host));
}

static bool
first_packet(PxClient *c, const uint8 *p, size_t len, size_t *used, bool *wait)
{
	PxLogin    *l = c->login;

	if (c->is_unix && !l->proxy_seen)
	{
		if (!proxy_header(c, p, len, used, wait))
			return false;
		if (*wait || *used > 0)
			return true;
	}
	switch (px_startup_parse(p, len, &l->startup))
	{
		case PX_FIRST_MORE:
			*wait = true;
			return true;
		case PX_FIRST_BAD:
			return protocol_error(c, l->startup.why);
		case PX_FIRST_SSL:
		case PX_FIRST_GSS:
			*used = 8;
			return encryption_request(c, l->startup.kind == PX_FIRST_SSL, len > 8);
		case PX_FIRST_CANCEL:
			px_cancel_request(c, l->startup.cancel_key);
			px_client_close(c);
			return false;
		case PX_FIRST_STARTUP:
			*used = l->startup.len;
			take_sni(c);
			return started(c, p);
	}
	return false;
}

bool
px_login_input(PxClient *c, const uint8 *p, size_t len, size_t *used)
{
	bool		wait = false;

	if (c->login == NULL)
		c->login = px_alloc(sizeof(PxLogin));
	while (!wait && *used < len && (c->state == PX_CL_FIRST || c->state == PX_CL_SASL_FIRST || c->state == PX_CL_SASL_FINAL || c->state == PX_CL_PASSWORD))
	{
		size_t		n = 0;
		px_head		head;

		if (c->state == PX_CL_FIRST)
		{
			if (!first_packet(c, p + *used, len - *used, &n, &wait))
				return false;
			*used += n;
			if (c->state == PX_CL_TLS)
				break;
			continue;
		}
		if (len - *used < PX_HEAD_BYTES)
			break;
		if (p[*used] == 'X')	/* it changed its mind */
		{
			px_client_close(c);
			return false;
		}
		if (p[*used] != 'p' || !px_head_parse(p + *used, &head) || head.len > 24000)
			return protocol_error(c, "expected a password response");
		if (len - *used < head.len)
			break;
		c->login->unready = false;
		if (!px_auth_message(c, &head, p + *used + PX_HEAD_BYTES, head.len - PX_HEAD_BYTES))
			return false;
		if (c->login && c->login->unready)
			break;				/* its answer needs what is being fetched */
		*used += head.len;
	}
	return true;
}

/* ---------------------------------------------------------------- what the controller knows */

static bool
use_role(PxClient *c, PxRole *r)
{
	PxLogin    *l = c->login;

	if (l->role)
		l->role->users--;
	l->role = r;
	r->users++;
	l->fake = !r->exists;
	if (r->exists)
		l->secret = r->secret;
	else
		px_secret_fake(px_shared->secret, l->name, l->startup.user, &l->secret);
	l->role_ready = true;
	return px_auth_secret_ready(c);
}

static bool
use_endpoint(PxClient *c, PxEndpoint *e)
{
	PxLogin    *l = c->login;
	PxRole	   *r;

	if (l->endpoint)
		l->endpoint->users--;
	l->endpoint = e;
	e->users++;
	if (e->state != PX_ENDPOINT_UNKNOWN && l->password && !l->no_token && px_looks_like_jwt(l->password))
		return px_external_token(c);
	if (e->state == PX_ENDPOINT_UNKNOWN)
	{
		l->fake = true;
		px_secret_fake(px_shared->secret, l->name, l->startup.user, &l->secret);
		l->role_ready = true;
		return px_auth_secret_ready(c);
	}
	r = px_cache_role(c, e, l->startup.user);
	return r ? use_role(c, r) : true;
}

/* Starts the questions whose answers the login needs; false: the client is closed. */
bool
px_login_lookup(PxClient *c)
{
	PxEndpoint *e = px_cache_endpoint(c, c->login->name);

	return e ? use_endpoint(c, e) : true;
}

/* An answer came while the client waited: bytes that it sent meanwhile are looked at. */
static void
go_on(PxClient *c)
{
	size_t		used = 0;

	if (c->in && c->state < PX_CL_WELCOME)
	{
		if (!px_login_input(c, c->in->data + c->in->start, c->in->end - c->in->start, &used))
			return;
		c->in->start += used;
		if (c->in->start == c->in->end)
			px_buf_free(&c->in);
	}
	if (c->state == PX_CL_IDLE && c->in)
		px_relay_resume(c);
}

static void
lookup_failed(PxClient *c, const px_error *error)
{
	px_client_fail(c, "57P03", "the control plane cannot be reached", error->message, "Try again in a moment.");
}

void
px_login_endpoint_ready(PxClient *c, PxEndpoint *e, const px_error *error)
{
	if (error)
		lookup_failed(c, error);
	else if (use_endpoint(c, e))
		go_on(c);
}

void
px_login_role_ready(PxClient *c, PxRole *r, const px_error *error)
{
	if (error)
		lookup_failed(c, error);
	else if (use_role(c, r))
		go_on(c);
}

/* ---------------------------------------------------------------- in */

bool
px_login_refuse(PxClient *c)
{
	char		text[160];
	char		name[80];

	px_count(login_failures_total);
	if (!(c->is_unix && c->port == 0))
		px_failures(px_address_key(PX_QUOTA_FAILURES, c), px.now_ms, 1);
	if (c->login->role && !c->login->fake)
		px_cache_role_bad(c->login->role->id, c->login->role->role);
	px_client_name(c, name, sizeof(name));
	ereport(LOG, (errcode(ERRCODE_INVALID_PASSWORD),
				  errmsg("password authentication failed for user \"%s\" of endpoint \"%s\" from %s", c->login->startup.user, c->login->name, name)));
	snprintf(text, sizeof(text), "password authentication failed for user \"%s\"", c->login->startup.user);
	return px_client_fail(c, "28P01", text, NULL, "Check the endpoint's name, the role and the password.");
}

static int
compare_pairs(const void *a, const void *b)
{
	return strcmp(((const px_pair *) a)->name, ((const px_pair *) b)->name);
}

/* Startup parameters that neither name the connection nor follow the client: part of what the pool is, in one order. */
static uint32
extra_parameters(PxClient *c, char *extra, size_t cap)
{
	PxLogin    *l = c->login;
	px_pair		pair[PX_MAX_STARTUP_PAIRS];
	int			n = 0;
	neon_writer w;

	for (int i = 0; i < l->startup.npairs; i++)
	{
		px_pair		p = l->startup.pair[i];
		int			var = px_var_index(p.name);

		if (strcmp(p.name, "user") == 0 || strcmp(p.name, "database") == 0 || strcmp(p.name, "options") == 0)
			continue;
		/* a connection for replication is not shared, and may take no SET */
		if (var >= 0 && l->startup.replication == NULL)
			px_vars_set(&c->vars, var, p.value);
		else
			pair[n++] = p;
	}
	if (l->options.rest_len)
		pair[n++] = (px_pair) {"options", l->rest};
	qsort(pair, n, sizeof(pair[0]), compare_pairs);
	neon_writer_init(&w, extra, cap);
	for (int i = 0; i < n; i++)
	{
		neon_put_bytes(&w, pair[i].name, strlen(pair[i].name) + 1);
		neon_put_bytes(&w, pair[i].value, strlen(pair[i].value) + 1);
	}
	return w.ok ? (uint32) w.len : 0;
}

static bool
take_endpoint_quota(PxClient *c)
{
	const PxEndpoint *e = c->login->endpoint;
	int			limit = e->max_clients ? e->max_clients : px_max_endpoint_clients;

	if (px_admin_is_disabled(e->id))
		return px_client_fail(c, "57P03", "the endpoint takes no connections", "It was disabled on the console of the proxy.", "ENABLE it there.");
	if (!px_quota_take(PX_QUOTA_ENDPOINT, px_hash(PX_QUOTA_ENDPOINT, e->id, strlen(e->id)), limit, &c->endpoint_quota))
	{
		px_count(limited_total);
		return px_client_fail(c, "53300", "too many connections for this endpoint", NULL, "Close connections that are idle.");
	}
	return true;
}

bool
px_login_accept_keys(PxClient *c, const px_keys *keys)
{
	PxLogin    *l = c->login;
	char	   *extra;
	uint32		len;
	PxPool	   *p;
	int			mode = l->endpoint->pool_mode >= 0 ? l->endpoint->pool_mode : px_pool_mode;

	if (l->pooler)
		mode = PX_POOL_TRANSACTION;
	if (l->startup.replication)
		mode = PX_POOL_SESSION;
	if (!take_endpoint_quota(c))
		return false;
	extra = px_alloc(PX_MAX_STARTUP_BYTES * 2);
	len = extra_parameters(c, extra, PX_MAX_STARTUP_BYTES * 2);
	p = px_pool_get(l->endpoint, l->startup.database, l->startup.user, extra, len, mode, l->startup.replication != NULL);
	px_free(extra);
	p->keys = *keys;
	p->has_keys = true;
	c->pool = p;
	p->nclients++;
	px_count(logins_total);
	if (p->welcome)
		return px_login_done(c);
	px_pool_wait_login(c);
	return true;
}

/* Everything a client hears at the end of its login. */
bool
px_login_done(PxClient *c)
{
	PxPool	   *p = c->pool;
	uint8	   *buf = px_alloc(GREETING_BYTES + p->welcome_len);
	size_t		cap = GREETING_BYTES + p->welcome_len;
	size_t		n = 0;
	bool		sent;

	if (c->login->final[0])
		n += px_put_auth(buf, cap, 12, c->login->final, strlen(c->login->final));
	if (!c->login->ok_sent)
		n += px_put_auth(buf + n, cap - n, 0, NULL, 0);
	memcpy(buf + n, p->welcome, p->welcome_len);
	n += p->welcome_len;
	for (int i = 0; i < PX_TRACKED; i++)
	{
		if (c->vars.value[i] == NULL)
			c->vars.value[i] = px_intern_ref(p->vars.value[i]);
		if (c->vars.value[i])
			n += px_put_pair(buf + n, cap - n, px_var_names[i], c->vars.value[i]);
	}
	n += px_put_key(buf + n, cap - n, c->key);
	n += px_put_ready(buf + n, cap - n, 'I');
	sent = px_sock_send(&c->sock, buf, n);
	px_free(buf);
	px_login_free(c);
	px_client_state(c, PX_CL_IDLE);
	if (!sent)
		px_client_close(c);
	return sent;
}

void
px_login_done_and_go_on(PxClient *c)
{
	if (px_login_done(c) && c->in)
		px_relay_resume(c);
}
