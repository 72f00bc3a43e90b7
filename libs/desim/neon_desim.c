/*
 * neon_desim.c - clock, event queue (a binary heap), random numbers, trace, and the simulated disk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_desim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRACE_LINES	400
#define TRACE_BYTES 240

typedef struct event
{
	uint64_t	time_us;
	uint64_t	order;
	neon_sim_fn fn;
	void	   *arg;
	uint64_t	a;
	uint64_t	b;
} event;

struct neon_sim
{
	uint64_t	rng[2];
	uint64_t	now_us;
	uint64_t	next_order;
	uint64_t	handled;
	uint64_t	fingerprint;
	event	   *heap;
	size_t		n_events;
	size_t		cap_events;
	bool		verbose;
	uint64_t	n_lines;
	char		lines[TRACE_LINES][TRACE_BYTES];
};

static void *
must_alloc(void *p, size_t n)
{
	p = realloc(p, n);
	if (p == NULL)
	{
		fputs("out of memory\n", stderr);
		exit(2);
	}
	return p;
}

static uint64_t
splitmix(uint64_t *state)
{
	uint64_t	z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

neon_sim *
neon_sim_new(uint64_t seed, bool verbose)
{
	neon_sim   *sim = must_alloc(NULL, sizeof(*sim));

	memset(sim, 0, sizeof(*sim));
	sim->rng[0] = splitmix(&seed);
	sim->rng[1] = splitmix(&seed) | 1;
	sim->verbose = verbose;
	return sim;
}

void
neon_sim_free(neon_sim *sim)
{
	free(sim->heap);
	free(sim);
}

uint64_t
neon_sim_now_us(const neon_sim *sim)
{
	return sim->now_us;
}

uint64_t
neon_sim_events(const neon_sim *sim)
{
	return sim->handled;
}

uint64_t
neon_sim_fingerprint(const neon_sim *sim)
{
	return sim->fingerprint;
}

/* xorshift128+ */
uint64_t
neon_sim_random(neon_sim *sim)
{
	uint64_t	x = sim->rng[0];
	uint64_t	y = sim->rng[1];

	sim->rng[0] = y;
	x ^= x << 23;
	sim->rng[1] = x ^ y ^ (x >> 17) ^ (y >> 26);
	return sim->rng[1] + y;
}

uint64_t
neon_sim_below(neon_sim *sim, uint64_t n)
{
	return n == 0 ? 0 : neon_sim_random(sim) % n;
}

uint64_t
neon_sim_between(neon_sim *sim, uint64_t low, uint64_t high)
{
	return low + neon_sim_below(sim, high - low + 1);
}

bool
neon_sim_chance(neon_sim *sim, uint32_t per_10000)
{
	return neon_sim_below(sim, 10000) < per_10000;
}

static bool
earlier(const event *x, const event *y)
{
	return x->time_us != y->time_us ? x->time_us < y->time_us : x->order < y->order;
}

void
neon_sim_after(neon_sim *sim, uint64_t delay_us, neon_sim_fn fn, void *arg, uint64_t a, uint64_t b)
{
	event		e = {sim->now_us + delay_us, sim->next_order++, fn, arg, a, b};
	size_t		at = sim->n_events++;

	if (sim->n_events > sim->cap_events)
	{
		sim->cap_events = sim->cap_events == 0 ? 1024 : sim->cap_events * 2;
		sim->heap = must_alloc(sim->heap, sim->cap_events * sizeof(event));
	}
	for (; at > 0 && earlier(&e, &sim->heap[(at - 1) / 2]); at = (at - 1) / 2)
		sim->heap[at] = sim->heap[(at - 1) / 2];
	sim->heap[at] = e;
}

