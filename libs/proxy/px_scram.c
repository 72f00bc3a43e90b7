/*
 * px_scram.c - SCRAM-SHA-256, both sides.
 *
 * Comparisons of what is secret take the same time whatever they find (CRYPTO_memcmp).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "px_scram.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#define FAKE_SALT_BYTES		16
#define DEFAULT_ITERATIONS	4096

/* ---------------------------------------------------------------- base64 */

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t
px_base64_encode(const uint8_t *in, size_t n, char *out, size_t cap)
{
	size_t		o = 0;

	if ((n + 2) / 3 * 4 + 1 > cap)
		return 0;
	for (size_t i = 0; i < n; i += 3)
	{
		uint32_t	v = (uint32_t) in[i] << 16 | (uint32_t) (i + 1 < n ? in[i + 1] : 0) << 8 | (i + 2 < n ? in[i + 2] : 0);

		out[o++] = alphabet[v >> 18];
		out[o++] = alphabet[v >> 12 & 63];
		out[o++] = i + 1 < n ? alphabet[v >> 6 & 63] : '=';
		out[o++] = i + 2 < n ? alphabet[v & 63] : '=';
	}
	out[o] = '\0';
	return o;
}

bool
px_base64_decode(const char *in, size_t n, uint8_t *out, size_t cap, size_t *len)
{
	size_t		o = 0;

	if (n % 4 != 0)
		return false;
	for (size_t i = 0; i < n; i += 4)
	{
		uint32_t	v = 0;
		int			pad = 0;

		for (int j = 0; j < 4; j++)
		{
			const char *at = in[i + j] ? strchr(alphabet, in[i + j]) : NULL;

			if (in[i + j] == '=' && j >= 2 && i + 4 == n)
				pad++;
			else if (at == NULL || pad)
				return false;
			v = v << 6 | (at ? (uint32_t) (at - alphabet) : 0);
		}
		if ((pad == 1 && (v & 0xff)) || (pad == 2 && (v & 0xffff)))
			return false;
		for (int j = 0; j < 3 - pad; j++)
		{
			if (o == cap)
				return false;
			out[o++] = (uint8_t) (v >> (16 - 8 * j));
		}
	}
	*len = o;
	return true;
}

/* ---------------------------------------------------------------- hashes */

static bool
hmac(const uint8_t key[PX_KEY_BYTES], const void *data, size_t n, uint8_t out[PX_KEY_BYTES])
{
	unsigned int len = PX_KEY_BYTES;

	return HMAC(EVP_sha256(), key, PX_KEY_BYTES, data, n, out, &len) != NULL;
}

/* HMAC of first_bare , server_first , final_without_proof */
static bool
hmac_exchange(const uint8_t key[PX_KEY_BYTES], const char *first, const char *server_first, const char *last, size_t last_len,
			  uint8_t out[PX_KEY_BYTES])
{
	char		all[3 * PX_SCRAM_MAX_MESSAGE + 2];
	size_t		a = strlen(first);
	size_t		b = strlen(server_first);

	if (a + b + last_len + 2 > sizeof(all))
		return false;
	memcpy(all, first, a);
	all[a] = ',';
	memcpy(all + a + 1, server_first, b);
	all[a + 1 + b] = ',';
	memcpy(all + a + b + 2, last, last_len);
	return hmac(key, all, a + b + 2 + last_len, out);
}

/* ---------------------------------------------------------------- secrets */

bool
px_secret_parse(const char *text, px_secret *secret)
{
	const char *p = text;
	char	   *end;
	size_t		n;
	size_t		len;
	unsigned long it;

	memset(secret, 0, sizeof(*secret));
	if (strncmp(p, "SCRAM-SHA-256$", 14) != 0)
		return false;
	p += 14;
	if (*p < '1' || *p > '9')
		return false;
	it = strtoul(p, &end, 10);
	if (*end != ':' || it < PX_SCRAM_MIN_ITERATIONS || it > PX_SCRAM_MAX_ITERATIONS)
		return false;
	secret->iterations = (uint32_t) it;
	p = end + 1;
	n = strcspn(p, "$");
	if (p[n] != '$' || !px_base64_decode(p, n, secret->salt, sizeof(secret->salt), &len) || len == 0)
		return false;
	secret->salt_len = (uint32_t) len;
	p += n + 1;
	n = strcspn(p, ":");
	if (p[n] != ':' || !px_base64_decode(p, n, secret->stored_key, PX_KEY_BYTES, &len) || len != PX_KEY_BYTES)
		return false;
	p += n + 1;
	return px_base64_decode(p, strlen(p), secret->server_key, PX_KEY_BYTES, &len) && len == PX_KEY_BYTES;
}

