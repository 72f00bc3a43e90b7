/*
 * http_main.h - the HTTP side's entry.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_MAIN_H
#define HTTP_MAIN_H

/* Called once by the postmaster while it loads the library: settings and workers of the HTTP side. */
extern void px_http_register_worker(void);

#endif							/* HTTP_MAIN_H */
