/*
 * neon_warm.c - see neon_warm.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_warm.h"

#include <stddef.h>
#include <string.h>

static uint32_t
header_crc(const neon_warm_header *h)
{
	return neon_crc32c(0, h, offsetof(neon_warm_header, crc));
}

void
neon_warm_finish(neon_warm_header *h)
{
	h->magic = NEON_WARM_MAGIC;
	h->version = NEON_WARM_VERSION;
	h->crc = header_crc(h);
}

/* A text of the file's: ended, and of the full length. */
static bool
whole_text(const char *text, size_t bytes)
{
	return strnlen(text, bytes) == bytes - 1;
}

bool
neon_warm_valid(const neon_warm_header *h)
{
	return h->magic == NEON_WARM_MAGIC && h->version == NEON_WARM_VERSION && h->crc == header_crc(h) &&
		whole_text(h->tenant, sizeof(h->tenant)) && whole_text(h->timeline, sizeof(h->timeline)) &&
		whole_text(h->boot_id, sizeof(h->boot_id)) &&
		h->checkpoint_lsn != NEON_LSN_INVALID && h->end_lsn > h->checkpoint_lsn && h->entries >= 0;
}

bool
neon_warm_matches(const neon_warm_header *h, const char *tenant, const char *timeline, const char *boot_id)
{
	return strcmp(h->tenant, tenant) == 0 && strcmp(h->timeline, timeline) == 0 && strcmp(h->boot_id, boot_id) == 0;
}
