/*
 * neon_http_sql.h - POST /sql: what a request's body and headers say, in the words of the npm package @neondatabase/serverless.
 *
 *	   Neon-Connection-String: postgresql://user:password@endpoint.domain/database
 *	   {"query": "SELECT $1::int", "params": [1]}		or {"queries": [{"query": ..., "params": ...}, ...]}
 *
 * Pure C over jansson and libpq's parser of connection strings; memory is malloc's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_HTTP_SQL_H
#define NEON_HTTP_SQL_H

#include "neon_http_conninfo.h"
#include "neon_http_json.h"

#define NH_MAX_BODY_BYTES (10 * 1024 * 1024)
#define NH_MAX_SECRET_BYTES 8192	/* a connection string, a token */
#define NH_MAX_STATEMENTS 1000
#define NH_MAX_PARAMS 65535
#define NH_MAX_VALUES 1000000	/* in a body: each costs up to 250 bytes while it is read */

typedef struct NhStatement
{
	char	   *sql;
	int			nparams;
	char	  **params;			/* NULL is SQL's */
} NhStatement;

typedef struct NhSql
{
	NhStatement *statements;
	int			nstatements;
	bool		batch;			/* several, in one transaction */
	char		begin[128];		/* how that begins */
	bool		raw_text;		/* every value is a string */
	bool		arrays;			/* rows as arrays, not objects */
	bool		pooled;
} NhSql;

/* A header's value, by its name in lower case; NULL: there is none. */
typedef const char *(*NhHeader) (void *arg, const char *name);

/* JSON of a client, of at most NH_MAX_VALUES; NULL with the reason. */
struct json_t;

extern struct json_t *nh_json_load(const char *data, size_t len, const char **wrong);

/* The body.  NULL, or what is wrong; to be freed in either case. */
extern const char *nh_sql_body(NhSql *sql, const char *data, size_t len);
extern void nh_sql_free(NhSql *sql);
extern void nh_statements_free(NhStatement *statements, int n);

/* The headers: how results are wanted, how a transaction begins.  NULL, or what is wrong. */
extern const char *nh_sql_headers(NhSql *sql, NhHeader header, void *arg);

/* Where to, and a token in place of a password (malloc'ed, or NULL).  NULL, or what is wrong. */
extern const char *nh_sql_target(NhTarget *target, char **bearer, NhHeader header, void *arg, const char *socket_directory, int port);

#endif							/* NEON_HTTP_SQL_H */
