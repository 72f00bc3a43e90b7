/*
 * neon_http_json.c - text of PostgreSQL values as JSON.
 *
 * What becomes a JSON number is what a double holds without loss: int2, int4, float4, float8 (finite).  int8 and numeric stay strings,
 * as the drivers of node-postgres have it.  json and jsonb are JSON already and go through as they are.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_http_json.h"

#include <stdio.h>
#include <string.h>

#define BOOL_OID 16
#define INT2_OID 21
#define INT4_OID 23
#define JSON_OID 114
#define FLOAT4_OID 700
#define FLOAT8_OID 701
#define JSONB_OID 3802
#define TEXT_OID 25

#define MIN_BUFFER_BYTES 256

static const struct
{
	uint32_t	array;
	uint32_t	element;
}			arrays[] = {
	{1000, BOOL_OID}, {1005, INT2_OID}, {1007, INT4_OID}, {1021, FLOAT4_OID}, {1022, FLOAT8_OID}, {199, JSON_OID}, {3807, JSONB_OID},
	/* elements that stay strings: text, varchar, bpchar, "char", name, int8, numeric, oid, uuid, bytea, dates and times, addresses */
	{1009, TEXT_OID}, {1015, TEXT_OID}, {1014, TEXT_OID}, {1002, TEXT_OID}, {1003, TEXT_OID}, {1016, TEXT_OID}, {1231, TEXT_OID},
	{1028, TEXT_OID}, {2951, TEXT_OID}, {1001, TEXT_OID}, {1182, TEXT_OID}, {1183, TEXT_OID}, {1270, TEXT_OID}, {1115, TEXT_OID},
	{1185, TEXT_OID}, {1187, TEXT_OID}, {1041, TEXT_OID}, {651, TEXT_OID}, {1040, TEXT_OID}, {775, TEXT_OID}, {791, TEXT_OID},
	{1561, TEXT_OID}, {1563, TEXT_OID}, {143, TEXT_OID}, {2949, TEXT_OID}
};

uint32_t
nh_array_element(uint32_t type_oid)
{
	for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++)
		if (arrays[i].array == type_oid)
			return arrays[i].element;
	return 0;
}

char *
nh_reserve(NhBuf *b, size_t len)
{
	size_t		want;
	char	   *data;

	if (b->failed || len > b->limit_bytes || b->len > b->limit_bytes - len)
	{
		b->failed = true;
		return NULL;
	}
	want = b->len + len;
	if (want > b->size)
	{
		size_t		size = b->size < MIN_BUFFER_BYTES ? MIN_BUFFER_BYTES : b->size;

		while (size < want)
			size *= 2;
		data = b->realloc(b->data, size);
		if (!data)
		{
			b->failed = true;
			return NULL;
		}
		b->data = data;
		b->size = size;
	}
	return b->data + b->len;
}

void
nh_put(NhBuf *b, const void *data, size_t len)
{
	char	   *to = len > 0 ? nh_reserve(b, len) : NULL;

	if (!to)
		return;
	memcpy(to, data, len);
	b->len += len;
}

void
nh_put_behind(NhBuf *b, size_t *taken, const void *data, size_t len)
{
	if (*taken > 0 && b->len + len > b->limit_bytes / 2)
	{
		memmove(b->data, b->data + *taken, b->len - *taken);
		b->len -= *taken;
		*taken = 0;
	}
	nh_put(b, data, len);
}

void
nh_puts(NhBuf *b, const char *s)
{
	nh_put(b, s, strlen(s));
}

void
nh_putc(NhBuf *b, char c)
{
	nh_put(b, &c, 1);
}

void
nh_put_int(NhBuf *b, int64_t n)
{
	char		text[24];

	nh_put(b, text, snprintf(text, sizeof(text), "%lld", (long long) n));
}

/* Length of the UTF-8 sequence that begins here, 0 when there is none: no overlong forms, no surrogates, at most U+10FFFF. */
static size_t
utf8_length(const unsigned char *s, size_t len)
{
	size_t		n;

	if (s[0] < 0x80)
		return 1;
	if (s[0] < 0xC2 || s[0] > 0xF4)
		return 0;
	n = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
	if (n > len)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xC0) != 0x80)
			return 0;
	if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))
		return 0;
	return n;
}

static void
json_escape(NhBuf *b, unsigned char c)
{
	char		text[8];

	switch (c)
	{
		case '"':
			nh_puts(b, "\\\"");
			return;
		case '\\':
			nh_puts(b, "\\\\");
			return;
		case '\n':
			nh_puts(b, "\\n");
			return;
		case '\r':
			nh_puts(b, "\\r");
			return;
		case '\t':
			nh_puts(b, "\\t");
			return;
		default:
			snprintf(text, sizeof(text), "\\u%04x", c);
			nh_puts(b, text);
	}
}

void
nh_json_string(NhBuf *b, const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *) s;
	size_t		done = 0,
				i = 0;

	nh_putc(b, '"');
	while (i < len)
	{
		size_t		n = utf8_length(p + i, len - i);

		if (n > 1 || (n == 1 && p[i] >= 0x20 && p[i] != '"' && p[i] != '\\' && p[i] != 0x7f))
		{
			i += n;
			continue;
		}
		nh_put(b, s + done, i - done);
		if (n == 0)
			nh_puts(b, "\\ufffd");
		else
			json_escape(b, p[i]);
		done = ++i;
	}
	nh_put(b, s + done, i - done);
	nh_putc(b, '"');
}

