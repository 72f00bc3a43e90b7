/*
 * neon_http_request.h - what a client says before anybody knows who it is: session cookies, the marks of our own page, a login, the host that a
 * WebSocket is for.
 *
 * Pure C; nothing here waits or keeps anything.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_HTTP_REQUEST_H
#define NEON_HTTP_REQUEST_H

#include "neon_http_sql.h"

#define NH_SESSION_CHARS 64		/* of tokens and sessions: hexadecimal digits */
#define NH_MAX_FIELD_BYTES 256	/* of a login */
#define NH_MAX_CALL_CHARS 40
#define NH_MAX_HOST_BYTES 256

/* Content-Length; -1: not a number, or more than max. */
extern int64_t nh_content_length(const char *text, int64_t max);

extern bool nh_is_secret(const char *s);

/* The session in a Cookie header (NULL: no header), which has other cookies, too; false: there is none. */
extern bool nh_session_cookie(const char *cookies, const char *name, char session[NH_SESSION_CHARS + 1]);

/* Whether a call comes from our own page. */
extern bool nh_from_our_page(NhHeader header, void *arg);

/* A name of a call: lower-case letters and '_'. */
extern bool nh_call_name(const char *name);

/* A login: a token, or user and password; they point into the JSON.  false: neither. */
typedef struct NhLogin
{
	const char *token;			/* NULL: user and password */
	const char *user;
	const char *password;
} NhLogin;

extern bool nh_login(const struct json_t *body, NhLogin *login);

extern bool nh_websocket_path(const char *path);

/* A part of a WebSocket's query: ?address=host:port takes the place of the Host header. */
extern void nh_websocket_argument(const char *argument, char host[NH_MAX_HOST_BYTES]);

/* A PROXY protocol header, version 2: where the client is (text), the host that it asked for, and that it is to be asked for a password in clear. */
extern void nh_proxy_header(NhBuf *out, const char *address, const char *host);

#endif							/* NEON_HTTP_REQUEST_H */
