/*
 * shim.h - a disk that forgets: what the preloaded library and the tool shim_crash share.
 *
 * The data directory of a server under the shim plays the page cache, a directory beside it the disk.  fsync and fdatasync of a
 * file copy its content there, fsync of a directory copies its names.  A crash of the machine is then: the data directory
 * becomes what the other one says.
 *
 *   DATA.shim/files/<key>   durable content of a file; absent: empty
 *   DATA.shim/dirs/<key>    durable names of a directory; absent: none
 *   DATA.shim/lock          flock: one change of dirs/ at a time
 *   DATA.shim/control       one page, mapped by every process: what the test wants to go wrong
 *   DATA.shim/dropped       mapped by every process: pages that the page cache calls clean and the disk does not have
 *
 * A key is a file's inode number and its time of birth, so that a reused inode number is another file.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SHIM_H
#define SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHIM_PAGE_BYTES		4096
#define SHIM_SECTOR_BYTES	512
#define SHIM_CONTROL_BYTES	4096
#define SHIM_DROPPED_MAX	8192
#define SHIM_KEY_BYTES		64
#define SHIM_NAME_BYTES		256
#define SHIM_PATH_BYTES		1024

/* What is in a directory: 'f' files and 'd' directories; sockets and pipes do not outlive a crash anyway. */
typedef struct ShimEntry
{
	char		type;
	char		key[SHIM_KEY_BYTES];
	char		name[SHIM_NAME_BYTES];
} ShimEntry;

typedef struct ShimList
{
	ShimEntry  *e;				/* by name, ascending */
	int			n;
	int			cap;
} ShimList;

/* A failed sync may drop the pages it could not write: until they are written again, no later sync writes them. */
typedef struct ShimDropped
{
	volatile int n;
	struct
	{
		char		key[SHIM_KEY_BYTES];
		int64_t		page;		/* -1: no entry any more */
	}			e[SHIM_DROPPED_MAX];
} ShimDropped;

/* Whether a page that differs is to be left as it is on the disk. */
typedef bool (*shim_skip) (const char *key, int64_t page);

extern void shim_die(const char *what, const char *path) __attribute__((noreturn));
extern void shim_path(char path[SHIM_PATH_BYTES], const char *format,...) __attribute__((format(printf, 2, 3)));
extern char shim_key(int dirfd, const char *name, char key[SHIM_KEY_BYTES], int64_t *bytes);

extern void shim_copy(int from, int to, const char *key, shim_skip skip);
extern void shim_list_add(ShimList *list, char type, const char *key, const char *name);
extern ShimEntry *shim_list_find(const ShimList *list, const char *name);
extern void shim_list_sort(ShimList *list);
extern void shim_list_scan(const char *directory, ShimList *list);
extern void shim_list_read(const char *state, const char *key, ShimList *list);
extern void shim_list_write(const char *state, const char *key, const ShimList *list);
extern void shim_list_free(ShimList *list);

#endif							/* SHIM_H */
