/*
 * idle_clients.c - opens COUNT connections, says so on a line, and holds them idle until its input ends.
 *
 *	 idle_clients CONNINFO COUNT
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define AT_ONCE 50				/* that many log in at the same time */

static void
die(PGconn *conn)
{
	fprintf(stderr, "idle_clients: %s", PQerrorMessage(conn));
	exit(1);
}

/* One step of a login; true when it is done. */
static int
step(PGconn *conn, short *events)
{
	switch (PQconnectPoll(conn))
	{
		case PGRES_POLLING_READING:
			*events = POLLIN;
			return 0;
		case PGRES_POLLING_WRITING:
			*events = POLLOUT;
			return 0;
		case PGRES_POLLING_OK:
			return 1;
		default:
			die(conn);
	}
	return 0;
}

int
main(int argc, char **argv)
{
	int			count = argc == 3 ? atoi(argv[2]) : 0;
	struct rlimit files = {count + 100, count + 100};
	PGconn	   *conn[AT_ONCE];
	struct pollfd poll_for[AT_ONCE];
	int			begun = 0;
	int			done = 0;
	int			active = 0;

	if (count <= 0)
		return 2;
	if (setrlimit(RLIMIT_NOFILE, &files) != 0)
		perror("setrlimit");
	while (done < count)
	{
		for (; active < AT_ONCE && begun < count; begun++, active++)
		{
			conn[active] = PQconnectStart(argv[1]);
			if (conn[active] == NULL || PQstatus(conn[active]) == CONNECTION_BAD)
				die(conn[active]);
			poll_for[active] = (struct pollfd) {PQsocket(conn[active]), POLLOUT, 0};
		}
		if (poll(poll_for, active, 60000) <= 0)
		{
			fprintf(stderr, "idle_clients: no answer for a minute, %d of %d are connected\n", done, count);
			return 1;
		}
		for (int i = active - 1; i >= 0; i--)
		{
			if (poll_for[i].revents == 0)
				continue;
			if (step(conn[i], &poll_for[i].events))
			{
				done++;			/* it stays open; its PGconn is not needed any more */
				active--;
				conn[i] = conn[active];
				poll_for[i] = poll_for[active];
			}
			else
				poll_for[i].fd = PQsocket(conn[i]);
		}
	}
	printf("%d connected\n", done);
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
