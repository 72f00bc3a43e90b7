/*
 * http_console.c - the console page and the calls behind it.
 *
 * GET / and /console are the page.  POST /console/api/FUNCTION with a JSON object is neon_controller.console(session, FUNCTION, object): what a call may
 * do is decided by the controller, from the session in the cookie.  The cookie cannot be read by scripts and does not come with requests from
 * other sites (SameSite=Strict); besides, a call must have the header X-Neon-Console, which another site's page cannot send
 * without a preflight that nobody answers, and an Origin that is ours.
 *
 * Failed logins are counted by address: more than MAX_FAILURES in a minute are refused without asking the controller.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <jansson.h>

#include "http_assets.h"
#include "http_bearer.h"
#include "http_limits.h"
#include "http_pg.h"
#include "http_server.h"
#include "neon_http_request.h"
#include "proxy_settings.h"

#define API "/console/api/"
#define COOKIE "neon_console"
#define COOKIE_SECONDS (12 * 3600)
#define MAX_FAILURES 10

#define CSP "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; " \
	"form-action 'none'; frame-ancestors 'none'"

/* ---- the page ---- */

static bool
send_asset(HtRequest *r, const char *name)
{
	for (const HtAsset *a = ht_assets; a->name; a++)
		if (strcmp(a->name, name) == 0)
		{
			ht_add_header(r, "cache-control", "no-cache");
			ht_add_header(r, "content-security-policy", CSP);
			ht_add_header(r, "referrer-policy", "no-referrer");
			ht_add_header(r, "x-frame-options", "DENY");
			ht_answer_static(r, 200, a->content_type, a->data, a->len);
			return true;
		}
	return false;
}

/* ---- who calls ---- */

static const char *
header(void *request, const char *name)
{
	return ht_header(request, name);
}

static void
set_cookie(HtRequest *r, const char *session, int seconds)
{
	char		cookie[256];

	snprintf(cookie, sizeof(cookie), COOKIE "=%s; Path=/console; HttpOnly; SameSite=Strict; Max-Age=%d%s", session, seconds, ht_tls ? "; Secure" : "");
	ht_add_header(r, "set-cookie", cookie);
}

/* ---- calls ---- */

static void
cancelled(HtRequest *r, void *arg)
{
	hp_cancel(arg);
}

static void
submit(HtRequest *r, HpJob *job, void (*done) (HpJob *, void *))
{
	job->done = done;
	r->cancel = cancelled;
	r->cancel_arg = job;
	hp_submit(job);
}

static void
answer_job(HtRequest *r, HpJob *job)
{
	ht_answer(r, !job->ok && strncmp(job->sqlstate, "28", 2) == 0 ? 401 : job->status, "application/json", &job->out);
}

static void
call_done(HpJob *job, void *arg)
{
	answer_job(arg, job);
}

static void
logout_done(HpJob *job, void *arg)
{
	set_cookie(arg, "", 0);
	answer_job(arg, job);
}

/* ---- login: a token, or credentials that get one ---- */

static void
session_done(HpJob *job, void *arg)
{
	HtRequest  *r = arg;
	char		session[NH_SESSION_CHARS + 1] = "";

	if (job->ok && job->out.len == NH_SESSION_CHARS)
		memcpy(session, job->out.data, NH_SESSION_CHARS);
	if (!job->ok)
	{
		ht_guess_failed(r, HT_GUESS_CONSOLE);
		answer_job(r, job);
		return;
	}
	if (!nh_is_secret(session))
	{
		ht_answer_error(r, 502, NULL, "the controller gave no session");
		return;
	}
	set_cookie(r, session, COOKIE_SECONDS);
	explicit_bzero(session, sizeof(session));
	ht_answer_static(r, 200, "application/json", "true", 4);
}

static void
login_with_token(HtRequest *r, const char *token)
{
	HpJob	   *job = ht_controller_job(r, NULL, NULL, "SELECT neon_controller.console_login($1)", 1, &token);

	if (job)
		submit(r, job, session_done);
}

