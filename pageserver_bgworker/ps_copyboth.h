/*
 * ps_copyboth.h - a procedure that answers CALL with CopyBothResponse and then speaks a binary sub-protocol.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PS_COPYBOTH_H
#define PS_COPYBOTH_H

#include "postgres.h"

#include "fmgr.h"

typedef struct PsCopyBoth
{
	char	   *in;				/* bytes from the client: in[in_start..in_end) is not consumed */
	size_t		in_bytes;
	size_t		in_start;
	size_t		in_end;
	char	   *out;			/* messages not yet sent */
	size_t		out_bytes;
	size_t		out_len;
	size_t		message_start;	/* of the message reserved last, while it is in out */
	bool		done;			/* CopyDone has come */
} PsCopyBoth;

/*
 * Leaves the caller's transaction (ERROR inside BEGIN or a function) and sends CopyBothResponse.  Until ps_copyboth_end there
 * is no transaction except those the caller starts.
 */
extern void ps_copyboth_begin(PsCopyBoth *cb, FunctionCallInfo fcinfo);

/*
 * The next CopyData: *data is valid until the next call.  false after CopyDone.  Sends what is buffered before it waits; exits
 * the process when the client is gone; handles interrupts.
 */
extern bool ps_copyboth_receive(PsCopyBoth *cb, const char **data, size_t *len);
/* Is a whole message there already? */
extern bool ps_copyboth_pending(PsCopyBoth *cb);

/* Space for the payload of one CopyData, to be filled before the next call. */
extern char *ps_copyboth_reserve(PsCopyBoth *cb, size_t len);
extern void ps_copyboth_flush(PsCopyBoth *cb);

/* Sends CopyDone (and waits for the client's, if it has not come) and starts the transaction the caller returns into. */
extern void ps_copyboth_end(PsCopyBoth *cb);

#endif							/* PS_COPYBOTH_H */
