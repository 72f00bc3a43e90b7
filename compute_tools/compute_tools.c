/*
 * compute_tools.c - module entry, settings, names to paths.
 *
 * A compute on this host is a directory below neon_compute_tools.base_directory.  Its processes are not
 * children of this server: they live on when it stops.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compute_tools.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

char	   *ct_base_directory = NULL;

void
_PG_init(void)
{
	DefineCustomStringVariable("neon_compute_tools.base_directory",
							   "Directory that holds the data directories of this host's computes.",
							   NULL, &ct_base_directory, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_compute_tools.watch_interval", "How often the computes of this host are looked at.",
							"0 switches it off: crashed computes are not started again, and idle ones not suspended.",
							&ct_watch_interval_ms, 5000, 0, 3600000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomStringVariable("neon_compute_tools.controller_connstring",
							   "Connection string of the controller; empty where it is this server.",
							   NULL, &ct_controller_connstring, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("neon_compute_tools.node_name", "Name under which this host is registered at the controller.",
							   NULL, &ct_node_name, "compute-1", PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("neon_compute_tools.cgroup_directories",
							   "Directories of control groups in which computes are limited.",
							   "Each must be writable for this server; those that are not there are passed over.",
							   &ct_cgroup_directories, "/sys/fs/cgroup/memory/neon,/sys/fs/cgroup/cpu/neon,/sys/fs/cgroup/neon",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	MarkGUCPrefixReserved("neon_compute_tools");
	if (process_shared_preload_libraries_in_progress)
		ct_register_watcher();
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

void
ct_sleep(int ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}
