/*
 * console_redirect.h - a client without a password is given a link, and waits until a person confirms on the console page.
 *
 *	   1. answer = PX_CONSOLE_CREATE with the client's address; px_console_created() takes it apart
 *	   2. a NOTICE with px_console_link(): the client opens it in a browser
 *	   3. PX_CONSOLE_POLL with the id, every PX_CONSOLE_AGAIN_MS, while the client waits: NULL until it is confirmed; an ERROR when
 *		  the time (two minutes) is over.  Otherwise px_console_confirmed() says where to connect: as any client, with that password.
 *
 * The id is a secret between proxy and controller: it never goes to the client.  Nothing here waits or throws.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PX_CONSOLE_REDIRECT_H
#define PX_CONSOLE_REDIRECT_H

#define PX_CONSOLE_CREATE "SELECT neon_controller.console_login_create($1)"
#define PX_CONSOLE_POLL "SELECT neon_controller.console_login_poll($1)"
#define PX_CONSOLE_AGAIN_MS 500

typedef struct PxConsoleCreated
{
	char		id[80];
	char		code[32];
} PxConsoleCreated;

typedef struct PxConsoleConfirmed
{
	char		endpoint[80];	/* external id */
	char		user[64];
	char		password[128];
	char		database[64];
} PxConsoleConfirmed;

/* False: the controller's answer is not what it should be. */
extern bool px_console_created(const char *answer, PxConsoleCreated *created);
extern bool px_console_confirmed(const char *answer, PxConsoleConfirmed *confirmed);

/* "http://.../console#login=CODE", from neon_proxy.console_url */
extern void px_console_link(char *to, size_t size, const char *console_url, const char *code);

#endif							/* PX_CONSOLE_REDIRECT_H */
