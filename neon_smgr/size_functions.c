/*
 * size_functions.c - pg_relation_size and its kin, which look at files in the stock server, asked of the storage manager.
 *
 * The entries of the server's table of built-in functions are replaced, so that they work in every database, under their own
 * names, for everybody.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "storage/smgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "common/relpath.h"

#include "neon_smgr.h"
#include "pagestore.h"

/* pg_proc.dat */
#define F_RELATION_SIZE			2332
#define F_TABLE_SIZE			2997
#define F_INDEXES_SIZE			2998
#define F_TOTAL_RELATION_SIZE	2286
#define F_DATABASE_SIZE_OID		2324
#define F_DATABASE_SIZE_NAME	2168

static int64
fork_bytes(Relation rel, ForkNumber fork)
{
	SMgrRelation smgr;

	if (!RELKIND_HAS_STORAGE(rel->rd_rel->relkind))
		return 0;
	smgr = RelationGetSmgr(rel);
	return smgrexists(smgr, fork) ? (int64) smgrnblocks(smgr, fork) * BLCKSZ : 0;
}

static int64
all_forks_bytes(Relation rel)
{
	int64		bytes = 0;

	for (ForkNumber fork = 0; fork <= MAX_FORKNUM; fork++)
		bytes += fork_bytes(rel, fork);
	return bytes;
}

static int64
indexes_bytes(Relation rel)
{
	int64		bytes = 0;
	List	   *indexes;
	ListCell   *lc;

	if (!rel->rd_rel->relhasindex)
		return 0;
	indexes = RelationGetIndexList(rel);
	foreach(lc, indexes)
	{
		Relation	index = relation_open(lfirst_oid(lc), AccessShareLock);

		bytes += all_forks_bytes(index);
		relation_close(index, AccessShareLock);
	}
	list_free(indexes);
	return bytes;
}

static int64
table_bytes(Relation rel)
{
	int64		bytes = all_forks_bytes(rel);

	if (OidIsValid(rel->rd_rel->reltoastrelid))
	{
		Relation	toast = relation_open(rel->rd_rel->reltoastrelid, AccessShareLock);

		bytes += all_forks_bytes(toast) + indexes_bytes(toast);
		relation_close(toast, AccessShareLock);
	}
	return bytes;
}

static Datum
neon_relation_size(PG_FUNCTION_ARGS)
{
	Relation	rel = try_relation_open(PG_GETARG_OID(0), AccessShareLock);
	int64		bytes;

	/* As in the stock function: a relation dropped since the caller's snapshot is no error. */
	if (rel == NULL)
		PG_RETURN_NULL();
	bytes = fork_bytes(rel, forkname_to_number(text_to_cstring(PG_GETARG_TEXT_PP(1))));
	relation_close(rel, AccessShareLock);
	PG_RETURN_INT64(bytes);
}

static Datum
neon_table_size(PG_FUNCTION_ARGS)
{
	Relation	rel = try_relation_open(PG_GETARG_OID(0), AccessShareLock);
	int64		bytes;

	if (rel == NULL)
		PG_RETURN_NULL();
	bytes = table_bytes(rel);
	relation_close(rel, AccessShareLock);
	PG_RETURN_INT64(bytes);
}

static Datum
neon_indexes_size(PG_FUNCTION_ARGS)
{
	Relation	rel = try_relation_open(PG_GETARG_OID(0), AccessShareLock);
	int64		bytes;

	if (rel == NULL)
		PG_RETURN_NULL();
	bytes = indexes_bytes(rel);
	relation_close(rel, AccessShareLock);
	PG_RETURN_INT64(bytes);
}

static Datum
neon_total_relation_size(PG_FUNCTION_ARGS)
{
	Relation	rel = try_relation_open(PG_GETARG_OID(0), AccessShareLock);
	int64		bytes;

	if (rel == NULL)
		PG_RETURN_NULL();
	bytes = table_bytes(rel) + indexes_bytes(rel);
	relation_close(rel, AccessShareLock);
	PG_RETURN_INT64(bytes);
}

static int64
database_bytes(Oid db)
{
	if (pg_database_aclcheck(db, GetUserId(), ACL_CONNECT) != ACLCHECK_OK &&
		!has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_DATABASE, get_database_name(db));
	return pagestore_database_bytes(db);
}

static Datum
neon_database_size_oid(PG_FUNCTION_ARGS)
{
	Oid			db = PG_GETARG_OID(0);
	int64		bytes;

	if (get_database_name(db) == NULL)
		PG_RETURN_NULL();
	bytes = database_bytes(db);
	PG_RETURN_INT64(bytes);
}

static Datum
neon_database_size_name(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(database_bytes(get_database_oid(NameStr(*PG_GETARG_NAME(0)), false)));
}

bool
size_functions_install(const neon_pgpatch_image *image, neon_pgpatch_report *report)
{
	return neon_pgpatch_builtin(image, F_RELATION_SIZE, neon_relation_size, NULL, report) &&
		neon_pgpatch_builtin(image, F_TABLE_SIZE, neon_table_size, NULL, report) &&
		neon_pgpatch_builtin(image, F_INDEXES_SIZE, neon_indexes_size, NULL, report) &&
		neon_pgpatch_builtin(image, F_TOTAL_RELATION_SIZE, neon_total_relation_size, NULL, report) &&
		neon_pgpatch_builtin(image, F_DATABASE_SIZE_OID, neon_database_size_oid, NULL, report) &&
		neon_pgpatch_builtin(image, F_DATABASE_SIZE_NAME, neon_database_size_name, NULL, report);
}
