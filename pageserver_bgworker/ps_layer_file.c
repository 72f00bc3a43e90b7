/*
 * ps_layer_file.c - layer files on disk: created durably, read through a backend's cache of open ones.
 *
 * Files are immutable.  A file is written under its final name; it counts only when a catalog row names it, so a crash
 * leaves at most garbage.  It is fsynced, and then its directory, before that row is written.  A failed fsync is a PANIC: what
 * it was about is written anew, under the same name, from WAL.  Files of a transaction that aborts are removed at once: they
 * may be all that keeps a full disk full.
 *
 * Our own instance PANICs when its pg_wal is full, so layers stop growing before that (rule 26); what is not flushed stays
 * in memory, and ingest waits.
 *
 * Reading opens a file at its first use: reader (index and filter in memory) and one iterator, whose decompressed block
 * stays for the next search.  Open files are kept in least-recently-used order and closed beyond a limit.
 *
 * A damaged block is an ERROR that names file and block; nothing else in the process is affected by it.  A file that failed is
 * opened anew at its next use, so that one that was restored is good again at once.  A file must be what its row says.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_layer_file.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include "access/xact.h"
#include "lib/ilist.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#define PS_MAX_OPEN_FILES		512
#define PS_WRITE_BUFFER_BYTES	(256 * 1024)
#define PS_RESERVE_CHECK_BYTES	(16 * 1024 * 1024)	/* the reserve is looked at that often */
#define LAYER_DAMAGE_HINT		"Restore the file from a copy; it is read again at its next use."

/* ---- errors and memory ---- */

static void *
realloc_in_context(void *p, size_t n, void *arg)
{
	if (n == 0)
	{
		if (p)
			pfree(p);
		return NULL;
	}
	if (p == NULL)
		return MemoryContextAllocHuge((MemoryContext) arg, n);
	return repalloc_huge(p, n);
}

uint64		ps_layer_file_errors;

static void
layer_error(const char *path, neon_layer_status status, uint32 block)
{
	ps_layer_file_errors++;
	if (status == NEON_LAYER_IO && errno == ENODATA)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("layer file \"%s\" is damaged: it was cut short", path),
				 errhint(LAYER_DAMAGE_HINT)));
	if (status == NEON_LAYER_IO)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read or write layer file \"%s\": %m", path),
				 errhint("Look at the disk; the file is opened again at its next use.")));
	if (status == NEON_LAYER_NO_SPACE)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory for layer file \"%s\"", path)));
	if (block != NEON_LAYER_NO_BLOCK)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("layer file \"%s\" is damaged in block %u: %s", path, block, neon_layer_status_text(status)),
				 errhint(LAYER_DAMAGE_HINT)));
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("layer file \"%s\" is damaged: %s", path, neon_layer_status_text(status)),
			 errhint(LAYER_DAMAGE_HINT)));
}

/* ---- writing ---- */

struct PsLayerWriter
{
	char		path[MAXPGPATH];
	MemoryContext context;
	int			fd;
	neon_layer_writer writer;
	char	   *buffer;
	size_t		buffered;
	uint64		unchecked_bytes;	/* given since the reserve was looked at */
};

/* Files that the transaction has made. */
typedef struct NewFile
{
	struct NewFile *next;
	char		path[FLEXIBLE_ARRAY_MEMBER];
} NewFile;

static NewFile *new_files;		/* in TopTransactionContext */

