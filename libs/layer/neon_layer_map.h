/*
 * neon_layer_map.h - which layer files to look at for a key and an LSN, and in which order.
 *
 * An array of descriptors ordered by lsn_hi descending.  Invariant, kept by neon_layer_map_add: two layers of one kind never
 * overlap in both key range and LSN range.  So for one key the deltas form a sequence in LSN, and image layers lie between
 * (or inside) them: an image at X makes everything at or below X unnecessary for the keys it holds.  An image layer need not
 * hold every key of its range: the search simply goes on below it.
 *
 * A search is a sequence of steps, newest first.  Each names one layer and the inclusive range of LSNs to take from it:
 *
 *		neon_layer_search search;
 *		neon_layer_step step;
 *
 *		neon_layer_search_begin(&search, map, &key, lsn, floor);
 *		while (neon_layer_search_next(&search, &step))
 *		{
 *			take versions of key in step.layer with step.lsn_from <= version lsn <= step.lsn_to, newest first;
 *			if one has WILL_INIT: done;
 *		}
 *
 * Going on after a WILL_INIT (all versions are wanted) can bring a version that an image layer held once more from a delta.
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
				lsn_hi;			/* inclusive, not 0; equal for an image */
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
	NEON_LAYER_MAP_OVERLAP,		/* of two deltas, or two images, in both key and LSN range: remove the old first */
	NEON_LAYER_MAP_DUPLICATE,	/* id is there already */
	NEON_LAYER_MAP_BAD			/* ranges the wrong way round, LSN 0, image with two LSNs */
} neon_layer_map_status;

extern void neon_layer_map_init(neon_layer_map *m, neon_layer_realloc realloc_fn, void *realloc_arg);
extern void neon_layer_map_free(neon_layer_map *m);
extern void neon_layer_map_clear(neon_layer_map *m);
extern neon_layer_map_status neon_layer_map_add(neon_layer_map *m, const neon_layer_desc *d);
/* false when there is none; `removed` may be NULL. */
extern bool neon_layer_map_remove(neon_layer_map *m, uint64_t id, neon_layer_desc *removed);
extern neon_layer_desc *neon_layer_map_find(neon_layer_map *m, uint64_t id);

typedef struct neon_layer_search
{
	/* private */
	const neon_layer_map *map;
	neon_key	key;
	neon_lsn	at;				/* deltas are wanted at or below this */
	neon_lsn	image_at;		/* images at or below this */
	neon_lsn	floor;
} neon_layer_search;

/* For versions of key with floor <= lsn' <= lsn; floor 0: no bound.  The map must not change until the search is over. */
extern void neon_layer_search_begin(neon_layer_search *s, const neon_layer_map *m, const neon_key *key,
									neon_lsn lsn, neon_lsn floor);
/* The next step; false when no layer has anything more. */
extern bool neon_layer_search_next(neon_layer_search *s, neon_layer_step *step);

/* How many delta layers of level 0 there are: when to compact. */
extern uint32_t neon_layer_map_level0(const neon_layer_map *m);

#endif							/* NEON_LAYER_MAP_H */
