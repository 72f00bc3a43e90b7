/*
 * remote.c - one statement on another node (neon_remote.c); the module's settings.
 *
 * The connection of remote() lasts until the transaction ends; that of kept(), which is for the many small transactions aside that
 * a session makes in this very instance, as long as the session.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "neon_links.h"
#include "neon_tenant_guard.h"
#include "heartbeat.h"
#include "reconciler.h"

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

/*
 * remote(conninfo, who, sql, VARIADIC args text[]) returns setof jsonb.  When we are cancelled the node shall not go on with it for long;
 * nor shall what runs aside.
 */
Datum
nc_remote(PG_FUNCTION_ARGS)
{
	return neon_remote_rows(fcinfo, NEON_LINK_TRANSACTION, "SET client_connection_check_interval = 1000", connect_timeout_ms, statement_timeout_ms);
}

/* kept(conninfo, who, sql, VARIADIC args text[]) returns setof jsonb */
Datum
nc_kept(PG_FUNCTION_ARGS)
{
	return neon_remote_rows(fcinfo, NEON_LINK_SESSION, "SET application_name = 'neon controller, aside'; SET lock_timeout = 30000;"
							" SET client_connection_check_interval = 1000", connect_timeout_ms, statement_timeout_ms);
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
