/*
 * last_written.c - for every block, an LSN at or above its last change before it left shared_buffers.
 *
 * A fixed array of LSNs; a block's place is its hash.  A write raises its place to the page's LSN and never lowers it.  Blocks
 * that share a place share the larger LSN: that is too large for one of them, and a not_modified_since that is too large
 * costs at most a wait for the page source, while one that is too small would bring an old page back.  So there is nothing
 * to evict, no lock, and the answer errs on the safe side only.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "port/atomics.h"
#include "storage/shmem.h"

#include "last_written.h"

#define LAST_WRITTEN_PLACES	(256 * 1024)	/* a power of two; 2 MB */

static pg_atomic_uint64 *places;

Size
last_written_shmem_bytes(void)
{
	return LAST_WRITTEN_PLACES * sizeof(pg_atomic_uint64);
}

void
last_written_init(void)
{
	bool		found;

	places = ShmemInitStruct("neon last written", last_written_shmem_bytes(), &found);
	if (!found)
		for (int i = 0; i < LAST_WRITTEN_PLACES; i++)
			pg_atomic_init_u64(&places[i], 0);
}

static pg_atomic_uint64 *
place_of(const NeonRel *rel, int fork, BlockNumber block)
{
	uint32		words[5] = {rel->spc, rel->db, rel->rel, fork, block};

	return &places[hash_bytes((const unsigned char *) words, sizeof(words)) & (LAST_WRITTEN_PLACES - 1)];
}

void
last_written_raise(const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr lsn)
{
	pg_atomic_uint64 *place = place_of(rel, fork, block);
	uint64		old = pg_atomic_read_u64(place);

	while (old < lsn && !pg_atomic_compare_exchange_u64(place, &old, lsn))
		;
}

XLogRecPtr
last_written_get(const NeonRel *rel, int fork, BlockNumber block)
{
	return pg_atomic_read_u64(place_of(rel, fork, block));
}
