/*
 * ps_internal.h - the parts of the pageserver that only its own files see: shared memory, workers, settings.
 *
 * ps.h is the contract (what a timeline can do); this header says how it is laid out.
 *
 * Locks, in the order they are taken:
 *   table_lock (LWLock)      the slots of the timeline table: state, ids, ancestry
 *   write_lock (LWLock)      a timeline's writer from the first ps_put of a batch to ps_commit; whoever freezes the open layer
 *   layers_lock (LWLock)     which memory layers a timeline has.  Readers hold it shared while they look into memory
 *                            layers, so a layer that was taken off the list under the exclusive lock has no readers
 *   pool_mutex (spinlock)    free lists of segments and layer descriptors
 * The writer appends to the open layer without layers_lock: readers see a version only through pointers that were
 * stored with release order, and never look above last_record_lsn.
 *
 * Crash rule: everything here is rebuilt from the catalog.  Versions above disk_consistent_lsn are ingested again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PS_INTERNAL_H
#define PS_INTERNAL_H

#include "ps.h"

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#define PS_SCHEMA				"neon_pageserver"
#define PS_DIRECTORY			"neon_pageserver"	/* under the data directory: <tenant>/<timeline>/<layer file> */
#define PS_DATABASE				"postgres"

#define PS_SEGMENT_BYTES		(256 * 1024)	/* unit in which memory layers take space from the pool */
#define PS_MAX_FROZEN			8	/* frozen layers of one timeline that may wait for the flush worker */
#define PS_MAX_INGEST_WORKERS	16
#define PS_MAX_FLUSH_WORKERS	8
#define PS_NO_LAYER				(-1)

/* ---- SQLSTATEs of the project's class ---- */
#define PS_ERR_WAIT_LSN			MAKE_SQLSTATE('N', 'E', '0', '0', '1')	/* WAL did not arrive in time */
#define PS_ERR_LSN_TOO_OLD		MAKE_SQLSTATE('N', 'E', '0', '0', '2')	/* below the timeline's start or the GC cutoff */
#define PS_ERR_TIMELINE_GONE	MAKE_SQLSTATE('N', 'E', '0', '0', '3')	/* dropped while in use */

/* ---- settings (ps_main.c) ---- */
extern int	ps_max_timelines;
extern int	ps_open_layer_memory_mb;
extern int	ps_checkpoint_distance_kb;
extern int	ps_checkpoint_timeout_s;
extern int	ps_wait_lsn_timeout_ms;
extern int	ps_flush_workers;
extern int	ps_disk_reserve_mb;

extern void ps_check_durable_settings(int elevel);

/* ---- shared memory ---- */
typedef enum PsTimelineState
{
	PS_TIMELINE_FREE = 0,
	PS_TIMELINE_CREATING,		/* its row is in a transaction that has not committed */
	PS_TIMELINE_ACTIVE,
	PS_TIMELINE_DROPPING		/* its row is gone; the slot is freed when its writer has let go */
} PsTimelineState;

struct PsTimeline
{
	/* under table_lock */
	PsTimelineState state;
	uint32		incarnation;	/* changes whenever the slot is used anew */
	neon_id		tenant;
	neon_id		id;
	int			ancestor;		/* slot, or -1; stays while this timeline lives */
	XLogRecPtr	start_lsn;		/* branch point, or end of the import */
	uint64		system_id;
	uint32		wal_segment_bytes;
	pid_t		writer_pid;		/* the ingest worker that owns the timeline, or 0 */

	LWLock		write_lock;
	LWLock		layers_lock;

	pg_atomic_uint64 last_record_lsn;	/* stored last, with release order */
	pg_atomic_uint64 prev_record_lsn;
	pg_atomic_uint64 disk_consistent_lsn;	/* everything at or below is in layer files that have rows */
	pg_atomic_uint64 map_generation;	/* of the rows in neon_pageserver.layers; bumped under layers_lock */

	/* under layers_lock: indexes of memory layers, frozen ones oldest first */
	int			open_layer;
	int			nfrozen;
	int			frozen[PS_MAX_FROZEN];

	TimestampTz open_since;		/* when the open layer got its first version */

	ConditionVariable lsn_cv;	/* last_record_lsn moved, or the timeline is dropped */
	ConditionVariable flush_cv; /* disk_consistent_lsn moved, or the timeline is dropped */
};

/* A memory layer: versions with start_lsn < lsn <= end_lsn of one timeline, in segments of the pool.  See ps_open_layer.c. */
typedef struct PsMemLayer
{
	int			next_free;
	uint64		serial;			/* never the same for two layers */
	XLogRecPtr	start_lsn;		/* exclusive */
	XLogRecPtr	end_lsn;		/* inclusive; InvalidXLogRecPtr while open */
	XLogRecPtr	end_prev_lsn;	/* start of the record that ends at end_lsn */
	uint32		first_segment;	/* chained through the segments' headers */
	uint32		last_segment;
	uint32		nsegments;
	uint32		used_bytes;		/* in the last segment, header included */
	uint32		roots;			/* pool offset of the hash roots */
	uint32		kind_heads[NEON_KEY_KIND_COUNT];	/* lists of keys by kind */
	uint64		nkeys;
	uint64		nversions;
} PsMemLayer;

