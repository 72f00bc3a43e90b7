/*
 * shim_state.c - keys of files, content of files, names in directories.
 *
 * An error here makes the test's result worthless, so it ends the process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "shim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BYTES (128 * 1024)

void
shim_die(const char *what, const char *path)
{
	dprintf(STDERR_FILENO, "shim: %s \"%s\": %s\n", what, path, strerror(errno));
	abort();
}

void
shim_path(char path[SHIM_PATH_BYTES], const char *format,...)
{
	va_list		args;
	int			n;

	va_start(args, format);
	n = vsnprintf(path, SHIM_PATH_BYTES, format, args);
	va_end(args);
	if (n < 0 || n >= SHIM_PATH_BYTES)
		shim_die("path too long", format);
}

/* Type of the file ('f', 'd', or '-' for what is not kept) and its key; 0 when it is not there, or has no name any more. */
char
shim_key(int dirfd, const char *name, char key[SHIM_KEY_BYTES], int64_t *bytes)
{
	struct statx st;

	if (statx(dirfd, name, AT_SYMLINK_NOFOLLOW | (name[0] ? 0 : AT_EMPTY_PATH), STATX_BASIC_STATS | STATX_BTIME, &st) != 0)
	{
		if (errno == ENOENT || errno == EBADF)
			return 0;
		shim_die("could not stat", name);
	}
	if (!(st.stx_mask & STATX_BTIME))
	{
		errno = ENOTSUP;
		shim_die("the file system does not say when a file was made", name);
	}
	if (st.stx_nlink == 0)
		return 0;
	snprintf(key, SHIM_KEY_BYTES, "%llu.%lld.%09u", (unsigned long long) st.stx_ino, (long long) st.stx_btime.tv_sec,
			 st.stx_btime.tv_nsec);
	if (bytes)
		*bytes = (int64_t) st.stx_size;
	if (S_ISLNK(st.stx_mode))
	{
		errno = ENOTSUP;
		shim_die("symbolic links are not supported", name);
	}
	return S_ISREG(st.stx_mode) ? 'f' : S_ISDIR(st.stx_mode) ? 'd' : '-';
}

/* ---- content ---- */

static ssize_t
read_at(int fd, char *buf, size_t len, off_t offset)
{
	size_t		done = 0;

	while (done < len)
	{
		ssize_t		n = pread(fd, buf + done, len - done, offset + (off_t) done);

		if (n < 0)
			shim_die("could not read", "file");
		if (n == 0)
			break;
		done += (size_t) n;
	}
	return (ssize_t) done;
}

/* Make `to` equal to `from`; only pages that differ are written, and of them not those that skip (if not NULL) knows. */
void
shim_copy(int from, int to, const char *key, shim_skip skip)
{
	static char a[CHUNK_BYTES];
	static char b[CHUNK_BYTES];
	off_t		offset = 0;

	for (;;)
	{
		ssize_t		n = read_at(from, a, CHUNK_BYTES, offset);
		ssize_t		have = read_at(to, b, (size_t) n, offset);

		for (ssize_t p = 0; p < n; p += SHIM_PAGE_BYTES)
		{
			ssize_t		len = n - p < SHIM_PAGE_BYTES ? n - p : SHIM_PAGE_BYTES;

			if (p + len <= have && memcmp(a + p, b + p, (size_t) len) == 0)
				continue;
			if (skip && skip(key, (offset + p) / SHIM_PAGE_BYTES))
				continue;
			if (pwrite(to, a + p, (size_t) len, offset + p) != len)
				shim_die("could not write", "durable copy");
		}
		offset += n;
		if (n < CHUNK_BYTES)
			break;
	}
	if (ftruncate(to, offset) != 0)
		shim_die("could not truncate", "durable copy");
}

/* ---- names ---- */

