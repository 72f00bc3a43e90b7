/*
 * sk_stream.h - CopyData messages over the client's connection, with buffers of our own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SK_STREAM_H
#define SK_STREAM_H

#define SK_STREAM_BUFFER_BYTES	(512 * 1024)
#define SK_STREAM_MAX_MESSAGE_BYTES	(8 * 1024 * 1024)

typedef enum SkStreamResult
{
	SK_STREAM_NOTHING,			/* no complete message has arrived */
	SK_STREAM_DATA,				/* one CopyData */
	SK_STREAM_DONE,				/* CopyDone: the client sends no more */
	SK_STREAM_CLOSED			/* the connection is gone, or Terminate */
} SkStreamResult;

typedef struct SkStream
{
	MemoryContext context;		/* holds both buffers */
	char	   *in;
	int			in_start;
	int			in_end;
	int			in_cap;
	char	   *out;
	int			out_len;
	int			out_cap;
} SkStream;

extern void sk_stream_begin(SkStream *s);
extern SkStreamResult sk_stream_next(SkStream *s, char **data, int *len);
extern void sk_stream_wait(long timeout_ms);
extern char *sk_stream_reserve(SkStream *s, int payload_bytes);
extern bool sk_stream_flush(SkStream *s);
extern bool sk_stream_end(SkStream *s);
extern void sk_stream_abandon(SkStream *s);
extern void sk_stream_free(SkStream *s);

#endif							/* SK_STREAM_H */
