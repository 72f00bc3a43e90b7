/*
 * proxy_listen.c - the sockets that the postmaster opens and its workers inherit.
 *
 * TCP: one listening socket for each worker and address (SO_REUSEPORT), so that the kernel spreads connections evenly.  All are
 * opened by the postmaster and stay open while a worker that died is started anew: its connections wait.  A worker that is told to stop
 * takes what has come and ends the listening of its own, so that the kernel sends clients elsewhere; when it comes back it listens again.
 * The first socket is bound without SO_REUSEPORT beforehand, because two servers of one user could otherwise share a port without
 * noticing; neon_proxy.share_port says that they shall, and that a stop waits for all clients: the other server has the new ones.
 * The unix socket is one for all workers.  Messages between workers travel over a socket pair for each.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#include "proxy_listen.h"
#include "proxy_settings.h"

#define BACKLOG 4096

static int	addresses;
static int	tcp_fd[PX_MAX_WORKERS][PX_MAX_ADDRESSES];
static int	unix_fd = -1;
static char unix_path[sizeof(((struct sockaddr_un *) 0)->sun_path)];
static int	box[PX_MAX_WORKERS][2];

static void
fail(const char *what, const char *address)
{
	ereport(FATAL,
			(errcode_for_socket_access(),
			 errmsg("%s for proxy clients on \"%s\", port %d: %m", what, address, px_port),
			 errhint("Is another server on that port? Otherwise set neon_proxy.listen_addresses and neon_proxy.port.")));
}

static int
bind_one(const struct addrinfo *a, const char *name, bool shared)
{
	int			one = 1;
	int			fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail("could not create a socket", name);
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
		(shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) != 0))
		fail("could not set socket options", name);
	if (a->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, a->ai_addr, a->ai_addrlen) != 0)
		fail("could not bind", name);
	if (listen(fd, BACKLOG) != 0)
		fail("could not listen", name);
	return fd;
}

static void
open_address(const char *name)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC,.ai_socktype = SOCK_STREAM,.ai_flags = AI_PASSIVE};
	struct addrinfo *list;
	char		port[16];
	int			rc;

	snprintf(port, sizeof(port), "%d", px_port);
	rc = getaddrinfo(strcmp(name, "*") == 0 ? NULL : name, port, &hints, &list);
	if (rc != 0)
		ereport(FATAL,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("could not resolve \"%s\" in neon_proxy.listen_addresses: %s", name, gai_strerror(rc))));
	for (struct addrinfo *a = list; a; a = a->ai_next)
	{
		if (a->ai_family != AF_INET && a->ai_family != AF_INET6)
			continue;
		if (addresses == PX_MAX_ADDRESSES)
			ereport(FATAL,
					(errcode(ERRCODE_CONFIG_FILE_ERROR),
					 errmsg("neon_proxy.listen_addresses names more than %d addresses", PX_MAX_ADDRESSES)));
		if (!px_share_port)
			close(bind_one(a, name, false));	/* nobody else may have it */
		for (int w = 0; w < px_workers; w++)
			tcp_fd[w][addresses] = bind_one(a, name, true);
		addresses++;
	}
	freeaddrinfo(list);
}

static void
remove_socket(int code, Datum arg)
{
	if (MyProcPid == PostmasterPid)
		unlink(unix_path);
}

/* Whether somebody answers at the socket's path: one that was left behind is removed. */
static bool
socket_in_use(const struct sockaddr_un *addr)
{
	int			fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	bool		used = connect(fd, (const struct sockaddr *) addr, sizeof(*addr)) == 0 || errno == EAGAIN;

	close(fd);
	return used;
}

static void
open_unix(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	if (snprintf(unix_path, sizeof(unix_path), "%s/.s.PGSQL.%d", px_socket_directory, px_port) >= sizeof(unix_path))
		ereport(FATAL,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("neon_proxy.socket_directory is too long: \"%s\"", px_socket_directory)));
	strlcpy(addr.sun_path, unix_path, sizeof(addr.sun_path));
	if (socket_in_use(&addr))
	{
		errno = EADDRINUSE;
		fail("could not bind", unix_path);
	}
	unlink(unix_path);
	unix_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (unix_fd < 0 || bind(unix_fd, (struct sockaddr *) &addr, sizeof(addr)) != 0 || chmod(unix_path, 0770) != 0 ||
		listen(unix_fd, BACKLOG) != 0)
		fail("could not listen", unix_path);
	on_proc_exit(remove_socket, 0);
}

void
px_listen_open(void)
{
	List	   *names;
	ListCell   *l;
	char	   *copy = pstrdup(px_listen_addresses);
	static bool opened = false;

	if (opened)					/* after a crash of a worker the postmaster still has them */
		return;
	opened = true;
	if (!SplitGUCList(copy, ',', &names))
		ereport(FATAL,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("invalid list in neon_proxy.listen_addresses: \"%s\"", px_listen_addresses)));
	foreach(l, names)
		open_address(lfirst(l));
	if (px_socket_directory[0] != '\0')
		open_unix();
	for (int w = 0; w < px_workers; w++)
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, box[w]) != 0)
			ereport(FATAL, (errcode_for_socket_access(), errmsg("could not create a socket pair: %m")));
}

int
px_listen_take(int worker, int fds[PX_MAX_ADDRESSES + 1], bool is_unix[PX_MAX_ADDRESSES + 1])
{
	int			n = 0;

	for (int w = 0; w < px_workers; w++)
		for (int i = 0; i < addresses; i++)
		{
			if (w != worker)
				close(tcp_fd[w][i]);
			else
			{
				is_unix[n] = false;
				fds[n++] = tcp_fd[w][i];
				if (listen(tcp_fd[w][i], BACKLOG) != 0) /* it may have been ended */
					ereport(FATAL, (errcode_for_socket_access(), errmsg("could not listen on port %d: %m", px_port)));
			}
		}
	if (unix_fd >= 0)
	{
		is_unix[n] = true;
		fds[n++] = unix_fd;
	}
	return n;
}

int
px_inbox(int worker)
{
	return box[worker][0];
}

int
px_outbox(int worker)
{
	return box[worker][1];
}
