/*
 * sk.h - what the safekeeper's source files share: settings, the table of timelines in shared memory, catalog calls.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SK_H
#define SK_H

#include "access/xlogdefs.h"
#include "port/atomics.h"
#include "storage/fd.h"
#include "nodes/pg_list.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/lwlock.h"

#include "neon_acceptor.h"

/* ---- settings (sk_module.c) ---- */
#define SK_MAX_TIMELINES_MIN		1
#define SK_MAX_TIMELINES_DEFAULT	1000
#define SK_MAX_TIMELINES_MAX		10000
#define SK_DISK_RESERVE_MB_DEFAULT	256
#define SK_CHECKPOINT_S_DEFAULT		10

extern int	sk_node_id;
extern int	sk_max_timelines;
extern int	sk_disk_reserve_mb;
extern int	sk_checkpoint_s;
extern char *sk_database;

extern void sk_check_durable_settings(int elevel);

/* Of a timeline that neither votes nor serves.  Empty, it must not vote before a majority of all has elected without it: its promises are gone. */
#define SK_REJOIN_HINT	\
	"Drop the timeline here; when its endpoint is started while a majority of the safekeepers is there besides this one, it joins as an empty one." 

/* ---- the table of timelines (sk_shmem.c) ---- */
typedef enum SkSlotState
{
	SK_SLOT_FREE = 0,
	SK_SLOT_RESERVED,			/* being created by a transaction, or being loaded */
	SK_SLOT_ACTIVE,
	SK_SLOT_BROKEN				/* visible, but neither votes nor serves: problem says why */
} SkSlotState;

#define SK_PROBLEM_BYTES	400

/*
 * Identity changes only under SkShared->lock, with the state FREE or RESERVED.  The numbers are mirrors of the
 * acceptor's state for those who do not hold the timeline's lock; its holder writes them.
 */
typedef struct SkSlot
{
	pg_atomic_uint32 state;		/* SkSlotState */
	pg_atomic_uint64 generation;	/* counts uses of this slot: a different number is a different timeline */
	neon_id		tenant;
	neon_id		timeline;
	uint64		incarnation;
	uint64		system_id;
	uint32		wal_segment_bytes;
	XLogRecPtr	start_lsn;
	char		problem[SK_PROBLEM_BYTES];

	pg_atomic_uint64 term;
	pg_atomic_uint64 last_log_term;
	pg_atomic_uint64 serving_term;	/* reads above commit_lsn are for this term only; 0: for nobody */
	pg_atomic_uint64 write_lsn;
	pg_atomic_uint64 flush_lsn; /* end of the last complete, durable record */
	pg_atomic_uint64 last_record_start;
	pg_atomic_uint64 commit_lsn;
	pg_atomic_uint64 persisted_commit_lsn;

	/* under the timeline's lock */
	uint64		last_writer;	/* session that wrote last: another one has to look at the files again */
	bool		tail_dirty;		/* bytes behind write_lsn may have been written by a write that failed */

	pg_atomic_uint64 wanted_segment;	/* to be made ahead of time by the worker; 0: none */
	pg_atomic_uint32 senders;
	pg_atomic_uint32 term_senders;	/* those of them that read above commit_lsn */
} SkSlot;

typedef struct SkShared
{
	LWLock	   *lock;			/* the table: who has which slot */
	pg_atomic_uint32 ready;		/* the catalog was read: what is not in the table does not exist */
	pg_atomic_uint64 next_session;
	Latch	   *worker_latch;	/* under lock; NULL while the worker is not there */
	int			nprocs;
	SkSlot		slots[FLEXIBLE_ARRAY_MEMBER];
} SkShared;

extern SkShared *sk_shared;

extern void sk_shmem_init(void);
extern neon_acceptor *sk_slot_acceptor(SkSlot *slot);
extern SkSlot *sk_slot_find(const neon_id *tenant, const neon_id *timeline, uint64 *generation);
extern SkSlot *sk_slot_reserve(const neon_id *tenant, const neon_id *timeline);
extern void sk_slot_set_state(SkSlot *slot, SkSlotState state);
extern void sk_slot_free(SkSlot *slot);
extern void sk_slots_reset(void);
extern void sk_slot_publish(SkSlot *slot);
extern bool sk_ready(void);
extern void sk_require_ready(void);
extern void sk_wake_worker(void);

