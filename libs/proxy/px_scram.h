/*
 * px_scram.h - SCRAM-SHA-256 (RFC 5802, 7677), both sides, without a password.
 *
 * Towards a client the proxy is the server and knows the role's secret (salt, StoredKey, ServerKey).  The proof the client sends
 * gives ClientKey away to who knows StoredKey; with ClientKey and ServerKey the proxy then is the client towards the compute.
 * Only hashes are of a library (libcrypto).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PX_SCRAM_H
#define PX_SCRAM_H

#include "neon_core.h"

#define PX_KEY_BYTES			32
#define PX_SCRAM_NONCE_BYTES	18		/* raw; 24 characters */
#define PX_SCRAM_MAX_NONCE		128		/* characters, of either side */
#define PX_SCRAM_MAX_SALT		64		/* raw bytes */
#define PX_SCRAM_MAX_MESSAGE	1024	/* as the server's own limit */
#define PX_SCRAM_MIN_ITERATIONS	1
#define PX_SCRAM_MAX_ITERATIONS	100000	/* of a secret; more would block the loop when a password comes in clear */

typedef struct px_secret
{
	uint32_t	iterations;
	uint8_t		salt[PX_SCRAM_MAX_SALT];
	uint32_t	salt_len;
	uint8_t		stored_key[PX_KEY_BYTES];
	uint8_t		server_key[PX_KEY_BYTES];
} px_secret;

/* What a client needs that has no password. */
typedef struct px_keys
{
	uint8_t		client_key[PX_KEY_BYTES];
	uint8_t		server_key[PX_KEY_BYTES];
} px_keys;

/* "SCRAM-SHA-256$iterations:salt$stored:server" */
extern bool px_secret_parse(const char *text, px_secret *secret);
extern bool px_secret_print(const px_secret *secret, char *text, size_t cap);

/* A secret that nobody's password matches, the same every time for the same name: so that what does not exist looks like what does. */
extern void px_secret_fake(const uint8_t seed[32], const char *endpoint, const char *role, px_secret *secret);

/* A secret from a (prepared) password. */
extern bool px_secret_make(const char *password, const uint8_t *salt, size_t salt_len, uint32_t iterations, px_secret *secret, px_keys *keys);

/* Whether the (prepared) password is the secret's; gives the keys. */
extern bool px_secret_check(const px_secret *secret, const char *password, px_keys *keys);

/* ---- as the server ---- */
typedef struct px_scram_server
{
	char		binding;		/* 'n', 'y', 'p' of the client's first message */
	char		nonce[2 * PX_SCRAM_MAX_NONCE + 1];	/* the client's and ours */
	char		first_bare[PX_SCRAM_MAX_MESSAGE];
	char		server_first[PX_SCRAM_MAX_MESSAGE];
} px_scram_server;

typedef enum px_scram_result
{
	PX_SCRAM_OK,
	PX_SCRAM_MALFORMED,
	PX_SCRAM_NO_MATCH,			/* wrong password */
	PX_SCRAM_BINDING			/* channel binding does not match */
} px_scram_result;

/* plus: the mechanism is SCRAM-SHA-256-PLUS; can_bind: it was offered.  The answer is s->server_first. */
extern px_scram_result px_scram_server_first(px_scram_server *s, const char *msg, size_t len, bool plus, bool can_bind,
											 const px_secret *secret, const uint8_t nonce[PX_SCRAM_NONCE_BYTES]);

/* binding: hash of our certificate, for 'p'.  On success the answer (server-final) and the client's keys. */
extern px_scram_result px_scram_server_final(const px_scram_server *s, const char *msg, size_t len, const px_secret *secret,
											 const uint8_t *binding, size_t binding_len, px_keys *keys, char *answer, size_t cap);

/* ---- as the client, with keys ---- */
typedef struct px_scram_client
{
	char		nonce[PX_SCRAM_NONCE_BYTES * 2];
	uint8_t		server_signature[PX_KEY_BYTES];
} px_scram_client;

extern size_t px_scram_client_first(px_scram_client *c, const uint8_t nonce[PX_SCRAM_NONCE_BYTES], char *out, size_t cap);
extern size_t px_scram_client_final(px_scram_client *c, const px_keys *keys, const char *server_first, size_t len, char *out, size_t cap);
extern bool px_scram_client_check(const px_scram_client *c, const char *server_final, size_t len);

/* ---- base64 of RFC 4648, with padding, strict ---- */
extern size_t px_base64_encode(const uint8_t *in, size_t n, char *out, size_t cap);	/* 0 when it does not fit */
extern bool px_base64_decode(const char *in, size_t n, uint8_t *out, size_t cap, size_t *len);

#endif							/* PX_SCRAM_H */
