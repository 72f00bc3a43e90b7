/*
 * ps_basebackup.c - everything of a data directory that is not a relation, as one tar archive at an LSN.
 *
 * The server that unpacks it starts without recovery: the last members are one WAL segment (two, if the record crosses)
 * that holds a single shutdown checkpoint beginning at the first possible place at or after the LSN, and the control file
 * that names it.  An archive that was cut short has no control file and cannot start.  Relations are read from the page
 * stream; only their databases' directories are here.
 *
 * Of a replica the archive has no WAL and no replication slots: its control file names a checkpoint of the timeline's own log, which it
 * streams from where redo begins, the archive's LSN.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "access/rmgr.h"
#include "access/xact.h"
#include "access/xlog_internal.h"
#include "catalog/pg_tablespace_d.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgtar.h"
#include "port/pg_crc32c.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

#include "ps_copyboth.h"
#include "ps_ingest.h"
#include "ps_internal.h"

#define SEND_BYTES					(128 * 1024)	/* of archive in one CopyData */
#define FILE_MODE					0600
#define DIRECTORY_MODE				0700
#define FIRST_UNLOGGED_LSN			1000	/* FirstNormalUnloggedLSN of xlogdefs.h, where the server starts them */
#define ORIGIN_CHECKPOINT_MAGIC		UINT32_C(0x1257DADE)	/* origin.c */

typedef struct Backup
{
	PsTimeline *tl;
	XLogRecPtr	lsn;
	XLogRecPtr	checkpoint;		/* of the log, whose redo begins at lsn; invalid: one is made that begins at lsn */
	pg_time_t	now;
	PsCopyBoth	cb;
	char	   *control;		/* ControlFileData of the template */
} Backup;

/* ---- archive ---- */

/* Archive bytes go out in CopyData messages of up to SEND_BYTES. */
static void
append(Backup *b, const void *bytes, size_t len)
{
	const char *p = bytes;

	while (len > 0)
	{
		size_t		n = Min(len, SEND_BYTES);

		memcpy(ps_copyboth_reserve(&b->cb, n), p, n);
		p += n;
		len -= n;
		CHECK_FOR_INTERRUPTS();
	}
}

static void
append_header(Backup *b, const char *path, size_t size, mode_t mode)
{
	char		header[TAR_BLOCK_SIZE];

	if (tarCreateHeader(header, path, NULL, size, mode, geteuid(), getegid(), b->now) != TAR_OK)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("path \"%s\" is too long for a base backup", path)));
	append(b, header, sizeof(header));
}

static void
add_directory(Backup *b, const char *path)
{
	append_header(b, path, 0, S_IFDIR | DIRECTORY_MODE);
}

static void
add_file(Backup *b, const char *path, const void *bytes, size_t len)
{
	static const char zeros[TAR_BLOCK_SIZE];

	append_header(b, path, len, S_IFREG | FILE_MODE);
	append(b, bytes, len);
	append(b, zeros, tarPaddingBytesRequired(len));
}

static void
end_archive(Backup *b)
{
	static const char zeros[2 * TAR_BLOCK_SIZE];

	append(b, zeros, sizeof(zeros));
}

/* ---- members ---- */

static void
add_skeleton(Backup *b)
{
	static const char *const directories[] = {
		"base", "global", "pg_commit_ts", "pg_dynshmem", "pg_logical", "pg_logical/mappings", "pg_logical/snapshots",
		"pg_multixact", "pg_multixact/members", "pg_multixact/offsets", "pg_notify", "pg_replslot", "pg_serial",
		"pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase", "pg_wal",
		"pg_wal/archive_status", "pg_xact"
	};

	for (int i = 0; i < lengthof(directories); i++)
		add_directory(b, directories[i]);
	add_file(b, "PG_VERSION", PG_MAJORVERSION "\n", strlen(PG_MAJORVERSION "\n"));
	add_file(b, "postgresql.conf", "", 0);
	add_file(b, "pg_hba.conf", "", 0);
	add_file(b, "pg_ident.conf", "", 0);
}

