/*
 * ps_redo_image.c - full-page images: decompression and the hole.
 *
 * Same result as RestoreBlockImage.  neon_wal_parse has bounded image, hole_offset and hole_length by the record; here
 * they are bounded by the page.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo.h"

#include <lz4.h>
#include <zstd.h>

#include "common/pg_lzcompress.h"

static bool
image_fail(const char **reason, const char *text)
{
	*reason = text;
	return false;
}

/* The image without its hole: exactly `bytes` bytes. */
static bool
decompress(const neon_wal_block *b, char *to, int bytes, const char **reason)
{
	if (b->bimg_info & BKPIMAGE_COMPRESS_PGLZ)
	{
		if (pglz_decompress((const char *) b->image, b->image_len, to, bytes, true) != bytes)
			return image_fail(reason, "pglz image does not decompress to a page");
	}
	else if (b->bimg_info & BKPIMAGE_COMPRESS_LZ4)
	{
		if (LZ4_decompress_safe((const char *) b->image, to, b->image_len, bytes) != bytes)
			return image_fail(reason, "lz4 image does not decompress to a page");
	}
	else
	{
		size_t		n = ZSTD_decompress(to, bytes, b->image, b->image_len);

		if (ZSTD_isError(n) || n != (size_t) bytes)
			return image_fail(reason, "zstd image does not decompress to a page");
	}
	return true;
}

bool
ps_redo_restore_image(const neon_wal_block *b, char page[BLCKSZ], const char **reason)
{
	PGAlignedBlock plain;
	const char *from = (const char *) b->image;
	uint32		hole_end = (uint32) b->hole_offset + b->hole_length;

	if (!b->has_image || b->image == NULL)
		return image_fail(reason, "block reference has no image");
	if (hole_end > BLCKSZ)
		return image_fail(reason, "hole of the image ends after the page");
	if (BKPIMAGE_COMPRESSED(b->bimg_info))
	{
		if (!decompress(b, plain.data, BLCKSZ - b->hole_length, reason))
			return false;
		from = plain.data;
	}
	else if ((uint32) b->image_len + b->hole_length != BLCKSZ)
		return image_fail(reason, "image and hole do not add up to a page");

	memcpy(page, from, b->hole_offset);
	memset(page + b->hole_offset, 0, b->hole_length);
	memcpy(page + hole_end, from + b->hole_offset, BLCKSZ - hole_end);
	return true;
}
