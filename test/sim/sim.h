/*
 * sim.h - the simulated cluster: acceptor nodes, computes, and a checker that sees everything.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SIM_H
#define SIM_H

#include "neon_acceptor.h"
#include "neon_proposer.h"
#include "neon_desim.h"

#define SIM_MAX_ACCEPTORS	5
#define SIM_MAX_COMPUTES	48
#define SIM_MAX_TERMS		4000
#define SIM_SEGMENT_BYTES	4096
#define SIM_WAL_START		((neon_lsn) SIM_SEGMENT_BYTES * 3)	/* where the timeline begins */
#define SIM_WAL_BYTES		(192 * 1024)	/* room for WAL in one run */
#define SIM_WAL_END			(SIM_WAL_START + SIM_WAL_BYTES)
#define SIM_WAL_RESERVE		(24 * 1024) /* kept for the proof of progress at the end */
#define SIM_RECORD_MAX		(5 * 1024)
#define SIM_APPEND_BYTES	512
#define SIM_INFLIGHT_BYTES	1024	/* below the largest record */

typedef struct sim_world sim_world;

/* ---- WAL of the simulation: records with a length, a checksum over their content and position, and a back link ---- */

extern size_t sim_record_make(neon_sim *sim, neon_lsn lsn, neon_lsn prev, uint32_t writer, uint8_t *out);
/* base holds WAL from SIM_WAL_START on; is there a whole record at lsn below limit? */
extern bool sim_record_at(const uint8_t *base, neon_lsn lsn, neon_lsn limit, neon_lsn *end, neon_lsn *prev);

/* ---- an acceptor node ---- */

typedef struct sim_node
{
	sim_world  *w;
	int			index;
	bool		exists;			/* the timeline was created here */
	bool		up;
	uint64_t	incarnation;
	neon_acceptor acceptor;

	/* the disk */
	neon_sim_disk wal;
	neon_configuration conf;
	neon_term	term;
	neon_term_history history;
	neon_lsn	commit_lsn;
	neon_lsn	truncate_lsn;

	/* memory */
	neon_lsn	write_lsn;
	neon_lsn	written_record_lsn;
	neon_lsn	written_record_start;
	neon_lsn	flush_record_lsn;
	neon_lsn	flush_record_start;
	bool		crash_now;		/* storage decided so in the middle of a call */
	struct session *sessions;	/* all there ever were: events may still point to them */
} sim_node;

extern void sim_node_init(sim_node *n, sim_world *w, int index, const neon_configuration *conf);
extern void sim_node_free(sim_node *n);
extern void sim_node_start(sim_node *n);
extern void sim_node_crash(sim_node *n, const char *why);
extern bool sim_node_accept(sim_node *n, neon_sim_conn *conn);
extern void sim_node_message(sim_node *n, neon_sim_conn *conn, const uint8_t *bytes, size_t len);
extern void sim_node_closed(sim_node *n, neon_sim_conn *conn);
/* What the controller does: give a configuration, raise the term, make this node a copy of another. */
extern bool sim_node_configure(sim_node *n, const neon_configuration *conf);
extern bool sim_node_raise_term(sim_node *n, neon_term term);
extern bool sim_node_pull(sim_node *n, const sim_node *from, const neon_configuration *conf, neon_term term);
/* Its storage; and: set all positions to a record end, found from the beginning of the log. */
extern const neon_acceptor_storage sim_storage;
extern void sim_storage_position(sim_node *n, neon_lsn to);
/* What a donor serves to a proposer that recovers a laggard. */
extern const uint8_t *sim_node_read(sim_node *n, neon_term term, neon_lsn begin, neon_lsn end);

/* ---- a compute: sync election, pause for the base backup, election, WAL ---- */

typedef enum sim_stage
{
	SIM_DEAD,
	SIM_SYNC,
	SIM_BACKUP,
	SIM_RUN
} sim_stage;

typedef struct sim_fetch
{
	bool		underway;
	bool		ready;
	neon_lsn	begin;
	neon_lsn	end;
	uint8_t		bytes[SIM_APPEND_BYTES];
} sim_fetch;

typedef struct sim_compute
{
	sim_world  *w;
	int			index;
	sim_stage	stage;
	uint64_t	epoch;			/* raised with every proposer and at death: older events are void */
	neon_proposer p;
	neon_sim_conn *conn[SIM_MAX_ACCEPTORS];
	sim_fetch	fetch[SIM_MAX_ACCEPTORS];
	neon_lsn	x;
	neon_lsn	last_record_start;	/* of the record before local_end */
	neon_lsn	record_end;		/* end of the last complete local record */
	uint8_t		wal[SIM_WAL_BYTES + SIM_RECORD_MAX];
	neon_lsn	available;		/* raw bytes flushed locally; may end in a record */
	neon_term	won_term;
	neon_lsn	committed;
	uint64_t	phase_since_us;
	uint64_t	ticks;
} sim_compute;