static void
add_relmap(Backup *b, const char *directory, uint32 spc, uint32 db)
{
	neon_key	key = ps_key(NEON_KEY_RELMAP, spc, db, 0, 0, 0);
	uint32		len;
	uint8	   *map = ps_get_value(b->tl, &key, b->lsn, &len, NULL);

	/* A database in the middle of its creation has no map yet; nobody can connect to it. */
	if (map == NULL)
		return;
	add_file(b, psprintf("%s/pg_filenode.map", directory), map, len);
	pfree(map);
}

typedef struct KeyList
{
	neon_key   *keys;
	uint32	   *values;			/* be32 of the value, where it has four bytes */
	int			n;
	int			cap;
} KeyList;

static bool
collect_key(const neon_key *key, const PsVersion *v, void *arg)
{
	KeyList    *list = arg;

	if (list->n == list->cap)
	{
		list->cap = list->cap ? list->cap * 2 : 64;
		list->keys = list->keys ? repalloc(list->keys, list->cap * sizeof(neon_key)) : palloc(list->cap * sizeof(neon_key));
		list->values = list->values ? repalloc(list->values, list->cap * sizeof(uint32)) : palloc(list->cap * sizeof(uint32));
	}
	list->keys[list->n] = *key;
	list->values[list->n++] = v->len == 4 ? ps_get_be32(v->bytes) : v->len == 1 ? v->bytes[0] : v->len;
	return true;
}

/* All keys of a kind that have a version at the backup's LSN.  Collected first: reading more from inside a scan is not foreseen. */
static KeyList
list_keys(Backup *b, neon_key_kind kind)
{
	neon_key	from = ps_key(kind, 0, 0, 0, 0, 0);
	neon_key	to = ps_key(kind, PG_UINT32_MAX, PG_UINT32_MAX, PG_UINT32_MAX, 0xFF, PG_UINT32_MAX);
	KeyList		list = {0};

	ps_scan(b->tl, &from, &to, b->lsn, collect_key, &list);
	return list;
}

static void
add_databases(Backup *b)
{
	KeyList		dbs = list_keys(b, NEON_KEY_DB);

	for (int i = 0; i < dbs.n; i++)
	{
		char	   *directory;

		if (dbs.values[i] == 0 || dbs.keys[i].spc != DEFAULTTABLESPACE_OID)
			continue;
		directory = psprintf("base/%u", dbs.keys[i].db);
		add_directory(b, directory);
		add_file(b, psprintf("%s/PG_VERSION", directory), PG_MAJORVERSION "\n", strlen(PG_MAJORVERSION "\n"));
		add_relmap(b, directory, dbs.keys[i].spc, dbs.keys[i].db);
	}
	add_relmap(b, "global", GLOBALTABLESPACE_OID, 0);
}

static void
add_slrus(Backup *b)
{
	static const char *const directories[] = {"pg_xact", "pg_multixact/offsets", "pg_multixact/members"};
	KeyList		segments = list_keys(b, NEON_KEY_SLRU_SIZE);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "neon SLRU segment", ALLOCSET_DEFAULT_SIZES);
	char	   *bytes = palloc(PS_SLRU_PAGES_PER_SEGMENT * BLCKSZ);

	for (int i = 0; i < segments.n; i++)
	{
		uint32		kind = segments.keys[i].spc;
		uint32		nblocks = segments.values[i];
		MemoryContext old;

		if (nblocks == NEON_SIZE_ABSENT)
			continue;
		if (kind >= lengthof(directories) || nblocks > PS_SLRU_PAGES_PER_SEGMENT)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("SLRU segment %u of kind %u has %u blocks", segments.keys[i].rel, kind, nblocks)));
		old = MemoryContextSwitchTo(context);
		nblocks = ps_get_slru_segment(b->tl, kind, segments.keys[i].rel, b->lsn, bytes, PS_SLRU_PAGES_PER_SEGMENT);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		add_file(b, psprintf("%s/%04X", directories[kind], segments.keys[i].rel), bytes, (Size) nblocks * BLCKSZ);
	}
	MemoryContextDelete(context);
	pfree(bytes);
}

