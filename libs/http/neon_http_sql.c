/*
 * neon_http_sql.c - POST /sql: body and headers to statements and a target.
 *
 * JSON values become the text that PostgreSQL reads: strings as they are, arrays as array literals, objects as JSON.
 *
 * Bounds: NH_MAX_VALUES before anything is allocated, NH_MAX_STATEMENTS, NH_MAX_PARAMS, twice NH_MAX_BODY_BYTES for one parameter; the depth is
 * jansson's (2048).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_http_sql.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

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

static void *
grow(void *p, size_t n)
{
	if (n > 0)
		return realloc(p, n);
	free(p);
	return NULL;
}

static NhBuf
text_buf(void)
{
	return (NhBuf) {.realloc = grow,.limit_bytes = 2 * NH_MAX_BODY_BYTES};
}

static void put_scalar(NhBuf *b, const json_t *v, bool in_array);

/* As short as it comes back the same: 0.1 is not to become 0.10000000000000001. */
static void
put_number(NhBuf *b, const json_t *v)
{
	char		text[40];

	if (json_is_integer(v))
	{
		nh_put_int(b, json_integer_value(v));
		return;
	}
	for (int digits = 15; digits <= 17; digits++)
	{
		snprintf(text, sizeof(text), "%.*g", digits, json_real_value(v));
		if (strtod(text, NULL) == json_real_value(v))
			break;
	}
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
	NhBuf		text = text_buf();

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
	free(text.data);
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
	NhBuf		b = text_buf();

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
		free(b.data);
		return false;
	}
	*text = b.data;
	return true;
}

/* ---- the body ---- */

