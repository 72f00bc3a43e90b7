/*
 * wal_push.c - the driver: one turn after the other, the proposer's state machine is fed and its outputs are carried out.
 *
 * The core's outputs are called from inside its inputs and must not lead to another input.  So a failure met in an output
 * is only noted (PQstatus is bad, or `dropped`), and settled at the end of the turn.
 *
 * Flow control: an append is taken only while the socket of its safekeeper has swallowed everything before, so libpq never
 * holds more than one append and a few control messages.  A safekeeper that is slow, away or behind is refused (`starved`)
 * without any effect on the others.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "push_internal.h"

#define MESSAGE_BYTES	(NEON_CONSENSUS_APPEND_HEADER_BYTES + NEON_CONSENSUS_MAX_APPEND_BYTES)

static void __attribute__((format(printf, 2, 3)))
say(neon_wal_push *push, const char *fmt,...)
{
	char		text[2 * NEON_PUSH_TEXT_BYTES];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	push->env->log(push->env_arg, text);
}

/* ---- outputs of the core ---- */

static void
out_send(void *arg, int i, const uint8_t *bytes, size_t len)
{
	neon_wal_push *push = arg;
	push_peer  *peer = &push->peers[i];

	if (peer->link.state == LINK_OPEN && !peer->dropped)
		(void) push_link_send(&peer->link, bytes, len);
}

/* [begin, end) of local WAL into the message buffer, unless it is what is there already. */
static bool
load_local(neon_wal_push *push, neon_lsn begin, neon_lsn end)
{
	if (push->wal_begin == begin && push->wal_end == end)
		return true;
	push->wal_begin = push->wal_end = 0;
	if (!push->env->wal_read(push->env_arg, begin, push->message + NEON_CONSENSUS_APPEND_HEADER_BYTES, end - begin))
		return false;
	push->wal_begin = begin;
	push->wal_end = end;
	return true;
}

static bool
load_wal(neon_wal_push *push, int i, neon_lsn begin, neon_lsn end, bool local)
{
	push_peer  *peer = &push->peers[i];

	if (local && push->env->wal_read && load_local(push, begin, end))
	{
		if (peer->donor.active)
			push_donor_stop(peer);
		return true;
	}
	if (!push_donor_take(push, i, begin, end, push->message + NEON_CONSENSUS_APPEND_HEADER_BYTES))
		return false;
	push->wal_begin = begin;
	push->wal_end = end;
	return true;
}

static bool
out_send_append(void *arg, int i, const neon_msg_append *header, bool local)
{
	neon_wal_push *push = arg;
	push_peer  *peer = &push->peers[i];
	size_t		n = header->end_lsn - header->begin_lsn;
	neon_writer w;

	if (peer->link.state != LINK_OPEN || peer->dropped)
		return true;			/* this connection is being closed */
	if (n > 0)
	{
		if (peer->link.out_pending)
		{
			peer->starved = true;
			return false;
		}
		if (n > NEON_CONSENSUS_MAX_APPEND_BYTES || !load_wal(push, i, header->begin_lsn, header->end_lsn, local))
			return false;
	}
	neon_writer_init(&w, push->message, NEON_CONSENSUS_APPEND_HEADER_BYTES);
	neon_encode_append(&w, header);
	(void) push_link_send(&peer->link, push->message, w.len + n);
	return true;
}

static void
out_disconnect(void *arg, int i, const char *why)
{
	neon_wal_push *push = arg;
	push_peer  *peer = &push->peers[i];

	peer->dropped = true;
	snprintf(peer->link.error, sizeof(peer->link.error), "%s", why);
}

static void
out_elected(void *arg, neon_term term, neon_lsn term_start, int donor, neon_lsn last_record_start)
{
	neon_wal_push *push = arg;

	say(push, "elected in term %" PRIu64 ", which starts at " NEON_LSN_FMT ", the end of the log of safekeeper %" PRIu64,
		term, NEON_LSN_ARGS(term_start), donor >= 0 ? push->peers[donor].id : 0);
	if (push->env->elected)
		push->env->elected(push->env_arg, term, term_start);
}

static void
out_committed(void *arg, neon_lsn commit_lsn)
{
	neon_wal_push *push = arg;

	if (push->env->committed)
		push->env->committed(push->env_arg, commit_lsn);
}

static void
out_finished(void *arg, neon_lsn x, neon_lsn last_record_start)
{
	neon_wal_push *push = arg;

	push->state = NEON_PUSH_FINISHED;
	push->x = x;
	push->last_record_start = last_record_start;
}