static void
add_twophase(Backup *b)
{
	KeyList		xids = list_keys(b, NEON_KEY_TWOPHASE);

	for (int i = 0; i < xids.n; i++)
	{
		uint32		len;
		uint8	   *bytes = ps_get_value(b->tl, &xids.keys[i], b->lsn, &len, NULL);

		if (bytes != NULL && len > 0)
			add_file(b, psprintf("pg_twophase/%08X", xids.keys[i].rel), bytes, len);
	}
}

/* The only file that is kept as it is.  Others of its kind are from messages of sessions, which may be anything, and stay where they are. */
static void
read_control_file(Backup *b)
{
	neon_key	key;
	uint32		len;
	uint32		path_len = strlen(PS_CONTROL_FILE_PATH) + 1;
	uint8	   *value;

	ps_aux_file_key(PS_CONTROL_FILE_PATH, &key);
	value = ps_get_value(b->tl, &key, b->lsn, &len, NULL);
	if (value == NULL)
		return;
	if (len != path_len + sizeof(ControlFileData) || strcmp((char *) value, PS_CONTROL_FILE_PATH) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the stored control file has %u bytes instead of %zu", len, path_len + sizeof(ControlFileData))));
	b->control = (char *) value + path_len;
}

/* What CheckPointReplicationOrigin writes: magic, states, CRC. */
static void
add_origins(Backup *b)
{
	KeyList		origins = list_keys(b, NEON_KEY_REPL_ORIGIN);
	StringInfoData file;
	uint32		magic = ORIGIN_CHECKPOINT_MAGIC;
	pg_crc32c	crc;
	bool		any = false;

	initStringInfo(&file);
	appendBinaryStringInfo(&file, (char *) &magic, sizeof(magic));
	for (int i = 0; i < origins.n; i++)
	{
		uint32		len;
		uint8	   *value = ps_get_value(b->tl, &origins.keys[i], b->lsn, &len, NULL);
		struct
		{
			uint16		origin;
			XLogRecPtr	remote_lsn;
		}			state;

		if (value == NULL || len != 8 || ps_get_be64(value) == 0)
			continue;
		memset(&state, 0, sizeof(state));
		state.origin = (uint16) origins.keys[i].rel;
		state.remote_lsn = ps_get_be64(value);
		appendBinaryStringInfo(&file, (char *) &state, sizeof(state));
		any = true;
	}
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, file.data, file.len);
	FIN_CRC32C(crc);
	appendBinaryStringInfo(&file, (char *) &crc, sizeof(crc));
	if (any)
		add_file(b, "pg_logical/replorigin_checkpoint", file.data, file.len);
	pfree(file.data);
}

/* ---- the place to start from ---- */

/* The checkpoint a server would write if it stopped at the backup's LSN. */
static CheckPoint
make_checkpoint(Backup *b)
{
	CheckPoint	cp;
	neon_key	key = ps_key(NEON_KEY_CHECKPOINT, 0, 0, 0, 0, 0);
	uint32		len;
	uint8	   *value = ps_get_value(b->tl, &key, b->lsn, &len, NULL);

	if (value == NULL || len != sizeof(cp))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("timeline has no checkpoint state at %X/%X", LSN_FORMAT_ARGS(b->lsn)),
				 errdetail("Expected %zu bytes, found %u.", sizeof(cp), value ? len : 0)));
	memcpy(&cp, value, sizeof(cp));
	key.kind = NEON_KEY_NEXT_XID;
	value = ps_get_value(b->tl, &key, b->lsn, &len, NULL);
	if (value == NULL || len != 8)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("timeline has no next transaction id at %X/%X", LSN_FORMAT_ARGS(b->lsn))));
	cp.nextXid = FullTransactionIdFromU64(ps_get_be64(value));
	cp.redo = neon_lsn_record_start(b->lsn, ps_timeline_wal_segment_bytes(b->tl));
	cp.ThisTimeLineID = cp.PrevTimeLineID = 1;
	cp.fullPageWrites = true;
	cp.oldestActiveXid = InvalidTransactionId;
	cp.time = b->now;
	return cp;
}

