/*
 * ghost.c - what a killed compute leaves at its port.
 *
 * A start from nothing may come while the processes of the last one are still dying, or while they run in a directory that
 * was deleted under them.  The socket's lock file names the postmaster.  A process counts as ours only if it runs this
 * server's postgres in a directory below our base directory (deleted or not): a pid can be given to somebody else.
 *
 * Such a ghost can commit nothing any more: the election of the new compute has fenced it off.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compute_tools.h"

#include <signal.h>
#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(ct_clear_port);

#define GHOST_DYING_MS		2000	/* a killed process is usually gone by itself */
#define GHOST_LIMIT_MS		20000

/* Target of a link below /proc/PID, "" if it cannot be read. */
static void
proc_link(int pid, const char *name, char *out, size_t size)
{
	ssize_t		n = readlink(psprintf("/proc/%d/%s", pid, name), out, size - 1);

	out[n > 0 ? n : 0] = '\0';
}

char
ct_process_state(int pid)
{
	char		buf[512];
	char	   *p;
	size_t		n;
	FILE	   *f = fopen(psprintf("/proc/%d/stat", pid), "r");

	if (f == NULL)
		return 0;
	n = fread(buf, 1, sizeof(buf) - 1, f);
	fclose(f);
	buf[n] = '\0';
	p = strrchr(buf, ')');
	return p != NULL && p[1] == ' ' ? p[2] : '?';
}

static bool
is_ghost(int pid)
{
	char		exe[MAXPGPATH];
	char		cwd[MAXPGPATH];
	size_t		base = strlen(ct_base_directory);

	proc_link(pid, "exe", exe, sizeof(exe));
	proc_link(pid, "cwd", cwd, sizeof(cwd));
	/* " (deleted)" follows the path of a program that was replaced since */
	return strncmp(exe, my_exec_path, strlen(my_exec_path)) == 0 && strncmp(cwd, ct_base_directory, base) == 0 && cwd[base] == '/';
}

static int
pid_in_lock_file(const char *path)
{
	int			pid = 0;
	FILE	   *f = fopen(path, "r");

	if (f == NULL)
		return 0;
	if (fscanf(f, "%d", &pid) != 1)
		pid = 0;
	fclose(f);
	return pid;
}

/* clear_port(port): returns true if a ghost had to be ended. */
Datum
ct_clear_port(PG_FUNCTION_ARGS)
{
	int			port = PG_GETARG_INT32(0);
	char	   *lock;
	TimestampTz start = GetCurrentTimestamp();
	bool		ended = false;
	int			pid;

	(void) ct_compute_path("check");	/* is the base directory set? */
	lock = psprintf("%s/.s.PGSQL.%d.lock", ct_base_directory, port);
	while ((pid = pid_in_lock_file(lock)) > 0)
	{
		int64		waited_ms = (GetCurrentTimestamp() - start) / 1000;

		/* a zombie has no directory to look at any more, and does nothing */
		if (!ct_process_lives(pid))
		{
			unlink(lock);
			unlink(psprintf("%s/.s.PGSQL.%d", ct_base_directory, port));
			break;
		}
		if (waited_ms > GHOST_LIMIT_MS)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("process %d still holds port %d", pid, port),
					 errhint("Stop it, then start the endpoint again.")));
		if (waited_ms > GHOST_DYING_MS && !ended)
		{
			if (!is_ghost(pid))
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_IN_USE),
						 errmsg("process %d, which is no compute of this host, is named by \"%s\"", pid, lock),
						 errhint("If it has nothing to do with it, remove the file.")));
			ereport(LOG, (errmsg("ending process %d, which a compute left at port %d", pid, port)));
			kill(pid, SIGQUIT);
			ended = true;
		}
		ct_sleep(20);
	}
	PG_RETURN_BOOL(ended);
}
