/*
 * ps.h - what the files of the pageserver share: the timeline table, the versioned store, redo.
 *
 * A timeline's history is a set of versions (key, LSN, flags, bytes).  Newest versions live in the open layer in shared
 * memory, older ones in immutable layer files, those before the branch point in the ancestor.
 *
 * Locks: see each part's file.  Crash rule: the open layer is lost in a crash and is read again from the
 * safekeepers starting at disk_consistent_lsn; catalogs name every file that counts.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PS_H
#define NEON_PS_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "lib/stringinfo.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#include "neon_core.h"
#include "neon_pagestream.h"
#include "neon_wal.h"

/* PGDLLEXPORT: used by the test module store_test, which links against the loaded module. */

/* ---- versions ---- */
#define PS_VALUE_IMAGE		0x01	/* bytes are the object's whole content (an 8192-byte page for blocks) */
#define PS_VALUE_WILL_INIT	0x02	/* needs nothing older: set on every image and on records that initialise the page */
#define PS_VALUE_RECORD		0x04	/* bytes are a WAL record (whole, as in the log) */

typedef struct PsVersion
{
	XLogRecPtr	lsn;			/* EndRecPtr of the record */
	uint32		flags;
	uint32		len;
	const uint8 *bytes;
} PsVersion;

/* A chain answers "what rebuilds key at lsn": versions newest first, the last one has WILL_INIT if `complete`. */
typedef struct PsChain
{
	int			nversions;
	int			capacity;
	PsVersion  *versions;
	bool		complete;
	MemoryContext context;		/* owns versions and their bytes */
} PsChain;

/* ---- timelines (ps_timeline.c): a table in shared memory, loaded from the catalog at start ---- */
typedef struct PsTimeline PsTimeline;	/* opaque; lives in shared memory until the timeline is dropped */

/* ERROR (42704 with hint) when there is none; checks that the session may use the tenant (42501). */
extern PGDLLEXPORT PsTimeline *ps_timeline_open(const char *tenant, const char *timeline);
extern PsTimeline *ps_timeline_lookup(const neon_id *tenant, const neon_id *timeline);	/* NULL if none, no checks */
extern const neon_id *ps_timeline_tenant_id(PsTimeline *tl);
extern PGDLLEXPORT const neon_id *ps_timeline_id(PsTimeline *tl);
extern PGDLLEXPORT PsTimeline *ps_timeline_ancestor(PsTimeline *tl);	/* NULL for a root */
extern PGDLLEXPORT XLogRecPtr ps_timeline_start_lsn(PsTimeline *tl);	/* branch point, or end of the import */
extern PGDLLEXPORT XLogRecPtr ps_timeline_last_record_lsn(PsTimeline *tl);
extern XLogRecPtr ps_timeline_prev_record_lsn(PsTimeline *tl); /* start of the last ingested record, 0 if none */
extern XLogRecPtr ps_timeline_disk_consistent_lsn(PsTimeline *tl);
extern uint64 ps_timeline_system_id(PsTimeline *tl);
extern uint32 ps_timeline_wal_segment_bytes(PsTimeline *tl);
/* Waits with interrupts until last_record_lsn >= lsn; ERROR (57014-like NE0xx with hint) after neon_pageserver.wait_lsn_timeout. */
extern bool ps_timeline_has_history(PsTimeline *tl);	/* ancestors are ingested up to where it began */
extern void ps_timeline_wait_lsn(PsTimeline *tl, XLogRecPtr lsn);	/* and for that */

/* ---- store, reading (ps_read.c): any backend.  lsn bounds are inclusive ---- */
/* Newest first down to a WILL_INIT version, through ancestors.  `floor`: versions at or below it are not looked at (0 = none). */
extern PGDLLEXPORT void ps_get_chain(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, XLogRecPtr floor, PsChain *chain);
/* For keys that only have images: the newest at or below lsn.  NULL if none.  palloc'd; version_lsn may be NULL. */
extern uint8 *ps_get_value(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, uint32 *len, XLogRecPtr *version_lsn);
/* All versions of one key with lo < lsn <= hi, newest first, not stopping at WILL_INIT. */
extern PGDLLEXPORT void ps_get_versions(PsTimeline *tl, const neon_key *key, XLogRecPtr lo, XLogRecPtr hi, PsChain *chain);
/* Calls back for each key in [from, to] (encoded order) that has a version at or below lsn; the newest is in `v`. */
typedef bool (*ps_scan_fn) (const neon_key *key, const PsVersion *v, void *arg);	/* false stops */
extern PGDLLEXPORT void ps_scan(PsTimeline *tl, const neon_key *from, const neon_key *to, XLogRecPtr lsn, ps_scan_fn fn, void *arg);
/* Relation size at lsn; NEON_SIZE_ABSENT when it does not exist. */
extern uint32 ps_rel_size(PsTimeline *tl, uint32 spc, uint32 db, uint32 rel, uint8 fork, XLogRecPtr lsn);
/* The page at lsn, rebuilt (cuts looked up first; redo applied).  ERROR DATA_CORRUPTED names key and LSN. */
extern void ps_get_page(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, char page[BLCKSZ]);

/* ---- store, writing: only the worker that owns the timeline's ingest (ps_ingest.c) ---- */
/* Versions become visible to readers at ps_commit, which is called once a record (or a batch of records) is complete. */
extern PGDLLEXPORT void ps_put(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, uint32 flags, const void *bytes, uint32 len);
extern void ps_put_size(PsTimeline *tl, uint32 spc, uint32 db, uint32 rel, uint8 fork, XLogRecPtr lsn, uint32 nblocks);
extern PGDLLEXPORT void ps_commit(PsTimeline *tl, XLogRecPtr last_record_lsn, XLogRecPtr prev_record_lsn);
/* Blocks (with interrupts) while the open layers are over their budget, so that flush can keep up. */
extern PGDLLEXPORT void ps_throttle(PsTimeline *tl);
/* Freeze the open layer and wait until it is durable. */
extern void ps_flush_now(PsTimeline *tl);

/*
 * Import: writes image versions (keys in ascending order) straight into one image layer file at `lsn`.
 * Rows are inserted by ps_timeline_create in the same transaction as the timeline's row.
 */
typedef struct PsImageWriter PsImageWriter;
extern PsImageWriter *ps_image_writer_begin(const char *path, XLogRecPtr lsn);
extern void ps_image_writer_add(PsImageWriter *w, const neon_key *key, const void *bytes, uint32 len);
extern void ps_image_writer_finish(PsImageWriter *w);	/* fsyncs file and directory */

/* ---- redo (ps_redo*.c) ---- */
/*
 * Rebuild the page of `key` (REL_BLOCK or SLRU_BLOCK) from a complete chain.  Native for images, heap, heap2, btree insert,
 * visibility map flags, CLOG and multixact; anything else through the redo process.  The result's LSN is that of the newest
 * version (SLRU pages have none).  ERROR DATA_CORRUPTED when a record does not apply.
 */
extern void ps_redo(const neon_key *key, const PsChain *chain, char page[BLCKSZ]);

/* ---- special records (ps_ingest_*.c) ---- */
/* Decode one record and put all its versions.  Called by the ingest worker, and by tests over a WAL directory. */
typedef struct PsIngest PsIngest;
extern PsIngest *ps_ingest_begin(PsTimeline *tl);	/* loads checkpoint, next xid and sizes as of last_record_lsn */
extern void ps_ingest_record(PsIngest *ing, const neon_wal_record *rec);
extern void ps_ingest_end(PsIngest *ing);

#endif							/* NEON_PS_H */
