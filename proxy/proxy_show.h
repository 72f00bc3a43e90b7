/*
 * proxy_show.h - the tables of the console.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PROXY_SHOW_H
#define PROXY_SHOW_H

#include "px.h"

/* rows as the wire wants them */
typedef struct PxRows
{
	uint8	   *data;
	size_t		len;
	size_t		cap;
	int			n;
} PxRows;

typedef struct PxShow
{
	const char *name;
	const char *columns;		/* separated by spaces */
	void		(*rows) (PxRows *r);
	bool		every_worker;	/* each adds its own */
	void		(*combine) (PxRows *r);	/* makes one table of all workers' rows; NULL: they are it */
	const char *hint;			/* without rows: why there is no such table stands in `columns`, what to do here */
} PxShow;

extern const PxShow *px_show_find(const char *name);
extern void px_show_tick(void);
/* printf-like: s text, d int, l int64, n null */
extern void px_row(PxRows *r, const char *types,...);
extern void px_row_text(PxRows *r, int ncolumns, const char *const *values);
extern void px_rows_free(PxRows *r);
/* Rows that were written by px_row_text(), of any worker: how many; the next one's texts, until the next call; false: no more. */
extern int	px_row_count(const PxRows *r);
extern bool px_row_next(const PxRows *r, size_t *at, int ncolumns, char **values);

/* proxy_show_all.c */
extern void px_show_totals(PxRows *r);
extern void px_show_lists(PxRows *r);
extern void px_show_mem(PxRows *r);
extern void px_show_workers(PxRows *r);
extern void px_show_counters(PxRows *r);
extern void px_show_config(PxRows *r);
extern void px_show_version(PxRows *r);
extern void px_show_help(PxRows *r);

/* proxy_dbstats.c */
extern void px_db_stats_rows(PxRows *r);
extern void px_db_stats_both(PxRows *r);
extern void px_db_stats_totals(PxRows *r);
extern void px_db_stats_averages(PxRows *r);

/* proxy_sockets.c */
extern void px_show_clients(PxRows *r);
extern void px_show_servers(PxRows *r);
extern void px_show_sockets(PxRows *r);
extern void px_show_active_sockets(PxRows *r);
extern void px_show_fds(PxRows *r);

#endif							/* PROXY_SHOW_H */