typedef struct PsShared
{
	LWLock		table_lock;
	LWLock		load_lock;		/* one process loads the catalog */
	bool		loaded;			/* the timeline table mirrors the catalog */
	pg_atomic_uint64 table_generation;	/* bumped when a timeline comes or goes */

	slock_t		pool_mutex;
	uint32		nsegments;
	uint32		nused_segments;
	uint32		ntouched_segments;	/* those above have never been used, and cost no memory yet */
	uint32		free_segment;	/* head of the free list, as segment number + 1 */
	int			nlayers;
	int			free_layer;		/* head of the free list */
	uint64		layer_serial;

	Latch	   *ingest_latch[PS_MAX_INGEST_WORKERS];
	Latch	   *flush_latch[PS_MAX_FLUSH_WORKERS];
	ConditionVariable pool_cv;	/* segments were freed */
} PsShared;

extern PsShared *ps_shared;
extern PsTimeline *ps_timelines;	/* ps_max_timelines slots */
extern PsMemLayer *ps_mem_layers;
extern char *ps_pool;

/* ---- timeline table (ps_timeline.c) ---- */
extern char *ps_text_arg(FunctionCallInfo fcinfo, int n, const char *what); /* procedures cannot be STRICT */
extern void ps_check_access(const char *tenant);	/* ERROR 42501 unless the session may use the tenant */
extern void ps_wait_loaded(void);	/* loads the table if nobody has; ERROR with hint when the extension is missing */
extern PsTimeline *ps_timeline_by_slot(int slot);	/* NULL unless ACTIVE; slot < ps_max_timelines */
extern uint32 ps_timeline_incarnation(PsTimeline *tl);
extern bool ps_timeline_is_live(PsTimeline *tl, uint32 incarnation);	/* still the timeline it was, and not dropped */
extern void ps_timeline_directory(PsTimeline *tl, char *path, size_t path_bytes);	/* relative to the data directory */
/* An ingest worker claims a timeline before it puts; false when another process has it or it is being dropped. */
extern PGDLLEXPORT bool ps_writer_attach(PsTimeline *tl);
extern PGDLLEXPORT void ps_writer_detach(PsTimeline *tl);
/* Latches set when a timeline comes or goes (ingest), or something is to be flushed.  slot: the worker's number. */
extern void ps_register_ingest_latch(int worker, Latch *latch); /* NULL unregisters */
extern void ps_wake_ingest(void);
extern void ps_wake_flush(void);

/* Slots: reserved before the row is written, active when it is committed, dropped after it is gone, released by the flush worker. */
extern PsTimeline *ps_slot_reserve(void);
extern void ps_slot_wait_gone(const neon_id *tenant, const neon_id *id);	/* until no dropped slot has these ids */
extern void ps_slot_activate(PsTimeline *tl);
extern void ps_slot_drop(PsTimeline *tl);
extern void ps_slot_release(PsTimeline *tl);

/* ---- catalog (ps_catalog.c) ---- */
extern bool ps_catalog_load(void);	/* false when the extension does not exist (yet) */
extern List *ps_timeline_safekeepers(PsTimeline *tl);	/* connection strings, in CurrentMemoryContext */

/*
 * Reading the catalog from any session: starts a transaction unless one is open, connects SPI, becomes the bootstrap superuser
 * and takes the newest snapshot whatever the isolation level.  An ERROR in between is undone by the transaction's abort.
 */
typedef struct PsCatalogScope
{
	bool		own_transaction;
	Oid			user;
	int			security_context;
	MemoryContext caller;
} PsCatalogScope;

extern void ps_catalog_begin(PsCatalogScope *scope);
extern void ps_catalog_end(PsCatalogScope *scope);

/* A row of neon_pageserver.layer. */
typedef struct PsLayerRow
{
	uint64		id;				/* given by the catalog when inserted */
	char		file[MAXPGPATH];	/* name in the timeline's directory */
	int			kind;			/* neon_layer_kind */
	int			level;
	neon_key	key_first;
	neon_key	key_last;
	XLogRecPtr	lsn_lo;
	XLogRecPtr	lsn_hi;
	uint64		file_bytes;
} PsLayerRow;

extern List *ps_catalog_layers(PsTimeline *tl); /* PsLayerRow *, in CurrentMemoryContext */
/* SPI is connected; inserts and sets row->id. */
extern void ps_catalog_insert_layer(const char *tenant, const char *timeline, PsLayerRow *row);

/* ---- provided by ingest (ps_ingest*.c, ps_bootstrap.c) ---- */
typedef struct PsBootstrap
{
	XLogRecPtr	start_lsn;		/* end of the import: the timeline's first WAL position */
	XLogRecPtr	prev_lsn;		/* start of the last record before it, 0 when unknown */
	uint64		system_id;
	uint32		wal_segment_bytes;
} PsBootstrap;

