/*
 * neon_acceptor.h - the safekeeper's side of consensus for one timeline, as a state machine without I/O.
 *
 * neon_acceptor is plain data without pointers: it may live in shared memory under the caller's lock; several
 * connections (neon_acceptor_session each) may drive one acceptor, one call at a time.  Whatever must be durable
 * goes through neon_acceptor_storage, and memory is changed only after storage said yes: a storage function may
 * fail, or leave by longjmp, at any point without harm.
 *
 * Rules kept here: vote after flush; the term is durable before it is spoken of; history is shown clipped to
 * flush_lsn; the divergence point is computed again, never believed; committed WAL is never truncated; the tail is
 * durably cut before a history is adopted; only ends of complete, flushed records are acknowledged.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_ACCEPTOR_H
#define NEON_ACCEPTOR_H

#include "neon_consensus_wire.h"

/* What must survive a crash.  All fields are always given, changed or not. */
typedef struct neon_acceptor_durable
{
	const neon_configuration *conf;
	neon_term	term;
	const neon_term_history *history;
	neon_lsn	commit_lsn;		/* a hint: may fall behind; where the scan for the end of WAL begins at start */
	neon_lsn	truncate_lsn;
} neon_acceptor_durable;

/*
 * Storage of the timeline.  Functions return false on failure (or longjmp); nothing may be half done except where said.
 *
 * write_lsn:		end of the raw bytes written; may be in the middle of a record.
 * flush_record_lsn: end of the last complete, CRC-valid record whose bytes are all durable; <= write_lsn always.
 *					The record of a switch is complete when the zero fill up to its segment's end is there, too.
 *					For an empty log both are the timeline's start LSN.
 * last_record_start: start of the record that ends at flush_record_lsn; 0 when the log is empty.
 *
 * At start the storage scans from the persisted commit_lsn, sets write_lsn = flush_record_lsn = the end of the last
 * valid record, and durably zeroes what follows it before anything is written.
 */
typedef struct neon_acceptor_storage
{
	bool		(*persist_state) (void *arg, const neon_acceptor_durable *next);	/* durable on return, all or nothing */
	bool		(*wal_write) (void *arg, neon_lsn begin, const uint8_t *bytes, size_t len); /* begin = write_lsn */
	bool		(*wal_flush) (void *arg);	/* everything written is durable on return */
	bool		(*wal_truncate) (void *arg, neon_lsn to);	/* to is a record end <= flush_record_lsn; first sets
															 * write_lsn = flush_record_lsn = to, then durably
															 * zeroes the tail and unlinks later segments */
	neon_lsn	(*write_lsn) (void *arg);
	neon_lsn	(*flush_record_lsn) (void *arg);
	neon_lsn	(*last_record_start) (void *arg);
} neon_acceptor_storage;

typedef struct neon_acceptor
{
	/* identity, never changes */
	neon_id		tenant;
	neon_id		timeline;
	uint64_t	node_id;
	uint64_t	system_id;		/* 0: not known yet */
	uint32_t	wal_segment_bytes;
	uint32_t	pg_version_num;
	neon_lsn	timeline_start_lsn;

	/* durable */
	neon_configuration conf;
	neon_term	term;
	neon_term_history history;	/* may run ahead of the WAL: look at it clipped to flush_record_lsn */

	/* durable lazily */
	neon_lsn	commit_lsn;
	neon_lsn	truncate_lsn;
	neon_lsn	persisted_commit_lsn;

	bool		truncation_pending; /* a truncation began and did not end well: no write before it is done again */
	neon_term_history scratch;	/* a message's history while it is looked at: too big for a stack */
} neon_acceptor;

/* One connection.  Zero it to begin. */
typedef struct neon_acceptor_session
{
	bool		greeted;
	bool		response_due;	/* appends were taken since the last response */
	neon_term	append_term;	/* term of those appends */
	neon_lsn	append_commit_lsn;	/* newest the leader told on this connection in that term */
	neon_lsn	append_truncate_lsn;
} neon_acceptor_session;

typedef enum neon_acceptor_result
{
	NEON_ACCEPTOR_REPLY,		/* send what is in the reply writer */
	NEON_ACCEPTOR_NOTHING,		/* go on */
	NEON_ACCEPTOR_FLUSH,		/* an append was taken: call neon_acceptor_flush_and_reply when no more input is buffered */
	NEON_ACCEPTOR_REFUSED,		/* send the reply (a refusal), then close the connection */
	NEON_ACCEPTOR_FAILED		/* storage failed: close the connection; the acceptor stays usable */
} neon_acceptor_result;

