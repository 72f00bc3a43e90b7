/*
 * ps_bootstrap.c - the image layer of a fresh cluster: initdb once, a hard link for every later tenant.
 *
 * The cache is $PGDATA/neon_pageserver/_bootstrap: `layer` is the file, `state` what a timeline that begins with it must
 * know.  `state` is renamed into place last, so a layer without it is the remains of a crash and is made again.  A layer
 * made by another minor version of the server is made again too.
 *
 * Locks: flock on its `lock`, so that two sessions do not run initdb at once; the kernel frees it in a crash.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/copydir.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/wait_event.h"

#include "ps_bootstrap.h"

#define CACHE_DIR		PS_DIRECTORY "/_bootstrap"
#define CACHE_LAYER		CACHE_DIR "/layer"
#define CACHE_STATE		CACHE_DIR "/state"
#define CACHE_LOCK		CACHE_DIR "/lock"
#define CACHE_INITDB	CACHE_DIR "/initdb"

#define STATE_MAGIC		UINT32_C(0x4E505342)
#define POLL_MS			20

/* The file `state`, in the server's byte order: it never leaves this data directory. */
typedef struct BootstrapState
{
	uint32		magic;
	char		server_version[64];
	uint64		layer_bytes;
	PsBootstrap bootstrap;
	pg_crc32c	crc;
} BootstrapState;

/* Set by import_datadir around its call of create_timeline: the directory to import instead of a fresh cluster. */
static const char *import_directory = NULL;

/* ---- initdb ---- */

static void
exec_initdb(const char *directory)
{
	char		initdb[MAXPGPATH];
	char	   *slash;
	int			null_fd;

	strlcpy(initdb, my_exec_path, sizeof(initdb));
	slash = strrchr(initdb, '/');
	strlcpy(slash ? slash + 1 : initdb, "initdb", sizeof(initdb) - (slash ? slash + 1 - initdb : 0));

	null_fd = open("/dev/null", O_RDWR);
	if (null_fd >= 0)
	{
		dup2(null_fd, STDIN_FILENO);
		dup2(STDERR_FILENO, STDOUT_FILENO);	/* into the server's log */
	}
	if (close_range(STDERR_FILENO + 1, ~0U, 0) != 0)
		for (int fd = STDERR_FILENO + 1; fd < 1024; fd++)
			close(fd);
	unsetenv("PGDATA");
	execl(initdb, initdb, "-D", directory, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust",
		  "--no-sync", "--no-instructions", (char *) NULL);
	_exit(127);
}

static void
run_initdb(const char *directory)
{
	pid_t		pid;
	int			status;

	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid < 0)
		ereport(ERROR, (errmsg("could not fork to run initdb: %m")));
	if (pid == 0)
	{
		/* Nothing of the server may run here: default signals, then exec. */
		for (int sig = 1; sig < 32; sig++)
			if (sig != SIGKILL && sig != SIGSTOP)
				signal(sig, SIG_DFL);
		sigprocmask(SIG_SETMASK, &UnBlockSig, NULL);
		exec_initdb(directory);
	}
	for (;;)
	{
		pid_t		done = waitpid(pid, &status, WNOHANG);

		if (done == pid)
			break;
		if (done < 0 && errno != EINTR)
			ereport(ERROR, (errmsg("could not wait for initdb: %m")));
		(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, POLL_MS, PG_WAIT_EXTENSION);
		if (QueryCancelPending || ProcDiePending)
			kill(pid, SIGTERM);	/* the interrupt is served when it is gone */
	}
	CHECK_FOR_INTERRUPTS();
	if (status != 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("initdb failed: %s", wait_result_to_str(status)),
				 errdetail("Its output is in the server's log.")));
}

/* ---- cache ---- */

static pg_crc32c
state_crc(const BootstrapState *st)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, st, offsetof(BootstrapState, crc));
	FIN_CRC32C(crc);
	return crc;
}

static bool
read_state(BootstrapState *st)
{
	int			fd = OpenTransientFile(CACHE_STATE, O_RDONLY | PG_BINARY);
	struct stat layer;
	bool		ok;

	if (fd < 0)
		return false;
	ok = read(fd, st, sizeof(*st)) == sizeof(*st);
	CloseTransientFile(fd);
	return ok && st->magic == STATE_MAGIC && EQ_CRC32C(st->crc, state_crc(st)) &&
		strcmp(st->server_version, PG_VERSION) == 0 &&
		stat(CACHE_LAYER, &layer) == 0 && (uint64) layer.st_size == st->layer_bytes;
}

