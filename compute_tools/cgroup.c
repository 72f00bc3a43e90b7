/*
 * cgroup.c - limits of a compute's memory and CPU, by the kernel's control groups.
 *
 * This server is no superuser of the host, so the operator gives it directories of its own below /sys/fs/cgroup
 * (neon_compute_tools.cgroup_directories), of version 1 (one for memory, one for cpu) or of version 2 (one for both).  A compute gets a group
 * of its name in each, which its first process joins before it becomes the server; all others are its children.
 *
 * Limits are a courtesy to the neighbours, not what correctness hangs on: where there is no directory, or the kernel refuses,
 * the compute starts without, and a NOTICE says so once a session.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compute_tools.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#define CPU_PERIOD_US	100000

char	   *ct_cgroup_directories;

static bool
write_value(const char *group, const char *file, const char *value)
{
	int			fd = open(psprintf("%s/%s", group, file), O_WRONLY | O_CLOEXEC);
	bool		ok = fd >= 0 && write(fd, value, strlen(value)) == (ssize_t) strlen(value);

	if (fd >= 0)
		close(fd);
	return ok;
}

static bool
has_file(const char *group, const char *file)
{
	return access(psprintf("%s/%s", group, file), F_OK) == 0;
}

/* Whichever of the files this group has: version 1's or version 2's, memory or cpu.  Returns what could be set. */
static int
set_limits(const char *group, int memory_mb, int cpu_percent)
{
	char	   *bytes = memory_mb > 0 ? psprintf("%lld", (long long) memory_mb * 1024 * 1024) : "-1";
	char	   *quota = cpu_percent > 0 ? psprintf("%d", cpu_percent * (CPU_PERIOD_US / 100)) : "-1";
	int			set = 0;

	if (has_file(group, "memory.limit_in_bytes") && write_value(group, "memory.limit_in_bytes", bytes))
		set |= CT_LIMIT_MEMORY;
	if (has_file(group, "memory.max") && write_value(group, "memory.max", memory_mb > 0 ? bytes : "max"))
		set |= CT_LIMIT_MEMORY;
	if (has_file(group, "cpu.cfs_quota_us") && write_value(group, "cpu.cfs_period_us", psprintf("%d", CPU_PERIOD_US)) &&
		write_value(group, "cpu.cfs_quota_us", quota))
		set |= CT_LIMIT_CPU;
	if (has_file(group, "cpu.max") && write_value(group, "cpu.max", psprintf("%s %d", cpu_percent > 0 ? quota : "max", CPU_PERIOD_US)))
		set |= CT_LIMIT_CPU;
	return set;
}

static List *
directories(void)
{
	List	   *list;

	if (!SplitDirectoriesString(pstrdup(ct_cgroup_directories), ',', &list))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("neon_compute_tools.cgroup_directories is not a list of directories")));
	return list;
}

/* The groups a compute shall be in; limits of 0 are none.  Returns which limits are in force. */
int
ct_make_groups(const char *name, int memory_mb, int cpu_percent, CtGroups *groups)
{
	static bool told;
	int			wanted = (memory_mb > 0 ? CT_LIMIT_MEMORY : 0) | (cpu_percent > 0 ? CT_LIMIT_CPU : 0);
	int			set = 0;
	ListCell   *lc;

	groups->n = 0;
	foreach(lc, directories())
	{
		char	   *group = psprintf("%s/%s", (char *) lfirst(lc), name);

		/* A group of an earlier start is used again, so that a limit that is gone is lifted. */
		if (groups->n == CT_MAX_GROUPS || (wanted == 0 && access(group, F_OK) != 0))
			continue;
		if (mkdir(group, 0755) != 0 && errno != EEXIST)
			continue;
		set |= set_limits(group, memory_mb, cpu_percent);
		groups->procs[groups->n++] = psprintf("%s/cgroup.procs", group);
	}
	if ((set & wanted) != wanted && !told)
	{
		told = true;
		ereport(NOTICE,
				(errmsg("this host does not limit the %s of computes",
						(set & wanted) != 0 ? (wanted & ~set & CT_LIMIT_CPU ? "CPU" : "memory") : "memory and CPU"),
				 errhint("Make directories below /sys/fs/cgroup that this server may write to, and name them in \"neon_compute_tools.cgroup_directories\".")));
	}
	return set & wanted;
}

/* After its end: an empty group goes. */
void
ct_remove_groups(const char *name)
{
	ListCell   *lc;

	foreach(lc, directories())
		(void) rmdir(psprintf("%s/%s", (char *) lfirst(lc), name));
}
