/*
 * neon_page_truth.c - compares two copies of a page.
 *
 * A bit counts unless both copies say that the WAL does not determine it (neon_page_ignored.c).  What is left needs
 * more than a comparison of bits:
 *
 * LSN             the pageserver's is the end of the newest record of the page's history.  It may be above the compute's on
 *                 heap pages, visibility map pages and hash pages: there are records that name such a page and leave its LSN
 *                 alone (setting and clearing visibility bits; a hash bucket that is only locked).  It is never below, never above
 *                 as_of, and on all other pages equal
 * sequence        a log record holds the value that all values taken ahead lead up to: the pageserver's last_value is the
 *                 compute's plus log_cnt steps, log_cnt is 0 there
 * visibility map  storage may have a bit that the compute has cleared while the record that says so is not inserted yet; the
 *                 compute may have bits that storage lacks where the map was copied by CREATE DATABASE, which logs its
 *                 pages as if their content were a hole.  Both only where the caller says so
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_page_truth.h"
#include "neon_page_layout.h"

static bool
differs(neon_page_difference *d, const uint8_t *ours, const uint8_t *theirs, unsigned offset, const char *what)
{
	d->offset = (int) offset;
	d->ours = ours[offset];
	d->theirs = theirs[offset];
	d->what = what;
	return false;
}

/* The first byte of a word in which they differ. */
static unsigned
first_in(const uint8_t *ours, const uint8_t *theirs, unsigned offset, unsigned bytes)
{
	for (unsigned i = offset; i < offset + bytes; i++)
		if (ours[i] != theirs[i])
			return i;
	return offset;
}

static bool
lsn_is_right(const uint8_t *ours, const uint8_t *theirs, const neon_page_context *context, neon_page_kind kind,
			 neon_page_difference *d)
{
	neon_lsn	our_lsn = context->flags & NEON_TRUTH_NEVER_LOGGED ? 0 : page_lsn(ours);
	neon_lsn	their_lsn = page_lsn(theirs);
	unsigned	at = first_in(ours, theirs, PD_LSN, 8);

	if (their_lsn < our_lsn)
		return differs(d, ours, theirs, at, "the pageserver's LSN is lower");
	if (their_lsn > context->as_of)
		return differs(d, ours, theirs, at, "the pageserver's LSN is above the one that was asked for");
	if (their_lsn > our_lsn && !(context->flags & NEON_TRUTH_NEVER_LOGGED) &&
		kind != NEON_PAGE_HEAP && kind != NEON_PAGE_VM && kind != NEON_PAGE_HASH)
		return differs(d, ours, theirs, at, "the pageserver's LSN is higher");
	return true;
}

/* Offset of the sequence's three columns, 0 if the page does not look like one. */
static unsigned
sequence_data(const uint8_t *page)
{
	uint32_t	word = get32(page + PAGE_HEADER_BYTES);
	unsigned	offset = word & 0x7FFF;
	unsigned	bytes = word >> 17;

	if (get16(page + PD_LOWER) != PAGE_HEADER_BYTES + 4 || offset < PAGE_HEADER_BYTES + 4 || offset + bytes > NEON_BLCKSZ ||
		bytes < TUPLE_HEADER_BYTES + SEQUENCE_DATA_BYTES || page[offset + T_HOFF] + SEQUENCE_DATA_BYTES != bytes)
		return 0;
	return offset + page[offset + T_HOFF];
}

