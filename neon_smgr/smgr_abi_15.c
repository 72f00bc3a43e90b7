/*
 * smgr_abi_15.c - the storage manager of PostgreSQL 15 in terms of pagestore.h.  The only file that a new major version, or a
 * server with a real hook, needs again.
 *
 * Who stores what: temporary relations and all forks but the init fork of unlogged relations are md.c's, in local files;
 * everything else is the page store's.
 *
 * Persistence.  The storage manager is not told it.  In this order: the relation table; for a new relation, what
 * RelationCreateStorage was called with (wrapped); the relation cache entry that owns the SMgrRelation; whether there is an
 * init fork.
 *
 * Unlogged relations after a start from nothing have no local file: the main fork is made from the init fork at first access,
 * since there is no recovery that would do it.  It is made under another name and linked, so that it appears complete and
 * once.  FSM and visibility map are made when needed, as ever.
 *
 * Detours: RelationCreateStorage (wrapped, see above), GetNewRelFileNode (it looks for files; ours asks the storage manager),
 * mdimmedsync (the compiler calls it directly instead of through the table; see neon_pgpatch_server.c).  And two wrapped
 * because an error on their way stops the server: RelationTruncate has a critical section, and smgrdounlinkall is called
 * when a transaction has committed or is being aborted, and asks whether what it drops exists.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_tablespace_d.h"
#include "catalog/storage.h"
#include "commands/tablespace.h"
#include "common/relpath.h"
#include "miscadmin.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/fd.h"
#include "storage/md.h"
#include "storage/smgr.h"
#include "utils/rel.h"

#include "neon_smgr.h"
#include "pagestore.h"

StaticAssertDecl(MAX_FORKNUM + 1 == NEON_FORKS && MAIN_FORKNUM == NEON_FORK_MAIN && FSM_FORKNUM == NEON_FORK_FSM &&
				 VISIBILITYMAP_FORKNUM == NEON_FORK_VM && INIT_FORKNUM == NEON_FORK_INIT, "fork numbers differ");
StaticAssertDecl(BLCKSZ == NEON_BLCKSZ, "page sizes differ");

static NeonRel
rel_of(RelFileNode node)
{
	NeonRel		rel = {.spc = node.spcNode,.db = node.dbNode,.rel = node.relNode};

	return rel;
}

/* ---- persistence ---- */

/* Set while RelationCreateStorage runs in this process. */
static RelFileNode creating_node;
static NeonPersistence creating_persistence = NEON_PERSISTENCE_UNKNOWN;

static SMgrRelation (*original_create_storage) (RelFileNode rnode, char relpersistence, bool register_delete);

static SMgrRelation
neon_RelationCreateStorage(RelFileNode rnode, char relpersistence, bool register_delete)
{
	SMgrRelation reln;

	creating_node = rnode;
	creating_persistence = relpersistence == RELPERSISTENCE_UNLOGGED ? NEON_PERSISTENCE_UNLOGGED : NEON_PERSISTENCE_PERMANENT;

	/* Pages that are written before they are logged are kept until this transaction is over, so it needs a name. */
	if (relpersistence == RELPERSISTENCE_PERMANENT && IsTransactionState())
		(void) GetTopTransactionId();
	reln = original_create_storage(rnode, relpersistence, register_delete);
	creating_persistence = NEON_PERSISTENCE_UNKNOWN;
	return reln;
}

static bool
local_file_exists(RelFileNode node, ForkNumber forknum)
{
	char	   *path = relpathbackend(node, InvalidBackendId, forknum);
	bool		exists = access(path, F_OK) == 0;

	pfree(path);
	return exists;
}

/* ---- what must not fail ---- */

static void (*original_truncate) (Relation rel, BlockNumber nblocks);
static void (*original_unlink_all) (SMgrRelation *rels, int nrels, bool isRedo);
static bool unlinking;			/* smgrdounlinkall runs in this process */

static void
neon_RelationTruncate(Relation relation, BlockNumber nblocks)
{
	NeonRel		rel = rel_of(relation->rd_node);

	if (relation->rd_rel->relpersistence == RELPERSISTENCE_PERMANENT)
		pagestore_reserve(&rel);
	original_truncate(relation, nblocks);
}

static void
neon_smgrdounlinkall(SMgrRelation *rels, int nrels, bool isRedo)
{
	unlinking = true;
	PG_TRY();
	{
		original_unlink_all(rels, nrels, isRedo);
	}
	PG_FINALLY();
	{
		unlinking = false;
	}
	PG_END_TRY();
}