bool
neon_sim_step(neon_sim *sim)
{
	event		first;
	event		last;
	size_t		at = 0;

	if (sim->n_events == 0)
		return false;
	first = sim->heap[0];
	last = sim->heap[--sim->n_events];
	for (;;)
	{
		size_t		child = 2 * at + 1;

		if (child >= sim->n_events)
			break;
		if (child + 1 < sim->n_events && earlier(&sim->heap[child + 1], &sim->heap[child]))
			child++;
		if (!earlier(&sim->heap[child], &last))
			break;
		sim->heap[at] = sim->heap[child];
		at = child;
	}
	sim->heap[at] = last;

	sim->now_us = first.time_us;
	sim->handled++;
	sim->fingerprint = (sim->fingerprint ^ first.time_us) * UINT64_C(0x100000001b3);
	first.fn(first.arg, first.a, first.b);
	return true;
}

void
neon_sim_trace(neon_sim *sim, const char *fmt,...)
{
	char	   *line = sim->lines[sim->n_lines++ % TRACE_LINES];
	int			n = snprintf(line, TRACE_BYTES, "%10.3f ms  ", (double) sim->now_us / 1000);
	va_list		args;

	va_start(args, fmt);
	vsnprintf(line + n, (size_t) (TRACE_BYTES - n), fmt, args);
	va_end(args);
	for (const char *c = line; *c != '\0'; c++)
		sim->fingerprint = (sim->fingerprint ^ (uint8_t) *c) * UINT64_C(0x100000001b3);
	if (sim->verbose)
		puts(line);
}

void
neon_sim_print_tail(const neon_sim *sim)
{
	uint64_t	from = sim->n_lines > TRACE_LINES ? sim->n_lines - TRACE_LINES : 0;

	if (sim->verbose)
		return;
	for (uint64_t i = from; i < sim->n_lines; i++)
		puts(sim->lines[i % TRACE_LINES]);
}

/* ---- disk ---- */

void
neon_sim_disk_init(neon_sim_disk *d, neon_sim *sim, size_t bytes)
{
	size_t		sectors = bytes / NEON_SIM_SECTOR_BYTES;

	d->sim = sim;
	d->bytes = bytes;
	d->now = memset(must_alloc(NULL, bytes), 0, bytes);
	d->durable = memset(must_alloc(NULL, bytes), 0, bytes);
	d->dirty = memset(must_alloc(NULL, sectors), 0, sectors);
}

void
neon_sim_disk_free(neon_sim_disk *d)
{
	free(d->now);
	free(d->durable);
	free(d->dirty);
}

void
neon_sim_disk_write(neon_sim_disk *d, size_t at, const void *bytes, size_t len)
{
	if (len == 0)
		return;
	if (bytes != NULL)
		memcpy(d->now + at, bytes, len);
	else
		memset(d->now + at, 0, len);
	memset(d->dirty + at / NEON_SIM_SECTOR_BYTES, 1,
		   (at + len - 1) / NEON_SIM_SECTOR_BYTES - at / NEON_SIM_SECTOR_BYTES + 1);
}

void
neon_sim_disk_sync(neon_sim_disk *d)
{
	for (size_t s = 0; s < d->bytes / NEON_SIM_SECTOR_BYTES; s++)
	{
		if (!d->dirty[s])
			continue;
		memcpy(d->durable + s * NEON_SIM_SECTOR_BYTES, d->now + s * NEON_SIM_SECTOR_BYTES, NEON_SIM_SECTOR_BYTES);
		d->dirty[s] = 0;
	}
}

void
neon_sim_disk_crash(neon_sim_disk *d)
{
	for (size_t s = 0; s < d->bytes / NEON_SIM_SECTOR_BYTES; s++)
	{
		if (!d->dirty[s])
			continue;
		if (neon_sim_below(d->sim, 2) == 0)
			memcpy(d->durable + s * NEON_SIM_SECTOR_BYTES, d->now + s * NEON_SIM_SECTOR_BYTES, NEON_SIM_SECTOR_BYTES);
		d->dirty[s] = 0;
	}
	memcpy(d->now, d->durable, d->bytes);
}