static void
token_done(HpJob *job, void *arg)
{
	HtRequest  *r = arg;
	char		token[NH_SESSION_CHARS + 1] = "";

	if (job->ok && job->out.len == NH_SESSION_CHARS)
		memcpy(token, job->out.data, NH_SESSION_CHARS);
	if (!job->ok)
	{
		ht_guess_failed(r, HT_GUESS_CONSOLE);
		answer_job(r, job);
	}
	else
		login_with_token(r, token);
	explicit_bzero(token, sizeof(token));
}

static void
login(HtRequest *r, const json_t *body)
{
	NhLogin		l;
	HpJob	   *job;

	if (ht_guesses_used_up(r, HT_GUESS_CONSOLE, MAX_FAILURES))
		ht_answer_error(r, 429, NULL, "too many failed logins from this address; try again in a minute");
	else if (!nh_login(body, &l))
		ht_answer_error(r, 400, NULL, "a login needs a token, or a role and its password");
	else if (l.token)
		login_with_token(r, l.token);
	else
	{
		job = ht_controller_job(r, l.user, l.password, "SELECT neon_controller.console_token()", 0, NULL);
		if (job)
			submit(r, job, token_done);
	}
}

static void
config(HtRequest *r)
{
	NhBuf		b = ht_buf(HT_MAX_HEADER_BYTES);

	nh_puts(&b, "{\"port\":");
	nh_put_int(&b, px_port);
	nh_puts(&b, ",\"tls\":");
	nh_puts(&b, px_certificates[0] ? "true}" : "false}");
	ht_answer(r, b.failed ? 500 : 200, "application/json", &b);
}

static void
call(HtRequest *r, const char *fn, const json_t *body)
{
	char		session[NH_SESSION_CHARS + 1];
	char	   *args = json_dumps(body, JSON_COMPACT);
	const char *params[3] = {session, fn, args};
	HpJob	   *job;

	if (!args)
		ht_answer_error(r, 503, NULL, "out of memory");
	else if (!nh_session_cookie(ht_header(r, "cookie"), COOKIE, session))
		ht_answer_error(r, 401, "28000", "not logged in");
	else
	{
		job = ht_controller_job(r, NULL, NULL, "SELECT neon_controller.console($1, $2, $3::jsonb)", 3, params);
		if (job)
			submit(r, job, strcmp(fn, "logout") == 0 ? logout_done : call_done);
	}
	explicit_bzero(session, sizeof(session));
	free(args);
}

static void
api_request(HtRequest *r, const char *fn)
{
	json_t	   *body;
	const char *wrong;

	ht_add_header(r, "cache-control", "no-store");
	if (r->method == HT_GET && strcmp(fn, "config") == 0)
	{
		config(r);
		return;
	}
	if (r->method != HT_POST || !nh_call_name(fn))
	{
		ht_answer_error(r, 404, NULL, "there is no such call");
		return;
	}
	if (!nh_from_our_page(header, r))
	{
		ht_answer_error(r, 403, NULL, "calls are taken from the console page only");
		return;
	}
	body = nh_json_load(r->body.data ? r->body.data : "", r->body.len, &wrong);
	if (!json_is_object(body))
		ht_answer_error(r, 400, NULL, body ? "the body must be a JSON object" : wrong);
	else if (strcmp(fn, "login") == 0)
		login(r, body);
	else
		call(r, fn, body);
	json_decref(body);
}

bool
ht_console_request(HtRequest *r)
{
	if (strncmp(r->path, API, strlen(API)) == 0)
	{
		api_request(r, r->path + strlen(API));
		return true;
	}
	if (r->method != HT_GET && r->method != HT_HEAD)
		return false;
	if (strcmp(r->path, "/") == 0 || strcmp(r->path, "/console") == 0 || strcmp(r->path, "/console/") == 0)
		return send_asset(r, "index.html");
	return strncmp(r->path, "/console/", 9) == 0 && send_asset(r, r->path + 9);
}