/* Persistence of a relation that exists (or is about to). */
static NeonPersistence
persistence_of(SMgrRelation reln)
{
	NeonRel		rel = rel_of(reln->smgr_rnode.node);
	NeonPersistence p = pagestore_known_persistence(&rel);

	if (p != NEON_PERSISTENCE_UNKNOWN)
		return p;
	if (reln->smgr_owner != NULL)
	{
		/* Only relation cache entries own storage manager relations: smgrsetowner's callers are RelationGetSmgr. */
		Relation	owner = (Relation) ((char *) reln->smgr_owner - offsetof(RelationData, rd_smgr));

		p = owner->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED ? NEON_PERSISTENCE_UNLOGGED : NEON_PERSISTENCE_PERMANENT;
	}
	else if (local_file_exists(reln->smgr_rnode.node, MAIN_FORKNUM) || pagestore_exists(&rel, NEON_FORK_INIT))
		p = NEON_PERSISTENCE_UNLOGGED;
	else
		p = NEON_PERSISTENCE_PERMANENT;
	pagestore_set_persistence(&rel, p);
	return p;
}

static void
write_init_copy(const NeonRel *rel, BlockNumber nblocks, const char *path)
{
	PGAlignedBlock page;
	int			fd = OpenTransientFile(path, O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);

	if (fd < 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not create file \"%s\": %m", path)));
	for (BlockNumber b = 0; b < nblocks; b++)
	{
		pagestore_read(rel, NEON_FORK_INIT, b, page.data);
		errno = 0;
		if (write(fd, page.data, BLCKSZ) != BLCKSZ)
		{
			if (errno == 0)
				errno = ENOSPC;
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not write file \"%s\": %m", path)));
		}
	}
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not close file \"%s\": %m", path)));
}

/* Give an unlogged relation its main fork, if this compute has none yet. */
static void
ensure_unlogged_main(SMgrRelation reln)
{
	RelFileNode node = reln->smgr_rnode.node;
	NeonRel		rel = rel_of(node);
	char	   *path;
	char		temporary[MAXPGPATH];

	if (reln->md_num_open_segs[MAIN_FORKNUM] > 0 || local_file_exists(node, MAIN_FORKNUM))
		return;
	if (!pagestore_exists(&rel, NEON_FORK_INIT))
		return;					/* dropped, or never was: md.c reports it */

	path = relpathbackend(node, InvalidBackendId, MAIN_FORKNUM);
	TablespaceCreateDbspace(node.spcNode, node.dbNode, false);
	snprintf(temporary, sizeof(temporary), "%s/init_%u_%d", NEON_LOCAL_DIR, node.relNode, MyProcPid);
	write_init_copy(&rel, pagestore_nblocks(&rel, NEON_FORK_INIT), temporary);
	if (link(temporary, path) < 0 && errno != EEXIST)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not create file \"%s\": %m", path)));
	unlink(temporary);
	pfree(path);
}

/* Is this fork md.c's?  Makes sure that it is there if it is. */
static bool
is_local(SMgrRelation reln, ForkNumber forknum)
{
	if (SmgrIsTemp(reln))
		return true;
	if (forknum == INIT_FORKNUM || persistence_of(reln) != NEON_PERSISTENCE_UNLOGGED)
		return false;
	if (forknum == MAIN_FORKNUM)
		ensure_unlogged_main(reln);
	return true;
}

/* ---- the table's functions ---- */

static void
neon_create(SMgrRelation reln, ForkNumber forknum, bool isRedo)
{
	NeonRel		rel = rel_of(reln->smgr_rnode.node);
	NeonPersistence persistence = NEON_PERSISTENCE_PERMANENT;

	if (SmgrIsTemp(reln))
	{
		mdcreate(reln, forknum, isRedo);
		return;
	}
	if (forknum != MAIN_FORKNUM)
	{
		if (is_local(reln, forknum))
		{
			mdcreate(reln, forknum, isRedo);
			return;
		}
	}
	else if (creating_persistence != NEON_PERSISTENCE_UNKNOWN && RelFileNodeEquals(creating_node, reln->smgr_rnode.node))
		persistence = creating_persistence;

	if (isRedo && pagestore_exists(&rel, forknum))
		return;
	TablespaceCreateDbspace(rel.spc, rel.db, isRedo);
	pagestore_create(&rel, forknum, persistence);
	if (forknum == MAIN_FORKNUM && persistence == NEON_PERSISTENCE_UNLOGGED)
		mdcreate(reln, forknum, isRedo);
}

