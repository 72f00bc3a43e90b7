/*
 * page_stream.c - the pageserver as page source.
 *
 * One connection a backend, made at the first request: libpq, CALL neon_pageserver.pagestream(tenant, timeline), then
 * messages of libs/pagestream inside CopyData.  Requests ask for the newest version (a primary's pages are not changed by
 * anybody else), with not_modified_since as the caller computed it; those of page truth for the version as of an LSN, and those of a
 * static endpoint, all of them, for the version as of its LSN.
 *
 * Answers come in the order of the requests, so what was sent is remembered in a queue, and an answer is believed only if it
 * echoes the queue's head byte for byte, request id included; ids are never used twice in a process.
 *
 * Pages may be requested ahead (prefetch): their answers go to a ring of slots of this process.  A slot answers a later read
 * only if that read computes the same not_modified_since.  A block that was written by anybody meanwhile has a larger one
 * (or the WAL of its change is below the one that was sent, and then the answer has it).
 *
 * Every wait serves interrupts, where the caller's locks allow it; an interrupted request drops the connection with all that
 * was requested ahead, since the answers would come some time.  A lost connection is made again, with growing pauses, for
 * neon.pageserver_timeout; an error the pageserver itself reports is passed on at once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xlog.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/startup.h"
#include "storage/bufpage.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "neon_pagestream.h"
#include "neon_pqcall.h"
#include "neon_smgr.h"
#include "page_stream.h"
#include "pagestore.h"
#include "replica.h"

#define RETRY_MIN_MS	10
#define RETRY_MAX_MS	1000
#define WAIT_MS			1000
#define SAY_MS			60000
#define WHO				"the pageserver"

#define AHEAD_SLOTS		64
#define QUEUE_SIZE		(AHEAD_SLOTS + 3)	/* the filler, the one that is waited for */
#define NO_SLOT			(-1)
#define FILLER			(-2)
#define FILLER_BYTES	(8 * BLCKSZ)	/* what libpq shall read at once */

typedef enum AheadState
{
	AHEAD_FREE = 0,
	AHEAD_SENT,
	AHEAD_READY
} AheadState;

typedef struct AheadSlot
{
	AheadState	state;
	neon_ps_request req;
	char		page[BLCKSZ];
} AheadSlot;

typedef struct Sent
{
	neon_ps_request req;
	int			slot;			/* NO_SLOT: somebody waits for it; FILLER: nobody does */
} Sent;

/* What the response to a request that is waited for is turned into. */
typedef struct Answer
{
	uint8		expected_tag;
	char	   *page;			/* GETPAGE */
	uint64		number;			/* the others */
	bool		done;
} Answer;

static PGconn *stream;			/* NULL or in COPY BOTH */
static MemoryContext stream_context;	/* the connection goes with it */
static uint32 last_request_id;
static bool answered_with_error;	/* the error being thrown is an answer: the stream itself is in order */
static volatile bool settings_changed;

static Sent queue[QUEUE_SIZE];	/* sent and not answered, oldest first */
static int	queue_head;
static int	queue_length;
static AheadSlot *slots;		/* AHEAD_SLOTS of them, once something was requested ahead */
static int	next_slot;
static bool filled;				/* this stream has asked for its filler */

void
page_stream_settings_changed(void)
{
	settings_changed = true;
}

static void
drop_stream(void)
{
	stream = NULL;
	queue_length = 0;
	filled = false;
	for (int i = 0; slots != NULL && i < AHEAD_SLOTS; i++)
		slots[i].state = AHEAD_FREE;
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
	snprintf(call, sizeof(call), "CALL neon_pageserver.pagestream('%s', '%s')", neon_tenant_id,
			 neon_static_lsn != InvalidXLogRecPtr && neon_static_timeline_id[0] != '\0' ? neon_static_timeline_id : neon_timeline_id);

	old = MemoryContextSwitchTo(stream_context);
	stream = neon_pq_connect(neon_pageserver_connstring, WHO, neon_pageserver_timeout_ms);
	res = neon_pq_query(stream, WHO, call, 0, NULL, neon_pageserver_timeout_ms);
	MemoryContextSwitchTo(old);
	if (PQresultStatus(res) != PGRES_COPY_BOTH || PQsetnonblocking(stream, 1) != 0)
	{
		PQclear(res);
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the pageserver did not open a page stream"),
				 errhint("Check that \"neon.pageserver_connstring\" names a pageserver.")));
	}
	PQclear(res);
}

static void pg_attribute_noreturn()
stream_lost(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("lost the connection to the pageserver"),
			 errdetail_internal("%s", pchomp(PQerrorMessage(stream))),
			 errhint("Check that it runs and is reachable.")));
}

