/*
 * neon_layer_map.c - the layer map: an array ordered by lsn_hi descending, searched from the newest on.
 *
 * A search walks down from the newest layer, passing those that begin above the LSN wanted.  It needs the newest delta and the newest
 * image that hold the key, and can stop as soon as what follows is older than what it has: with disjoint deltas that is a
 * few layers, whatever their number, except for layers between that do not hold the key.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_layer_map.h"

#include <string.h>

#define MIN_CAPACITY	16

void
neon_layer_map_init(neon_layer_map *m, neon_layer_realloc realloc_fn, void *realloc_arg)
{
	memset(m, 0, sizeof(*m));
	m->realloc_fn = realloc_fn;
	m->realloc_arg = realloc_arg;
}

void
neon_layer_map_free(neon_layer_map *m)
{
	if (m->layers != NULL)
		m->realloc_fn(m->layers, 0, m->realloc_arg);
	m->layers = NULL;
	m->count = 0;
	m->cap = 0;
}

void
neon_layer_map_clear(neon_layer_map *m)
{
	m->count = 0;
}

/* Does a stand before b in the array? */
static bool
before(const neon_layer_desc *a, const neon_layer_desc *b)
{
	if (a->lsn_hi != b->lsn_hi)
		return a->lsn_hi > b->lsn_hi;
	return a->kind == NEON_LAYER_IMAGE && b->kind != NEON_LAYER_IMAGE;
}

static bool
overlap(const neon_layer_desc *a, const neon_layer_desc *b)
{
	return a->lsn_lo <= b->lsn_hi && b->lsn_lo <= a->lsn_hi &&
		neon_key_compare(&a->key_first, &b->key_last) <= 0 &&
		neon_key_compare(&b->key_first, &a->key_last) <= 0;
}

static bool
reserve_one(neon_layer_map *m)
{
	uint32_t	cap = m->cap < MIN_CAPACITY ? MIN_CAPACITY : m->cap * 2;
	void	   *p;

	if (m->count < m->cap)
		return true;
	if (cap <= m->cap)
		return false;
	p = m->realloc_fn(m->layers, cap * sizeof(neon_layer_desc), m->realloc_arg);
	if (p == NULL)
		return false;
	m->layers = p;
	m->cap = cap;
	return true;
}

neon_layer_map_status
neon_layer_map_add(neon_layer_map *m, const neon_layer_desc *d)
{
	uint32_t	at = m->count;

	if (d->lsn_lo == NEON_LSN_INVALID || d->lsn_lo > d->lsn_hi || neon_key_compare(&d->key_first, &d->key_last) > 0 ||
		(d->kind == NEON_LAYER_IMAGE && d->lsn_lo != d->lsn_hi))
		return NEON_LAYER_MAP_BAD;
	for (uint32_t i = 0; i < m->count; i++)
	{
		const neon_layer_desc *other = &m->layers[i];

		if (other->id == d->id)
			return NEON_LAYER_MAP_DUPLICATE;
		if (other->kind == d->kind && overlap(other, d))
			return NEON_LAYER_MAP_OVERLAP;
		if (at == m->count && before(d, other))
			at = i;
	}
	if (!reserve_one(m))
		return NEON_LAYER_MAP_NO_SPACE;
	memmove(&m->layers[at + 1], &m->layers[at], (m->count - at) * sizeof(neon_layer_desc));
	m->layers[at] = *d;
	m->count++;
	return NEON_LAYER_MAP_OK;
}

neon_layer_desc *
neon_layer_map_find(neon_layer_map *m, uint64_t id)
{
	for (uint32_t i = 0; i < m->count; i++)
		if (m->layers[i].id == id)
			return &m->layers[i];
	return NULL;
}

bool
neon_layer_map_remove(neon_layer_map *m, uint64_t id, neon_layer_desc *removed)
{
	neon_layer_desc *d = neon_layer_map_find(m, id);

	if (d == NULL)
		return false;
	if (removed != NULL)
		*removed = *d;
	memmove(d, d + 1, (size_t) (m->layers + m->count - (d + 1)) * sizeof(neon_layer_desc));
	m->count--;
	return true;
}

static bool
holds_key(const neon_layer_desc *d, const neon_key *key)
{
	return neon_key_compare(key, &d->key_first) >= 0 && neon_key_compare(key, &d->key_last) <= 0;
}

void
neon_layer_search_begin(neon_layer_search *s, const neon_layer_map *m, const neon_key *key,
						neon_lsn lsn, neon_lsn floor)
{
	s->map = m;
	s->key = *key;
	s->at = lsn;
	s->image_at = lsn;
	s->floor = floor > NEON_LSN_INVALID ? floor : NEON_LSN_INVALID + 1;
}

/* The newest delta and the newest image that can be the next step. */
static void
find_newest(const neon_layer_search *s, const neon_layer_desc **delta, const neon_layer_desc **image)
{
	neon_lsn	stop = s->floor;	/* layers that end below are of no interest */

	*delta = *image = NULL;
	for (uint32_t i = 0; i < s->map->count && (*delta == NULL || *image == NULL); i++)
	{
		const neon_layer_desc *d = &s->map->layers[i];
		bool		is_image = d->kind == NEON_LAYER_IMAGE;
		const neon_layer_desc **found = is_image ? image : delta;

		if (d->lsn_hi < stop)
			break;
		if (*found != NULL || d->lsn_lo > (is_image ? s->image_at : s->at) || !holds_key(d, &s->key))
			continue;
		*found = d;
		if (d->lsn_lo > stop)
			stop = d->lsn_lo;
	}
}

bool
neon_layer_search_next(neon_layer_search *s, neon_layer_step *step)
{
	const neon_layer_desc *delta,
			   *image;

	if (s->at < s->floor)
		return false;
	find_newest(s, &delta, &image);
	if (delta != NULL)
	{
		step->lsn_to = delta->lsn_hi < s->at ? delta->lsn_hi : s->at;
		step->lsn_from = delta->lsn_lo > s->floor ? delta->lsn_lo : s->floor;
	}

	/* an image comes first when the delta, as far as it is wanted, does not reach beyond it */
	if (image != NULL && (delta == NULL || step->lsn_to <= image->lsn_hi))
	{
		step->layer = image;
		step->lsn_from = step->lsn_to = image->lsn_hi;
		/* going on means that the image layer does not hold the key: a delta may have a version at this very LSN */
		s->image_at = image->lsn_hi - 1;
		s->at = s->at < image->lsn_hi ? s->at : image->lsn_hi;
		return true;
	}
	if (delta == NULL)
		return false;
	step->layer = delta;
	if (image != NULL && image->lsn_hi >= step->lsn_from)
		step->lsn_from = image->lsn_hi + 1;
	s->at = step->lsn_from - 1;
	return true;
}

uint32_t
neon_layer_map_level0(const neon_layer_map *m)
{
	uint32_t	n = 0;

	for (uint32_t i = 0; i < m->count; i++)
		if (m->layers[i].kind == NEON_LAYER_DELTA && m->layers[i].level == 0)
			n++;
	return n;
}
