/*
 * proxy_admin.h - between the files of the console: proxy_admin.c (what is asked), proxy_command.c (what is done).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PROXY_ADMIN_H
#define PROXY_ADMIN_H

#include "px.h"

/* ---- proxy_admin.c: answers; false: the client is gone ---- */
extern bool px_admin_complain(PxClient *c, const char *sqlstate, const char *message, const char *hint, bool ready);
extern bool px_admin_complete(PxClient *c, const char *tag);
extern void px_admin_resume(PxClient *c);	/* what it sent while it waited */

/* ---- proxy_command.c ---- */
extern bool px_command(PxClient *c, const char *verb, const char *name);
extern bool px_command_waits(const PxClient *c);
extern void px_command_closed(PxClient *c);
extern void px_command_tick(void);

#endif							/* PROXY_ADMIN_H */
