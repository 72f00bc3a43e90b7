/*
 * ps_store_test.c - drives the versioned store with a history that is a function of (timeline id, step), and checks reads.
 *
 * Step i of a timeline puts some versions at LSN start + 8 * i.  Which keys, flags, lengths and bytes follows from a
 * hash, so a checker needs no log of what was written: it makes the same history again, in arrays, up to last_record_lsn.
 * Branches add their own history to their ancestor's up to the branch point.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_internal.h"

#include <sys/stat.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

PG_MODULE_MAGIC;

#define STEP_LSN		8
#define MAX_PUTS		5
#define TEST_REL		4000000
#define LONG_VALUE		700000	/* crosses segments of the pool */
#define WAIT_US			10000
#define MAX_WAITS		18000	/* three minutes */

typedef struct Put
{
	neon_key	key;
	uint32		flags;
	uint32		len;
} Put;

static uint64
mix(uint64 x)
{
	x ^= x >> 33;
	x *= UINT64CONST(0xff51afd7ed558ccd);
	x ^= x >> 33;
	x *= UINT64CONST(0xc4ceb9fe1a85ec53);
	x ^= x >> 33;
	return x;
}

static uint64
seed_of(PsTimeline *tl)
{
	uint64		seed;

	memcpy(&seed, ps_timeline_id(tl)->b, sizeof(seed));
	return mix(seed);
}

static uint64
key_number(const neon_key *key)
{
	return mix(((uint64) key->kind << 56) ^ ((uint64) key->rel << 24) ^ key->blk);
}

static void
fill(uint8 *bytes, uint32 len, const neon_key *key, XLogRecPtr lsn)
{
	uint64		x = key_number(key) ^ mix(lsn);

	for (uint32 i = 0; i < len; i++)
	{
		if (i % 8 == 0)
			x = mix(x + i);
		bytes[i] = (uint8) (x >> (8 * (i % 8)));
	}
}

/* The puts of a step; at most one for a key. */
static int
puts_of(uint64 seed, uint64 step, Put puts[MAX_PUTS])
{
	uint64		r = mix(seed ^ mix(step));
	int			want = 1 + (int) (r % MAX_PUTS);
	int			n = 0;

	for (int i = 0; i < want; i++)
	{
		Put		   *p = &puts[n];
		bool		twice = false;

		r = mix(r + i + 1);
		memset(p, 0, sizeof(Put));
		p->key.spc = 1663;
		p->key.db = 5;
		p->len = 20 + (r >> 20) % 300;
		if (r % 16 < 12)
		{
			p->key.kind = NEON_KEY_REL_BLOCK;
			p->key.rel = TEST_REL + (r >> 8) % 3;
			p->key.blk = (r >> 32) % 8 < 4 ? (r >> 40) % 4 : (r >> 40) % 1000;
			p->flags = (r >> 52) % 8 == 0 ? PS_VALUE_IMAGE | PS_VALUE_WILL_INIT :
				(r >> 52) % 8 == 1 ? PS_VALUE_RECORD | PS_VALUE_WILL_INIT : PS_VALUE_RECORD;
		}
		else if (r % 16 < 15)
		{
			p->key.kind = NEON_KEY_REL_SIZE;
			p->key.rel = TEST_REL + (r >> 8) % 50;
			p->flags = PS_VALUE_IMAGE | PS_VALUE_WILL_INIT;
			p->len = 4;
		}
		else
		{
			p->key.kind = NEON_KEY_AUX_FILE;
			p->key.rel = TEST_REL;
			p->key.blk = (r >> 32) % 5;
			p->flags = PS_VALUE_IMAGE | PS_VALUE_WILL_INIT;
			if ((r >> 40) % 40 == 0)
				p->len = LONG_VALUE;
		}
		for (int j = 0; j < n; j++)
			twice |= neon_key_compare(&puts[j].key, &p->key) == 0;
		if (!twice)
			n++;
	}
	return n;
}

/* store_put(tenant, timeline, steps int, batch int): goes on from last_record_lsn. */
PG_FUNCTION_INFO_V1(store_put);

