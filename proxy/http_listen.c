/*
 * http_listen.c - the listening sockets of the HTTP worker.
 *
 * Sockets are accepted here and handed to libwebsockets, so that their number has a limit; one too many gets a 503 and is closed.
 *
 * Invariant: ht_worker.connections is the number of accepted sockets that libwebsockets has not destroyed (ht_connection_destroyed()).
 *
 * Bounds: MAX_SOCKETS addresses, neon_proxy.http_max_connections, ACCEPTS_AT_ONCE before other events have their turn.  When the process is
 * killed its sockets go with it, and the next one binds them again.
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

#include "http_request.h"

#define MAX_SOCKETS 16
#define BACKLOG 1024
#define ACCEPTS_AT_ONCE 32

static uv_poll_t listener[MAX_SOCKETS];
static int	listeners;
static struct lws_vhost *vhost;
static char our_connection;		/* its address marks connections that are counted */

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
		{
			/* no file is free: the socket would call for it at once again */
			if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
				uv_poll_stop(handle);
			return;
		}
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

/* Those that rested while no file was free. */
void
ht_listen_tick(void)
{
	for (int i = 0; i < listeners; i++)
		if (!uv_is_active((uv_handle_t *) &listener[i]))
			uv_poll_start(&listener[i], UV_READABLE, on_accept);
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

void
ht_listen(struct lws_vhost *host)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC,.ai_socktype = SOCK_STREAM,.ai_flags = AI_PASSIVE};
	List	   *names;
	ListCell   *l;
	char		port[16];

	vhost = host;
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
ht_connection_destroyed(struct lws *wsi)
{
	if (lws_get_opaque_user_data(wsi) == &our_connection)
		ht_worker.connections--;
}
