/*
 * neon_proposer.h - the compute's side of consensus for one timeline, as an event-driven state machine without I/O.
 *
 * Inputs are the neon_proposer_* functions; outputs are the functions of neon_proposer_output, called from inside
 * an input, never to be answered from inside (no input may be called from an output).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PROPOSER_H
#define NEON_PROPOSER_H

#include "neon_consensus_wire.h"

#define NEON_PROPOSER_APPEND_BYTES_DEFAULT		(128 * 1024)
#define NEON_PROPOSER_INFLIGHT_BYTES_DEFAULT	(16 * 1024 * 1024)

typedef enum neon_proposer_mode
{
	NEON_PROPOSER_SYNC,			/* no new WAL: find the end of WAL X, commit it, finish */
	NEON_PROPOSER_NORMAL		/* stream from X on */
} neon_proposer_mode;

typedef struct neon_proposer_config
{
	neon_id		tenant;
	neon_id		timeline;
	uint64_t	system_id;		/* 0: unknown */
	uint32_t	wal_segment_bytes;
	uint32_t	pg_version_num;
	neon_proposer_mode mode;

	/*
	 * The acceptors this proposer can connect to; index i everywhere below.  conf may have generation 0 (and no
	 * members): then acceptor_ids serve as the list and the acceptors' configuration is adopted.
	 */
	uint32_t	n_acceptors;
	uint64_t	acceptor_ids[NEON_CONSENSUS_MAX_MEMBERS];
	neon_configuration conf;

	/*
	 * NORMAL: X.  The term must start exactly here, otherwise another compute wrote.  previous_term: a term that this
	 * very server won before (its proposer was restarted); if the log's end is of that term, it may be above X.
	 * Local WAL exists from expected_start_lsn on; below it appends are to be read from a donor.
	 */
	neon_lsn	expected_start_lsn;
	neon_term	previous_term;

	/* Where an empty log begins; 0: ask the acceptors. */
	neon_lsn	timeline_start_lsn;

	uint32_t	max_append_bytes;	/* 0: default */
	uint32_t	max_inflight_bytes; /* per acceptor; 0: default */
} neon_proposer_config;

typedef enum neon_proposer_fatal
{
	NEON_FATAL_NEWER_PROPOSER = 1,	/* another proposer has a higher term: this compute is fenced off */
	NEON_FATAL_OTHER_WROTE = 2, /* the log does not end at X: start again with a new base backup */
	NEON_FATAL_CONFIGURATION = 3,	/* the configuration changed after the campaign began: start the proposer again,
									 * with previous_term set if it had been elected */
	NEON_FATAL_IDENTITY = 4,	/* an acceptor says we are not who it knows, or speaks another version */
	NEON_FATAL_CORRUPT = 5,		/* impossible answer: histories contradict each other */
	NEON_FATAL_HISTORY_FULL = 6
} neon_proposer_fatal;

extern const char *neon_proposer_fatal_text(neon_proposer_fatal f);

typedef struct neon_proposer_output
{
	/* One whole message for acceptor i. */
	void		(*send) (void *arg, int i, const uint8_t *bytes, size_t len);

	/*
	 * An append for acceptor i: the driver encodes the header (neon_encode_append) and adds the WAL bytes
	 * [begin_lsn, end_lsn), from local WAL if `local`, else from a donor (neon_proposer_donor).  Appends for one
	 * acceptor are never reordered.  true: taken, it will be sent on this connection or the connection will be
	 * closed.  false: not now; the driver calls neon_proposer_poke(i) when it can.  A range never crosses
	 * expected_start_lsn.  begin = end is a heartbeat and must be taken.
	 */
	bool		(*send_append) (void *arg, int i, const neon_msg_append *header, bool local);

	/* Close the connection of acceptor i, and connect again after a pause.  Do not call neon_proposer_disconnected for it. */
	void		(*disconnect) (void *arg, int i, const char *why);

	/* Elected.  last_record_start: xl_prev for the first record after term_start, 0 when there is none. */
	void		(*elected) (void *arg, neon_term term, neon_lsn term_start, int donor, neon_lsn last_record_start);

	/* A quorum has everything up to here; ascends. */
	void		(*committed) (void *arg, neon_lsn commit_lsn);

	/* SYNC only: X is committed and every acceptor that is connected knows. */
	void		(*finished) (void *arg, neon_lsn x, neon_lsn last_record_start);

	/* The end: no output follows.  Inputs are ignored from now on. */
	void		(*fatal) (void *arg, neon_proposer_fatal reason, const char *detail);
} neon_proposer_output;

