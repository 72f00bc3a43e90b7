/*
 * sk_termfile.c - incarnation and term beside the WAL.
 *
 * Rule 3: a catalog that was restored from a backup has forgotten votes.  The file says the same things as the catalog's
 * row: it is written after the row is committed and before anybody hears of the term.  So the file may be behind the row
 * by one crash, never ahead; a file that is ahead, of another incarnation, damaged or missing means that this
 * timeline must not vote.
 *
 * A directory named pgsql_tmp on the way to it keeps all of this out of base backups: pg_basebackup and pg_rewind leave
 * such names out.  So a copy of this instance that is made by them, a restored backup or a standby that is promoted,
 * has no term file, does not vote, and has to join as a new member.
 *
 * Crash rule: written aside, fsynced, renamed, directory fsynced.  An error before the rename leaves the old file, and a
 * new attempt begins with a new one; from the rename on it is a PANIC (sk_rename).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#include "sk.h"
#include "sk_walfile.h"

#define TERMFILE_MAGIC		UINT32_C(0x4e534b54)	/* "NSKT" */
#define TERMFILE_VERSION	1
#define TERMFILE_BYTES		(4 + 4 + 8 + 8 + 4)

void
sk_termfile_write(const char *dir, uint64 incarnation, neon_term term)
{
	uint8_t		buf[TERMFILE_BYTES];
	neon_writer w;
	char		path[MAXPGPATH];
	char		temp[MAXPGPATH];
	int			fd;
	bool		ok;

	neon_writer_init(&w, buf, sizeof(buf));
	neon_put_u32(&w, TERMFILE_MAGIC);
	neon_put_u32(&w, TERMFILE_VERSION);
	neon_put_u64(&w, incarnation);
	neon_put_u64(&w, term);
	neon_put_u32(&w, neon_crc32c(0, buf, w.len));

	snprintf(path, sizeof(path), "%s/" SK_TERMFILE, dir);
	snprintf(temp, sizeof(temp), "%s/" SK_TERMFILE ".new", dir);
	fd = BasicOpenFile(temp, O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", temp)));
	errno = 0;
	ok = write(fd, buf, w.len) == (ssize_t) w.len && pg_fsync(fd) == 0;
	if (!ok)
	{
		int			save_errno = errno ? errno : ENOSPC;

		close(fd);
		unlink(temp);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", temp)));
	}
	close(fd);
	sk_rename(temp, path);
}

SkTermFileState
sk_termfile_read(const char *dir, uint64 *incarnation, neon_term *term)
{
	uint8_t		buf[TERMFILE_BYTES + 1];
	neon_reader r;
	char		path[MAXPGPATH];
	int			fd;
	ssize_t		n;
	uint32		crc;

	snprintf(path, sizeof(path), "%s/" SK_TERMFILE, dir);
	fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
	{
		if (errno == ENOENT)
			return SK_TERMFILE_MISSING;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	}
	n = read(fd, buf, sizeof(buf));
	close(fd);
	if (n != TERMFILE_BYTES)
		return SK_TERMFILE_DAMAGED;
	crc = neon_crc32c(0, buf, TERMFILE_BYTES - 4);
	neon_reader_init(&r, buf, n);
	if (neon_get_u32(&r) != TERMFILE_MAGIC || neon_get_u32(&r) != TERMFILE_VERSION)
		return SK_TERMFILE_DAMAGED;
	*incarnation = neon_get_u64(&r);
	*term = neon_get_u64(&r);
	if (neon_get_u32(&r) != crc)
		return SK_TERMFILE_DAMAGED;
	return SK_TERMFILE_OK;
}
