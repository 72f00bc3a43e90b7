/*
 * ps_import.c - a data directory that was stopped cleanly, as image versions in one layer file.
 *
 * The LSN of all versions is the end of the shutdown checkpoint record, the place where WAL goes on.  The layer wants its
 * keys in ascending order, and kinds come first in a key, so the directory is listed and sorted first and read second.
 * Pages that are all zeros are left out: inside a relation's size they read as zeros anyway.  Of unlogged relations only
 * the init fork is taken; computes make the rest from it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "access/xlogrecord.h"
#include "catalog/pg_tablespace_d.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/reinit.h"
#include "utils/memutils.h"

#include "ps_bootstrap.h"
#include "ps_ingest.h"
#include "ps_wal_source.h"

#define PS_MAX_SMALL_FILE_BYTES (16 * 1024 * 1024)

typedef struct ImportFork
{
	uint32		spc;
	uint32		db;
	uint32		rel;
	uint8		fork;
	char	   *path;			/* of the first segment */
	uint32		nblocks;		/* filled while reading */
} ImportFork;

typedef struct Import
{
	const char *directory;
	ControlFileData control;
	PsImageWriter *writer;
	ImportFork *forks;
	int			nforks;
	int			cap;
	uint32	   *dbs;			/* ascending */
	int			ndbs;
} Import;

static void
add(Import *im, neon_key key, const void *bytes, uint32 len)
{
	ps_image_writer_add(im->writer, &key, bytes, len);
}

/* ---- files ---- */

static int
open_file(const char *path)
{
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);

	if (fd < 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", path)));
	return fd;
}

/* Reads up to cap bytes; fewer only at the file's end. */
static size_t
read_fully(int fd, const char *path, void *buf, size_t cap)
{
	size_t		have = 0;

	while (have < cap)
	{
		ssize_t		n = read(fd, (char *) buf + have, cap - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not read file \"%s\": %m", path)));
		if (n == 0)
			break;
		have += n;
	}
	return have;
}

static char *
read_small_file(const char *path, uint32 *len)
{
	int			fd = open_file(path);
	struct stat st;
	char	   *buf;

	if (fstat(fd, &st) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not stat file \"%s\": %m", path)));
	if (st.st_size > PS_MAX_SMALL_FILE_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("file \"%s\" has %lld bytes, more than can be imported", path, (long long) st.st_size)));
	buf = palloc(Max(st.st_size, 1));
	*len = read_fully(fd, path, buf, st.st_size);
	CloseTransientFile(fd);
	return buf;
}

static int
compare_uint32(const void *a, const void *b)
{
	uint32		x = *(const uint32 *) a;
	uint32		y = *(const uint32 *) b;

	return (x > y) - (x < y);
}

/* Numbers that are names of entries of a directory, ascending.  base: 10 for databases, 16 for SLRU segments and xids. */
static uint32 *
list_numbers(const char *path, int base, int *n)
{
	DIR		   *dir = AllocateDir(path);
	struct dirent *de;
	int			cap = 16;
	uint32	   *numbers = palloc(cap * sizeof(uint32));

	*n = 0;
	while ((de = ReadDir(dir, path)) != NULL)
	{
		char	   *end;
		unsigned long v = strtoul(de->d_name, &end, base);

		if (*end != '\0' || de->d_name[0] == '.' || v > PG_UINT32_MAX)
			continue;
		if (*n == cap)
			numbers = repalloc(numbers, (cap *= 2) * sizeof(uint32));
		numbers[(*n)++] = (uint32) v;
	}
	FreeDir(dir);
	qsort(numbers, *n, sizeof(uint32), compare_uint32);
	return numbers;
}

/* ---- relations ---- */

static int
compare_forks(const void *a, const void *b)
{
	const ImportFork *x = a;
	const ImportFork *y = b;

	if (x->spc != y->spc)
		return x->spc < y->spc ? -1 : 1;
	if (x->db != y->db)
		return x->db < y->db ? -1 : 1;
	if (x->rel != y->rel)
		return x->rel < y->rel ? -1 : 1;
	return (int) x->fork - (int) y->fork;
}

