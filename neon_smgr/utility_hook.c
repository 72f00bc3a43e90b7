/*
 * utility_hook.c - commands that would go round the storage manager: refused, or done the way that goes through it.
 *
 * CREATE DATABASE copies files with STRATEGY FILE_COPY and pages, through WAL, with WAL_LOG: the latter is made the default
 * and the former refused.  Tablespaces are directories of the local machine: refused.  DROP DATABASE removes a directory and
 * tells no storage manager: what we hold of it is purged afterwards.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/builtins.h"

#include "neon_smgr.h"
#include "pagestore.h"

static ProcessUtility_hook_type prev_utility;

static void
refuse_tablespace(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("tablespaces are not supported"),
			 errdetail("The pages of this database are not in local files."),
			 errhint("Use pg_default, which is as large as storage is.")));
}

static bool
is_foreign_tablespace(DefElem *option)
{
	return strcmp(option->defname, "tablespace") == 0 && option->arg != NULL &&
		strcmp(defGetString(option), "pg_default") != 0 && strcmp(defGetString(option), "default") != 0;
}

/* The same statement with STRATEGY WAL_LOG. */
static PlannedStmt *
create_database_by_wal(PlannedStmt *pstmt)
{
	CreatedbStmt *stmt;
	ListCell   *lc;

	pstmt = copyObject(pstmt);
	stmt = (CreatedbStmt *) pstmt->utilityStmt;
	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst(lc);

		if (is_foreign_tablespace(option))
			refuse_tablespace();
		if (strcmp(option->defname, "strategy") == 0)
		{
			if (option->arg != NULL && pg_strcasecmp(defGetString(option), "file_copy") == 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("CREATE DATABASE with STRATEGY FILE_COPY is not supported"),
						 errdetail("There are no files to copy."),
						 errhint("Use STRATEGY WAL_LOG, which is the default here.")));
			return pstmt;
		}
	}
	stmt->options = lappend(stmt->options, makeDefElem("strategy", (Node *) makeString("wal_log"), -1));
	return pstmt;
}

static void
neon_ProcessUtility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree, ProcessUtilityContext context,
					ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	Oid			dropped = InvalidOid;

	if (IsA(stmt, CreatedbStmt))
		pstmt = create_database_by_wal(pstmt);
	else if (IsA(stmt, CreateTableSpaceStmt))
		refuse_tablespace();
	else if (IsA(stmt, AlterDatabaseStmt))
	{
		ListCell   *lc;

		foreach(lc, ((AlterDatabaseStmt *) stmt)->options)
			if (is_foreign_tablespace(lfirst(lc)))
				refuse_tablespace();
	}
	else if (IsA(stmt, DropdbStmt))
		dropped = get_database_oid(((DropdbStmt *) stmt)->dbname, true);

	if (prev_utility)
		prev_utility(pstmt, query_string, read_only_tree, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query_string, read_only_tree, context, params, env, dest, qc);

	if (OidIsValid(dropped))
		pagestore_drop_database(dropped);
}

void
utility_hook_install(void)
{
	prev_utility = ProcessUtility_hook;
	ProcessUtility_hook = neon_ProcessUtility;
}