static bool
sequence_is_right(const uint8_t *ours, const uint8_t *theirs, neon_page_difference *d)
{
	unsigned	at = sequence_data(ours);
	uint64_t	ahead;
	int64_t		log_cnt;

	if (at == 0 || at != sequence_data(theirs))
		return true;			/* then every bit was compared */
	if (get64(theirs + at + SEQUENCE_LOG_CNT) != 0)
		return differs(d, ours, theirs, first_in(ours, theirs, at + SEQUENCE_LOG_CNT, 8), "log_cnt of what was logged is not 0");
	log_cnt = (int64_t) get64(ours + at + SEQUENCE_LOG_CNT);
	ahead = get64(theirs + at + SEQUENCE_LAST_VALUE) - get64(ours + at + SEQUENCE_LAST_VALUE);
	if (log_cnt < 0)
		return differs(d, ours, theirs, at + SEQUENCE_LOG_CNT, "negative log_cnt");
	/* steps may be negative, and ahead of either sign */
	if (log_cnt == 0 ? ahead != 0 : (int64_t) ahead % log_cnt != 0 || ahead == 0)
		return differs(d, ours, theirs, first_in(ours, theirs, at + SEQUENCE_LAST_VALUE, 8), "last_value is not what was logged");
	return true;
}

/* No header yet; bits can be set without one (redo starts from zeros). */
static bool
map_is_new(const uint8_t *page)
{
	for (unsigned i = PD_CHECKSUM; i < PAGE_HEADER_BYTES; i++)
		if (page[i] != 0)
			return false;
	return true;
}

static bool
map_is_right(const uint8_t *ours, const uint8_t *theirs, const neon_page_context *context, neon_page_difference *d)
{
	/* The header comes with the first access, without WAL. */
	if (!map_is_new(ours) && !map_is_new(theirs))
		for (unsigned i = PD_CHECKSUM; i < PAGE_HEADER_BYTES; i++)
			if (ours[i] != theirs[i])
				return differs(d, ours, theirs, i, "header of the visibility map");
	for (unsigned i = PAGE_HEADER_BYTES; i < NEON_BLCKSZ; i++)
	{
		if ((theirs[i] & ~ours[i]) && !(context->flags & NEON_TRUTH_VM_CLEARING))
			return differs(d, ours, theirs, i, "the pageserver has a visibility bit that was cleared");
		if ((ours[i] & ~theirs[i]) && !(context->flags & NEON_TRUTH_VM_COPIED))
			return differs(d, ours, theirs, i, "the pageserver lacks a visibility bit");
	}
	return true;
}

bool
neon_page_same(const uint8_t ours[NEON_BLCKSZ], const uint8_t theirs[NEON_BLCKSZ], const neon_page_context *context,
			   neon_page_difference *d)
{
	uint8_t		ignored_ours[NEON_BLCKSZ];
	uint8_t		ignored_theirs[NEON_BLCKSZ];
	neon_page_kind kind = neon_page_kind_of(ours, context->fork);
	bool		theirs_empty = neon_page_is_empty(theirs);

	if (neon_page_is_empty(ours) && theirs_empty)
		return true;
	if (kind == NEON_PAGE_VM)
		return lsn_is_right(ours, theirs, context, kind, d) && map_is_right(ours, theirs, context, d);
	if (theirs_empty)
		return differs(d, ours, theirs, first_in(ours, theirs, 0, NEON_BLCKSZ), "the pageserver has nothing there");
	if (neon_page_is_empty(ours))
		return differs(d, ours, theirs, first_in(ours, theirs, 0, NEON_BLCKSZ), "the pageserver has content on an empty page");

	neon_page_ignored_bits(ours, context, true, ignored_ours);
	neon_page_ignored_bits(theirs, context, false, ignored_theirs);
	for (unsigned line = 0; line < NEON_BLCKSZ; line += 64)
	{
		if (memcmp(ours + line, theirs + line, 64) == 0)
			continue;
		for (unsigned i = line; i < line + 64; i++)
			if ((ours[i] ^ theirs[i]) & ~(ignored_ours[i] & ignored_theirs[i]))
				return differs(d, ours, theirs, i, neon_page_kind_name(kind));
	}
	if (!lsn_is_right(ours, theirs, context, kind, d))
		return false;
	return kind != NEON_PAGE_SEQUENCE || sequence_is_right(ours, theirs, d);
}
