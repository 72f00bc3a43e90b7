/*
 * http_server.c - between libwebsockets and the handlers: sockets, requests, answers, WebSockets.
 *
 * Sockets are accepted here and handed to libwebsockets, so that their number has a limit.  HTTP/1.1 only: the headers that the serverless
 * driver sends are not known names, which this libwebsockets reads in HTTP/1.1 alone.
 *
 * Bounds: connections (neon_proxy.http_max_connections), headers (HT_MAX_HEADER_BYTES and HEADER_SECONDS), body (HT_MAX_BODY_BYTES and the
 * request's deadline), a client that does not read (SEND_SECONDS for each piece), idle connections (KEEPALIVE_SECONDS).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <libwebsockets.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "utils/builtins.h"
#include "utils/varlena.h"

#include "http_server.h"
#include "http_tls.h"

#define MAX_SOCKETS 16
#define BACKLOG 1024
#define ACCEPTS_AT_ONCE 32
#define HEADER_SECONDS 15
#define SEND_SECONDS 60
#define KEEPALIVE_SECONDS 60
#define PING_SECONDS 60			/* WebSockets: a ping after so long without a sign of life, and the end after twice that */
#define PIECE_BYTES (64 * 1024)

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

/* libwebsockets keeps one of these for each connection */
typedef struct Session
{
	Request    *request;
	HtBridge   *bridge;
} Session;

static uv_poll_t listener[MAX_SOCKETS];
static int	listeners;
static struct lws_vhost *vhost;
static char our_connection;		/* its address marks connections that are counted */

static const lws_retry_bo_t websocket_policy = {.secs_since_valid_ping = PING_SECONDS,.secs_since_valid_hangup = 2 * PING_SECONDS};

/* ---- requests ---- */

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

static const char *
find_header(HtRequest *request, const char *name)
{
	for (int i = 0; i < HEADERS; i++)
		if (strcmp(wanted_headers[i].name, name) == 0)
			return ((Request *) request)->header[i];
	return NULL;
}

char *
ht_header(HtRequest *request, const char *name)
{
	const char *value = find_header(request, name);

	return value ? strdup(value) : NULL;
}

static void
free_request(Request *r)
{
	for (int i = 0; i < HEADERS; i++)
		ht_free_secret(r->header[i]);
	if (r->public.body.data)
		explicit_bzero(r->public.body.data, r->public.body.len);
	ht_buf_free(&r->public.body);
	ht_buf_free(&r->public.out);
	free(r);
}

static void
client_address(struct lws *wsi, char *to, size_t size)
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

static Request *
new_request(struct lws *wsi, const char *path, size_t path_len)
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
	client_address(wsi, r->public.address, sizeof(r->public.address));
	r->public.body = ht_buf(HT_MAX_BODY_BYTES);
	r->public.deadline_ms = ht_now_ms() + ht_request_timeout_ms;
	for (int i = 0; i < HEADERS; i++)
		r->header[i] = copy_header(wsi, wanted_headers[i].name, wanted_headers[i].token);
	return r;
}

/* ---- answers ---- */

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

/* Whether the connection goes on after this answer. */
static int
answer_sent(Session *session)
{
	HtRequest  *r = &session->request->public;
	struct lws *wsi = r->wsi;
	bool		close_after = r->close_after;

	free_request(session->request);
	session->request = NULL;
	if (close_after)
		return -1;
	return lws_http_transaction_completed(wsi) ? -1 : 0;
}

