/*
 * ps_ingest_status.c - see ps_ingest_status.h: attempts at poisonous WAL, and what people see in the view `ingest`.
 *
 * A record that crashes the process would crash it again after every restart, and with it every other timeline.  So
 * the start of the record being taken apart stands in a file that is mapped shared: its pages outlive the process, though
 * not the host, at the price of one store a record.  Whoever opens the file and finds a record in progress counts an
 * attempt at it; after three the timeline is left alone until resume_ingest() is called.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "ps_ingest_status.h"

#define STATUS_MAGIC	UINT32_C(0x4E505331)
#define STATUS_FILE		".ingest"	/* names with a dot are not layers */

static void
status_path(PsTimeline *tl, char path[MAXPGPATH])
{
	char		directory[MAXPGPATH - 16];

	ps_timeline_directory(tl, directory, sizeof(directory));
	snprintf(path, MAXPGPATH, "%s/%s", directory, STATUS_FILE);
}

void
ps_ingest_status_count_attempt(PsIngestStatus *st)
{
	if (st->in_progress == InvalidXLogRecPtr)
		return;
	if (st->attempts_lsn != st->in_progress)
	{
		st->attempts_lsn = st->in_progress;
		st->attempts = 0;
	}
	st->attempts++;
	st->in_progress = InvalidXLogRecPtr;
	if (st->attempts < PS_MAX_INGEST_ATTEMPTS)
		return;
	st->state = PS_INGEST_QUARANTINED;
	ereport(LOG,
			(errmsg("quarantined a timeline after %u failed attempts at the WAL record at %X/%X", st->attempts,
					LSN_FORMAT_ARGS(st->attempts_lsn)),
			 errhint("See view neon_pageserver.ingest; neon_pageserver.resume_ingest() tries again.")));
}

PsIngestStatus *
ps_ingest_status_open(PsTimeline *tl)
{
	char		path[MAXPGPATH];
	char		directory[MAXPGPATH];
	PsIngestStatus *st;
	int			fd;

	status_path(tl, path);
	strlcpy(directory, path, sizeof(directory));
	get_parent_directory(directory);
	if (pg_mkdir_p(directory, S_IRWXU) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not create directory \"%s\": %m", directory)));
	fd = OpenTransientFile(path, O_RDWR | O_CREAT | PG_BINARY);
	/* room on the disk as well: a write to the mapping would have no error to return */
	if (fd >= 0)
		errno = posix_fallocate(fd, 0, sizeof(PsIngestStatus));
	if (fd < 0 || errno != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not create file \"%s\": %m", path)));
	st = mmap(NULL, sizeof(PsIngestStatus), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CloseTransientFile(fd);
	if (st == MAP_FAILED)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not map file \"%s\": %m", path)));

	if (st->magic != STATUS_MAGIC)
	{
		memset(st, 0, sizeof(*st));
		st->magic = STATUS_MAGIC;
	}
	if (st->state != PS_INGEST_QUARANTINED)
	{
		st->state = PS_INGEST_STOPPED;
		ps_ingest_status_count_attempt(st);
	}
	st->worker_pid = MyProcPid;
	return st;
}

void
ps_ingest_status_close(PsIngestStatus *st)
{
	if (st == NULL)
		return;
	st->worker_pid = 0;
	if (st->state != PS_INGEST_QUARANTINED)
		st->state = PS_INGEST_STOPPED;
	munmap(st, sizeof(*st));
}

void
ps_ingest_status_message(PsIngestStatus *st, const char *message)
{
	strlcpy(st->message, message, sizeof(st->message));
}

/* ---- SQL ---- */

static bool
read_status(PsTimeline *tl, PsIngestStatus *st)
{
	char		path[MAXPGPATH];
	int			fd;
	bool		ok;

	status_path(tl, path);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
		return false;
	ok = read(fd, st, sizeof(*st)) == sizeof(*st) && st->magic == STATUS_MAGIC;
	CloseTransientFile(fd);
	st->source[PS_STATUS_TEXT_BYTES - 1] = st->message[PS_STATUS_TEXT_BYTES - 1] = '\0';
	return ok;
}

PG_FUNCTION_INFO_V1(neon_ps_ingest_status);

/* () -> (tenant, timeline, state, worker_pid, safekeeper, last_record_lsn, attempts_lsn, attempts, message) */
Datum
neon_ps_ingest_status(PG_FUNCTION_ARGS)
{
	static const char *const states[] = {"stopped", "connecting", "streaming", "waiting", "quarantined"};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	ps_wait_loaded();
	InitMaterializedSRF(fcinfo, 0);
	for (int slot = 0; slot < ps_max_timelines; slot++)
	{
		PsTimeline *tl = ps_timeline_by_slot(slot);
		PsIngestStatus st = {0};
		Datum		values[9];
		bool		nulls[9] = {0};
		char		id[NEON_ID_TEXT];

		if (tl == NULL)
			continue;
		(void) read_status(tl, &st);
		neon_id_print(ps_timeline_tenant_id(tl), id);
		values[0] = CStringGetTextDatum(id);
		neon_id_print(ps_timeline_id(tl), id);
		values[1] = CStringGetTextDatum(id);
		values[2] = CStringGetTextDatum(st.state < lengthof(states) ? states[st.state] : "unknown");
		values[3] = Int32GetDatum(st.worker_pid);
		nulls[3] = st.worker_pid == 0;
		values[4] = CStringGetTextDatum(st.source);
		values[5] = LSNGetDatum(ps_timeline_last_record_lsn(tl));
		values[6] = LSNGetDatum(st.attempts_lsn);
		nulls[6] = st.attempts == 0;
		values[7] = Int32GetDatum((int32) st.attempts);
		values[8] = CStringGetTextDatum(st.message);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(neon_ps_resume_ingest);

/* (tenant, timeline): forget failed attempts */
Datum
neon_ps_resume_ingest(PG_FUNCTION_ARGS)
{
	PsTimeline *tl;
	char		path[MAXPGPATH];

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to resume ingest of a timeline")));
	tl = ps_timeline_open(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	status_path(tl, path);
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", path)));
	pg_atomic_fetch_add_u64(&ps_shared->table_generation, 1);
	ps_wake_ingest();
	PG_RETURN_VOID();
}
