/*
 * neon_consensus_wire.h - the messages between a proposer (compute) and the acceptors (safekeepers) of one timeline.
 *
 * Each message is the payload of one CopyData inside `CALL neon_safekeeper.wal_push(tenant, timeline)`; the first
 * byte is its tag, integers are big-endian.  Decoding checks everything: length to the last byte, bounds, order of
 * histories, uniqueness of members.  A message that does not decode is a protocol error and ends the connection.
 *
 * Pure C: no allocation, no clock, no I/O.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_CONSENSUS_WIRE_H
#define NEON_CONSENSUS_WIRE_H

#include "neon_core.h"

#define NEON_CONSENSUS_VERSION		1
#define NEON_CONSENSUS_MAX_MEMBERS	16
#ifndef NEON_CONSENSUS_MAX_HISTORY	/* the simulator makes it small to reach the limit */
#define NEON_CONSENSUS_MAX_HISTORY	4096
#endif
#define NEON_CONSENSUS_REASON_BYTES 200	/* text of a refusal */

/* Largest message that carries no WAL, and the bytes of an append before its WAL. */
#define NEON_CONSENSUS_MAX_CONTROL_BYTES	(1024 + 16 * NEON_CONSENSUS_MAX_HISTORY)
#define NEON_CONSENSUS_APPEND_HEADER_BYTES	(1 + 4 + 8 + 8 + 8 + 8 + 8 + 1)
#define NEON_CONSENSUS_MAX_APPEND_BYTES		(1024 * 1024)	/* WAL bytes in one append, at most */

typedef uint64_t neon_term;		/* 0: never; the first election has 1 */

/* Terms and node ids are kept in catalogs as signed numbers: what is larger does not decode. */
#define NEON_CONSENSUS_MAX_NUMBER	((uint64_t) INT64_MAX)

typedef enum neon_consensus_tag
{
	/* proposer to acceptor */
	NEON_MSG_PROPOSER_GREETING = 'g',
	NEON_MSG_VOTE_REQUEST = 'v',
	NEON_MSG_ELECTED = 'e',
	NEON_MSG_APPEND = 'a',
	/* acceptor to proposer */
	NEON_MSG_ACCEPTOR_GREETING = 'G',
	NEON_MSG_VOTE = 'V',
	NEON_MSG_APPEND_RESPONSE = 'A',
	NEON_MSG_REFUSAL = 'R'
} neon_consensus_tag;

typedef enum neon_refusal_reason
{
	NEON_REFUSE_PROTOCOL = 1,	/* undecodable or out of order */
	NEON_REFUSE_VERSION = 2,	/* message format or PostgreSQL major version */
	NEON_REFUSE_IDENTITY = 3,	/* tenant, timeline, system id, segment size */
	NEON_REFUSE_NOT_MEMBER = 4, /* this acceptor is not in the configuration offered */
	NEON_REFUSE_GENERATION = 5, /* the acceptor has another configuration: greet again */
	NEON_REFUSE_NOT_ELECTED = 6,	/* append before 'elected' of that term */
	NEON_REFUSE_MISMATCH = 7,	/* start_streaming_at is not the common point (a race after reconnect): greet again */
	NEON_REFUSE_COMMITTED = 8,	/* would truncate committed WAL: never happens unless something is broken */
	NEON_REFUSE_POSITION = 9,	/* append with a gap or an overlap: greet again */
	NEON_REFUSE_NO_SPACE = 10,	/* the acceptor's disk is nearly full: try again later */
	NEON_REFUSE_STORAGE = 11	/* the acceptor could not write */
} neon_refusal_reason;

#define NEON_REFUSE_LAST	NEON_REFUSE_STORAGE

extern const char *neon_refusal_text(neon_refusal_reason r);

/*
 * Who votes.  With n_new_members > 0 the configuration is joint: a quorum is a majority of members AND a majority
 * of new_members.  Ids are not 0 and unique within a set.  Generation 0 in a proposer's hands means "only a list of
 * whom to ask": it adopts the configuration of the acceptors.
 */
typedef struct neon_configuration
{
	uint32_t	generation;
	uint32_t	n_members;
	uint32_t	n_new_members;
	uint32_t	pad;
	uint64_t	members[NEON_CONSENSUS_MAX_MEMBERS];
	uint64_t	new_members[NEON_CONSENSUS_MAX_MEMBERS];
} neon_configuration;

extern bool neon_configuration_valid(const neon_configuration *c);
extern bool neon_configuration_has(const neon_configuration *c, uint64_t node_id);
extern bool neon_configuration_equal(const neon_configuration *a, const neon_configuration *b);

/* "1,2,3" to members (joint: "1,2,3/2,3,4"); false when malformed. */
extern bool neon_configuration_parse(const char *text, uint32_t generation, neon_configuration *c);
#define NEON_CONFIGURATION_TEXT	(2 * NEON_CONSENSUS_MAX_MEMBERS * 21 + 2)
extern void neon_configuration_print(const neon_configuration *c, char text[NEON_CONFIGURATION_TEXT]);

/* Which term wrote which part of the log: entry i covers [lsn_i, lsn_{i+1}).  Terms ascend strictly, LSNs weakly. */
typedef struct neon_term_entry
{
	neon_term	term;
	neon_lsn	lsn;
} neon_term_entry;

typedef struct neon_term_history
{
	uint32_t	n;
	uint32_t	pad;
	neon_term_entry e[NEON_CONSENSUS_MAX_HISTORY];
} neon_term_history;

extern bool neon_history_valid(const neon_term_history *h);
/* How many leading entries a log that ends at flush_lsn really has: a persisted history may run ahead of the WAL. */
extern uint32_t neon_history_visible(const neon_term_history *h, neon_lsn flush_lsn);
/* Term of the last visible entry, 0 for an empty log. */
extern neon_term neon_history_last_term(const neon_term_history *h, neon_lsn flush_lsn);

