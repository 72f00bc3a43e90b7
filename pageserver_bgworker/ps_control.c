/*
 * ps_control.c - SQL functions that make and drop tenants and timelines, and show them.
 *
 * What is done in shared memory follows the transaction: a slot is reserved first and becomes ACTIVE at commit; a drop
 * takes effect at commit; an abort, also of a subtransaction, undoes both.  Concurrent calls for one timeline are put in a row by an
 * advisory lock that is released after the slot has changed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_layer_file.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog_internal.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#define PS_LOCK_CLASS_TIMELINE	0x6e71	/* of our advisory locks */
#define PS_IMAGE_FILE			"image-%016llX"

/* ---- slots follow the transaction ---- */

typedef struct PendingSlot
{
	struct PendingSlot *next;
	PsTimeline *tl;
	bool		create;
	SubTransactionId subxact;
} PendingSlot;

static PendingSlot *pending;
static bool safekeepers_changed;	/* at commit the ingest workers read the lists again */

static void
undo(PendingSlot *p)
{
	if (p->create)
		ps_slot_drop(p->tl);	/* the flush worker removes the directory and frees the slot */
}

static void
at_xact(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			for (PendingSlot *p = pending; p; p = p->next)
			{
				if (p->create)
					ps_slot_activate(p->tl);
				else
					ps_slot_drop(p->tl);
			}
			pending = NULL;
			if (safekeepers_changed)
			{
				pg_atomic_fetch_add_u64(&ps_shared->table_generation, 1);
				ps_wake_ingest();
				safekeepers_changed = false;
			}
			break;
		case XACT_EVENT_ABORT:
			safekeepers_changed = false;
			for (PendingSlot *p = pending; p; p = p->next)
				undo(p);
			pending = NULL;
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (pending)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot prepare a transaction that made or dropped timelines")));
			break;
		default:
			break;
	}
}

static void
at_subxact(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	PendingSlot **link = &pending;

	if (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	while (*link)
	{
		PendingSlot *p = *link;

		if (p->subxact != mine)
			link = &p->next;
		else if (event == SUBXACT_EVENT_COMMIT_SUB)
		{
			p->subxact = parent;
			link = &p->next;
		}
		else
		{
			undo(p);
			*link = p->next;
		}
	}
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(at_xact, NULL);
	RegisterSubXactCallback(at_subxact, NULL);
	registered = true;
}

static void
remember_slot(PsTimeline *tl, bool create)
{
	PendingSlot *p;

	register_callbacks();
	p = MemoryContextAlloc(TopTransactionContext, sizeof(PendingSlot));
	p->tl = tl;
	p->create = create;
	p->subxact = GetCurrentSubTransactionId();
	p->next = pending;
	pending = p;
}

/* ---- arguments ---- */

char *
ps_text_arg(FunctionCallInfo fcinfo, int n, const char *what)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what)));
	return text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/* The id in its canonical spelling. */
static char *
id_text(const char *text, const char *what, neon_id *id)
{
	char	   *canonical = palloc(NEON_ID_TEXT);

	if (!neon_id_parse(text, id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s \"%s\"", what, text),
				 errhint("It consists of 32 hexadecimal digits.")));
	neon_id_print(id, canonical);
	return canonical;
}

static void
lock_timeline(const neon_id *id)
{
	LOCKTAG		tag;
	uint32		lo,
				hi;

	memcpy(&lo, id->b, 4);
	memcpy(&hi, id->b + 4, 4);
	SET_LOCKTAG_ADVISORY(tag, PS_LOCK_CLASS_TIMELINE, lo, hi, 2);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* What changes rows is durable when the caller hears of it, whatever its synchronous_commit: files are removed after a drop. */
static uint64
run(int expected, const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	int			rc = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);

	if (rc != expected)
		elog(ERROR, "catalog query failed: %s: %s", SPI_result_code_string(rc), sql);
	if (rc != SPI_OK_SELECT)
		ForceSyncCommit();
	return SPI_processed;
}

/* ---- tenants ---- */

static char *
role_of(const char *tenant)
{
	return psprintf("neon_t_%s", tenant);
}

PG_FUNCTION_INFO_V1(neon_ps_create_tenant);

