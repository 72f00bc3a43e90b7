/*
 * sk_walfile.c - one timeline's WAL segments on disk.
 *
 * $PGDATA/neon_safekeeper/pgsql_tmp/<tenant>/<timeline>/0000000100000000000000NN, in the server's own format and
 * naming, so that pg_waldump reads them (why pgsql_tmp: sk_termfile.c).  A segment gets its name only when all of it is zero-filled and durable; later
 * writes change no metadata and one fdatasync makes them durable.
 *
 * Invariant (rule 2): behind the end of the log every byte is zero, in its segment and in the next one, which may have
 * been made ahead of time, and no other segment exists, before that end is acknowledged to anybody.  Truncation unlinks first and zeroes after: whatever a crash leaves
 * in between is a longer or a shorter piece of the old log, and the tail scan at the next start truncates again.
 *
 * Locks: writers hold the timeline's lock (sk_shmem.h).  A file that is open here may be unlinked by another
 * process's truncation; the holder of the lock notices by the slot's log version and calls sk_wal_close first.
 *
 * Plain descriptors are used, not the server's virtual ones: those are closed when a transaction ends, and the loops
 * that use these files commit in between.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"

#include "neon_wal.h"
#include "sk.h"
#include "sk_walfile.h"

#define ZERO_CHUNK_BYTES	(256 * 1024)

void
sk_timeline_dir(const neon_id *tenant, const neon_id *timeline, char dir[MAXPGPATH])
{
	char		tenant_text[NEON_ID_TEXT];
	char		timeline_text[NEON_ID_TEXT];

	neon_id_print(tenant, tenant_text);
	neon_id_print(timeline, timeline_text);
	snprintf(dir, MAXPGPATH, "%s/%s/%s", SK_DIR, tenant_text, timeline_text);
}

/* mkdir -p, durable. */
void
sk_make_dir(const char *path)
{
	char		part[MAXPGPATH];

	for (const char *slash = strchr(path, '/');; slash = strchr(slash + 1, '/'))
	{
		size_t		n = slash ? (size_t) (slash - path) : strlen(path);
		char	   *up;

		memcpy(part, path, n);
		part[n] = '\0';
		if (MakePGDirectory(part) == 0)
		{
			fsync_fname(part, true);
			up = strrchr(part, '/');
			if (up)
				*up = '\0';
			fsync_fname(up ? part : ".", true);
		}
		else if (errno != EEXIST)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not create directory \"%s\": %m", part)));
		if (slash == NULL)
			break;
	}
}

/*
 * Rename in one directory, durably.  A name that is not known to be durable must not be used: the next one to find it would
 * take it for durable.  So a failed fsync of the directory is a PANIC, as fsync_fname has it.
 */
void
sk_rename(const char *from, const char *to)
{
	char		parent[MAXPGPATH];

	if (rename(from, to) != 0)
	{
		int			save_errno = errno;

		(void) unlink(from);	/* a file is of no use any more; a directory stays */
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rename \"%s\" to \"%s\": %m", from, to)));
	}
	strlcpy(parent, to, sizeof(parent));
	get_parent_directory(parent);
	fsync_fname(parent, true);
}

void
sk_wal_init(SkWal *w, const neon_id *tenant, const neon_id *timeline, uint32 segment_bytes)
{
	memset(w, 0, sizeof(*w));
	sk_timeline_dir(tenant, timeline, w->dir);
	w->segment_bytes = segment_bytes;
	w->fd = -1;
}

void
sk_wal_close(SkWal *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	w->fd_dirty = false;
}

static void
segment_path(const SkWal *w, XLogSegNo segment, char path[MAXPGPATH])
{
	char		name[MAXFNAMELEN];

	XLogFileName(name, 1, segment, w->segment_bytes);
	snprintf(path, MAXPGPATH, "%s/%s", w->dir, name);
}

/*
 * Rule 26: our own instance PANICs when its pg_wal is full, so WAL of others stops growing before that.  Only a
 * new segment takes space.
 */
static void
check_reserve(const SkWal *w)
{
	struct statvfs vfs;
	uint64		free_bytes;
	uint64		reserve_bytes = (uint64) sk_disk_reserve_mb * 1024 * 1024;

	if (sk_disk_reserve_mb == 0 || statvfs(w->dir, &vfs) != 0)
		return;
	free_bytes = (uint64) vfs.f_bavail * vfs.f_frsize;
	if (free_bytes < reserve_bytes + w->segment_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_DISK_FULL),
				 errmsg("the safekeeper's disk is full: WAL is refused"),
				 errdetail("%llu MB are free, neon_safekeeper.disk_reserve keeps %d MB.",
						   (unsigned long long) (free_bytes >> 20), sk_disk_reserve_mb),
				 errhint("Free or add space; nothing that was acknowledged is lost, and writing goes on by itself.")));
}

