/*
 * ps_catalog.c - the catalog tables, which are the truth: loading the timeline table, layer rows, safekeepers.
 *
 * Tables (schema neon_pageserver of database postgres): tenant, timeline, layer.  A layer file counts only when it has a row.
 * The first process that needs the timeline table after a start of the server loads it and removes files and
 * directories that no row names; everyone else waits on an advisory lock meanwhile.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_internal.h"

#include <sys/stat.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "common/file_utils.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#define PS_LOCK_CLASS		0x6e70	/* of our advisory locks */
#define PS_LOCK_LOAD		1

#define SELECT_TIMELINES \
	"SELECT tenant, timeline, ancestor, start_lsn, system_id, wal_seg_size, disk_consistent_lsn, disk_prev_lsn " \
	"FROM neon_pageserver.timeline"
#define SELECT_LAYERS \
	"SELECT id, file, kind, level, key_first, key_last, lsn_lo, lsn_hi, file_bytes FROM neon_pageserver.layer " \
	"WHERE tenant OPERATOR(pg_catalog.=) $1 AND timeline OPERATOR(pg_catalog.=) $2"
#define INSERT_LAYER \
	"INSERT INTO neon_pageserver.layer " \
	"(tenant, timeline, file, kind, level, key_first, key_last, lsn_lo, lsn_hi, file_bytes) " \
	"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id"

/* ---- reading scope ---- */

void
ps_catalog_begin(PsCatalogScope *scope)
{
	scope->caller = CurrentMemoryContext;
	scope->own_transaction = !IsTransactionState();
	if (scope->own_transaction)
		StartTransactionCommand();
	SPI_connect();
	GetUserIdAndSecContext(&scope->user, &scope->security_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, scope->security_context | SECURITY_LOCAL_USERID_CHANGE);
	PushActiveSnapshot(GetLatestSnapshot());
}

void
ps_catalog_end(PsCatalogScope *scope)
{
	PopActiveSnapshot();
	SetUserIdAndSecContext(scope->user, scope->security_context);
	SPI_finish();
	if (scope->own_transaction)
		CommitTransactionCommand();
	MemoryContextSwitchTo(scope->caller);
}

/* Runs a SELECT under the scope's snapshot. */
static uint64
scope_select(const char *sql, int nargs, Oid *types, Datum *values)
{
	int			rc = SPI_execute_with_args(sql, nargs, types, values, NULL, true, 0);

	if (rc != SPI_OK_SELECT)
		elog(ERROR, "catalog query failed: %s: %s", SPI_result_code_string(rc), sql);
	return SPI_processed;
}

static Datum
column(uint64 row, int number, bool *isnull)
{
	bool		null_here;
	Datum		d = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, &null_here);

	if (isnull)
		*isnull = null_here;
	else if (null_here)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("unexpected null in column %d of the pageserver's catalog", number)));
	return d;
}

static void
column_id(uint64 row, int number, neon_id *id)
{
	char	   *digits = TextDatumGetCString(column(row, number, NULL));

	if (!neon_id_parse(digits, id))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("\"%s\" in the pageserver's catalog is not an id of 32 hexadecimal digits", digits)));
}

/* ---- loading the table ---- */

static void
fill_slot(PsTimeline *tl, uint64 row)
{
	uint64		system_id;
	char	   *digits;
	XLogRecPtr	disk_lsn;

	column_id(row, 1, &tl->tenant);
	column_id(row, 2, &tl->id);
	tl->start_lsn = DatumGetLSN(column(row, 4, NULL));
	digits = TextDatumGetCString(column(row, 5, NULL));
	if (sscanf(digits, UINT64_FORMAT, &system_id) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("\"%s\" in the pageserver's catalog is not a system identifier", digits)));
	tl->system_id = system_id;
	tl->wal_segment_bytes = DatumGetInt32(column(row, 6, NULL));
	disk_lsn = DatumGetLSN(column(row, 7, NULL));
	pg_atomic_write_u64(&tl->disk_consistent_lsn, disk_lsn);
	pg_atomic_write_u64(&tl->prev_record_lsn, DatumGetLSN(column(row, 8, NULL)));
	pg_atomic_write_u64(&tl->last_record_lsn, disk_lsn);
}

static int
find_slot(PsTimeline **slots, uint64 n, const neon_id *tenant, const neon_id *id)
{
	for (uint64 i = 0; i < n; i++)
	{
		if (neon_id_equal(&slots[i]->id, id) && neon_id_equal(&slots[i]->tenant, tenant))
			return (int) (slots[i] - ps_timelines);
	}
	return -1;
}

