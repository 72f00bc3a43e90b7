/*
 * compute_tools.h - what the files of compute_tools share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef COMPUTE_TOOLS_H
#define COMPUTE_TOOLS_H

#include "postgres.h"

#include "lib/stringinfo.h"

/* Where this host's computes live; every directory name that comes from SQL is taken relative to it. */
extern char *ct_base_directory;

/* Absolute path of a compute's directory; ERROR for a name that could leave the base directory. */
extern char *ct_compute_path(const char *name);

/*
 * Run a program of the server's bin directory, without a shell.  Its output (both streams) is appended to `output`,
 * bounded.  Returns the exit code; a signal counts as 128 + signal.  A cancel kills it.
 */
extern int	ct_run(const char *program, char *const argv[], int timeout_ms, StringInfo output);

/* Streaming reader of a ustar archive; writes below `root`. */
typedef struct TarReader TarReader;
extern TarReader *tar_reader_begin(const char *root);
extern void tar_reader_feed(TarReader *t, const char *data, size_t len);
extern void tar_reader_end(TarReader *t);	/* ERROR if the archive was cut short */

#endif							/* COMPUTE_TOOLS_H */
