/*
 * compute_tools.h - what the files of compute_tools share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef COMPUTE_TOOLS_H
#define COMPUTE_TOOLS_H

#include "postgres.h"

#include <sys/types.h>

/* Where this host's computes live; every directory name that comes from SQL is taken relative to it. */
extern char *ct_base_directory;

/* Absolute path of a compute's directory; ERROR for a name that could leave the base directory. */
extern char *ct_compute_path(const char *name);

/* Sleep, and serve interrupts; the end of this server ends it. */
extern void ct_sleep(int ms);

/* State letter of a process, 0 when there is none. */
extern char ct_process_state(int pid);
extern bool ct_process_lives(int pid);	/* and is no zombie */

/* Pid of the server that works in a compute's directory, 0 when none does. */
extern int	ct_running_pid(const char *dir);

/* Lists of processes of the control groups that a new process shall join. */
#define CT_MAX_GROUPS	4
typedef struct CtGroups
{
	int			n;
	char	   *procs[CT_MAX_GROUPS];
} CtGroups;

/* cgroup.c */
#define CT_LIMIT_MEMORY	1
#define CT_LIMIT_CPU	2
extern char *ct_cgroup_directories;
extern int	ct_make_groups(const char *name, int memory_mb, int cpu_percent, CtGroups *groups);
extern void ct_remove_groups(const char *name);

/* Start a server in a data directory; it outlives this one.  Its output is appended to the log.  Returns its pid. */
extern pid_t ct_spawn_postmaster(const char *dir, const char *log_path, const CtGroups *groups);

/* watch.c */
extern int	ct_watch_interval_ms;
extern char *ct_controller_connstring;
extern char *ct_node_name;
extern void ct_register_watcher(void);

/* Streaming reader of a ustar archive; writes below `root`. */
typedef struct TarReader TarReader;
extern TarReader *tar_reader_begin(const char *root);
extern void tar_reader_feed(TarReader *t, const char *data, size_t len);
extern void tar_reader_end(TarReader *t);	/* ERROR if the archive was cut short */

#endif							/* COMPUTE_TOOLS_H */
