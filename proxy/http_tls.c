/*
 * http_tls.c - HTTPS: libwebsockets does the TLS, proxy_tls.c has the certificates, the same ones as on the database side.
 *
 * The host of libwebsockets is made without a certificate; each handshake asks for the one that covers the name the client sent.  So a reload
 * changes what the next handshake shows, and connections keep what they began with.
 *
 * Invariant: without any certificate the worker does not start (FATAL, and the postmaster tries again); when a reload finds none, handshakes
 * fail and the worker goes on.  Nothing is kept on disk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "http_tls.h"
#include "http_worker.h"
#include "px.h"

void
ht_tls_options(struct lws_context_creation_info *info)
{
	px_tls_load();
	if (!px_tls_ready())
		ereport(FATAL,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("neon_proxy.http_tls is on, and there is no certificate"),
				 errhint("Put NAME.crt and NAME.key into the folder that neon_proxy.certificates names.")));
	info->options |= LWS_SERVER_OPTION_CREATE_VHOST_SSL_CTX;
	info->ssl_options_set = SSL_OP_NO_TLSv1 | SSL_OP_NO_TLSv1_1 | SSL_OP_NO_RENEGOTIATION;
}

/* 1: go on with the handshake */
static int
on_certificate(SSL *ssl, void *arg)
{
	return px_tls_show(ssl) ? 1 : 0;
}

void
ht_tls_context(SSL_CTX *ctx)
{
	SSL_CTX_set_cert_cb(ctx, on_certificate, NULL);
}

void
ht_tls_reload(void)
{
	if (ht_tls)
		px_tls_load();
}
