/*
 * http_server.c - what libwebsockets calls: requests to their handlers, WebSockets to their bridges.
 *
 * HTTP/1.1 only: the headers that the serverless driver sends are not known names, which this libwebsockets reads in HTTP/1.1 alone.
 *
 * Invariant: a connection has one request or one bridge at a time; a handler that answers later is told when the client goes first.
 *
 * Bounds: headers (HT_MAX_HEADER_BYTES and HEADER_SECONDS), body (HT_MAX_BODY_BYTES and the request's deadline), idle connections
 * (KEEPALIVE_SECONDS).  A process that is killed leaves nothing: clients connect again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <libwebsockets.h>

#include "http_request.h"
#include "http_tls.h"
#include "neon_http_request.h"

#define HEADER_SECONDS 15
#define KEEPALIVE_SECONDS 60
#define PING_SECONDS 60			/* WebSockets: a ping after so long without a sign of life, and the end after twice that */

/* libwebsockets keeps one of these for each connection */
typedef struct Session
{
	HtRequest  *request;
	HtBridge   *bridge;
} Session;

static const lws_retry_bo_t websocket_policy = {.secs_since_valid_ping = PING_SECONDS,.secs_since_valid_hangup = 2 * PING_SECONDS};

/* ---- which handler ---- */

static void
preflight(HtRequest *r)
{
	ht_add_header(r, "access-control-allow-methods", "POST, OPTIONS");
	ht_add_header(r, "access-control-allow-headers",
				  "authorization, content-type, neon-connection-string, neon-raw-text-output, neon-array-mode, neon-pool-opt-in, "
				  "neon-batch-isolation-level, neon-batch-read-only, neon-batch-deferrable");
	ht_add_header(r, "access-control-max-age", "86400");
	ht_answer_static(r, 204, NULL, "", 0);
}

static void
dispatch(HtRequest *r)
{
	/* the handler has its own deadline, and cancels when the client goes */
	lws_set_timeout(r->wsi, NO_PENDING_TIMEOUT, 0);
	if (strcmp(r->path, "/sql") == 0)
	{
		r->cors = true;
		if (r->method == HT_OPTIONS)
			preflight(r);
		else if (r->method == HT_POST)
			ht_sql_request(r);
		else
			ht_answer_error(r, 405, NULL, "use POST");
		return;
	}
	if (r->method == HT_GET || r->method == HT_HEAD)
	{
		if (strcmp(r->path, "/metrics") == 0)
		{
			ht_metrics_request(r);
			return;
		}
		if (strcmp(r->path, "/health") == 0)
		{
			ht_answer_static(r, 200, "text/plain; charset=utf-8", "ok\n", 3);
			return;
		}
	}
	if (!ht_console_request(r))
		ht_answer_error(r, 404, NULL, "there is no such page");
}

/* The headers are complete. */
static int
on_headers(struct lws *wsi, Session *session, const char *path, size_t len)
{
	HtRequest  *r;
	char		length[32];

	if (session->request)		/* pipelined while another is being answered: libwebsockets does not do that */
		return -1;
	r = session->request = ht_request_new(wsi, path, len);
	if (!r)
		return -1;
	if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING) > 0 ||
		(r->method == HT_POST && lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH) <= 0))
	{
		r->close_after = true;
		ht_answer_error(r, 411, NULL, "send the body with a Content-Length");
		return 0;
	}
	if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH) > 0)
	{
		/* -1 is a length of more digits than there is room for, too */
		int64_t		n = lws_hdr_copy(wsi, length, sizeof(length), WSI_TOKEN_HTTP_CONTENT_LENGTH) > 0 ? nh_content_length(length, HT_MAX_BODY_BYTES) : -1;

		if (n < 0)
		{
			r->close_after = true;
			r->cors = true;
			ht_answer_error(r, 413, NULL, "the request is larger than 10 MiB");
			return 0;
		}
		if (n > 0)
			return 0;			/* wait for the body */
	}
	dispatch(r);
	return 0;
}

static int
on_body(Session *session, const void *data, size_t len)
{
	HtRequest  *r = session->request;

	if (!r)
		return -1;
	if (r->answered)
		return 0;				/* it was refused; what comes is thrown away until the answer is out */
	if (ht_now_ms() > r->deadline_ms)
		return -1;
	nh_put(&r->body, data, len);
	return r->body.failed ? -1 : 0;
}

static void
client_gone(Session *session)
{
	if (session->request)
	{
		HtRequest  *r = session->request;

		if (!r->answered && r->cancel)
			r->cancel(r, r->cancel_arg);
		ht_request_free(session->request);
		session->request = NULL;
	}
}

/* Whether the connection goes on after this answer. */
static int
answer_sent(Session *session)
{
	HtRequest  *r = session->request;
	struct lws *wsi = r->wsi;
	bool		close_after = r->close_after;

	ht_request_free(session->request);
	session->request = NULL;
	if (close_after)
		return -1;
	return lws_http_transaction_completed(wsi) ? -1 : 0;
}

