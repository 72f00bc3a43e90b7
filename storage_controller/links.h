/*
 * links.h - connections to other servers that outlive a call (links.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NC_LINKS_H
#define NC_LINKS_H

#include <libpq-fe.h>

typedef struct NcLink NcLink;

typedef enum NcLinkLife
{
	NC_LINK_TRANSACTION,		/* closed when the transaction ends */
	NC_LINK_SESSION
} NcLinkLife;

/*
 * The link to conninfo of that life, made (and set up by the statement `setup`) if there is no good one.  ERROR 08001 when it cannot be made.
 * Who gets an error from what it does with the link closes it before it throws on.
 */
extern NcLink *nc_link(const char *conninfo, const char *who, NcLinkLife life, const char *setup, int timeout_ms);
extern PGconn *nc_link_conn(NcLink *link);
extern void nc_link_close(NcLink *link);

/* A round of the reconciler begins: servers that do not answer are remembered, in the round's memory, and not asked again in it. */
extern void nc_begin_round(MemoryContext round);

#endif							/* NC_LINKS_H */