static void
write_state(BootstrapState *st)
{
	int			fd = OpenTransientFile(CACHE_STATE ".tmp", O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);

	if (fd < 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not create file \"%s\": %m", CACHE_STATE ".tmp")));
	st->magic = STATE_MAGIC;
	strlcpy(st->server_version, PG_VERSION, sizeof(st->server_version));
	st->crc = state_crc(st);
	if (write(fd, st, sizeof(*st)) != sizeof(*st) || pg_fsync(fd) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not write file \"%s\": %m", CACHE_STATE ".tmp")));
	CloseTransientFile(fd);
	durable_rename(CACHE_STATE ".tmp", CACHE_STATE, ERROR);
}

static void
fill_cache(BootstrapState *st)
{
	char		directory[MAXPGPATH];
	struct stat layer;

	ereport(LOG, (errmsg("making the image of a fresh cluster")));
	(void) unlink(CACHE_STATE);
	(void) unlink(CACHE_LAYER);
	if (stat(CACHE_INITDB, &layer) == 0 && !rmtree(CACHE_INITDB, true))
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not remove directory \"%s\"", CACHE_INITDB)));

	snprintf(directory, sizeof(directory), "%s/%s", DataDir, CACHE_INITDB);
	run_initdb(directory);
	memset(st, 0, sizeof(*st));
	ps_import_directory(CACHE_INITDB, CACHE_LAYER, &st->bootstrap);
	if (stat(CACHE_LAYER, &layer) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not stat file \"%s\": %m", CACHE_LAYER)));
	st->layer_bytes = layer.st_size;
	write_state(st);
	(void) rmtree(CACHE_INITDB, true);
}

static int
lock_cache(void)
{
	int			fd;

	if ((MakePGDirectory(PS_DIRECTORY) != 0 && errno != EEXIST) ||
		(MakePGDirectory(CACHE_DIR) != 0 && errno != EEXIST))
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not create directory \"%s\": %m", CACHE_DIR)));
	fd = OpenTransientFile(CACHE_LOCK, O_RDWR | O_CREAT | PG_BINARY);
	if (fd < 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", CACHE_LOCK)));
	while (flock(fd, LOCK_EX | LOCK_NB) != 0)
	{
		if (errno != EWOULDBLOCK && errno != EINTR)
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not lock file \"%s\": %m", CACHE_LOCK)));
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, POLL_MS, PG_WAIT_EXTENSION);
	}
	return fd;
}

void
ps_bootstrap(const char *path, PsBootstrap *out)
{
	BootstrapState st;
	char		parent[MAXPGPATH];
	int			lock;

	if (import_directory != NULL)
	{
		ps_import_directory(import_directory, path, out);
		return;
	}

	lock = lock_cache();
	if (!read_state(&st))
		fill_cache(&st);
	(void) unlink(path);
	if (link(CACHE_LAYER, path) != 0)
		copy_file(pstrdup(CACHE_LAYER), pstrdup(path));
	fsync_fname(path, false);
	strlcpy(parent, path, sizeof(parent));
	get_parent_directory(parent);
	fsync_fname(parent, true);
	CloseTransientFile(lock);
	*out = st.bootstrap;
}

/* ---- import_datadir(tenant, timeline, directory) ---- */

PG_FUNCTION_INFO_V1(neon_ps_import_datadir);

/*
 * A root timeline from an existing data directory.  Goes through create_timeline, so that the timeline's row and its
 * layer's row appear as for any other root.
 */
Datum
neon_ps_import_datadir(PG_FUNCTION_ARGS)
{
	Datum		args[2] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	Oid			types[2] = {TEXTOID, TEXTOID};
	XLogRecPtr	start_lsn;
	bool		isnull;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to import a data directory")));
	import_directory = text_to_cstring(PG_GETARG_TEXT_PP(2));
	PG_TRY();
	{
		SPI_connect();
		if (SPI_execute_with_args("SELECT start_lsn FROM neon_pageserver.create_timeline($1, $2, '{}')",
								  2, types, args, NULL, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
			elog(ERROR, "create_timeline returned no row");
		start_lsn = DatumGetLSN(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		SPI_finish();
	}
	PG_FINALLY();
	{
		import_directory = NULL;
	}
	PG_END_TRY();
	PG_RETURN_LSN(start_lsn);
}
