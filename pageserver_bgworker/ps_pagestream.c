/*
 * ps_pagestream.c - CALL neon_pageserver.pagestream(tenant, timeline): pages, sizes and SLRU segments at an LSN.
 *
 * One CopyData is one request, answered in order.  Requests that arrived together are served in one short transaction
 * (the catalog may have to be read), which ends before the process waits for more, so an idle stream holds nothing.
 *
 * An ERROR while a request is served becomes its answer: the transaction is aborted, which releases locks and files,
 * and the next request begins with a new one.  FATAL ends the stream.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_copyboth.h"
#include "ps_internal.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define SLRU_PAGES_PER_SEGMENT_	32

typedef struct PageStream
{
	PsTimeline *tl;
	uint32		incarnation;
	PsCopyBoth	cb;
	MemoryContext request_context;	/* reset for each request */
	size_t		answer_start;	/* out_len before the present answer was begun */
} PageStream;

/* ---- answers ---- */

/* Where the payload goes. */
static char *
begin_answer(PageStream *s, uint8 tag, const neon_ps_request *req, size_t payload_bytes)
{
	char	   *p = ps_copyboth_reserve(&s->cb, NEON_PS_RESPONSE_HEAD + payload_bytes);

	s->answer_start = s->cb.message_start;	/* what was before it may have been sent to make room */
	return p + neon_ps_encode_response_head(tag, req, (uint8 *) p);
}

/* SQLSTATE, then message, detail and hint with a NUL between them. */
static void
answer_error(PageStream *s, const neon_ps_request *req, const ErrorData *error)
{
	StringInfoData text;
	char	   *p;

	initStringInfo(&text);
	appendBinaryStringInfo(&text, unpack_sql_state(error->sqlerrcode), 5);
	appendStringInfoString(&text, error->message);
	if (error->detail || error->hint)
	{
		appendStringInfoChar(&text, '\0');
		appendStringInfoString(&text, error->detail ? error->detail : "");
		appendStringInfoChar(&text, '\0');
		appendStringInfoString(&text, error->hint ? error->hint : "");
	}
	p = begin_answer(s, NEON_PS_ERROR_RESPONSE, req, text.len);
	memcpy(p, text.data, text.len);
	pfree(text.data);
}

static void
answer_number(PageStream *s, uint8 tag, const neon_ps_request *req, uint64 value, int bytes)
{
	char	   *p = begin_answer(s, tag, req, bytes);
	neon_writer w;

	neon_writer_init(&w, p, bytes);
	if (bytes == 1)
		neon_put_u8(&w, (uint8) value);
	else if (bytes == 4)
		neon_put_u32(&w, (uint32) value);
	else
		neon_put_u64(&w, value);
}

/* ---- one request ---- */

/* The LSN to answer at (docs/protocols.md); may wait. */
static XLogRecPtr
choose_lsn(PageStream *s, const neon_ps_request *req)
{
	XLogRecPtr	last = ps_timeline_last_record_lsn(s->tl);
	const char *problem = neon_ps_request_problem(req);

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("invalid page stream request: %s", problem),
				 errdetail("It has tag %u, fork %u, request_lsn %X/%08X, not_modified_since %X/%08X.", req->tag, req->fork,
						   LSN_FORMAT_ARGS(req->request_lsn), LSN_FORMAT_ARGS(req->not_modified_since))));
	if (!ps_timeline_is_live(s->tl, s->incarnation))
		ereport(ERROR,
				(errcode(PS_ERR_TIMELINE_GONE),
				 errmsg("the timeline was dropped")));
	if (req->request_lsn < ps_timeline_start_lsn(s->tl))
		ereport(ERROR,
				(errcode(PS_ERR_LSN_TOO_OLD),
				 errmsg("request_lsn %X/%08X is below the timeline's start %X/%08X",
						LSN_FORMAT_ARGS(req->request_lsn), LSN_FORMAT_ARGS(ps_timeline_start_lsn(s->tl))),
				 errhint("Ask the branch it began from.")));
	if (last < req->not_modified_since || !ps_timeline_has_history(s->tl))
	{
		ps_copyboth_flush(&s->cb);	/* what is answered need not wait for WAL */
		s->answer_start = 0;
		ps_timeline_wait_lsn(s->tl, req->not_modified_since);
		last = ps_timeline_last_record_lsn(s->tl);
	}
	return Min(last, req->request_lsn);
}

