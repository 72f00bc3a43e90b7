/*
 * px.h - the structures of a worker: sockets, clients, servers, pools, endpoints.
 *
 * One thread, one loop, nothing blocks.  Everything here is memory of one worker, from malloc, and is named by plain pointers:
 * an object that is closed in the middle of a round of events is freed at the end of the round (px_defer_free), so that an event
 * that was fetched with it finds a closed socket and not a hole.
 *
 * A client's state says on which list it is, a server's too.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PX_H
#define PX_H

#include "lib/ilist.h"

#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "px_name.h"
#include "px_scram.h"
#include "px_wire.h"

#include "proxy_settings.h"
#include "proxy_shmem.h"

#define PX_READ_BYTES		65536	/* one read; the buffer is the worker's, not the connection's */
#define PX_SCRATCH_BYTES	16384	/* rewritten messages of one round */
#define PX_MAX_SAVED_BYTES	(PX_READ_BYTES)	/* that a waiting client may have sent */
#define PX_TRACKED			6		/* parameters that follow a client from server to server */
#define PX_MAX_QUEUE		4096	/* requests in flight on a server connection */

/* ---------------------------------------------------------------- sockets */

typedef enum PxSockKind
{
	PX_SOCK_LISTEN,
	PX_SOCK_SIGNAL,
	PX_SOCK_POSTMASTER,
	PX_SOCK_INBOX,
	PX_SOCK_CONTROLLER,			/* data of libpq, see proxy_controller.c */
	PX_SOCK_CLIENT,
	PX_SOCK_SERVER,
	PX_SOCK_CANCEL
} PxSockKind;

/* bytes that wait: for the kernel to take them, or for the rest of their message */
typedef struct PxBuf
{
	uint32		start;
	uint32		end;
	uint32		cap;
	uint8		data[FLEXIBLE_ARRAY_MEMBER];
} PxBuf;

typedef struct PxSock
{
	int			fd;				/* -1: closed */
	uint8		kind;
	bool		is_unix;		/* listen sockets */
	bool		reading;		/* we want to hear of input */
	bool		again;			/* on the list of sockets whose input is in memory already */
	uint32		mask;			/* what epoll was told */
	SSL		   *ssl;			/* NULL: plain */
	PxBuf	   *out;			/* NULL: nothing waits to be sent */
} PxSock;

/* ---------------------------------------------------------------- endpoints, roles: what the controller told */

typedef enum PxEndpointState
{
	PX_ENDPOINT_UNKNOWN,		/* the controller does not know it */
	PX_ENDPOINT_RUNNING,
	PX_ENDPOINT_ASLEEP			/* suspended, starting, stopped: to be woken before use */
} PxEndpointState;

typedef struct PxEndpoint
{
	dlist_node	lru;
	dlist_head	waiting;		/* PxLookup: who waits for an answer about it */
	dlist_head	pools;			/* PxPool */
	uint64		hash;
	char		name[PX_NAME_BYTES];	/* as it was asked for */
	char		id[PX_NAME_BYTES];	/* as the controller calls it; empty while nothing is known */
	char		host[256];
	char		timeline[56];	/* which server must answer there: a timeline, "@" and the LSN of a static endpoint */
	int			port;
	PxEndpointState state;
	int			pool_mode;		/* -1: the proxy's */
	int			pool_size;		/* 0: the proxy's */
	int			max_clients;	/* 0: the proxy's */
	int64		fetched_ms;		/* 0: never, or invalidated */
	bool		known;			/* an answer was had at some time */
	bool		asking;
	bool		waking;
	bool		outdated;		/* invalidated since it was asked about */
	int			users;			/* logins that point to it */
} PxEndpoint;

typedef struct PxRole
{
	dlist_node	lru;
	dlist_head	waiting;		/* PxLookup */
	uint64		hash;
	char		id[PX_NAME_BYTES];
	char		role[64];
	px_secret	secret;
	bool		exists;
	bool		known;
	bool		asking;
	bool		outdated;		/* invalidated since it was asked about */
	int			users;			/* logins that point to it */
	int64		fetched_ms;
	/* the last password that was right, keyed hash of it: spares the iterations */
	uint8		password_hash[32];
	px_keys		password_keys;
	bool		has_password;
} PxRole;

