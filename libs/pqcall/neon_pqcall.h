/*
 * neon_pqcall.h - libpq for code that runs inside a server: every wait is interruptible and has a limit.
 *
 * A connection belongs to the memory context that was current when it was made: an error or the end of the
 * query closes it.  Remote errors are thrown again with their SQLSTATE, detail and hint.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PQCALL_H
#define NEON_PQCALL_H

#include <libpq-fe.h>

/* `who` names the other side in messages ("pageserver", "endpoint \"dev\"").  ERROR 08001 when it cannot be reached. */
extern PGconn *neon_pq_connect(const char *conninfo, const char *who, int timeout_ms);

/* Runs one statement; ERROR unless it gives rows, a command tag or COPY.  timeout_ms 0 waits for as long as nobody cancels. */
extern PGresult *neon_pq_query(PGconn *conn, const char *who, const char *sql,
							   int nparams, const char *const *params, int timeout_ms);

/* One CopyData message; NULL at its end.  Free with PQfreemem. */
extern char *neon_pq_get_copy(PGconn *conn, const char *who, int *len, int timeout_ms);

/* Waits for what the command answers after COPY; ERROR if it failed. */
extern void neon_pq_finish_copy(PGconn *conn, const char *who, int timeout_ms);

#endif							/* NEON_PQCALL_H */