bool
px_secret_print(const px_secret *secret, char *text, size_t cap)
{
	char		salt[PX_SCRAM_MAX_SALT * 2];
	char		stored[48];
	char		server[48];

	px_base64_encode(secret->salt, secret->salt_len, salt, sizeof(salt));
	px_base64_encode(secret->stored_key, PX_KEY_BYTES, stored, sizeof(stored));
	px_base64_encode(secret->server_key, PX_KEY_BYTES, server, sizeof(server));
	return (size_t) snprintf(text, cap, "SCRAM-SHA-256$%u:%s$%s:%s", secret->iterations, salt, stored, server) < cap;
}

void
px_secret_fake(const uint8_t seed[32], const char *endpoint, const char *role, px_secret *secret)
{
	uint8_t		name[PX_KEY_BYTES];

	memset(secret, 0, sizeof(*secret));
	secret->iterations = DEFAULT_ITERATIONS;
	hmac(seed, endpoint, strlen(endpoint) + 1, name);
	hmac(name, role, strlen(role), name);
	memcpy(secret->salt, name, FAKE_SALT_BYTES);
	secret->salt_len = FAKE_SALT_BYTES;
	hmac(seed, name, sizeof(name), secret->stored_key);
	hmac(seed, secret->stored_key, PX_KEY_BYTES, secret->server_key);
}

bool
px_secret_make(const char *password, const uint8_t *salt, size_t salt_len, uint32_t iterations, px_secret *secret, px_keys *keys)
{
	uint8_t		salted[PX_KEY_BYTES];
	px_keys		k;
	bool		ok;

	memset(secret, 0, sizeof(*secret));
	if (salt_len == 0 || salt_len > PX_SCRAM_MAX_SALT)
		return false;
	secret->iterations = iterations;
	memcpy(secret->salt, salt, salt_len);
	secret->salt_len = (uint32_t) salt_len;
	ok = PKCS5_PBKDF2_HMAC(password, (int) strlen(password), salt, (int) salt_len, (int) iterations, EVP_sha256(), PX_KEY_BYTES, salted) == 1 &&
		hmac(salted, "Client Key", 10, k.client_key) && hmac(salted, "Server Key", 10, k.server_key);
	if (ok)
	{
		SHA256(k.client_key, PX_KEY_BYTES, secret->stored_key);
		memcpy(secret->server_key, k.server_key, PX_KEY_BYTES);
		if (keys)
			*keys = k;
	}
	OPENSSL_cleanse(salted, sizeof(salted));
	OPENSSL_cleanse(&k, sizeof(k));
	return ok;
}

bool
px_secret_check(const px_secret *secret, const char *password, px_keys *keys)
{
	px_secret	other;

	return px_secret_make(password, secret->salt, secret->salt_len, secret->iterations, &other, keys) &&
		CRYPTO_memcmp(other.stored_key, secret->stored_key, PX_KEY_BYTES) == 0;
}

/* ---------------------------------------------------------------- messages */

/* An attribute "x=value" at *p, ended by a comma or the end; moves past it. */
static bool
attribute(const char **p, const char *end, char name, const char **value, size_t *n)
{
	const char *comma;

	if (end - *p < 2 || (*p)[0] != name || (*p)[1] != '=')
		return false;
	*value = *p + 2;
	comma = memchr(*value, ',', (size_t) (end - *value));
	*n = (size_t) ((comma ? comma : end) - *value);
	*p = comma ? comma + 1 : end;
	return true;
}

static bool
nonce_ok(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (s[i] < 0x21 || s[i] > 0x7e || s[i] == ',')
			return false;
	return n > 0 && n <= PX_SCRAM_MAX_NONCE;
}

