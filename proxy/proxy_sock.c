/*
 * proxy_sock.c - sockets: epoll, reading, gathered writing, TLS underneath.
 *
 * Data is read into one buffer of the worker and written from there; a connection owns memory only for what the kernel did not take,
 * or for a message that is not complete.  That bounds it: while a socket has unsent bytes, its peer is not read.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "port/pg_bitutils.h"

#include "px.h"

#define MIN_UNANSWERED 3
#define MAX_BUF_BYTES (1u << 30)
#define MAX_WAITING_BYTES (1024 * 1024)	/* for one socket, then no more is made for it */

static PxSock **again;			/* as many as there are connections, at most */
static int	nagain;
static int	again_cap;
static uint8 scratch[PX_SCRATCH_BYTES];
static bool scratch_taken;

void
px_sock_init(PxSock *s, PxSockKind kind, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN,.data.ptr = s};

	memset(s, 0, sizeof(*s));
	s->fd = fd;
	s->kind = kind;
	s->reading = true;
	s->mask = EPOLLIN;
	if (epoll_ctl(px.epoll, EPOLL_CTL_ADD, fd, &ev) != 0)
		ereport(FATAL, (errcode_for_socket_access(), errmsg("could not watch a socket: %m")));
}

static void
set_mask(PxSock *s)
{
	struct epoll_event ev = {.events = (s->reading ? EPOLLIN : 0) | (s->out ? EPOLLOUT : 0),.data.ptr = s};

	if (s->fd < 0 || ev.events == s->mask)
		return;
	s->mask = ev.events;
	if (epoll_ctl(px.epoll, EPOLL_CTL_MOD, s->fd, &ev) != 0)
		ereport(FATAL, (errcode_for_socket_access(), errmsg("could not watch a socket: %m")));
}

static void
set_option(int fd, int option, int value)
{
	if (value > 0)
		setsockopt(fd, IPPROTO_TCP, option, &value, sizeof(value));
}

/* Small messages go at once; a silent peer that is gone is noticed by the kernel. */
void
px_sock_tcp_options(int fd, const PxKeepalive *k)
{
	int			one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	set_option(fd, TCP_KEEPIDLE, k->idle_s);
	set_option(fd, TCP_KEEPINTVL, k->interval_s);
	set_option(fd, TCP_KEEPCNT, k->count);
	set_option(fd, TCP_USER_TIMEOUT, k->user_timeout_ms);
}

/*
 * While something is on its way to a peer the kernel does not ask, but sends it again, for a quarter of an hour.  A peer that has not answered to
 * several of these for as long as a silent one may be silent is gone.  One that is there and does not read answers: it has no room.  (TCP_USER_TIMEOUT
 * would end that one, too.)
 */
bool
px_sock_unanswered(PxSock *s, const PxKeepalive *k)
{
	struct tcp_info t = {0};
	socklen_t	n = sizeof(t);

	if (s->fd < 0 || k->idle_s == 0 || getsockopt(s->fd, IPPROTO_TCP, TCP_INFO, &t, &n) != 0)
		return false;
	return t.tcpi_retransmits + t.tcpi_probes >= MIN_UNANSWERED && t.tcpi_last_ack_recv >= 1000 * ((int64) k->idle_s + (int64) k->interval_s * k->count);
}

/* libpq opens and closes its sockets itself: one number may be another socket now. */
void
px_sock_mask(PxSock *s, uint32 events)
{
	struct epoll_event ev = {.events = events,.data.ptr = s};

	if (epoll_ctl(px.epoll, EPOLL_CTL_MOD, s->fd, &ev) != 0 && epoll_ctl(px.epoll, EPOLL_CTL_ADD, s->fd, &ev) != 0)
		ereport(FATAL, (errcode_for_socket_access(), errmsg("could not watch a socket: %m")));
}

void
px_sock_watch(PxSock *s, bool reading)
{
	if (s->fd < 0)
		return;
	if (reading && !s->reading && s->ssl && SSL_has_pending(s->ssl))
		px_sock_again(s);
	s->reading = reading;
	set_mask(s);
}

/* What TLS has decrypted already makes no event: the loop comes back to it. */
void
px_sock_again(PxSock *s)
{
	if (s->again)
		return;
	if (nagain == again_cap)
	{
		again_cap = again_cap ? again_cap * 2 : 64;
		again = realloc(again, again_cap * sizeof(PxSock *));
		if (again == NULL)
			px_out_of_memory();
	}
	s->again = true;
	again[nagain++] = s;
}

PxSock *
px_sock_next_again(void)
{
	while (nagain > 0)
	{
		PxSock	   *s = again[--nagain];

		if (s == NULL)
			continue;
		s->again = false;
		if (s->fd >= 0)
			return s;
	}
	return NULL;
}

void
px_sock_close(PxSock *s)
{
	if (s->fd < 0)
		return;
	if (s->again)
		for (int i = 0; i < nagain; i++)
			if (again[i] == s)
				again[i] = NULL;
	if (s->ssl)
	{
		SSL_shutdown(s->ssl);	/* says goodbye if it can at once */
		SSL_free(s->ssl);
		ERR_clear_error();
		s->ssl = NULL;
	}
	px_buf_free(&s->out);
	close(s->fd);
	s->fd = -1;
}

/* ---------------------------------------------------------------- buffers */

bool
px_buf_append(PxBuf **buf, const void *data, size_t len)
{
	PxBuf	   *b = *buf;
	uint32		have = b ? b->end - b->start : 0;

	if (len == 0)
		return true;
	if (len > MAX_BUF_BYTES - have)
		return false;
	if (b == NULL || b->cap - b->end < len)
	{
		uint32		cap = Max(256, (uint32) pg_nextpower2_32((uint32) (have + len)));
		PxBuf	   *n = malloc(offsetof(PxBuf, data) + cap);

		if (n == NULL)
			return false;
		n->start = 0;
		n->end = have;
		n->cap = cap;
		if (b)
			memcpy(n->data, b->data + b->start, have);
		free(b);
		*buf = b = n;
	}
	memcpy(b->data + b->end, data, len);
	b->end += len;
	return true;
}

