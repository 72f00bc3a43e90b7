/*
 * jwt_fetch.h - between the keys in shared memory and the worker that fetches them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PX_JWT_FETCH_H
#define PX_JWT_FETCH_H

#define PX_JWT_URL 512
#define PX_JWT_DOCUMENT (32 * 1024)

/* A URL whose keys somebody waits for; it is not given again for a while. */
extern bool px_jwt_next_wanted(char url[PX_JWT_URL], int64 now);

/* document NULL: it could not be fetched */
extern void px_jwt_fetched(const char *url, const char *document, int len, int64 now);

/* Called a few times a second by the HTTP worker. */
extern void px_jwt_tick(void);

#endif							/* PX_JWT_FETCH_H */