static void
list_forks(Import *im, const char *subdir, uint32 spc, uint32 db)
{
	char	   *path = psprintf("%s/%s", im->directory, subdir);
	DIR		   *dir = AllocateDir(path);
	struct dirent *de;

	while ((de = ReadDir(dir, path)) != NULL)
	{
		int			oidchars;
		ForkNumber	fork;
		ImportFork *f;

		/* Later segments are found through the first one. */
		if (!parse_filename_for_nontemp_relation(de->d_name, &oidchars, &fork) || strchr(de->d_name, '.') != NULL)
			continue;
		if (im->nforks == im->cap)
			im->forks = repalloc_huge(im->forks, (im->cap *= 2) * sizeof(ImportFork));
		f = &im->forks[im->nforks++];
		f->spc = spc;
		f->db = db;
		f->rel = (uint32) strtoul(de->d_name, NULL, 10);
		f->fork = (uint8) fork;
		f->path = psprintf("%s/%s", path, de->d_name);
		f->nblocks = 0;
	}
	FreeDir(dir);
	pfree(path);
}

/* Forget what an unlogged relation has beside its init fork.  The list is sorted. */
static void
skip_unlogged(Import *im)
{
	int			kept = 0;

	for (int i = 0; i < im->nforks;)
	{
		int			end = i;
		bool		unlogged = false;

		while (end < im->nforks && im->forks[end].rel == im->forks[i].rel && im->forks[end].db == im->forks[i].db &&
			   im->forks[end].spc == im->forks[i].spc)
			unlogged |= im->forks[end++].fork == INIT_FORKNUM;
		for (; i < end; i++)
			if (!unlogged || im->forks[i].fork == INIT_FORKNUM)
				im->forks[kept++] = im->forks[i];
	}
	im->nforks = kept;
}

static bool
is_zero_page(const char *page)
{
	const uint64 *words = (const uint64 *) page;

	for (int i = 0; i < BLCKSZ / sizeof(uint64); i++)
		if (words[i] != 0)
			return false;
	return true;
}

static void
import_segment(Import *im, ImportFork *f, const char *path)
{
	int			fd = open_file(path);
	PGAlignedBlock page;
	size_t		n;

	while ((n = read_fully(fd, path, page.data, BLCKSZ)) == BLCKSZ)
	{
		if (!is_zero_page(page.data))
			add(im, ps_key(NEON_KEY_REL_BLOCK, f->spc, f->db, f->rel, f->fork, f->nblocks), page.data, BLCKSZ);
		f->nblocks++;
		CHECK_FOR_INTERRUPTS();
	}
	CloseTransientFile(fd);
	if (n != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" does not end at a page boundary", path),
				 errdetail("Expected a multiple of %d bytes, found %zu more.", BLCKSZ, n)));
}

static void
import_relations(Import *im)
{
	list_forks(im, "global", GLOBALTABLESPACE_OID, 0);
	for (int i = 0; i < im->ndbs; i++)
		list_forks(im, psprintf("base/%u", im->dbs[i]), DEFAULTTABLESPACE_OID, im->dbs[i]);
	qsort(im->forks, im->nforks, sizeof(ImportFork), compare_forks);
	skip_unlogged(im);

	for (int i = 0; i < im->nforks; i++)
	{
		ImportFork *f = &im->forks[i];

		import_segment(im, f, f->path);
		for (uint32 seg = 1; f->nblocks == seg * RELSEG_SIZE; seg++)
		{
			char	   *path = psprintf("%s.%u", f->path, seg);

			if (access(path, F_OK) != 0)
				break;
			import_segment(im, f, path);
			pfree(path);
		}
	}
	for (int i = 0; i < im->nforks; i++)
	{
		ImportFork *f = &im->forks[i];
		uint8		value[4];

		ps_be32(value, f->nblocks);
		add(im, ps_key(NEON_KEY_REL_SIZE, f->spc, f->db, f->rel, f->fork, 0), value, sizeof(value));
	}
}

