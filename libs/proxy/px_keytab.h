/*
 * px_keytab.h - keys of cancel requests: who made one, and whose it is.
 *
 * The upper half of a key is what clients take for a process id: it stays positive, and its upper 7 bits name the worker, which is how any other
 * worker knows whom to ask.  The other 56 bits are random.
 *
 * The table is open addressing without tombstones, at most half full; memory is the caller's.  Anybody may ask for any key.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PX_KEYTAB_H
#define PX_KEYTAB_H

#include "neon_core.h"

typedef struct px_keyed
{
	uint64_t	key;			/* 0: free */
	void	   *owner;
} px_keyed;

typedef struct px_keytab
{
	px_keyed   *slot;
	uint32_t	cap;			/* a power of two; 0: none yet */
	uint32_t	used;
} px_keytab;

static inline uint64_t
px_key_of_worker(uint64_t random, int worker)
{
	return (random & UINT64_C(0x00FFFFFFFFFFFFFF)) | (uint64_t) worker << 56;
}

static inline int
px_key_worker(uint64_t key)
{
	return (int) (key >> 56);
}

/* Whether the next key needs a larger table. */
extern bool px_keytab_full(const px_keytab *t);

/* Moves to zeroed memory of cap slots, a power of two more than twice those in use; returns the old one, to be freed. */
extern px_keyed *px_keytab_move(px_keytab *t, px_keyed *slot, uint32_t cap);

/* NULL: unknown */
extern void *px_keytab_find(const px_keytab *t, uint64_t key);

/* The key is not 0 and not in it, and it is not full. */
extern void px_keytab_add(px_keytab *t, uint64_t key, void *owner);

/* false: it is not there */
extern bool px_keytab_drop(px_keytab *t, uint64_t key);

#endif							/* PX_KEYTAB_H */
