/*
 * query.c - what this host asks of its computes, or of other servers it reaches.
 *
 * query() has a connection of its own and a limit: it is for looks at a compute.  query_rows() is for what a controller wants to know or done
 * inside a compute, several statements one after another: its connection is kept as long as the session, which is the controller's link to this
 * host and so ends with the controller's transaction.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compute_tools.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "neon_links.h"
#include "neon_pqcall.h"

#define CONNECT_MS		10000
#define STATEMENT_MS	600000

PG_FUNCTION_INFO_V1(ct_query);
PG_FUNCTION_INFO_V1(ct_query_rows);

/* query(conninfo, sql, timeout_ms) returns text: the first column of the first row */
Datum
ct_query(PG_FUNCTION_ARGS)
{
	char	   *conninfo = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *sql = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			timeout_ms = PG_GETARG_INT32(2);
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext call = AllocSetContextCreate(caller, "compute query", ALLOCSET_SMALL_SIZES);
	PGresult   *res;
	text	   *result = NULL;

	MemoryContextSwitchTo(call);	/* its deletion closes the connection, also after an error */
	res = neon_pq_query(neon_pq_connect(conninfo, "the compute", timeout_ms), "the compute", sql, 0, NULL, timeout_ms);
	MemoryContextSwitchTo(caller);
	if (PQntuples(res) > 0 && PQnfields(res) > 0 && !PQgetisnull(res, 0, 0))
		result = cstring_to_text(PQgetvalue(res, 0, 0));
	PQclear(res);
	MemoryContextDelete(call);
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(result);
}

/* query_rows(conninfo, who, sql, VARIADIC args text[]) returns setof jsonb */
Datum
ct_query_rows(PG_FUNCTION_ARGS)
{
	return neon_remote_rows(fcinfo, NEON_LINK_SESSION, "SET client_connection_check_interval = 1000", CONNECT_MS, STATEMENT_MS);
}