/* ---- everything else, in the order of kinds ---- */

static void
import_databases(Import *im)
{
	uint8		exists = 1;
	uint32		len;
	char	   *map;

	for (int i = 0; i < im->ndbs; i++)
		add(im, ps_key(NEON_KEY_DB, DEFAULTTABLESPACE_OID, im->dbs[i], 0, 0, 0), &exists, 1);
	for (int i = 0; i < im->ndbs; i++)
	{
		map = read_small_file(psprintf("%s/base/%u/pg_filenode.map", im->directory, im->dbs[i]), &len);
		add(im, ps_key(NEON_KEY_RELMAP, DEFAULTTABLESPACE_OID, im->dbs[i], 0, 0, 0), map, len);
	}
	map = read_small_file(psprintf("%s/global/pg_filenode.map", im->directory), &len);
	add(im, ps_key(NEON_KEY_RELMAP, GLOBALTABLESPACE_OID, 0, 0, 0, 0), map, len);
}

static void
import_slrus(Import *im)
{
	static const struct
	{
		neon_slru_kind kind;
		const char *dir;
	}			slrus[] = {
		{NEON_SLRU_XACT, "pg_xact"},
		{NEON_SLRU_MULTIXACT_OFFSETS, "pg_multixact/offsets"},
		{NEON_SLRU_MULTIXACT_MEMBERS, "pg_multixact/members"},
	};

	for (int pass = 0; pass < 2; pass++)	/* blocks, then sizes */
		for (int s = 0; s < lengthof(slrus); s++)
		{
			char	   *dir = psprintf("%s/%s", im->directory, slrus[s].dir);
			int			n;
			uint32	   *segments = list_numbers(dir, 16, &n);

			for (int i = 0; i < n; i++)
			{
				uint32		len;
				char	   *bytes = read_small_file(psprintf("%s/%04X", dir, segments[i]), &len);
				uint32		nblocks = Min(len / BLCKSZ, PS_SLRU_PAGES_PER_SEGMENT);
				uint8		value[4];

				ps_be32(value, nblocks);
				for (uint32 blk = 0; pass == 0 && blk < nblocks; blk++)
					add(im, ps_key(NEON_KEY_SLRU_BLOCK, slrus[s].kind, 0, segments[i], 0, blk),
						bytes + (Size) blk * BLCKSZ, BLCKSZ);
				if (pass == 1)
					add(im, ps_key(NEON_KEY_SLRU_SIZE, slrus[s].kind, 0, segments[i], 0, 0), value, sizeof(value));
				pfree(bytes);
			}
		}
}

static void
import_state(Import *im)
{
	char	   *dir = psprintf("%s/pg_twophase", im->directory);
	uint8		next_xid[8];
	uint32	   *xids;
	int			n;
	uint8	   *value;
	uint32		len;
	neon_key	key;

	add(im, ps_key(NEON_KEY_CHECKPOINT, 0, 0, 0, 0, 0), &im->control.checkPointCopy, sizeof(CheckPoint));
	ps_be64(next_xid, U64FromFullTransactionId(im->control.checkPointCopy.nextXid));
	add(im, ps_key(NEON_KEY_NEXT_XID, 0, 0, 0, 0, 0), next_xid, sizeof(next_xid));

	xids = list_numbers(dir, 16, &n);
	for (int i = 0; i < n; i++)
	{
		char	   *bytes = read_small_file(psprintf("%s/%08X", dir, xids[i]), &len);

		add(im, ps_key(NEON_KEY_TWOPHASE, 0, 0, xids[i], 0, 0), bytes, len);
	}

	ps_aux_file_key(PS_CONTROL_FILE_PATH, &key);
	value = ps_aux_file_value(PS_CONTROL_FILE_PATH, &im->control, sizeof(ControlFileData), &len);
	add(im, key, value, len);
}

/* ---- where WAL ends ---- */

