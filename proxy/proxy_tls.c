/*
 * proxy_tls.c - certificates, by host name.
 *
 * neon_proxy.certificates is a directory of NAME.crt and NAME.key pairs; the file "default" is shown to who names no host or one that no
 * certificate covers, without it the first by name.  Everything is read anew on a reload; connections keep what they began with.
 * A pair that cannot be read is reported and left out.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <dirent.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "px.h"

#define MAX_CERTIFICATES 256

typedef struct Loaded
{
	SSL_CTX    *ctx;
	PxCertificate *cert;
} Loaded;

static Loaded loaded[MAX_CERTIFICATES];
static int	nloaded;
static int	default_index;
static int	ex_index = -1;

static void
free_certificate(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	PxCertificate *c = ptr;

	if (c == NULL)
		return;
	for (int i = 0; i < c->nnames; i++)
		px_free(c->names[i]);
	px_free(c->names);
	px_free(c->file);
	px_free(c);
}

/* ---------------------------------------------------------------- choosing one */

static Loaded *
choose(const char *host)
{
	for (int pass = 0; pass < 2 && host; pass++)
		for (int i = 0; i < nloaded; i++)
			for (int n = 0; n < loaded[i].cert->nnames; n++)
			{
				const char *name = loaded[i].cert->names[n];

				/* an exact name before a wildcard */
				if ((name[0] == '*') == (pass == 1) && px_host_matches(host, name))
					return &loaded[i];
			}
	return &loaded[default_index];
}

static int
on_servername(SSL *ssl, int *alert, void *arg)
{
	const char *host = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	Loaded	   *l;

	if (nloaded == 0)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	l = choose(host);
	if (SSL_get_SSL_CTX(ssl) != l->ctx)
		SSL_set_SSL_CTX(ssl, l->ctx);
	return SSL_TLSEXT_ERR_OK;
}

bool
px_tls_endpoint(const char *host, char name[PX_NAME_BYTES])
{
	for (int i = 0; i < nloaded; i++)
		for (int n = 0; n < loaded[i].cert->nnames; n++)
			if (px_host_endpoint(host, loaded[i].cert->names[n], name))
				return true;
	return false;
}

bool
px_tls_ready(void)
{
	return nloaded > 0;
}

SSL *
px_tls_accept(int fd)
{
	SSL		   *ssl = nloaded > 0 ? SSL_new(loaded[default_index].ctx) : NULL;

	if (ssl == NULL || SSL_set_fd(ssl, fd) != 1)
	{
		SSL_free(ssl);
		ERR_clear_error();
		return NULL;
	}
	SSL_set_accept_state(ssl);
	return ssl;
}

bool
px_tls_show(SSL *ssl)
{
	STACK_OF(X509) *chain = NULL;
	SSL_CTX    *ctx;
	bool		ok;

	if (nloaded == 0)
		return false;
	ctx = choose(SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name))->ctx;
	SSL_CTX_get0_chain_certs(ctx, &chain);
	ok = SSL_use_cert_and_key(ssl, SSL_CTX_get0_certificate(ctx), SSL_CTX_get0_privatekey(ctx), chain, 1) == 1;
	if (!ok)
		ERR_clear_error();
	return ok;
}

const PxCertificate *
px_tls_certificate(SSL *ssl)
{
	return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), ex_index);
}

/* ---------------------------------------------------------------- loading */

static void
add_name(PxCertificate *c, const char *name, size_t len)
{
	if (len == 0 || len > 253 || memchr(name, 0, len))
		return;
	c->names = realloc(c->names, (c->nnames + 1) * sizeof(char *));
	if (c->names == NULL)
		ereport(FATAL, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory in the proxy")));
	c->names[c->nnames] = px_alloc(len + 1);
	memcpy(c->names[c->nnames++], name, len);
}

static void
read_names(PxCertificate *c, X509 *x)
{
	GENERAL_NAMES *sans = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	char		cn[256];
	int			n;

	for (int i = 0; sans && i < sk_GENERAL_NAME_num(sans); i++)
	{
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(sans, i);

		if (g->type == GEN_DNS)
			add_name(c, (const char *) ASN1_STRING_get0_data(g->d.dNSName), ASN1_STRING_length(g->d.dNSName));
	}
	if (sans)
		GENERAL_NAMES_free(sans);
	n = X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, cn, sizeof(cn));
	if (n > 0 && c->nnames == 0)
		add_name(c, cn, n);
}

