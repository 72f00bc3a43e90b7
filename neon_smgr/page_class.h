/*
 * page_class.h - does the WAL imply this page?
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PAGE_CLASS_H
#define NEON_PAGE_CLASS_H

#include "pagestore.h"

typedef enum PageClass
{
	PAGE_IMPLIED,				/* the page source rebuilds it from WAL up to its last-written LSN */
	PAGE_EMPTY,					/* as good as zeros: never logged, holds nothing */
	PAGE_PIN_BUILD,				/* holds something, but was never logged: an index being built */
	PAGE_PIN_XID,				/* command ids or speculative tokens of running transactions */
	PAGE_PIN_CYCLE,				/* split seen by a running btree vacuum */
	PAGE_PIN_SEQUENCE,			/* values taken since the last log record */
	PAGE_PIN_FSM
} PageClass;

/* Once in every process that may classify, when shared memory is there. */
extern void page_class_init(void);

extern PageClass page_classify(int fork, const char *page);

/*
 * The LSN at or above the last change of a page that leaves shared_buffers: the page's own, or the end of WAL where changes
 * are made without setting it.
 */
extern XLogRecPtr page_last_change(int fork, const char *page);

/* For the directory that stands in for a pageserver: make of a page what its WAL would make of it. */
extern void page_forget_unlogged(int fork, char *page);

#endif							/* NEON_PAGE_CLASS_H */
