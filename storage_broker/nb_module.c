/*
 * nb_module.c - the broker's settings and hooks.
 *
 * The broker lives in whichever instance preloads it: the controller's, or one of its own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "nb.h"
#include "neon_tenant_guard.h"

PG_MODULE_MAGIC;

int			nb_max_entries = NB_MAX_ENTRIES_DEFAULT;
int			nb_max_subscribers = NB_MAX_SUBSCRIBERS_DEFAULT;
int			nb_expire_s = NB_EXPIRE_S_DEFAULT;

static char *database;

/* Nothing here is meant for tenants. */
static const char *const tenant_functions[] = {NULL};

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_broker must be loaded via shared_preload_libraries"),
				 errhint("Add neon_broker to shared_preload_libraries and restart the server.")));
	DefineCustomIntVariable("neon_broker.max_entries",
							"Number of timelines, counted once for each node that has them, that the broker knows of.", NULL,
							&nb_max_entries, NB_MAX_ENTRIES_DEFAULT, NB_MAX_ENTRIES_MIN, NB_MAX_ENTRIES_MAX,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_broker.max_subscribers",
							"Number of subscriptions at the same time.", NULL,
							&nb_max_subscribers, NB_MAX_SUBSCRIBERS_DEFAULT, 1, NB_MAX_SUBSCRIBERS_MAX,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_broker.expire_after",
							"What nobody has published for so long is gone.", NULL,
							&nb_expire_s, NB_EXPIRE_S_DEFAULT, 1, NB_EXPIRE_S_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomStringVariable("neon_broker.database",
							   "Database that has the extension neon_broker.", NULL,
							   &database, "postgres", PGC_POSTMASTER, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("neon_broker");
	nb_table_init();
	neon_tenant_guard_init("neon_broker", tenant_functions, &database);
}
