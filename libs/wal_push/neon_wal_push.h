/*
 * neon_wal_push.h - runs the proposer's state machine (libs/consensus) over libpq connections to N safekeepers.
 *
 * The caller gives time, waiting, logging and local WAL through neon_push_env, so that a compute's proposer and a
 * backend of any other server (which only synchronises) run the same code.  Memory is malloc's: an env function may
 * leave by longjmp, and the caller then calls neon_push_free.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_WAL_PUSH_H
#define NEON_WAL_PUSH_H

#include "neon_proposer.h"

#define NEON_PUSH_MAX_SOCKETS	(2 * NEON_CONSENSUS_MAX_MEMBERS)	/* a safekeeper and its donor each */
#define NEON_PUSH_TEXT_BYTES	512

/* A socket to wait for.  The same fd with another serial is another socket. */
typedef struct neon_push_socket
{
	int			fd;
	uint64_t	serial;
	bool		want_read;
	bool		want_write;
	bool		readable;		/* answers; an error of the socket makes it readable */
	bool		writable;
} neon_push_socket;

typedef struct neon_push_env
{
	int64_t		(*now_ms) (void *arg);	/* a clock that never goes back */
	uint32_t	(*random) (void *arg);
	void		(*log) (void *arg, const char *text);

	/*
	 * Until a socket is ready, the caller has other reasons to go on (a latch), or timeout_ms is over.  The caller handles
	 * its interrupts here.
	 */
	void		(*wait) (void *arg, neon_push_socket *sockets, int n, int timeout_ms);

	/* NORMAL only, else NULL: raw WAL bytes below may be sent; and reading them.  false: no longer here. */
	neon_lsn	(*wal_available) (void *arg);
	bool		(*wal_read) (void *arg, neon_lsn begin, uint8_t *to, size_t len);

	/* NORMAL only: news.  They may not call back into this library. */
	void		(*elected) (void *arg, neon_term term, neon_lsn term_start);
	void		(*committed) (void *arg, neon_lsn commit_lsn);
} neon_push_env;

typedef struct neon_push_config
{
	const char *safekeepers;	/* id=connstring;id=connstring... */

	/* n_acceptors and acceptor_ids are filled in from safekeepers. */
	neon_proposer_config core;
} neon_push_config;

typedef enum neon_push_state
{
	NEON_PUSH_RUNNING,
	NEON_PUSH_FINISHED,			/* SYNC: x and last_record_start are known */
	NEON_PUSH_FATAL				/* fatal and detail say why */
} neon_push_state;

typedef struct neon_wal_push neon_wal_push;

/* NULL with a text in error (NEON_PUSH_TEXT_BYTES) when the configuration makes no sense or memory is short. */
extern neon_wal_push *neon_push_create(const neon_push_config *config, const neon_push_env *env, void *env_arg, char *error);
extern void neon_push_free(neon_wal_push *push);

/* One turn: do what can be done, then wait at most max_wait_ms. */
extern neon_push_state neon_push_turn(neon_wal_push *push, int max_wait_ms);

extern neon_proposer_fatal neon_push_fatal_reason(const neon_wal_push *push);
extern const char *neon_push_fatal_detail(const neon_wal_push *push);
extern void neon_push_result(const neon_wal_push *push, neon_lsn *x, neon_lsn *last_record_start);

/* For people: what keeps each safekeeper away, one after the other. */
extern void neon_push_describe(const neon_wal_push *push, char *text, size_t cap);

#endif							/* NEON_WAL_PUSH_H */
