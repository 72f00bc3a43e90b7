/*
 * http_limits.c - failed logins by address and minute, in a table of fixed size.
 *
 * Addresses that share a slot share its count: with a full table a stranger may be refused for a minute, never let in more often.  An IPv6
 * address counts with its /64.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <arpa/inet.h>

#include "common/hashfn.h"

#include "http_limits.h"

#define SLOTS 4096

typedef struct Guesses
{
	uint64_t	minute;
	int			count;
} Guesses;

static Guesses table[SLOTS];

static Guesses *
slot_of(HtRequest *r, HtGuess kind)
{
	unsigned char bytes[17] = {kind};
	Guesses    *g;
	uint64_t	minute = ht_now_ms() / 60000;

	if (inet_pton(AF_INET6, r->address, bytes + 1) == 1)
		memset(bytes + 9, 0, 8);
	else
		inet_pton(AF_INET, r->address, bytes + 1);
	g = &table[hash_bytes(bytes, sizeof(bytes)) % SLOTS];
	if (g->minute != minute)
	{
		g->minute = minute;
		g->count = 0;
	}
	return g;
}

bool
ht_guesses_used_up(HtRequest *r, HtGuess kind, int limit)
{
	return limit > 0 && slot_of(r, kind)->count >= limit;
}

void
ht_guess_failed(HtRequest *r, HtGuess kind)
{
	slot_of(r, kind)->count++;
}
