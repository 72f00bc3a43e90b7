/*
 * ps_redo_process.c - client of the redo process: start, talk, give up.
 *
 * Each backend that needs one has its own, started at the first record that native redo does not know, kept for the life of the
 * backend.  So the number of processes is bounded by max_connections, requests need no locks, and a record that brings its
 * process down hurts one page of one backend: the error is reported for that page and the next request starts a new process.
 *
 * The child is spawned (vfork, exec) with an empty environment, its own session (signals to the backend's process group are not
 * for it), default signal handlers, /dev/null for input and output, one end of a socketpair, and no other descriptor.
 * It never touches this server's shared memory: exec drops the mapping.  It is killed when the backend exits, and
 * by the kernel when the backend is killed.
 *
 * `in_request` is true while request and response are out of step: an ERROR raised while waiting (a cancel, a timeout) leaves it
 * set, and the next request throws the process away.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "access/xlogrecord.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ps_redo.h"
#include "ps_redo_wire.h"

/* The request buffer is given back when a request was larger than this. */
#define REQUEST_KEEP_BYTES	(256 * 1024)

#define MAX_REQUEST_RECORDS	100000

#define END_POLLS			100
#define END_POLL_US			1000

static struct
{
	pid_t		pid;			/* 0: there is none */
	pgsocket	sock;
	WaitEventSet *events;
	bool		in_request;
	bool		exit_registered;
}			process = {.sock = PGINVALID_SOCKET};

static StringInfoData request;
static PsRedoResponse response;
static char failure[256];

pid_t
ps_redo_process_pid(void)
{
	return process.pid;
}

/* Ends the process, if there is one; returns its wait status, or -1. */
static int
stop_process(void)
{
	int			status = -1;

	if (process.events != NULL)
		FreeWaitEventSet(process.events);
	process.events = NULL;
	if (process.sock != PGINVALID_SOCKET)
	{
		close(process.sock);
		ReleaseExternalFD();
	}
	process.sock = PGINVALID_SOCKET;
	if (process.pid > 0)
	{
		kill(process.pid, SIGKILL);
		while (waitpid(process.pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	process.pid = 0;
	process.in_request = false;
	return status;
}

static void
stop_at_exit(int code, Datum arg)
{
	stop_process();
}

/* Runs `postgres --single` on the directory, with fd as its descriptor PS_REDO_SOCKET_FD.  Returns an errno, or 0. */
static int
spawn(const char *directory, int fd, pid_t *pid)
{
	char		parent[64];
	char	   *argv[] = {my_exec_path, "--single", "-D", unconstify(char *, directory), "postgres", NULL};
	char	   *envp[] = {"LC_ALL=C", "PATH=/usr/bin:/bin", parent, NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	sigset_t	none;
	sigset_t	all;
	int			rc;

	snprintf(parent, sizeof(parent), "%s=%d", PS_REDO_ENV_PARENT, MyProcPid);
	sigemptyset(&none);
	sigfillset(&all);
	if ((rc = posix_spawn_file_actions_init(&files)) != 0)
		return rc;
	if ((rc = posix_spawnattr_init(&attributes)) != 0)
	{
		posix_spawn_file_actions_destroy(&files);
		return rc;
	}

	/* dup2 onto itself clears close-on-exec, so that this holds even when fd is already the wanted number. */
	if ((rc = posix_spawn_file_actions_adddup2(&files, fd, PS_REDO_SOCKET_FD)) == 0 &&
		(rc = posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0)) == 0 &&
		(rc = posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)) == 0 &&
		(rc = posix_spawn_file_actions_addclosefrom_np(&files, PS_REDO_SOCKET_FD + 1)) == 0 &&
		(rc = posix_spawnattr_setsigdefault(&attributes, &all)) == 0 &&
		(rc = posix_spawnattr_setsigmask(&attributes, &none)) == 0 &&
		(rc = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK |
									   POSIX_SPAWN_SETSID)) == 0)
		rc = posix_spawn(pid, my_exec_path, &files, &attributes, argv, envp);

	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&files);
	return rc;
}

