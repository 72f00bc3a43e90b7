/*
 * page_directory.c - a directory that stands in for a pageserver (setting neon.page_store_directory, for tests).
 *
 * <directory>/<spc>/<db>/<rel>.<fork>, one file a fork.  It is told of every write, but keeps of a page only what a
 * pageserver would know from WAL (page_forget_unlogged), nothing of pages never logged, and no zero pages: a part of the
 * compute that relies on what WAL does not say fails with it as with the real thing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "neon_smgr.h"
#include "pagestore.h"

static void
path_of(const NeonRel *rel, int fork, char path[MAXPGPATH])
{
	snprintf(path, MAXPGPATH, "%s/%u/%u/%u.%d", neon_page_store_directory, rel->spc, rel->db, rel->rel, fork);
}

static void pg_attribute_noreturn()
fail(const char *what, const char *path)
{
	ereport(ERROR, (errcode_for_file_access(), errmsg("could not %s \"%s\": %m", what, path)));
	pg_unreachable();
}

static bool
directory_exists(const NeonRel *rel, int fork, XLogRecPtr lsn)
{
	char		path[MAXPGPATH];

	path_of(rel, fork, path);
	return access(path, F_OK) == 0;
}

static BlockNumber
directory_nblocks(const NeonRel *rel, int fork, XLogRecPtr lsn)
{
	char		path[MAXPGPATH];
	struct stat st;

	path_of(rel, fork, path);
	if (stat(path, &st) == 0)
		return st.st_size / BLCKSZ;
	if (errno != ENOENT)
		fail("stat", path);
	return 0;
}

static void
directory_read(const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr lsn, char *page)
{
	char		path[MAXPGPATH];
	ssize_t		n;
	int			fd;

	path_of(rel, fork, path);
	fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
		fail("open", path);
	n = pread(fd, page, BLCKSZ, (off_t) block * BLCKSZ);
	close(fd);
	if (n != BLCKSZ && fork != NEON_FORK_FSM && fork != NEON_FORK_VM)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read block %u of \"%s\": read %zd of %d bytes", block, path, n, BLCKSZ)));
	if (n != BLCKSZ)
		memset(page, 0, BLCKSZ);
}

static int64
directory_database_bytes(uint32 db, XLogRecPtr lsn)
{
	static const Oid spaces[2] = {1663, 1664};
	int64		bytes = 0;

	for (int i = 0; i < 2; i++)
	{
		char		path[MAXPGPATH];
		DIR		   *dir;
		struct dirent *de;

		snprintf(path, sizeof(path), "%s/%u/%u", neon_page_store_directory, spaces[i], db);
		dir = AllocateDir(path);
		if (dir == NULL)
			continue;
		while ((de = ReadDir(dir, path)) != NULL)
		{
			char		file[MAXPGPATH * 2];
			struct stat st;

			snprintf(file, sizeof(file), "%s/%s", path, de->d_name);
			if (stat(file, &st) == 0 && S_ISREG(st.st_mode))
				bytes += st.st_size;
		}
		FreeDir(dir);
	}
	return bytes;
}

static int
open_for_write(const NeonRel *rel, int fork, char path[MAXPGPATH])
{
	int			fd;

	path_of(rel, fork, path);
	fd = BasicOpenFile(path, O_RDWR | O_CREAT | PG_BINARY);
	if (fd < 0 && errno == ENOENT)
	{
		char		dir[MAXPGPATH];

		snprintf(dir, sizeof(dir), "%s/%u/%u", neon_page_store_directory, rel->spc, rel->db);
		if (pg_mkdir_p(dir, S_IRWXU) < 0 && errno != EEXIST)
			fail("create directory", dir);
		fd = BasicOpenFile(path, O_RDWR | O_CREAT | PG_BINARY);
	}
	if (fd < 0)
		fail("create", path);
	return fd;
}

static void
directory_note_create(const NeonRel *rel, int fork)
{
	char		path[MAXPGPATH];

	close(open_for_write(rel, fork, path));
}

static void
directory_note_write(const NeonRel *rel, int fork, BlockNumber block, const char *page)
{
	char		path[MAXPGPATH];
	int			fd = open_for_write(rel, fork, path);
	ssize_t		n = pwrite(fd, page, BLCKSZ, (off_t) block * BLCKSZ);

	close(fd);
	if (n != BLCKSZ)
		fail("write", path);
}

static void
directory_note_truncate(const NeonRel *rel, int fork, BlockNumber nblocks)
{
	char		path[MAXPGPATH];
	struct stat st;

	path_of(rel, fork, path);
	if (stat(path, &st) == 0 && st.st_size > (off_t) nblocks * BLCKSZ && truncate(path, (off_t) nblocks * BLCKSZ) < 0)
		fail("truncate", path);
}

static void
directory_note_drop(const NeonRel *rel)
{
	for (int fork = 0; fork < NEON_FORKS; fork++)
	{
		char		path[MAXPGPATH];

		path_of(rel, fork, path);
		if (unlink(path) < 0 && errno != ENOENT)
			ereport(WARNING, (errcode_for_file_access(), errmsg("could not remove \"%s\": %m", path)));
	}
}

const PageSource page_directory_source = {
	.name = "directory",
	.exists = directory_exists,
	.nblocks = directory_nblocks,
	.read = directory_read,
	.database_bytes = directory_database_bytes,
	.note_create = directory_note_create,
	.note_write = directory_note_write,
	.note_truncate = directory_note_truncate,
	.note_drop = directory_note_drop,
};
