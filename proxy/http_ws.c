/*
 * http_ws.c - WebSockets: bytes of the PostgreSQL protocol between a client and the proxy's own socket.
 *
 * The bridge knows nothing of the protocol.  It begins with a PROXY protocol header: the client's address, the host that it asked for, and
 * that a cleartext password is to be asked for, since the serverless driver sends it without waiting to be asked.
 *
 * Bounds: each direction holds at most about HIGH_BYTES, then the faster side is not read from.  A client that is not there any more is
 * found by pings (http_server.c); one that does not log in, by the database side.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <libwebsockets.h>

#include "http_server.h"
#include "neon_http_request.h"
#include "proxy_settings.h"

#define HIGH_BYTES (256 * 1024)
#define LOW_BYTES (64 * 1024)
#define PIECE_BYTES (32 * 1024)

struct HtBridge
{
	struct lws *wsi;			/* NULL: the client is gone */
	uv_pipe_t	pipe;
	uv_connect_t connect;
	bool		pipe_closed;	/* closing, its callback is still to come */
	bool		ended;			/* the database side said everything */
	bool		client_paused;
	bool		pipe_paused;
	size_t		unsent;			/* bytes on their way to the database side */
	NhBuf		out;			/* for the client */
	size_t		out_sent;
};

typedef struct Write
{
	uv_write_t	request;
	HtBridge   *bridge;
	size_t		len;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} Write;

static void
pipe_gone(uv_handle_t *handle)
{
	HtBridge   *b = handle->data;

	ht_buf_free(&b->out);
	free(b);
}

/* Frees the bridge once the loop is through with the pipe. */
static void
close_bridge(HtBridge *b)
{
	if (b->pipe_closed)
		return;
	b->pipe_closed = true;
	uv_close((uv_handle_t *) &b->pipe, pipe_gone);
}

/* The database side has no more to say, or is gone: what is there is sent, then the client is told. */
static void
ended(HtBridge *b)
{
	if (b->ended)
		return;
	b->ended = true;
	uv_read_stop((uv_stream_t *) &b->pipe);
	if (b->wsi)
		lws_callback_on_writable(b->wsi);
}

/* ---- to the database side ---- */

static void
written(uv_write_t *request, int status)
{
	Write	   *w = (Write *) request;
	HtBridge   *b = w->bridge;

	b->unsent -= w->len;
	free(w);
	if (status != 0)
		ended(b);
	if (b->wsi && b->client_paused && b->unsent <= LOW_BYTES)
	{
		b->client_paused = false;
		lws_rx_flow_control(b->wsi, 1);
	}
}

static bool
send_to_database(HtBridge *b, const void *data, size_t len)
{
	Write	   *w = malloc(offsetof(Write, data) + len);
	uv_buf_t	buf;

	if (!w)
		return false;
	w->bridge = b;
	w->len = len;
	memcpy(w->data, data, len);
	buf = uv_buf_init(w->data, len);
	if (uv_write(&w->request, (uv_stream_t *) &b->pipe, &buf, 1, written) != 0)
	{
		free(w);
		return false;
	}
	b->unsent += len;
	return true;
}

int
ht_ws_receive(HtBridge *b, const void *data, size_t len)
{
	if (b->ended)
		return 0;				/* nobody reads it any more; the client will be told */
	if (len > 0 && !send_to_database(b, data, len))
		return -1;
	if (b->unsent > HIGH_BYTES && !b->client_paused)
	{
		b->client_paused = true;
		lws_rx_flow_control(b->wsi, 0);
	}
	return 0;
}

/* ---- to the client ---- */

static void
allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	static char piece[PIECE_BYTES];	/* used at once, in received() */

	*buf = uv_buf_init(piece, sizeof(piece));
}

static void
received(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	HtBridge   *b = stream->data;

	if (n < 0)
	{
		ended(b);
		return;
	}
	nh_put_behind(&b->out, &b->out_sent, buf->base, n);
	if (b->out.failed)
	{
		ended(b);
		return;
	}
	if (b->out.len - b->out_sent > HIGH_BYTES && !b->pipe_paused)
	{
		b->pipe_paused = true;
		uv_read_stop(stream);
	}
	if (b->wsi)
		lws_callback_on_writable(b->wsi);
}

int
ht_ws_writable(HtBridge *b)
{
	unsigned char piece[LWS_PRE + PIECE_BYTES];
	size_t		n = Min(b->out.len - b->out_sent, PIECE_BYTES);

	if (n == 0)
	{
		if (!b->ended)
			return 0;
		lws_close_reason(b->wsi, b->out.failed ? LWS_CLOSE_STATUS_UNEXPECTED_CONDITION : LWS_CLOSE_STATUS_NORMAL, NULL, 0);
		return -1;
	}
	memcpy(piece + LWS_PRE, b->out.data + b->out_sent, n);
	if (lws_write(b->wsi, piece + LWS_PRE, n, LWS_WRITE_BINARY) < 0)
		return -1;
	b->out_sent += n;
	if (b->out_sent == b->out.len)
		b->out.len = b->out_sent = 0;
	if (b->pipe_paused && !b->ended && b->out.len - b->out_sent <= LOW_BYTES)
	{
		b->pipe_paused = false;
		uv_read_start((uv_stream_t *) &b->pipe, allocate, received);
	}
	if (b->out.len > 0 || b->ended)
		lws_callback_on_writable(b->wsi);
	return 0;
}

/* ---- begin and end ---- */

static void
connected(uv_connect_t *connect, int status)
{
	HtBridge   *b = connect->data;

	if (b->pipe_closed)
		return;
	if (status != 0 || uv_read_start((uv_stream_t *) &b->pipe, allocate, received) != 0)
		ended(b);
}

HtBridge *
ht_ws_open(struct lws *wsi, const char *address, const char *host)
{
	HtBridge   *b = calloc(1, sizeof(HtBridge));
	NhBuf		header = ht_buf(4096);
	char		path[1024];

	if (!b)
		return NULL;
	if (uv_pipe_init(&ht_worker.loop, &b->pipe, 0) != 0)
	{
		free(b);
		return NULL;
	}
	b->wsi = wsi;
	ht_worker.websockets++;
	b->out = ht_buf(4 * HIGH_BYTES);
	b->pipe.data = b->connect.data = b;
	snprintf(path, sizeof(path), "%s/.s.PGSQL.%d", px_socket_directory, px_port);
	uv_pipe_connect(&b->connect, &b->pipe, path, connected);
	nh_proxy_header(&header, address, host);
	/* written as soon as it is connected */
	if (header.failed || !send_to_database(b, header.data, header.len))
	{
		ht_worker.websockets--;
		close_bridge(b);
		b = NULL;
	}
	ht_buf_free(&header);
	return b;
}

void
ht_ws_closed(HtBridge *b)
{
	b->wsi = NULL;
	ht_worker.websockets--;
	close_bridge(b);
}
