/*
 * http_answer.c - answers: what handlers say, and its way to the client in pieces.
 *
 * A handler answers once, at any time; a second answer is thrown away.  The answer is whole before its first byte is sent, so that its
 * length is known and an error has a status of its own.
 *
 * Bounds: a piece (HT_PIECE_BYTES) is given to libwebsockets when the socket takes it; a client that does not read has SEND_SECONDS for each.
 * A client whose answer breaks off, because the process was killed or it was too slow, sees fewer bytes than Content-Length said.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <libwebsockets.h>

#include "http_request.h"

#define SEND_SECONDS 60

static void
answer(HtRequest *request, int status, const char *content_type)
{
	request->answered = true;
	request->cancel = NULL;
	request->status = status;
	request->content_type = content_type;
	lws_set_timeout(request->wsi, PENDING_TIMEOUT_HTTP_CONTENT, SEND_SECONDS);
	lws_callback_on_writable(request->wsi);
}

void
ht_answer(HtRequest *request, int status, const char *content_type, NhBuf *out)
{
	if (request->answered)
	{
		ht_buf_free(out);
		return;
	}
	request->out = *out;
	request->out_static = NULL;
	request->out_len = out->len;
	memset(out, 0, sizeof(*out));
	answer(request, status, content_type);
}

void
ht_answer_static(HtRequest *request, int status, const char *content_type, const char *data, size_t len)
{
	if (request->answered)
		return;
	request->out_static = data;
	request->out_len = len;
	answer(request, status, content_type);
}

void
ht_answer_error(HtRequest *request, int status, const char *code, const char *message)
{
	NhBuf		b = ht_buf(HT_MAX_HEADER_BYTES);

	nh_puts(&b, "{\"message\":");
	nh_json_cstring(&b, message);
	nh_puts(&b, ",\"code\":");
	nh_json_cstring(&b, code);
	nh_puts(&b, ",\"severity\":\"ERROR\"}");
	if (b.failed)
		b.len = 0;
	ht_answer(request, status, "application/json", &b);
}

void
ht_add_header(HtRequest *request, const char *name, const char *value)
{
	size_t		used = strlen(request->extra_headers);

	/* all or nothing; our own callers stay far below the limit */
	if (used + strlen(name) + strlen(value) + 5 <= sizeof(request->extra_headers))
		sprintf(request->extra_headers + used, "%s: %s\r\n", name, value);
}

static int
send_headers(HtRequest *r)
{
	unsigned char buffer[LWS_PRE + 4096];
	unsigned char *start = buffer + LWS_PRE,
			   *p = start,
			   *end = buffer + sizeof(buffer) - 1;
	size_t		extra = strlen(r->extra_headers);

	if (lws_add_http_header_status(r->wsi, r->status, &p, end) ||
		(r->content_type && lws_add_http_header_by_token(r->wsi, WSI_TOKEN_HTTP_CONTENT_TYPE, (const unsigned char *) r->content_type,
														 strlen(r->content_type), &p, end)) ||
		(r->status != 204 && lws_add_http_header_content_length(r->wsi, r->out_len, &p, end)) ||
		(r->cors && lws_add_http_header_by_name(r->wsi, (const unsigned char *) "access-control-allow-origin:", (const unsigned char *) "*", 1, &p, end)) ||
		(r->close_after && lws_add_http_header_by_name(r->wsi, (const unsigned char *) "connection:", (const unsigned char *) "close", 5, &p, end)) ||
		lws_add_http_header_by_name(r->wsi, (const unsigned char *) "x-content-type-options:", (const unsigned char *) "nosniff", 7, &p, end))
		return -1;
	if (p + extra + 2 >= end)
		return -1;
	memcpy(p, r->extra_headers, extra);
	p += extra;
	if (lws_finalize_write_http_header(r->wsi, start, &p, end))
		return -1;
	r->headers_sent = true;
	return 0;
}

int
ht_send_some(HtRequest *r, bool *sent)
{
	size_t		n;
	bool		body = r->method != HT_HEAD && r->status != 204 && r->out_len > 0;

	*sent = false;
	if (!r->headers_sent)
	{
		if (send_headers(r) < 0)
			return -1;
		if (!body)
			*sent = true;
		else
			lws_callback_on_writable(r->wsi);
		return 0;
	}
	n = Min(r->out_len - r->out_sent, HT_PIECE_BYTES);
	if (lws_write(r->wsi, (unsigned char *) (r->out_static ? r->out_static : r->out.data) + r->out_sent, n,
				  r->out_sent + n == r->out_len ? LWS_WRITE_HTTP_FINAL : LWS_WRITE_HTTP) < 0)
		return -1;
	r->out_sent += n;
	if (r->out_sent == r->out_len)
	{
		*sent = true;
		return 0;
	}
	lws_set_timeout(r->wsi, PENDING_TIMEOUT_HTTP_CONTENT, SEND_SECONDS);
	lws_callback_on_writable(r->wsi);
	return 0;
}
