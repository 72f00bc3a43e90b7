/*
 * fuzz_http_request.c - what an HTTP client says before anybody knows who it is: headers, cookies, connection strings, bodies, the host of a
 * WebSocket.
 *
 * The input is lines "name: value", an empty line, and the body.  Checked: a target is always our own socket, whatever the connection string
 * says; parameters say what the JSON said; a PROXY header reads as it was meant; who is not our page is not taken for it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "neon_http_request.h"
#include "px_name.h"
#include "px_proxy2.h"

#define CHECK(condition) do { if (!(condition)) abort(); } while (0)
#define MAX_HEADERS 24

typedef struct Headers
{
	char	   *name[MAX_HEADERS];
	char	   *value[MAX_HEADERS];
	int			n;
} Headers;

static const char *
header(void *arg, const char *name)
{
	Headers    *h = arg;

	for (int i = 0; i < h->n; i++)
		if (strcasecmp(h->name[i], name) == 0)
			return h->value[i];
	return NULL;
}

static void *
grow(void *p, size_t n)
{
	if (n > 0)
		return realloc(p, n);
	free(p);
	return NULL;
}

/* The body; text is changed. */
static char *
read_headers(char *text, Headers *h)
{
	char	   *end;

	while (*text && *text != '\n' && h->n < MAX_HEADERS)
	{
		char	   *colon;

		if ((end = strchr(text, '\n')))
			*end = 0;
		colon = strchr(text, ':');
		if (colon)
		{
			*colon = 0;
			h->name[h->n] = text;
			h->value[h->n++] = colon + 1 + strspn(colon + 1, " ");
		}
		if (!end)
			return text + strlen(colon ? colon + 1 : text) + (colon ? colon + 1 - text : 0);
		text = end + 1;
	}
	return *text == '\n' ? text + 1 : text;
}

/* ---- targets ---- */

static void
check_target(const NhTarget *t)
{
	static const char *const ours[][2] = {{"host", "/sockets"}, {"port", "5430"}, {"sslmode", "disable"}, {"passfile", "/dev/null"}, {"service", ""},
		{"gssencmode", "disable"}, {"client_encoding", "UTF8"}, {"target_session_attrs", "any"}};
	static const char *const theirs[] = {"user", "password", "dbname", "options", "application_name"};
	char		endpoint[PX_NAME_BYTES];
	const char *role;
	int			found = 0;

	for (int i = 0; i < t->n; i++)
	{
		bool		known = false;

		for (size_t k = 0; k < sizeof(ours) / sizeof(ours[0]); k++)
			if (strcmp(t->keyword[i], ours[k][0]) == 0)
			{
				CHECK(strcmp(t->value[i], ours[k][1]) == 0);
				known = true;
				found++;
			}
		for (size_t k = 0; k < sizeof(theirs) / sizeof(theirs[0]); k++)
			known |= strcmp(t->keyword[i], theirs[k]) == 0;
		CHECK(known);
		CHECK(strcmp(t->keyword[i], "options") != 0 || !strstr(t->value[i], "neon_proxy."));
		for (int k = 0; k < i; k++)
			CHECK(strcmp(t->keyword[i], t->keyword[k]) != 0);
	}
	CHECK(found == sizeof(ours) / sizeof(ours[0]));
	if (nh_target_names(t, endpoint, sizeof(endpoint), &role))
		CHECK(px_name_valid(endpoint) && role);
}

/* ---- bodies ---- */

static bool
same(const json_t *a, const json_t *b)
{
	const char *key;
	json_t	   *member;
	size_t		i;

	if (json_is_number(a))
		return json_is_number(b) && json_number_value(a) == json_number_value(b);
	if (json_typeof(a) != json_typeof(b))
		return false;
	if (json_is_object(a))
	{
		json_object_foreach((json_t *) a, key, member)
			if (!json_object_get(b, key) || !same(member, json_object_get(b, key)))
				return false;
		return json_object_size(a) == json_object_size(b);
	}
	if (json_is_array(a))
	{
		json_array_foreach(a, i, member)
			if (i >= json_array_size(b) || !same(member, json_array_get(b, i)))
				return false;
		return json_array_size(a) == json_array_size(b);
	}
	return json_equal((json_t *) a, (json_t *) b);
}

static int
depth_of(const json_t *v)
{
	int			depth = 0;

	for (size_t i = 0; i < json_array_size(v); i++)
	{
		int			d = depth_of(json_array_get(v, i));

		depth = d > depth ? d : depth;
	}
	return depth + json_is_array(v);
}

static void
check_parameter(const json_t *v, const char *text)
{
	json_t	   *back;
	NhBuf		b = {.realloc = grow,.limit_bytes = 1 << 24};

	CHECK((text == NULL) == json_is_null(v));
	if (json_is_string(v))
		CHECK(strcmp(text, json_string_value(v)) == 0);
	if (json_is_object(v) || json_is_number(v))
	{
		back = json_loads(text, JSON_DECODE_ANY, NULL);
		if (!back)
			back = json_loads(text, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);
		CHECK(back && same(v, back));
		json_decref(back);
	}
	if (json_is_array(v) && depth_of(v) <= NH_MAX_ARRAY_DEPTH)
	{
		/* an array literal, whatever is in it */
		CHECK(nh_json_array(&b, 25, text, strlen(text)) && !b.failed);
		free(b.data);
	}
}