Datum
neon_ps_create_tenant(PG_FUNCTION_ARGS)
{
	neon_id		id;
	char	   *tenant = id_text(ps_text_arg(fcinfo, 0, "tenant"), "tenant", &id);
	char	   *password = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *role = role_of(tenant);
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(tenant)};
	char	   *sql;

	ps_wait_loaded();
	lock_timeline(&id);
	sql = psprintf("%s ROLE %s LOGIN PASSWORD %s", OidIsValid(get_role_oid(role, true)) ? "ALTER" : "CREATE",
				   quote_identifier(role), password ? quote_literal_cstr(password) : "NULL");
	SPI_connect();
	if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not create role \"%s\"", role);
	(void) run(SPI_OK_INSERT, "INSERT INTO neon_pageserver.tenant (tenant) VALUES ($1) ON CONFLICT DO NOTHING",
			   1, types, values, NULL);
	SPI_finish();
	PG_RETURN_VOID();
}

/* Deletes the timelines' rows (all of the tenant's, or one) and drops their slots at commit. */
static uint64
delete_timelines(const char *tenant, const char *timeline)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2] = {CStringGetTextDatum(tenant), timeline ? CStringGetTextDatum(timeline) : (Datum) 0};
	uint64		n = run(SPI_OK_DELETE_RETURNING,
						"DELETE FROM neon_pageserver.timeline WHERE tenant = $1 AND ($2 IS NULL OR timeline = $2) "
						"RETURNING timeline", 2, types, values, timeline ? NULL : " n");
	neon_id		tenant_id;

	(void) neon_id_parse(tenant, &tenant_id);
	for (uint64 i = 0; i < n; i++)
	{
		neon_id		id;
		PsTimeline *tl;

		if (neon_id_parse(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1), &id) &&
			(tl = ps_timeline_lookup(&tenant_id, &id)) != NULL)
			remember_slot(tl, false);
	}
	return n;
}

PG_FUNCTION_INFO_V1(neon_ps_drop_tenant);

Datum
neon_ps_drop_tenant(PG_FUNCTION_ARGS)
{
	neon_id		id;
	char	   *tenant = id_text(ps_text_arg(fcinfo, 0, "tenant"), "tenant", &id);
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(tenant)};

	ps_wait_loaded();
	lock_timeline(&id);
	SPI_connect();
	(void) delete_timelines(tenant, NULL);
	(void) run(SPI_OK_DELETE, "DELETE FROM neon_pageserver.tenant WHERE tenant = $1", 1, types, values, NULL);
	(void) run(SPI_OK_SELECT, "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE usename = 'neon_t_' || $1",
			   1, types, values, NULL);
	if (SPI_execute(psprintf("DROP ROLE IF EXISTS %s", quote_identifier(role_of(tenant))), false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not drop role \"%s\"", role_of(tenant));
	SPI_finish();
	PG_RETURN_VOID();
}

/* ---- timelines ---- */

typedef struct NewTimeline
{
	char	   *tenant;
	char	   *timeline;
	char	   *ancestor;		/* NULL for a root */
	Datum		safekeepers;
	neon_id		tenant_id;
	neon_id		timeline_id;
	PsTimeline *parent;
	XLogRecPtr	wanted_lsn;		/* of a branch; invalid: the parent's last */
	PsBootstrap start;
	PsLayerRow	image;
	bool		has_image;
} NewTimeline;

static void
insert_timeline(const NewTimeline *n)
{
	Oid			types[9] = {TEXTOID, TEXTOID, TEXTOID, LSNOID, TEXTOID, INT4OID, TEXTARRAYOID, LSNOID, LSNOID};
	Datum		values[9];

	values[0] = CStringGetTextDatum(n->tenant);
	values[1] = CStringGetTextDatum(n->timeline);
	values[2] = n->ancestor ? CStringGetTextDatum(n->ancestor) : (Datum) 0;
	values[3] = LSNGetDatum(n->start.start_lsn);
	values[4] = CStringGetTextDatum(psprintf(UINT64_FORMAT, n->start.system_id));
	values[5] = Int32GetDatum((int32) n->start.wal_segment_bytes);
	values[6] = n->safekeepers;
	values[7] = LSNGetDatum(n->start.start_lsn);
	values[8] = LSNGetDatum(n->start.prev_lsn);
	(void) run(SPI_OK_INSERT, "INSERT INTO neon_pageserver.timeline (tenant, timeline, ancestor, start_lsn, system_id, "
			   "wal_seg_size, safekeepers, disk_consistent_lsn, disk_prev_lsn) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
			   9, types, values, n->ancestor ? NULL : "  n      ");
}

