/*
 * neon_http_request.c - what a client says before anybody knows who it is.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_http_request.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define PP2_TYPE_AUTHORITY 0x02
#define PP2_TYPE_NEON 0xE0

int64_t
nh_content_length(const char *text, int64_t max)
{
	size_t		n = strlen(text);

	if (n == 0 || n > 18 || strspn(text, "0123456789") != n || strtoll(text, NULL, 10) > max)
		return -1;
	return strtoll(text, NULL, 10);
}

/* ---- the console page ---- */

bool
nh_is_secret(const char *s)
{
	return strlen(s) == NH_SESSION_CHARS && strspn(s, "0123456789abcdef") == NH_SESSION_CHARS;
}

bool
nh_session_cookie(const char *cookies, const char *name, char session[NH_SESSION_CHARS + 1])
{
	size_t		name_len = strlen(name);

	session[0] = '\0';
	for (const char *c = cookies; c && *c;)
	{
		size_t		n = strcspn(c, ";");

		if (n == name_len + 1 + NH_SESSION_CHARS && memcmp(c, name, name_len) == 0 && c[name_len] == '=')
		{
			memcpy(session, c + name_len + 1, NH_SESSION_CHARS);
			session[NH_SESSION_CHARS] = '\0';
			if (nh_is_secret(session))
				return true;
		}
		c += n;
		c += strspn(c, "; ");
	}
	session[0] = '\0';
	return false;
}

bool
nh_from_our_page(NhHeader header, void *arg)
{
	const char *mark = header(arg, "x-neon-console");
	const char *origin = header(arg, "origin");
	const char *host = header(arg, "host");
	const char *site = header(arg, "sec-fetch-site");
	const char *type = header(arg, "content-type");
	const char *slashes = origin ? strstr(origin, "://") : NULL;

	return mark && strcmp(mark, "1") == 0 && type && strncmp(type, "application/json", 16) == 0 &&
		(!origin || (slashes && host && strcasecmp(slashes + 3, host) == 0)) && (!site || strcmp(site, "same-origin") == 0);
}

bool
nh_call_name(const char *name)
{
	size_t		n = strlen(name);

	return n > 0 && n <= NH_MAX_CALL_CHARS && strspn(name, "abcdefghijklmnopqrstuvwxyz_") == n;
}

bool
nh_login(const json_t *body, NhLogin *login)
{
	login->token = json_string_value(json_object_get(body, "token"));
	login->user = json_string_value(json_object_get(body, "user"));
	login->password = json_string_value(json_object_get(body, "password"));
	if (login->token && strlen(login->token) < NH_MAX_FIELD_BYTES)
		return true;
	login->token = NULL;
	return login->user && login->password && login->user[0] && strlen(login->user) < NH_MAX_FIELD_BYTES &&
		strlen(login->password) < NH_MAX_FIELD_BYTES;
}

/* ---- WebSockets ---- */

bool
nh_websocket_path(const char *path)
{
	return strcmp(path, "/v2") == 0 || strcmp(path, "/v1") == 0;
}

void
nh_websocket_argument(const char *argument, char host[NH_MAX_HOST_BYTES])
{
	if (strncmp(argument, "address=", 8) == 0 && strlen(argument + 8) < NH_MAX_HOST_BYTES)
		strcpy(host, argument + 8);
}

static void
put_tlv(NhBuf *b, int type, const char *value)
{
	size_t		n = strlen(value);

	nh_putc(b, (char) type);
	nh_putc(b, (char) (n >> 8));
	nh_putc(b, (char) n);
	nh_put(b, value, n);
}

/* The destination is of no interest and left zero. */
void
nh_proxy_header(NhBuf *out, const char *address, const char *host)
{
	static const char signature[12] = "\r\n\r\n\0\r\nQUIT\n";
	char		bytes[36] = {0};
	struct in_addr v4;
	int			family = 0x11;
	size_t		address_len = 12;
	size_t		begin;
	size_t		len;
	char		name[NH_MAX_HOST_BYTES] = "";
	char		label[NH_MAX_HOST_BYTES];

	if (inet_pton(AF_INET, address, &v4) == 1)
		memcpy(bytes, &v4, 4);
	else if (inet_pton(AF_INET6, address, bytes) == 1)
	{
		family = 0x21;
		address_len = 36;
	}
	if (strlen(host) < sizeof(name))
		strcpy(name, host);
	if (host[0] != '[')
		name[strcspn(name, ":")] = '\0';
	nh_put(out, signature, sizeof(signature));
	nh_putc(out, 0x21);
	nh_putc(out, (char) family);
	nh_putc(out, 0);
	nh_putc(out, 0);
	begin = out->len;
	nh_put(out, bytes, address_len);
	if (nh_endpoint_label(name, label, sizeof(label)))
		put_tlv(out, PP2_TYPE_AUTHORITY, name);
	put_tlv(out, PP2_TYPE_NEON, "password");
	if (out->failed)
		return;
	len = out->len - begin;
	out->data[begin - 2] = (char) (len >> 8);
	out->data[begin - 1] = (char) len;
}
