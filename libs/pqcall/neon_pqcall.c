/*
 * neon_pqcall.c - see neon_pqcall.h.
 *
 * libpq's blocking calls would hide a cancel request and a postmaster's death for as long as the network
 * likes, so only its asynchronous half is used, and all waiting is done on our own latch.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/startup.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "neon_pqcall.h"

/* libpq would print notices to stderr. */
static void
ignore_notice(void *arg, const PGresult *res)
{
}

static void
close_connection(void *conn)
{
	PQfinish((PGconn *) conn);
}

/* Wait for the socket, the latch or the limit; interrupts are served. */
static void
wait_socket(PGconn *conn, const char *who, int events, TimestampTz start, int timeout_ms)
{
	long		left_ms = 1000;

	if (timeout_ms > 0)
	{
		left_ms = timeout_ms - (GetCurrentTimestamp() - start) / 1000;
		if (left_ms <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("%s did not answer within %d ms", who, timeout_ms),
					 errhint("Check that it runs and is reachable.")));
	}
	(void) WaitLatchOrSocket(MyLatch,
							 events | WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 PQsocket(conn), Min(left_ms, 1000), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (AmStartupProcess())		/* it is told to stop in a way of its own */
		HandleStartupProcInterrupts();
}

PGconn *
neon_pq_connect(const char *conninfo, const char *who, int timeout_ms)
{
	TimestampTz start = GetCurrentTimestamp();
	PGconn	   *conn = PQconnectStart(conninfo);
	MemoryContextCallback *cb;
	PostgresPollingStatusType poll = PGRES_POLLING_WRITING;

	if (conn == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	cb = palloc(sizeof(*cb));
	cb->func = close_connection;
	cb->arg = conn;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, cb);
	PQsetNoticeReceiver(conn, ignore_notice, NULL);

	while (PQstatus(conn) != CONNECTION_BAD && poll != PGRES_POLLING_OK && poll != PGRES_POLLING_FAILED)
	{
		wait_socket(conn, who, poll == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE,
					start, timeout_ms);
		poll = PQconnectPoll(conn);
	}
	if (PQstatus(conn) != CONNECTION_OK)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to %s", who),
				 errdetail_internal("%s", pchomp(PQerrorMessage(conn))),
				 errhint("Check that it runs and that its connection string is right.")));
	return conn;
}

/*
 * Throw the remote error here, as if it had happened here.  Two codes keep their meaning for this session alone: no EXCEPTION WHEN OTHERS
 * catches them, and what a server that we ask says must not end whoever goes on when one of them fails.
 */
static void
rethrow(PGconn *conn, PGresult *res, const char *who)
{
	const char *sqlstate = res ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
	const char *primary = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY) : NULL;
	const char *detail = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL) : NULL;
	const char *hint = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_HINT) : NULL;
	int			code = ERRCODE_CONNECTION_FAILURE;

	if (sqlstate && strlen(sqlstate) == 5)
		code = MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2], sqlstate[3], sqlstate[4]);
	if (code == ERRCODE_QUERY_CANCELED || code == ERRCODE_ASSERT_FAILURE)
		code = ERRCODE_OPERATOR_INTERVENTION;
	primary = pstrdup(primary ? primary : pchomp(PQerrorMessage(conn)));
	detail = detail ? pstrdup(detail) : NULL;
	hint = hint ? pstrdup(hint) : NULL;
	PQclear(res);
	ereport(ERROR,
			(errcode(code),
			 errmsg_internal("%s", primary[0] ? primary : "connection lost"),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 errcontext("statement sent to %s", who)));
}

static PGresult *
wait_result(PGconn *conn, const char *who, TimestampTz start, int timeout_ms)
{
	while (PQisBusy(conn))
	{
		wait_socket(conn, who, WL_SOCKET_READABLE, start, timeout_ms);
		if (!PQconsumeInput(conn))
			rethrow(conn, NULL, who);
	}
	return PQgetResult(conn);
}

static void
flush_output(PGconn *conn, const char *who, TimestampTz start, int timeout_ms)
{
	int			r;

	while ((r = PQflush(conn)) > 0)
	{
		wait_socket(conn, who, WL_SOCKET_WRITEABLE | WL_SOCKET_READABLE, start, timeout_ms);
		if (!PQconsumeInput(conn))
			rethrow(conn, NULL, who);
	}
	if (r < 0)
		rethrow(conn, NULL, who);
}

PGresult *
neon_pq_query(PGconn *conn, const char *who, const char *sql,
			  int nparams, const char *const *params, int timeout_ms)
{
	TimestampTz start = GetCurrentTimestamp();
	PGresult   *res,
			   *last = NULL;
	int			ok;

	/* CALL of a streaming procedure must go through the simple protocol. */
	ok = nparams == 0 ? PQsendQuery(conn, sql) : PQsendQueryParams(conn, sql, nparams, NULL, params, NULL, NULL, 0);
	if (!ok)
		rethrow(conn, NULL, who);
	flush_output(conn, who, start, timeout_ms);
	while ((res = wait_result(conn, who, start, timeout_ms)) != NULL)
	{
		ExecStatusType st = PQresultStatus(res);

		PQclear(last);
		last = NULL;
		if (st == PGRES_COPY_BOTH || st == PGRES_COPY_OUT || st == PGRES_COPY_IN)
			return res;
		if (st != PGRES_COMMAND_OK && st != PGRES_TUPLES_OK)
			rethrow(conn, res, who);
		last = res;
	}
	if (last == NULL)
		rethrow(conn, NULL, who);
	return last;
}

char *
neon_pq_get_copy(PGconn *conn, const char *who, int *len, int timeout_ms)
{
	TimestampTz start = GetCurrentTimestamp();
	char	   *buf;

	for (;;)
	{
		int			n = PQgetCopyData(conn, &buf, 1);

		if (n > 0)
		{
			*len = n;
			return buf;
		}
		if (n == -1)
			return NULL;
		if (n < 0)
			rethrow(conn, NULL, who);
		wait_socket(conn, who, WL_SOCKET_READABLE, start, timeout_ms);
		if (!PQconsumeInput(conn))
			rethrow(conn, NULL, who);
	}
}

void
neon_pq_finish_copy(PGconn *conn, const char *who, int timeout_ms)
{
	TimestampTz start = GetCurrentTimestamp();
	PGresult   *res;

	/* In COPY BOTH our own side is still open when the server has ended; closing a closed side is an error we do not mind. */
	(void) PQputCopyEnd(conn, NULL);
	(void) PQflush(conn);
	while ((res = wait_result(conn, who, start, timeout_ms)) != NULL)
	{
		ExecStatusType st = PQresultStatus(res);

		if (st == PGRES_COPY_BOTH || st == PGRES_COPY_IN)
		{
			PQclear(res);
			(void) PQputCopyEnd(conn, NULL);
			(void) PQflush(conn);
			continue;
		}
		if (st != PGRES_COMMAND_OK && st != PGRES_TUPLES_OK)
			rethrow(conn, res, who);
		PQclear(res);
	}
}
