/*
 * utility_hook.c - commands that would go round the storage manager: refused, or done the way that goes through it.
 *
 * CREATE DATABASE copies files with STRATEGY FILE_COPY and pages, through WAL, with WAL_LOG: the latter is made the default
 * and the former refused.  Tablespaces are directories of the local machine: refused.  DROP DATABASE, and a CREATE DATABASE
 * that fails, remove a directory and tell no storage manager: what we hold of it is purged afterwards.  Which database it is
 * says the server's object access hook, since a name could mean another one until the command has locked it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "catalog/objectaccess.h"
#include "catalog/pg_database_d.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/builtins.h"

#include "neon_smgr.h"
#include "pagestore.h"

static ProcessUtility_hook_type prev_utility;
static object_access_hook_type prev_object_access;

/* What the running CREATE or DROP DATABASE is about, as soon as it knows. */
static Oid	database_at_hand;

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
note_database(ObjectAccessType access, Oid class, Oid object, int sub, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class, object, sub, arg);
	if (class == DatabaseRelationId && (access == OAT_POST_CREATE || access == OAT_DROP))
		database_at_hand = object;
}

static void
forget_database(int code, Datum arg)
{
	if (OidIsValid(database_at_hand))
		pagestore_drop_database(database_at_hand);
	database_at_hand = InvalidOid;
}

static void
neon_ProcessUtility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree, ProcessUtilityContext context,
					ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	ProcessUtility_hook_type next = prev_utility ? prev_utility : standard_ProcessUtility;

	if (IsA(stmt, CreatedbStmt))
	{
		pstmt = create_database_by_wal(pstmt);
		database_at_hand = InvalidOid;
		/* After the server's own clean-up, which drops the buffers. */
		PG_ENSURE_ERROR_CLEANUP(forget_database, (Datum) 0);
		{
			next(pstmt, query_string, read_only_tree, context, params, env, dest, qc);
		}
		PG_END_ENSURE_ERROR_CLEANUP(forget_database, (Datum) 0);
		return;
	}
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
		database_at_hand = InvalidOid;

	next(pstmt, query_string, read_only_tree, context, params, env, dest, qc);

	if (IsA(stmt, DropdbStmt))
		forget_database(0, (Datum) 0);
}

void
utility_hook_install(void)
{
	prev_utility = ProcessUtility_hook;
	ProcessUtility_hook = neon_ProcessUtility;
	prev_object_access = object_access_hook;
	object_access_hook = note_database;
}