/* RFC 5929: the hash of the signature's algorithm, SHA-256 in place of MD5 and SHA-1 */
static void
read_hash(PxCertificate *c, X509 *x)
{
	int			nid;
	const EVP_MD *md = NULL;
	unsigned int n = 0;

	if (X509_get_signature_info(x, &nid, NULL, NULL, NULL) == 1 && nid != NID_undef)
		md = nid == NID_md5 || nid == NID_sha1 ? EVP_sha256() : EVP_get_digestbynid(nid);
	if (md && X509_digest(x, md, c->hash, &n) == 1)
		c->hash_len = n;
	ERR_clear_error();
}

static int
alpn(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *in, unsigned int inlen, void *arg)
{
	static const unsigned char ours[] = {10, 'p', 'o', 's', 't', 'g', 'r', 'e', 's', 'q', 'l'};
	unsigned char *chosen;

	if (SSL_select_next_proto(&chosen, outlen, ours, sizeof(ours), in, inlen) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_NOACK;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

static bool
load_pair(const char *directory, const char *name, Loaded *l)
{
	char		crt[MAXPGPATH];
	char		key[MAXPGPATH];
	SSL_CTX    *ctx = SSL_CTX_new(TLS_server_method());

	snprintf(crt, sizeof(crt), "%s/%s.crt", directory, name);
	snprintf(key, sizeof(key), "%s/%s.key", directory, name);
	if (ctx == NULL || SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 || SSL_CTX_use_certificate_chain_file(ctx, crt) != 1 ||
		SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(ctx) != 1)
	{
		char		why[256];

		ERR_error_string_n(ERR_get_error(), why, sizeof(why));
		ERR_clear_error();
		ereport(LOG, (errcode(ERRCODE_CONFIG_FILE_ERROR), errmsg("could not load certificate \"%s\" and its key: %s", crt, why)));
		SSL_CTX_free(ctx);
		return false;
	}
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_tlsext_servername_callback(ctx, on_servername);
	SSL_CTX_set_alpn_select_cb(ctx, alpn, NULL);
	l->ctx = ctx;
	l->cert = px_alloc(sizeof(PxCertificate));
	l->cert->file = px_strdup(name);
	read_names(l->cert, SSL_CTX_get0_certificate(ctx));
	read_hash(l->cert, SSL_CTX_get0_certificate(ctx));
	SSL_CTX_set_ex_data(ctx, ex_index, l->cert);
	return true;
}

static int
by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int
is_certificate(const struct dirent *d)
{
	size_t		n = strlen(d->d_name);

	return n > 4 && strcmp(d->d_name + n - 4, ".crt") == 0 && d->d_name[0] != '.';
}

/* The pair as it was read before, for one that cannot be read now. */
static bool
keep_pair(const char *name, Loaded *l)
{
	for (int i = 0; i < nloaded; i++)
		if (strcmp(loaded[i].cert->file, name) == 0)
		{
			*l = loaded[i];
			SSL_CTX_up_ref(l->ctx);
			return true;
		}
	return false;
}

/* All pairs of the directory; returns how many there are. */
static int
load_directory(Loaded *to)
{
	struct dirent **list = NULL;
	int			found = scandir(px_certificates, &list, is_certificate, by_name);
	int			n = 0;

	if (found < 0)
		ereport(LOG, (errcode_for_file_access(), errmsg("could not read neon_proxy.certificates \"%s\": %m", px_certificates)));
	for (int i = 0; i < found; i++)
	{
		char	   *name = list[i]->d_name;

		name[strlen(name) - 4] = '\0';
		if (n < MAX_CERTIFICATES && (load_pair(px_certificates, name, &to[n]) || keep_pair(name, &to[n])))
			n++;
		free(list[i]);
	}
	free(list);
	return n;
}

/* A certificate that cannot be read anew stays as it was, and so do all when there is none: a mistake in files does not turn TLS off. */
void
px_tls_load(void)
{
	Loaded		fresh[MAX_CERTIFICATES];
	int			n = 0;

	if (ex_index < 0)
		ex_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_certificate);
	if (px_certificates[0] != '\0')
	{
		n = load_directory(fresh);
		if (n == 0)
			ereport(LOG, (errcode(ERRCODE_CONFIG_FILE_ERROR), errmsg("no certificate could be loaded from \"%s\"", px_certificates),
						  errhint(nloaded > 0 ? "Those that were loaded before stay in use." : "Clients cannot use TLS.")));
		if (n == 0 && nloaded > 0)
			return;
	}
	for (int i = 0; i < nloaded; i++)
		SSL_CTX_free(loaded[i].ctx);	/* connections hold it as long as they need it */
	memcpy(loaded, fresh, n * sizeof(Loaded));
	nloaded = n;
	default_index = 0;
	for (int i = 0; i < n; i++)
		if (strcmp(loaded[i].cert->file, "default") == 0)
			default_index = i;
}
