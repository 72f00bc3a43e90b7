/*
 * doctor.c - for the tests: a library that spoils one slot of the storage manager's table before neon_smgr looks at it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <sys/mman.h>

#include "fmgr.h"
#include "storage/md.h"

#include "neon_pgpatch_server.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

static bool
other_exists(SMgrRelation reln, ForkNumber forknum)
{
	return mdexists(reln, forknum);
}

void
_PG_init(void)
{
	neon_pgpatch_image image;
	neon_pgpatch_report report;
	uintptr_t	at;
	bool		(*replacement) (SMgrRelation, ForkNumber) = other_exists;

	neon_pgpatch_report_init(&report);
	if (!neon_pgpatch_begin(PG_VERSION_NUM, &image, &report) ||
		neon_pgpatch_find_words(image.relro_lo, image.relro_hi, (const uintptr_t *) &neon_pgpatch_md_table,
								NEON_F_SMGR_SLOTS, &at) != 1 ||
		!neon_pgpatch_write((char *) at + offsetof(neon_f_smgr, smgr_exists), &replacement, sizeof(replacement), PROT_READ, &report))
		elog(FATAL, "could not doctor the table: %s", report.error);
}