/* The startup process is told to stop in a way of its own, which does not set the latch. */
static void
serve_interrupts(void)
{
	CHECK_FOR_INTERRUPTS();
	if (AmStartupProcess())
		HandleStartupProcInterrupts();
}

/* Waits until the socket is ready; ERROR after the time limit. */
static void
wait_socket(int events, TimestampTz start)
{
	long		left_ms = neon_pageserver_timeout_ms - (GetCurrentTimestamp() - start) / 1000;

	if (left_ms <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the pageserver did not answer within %d ms", neon_pageserver_timeout_ms),
				 errhint("Check that it runs and is reachable; \"neon.pageserver_timeout\" is the limit.")));
	(void) WaitLatchOrSocket(MyLatch, events | WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 PQsocket(stream), Min(left_ms, WAIT_MS), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	serve_interrupts();
}

/* Into libpq's buffer; flushing comes later. */
static bool
queue_request(neon_ps_request *req, int slot)
{
	uint8_t		message[NEON_PS_REQUEST_BYTES];
	Sent	   *sent = &queue[(queue_head + queue_length) % QUEUE_SIZE];

	Assert(queue_length < QUEUE_SIZE);
	req->request_id = ((uint64) MyProcPid << 32) | ++last_request_id;
	neon_ps_encode_request(req, message);
	if (PQputCopyData(stream, (const char *) message, sizeof(message)) != 1)
		return false;
	sent->req = *req;
	sent->slot = slot;
	queue_length++;
	return true;
}

static void
flush_requests(TimestampTz start)
{
	int			r;

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

/* The next of the texts of an error, which NULs separate; empty when there are no more. */
static char *
next_text(const char **at, const char *end)
{
	char	   *text = pnstrdup(*at, end - *at);
	size_t		len = strlen(text);

	*at += Min(len + 1, (size_t) (end - *at));
	if (!pg_verifymbstr(text, (int) len, true))
		for (size_t i = 0; i < len; i++)
			if (IS_HIGHBIT_SET(text[i]))
				text[i] = '?';
	return text;
}

/* The SQLSTATE of an error; one that is none, or says that all is well, is the pageserver's fault. */
static int
remote_sqlstate(const char *state)
{
	for (int i = 0; i < 5; i++)
		if (!(state[i] >= '0' && state[i] <= '9') && !(state[i] >= 'A' && state[i] <= 'Z'))
			return ERRCODE_PROTOCOL_VIOLATION;
	if (state[0] == '0' && state[1] >= '0' && state[1] <= '2')
		return ERRCODE_PROTOCOL_VIOLATION;
	return MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]);
}

static void pg_attribute_noreturn()
report_remote_error(const neon_ps_request *req, const neon_ps_response *res)
{
	const char *state = (const char *) res->payload;
	const char *at = state + 5;
	const char *end = state + res->payload_len;
	char	   *text = next_text(&at, end);
	char	   *detail = next_text(&at, end);
	char	   *hint = next_text(&at, end);

	answered_with_error = true;
	ereport(ERROR,
			(errcode(remote_sqlstate(state)),
			 errmsg("the pageserver could not answer: %s", text),
			 errdetail("%s%sThe request was for relation %u/%u/%u fork %u block %u, not modified since %X/%X.",
					   detail, detail[0] ? " " : "", req->spc, req->db, req->rel, req->fork, req->blk,
					   LSN_FORMAT_ARGS(req->not_modified_since)),
			 hint[0] ? errhint("%s", hint) : 0));
}

static void
check_response(const neon_ps_request *req, const char *message, int len, neon_ps_response *res)
{
	if (!neon_ps_decode_response(message, len, res))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("malformed response from the pageserver: tag %d, %d bytes", (uint8) message[0], len)));
	if (!neon_ps_request_equal(&res->request, req))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the pageserver answered another request than the one that was sent"),
				 errdetail("Sent request " UINT64_FORMAT " for block %u of relation %u/%u/%u, got " UINT64_FORMAT
						   " for block %u of relation %u/%u/%u.",
						   req->request_id, req->blk, req->spc, req->db, req->rel,
						   res->request.request_id, res->request.blk, res->request.spc, res->request.db, res->request.rel)));
}

static void
take_answer(const neon_ps_request *req, const neon_ps_response *res, Answer *answer)
{
	neon_reader reader;

	if (res->tag == NEON_PS_ERROR_RESPONSE)
		report_remote_error(req, res);
	if (res->tag != answer->expected_tag)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("unexpected response from the pageserver: tag %d, expected %d", res->tag, answer->expected_tag)));
	neon_reader_init(&reader, res->payload, res->payload_len);
	switch (res->tag)
	{
		case NEON_PS_GETPAGE_RESPONSE:
			memcpy(answer->page, res->payload, BLCKSZ);
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
	answer->done = true;
}

