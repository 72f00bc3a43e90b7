/*
 * ps_ingest.h - what the files of WAL ingest share: the state of one timeline's ingest and the puts of special records.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PS_INGEST_H
#define NEON_PS_INGEST_H

#include "access/transam.h"
#include "catalog/pg_control.h"
#include "common/relpath.h"
#include "port/pg_bswap.h"
#include "utils/hsearch.h"

#include "ps.h"

/* The control file of the imported cluster travels as an auxiliary file of this name: the template of a base backup's. */
#define PS_CONTROL_FILE_PATH	"global/pg_control"

/* Pages in a segment of an SLRU (slru.h says so too, but drags much in). */
#define PS_SLRU_PAGES_PER_SEGMENT	32

#define PS_SIZE_CACHE_MAX	(64 * 1024)	/* relation forks whose size one ingest remembers */

/* Sizes of relation forks and SLRU segments; key is that of the size version, with kind. */
typedef struct PsSizeEntry
{
	neon_key	key;			/* hash key */
	uint32		nblocks;		/* NEON_SIZE_ABSENT when there is none */
	bool		dirty;			/* differs from what was last put */
} PsSizeEntry;

struct PsIngest
{
	PsTimeline *tl;
	MemoryContext context;		/* lives as long as the ingest */
	MemoryContext record_context;	/* reset after every record */

	/* state that every record may change; put once at the end of the record when dirty */
	FullTransactionId next_xid;
	bool		next_xid_dirty;
	CheckPoint	checkpoint;
	bool		checkpoint_dirty;
	HTAB	   *sizes;
	PsSizeEntry **dirty_sizes;
	int			ndirty_sizes;
	int			dirty_sizes_cap;

	/* the record at hand */
	const neon_wal_record *rec;
	neon_wal_parsed parsed;

	/* what ps_commit was not told yet */
	bool		pending;
	XLogRecPtr	last_end;
	XLogRecPtr	last_start;
};

/* ---- ps_ingest.c ---- */
/* Makes everything put so far visible.  Never called in the middle of a record that has put something. */
extern void ps_ingest_commit(PsIngest *ing);
/* After an error: ends without a commit. */
extern void ps_ingest_abandon(PsIngest *ing);
extern uint32 ps_ingest_size(PsIngest *ing, neon_key_kind kind, uint32 spc, uint32 db, uint32 rel, uint8 fork);
extern void ps_ingest_set_size(PsIngest *ing, neon_key_kind kind, uint32 spc, uint32 db, uint32 rel, uint8 fork,
							   uint32 nblocks);
/* Create the fork and extend it so that blk exists. */
extern void ps_ingest_extend(PsIngest *ing, neon_key_kind kind, uint32 spc, uint32 db, uint32 rel, uint8 fork,
							 uint32 blk);
/* Everything at and after block nblocks is gone as of this record. */
extern void ps_ingest_cut(PsIngest *ing, uint32 spc, uint32 db, uint32 rel, uint8 fork, uint32 nblocks);
extern void ps_ingest_drop_rel(PsIngest *ing, uint32 spc, uint32 db, uint32 rel);
extern void ps_ingest_note_xid(PsIngest *ing, TransactionId xid);
extern void ps_ingest_put_image(PsIngest *ing, const neon_key *key, const void *bytes, uint32 len);
extern void ps_ingest_put_record(PsIngest *ing, const neon_key *key, bool will_init);
extern void ps_ingest_put_u64(PsIngest *ing, const neon_key *key, uint64 value);
/* The record's main data, at least `need` bytes of it, or an error that names the record. */
extern const uint8 *ps_ingest_main_data(PsIngest *ing, uint32 need);
extern void ps_ingest_corrupt(PsIngest *ing, const char *what) pg_attribute_noreturn();

/* ---- ps_ingest_block.c ---- */
extern void ps_ingest_blocks(PsIngest *ing);
extern void ps_ingest_visibility(PsIngest *ing);

/* ---- ps_ingest_slru.c ---- */
extern void ps_ingest_xid_status(PsIngest *ing, TransactionId xid, int nsubxids, const TransactionId *subxids);
extern void ps_ingest_clog(PsIngest *ing);
extern void ps_ingest_multixact(PsIngest *ing);

/* ---- ps_ingest_xact.c ---- */
extern void ps_ingest_xact(PsIngest *ing);

/* ---- ps_ingest_smgr.c ---- */
extern void ps_ingest_smgr(PsIngest *ing);
extern void ps_ingest_dbase(PsIngest *ing);
extern void ps_ingest_relmap(PsIngest *ing);

/* ---- ps_ingest_misc.c ---- */
extern void ps_ingest_xlog(PsIngest *ing);
extern void ps_ingest_standby(PsIngest *ing);
extern void ps_ingest_logicalmsg(PsIngest *ing);
extern void ps_ingest_replorigin(PsIngest *ing);
/* Auxiliary files: the key of a path, and a version of it.  content NULL: removed. */
extern void ps_aux_file_key(const char *path, neon_key *key);
extern uint8 *ps_aux_file_value(const char *path, const void *content, uint32 content_len, uint32 *len);

/* ---- helpers ---- */
static inline neon_key
ps_key(neon_key_kind kind, uint32 spc, uint32 db, uint32 rel, uint8 fork, uint32 blk)
{
	neon_key	key = {.spc = spc,.db = db,.rel = rel,.blk = blk,.kind = (uint8) kind,.fork = fork,.pad = 0};

	return key;
}

static inline neon_key
ps_slru_block_key(neon_slru_kind kind, uint32 pageno)
{
	return ps_key(NEON_KEY_SLRU_BLOCK, kind, 0, pageno / PS_SLRU_PAGES_PER_SEGMENT, 0,
				  pageno % PS_SLRU_PAGES_PER_SEGMENT);
}

static inline void
ps_be32(uint8 *to, uint32 v)
{
	v = pg_hton32(v);
	memcpy(to, &v, 4);
}

static inline uint32
ps_get_be32(const uint8 *from)
{
	uint32		v;

	memcpy(&v, from, 4);
	return pg_ntoh32(v);
}

static inline void
ps_be64(uint8 *to, uint64 v)
{
	v = pg_hton64(v);
	memcpy(to, &v, 8);
}

static inline uint64
ps_get_be64(const uint8 *from)
{
	uint64		v;

	memcpy(&v, from, 8);
	return pg_ntoh64(v);
}

#endif							/* NEON_PS_INGEST_H */
