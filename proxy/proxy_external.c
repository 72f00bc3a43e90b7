/*
 * proxy_external.c - logins that somebody else vouches for: a token's issuer, or a person at the console page.
 *
 * Token (jwt.h): it came as the cleartext password.  The controller says whose tokens are good for the role, and the role's password, with which the
 * login goes on like any other.  A role that takes no tokens: what looked like one was a password.
 *
 * Console (console_redirect.h, options=auth=console): the client gets AuthenticationOk and a notice with a link, and waits until a person has
 * confirmed; the answer says which endpoint and role it may be.  Until then it has nothing but the notice.
 *
 * An answer of the controller may come after its client has gone: what it is for outlives the client then.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "console_redirect.h"
#include "jwt.h"
#include "px.h"

#define CONSOLE_LIMIT_MS (125 * 1000)

typedef struct PxExternal
{
	dlist_node	node;
	PxClient   *client;			/* NULL: gone */
	bool		is_token;
	bool		asking;
	char	   *answer;			/* token: of the controller */
	int64		next_ms;
	int64		limit_ms;
	PxConsoleCreated created;
	PxConsoleConfirmed confirmed;
} PxExternal;

static dlist_head externals = DLIST_STATIC_INIT(externals);

static void
free_external(PxExternal *x)
{
	dlist_delete(&x->node);
	if (x->answer)
		explicit_bzero(x->answer, strlen(x->answer));
	px_free(x->answer);
	explicit_bzero(&x->confirmed, sizeof(x->confirmed));
	px_free(x);
}

void
px_external_forget(PxClient *c)
{
	PxExternal *x = c->login->external;

	c->login->external = NULL;
	if (x == NULL)
		return;
	x->client = NULL;
	if (!x->asking)
		free_external(x);
}

static PxExternal *
new_external(PxClient *c, bool is_token, int64 limit_ms)
{
	PxExternal *x = px_alloc(sizeof(PxExternal));

	x->client = c;
	x->is_token = is_token;
	x->limit_ms = px.now_ms + limit_ms;
	dlist_push_tail(&externals, &x->node);
	c->login->external = x;
	px_client_state(c, PX_CL_EXTERNAL);
	return x;
}

/* From here on it is a login like others, with the time of others. */
static void
go_on(PxClient *c)
{
	dlist_delete(&c->node);
	dlist_push_tail(&px.logging_in, &c->node);
	c->connected_ms = px.now_ms;
	px_client_state(c, PX_CL_LOOKUP);
}

static void
away(PxClient *c, const px_error *error)
{
	px_client_fail(c, "57P03", "the control plane cannot be reached", error->message, "Try again in a moment.");
}

/* ---------------------------------------------------------------- tokens */

static void
token_refused(PxClient *c, const char *why)
{
	ereport(LOG, (errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				  errmsg("token for user \"%s\" of endpoint \"%s\" refused: %s", c->login->startup.user, c->login->name, why)));
	px_login_refuse(c);
}

static void
look_at_token(PxExternal *x)
{
	PxClient   *c = x->client;
	PxLogin    *l = c->login;
	const char *why = NULL;
	char		password[256];
	PxJwtResult r = px_jwt_verify(l->password, x->answer, l->startup.user, &why);

	x->next_ms = px.now_ms + PX_JWT_AGAIN_MS;
	if (r == PX_JWT_WAIT && px.now_ms < x->limit_ms)
		return;
	if (r != PX_JWT_OK)
		token_refused(c, r == PX_JWT_WAIT ? "the issuer's keys did not come in time" : why);
	else if (!px_jwt_password(x->answer, password, sizeof(password)))
		token_refused(c, "the controller gave no password");
	else
	{
		px_auth_forget(c);
		l->password = px_strdup(password);
		explicit_bzero(password, sizeof(password));
		px_external_forget(c);
		l->no_token = true;
		go_on(c);
		px_login_endpoint_ready(c, l->endpoint, NULL);
	}
}

static void
token_answer(void *arg, const char *value, const px_error *error)
{
	PxExternal *x = arg;
	PxClient   *c = x->client;

	x->asking = false;
	if (c == NULL)
		free_external(x);
	else if (error)
		away(c, error);
	else if (value == NULL)
	{
		px_external_forget(c);
		c->login->no_token = true;
		go_on(c);
		px_login_endpoint_ready(c, c->login->endpoint, NULL);
	}
	else
	{
		x->answer = px_strdup(value);
		look_at_token(x);
	}
}