static void
load_timelines(void)
{
	uint64		n = scope_select(SELECT_TIMELINES, 0, NULL, NULL);
	PsTimeline **slots = palloc0(sizeof(PsTimeline *) * (n + 1));
	volatile uint64 filled = 0;

	PG_TRY();
	{
		for (uint64 row = 0; row < n; row++)
		{
			slots[row] = ps_slot_reserve();
			filled = row + 1;
			fill_slot(slots[row], row);
		}
		for (uint64 row = 0; row < n; row++)
		{
			bool		isnull;
			neon_id		ancestor;

			(void) column(row, 3, &isnull);
			if (isnull)
				continue;
			column_id(row, 3, &ancestor);
			slots[row]->ancestor = find_slot(slots, n, &slots[row]->tenant, &ancestor);
			if (slots[row]->ancestor < 0)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("a timeline in the pageserver's catalog has an ancestor that is not there")));
		}
	}
	PG_CATCH();
	{
		for (uint64 i = 0; i < filled; i++)
			slots[i]->state = PS_TIMELINE_FREE;
		PG_RE_THROW();
	}
	PG_END_TRY();

	for (uint64 i = 0; i < n; i++)
		ps_slot_activate(slots[i]);
	if (n > 0)
		ereport(LOG, (errmsg("loaded %llu timelines", (unsigned long long) n)));
}

/* ---- files without a row ---- */

typedef struct KnownPath
{
	char		path[MAXPGPATH];
} KnownPath;

static void
know(HTAB *known, const char *path)
{
	char		key[MAXPGPATH] = {0};

	strlcpy(key, path, sizeof(key));
	(void) hash_search(known, key, HASH_ENTER, NULL);
}

static bool
is_known(HTAB *known, const char *path)
{
	char		key[MAXPGPATH] = {0};

	strlcpy(key, path, sizeof(key));
	return hash_search(known, key, HASH_FIND, NULL) != NULL;
}

