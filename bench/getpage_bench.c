/*
 * getpage_bench.c - a client of the page stream.
 *
 * getpage_bench CONNINFO TENANT TIMELINE SPC DB REL BLOCKS SECONDS DEPTH
 * asks for random blocks of one relation, newest version; prints the median round trip in microseconds and pages a second.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "neon_pagestream.h"

#define MAX_SAMPLES		4000000

static double
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int
compare(const void *a, const void *b)
{
	float		x = *(const float *) a,
				y = *(const float *) b;

	return x < y ? -1 : x > y;
}

static void
die(PGconn *c, const char *what)
{
	fprintf(stderr, "%s: %s\n", what, PQerrorMessage(c));
	exit(1);
}

/* One answer: its echo and its size are checked as a compute checks them. */
static void
take(PGconn *c, uint8_t tag)
{
	char	   *buf;
	int			n;
	neon_ps_response res;

	while ((n = PQgetCopyData(c, &buf, 1)) == 0)
	{
		struct pollfd p = {.fd = PQsocket(c), .events = POLLIN};

		poll(&p, 1, -1);
		if (!PQconsumeInput(c))
			die(c, "read");
	}
	if (n < 0)
		die(c, "stream ended");
	if (!neon_ps_decode_response(buf, n, &res) || res.tag != tag)
	{
		fprintf(stderr, "bad answer, tag %u: %.*s\n", (unsigned char) buf[0], n > 48 ? n - 48 : 0, buf + 48);
		exit(1);
	}
	PQfreemem(buf);
}

/* As a compute does before it requests pages ahead. */
static void
fill(PGconn *c)
{
	neon_ps_request q = {.tag = NEON_PS_FILLER,.request_lsn = NEON_LSN_MAX,.not_modified_since = 1,.blk = 8 * NEON_BLCKSZ};
	uint8_t		bytes[NEON_PS_REQUEST_BYTES];

	neon_ps_encode_request(&q, bytes);
	if (PQputCopyData(c, (char *) bytes, sizeof(bytes)) != 1 || PQflush(c) != 0)
		die(c, "write");
	take(c, NEON_PS_FILLER_RESPONSE);
}

int
main(int argc, char **argv)
{
	PGconn	   *c;
	PGresult   *r;
	char		sql[300];
	neon_ps_request q;
	uint8_t		bytes[NEON_PS_REQUEST_BYTES];
	float	   *sample = malloc(sizeof(float) * MAX_SAMPLES);
	size_t		n = 0,
				total = 0;
	int			depth,
				blocks;
	double		seconds,
				start,
				end;

	if (argc != 10)
		return 2;
	blocks = atoi(argv[7]);
	seconds = atof(argv[8]);
	depth = atoi(argv[9]);
	c = PQconnectdb(argv[1]);
	if (PQstatus(c) != CONNECTION_OK)
		die(c, "connect");
	snprintf(sql, sizeof(sql), "CALL neon_pageserver.pagestream('%s', '%s')", argv[2], argv[3]);
	r = PQexec(c, sql);
	if (PQresultStatus(r) != PGRES_COPY_BOTH)
		die(c, sql);
	PQclear(r);
	memset(&q, 0, sizeof(q));
	if (depth > 1)
		fill(c);
	q.tag = NEON_PS_GETPAGE;
	q.request_lsn = NEON_LSN_MAX;
	q.not_modified_since = 1;
	q.spc = strtoul(argv[4], NULL, 10);
	q.db = strtoul(argv[5], NULL, 10);
	q.rel = strtoul(argv[6], NULL, 10);
	srandom(1);
	start = now_us();
	end = start + seconds * 1e6;
	for (double t = start; t < end;)
	{
		double		t2;

		for (int i = 0; i < depth; i++)
		{
			q.request_id++;
			q.blk = random() % blocks;
			neon_ps_encode_request(&q, bytes);
			if (PQputCopyData(c, (char *) bytes, sizeof(bytes)) != 1)
				die(c, "write");
		}
		if (PQflush(c) != 0)
			die(c, "flush");
		for (int i = 0; i < depth; i++)
			take(c, NEON_PS_GETPAGE_RESPONSE);
		t2 = now_us();
		if (n < MAX_SAMPLES)
			sample[n++] = (t2 - t) / depth;
		total += depth;
		t = t2;
	}
	end = now_us();
	qsort(sample, n, sizeof(float), compare);
	printf("%.2f %.0f\n", sample[n / 2], total / ((end - start) / 1e6));
	PQfinish(c);
	return 0;
}
