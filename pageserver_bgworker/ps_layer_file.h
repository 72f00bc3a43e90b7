/*
 * ps_layer_file.h - layer files on disk: creating them durably, and a backend's cache of open ones.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PS_LAYER_FILE_H
#define PS_LAYER_FILE_H

#include "ps_internal.h"

#include "neon_layer.h"
#include "neon_layer_map.h"

/* ---- writing: create, add entries in order, finish (durable) ---- */
typedef struct PsLayerWriter PsLayerWriter;

extern PsLayerWriter *ps_layer_writer_begin(const char *path, const neon_layer_info *what);
extern void ps_layer_writer_add(PsLayerWriter *w, const neon_key *key, XLogRecPtr lsn, uint32 flags,
								const void *bytes, uint32 len);
extern uint64 ps_layer_writer_bytes(const PsLayerWriter *w);
/* fsyncs file and directory; frees the writer. */
extern void ps_layer_writer_finish(PsLayerWriter *w, neon_layer_info *info);

/* What an existing file says about itself. */
extern void ps_layer_file_info(const char *path, neon_layer_info *info);

/* mkdir -p of a timeline's directory, durable. */
extern void ps_make_timeline_directory(const char *tenant, const char *timeline);

/* ---- reading: a backend's open file with a reader and an iterator (which keeps one block) ---- */
typedef struct PsLayerFile PsLayerFile;

extern PsLayerFile *ps_layer_file_create(MemoryContext context, const char *directory, const PsLayerRow *row);
extern void ps_layer_file_free(PsLayerFile *file);
extern bool ps_layer_file_may_contain(PsLayerFile *file, const neon_key *key);
extern void ps_layer_file_seek(PsLayerFile *file, const neon_key *key, XLogRecPtr lsn);
extern bool ps_layer_file_next(PsLayerFile *file, neon_layer_entry *entry); /* false at the end */
/* A file whose position must survive other reads: opened and put before its first entry; freed by its owner. */
extern PsLayerFile *ps_layer_file_open_pinned(MemoryContext context, const char *directory, const PsLayerRow *row);

/* Errors of layer files that this process met: an ingest that fails together with one is not to blame for it. */
extern uint64 ps_layer_file_errors;

/* The backend's layer map of a timeline, at least as new as *generation, which becomes the map's own (ps_layer_cache.c). */
extern neon_layer_map *ps_layer_map_of(PsTimeline *tl, uint64 *generation);

#endif							/* PS_LAYER_FILE_H */
