/*
 * ps_bootstrap.h - a whole data directory as one image layer.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PS_BOOTSTRAP_H
#define NEON_PS_BOOTSTRAP_H

#include "ps_internal.h"

/* Reads a data directory that was stopped cleanly and writes it to `path` as of the end of its WAL. */
extern void ps_import_directory(const char *directory, const char *path, PsBootstrap *out);

#endif							/* NEON_PS_BOOTSTRAP_H */
