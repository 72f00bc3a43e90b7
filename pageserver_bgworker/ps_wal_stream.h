/*
 * ps_wal_stream.h - one timeline's stream of WAL from one of its safekeepers.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PS_WAL_STREAM_H
#define NEON_PS_WAL_STREAM_H

#include "ps_internal.h"

typedef struct PsWalStream PsWalStream;

/* Claims the timeline; NULL when another process has it, or when it has no safekeepers. */
extern PsWalStream *ps_wal_stream_open(PsTimeline *tl);
extern void ps_wal_stream_close(PsWalStream *s);
extern bool ps_wal_stream_is_live(PsWalStream *s);
extern PsTimeline *ps_wal_stream_timeline(PsWalStream *s);
/* Reads the list of safekeepers and the quarantine again. */
extern void ps_wal_stream_refresh(PsWalStream *s);

#define PS_STREAM_MAX_SOCKETS	2

typedef struct PsStreamSocket
{
	int			fd;
	uint32		events;			/* WL_SOCKET_* wanted */
} PsStreamSocket;

/* What to wait for: sockets, and how long at most (ms, 0: there is work now). */
extern int	ps_wal_stream_sockets(PsWalStream *s, PsStreamSocket sockets[PS_STREAM_MAX_SOCKETS], long *timeout_ms);
/* Does what can be done without waiting.  Handles its own errors. */
extern void ps_wal_stream_work(PsWalStream *s);
/* The process exits in an orderly way: nothing was poisonous. */
extern void ps_wal_stream_forgive(PsWalStream *s);

#endif							/* NEON_PS_WAL_STREAM_H */