/* Sleeps until the socket can be read or written, an interrupt came, or the deadline has passed (ERROR). */
static void
wait_for_socket(uint32 event, TimestampTz deadline)
{
	long		left_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
	WaitEvent	occurred;

	if (left_ms <= 0)
	{
		stop_process();
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("redo process did not answer within %d ms", ps_redo_timeout_ms),
				 errhint("The limit is neon_pageserver.redo_timeout.")));
	}
	ModifyWaitEvent(process.events, 0, event, NULL);
	if (WaitEventSetWait(process.events, left_ms, &occurred, 1, PG_WAIT_EXTENSION) == 1 &&
		(occurred.events & WL_LATCH_SET))
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* False when the process is gone. */
static bool
send_all(const char *from, size_t len, TimestampTz deadline)
{
	while (len > 0)
	{
		ssize_t		n = send(process.sock, from, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0)
		{
			from += n;
			len -= n;
		}
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			wait_for_socket(WL_SOCKET_WRITEABLE, deadline);
		else if (n == 0 || errno != EINTR)
			return false;
	}
	return true;
}

/* Reads one response; false when the process is gone or answers nonsense. */
static bool
receive_response(TimestampTz deadline)
{
	char	   *to = (char *) &response;
	size_t		len = sizeof(response);

	while (len > 0)
	{
		ssize_t		n = recv(process.sock, to, len, MSG_DONTWAIT);

		if (n > 0)
		{
			to += n;
			len -= n;
		}
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			wait_for_socket(WL_SOCKET_READABLE, deadline);
		else if (n == 0 || errno != EINTR)
			return false;
	}
	response.payload[sizeof(response.payload) - 1] = response.failed ? '\0' : response.payload[sizeof(response.payload) - 1];
	return response.magic == PS_REDO_RESPONSE_MAGIC;
}

static TimestampTz
deadline_from_now(void)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ps_redo_timeout_ms);
}

static void
connect_process(const char *directory)
{
	int			pair[2];
	int			rc;

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not start a redo process: %m")));
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
	{
		ReleaseExternalFD();
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not create a socket pair: %m")));
	}
	rc = spawn(directory, pair[1], &process.pid);
	close(pair[1]);
	process.sock = pair[0];
	if (rc != 0)
	{
		process.pid = 0;
		stop_process();
		errno = rc;
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start a redo process: %m")));
	}
	process.in_request = true;
	process.events = CreateWaitEventSet(TopMemoryContext, 3);
	AddWaitEventToSet(process.events, WL_SOCKET_READABLE, process.sock, NULL, NULL);
	AddWaitEventToSet(process.events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(process.events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
}

static void
start_process(void)
{
	char	   *directory;
	bool		greeted;

	if (!process.exit_registered)
	{
		on_proc_exit(stop_at_exit, 0);
		process.exit_registered = true;
	}
	directory = ps_redo_directory_make();
	connect_process(directory);
	greeted = receive_response(deadline_from_now());
	ps_redo_directory_remove(directory);
	pfree(directory);
	if (!greeted || response.failed)
	{
		int			status = stop_process();

		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("redo process did not start"),
				 greeted ? errdetail_internal("%s", response.payload) :
				 errdetail("It ended with status %d; the server log may say more.", status)));
	}
	process.in_request = false;
}

static void
append_record(const PsVersion *v)
{
	static const char zeros[MAXIMUM_ALIGNOF];
	uint64		end_lsn = v->lsn;

	appendBinaryStringInfo(&request, (const char *) &end_lsn, sizeof(end_lsn));
	appendBinaryStringInfo(&request, (const char *) v->bytes, v->len);
	appendBinaryStringInfo(&request, zeros, MAXALIGN(v->len) - v->len);
}