/* Registers the ingest workers.  Called in _PG_init. */
extern void ps_ingest_init(void);
/* Writes the image layer of a fresh cluster to `path` (through ps_image_writer_*): made by initdb once, then reused. */
extern void ps_bootstrap(const char *path, PsBootstrap *out);

/* ---- provided by redo (ps_redo*.c) ---- */
extern void ps_redo_init(void);

/* ---- memory layers (ps_open_layer.c, ps_pool.c) ---- */
extern Size ps_pool_shmem_bytes(void);
extern void ps_pool_init(void); /* at shared memory creation */
extern bool ps_pool_short(void);	/* large open layers are to be frozen although they are not full */
extern bool ps_pool_scarce(void);	/* writers have to wait */
extern uint32 ps_segment_take(void);	/* segment number; waits (bounded) for one */
extern int	ps_layer_take(void);	/* descriptor, zeroed; PS_NO_LAYER when there is none */
extern PGDLLEXPORT int	ps_freeze(PsTimeline *tl);	/* 1: froze something, 0: nothing to freeze, -1: the frozen list is full */
extern bool ps_freeze_unless_busy(PsTimeline *tl);	/* froze something; not while it is being written */
extern void ps_discard_uncommitted(PsTimeline *tl);
extern void ps_mem_layer_free(int layer);	/* no longer reachable by readers */
extern uint64 ps_mem_layer_bytes(const PsMemLayer *layer);

typedef struct PsMemVersion
{
	XLogRecPtr	lsn;
	uint32		flags;
	uint32		len;
	uint32		data;			/* pool offset of the first byte */
	uint32		prev;			/* pool offset of the next older version, 0 if none */
} PsMemVersion;

typedef struct PsMemKey
{
	uint32		child[4];		/* pool offsets; see ps_open_layer.c */
	uint32		head;			/* newest version */
	uint32		kind_next;		/* the key put before this one, of the same kind */
	neon_key	key;
} PsMemKey;

/* Pool offsets count units of 8 bytes; 0 is nothing (it would be a segment's header). */
#define PS_POOL_PTR(off)	((void *) (ps_pool + ((Size) (off) << 3)))

/* Newest version at or below lsn; NULL if none.  Then `prev` leads to older ones: ps_mem_older. */
extern const PsMemVersion *ps_mem_find(const PsMemLayer *layer, const neon_key *key, XLogRecPtr lsn);
extern const PsMemVersion *ps_mem_newest(const PsMemKey *key, XLogRecPtr lsn);
extern const PsMemVersion *ps_mem_older(const PsMemVersion *v);
extern void ps_mem_copy(const PsMemVersion *v, uint8 *to);
/* The bytes in place, or NULL when they cross a segment's end and have to be copied. */
extern const uint8 *ps_mem_bytes(const PsMemVersion *v);
/* Keys of a kind, in no order: start with layer->kind_heads[kind]. */
extern const PsMemKey *ps_mem_first_key(const PsMemLayer *layer, neon_key_kind kind);
extern const PsMemKey *ps_mem_next_key(const PsMemKey *key);

/* ---- reading (ps_read.c), beyond ps.h ---- */
extern PGDLLEXPORT void (*ps_map_taken_hook) (void);	/* tests: a read knows its files and has opened none of them */
extern uint64 ps_layers_visited;	/* layer files that were searched by this process, filters passed */
/* The newest image of a key above the floor; NULL if none.  version_lsn may be NULL. */
extern uint8 *ps_get_image(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, XLogRecPtr floor,
						   uint32 *len, XLogRecPtr *version_lsn);
/* LSN of the last truncation, drop or creation at or below lsn that took the block away; 0 if none. */
extern XLogRecPtr ps_last_cut(PsTimeline *tl, const neon_key *block, XLogRecPtr lsn);
extern XLogRecPtr ps_newest_cut(PsTimeline *tl, const neon_key *block, XLogRecPtr lsn, XLogRecPtr floor, uint32 *left);

/* ---- pages and sizes (ps_getpage.c), beyond ps.h ---- */
extern uint32 ps_slru_size(PsTimeline *tl, uint32 slru_kind, uint32 segment, XLogRecPtr lsn);	/* NEON_SIZE_ABSENT if none */
/* Blocks of an SLRU segment, at most max_blocks; returns their number, 0 when the segment does not exist. */
extern uint32 ps_get_slru_segment(PsTimeline *tl, uint32 slru_kind, uint32 segment, XLogRecPtr lsn,
								  char *to, uint32 max_blocks);
extern uint64 ps_database_bytes(PsTimeline *tl, uint32 spc, uint32 db, XLogRecPtr lsn);

/* ---- flush (ps_flush.c) ---- */
extern void ps_flush_register(void);

/* ---- compaction (ps_compact.c) ---- */
extern int	ps_compaction_threshold;
extern int	ps_compaction_target_kb;
extern void ps_compact_register(void);

#endif							/* PS_INTERNAL_H */