static void
out_fatal(void *arg, neon_proposer_fatal reason, const char *detail)
{
	neon_wal_push *push = arg;

	push->state = NEON_PUSH_FATAL;
	push->fatal = reason;
	snprintf(push->detail, sizeof(push->detail), "%s", detail ? detail : "");
}

static const neon_proposer_output outputs = {
	.send = out_send,
	.send_append = out_send_append,
	.disconnect = out_disconnect,
	.elected = out_elected,
	.committed = out_committed,
	.finished = out_finished,
	.fatal = out_fatal,
};

/* ---- start and end ---- */

/* "id=connstring" into peer; false when it is not that. */
static bool
parse_entry(push_peer *peer, const char *text, size_t len)
{
	char	   *end;

	while (len > 0 && (*text == ' ' || *text == '\n' || *text == '\t'))
		text++, len--;
	if (len == 0 || *text < '0' || *text > '9')
		return false;
	peer->id = strtoull(text, &end, 10);
	if (peer->id == 0 || *end != '=' || (size_t) (end + 1 - text) >= len)
		return false;
	peer->conninfo = strndup(end + 1, len - (end + 1 - text));
	return peer->conninfo != NULL;
}

static bool
parse_safekeepers(neon_wal_push *push, const char *text)
{
	while (*text)
	{
		size_t		len = strcspn(text, ";");
		size_t		blank = strspn(text, " \n\t");

		if (blank < len)
		{
			if (push->n == NEON_CONSENSUS_MAX_MEMBERS || !parse_entry(&push->peers[push->n], text, len))
				return false;
			for (int i = 0; i < push->n; i++)
				if (push->peers[i].id == push->peers[push->n].id)
				{
					push->n++;	/* so that it is freed */
					return false;
				}
			push->n++;
		}
		text += len;
		if (*text == ';')
			text++;
	}
	return push->n > 0;
}

static neon_wal_push *
refuse(neon_wal_push *push, char *error, const char *why)
{
	snprintf(error, NEON_PUSH_TEXT_BYTES, "%s", why);
	neon_push_free(push);
	return NULL;
}

neon_wal_push *
neon_push_create(const neon_push_config *config, const neon_push_env *env, void *env_arg, char *error)
{
	neon_wal_push *push = calloc(1, sizeof(*push));
	neon_proposer_config core = config->core;

	if (push == NULL)
		return refuse(push, error, "out of memory");
	push->env = env;
	push->env_arg = env_arg;
	push->core = calloc(1, sizeof(*push->core));
	push->message = malloc(MESSAGE_BYTES);
	for (int i = 0; i < NEON_CONSENSUS_MAX_MEMBERS; i++)
		push_link_init(&push->peers[i].link);
	if (push->core == NULL || push->message == NULL)
		return refuse(push, error, "out of memory");
	if (!parse_safekeepers(push, config->safekeepers))
		return refuse(push, error, "The list of safekeepers has entries id=connstring separated by semicolons; each id is a different number above 0.");
	core.n_acceptors = push->n;
	for (int i = 0; i < push->n; i++)
		core.acceptor_ids[i] = push->peers[i].id;
	if (!neon_proposer_init(push->core, &core, &outputs, push))
		return refuse(push, error, "The proposer's configuration is not valid.");
	return push;
}

void
neon_push_free(neon_wal_push *push)
{
	if (push == NULL)
		return;
	for (int i = 0; i < NEON_CONSENSUS_MAX_MEMBERS; i++)
	{
		push_donor_stop(&push->peers[i]);
		push_link_close(&push->peers[i].link);
		free(push->peers[i].conninfo);
	}
	free(push->core);
	free(push->message);
	free(push);
}

/* ---- one safekeeper's part of a turn ---- */

static void
complain(neon_wal_push *push, push_peer *peer, int64_t now)
{
	if (strcmp(peer->complaint, peer->link.error) == 0 && now - peer->complained_ms < PUSH_REPEAT_LOG_MS)
		return;
	snprintf(peer->complaint, sizeof(peer->complaint), "%s", peer->link.error);
	peer->complained_ms = now;
	say(push, "safekeeper %" PRIu64 " is away: %s", peer->id, peer->link.error);
}

/* The connection has ended by itself. */
static void
lost(neon_wal_push *push, int i, int64_t now)
{
	push_donor_stop(&push->peers[i]);
	push->peers[i].starved = false;
	complain(push, &push->peers[i], now);
	neon_proposer_disconnected(push->core, i);
}