static void
fill_slot(PsTimeline *tl, const NewTimeline *n)
{
	tl->tenant = n->tenant_id;
	tl->id = n->timeline_id;
	tl->ancestor = n->parent ? (int) (n->parent - ps_timelines) : -1;
	tl->start_lsn = n->start.start_lsn;
	tl->system_id = n->start.system_id;
	tl->wal_segment_bytes = n->start.wal_segment_bytes;
	pg_atomic_write_u64(&tl->disk_consistent_lsn, n->start.start_lsn);
	pg_atomic_write_u64(&tl->prev_record_lsn, n->start.prev_lsn);
	pg_atomic_write_u64(&tl->last_record_lsn, n->start.start_lsn);
	pg_atomic_write_u64(&tl->map_generation, 1);
}

/* A place where WAL can begin: aligned as record ends are, and not inside a page header. */
static XLogRecPtr
align_lsn(XLogRecPtr lsn, uint32 segment_bytes)
{
	uint32		header = lsn % segment_bytes < XLOG_BLCKSZ ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;

	lsn -= lsn % MAXIMUM_ALIGNOF;
	if (lsn % XLOG_BLCKSZ < header)
		lsn -= lsn % XLOG_BLCKSZ;
	return lsn;
}

/*
 * The branch point: at most what the parent has.  It need not be the end of a record: a record that ends after it is not in
 * the branch, and one that ended before it is, so every place between two records' ends names the same state.  WAL of the
 * branch begins there.
 */
static XLogRecPtr
branch_lsn(PsTimeline *parent, XLogRecPtr wanted)
{
	if (wanted == InvalidXLogRecPtr)
		wanted = ps_timeline_last_record_lsn(parent);
	if (wanted < parent->start_lsn)
		ereport(ERROR,
				(errcode(PS_ERR_LSN_TOO_OLD),
				 errmsg("cannot branch at %X/%08X, before the timeline's start at %X/%08X", LSN_FORMAT_ARGS(wanted),
						LSN_FORMAT_ARGS(parent->start_lsn)),
				 errhint("Branch from its ancestor instead.")));
	/* behind a page's header there is nothing that would come */
	wanted = align_lsn(wanted, parent->wal_segment_bytes);
	ps_timeline_wait_lsn(parent, wanted);
	return Max(wanted, parent->start_lsn);
}

static void
prepare_branch(NewTimeline *n)
{
	n->parent = ps_timeline_open(n->tenant, n->ancestor);
	n->start.start_lsn = branch_lsn(n->parent, n->wanted_lsn);
	n->start.prev_lsn = InvalidXLogRecPtr;
	n->start.system_id = n->parent->system_id;
	n->start.wal_segment_bytes = n->parent->wal_segment_bytes;
}

/* Imports a fresh cluster as one image layer, written under its final name before the LSN in it is known. */
static void
prepare_root(NewTimeline *n)
{
	char		directory[MAXPGPATH];
	char		temporary[MAXPGPATH + 16];
	char		path[MAXPGPATH * 2];
	neon_layer_info info;

	ps_make_timeline_directory(n->tenant, n->timeline);
	snprintf(directory, sizeof(directory), PS_DIRECTORY "/%s/%s", n->tenant, n->timeline);
	snprintf(temporary, sizeof(temporary), "%s/import", directory);
	ps_bootstrap(temporary, &n->start);
	ps_layer_file_info(temporary, &info);
	n->has_image = true;
	n->image.kind = NEON_LAYER_IMAGE;
	n->image.level = 1;
	n->image.key_first = info.key_first;
	n->image.key_last = info.key_last;
	n->image.lsn_lo = info.lsn_lo;
	n->image.lsn_hi = info.lsn_hi;
	n->image.file_bytes = info.file_bytes;
	snprintf(n->image.file, sizeof(n->image.file), PS_IMAGE_FILE, (unsigned long long) info.lsn_lo);
	snprintf(path, sizeof(path), "%s/%s", directory, n->image.file);
	if (durable_rename(temporary, path, ERROR) != 0)
		elog(ERROR, "could not rename \"%s\"", temporary);
}

