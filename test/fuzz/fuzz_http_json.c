/*
 * fuzz_http_json.c - text of any kind as JSON: what comes out is ASCII control free UTF-8, quoted or bracketed as it must be.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "neon_http_json.h"

static void *
grow(void *p, size_t n)
{
	if (n == 0)
	{
		free(p);
		return NULL;
	}
	return realloc(p, n);
}

static void
check(bool ok)
{
	if (!ok)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint32_t oids[] = {16, 20, 21, 23, 25, 700, 701, 1000, 1007, 1009, 1021, 1231, 1700, 2951};
	const char *s;
	uint32_t	oid;
	NhBuf		b = {.realloc = grow,.limit_bytes = 64 * 1024};
	int			depth = 0;
	bool		quoted = false;

	if (size < 1)
		return 0;
	oid = oids[data[0] % (sizeof(oids) / sizeof(oids[0]))];
	s = (const char *) data + 1;
	size--;
	nh_json_value(&b, oid, s, size);
	/* strings end, brackets match */
	for (size_t i = 0; i < b.len && !b.failed; i++)
	{
		unsigned char c = b.data[i];

		check(c >= 0x20);
		if (quoted && c == '\\')
			i++;
		else if (c == '"')
			quoted = !quoted;
		else if (!quoted && c == '[')
			depth++;
		else if (!quoted && c == ']')
			check(--depth >= 0);
	}
	check(b.failed || (b.len > 0 && !quoted && depth == 0));
	b.len = 0;
	b.failed = false;
	nh_array_string(&b, s, size);
	free(b.data);
	return 0;
}
