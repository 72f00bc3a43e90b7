/*
 * ps_lsn_time.c - from a time to an LSN, through the commit times kept by second.
 *
 * Commits do not enter the log strictly in the order of their times, so the answer is the lowest LSN among commits later
 * than the time asked for, looked for in a few seconds' worth of commits from there on.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "ps_ingest.h"
#include "ps_internal.h"

#define SECONDS_LOOKED_AT	10	/* seconds with commits, from the time on */
#define COMMIT_TIME_BYTES	16

typedef struct Seconds
{
	uint32		seconds[SECONDS_LOOKED_AT];
	int			n;
} Seconds;

static bool
collect_second(const neon_key *key, const PsVersion *v, void *arg)
{
	Seconds    *s = arg;

	s->seconds[s->n++] = key->blk;
	return s->n < SECONDS_LOOKED_AT;
}

/* End of the record before the first commit later than `at`; InvalidXLogRecPtr when there is no such commit. */
static XLogRecPtr
before_commit_after(PsTimeline *tl, TimestampTz at)
{
	uint32		from_second = (uint32) Min(Max(at / USECS_PER_SEC, 0), (int64) PG_UINT32_MAX);
	neon_key	from = ps_key(NEON_KEY_COMMIT_TIME, 0, 0, 0, 0, from_second);
	neon_key	to = ps_key(NEON_KEY_COMMIT_TIME, 0, 0, 0, 0, PG_UINT32_MAX);
	XLogRecPtr	last = ps_timeline_last_record_lsn(tl);
	XLogRecPtr	best = InvalidXLogRecPtr;
	XLogRecPtr	best_commit = InvalidXLogRecPtr;
	Seconds		seconds = {.n = 0};

	/* There may be years of them behind the time: a little is looked at first. */
	for (uint64 second = from_second, window = 60; seconds.n < SECONDS_LOOKED_AT && second <= PG_UINT32_MAX; second += window, window *= 16)
	{
		from.blk = (uint32) second;
		to.blk = (uint32) Min(second + window - 1, PG_UINT32_MAX);
		ps_scan(tl, &from, &to, last, collect_second, &seconds);
	}
	for (int i = 0; i < seconds.n; i++)
	{
		neon_key	key = ps_key(NEON_KEY_COMMIT_TIME, 0, 0, 0, 0, seconds.seconds[i]);
		PsChain		chain = {.context = CurrentMemoryContext};

		ps_get_versions(tl, &key, InvalidXLogRecPtr, last, &chain);
		for (int v = 0; v < chain.nversions; v++)
		{
			const PsVersion *version = &chain.versions[v];

			if (version->len != COMMIT_TIME_BYTES)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("commit time at %X/%X has %u bytes instead of %d", LSN_FORMAT_ARGS(version->lsn),
								version->len, COMMIT_TIME_BYTES)));
			if ((TimestampTz) ps_get_be64(version->bytes) <= at)
				continue;
			if (best_commit == InvalidXLogRecPtr || version->lsn < best_commit)
			{
				best_commit = version->lsn;
				best = ps_get_be64(version->bytes + 8);
			}
		}
	}
	return best;
}

PG_FUNCTION_INFO_V1(neon_ps_lsn_at);

/* lsn_at(tenant, timeline, at): with no commit later than `at`, all there is. */
Datum
neon_ps_lsn_at(PG_FUNCTION_ARGS)
{
	PsTimeline *tl = ps_timeline_open(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	XLogRecPtr	now = ps_timeline_last_record_lsn(tl);
	XLogRecPtr	lsn;

	ps_timeline_wait_lsn(tl, now);	/* its history */
	lsn = before_commit_after(tl, PG_GETARG_TIMESTAMPTZ(2));
	PG_RETURN_LSN(lsn == InvalidXLogRecPtr ? now : lsn);
}
