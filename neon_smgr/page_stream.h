/*
 * page_stream.h - the pageserver as page source.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PAGE_STREAM_H
#define NEON_PAGE_STREAM_H

/* The connection string has changed: connect again before the next request. */
extern void page_stream_settings_changed(void);

#endif							/* NEON_PAGE_STREAM_H */
