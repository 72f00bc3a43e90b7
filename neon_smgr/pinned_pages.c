/*
 * pinned_pages.c - pages the WAL does not imply, in local files.
 *
 * One sparse file a relation fork, neon/pinned/<spc>_<db>_<rel>_<fork>, block b at its own offset.  What is not there is a
 * hole: a pinned page is never a new page, so a page of zeros means "not pinned".  So there is no index that could be full,
 * and the number of pinned pages is bounded by the disk only, as that of any relation's pages is in an ordinary server.
 *
 * The relation table's has_pins says that the file exists; readers of relations without pins never come here.
 *
 * Lock: one of PINNED_LOCKS LWLocks by the fork's name, shared to read, exclusive to write.  It is what orders the release
 * worker against the backends that write.
 *
 * Crash rule: the directory is removed at every start.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"

#include "neon_smgr.h"
#include "pinned_pages.h"
#include "relation_table.h"

#define PINNED_DIR		NEON_LOCAL_DIR "/pinned"
#define PINNED_LOCKS	64

static LWLockPadded *locks;

void
pinned_pages_request(void)
{
	RequestNamedLWLockTranche("neon_pinned_pages", PINNED_LOCKS);
}

void
pinned_pages_init(void)
{
	locks = GetNamedLWLockTranche("neon_pinned_pages");
}

static LWLock *
lock_of(const NeonRel *rel, int fork)
{
	uint32		words[4] = {rel->spc, rel->db, rel->rel, fork};

	return &locks[hash_bytes((const unsigned char *) words, sizeof(words)) % PINNED_LOCKS].lock;
}

typedef struct PinnedPath
{
	char		text[96];
} PinnedPath;

static PinnedPath
path_of(const NeonRel *rel, int fork)
{
	PinnedPath	p;

	snprintf(p.text, sizeof(p.text), PINNED_DIR "/%u_%u_%u_%d", rel->spc, rel->db, rel->rel, fork);
	return p;
}

void
pinned_put(const NeonRel *rel, int fork, BlockNumber block, const char *page)
{
	LWLock	   *lock = lock_of(rel, fork);
	PinnedPath	path = path_of(rel, fork);
	ssize_t		n;
	int			fd;

	Assert(!PageIsNew((Page) page));

	LWLockAcquire(lock, LW_EXCLUSIVE);
	fd = BasicOpenFile(path.text, O_RDWR | O_CREAT | PG_BINARY);
	if (fd < 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not create file \"%s\": %m", path.text)));
	relation_set_pins(rel, fork, true);
	n = pwrite(fd, page, BLCKSZ, (off_t) block * BLCKSZ);
	if (n != BLCKSZ)
	{
		int			save_errno = n < 0 ? errno : ENOSPC;

		close(fd);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write block %u to file \"%s\": %m", block, path.text),
				 errhint("Pages that the WAL does not imply need local disk space.")));
	}
	close(fd);
	LWLockRelease(lock);
}

bool
pinned_get(const NeonRel *rel, int fork, BlockNumber block, char *page)
{
	LWLock	   *lock = lock_of(rel, fork);
	PinnedPath	path = path_of(rel, fork);
	ssize_t		n;
	int			fd;

	LWLockAcquire(lock, LW_SHARED);
	fd = BasicOpenFile(path.text, O_RDONLY | PG_BINARY);
	if (fd < 0)
	{
		if (errno != ENOENT)
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", path.text)));
		LWLockRelease(lock);
		return false;			/* tidied up meanwhile */
	}
	n = pread(fd, page, BLCKSZ, (off_t) block * BLCKSZ);
	if (n < 0)
	{
		int			save_errno = errno;

		close(fd);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read block %u of file \"%s\": %m", block, path.text)));
	}
	close(fd);
	LWLockRelease(lock);
	return n == BLCKSZ && !PageIsNew((Page) page);
}

/* Zeros are as good as a hole where the file system cannot punch. */
static bool
erase_page(int fd, BlockNumber block)
{
	static const PGAlignedBlock zeros;
	off_t		offset = (off_t) block * BLCKSZ;

#ifdef FALLOC_FL_PUNCH_HOLE
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, BLCKSZ) == 0)
		return true;
#endif
	return pwrite(fd, zeros.data, BLCKSZ, offset) == BLCKSZ;
}

