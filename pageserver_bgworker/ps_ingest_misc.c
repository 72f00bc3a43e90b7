/*
 * ps_ingest_misc.c - counters and files: the XLOG resource manager, running transactions, origins, logical messages.
 *
 * The checkpoint struct is kept as the server would write it if it stopped here, because a base backup's control file and
 * its only WAL record are made of it.  The rules for each field are those of xlog_redo.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "access/xlogrecord.h"
#include "port/pg_crc32c.h"
#include "replication/message.h"
#include "replication/origin.h"
#include "storage/standbydefs.h"

#include "ps_ingest.h"

/* ---- auxiliary files ---- */

/* 128-bit FNV-1a of the path. */
void
ps_aux_file_key(const char *path, neon_key *key)
{
	const unsigned __int128 prime = ((unsigned __int128) 1 << 88) + 0x13B;
	unsigned __int128 h = ((unsigned __int128) UINT64CONST(0x6C62272E07BB0142) << 64) | UINT64CONST(0x62B821756295C58D);

	for (const char *p = path; *p; p++)
		h = (h ^ (uint8) *p) * prime;
	*key = ps_key(NEON_KEY_AUX_FILE, (uint32) (h >> 96), (uint32) (h >> 64), (uint32) (h >> 32), 0, (uint32) h);
}

uint8 *
ps_aux_file_value(const char *path, const void *content, uint32 content_len, uint32 *len)
{
	uint32		path_len = strlen(path) + 1;
	uint8	   *value = palloc_extended((Size) path_len + content_len, MCXT_ALLOC_HUGE);

	memcpy(value, path, path_len);
	if (content_len > 0)
		memcpy(value + path_len, content, content_len);
	*len = path_len + content_len;
	return value;
}

/* Whoever may log in may send one, with any prefix: so none is an order, and none changes what the pageserver has. */
void
ps_ingest_logicalmsg(PsIngest *ing)
{
	xl_logical_message msg;
	uint64		room = ing->parsed.main_len;

	/* not ps_ingest_main_data(), which might copy a gigabyte */
	if (room < SizeOfLogicalMessage)
		ps_ingest_corrupt(ing, "logical message is cut short");
	memcpy(&msg, ing->parsed.main_data, SizeOfLogicalMessage);
	room -= SizeOfLogicalMessage;
	if (msg.prefix_size == 0 || msg.prefix_size > room || msg.message_size > room - msg.prefix_size)
		ps_ingest_corrupt(ing, "logical message is cut short");
}

void
ps_ingest_replorigin(PsIngest *ing)
{
	uint8		info = ing->rec->info & ~XLR_INFO_MASK;

	if (info == XLOG_REPLORIGIN_SET)
	{
		xl_replorigin_set rec;
		neon_key	key;

		memcpy(&rec, ps_ingest_main_data(ing, sizeof(rec)), sizeof(rec));
		key = ps_key(NEON_KEY_REPL_ORIGIN, 0, 0, rec.node_id, 0, 0);
		ps_ingest_put_u64(ing, &key, rec.remote_lsn);
	}
	else if (info == XLOG_REPLORIGIN_DROP)
	{
		xl_replorigin_drop rec;
		neon_key	key;

		memcpy(&rec, ps_ingest_main_data(ing, sizeof(rec)), sizeof(rec));
		key = ps_key(NEON_KEY_REPL_ORIGIN, 0, 0, rec.node_id, 0, 0);
		ps_ingest_put_u64(ing, &key, 0);
	}
	else
		ps_ingest_corrupt(ing, "unknown replication origin record");
}

void
ps_ingest_standby(PsIngest *ing)
{
	const xl_running_xacts *rec;

	if ((ing->rec->info & ~XLR_INFO_MASK) != XLOG_RUNNING_XACTS)
		return;
	rec = (const xl_running_xacts *) ps_ingest_main_data(ing, offsetof(xl_running_xacts, xids));
	/* Transaction ids that were given out and never appeared in WAL. */
	if (TransactionIdIsNormal(rec->nextXid))
	{
		TransactionId last = rec->nextXid;

		TransactionIdRetreat(last);
		ps_ingest_note_xid(ing, last);
	}
	if (ing->checkpoint.oldestActiveXid != rec->oldestRunningXid)
	{
		ing->checkpoint.oldestActiveXid = rec->oldestRunningXid;
		ing->checkpoint_dirty = true;
	}
}

/* ---- XLOG ---- */

static bool
multi_precedes(uint32 a, uint32 b)
{
	return (int32) (a - b) < 0;
}