static int
send_some(Session *session)
{
	HtRequest  *r = &session->request->public;
	size_t		n;
	bool		body = r->method != HT_HEAD && r->status != 204 && r->out_len > 0;

	if (!r->headers_sent)
	{
		if (send_headers(r) < 0)
			return -1;
		if (!body)
			return answer_sent(session);
		lws_callback_on_writable(r->wsi);
		return 0;
	}
	n = Min(r->out_len - r->out_sent, PIECE_BYTES);
	if (lws_write(r->wsi, (unsigned char *) (r->out_static ? r->out_static : r->out.data) + r->out_sent, n,
				  r->out_sent + n == r->out_len ? LWS_WRITE_HTTP_FINAL : LWS_WRITE_HTTP) < 0)
		return -1;
	r->out_sent += n;
	if (r->out_sent == r->out_len)
		return answer_sent(session);
	lws_set_timeout(r->wsi, PENDING_TIMEOUT_HTTP_CONTENT, SEND_SECONDS);
	lws_callback_on_writable(r->wsi);
	return 0;
}

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
	Request    *r;
	char		length[32];

	if (session->request)		/* pipelined while another is being answered: libwebsockets does not do that */
		return -1;
	r = session->request = new_request(wsi, path, len);
	if (!r)
		return -1;
	if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING) > 0 ||
		(r->public.method == HT_POST && lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH) <= 0))
	{
		r->public.close_after = true;
		ht_answer_error(&r->public, 411, NULL, "send the body with a Content-Length");
		return 0;
	}
	if (lws_hdr_copy(wsi, length, sizeof(length), WSI_TOKEN_HTTP_CONTENT_LENGTH) > 0)
	{
		char	   *end;
		long long	n = strtoll(length, &end, 10);

		if (end == length || *end != '\0' || n < 0 || n > HT_MAX_BODY_BYTES)
		{
			r->public.close_after = true;
			r->public.cors = true;
			ht_answer_error(&r->public, 413, NULL, "the request is larger than 10 MiB");
			return 0;
		}
		if (n > 0)
			return 0;			/* wait for the body */
	}
	dispatch(&r->public);
	return 0;
}

static int
on_body(Session *session, const void *data, size_t len)
{
	HtRequest  *r = session->request ? &session->request->public : NULL;

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
		HtRequest  *r = &session->request->public;

		if (!r->answered && r->cancel)
			r->cancel(r, r->cancel_arg);
		free_request(session->request);
		session->request = NULL;
	}
}

/* ---- WebSockets ---- */

static bool
websocket_path(struct lws *wsi)
{
	char		path[32];

	return lws_hdr_copy(wsi, path, sizeof(path), WSI_TOKEN_GET_URI) > 0 && (strcmp(path, "/v2") == 0 || strcmp(path, "/v1") == 0);
}

static int
on_websocket(struct lws *wsi, Session *session)
{
	char		address[HT_MAX_ADDRESS];
	char		host[300];
	char		fragment[300];
	int			n = 0;

	client_address(wsi, address, sizeof(address));
	if (lws_hdr_copy(wsi, host, sizeof(host), WSI_TOKEN_HOST) < 0)
		host[0] = '\0';
	/* drivers that are told of a proxy name the database's host in the address: ?address=host:port */
	while (lws_hdr_copy_fragment(wsi, fragment, sizeof(fragment), WSI_TOKEN_HTTP_URI_ARGS, n++) > 0)
		if (strncmp(fragment, "address=", 8) == 0)
			strlcpy(host, fragment + 8, sizeof(host));
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
			if (session->request && !session->request->public.answered)
				dispatch(&session->request->public);
			return 0;
		case LWS_CALLBACK_HTTP_WRITEABLE:
			if (session && session->request && session->request->public.answered)
				return send_some(session);
			return 0;
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
		case LWS_CALLBACK_WSI_DESTROY:
			if (lws_get_opaque_user_data(wsi) == &our_connection)
				ht_worker.connections--;
			if (session)
				client_gone(session);
			return 0;
		default:
			return 0;
	}
}

