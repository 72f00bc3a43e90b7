/*
 * neon_compute_shared.h - the few words of shared memory that the compute's two modules share.
 *
 * neon_smgr and neon_walproposer both call ShmemInitStruct(NEON_COMPUTE_SHMEM, sizeof(neon_compute_shared), &found);
 * whoever comes first zeroes it.  Accessed with __atomic builtins only (a plain C file, no server header).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_COMPUTE_SHARED_H
#define NEON_COMPUTE_SHARED_H

#include <stdint.h>

#define NEON_COMPUTE_SHMEM	"neon compute"

typedef struct neon_compute_shared
{
	uint64_t	commit_lsn;		/* the quorum has everything up to here; never decreases; UINT64_MAX without a proposer */
	uint64_t	start_lsn;		/* X: end of WAL this compute started at */
	uint64_t	pageserver_lag_bytes;	/* for back-pressure: insert LSN minus the pageserver's last_record_lsn */
	uint32_t	proposer_pid;	/* 0 while no proposer runs */
	uint32_t	proposer_elected;	/* 1 once elected with term_start = X */
} neon_compute_shared;

#endif							/* NEON_COMPUTE_SHARED_H */
