/*
 * page_stream.c - the pageserver as page source.
 *
 * One connection a backend, made at the first request: libpq, CALL neon_pageserver.pagestream(tenant, timeline), then
 * messages of libs/pagestream inside CopyData.  A response is believed only if it echoes the request byte for byte, request
 * id included, and ids are never used twice in a process: a response that arrives late can not be taken for another's.
 *
 * Requests ask for the newest version (a primary's pages are not changed by anybody else), with not_modified_since as the
 * caller computed it.  What is not flushed is not shipped, so WAL up to that LSN is flushed first.
 *
 * Every wait serves interrupts, where the caller's locks allow it; a cancelled request drops the connection, since its
 * response would come some time.  A lost connection is made again, with growing pauses, for neon.pageserver_timeout;
 * an error the pageserver itself reports is passed on at once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "neon_pagestream.h"
#include "neon_pqcall.h"
#include "neon_smgr.h"
#include "page_stream.h"
#include "pagestore.h"

#define RETRY_MIN_MS	10
#define RETRY_MAX_MS	1000
#define WHO				"the pageserver"

static PGconn *stream;			/* NULL or in COPY BOTH */
static MemoryContext stream_context;	/* the connection goes with it */
static uint64 last_request_id;
static volatile bool settings_changed;

void
page_stream_settings_changed(void)
{
	settings_changed = true;
}

static void
drop_stream(void)
{
	stream = NULL;
	if (stream_context != NULL)
		MemoryContextReset(stream_context);
}

static void
open_stream(void)
{
	MemoryContext old;
	PGresult   *res;
	char		call[160];

	if (neon_pageserver_connstring == NULL || neon_pageserver_connstring[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this compute does not know its pageserver"),
				 errhint("Set \"neon.pageserver_connstring\" and reload the configuration.")));
	if (stream_context == NULL)
		stream_context = AllocSetContextCreate(TopMemoryContext, "neon page stream", ALLOCSET_SMALL_SIZES);
	settings_changed = false;
	snprintf(call, sizeof(call), "CALL neon_pageserver.pagestream('%s', '%s')", neon_tenant_id, neon_timeline_id);

	old = MemoryContextSwitchTo(stream_context);
	stream = neon_pq_connect(neon_pageserver_connstring, WHO, neon_pageserver_timeout_ms);
	res = neon_pq_query(stream, WHO, call, 0, NULL, neon_pageserver_timeout_ms);
	MemoryContextSwitchTo(old);
	if (PQresultStatus(res) != PGRES_COPY_BOTH || PQsetnonblocking(stream, 1) != 0)
	{
		PQclear(res);
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the pageserver did not open a page stream")));
	}
	PQclear(res);
}

static void pg_attribute_noreturn()
stream_lost(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("lost the connection to the pageserver"),
			 errdetail_internal("%s", pchomp(PQerrorMessage(stream)))));
}

/* Waits until the socket is ready; ERROR after the time limit. */
static void
wait_socket(int events, TimestampTz start)
{
	long		left_ms = neon_pageserver_timeout_ms - (GetCurrentTimestamp() - start) / 1000;

	if (left_ms <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the pageserver did not answer within %d ms", neon_pageserver_timeout_ms)));
	(void) WaitLatchOrSocket(MyLatch, events | WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 PQsocket(stream), left_ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
send_request(const neon_ps_request *req, TimestampTz start)
{
	uint8_t		message[NEON_PS_REQUEST_BYTES];
	int			r;

	neon_ps_encode_request(req, message);
	if (PQputCopyData(stream, (const char *) message, sizeof(message)) != 1)
		stream_lost();
	while ((r = PQflush(stream)) > 0)
	{
		wait_socket(WL_SOCKET_WRITEABLE | WL_SOCKET_READABLE, start);
		if (!PQconsumeInput(stream))
			stream_lost();
	}
	if (r < 0)
		stream_lost();
}

/* One CopyData, to be freed with PQfreemem. */
static char *
receive_message(int *len, TimestampTz start)
{
	for (;;)
	{
		char	   *message;

		*len = PQgetCopyData(stream, &message, 1);
		if (*len > 0)
			return message;
		if (*len == -1)			/* the procedure ended: its error or command tag follows */
		{
			neon_pq_finish_copy(stream, WHO, neon_pageserver_timeout_ms);
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE), errmsg("the pageserver closed the page stream")));
		}
		if (*len < 0)
			stream_lost();
		wait_socket(WL_SOCKET_READABLE, start);
		if (!PQconsumeInput(stream))
			stream_lost();
	}
}