static const char *
read_statement(NhStatement *s, const json_t *from)
{
	const json_t *query = json_object_get(from, "query");
	const json_t *params = json_object_get(from, "params");
	size_t		n = params && !json_is_null(params) ? json_array_size(params) : 0;

	if (!json_is_string(query))
		return "\"query\" must be a string";
	if (params && !json_is_null(params) && !json_is_array(params))
		return "\"params\" must be an array";
	if (n > NH_MAX_PARAMS)
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
read_statements(const json_t *body, NhSql *sql)
{
	const json_t *queries = json_object_get(body, "queries");
	const char *wrong = NULL;
	size_t		n = queries ? json_array_size(queries) : 1;

	if (queries && !json_is_array(queries))
		return "\"queries\" must be an array";
	if (n > NH_MAX_STATEMENTS)
		return "there are more than 1000 queries";
	sql->statements = calloc(n + 1, sizeof(NhStatement));
	if (!sql->statements)
		return "out of memory";
	sql->nstatements = (int) n;
	sql->batch = queries != NULL;
	for (size_t i = 0; i < n && !wrong; i++)
		wrong = read_statement(&sql->statements[i], queries ? json_array_get(queries, i) : body);
	return wrong;
}

/* Values at most: what begins one, or stands between two, outside of strings. */
static size_t
count_values(const char *data, size_t len)
{
	bool		quoted = false;
	size_t		n = 1;

	for (size_t i = 0; i < len; i++)
	{
		char		c = data[i];

		if (quoted && c == '\\')
			i++;
		else if (c == '"')
			quoted = !quoted;
		else if (!quoted)
			n += c == ',' || c == '[' || c == '{';
	}
	return n;
}

json_t *
nh_json_load(const char *data, size_t len, const char **wrong)
{
	json_t	   *json;

	*wrong = "the body has more than 1000000 values";
	if (count_values(data, len) > NH_MAX_VALUES)
		return NULL;
	*wrong = "the body is not JSON";
	/* an integer beyond 64 bits is taken as a real, like JavaScript does */
	json = json_loadb(data, len, JSON_REJECT_DUPLICATES, NULL);
	if (!json)
		json = json_loadb(data, len, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, NULL);
	return json;
}

const char *
nh_sql_body(NhSql *sql, const char *data, size_t len)
{
	const char *wrong;
	json_t	   *body;

	memset(sql, 0, sizeof(*sql));
	body = nh_json_load(data, len, &wrong);
	if (body)
		wrong = json_is_object(body) ? read_statements(body, sql) : "the body must be a JSON object";
	json_decref(body);
	return wrong;
}

void
nh_statements_free(NhStatement *statements, int n)
{
	for (int i = 0; i < n && statements; i++)
	{
		for (int p = 0; p < statements[i].nparams; p++)
			free(statements[i].params[p]);
		free(statements[i].params);
		free(statements[i].sql);
	}
	free(statements);
}

void
nh_sql_free(NhSql *sql)
{
	nh_statements_free(sql->statements, sql->nstatements);
	sql->statements = NULL;
	sql->nstatements = 0;
}

/* ---- headers ---- */

/* -1: neither true nor false */
static int
header_flag(NhHeader header, void *arg, const char *name, bool otherwise)
{
	const char *value = header(arg, name);

	return !value ? otherwise : strcasecmp(value, "true") == 0 ? 1 : strcasecmp(value, "false") == 0 ? 0 : -1;
}

static const char *
isolation_sql(const char *value, bool *known)
{
	*known = !value;
	for (size_t i = 0; value && i < sizeof(isolation_levels) / sizeof(isolation_levels[0]); i++)
		if (strcasecmp(value, isolation_levels[i].value) == 0)
		{
			*known = true;
			return isolation_levels[i].sql;
		}
	return NULL;
}

static const char *
read_transaction(NhSql *sql, NhHeader header, void *arg)
{
	bool		known;
	const char *isolation = isolation_sql(header(arg, "neon-batch-isolation-level"), &known);
	int			read_only = header_flag(header, arg, "neon-batch-read-only", false);
	int			deferrable = header_flag(header, arg, "neon-batch-deferrable", false);

	if (!known)
		return "Neon-Batch-Isolation-Level must be ReadUncommitted, ReadCommitted, RepeatableRead or Serializable";
	if (read_only < 0 || deferrable < 0)
		return "Neon-Batch-Read-Only and Neon-Batch-Deferrable must be true or false";
	snprintf(sql->begin, sizeof(sql->begin), "BEGIN%s%s%s%s", isolation ? " ISOLATION LEVEL " : "", isolation ? isolation : "",
			 read_only ? " READ ONLY" : "", deferrable ? " DEFERRABLE" : "");
	return NULL;
}

const char *
nh_sql_headers(NhSql *sql, NhHeader header, void *arg)
{
	int			raw = header_flag(header, arg, "neon-raw-text-output", false);
	int			arrays = header_flag(header, arg, "neon-array-mode", false);
	int			pooled = header_flag(header, arg, "neon-pool-opt-in", true);

	if (raw < 0 || arrays < 0 || pooled < 0)
		return "Neon-Raw-Text-Output, Neon-Array-Mode and Neon-Pool-Opt-In must be true or false";
	sql->raw_text = raw;
	sql->arrays = arrays;
	sql->pooled = pooled;
	return sql->batch ? read_transaction(sql, header, arg) : NULL;
}

const char *
nh_sql_target(NhTarget *target, char **bearer, NhHeader header, void *arg, const char *socket_directory, int port)
{
	const char *uri = header(arg, "neon-connection-string");
	const char *token = header(arg, "authorization");
	const char *wrong;

	*bearer = NULL;
	if (!uri)
		return "the header Neon-Connection-String is missing";
	if (strlen(uri) > NH_MAX_SECRET_BYTES || (token && strlen(token) > NH_MAX_SECRET_BYTES))
		return "the connection string or the token is too long";
	if (token && strncasecmp(token, "Bearer ", 7) != 0)
		return "Authorization must be a Bearer token";
	wrong = nh_target_from_uri(target, uri, token ? "" : NULL, socket_directory, port);
	if (!wrong && token && !(*bearer = strdup(token + 7)))
		wrong = "out of memory";
	return wrong;
}
