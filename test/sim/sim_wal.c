/*
 * sim_wal.c - records of the simulation.
 *
 * Like the server's they have a length, a checksum and the LSN of the record before; unlike the server's there are
 * no page headers.  Now and then a record is a switch: zeroes up to the next segment belong to it, outside of its
 * checksum.  The checksum covers the position and the writer, so that equal bytes mean the same record.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sim.h"

#include <string.h>

typedef struct record
{
	uint32_t	len;			/* header and payload; a multiple of 8 */
	uint32_t	crc;
	uint64_t	lsn;
	uint64_t	prev;
	uint32_t	writer;
	uint32_t	is_switch;
} record;

static uint32_t
checksum(const uint8_t *p, uint32_t len)
{
	uint32_t	crc = neon_crc32c(0, p, offsetof(record, crc));

	return neon_crc32c(crc, p + offsetof(record, lsn), len - offsetof(record, lsn));
}

/* Returns the length with a switch's fill. */
size_t
sim_record_make(neon_sim *sim, neon_lsn lsn, neon_lsn prev, uint32_t writer, uint8_t *out)
{
	record		r = {0, 0, lsn, prev, writer, 0};
	size_t		total;

	r.len = (uint32_t) sizeof(r) + 8 * (uint32_t) neon_sim_below(sim, neon_sim_chance(sim, 300) ? 400 : 16);
	r.is_switch = neon_sim_chance(sim, 100);
	for (size_t i = sizeof(r); i < r.len; i++)
		out[i] = (uint8_t) neon_sim_random(sim);
	memcpy(out, &r, sizeof(r));
	r.crc = checksum(out, r.len);
	memcpy(out, &r, sizeof(r));

	total = r.len;
	if (r.is_switch)
	{
		neon_lsn	end = (lsn + r.len + SIM_SEGMENT_BYTES - 1) / SIM_SEGMENT_BYTES * SIM_SEGMENT_BYTES;

		total = (size_t) (end - lsn);
		memset(out + r.len, 0, total - r.len);
	}
	return total;
}

bool
sim_record_at(const uint8_t *base, neon_lsn lsn, neon_lsn limit, neon_lsn *end, neon_lsn *prev)
{
	const uint8_t *p = base + (lsn - SIM_WAL_START);
	record		r;

	if (lsn + sizeof(r) > limit)
		return false;
	memcpy(&r, p, sizeof(r));
	if (r.len < sizeof(r) || r.len % 8 != 0 || r.len > SIM_RECORD_MAX || lsn + r.len > limit)
		return false;
	if (r.lsn != lsn || r.crc != checksum(p, r.len))
		return false;
	*end = lsn + r.len;
	*prev = r.prev;
	if (r.is_switch)
	{
		*end = (*end + SIM_SEGMENT_BYTES - 1) / SIM_SEGMENT_BYTES * SIM_SEGMENT_BYTES;
		if (*end > limit)
			return false;
		for (neon_lsn at = lsn + r.len; at < *end; at++)
			if (base[at - SIM_WAL_START] != 0)
				return false;
	}
	return true;
}
