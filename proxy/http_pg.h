/*
 * http_pg.h - statements on a pooled database connection, without waiting: what the SQL and console handlers use.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_PG_H
#define HTTP_PG_H

#include <libpq-fe.h>

#include "http_worker.h"
#include "neon_http_sql.h"

/* Where to connect: the pool is found by all keywords together, the password included. */
typedef NhTarget HpTarget;
typedef NhStatement HpStatement;

typedef enum HpFormat
{
	HP_OBJECTS,					/* rows as {"column": value} */
	HP_ARRAYS,					/* rows as [value, ...] */
	HP_VALUE					/* the first column of the first row, as it is: a function's json */
} HpFormat;

typedef struct HpConn HpConn;

typedef struct HpJob HpJob;
struct HpJob
{
	/* set by the caller, who owns the job until hp_submit() */
	HpTarget	target;
	HpStatement *statements;
	int			nstatements;
	bool		batch;			/* {"results": [...]}, all in one transaction */
	char		begin[128];		/* how that begins */
	HpFormat	format;
	bool		raw_text;		/* every value is a string */
	bool		pooled;
	uint64_t	deadline_ms;
	void		(*done) (HpJob *job, void *arg);	/* called once, unless cancelled; the job is freed after it */
	void	   *arg;

	/* the outcome: JSON of the rows, or of the error */
	bool		ok;
	int			status;			/* of HTTP */
	char		sqlstate[6];
	NhBuf		out;

	/* the pool's (http_pool.h) and http_result.c's own */
	HpJob	   *next;
	HpConn	   *conn;
	uint8_t		key[32];
	int			at;				/* of what was sent: BEGIN, statements, COMMIT */
	bool		row_seen;
	bool		head_written;
	bool		failed;
	bool		give_up;		/* the connection is of no use any more */
};

extern HpJob *hp_job(int nstatements);
extern HpJob *hp_job_with(HpStatement *statements, int nstatements);	/* takes them over; NULL: no memory, and they are still the caller's */
extern void hp_submit(HpJob *job);
extern void hp_cancel(HpJob *job);	/* frees it; done() will not be called */
extern void hp_job_free(HpJob *job);	/* one that was never submitted */

/* figures for /metrics */
typedef struct HpFigures
{
	uint64_t	connects;
	uint64_t	connect_failures;
	uint64_t	reuses;
	uint64_t	statements;
	uint64_t	errors;
	uint64_t	timeouts;
	uint64_t	cancels;
	int			connections;
	int			idle;
	int			waiting;
} HpFigures;

extern HpFigures hp_figures;

/* ---- http_result.c: results and errors as JSON ---- */

/* What a result says of statement job->at. */
extern void hp_result(HpJob *job, const PGresult *res);

/* The job fails: a message of our own. */
extern void hp_fail(HpJob *job, int status, const char *sqlstate, const char *message);

/* The connection could not be made, or broke: what libpq has to say, which may be what the server said. */
extern void hp_fail_connection(HpJob *job, PGconn *pg);

/* The value begins and ends. */
extern void hp_begin_output(HpJob *job);
extern void hp_end_output(HpJob *job);

#endif							/* HTTP_PG_H */