/* The record that pg_control calls the last checkpoint must be the last one of the log; its end is where WAL goes on. */
static XLogRecPtr
end_of_checkpoint(Import *im)
{
	XLogRecPtr	start = im->control.checkPoint;
	uint32		segment_bytes = im->control.xlog_seg_size;
	XLogRecPtr	end = InvalidXLogRecPtr;
	neon_wal_reader reader;
	neon_wal_record rec;
	neon_wal_status status = NEON_WAL_NEED_MORE;

	neon_wal_reader_init(&reader, segment_bytes, ps_wal_realloc, CurrentMemoryContext);
	neon_wal_reader_begin(&reader, start);
	for (XLogSegNo segno = start / segment_bytes; segno <= start / segment_bytes + 1; segno++)
	{
		char		name[MAXFNAMELEN];
		char	   *path;
		char	   *bytes;
		uint32		len;
		uint32		skip = segno == start / segment_bytes ? XLogSegmentOffset(start, segment_bytes) : 0;
		int			fd;

		XLogFileName(name, im->control.checkPointCopy.ThisTimeLineID, segno, segment_bytes);
		path = psprintf("%s/pg_wal/%s", im->directory, name);
		fd = open_file(path);
		bytes = palloc_extended(segment_bytes, MCXT_ALLOC_HUGE);
		len = read_fully(fd, path, bytes, segment_bytes);
		CloseTransientFile(fd);
		if (len > skip)
			neon_wal_reader_feed(&reader, bytes + skip, len - skip);
		status = neon_wal_reader_next(&reader, &rec);
		if (status == NEON_WAL_OK)
			end = rec.end;
		if (status != NEON_WAL_NEED_MORE)
			break;
		pfree(bytes);
	}
	if (status != NEON_WAL_OK || rec.rmid != RM_XLOG_ID || (rec.info & ~XLR_INFO_MASK) != XLOG_CHECKPOINT_SHUTDOWN)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("there is no shutdown checkpoint record at %X/%X in \"%s\"", LSN_FORMAT_ARGS(start),
						im->directory),
				 errdetail("Reading it ended with: %s.", neon_wal_status_text(status))));
	neon_wal_reader_free(&reader);
	return end;
}

static void
check_control(Import *im)
{
	bool		crc_ok;
	char	   *path = psprintf("%s/backup_label", im->directory);
	ControlFileData *control = get_controlfile(im->directory, &crc_ok);

	if (!crc_ok)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("control file of \"%s\" has a wrong checksum", im->directory)));
	im->control = *control;
	if (control->pg_control_version != PG_CONTROL_VERSION || control->blcksz != BLCKSZ ||
		control->state != DB_SHUTDOWNED || control->data_checksum_version != 0 || access(path, F_OK) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("data directory \"%s\" cannot be imported", im->directory),
				 errdetail("It must be of this server's major version, stopped cleanly, without data checksums.")));
	if (control->checkPointCopy.ThisTimeLineID != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("data directory \"%s\" is on timeline %u", im->directory,
						control->checkPointCopy.ThisTimeLineID),
				 errdetail("Only clusters that were never promoted can be imported.")));
}

void
ps_import_directory(const char *directory, const char *path, PsBootstrap *out)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "neon import", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Import		im = {.directory = directory,.cap = 1024};
	int			ntablespaces;

	check_control(&im);
	(void) list_numbers(psprintf("%s/pg_tblspc", directory), 10, &ntablespaces);
	if (ntablespaces > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("data directory \"%s\" has tablespaces", directory)));

	out->start_lsn = end_of_checkpoint(&im);
	out->prev_lsn = im.control.checkPoint;
	out->system_id = im.control.system_identifier;
	out->wal_segment_bytes = im.control.xlog_seg_size;

	im.forks = palloc(im.cap * sizeof(ImportFork));
	im.dbs = list_numbers(psprintf("%s/base", directory), 10, &im.ndbs);
	im.writer = ps_image_writer_begin(path, out->start_lsn);
	import_relations(&im);
	import_databases(&im);
	import_slrus(&im);
	import_state(&im);
	ps_image_writer_finish(im.writer);

	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
