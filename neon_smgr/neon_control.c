/*
 * neon_control.c - the control plane's functions, wherever they are called.
 *
 * On the controller they run there; anywhere else they go to neon.controller_connstring, with the credential of this
 * endpoint's tenant.  The setting can be read by superusers only, and the SQL functions in front of these run with their
 * owner's rights: whoever is granted one of them does that one thing for the whole tenant.
 *
 * The remote session cannot see this session's own uncommitted work: a branch holds what is committed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "neon_pqcall.h"

#define CONTROL_CONNECT_TIMEOUT_MS	10000

/* views neon_* that neon_list() gives the rows of */
static const char *const lists[] = {"tenants", "branches", "endpoints", "nodes", "operations"};

PG_FUNCTION_INFO_V1(neon_control);
PG_FUNCTION_INFO_V1(neon_list);

static const char *
setting_or_empty(const char *name)
{
	const char *v = GetConfigOption(name, true, false);

	return v ? v : "";
}

/* What this session is connected to: the timeline, and on a static endpoint "@" and its LSN. */
static const char *
here(void)
{
	const char *lsn = setting_or_empty("neon.static_lsn");

	return psprintf("%s%s%s", setting_or_empty("neon.timeline_id"), lsn[0] != '\0' ? "@" : "", lsn);
}

static Datum
call_here(const char *fn, Datum args, bool *isnull)
{
	Oid			types[2] = {TEXTOID, JSONBOID};
	Datum		values[2] = {CStringGetTextDatum(fn), args};
	MemoryContext caller = CurrentMemoryContext;
	Datum		result = (Datum) 0;

	/* The extension, not only a schema of its name: anybody who may create schemas could have made that, and we call into it. */
	if (!OidIsValid(get_extension_oid("neon_controller", true)))
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
	params[2] = here();
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

static Datum
call(const char *fn, Datum args, bool *isnull)
{
	const char *conninfo = setting_or_empty("neon.controller_connstring");

	*isnull = false;
	return conninfo[0] == '\0' ? call_here(fn, args, isnull) : call_controller(conninfo, fn, args, isnull);
}

/* neon_control(fn text, args jsonb) returns jsonb */
Datum
neon_control(PG_FUNCTION_ARGS)
{
	bool		isnull;
	Datum		result = call(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_DATUM(1), &isnull);

	if (isnull)
		PG_RETURN_NULL();
	return result;
}

/*
 * neon_list(what text) returns jsonb: for whoever may read the view neon_<what>.  A function in a view runs with the rights of the
 * view's reader, not its owner's, so the grant on the view is looked at here.
 */
Datum
neon_list(PG_FUNCTION_ARGS)
{
	char	   *what = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *view = psprintf("neon_%s", what);
	Oid			relation = InvalidOid;
	Datum		no_args = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	Oid			user;
	int			context;
	bool		isnull;
	Datum		result;

	for (int i = 0; i < lengthof(lists); i++)
		if (strcmp(what, lists[i]) == 0)
			relation = get_relname_relid(view, get_func_namespace(fcinfo->flinfo->fn_oid));
	if (!OidIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("view \"%s\" does not exist", view),
				 errhint("See \\dv neon_*.")));
	if (pg_class_aclcheck(relation, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, view);
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context | SECURITY_LOCAL_USERID_CHANGE);
	result = call(what, no_args, &isnull);
	SetUserIdAndSecContext(user, context);
	if (isnull)
		PG_RETURN_NULL();
	return result;
}
