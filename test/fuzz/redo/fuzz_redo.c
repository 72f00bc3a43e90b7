/*
 * fuzz_redo.c - libFuzzer target of native redo.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "redo_case.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	redo_case(data, size);
	return 0;
}