/* Receive the answer to the oldest request; `waiting` is for the one without a slot. */
static void
process_one(Answer *waiting, TimestampTz start)
{
	Sent		sent = queue[queue_head];
	neon_ps_response res;
	int			len;
	char	   *message = receive_message(&len, start);

	queue_head = (queue_head + 1) % QUEUE_SIZE;
	queue_length--;
	PG_TRY();
	{
		check_response(&sent.req, message, len, &res);
		if (sent.slot == NO_SLOT)
			take_answer(&sent.req, &res, waiting);
		else if (sent.slot == FILLER)
			;					/* has done its work, libpq's buffer is large now */
		else if (res.tag == NEON_PS_GETPAGE_RESPONSE)
		{
			memcpy(slots[sent.slot].page, res.payload, BLCKSZ);
			slots[sent.slot].state = AHEAD_READY;
		}
		else
			slots[sent.slot].state = AHEAD_FREE;	/* whoever needs the page will ask again, and get the error */
	}
	PG_FINALLY();
	{
		PQfreemem(message);
	}
	PG_END_TRY();
}

/* The slot with the answer to exactly this request, come or to come. */
static int
find_slot(const neon_ps_request *req)
{
	for (int i = 0; slots != NULL && i < AHEAD_SLOTS; i++)
	{
		const neon_ps_request *r = &slots[i].req;

		if (slots[i].state != AHEAD_FREE && r->blk == req->blk && r->rel == req->rel && r->fork == req->fork &&
			r->db == req->db && r->spc == req->spc && r->not_modified_since == req->not_modified_since &&
			r->request_lsn == req->request_lsn)
			return i;
	}
	return NO_SLOT;
}

static bool
take_ahead(const neon_ps_request *req, Answer *answer, TimestampTz start)
{
	int			slot = find_slot(req);

	if (slot == NO_SLOT)
		return false;
	if (slots[slot].state == AHEAD_SENT)
		flush_requests(start);
	while (slots[slot].state == AHEAD_SENT)
		process_one(NULL, start);
	if (slots[slot].state != AHEAD_READY)
		return false;
	memcpy(answer->page, slots[slot].page, BLCKSZ);
	slots[slot].state = AHEAD_FREE;
	neon_count(NEON_CNT_READ_AHEAD_HITS);
	return true;
}

static void
exchange_once(neon_ps_request *req, Answer *answer)
{
	TimestampTz start = GetCurrentTimestamp();

	answered_with_error = false;
	if (stream != NULL && (settings_changed || PQstatus(stream) != CONNECTION_OK))
		drop_stream();
	if (stream == NULL)
		open_stream();
	else if (req->tag == NEON_PS_GETPAGE && take_ahead(req, answer, start))
		return;
	if (!queue_request(req, NO_SLOT))
		stream_lost();
	flush_requests(start);
	while (!answer->done)
		process_one(answer, start);
}

/*
 * Is it the connection that failed, rather than the request?  An error would end a startup process, and the server with it: redo waits, for a
 * pageserver that lags behind the log as well, but not for one that has damaged data.
 */
static bool
worth_retrying(int sqlerrcode)
{
	if (AmStartupProcess())
		return sqlerrcode != ERRCODE_DATA_CORRUPTED && sqlerrcode != ERRCODE_INTERNAL_ERROR;
	return ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_CONNECTION_EXCEPTION ||
		sqlerrcode == ERRCODE_ADMIN_SHUTDOWN || sqlerrcode == ERRCODE_CRASH_SHUTDOWN ||
		sqlerrcode == ERRCODE_CANNOT_CONNECT_NOW || sqlerrcode == ERRCODE_TOO_MANY_CONNECTIONS;
}

/* Now and then. */
static void
say_that_redo_waits(void)
{
	static TimestampTz said;
	TimestampTz now = GetCurrentTimestamp();
	ErrorData  *edata;

	if (!TimestampDifferenceExceeds(said, now, SAY_MS))
		return;
	said = now;
	edata = CopyErrorData();
	ereport(LOG, (errmsg("redo waits for the pageserver: %s", edata->message), edata->detail ? errdetail_internal("%s", edata->detail) : 0));
	FreeErrorData(edata);
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
		if (!answered_with_error)
			drop_stream();
		if (last || !worth_retrying(geterrcode()))
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		if (AmStartupProcess())
			say_that_redo_waits();
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

	if (XLogRecPtrIsInvalid(req->not_modified_since))
		elog(ERROR, "a page was requested without an LSN");
	/* What is not flushed is not shipped. */
	if (!RecoveryInProgress() && req->not_modified_since > GetFlushRecPtr(NULL))
		XLogFlush(req->not_modified_since);

	while (!attempt(req, answer, !AmStartupProcess() &&
					TimestampDifferenceExceeds(start, GetCurrentTimestamp(), neon_pageserver_timeout_ms)))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, pause_ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		serve_interrupts();
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
		.request_lsn = NEON_LSN_MAX,
		.not_modified_since = lsn,
		.spc = rel->spc,
		.db = rel->db,
		.rel = rel->rel,
		.fork = fork,
		.blk = block,
	};

	if (neon_static_lsn != InvalidXLogRecPtr)
		req.request_lsn = req.not_modified_since = neon_static_lsn;
	if (neon_replica)
		req.request_lsn = lsn;
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
ask_nblocks(neon_ps_request *req)
{
	Answer		answer = {.expected_tag = NEON_PS_NBLOCKS_RESPONSE};

	exchange(req, &answer);
	if (answer.number > MaxBlockNumber)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the pageserver answered that relation %u/%u/%u fork %d has " UINT64_FORMAT " blocks", req->spc, req->db,
						req->rel, req->fork, answer.number)));
	return (BlockNumber) answer.number;
}

