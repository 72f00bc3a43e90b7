/*
 * proposer.c - the process that sends this compute's WAL to the safekeepers.
 *
 * It begins as a replication connection of the launcher (launcher.c).  ClientAuthentication_hook takes it over when it
 * shows the key from shared memory: the startup transaction ends, the process becomes a walsender of the postmaster's
 * (InitWalSender), and runs the loop below until the end.  It has no user, no database and reads no relation, so that a
 * page which only it can make available is never missing to it.  Nobody else knows the key.
 *
 * Start: elected only if the log of the safekeepers ends exactly at neon.start_lsn, what this compute was made from; or if
 * its end was written in a term that an earlier proposer of this very server won (a proposer may be restarted after an
 * error).  Otherwise somebody else has written, and the compute is stopped at once: so it is, too, when a newer proposer
 * shows up.  Stopping is SIGQUIT to the postmaster; no waiting commit is released.
 *
 * End: SIGTERM and SIGINT (pg_terminate_backend, pg_cancel_backend, and the checkpointer's "stop writing") do not end it.
 * A stop comes in two steps, each bounded by neon.drain_timeout:
 *   1. the launcher has told us that backends are being stopped: commits that wait must be satisfied;
 *   2. SIGUSR2, after the shutdown checkpoint: all WAL must be committed.  Then we exit.
 * When the time is over, _exit(2): the postmaster takes that for a crash and kills everybody at once, so that no commit
 * is shown to anybody that the quorum does not have.  The server leaves no valid shutdown checkpoint behind for others;
 * what it had is what the quorum has.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "libpq/auth.h"
#include "libpq/libpq-be.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "postmaster/postmaster.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/spin.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/ps_status.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "push_env.h"
#include "walproposer.h"

#define TURN_MS				1000
#define STOP_TURN_MS		50

typedef struct Proposer
{
	PushEnv		env;			/* first: push_env.c's functions get this as their argument */
	neon_wal_push *push;
	int			segment_fd;		/* -1: none open */
	XLogSegNo	segno;
	bool		draining;		/* SIGUSR2 has come and its limit runs */
	int64		deadline_ms;	/* 0: no stop has begun */
} Proposer;

static ClientAuthentication_hook_type prev_client_authentication_hook = NULL;
static volatile sig_atomic_t got_stopping = false;
static volatile sig_atomic_t got_last_cycle = false;
static bool orderly = false;	/* the end that has begun is meant */

