/*
 * shim_crash.c - begins the life of a disk that forgets, and makes it forget.
 *
 *   shim_crash --snapshot DATA      what is in the data directory now is durable; DATA.shim is made anew
 *   shim_crash DATA                 after the server was killed: throw away everything that was not synced
 *   shim_crash --seed N DATA        ... or keep a random part of it
 *   shim_crash --control DATA [LINE...]   say what is to go wrong from now on (see shim_preload.c); no line: nothing
 *
 * With a seed, each file keeps a random part of its unsynced pages; one page in eight is torn at sectors of 512 bytes.  Names of
 * a directory are kept or lost in groups: a rename happens or does not happen, but says nothing of others.
 *
 * Files whose content is as durable as it looks stay what they are; the others are changed in place, together with their
 * durable copy, so that the life of the disk goes on from here.  One line says what was lost.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BYTES (128 * 1024)

static char state_dir[SHIM_PATH_BYTES];

/* Where the files of the data directory are that still have a name: ShimEntry cannot hold a path. */
typedef struct LiveFile
{
	char		key[SHIM_KEY_BYTES];
	char	   *path;
	bool		left;			/* by the crash, with the content it has now */
} LiveFile;

static LiveFile *live_files;
static int	live_count;
static int	live_cap;

static bool keep_some;
static uint64_t random_state;

static struct
{
	long		names_lost;
	long		names_kept;
	long		pages_lost;
	long		pages_kept;
	long		pages_torn;
} result;

static uint64_t
next_random(void)
{
	uint64_t	z = (random_state += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* ---- files ---- */

static int
remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void) st;
	(void) flag;
	(void) ftw;
	return remove(path);
}

static void
remove_tree(const char *path)
{
	if (nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
		shim_die("could not remove", path);
}

static void
make_dir(const char *path)
{
	if (mkdir(path, 0700) != 0)
		shim_die("could not make directory", path);
}

static void
copy_whole(const char *from, const char *to)
{
	int			in = open(from, O_RDONLY);
	int			out = open(to, O_RDWR | O_CREAT | O_EXCL, 0600);

	if (in < 0)
		shim_die("could not open", from);
	if (out < 0)
		shim_die("could not create", to);
	shim_copy(in, out, NULL, NULL);
	close(in);
	close(out);
}

/* ---- snapshot ---- */

static void
snapshot_directory(const char *path, const char *key)
{
	ShimList	list;

	shim_list_scan(path, &list);
	shim_list_write(state_dir, key, &list);
	for (int i = 0; i < list.n; i++)
	{
		char		from[SHIM_PATH_BYTES];
		char		to[SHIM_PATH_BYTES];

		shim_path(from, "%s/%s", path, list.e[i].name);
		shim_path(to, "%s/files/%s", state_dir, list.e[i].key);
		if (list.e[i].type == 'd')
			snapshot_directory(from, list.e[i].key);
		else if (access(to, F_OK) != 0)	/* else it has one already */
			copy_whole(from, to);
	}
	shim_list_free(&list);
}

/* All names there are, and the content of files that have no durable copy. */
static void
make_all_durable(const char *data)
{
	char		path[SHIM_PATH_BYTES];
	char		key[SHIM_KEY_BYTES];

	shim_path(path, "%s/dirs", state_dir);
	remove_tree(path);
	make_dir(path);
	if (shim_key(AT_FDCWD, data, key, NULL) != 'd')
		shim_die("not a directory", data);
	snapshot_directory(data, key);
}

/* A file of zeros. */
static void
make_zeroed(const char *name, off_t bytes)
{
	char		path[SHIM_PATH_BYTES];
	int			fd;

	shim_path(path, "%s/%s", state_dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, bytes) != 0)
		shim_die("could not make", path);
	close(fd);
}

static void
forget_orders(void)
{
	make_zeroed("control", SHIM_CONTROL_BYTES);
	make_zeroed("dropped", sizeof(ShimDropped));
}

static void
snapshot(const char *data)
{
	char		path[SHIM_PATH_BYTES];

	remove_tree(state_dir);
	make_dir(state_dir);
	shim_path(path, "%s/files", state_dir);
	make_dir(path);
	make_all_durable(data);
	forget_orders();
}