extern void sim_compute_start(sim_world *w);
extern void sim_compute_kill(sim_compute *c, const char *why);
extern void sim_compute_restart_proposer(sim_compute *c);
extern void sim_compute_connected(sim_compute *c, neon_sim_conn *conn);
extern void sim_compute_message(sim_compute *c, neon_sim_conn *conn, const uint8_t *bytes, size_t len);
extern void sim_compute_closed(sim_compute *c, neon_sim_conn *conn);

/* ---- the controller: changes of membership, one after the other ---- */

typedef enum sim_change_step
{
	SIM_CHANGE_NONE,
	SIM_CHANGE_OLD,				/* joint configuration to a majority of the old members */
	SIM_CHANGE_PULL,			/* new members become copies of the most advanced old one */
	SIM_CHANGE_NEW,				/* a majority of the new members has the joint configuration and what was committed */
	SIM_CHANGE_FINAL			/* the final configuration, to everybody in it */
} sim_change_step;

typedef struct sim_controller
{
	sim_world  *w;
	sim_change_step step;
	neon_configuration conf;	/* newest; joint between OLD and NEW */
	uint64_t	got_old;		/* nodes that took the joint configuration */
	neon_term	sync_last_term;
	neon_lsn	sync_flush;
	neon_term	sync_term;
	uint64_t	changes;
} sim_controller;

extern void sim_controller_start(sim_world *w, const neon_configuration *conf);
extern bool sim_controller_idle(const sim_controller *t);

/* ---- the broker: what nodes hear of each other ---- */

extern void sim_gossip_start(sim_world *w);
extern void sim_gossip_free(sim_world *w);

/* ---- the checker ---- */

/* The log of a term's leader: what it took over, and what it wrote. */
typedef struct sim_log
{
	int			compute;
	neon_lsn	end;
	neon_lsn	committed;		/* in this term */
	uint8_t    *bytes;
	uint8_t    *record_end;		/* a byte for every 8 bytes of WAL */
} sim_log;

typedef struct sim_check
{
	sim_log		logs[SIM_MAX_TERMS];
	uint8_t		committed[SIM_WAL_BYTES + SIM_RECORD_MAX];
	neon_lsn	committed_end;
	uint64_t	elections;
	uint64_t	commits;
	uint64_t	truncations;
	uint64_t	learnt;			/* commit_lsn from peers, believed */
	uint64_t	torn;			/* raw bytes that ended in the middle of a record, at an acceptor's restart */
} sim_check;

extern void sim_check_init(sim_check *k);
extern void sim_check_free(sim_check *k);
extern void sim_check_elected(sim_compute *c);
extern void sim_check_written(sim_compute *c, neon_lsn begin, neon_lsn end, neon_lsn last_record_start);
extern void sim_check_committed(sim_compute *c, neon_lsn lsn);
extern void sim_check_finished(sim_compute *c, neon_lsn x, neon_lsn last_record_start);
extern void sim_check_node(sim_node *n);
extern void sim_check_truncate(sim_node *n, neon_lsn to);

/* ---- the world ---- */

struct sim_world
{
	uint64_t	seed;
	neon_sim   *sim;
	neon_sim_net *net;
	int			n_nodes;
	int			n_computes;
	sim_node   *nodes[SIM_MAX_ACCEPTORS];
	sim_compute *computes[SIM_MAX_COMPUTES];
	sim_check	check;
	sim_controller controller;
	bool		membership;		/* members change in this run */
	bool		narrow;			/* computes often see only some of the nodes */
	bool		tails;			/* computes leave long tails on one node and die in the middle of recoveries */
	bool		faults;			/* crashes and failures may happen */
	uint32_t	storage_fault_per_10000;
	neon_lsn	write_limit;	/* computes stop writing here */
	uint32_t	restart_low_ms;
	uint64_t	gossip_state;	/* of its random numbers */
	struct sim_claim *claims;
};

#define SIM_COMPUTE_NODE(index)	(SIM_MAX_ACCEPTORS + (index))

extern void sim_fail(sim_world *w, const char *fmt,...) __attribute__((format(printf, 2, 3), noreturn));

#endif							/* SIM_H */