/* Puts as many records as one request holds; returns their number, 0 when not even the first fits. */
static int
build_request(const neon_key *key, const PsVersion *const *records, int n, const char *page)
{
	PsRedoRequest header = {
		.magic = PS_REDO_REQUEST_MAGIC,
		.spc = key->spc, .db = key->db, .rel = key->rel, .blk = key->blk,
		.fork = key->fork,
		.has_base = !ps_page_is_new(page)
	};
	int			i;

	if (request.data == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		initStringInfo(&request);
		MemoryContextSwitchTo(old);
	}
	resetStringInfo(&request);
	appendBinaryStringInfo(&request, (const char *) &header, sizeof(header));
	if (header.has_base)
		appendBinaryStringInfo(&request, page, BLCKSZ);
	for (i = 0; i < n && i < MAX_REQUEST_RECORDS; i++)
	{
		if (request.len + sizeof(uint64) + MAXALIGN64((uint64) records[i]->len) > PS_REDO_REQUEST_MAX_BYTES)
			break;
		append_record(records[i]);
	}
	header.len = request.len;
	header.nrecords = i;
	memcpy(request.data, &header, sizeof(header));
	return i;
}

/* The socket is at its end, so that the process is ending too: its status says more than that of our signal. */
static void
describe_end(void)
{
	int			status = 0;
	pid_t		pid = 0;

	for (int i = 0; i < END_POLLS && pid == 0; i++)
	{
		pid = waitpid(process.pid, &status, WNOHANG);
		if (pid == 0)
			pg_usleep(END_POLL_US);
	}
	if (pid != 0)
		process.pid = 0;		/* reaped, or not ours to reap */
	if (pid > 0 && WIFSIGNALED(status))
		snprintf(failure, sizeof(failure), "redo process was terminated by signal %d", WTERMSIG(status));
	else if (pid > 0)
		snprintf(failure, sizeof(failure), "redo process ended with status %d", WEXITSTATUS(status));
	else
		strlcpy(failure, "redo process answered out of protocol", sizeof(failure));
	stop_process();
}

typedef enum Outcome
{
	OUTCOME_PAGE,				/* response.payload is the page */
	OUTCOME_REFUSED,			/* a record does not apply; the text is in `failure`, the process has ended */
	OUTCOME_DIED				/* no answer; how it ended is in `failure` */
} Outcome;

/* One request, one response.  An ERROR raised in here leaves in_request set. */
static Outcome
exchange(void)
{
	TimestampTz deadline = deadline_from_now();
	bool		sent;
	bool		answered;

	process.in_request = true;
	sent = send_all(request.data, request.len, deadline);
	/* A process that refused the request while it was being sent has answered before it closed its end. */
	answered = receive_response(deadline);
	if (answered && !response.failed && sent)
	{
		process.in_request = false;
		return OUTCOME_PAGE;
	}
	if (answered && response.failed)
	{
		strlcpy(failure, response.payload, sizeof(failure));
		stop_process();
		return OUTCOME_REFUSED;
	}
	describe_end();
	return OUTCOME_DIED;
}

/* A process that died while it was idle is not the request's fault: replace it, once. */
static bool
run_request(void)
{
	bool		fresh;
	Outcome		outcome;

	do
	{
		if (process.in_request)
			stop_process();
		fresh = process.pid == 0;
		if (fresh)
			start_process();
		outcome = exchange();
	} while (outcome == OUTCOME_DIED && !fresh);
	return outcome == OUTCOME_PAGE;
}

bool
ps_redo_process_apply(const neon_key *key, const PsVersion *const *records, int n, char page[BLCKSZ], const char **reason)
{
	PGAlignedBlock work;

	memcpy(work.data, page, BLCKSZ);
	while (n > 0)
	{
		int			sent;
		bool		ok;

		sent = build_request(key, records, n, work.data);
		if (sent == 0)
		{
			*reason = "record is larger than a redo request can be";
			return false;
		}
		ok = run_request();
		if (request.maxlen > REQUEST_KEEP_BYTES)
		{
			pfree(request.data);
			request.data = NULL;
		}
		if (!ok)
		{
			*reason = failure;
			return false;
		}
		memcpy(work.data, response.payload, BLCKSZ);
		if (!ps_page_is_new(work.data))
			ps_page_set_lsn(work.data, records[sent - 1]->lsn);
		records += sent;
		n -= sent;
	}
	memcpy(page, work.data, BLCKSZ);
	return true;
}
