/*
 * neon_layer_map.h - which layer files to look at for a key and an LSN, and in which order.
 *
 * An array of descriptors ordered by lsn_hi descending.  Invariant, kept by neon_layer_map_add: two delta layers never
 * overlap in both key range and LSN range.  So for one key the deltas form a sequence in LSN, and image layers lie between
 * (or inside) them: an image at X makes everything older than X unnecessary for the keys it holds.
 *
 * A search is a sequence of steps, newest first.  Each step names one layer and the inclusive range of LSNs to take from it:
 *
 *		neon_lsn	at = lsn;
 *		neon_layer_step s;
 *
 *		while (at >= floor && neon_layer_map_step(map, &key, at, floor, &s))
 *		{
 *			take versions of key in s.layer with s.lsn_from <= version lsn <= s.lsn_to, newest first;
 *			if one has WILL_INIT: done;
 *			at = s.lsn_from - 1;
 *		}
 *
 * No I/O, no locks: the owner serialises changes against searches.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_LAYER_MAP_H
#define NEON_LAYER_MAP_H

#include "neon_layer.h"

typedef struct neon_layer_desc
{
	uint64_t	id;				/* the owner's number for the file; unique in a map */
	void	   *opaque;			/* the owner's, e.g. an open reader */
	neon_layer_kind kind;
	uint32_t	level;			/* the owner's: 0 for a flushed open layer, 1 for a compacted one */
	neon_key	key_first,
				key_last;		/* inclusive */
	neon_lsn	lsn_lo,
				lsn_hi;			/* inclusive; equal for an image */
	uint64_t	file_bytes;
} neon_layer_desc;

typedef struct neon_layer_map
{
	neon_layer_desc *layers;	/* lsn_hi descending, images before deltas */
	uint32_t	count;
	uint32_t	cap;
	neon_layer_realloc realloc_fn;
	void	   *realloc_arg;
} neon_layer_map;

typedef struct neon_layer_step
{
	const neon_layer_desc *layer;	/* valid until the map changes */
	neon_lsn	lsn_from;		/* inclusive */
	neon_lsn	lsn_to;			/* inclusive */
} neon_layer_step;

typedef enum neon_layer_map_status
{
	NEON_LAYER_MAP_OK = 0,
	NEON_LAYER_MAP_NO_SPACE,
	NEON_LAYER_MAP_OVERLAP,		/* of two deltas in both key and LSN range: remove the old ones first */
	NEON_LAYER_MAP_DUPLICATE,	/* id is there already */
	NEON_LAYER_MAP_BAD			/* ranges the wrong way round, image with two LSNs */
} neon_layer_map_status;

extern void neon_layer_map_init(neon_layer_map *m, neon_layer_realloc realloc_fn, void *realloc_arg);
extern void neon_layer_map_free(neon_layer_map *m);
extern void neon_layer_map_clear(neon_layer_map *m);
extern neon_layer_map_status neon_layer_map_add(neon_layer_map *m, const neon_layer_desc *d);
/* false when there is none; `removed` may be NULL. */
extern bool neon_layer_map_remove(neon_layer_map *m, uint64_t id, neon_layer_desc *removed);
extern neon_layer_desc *neon_layer_map_find(neon_layer_map *m, uint64_t id);

/* The next step at or below `at` and at or above `floor` (0: no bound); false when no layer has anything there. */
extern bool neon_layer_map_step(const neon_layer_map *m, const neon_key *key, neon_lsn at, neon_lsn floor,
								neon_layer_step *step);

/* How many delta layers of level 0 there are: when to compact. */
extern uint32_t neon_layer_map_level0(const neon_layer_map *m);

#endif							/* NEON_LAYER_MAP_H */
