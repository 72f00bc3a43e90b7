/*
 * jwt.h - JSON web tokens in place of passwords.  For any worker of the proxy; nothing here waits.
 *
 *	   answer = SELECT neon_controller.proxy_jwt($1 endpoint's id, $2 role)		(NULL: tokens do not log in to that role)
 *	   px_jwt_verify(token, answer, role, &why)
 *		   PX_JWT_WAIT: the keys are being fetched (by the HTTP worker); ask again every PX_JWT_AGAIN_MS, for at most PX_JWT_LIMIT_MS
 *	   px_jwt_password(answer, ...): with it the proxy logs in to the compute as that role, like any client (SCRAM)
 *
 * A token must be RS256 or ES256, unexpired, and match issuer and audience where the controller names them; a claim "role" (or what the
 * controller says) must be the role when the token has it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PX_JWT_H
#define PX_JWT_H

#define PX_JWT_AGAIN_MS 100
#define PX_JWT_LIMIT_MS 10000

typedef enum PxJwtResult
{
	PX_JWT_OK,
	PX_JWT_WAIT,
	PX_JWT_BAD
} PxJwtResult;

/* `why` (never NULL after BAD) is for the log; a client is told no more than "invalid token". */
extern PxJwtResult px_jwt_verify(const char *token, const char *answer, const char *role, const char **why);

/* False: the answer has none, or it does not fit. */
extern bool px_jwt_password(const char *answer, char *password, size_t size);

/* Keys in shared memory; called while the library is loaded. */
extern void px_jwt_register(void);

#endif							/* PX_JWT_H */