/* depth 0: the root, 1: a tenant, 2: a timeline. */
static void
remove_unknown(HTAB *known, const char *directory, int depth)
{
	DIR		   *dir = AllocateDir(directory);
	struct dirent *entry;

	if (dir == NULL && errno == ENOENT)
		return;
	while ((entry = ReadDir(dir, directory)) != NULL)
	{
		char		path[MAXPGPATH];
		struct stat st;
		neon_id		id;

		/* What is not named by an id belongs to other parts, as the imported fresh cluster. */
		if (entry->d_name[0] == '.' || (depth < 2 && !neon_id_parse(entry->d_name, &id)))
			continue;
		snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
		if (lstat(path, &st) < 0)
			continue;
		if (S_ISDIR(st.st_mode))
		{
			if (depth < 2 && is_known(known, path))
				remove_unknown(known, path, depth + 1);
			else if (!rmtree(path, true))
				ereport(WARNING, (errmsg("could not remove directory \"%s\"", path)));
			else
				ereport(LOG, (errmsg("removed directory \"%s\", which no catalog row names", path)));
		}
		else if (depth == 2 && !is_known(known, path))
		{
			if (unlink(path) < 0)
				ereport(WARNING, (errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", path)));
			else
				ereport(LOG, (errmsg("removed file \"%s\", which no catalog row names", path)));
		}
	}
	FreeDir(dir);
}

static void
remove_files_without_row(void)
{
	HASHCTL		ctl = {.keysize = sizeof(KnownPath),.entrysize = sizeof(KnownPath),.hcxt = CurrentMemoryContext};
	HTAB	   *known = hash_create("files with a row", 1024, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	uint64		n = scope_select("SELECT tenant, timeline, file FROM neon_pageserver.layer UNION ALL "
								 "SELECT tenant, timeline, NULL FROM neon_pageserver.timeline UNION ALL "
								 "SELECT tenant, NULL, NULL FROM neon_pageserver.tenant", 0, NULL, NULL);

	for (uint64 row = 0; row < n; row++)
	{
		char	   *part[3] = {NULL, NULL, NULL};
		char		path[MAXPGPATH] = PS_DIRECTORY;

		for (int i = 0; i < 3; i++)
		{
			bool		isnull;
			Datum		d = column(row, i + 1, &isnull);

			if (isnull)
				break;
			part[i] = TextDatumGetCString(d);
			strlcat(path, "/", sizeof(path));
			strlcat(path, part[i], sizeof(path));
		}
		know(known, path);
	}
	remove_unknown(known, PS_DIRECTORY, 0);
	hash_destroy(known);
}

static bool
tables_exist(void)
{
	Oid			schema = get_namespace_oid(PS_SCHEMA, true);

	return OidIsValid(schema) &&
		OidIsValid(get_relname_relid("timeline", schema)) &&
		OidIsValid(get_relname_relid("layer", schema));
}

bool
ps_catalog_load(void)
{
	PsCatalogScope scope;
	LOCKTAG		tag;
	bool		exists;
	char	   *database;

	ps_catalog_begin(&scope);
	database = get_database_name(MyDatabaseId);
	if (database == NULL || strcmp(database, PS_DATABASE) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_pageserver works in database \"%s\" only", PS_DATABASE)));

	SET_LOCKTAG_ADVISORY(tag, PS_LOCK_CLASS, PS_LOCK_LOAD, 0, 2);	/* no database: no tenant can take it */
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	PopActiveSnapshot();
	PushActiveSnapshot(GetLatestSnapshot());
	exists = tables_exist();
	if (exists && !ps_shared->loaded)
	{
		remove_files_without_row();
		load_timelines();
		pg_write_barrier();
		ps_shared->loaded = true;
	}
	LockRelease(&tag, ExclusiveLock, false);
	ps_catalog_end(&scope);
	return exists;
}

/* ---- rows of one timeline ---- */

static void
timeline_args(PsTimeline *tl, Datum values[2])
{
	char		tenant[NEON_ID_TEXT];
	char		timeline[NEON_ID_TEXT];

	neon_id_print(&tl->tenant, tenant);
	neon_id_print(&tl->id, timeline);
	values[0] = CStringGetTextDatum(tenant);
	values[1] = CStringGetTextDatum(timeline);
}

List *
ps_timeline_safekeepers(PsTimeline *tl)
{
	PsCatalogScope scope;
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	List	   *result = NIL;

	ps_catalog_begin(&scope);
	timeline_args(tl, values);
	if (scope_select("SELECT safekeepers FROM neon_pageserver.timeline "
					 "WHERE tenant OPERATOR(pg_catalog.=) $1 AND timeline OPERATOR(pg_catalog.=) $2",
					 2, types, values) > 0)
	{
		Datum	   *items;
		int			n;
		MemoryContext spi_context;

		deconstruct_array(DatumGetArrayTypeP(column(0, 1, NULL)), TEXTOID, -1, false, TYPALIGN_INT, &items, NULL, &n);
		spi_context = MemoryContextSwitchTo(scope.caller);
		for (int i = 0; i < n; i++)
			result = lappend(result, TextDatumGetCString(items[i]));
		MemoryContextSwitchTo(spi_context);
	}
	ps_catalog_end(&scope);
	return result;
}

static void
column_key(uint64 row, int number, neon_key *key)
{
	bytea	   *b = DatumGetByteaPP(column(row, number, NULL));

	if (VARSIZE_ANY_EXHDR(b) != NEON_KEY_BYTES || !neon_key_decode((uint8 *) VARDATA_ANY(b), key))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a layer in the pageserver's catalog has a malformed key")));
}

List *
ps_catalog_layers(PsTimeline *tl)
{
	PsCatalogScope scope;
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	List	   *result = NIL;
	uint64		n;

	ps_catalog_begin(&scope);
	timeline_args(tl, values);
	n = scope_select(SELECT_LAYERS, 2, types, values);
	for (uint64 row = 0; row < n; row++)
	{
		PsLayerRow *layer = MemoryContextAllocZero(scope.caller, sizeof(PsLayerRow));
		MemoryContext spi_context;

		layer->id = DatumGetInt64(column(row, 1, NULL));
		strlcpy(layer->file, TextDatumGetCString(column(row, 2, NULL)), sizeof(layer->file));
		layer->kind = DatumGetInt16(column(row, 3, NULL));
		layer->level = DatumGetInt16(column(row, 4, NULL));
		column_key(row, 5, &layer->key_first);
		column_key(row, 6, &layer->key_last);
		layer->lsn_lo = DatumGetLSN(column(row, 7, NULL));
		layer->lsn_hi = DatumGetLSN(column(row, 8, NULL));
		layer->file_bytes = DatumGetInt64(column(row, 9, NULL));
		spi_context = MemoryContextSwitchTo(scope.caller);
		result = lappend(result, layer);
		MemoryContextSwitchTo(spi_context);
	}
	ps_catalog_end(&scope);
	return result;
}

static Datum
key_datum(const neon_key *key)
{
	bytea	   *b = palloc(VARHDRSZ + NEON_KEY_BYTES);

	SET_VARSIZE(b, VARHDRSZ + NEON_KEY_BYTES);
	neon_key_encode(key, (uint8 *) VARDATA(b));
	return PointerGetDatum(b);
}

void
ps_catalog_insert_layer(const char *tenant, const char *timeline, PsLayerRow *row)
{
	Oid			types[10] = {TEXTOID, TEXTOID, TEXTOID, INT2OID, INT2OID, BYTEAOID, BYTEAOID, LSNOID, LSNOID, INT8OID};
	Datum		values[10];
	int			rc;

	values[0] = CStringGetTextDatum(tenant);
	values[1] = CStringGetTextDatum(timeline);
	values[2] = CStringGetTextDatum(row->file);
	values[3] = Int16GetDatum(row->kind);
	values[4] = Int16GetDatum(row->level);
	values[5] = key_datum(&row->key_first);
	values[6] = key_datum(&row->key_last);
	values[7] = LSNGetDatum(row->lsn_lo);
	values[8] = LSNGetDatum(row->lsn_hi);
	values[9] = Int64GetDatum((int64) row->file_bytes);
	rc = SPI_execute_with_args(INSERT_LAYER, 10, types, values, NULL, false, 0);
	if (rc != SPI_OK_INSERT_RETURNING || SPI_processed != 1)
		elog(ERROR, "could not insert the row of layer \"%s\": %s", row->file, SPI_result_code_string(rc));
	row->id = DatumGetInt64(column(0, 1, NULL));
}
