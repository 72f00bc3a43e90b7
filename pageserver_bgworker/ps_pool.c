/*
 * ps_pool.c - the memory that open and frozen layers live in: segments and layer descriptors.
 *
 * The pool is one piece of the main shared memory, cut into segments that are recycled: memory that was touched once is
 * several times faster than fresh pages.  Segments that were never used are counted, not linked, so that a pool larger than
 * the load needs costs nothing.
 *
 * Three levels of scarcity: below PS_POOL_SHORT_PERCENT free the flush worker freezes the largest open layer; below
 * PS_POOL_SCARCE_PERCENT writers wait in ps_throttle before they start a record; with nothing left a writer waits in
 * the middle of one, which only a record of several megabytes can reach.
 *
 * Locks: pool_mutex, a spinlock, for a few instructions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_internal.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/shmem.h"

#define PS_POOL_SHORT_PERCENT	40
#define PS_POOL_SCARCE_PERCENT	15
#define PS_EXTRA_LAYERS			64	/* descriptors beyond one a segment: layers without versions have no segment */
#define PS_SEGMENT_RETRY_MS		10
#define PS_SEGMENT_RETRIES		6000	/* a minute */

static uint32
pool_segments(void)
{
	return (uint32) ((Size) ps_open_layer_memory_mb * 1024 * 1024 / PS_SEGMENT_BYTES);
}

Size
ps_pool_shmem_bytes(void)
{
	Size		layers = mul_size(pool_segments() + PS_EXTRA_LAYERS, sizeof(PsMemLayer));

	return add_size(add_size(MAXALIGN(layers), (Size) pool_segments() * PS_SEGMENT_BYTES), PG_CACHE_LINE_SIZE);
}

void
ps_pool_init(void)
{
	bool		found;
	uint32		nlayers = pool_segments() + PS_EXTRA_LAYERS;
	char	   *base = ShmemInitStruct("neon_pageserver pool", ps_pool_shmem_bytes(), &found);

	ps_mem_layers = (PsMemLayer *) base;
	ps_pool = (char *) CACHELINEALIGN(base + MAXALIGN(nlayers * sizeof(PsMemLayer)));
	if (found)
		return;
	ps_shared->nsegments = pool_segments();
	ps_shared->nlayers = nlayers;
	for (int i = 0; i < nlayers; i++)
		ps_mem_layers[i].next_free = i + 1 < nlayers ? i + 1 : PS_NO_LAYER;
	ps_shared->free_layer = 0;
}

static uint32
free_percent(void)
{
	uint32		used;

	SpinLockAcquire(&ps_shared->pool_mutex);
	used = ps_shared->nused_segments;
	SpinLockRelease(&ps_shared->pool_mutex);
	return (uint32) ((uint64) (ps_shared->nsegments - used) * 100 / ps_shared->nsegments);
}

bool
ps_pool_short(void)
{
	return free_percent() < PS_POOL_SHORT_PERCENT;
}

bool
ps_pool_scarce(void)
{
	return free_percent() < PS_POOL_SCARCE_PERCENT;
}

/* The segment number, or -1. */
static int
try_take_segment(void)
{
	int			segment = -1;

	SpinLockAcquire(&ps_shared->pool_mutex);
	if (ps_shared->free_segment != 0)
	{
		segment = ps_shared->free_segment - 1;
		ps_shared->free_segment = *(uint32 *) (ps_pool + (Size) segment * PS_SEGMENT_BYTES);
	}
	else if (ps_shared->ntouched_segments < ps_shared->nsegments)
		segment = ps_shared->ntouched_segments++;
	if (segment >= 0)
		ps_shared->nused_segments++;
	SpinLockRelease(&ps_shared->pool_mutex);
	return segment;
}

/*
 * Called under a write_lock, so interrupts are held off here; the wait is bounded instead.  It ends because every
 * other timeline's layer can be frozen and flushed.
 */
uint32
ps_segment_take(void)
{
	for (int i = 0; i < PS_SEGMENT_RETRIES; i++)
	{
		int			segment = try_take_segment();

		if (segment >= 0)
		{
			*(uint32 *) (ps_pool + (Size) segment * PS_SEGMENT_BYTES) = 0;
			return (uint32) segment;
		}
		ps_wake_flush();
		if (ProcDiePending)
			break;
		pg_usleep(PS_SEGMENT_RETRY_MS * 1000L);
	}
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("no memory is left for open layers"),
			 errhint("Raise neon_pageserver.open_layer_memory, and look in the server log for errors of the flush worker.")));
	return 0;					/* not reached */
}

int
ps_layer_take(void)
{
	int			layer;
	uint64		serial = 0;

	SpinLockAcquire(&ps_shared->pool_mutex);
	layer = ps_shared->free_layer;
	if (layer != PS_NO_LAYER)
	{
		ps_shared->free_layer = ps_mem_layers[layer].next_free;
		serial = ++ps_shared->layer_serial;
	}
	SpinLockRelease(&ps_shared->pool_mutex);
	if (layer != PS_NO_LAYER)
	{
		memset(&ps_mem_layers[layer], 0, sizeof(PsMemLayer));
		ps_mem_layers[layer].serial = serial;
	}
	return layer;
}

/* No reader can reach the layer any more: the caller took it off the timeline's list under layers_lock. */
void
ps_mem_layer_free(int index)
{
	PsMemLayer *layer = &ps_mem_layers[index];

	SpinLockAcquire(&ps_shared->pool_mutex);
	if (layer->nsegments > 0)
	{
		*(uint32 *) (ps_pool + (Size) layer->last_segment * PS_SEGMENT_BYTES) = ps_shared->free_segment;
		ps_shared->free_segment = layer->first_segment + 1;
		ps_shared->nused_segments -= layer->nsegments;
	}
	layer->nsegments = 0;
	layer->next_free = ps_shared->free_layer;
	ps_shared->free_layer = index;
	SpinLockRelease(&ps_shared->pool_mutex);
	ConditionVariableBroadcast(&ps_shared->pool_cv);
}