static void
at_xact(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
	{
		for (NewFile *f = new_files; f != NULL; f = f->next)
			if (unlink(f->path) < 0 && errno != ENOENT)
				ereport(LOG, (errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", f->path)));
	}
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE)
		new_files = NULL;
}

static void
remember_new_file(const char *path)
{
	static bool registered = false;
	NewFile    *f;

	if (!registered)
	{
		RegisterXactCallback(at_xact, NULL);
		registered = true;
	}
	f = MemoryContextAlloc(TopTransactionContext, offsetof(NewFile, path) + strlen(path) + 1);
	strcpy(f->path, path);
	f->next = new_files;
	new_files = f;
}

static void
check_reserve(PsLayerWriter *w)
{
	char		directory[MAXPGPATH];
	struct statvfs vfs;
	uint64		free_mb;

	w->unchecked_bytes = 0;
	strlcpy(directory, w->path, sizeof(directory));
	get_parent_directory(directory);
	if (ps_disk_reserve_mb == 0 || statvfs(directory[0] ? directory : ".", &vfs) != 0)
		return;
	free_mb = ((uint64) vfs.f_bavail * vfs.f_frsize) >> 20;
	if (free_mb < (uint64) ps_disk_reserve_mb)
		ereport(ERROR,
				(errcode(ERRCODE_DISK_FULL),
				 errmsg("the pageserver's disk is full: layer file \"%s\" is not written", w->path),
				 errdetail("%llu MB are free, neon_pageserver.disk_reserve keeps %d MB.", (unsigned long long) free_mb,
						   ps_disk_reserve_mb),
				 errhint("Free or add space; nothing is lost, and writing goes on by itself.")));
}

static bool
flush_buffer(PsLayerWriter *w)
{
	size_t		done = 0;

	while (done < w->buffered)
	{
		ssize_t		n = write(w->fd, w->buffer + done, w->buffered - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
		{
			if (n == 0)
				errno = ENOSPC;
			return false;
		}
		done += n;
	}
	w->buffered = 0;
	return true;
}

static bool
write_bytes(void *arg, const void *bytes, size_t len)
{
	PsLayerWriter *w = arg;
	const char *p = bytes;

	while (len > 0)
	{
		size_t		chunk = Min(len, PS_WRITE_BUFFER_BYTES - w->buffered);

		memcpy(w->buffer + w->buffered, p, chunk);
		w->buffered += chunk;
		p += chunk;
		len -= chunk;
		if (w->buffered == PS_WRITE_BUFFER_BYTES && !flush_buffer(w))
			return false;
	}
	return true;
}

PsLayerWriter *
ps_layer_writer_begin(const char *path, const neon_layer_info *what)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "layer writer", ALLOCSET_DEFAULT_SIZES);
	PsLayerWriter *w = MemoryContextAllocZero(context, sizeof(PsLayerWriter));
	neon_layer_status status;

	ps_check_durable_settings(ERROR);
	strlcpy(w->path, path, sizeof(w->path));
	w->context = context;
	check_reserve(w);
	if (what->kind == NEON_LAYER_DELTA)	/* the image of a fresh cluster outlives the transaction that made it */
		remember_new_file(path);
	w->buffer = MemoryContextAlloc(context, PS_WRITE_BUFFER_BYTES);
	w->fd = OpenTransientFile(path, O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);
	if (w->fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create layer file \"%s\": %m", path)));
	status = neon_layer_writer_begin(&w->writer, what, write_bytes, w, realloc_in_context, context);
	if (status != NEON_LAYER_OK)
		layer_error(path, status, NEON_LAYER_NO_BLOCK);
	return w;
}

void
ps_layer_writer_add(PsLayerWriter *w, const neon_key *key, XLogRecPtr lsn, uint32 flags, const void *bytes, uint32 len)
{
	neon_layer_status status;

	w->unchecked_bytes += len;
	if (w->unchecked_bytes >= PS_RESERVE_CHECK_BYTES)
		check_reserve(w);
	status = neon_layer_writer_add(&w->writer, key, lsn, flags, bytes, len);
	if (status == NEON_LAYER_BAD_ORDER || status == NEON_LAYER_BAD_ARGUMENT)
		elog(ERROR, "layer file \"%s\": key kind %u %u/%u/%u fork %u block %u at %X/%08X, flags %u, %u bytes: %s", w->path,
			 key->kind, key->spc, key->db, key->rel, key->fork, key->blk, LSN_FORMAT_ARGS(lsn), flags, len,
			 neon_layer_status_text(status));
	if (status != NEON_LAYER_OK)
		layer_error(w->path, status, NEON_LAYER_NO_BLOCK);
}

uint64
ps_layer_writer_bytes(const PsLayerWriter *w)
{
	return neon_layer_writer_bytes(&w->writer);
}

void
ps_layer_writer_finish(PsLayerWriter *w, neon_layer_info *info)
{
	neon_layer_status status = neon_layer_writer_finish(&w->writer, NULL);
	char		directory[MAXPGPATH];

	if (status != NEON_LAYER_OK)
		layer_error(w->path, status, NEON_LAYER_NO_BLOCK);
	if (!flush_buffer(w))
		layer_error(w->path, NEON_LAYER_IO, NEON_LAYER_NO_BLOCK);
	pgstat_report_wait_start(WAIT_EVENT_DATA_FILE_SYNC);
	if (pg_fsync(w->fd) != 0)
		ereport(data_sync_elevel(ERROR),
				(errcode_for_file_access(),
				 errmsg("could not fsync layer file \"%s\": %m", w->path)));
	pgstat_report_wait_end();
	if (CloseTransientFile(w->fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close layer file \"%s\": %m", w->path)));
	strlcpy(directory, w->path, sizeof(directory));
	get_parent_directory(directory);
	fsync_fname(directory[0] ? directory : ".", true);
	if (info)
		*info = w->writer.info;
	neon_layer_writer_free(&w->writer);
	MemoryContextDelete(w->context);
}

