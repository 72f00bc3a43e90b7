/*
 * process.c - a compute's server process: started, stopped, looked for.
 *
 * The data directory's postmaster.pid names the process; it counts only if that process works in this very directory, since a
 * pid can be given to somebody else.  Waiting is by short polls: a start takes tens of milliseconds.
 *
 * Callers hold the compute's advisory lock (neon_compute_tools--0.1.sql), so nobody starts and stops one at the same time.
 * A start that is cancelled leaves the server to itself: it is found running the next time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compute_tools.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/pidfile.h"
#include "utils/timestamp.h"

#define POLL_MS			3
#define TAIL_BYTES		2048

PG_FUNCTION_INFO_V1(ct_start_process);
PG_FUNCTION_INFO_V1(ct_wait_for_process);
PG_FUNCTION_INFO_V1(ct_stop_process);
PG_FUNCTION_INFO_V1(ct_process_pid);
PG_FUNCTION_INFO_V1(ct_forget_dead_process);

/* The last lines of a compute's log say best why it did not start. */
static char *
log_tail(const char *path)
{
	char		buf[TAIL_BYTES];
	size_t		n;
	FILE	   *f = fopen(path, "r");

	if (f == NULL)
		return pstrdup("");
	if (fseek(f, -(long) (sizeof(buf) - 1), SEEK_END) != 0)
		rewind(f);
	n = fread(buf, 1, sizeof(buf) - 1, f);
	fclose(f);
	buf[n] = '\0';
	if (!pg_verify_mbstr(GetDatabaseEncoding(), buf, (int) n, true))
		return pstrdup("");
	return pstrdup(buf);
}

/* What the pid file says: the pid and whether that server takes connections.  False when there is no such file. */
static bool
read_pid_file(const char *dir, int *pid, bool *ready)
{
	char		line[MAXPGPATH];
	FILE	   *f = fopen(psprintf("%s/postmaster.pid", dir), "r");

	*pid = 0;
	*ready = false;
	if (f == NULL)
		return false;
	for (int n = 1; fgets(line, sizeof(line), f) != NULL; n++)
	{
		if (n == LOCK_FILE_LINE_PID)
			*pid = atoi(line);
		if (n == LOCK_FILE_LINE_PM_STATUS)
			*ready = strncmp(line, PM_STATUS_READY, strlen(PM_STATUS_READY)) == 0 ||
				strncmp(line, PM_STATUS_STANDBY, strlen(PM_STATUS_STANDBY)) == 0;
	}
	fclose(f);
	return true;
}

bool
ct_process_lives(int pid)
{
	char		state = ct_process_state(pid);

	return state != 0 && state != 'Z' && state != 'X';
}

int
ct_running_pid(const char *dir)
{
	int			pid;
	bool		ready;
	struct stat ours,
				theirs;

	if (!read_pid_file(dir, &pid, &ready) || pid <= 0 || !ct_process_lives(pid))
		return 0;
	if (stat(dir, &ours) != 0 || stat(psprintf("/proc/%d/cwd", pid), &theirs) != 0)
		return 0;
	return ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino ? pid : 0;
}

static void
wait_until_ready(const char *name, const char *dir, const char *log, int pid, int timeout_ms)
{
	TimestampTz start = GetCurrentTimestamp();

	for (;;)
	{
		int			found;
		bool		ready;

		if (read_pid_file(dir, &found, &ready) && found == pid && ready)
			return;
		if (!ct_process_lives(pid))
			ereport(ERROR,
					(errcode(ERRCODE_CANNOT_CONNECT_NOW),
					 errmsg("compute \"%s\" did not start", name),
					 errdetail_internal("%s", log_tail(log)),
					 errhint("Its log is \"%s\".", log)));
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), timeout_ms))
			ereport(ERROR,
					(errcode(ERRCODE_CANNOT_CONNECT_NOW),
					 errmsg("compute \"%s\" does not take connections after %d ms", name, timeout_ms),
					 errdetail_internal("%s", log_tail(log)),
					 errhint("Its log is \"%s\".", log)));
		ct_sleep(POLL_MS);
	}
}

/* (name, timeout_ms, memory_mb, cpu_percent) returns the pid; limits of 0 are none */
Datum
ct_start_process(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int			timeout_ms = PG_GETARG_INT32(1);
	char	   *dir = ct_compute_path(name);
	char	   *log = psprintf("%s/compute.log", dir);
	CtGroups	groups = {0};
	pid_t		pid;

	(void) ct_make_groups(name, PG_GETARG_INT32(2), PG_GETARG_INT32(3), &groups);
	pid = ct_spawn_postmaster(dir, log, &groups);
	wait_until_ready(name, dir, log, pid, timeout_ms);
	PG_RETURN_INT32(pid);
}

/* (name, timeout_ms): of one that runs, or is still starting, the pid; NULL when none does */
Datum
ct_wait_for_process(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *dir = ct_compute_path(name);
	pid_t		pid = ct_running_pid(dir);

	if (pid == 0)
		PG_RETURN_NULL();
	wait_until_ready(name, dir, psprintf("%s/compute.log", dir), pid, PG_GETARG_INT32(1));
	PG_RETURN_INT32(pid);
}

Datum
ct_stop_process(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *mode = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			timeout_ms = PG_GETARG_INT32(2);
	char	   *dir = ct_compute_path(name);
	TimestampTz start = GetCurrentTimestamp();
	bool		fast = strcmp(mode, "fast") == 0;
	int			pid;

	if (!fast && strcmp(mode, "immediate") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid stop mode \"%s\"", mode),
				 errhint("Use \"fast\" or \"immediate\".")));
	pid = ct_running_pid(dir);
	if (pid == 0)
		PG_RETURN_BOOL(false);
	if (kill(pid, fast ? SIGINT : SIGQUIT) != 0 && errno != ESRCH)
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not stop process %d of compute \"%s\": %m", pid, name)));
	while (ct_process_lives(pid))
	{
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), timeout_ms))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("compute \"%s\" did not stop within %d ms", name, timeout_ms),
					 errhint("Stop it with mode \"immediate\"; nothing that was acknowledged is lost by that.")));
		ct_sleep(POLL_MS);
	}
	ct_remove_groups(name);
	PG_RETURN_BOOL(true);
}

/* Pid of the compute's postmaster, NULL when none runs. */
Datum
ct_process_pid(PG_FUNCTION_ARGS)
{
	int			pid = ct_running_pid(ct_compute_path(text_to_cstring(PG_GETARG_TEXT_PP(0))));

	if (pid == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(pid);
}

/* A killed server leaves its pid file behind; false when there is nothing to forget, ERROR when it lives. */
Datum
ct_forget_dead_process(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *dir = ct_compute_path(name);
	char	   *pidfile = psprintf("%s/postmaster.pid", dir);
	struct stat st;

	if (stat(pidfile, &st) != 0)
		PG_RETURN_BOOL(false);
	if (ct_running_pid(dir) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("compute \"%s\" is running", name)));
	if (unlink(pidfile) != 0 && errno != ENOENT)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", pidfile)));
	PG_RETURN_BOOL(true);
}