/* One segment: the pages that have bytes, from `wal`, and zeros. */
static void
add_segment(Backup *b, const char *path, const uint8 *wal, XLogRecPtr segment, const CheckPoint *cp, XLogRecPtr end)
{
	uint32		segment_bytes = ps_timeline_wal_segment_bytes(b->tl);
	XLogRecPtr	first_page = cp->redo - cp->redo % XLOG_BLCKSZ;

	append_header(b, path, segment_bytes, S_IFREG | FILE_MODE);
	for (uint32 offset = 0; offset < segment_bytes; offset += XLOG_BLCKSZ)
	{
		XLogRecPtr	page = segment + offset;

		if (offset == 0 || (page >= first_page && page < end))
			append(b, wal + offset, XLOG_BLCKSZ);
		else
			memset(ps_copyboth_reserve(&b->cb, XLOG_BLCKSZ), 0, XLOG_BLCKSZ);
	}
}

/* The segments are laid out in fresh memory of the kernel's, of which only the few pages that get bytes come into being. */
static void
add_wal(Backup *b, const CheckPoint *cp, XLogRecPtr prev_lsn)
{
	uint32		segment_bytes = ps_timeline_wal_segment_bytes(b->tl);
	size_t		cap = (size_t) segment_bytes * 2;
	uint8	   *wal = mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	XLogRecPtr	end;
	uint32		nsegments;

	if (wal == MAP_FAILED)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("could not map %zu bytes: %m", cap)));
	end = neon_wal_fabricate(b->lsn, prev_lsn, RM_XLOG_ID, XLOG_CHECKPOINT_SHUTDOWN, cp, sizeof(*cp),
							 ps_timeline_system_id(b->tl), 1, segment_bytes, wal, cap, &nsegments);
	if (end == InvalidXLogRecPtr)
		elog(ERROR, "could not lay out the checkpoint record at %X/%X", LSN_FORMAT_ARGS(b->lsn));
	for (uint32 i = 0; i < nsegments; i++)
	{
		XLogSegNo	segno = cp->redo / segment_bytes + i;
		char		name[MAXFNAMELEN];

		XLogFileName(name, 1, segno, segment_bytes);
		add_segment(b, psprintf("pg_wal/%s", name), wal + (Size) i * segment_bytes, segno * segment_bytes, cp, end);
	}
	munmap(wal, cap);
}

static void
add_control_file(Backup *b, const CheckPoint *cp)
{
	char		file[PG_CONTROL_FILE_SIZE] = {0};
	ControlFileData control;

	if (b->control == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("timeline has no control file at %X/%X", LSN_FORMAT_ARGS(b->lsn))));
	memcpy(&control, b->control, sizeof(control));
	control.system_identifier = ps_timeline_system_id(b->tl);
	control.state = DB_SHUTDOWNED;
	control.time = b->now;
	control.checkPoint = b->checkpoint != InvalidXLogRecPtr ? b->checkpoint : cp->redo;
	control.checkPointCopy = *cp;
	control.unloggedLSN = FIRST_UNLOGGED_LSN;
	control.minRecoveryPoint = control.backupStartPoint = control.backupEndPoint = InvalidXLogRecPtr;
	control.minRecoveryPointTLI = 0;
	control.backupEndRequired = false;
	control.xlog_seg_size = ps_timeline_wal_segment_bytes(b->tl);
	INIT_CRC32C(control.crc);
	COMP_CRC32C(control.crc, &control, offsetof(ControlFileData, crc));
	FIN_CRC32C(control.crc);
	memcpy(file, &control, sizeof(control));
	add_file(b, PS_CONTROL_FILE_PATH, file, sizeof(file));
}

/* ---- CALL basebackup(tenant, timeline, lsn, prev_lsn, checkpoint) ---- */