static void
make_directory(const char *path)
{
	char		parent[MAXPGPATH];

	if (MakePGDirectory(path) < 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", path)));
	strlcpy(parent, path, sizeof(parent));
	get_parent_directory(parent);
	fsync_fname(parent[0] ? parent : ".", true);
}

void
ps_make_timeline_directory(const char *tenant, const char *timeline)
{
	char		path[MAXPGPATH];

	make_directory(PS_DIRECTORY);
	snprintf(path, sizeof(path), PS_DIRECTORY "/%s", tenant);
	make_directory(path);
	snprintf(path, sizeof(path), PS_DIRECTORY "/%s/%s", tenant, timeline);
	make_directory(path);
}

/* ---- the image writer of ps.h ---- */

struct PsImageWriter
{
	PsLayerWriter *layer;
	XLogRecPtr	lsn;
};

PsImageWriter *
ps_image_writer_begin(const char *path, XLogRecPtr lsn)
{
	PsImageWriter *w = palloc(sizeof(PsImageWriter));
	neon_layer_info what = {.kind = NEON_LAYER_IMAGE,.codec = NEON_LAYER_ZSTD,.lsn_lo = lsn,.lsn_hi = lsn};

	w->lsn = lsn;
	w->layer = ps_layer_writer_begin(path, &what);
	return w;
}

void
ps_image_writer_add(PsImageWriter *w, const neon_key *key, const void *bytes, uint32 len)
{
	ps_layer_writer_add(w->layer, key, w->lsn, PS_VALUE_IMAGE | PS_VALUE_WILL_INIT, bytes, len);
}

void
ps_image_writer_finish(PsImageWriter *w)
{
	ps_layer_writer_finish(w->layer, NULL);
	pfree(w);
}

/* ---- reading ---- */

struct PsLayerFile
{
	dlist_node	lru;			/* while open */
	bool		pinned;			/* never closed to make room, and not in the list */
	MemoryContext context;
	bool		open;
	File		fd;
	neon_layer_reader reader;
	neon_layer_iter iter;
	bool		has_row;		/* and the file has to be what the row says */
	neon_layer_info expected;
	MemoryContextCallback cleanup;	/* of a pinned file */
	char		path[MAXPGPATH];
};

static dlist_head open_files = DLIST_STATIC_INIT(open_files);
static int	nopen_files;

static bool
read_bytes(void *arg, uint64_t offset, void *buf, size_t len)
{
	File		fd = *(File *) arg;
	char	   *p = buf;

	while (len > 0)
	{
		int			n = FileRead(fd, p, (int) Min(len, 1024 * 1024 * 1024), offset, WAIT_EVENT_DATA_FILE_READ);

		if (n <= 0)
		{
			if (n == 0)
				errno = ENODATA;
			return false;
		}
		p += n;
		offset += n;
		len -= n;
	}
	return true;
}

static void
close_file(PsLayerFile *file)
{
	neon_layer_iter_free(&file->iter);
	neon_layer_reader_close(&file->reader);
	FileClose(file->fd);
	if (!file->pinned)
	{
		dlist_delete(&file->lru);
		nopen_files--;
	}
	file->open = false;
}

/* A whole layer file, but is it this one? */
static void
check_row(PsLayerFile *file, off_t bytes)
{
	const neon_layer_info *is = &file->reader.info;
	const neon_layer_info *row = &file->expected;
	neon_layer_info found = *is;

	if (!file->has_row ||
		(is->kind == row->kind && is->lsn_lo == row->lsn_lo && is->lsn_hi == row->lsn_hi && bytes == (off_t) row->file_bytes &&
		 neon_key_compare(&is->key_first, &row->key_first) == 0 && neon_key_compare(&is->key_last, &row->key_last) == 0))
		return;
	neon_layer_reader_close(&file->reader);
	FileClose(file->fd);
	ps_layer_file_errors++;
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("layer file \"%s\" is damaged: it is another layer than its row says", file->path),
			 errdetail("Expected WAL from %X/%08X to %X/%08X in " UINT64_FORMAT " bytes, found %X/%08X to %X/%08X in "
					   INT64_FORMAT " bytes.", LSN_FORMAT_ARGS(row->lsn_lo), LSN_FORMAT_ARGS(row->lsn_hi), row->file_bytes,
					   LSN_FORMAT_ARGS(found.lsn_lo), LSN_FORMAT_ARGS(found.lsn_hi), (int64) bytes),
			 errhint(LAYER_DAMAGE_HINT)));
}

