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
extern void px_row_text(PxRows *r, int ncolumns, const char *const *values);
extern void px_rows_free(PxRows *r);

#endif							/* PROXY_SHOW_H */
