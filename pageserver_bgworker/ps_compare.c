/*
 * ps_compare.c - page truth: every page of a data directory against the timeline's page at the same LSN.
 *
 * compare_directory(tenant, timeline, directory, lsn) wants a data directory that was stopped cleanly at that LSN, whose
 * WAL the timeline has.  Pages are compared after the resource managers' own masks, which take out what WAL does not
 * promise (hint bits, command ids, garbage in holes).  What a page is, is told by its special space.  Not compared: the free
 * space map, and unlogged relations but for their init forks.  The timeline may lack blocks at the end of a file that are
 * zeros there: extensions by zeros are never in WAL.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "access/rmgr.h"
#include "access/spgist_private.h"
#include "access/xlog_internal.h"
#include "catalog/pg_tablespace_d.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "storage/fd.h"
#include "storage/reinit.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

#include "ps_ingest.h"
#include "ps_internal.h"

#define MAX_REPORTED	1000

typedef struct Compare
{
	PsTimeline *tl;
	const char *directory;
	XLogRecPtr	lsn;
	ReturnSetInfo *rsinfo;
	MemoryContext page_context; /* reset for each page */
	uint64		npages;
	uint64		nforks;
	int			nreported;
} Compare;

static void report(Compare *c, const char *path, int64 blk, const char *fmt,...) pg_attribute_printf(4, 5);

static void
report(Compare *c, const char *path, int64 blk, const char *fmt,...)
{
	Datum		values[3];
	bool		nulls[3] = {false, blk < 0, false};
	char		problem[512];
	va_list		args;

	if (c->nreported++ >= MAX_REPORTED)
		return;
	va_start(args, fmt);
	vsnprintf(problem, sizeof(problem), fmt, args);
	va_end(args);
	values[0] = CStringGetTextDatum(path);
	values[1] = Int64GetDatum(blk);
	values[2] = CStringGetTextDatum(problem);
	tuplestore_putvalues(c->rsinfo->setResult, c->rsinfo->setDesc, values, nulls);
}

/* ---- masks ---- */

/* Which resource manager's pages look like this. */
static RmgrId
rmgr_of_page(const char *page)
{
	const PageHeaderData *p = (const PageHeaderData *) page;
	uint32		special = BLCKSZ - p->pd_special;
	uint16		id;

	memcpy(&id, page + BLCKSZ - sizeof(id), sizeof(id));
	if (special == 0)
		return RM_HEAP_ID;
	if (special == 16 && id == 0xFF80)
		return RM_HASH_ID;
	if (special == 16 && id == 0xFF81)
		return RM_GIST_ID;
	if (special == 8 && id == 0xFF82)
		return RM_SPGIST_ID;
	if (special == 8 && id == 0xFF83)
		return RM_GENERIC_ID;	/* bloom */
	if (special == 8 && id >= 0xF091 && id <= 0xF093)
		return RM_BRIN_ID;
	if (special == 8 && *(const uint32 *) (page + p->pd_special) == 0x1717)
		return RM_SEQ_ID;
	if (special == 16)
		return RM_BTREE_ID;
	if (special == 8)
		return RM_GIN_ID;
	return RM_GENERIC_ID;
}

static bool
header_is_sane(const char *page)
{
	const PageHeaderData *p = (const PageHeaderData *) page;

	return p->pd_lower >= SizeOfPageHeaderData && p->pd_lower <= p->pd_upper && p->pd_upper <= p->pd_special &&
		p->pd_special <= BLCKSZ;
}

/* What the resource managers' masks leave and WAL still does not promise. */
static void
mask(char *page, uint32 blk, RmgrId rmid)
{
	RmgrTable[rmid].rm_mask(page, blk);
	/* The meta page of SP-GiST: the cache of last used pages behind the magic number. */
	if (rmid == RM_SPGIST_ID && blk == 0)
		memset(page + SizeOfPageHeaderData + sizeof(uint32), 0, sizeof(SpGistLUPCache));
	/* A sequence's WAL is ahead of its page: last_value and log_cnt count within what was logged. */
	if (rmid == RM_SEQ_ID && PageGetMaxOffsetNumber(page) == FirstOffsetNumber)
	{
		ItemId		item = PageGetItemId(page, FirstOffsetNumber);
		HeapTupleHeader tuple = (HeapTupleHeader) PageGetItem(page, item);

		memset((char *) tuple + tuple->t_hoff, 0, ItemIdGetLength(item) - tuple->t_hoff);
	}
}

