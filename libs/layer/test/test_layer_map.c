/*
 * test_layer_map.c - searches of the layer map against a list of all versions.
 *
 * Histories are random: keys with versions at random LSNs, cut into delta layers along LSN and, some of them, along keys,
 * with image layers at random LSNs, at delta ends and inside deltas; image layers leave out keys whose newest version then
 * is a tombstone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "neon_layer_map.h"

#define KEYS		12
#define LSNS		120
#define MAX_LAYERS	200

/* What a version is. */
enum
{
	NONE = 0,
	RECORD,						/* needs older ones */
	INIT,						/* needs nothing older */
	TOMBSTONE					/* the same, but image layers leave the key out */
};

static uint8_t history[KEYS][LSNS + 1];
static neon_layer_map map;
static neon_layer_desc layers[MAX_LAYERS];
static uint32_t nlayers;
static uint64_t seed = 7;

static uint32_t
rnd(uint32_t below)
{
	seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (uint32_t) (seed >> 33) % below;
}

static void *
std_realloc(void *p, size_t n, void *arg)
{
	if (n == 0)
	{
		free(p);
		return NULL;
	}
	return realloc(p, n);
}

static neon_key
key_at(uint32_t i)
{
	neon_key	k = {.spc = 1,.db = 2,.rel = 3,.blk = i};

	return k;
}

static neon_layer_desc
layer(neon_layer_kind kind, uint32_t k1, uint32_t k2, neon_lsn lo, neon_lsn hi)
{
	neon_layer_desc d = {.id = nlayers + 1,.kind = kind,.key_first = key_at(k1),.key_last = key_at(k2),.lsn_lo = lo,.lsn_hi = hi};

	return d;
}

static void
remember(neon_layer_desc d)
{
	assert_true(nlayers < MAX_LAYERS);
	layers[nlayers++] = d;
}

static void
make_history(void)
{
	memset(history, 0, sizeof(history));
	for (uint32_t k = 0; k < KEYS; k++)
		for (uint32_t l = 1; l <= LSNS; l++)
			if (rnd(4) == 0)
			{
				uint32_t	what = rnd(8);

				history[k][l] = what == 0 ? INIT : what == 1 ? TOMBSTONE : RECORD;
			}
}

static void
make_layers(void)
{
	uint32_t	lo = 1;

	nlayers = 0;
	while (lo <= LSNS)
	{
		uint32_t	hi = lo + rnd(20);

		if (hi > LSNS)
			hi = LSNS;
		if (rnd(2) == 0)
			remember(layer(NEON_LAYER_DELTA, 0, KEYS - 1, lo, hi));
		else
		{
			uint32_t	cut = 1 + rnd(KEYS - 1);

			remember(layer(NEON_LAYER_DELTA, 0, cut - 1, lo, hi));
			remember(layer(NEON_LAYER_DELTA, cut, KEYS - 1, lo, hi));
		}
		if (rnd(3) == 0)
			remember(layer(NEON_LAYER_IMAGE, 0, KEYS - 1, hi, hi));
		if (hi > lo + 2 && rnd(3) == 0)
			remember(layer(NEON_LAYER_IMAGE, 0, rnd(KEYS), lo + 1, lo + 1));
		lo = hi + 1;
	}
	/* in any order */
	for (uint32_t i = nlayers; i > 1; i--)
	{
		uint32_t	j = rnd(i);
		neon_layer_desc d = layers[j];

		layers[j] = layers[i - 1];
		layers[i - 1] = d;
	}
	neon_layer_map_clear(&map);
	for (uint32_t i = 0; i < nlayers; i++)
	{
		layers[i].id = i + 1;
		assert_int_equal(neon_layer_map_add(&map, &layers[i]), NEON_LAYER_MAP_OK);
	}
}

/* What an image layer at lsn has of a key: an image, unless there is nothing or a tombstone. */
static bool
image_has(uint32_t k, neon_lsn lsn)
{
	for (; lsn > 0; lsn--)
		if (history[k][lsn] != NONE)
			return history[k][lsn] != TOMBSTONE;
	return false;
}

/* Does the newest version before lsn chain down to something that starts the page?  As a reader with all versions sees it. */
static void
expected_chain(uint32_t k, neon_lsn lsn, neon_lsn floor, uint8_t seen[LSNS + 1], bool *complete)
{
	memset(seen, 0, LSNS + 1);
	*complete = false;
	for (; lsn > 0 && lsn >= floor && !*complete; lsn--)
	{
		seen[lsn] = history[k][lsn] != NONE;
		*complete = history[k][lsn] >= INIT;
	}
}

/* The search's chain: versions from deltas until a WILL_INIT or an image, whose LSN is *image_lsn. */
static void
found_chain(uint32_t k, neon_lsn lsn, neon_lsn floor, uint8_t seen[LSNS + 1], bool *complete, neon_lsn *image_lsn)
{
	neon_key	key = key_at(k);
	neon_layer_search search;
	neon_layer_step step;
	neon_lsn	last = NEON_LSN_MAX;
	int			steps = 0;

	memset(seen, 0, LSNS + 1);
	*complete = false;
	*image_lsn = 0;
	neon_layer_search_begin(&search, &map, &key, lsn, floor);
	while (!*complete && neon_layer_search_next(&search, &step))
	{
		assert_true(++steps <= 2 * MAX_LAYERS);
		assert_true(step.lsn_from <= step.lsn_to && step.lsn_to <= lsn && step.lsn_from >= floor);
		assert_true(step.lsn_from >= step.layer->lsn_lo && step.lsn_to <= step.layer->lsn_hi);
		assert_true(step.lsn_to <= last);
		last = step.lsn_to;
		if (step.layer->kind == NEON_LAYER_IMAGE)
		{
			*complete = image_has(k, step.lsn_to);
			*image_lsn = *complete ? step.lsn_to : 0;
			continue;
		}
		for (neon_lsn at = step.lsn_to; at >= step.lsn_from && !*complete; at--)
		{
			assert_int_equal(seen[at], 0);	/* never twice */
			seen[at] = history[k][at] != NONE;
			*complete = history[k][at] >= INIT;
		}
	}
}

