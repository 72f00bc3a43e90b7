/*
 * px_wire.h - the PostgreSQL protocol, version 3, as a proxy sees it: heads of messages, startup packets, errors.
 *
 * Pure C.  Nothing here copies or allocates: results point into the caller's bytes, writers write into the caller's buffer.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PX_WIRE_H
#define PX_WIRE_H

#include "neon_core.h"

#define PX_HEAD_BYTES			5		/* type, length */
#define PX_MAX_STARTUP_BYTES	10000	/* as the server's own limit */
#define PX_MAX_STARTUP_PAIRS	64
#define PX_MAX_EXTENSIONS		8
#define PX_MAX_MESSAGE_BYTES	0x3fffffff	/* 1 GB, as the server */

/* Messages that a proxy looks into or makes. */
typedef struct px_head
{
	uint8_t		type;
	uint32_t	len;			/* of the whole message, with type and length word */
} px_head;

/* false: the length is impossible.  There must be PX_HEAD_BYTES. */
extern bool px_head_parse(const uint8_t *p, px_head *head);

/* Whether a client, or a server, sends messages of this type after authentication. */
extern bool px_client_type(uint8_t type);
extern bool px_server_type(uint8_t type);

/* ---- the first packet ---- */
typedef enum px_first
{
	PX_FIRST_MORE,				/* it is not complete */
	PX_FIRST_BAD,				/* not the protocol */
	PX_FIRST_STARTUP,
	PX_FIRST_SSL,
	PX_FIRST_GSS,
	PX_FIRST_CANCEL
} px_first;

typedef struct px_pair
{
	const char *name;
	const char *value;
} px_pair;

typedef struct px_startup
{
	px_first	kind;
	uint32_t	len;			/* bytes of the packet */
	uint16_t	minor;			/* of protocol 3 */
	uint64_t	cancel_key;		/* pid and secret */
	int			npairs;
	int			nextensions;	/* names that begin with _pq_. */
	const char *extension[PX_MAX_EXTENSIONS];
	px_pair		pair[PX_MAX_STARTUP_PAIRS];
	const char *user;
	const char *database;		/* the user when absent */
	const char *options;		/* NULL when absent */
	const char *replication;	/* NULL when absent or off */
	const char *why;			/* when bad: a message for the log */
} px_startup;

extern px_first px_startup_parse(const uint8_t *p, size_t len, px_startup *out);

/* ---- options: words separated by spaces, \ quotes one character, as the server splits them ---- */
typedef struct px_options
{
	char		endpoint[80];	/* endpoint=NAME; empty when absent */
	bool		ask_password;	/* auth=password: a cleartext password is wanted */
	bool		ask_redirect;	/* auth=console: a link in a notice */
	bool		ok;				/* false: too long, or given twice with different values */
	size_t		rest_len;		/* what is for the server, still quoted */
} px_options;

extern void px_options_parse(const char *options, px_options *out, char *rest, size_t rest_cap);

/* ---- messages of the proxy itself; they return the length, 0 when it does not fit ---- */
typedef struct px_error
{
	const char *severity;		/* ERROR, FATAL, NOTICE */
	const char *sqlstate;
	const char *message;
	const char *detail;			/* NULL: none */
	const char *hint;
} px_error;

extern size_t px_put_error(uint8_t *buf, size_t cap, const px_error *e);	/* 'N' when the severity is NOTICE or WARNING */
extern size_t px_put_message(uint8_t *buf, size_t cap, char type, const void *body, size_t len);
extern size_t px_put_pair(uint8_t *buf, size_t cap, const char *name, const char *value);	/* ParameterStatus */
extern size_t px_put_auth(uint8_t *buf, size_t cap, uint32_t code, const void *body, size_t len);
extern size_t px_put_key(uint8_t *buf, size_t cap, uint64_t key);
extern size_t px_put_ready(uint8_t *buf, size_t cap, char status);
extern size_t px_put_cancel(uint8_t *buf, size_t cap, uint64_t key);

/* Finds a field ('C' sqlstate, 'M' message, 'S' severity) of an ErrorResponse's body; NULL when absent or malformed. */
extern const char *px_error_field(const uint8_t *body, size_t len, char field);

/* Splits a ParameterStatus body; false when malformed. */
extern bool px_parse_pair(const uint8_t *body, size_t len, px_pair *pair);

/* ---- bodies of the messages that answer a request for authentication ---- */
#define PX_MAX_PASSWORD_BYTES 20000

typedef struct px_sasl_initial
{
	const char *mechanism;
	const char *response;
	size_t		response_len;
} px_sasl_initial;

/* SASLInitialResponse: mechanism, length, response; false when malformed. */
extern bool px_sasl_initial_parse(const uint8_t *body, size_t len, px_sasl_initial *out);

/* PasswordMessage: one string, and nothing behind it. */
extern bool px_password_parse(const uint8_t *body, size_t len);

/* ---- extended protocol: the names at the front of Parse, Bind, Describe, Close ---- */
typedef struct px_named
{
	const char *portal;			/* Bind only */
	const char *statement;		/* Parse, Bind; Describe and Close of a statement; NULL when it is about a portal */
	uint32_t	rest;			/* offset in the message where what follows the statement's name begins */
} px_named;

typedef enum px_named_result
{
	PX_NAMED_OK,
	PX_NAMED_MORE,				/* the names do not end within these bytes */
	PX_NAMED_BAD
} px_named_result;

/* p: the message from its type byte on, as much of it as there is. */
extern px_named_result px_named_parse(const uint8_t *p, size_t have, const px_head *head, px_named *out);

/*
 * How many of these bytes are the first request of a client, so that it can be taken back: a simple query, or messages of the extended protocol up to
 * their Sync.  0: it is not there as a whole message yet.  `to_sync`: its Sync has not come, what comes until then belongs to it.
 */
extern size_t px_first_request(const uint8_t *p, size_t have, bool *to_sync);

#endif							/* PX_WIRE_H */