static void
open_file(PsLayerFile *file)
{
	neon_layer_status status;
	off_t		bytes;

	while (nopen_files >= PS_MAX_OPEN_FILES)
		close_file(dlist_tail_element(PsLayerFile, lru, &open_files));
	file->fd = PathNameOpenFile(file->path, O_RDONLY | PG_BINARY);
	if (file->fd < 0)
	{
		ps_layer_file_errors++;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open layer file \"%s\": %m", file->path),
				 errhint(LAYER_DAMAGE_HINT)));
	}
	bytes = FileSize(file->fd);
	status = neon_layer_reader_open(&file->reader, bytes < 0 ? 0 : bytes, read_bytes, &file->fd,
									realloc_in_context, file->context);
	if (status != NEON_LAYER_OK)
	{
		int			save_errno = errno;

		FileClose(file->fd);
		errno = save_errno;
		layer_error(file->path, status, NEON_LAYER_NO_BLOCK);
	}
	check_row(file, bytes);
	neon_layer_iter_init(&file->iter, &file->reader);
	file->open = true;
	if (!file->pinned)
	{
		dlist_push_head(&open_files, &file->lru);
		nopen_files++;
	}
}

static inline void
use_file(PsLayerFile *file)
{
	if (!file->open)
		open_file(file);
	else if (!file->pinned)
		dlist_move_head(&open_files, &file->lru);
}

PsLayerFile *
ps_layer_file_create(MemoryContext context, const char *directory, const PsLayerRow *row)
{
	PsLayerFile *file = MemoryContextAllocZero(context, sizeof(PsLayerFile));

	file->context = context;
	snprintf(file->path, sizeof(file->path), "%s/%s", directory, row->file);
	file->has_row = row->kind != 0;
	file->expected.kind = row->kind;
	file->expected.lsn_lo = row->lsn_lo;
	file->expected.lsn_hi = row->lsn_hi;
	file->expected.key_first = row->key_first;
	file->expected.key_last = row->key_last;
	file->expected.file_bytes = row->file_bytes;
	return file;
}

/* An open file cannot be trusted after an error: its index may be that of a file that is not there any more. */
static void
reading_failed(PsLayerFile *file, neon_layer_status status)
{
	uint32		block = file->iter.error_block;
	int			save_errno = errno;

	close_file(file);
	errno = save_errno;
	layer_error(file->path, status, block);
}

static void
close_pinned(void *arg)
{
	PsLayerFile *file = arg;

	if (file->open)
		close_file(file);
}

PsLayerFile *
ps_layer_file_open_pinned(MemoryContext context, const char *directory, const PsLayerRow *row)
{
	PsLayerFile *file = ps_layer_file_create(context, directory, row);
	neon_layer_status status;

	file->pinned = true;
	file->cleanup.func = close_pinned;	/* an error on the way would leave it open */
	file->cleanup.arg = file;
	MemoryContextRegisterResetCallback(context, &file->cleanup);
	open_file(file);
	status = neon_layer_iter_first(&file->iter);
	if (status != NEON_LAYER_OK && status != NEON_LAYER_END)
		reading_failed(file, status);
	return file;
}

void
ps_layer_file_free(PsLayerFile *file)
{
	if (file->open)
		close_file(file);
	if (!file->pinned)			/* a pinned one goes with its context, whose callback points to it */
		pfree(file);
}

bool
ps_layer_file_may_contain(PsLayerFile *file, const neon_key *key)
{
	use_file(file);
	return neon_layer_may_contain(&file->reader, key);
}

void
ps_layer_file_seek(PsLayerFile *file, const neon_key *key, XLogRecPtr lsn)
{
	neon_layer_status status;

	use_file(file);
	status = neon_layer_iter_seek(&file->iter, key, lsn);
	if (status != NEON_LAYER_OK && status != NEON_LAYER_END)
		reading_failed(file, status);
}

bool
ps_layer_file_next(PsLayerFile *file, neon_layer_entry *entry)
{
	neon_layer_status status = neon_layer_iter_next(&file->iter, entry);

	if (status == NEON_LAYER_END)
		return false;
	if (status != NEON_LAYER_OK)
		reading_failed(file, status);
	return true;
}

void
ps_layer_file_info(const char *path, neon_layer_info *info)
{
	PsLayerRow	row = {0};
	char		directory[MAXPGPATH];
	PsLayerFile *file;

	strlcpy(directory, path, sizeof(directory));
	get_parent_directory(directory);
	strlcpy(row.file, last_dir_separator(path) + 1, sizeof(row.file));
	file = ps_layer_file_create(CurrentMemoryContext, directory, &row);
	open_file(file);
	*info = file->reader.info;
	info->file_bytes = FileSize(file->fd);
	ps_layer_file_free(file);
}
