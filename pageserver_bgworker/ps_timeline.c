/*
 * ps_timeline.c - the timeline table in shared memory: looking up, waiting, who owns and who may use a timeline.
 *
 * The table mirrors neon_pageserver.timeline.  A slot is reserved (CREATING) before its row is written and becomes ACTIVE
 * when that transaction commits; a drop deletes the row first and turns the slot DROPPING at commit.  The flush worker frees a
 * DROPPING slot once no writer has it, so memory layers and files go away in one place.
 *
 * Pointers to slots stay valid for ever but may come to mean another timeline: whoever keeps one across waits keeps
 * the incarnation too.
 *
 * Locks: table_lock for state, ids, ancestry and writer_pid.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_internal.h"

#include "libpq/libpq.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/acl.h"

#define PS_TENANT_ROLE_PREFIX	"neon_t_"
#define PS_WAIT_SLICE_MS		1000
#define PS_GONE_WAIT_MS			10
#define PS_GONE_RETRIES			3000	/* half a minute */

/* ---- who may call ---- */

void
ps_check_access(const char *tenant)
{
	neon_id		id;
	char		role_name[NAMEDATALEN];
	Oid			role = InvalidOid;

	if (superuser())
		return;
	if (neon_id_parse(tenant, &id))
	{
		char		text[NEON_ID_TEXT];

		neon_id_print(&id, text);
		snprintf(role_name, sizeof(role_name), PS_TENANT_ROLE_PREFIX "%s", text);
		role = get_role_oid(role_name, true);
	}
	if (!OidIsValid(role) || !has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for tenant \"%s\"", tenant),
				 errhint("Connect as the role of that tenant.")));
}

/* ---- look-ups ---- */

static PsTimeline *
find_locked(const neon_id *tenant, const neon_id *id)
{
	for (int i = 0; i < ps_max_timelines; i++)
	{
		PsTimeline *tl = &ps_timelines[i];

		if (tl->state == PS_TIMELINE_ACTIVE && neon_id_equal(&tl->id, id) && neon_id_equal(&tl->tenant, tenant))
			return tl;
	}
	return NULL;
}

PsTimeline *
ps_timeline_lookup(const neon_id *tenant, const neon_id *timeline)
{
	PsTimeline *tl;

	LWLockAcquire(&ps_shared->table_lock, LW_SHARED);
	tl = find_locked(tenant, timeline);
	LWLockRelease(&ps_shared->table_lock);
	return tl;
}

PsTimeline *
ps_timeline_open(const char *tenant, const char *timeline)
{
	neon_id		tenant_id;
	neon_id		timeline_id;
	PsTimeline *tl = NULL;

	ps_check_access(tenant);
	ps_wait_loaded();
	if (neon_id_parse(tenant, &tenant_id) && neon_id_parse(timeline, &timeline_id))
		tl = ps_timeline_lookup(&tenant_id, &timeline_id);
	if (tl == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("timeline \"%s\" of tenant \"%s\" does not exist on this pageserver", timeline, tenant),
				 errhint("Create it with neon_pageserver.create_timeline(), or ask the pageserver that has it.")));
	return tl;
}

PsTimeline *
ps_timeline_by_slot(int slot)
{
	PsTimeline *tl = &ps_timelines[slot];
	bool		active;

	LWLockAcquire(&ps_shared->table_lock, LW_SHARED);
	active = tl->state == PS_TIMELINE_ACTIVE;
	LWLockRelease(&ps_shared->table_lock);
	return active ? tl : NULL;
}

uint32
ps_timeline_incarnation(PsTimeline *tl)
{
	return *(volatile uint32 *) &tl->incarnation;
}

bool
ps_timeline_is_live(PsTimeline *tl, uint32 incarnation)
{
	return *(volatile uint32 *) &tl->incarnation == incarnation &&
		*(volatile PsTimelineState *) &tl->state == PS_TIMELINE_ACTIVE;
}

/* ---- what a timeline is.  Ids and ancestry do not change while it is ACTIVE ---- */

const neon_id *
ps_timeline_tenant_id(PsTimeline *tl)
{
	return &tl->tenant;
}

const neon_id *
ps_timeline_id(PsTimeline *tl)
{
	return &tl->id;
}

PsTimeline *
ps_timeline_ancestor(PsTimeline *tl)
{
	return tl->ancestor < 0 ? NULL : &ps_timelines[tl->ancestor];
}

XLogRecPtr
ps_timeline_start_lsn(PsTimeline *tl)
{
	return tl->start_lsn;
}

XLogRecPtr
ps_timeline_last_record_lsn(PsTimeline *tl)
{
	XLogRecPtr	lsn = pg_atomic_read_u64(&tl->last_record_lsn);

	pg_read_barrier();			/* what is read next is at least as new */
	return lsn;
}

XLogRecPtr
ps_timeline_prev_record_lsn(PsTimeline *tl)
{
	return pg_atomic_read_u64(&tl->prev_record_lsn);
}

