/*
 * proxy_rows.c - rows of the console's tables, as the wire wants them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "proxy_show.h"

#define MAX_COLUMNS 28

void
px_rows_free(PxRows *r)
{
	px_free(r->data);
	memset(r, 0, sizeof(*r));
}

/* One DataRow; a NULL value is null. */
void
px_row_text(PxRows *r, int ncolumns, const char *const *values)
{
	size_t		need = 7;
	neon_writer w;

	for (int i = 0; i < ncolumns; i++)
		need += 4 + (values[i] ? strlen(values[i]) : 0);
	if (r->cap - r->len < need)
	{
		r->cap = Max(r->cap * 2, r->len + need + 4096);
		r->data = realloc(r->data, r->cap);
		if (r->data == NULL)
			ereport(FATAL, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory in the proxy")));
	}
	neon_writer_init(&w, r->data + r->len, need);
	neon_put_u8(&w, 'D');
	neon_put_u32(&w, (uint32) need - 1);
	neon_put_u16(&w, (uint16) ncolumns);
	for (int i = 0; i < ncolumns; i++)
	{
		neon_put_u32(&w, values[i] ? (uint32) strlen(values[i]) : ~0u);
		if (values[i])
			neon_put_bytes(&w, values[i], strlen(values[i]));
	}
	r->len += need;
	r->n++;
}

void
px_row(PxRows *r, const char *types,...)
{
	const char *values[MAX_COLUMNS];
	char		number[MAX_COLUMNS][24];
	int			n = (int) strlen(types);
	va_list		args;

	Assert(n <= MAX_COLUMNS);
	va_start(args, types);
	for (int i = 0; i < n; i++)
	{
		values[i] = number[i];
		if (types[i] == 's')
			values[i] = va_arg(args, const char *);
		else if (types[i] == 'd')
			snprintf(number[i], sizeof(number[i]), "%d", va_arg(args, int));
		else if (types[i] == 'l')
			snprintf(number[i], sizeof(number[i]), INT64_FORMAT, va_arg(args, int64));
		else
			values[i] = NULL;
	}
	va_end(args);
	px_row_text(r, n, values);
}

int
px_row_count(const PxRows *r)
{
	px_head		h;
	int			n = 0;

	for (size_t at = 0; r->len - at >= PX_HEAD_BYTES && px_head_parse(r->data + at, &h) && h.len <= r->len - at; at += h.len)
		n++;
	return n;
}

bool
px_row_next(const PxRows *r, size_t *at, int ncolumns, char **values)
{
	static char *copy;			/* of the row, with a zero behind each text */
	px_head		h;
	const uint8 *p;
	size_t		left;
	char	   *to;

	if (r->len - *at < PX_HEAD_BYTES + 2 || !px_head_parse(r->data + *at, &h) || h.len > r->len - *at)
		return false;
	px_free(copy);
	to = copy = px_alloc(h.len + ncolumns);
	p = r->data + *at + PX_HEAD_BYTES + 2;
	left = h.len - PX_HEAD_BYTES - 2;
	*at += h.len;
	for (int i = 0; i < ncolumns; i++)
	{
		uint32		n = left >= 4 ? (uint32) p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3] : 0;

		if (left < 4 || n > left - 4)
			return false;
		memcpy(to, p + 4, n);
		values[i] = to;
		to[n] = 0;
		to += n + 1;
		p += 4 + n;
		left -= 4 + n;
	}
	return true;
}
