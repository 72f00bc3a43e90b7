/*
 * px_wire.c - heads of messages, startup packets, errors, names in the extended protocol.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "px_wire.h"

#include <string.h>

#define CODE_CANCEL	80877102u
#define CODE_SSL	80877103u
#define CODE_GSS	80877104u

static uint32_t
be32(const uint8_t *p)
{
	return (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16 | (uint32_t) p[2] << 8 | p[3];
}

bool
px_head_parse(const uint8_t *p, px_head *head)
{
	uint32_t	len = be32(p + 1);

	head->type = p[0];
	if (len < 4 || len > PX_MAX_MESSAGE_BYTES)
		return false;
	head->len = len + 1;
	return true;
}

bool
px_client_type(uint8_t type)
{
	return type != 0 && strchr("QPBDECSHFdcfX", type) != NULL;
}

bool
px_server_type(uint8_t type)
{
	return type != 0 && strchr("RSKTDCZENA123nstIGHWVdcv", type) != NULL;
}

/* ---------------------------------------------------------------- the first packet */

static px_first
bad(px_startup *out, const char *why)
{
	out->why = why;
	return out->kind = PX_FIRST_BAD;
}

/* pairs of strings from `at` on, ended by an empty name that is the packet's last byte */
static px_first
parse_pairs(const uint8_t *p, uint32_t len, uint32_t at, px_startup *out)
{
	if (p[len - 1] != 0)
		return bad(out, "startup packet does not end with a zero byte");
	while (at < len && p[at] != 0)
	{
		const char *name = (const char *) p + at;
		const char *value;

		at += (uint32_t) strlen(name) + 1;
		if (at >= len)
			return bad(out, "startup packet ends within a parameter");
		value = (const char *) p + at;
		at += (uint32_t) strlen(value) + 1;
		if (at >= len)			/* the terminator itself */
			return bad(out, "startup packet has no terminator");
		if (strncmp(name, "_pq_.", 5) == 0)
		{
			if (out->nextensions == PX_MAX_EXTENSIONS)
				return bad(out, "startup packet has too many protocol extensions");
			out->extension[out->nextensions++] = name;
		}
		else if (out->npairs == PX_MAX_STARTUP_PAIRS)
			return bad(out, "startup packet has too many parameters");
		else
		{
			out->pair[out->npairs].name = name;
			out->pair[out->npairs++].value = value;
		}
		if (strcmp(name, "user") == 0)
			out->user = value;
		else if (strcmp(name, "database") == 0)
			out->database = value;
		else if (strcmp(name, "options") == 0)
			out->options = value;
		else if (strcmp(name, "replication") == 0)
			out->replication = value;
	}
	if (at != len - 1)
		return bad(out, "startup packet has bytes after its end");
	if (out->user == NULL || out->user[0] == '\0')
		return bad(out, "startup packet names no user");
	if (out->database == NULL || out->database[0] == '\0')
		out->database = out->user;
	if (out->replication && (strcmp(out->replication, "false") == 0 || strcmp(out->replication, "off") == 0 ||
							 strcmp(out->replication, "no") == 0 || strcmp(out->replication, "0") == 0))
		out->replication = NULL;
	return out->kind = PX_FIRST_STARTUP;
}

px_first
px_startup_parse(const uint8_t *p, size_t len, px_startup *out)
{
	uint32_t	code;

	memset(out, 0, sizeof(*out));
	if (len < 4)
		return PX_FIRST_MORE;
	out->len = be32(p);
	if (out->len < 8 || out->len > PX_MAX_STARTUP_BYTES)
		return bad(out, "invalid length of startup packet");
	if (len < 8)
		return PX_FIRST_MORE;
	code = be32(p + 4);
	if (code == CODE_SSL || code == CODE_GSS)
	{
		if (out->len != 8)
			return bad(out, "invalid length of an encryption request");
		return out->kind = code == CODE_SSL ? PX_FIRST_SSL : PX_FIRST_GSS;
	}
	if (code != CODE_CANCEL && code >> 16 != 3)
		return bad(out, "unsupported protocol version");
	if (code == CODE_CANCEL && out->len != 16)
		return bad(out, "invalid length of a cancel request");
	if (len < out->len)
		return PX_FIRST_MORE;
	if (code == CODE_CANCEL)
	{
		out->cancel_key = (uint64_t) be32(p + 8) << 32 | be32(p + 12);
		return out->kind = PX_FIRST_CANCEL;
	}
	out->minor = (uint16_t) (code & 0xffff);
	if (out->len < 9)
		return bad(out, "startup packet names no user");
	return parse_pairs(p, out->len, 8, out);
}

