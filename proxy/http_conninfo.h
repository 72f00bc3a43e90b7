/*
 * http_conninfo.h - from a client's connection string to libpq keywords for the proxy's own socket.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_CONNINFO_H
#define HTTP_CONNINFO_H

#include "http_pg.h"

/* NULL, or what is wrong with it.  `password` takes the place of the string's own. */
extern const char *hp_target_from_uri(HpTarget *target, const char *uri, const char *password);

extern bool hp_target_names(const HpTarget *target, char *endpoint, size_t size, const char **role);
extern bool hp_target_set_password(HpTarget *target, const char *password);

/* The controller; user and password may be NULL for those of neon_proxy.controller_connstring. */
extern const char *hp_target_controller(HpTarget *target, const char *user, const char *password);

/* The first label of a host name, when it can name an endpoint; false for addresses and localhost. */
extern bool hp_endpoint_label(const char *host, char *label, size_t size);

#endif							/* HTTP_CONNINFO_H */