Datum
store_put(PG_FUNCTION_ARGS)
{
	PsTimeline *tl = ps_timeline_open(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	int			steps = PG_GETARG_INT32(2);
	int			batch = PG_GETARG_INT32(3);
	uint64		seed = seed_of(tl);
	XLogRecPtr	start = ps_timeline_start_lsn(tl);
	uint64		step = (ps_timeline_last_record_lsn(tl) - start) / STEP_LSN;
	uint8	   *bytes = palloc(LONG_VALUE);

	if (!ps_writer_attach(tl))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE), errmsg("another process writes to the timeline")));
	for (int i = 0; i < steps; i++)
	{
		Put			puts[MAX_PUTS];
		XLogRecPtr	lsn = start + ++step * STEP_LSN;
		int			n = puts_of(seed, step, puts);

		for (int j = 0; j < n; j++)
		{
			fill(bytes, puts[j].len, &puts[j].key, lsn);
			ps_put(tl, &puts[j].key, lsn, puts[j].flags, bytes, puts[j].len);
		}
		if (i % batch == batch - 1 || i == steps - 1)
		{
			ps_commit(tl, lsn, lsn - STEP_LSN);
			ps_throttle(tl);
			CHECK_FOR_INTERRUPTS();
		}
	}
	ps_writer_detach(tl);
	PG_RETURN_LSN(ps_timeline_last_record_lsn(tl));
}

/* store_put_failing: the versions of some steps, and then an error before they are committed. */
PG_FUNCTION_INFO_V1(store_put_failing);