/*
 * Where two logs part: the leader's history, and an acceptor's visible history with the end of its log.
 *	 NEON_COMMON_FOUND: *point is the highest LSN up to which both logs are equal
 *	 NEON_COMMON_NONE:	no term in common (an empty acceptor): *point is the leader's first entry
 *	 NEON_COMMON_BROKEN: one term begins at different LSNs: somebody's state is damaged
 */
typedef enum neon_common_result
{
	NEON_COMMON_FOUND,
	NEON_COMMON_NONE,
	NEON_COMMON_BROKEN
} neon_common_result;

extern neon_common_result neon_history_common(const neon_term_history *leader, const neon_term_history *acceptor,
											  neon_lsn acceptor_flush_lsn, neon_lsn *point);

/* Text form for a catalog or a view: "1:0/1500028,2:0/1600000"; returns the length it needs, as snprintf does. */
extern size_t neon_history_print(const neon_term_history *h, uint32_t n_entries, char *out, size_t cap);
extern bool neon_history_parse(const char *text, neon_term_history *h);

/* ---- messages ---- */

typedef struct neon_msg_proposer_greeting
{
	uint32_t	version;		/* NEON_CONSENSUS_VERSION */
	neon_id		tenant;
	neon_id		timeline;
	uint64_t	system_id;		/* 0: unknown (sync) */
	uint32_t	wal_segment_bytes;
	uint32_t	pg_version_num; /* compared by major version */
	neon_configuration conf;
} neon_msg_proposer_greeting;

typedef struct neon_msg_acceptor_greeting
{
	uint64_t	node_id;
	neon_term	term;
	neon_lsn	timeline_start_lsn;
	neon_configuration conf;
} neon_msg_acceptor_greeting;

typedef struct neon_msg_vote_request
{
	uint32_t	generation;
	neon_term	term;
} neon_msg_vote_request;

typedef struct neon_msg_vote
{
	uint32_t	generation;
	neon_term	term;			/* the acceptor's, after the request was handled */
	bool		given;
	neon_lsn	flush_lsn;		/* end of the last complete, flushed record */
	neon_lsn	last_record_start;	/* start of that record, 0 when there is none */
	neon_lsn	truncate_lsn;
	neon_lsn	commit_lsn;
	neon_lsn	timeline_start_lsn;
	neon_term_history *history; /* visible part only; decode fills the caller's */
} neon_msg_vote;

typedef struct neon_msg_elected
{
	uint32_t	generation;
	neon_term	term;
	neon_lsn	start_streaming_at;
	neon_term_history *history; /* ends with (term, term_start); decode fills the caller's */
} neon_msg_elected;

/* Header of an append; the WAL bytes [begin_lsn, end_lsn) follow.  begin = end: heartbeat, carries commit_lsn only. */
typedef struct neon_msg_append
{
	uint32_t	generation;
	neon_term	term;
	neon_lsn	begin_lsn;
	neon_lsn	end_lsn;
	neon_lsn	commit_lsn;
	neon_lsn	truncate_lsn;
	bool		quiet;			/* a heartbeat that wants no response */
} neon_msg_append;

typedef struct neon_msg_append_response
{
	uint32_t	generation;
	neon_term	term;			/* when above the append's: nothing was written, the LSNs are 0 */
	neon_lsn	write_lsn;		/* raw bytes received: for flow control only */
	neon_lsn	flush_lsn;		/* end of the last complete, flushed record: the acknowledgement */
	neon_lsn	commit_lsn;
} neon_msg_append_response;

typedef struct neon_msg_refusal
{
	neon_refusal_reason reason;
	neon_term	term;			/* the acceptor's */
	char		text[NEON_CONSENSUS_REASON_BYTES];
} neon_msg_refusal;

/* Encoders append to the writer; ok turns false when it is too small. */
extern void neon_encode_proposer_greeting(neon_writer *w, const neon_msg_proposer_greeting *m);
extern void neon_encode_acceptor_greeting(neon_writer *w, const neon_msg_acceptor_greeting *m);
extern void neon_encode_vote_request(neon_writer *w, const neon_msg_vote_request *m);
extern void neon_encode_vote(neon_writer *w, const neon_msg_vote *m);
extern void neon_encode_elected(neon_writer *w, const neon_msg_elected *m);
extern void neon_encode_append(neon_writer *w, const neon_msg_append *m);	/* header only */
extern void neon_encode_append_response(neon_writer *w, const neon_msg_append_response *m);
extern void neon_encode_refusal(neon_writer *w, const neon_msg_refusal *m);

/* Decoders take the whole message, tag included; false when anything is wrong. */
extern bool neon_decode_proposer_greeting(const uint8_t *p, size_t len, neon_msg_proposer_greeting *m);
extern bool neon_decode_acceptor_greeting(const uint8_t *p, size_t len, neon_msg_acceptor_greeting *m);
extern bool neon_decode_vote_request(const uint8_t *p, size_t len, neon_msg_vote_request *m);
extern bool neon_decode_vote(const uint8_t *p, size_t len, neon_msg_vote *m);
extern bool neon_decode_elected(const uint8_t *p, size_t len, neon_msg_elected *m);
/* *wal points into p; its length is end_lsn - begin_lsn, which was compared with len. */
extern bool neon_decode_append(const uint8_t *p, size_t len, neon_msg_append *m, const uint8_t **wal);
extern bool neon_decode_append_response(const uint8_t *p, size_t len, neon_msg_append_response *m);
extern bool neon_decode_refusal(const uint8_t *p, size_t len, neon_msg_refusal *m);

#endif							/* NEON_CONSENSUS_WIRE_H */
