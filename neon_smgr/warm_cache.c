/*
 * warm_cache.c - the page cache outlives a clean stop.
 *
 * At its exit, when no other process is left, the postmaster notes what the page cache's file holds (libs/core/neon_warm.h).
 * It does so only if the control file says that the server was shut down, and the quorum has all WAL up to the end of the
 * shutdown checkpoint: then every dirty page has been written through the storage manager, so that a copy in the cache is the
 * page as of that end, and nothing that is known here only is missing anywhere else.
 *
 * At the start the note is used if it is of this tenant, timeline and boot, of the checkpoint that this server starts from, and of the
 * position that the proposer will be elected at or not at all (neon.start_lsn).  So no WAL lies between the copies and this
 * server.  It is removed before any other process exists, and all other local state with it: sizes, floors and last-written LSNs begin as
 * after a start from nothing, with every page's last change at or below neon_smgr_shared->start_lsn; pinned pages are gone, as storage has what
 * is needed of them; unlogged relations are md.c's files, which a clean stop leaves right.
 *
 * A static endpoint is stopped in recovery, and its log ends with the checkpoint it was made with, at neon.static_lsn: its copies are
 * right for as long as it shows that LSN.
 *
 * Each copy has a checksum that is verified when it is read: a file that was damaged meanwhile costs a read from the pageserver.
 * Any doubt about the index drops the cache as a whole; a start is never refused because of it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/guc.h"

#include "neon_smgr.h"
#include "neon_wal.h"
#include "neon_warm.h"
#include "page_cache.h"
#include "warm_cache.h"

StaticAssertDecl(NEON_SHUTDOWN_RECORD_BYTES == SizeOfXLogRecord + SizeOfXLogRecordDataHeaderShort + sizeof(CheckPoint),
				 "a shutdown checkpoint's record has another size");

static bool
read_boot_id(char id[NEON_BOOT_ID_TEXT])
{
	int			fd = open(NEON_BOOT_ID_PATH, O_RDONLY | O_CLOEXEC);
	ssize_t		n = fd < 0 ? -1 : read(fd, id, NEON_BOOT_ID_TEXT - 1);

	if (fd >= 0)
		close(fd);
	id[NEON_BOOT_ID_TEXT - 1] = '\0';
	return n == NEON_BOOT_ID_TEXT - 1;
}

/* The control file, if it says that the server was shut down as one of its kind. */
static bool
read_shutdown(XLogRecPtr *checkpoint, XLogRecPtr *end)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);
	bool		is_static = neon_static_lsn != InvalidXLogRecPtr;
	bool		ok = crc_ok && control->state == (is_static ? DB_SHUTDOWNED_IN_RECOVERY : DB_SHUTDOWNED) &&
		control->xlog_seg_size == wal_segment_size;

	*checkpoint = control->checkPoint;
	*end = neon_wal_record_end(control->checkPoint, NEON_SHUTDOWN_RECORD_BYTES, wal_segment_size);
	if (is_static)
		ok = ok && neon_pull_back_lsn(control->checkPoint) == neon_pull_back_lsn(neon_static_lsn);
	pfree(control);
	return ok;
}

/* ---- the end of a run ---- */

static bool
write_all(int fd, const void *bytes, size_t len)
{
	const char *p = bytes;

	while (len > 0)
	{
		ssize_t		n = write(fd, p, Min(len, (size_t) 1024 * 1024 * 1024));

		if (n <= 0)
			return false;
		p += n;
		len -= n;
	}
	return true;
}

static void
write_index(const neon_warm_header *h, const CachedPage *list)
{
	int			fd = open(NEON_WARM_WRITTEN ".new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, S_IRUSR | S_IWUSR);
	bool		ok = fd >= 0 && write_all(fd, h, sizeof(*h)) && write_all(fd, list, h->entries * sizeof(*list)) && fsync(fd) == 0;

	if (fd >= 0)
		ok = close(fd) == 0 && ok;
	if (!ok || rename(NEON_WARM_WRITTEN ".new", NEON_WARM_WRITTEN) != 0)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", NEON_WARM_WRITTEN),
				 errdetail("The next start of this endpoint is from nothing.")));
}

/* Is all that this server has written with the quorum? */
static bool
log_is_whole(XLogRecPtr end)
{
	if (neon_static_lsn != InvalidXLogRecPtr)
		return true;			/* it has written nothing */
	return GetXLogWriteRecPtr() == end && neon_commit_lsn() != UINT64_MAX && neon_commit_lsn() >= end;
}

