/*
 * ps_flush_image.h - images that a flush puts into long chains of records.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PS_FLUSH_IMAGE_H
#define PS_FLUSH_IMAGE_H

#include "ps_internal.h"

typedef struct PsFlushImage
{
	struct PsFlushImage *older;
	XLogRecPtr	lsn;			/* of the version that the image takes the place of */
	uint8		page[BLCKSZ];
} PsFlushImage;

/* Images for a key of a memory layer that is being flushed, newest first; NULL when its chain is short. */
extern PsFlushImage *ps_flush_images(PsTimeline *tl, const PsMemLayer *layer, const PsMemKey *key);

/* The page of a key at an LSN, if it is of a kind that may have images and can be rebuilt. */
extern bool ps_image_at(PsTimeline *tl, const neon_key *key, XLogRecPtr lsn, uint8 page[BLCKSZ]);
extern bool ps_may_have_images(const neon_key *key);

#endif							/* PS_FLUSH_IMAGE_H */