/* ---------------------------------------------------------------- pools */

typedef struct PxVars
{
	char	   *value[PX_TRACKED];	/* interned (px_intern), NULL: never named */
} PxVars;

/* What is counted by database of an endpoint; proxy_dbstats.c */
enum
{
	PX_DB_TRANSACTIONS, PX_DB_QUERIES, PX_DB_RECEIVED, PX_DB_SENT, PX_DB_TRANSACTION_US, PX_DB_QUERY_US, PX_DB_WAIT_US, PX_DB_COUNT
};

typedef struct PxDbStats
{
	struct PxDbStats *next;
	char	   *database;
	char	   *endpoint;
	int			pools;			/* that count here */
	int64		value[PX_DB_COUNT];
	int64		begin[PX_DB_COUNT];	/* of the period that averages are of */
	int64		end[PX_DB_COUNT];
} PxDbStats;

typedef struct PxPool
{
	dlist_node	node;			/* of all pools */
	dlist_node	by_endpoint;
	PxEndpoint *endpoint;
	char	   *database;
	char	   *user;
	char	   *extra;			/* further startup parameters: pairs of strings, ended by an empty one */
	uint32		extra_len;
	uint64		hash;
	uint64		quota_key;
	PxDbStats  *stats;
	int			mode;			/* PxPoolMode */
	bool		dedicated;		/* replication: a server connection is for one client and not used again */
	bool		paused;
	bool		has_keys;
	px_keys		keys;			/* of the user, as the last login proved them */
	dlist_head	idle;			/* PxServer: free; the one used last is first */
	dlist_head	busy;			/* PxServer: linked, or being reset, cancelled, or closed when done */
	dlist_head	starting;		/* PxServer: connecting, logging in */
	dlist_head	waiting;		/* PxClient: want a server connection, first come first served */
	dlist_head	logins;			/* PxClient: logged in, want to know what the server says about itself */
	int			nservers;
	int			ncounted;		/* of them: in the shared table */
	int			nstarting;
	int			nwaiting;		/* clients in `waiting` */
	int			nlogins;		/* clients in `logins` */
	int			give_back;		/* server connections to close when free: another worker has clients that wait */
	PxWant		told;			/* what the shared table knows of our wants */
	int			nclients;
	bool		runnable;		/* on px_pool_run()'s list */
	dlist_node	run;
	int			failures;		/* in a row */
	int64		retry_ms;		/* not before that; 0: at once */
	int64		used_ms;
	uint8	   *welcome;		/* ParameterStatus messages that are not tracked; NULL: no server was seen yet */
	uint32		welcome_len;
	PxVars		vars;			/* tracked parameters of a fresh server connection */
} PxPool;

/* ---------------------------------------------------------------- prepared statements */

typedef struct PxStatement		/* a query text with types, shared by the clients that prepared it */
{
	uint64		hash;
	uint64		id;				/* never used again */
	uint32		refs;
	uint32		len;
	struct PxStatement *next;
	uint8		body[FLEXIBLE_ARRAY_MEMBER];	/* the Parse message after the name */
} PxStatement;

typedef struct PxPrepared PxPrepared;	/* a client's: name to statement */
typedef struct PxServerStatements PxServerStatements;	/* a server's: which it has */

/* ---------------------------------------------------------------- servers */

/* Requests in flight, in order: what the answer is for and what becomes of it. */
typedef enum PxRequestKind
{
	PX_REQ_QUERY,				/* ends with ReadyForQuery */
	PX_REQ_SYNC,				/* the same, of the extended protocol */
	PX_REQ_MARK,				/* a query of the proxy: what comes before its answer is the client's */
	PX_REQ_OWN,					/* a query of the proxy: everything is swallowed; the last of those that end with ReadyForQuery */
	PX_REQ_COPY_END,			/* CopyDone or CopyFail for a COPY that may begin; no answer */
	PX_REQ_PARSE,				/* the client's ParseComplete */
	PX_REQ_PARSE_OWN,			/* swallow ParseComplete */
	PX_REQ_CLOSE,				/* the client's CloseComplete */
	PX_REQ_CLOSE_OWN,			/* swallow CloseComplete */
	PX_REQ_CLOSE_AS_PARSE		/* hand it on as ParseComplete */
} PxRequestKind;

