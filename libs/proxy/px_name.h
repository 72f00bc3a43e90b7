/*
 * px_name.h - which endpoint a client means: by host name, by option, by password.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PX_NAME_H
#define PX_NAME_H

#include "neon_core.h"

#define PX_NAME_BYTES	80			/* an external id: name of up to 63, '-', 8 hex digits, zero; and "-pooler" */

/* lower-case letters, digits, '-' and '_', beginning with a letter or digit */
extern bool px_name_valid(const char *name);

/*
 * Strips "-pooler" from an id that has it (main-1a2b3c4d-pooler); true when it did.  Only after eight hex digits, so that an endpoint
 * may be named so.
 */
extern bool px_name_strip_pooler(char *name);

/*
 * The first label of a host name as an endpoint, when the rest is what a certificate's wildcard stands for.  `pattern` is a name in
 * the certificate, for example "*.db.example.org".  Case does not matter; the result is lower case.
 */
extern bool px_host_endpoint(const char *host, const char *pattern, char name[PX_NAME_BYTES]);

/* Whether a certificate's name (with a wildcard as its first label, or without) covers the host. */
extern bool px_host_matches(const char *host, const char *pattern);

/*
 * "endpoint=NAME;PASSWORD", "endpoint=NAME$PASSWORD" or "NAME$PASSWORD": fills name, returns the password's offset.  0 when the password has
 * no such prefix.
 */
extern size_t px_password_prefix(const char *password, char name[PX_NAME_BYTES]);

/* Whether a list of words, separated by commas and spaces, has the word. */
extern bool px_in_list(const char *list, const char *word);

/* Three parts in base64url separated by dots, the first beginning with {" : a JSON web token */
extern bool px_looks_like_jwt(const char *password);

#endif							/* PX_NAME_H */