static BlockNumber
stream_nblocks(const NeonRel *rel, int fork, XLogRecPtr lsn)
{
	neon_ps_request req = request_for(NEON_PS_NBLOCKS, rel, fork, 0, lsn);

	return ask_nblocks(&req);
}

static BlockNumber
stream_nblocks_as_of(const NeonRel *rel, int fork, XLogRecPtr as_of)
{
	neon_ps_request req = request_for(NEON_PS_NBLOCKS, rel, fork, 0, as_of);

	req.request_lsn = as_of;
	return ask_nblocks(&req);
}

static void
ask_page(neon_ps_request *req, char *page)
{
	Answer		answer = {.expected_tag = NEON_PS_GETPAGE_RESPONSE,.page = page};

	exchange(req, &answer);
	/* The server would find it as well, but only after it went to the page cache. */
	if (!PageIsVerifiedExtended(page, req->blk, 0))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the pageserver answered with an invalid page"),
				 errdetail("The request was for relation %u/%u/%u fork %d block %u, not modified since %X/%X.",
						   req->spc, req->db, req->rel, req->fork, req->blk, LSN_FORMAT_ARGS(req->not_modified_since))));
}

static void
stream_read(const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr lsn, char *page)
{
	neon_ps_request req = request_for(NEON_PS_GETPAGE, rel, fork, block, lsn);

	ask_page(&req, page);
}

static void
stream_read_as_of(const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr as_of, char *page)
{
	neon_ps_request req = request_for(NEON_PS_GETPAGE, rel, fork, block, as_of);

	req.request_lsn = as_of;
	ask_page(&req, page);
}

/* Once a stream, before many answers come at once. */
static bool
ask_filler(void)
{
	neon_ps_request req = {.tag = NEON_PS_FILLER,.request_lsn = NEON_LSN_MAX,.not_modified_since = 1,.blk = FILLER_BYTES};

	if (!filled)
		filled = queue_request(&req, FILLER);
	return filled;
}

/* Asks for a page that will be wanted soon; does nothing where that would mean to wait. */
static void
ask_ahead(neon_ps_request *req)
{
	AheadSlot  *slot;
	XLogRecPtr	lsn = req->not_modified_since;

	/* The pageserver would wait for this WAL, and everything behind it in the stream with it. */
	if (lsn > neon_commit_lsn() || (!RecoveryInProgress() && lsn > GetFlushRecPtr(NULL)))
		return;
	if (stream == NULL || settings_changed || PQstatus(stream) != CONNECTION_OK || find_slot(req) != NO_SLOT)
		return;
	if (slots == NULL)
		slots = MemoryContextAllocZero(TopMemoryContext, AHEAD_SLOTS * sizeof(AheadSlot));
	slot = &slots[next_slot];
	if (slot->state == AHEAD_SENT)
		return;					/* as much as we want to have under way */
	slot->state = AHEAD_FREE;
	if (!ask_filler() || !queue_request(req, next_slot) || PQflush(stream) < 0)
	{
		drop_stream();			/* the next read will find out why */
		return;
	}
	slot->req = *req;
	slot->state = AHEAD_SENT;
	next_slot = (next_slot + 1) % AHEAD_SLOTS;
}

static void
stream_prefetch(const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr lsn)
{
	neon_ps_request req = request_for(NEON_PS_GETPAGE, rel, fork, block, lsn);

	ask_ahead(&req);
}

static void
stream_prefetch_as_of(const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr as_of)
{
	neon_ps_request req = request_for(NEON_PS_GETPAGE, rel, fork, block, as_of);

	req.request_lsn = as_of;
	ask_ahead(&req);
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
	.prefetch = stream_prefetch,
	.database_bytes = stream_database_bytes,
	.nblocks_as_of = stream_nblocks_as_of,
	.read_as_of = stream_read_as_of,
	.prefetch_as_of = stream_prefetch_as_of,
};
