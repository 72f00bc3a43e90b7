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
 *   drop fsync|fdatasync|sync ERRNO PATTERN      fails, and what could not be written counts as clean from now on, as
 *                                                in Linux: later syncs say it is durable, unless it is written again
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
static ShimDropped *dropped = NULL;

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

static void *
map_state(const char *name, size_t bytes, int protection)
{
	char		path[SHIM_PATH_BYTES];
	void	   *p;
	int			fd;

	shim_path(path, "%s/%s", state_dir, name);
	fd = open(path, (protection & PROT_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (fd < 0)
		shim_die("no snapshot was made: could not open", path);
	p = mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		shim_die("could not map", path);
	close(fd);
	return p;
}

__attribute__((constructor)) static void
init(void)
{
	const char *data = getenv("NEON_SHIM_DATA");

	look_up(&real_fsync, "fsync");
	look_up(&real_fdatasync, "fdatasync");
	look_up(&real_syncfs, "syncfs");
	look_up(&real_write, "write");
	look_up(&real_pwrite, "pwrite");
	look_up(&real_pwritev, "pwritev");
	/* The redo process of a pageserver has no files, and is killed for asking about them. */
	if (data == NULL || getenv("NEON_REDO_PARENT") != NULL)
		return;
	shim_path(data_dir, "%s", data);
	shim_path(state_dir, "%s.shim", data);
	control = map_state("control", SHIM_CONTROL_BYTES, PROT_READ);
	dropped = map_state("dropped", sizeof(ShimDropped), PROT_READ | PROT_WRITE);
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

typedef struct Order
{
	enum
	{
		WORK,
		IGNORE,
		FAIL,
		DROP
	}			what;
	int			error;
} Order;

/* The page may be changed while it is read: until it looks twice the same. */
static void
read_control(char text[SHIM_CONTROL_BYTES + 1])
{
	char		again[SHIM_CONTROL_BYTES];

	do
	{
		memcpy(text, (const char *) control, SHIM_CONTROL_BYTES);
		__sync_synchronize();
		memcpy(again, (const char *) control, SHIM_CONTROL_BYTES);
	} while (memcmp(text, again, SHIM_CONTROL_BYTES) != 0);
	text[SHIM_CONTROL_BYTES] = '\0';
}

/* The first line that speaks of this call of this file. */
static Order
order_for(const char *call, const char *rel)
{
	char		text[SHIM_CONTROL_BYTES + 1];
	char	   *save = NULL;
	Order		order = {WORK, 0};

	if (control[0] == '\0')
		return order;
	read_control(text);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
	{
		char		what[16] = "";
		char		word[16] = "";
		char		number[16] = "";
		char		pattern[SHIM_PATH_BYTES] = "";

		if (sscanf(line, "ignore %15s %1000s", word, pattern) == 2)
			order.what = IGNORE;
		else if (sscanf(line, "%15s %15s %15s %1000s", what, word, number, pattern) == 4 &&
				 (strcmp(what, "fail") == 0 || strcmp(what, "drop") == 0))
			order.what = what[0] == 'f' ? FAIL : DROP;
		else
			shim_die("malformed line of the control page", line);
		order.error = strcmp(number, "ENOSPC") == 0 ? ENOSPC : EIO;
		if (names_call(word, call) && fnmatch(pattern, rel, 0) == 0)
			return order;
	}
	order.what = WORK;
	return order;
}

/* ---- the lock of names and of dropped pages: close() frees it ---- */

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

/* ---- pages that the kernel has given up ---- */

/* Under the lock. */
static bool
is_dropped(const char *key, int64_t page)
{
	for (int i = 0; i < dropped->n; i++)
		if (dropped->e[i].page == page && strcmp(dropped->e[i].key, key) == 0)
			return true;
	return false;
}

/* shim_copy's question about a page that differs: yes to all, and remember them. */
static bool
drop_page(const char *key, int64_t page)
{
	if (is_dropped(key, page))
		return true;
	if (dropped->n == SHIM_DROPPED_MAX)
		shim_die("too many dropped pages", key);
	strcpy(dropped->e[dropped->n].key, key);
	dropped->e[dropped->n].page = page;
	dropped->n++;
	return true;
}

/* What is about to be written is dirty again. */
static void
written_again(int fd, off_t offset, size_t len)
{
	char		key[SHIM_KEY_BYTES];
	int64_t		first = offset / SHIM_PAGE_BYTES;
	int64_t		last = (offset + (off_t) len - 1) / SHIM_PAGE_BYTES;
	int			lock;

	if (len == 0 || shim_key(fd, "", key, NULL) != 'f')
		return;
	lock = lock_names();
	for (int i = 0; i < dropped->n; i++)
		if (dropped->e[i].page >= first && dropped->e[i].page <= last && strcmp(dropped->e[i].key, key) == 0)
			dropped->e[i].page = -1;
	close(lock);
}

/* Before a write; false: it fails. */
static bool
before_write(int fd, off_t offset, size_t len)
{
	char		rel[SHIM_PATH_BYTES];
	bool		may_fail = control != NULL && strstr((const char *) control, "write") != NULL;
	bool		may_clean = dropped != NULL && dropped->n > 0;
	int			save_errno = errno;

	if ((!may_fail && !may_clean) || !path_of(fd, rel))
	{
		errno = save_errno;
		return true;
	}
	if (may_fail)
	{
		Order		order = order_for("write", rel);

		if (order.what == FAIL)
		{
			errno = order.error;
			return false;
		}
	}
	if (may_clean)
		written_again(fd, offset < 0 ? lseek(fd, 0, SEEK_CUR) : offset, len);
	errno = save_errno;
	return true;
}

/* ---- making things durable ---- */

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

/* The durable copy gets what is dirty; or (drop) it does not, and what is dirty is forgotten. */
static void
sync_file(int fd, const char *rel, const char *key, bool drop)
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
	if (drop || dropped->n > 0)
	{
		int			lock = lock_names();

		shim_copy(live, durable, key, drop ? drop_page : is_dropped);
		close(lock);
	}
	else
		shim_copy(live, durable, NULL, NULL);
	close(durable);
	close(live);
	if (drop)
		return;
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
	Order		order = order_for(call, rel);
	char		key[SHIM_KEY_BYTES];
	char		type = order.what == WORK || order.what == DROP ? shim_key(fd, "", key, NULL) : 0;

	if (type == 'f')
		sync_file(fd, rel, key, order.what == DROP);
	else if (type == 'd' && order.what == WORK)
		sync_directory(rel);
	errno = order.error;
	if (order.what == FAIL || order.what == DROP)
		return -1;
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
	return before_write(fd, -1, len) ? real_write(fd, buf, len) : -1;
}

EXPORT ssize_t
pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	return before_write(fd, offset, len) ? real_pwrite(fd, buf, len, offset) : -1;
}

EXPORT ssize_t
pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
	size_t		len = 0;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	return before_write(fd, offset, len) ? real_pwritev(fd, iov, n, offset) : -1;
}