static bool
neon_exists(SMgrRelation reln, ForkNumber forknum)
{
	NeonRel		rel = rel_of(reln->smgr_rnode.node);

	if (SmgrIsTemp(reln))
		return mdexists(reln, forknum);
	/* Whether there are buffers to drop is all that smgrdounlinkall wants to know, and "yes" makes it look. */
	if (unlinking)
		return true;
	if (forknum == INIT_FORKNUM)
		return pagestore_exists(&rel, NEON_FORK_INIT);
	if (pagestore_known_persistence(&rel) == NEON_PERSISTENCE_UNKNOWN && reln->smgr_owner == NULL)
	{
		/* A name that nobody may have: do not conclude "permanent" from the absence of an init fork. */
		if (!pagestore_exists(&rel, NEON_FORK_MAIN) && !local_file_exists(reln->smgr_rnode.node, MAIN_FORKNUM) &&
			!pagestore_exists(&rel, NEON_FORK_INIT))
			return false;
	}
	if (is_local(reln, forknum))
		return mdexists(reln, forknum);
	return pagestore_exists(&rel, forknum);
}

static void
neon_unlink(RelFileNodeBackend rnode, ForkNumber forknum, bool isRedo)
{
	NeonRel		rel = rel_of(rnode.node);

	if (RelFileNodeBackendIsTemp(rnode))
	{
		mdunlink(rnode, forknum, isRedo);
		return;
	}

	/* Forks are unlinked together (smgrdounlinkall), the main fork first. */
	if (forknum == MAIN_FORKNUM || forknum == InvalidForkNumber)
	{
		for (ForkNumber f = MAIN_FORKNUM; f <= VISIBILITYMAP_FORKNUM; f++)
			if (local_file_exists(rnode.node, f))
				mdunlink(rnode, f, isRedo);
		pagestore_drop(&rel);
	}
}

static void
neon_extend(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer, bool skipFsync)
{
	NeonRel		rel = rel_of(reln->smgr_rnode.node);

	if (is_local(reln, forknum))
		mdextend(reln, forknum, blocknum, buffer, skipFsync);
	else
		pagestore_extend(&rel, forknum, blocknum, buffer);
}

static bool
neon_prefetch(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum)
{
	NeonRel		rel = rel_of(reln->smgr_rnode.node);

	if (is_local(reln, forknum))
		return mdprefetch(reln, forknum, blocknum);
	pagestore_prefetch(&rel, forknum, blocknum);
	return true;
}

static void
neon_read(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer)
{
	NeonRel		rel = rel_of(reln->smgr_rnode.node);

	if (is_local(reln, forknum))
		mdread(reln, forknum, blocknum, buffer);
	else
		pagestore_read(&rel, forknum, blocknum, buffer);
}

/*
 * Whoever needs a buffer, and the checkpointer, write pages of relations they know nothing of and must not ask the network
 * about: the buffer itself says whether its relation is permanent.  That is remembered if there is room, and returned.
 */
static NeonPersistence
learn_persistence_from_buffer(const NeonRel *rel, const char *page)
{
	NeonPersistence p;
	uint32		state;

	if (page < BufferBlocks || page >= BufferBlocks + (Size) NBuffers * BLCKSZ)
		return NEON_PERSISTENCE_UNKNOWN;	/* a private page: an index build, which owns the relation */
	p = pagestore_known_persistence(rel);
	if (p != NEON_PERSISTENCE_UNKNOWN)
		return p;
	state = pg_atomic_read_u32(&GetBufferDescriptor((page - BufferBlocks) / BLCKSZ)->state);
	p = (state & BM_PERMANENT) ? NEON_PERSISTENCE_PERMANENT : NEON_PERSISTENCE_UNLOGGED;
	pagestore_set_persistence(rel, p);
	return p;
}

static void
neon_write(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer, bool skipFsync)
{
	NeonRel		rel = rel_of(reln->smgr_rnode.node);
	NeonPersistence p = NEON_PERSISTENCE_UNKNOWN;

	if (!SmgrIsTemp(reln) && forknum != INIT_FORKNUM)
		p = learn_persistence_from_buffer(&rel, buffer);
	if (p != NEON_PERSISTENCE_PERMANENT && is_local(reln, forknum))
		mdwrite(reln, forknum, blocknum, buffer, skipFsync);
	else
		pagestore_write(&rel, forknum, blocknum, buffer);
}

int
smgr_abi_buffer_pins(const char *page)
{
	if (page < BufferBlocks || page >= BufferBlocks + (Size) NBuffers * BLCKSZ)
		return 0;
	return BUF_STATE_GET_REFCOUNT(pg_atomic_read_u32(&GetBufferDescriptor((page - BufferBlocks) / BLCKSZ)->state));
}

