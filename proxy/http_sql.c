/*
 * http_sql.c - POST /sql: one statement, or several in one transaction, as the npm package @neondatabase/serverless sends them.
 *
 *	   Neon-Connection-String: postgresql://user:password@endpoint.domain/database
 *	   {"query": "SELECT $1::int", "params": [1]}		or {"queries": [{"query": ..., "params": ...}, ...]}
 *
 * Authorization: Bearer ... takes the place of the password.  Every error of the database is status 400 with its fields.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <jansson.h>

#include "common/shortest_dec.h"

#include "http_bearer.h"
#include "http_conninfo.h"
#include "http_limits.h"
#include "http_pg.h"
#include "http_server.h"
#include "proxy_settings.h"

#define MAX_PARAMS 65535

/* A transaction's settings: header, value, SQL. */
static const struct
{
	const char *value;
	const char *sql;
}			isolation_levels[] = {
	{"ReadUncommitted", "READ UNCOMMITTED"},
	{"ReadCommitted", "READ COMMITTED"},
	{"RepeatableRead", "REPEATABLE READ"},
	{"Serializable", "SERIALIZABLE"}
};

/* ---- JSON values as text of parameters ---- */

static void put_scalar(NhBuf *b, const json_t *v, bool in_array);

static void
put_number(NhBuf *b, const json_t *v)
{
	char		text[DOUBLE_SHORTEST_DECIMAL_LEN];

	if (json_is_integer(v))
	{
		nh_put_int(b, json_integer_value(v));
		return;
	}
	double_to_shortest_decimal_buf(json_real_value(v), text);
	nh_puts(b, text);
}

static void
put_array(NhBuf *b, const json_t *v)
{
	size_t		i;
	json_t	   *element;

	nh_putc(b, '{');
	json_array_foreach(v, i, element)
	{
		if (i > 0)
			nh_putc(b, ',');
		if (json_is_array(element))
			put_array(b, element);
		else
			put_scalar(b, element, true);
	}
	nh_putc(b, '}');
}

/* As JSON again, numbers as short as they came: 0.1 is not to become 0.10000000000000001 in a jsonb.  The parser has bounded the depth. */
static void
put_json(NhBuf *b, const json_t *v)
{
	const char *key;
	json_t	   *member;
	size_t		i;
	bool		first = true;

	if (json_is_object(v))
	{
		nh_putc(b, '{');
		json_object_foreach((json_t *) v, key, member)
		{
			if (!first)
				nh_putc(b, ',');
			first = false;
			nh_json_cstring(b, key);
			nh_putc(b, ':');
			put_json(b, member);
		}
		nh_putc(b, '}');
	}
	else if (json_is_array(v))
	{
		nh_putc(b, '[');
		json_array_foreach(v, i, member)
		{
			if (i > 0)
				nh_putc(b, ',');
			put_json(b, member);
		}
		nh_putc(b, ']');
	}
	else if (json_is_string(v))
		nh_json_string(b, json_string_value(v), json_string_length(v));
	else if (json_is_null(v))
		nh_puts(b, "null");
	else
		put_scalar(b, v, false);
}

static void
put_object(NhBuf *b, const json_t *v, bool in_array)
{
	NhBuf		text = ht_buf(2 * HT_MAX_BODY_BYTES);

	if (!in_array)
	{
		put_json(b, v);
		return;
	}
	put_json(&text, v);
	if (text.failed)
		b->failed = true;
	else
		nh_array_string(b, text.data, text.len);
	ht_buf_free(&text);
}

static void
put_scalar(NhBuf *b, const json_t *v, bool in_array)
{
	switch (json_typeof(v))
	{
		case JSON_NULL:
			nh_puts(b, "NULL");
			break;
		case JSON_TRUE:
			nh_puts(b, "true");
			break;
		case JSON_FALSE:
			nh_puts(b, "false");
			break;
		case JSON_STRING:
			if (in_array)
				nh_array_string(b, json_string_value(v), json_string_length(v));
			else
				nh_put(b, json_string_value(v), json_string_length(v));
			break;
		case JSON_INTEGER:
		case JSON_REAL:
			put_number(b, v);
			break;
		default:
			put_object(b, v, in_array);
			break;
	}
}

/* False: no memory */
static bool
parameter(const json_t *v, char **text)
{
	NhBuf		b = ht_buf(2 * HT_MAX_BODY_BYTES);

	*text = NULL;
	if (json_is_null(v))
		return true;
	if (json_is_array(v))
		put_array(&b, v);
	else
		put_scalar(&b, v, false);
	nh_putc(&b, '\0');
	if (b.failed)
	{
		ht_buf_free(&b);
		return false;
	}
	*text = b.data;
	return true;
}

/* ---- the body ---- */

static const char *
read_statement(HpStatement *s, const json_t *from)
{
	const json_t *query = json_object_get(from, "query");
	const json_t *params = json_object_get(from, "params");
	size_t		n = params && !json_is_null(params) ? json_array_size(params) : 0;

	if (!json_is_string(query))
		return "\"query\" must be a string";
	if (params && !json_is_null(params) && !json_is_array(params))
		return "\"params\" must be an array";
	if (n > MAX_PARAMS)
		return "there are more than 65535 parameters";
	s->sql = strdup(json_string_value(query));
	s->params = calloc(n + 1, sizeof(char *));
	if (!s->sql || !s->params)
		return "out of memory";
	for (size_t i = 0; i < n; i++)
	{
		if (!parameter(json_array_get(params, i), &s->params[i]))
			return "out of memory";
		s->nparams++;
	}
	return NULL;
}