/* A durable file of zeroes, a segment long, under a name of this process's own. */
static void
make_zeroes(const SkWal *w, char temp[MAXPGPATH])
{
	static char zeroes[ZERO_CHUNK_BYTES];
	int			fd;
	int			save_errno = 0;

	check_reserve(w);
	snprintf(temp, MAXPGPATH, "%s/new.%d", w->dir, MyProcPid);
	fd = BasicOpenFile(temp, O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", temp)));
	pgstat_report_wait_start(WAIT_EVENT_WAL_INIT_WRITE);
	for (uint32 done = 0; done < w->segment_bytes && save_errno == 0;)
	{
		ssize_t		n = Min(ZERO_CHUNK_BYTES, w->segment_bytes - done);
		ssize_t		got;

		errno = 0;
		got = write(fd, zeroes, n);
		if (got == n)
			done += n;
		else if (!(got < 0 && errno == EINTR))
			save_errno = errno ? errno : ENOSPC;
	}
	pgstat_report_wait_end();
	if (save_errno == 0 && pg_fsync(fd) != 0)
		save_errno = errno;
	if (close(fd) != 0 && save_errno == 0)
		save_errno = errno;
	if (save_errno != 0)
	{
		unlink(temp);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not make a WAL segment in \"%s\": %m", w->dir),
				 errhint("Nothing that was acknowledged is lost, and writing goes on when there is space again.")));
	}
}

/* Make a segment of zeroes appear under its name, all or nothing. */
static void
create_segment(SkWal *w, XLogSegNo segment)
{
	char		path[MAXPGPATH];
	char		temp[MAXPGPATH];

	segment_path(w, segment, path);
	make_zeroes(w, temp);
	sk_rename(temp, path);
}

/*
 * The same ahead of time, by the worker: the zeroes are written without a lock, the name is given under the timeline's
 * lock and only while the segment is the one that comes next.
 */
void
sk_wal_prepare_segment(SkSlot *slot, XLogSegNo segment)
{
	SkWal		w;
	char		path[MAXPGPATH];
	char		temp[MAXPGPATH];
	struct stat st;
	XLogSegNo	present;

	sk_wal_init(&w, &slot->tenant, &slot->timeline, slot->wal_segment_bytes);
	segment_path(&w, segment, path);
	if (stat(path, &st) == 0)
		return;
	make_zeroes(&w, temp);
	(void) sk_slot_lock(slot, true, true);
	PG_TRY();
	{
		XLByteToSeg(pg_atomic_read_u64(&slot->write_lsn), present, w.segment_bytes);
		if (pg_atomic_read_u32(&slot->state) != SK_SLOT_ACTIVE || present + 1 != segment || stat(path, &st) == 0)
			unlink(temp);
		else
			sk_rename(temp, path);
	}
	PG_FINALLY();
	{
		sk_slot_unlock(slot);
	}
	PG_END_TRY();
}

/* Open the segment; false when it does not exist and is not to be made. */
static bool
use_segment(SkWal *w, XLogSegNo segment, bool create)
{
	char		path[MAXPGPATH];
	struct stat st;

	if (w->fd >= 0 && w->fd_segment == segment)
		return true;
	sk_wal_sync(w);
	sk_wal_close(w);
	segment_path(w, segment, path);
	w->fd = BasicOpenFile(path, O_RDWR | PG_BINARY);
	if (w->fd < 0 && errno == ENOENT)
	{
		if (!create)
			return false;
		create_segment(w, segment);
		w->fd = BasicOpenFile(path, O_RDWR | PG_BINARY);
	}
	if (w->fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open WAL segment \"%s\": %m", path)));
	if (fstat(w->fd, &st) != 0 || st.st_size != w->segment_bytes)
	{
		long long	size = st.st_size;

		sk_wal_close(w);
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("WAL segment \"%s\" has %lld bytes, expected %u", path, size, w->segment_bytes)));
	}
	w->fd_segment = segment;
	return true;
}

