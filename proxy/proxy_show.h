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
} PxShow;

extern const PxShow *px_show_find(const char *name);
extern void px_show_tick(void);
/* printf-like: s text, d int, l int64, n null */
extern void px_row(PxRows *r, const char *types,...);
extern void px_row_text(PxRows *r, int ncolumns, const char *const *values);
extern void px_rows_free(PxRows *r);

/* proxy_show_all.c */
extern void px_show_stats(PxRows *r);
extern void px_show_stats_totals(PxRows *r);
extern void px_show_stats_averages(PxRows *r);
extern void px_show_totals(PxRows *r);
extern void px_show_lists(PxRows *r);
extern void px_show_mem(PxRows *r);
extern void px_show_workers(PxRows *r);
extern void px_show_counters(PxRows *r);
extern void px_show_config(PxRows *r);
extern void px_show_version(PxRows *r);
extern void px_show_help(PxRows *r);

#endif							/* PROXY_SHOW_H */
