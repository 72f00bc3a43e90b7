/*
 * neon_smgr.h - settings and shared memory of the compute's storage manager.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_SMGR_H
#define NEON_SMGR_H

#include "access/xlogdefs.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

#include "neon_compute_shared.h"
#include "neon_pgpatch_server.h"

/* ---- settings (neon_smgr.c) ---- */
extern char *neon_tenant_id;
extern char *neon_timeline_id;
extern char *neon_pageserver_connstring;
extern char *neon_controller_connstring;
extern char *neon_page_store_directory;
extern char *neon_static_timeline_id;
extern XLogRecPtr neon_static_lsn;	/* this server shows its timeline as of this LSN, and writes nothing; invalid: it writes */
extern int	neon_file_cache_size_limit_mb;
extern int	neon_max_relations;
extern int	neon_pageserver_timeout_ms;

#define NEON_LOCAL_DIR	"neon"	/* in the data directory: page cache and pinned pages; warm_cache.c says what outlives a stop */

/* ---- counters, for pg_stat_neon_page_cache ---- */
typedef enum NeonCounter
{
	NEON_CNT_READ_PINNED,
	NEON_CNT_READ_ZERO,
	NEON_CNT_READ_CACHE,
	NEON_CNT_READ_SOURCE,
	NEON_CNT_WRITE_CACHED,
	NEON_CNT_WRITE_DROPPED,		/* nothing kept: the page source can rebuild it */
	NEON_CNT_WRITE_ZERO,
	NEON_CNT_PIN_BUILD,
	NEON_CNT_PIN_XID,
	NEON_CNT_PIN_CYCLE,
	NEON_CNT_PIN_SEQUENCE,
	NEON_CNT_PIN_FSM,
	NEON_CNT_PIN_QUORUM,		/* no room in the page cache for a page the quorum does not have */
	NEON_CNT_PIN_RELEASED,
	NEON_CNT_CACHE_EVICTIONS,
	NEON_CNT_READ_AHEAD_HITS,
	NEON_CNT_LAST
} NeonCounter;

typedef struct NeonSmgrShared
{
	XLogRecPtr	start_lsn;		/* every page unchanged since the start is found at this LSN */
	pg_atomic_uint64 counters[NEON_CNT_LAST];
	neon_pgpatch_report report; /* what the self-check found */
} NeonSmgrShared;

extern NeonSmgrShared *neon_smgr_shared;
extern neon_compute_shared *neon_compute;

extern bool neon_smgr_active;	/* this server's storage manager is ours */

static inline void
neon_count(NeonCounter c)
{
	pg_atomic_fetch_add_u64(&neon_smgr_shared->counters[c], 1);
}

/* The quorum has everything up to here. */
static inline XLogRecPtr
neon_commit_lsn(void)
{
	return __atomic_load_n(&neon_compute->commit_lsn, __ATOMIC_ACQUIRE);
}

/* End of the last record inserted so far, as the page source counts: never just behind a WAL page's header. */
extern XLogRecPtr neon_insert_lsn(void);
extern XLogRecPtr neon_pull_back_lsn(XLogRecPtr lsn);

/* ---- patching and hooks of the parts ---- */
extern bool smgr_abi_install(const neon_pgpatch_image *image, neon_pgpatch_report *report);
extern bool standby_install(const neon_pgpatch_image *image, neon_pgpatch_report *report);
extern void standby_settings(void);
extern XLogRecPtr static_endpoint_start_lsn(void);
extern void pg_attribute_noreturn() static_endpoint_refuse(void);
/* Pins of the buffer a page is in; 0 for a page that is in none. */
extern int	smgr_abi_buffer_pins(const char *page);
struct NeonRel;
extern bool smgr_abi_block_in_buffers(const struct NeonRel *rel, int fork, uint32 block);
extern bool size_functions_install(const neon_pgpatch_image *image, neon_pgpatch_report *report);
extern void utility_hook_install(void);
extern void release_worker_register(void);
extern PGDLLEXPORT void neon_release_worker_main(Datum arg);

#endif							/* NEON_SMGR_H */
