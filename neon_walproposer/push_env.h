/*
 * push_env.h - libs/wal_push inside a server process: clock, randomness, log, waiting.  Include postgres.h first.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PUSH_ENV_H
#define NEON_PUSH_ENV_H

#include "storage/latch.h"

#include "neon_wal_push.h"

typedef struct PushEnv
{
	int			log_level;
	WaitEventSet *wait_set;		/* for exactly the sockets below; NULL before the first wait */
	int			n;
	neon_push_socket sockets[NEON_PUSH_MAX_SOCKETS];
} PushEnv;

extern void push_env_init(PushEnv *env, int log_level);
extern void push_env_free(PushEnv *env);

/* Members of neon_push_env; arg is a PushEnv, or begins with one. */
extern int64 push_env_now_ms(void *arg);
extern uint32 push_env_random(void *arg);
extern void push_env_log(void *arg, const char *text);
extern void push_env_wait(void *arg, neon_push_socket *sockets, int n, int timeout_ms);

#endif							/* NEON_PUSH_ENV_H */
