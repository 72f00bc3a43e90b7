/*
 * http_bearer.c - a token in place of a password, for SQL over HTTP: asks the controller whose tokens are good for the role, verifies, and goes on
 * with the role's password, which the client never sees.
 *
 * A token whose keys are being fetched waits in a list that the ticker looks through, for at most PX_JWT_LIMIT_MS.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "http_bearer.h"
#include "http_conninfo.h"
#include "http_limits.h"
#include "jwt.h"

typedef struct Bearer
{
	struct Bearer *next;
	HtRequest  *request;
	HpJob	   *job;			/* the statements, not submitted yet */
	HpJob	   *question;		/* to the controller, under way */
	char	   *token;
	char	   *answer;			/* the controller's */
	uint64_t	limit_ms;
	void		(*go) (HtRequest *, HpJob *);
} Bearer;

static Bearer *bearers;

static void
free_bearer(Bearer *b)
{
	for (Bearer **p = &bearers; *p; p = &(*p)->next)
		if (*p == b)
		{
			*p = b->next;
			break;
		}
	if (b->job)
		hp_job_free(b->job);
	nh_free_secret(b->token);
	nh_free_secret(b->answer);
	free(b);
}

/* The client is told nothing that would help to guess. */
static void
refuse(Bearer *b, const char *why)
{
	ereport(LOG, (errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION), errmsg("token of an HTTP client at %s refused: %s", b->request->address, why)));
	ht_guess_failed(b->request, HT_GUESS_DATABASE);
	ht_answer_error(b->request, 400, "28000", "invalid token for this endpoint and role");
	free_bearer(b);
}

static void
look(Bearer *b)
{
	char		endpoint[80],
				password[256];
	const char *role,
			   *why = NULL;
	PxJwtResult result;
	HtRequest  *r = b->request;
	HpJob	   *job = b->job;
	void		(*go) (HtRequest *, HpJob *);

	if (!nh_target_names(&job->target, endpoint, sizeof(endpoint), &role))
	{
		refuse(b, "no endpoint is named");
		return;
	}
	result = px_jwt_verify(b->token, b->answer, role, &why);
	if (result == PX_JWT_WAIT && ht_now_ms() < b->limit_ms)
		return;
	if (result != PX_JWT_OK)
	{
		refuse(b, result == PX_JWT_WAIT ? "the issuer's keys did not come in time" : why);
		return;
	}
	if (!px_jwt_password(b->answer, password, sizeof(password)) || !nh_target_set_password(&job->target, password))
	{
		refuse(b, "the controller gave no password");
		return;
	}
	explicit_bzero(password, sizeof(password));
	b->job = NULL;
	go = b->go;
	free_bearer(b);
	go(r, job);
}

void
ht_sql_tick(void)
{
	for (Bearer *b = bearers, *next; b; b = next)
	{
		next = b->next;
		if (b->answer)
			look(b);
	}
}

static void
cancelled(HtRequest *r, void *arg)
{
	Bearer	   *b = arg;

	if (b->question)
		hp_cancel(b->question);
	free_bearer(b);
}

static void
answered(HpJob *question, void *arg)
{
	Bearer	   *b = arg;

	b->question = NULL;
	if (!question->ok)
	{
		ht_answer(b->request, 503, "application/json", &question->out);
		free_bearer(b);
		return;
	}
	b->answer = strndup(question->out.data, question->out.len);
	if (!b->answer || strcmp(b->answer, "null") == 0)
		refuse(b, "tokens do not log in to this role");
	else
		look(b);
}

HpJob *
ht_controller_job(HtRequest *r, const char *user, const char *password, const char *sql, int nparams, const char *const *params)
{
	HpJob	   *job = hp_job(1);
	HpStatement *s;
	const char *wrong = "out of memory";
	bool		ok = job != NULL;

	if (ok)
	{
		wrong = hp_target_controller(&job->target, user, password);
		ok = !wrong;
		s = &job->statements[0];
		s->sql = strdup(sql);
		s->params = calloc(nparams + 1, sizeof(char *));
		ok = ok && s->sql && s->params;
		for (int i = 0; i < nparams && ok; i++)
			ok = (s->params[s->nparams++] = strdup(params[i])) != NULL;
	}
	if (!ok)
	{
		if (job)
			hp_job_free(job);
		ht_answer_error(r, 503, NULL, wrong ? wrong : "out of memory");
		return NULL;
	}
	job->format = HP_VALUE;
	job->pooled = user == NULL;
	job->arg = r;
	job->deadline_ms = r->deadline_ms;
	return job;
}

void
ht_bearer(HtRequest *r, HpJob *job, char *token, void (*go) (HtRequest *, HpJob *))
{
	Bearer	   *b = calloc(1, sizeof(Bearer));
	char		endpoint[80];
	const char *params[2] = {endpoint, NULL};

	if (!b)
	{
		hp_job_free(job);
		nh_free_secret(token);
		ht_answer_error(r, 503, "53200", "out of memory");
		return;
	}
	b->request = r;
	b->job = job;
	b->token = token;
	b->go = go;
	b->limit_ms = ht_now_ms() + PX_JWT_LIMIT_MS;
	b->next = bearers;
	bearers = b;
	if (!nh_target_names(&job->target, endpoint, sizeof(endpoint), &params[1]))
	{
		refuse(b, "no endpoint is named");
		return;
	}
	b->question = ht_controller_job(r, NULL, NULL, "SELECT neon_controller.proxy_jwt($1, $2)", 2, params);
	if (!b->question)
	{
		free_bearer(b);
		return;
	}
	b->question->done = answered;
	b->question->arg = b;
	r->cancel = cancelled;
	r->cancel_arg = b;
	hp_submit(b->question);
}