typedef struct PxRequest
{
	uint8		kind;
	uint32		segment;		/* what an error passes over: up to a Sync */
	uint32		name_hash;
	uint64		name;			/* the client's that it makes, by its number; 0: none */
	uint64		statement;		/* id, where it is about one */
} PxRequest;

typedef enum PxServerState
{
	PX_SV_CONNECTING,			/* pool->starting: TCP */
	PX_SV_LOGIN,				/* pool->starting */
	PX_SV_CHECK,				/* pool->starting: is it the endpoint's timeline? */
	PX_SV_IDLE,					/* pool->idle */
	PX_SV_LINKED,				/* pool->busy */
	PX_SV_SETTING,				/* pool->busy: linked, the client's parameters are being set */
	PX_SV_RESETTING,			/* pool->busy */
	PX_SV_CANCELLING,			/* pool->busy: free, but a cancel for it is under way */
	PX_SV_CLOSED
} PxServerState;

struct PxClient;

typedef struct PxServer
{
	PxSock		sock;			/* first */
	dlist_node	node;			/* of the list its state names */
	PxPool	   *pool;
	struct PxClient *client;	/* linked */
	PxServerState state;
	uint64		key;			/* for cancel requests to it */
	PxVars		vars;
	PxRequest  *queue;			/* ring */
	uint32		queue_cap;
	uint32		queue_head;
	uint32		queue_len;
	uint32		segment;		/* of what is sent now */
	uint32		skip;			/* rest of a message that is passed on, or dropped, unseen */
	bool		skip_drop;
	bool		unsynced;		/* extended messages were sent after the last Sync */
	bool		to_sync;		/* after an error it passes over what comes until the Sync, which was not sent yet */
	bool		copy_in;		/* the server takes data, and its end was not sent */
	bool		uncertain;		/* it may send a ReadyForQuery more than is in the queue: a Sync during COPY */
	bool		marked;			/* the answer to the mark has begun: there is no such any more */
	uint64		mark;			/* random: no query of the client is answered like it */
	bool		close_after;	/* not to be used again */
	bool		forget;			/* roles were changed in a transaction that is not over */
	bool		quota;			/* counts in the shared table */
	bool		release;		/* at the end of this round */
	bool		proved;			/* it knows the role */
	bool		checked;		/* timeline answer seen and right */
	bool		fatal;			/* it said FATAL: its end is no surprise */
	bool		own_failed;		/* a query of ours */
	char		status;			/* of the last ReadyForQuery */
	uint16		cancels;		/* under way */
	uint32		generation;		/* of px_reconnect: older ones are closed when free */
	PxBuf	   *in;				/* begin of a message */
	px_scram_client *scram;		/* while logging in */
	uint8	   *welcome;
	uint32		welcome_len;
	PxServerStatements *statements;
	int64		created_ms;
	int64		state_ms;		/* since when in its state */
	uint64		linked_us;
	struct sockaddr_storage address;
	socklen_t	address_len;
} PxServer;

/* ---------------------------------------------------------------- clients */

typedef enum PxClientState
{
	PX_CL_FIRST,				/* logging_in: PROXY header, startup packet */
	PX_CL_TLS,					/* logging_in: handshake */
	PX_CL_LOOKUP,				/* logging_in: the controller is asked */
	PX_CL_SASL_FIRST,			/* logging_in */
	PX_CL_SASL_FINAL,			/* logging_in */
	PX_CL_PASSWORD,				/* logging_in */
	PX_CL_EXTERNAL,				/* logging_in: a token is verified, or a person confirms */
	PX_CL_WELCOME,				/* pool->logins: authenticated */
	PX_CL_IDLE,					/* idle list */
	PX_CL_WAITING,				/* pool->waiting */
	PX_CL_LINKED,				/* linked list */
	PX_CL_ADMIN,				/* idle list: the console */
	PX_CL_CLOSED
} PxClientState;