static void
connect_peer(neon_wal_push *push, int i, int64_t now)
{
	push_peer  *peer = &push->peers[i];
	char		command[160],
				tenant[NEON_ID_TEXT],
				timeline[NEON_ID_TEXT];
	push_link_target target = {.conninfo = peer->conninfo, .command = command};
	bool		was_down = peer->link.state == LINK_DOWN;

	neon_id_print(&push->core->config.tenant, tenant);
	neon_id_print(&push->core->config.timeline, timeline);
	snprintf(command, sizeof(command), "CALL neon_safekeeper.wal_push('%s', '%s')", tenant, timeline);
	if (push_link_advance(push, &peer->link, &target))
	{
		peer->dropped = false;
		peer->starved = false;
		peer->heard_ms = now;
		neon_proposer_connected(push->core, i);
	}
	else if (!was_down && peer->link.state == LINK_DOWN)
		complain(push, peer, now);
}

static void
receive(neon_wal_push *push, int i, int64_t now)
{
	push_peer  *peer = &push->peers[i];

	if (!push_link_consume(push, &peer->link))
	{
		lost(push, i, now);
		return;
	}
	for (int n = 0; n < PUSH_MESSAGES_PER_TURN && push->state == NEON_PUSH_RUNNING; n++)
	{
		char	   *bytes;
		int			len = push_link_next(push, &peer->link, &bytes);

		if (len < 0)
			lost(push, i, now);
		if (len <= 0)
			return;
		if (peer->complaint[0])
		{
			say(push, "safekeeper %" PRIu64 " is back", peer->id);
			peer->complaint[0] = '\0';
		}
		peer->heard_ms = now;
		peer->link.error[0] = '\0';
		peer->link.backoff_ms = PUSH_BACKOFF_MIN_MS;
		neon_proposer_message(push->core, i, (const uint8_t *) bytes, len);
		PQfreemem(bytes);
		if (peer->dropped)
			return;
	}
	peer->link.force_read = true;	/* more may be buffered */
}

static bool
answer_is_due(neon_wal_push *push, int i)
{
	neon_peer_state state = push->core->peers[i].state;

	return state == NEON_PEER_GREETING || state == NEON_PEER_VOTING || state == NEON_PEER_STREAMING;
}

static void
serve_peer(neon_wal_push *push, int i, int64_t now)
{
	push_peer  *peer = &push->peers[i];

	if (peer->link.state != LINK_OPEN)
	{
		connect_peer(push, i, now);
		if (peer->link.state != LINK_OPEN)
			return;
	}
	receive(push, i, now);
	if (peer->link.state != LINK_OPEN || peer->dropped)
		return;
	if (peer->link.out_pending && !push_link_flush(&peer->link))
	{
		push_link_down(push, &peer->link, PQerrorMessage(peer->link.conn));
		lost(push, i, now);
		return;
	}
	if (!answer_is_due(push, i))
		peer->heard_ms = now;
	if (now - peer->heard_ms > PUSH_SILENCE_TIMEOUT_MS)
	{
		push_link_down(push, &peer->link, "no answer");
		lost(push, i, now);
		return;
	}
	push_donor_drive(push, i);
	if (peer->starved && !peer->link.out_pending)
	{
		peer->starved = false;
		neon_proposer_poke(push->core, i);
	}
}

/* What the core wants closed, and what broke while we were inside it. */
static void
settle(neon_wal_push *push, int64_t now)
{
	for (int i = 0; i < push->n; i++)
	{
		push_peer  *peer = &push->peers[i];
		char		why[NEON_PUSH_TEXT_BYTES];

		if (peer->link.state != LINK_OPEN)
			continue;
		if (peer->dropped)
		{
			memcpy(why, peer->link.error, sizeof(why));
			push_link_down(push, &peer->link, why);
			push_donor_stop(peer);
			peer->dropped = false;
			complain(push, peer, now);
		}
		else if (PQstatus(peer->link.conn) == CONNECTION_BAD)
		{
			push_link_down(push, &peer->link, PQerrorMessage(peer->link.conn));
			lost(push, i, now);
		}
	}
}

/* ---- the turn ---- */