void
px_buf_free(PxBuf **buf)
{
	free(*buf);
	*buf = NULL;
}

/* ---------------------------------------------------------------- reading, writing */

/* 0: not now; -1: the connection is of no more use */
static int
tls_result(PxSock *s, int n)
{
	int			why = SSL_get_error(s->ssl, n);

	ERR_clear_error();
	return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

int
px_sock_read(PxSock *s, uint8 *buf, size_t cap)
{
	ssize_t		n;

	if (s->fd < 0)
		return -1;
	if (s->ssl)
	{
		n = SSL_read(s->ssl, buf, (int) cap);
		if (n <= 0)
			return tls_result(s, (int) n);
		if (SSL_has_pending(s->ssl))
			px_sock_again(s);
		return (int) n;
	}
	do
		n = recv(s->fd, buf, cap, 0);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return (int) n;
	return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : -1;
}

static ssize_t
send_some(PxSock *s, const struct iovec *vec, int n)
{
	struct msghdr m = {.msg_iov = (struct iovec *) vec,.msg_iovlen = n};
	ssize_t		sent;

	if (s->ssl)
	{
		int			done = SSL_write(s->ssl, vec[0].iov_base, (int) vec[0].iov_len);

		return done > 0 ? done : tls_result(s, done);
	}
	do
		sent = n == 1 ? send(s->fd, vec[0].iov_base, vec[0].iov_len, MSG_NOSIGNAL) : sendmsg(s->fd, &m, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent >= 0)
		return sent;
	return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
}

bool
px_sock_flush(PxSock *s)
{
	while (s->out)
	{
		struct iovec v = {s->out->data + s->out->start, s->out->end - s->out->start};
		ssize_t		n = send_some(s, &v, 1);

		if (n < 0)
			return false;
		if (n == 0)
			break;
		s->out->start += n;
		if (s->out->start == s->out->end)
			px_buf_free(&s->out);
	}
	set_mask(s);
	return true;
}

static bool
send_all(PxSock *s, struct iovec *vec, int n)
{
	if (s->fd < 0)
		return false;
	while (n > 0 && s->out == NULL)
	{
		ssize_t		sent = send_some(s, vec, n);

		if (sent < 0)
			return false;
		if (sent == 0)
			break;
		while (n > 0 && sent >= vec->iov_len)
		{
			sent -= vec->iov_len;
			vec++, n--;
		}
		if (n > 0 && sent > 0)
		{
			vec->iov_base = (char *) vec->iov_base + sent;
			vec->iov_len -= sent;
		}
	}
	for (; n > 0; vec++, n--)
		if (!px_buf_append(&s->out, vec->iov_base, vec->iov_len))
		{
			/* bytes are missing: nothing that comes behind them may arrive, and who reads from it finds the end */
			shutdown(s->fd, SHUT_RDWR);
			return false;
		}
	set_mask(s);
	return true;
}

bool
px_sock_send(PxSock *s, const void *data, size_t len)
{
	struct iovec v = {(void *) data, len};

	return send_all(s, &v, 1);
}

bool
px_sock_handshake(PxSock *s, bool *done)
{
	int			n = SSL_accept(s->ssl);

	*done = n == 1;
	return n == 1 || tls_result(s, n) == 0;
}

/* ---------------------------------------------------------------- gathered output; one at a time uses the scratch space */

void
px_out_begin(PxOut *out, PxSock *to)
{
	out->to = to;
	out->n = 0;
	out->scratch_used = 0;
	out->failed = false;
	Assert(!scratch_taken);
	scratch_taken = true;
	out->scratch = scratch;
}

static void
flush_out(PxOut *out)
{
	if (out->n > 0 && !out->failed && !send_all(out->to, out->vec, out->n))
		out->failed = true;
	out->n = 0;
	out->scratch_used = 0;
}

void
px_out_add(PxOut *out, const void *data, size_t len)
{
	struct iovec *last = out->n > 0 ? &out->vec[out->n - 1] : NULL;

	if (len == 0)
		return;
	if (last && (char *) last->iov_base + last->iov_len == (const char *) data)
	{
		last->iov_len += len;
		return;
	}
	if (out->n == PX_OUT_VECS)
		flush_out(out);
	out->vec[out->n].iov_base = (void *) data;
	out->vec[out->n++].iov_len = len;
}

void
px_out_copy(PxOut *out, const void *data, size_t len)
{
	if (len > PX_SCRATCH_BYTES)	/* sent at once: then it need not stay */
	{
		flush_out(out);
		px_out_add(out, data, len);
		flush_out(out);
		return;
	}
	if (out->scratch_used + len > PX_SCRATCH_BYTES || out->n == PX_OUT_VECS)
		flush_out(out);
	memcpy(out->scratch + out->scratch_used, data, len);
	px_out_add(out, out->scratch + out->scratch_used, len);
	out->scratch_used += len;
}

/* Whether the peer takes less than is made for it. */
bool
px_out_full(PxOut *out)
{
	size_t		gathered = 0;

	for (int i = 0; i < out->n; i++)
		gathered += out->vec[i].iov_len;
	if (gathered > MAX_WAITING_BYTES)
		flush_out(out);
	return out->to->out && out->to->out->end - out->to->out->start > MAX_WAITING_BYTES;
}

bool
px_out_end(PxOut *out)
{
	flush_out(out);
	scratch_taken = false;
	return !out->failed;
}