Datum
store_put_failing(PG_FUNCTION_ARGS)
{
	PsTimeline *tl = ps_timeline_open(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	uint64		seed = seed_of(tl);
	XLogRecPtr	start = ps_timeline_start_lsn(tl);
	uint64		step = (ps_timeline_last_record_lsn(tl) - start) / STEP_LSN;
	uint8	   *bytes = palloc(LONG_VALUE);

	for (int i = 0; i < PG_GETARG_INT32(2); i++)
	{
		Put			puts[MAX_PUTS];
		XLogRecPtr	lsn = start + ++step * STEP_LSN;
		int			n = puts_of(seed, step, puts);

		for (int j = 0; j < n; j++)
		{
			fill(bytes, puts[j].len, &puts[j].key, lsn);
			ps_put(tl, &puts[j].key, lsn, puts[j].flags, bytes, puts[j].len);
		}
	}
	elog(ERROR, "failed as asked");
	PG_RETURN_VOID();
}

/* ---- the model ---- */

typedef struct ModelVersion
{
	XLogRecPtr	lsn;
	uint32		flags;
	uint32		len;
} ModelVersion;

typedef struct ModelKey
{
	neon_key	key;
	int			n;
	int			capacity;
	ModelVersion *versions;		/* oldest first */
} ModelKey;

static void
model_add(HTAB *model, PsTimeline *tl, XLogRecPtr upto)
{
	PsTimeline *ancestor = ps_timeline_ancestor(tl);
	XLogRecPtr	start = ps_timeline_start_lsn(tl);
	uint64		seed = seed_of(tl);

	if (ancestor)
		model_add(model, ancestor, Min(upto, start));
	for (uint64 step = 1; start + step * STEP_LSN <= upto; step++)
	{
		Put			puts[MAX_PUTS];
		int			n = puts_of(seed, step, puts);

		for (int j = 0; j < n; j++)
		{
			bool		found;
			ModelKey   *k = hash_search(model, &puts[j].key, HASH_ENTER, &found);

			if (!found)
			{
				k->n = 0;
				k->capacity = 4;
				k->versions = palloc(sizeof(ModelVersion) * k->capacity);
			}
			if (k->n == k->capacity)
			{
				k->capacity *= 2;
				k->versions = repalloc_huge(k->versions, sizeof(ModelVersion) * k->capacity);
			}
			k->versions[k->n++] = (ModelVersion) {.lsn = start + step * STEP_LSN,.flags = puts[j].flags,.len = puts[j].len};
		}
	}
}

static void
compare_version(const neon_key *key, const ModelVersion *want, const PsVersion *got)
{
	uint8	   *bytes = palloc(want->len);

	fill(bytes, want->len, key, want->lsn);
	if (got->lsn != want->lsn || got->flags != want->flags || got->len != want->len ||
		memcmp(got->bytes, bytes, want->len) != 0)
		elog(ERROR, "key kind %u rel %u blk %u: expected %X/%08X flags %u len %u, got %X/%08X flags %u len %u%s",
			 key->kind, key->rel, key->blk, LSN_FORMAT_ARGS(want->lsn), want->flags, want->len,
			 LSN_FORMAT_ARGS(got->lsn), got->flags, got->len,
			 got->len == want->len && got->lsn == want->lsn ? ", other bytes" : "");
	pfree(bytes);
}

/* Compares a chain with the model's versions in (lo, hi], newest first. */
static void
compare_chain(const ModelKey *k, XLogRecPtr lo, XLogRecPtr hi, bool stop, const PsChain *chain)
{
	int			at = 0;
	bool		complete = false;

	for (int i = k->n - 1; i >= 0 && k->versions[i].lsn > lo && !complete; i--)
	{
		if (k->versions[i].lsn > hi)
			continue;
		if (at >= chain->nversions)
			elog(ERROR, "key kind %u rel %u blk %u at %X/%08X: %d versions found, more expected (%X/%08X)", k->key.kind,
				 k->key.rel, k->key.blk, LSN_FORMAT_ARGS(hi), at, LSN_FORMAT_ARGS(k->versions[i].lsn));
		compare_version(&k->key, &k->versions[i], &chain->versions[at++]);
		complete = stop && (k->versions[i].flags & PS_VALUE_WILL_INIT);
	}
	if (at != chain->nversions || (stop && complete != chain->complete))
		elog(ERROR, "key kind %u rel %u blk %u at %X/%08X: %d versions expected, %d found", k->key.kind, k->key.rel,
			 k->key.blk, LSN_FORMAT_ARGS(hi), at, chain->nversions);
}

typedef struct ScanCheck
{
	HTAB	   *model;
	XLogRecPtr	lsn;
	long		seen;
	neon_key	last;
} ScanCheck;

static bool
check_scanned(const neon_key *key, const PsVersion *v, void *arg)
{
	ScanCheck  *check = arg;
	ModelKey   *k;

	if (key->spc != 1663 || key->rel < TEST_REL)
		return true;			/* of the imported cluster */
	if (check->seen > 0 && neon_key_compare(&check->last, key) >= 0)
		elog(ERROR, "scan is not in order");
	check->last = *key;
	k = hash_search(check->model, key, HASH_FIND, NULL);
	if (k == NULL)
		elog(ERROR, "scan found a key that was never put");
	for (int i = k->n - 1; i >= 0; i--)
	{
		if (k->versions[i].lsn <= check->lsn)
		{
			compare_version(key, &k->versions[i], v);
			check->seen++;
			return true;
		}
	}
	elog(ERROR, "scan found a key before its first version");
	return false;
}

static void
check_scan(HTAB *model, PsTimeline *tl, XLogRecPtr lsn)
{
	neon_key	from = {.kind = NEON_KEY_REL_SIZE};
	neon_key	to = {.spc = UINT32_MAX,.db = UINT32_MAX,.rel = UINT32_MAX,.blk = UINT32_MAX,.kind = NEON_KEY_AUX_FILE,
		.fork = UINT8_MAX};
	ScanCheck	check = {.model = model,.lsn = lsn};
	HASH_SEQ_STATUS seq;
	ModelKey   *k;
	long		expected = 0;

	ps_scan(tl, &from, &to, lsn, check_scanned, &check);
	hash_seq_init(&seq, model);
	while ((k = hash_seq_search(&seq)) != NULL)
		expected += k->key.kind != NEON_KEY_REL_BLOCK && k->versions[0].lsn <= lsn;
	if (expected != check.seen)
		elog(ERROR, "scan at %X/%08X found %ld keys of %ld", LSN_FORMAT_ARGS(lsn), check.seen, expected);
}

/* store_check(tenant, timeline, checks int) returns the number of versions compared. */
PG_FUNCTION_INFO_V1(store_check);

Datum
store_check(PG_FUNCTION_ARGS)
{
	PsTimeline *tl = ps_timeline_open(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	XLogRecPtr	last = ps_timeline_last_record_lsn(tl);
	HASHCTL		ctl = {.keysize = sizeof(neon_key),.entrysize = sizeof(ModelKey),.hcxt = CurrentMemoryContext};
	HTAB	   *model = hash_create("model", 4096, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "check", ALLOCSET_DEFAULT_SIZES);
	PsTimeline *root = tl;
	HASH_SEQ_STATUS seq;
	ModelKey   *k;
	ModelKey  **keys;
	long		nkeys = 0;
	int64		compared = 0;
	uint64		r = mix((uint64) MyProcPid ^ last);

	while (ps_timeline_ancestor(root))
		root = ps_timeline_ancestor(root);
	model_add(model, tl, last);
	keys = palloc(sizeof(ModelKey *) * (hash_get_num_entries(model) + 1));
	hash_seq_init(&seq, model);
	while ((k = hash_seq_search(&seq)) != NULL)
		keys[nkeys++] = k;
	for (int i = 0; i < PG_GETARG_INT32(2) && nkeys > 0; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		XLogRecPtr	span = last - ps_timeline_start_lsn(root) + 1;
		XLogRecPtr	hi = i % 4 == 0 ? last : last - (r >> 8) % span;
		XLogRecPtr	lo = i % 3 == 0 ? 0 : hi - Min(hi, (r >> 32) % span);
		PsChain		chain;

		CHECK_FOR_INTERRUPTS();
		r = mix(r + i);
		k = keys[r % nkeys];
		ps_get_chain(tl, &k->key, hi, lo, &chain);
		compare_chain(k, lo, hi, true, &chain);
		compared += chain.nversions;
		if (i % 8 == 0)
		{
			ps_get_versions(tl, &k->key, lo, hi, &chain);
			compare_chain(k, lo, hi, false, &chain);
			compared += chain.nversions;
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	check_scan(model, tl, last);
	check_scan(model, tl, last - r % (last - ps_timeline_start_lsn(root) + 1));
	PG_RETURN_INT64(compared);
}

/* Freezes the open layer without waiting for the flush. */
PG_FUNCTION_INFO_V1(store_freeze);

Datum
store_freeze(PG_FUNCTION_ARGS)
{
	PsTimeline *tl = ps_timeline_open(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));

	PG_RETURN_INT32(ps_freeze(tl));
}

static bool
count_key(const neon_key *key, const PsVersion *v, void *arg)
{
	(*(int64 *) arg)++;
	return true;
}

static char waits_for[MAXPGPATH];

/* Says that it waits (file PATH.waiting) until there is a file PATH; once. */
static void
wait_for_file(void)
{
	char		note[MAXPGPATH + 16];
	struct stat st;

	ps_map_taken_hook = NULL;
	snprintf(note, sizeof(note), "%s.waiting", waits_for);
	FreeFile(AllocateFile(note, PG_BINARY_W));
	for (int i = 0; stat(waits_for, &st) != 0; i++)
	{
		if (i == MAX_WAITS)
			elog(ERROR, "there is still no file \"%s\"", waits_for);
		pg_usleep(WAIT_US);
	}
}

/* store_wait(path text): this process's next read waits between taking the layer map and opening files. */
PG_FUNCTION_INFO_V1(store_wait);

Datum
store_wait(PG_FUNCTION_ARGS)
{
	strlcpy(waits_for, text_to_cstring(PG_GETARG_TEXT_PP(0)), sizeof(waits_for));
	ps_map_taken_hook = wait_for_file;
	PG_RETURN_VOID();
}

/* Reads everything there is; returns the number of keys. */
PG_FUNCTION_INFO_V1(store_scan);

Datum
store_scan(PG_FUNCTION_ARGS)
{
	PsTimeline *tl = ps_timeline_open(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	neon_key	from = {.kind = NEON_KEY_REL_BLOCK};
	neon_key	to = {.spc = UINT32_MAX,.db = UINT32_MAX,.rel = UINT32_MAX,.blk = UINT32_MAX,
		.kind = NEON_KEY_KIND_COUNT - 1,.fork = UINT8_MAX};
	int64		keys = 0;

	HOLD_INTERRUPTS();			/* as one that holds an LWLock does */
	ps_scan(tl, &from, &to, ps_timeline_last_record_lsn(tl), count_key, &keys);
	if (InterruptHoldoffCount != 1)
		elog(ERROR, "interrupts are held off %u times after a scan, once before it", InterruptHoldoffCount);
	RESUME_INTERRUPTS();
	PG_RETURN_INT64(keys);
}
