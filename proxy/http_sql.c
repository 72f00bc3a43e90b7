/*
 * http_sql.c - POST /sql: one statement, or several in one transaction, as the npm package @neondatabase/serverless sends them.
 *
 * What body and headers say is read by libs/http/neon_http_sql.c.  Authorization: Bearer ... takes the place of the password.  Every error of the
 * database is status 400 with its fields.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "http_bearer.h"
#include "http_limits.h"
#include "http_pg.h"
#include "http_server.h"
#include "neon_http_sql.h"
#include "proxy_settings.h"

/* ---- the request ---- */

static void
sql_done(HpJob *job, void *arg)
{
	HtRequest  *r = arg;

	if (!job->ok && strncmp(job->sqlstate, "28", 2) == 0)
		ht_guess_failed(r, HT_GUESS_DATABASE);
	ht_answer(r, job->status, "application/json", &job->out);
}

static void
sql_cancelled(HtRequest *r, void *arg)
{
	hp_cancel(arg);
}

static void
sql_go(HtRequest *r, HpJob *job)
{
	job->done = sql_done;
	job->arg = r;
	r->cancel = sql_cancelled;
	r->cancel_arg = job;
	hp_submit(job);
}

static const char *
header(void *request, const char *name)
{
	return ht_header(request, name);
}

/* The job for a request; NULL: `wrong` says why.  A token is for the caller, who goes to the controller with it. */
static HpJob *
read_request(HtRequest *r, char **bearer, const char **wrong)
{
	NhSql		sql;
	HpJob	   *job = NULL;

	*wrong = nh_sql_body(&sql, r->body.data ? r->body.data : "", r->body.len);
	if (!*wrong)
		*wrong = nh_sql_headers(&sql, header, r);
	if (!*wrong && !(job = hp_job_with(sql.statements, sql.nstatements)))
		*wrong = "out of memory";
	if (!job)
	{
		nh_sql_free(&sql);
		return NULL;
	}
	job->batch = sql.batch;
	strlcpy(job->begin, sql.begin, sizeof(job->begin));
	job->raw_text = sql.raw_text;
	job->format = sql.arrays ? HP_ARRAYS : HP_OBJECTS;
	job->pooled = sql.pooled;
	job->deadline_ms = r->deadline_ms;
	*wrong = nh_sql_target(&job->target, bearer, header, r, px_socket_directory, px_port);
	if (*wrong)
	{
		hp_job_free(job);
		return NULL;
	}
	return job;
}

void
ht_sql_request(HtRequest *r)
{
	HpJob	   *job;
	char	   *bearer = NULL;
	const char *wrong;

	if (ht_guesses_used_up(r, HT_GUESS_DATABASE, px_max_address_failures))
	{
		ht_answer_error(r, 400, "28000", "too many failed logins from this address; try again in a minute");
		return;
	}
	job = read_request(r, &bearer, &wrong);
	ht_buf_free(&r->body);
	if (!job)
		ht_answer_error(r, 400, "22023", wrong);
	else if (bearer)
		ht_bearer(r, job, bearer, sql_go);
	else
		sql_go(r, job);
}
