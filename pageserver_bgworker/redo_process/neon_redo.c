/*
 * neon_redo.c - a stock `postgres --single` becomes a redo process.
 *
 * The pageserver's backend starts `postgres --single` on a directory that holds little more than a control file, with this
 * library preloaded.  shmem_startup_hook is the last place before the server looks for WAL and a database: there it is
 * taken over and never returns.  It has shared memory with 16 buffers, the replaced storage manager (neon_redo_smgr.c) and no
 * database.  Protocol: ps_redo_wire.h.
 *
 * Errors of any level from ERROR up are answered as text and end the process: redo routines hold locks and pins when they
 * fail, and starting another process takes 15 ms.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_redo.h"

#include <sys/prctl.h>
#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/elog.h"
#include "utils/memutils.h"

#include "ps_redo_wire.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static shmem_startup_hook_type previous_hook;
static PsRedoResponse response;

/* The backend being gone is the ordinary end. */
static void
read_all(char *to, size_t len)
{
	while (len > 0)
	{
		ssize_t		n = read(PS_REDO_SOCKET_FD, to, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(0);
		to += n;
		len -= n;
	}
}

static void
send_response(void)
{
	const char *from = (const char *) &response;
	size_t		len = sizeof(response);

	response.magic = PS_REDO_RESPONSE_MAGIC;
	while (len > 0)
	{
		ssize_t		n = write(PS_REDO_SOCKET_FD, from, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(0);
		from += n;
		len -= n;
	}
}

/* There is no exception stack here, so that every ERROR is FATAL and comes through this hook. */
static void
answer_and_die(ErrorData *edata)
{
	edata->output_to_server = false;
	if (edata->elevel < ERROR)
		return;
	response.failed = 1;
	strlcpy(response.payload, edata->message != NULL ? edata->message : "unknown error", sizeof(response.payload));
	send_response();
	_exit(1);
}

static void
protocol_error(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("redo request is malformed: %s", what)));
}

/* `body` is what follows the header, in memory aligned to 8 bytes. */
static void
handle(const PsRedoRequest *request, const char *body, size_t len)
{
	RelFileNode rnode = {.spcNode = request->spc, .dbNode = request->db, .relNode = request->rel};
	const char *base = NULL;

	if (request->fork > MAX_FORKNUM)
		protocol_error("no such fork");
	if (request->has_base)
	{
		if (len < BLCKSZ)
			protocol_error("base page");
		base = body;
		body += BLCKSZ;
		len -= BLCKSZ;
	}
	neon_redo_begin(&rnode, (ForkNumber) request->fork, request->blk, base);
	for (uint32 i = 0; i < request->nrecords; i++)
	{
		uint64		end_lsn;
		uint32		record_len;

		if (len < sizeof(end_lsn) + SizeOfXLogRecord)
			protocol_error("record header");
		memcpy(&end_lsn, body, sizeof(end_lsn));
		body += sizeof(end_lsn);
		len -= sizeof(end_lsn);
		record_len = ((const XLogRecord *) body)->xl_tot_len;
		if (record_len < SizeOfXLogRecord || MAXALIGN64((uint64) record_len) > len)
			protocol_error("record");
		neon_redo_apply(end_lsn, body, record_len);
		body += MAXALIGN(record_len);
		len -= MAXALIGN(record_len);
	}
	if (len != 0)
		protocol_error("bytes after the last record");
	response.failed = 0;
	neon_redo_finish(response.payload);
}

static void
serve(void)
{
	char	   *body = MemoryContextAllocHuge(TopMemoryContext, PS_REDO_REQUEST_MAX_BYTES);

	for (;;)
	{
		PsRedoRequest request;

		read_all((char *) &request, sizeof(request));
		if (request.magic != PS_REDO_REQUEST_MAGIC || request.len < sizeof(request) ||
			request.len > PS_REDO_REQUEST_MAX_BYTES)
			protocol_error("header");
		read_all(body, request.len - sizeof(request));
		handle(&request, body, request.len - sizeof(request));
		send_response();
	}
}

static void
take_over(void)
{
	if (previous_hook)
		previous_hook();
	neon_redo_forget_files();
	neon_redo_smgr_install();
	neon_redo_apply_init();
	neon_redo_enter_sandbox();
	send_response();			/* the greeting */
	serve();
}

void
_PG_init(void)
{
	neon_redo_die_with_parent();
	emit_log_hook = answer_and_die;
	prctl(PR_SET_NAME, "neon redo", 0, 0, 0);
	previous_hook = shmem_startup_hook;
	shmem_startup_hook = take_over;
}