bool
smgr_abi_block_in_buffers(const NeonRel *rel, int fork, uint32 block)
{
	BufferTag	tag;
	RelFileNode node = {.spcNode = rel->spc,.dbNode = rel->db,.relNode = rel->rel};
	uint32		hash;
	int			buffer;

	INIT_BUFFERTAG(tag, node, fork, block);
	hash = BufTableHashCode(&tag);
	LWLockAcquire(BufMappingPartitionLock(hash), LW_SHARED);
	buffer = BufTableLookup(&tag, hash);
	LWLockRelease(BufMappingPartitionLock(hash));
	return buffer >= 0;
}

/* Nothing to start early: the page cache needs no durability, md.c's files are not worth it. */
static void
neon_writeback(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, BlockNumber nblocks)
{
	if (SmgrIsTemp(reln))
		mdwriteback(reln, forknum, blocknum, nblocks);
}

static BlockNumber
neon_nblocks(SMgrRelation reln, ForkNumber forknum)
{
	NeonRel		rel = rel_of(reln->smgr_rnode.node);

	if (is_local(reln, forknum))
		return mdnblocks(reln, forknum);
	return pagestore_nblocks(&rel, forknum);
}

/* In a critical section: the persistence is known, or the relation cache entry that is being truncated tells it. */
static void
neon_truncate(SMgrRelation reln, ForkNumber forknum, BlockNumber old_blocks, BlockNumber nblocks)
{
	NeonRel		rel = rel_of(reln->smgr_rnode.node);

	if (is_local(reln, forknum))
		mdtruncate(reln, forknum, old_blocks, nblocks);
	else
		pagestore_truncate(&rel, forknum, old_blocks, nblocks);
}

/* Computes do not make files durable: permanent pages are the quorum's, the others do not outlive the instance. */
static void
neon_immedsync(SMgrRelation reln, ForkNumber forknum)
{
}

static const neon_f_smgr neon_smgr_table = {
	.smgr_init = mdinit,
	.smgr_shutdown = NULL,
	.smgr_open = mdopen,
	.smgr_close = mdclose,
	.smgr_create = neon_create,
	.smgr_exists = neon_exists,
	.smgr_unlink = neon_unlink,
	.smgr_extend = neon_extend,
	.smgr_prefetch = neon_prefetch,
	.smgr_read = neon_read,
	.smgr_write = neon_write,
	.smgr_writeback = neon_writeback,
	.smgr_nblocks = neon_nblocks,
	.smgr_truncate = neon_truncate,
	.smgr_immedsync = neon_immedsync,
};

/*
 * As catalog.c's, but whether a number is taken is asked of the storage manager: there may be no file, and after OID
 * wraparound a live relation would be overwritten.  Relations dropped by transactions that have not committed yet still
 * exist, as they should.
 */
static Oid
neon_GetNewRelFileNode(Oid reltablespace, Relation pg_class, char relpersistence)
{
	RelFileNode node;
	BackendId	backend = InvalidBackendId;

	switch (relpersistence)
	{
		case RELPERSISTENCE_TEMP:
			backend = BackendIdForTempRelations();
			break;
		case RELPERSISTENCE_UNLOGGED:
		case RELPERSISTENCE_PERMANENT:
			break;
		default:
			elog(ERROR, "invalid relpersistence: %c", relpersistence);
	}
	node.spcNode = reltablespace ? reltablespace : MyDatabaseTableSpace;
	node.dbNode = node.spcNode == GLOBALTABLESPACE_OID ? InvalidOid : MyDatabaseId;
	do
	{
		CHECK_FOR_INTERRUPTS();
		node.relNode = pg_class ? GetNewOidWithIndex(pg_class, ClassOidIndexId, Anum_pg_class_oid) : GetNewObjectId();
	} while (smgrexists(smgropen(node, backend), MAIN_FORKNUM));
	return node.relNode;
}

bool
smgr_abi_install(const neon_pgpatch_image *image, neon_pgpatch_report *report)
{
	return neon_pgpatch_check_smgr(image, report) &&
		neon_pgpatch_wrap(image, "RelationCreateStorage", (void *) RelationCreateStorage,
						  (void *) neon_RelationCreateStorage, (void **) &original_create_storage, report) &&
		neon_pgpatch_wrap(image, "RelationTruncate", (void *) RelationTruncate,
						  (void *) neon_RelationTruncate, (void **) &original_truncate, report) &&
		neon_pgpatch_wrap(image, "smgrdounlinkall", (void *) smgrdounlinkall,
						  (void *) neon_smgrdounlinkall, (void **) &original_unlink_all, report) &&
		neon_pgpatch_detour(image, "GetNewRelFileNode", (void *) GetNewRelFileNode,
							(void *) neon_GetNewRelFileNode, report) &&
		neon_pgpatch_replace_smgr(image, &neon_smgr_table, report);
}
