/*
 * neon_control.c - the control plane's functions, wherever they are called.
 *
 * On the controller they run there; anywhere else they go to neon.controller_connstring, with the credential of this
 * endpoint's tenant.  The setting can be read by superusers only, and these functions are granted to nobody
 * else at first: whoever may call them acts for the whole tenant.
 *
 * The remote session cannot see this session's own uncommitted work: a branch holds what is committed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "neon_pqcall.h"

#define CONTROL_CONNECT_TIMEOUT_MS	10000

PG_FUNCTION_INFO_V1(neon_control);

static const char *
setting_or_empty(const char *name)
{
	const char *v = GetConfigOption(name, true, false);

	return v ? v : "";
}

static Datum
call_here(const char *fn, Datum args, bool *isnull)
{
	Oid			types[2] = {TEXTOID, JSONBOID};
	Datum		values[2] = {CStringGetTextDatum(fn), args};
	MemoryContext caller = CurrentMemoryContext;
	Datum		result = (Datum) 0;

	if (!OidIsValid(get_namespace_oid("neon_controller", true)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server is neither a controller nor an endpoint of one"),
				 errhint("Call it on the controller, or in an endpoint that has neon.controller_connstring set.")));
	SPI_connect();
	if (SPI_execute_with_args("SELECT neon_controller.api($1, $2)", 2, types, values, NULL, false, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "unexpected result of neon_controller.api");
	result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, isnull);
	if (!*isnull)
	{
		MemoryContext old = MemoryContextSwitchTo(caller);

		result = PointerGetDatum(PG_DETOAST_DATUM_COPY(result));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return result;
}

static Datum
call_controller(const char *conninfo, const char *fn, Datum args, bool *isnull)
{
	MemoryContext call = AllocSetContextCreate(CurrentMemoryContext, "controller call", ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(call);
	const char *params[3];
	PGconn	   *conn;
	PGresult   *res;
	Datum		result = (Datum) 0;

	params[0] = fn;
	params[1] = DatumGetCString(DirectFunctionCall1(jsonb_out, args));
	params[2] = setting_or_empty("neon.timeline_id");
	conn = neon_pq_connect(conninfo, "the controller", CONTROL_CONNECT_TIMEOUT_MS);
	res = neon_pq_query(conn, "the controller", "SELECT neon_controller.api($1, $2, $3)", 3, params, 0);
	if (PQntuples(res) != 1)
		elog(ERROR, "unexpected result of neon_controller.api");
	*isnull = PQgetisnull(res, 0, 0);
	if (!*isnull)
	{
		MemoryContextSwitchTo(caller);
		result = DirectFunctionCall1(jsonb_in, CStringGetDatum(PQgetvalue(res, 0, 0)));
	}
	PQclear(res);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(call);
	return result;
}

/* neon_control(fn text, args jsonb) returns jsonb */
Datum
neon_control(PG_FUNCTION_ARGS)
{
	char	   *fn = text_to_cstring(PG_GETARG_TEXT_PP(0));
	const char *conninfo = setting_or_empty("neon.controller_connstring");
	bool		isnull = false;
	Datum		result;

	if (conninfo[0] == '\0')
		result = call_here(fn, PG_GETARG_DATUM(1), &isnull);
	else
		result = call_controller(conninfo, fn, PG_GETARG_DATUM(1), &isnull);
	if (isnull)
		PG_RETURN_NULL();
	return result;
}
