/*
 * ps_redo_process.h - the redo process as a backend sees it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PS_REDO_PROCESS_H
#define NEON_PS_REDO_PROCESS_H

#include "ps.h"

/* neon_pageserver.redo_timeout */
extern int	ps_redo_timeout_ms;

/*
 * Apply n records, oldest first, to the page (an all-zero page counts as none).  False with a reason, valid until the next
 * call, when a record does not apply; the page is then unchanged.  ERROR when no process can be had, or it does not answer in time.
 */
extern bool ps_redo_process_apply(const neon_key *key, const PsVersion *const *records, int n, char page[BLCKSZ],
								  const char **reason);

/* Pid of this backend's process, 0 if none: for tests. */
extern pid_t ps_redo_process_pid(void);

/* ---- ps_redo_directory.c: the data directory a redo process starts on ---- */
/* Makes it and returns its path, palloc'd; ERROR on failure. */
extern char *ps_redo_directory_make(void);
extern void ps_redo_directory_remove(const char *path);

#endif							/* NEON_PS_REDO_PROCESS_H */
