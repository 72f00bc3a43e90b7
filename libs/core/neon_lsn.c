/*
 * neon_lsn.c - text form of LSNs and ids, and where a record can start.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_core.h"

#include <string.h>

#define SHORT_PAGE_HEADER	24	/* SizeOfXLogShortPHD */
#define LONG_PAGE_HEADER	40	/* SizeOfXLogLongPHD, on the first page of a segment */

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* One to eight hex digits; returns the text behind them, NULL when there are none or too many. */
static const char *
parse_half(const char *text, uint32_t *value)
{
	int			digits = 0;
	int			d;

	for (*value = 0; (d = hex_digit(*text)) >= 0; text++)
	{
		if (++digits > 8)
			return NULL;
		*value = (*value << 4) | (uint32_t) d;
	}
	return digits > 0 ? text : NULL;
}

bool
neon_lsn_parse(const char *text, neon_lsn *lsn)
{
	uint32_t	high,
				low;

	text = parse_half(text, &high);
	if (text == NULL || *text != '/')
		return false;
	text = parse_half(text + 1, &low);
	if (text == NULL || *text != '\0')
		return false;
	*lsn = ((neon_lsn) high << 32) | low;
	return true;
}

neon_lsn
neon_lsn_record_start(neon_lsn lsn, uint32_t wal_segment_bytes)
{
	neon_lsn	page,
				first;

	lsn = (lsn + 7) & ~(neon_lsn) 7;
	page = lsn - lsn % NEON_XLOG_BLCKSZ;
	first = page + (page % wal_segment_bytes == 0 ? LONG_PAGE_HEADER : SHORT_PAGE_HEADER);
	return lsn < first ? first : lsn;
}

bool
neon_id_parse(const char *text, neon_id *id)
{
	for (int i = 0; i < NEON_ID_BYTES; i++)
	{
		int			high = hex_digit(text[2 * i]);
		int			low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);

		if (low < 0)
			return false;
		id->b[i] = (uint8_t) (high << 4 | low);
	}
	return text[2 * NEON_ID_BYTES] == '\0';
}

void
neon_id_print(const neon_id *id, char text[NEON_ID_TEXT])
{
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < NEON_ID_BYTES; i++)
	{
		text[2 * i] = digits[id->b[i] >> 4];
		text[2 * i + 1] = digits[id->b[i] & 15];
	}
	text[2 * NEON_ID_BYTES] = '\0';
}

bool
neon_id_equal(const neon_id *a, const neon_id *b)
{
	return memcmp(a->b, b->b, NEON_ID_BYTES) == 0;
}

bool
neon_id_is_zero(const neon_id *a)
{
	static const neon_id zero;

	return neon_id_equal(a, &zero);
}
