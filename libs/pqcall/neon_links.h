/*
 * neon_links.h - connections to other servers that outlive a call (neon_links.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_LINKS_H
#define NEON_LINKS_H

#include <libpq-fe.h>

#include "fmgr.h"

typedef struct NeonLink NeonLink;

typedef enum NeonLinkLife
{
	NEON_LINK_TRANSACTION,		/* closed when the transaction ends */
	NEON_LINK_SESSION
} NeonLinkLife;

/*
 * The link to conninfo of that life, made (and set up by the statement `setup`) if there is no good one.  ERROR 08001 when it cannot be made.
 * Who gets an error from what it does with the link closes it before it throws on.
 */
extern NeonLink *neon_link(const char *conninfo, const char *who, NeonLinkLife life, const char *setup, int timeout_ms);
extern PGconn *neon_link_conn(NeonLink *link);
extern void neon_link_close(NeonLink *link);

/* A round of the reconciler begins: servers that do not answer are remembered, in the round's memory, and not asked again in it. */
extern void neon_begin_round(MemoryContext round);

/*
 * The whole of a strict SQL function (conninfo text, who text, sql text, VARIADIC args text[]) RETURNS SETOF jsonb: one statement over a link, the
 * rows of a SELECT as jsonb (neon_remote.c).
 */
extern Datum neon_remote_rows(FunctionCallInfo fcinfo, NeonLinkLife life, const char *setup, int connect_timeout_ms, int statement_timeout_ms);

#endif							/* NEON_LINKS_H */
