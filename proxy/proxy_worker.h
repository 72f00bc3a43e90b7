/*
 * proxy_worker.h - a worker's life: start, event loop, stop.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PROXY_WORKER_H
#define PROXY_WORKER_H

extern PGDLLEXPORT void px_worker_main(Datum arg);

#endif							/* PROXY_WORKER_H */
