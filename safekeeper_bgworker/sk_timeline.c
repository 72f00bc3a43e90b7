/*
 * sk_timeline.c - creating, dropping, loading and showing timelines.
 *
 * The row comes first and goes first.  Creating: insert the row, make the directory with its term file, reserve a slot; the
 * slot becomes visible when the transaction commits, and is given back when it does not.  Dropping: take the
 * timeline's lock until the transaction ends, delete the row and leave a note of whose files are to be removed, free the
 * slot at commit; the worker removes the files.  A crash leaves a directory without a row, which nobody reads: it is
 * put aside when a timeline of that name is created again.
 *
 * Loading (at start, by the worker): the term file must agree with the row (sk_termfile.c), the scan must find at least
 * what was committed, and what follows the end it found is zeroed before anybody may write (rule 2).  A timeline that
 * fails this is shown with its problem, and neither votes nor serves; dropping and creating it anew is the way back.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

#include "sk.h"
#include "sk_walfile.h"

PG_FUNCTION_INFO_V1(neon_safekeeper_create_timeline);
PG_FUNCTION_INFO_V1(neon_safekeeper_drop_timeline);
PG_FUNCTION_INFO_V1(neon_safekeeper_timeline_state);
PG_FUNCTION_INFO_V1(neon_safekeeper_visible_history);

/* ---- ids and rights ---- */

void
sk_id_arg(const char *what, text *value, neon_id *id)
{
	char	   *s = text_to_cstring(value);

	if (!neon_id_parse(s, id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s id: \"%s\"", what, s),
				 errhint("An id has 32 hexadecimal digits.")));
}

/* The same words whether or not the tenant exists. */
void
sk_check_tenant_access(const neon_id *tenant, Oid roleid, bool is_superuser, const char *role_name)
{
	char		tenant_text[NEON_ID_TEXT];
	char		wanted[NAMEDATALEN];

	neon_id_print(tenant, tenant_text);
	snprintf(wanted, sizeof(wanted), "neon_t_%s", tenant_text);
	if (is_superuser || (role_name && strcmp(role_name, wanted) == 0))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for tenant %s", tenant_text),
			 errhint("Connect as the role of that tenant.")));
}

static void
require_catalog_database(void)
{
	char	   *here = get_database_name(MyDatabaseId);

	if (here == NULL || strcmp(here, sk_database) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the safekeeper works in database \"%s\" only", sk_database),
				 errhint("Connect to that database, or set neon_safekeeper.database.")));
}

/* ---- what happens to slots when the transaction ends ---- */

typedef struct Pending
{
	struct Pending *next;
	SkSlot	   *slot;
	SubTransactionId subid;
	bool		drop;			/* else: created */
	bool		dir_made;
} Pending;

static Pending *pending = NULL; /* in TopTransactionContext, newest first */

static void
remove_made_dir(SkSlot *slot)
{
	char		dir[MAXPGPATH];
	char		path[MAXPGPATH + 32];

	sk_timeline_dir(&slot->tenant, &slot->timeline, dir);
	snprintf(path, sizeof(path), "%s/" SK_TERMFILE, dir);
	(void) unlink(path);
	(void) rmdir(dir);
}

static void
finish_pending(Pending *p, bool commit)
{
	if (commit && !p->drop)
		sk_slot_set_state(p->slot, SK_SLOT_ACTIVE);
	else if (commit)
	{
		sk_slot_free(p->slot);
		sk_wake_worker();
	}
	else if (!p->drop)
	{
		if (p->dir_made)
			remove_made_dir(p->slot);
		sk_slot_free(p->slot);
	}
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (pending == NULL)
		return;
	if (event == XACT_EVENT_PRE_PREPARE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot prepare a transaction that created or dropped a timeline")));
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	for (Pending *p = pending; p; p = p->next)
		finish_pending(p, event == XACT_EVENT_COMMIT);
	pending = NULL;
}

static void
subxact_callback(SubXactEvent event, SubTransactionId me, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (Pending *p = pending; p; p = p->next)
			if (p->subid == me)
				p->subid = parent;
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (pending && pending->subid == me)
		{
			finish_pending(pending, false);
			pending = pending->next;
		}
	}
}

