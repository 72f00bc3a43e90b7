/*
 * functions.c - what people and tests see of the storage manager.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/relation.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/smgr.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"

#include "neon_smgr.h"
#include "page_cache.h"
#include "pagestore.h"
#include "relation_table.h"
#include "replica.h"

#define STAT_COLUMNS	(NEON_CNT_LAST + 4)

PG_FUNCTION_INFO_V1(neon_page_cache_stats);
PG_FUNCTION_INFO_V1(neon_version);
PG_FUNCTION_INFO_V1(neon_compute_info);
PG_FUNCTION_INFO_V1(neon_test_evict);
PG_FUNCTION_INFO_V1(neon_replica_stats);

static void
require_compute(void)
{
	if (!neon_smgr_active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server is not a compute"),
				 errhint("Preload neon_smgr and set \"neon.timeline_id\".")));
}

/* slots, used slots, relations, their limit, then the counters in their order */
Datum
neon_page_cache_stats(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[STAT_COLUMNS];
	bool		nulls[STAT_COLUMNS] = {false};
	int64		slots,
				used;

	require_compute();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != STAT_COLUMNS)
		elog(ERROR, "unexpected result type of neon_page_cache_stats");
	page_cache_usage(&slots, &used);
	values[0] = Int64GetDatum(slots * BLCKSZ);
	values[1] = Int64GetDatum(used * BLCKSZ);
	values[2] = Int64GetDatum(relation_table_used());
	values[3] = Int64GetDatum(neon_max_relations);
	for (int i = 0; i < NEON_CNT_LAST; i++)
		values[4 + i] = Int64GetDatum(pg_atomic_read_u64(&neon_smgr_shared->counters[i]));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

Datum
neon_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("neon 0.1 for PostgreSQL %s%s", PG_VERSION,
											  neon_smgr_active ? "" : " (not a compute)")));
}

Datum
neon_compute_info(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[10];
	bool		nulls[10] = {false};
	const neon_pgpatch_report *report;

	require_compute();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != 10)
		elog(ERROR, "unexpected result type of neon_compute_info");
	report = &neon_smgr_shared->report;
	values[0] = CStringGetTextDatum(neon_tenant_id);
	values[1] = CStringGetTextDatum(neon_timeline_id);
	values[2] = CStringGetTextDatum(page_source->name);
	values[3] = LSNGetDatum(neon_smgr_shared->start_lsn);
	values[4] = LSNGetDatum(neon_commit_lsn());
	nulls[4] = neon_commit_lsn() == UINT64_MAX;
	values[5] = Int32GetDatum(report->replaced_tables);
	values[6] = Int32GetDatum(report->detours);
	values[7] = Int32GetDatum(report->builtins);
	values[8] = Int32GetDatum(report->direct_calls_expected);
	values[9] = Int32GetDatum(report->direct_calls_unexpected);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* replay_lsn, records redone, skipped, skipped after a look at the visibility map */
Datum
neon_replica_stats(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {false};
	ReplicaCounters c;

	require_compute();
	if (!neon_replica)
		PG_RETURN_NULL();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != 4)
		elog(ERROR, "unexpected result type of neon_replica_stats");
	c = replica_counters();
	values[0] = LSNGetDatum(replica_replay_lsn());
	values[1] = Int64GetDatum(c.redone);
	values[2] = Int64GetDatum(c.skipped);
	values[3] = Int64GetDatum(c.map_only);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/*
 * Write and drop all of a relation's buffers, so that the next access reads them again.  The lock keeps writers out between
 * the two steps; a page pinned by a cursor of this session is an error.
 */
Datum
neon_test_evict(PG_FUNCTION_ARGS)
{
	Relation	rel;
	SMgrRelation smgr;

	if (!superuser())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("must be superuser to evict buffers")));
	rel = relation_open(PG_GETARG_OID(0), ExclusiveLock);
	FlushRelationBuffers(rel);
	smgr = RelationGetSmgr(rel);
	for (ForkNumber fork = 0; fork <= MAX_FORKNUM; fork++)
	{
		BlockNumber first = 0;

		DropRelFileNodeBuffers(smgr, &fork, 1, &first);
	}
	relation_close(rel, NoLock);
	PG_RETURN_VOID();
}
