/*
 * neon_redo_apply.c - run the server's own redo routines on one page.
 *
 * The process pretends to be in recovery.  A record may name many pages; only the target is real.  A redo routine skips the
 * others because their LSN is above the record's, except those it initialises or restores from an image: these become ordinary
 * dirty buffers in the pool with an ordinary LSN, and a later record of the chain would then find them and fail on
 * their content.  So after every record each dirty buffer other than the target gets the dummy's LSN again.
 *
 * Invariant between requests: the buffer pool is empty.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_redo.h"

#include "access/rmgr.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/proc.h"
#include "storage/smgr.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/* Forget open relations after so many requests: each is an entry of a hash table. */
#define REQUESTS_PER_SMGR_RESET		1000

static MemoryContext record_context;
static XLogReaderState *reader;
static DecodedXLogRecord *decoded;
static size_t decoded_bytes;
static int	requests_since_reset;

/* Called in shmem_startup_hook: shared memory is complete, but nobody has a PGPROC yet. */
void
neon_redo_apply_init(void)
{
	InitProcess();
	BaseInit();
	SetProcessingMode(NormalProcessing);
	InRecovery = true;
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "redo");
	record_context = AllocSetContextCreate(TopMemoryContext, "redo record", ALLOCSET_DEFAULT_SIZES);

	for (int rmid = 0; rmid <= RM_MAX_ID; rmid++)
		if (RmgrIdExists(rmid) && RmgrTable[rmid].rm_startup != NULL)
			RmgrTable[rmid].rm_startup();

	reader = XLogReaderAllocate(wal_segment_size, NULL, XL_ROUTINE(.page_read = NULL), NULL);
	if (reader == NULL)
		ereport(FATAL,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
}

static bool
is_target_tag(const BufferTag *tag)
{
	return tag->blockNum == neon_redo_target.blk && tag->forkNum == neon_redo_target.fork &&
		RelFileNodeEquals(tag->rnode, neon_redo_target.rnode);
}

/* See the file's head. */
static void
neutralise_others(void)
{
	for (int i = 0; i < NBuffers; i++)
	{
		BufferDesc *desc = GetBufferDescriptor(i);
		uint32		state = pg_atomic_read_u32(&desc->state);
		Page		page = BufferGetPage(BufferDescriptorGetBuffer(desc));

		if ((state & (BM_TAG_VALID | BM_DIRTY)) != (BM_TAG_VALID | BM_DIRTY) || is_target_tag(&desc->tag))
			continue;
		if (PageIsNew(page))
			neon_redo_make_dummy(page);
		else
			PageSetLSN(page, PageGetLSN(neon_redo_dummy_page()));
	}
}

static void
empty_pool(void)
{
	for (int i = 0; i < NBuffers; i++)
	{
		BufferDesc *desc = GetBufferDescriptor(i);

		if (pg_atomic_read_u32(&desc->state) & BM_TAG_VALID)
			DropDatabaseBuffers(desc->tag.rnode.dbNode);
	}
}

void
neon_redo_begin(const RelFileNode *rnode, ForkNumber fork, BlockNumber blk, const char *base)
{
	neon_redo_target.rnode = *rnode;
	neon_redo_target.fork = fork;
	neon_redo_target.blk = blk;
	if (base != NULL)
		memcpy(neon_redo_target.page.data, base, BLCKSZ);
	else
		memset(neon_redo_target.page.data, 0, BLCKSZ);

	if (++requests_since_reset >= REQUESTS_PER_SMGR_RESET)
	{
		smgrcloseall();
		requests_since_reset = 0;
	}
}

static void
decode(XLogRecPtr end_lsn, const XLogRecord *record)
{
	size_t		need = DecodeXLogRecordRequiredSpace(record->xl_tot_len);
	char	   *error = NULL;

	if (need > decoded_bytes)
	{
		if (decoded != NULL)
			pfree(decoded);
		decoded = MemoryContextAllocHuge(TopMemoryContext, need);
		decoded_bytes = need;
	}
	if (!DecodeXLogRecord(reader, decoded, unconstify(XLogRecord *, record), end_lsn - record->xl_tot_len, &error))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not decode WAL record: %s", error)));
	decoded->next_lsn = end_lsn;
	reader->record = decoded;
	reader->ReadRecPtr = decoded->lsn;
	reader->EndRecPtr = end_lsn;
}

void
neon_redo_apply(XLogRecPtr end_lsn, const char *bytes, uint32 len)
{
	const XLogRecord *record = (const XLogRecord *) bytes;
	MemoryContext old;

	if (len < SizeOfXLogRecord || record->xl_tot_len != len)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("WAL record has length %u, expected %u", record->xl_tot_len, len)));
	if (!RmgrIdExists(record->xl_rmid))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("no resource manager with ID %u", record->xl_rmid)));

	old = MemoryContextSwitchTo(record_context);
	decode(end_lsn, record);
	RmgrTable[record->xl_rmid].rm_redo(reader);
	neutralise_others();
	MemoryContextSwitchTo(old);
	MemoryContextReset(record_context);
}

void
neon_redo_finish(char *page)
{
	Buffer		buffer = ReadBufferWithoutRelcache(neon_redo_target.rnode, neon_redo_target.fork, neon_redo_target.blk,
												   RBM_NORMAL, NULL, true);

	memcpy(page, BufferGetPage(buffer), BLCKSZ);
	ReleaseBuffer(buffer);
	if (XLogHaveInvalidPages())
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("WAL record expects a page that is not initialised")));
	empty_pool();
}