/* ---------------------------------------------------------------- options */

/* Copies one word without its quoting; false when it does not fit. */
static const char *
next_word(const char *s, char *word, size_t cap, bool *fits)
{
	size_t		n = 0;

	*fits = true;
	while (*s != '\0' && *s != ' ' && *s != '\t' && *s != '\n')
	{
		if (*s == '\\' && s[1] != '\0')
			s++;
		if (n + 1 < cap)
			word[n++] = *s;
		else
			*fits = false;
		s++;
	}
	word[n] = '\0';
	return s;
}

static const char *
after(const char *word, const char *prefix)
{
	while (*prefix && *word == *prefix)
		word++, prefix++;
	return *prefix ? NULL : word;
}

void
px_options_parse(const char *options, px_options *out, char *rest, size_t rest_cap)
{
	char		word[160];
	bool		fits;

	memset(out, 0, sizeof(*out));
	out->ok = true;
	for (const char *s = options; s && *s;)
	{
		const char *begin;
		const char *name;

		while (*s == ' ' || *s == '\t' || *s == '\n')
			s++;
		if (*s == '\0')
			break;
		begin = s;
		s = next_word(s, word, sizeof(word), &fits);
		name = after(word, "endpoint=");
		if (name == NULL)
			name = after(word, "project=");
		if (name)
		{
			if (!fits || strlen(name) >= sizeof(out->endpoint) || name[0] == '\0' || (out->endpoint[0] && strcmp(out->endpoint, name) != 0))
				out->ok = false;
			else
				memcpy(out->endpoint, name, strlen(name) + 1);
		}
		else if (fits && strcmp(word, "auth=password") == 0)
			out->ask_password = true;
		else if (fits && strcmp(word, "auth=console") == 0)
			out->ask_redirect = true;
		else
		{
			size_t		n = (size_t) (s - begin);

			if (out->rest_len + n + 2 > rest_cap)
			{
				out->ok = false;
				break;
			}
			if (out->rest_len)
				rest[out->rest_len++] = ' ';
			memcpy(rest + out->rest_len, begin, n);
			out->rest_len += n;
		}
	}
	if (rest_cap)
		rest[out->rest_len] = '\0';
}

/* ---------------------------------------------------------------- messages of the proxy itself */

static size_t
begin(neon_writer *w, uint8_t *buf, size_t cap, char type)
{
	neon_writer_init(w, buf, cap);
	neon_put_u8(w, (uint8_t) type);
	neon_put_u32(w, 0);
	return 0;
}

static size_t
finish(neon_writer *w)
{
	uint32_t	len;

	if (!w->ok)
		return 0;
	len = (uint32_t) w->len - 1;
	w->buf[1] = (uint8_t) (len >> 24);
	w->buf[2] = (uint8_t) (len >> 16);
	w->buf[3] = (uint8_t) (len >> 8);
	w->buf[4] = (uint8_t) len;
	return w->len;
}

static void
field(neon_writer *w, char type, const char *value)
{
	if (value == NULL)
		return;
	neon_put_u8(w, (uint8_t) type);
	neon_put_bytes(w, value, strlen(value) + 1);
}

size_t
px_put_error(uint8_t *buf, size_t cap, const px_error *e)
{
	neon_writer w;
	bool		notice = strcmp(e->severity, "NOTICE") == 0 || strcmp(e->severity, "WARNING") == 0;

	begin(&w, buf, cap, notice ? 'N' : 'E');
	field(&w, 'S', e->severity);
	field(&w, 'V', e->severity);
	field(&w, 'C', e->sqlstate);
	field(&w, 'M', e->message);
	field(&w, 'D', e->detail);
	field(&w, 'H', e->hint);
	neon_put_u8(&w, 0);
	return finish(&w);
}

size_t
px_put_message(uint8_t *buf, size_t cap, char type, const void *body, size_t len)
{
	neon_writer w;

	begin(&w, buf, cap, type);
	neon_put_bytes(&w, body, len);
	return finish(&w);
}

size_t
px_put_pair(uint8_t *buf, size_t cap, const char *name, const char *value)
{
	neon_writer w;

	begin(&w, buf, cap, 'S');
	neon_put_bytes(&w, name, strlen(name) + 1);
	neon_put_bytes(&w, value, strlen(value) + 1);
	return finish(&w);
}

size_t
px_put_auth(uint8_t *buf, size_t cap, uint32_t code, const void *body, size_t len)
{
	neon_writer w;

	begin(&w, buf, cap, 'R');
	neon_put_u32(&w, code);
	if (len)
		neon_put_bytes(&w, body, len);
	return finish(&w);
}

