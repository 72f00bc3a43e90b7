/*
 * neon_page_layout.h - where things are on a page of PostgreSQL 15 (8 KB, little-endian, 8-byte alignment).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PAGE_LAYOUT_H
#define NEON_PAGE_LAYOUT_H

#include <string.h>

#include "neon_core.h"

/* page header */
#define PD_LSN				0		/* two 32-bit words, the high one first */
#define PD_CHECKSUM			8
#define PD_FLAGS			10
#define PD_LOWER			12
#define PD_UPPER			14
#define PD_SPECIAL			16
#define PD_VERSION			18
#define PD_PRUNE_XID		20
#define PAGE_HEADER_BYTES	24

#define PD_HAS_FREE_LINES	0x0001
#define PD_PAGE_FULL		0x0002
#define PD_ALL_VISIBLE		0x0004

/* line pointer: 15 bits offset, 2 bits state, 15 bits length */
#define LP_NORMAL			1
#define LP_DEAD				3
#define LP_DEAD_BIT			(UINT32_C(1) << 16)

/* heap tuple header */
#define T_XMIN				0
#define T_XMAX				4
#define T_CID				8
#define T_CTID				12		/* block 4, item 2 */
#define T_INFOMASK2			18
#define T_INFOMASK			20
#define T_HOFF				22
#define TUPLE_HEADER_BYTES	23

#define HEAP_COMBOCID		0x0020
#define HEAP_XMIN_FROZEN	0x0300	/* committed and invalid */
#define HEAP_XMAX_COMMITTED	0x0400
#define HEAP_XMAX_INVALID	0x0800
#define HEAP_MOVED			0xC000
#define SPECULATIVE_TOKEN	0xFFFE	/* as an item number */

/* special areas */
#define BTREE_SPECIAL_BYTES	16
#define BTREE_MAX_CYCLE_ID	0xFF7F
#define BTPO_FLAGS			12
#define BTPO_CYCLEID		14
#define BTP_LEAF			0x0001
#define BTP_SPLIT_END		0x0020
#define BTP_HAS_GARBAGE		0x0040

#define HASH_PAGE_ID		0xFF80
#define HASHO_FLAG			12
#define LH_OVERFLOW_PAGE	0x0001
#define LH_BUCKET_PAGE		0x0002
#define LH_PAGE_HAS_DEAD_TUPLES	0x0080

#define GIST_PAGE_ID		0xFF81
#define GIST_FLAGS			12
#define GIST_LEAF			0x0001
#define GIST_HAS_GARBAGE	0x0010

#define SPGIST_PAGE_ID		0xFF82
#define SPGIST_META			0x0001
#define SPGIST_CACHE_BYTES	64		/* behind the magic number of the meta page */

#define BRIN_META_ID		0xF091
#define BRIN_REVMAP_ID		0xF092
#define BRIN_REGULAR_ID		0xF093
#define BRIN_FLAGS			4
#define BRIN_EVACUATE_PAGE	0x0001

#define GIN_FLAGS			6
#define GIN_DELETED			0x0004
#define GIN_FLAGS_END		0x0200

#define SEQUENCE_MAGIC		0x1717
#define SEQUENCE_LAST_VALUE	0		/* int64 */
#define SEQUENCE_LOG_CNT	8		/* int64 */
#define SEQUENCE_IS_CALLED	16		/* one byte */
#define SEQUENCE_DATA_BYTES	17

static inline uint16_t
get16(const uint8_t *p)
{
	uint16_t	v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t
get32(const uint8_t *p)
{
	uint32_t	v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t
get64(const uint8_t *p)
{
	uint64_t	v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline void
put16(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void
put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline uint64_t
page_lsn(const uint8_t *page)
{
	return (uint64_t) get32(page + PD_LSN) << 32 | get32(page + PD_LSN + 4);
}

/* Bytes behind pd_special; more than a page where that is nonsense. */
static inline unsigned
page_special_bytes(const uint8_t *page)
{
	return (unsigned) NEON_BLCKSZ - get16(page + PD_SPECIAL);
}

static inline bool
page_header_is_sane(const uint8_t *page)
{
	unsigned	lower = get16(page + PD_LOWER);
	unsigned	upper = get16(page + PD_UPPER);
	unsigned	special = get16(page + PD_SPECIAL);

	return lower >= PAGE_HEADER_BYTES && lower <= upper && upper <= special && special <= NEON_BLCKSZ;
}

#endif							/* NEON_PAGE_LAYOUT_H */
