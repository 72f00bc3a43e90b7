/*
 * proxy_auth.c - is it who it says?  SCRAM, a cleartext password, a token.
 *
 * SCRAM is what a client is asked for whose endpoint is known.  The offer goes out while the controller is still asked for the secret.
 * The proof gives the proxy the key with which it logs in to the compute as this user; the password itself it never sees.
 * A cleartext password is asked for only over TLS or the unix socket, when the endpoint is to be found in it, or when the client wants
 * it so (options=auth=password): the only way for tokens.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <openssl/crypto.h>
#include <openssl/hmac.h>

#include "common/saslprep.h"

#include "px.h"

/* ---------------------------------------------------------------- the offer */

static const PxCertificate *
certificate_of(PxClient *c)
{
	return c->sock.ssl ? px_tls_certificate(c->sock.ssl) : NULL;
}

static bool
send_auth(PxClient *c, uint32 code, const void *body, size_t len)
{
	uint8		buf[PX_SCRAM_MAX_MESSAGE + 64];
	size_t		n = px_put_auth(buf, sizeof(buf), code, body, len);

	if (n == 0 || !px_sock_send(&c->sock, buf, n))
	{
		px_client_close(c);
		return false;
	}
	return true;
}

static bool
offer_scram(PxClient *c)
{
	static const char both[] = "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0";
	static const char plain[] = "SCRAM-SHA-256\0";
	const PxCertificate *cert = certificate_of(c);

	px_client_state(c, PX_CL_SASL_FIRST);
	if (cert && cert->hash_len)
		return send_auth(c, 10, both, sizeof(both));
	return send_auth(c, 10, plain, sizeof(plain));
}

static bool
admin_secret(PxClient *c)
{
	PxLogin    *l = c->login;
	uint8		salt[16];

	strlcpy(l->name, "console", sizeof(l->name));
	l->fake = true;
	px_secret_fake(px_shared->secret, "console", l->startup.user, &l->secret);
	if (px_admin_user(l->startup.user) && px_admin_secret && px_admin_secret[0])
	{
		memcpy(salt, l->secret.salt, sizeof(salt));	/* the made-up one: shown to everybody, so nothing of our secret itself */
		l->fake = !px_secret_parse(px_admin_secret, &l->secret) &&
			!px_secret_make(px_admin_secret, salt, sizeof(salt), 4096, &l->secret, NULL);
	}
	return l->role_ready = true;
}

bool
px_auth_begin(PxClient *c)
{
	PxLogin    *l = c->login;

	if (l->admin)
	{
		if (c->same_user && px_admin_user(l->startup.user))
			return px_admin_welcome(c);
		admin_secret(c);
		return offer_scram(c);
	}
	if (l->options.ask_redirect)
		return px_external_console(c);
	if (l->name[0] == '\0' || l->ask_password)
	{
		l->ask_password = true;
		px_client_state(c, PX_CL_PASSWORD);
		return send_auth(c, 3, NULL, 0);
	}
	return offer_scram(c) && px_login_lookup(c);
}

/* ---------------------------------------------------------------- in with these keys */

static bool
let_in(PxClient *c, const px_keys *keys)
{
	if (c->login->fake)
		return px_login_refuse(c);
	if (c->login->admin)
		return px_admin_welcome(c);
	return px_login_accept_keys(c, keys);
}

/* ---------------------------------------------------------------- SCRAM */

static bool
scram_malformed(PxClient *c)
{
	px_count(protocol_errors_total);
	return px_client_fail(c, "08P01", "malformed SCRAM message", NULL, NULL);
}

static bool
scram_failed(PxClient *c, px_scram_result r)
{
	if (r == PX_SCRAM_BINDING)
		return px_client_fail(c, "28000", "SCRAM channel binding check failed",
							  "The client sees another certificate, or another offer, than this proxy shows.", "Somebody may be in between.");
	if (r == PX_SCRAM_MALFORMED)
		return scram_malformed(c);
	return px_login_refuse(c);
}

static bool
scram_first(PxClient *c, const uint8 *body, size_t len)
{
	PxLogin    *l = c->login;
	const PxCertificate *cert = certificate_of(c);
	px_sasl_initial first;
	uint8		nonce[PX_SCRAM_NONCE_BYTES];
	px_scram_result r;

	if (!px_sasl_initial_parse(body, len, &first))
		return scram_malformed(c);
	l->plus = strcmp(first.mechanism, "SCRAM-SHA-256-PLUS") == 0;
	if (!l->plus && strcmp(first.mechanism, "SCRAM-SHA-256") != 0)
		return px_client_fail(c, "08P01", "client selected an authentication mechanism that was not offered", NULL, NULL);
	if (l->plus && cert == NULL)
		return scram_malformed(c);
	if (!pg_strong_random(nonce, sizeof(nonce)))
		return px_client_fail(c, "XX000", "could not get random bytes", NULL, NULL);
	l->scram = px_alloc(sizeof(px_scram_server));
	r = px_scram_server_first(l->scram, first.response, first.response_len, l->plus, cert != NULL && cert->hash_len > 0, &l->secret, nonce);
	if (r != PX_SCRAM_OK)
		return scram_failed(c, r);
	px_client_state(c, PX_CL_SASL_FINAL);
	return send_auth(c, 11, l->scram->server_first, strlen(l->scram->server_first));
}

