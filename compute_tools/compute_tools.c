/*
 * compute_tools.c - module entry, settings, and the SQL functions that run pg_ctl.
 *
 * A compute on this host is a directory below neon_compute_tools.base_directory.  Its processes are not
 * children of this server: pg_ctl detaches them, and they live on when this server stops.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compute_tools.h"

#include <sys/stat.h>
#include <unistd.h>

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "mb/pg_wchar.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;


char	   *ct_base_directory = NULL;

PG_FUNCTION_INFO_V1(ct_start_process);
PG_FUNCTION_INFO_V1(ct_stop_process);
PG_FUNCTION_INFO_V1(ct_process_pid);
PG_FUNCTION_INFO_V1(ct_forget_dead_process);

void
_PG_init(void)
{
	DefineCustomStringVariable("neon_compute_tools.base_directory",
							   "Directory that holds the data directories of this host's computes.",
							   NULL, &ct_base_directory, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	MarkGUCPrefixReserved("neon_compute_tools");
}

char *
ct_compute_path(const char *name)
{
	if (name[0] == '\0' || strlen(name) > 63 || name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-")] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid compute name \"%s\"", name),
				 errhint("Names have up to 63 lower-case letters, digits, \"_\" and \"-\".")));
	if (ct_base_directory == NULL || ct_base_directory[0] != '/')
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("neon_compute_tools.base_directory is not set to an absolute path"),
				 errhint("Set it in postgresql.conf of the instance that starts computes.")));
	return psprintf("%s/%s", ct_base_directory, name);
}

/* The last lines of a compute's log say best why it did not start. */
static char *
log_tail(const char *path)
{
	char		buf[2048];
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

Datum
ct_start_process(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int			timeout_ms = PG_GETARG_INT32(1);
	char	   *dir = ct_compute_path(name);
	char	   *log = psprintf("%s/compute.log", dir);
	char	   *wait_s = psprintf("%d", Max(timeout_ms / 1000, 1));
	char	   *argv[] = {"pg_ctl", "start", "-w", "-t", wait_s, "-D", dir, "-l", log, NULL};
	StringInfoData out;
	int			code;

	initStringInfo(&out);
	code = ct_run("pg_ctl", argv, timeout_ms + 5000, &out);
	if (code != 0)
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("compute \"%s\" did not start", name),
				 errdetail_internal("pg_ctl ended with code %d: %s\n%s", code, pchomp(out.data), log_tail(log)),
				 errhint("Its log is \"%s\".", log)));
	PG_RETURN_VOID();
}

Datum
ct_stop_process(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *mode = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			timeout_ms = PG_GETARG_INT32(2);
	char	   *dir = ct_compute_path(name);
	char	   *wait_s = psprintf("%d", Max(timeout_ms / 1000, 1));
	char	   *argv[] = {"pg_ctl", "stop", "-w", "-t", wait_s, "-D", dir, "-m", mode, NULL};
	StringInfoData out;
	struct stat st;

	if (strcmp(mode, "fast") != 0 && strcmp(mode, "immediate") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid stop mode \"%s\"", mode),
				 errhint("Use \"fast\" or \"immediate\".")));
	if (stat(psprintf("%s/postmaster.pid", dir), &st) != 0)
		PG_RETURN_BOOL(false);
	initStringInfo(&out);
	if (ct_run("pg_ctl", argv, timeout_ms + 5000, &out) != 0 &&
		stat(psprintf("%s/postmaster.pid", dir), &st) == 0)
	{
		/* a stale pid file of a killed server is not a failure to stop */
		char	   *sargv[] = {"pg_ctl", "status", "-D", dir, NULL};

		if (ct_run("pg_ctl", sargv, 10000, &out) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("compute \"%s\" did not stop within %d ms", name, timeout_ms),
					 errhint("Stop it with mode \"immediate\"; nothing that was acknowledged is lost by that.")));
	}
	PG_RETURN_BOOL(true);
}

/* Pid of the compute's postmaster, NULL when none runs. */
Datum
ct_process_pid(PG_FUNCTION_ARGS)
{
	char	   *dir = ct_compute_path(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char	   *argv[] = {"pg_ctl", "status", "-D", dir, NULL};
	StringInfoData out;
	FILE	   *f;
	int			pid = 0;

	initStringInfo(&out);
	if (ct_run("pg_ctl", argv, 10000, &out) != 0)
		PG_RETURN_NULL();
	f = fopen(psprintf("%s/postmaster.pid", dir), "r");
	if (f == NULL)
		PG_RETURN_NULL();
	if (fscanf(f, "%d", &pid) != 1)
		pid = 0;
	fclose(f);
	if (pid <= 0)
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
	char	   *argv[] = {"pg_ctl", "status", "-D", dir, NULL};
	StringInfoData out;
	struct stat st;

	if (stat(pidfile, &st) != 0)
		PG_RETURN_BOOL(false);
	initStringInfo(&out);
	if (ct_run("pg_ctl", argv, 10000, &out) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("compute \"%s\" is running", name)));
	if (unlink(pidfile) != 0 && errno != ENOENT)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", pidfile)));
	PG_RETURN_BOOL(true);
}
