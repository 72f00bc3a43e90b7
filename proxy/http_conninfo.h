/*
 * http_conninfo.h - where the controller is, as libpq keywords.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_CONNINFO_H
#define HTTP_CONNINFO_H

#include "http_pg.h"

/* User and password may be NULL for those of neon_proxy.controller_connstring.  NULL, or what is wrong. */
extern const char *hp_target_controller(HpTarget *target, const char *user, const char *password);

#endif							/* HTTP_CONNINFO_H */