/* An existing timeline answers a repeated call, if the arguments are the same. */
static void
check_same(const NewTimeline *n, PsTimeline *tl)
{
	List	   *there = ps_timeline_safekeepers(tl);
	PsTimeline *parent = ps_timeline_ancestor(tl);
	char		ancestor[NEON_ID_TEXT] = "";
	Datum	   *items;
	int			nitems;
	bool		same;

	if (parent)
		neon_id_print(&parent->id, ancestor);
	deconstruct_array(DatumGetArrayTypeP(n->safekeepers), TEXTOID, -1, false, TYPALIGN_INT, &items, NULL, &nitems);
	same = strcmp(ancestor, n->ancestor ? n->ancestor : "") == 0 && nitems == list_length(there);
	for (int i = 0; same && i < nitems; i++)
		same = strcmp(TextDatumGetCString(items[i]), list_nth(there, i)) == 0;
	if (same && parent && n->wanted_lsn != InvalidXLogRecPtr && n->wanted_lsn != tl->start_lsn)
		same = branch_lsn(parent, n->wanted_lsn) == tl->start_lsn;
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("timeline \"%s\" of tenant \"%s\" exists with other arguments", n->timeline, n->tenant),
				 errhint("Take a new id for a new timeline; set_safekeepers() changes where WAL is read from.")));
}

static PsTimeline *
create_timeline(NewTimeline *n)
{
	PsTimeline *tl = ps_timeline_lookup(&n->tenant_id, &n->timeline_id);

	if (tl)
	{
		check_same(n, tl);
		return tl;
	}
	ps_slot_wait_gone(&n->tenant_id, &n->timeline_id);
	tl = ps_slot_reserve();
	tl->tenant = n->tenant_id;	/* an abort has to find the directory */
	tl->id = n->timeline_id;
	remember_slot(tl, true);
	if (n->ancestor)
		prepare_branch(n);
	else
		prepare_root(n);
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	insert_timeline(n);
	if (n->has_image)
		ps_catalog_insert_layer(n->tenant, n->timeline, &n->image);
	PopActiveSnapshot();
	SPI_finish();
	fill_slot(tl, n);
	return tl;
}

PG_FUNCTION_INFO_V1(neon_ps_create_timeline);

Datum
neon_ps_create_timeline(PG_FUNCTION_ARGS)
{
	NewTimeline n = {0};
	neon_id		ancestor_id;
	PsTimeline *tl;
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false};

	n.tenant = id_text(ps_text_arg(fcinfo, 0, "tenant"), "tenant", &n.tenant_id);
	n.timeline = id_text(ps_text_arg(fcinfo, 1, "timeline"), "timeline", &n.timeline_id);
	if (PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("safekeepers must not be null")));
	n.safekeepers = PG_GETARG_DATUM(2);
	if (array_contains_nulls(DatumGetArrayTypeP(n.safekeepers)))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("safekeepers must not contain nulls")));
	if (!PG_ARGISNULL(3))
		n.ancestor = id_text(text_to_cstring(PG_GETARG_TEXT_PP(3)), "timeline", &ancestor_id);
	if (!PG_ARGISNULL(4))
		n.wanted_lsn = PG_GETARG_LSN(4);
	if (n.ancestor == NULL && n.wanted_lsn != InvalidXLogRecPtr)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("ancestor_lsn needs an ancestor_timeline")));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	ps_wait_loaded();
	lock_timeline(&n.timeline_id);
	tl = create_timeline(&n);
	values[0] = LSNGetDatum(tl->start_lsn);
	values[1] = CStringGetTextDatum(psprintf(UINT64_FORMAT, tl->system_id));
	values[2] = Int32GetDatum((int32) tl->wal_segment_bytes);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

PG_FUNCTION_INFO_V1(neon_ps_drop_timeline);

Datum
neon_ps_drop_timeline(PG_FUNCTION_ARGS)
{
	neon_id		tenant_id,
				id;
	char	   *tenant = id_text(ps_text_arg(fcinfo, 0, "tenant"), "tenant", &tenant_id);
	char	   *timeline = id_text(ps_text_arg(fcinfo, 1, "timeline"), "timeline", &id);
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2] = {CStringGetTextDatum(tenant), CStringGetTextDatum(timeline)};

	ps_wait_loaded();
	lock_timeline(&id);
	SPI_connect();
	if (run(SPI_OK_SELECT, "SELECT FROM neon_pageserver.timeline WHERE tenant = $1 AND ancestor = $2",
			2, types, values, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("timeline \"%s\" has %llu branches", timeline, (unsigned long long) SPI_processed),
				 errhint("Drop them first.")));
	if (delete_timelines(tenant, timeline) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("timeline \"%s\" of tenant \"%s\" does not exist on this pageserver", timeline, tenant)));
	SPI_finish();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(neon_ps_set_safekeepers);

