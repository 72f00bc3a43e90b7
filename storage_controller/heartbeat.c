/*
 * heartbeat.c - one question to each of many servers, all at the same time.
 *
 * A server that is off, cut off or frozen costs the others nothing: everybody has the same neon_controller.heartbeat_timeout, counted from
 * the moment all were asked.  More than MAX_AT_ONCE are asked in several goes.  Nothing is kept: each question has a connection of its
 * own, closed by the reset of the memory context it was made in.  (libpq looks host names up before it returns: nodes are better
 * registered by address.)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/tuplestore.h"

#include <libpq-fe.h>

#include "heartbeat.h"

#define MAX_AT_ONCE				100
#define MIN_TIMEOUT_MS			100
#define DEFAULT_TIMEOUT_MS		3000
#define MAX_TIMEOUT_MS			600000

typedef struct Asked
{
	PGconn	   *conn;
	const char *question;
	bool		connected;
	bool		done;
	uint32		events;			/* what its socket is waited for */
	char	   *answer;
	char	   *error;
} Asked;

static int	timeout_ms = DEFAULT_TIMEOUT_MS;

PG_FUNCTION_INFO_V1(nc_ask_all);

void
nc_heartbeat_init(void)
{
	DefineCustomIntVariable("neon_controller.heartbeat_timeout", "Limit for the nodes' answers to a heartbeat.", NULL,
							&timeout_ms, DEFAULT_TIMEOUT_MS, MIN_TIMEOUT_MS, MAX_TIMEOUT_MS, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

static void
close_connection(void *conn)
{
	PQfinish((PGconn *) conn);
}

static void
ignore_notice(void *arg, const PGresult *res)
{
}

static void
fail(Asked *a, const char *why)
{
	a->error = a->error ? a->error : pchomp(why);
	a->done = true;
}

static void
begin_asking(Asked *a, const char *conninfo, const char *question)
{
	MemoryContextCallback *cb = palloc(sizeof(*cb));

	a->question = question;
	a->events = WL_SOCKET_WRITEABLE;
	a->conn = PQconnectStart(conninfo);
	if (a->conn == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	cb->func = close_connection;
	cb->arg = a->conn;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, cb);
	PQsetNoticeReceiver(a->conn, ignore_notice, NULL);
	if (PQstatus(a->conn) == CONNECTION_BAD)
		fail(a, PQerrorMessage(a->conn));
}

static void
connect_further(Asked *a)
{
	switch (PQconnectPoll(a->conn))
	{
		case PGRES_POLLING_READING:
			a->events = WL_SOCKET_READABLE;
			break;
		case PGRES_POLLING_WRITING:
			a->events = WL_SOCKET_WRITEABLE;
			break;
		case PGRES_POLLING_OK:
			a->connected = true;
			a->events = WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE;
			if (PQsetnonblocking(a->conn, 1) != 0 || !PQsendQuery(a->conn, a->question))
				fail(a, PQerrorMessage(a->conn));
			break;
		default:
			fail(a, PQerrorMessage(a->conn));
	}
}

static void
take_result(Asked *a, PGresult *res)
{
	const char *primary = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

	if (PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1 && PQnfields(res) == 1 && !PQgetisnull(res, 0, 0))
		a->answer = pstrdup(PQgetvalue(res, 0, 0));
	else
		a->error = pstrdup(primary ? primary : "the answer is not one value");
	PQclear(res);
}

static void
ask_further(Asked *a)
{
	int			unsent = PQflush(a->conn);

	a->events = WL_SOCKET_READABLE | (unsent > 0 ? WL_SOCKET_WRITEABLE : 0);
	if (unsent < 0 || !PQconsumeInput(a->conn))
	{
		fail(a, PQerrorMessage(a->conn));
		return;
	}
	while (!a->done && !PQisBusy(a->conn))
	{
		PGresult   *res = PQgetResult(a->conn);

		if (res)
			take_result(a, res);
		else
			a->done = true;
	}
}

/* Waits until something can be done for one of them, at most `left_ms`, and does it.  Interrupts are served while nothing is allocated that an
 * error would leave behind. */
static void
one_round(Asked *asked, int n, long left_ms)
{
	WaitEventSet *set = CreateWaitEventSet(CurrentMemoryContext, n + 2);
	WaitEvent	occurred[MAX_AT_ONCE + 2];
	int			noccurred;

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < n; i++)
		if (!asked[i].done)
			AddWaitEventToSet(set, asked[i].events, PQsocket(asked[i].conn), NULL, &asked[i]);
	noccurred = WaitEventSetWait(set, left_ms, occurred, lengthof(occurred), PG_WAIT_EXTENSION);
	FreeWaitEventSet(set);
	for (int i = 0; i < noccurred; i++)
	{
		Asked	   *a = occurred[i].user_data;

		if (occurred[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		else if (a && a->connected)
			ask_further(a);
		else if (a)
			connect_further(a);
	}
	CHECK_FOR_INTERRUPTS();
}

static int
unanswered(const Asked *asked, int n)
{
	int			left = 0;

	for (int i = 0; i < n; i++)
		left += !asked[i].done;
	return left;
}

static void
ask(Asked *asked, int n)
{
	instr_time	start;			/* the time of day may be turned back */

	INSTR_TIME_SET_CURRENT(start);
	while (unanswered(asked, n) > 0)
	{
		instr_time	now;
		long		left_ms;

		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
		left_ms = timeout_ms - (long) INSTR_TIME_GET_MILLISEC(now);
		if (left_ms <= 0)
			break;
		one_round(asked, n, Min(left_ms, 1000));
	}
	for (int i = 0; i < n; i++)
		if (!asked[i].done)
			fail(&asked[i], psprintf("no answer within %d ms", timeout_ms));
}

static Datum *
texts(FunctionCallInfo fcinfo, int arg, int *n)
{
	Datum	   *elems;
	bool	   *nulls;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, n);
	for (int i = 0; i < *n; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("there is no server or question number %d", i + 1),
					 errhint("Give a connection string and a question for each.")));
	return elems;
}

static void
put(ReturnSetInfo *rsinfo, int number, const Asked *a)
{
	Datum		values[3] = {Int32GetDatum(number)};
	bool		nulls[3] = {false, a->error != NULL, a->error == NULL};

	if (a->error)
		values[2] = CStringGetTextDatum(a->error);
	else
		values[1] = CStringGetTextDatum(a->answer ? a->answer : "");
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* ask_all(conninfos text[], questions text[]) returns setof (number int, answer text, error text), in their order */
Datum
nc_ask_all(PG_FUNCTION_ARGS)
{
	MemoryContext call = AllocSetContextCreate(CurrentMemoryContext, "questions to servers", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	int			n,
				nquestions;
	Datum	   *conninfos;
	Datum	   *questions;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	conninfos = texts(fcinfo, 0, &n);
	questions = texts(fcinfo, 1, &nquestions);
	if (n != nquestions)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%d servers cannot be asked %d questions", n, nquestions),
				 errhint("Give a question for each.")));
	for (int done = 0; done < n; done += MAX_AT_ONCE)
	{
		int			now = Min(n - done, MAX_AT_ONCE);
		Asked	   *asked;

		old = MemoryContextSwitchTo(call);
		asked = palloc0(sizeof(Asked) * now);
		for (int i = 0; i < now; i++)
			begin_asking(&asked[i], TextDatumGetCString(conninfos[done + i]), TextDatumGetCString(questions[done + i]));
		ask(asked, now);
		MemoryContextSwitchTo(old);
		for (int i = 0; i < now; i++)
			put((ReturnSetInfo *) fcinfo->resultinfo, done + i + 1, &asked[i]);
		MemoryContextReset(call);	/* closes the connections */
	}
	MemoryContextDelete(call);
	return (Datum) 0;
}
