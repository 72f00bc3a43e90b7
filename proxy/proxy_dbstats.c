/*
 * proxy_dbstats.c - statistics by database of an endpoint: STATS, STATS_TOTALS and STATS_AVERAGES of the console.
 *
 * Each worker counts for itself, a pool points to its counters.  On the console the rows of all workers are added up.  A transaction's time stands for
 * its queries' too.  Averages are of the last full period, which each worker keeps for itself.
 *
 * Bounds: MAX_DATABASES; when there are more, those that no pool uses are added to the row "*", and what comes then is counted there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "proxy_show.h"

#define MAX_DATABASES	4096
#define BUCKETS			1024
#define PERIOD_MS		60000	/* that averages are of */
#define RAW_COLUMNS		(3 + 2 * PX_DB_COUNT)	/* database, endpoint, milliseconds, totals, of the period */

static PxDbStats *databases[BUCKETS];
static PxDbStats others = {.database = "*",.endpoint = ""};
static int	ndatabases;
static int64 period_begin_ms;
static int64 period_end_ms;

/* ---------------------------------------------------------------- counting */

static void
add(PxDbStats *to, const PxDbStats *from)
{
	for (int i = 0; i < PX_DB_COUNT; i++)
	{
		to->value[i] += from->value[i];
		to->begin[i] += from->begin[i];
		to->end[i] += from->end[i];
	}
}

static void
fold_unused(void)
{
	for (int b = 0; b < BUCKETS; b++)
		for (PxDbStats **at = &databases[b]; *at;)
		{
			PxDbStats  *d = *at;

			if (d->pools > 0)
			{
				at = &d->next;
				continue;
			}
			*at = d->next;
			add(&others, d);
			px_free(d->database);
			px_free(d->endpoint);
			px_free(d);
			ndatabases--;
		}
}

PxDbStats *
px_db_stats_get(const char *endpoint, const char *database)
{
	uint64		h = hash_bytes_extended((const unsigned char *) endpoint, (int) strlen(endpoint), 0);
	PxDbStats **bucket;
	PxDbStats  *d;

	h = hash_bytes_extended((const unsigned char *) database, (int) strlen(database), h);
	bucket = &databases[h % BUCKETS];
	for (d = *bucket; d; d = d->next)
		if (strcmp(d->database, database) == 0 && strcmp(d->endpoint, endpoint) == 0)
			break;
	if (d == NULL && ndatabases >= MAX_DATABASES)
		fold_unused();
	if (d == NULL && ndatabases >= MAX_DATABASES)
		d = &others;
	else if (d == NULL)
	{
		d = px_alloc(sizeof(PxDbStats));
		d->database = px_strdup(database);
		d->endpoint = px_strdup(endpoint);
		d->next = *bucket;
		*bucket = d;
		ndatabases++;
	}
	d->pools++;
	return d;
}

void
px_db_stats_release(PxDbStats *d)
{
	d->pools--;
}

static void
next_period(PxDbStats *d)
{
	memcpy(d->begin, d->end, sizeof(d->begin));
	memcpy(d->end, d->value, sizeof(d->end));
}

void
px_db_stats_tick(void)
{
	if (period_end_ms != 0 && px.now_ms - period_end_ms < PERIOD_MS)
		return;
	period_begin_ms = period_end_ms;
	period_end_ms = px.now_ms;
	for (int b = 0; b < BUCKETS; b++)
		for (PxDbStats *d = databases[b]; d; d = d->next)
			next_period(d);
	next_period(&others);
}

/* ---------------------------------------------------------------- rows of a worker, raw */

static void
raw_row(PxRows *r, const PxDbStats *d)
{
	char		number[RAW_COLUMNS][24];
	const char *values[RAW_COLUMNS] = {d->database, d->endpoint, number[2]};

	snprintf(number[2], sizeof(number[2]), INT64_FORMAT, period_begin_ms ? period_end_ms - period_begin_ms : 0);
	for (int i = 0; i < PX_DB_COUNT; i++)
	{
		snprintf(number[3 + i], sizeof(number[0]), INT64_FORMAT, d->value[i]);
		snprintf(number[3 + PX_DB_COUNT + i], sizeof(number[0]), INT64_FORMAT, d->end[i] - d->begin[i]);
		values[3 + i] = number[3 + i];
		values[3 + PX_DB_COUNT + i] = number[3 + PX_DB_COUNT + i];
	}
	px_row_text(r, RAW_COLUMNS, values);
}