Datum
neon_ps_set_safekeepers(PG_FUNCTION_ARGS)
{
	Oid			types[3] = {TEXTOID, TEXTOID, TEXTARRAYOID};
	neon_id		id;
	Datum		values[3];

	values[0] = CStringGetTextDatum(id_text(ps_text_arg(fcinfo, 0, "tenant"), "tenant", &id));
	values[1] = CStringGetTextDatum(id_text(ps_text_arg(fcinfo, 1, "timeline"), "timeline", &id));
	values[2] = PG_GETARG_DATUM(2);
	ps_wait_loaded();
	SPI_connect();
	if (run(SPI_OK_UPDATE, "UPDATE neon_pageserver.timeline SET safekeepers = $3 WHERE tenant = $1 AND timeline = $2",
			3, types, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the timeline does not exist on this pageserver")));
	SPI_finish();
	register_callbacks();
	safekeepers_changed = true;
	PG_RETURN_VOID();
}

/* ---- looking ---- */

PG_FUNCTION_INFO_V1(neon_ps_last_record_lsn);

Datum
neon_ps_last_record_lsn(PG_FUNCTION_ARGS)
{
	PsTimeline *tl = ps_timeline_open(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));

	PG_RETURN_LSN(ps_timeline_last_record_lsn(tl));
}

PG_FUNCTION_INFO_V1(neon_ps_read_point);

/*
 * read_point(tenant, timeline, lsn): where a branch that is made at lsn would begin, as soon as all of it is here.  For those who read there and
 * make no branch.  Nothing is removed below any LSN yet; a lease would be taken here.
 */
Datum
neon_ps_read_point(PG_FUNCTION_ARGS)
{
	PsTimeline *tl = ps_timeline_open(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));

	PG_RETURN_LSN(branch_lsn(tl, PG_GETARG_LSN(2)));
}

PG_FUNCTION_INFO_V1(neon_ps_checkpoint);

Datum
neon_ps_checkpoint(PG_FUNCTION_ARGS)
{
	neon_id		tenant = {0};
	bool		all = PG_ARGISNULL(0);

	if (!all)
		(void) id_text(text_to_cstring(PG_GETARG_TEXT_PP(0)), "tenant", &tenant);
	ps_wait_loaded();
	for (int slot = 0; slot < ps_max_timelines; slot++)
	{
		PsTimeline *tl = ps_timeline_by_slot(slot);

		if (tl && (all || neon_id_equal(&tl->tenant, &tenant)))
			ps_flush_now(tl);
	}
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(neon_ps_timeline_state);

Datum
neon_ps_timeline_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	ps_wait_loaded();
	InitMaterializedSRF(fcinfo, 0);
	for (int slot = 0; slot < ps_max_timelines; slot++)
	{
		PsTimeline *tl = ps_timeline_by_slot(slot);
		char		text[NEON_ID_TEXT];
		Datum		values[8];
		bool		nulls[8] = {false};
		int			open_layer;

		if (tl == NULL)
			continue;
		open_layer = tl->open_layer;
		neon_id_print(&tl->tenant, text);
		values[0] = CStringGetTextDatum(text);
		neon_id_print(&tl->id, text);
		values[1] = CStringGetTextDatum(text);
		values[2] = LSNGetDatum(pg_atomic_read_u64(&tl->last_record_lsn));
		values[3] = LSNGetDatum(pg_atomic_read_u64(&tl->prev_record_lsn));
		values[4] = LSNGetDatum(pg_atomic_read_u64(&tl->disk_consistent_lsn));
		values[5] = Int64GetDatum(open_layer == PS_NO_LAYER ? 0 : (int64) ps_mem_layer_bytes(&ps_mem_layers[open_layer]));
		values[6] = Int32GetDatum(tl->nfrozen);
		nulls[7] = tl->writer_pid == 0;
		values[7] = Int32GetDatum(tl->writer_pid);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