/*
 * Load what was persisted (a new timeline: term 0, empty history, commit_lsn = truncate_lsn = 0).  False if the
 * state is damaged.  Identity fields are copied from `identity`'s.
 */
extern bool neon_acceptor_init(neon_acceptor *a, const neon_acceptor *identity, const neon_acceptor_durable *loaded);

/* Handle one message of a connection.  The reply writer must have NEON_CONSENSUS_MAX_CONTROL_BYTES of room. */
extern neon_acceptor_result neon_acceptor_message(neon_acceptor *a, neon_acceptor_session *s,
												  const neon_acceptor_storage *io, void *io_arg,
												  const uint8_t *msg, size_t len, neon_writer *reply);

/* The two halves of an append: several neon_acceptor_message that return FLUSH, then one of these. */
extern neon_acceptor_result neon_acceptor_flush_and_reply(neon_acceptor *a, neon_acceptor_session *s,
														  const neon_acceptor_storage *io, void *io_arg,
														  neon_writer *reply);
/* The same for a caller that has flushed by itself (outside its lock): only composes the response. */
extern neon_acceptor_result neon_acceptor_append_reply(neon_acceptor *a, neon_acceptor_session *s,
													   const neon_acceptor_storage *io, void *io_arg,
													   neon_writer *reply);

/* Membership change, driven from outside (SQL): a higher generation that contains us; a term to begin from. */
extern bool neon_acceptor_switch_configuration(neon_acceptor *a, const neon_acceptor_storage *io, void *io_arg,
											   const neon_configuration *conf, const char **why_not);
extern bool neon_acceptor_raise_term(neon_acceptor *a, const neon_acceptor_storage *io, void *io_arg, neon_term term);

/* Persist commit_lsn and truncate_lsn now (periodically, and before WAL is trimmed by them). */
extern bool neon_acceptor_checkpoint(neon_acceptor *a, const neon_acceptor_storage *io, void *io_arg);

/*
 * What a peer says of its log of this timeline, through whatever channel: a hint that may be old, repeated or wrong.  commit_lsn was read before
 * last_log_term, which is clipped to flush_lsn.
 */
typedef struct neon_peer_claim
{
	uint64_t	node_id;
	neon_id		tenant;
	neon_id		timeline;
	neon_term	term;
	neon_term	last_log_term;
	neon_lsn	flush_lsn;
	neon_lsn	commit_lsn;
} neon_peer_claim;

typedef enum neon_peer_verdict
{
	NEON_PEER_BELIEVED,			/* something more is committed here */
	NEON_PEER_NOTHING_NEW,
	NEON_PEER_NOT_OURS,			/* another timeline, or not a peer */
	NEON_PEER_GARBAGE,			/* contradicts itself */
	NEON_PEER_OTHER_HISTORY		/* true perhaps, but not known to be so of the log here */
} neon_peer_verdict;

/* Decides, and changes nothing (neon_peer.c has the rule).  *commit_lsn: what is committed here, with this claim. */
extern neon_peer_verdict neon_peer_commit(const neon_acceptor *a, neon_lsn flush_record_lsn, const neon_peer_claim *p, neon_lsn *commit_lsn);

/* The same, and takes it.  Made durable when it must be anyway (neon_acceptor_checkpoint). */
extern neon_peer_verdict neon_acceptor_learn_commit(neon_acceptor *a, const neon_acceptor_storage *io, void *io_arg,
													const neon_peer_claim *p);

/* Term of the last record that is really here. */
extern neon_term neon_acceptor_last_log_term(const neon_acceptor *a, const neon_acceptor_storage *io, void *io_arg);

/*
 * May a proposer of `term` that recovers a laggard read beyond commit_lsn here?  Only while our term is its term
 * and we accepted its history.
 */
extern bool neon_acceptor_serves_term(const neon_acceptor *a, neon_term term);

/* Compose a refusal by hand (for instance NEON_REFUSE_NO_SPACE instead of calling neon_acceptor_message). */
extern void neon_acceptor_refuse(const neon_acceptor *a, neon_refusal_reason reason, const char *text, neon_writer *reply);

#endif							/* NEON_ACCEPTOR_H */