void
sk_wal_write(SkWal *w, XLogRecPtr lsn, const char *data, size_t len)
{
	while (len > 0)
	{
		uint32		offset = XLogSegmentOffset(lsn, w->segment_bytes);
		size_t		n = Min(len, w->segment_bytes - offset);
		ssize_t		got;
		XLogSegNo	segment;

		XLByteToSeg(lsn, segment, w->segment_bytes);
		(void) use_segment(w, segment, true);
		w->fd_dirty = true;
		pgstat_report_wait_start(WAIT_EVENT_WAL_WRITE);
		errno = 0;
		got = pwrite(w->fd, data, n, offset);
		pgstat_report_wait_end();
		if (got <= 0)
		{
			if (got < 0 && errno == EINTR)
				continue;
			if (errno == 0)
				errno = ENOSPC;
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write %zu bytes of WAL at %X/%X in \"%s\": %m",
							n, LSN_FORMAT_ARGS(lsn), w->dir)));
		}
		lsn += got;
		data += got;
		len -= got;
	}
}

/*
 * Make everything written durable.  After a failed fsync the kernel may have dropped the dirty pages and will say
 * "fine" the next time: like the server's own WAL, that is a PANIC.
 */
void
sk_wal_sync(SkWal *w)
{
	if (w->fd < 0 || !w->fd_dirty)
		return;
	pgstat_report_wait_start(WAIT_EVENT_WAL_SYNC);
	if (pg_fdatasync(w->fd) != 0)
		ereport(PANIC,
				(errcode_for_file_access(),
				 errmsg("could not fdatasync a WAL segment in \"%s\": %m", w->dir)));
	pgstat_report_wait_end();
	w->fd_dirty = false;
}

/* At start: what was being made when we crashed. */
void
sk_wal_remove_temporary(SkWal *w)
{
	DIR		   *dir = AllocateDir(w->dir);
	struct dirent *de;

	while ((de = ReadDir(dir, w->dir)) != NULL)
	{
		char		path[MAXPGPATH * 2];

		if (strncmp(de->d_name, "new.", 4) != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", w->dir, de->d_name);
		(void) unlink(path);
	}
	FreeDir(dir);
}

static int
compare_descending(const void *a, const void *b)
{
	return strcmp(*(char *const *) b, *(char *const *) a);
}

/* Unlink every segment after `last`, the latest first, so that a crash leaves no gap. */
static void
unlink_later(SkWal *w, XLogSegNo last)
{
	char		keep[MAXFNAMELEN];
	DIR		   *dir = AllocateDir(w->dir);
	struct dirent *de;
	char	  **names = NULL;
	int			count = 0;
	int			cap = 0;

	XLogFileName(keep, 1, last, w->segment_bytes);
	while ((de = ReadDir(dir, w->dir)) != NULL)
	{
		if (!IsXLogFileName(de->d_name) || strcmp(de->d_name, keep) <= 0)
			continue;
		if (count == cap)
		{
			cap = cap ? cap * 2 : 16;
			names = names ? repalloc(names, cap * sizeof(char *)) : palloc(cap * sizeof(char *));
		}
		names[count++] = pstrdup(de->d_name);
	}
	FreeDir(dir);
	if (count == 0)
		return;
	qsort(names, count, sizeof(char *), compare_descending);
	for (int i = 0; i < count; i++)
	{
		char		path[MAXPGPATH];

		snprintf(path, sizeof(path), "%s/%s", w->dir, names[i]);
		if (unlink(path) != 0 && errno != ENOENT)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not remove WAL segment \"%s\": %m", path)));
		pfree(names[i]);
	}
	pfree(names);
	fsync_fname(w->dir, true);
}

/*
 * Rule 2: the log ends at lsn from now on, durably.  Idempotent.
 */
void
sk_wal_truncate(SkWal *w, XLogRecPtr lsn)
{
	static char zeroes[ZERO_CHUNK_BYTES];
	uint32		offset = XLogSegmentOffset(lsn, w->segment_bytes);
	XLogSegNo	segment;

	sk_wal_sync(w);
	sk_wal_close(w);
	XLByteToSeg(lsn, segment, w->segment_bytes);
	unlink_later(w, segment);
	if (!use_segment(w, segment, false))
		return;
	while (offset < w->segment_bytes)
	{
		ssize_t		n = Min(ZERO_CHUNK_BYTES, w->segment_bytes - offset);
		ssize_t		got;

		w->fd_dirty = true;
		errno = 0;
		got = pwrite(w->fd, zeroes, n, offset);
		if (got <= 0)
		{
			if (got < 0 && errno == EINTR)
				continue;
			if (errno == 0)
				errno = ENOSPC;
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not clear WAL behind %X/%X in \"%s\": %m", LSN_FORMAT_ARGS(lsn), w->dir)));
		}
		offset += got;
	}
	sk_wal_sync(w);
}

/*
 * Stock readers look for records from a page's start.  A page in which the log begins says that what is before the log
 * is the rest of an earlier record, so that they skip to the log's first byte.
 */