void
nh_json_cstring(NhBuf *b, const char *s)
{
	if (s)
		nh_json_string(b, s, strlen(s));
	else
		nh_puts(b, "null");
}

/* Whether text is a number in JSON's own grammar; what a server's output functions write nearly always is. */
static bool
is_json_number(const char *s, size_t len)
{
	size_t		i = 0,
				digits;

	if (i < len && s[i] == '-')
		i++;
	for (digits = i; i < len && s[i] >= '0' && s[i] <= '9'; i++)
		;
	if (i == digits || (s[digits] == '0' && i > digits + 1))
		return false;
	if (i < len && s[i] == '.')
	{
		for (digits = ++i; i < len && s[i] >= '0' && s[i] <= '9'; i++)
			;
		if (i == digits)
			return false;
	}
	if (i < len && (s[i] == 'e' || s[i] == 'E'))
	{
		i++;
		if (i < len && (s[i] == '+' || s[i] == '-'))
			i++;
		for (digits = i; i < len && s[i] >= '0' && s[i] <= '9'; i++)
			;
		if (i == digits)
			return false;
	}
	return i == len;
}

void
nh_json_value(NhBuf *b, uint32_t type_oid, const char *s, size_t len)
{
	uint32_t	element;

	switch (type_oid)
	{
		case BOOL_OID:
			if (len == 1 && (s[0] == 't' || s[0] == 'f'))
			{
				nh_puts(b, s[0] == 't' ? "true" : "false");
				return;
			}
			break;
		case INT2_OID:
		case INT4_OID:
		case FLOAT4_OID:
		case FLOAT8_OID:
			if (is_json_number(s, len))
			{
				nh_put(b, s, len);
				return;
			}
			break;
		case JSON_OID:
		case JSONB_OID:
			nh_put(b, s, len);
			return;
		default:
			element = nh_array_element(type_oid);
			if (element != 0 && nh_json_array(b, element, s, len))
				return;
	}
	nh_json_string(b, s, len);
}

/* ---- array literals: {1,NULL,"a \"b\"",{...}}, before them perhaps bounds: [0:1]={...} ---- */

typedef struct ArrayReader
{
	const char *s;
	size_t		len;
	size_t		at;
	uint32_t	element;
} ArrayReader;

static bool
array_quoted(ArrayReader *r, NhBuf *b)
{
	NhBuf		text = {.realloc = b->realloc,.limit_bytes = r->len};
	bool		ok = false;

	r->at++;
	while (r->at < r->len)
	{
		char		c = r->s[r->at++];

		if (c == '"')
		{
			ok = !text.failed;
			break;
		}
		if (c == '\\')
		{
			if (r->at >= r->len)
				break;
			c = r->s[r->at++];
		}
		nh_putc(&text, c);
	}
	if (ok)
		nh_json_value(b, r->element, text.data ? text.data : "", text.len);
	b->realloc(text.data, 0);
	return ok;
}

static bool
array_bare(ArrayReader *r, NhBuf *b)
{
	size_t		start = r->at;

	while (r->at < r->len && r->s[r->at] != ',' && r->s[r->at] != '}')
	{
		if (r->s[r->at] == '{' || r->s[r->at] == '"' || r->s[r->at] == '\\')
			return false;
		r->at++;
	}
	if (r->at == start)
		return false;
	if (r->at - start == 4 && strncmp(r->s + start, "NULL", 4) == 0)
		nh_puts(b, "null");
	else
		nh_json_value(b, r->element, r->s + start, r->at - start);
	return true;
}

static bool
array_level(ArrayReader *r, NhBuf *b, int depth)
{
	if (depth > NH_MAX_ARRAY_DEPTH || r->at >= r->len || r->s[r->at] != '{')
		return false;
	r->at++;
	nh_putc(b, '[');
	if (r->at < r->len && r->s[r->at] == '}')
	{
		r->at++;
		nh_putc(b, ']');
		return true;
	}
	for (;;)
	{
		bool		ok;

		if (r->at >= r->len)
			return false;
		if (r->s[r->at] == '{')
			ok = array_level(r, b, depth + 1);
		else if (r->s[r->at] == '"')
			ok = array_quoted(r, b);
		else
			ok = array_bare(r, b);
		if (!ok || r->at >= r->len)
			return false;
		if (r->s[r->at] == '}')
		{
			r->at++;
			nh_putc(b, ']');
			return true;
		}
		if (r->s[r->at++] != ',')
			return false;
		nh_putc(b, ',');
	}
}

bool
nh_json_array(NhBuf *b, uint32_t element_oid, const char *s, size_t len)
{
	ArrayReader r = {s, len, 0, element_oid};
	size_t		before = b->len;

	if (len > 0 && s[0] == '[')
	{
		const char *equals = memchr(s, '=', len);

		if (!equals)
			return false;
		r.at = equals - s + 1;
	}
	if (array_level(&r, b, 1) && r.at == len)
		return true;
	b->len = before;
	return false;
}

void
nh_array_string(NhBuf *b, const char *s, size_t len)
{
	nh_putc(b, '"');
	for (size_t i = 0; i < len; i++)
	{
		if (s[i] == '"' || s[i] == '\\')
			nh_putc(b, '\\');
		nh_putc(b, s[i]);
	}
	nh_putc(b, '"');
}
