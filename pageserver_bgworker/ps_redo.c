/*
 * ps_redo.c - rebuild a page from its history.
 *
 * The oldest version of a chain is the base: an image, or a record that initialises the page, which starts from zeros.  Then
 * the records are applied from old to new.  Visibility map and FSM pages may have no base: the server creates them without
 * WAL, as zeros.  Native redo does what it can; from the first record that it does not know up to the last such one,
 * the records go to the redo process in one request.
 *
 * Invariants: a record at or below the base's LSN is never applied; the result's LSN is that of the newest version, unless the
 * page is all zeros or of an SLRU.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo.h"

#include "access/nbtxlog.h"
#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "common/relpath.h"
#include "utils/guc.h"

#include "ps_internal.h"
#include "ps_redo_process.h"

#define MIN_REDO_TIMEOUT_MS		1
#define DEFAULT_REDO_TIMEOUT_MS	60000

typedef enum RedoMethod
{
	REDO_AUTO,
	REDO_PROCESS
} RedoMethod;

static const struct config_enum_entry redo_methods[] = {
	{"auto", REDO_AUTO, false},
	{"process", REDO_PROCESS, false},
	{NULL, 0, false}
};

int			ps_redo_timeout_ms = DEFAULT_REDO_TIMEOUT_MS;
static int	redo_method = REDO_AUTO;

void
ps_redo_init(void)
{
	DefineCustomIntVariable("neon_pageserver.redo_timeout",
							"How long a redo process may take to start, or to apply one batch of records.",
							NULL, &ps_redo_timeout_ms,
							DEFAULT_REDO_TIMEOUT_MS, MIN_REDO_TIMEOUT_MS, INT_MAX / 2,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomEnumVariable("neon_pageserver.redo_method",
							 "Which records the redo process applies: those that native redo does not know, or all it can.",
							 "For developers: both methods give the same pages.",
							 &redo_method, REDO_AUTO, redo_methods,
							 PGC_SUSET, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
}

static char *
describe_key(const neon_key *key)
{
	if (key->kind == NEON_KEY_SLRU_BLOCK)
		return psprintf("page %u of log %u", key->rel * 32 + key->blk, key->spc);
	return psprintf("block %u of relation %u/%u/%u, fork %u", key->blk, key->spc, key->db, key->rel, key->fork);
}

static void
report_failure(const neon_key *key, const PsVersion *v, XLogRecPtr lsn, const char *reason)
{
	XLogRecord	header = {0};

	if (v->len >= SizeOfXLogRecord)
		memcpy(&header, v->bytes, SizeOfXLogRecord);
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("could not rebuild %s at %X/%X", describe_key(key), LSN_FORMAT_ARGS(lsn)),
			 errdetail("The record that ends at %X/%X (resource manager %u, info 0x%02X) does not apply: %s.",
					   LSN_FORMAT_ARGS(v->lsn), header.xl_rmid, header.xl_info, reason)));
}

/* Does native redo pass this record on?  A guess that only decides how many records go into one request. */
static bool
is_for_process(const PsVersion *v)
{
	XLogRecord	header;

	if ((v->flags & PS_VALUE_RECORD) == 0 || v->len < SizeOfXLogRecord)
		return false;
	if (redo_method == REDO_PROCESS)
		return true;
	memcpy(&header, v->bytes, SizeOfXLogRecord);
	switch (header.xl_rmid)
	{
		case RM_XLOG_ID:
		case RM_HEAP_ID:
		case RM_HEAP2_ID:
		case RM_SEQ_ID:
			return false;
		case RM_BTREE_ID:
			switch (header.xl_info & ~XLR_INFO_MASK)
			{
				case XLOG_BTREE_INSERT_LEAF:
				case XLOG_BTREE_INSERT_UPPER:
				case XLOG_BTREE_INSERT_META:
				case XLOG_BTREE_INSERT_POST:
					return false;
			}
			return true;
		default:
			return true;
	}
}

/*
 * Applies versions[from], which native redo does not know, and newer ones up to the last that it does not know either.
 * Returns the index of the newest version applied.
 */
static int
apply_in_process(const neon_key *key, const PsChain *chain, int from, char *page)
{
	int			to = from;
	int			n = 0;
	const PsVersion **records;
	const char *reason;

	for (int i = from - 1; i >= 0 && (chain->versions[i].flags & PS_VALUE_RECORD); i--)
		if (is_for_process(&chain->versions[i]))
			to = i;
	records = palloc(sizeof(*records) * (from - to + 1));
	for (int i = from; i >= to; i--)
		records[n++] = &chain->versions[i];
	if (!ps_redo_process_apply(key, records, n, page, &reason))
	{
		if (n > 1)
			reason = psprintf("it or one of the %d records after it: %s", n - 1, reason);
		report_failure(key, records[0], chain->versions[0].lsn, reason);
	}
	pfree(records);
	return to;
}

static void
apply_image(const neon_key *key, const PsVersion *v, XLogRecPtr lsn, char *page)
{
	if (v->len != BLCKSZ)
		report_failure(key, v, lsn, psprintf("an image has %u bytes, expected %d", v->len, BLCKSZ));
	memcpy(page, v->bytes, BLCKSZ);
	if (key->kind == NEON_KEY_REL_BLOCK && !ps_page_is_new(page))
		ps_page_set_lsn(page, v->lsn);
}

void
ps_redo(const neon_key *key, const PsChain *chain, char page[BLCKSZ])
{
	bool		native_only = ps_redo_native_only(key);
	XLogRecPtr	base_lsn = InvalidXLogRecPtr;
	XLogRecPtr	lsn;

	memset(page, 0, BLCKSZ);
	if (chain->nversions == 0)
		return;
	lsn = chain->versions[0].lsn;
	if (!chain->complete && !(native_only && key->kind == NEON_KEY_REL_BLOCK))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not rebuild %s at %X/%X", describe_key(key), LSN_FORMAT_ARGS(lsn)),
				 errdetail("Its history begins at %X/%X with a record that needs an older version.",
						   LSN_FORMAT_ARGS(chain->versions[chain->nversions - 1].lsn))));

	for (int i = chain->nversions - 1; i >= 0; i--)
	{
		const PsVersion *v = &chain->versions[i];
		const char *reason;

		if (v->flags & PS_VALUE_IMAGE)
		{
			apply_image(key, v, lsn, page);
			base_lsn = v->lsn;
			continue;
		}
		if (v->lsn <= base_lsn)
			continue;
		if (redo_method == REDO_PROCESS && !native_only)
		{
			i = apply_in_process(key, chain, i, page);
			continue;
		}
		switch (ps_redo_native(key, v->lsn, v->bytes, v->len, page, &reason))
		{
			case PS_REDO_DONE:
				break;
			case PS_REDO_UNSUPPORTED:
				i = apply_in_process(key, chain, i, page);
				break;
			case PS_REDO_CORRUPT:
				report_failure(key, v, lsn, reason);
				break;
		}
	}
}
