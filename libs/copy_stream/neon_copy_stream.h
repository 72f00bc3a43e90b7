/*
 * neon_copy_stream.h - CopyData messages over the client's connection, with buffers of our own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_COPY_STREAM_H
#define NEON_COPY_STREAM_H

#include "fmgr.h"

#define NEON_STREAM_BUFFER_BYTES	(512 * 1024)
#define NEON_STREAM_MAX_MESSAGE_BYTES	(8 * 1024 * 1024)

typedef enum NeonStreamResult
{
	NEON_STREAM_NOTHING,			/* no complete message has arrived */
	NEON_STREAM_DATA,				/* one CopyData */
	NEON_STREAM_DONE,				/* CopyDone: the client sends no more */
	NEON_STREAM_CLOSED			/* the connection is gone, or Terminate */
} NeonStreamResult;

typedef struct NeonStream
{
	MemoryContext context;		/* holds both buffers */
	char	   *in;
	int			in_start;
	int			in_end;
	int			in_cap;
	char	   *out;
	int			out_len;
	int			out_cap;
} NeonStream;

/* Ends the transaction of the CALL that `name` was called by: a stream may live for months.  ERROR inside of a transaction block. */
extern void neon_stream_leave_transaction(FunctionCallInfo fcinfo, const char *name);
extern void neon_stream_begin(NeonStream *s);
extern NeonStreamResult neon_stream_next(NeonStream *s, char **data, int *len);
extern void neon_stream_wait(long timeout_ms);
extern char *neon_stream_reserve(NeonStream *s, int payload_bytes);
extern bool neon_stream_flush(NeonStream *s);
extern bool neon_stream_end(NeonStream *s);
extern void neon_stream_abandon(NeonStream *s);
extern void neon_stream_free(NeonStream *s);

#endif							/* NEON_COPY_STREAM_H */