/* Somebody waits for an answer about an endpoint or a role. */
typedef struct PxLookup
{
	dlist_node	node;
	struct PxClient *client;
	bool		active;
} PxLookup;

/* What a client has only until it is logged in. */
typedef struct PxLogin
{
	uint8	   *packet;			/* the startup packet; startup points into it */
	px_startup	startup;
	px_options	options;
	char	   *rest;			/* options for the server */
	char		host[256];		/* SNI or PROXY authority; empty */
	char		name[PX_NAME_BYTES];	/* endpoint as asked for; empty: not known yet */
	bool		pooler;
	bool		host_named;		/* it came from the host name */
	bool		ask_password;
	bool		plus;			/* chose the mechanism with channel binding */
	bool		admin;
	bool		proxy_seen;		/* a PROXY header can only come first */
	bool		no_token;		/* what looks like one is a password */
	bool		ok_sent;		/* AuthenticationOk went out */
	char	   *password;		/* in clear, until it is checked */
	PxEndpoint *endpoint;
	PxRole	   *role;
	bool		role_ready;		/* secret, real or fake, is set */
	bool		fake;
	px_secret	secret;
	px_keys		keys;
	px_scram_server *scram;
	PxLookup	endpoint_lookup;
	PxLookup	role_lookup;
	char		final[96];		/* server-final, sent with AuthenticationOk */
	struct PxExternal *external;	/* token or console login under way */
	bool		unready;		/* a message waits in client->in */
} PxLogin;

typedef struct PxClient
{
	PxSock		sock;			/* first */
	dlist_node	node;			/* of the list its state names */
	PxClientState state;
	uint32		id;
	PxLogin	   *login;			/* NULL once logged in */
	PxPool	   *pool;
	PxServer   *server;			/* linked */
	PxVars		vars;
	PxPrepared *prepared;		/* NULL: none */
	PxBuf	   *in;				/* what was read and cannot be used yet */
	uint64		key;			/* for cancel requests */
	uint8		address[16];	/* IPv4 as ::ffff:a.b.c.d; zero over the unix socket */
	uint16		port;
	bool		is_unix;
	bool		secure;			/* TLS or unix socket */
	bool		same_user;		/* unix socket, the proxy's own operating system user */
	bool		address_quota;
	bool		endpoint_quota;
	bool		drop_message;	/* the rest of this message is for nobody */
	bool		blocked;		/* too many requests in flight, or bytes: `in` waits */
	bool		to_sync;		/* a request was taken back: what comes until its Sync is dropped */
	uint32		skip;			/* rest of a message that is passed on, or dropped, unseen */
	int64		connected_ms;
	int64		state_ms;
	uint64		wait_us;
	uint64		queries;
} PxClient;

/* ---------------------------------------------------------------- what workers tell each other */

typedef enum PxMessageKind
{
	PX_MSG_CANCEL,				/* u64 key */
	PX_MSG_SHOW,				/* text: what is to be shown; answered by PX_MSG_ROWS */
	PX_MSG_ROWS,				/* one byte: whether these are the last; DataRow messages */
	PX_MSG_COUNT,				/* text: which server connections; answered by PX_MSG_COUNTED */
	PX_MSG_COUNTED,				/* i64: how many there are */
	PX_MSG_COMMAND,				/* text: PAUSE, RESUME, KILL, RECONNECT, FORGET, and an endpoint's id */
	PX_MSG_ENDPOINT,			/* three texts: name, "", what the controller said about it */
	PX_MSG_ROLE					/* three texts: endpoint's id, role, secret */
} PxMessageKind;

/* ---------------------------------------------------------------- the worker */

typedef struct PxWorker
{
	int			me;
	int			epoll;
	int64		now_ms;			/* monotonic, of this round */
	uint64		now_us;
	bool		leaving;		/* no new clients; those that are there may stay until stop_ms */
	bool		stopping;		/* clients are sent away between two transactions */
	int64		stop_ms;		/* when transactions are cut off */
	PxWorkerSlot *slot;
	dlist_head	logging_in;		/* PxClient, the oldest first */
	dlist_head	idle;			/* PxClient */
	dlist_head	linked;			/* PxClient */
	dlist_head	pools;			/* PxPool */
	uint8	   *rbuf;			/* PX_READ_BYTES and what was saved before */
	bool		rbuf_used;
} PxWorker;

