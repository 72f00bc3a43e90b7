/*
 * push_donor.c - WAL that is no longer (or never was) on this machine, for a safekeeper that lags behind.
 *
 * Below X a compute has no WAL, and old segments are recycled; a safekeeper that needs them gets them through us from
 * another one, the donor, over the replication protocol.  The donor serves up to its flush position, but only to the term
 * we won and only while that term holds (neon.term), so what it sends is the elected log.
 *
 * Pull and push are decoupled: the core asks for a range, is refused while it is not here yet, and is poked when it is.
 * The buffer is a sliding window of consecutive bytes; when it is full, the donor's socket is not read.  Each laggard has
 * a connection of its own, so a slow one holds up nobody.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "push_internal.h"

#define WAL_DATA_HEADER_BYTES	25	/* 'w', start, end of WAL, time */
#define KEEPALIVE_BYTES			18	/* 'k', end of WAL, time, reply requested */
#define STATUS_BYTES			34	/* 'r', written, flushed, applied, time, reply requested */

void
push_donor_stop(push_peer *peer)
{
	push_donor *d = &peer->donor;

	push_link_close(&d->link);
	free(d->buf);
	d->buf = NULL;
	d->active = false;
	d->len = 0;
}

bool
push_donor_wants_input(const push_donor *d)
{
	return d->len + PUSH_DONOR_MESSAGE_BYTES <= PUSH_DONOR_BUFFER_BYTES;
}

/* Begin again at want_begin, with a donor chosen anew. */
static void
restart(push_donor *d)
{
	push_link_close(&d->link);
	d->begin_lsn = d->want_begin;
	d->len = 0;
	d->from = -1;
}

/* Gives out [begin, end) when it is here; else notes that it is wanted. */
bool
push_donor_take(neon_wal_push *push, int i, neon_lsn begin, neon_lsn end, uint8_t *to)
{
	push_donor *d = &push->peers[i].donor;
	size_t		skip,
				n = end - begin;

	if (!d->active)
	{
		d->buf = malloc(PUSH_DONOR_BUFFER_BYTES);
		if (d->buf == NULL)
			return false;
		d->active = true;
		push_link_init(&d->link);
		d->want_begin = begin;
		restart(d);
	}
	d->want_begin = begin;
	d->want_end = end;
	if (begin < d->begin_lsn || begin > d->begin_lsn + d->len)
		restart(d);
	if (end > d->begin_lsn + d->len)
		return false;
	skip = begin - d->begin_lsn;
	memcpy(to, d->buf + skip, n);
	d->len -= skip + n;
	memmove(d->buf, d->buf + skip + n, d->len);
	d->begin_lsn = end;
	d->want_begin = end;
	return true;
}

static uint64_t
read_u64(const uint8_t *p)
{
	neon_reader r;

	neon_reader_init(&r, p, 8);
	return neon_get_u64(&r);
}

/* We keep nothing; the answer only shows that we are alive. */
static void
send_status(push_donor *d)
{
	uint8_t		out[STATUS_BYTES];
	neon_writer w;
	neon_lsn	have = d->begin_lsn + d->len;

	neon_writer_init(&w, out, sizeof(out));
	neon_put_u8(&w, 'r');
	neon_put_u64(&w, have);
	neon_put_u64(&w, have);
	neon_put_u64(&w, have);
	neon_put_u64(&w, 0);
	neon_put_u8(&w, 0);
	(void) push_link_send(&d->link, out, w.len);
}

/* NULL, or what is wrong with the message. */
static const char *
take_message(push_donor *d, const uint8_t *p, size_t len)
{
	if (len >= 1 && p[0] == 'k' && len == KEEPALIVE_BYTES)
	{
		if (p[KEEPALIVE_BYTES - 1])
			send_status(d);
		return NULL;
	}
	if (len < WAL_DATA_HEADER_BYTES || p[0] != 'w')
		return "the donor has sent a message that is not of the replication protocol";
	if (read_u64(p + 1) != d->begin_lsn + d->len)
		return "the donor has sent WAL of another position than was asked for";
	if (len - WAL_DATA_HEADER_BYTES > PUSH_DONOR_MESSAGE_BYTES)
		return "the donor has sent a message that is too long";
	memcpy(d->buf + d->len, p + WAL_DATA_HEADER_BYTES, len - WAL_DATA_HEADER_BYTES);
	d->len += len - WAL_DATA_HEADER_BYTES;
	d->link.backoff_ms = PUSH_BACKOFF_MIN_MS;
	return NULL;
}

static void
receive(neon_wal_push *push, push_donor *d)
{
	while (d->link.state == LINK_OPEN && push_donor_wants_input(d))
	{
		char	   *bytes;
		int			len = push_link_next(push, &d->link, &bytes);
		const char *wrong;

		if (len <= 0)
			return;
		wrong = take_message(d, (const uint8_t *) bytes, len);
		PQfreemem(bytes);
		if (wrong)
			push_link_down(push, &d->link, wrong);
	}
}

static void
advance(neon_wal_push *push, push_donor *d)
{
	char		command[64],
				options[192],
				tenant[NEON_ID_TEXT],
				timeline[NEON_ID_TEXT];
	push_link_target target = {.options = options, .replication = true, .command = command};

	if (d->link.state == LINK_DOWN)
	{
		/* What is in the buffer stays; go on after it. */
		d->from = neon_proposer_donor(push->core, d->want_end);
		if (d->from < 0)
			return;
	}
	neon_id_print(&push->core->config.tenant, tenant);
	neon_id_print(&push->core->config.timeline, timeline);
	snprintf(options, sizeof(options), "-c neon.tenant_id=%s -c neon.timeline_id=%s -c neon.term=%" PRIu64,
			 tenant, timeline, push->core->term);
	snprintf(command, sizeof(command), "START_REPLICATION PHYSICAL " NEON_LSN_FMT, NEON_LSN_ARGS(d->begin_lsn + d->len));
	target.conninfo = push->peers[d->from].conninfo;
	(void) push_link_advance(push, &d->link, &target);
}

void
push_donor_drive(neon_wal_push *push, int i)
{
	push_donor *d = &push->peers[i].donor;

	if (!d->active)
		return;
	if (d->link.state != LINK_OPEN)
		advance(push, d);
	if (d->link.state == LINK_OPEN)
	{
		if (!push_donor_wants_input(d))
			return;
		if (d->link.out_pending)
			(void) push_link_flush(&d->link);
		if (push_link_consume(push, &d->link))
			receive(push, d);
	}
	if (d->want_end > d->want_begin && d->begin_lsn + d->len >= d->want_end)
		neon_proposer_poke(push->core, i);
}