/* Header apart, our bits must be theirs; one too many makes wrong answers, one too few only costs time. */
static void
compare_visibility(Compare *c, const char *path, uint32 blk, const char *theirs, const char *ours)
{
	int			lacking = 0;

	for (int i = MAXALIGN(SizeOfPageHeaderData); i < BLCKSZ; i++)
	{
		if (ours[i] & ~theirs[i])
		{
			report(c, path, blk, "visibility map says too much at offset %d (theirs %02X, ours %02X)", i,
				   (uint8) theirs[i], (uint8) ours[i]);
			return;
		}
		lacking += theirs[i] != ours[i];
	}
	if (lacking > 0)
		report(c, path, blk, "visibility map lacks bits in %d bytes", lacking);
}

static bool
is_zeros(const char *page, int bytes)
{
	for (int i = 0; i < bytes; i++)
		if (page[i] != 0)
			return false;
	return true;
}

static void
compare_page(Compare *c, const char *path, uint32 blk, uint8 fork, char *theirs, char *ours)
{
	XLogRecPtr	their_lsn = PageGetLSN((Page) theirs);
	XLogRecPtr	our_lsn = PageGetLSN((Page) ours);
	RmgrId		rmid;

	c->npages++;
	if (memcmp(theirs, ours, BLCKSZ) == 0)
		return;
	if (fork == VISIBILITYMAP_FORKNUM)
	{
		compare_visibility(c, path, blk, theirs, ours);
		return;
	}
	if (PageIsNew((Page) theirs) != PageIsNew((Page) ours))
	{
		/* A page may be initialised in memory and written without WAL, empty. */
		if (is_zeros(ours, BLCKSZ) && ((PageHeader) theirs)->pd_lower <= SizeOfPageHeaderData && their_lsn == 0)
			return;
		report(c, path, blk, "%s page is new, the other has LSN %X/%X", PageIsNew((Page) ours) ? "our" : "their",
			   LSN_FORMAT_ARGS(Max(our_lsn, their_lsn)));
		return;
	}
	if (!header_is_sane(theirs) || !header_is_sane(ours))
	{
		report(c, path, blk, "insane page header");
		return;
	}
	/* Redo may set an LSN where the server did not (visibility); the other way round a record is missing. */
	if (our_lsn < their_lsn)
	{
		report(c, path, blk, "our LSN %X/%X is older than %X/%X", LSN_FORMAT_ARGS(our_lsn), LSN_FORMAT_ARGS(their_lsn));
		return;
	}
	rmid = rmgr_of_page(theirs);
	mask(theirs, blk, rmid);
	mask(ours, blk, rmid);
	for (int i = 0; i < BLCKSZ; i++)
		if (theirs[i] != ours[i])
		{
			int			n = 0;

			for (int j = i; j < BLCKSZ; j++)
				n += theirs[j] != ours[j];
			report(c, path, blk, "%s page differs in %d bytes from offset %d on (theirs %02X, ours %02X), LSN %X/%X, ours %X/%X",
				   RmgrTable[rmid].rm_name, n, i, (uint8) theirs[i], (uint8) ours[i], LSN_FORMAT_ARGS(their_lsn),
				   LSN_FORMAT_ARGS(our_lsn));
			return;
		}
}

/* ---- files ---- */

static int
open_if_exists(const char *path)
{
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);

	if (fd < 0 && errno != ENOENT)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", path)));
	return fd;
}

