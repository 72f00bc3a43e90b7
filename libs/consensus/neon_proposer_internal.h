/*
 * neon_proposer_internal.h - between neon_proposer.c (until elected) and neon_proposer_stream.c (afterwards).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PROPOSER_INTERNAL_H
#define NEON_PROPOSER_INTERNAL_H

#include "neon_proposer.h"
#include "neon_consensus_internal.h"

extern void neon_proposer_die(neon_proposer *p, neon_proposer_fatal reason, const char *detail);
extern void neon_proposer_drop(neon_proposer *p, int i, const char *why);
extern int	neon_proposer_find(const neon_proposer *p, uint64_t node_id);

/* Is the peer part of the exchange: connected, and answering under our configuration? */
static inline bool
neon_peer_campaigns(const neon_proposer_peer *peer)
{
	return peer->state == NEON_PEER_GREETED || peer->state == NEON_PEER_VOTING || peer->state == NEON_PEER_VOTED;
}

/* COLLECT: ask those again that have greeted. */
extern void neon_proposer_greet_again(neon_proposer *p);

/* Tell peer i, whose vote we have, about the election, and begin to stream. */
extern void neon_proposer_announce(neon_proposer *p, int i);
extern void neon_proposer_on_response(neon_proposer *p, int i, const uint8_t *bytes, size_t len);
extern void neon_proposer_check_finished(neon_proposer *p);

#endif							/* NEON_PROPOSER_INTERNAL_H */