static const char *
read_statements(const json_t *body, HpJob **job)
{
	const json_t *queries = json_object_get(body, "queries");
	const char *wrong = NULL;
	size_t		n = queries ? json_array_size(queries) : 1;

	if (queries && !json_is_array(queries))
		return "\"queries\" must be an array";
	if (n > HP_MAX_STATEMENTS)
		return "there are more than 1000 queries";
	*job = hp_job(n > 0 ? n : 1);
	if (!*job)
		return "out of memory";
	(*job)->nstatements = n;
	(*job)->batch = queries != NULL;
	for (size_t i = 0; i < n && !wrong; i++)
		wrong = read_statement(&(*job)->statements[i], queries ? json_array_get(queries, i) : body);
	return wrong;
}

static const char *
read_body(HtRequest *r, HpJob **job)
{
	json_error_t error;
	json_t	   *body;
	const char *wrong;

	/* an integer beyond 64 bits is taken as a real, like JavaScript does */
	body = json_loadb(r->body.data ? r->body.data : "", r->body.len, JSON_REJECT_DUPLICATES, &error);
	if (!body)
		body = json_loadb(r->body.data ? r->body.data : "", r->body.len, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &error);
	if (!json_is_object(body))
		wrong = body ? "the body must be a JSON object" : "the body is not JSON";
	else
		wrong = read_statements(body, job);
	json_decref(body);
	return wrong;
}

/* ---- headers ---- */

/* -1: neither true nor false */
static int
header_flag(HtRequest *r, const char *name, bool otherwise)
{
	char	   *value = ht_header(r, name);
	int			flag = !value ? otherwise : pg_strcasecmp(value, "true") == 0 ? 1 : pg_strcasecmp(value, "false") == 0 ? 0 : -1;

	free(value);
	return flag;
}

static const char *
isolation_sql(HtRequest *r, bool *known)
{
	char	   *value = ht_header(r, "neon-batch-isolation-level");
	const char *sql = NULL;

	*known = !value;
	for (int i = 0; value && i < lengthof(isolation_levels); i++)
		if (pg_strcasecmp(value, isolation_levels[i].value) == 0)
		{
			sql = isolation_levels[i].sql;
			*known = true;
		}
	free(value);
	return sql;
}

static const char *
read_transaction(HtRequest *r, HpJob *job)
{
	bool		known;
	const char *isolation = isolation_sql(r, &known);
	int			read_only = header_flag(r, "neon-batch-read-only", false);
	int			deferrable = header_flag(r, "neon-batch-deferrable", false);

	if (!known)
		return "Neon-Batch-Isolation-Level must be ReadUncommitted, ReadCommitted, RepeatableRead or Serializable";
	if (read_only < 0 || deferrable < 0)
		return "Neon-Batch-Read-Only and Neon-Batch-Deferrable must be true or false";
	snprintf(job->begin, sizeof(job->begin), "BEGIN%s%s%s%s", isolation ? " ISOLATION LEVEL " : "", isolation ? isolation : "",
			 read_only ? " READ ONLY" : "", deferrable ? " DEFERRABLE" : "");
	return NULL;
}

/* A token is given to the caller, who goes to the controller with it. */
static const char *
read_target(HtRequest *r, HpJob *job, char **bearer)
{
	char	   *uri = ht_header(r, "neon-connection-string");
	char	   *token = ht_header(r, "authorization");
	const char *wrong;

	if (!uri)
		wrong = "the header Neon-Connection-String is missing";
	else if (strlen(uri) > HT_MAX_SECRET_BYTES || (token && strlen(token) > HT_MAX_SECRET_BYTES))
		wrong = "the connection string or the token is too long";
	else if (token && pg_strncasecmp(token, "Bearer ", 7) != 0)
		wrong = "Authorization must be a Bearer token";
	else
		wrong = hp_target_from_uri(&job->target, uri, token ? "" : NULL);
	if (!wrong && token && !(*bearer = strdup(token + 7)))
		wrong = "out of memory";
	ht_free_secret(uri);
	ht_free_secret(token);
	return wrong;
}

static const char *
read_request(HtRequest *r, HpJob **job, char **bearer)
{
	const char *wrong = read_body(r, job);
	int			raw,
				arrays,
				pooled;

	if (wrong)
		return wrong;
	raw = header_flag(r, "neon-raw-text-output", false);
	arrays = header_flag(r, "neon-array-mode", false);
	pooled = header_flag(r, "neon-pool-opt-in", true);
	if (raw < 0 || arrays < 0 || pooled < 0)
		return "Neon-Raw-Text-Output, Neon-Array-Mode and Neon-Pool-Opt-In must be true or false";
	(*job)->raw_text = raw;
	(*job)->format = arrays ? HP_ARRAYS : HP_OBJECTS;
	(*job)->pooled = pooled;
	(*job)->deadline_ms = r->deadline_ms;
	if ((*job)->batch)
		wrong = read_transaction(r, *job);
	return wrong ? wrong : read_target(r, *job, bearer);
}

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

void
ht_sql_request(HtRequest *r)
{
	HpJob	   *job = NULL;
	char	   *bearer = NULL;
	const char *wrong;

	if (ht_guesses_used_up(r, HT_GUESS_DATABASE, px_max_address_failures))
	{
		ht_answer_error(r, 400, "28000", "too many failed logins from this address; try again in a minute");
		return;
	}
	wrong = read_request(r, &job, &bearer);

	ht_buf_free(&r->body);
	if (wrong)
	{
		if (job)
			hp_job_free(job);
		ht_free_secret(bearer);
		ht_answer_error(r, 400, "22023", wrong);
	}
	else if (bearer)
		ht_bearer(r, job, bearer, sql_go);
	else
		sql_go(r, job);
}
