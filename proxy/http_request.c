/*
 * http_request.c - a request from its headers: method, path, client, the headers that handlers ask for.
 *
 * Headers are copied when they are complete, for libwebsockets needs its own for the next connection.  Passwords come in them: they are
 * wiped with the request.
 *
 * Invariant: a request belongs to one connection's session (http_server.c), which frees it when the answer is out or the client is gone.
 *
 * Bounds: HT_MAX_HEADER_BYTES, HT_MAX_BODY_BYTES, a deadline from the headers on.  Nothing of it outlives the process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <libwebsockets.h>
#include <netdb.h>
#include <sys/socket.h>

#include "http_request.h"

/* what a handler may ask for: copied when the headers are complete */
static const struct
{
	const char *name;
	int			token;			/* -1: not known to libwebsockets */
}			wanted_headers[] = {
	{"authorization", WSI_TOKEN_HTTP_AUTHORIZATION},
	{"content-type", WSI_TOKEN_HTTP_CONTENT_TYPE},
	{"cookie", WSI_TOKEN_HTTP_COOKIE},
	{"host", WSI_TOKEN_HOST},
	{"origin", WSI_TOKEN_ORIGIN},
	{"neon-array-mode", -1},
	{"neon-batch-deferrable", -1},
	{"neon-batch-isolation-level", -1},
	{"neon-batch-read-only", -1},
	{"neon-connection-string", -1},
	{"neon-pool-opt-in", -1},
	{"neon-raw-text-output", -1},
	{"sec-fetch-site", -1},
	{"x-neon-console", -1}
};

#define HEADERS lengthof(wanted_headers)

typedef struct Request
{
	HtRequest	public;
	char	   *header[HEADERS];
} Request;

static char *
copy_header(struct lws *wsi, const char *name, int token)
{
	char		with_colon[64];
	int			n;
	char	   *value;

	snprintf(with_colon, sizeof(with_colon), "%s:", name);
	n = token >= 0 ? lws_hdr_total_length(wsi, token) : lws_hdr_custom_length(wsi, with_colon, strlen(with_colon));
	if (n < 0 || (n == 0 && token >= 0))
		return NULL;
	value = malloc(n + 1);
	if (!value)
		return NULL;
	n = token >= 0 ? lws_hdr_copy(wsi, value, n + 1, token) : lws_hdr_custom_copy(wsi, value, n + 1, with_colon, strlen(with_colon));
	if (n < 0)
	{
		free(value);
		return NULL;
	}
	value[n] = '\0';
	return value;
}

const char *
ht_header(HtRequest *request, const char *name)
{
	for (int i = 0; i < HEADERS; i++)
		if (strcmp(wanted_headers[i].name, name) == 0)
			return ((Request *) request)->header[i];
	return NULL;
}

void
ht_request_free(HtRequest *request)
{
	Request    *r = (Request *) request;

	for (int i = 0; i < HEADERS; i++)
		nh_free_secret(r->header[i]);
	if (r->public.body.data)
		explicit_bzero(r->public.body.data, r->public.body.len);
	ht_buf_free(&r->public.body);
	ht_buf_free(&r->public.out);
	free(r);
}

void
ht_client_address(struct lws *wsi, char *to, size_t size)
{
	struct sockaddr_storage addr;
	socklen_t	len = sizeof(addr);

	if (getpeername(lws_get_socket_fd(wsi), (struct sockaddr *) &addr, &len) != 0 ||
		getnameinfo((struct sockaddr *) &addr, len, to, size, NULL, 0, NI_NUMERICHOST) != 0)
		strlcpy(to, "0.0.0.0", size);
}

static HtMethod
request_method(struct lws *wsi)
{
	if (lws_hdr_total_length(wsi, WSI_TOKEN_GET_URI) > 0)
		return HT_GET;
	if (lws_hdr_total_length(wsi, WSI_TOKEN_POST_URI) > 0)
		return HT_POST;
	if (lws_hdr_total_length(wsi, WSI_TOKEN_OPTIONS_URI) > 0)
		return HT_OPTIONS;
	if (lws_hdr_total_length(wsi, WSI_TOKEN_HEAD_URI) > 0)
		return HT_HEAD;
	return HT_OTHER;
}

HtRequest *
ht_request_new(struct lws *wsi, const char *path, size_t path_len)
{
	Request    *r = calloc(1, sizeof(Request));

	if (!r)
		return NULL;
	r->public.wsi = wsi;
	ht_worker.requests++;
	r->public.method = request_method(wsi);
	if (path_len >= sizeof(r->public.path))
		path_len = 0;			/* no page of ours has such a name */
	memcpy(r->public.path, path, path_len);
	ht_client_address(wsi, r->public.address, sizeof(r->public.address));
	r->public.body = ht_buf(HT_MAX_BODY_BYTES);
	r->public.deadline_ms = ht_now_ms() + ht_request_timeout_ms;
	for (int i = 0; i < HEADERS; i++)
		r->header[i] = copy_header(wsi, wanted_headers[i].name, wanted_headers[i].token);
	return &r->public;
}
