/*
 * sk_walfile.h - one timeline's WAL segments on disk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SK_WALFILE_H
#define SK_WALFILE_H

#include "access/xlog_internal.h"
#include "storage/fd.h"
#include "neon_core.h"

#define SK_DIR	"neon_safekeeper/" PG_TEMP_FILES_DIR	/* below the data directory; no base backup has it */

/* A process's view of one log; files are opened as they are needed. */
typedef struct SkWal
{
	char		dir[MAXPGPATH];
	uint32		segment_bytes;
	int			fd;				/* -1: none is open */
	XLogSegNo	fd_segment;
	bool		fd_dirty;		/* written since the last fdatasync */
} SkWal;

extern void sk_timeline_dir(const neon_id *tenant, const neon_id *timeline, char dir[MAXPGPATH]);
extern void sk_make_dir(const char *path);
extern void sk_rename(const char *from, const char *to);

extern void sk_wal_init(SkWal *w, const neon_id *tenant, const neon_id *timeline, uint32 segment_bytes);
extern void sk_wal_close(SkWal *w);

/* Writing: only by the holder of the timeline's lock. */
extern void sk_wal_write(SkWal *w, XLogRecPtr lsn, const char *data, size_t len);
extern void sk_wal_sync(SkWal *w);
struct SkSlot;
extern void sk_wal_prepare_segment(struct SkSlot *slot, XLogSegNo segment);
extern void sk_wal_remove_temporary(SkWal *w);
extern void sk_wal_truncate(SkWal *w, XLogRecPtr lsn);
extern void sk_wal_begin_log(SkWal *w, XLogRecPtr start_lsn, uint64 system_id);
extern void sk_wal_settle(SkWal *w, XLogRecPtr from, XLogRecPtr to);
extern void sk_wal_sync_range(SkWal *w, XLogRecPtr from, XLogRecPtr to);

/* Reading: bytes read, less than asked at a segment's end; 0 when the segment does not exist. */
extern size_t sk_wal_read(SkWal *w, XLogRecPtr lsn, char *buf, size_t len);

#endif							/* SK_WALFILE_H */