static void
serve_request(PageStream *s, const neon_ps_request *req)
{
	XLogRecPtr	lsn = choose_lsn(s, req);
	neon_key	key = {.spc = req->spc,.db = req->db,.rel = req->rel,.blk = req->blk,.kind = NEON_KEY_REL_BLOCK,
		.fork = req->fork};
	uint32		size;
	char	   *page;

	switch (req->tag)
	{
		case NEON_PS_EXISTS:
			size = ps_rel_size(s->tl, req->spc, req->db, req->rel, req->fork, lsn);
			answer_number(s, NEON_PS_EXISTS_RESPONSE, req, size != NEON_SIZE_ABSENT, 1);
			break;
		case NEON_PS_NBLOCKS:
			size = ps_rel_size(s->tl, req->spc, req->db, req->rel, req->fork, lsn);
			answer_number(s, NEON_PS_NBLOCKS_RESPONSE, req, size == NEON_SIZE_ABSENT ? 0 : size, 4);
			break;
		case NEON_PS_GETPAGE:
			page = begin_answer(s, NEON_PS_GETPAGE_RESPONSE, req, BLCKSZ);
			ps_get_page(s->tl, &key, lsn, page);
			break;
		case NEON_PS_DBSIZE:
			answer_number(s, NEON_PS_DBSIZE_RESPONSE, req, ps_database_bytes(s->tl, req->spc, req->db, lsn), 8);
			break;
		case NEON_PS_SLRU_SEGMENT:
			{
				char	   *pages = palloc(SLRU_PAGES_PER_SEGMENT_ * BLCKSZ);

				size = ps_get_slru_segment(s->tl, req->spc, req->rel, lsn, pages, SLRU_PAGES_PER_SEGMENT_);
				memcpy(begin_answer(s, NEON_PS_SLRU_SEGMENT_RESPONSE, req, (size_t) size * BLCKSZ),
					   pages, (size_t) size * BLCKSZ);
				break;
			}
		case NEON_PS_FILLER:
			memset(begin_answer(s, NEON_PS_FILLER_RESPONSE, req, req->blk), 0, req->blk);
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("request with unknown tag %u", req->tag)));
	}
}

/* To the log only: an ErrorResponse would end the stream for the client. */
static void
log_failure(const neon_ps_request *req, const ErrorData *error)
{
	ereport(LOG_SERVER_ONLY,
			(errcode(error->sqlerrcode),
			 errmsg("page stream request %u for %u/%u/%u fork %u block %u at %X/%08X failed: %s", req->tag, req->spc,
					req->db, req->rel, req->fork, req->blk, LSN_FORMAT_ARGS(req->request_lsn), error->message),
			 error->detail ? errdetail("%s", error->detail) : 0));
}

static void
serve_request_safely(PageStream *s, const neon_ps_request *req)
{
	if (!IsTransactionState())
		StartTransactionCommand();
	MemoryContextSwitchTo(s->request_context);
	s->answer_start = s->cb.out_len;
	PG_TRY();
	{
		serve_request(s, req);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(s->request_context);
		error = CopyErrorData();
		HOLD_INTERRUPTS();
		FlushErrorState();
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
		MemoryContextSwitchTo(s->request_context);
		log_failure(req, error);
		s->cb.out_len = Min(s->cb.out_len, s->answer_start);	/* a half-made answer */
		answer_error(s, req, error);
	}
	PG_END_TRY();
	MemoryContextReset(s->request_context);
}

static void
stream_requests(PageStream *s)
{
	const char *data;
	size_t		len;

	for (;;)
	{
		neon_ps_request req;

		if (!ps_copyboth_pending(&s->cb))
		{
			if (IsTransactionState())
				CommitTransactionCommand();
			ps_copyboth_flush(&s->cb);
			pgstat_report_activity(STATE_IDLE, NULL);
		}
		QueryCancelPending = false;	/* for the request before */
		CHECK_FOR_INTERRUPTS();
		if (!ps_copyboth_receive(&s->cb, &data, &len))
			break;
		/* With the right length it can be answered, if only with an error. */
		if (!neon_ps_decode_request(data, len, &req) && len != NEON_PS_REQUEST_BYTES)
		{
			ps_copyboth_flush(&s->cb);
			ereport(FATAL,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("malformed page stream request of %zu bytes", len),
					 errdetail("A request has %d bytes.", NEON_PS_REQUEST_BYTES)));
		}
		serve_request_safely(s, &req);
	}
	if (IsTransactionState())
		CommitTransactionCommand();
}

PG_FUNCTION_INFO_V1(neon_ps_pagestream);

Datum
neon_ps_pagestream(PG_FUNCTION_ARGS)
{
	PageStream	s = {0};
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	s.tl = ps_timeline_open(ps_text_arg(fcinfo, 0, "tenant"), ps_text_arg(fcinfo, 1, "timeline"));
	s.incarnation = ps_timeline_incarnation(s.tl);
	s.request_context = AllocSetContextCreate(TopMemoryContext, "page stream request", ALLOCSET_DEFAULT_SIZES);
	ps_copyboth_begin(&s.cb, fcinfo);
	PG_TRY();
	{
		stream_requests(&s);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(TopMemoryContext);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	if (error)
	{
		/* Half a message may have been read: the connection is of no further use. */
		error->elevel = FATAL;
		ThrowErrorData(error);
	}
	ps_copyboth_end(&s.cb);
	MemoryContextDelete(s.request_context);
	MemoryContextSwitchTo(caller);
	PG_RETURN_NULL();
}
