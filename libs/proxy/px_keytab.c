/*
 * px_keytab.c - keys of cancel requests.
 *
 * Invariant: between the slot that a key hashes to and the one it is in, no slot is free.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "px_keytab.h"

static uint32_t
home(const px_keytab *t, uint64_t key)
{
	return (uint32_t) (key * UINT64_C(0x9E3779B97F4A7C15) >> 32) & (t->cap - 1);
}

bool
px_keytab_full(const px_keytab *t)
{
	return t->used * 2 >= t->cap;
}

static px_keyed *
slot_of(const px_keytab *t, uint64_t key)
{
	uint32_t	at = home(t, key);

	while (t->slot[at].key != 0 && t->slot[at].key != key)
		at = (at + 1) & (t->cap - 1);
	return &t->slot[at];
}

px_keyed *
px_keytab_move(px_keytab *t, px_keyed *slot, uint32_t cap)
{
	px_keytab	old = *t;

	t->slot = slot;
	t->cap = cap;
	for (uint32_t i = 0; i < old.cap; i++)
		if (old.slot[i].key != 0)
			*slot_of(t, old.slot[i].key) = old.slot[i];
	return old.slot;
}

void *
px_keytab_find(const px_keytab *t, uint64_t key)
{
	return key == 0 || t->cap == 0 ? NULL : slot_of(t, key)->owner;
}

void
px_keytab_add(px_keytab *t, uint64_t key, void *owner)
{
	*slot_of(t, key) = (px_keyed) {key, owner};
	t->used++;
}

bool
px_keytab_drop(px_keytab *t, uint64_t key)
{
	px_keyed   *s;
	uint32_t	at;

	if (key == 0 || t->cap == 0 || (s = slot_of(t, key))->key == 0)
		return false;
	*s = (px_keyed) {0, NULL};
	t->used--;
	/* those behind it, up to the next hole, may have to move up */
	for (at = (uint32_t) (s - t->slot + 1) & (t->cap - 1); t->slot[at].key != 0; at = (at + 1) & (t->cap - 1))
	{
		px_keyed	moved = t->slot[at];

		t->slot[at] = (px_keyed) {0, NULL};
		*slot_of(t, moved.key) = moved;
	}
	return true;
}
