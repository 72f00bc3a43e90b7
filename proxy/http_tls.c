/*
 * http_tls.c - certificates for HTTPS: the same folder of NAME.crt and NAME.key that the database side has.
 *
 * Read when the worker starts: new certificates want a restart of the worker (end its process, the postmaster starts it again).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <dirent.h>
#include <unistd.h>

#include "storage/fd.h"

#include "http_tls.h"
#include "http_worker.h"
#include "proxy_settings.h"

#define MAX_CERTIFICATES 256

static int
by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* Names of the pairs, sorted: which is first does not depend on the file system. */
static int
certificate_names(char **names)
{
	DIR		   *dir = AllocateDir(px_certificates);
	struct dirent *entry;
	int			n = 0;

	while ((entry = ReadDir(dir, px_certificates)) != NULL)
	{
		char	   *dot = strrchr(entry->d_name, '.');

		if (!dot || strcmp(dot, ".crt") != 0 || dot == entry->d_name)
			continue;
		if (n == MAX_CERTIFICATES)
			ereport(FATAL,
					(errcode(ERRCODE_CONFIG_FILE_ERROR),
					 errmsg("there are more than %d certificates in \"%s\"", MAX_CERTIFICATES, px_certificates)));
		names[n++] = pnstrdup(entry->d_name, dot - entry->d_name);
	}
	FreeDir(dir);
	qsort(names, n, sizeof(char *), by_name);
	return n;
}

struct lws_vhost *
ht_tls_vhosts(struct lws_context_creation_info *info)
{
	struct lws_vhost *first = NULL;
	char	   *names[MAX_CERTIFICATES];
	int			n = px_certificates[0] == '\0' ? 0 : certificate_names(names);

	if (n == 0)
		ereport(FATAL,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("neon_proxy.http_tls is on, and there is no certificate"),
				 errhint("Put NAME.crt and NAME.key into the folder that neon_proxy.certificates names.")));
	for (int i = 0; i < n; i++)
	{
		struct lws_vhost *v;

		info->vhost_name = names[i];
		info->ssl_cert_filepath = psprintf("%s/%s.crt", px_certificates, names[i]);
		info->ssl_private_key_filepath = psprintf("%s/%s.key", px_certificates, names[i]);
		info->ssl_options_set = SSL_OP_NO_TLSv1 | SSL_OP_NO_TLSv1_1 | SSL_OP_NO_RENEGOTIATION;
		v = lws_create_vhost(ht_worker.lws, info);
		if (!v)
			ereport(FATAL,
					(errcode(ERRCODE_CONFIG_FILE_ERROR),
					 errmsg("could not use the certificate \"%s\" or its key", info->ssl_cert_filepath)));
		if (!first)
			first = v;
	}
	return first;
}
