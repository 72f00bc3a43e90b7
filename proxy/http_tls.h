/*
 * http_tls.h - certificates for HTTPS.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_TLS_H
#define HTTP_TLS_H

#include <libwebsockets.h>

extern void ht_tls_options(struct lws_context_creation_info *info); /* reads the certificates, too; FATAL when there is none */
extern void ht_tls_context(SSL_CTX *ctx);	/* of the host that was made with these options */
extern void ht_tls_reload(void);	/* the certificates anew, for handshakes from now on */

#endif							/* HTTP_TLS_H */
