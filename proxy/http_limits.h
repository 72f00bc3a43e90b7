/*
 * http_limits.h - failed logins by address, which the database side cannot count: it sees our socket.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_LIMITS_H
#define HTTP_LIMITS_H

#include "http_server.h"

typedef enum HtGuess
{
	HT_GUESS_CONSOLE,
	HT_GUESS_DATABASE
} HtGuess;

/* Whether the address has failed too often in this minute; limit 0 is none. */
extern bool ht_guesses_used_up(HtRequest *request, HtGuess kind, int limit);
extern void ht_guess_failed(HtRequest *request, HtGuess kind);

#endif							/* HTTP_LIMITS_H */