extern PxWorker px;

#define px_add(name, n) pg_atomic_fetch_add_u64_relaxed(&px.slot->stat[PX_STAT_##name], (n))
static inline void
pg_atomic_fetch_add_u64_relaxed(pg_atomic_uint64 *a, int64 n)
{
	a->value += n;				/* one writer */
}
#define px_count(name) px_add(name, 1)
#define px_uncount(name) px_add(name, -1)

/* ---- proxy_memory.c ---- */
extern void *px_alloc(size_t n);	/* zeroed; ends the worker when there is none */
extern void px_out_of_memory(void);
extern char *px_strdup(const char *s);
extern void px_free(void *p);
extern void px_defer_free(void *p);
extern void px_free_deferred(void);
extern char *px_intern(const char *s);
extern char *px_intern_ref(char *s);
extern void px_intern_release(char *s);
extern void px_vars_release(PxVars *v);
extern void px_vars_copy(PxVars *to, const PxVars *from);
extern bool px_vars_set(PxVars *v, int i, const char *value);	/* whether it changed */
extern int	px_var_index(const char *name);	/* -1: not tracked */
extern const char *const px_var_names[PX_TRACKED];

/* ---- proxy_sock.c ---- */
extern void px_sock_init(PxSock *s, PxSockKind kind, int fd);
extern void px_sock_watch(PxSock *s, bool reading);
extern void px_sock_close(PxSock *s);
extern int	px_sock_read(PxSock *s, uint8 *buf, size_t cap);	/* > 0 bytes, 0 nothing now, -1 end */
extern bool px_sock_flush(PxSock *s);	/* false: the connection is gone */
extern bool px_sock_send(PxSock *s, const void *data, size_t len);
extern bool px_sock_handshake(PxSock *s, bool *done);
extern void px_sock_again(PxSock *s);
extern PxSock *px_sock_next_again(void);
extern void px_sock_tcp_options(int fd, const PxKeepalive *k);
extern bool px_sock_unanswered(PxSock *s, const PxKeepalive *k);	/* the peer is gone, though something is on its way to it */
extern void px_sock_mask(PxSock *s, uint32 events);	/* for sockets of libpq */
extern bool px_buf_append(PxBuf **buf, const void *data, size_t len);
extern void px_buf_free(PxBuf **buf);

/* bytes for one socket, gathered */
#define PX_OUT_VECS 24
typedef struct PxOut
{
	PxSock	   *to;
	int			n;
	struct iovec vec[PX_OUT_VECS];
	uint8	   *scratch;
	uint32		scratch_used;
	bool		failed;
} PxOut;

extern void px_out_begin(PxOut *out, PxSock *to);
extern void px_out_add(PxOut *out, const void *data, size_t len);	/* data stays where it is until px_out_end */
extern void px_out_copy(PxOut *out, const void *data, size_t len);
extern bool px_out_full(PxOut *out);
extern bool px_out_end(PxOut *out);

/* ---- proxy_client.c ---- */
extern bool px_client_accept(PxSock *listener); /* whether there may be more; not reading: not before the next tick */
extern void px_client_event(PxClient *c, uint32 events);
extern void px_client_close(PxClient *c);
extern void px_client_state(PxClient *c, PxClientState state);
extern bool px_client_fail(PxClient *c, const char *sqlstate, const char *message, const char *detail, const char *hint);	/* FATAL, closes; always false */
extern void px_client_name(const PxClient *c, char *buf, size_t cap);
extern PxClient *px_client_by_key(uint64 key);
extern void px_client_keys_reset(void);