static Pending *
add_pending(SkSlot *slot, bool drop)
{
	static bool registered = false;
	Pending    *p = MemoryContextAllocZero(TopTransactionContext, sizeof(Pending));

	if (!registered)
	{
		RegisterXactCallback(xact_callback, NULL);
		RegisterSubXactCallback(subxact_callback, NULL);
		registered = true;
	}
	p->slot = slot;
	p->drop = drop;
	p->subid = GetCurrentSubTransactionId();
	p->next = pending;
	pending = p;
	return p;
}

/* ---- create ---- */

/* Fill a reserved slot and its acceptor.  False: the state makes no sense. */
static bool
fill_slot(SkSlot *slot, const SkTimelineRow *row)
{
	neon_acceptor *identity = palloc0(sizeof(neon_acceptor));
	neon_acceptor *a = sk_slot_acceptor(slot);
	neon_acceptor_durable durable;
	bool		ok;

	slot->incarnation = row->incarnation;
	slot->system_id = row->system_id;
	slot->wal_segment_bytes = row->wal_segment_bytes;
	slot->start_lsn = row->start_lsn;
	pg_atomic_write_u64(&slot->write_lsn, row->start_lsn);
	pg_atomic_write_u64(&slot->flush_lsn, row->start_lsn);

	identity->tenant = row->tenant;
	identity->timeline = row->timeline;
	identity->node_id = sk_node_id;
	identity->system_id = row->system_id;
	identity->wal_segment_bytes = row->wal_segment_bytes;
	identity->pg_version_num = PG_VERSION_NUM;
	identity->timeline_start_lsn = row->start_lsn;
	durable.conf = &row->conf;
	durable.term = row->term;
	durable.history = row->history;
	durable.commit_lsn = row->commit_lsn;
	durable.truncate_lsn = row->truncate_lsn;
	ok = neon_acceptor_init(a, identity, &durable);
	pfree(identity);
	if (ok)
		sk_slot_publish(slot);
	return ok;
}

static bool
has_segments(const char *dir_path)
{
	DIR		   *dir = AllocateDir(dir_path);
	struct dirent *de;
	bool		found = false;

	while (!found && (de = ReadDir(dir, dir_path)) != NULL)
		found = IsXLogFileName(de->d_name);
	FreeDir(dir);
	return found;
}

/*
 * A directory of this name without a row: left by a crash, or the catalog is older than the files.  It is put aside.
 * The new timeline begins with the term that the old one had reached, so that no vote is given twice.
 */
static void
put_orphan_aside(const char *dir, neon_term *term)
{
	struct stat st;
	uint64		incarnation = 0;
	char		aside[MAXPGPATH];

	*term = 0;
	if (stat(dir, &st) != 0)
		return;
	if (sk_termfile_read(dir, &incarnation, term) != SK_TERMFILE_OK)
		*term = 0;
	if (*term == 0 && !has_segments(dir))
		return;
	snprintf(aside, sizeof(aside), "%s.old.%016llx", dir, (unsigned long long) incarnation);
	sk_rename(dir, aside);
	ereport(LOG,
			(errmsg("files of a timeline without a catalog row were put aside as \"%s\"", aside)));
}