static void
set_control(int nlines, char **lines)
{
	char		page[SHIM_CONTROL_BYTES] = {0};
	char		path[SHIM_PATH_BYTES];
	size_t		len = 0;
	int			fd;

	for (int i = 0; i < nlines; i++)
	{
		int			n = snprintf(page + len, sizeof(page) - len, "%s\n", lines[i]);

		if (n < 0 || (size_t) n >= sizeof(page) - len)
			shim_die("too many lines", lines[i]);
		len += (size_t) n;
	}
	shim_path(path, "%s/control", state_dir);
	fd = open(path, O_RDWR);
	if (fd < 0 || pwrite(fd, page, sizeof(page), 0) != sizeof(page))
		shim_die("could not write", path);
	close(fd);
}

/* ---- what the crash leaves of one file ---- */

static void
know_live(const char *path)
{
	ShimList	list;

	shim_list_scan(path, &list);
	for (int i = 0; i < list.n; i++)
	{
		char		child[SHIM_PATH_BYTES];

		shim_path(child, "%s/%s", path, list.e[i].name);
		if (live_count == live_cap)
		{
			live_cap = live_cap ? live_cap * 2 : 1024;
			live_files = realloc(live_files, sizeof(LiveFile) * (size_t) live_cap);
			if (live_files == NULL)
				shim_die("out of memory", path);
		}
		strcpy(live_files[live_count].key, list.e[i].key);
		live_files[live_count].path = strdup(child);
		live_files[live_count].left = false;
		live_count++;
		if (list.e[i].type == 'd')
			know_live(child);
	}
	shim_list_free(&list);
}

static int
compare_keys(const void *a, const void *b)
{
	return strcmp(((const LiveFile *) a)->key, ((const LiveFile *) b)->key);
}

static LiveFile *
find_live(const char *key)
{
	LiveFile	wanted;

	strcpy(wanted.key, key);
	return bsearch(&wanted, live_files, (size_t) live_count, sizeof(LiveFile), compare_keys);
}

/* Zeros behind the file's end. */
static void
read_chunk(int fd, char *buf, size_t len, off_t offset)
{
	ssize_t		n;

	memset(buf, 0, len);
	n = pread(fd, buf, len, offset);
	if (n < 0)
		shim_die("could not read", "file");
}

/* durable becomes what the crash leaves.  percent: of unsynced pages that had reached the disk. */
static void
mix_page(char *durable, const char *live, size_t len, unsigned percent)
{
	if (memcmp(durable, live, len) == 0)
		return;
	if (keep_some && next_random() % 8 == 0)
	{
		for (size_t s = 0; s < len; s += SHIM_SECTOR_BYTES)
		{
			size_t		n = len - s < SHIM_SECTOR_BYTES ? len - s : SHIM_SECTOR_BYTES;

			if (next_random() % 2)
				memcpy(durable + s, live + s, n);
		}
		result.pages_torn++;
	}
	else if (keep_some && next_random() % 100 < percent)
	{
		memcpy(durable, live, len);
		result.pages_kept++;
	}
	else
		result.pages_lost++;
}

static off_t
size_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		shim_die("could not stat", "file");
	return st.st_size;
}

/* The file and its durable copy both become what the crash leaves. */
static void
mix_files(int live_fd, int durable_fd)
{
	static const unsigned percents[] = {0, 25, 50, 75, 100};
	static char live[CHUNK_BYTES];
	static char durable[CHUNK_BYTES];
	unsigned	percent = percents[next_random() % 5];
	off_t		live_size = size_of(live_fd);
	off_t		size = keep_some && next_random() % 2 ? live_size : size_of(durable_fd);

	for (off_t offset = 0; offset < size; offset += CHUNK_BYTES)
	{
		size_t		len = size - offset < CHUNK_BYTES ? (size_t) (size - offset) : CHUNK_BYTES;

		read_chunk(durable_fd, durable, len, offset);
		read_chunk(live_fd, live, len, offset);
		if (memcmp(durable, live, len) == 0)
			continue;
		for (size_t p = 0; p < len; p += SHIM_PAGE_BYTES)
			mix_page(durable + p, live + p, len - p < SHIM_PAGE_BYTES ? len - p : SHIM_PAGE_BYTES, percent);
		if (pwrite(live_fd, durable, len, offset) != (ssize_t) len || pwrite(durable_fd, durable, len, offset) != (ssize_t) len)
			shim_die("could not write", "file");
	}
	if (live_size > size)
		result.pages_lost += (live_size - size + SHIM_PAGE_BYTES - 1) / SHIM_PAGE_BYTES;
	if (ftruncate(live_fd, size) != 0 || ftruncate(durable_fd, size) != 0)
		shim_die("could not truncate", "file");
}

