/*
 * http_pool.c - which job gets which connection: a bounded pool, and a queue of jobs before it.
 *
 * Jobs wait in the order they came; one whose target has no room lets those for other targets pass.  A connection is given only to a job
 * with the same target, password included, and only for a while: then it is to log in again.  Idle connections of other targets make room when
 * the whole pool is full.
 *
 * Invariant: a submitted job either waits here or is the job of one connection.
 *
 * Bounds: neon_proxy.http_pool_size connections for a target, neon_proxy.http_pool_total together, a deadline for each job, an age for idle
 * connections.  There are never more jobs than HTTP connections.  All of it is this process's memory: nothing is left when it is killed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "http_pool.h"

HpFigures	hp_figures;

static HpJob *waiting;			/* oldest first */
static bool assigning;

static void
unlink_waiting(HpJob *job)
{
	for (HpJob **p = &waiting; *p; p = &(*p)->next)
		if (*p == job)
		{
			*p = job->next;
			hp_figures.waiting--;
			return;
		}
}

/* Whether its login still stands for who knows the password: none may have changed since, as far as is known, and it is not long ago. */
static bool
still_proved(const HpConn *c)
{
	return c->secrets_generation == pg_atomic_read_u32(&px_shared->secrets_generation) && ht_now_ms() - c->born_ms < ht_pool_lifetime_ms;
}

static HpConn *
find_connection(const HpJob *job, int *count)
{
	HpConn	   *found = NULL;
	HpConn	   *next;

	*count = 0;
	for (HpConn *c = hp_connections; c; c = next)
	{
		next = c->next;
		if (memcmp(c->key, job->key, sizeof(c->key)) != 0)
			continue;
		if (c->state == CONN_IDLE && !still_proved(c))
		{
			hp_close(c);
			continue;
		}
		(*count)++;
		if (c->state == CONN_IDLE && !c->job && job->pooled && !found)
			found = c;
	}
	return found;
}

/* Makes room by closing the connection that has been idle for the longest. */
static bool
evict_idle(void)
{
	HpConn	   *oldest = NULL;

	for (HpConn *c = hp_connections; c; c = c->next)
		if (c->state == CONN_IDLE && (!oldest || c->since_ms < oldest->since_ms))
			oldest = c;
	if (oldest)
		hp_close(oldest);
	return oldest != NULL;
}

/* False: it has to wait. */
static bool
try_assign(HpJob *job)
{
	int			count;
	HpConn	   *c = find_connection(job, &count);

	if (c)
	{
		hp_figures.reuses++;
		hp_start(c, job);
		return true;
	}
	if (count >= ht_pool_size || (hp_figures.connections >= ht_pool_total && !evict_idle()))
		return false;
	c = hp_open(job);
	if (!c)
	{
		hp_fail(job, 503, "53200", "out of memory");
		hp_finish(job);
		return true;
	}
	hp_start(c, job);
	if (PQstatus(c->pg) == CONNECTION_BAD || !hp_watch(c, UV_WRITABLE))
	{
		hp_figures.connect_failures++;
		hp_fail_connection(job, c->pg);
		hp_end_both(c);
	}
	return true;
}

/* Callbacks of jobs may come back here: the outer call goes on from the front. */
void
hp_assign(void)
{
	HpJob	   *job;

	if (assigning)
		return;
	assigning = true;
	for (job = waiting; job;)
	{
		HpJob	   *next = job->next;

		unlink_waiting(job);
		if (try_assign(job))
			job = waiting;
		else
		{
			HpJob	  **p = &waiting;

			/* back to its place: before the one that follows it */
			while (*p && *p != next)
				p = &(*p)->next;
			job->next = *p;
			*p = job;
			hp_figures.waiting++;
			job = next;
		}
	}
	assigning = false;
}

void
hp_submit(HpJob *job)
{
	HpJob	  **p = &waiting;

	if (!hp_target_key(&job->target, job->key))
	{
		hp_fail(job, 503, "53200", "out of memory");
		hp_finish(job);
		return;
	}
	while (*p)
		p = &(*p)->next;
	*p = job;
	hp_figures.waiting++;
	hp_assign();
}

void
hp_cancel(HpJob *job)
{
	HpConn	   *c = job->conn;

	unlink_waiting(job);
	if (c)
	{
		c->job = NULL;
		hp_abandon(c);
	}
	hp_job_free(job);
	hp_assign();
}

static void
time_out(HpJob *job)
{
	HpConn	   *c = job->conn;

	hp_figures.timeouts++;
	hp_fail(job, 504, "57014", c ? "the statement took too long" : "no database connection became free in time");
	if (c)
	{
		job->give_up = true;
		hp_end_both(c);
		return;
	}
	unlink_waiting(job);
	hp_finish(job);
}

/* One at a time, from the front: each may change the lists. */
static bool
tick_once(uint64_t now)
{
	for (HpJob *job = waiting; job; job = job->next)
		if (now > job->deadline_ms)
		{
			time_out(job);
			return true;
		}
	for (HpConn *c = hp_connections; c; c = c->next)
	{
		if (c->job && now > c->job->deadline_ms)
		{
			time_out(c->job);
			return true;
		}
		if ((c->state == CONN_IDLE && now - c->since_ms > ht_pool_idle_timeout_ms) ||
			(c->state == CONN_RESETTING && now - c->since_ms > ht_request_timeout_ms))
		{
			hp_close(c);
			return true;
		}
	}
	return false;
}

void
ht_pg_tick(void)
{
	uint64_t	now = ht_now_ms();

	while (tick_once(now))
		;
	hp_assign();
}