static void
skip_to_log(uint8_t *header, uint32 offset_in_page)
{
	XLogPageHeaderData h;

	memcpy(&h, header, sizeof(h));
	h.xlp_info |= XLP_FIRST_IS_CONTRECORD;
	h.xlp_rem_len = offset_in_page - (uint32) XLogPageHeaderSize(&h);
	memcpy(header, &h, sizeof(h));
}

/*
 * A log that begins in the middle of a segment: stock readers want the segment's first page header, and the header
 * of the page the log begins in.
 */
void
sk_wal_begin_log(SkWal *w, XLogRecPtr start_lsn, uint64 system_id)
{
	XLogRecPtr	segment_start = start_lsn - XLogSegmentOffset(start_lsn, w->segment_bytes);
	uint8_t		first[40];
	uint8_t		own[40];
	size_t		first_len = 0;
	size_t		own_len = 0;
	uint32_t	page_offset = 0;

	if (segment_start == start_lsn)
		return;
	memset(own, 0, sizeof(own));
	neon_wal_leading_headers(start_lsn, system_id, 1, w->segment_bytes, first, &first_len, own, &own_len, &page_offset);
	if (start_lsn % XLOG_BLCKSZ != 0)
		skip_to_log(own_len > 0 ? own : first, start_lsn % XLOG_BLCKSZ);
	sk_wal_write(w, segment_start, (char *) first, first_len);
	if (own_len > 0)
		sk_wal_write(w, segment_start + page_offset, (char *) own, own_len);
	sk_wal_sync(w);
}

/* fsync the segments of a range that another process may have written without doing so. */
void
sk_wal_sync_range(SkWal *w, XLogRecPtr from, XLogRecPtr to)
{
	XLogSegNo	first;
	XLogSegNo	last;

	XLByteToSeg(from, first, w->segment_bytes);
	XLByteToSeg(to, last, w->segment_bytes);
	for (XLogSegNo segment = first; segment <= last; segment++)
	{
		if (!use_segment(w, segment, false))
			continue;
		w->fd_dirty = true;
		sk_wal_sync(w);
	}
}

/* What creations of segments that were killed have left. */
static void
remove_unnamed(SkWal *w)
{
	DIR		   *dir = AllocateDir(w->dir);
	struct dirent *de;

	while ((de = ReadDir(dir, w->dir)) != NULL)
	{
		char		path[MAXPGPATH * 2];

		if (strncmp(de->d_name, "new.", 4) != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", w->dir, de->d_name);
		if (unlink(path) != 0)
			ereport(WARNING,
					(errcode_for_file_access(),
					 errmsg("could not remove file \"%s\": %m", path)));
	}
	FreeDir(dir);
}

/*
 * After a start: make the log's end, which a scan has found, durable.  Reading it says nothing about the disk: a process
 * before us may have been killed before its fsync, or a failed fsync may have left pages that the kernel calls clean, so that
 * no later fsync writes them.  Written again, they are dirty again.
 */
void
sk_wal_settle(SkWal *w, XLogRecPtr from, XLogRecPtr to)
{
	char	   *chunk = palloc(ZERO_CHUNK_BYTES);

	remove_unnamed(w);
	while (from < to)
	{
		size_t		n = sk_wal_read(w, from, chunk, Min(ZERO_CHUNK_BYTES, to - from));

		CHECK_FOR_INTERRUPTS();
		if (n == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("WAL segment of %X/%X is missing", LSN_FORMAT_ARGS(from))));
		sk_wal_write(w, from, chunk, n);
		from += n;
	}
	sk_wal_sync(w);
	pfree(chunk);
	fsync_fname(w->dir, true);
}

size_t
sk_wal_read(SkWal *w, XLogRecPtr lsn, char *buf, size_t len)
{
	uint32		offset = XLogSegmentOffset(lsn, w->segment_bytes);
	size_t		n = Min(len, w->segment_bytes - offset);
	size_t		done = 0;
	XLogSegNo	segment;

	XLByteToSeg(lsn, segment, w->segment_bytes);
	if (!use_segment(w, segment, false))
		return 0;
	while (done < n)
	{
		ssize_t		got;

		pgstat_report_wait_start(WAIT_EVENT_WAL_READ);
		got = pread(w->fd, buf + done, n - done, offset + done);
		pgstat_report_wait_end();
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read %zu bytes of WAL at %X/%X in \"%s\": %m",
							n, LSN_FORMAT_ARGS(lsn), w->dir)));
		done += got;
	}
	return n;
}
