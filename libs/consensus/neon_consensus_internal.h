/*
 * neon_consensus_internal.h - shared by the sources of this library only.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_CONSENSUS_INTERNAL_H
#define NEON_CONSENSUS_INTERNAL_H

#include "neon_consensus_wire.h"

extern void neon_put_configuration(neon_writer *w, const neon_configuration *c);
extern bool neon_get_configuration(neon_reader *r, neon_configuration *c);

/* n entries; *h may have more */
extern void neon_put_history(neon_writer *w, const neon_term_history *h, uint32_t n);
extern bool neon_get_history(neon_reader *r, neon_term_history *h);

extern void neon_history_copy(neon_term_history *to, const neon_term_history *from);

/* Votes and acknowledgements belong to one configuration. */
static inline bool
neon_other_generation(uint32_t a, uint32_t b)
{
#ifdef NEON_BREAK_GENERATION
	return false;
#endif
	return a != b;
}

static inline neon_lsn
neon_min_lsn(neon_lsn a, neon_lsn b)
{
	return a < b ? a : b;
}

static inline neon_lsn
neon_max_lsn(neon_lsn a, neon_lsn b)
{
	return a > b ? a : b;
}

#endif							/* NEON_CONSENSUS_INTERNAL_H */
