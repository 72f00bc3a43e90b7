/*
 * http_bearer.h - a token in place of a password, for SQL over HTTP.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_BEARER_H
#define HTTP_BEARER_H

#include "http_pg.h"
#include "http_server.h"

/*
 * Takes job and token over.  When the token is good, the job's target has the role's password and `go` is called; otherwise the request is
 * answered.
 */
extern void ht_bearer(HtRequest *request, HpJob *job, char *token, void (*go) (HtRequest *request, HpJob *job));

/* A question to the controller: a function with parameters, which are copied.  NULL: answered with what is wrong. */
extern HpJob *ht_controller_job(HtRequest *request, const char *user, const char *password, const char *sql, int nparams,
								const char *const *params);

#endif							/* HTTP_BEARER_H */
