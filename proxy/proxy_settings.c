/*
 * proxy_settings.c - the settings of the database side; docs/proxy.md describes each.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "proxy_settings.h"

#define SECOND 1000
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)

int			px_workers = 2;
char	   *px_listen_addresses;
int			px_port = 5430;
char	   *px_socket_directory;
int			px_max_clients = 10000;

char	   *px_certificates;
bool		px_require_tls = false;
char	   *px_controller_connstring;
int			px_pool_mode = PX_POOL_SESSION;
int			px_pool_size = 64;
int			px_max_endpoint_clients = 0;
int			px_max_address_clients = 0;
int			px_max_address_failures = 60;
int			px_login_timeout_ms = 15 * SECOND;
int			px_query_wait_timeout_ms = 2 * MINUTE;
int			px_idle_transaction_timeout_ms = 0;
int			px_client_idle_timeout_ms = 0;
int			px_server_idle_timeout_ms = MINUTE;
int			px_server_lifetime_ms = HOUR;
int			px_connect_timeout_ms = 10 * SECOND;
int			px_connect_retries = 8;
int			px_cache_ttl_ms = MINUTE;
int			px_secret_ttl_ms = 2 * SECOND;
int			px_cache_entries = 4000;
int			px_controller_timeout_ms = 10 * SECOND;
int			px_wake_timeout_ms = 2 * MINUTE;
int			px_drain_timeout_ms = 10 * SECOND;
PxKeepalive px_client_keepalive = {60, 10, 5, 0};
PxKeepalive px_server_keepalive = {30, 10, 3, 0};
bool		px_share_port = false;
int			px_max_prepared_statements = 200;
char	   *px_admin_users;
char	   *px_admin_secret;
char	   *px_console_url;

static const struct config_enum_entry pool_modes[] = {
	{"session", PX_POOL_SESSION, false},
	{"transaction", PX_POOL_TRANSACTION, false},
	{NULL, 0, false}
};

typedef struct IntSetting
{
	const char *name;
	const char *what;
	int		   *variable;
	int			min;
	int			max;
	GucContext	context;
	int			flags;
} IntSetting;

static const IntSetting int_settings[] = {
	{"workers", "Worker processes, each with an event loop of its own.", &px_workers, 1, PX_MAX_WORKERS, PGC_POSTMASTER, 0},
	{"port", "Port for clients of the PostgreSQL protocol.", &px_port, 1, 65535, PGC_POSTMASTER, 0},
	{"max_clients", "Client connections of the whole proxy.", &px_max_clients, 1, 1000000, PGC_POSTMASTER, 0},
	{"default_pool_size", "Server connections for each endpoint, database and user.", &px_pool_size, 1, 10000, PGC_SIGHUP, 0},
	{"max_endpoint_clients", "Client connections for each endpoint; 0 is no limit.", &px_max_endpoint_clients, 0, INT_MAX, PGC_SIGHUP, 0},
	{"max_address_clients", "Client connections from one address; 0 is no limit.", &px_max_address_clients, 0, INT_MAX, PGC_SIGHUP, 0},
	{"max_address_failures", "Failed logins from one address in a minute; 0 is no limit.", &px_max_address_failures, 0, INT_MAX, PGC_SIGHUP, 0},
	{"login_timeout", "Time in which a client must have logged in.", &px_login_timeout_ms, 100, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"query_wait_timeout", "How long a client waits for a server connection.", &px_query_wait_timeout_ms, 100, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"idle_transaction_timeout", "How long a client may be idle in a transaction; 0 is no limit.", &px_idle_transaction_timeout_ms, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"client_idle_timeout", "How long a client may be idle; 0 is no limit.", &px_client_idle_timeout_ms, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"server_idle_timeout", "A server connection that was not used for so long is closed.", &px_server_idle_timeout_ms, 10, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"server_lifetime", "A server connection of that age is closed when it is idle.", &px_server_lifetime_ms, 100, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"connect_timeout", "Limit for connecting to a compute.", &px_connect_timeout_ms, 100, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"connect_retries", "How often a failed connection to a compute is tried again, each time after a new wake.", &px_connect_retries, 0, 100, PGC_SIGHUP, 0},
	{"cache_ttl", "How long an endpoint's address is believed without asking the controller.", &px_cache_ttl_ms, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"secret_ttl", "How long a role's secret is believed without asking the controller.", &px_secret_ttl_ms, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"cache_entries", "Endpoints, and roles, that each worker remembers.", &px_cache_entries, 16, 1000000, PGC_SIGHUP, 0},
	{"controller_timeout", "Limit for a question to the controller.", &px_controller_timeout_ms, 100, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"wake_timeout", "Limit for waking an endpoint.", &px_wake_timeout_ms, 100, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"drain_timeout", "How long transactions may go on when the proxy is stopped.", &px_drain_timeout_ms, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"tcp_keepalives_idle", "A client that says nothing for so long is asked whether it is there; 0 is the system's value.", &px_client_keepalive.idle_s, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_S},
	{"tcp_keepalives_interval", "Time between two such questions.", &px_client_keepalive.interval_s, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_S},
	{"tcp_keepalives_count", "Questions without an answer after which a client is gone.", &px_client_keepalive.count, 0, 127, PGC_SIGHUP, 0},
	{"tcp_user_timeout", "How long what was sent to a client may be without an acknowledgement, or a client not read; 0 is the system's value.", &px_client_keepalive.user_timeout_ms, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"server_tcp_keepalives_idle", "As tcp_keepalives_idle, for connections to computes.", &px_server_keepalive.idle_s, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_S},
	{"server_tcp_keepalives_interval", "As tcp_keepalives_interval, for connections to computes.", &px_server_keepalive.interval_s, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_S},
	{"server_tcp_keepalives_count", "As tcp_keepalives_count, for connections to computes.", &px_server_keepalive.count, 0, 127, PGC_SIGHUP, 0},
	{"server_tcp_user_timeout", "As tcp_user_timeout, for connections to computes.", &px_server_keepalive.user_timeout_ms, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"max_prepared_statements", "Prepared statements kept on a server connection in transaction mode; 0 leaves them to the client.", &px_max_prepared_statements, 0, 10000, PGC_SIGHUP, 0},
};

static void
define_string(const char *name, const char *what, char **variable, const char *value, GucContext context, int flags)
{
	DefineCustomStringVariable(psprintf("neon_proxy.%s", name), what, NULL, variable, value, context, flags, NULL, NULL, NULL);
}

void
px_define_settings(void)
{
	for (int i = 0; i < lengthof(int_settings); i++)
	{
		const IntSetting *s = &int_settings[i];

		DefineCustomIntVariable(psprintf("neon_proxy.%s", s->name), s->what, NULL, s->variable, *s->variable, s->min, s->max,
								s->context, s->flags, NULL, NULL, NULL);
	}
	DefineCustomBoolVariable("neon_proxy.require_tls", "Refuse clients over TCP that do not use TLS.", NULL, &px_require_tls, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("neon_proxy.share_port", "Another proxy may have the same port, and a stop waits for all clients, for drain_timeout.", NULL,
							 &px_share_port, false, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("neon_proxy.pool_mode", "When a server connection goes back to its pool.", NULL, &px_pool_mode,
							 PX_POOL_SESSION, pool_modes, PGC_SIGHUP, 0, NULL, NULL, NULL);
	define_string("listen_addresses", "Addresses to listen on, separated by commas.", &px_listen_addresses, "127.0.0.1", PGC_POSTMASTER, 0);
	define_string("socket_directory", "Directory of the unix socket; empty for none.", &px_socket_directory, "", PGC_POSTMASTER, 0);
	define_string("certificates", "Directory with NAME.crt and NAME.key for each certificate; empty for no TLS.", &px_certificates, "", PGC_SIGHUP, 0);
	define_string("controller_connstring", "How the proxy reaches the controller.", &px_controller_connstring, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY);
	define_string("admin_users", "Roles, separated by commas, that may use the console database neon_proxy.", &px_admin_users, "postgres", PGC_SIGHUP, 0);
	define_string("admin_secret", "Password of the console's users, or its SCRAM-SHA-256 secret.", &px_admin_secret, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY);
	define_string("console_url", "Page that confirms logins without a password; empty when there is none.", &px_console_url, "", PGC_SIGHUP, 0);
}
