/*
 * neon_layer_format.h - sizes, constants and helpers of the layer file format, shared by its writer and reader.
 *
 * docs/formats.md is the description; all integers are big-endian.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_LAYER_FORMAT_H
#define NEON_LAYER_FORMAT_H

#include "neon_layer.h"

#include <string.h>

#define LAYER_MAGIC			"NEONLAYR"
#define LAYER_END_MAGIC		"NEONLEND"
#define LAYER_MAGIC_BYTES	8
#define LAYER_VERSION		1

#define LAYER_HEADER_BYTES	68
#define LAYER_FOOTER_BYTES	96
#define LAYER_CRC_BYTES		4

/* A block: crc, codec, raw length, entries, then the entries, maybe compressed. */
#define BLOCK_HEADER_BYTES	13

/* An index entry: key, LSN inverted so that memcmp orders it, offset. */
#define INDEX_ORDER_BYTES	(NEON_KEY_BYTES + 8)
#define INDEX_ENTRY_BYTES	(INDEX_ORDER_BYTES + 8)

/* An entry: flags, key unless it is that of the entry before, LSN, length, bytes. */
#define ENTRY_SAME_KEY		0x80
#define ENTRY_FLAGS			(NEON_LAYER_VALUE_IMAGE | NEON_LAYER_VALUE_WILL_INIT | NEON_LAYER_VALUE_RECORD)
#define ENTRY_MIN_BYTES		(1 + 8 + 4)
#define ENTRY_MAX_HEAD		(ENTRY_MIN_BYTES + NEON_KEY_BYTES)

/* Blocks with more raw bytes than this hold one huge entry and are stored as they are: it bounds what decompression needs. */
#define MAX_PACKED_RAW		(UINT32_C(1024) * 1024)

/* Filter: groups of 512 bits; a key sets FILTER_PROBES bits of one group. */
#define FILTER_BITS_PER_KEY	10
#define FILTER_GROUP_BYTES	64
#define FILTER_PROBES		6

static inline uint64_t
filter_bytes_for(uint64_t keys)
{
	uint64_t	groups = (keys * FILTER_BITS_PER_KEY + FILTER_GROUP_BYTES * 8 - 1) / (FILTER_GROUP_BYTES * 8);

	return groups * FILTER_GROUP_BYTES;
}

/* The group of a key's bits, and a number whose 9-bit pieces are the bits. */
static inline size_t
filter_group(uint64_t hash, size_t filter_bytes)
{
	uint64_t	groups = filter_bytes / FILTER_GROUP_BYTES;

	return (size_t) (((hash >> 32) * groups) >> 32) * FILTER_GROUP_BYTES;
}

static inline uint64_t
filter_bits(uint64_t hash)
{
	return (hash * UINT64_C(0x9E3779B97F4A7C15)) >> 10;
}

/* What indexes and seeks compare with memcmp. */
static inline void
put_order(uint8_t out[INDEX_ORDER_BYTES], const neon_key *key, neon_lsn lsn)
{
	uint64_t	inverted = __builtin_bswap64(~lsn);

	neon_key_encode(key, out);
	memcpy(out + NEON_KEY_BYTES, &inverted, sizeof(inverted));
}

/*
 * Checksums of everything behind the header start from the header's own and from what the bytes are, so that bytes of
 * another file, or of another place in this one, do not pass.
 */
#define CRC_OF_INDEX		UINT32_C(0xFFFFFFFF)
#define CRC_OF_FILTER		UINT32_C(0xFFFFFFFE)

static inline uint32_t
part_crc(uint32_t header_crc, uint32_t part, const void *bytes, size_t len)
{
	uint32_t	seed[2] = {__builtin_bswap32(header_crc), __builtin_bswap32(part)};

	return neon_crc32c(neon_crc32c(0, seed, sizeof(seed)), bytes, len);
}

/* An image, or a record that may initialise the page: exactly one of the two, and images need nothing older. */
static inline bool
flags_fit(neon_layer_kind kind, uint32_t flags)
{
	if (flags == (NEON_LAYER_VALUE_IMAGE | NEON_LAYER_VALUE_WILL_INIT))
		return true;
	return kind == NEON_LAYER_DELTA && (flags & ~(uint32_t) NEON_LAYER_VALUE_WILL_INIT) == NEON_LAYER_VALUE_RECORD;
}

#endif							/* NEON_LAYER_FORMAT_H */