XLogRecPtr
ps_timeline_disk_consistent_lsn(PsTimeline *tl)
{
	return pg_atomic_read_u64(&tl->disk_consistent_lsn);
}

uint64
ps_timeline_system_id(PsTimeline *tl)
{
	return tl->system_id;
}

uint32
ps_timeline_wal_segment_bytes(PsTimeline *tl)
{
	return tl->wal_segment_bytes;
}

void
ps_timeline_directory(PsTimeline *tl, char *path, size_t path_bytes)
{
	char		tenant[NEON_ID_TEXT];
	char		timeline[NEON_ID_TEXT];

	neon_id_print(&tl->tenant, tenant);
	neon_id_print(&tl->id, timeline);
	snprintf(path, path_bytes, PS_DIRECTORY "/%s/%s", tenant, timeline);
}

/* ---- waiting ---- */

/* Nobody waits for the answer any more: do as the server does for client_connection_check_interval. */
static void
check_client(void)
{
	if (MyProcPort == NULL || pq_check_connection())
		return;
	ClientConnectionLost = true;
	InterruptPending = true;
	CHECK_FOR_INTERRUPTS();
}

/*
 * After a crash a timeline goes on from disk_consistent_lsn, and so does its ancestor: until that has been ingested again up to the
 * branch point, what is read through it would be older than the branch.
 */
bool
ps_timeline_has_history(PsTimeline *tl)
{
	for (PsTimeline *ancestor = ps_timeline_ancestor(tl); ancestor != NULL; tl = ancestor, ancestor = ps_timeline_ancestor(tl))
		if (ps_timeline_last_record_lsn(ancestor) < tl->start_lsn)
			return false;
	return true;
}

static void
wait_lsn(PsTimeline *tl, XLogRecPtr lsn)
{
	uint32		incarnation = ps_timeline_incarnation(tl);
	TimestampTz deadline;

	if (ps_timeline_last_record_lsn(tl) >= lsn)
		return;
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ps_wait_lsn_timeout_ms);
	ConditionVariablePrepareToSleep(&tl->lsn_cv);
	while (ps_timeline_last_record_lsn(tl) < lsn)
	{
		long		left_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (!ps_timeline_is_live(tl, incarnation))
			ereport(ERROR,
					(errcode(PS_ERR_TIMELINE_GONE),
					 errmsg("the timeline was dropped")));
		if (left_ms <= 0)
			ereport(ERROR,
					(errcode(PS_ERR_WAIT_LSN),
					 errmsg("timed out waiting for WAL up to %X/%08X", LSN_FORMAT_ARGS(lsn)),
					 errdetail("The pageserver has WAL up to %X/%08X.",
							   LSN_FORMAT_ARGS(ps_timeline_last_record_lsn(tl))),
					 errhint("Check that the pageserver reaches the safekeepers of the timeline.")));
		(void) ConditionVariableTimedSleep(&tl->lsn_cv, Min(left_ms, PS_WAIT_SLICE_MS), PG_WAIT_EXTENSION);
		check_client();
	}
	ConditionVariableCancelSleep();
}

void
ps_timeline_wait_lsn(PsTimeline *tl, XLogRecPtr lsn)
{
	PsTimeline *child = tl;

	for (PsTimeline *ancestor = ps_timeline_ancestor(child); ancestor != NULL; child = ancestor, ancestor = ps_timeline_ancestor(child))
		wait_lsn(ancestor, child->start_lsn);
	wait_lsn(tl, lsn);
}

/* The first caller loads the table; others wait for it on the lock. */
void
ps_wait_loaded(void)
{
	if (*(volatile bool *) &ps_shared->loaded)
		return;
	if (!ps_catalog_load())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension neon_pageserver does not exist in database \"%s\"", PS_DATABASE),
				 errhint("Run CREATE EXTENSION neon_pageserver there.")));
}

/* ---- the writer ---- */

static void
detach_all(int code, Datum arg)
{
	LWLockAcquire(&ps_shared->table_lock, LW_EXCLUSIVE);
	for (int i = 0; i < ps_max_timelines; i++)
	{
		if (ps_timelines[i].writer_pid == MyProcPid)
			ps_timelines[i].writer_pid = 0;
	}
	LWLockRelease(&ps_shared->table_lock);
}

bool
ps_writer_attach(PsTimeline *tl)
{
	static bool registered = false;
	bool		ok;

	if (!registered)
	{
		before_shmem_exit(detach_all, 0);
		registered = true;
	}
	LWLockAcquire(&ps_shared->table_lock, LW_EXCLUSIVE);
	ok = tl->state == PS_TIMELINE_ACTIVE && (tl->writer_pid == 0 || tl->writer_pid == MyProcPid);
	if (ok)
		tl->writer_pid = MyProcPid;
	LWLockRelease(&ps_shared->table_lock);
	return ok;
}