/* ---- proxy_login.c ---- */
extern bool px_login_input(PxClient *c, const uint8 *p, size_t len, size_t *used);
extern void px_login_free(PxClient *c);
extern void px_login_endpoint_ready(PxClient *c, PxEndpoint *e, const px_error *error);
extern void px_login_role_ready(PxClient *c, PxRole *r, const px_error *error);
extern bool px_login_done(PxClient *c);
extern bool px_login_lookup(PxClient *c);
extern void px_login_done_and_go_on(PxClient *c);
extern bool px_login_accept_keys(PxClient *c, const px_keys *keys);
extern bool px_login_refuse(PxClient *c);

/* ---- proxy_auth.c ---- */
extern bool px_auth_begin(PxClient *c);
extern bool px_auth_message(PxClient *c, const px_head *head, const uint8 *body, size_t len);
extern bool px_auth_secret_ready(PxClient *c);	/* login->secret is set: what waited for it goes on */
extern void px_auth_forget(PxClient *c);
extern uint64 px_address_key(int kind, const PxClient *c);

/* ---- proxy_external.c ---- */
extern bool px_external_token(PxClient *c);
extern bool px_external_console(PxClient *c);
extern void px_external_forget(PxClient *c);
extern void px_external_tick(void);

/* ---- proxy_relay_client.c ---- */
extern void px_relay_client(PxClient *c);	/* input of a client that is logged in */
extern void px_relay_resume(PxClient *c);	/* it has a server connection now */

/* ---- proxy_relay_server.c ---- */
extern void px_relay_server(PxServer *s);

/* ---- proxy_pool.c ---- */
extern PxPool *px_pool_get(PxEndpoint *e, const char *database, const char *user, const char *extra, uint32 extra_len, int mode, bool dedicated);
extern bool px_pool_acquire(PxClient *c);	/* true: linked now; otherwise it waits, or is closed */
extern void px_pool_release(PxServer *s);	/* its client has no more use of it */
extern void px_pool_wait_login(PxClient *c);
extern void px_pool_leave(PxClient *c);
extern void px_pool_server_ready(PxServer *s);
extern void px_pool_server_gone(PxServer *s, const px_error *error, bool definite);
extern void px_pool_launch(PxPool *p);
extern void px_pool_fail(PxPool *p, const px_error *error);
extern void px_pool_tick(void);
extern void px_pool_run(void);	/* at the end of a round: what waits meets what is free */
extern void px_pool_want_run(PxPool *p);
extern void px_pool_forget_all(void);
extern uint32 px_reconnect_generation;

/* ---- proxy_dbstats.c ---- */
extern PxDbStats *px_db_stats_get(const char *endpoint, const char *database);
extern void px_db_stats_release(PxDbStats *d);
extern void px_db_stats_tick(void);

/* ---- proxy_server.c ---- */
extern PxServer *px_server_connect(PxPool *p, bool counted);
extern void px_server_event(PxServer *s, uint32 events);
extern void px_server_close(PxServer *s);
extern void px_server_forget(PxServer *s);
extern void px_server_state(PxServer *s, PxServerState state);
extern bool px_server_push(PxServer *s, PxRequestKind kind, uint64 statement);
extern PxRequest *px_server_front(PxServer *s);
extern PxRequest *px_server_back(PxServer *s);
extern void px_server_pop(PxServer *s);
extern void px_server_push_front(PxServer *s, PxRequest r);
extern bool px_server_query(PxServer *s, const char *sql);
extern bool px_server_login_message(PxServer *s, const px_head *head, const uint8 *body);
extern void px_server_failed(PxServer *s, const px_error *error, bool definite);

/* ---- proxy_prepared.c ---- */
#define PX_STATEMENT_PREFIX "neon_px_"	/* names of statements on server connections */
typedef enum PxPreparedResult
{
	PX_PREP_PLAIN,				/* pass the message on as it is */
	PX_PREP_DONE,				/* it was dealt with */
	PX_PREP_MORE,				/* the whole message is needed */
	PX_PREP_BAD,				/* malformed */
	PX_PREP_TOO_MANY
} PxPreparedResult;
extern PxPreparedResult px_prepared_client(PxClient *c, PxOut *out, const px_head *head, const uint8 *p, size_t have, uint32 *used);
extern void px_prepared_free_client(PxClient *c);
extern void px_prepared_discarded(PxServer *s); /* DISCARD ALL was answered */
extern void px_prepared_free_server(PxServer *s);
extern void px_prepared_answered(PxServer *s, const PxRequest *r);
extern void px_prepared_failed(PxServer *s, const PxRequest *r);
extern int	px_prepared_count(const PxClient *c);