static void
on_stopping(SIGNAL_ARGS)
{
	int			save_errno = errno;

	got_stopping = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

static void
on_last_cycle(SIGNAL_ARGS)
{
	int			save_errno = errno;

	got_last_cycle = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

static bool
stop_has_begun(void)
{
	return got_last_cycle || __atomic_load_n(&wp_shared->stop_requested, __ATOMIC_ACQUIRE) != 0;
}

/* ---- local WAL ---- */

static neon_lsn
wal_available(void *arg)
{
	return GetXLogWriteRecPtr();
}

static void
close_segment(Proposer *p)
{
	if (p->segment_fd >= 0)
		close(p->segment_fd);
	p->segment_fd = -1;
}

static bool
open_segment(Proposer *p, XLogSegNo segno)
{
	char		path[MAXPGPATH];

	if (p->segment_fd >= 0 && p->segno == segno)
		return true;
	close_segment(p);
	XLogFilePath(path, GetWALInsertionTimeLine(), segno, wal_segment_size);
	p->segment_fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	p->segno = segno;
	if (p->segment_fd < 0 && errno != ENOENT)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", path)));
	return p->segment_fd >= 0;
}

/* False when the segment is not here any more.  A file may be recycled under our hands, so that is looked at last. */
static bool
wal_read(void *arg, neon_lsn begin, uint8_t *to, size_t len)
{
	Proposer   *p = arg;
	XLogSegNo	first;

	XLByteToSeg(begin, first, wal_segment_size);
	while (len > 0)
	{
		uint32		offset = XLogSegmentOffset(begin, wal_segment_size);
		size_t		part = Min(len, wal_segment_size - offset);
		XLogSegNo	segno;
		ssize_t		n;

		XLByteToSeg(begin, segno, wal_segment_size);
		if (!open_segment(p, segno))
			return false;
		n = pg_pread(p->segment_fd, to, part, offset);
		if (n < 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read WAL at %X/%X: %m", LSN_FORMAT_ARGS(begin))));
		if (n == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("could not read WAL at %X/%X: the file ends before it", LSN_FORMAT_ARGS(begin))));
		begin += n;
		to += n;
		len -= n;
	}
	if (XLogGetLastRemovedSegno() >= first)
	{
		close_segment(p);
		return false;
	}
	return true;
}

/* ---- news from the core ---- */

static void
on_elected(void *arg, neon_term term, neon_lsn term_start)
{
	wp_shared->won_term = term;
	__atomic_store_n(&wp_compute->proposer_elected, 1, __ATOMIC_RELEASE);
	if (!got_stopping)
		WalSndSetState(WALSNDSTATE_STREAMING);
	set_ps_display("streaming to safekeepers");
}

/* pg_stat_replication shows the quorum as one standby. */
static void
show_progress(neon_lsn commit_lsn)
{
	SpinLockAcquire(&MyWalSnd->mutex);
	MyWalSnd->sentPtr = GetXLogWriteRecPtr();
	MyWalSnd->write = MyWalSnd->flush = MyWalSnd->apply = commit_lsn;
	MyWalSnd->replyTime = GetCurrentTimestamp();
	SpinLockRelease(&MyWalSnd->mutex);
}

static void
on_committed(void *arg, neon_lsn commit_lsn)
{
	wp_release_commits(commit_lsn);
	wp_keep_wal_from(commit_lsn);
	show_progress(commit_lsn);
}

static const neon_push_env env_functions = {
	.now_ms = push_env_now_ms,
	.random = push_env_random,
	.log = push_env_log,
	.wait = push_env_wait,
	.wal_available = wal_available,
	.wal_read = wal_read,
	.elected = on_elected,
	.committed = on_committed,
};

/* ---- the end ---- */

/* Leave without releasing anybody; the postmaster kills the rest. */
static void pg_attribute_noreturn()
abandon(const char *why)
{
	ereport(LOG,
			(errmsg("stopping at once: %s", why),
			 errdetail("The safekeepers have WAL up to %X/%X, this server has written up to %X/%X.  What lies between was never acknowledged.",
					   LSN_FORMAT_ARGS(wp_compute->commit_lsn), LSN_FORMAT_ARGS(GetXLogWriteRecPtr()))));
	_exit(2);
}

/* This compute can never be right again. */
static void pg_attribute_noreturn()
stop_compute(neon_proposer_fatal reason, const char *detail)
{
	__atomic_store_n(&wp_shared->fatal, 1, __ATOMIC_RELEASE);
	orderly = true;
	ereport(LOG,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("stopping this compute: %s", neon_proposer_fatal_text(reason)),
			 errdetail_internal("%s", detail),
			 errhint("Start the endpoint again: it begins from what the safekeepers have.")));
	kill(PostmasterPid, SIGQUIT);
	proc_exit(1);
}

static void
proposer_gone(int code, Datum arg)
{
	if (!orderly && stop_has_begun())
		abandon("the proposer has failed while the server is being stopped");
	__atomic_store_n(&wp_compute->proposer_elected, 0, __ATOMIC_RELEASE);
	wp_shared->proposer_latch = NULL;
	__atomic_store_n(&wp_compute->proposer_pid, 0, __ATOMIC_RELEASE);
}

/* A step of the stop begins: its time runs from now. */
static void
start_clock(Proposer *p)
{
	p->deadline_ms = push_env_now_ms(NULL) + wp_drain_timeout_ms;
}

static void
handle_stop(Proposer *p)
{
	bool		done;

	if (got_stopping && MyWalSnd->state != WALSNDSTATE_STOPPING)
		WalSndSetState(WALSNDSTATE_STOPPING);
	if (!stop_has_begun())
	{
		p->deadline_ms = 0;
		return;
	}
	if (p->deadline_ms == 0)
		start_clock(p);
	if (got_last_cycle && !p->draining)
	{
		p->draining = true;
		start_clock(p);
	}
	done = p->draining ? wp_compute->commit_lsn >= GetXLogWriteRecPtr() : !wp_commits_wait();
	if (done && p->draining)
	{
		orderly = true;
		ereport(LOG, (errmsg("the safekeepers have all WAL up to %X/%X", LSN_FORMAT_ARGS(wp_compute->commit_lsn))));
		proc_exit(0);
	}
	if (done)
		start_clock(p);			/* nobody waits: what takes time is not the quorum */
	else if (push_env_now_ms(NULL) >= p->deadline_ms)
		abandon("the safekeepers did not take the last WAL within neon.drain_timeout");
}

/* ---- the life ---- */

static neon_wal_push *
create_push(Proposer *p)
{
	neon_push_config config = {0};
	char		error[NEON_PUSH_TEXT_BYTES];
	neon_wal_push *push;

	config.safekeepers = wp_safekeepers;
	config.core.mode = NEON_PROPOSER_NORMAL;
	config.core.system_id = GetSystemIdentifier();
	config.core.wal_segment_bytes = wal_segment_size;
	config.core.pg_version_num = PG_VERSION_NUM;
	config.core.expected_start_lsn = wp_start_lsn;
	config.core.previous_term = wp_shared->won_term;
	if (!neon_id_parse(wp_setting("neon.tenant_id"), &config.core.tenant) ||
		!neon_id_parse(wp_setting("neon.timeline_id"), &config.core.timeline))
		elog(FATAL, "tenant or timeline id is not valid");	/* was checked at start */
	push = neon_push_create(&config, &env_functions, p, error);
	if (push == NULL)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot start the proposer"),
				 errdetail_internal("%s", error)));
	return push;
}