bool
px_external_token(PxClient *c)
{
	PxExternal *x = new_external(c, true, PX_JWT_LIMIT_MS);
	const char *args[] = {c->login->endpoint->id, c->login->startup.user};

	x->asking = true;
	px_controller_ask("SELECT neon_controller.proxy_jwt($1, $2)", 2, args, px_controller_timeout_ms, false, token_answer, x);
	return true;
}

/* ---------------------------------------------------------------- the console */

static void
console_polled(void *arg, const char *value, const px_error *error)
{
	PxExternal *x = arg;
	PxClient   *c = x->client;
	PxLogin    *l;

	x->asking = false;
	x->next_ms = px.now_ms + PX_CONSOLE_AGAIN_MS;
	if (c == NULL)
	{
		free_external(x);
		return;
	}
	l = c->login;
	if (error && strncmp(error->sqlstate, "08", 2) != 0 && strncmp(error->sqlstate, "57", 2) != 0)
		px_client_fail(c, "28000", error->message, NULL, error->hint);
	else if (error || value == NULL)
		return;					/* asked again */
	else if (!px_console_confirmed(value, &x->confirmed))
		px_client_fail(c, "XX000", "the controller gave an answer that the proxy does not understand", NULL, NULL);
	else
	{
		strlcpy(l->name, x->confirmed.endpoint, sizeof(l->name));
		l->startup.user = x->confirmed.user;	/* lives as long as the login */
		l->startup.database = x->confirmed.database;
		l->password = px_strdup(x->confirmed.password);
		l->no_token = true;
		go_on(c);
		px_login_lookup(c);
	}
}

static void
console_poll(PxExternal *x)
{
	const char *args[] = {x->created.id};

	if (px.now_ms >= x->limit_ms)
	{
		px_client_fail(x->client, "28000", "the login was not confirmed in time", NULL, "Connect again, and confirm within two minutes.");
		return;
	}
	x->asking = true;
	px_controller_ask(PX_CONSOLE_POLL, 1, args, px_controller_timeout_ms, false, console_polled, x);
}

static void
console_created(void *arg, const char *value, const px_error *error)
{
	PxExternal *x = arg;
	PxClient   *c = x->client;
	char		link[512];
	char		text[700];
	uint8		buf[1024];
	px_error	notice = {"NOTICE", "00000", text, NULL, NULL};
	size_t		n;

	x->asking = false;
	if (c == NULL)
	{
		free_external(x);
		return;
	}
	if (error || value == NULL || !px_console_created(value, &x->created))
	{
		px_error	bad = {"FATAL", "08006", "it gave no login to confirm", NULL, NULL};

		away(c, error ? error : &bad);
		return;
	}
	px_console_link(link, sizeof(link), px_console_url, x->created.code);
	snprintf(text, sizeof(text), "open this link in a browser within two minutes and confirm the code %s there: %s", x->created.code, link);
	n = px_put_auth(buf, sizeof(buf), 0, NULL, 0);	/* before it a client takes no notice */
	n += px_put_error(buf + n, sizeof(buf) - n, &notice);
	c->login->ok_sent = true;
	x->next_ms = px.now_ms + PX_CONSOLE_AGAIN_MS;
	if (!px_sock_send(&c->sock, buf, n))
		px_client_close(c);
}

bool
px_external_console(PxClient *c)
{
	PxExternal *x;
	char		address[64];
	const char *args[] = {address};

	if (px_console_url[0] == '\0')
		return px_client_fail(c, "0A000", "this proxy has no console page to confirm logins", NULL, "Log in with a password.");
	if (!c->secure)
		return px_client_fail(c, "28000", "a login is confirmed only for a connection with encryption", NULL, "Use sslmode=require.");
	px_client_name(c, address, sizeof(address));
	x = new_external(c, false, CONSOLE_LIMIT_MS);
	x->asking = true;
	px_controller_ask(PX_CONSOLE_CREATE, 1, args, px_controller_timeout_ms, false, console_created, x);
	return true;
}

/* ---------------------------------------------------------------- */

void
px_external_tick(void)
{
	dlist_mutable_iter i;

	dlist_foreach_modify(i, &externals)
	{
		PxExternal *x = dlist_container(PxExternal, node, i.cur);

		if (x->client == NULL || x->asking || x->client->state != PX_CL_EXTERNAL || px.now_ms < x->next_ms)
			continue;
		if (x->is_token)
			look_at_token(x);
		else
			console_poll(x);
	}
}
