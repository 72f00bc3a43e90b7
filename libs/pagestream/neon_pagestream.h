/*
 * neon_pagestream.h - wire codec of the page stream: requests and responses inside CopyData.
 *
 * Every request carries an id and both LSNs; every response echoes the whole request, and a client compares
 * the echo byte for byte before it believes the payload.  Responses come in the order of the requests.
 * docs/protocols.md is the prose.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PAGESTREAM_H
#define NEON_PAGESTREAM_H

#include "neon_core.h"

typedef enum neon_ps_tag
{
	NEON_PS_EXISTS = 0,
	NEON_PS_NBLOCKS = 1,
	NEON_PS_GETPAGE = 2,
	NEON_PS_DBSIZE = 3,
	NEON_PS_SLRU_SEGMENT = 4,
	NEON_PS_FILLER = 5,
	NEON_PS_EXISTS_RESPONSE = 100,	/* u8 0 or 1 */
	NEON_PS_NBLOCKS_RESPONSE = 101, /* be32 blocks, 0 for a relation that does not exist */
	NEON_PS_GETPAGE_RESPONSE = 102, /* 8192 bytes */
	NEON_PS_ERROR_RESPONSE = 103,	/* 5 bytes SQLSTATE, message, then NUL detail NUL hint, which may be absent */
	NEON_PS_DBSIZE_RESPONSE = 104,	/* be64 bytes */
	NEON_PS_SLRU_SEGMENT_RESPONSE = 105,	/* n * 8192 bytes, 0 for a segment that does not exist */
	NEON_PS_FILLER_RESPONSE = 106	/* as many zeros as the request's blk says */
} neon_ps_tag;

/*
 * request_lsn: the version wanted; NEON_LSN_MAX: the newest.  not_modified_since: the object has not changed after it
 * up to request_lsn, so any version at or after it (and at or before request_lsn) is the right one.
 * Wire, 42 bytes: u8 tag, u64 request_id, u64 request_lsn, u64 not_modified_since, u32 spc, u32 db, u32 rel, u8 fork, u32 blk.
 * DBSIZE uses spc and db; SLRU_SEGMENT uses spc = neon_slru_kind and rel = segment; unused fields are 0.
 *
 * FILLER asks for blk bytes without meaning, at most NEON_PS_MAX_FILLER.  libpq reads as much at once as its buffer has room for, and
 * the buffer grows only for a message that does not fit: after a filler of eight pages, eight pages are one read instead of eight.
 */
#define NEON_PS_REQUEST_BYTES	42
#define NEON_PS_MAX_FILLER		(32 * NEON_BLCKSZ)
#define NEON_PS_MAX_RESPONSE	(1 + NEON_PS_REQUEST_BYTES + 32 * NEON_BLCKSZ)

typedef struct neon_ps_request
{
	uint8_t		tag;
	uint64_t	request_id;
	neon_lsn	request_lsn;
	neon_lsn	not_modified_since;
	uint32_t	spc,
				db,
				rel,
				blk;
	uint8_t		fork;
} neon_ps_request;

extern void neon_ps_encode_request(const neon_ps_request *req, uint8_t out[NEON_PS_REQUEST_BYTES]);
/* false: wrong length, unknown tag, fork above 3, request_lsn below not_modified_since.  *req is filled if the length is right. */
extern bool neon_ps_decode_request(const void *bytes, size_t len, neon_ps_request *req);
/* Why a request of the right length is refused; NULL when it makes sense. */
extern const char *neon_ps_request_problem(const neon_ps_request *req);

/* A response is u8 tag, the 42 bytes of the request, payload.  Returns the length of that head (43). */
#define NEON_PS_RESPONSE_HEAD	(1 + NEON_PS_REQUEST_BYTES)
extern size_t neon_ps_encode_response_head(uint8_t tag, const neon_ps_request *req, uint8_t *out);

typedef struct neon_ps_response
{
	uint8_t		tag;
	neon_ps_request request;	/* the echo */
	const uint8_t *payload;
	size_t		payload_len;
} neon_ps_response;

/* Checks tag and payload length for the tag; false when they do not fit. */
extern bool neon_ps_decode_response(const void *bytes, size_t len, neon_ps_response *res);
extern bool neon_ps_request_equal(const neon_ps_request *a, const neon_ps_request *b);

#endif							/* NEON_PAGESTREAM_H */