static bool
scram_final(PxClient *c, const uint8 *body, size_t len)
{
	PxLogin    *l = c->login;
	const PxCertificate *cert = certificate_of(c);
	px_keys		keys;
	px_scram_result r;

	r = px_scram_server_final(l->scram, (const char *) body, len, &l->secret, cert ? cert->hash : NULL, cert ? cert->hash_len : 0, &keys,
							  l->final, sizeof(l->final));
	if (r != PX_SCRAM_OK)
		return scram_failed(c, r);
	return let_in(c, &keys);
}

/* ---------------------------------------------------------------- cleartext */

static void
password_hash(const char *password, const PxLogin *l, uint8 out[32])
{
	unsigned int n = 32;
	uint8		key[64];

	memcpy(key, px_shared->secret, 32);
	memcpy(key + 32, l->secret.stored_key, 32);
	HMAC(EVP_sha256(), key, sizeof(key), (const uint8 *) password, strlen(password), out, &n);
}

/* The iterations take a millisecond: what was right a moment ago is known by a hash that is of no use elsewhere. */
static bool
check_password(PxClient *c)
{
	PxLogin    *l = c->login;
	char	   *prepared = NULL;
	const char *password = l->password;
	uint8		hash[32];
	px_keys		keys;
	bool		right;

	if (pg_saslprep(l->password, &prepared) == SASLPREP_SUCCESS)
		password = prepared;
	password_hash(password, l, hash);
	if (l->role && !l->fake && l->role->has_password && CRYPTO_memcmp(hash, l->role->password_hash, sizeof(hash)) == 0)
	{
		keys = l->role->password_keys;
		right = true;
	}
	else
		right = px_secret_check(&l->secret, password, &keys);
	if (prepared)
		pfree(prepared);
	if (right && l->role && !l->fake)
	{
		memcpy(l->role->password_hash, hash, sizeof(hash));
		l->role->password_keys = keys;
		l->role->has_password = true;
	}
	px_auth_forget(c);
	return right ? let_in(c, &keys) : px_login_refuse(c);
}

static bool
password_message(PxClient *c, const uint8 *body, size_t len)
{
	PxLogin    *l = c->login;
	const char *text = (const char *) body;
	size_t		skip = 0;
	char		name[PX_NAME_BYTES];

	if (!px_password_parse(body, len))
		return px_client_fail(c, "08P01", "invalid password packet", NULL, NULL);
	if (l->name[0] == '\0')
	{
		skip = px_password_prefix(text, name);
		if (skip == 0)
			return px_client_fail(c, "08004", "the connection does not say which endpoint it is for", NULL,
								  "Add options=endpoint=NAME to the connection string, or put endpoint=NAME; in front of the password.");
		if (px_name_strip_pooler(name))
			l->pooler = true;
		strlcpy(l->name, name, sizeof(l->name));
	}
	l->password = px_strdup(text + skip);
	px_client_state(c, PX_CL_LOOKUP);
	return px_login_lookup(c);
}

/* ---------------------------------------------------------------- */

bool
px_auth_message(PxClient *c, const px_head *head, const uint8 *body, size_t len)
{
	if (c->state != PX_CL_PASSWORD && len > PX_SCRAM_MAX_MESSAGE + 64)
		return scram_malformed(c);
	if (!c->login->role_ready && c->state == PX_CL_SASL_FIRST)
	{
		c->login->unready = true;
		return true;
	}
	switch (c->state)
	{
		case PX_CL_SASL_FIRST:
			return scram_first(c, body, len);
		case PX_CL_SASL_FINAL:
			return scram_final(c, body, len);
		default:
			return password_message(c, body, len);
	}
}

bool
px_auth_secret_ready(PxClient *c)
{
	if (c->state == PX_CL_LOOKUP)
		return check_password(c);
	return true;				/* SCRAM: the client's message goes on when it comes */
}

void
px_auth_forget(PxClient *c)
{
	PxLogin    *l = c->login;

	if (l && l->password)
	{
		explicit_bzero(l->password, strlen(l->password));
		px_free(l->password);
		l->password = NULL;
	}
}