static const struct lws_protocols protocols[] = {
	{"http", callback, sizeof(Session), PIECE_BYTES, 0, NULL, PIECE_BYTES},
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

/* ---- sockets ---- */

static void
refuse(int fd)
{
	static const char answer[] = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n";

	/* refused all the same when this does not get through */
	(void) !send(fd, answer, sizeof(answer) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	close(fd);
}

static void
on_accept(uv_poll_t *handle, int status, int events)
{
	int			listen_fd = (int) (intptr_t) handle->data;

	for (int i = 0; i < ACCEPTS_AT_ONCE; i++)
	{
		lws_adopt_desc_t adopt = {.vh = vhost,.type = LWS_ADOPT_SOCKET | LWS_ADOPT_HTTP | LWS_ADOPT_ALLOW_SSL,.opaque = &our_connection};
		int			one = 1;

		adopt.fd.sockfd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (adopt.fd.sockfd < 0)
			return;
		if (ht_worker.connections >= ht_max_connections)
		{
			refuse(adopt.fd.sockfd);
			continue;
		}
		setsockopt(adopt.fd.sockfd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		setsockopt(adopt.fd.sockfd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
		ht_worker.connections++;	/* one that libwebsockets does not take is destroyed by it, which counts down */
		lws_adopt_descriptor_vhost_via_info(&adopt);
	}
}

static void
listen_on(const struct addrinfo *a, const char *name)
{
	int			one = 1;
	int			fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (listeners == MAX_SOCKETS)
		ereport(FATAL,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("neon_proxy.http_listen_addresses names more than %d addresses", MAX_SOCKETS)));
	if (fd >= 0 && a->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 || bind(fd, a->ai_addr, a->ai_addrlen) != 0 ||
		listen(fd, BACKLOG) != 0 || uv_poll_init(&ht_worker.loop, &listener[listeners], fd) != 0)
		ereport(FATAL,
				(errcode_for_socket_access(),
				 errmsg("could not listen for HTTP on \"%s\", port %d: %m", name, ht_port),
				 errhint("Is another server on that port? Otherwise set neon_proxy.http_listen_addresses and neon_proxy.http_port.")));
	listener[listeners].data = (void *) (intptr_t) fd;
	uv_poll_start(&listener[listeners++], UV_READABLE, on_accept);
}

static void
open_sockets(void)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC,.ai_socktype = SOCK_STREAM,.ai_flags = AI_PASSIVE};
	List	   *names;
	ListCell   *l;
	char		port[16];

	snprintf(port, sizeof(port), "%d", ht_port);
	if (!SplitGUCList(pstrdup(ht_listen_addresses), ',', &names))
		ereport(FATAL,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("invalid list in neon_proxy.http_listen_addresses: \"%s\"", ht_listen_addresses)));
	foreach(l, names)
	{
		struct addrinfo *list;
		const char *name = lfirst(l);
		int			rc = getaddrinfo(strcmp(name, "*") == 0 ? NULL : name, port, &hints, &list);

		if (rc != 0)
			ereport(FATAL,
					(errcode(ERRCODE_CONFIG_FILE_ERROR),
					 errmsg("could not resolve \"%s\" in neon_proxy.http_listen_addresses: %s", name, gai_strerror(rc))));
		for (struct addrinfo *a = list; a; a = a->ai_next)
			if (a->ai_family == AF_INET || a->ai_family == AF_INET6)
				listen_on(a, name);
		freeaddrinfo(list);
	}
}

void
ht_server_open(void)
{
	static void *loops[1];
	struct lws_context_creation_info info = {0};

	loops[0] = &ht_worker.loop;
	lws_set_log_level(LLL_ERR | LLL_WARN, log_line);
	info.options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
	info.foreign_loops = loops;
	info.gid = info.uid = -1;
	info.server_string = "neon";
	info.pt_serv_buf_size = PIECE_BYTES;
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
	vhost = ht_tls ? ht_tls_vhosts(&info) : lws_create_vhost(ht_worker.lws, &info);
	if (!vhost)
		ereport(FATAL, (errcode(ERRCODE_SYSTEM_ERROR), errmsg("could not start the HTTP server's host")));
	open_sockets();
}
