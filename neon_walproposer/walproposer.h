/*
 * walproposer.h - what the files of neon_walproposer share.  Include postgres.h first.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_WALPROPOSER_H
#define NEON_WALPROPOSER_H

#include "port/atomics.h"
#include "storage/latch.h"

#include "neon_compute_shared.h"
#include "neon_pgpatch.h"

#define WP_SECRET_BYTES	16
#define WP_SECRET_TEXT	(2 * WP_SECRET_BYTES + 1)
#define WP_STARTUP_OPTION	"neon.proposer_key"	/* of the startup packet; never a GUC */
#define WP_APPLICATION_NAME	"walproposer"

/* Words of shared memory that only this module uses. */
typedef struct WalProposerShared
{
	char		secret[WP_SECRET_TEXT]; /* written once, by the postmaster, before any child exists */
	Latch	   *proposer_latch; /* valid while compute->proposer_pid is not 0 */
	uint32		stop_requested; /* set by the launcher when the postmaster stops the backends */
	uint64		won_term;		/* the term a proposer of this server has won last, 0 for none */
	uint32		fatal;			/* the proposer has asked the postmaster for an immediate stop */
	uint32		slots;			/* entries of want[] */
	pg_atomic_uint64 want[FLEXIBLE_ARRAY_MEMBER];	/* by pgprocno: LSN a commit waits for, 0 when it does not */
} WalProposerShared;

/* neon_walproposer.c */
extern char *wp_safekeepers;
extern char *wp_start_lsn_text;
extern int	wp_drain_timeout_ms;
extern uint64 wp_start_lsn;
extern neon_compute_shared *wp_compute;
extern WalProposerShared *wp_shared;
extern const char *wp_setting(const char *name);

/* commit_wait.c */
extern Size wp_commit_wait_slots(void);
extern bool wp_install_detours(neon_pgpatch_report *report);
extern void wp_release_commits(uint64 commit_lsn);
extern bool wp_commits_wait(void);

/* wal_keep.c */
extern void wp_compute_required_lsn(void);
extern void wp_keep_wal_from(uint64 commit_lsn);

/* launcher.c */
extern void wp_register_launcher(void);
extern PGDLLEXPORT void neon_walproposer_launcher_main(Datum arg);

/* proposer.c */
extern void wp_install_takeover(void);

#endif							/* NEON_WALPROPOSER_H */
