/*
 * sk_catalog.c - the rows: which timelines there are, their term, history and configuration.
 *
 * Everything goes through SPI.  Writes of an acceptor's state open and commit a transaction of their own with
 * ForceSyncCommit, whatever synchronous_commit the session has; they run as the bootstrap superuser, since the session
 * is a tenant's, and name every table, operator and type in full, since its search_path is the tenant's.
 *
 * Locks: a timeline's row is written only under the timeline's lock, so there is nothing to wait for.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "sk.h"
#include "sk_walfile.h"

#define ID_MATCH "tenant OPERATOR(pg_catalog.=) $1 AND timeline OPERATOR(pg_catalog.=) $2"
#define ROW_COLUMNS "tenant, timeline, start_lsn, system_id, wal_segment_bytes, incarnation, generation, members, " \
	"term, history, commit_lsn, truncate_lsn"

static Datum
id_datum(const neon_id *id)
{
	char		text[NEON_ID_TEXT];

	neon_id_print(id, text);
	return CStringGetTextDatum(text);
}

static void
connect_spi(void)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

static uint64
execute(const char *sql, int nargs, Oid *types, Datum *values, bool read_only, int expected)
{
	int			rc = SPI_execute_with_args(sql, nargs, types, values, NULL, read_only, 0);

	if (rc != expected)
		elog(ERROR, "catalog statement failed: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

bool
sk_catalog_exists(void)
{
	bool		isnull;
	bool		exists;

	connect_spi();
	(void) execute("SELECT pg_catalog.to_regclass('neon_safekeeper.timeline') IS NOT NULL", 0, NULL, NULL, true, SPI_OK_SELECT);
	exists = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return exists;
}

static char *
column_text(HeapTuple tuple, int column)
{
	char	   *value = SPI_getvalue(tuple, SPI_tuptable->tupdesc, column);

	return value ? value : pstrdup("");
}

static XLogRecPtr
column_lsn(HeapTuple tuple, int column)
{
	neon_lsn	lsn = 0;

	(void) neon_lsn_parse(column_text(tuple, column), &lsn);
	return lsn;
}

/* A row of ROW_COLUMNS; memory comes from the current context.  False: not even its ids make sense. */
static bool
decode_row(HeapTuple tuple, SkTimelineRow *row)
{
	uint32		generation;

	memset(row, 0, sizeof(*row));
	row->history = palloc0(sizeof(neon_term_history));
	row->start_lsn = column_lsn(tuple, 3);
	row->system_id = strtou64(column_text(tuple, 4), NULL, 10);
	row->wal_segment_bytes = strtoul(column_text(tuple, 5), NULL, 10);
	row->incarnation = (uint64) strtoi64(column_text(tuple, 6), NULL, 10);
	generation = strtoul(column_text(tuple, 7), NULL, 10);
	row->term = strtou64(column_text(tuple, 9), NULL, 10);
	row->commit_lsn = column_lsn(tuple, 11);
	row->truncate_lsn = column_lsn(tuple, 12);
	row->damaged = !neon_configuration_parse(column_text(tuple, 8), generation, &row->conf) ||
		!neon_history_parse(column_text(tuple, 10), row->history);
	return neon_id_parse(column_text(tuple, 1), &row->tenant) && neon_id_parse(column_text(tuple, 2), &row->timeline);
}

List *
sk_catalog_load(MemoryContext context)
{
	List	   *rows = NIL;

	connect_spi();
	(void) execute("SELECT " ROW_COLUMNS " FROM neon_safekeeper.timeline", 0, NULL, NULL, true, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		SkTimelineRow *row = palloc(sizeof(SkTimelineRow));

		if (decode_row(SPI_tuptable->vals[i], row))
			rows = lappend(rows, row);
		else
			ereport(WARNING,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a timeline of the safekeeper's catalog has the malformed id \"%s\"", column_text(SPI_tuptable->vals[i], 2))));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return rows;
}

bool
sk_catalog_find(const neon_id *tenant, const neon_id *timeline, SkTimelineRow *row)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2] = {id_datum(tenant), id_datum(timeline)};
	bool		found;

	connect_spi();
	found = execute("SELECT " ROW_COLUMNS " FROM neon_safekeeper.timeline WHERE " ID_MATCH,
					2, types, values, false, SPI_OK_SELECT) > 0;
	if (found)
	{
		MemoryContext old = MemoryContextSwitchTo(caller);

		if (!decode_row(SPI_tuptable->vals[0], row) || row->damaged)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the catalog row of timeline \"%s\" is damaged", column_text(SPI_tuptable->vals[0], 2)),
					 errhint(SK_REJOIN_HINT)));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return found;
}

bool
sk_catalog_tenant_exists(const neon_id *tenant)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {id_datum(tenant)};
	bool		found;

	connect_spi();
	found = execute("SELECT 1 FROM neon_safekeeper.tenant WHERE tenant OPERATOR(pg_catalog.=) $1",
					1, types, values, false, SPI_OK_SELECT) > 0;
	SPI_finish();
	return found;
}

static Datum
system_id_datum(uint64 system_id)
{
	return CStringGetTextDatum(psprintf(UINT64_FORMAT, system_id));
}

static Datum
members_datum(const neon_configuration *conf)
{
	char		text[NEON_CONFIGURATION_TEXT];

	neon_configuration_print(conf, text);
	return CStringGetTextDatum(text);
}

