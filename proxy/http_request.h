/*
 * http_request.h - between the files that serve HTTP: http_server.c, http_listen.c, http_request.c, http_answer.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_REQUEST_H
#define HTTP_REQUEST_H

#include "http_server.h"

#define HT_PIECE_BYTES (64 * 1024)

struct lws_vhost;

/* ---- http_request.c ---- */
extern HtRequest *ht_request_new(struct lws *wsi, const char *path, size_t path_len);	/* NULL: no memory */
extern void ht_request_free(HtRequest *request);
extern void ht_client_address(struct lws *wsi, char *to, size_t size);

/* ---- http_answer.c ---- */
extern int	ht_send_some(HtRequest *request, bool *sent);	/* -1: close; `sent`: that was all of it */

/* ---- http_listen.c ---- */
extern void ht_listen(struct lws_vhost *host);	/* FATAL when that fails */
extern void ht_connection_destroyed(struct lws *wsi);

#endif							/* HTTP_REQUEST_H */