static void
check_statement(const json_t *from, const NhStatement *s)
{
	const json_t *params = json_object_get(from, "params");

	CHECK(strcmp(s->sql, json_string_value(json_object_get(from, "query"))) == 0);
	CHECK(s->nparams <= NH_MAX_PARAMS && s->nparams == (int) json_array_size(params));
	for (int i = 0; i < s->nparams; i++)
		check_parameter(json_array_get(params, i), s->params[i]);
}

static void
sql_request(Headers *h, const char *body, size_t len)
{
	NhSql		sql;
	NhTarget	target = {.n = 0};
	char	   *bearer;
	const char *wrong = nh_sql_body(&sql, body, len);

	if (!wrong)
	{
		json_t	   *json = nh_json_load(body, len, &wrong);
		const json_t *queries = json_object_get(json, "queries");

		CHECK(sql.nstatements <= NH_MAX_STATEMENTS && sql.batch == (queries != NULL));
		for (int i = 0; i < sql.nstatements; i++)
			check_statement(queries ? json_array_get(queries, (size_t) i) : json, &sql.statements[i]);
		json_decref(json);
		if (!nh_sql_headers(&sql, header, h))
			CHECK(sql.begin[0] == 0 || (strncmp(sql.begin, "BEGIN", 5) == 0 && !strchr(sql.begin, ';')));
	}
	nh_sql_free(&sql);
	if (!nh_sql_target(&target, &bearer, header, h, "/sockets", 5430))
	{
		check_target(&target);
		CHECK(!bearer || (strncasecmp(header(h, "authorization"), "bearer ", 7) == 0 && strcmp(bearer, header(h, "authorization") + 7) == 0));
		CHECK(nh_target_set_password(&target, "other"));
		check_target(&target);
	}
	else
		CHECK(!bearer);
	nh_free_secret(bearer);
	nh_target_free(&target);
}

/* ---- the console page ---- */

static void
console_request(Headers *h, const char *body, size_t len)
{
	char		session[NH_SESSION_CHARS + 1];
	const char *origin = header(h, "origin");
	const char *site = header(h, "sec-fetch-site");
	const char *call = header(h, "x-call");
	const char *length = header(h, "content-length");
	const char *wrong;
	NhLogin		login;
	json_t	   *json = nh_json_load(body, len, &wrong);

	if (nh_session_cookie(header(h, "cookie"), "neon_console", session))
		CHECK(nh_is_secret(session) && strstr(header(h, "cookie"), session));
	else
		CHECK(session[0] == 0);
	if (nh_from_our_page(header, h))
	{
		CHECK(strcmp(header(h, "x-neon-console"), "1") == 0 && (!site || strcmp(site, "same-origin") == 0));
		CHECK(!origin || (strlen(origin) > strlen(header(h, "host")) && strcasecmp(origin + strlen(origin) - strlen(header(h, "host")), header(h, "host")) == 0));
	}
	if (call && nh_call_name(call))
		CHECK(strlen(call) <= NH_MAX_CALL_CHARS && strpbrk(call, "'\"\\;/. ") == NULL);
	if (length)
		CHECK(nh_content_length(length, 1000) <= 1000);
	if (json_is_object(json) && nh_login(json, &login))
		CHECK(login.token ? strlen(login.token) < NH_MAX_FIELD_BYTES :
			  login.user[0] && strlen(login.user) < NH_MAX_FIELD_BYTES && strlen(login.password) < NH_MAX_FIELD_BYTES);
	json_decref(json);
}

/* ---- WebSockets ---- */

static void
websocket(Headers *h)
{
	const char *address = header(h, "x-address") ? header(h, "x-address") : "203.0.113.7";
	const char *asked = header(h, "host") ? header(h, "host") : "";
	char		host[NH_MAX_HOST_BYTES] = "";
	uint8_t		wanted[16] = {[10] = 0xff,[11] = 0xff};
	char		label[NH_MAX_HOST_BYTES];
	px_proxy2	p;
	NhBuf		b = {.realloc = grow,.limit_bytes = 4096};

	if (strlen(asked) < sizeof(host))
		strcpy(host, asked);
	if (header(h, "x-argument"))
		nh_websocket_argument(header(h, "x-argument"), host);
	nh_websocket_path(header(h, "x-path") ? header(h, "x-path") : "/v2");
	nh_proxy_header(&b, address, host);
	CHECK(!b.failed && px_proxy2_parse((uint8_t *) b.data, b.len, &p) == PX_PROXY2_OK);
	CHECK(p.len == b.len && p.has_address && p.ask_password);
	if (inet_pton(AF_INET, address, wanted + 12) != 1 && inet_pton(AF_INET6, address, wanted) != 1)
		memset(wanted + 12, 0, 4);
	CHECK(memcmp(p.address, wanted, sizeof(wanted)) == 0);
	if (p.authority[0])
		CHECK(strncmp(host, p.authority, strlen(p.authority)) == 0 && nh_endpoint_label(p.authority, label, sizeof(label)));
	free(b.data);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *text = malloc(size + 1);
	Headers		h = {.n = 0};
	char	   *body;
	char	   *exact;
	size_t		len;

	memcpy(text, data, size);
	text[size] = 0;
	body = read_headers(text, &h);
	len = (size_t) (text + size - body);
	exact = malloc(len ? len : 1);	/* so that a read behind it is seen */
	memcpy(exact, body, len);
	sql_request(&h, exact, len);
	console_request(&h, exact, len);
	websocket(&h);
	free(exact);
	free(text);
	return 0;
}
