/*
 * neon_remote.c - one statement on another server, its rows as jsonb: what SQL functions of components are made of.
 *
 * A SELECT is wrapped so that each row comes back as one jsonb value; anything else is run as it is and gives no rows.  After an error the link
 * is given up.
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
#include "utils/jsonb.h"
#include "utils/tuplestore.h"

#include "neon_pqcall.h"
#include "neon_links.h"

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

/* The statement and its arguments: the rows go into the call's tuplestore. */
static void
run(PGconn *conn, const char *who, FunctionCallInfo fcinfo, int timeout_ms)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *sql = text_to_cstring(PG_GETARG_TEXT_PP(2));
	int			nargs;
	const char **args = text_array(PG_GETARG_DATUM(3), &nargs);
	PGresult   *res;

	if (pg_strncasecmp(sql, "SELECT", 6) == 0)
		sql = psprintf("SELECT pg_catalog.to_jsonb(q) FROM (%s) q", sql);
	res = neon_pq_query(conn, who, sql, nargs, args, timeout_ms);
	for (int i = 0; PQresultStatus(res) == PGRES_TUPLES_OK && PQnfields(res) == 1 && i < PQntuples(res); i++)
	{
		Datum		value = DirectFunctionCall1(jsonb_in, CStringGetDatum(PQgetvalue(res, i, 0)));
		bool		null = false;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &null);
	}
	PQclear(res);
}

Datum
neon_remote_rows(FunctionCallInfo fcinfo, NeonLinkLife life, const char *setup, int connect_timeout_ms, int statement_timeout_ms)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "remote call", ALLOCSET_SMALL_SIZES);
	MemoryContext old;
	char	   *who;
	NeonLink   *link;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	old = MemoryContextSwitchTo(context);
	who = text_to_cstring(PG_GETARG_TEXT_PP(1));
	link = neon_link(text_to_cstring(PG_GETARG_TEXT_PP(0)), who, life, setup, connect_timeout_ms);
	PG_TRY();
	{
		run(neon_link_conn(link), who, fcinfo, statement_timeout_ms);
	}
	PG_CATCH();
	{
		neon_link_close(link);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return (Datum) 0;
}
