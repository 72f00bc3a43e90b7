/*
 * last_written.c - for every block, an LSN at or above its last change before it left shared_buffers.
 *
 * A fixed hash table of buckets.  A bucket remembers the LSNs of a few blocks by a fingerprint of their names, and one LSN for
 * all others: the largest it has forgotten.  A block that shares its fingerprint, or is among the forgotten, gets an LSN that
 * is too large for it.  That costs at most a wait for the page source, while one that is too small would bring an old page
 * back; an answer never decreases, for any block.  What is forgotten is the smallest, so that it is as old as possible.
 *
 * A spinlock a bucket, held for a few instructions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "last_written.h"

#define LAST_WRITTEN_BUCKETS	(32 * 1024)	/* a power of two */
#define BUCKET_ENTRIES			8

typedef struct Bucket
{
	slock_t		lock;
	uint32		fingerprint[BUCKET_ENTRIES];
	XLogRecPtr	lsn[BUCKET_ENTRIES];	/* 0: free */
	XLogRecPtr	forgotten;
} Bucket;

static Bucket *buckets;

Size
last_written_shmem_bytes(void)
{
	return mul_size(LAST_WRITTEN_BUCKETS, sizeof(Bucket));
}

void
last_written_init(void)
{
	bool		found;

	buckets = ShmemInitStruct("neon last written", last_written_shmem_bytes(), &found);
	if (!found)
	{
		memset(buckets, 0, last_written_shmem_bytes());
		for (int i = 0; i < LAST_WRITTEN_BUCKETS; i++)
			SpinLockInit(&buckets[i].lock);
	}
}

static Bucket *
bucket_of(const NeonRel *rel, int fork, BlockNumber block, uint32 *fingerprint)
{
	uint32		words[5] = {rel->spc, rel->db, rel->rel, fork, block};
	uint64		hash = hash_bytes_extended((const unsigned char *) words, sizeof(words), 0);

	*fingerprint = hash >> 32;
	return &buckets[hash & (LAST_WRITTEN_BUCKETS - 1)];
}

void
last_written_raise(const NeonRel *rel, int fork, BlockNumber block, XLogRecPtr lsn)
{
	uint32		fingerprint;
	Bucket	   *b = bucket_of(rel, fork, block, &fingerprint);
	int			oldest = 0;
	bool		found = false;

	if (XLogRecPtrIsInvalid(lsn))
		return;
	SpinLockAcquire(&b->lock);
	for (int i = 0; i < BUCKET_ENTRIES && !found; i++)
	{
		if (b->lsn[i] != InvalidXLogRecPtr && b->fingerprint[i] == fingerprint)
		{
			b->lsn[i] = Max(b->lsn[i], lsn);
			found = true;
		}
		else if (b->lsn[i] < b->lsn[oldest])
			oldest = i;
	}
	if (!found)
	{
		/* What the block's answer was until now holds for it too. */
		lsn = Max(lsn, b->forgotten);
		b->forgotten = Max(b->forgotten, b->lsn[oldest]);
		b->fingerprint[oldest] = fingerprint;
		b->lsn[oldest] = lsn;
	}
	SpinLockRelease(&b->lock);
}

XLogRecPtr
last_written_get(const NeonRel *rel, int fork, BlockNumber block)
{
	uint32		fingerprint;
	Bucket	   *b = bucket_of(rel, fork, block, &fingerprint);
	XLogRecPtr	lsn;

	SpinLockAcquire(&b->lock);
	lsn = b->forgotten;
	for (int i = 0; i < BUCKET_ENTRIES; i++)
		if (b->lsn[i] != InvalidXLogRecPtr && b->fingerprint[i] == fingerprint)
			lsn = b->lsn[i];
	SpinLockRelease(&b->lock);
	return lsn;
}