void
shim_list_add(ShimList *list, char type, const char *key, const char *name)
{
	ShimEntry  *e;

	if (list->n == list->cap)
	{
		list->cap = list->cap ? list->cap * 2 : 64;
		list->e = realloc(list->e, sizeof(ShimEntry) * (size_t) list->cap);
		if (list->e == NULL)
			shim_die("out of memory", name);
	}
	e = &list->e[list->n++];
	memset(e, 0, sizeof(*e));
	e->type = type;
	strncpy(e->key, key, sizeof(e->key) - 1);
	strncpy(e->name, name, sizeof(e->name) - 1);
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(((const ShimEntry *) a)->name, ((const ShimEntry *) b)->name);
}

void
shim_list_sort(ShimList *list)
{
	if (list->n > 1)
		qsort(list->e, (size_t) list->n, sizeof(ShimEntry), compare_names);
}

ShimEntry *
shim_list_find(const ShimList *list, const char *name)
{
	int			lo = 0;
	int			hi = list->n;

	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;
		int			cmp = strcmp(list->e[mid].name, name);

		if (cmp == 0)
			return &list->e[mid];
		if (cmp < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

void
shim_list_free(ShimList *list)
{
	free(list->e);
	memset(list, 0, sizeof(*list));
}

static void
scan_once(const char *directory, ShimList *list)
{
	DIR		   *dir = opendir(directory);
	struct dirent *de;

	memset(list, 0, sizeof(*list));
	if (dir == NULL)
		shim_die("could not open directory", directory);
	while ((de = readdir(dir)) != NULL)
	{
		char		key[SHIM_KEY_BYTES];
		char		type;

		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		type = shim_key(dirfd(dir), de->d_name, key, NULL);
		if (type == 'f' || type == 'd')
			shim_list_add(list, type, key, de->d_name);
	}
	closedir(dir);
	shim_list_sort(list);
}

/* A name that is moved while a directory is read may be seen twice or not at all: read until nothing has changed. */
void
shim_list_scan(const char *directory, ShimList *list)
{
	ShimList	again;

	scan_once(directory, list);
	for (;;)
	{
		scan_once(directory, &again);
		if (again.n == list->n && (again.n == 0 || memcmp(again.e, list->e, sizeof(ShimEntry) * (size_t) again.n) == 0))
			break;
		shim_list_free(list);
		*list = again;
	}
	shim_list_free(&again);
}

void
shim_list_read(const char *state, const char *key, ShimList *list)
{
	char		path[SHIM_PATH_BYTES];
	char		line[SHIM_KEY_BYTES + SHIM_NAME_BYTES + 8];
	FILE	   *f;

	memset(list, 0, sizeof(*list));
	shim_path(path, "%s/dirs/%s", state, key);
	f = fopen(path, "r");
	if (f == NULL && errno == ENOENT)
		return;
	if (f == NULL)
		shim_die("could not open", path);
	while (fgets(line, sizeof(line), f) != NULL)
	{
		char		type;
		char		entry_key[SHIM_KEY_BYTES];
		char		name[SHIM_NAME_BYTES];

		if (sscanf(line, "%c %63s %255[^\n]", &type, entry_key, name) != 3)
			shim_die("malformed list of names", path);
		shim_list_add(list, type, entry_key, name);
	}
	fclose(f);
}

/* All or nothing: a process that is killed here has changed no names. */
void
shim_list_write(const char *state, const char *key, const ShimList *list)
{
	char		path[SHIM_PATH_BYTES];
	char		temp[SHIM_PATH_BYTES];
	FILE	   *f;

	shim_path(path, "%s/dirs/%s", state, key);
	shim_path(temp, "%s/dirs.new", state);
	f = fopen(temp, "w");
	if (f == NULL)
		shim_die("could not create", temp);
	for (int i = 0; i < list->n; i++)
		fprintf(f, "%c %s %s\n", list->e[i].type, list->e[i].key, list->e[i].name);
	if (fclose(f) != 0 || rename(temp, path) != 0)
		shim_die("could not write", path);
}
