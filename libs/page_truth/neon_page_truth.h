/*
 * neon_page_truth.h - are two copies of a page the same page, but for what WAL does not carry?
 *
 * One copy is a compute's, as it left shared_buffers; the other is what a pageserver made of the WAL up to `as_of`.
 * Neither is trusted: every offset that a page gives is checked before it is used.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PAGE_TRUTH_H
#define NEON_PAGE_TRUTH_H

#include "neon_core.h"

typedef enum neon_page_kind
{
	NEON_PAGE_HEAP,
	NEON_PAGE_BTREE,
	NEON_PAGE_HASH,
	NEON_PAGE_GIST,
	NEON_PAGE_GIN,
	NEON_PAGE_SPGIST,
	NEON_PAGE_BRIN,
	NEON_PAGE_BRIN_REVMAP,
	NEON_PAGE_SEQUENCE,
	NEON_PAGE_VM,
	NEON_PAGE_OTHER				/* bloom and access methods we do not know */
} neon_page_kind;

/* What is known about the compute's copy besides its bytes. */
#define NEON_TRUTH_NEVER_LOGGED		0x01	/* its LSN is none: it was written before it was logged */
#define NEON_TRUTH_AS_OF_OWN_LSN	0x02	/* the pageserver's is as of the page's own LSN, not of the moment it was written */
#define NEON_TRUTH_VM_CLEARING		0x04	/* somebody holds the map page: a cleared bit's record may come after as_of */
#define NEON_TRUTH_VM_COPIED		0x08	/* of a database made by a copy: storage may lack bits */

typedef struct neon_page_context
{
	uint8_t		fork;			/* 0 main, 2 visibility map, 3 init; no claim is made of 1, the free space map */
	uint32_t	block;
	neon_lsn	as_of;
	unsigned	flags;
} neon_page_context;

typedef struct neon_page_difference
{
	int			offset;			/* of the first byte that differs and counts */
	uint8_t		ours;
	uint8_t		theirs;
	const char *what;			/* a few words */
} neon_page_difference;

extern neon_page_kind neon_page_kind_of(const uint8_t *page, uint8_t fork);
extern const char *neon_page_kind_name(neon_page_kind kind);

/* All zeros, or a header around nothing that was never logged: what every reader makes of a zero page. */
extern bool neon_page_is_empty(const uint8_t *page);

/*
 * The bits of the page that WAL does not determine are set in `ignored`, all others cleared.  `of_compute` says whose it
 * is: some bits are unknown only if the compute's copy shows a certain state.
 */
extern void neon_page_ignored_bits(const uint8_t page[NEON_BLCKSZ], const neon_page_context *context, bool of_compute,
								   uint8_t ignored[NEON_BLCKSZ]);

/* true when they are the same page; else *difference says where they are not. */
extern bool neon_page_same(const uint8_t ours[NEON_BLCKSZ], const uint8_t theirs[NEON_BLCKSZ],
						   const neon_page_context *context, neon_page_difference *difference);

#endif							/* NEON_PAGE_TRUTH_H */