void
pinned_erase(const NeonRel *rel, int fork, BlockNumber block)
{
	LWLock	   *lock = lock_of(rel, fork);
	PinnedPath	path = path_of(rel, fork);
	int			fd;
	struct stat st;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	fd = BasicOpenFile(path.text, O_RDWR | PG_BINARY);
	if (fd < 0)
	{
		if (errno != ENOENT)
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", path.text)));
		LWLockRelease(lock);
		return;
	}
	if (fstat(fd, &st) < 0 || (st.st_size > (off_t) block * BLCKSZ && !erase_page(fd, block)))
	{
		int			save_errno = errno;

		close(fd);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not erase block %u of file \"%s\": %m", block, path.text)));
	}
	close(fd);
	LWLockRelease(lock);
}

void
pinned_truncate(const NeonRel *rel, int fork, BlockNumber nblocks)
{
	LWLock	   *lock = lock_of(rel, fork);
	PinnedPath	path = path_of(rel, fork);
	struct stat st;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	/* An error becomes a PANIC, as in md.c: blocks that survive would come back when the relation grows again. */
	if (stat(path.text, &st) == 0 && st.st_size > (off_t) nblocks * BLCKSZ &&
		truncate(path.text, (off_t) nblocks * BLCKSZ) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not truncate file \"%s\" to %u blocks: %m", path.text, nblocks)));
	LWLockRelease(lock);
}

void
pinned_drop(const NeonRel *rel, int fork)
{
	LWLock	   *lock = lock_of(rel, fork);
	PinnedPath	path = path_of(rel, fork);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (unlink(path.text) < 0 && errno != ENOENT)
		ereport(WARNING, (errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", path.text)));
	LWLockRelease(lock);
}

void
pinned_drop_database(uint32 db)
{
	DIR		   *dir = AllocateDir(PINNED_DIR);
	struct dirent *entry;

	while ((entry = ReadDirExtended(dir, PINNED_DIR, WARNING)) != NULL)
	{
		NeonRel		rel;
		int			fork;

		if (sscanf(entry->d_name, "%u_%u_%u_%d", &rel.spc, &rel.db, &rel.rel, &fork) == 4 && rel.db == db)
			pinned_drop(&rel, fork);
	}
	FreeDir(dir);
}

bool
pinned_scan(const NeonRel *rel, int fork, BlockNumber *block, int max_pages, pinned_callback callback, void *arg)
{
	LWLock	   *lock = lock_of(rel, fork);
	PinnedPath	path = path_of(rel, fork);
	PGAlignedBlock page;
	bool		more = false;
	int			fd;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	fd = BasicOpenFile(path.text, O_RDWR | PG_BINARY);
	if (fd >= 0)
	{
		for (int i = 0;; i++)
		{
			off_t		data = lseek(fd, (off_t) *block * BLCKSZ, SEEK_DATA);

			if (data < 0)
				break;			/* ENXIO: nothing but holes up to the end */
			*block = data / BLCKSZ;
			if (i == max_pages)
			{
				more = true;
				break;
			}
			if (pread(fd, page.data, BLCKSZ, (off_t) *block * BLCKSZ) != BLCKSZ)
				break;
			if (!PageIsNew((Page) page.data) && callback(rel, fork, *block, page.data, arg) && !erase_page(fd, *block))
				ereport(LOG,
						(errcode_for_file_access(),
						 errmsg("could not erase block %u of file \"%s\": %m", *block, path.text)));
			(*block)++;
		}
		close(fd);
	}
	LWLockRelease(lock);
	return more;
}

void
pinned_tidy(const NeonRel *rel, int fork)
{
	LWLock	   *lock = lock_of(rel, fork);
	PinnedPath	path = path_of(rel, fork);
	RelationInfo info;
	bool		gone;
	int			fd;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	fd = BasicOpenFile(path.text, O_RDONLY | PG_BINARY);
	gone = fd < 0 && errno == ENOENT;
	if (fd >= 0)
	{
		bool		empty = lseek(fd, 0, SEEK_DATA) < 0 && errno == ENXIO;

		close(fd);
		gone = empty && unlink(path.text) == 0;
	}
	/* Not for a relation dropped meanwhile: that would make an entry for nothing. */
	if (gone && relation_lookup(rel, &info))
		relation_set_pins(rel, fork, false);
	LWLockRelease(lock);
}
