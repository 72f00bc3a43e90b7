/*
 * sim_storage.c - what a safekeeper owes to the acceptor (neon_acceptor.h), on a disk that forgets what was not synced.
 *
 * Every function may crash the node before, within or after its effect.  The two rules that are kept by storage and not by the
 * acceptor can be broken here: NEON_BREAK_ACK_BEFORE_FDATASYNC, NEON_BREAK_TAIL_NOT_ZEROED.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sim.h"

#include <string.h>

/* Shall this storage call crash the node here? */
static bool
crashes(sim_node *n)
{
	if (n->crash_now)
		return true;
	if (n->w->faults && neon_sim_chance(n->w->sim, n->w->storage_fault_per_10000))
		n->crash_now = true;
	return n->crash_now;
}

static bool
persist_state(void *arg, const neon_acceptor_durable *next)
{
	sim_node   *n = arg;

	if (crashes(n))
		return false;
	if (next->term < n->term)
		sim_fail(n->w, "node %d: its term falls from %llu to %llu", n->index, (unsigned long long) n->term,
				 (unsigned long long) next->term);
	n->conf = *next->conf;
	n->term = next->term;
	n->history = *next->history;
	n->commit_lsn = next->commit_lsn;
	n->truncate_lsn = next->truncate_lsn;
	return !crashes(n);
}

static void
scan_written(sim_node *n)
{
	neon_lsn	end;
	neon_lsn	prev;

	while (sim_record_at(n->wal.now, n->written_record_lsn, n->write_lsn, &end, &prev))
	{
		if (prev != n->written_record_start)
			sim_fail(n->w, "node %d: the record at %llu names %llu as the one before, which is %llu", n->index,
					 (unsigned long long) n->written_record_lsn, (unsigned long long) prev,
					 (unsigned long long) n->written_record_start);
		n->written_record_start = n->written_record_lsn;
		n->written_record_lsn = end;
	}
}

static bool
wal_write(void *arg, neon_lsn begin, const uint8_t *bytes, size_t len)
{
	sim_node   *n = arg;

	if (crashes(n))
		return false;
	if (begin != n->write_lsn || begin + len > SIM_WAL_END + SIM_RECORD_MAX)
		sim_fail(n->w, "node %d: write at %llu, its log ends at %llu", n->index,
				 (unsigned long long) begin, (unsigned long long) n->write_lsn);
	neon_sim_disk_write(&n->wal, begin - SIM_WAL_START, bytes, len);
	n->write_lsn = begin + len;
	scan_written(n);
	return true;
}

#ifdef NEON_BREAK_ACK_BEFORE_FDATASYNC
static void
sync_late(void *arg, uint64_t incarnation, uint64_t unused)
{
	sim_node   *n = arg;

	if (n->up && n->incarnation == incarnation)
		neon_sim_disk_sync(&n->wal);
}
#endif

static bool
wal_flush(void *arg)
{
	sim_node   *n = arg;

	if (crashes(n))
		return false;
#ifndef NEON_BREAK_ACK_BEFORE_FDATASYNC
	neon_sim_disk_sync(&n->wal);
#else
	/* soon, but after the answer */
	neon_sim_after(n->w->sim, neon_sim_between(n->w->sim, 100, 2000), sync_late, n, n->incarnation, 0);
#endif
	n->flush_record_lsn = n->written_record_lsn;
	n->flush_record_start = n->written_record_start;
	return !crashes(n);
}

/* Set all positions to the record end `to`, which is found from the beginning of the log. */
void
sim_storage_position(sim_node *n, neon_lsn to)
{
	neon_lsn	end;
	neon_lsn	prev;

	n->write_lsn = to;
	n->written_record_lsn = SIM_WAL_START;
	n->written_record_start = 0;
	while (sim_record_at(n->wal.now, n->written_record_lsn, to, &end, &prev))
	{
		n->written_record_start = n->written_record_lsn;
		n->written_record_lsn = end;
	}
	n->flush_record_lsn = n->written_record_lsn;
	n->flush_record_start = n->written_record_start;
	n->write_lsn = n->written_record_lsn;
}

static bool
wal_truncate(void *arg, neon_lsn to)
{
	sim_node   *n = arg;
	size_t		at __attribute__((unused)) = to - SIM_WAL_START;

	sim_check_truncate(n, to);
	if (crashes(n))
		return false;
	sim_storage_position(n, to);
#ifdef NEON_BREAK_TAIL_NOT_ZEROED
	return true;
#endif
	if (n->w->faults && neon_sim_chance(n->w->sim, 300))
	{
		/* an error of the disk in the middle, without a crash */
		neon_sim_disk_write(&n->wal, at, NULL, neon_sim_below(n->w->sim, n->wal.bytes - at));
		return false;
	}
	neon_sim_disk_write(&n->wal, at, NULL, n->wal.bytes - at);
	if (crashes(n))
		return false;
	neon_sim_disk_sync(&n->wal);
	return !crashes(n);
}

static neon_lsn
write_lsn(void *arg)
{
	return ((sim_node *) arg)->write_lsn;
}

static neon_lsn
flush_record_lsn(void *arg)
{
	return ((sim_node *) arg)->flush_record_lsn;
}

static neon_lsn
last_record_start(void *arg)
{
	return ((sim_node *) arg)->flush_record_start;
}

const neon_acceptor_storage sim_storage = {
	persist_state, wal_write, wal_flush, wal_truncate, write_lsn, flush_record_lsn, last_record_start
};
