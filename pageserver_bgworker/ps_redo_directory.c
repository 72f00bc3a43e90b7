/*
 * ps_redo_directory.c - the tiny data directory on which a redo process starts.
 *
 * `postgres --single` wants PG_VERSION, a configuration, a control file and a few empty directories before it creates shared
 * memory, where neon_redo takes it over.  Nothing is read from the directory after that, so that each process has its own and
 * the backend removes it as soon as the process has greeted.  One that is left by a crash is removed by the next
 * backend that makes one: its name is the pid of the backend it belonged to.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo_process.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "utils/guc.h"

#define REDO_PARENT_DIRECTORY	"neon_pageserver"
#define REDO_DIRECTORY			REDO_PARENT_DIRECTORY "/redo"

/*
 * 16 buffers are the least a server takes, and more than any record pins.  Checksums and wal_log_hints are off as in computes,
 * so that redo routines take the same branches.
 */
static const char settings[] =
	"shared_preload_libraries = 'neon_redo'\n"
	"shared_buffers = 16\n"
	"wal_buffers = 4\n"
	"huge_pages = off\n"
	"shared_memory_type = mmap\n"
	"dynamic_shared_memory_type = mmap\n"
	"max_connections = 1\n"
	"superuser_reserved_connections = 0\n"
	"max_worker_processes = 0\n"
	"max_wal_senders = 0\n"
	"max_replication_slots = 0\n"
	"max_prepared_transactions = 0\n"
	"max_locks_per_transaction = 10\n"
	"max_pred_locks_per_transaction = 10\n"
	"autovacuum_max_workers = 1\n"
	"track_activity_query_size = 100\n"
	"wal_log_hints = off\n"
	"fsync = off\n"
	"wal_consistency_checking = ''\n"
	"logging_collector = off\n"
	"log_timezone = 'GMT'\n"
	"timezone = 'GMT'\n"
	"lc_messages = 'C'\n";

static void
make_directory(const char *path)
{
	if (MakePGDirectory(path) != 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", path)));
}

static void
write_file(const char *directory, const char *name, const void *bytes, size_t len)
{
	char	   *path = psprintf("%s/%s", directory, name);
	int			fd = OpenTransientFile(path, O_CREAT | O_TRUNC | O_WRONLY | PG_BINARY);

	errno = 0;
	if (fd < 0 || write(fd, bytes, len) != (ssize_t) len || CloseTransientFile(fd) != 0)
	{
		if (errno == 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	}
	pfree(path);
}

/* This server's own control file with checksums off: all that is checked is that binary and file fit each other. */
static void
write_control_file(const char *directory)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);
	PGAlignedBlock file;

	if (!crc_ok)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("calculated CRC checksum does not match value stored in the control file")));
	control->data_checksum_version = 0;
	control->wal_log_hints = false;
	INIT_CRC32C(control->crc);
	COMP_CRC32C(control->crc, control, offsetof(ControlFileData, crc));
	FIN_CRC32C(control->crc);

	StaticAssertStmt(PG_CONTROL_FILE_SIZE <= sizeof(file), "control file does not fit its buffer");
	memset(file.data, 0, sizeof(file));
	memcpy(file.data, control, sizeof(*control));
	write_file(directory, XLOG_CONTROL_FILE, file.data, PG_CONTROL_FILE_SIZE);
	pfree(control);
}

static void
remove_leftovers(void)
{
	DIR		   *dir = AllocateDir(REDO_DIRECTORY);
	struct dirent *de;

	while ((de = ReadDirExtended(dir, REDO_DIRECTORY, LOG)) != NULL)
	{
		char	   *end;
		long		pid = strtol(de->d_name, &end, 10);

		if (*end != '\0' || pid <= 0 || (pid != MyProcPid && (kill((pid_t) pid, 0) == 0 || errno != ESRCH)))
			continue;
		ps_redo_directory_remove(psprintf("%s/%s", REDO_DIRECTORY, de->d_name));
	}
	FreeDir(dir);
}

char *
ps_redo_directory_make(void)
{
	static const char *const subdirectories[] = {"global", "pg_notify", "pg_dynshmem"};
	const char *library_path = GetConfigOption("dynamic_library_path", false, false);
	char	   *path;
	char	   *configuration;

	make_directory(REDO_PARENT_DIRECTORY);
	make_directory(REDO_DIRECTORY);
	remove_leftovers();

	path = psprintf("%s/%s/%d", DataDir, REDO_DIRECTORY, MyProcPid);
	if (mkdir(path, S_IRWXU) != 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", path)));
	for (int i = 0; i < lengthof(subdirectories); i++)
	{
		char	   *sub = psprintf("%s/%s", path, subdirectories[i]);

		make_directory(sub);
		pfree(sub);
	}
	write_file(path, "PG_VERSION", PG_MAJORVERSION "\n", strlen(PG_MAJORVERSION "\n"));
	configuration = psprintf("%sdynamic_library_path = '%s'\n", settings, escape_single_quotes_ascii(library_path));
	write_file(path, "postgresql.conf", configuration, strlen(configuration));
	pfree(configuration);
	write_file(path, "postgresql.auto.conf", "", 0);
	write_control_file(path);
	return path;
}

void
ps_redo_directory_remove(const char *path)
{
	if (!rmtree(path, true))
		ereport(WARNING,
				(errmsg("some files of the redo process may be left behind in \"%s\"", path)));
}
