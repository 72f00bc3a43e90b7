/*
 * nb.h - what the broker's source files share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NB_H
#define NB_H

#include "neon_broker.h"

/* ---- settings (nb_module.c) ---- */
#define NB_MAX_ENTRIES_MIN			16
#define NB_MAX_ENTRIES_DEFAULT		32768
#define NB_MAX_ENTRIES_MAX			(1024 * 1024)
#define NB_MAX_SUBSCRIBERS_DEFAULT	64
#define NB_MAX_SUBSCRIBERS_MAX		4096
#define NB_EXPIRE_S_DEFAULT			30
#define NB_EXPIRE_S_MAX				3600

extern int	nb_max_entries;
extern int	nb_max_subscribers;
extern int	nb_expire_s;

/* ---- the table (nb_table.c) ---- */
typedef struct NbFilter
{
	neon_id		tenant;			/* zero: any */
	neon_id		timeline;
} NbFilter;

/* Where a subscriber is in the order of changes. */
typedef struct NbCursor
{
	uint64		seen;			/* everything up to this change was looked at */
	uint64		snapshot_end;	/* the newest change when the subscription began, or began anew */
	int			at;				/* the entry that change was of; it may have moved since */
} NbCursor;

typedef struct NbChanges
{
	bool		restart;		/* too late to say what has gone: send everything again */
	bool		exhausted;		/* there is no more */
	int			nlive;
	int			ngone;
	neon_broker_entry live[NEON_BROKER_MAX_ENTRIES];
	neon_broker_entry gone[NEON_BROKER_MAX_ENTRIES];
} NbChanges;

typedef struct NbStatistics
{
	int			entries;
	int			subscribers;
	uint64		publishers;		/* that ever came */
	uint64		published;
	uint64		changes;
	uint64		refused;
	uint64		expired;
} NbStatistics;

extern void nb_table_init(void);
extern uint64 nb_publisher_number(void);
extern int	nb_publish(const neon_broker_entry *entries, int n, uint64 publisher);
extern void nb_expire(void);
extern void nb_subscribe(const NbFilter *filter, NbCursor *cursor);
extern void nb_unsubscribe(void);
extern void nb_restart(NbCursor *cursor);
extern void nb_read(const NbFilter *filter, NbCursor *cursor, NbChanges *changes);
extern neon_broker_entry *nb_copy_entry(int i, neon_broker_entry *to, uint64 *age_ms);
extern void nb_statistics(NbStatistics *s);

#endif							/* NB_H */
