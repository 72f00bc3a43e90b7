/*
 * redo_case.h - one case for native redo, made from bytes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef REDO_CASE_H
#define REDO_CASE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Builds a page, a key and a record out of the bytes and applies one to the other.  Page and record are allocated with their
 * exact size, so that a sanitizer sees any access outside of them.  Returns the PsRedoStatus.
 */
extern int	redo_case(const uint8_t *data, size_t size);

#endif							/* REDO_CASE_H */
