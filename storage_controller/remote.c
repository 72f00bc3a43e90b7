/*
 * remote.c - one statement on another node, its rows as jsonb; the module's settings.
 *
 * A SELECT is wrapped so that each row comes back as one jsonb value; anything else is run as it is and gives
 * no rows.  Every call makes a connection of its own: control traffic is rare, and a connection that
 * does not outlive its call cannot be stale.  kept() is the exception: it is for the many small transactions aside that a session makes
 * in this very instance, keeps one connection for them, and gives it up after any error.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/tuplestore.h"

#include "neon_pqcall.h"
#include "neon_tenant_guard.h"
#include "heartbeat.h"
#include "reconciler.h"

/* servers that a round remembers */
#define MAX_SILENT				1000

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(nc_remote);
PG_FUNCTION_INFO_V1(nc_kept);
PG_FUNCTION_INFO_V1(nc_check_setting);

static int	connect_timeout_ms = 10000;
static int	statement_timeout_ms = 600000;
static int	safekeepers_per_timeline = 3;
static int	operations_kept = 10000;
static int	pause_at_step = -1;
static char *operation = NULL;

/* What tenants may call: each acts for the tenant that logged in. */
static const char *const tenant_functions[] = {"api", "console_token", NULL};
static char *const tenant_database = "postgres";

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_controller must be loaded via shared_preload_libraries"),
				 errdetail("Only then are sessions of tenants held to what they may call."),
				 errhint("Add neon_controller to shared_preload_libraries and restart the server.")));
	neon_tenant_guard_init("neon_controller", tenant_functions, &tenant_database);
	DefineCustomIntVariable("neon_controller.connect_timeout", "Limit for connecting to a node.", NULL,
							&connect_timeout_ms, 10000, 100, 600000, PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_controller.statement_timeout", "Limit for one statement on a node.", NULL,
							&statement_timeout_ms, 600000, 100, 86400000, PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_controller.safekeepers_per_timeline", "Safekeepers of a new timeline.", NULL,
							&safekeepers_per_timeline, 3, 1, 9, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_controller.operations_kept", "Number of operations that neon_operations remembers.", NULL,
							&operations_kept, 10000, 100, INT_MAX, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_controller.pause_at_step", "For tests: operations of this session wait at this step, 0 at their end.", NULL,
							&pause_at_step, -1, -1, 1000, PGC_SUSET, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomStringVariable("neon_controller.operation", "The operation that the current transaction is performing.",
							   "It is set by the controller's own functions.",
							   &operation, "", PGC_SUSET, GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE | GUC_NO_RESET_ALL, NULL, NULL, NULL);
	nc_heartbeat_init();
	nc_reconciler_init();
}

/* A connection that lives in `context`. */
static PGconn *
connect_to(const char *conninfo, const char *who, MemoryContext context, const char *setup)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	PGconn	   *conn = neon_pq_connect(conninfo, who, connect_timeout_ms);

	PQclear(neon_pq_query(conn, who, setup, 0, NULL, connect_timeout_ms));
	MemoryContextSwitchTo(old);
	return conn;
}

static const char **
text_array(Datum array, int *n)
{
	Datum	   *elems;
	bool	   *nulls;
	const char **args;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, n);
	args = palloc0(sizeof(char *) * (*n + 1));
	for (int i = 0; i < *n; i++)
		args[i] = nulls[i] ? NULL : TextDatumGetCString(elems[i]);
	return args;
}

/* The statement and arguments of remote() and kept(): its rows go into the call's tuplestore. */
static void
run(PGconn *conn, const char *who, FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *sql = text_to_cstring(PG_GETARG_TEXT_PP(2));
	int			nargs;
	const char **args = text_array(PG_GETARG_DATUM(3), &nargs);
	PGresult   *res;

	if (pg_strncasecmp(sql, "SELECT", 6) == 0)
		sql = psprintf("SELECT pg_catalog.to_jsonb(q) FROM (%s) q", sql);
	res = neon_pq_query(conn, who, sql, nargs, args, statement_timeout_ms);
	for (int i = 0; PQresultStatus(res) == PGRES_TUPLES_OK && PQnfields(res) == 1 && i < PQntuples(res); i++)
	{
		Datum		value = DirectFunctionCall1(jsonb_in, CStringGetDatum(PQgetvalue(res, i, 0)));
		bool		null = false;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &null);
	}
	PQclear(res);
}

/* What did not answer in this round of the reconciler, as connection strings: the others that want it do not wait for it again. */
static List *silent = NIL;
static MemoryContext silent_context = NULL;

/* A round begins.  Its memory, and with it what is remembered, is reset by its end. */
void
nc_begin_round(MemoryContext round)
{
	silent = NIL;
	silent_context = round;
}

static void
remember_silent(const char *conninfo)
{
	MemoryContext old;

	if (silent_context == NULL || list_length(silent) >= MAX_SILENT)
		return;
	old = MemoryContextSwitchTo(silent_context);
	silent = lappend(silent, pstrdup(conninfo));
	MemoryContextSwitchTo(old);
}

