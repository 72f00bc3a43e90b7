/*
 * ps_redo_check_slru.c - redo self-check, logs of transactions: the files of a stopped server are the truth.
 *
 * A page's base is read from the files as they were when the checked WAL began (zeros where there is none); all records are
 * applied; at the end the pages that changed must equal the files of the server, which was stopped in the meantime.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo_check.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/clog.h"
#include "access/multixact.h"
#include "access/slru.h"
#include "access/xact.h"
#include "storage/fd.h"
#include "utils/memutils.h"

typedef struct CheckSlruPage
{
	neon_key	key;			/* hash key: first */
	uint8		rmid;
	XLogRecPtr	lsn;
	PGAlignedBlock page;
} CheckSlruPage;

static const char *const slru_directories[] = {"pg_xact", "pg_multixact/offsets", "pg_multixact/members"};

void
ps_check_slrus_init(CheckState *state)
{
	HASHCTL		ctl = {.keysize = sizeof(neon_key), .entrysize = sizeof(CheckSlruPage), .hcxt = CurrentMemoryContext};

	state->slrus = hash_create("redo check logs", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Zeros where the file or the page does not exist. */
static void
read_page(const char *directory, const neon_key *key, char page[BLCKSZ])
{
	char		path[MAXPGPATH];
	int			fd;

	snprintf(path, sizeof(path), "%s/%s/%04X", directory, slru_directories[key->spc], key->rel);
	memset(page, 0, BLCKSZ);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
	{
		if (errno == ENOENT)
			return;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	}
	if (pg_pread(fd, page, BLCKSZ, (off_t) key->blk * BLCKSZ) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	CloseTransientFile(fd);
}

static void
visit(CheckState *state, const neon_wal_record *rec, neon_slru_kind kind, uint32 pageno)
{
	neon_key	key = {
		.kind = NEON_KEY_SLRU_BLOCK,
		.spc = kind,
		.rel = pageno / SLRU_PAGES_PER_SEGMENT,
		.blk = pageno % SLRU_PAGES_PER_SEGMENT
	};
	bool		found;
	CheckSlruPage *p = hash_search(state->slrus, &key, HASH_ENTER, &found);
	const char *reason;

	if (!found)
		read_page(state->slru_before, &key, p->page.data);
	else if (p->lsn == rec->end)
		return;					/* this record has been applied to the whole page */
	p->lsn = rec->end;
	p->rmid = rec->rmid;
	state->counters[rec->rmid].native++;
	if (ps_redo_native(&key, rec->end, rec->bytes, rec->len, p->page.data, &reason) != PS_REDO_DONE)
		ps_check_mismatch(state, rec->rmid, &key, rec->end, reason);
}

static void
visit_xids(CheckState *state, const neon_wal_record *rec, const neon_wal_parsed *parsed)
{
	const uint32 per_page = BLCKSZ * 4;
	xl_xact_parsed_commit c;
	xl_xact_parsed_abort a;
	TransactionId xid;
	int			nsub;
	TransactionId *sub;
	char	   *copy = palloc(parsed->main_len);	/* the server's parser wants it aligned */
	uint8		op = rec->info & XLOG_XACT_OPMASK;

	memcpy(copy, parsed->main_data, parsed->main_len);
	if (op == XLOG_XACT_COMMIT || op == XLOG_XACT_COMMIT_PREPARED)
	{
		ParseCommitRecord(rec->info, (xl_xact_commit *) copy, &c);
		xid = op == XLOG_XACT_COMMIT ? rec->xid : c.twophase_xid;
		nsub = c.nsubxacts;
		sub = c.subxacts;
	}
	else
	{
		ParseAbortRecord(rec->info, (xl_xact_abort *) copy, &a);
		xid = op == XLOG_XACT_ABORT ? rec->xid : a.twophase_xid;
		nsub = a.nsubxacts;
		sub = a.subxacts;
	}
	visit(state, rec, NEON_SLRU_XACT, xid / per_page);
	for (int i = 0; i < nsub; i++)
		visit(state, rec, NEON_SLRU_XACT, sub[i] / per_page);
	pfree(copy);
}

static void
visit_multixact(CheckState *state, const neon_wal_record *rec, const neon_wal_parsed *parsed)
{
	const uint32 offsets_per_page = BLCKSZ / sizeof(MultiXactOffset);
	const uint32 members_per_page = BLCKSZ / 20 * 4;
	xl_multixact_create create;

	memcpy(&create, parsed->main_data, SizeOfMultiXactCreate);
	visit(state, rec, NEON_SLRU_MULTIXACT_OFFSETS, create.mid / offsets_per_page);
	visit(state, rec, NEON_SLRU_MULTIXACT_OFFSETS, (create.mid + 1) / offsets_per_page);
	for (int i = 0; i < create.nmembers; i++)
		visit(state, rec, NEON_SLRU_MULTIXACT_MEMBERS, (create.moff + i) / members_per_page);
}

void
ps_check_slrus_record(CheckState *state, const neon_wal_record *rec, const neon_wal_parsed *parsed)
{
	uint8		info = rec->info & ~XLR_INFO_MASK;
	int			pageno;

	if (rec->rmid == RM_XACT_ID)
	{
		uint8		op = rec->info & XLOG_XACT_OPMASK;

		if (op == XLOG_XACT_COMMIT || op == XLOG_XACT_COMMIT_PREPARED ||
			op == XLOG_XACT_ABORT || op == XLOG_XACT_ABORT_PREPARED)
			visit_xids(state, rec, parsed);
	}
	else if (rec->rmid == RM_CLOG_ID && info == CLOG_ZEROPAGE)
	{
		memcpy(&pageno, parsed->main_data, sizeof(pageno));
		visit(state, rec, NEON_SLRU_XACT, pageno);
	}
	else if (rec->rmid == RM_MULTIXACT_ID && info == XLOG_MULTIXACT_CREATE_ID)
		visit_multixact(state, rec, parsed);
	else if (rec->rmid == RM_MULTIXACT_ID && info != XLOG_MULTIXACT_TRUNCATE_ID)
	{
		memcpy(&pageno, parsed->main_data, sizeof(pageno));
		visit(state, rec, info == XLOG_MULTIXACT_ZERO_OFF_PAGE ? NEON_SLRU_MULTIXACT_OFFSETS :
			  NEON_SLRU_MULTIXACT_MEMBERS, pageno);
	}
}

void
ps_check_slrus_finish(CheckState *state)
{
	HASH_SEQ_STATUS seq;
	CheckSlruPage *p;

	hash_seq_init(&seq, state->slrus);
	while ((p = hash_seq_search(&seq)) != NULL)
	{
		PGAlignedBlock file;

		read_page(state->slru_after, &p->key, file.data);
		state->counters[p->rmid].compared++;
		if (memcmp(file.data, p->page.data, BLCKSZ) != 0)
			ps_check_mismatch(state, p->rmid, &p->key, p->lsn, "page differs from the server's file");
	}
}