/* The timeline's lock: whoever drives its acceptor or writes its files.  A heavyweight lock, so waits can be cancelled. */
extern bool sk_slot_lock(SkSlot *slot, bool session, bool wait);
extern void sk_slot_unlock(SkSlot *slot);
extern void sk_creation_lock(void);	/* until the transaction ends */

/* WAL senders sleep on their latch. */
extern void sk_sender_register(SkSlot *slot, bool above_commit);
extern void sk_sender_unregister(void);
extern void sk_wake_senders(SkSlot *slot);

/* ---- catalog (sk_catalog.c) ---- */
typedef struct SkTimelineRow
{
	neon_id		tenant;
	neon_id		timeline;
	XLogRecPtr	start_lsn;
	uint64		system_id;
	uint32		wal_segment_bytes;
	uint64		incarnation;
	neon_configuration conf;
	neon_term	term;
	XLogRecPtr	commit_lsn;
	XLogRecPtr	truncate_lsn;
	neon_term_history *history; /* palloc'd */
	bool		damaged;		/* some columns make no sense; the ids do */
} SkTimelineRow;

extern bool sk_catalog_exists(void);
extern List *sk_catalog_load(MemoryContext context);	/* of SkTimelineRow * */
extern bool sk_catalog_find(const neon_id *tenant, const neon_id *timeline, SkTimelineRow *row);
extern bool sk_catalog_tenant_exists(const neon_id *tenant);
extern bool sk_catalog_insert(const SkTimelineRow *row);
extern void sk_catalog_delete(const SkTimelineRow *row);
extern void sk_catalog_persist(SkSlot *slot, const neon_acceptor_durable *next);
extern List *sk_catalog_dropped(MemoryContext context); /* of SkTimelineRow *, ids and incarnation only */
extern void sk_catalog_forget_dropped(const SkTimelineRow *row);

/* ---- incarnation and term beside the WAL (sk_termfile.c) ---- */
#define SK_TERMFILE	"term"

typedef enum SkTermFileState
{
	SK_TERMFILE_OK,
	SK_TERMFILE_MISSING,
	SK_TERMFILE_DAMAGED
} SkTermFileState;

extern void sk_termfile_write(const char *dir, uint64 incarnation, neon_term term);
extern SkTermFileState sk_termfile_read(const char *dir, uint64 *incarnation, neon_term *term);

/* ---- one timeline (sk_timeline.c, sk_scan.c) ---- */
typedef struct SkScan
{
	XLogRecPtr	end;			/* end of the last complete record */
	XLogRecPtr	last_record_start;	/* 0: none */
	const char *stopped;		/* why the scan ended there */
} SkScan;

extern void sk_timeline_load(const SkTimelineRow *row);
extern void sk_remove_dropped_files(const SkTimelineRow *row);
extern void sk_id_arg(const char *what, text *value, neon_id *id);
extern void *sk_realloc(void *p, size_t n, void *arg);

struct SkWal;
extern void sk_scan_tail(struct SkWal *w, XLogRecPtr start_lsn, XLogRecPtr from, XLogRecPtr until,
						 SkScan *out);

/* ---- who may call (sk_timeline.c) ---- */
extern void sk_check_tenant_access(const neon_id *tenant, Oid roleid, bool is_superuser, const char *role_name);

/* The acceptor's storage when nothing but persist_state will be called (sk_push.c). */
extern const neon_acceptor_storage sk_storage;

/* ---- replication connections (sk_replication.c, sk_walsender.c) ---- */
extern void sk_replication_init(void);
extern void sk_send_wal(SkSlot *slot, uint64 generation, XLogRecPtr start, neon_term term);

/* ---- the broker (sk_broker.c) ---- */
extern void sk_broker_init(void);

extern PGDLLEXPORT void sk_worker_main(Datum arg);
extern PGDLLEXPORT void sk_broker_main(Datum arg);

#endif							/* SK_H */