static void pg_attribute_noreturn()
report_remote_error(const neon_ps_request *req, const neon_ps_response *res)
{
	const char *state = (const char *) res->payload;
	char	   *text = pnstrdup(state + 5, res->payload_len - 5);

	ereport(ERROR,
			(errcode(MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4])),
			 errmsg("the pageserver could not answer: %s", text),
			 errdetail("The request was for relation %u/%u/%u fork %u block %u, not modified since %X/%X.",
					   req->spc, req->db, req->rel, req->fork, req->blk, LSN_FORMAT_ARGS(req->not_modified_since))));
}

/* What the response to one request is turned into. */
typedef struct Answer
{
	uint8		expected_tag;
	char	   *page;			/* GETPAGE */
	uint64		number;			/* the others */
} Answer;

static void
take_response(const neon_ps_request *req, const char *message, int len, Answer *answer)
{
	neon_ps_response res;
	neon_reader reader;

	if (!neon_ps_decode_response(message, len, &res))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("malformed response from the pageserver: tag %d, %d bytes", (uint8) message[0], len)));
	if (!neon_ps_request_equal(&res.request, req))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the pageserver answered another request than the one that was sent"),
				 errdetail("Sent request " UINT64_FORMAT " for block %u of relation %u/%u/%u, got " UINT64_FORMAT
						   " for block %u of relation %u/%u/%u.",
						   req->request_id, req->blk, req->spc, req->db, req->rel,
						   res.request.request_id, res.request.blk, res.request.spc, res.request.db, res.request.rel)));
	if (res.tag == NEON_PS_ERROR_RESPONSE)
		report_remote_error(req, &res);
	if (res.tag != answer->expected_tag)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("unexpected response from the pageserver: tag %d, expected %d", res.tag, answer->expected_tag)));

	neon_reader_init(&reader, res.payload, res.payload_len);
	switch (res.tag)
	{
		case NEON_PS_GETPAGE_RESPONSE:
			memcpy(answer->page, res.payload, BLCKSZ);
			break;
		case NEON_PS_EXISTS_RESPONSE:
			answer->number = neon_get_u8(&reader);
			break;
		case NEON_PS_NBLOCKS_RESPONSE:
			answer->number = neon_get_u32(&reader);
			break;
		case NEON_PS_DBSIZE_RESPONSE:
			answer->number = neon_get_u64(&reader);
			break;
	}
}

static void
exchange_once(neon_ps_request *req, Answer *answer)
{
	TimestampTz start;
	char	   *message;
	int			len;

	if (stream != NULL && (settings_changed || PQstatus(stream) != CONNECTION_OK))
		drop_stream();
	if (stream == NULL)
		open_stream();
	start = GetCurrentTimestamp();
	req->request_id = ((uint64) MyProcPid << 32) | (uint32) ++last_request_id;
	send_request(req, start);
	message = receive_message(&len, start);
	PG_TRY();
	{
		take_response(req, message, len, answer);
	}
	PG_FINALLY();
	{
		PQfreemem(message);
	}
	PG_END_TRY();
}

/* Is it the connection that failed, rather than the request? */
static bool
worth_retrying(int sqlerrcode)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_CONNECTION_EXCEPTION ||
		sqlerrcode == ERRCODE_ADMIN_SHUTDOWN || sqlerrcode == ERRCODE_CRASH_SHUTDOWN ||
		sqlerrcode == ERRCODE_CANNOT_CONNECT_NOW || sqlerrcode == ERRCODE_TOO_MANY_CONNECTIONS;
}

