/*
 * tar_reader.c - unpack the tar stream of a base backup.
 *
 * Only what a base backup holds is accepted: directories and regular files with relative names that stay
 * below the root.  The archive counts as whole only when its two zero blocks were seen.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compute_tools.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#define TAR_BLOCK	512

struct TarReader
{
	char	   *root;
	char		block[TAR_BLOCK];
	size_t		block_have;
	uint64		file_left;		/* content bytes still to come */
	size_t		pad_left;		/* zeroes after the content */
	int			fd;				/* transient fd, -1 between files */
	char		path[MAXPGPATH];
	int			zero_blocks;
};

TarReader *
tar_reader_begin(const char *root)
{
	TarReader  *t = palloc0(sizeof(TarReader));

	t->root = pstrdup(root);
	t->fd = -1;
	return t;
}

static void
bad_archive(const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("base backup is damaged: %s", why)));
}

static uint64
octal(const char *p, int n)
{
	uint64		v = 0;

	for (int i = 0; i < n && p[i] != '\0' && p[i] != ' '; i++)
	{
		if (p[i] < '0' || p[i] > '7')
			bad_archive("a number is not octal");
		v = v * 8 + (p[i] - '0');
	}
	return v;
}

static void
check_header(const char *h)
{
	unsigned	sum = 0;

	for (int i = 0; i < TAR_BLOCK; i++)
		sum += (i >= 148 && i < 156) ? ' ' : (unsigned char) h[i];
	if (sum != octal(h + 148, 8))
		bad_archive("a header's checksum does not match");
}

static void
close_file(TarReader *t)
{
	if (t->fd >= 0 && CloseTransientFile(t->fd) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not close file \"%s\": %m", t->path)));
	t->fd = -1;
}

static void
open_entry(TarReader *t)
{
	const char *h = t->block;
	char		name[101];
	uint64		size;
	char		type = h[156];

	check_header(h);
	memcpy(name, h, 100);
	name[100] = '\0';
	if (name[0] == '\0' || name[0] == '/' || strstr(name, "..") != NULL)
		bad_archive("a name leaves the data directory");
	size = octal(h + 124, 12);
	snprintf(t->path, sizeof(t->path), "%s/%s", t->root, name);
	canonicalize_path(t->path);
	if (type == '5')
	{
		if (mkdir(t->path, S_IRWXU) != 0 && errno != EEXIST)
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not create directory \"%s\": %m", t->path)));
		return;
	}
	if (type != '0' && type != '\0')
		bad_archive("an entry is neither file nor directory");
	t->fd = OpenTransientFilePerm(t->path, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY, S_IRUSR | S_IWUSR);
	if (t->fd < 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not create file \"%s\": %m", t->path)));
	t->file_left = size;
	t->pad_left = (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
	if (size == 0)
		close_file(t);
}

void
tar_reader_feed(TarReader *t, const char *data, size_t len)
{
	while (len > 0)
	{
		size_t		n;

		if (t->file_left > 0)
		{
			n = Min(len, t->file_left);
			errno = 0;
			if (write(t->fd, data, n) != (ssize_t) n)
			{
				if (errno == 0)
					errno = ENOSPC;
				ereport(ERROR, (errcode_for_file_access(), errmsg("could not write file \"%s\": %m", t->path)));
			}
			t->file_left -= n;
			if (t->file_left == 0)
				close_file(t);
		}
		else if (t->pad_left > 0)
		{
			n = Min(len, t->pad_left);
			t->pad_left -= n;
		}
		else
		{
			n = Min(len, TAR_BLOCK - t->block_have);
			memcpy(t->block + t->block_have, data, n);
			t->block_have += n;
			if (t->block_have == TAR_BLOCK)
			{
				t->block_have = 0;
				if (t->block[0] == '\0')
					t->zero_blocks++;
				else if (t->zero_blocks > 0)
					bad_archive("an entry follows its end");
				else
					open_entry(t);
			}
		}
		data += n;
		len -= n;
	}
}

void
tar_reader_end(TarReader *t)
{
	if (t->zero_blocks < 2 || t->file_left > 0 || t->block_have > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("base backup was cut short"),
				 errhint("Start the endpoint again.")));
}
