/*
 * standby.c - what static endpoints and replicas have in common: they are servers in recovery that must not leave it.
 *
 * Promoted, they would take writes that no safekeeper has.  The one function that postmaster and startup process ask for the order to promote is
 * detoured and says no; pg_promote() says why; settings that could give the startup process a command, a trigger file or WAL that is not meant for it
 * are held at nothing, whoever changes them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xlogrecovery.h"
#include "fmgr.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"

#include "neon_smgr.h"
#include "replica.h"

static Datum
refuse_promotion(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a %s cannot be promoted", neon_replica ? "replica" : "static endpoint"),
			 neon_replica ? errdetail("The branch's read-write endpoint is its only writer.") :
			 errdetail("It shows its branch as of LSN %X/%X.", LSN_FORMAT_ARGS(neon_static_lsn)),
			 neon_replica ? errhint("Create a branch to go on from here.") :
			 errhint("Create a branch at that LSN and a read-write endpoint for it.")));
}

static bool
never_promote(void)
{
	return false;
}

bool
standby_install(const neon_pgpatch_image *image, neon_pgpatch_report *report)
{
	return neon_pgpatch_detour(image, "CheckPromoteSignal", (void *) CheckPromoteSignal, (void *) never_promote, report) &&
		neon_pgpatch_builtin(image, F_PG_PROMOTE, refuse_promotion, NULL, report);
}

/* A value of this source is not replaced by any other: not by a configuration file, nor on the command line. */
static void
hold(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_POSTMASTER, PGC_S_OVERRIDE);
}

void
standby_settings(void)
{
	static const char *const nothing[] = {
		"primary_slot_name", "restore_command", "recovery_end_command", "archive_cleanup_command", "promote_trigger_file",
		"recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"
	};

	for (int i = 0; i < lengthof(nothing); i++)
		hold(nothing[i], "");
	hold("recovery_target_action", "shutdown");
	if (neon_replica)			/* it would read pages before the records in front of them are redone */
		hold("recovery_prefetch", "off");
	else
		hold("primary_conninfo", "");
}