static int
on_writable(Session *session)
{
	bool		sent;

	if (!session->request || !session->request->answered)
		return 0;
	if (ht_send_some(session->request, &sent) < 0)
		return -1;
	return sent ? answer_sent(session) : 0;
}

/* ---- WebSockets ---- */

static bool
websocket_path(struct lws *wsi)
{
	char		path[32];

	return lws_hdr_copy(wsi, path, sizeof(path), WSI_TOKEN_GET_URI) > 0 && nh_websocket_path(path);
}

static int
on_websocket(struct lws *wsi, Session *session)
{
	char		address[HT_MAX_ADDRESS];
	char		host[NH_MAX_HOST_BYTES];
	char		fragment[300];
	int			n = 0;

	ht_client_address(wsi, address, sizeof(address));
	if (lws_hdr_copy(wsi, host, sizeof(host), WSI_TOKEN_HOST) < 0)
		host[0] = '\0';
	/* drivers that are told of a proxy name the database's host in the address: ?address=host:port */
	while (lws_hdr_copy_fragment(wsi, fragment, sizeof(fragment), WSI_TOKEN_HTTP_URI_ARGS, n++) > 0)
		nh_websocket_argument(fragment, host);
	session->bridge = ht_ws_open(wsi, address, host);
	return session->bridge ? 0 : -1;
}

/* ---- what libwebsockets calls ---- */

static int
callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
	Session    *session = user;

	switch (reason)
	{
		case LWS_CALLBACK_HTTP:
			return on_headers(wsi, session, in, len);
		case LWS_CALLBACK_HTTP_BODY:
			return on_body(session, in, len);
		case LWS_CALLBACK_HTTP_BODY_COMPLETION:
			if (session->request && !session->request->answered)
				dispatch(session->request);
			return 0;
		case LWS_CALLBACK_HTTP_WRITEABLE:
			return session ? on_writable(session) : 0;
		case LWS_CALLBACK_CLOSED_HTTP:
			if (session)
				client_gone(session);
			return 0;
		case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
			return websocket_path(wsi) ? 0 : -1;
		case LWS_CALLBACK_ESTABLISHED:
			return on_websocket(wsi, session);
		case LWS_CALLBACK_RECEIVE:
			return session->bridge ? ht_ws_receive(session->bridge, in, len) : -1;
		case LWS_CALLBACK_SERVER_WRITEABLE:
			return session->bridge ? ht_ws_writable(session->bridge) : -1;
		case LWS_CALLBACK_CLOSED:
			if (session->bridge)
				ht_ws_closed(session->bridge);
			session->bridge = NULL;
			return 0;
		case LWS_CALLBACK_OPENSSL_LOAD_EXTRA_SERVER_VERIFY_CERTS:
			ht_tls_context(user);	/* here it is not a session */
			return 0;
		case LWS_CALLBACK_WSI_DESTROY:
			ht_connection_destroyed(wsi);
			if (session)
				client_gone(session);
			return 0;
		default:
			return 0;
	}
}

static const struct lws_protocols protocols[] = {
	{"http", callback, sizeof(Session), HT_PIECE_BYTES, 0, NULL, HT_PIECE_BYTES},
	{NULL, NULL, 0, 0, 0, NULL, 0}
};

static void
log_line(int level, const char *line)
{
	int			n = strlen(line);

	while (n > 0 && line[n - 1] == '\n')
		n--;
	ereport(level == LLL_ERR ? LOG : DEBUG1, (errmsg_internal("http: %.*s", n, line)));
}

void
ht_server_open(void)
{
	static void *loops[1];
	struct lws_vhost *vhost;
	struct lws_context_creation_info info = {0};

	loops[0] = &ht_worker.loop;
	lws_set_log_level(LLL_ERR | LLL_WARN, log_line);
	info.options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
	info.foreign_loops = loops;
	info.gid = info.uid = -1;
	info.server_string = "neon";
	info.pt_serv_buf_size = HT_PIECE_BYTES;
	info.max_http_header_data = HT_MAX_HEADER_BYTES;
	info.max_http_header_pool2 = ht_max_connections + 1;
	info.timeout_secs = HEADER_SECONDS;
	ht_worker.lws = lws_create_context(&info);
	if (!ht_worker.lws)
		ereport(FATAL,
				(errcode(ERRCODE_SYSTEM_ERROR), errmsg("could not start the HTTP server"),
				 errhint("The package libwebsockets-evlib-uv must be installed.")));
	info.port = CONTEXT_PORT_NO_LISTEN_SERVER;
	info.protocols = protocols;
	info.keepalive_timeout = KEEPALIVE_SECONDS;
	info.timeout_secs_ah_idle = HEADER_SECONDS;
	info.retry_and_idle_policy = &websocket_policy;
	info.alpn = "http/1.1";
	if (ht_tls)
		ht_tls_options(&info);
	vhost = lws_create_vhost(ht_worker.lws, &info);
	if (!vhost)
		ereport(FATAL, (errcode(ERRCODE_SYSTEM_ERROR), errmsg("could not start the HTTP server's host")));
	ht_listen(vhost);
}
