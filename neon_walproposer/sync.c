/*
 * sync.c - neon_sync_safekeepers(): an election without new WAL, before a compute is started.
 *
 * It finds the end X of the log and commits it on a quorum: only then may a base backup be taken at X.  Runs in any
 * backend of any server (the controller's functions use it); the module need not be preloaded there.  Interruptible.
 *
 * The election ends whoever proposed before: a compute that still runs on this timeline is fenced off.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "push_env.h"

#define TURN_MS		1000

static const neon_push_env env_functions = {
	.now_ms = push_env_now_ms,
	.random = push_env_random,
	.log = push_env_log,
	.wait = push_env_wait,
};

static void
parse_id(const char *text, const char *what, neon_id *id)
{
	if (!neon_id_parse(text, id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s id \"%s\"", what, text),
				 errdetail("An id has 32 hexadecimal digits.")));
}

static uint64
parse_system_id(const char *text)
{
	char	   *end;
	uint64		id;

	if (*text == '\0')
		return 0;
	errno = 0;
	id = strtou64(text, &end, 10);
	if (errno != 0 || *end != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid system identifier \"%s\"", text)));
	return id;
}

static void
run_election(neon_wal_push *push, int timeout_ms)
{
	int64		deadline = push_env_now_ms(NULL) + timeout_ms;

	for (;;)
	{
		int64		left = deadline - push_env_now_ms(NULL);

		switch (neon_push_turn(push, (int) Max(Min(left, TURN_MS), 0)))
		{
			case NEON_PUSH_FINISHED:
				return;
			case NEON_PUSH_FATAL:
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("the safekeepers could not be synchronised: %s",
								neon_proposer_fatal_text(neon_push_fatal_reason(push))),
						 errdetail_internal("%s", neon_push_fatal_detail(push))));
				break;
			case NEON_PUSH_RUNNING:
				break;
		}
		if (left <= 0)
		{
			char		text[4 * NEON_PUSH_TEXT_BYTES];

			neon_push_describe(push, text, sizeof(text));
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("no quorum of safekeepers within %d ms", timeout_ms),
					 errdetail_internal("%s", text),
					 errhint("See that a majority of the safekeepers runs and has this timeline.")));
		}
	}
}

static void
synchronise(const neon_push_config *config, int timeout_ms, neon_lsn *x, neon_lsn *last_record_start)
{
	char		error[NEON_PUSH_TEXT_BYTES];
	PushEnv		env;
	neon_wal_push *push;

	push_env_init(&env, DEBUG1);
	push = neon_push_create(config, &env_functions, &env, error);
	if (push == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot synchronise the safekeepers"),
				 errdetail_internal("%s", error)));
	PG_TRY();
	{
		run_election(push, timeout_ms);
		neon_push_result(push, x, last_record_start);
	}
	PG_FINALLY();
	{
		neon_push_free(push);
		push_env_free(&env);
	}
	PG_END_TRY();
}

PG_FUNCTION_INFO_V1(neon_sync_safekeepers);

/* (tenant, timeline, safekeepers, start_lsn, system_id, wal_seg_size, timeout_ms) -> (lsn, prev_lsn); prev_lsn 0/0: no record yet */
Datum
neon_sync_safekeepers(PG_FUNCTION_ARGS)
{
	neon_push_config config = {0};
	neon_lsn	x = 0,
				last_record_start = 0;
	int			timeout_ms;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	for (int i = 0; i < 7; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("argument %d must not be null", i + 1)));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	parse_id(text_to_cstring(PG_GETARG_TEXT_PP(0)), "tenant", &config.core.tenant);
	parse_id(text_to_cstring(PG_GETARG_TEXT_PP(1)), "timeline", &config.core.timeline);
	config.safekeepers = text_to_cstring(PG_GETARG_TEXT_PP(2));
	config.core.timeline_start_lsn = PG_GETARG_LSN(3);
	config.core.system_id = parse_system_id(text_to_cstring(PG_GETARG_TEXT_PP(4)));
	config.core.wal_segment_bytes = PG_GETARG_INT32(5);
	config.core.pg_version_num = PG_VERSION_NUM;
	config.core.mode = NEON_PROPOSER_SYNC;
	timeout_ms = PG_GETARG_INT32(6);
	if (timeout_ms <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the timeout must be positive")));

	synchronise(&config, timeout_ms, &x, &last_record_start);
	values[0] = LSNGetDatum(x);
	values[1] = LSNGetDatum(last_record_start);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
