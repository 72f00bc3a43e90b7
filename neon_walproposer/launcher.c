/*
 * launcher.c - the background worker that brings the proposer to life.
 *
 * The proposer must be a walsender: only walsenders outlive the shutdown checkpoint, whose record has to reach the
 * safekeepers too, and only a client connection can become one.  So this worker connects to its own server over the unix
 * socket, as a replication connection that carries a key from shared memory; proposer.c takes the connection over as soon
 * as it is authenticated.  Nothing is ever sent over it after that.
 *
 * pg_hba.conf must let the server's own operating system user in for "replication" on the socket (trust or peer).
 *
 * The worker tries again, once a second, while there is no proposer; it never ends by itself.  A proposer that dies after its election takes the
 * compute with it (proposer.c), so trying again is for what happens before: no free place, server not ready.
 *
 * It is also the ear for a stop: the postmaster signals workers when it begins to stop backends, but leaves walsenders
 * alone until the shutdown checkpoint is written, which never comes while commits wait for a lost quorum.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <pwd.h>
#include <unistd.h>

#include <libpq-fe.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "postmaster/postmaster.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "walproposer.h"

#define RETRY_S				1
#define CONNECT_TIMEOUT_MS	10000
#define WATCH_MS			1000

static volatile sig_atomic_t got_sigterm = false;

static void
on_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	got_sigterm = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

void
wp_register_launcher(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RETRY_S;
	strlcpy(worker.bgw_library_name, "neon_walproposer", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "neon_walproposer_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "walproposer launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "walproposer launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* Directory of the first unix socket, absolute as libpq wants it. */
static char *
socket_directory(void)
{
	List	   *directories;
	char	   *first;

	if (!SplitDirectoriesString(pstrdup(Unix_socket_directories), ',', &directories) || directories == NIL)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the proposer needs a unix socket"),
				 errhint("Set unix_socket_directories.")));
	first = linitial(directories);
	if (first[0] == '/' || first[0] == '@')
		return first;
	return psprintf("%s/%s", DataDir, first);
}

static PGconn *
begin_connect(void)
{
	struct passwd *os_user = getpwuid(geteuid());
	char	   *port = psprintf("%d", PostPortNumber);
	char	   *options = psprintf("-c %s=%s", WP_STARTUP_OPTION, wp_shared->secret);
	const char *const keywords[] = {"host", "port", "user", "dbname", "replication", "options", "sslmode", "gssencmode", NULL};
	const char *const values[] = {socket_directory(), port, os_user ? os_user->pw_name : "postgres", "replication", "true",
	options, "disable", "disable", NULL};
	PGconn	   *conn = PQconnectStartParams(keywords, values, 0);

	if (conn == NULL)
		ereport(FATAL, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	return conn;
}

static bool
proposer_runs(void)
{
	return __atomic_load_n(&wp_compute->proposer_pid, __ATOMIC_ACQUIRE) != 0;
}

/* The postmaster has been asked for an immediate stop. */
static bool
dying(void)
{
	return __atomic_load_n(&wp_shared->fatal, __ATOMIC_ACQUIRE) != 0;
}

/*
 * A stop has begun: the proposer's drain limit counts from now.  We must go, or the shutdown checkpoint never comes.
 * Without a proposer nobody would bound the stop: commits that wait would hold it up for ever, and could not be released.
 */
static void
stop_if_asked(void)
{
	Latch	   *latch;

	if (!got_sigterm)
		return;
	__atomic_store_n(&wp_shared->stop_requested, 1, __ATOMIC_RELEASE);
	if (!proposer_runs())
	{
		ereport(LOG, (errmsg("stopping at once: no proposer runs that could send the last WAL to the safekeepers")));
		_exit(2);
	}
	latch = wp_shared->proposer_latch;
	if (latch)
		SetLatch(latch);
	proc_exit(1);
}

static int
wait_for(PGconn *conn, int events, long timeout_ms)
{
	int			rc;

	rc = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | events,
						   conn ? PQsocket(conn) : PGINVALID_SOCKET, timeout_ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	stop_if_asked();
	return rc;
}

/* Said once for a series of failures of the same kind. */
static void
report_failure(const char *why)
{
	static char last[512] = "";

	if (strncmp(last, why, sizeof(last) - 1) == 0)
		return;
	strlcpy(last, why, sizeof(last));
	ereport(LOG,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not start the proposer, trying again"),
			 errdetail_internal("%s", why),
			 errhint("pg_hba.conf must allow replication connections of the server's operating system user on the unix socket.")));
}

/*
 * Connect and wait until the other end says in shared memory that it is the proposer.  It never answers on the connection
 * itself, so an answer, or the end of the connection, is a failure.  The caller closes the connection in any case.
 */
static void
start_proposer(PGconn *conn)
{
	PostgresPollingStatusType poll = PGRES_POLLING_WRITING;
	TimestampTz start = GetCurrentTimestamp();

	while (!proposer_runs())
	{
		if (PQstatus(conn) == CONNECTION_BAD || poll == PGRES_POLLING_FAILED || poll == PGRES_POLLING_OK)
		{
			report_failure(poll == PGRES_POLLING_OK ? "An ordinary walsender answered." : PQerrorMessage(conn));
			return;
		}
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), CONNECT_TIMEOUT_MS))
		{
			report_failure("No answer in time.");
			return;
		}
		if (wait_for(conn, poll == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE,
					 WATCH_MS) & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE))
			poll = PQconnectPoll(conn);
	}
}

void
neon_walproposer_launcher_main(Datum arg)
{
	pqsignal(SIGTERM, on_sigterm);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();

	/* Whoever was here before may have been signalled by somebody who did not mean a stop. */
	__atomic_store_n(&wp_shared->stop_requested, 0, __ATOMIC_RELEASE);

	for (;;)
	{
		PGconn	   *conn = NULL;

		if (!proposer_runs() && !dying())
		{
			conn = begin_connect();
			start_proposer(conn);
		}
		while (proposer_runs() || dying())
			(void) wait_for(NULL, 0, WATCH_MS);
		PQfinish(conn);
		(void) wait_for(NULL, 0, RETRY_S * 1000);
	}
}