static void
create_args(FunctionCallInfo fcinfo, SkTimelineRow *row)
{
	char	   *system_id = text_to_cstring(PG_GETARG_TEXT_PP(3));
	char	   *members = text_to_cstring(PG_GETARG_TEXT_PP(5));
	char	   *end;

	memset(row, 0, sizeof(*row));
	row->history = palloc0(sizeof(neon_term_history));
	sk_id_arg("tenant", PG_GETARG_TEXT_PP(0), &row->tenant);
	sk_id_arg("timeline", PG_GETARG_TEXT_PP(1), &row->timeline);
	row->start_lsn = PG_GETARG_LSN(2);
	row->wal_segment_bytes = PG_GETARG_INT32(4);
	errno = 0;
	row->system_id = strtou64(system_id, &end, 10);
	if (errno != 0 || end == system_id || *end != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid system identifier: \"%s\"", system_id)));
	if (!IsValidWalSegSize(row->wal_segment_bytes))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid WAL segment size: %u", row->wal_segment_bytes),
				 errhint("It is a power of two between 1 MB and 1 GB.")));
	if (row->start_lsn == InvalidXLogRecPtr || row->start_lsn % MAXIMUM_ALIGNOF != 0 ||
		(row->start_lsn % XLOG_BLCKSZ != 0 &&
		 neon_lsn_record_start(row->start_lsn, row->wal_segment_bytes) != row->start_lsn))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a log cannot begin at %X/%X", LSN_FORMAT_ARGS(row->start_lsn)),
				 errhint("It begins where a WAL record ends.")));
	if (!neon_configuration_parse(members, 1, &row->conf) || !neon_configuration_has(&row->conf, sk_node_id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid members: \"%s\"", members),
				 errhint("Give the safekeepers' numbers, like 1,2,3; this one is %d.", sk_node_id)));
	if (!pg_strong_random(&row->incarnation, sizeof(row->incarnation)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random incarnation")));
	row->incarnation &= PG_INT64_MAX;
}

static void
check_same_timeline(const SkTimelineRow *wanted)
{
	SkTimelineRow have;

	if (!sk_catalog_find(&wanted->tenant, &wanted->timeline, &have))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the timeline was dropped while it was created"),
				 errhint("Try again.")));
	if (have.start_lsn != wanted->start_lsn || have.system_id != wanted->system_id ||
		have.wal_segment_bytes != wanted->wal_segment_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("the timeline exists with other properties"),
				 errdetail("It begins at %X/%X with system identifier " UINT64_FORMAT " and segments of %u bytes.",
						   LSN_FORMAT_ARGS(have.start_lsn), have.system_id, have.wal_segment_bytes)));
}

Datum
neon_safekeeper_create_timeline(PG_FUNCTION_ARGS)
{
	SkTimelineRow row;
	SkSlot	   *slot;
	Pending    *p;
	uint64		generation;
	char		dir[MAXPGPATH];

	require_catalog_database();
	sk_require_ready();
	sk_check_durable_settings(ERROR);
	create_args(fcinfo, &row);
	sk_creation_lock();			/* nobody else makes the row between our look at it and our touch of its directory */
	if (!sk_catalog_tenant_exists(&row.tenant))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no such tenant on this safekeeper"),
				 errhint("Create it with neon_safekeeper.create_tenant.")));
	if (sk_catalog_find(&row.tenant, &row.timeline, &(SkTimelineRow) {0}))
	{
		check_same_timeline(&row);
		PG_RETURN_VOID();
	}
	if (sk_slot_find(&row.tenant, &row.timeline, &generation))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("the timeline of this name is just being dropped"),
				 errhint("Commit its drop first.")));

	sk_timeline_dir(&row.tenant, &row.timeline, dir);
	put_orphan_aside(dir, &row.term);
	if (!sk_catalog_insert(&row))
	{
		check_same_timeline(&row);
		PG_RETURN_VOID();
	}
	slot = sk_slot_reserve(&row.tenant, &row.timeline);
	p = add_pending(slot, false);
	sk_make_dir(dir);
	p->dir_made = true;
	sk_termfile_write(dir, row.incarnation, row.term);
	if (!fill_slot(slot, &row))
		elog(ERROR, "the state of a new timeline is not valid");
	ForceSyncCommit();
	PG_RETURN_VOID();
}

/* ---- drop ---- */