static void
send_archive(Backup *b, const CheckPoint *cp, XLogRecPtr prev_lsn)
{
	add_skeleton(b);
	add_databases(b);
	add_slrus(b);
	add_twophase(b);
	read_control_file(b);
	add_file(b, "postgresql.auto.conf", "", 0);
	add_origins(b);
	if (b->checkpoint == InvalidXLogRecPtr)
		add_wal(b, cp, prev_lsn);
	add_control_file(b, cp);
	end_archive(b);
}

/* Half an archive is on its way: the connection is of no more use. */
static void
give_up(void)
{
	ErrorData  *edata;

	MemoryContextSwitchTo(TopMemoryContext);
	edata = CopyErrorData();
	FlushErrorState();
	ereport(FATAL,
			(errcode(edata->sqlerrcode),
			 errmsg_internal("%s", edata->message),
			 edata->detail ? errdetail_internal("%s", edata->detail) : 0));
}

/* The log of the compute goes on at lsn, so it must be a place where records end, and the record before must be before it. */
static void
check_position(PsTimeline *tl, XLogRecPtr lsn, XLogRecPtr prev_lsn)
{
	uint32		header = lsn % ps_timeline_wal_segment_bytes(tl) < XLOG_BLCKSZ ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;

	if (lsn < ps_timeline_start_lsn(tl))
		ereport(ERROR,
				(errcode(PS_ERR_LSN_TOO_OLD),
				 errmsg("%X/%08X is before the timeline's start at %X/%08X", LSN_FORMAT_ARGS(lsn),
						LSN_FORMAT_ARGS(ps_timeline_start_lsn(tl))),
				 errhint("Ask for the branch it began from.")));
	if (lsn % MAXIMUM_ALIGNOF != 0 || (lsn % XLOG_BLCKSZ != 0 && lsn % XLOG_BLCKSZ < header))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%X/%08X cannot be the end of a record", LSN_FORMAT_ARGS(lsn)),
				 errhint("Take the end of log that the safekeepers agreed on.")));
	if (prev_lsn >= lsn)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the record at %X/%08X is not before %X/%08X", LSN_FORMAT_ARGS(prev_lsn), LSN_FORMAT_ARGS(lsn)),
				 errhint("Give the start of the last record before, or 0/0 if there is none.")));
}

PG_FUNCTION_INFO_V1(neon_ps_basebackup);

Datum
neon_ps_basebackup(PG_FUNCTION_ARGS)
{
	PsTimeline *tl = ps_timeline_open(ps_text_arg(fcinfo, 0, "tenant"), ps_text_arg(fcinfo, 1, "timeline"));
	XLogRecPtr	prev_lsn = PG_ARGISNULL(3) ? InvalidXLogRecPtr : PG_GETARG_LSN(3);
	Backup		b = {.tl = tl,.now = (pg_time_t) time(NULL)};
	CheckPoint	cp;

	if (whereToSendOutput != DestRemote)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a base backup needs a client connection")));

	/* What can be wrong with the request is an ordinary error. */
	b.lsn = PG_ARGISNULL(2) ? ps_timeline_last_record_lsn(tl) : PG_GETARG_LSN(2);
	b.checkpoint = PG_ARGISNULL(4) ? InvalidXLogRecPtr : PG_GETARG_LSN(4);
	check_position(tl, b.lsn, prev_lsn);
	if (b.checkpoint != InvalidXLogRecPtr && b.checkpoint < b.lsn)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the checkpoint at %X/%08X is before %X/%08X, where its redo is to begin", LSN_FORMAT_ARGS(b.checkpoint),
						LSN_FORMAT_ARGS(b.lsn)),
				 errhint("Give redo_lsn and checkpoint_lsn of one checkpoint.")));
	ps_timeline_wait_lsn(tl, b.lsn);
	cp = make_checkpoint(&b);

	ps_copyboth_begin(&b.cb, fcinfo);
	StartTransactionCommand();
	PG_TRY();
	{
		send_archive(&b, &cp, prev_lsn);
		ps_copyboth_end(&b.cb);
	}
	PG_CATCH();
	{
		give_up();
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}
