/*
 * ps_layer_cache.c - a process's own copy of a timeline's layer map, brought up to date when the shared generation moved.
 *
 * The generation is read before the rows are, so a map is never older than the generation it carries.  Changes are made
 * one layer at a time, so that an ERROR in between leaves a map that is merely out of date, and open files survive.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_layer_file.h"

#include "utils/memutils.h"

typedef struct PsLocalMap
{
	uint32		incarnation;
	uint64		generation;		/* 0: not loaded */
	MemoryContext context;
	neon_layer_map map;
} PsLocalMap;

static PsLocalMap **local_maps; /* by slot */

static void *
realloc_in_context(void *p, size_t n, void *arg)
{
	if (n == 0)
	{
		if (p)
			pfree(p);
		return NULL;
	}
	return p ? repalloc_huge(p, n) : MemoryContextAllocHuge((MemoryContext) arg, n);
}

static void
forget_map(int slot)
{
	PsLocalMap *local = local_maps[slot];

	for (uint32 i = 0; i < local->map.count; i++)
		ps_layer_file_free(local->map.layers[i].opaque);
	local_maps[slot] = NULL;
	MemoryContextDelete(local->context);
}

static PsLocalMap *
local_map(PsTimeline *tl)
{
	int			slot = (int) (tl - ps_timelines);
	uint32		incarnation = ps_timeline_incarnation(tl);
	PsLocalMap *local;

	if (local_maps == NULL)
		local_maps = MemoryContextAllocZero(TopMemoryContext, sizeof(PsLocalMap *) * ps_max_timelines);
	if (local_maps[slot] && local_maps[slot]->incarnation != incarnation)
		forget_map(slot);
	if (local_maps[slot] == NULL)
	{
		MemoryContext context = AllocSetContextCreate(TopMemoryContext, "layer map", ALLOCSET_DEFAULT_SIZES);

		local = MemoryContextAllocZero(context, sizeof(PsLocalMap));
		local->incarnation = incarnation;
		local->context = context;
		neon_layer_map_init(&local->map, realloc_in_context, context);
		local_maps[slot] = local;
	}
	return local_maps[slot];
}

static int
compare_ids(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

static void
remove_gone(PsLocalMap *local, List *rows)
{
	int			n = list_length(rows);
	uint64	   *ids = palloc(sizeof(uint64) * (n + 1));
	uint32		i = 0;
	ListCell   *lc;

	foreach(lc, rows)
		ids[foreach_current_index(lc)] = ((PsLayerRow *) lfirst(lc))->id;
	qsort(ids, n, sizeof(uint64), compare_ids);
	while (i < local->map.count)
	{
		neon_layer_desc gone;
		uint64		id = local->map.layers[i].id;

		if (bsearch(&id, ids, n, sizeof(uint64), compare_ids))
			i++;
		else if (neon_layer_map_remove(&local->map, id, &gone))
			ps_layer_file_free(gone.opaque);
	}
}

static void
add_new(PsLocalMap *local, List *rows, const char *directory)
{
	ListCell   *lc;

	foreach(lc, rows)
	{
		PsLayerRow *row = lfirst(lc);
		neon_layer_desc d = {.id = row->id,.kind = row->kind,.level = row->level,.key_first = row->key_first,
			.key_last = row->key_last,.lsn_lo = row->lsn_lo,.lsn_hi = row->lsn_hi,.file_bytes = row->file_bytes};
		neon_layer_map_status status;

		if (neon_layer_map_find(&local->map, row->id))
			continue;
		d.opaque = ps_layer_file_create(local->context, directory, row);
		status = neon_layer_map_add(&local->map, &d);
		if (status != NEON_LAYER_MAP_OK)
		{
			ps_layer_file_free(d.opaque);
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("layer \"%s/%s\" does not fit into the layer map: status %d", directory, row->file, status)));
		}
	}
}

neon_layer_map *
ps_layer_map_of(PsTimeline *tl, uint64 *generation)
{
	PsLocalMap *local = local_map(tl);
	MemoryContext temporary;
	MemoryContext caller;
	char		directory[MAXPGPATH];
	uint64		now;
	List	   *rows;

	if (local->generation != 0 && local->generation >= *generation)
	{
		*generation = local->generation;
		return &local->map;
	}

	temporary = AllocSetContextCreate(CurrentMemoryContext, "layer rows", ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(temporary);
	now = pg_atomic_read_u64(&tl->map_generation);
	pg_read_barrier();
	rows = ps_catalog_layers(tl);
	ps_timeline_directory(tl, directory, sizeof(directory));
	local->generation = 0;
	remove_gone(local, rows);
	add_new(local, rows, directory);
	*generation = local->generation = now;
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(temporary);
	return &local->map;
}