typedef enum neon_proposer_phase
{
	NEON_PHASE_COLLECT,			/* greetings, until a quorum of the newest configuration greeted */
	NEON_PHASE_CAMPAIGN,		/* asking for votes at p->term */
	NEON_PHASE_ELECTED,
	NEON_PHASE_FINISHED,		/* SYNC: done (late acceptors are ignored) */
	NEON_PHASE_DEAD				/* fatal was called */
} neon_proposer_phase;

typedef enum neon_peer_state
{
	NEON_PEER_OFFLINE,
	NEON_PEER_GREETING,			/* greeting sent */
	NEON_PEER_GREETED,			/* same configuration; waits for the campaign */
	NEON_PEER_OUTSIDE,			/* not in the configuration: stays idle */
	NEON_PEER_VOTING,			/* vote requested */
	NEON_PEER_VOTED,			/* answered; waits for the election's end */
	NEON_PEER_STREAMING
} neon_peer_state;

/* What the proposer knows of one acceptor. */
typedef struct neon_proposer_peer
{
	uint64_t	node_id;
	neon_peer_state state;
	neon_term	voted_term;		/* gave its vote in this term; survives the connection */
	neon_term	refused_term;	/* did not */
	uint32_t	greeted_generation; /* configuration of the last greeting sent on this connection */

	/* from its last vote */
	neon_lsn	vote_flush_lsn;
	neon_lsn	vote_last_record_start;
	neon_lsn	vote_truncate_lsn;
	neon_lsn	vote_commit_lsn;
	neon_lsn	timeline_start_lsn;
	neon_term_history vote_history;

	/* streaming */
	neon_lsn	start_lsn;		/* where this connection's stream began */
	neon_lsn	sent_lsn;
	neon_lsn	write_lsn;		/* raw bytes it has, for flow control */
	neon_lsn	flush_lsn;		/* acknowledged in our term; survives the connection */
	neon_lsn	ahead_lsn;		/* acknowledged, but not available here yet: zeroes at a record's end */
	neon_lsn	commit_lsn;		/* it knows of */
	neon_lsn	commit_sent_lsn;
	bool		answered;		/* responded since 'elected' on this connection */
} neon_proposer_peer;

/* Plain data, about (n_acceptors + 2) * 64 KB; provided by the caller, only read by it. */
typedef struct neon_proposer
{
	neon_proposer_config config;
	const neon_proposer_output *out;
	void	   *out_arg;
	neon_configuration conf;	/* in force */
	neon_proposer_phase phase;
	neon_term	term;
	neon_term	max_term_seen;
	neon_lsn	term_start;
	neon_lsn	available_lsn;
	neon_lsn	commit_lsn;
	neon_lsn	truncate_lsn;
	neon_lsn	last_record_start;
	int			donor;
	neon_term_history history;
	uint8_t		buf[NEON_CONSENSUS_MAX_CONTROL_BYTES];
	neon_term_history scratch;
	neon_proposer_peer peers[NEON_CONSENSUS_MAX_MEMBERS];
} neon_proposer;

/* False when the configuration given makes no sense. */
extern bool neon_proposer_init(neon_proposer *p, const neon_proposer_config *config,
							   const neon_proposer_output *out, void *out_arg);

/* ---- inputs ---- */
extern void neon_proposer_connected(neon_proposer *p, int i);
extern void neon_proposer_message(neon_proposer *p, int i, const uint8_t *bytes, size_t len);
extern void neon_proposer_disconnected(neon_proposer *p, int i);

/* Raw WAL bytes below upto may be sent (GetFlushRecPtr; may be the middle of a record). */
extern void neon_proposer_wal_available(neon_proposer *p, neon_lsn upto);

/* The driver can take appends for acceptor i again. */
extern void neon_proposer_poke(neon_proposer *p, int i);

/* Timers are the driver's.  Heartbeat: about every second.  Retry: in CAMPAIGN without a result for a random while. */
extern void neon_proposer_heartbeat(neon_proposer *p);
extern void neon_proposer_retry_campaign(neon_proposer *p);

/* ---- questions ---- */

/* A connected acceptor that surely has the elected log up to end_lsn and serves it to our term; -1 if none. */
extern int	neon_proposer_donor(const neon_proposer *p, neon_lsn end_lsn);

/* SYNC: X is committed by the quorum, though some connected acceptors do not know yet: the driver may stop waiting. */
extern bool neon_proposer_sync_committed(const neon_proposer *p);

#endif							/* NEON_PROPOSER_H */