static void
leave_file(const char *key, const char *to)
{
	char		path[SHIM_PATH_BYTES];
	LiveFile   *live = find_live(key);
	int			live_fd;
	int			durable_fd;

	if (live && link(live->path, to) != 0)	/* the old name stays until all directories have been looked at */
		shim_die("could not link", to);
	if (live && live->left)
		return;					/* it has two names */
	shim_path(path, "%s/files/%s", state_dir, key);
	durable_fd = open(path, O_RDWR | O_CREAT, 0600);	/* empty when it was never synced */
	live_fd = live ? open(live->path, O_RDWR) : open(to, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (durable_fd < 0)
		shim_die("could not open", path);
	if (live_fd < 0)
		shim_die("could not open", live ? live->path : to);
	if (live == NULL)			/* it was removed, but not durably */
		shim_copy(durable_fd, live_fd, NULL, NULL);
	else
	{
		mix_files(live_fd, durable_fd);
		live->left = true;
	}
	close(live_fd);
	close(durable_fd);
}

/* ---- what the crash leaves of one directory's names ---- */

static const char *
key_or_none(const ShimEntry *e)
{
	return e ? e->key : "";
}

/* Names whose file has changed. */
static void
find_changes(const ShimList *durable, const ShimList *live, ShimList *changed)
{
	for (int i = 0; i < durable->n; i++)
	{
		const ShimEntry *e = &durable->e[i];

		if (strcmp(e->key, key_or_none(shim_list_find(live, e->name))) != 0)
			shim_list_add(changed, e->type, e->key, e->name);
	}
	for (int i = 0; i < live->n; i++)
		if (shim_list_find(durable, live->e[i].name) == NULL)
			shim_list_add(changed, live->e[i].type, live->e[i].key, live->e[i].name);
	shim_list_sort(changed);
}

/* One file under two changed names, before and after: a rename. */
static bool
tied(const ShimList *durable, const ShimList *live, const char *x, const char *y)
{
	const char *was_x = key_or_none(shim_list_find(durable, x));
	const char *was_y = key_or_none(shim_list_find(durable, y));
	const char *is_x = key_or_none(shim_list_find(live, x));
	const char *is_y = key_or_none(shim_list_find(live, y));

	return (was_x[0] && strcmp(was_x, is_y) == 0) || (was_y[0] && strcmp(was_y, is_x) == 0);
}

static bool *
choose_names(const ShimList *durable, const ShimList *live, const ShimList *changed)
{
	bool	   *kept = calloc((size_t) changed->n + 1, sizeof(bool));
	int		   *group = calloc((size_t) changed->n + 1, sizeof(int));
	bool		again = true;

	for (int i = 0; i < changed->n; i++)
		group[i] = i;
	while (again)
	{
		again = false;
		for (int i = 0; i < changed->n; i++)
			for (int j = i + 1; j < changed->n; j++)
				if (group[i] != group[j] && tied(durable, live, changed->e[i].name, changed->e[j].name))
				{
					group[i] = group[j] = group[i] < group[j] ? group[i] : group[j];
					again = true;
				}
	}
	for (int i = 0; i < changed->n; i++)
		kept[i] = group[i] == i ? keep_some && next_random() % 2 : kept[group[i]];
	free(group);
	return kept;
}

static void leave_directory(const char *from, const char *key, const char *to);

static void
leave_entry(const char *from, const char *to, const ShimEntry *e)
{
	char		target[SHIM_PATH_BYTES];
	LiveFile   *live = find_live(e->key);

	/* The number in it may be another process's by now, which after a real crash of a machine is rare. */
	if (strcmp(e->name, "postmaster.pid") == 0)
		return;
	shim_path(target, "%s/%s", to, e->name);
	if (e->type == 'd')
		leave_directory(live ? live->path : from, e->key, target);
	else
		leave_file(e->key, target);
}

static void
leave_directory(const char *from, const char *key, const char *to)
{
	ShimList	durable;
	ShimList	live = {0};
	ShimList	changed = {0};
	char		from_key[SHIM_KEY_BYTES];
	bool	   *kept;

	make_dir(to);
	shim_list_read(state_dir, key, &durable);
	if (shim_key(AT_FDCWD, from, from_key, NULL) == 'd' && strcmp(from_key, key) == 0)
		shim_list_scan(from, &live);
	find_changes(&durable, &live, &changed);
	kept = choose_names(&durable, &live, &changed);
	for (int i = 0; i < durable.n; i++)
		if (!shim_list_find(&changed, durable.e[i].name))
			leave_entry(from, to, &durable.e[i]);
	for (int i = 0; i < changed.n; i++)
	{
		const ShimEntry *e = shim_list_find(kept[i] ? &live : &durable, changed.e[i].name);

		*(kept[i] ? &result.names_kept : &result.names_lost) += 1;
		if (e)
			leave_entry(from, to, e);
	}
	free(kept);
	shim_list_free(&durable);
	shim_list_free(&live);
	shim_list_free(&changed);
}

/* Durable copies of files that are no more. */
static void
forget_files(void)
{
	char		path[SHIM_PATH_BYTES];
	ShimList	files;

	shim_path(path, "%s/files", state_dir);
	shim_list_scan(path, &files);
	for (int i = 0; i < files.n; i++)
	{
		LiveFile   *live = find_live(files.e[i].name);

		shim_path(path, "%s/files/%s", state_dir, files.e[i].name);
		if (live == NULL || !live->left)
			unlink(path);
	}
	shim_list_free(&files);
}

static void
crash(const char *data)
{
	char		after[SHIM_PATH_BYTES];
	char		key[SHIM_KEY_BYTES];

	shim_path(after, "%s.after", data);
	remove_tree(after);
	if (access(state_dir, F_OK) != 0)
		shim_die("no snapshot was made", state_dir);
	if (shim_key(AT_FDCWD, data, key, NULL) != 'd')
		shim_die("not a directory", data);
	know_live(data);
	qsort(live_files, (size_t) live_count, sizeof(LiveFile), compare_keys);
	leave_directory(data, key, after);
	remove_tree(data);
	if (rename(after, data) != 0)
		shim_die("could not rename", after);
	forget_files();
	make_all_durable(data);
	forget_orders();
	printf("names_lost=%ld names_kept=%ld pages_lost=%ld pages_kept=%ld pages_torn=%ld\n", result.names_lost,
		   result.names_kept, result.pages_lost, result.pages_kept, result.pages_torn);
}

static int
usage(void)
{
	fprintf(stderr, "usage: shim_crash [--snapshot | --seed N | --control] DATA [LINE...]\n");
	return 2;
}

int
main(int argc, char **argv)
{
	const char *mode = argc > 1 && argv[1][0] == '-' ? argv[1] : "";
	int			at = mode[0] ? 2 : 1;
	char		data[SHIM_PATH_BYTES];

	if (strcmp(mode, "--seed") == 0 && argc > 2)
	{
		keep_some = true;
		random_state = strtoull(argv[at++], NULL, 10);
	}
	if (at >= argc || realpath(argv[at], data) == NULL)
		return usage();
	shim_path(state_dir, "%s.shim", data);
	if (strcmp(mode, "--snapshot") == 0)
		snapshot(data);
	else if (strcmp(mode, "--control") == 0)
		set_control(argc - at - 1, argv + at + 1);
	else if (mode[0] == '\0' || keep_some)
		crash(data);
	else
		return usage();
	return 0;
}