static void
run_timers(neon_wal_push *push, int64_t now)
{
	if (now >= push->heartbeat_at_ms)
	{
		push->heartbeat_at_ms = now + PUSH_HEARTBEAT_MS;
		neon_proposer_heartbeat(push->core);
	}
	if (push->core->phase != NEON_PHASE_CAMPAIGN)
		push->campaign_at_ms = 0;
	else if (push->campaign_at_ms == 0 || now >= push->campaign_at_ms)
	{
		bool		again = push->campaign_at_ms != 0;

		push->campaign_at_ms = now + PUSH_CAMPAIGN_MIN_MS + push->env->random(push->env_arg) % PUSH_CAMPAIGN_SPREAD_MS;
		if (again)
			neon_proposer_retry_campaign(push->core);
	}

	/* A safekeeper that hangs must not keep a compute from starting: the quorum has X. */
	if (push->core->config.mode != NEON_PROPOSER_SYNC || push->state != NEON_PUSH_RUNNING ||
		!neon_proposer_sync_committed(push->core))
		return;
	if (push->sync_since_ms == 0)
		push->sync_since_ms = now;
	else if (now - push->sync_since_ms >= PUSH_SYNC_GRACE_MS)
		out_finished(push, push->core->term_start, push->core->last_record_start);
}

static void
tell_available(neon_wal_push *push)
{
	neon_lsn	upto;

	if (push->env->wal_available == NULL)
		return;
	upto = push->env->wal_available(push->env_arg);
	if (upto > push->available_lsn)
	{
		push->available_lsn = upto;
		neon_proposer_wal_available(push->core, upto);
	}
}

static int
nearer(int timeout_ms, int64_t when_ms, int64_t now)
{
	int64_t		left = when_ms > now ? when_ms - now : 0;

	return left < timeout_ms ? (int) left : timeout_ms;
}

static int
collect_sockets(neon_wal_push *push, int timeout_ms, int64_t now)
{
	push->n_sockets = 0;
	timeout_ms = nearer(timeout_ms, push->heartbeat_at_ms, now);
	if (push->campaign_at_ms)
		timeout_ms = nearer(timeout_ms, push->campaign_at_ms, now);
	for (int i = 0; i < push->n; i++)
	{
		push_peer  *peer = &push->peers[i];
		push_donor *donor = &peer->donor;

		push_link_want(push, &peer->link, true);
		if (peer->link.state == LINK_DOWN)
			timeout_ms = nearer(timeout_ms, peer->link.retry_at_ms, now);
		if (peer->link.force_read)
			timeout_ms = 0;
		if (!donor->active)
			continue;
		push_link_want(push, &donor->link, push_donor_wants_input(donor));
		if (donor->link.state == LINK_DOWN)
			timeout_ms = nearer(timeout_ms, donor->link.retry_at_ms > now ? donor->link.retry_at_ms : now + PUSH_BACKOFF_MIN_MS, now);
		if (donor->link.force_read && push_donor_wants_input(donor))
			timeout_ms = 0;
	}
	return timeout_ms;
}

neon_push_state
neon_push_turn(neon_wal_push *push, int max_wait_ms)
{
	int64_t		now = push->env->now_ms(push->env_arg);

	tell_available(push);
	for (int i = 0; i < push->n && push->state == NEON_PUSH_RUNNING; i++)
		serve_peer(push, i, now);
	if (push->state == NEON_PUSH_RUNNING)
		run_timers(push, now);
	if (push->state == NEON_PUSH_RUNNING)
		settle(push, now);
	if (push->state == NEON_PUSH_RUNNING)
	{
		max_wait_ms = collect_sockets(push, max_wait_ms, now);
		push->env->wait(push->env_arg, push->sockets, push->n_sockets, max_wait_ms);
	}
	return push->state;
}

neon_proposer_fatal
neon_push_fatal_reason(const neon_wal_push *push)
{
	return push->fatal;
}

const char *
neon_push_fatal_detail(const neon_wal_push *push)
{
	return push->detail;
}

void
neon_push_result(const neon_wal_push *push, neon_lsn *x, neon_lsn *last_record_start)
{
	*x = push->x;
	*last_record_start = push->last_record_start;
}

void
neon_push_describe(const neon_wal_push *push, char *text, size_t cap)
{
	size_t		used = 0;

	if (cap == 0)
		return;
	text[0] = '\0';
	for (int i = 0; i < push->n && used < cap; i++)
	{
		const push_peer *peer = &push->peers[i];
		const char *how = peer->link.state == LINK_OPEN ? "connected" : peer->link.error[0] ? peer->link.error : "connecting";

		used += snprintf(text + used, cap - used, "%ssafekeeper %" PRIu64 ": %s", i ? "; " : "", peer->id, how);
	}
}
