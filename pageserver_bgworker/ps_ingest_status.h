/*
 * ps_ingest_status.h - the small file beside a timeline's layers that says how its ingest fares, and survives crashes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PS_INGEST_STATUS_H
#define NEON_PS_INGEST_STATUS_H

#include "ps_internal.h"

#define PS_MAX_INGEST_ATTEMPTS	3	/* crashes or data errors at one record until the timeline is quarantined */
#define PS_STATUS_TEXT_BYTES	512

typedef enum PsIngestState
{
	PS_INGEST_STOPPED = 0,
	PS_INGEST_CONNECTING,
	PS_INGEST_STREAMING,
	PS_INGEST_WAITING,			/* for the next attempt to connect */
	PS_INGEST_QUARANTINED
} PsIngestState;

/* The file, mapped shared by the worker that ingests.  Plain stores: one writer, and a torn text harms nobody. */
typedef struct PsIngestStatus
{
	uint32		magic;
	uint32		state;			/* PsIngestState */
	XLogRecPtr	in_progress;	/* start of the record being taken apart; 0 between records */
	XLogRecPtr	attempts_lsn;	/* where attempts were counted */
	uint32		attempts;
	int32		worker_pid;
	char		source[PS_STATUS_TEXT_BYTES];	/* safekeeper, without secrets */
	char		message[PS_STATUS_TEXT_BYTES];	/* last error */
} PsIngestStatus;

/* Maps the file, made if need be.  Counts an attempt when the last process died within a record. */
extern PsIngestStatus *ps_ingest_status_open(PsTimeline *tl);
extern void ps_ingest_status_close(PsIngestStatus *st);
/* An attempt failed at the record in progress; quarantines when it was the last one. */
extern void ps_ingest_status_count_attempt(PsIngestStatus *st);
extern void ps_ingest_status_message(PsIngestStatus *st, const char *message);

#endif							/* NEON_PS_INGEST_STATUS_H */