static PGconn *
connect_unless_silent(const char *conninfo, const char *who, MemoryContext context, const char *setup)
{
	PGconn	   *volatile conn = NULL;
	ListCell   *lc;

	foreach(lc, silent)
		if (strcmp(lfirst(lc), conninfo) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("%s is not asked again in this round", who),
					 errdetail("It has not answered a moment ago."),
					 errhint("It is tried again later.  Check that it runs and is reachable.")));
	PG_TRY();
	{
		conn = connect_to(conninfo, who, context, setup);
	}
	PG_CATCH();
	{
		if (geterrcode() == ERRCODE_CONNECTION_FAILURE)		/* the time was up; a connection that is refused costs nothing */
			remember_silent(conninfo);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return conn;
}

/* remote(conninfo, who, sql, VARIADIC args text[]) returns setof jsonb */
Datum
nc_remote(PG_FUNCTION_ARGS)
{
	MemoryContext call = AllocSetContextCreate(CurrentMemoryContext, "remote call", ALLOCSET_SMALL_SIZES);
	MemoryContext old;
	char	   *who;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	old = MemoryContextSwitchTo(call);	/* its end closes the connection, also after an error */
	who = text_to_cstring(PG_GETARG_TEXT_PP(1));
	/* When we are cancelled the node shall not go on with it for long; nor shall what runs aside, below. */
	run(connect_unless_silent(text_to_cstring(PG_GETARG_TEXT_PP(0)), who, call, "SET client_connection_check_interval = 1000"), who, fcinfo);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(call);
	return (Datum) 0;
}

static MemoryContext kept_context;
static PGconn *kept_conn;
static char *kept_conninfo;

static void
forget_kept(void)
{
	if (kept_context)
		MemoryContextDelete(kept_context);	/* closes it */
	kept_context = NULL;
	kept_conn = NULL;
}

/* The other side may have ended since the last call: what it said then, and the end of the stream, are there to be read. */
static bool
kept_is_good(const char *conninfo)
{
	if (kept_conn == NULL || strcmp(conninfo, kept_conninfo) != 0)
		return false;
	for (int i = 0; i < 2; i++)
	{
		if (!PQconsumeInput(kept_conn))
			return false;
		(void) PQisBusy(kept_conn);
	}
	return PQstatus(kept_conn) == CONNECTION_OK && PQtransactionStatus(kept_conn) == PQTRANS_IDLE;
}

/* kept(conninfo, who, sql, VARIADIC args text[]) returns setof jsonb */
Datum
nc_kept(PG_FUNCTION_ARGS)
{
	MemoryContext call = AllocSetContextCreate(CurrentMemoryContext, "call aside", ALLOCSET_SMALL_SIZES);
	MemoryContext old;
	char	   *conninfo;
	char	   *who;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	old = MemoryContextSwitchTo(call);
	conninfo = text_to_cstring(PG_GETARG_TEXT_PP(0));
	who = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!kept_is_good(conninfo))
		forget_kept();
	PG_TRY();
	{
		if (kept_conn == NULL)
		{
			kept_context = AllocSetContextCreate(TopMemoryContext, "kept connection", ALLOCSET_SMALL_SIZES);
			kept_conninfo = MemoryContextStrdup(kept_context, conninfo);
			kept_conn = connect_to(conninfo, who, kept_context, "SET application_name = 'neon controller, aside'; SET lock_timeout = 30000;"
								   " SET client_connection_check_interval = 1000");
		}
		run(kept_conn, who, fcinfo);
	}
	PG_CATCH();
	{
		forget_kept();
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(call);
	return (Datum) 0;
}

/* check_setting(name, value): as ALTER SYSTEM checks, and nothing is changed.  Settings of modules are left to the server that has them. */
Datum
nc_check_setting(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *value = text_to_cstring(PG_GETARG_TEXT_PP(1));

	if (strpbrk(value, "\n\r") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the value of setting \"%s\" has more than one line", name),
				 errhint("Write it in one.")));
	if (strchr(name, '.') != NULL)
		PG_RETURN_VOID();
	if (GetConfigOption(name, true, false) == NULL && GetConfigOptionByName(name, NULL, true) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("unrecognized configuration parameter \"%s\"", name),
				 errhint("See pg_settings for those there are.")));
	if (GetConfigOptionFlags(name, true) & (GUC_DISALLOW_IN_FILE | GUC_DISALLOW_IN_AUTO_FILE))
		ereport(ERROR,
				(errcode(ERRCODE_CANT_CHANGE_RUNTIME_PARAM),
				 errmsg("setting \"%s\" cannot be set for a server", name),
				 errhint("Set it in sessions.")));
	(void) set_config_option(name, value, PGC_POSTMASTER, PGC_S_FILE, GUC_ACTION_SET, false, ERROR, false);
	PG_RETURN_VOID();
}