static void
run(Proposer *p)
{
	for (;;)
	{
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (neon_push_turn(p->push, stop_has_begun() ? STOP_TURN_MS : TURN_MS) == NEON_PUSH_FATAL)
			break;
		handle_stop(p);
	}
}

/* From a half-started backend to a walsender.  See InitPostgres and PostgresMain for what is finished here. */
static void
become_walsender(void)
{
	uint32		nobody = 0;

	disable_timeout(STATEMENT_TIMEOUT, false);
	ClientAuthInProgress = false;
	whereToSendOutput = DestNone;
	CommitTransactionCommand();
	InitializeSessionUserIdStandalone();
	SetProcessingMode(NormalProcessing);
	pgstat_bestart();
	pgstat_report_appname(WP_APPLICATION_NAME);
	pgstat_report_stat(true);	/* of reading pg_hba.conf's role; nothing is reported after the shutdown checkpoint */

	if (!__atomic_compare_exchange_n(&wp_compute->proposer_pid, &nobody, MyProcPid, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		ereport(FATAL, (errcode(ERRCODE_OBJECT_IN_USE), errmsg("a proposer is running already, with PID %u", nobody)));
	wp_shared->proposer_latch = MyLatch;
	on_shmem_exit(proposer_gone, 0);

	pqsignal(SIGTERM, on_stopping);
	pqsignal(SIGUSR2, on_last_cycle);
	pqsignal(SIGINT, SIG_IGN);
	InitWalSender();
	WalSndSetState(WALSNDSTATE_CATCHUP);
	set_ps_display("looking for a quorum of safekeepers");
}

static void pg_attribute_noreturn()
proposer_main(void)
{
	static Proposer proposer;
	neon_proposer_fatal reason;

	become_walsender();
	push_env_init(&proposer.env, LOG);
	proposer.segment_fd = -1;
	proposer.push = create_push(&proposer);
	run(&proposer);

	reason = neon_push_fatal_reason(proposer.push);
	if (reason != NEON_FATAL_CONFIGURATION)
		stop_compute(reason, neon_push_fatal_detail(proposer.push));
	ereport(LOG,
			(errmsg("the proposer starts again: %s", neon_proposer_fatal_text(reason)),
			 errdetail_internal("%s", neon_push_fatal_detail(proposer.push))));
	neon_push_free(proposer.push);
	proc_exit(1);				/* the launcher starts another, with won_term */
}

/* ---- the takeover ---- */

/* "-c neon.proposer_key=..." among the startup options: the key, or NULL. */
static const char *
shown_key(const Port *port)
{
	const char *found = port->cmdline_options ? strstr(port->cmdline_options, WP_STARTUP_OPTION "=") : NULL;

	return found ? found + strlen(WP_STARTUP_OPTION "=") : NULL;
}

static void
take_over(Port *port, int status)
{
	const char *key;

	if (prev_client_authentication_hook)
		prev_client_authentication_hook(port, status);
	key = shown_key(port);
	if (key == NULL || status != STATUS_OK)
		return;
	if (!am_walsender || port->raddr.addr.ss_family != AF_UNIX || strcmp(key, wp_shared->secret) != 0)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("this connection may not become the proposer")));
	proposer_main();
}

void
wp_install_takeover(void)
{
	prev_client_authentication_hook = ClientAuthentication_hook;
	ClientAuthentication_hook = take_over;
}
