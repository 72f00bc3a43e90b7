/*
 * neon_wal_format.h - constants of PostgreSQL 15's WAL, shared by the files of libs/wal.
 *
 * WAL is written in the byte order of its server; amd64 is little-endian, and so are we.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_WAL_FORMAT_H
#define NEON_WAL_FORMAT_H

#include "neon_wal.h"

#include <string.h>

#define WAL_PAGE_MAGIC		0xD110
#define WAL_SHORT_HEADER	24	/* bytes; SizeOfXLogShortPHD */
#define WAL_LONG_HEADER		40	/* bytes; SizeOfXLogLongPHD */

/* xlp_info */
#define WAL_FIRST_IS_CONTRECORD				0x0001
#define WAL_LONG_HEADER_FLAG				0x0002
#define WAL_FIRST_IS_OVERWRITE_CONTRECORD	0x0008
#define WAL_ALL_FLAGS						0x000F

/* Offsets in a page header */
#define PAGE_MAGIC			0
#define PAGE_INFO			2
#define PAGE_TLI			4
#define PAGE_ADDR			8
#define PAGE_REM_LEN		16
#define PAGE_SYSID			24
#define PAGE_SEG_SIZE		32
#define PAGE_BLCKSZ			36

/* Offsets in a record header */
#define REC_TOT_LEN			0
#define REC_XID				4
#define REC_PREV			8
#define REC_INFO			16
#define REC_RMID			17
#define REC_CRC				20

#define WAL_RMGR_XLOG		0
#define WAL_XLOG_SWITCH		0x40
#define WAL_RMGR_INFO_MASK	0xF0

/* Fragment headers in a record */
#define WAL_BLOCK_ID_DATA_SHORT		255
#define WAL_BLOCK_ID_DATA_LONG		254
#define WAL_BLOCK_ID_ORIGIN			253
#define WAL_BLOCK_ID_TOPLEVEL_XID	252

static inline uint16_t
wal_get16(const uint8_t *p)
{
	uint16_t	v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t
wal_get32(const uint8_t *p)
{
	uint32_t	v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t
wal_get64(const uint8_t *p)
{
	uint64_t	v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline neon_lsn
wal_align8(neon_lsn lsn)
{
	return (lsn + 7) & ~(neon_lsn) 7;
}

/* Bytes of the header of the page that begins at `page`. */
static inline size_t
wal_header_bytes(neon_lsn page, uint32_t segment_bytes)
{
	return page % segment_bytes == 0 ? WAL_LONG_HEADER : WAL_SHORT_HEADER;
}

/* The CRC a record must carry: over its data, then over its header up to the CRC. */
static inline uint32_t
wal_record_crc(const uint8_t *rec, uint32_t len)
{
	uint32_t	crc = neon_crc32c(0, rec + NEON_WAL_RECORD_HEADER, len - NEON_WAL_RECORD_HEADER);

	return neon_crc32c(crc, rec, REC_CRC);
}

#endif							/* NEON_WAL_FORMAT_H */