Datum
neon_safekeeper_drop_timeline(PG_FUNCTION_ARGS)
{
	SkTimelineRow row = {0};
	SkSlot	   *slot;
	uint64		generation;

	require_catalog_database();
	sk_require_ready();
	sk_id_arg("tenant", PG_GETARG_TEXT_PP(0), &row.tenant);
	sk_id_arg("timeline", PG_GETARG_TEXT_PP(1), &row.timeline);

	slot = sk_slot_find(&row.tenant, &row.timeline, &generation);
	if (slot)
	{
		(void) sk_slot_lock(slot, false, true);
		if (pg_atomic_read_u64(&slot->generation) != generation)
			slot = NULL;
	}
	if (slot == NULL && !sk_catalog_find(&row.tenant, &row.timeline, &row))
	{
		ereport(NOTICE, (errmsg("there is no such timeline, skipping")));
		PG_RETURN_VOID();
	}
	sk_catalog_delete(&row);
	if (slot)
		(void) add_pending(slot, true);
	ForceSyncCommit();
	PG_RETURN_VOID();
}

/* The worker, after a drop: the directory under its name, or where a new timeline of that name has put it. */
void
sk_remove_dropped_files(const SkTimelineRow *row)
{
	char		dir[MAXPGPATH];
	char		aside[MAXPGPATH];
	uint64		incarnation;
	neon_term	term;
	struct stat st;

	sk_timeline_dir(&row->tenant, &row->timeline, dir);
	snprintf(aside, sizeof(aside), "%s.old.%016llx", dir, (unsigned long long) row->incarnation);
	if (stat(aside, &st) != 0)
	{
		if (stat(dir, &st) != 0 || sk_termfile_read(dir, &incarnation, &term) != SK_TERMFILE_OK ||
			incarnation != row->incarnation)
			return;
		sk_rename(dir, aside);
	}
	if (!rmtree(aside, true))
		ereport(WARNING,
				(errmsg("some files of a dropped timeline are left in \"%s\"", aside)));
	get_parent_directory(aside);
	fsync_fname(aside, true);	/* before the note that they are to be removed is forgotten */
}

/* ---- load ---- */

static const char *
check_termfile(const SkTimelineRow *row, const char *dir)
{
	uint64		incarnation = 0;
	neon_term	term = 0;

	switch (sk_termfile_read(dir, &incarnation, &term))
	{
		case SK_TERMFILE_MISSING:
			return "the term file beside the WAL is missing";
		case SK_TERMFILE_DAMAGED:
			return "the term file beside the WAL is damaged";
		case SK_TERMFILE_OK:
			break;
	}
	if (incarnation != row->incarnation)
		return "the WAL belongs to another incarnation than the catalog: one of them was restored or copied";
	if (term > row->term)
		return psprintf("the catalog has forgotten votes: it has term " UINT64_FORMAT ", the term file " UINT64_FORMAT,
						row->term, term);
	return NULL;
}

static const char *
load_log(SkSlot *slot, const SkTimelineRow *row)
{
	SkWal		wal;
	SkScan		scan;
	XLogRecPtr	from = Max(row->commit_lsn, row->start_lsn);

	sk_wal_init(&wal, &row->tenant, &row->timeline, row->wal_segment_bytes);
	sk_wal_remove_temporary(&wal);
	sk_scan_tail(&wal, row->start_lsn, from, PG_UINT64_MAX, &scan);
	if (scan.end < from)
	{
		sk_wal_close(&wal);
		return psprintf("committed WAL is missing: the log ends at %X/%X (%s), %X/%X was committed",
						LSN_FORMAT_ARGS(scan.end), scan.stopped, LSN_FORMAT_ARGS(from));
	}
	sk_wal_truncate(&wal, scan.end);
	sk_wal_settle(&wal, from, scan.end);
	sk_wal_close(&wal);
	pg_atomic_write_u64(&slot->write_lsn, scan.end);
	pg_atomic_write_u64(&slot->flush_lsn, scan.end);
	pg_atomic_write_u64(&slot->last_record_start, scan.last_record_start);
	sk_slot_publish(slot);
	ereport(LOG,
			(errmsg("timeline loaded: log %X/%X to %X/%X (%s), committed %X/%X, term " UINT64_FORMAT,
					LSN_FORMAT_ARGS(row->start_lsn), LSN_FORMAT_ARGS(scan.end), scan.stopped,
					LSN_FORMAT_ARGS(row->commit_lsn), row->term)));
	return NULL;
}