void
ps_writer_detach(PsTimeline *tl)
{
	if (LWLockHeldByMe(&tl->write_lock))
		LWLockRelease(&tl->write_lock);
	LWLockAcquire(&ps_shared->table_lock, LW_EXCLUSIVE);
	if (tl->writer_pid == MyProcPid)
		tl->writer_pid = 0;
	LWLockRelease(&ps_shared->table_lock);
	ps_wake_flush();
}

/* ---- waking workers ---- */

void
ps_register_ingest_latch(int worker, Latch *latch)
{
	Assert(worker >= 0 && worker < PS_MAX_INGEST_WORKERS);
	ps_shared->ingest_latch[worker] = latch;
}

/* A latch belongs to a PGPROC, which outlives its process: setting a stale one only wakes a stranger. */
static void
set_latches(Latch **latches, int n)
{
	for (int i = 0; i < n; i++)
	{
		Latch	   *latch = *(Latch *volatile *) &latches[i];

		if (latch)
			SetLatch(latch);
	}
}

void
ps_wake_ingest(void)
{
	set_latches(ps_shared->ingest_latch, PS_MAX_INGEST_WORKERS);
}

void
ps_wake_flush(void)
{
	set_latches(ps_shared->flush_latch, PS_MAX_FLUSH_WORKERS);
}

/* ---- slots coming and going (ps_catalog.c decides when) ---- */

PsTimeline *
ps_slot_reserve(void)
{
	PsTimeline *tl = NULL;

	LWLockAcquire(&ps_shared->table_lock, LW_EXCLUSIVE);
	for (int i = 0; i < ps_max_timelines && tl == NULL; i++)
	{
		if (ps_timelines[i].state == PS_TIMELINE_FREE)
			tl = &ps_timelines[i];
	}
	if (tl)
	{
		tl->state = PS_TIMELINE_CREATING;
		tl->incarnation++;
		tl->ancestor = -1;
		tl->writer_pid = 0;
		tl->open_layer = PS_NO_LAYER;
		tl->nfrozen = 0;
	}
	LWLockRelease(&ps_shared->table_lock);
	if (tl == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("this pageserver already has %d timelines", ps_max_timelines),
				 errhint("Raise neon_pageserver.max_timelines and restart the server.")));
	return tl;
}

static bool
slot_lingers(const neon_id *tenant, const neon_id *id)
{
	bool		lingers = false;

	LWLockAcquire(&ps_shared->table_lock, LW_SHARED);
	for (int i = 0; i < ps_max_timelines && !lingers; i++)
		lingers = ps_timelines[i].state == PS_TIMELINE_DROPPING && neon_id_equal(&ps_timelines[i].id, id) &&
			neon_id_equal(&ps_timelines[i].tenant, tenant);
	LWLockRelease(&ps_shared->table_lock);
	return lingers;
}

/* The directory of a dropped timeline goes before one of the same name may be made. */
void
ps_slot_wait_gone(const neon_id *tenant, const neon_id *id)
{
	for (int i = 0; slot_lingers(tenant, id); i++)
	{
		if (i >= PS_GONE_RETRIES)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("a dropped timeline of the same id is still being removed"),
					 errhint("Try again later.")));
		ps_wake_flush();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, PS_GONE_WAIT_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
set_state(PsTimeline *tl, PsTimelineState state)
{
	LWLockAcquire(&ps_shared->table_lock, LW_EXCLUSIVE);
	tl->state = state;
	LWLockRelease(&ps_shared->table_lock);
	pg_atomic_fetch_add_u64(&ps_shared->table_generation, 1);
}

void
ps_slot_activate(PsTimeline *tl)
{
	set_state(tl, PS_TIMELINE_ACTIVE);
	ps_wake_ingest();
}

void
ps_slot_drop(PsTimeline *tl)
{
	set_state(tl, PS_TIMELINE_DROPPING);
	ConditionVariableBroadcast(&tl->lsn_cv);
	ConditionVariableBroadcast(&tl->flush_cv);
	ps_wake_ingest();
	ps_wake_flush();
}

/* Frees memory layers and the slot.  Only the flush worker that owns the slot calls this. */
void
ps_slot_release(PsTimeline *tl)
{
	int			layers[PS_MAX_FROZEN + 1];
	int			n = 0;

	LWLockAcquire(&tl->write_lock, LW_EXCLUSIVE);
	LWLockAcquire(&tl->layers_lock, LW_EXCLUSIVE);
	for (int i = 0; i < tl->nfrozen; i++)
		layers[n++] = tl->frozen[i];
	if (tl->open_layer != PS_NO_LAYER)
		layers[n++] = tl->open_layer;
	tl->nfrozen = 0;
	tl->open_layer = PS_NO_LAYER;
	LWLockRelease(&tl->layers_lock);
	LWLockRelease(&tl->write_lock);
	for (int i = 0; i < n; i++)
		ps_mem_layer_free(layers[i]);
	set_state(tl, PS_TIMELINE_FREE);
}
