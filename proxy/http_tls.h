/*
 * http_tls.h - certificates for HTTPS.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_TLS_H
#define HTTP_TLS_H

#include <libwebsockets.h>

/* A host for each NAME.crt and NAME.key in neon_proxy.certificates; gives the first, which serves names that no certificate has. */
extern struct lws_vhost *ht_tls_vhosts(struct lws_context_creation_info *info);

#endif							/* HTTP_TLS_H */
