/*
 * shim_preload.c - the library for LD_PRELOAD: fsync and fdatasync tell the durable copy, and fail or lie when told to.
 *
 *   NEON_SHIM_DATA      the data directory, as the kernel spells its path; other files are left to the kernel
 *
 * Nothing but the calls that make things durable needs to be seen: what was not synced is in the data directory and
 * nowhere else.  The kernel's own fsync is not called for files below the data directory; the copy is their disk.
 *
 * Promised by the copy: content of a file (and its size) by fsync or fdatasync of it; names by fsync of their directory, and
 * nothing else.  One exception: below base/ and global/ an fsync of a file makes its name durable too, because the server
 * relies on Linux file systems there (it never fsyncs these directories when it makes relation files).
 *
 * Lines of the control page:
 *   ignore fsync|fdatasync|sync PATTERN          says it did, does nothing; sync is either
 *   fail fsync|fdatasync|sync|write ERRNO PATTERN
 * PATTERN is fnmatch's over the path below the data directory, "*" matches "/" as well; "." is that directory.  ERRNO is EIO or ENOSPC.
 *
 * Locks: flock on the durable copy of a file while it is compared and written, so that an older look at a page never
 * overwrites a newer one; flock on DATA.shim/lock for names.  A kill frees both.  What a kill leaves half copied was not
 * acknowledged, and any part of it may have reached a disk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char data_dir[SHIM_PATH_BYTES];
static char state_dir[SHIM_PATH_BYTES];
static const volatile char *control = NULL;

static int	(*real_fsync) (int);
static int	(*real_fdatasync) (int);
static int	(*real_syncfs) (int);
static ssize_t (*real_write) (int, const void *, size_t);
static ssize_t (*real_pwrite) (int, const void *, size_t, off_t);
static ssize_t (*real_pwritev) (int, const struct iovec *, int, off_t);

static void
look_up(void *function, const char *name)
{
	void	   *p = dlsym(RTLD_NEXT, name);

	if (p == NULL)
		shim_die("no such function", name);
	memcpy(function, &p, sizeof(p));
}

__attribute__((constructor)) static void
init(void)
{
	const char *data = getenv("NEON_SHIM_DATA");
	char		path[SHIM_PATH_BYTES];
	int			fd;

	look_up(&real_fsync, "fsync");
	look_up(&real_fdatasync, "fdatasync");
	look_up(&real_syncfs, "syncfs");
	look_up(&real_write, "write");
	look_up(&real_pwrite, "pwrite");
	look_up(&real_pwritev, "pwritev");
	if (data == NULL)
		return;
	shim_path(data_dir, "%s", data);
	shim_path(state_dir, "%s.shim", data);
	shim_path(path, "%s/control", state_dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		shim_die("no snapshot was made: could not open", path);
	control = mmap(NULL, SHIM_CONTROL_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	if (control == MAP_FAILED)
		shim_die("could not map", path);
	close(fd);
}

/* Path below the data directory; false when the descriptor is of something else. */
static bool
path_of(int fd, char rel[SHIM_PATH_BYTES])
{
	char		link[64];
	char		path[SHIM_PATH_BYTES];
	size_t		len = strlen(data_dir);
	ssize_t		n;

	if (control == NULL)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0)
		return false;
	path[n] = '\0';
	if (strncmp(path, data_dir, len) != 0 || (path[len] != '/' && path[len] != '\0'))
		return false;
	strcpy(rel, path[len] ? path + len + 1 : ".");
	return true;
}

/* ---- what is to go wrong ---- */

static bool
names_call(const char *word, const char *call)
{
	return strcmp(word, call) == 0 || (strcmp(word, "sync") == 0 && strstr(call, "sync") != NULL);
}

/* 0: all is well; -1: only say so; else an error number. */
static int
asked_for(const char *call, const char *rel)
{
	char		text[SHIM_CONTROL_BYTES + 1];
	char	   *save = NULL;

	if (control[0] == '\0')
		return 0;
	memcpy(text, (const char *) control, SHIM_CONTROL_BYTES);
	text[SHIM_CONTROL_BYTES] = '\0';
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
	{
		char		what[16];
		char		word[16];
		char		number[16];
		char		pattern[SHIM_PATH_BYTES];

		if (sscanf(line, "ignore %15s %1000s", word, pattern) == 2)
		{
			if (names_call(word, call) && fnmatch(pattern, rel, 0) == 0)
				return -1;
		}
		else if (sscanf(line, "%15s %15s %15s %1000s", what, word, number, pattern) == 4 && strcmp(what, "fail") == 0)
		{
			if (names_call(word, call) && fnmatch(pattern, rel, 0) == 0)
				return strcmp(number, "ENOSPC") == 0 ? ENOSPC : EIO;
		}
		else
			shim_die("malformed line of the control page", line);
	}
	return 0;
}