/* ---- proxy_cache.c ---- */
extern PxEndpoint *px_cache_endpoint(PxClient *c, const char *name);	/* asks when needed; px_login_endpoint_ready() comes back */
extern PxRole *px_cache_role(PxClient *c, PxEndpoint *e, const char *role);
extern void px_cache_cancel(PxLookup *l);
extern void px_cache_invalidate(const char *id);	/* NULL: everything */
extern void px_cache_endpoint_bad(PxEndpoint *e);
extern void px_cache_wake(PxEndpoint *e);	/* px_pool_launch() of its pools follows, or px_pool_fail() */
extern bool px_endpoint_stale(const PxEndpoint *e);
extern int	px_cache_count(void);
extern void px_cache_told(PxMessageKind kind, const char *text, size_t len);	/* by another worker; ends with a zero byte */
extern void px_cache_role_bad(const char *id, const char *role);

/* ---- proxy_controller.c ---- */
typedef void (*PxAnswer) (void *arg, const char *value, const px_error *error);	/* value NULL: SQL null; error: it failed */
extern void px_controller_start(void);
extern void px_controller_event(PxSock *s, uint32 events);
extern void px_controller_ask(const char *sql, int nargs, const char *const *args, int timeout_ms, bool slow, PxAnswer answer, void *arg);
extern void px_controller_tick(void);
extern void px_controller_run(void);	/* at the end of a round: questions that were put are sent */
extern void px_controller_reload(void);
extern bool px_controller_connected(void);

/* ---- proxy_tls.c ---- */
typedef struct PxCertificate
{
	char	   *file;
	char	  **names;			/* from the certificate */
	int			nnames;
	uint8		hash[64];		/* tls-server-end-point */
	uint32		hash_len;
} PxCertificate;
extern void px_tls_load(void);
extern bool px_tls_ready(void);
extern SSL *px_tls_accept(int fd);
extern bool px_tls_show(SSL *ssl);	/* for handshakes of libwebsockets: the certificate for the name in it; false: there is none */
extern const PxCertificate *px_tls_certificate(SSL *ssl);
extern bool px_tls_endpoint(const char *host, char name[PX_NAME_BYTES]);

/* ---- proxy_cancel.c ---- */
extern void px_cancel_request(PxClient *c, uint64 key);
extern void px_cancel_local(uint64 key);
extern void px_cancel_event(PxSock *s, uint32 events);
extern void px_cancel_tick(void);
extern void px_cancel_forget(PxServer *s);

/* ---- proxy_ipc.c ---- */
extern void px_ipc_event(void);
extern void px_ipc_send(int worker, PxMessageKind kind, uint64 tag, const void *data, size_t len);
extern void px_ipc_tick(void);

/* ---- proxy_admin.c ---- */
extern bool px_admin_database(const char *name);
extern bool px_admin_user(const char *name);
extern bool px_admin_input(PxClient *c, const uint8 *p, size_t len, size_t *used);
extern bool px_admin_welcome(PxClient *c);
extern void px_admin_closed(PxClient *c);
extern void px_admin_show(int from, uint64 tag, const char *what);	/* another worker asks */
extern void px_admin_rows(uint64 tag, const uint8 *data, size_t len);	/* another worker answers */
extern void px_admin_command(const char *text);
extern void px_admin_tell_all(const char *command, const char *endpoint);
extern void px_admin_tick(void);
extern bool px_admin_is_disabled(const char *endpoint);
extern void px_admin_cancel(PxClient *c);
extern void px_admin_count(int from, uint64 tag, const char *text);	/* another worker asks, for a command that waits */
extern void px_admin_counted(uint64 tag, int64 count);
extern bool px_admin_is_paused(const char *endpoint);

#endif							/* PX_H */
