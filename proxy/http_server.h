/*
 * http_server.h - requests as the handlers see them.
 *
 * A request lives from its headers until it is answered and sent, or its client is gone.  A handler that answers later keeps the pointer and
 * sets `cancel`: when the client goes first, that is called once, and the pointer is dead afterwards.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_SERVER_H
#define HTTP_SERVER_H

#include "http_worker.h"

struct lws;

typedef enum HtMethod
{
	HT_GET,
	HT_HEAD,
	HT_POST,
	HT_OPTIONS,
	HT_OTHER
} HtMethod;

typedef struct HtRequest HtRequest;
struct HtRequest
{
	struct lws *wsi;
	HtMethod	method;
	char		path[256];
	char		address[HT_MAX_ADDRESS];	/* of the client */
	NhBuf		body;
	uint64_t	deadline_ms;

	/* the answer */
	bool		answered;
	bool		headers_sent;
	bool		close_after;	/* the rest of what the client sends is of no interest */
	bool		cors;
	int			status;
	const char *content_type;
	char		extra_headers[1024];	/* whole lines, each with CR LF */
	NhBuf		out;
	const char *out_static;		/* instead of out */
	size_t		out_len;
	size_t		out_sent;

	void		(*cancel) (HtRequest *request, void *arg);
	void	   *cancel_arg;
};

/* A header of the request; NULL when there is none.  For as long as the request is there. */
extern const char *ht_header(HtRequest *request, const char *lower_case_name);

/* Answer: takes the buffer over. */
extern void ht_answer(HtRequest *request, int status, const char *content_type, NhBuf *out);
extern void ht_answer_static(HtRequest *request, int status, const char *content_type, const char *data, size_t len);

/* {"message": ...}, as the driver reads it. */
extern void ht_answer_error(HtRequest *request, int status, const char *code, const char *message);

/* A line for the answer: name and value must be free of line ends. */
extern void ht_add_header(HtRequest *request, const char *name, const char *value);

/* ---- handlers ---- */
extern void ht_sql_request(HtRequest *request);	/* http_sql.c */
extern void ht_metrics_request(HtRequest *request);	/* http_metrics.c */
extern bool ht_console_request(HtRequest *request);	/* http_console.c; false: no such page */

/* WebSockets: http_ws.c.  What they return: 0, or -1 to close. */
typedef struct HtBridge HtBridge;
extern HtBridge *ht_ws_open(struct lws *wsi, const char *address, const char *host);
extern int	ht_ws_receive(HtBridge *bridge, const void *data, size_t len);
extern int	ht_ws_writable(HtBridge *bridge);
extern void ht_ws_closed(HtBridge *bridge);

#endif							/* HTTP_SERVER_H */
