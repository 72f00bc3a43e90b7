/*
 * neon_warm.h - what a compute's clean stop leaves for its next start in the same directory.
 *
 * One file below neon/ in the data directory: this header, then what the page cache holds.  Its name says how far it has come:
 *
 *   warm.written   by the compute, as the last thing of a clean stop whose whole WAL the quorum has
 *   warm.sealed    everything in the directory has been made durable (compute_tools)
 *   warm.start     a start has begun that may use it (compute_tools); the compute reads it once and removes it
 *
 * A crash at any point leaves a name with which nothing is done, and the next start is from nothing.  The directory may be used only on
 * the boot of the host it was stopped on, and only if the quorum's log still ends where it ended then.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_WARM_H
#define NEON_WARM_H

#include "neon_core.h"

#define NEON_WARM_WRITTEN	"neon/warm.written"
#define NEON_WARM_SEALED	"neon/warm.sealed"
#define NEON_WARM_START		"neon/warm.start"

#define NEON_WARM_MAGIC		UINT32_C(0x4e57524d)
#define NEON_WARM_VERSION	1
#define NEON_BOOT_ID_PATH	"/proc/sys/kernel/random/boot_id"
#define NEON_BOOT_ID_TEXT	37

/* A shutdown checkpoint's record: its header, the header of its data, PostgreSQL 15's CheckPoint. */
#define NEON_SHUTDOWN_RECORD_BYTES	(24 + 2 + 88)

typedef struct neon_warm_header
{
	uint32_t	magic;
	uint32_t	version;
	char		tenant[NEON_ID_TEXT];
	char		timeline[NEON_ID_TEXT];
	char		boot_id[NEON_BOOT_ID_TEXT];
	neon_lsn	checkpoint_lsn; /* start of the shutdown checkpoint's record, the last one of the log */
	neon_lsn	end_lsn;		/* its end */
	int32_t		partitions;		/* of the page cache: they must be the same to use it */
	int32_t		partition_slots;
	uint32_t	entry_bytes;
	uint32_t	entries_crc;
	int64_t		entries;
	uint32_t	reserved;
	uint32_t	crc;			/* of everything above */
} neon_warm_header;

/* Sets magic, version and checksum of a header that is otherwise complete. */
extern void neon_warm_finish(neon_warm_header *h);
/* Is it a whole header of this version? */
extern bool neon_warm_valid(const neon_warm_header *h);
/* Is it of this compute on this boot? */
extern bool neon_warm_matches(const neon_warm_header *h, const char *tenant, const char *timeline, const char *boot_id);

#endif							/* NEON_WARM_H */