/*
 * One attempt; false when it is worth another.  An ERROR zeroes the interrupt hold-off counts; if we swallow it, they must be
 * what they were, because the caller may hold LWLocks.
 */
static bool
attempt(neon_ps_request *req, Answer *answer, bool last)
{
	MemoryContext caller = CurrentMemoryContext;
	uint32		save_holdoff = InterruptHoldoffCount;
	uint32		save_cancel_holdoff = QueryCancelHoldoffCount;
	volatile bool ok = false;

	PG_TRY();
	{
		exchange_once(req, answer);
		ok = true;
	}
	PG_CATCH();
	{
		bool		remote_answer = false;

		/* After an answer the stream is in order, even if the answer is an error. */
		if (geterrcode() != ERRCODE_QUERY_CANCELED && stream != NULL && !worth_retrying(geterrcode()) &&
			geterrcode() != ERRCODE_DATA_CORRUPTED)
			remote_answer = true;
		if (!remote_answer || PQtransactionStatus(stream) != PQTRANS_ACTIVE)
			drop_stream();
		if (last || !worth_retrying(geterrcode()))
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		InterruptHoldoffCount = save_holdoff;
		QueryCancelHoldoffCount = save_cancel_holdoff;
	}
	PG_END_TRY();
	return ok;
}

static void
exchange(neon_ps_request *req, Answer *answer)
{
	TimestampTz start = GetCurrentTimestamp();
	long		pause_ms = RETRY_MIN_MS;

	req->request_lsn = NEON_LSN_MAX;
	if (XLogRecPtrIsInvalid(req->not_modified_since))
		elog(PANIC, "a page was requested without an LSN");
	if (!RecoveryInProgress() && req->not_modified_since > GetFlushRecPtr(NULL))
		XLogFlush(req->not_modified_since);

	while (!attempt(req, answer, TimestampDifferenceExceeds(start, GetCurrentTimestamp(), neon_pageserver_timeout_ms)))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, pause_ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		pause_ms = Min(pause_ms * 2, RETRY_MAX_MS);
	}
	/* Whoever waits on the latch for something else must not miss what we have reset. */
	SetLatch(MyLatch);
}

static neon_ps_request
request_for(uint8 tag, const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr lsn)
{
	neon_ps_request req = {
		.tag = tag,
		.not_modified_since = lsn,
		.spc = rel->spc,
		.db = rel->db,
		.rel = rel->rel,
		.fork = fork,
		.blk = block,
	};

	return req;
}

static bool
stream_exists(const NeonRel *rel, int fork, XLogRecPtr lsn)
{
	neon_ps_request req = request_for(NEON_PS_EXISTS, rel, fork, 0, lsn);
	Answer		answer = {.expected_tag = NEON_PS_EXISTS_RESPONSE};

	exchange(&req, &answer);
	return answer.number != 0;
}

static BlockNumber
stream_nblocks(const NeonRel *rel, int fork, XLogRecPtr lsn)
{
	neon_ps_request req = request_for(NEON_PS_NBLOCKS, rel, fork, 0, lsn);
	Answer		answer = {.expected_tag = NEON_PS_NBLOCKS_RESPONSE};

	exchange(&req, &answer);
	return (BlockNumber) answer.number;
}

static void
stream_read(const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr lsn, char *page)
{
	neon_ps_request req = request_for(NEON_PS_GETPAGE, rel, fork, block, lsn);
	Answer		answer = {.expected_tag = NEON_PS_GETPAGE_RESPONSE,.page = page};

	exchange(&req, &answer);
}

static int64
stream_database_bytes(uint32 db, XLogRecPtr lsn)
{
	NeonRel		rel = {.spc = 1663,.db = db};
	neon_ps_request req = request_for(NEON_PS_DBSIZE, &rel, 0, 0, lsn);
	Answer		answer = {.expected_tag = NEON_PS_DBSIZE_RESPONSE};

	exchange(&req, &answer);
	return (int64) answer.number;
}

const PageSource page_stream_source = {
	.name = "pageserver",
	.exists = stream_exists,
	.nblocks = stream_nblocks,
	.read = stream_read,
	.database_bytes = stream_database_bytes,
};