static const char *
load_slot(SkSlot *slot, const SkTimelineRow *row)
{
	char		dir[MAXPGPATH];
	const char *problem;

	if (row->damaged)
		return "its catalog row is damaged";
	sk_timeline_dir(&row->tenant, &row->timeline, dir);
	problem = check_termfile(row, dir);
	if (!fill_slot(slot, row))
		return "its catalog row makes no sense";
	if (!problem && !neon_configuration_has(&row->conf, sk_node_id))
		problem = psprintf("neon_safekeeper.node_id is %d, which is not a member of this timeline", sk_node_id);
	return problem ? problem : load_log(slot, row);
}

/* One timeline's damage does not keep the others from working. */
void
sk_timeline_load(const SkTimelineRow *row)
{
	SkSlot	   *slot = sk_slot_reserve(&row->tenant, &row->timeline);
	MemoryContext context = CurrentMemoryContext;
	const char *volatile problem = NULL;

	PG_TRY();
	{
		problem = load_slot(slot, row);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN || error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		problem = error->message;
	}
	PG_END_TRY();

	if (problem)
	{
		char		timeline[NEON_ID_TEXT];

		neon_id_print(&row->timeline, timeline);
		strlcpy(slot->problem, problem, sizeof(slot->problem));
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("timeline %s neither votes nor serves: %s", timeline, problem),
				 errhint(SK_REJOIN_HINT)));
	}
	sk_slot_set_state(slot, problem ? SK_SLOT_BROKEN : SK_SLOT_ACTIVE);
}

/* ---- show ---- */

Datum
neon_safekeeper_timeline_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < sk_max_timelines; i++)
	{
		SkSlot	   *slot = &sk_shared->slots[i];
		Datum		values[11];
		bool		nulls[11] = {false};
		char		tenant[NEON_ID_TEXT];
		char		timeline[NEON_ID_TEXT];
		char		problem[SK_PROBLEM_BYTES];
		uint32		state;

		LWLockAcquire(sk_shared->lock, LW_SHARED);
		state = pg_atomic_read_u32(&slot->state);
		neon_id_print(&slot->tenant, tenant);
		neon_id_print(&slot->timeline, timeline);
		strlcpy(problem, slot->problem, sizeof(problem));
		LWLockRelease(sk_shared->lock);
		if (state != SK_SLOT_ACTIVE && state != SK_SLOT_BROKEN)
			continue;

		values[0] = CStringGetTextDatum(tenant);
		values[1] = CStringGetTextDatum(timeline);
		values[2] = Int64GetDatum(pg_atomic_read_u64(&slot->term));
		values[3] = Int64GetDatum(pg_atomic_read_u64(&slot->last_log_term));
		values[4] = LSNGetDatum(slot->start_lsn);
		values[5] = LSNGetDatum(pg_atomic_read_u64(&slot->write_lsn));
		values[6] = LSNGetDatum(pg_atomic_read_u64(&slot->flush_lsn));
		values[7] = LSNGetDatum(pg_atomic_read_u64(&slot->commit_lsn));
		values[8] = CStringGetTextDatum(state == SK_SLOT_ACTIVE ? "active" : "broken");
		values[9] = CStringGetTextDatum(problem);
		nulls[9] = state == SK_SLOT_ACTIVE;
		values[10] = Int32GetDatum(pg_atomic_read_u32(&slot->senders));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* A persisted history may run ahead of the WAL: only what the log really has. */
Datum
neon_safekeeper_visible_history(PG_FUNCTION_ARGS)
{
	char	   *stored = text_to_cstring(PG_GETARG_TEXT_PP(0));
	neon_term_history *history = palloc0(sizeof(neon_term_history));
	size_t		cap = strlen(stored) + 64;
	char	   *out;
	uint32		n;

	if (!neon_history_parse(stored, history))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("malformed term history")));
	n = neon_history_visible(history, PG_GETARG_LSN(1));
	cap += neon_history_print(history, n, NULL, 0);
	out = palloc(cap);
	out[0] = '\0';
	(void) neon_history_print(history, n, out, cap);
	PG_RETURN_TEXT_P(cstring_to_text(out));
}
