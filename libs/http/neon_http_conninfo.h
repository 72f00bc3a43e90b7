/*
 * neon_http_conninfo.h - from a client's connection string to libpq keywords for a socket of our own.
 *
 * Pure C over libpq's parser of connection strings.  Values are malloc'ed and wiped when they are freed: passwords are among them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_HTTP_CONNINFO_H
#define NEON_HTTP_CONNINFO_H

#include <stdbool.h>
#include <stddef.h>

#define NH_MAX_KEYWORDS 24

/* Where to connect: libpq keywords. */
typedef struct NhTarget
{
	const char *keyword[NH_MAX_KEYWORDS + 1];
	char	   *value[NH_MAX_KEYWORDS + 1];
	int			n;
} NhTarget;

extern bool nh_target_add(NhTarget *target, const char *keyword, const char *value);	/* copies; false: no memory, or too many */
extern void nh_target_free(NhTarget *target);
extern bool nh_target_set_password(NhTarget *target, const char *password);

/* NULL, or what is wrong with it.  `password` takes the place of the string's own; the address is always the socket. */
extern const char *nh_target_from_uri(NhTarget *target, const char *uri, const char *password, const char *socket_directory, int port);

/* The endpoint and the role that a target means, as the controller knows them; false: it names no endpoint. */
extern bool nh_target_names(const NhTarget *target, char *endpoint, size_t size, const char **role);

/* The first label of a host name, when it can name an endpoint; false for addresses and localhost. */
extern bool nh_endpoint_label(const char *host, char *label, size_t size);

/* Memory that held a secret. */
extern void nh_free_secret(char *s);

#endif							/* NEON_HTTP_CONNINFO_H */