px_scram_result
px_scram_server_first(px_scram_server *s, const char *msg, size_t len, bool plus, bool can_bind, const px_secret *secret,
					  const uint8_t nonce[PX_SCRAM_NONCE_BYTES])
{
	const char *p = msg;
	const char *end = msg + len;
	const char *value;
	size_t		n;
	char		ours[PX_SCRAM_NONCE_BYTES * 2];
	char		salt[PX_SCRAM_MAX_SALT * 2];

	if (len < 4 || len >= PX_SCRAM_MAX_MESSAGE || memchr(msg, 0, len))
		return PX_SCRAM_MALFORMED;
	s->binding = *p;
	if (*p == 'p')
	{
		if (!plus || !attribute(&p, end, 'p', &value, &n) || n != 20 || memcmp(value, "tls-server-end-point", 20) != 0)
			return PX_SCRAM_MALFORMED;
	}
	else if (*p == 'n' || *p == 'y')
	{
		if (plus || p[1] != ',')
			return PX_SCRAM_MALFORMED;
		if (*p == 'y' && can_bind)	/* somebody took the offer out of our list */
			return PX_SCRAM_BINDING;
		p += 2;
	}
	else
		return PX_SCRAM_MALFORMED;
	if (p >= end || *p != ',')	/* no authorization identity */
		return PX_SCRAM_MALFORMED;
	p++;
	memcpy(s->first_bare, p, (size_t) (end - p));
	s->first_bare[end - p] = '\0';
	if (!attribute(&p, end, 'n', &value, &n) || !attribute(&p, end, 'r', &value, &n) || !nonce_ok(value, n) || p != end)
		return PX_SCRAM_MALFORMED;
	px_base64_encode(nonce, PX_SCRAM_NONCE_BYTES, ours, sizeof(ours));
	memcpy(s->nonce, value, n);
	memcpy(s->nonce + n, ours, strlen(ours) + 1);
	px_base64_encode(secret->salt, secret->salt_len, salt, sizeof(salt));
	snprintf(s->server_first, sizeof(s->server_first), "r=%s,s=%s,i=%u", s->nonce, salt, secret->iterations);
	return PX_SCRAM_OK;
}

/* What the client must send as c=: its first message's header, with the hash of our certificate when it binds. */
static bool
binding_matches(const px_scram_server *s, const char *c, size_t n, const uint8_t *binding, size_t binding_len)
{
	uint8_t		raw[160];
	char		wanted[224];
	size_t		len;

	if (s->binding == 'p')
	{
		len = 24;
		memcpy(raw, "p=tls-server-end-point,,", len);
		if (binding_len == 0 || len + binding_len > sizeof(raw))
			return false;
		memcpy(raw + len, binding, binding_len);
		len += binding_len;
	}
	else
	{
		raw[0] = (uint8_t) s->binding;
		raw[1] = raw[2] = ',';
		len = 3;
	}
	len = px_base64_encode(raw, len, wanted, sizeof(wanted));
	return len == n && CRYPTO_memcmp(wanted, c, n) == 0;
}

static bool
proof_matches(const px_scram_server *s, const char *msg, size_t without_proof, const uint8_t proof[PX_KEY_BYTES], const px_secret *secret,
			  px_keys *keys)
{
	uint8_t		signature[PX_KEY_BYTES];
	uint8_t		hash[PX_KEY_BYTES];

	if (!hmac_exchange(secret->stored_key, s->first_bare, s->server_first, msg, without_proof, signature))
		return false;
	for (int i = 0; i < PX_KEY_BYTES; i++)
		keys->client_key[i] = proof[i] ^ signature[i];
	SHA256(keys->client_key, PX_KEY_BYTES, hash);
	memcpy(keys->server_key, secret->server_key, PX_KEY_BYTES);
	return CRYPTO_memcmp(hash, secret->stored_key, PX_KEY_BYTES) == 0;
}