/* False: the row is there already, or another transaction that we waited for has just made it. */
bool
sk_catalog_insert(const SkTimelineRow *row)
{
	Oid			types[9] = {TEXTOID, TEXTOID, PG_LSNOID, TEXTOID, INT4OID, INT8OID, INT8OID, TEXTOID, INT8OID};
	Datum		values[9] = {
		id_datum(&row->tenant), id_datum(&row->timeline), LSNGetDatum(row->start_lsn), system_id_datum(row->system_id),
		Int32GetDatum(row->wal_segment_bytes), Int64GetDatum(row->incarnation), Int64GetDatum(row->conf.generation),
		members_datum(&row->conf), Int64GetDatum(row->term)
	};
	bool		inserted;

	connect_spi();
	inserted = execute("INSERT INTO neon_safekeeper.timeline (tenant, timeline, start_lsn, system_id, wal_segment_bytes, "
					   "incarnation, generation, members, term) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) "
					   "ON CONFLICT DO NOTHING", 9, types, values, false, SPI_OK_INSERT) > 0;
	SPI_finish();
	return inserted;
}

/* Delete the row and remember whose files are to be removed. */
void
sk_catalog_delete(const SkTimelineRow *row)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2] = {id_datum(&row->tenant), id_datum(&row->timeline)};

	connect_spi();
	(void) execute("WITH gone AS (DELETE FROM neon_safekeeper.timeline WHERE " ID_MATCH
				   " RETURNING tenant, timeline, incarnation) "
				   "INSERT INTO neon_safekeeper.dropped_timeline (tenant, timeline, incarnation) "
				   "SELECT tenant, timeline, incarnation FROM gone", 2, types, values, false, SPI_OK_INSERT);
	SPI_finish();
}

/* A history can be far longer than any fixed buffer. */
static Datum
history_datum(const neon_term_history *history)
{
	size_t		n = neon_history_print(history, history->n, NULL, 0);
	char	   *text = palloc(n + 1);

	(void) neon_history_print(history, history->n, text, n + 1);
	return CStringGetTextDatum(text);
}

static void
update_row(SkSlot *slot, const neon_acceptor_durable *next)
{
	Oid			types[9] = {TEXTOID, TEXTOID, INT8OID, TEXTOID, INT8OID, TEXTOID, PG_LSNOID, PG_LSNOID, INT8OID};
	Datum		values[9] = {
		id_datum(&slot->tenant), id_datum(&slot->timeline), Int64GetDatum(next->conf->generation),
		members_datum(next->conf), Int64GetDatum(next->term), history_datum(next->history),
		LSNGetDatum(next->commit_lsn), LSNGetDatum(next->truncate_lsn), Int64GetDatum(slot->incarnation)
	};

	connect_spi();
	if (execute("UPDATE neon_safekeeper.timeline SET generation = $3, members = $4, term = $5, history = $6, "
				"commit_lsn = $7, truncate_lsn = $8 WHERE " ID_MATCH " AND incarnation OPERATOR(pg_catalog.=) $9",
				9, types, values, false, SPI_OK_UPDATE) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the timeline is not in the safekeeper's catalog any more")));
	SPI_finish();
}

/*
 * Make an acceptor's state durable: the row first, then the file beside the WAL when the term rose.  Called outside of
 * a transaction, by the holder of the timeline's lock.
 */
void
sk_catalog_persist(SkSlot *slot, const neon_acceptor_durable *next)
{
	MemoryContext caller = CurrentMemoryContext;
	neon_term	file_term = sk_slot_acceptor(slot)->term;
	char		dir[MAXPGPATH];
	Oid			user;
	int			sec_context;

	sk_check_durable_settings(ERROR);
	StartTransactionCommand();
	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, SECURITY_LOCAL_USERID_CHANGE);
	PushActiveSnapshot(GetTransactionSnapshot());
	update_row(slot, next);
	PopActiveSnapshot();
	ForceSyncCommit();
	SetUserIdAndSecContext(user, sec_context);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);

	if (next->term == file_term)
		return;
	sk_timeline_dir(&slot->tenant, &slot->timeline, dir);
	sk_termfile_write(dir, slot->incarnation, next->term);
}

List *
sk_catalog_dropped(MemoryContext context)
{
	List	   *rows = NIL;

	connect_spi();
	(void) execute("SELECT tenant, timeline, incarnation FROM neon_safekeeper.dropped_timeline",
				   0, NULL, NULL, true, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		SkTimelineRow *row = palloc0(sizeof(SkTimelineRow));
		HeapTuple	tuple = SPI_tuptable->vals[i];

		row->incarnation = (uint64) strtoi64(column_text(tuple, 3), NULL, 10);
		if (neon_id_parse(column_text(tuple, 1), &row->tenant) && neon_id_parse(column_text(tuple, 2), &row->timeline))
			rows = lappend(rows, row);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return rows;
}

void
sk_catalog_forget_dropped(const SkTimelineRow *row)
{
	Oid			types[3] = {TEXTOID, TEXTOID, INT8OID};
	Datum		values[3] = {id_datum(&row->tenant), id_datum(&row->timeline), Int64GetDatum(row->incarnation)};

	connect_spi();
	(void) execute("DELETE FROM neon_safekeeper.dropped_timeline WHERE " ID_MATCH
				   " AND incarnation OPERATOR(pg_catalog.=) $3", 3, types, values, false, SPI_OK_DELETE);
	SPI_finish();
}
