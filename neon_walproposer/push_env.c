/*
 * push_env.c - libs/wal_push inside a server process: clock, randomness, log, waiting.
 *
 * A WaitEventSet cannot lose members, so it is made anew whenever the sockets are others than last time; libpq connections
 * come and go rarely.  The latch is reset here, after the wait: what its setter has changed is looked at in the next turn.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <time.h>

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "push_env.h"

#define OWN_EVENTS	2			/* latch, postmaster death */

void
push_env_init(PushEnv *env, int log_level)
{
	memset(env, 0, sizeof(*env));
	env->log_level = log_level;
}

void
push_env_free(PushEnv *env)
{
	if (env->wait_set)
		FreeWaitEventSet(env->wait_set);
	env->wait_set = NULL;
}

int64
push_env_now_ms(void *arg)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

uint32
push_env_random(void *arg)
{
	return pg_prng_uint32(&pg_global_prng_state);
}

void
push_env_log(void *arg, const char *text)
{
	PushEnv    *env = arg;

	ereport(env->log_level, (errmsg_internal("%s", text)));
}

static uint32
wanted_events(const neon_push_socket *s)
{
	return (s->want_read ? WL_SOCKET_READABLE : 0) | (s->want_write ? WL_SOCKET_WRITEABLE : 0);
}

static bool
same_sockets(const PushEnv *env, const neon_push_socket *sockets, int n)
{
	if (env->wait_set == NULL || env->n != n)
		return false;
	for (int i = 0; i < n; i++)
		if (env->sockets[i].fd != sockets[i].fd || env->sockets[i].serial != sockets[i].serial)
			return false;
	return true;
}

static void
rebuild(PushEnv *env, const neon_push_socket *sockets, int n)
{
	push_env_free(env);
	env->wait_set = CreateWaitEventSet(TopMemoryContext, n + OWN_EVENTS);
	AddWaitEventToSet(env->wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(env->wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < n; i++)
		AddWaitEventToSet(env->wait_set, wanted_events(&sockets[i]), sockets[i].fd, NULL, NULL);
	env->n = n;
	memcpy(env->sockets, sockets, n * sizeof(*sockets));
}

void
push_env_wait(void *arg, neon_push_socket *sockets, int n, int timeout_ms)
{
	PushEnv    *env = arg;
	WaitEvent	events[NEON_PUSH_MAX_SOCKETS + OWN_EVENTS];
	int			n_events;
	bool		latch_set = false;

	if (!same_sockets(env, sockets, n))
		rebuild(env, sockets, n);
	for (int i = 0; i < n; i++)
		ModifyWaitEvent(env->wait_set, i + OWN_EVENTS, wanted_events(&sockets[i]), NULL);

	n_events = WaitEventSetWait(env->wait_set, timeout_ms, events, lengthof(events), PG_WAIT_EXTENSION);
	for (int i = 0; i < n_events; i++)
	{
		if (events[i].events & WL_LATCH_SET)
			latch_set = true;
		if (events[i].pos < OWN_EVENTS)
			continue;
		sockets[events[i].pos - OWN_EVENTS].readable = (events[i].events & WL_SOCKET_READABLE) != 0;
		sockets[events[i].pos - OWN_EVENTS].writable = (events[i].events & WL_SOCKET_WRITEABLE) != 0;
	}
	if (latch_set)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}
