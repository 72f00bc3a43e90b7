/*
 * ps_redo_wire.h - what a pageserver backend and its redo process say to each other over a socketpair.
 *
 * Both run the same build on one machine: structs travel as they are.  The process greets with one response when it is ready,
 * then answers each request with one response, in order.  A response with an error is the last one: the process exits, because
 * a redo routine that failed in the middle leaves buffers and locks behind.
 *
 * Request: header, the base page if has_base, then nrecords times { uint64 end_lsn, the record padded to 8 bytes }.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PS_REDO_WIRE_H
#define NEON_PS_REDO_WIRE_H

#include <stdint.h>

#define PS_REDO_SOCKET_FD			3	/* the only descriptor above stderr that the process inherits */
#define PS_REDO_ENV_PARENT			"NEON_REDO_PARENT"	/* pid of the backend, so that an orphan notices */
#define PS_REDO_REQUEST_MAGIC		UINT32_C(0x4e525131)
#define PS_REDO_RESPONSE_MAGIC		UINT32_C(0x4e525031)
#define PS_REDO_REQUEST_MAX_BYTES	(16 * 1024 * 1024)

typedef struct PsRedoRequest
{
	uint32_t	magic;
	uint32_t	len;			/* bytes of the whole request */
	uint32_t	spc,
				db,
				rel,
				blk;
	uint32_t	fork;
	uint32_t	nrecords;
	uint32_t	has_base;
	uint32_t	pad;
} PsRedoRequest;

typedef struct PsRedoResponse
{
	uint32_t	magic;
	uint32_t	failed;			/* 0: payload is the page; 1: payload is a text */
	char		payload[8192];
} PsRedoResponse;

#endif							/* NEON_PS_REDO_WIRE_H */
