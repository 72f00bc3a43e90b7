/*
 * proxy_listen.h - the sockets that the postmaster opens and its workers inherit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PROXY_LISTEN_H
#define PROXY_LISTEN_H

#define PX_MAX_ADDRESSES 8

/* Opens everything, in the postmaster, once; FATAL when an address cannot be bound. */
extern void px_listen_open(void);

/* In a worker: its own sockets; the others' are closed.  Returns how many. */
extern int	px_listen_take(int worker, int fds[PX_MAX_ADDRESSES + 1], bool is_unix[PX_MAX_ADDRESSES + 1]);

/* Ends of the worker's inbox: messages of other workers arrive at the first, are sent to the second. */
extern int	px_inbox(int worker);
extern int	px_outbox(int worker);

#endif							/* PROXY_LISTEN_H */
