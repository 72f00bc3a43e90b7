/*
 * neon_broker.c - see neon_broker.h.
 *
 * Decoding accepts exactly what encoding makes: no other counts, no bytes behind the last entry, no address with bytes that a connection
 * string or a log line could not bear.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_broker.h"

#include <string.h>

static bool
has_entries(uint8_t tag)
{
	return tag == NEON_BROKER_PUBLISH || tag == NEON_BROKER_UPDATE || tag == NEON_BROKER_GONE;
}

static bool
is_bare(uint8_t tag)
{
	return tag == NEON_BROKER_REFUSED || tag == NEON_BROKER_BEGIN || tag == NEON_BROKER_SNAPSHOT || tag == NEON_BROKER_ALIVE;
}

static bool
address_bytes_valid(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] <= ' ' || p[i] > '~')
			return false;
	return true;
}

bool
neon_broker_address_valid(const char *address)
{
	size_t		len = strnlen(address, NEON_BROKER_ADDRESS_BYTES);

	return len < NEON_BROKER_ADDRESS_BYTES && address_bytes_valid((const uint8_t *) address, len);
}

static bool
name_valid(const neon_broker_entry *e)
{
	return e->node_id != 0 && !neon_id_is_zero(&e->tenant) && !neon_id_is_zero(&e->timeline);
}

/* ---- encoding ---- */

void
neon_broker_start(neon_broker_builder *b, neon_broker_tag tag, void *buf)
{
	neon_writer_init(&b->w, buf, NEON_BROKER_MAX_MESSAGE_BYTES);
	b->tag = (uint8_t) tag;
	b->count = 0;
	neon_put_u8(&b->w, b->tag);
	neon_put_u16(&b->w, 0);
}

bool
neon_broker_add(neon_broker_builder *b, const neon_broker_entry *e)
{
	size_t		address_len;

	if (b->count == NEON_BROKER_MAX_ENTRIES || !name_valid(e) || !neon_broker_address_valid(e->address))
		return false;
	neon_put_u32(&b->w, e->node_id);
	neon_put_bytes(&b->w, e->tenant.b, NEON_ID_BYTES);
	neon_put_bytes(&b->w, e->timeline.b, NEON_ID_BYTES);
	b->count++;
	if (b->tag == NEON_BROKER_GONE)
		return b->w.ok;
	neon_put_u64(&b->w, e->term);
	neon_put_u64(&b->w, e->last_log_term);
	neon_put_u64(&b->w, e->flush_lsn);
	neon_put_u64(&b->w, e->commit_lsn);
	neon_put_u64(&b->w, e->remote_consistent_lsn);
	neon_put_u64(&b->w, e->horizon_lsn);
	address_len = strlen(e->address);
	neon_put_u8(&b->w, (uint8_t) address_len);
	neon_put_bytes(&b->w, e->address, address_len);
	return b->w.ok;
}

size_t
neon_broker_finish(neon_broker_builder *b)
{
	b->w.buf[1] = (uint8_t) (b->count >> 8);
	b->w.buf[2] = (uint8_t) b->count;
	return b->w.len;
}

size_t
neon_broker_encode_bare(neon_broker_tag tag, uint16_t count, uint8_t out[NEON_BROKER_HEAD_BYTES])
{
	out[0] = (uint8_t) tag;
	out[1] = (uint8_t) (count >> 8);
	out[2] = (uint8_t) count;
	return NEON_BROKER_HEAD_BYTES;
}

/* ---- decoding ---- */

static bool
read_state(neon_reader *r, neon_broker_entry *e)
{
	const uint8_t *address;
	uint8_t		address_len;

	e->term = neon_get_u64(r);
	e->last_log_term = neon_get_u64(r);
	e->flush_lsn = neon_get_u64(r);
	e->commit_lsn = neon_get_u64(r);
	e->remote_consistent_lsn = neon_get_u64(r);
	e->horizon_lsn = neon_get_u64(r);
	address_len = neon_get_u8(r);
	if (address_len >= NEON_BROKER_ADDRESS_BYTES)
		return false;
	address = neon_get_bytes(r, address_len);
	if (!r->ok || !address_bytes_valid(address, address_len))
		return false;
	memcpy(e->address, address, address_len);
	return true;
}

/* Every byte of the entry is set, so that entries can be compared and hashed as bytes. */
static bool
read_entry(neon_reader *r, uint8_t tag, neon_broker_entry *e)
{
	memset(e, 0, sizeof(*e));
	e->node_id = neon_get_u32(r);
	neon_get_copy(r, e->tenant.b, NEON_ID_BYTES);
	neon_get_copy(r, e->timeline.b, NEON_ID_BYTES);
	if (!r->ok || !name_valid(e))
		return false;
	return tag == NEON_BROKER_GONE || read_state(r, e);
}

bool
neon_broker_decode(const void *data, size_t len, neon_broker_message *m)
{
	neon_reader r;

	neon_reader_init(&r, data, len);
	m->tag = neon_get_u8(&r);
	m->count = neon_get_u16(&r);
	if (!r.ok)
		return false;
	if (is_bare(m->tag))
		return neon_reader_left(&r) == 0;
	if (!has_entries(m->tag) || m->count == 0 || m->count > NEON_BROKER_MAX_ENTRIES)
		return false;
	for (int i = 0; i < m->count; i++)
		if (!read_entry(&r, m->tag, &m->entries[i]))
			return false;
	return neon_reader_left(&r) == 0;
}

/* ---- entries ---- */

bool
neon_broker_same_name(const neon_broker_entry *a, const neon_broker_entry *b)
{
	return a->node_id == b->node_id && neon_id_equal(&a->timeline, &b->timeline) && neon_id_equal(&a->tenant, &b->tenant);
}

bool
neon_broker_same_state(const neon_broker_entry *a, const neon_broker_entry *b)
{
	return a->term == b->term && a->last_log_term == b->last_log_term && a->flush_lsn == b->flush_lsn && a->commit_lsn == b->commit_lsn &&
		a->remote_consistent_lsn == b->remote_consistent_lsn && a->horizon_lsn == b->horizon_lsn && strcmp(a->address, b->address) == 0;
}

uint32_t
neon_broker_hash(const neon_broker_entry *e)
{
	uint32_t	crc = neon_crc32c(0, &e->node_id, sizeof(e->node_id));

	crc = neon_crc32c(crc, e->tenant.b, NEON_ID_BYTES);
	return neon_crc32c(crc, e->timeline.b, NEON_ID_BYTES);
}

bool
neon_broker_matches(const neon_broker_entry *e, const neon_id *tenant, const neon_id *timeline)
{
	return (neon_id_is_zero(tenant) || neon_id_equal(tenant, &e->tenant)) &&
		(neon_id_is_zero(timeline) || neon_id_equal(timeline, &e->timeline));
}
