/*
 * proxy_settings.h - the settings of the database side.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PROXY_SETTINGS_H
#define PROXY_SETTINGS_H

#define PX_MAX_WORKERS 32

typedef enum PxPoolMode
{
	PX_POOL_SESSION,
	PX_POOL_TRANSACTION
} PxPoolMode;

/* When a peer of TCP is taken for gone: idle_s + count * interval_s after its last sign of life. */
typedef struct PxKeepalive
{
	int			idle_s;			/* 0: as the system has it */
	int			interval_s;
	int			count;
	int			user_timeout_ms;	/* 0: as the system has it */
} PxKeepalive;

/* fixed at the start of the instance */
extern int	px_workers;
extern char *px_listen_addresses;
extern int	px_port;
extern char *px_socket_directory;	/* empty: no unix socket */
extern int	px_max_clients;

/* changed by a reload */
extern char *px_certificates;
extern bool px_require_tls;
extern char *px_controller_connstring;
extern int	px_pool_mode;
extern int	px_pool_size;
extern int	px_max_endpoint_clients;
extern int	px_max_address_clients;
extern int	px_max_address_failures;	/* failed logins a minute */
extern int	px_login_timeout_ms;
extern int	px_query_wait_timeout_ms;
extern int	px_idle_transaction_timeout_ms;
extern int	px_client_idle_timeout_ms;
extern int	px_server_idle_timeout_ms;
extern int	px_server_lifetime_ms;
extern int	px_connect_timeout_ms;
extern int	px_connect_retries;
extern int	px_cache_ttl_ms;
extern int	px_secret_ttl_ms;
extern int	px_cache_entries;
extern int	px_controller_timeout_ms;
extern int	px_wake_timeout_ms;
extern int	px_drain_timeout_ms;
extern PxKeepalive px_client_keepalive;
extern PxKeepalive px_server_keepalive;
extern bool px_share_port;
extern int	px_max_prepared_statements;
extern char *px_admin_users;
extern char *px_admin_secret;
extern char *px_console_url;

extern void px_define_settings(void);

#endif							/* PROXY_SETTINGS_H */