px_scram_result
px_scram_server_final(const px_scram_server *s, const char *msg, size_t len, const px_secret *secret, const uint8_t *binding,
					  size_t binding_len, px_keys *keys, char *answer, size_t cap)
{
	const char *p = msg;
	const char *end = msg + len;
	const char *c;
	const char *r;
	const char *proof64;
	size_t		cn,
				rn,
				pn,
				n;
	size_t		without_proof;
	uint8_t		proof[PX_KEY_BYTES];
	uint8_t		signature[PX_KEY_BYTES];
	char		text[48];

	memset(keys, 0, sizeof(*keys));
	if (len >= PX_SCRAM_MAX_MESSAGE || memchr(msg, 0, len) || !attribute(&p, end, 'c', &c, &cn) || !attribute(&p, end, 'r', &r, &rn))
		return PX_SCRAM_MALFORMED;
	without_proof = (size_t) (p - msg) - (p == end ? 0 : 1);
	if (!attribute(&p, end, 'p', &proof64, &pn) || p != end || (size_t) (proof64 - msg) != without_proof + 3 ||
		!px_base64_decode(proof64, pn, proof, sizeof(proof), &n) || n != PX_KEY_BYTES)
		return PX_SCRAM_MALFORMED;
	if (rn != strlen(s->nonce) || CRYPTO_memcmp(r, s->nonce, rn) != 0)
		return PX_SCRAM_MALFORMED;
	if (!binding_matches(s, c, cn, binding, binding_len))
		return PX_SCRAM_BINDING;
	if (!proof_matches(s, msg, without_proof, proof, secret, keys))
	{
		OPENSSL_cleanse(keys, sizeof(*keys));
		return PX_SCRAM_NO_MATCH;
	}
	if (!hmac_exchange(secret->server_key, s->first_bare, s->server_first, msg, without_proof, signature))
		return PX_SCRAM_MALFORMED;
	px_base64_encode(signature, sizeof(signature), text, sizeof(text));
	snprintf(answer, cap, "v=%s", text);
	return PX_SCRAM_OK;
}

/* ---------------------------------------------------------------- as the client */

size_t
px_scram_client_first(px_scram_client *c, const uint8_t nonce[PX_SCRAM_NONCE_BYTES], char *out, size_t cap)
{
	int			n;

	px_base64_encode(nonce, PX_SCRAM_NONCE_BYTES, c->nonce, sizeof(c->nonce));
	n = snprintf(out, cap, "n,,n=,r=%s", c->nonce);	/* the user is the startup packet's */
	return n > 0 && (size_t) n < cap ? (size_t) n : 0;
}

size_t
px_scram_client_final(px_scram_client *c, const px_keys *keys, const char *server_first, size_t len, char *out, size_t cap)
{
	const char *p = server_first;
	const char *end = server_first + len;
	const char *r,
			   *salt,
			   *it;
	size_t		rn,
				sn,
				in;
	size_t		own = strlen(c->nonce);
	char		first[PX_SCRAM_NONCE_BYTES * 2 + 8];
	char		server[PX_SCRAM_MAX_MESSAGE];
	uint8_t		stored[PX_KEY_BYTES];
	uint8_t		proof[PX_KEY_BYTES];
	char		text[48];
	int			n;

	if (len >= sizeof(server) || memchr(server_first, 0, len) || !attribute(&p, end, 'r', &r, &rn) || !attribute(&p, end, 's', &salt, &sn) ||
		!attribute(&p, end, 'i', &it, &in) || rn <= own || rn > 2 * PX_SCRAM_MAX_NONCE || memcmp(r, c->nonce, own) != 0)
		return 0;
	memcpy(server, server_first, len);
	server[len] = '\0';
	snprintf(first, sizeof(first), "n=,r=%s", c->nonce);
	n = snprintf(out, cap, "c=biws,r=%.*s", (int) rn, r);
	if (n < 0 || (size_t) n + 48 > cap)
		return 0;
	SHA256(keys->client_key, PX_KEY_BYTES, stored);
	if (!hmac_exchange(stored, first, server, out, (size_t) n, proof) ||
		!hmac_exchange(keys->server_key, first, server, out, (size_t) n, c->server_signature))
		return 0;
	for (int i = 0; i < PX_KEY_BYTES; i++)
		proof[i] ^= keys->client_key[i];
	px_base64_encode(proof, sizeof(proof), text, sizeof(text));
	n += snprintf(out + n, cap - (size_t) n, ",p=%s", text);
	return (size_t) n < cap ? (size_t) n : 0;
}

bool
px_scram_client_check(const px_scram_client *c, const char *server_final, size_t len)
{
	uint8_t		signature[PX_KEY_BYTES];
	size_t		n;

	return len > 2 && server_final[0] == 'v' && server_final[1] == '=' &&
		px_base64_decode(server_final + 2, len - 2, signature, sizeof(signature), &n) && n == PX_KEY_BYTES &&
		CRYPTO_memcmp(signature, c->server_signature, PX_KEY_BYTES) == 0;
}
