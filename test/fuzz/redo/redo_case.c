/*
 * redo_case.c - a page, a key and a record from a few bytes of input, well formed enough to get past the first checks.
 *
 * Random bytes alone never parse as a record.  So the record's frame is always valid (lengths, block headers); resource manager,
 * info, data and main data come from the input.  The page is zero, random, or a sound page with items of random content, which
 * gets a few bytes overwritten.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ps_redo.h"

#include "access/rmgr.h"

#include "redo_case.h"

#define MAX_BLOCKS	3

typedef struct Input
{
	const uint8 *data;
	size_t		left;
} Input;

/* Input that has ended gives zeros. */
static uint32
take(Input *in, int bytes)
{
	uint32		v = 0;

	for (int i = 0; i < bytes; i++)
	{
		v <<= 8;
		if (in->left > 0)
		{
			v |= *in->data++;
			in->left--;
		}
	}
	return v;
}

static void
take_bytes(Input *in, uint8 *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = (uint8) take(in, 1);
}

static void
make_page(Input *in, char *page)
{
	uint32		mode = take(in, 1) % 4;
	uint32		nitems;
	uint32		npokes;

	memset(page, 0, BLCKSZ);
	if (mode == 0)
		return;
	if (mode == 1)
	{
		uint8		pattern[64];

		take_bytes(in, pattern, sizeof(pattern));
		for (int i = 0; i < BLCKSZ; i++)
			page[i] = (char) pattern[i % sizeof(pattern)];
		return;
	}

	ps_page_init(page, mode == 2 ? 0 : 16);
	nitems = take(in, 1) % 40;
	for (uint32 i = 0; i < nitems; i++)
	{
		char		item[BLCKSZ] = {0};
		uint32		len = 24 + take(in, 1);

		((HeapTupleHeader) item)->t_hoff = SizeofHeapTupleHeader + take(in, 1) % 32;
		take_bytes(in, (uint8 *) item, take(in, 1) % 16);
		ps_page_add_index_item(page, item, len, i + 1);
		((PageHeader) page)->pd_linp[i].lp_flags = take(in, 1) % 5 == 0 ? take(in, 1) % 4 : LP_NORMAL;
	}
	npokes = take(in, 1) % 8;
	for (uint32 i = 0; i < npokes; i++)
		page[take(in, 2) % (i % 2 ? BLCKSZ : 256)] = (char) take(in, 1);
}

static void
put(uint8 **p, const void *bytes, size_t n)
{
	memcpy(*p, bytes, n);
	*p += n;
}

/* The frame of a record round data of the input; returns its length. */
static uint32
make_record(Input *in, uint8 *record, const neon_key *key, uint8 rmid)
{
	uint8	   *p = record + SizeOfXLogRecord;
	uint32		nblocks = take(in, 1) % (MAX_BLOCKS + 1);
	uint16		data_len[MAX_BLOCKS];
	uint32		main_len = take(in, 1);
	uint8		id;
	XLogRecord	header = {0};

	for (uint32 i = 0; i < nblocks; i++)
	{
		uint8		flags = take(in, 1);
		uint8		fork = flags & 0x01 ? key->fork : MAIN_FORKNUM;
		uint32		rnode[3] = {key->spc, key->db, key->rel};
		uint32		blk = flags & 0x02 ? key->blk : take(in, 4);

		data_len[i] = take(in, 1) * (flags & 0x04 ? 16 : 1);
		flags = fork | (data_len[i] > 0 ? BKPBLOCK_HAS_DATA : 0) | (flags & 0x08 ? BKPBLOCK_WILL_INIT : 0);
		id = (uint8) i;
		put(&p, &id, 1);
		put(&p, &flags, 1);
		put(&p, &data_len[i], 2);
		put(&p, rnode, sizeof(rnode));
		put(&p, &blk, 4);
	}
	id = XLR_BLOCK_ID_DATA_LONG;
	put(&p, &id, 1);
	put(&p, &main_len, 4);
	for (uint32 i = 0; i < nblocks; i++)
	{
		take_bytes(in, p, data_len[i]);
		p += data_len[i];
	}
	take_bytes(in, p, main_len);
	p += main_len;

	header.xl_tot_len = p - record;
	header.xl_xid = take(in, 4);
	header.xl_info = take(in, 1);
	header.xl_rmid = rmid;
	memcpy(record, &header, SizeOfXLogRecord);
	return header.xl_tot_len;
}

static neon_key
make_key(Input *in, uint8 *rmid)
{
	static const uint8 rmids[] = {RM_HEAP_ID, RM_HEAP2_ID, RM_BTREE_ID, RM_SEQ_ID, RM_SMGR_ID, RM_XACT_ID, RM_CLOG_ID,
	RM_MULTIXACT_ID, RM_XLOG_ID};
	uint32		kind = take(in, 1);
	neon_key	key = {.spc = 1663, .db = 5, .rel = 16384, .kind = NEON_KEY_REL_BLOCK};

	*rmid = rmids[take(in, 1) % lengthof(rmids)];
	key.blk = take(in, 1);
	if (kind % 8 == 0)
		key.fork = VISIBILITYMAP_FORKNUM;
	else if (kind % 8 == 1)
		key.fork = FSM_FORKNUM;
	else if (kind % 8 == 2)
	{
		key.kind = NEON_KEY_SLRU_BLOCK;
		key.spc = take(in, 1) % 4;
		key.db = 0;
		key.rel = take(in, 1);
		key.blk %= 32;
	}
	return key;
}

int
redo_case(const uint8_t *data, size_t size)
{
	static uint8 scratch[64 * 1024];
	Input		in = {data, size};
	uint8		rmid;
	neon_key	key = make_key(&in, &rmid);
	char	   *page = aligned_alloc(MAXIMUM_ALIGNOF, BLCKSZ);
	uint8	   *record;
	uint32		len;
	const char *reason;
	PsRedoStatus status;

	make_page(&in, page);
	len = make_record(&in, scratch, &key, rmid);
	/* At an odd place: nothing may rely on the record's alignment. */
	record = malloc(len + 1);
	memcpy(record + 1, scratch, len);

	status = ps_redo_native(&key, 1000, record + 1, len, page, &reason);
	if (status == PS_REDO_CORRUPT && reason == NULL)
		abort();
	free(record);
	free(page);
	return status;
}