static bool
write_fails(int fd)
{
	char		rel[SHIM_PATH_BYTES];
	int			error;

	if (control == NULL || strstr((const char *) control, "write") == NULL || !path_of(fd, rel))
		return false;
	error = asked_for("write", rel);
	if (error > 0)
		errno = error;
	return error > 0;
}

/* ---- making things durable ---- */

static int
lock_names(void)
{
	char		path[SHIM_PATH_BYTES];
	int			fd;

	shim_path(path, "%s/lock", state_dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || flock(fd, LOCK_EX) != 0)
		shim_die("could not lock", path);
	return fd;
}

static void
sync_directory(const char *rel)
{
	char		path[SHIM_PATH_BYTES];
	char		key[SHIM_KEY_BYTES];
	ShimList	list;
	int			lock = lock_names();

	shim_path(path, "%s/%s", data_dir, rel);
	if (shim_key(AT_FDCWD, path, key, NULL) == 'd')
	{
		shim_list_scan(path, &list);
		shim_list_write(state_dir, key, &list);
		shim_list_free(&list);
	}
	close(lock);
}

/* Under the lock of names: rel is durable as a name of its parent, and so on upwards. */
static void
make_name_durable(const char *rel)
{
	char		parent[SHIM_PATH_BYTES];
	char		path[SHIM_PATH_BYTES];
	char		parent_key[SHIM_KEY_BYTES];
	char		key[SHIM_KEY_BYTES];
	const char *name = rel;
	char	   *slash;
	ShimList	list;
	ShimEntry  *e;
	char		type;

	if (strcmp(rel, ".") == 0)
		return;
	shim_path(parent, "%s", rel);
	slash = strrchr(parent, '/');
	if (slash)
	{
		*slash = '\0';
		name = rel + (slash - parent) + 1;
	}
	else
		strcpy(parent, ".");
	make_name_durable(parent);
	shim_path(path, "%s/%s", data_dir, parent);
	if (shim_key(AT_FDCWD, path, parent_key, NULL) != 'd')
		return;
	shim_path(path, "%s/%s", data_dir, rel);
	type = shim_key(AT_FDCWD, path, key, NULL);
	if (type == 0)
		return;
	shim_list_read(state_dir, parent_key, &list);
	e = shim_list_find(&list, name);
	if (e == NULL || strcmp(e->key, key) != 0)
	{
		if (e)
			strcpy(e->key, key);
		else
			shim_list_add(&list, type, key, name);
		shim_list_sort(&list);
		shim_list_write(state_dir, parent_key, &list);
	}
	shim_list_free(&list);
}

static void
sync_file(int fd, const char *rel, const char *key)
{
	char		path[SHIM_PATH_BYTES];
	char		link[64];
	int			live;
	int			durable;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	live = open(link, O_RDONLY | O_CLOEXEC);	/* fd may be open for writing only */
	if (live < 0)
		shim_die("could not open", rel);
	shim_path(path, "%s/files/%s", state_dir, key);
	durable = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (durable < 0 || flock(durable, LOCK_EX) != 0)
		shim_die("could not open", path);
	shim_copy(live, durable);
	close(durable);
	close(live);
	if (strncmp(rel, "base/", 5) == 0 || strncmp(rel, "global/", 7) == 0)
	{
		int			lock = lock_names();

		make_name_durable(rel);
		close(lock);
	}
}

static int
make_durable(int fd, const char *call, const char *rel)
{
	int			save_errno = errno;
	int			error = asked_for(call, rel);
	char		key[SHIM_KEY_BYTES];

	if (error > 0)
	{
		errno = error;
		return -1;
	}
	if (error == 0)
	{
		switch (shim_key(fd, "", key, NULL))
		{
			case 'f':
				sync_file(fd, rel, key);
				break;
			case 'd':
				sync_directory(rel);
				break;
		}
	}
	errno = save_errno;
	return 0;
}

/* ---- the calls ---- */

#define EXPORT __attribute__((visibility("default")))

EXPORT int
fsync(int fd)
{
	char		rel[SHIM_PATH_BYTES];

	return path_of(fd, rel) ? make_durable(fd, "fsync", rel) : real_fsync(fd);
}

EXPORT int
fdatasync(int fd)
{
	char		rel[SHIM_PATH_BYTES];

	return path_of(fd, rel) ? make_durable(fd, "fdatasync", rel) : real_fdatasync(fd);
}

EXPORT int
syncfs(int fd)
{
	char		rel[SHIM_PATH_BYTES];

	if (path_of(fd, rel))
	{
		errno = ENOTSUP;
		shim_die("syncfs is not supported", rel);
	}
	return real_syncfs(fd);
}

EXPORT ssize_t
write(int fd, const void *buf, size_t len)
{
	return write_fails(fd) ? -1 : real_write(fd, buf, len);
}

EXPORT ssize_t
pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	return write_fails(fd) ? -1 : real_pwrite(fd, buf, len, offset);
}

EXPORT ssize_t
pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
	return write_fails(fd) ? -1 : real_pwritev(fd, iov, n, offset);
}
