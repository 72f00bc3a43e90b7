/*
 * neon_codec.c - bounded big-endian writer and reader.
 *
 * An overflow latches ok = false; callers check once, at the end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_core.h"

#include <string.h>

void
neon_writer_init(neon_writer *w, void *buf, size_t cap)
{
	w->buf = buf;
	w->cap = cap;
	w->len = 0;
	w->ok = true;
}

void
neon_put_bytes(neon_writer *w, const void *p, size_t n)
{
	if (!w->ok || n > w->cap - w->len)
	{
		w->ok = false;
		return;
	}
	if (n > 0)
		memcpy(w->buf + w->len, p, n);
	w->len += n;
}

void
neon_put_u8(neon_writer *w, uint8_t v)
{
	neon_put_bytes(w, &v, 1);
}

void
neon_put_u16(neon_writer *w, uint16_t v)
{
	v = __builtin_bswap16(v);
	neon_put_bytes(w, &v, sizeof(v));
}

void
neon_put_u32(neon_writer *w, uint32_t v)
{
	v = __builtin_bswap32(v);
	neon_put_bytes(w, &v, sizeof(v));
}

void
neon_put_u64(neon_writer *w, uint64_t v)
{
	v = __builtin_bswap64(v);
	neon_put_bytes(w, &v, sizeof(v));
}

void
neon_reader_init(neon_reader *r, const void *buf, size_t len)
{
	r->buf = buf;
	r->len = len;
	r->pos = 0;
	r->ok = true;
}

size_t
neon_reader_left(const neon_reader *r)
{
	return r->ok ? r->len - r->pos : 0;
}

const uint8_t *
neon_get_bytes(neon_reader *r, size_t n)
{
	const uint8_t *p;

	if (!r->ok || n > r->len - r->pos)
	{
		r->ok = false;
		return NULL;
	}
	p = r->buf + r->pos;
	r->pos += n;
	return p;
}

void
neon_get_copy(neon_reader *r, void *to, size_t n)
{
	const uint8_t *p = neon_get_bytes(r, n);

	if (n == 0)
		return;
	if (p != NULL)
		memcpy(to, p, n);
	else
		memset(to, 0, n);
}

uint8_t
neon_get_u8(neon_reader *r)
{
	uint8_t		v;

	neon_get_copy(r, &v, sizeof(v));
	return v;
}

uint16_t
neon_get_u16(neon_reader *r)
{
	uint16_t	v;

	neon_get_copy(r, &v, sizeof(v));
	return __builtin_bswap16(v);
}

uint32_t
neon_get_u32(neon_reader *r)
{
	uint32_t	v;

	neon_get_copy(r, &v, sizeof(v));
	return __builtin_bswap32(v);
}

uint64_t
neon_get_u64(neon_reader *r)
{
	uint64_t	v;

	neon_get_copy(r, &v, sizeof(v));
	return __builtin_bswap64(v);
}