void
px_db_stats_rows(PxRows *r)
{
	for (int b = 0; b < BUCKETS; b++)
		for (PxDbStats *d = databases[b]; d; d = d->next)
			raw_row(r, d);
	if (others.pools > 0 || others.value[PX_DB_QUERIES] > 0)
		raw_row(r, &others);
}

/* ---------------------------------------------------------------- of all workers */

typedef struct Sum
{
	char	   *database;
	char	   *endpoint;
	int64		value[PX_DB_COUNT];
	int64		period[PX_DB_COUNT];
	int64		rate[PX_DB_COUNT];	/* a second */
} Sum;

static int
compare(const void *a, const void *b)
{
	const Sum  *x = a;
	const Sum  *y = b;
	int			c = strcmp(x->database, y->database);

	return c != 0 ? c : strcmp(x->endpoint, y->endpoint);
}

static void
take_row(Sum *s, char **values)
{
	int64		ms = strtoll(values[2], NULL, 10);

	s->database = px_strdup(values[0]);
	s->endpoint = px_strdup(values[1]);
	for (int i = 0; i < PX_DB_COUNT; i++)
	{
		s->value[i] = strtoll(values[3 + i], NULL, 10);
		s->period[i] = ms > 0 ? strtoll(values[3 + PX_DB_COUNT + i], NULL, 10) : 0;
		s->rate[i] = ms > 0 ? s->period[i] * 1000 / ms : 0;
	}
}

/* Those of one database of one endpoint become one; how many are left. */
static int
merge(Sum *s, int n)
{
	int			kept = 0;

	qsort(s, n, sizeof(Sum), compare);
	for (int i = 0; i < n; i++)
	{
		if (kept == 0 || compare(&s[kept - 1], &s[i]) != 0)
		{
			s[kept++] = s[i];
			continue;
		}
		for (int k = 0; k < PX_DB_COUNT; k++)
		{
			s[kept - 1].value[k] += s[i].value[k];
			s[kept - 1].period[k] += s[i].period[k];
			s[kept - 1].rate[k] += s[i].rate[k];
		}
		px_free(s[i].database);
		px_free(s[i].endpoint);
	}
	return kept;
}

/* Counts and bytes a second, times (us) a transaction and a query, waiting (us) a second. */
static int64
average(const Sum *s, int i)
{
	if (i != PX_DB_TRANSACTION_US && i != PX_DB_QUERY_US)
		return s->rate[i];
	i = i == PX_DB_TRANSACTION_US ? PX_DB_TRANSACTIONS : PX_DB_QUERIES;
	return s->period[i] > 0 ? s->period[PX_DB_TRANSACTION_US] / s->period[i] : 0;
}

static void
combine(PxRows *r, bool totals, bool averages)
{
	char	   *values[RAW_COLUMNS];
	Sum		   *s;
	PxRows		out = {0};
	size_t		at = 0;
	int			n = 0;

	s = px_alloc((px_row_count(r) + 1) * sizeof(Sum));
	while (px_row_next(r, &at, RAW_COLUMNS, values))
		take_row(&s[n++], values);
	n = merge(s, n);
	for (int i = 0; i < n; i++)
	{
		char		number[2 * PX_DB_COUNT][24];
		const char *row[2 + 2 * PX_DB_COUNT] = {s[i].database};
		int			columns = 1;

		for (int k = 0; k < PX_DB_COUNT * (totals + averages); k++)
		{
			bool		avg = !totals || k >= PX_DB_COUNT;

			snprintf(number[k], sizeof(number[k]), INT64_FORMAT, avg ? average(&s[i], k % PX_DB_COUNT) : s[i].value[k]);
			row[columns++] = number[k];
		}
		row[columns++] = s[i].endpoint;
		px_row_text(&out, columns, row);
		px_free(s[i].database);
		px_free(s[i].endpoint);
	}
	px_free(s);
	px_rows_free(r);
	*r = out;
}

void
px_db_stats_both(PxRows *r)
{
	combine(r, true, true);
}

void
px_db_stats_totals(PxRows *r)
{
	combine(r, true, false);
}

void
px_db_stats_averages(PxRows *r)
{
	combine(r, false, true);
}