/* An online checkpoint's counters are those of its beginning: they may only move ours forward. */
static void
merge_online(PsIngest *ing, const CheckPoint *seen)
{
	CheckPoint *ours = &ing->checkpoint;

	ours->redo = seen->redo;
	ours->time = seen->time;
	ours->fullPageWrites = seen->fullPageWrites;
	ours->oldestActiveXid = seen->oldestActiveXid;
	ours->oldestCommitTsXid = seen->oldestCommitTsXid;
	ours->newestCommitTsXid = seen->newestCommitTsXid;
	if (FullTransactionIdPrecedes(ing->next_xid, seen->nextXid))
	{
		ing->next_xid = seen->nextXid;
		ing->next_xid_dirty = true;
	}
	if (multi_precedes(ours->nextMulti, seen->nextMulti))
		ours->nextMulti = seen->nextMulti;
	if (multi_precedes(ours->nextMultiOffset, seen->nextMultiOffset))
		ours->nextMultiOffset = seen->nextMultiOffset;
	if (multi_precedes(ours->oldestMulti, seen->oldestMulti))
	{
		ours->oldestMulti = seen->oldestMulti;
		ours->oldestMultiDB = seen->oldestMultiDB;
	}
	if (TransactionIdPrecedes(ours->oldestXid, seen->oldestXid))
	{
		ours->oldestXid = seen->oldestXid;
		ours->oldestXidDB = seen->oldestXidDB;
	}
	ing->checkpoint_dirty = true;
}

/* A shutdown checkpoint's counters are exact. */
static void
take_shutdown(PsIngest *ing, const CheckPoint *seen)
{
	CheckPoint	was = ing->checkpoint;

	ing->checkpoint = *seen;
	if (multi_precedes(seen->oldestMulti, was.oldestMulti))
	{
		ing->checkpoint.oldestMulti = was.oldestMulti;
		ing->checkpoint.oldestMultiDB = was.oldestMultiDB;
	}
	if (U64FromFullTransactionId(ing->next_xid) != U64FromFullTransactionId(seen->nextXid))
	{
		ing->next_xid = seen->nextXid;
		ing->next_xid_dirty = true;
	}
	ing->checkpoint_dirty = true;
}

/* The control file's copy of settings that a standby must match. */
static void
change_parameters(PsIngest *ing)
{
	xl_parameter_change rec;
	ControlFileData control;
	neon_key	key;
	uint32		len;
	uint32		path_len = strlen(PS_CONTROL_FILE_PATH) + 1;
	uint8	   *value;

	memcpy(&rec, ps_ingest_main_data(ing, sizeof(rec)), sizeof(rec));
	ps_ingest_commit(ing);
	ps_aux_file_key(PS_CONTROL_FILE_PATH, &key);
	value = ps_get_value(ing->tl, &key, ps_timeline_last_record_lsn(ing->tl), &len, NULL);
	if (value == NULL || len != path_len + sizeof(control))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("timeline has no usable control file"),
				 errdetail("Expected %zu bytes, found %u.", path_len + sizeof(control), value ? len : 0)));
	memcpy(&control, value + path_len, sizeof(control));
	control.MaxConnections = rec.MaxConnections;
	control.max_worker_processes = rec.max_worker_processes;
	control.max_wal_senders = rec.max_wal_senders;
	control.max_prepared_xacts = rec.max_prepared_xacts;
	control.max_locks_per_xact = rec.max_locks_per_xact;
	control.wal_level = rec.wal_level;
	control.wal_log_hints = rec.wal_log_hints;
	control.track_commit_timestamp = rec.track_commit_timestamp;
	INIT_CRC32C(control.crc);
	COMP_CRC32C(control.crc, &control, offsetof(ControlFileData, crc));
	FIN_CRC32C(control.crc);
	memcpy(value + path_len, &control, sizeof(control));
	ps_ingest_put_image(ing, &key, value, len);
	pfree(value);
}

void
ps_ingest_xlog(PsIngest *ing)
{
	CheckPoint	seen;

	switch (ing->rec->info & ~XLR_INFO_MASK)
	{
		case XLOG_CHECKPOINT_SHUTDOWN:
			memcpy(&seen, ps_ingest_main_data(ing, sizeof(seen)), sizeof(seen));
			take_shutdown(ing, &seen);
			break;
		case XLOG_CHECKPOINT_ONLINE:
			memcpy(&seen, ps_ingest_main_data(ing, sizeof(seen)), sizeof(seen));
			merge_online(ing, &seen);
			break;
		case XLOG_NEXTOID:
			memcpy(&ing->checkpoint.nextOid, ps_ingest_main_data(ing, sizeof(Oid)), sizeof(Oid));
			ing->checkpoint_dirty = true;
			break;
		case XLOG_FPW_CHANGE:
			memcpy(&ing->checkpoint.fullPageWrites, ps_ingest_main_data(ing, sizeof(bool)), sizeof(bool));
			ing->checkpoint_dirty = true;
			break;
		case XLOG_PARAMETER_CHANGE:
			change_parameters(ing);
			break;
		case XLOG_FPI:
		case XLOG_FPI_FOR_HINT:
			ps_ingest_blocks(ing);
			break;
		case XLOG_NOOP:
		case XLOG_SWITCH:
		case XLOG_BACKUP_END:
		case XLOG_RESTORE_POINT:
		case XLOG_END_OF_RECOVERY:
		case XLOG_OVERWRITE_CONTRECORD:
			break;
		default:
			ps_ingest_corrupt(ing, "unknown XLOG record");
	}
}
