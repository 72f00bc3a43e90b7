/*
 * neon_pagestream.c - wire codec of the page stream.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_pagestream.h"

#define MAX_FORK	3			/* INIT_FORKNUM */

void
neon_ps_encode_request(const neon_ps_request *req, uint8_t out[NEON_PS_REQUEST_BYTES])
{
	neon_writer w;

	neon_writer_init(&w, out, NEON_PS_REQUEST_BYTES);
	neon_put_u8(&w, req->tag);
	neon_put_u64(&w, req->request_id);
	neon_put_u64(&w, req->request_lsn);
	neon_put_u64(&w, req->not_modified_since);
	neon_put_u32(&w, req->spc);
	neon_put_u32(&w, req->db);
	neon_put_u32(&w, req->rel);
	neon_put_u8(&w, req->fork);
	neon_put_u32(&w, req->blk);
}

/* Only the layout: an error response echoes whatever was asked, sense or not. */
static void
get_request(neon_reader *r, neon_ps_request *req)
{
	req->tag = neon_get_u8(r);
	req->request_id = neon_get_u64(r);
	req->request_lsn = neon_get_u64(r);
	req->not_modified_since = neon_get_u64(r);
	req->spc = neon_get_u32(r);
	req->db = neon_get_u32(r);
	req->rel = neon_get_u32(r);
	req->fork = neon_get_u8(r);
	req->blk = neon_get_u32(r);
}

const char *
neon_ps_request_problem(const neon_ps_request *req)
{
	if (req->tag > NEON_PS_FILLER)
		return "the request has an unknown tag";
	if (req->fork > MAX_FORK)
		return "there is no such fork";
	if (req->tag == NEON_PS_FILLER && req->blk > NEON_PS_MAX_FILLER)
		return "the filler is too long";
	if (req->request_lsn < req->not_modified_since)
		return "request_lsn is below not_modified_since";
	return NULL;
}

static bool
request_makes_sense(const neon_ps_request *req)
{
	return neon_ps_request_problem(req) == NULL;
}

bool
neon_ps_decode_request(const void *bytes, size_t len, neon_ps_request *req)
{
	neon_reader r;

	if (len != NEON_PS_REQUEST_BYTES)
		return false;
	neon_reader_init(&r, bytes, len);
	get_request(&r, req);
	return request_makes_sense(req);
}

size_t
neon_ps_encode_response_head(uint8_t tag, const neon_ps_request *req, uint8_t *out)
{
	out[0] = tag;
	neon_ps_encode_request(req, out + 1);
	return NEON_PS_RESPONSE_HEAD;
}

/* Does the payload have a length that its tag can have, and does the tag answer the request? */
static bool
payload_fits(const neon_ps_response *res)
{
	size_t		n = res->payload_len;

	switch (res->tag)
	{
		case NEON_PS_EXISTS_RESPONSE:
			return res->request.tag == NEON_PS_EXISTS && n == 1 && res->payload[0] <= 1;
		case NEON_PS_NBLOCKS_RESPONSE:
			return res->request.tag == NEON_PS_NBLOCKS && n == 4;
		case NEON_PS_GETPAGE_RESPONSE:
			return res->request.tag == NEON_PS_GETPAGE && n == NEON_BLCKSZ;
		case NEON_PS_DBSIZE_RESPONSE:
			return res->request.tag == NEON_PS_DBSIZE && n == 8;
		case NEON_PS_SLRU_SEGMENT_RESPONSE:
			return res->request.tag == NEON_PS_SLRU_SEGMENT && n % NEON_BLCKSZ == 0;
		case NEON_PS_FILLER_RESPONSE:
			return res->request.tag == NEON_PS_FILLER && n == res->request.blk;
		case NEON_PS_ERROR_RESPONSE:
			return n >= 5;
		default:
			return false;
	}
}

bool
neon_ps_decode_response(const void *bytes, size_t len, neon_ps_response *res)
{
	neon_reader r;

	if (len < NEON_PS_RESPONSE_HEAD || len > NEON_PS_MAX_RESPONSE)
		return false;
	neon_reader_init(&r, bytes, len);
	res->tag = neon_get_u8(&r);
	get_request(&r, &res->request);
	res->payload_len = neon_reader_left(&r);
	res->payload = neon_get_bytes(&r, res->payload_len);
	return payload_fits(res) && (res->tag == NEON_PS_ERROR_RESPONSE || request_makes_sense(&res->request));
}

bool
neon_ps_request_equal(const neon_ps_request *a, const neon_ps_request *b)
{
	return a->tag == b->tag && a->request_id == b->request_id &&
		a->request_lsn == b->request_lsn && a->not_modified_since == b->not_modified_since &&
		a->spc == b->spc && a->db == b->db && a->rel == b->rel &&
		a->fork == b->fork && a->blk == b->blk;
}
