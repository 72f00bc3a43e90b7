/*
 * px_proxy2.c - PROXY protocol, version 2.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "px_proxy2.h"

#include <string.h>

static const uint8_t signature[12] = {0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A};

static void
take_address(neon_reader *r, uint8_t family, px_proxy2 *out)
{
	if (family == 0x11)			/* TCP over IPv4 */
	{
		out->address[10] = out->address[11] = 0xff;
		neon_get_copy(r, out->address + 12, 4);
		neon_get_u32(r);
	}
	else if (family == 0x21)	/* TCP over IPv6 */
	{
		neon_get_copy(r, out->address, 16);
		neon_get_bytes(r, 16);
	}
	else
		return;
	out->port = neon_get_u16(r);
	neon_get_u16(r);
	out->has_address = r->ok;
}

static bool
take_tlv(neon_reader *r, px_proxy2 *out)
{
	uint8_t		type = neon_get_u8(r);
	uint16_t	n = neon_get_u16(r);
	const uint8_t *value = neon_get_bytes(r, n);

	if (!r->ok)
		return false;
	if (type == PX_PROXY2_TLV_AUTHORITY)
	{
		if (n == 0 || n >= sizeof(out->authority) || memchr(value, 0, n))
			return false;
		memcpy(out->authority, value, n);
		out->authority[n] = '\0';
	}
	else if (type == PX_PROXY2_TLV_AUTH)
		out->ask_password = n == 8 && memcmp(value, "password", 8) == 0;
	return true;
}

px_proxy2_result
px_proxy2_parse(const uint8_t *p, size_t len, px_proxy2 *out)
{
	size_t		sig = len < sizeof(signature) ? len : sizeof(signature);
	neon_reader r;
	uint8_t		command;
	uint8_t		family;
	uint16_t	n;

	memset(out, 0, sizeof(*out));
	if (len == 0)
		return PX_PROXY2_MORE;
	if (memcmp(p, signature, sig) != 0)
		return PX_PROXY2_NONE;
	if (len < PX_PROXY2_HEAD_BYTES)
		return PX_PROXY2_MORE;
	command = p[12];
	family = p[13];
	n = (uint16_t) (p[14] << 8 | p[15]);
	if (command != 0x20 && command != 0x21)
		return PX_PROXY2_BAD;
	if (PX_PROXY2_HEAD_BYTES + (uint32_t) n > PX_PROXY2_MAX_BYTES)
		return PX_PROXY2_BAD;
	out->len = PX_PROXY2_HEAD_BYTES + (uint32_t) n;
	if (len < out->len)
		return PX_PROXY2_MORE;
	neon_reader_init(&r, p + PX_PROXY2_HEAD_BYTES, n);
	if (command == 0x20)		/* LOCAL: a health check; nothing else counts */
		return PX_PROXY2_OK;
	take_address(&r, family, out);
	if (!r.ok)
		return PX_PROXY2_BAD;
	if (family != 0x11 && family != 0x21)
		return PX_PROXY2_OK;
	while (neon_reader_left(&r) > 0)
		if (!take_tlv(&r, out))
			return PX_PROXY2_BAD;
	return PX_PROXY2_OK;
}
