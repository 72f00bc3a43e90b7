/*
 * neon_key.c - page keys: encoding that sorts with memcmp, comparison, hash.
 *
 * The hash is part of the layer file format (its filter): it must never change.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_core.h"

#define MAX_FORK	3			/* INIT_FORKNUM */

void
neon_key_encode(const neon_key *key, uint8_t out[NEON_KEY_BYTES])
{
	neon_writer w;

	neon_writer_init(&w, out, NEON_KEY_BYTES);
	neon_put_u8(&w, key->kind);
	neon_put_u32(&w, key->spc);
	neon_put_u32(&w, key->db);
	neon_put_u32(&w, key->rel);
	neon_put_u8(&w, key->fork);
	neon_put_u32(&w, key->blk);
}

bool
neon_key_decode(const uint8_t in[NEON_KEY_BYTES], neon_key *key)
{
	neon_reader r;

	neon_reader_init(&r, in, NEON_KEY_BYTES);
	key->kind = neon_get_u8(&r);
	key->spc = neon_get_u32(&r);
	key->db = neon_get_u32(&r);
	key->rel = neon_get_u32(&r);
	key->fork = neon_get_u8(&r);
	key->blk = neon_get_u32(&r);
	key->pad = 0;
	return key->kind < NEON_KEY_KIND_COUNT && key->fork <= MAX_FORK;
}

int
neon_key_compare(const neon_key *a, const neon_key *b)
{
	if (a->kind != b->kind)
		return a->kind < b->kind ? -1 : 1;
	if (a->spc != b->spc)
		return a->spc < b->spc ? -1 : 1;
	if (a->db != b->db)
		return a->db < b->db ? -1 : 1;
	if (a->rel != b->rel)
		return a->rel < b->rel ? -1 : 1;
	if (a->fork != b->fork)
		return a->fork < b->fork ? -1 : 1;
	if (a->blk != b->blk)
		return a->blk < b->blk ? -1 : 1;
	return 0;
}

/* Every input bit reaches every output bit: two rounds of xor-shift and multiplication by an odd constant. */
static inline uint64_t
mix(uint64_t x)
{
	x ^= x >> 32;
	x *= UINT64_C(0xD6E8FEB86659FD93);
	x ^= x >> 32;
	x *= UINT64_C(0xD6E8FEB86659FD93);
	x ^= x >> 32;
	return x;
}

uint64_t
neon_key_hash(const neon_key *key)
{
	uint64_t	h;

	h = mix((uint64_t) key->spc << 32 | key->db);
	h = mix(h + ((uint64_t) key->rel << 32 | key->blk));
	return mix(h + ((uint64_t) key->kind << 8 | key->fork) + UINT64_C(0x9E3779B97F4A7C15));
}
