/*
 * px_token.h - JSON web tokens: what may be believed of one.
 *
 * Pure C over libcjose and jansson: no clock, no I/O.  RS256 and ES256 only, each with a key of its own kind: a token cannot choose to be
 * checked in another way.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PX_TOKEN_H
#define PX_TOKEN_H

#include <cjose/cjose.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define PX_TOKEN_MAX_BYTES		8192
#define PX_TOKEN_LEEWAY_SECONDS	30	/* clocks differ */

typedef struct px_token
{
	cjose_jws_t *jws;
	char		alg[16];
	char		kid[256];		/* empty: none */
	json_t	   *claims;			/* to be believed after the signature */
} px_token;

/* `why` says what is wrong with it.  To be closed in either case. */
extern bool px_token_open(const char *text, px_token *t, const char **why);
extern void px_token_close(px_token *t);

/* NULL, or what is wrong with the claims for this issuer (the controller's row: issuer, audience, claim) and role, at this time. */
extern const char *px_token_wrong_claims(const px_token *t, const json_t *issuer, const char *role, int64_t now);

/* Whether a key of the document (a JWKS) signed it; `known`: there was one that could have. */
extern bool px_token_signed(const px_token *t, const char *document, bool *known);

#endif							/* PX_TOKEN_H */