static void
compare_block(Compare *c, const char *path, const neon_key *key, uint32 size, char *theirs)
{
	MemoryContext old = MemoryContextSwitchTo(c->page_context);
	PGAlignedBlock ours;

	if (key->blk >= size)
	{
		/* Visibility map pages are made with a header, also without WAL. */
		int			skip = key->fork == VISIBILITYMAP_FORKNUM ? MAXALIGN(SizeOfPageHeaderData) : 0;

		if (!is_zeros(theirs + skip, BLCKSZ - skip))
			report(c, path, key->blk, "beyond our size of %u blocks, and not zeros", size);
	}
	else
	{
		PG_TRY();
		{
			ps_get_page(c->tl, key, c->lsn, ours.data);
			compare_page(c, path, key->blk, key->fork, theirs, ours.data);
		}
		PG_CATCH();
		{
			ErrorData  *edata;

			MemoryContextSwitchTo(c->page_context);
			edata = CopyErrorData();
			if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
				PG_RE_THROW();
			FlushErrorState();
			LWLockReleaseAll();
			report(c, path, key->blk, "%s", edata->message);
		}
		PG_END_TRY();
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(c->page_context);
}

static void
compare_fork(Compare *c, const char *relative, uint32 spc, uint32 db, uint32 rel, uint8 fork)
{
	uint32		size = ps_rel_size(c->tl, spc, db, rel, fork, c->lsn);
	uint32		blk = 0;
	PGAlignedBlock theirs;

	c->nforks++;
	for (uint32 seg = 0;; seg++)
	{
		char	   *path = seg == 0 ? psprintf("%s/%s", c->directory, relative) :
			psprintf("%s/%s.%u", c->directory, relative, seg);
		int			fd = open_if_exists(path);

		if (fd < 0)
			break;
		while (read(fd, theirs.data, BLCKSZ) == BLCKSZ)
		{
			neon_key	key = ps_key(NEON_KEY_REL_BLOCK, spc, db, rel, fork, blk);

			compare_block(c, relative, &key, size == NEON_SIZE_ABSENT ? 0 : size, theirs.data);
			blk++;
			CHECK_FOR_INTERRUPTS();
		}
		CloseTransientFile(fd);
		pfree(path);
		if (blk != (seg + 1) * RELSEG_SIZE)
			break;
	}
	if (size == NEON_SIZE_ABSENT && blk > 0 && fork != VISIBILITYMAP_FORKNUM)
		report(c, relative, -1, "does not exist in the timeline");
	else if (size != NEON_SIZE_ABSENT && size > blk)
		report(c, relative, -1, "has %u blocks, ours %u", blk, size);
}

static void
compare_database(Compare *c, const char *subdir, uint32 spc, uint32 db)
{
	char	   *path = psprintf("%s/%s", c->directory, subdir);
	DIR		   *dir = AllocateDir(path);
	struct dirent *de;

	while ((de = ReadDir(dir, path)) != NULL)
	{
		int			oidchars;
		ForkNumber	fork;
		uint32		rel;
		bool		unlogged;

		if (!parse_filename_for_nontemp_relation(de->d_name, &oidchars, &fork) || strchr(de->d_name, '.') != NULL ||
			fork == FSM_FORKNUM)
			continue;
		rel = (uint32) strtoul(de->d_name, NULL, 10);
		unlogged = access(psprintf("%s/%u_init", path, rel), F_OK) == 0;
		if (unlogged && fork != INIT_FORKNUM)
			continue;
		compare_fork(c, psprintf("%s/%s", subdir, de->d_name), spc, db, rel, fork);
	}
	FreeDir(dir);
}

/* Relations of ours that the directory does not have. */
static bool
check_exists(const neon_key *key, const PsVersion *v, void *arg)
{
	Compare    *c = arg;
	char	   *path;

	if (v->len != 4 || ps_get_be32(v->bytes) == NEON_SIZE_ABSENT)
		return true;
	path = psprintf("%s/%s%u%s%s", key->spc == GLOBALTABLESPACE_OID ? "global" : "base",
					key->spc == GLOBALTABLESPACE_OID ? "" : psprintf("%u/", key->db), key->rel,
					key->fork == MAIN_FORKNUM ? "" : "_", key->fork == MAIN_FORKNUM ? "" : forkNames[key->fork]);
	if (access(psprintf("%s/%s", c->directory, path), F_OK) != 0)
		report(c, path, -1, "exists in the timeline only");
	return true;
}

static void
compare_file(Compare *c, const char *relative, const uint8 *ours, size_t len)
{
	char	   *path = psprintf("%s/%s", c->directory, relative);
	int			fd = open_if_exists(path);
	char	   *theirs = palloc(len + 1);
	ssize_t		n;

	if (fd < 0)
	{
		report(c, relative, -1, "exists in the timeline only");
		return;
	}
	n = read(fd, theirs, len + 1);
	CloseTransientFile(fd);
	if (n != (ssize_t) len)
		report(c, relative, -1, "length is %zd or more, ours %zu", n, len);
	for (ssize_t i = 0; i < Min(n, (ssize_t) len); i++)
		if ((uint8) theirs[i] != ours[i])
		{
			report(c, relative, i / BLCKSZ, "differs at offset %zd (theirs %02X, ours %02X)", i, (uint8) theirs[i],
				   ours[i]);
			break;
		}
	pfree(theirs);
	pfree(path);
}

static void
compare_slru(Compare *c, neon_slru_kind kind, const char *subdir)
{
	char	   *path = psprintf("%s/%s", c->directory, subdir);
	DIR		   *dir = AllocateDir(path);
	struct dirent *de;
	char	   *ours = palloc(PS_SLRU_PAGES_PER_SEGMENT * BLCKSZ);

	while ((de = ReadDir(dir, path)) != NULL)
	{
		char	   *end;
		uint32		segment = (uint32) strtoul(de->d_name, &end, 16);
		uint32		n;

		if (*end != '\0' || de->d_name[0] == '.')
			continue;
		n = ps_get_slru_segment(c->tl, kind, segment, c->lsn, ours, PS_SLRU_PAGES_PER_SEGMENT);
		compare_file(c, psprintf("%s/%s", subdir, de->d_name), (uint8 *) ours, (size_t) n * BLCKSZ);
	}
	FreeDir(dir);
	pfree(ours);
}

static void
compare_relmap(Compare *c, const char *relative, uint32 spc, uint32 db)
{
	neon_key	key = ps_key(NEON_KEY_RELMAP, spc, db, 0, 0, 0);
	uint32		len;
	uint8	   *map = ps_get_value(c->tl, &key, c->lsn, &len, NULL);

	if (map == NULL)
		report(c, relative, -1, "does not exist in the timeline");
	else
		compare_file(c, relative, map, len);
}

static void
compare_all(Compare *c)
{
	neon_key	from = ps_key(NEON_KEY_REL_SIZE, 0, 0, 0, 0, 0);
	neon_key	to = ps_key(NEON_KEY_REL_SIZE, PG_UINT32_MAX, PG_UINT32_MAX, PG_UINT32_MAX, 0xFF, PG_UINT32_MAX);
	char	   *path = psprintf("%s/base", c->directory);
	DIR		   *dir = AllocateDir(path);
	struct dirent *de;

	compare_database(c, "global", GLOBALTABLESPACE_OID, 0);
	compare_relmap(c, "global/pg_filenode.map", GLOBALTABLESPACE_OID, 0);
	while ((de = ReadDir(dir, path)) != NULL)
	{
		char	   *end;
		uint32		db = (uint32) strtoul(de->d_name, &end, 10);

		if (*end != '\0' || de->d_name[0] == '.')
			continue;
		compare_database(c, psprintf("base/%u", db), DEFAULTTABLESPACE_OID, db);
		compare_relmap(c, psprintf("base/%u/pg_filenode.map", db), DEFAULTTABLESPACE_OID, db);
	}
	FreeDir(dir);
	ps_scan(c->tl, &from, &to, c->lsn, check_exists, c);
	compare_slru(c, NEON_SLRU_XACT, "pg_xact");
	compare_slru(c, NEON_SLRU_MULTIXACT_OFFSETS, "pg_multixact/offsets");
	compare_slru(c, NEON_SLRU_MULTIXACT_MEMBERS, "pg_multixact/members");
}

PG_FUNCTION_INFO_V1(neon_ps_compare_directory);

Datum
neon_ps_compare_directory(PG_FUNCTION_ARGS)
{
	Compare		c = {0};

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to compare a data directory")));
	c.tl = ps_timeline_open(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	c.directory = text_to_cstring(PG_GETARG_TEXT_PP(2));
	c.lsn = PG_GETARG_LSN(3);
	c.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	InitMaterializedSRF(fcinfo, 0);
	c.page_context = AllocSetContextCreate(CurrentMemoryContext, "neon compare page", ALLOCSET_DEFAULT_SIZES);
	compare_all(&c);
	ereport(NOTICE,
			(errmsg("compared " UINT64_FORMAT " pages of " UINT64_FORMAT " forks, %d differences", c.npages, c.nforks,
					c.nreported)));
	return (Datum) 0;
}
