/*
 * neon_history.c - term histories: which term wrote which part of a log, and where two logs part.
 *
 * Invariant they rest on: a term has one leader, and a leader's history never changes.  So two logs that both show
 * a term are equal up to the place where the first of them leaves it.
 *
 * A history and the WAL it describes are not made durable by one step.  The history is written when its leader is
 * adopted, its WAL arrives later; hence "visible": only entries at or below the end of the log count.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_consensus_internal.h"

#include <stdio.h>
#include <string.h>

bool
neon_history_valid(const neon_term_history *h)
{
	if (h->n > NEON_CONSENSUS_MAX_HISTORY)
		return false;
	for (uint32_t i = 0; i < h->n; i++)
	{
		if (h->e[i].term == 0 || h->e[i].term > NEON_CONSENSUS_MAX_NUMBER || h->e[i].lsn == NEON_LSN_INVALID)
			return false;
		if (i > 0 && (h->e[i].term <= h->e[i - 1].term || h->e[i].lsn < h->e[i - 1].lsn))
			return false;
	}
	return true;
}

void
neon_history_copy(neon_term_history *to, const neon_term_history *from)
{
	to->n = from->n;
	to->pad = 0;
	memcpy(to->e, from->e, from->n * sizeof(neon_term_entry));
}

uint32_t
neon_history_visible(const neon_term_history *h, neon_lsn flush_lsn)
{
	uint32_t	n = h->n;

#ifndef NEON_BREAK_HISTORY_NOT_CLIPPED
	while (n > 0 && h->e[n - 1].lsn > flush_lsn)
		n--;
#endif
	return n;
}

neon_term
neon_history_last_term(const neon_term_history *h, neon_lsn flush_lsn)
{
	uint32_t	n = neon_history_visible(h, flush_lsn);

	return n > 0 ? h->e[n - 1].term : 0;
}

/*
 * The highest term both have is searched from the back, not by walking a common prefix from the front: histories
 * may have been thinned (neon_proposer.c, "a full history").
 */
neon_common_result
neon_history_common(const neon_term_history *leader, const neon_term_history *acceptor,
					neon_lsn acceptor_flush_lsn, neon_lsn *point)
{
	uint32_t	l = leader->n;
	uint32_t	a = neon_history_visible(acceptor, acceptor_flush_lsn);
	neon_lsn	leader_end;
	neon_lsn	acceptor_end;

	*point = leader->n > 0 ? leader->e[0].lsn : NEON_LSN_INVALID;
	while (l > 0 && a > 0 && leader->e[l - 1].term != acceptor->e[a - 1].term)
	{
		if (leader->e[l - 1].term > acceptor->e[a - 1].term)
			l--;
		else
			a--;
	}
	if (l == 0 || a == 0)
		return NEON_COMMON_NONE;
	if (leader->e[l - 1].lsn != acceptor->e[a - 1].lsn)
		return NEON_COMMON_BROKEN;

	leader_end = l < leader->n ? leader->e[l].lsn : NEON_LSN_MAX;
	acceptor_end = a < neon_history_visible(acceptor, acceptor_flush_lsn) ? acceptor->e[a].lsn : acceptor_flush_lsn;
	*point = neon_min_lsn(leader_end, acceptor_end);
#ifdef NEON_BREAK_TRUNCATE_BELOW_COMMIT
	*point = leader->e[l - 1].lsn;	/* the whole of the last common term again */
#endif
	return NEON_COMMON_FOUND;
}

size_t
neon_history_print(const neon_term_history *h, uint32_t n_entries, char *out, size_t cap)
{
	size_t		need = 0;

	if (cap > 0)
		out[0] = '\0';
	for (uint32_t i = 0; i < n_entries && i < h->n; i++)
		need += (size_t) snprintf(need < cap ? out + need : NULL, need < cap ? cap - need : 0,
								  "%s%llu:" NEON_LSN_FMT, i > 0 ? "," : "",
								  (unsigned long long) h->e[i].term, NEON_LSN_ARGS(h->e[i].lsn));
	return need;
}

bool
neon_history_parse(const char *text, neon_term_history *h)
{
	h->n = 0;
	h->pad = 0;
	if (*text == '\0')
		return true;
	for (;;)
	{
		uint64_t	term = 0;
		char		lsn_text[24];
		size_t		n = 0;
		int			digits = 0;

		for (; *text >= '0' && *text <= '9' && digits < 19; text++, digits++)
			term = term * 10 + (uint64_t) (*text - '0');
		if (digits == 0 || *text++ != ':' || h->n == NEON_CONSENSUS_MAX_HISTORY)
			return false;
		while (*text != '\0' && *text != ',' && n < sizeof(lsn_text) - 1)
			lsn_text[n++] = *text++;
		lsn_text[n] = '\0';
		h->e[h->n].term = term;
		if (!neon_lsn_parse(lsn_text, &h->e[h->n].lsn))
			return false;
		h->n++;
		if (*text == '\0')
			return neon_history_valid(h);
		if (*text++ != ',')
			return false;
	}
}

void
neon_put_history(neon_writer *w, const neon_term_history *h, uint32_t n)
{
	neon_put_u32(w, n);
	for (uint32_t i = 0; i < n; i++)
	{
		neon_put_u64(w, h->e[i].term);
		neon_put_u64(w, h->e[i].lsn);
	}
}

bool
neon_get_history(neon_reader *r, neon_term_history *h)
{
	h->pad = 0;
	h->n = neon_get_u32(r);
	if (!r->ok || h->n > NEON_CONSENSUS_MAX_HISTORY || neon_reader_left(r) < (size_t) h->n * 16)
	{
		h->n = 0;
		return false;
	}
	for (uint32_t i = 0; i < h->n; i++)
	{
		h->e[i].term = neon_get_u64(r);
		h->e[i].lsn = neon_get_u64(r);
	}
	return r->ok && neon_history_valid(h);
}
