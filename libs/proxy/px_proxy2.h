/*
 * px_proxy2.h - PROXY protocol, version 2: who really is at the other end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PX_PROXY2_H
#define PX_PROXY2_H

#include "neon_core.h"

#define PX_PROXY2_HEAD_BYTES	16
#define PX_PROXY2_MAX_BYTES		(16 + 2048)
#define PX_PROXY2_TLV_AUTHORITY	0x02	/* the host name the client asked for */
#define PX_PROXY2_TLV_AUTH		0xE0	/* "password": ask for a cleartext password */

typedef enum px_proxy2_result
{
	PX_PROXY2_NONE,				/* the bytes do not begin with its signature */
	PX_PROXY2_MORE,
	PX_PROXY2_BAD,
	PX_PROXY2_OK
} px_proxy2_result;

typedef struct px_proxy2
{
	uint32_t	len;			/* bytes of the header */
	uint8_t		address[16];	/* IPv4 as ::ffff:a.b.c.d */
	bool		has_address;	/* false: LOCAL, or an address of another family */
	uint16_t	port;
	char		authority[256];	/* empty when absent */
	bool		ask_password;
} px_proxy2;

extern px_proxy2_result px_proxy2_parse(const uint8_t *p, size_t len, px_proxy2 *out);

#endif							/* PX_PROXY2_H */
