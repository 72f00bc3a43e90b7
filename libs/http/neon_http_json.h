/*
 * neon_http_json.h - JSON out of what a PostgreSQL server answers as text; a growing buffer with a limit.
 *
 * Pure: memory comes through the buffer's realloc function.  realloc(p, 0) frees.  A buffer that hits its limit or gets no memory is "failed" and stays so:
 * writers need not check after each call, only at the end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_HTTP_JSON_H
#define NEON_HTTP_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct NhBuf
{
	char	   *data;
	size_t		len;
	size_t		size;
	size_t		limit_bytes;
	void	   *(*realloc) (void *, size_t);
	bool		failed;
} NhBuf;

/* depth of nested arrays that are unfolded; PostgreSQL itself stops at 6 */
#define NH_MAX_ARRAY_DEPTH 8

extern void nh_put(NhBuf *b, const void *data, size_t len);
extern void nh_puts(NhBuf *b, const char *s);
extern void nh_putc(NhBuf *b, char c);
extern void nh_put_int(NhBuf *b, int64_t n);

/* The same for a queue, of which `taken` bytes are gone from the front: their room is used again, so that the limit is of what waits (half of it always fits). */
extern void nh_put_behind(NhBuf *b, size_t *taken, const void *data, size_t len);

/* Room for len more bytes, to be written by the caller, who then adds to b->len; NULL when failed. */
extern char *nh_reserve(NhBuf *b, size_t len);

/* A JSON string; bytes that are not UTF-8 become U+FFFD. */
extern void nh_json_string(NhBuf *b, const char *s, size_t len);
extern void nh_json_cstring(NhBuf *b, const char *s);	/* NULL is null */

/* A value as the type's output function wrote it: numbers that a double holds, booleans, json, arrays of these; else a string. */
extern void nh_json_value(NhBuf *b, uint32_t type_oid, const char *s, size_t len);

/* Type of the elements of a built-in array type, 0 when it is none. */
extern uint32_t nh_array_element(uint32_t type_oid);

/* An array literal as JSON; false, with the buffer as it was, when it is none. */
extern bool nh_json_array(NhBuf *b, uint32_t element_oid, const char *s, size_t len);

/* An element of an array literal: quoted and escaped. */
extern void nh_array_string(NhBuf *b, const char *s, size_t len);

#endif							/* NEON_HTTP_JSON_H */
