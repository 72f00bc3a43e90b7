/*
 * px_storm.c - many clients of the proxy at once, in one process: libpq connections that never block.
 *
 *	   px_storm URI N QUERY [HOLD_SECONDS [AT_A_TIME]]
 *
 * Opens N connections, at most AT_A_TIME (default: all) not yet through at a time, runs QUERY on each (nothing when it is empty), prints
 * "ok=N failed=N" and the first error; with HOLD_SECONDS it prints that line, keeps the connections, and after that time runs the query
 * on each again, counting the same way.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <libpq-fe.h>

enum State { NEW, CONNECTING, ASKING, DONE, FAILED };

struct client
{
	PGconn	   *conn;
	enum State	state;
	bool		writing;
};

static struct client *clients;
static struct pollfd *fds;
static int	n;
static const char *uri;
static const char *query;
static char first_error[512];

static void
failed(struct client *c, const char *why)
{
	if (first_error[0] == '\0')
		snprintf(first_error, sizeof(first_error), "%s", why);
	c->state = FAILED;
	PQfinish(c->conn);
	c->conn = NULL;
}

static void
ask(struct client *c)
{
	if (query[0] == '\0')
	{
		c->state = DONE;
		return;
	}
	c->state = ASKING;
	if (!PQsendQuery(c->conn, query))
		failed(c, PQerrorMessage(c->conn));
}

static void
begin(struct client *c)
{
	c->conn = PQconnectStart(uri);
	c->state = CONNECTING;
	c->writing = true;
	if (c->conn == NULL || PQstatus(c->conn) == CONNECTION_BAD)
		failed(c, PQerrorMessage(c->conn));
}

static void
answer(struct client *c)
{
	PGresult   *r;

	if (!PQconsumeInput(c->conn))
	{
		failed(c, PQerrorMessage(c->conn));
		return;
	}
	while (!PQisBusy(c->conn))
	{
		r = PQgetResult(c->conn);
		if (r == NULL)
		{
			c->state = DONE;
			return;
		}
		if (PQresultStatus(r) != PGRES_TUPLES_OK && PQresultStatus(r) != PGRES_COMMAND_OK)
		{
			failed(c, PQresultErrorMessage(r));
			PQclear(r);
			return;
		}
		PQclear(r);
	}
}

static void
step(struct client *c)
{
	if (c->state == CONNECTING)
		switch (PQconnectPoll(c->conn))
		{
			case PGRES_POLLING_OK:
				ask(c);
				break;
			case PGRES_POLLING_FAILED:
				failed(c, PQerrorMessage(c->conn));
				break;
			case PGRES_POLLING_READING:
				c->writing = false;
				break;
			default:
				c->writing = true;
		}
	else
		answer(c);
}

/* false: all are through, or the time is over */
static bool
round_of(int at_a_time, time_t end)
{
	int			busy = 0;
	int			left = 0;

	for (int i = 0; i < n; i++)
		busy += clients[i].state == CONNECTING || clients[i].state == ASKING;
	for (int i = 0; i < n && busy < at_a_time; i++)
		if (clients[i].state == NEW)
		{
			begin(&clients[i]);
			busy++;
		}
	for (int i = 0; i < n; i++)
	{
		struct client *c = &clients[i];
		bool		wait = c->state == CONNECTING || c->state == ASKING;

		left += wait || c->state == NEW;
		fds[i].fd = wait ? PQsocket(c->conn) : -1;
		fds[i].events = c->state == CONNECTING && c->writing ? POLLOUT : POLLIN;
		fds[i].revents = 0;
	}
	if (left == 0 || time(NULL) > end)
		return false;
	poll(fds, n, 1000);
	for (int i = 0; i < n; i++)
		if (fds[i].fd >= 0 && fds[i].revents)
			step(&clients[i]);
	return true;
}

static int
report(void)
{
	int			ok = 0;

	for (int i = 0; i < n; i++)
		ok += clients[i].state == DONE;
	printf("ok=%d failed=%d %s\n", ok, n - ok, first_error);
	fflush(stdout);
	return ok == n;
}

int
main(int argc, char **argv)
{
	struct rlimit r;
	int			hold = argc > 4 ? atoi(argv[4]) : -1;
	int			ok;

	if (argc < 4)
		return 2;
	uri = argv[1];
	n = atoi(argv[2]);
	query = argv[3];
	getrlimit(RLIMIT_NOFILE, &r);
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
	clients = calloc(n, sizeof(*clients));
	fds = calloc(n, sizeof(*fds));
	while (round_of(argc > 5 ? atoi(argv[5]) : n, time(NULL) + 300))
		;
	ok = report();
	if (hold >= 0)
	{
		sleep(hold);
		for (int i = 0; i < n; i++)
			if (clients[i].state == DONE)
				ask(&clients[i]);
		while (round_of(n, time(NULL) + 300))
			;
		ok = report();
	}
	return ok ? 0 : 1;
}