static void
check_search(uint32_t k, neon_lsn lsn, neon_lsn floor)
{
	uint8_t		expected[LSNS + 1],
				found[LSNS + 1];
	bool		expected_complete,
				complete;
	neon_lsn	image_lsn;

	expected_chain(k, lsn, floor, expected, &expected_complete);
	found_chain(k, lsn, floor, found, &complete, &image_lsn);
	/* an image takes the place of what is at or below it, and nothing above it may be missing */
	if (image_lsn > 0)
		memset(expected, 0, image_lsn + 1);
	else
		assert_int_equal(complete, expected_complete);
	assert_memory_equal(found, expected, sizeof(found));
}

static void
random_histories(void **state)
{
	neon_layer_map_init(&map, std_realloc, NULL);
	for (int round = 0; round < 60; round++)
	{
		make_history();
		make_layers();
		for (uint32_t k = 0; k < KEYS; k++)
			for (neon_lsn lsn = 1; lsn <= LSNS; lsn++)
			{
				check_search(k, lsn, 0);
				check_search(k, lsn, 1 + rnd((uint32_t) lsn));
			}
	}
	neon_layer_map_free(&map);
}

static void
order_and_removal(void **state)
{
	neon_layer_desc gone;

	neon_layer_map_init(&map, std_realloc, NULL);
	make_history();
	make_layers();
	assert_int_equal(map.count, nlayers);
	for (uint32_t i = 1; i < map.count; i++)
		assert_true(map.layers[i - 1].lsn_hi >= map.layers[i].lsn_hi);
	for (uint32_t i = 0; i < nlayers; i++)
	{
		assert_ptr_equal(neon_layer_map_find(&map, layers[i].id)->opaque, NULL);
		assert_true(neon_layer_map_remove(&map, layers[i].id, &gone));
		assert_int_equal(gone.id, layers[i].id);
		assert_null(neon_layer_map_find(&map, layers[i].id));
		assert_false(neon_layer_map_remove(&map, layers[i].id, NULL));
		for (uint32_t j = 1; j < map.count; j++)
			assert_true(map.layers[j - 1].lsn_hi >= map.layers[j].lsn_hi);
	}
	assert_int_equal(map.count, 0);
	neon_layer_map_free(&map);
}

static void
add(neon_layer_desc d, neon_layer_map_status expected)
{
	d.id = ++nlayers;
	assert_int_equal(neon_layer_map_add(&map, &d), expected);
}

static void
what_add_refuses(void **state)
{
	neon_layer_desc d;

	neon_layer_map_init(&map, std_realloc, NULL);
	nlayers = 0;
	add(layer(NEON_LAYER_DELTA, 2, 5, 10, 20), NEON_LAYER_MAP_OK);
	assert_int_equal(neon_layer_map_level0(&map), 1);
	add(layer(NEON_LAYER_DELTA, 5, 6, 20, 30), NEON_LAYER_MAP_OVERLAP);
	add(layer(NEON_LAYER_DELTA, 0, 2, 5, 10), NEON_LAYER_MAP_OVERLAP);
	add(layer(NEON_LAYER_DELTA, 6, 6, 20, 30), NEON_LAYER_MAP_OK);
	add(layer(NEON_LAYER_DELTA, 2, 5, 21, 30), NEON_LAYER_MAP_OK);
	add(layer(NEON_LAYER_IMAGE, 2, 5, 15, 15), NEON_LAYER_MAP_OK);
	add(layer(NEON_LAYER_IMAGE, 5, 9, 15, 15), NEON_LAYER_MAP_OVERLAP);
	add(layer(NEON_LAYER_IMAGE, 5, 9, 16, 16), NEON_LAYER_MAP_OK);
	add(layer(NEON_LAYER_IMAGE, 5, 9, 17, 18), NEON_LAYER_MAP_BAD);
	add(layer(NEON_LAYER_DELTA, 7, 6, 40, 50), NEON_LAYER_MAP_BAD);
	add(layer(NEON_LAYER_DELTA, 6, 7, 50, 40), NEON_LAYER_MAP_BAD);
	add(layer(NEON_LAYER_DELTA, 6, 7, 0, 4), NEON_LAYER_MAP_BAD);
	d = layer(NEON_LAYER_DELTA, 0, 9, 100, 200);
	d.id = 1;
	assert_int_equal(neon_layer_map_add(&map, &d), NEON_LAYER_MAP_DUPLICATE);
	assert_int_equal(neon_layer_map_level0(&map), 3);
	neon_layer_map_free(&map);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_histories),
		cmocka_unit_test(order_and_removal),
		cmocka_unit_test(what_add_refuses),
	};

	return cmocka_run_group_tests_name("layer map", tests, NULL, NULL);
}
