/*
 * neon_links.c - connections to other servers that outlive a call, so that an operation does not pay for a new backend at each of its steps.
 *
 * A link lives until the transaction or until the session ends, as its maker has said.  A link is used again only while nothing has
 * come over it unasked and it is in no transaction; after any error it is given up, which also makes the other side stop what it was told
 * (client_connection_check_interval).  There are at most MAX_LINKS; beyond that the one that was used longest ago is closed.
 *
 * Crash rule: none; what a session had asked for ends with its connections.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/ilist.h"
#include "utils/memutils.h"

#include "neon_pqcall.h"
#include "neon_links.h"

#define MAX_LINKS	8
#define MAX_SILENT	1000		/* servers that a round remembers */

struct NeonLink
{
	dlist_node	node;
	MemoryContext context;		/* of the link and its connection: its end closes it */
	PGconn	   *conn;
	NeonLinkLife	life;
	char		conninfo[FLEXIBLE_ARRAY_MEMBER];
};

static dlist_head links = DLIST_STATIC_INIT(links);	/* used last first */
static int	nlinks = 0;

/* What did not answer in this round of a worker, as connection strings: the others that want it do not wait for it again. */
static List *silent = NIL;
static MemoryContext silent_context = NULL;

PGconn *
neon_link_conn(NeonLink *link)
{
	return link->conn;
}

void
neon_link_close(NeonLink *link)
{
	dlist_delete(&link->node);
	nlinks--;
	MemoryContextDelete(link->context);
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	dlist_mutable_iter i;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	dlist_foreach_modify(i, &links)
	{
		NeonLink	   *link = dlist_container(NeonLink, node, i.cur);

		if (link->life == NEON_LINK_TRANSACTION)
			neon_link_close(link);
	}
}

/* The other side may have ended since the last call: what it said then, and the end of the stream, are there to be read. */
static bool
is_good(NeonLink *link)
{
	for (int i = 0; i < 2; i++)
	{
		if (!PQconsumeInput(link->conn))
			return false;
		(void) PQisBusy(link->conn);
	}
	return PQstatus(link->conn) == CONNECTION_OK && PQtransactionStatus(link->conn) == PQTRANS_IDLE;
}

static NeonLink *
find(const char *conninfo, NeonLinkLife life)
{
	dlist_iter	i;

	dlist_foreach(i, &links)
	{
		NeonLink	   *link = dlist_container(NeonLink, node, i.cur);

		if (link->life == life && strcmp(link->conninfo, conninfo) == 0)
			return link;
	}
	return NULL;
}

/* A round begins.  Its memory, and with it what is remembered, is reset by its end. */
void
neon_begin_round(MemoryContext round)
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

static void
refuse_silent(const char *conninfo, const char *who)
{
	ListCell   *lc;

	foreach(lc, silent)
		if (strcmp(lfirst(lc), conninfo) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("%s is not asked again in this round", who),
					 errdetail("It has not answered a moment ago."),
					 errhint("It is tried again later.  Check that it runs and is reachable.")));
}

static PGconn *
connect_to(const char *conninfo, const char *who, const char *setup, int timeout_ms)
{
	PGconn	   *volatile conn = NULL;

	PG_TRY();
	{
		conn = neon_pq_connect(conninfo, who, timeout_ms);
		PQclear(neon_pq_query(conn, who, setup, 0, NULL, timeout_ms));
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

/* An error while connecting leaves nothing: the context hangs below the call's until it is whole. */
static NeonLink *
make(const char *conninfo, const char *who, NeonLinkLife life, const char *setup, int timeout_ms)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "link to another server", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	NeonLink	   *link = palloc0(offsetof(NeonLink, conninfo) + strlen(conninfo) + 1);

	link->context = context;
	link->life = life;
	strcpy(link->conninfo, conninfo);
	link->conn = connect_to(conninfo, who, setup, timeout_ms);
	MemoryContextSwitchTo(old);
	if (nlinks == MAX_LINKS)
		neon_link_close(dlist_tail_element(NeonLink, node, &links));
	MemoryContextSetParent(context, TopMemoryContext);
	dlist_push_head(&links, &link->node);
	nlinks++;
	return link;
}

NeonLink *
neon_link(const char *conninfo, const char *who, NeonLinkLife life, const char *setup, int timeout_ms)
{
	static bool registered = false;
	NeonLink	   *link = find(conninfo, life);

	if (!registered)
		RegisterXactCallback(at_transaction_end, NULL);
	registered = true;
	if (link != NULL && is_good(link))
	{
		dlist_move_head(&links, &link->node);
		return link;
	}
	if (link != NULL)
		neon_link_close(link);
	refuse_silent(conninfo, who);
	return make(conninfo, who, life, setup, timeout_ms);
}