/* before_shmem_exit of the postmaster: a normal exit, of which only a clean shutdown is one that ends here with code 0. */
static void
save_at_exit(int code, Datum arg)
{
	neon_warm_header h = {0};
	CacheGeometry g = page_cache_geometry();
	CachedPage *list;
	int64		slots,
				used;

	if (code != 0 || IsUnderPostmaster)
		return;
	if (!read_shutdown(&h.checkpoint_lsn, &h.end_lsn) || !read_boot_id(h.boot_id) || !log_is_whole(h.end_lsn))
		return;
	page_cache_usage(&slots, &used);
	list = malloc(Max(used, 1) * sizeof(CachedPage));
	if (list == NULL)
		return;
	memset(list, 0, Max(used, 1) * sizeof(CachedPage));
	strlcpy(h.tenant, neon_tenant_id, sizeof(h.tenant));
	strlcpy(h.timeline, neon_timeline_id, sizeof(h.timeline));
	h.partitions = g.partitions;
	h.partition_slots = g.partition_slots;
	h.entry_bytes = sizeof(CachedPage);
	h.entries = page_cache_list(list, used);
	h.entries_crc = neon_crc32c(0, list, h.entries * sizeof(CachedPage));
	neon_warm_finish(&h);
	write_index(&h, list);
	free(list);
}

void
warm_cache_register(void)
{
	if (page_source == &page_stream_source)
		before_shmem_exit(save_at_exit, (Datum) 0);
}

/* ---- the start of the next ---- */

static const char *
why_not(const neon_warm_header *h)
{
	char		boot_id[NEON_BOOT_ID_TEXT];
	CacheGeometry g = page_cache_geometry();
	const char *start_lsn = GetConfigOption("neon.start_lsn", true, false);
	XLogRecPtr	checkpoint,
				end;
	neon_lsn	wanted;

	if (!neon_warm_valid(h))
		return "it is damaged";
	if (!read_boot_id(boot_id) || !neon_warm_matches(h, neon_tenant_id, neon_timeline_id, boot_id))
		return "it is not of this timeline on this boot of the host";
	if (!read_shutdown(&checkpoint, &end) || checkpoint != h->checkpoint_lsn || end != h->end_lsn)
		return "it is of another shutdown";
	if (neon_static_lsn == InvalidXLogRecPtr &&
		(start_lsn == NULL || !neon_lsn_parse(start_lsn, &wanted) || wanted != h->end_lsn))
		return "the log has another end";
	if (h->partitions != g.partitions || h->partition_slots != g.partition_slots || h->entry_bytes != sizeof(CachedPage) ||
		h->entries > (int64) g.partitions * g.partition_slots)
		return "the page cache had another size";
	return NULL;
}

static const char *
adopt_all(const neon_warm_header *h, const CachedPage *list)
{
	if (neon_crc32c(0, list, h->entries * sizeof(CachedPage)) != h->entries_crc)
		return "its list of pages is damaged";
	for (int64 i = 0; i < h->entries; i++)
		if (!page_cache_adopt(&list[i]))
			return "its list of pages makes no sense";
	return NULL;
}

/* read() in pieces; false at an early end */
static bool
read_all(int fd, void *to, size_t len)
{
	char	   *p = to;

	while (len > 0)
	{
		ssize_t		n = read(fd, p, Min(len, (size_t) 1024 * 1024 * 1024));

		if (n <= 0)
			return false;
		p += n;
		len -= n;
	}
	return true;
}

static const char *
load_from(int fd)
{
	neon_warm_header h;
	CachedPage *list;
	const char *problem;

	if (!read_all(fd, &h, sizeof(h)))
		return "it is cut short";
	if ((problem = why_not(&h)) != NULL)
		return problem;
	list = malloc(Max(h.entries, 1) * sizeof(CachedPage));
	if (list == NULL)
		return "there is no memory to read it";
	problem = read_all(fd, list, h.entries * sizeof(CachedPage)) ? adopt_all(&h, list) : "it is cut short";
	free(list);
	return problem;
}

bool
warm_cache_load(void)
{
	int			fd = open(NEON_WARM_START, O_RDONLY | O_CLOEXEC);
	const char *problem;
	int64		slots,
				used;

	if (fd < 0)
		return false;
	problem = load_from(fd);
	close(fd);
	if (problem != NULL)
	{
		ereport(LOG,
				(errmsg("the page cache of the last run is not used"),
				 errdetail("The file \"%s\": %s.", NEON_WARM_START, problem)));
		page_cache_reset();
		return false;
	}
	page_cache_usage(&slots, &used);
	ereport(LOG,
			(errmsg("this compute goes on where it was stopped, with %lld pages in its cache", (long long) used)));
	return true;
}
