/*
 * neon_pgpatch_server.c - what neon_pgpatch knows of PostgreSQL 15: its version, smgrsw[], fmgr_builtins[].
 *
 * smgrsw[] is static, so it is found by content: it is the only place in the executable's RELRO where the addresses of the
 * exported md functions stand in the table's order.  Where the compiler saw that smgrsw[0] is the only entry it may have
 * turned a call through the table into a direct call; such calls are found by scanning the code.  PostgreSQL 15 has them
 * for mdimmedsync only (smgrimmedsync and smgrdosyncall), and md.c calls some of its own functions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <sys/mman.h>

#include "miscadmin.h"
#include "storage/md.h"
#include "utils/fmgrtab.h"
#include "utils/guc.h"

#include "neon_pgpatch_server.h"

const neon_f_smgr neon_pgpatch_md_table = {
	.smgr_init = mdinit,
	.smgr_shutdown = NULL,
	.smgr_open = mdopen,
	.smgr_close = mdclose,
	.smgr_create = mdcreate,
	.smgr_exists = mdexists,
	.smgr_unlink = mdunlink,
	.smgr_extend = mdextend,
	.smgr_prefetch = mdprefetch,
	.smgr_read = mdread,
	.smgr_write = mdwrite,
	.smgr_writeback = mdwriteback,
	.smgr_nblocks = mdnblocks,
	.smgr_truncate = mdtruncate,
	.smgr_immedsync = mdimmedsync,
};

static const char *const slot_names[] = {
	"mdinit", NULL, "mdopen", "mdclose", "mdcreate", "mdexists", "mdunlink", "mdextend", "mdprefetch", "mdread", "mdwrite",
	"mdwriteback", "mdnblocks", "mdtruncate", "mdimmedsync"
};

StaticAssertDecl(lengthof(slot_names) == NEON_F_SMGR_SLOTS, "slot names and slots differ");

#define SLOT_IMMEDSYNC	14

bool
neon_pgpatch_begin(int built_version_num, neon_pgpatch_image *image, neon_pgpatch_report *report)
{
	const char *found = GetConfigOption("server_version_num", false, false);

	if (found == NULL || atoi(found) != built_version_num || built_version_num != PG_VERSION_NUM)
		return neon_pgpatch_fail(report, "The module was built for server version %d (library: %d), found %s.",
								 built_version_num, PG_VERSION_NUM, found ? found : "none");
	return neon_pgpatch_locate(&fmgr_builtins[0], image, report);
}

/* md.c is one object file: its functions stand together.  Calls among them never went through the table. */
static void
md_code_range(uintptr_t *lo, uintptr_t *hi)
{
	const uintptr_t *slots = (const uintptr_t *) &neon_pgpatch_md_table;

	*lo = UINTPTR_MAX;
	*hi = 0;
	for (size_t i = 0; i < NEON_F_SMGR_SLOTS; i++)
	{
		if (slots[i] == 0)
			continue;
		*lo = Min(*lo, slots[i]);
		*hi = Max(*hi, slots[i]);
	}
	/* The highest function's own body and what md.c has after it: DropRelationFiles, the sync callbacks. */
	*hi += 2048;
}

/* neon_pgpatch_call_fn: counts the calls of each function of the table. */
static void
count_slot_call(uintptr_t target, void *arg)
{
	const uintptr_t *slots = (const uintptr_t *) &neon_pgpatch_md_table;

	for (size_t i = 0; i < NEON_F_SMGR_SLOTS; i++)
		if (slots[i] == target)
			((int *) arg)[i]++;
}

static bool
find_smgr(const neon_pgpatch_image *image, uintptr_t *table, neon_pgpatch_report *report)
{
	const uintptr_t *slots = (const uintptr_t *) &neon_pgpatch_md_table;
	uintptr_t	md_lo,
				md_hi;
	int			calls[NEON_F_SMGR_SLOTS] = {0};

	report->table_matches = neon_pgpatch_find_words(image->relro_lo, image->relro_hi, slots, NEON_F_SMGR_SLOTS, table);
	if (report->table_matches != 1)
		return neon_pgpatch_fail(report, "The storage manager's table was found %d times, expected once.",
								 report->table_matches);

	md_code_range(&md_lo, &md_hi);
	neon_pgpatch_each_call(image->text_lo, image->text_hi, md_lo, md_hi, md_lo, md_hi, count_slot_call, calls);
	report->direct_calls_expected = calls[SLOT_IMMEDSYNC];
	report->direct_calls_unexpected = 0;
	for (size_t i = 0; i < NEON_F_SMGR_SLOTS; i++)
	{
		if (i == SLOT_IMMEDSYNC || calls[i] == 0)
			continue;
		report->direct_calls_unexpected += calls[i];
		neon_pgpatch_fail(report, "The server calls %s directly in %d places, bypassing the storage manager's table.",
						  slot_names[i], calls[i]);
	}
	return report->ok;
}

bool
neon_pgpatch_check_smgr(const neon_pgpatch_image *image, neon_pgpatch_report *report)
{
	uintptr_t	table;

	return find_smgr(image, &table, report);
}

bool
neon_pgpatch_replace_smgr(const neon_pgpatch_image *image, const neon_f_smgr *table, neon_pgpatch_report *report)
{
	const uintptr_t *slots = (const uintptr_t *) table;
	uintptr_t	at;

	for (size_t i = 0; i < NEON_F_SMGR_SLOTS; i++)
		if (slots[i] == 0 && i > 1)
			return neon_pgpatch_fail(report, "The new storage manager has no replacement of %s.", slot_names[i]);
	if (!find_smgr(image, &at, report))
		return false;

	/* Only where the compiler bypasses the slot; with none of these calls the table alone suffices. */
	if (report->direct_calls_expected > 0 && table->smgr_immedsync != mdimmedsync &&
		!neon_pgpatch_detour(image, "mdimmedsync", (void *) mdimmedsync, (void *) table->smgr_immedsync, report))
		return false;
	if (!neon_pgpatch_write((void *) at, table, sizeof(*table), PROT_READ, report))
		return false;
	report->replaced_tables++;
	return true;
}

bool
neon_pgpatch_builtin(const neon_pgpatch_image *image, Oid function, PGFunction replacement, PGFunction *old,
					 neon_pgpatch_report *report)
{
	const FmgrBuiltin *entry;
	uint16		index;

	if (function > fmgr_last_builtin_oid)
		return neon_pgpatch_fail(report, "Function %u is not a built-in function.", function);
	index = fmgr_builtin_oid_index[function];
	if (index == InvalidOidBuiltinMapping || index >= fmgr_nbuiltins || fmgr_builtins[index].foid != function)
		return neon_pgpatch_fail(report, "Function %u is not in the server's table of built-in functions.", function);
	entry = &fmgr_builtins[index];
	if ((uintptr_t) entry < image->relro_lo || (uintptr_t) entry >= image->relro_hi)
		return neon_pgpatch_fail(report, "The table of built-in functions is not where it is expected.");
	if (old != NULL)
		*old = entry->func;
	if (!neon_pgpatch_write((void *) &entry->func, &replacement, sizeof(replacement), PROT_READ, report))
		return false;
	report->builtins++;
	return true;
}
