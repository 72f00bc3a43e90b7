/*
 * push_internal.h - what the files of libs/wal_push share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PUSH_INTERNAL_H
#define NEON_PUSH_INTERNAL_H

#include <libpq-fe.h>

#include "neon_wal_push.h"

#define PUSH_CONNECT_TIMEOUT_MS		10000	/* from connect() to CopyBothResponse */
#define PUSH_SILENCE_TIMEOUT_MS		30000	/* an answer is due and nothing comes */
#define PUSH_HEARTBEAT_MS			1000
#define PUSH_BACKOFF_MIN_MS			100
#define PUSH_BACKOFF_MAX_MS			3000
#define PUSH_CAMPAIGN_MIN_MS		1000	/* a campaign without a result is repeated after this and a random while */
#define PUSH_CAMPAIGN_SPREAD_MS		2000
#define PUSH_SYNC_GRACE_MS			1000	/* SYNC: how long to wait for the slower ones to learn of the commit */
#define PUSH_REPEAT_LOG_MS			60000	/* the same complaint is logged again after this */
#define PUSH_MESSAGES_PER_TURN		64	/* from one connection, so that no one starves the others */
#define PUSH_DONOR_BUFFER_BYTES		(1024 * 1024)
#define PUSH_DONOR_MESSAGE_BYTES	(256 * 1024)	/* largest WAL message accepted from a donor */

typedef enum push_link_state
{
	LINK_DOWN,					/* until retry_at_ms */
	LINK_CONNECTING,			/* PQconnectPoll */
	LINK_CALLING,				/* the command is sent, CopyBothResponse is awaited */
	LINK_OPEN
} push_link_state;

/* One libpq connection that ends in COPY BOTH; used for safekeepers (CALL wal_push) and donors (START_REPLICATION). */
typedef struct push_link
{
	PGconn	   *conn;
	push_link_state state;
	PostgresPollingStatusType poll;
	int64_t		deadline_ms;	/* of CONNECTING and CALLING */
	int64_t		retry_at_ms;	/* of DOWN */
	int			backoff_ms;
	uint64_t	serial;			/* changes whenever the fd may have */
	bool		sent;			/* CALLING: the command has left */
	bool		out_pending;	/* libpq holds output that the socket did not take */
	bool		force_read;		/* TLS: libpq may hold decrypted bytes that no poll shows */
	int			slot;			/* in the array of sockets of this turn; -1 when not there */
	char		error[NEON_PUSH_TEXT_BYTES];	/* why it went down last; empty while all is well */
} push_link;

typedef struct push_donor
{
	push_link	link;
	bool		active;			/* somebody wants bytes */
	int			from;			/* index of the donor */
	neon_lsn	want_begin;		/* range asked for last */
	neon_lsn	want_end;
	neon_lsn	begin_lsn;		/* LSN of buf[0] */
	size_t		len;
	uint8_t    *buf;			/* PUSH_DONOR_BUFFER_BYTES, allocated when first needed */
} push_donor;

typedef struct push_peer
{
	uint64_t	id;
	char	   *conninfo;
	push_link	link;
	push_donor	donor;
	bool		dropped;		/* the core has asked to close it: do not tell the core */
	bool		starved;		/* send_append was refused for want of room: poke when there is some */
	int64_t		heard_ms;
	int64_t		complained_ms;
	char		complaint[NEON_PUSH_TEXT_BYTES];	/* logged last */
} push_peer;

struct neon_wal_push
{
	neon_proposer *core;
	const neon_push_env *env;
	void	   *env_arg;
	int			n;
	push_peer	peers[NEON_CONSENSUS_MAX_MEMBERS];

	neon_push_state state;
	neon_proposer_fatal fatal;
	char		detail[NEON_PUSH_TEXT_BYTES];
	neon_lsn	x;
	neon_lsn	last_record_start;

	int64_t		heartbeat_at_ms;
	int64_t		campaign_at_ms; /* 0: no campaign is running */
	int64_t		sync_since_ms;	/* 0: not committed yet */
	neon_lsn	available_lsn;	/* what the core was told */
	uint64_t	next_serial;

	/* Message being built: header, then WAL.  [wal_begin, wal_end) is what is there: three safekeepers read it once. */
	neon_lsn	wal_begin;
	neon_lsn	wal_end;
	uint8_t    *message;

	neon_push_socket sockets[NEON_PUSH_MAX_SOCKETS];
	int			n_sockets;
};

/* push_link.c */
typedef struct push_link_target
{
	const char *conninfo;
	const char *options;		/* startup options, NULL for none */
	bool		replication;
	const char *command;
} push_link_target;

extern void push_link_init(push_link *link);
/* Drives CONNECTING and CALLING.  True when it has just become OPEN. */
extern bool push_link_advance(neon_wal_push *push, push_link *link, const push_link_target *target);
extern void push_link_down(neon_wal_push *push, push_link *link, const char *why);
extern void push_link_close(push_link *link);
/* OPEN: reads what the socket has.  False after push_link_down. */
extern bool push_link_consume(neon_wal_push *push, push_link *link);
/* OPEN: next message; 0 none now, -1 after push_link_down.  Free with PQfreemem. */
extern int	push_link_next(neon_wal_push *push, push_link *link, char **bytes);
/* OPEN: never blocks; false after an error, which is left to be found by push_link_broken. */
extern bool push_link_send(push_link *link, const void *bytes, size_t len);
extern bool push_link_flush(push_link *link);
extern void push_link_want(neon_wal_push *push, push_link *link, bool read);
extern const neon_push_socket *push_link_ready(const neon_wal_push *push, const push_link *link);

/* push_donor.c */
extern bool push_donor_take(neon_wal_push *push, int i, neon_lsn begin, neon_lsn end, uint8_t *to);
extern void push_donor_drive(neon_wal_push *push, int i);
extern void push_donor_stop(push_peer *peer);
extern bool push_donor_wants_input(const push_donor *donor);

#endif							/* NEON_PUSH_INTERNAL_H */