size_t
px_put_key(uint8_t *buf, size_t cap, uint64_t key)
{
	neon_writer w;

	begin(&w, buf, cap, 'K');
	neon_put_u64(&w, key);
	return finish(&w);
}

size_t
px_put_ready(uint8_t *buf, size_t cap, char status)
{
	return px_put_message(buf, cap, 'Z', &status, 1);
}

size_t
px_put_cancel(uint8_t *buf, size_t cap, uint64_t key)
{
	neon_writer w;

	neon_writer_init(&w, buf, cap);
	neon_put_u32(&w, 16);
	neon_put_u32(&w, CODE_CANCEL);
	neon_put_u64(&w, key);
	return w.ok ? w.len : 0;
}

const char *
px_error_field(const uint8_t *body, size_t len, char wanted)
{
	size_t		at = 0;

	while (at < len && body[at] != 0)
	{
		const uint8_t *end = memchr(body + at + 1, 0, len - at - 1);

		if (end == NULL)
			return NULL;
		if (body[at] == (uint8_t) wanted)
			return (const char *) body + at + 1;
		at = (size_t) (end - body) + 1;
	}
	return NULL;
}

bool
px_parse_pair(const uint8_t *body, size_t len, px_pair *pair)
{
	const uint8_t *end = memchr(body, 0, len);

	if (end == NULL)
		return false;
	pair->name = (const char *) body;
	pair->value = (const char *) end + 1;
	len -= (size_t) (end + 1 - body);
	return len > 0 && memchr(end + 1, 0, len) == end + len;
}

/* ---------------------------------------------------------------- extended protocol */

px_named_result
px_named_parse(const uint8_t *p, size_t have, const px_head *head, px_named *out)
{
	size_t		end = have < head->len ? have : head->len;
	size_t		at = PX_HEAD_BYTES;
	int			strings = 1;
	const char *name[2];
	px_named_result unfinished = have < head->len ? PX_NAMED_MORE : PX_NAMED_BAD;

	memset(out, 0, sizeof(*out));
	if (head->type == 'B')
		strings = 2;
	else if (head->type == 'D' || head->type == 'C')
	{
		if (at >= end)
			return unfinished;
		if (p[at] != 'S' && p[at] != 'P')
			return PX_NAMED_BAD;
		at++;
	}
	for (int i = 0; i < strings; i++)
	{
		const uint8_t *zero = at < end ? memchr(p + at, 0, end - at) : NULL;

		if (zero == NULL)
			return unfinished;
		name[i] = (const char *) p + at;
		at = (size_t) (zero - p) + 1;
	}
	out->portal = strings == 2 ? name[0] : NULL;
	out->statement = name[strings - 1];
	out->rest = (uint32_t) at;
	if (head->type == 'D' || head->type == 'C')
	{
		if (p[PX_HEAD_BYTES] == 'P')
		{
			out->portal = out->statement;
			out->statement = NULL;
		}
		if (at != head->len)
			return PX_NAMED_BAD;
	}
	return PX_NAMED_OK;
}

bool
px_sasl_initial_parse(const uint8_t *body, size_t len, px_sasl_initial *out)
{
	const uint8_t *zero = len > 0 ? memchr(body, 0, len) : NULL;
	size_t		at;

	if (zero == NULL || (at = (size_t) (zero - body) + 1) + 4 > len || be32(body + at) != len - at - 4)
		return false;
	out->mechanism = (const char *) body;
	out->response = (const char *) body + at + 4;
	out->response_len = len - at - 4;
	return true;
}

bool
px_password_parse(const uint8_t *body, size_t len)
{
	return len > 0 && len <= PX_MAX_PASSWORD_BYTES && memchr(body, 0, len) == body + len - 1;
}

size_t
px_first_request(const uint8_t *p, size_t have, bool *to_sync)
{
	size_t		at = 0;
	px_head		head;

	*to_sync = false;
	while (have - at >= PX_HEAD_BYTES && px_head_parse(p + at, &head) && head.len <= have - at)
	{
		if (at == 0 && (head.type == 'Q' || head.type == 'F'))
			return head.len;
		if (at == 0 && (head.type == 0 || strchr("PBDEC", head.type) == NULL))
			return 0;			/* what needs no server, or ends the connection */
		if (head.type == 'X')
			break;
		at += head.len;
		if (head.type == 'S')
			return at;
	}
	*to_sync = at > 0;
	return at;
}
